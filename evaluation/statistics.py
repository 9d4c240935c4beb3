"""One row a picture: its file, every pictorial statistic, and the index; docs/method.md has their units and meanings.

python -m evaluation statistics PICTURE-OR-FOLDER… --out table.csv
"""

import csv
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from impressionism.errors import UserError
from impressionism.pictorial import EVERY, index, measure

Row = dict[str, float]
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def statistics(pictures: list[Path], out: Path) -> None:
    """Writes the table; what a finished or a broken-off call measured is not measured again."""
    files = found(pictures)
    partial = out.with_name(f"{out.name}.partial")
    rows = {file: row for file, row in (known(out) | known(partial)).items() if file in files}
    missing = [file for file in files if file not in rows]
    print(f"{len(files)} picture{'s' * (len(files) > 1)}, {len(files) - len(missing)} of them measured before.")
    write(partial, rows.items())
    with partial.open("a", newline="") as stream:
        for file, row in zip(missing, measured(missing), strict=True):
            append(stream, file, row)
            rows[file] = row
    write(out, ((file, rows[file]) for file in files))
    partial.unlink()
    low, middle, high = np.quantile([index(row) for row in rows.values()], (0, 0.5, 1))
    print(f"{out}: {len(files)} rows; docs/method.md says what each column is.")
    print(f"Impressionist index, 0 to 1: median {middle:.2f}, from {low:.2f} to {high:.2f}.")


def found(places: list[Path]) -> list[Path]:
    """The pictures named and those in and under the folders named, each once."""
    if absent := [str(place) for place in places if not place.exists()]:
        raise UserError(f"There is no {', no '.join(absent)}.")
    inside = (sorted(place.rglob("*")) if place.is_dir() else [place] for place in places)
    files = [file for part in inside for file in part if file in places or file.suffix.lower() in SUFFIXES]
    if not files:
        raise UserError(f"No pictures in {', '.join(map(str, places))}; they end in {', '.join(sorted(SUFFIXES))}.")
    return list(dict.fromkeys(files))


def measured(files: list[Path]) -> Iterator[Row]:
    """Every statistic of each file, on all cores."""
    with ProcessPoolExecutor(initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from tqdm(pool.map(measure_file, files, chunksize=4), total=len(files), disable=not files)


def measure_file(file: Path) -> Row:
    try:
        with Image.open(file) as image:
            measured = measure(ImageOps.exif_transpose(image))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read as a picture: {error}") from error
    return {name: float(f"{value:.7g}") for name, value in measured.items()}  # as the table has it


# ---- The table


def write(table: Path, rows: Iterable[tuple[Path, Row]]) -> None:
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerow(["file", *EVERY, "index"])
        for file, row in rows:
            append(stream, file, row)


def append(stream, file: Path, row: Row) -> None:
    csv.writer(stream).writerow([file, *(row[name] for name in EVERY), f"{index(row):.6f}"])
    stream.flush()


def known(table: Path) -> dict[Path, Row]:
    """The rows of a table by file, without those whose picture has changed since; the index is not taken from it."""
    if not table.exists():
        return {}
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    whole = [row for row in rows if all(row.get(name) for name in ("file", *EVERY, "index"))]
    read = {Path(row["file"]): {name: float(row[name]) for name in EVERY} for row in whole}
    written = table.stat().st_mtime
    return {file: row for file, row in read.items() if file.exists() and file.stat().st_mtime < written}
