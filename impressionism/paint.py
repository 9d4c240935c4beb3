"""Painting: one picture, the pair before and after, a row of strengths, or a photograph painted over.

What is asked for is checked once and becomes a PaintRequest, which `paint_all` paints; everything else here makes such
requests. Every call sets all the state that it needs, because one painter serves many visitors, and draws the noise on
the CPU, so that the same record gives the same picture everywhere.
"""

import contextlib
import hashlib
import itertools
import math
import re
import reprlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from PIL import Image, PngImagePlugin

from impressionism import lora
from impressionism.errors import UserError
from impressionism.files import cover, open_picture, read_picture, write_atomic
from impressionism.lora_file import AdapterInfo
from impressionism.names import DEFAULT_STRENGTH
from impressionism.pipeline import ADAPTER_NAME, Painter
from impressionism.records import LIMITS, BlockStrengths, GenerationParams, ImageMetadata, outside, within

OnStep = Callable[[int, int, torch.Tensor], None]
"""Called after each step with its number (from 1), the steps of the whole call, and the packed latents; an
exception raised in it cancels the painting and reaches the caller."""

PromptEmbeds = tuple[Any, Any]  # tensors: T5's (1, tokens, width) and CLIP's (1, width)
PROMPT_CACHE: weakref.WeakKeyDictionary[FluxPipeline, dict[str, PromptEmbeds]] = weakref.WeakKeyDictionary()
REMEMBERED = 8  # prompts; of FLUX.1-dev 4 MB each

MOST_SEEDS = 4  # pictures of one click
CHANGE = 0.3  # of a photograph, where no other is asked for
UPSCALE_CHANGE = 0.25  # of an upscaled picture: enough for new brush strokes, too little for another scene
OVERLAP = 4  # a tile shares a fourth of its side with the next one
SMALLEST = 64  # pixels a side
LARGEST = 2048
LARGEST_MINIATURE = 512
KEY = "impressionism"  # the PNG text that holds the recipe
COMPRESSION = 1  # of a PNG, of 9: in a quarter of Pillow's usual time, which is 0.4 s of 1024 x 1024, and 5 % larger
NOTICE = "AI-generated picture, painted with a FLUX.1-dev type model and an Impressionist adapter"


# ---- What is asked for


@dataclass(frozen=True)
class PaintRequest:
    """One picture, checked: what its PNG will say, and the picture that is painted over, if any."""

    metadata: ImageMetadata
    source: Image.Image | None = None
    """At the size that is painted."""


def request(
    painter: Painter,
    params: GenerationParams,
    strength: float | None = None,
    *,
    blocks: BlockStrengths | None = None,
    fast: bool = False,
    adapter: str | None = None,
    source: Image.Image | None = None,
    change: float | None = None,
    upscale: bool = False,
) -> PaintRequest:
    """What is asked for, checked against the painter's model; a UserError says everything that is wrong.

    strength: none is what the adapter recommends. blocks: multiply the strength in groups of blocks. fast: the
    accelerator paints along. adapter: one of painter.adapters, none is the first. source: a picture to paint over.
    change: how much of the source is noise at the start, above 0 to 1. upscale: the source becomes twice as large.
    """
    info = adapter_of(painter, adapter)
    if strength is None:
        strength = info.recommended_strength if info else 0.0
    if upscale and source is not None:
        params = params.replace(width=2 * (source.width // 16) * 16, height=2 * (source.height // 16) * 16)
    if source is not None and change is None:
        change = UPSCALE_CHANGE if upscale else CHANGE
    problems = [
        *problems_of(params, strength, change, blocks, over=source is not None),
        *sizes_refused(painter, params, upscale),
        *(["fast mode needs an accelerator, and none is loaded here"] if fast and not painter.accelerator else []),
    ]
    refuse(problems)
    if source is not None:
        source = cover(read_picture(source), params.width, params.height)
    accelerator = painter.accelerator if fast else None
    metadata = ImageMetadata(
        sampling=params,
        strength=strength,
        provenance=painter.provenance.replace(
            adapter=info.name if info else painter.provenance.adapter,
            adapter_revision=info.revision if info else painter.provenance.adapter_revision,
            accelerator=accelerator.name if accelerator else None,
            accelerator_revision=accelerator.revision if accelerator else None,
        ),
        blocks=None if blocks == BlockStrengths() else blocks,
        fast=fast,
        source=hashlib.sha256(source.tobytes()).hexdigest() if source is not None else None,
        change=change,
        upscale=upscale,
    )
    return PaintRequest(metadata, source)


def again(painter: Painter, recipe: ImageMetadata, source: Image.Image | None = None) -> PaintRequest:
    """The request for the picture that a recipe describes, by the painter at hand."""
    name = recipe.provenance.adapter if recipe.provenance.adapter in painter.adapters else None
    return request(
        painter, recipe.sampling, recipe.strength, blocks=recipe.blocks, fast=recipe.fast, adapter=name,
        source=source, change=recipe.change, upscale=recipe.upscale,
    )  # fmt: skip


def key_of(recipe: ImageMetadata) -> str:
    """All that decides the pixels; of the base model's picture, the adapter does not."""
    if recipe.strength == 0:
        base = recipe.provenance.replace(adapter=None, adapter_revision=None)
        recipe = recipe.replace(provenance=base, blocks=None)
    return recipe.to_json()


def defaults(painter: Painter, prompt: str, fast: bool = False) -> GenerationParams:
    """The size, the steps and the guidance that suit the painter's model, or its accelerator."""
    width, height = painter.sizes[0] if painter.sizes else [painter.pipe.vae.config.sample_size] * 2
    params = GenerationParams(prompt=prompt, steps=20 if painter.is_miniature else 28, width=width, height=height)
    info = painter.accelerator
    if not fast or not info:
        return params
    return params.replace(steps=info.steps or params.steps, guidance=info.guidance or params.guidance)


def adapter_of(painter: Painter, name: str | None) -> AdapterInfo | None:
    if name is None:
        return painter.adapter
    if name not in painter.adapters:
        raise UserError(f"There is no adapter {name} here; there is {', '.join(painter.adapters) or 'none'}.")
    return painter.adapters[name]


def check(
    params: GenerationParams,
    strength: float = DEFAULT_STRENGTH,
    change: float | None = None,
    blocks: BlockStrengths | None = None,
    *,
    largest: int = LARGEST,
) -> None:
    """What can be checked before a model is loaded: raises one UserError with everything that is wrong."""
    sides = [*side_problems("width", params.width, largest), *side_problems("height", params.height, largest)]
    refuse([*problems_of(params, strength, change, blocks, over=change is not None), *sides])


def refuse(problems: list[str]) -> None:
    if problems:
        text = "; ".join(problems)
        raise UserError(f"{text[0].upper()}{text[1:]}.")


def problems_of(
    params: GenerationParams, strength: Any, change: Any, blocks: BlockStrengths | None, over: bool
) -> list[str]:
    """over: a picture is painted over, which needs no prompt."""
    text, most = str(params.prompt), LIMITS["prompt"][1]
    broken = text != text.encode(errors="ignore").decode()  # half of an emoji: JSON carries it, no tokenizer reads it
    groups = {f"blocks.{name}": value for name, value in blocks.to_dict().items()} if blocks else {}
    return [
        *([] if isinstance(params.prompt, str) and (over or text.strip()) else ["type what to paint first"]),
        *([f"the prompt must not be longer than {most:,} characters"] if len(text) > most else []),
        *(["the prompt holds half a character; write it anew"] if broken else []),
        *outside("seed", params.seed),
        *outside("steps", params.steps),
        *outside("guidance", params.guidance),
        *outside("strength", strength),
        *(problem for name, value in groups.items() for problem in outside("blocks", value, name)),
        *(outside("change", change) if change is not None else []),
        *(["change must be above 0, or nothing is painted"] if change == 0 else []),
    ]


def sizes_refused(painter: Painter, params: GenerationParams, upscale: bool) -> list[str]:
    """An upscaled picture is painted in tiles of a size that the model knows, so it may be twice as large."""
    factor = 2 if upscale else 1
    wrong = [problem for name in ("width", "height")
             for problem in side_problems(name, getattr(params, name), factor * max_side(painter))]  # fmt: skip
    sizes = painter.sizes or ()
    if wrong or upscale or not sizes or (params.width, params.height) in sizes:
        return wrong
    near = nearest_size(sizes, params.width / params.height, params.width * params.height)
    known = ", ".join(f"{width} x {height}" for width, height in sizes)
    return [f"this model knows the sizes {known}: take {near[0]} x {near[1]}, not {params.width} x {params.height}"]


def nearest_size(sizes: Iterable[tuple[int, int]], shape: float, area: int) -> tuple[int, int]:
    """The (width, height) whose shape, width / height, is most like this one; of equals, that of about this area."""
    return min(sizes, key=lambda size: (abs(math.log(size[0] / size[1] / shape)), abs(size[0] * size[1] - area)))


def shaped_like(painter: Painter, params: GenerationParams, picture: Image.Image) -> GenerationParams:
    """The same in the picture's shape, with about as many pixels, in a size that the model knows."""
    shape, area = picture.width / picture.height, params.width * params.height
    if painter.sizes:
        width, height = nearest_size(painter.sizes, shape, area)
    else:
        sides = (math.sqrt(area * shape), math.sqrt(area / shape))
        width, height = (min(max(round(side / 16) * 16, SMALLEST), max_side(painter)) for side in sides)
    return params.replace(width=width, height=height)


def max_side(painter: Painter) -> int:
    return LARGEST_MINIATURE if painter.is_miniature else LARGEST


def side_problems(name: str, value: Any, largest: int) -> list[str]:
    if within(value, SMALLEST, largest, int) and value % 16 == 0:
        return []
    return [f"{name} must be a multiple of 16 from {SMALLEST} to {largest:,} pixels, not {reprlib.repr(value)}"]


# ---- The ways to paint; `more` are the keywords of `request`: blocks, fast, adapter; source, change, upscale


def paint(
    painter: Painter,
    params: GenerationParams,
    strength: float | None = None,
    *,
    on_step: OnStep | None = None,
    **more: Any,
) -> Image.Image:
    """One picture, with the adapter at this strength."""
    [picture] = paint_all(painter, [request(painter, params, strength, **more)], on_step=on_step)
    return picture


def compare(
    painter: Painter,
    params: GenerationParams,
    strength: float | None = None,
    *,
    on_step: OnStep | None = None,
    **more: Any,
) -> tuple[Image.Image, Image.Image]:
    """The same noise painted by the base model and with the adapter; in fast mode the accelerator is on both sides."""
    both = [request(painter, params, at, **more) for at in (0.0, strength)]
    base, adapted = paint_all(painter, both, on_step=on_step)
    return base, adapted


def sweep(
    painter: Painter,
    params: GenerationParams,
    strengths: Iterable[float],
    *,
    on_step: OnStep | None = None,
    **more: Any,
) -> Iterator[tuple[float, Image.Image]]:
    """The same noise at each strength, each picture as soon as it is done."""
    strengths = list(strengths)
    if not strengths:
        raise UserError("A sweep needs at least one strength.")
    requests = [request(painter, params, strength, **more) for strength in strengths]
    return zip(strengths, paint_all(painter, requests, on_step=on_step), strict=True)


def next_seeds(params: GenerationParams, count: int) -> list[GenerationParams]:
    """The same params with each of so many seeds, from their own on; a seed that is no number will be refused."""
    if not isinstance(params.seed, int):
        return [params]
    seeds = ((params.seed + number) % (LIMITS["seed"][1] + 1) for number in range(1, count))
    return [params, *(params.replace(seed=seed) for seed in seeds)]


# ---- Painting


def paint_all(
    painter: Painter, requests: Sequence[PaintRequest], *, on_step: OnStep | None = None
) -> Iterator[Image.Image]:
    """Each picture as soon as it is done; steps are counted over all of them."""
    done, steps = 0, sum(steps_of(painter, one) for one in requests)
    for one in requests:
        set_strengths(painter, one.metadata)
        if one.metadata.upscale:
            yield paint_tiles(painter, one, step_callback(on_step, done, steps))
        else:
            embeds = encode(painter, one.metadata.sampling.prompt)
            report = step_callback(on_step, done, steps)
            yield render(painter.pipe, one.metadata.sampling, embeds, report, one.source, one.metadata.change)
        done += steps_of(painter, one)


def render(
    pipe: FluxPipeline,
    params: GenerationParams,
    embeds: PromptEmbeds,
    report: Callable | None = None,
    source: Image.Image | None = None,
    change: float | None = None,
) -> Image.Image:
    """The denoising: from noise, or from a picture with so much noise, by the pipeline as it stands."""
    latents, sigmas = initial_latents(pipe, params), None  # none: the whole schedule
    with freed_when_cancelled(pipe):
        if source is not None and change is not None:
            latents = change * latents + (1 - change) * encode_image(pipe, source)
            sigmas = img2img_sigmas(pipe, params, change)
        kwargs = pipeline_kwargs(pipe, params, embeds)
        return pipe(**kwargs, sigmas=sigmas, latents=latents, callback_on_step_end=report).images[0]


def pipeline_kwargs(pipe: Any, params: GenerationParams, embeds: PromptEmbeds) -> dict[str, Any]:
    """The pipeline's arguments but for the noise."""
    return {
        "prompt_embeds": embeds[0],
        "pooled_prompt_embeds": embeds[1],
        "num_inference_steps": params.steps,
        "guidance_scale": params.guidance,
        "width": params.width,
        "height": params.height,
        "max_sequence_length": embeds[0].shape[1],
    }


def img2img_sigmas(pipe: FluxPipeline, params: GenerationParams, noise_level: float) -> list[float]:
    """The schedule's sigmas, before the pipeline shifts them, from the one that becomes this noise level on. The shift
    s makes σ = s u / (1 + (s - 1) u) of u; FLUX's grows with the picture, s = exp(μ)."""
    config, tokens = pipe.scheduler.config, params.width * params.height // (2 * pipe.vae_scale_factor) ** 2
    ends = (config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift)
    shift = math.exp(calculate_shift(tokens, *ends)) if config.use_dynamic_shifting else config.shift
    first = noise_level / (noise_level + shift * (1 - noise_level))
    return np.linspace(first, 0, max(1, round(params.steps * first)), endpoint=False).tolist()


def steps_of(painter: Painter, wanted: PaintRequest) -> int:
    """Denoising steps that a request takes."""
    params, change = wanted.metadata.sampling, wanted.metadata.change
    if wanted.source is None or change is None:
        return params.steps
    tile, places = tiles(painter, params) if wanted.metadata.upscale else (params, [(0, 0)])
    return len(places) * len(img2img_sigmas(painter.pipe, tile, change))


def paint_tiles(painter: Painter, wanted: PaintRequest, report: Callable | None) -> Image.Image:
    """The source painted over tile by tile; where tiles overlap, one fades into the other."""
    params, source = wanted.metadata.sampling, wanted.source
    assert source is not None
    tile, places = tiles(painter, params)
    embeds = encode(painter, params.prompt)
    total, weights = np.zeros((params.height, params.width, 3)), np.zeros((params.height, params.width, 1))
    ramp = [
        np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1)).clip(max=n // OVERLAP) for n in (tile.height, tile.width)
    ]
    weight = np.outer(*ramp)[..., None]
    # each tile from a seed of its own, or all would have the same brush strokes
    for (x, y), own in zip(places, next_seeds(tile, len(places)), strict=True):
        part = source.crop((x, y, x + tile.width, y + tile.height))
        painted = render(painter.pipe, own, embeds, report, part, wanted.metadata.change)
        here = np.s_[y : y + tile.height, x : x + tile.width]
        total[here] += weight * np.asarray(painted)
        weights[here] += weight
    return Image.fromarray((total / weights).round().astype(np.uint8))


def tiles(painter: Painter, params: GenerationParams) -> tuple[GenerationParams, list[tuple[int, int]]]:
    """A tile's params, and the corners (x, y) of all tiles: half of the picture's size, or the whole where the model
    knows it."""
    known = painter.sizes or ()
    if (params.width, params.height) in known or (
        not known and max(params.width, params.height) <= max_side(painter) // 2
    ):
        return params, [(0, 0)]
    near = min(known, key=lambda size: abs(size[0] - params.width / 2) + abs(size[1] - params.height / 2), default=None)
    sides = near or (params.width // 32 * 16, params.height // 32 * 16)
    tile = params.replace(width=min(sides[0], params.width), height=min(sides[1], params.height))
    xs, ys = (tile_offsets(whole, one) for whole, one in ((params.width, tile.width), (params.height, tile.height)))
    return tile, [(x, y) for y in ys for x in xs]


def tile_offsets(whole: int, tile: int) -> list[int]:
    """Where tiles begin that overlap by a part of their side at least, the first at 0 and the last at the end."""
    count = 1 if whole == tile else math.ceil((whole - tile) / (tile - tile // OVERLAP)) + 1
    return [round(number * (whole - tile) / max(1, count - 1)) for number in range(count)]


def set_strengths(painter: Painter, metadata: ImageMetadata) -> None:
    """The chosen adapter at its strength, every other one switched off."""
    transformer, blocks = painter.pipe.transformer, metadata.blocks or lora.EVERYWHERE
    keys = {info.name: info.key for info in painter.adapters.values()}
    chosen = keys.get(str(metadata.provenance.adapter), ADAPTER_NAME)
    for key in {ADAPTER_NAME, *keys.values()}:
        lora.set_strength(transformer, key, metadata.strength if key == chosen else 0.0, blocks)
    if painter.accelerator:
        strength = painter.accelerator.recommended_strength if metadata.fast else 0.0
        lora.set_strength(transformer, painter.accelerator.key, strength)


def set_strength(pipe: FluxPipeline, strength: float) -> None:
    """The first adapter's strength: 1 as trained, 0 switched off, so that not even a rounding is left of it."""
    lora.set_strength(pipe.transformer, ADAPTER_NAME, strength)


def encode(painter: Painter, prompt: str) -> PromptEmbeds:
    """The prompt as both text encoders understand it; the last few are remembered, for the next seed or strength."""
    pipe = painter.pipe
    known = PROMPT_CACHE.setdefault(pipe, {})
    if prompt not in known:
        with torch.no_grad(), freed_when_cancelled(pipe):
            embeds, pooled, _ = pipe.encode_prompt(
                prompt, None, device=pipe._execution_device, max_sequence_length=max_tokens(painter)
            )
        if len(known) == REMEMBERED:
            known.pop(next(iter(known)))
        known[prompt] = embeds, pooled
    return known[prompt]


def max_tokens(painter: Painter) -> int:
    """What T5 reads of a prompt."""
    return min(512, painter.pipe.tokenizer_2.model_max_length)


def cut_at(painter: Painter, prompt: str) -> str | None:
    """The end of a prompt that is too long for the text encoder, which it does not read; none where it reads all."""
    found = painter.pipe.tokenizer_2(prompt, return_offsets_mapping=True, add_special_tokens=False)
    last = max_tokens(painter) - 1  # and the token that ends it
    return prompt[found["offset_mapping"][last][0] :].strip() if len(found["input_ids"]) > last else None


def unknown_words(painter: Painter, prompt: str) -> list[str]:
    """The words that a miniature was not taught: its vocabulary holds whole words, and spells others by letters. The
    words of an adapter's trigger phrase were learned with the adapter."""
    if not painter.is_miniature:
        return []
    learned = " ".join(info.trigger or "" for info in painter.adapters.values()).lower().split()
    vocabulary = painter.pipe.tokenizer_2.get_vocab()
    words = dict.fromkeys(re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", prompt))
    return [
        word for word in words
        if not {f"▁{word}", f"▁{word.lower()}"} & vocabulary.keys() and word.lower() not in learned
    ]  # fmt: skip


@contextlib.contextmanager
def freed_when_cancelled(pipe: FluxPipeline) -> Iterator[None]:
    """If the call is cancelled, release the models that CPU offload holds on the GPU."""
    try:
        yield
    except BaseException:
        pipe.maybe_free_model_hooks()
        raise


def initial_latents(pipe: FluxPipeline, params: GenerationParams) -> Any:
    """(1, tokens, channels) in float32, whatever the painter's device and precision."""
    channels, scale = pipe.vae.config.latent_channels, pipe.vae_scale_factor
    height, width = params.height // scale, params.width // scale
    generator = torch.Generator("cpu").manual_seed(params.seed)
    drawn = torch.randn(1, channels, height, width, generator=generator)
    return pipe._pack_latents(drawn, 1, channels, height, width)


@torch.no_grad()
def encode_image(pipe: FluxPipeline, picture: Image.Image) -> Any:
    """(1, tokens, channels) in float32 on the CPU: what the picture is to the transformer."""
    vae: Any = pipe.vae
    pixels = pipe.image_processor.preprocess(picture).to(pipe._execution_device, vae.dtype)
    encoded = (vae.encode(pixels).latent_dist.mode() - vae.config.shift_factor) * vae.config.scaling_factor
    return pipe._pack_latents(encoded.cpu().float(), *encoded.shape)


def step_callback(on_step: OnStep | None, done: int, steps: int) -> Callable | None:
    """on_step as diffusers wants its callback, counting on from what was done."""
    if on_step is None:
        return None
    number = itertools.count(done + 1)

    def report(pipe: Any, index: int, _: Any, tensors: dict[str, torch.Tensor]) -> dict:
        on_step(next(number), steps, tensors["latents"])
        return {}

    return report


# ---- The recipe that a picture carries


def summary(recipe: ImageMetadata) -> str:
    """The recipe in one line for people."""
    s, p = recipe.sampling, recipe.provenance
    values = {
        "Strength": recipe.strength,
        "Seed": s.seed,
        "Steps": s.steps,
        "Guidance": s.guidance,
        "Size": f"{s.width}x{s.height}",
        "Model": f"{p.base} {p.base_revision or ''}".strip(),
        "Adapter": f"{p.adapter or 'none'} {p.adapter_revision or ''}".strip(),
    }
    return f"{s.prompt} | " + ", ".join(f"{name}: {value}" for name, value in values.items())


def save(image: Image.Image, recipe: ImageMetadata, path: Path | str) -> Path:
    """A PNG that carries its recipe, for people and for `--from`, and says that it is AI-generated."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"{path.name} cannot carry a recipe; name the picture something.png.")
    text = PngImagePlugin.PngInfo()
    text.add_itxt(KEY, recipe.to_json())
    text.add_itxt("parameters", summary(recipe))
    text.add_itxt("Software", "impressionism")
    text.add_itxt("Comment", NOTICE)
    return write_atomic(path, lambda file: image.save(file, "PNG", pnginfo=text, compress_level=COMPRESSION))


def read_recipe(picture: Path | str | Image.Image) -> ImageMetadata:
    """The recipe in a PNG that `save` wrote."""
    with open_picture(picture) as image:
        image.load()  # the text may follow the pixels
        text = image.info.get(KEY)
    if text is None:
        raise UserError("This picture carries no recipe; only an untouched PNG from this painter does.")
    try:
        return ImageMetadata.from_json(text)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"The recipe in this picture is damaged: {error}") from error
