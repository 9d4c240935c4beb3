"""What a visitor may ask of the painter. The page and the API both come here, and leave with PNG files.

Every picture is saved with its recipe as text in the PNG, and only the file's name travels on: Gradio would
encode a picture anew and lose the text.
"""

from space import zerogpu  # isort: skip  (before torch and gradio)

import dataclasses
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gradio.utils import get_upload_folder
from PIL import Image, ImageOps

from impressionism import names, paint
from impressionism.errors import UserError
from impressionism.pipeline import Painter
from impressionism.records import GenerationParams, ImageMetadata
from space.errors import plain_words
from space.guard import Guard, guard_for
from space.preview import PAUSE, Previews
from space.stepwise import Report, stepwise

MOST_STRENGTHS = 7  # pictures of one sweep
MOST_MEGABYTES = 10  # of an upload
MOST_PIXELS = 40_000_000  # of an upload, looked at before it is decoded
MOST_REMEMBERED = 500  # pictures
DELETE_EVERY_AND_AFTER = (600, 3000)  # seconds; Gradio looks so often for files so old, so they are gone in an hour
PICTURES = "pictures"  # the folder in Gradio's where each has its own
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


Progress = Generator[Step | Picture, None, None]
"""What happens, in order. Closing it ends the painting within a step; a failure comes as gr.Error, after the pictures
that were finished before it."""


class Studio:
    """The painter at work for visitors.

    Each request is checked before a GPU is asked for: what cannot be painted costs no quota. What was painted before
    is not painted again.
    """

    def __init__(self, painter: Painter, guard: Guard | None = None) -> None:
        self.painter = painter
        self.guard = guard or guard_for(painter.is_miniature)
        self.files: set[str] = set()  # that Gradio deletes with its own
        self.memory = Memory(MOST_REMEMBERED)
        self.pace = zerogpu.Pace()
        self.paint_on_gpu = zerogpu.on_gpu(self._paint, self._seconds)
        self.door = zerogpu.CancelGuard()

    # ---- What may be asked

    def paint(
        self,
        sampling: GenerationParams,
        strengths: Sequence[float],
        source: Image.Image | None = None,
        change: float | None = None,
    ) -> Progress:
        """One picture a strength, in the order given; those that are remembered come without a step."""
        with plain_words():
            recipes = self.recipes(sampling, strengths, source, change)
            if source is not None:
                self.guard.check_picture(source, "The photograph")
            found = {recipe.strength: self.memory.get(recipe) for recipe in recipes}
            missing = [strength for strength, picture in found.items() if picture is None]
            since, first, done = 0.0, 0, 0
            with self.door.closing(self.paint_on_gpu(sampling, missing, source, change)) as news:  # nothing runs yet
                for number, recipe in enumerate(recipes, 1):
                    while (picture := found[recipe.strength]) is None:
                        event = next(news, None)
                        if event is None:
                            raise UserError("The painting ended before the picture was done. Try again.")
                        if isinstance(event, Image.Image):
                            found[recipe.strength] = self.keep(event, recipe)
                            continue
                        done, steps, preview = event
                        since, first = (since, first) if since else (time.monotonic(), done)
                        yield Step(done, steps, number, len(recipes), preview)
                    yield picture
            if since:
                size = {"width": sampling.width, "height": sampling.height}
                self.pace.learn(time.monotonic() - since, steps=done - first, **size)

    def remembered(
        self,
        sampling: GenerationParams,
        strengths: Sequence[float],
        source: Image.Image | None = None,
        change: float | None = None,
    ) -> list[Picture] | None:
        """The pictures in the order of the strengths, if all of them have been painted: no GPU, no queue."""
        with plain_words():
            found = [self.memory.get(recipe) for recipe in self.recipes(sampling, strengths, source, change)]
        pictures = [picture for picture in found if picture]
        return pictures if len(pictures) == len(found) else None

    def seconds(
        self,
        sampling: GenerationParams,
        strengths: Sequence[float],
        source: Image.Image | None = None,
        change: float | None = None,
    ) -> int | None:
        """Seconds that ZeroGPU will reserve of the visitor's quota, 0 for what is remembered; none where nothing is
        reserved, and for what cannot be painted."""
        if not names.on_zero_gpu():
            return None
        try:
            recipes = self.recipes(sampling, strengths, source, change)
        except UserError:
            return None
        missing = [recipe.strength for recipe in recipes if not self.memory.get(recipe)]
        return zerogpu.reserved(self._seconds(sampling, missing, source, change)) if missing else 0

    def limits(self) -> dict[str, Any]:
        """The least and the most of everything, as paint.check has it."""
        side = [paint.SMALLEST, paint.largest(self.painter)]
        own = {"strengths": [1, MOST_STRENGTHS], "width": side, "height": side}
        return {name: list(limits) for name, limits in paint.LIMITS.items()} | own

    # ---- Before the GPU

    def check(self, sampling: GenerationParams, strengths: Any, change: float | None = None) -> list[float]:
        """The strengths, if all of this may be painted; else a UserError."""
        if not isinstance(strengths, list | tuple) or not 1 <= len(strengths) <= MOST_STRENGTHS:
            raise UserError(f"Choose one to {MOST_STRENGTHS} strengths, such as 0, 0.5 and 1.")
        for strength in strengths:
            paint.check(sampling, strength, change, largest=paint.largest(self.painter))
        self.guard.check_prompt(sampling.prompt)
        return [float(strength) for strength in strengths]

    def recipes(
        self, sampling: GenerationParams, strengths: Any, source: Image.Image | None, change: float | None
    ) -> list[ImageMetadata]:
        """What is asked for, checked; whoever asks for the same gets the same picture."""
        strengths = self.check(sampling, strengths, change)
        one = paint.recipe_of(self.painter, sampling, strengths[0], source, change)
        return [dataclasses.replace(one, strength=strength) for strength in strengths]

    def _seconds(
        self, sampling: GenerationParams, strengths: Sequence[float], source: Image.Image | None, change: float | None
    ) -> int:
        """Seconds of GPU to ask for."""
        steps = sampling.steps if change is None else max(1, int(sampling.steps * change))
        return self.pace.seconds(steps=steps, width=sampling.width, height=sampling.height, pictures=len(strengths))

    # ---- On the GPU: with ZeroGPU another process, from which only what is yielded comes back

    def _paint(
        self, sampling: GenerationParams, strengths: Sequence[float], source: Image.Image | None, change: float | None
    ) -> Generator[tuple[int, int, Image.Image | None] | Image.Image, None, None]:
        """Steps, as (done, all, preview), and pictures."""
        with plain_words():
            call = partial(self._paint_all, sampling, strengths, source, change)
            yield from stepwise(call, forked=names.on_zero_gpu())

    def _paint_all(
        self,
        sampling: GenerationParams,
        strengths: Sequence[float],
        source: Image.Image | None,
        change: float | None,
        report: Report,
    ) -> None:
        previews = Previews(self.painter.pipe, sampling.width, sampling.height)

        def on_step(step: int, steps: int, latents: Any, before: int = 0, pictures: int = 1) -> None:
            report((before * steps + step, pictures * steps, previews.look(latents)))

        if source is None:
            for _, image in paint.sweep(self.painter, sampling, strengths, on_step=on_step):
                report(image)
            return
        for before, strength in enumerate(strengths):
            one = partial(on_step, before=before, pictures=len(strengths))
            report(paint.repaint(self.painter, sampling, strength, source, change or 0, on_step=one))

    # ---- After it

    def keep(self, image: Image.Image, recipe: ImageMetadata) -> Picture:
        """The picture as a PNG where Gradio serves it, and deletes it after an hour."""
        self.guard.check_picture(image)
        who = "impressionist" if recipe.strength else "base"
        name = f"{who}-seed-{recipe.sampling.seed}-strength-{recipe.strength:g}.png"
        path = str(paint.save(image, recipe, Path(get_upload_folder(), PICTURES, secrets.token_hex(16), name)))
        self.files.add(path)
        picture = Picture(path, dataclasses.asdict(recipe))
        self.memory.put(recipe, picture)
        return picture


class Memory:
    """Where pictures lie that were painted before, the last few hundred. Gradio deletes files an hour after they were
    last asked for: a picture whose file is gone is forgotten."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.pictures: OrderedDict[str, Picture] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, recipe: ImageMetadata) -> Picture | None:
        key = key_of(recipe)
        with self.lock:
            picture = self.pictures.get(key)
            if picture is None:
                return None
            try:
                os.utime(picture.path)  # Gradio deletes by age, and it is being looked at
            except FileNotFoundError:
                return self.pictures.pop(key) and None
            self.pictures.move_to_end(key)
            return picture

    def put(self, recipe: ImageMetadata, picture: Picture) -> None:
        with self.lock:
            self.pictures[key_of(recipe)] = picture
            while len(self.pictures) > self.most:
                self.pictures.popitem(last=False)


def delete_old(page: Any, age: float | None) -> None:
    """The page's files that are older, in seconds, or all of them. In place of Gradio's own, which ends for good when a
    file is added while it looks, and forgets no file that somebody else deleted."""
    keep = {file for part in page.blocks.values() for file in getattr(part, "keep_in_cache", ())}
    for files in page.temp_file_sets:
        for file in set(files) - keep:
            path = Path(file)
            with suppress(OSError):  # as where it is gone already
                if age is not None and time.time() - path.lstat().st_ctime <= age:
                    continue
                path.unlink()
            files.discard(file)
            if path.parent.parent.name == PICTURES:
                with suppress(OSError):
                    path.parent.rmdir()


def key_of(recipe: ImageMetadata) -> str:
    """All that decides the pixels; of the base model's picture, the adapter does not."""
    if recipe.strength == 0:
        base = dataclasses.replace(recipe.provenance, adapter=None, adapter_revision=None)
        recipe = dataclasses.replace(recipe, provenance=base)
    return recipe.to_json()


def paced(progress: Progress) -> Iterator[Step | Picture]:
    """Every picture, and no more steps than are worth their way to a browser; a slower step than that goes at once."""
    told = 0.0
    for event in progress:
        if isinstance(event, Picture) or time.monotonic() - told >= PAUSE:
            told = time.monotonic()
            yield event


def weakest_first(strengths: Any) -> Any:
    """Each strength once. What is no list of strengths stays, for the check to refuse."""
    if not isinstance(strengths, list | tuple) or len(strengths) > MOST_STRENGTHS:
        return strengths
    good = all(paint.within(strength, *paint.LIMITS["strength"]) for strength in strengths)
    return sorted({float(strength) for strength in strengths}) if good else strengths


# ---- From a page or a program to records


def sampling_of(prompt: Any, seed: Any, steps: Any, guidance: Any, width: Any, height: Any) -> GenerationParams:
    """As it came from the page or a program; paint.check refuses what cannot be painted."""
    return GenerationParams(
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


def open_photograph(path: str | None, sampling: GenerationParams) -> Image.Image:
    """An upload, decoded and cropped to the sampling's size, once for all that follows."""
    paint.check(sampling)
    if not path:
        raise UserError("Choose a photograph to repaint.")
    try:
        photograph = Image.open(path, formats=PHOTOGRAPHS)
        fits = photograph.width * photograph.height <= MOST_PIXELS
        if fits:
            photograph = ImageOps.exif_transpose(photograph)  # which loads it
    except FileNotFoundError:
        raise UserError("The photograph was deleted after an hour; choose it again.") from None
    except Exception:  # on broken files, Pillow's decoders raise almost anything
        raise UserError("This file cannot be read as a picture; send a JPEG, PNG or WebP.") from None
    if not fits:
        raise UserError(f"The picture is too large: at most {MOST_PIXELS // 10**6} megapixels.")
    return paint.fit(photograph, sampling.width, sampling.height)
