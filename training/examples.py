"""Pictures with captions, from a folder or a `datasets` dataset, brought to a size the model trains at.

A folder's captions are the lines of `metadata.jsonl` (file_name, text), `.txt` files beside the pictures, or
`data.instance_prompt`. A picture that cannot be used is skipped with a line and never ends a run.
"""

import collections
import functools
import hashlib
import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps
from tqdm import tqdm

from training.recipe import MULTIPLE, Data, TrainingError

SUFFIXES = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
SHAPES = ((1, 1), (5, 4), (4, 5), (4, 3), (3, 4), (3, 2), (2, 3), (16, 9), (9, 16))  # width : height
TRANSFORM = "1"  # in the cache's key: count it up when `fit_to` or `to_rgb` change a pixel

Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Example:
    id: str
    """SHA-256 of the file's bytes, 32 digits of it: the same picture is the same sample wherever it lies."""
    name: str
    """What to call it in a message."""
    caption: str
    size: Size
    """The bucket it is brought to."""
    load: Callable[[], bytes]
    """The file's bytes."""


def say(sentence: str) -> None:
    """One line on stderr that leaves a progress bar whole."""
    tqdm.write(sentence, file=sys.stderr)


def read(data: Data) -> list[Example]:
    """Every usable picture of the source, in a fixed order; only headers are decoded."""
    examples: dict[str, Example] = {}
    sizes = buckets(data.resolution)
    uncaptioned: list[str] = []
    for name, caption, load in _source(data):
        if caption is None:
            uncaptioned.append(name)
            continue
        if (example := _example(name, caption, load, sizes)) is None:
            continue
        if example.id in examples:
            say(f"Skipped {name}: the same picture as {examples[example.id].name}.")
        examples.setdefault(example.id, example)
    if uncaptioned:
        raise TrainingError(
            f"{len(uncaptioned)} pictures of {data.source} have no caption, the first is {uncaptioned[0]}: "
            "write .txt files or metadata.jsonl, or set data.instance_prompt."
        )
    if not examples:
        raise TrainingError(f"No picture of {data.source} can be used; see the lines above.")
    return sorted(examples.values(), key=lambda example: example.id)


def split(examples: list[Example], held_out: float) -> tuple[list[Example], list[Example]]:
    """(trained on, held out), by content: a picture stays on its side when others come or go."""
    if not held_out:
        return examples, []
    place = {example.id: int(hashlib.sha256(f"held out {example.id}".encode()).hexdigest()[:8], 16) / 2**32
             for example in examples}  # fmt: skip
    held = [example for example in examples if place[example.id] < held_out]
    held = held or [min(examples, key=lambda example: place[example.id])]  # a small set is judged by something too
    held_ids = {example.id for example in held}
    trained = [example for example in examples if example.id not in held_ids]
    if not trained:
        raise TrainingError("No picture is left to train on: add pictures, or set data.held_out=0.")
    return trained, held


class Order:
    """Which pictures make up batch 0, 1, 2 …: shuffled each epoch, one size to a batch, no state to resume.

    A size's last batch of an epoch is filled up from the front of its shuffled pictures.
    """

    def __init__(self, examples: list[Example], *, batch: int, seed: int):
        self.examples, self.batch, self.seed = examples, batch, seed
        counts = collections.Counter(example.size for example in examples)
        self.per_epoch = sum(-(-count // batch) for count in counts.values())
        self._epoch = functools.lru_cache(maxsize=2)(self._shuffle)

    def __getitem__(self, index: int) -> list[Example]:
        epoch, place = divmod(index, self.per_epoch)
        return self._epoch(epoch)[place]

    def _shuffle(self, epoch: int) -> list[list[Example]]:
        rng = np.random.default_rng([self.seed, epoch])
        groups: dict[Size, list[Example]] = {}
        for index in rng.permutation(len(self.examples)):
            groups.setdefault(self.examples[index].size, []).append(self.examples[index])
        batches = [
            [group[(start + slot) % len(group)] for slot in range(self.batch)]
            for group in groups.values()
            for start in range(0, len(group), self.batch)
        ]
        return [batches[index] for index in rng.permutation(len(batches))]


@functools.cache
def buckets(resolution: int | tuple[str, ...]) -> tuple[Size, ...]:
    """The sizes pictures are brought to: those given, or FLUX's shapes with about resolution² pixels."""
    if not isinstance(resolution, int):
        return tuple((int(width), int(height)) for width, height in (size.split("x") for size in resolution))
    sides = [(resolution * math.sqrt(w / h), resolution * math.sqrt(h / w)) for w, h in SHAPES]
    return tuple(dict.fromkeys((_multiple(width), _multiple(height)) for width, height in sides))


def bucket_for(size: Size, sizes: tuple[Size, ...]) -> Size:
    """The bucket whose shape is nearest to the picture's."""
    return min(sizes, key=lambda bucket: abs(math.log(bucket[0] / bucket[1] * size[1] / size[0])))


def fit_to(image: Image.Image, size: Size) -> Image.Image:
    """Scale until `size` is just covered, and crop the middle."""
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as upright RGB: 16 bits become 8, transparency white, an animation its first frame."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        levels = np.asarray(image, dtype=np.float32)
        top = 65535 if levels.max() > 255 else 255
        image = Image.fromarray((levels / top * 255).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def decode(example: Example) -> Image.Image | None:
    """The example's picture in its bucket; none, and a line, where it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(example.load())) as image:
            return fit_to(to_rgb(image), example.size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        say(f"Skipped {example.name}: it cannot be decoded ({error}).")
        return None


def _example(name: str, caption: str, load: Callable[[], bytes], sizes: tuple[Size, ...]) -> Example | None:
    try:
        content = load()
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8):  # lies on its side
                width, height = height, width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        say(f"Skipped {name}: it cannot be decoded ({error}).")
        return None
    size = bucket_for((width, height), sizes)
    if width < size[0] or height < size[1]:
        say(f"Skipped {name}: {width}x{height} is smaller than {size[0]}x{size[1]}, and nothing is enlarged; "
            "lower data.resolution to use it.")  # fmt: skip
        return None
    return Example(hashlib.sha256(content).hexdigest()[:32], name, caption, size, load)


def _multiple(side: float) -> int:
    return max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)


Row = tuple[str, str | None, Callable[[], bytes]]  # name, caption, bytes


def _source(data: Data) -> Iterator[Row]:
    folder = Path(data.source)
    if folder.is_dir() and not (folder / "dataset_info.json").exists() and not (folder / "dataset_dict.json").exists():
        return _from_folder(folder, data)
    return _from_dataset(data)


def _from_folder(folder: Path, data: Data) -> Iterator[Row]:
    captions = _metadata(folder / "metadata.jsonl")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    for name in sorted(set(captions) - set(names)):
        say(f"Skipped {name}: metadata.jsonl names it, but there is no such picture.")
    for name, path in zip(names, paths, strict=True):
        sidecar = path.with_suffix(".txt")
        text = captions.get(name)
        if text is None and sidecar.exists():
            text = sidecar.read_text(encoding="utf-8-sig", errors="replace")
        yield name, _caption(text, data), path.read_bytes


def _metadata(path: Path) -> dict[str, str | None]:
    if not path.exists():
        return {}
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would also part at U+2028
    except UnicodeDecodeError:
        raise TrainingError(f"{path}: is not UTF-8; save it again as UTF-8.") from None
    captions = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else None
            if row is not None:
                captions[str(row["file_name"])] = None if row["text"] is None else str(row["text"])
        except (json.JSONDecodeError, KeyError, TypeError):
            raise TrainingError(f'{path}, line {number}: should read {{"file_name": …, "text": …}}.') from None
    return captions


def _from_dataset(data: Data) -> Iterator[Row]:
    import datasets

    dataset = _load_dataset(data)
    columns = dataset.column_names
    if data.image_column not in columns:
        raise TrainingError(
            f"No picture column {data.image_column!r} in {data.source}; it has {', '.join(columns)}: "
            "set data.image_column."
        )
    captioned = data.caption_column in columns
    if not captioned and data.instance_prompt is None:
        raise TrainingError(
            f"No caption column {data.caption_column!r} in {data.source}; it has {', '.join(columns)}: "
            "set data.caption_column, or data.instance_prompt."
        )
    dataset = dataset.cast_column(data.image_column, datasets.Image(decode=False))
    pictures = dataset.select_columns([data.image_column])
    captions = dataset[data.caption_column] if captioned else [None] * len(dataset)
    for index, text in enumerate(captions):
        yield (
            f"row {index}",
            _caption(text, data),
            functools.partial(_bytes, pictures, index, data.image_column),
        )


def _load_dataset(data: Data):
    import datasets

    try:
        if not Path(data.source).is_dir():
            return datasets.load_dataset(data.source, split=data.split, revision=data.revision)
        dataset = datasets.load_from_disk(data.source)
    except (OSError, ValueError, ConnectionError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(
            f"data.source {data.source!r} is no folder here and no dataset that loads: {reason}"
        ) from None
    if not isinstance(dataset, datasets.DatasetDict):
        return dataset
    if data.split not in dataset:
        raise TrainingError(
            f"No split {data.split!r} in {data.source}; it has {', '.join(map(str, dataset))}: set data.split."
        )
    return dataset[data.split]


def _bytes(pictures, index: int, column: str) -> bytes:
    picture = pictures[index][column]
    if picture is None:
        raise ValueError("the row has no picture")
    return picture["bytes"] if picture["bytes"] is not None else Path(picture["path"]).read_bytes()


def _caption(text: object, data: Data) -> str | None:
    """The picture's own caption, or the instance prompt."""
    return str(text).strip() if text is not None and str(text).strip() else data.instance_prompt
