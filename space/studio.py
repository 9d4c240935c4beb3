"""What a visitor may ask of the painter. The page and the API both come here, and leave with PNG files.

Every picture is saved with its recipe as text in the PNG, and only the file's name travels on: Gradio would
encode a picture anew and lose the text.
"""

from space import zerogpu  # isort: skip  (before torch and gradio)

import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from gradio.utils import get_upload_folder
from PIL import Image

from impressionism import names, paint
from impressionism.errors import UserError
from impressionism.files import read_picture
from impressionism.names import BLOCK_GROUPS
from impressionism.paint import PaintRequest, key_of
from impressionism.pipeline import Painter
from impressionism.records import BlockStrengths, GenerationParams, ImageMetadata, outside
from space.errors import plain_words
from space.gate import FULL
from space.guard import Guard, guard_for
from space.jobs import Jobs
from space.preview import Previews
from space.stepwise import Report, stepwise

MOST_STRENGTHS = 7  # of one call
MOST_PICTURES = 28  # of one call
MOST_PIXELS = 40_000_000  # of an upload, looked at before it is decoded
MOST_REMEMBERED = 500  # pictures
PICTURES = "pictures"  # the folder in Gradio's where each has its own


class Picture(NamedTuple):
    """A finished picture: its file and how it was made."""

    path: str
    """A PNG in Gradio's folder; its text holds the recipe."""
    recipe: dict[str, Any]
    """impressionism.records.ImageMetadata as JSON."""


class Request(NamedTuple):
    """What one click or call asks for. It was checked once, when it was made, and travels as it is to the painter."""

    items: tuple[PaintRequest, ...]


class Studio:
    """The painter at work for visitors.

    Each request is checked before a GPU is asked for: what cannot be painted costs no quota. What was painted before
    is not painted again.
    """

    def __init__(self, painter: Painter, guard: Guard | None = None) -> None:
        self.painter = painter
        self.guard = guard or guard_for(painter.is_miniature)
        self.memory = Memory(MOST_REMEMBERED)
        self.pace = zerogpu.Pace()
        self.paint_on_gpu = zerogpu.on_gpu(self._paint, self._gpu_seconds)
        self.jobs = Jobs(self)

    # ---- What may be asked

    def request(
        self,
        params: GenerationParams | Sequence[GenerationParams],
        strengths: Any,
        *,
        photograph: str | Image.Image | None = None,
        **more: Any,
    ) -> Request:
        """Each of the params at each of the strengths, checked; a UserError says all that is wrong.

        photograph: an upload's path or a picture, to be painted over. more: the keywords of paint.request (blocks,
        fast, adapter, change, upscale)."""
        every = [params] if isinstance(params, GenerationParams) else list(params)
        if not isinstance(strengths, list | tuple) or not 1 <= len(strengths) <= MOST_STRENGTHS:
            raise UserError(f"Choose one to {MOST_STRENGTHS} strengths, such as 0, 0.5 and 1.")
        if None in strengths:  # an empty field; for paint.request it would mean the adapter's own strength
            paint.refuse(outside("strength", None))
        if len(every) * len(strengths) > MOST_PICTURES:
            raise UserError(f"This asks for {len(every) * len(strengths)} pictures; at most {MOST_PICTURES} at a time.")
        for prompt in {one.prompt for one in every if isinstance(one.prompt, str)}:
            self.guard.check_prompt(prompt)
        source = photograph if isinstance(photograph, Image.Image | None) else read_photograph(photograph)
        items: list[PaintRequest] = []
        for one, strength in product(every, strengths):
            items.append(paint.request(self.painter, one, strength, source=source, **more))
            source = items[0].source  # cropped once
        return Request(tuple(items))

    def unread(self, prompt: Any) -> str:
        """What of the prompt the model will not follow, as a sentence."""
        if not isinstance(prompt, str):
            return ""
        if unknown := paint.unknown_words(self.painter, prompt):
            return f"The miniature does not know: {', '.join(unknown)}."
        if cut := paint.cut_at(self.painter, prompt):
            return f"The prompt is too long: the model ignores everything from “{cut[:60]}” on."
        return ""

    def remembered(self, request: Request) -> list[Picture] | None:
        """The pictures of the request in its order, if all of them have been painted: no GPU, no waiting."""
        found = [self.memory.get(item.metadata) for item in request.items]
        pictures = [picture for picture in found if picture]
        return pictures if len(pictures) == len(found) else None

    def seconds(self, request: Request) -> int | None:
        """Seconds that ZeroGPU will reserve of the visitor's quota, 0 for what is remembered; none where nothing is
        reserved."""
        if not names.on_zero_gpu():
            return None
        missing = [item for item in request.items if not self.memory.get(item.metadata)]
        return zerogpu.reserved(self._gpu_seconds(missing)) if missing else 0

    def limits(self) -> dict[str, Any]:
        """The least and the most of everything, as paint.check has it."""
        side = [paint.SMALLEST, paint.max_side(self.painter)]
        own = {"strengths": [1, MOST_STRENGTHS], "width": side, "height": side}
        return {name: list(limits) for name, limits in paint.LIMITS.items()} | own

    def check_photographs(self, request: Request) -> None:
        """A UserError if the content filter refuses a photograph that would be painted over."""
        for source in {id(item.source): item.source for item in request.items if item.source}.values():
            self.guard.check_picture(source, "The photograph")

    # ---- The painting, in the painter's thread

    def work(self, items: Sequence[PaintRequest], report: Report) -> None:
        """Paints the items; reports each step as (done, steps of all, preview), and each picture when it is done."""
        if not names.on_zero_gpu():
            self._paint_all(items, report)
            return
        events = self.paint_on_gpu(items)
        try:
            for event in events:
                report(event)
        finally:
            events.close()  # waits until the worker has ended its step, as the next painting needs the same worker

    def _gpu_seconds(self, items: Sequence[PaintRequest]) -> int:
        """Seconds of GPU to ask for."""
        steps = sum(paint.steps_of(self.painter, item) for item in items)
        return self.pace.seconds(steps=steps, params=items[0].metadata.sampling)

    def _paint(self, items: Sequence[PaintRequest]) -> Generator[tuple[int, int, Any] | Image.Image, None, None]:
        """With ZeroGPU this runs in another process, from which only what is yielded comes back."""
        with plain_words():
            yield from stepwise(partial(self._paint_all, items))

    def _paint_all(self, items: Sequence[PaintRequest], report: Report) -> None:
        sizes = [(item.metadata.sampling.width, item.metadata.sampling.height) for item in items]
        previews = [Previews(self.painter.pipe, *size) for size in sizes]
        painted = 0

        def on_step(done: int, steps: int, latents: Any) -> None:
            tiled = items[painted].metadata.upscale  # its latents are a tile's
            report((done, steps, None if tiled else previews[painted].look(latents)))

        for image in paint.paint_all(self.painter, items, on_step=on_step):
            painted += 1
            report(image)

    # ---- After it

    def keep(self, image: Image.Image, recipe: ImageMetadata) -> Picture:
        """The picture as a PNG where Gradio serves it; deleted an hour after it was last shown."""
        self.guard.check_picture(image)
        who = "impressionist" if recipe.strength else "base"
        name = f"{who}-seed-{recipe.sampling.seed}-strength-{recipe.strength:g}.png"
        path = Path(get_upload_folder(), PICTURES, secrets.token_hex(16), name)
        try:
            paint.save(image, recipe, path)
        except (OSError, UserError) as error:  # its sentence names a path on the server
            raise UserError(FULL) from error
        picture = Picture(str(path), recipe.to_dict())
        self.memory.put(recipe, picture)
        return picture


class Memory:
    """Where pictures lie that were painted before, the last few hundred. Files are deleted an hour after they were
    last asked for (gate.py): a picture whose file is gone is forgotten."""

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
                os.utime(picture.path)  # files are deleted by age, and it is being looked at
            except FileNotFoundError:
                return self.pictures.pop(key) and None
            self.pictures.move_to_end(key)
            return picture

    def put(self, recipe: ImageMetadata, picture: Picture) -> None:
        with self.lock:
            self.pictures[key_of(recipe)] = picture
            while len(self.pictures) > self.most:
                self.pictures.popitem(last=False)


def weakest_first(strengths: Any) -> Any:
    """Each strength once. What is no list of strengths stays, for the check to refuse."""
    if not isinstance(strengths, list | tuple) or len(strengths) > MOST_STRENGTHS:
        return strengths
    good = all(paint.within(strength, *paint.LIMITS["strength"]) for strength in strengths)
    return sorted({float(strength) for strength in strengths}) if good else strengths


# ---- From a page or a program to records


def sampling_of(values: Mapping[str, Any]) -> GenerationParams:
    """As it came from the page or a program, among other values by name; paint.check refuses what cannot be painted."""
    numbers = {name: whole(values[name]) for name in ("seed", "steps", "width", "height")}
    return GenerationParams(prompt=values["prompt"], guidance=real(values["guidance"]), **numbers)


def blocks_of(values: Mapping[str, Any]) -> BlockStrengths:
    return BlockStrengths(**{name: real(values[name]) for name in BLOCK_GROUPS})


def whole(value: Any) -> Any:
    """JSON does not tell 20.0 from 20."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def real(value: Any) -> Any:
    """The other way round, so that a recipe reads the same whoever asked."""
    return float(value) if type(value) is int and abs(value) < 2**53 else value


def read_photograph(source: str | bytes) -> Image.Image:
    """An upload's pixels, upright; a UserError for what is no picture."""
    if not source:
        raise UserError("Choose a photograph to repaint.")
    if isinstance(source, str) and not Path(source).exists():
        raise UserError("The photograph was deleted after an hour; choose it again.")
    return read_picture(source, name="This file", max_pixels=MOST_PIXELS)
