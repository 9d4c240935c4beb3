"""A picture's settings as a link, and back again: from a link's query, or from a PNG that carries its recipe.

    ?prompt=a+cottage+at+noon&seed=2&strength=1

Nothing is kept on the server; what a link does not name stays as it is on the page.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from PIL import Image

from impressionism import paint
from impressionism.errors import UserError
from impressionism.grid import SHEET
from impressionism.names import BLOCK_GROUPS
from impressionism.records import ImageMetadata

LONGEST_TEXT = 128 * 1024  # characters of JSON in a PNG
MOST_RECIPES = 64  # on a sheet
PARAMS = ("prompt", "seed", "steps", "guidance", "width", "height")
NUMBERS: dict[str, type[int] | type[float]] = {
    **dict.fromkeys(("seed", "steps", "width", "height", "fast"), int),
    **dict.fromkeys(("guidance", "strength", "change", *BLOCK_GROUPS), float),
}


def settings_of(recipes: Sequence[ImageMetadata]) -> dict[str, Any]:
    """Everything that the page can set: the strengths of all these pictures, and else what the last one was painted
    with."""
    last, strengths = recipes[-1], list(dict.fromkeys(recipe.strength for recipe in recipes))
    settings = last.sampling.to_dict() | {"strengths": strengths, "fast": int(last.fast)}
    settings |= {"adapter": last.provenance.adapter} if last.provenance.adapter else {}
    settings |= last.blocks.to_dict() if last.blocks else {}
    if last.upscale:  # those of the picture that was enlarged
        return settings | {"width": last.sampling.width // 2, "height": last.sampling.height // 2}
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
        if name in ("prompt", "adapter"):
            settings[name] = text
        elif name == "strength":
            settings.setdefault("strengths", []).append(number(name, text))
        elif name in NUMBERS:
            settings[name] = number(name, text)
    return settings


def settings_in(link: Any) -> dict[str, Any]:
    return settings_from(parse_qsl(str(link).removeprefix("?"), keep_blank_values=True))


def number(name: str, text: str) -> float:
    try:
        return NUMBERS[name](text)
    except ValueError:
        raise UserError(f"This link’s {name} is not a number; ask for the link again.") from None


def recipes_in(path: str | Path) -> list[ImageMetadata]:
    """A picture's recipe, or all those of a contact sheet; only the text is read, no pixel is decoded."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if SHEET not in image.info:
                short(image.info.get(paint.KEY, ""))
                return [paint.read_recipe(image)]
            sheet = json.loads(short(image.info[SHEET]))
            if not 1 <= len(sheet) <= MOST_RECIPES:
                raise ValueError("not the pictures of a sheet")
            return [ImageMetadata.from_dict(each) for each in sheet]
    except UserError:
        raise
    except Exception:  # decoders raise almost anything, and JSON that is nested too deeply a RecursionError
        raise UserError("This file carries no recipe; only an untouched PNG from this painter does.") from None


def short(text: str) -> str:
    """A recipe takes 2 KB and a sheet 50; longer texts cost seconds to read, and are none of ours."""
    if len(text) > LONGEST_TEXT:
        raise ValueError("longer than any recipe")
    return text
