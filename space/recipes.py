"""A picture's settings as a link, and back again: from a link's query, or from a PNG that carries its recipe.

    ?prompt=two+haystacks+in+a+field+at+sunset&seed=3&strength=1

Nothing is kept on the server; what a link does not name stays as it is on the page.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image, PngImagePlugin

from impressionism import paint
from impressionism.errors import UserError
from impressionism.records import ImageMetadata

SHEET = "impressionism-sheet"  # the PNG text of a contact sheet: a list of recipes
NUMBERS: dict[str, type[int] | type[float]] = {
    "seed": int,
    "steps": int,
    "guidance": float,
    "width": int,
    "height": int,
    "strength": float,
    "change": float,
}


def settings_of(recipes: Sequence[ImageMetadata]) -> dict[str, Any]:
    """Everything that the page can set, of pictures that differ in nothing but their strength."""
    last = recipes[-1]
    settings = dataclasses.asdict(last.sampling) | {"strengths": [recipe.strength for recipe in recipes]}
    return settings | ({"change": last.change} if last.change is not None else {})


def link(recipes: Sequence[ImageMetadata]) -> str:
    """The query that settings_from reads; several strengths are named one by one."""
    if not recipes:
        return ""
    settings = settings_of(recipes)
    strengths = [("strength", repr(strength).removesuffix(".0")) for strength in settings.pop("strengths")]
    return "?" + urlencode([*settings.items(), *strengths])


def settings_from(query: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """What a link's query sets; parameters that are not ours are nobody's here."""
    settings: dict[str, Any] = {}
    for name, text in query:
        if name == "prompt":
            settings["prompt"] = text
        elif name == "strength":
            settings.setdefault("strengths", []).append(number(name, text))
        elif name in NUMBERS:
            settings[name] = number(name, text)
    return settings


def number(name: str, text: str) -> float:
    try:
        return NUMBERS[name](text)
    except ValueError:
        raise UserError(f"This link’s {name} is not a number; ask for the link again.") from None


def recipes_in(path: str | Path) -> list[ImageMetadata]:
    """Of a picture its recipe, of a contact sheet all; only the text is read, no pixel is decoded."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if SHEET not in image.info:
                return [paint.read_recipe(image)]
            if recipes := [ImageMetadata.from_dict(each) for each in json.loads(image.info[SHEET])]:
                return recipes
            raise ValueError("a sheet of no picture")
    except UserError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SyntaxError, Image.DecompressionBombError):
        raise UserError("This file carries no recipe; only an untouched PNG from this painter does.") from None


def sheet_text(recipes: Sequence[ImageMetadata]) -> PngImagePlugin.PngInfo:
    """What the PNG of a contact sheet says of its pictures."""
    text = PngImagePlugin.PngInfo()
    text.add_itxt(SHEET, json.dumps([dataclasses.asdict(recipe) for recipe in recipes], ensure_ascii=False))
    text.add_itxt("Software", "impressionism")
    text.add_itxt("Comment", paint.NOTICE)
    return text
