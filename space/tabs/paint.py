"""Paint: the base model's picture and the Impressionist one, from the same noise, one over the other."""

import dataclasses
from pathlib import Path
from typing import Any

import gradio as gr

from impressionism.records import Pair
from space.gallery import on_easel
from space.painting import Job, TabWidgets, add_quota, add_recipe, add_start, on_click
from space.pictures import pair
from space.settings import LIGHT, Settings
from space.studio import Studio, real, sampling_of

STALE = """(prompt, seed, steps, guidance, width, height, strength, recipe) => {
  if (!recipe) return "";
  const asked = {prompt, seed, steps, guidance, width, height};
  const same = Object.keys(asked).every((name) => asked[name] === recipe.sampling[name]);
  if (same && strength === recipe.strength) return "";
  return same && recipe.strength === 0 ? "The adapted picture is missing; Compare paints it."
    : "The pair below was painted with other settings; Compare paints these.";
}"""


def add_paint(studio: Studio, settings: Settings, showcase: Path, first: Pair | None) -> TabWidgets:
    """The easel; first stands on it until something is painted."""
    inputs = [*settings.sampling, settings.strength]
    with gr.Row(elem_classes="act"):
        settings.strength.render()
        start, cancel = add_start("Compare", elem_id="compare")
    add_quota(studio, inputs, job_of)
    stale = gr.Markdown(elem_classes="stale")
    board = pair(on_easel(showcase, first) if first else None, elem_id="pair")
    bench = TabWidgets(start, cancel, board, add_recipe(board, dataclasses.asdict(first.recipe) if first else None))
    known = [*inputs, bench.recipe]
    gr.on([each.change for each in known], None, known, stale, js=STALE, **LIGHT)  # type: ignore[arg-type]
    on_click(studio, bench, inputs, job_of)
    return bench


def job_of(*values: Any) -> Job:
    *sampling, strength = values
    return Job(sampling_of(*sampling), [0.0, real(strength)])
