"""What to paint: the controls that the tabs share, and how a link, a PNG or the gallery sets them."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from impressionism import names, paint
from impressionism.names import BLOCK_GROUPS
from impressionism.records import BlockStrengths, GenerationParams, ImageMetadata
from space.pictures import front
from space.recipes import PARAMS
from space.studio import Request, Studio, blocks_of
from space.texts import PageTexts, Size

LIGHT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Events that answer at once and cannot fail: Gradio would not show what they raise."""
AT_ONCE: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
"""Events that do not wait for the painter; Gradio shows their errors."""
TYPING: dict[str, Any] = LIGHT | {"trigger_mode": "always_last"}

STRENGTHS = [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
HOW = ("fast", "adapter", *BLOCK_GROUPS)
RATIOS = {"1:1": 1, "5:4": 5 / 4, "4:3": 4 / 3, "3:2": 3 / 2, "16:9": 16 / 9}


def only(*tabs: str) -> list[str]:
    """CSS classes of what is shown on these tabs alone."""
    return ["only", *(f"for-{tab}" for tab in tabs)]


@dataclass(frozen=True)
class Settings:
    """The controls, and the tabs, which a link can choose."""

    prompt: gr.Textbox
    shape: gr.Radio
    seed: gr.Number
    steps: gr.Slider
    guidance: gr.Slider
    width: gr.Number
    height: gr.Number
    strength: gr.HTML
    strengths: gr.CheckboxGroup
    change: gr.Slider
    count: gr.Radio
    fast: gr.Checkbox
    adapter: gr.Dropdown
    against: gr.Dropdown
    two_stream: gr.Slider
    early_single: gr.Slider
    late_single: gr.Slider
    tabs: gr.Tabs

    def inputs(self, *more: str) -> dict[str, Component]:
        """By name, for what paints: all that params_of and how_of read, and these controls."""
        return {name: getattr(self, name) for name in (*PARAMS, *HOW, *more)}

    @property
    def restored(self) -> list[Any]:
        return [*self.inputs("strength", "strengths", "change", "tabs").values()]


def how_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of Studio.request that say how the adapters paint."""
    return {"fast": bool(values["fast"]), "adapter": values["adapter"] or None, "blocks": blocks_of(values)}


def make_settings(studio: Studio, texts: PageTexts, metadata: ImageMetadata | None) -> Settings:
    """The controls, set to this picture's; each is rendered later, where it belongs. Their values go to the studio's
    own check, because its sentences name the field and Gradio's do not."""
    prompt, shape, seed = texts.examples[0]
    # fast on ZeroGPU, where a visitor's quota is counted in seconds
    fast = names.on_zero_gpu() and studio.painter.accelerator is not None
    start = metadata.sampling if metadata else params_for(studio, texts, prompt, shape, seed, fast)
    strength = metadata.strength if metadata else recommended_strength(studio)
    settings = Settings(
        **picture_controls(studio, texts, start),
        **adapter_controls(studio, strength, fast),
        count=gr.Radio(
            [*range(1, paint.MOST_SEEDS + 1)], value=1, label="Pairs", elem_id="count", elem_classes=only("paint"),
            info="Each pair uses the next seed; pick one below the pictures.", render=False,
        ),
        change=gr.Slider(
            **ends(paint.LIMITS["change"]), value=paint.CHANGE, step=0.05, label="How much to change the photo",
            info=f"{paint.CHANGE:g} keeps it, 0.8 reinvents it.", elem_classes=only("repaint"), render=False,
        ),
        tabs=gr.Tabs(selected="paint", elem_id="ways", render=False),
    )  # fmt: skip
    for control in vars(settings).values():
        if isinstance(control, gr.Number | gr.Slider | gr.Textbox):
            control.preprocess = lambda payload: payload
    return settings


def picture_controls(studio: Studio, texts: PageTexts, start: GenerationParams) -> dict[str, Any]:
    """What both models paint, with its shape."""
    limits = studio.limits()
    later: dict[str, Any] = {"render": False}
    side: dict[str, Any] = {"precision": 0, "step": 16, "min_width": 100, **ends(limits["width"]), **later}
    return {
        "prompt": gr.Textbox(
            start.prompt, label="Prompt", lines=2, max_lines=5, max_length=limits["prompt"][1],
            placeholder="What to paint", elem_id="prompt", **later,
        ),
        "shape": gr.Radio(
            [(f"{name} {ratio(size)}", name) for name, size in texts.sizes.items()],
            value=shape_of(texts, start.width, start.height), label="Shape", elem_id="shape", **later,
        ),
        "seed": gr.Number(start.seed, label="Seed", precision=0, min_width=120, **ends(limits["seed"]), **later),
        "steps": gr.Slider(**ends(limits["steps"]), value=start.steps, step=1, label="Steps", **later),
        "guidance": gr.Slider(
            **ends(limits["guidance"]), value=start.guidance, step=0.1, label="Guidance (distilled)", **later
        ),
        "width": gr.Number(start.width, label="Width", **side),
        "height": gr.Number(start.height, label="Height", **side),
    }  # fmt: skip


def adapter_controls(studio: Studio, strength: float, fast: bool) -> dict[str, Any]:
    """Which adapter paints, how strongly and where."""
    painter, recommended = studio.painter, recommended_strength(studio)
    least, most = paint.LIMITS["strength"]
    later: dict[str, Any] = {"render": False}
    adapters = [(info.title or name, name) for name, info in painter.adapters.items()]
    block: dict[str, Any] = {**ends(paint.LIMITS["blocks"]), "value": 1, "step": 0.05, **later}
    return {
        "strength": front(
            "strength", strength, least=least, most=most, recommended=recommended, elem_id="strength",
            elem_classes=only("paint", "repaint"), **later,
        ),
        "strengths": gr.CheckboxGroup(
            STRENGTHS, value=[0, 0.5, 1, 1.5], label="Strengths", info="The same noise, painted once at each.",
            elem_id="strengths", elem_classes=only("grid"), **later,
        ),
        "fast": gr.Checkbox(
            fast, label="Fast", info="Paints in fewer steps, using an accelerator adapter.",
            visible=painter.accelerator is not None, **later,
        ),
        "adapter": gr.Dropdown(
            adapters, value=next(iter(painter.adapters), None), label="Adapter", visible=len(adapters) > 1, **later
        ),
        "against": gr.Dropdown(
            [("the base model", ""), *adapters], value="", label="Compare with", visible=len(adapters) > 1,
            elem_classes=only("paint"), **later,
        ),
        "two_stream": gr.Slider(label="Two-stream blocks", info="Multiplies the strength there.", **block),
        "early_single": gr.Slider(label="Early single-stream blocks", **block),
        "late_single": gr.Slider(label="Late single-stream blocks", **block),
    }  # fmt: skip


def recommended_strength(studio: Studio, adapter: str | None = None) -> float:
    """What this adapter says, or the first one."""
    info = studio.painter.adapters.get(adapter or "", studio.painter.adapter)
    return info.recommended_strength if info else names.DEFAULT_STRENGTH


def ends(limits: Sequence[float]) -> dict[str, Any]:
    return {"minimum": limits[0], "maximum": limits[1]}


def params_for(
    studio: Studio, texts: PageTexts, prompt: str, shape: str, seed: int, fast: bool = False
) -> GenerationParams:
    width, height = texts.sizes[shape]
    return paint.defaults(studio.painter, prompt, fast).replace(seed=seed, width=width, height=height)


def shape_of(texts: PageTexts, wide: int | None, high: int | None) -> str | None:
    return next((name for name, size in texts.sizes.items() if size == (wide, high)), None)


def nearest_size(texts: PageTexts, width: int, height: int) -> Size:
    """The size whose shape is most like this one."""
    return paint.nearest_size(texts.sizes.values(), width / height, width * height)


def ratio(size: Size) -> str:
    """The usual name of the nearest aspect ratio."""
    aspect = max(size) / min(size)
    name = min(RATIOS, key=lambda name: abs(math.log(aspect / RATIOS[name])))
    return name if size[0] >= size[1] else ":".join(reversed(name.split(":")))


def add_settings(studio: Studio, texts: PageTexts, settings: Settings, hint: gr.HTML) -> None:
    """All but the prompt: below it or, on a phone, below the picture."""
    for control in (settings.change, settings.strength, settings.strengths, settings.adapter, settings.against):
        control.render()
    settings.fast.render()
    with gr.Row(elem_id="seeds"):
        settings.seed.render()
        dice = gr.Button("New seed", size="sm", min_width=100, scale=0)
    settings.count.render()
    settings.shape.render()
    with gr.Accordion("Advanced: steps, size, block strengths", open=False):
        settings.steps.render()
        settings.guidance.render()
        with gr.Row():
            settings.width.render()
            settings.height.render()
        settings.two_stream.render()
        settings.early_single.render()
        settings.late_single.render()

    def size_of(name: str | None) -> tuple[Any, Any]:
        return texts.sizes[name] if name else (gr.skip(), gr.skip())

    def steps_of(fast: bool) -> tuple[int, float]:
        default = paint.defaults(studio.painter, "any", fast)
        return default.steps, default.guidance

    def of_adapter(name: str, prompt: str) -> tuple[Any, str, Any]:
        """The adapter's own strength, and its trigger phrase in the place of another one's."""
        every = [trigger_of(studio, each) for each in studio.painter.adapters]
        was = max((one for one in every if one and has_trigger(one, prompt)), key=len, default="")
        new = f"{trigger_of(studio, name)} {prompt[len(was) :].strip()}".strip() if was else prompt
        recommended = recommended_strength(studio, name)
        return gr.update(value=recommended, recommended=recommended), new, hint_of(studio, new, name)

    most = studio.limits()["seed"][1]
    settings.fast.input(steps_of, settings.fast, [settings.steps, settings.guidance], **LIGHT)
    settings.adapter.input(
        of_adapter, [settings.adapter, settings.prompt], [settings.strength, settings.prompt, hint], **LIGHT
    )
    dice.click(lambda: random.randint(0, most), None, settings.seed, **LIGHT)
    settings.shape.change(size_of, settings.shape, [settings.width, settings.height], **LIGHT)
    gr.on(
        [settings.width.change, settings.height.change],
        lambda wide, high: shape_of(texts, wide, high),
        [settings.width, settings.height], settings.shape, **LIGHT,
    )  # fmt: skip


def add_ideas(studio: Studio, texts: PageTexts, settings: Settings) -> None:
    """Words and examples that the model understands; a click puts them into the prompt."""
    if texts.vocabulary:
        chips = front("chips", texts.vocabulary, elem_id="vocabulary")
        groups = list(texts.vocabulary.values())

        def choose(prompt: str, adapter: str, event: gr.EventData) -> str:
            return with_chip(texts, prompt or "", groups[event.group][event.index], trigger_of(studio, adapter))

        chips.select(choose, [settings.prompt, settings.adapter], settings.prompt, **LIGHT)
    gr.Examples(
        [list(example) for example in texts.examples],
        [settings.prompt, settings.shape, settings.seed],
        example_labels=[text for text, *_ in texts.examples],
        label="Try",
        elem_id="examples",
        api_visibility="private",
    )


def with_chip(texts: PageTexts, prompt: str, chip: str, trigger: str = "") -> str:
    """The prompt with another light at its end, or another subject between the trigger phrase and the light it had."""
    _, lights = texts.vocabulary.values()
    light = next((light for light in lights if prompt.endswith(light)), "")
    if chip in lights:
        return f"{prompt.removesuffix(light).strip()} {chip}".strip()
    before = trigger if trigger and has_trigger(trigger, prompt) else ""
    return f"{before} {chip} {light}".strip()


def add_hint(studio: Studio, settings: Settings) -> gr.HTML:
    """What the model cannot read in the prompt, and the adapter's trigger phrase, which a click adds or removes."""
    prompt, both = settings.prompt, [settings.prompt, settings.adapter]
    hint = front("hint", hint_of(studio, prompt.value or ""), elem_id="hint")
    prompt.change(lambda prompt, adapter: hint_of(studio, prompt or "", adapter), both, hint, **TYPING)
    hint.submit(lambda prompt, adapter: with_or_without(trigger_of(studio, adapter), prompt), both, prompt, **LIGHT)
    return hint


def hint_of(studio: Studio, prompt: str, adapter: str | None = None) -> dict[str, str]:
    trigger = trigger_of(studio, adapter)
    if unread := studio.unread(prompt):
        help = " Choose a subject and a light from the list." if studio.painter.is_miniature else ""
        return {"text": unread + help}
    if not trigger:
        return {}
    if has_trigger(trigger, prompt):
        return {"text": f"“{trigger}” is the adapter’s trigger phrase.", "action": "Remove it"}
    return {"text": f"The adapter was trained on prompts that begin with “{trigger}”.", "action": "Add it"}


def trigger_of(studio: Studio, adapter: str | None = None) -> str:
    """What this adapter says, or the first one."""
    info = studio.painter.adapters.get(adapter or "", studio.painter.adapter)
    return ((info and info.trigger) or "").strip()


def has_trigger(trigger: str, prompt: str) -> bool:
    return prompt.lower().startswith(trigger.lower())


def with_or_without(trigger: str, prompt: str) -> str:
    return prompt[len(trigger) :].strip() if has_trigger(trigger, prompt) else f"{trigger} {prompt}".strip()


# ---- Settings from a recipe


def request_for(studio: Studio, asked: dict[str, Any]) -> Request:
    """What a link or a recipe asks for, checked. An adapter that is not here is replaced by the first."""
    fast = bool(asked.get("fast")) and studio.painter.accelerator is not None
    blocks = BlockStrengths(**{name: asked[name] for name in BLOCK_GROUPS if name in asked})
    adapter = asked.get("adapter") if asked.get("adapter") in studio.painter.adapters else None
    changes = {name: asked[name] for name in PARAMS if name in asked}
    if "change" in asked:  # a repaint needs no prompt
        changes["prompt"] = changes.get("prompt") or "any"
    params = paint.defaults(studio.painter, "any", fast).replace(**changes)
    strengths = asked.get("strengths", [recommended_strength(studio, adapter)])
    return studio.request(params, strengths, change=asked.get("change"), fast=fast, adapter=adapter, blocks=blocks)


def restored(studio: Studio, settings: Settings, asked: dict[str, Any]) -> dict[Any, Any]:
    """What each control becomes; everything is checked before it reaches one."""
    metadata = request_for(studio, asked).items[0].metadata
    strengths = asked.get("strengths", [])
    updates: dict[Any, Any] = {getattr(settings, name): asked[name] for name in (*PARAMS, "change") if name in asked}
    updates |= {getattr(settings, name): asked.get(name, 1.0) for name in BLOCK_GROUPS}
    updates |= {settings.fast: metadata.fast} if "fast" in asked else {}
    adapter = asked.get("adapter") if asked.get("adapter") in studio.painter.adapters else None
    updates |= {settings.adapter: adapter} if adapter else {}
    updates[settings.tabs] = gr.update(selected=tab_of(asked))
    if len(strengths) > 1:
        updates[settings.strengths] = gr.update(choices=sorted({*STRENGTHS, *strengths}), value=strengths)
    elif strengths:
        mark: dict[str, Any] = {"recommended": recommended_strength(studio, adapter)} if adapter else {}
        updates[settings.strength] = gr.update(value=strengths[0], **mark)
    return updates


def tab_of(asked: dict[str, Any]) -> str:
    return "grid" if len(asked.get("strengths", ())) > 1 else "repaint" if "change" in asked else "paint"


def warn_of_other_weights(studio: Studio, recipe: ImageMetadata) -> None:
    was, now = recipe.provenance, studio.painter.provenance
    if (was.base, was.base_revision) != (now.base, now.base_revision):
        gr.Warning("Another base model painted this picture; painted here it will look different.")
    elif recipe.strength and (was.adapter, was.adapter_revision) != (now.adapter, now.adapter_revision):
        gr.Warning("Another adapter painted this picture; painted here it will look different.")
