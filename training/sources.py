"""Where pictures come from: a folder in one of the usual layouts, or a `datasets` dataset on this disk or on the Hub.

A folder may keep captions in `metadata.jsonl` or `metadata.csv` (also in folders below) or in a `.txt` or `.caption`
file beside each picture, and may have folders `train`, `validation` and `test`, as `datasets`' imagefolder has them.
"""

import csv
import functools
import io
import json
import os
import re
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from impressionism.errors import UserError, counted, explain
from impressionism.files import clean_text, left_out_line, pictures_in, read_text
from training.recipe import Curate, Data

if TYPE_CHECKING:
    import datasets

METADATA = ("metadata.jsonl", "metadata.csv")
SIDECARS = (".txt", ".caption")
SPLITS = {  # as `datasets` names them: a folder is one if its name is one of these words, between digits and signs
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
EDGE = r"[-._ 0-9]"
OURS = {"curate.json", "pictures.jsonl", "report.html", "readme.md", "license", "license.md"}  # not worth a line
WIKIART_GENRES = (  # sets made of WikiArt often keep its numbers and lose their names
    "abstract_painting", "cityscape", "genre_painting", "illustration", "landscape", "nude_painting", "portrait",
    "religious_painting", "sketch_and_study", "still_life", "Unknown Genre",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A picture as its source has it, not decoded yet."""

    name: str
    """What to call it in a message."""
    load: Callable[[], bytes]
    """The file's bytes; raises OSError or ValueError where there are none."""
    caption: str | None = None
    content: str | None = None
    """Its content without a word on style, from a column of that name."""
    genre: str | None = None
    held_out: bool | None = None
    """Whether it is in the split `validation`; none: the source has no such split."""
    metadata: dict = field(default_factory=dict, compare=False)
    """All that the folder's metadata file has about it."""


def say(sentence: str) -> None:
    """One line on stderr that leaves a progress bar whole."""
    tqdm.write(sentence, file=sys.stderr)


def skip(name: str, error: Exception) -> None:
    """Name a picture that is left out, and why."""
    say(f"Skipped {name}: {str(error).removeprefix(name).lstrip(' :').rstrip('.')}.")


def splits(data: Data) -> list[Iterator[Row]]:
    """The pictures of data.split and, if there is one, those of the split `validation`. Raises UserError."""
    name, window = split_of(data.split)
    there = _folder_splits(Path(data.source), data) if is_picture_folder(data.source) else _dataset_splits(data)
    if name not in there:
        raise UserError(f"No split {name!r} in {data.source}; it has {', '.join(sorted(there))}: set data.split.")
    if name == "validation" or "validation" not in there:
        return [there[name](None, window)]
    return [there[name](False, window), there["validation"](True, slice(None))]


def split_of(split: str) -> tuple[str, slice]:
    """`train[10:20]` → ("train", slice(10, 20))."""
    match = re.fullmatch(r"([^\[\]]+)(?:\[(\d*):(\d*)\])?", split)
    if match is None:
        raise UserError(f"data.split is {split!r}; it should read as train, or train[:100] for its first 100 rows.")
    start, stop = (int(number) if number else None for number in match.groups()[1:])
    return match[1], slice(start, stop)


def is_picture_folder(source: str) -> bool:
    """Whether this is a folder of picture files, not one that `datasets` wrote or parquet files lie in."""
    folder = Path(source)
    if not folder.is_dir() or any((folder / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
        return False
    return bool(pictures_in(folder)[0]) or not any(folder.rglob("*.parquet"))


def word_of(value: Any, names: list[str] | tuple[str, ...] | None = None) -> str | None:
    """A value as text: a class label is a number with a name, -1 is none, and of a list the first counts."""
    if isinstance(value, list):
        value = value[0] if value else None
    if names and isinstance(value, int):
        value = names[value] if 0 <= value < len(names) else None
    return (clean_text(str(value)) or None) if value is not None else None


def bytes_of(picture: dict | None) -> bytes:
    """The file's bytes of an undecoded `datasets` picture."""
    if picture is None:
        raise ValueError("the row has no picture")
    return picture["bytes"] if picture["bytes"] is not None else Path(picture["path"]).read_bytes()


# ---- Folders


def _folder_splits(folder: Path, data: Data) -> dict[str, Callable[[bool | None, slice], Iterator[Row]]]:
    paths, left_out = pictures_in(folder)
    metadata = {}
    for path in sorted((path for path in left_out if path.name.lower() in METADATA), key=lambda path: len(path.parts)):
        metadata |= _metadata(path, folder, data)
    beside = {_key(folder, path): path for path in left_out if path.suffix.lower() in SIDECARS}
    pictures = [_picture(path, folder, metadata, beside, data) for path in paths]

    if missing := sorted(metadata.keys() - {_key(folder, path) for path in paths}):
        others = f" and {len(missing) - 1} others" if missing[1:] else ""
        say(f"Skipped {missing[0]}{others}: a metadata file names it, but there is no such picture.")
    used = {sidecar for _, sidecar in pictures}
    unused = {path: why for path, why in left_out.items()
              if path not in used and path.name.lower() not in {*METADATA, *OURS}}  # fmt: skip
    if line := left_out_line(unused):
        say(f"{folder}: {line}")

    splits: dict[str, list[Row]] = {}
    for row, _ in pictures:
        splits.setdefault(_split_folder(row.name) or "", []).append(row)
    if set(splits) - {""}:
        if outside := splits.pop("", None):
            named = ", ".join(sorted(splits))
            say(f"{folder}: left out {counted(len(outside), 'picture')} outside its folders {named}.")
    else:
        splits = {split_of(data.split)[0]: splits.pop("", [])}  # one folder is whatever split is asked for
    return {name: functools.partial(_in_split, rows) for name, rows in splits.items()}


def _in_split(rows: list[Row], held_out: bool | None, window: slice) -> Iterator[Row]:
    return (Row(**{**row.__dict__, "held_out": held_out}) for row in rows[window])


def _split_folder(name: str) -> str | None:
    """The split that a folder on the picture's path is named after."""
    for split, words in SPLITS.items():
        pattern = rf"(?:.*{EDGE})?(?:{'|'.join(words)})(?:{EDGE}.*)?"
        if any(re.fullmatch(pattern, folder) for folder in name.split("/")[:-1]):
            return split
    return None


def _picture(
    path: Path, folder: Path, metadata: dict[str, dict], beside: dict[str, Path], data: Data
) -> tuple[Row, Path | None]:
    """The picture with its caption, and the file beside it that may hold that."""
    key = _key(folder, path)
    about = metadata.get(key, {})
    caption = word_of(about.get(data.caption_column))
    names = [f"{stem}{suffix}" for suffix in SIDECARS for stem in (key.removesuffix(path.suffix), key)]
    sidecar = next((beside[name] for name in map(str.lower, names) if name in beside), None)
    if sidecar and caption is None:
        caption = clean_text(read_text(sidecar)) or None
    content, genre = (word_of(about.get(column)) for column in ("content", data.genre_column))
    name = path.relative_to(folder).as_posix()
    return Row(name, path.read_bytes, caption, content, genre, metadata=about), sidecar


def _key(folder: Path, path: Path) -> str:
    """A path below the folder, spelt as a metadata file and a file system may both spell it."""
    name = unicodedata.normalize("NFC", path.relative_to(folder).as_posix())
    return name if path.suffix.lower() not in SIDECARS else name.lower()


def _metadata(path: Path, folder: Path, data: Data) -> dict[str, dict]:
    """{a picture's path below the folder: what the file has about it}."""
    lines = json_lines(path, ("file_name",)) if path.suffix.lower() == ".jsonl" else _csv_lines(path)
    columns = {column: None for line in lines for column in line if column != "file_name"}
    if lines and data.caption_column not in columns and set(columns) - {data.genre_column}:
        say(f"{path}: no column {data.caption_column!r}; it has {', '.join(columns)}: set data.caption_column if one "
            "holds the captions.")  # fmt: skip
    place = path.parent.relative_to(folder).as_posix()
    names = (os.path.normpath(f"{place}/{line['file_name']}".replace("\\", "/")) for line in lines)
    return {unicodedata.normalize("NFC", name): line for name, line in zip(names, lines, strict=True)}


def _csv_lines(path: Path) -> list[dict]:
    text = read_text(path)
    head = text.partition("\n")[0]
    try:
        table = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=head.count), strict=True)
        lines = [{column: value for column, value in line.items() if column} for line in table]
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as CSV ({error}); write it again, in quotes where needed.") from error
    if any(not line.get("file_name") for line in lines):
        raise UserError(f"{path}: its first line should name the columns, file_name among them; it reads {head!r}.")
    return lines


def json_lines(path: Path, keys: tuple[str, ...]) -> list[dict]:
    """The objects of a JSON-lines file, each with these keys. Raises UserError with the file's name and the line."""
    result = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # splitlines would also part at U+2028
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or any(key not in row for key in keys):
            should = ", ".join(f'"{key}": …' for key in keys)
            raise UserError(f"{path}, line {number}: should read {{{should}}}.")
        result.append(row)
    return result


# ---- Datasets


def _dataset_splits(data: Data) -> dict[str, Callable[[bool | None, slice], Iterator[Row]]]:
    """Each split's rows; of the Hub a split is streamed where only its first rows are wanted."""
    name, window = split_of(data.split)
    streaming = data.limit is not None or window.stop is not None
    result = _open_dataset("data.source", data.source, data.revision, name, streaming=streaming)
    return {name: functools.partial(_dataset_rows, split, data, name) for name, split in result.items()}


def _open_dataset(key: str, source: str, revision: str | None, split: str, *, streaming: bool) -> dict[str, Any]:
    """The splits of a dataset on the Hub or in a folder that `datasets` wrote; one dataset is whatever is asked for."""
    import datasets

    folder = Path(source)
    if not folder.exists() and folder.parent != Path() and folder.parent.is_dir():
        raise UserError(f"{key}: there is no {folder} here; make it, or set another folder or a dataset's id.")
    with dataset_errors(key, source):
        if (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
            result: Any = datasets.load_from_disk(source)
        else:
            result = datasets.load_dataset(source, revision=revision, streaming=streaming)
    return {str(name): one for name, one in result.items()} if isinstance(result, dict) else {split: result}


@contextmanager
def dataset_errors(key: str, source: str, problem: str = "is no folder of pictures here and no dataset that loads"):
    """Failures to open or read a dataset become UserError; connections and damaged files raise anything."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = explain(error, source) or " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{key} {source!r} {problem}: {reason}") from error


def _dataset_rows(split: Any, data: Data, name: str, held_out: bool | None, window: slice) -> Iterator[Row]:
    import datasets

    features = split.features or {}
    if data.image_column not in features:
        raise UserError(
            f"No picture column {data.image_column!r} in {data.source}; it has {', '.join(features)}: "
            "set data.image_column."
        )
    captioned = data.caption_column in features
    if not captioned and data.instance_prompt is None and data.captions is None:
        raise UserError(
            f"No caption column {data.caption_column!r} in {data.source}; it has {', '.join(features)}: "
            "set data.caption_column, or data.instance_prompt."
        )
    start, count = window.start or 0, None if window.stop is None else window.stop - (window.start or 0)
    wanted = (data.caption_column, "content", data.genre_column)
    texts = [column for column in wanted if column in features]
    split = split.select_columns([data.image_column, *texts])
    split = split.cast_column(data.image_column, datasets.Image(decode=False)).skip(start)
    split = split.take(count) if count is not None and isinstance(split, datasets.IterableDataset) else split
    for index, (about, load) in enumerate(_undecoded(split, data, texts, count), start=start):
        label = f"row {index}" if held_out is None else f"{name} row {index}"
        words = [word_of(about.get(column), getattr(features.get(column), "names", None)) for column in wanted]
        yield Row(label, load, *words, held_out=held_out)


def _undecoded(
    split: Any, data: Data, texts: list[str], count: int | None
) -> Iterator[tuple[dict, Callable[[], bytes]]]:
    """(the columns of text, what loads the picture) of each row; a stream's pictures wait in a file meanwhile."""
    import datasets

    if isinstance(split, datasets.Dataset):
        size = len(split) if count is None else min(count, len(split))
        values = [split[column] for column in texts]
        for index in range(size):
            about = {column: value[index] for column, value in zip(texts, values, strict=True)}
            yield about, lambda index=index: bytes_of(split[index][data.image_column])
        return
    spool = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the rows do
    stream = iter(split)
    while True:
        with dataset_errors("data.source", data.source, "cannot be read on; run the same command again"):
            row = next(stream, None)
        if row is None:
            return
        content = bytes_of(row[data.image_column]) if row[data.image_column] else b""
        place = spool.seek(0, os.SEEK_END)
        spool.write(content)
        yield row, functools.partial(_spooled, spool, place, len(content))


def _spooled(spool: Any, place: int, size: int) -> bytes:
    if not size:
        raise ValueError("the row has no picture")
    spool.flush()
    return os.pread(spool.fileno(), size, place)


# ---- What `curate` reads: rows that say where they stand, so that a stopped run continues there

COLUMNS = {  # what is kept, from the first of these columns that there is
    "text": ("text", "caption", "prompt"),
    "artist": ("artist",),
    "genre": ("genre",),
    "title": ("title",),
    "style": ("style",),
}


@dataclass(frozen=True)
class CurateSource:
    rows: "datasets.IterableDataset"
    """Pictures as {bytes, path}, with the columns of `columns`; has state_dict and load_state_dict."""
    name: str
    """What to call it in the dataset and the report."""
    image: str
    """The column with the pictures."""
    columns: dict[str, str]
    """text, artist, genre, title or style → the column that has it."""
    labels: dict[str, tuple[str, ...]]
    """artist, genre or style → what its numbers mean."""
    total: int | None
    """How many rows there are, where that is known."""

    def about(self, row: dict) -> dict[str, str | None]:
        """What the source has about a picture, as text."""
        return {what: word_of(row.get(column), self.labels.get(what)) for what, column in self.columns.items()}


def open_source(settings: Curate) -> CurateSource:
    """The source, no picture of it read yet; a style or genre that it cannot have is refused."""
    import datasets

    folder, name = Path(str(settings.source)), str(settings.source)
    if is_picture_folder(name) and pictures_in(folder)[0]:
        pictures = tuple(splits(Data(source=name, split=settings.split))[0])
        # A tuple: of a list `datasets` would make shards.
        stream = datasets.IterableDataset.from_generator(_plain_rows, gen_kwargs={"folder": name, "pictures": pictures})
        columns = {what: what for what in COLUMNS}
        return CurateSource(stream, folder.resolve().name, "image", columns, {}, len(pictures))
    split, window = split_of(settings.split)
    there = _open_dataset("curate.source", name, settings.revision, split, streaming=True)
    if split not in there:
        raise UserError(f"{name} has no split {split!r}; it has {', '.join(there)}.")
    stream = there[split]
    if isinstance(stream, datasets.Dataset):
        stream, total = stream.to_iterable_dataset(), len(stream)
    else:
        info = (stream.info.splits or {}).get(split)
        total = info.num_examples if info else None
    if window.start:
        stream, total = stream.skip(window.start), total and max(0, total - window.start)
    if window.stop is not None:
        count = max(0, window.stop - (window.start or 0))
        stream, total = stream.take(count), count if total is None else min(count, total)
    return _with_columns(stream, folder.resolve().name if folder.is_dir() else name, total, settings)


def _plain_rows(folder: str, pictures: tuple[Row, ...]) -> Iterator[dict]:
    for row in pictures:
        text = row.caption or next(filter(None, map(row.metadata.get, COLUMNS["text"])), None)
        picture = {"bytes": None, "path": str(Path(folder, row.name))}
        yield {**row.metadata, "text": text, "image": picture, "file_name": row.name}


def _with_columns(stream: Any, name: str, total: int | None, settings: Curate) -> CurateSource:
    import datasets

    features = stream.features or {}
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    if not images:
        raise UserError(f"No column of {name} holds pictures; it has {', '.join(features) or 'none'}.")
    image = "image" if "image" in images else images[0]
    columns = {what: column for what, names in COLUMNS.items() for column in reversed(names) if column in features}
    labels = {what: _label_names(features[column], what) for what, column in columns.items()}
    for what, wanted in (("style", (settings.style,) if settings.style else ()), ("genre", settings.genres)):
        option = {"style": "curate.style", "genre": "curate.genres"}[what]
        if wanted and what not in columns:
            raise UserError(f"{name} has no column {what!r}: leave {option} out.")
        unknown = [
            word for word in wanted if labels.get(what) and not any(same_word(word, label) for label in labels[what])
        ]
        if unknown:
            raise UserError(f"{name} has no {what} {', '.join(unknown)}: {option} can be {', '.join(labels[what])}.")
    stream = stream.select_columns([image, *columns.values()]).cast_column(image, datasets.Image(decode=False))
    return CurateSource(stream, name, image, columns, labels, total)


def _label_names(feature: Any, what: str) -> tuple[str, ...]:
    numbers = str(getattr(feature, "dtype", "")).startswith("int")
    return tuple(getattr(feature, "names", WIKIART_GENRES if what == "genre" and numbers else ()))


def same_word(one: str | None, other: str | None) -> bool:
    """Whether two names are one: `still_life` and `Still Life` are."""
    plain = [re.sub(r"[\s_-]+", " ", word or "").strip().casefold() for word in (one, other)]
    return plain[0] == plain[1]
