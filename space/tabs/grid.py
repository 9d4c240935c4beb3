"""Grid: one setting from left to right and, if wanted, another from top to bottom; contact sheet and measurements."""

import secrets
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import pandas as pd
from gradio.utils import get_upload_folder
from PIL import Image

from impressionism.errors import UserError
from impressionism.grid import Axis, axis, caption_among, changed, contact_sheet, grid_of, save_sheet, sheet_caption
from impressionism.paint import PaintRequest
from impressionism.pictorial import STATISTICS, Assessment, assess
from impressionism.records import ImageMetadata
from space.painting import Job, Start, add_take, on_click
from space.pictures import front
from space.settings import LIGHT, TYPING, Settings, how_of, only
from space.studio import MOST_PICTURES, MOST_REMEMBERED, Picture, Request, Studio, real, sampling_of, weakest_first
from space.texts import PageTexts

INDEX = "Impressionist index (0 to 1)"
LABELS = {
    name: known.label + (f" ({known.unit})" if known.unit else "") + (", exploratory" if known.exploratory else "")
    for name, known in STATISTICS.items()
}
SETTINGS = {
    "strength": "Strength", "seed": "Seed", "prompt": "Prompt", "steps": "Steps", "adapter": "Adapter",
    "blocks": "Block group",
}  # fmt: skip
TYPED = {"seed": "1\n2\n3", "prompt": "a cottage at noon\na cottage at night", "steps": "5\n10\n20"}
"""Settings whose values a visitor writes, with an example."""


class AxisFields(NamedTuple):
    """The controls of one axis."""

    setting: gr.Dropdown
    values: gr.Textbox


def add_grid(studio: Studio, texts: PageTexts, settings: Settings, start: Start) -> None:
    kinds = [(label, name) for name, label in SETTINGS.items() if name != "adapter" or len(studio.painter.adapters) > 1]
    with gr.Row():
        columns = add_axis(studio, "columns", "Columns differ by", kinds, "strength")
        rows = add_axis(studio, "rows", "Rows differ by", [("Nothing (single row)", ""), *kinds], "")
    plain = gr.Checkbox(label="Also without the adapter", elem_id="no-adapter")
    board = front("wall", tab="grid", elem_id="grid-wall")
    sheet = gr.DownloadButton(
        "Contact sheet", visible=False, size="sm", min_width=120, scale=0, elem_id="sheet", render=False
    )
    add_take(sheet)
    measures, table = add_measures(texts)

    def choose(*axes: str) -> tuple[Any, Any]:
        """The strength is a slider where it is no axis."""
        tabs = ("paint", "repaint") if "strength" in axes else ("paint", "repaint", "grid")
        return gr.update(elem_classes=only(*tabs)), gr.update(visible="strength" in axes)

    both = [columns.setting, rows.setting]
    gr.on([each.input for each in both], choose, both, [settings.strength, settings.strengths], **LIGHT)  # type: ignore[attr-defined]
    axes = {"columns": columns.setting, "column_values": columns.values}
    axes |= {"rows": rows.setting, "row_values": rows.values}
    on_click(
        studio,
        start,
        board,
        settings.inputs("strengths", "strength") | axes | {"no_adapter": plain},
        partial(job_of, studio),
        finished={
            sheet: lambda job, pictures: gr.update(value=sheet_of(job, pictures), visible=bool(pictures)),
            table: measured,
            measures: lambda job, pictures: gr.update(visible=is_one_row(job, pictures)),
        },
    )


def add_axis(studio: Studio, name: str, label: str, kinds: list[tuple[str, str]], value: str) -> AxisFields:
    """A setting and, where a visitor writes them, its values; what the model cannot read in a prompt is said there."""
    with gr.Column(min_width=200):
        setting = gr.Dropdown(kinds, value=value, label=label, elem_id=name)
        values = gr.Textbox(label="Values, one per line", visible=False, lines=2, max_lines=4, elem_id=f"{name}-values")

    def unread(setting: str, lines: str) -> Any:
        sentences = [studio.unread(line) for line in lines.splitlines()] if setting == "prompt" else []
        return gr.update(info=" ".join(dict.fromkeys(filter(None, sentences))) or None)

    setting.input(
        lambda setting: gr.update(visible=setting in TYPED, value=TYPED.get(setting, "")), setting, values, **LIGHT
    )
    values.change(unread, [setting, values], values, **TYPING)
    return AxisFields(setting, values)


def job_of(
    studio: Studio, columns: str, column_values: str, rows: str, row_values: str, strengths: Any, strength: Any,
    no_adapter: bool, **values: Any,
) -> Job:  # fmt: skip
    """The pictures of a grid, checked."""

    def axis_of(setting: str, lines: str) -> Axis:
        found = {"strength": map(str, weakest_first(strengths)), "adapter": studio.painter.adapters}
        return axis(setting, list(found.get(setting, (lines or "").splitlines())))

    strength, down = real(strength), axis_of(rows, row_values) if rows else None
    grid = grid_of(axis_of(columns, column_values), down, strength, bool(no_adapter))
    cells = grid.cells()
    if len(cells) > MOST_PICTURES:
        raise UserError(f"This asks for {len(cells)} pictures; at most {MOST_PICTURES} at a time.")
    items: list[PaintRequest] = []
    for cell in cells:
        params, at, more = changed(sampling_of(values), strength, cell)
        items += studio.request(params, [at], **how_of(values) | more).items
    caption = caption_among([item.metadata for item in items])
    return Job(Request(tuple(items)), each=len(items), grid=grid, caption=caption)


def is_one_row(job: Job, pictures: Sequence[Picture]) -> bool:
    return len(pictures) > 1 and job.grid is not None and job.grid.rows is None


def sheet_of(job: Job, pictures: Sequence[Picture]) -> str | None:
    """A file that is deleted with the pictures; none of no pictures."""
    if not pictures or not job.grid:
        return None
    recipes = [ImageMetadata.from_dict(picture.recipe) for picture in pictures]
    rows = [job.grid.rows.label(value) for value in job.grid.rows.values] if job.grid.rows else []
    heads = [job.grid.columns.label(value) for value in job.grid.columns.values]
    sheet = contact_sheet(
        [Image.open(one.path) for one in pictures], heads, sheet_caption(recipes[0].sampling, job.grid), rows
    )
    return str(save_sheet(sheet, recipes, Path(get_upload_folder(), secrets.token_hex(16), "contact-sheet.png")))


def measured(job: Job, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """For each picture of one row its strength or its column's label, and every statistic by the name that the page
    gives it."""
    if not is_one_row(job, pictures):
        return []
    columns, rows = job.grid.columns, []  # pyright: ignore[reportOptionalMemberAccess]
    for picture, value in zip(pictures, columns.values, strict=True):
        values, index = assessed(picture.path)
        named = {label: values[name] for name, label in LABELS.items()}
        rows.append({"x": value if columns.setting == "strength" else columns.label(value), INDEX: index, **named})
    return rows


# ---- Measurements of a single row


def add_measures(texts: PageTexts) -> tuple[gr.Column, gr.State]:
    """A statistic to choose and its curve, drawn of what `measured` puts into the state."""
    meanings = {INDEX: texts.index} | {
        LABELS[name]: f"Higher: {known.higher} Most Impressionist paintings have {known.low:.3g} to {known.high:.3g}."
        for name, known in STATISTICS.items()
    }
    with gr.Column(visible=False) as measures:
        chosen = gr.Dropdown([*meanings], value=INDEX, label="Measured in the pictures", info=texts.index)
        plot = gr.LinePlot(x="x", y="value", height=260, elem_id="plot")
    table = gr.State(None)
    chosen.input(lambda chosen: gr.update(info=meanings[chosen]), chosen, chosen, **LIGHT)
    gr.on([table.change, chosen.change], curve, [table, chosen], plot, **LIGHT)
    return measures, table


@lru_cache(MOST_REMEMBERED)
def assessed(path: str) -> Assessment:
    return assess(Image.open(path).convert("RGB"))


def curve(rows: list[dict[str, Any]] | None, chosen: str) -> Any:
    """One statistic from column to column, and its values in words for those who do not see the line."""
    if not rows:
        return None
    numbers = isinstance(rows[0]["x"], float)
    said = [f"{row[chosen]:.3g} at {row['x']:g}" if numbers else f"{row['x']}: {row[chosen]:.3g}" for row in rows]
    points = pd.DataFrame({"x": [row["x"] for row in rows], "value": [row[chosen] for row in rows]})
    return gr.update(
        value=points, y_title=chosen, x_title="Strength" if numbers else " ", caption=" · ".join(said),
        sort=None if numbers else [row["x"] for row in rows],
    )  # fmt: skip
