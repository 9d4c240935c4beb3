"""Repaint: a visitor's photograph, by the base model and in the Impressionist manner."""

import hashlib
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from impressionism import paint
from space.painting import Job, TabWidgets, add_quota, add_recipe, add_start, on_click
from space.pictures import Item, item, wall
from space.settings import Settings
from space.studio import Studio, open_photograph, real, sampling_of


def add_repaint(studio: Studio, settings: Settings) -> None:
    with gr.Row(elem_classes="act"):
        photograph = gr.Image(
            label="Your photograph",
            elem_id="photograph",
            type="filepath",
            sources=["upload", "clipboard"],
            height=292,
        )
        # As it came: Gradio would decode it, and answer a broken one without a sentence.
        photograph.preprocess = lambda payload: payload and payload.path
        with gr.Column(min_width=240):
            gr.Markdown("The prompt says what the photograph shows; the photograph is cropped to the shape.")
            settings.repaint_strength.render()
            settings.change.render()
            start, cancel = add_start("Repaint", elem_id="repaint")
    add_quota(studio, [*settings.sampling, settings.repaint_strength, settings.change], asked)
    board = wall(elem_id="repainted")
    on_click(
        studio,
        TabWidgets(start, cancel, board, add_recipe(board)),
        [*settings.sampling, settings.repaint_strength, photograph, settings.change],
        lambda *values: job_of(studio, *values),
    )


def job_of(studio: Studio, *values: Any) -> Job:
    *others, path, change = values
    job = asked(*others, change)
    source = open_photograph(path, job.sampling)
    return job._replace(source=source, beside=[beside(studio, source)])


def asked(*values: Any) -> Job:
    """All but the photograph."""
    *sampling, strength, change = values
    return Job(sampling_of(*sampling), [0.0, real(strength)], change=real(change))


def beside(studio: Studio, source: Image.Image) -> Item:
    """The photograph as it enters the model; written at the click, and there when its turn comes."""
    digest = hashlib.sha256(repr(source.size).encode() + source.tobytes()).hexdigest()
    path = Path(get_upload_folder(), digest, "photograph.png")
    if path.exists():
        path.touch()  # Gradio deletes by age
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        source.save(path, compress_level=paint.COMPRESSION)
    studio.files.add(str(path))
    return item("Your photograph", source.size, (str(path), "Your photograph, cropped to the shape"))
