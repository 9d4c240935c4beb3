"""The pictorial statistics know what is known, follow strokes, and do not care how a picture came."""

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from evaluation.haeberli import haeberli
from impressionism.errors import UserError
from impressionism.pictorial import EVERY, STATISTICS, heat, index, measure
from impressionism.pictorial.known import MEASURED, Statistic
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
    "dabs": (from_lab(60 + 10 * waves(X) * waves(Y)), from_lab(60 + 10 * waves(X))),
    "free_colour": (from_lab(60 + 10 * waves(X), 20 * waves(Y)), from_lab(60 + 10 * waves(X), 20 * waves(X))),
    "even_colour": (from_lab(60, 20 * waves(X)), from_lab(60, 20 * waves(X) * (X + Y < SIDE / 2))),
    "fine_colour": (from_lab(60, 20 * grain(2)), from_lab(60, 20 * grain(8))),
    "red_and_green": (from_lab(60, 40 * LEFT - 20), from_lab(60, 10 * LEFT - 5)),
    "leaf_green": (from_lab(60, -30, 30), from_lab(60, -5, 40)),
}


@pytest.mark.parametrize("name", EVERY)
def test_a_statistic_tells_what_it_names_from_what_it_is_not(name):
    more, less = (measure(picture)[name] for picture in MORE_AND_LESS[name])
    assert more > 1.3 * less and more > less + 0.01


def test_lightness_black_and_reds_have_their_units():
    assert measure(from_lab(70))["light"] == pytest.approx(70, abs=0.5)
    assert measure(from_lab(60 - 60 * LEFT))["black"] == pytest.approx(50, abs=2)
    assert measure(from_lab(60 - 45 * LEFT, 25 * LEFT, -45 * LEFT))["black"] < 5, "a dark blue is no black"
    assert measure(from_lab(60, 30 * LEFT))["red_and_green"] == pytest.approx(15, abs=1)


def test_what_the_eye_blends_to_grey_loses_all_its_chroma():
    checks = np.where((X // 4 + Y // 4) % 2, 60.0, -60.0)
    assert measure(from_lab(60, checks, 0))["pure_colours"] > 300
    assert measure(from_lab(60, 60, 0))["pure_colours"] < 1


def test_colour_along_the_drawing_is_not_free_and_across_it_is():
    across, along = (measure(picture)["free_colour"] for picture in MORE_AND_LESS["free_colour"])
    assert along < 0.05 and across > 1.5  # 1 - cos 2t: 0 for the same direction, 2 for the crossing one


@pytest.mark.parametrize("picture", [GREY, GREY * 0, from_lab(90, 5, 10), np.full((9, 40, 3), 200, np.uint8)])
def test_a_picture_of_nothing_is_measured_and_is_not_impressionist(picture):
    measured = measure(picture)
    assert np.isfinite(list(measured.values())).all()
    assert index(measured) < 0.4


# ---- Strokes


def doses(pictures: list[np.ndarray], levels: tuple[float, ...]) -> list[list[dict[str, float]]]:
    return [[measure(haeberli(picture, level, seed=i)) for level in levels] for i, picture in enumerate(pictures)]


def test_statistics_of_the_facture_and_the_index_follow_the_dose_of_strokes(scenes):
    levels = (0.0, 0.2, 0.5, 1.0)
    rows = doses(scenes, levels)
    answering = [name for name in EVERY if MEASURED["statistics"][name]["dose"] > 0.9]
    assert len(answering) >= 6
    for name in answering:
        trends = [spearmanr(levels, [one[name] for one in row]).statistic for row in rows]
        assert np.mean(trends) * EVERY[name].impressionist > 0.75, name
    assert np.mean([spearmanr(levels, [index(one) for one in row]).statistic for row in rows]) > 0.9
    gains = [index(row[-1]) - index(row[0]) for row in rows]
    assert min(gains) > 0.1


def test_the_index_rises_with_the_miniatures_adapter():
    from impressionism.paint import defaults, sweep
    from impressionism.pipeline import load_pipeline

    painter = load_pipeline("miniature", device="cpu")
    pictures = [p for _, p in sweep(painter, defaults(painter, "poppies in a field under clouds"), (0.0, 0.5, 1.0))]
    plain, half, full = (index(measure(picture)) for picture in pictures)
    assert plain + 0.1 < half < full - 0.05


def test_heat_shows_where_the_strokes_are(scenes):
    picture = scenes[0].copy()
    picture[:, SIDE // 2 :] = haeberli(picture, 1.0)[:, SIDE // 2 :]
    shown = heat(np.concatenate([picture, picture[::-1]]))
    assert shown.shape == (2 * SIDE, SIDE) and shown.min() >= 0 and shown.max() <= 1
    assert shown[:, -40:].mean() > shown[:, :40].mean() + 0.2


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


@pytest.mark.parametrize(
    "change", [jpeg, lambda p: cv2.GaussianBlur(p, (0, 0), 0.8), noisy, saturated(0.8), saturated(1.2)],
    ids=["jpeg", "blur", "noise", "paler", "stronger"],
)  # fmt: skip
def test_the_ranking_survives(change, scenes):
    pictures = [haeberli(scene, dose) for scene in scenes for dose in (0, 0.3, 0.8)]
    before = [index(measure(picture)) for picture in pictures]
    after = [index(measure(change(picture))) for picture in pictures]
    assert spearmanr(before, after).statistic >= 0.9


def test_the_size_of_a_file_does_not_matter(scenes):
    picture = haeberli(scenes[1], 0.5)
    for scale, way in ((2, cv2.INTER_CUBIC), (3, cv2.INTER_LINEAR), (5, cv2.INTER_LANCZOS4)):
        larger = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=way)
        assert index(measure(larger)) == pytest.approx(index(measure(picture)), abs=0.05)


def test_pixels_and_a_picture_of_pil_in_any_mode_are_the_same(scenes):
    picture = Image.fromarray(scenes[2])
    assert measure(picture) == measure(scenes[2]) == measure(picture.convert("RGBA"))
    assert measure(picture.convert("L")).keys() == EVERY.keys()


@pytest.mark.parametrize("wrong", [np.zeros((8, 8)), np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8)])
def test_what_is_no_picture_is_refused_in_a_sentence(wrong):
    with pytest.raises(UserError, match=r"uint8 RGB, \(height, width, 3\)"):
        measure(wrong)


# ---- The index and what is known


@pytest.mark.parametrize("name", EVERY)
def test_the_index_never_falls_when_a_statistic_goes_the_impressionist_way(name):
    measured = dict(MEASURED["index"]["mean"])
    step = EVERY[name].impressionist * MEASURED["index"]["scale"][name]
    values = [index({**measured, name: measured[name] + k * step}) for k in (-10, -1, 0, 1, 10)]
    assert sorted(values) == values


def test_the_calibration_reaches_what_was_asked_on_artists_that_it_did_not_see():
    assert MEASURED["index"]["auc"] >= 0.92 and MEASURED["index"]["auc_styles"] >= 0.78
    assert len(MEASURED["index"]["painters"]) >= 3


def test_one_statistic_a_characteristic_and_each_says_what_misleads_it():
    assert len(STATISTICS) == 7
    for statistic in EVERY.values():
        assert statistic.failure and statistic.higher and statistic.measure.__doc__
        assert min(statistic.auc, statistic.auc_styles) > 0 and -1 <= statistic.dose <= 1


def test_a_statistic_under_065_and_one_not_measured_yet_are_exploratory():
    words = {"label": "", "measure": lambda lab: 0.0, "higher": "", "failure": ""}
    assert Statistic(**words).exploratory
    assert Statistic(**words, auc=0.7, auc_styles=0.59).exploratory
    assert not Statistic(**words, auc=0.7, auc_styles=0.61).exploratory
