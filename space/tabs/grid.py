"""Grid: the same noise at several strengths, with a contact sheet and what the pixels say."""

import secrets
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
from gradio.utils import get_upload_folder
from PIL import Image

from impressionism.pictorial import STATISTICS, index, measure
from impressionism.records import ImageMetadata
from space.contact import save_sheet
from space.painting import Job, TabWidgets, add_take, on_click
from space.pictures import front
from space.settings import LIGHT, Settings
from space.studio import MOST_REMEMBERED, Picture, Studio, sampling_of, weakest_first

INDEX = "Impressionist index (0 to 1)"
LABELS = {
    name: known.label + (f" ({known.unit})" if known.unit else "") + (", exploratory" if known.exploratory else "")
    for name, known in STATISTICS.items()
}


def add_grid(studio: Studio, settings: Settings, widgets: Any) -> None:
    inputs = [*settings.sampling, settings.strengths]
    board = front("wall", elem_id="grid-wall")
    sheet = gr.DownloadButton(
        "Contact sheet", visible=False, size="sm", min_width=120, scale=0, elem_id="sheet", render=False
    )
    add_take(board, beside=sheet)
    with gr.Column(visible=False) as measures:
        chosen = gr.Dropdown([INDEX, *LABELS.values()], value=INDEX, label="What the pixels say, against strength")
        plot = gr.LinePlot(x="strength", y="value", x_title="Strength", height=260, elem_id="plot")
    table = gr.State(None)

    def job_of(*values: Any) -> Job:
        *sampling, strengths = values
        request = studio.request(sampling_of(*sampling), weakest_first(strengths))
        return Job(request, each=len(request.items), whole=True)

    on_click(
        studio,
        TabWidgets(*widgets, board),
        inputs,
        job_of,
        finished={
            sheet: lambda pictures: gr.update(value=contact_sheet_of(pictures), visible=bool(pictures)),
            table: measured,
            measures: lambda pictures: gr.update(visible=bool(pictures)),
        },
    )
    gr.on([table.change, chosen.change], curve, [table, chosen], plot, **LIGHT)


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
        values = statistics_of(picture.path)
        named = {label: values[name] for name, label in LABELS.items()}
        rows.append({"strength": picture.recipe["strength"], INDEX: index(values), **named})
    return rows


@lru_cache(MOST_REMEMBERED)
def statistics_of(path: str) -> dict[str, float]:
    return measure(Image.open(path).convert("RGB"))


def curve(rows: list[dict[str, float]] | None, chosen: str) -> Any:
    """One statistic against strength, and its values in words for those who do not see the line."""
    if not rows:
        return None
    points = {"strength": [row["strength"] for row in rows], "value": [row[chosen] for row in rows]}
    said = " · ".join(f"{row[chosen]:.3g} at {row['strength']:g}" for row in rows)
    return gr.update(value=pd.DataFrame(points), y_title=chosen, caption=said)
