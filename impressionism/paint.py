"""Painting: one picture, the pair before and after, a row of strengths, or a photograph painted over.

Every call sets all the state that it needs, because one painter serves many visitors, and draws the noise on
the CPU, so that the same record gives the same picture everywhere.
"""

import contextlib
import hashlib
import math
import reprlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxImg2ImgPipeline, FluxPipeline
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from impressionism import lora
from impressionism.errors import UserError
from impressionism.pipeline import ADAPTER_NAME, Painter
from impressionism.records import GenerationParams, ImageMetadata

OnStep = Callable[[int, int, torch.Tensor], None]
"""Called after each step with its number (from 1), the steps of the whole call, and the packed latents; an
exception raised in it cancels the painting and reaches the caller."""

PromptEmbeds = tuple[Any, Any]  # tensors: T5's (1, tokens, width) and CLIP's (1, width)
PROMPT_CACHE: weakref.WeakKeyDictionary[FluxPipeline, dict[str, PromptEmbeds]] = weakref.WeakKeyDictionary()
REMEMBERED = 8  # prompts; of FLUX.1-dev 4 MB each

# The least and the most of what may be asked.
LIMITS: dict[str, tuple[int, int]] = {
    "prompt": (1, 2000),  # characters
    "seed": (0, 2**31 - 1),
    "steps": (1, 100),
    "guidance": (0, 20),
    "strength": (-1, 2),
    "change": (0, 1),
}
CHANGE = 0.6  # of a photograph, where no other is asked for
SMALLEST = 64  # pixels a side
LARGEST = 2048
LARGEST_MINIATURE = 512
KEY = "impressionism"  # the PNG text that holds the recipe
COMPRESSION = 1  # of a PNG, of 9: in a quarter of Pillow's usual time, which is 0.4 s of 1024 x 1024, and 5 % larger
NOTICE = "AI-generated picture, painted with a FLUX.1-dev type model and an Impressionist adapter"


# ---- The four ways to paint


def paint(
    painter: Painter, sampling: GenerationParams, strength: float = 1.0, *, on_step: OnStep | None = None
) -> Image.Image:
    """One picture, with the adapter at this strength."""
    [(_, picture)] = sweep(painter, sampling, [strength], on_step=on_step)
    return picture


def compare(
    painter: Painter, sampling: GenerationParams, strength: float = 1.0, *, on_step: OnStep | None = None
) -> tuple[Image.Image, Image.Image]:
    """The same noise painted by the base model and with the adapter."""
    (_, base), (_, adapted) = sweep(painter, sampling, [0.0, strength], on_step=on_step)
    return base, adapted


def sweep(
    painter: Painter, sampling: GenerationParams, strengths: Iterable[float], *, on_step: OnStep | None = None
) -> Iterator[tuple[float, Image.Image]]:
    """The same noise at each strength, each picture as soon as it is done; the prompt is encoded once."""
    strengths = list(strengths)
    if not strengths:
        raise UserError("A sweep needs at least one strength.")
    for strength in strengths:
        check(sampling, strength, largest=largest(painter))
    return _sweep(painter, sampling, strengths, on_step)


def _sweep(
    painter: Painter, sampling: GenerationParams, strengths: list[float], on_step: OnStep | None
) -> Iterator[tuple[float, Image.Image]]:
    words = encode(painter, sampling.prompt)
    for done, strength in enumerate(strengths):
        set_strength(painter.pipe, strength)
        report = reporter(on_step, done * sampling.steps, len(strengths) * sampling.steps)
        yield strength, render(painter.pipe, sampling, words, report)


def repaint(
    painter: Painter,
    sampling: GenerationParams,
    strength: float,
    source: Image.Image,
    change: float = CHANGE,
    *,
    on_step: OnStep | None = None,
) -> Image.Image:
    """A picture painted over, slightly (change near 0) or entirely (1); diffusers calls this strength."""
    check(sampling, strength, change, largest=largest(painter))
    words = encode(painter, sampling.prompt)
    set_strength(painter.pipe, strength)
    # The same modules; from_pipe would cast them all to float32.
    pipeline = FluxImg2ImgPipeline(**painter.pipe.components)
    pipeline.set_progress_bar_config(disable=True)
    with card_left(painter.pipe):
        result = pipeline(
            **common(pipeline, sampling, words),
            image=fit(source, sampling.width, sampling.height),
            strength=change,
            generator=torch.Generator("cpu").manual_seed(sampling.seed),
            callback_on_step_end=reporter(on_step, 0, None),
        )
    return result.images[0]


# ---- What they are made of


def encode(painter: Painter, prompt: str) -> PromptEmbeds:
    """The prompt as both text encoders understand it; the last few are remembered, for the next seed or strength."""
    pipe = painter.pipe
    known = PROMPT_CACHE.setdefault(pipe, {})
    if prompt not in known:
        tokens = min(512, pipe.tokenizer_2.model_max_length)
        with torch.no_grad():
            words, summary, _ = pipe.encode_prompt(
                prompt, None, device=pipe._execution_device, max_sequence_length=tokens
            )
        if len(known) == REMEMBERED:
            known.pop(next(iter(known)))
        known[prompt] = words, summary
    return known[prompt]


def render(
    pipe: FluxPipeline, sampling: GenerationParams, words: PromptEmbeds, report: Callable | None = None
) -> Image.Image:
    """The sampling's picture, by the pipeline as it stands."""
    latents = noise(pipe, sampling)
    with card_left(pipe):
        return pipe(**common(pipe, sampling, words), latents=latents, callback_on_step_end=report).images[0]


@contextlib.contextmanager
def card_left(pipe: FluxPipeline) -> Iterator[None]:
    """Where models take turns on the card, one that was cancelled leaves it, too."""
    try:
        yield
    except BaseException:
        pipe.maybe_free_model_hooks()
        raise


def set_strength(pipe: FluxPipeline, strength: float) -> None:
    """1 is the adapter as trained; at 0 it is switched off, so that not even a rounding is left of it."""
    lora.set_strength(pipe.transformer, ADAPTER_NAME, strength)


def noise(pipe: FluxPipeline, sampling: GenerationParams) -> Any:
    """(1, tokens, channels) in float32, whatever the painter's device and precision."""
    channels, scale = pipe.vae.config.latent_channels, pipe.vae_scale_factor
    height, width = sampling.height // scale, sampling.width // scale
    generator = torch.Generator("cpu").manual_seed(sampling.seed)
    drawn = torch.randn(1, channels, height, width, generator=generator)
    return pipe._pack_latents(drawn, 1, channels, height, width)


def common(pipe: Any, sampling: GenerationParams, words: PromptEmbeds) -> dict[str, Any]:
    """The arguments that both pipelines take."""
    return {
        "prompt_embeds": words[0],
        "pooled_prompt_embeds": words[1],
        "num_inference_steps": sampling.steps,
        "guidance_scale": sampling.guidance,
        "width": sampling.width,
        "height": sampling.height,
        "max_sequence_length": words[0].shape[1],
    }


def reporter(on_step: OnStep | None, done: int, steps: int | None) -> Callable | None:
    """on_step as diffusers wants its callback; steps is asked of the pipeline where it alone knows."""
    if on_step is None:
        return None

    def report(pipe: Any, index: int, _: Any, tensors: dict[str, torch.Tensor]) -> dict:
        on_step(done + index + 1, steps or pipe.num_timesteps, tensors["latents"])
        return {}

    return report


def fit(source: Image.Image, width: int, height: int) -> Image.Image:
    """Upright, on white where it is transparent, cropped to the middle at this size."""
    image = ImageOps.exif_transpose(source)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # PIL would cut these off at 255
        values = np.asarray(image, dtype=np.float32)
        values = (values - values.min()) * (255 / max(float(np.ptp(values)), 1e-9))
        image = Image.fromarray(values.round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.LANCZOS)


# ---- What may be asked


def largest(painter: Painter) -> int:
    return LARGEST_MINIATURE if painter.is_miniature else LARGEST


def defaults(painter: Painter, prompt: str) -> GenerationParams:
    """The size and the steps that suit the painter's model."""
    side = painter.pipe.vae.config.sample_size
    return GenerationParams(prompt=prompt, steps=20 if painter.is_miniature else 28, width=side, height=side)


def check(
    sampling: GenerationParams, strength: float = 1.0, change: float | None = None, *, largest: int = LARGEST
) -> None:
    """Raises one UserError with everything that is wrong."""
    s = sampling
    most = LIMITS["prompt"][1]
    problems = [
        *([] if isinstance(s.prompt, str) and s.prompt.strip() else ["say in the prompt what to paint"]),
        *([f"the prompt must not be longer than {most:,} characters"] if len(str(s.prompt)) > most else []),
        *([] if is_text(str(s.prompt)) else ["the prompt holds half a character; write it anew"]),
        *outside("seed", s.seed, int),
        *outside("steps", s.steps, int),
        *outside("guidance", s.guidance),
        *side("width", s.width, largest),
        *side("height", s.height, largest),
        *outside("strength", strength),
    ]
    if change is not None:
        wrong = outside("change", change)
        if not wrong and not change:
            wrong = ["change must be above 0, or nothing is painted"]
        if not (wrong or outside("steps", s.steps, int)) and int(s.steps * change) < 1:
            wrong = [f"change × steps must be at least 1: take {math.ceil(1 / change)} steps or more"]
        problems += wrong
    if problems:
        text = "; ".join(problems)
        raise UserError(f"{text[0].upper()}{text[1:]}.")


def is_text(text: str) -> bool:
    """JSON can carry half of an emoji, which no tokenizer reads and no file holds."""
    try:
        text.encode()
        return True
    except UnicodeEncodeError:
        return False


def within(value: Any, low: float, high: float, kind: type = float) -> bool:
    """A bool is an int in Python; NaN is within nothing."""
    kinds = (int,) if kind is int else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high


def outside(name: str, value: Any, kind: type = float) -> list[str]:
    low, high = LIMITS[name]
    if within(value, low, high, kind):
        return []
    whole = "a whole number" if kind is int else "a number"
    return [f"{name} must be {whole} from {low:,} to {high:,}, not {reprlib.repr(value)}"]


def side(name: str, value: Any, largest: int) -> list[str]:
    if within(value, SMALLEST, largest, int) and value % 16 == 0:
        return []
    return [f"{name} must be a multiple of 16 from {SMALLEST} to {largest:,} pixels, not {reprlib.repr(value)}"]


# ---- The recipe that a picture carries


def recipe_of(
    painter: Painter,
    sampling: GenerationParams,
    strength: float,
    source: Image.Image | None = None,
    change: float | None = None,
) -> ImageMetadata:
    """All that is needed to paint the picture again; of a repaint's source, only a fingerprint."""
    fingerprint = None
    if source is not None:
        fitted = fit(source, sampling.width, sampling.height)
        fingerprint = hashlib.sha256(fitted.tobytes()).hexdigest()
    return ImageMetadata(
        sampling=sampling, strength=strength, provenance=painter.provenance, source=fingerprint, change=change
    )


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, pnginfo=text, compress_level=COMPRESSION)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); name another file.") from error
    return path


def read_recipe(picture: Path | str | Image.Image) -> ImageMetadata:
    """The recipe in a PNG that `save` wrote."""
    image = picture if isinstance(picture, Image.Image) else open_image(picture)
    if KEY not in image.info:
        raise UserError("This picture carries no recipe; only an untouched PNG from this painter does.")
    try:
        return ImageMetadata.from_json(image.info[KEY])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"The recipe in this picture is damaged: {error}") from error


def open_image(path: Path | str) -> Image.Image:
    """The picture, read completely and upright, or a sentence."""
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as a picture: {error}") from error
