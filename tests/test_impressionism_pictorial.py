"""The pictorial statistics know what is known, follow strokes, and do not care how a picture came."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from impressionism.errors import UserError
from impressionism.pictorial import CALIBRATION, STATISTICS, Statistic, assess, index, measure
from impressionism.pictorial.network import describe
from tools.calibrate.haeberli import haeberli
from tools.calibrate.negatives import NEGATIVES
from tools.miniature.world import draw, random_scene

SIDE = 224
RNG = np.random.default_rng(7)
GREY = np.full((SIDE, SIDE, 3), 128, np.uint8)
Y, X = np.mgrid[:SIDE, :SIDE]


def from_lab(lightness, a=0.0, b=0.0) -> np.ndarray:
    lab = np.stack(np.broadcast_arrays(lightness, a, b, np.zeros((SIDE, SIDE)))[:3], -1).astype(np.float32)
    return (cv2.cvtColor(lab, cv2.COLOR_Lab2RGB).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def grain(scale: float, rng: np.random.Generator = RNG) -> np.ndarray:
    """Soft noise of standard deviation 1 with spots of about `scale` pixels."""
    soft = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), scale)
    return soft / soft.std()


def waves(of: np.ndarray, period: float = 12.0) -> np.ndarray:
    return np.sin(2 * np.pi * of / period)


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    """Drawings without strokes."""
    rng = np.random.default_rng(3)
    return [draw(random_scene(rng), SIDE) for _ in range(5)]


@pytest.fixture(scope="module")
def painted(scenes) -> list[np.ndarray]:
    """The first three with strokes over them."""
    return [haeberli(scene, 0.8) for scene in scenes[:3]]


# ---- Known answers

LEFT = np.where(X < SIDE // 2, 1.0, 0.0)
MORE_AND_LESS = {
    "strokes": (from_lab(60 + 15 * grain(1.5)), from_lab(60 + 15 * waves(X))),
    "broken_colour": (from_lab(60, 12 * grain(2), 12 * grain(2)), from_lab(60, 12 * waves(X, 100), 12)),
    "pure_colours": (from_lab(60, 40 * np.sign(waves(X, 8))), from_lab(60, 40)),
    "light": (from_lab(80), from_lab(30)),
    "black": (from_lab(60 - 50 * LEFT), from_lab(60 - 25 * LEFT)),
    "coloured_shadows": (from_lab(60 - 30 * LEFT, 0, -30 * LEFT), from_lab(60 - 30 * LEFT, 0, 30 * (1 - LEFT))),
    "effect": (from_lab(60 + 10 * waves(X)), from_lab(60 + 10 * np.where(LEFT, waves(X), waves(Y)))),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_a_statistic_tells_what_it_names_from_what_it_is_not(name):
    more, less = (measure(picture)[name] for picture in MORE_AND_LESS[name])
    assert more > 1.3 * less and more > less + 0.01


def test_lightness_and_black_have_their_units():
    assert measure(from_lab(70))["light"] == pytest.approx(70, abs=0.5)
    assert measure(from_lab(60 - 60 * LEFT))["black"] == pytest.approx(50, abs=2)
    assert measure(from_lab(60 - 45 * LEFT, 25 * LEFT, -45 * LEFT))["black"] < 5, "a dark blue is no black"


def test_what_the_eye_blends_to_grey_loses_all_its_chroma():
    checks = np.where((X // 4 + Y // 4) % 2, 60.0, -60.0)
    assert measure(from_lab(60, checks, 0))["pure_colours"] > 300
    assert measure(from_lab(60, 60, 0))["pure_colours"] < 1


@pytest.mark.parametrize("picture", [GREY, GREY * 0, from_lab(90, 5, 10), np.full((9, 40, 3), 200, np.uint8)])
def test_a_picture_of_nothing_is_measured_and_is_not_impressionist(picture):
    found = assess(picture)
    assert np.isfinite([*found.statistics.values(), found.index]).all()
    assert found.index < 0.2


# ---- Strokes


def doses(pictures: list[np.ndarray], levels: tuple[float, ...]) -> list[list[dict[str, float]]]:
    return [[measure(haeberli(picture, level, seed=i)) for level in levels] for i, picture in enumerate(pictures)]


def test_statistics_of_the_facture_follow_the_dose_of_strokes(scenes):
    levels = (0.0, 0.2, 0.5, 1.0)
    rows = doses(scenes[:3], levels)
    answering = [name for name, known in STATISTICS.items() if known.dose > 0.8]
    assert len(answering) >= 3
    for name in answering:
        trends = [spearmanr(levels, [one[name] for one in row]).statistic for row in rows]
        assert np.mean(trends) * STATISTICS[name].impressionist > 0.75, name


def test_the_index_rises_with_the_miniatures_adapter():
    """As log odds: drawn scenes and painted ones are both far below real paintings."""
    folder = Path(__file__).parents[1] / "space" / "showcase"
    pairs = [json.loads(line) for line in (folder / "showcase.jsonl").read_text().splitlines()][:6]
    values = np.array([[index(Image.open(folder / pair[side])) for side in ("base", "adapted")] for pair in pairs])
    before, after = np.log(values / (1 - values)).T
    assert np.mean(after - before) > 0.5 and np.mean(after > before) >= 0.8


# ---- What must not matter


def jpeg(picture: np.ndarray) -> np.ndarray:
    data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 50])[1]
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def noisy(picture: np.ndarray) -> np.ndarray:
    return (picture + np.random.default_rng(0).normal(0, 5, picture.shape)).clip(0, 255).astype(np.uint8)


def saturated(factor: float):
    def change(picture: np.ndarray) -> np.ndarray:
        grey = picture.mean(axis=-1, keepdims=True)
        return (grey + factor * (picture - grey)).clip(0, 255).astype(np.uint8)

    return change


CHANGES = {
    "jpeg": jpeg,
    "blur": lambda picture: cv2.GaussianBlur(picture, (0, 0), 0.8),
    "noise": noisy,
    "paler": saturated(0.8),
    "stronger": saturated(1.2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_painted_stays_above_drawn_whatever_befalls_the_file(name, scenes, painted):
    """The rank correlation over real pictures is in benchmarks/statistics.json."""
    drawn, strokes = ([index(CHANGES[name](picture)) for picture in side] for side in (scenes[:3], painted))
    assert min(strokes) > max(drawn)


def test_the_size_of_a_file_does_not_matter(scenes):
    picture = haeberli(scenes[1], 0.5)
    for scale, way in ((2, cv2.INTER_CUBIC), (3, cv2.INTER_LINEAR), (5, cv2.INTER_LANCZOS4)):
        larger = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=way)
        assert index(larger) == pytest.approx(index(picture), abs=0.05)


def test_pixels_and_a_picture_of_pil_in_any_mode_are_the_same(scenes):
    picture = Image.fromarray(scenes[2])
    assert measure(picture) == measure(scenes[2]) == measure(picture.convert("RGBA"))
    assert measure(picture.convert("L")).keys() == STATISTICS.keys()


@pytest.mark.parametrize("wrong", [np.zeros((8, 8)), np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8)])
def test_what_is_no_picture_is_refused_in_a_sentence(wrong):
    with pytest.raises(UserError, match=r"uint8 RGB, \(height, width, 3\)"):
        measure(wrong)


# ---- The index


def test_the_network_gives_the_recorded_description():
    """Means and deviations of a fixed picture, so that padding, folding or other weights cannot change unseen."""
    ramp = np.stack(np.broadcast_arrays(X, Y, (X + Y) // 2), -1).astype(np.uint8)
    found = describe(ramp)
    assert found.shape == (608,) and (found[112:224] >= 0).all()
    assert found[[0, 1, 112, 300, 600]] == pytest.approx([3.9234, 4.1745, 1.7063, 1.1151, 1.8628], abs=1e-3)


@pytest.mark.parametrize("name", NEGATIVES)
def test_a_drawing_spoiled_on_purpose_is_not_impressionist(name, scenes):
    values = [index(NEGATIVES[name](scene, np.random.default_rng(i))) for i, scene in enumerate(scenes[:2])]
    assert np.mean(values) < 0.2 and max(values) < CALIBRATION["index"]["median_painting"]


def test_a_statistic_beyond_the_paintings_counts_as_their_end():
    from impressionism.pictorial import model, score

    usual = model()["centre"].copy()
    for place, (name, known) in enumerate(STATISTICS.items()):
        far, end = usual.copy(), usual.copy()
        end[place] = (model()["high"] if known.impressionist > 0 else model()["low"])[place]
        far[place] = end[place] + known.impressionist * 0.1 * model()["spread"][place]
        assert np.isfinite(end[place]) and score(far, model()) == pytest.approx(score(end, model()), abs=1e-5), name


def test_what_is_unlike_every_painting_loses():
    from impressionism.pictorial import distance, model, score

    usual = model()["centre"]
    way = np.sign(model()["weight"]) * model()["spread"]
    far = usual + 6 * way  # in every feature the way that the linear part likes
    assert distance(far, model()) > model()["usual"]
    linear_alone = score(far, {**model(), "penalty": np.float32(0)})
    assert score(far, model()) < linear_alone - 1


def test_the_calibration_reaches_what_was_asked_on_painters_that_no_choice_has_seen():
    figures = CALIBRATION["index"]
    assert figures["auc"] >= 0.95 and figures["auc_styles"] >= 0.85
    assert min(one["auc"] for one in figures["by_painter"].values()) >= 0.88
    assert min(one["auc"] for one in figures["by_genre"].values()) >= 0.85
    assert all(one["mean"] < 0.4 and not one["above_median_painting"] for one in figures["spoiled"].values())
    assert figures["noise_on_paintings"]["mean_change"] < 0
    assert set(figures["by_painter"]) <= set(CALIBRATION["held_back"])


def test_one_statistic_for_each_characteristic_says_what_misleads_it_and_where_paintings_lie():
    assert len(STATISTICS) == 7
    for statistic in STATISTICS.values():
        assert statistic.failure and statistic.higher and statistic.measure.__doc__
        assert min(statistic.auc, statistic.auc_styles) > 0 and -1 <= statistic.dose <= 1
        assert statistic.low < statistic.high


def test_a_statistic_under_065_and_one_not_measured_yet_are_exploratory():
    words = {"label": "", "measure": lambda lab: 0.0, "higher": "", "failure": ""}
    assert Statistic(**words).exploratory
    assert Statistic(**words, auc=0.7, auc_styles=0.59).exploratory
    assert not Statistic(**words, auc=0.7, auc_styles=0.61).exploratory
