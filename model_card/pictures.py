"""The card's pictures: small WebPs of what hangs in the gallery, chosen by the records and never by hand."""

import io
from collections.abc import Iterable
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from impressionism.records import Exhibit, Pair
from model_card.evidence import RunRecords

SIDE = 768  # px, at most
QUALITY = 90  # brush strokes survive it
ROWS = 3  # of the sheet of strengths
CAPTION = 22  # px above each of its pictures


def siblings(evidence: RunRecords, exhibit: Exhibit) -> list[Exhibit]:
    """All that was painted for one prompt from one noise, this one too."""
    return [
        other
        for other in evidence.exhibits
        if other.prompt == exhibit.prompt and other.recipe.sampling.seed == exhibit.recipe.sampling.seed
    ]


def named(evidence: RunRecords, files: Iterable[str]) -> list[Exhibit]:
    """The gallery's pictures with these file names."""
    by_file = {exhibit.file: exhibit for exhibit in evidence.exhibits}
    return [by_file[file] for file in files]


def sibling(evidence: RunRecords, exhibit: Exhibit, arm: str) -> Exhibit | None:
    """The same noise painted in another arm, with the adapter at the same strength."""
    return next(
        (
            other
            for other in siblings(evidence, exhibit)
            if other.arm == arm and (arm.startswith("base") or other.recipe.strength == exhibit.recipe.strength)
        ),
        None,
    )


def exhibit_of(evidence: RunRecords, pair: Pair) -> Exhibit:
    """The gallery's own picture that a pair of the showcase shows."""
    return next(exhibit for exhibit in evidence.exhibits if exhibit.recipe == pair.recipe)


def name_of(exhibit: Exhibit) -> str:
    """Of its file on the card."""
    seed = exhibit.recipe.sampling.seed
    return f"images/{exhibit.prompt}-{seed}-{exhibit.arm}-{exhibit.recipe.strength:g}.webp"


def webp(evidence: RunRecords, exhibit: Exhibit) -> Image.Image:
    with Image.open(evidence.picture(exhibit)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return small


def encoded(picture: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="webp", quality=QUALITY, method=6, **options)
    return file.getvalue()


def said_of(exhibit: Exhibit) -> Image.Exif:
    """What the file says to those who open it elsewhere: that it is AI-generated, and how."""
    from impressionism.paint import NOTICE, summary

    exif = Image.Exif()
    exif[0x010E] = f"{NOTICE}. {summary(exhibit.recipe)}"  # ImageDescription
    return exif


def files_of(evidence: RunRecords, exhibits: Iterable[Exhibit]) -> dict[str, bytes]:
    """By the names under which the card shows them."""
    named = {name_of(exhibit): exhibit for exhibit in exhibits}
    return {name: encoded(webp(evidence, exhibit), exif=said_of(exhibit)) for name, exhibit in named.items()}


def rows_of_strengths(evidence: RunRecords, shown: Iterable[Exhibit]) -> list[list[Exhibit]]:
    """Of the first prompts shown, the noise that was painted at most strengths; the base model's picture first."""
    rows: dict[str, list[Exhibit]] = {}
    for one in sorted(evidence.exhibits, key=lambda one: one.recipe.strength):
        if one.arm in ("base", "adapter"):
            rows.setdefault(f"{one.prompt} {one.recipe.sampling.seed}", []).append(one)
    longest = {exhibit.prompt: max((row for row in rows.values() if row[0].prompt == exhibit.prompt), key=len)
               for exhibit in shown}  # fmt: skip
    most = max(map(len, longest.values()), default=0)
    return [row for row in longest.values() if len(row) == most][:ROWS] if most > 2 else []


def sheet(evidence: RunRecords, rows: list[list[Exhibit]]) -> Image.Image:
    """A row a prompt, a column a strength, all from the row's one noise."""
    pictures = [[webp(evidence, exhibit) for exhibit in row] for row in rows]
    side = 1600 // len(rows[0])
    for picture in (picture for row in pictures for picture in row):
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    width = max(picture.width for row in pictures for picture in row)
    heights = [CAPTION + max(picture.height for picture in row) for row in pictures]
    result = Image.new("RGB", (width * len(rows[0]), sum(heights)), "white")
    draw, font, top = ImageDraw.Draw(result), ImageFont.load_default(15), 0
    for row, hung, height in zip(rows, pictures, heights, strict=True):
        for column, (exhibit, picture) in enumerate(zip(row, hung, strict=True)):
            strength = exhibit.recipe.strength
            label = f"strength {strength:g}" if strength else "base model"
            draw.text((column * width + 6, top + 3), label, fill="black", font=font)
            result.paste(picture, (column * width, top + CAPTION))
        top += height
    return result
