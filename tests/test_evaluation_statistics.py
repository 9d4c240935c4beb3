"""The table of statistics, and a calibration that holds artists apart."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation import calibrate as calibration
from evaluation.__main__ import main
from evaluation.calibrate import aucs, calibrate, cross_validated, dealt, fit, score
from evaluation.haeberli import haeberli
from evaluation.statistics import statistics
from impressionism.errors import UserError
from impressionism.pictorial import EVERY, index, measure
from tools.miniature.world import draw, random_scene

ROOT = Path(__file__).parents[1]


def scenes(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [draw(random_scene(rng), 96) for _ in range(count)]


def save(folder: Path, pictures: list[np.ndarray], artists: list[str]) -> Path:
    folder.mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i:02}.png")
    lines = ["file,artist", *(f"{i:02}.png,{artist}" for i, artist in enumerate(artists))]
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as stream:
        return list(csv.DictReader(stream))


# ---- statistics


def test_help_names_the_page_that_explains_every_column(capsys):
    with pytest.raises(SystemExit):
        main(["statistics", "--help"])
    assert "docs/method.md" in capsys.readouterr().out
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    for name, statistic in EVERY.items():
        assert f"| `{name}` | {statistic.label} | {statistic.unit or '–'} |" in page


def test_a_row_for_each_picture_and_the_index_is_that_of_the_painter(tmp_path):
    pictures = scenes(3, 1)
    folder = save(tmp_path / "pictures", pictures, ["", "", ""])
    single = tmp_path / "one.jpg"
    Image.fromarray(pictures[0]).save(single)
    command = [sys.executable, "-m", "evaluation", "statistics", folder, single, single, "--out", tmp_path / "t.csv"]
    said = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "4 pictures, 0 of them measured before" in said
    table = rows(tmp_path / "t.csv")
    least, *_, most = sorted(float(row["index"]) for row in table)
    assert f"from {least:.2f} to {most:.2f}." in said.splitlines()[-1]
    assert [row["file"] for row in table] == [*(str(folder / f"0{i}.png") for i in range(3)), str(single)]
    assert list(table[0]) == ["file", *EVERY, "index"]
    for row, picture in zip(table, pictures, strict=False):
        measured = measure(picture)
        assert {name: float(row[name]) for name in EVERY} == pytest.approx(measured, rel=1e-5)
        assert float(row["index"]) == pytest.approx(index(measured), abs=1e-4)


def test_what_was_measured_is_not_measured_again_unless_the_picture_changed(tmp_path, capsys):
    pictures = scenes(3, 2)
    folder, table = save(tmp_path / "pictures", pictures, [""] * 3), tmp_path / "t.csv"
    statistics([folder], table)
    before = rows(table)
    # what is left of a call that was broken off in its third row
    lines = table.read_text().splitlines()
    table.unlink()
    table.with_name("t.csv.partial").write_text("\n".join([*lines[:3], lines[3][:40]]))
    statistics([folder], table)
    assert "2 of them measured before" in capsys.readouterr().out
    assert rows(table) == before
    Image.fromarray(pictures[1][::-1]).save(folder / "00.png")
    os.utime(folder / "00.png", (2**31, 2**31))
    statistics([folder], table)
    assert "2 of them measured before" in capsys.readouterr().out
    assert rows(table)[0] != before[0] and rows(table)[1:] == before[1:]
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["t.csv"]


def test_bad_input_is_a_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(UserError, match=r"There is no .*absent"):
        statistics([tmp_path / "absent"], tmp_path / "t.csv")
    with pytest.raises(UserError, match=r"No pictures in .*empty"):
        statistics([tmp_path / "empty"], tmp_path / "t.csv")
    with pytest.raises(UserError, match=r"broken\.png cannot be read as a picture"):
        statistics([tmp_path / "broken.png"], tmp_path / "t.csv")
    with pytest.raises(UserError, match=r"manifest\.csv"):
        calibrate(tmp_path, tmp_path, tmp_path, tmp_path / "c.json")
    save(tmp_path / "bare", [], [])
    with pytest.raises(UserError, match="a row for each picture"):
        calibrate(tmp_path / "bare", tmp_path / "bare", tmp_path / "bare", tmp_path / "c.json")


# ---- calibrate


def test_artists_are_dealt_whole_into_parts_of_like_size():
    artists = np.repeat(["a", "b", "c", "d"], [50, 40, 5, 4])
    assert [sorted(part) for part in dealt(artists)] == [["a"], ["b"], ["c", "d"]]
    assert dealt(np.array(["a", "a"])) == [["a"]]


def random_values(offset: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of 60 artists, 20 of a kind; each artist has a hand of their own, and a kind differs by `offset`."""
    rng = np.random.default_rng(0)
    artists = np.repeat([f"{i}" for i in range(60)], 6)
    kind = np.repeat([0, 1, 2], 120)
    hand = np.repeat(rng.normal(size=(60, len(EVERY))), 6, axis=0)
    signs = np.array([statistic.impressionist for statistic in EVERY.values()])
    return hand + 0.3 * rng.normal(size=hand.shape) + offset * signs * (kind == 0)[:, None], kind, artists


def test_the_hands_of_artists_are_not_taken_for_a_style():
    values, kind, artists = random_values(offset=0)
    alone = np.array([f"{i}" for i in range(len(kind))])
    leaking = cross_validated(values, kind, alone)["auc"]
    apart = cross_validated(values, kind, artists)["auc"]
    assert aucs(score(fit(values, kind), values), kind)["auc"] > 0.6 and leaking > 0.6
    assert 0.35 < apart < 0.58


def test_a_style_that_artists_share_is_found_on_those_left_out():
    values, kind, artists = random_values(offset=0.7)
    found = cross_validated(values, kind, artists)
    assert min(found["auc"], found["auc_styles"]) > 0.85
    assert np.mean([one["auc"] for one in found["painters"].values()]) == pytest.approx(found["auc"], abs=0.02)


def test_no_weight_goes_against_its_statistics_direction():
    values, kind, _ = random_values(offset=0.7)
    backwards = values.copy()
    backwards[:, 0] *= -1
    model = fit(backwards, kind)
    assert abs(model["weight"][0]) < 1e-9
    assert all(np.sign(model["weight"][1:]) == calibration.SIGNS[1:])


def test_calibration_writes_numbers_that_tell_painted_from_drawn(tmp_path, monkeypatch, capsys):
    drawn, painted, other = scenes(8, 3), [haeberli(p, 1.0) for p in scenes(8, 4)], scenes(8, 5)
    monkeypatch.setattr(calibration, "DOSED", 2)
    folders = (
        save(tmp_path / "painted", painted, ["a", "b", "c", "d"] * 2),
        save(tmp_path / "other", other, ["e", "f"] * 4),
        save(tmp_path / "drawn", drawn, [""] * 8),
    )
    calibrate(*folders, tmp_path / "c.json")
    result = json.loads((tmp_path / "c.json").read_text())
    assert result["pictures"] == {"paintings": 8, "styles": 8, "photographs": 8}
    assert result["artists"] == {"a": 2, "b": 2, "c": 2, "d": 2, "e": 4, "f": 4}
    assert set(result["statistics"]) == set(result["index"]["weight"]) == set(EVERY)
    assert result["index"]["auc"] > 0.9 and result["index"]["auc_styles"] > 0.9 and result["index"]["dose"] > 0.9
    assert result["statistics"]["broken_colour"]["auc"] > 0.8
    assert f"{result['index']['auc']:.3f}" in capsys.readouterr().out
