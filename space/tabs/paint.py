"""Paint: the base model's picture and the Impressionist one, from the same noise."""

from pathlib import Path
from typing import Any

import gradio as gr

from impressionism.errors import UserError
from impressionism.paint import next_seeds
from impressionism.records import ImageMetadata, Pair
from space.errors import plain_words
from space.gallery import on_easel
from space.painting import Job, Start, add_take, on_click
from space.pictures import front, hang
from space.recipes import PARAMS, settings_in
from space.settings import AT_ONCE, LIGHT, Settings, how_of, request_for, restored
from space.studio import Request, Studio, real, sampling_of
from space.texts import Size

NOTHING = "Nothing is painted yet."
SHOWN_LINK = "() => [document.querySelector('#pair .pair')?.shown?.link]"
STALE = """(prompt, seed, steps, guidance, width, height, strength, fast, count) => {
  const recipe = document.querySelector("#pair .pair")?.shown?.recipe;
  if (!recipe || recipe.upscale) return "";
  const shown = recipe.sampling.seed, asked = {prompt, steps, guidance, width, height};
  const same = fast === Boolean(recipe.fast) && shown >= seed && shown < seed + count
    && Object.keys(asked).every((name) => asked[name] === recipe.sampling[name]);
  if (same && strength === recipe.strength) return "";
  return same && recipe.strength === 0 ? "The adapted picture has not been painted; click Compare to paint it."
    : "These pictures were painted with other settings; click Compare to paint with the current ones.";
}"""


def add_paint(
    studio: Studio,
    settings: Settings,
    start: Start,
    showcase: Path,
    first: Pair | None,
    size: Size,
) -> gr.HTML:
    """The board of the pair; first stands on it until something is painted, or else a button that paints."""
    shown = on_easel(showcase, first) | {"first": True} if first else {"empty": NOTHING}
    board = front("pair", shown, size=size, strip="pairs", tab="paint", elem_id="pair")
    upscale = gr.Button("Upscale × 2", size="sm", min_width=110, scale=0, elem_id="upscale", render=False)
    upscale_price = gr.Markdown(elem_classes="price", render=False)
    stale = gr.Markdown(elem_classes="stale", render=False)
    add_take(upscale, upscale_price, stale)
    known = [getattr(settings, name) for name in (*PARAMS, "strength", "fast", "count")]
    gr.on([each.change for each in [*known, board]], None, known, stale, js=STALE, **LIGHT)  # type: ignore[attr-defined]
    board.submit(None, None, None, js="() => document.querySelector('#start-paint').click()")

    def load(event: gr.EventData) -> dict[Any, Any]:
        """The settings of a pair of this session, which the browser remembers by its link."""
        with plain_words():
            return restored(studio, settings, settings_in(event.link))

    board.select(load, None, settings.restored, **AT_ONCE)

    def job_of(strength: Any, count: int, against: str, **values: Any) -> Job:
        """A pair for each seed: the base model or another adapter, and the adapter."""
        how, strength = how_of(values), real(strength)
        every = next_seeds(sampling_of(values), count)
        if not against:
            return Job(studio.request(every, [0.0, strength], **how), each=2)
        theirs = studio.request(every, [strength], **how | {"adapter": against}).items
        ours = studio.request(every, [strength], **how).items
        items = tuple(item for both in zip(theirs, ours, strict=True) for item in both)
        return Job(Request(items), each=2, caption=adapter_and_strength)

    def upscaled(link: str | None) -> Job:
        """The adapted picture that is shown, at twice its size, beside itself."""
        found = request_for(studio, settings_in(link or ""))
        pictures = studio.remembered(found)
        if not pictures:
            raise UserError("This picture is not on the server any more; click Compare, then Upscale.")
        was = found.items[-1].metadata
        how = {"fast": was.fast, "blocks": was.blocks, "adapter": was.provenance.adapter}
        request = studio.request(was.sampling, [was.strength], photograph=pictures[-1].path, upscale=True, **how)
        return Job(request, each=1, before=[hang(pictures[-1].path, was)], caption=lambda _: "Twice as large")

    on_click(studio, start, board, settings.inputs("strength", "count", "against"), job_of)
    on_click(studio, Start(upscale, start.cancel, upscale_price), board, {"link": board}, upscaled, js=SHOWN_LINK)
    return board


def adapter_and_strength(metadata: ImageMetadata) -> str:
    return f"{str(metadata.provenance.adapter).split('/')[-1]}, strength {metadata.strength:g}"
