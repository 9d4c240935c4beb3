"""What a visitor may ask of the painter. The page and the API both come here, and leave with PNG files.

Every picture is saved with its recipe as text in the PNG, and only the file's name travels on: Gradio would
encode a picture anew and lose the text.
"""

from space import zerogpu  # isort: skip  (before torch and gradio)

import dataclasses
import html
import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from impressionism import paint
from impressionism.pipeline import Painter, PainterError
from impressionism.records import Sampling

logger = logging.getLogger(__name__)

MOST_STRENGTHS = 7  # pictures of one sweep
MOST_PIXELS = 40_000_000  # of an upload, looked at before it is decoded
PHOTOGRAPHS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")


class Picture(NamedTuple):
    """A finished picture: its file and how it was made."""

    path: str
    """A PNG in Gradio's cache; its text holds the recipe."""
    recipe: dict[str, Any]
    """impressionism.records.Recipe as JSON."""


class Studio:
    """The painter at work for visitors.

    Each request is checked before a GPU is asked for: what cannot be painted costs no quota.
    """

    def __init__(self, painter: Painter) -> None:
        self.painter = painter
        self.sweep_on_gpu = zerogpu.on_gpu(self._sweep, seconds_for)
        self.repaint_on_gpu = zerogpu.on_gpu(self._repaint, seconds_for)

    def generate(self, sampling: Sampling, strength: float) -> Picture:
        [picture] = self.sweep(sampling, [strength])
        return picture

    def compare(self, sampling: Sampling, strength: float) -> tuple[Picture, Picture]:
        """By the base model, and with the adapter, from the same noise; the prompt is encoded once."""
        with plain_words():
            self.check(sampling, strength)
            (_, base), (_, adapted) = self.sweep_on_gpu(sampling, [0.0, strength])
            return self.keep(base, sampling, 0.0), self.keep(adapted, sampling, strength)

    def sweep(self, sampling: Sampling, strengths: Sequence[float]) -> Iterator[Picture]:
        """One picture a strength, weakest first, each as soon as it is done."""
        with plain_words():
            if not isinstance(strengths, list | tuple) or not 1 <= len(strengths) <= MOST_STRENGTHS:
                raise PainterError(f"Choose one to {MOST_STRENGTHS} strengths, for example [0, 0.5, 1].")
            for strength in strengths:
                self.check(sampling, strength)
            for strength, image in self.sweep_on_gpu(sampling, sorted(set(map(float, strengths)))):
                yield self.keep(image, sampling, strength)

    def repaint(
        self, sampling: Sampling, strengths: Sequence[float], source: Image.Image, change: float
    ) -> Iterator[Picture]:
        """The photograph painted over, once a strength."""
        with plain_words():
            for strength in strengths:
                self.check(sampling, strength, change)
            for strength, image in self.repaint_on_gpu(sampling, strengths, source, change):
                yield self.keep(image, sampling, strength, source=source, change=change)

    def check(self, sampling: Sampling, strength: float, change: float | None = None) -> None:
        paint.check(sampling, strength, change, largest=paint.largest(self.painter))

    # These two run where the GPU is; from ZeroGPU's processes only a gr.Error arrives with its message.

    def _sweep(self, sampling: Sampling, strengths: Sequence[float]) -> Iterator[tuple[float, Image.Image]]:
        with plain_words():
            progress = gr.Progress()

            def on_step(step: int, steps: int, _: object) -> None:
                progress((step, steps), "Painting")

            yield from paint.sweep(self.painter, sampling, strengths, on_step=on_step)

    def _repaint(
        self, sampling: Sampling, strengths: Sequence[float], source: Image.Image, change: float
    ) -> Iterator[tuple[float, Image.Image]]:
        with plain_words():
            progress, pictures = gr.Progress(), len(strengths)
            for done, strength in enumerate(strengths):

                def on_step(step: int, steps: int, _: object, done: int = done) -> None:
                    progress((done * steps + step, pictures * steps), "Repainting")

                image = paint.repaint(self.painter, sampling, strength, source, change, on_step=on_step)
                yield strength, image

    def keep(self, image: Image.Image, sampling: Sampling, strength: float, **repainted: Any) -> Picture:
        """The picture as a PNG where Gradio serves it, and deletes it after an hour."""
        recipe = paint.recipe_of(self.painter, sampling, strength, **repainted)
        name = f"{'impressionist' if strength else 'base'}-seed-{sampling.seed}-strength-{strength:g}.png"
        path = paint.save(image, recipe, Path(get_upload_folder(), secrets.token_hex(16), name))
        return Picture(str(path), dataclasses.asdict(recipe))

    def limits(self) -> dict[str, Any]:
        """The least and the most of everything, as paint.check has it."""
        side = [paint.SMALLEST, paint.largest(self.painter)]
        own = {"strengths": [1, MOST_STRENGTHS], "width": side, "height": side}
        return {name: list(limits) for name, limits in paint.LIMITS.items()} | own


def seconds_for(sampling: Sampling, strengths: Sequence[float], *_: Any) -> int:
    """Seconds of GPU to ask for."""
    return zerogpu.seconds(steps=sampling.steps, width=sampling.width, height=sampling.height, pictures=len(strengths))


@contextmanager
def plain_words() -> Iterator[None]:
    """Whatever goes wrong inside reaches the visitor as a sentence."""
    try:
        yield
    except gr.Error:
        raise
    except PainterError as problem:
        raise sorry(str(problem)) from None
    except Exception as problem:
        logger.exception("A picture could not be painted")
        raise sorry(
            f"Painting stopped unexpectedly ({type(problem).__name__}). Your settings are kept: try again, "
            "and if it happens twice, with a smaller picture or fewer steps."
        ) from None


def sorry(message: str) -> gr.Error:
    """The page shows an error's message as HTML, and it may quote what a visitor wrote."""
    return gr.Error(html.escape(message, quote=False), title="Not painted", print_exception=False)


def sampling_of(prompt: Any, seed: Any, steps: Any, guidance: Any, width: Any, height: Any) -> Sampling:
    """As it came from the page or a program; paint.check refuses what cannot be painted."""
    return Sampling(
        prompt=prompt,
        seed=whole(seed),
        steps=whole(steps),
        guidance=real(guidance),
        width=whole(width),
        height=whole(height),
    )


def whole(value: Any) -> Any:
    """JSON does not tell 20.0 from 20."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def real(value: Any) -> Any:
    """The other way round, so that a recipe reads the same whoever asked."""
    return float(value) if type(value) is int and abs(value) < 2**53 else value


def open_photograph(path: str | None) -> Image.Image:
    """An upload, decoded; its size is looked at first."""
    if not path:
        raise PainterError("Choose a photograph to repaint.")
    try:
        photograph = Image.open(path, formats=PHOTOGRAPHS)
        fits = photograph.width * photograph.height <= MOST_PIXELS
        if fits:
            photograph.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise PainterError("This file cannot be read as a picture; send a JPEG, PNG or WebP.") from None
    if not fits:
        raise PainterError(f"The picture is too large: at most {MOST_PIXELS // 10**6} megapixels.")
    return photograph
