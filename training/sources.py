"""Where `curate` finds pictures: a dataset that is streamed or lies on the disk, or a folder.

Each becomes a `datasets.IterableDataset` of undecoded pictures, which can say where it stands and go on from there.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from impressionism.errors import UserError
from training import examples
from training.recipe import Curate, Data

COLUMNS = {  # what is taken over, from the first of these columns that there is
    "text": ("text", "caption", "prompt"),
    "artist": ("artist",),
    "genre": ("genre",),
    "title": ("title",),
    "style": ("style",),
}
WIKIART_GENRES = (  # sets made of WikiArt often keep its numbers and lose their names
    "abstract_painting", "cityscape", "genre_painting", "illustration", "landscape", "nude_painting", "portrait",
    "religious_painting", "sketch_and_study", "still_life", "Unknown Genre",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    rows: datasets.IterableDataset
    """Pictures as {bytes, path}, with the columns of `columns`."""
    name: str
    """What to call it in the dataset and the report."""
    image: str = "image"
    """The column with the pictures."""
    columns: dict[str, str] | None = None
    """text, artist, genre, title or style → the column that has it; none: by its own name."""
    labels: dict[str, tuple[str, ...]] | None = None
    """artist, genre or style → what its numbers mean."""
    total: int | None = None
    """How many rows there are, where that is known."""

    def about(self, row: dict) -> dict[str, str | None]:
        """What the source says of a picture, in words."""
        columns = self.columns if self.columns is not None else {what: what for what in COLUMNS}
        labels = self.labels or {}
        return {what: _word(row.get(column), labels.get(what, ())) for what, column in columns.items()}


def open_source(settings: Curate) -> Source:
    """The source, nothing of it read yet; a style or genre that it cannot have is refused."""
    folder = Path(str(settings.source))
    paths = list(folder.rglob("*")) if folder.is_dir() else []
    saved = any((folder / name).exists() for name in ("dataset_info.json", "dataset_dict.json"))
    pictures = sum(path.suffix.lower() in examples.SUFFIXES for path in paths)
    if pictures and not saved:
        rows = datasets.IterableDataset.from_generator(_folder_rows, gen_kwargs={"folder": str(folder)})
        return Source(rows, folder.resolve().name, total=pictures)
    try:
        rows, total = _saved(settings) if saved else _streamed(settings)
    except (OSError, ValueError, ConnectionError, RuntimeError) as error:
        raise UserError(
            f"curate.source {settings.source!r} is no folder of pictures here and no dataset that loads: "
            f"{' '.join(str(error).split())}"
        ) from None
    source = _with_columns(rows, folder.resolve().name if folder.is_dir() else str(settings.source), total)
    _check(source, "style", (settings.style,) if settings.style else ())
    _check(source, "genre", settings.genres)
    return source


def same_word(one: str | None, other: str | None) -> bool:
    """Whether two names are one: `still_life` and `Still Life` are."""
    return _plain(one) == _plain(other)


def _plain(word: str | None) -> str:
    return re.sub(r"[\s_-]+", " ", word or "").strip().casefold()


def _word(value: Any, labels: tuple[str, ...]) -> str | None:
    if isinstance(value, list):  # several captions of one picture
        value = value[0] if value else None
    if labels and isinstance(value, int):
        value = labels[value] if 0 <= value < len(labels) else None
    return str(value).strip() or None if value is not None else None


def _folder_rows(folder: str) -> Iterator[dict]:
    for row in examples.rows(Data(source=folder)):
        image = {"bytes": None, "path": str(Path(folder) / row.name)}
        yield {**row.about, "text": row.caption, "image": image, "file_name": row.name}


def _saved(settings: Curate) -> tuple[datasets.IterableDataset, int | None]:
    found = datasets.load_from_disk(str(settings.source))
    if isinstance(found, datasets.DatasetDict):
        if settings.split not in found:
            raise ValueError(f"no split {settings.split!r}; it has {', '.join(map(str, found))}: set curate.split")
        found = found[settings.split]
    return found.to_iterable_dataset(), len(found)


def _streamed(settings: Curate) -> tuple[datasets.IterableDataset, int | None]:
    rows = datasets.load_dataset(
        str(settings.source), revision=settings.revision, split=settings.split, streaming=True
    )  # fmt: skip
    splits = rows.info.splits or {}
    return rows, splits[settings.split].num_examples if settings.split in splits else None


def _with_columns(rows: datasets.IterableDataset, name: str, total: int | None) -> Source:
    features = rows.features or {}
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    if not images:
        raise UserError(f"No column of {name} holds pictures; it has {', '.join(features) or 'none'}.")
    image = "image" if "image" in images else images[0]
    columns = {what: column for what, known in COLUMNS.items() for column in reversed(known) if column in features}
    labels = {what: _labels(features[column], what) for what, column in columns.items()}
    rows = rows.select_columns([image, *columns.values()]).cast_column(image, datasets.Image(decode=False))
    return Source(rows, name, image, columns, labels, total)


def _labels(feature: Any, what: str) -> tuple[str, ...]:
    numbers = str(getattr(feature, "dtype", "")).startswith("int")
    return tuple(getattr(feature, "names", WIKIART_GENRES if what == "genre" and numbers else ()))


def _check(source: Source, what: str, wanted: tuple[str, ...]) -> None:
    option = {"style": "curate.style", "genre": "curate.genres"}[what]
    if wanted and what not in (source.columns or {}):
        raise UserError(f"{source.name} has no column {what!r}: leave {option} out.")
    labels = (source.labels or {}).get(what, ())
    strangers = [word for word in wanted if labels and not any(same_word(word, label) for label in labels)]
    if strangers:
        raise UserError(f"{source.name} has no {what} {', '.join(strangers)}: {option} can be {', '.join(labels)}.")
