"""Gallery: pairs that were painted before, by genre; a click takes one, with its settings, to Paint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from impressionism.records import Pair
from space.errors import plain_words
from space.gallery import by_genre, is_own, on_easel, on_wall
from space.pictures import front
from space.recipes import settings_of
from space.settings import AT_ONCE, Settings, restored, warn_of_other_weights
from space.studio import Studio
from space.texts import PageTexts

MISSING = "There is no showcase yet; `python -m evaluation gallery` paints one."


def add_gallery(
    studio: Studio, texts: PageTexts, settings: Settings, board: gr.HTML, folder: Path, pairs: Sequence[Pair]
) -> None:
    gr.Markdown(introduction(studio, pairs) if pairs else MISSING, elem_id="gallery-words")
    if not pairs:
        return
    with gr.Tabs(elem_id="genres"):
        for genre, members in by_genre(pairs).items():
            with gr.Tab(genre.capitalize()):
                items = [on_wall(folder, pair) for pair in members]
                place = front("wall", {"items": items}, choose=True, elem_classes="pairs")
            choose = chooser(studio, settings, board, folder, members)
            place.select(choose, None, [*settings.restored, board], **AT_ONCE)
    gr.Markdown(texts.index, elem_classes="quiet")


def introduction(studio: Studio, pairs: Sequence[Pair]) -> str:
    bases = {pair.recipe.provenance.base for pair in pairs}
    painters = " and ".join(sorted("the miniature" if base == "miniature" else base for base in bases))
    other = "" if any(is_own(studio.painter, pair) for pair in pairs) else ", not by the adapter of this page"
    return (
        f"Painted by {painters}{other}: without an adapter on the left, with it on the right. Best, typical and "
        "weakest pair of each genre, picked by how much the adapter raises the Impressionist index (in brackets). "
        "Click one to load it."
    )


def chooser(studio: Studio, settings: Settings, board: gr.HTML, folder: Path, pairs: Sequence[Pair]) -> Any:
    def choose(event: gr.EventData) -> dict[Any, Any]:
        pair = pairs[event.index]
        with plain_words():
            warn_of_other_weights(studio, pair.recipe)
            updates = restored(studio, settings, settings_of([pair.recipe]))
        return updates | {board: on_easel(folder, pair)}

    return choose
