"""What to paint: the controls that all ways of painting share, and how a recipe sets them again."""

import dataclasses
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from impressionism import paint
from impressionism.records import GenerationParams, ImageMetadata
from space.errors import plain_words
from space.recipes import recipes_in, settings_from, settings_of
from space.studio import Studio
from space.texts import PageTexts, Size

LIGHT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Of events that answer at once, past the queue, and cannot fail: what they raise is not shown."""
AT_ONCE: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
"""Of events that do not wait for the painter; Gradio shows their errors, and notices a State that they change."""

STRENGTHS = [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
RATIOS = {"1:1": 1, "5:4": 5 / 4, "4:3": 4 / 3, "3:2": 3 / 2, "16:9": 16 / 9}


@dataclass(frozen=True)
class Settings:
    """The controls, and what a recipe sets besides: the tab, and the strengths that the tabs ask for."""

    prompt: gr.Textbox
    shape: gr.Radio
    seed: gr.Number
    steps: gr.Slider
    guidance: gr.Slider
    width: gr.Number
    height: gr.Number
    strength: gr.Slider
    strengths: gr.CheckboxGroup
    change: gr.Slider
    repaint_strength: gr.Slider
    tabs: gr.Tabs

    @property
    def sampling(self) -> list[Component]:
        return [self.prompt, self.seed, self.steps, self.guidance, self.width, self.height]

    @property
    def restored(self) -> list[Any]:
        return [*self.sampling, self.strength, self.strengths, self.change, self.repaint_strength, self.tabs]


def make_settings(studio: Studio, words: PageTexts, recipe: ImageMetadata | None) -> Settings:
    """The controls, set to this recipe; not yet on the page: each is rendered where it belongs. What they hold goes to
    the studio's own check, whose sentences name the field; Gradio's would not."""
    limits = studio.limits()
    prompt, shape, seed = words.examples[0]
    start = recipe.sampling if recipe else sampling_for(studio, words, prompt, shape, seed)
    side: dict[str, Any] = {"precision": 0, "step": 16, "min_width": 100, "render": False, **ends(limits["width"])}
    settings = Settings(
        prompt=gr.Textbox(
            label="Prompt",
            info=words.hint,
            value=start.prompt,
            lines=2,
            max_lines=5,
            max_length=limits["prompt"][1],
            elem_id="prompt",
            render=False,
        ),
        shape=gr.Radio(
            [(f"{name} {ratio(size)}", name) for name, size in words.sizes.items()],
            value=shape_of(words, start.width, start.height),
            label="Shape",
            elem_id="shape",
            render=False,
        ),
        seed=gr.Number(
            start.seed,
            label="Seed",
            precision=0,
            **ends(limits["seed"]),
            min_width=120,
            render=False,
        ),
        steps=gr.Slider(**ends(limits["steps"]), value=start.steps, step=1, label="Steps", render=False),
        guidance=gr.Slider(
            **ends(limits["guidance"]), value=start.guidance, step=0.1, label="Guidance (distilled)", render=False
        ),
        width=gr.Number(start.width, label="Width", **side),
        height=gr.Number(start.height, label="Height", **side),
        strength=gr.Slider(
            **ends(limits["strength"]),
            value=recipe.strength if recipe else 1,
            step=0.05,
            label="Strength",
            info="0 is the base model exactly, 1 the adapter as it was trained.",
            elem_id="strength",
            render=False,
        ),
        strengths=gr.CheckboxGroup(
            STRENGTHS,
            value=[0, 0.5, 1, 1.5],
            label="Strengths",
            info="The same noise, painted once at each.",
            elem_id="strengths",
            render=False,
        ),
        change=gr.Slider(
            **ends(limits["change"]),
            value=paint.CHANGE,
            step=0.05,
            label="Change",
            info="How far to leave the photograph.",
            render=False,
        ),
        repaint_strength=gr.Slider(**ends(limits["strength"]), value=1, step=0.05, label="Strength", render=False),
        tabs=gr.Tabs(selected="paint", elem_id="ways", render=False),
    )
    for control in vars(settings).values():
        if isinstance(control, gr.Number | gr.Slider | gr.Textbox):
            control.preprocess = lambda payload: payload
    return settings


def ends(limits: Sequence[float]) -> dict[str, Any]:
    return {"minimum": limits[0], "maximum": limits[1]}


def sampling_for(studio: Studio, words: PageTexts, prompt: str, shape: str, seed: int) -> GenerationParams:
    width, height = words.sizes[shape]
    default = paint.defaults(studio.painter, prompt)
    return dataclasses.replace(default, seed=seed, width=width, height=height)


def shape_of(words: PageTexts, wide: int | None, high: int | None) -> str | None:
    return next((name for name, size in words.sizes.items() if size == (wide, high)), None)


def ratio(size: Size) -> str:
    """The usual name of the nearest aspect ratio."""
    aspect = max(size) / min(size)
    name = min(RATIOS, key=lambda name: abs(math.log(aspect / RATIOS[name])))
    return name if size[0] >= size[1] else ":".join(reversed(name.split(":")))


def add_settings(studio: Studio, words: PageTexts, settings: Settings) -> None:
    """The column beside the easel."""
    settings.prompt.render()
    settings.shape.render()
    with gr.Row(elem_id="seeds"):
        settings.seed.render()
        dice = gr.Button("New seed", size="sm", min_width=100, scale=0)
    with gr.Accordion("Steps, guidance, size", open=False):
        settings.steps.render()
        settings.guidance.render()
        with gr.Row():
            settings.width.render()
            settings.height.render()
    gr.Examples(
        [[text, shape, seed] for text, shape, seed in words.examples],
        [settings.prompt, settings.shape, settings.seed],
        example_labels=[text for text, *_ in words.examples],
        label="Try",
        elem_id="examples",
        api_visibility="private",
    )
    label = "Load a PNG’s settings, or drop it anywhere"
    load = gr.UploadButton(label, file_types=[".png"], size="sm", elem_id="load-recipe", type="filepath")

    def size_of(name: str | None) -> tuple[Any, Any]:
        return words.sizes[name] if name else (gr.skip(), gr.skip())

    most = studio.limits()["seed"][1]
    dice.click(lambda: random.randint(0, most), None, settings.seed, **LIGHT)
    settings.shape.change(size_of, settings.shape, [settings.width, settings.height], **LIGHT)
    gr.on(
        [settings.width.change, settings.height.change],
        lambda wide, high: shape_of(words, wide, high),
        [settings.width, settings.height], settings.shape, **LIGHT,
    )  # fmt: skip
    load.upload(lambda path: restore_from_picture(studio, settings, path), load, settings.restored, **AT_ONCE)


# ---- Settings from a recipe


def restore_from_picture(studio: Studio, settings: Settings, path: str) -> dict[Any, Any]:
    with plain_words():
        recipes = recipes_in(path)
        warn_of_other_weights(studio, recipes[-1])
        return restored(studio, settings, settings_of(recipes))


def restore_from_link(studio: Studio, settings: Settings, request: gr.Request) -> Any:
    """On opening the page; a link that cannot be read leaves everything as it is, and says so."""
    with plain_words():
        asked = settings_from(request.query_params.multi_items())
        return restored(studio, settings, asked) if asked else gr.skip()


def restored(studio: Studio, settings: Settings, asked: dict[str, Any]) -> dict[Any, Any]:
    """What each control becomes; everything is checked before it reaches one."""
    names = {field.name for field in dataclasses.fields(GenerationParams)}
    sampling = {name: value for name, value in asked.items() if name in names}
    strengths = asked.get("strengths", [1.0])
    studio.check(dataclasses.replace(paint.defaults(studio.painter, "any"), **sampling), strengths, asked.get("change"))
    updates: dict[Any, Any] = {getattr(settings, name): value for name, value in sampling.items()}
    tab = "strength" if len(strengths) > 1 else "repaint" if "change" in asked else "paint"
    updates[settings.tabs] = gr.update(selected=tab)
    if "change" in asked:
        updates[settings.change] = asked["change"]
    if len(strengths) > 1:
        updates[settings.strengths] = gr.update(choices=sorted({*STRENGTHS, *strengths}), value=strengths)
    elif "strengths" in asked:
        updates[settings.strength] = updates[settings.repaint_strength] = strengths[0]
    return updates


def warn_of_other_weights(studio: Studio, recipe: ImageMetadata) -> None:
    was, now = recipe.provenance, studio.painter.provenance
    if (was.base, was.base_revision) != (now.base, now.base_revision):
        gr.Warning("This picture was painted by another base model than the one on this page; it will look different.")
    elif recipe.strength and (was.adapter, was.adapter_revision) != (now.adapter, now.adapter_revision):
        gr.Warning("This picture was painted with another adapter than the one on this page; it will look different.")
