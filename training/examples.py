"""Captioned pictures that can be trained on, each brought to a size the model trains at.

sources.py has where they come from. A picture that cannot be used is skipped with a line and never ends a run;
captions are asked only of those that can.
"""

import functools
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from impressionism.errors import UserError
from impressionism.files import clean_text, cover, picture_size, read_picture
from training.recipe import MULTIPLE, Data, TrainingConfig
from training.sources import Row, json_lines, say, skip, splits

SHAPES = ((1, 1), (5, 4), (4, 5), (4, 3), (3, 4), (3, 2), (2, 3), (16, 9), (9, 16))  # width : height
TRANSFORM = "2"  # in the cache's key: count it up when `decode` changes a pixel

Size = tuple[int, int]  # width, height


@dataclass(frozen=True, kw_only=True)
class UsableRow(Row):
    id: str
    """SHA-256 of the file's bytes, 32 digits of it: the same picture is the same sample wherever it lies."""
    sizes: list[Size]
    """The bucket of each resolution that it fills."""


@dataclass(frozen=True, kw_only=True)
class Example(Row):
    """A row with the captions that it is trained on, at one size: a picture large enough for several is several."""

    id: str
    caption: str = ""
    """All that it shows, style included; `content` has the trigger in front."""
    size: Size
    """The bucket it is brought to."""


def read(data: Data) -> list[Example]:
    """Every usable picture of the source at each of its sizes, in a fixed order. Only headers are decoded, unless
    data.limit asks for the first usable ones. Raises UserError where there is none, or one has no caption."""
    examples: dict[tuple[str, Size], Example] = {}
    captions = written_captions(data)
    uncaptioned: list[str] = []
    for row in usable(data):
        content = f"{data.trigger} {row.content}" if row.content else None
        caption, content = captions.get(row.id, (row.caption or data.instance_prompt, content))
        if caption is None:
            uncaptioned.append(row.name)
            continue
        for size in row.sizes:
            examples[row.id, size] = Example(
                name=row.name, load=row.load, genre=row.genre, held_out=row.held_out,
                id=row.id, caption=caption, content=content, size=size,
            )  # fmt: skip
    if uncaptioned:
        more = f" and {len(uncaptioned) - 1} more" if uncaptioned[1:] else ""
        raise UserError(
            f"{data.source}: no caption for {uncaptioned[0]}{more}: "
            "write .txt files or metadata.jsonl, set data.instance_prompt, or let `caption` write data.captions."
        )
    if not examples:
        raise UserError(f"No picture of {data.source} can be used: give it others, or see the lines above.")
    return sorted(examples.values(), key=lambda example: (example.id, example.size))


def usable(data: Data) -> Iterator[UsableRow]:
    """Each picture once, in the source's order, the others left out with a line; of each split the first data.limit."""
    sizes = [buckets(resolution) for resolution in resolutions(data.resolution)]
    names: dict[str, str] = {}
    for split in splits(data):
        yield from itertools.islice(_usable(split, data, sizes, names), data.limit)


def _usable(
    split: Iterable[Row], data: Data, sizes: list[tuple[Size, ...]], names: dict[str, str]
) -> Iterator[UsableRow]:
    for row in split:
        try:
            content = row.load()
            fitting = _fitting(row, content, sizes)
            if data.limit:
                read_picture(content, name=row.name)
        except (OSError, ValueError) as error:
            skip(row.name, error)
            continue
        sample = sample_id(content)
        if sample in names:
            say(f"Skipped {row.name}: the same picture as {names[sample]}.")
            continue
        names[sample] = row.name
        yield UsableRow(**row.__dict__, id=sample, sizes=fitting)


def check_folders(recipe: TrainingConfig) -> None:
    """Refuses a run whose previews or latents would be among the pictures that it is trained on."""
    source = Path(recipe.data.source).resolve()
    for key, folder in (("run.folder", recipe.run.folder), ("run.cache", recipe.run.cache)):
        if source.is_dir() and folder.resolve().is_relative_to(source):
            raise UserError(
                f"{key} {folder} lies inside data.source {recipe.data.source}, so that what the run writes would be "
                f"trained on: set {key} to a folder outside of it."
            )


def sample_id(content: bytes) -> str:
    """SHA-256 of the file's bytes, 32 digits of it."""
    return hashlib.sha256(content).hexdigest()[:32]


def split(examples: list[Example], share: float) -> tuple[list[Example], list[Example]]:
    """(trained on, held out): what the source sets apart, else `share` of the pictures, chosen by content, so that
    a picture stays on its side when others come or go."""
    place = {example.id: int(hashlib.sha256(f"held out {example.id}".encode()).hexdigest()[:8], 16) / 2**32
             for example in examples}  # fmt: skip
    by_source = any(example.held_out is not None for example in examples)
    held = {example.id for example in examples if (example.held_out if by_source else place[example.id] < share)}
    if share and not held:  # a small set has a held-out loss too
        held = {min(place, key=place.__getitem__)}
    trained = [example for example in examples if example.id not in held]
    if not trained:
        raise UserError("No picture is left to train on: add pictures, or set data.held_out=0.")
    return trained, [example for example in examples if example.id in held]


class Order:
    """Which pictures make up batch 0, 1, 2 …: shuffled, one size to a batch, no state to resume.

    A batch can hold only one size, so a round of batches goes over all pictures as often as it takes to fill every
    batch of every size. In a round each picture is seen equally often, also the one landscape among portraits.
    """

    def __init__(self, examples: list[Example], *, batch: int, seed: int):
        self.examples, self.batch, self.seed = examples, batch, seed
        self.groups: dict[Size, list[int]] = {}
        for index, example in enumerate(examples):
            self.groups.setdefault(example.size, []).append(index)
        self.epochs = math.lcm(*(batch // math.gcd(batch, len(group)) for group in self.groups.values()))
        self.per_round = len(examples) * self.epochs // batch
        self._round = functools.lru_cache(maxsize=2)(self._shuffle)

    def __getitem__(self, index: int) -> list[Example]:
        number, place = divmod(index, self.per_round)
        return [self.examples[index] for index in self._round(number)[place]]

    def _shuffle(self, number: int) -> list[np.ndarray]:
        """Each size's pictures, shuffled for each epoch and cut into batches, which are spread over the round."""
        rng = np.random.default_rng([self.seed, number])
        placed: list[tuple[float, np.ndarray]] = []
        for group in self.groups.values():
            order = np.concatenate([rng.permutation(group) for _ in range(self.epochs)])
            batches = order.reshape(-1, self.batch)
            places = (np.arange(len(batches)) + rng.random(len(batches))) / len(batches)
            placed += zip(places.tolist(), batches, strict=True)
        return [batch for _, batch in sorted(placed, key=lambda pair: pair[0])]


def resolutions(resolution: int | tuple[int | str, ...]) -> list[int | tuple[str, ...]]:
    """Each side by itself; exact sizes stay together, as the shapes of one resolution."""
    if isinstance(resolution, int):
        return [resolution]
    if all(isinstance(size, str) for size in resolution):
        return [tuple(str(size) for size in resolution)]
    return [int(size) for size in sorted(resolution)]  # type: ignore[type-var]


@functools.cache
def buckets(resolution: int | tuple[str, ...]) -> tuple[Size, ...]:
    """The sizes pictures are brought to: those given, or FLUX's shapes with about resolution² pixels."""
    if not isinstance(resolution, int):
        return tuple((int(width), int(height)) for width, height in (size.split("x") for size in resolution))
    sides = [(resolution * math.sqrt(w / h), resolution * math.sqrt(h / w)) for w, h in SHAPES]
    return tuple(dict.fromkeys((_multiple(width), _multiple(height)) for width, height in sides))


def _multiple(side: float) -> int:
    return max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)


def bucket_for(size: Size, sizes: tuple[Size, ...]) -> Size:
    """The bucket whose shape is nearest to the picture's."""
    return min(sizes, key=lambda bucket: abs(math.log(bucket[0] / bucket[1] * size[1] / size[0])))


def decode(example: Example) -> Image.Image | None:
    """The example's picture in its bucket, RGB; none, and a line, where it cannot be decoded."""
    try:
        return cover(read_picture(example.load(), name=example.name), *example.size)
    except (OSError, ValueError) as error:
        skip(example.name, error)
        return None


def written_captions(data: Data) -> dict[str, tuple[str, str | None]]:
    """(full, trigger and content) of each sample that `caption` wrote something for."""
    if data.captions is None:
        return {}
    if not data.captions.exists():
        raise UserError(f"data.captions is {data.captions}, and there is no such file: run `caption` first.")
    lines = json_lines(data.captions, ("id", "full"))
    contents = [clean_text(str(line.get("content") or "")) for line in lines]
    return {
        str(line["id"]): (clean_text(str(line["full"])), f"{data.trigger} {content}".strip() if content else None)
        for line, content in zip(lines, contents, strict=True)
    }


def _fitting(row: Row, content: bytes, wanted: list[tuple[Size, ...]]) -> list[Size]:
    """The bucket of each resolution that the picture fills. Raises UserError where it fills none."""
    width, height = picture_size(content, name=row.name)
    sizes = [bucket_for((width, height), resolution) for resolution in wanted]
    filled = [size for size in sizes if width >= size[0] and height >= size[1]]
    if not filled:
        raise UserError(
            f"{row.name}: {width}x{height} is smaller than {sizes[0][0]}x{sizes[0][1]}, and nothing is enlarged; "
            "lower data.resolution to use it."
        )
    return list(dict.fromkeys(filled))
