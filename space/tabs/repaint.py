"""Repaint: a visitor's photograph and what the adapter makes of it, compared as a pair."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from impressionism import paint
from impressionism.errors import UserError
from impressionism.files import picture_size
from space.painting import Job, Start, add_take, on_click
from space.pictures import Item, front, item
from space.settings import LIGHT, Settings, how_of, nearest_size, only
from space.studio import Studio, real, sampling_of
from space.texts import PageTexts


def add_photograph() -> gr.Image:
    photograph = gr.Image(
        label="Your photo",
        elem_id="photograph",
        elem_classes=only("repaint"),
        type="filepath",
        sources=["upload", "clipboard"],
        height=220,
    )
    # As it came: Gradio would decode it, and answer a broken one without a sentence.
    photograph.preprocess = lambda payload: payload and payload.path
    return photograph


def add_repaint(studio: Studio, texts: PageTexts, settings: Settings, start: Start, photograph: gr.Image) -> None:
    board = front("pair", size=texts.sizes["Square"], tab="repaint", elem_id="repainted")
    add_take()
    photograph.change(
        lambda path: shape_of_photograph(texts, path), photograph, [settings.width, settings.height], **LIGHT
    )

    def job_of(path: str | None, strength: Any, change: Any, photographed: bool = True, **values: Any) -> Job:
        """The photograph shows what to paint, so the prompt may be empty."""
        params = sampling_of(values | {"prompt": values["prompt"].strip()})
        source = (path or "") if photographed else Image.new("RGB", (64, 64))  # its price needs none
        request = studio.request(params, [real(strength)], photograph=source, change=real(change), **how_of(values))
        source = request.items[0].source
        return Job(request, each=1, before=[before(source)] if source and photographed else [])

    inputs = settings.inputs("strength", "change") | {"path": photograph}
    on_click(studio, start, board, inputs, job_of, priced=partial(job_of, photographed=False))


def shape_of_photograph(texts: PageTexts, path: str | None) -> tuple[Any, Any]:
    """The model's size that crops the least of the photograph; what cannot be read changes nothing yet."""
    try:
        return nearest_size(texts, *picture_size(path or ""))
    except UserError:  # the click says what is wrong
        return gr.skip(), gr.skip()


def before(source: Image.Image) -> Item:
    """The photograph as it enters the model; written at the click, and there when its turn comes."""
    digest = hashlib.sha256(repr(source.size).encode() + source.tobytes()).hexdigest()
    path = Path(get_upload_folder(), digest, "photograph.png")
    if path.exists():
        path.touch()  # files are deleted by age
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        source.save(path, compress_level=paint.COMPRESSION)
    return item("Your photo", source.size, (str(path), "Your photo, cropped to the shape"))
