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
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps
from tqdm import tqdm

from impressionism.errors import UserError
from training.recipe import MULTIPLE, Data

SUFFIXES = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
SHAPES = ((1, 1), (5, 4), (4, 5), (4, 3), (3, 4), (3, 2), (2, 3), (16, 9), (9, 16))  # width : height
TRANSFORM = "1"  # in the cache's key: count it up when `fit_to` or `to_rgb` change a pixel

Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Row:
    """A picture as its source has it, not looked at yet."""

    name: str
    """What to call it in a message."""
    load: Callable[[], bytes]
    """The file's bytes."""
    caption: str | None = None
    genre: str | None = None
    held_out: bool | None = None
    """As in Example."""
    about: dict = field(default_factory=dict)
    """All that metadata.jsonl says of it."""


@dataclass(frozen=True)
class Example:
    id: str
    """SHA-256 of the file's bytes, 32 digits of it: the same picture is the same sample wherever it lies."""
    name: str
    """What to call it in a message."""
    caption: str
    """All of it in words."""
    size: Size
    """The bucket it is brought to; a picture large enough for several resolutions is several examples."""
    load: Callable[[], bytes]
    """The file's bytes."""
    content: str | None = None
    """The trigger, and its content without a word on style."""
    genre: str | None = None
    held_out: bool | None = None
    """Whether the source sets it apart, by a split `validation`; none: it does not say."""


def say(sentence: str) -> None:
    """One line on stderr that leaves a progress bar whole."""
    tqdm.write(sentence, file=sys.stderr)


def read(data: Data) -> list[Example]:
    """Every usable picture of the source at each of its sizes, in a fixed order; only headers are decoded."""
    examples: dict[tuple[str, Size], Example] = {}
    names: dict[str, str] = {}
    sizes = [buckets(resolution) for resolution in resolutions(data.resolution)]
    captions = written_captions(data)
    uncaptioned: list[str] = []
    for row in rows(data):
        if (content := _read(row)) is None:
            continue
        sample = sample_id(content)
        full, content_only = captions.get(sample, (row.caption, None))
        if full is None:
            uncaptioned.append(row.name)
            continue
        if sample in names:
            say(f"Skipped {row.name}: the same picture as {names[sample]}.")
            continue
        names[sample] = row.name
        for size in _sizes(row, content, sizes):
            examples[sample, size] = Example(
                id=sample, name=row.name, caption=full, content=content_only, size=size, load=row.load,
                genre=row.genre, held_out=row.held_out,
            )  # fmt: skip
    if uncaptioned:
        raise UserError(
            f"{len(uncaptioned)} pictures of {data.source} have no caption, the first is {uncaptioned[0]}: "
            "write .txt files or metadata.jsonl, set data.instance_prompt, or let `caption` write data.captions."
        )
    if not examples:
        raise UserError(f"No picture of {data.source} can be used; see the lines above.")
    return sorted(examples.values(), key=lambda example: (example.id, example.size))


def sample_id(content: bytes) -> str:
    """SHA-256 of the file's bytes, 32 digits of it."""
    return hashlib.sha256(content).hexdigest()[:32]


def split(examples: list[Example], wanted: float) -> tuple[list[Example], list[Example]]:
    """(trained on, held out): what the source sets apart, else `wanted` of the pictures, chosen by content, so that
    a picture stays on its side when others come or go."""
    place = {example.id: int(hashlib.sha256(f"held out {example.id}".encode()).hexdigest()[:8], 16) / 2**32
             for example in examples}  # fmt: skip
    said = any(example.held_out is not None for example in examples)
    held = {example.id for example in examples if (example.held_out if said else place[example.id] < wanted)}
    if wanted and not held:  # a small set is judged by something too
        held = {min(place, key=place.__getitem__)}
    trained = [example for example in examples if example.id not in held]
    if not trained:
        raise UserError("No picture is left to train on: add pictures, or set data.held_out=0.")
    return trained, [example for example in examples if example.id in held]


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
        return _undecodable(example, error)


def _read(row: Row) -> bytes | None:
    try:
        return row.load()
    except (OSError, ValueError) as error:
        return _undecodable(row, error)


def _undecodable(row: Row | Example, error: Exception) -> None:
    say(f"Skipped {row.name}: it cannot be decoded ({error}).")


def _sizes(row: Row, content: bytes, wanted: list[tuple[Size, ...]]) -> list[Size]:
    """The bucket of each resolution that the picture fills; none, and a line, where it fills none."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8):  # lies on its side
                width, height = height, width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        _undecodable(row, error)
        return []
    sizes = [bucket_for((width, height), resolution) for resolution in wanted]
    filled = [size for size in sizes if width >= size[0] and height >= size[1]]
    if not filled:
        size = sizes[0]
        say(f"Skipped {row.name}: {width}x{height} is smaller than {size[0]}x{size[1]}, and nothing is enlarged; "
            "lower data.resolution to use it.")  # fmt: skip
    return list(dict.fromkeys(filled))


def _multiple(side: float) -> int:
    return max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)


def rows(data: Data) -> Iterator[Row]:
    """Every picture of the source with what the source says of it."""
    folder = Path(data.source)
    if folder.is_dir() and not (folder / "dataset_info.json").exists() and not (folder / "dataset_dict.json").exists():
        return _from_folder(folder, data)
    return _from_dataset(data)


def written_captions(data: Data) -> dict[str, tuple[str, str | None]]:
    """(full, trigger and content) of each sample that `caption` wrote something for."""
    if data.captions is None:
        return {}
    if not data.captions.exists():
        raise UserError(f"data.captions is {data.captions}, and there is no such file: run `caption` first.")
    lines = _json_lines(data.captions, ("id", "full"))
    return {
        line["id"]: (line["full"], f"{data.trigger} {line['content']}".strip() if line.get("content") else None)
        for line in lines
    }


def _from_folder(folder: Path, data: Data) -> Iterator[Row]:
    metadata = folder / "metadata.jsonl"
    lines = _json_lines(metadata, ("file_name",)) if metadata.exists() else []
    said = {str(line["file_name"]): line for line in lines}
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    for name in sorted(set(said) - set(names)):
        say(f"Skipped {name}: metadata.jsonl names it, but there is no such picture.")
    for name, path in zip(names, paths, strict=True):
        line, sidecar = said.get(name, {}), path.with_suffix(".txt")
        text = line.get("text")
        if text is None and sidecar.exists():
            text = sidecar.read_text(encoding="utf-8-sig", errors="replace")
        genre = line.get(data.genre_column)
        genre = str(genre) if genre is not None else None
        yield Row(name, path.read_bytes, _caption(text, data), genre, about=line)


def _json_lines(path: Path, keys: tuple[str, ...]) -> list[dict]:
    """The objects of a JSON-lines file, each with these keys."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would also part at U+2028
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8; save it again as UTF-8.") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict) or any(key not in row for key in keys):
            should = ", ".join(f'"{key}": …' for key in keys)
            raise UserError(f"{path}, line {number}: should read {{{should}}}.")
        found.append(row)
    return found


def _from_dataset(data: Data) -> Iterator[Row]:
    for dataset, held_out in _splits(data):
        yield from _from_split(dataset, data, held_out)


def _from_split(dataset, data: Data, held_out: bool | None) -> Iterator[Row]:
    import datasets

    columns = dataset.column_names
    if data.image_column not in columns:
        raise UserError(
            f"No picture column {data.image_column!r} in {data.source}; it has {', '.join(columns)}: "
            "set data.image_column."
        )
    captioned = data.caption_column in columns
    if not captioned and data.instance_prompt is None and data.captions is None:
        raise UserError(
            f"No caption column {data.caption_column!r} in {data.source}; it has {', '.join(columns)}: "
            "set data.caption_column, or data.instance_prompt."
        )
    genres = _labels(dataset, data.genre_column) if data.genre_column in columns else None
    pictures = dataset.cast_column(data.image_column, datasets.Image(decode=False)).select_columns(data.image_column)
    captions = dataset[data.caption_column] if captioned else [None] * len(dataset)
    for index, text in enumerate(captions):
        load = functools.partial(_bytes, pictures, index, data.image_column)
        name = f"row {index}" if held_out is None else f"{'validation' if held_out else data.split} row {index}"
        yield Row(name, load, _caption(text, data), genres[index] if genres else None, held_out)


def _labels(dataset, column: str) -> list[str | None]:
    """A column's values as words: a ClassLabel has numbers, and their names in its features; -1 is none."""
    names = getattr(dataset.features[column], "names", None)

    def word(value: object) -> str | None:
        if value is None or (names and value == -1):
            return None
        return names[value] if names and isinstance(value, int) else str(value)

    return [word(value) for value in dataset[column]]


def _splits(data: Data) -> list[tuple]:
    """(dataset, whether it is held out): the split that is trained on, and `validation` where there is one."""
    import datasets

    if not (folder := Path(data.source)).exists() and folder.parent != Path() and folder.parent.is_dir():
        raise UserError(f"data.source: there is no {folder} here; make it, or set another folder or a dataset's id.")
    try:
        if folder.is_dir():
            found = datasets.load_from_disk(data.source)
        else:
            found = datasets.load_dataset(data.source, revision=data.revision)
    except (OSError, ValueError, ConnectionError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"data.source {data.source!r} is no folder here and no dataset that loads: {reason}") from None
    if isinstance(found, datasets.Dataset):
        return [(found, None)]
    if data.split not in found:
        raise UserError(
            f"No split {data.split!r} in {data.source}; it has {', '.join(map(str, found))}: set data.split."
        )
    if "validation" not in found or data.split == "validation":
        return [(found[data.split], None)]
    return [(found[data.split], False), (found["validation"], True)]


def _bytes(pictures, index: int, column: str) -> bytes:
    picture = pictures[index][column]
    if picture is None:
        raise ValueError("the row has no picture")
    return picture["bytes"] if picture["bytes"] is not None else Path(picture["path"]).read_bytes()


def _caption(text: object, data: Data) -> str | None:
    """The picture's own caption, or the instance prompt."""
    return str(text).strip() if text is not None and str(text).strip() else data.instance_prompt
