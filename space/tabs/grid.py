"""Grid: one setting from left to right and, if wanted, another from top to bottom; contact sheet and measurements."""

import secrets
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
from gradio.utils import get_upload_folder
from PIL import Image

from impressionism.errors import UserError
from impressionism.grid import Axis, axis, caption_among, changed, contact_sheet, grid_of, save_sheet, sheet_caption
from impressionism.pictorial import STATISTICS, Assessment, assess
from impressionism.records import ImageMetadata
from space.painting import Job, Start, add_take, on_click
from space.pictures import front
from space.settings import LIGHT, Settings, how_of, only
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


def add_grid(studio: Studio, texts: PageTexts, settings: Settings, start: Start) -> None:
    kinds = [(label, name) for name, label in SETTINGS.items() if name != "adapter" or len(studio.painter.adapters) > 1]
    typed: dict[str, Any] = {"label": "Values, one per line", "visible": False, "lines": 2, "max_lines": 4}
    with gr.Row():
        with gr.Column(min_width=200):
            across = gr.Dropdown(kinds, value="strength", label="Columns differ by", elem_id="columns")
            across_values = gr.Textbox(elem_id="column-values", **typed)
        with gr.Column(min_width=200):
            down = gr.Dropdown([("Nothing (single row)", ""), *kinds], value="", label="Rows differ by", elem_id="rows")
            down_values = gr.Textbox(elem_id="row-values", **typed)
    plain = gr.Checkbox(label="Also without the adapter", elem_id="no-adapter")
    board = front("wall", tab="grid", elem_id="grid-wall")
    sheet = gr.DownloadButton(
        "Contact sheet", visible=False, size="sm", min_width=120, scale=0, elem_id="sheet", render=False
    )
    add_take(sheet)
    with gr.Column(visible=False) as measures:
        chosen = gr.Dropdown(
            [INDEX, *LABELS.values()],
            value=INDEX,
            label="Measured in the pictures",
            info=texts.index and f"{INDEX}: {texts.index}",
        )
        plot = gr.LinePlot(x="x", y="value", height=260, elem_id="plot")
    table = gr.State(None)

    def job_of(*values: Any) -> Job:
        params, (strengths, strength, *given), how = sampling_of(*values[:6]), values[6:13], how_of(*values[13:])
        columns, column_values, rows, row_values, no_adapter = given

        def axis_of(setting: str, lines: str) -> Axis:
            found = {"strength": map(str, weakest_first(strengths)), "adapter": studio.painter.adapters}
            return axis(setting, list(found.get(setting, (lines or "").splitlines())))

        strength = real(strength)
        down = axis_of(rows, row_values) if rows else None
        grid = grid_of(axis_of(columns, column_values), down, strength, bool(no_adapter))
        cells = grid.cells()
        if len(cells) > MOST_PICTURES:
            raise UserError(f"This asks for {len(cells)} pictures; at most {MOST_PICTURES} at a time.")
        items = []
        for cell in cells:
            one, at, more = changed(params, strength, cell)
            items += studio.request(one, [at], **how | more).items
        caption = caption_among([item.metadata for item in items])
        return Job(Request(tuple(items)), each=len(items), grid=grid, caption=caption)

    def choose(columns: str, rows: str) -> tuple[Any, ...]:
        """The fields that the two axes need; the strength is a slider where it is no axis."""
        axes = (columns, rows)
        tabs = ("paint", "repaint") if "strength" in axes else ("paint", "repaint", "grid")
        visible = [gr.update(visible=each in TYPED, placeholder=TYPED.get(each)) for each in axes]
        return *visible, gr.update(elem_classes=only(*tabs)), gr.update(visible="strength" in axes)

    gr.on(
        [across.input, down.input], choose, [across, down],
        [across_values, down_values, settings.strength, settings.strengths], **LIGHT,
    )  # fmt: skip
    axes = [across, across_values, down, down_values, plain]
    on_click(
        studio,
        start,
        board,
        [*settings.sampling, settings.strengths, settings.strength, *axes, *settings.how],
        job_of,
        finished={
            sheet: lambda job, pictures: gr.update(value=sheet_of(job, pictures), visible=bool(pictures)),
            table: measured,
            measures: lambda job, pictures: gr.update(visible=is_one_row(job, pictures)),
        },
    )
    gr.on([table.change, chosen.change], curve, [table, chosen], plot, **LIGHT)


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
