"""The table of statistics, and a calibration that keeps painters whole."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from evaluation.__main__ import main
from evaluation.statistics import statistics
from impressionism.errors import UserError
from impressionism.pictorial import MODEL, STATISTICS, assess
from tools.calibrate import __main__ as calibration
from tools.calibrate.haeberli import haeberli
from tools.miniature.world import draw, random_scene

ROOT = Path(__file__).parents[1]


def scenes(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [draw(random_scene(rng), 96) for _ in range(count)]


def save(folder: Path, pictures: list[np.ndarray], artists: list[str]) -> Path:
    folder.mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i:02}.png")
    lines = ["file,artist,genre,source"]
    lines += [f"{i:02}.png,{artist},landscape,drawn" for i, artist in enumerate(artists)]
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
    for name, statistic in STATISTICS.items():
        assert f"| `{name}` | {statistic.label} | {statistic.unit or '–'} |" in page


def test_a_row_for_each_picture_and_the_index_is_that_of_the_painter(tmp_path, capsys):
    pictures = scenes(3, 1)
    folder = save(tmp_path / "pictures", pictures, ["", "", ""])
    single = tmp_path / "one.jpg"
    Image.fromarray(pictures[0]).save(single)
    assert main(["statistics", str(folder), str(single), str(single), "--out", str(tmp_path / "t.csv")]) == 0
    said = capsys.readouterr().out
    assert "4 rows" in said
    table = rows(tmp_path / "t.csv")
    least, *_, most = sorted(float(row["index"]) for row in table)
    assert f"from {least:.2f} to {most:.2f}." in said.splitlines()[-1]
    assert [row["file"] for row in table] == [*(str(folder / f"0{i}.png") for i in range(3)), str(single)]
    assert list(table[0]) == ["file", *STATISTICS, "index"]
    for row, picture in zip(table, pictures, strict=False):
        found = assess(picture)
        assert {name: float(row[name]) for name in STATISTICS} == pytest.approx(found.statistics, rel=1e-5)
        assert float(row["index"]) == pytest.approx(found.index, abs=1e-4)


def test_bad_input_is_a_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(UserError, match=r"There is no .*absent"):
        statistics([tmp_path / "absent"], tmp_path / "t.csv")
    with pytest.raises(UserError, match=r"No pictures in .*empty"):
        statistics([tmp_path / "empty"], tmp_path / "t.csv")
    with pytest.raises(UserError, match="None of the pictures"):
        statistics([tmp_path / "broken.png"], tmp_path / "t.csv")


def test_one_bad_file_costs_its_row_and_nothing_else(tmp_path, capsys):
    folder = save(tmp_path / "pictures", scenes(2, 3), ["", ""])
    (folder / "broken.png").write_text("no picture")
    Image.new("RGB", (3, 2000)).save(folder / "strip.png")
    assert main(["statistics", str(folder), "--out", str(tmp_path / "t.csv")]) == 1
    assert [Path(row["file"]).name for row in rows(tmp_path / "t.csv")] == ["00.png", "01.png"]
    told = capsys.readouterr()
    assert "broken.png" in told.err and "strip.png" in told.err and "manifest.csv" not in told.err


# ---- calibrate


def labelled(kind: str, groups: dict[str, int]) -> list[calibration.Labelled]:
    return [
        calibration.Labelled(Path(f"{group}-{i}.png"), kind, group, "landscape")
        for group, count in groups.items()
        for i in range(count)
    ]


def test_painters_are_held_back_whole_in_all_kinds_and_a_fifth_of_each_at_least():
    pictures = labelled("paintings", dict.fromkeys("ABCDEFGHIJ", 10)) + labelled("styles", dict.fromkeys("ABXYZ", 4))
    pictures += labelled("photographs", {"large": 50, "p": 10, "q": 10, "r": 10})
    held = calibration.held_back(pictures)
    assert "large" not in held, "a source with more than a third of the photographs"
    for kind, count in {"paintings": 20, "styles": 4, "photographs": 16}.items():
        assert sum(picture.group in held for picture in pictures if picture.kind == kind) >= count
    assert held == calibration.held_back(list(reversed(pictures))), "the rule looks at names alone"


def test_calibration_tells_painted_from_drawn_and_writes_a_model_that_the_index_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(calibration, "DOSED", 1)
    monkeypatch.setattr(calibration, "DRAWS", 50)
    drawn = scenes(16, 5)
    painted = [haeberli(np.asarray(Image.fromarray(one).resize((224, 224))), 1.0) for one in drawn[:8]]
    folders = {}
    for kind, pictures in {"paintings": painted, "styles": drawn[8:12], "photographs": drawn[12:]}.items():
        artists = [f"{kind} {i if kind == 'photographs' else i // 2}" for i in range(len(pictures))]
        folders[kind] = save(tmp_path / kind, pictures, artists)
    calibration.calibrate(folders, tmp_path / "out", workers=1, kept=tmp_path / "features.npz")
    found = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert found["index"]["auc"] > 0.9 and found["index"]["auc_styles"] > 0.9
    assert found["index"]["auc_interval"][0] <= found["index"]["auc"]
    assert set(found["index"]["spoiled"]) == set(calibration.TRIED)
    assert found["pictures"] == {"paintings": 8, "styles": 4, "photographs": 4}
    model, own = load_file(tmp_path / "out" / "index.safetensors"), load_file(MODEL)
    assert {name: part.shape for name, part in model.items()} == {name: part.shape for name, part in own.items()}

    first = (tmp_path / "out" / "calibration.json").read_bytes()
    calibration.calibrate(folders, tmp_path / "again", workers=1, kept=tmp_path / "features.npz")
    assert (tmp_path / "again" / "calibration.json").read_bytes() == first, "from the kept features"


@pytest.mark.parametrize("text", [None, "file,artist\n", "file,title\na.png,b\n"])
def test_a_folder_without_a_usable_manifest_is_refused_in_a_sentence(tmp_path, text):
    if text:
        (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.csv"):
        calibration.manifest(tmp_path, "paintings")
