"""A grid of pictures from the same noise: one setting from left to right, another from top to bottom.

python -m impressionism.grid "a haystack at dawn" --columns strength 0 0.5 1 1.5 --rows seed 1 2 3
python -m impressionism.grid --columns prompt "a haystack at dawn" "a cottage at sunset" --rows adapter ./one ./two
python -m impressionism.grid "a haystack at dawn" --columns blocks --rows strength 0.5 1 --no-adapter

Writes a labelled PNG, which carries the recipe of every picture, and beside it the same as a page (HTML).
"""

import argparse
import json
import math
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from impressionism import names
from impressionism.__main__ import add_model_options, check_out, show, start, warn_of_words
from impressionism.errors import UserError
from impressionism.names import BLOCK_GROUPS

if TYPE_CHECKING:  # imported where they are used: PyTorch takes seconds, --help should not
    from PIL import Image

    from impressionism.pipeline import Painter
    from impressionism.records import GenerationParams, ImageMetadata

Setting = Literal["strength", "seed", "steps", "prompt", "adapter", "blocks"]
MOST_VALUES = 7  # of an axis
SHEET = "impressionism-sheet"  # the PNG text of a sheet: a list of recipes
PAPER, INK, FAINT = "#fbf8f1", "#2c2824", "#756b5d"
LARGEST = 512  # pixels of a picture's longer side on the sheet; smaller ones stay as they are


# ---- What differs


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes."""

    setting: Setting
    values: tuple[Any, ...]
    """None stands for a picture without the adapter, whatever the setting."""

    def label(self, value: Any) -> str:
        if value is None or (self.setting == "strength" and value == 0):
            return "No adapter"
        if self.setting == "strength":
            return f"Strength {value:g}"
        if self.setting == "blocks":
            return f"Only {BLOCK_GROUPS[value]} blocks"
        if self.setting == "adapter":
            return Path(value).name
        return {"seed": f"Seed {value}", "steps": f"{value} steps", "prompt": f"“{value}”"}[self.setting]


@dataclass(frozen=True)
class Grid:
    """Columns from left to right and, where there are any, rows from top to bottom."""

    columns: Axis
    rows: Axis | None = None

    def cells(self) -> list[dict[str, Any]]:
        """Row by row, the settings of each picture that differ from the others'."""
        rows = [{self.rows.setting: value} for value in self.rows.values] if self.rows else [{}]
        cells = [row | {self.columns.setting: value} for row in rows for value in self.columns.values]
        plain = [{name: value for name, value in cell.items() if value is not None} for cell in cells]
        return [
            cell | ({"strength": 0.0} if None in was.values() else {}) for was, cell in zip(cells, plain, strict=True)
        ]


def axis(setting: str, values: Sequence[str] = ()) -> Axis:
    """An axis from what was typed; without values the block groups are all three. Raises UserError."""
    if setting not in get_args(Setting):
        raise UserError(f"There is no axis {setting}; there are {', '.join(get_args(Setting))}.")
    texts = [text.strip() for text in values if text.strip()] or (list(BLOCK_GROUPS) if setting == "blocks" else [])
    if not 1 <= len(texts) <= MOST_VALUES:
        raise UserError(f"Enter 1 to {MOST_VALUES} values for {setting}; there are {len(texts)}.")
    if setting == "blocks" and (unknown := [text for text in texts if text not in BLOCK_GROUPS]):
        raise UserError(f"There is no block group {unknown[0]}; there are {', '.join(BLOCK_GROUPS)}.")
    read: dict[str, Callable[[str], Any]] = {"strength": float, "seed": int, "steps": int}
    try:
        found = dict.fromkeys(read.get(setting, str)(text) for text in texts)
    except ValueError:
        kind = "numbers" if setting == "strength" else "whole numbers"
        raise UserError(f"The values of {setting} must be {kind}, not {', '.join(texts)}.") from None
    return Axis(setting, tuple(found))  # pyright: ignore[reportArgumentType]


def grid_of(columns: Axis, rows: Axis | None, strength: float, no_adapter: bool = False) -> Grid:
    """no_adapter: also without the adapter: a first column where the columns say how it paints, and else a first row,
    beside `strength` if there are no other rows. Raises UserError for two axes of one setting."""
    every = [columns, rows] if rows else [columns]
    if len({one.setting for one in every}) < len(every):
        raise UserError(f"Both axes are {columns.setting}; choose another setting for one of them.")
    if not no_adapter or any(one.setting == "strength" and 0 in one.values for one in every):
        return Grid(columns, rows)
    if columns.setting in ("strength", "adapter", "blocks"):
        return Grid(Axis(columns.setting, (None, *columns.values)), rows)
    rows = rows or Axis("strength", (strength,))
    return Grid(columns, Axis(rows.setting, (None, *rows.values)))


def changed(
    params: "GenerationParams", strength: float | None, cell: dict[str, Any]
) -> tuple[Any, Any, dict[str, Any]]:
    """The params, the strength and the further keywords of paint.request for a cell."""
    from impressionism.records import BlockStrengths

    cell = dict(cell)
    strength = cell.pop("strength", strength)
    more = {"adapter": cell.pop("adapter")} if "adapter" in cell else {}
    if group := cell.pop("blocks", None):
        more["blocks"] = BlockStrengths(**{name: float(name == group) for name in BLOCK_GROUPS})
    return params.replace(**cell), strength, more


# ---- Words


def caption_of(metadata: "ImageMetadata") -> str:
    return f"Impressionist, strength {metadata.strength:g}" if metadata.strength else "Base model"


def block_group(metadata: "ImageMetadata") -> str:
    blocks = metadata.blocks.to_dict() if metadata.blocks else dict.fromkeys(BLOCK_GROUPS, 1.0)
    only = [BLOCK_GROUPS[name] for name, value in blocks.items() if value]
    return "all blocks" if len(only) == len(blocks) else f"only {' and '.join(only)} blocks"


SAMPLING_TEXTS: tuple[Callable[["ImageMetadata"], str], ...] = (
    lambda metadata: f"seed {metadata.sampling.seed}",
    lambda metadata: f"{metadata.sampling.steps} steps",
    lambda metadata: f"“{metadata.sampling.prompt}”",
)
ADAPTER_TEXTS = (lambda metadata: str(metadata.provenance.adapter).split("/")[-1], block_group)


def caption_among(every: Sequence["ImageMetadata"]) -> Callable[["ImageMetadata"], str]:
    """A caption with the settings in which these pictures differ."""
    sampling = [text for text in SAMPLING_TEXTS if len({text(metadata) for metadata in every}) > 1]
    adapted = [metadata for metadata in every if metadata.strength]
    adapter = [text for text in ADAPTER_TEXTS if len({text(metadata) for metadata in adapted}) > 1]

    def caption(metadata: "ImageMetadata") -> str:
        texts = [*(adapter if metadata.strength else ()), *sampling]
        return ", ".join([caption_of(metadata), *(text(metadata) for text in texts)])

    return caption


# ---- The sheet, and the page


def columns_for(pictures: int) -> int:
    """Up to four in a row, and rows as even as can be: five are three and two."""
    return math.ceil(pictures / math.ceil(pictures / 4))


def contact_sheet(
    pictures: Sequence["Image.Image"], labels: Sequence[str], caption: str, rows: Sequence[str] = ()
) -> "Image.Image":
    """Pictures of one size, each over its label; where rows are named, a table with labels above and beside it."""
    from PIL import Image, ImageDraw, ImageFont

    from impressionism.files import thumbnail

    small = [thumbnail(picture, LARGEST) for picture in pictures]
    width, height = small[0].size
    columns = len(labels) if rows else columns_for(len(small))
    unit = max(12, min(width, height) // 12)  # the height of the letters, from which all distances follow
    font, line = ImageFont.load_default(unit), round(1.3 * unit)

    def lines_of(text: str, room: float, most: int = 3) -> list[str]:
        letters = max(8, int(room / font.getlength("abcdefghij") * 10))
        return textwrap.wrap(text, letters, max_lines=most, placeholder=" …") or [""]

    heads = [lines_of(label, width) for label in labels]
    head = line * max(map(len, heads)) + unit // 2
    side = min(width, max(round(font.getlength(row)) for row in rows)) + unit if rows else 0
    cell = (width + unit, height + unit + (0 if rows else head))
    top = unit + (head if rows else 0)
    across = side + columns * cell[0] + unit
    below = top + math.ceil(len(small) / columns) * cell[1]
    about = lines_of(caption, across - 2 * unit)
    sheet = Image.new("RGB", (across, below + line * len(about) + unit), PAPER)
    draw = ImageDraw.Draw(sheet)

    def write(x: int, y: int, lines: Sequence[str], ink: str = INK) -> None:
        for number, text in enumerate(lines):
            draw.text((x, y + number * line), text, ink, font)

    for place, picture in enumerate(small):
        x, y = side + unit + place % columns * cell[0], top + place // columns * cell[1]
        sheet.paste(picture, (x, y))
        if not rows:
            write(x, y + height + unit // 3, heads[place])
        elif place < columns:
            write(x, unit, heads[place])
    for number, row in enumerate(rows):
        write(unit, top + number * cell[1], lines_of(row, side - unit, 6))
    write(unit, below, about, FAINT)
    return sheet


def sheet_caption(params: "GenerationParams", grid: Grid) -> str:
    """What all pictures have in common; the prompt comes last, because a long caption is cut."""
    every = {"seed": f", seed {params.seed}", "steps": f", {params.steps} steps", "prompt": f": “{params.prompt}”"}
    axes = (grid.columns.setting, grid.rows and grid.rows.setting)
    return "AI-generated" + "".join(text for setting, text in every.items() if setting not in axes)


def save_sheet(sheet: "Image.Image", recipes: Sequence["ImageMetadata"], path: Path) -> Path:
    """The sheet as a PNG that carries the recipes of its pictures."""
    from PIL import PngImagePlugin

    from impressionism.files import write_atomic
    from impressionism.paint import COMPRESSION, NOTICE

    text = PngImagePlugin.PngInfo()
    text.add_itxt(SHEET, json.dumps([recipe.to_dict() for recipe in recipes], ensure_ascii=False))
    text.add_itxt("Software", "impressionism")
    text.add_itxt("Comment", NOTICE)
    return write_atomic(path, lambda file: sheet.save(file, "PNG", pnginfo=text, compress_level=COMPRESSION))


def page_of(grid: Grid, pictures: Sequence["Image.Image"], recipes: Sequence["ImageMetadata"], title: str) -> str:
    """One HTML file with the pictures in it; each has its settings as a caption."""
    from jinja2 import Environment, FileSystemLoader

    from impressionism.files import data_url, thumbnail
    from impressionism.paint import NOTICE

    caption, columns = caption_among(recipes), len(grid.columns.values)
    cells = [
        {"source": data_url(thumbnail(picture, 2 * LARGEST), quality=90), "caption": caption(recipe), "recipe": recipe}
        for picture, recipe in zip(pictures, recipes, strict=True)
    ]
    heads = [grid.rows.label(value) for value in grid.rows.values] if grid.rows else [""]
    rows = [(head, cells[number * columns : (number + 1) * columns]) for number, head in enumerate(heads)]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return environment.get_template("grid.html.j2").render(
        title=title, columns=[grid.columns.label(value) for value in grid.columns.values], rows=rows, notice=NOTICE
    )


# ---- The command


def parser() -> argparse.ArgumentParser:
    prog = names.program("grid", "impressionism.grid")
    result = argparse.ArgumentParser(
        prog=prog,
        description=(__doc__ or "").replace("python -m impressionism.grid", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    settings = ", ".join(get_args(Setting))
    add("prompt", nargs="?", default="", help="what to paint, in English; an axis of prompts takes its place")
    add("--columns", nargs="+", metavar="VALUE", default=["strength", "0", "0.5", "1"],
        help=f"a setting ({settings}) and its values, from left to right (default: strength 0 0.5 1)")  # fmt: skip
    add("--rows", nargs="+", metavar="VALUE", help="another setting and its values, from top to bottom")
    add("--no-adapter", action="store_true", help="also without the adapter: a first column, or a first row")
    add("--strength", type=float, help="where it is no axis (default: what the adapter recommends, or 1)")
    add("--fast", action="store_true", help="few steps, with the accelerator adapter")
    for name in ("seed", "steps", "width", "height"):
        add(f"--{name}", type=int)
    add("--guidance", type=float)
    add("--out", type=Path, default=Path("grid.png"), help="the PNG; the page is called NAME.html (default grid.png)")
    add_model_options(result)
    return result


def main(arguments: list[str] | None = None) -> int:
    return start(parser().parse_args(arguments), run)


def run(args: argparse.Namespace) -> None:
    """Every mistake that can be seen without the model is told before it is loaded."""
    columns = axis(args.columns[0], args.columns[1:])
    rows = axis(args.rows[0], args.rows[1:]) if args.rows else None
    given = {one.setting: one.values for one in (columns, rows) if one}
    grid_of(columns, rows, 1.0, args.no_adapter)
    prompts = given.get("prompt", (args.prompt,))
    if not prompts[0].strip():
        raise UserError("Say what to paint: before --columns, or as an axis of prompts.")
    check_out(args.out)

    from impressionism.paint import defaults
    from impressionism.pipeline import load_pipeline

    adapters = list(given.get("adapter", ())) or args.adapter or "auto"
    painter = load_pipeline(
        args.model or "auto", adapters, args.quantize or "auto", args.device, fast=args.fast or None
    )
    print(painter.about, flush=True)
    for one in prompts:
        warn_of_words(painter, one)
    if "adapter" in given:  # as they are called now
        renamed = Axis("adapter", tuple(painter.adapters))
        columns, rows = (renamed, rows) if columns.setting == "adapter" else (columns, renamed)
    typed = {name: getattr(args, name) for name in ("seed", "steps", "guidance", "width", "height")}
    params = defaults(painter, prompts[0], args.fast).replace(
        **{name: value for name, value in typed.items() if value is not None}
    )
    recommended = painter.adapter.recommended_strength if painter.adapter else names.DEFAULT_STRENGTH
    strength = recommended if args.strength is None else args.strength
    grid = grid_of(columns, rows, strength, args.no_adapter)
    pictures, recipes = painted(painter, grid, params, strength, args.fast)
    write(args.out, grid, pictures, recipes, sheet_caption(params, grid))


def painted(
    painter: "Painter", grid: Grid, params: "GenerationParams", strength: float, fast: bool
) -> tuple[list["Image.Image"], list["ImageMetadata"]]:
    """The pictures of all cells with their recipes; cells that come to the same are painted once."""
    from impressionism.paint import key_of, paint_all, request

    requests = []
    for cell in grid.cells():
        one, at, more = changed(params, strength, cell)
        requests.append(request(painter, one, at, fast=fast, **more))
    distinct = {key_of(one.metadata): one for one in requests}
    pictures = dict(zip(distinct, paint_all(painter, list(distinct.values()), on_step=show), strict=True))
    return [pictures[key_of(one.metadata)] for one in requests], [one.metadata for one in requests]


def write(
    out: Path, grid: Grid, pictures: Sequence["Image.Image"], recipes: Sequence["ImageMetadata"], title: str
) -> None:
    """The contact sheet and, beside it, the page; prints their names."""
    from impressionism.files import write_atomic

    rows = [grid.rows.label(value) for value in grid.rows.values] if grid.rows else []
    sheet = contact_sheet(pictures, [grid.columns.label(value) for value in grid.columns.values], title, rows)
    print(save_sheet(sheet, recipes, out))
    print(write_atomic(out.with_suffix(".html"), page_of(grid, pictures, recipes, title)))


if __name__ == "__main__":
    sys.exit(main())
