"""A table of pictures: for each its file, the seven pictorial statistics and the Impressionist index, as CSV.

python -m evaluation statistics PICTURE-OR-FOLDER… --out table.csv

docs/method.md explains the columns.
"""

import csv
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from impressionism import files
from impressionism.errors import UserError
from impressionism.pictorial import STATISTICS, assess

Row = dict[str, float]
COLUMNS = [*STATISTICS, "index"]


def statistics(pictures: list[Path], out: Path) -> int:
    """Writes the table and returns the exit status: 1 where a picture could not be read.

    What a finished or interrupted call has measured is not measured again.
    """
    wanted = pictures_of(pictures)
    partial = out.with_name(f"{out.name}.partial")
    rows = {file: row for file, row in (read(out) | read(partial)).items() if file in wanted}
    missing = [file for file in wanted if file not in rows]
    print(f"{len(wanted)} picture{'s' * (len(wanted) > 1)}, {len(wanted) - len(missing)} of them measured before.")
    write(partial, rows)
    unreadable: list[UserError] = []
    # OpenCV and PyTorch let other threads run
    with partial.open("a", newline="", encoding="utf-8") as stream, ThreadPoolExecutor(os.cpu_count()) as pool:
        found = tqdm(pool.map(measure_file, missing), total=len(missing), disable=not missing)
        for file, row in zip(missing, found, strict=True):
            if isinstance(row, UserError):
                unreadable.append(row)
            else:
                csv.writer(stream).writerow([file, *row.values()])
                stream.flush()
                rows[file] = row
    for error in unreadable:
        print(error, file=sys.stderr)
    if not rows:
        partial.unlink()
        raise UserError("None of the pictures can be read, so there is no table.")
    files.write_atomic(out, lambda path: write(path, {file: rows[file] for file in wanted if file in rows}))
    partial.unlink()
    low, middle, high = np.quantile([row["index"] for row in rows.values()], (0, 0.5, 1))
    print(f"{out}: {len(rows)} rows; docs/method.md says what each column is.")
    print(f"Impressionist index, 0 to 1: median {middle:.2f}, from {low:.2f} to {high:.2f}.")
    return 1 if unreadable else 0


def pictures_of(places: list[Path]) -> list[Path]:
    """The pictures that are named and those in the folders that are named, each once."""
    if absent := [str(place) for place in places if not place.exists()]:
        raise UserError(f"There is no {', no '.join(absent)}.")
    result: list[Path] = []
    for place in places:
        inside, left_out = files.pictures_in(place) if place.is_dir() else ([place], {})
        result += inside
        if line := files.left_out_line(left_out):
            print(f"{place}: {line}")
    if not result:
        raise UserError(f"No pictures in {', '.join(map(str, places))}.")
    return list(dict.fromkeys(result))


def measure_file(file: Path) -> Row | UserError:
    """The picture's row, in the order of COLUMNS, or why it has none."""
    try:
        found = assess(files.read_picture(file))
    except UserError as error:
        return error
    values = {**found.statistics, "index": found.index}
    return {name: float(f"{values[name]:.7g}") for name in COLUMNS}  # as the table has it


# ---- The table


def write(table: Path, rows: dict[Path, Row]) -> None:
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["file", *COLUMNS], *([file, *row.values()] for file, row in rows.items())])


def read(table: Path) -> dict[Path, Row]:
    """The whole rows of a table by file, without those whose picture has changed since."""
    if not table.exists():
        return {}
    with table.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if all(row.get(name) for name in ("file", *COLUMNS))]
    kept = {Path(row["file"]): {name: float(row[name]) for name in COLUMNS} for row in rows}
    return {file: row for file, row in kept.items()
            if file.exists() and file.stat().st_mtime < table.stat().st_mtime}  # fmt: skip
