"""Finished pictures on the page: the PNG itself, with an alternative text from its recipe.

Gradio's own picture components have neither alternative texts nor a handle for the keyboard. What a visitor wrote
travels to the browser as JSON and is set there as text; it is never part of HTML, nor of a template.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from impressionism.files import data_url
from impressionism.grid import caption_of
from impressionism.records import ImageMetadata
from space.jobs import Step
from space.recipes import link
from space.studio import Picture

FRONT = Path(__file__).parent / "front"

Item = dict[str, Any]
"""One place on a board: a caption and its images, each a file with its alternative text."""

View = dict[str, Any]
"""What a board shows, as JSON: items, the recipe and link of the last one; while painting also job, words, done, steps,
preview and size. The server only sends views; nothing that comes back from a browser is shown."""


def front(name: str, value: Any = None, **more: Any) -> gr.HTML:
    """A component made of front/NAME.html and front/NAME.js. No subclass of gr.HTML: Gradio would write a .pyi."""
    shared = (FRONT / "board.js").read_text() if name in ("pair", "wall") else ""
    html, js = (FRONT / f"{name}.html").read_text(), (FRONT / f"{name}.js").read_text()
    return gr.HTML(value, html_template=html, js_on_load=shared + js, apply_default_css=False, **more)


def view_of(
    pictures: Sequence[Picture],
    before: Sequence[Item] = (),
    caption: Callable[[ImageMetadata], str] = caption_of,
    whole: bool = False,
) -> View:
    """These pictures behind the items before them. The link leads to the last one or, with whole, to them all."""
    recipes = [ImageMetadata.from_dict(picture.recipe) for picture in pictures]
    if not recipes:
        return {}
    painted = [hang(picture.path, recipe, caption(recipe)) for picture, recipe in zip(pictures, recipes, strict=True)]
    return {
        "items": [*before, *painted],
        "link": link(recipes if whole else recipes[-1:]),
        "recipe": pictures[-1].recipe,
    }


def progress(step: Step, caption: str) -> View:
    words = f"{caption}: picture {step.picture} of {step.pictures}"
    preview = step.preview and data_url(step.preview, quality=60, method=0)  # the fastest; it needs no file
    return {"words": words, "done": step.done, "steps": step.steps, "preview": preview}


def hang(path: str, metadata: ImageMetadata, caption: str | None = None) -> Item:
    return item(caption or caption_of(metadata), size_of(metadata), (path, alt(metadata)))


def item(caption: str, size: tuple[int, int], *images: tuple[str, str]) -> Item:
    """Images are (path, alternative text), all of one size: width and height, whose place is kept until they come."""
    shape = {"width": size[0], "height": size[1]}
    files = [{"file": gr.FileData(path=path).model_dump(), "alt": alt, **shape} for path, alt in images]
    return {"caption": caption, "images": files}


def size_of(recipe: ImageMetadata) -> tuple[int, int]:
    return recipe.sampling.width, recipe.sampling.height


def alt(recipe: ImageMetadata) -> str:
    """What a person who does not see the picture should know of it."""
    hand = f"with the Impressionist adapter at strength {recipe.strength:g}" if recipe.strength else "by the base model"
    over = ", over a photograph" if recipe.source else ""
    return f"“{recipe.sampling.prompt}”, painted {hand}{over}; seed {recipe.sampling.seed}."
