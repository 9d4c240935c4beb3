"""Paint: the base model's picture and the Impressionist one, from the same noise."""

from pathlib import Path
from typing import Any

import gradio as gr

from impressionism.records import Pair
from space.gallery import on_easel
from space.painting import Job, TabWidgets, add_take, on_click
from space.pictures import front
from space.settings import LIGHT, Settings
from space.studio import Studio, real, sampling_of
from space.texts import Size

STALE = """(prompt, seed, steps, guidance, width, height, strength, view) => {
  const recipe = view?.recipe;
  if (!recipe) return "";
  const asked = {prompt, seed, steps, guidance, width, height};
  const same = Object.keys(asked).every((name) => asked[name] === recipe.sampling[name]);
  if (same && strength === recipe.strength) return "";
  return same && recipe.strength === 0 ? "The adapted picture is missing; Compare paints it."
    : "The pictures were painted with other settings; Compare paints these.";
}"""


def add_paint(
    studio: Studio,
    settings: Settings,
    widgets: Any,
    stale: gr.Markdown,
    showcase: Path,
    first: Pair | None,
    size: Size,
) -> gr.HTML:
    """The board of the pair; first stands on it until something is painted."""
    inputs = [*settings.sampling, settings.strength]
    board = front(
        "pair", on_easel(showcase, first) | {"first": True} if first else None, size=size, strip="pairs", elem_id="pair"
    )
    add_take(board)
    known = [*inputs, board]
    gr.on([each.change for each in known], None, known, stale, js=STALE, **LIGHT)  # type: ignore[attr-defined]
    board.submit(None, None, None, js="() => document.querySelector('#start-paint').click()")

    def job_of(*values: Any) -> Job:
        *sampling, strength = values
        return Job(studio.request(sampling_of(*sampling), [0.0, real(strength)]), each=2)

    on_click(studio, TabWidgets(*widgets, board), inputs, job_of)
    return board
