"""A recipe travels in a link and in a PNG, and comes back as it left."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from PIL import Image, PngImagePlugin

from impressionism import paint
from impressionism.errors import UserError
from impressionism.grid import SHEET
from impressionism.records import BlockStrengths, GenerationParams, ImageMetadata, Provenance
from space.recipes import link, recipes_in, settings_from, settings_of

SAMPLING = GenerationParams(
    prompt="a boat & “seagulls” at 100 % dawn?", seed=7, steps=12, guidance=2.5, width=192, height=144
)
RECIPE = ImageMetadata(sampling=SAMPLING, strength=0.75, provenance=Provenance(base="miniature"))
ROW = [dataclasses.replace(RECIPE, strength=strength) for strength in (-0.5, 0.0, 1 / 3, 1.0)]


OTHERS = [
    RECIPE.replace(source="ab" * 32, change=0.4),
    RECIPE.replace(fast=True, blocks=BlockStrengths(two_stream=0.5), provenance=Provenance(base="b", adapter="a/b")),
]


@pytest.mark.parametrize("recipes", [[RECIPE], ROW, *([other] for other in OTHERS)])
def test_a_link_brings_back_every_setting(recipes: list[ImageMetadata]):
    assert settings_from(parse_qsl(link(recipes)[1:])) == settings_of(recipes)


def test_the_sheet_of_a_grid_with_rows_brings_each_strength_once_and_the_last_rows_settings():
    rows = [one.replace(sampling=SAMPLING.replace(seed=seed)) for seed in (1, 2) for one in ROW]
    settings = settings_of(rows)
    assert (settings["strengths"], settings["seed"]) == ([one.strength for one in ROW], 2)


def test_an_upscaled_picture_leads_to_the_one_that_was_enlarged():
    large = SAMPLING.replace(width=384, height=288)
    settings = settings_of([RECIPE.replace(sampling=large, source="ab" * 32, change=0.2, upscale=True)])
    assert (settings["width"], settings["height"]) == (192, 144)
    assert "change" not in settings


def test_a_link_sets_what_it_names_and_ignores_what_is_not_its_own():
    query = [("prompt", "a haystack"), ("__theme", "dark"), ("view", "api")]
    assert settings_from(query) == {"prompt": "a haystack"}
    assert settings_from([("utm_source", "somewhere")]) == {}


@pytest.mark.parametrize("wrong", [("seed", "seven"), ("seed", "1.5"), ("strength", ""), ("width", "<b>")])
def test_a_link_with_no_number_where_one_belongs_is_refused_in_a_sentence(wrong: tuple[str, str]):
    with pytest.raises(UserError, match=rf"This link’s {wrong[0]} is not a number"):
        settings_from([wrong])


def test_a_picture_brings_its_recipe(tmp_path: Path):
    assert recipes_in(paint.save(Image.new("RGB", (192, 144)), ROW[0], tmp_path / "picture.png")) == [ROW[0]]


def broken(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"no picture" * 99)


def photograph(path: Path) -> None:
    Image.new("RGB", (9, 9)).save(path, "JPEG")


def without(path: Path) -> None:
    Image.new("RGB", (9, 9)).save(path)


def saying(key: str, text: str) -> Callable[[Path], None]:
    """A PNG with this text, as somebody might write one by hand."""

    def make(path: Path) -> None:
        info = PngImagePlugin.PngInfo()
        info.add_itxt(key, text)
        Image.new("RGB", (9, 9)).save(path, pnginfo=info)

    return make


HAND_MADE = [
    saying(SHEET, "[]"),
    saying(SHEET, "[[1]]"),
    saying(SHEET, "7"),
    saying(SHEET, "[" * 50_000),
    saying(SHEET, json.dumps([dataclasses.asdict(ROW[0])] * 65)),
    saying(SHEET, json.dumps([dataclasses.asdict(ROW[0]) | {"source": "x" * 200_000}])),
    saying("impressionism", json.dumps(dataclasses.asdict(ROW[0]) | {"source": "x" * 200_000})),
    saying(SHEET, json.dumps([dataclasses.asdict(ROW[0]) | {"provenance": "mine"}])),
    saying(SHEET, json.dumps([dataclasses.asdict(ROW[0]) | {"sampling": "a boat"}])),
]


@pytest.mark.parametrize("make", [broken, photograph, without, *HAND_MADE])
def test_a_file_without_a_recipe_is_refused_in_a_sentence(make, tmp_path: Path):
    make(tmp_path / "picture.png")
    with pytest.raises(UserError, match="carries no recipe; only an untouched PNG from this painter does"):
        recipes_in(tmp_path / "picture.png")
