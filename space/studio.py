"""What a visitor may ask of the painter. The page and the API both come here, and leave with PNG files.

Every picture is saved with its recipe as text in the PNG, and only the file's name travels on: Gradio would
encode a picture anew and lose the text.
"""

from space import zerogpu  # isort: skip  (before torch and gradio)

import dataclasses
import html
import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from impressionism import paint
from impressionism.pipeline import Painter, PainterError
from impressionism.records import Recipe, Sampling
from space.stepwise import stepwise

logger = logging.getLogger(__name__)

MOST_STRENGTHS = 7  # pictures of one sweep
MOST_PIXELS = 40_000_000  # of an upload, looked at before it is decoded
PHOTOGRAPHS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")


class Step(NamedTuple):
    """A step is done; sent while pictures are painted."""

    done: int
    """Steps done, of all pictures that this call has to paint."""
    steps: int
    """Steps of them all."""
    picture: int
    """Which picture is being painted, from 1, counting those that were there already."""
    pictures: int
    """Pictures of the call."""
    preview: Image.Image | None
    """What the picture is becoming, small and rough; none at a picture's first step."""


class Picture(NamedTuple):
    """A finished picture: its file and how it was made."""

    path: str
    """A PNG in Gradio's cache; its text holds the recipe."""
    recipe: dict[str, Any]
    """impressionism.records.Recipe as JSON."""


Progress = Iterator[Step | Picture]
"""What happens, in order. Closing it ends the painting within a step; a failure comes as gr.Error, after the pictures
that were finished before it."""


class Studio:
    """The painter at work for visitors.

    Each request is checked before a GPU is asked for: what cannot be painted costs no quota. What was painted before
    is not painted again.
    """

    def __init__(self, painter: Painter) -> None:
        self.painter = painter
        self.memory = Memory()
        self.paint_on_gpu = zerogpu.on_gpu(self._paint, seconds_for)

    # ---- What may be asked

    def compare(self, sampling: Sampling, strength: float) -> Progress:
        """By the base model, then with the adapter, from the same noise."""
        return self._progress(sampling, [0.0, real(strength)])

    def sweep(self, sampling: Sampling, strengths: Sequence[float]) -> Progress:
        """The same noise, one picture a strength, weakest first."""
        with plain_words():
            strengths = sorted(set(self.check(sampling, strengths)))
        yield from self._progress(sampling, strengths)

    def repaint(self, sampling: Sampling, strengths: Sequence[float], source: Image.Image, change: float) -> Progress:
        """The photograph painted over, once a strength, in the order given."""
        return self._progress(sampling, strengths, source, change)

    def remembered(
        self,
        sampling: Sampling,
        strengths: Sequence[float],
        source: Image.Image | None = None,
        change: float | None = None,
    ) -> list[Picture] | None:
        """The pictures in the order of the strengths, if all of them have been painted: no GPU, no queue."""
        with plain_words():
            strengths = self.check(sampling, strengths, change)
            found = [self.memory.get(self.recipe(sampling, strength, source, change)) for strength in strengths]
            return found if all(found) else None  # type: ignore[return-value]

    def seconds(self, sampling: Sampling, strengths: Sequence[float]) -> int | None:
        """Seconds that ZeroGPU will reserve of the visitor's quota; none where nothing is reserved."""
        return None

    def limits(self) -> dict[str, Any]:
        """The least and the most of everything, as paint.check has it."""
        side = [paint.SMALLEST, paint.largest(self.painter)]
        own = {"strengths": [1, MOST_STRENGTHS], "width": side, "height": side}
        return {name: list(limits) for name, limits in paint.LIMITS.items()} | own

    # ---- How it is done

    def check(self, sampling: Sampling, strengths: Any, change: float | None = None) -> list[float]:
        """The strengths, if all of this can be painted; else a PainterError."""
        if not isinstance(strengths, list | tuple) or not 1 <= len(strengths) <= MOST_STRENGTHS:
            raise PainterError(f"Choose one to {MOST_STRENGTHS} strengths, for example [0, 0.5, 1].")
        for strength in strengths:
            paint.check(sampling, strength, change, largest=paint.largest(self.painter))
        return [float(strength) for strength in strengths]

    def recipe(self, sampling: Sampling, strength: float, source: Image.Image | None, change: float | None) -> Recipe:
        return paint.recipe_of(self.painter, sampling, strength, source, change)

    def _progress(
        self,
        sampling: Sampling,
        strengths: Sequence[float],
        source: Image.Image | None = None,
        change: float | None = None,
    ) -> Progress:
        with plain_words():
            strengths = self.check(sampling, strengths, change)
            recipes = [self.recipe(sampling, strength, source, change) for strength in strengths]
            found = {recipe.strength: self.memory.get(recipe) for recipe in recipes}
            missing = [strength for strength, picture in found.items() if picture is None]
            news = self.paint_on_gpu(sampling, missing, source, change) if missing else iter(())
            with closing(news):
                for number, recipe in enumerate(recipes, 1):
                    while (picture := found[recipe.strength]) is None:
                        event = next(news)
                        if isinstance(event, Image.Image):
                            found[recipe.strength] = self.keep(event, recipe)
                        else:
                            done, steps, preview = event
                            yield Step(done, steps, number, len(recipes), preview)
                    yield picture

    def _paint(
        self, sampling: Sampling, strengths: Sequence[float], source: Image.Image | None, change: float | None
    ) -> Iterator[tuple[int, int, Image.Image | None] | Image.Image]:
        """Steps and pictures, where the GPU is: on ZeroGPU in another process, from which only what is yielded
        comes back, and of exceptions only a gr.Error with its message."""

        def call(report: Callable[[Any], None]) -> None:
            def on_step(step: int, steps: int, _: Any) -> None:
                report((step, steps, None))

            if source is None:
                for _, image in paint.sweep(self.painter, sampling, strengths, on_step=on_step):
                    report(image)
                return
            for before, strength in enumerate(strengths):

                def on_later_step(step: int, steps: int, _: Any, before: int = before) -> None:
                    report((before * steps + step, len(strengths) * steps, None))

                report(paint.repaint(self.painter, sampling, strength, source, change or 0, on_step=on_later_step))

        with plain_words():
            yield from stepwise(call)

    def keep(self, image: Image.Image, recipe: Recipe) -> Picture:
        """The picture as a PNG where Gradio serves it, and deletes it after an hour."""
        who = "impressionist" if recipe.strength else "base"
        name = f"{who}-seed-{recipe.sampling.seed}-strength-{recipe.strength:g}.png"
        path = paint.save(image, recipe, Path(get_upload_folder(), secrets.token_hex(16), name))
        picture = Picture(str(path), dataclasses.asdict(recipe))
        self.memory.put(recipe, picture)
        return picture


def pictures_of(progress: Progress) -> list[Picture]:
    """The pictures alone, when all are done."""
    return [event for event in progress if isinstance(event, Picture)]


class Memory:
    """Where pictures lie that were painted before, the last few hundred. Gradio deletes files after an hour: a picture
    whose file is gone is forgotten."""

    def __init__(self, most: int = 500) -> None:
        self.most = most
        self.pictures: OrderedDict[str, Picture] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, recipe: Recipe) -> Picture | None:
        with self.lock:
            picture = self.pictures.get(key := recipe.to_json())
            if picture and not Path(picture.path).exists():
                del self.pictures[key]
                return None
            if picture:
                self.pictures.move_to_end(key)
            return picture

    def put(self, recipe: Recipe, picture: Picture) -> None:
        with self.lock:
            self.pictures[recipe.to_json()] = picture
            while len(self.pictures) > self.most:
                self.pictures.popitem(last=False)


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
