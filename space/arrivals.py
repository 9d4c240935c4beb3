"""What comes to the page from outside: a link that it is opened with, and files that are dropped on it."""

from typing import Any

import gradio as gr

from impressionism.errors import UserError
from impressionism.files import open_picture
from impressionism.records import ImageMetadata
from space.errors import plain_words
from space.gate import LIMITS
from space.pictures import View, hang, size_of, view_of
from space.recipes import link, recipes_in, settings_from, settings_of
from space.settings import AT_ONCE, Settings, recommended_strength, request_for, restored, tab_of, warn_of_other_weights
from space.studio import MOST_PIXELS, Studio

TO_THE_TOP = "() => document.querySelector('#room').scrollIntoView({behavior: 'smooth'})"
PAINT_IF_FREE = "(view) => { if (view?.paint) document.querySelector('#start-paint').click(); }"


def add_arrivals(page: gr.Blocks, studio: Studio, settings: Settings, board: gr.HTML, photograph: gr.Image) -> None:
    """A link sets everything, and its pair is painted where that costs nothing; a PNG of ours is shown with its
    settings; another picture goes to Repaint."""
    load = gr.UploadButton(
        "Open a picture, or drop it anywhere",
        file_types=["image"],
        size="sm",
        elem_id="load",
        type="filepath",
    )

    def open_link(request: gr.Request) -> Any:
        with plain_words():
            asked = settings_from(request.query_params.multi_items())
            if not asked:
                return gr.skip()
            updates = restored(studio, settings, asked)
            return updates | ({board: first_view(studio, asked)} if tab_of(asked) == "paint" else {})

    def open_file(path: str) -> dict[Any, Any]:
        try:
            recipes = recipes_in(path)
        except UserError:
            with plain_words(), open_picture(path, name="This file", max_pixels=MOST_PIXELS):
                pass
            return {photograph: path, settings.tabs: gr.update(selected="repaint")}
        with plain_words():
            updates = restored(studio, settings, settings_of(recipes))
            warn_of_other_weights(studio, recipes[-1])
        return updates | ({board: shown(studio, path, recipes[0])} if len(recipes) == 1 else {})

    opened = page.load(open_link, None, [*settings.restored, board], **AT_ONCE)
    opened.then(None, board, None, js=PAINT_IF_FREE)
    few: dict[str, Any] = AT_ONCE | {"concurrency_limit": LIMITS["prepare"]}
    loaded = load.upload(open_file, load, [*settings.restored, board, photograph], **few)
    loaded.success(None, None, None, js=TO_THE_TOP)


def first_view(studio: Studio, asked: dict[str, Any]) -> View:
    """An empty easel, on which the pair is painted at once if that costs nothing."""
    strengths = [0.0, *asked.get("strengths", [recommended_strength(studio)])]
    request = request_for(studio, asked | {"strengths": strengths})
    free = studio.painter.provenance.device == "cpu" or bool(studio.remembered(request))
    size = size_of(request.items[0].metadata)
    return {"empty": "This pair is not painted yet.", "paint": free, "size": size}


def shown(studio: Studio, path: str, metadata: ImageMetadata) -> View:
    """The picture that was dropped; the whole pair, if it is remembered."""
    settings = settings_of([metadata])
    if metadata.source is None:
        pair = request_for(studio, settings | {"strengths": [0.0, metadata.strength]})
        if pictures := studio.remembered(pair):
            return view_of(pictures)
    return {"items": [hang(path, metadata)], "recipe": metadata.to_dict(), "link": link([metadata])}
