"""Each metric on sets whose answer is known: collapsed, copied, jittered, shifted by so much."""

import dataclasses

import numpy as np
import pytest

from evaluation import numbers
from evaluation.score import recommended, useful
from impressionism.records import AtStrength, Estimate

RNG = np.random.default_rng(0)
PROMPTS = np.repeat([f"p{i}" for i in range(20)], 2)


def normal(count: int, shift: float = 0.0, spread: float = 1.0, d: int = 6, seed: int = 0) -> np.ndarray:
    return shift + spread * np.random.default_rng(seed).normal(size=(count, d))


def distance(pictures: np.ndarray, real: np.ndarray) -> Estimate:
    pictures, _, real = numbers.standard(pictures, pictures, real)
    return numbers.kid(pictures, PROMPTS, real)


def test_the_distance_of_two_draws_of_one_distribution_is_zero_on_average_and_its_interval_covers_it():
    found = [distance(normal(40, seed=2 * i), normal(60, seed=2 * i + 1)) for i in range(60)]
    assert abs(np.mean([one.value for one in found])) < 0.02
    assert np.mean([one.low <= 0 <= one.high for one in found]) > 0.9


def test_the_distance_grows_with_the_shift_and_sees_a_collapse_with_the_right_mean():
    real = normal(60, seed=7)
    distances = [distance(normal(40, shift, seed=5), real) for shift in (0, 0.7, 1.4)]
    assert distances[0].value < distances[1].value < distances[2].value
    assert distances[1].low > 0
    assert distance(normal(40, spread=0.02, seed=5), real).low > 0


def test_coming_closer_is_a_negative_difference_and_swapping_the_two_turns_its_sign():
    base, adapted, real = numbers.standard(normal(40, 1.5, seed=1), normal(40, 0.5, seed=1), normal(60, seed=3))
    closer = numbers.kid_difference(adapted, base, PROMPTS, real)
    assert closer.high < 0
    farther = numbers.kid_difference(base, adapted, PROMPTS, real)
    assert (farther.value, farther.low, farther.high) == pytest.approx((-closer.value, -closer.high, -closer.low))


def test_pictures_of_one_prompt_count_as_one():
    few = normal(20, seed=1)
    once = numbers.kid(few, np.array([f"p{i}" for i in range(20)]), normal(60, seed=2))
    twice = numbers.kid(np.repeat(few, 2, axis=0), PROMPTS, normal(60, seed=2))
    assert dataclasses.astuple(once) == pytest.approx(dataclasses.astuple(twice))


def test_the_jackknife_of_a_mean_is_the_t_interval():
    from scipy import stats

    values = RNG.normal(size=25)
    found = numbers.jackknife(lambda weights: float(weights @ values / weights.sum()), [25])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def probed(base: np.ndarray, adapted: np.ndarray, real: np.ndarray) -> list[float]:
    """How real the base, the adapter and the real paintings are taken to be, in the mean."""
    is_base = np.arange(80) < 40
    values, own = numbers.real_likeness(np.vstack([base, adapted]), np.r_[PROMPTS, PROMPTS], is_base, real)
    return [float(np.mean(part)) for part in (values[is_base], values[~is_base], own)]


def test_the_probe_places_a_set_between_base_and_real():
    base, halfway, real = probed(normal(40, 0, seed=1), normal(40, 1, seed=3), normal(60, 2, seed=2))
    assert base < 0.2 and real > 0.8
    assert halfway == pytest.approx((base + real) / 2, abs=0.1)


def test_the_probe_does_not_know_a_difference_where_there_is_none():
    found = probed(normal(40, seed=1), normal(40, seed=2), normal(60, seed=3))
    assert found == pytest.approx([0.5] * 3, abs=0.12)


def test_equal_pictures_count_once_and_distant_ones_each():
    one = np.ones((4, 8))
    assert numbers.vendi(one, 1.0) == pytest.approx(1)
    assert numbers.vendi(100 * np.eye(4, 8), 1.0) == pytest.approx(4)
    assert 1 < numbers.vendi(normal(4), numbers.spread(normal(40, seed=4))) < 4


def test_a_copy_is_found_even_when_it_is_brighter_and_paler():
    training = normal(30, d=50)
    copies = 0.8 * training[[4, 9]] + 3
    places, likeness = numbers.nearest(copies, training)
    assert places.tolist() == [4, 9]
    assert likeness == pytest.approx([1, 1])
    assert numbers.nearest(normal(5, d=50, seed=8), training)[1].max() < 0.7


def test_correlations_are_pearsons_of_each_row():
    one, other = normal(5, d=40), normal(5, d=40, seed=1)
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(one, other, strict=True)]
    assert numbers.correlations(one, other) == pytest.approx(expected)


def exact(value: float) -> Estimate:
    return Estimate(value=value, low=value, high=value, n=1)


def curve(*points: tuple[float, float, list[str]]) -> list[AtStrength]:
    """Strength, index, problems."""
    return [AtStrength(strength=s, index=exact(index), content=exact(1), problems=p) for s, index, p in points]


def test_the_recommended_strength_is_nearest_to_real_paintings_among_those_without_a_problem():
    points = curve((0, 0.1, []), (0.5, 0.35, []), (1, 0.5, []), (1.5, 0.8, ["it paints another scene"]))
    assert recommended(points, 0.9) == 1
    assert useful(points, 1) == (0.5, 1)
    assert recommended(curve((0, 0.1, []), (0.5, 0.5, []), (1, 0.9, [])), 0.55) == 0.5, "overdone"


def test_a_range_is_useful_as_far_as_nothing_contradicts_it():
    points = curve((0, 0.1, []), (0.25, 0.5, []), (0.5, 0.6, ["copies"]), (1, 0.7, []), (1.25, 0.3, []))
    assert useful(points, 1) == (1, 1), "beyond a problem, and beyond half of the gain, nothing is useful"


def test_where_every_strength_has_a_problem_one_is_named_all_the_same():
    points = curve((0, 0.1, []), (0.5, 0.3, ["x"]), (1, 0.5, ["x"]))
    assert recommended(points, 0.9) == 1
    assert useful(points, 1) == (1, 1)
