"""Known answers of every interval and test, and how often the intervals hold what they promise."""

import numpy as np
import pytest
from scipy import stats

from evaluation import numbers
from impressionism.errors import UserError


def covered(draw, truth: float, times: int = 200) -> float:
    """How often the interval of what `draw(generator)` gives has the truth in it."""
    generator = np.random.default_rng(0)
    found = [numbers.bootstrap(draw(generator), draws=600, seed=time) for time in range(times)]
    return float(np.mean([one.low <= truth <= one.high for one in found]))


@pytest.mark.parametrize("prompts", [8, 20, 60])
def test_the_bootstrap_covers_what_it_promises(prompts):
    share = covered(lambda generator: generator.normal(2, 1, prompts), 2)
    assert 0.9 <= share <= 0.99


def test_prompts_are_drawn_not_their_pictures():
    """Ten votes on each of 20 prompts that differ much: the interval holds drawn by prompt, not drawn by vote."""

    def votes(generator: np.random.Generator) -> dict[str, np.ndarray]:
        rates = stats.logistic.cdf(generator.normal(0, 1.5, 20))
        return {str(prompt): generator.random(10) < rate for prompt, rate in enumerate(rates)}

    assert covered(votes, 0.5) >= 0.91
    assert covered(lambda generator: np.concatenate(list(votes(generator).values())).astype(float), 0.5) <= 0.8


def test_several_pictures_of_a_prompt_weigh_as_one():
    estimate = numbers.bootstrap({"boat": [0.0, 0.0, 0.0, 0.0], "lilies": [1.0]})
    assert estimate.value == 0.5
    assert estimate.n == 2


def test_the_interval_of_a_mean_is_about_students():
    half = np.random.default_rng(3).normal(size=8)
    values = np.r_[half, -half]  # without skew, for which BCa corrects and Student's interval does not
    mine, theirs = numbers.bootstrap(values), stats.ttest_1samp(values, 0).confidence_interval()
    assert mine.low == pytest.approx(theirs.low, abs=0.05)
    assert mine.high == pytest.approx(theirs.high, abs=0.05)


def test_values_that_are_all_the_same_have_an_interval_without_width():
    estimate = numbers.bootstrap([0.25] * 7)
    assert (estimate.value, estimate.low, estimate.high) == (0.25, 0.25, 0.25)


def test_the_same_seed_gives_the_same_interval():
    values = np.arange(20.0) ** 2
    assert numbers.bootstrap(values, seed=5) == numbers.bootstrap(values, seed=5)
    assert numbers.bootstrap(values, seed=5) != numbers.bootstrap(values, seed=6)


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 0.0, 1.0], [0.0] * 23 + [1.0], [0.5] * 9 + [0.5 + 1e-9]])
def test_few_or_lopsided_values_have_a_finite_interval_around_their_mean(values):
    found = numbers.bootstrap(values, draws=500)
    assert found.low <= found.value <= found.high and found.high > found.low


@pytest.mark.parametrize("values", [[1.0], {"boat": [1.0, 2.0]}, []])
def test_one_prompt_has_no_interval(values):
    with pytest.raises(UserError, match="at least two prompts"):
        numbers.bootstrap(values)


def test_a_missing_number_is_not_averaged_away():
    with pytest.raises(UserError, match="missing"):
        numbers.bootstrap([1.0, float("nan"), 2.0])


# ---- The gap


def gap(shift: float, seed: int = 0, real: float = 2.0, draws: int = 2000):
    generator = np.random.default_rng(seed)
    base = generator.normal(0, 1, 40)
    adapter, paintings = base + shift + generator.normal(0, 0.2, 40), generator.normal(real, 0.5, 60)
    return numbers.gap_closed(base, adapter, paintings, draws=draws)


@pytest.mark.parametrize(("shift", "closed"), [(0.0, 0), (1.0, 0.5), (2.0, 1), (3.0, 1.5), (-1.0, -0.5)])
def test_the_gap_closed_is_the_share_of_the_way_to_real_paintings(shift, closed):
    estimate = gap(shift)
    assert estimate
    assert estimate.low <= closed <= estimate.high
    assert estimate.value == pytest.approx(closed, abs=0.2)
    assert estimate.n == 40


def test_the_gaps_interval_covers_what_it_promises():
    found = [gap(1.0, seed, draws=400) for seed in range(150)]
    assert 0.91 <= np.mean([one is not None and one.low <= 0.5 <= one.high for one in found]) <= 0.99


def test_where_there_is_no_gap_none_is_closed():
    assert gap(1.0, real=0.0) is None


def test_base_and_adapter_are_paired_by_prompt_whatever_their_order():
    base = {"boat": [0.0], "lilies": [5.0], "poplars": [9.0]}
    adapter = {"poplars": [10.0], "boat": [1.0], "lilies": [6.0]}
    estimate = numbers.gap_closed(base, adapter, [100.0, 101.0, 102.0])
    assert estimate
    assert estimate.value == pytest.approx(1 / (101 - 14 / 3))
    with pytest.raises(UserError, match="lilies"):
        numbers.gap_closed({"boat": [0.0]}, {"lilies": [1.0]}, [1.0, 2.0])


def test_prompts_are_compared_with_real_paintings_of_their_genre():
    base = {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0}
    adapter = {"a": 1.0, "b": 1.0, "c": 5.0, "d": 5.0}
    rng = np.random.default_rng(0)
    values = np.r_[rng.normal(2, 0.1, 9), rng.normal(10, 0.1, 9), 100.0]
    real = numbers.Real(values, [f"painter {i % 6}" for i in range(19)], ["portrait"] * 9 + ["urban"] * 9 + [""])
    genres = {"a": "portrait", "b": "portrait", "c": "urban", "d": "urban"}
    matched = numbers.gap_closed(base, adapter, real, genres=genres)
    assert matched and matched.value == pytest.approx(3 / 6, abs=0.02)
    unmatched = numbers.gap_closed(base, adapter, real)
    assert unmatched and unmatched.value == pytest.approx(3 / values.mean(), abs=0.001)


def test_the_mean_of_real_paintings_draws_painters():
    """Ten paintings by each of 12 painters who differ much: the interval holds drawn by painter, not by painting."""

    def held(painters: bool) -> float:
        found = []
        for time in range(150):
            generator = np.random.default_rng(time)
            values = (generator.normal(0, 1, (12, 1)) + generator.normal(0, 0.5, (12, 10))).ravel()
            groups = [str(i // 10 if painters else i) for i in range(120)]
            one = numbers.clustered(values, groups, draws=500)
            found.append(one.low <= 0 <= one.high)
        return float(np.mean(found))

    assert held(painters=True) >= 0.9
    assert held(painters=False) <= 0.7


def test_a_unanimous_share_has_clopper_and_pearsons_bounds():
    none, all_ = numbers.share([0.0] * 24), numbers.share([1.0] * 4)
    assert (none.low, none.high) == pytest.approx((0, 0.142), abs=1e-3)
    assert (all_.low, all_.high) == pytest.approx((0.398, 1), abs=1e-3)
    assert numbers.share([0.0, 1.0, 1.0, 0.5]).value == 0.625


def test_the_interval_holds_skewed_means_of_ten_prompts():
    share = covered(lambda generator: generator.exponential(1, 10), 1)
    assert share >= 0.87  # percentiles: 0.85


# ---- Tests


def test_the_sign_flip_test_counts_all_flips_of_few_prompts():
    assert numbers.paired_p([1.0, 2.0, 3.0, 4.0, 5.0]) == 2 / 32  # only all plus and all minus are as extreme
    assert numbers.paired_p([1.0, -1.0, 2.0, -2.0]) == 1
    assert numbers.paired_p([0.0] * 9) == 1


def test_the_sign_flip_test_is_seldom_wrong_where_nothing_differs():
    generator = np.random.default_rng(1)
    ps = [numbers.paired_p(generator.normal(size=30), draws=400) for _ in range(400)]
    assert 0.02 <= np.mean(np.array(ps) < 0.05) <= 0.08


def test_swapping_adapter_and_base_changes_no_p():
    base, adapter = np.random.default_rng(2).normal(size=(2, 12))
    assert numbers.paired_p(adapter, base) == numbers.paired_p(base, adapter)


def test_holms_correction_as_in_the_textbook():
    assert numbers.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert numbers.holm([0.6, 0.9]) == [1, 1]
    assert numbers.holm([]) == []
    assert numbers.holm([0.01, 0.02, None, 0.04], ["a", "b", "b", "a"]) == [0.02, 0.02, None, 0.04]


def test_wilsons_interval_and_the_exact_test_as_in_the_textbook():
    outcomes = [True] * 8 + [False] * 2
    estimate = numbers.proportion(outcomes)
    assert estimate
    assert (estimate.low, estimate.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert numbers.binomial_p(outcomes) == pytest.approx(0.109375)
    assert numbers.proportion([]) is None and numbers.binomial_p([]) == 1
