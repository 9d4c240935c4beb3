"""A grid names what differs, paints what differs once, and its sheet shows every picture whole beside its labels."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from impressionism.grid import (
    LARGEST,
    axis,
    caption_among,
    changed,
    columns_for,
    contact_sheet,
    grid_of,
    main,
    save_sheet,
    sheet_caption,
)  # fmt: skip
from impressionism.records import BlockStrengths, GenerationParams, ImageMetadata, Provenance
from space.recipes import recipes_in

RECIPE = ImageMetadata(
    sampling=GenerationParams(prompt="a windmill", seed=4), strength=0.5, provenance=Provenance(base="miniature")
)


def plain(colours: list[str], size: tuple[int, int]) -> list[Image.Image]:
    return [Image.new("RGB", size, colour) for colour in colours]


def box_of(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, width and height of all pixels of a colour."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=-1))
    assert len(rows), f"no {colour} on the sheet"
    return int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


def differing(one: Image.Image, other: Image.Image) -> tuple[range, range]:
    """Rows and columns in which two sheets differ."""
    rows, columns = np.nonzero((np.asarray(one) != np.asarray(other)).any(axis=-1))
    assert len(rows)
    return range(rows.min(), rows.max() + 1), range(columns.min(), columns.max() + 1)


def test_every_picture_is_on_the_sheet_in_reading_order():
    sheet = contact_sheet(plain(["#f00", "#0f0", "#00f"], (64, 48)), ["one", "two", "three"], "a caption")
    boxes = [box_of(sheet, colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    assert [(width, height) for *_, width, height in boxes] == [(64, 48)] * 3
    assert [left for left, *_ in boxes] == sorted(left for left, *_ in boxes)


def test_each_label_stands_under_its_picture_and_changes_nothing_else():
    pictures = plain(["#f00", "#00f"], (96, 96))
    labelled = contact_sheet(pictures, ["", "strength 1"], "")
    left, top, width, height = box_of(labelled, (0, 0, 255))
    rows, columns = differing(contact_sheet(pictures, ["", ""], ""), labelled)
    assert rows.start > top + height - 1
    assert left <= columns.start < columns.stop <= left + width


def test_in_a_table_a_column_s_label_stands_above_it_and_a_row_s_beside_it():
    pictures = plain(["#f00", "#00f", "#0f0", "#ff0"], (96, 96))
    sheet = contact_sheet(pictures, ["one", "two"], "", ["upper", "lower"])
    red, blue, green = (box_of(sheet, colour) for colour in ((255, 0, 0), (0, 0, 255), (0, 255, 0)))
    assert (red[1], red[0]) == (blue[1], green[0]) and red[0] < blue[0] and red[1] < green[1]
    rows, columns = differing(sheet, contact_sheet(pictures, ["one", "xyz"], "", ["upper", "lower"]))
    assert rows.stop <= blue[1] and blue[0] - 2 < columns.start < columns.stop <= blue[0] + blue[2]
    rows, columns = differing(sheet, contact_sheet(pictures, ["one", "two"], "", ["upper", "loved"]))
    assert green[1] <= rows.start < rows.stop <= green[1] + green[3] and columns.stop <= green[0]


def test_a_large_picture_is_reduced_and_a_long_caption_is_cut():
    sheet = contact_sheet(plain(["#f00"], (1024, 2048)), ["strength 1"], "a very long prompt " * 200)
    assert box_of(sheet, (255, 0, 0))[2:] == (LARGEST // 2, LARGEST)
    assert sheet.height < 2 * LARGEST


@pytest.mark.parametrize(("pictures", "columns"), [(1, 1), (2, 2), (4, 4), (5, 3), (6, 3), (7, 4)])
def test_the_rows_are_as_even_as_can_be(pictures: int, columns: int):
    assert columns_for(pictures) == columns


def test_a_sheet_carries_the_recipes_of_all_its_pictures(tmp_path: Path):
    row = [RECIPE.replace(strength=strength) for strength in (0.0, 1 / 3, 1.0)]
    assert recipes_in(save_sheet(Image.new("RGB", (9, 9)), row, tmp_path / "new" / "sheet.png")) == row


def test_a_sheet_s_caption_names_what_all_pictures_have_in_common():
    by_seed, by_prompt = axis("seed", ["1"]), axis("prompt", ["a boat"])
    assert (
        sheet_caption(RECIPE.sampling, grid_of(axis("blocks"), by_seed, 1.0)) == "AI-generated, 20 steps: “a windmill”"
    )
    assert sheet_caption(RECIPE.sampling, grid_of(by_prompt, None, 1.0)) == "AI-generated, seed 4, 20 steps"


def test_captions_name_the_settings_in_which_the_pictures_differ():
    other = RECIPE.replace(
        sampling=RECIPE.sampling.replace(seed=5), blocks=BlockStrengths(early_single=0, late_single=0)
    )
    assert caption_among([RECIPE, RECIPE])(RECIPE) == "Impressionist, strength 0.5"
    caption = caption_among([RECIPE, other])
    assert caption(RECIPE) == "Impressionist, strength 0.5, all blocks, seed 4"
    assert caption(other) == "Impressionist, strength 0.5, only two-stream blocks, seed 5"
    assert caption_among([RECIPE.replace(strength=0.0), other])(RECIPE.replace(strength=0.0)) == "Base model, seed 4"


def test_a_grid_without_the_adapter_has_a_column_for_it_or_else_a_row():
    by_seed, by_block = axis("seed", ["1", "2", "2"]), axis("blocks")
    assert by_seed.values == (1, 2)
    first_column = grid_of(by_block, by_seed, 1.0, no_adapter=True).cells()
    assert first_column[:2] == [{"seed": 1, "strength": 0.0}, {"seed": 1, "blocks": "two_stream"}]
    first_row = grid_of(by_seed, None, 0.8, no_adapter=True)
    assert first_row.rows and [first_row.rows.label(one) for one in first_row.rows.values] == [
        "No adapter",
        "Strength 0.8",
    ]
    assert [cell["strength"] for cell in first_row.cells()] == [0, 0, 0.8, 0.8]
    strengths = axis("strength", ["0", "1"])
    assert grid_of(strengths, by_seed, 1.0, no_adapter=True) == grid_of(strengths, by_seed, 1.0)


def test_a_cell_changes_the_params_the_strength_and_the_other_keywords():
    grid = grid_of(axis("blocks"), axis("steps", ["3", " 5 ", ""]), 1.0)
    params, strength, more = changed(RECIPE.sampling, 0.8, grid.cells()[-1])
    assert (params.steps, params.seed, strength) == (5, 4, 0.8)
    assert more == {"blocks": BlockStrengths(two_stream=0, early_single=0, late_single=1)}
    by_adapter = grid_of(axis("strength", ["0.5"]), axis("adapter", ["a", "b"]), 1.0)
    assert changed(RECIPE.sampling, 1.0, by_adapter.cells()[1]) == (RECIPE.sampling, 0.5, {"adapter": "b"})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a boat", "--columns", "seed", "one"], "The values of seed must be whole numbers, not one."),
        (["a boat", "--columns", "strength"], "Enter 1 to 7 values for strength; there are 0."),
        (["a boat", "--columns", "guidance", "3"], "There is no axis guidance; there are strength, seed,"),
        (["a boat", "--columns", "blocks", "middle"], "There is no block group middle; there are two_stream,"),
        (["a boat", "--columns", "seed", "1", "--rows", "seed", "2"], "Both axes are seed; choose another setting"),
        (["--columns", "seed", "1"], "Say what to paint"),
        (["a boat", "--out", "grid.jpg"], "grid.jpg cannot carry a recipe; name the picture something.png."),
    ],
)
def test_a_grid_that_cannot_be_painted_is_refused_before_a_model_is_loaded(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
):
    assert main([*arguments, "--model", "no such model"]) == 2
    assert says in capsys.readouterr().err


def test_the_command_writes_a_sheet_and_a_page_and_paints_each_picture_once(
    tiny_flux: Path, tiny_adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tiny = ["--model", str(tiny_flux), "--adapter", str(tiny_adapter), "--device", "cpu"]
    small = ["--steps", "2", "--width", "64", "--height", "64", "--out", str(tmp_path / "grid.png")]
    two_axes = ["--columns", "strength", "0", "1", "--rows", "blocks", "two_stream", "late_single"]
    assert main(["a <b>boat</b>", *two_axes, *tiny, *small]) == 0
    said = capsys.readouterr()
    assert [Path(line).name for line in said.out.splitlines()[-2:]] == ["grid.png", "grid.html"]
    assert "step 6 of 6" in said.err  # of 2 steps each: the base model's picture is the same in both rows
    recipes = recipes_in(tmp_path / "grid.png")
    assert [one.strength for one in recipes] == [0, 1, 0, 1]
    assert [one.blocks and one.blocks.late_single for one in recipes] == [0, 0, 1, 1]
    page = (tmp_path / "grid.html").read_text()
    assert page.count("data:image/webp;base64,") == 4 and "<b>boat" not in page
    heads = re.findall(r'<th scope="\w+">(.*?)</th>', page)
    assert heads == ["No adapter", "Strength 1", "Only two-stream blocks", "Only late single-stream blocks"]
