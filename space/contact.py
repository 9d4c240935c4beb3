"""The contact sheet: pictures of one noise side by side, each with its label, and below them how they came about."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from impressionism import paint
from impressionism.records import ImageMetadata
from space.pictures import caption_among
from space.recipes import sheet_text

PAPER, INK, FAINT = "#fbf8f1", "#2c2824", "#756b5d"
LARGEST = 512  # pixels of a picture's longer side; smaller ones stay as they are


def columns_for(pictures: int) -> int:
    """Up to four in a row, and rows as even as can be: five are three and two."""
    return math.ceil(pictures / math.ceil(pictures / 4))


def contact_sheet(
    pictures: Sequence[Image.Image], labels: Sequence[str], caption: str, columns: int | None = None
) -> Image.Image:
    """All pictures are of one size."""
    small = [reduced(picture) for picture in pictures]
    width, height = small[0].size
    columns = columns or columns_for(len(small))
    unit = max(12, min(width, height) // 12)  # the height of the letters, from which all distances follow
    font = ImageFont.load_default(unit)
    cell = (width + unit, height + round(2.4 * unit))
    rows = math.ceil(len(small) / columns)
    across = columns * cell[0] + unit
    lines = wrapped(caption, font, across - 2 * unit)
    below = unit + rows * cell[1]
    sheet = Image.new("RGB", (across, below + round((1.4 * len(lines) + 0.6) * unit)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, (picture, label) in enumerate(zip(small, labels, strict=True)):
        left, top = unit + place % columns * cell[0], unit + place // columns * cell[1]
        sheet.paste(picture, (left, top))
        draw.text((left, top + height + unit // 3), label, INK, font)
    for row, line in enumerate(lines):
        draw.text((unit, below + round(1.4 * row * unit)), line, FAINT, font)
    return sheet


def reduced(picture: Image.Image) -> Image.Image:
    copy = picture.convert("RGB")
    copy.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return copy


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines that fit; a prompt may have 2,000 characters, of which a sheet shows the beginning."""
    letters = max(8, int(width / font.getlength("abcdefghij") * 10))
    return textwrap.wrap(text, letters, max_lines=3, placeholder=" …") or [""]


def save_sheet(paths: Sequence[str], recipes: Sequence[ImageMetadata], path: Path) -> Path:
    """The sheet of these pictures as a PNG that carries all their recipes."""
    sampling, label = recipes[0].sampling, caption_among(recipes)
    strengths = len({recipe.strength for recipe in recipes})
    columns = strengths if strengths < len(recipes) else None  # a row for each of what else differs
    caption = (
        f"AI-generated, seed {sampling.seed}, {sampling.steps} steps: “{sampling.prompt}”"  # what is cut is the prompt
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet([Image.open(each) for each in paths], [label(one) for one in recipes], caption, columns)
    sheet.save(path, pnginfo=sheet_text(recipes), compress_level=paint.COMPRESSION)
    return path
