"""The scores of adapters whose worth is known."""

import dataclasses
import http.server
import json
import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas
import pytest
from galleries import looked_at_once, make_gallery, make_paintings, scene, strokes  # noqa: F401
from PIL import Image

from evaluation.__main__ import main
from evaluation.evidence import collect, labels_of, real_pictures
from evaluation.exhibits import read_scores
from evaluation.judge import judge_rows
from impressionism.errors import UserError
from impressionism.pictorial import STATISTICS
from impressionism.records import Estimate, Metric, Scores
from tools.calibrate.negatives import blotches, noise, shuffle, turn_hues


@pytest.fixture(scope="module")
def paintings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_paintings(tmp_path_factory.mktemp("real") / "paintings", 16)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_paintings(tmp_path_factory.mktemp("training") / "paintings", 16, first=200)


def scored(run: Path, paintings: Path, *options: str) -> Scores:
    assert main(["score", str(run), "--real", str(paintings), *options, "--features"]) == 0
    return read_scores(run)


def row_of(scores: Scores, name: str) -> Metric:
    return next(row for row in scores.metrics if row.name == name)


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
    index, closed = row_of(scores, "index"), scores.recommended.gap_closed
    assert closed and 0.6 < closed.low < 1.1 and 0.9 < closed.high < 1.5
    assert scores.measure == "probe" and not index.gap_closed, "drawings are no paintings that the index knows"
    assert index.difference and index.difference.low > 0
    assert row_of(scores, "pictorial-kid").difference.high < 0  # type: ignore[union-attr]
    assert scores.good and not scores.failed
    assert scores.verdict.startswith(f"Good at strength {scores.strength:g}: it closes")
    assert "Words alone close" in scores.verdict and "exploratory" in scores.verdict


def test_the_curve_rises_and_its_recommended_strength_keeps_the_content(scores: Scores):
    assert [point.strength for point in scores.curve] == [0, 0.5, 1]
    means = [point.index.value for point in scores.curve]
    assert means == sorted(means)
    assert scores.curve[0].content.value == pytest.approx(1)
    assert all(point.content.value > 0.8 for point in scores.curve)
    assert scores.strength_low <= scores.strength <= scores.strength_high
    assert {scores.strength_low, scores.strength, scores.strength_high} <= {0.5, 1}, "only what was measured"
    assert scores.at_recommended and scores.recommended is scores.at_recommended


def test_every_number_has_an_interval_and_a_count(scores: Scores):
    numbers = [value for row in scores.metrics for value in vars(row).values() if isinstance(value, Estimate)]
    numbers += [value for point in scores.curve for value in vars(point).values() if isinstance(value, Estimate)]
    assert len(numbers) > 50
    assert all(one.low <= one.value <= one.high and one.n in (6, 8, 16) for one in numbers)
    ways = {row.name: row.better for row in scores.metrics}
    assert set(STATISTICS) <= ways.keys()
    assert (ways["pictorial-kid"], ways["structure-kept"], ways["light"]) == ("lower", "higher", "closer")


def test_what_could_not_be_computed_says_why(scores: Scores, bare: Path):
    rows = [row for row in scores.metrics if row.name.split("-")[0] in ("clip", "dinov2", "pickscore")]
    assert len(rows) == 7
    assert all(row.note == "Not computed: not asked for (--features)." and not row.adapter for row in rows)
    assert row_of(scores, "dinov2-kid").weights == "facebook/dinov2-base@f9e44c814b77, Apache-2.0"
    assert "--judge" in row_of(scores, "judge-yes").note
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
    assert not swapped.good


def test_an_adapter_that_does_nothing_is_not_good(tmp_path: Path, paintings: Path):
    idle = scored(make_gallery(tmp_path / "idle", lambda p, *_: p, prompts=4), paintings)
    assert row_of(idle, "index").p == 1
    assert row_of(idle, "index").difference == Estimate(value=0, low=0, high=0, n=4)
    assert not idle.good
    assert idle.verdict.startswith("Not good at its best strength")
    assert idle.failures == []


# ---- Adapters that are bad on purpose: the verdict says so, and why


def faint(picture: np.ndarray, strength: float, prompt: int, seed: int) -> np.ndarray:
    """As from shuffled or untrained weights: a little of everything, which pairing by noise tells from zero."""
    return strokes(picture, 0.03 * strength, prompt, seed)


def other_scene(picture: np.ndarray, strength: float, prompt: int, seed: int) -> np.ndarray:
    """Each prompt's picture under another prompt."""
    return strokes(scene(prompt + 50, seed), strength, prompt, seed)


def same(picture: np.ndarray, strength: float, prompt: int, seed: int) -> np.ndarray:
    """One picture for each prompt, whatever the noise."""
    return strokes(scene(prompt, 1), strength, prompt, 1)


def blotchy(picture: np.ndarray, strength: float, prompt: int, seed: int) -> np.ndarray:
    return blotches(picture, np.random.default_rng([prompt, seed]), deviation=14 * strength, size=3)


def noisy(picture: np.ndarray, strength: float, prompt: int, seed: int) -> np.ndarray:
    return noise(
        strokes(picture, strength, prompt, seed), np.random.default_rng([prompt, seed]), deviation=60 * strength
    )


def warm(picture: np.ndarray, *_: object) -> np.ndarray:
    """In yellow light: the drawn scenes have all hues alike, so that turned hues would be nothing wrong."""
    return (picture * (1.0, 0.8, 0.4)).astype(np.uint8)


def inverted(picture: np.ndarray, strength: float, prompt: int, seed: int) -> np.ndarray:
    """Of a world in yellow light, pictures in blue light."""
    picture = warm(picture)
    return turn_hues(strokes(picture, strength, prompt, seed), np.random.default_rng(0), degrees=180)


def shuffled(picture: np.ndarray, strength: float, prompt: int, seed: int) -> np.ndarray:
    return shuffle(strokes(picture, strength, prompt, seed), np.random.default_rng([prompt, seed]), side=16)


def jittered(picture: np.ndarray, strength: float, prompt: int, seed: int) -> np.ndarray:
    """Everything violet."""
    hsv = cv2.cvtColor(strokes(picture, strength, prompt, seed), cv2.COLOR_RGB2HSV)
    return cv2.cvtColor(np.dstack([hsv[..., 0] * 0 + 150, hsv[..., 1] | 128, hsv[..., 2]]), cv2.COLOR_HSV2RGB)


@pytest.mark.parametrize(
    ("adapter", "reason"),
    [
        (faint, "does not surely close|moves away"),
        (other_scene, "paints another scene"),
        (same, "repeat each other|another scene"),
        (blotchy, ""),
        (noisy, ""),
        (inverted, "moves away from real paintings"),
        (shuffled, "paints another scene"),
        (jittered, r"moves away from real paintings \(.*colours"),
    ],
)
def test_a_bad_adapter_is_not_called_good_and_the_verdict_says_why(adapter, reason, tmp_path: Path, paintings: Path):
    base = None
    if adapter is inverted:
        base, painted, paintings = warm, paintings, tmp_path / "warm"
        paintings.mkdir()
        for file in painted.iterdir():
            Image.fromarray(warm(np.asarray(Image.open(file)))).save(paintings / file.name)
    found = scored(make_gallery(tmp_path / adapter.__name__, adapter, prompts=5, base=base), paintings)
    assert not found.good
    assert found.failed and found.failed[0] in found.verdict
    assert found.verdict.startswith("Not good")
    assert re.search(reason, found.verdict)


@pytest.mark.parametrize("changed", ["mirrored", "cropped"])
def test_an_adapter_that_copies_is_not_called_good_even_if_the_copies_are_mirrored_or_cropped(
    changed: str, tmp_path: Path, paintings: Path, training: Path
):
    originals = [np.asarray(Image.open(file)) for file in sorted(training.iterdir())]

    def copy(picture: np.ndarray, strength: float, prompt: int, seed: int) -> np.ndarray:
        original = originals[2 * prompt + seed - 1]
        corner = cv2.resize(original[:77, :77], original.shape[:2])
        return np.clip((original[:, ::-1] if changed == "mirrored" else corner) * 0.9 + 8, 0, 255).astype(np.uint8)

    run = make_gallery(tmp_path / "copied", copy, prompts=5)
    copied = scored(run, paintings, "--training", str(training))
    found = row_of(copied, "layout-copies")
    assert found.adapter and found.base and found.real
    assert found.adapter.value == 1 and found.adapter.low == pytest.approx(0.478, abs=0.001), "Clopper-Pearson of 5"
    assert found.difference and found.difference.low > 0.4
    assert not copied.good and "copies training pictures" in copied.verdict
    table = pandas.read_parquet(run / "pictures.parquet").set_index("file")
    assert table.loc["p2/2-adapter-1.png", "nearest"] == "205.png"
    assert (run / "references" / "training" / "205.png.webp").exists()
    assert "like a training picture" in {failure.what for failure in copied.failures}
    assert len(copied.failures) <= 12


def test_an_adapter_that_words_alone_beat_is_not_called_good(tmp_path: Path, paintings: Path):
    def weak(picture: np.ndarray, strength: float, prompt: int, seed: int) -> np.ndarray:
        return strokes(picture, 0.2 * strength, prompt, seed)

    run = make_gallery(tmp_path / "beaten", weak, prompts=5)
    for file in (run / "gallery").glob("*/*base-styled*.png"):  # the base, asked in words, paints as the paintings are
        prompt, seed = int(file.parent.name[1:]), int(file.name.split("-")[0])
        Image.fromarray(strokes(scene(prompt, seed), 1.0, prompt, seed)).save(file)
    assert "words alone come closer" in scored(run, paintings).verdict


def test_a_curated_data_sets_validation_split_stands_for_real_paintings_with_its_painters(tmp_path: Path, run: Path):
    folder = make_paintings(tmp_path / "curated" / "validation", 8)
    make_paintings(tmp_path / "curated" / "train", 3, first=300)
    rows = [{"file_name": f"{100 + i}.png", "artist": f"painter {i // 2}", "genre": "cityscape"} for i in range(8)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = labels_of(real_pictures(tmp_path / "curated"))
    assert [label["painter"] for label in found] == [row["artist"] for row in rows]
    assert {label["genre"] for label in found} == {"urban"}


def test_genres_are_told_apart(scores: Scores):
    assert set(scores.genres) == {"landscape", "urban"}
    assert all(part.base.n == 4 and part.gap_closed for part in scores.genres.values())


class Judge(http.server.BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint that says yes with a probability of 0.8."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        picture, question = body["messages"][0]["content"]
        assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,") and "scene" in question["text"]
        top = [{"token": word, "logprob": math.log(share)} for word, share in ((" Yes", 0.4), ("no", 0.1), ("x", 0.5))]
        choice = {"message": {"content": "Yes"}, "logprobs": {"content": [{"top_logprobs": top}]}}
        answer = json.dumps({"choices": [choice]} if self.path == "/v1/chat/completions" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def judge() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def test_a_judge_is_asked_whether_each_picture_shows_its_prompt(bare: Path, paintings: Path, judge: str):
    evidence = collect(bare, paintings, None)
    [row] = judge_rows(evidence, f"{judge}/v1", "seer")
    assert row.name == "judge-yes" and row.weights == "seer" and row.base and row.adapter
    assert row.adapter.value == pytest.approx(0.8)
    assert evidence.pictures["shown"].count() == 3 * 2 * 2, "base and adapter with the plain prompt"
    with pytest.raises(UserError, match="does not answer"):
        judge_rows(evidence, judge, "seer")
    with pytest.raises(UserError, match="does not answer"):
        judge_rows(evidence, "http://127.0.0.1:9/v1", "seer")


@pytest.mark.parametrize("missing", ["gallery", "real"])
def test_what_is_missing_is_said_at_the_start(missing: str, tmp_path: Path, run: Path, capsys: pytest.CaptureFixture):
    folders = {"gallery": [str(tmp_path / "none"), "--real", str(tmp_path)], "real": [str(run), "--real", "nowhere"]}
    assert main(["score", *folders[missing], "--features"]) == 2
    said = {"gallery": "has no finished gallery", "real": "nowhere is no folder with pictures"}
    assert said[missing] in capsys.readouterr().err
