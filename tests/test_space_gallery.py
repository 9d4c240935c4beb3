"""The showcase as the page reads it."""

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from impressionism.paint import read_recipe
from impressionism.pipeline import Painter
from impressionism.records import GenerationParams, ImageMetadata, Pair, Provenance
from space import app
from space.gallery import SHOWCASE, by_genre, on_easel, on_wall, pairs_in, sides
from space.recipes import link
from space.tabs.gallery import MISSING


def pair(genre: str, gain: float, prompt: str = "a haystack") -> Pair:
    recipe = ImageMetadata(
        sampling=GenerationParams(prompt=prompt), strength=0.8, provenance=Provenance(base="miniature")
    )
    return Pair(base="base.webp", adapted="adapted.webp", genre=genre, chosen="best", gain=gain, recipe=recipe)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("base", "adapted"):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.webp")
    return tmp_path


def test_pairs_are_read_in_the_order_of_the_file_and_a_missing_folder_has_none(folder: Path):
    pairs = [pair("urban", 0.1), pair("landscape", 0.3)]
    (folder / "showcase.jsonl").write_text("".join(each.to_json() + "\n" for each in pairs))
    assert pairs_in(folder) == pairs
    assert pairs_in(folder / "nothing") == []


def test_genres_keep_their_order_and_the_largest_gain_hangs_first():
    pairs = [pair("urban", 0.1), pair("landscape", 0.3), pair("urban", 0.2)]
    assert by_genre(pairs) == {"urban": [pairs[2], pairs[0]], "landscape": [pairs[1]]}


def test_a_pair_shows_both_pictures_with_texts_from_its_recipe(folder: Path):
    place = on_wall(folder, pair("urban", 0.1, "gas lamps"))
    before, after = place["images"]
    assert "by the base model" in before["alt"]
    assert "strength 0.8" in after["alt"]
    assert all("gas lamps" in text for text in (before["alt"], after["alt"], place["caption"]))


def test_on_the_easel_a_pair_has_the_link_to_its_settings(folder: Path):
    chosen = pair("urban", 0.1)
    shown = on_easel(folder, chosen)
    assert [place["caption"] for place in shown["items"]] == ["Base model", "Impressionist, strength 0.8"]
    assert shown["link"] == link([chosen.recipe])


def test_the_committed_pictures_carry_their_recipes():
    assert pairs_in(SHOWCASE)
    for pair in (pair for pair in pairs_in(SHOWCASE) if pair.adapted.endswith(".png")):  # large ones are WebP
        assert tuple(read_recipe(SHOWCASE / file) for file in (pair.base, pair.adapted)) == sides(pair)


def test_the_page_opens_with_a_pair_of_its_own_adapter_or_with_none(tiny_painter: Painter, folder: Path):
    own = pair("urban", 0.1, "a pond at night")
    [info] = tiny_painter.adapters.values()
    for revision, opened in ((info.revision, True), ("another", False)):
        was = dataclasses.replace(tiny_painter.provenance, adapter_revision=revision)
        line = dataclasses.replace(own, recipe=own.recipe.replace(provenance=was)).to_json()
        (folder / "showcase.jsonl").write_text(line + "\n")
        values = [str(each["props"].get("value")) for each in app.build(tiny_painter, folder).config["components"]]
        assert ("a pond at night" in values) == opened
        assert ("{'empty': 'Nothing is painted yet.'}" in values) != opened
        assert any("not by the adapter of this page" in value for value in values) != opened


def test_without_a_showcase_the_tab_says_so(tiny_painter: Painter, tmp_path: Path):
    config = app.build(tiny_painter, tmp_path).config
    assert MISSING in [component["props"].get("value") for component in config["components"]]
