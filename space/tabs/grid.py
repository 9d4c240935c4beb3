"""Grid: strengths from left to right, something else from row to row, with a contact sheet and measurements."""

import re
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
from impressionism.pictorial import STATISTICS, Assessment, assess
from impressionism.records import BlockStrengths, ImageMetadata
from space.contact import save_sheet
from space.painting import Job, Start, add_take, on_click
from space.pictures import caption_among, front
from space.recipes import BLOCKS
from space.settings import LIGHT, Settings, how_of
from space.studio import MOST_REMEMBERED, Picture, Request, Studio, sampling_of, weakest_first

INDEX = "Impressionist index (0 to 1)"
LABELS = {
    name: known.label + (f" ({known.unit})" if known.unit else "") + (", exploratory" if known.exploratory else "")
    for name, known in STATISTICS.items()
}


ROWS = ("Nothing (one row)", "Seed", "Prompt", "Steps", "Adapter", "Block group")
TYPED = ("Seed", "Prompt", "Steps")  # rows whose values a visitor writes
MOST_ROWS = 7


def add_grid(studio: Studio, settings: Settings, start: Start) -> None:
    kinds = [kind for kind in ROWS if kind != "Adapter" or len(studio.painter.adapters) > 1]
    with gr.Row():
        kind = gr.Dropdown(kinds, value=kinds[0], label="A row for each", elem_id="rows", min_width=140)
        values = gr.Textbox(label="Values, one a line", visible=False, lines=2, max_lines=4, elem_id="row-values")
    board = front("wall", tab="grid", elem_id="grid-wall")
    sheet = gr.DownloadButton(
        "Contact sheet", visible=False, size="sm", min_width=120, scale=0, elem_id="sheet", render=False
    )
    add_take(sheet)
    with gr.Column(visible=False) as measures:
        chosen = gr.Dropdown([INDEX, *LABELS.values()], value=INDEX, label="Measured in the pictures, by strength")
        plot = gr.LinePlot(x="strength", y="value", x_title="Strength", height=260, elem_id="plot")
    table = gr.State(None)

    def job_of(*values: Any) -> Job:
        """Strengths from left to right; below each other what the rows name."""
        params, (strengths, kind, lines, *others) = sampling_of(*values[:6]), values[6:]
        strengths, how = weakest_first(strengths), how_of(*others)
        rows = rows_of(kind, lines, list(studio.painter.adapters))
        requests = [studio.request(params.replace(**changes), strengths, **how | other) for changes, other in rows]
        items = tuple(item for request in requests for item in request.items)
        caption = caption_among([item.metadata for item in items])
        columns = len(strengths) if len(rows) > 1 else None
        return Job(Request(items), each=len(items), whole=True, columns=columns, caption=caption)

    kind.input(lambda kind: gr.update(visible=kind in TYPED), kind, values, **LIGHT)
    on_click(
        studio,
        start,
        board,
        [*settings.sampling, settings.strengths, kind, values, *settings.how],
        job_of,
        finished={
            sheet: lambda pictures: gr.update(value=contact_sheet_of(pictures), visible=bool(pictures)),
            table: measured,
            measures: lambda pictures: gr.update(visible=is_one_row(pictures)),
        },
    )
    gr.on([table.change, chosen.change], curve, [table, chosen], plot, **LIGHT)


def rows_of(kind: str, lines: str, adapters: Sequence[str]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """For each row, what it changes of the params and of the other keywords of Studio.request."""
    if kind == "Adapter":
        return [({}, {"adapter": name}) for name in adapters]
    if kind == "Block group":
        groups = [{name: float(name == only) for name in BLOCKS} for only in BLOCKS]
        return [({}, {"blocks": BlockStrengths(**group)}) for group in groups]
    if kind not in TYPED:
        return [({}, {})]
    values = [line.strip() for line in (lines or "").splitlines() if line.strip()]
    if not values:
        raise UserError(f"Write the values of the rows, one a line: each is a {kind.lower()}.")
    name, number = kind.lower(), kind != "Prompt"
    if number and not all(re.fullmatch(r"\d{1,10}", value) for value in values):
        raise UserError(f"The rows’ values must be whole numbers, one a line: each is a {name}.")
    return [({name: int(value) if number else value}, {}) for value in values[:MOST_ROWS]]


def is_one_row(pictures: Sequence[Picture]) -> bool:
    """Whether the pictures differ by their strength alone."""
    return bool(pictures) and len({picture.recipe["strength"] for picture in pictures}) == len(pictures)


def contact_sheet_of(pictures: Sequence[Picture]) -> str | None:
    """A file that is deleted with the pictures; none of no pictures."""
    if not pictures:
        return None
    recipes = [ImageMetadata.from_dict(picture.recipe) for picture in pictures]
    path = Path(get_upload_folder(), secrets.token_hex(16), "contact-sheet.png")
    save_sheet([picture.path for picture in pictures], recipes, path)
    return str(path)


def measured(pictures: Sequence[Picture]) -> list[dict[str, float]]:
    """For each picture its strength, and every statistic by the name that the page gives it."""
    rows = []
    for picture in pictures:
        values, index = assessed(picture.path)
        named = {label: values[name] for name, label in LABELS.items()}
        rows.append({"strength": picture.recipe["strength"], INDEX: index, **named})
    return rows


@lru_cache(MOST_REMEMBERED)
def assessed(path: str) -> Assessment:
    return assess(Image.open(path).convert("RGB"))


def curve(rows: list[dict[str, float]] | None, chosen: str) -> Any:
    """One statistic against strength, and its values in words for those who do not see the line."""
    if not rows:
        return None
    points = {"strength": [row["strength"] for row in rows], "value": [row[chosen] for row in rows]}
    said = " · ".join(f"{row[chosen]:.3g} at {row['strength']:g}" for row in rows)
    return gr.update(value=pd.DataFrame(points), y_title=chosen, caption=said)
