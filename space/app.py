"""The page: what to paint on one side, and beside it three ways to look at what the adapter does.

python -m space          or, as a Space does, python space/app.py
"""

import sys
from pathlib import Path

if not __package__:  # run as a file: Python put space/ on the path, the packages lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from space import zerogpu  # noqa: F401  isort: skip  (before torch and gradio)

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from impressionism import paint
from impressionism.pipeline import Painter, PainterError, load_pipeline
from impressionism.quantize import MODES
from space.api import CHANGE, GUIDANCE, add_endpoints
from space.studio import Picture, Studio, open_photograph, pictures_of, plain_words, real, sampling_of
from space.theme import STYLE, theme
from space.words import NOTICE, PRIVACY, Words, words_for

SEEDS = 2**31  # seeds are 0 to SEEDS - 1

# One picture is painted at a time, whoever asks; everything else answers at once, outside the queue.
PAINTING: dict[str, Any] = {"concurrency_id": "painting", "concurrency_limit": 1}
PROGRESS = gr.Progress()  # a parameter with this default makes Gradio show the steps
LIGHT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class Settings:
    """The controls that all tabs share."""

    prompt: gr.Textbox
    shape: gr.Radio
    seed: gr.Number
    randomise: gr.Checkbox
    steps: gr.Slider
    guidance: gr.Slider
    width: gr.Number
    height: gr.Number

    @property
    def sampling(self) -> list[Component]:
        return [self.prompt, self.seed, self.steps, self.guidance, self.width, self.height]


def build(painter: Painter) -> gr.Blocks:
    """The page and the API for this painter."""
    studio, words = Studio(painter), words_for(painter)
    with gr.Blocks(title="Impressionism", delete_cache=(600, 3000), analytics_enabled=False) as page:
        gr.HTML(
            "<h1>Impressionism</h1><p>One prompt, painted twice from the same noise: "
            "by the base model, and with an Impressionist’s hand.</p>",
            elem_id="title",
        )
        gr.Markdown(f"Painting now: {painter.about}", elem_id="painting")
        with gr.Row(elem_id="room"):
            with gr.Column(scale=4, min_width=300, elem_id="settings"):
                settings = add_settings(words, paint.defaults(painter, "").steps)
            with gr.Column(scale=7, min_width=320, elem_id="easel"), gr.Tabs():
                with gr.Tab("Paint"):
                    add_paint(studio, settings)
                with gr.Tab("Strength"):
                    add_strength(studio, settings)
                with gr.Tab("Repaint"):
                    add_repaint(studio, settings)
        with gr.Column(elem_id="about"):
            gr.Markdown("## What this model knows\n" + words.knows)
            gr.Markdown(f"{NOTICE} {PRIVACY}", elem_id="notice")
        add_endpoints(studio, PAINTING)
    return page.queue(max_size=32, default_concurrency_limit=1)


# ---------------------------------------------------------------- what to paint


def add_settings(words: Words, default_steps: int) -> Settings:
    width, height = words.sizes["Square"]
    prompt = gr.Textbox(
        label="Prompt",
        info=words.hint,
        value=words.examples[0][0],
        lines=2,
        max_lines=5,
        max_length=2000,
        elem_id="prompt",
    )
    examples = gr.Column()
    shape = gr.Radio(list(words.sizes), value="Square", label="Shape", elem_id="shape")
    with gr.Row(elem_id="seeds"):
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=SEEDS - 1, min_width=120)
        randomise = gr.Checkbox(True, label="New each time", container=False, min_width=130)
    with gr.Accordion("Steps, guidance, size", open=False):
        steps = gr.Slider(1, 50, default_steps, step=1, label="Steps")
        guidance = gr.Slider(0, 10, GUIDANCE, step=0.1, label="Guidance (distilled)")
        with gr.Row():
            wide = gr.Number(width, label="Width", precision=0, step=16, min_width=100)
            high = gr.Number(height, label="Height", precision=0, step=16, min_width=100)
    with examples:
        gr.Examples(
            [[text, shape_name, number, False] for text, shape_name, number in words.examples],
            [prompt, shape, seed, randomise],
            example_labels=[text for text, *_ in words.examples],
            label="Try",
            elem_id="examples",
            api_visibility="private",
        )

    def size_of(name: str | None) -> tuple[Any, Any]:
        return words.sizes[name] if name else (gr.skip(), gr.skip())

    def shape_of(wide: int | None, high: int | None) -> str | None:
        return next((name for name, size in words.sizes.items() if size == (wide, high)), None)

    shape.change(size_of, shape, [wide, high], **LIGHT)
    gr.on([wide.input, high.input], shape_of, [wide, high], shape, **LIGHT)
    return Settings(prompt, shape, seed, randomise, steps, guidance, wide, high)


def strength_slider() -> gr.Slider:
    return gr.Slider(
        0,
        1.5,
        1,
        step=0.05,
        label="Strength",
        info="0 is the base model exactly, 1 the adapter as it was trained.",
    )


def paint_on(button: gr.Button, settings: Settings, function, inputs, outputs, **more: Any) -> None:
    """Settles the seed, shows it, then paints with it."""

    def settle(seed: int | None, randomise: bool) -> int:
        return random.randrange(SEEDS) if randomise or seed is None else seed

    button.click(settle, [settings.seed, settings.randomise], settings.seed, **LIGHT).success(
        function, inputs, outputs, api_visibility="private", scroll_to_output=True, **more, **PAINTING
    )


# ---------------------------------------------------------------- the three tabs


def add_paint(studio: Studio, settings: Settings) -> None:
    with gr.Row(equal_height=True, elem_classes="act"):
        strength = strength_slider()
        button = gr.Button("Compare", variant="primary", scale=0, min_width=150, elem_id="compare")
    slider = gr.ImageSlider(
        label="Base model  |  Impressionist",
        format="png",
        type="filepath",
        interactive=False,
        max_height=760,
        buttons=["fullscreen"],
        elem_id="pair",
        elem_classes="mat",
    )
    with gr.Row(elem_classes="downloads"):
        base = gr.DownloadButton("Base model, PNG", interactive=False, size="sm")
        adapted = gr.DownloadButton("Impressionist, PNG", interactive=False, size="sm")
    recipe = add_recipe()

    def show_pair(*values: Any, progress: gr.Progress = PROGRESS) -> tuple[Any, ...]:
        *sampling, strength = values
        before, after = pictures_of(studio.compare(sampling_of(*sampling), real(strength)))
        return (before.path, after.path), download(before), download(after), after.recipe

    paint_on(
        button, settings, show_pair, [*settings.sampling, strength], [slider, base, adapted, recipe],
        show_progress_on=slider,
    )  # fmt: skip


def add_strength(studio: Studio, settings: Settings) -> None:
    with gr.Row(equal_height=True, elem_classes="act"):
        strengths = gr.CheckboxGroup(
            [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5],
            value=[0, 0.5, 1, 1.5],
            label="Strengths",
            info="The same noise, painted once at each.",
        )
        button = gr.Button("Paint them all", variant="primary", scale=0, min_width=170, elem_id="sweep")
    gallery = gr.Gallery(
        label="Weakest to strongest",
        format="png",
        columns=2,
        object_fit="contain",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id="strengths",
        elem_classes="mat",
        height="auto",
    )
    recipe = add_recipe()

    def show_sweep(*values: Any, progress: gr.Progress = PROGRESS) -> Iterator[tuple[Any, ...]]:
        *sampling, strengths = values
        shown: list[tuple[str, str]] = []
        recipes = []
        for picture in studio.sweep(sampling_of(*sampling), strengths):
            if not isinstance(picture, Picture):
                continue
            shown.append((picture.path, f"strength {picture.recipe['strength']:g}"))
            recipes.append(picture.recipe)
            yield shown, recipes

    paint_on(
        button,
        settings,
        show_sweep,
        [*settings.sampling, strengths],
        [gallery, recipe],
        show_progress_on=gallery,
    )


def add_repaint(studio: Studio, settings: Settings) -> None:
    with gr.Row(elem_classes="act"):
        photograph = gr.Image(
            label="Your photograph",
            elem_id="photograph",
            elem_classes="mat",
            type="filepath",
            format="png",
            sources=["upload", "clipboard"],
            height=300,
        )
        with gr.Column(min_width=260):
            gr.Markdown("The prompt says what the photograph shows. It is cropped to the shape.")
            strength = strength_slider()
            change = gr.Slider(0.1, 1, CHANGE, step=0.05, label="Change", info="How far to leave the photograph.")
            button = gr.Button("Repaint", variant="primary", elem_id="repaint")
    gallery = gr.Gallery(
        label="Photograph  |  Base model  |  Impressionist",
        format="png",
        columns=3,
        object_fit="contain",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id="repainted",
        elem_classes="mat",
        height="auto",
    )
    recipe = add_recipe()

    def show_repaint(*values: Any, progress: gr.Progress = PROGRESS) -> tuple[Any, ...]:
        *sampling, strength, path, change = values
        with plain_words():
            source = open_photograph(path)
        chosen = sampling_of(*sampling)
        base, adapted = pictures_of(studio.repaint(chosen, [0.0, real(strength)], source, change))
        return [
            (paint.fit(source, chosen.width, chosen.height), "your photograph"),
            (base.path, "base model"),
            (adapted.path, f"strength {strength:g}"),
        ], adapted.recipe

    paint_on(
        button, settings, show_repaint, [*settings.sampling, strength, photograph, change], [gallery, recipe],
        show_progress_on=gallery,
    )  # fmt: skip


def add_recipe() -> gr.JSON:
    with gr.Accordion("Recipe", open=False):
        return gr.JSON(show_label=False)


def download(picture: Picture) -> gr.DownloadButton:
    return gr.DownloadButton(value=picture.path, interactive=True)


# ---------------------------------------------------------------- opening the doors


def launch(page: gr.Blocks, host: str | None = None, port: int | None = None, **more: Any) -> str:
    """Serves the page and returns its address; Gradio 6 takes the looks here."""
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        theme=theme(),
        css_paths=STYLE,
        footer_links=["api", "settings"],
        run_history=False,  # the page says that it keeps nothing
        max_file_size="10mb",
        ssr_mode=False,
        _frontend=False,  # only skips Gradio's own visit, which gives up after 3 s on a busy machine
        **more,
    )
    return address


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m space", description="The page, in the browser.")
    parser.add_argument("--port", type=int, help="the first free one from 7860 by default")
    parser.add_argument("--host", help="127.0.0.1 by default; 0.0.0.0 opens the page to the network")
    parser.add_argument("--model", default="auto", help="auto, miniature, a Hub id or a folder")
    parser.add_argument("--adapter", default="auto", help="auto, none, a Hub id, a folder or a file")
    parser.add_argument("--quantize", default="auto", choices=["auto", *MODES])
    return parser.parse_args()


def main() -> None:
    chosen = options()
    try:
        painter = load_pipeline(chosen.model, chosen.adapter, chosen.quantize)
    except PainterError as problem:
        sys.exit(str(problem))
    print(painter.about, flush=True)
    launch(build(painter), chosen.host, chosen.port)


if __name__ == "__main__":
    main()
