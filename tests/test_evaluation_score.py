"""The scores of adapters whose worth is known."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pandas
import pytest
from galleries import make_gallery, make_paintings, scene, strokes
from PIL import Image

from evaluation.__main__ import main
from evaluation.candidates import read_scores
from evaluation.score import is_better, row_of, verdict
from impressionism.pictorial import STATISTICS
from impressionism.records import Estimate, Scores


@pytest.fixture(scope="module")
def paintings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_paintings(tmp_path_factory.mktemp("real") / "paintings", 16)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_paintings(tmp_path_factory.mktemp("training") / "paintings", 16, first=200)


def scored(run: Path, paintings: Path, *options: str) -> Scores:
    assert main(["score", str(run), "--real", str(paintings), *options, "--features"]) == 0
    return read_scores(run)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, paintings: Path, training: Path) -> Path:
    """An adapter that paints as the real paintings are painted, scored; do not write into it."""
    run = make_gallery(tmp_path_factory.mktemp("runs") / "strokes")
    scored(run, paintings, "--training", str(training))
    return run


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, paintings: Path) -> Path:
    """Other prompts, scored without training pictures; do not write into it."""
    run = make_gallery(tmp_path_factory.mktemp("bare") / "bare", prompts=3)
    scored(run, paintings)
    return run


@pytest.fixture(scope="module")
def scores(run: Path) -> Scores:
    return read_scores(run)


def test_an_adapter_that_paints_like_the_paintings_closes_the_gap(scores: Scores):
    index = row_of(scores, "index")
    assert index.gap_closed and 0.7 < index.gap_closed.low < 1 < index.gap_closed.high < 1.3
    assert index.difference and index.difference.low > 0
    assert row_of(scores, "pictorial-kid").difference.high < 0  # type: ignore[union-attr]
    assert is_better(scores)
    assert "closes" in verdict(scores) and "No better" not in verdict(scores)


def test_the_curve_rises_and_its_recommended_strength_keeps_the_content(scores: Scores):
    assert [point.strength for point in scores.curve] == [0, 0.5, 1]
    means = [point.index.value for point in scores.curve]
    assert means == sorted(means)
    assert scores.curve[0].content.value == pytest.approx(1)
    assert all(point.content.value > 0.8 for point in scores.curve)
    assert scores.strength_low <= scores.strength <= scores.strength_high


def test_every_number_has_an_interval_and_a_count(scores: Scores):
    numbers = [value for row in scores.metrics for value in vars(row).values() if isinstance(value, Estimate)]
    numbers += [value for point in scores.curve for value in vars(point).values() if isinstance(value, Estimate)]
    assert len(numbers) > 50
    assert all(one.low <= one.value <= one.high and one.n in (8, 16) for one in numbers)
    assert set(STATISTICS) <= {row.name for row in scores.metrics}


def test_what_could_not_be_computed_says_why(scores: Scores, bare: Path):
    rows = [row for row in scores.metrics if row.name.split("-")[0] in ("clip", "dinov2", "csd")]
    assert len(rows) == 7
    assert all(row.note == "Not computed: not asked for (--features)." and not row.adapter for row in rows)
    assert row_of(scores, "csd-similarity").weights == "tomg-group-umd/CSD-ViT-L@5bc26a6fb048, CC-BY-4.0"
    assert row_of(scores, "sscd-copies").note == "Not computed: no pinned weights are known."
    assert "no training pictures" in row_of(read_scores(bare), "layout-copies").note


def test_two_prompts_make_scores_without_a_number_that_is_none(tmp_path: Path, paintings: Path):
    few = scored(make_gallery(tmp_path / "few", prompts=2), paintings)
    assert "it takes three prompts" in row_of(few, "palette-kid").note
    json.dumps(dataclasses.asdict(few), allow_nan=False)  # a browser cannot read NaN


def test_the_scores_come_back_from_their_json_and_the_table_has_a_row_a_picture(run: Path, scores: Scores):
    assert Scores.from_json(scores.to_json()) == scores
    table = pandas.read_parquet(run / "pictures.parquet")
    assert len(table) == 8 * 9
    pair = table[(table["prompt"] == "p3") & (table["seed"] == 1)].set_index(["arm", "strength"])
    assert pair.loc[("adapter", 1.0), "gain"] == pytest.approx(
        pair.loc[("adapter", 1.0), "index"] - pair.loc[("base", 0.0), "index"]
    )
    assert {file.split("/")[0] for file in scores.best} | {file.split("/")[0] for file in scores.worst} <= {
        f"p{i}" for i in range(8)
    }


def test_best_and_worst_are_the_ends_of_the_ranking_with_a_picture_of_each_genre(run: Path, scores: Scores):
    table = pandas.read_parquet(run / "pictures.parquet")
    table = table[(table["arm"] == "adapter") & (table["strength"] == 1)].sort_values("gain")
    assert scores.worst == list(table["file"][:12])
    assert scores.best == list(table["file"][:-13:-1])
    assert set(table.set_index("file")["genre"][scores.best]) == set(table["genre"])


def test_swapping_base_and_adapter_turns_the_sign(tmp_path: Path, paintings: Path, scores: Scores):
    swapped = scored(make_gallery(tmp_path / "swapped", lambda p, *_: p, base=strokes), paintings)
    there, back = row_of(scores, "index").difference, row_of(swapped, "index").difference
    assert there and back
    assert back.value == pytest.approx(-there.value)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=0.03)
    assert not is_better(swapped)


def test_an_adapter_that_does_nothing_is_no_better(tmp_path: Path, paintings: Path):
    idle = scored(make_gallery(tmp_path / "idle", lambda p, *_: p, prompts=4), paintings)
    assert row_of(idle, "index").p == 1
    assert row_of(idle, "index").difference == Estimate(value=0, low=0, high=0, n=4)
    assert not is_better(idle)
    assert verdict(idle).startswith("No better than the base")


def test_what_no_eye_sees_is_no_better_however_sure_it_is(tmp_path: Path, paintings: Path):
    """As from an adapter with shuffled weights, which changes each picture a little: pairing tells it from zero."""
    gallery = make_gallery(tmp_path / "faint", lambda p, s, *which: strokes(p, 0.03 * s, *which), prompts=4)
    faint = scored(gallery, paintings)
    point = faint.curve[-1]
    assert point.gap_closed and 0 < point.gap_closed.value < 0.1
    assert not is_better(faint)
    assert faint.choice is None


def test_noise_is_no_better(tmp_path: Path, paintings: Path):
    """As from an adapter with shuffled weights: the scene dissolves."""

    def noise(picture: np.ndarray, strength: float, prompt: int, seed: int) -> np.ndarray:
        other = np.random.default_rng([prompt, seed]).integers(0, 255, (6, 6, 3), dtype=np.uint8)
        return strokes(cv2.resize(other, picture.shape[:2]), 1.0, prompt, seed)

    lost = scored(make_gallery(tmp_path / "lost", noise, prompts=4), paintings)
    assert row_of(lost, "structure-kept").adapter.high < 0.5  # type: ignore[union-attr]
    assert not is_better(lost)
    assert verdict(lost).startswith("No better than the base")


def test_a_collapsed_set_is_caught_by_its_diversity(tmp_path: Path, paintings: Path):
    def same(picture: np.ndarray, strength: float, prompt: int, seed: int) -> np.ndarray:
        return strokes(scene(prompt, 1), strength, prompt, 1)

    found = row_of(scored(make_gallery(tmp_path / "same", same, prompts=4), paintings), "layout-vendi")
    assert found.adapter and found.adapter.value == pytest.approx(1)
    assert found.difference and found.difference.high < 0


def test_a_copied_set_is_caught_by_its_likeness_to_training(tmp_path: Path, paintings: Path, training: Path):
    originals = [np.asarray(Image.open(file)) for file in sorted(training.iterdir())]

    def copy(picture: np.ndarray, strength: float, prompt: int, seed: int) -> np.ndarray:
        return np.clip(originals[2 * prompt + seed - 1] * 0.9 + 8, 0, 255).astype(np.uint8)

    run = make_gallery(tmp_path / "copied", copy, prompts=4)
    copied = scored(run, paintings, "--training", str(training))
    found = row_of(copied, "layout-copies")
    assert found.adapter and found.base and found.real
    assert found.adapter.value == 1
    assert found.difference and found.difference.low > 0.5
    table = pandas.read_parquet(run / "pictures.parquet").set_index("file")
    assert table.loc["p2/2-adapter-1.png", "nearest"] == "205.png"
    assert (run / "references" / "training" / "205.png.webp").exists()


def test_a_colour_jittered_set_is_caught_by_its_palette(tmp_path: Path, paintings: Path, scores: Scores):
    def jitter(picture: np.ndarray, strength: float, prompt: int, seed: int) -> np.ndarray:
        hsv = cv2.cvtColor(strokes(picture, strength, prompt, seed), cv2.COLOR_RGB2HSV)
        return cv2.cvtColor(np.dstack([hsv[..., 0] * 0 + 150, hsv[..., 1] | 128, hsv[..., 2]]), cv2.COLOR_HSV2RGB)

    jittered = scored(make_gallery(tmp_path / "jittered", jitter, prompts=4), paintings)
    found = row_of(jittered, "palette-kid").difference
    assert found and found.low > 0
    assert row_of(scores, "palette-kid").difference.low < 0  # type: ignore[union-attr]


def test_of_several_candidates_the_nearest_to_real_paintings_is_chosen_and_a_quantizations_cost_is_told(
    tmp_path: Path, paintings: Path
):
    def faint(picture: np.ndarray, strength: float, prompt: int, seed: int) -> np.ndarray:
        return strokes(picture, 0.25 * strength, prompt, seed)

    main_run = make_gallery(tmp_path / "main", prompts=4)
    early = make_gallery(main_run / "candidates" / "early", faint, prompts=4, adapter="e")
    coarse = make_gallery(tmp_path / "coarse", faint, prompts=4, quantize="nf4")
    for other in (early, coarse):
        scored(other, paintings)
    found = scored(main_run, paintings, "--candidates", str(early), str(coarse))
    assert [one.name for one in found.candidates] == ["main", "candidates/early", "coarse"]
    assert found.choice == "main"
    whole, _, quantized = found.candidates
    assert whole.cost is None
    assert quantized.cost and quantized.cost.high < 0
    assert quantized.likeness and quantized.likeness.value > 0.9


def test_candidates_that_were_asked_something_else_are_refused(
    paintings: Path, run: Path, bare: Path, capsys: pytest.CaptureFixture
):
    assert main(["score", str(bare), "--real", str(paintings), "--candidates", str(run), "--features"]) == 2
    assert "was scored on other prompts" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["gallery", "real"])
def test_what_is_missing_is_said_at_the_start(missing: str, tmp_path: Path, run: Path, capsys: pytest.CaptureFixture):
    folders = {"gallery": [str(tmp_path / "none"), "--real", str(tmp_path)], "real": [str(run), "--real", "nowhere"]}
    assert main(["score", *folders[missing], "--features"]) == 2
    said = {"gallery": "has no finished gallery", "real": "nowhere is no folder with pictures"}
    assert said[missing] in capsys.readouterr().err


def test_a_row_says_which_way_is_good(scores: Scores):
    ways = {row.name: row.better for row in scores.metrics}
    assert (ways["pictorial-kid"], ways["structure-kept"], ways["light"]) == ("lower", "higher", "closer")
