"""Paint: the base model's picture and the Impressionist one, from the same noise, one over the other."""

import dataclasses
from pathlib import Path
from typing import Any

import gradio as gr

from impressionism.records import Pair
from space.gallery import on_easel
from space.painting import Bench, Job, add_quota, add_recipe, add_start, on_click
from space.pictures import pair
from space.settings import Settings
from space.studio import Studio, real, sampling_of


def add_paint(studio: Studio, settings: Settings, showcase: Path, first: Pair | None) -> Bench:
    """The easel; first stands on it until something is painted."""
    inputs = [*settings.sampling, settings.strength]
    with gr.Row(elem_classes="act"):
        settings.strength.render()
        start, cancel = add_start("Compare", elem_id="compare")
    add_quota(studio, inputs, job_of)
    board = pair(on_easel(showcase, first) if first else None, elem_id="pair")
    bench = Bench(start, cancel, board, add_recipe(board, dataclasses.asdict(first.recipe) if first else None))
    on_click(studio, bench, inputs, job_of)
    return bench


def job_of(*values: Any) -> Job:
    *sampling, strength = values
    return Job(sampling_of(*sampling), [0.0, real(strength)])
