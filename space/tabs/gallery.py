"""Gallery: pairs that were painted before, by genre; a click takes one, with all its settings, to the easel."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from impressionism.records import Pair
from space.errors import plain_words
from space.gallery import by_genre, on_easel, on_wall
from space.painting import TabWidgets
from space.pictures import wall
from space.recipes import settings_of
from space.settings import AT_ONCE, Settings, restored, warn_of_other_weights
from space.studio import Studio

MISSING = "There is no showcase here yet; `python -m evaluation gallery` paints one."


def add_gallery(studio: Studio, settings: Settings, easel: TabWidgets, folder: Path, pairs: Sequence[Pair]) -> None:
    gr.Markdown(introduction(pairs) if pairs else MISSING, elem_id="gallery-words")
    if not pairs:
        return
    outputs = [*settings.restored, easel.board, easel.recipe]
    with gr.Tabs(elem_id="genres"):
        for genre, members in by_genre(pairs).items():
            with gr.Tab(genre.capitalize()):
                items = [on_wall(folder, pair) for pair in members]
                place = wall({"items": items}, choose=True, elem_classes="pairs")
            place.select(chooser(studio, settings, easel, folder, members), None, outputs, **AT_ONCE)


def introduction(pairs: Sequence[Pair]) -> str:
    painters = " and ".join(sorted({pair.recipe.provenance.base for pair in pairs}))
    return (
        f"Painted beforehand by {painters}: the base model on the left, the adapter on the right. Of each genre the "
        "pairs that gained most and least in the Impressionist index, and one between them, chosen by that number "
        "and not by hand. Choose a pair to have it under Paint, with its settings."
    )


def chooser(studio: Studio, settings: Settings, easel: TabWidgets, folder: Path, pairs: Sequence[Pair]) -> Any:
    def choose(event: gr.EventData) -> dict[Any, Any]:
        pair = pairs[event.index]
        with plain_words():
            warn_of_other_weights(studio, pair.recipe)
            updates = restored(studio, settings, settings_of([pair.recipe]))
        return updates | {easel.board: on_easel(folder, pair), easel.recipe: dataclasses.asdict(pair.recipe)}

    return choose
