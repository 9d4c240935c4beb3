"""A table of pictures: for each its file, the seven pictorial statistics and the Impressionist index, as CSV.

python -m evaluation statistics PICTURE-OR-FOLDER… --out table.csv

docs/method.md explains the columns.
"""

import sys
from pathlib import Path

import pandas

from evaluation.features import in_parallel
from impressionism import files
from impressionism.errors import UserError, counted
from impressionism.pictorial import assess


def statistics(pictures: list[Path], out: Path) -> int:
    """Writes the table and returns the exit status: 1 where a picture could not be read."""
    wanted = pictures_of(pictures)
    found = in_parallel(row_of, wanted, "statistics")
    for error in found:
        if isinstance(error, UserError):
            print(error, file=sys.stderr)
    table = pandas.DataFrame([row for row in found if isinstance(row, dict)])
    if table.empty:
        raise UserError("None of the pictures can be read, so there is no table.")
    files.write_atomic(out, table.to_csv(index=False, float_format="%.7g"))
    low, middle, high = table["index"].quantile([0, 0.5, 1])
    print(f"{out}: {counted(len(table), 'row')}; docs/method.md says what each column is.")
    print(f"Impressionist index, 0 to 1: median {middle:.2f}, from {low:.2f} to {high:.2f}.")
    return 0 if len(table) == len(wanted) else 1


def pictures_of(places: list[Path]) -> list[Path]:
    """The pictures that are named and those in the folders that are named, each once."""
    if absent := [str(place) for place in places if not place.exists()]:
        raise UserError(f"There is no file or folder {', '.join(absent)}.")
    result: list[Path] = []
    for place in places:
        inside, left_out = files.pictures_in(place) if place.is_dir() else ([place], {})
        result += inside
        if line := files.left_out_line(left_out):
            print(f"{place}: {line}")
    if not result:
        raise UserError(f"No pictures in {', '.join(map(str, places))}.")
    return list(dict.fromkeys(result))


def row_of(file: Path) -> dict[str, str | float] | UserError:
    """The picture's row, or why it has none."""
    try:
        found = assess(files.read_picture(file))
    except UserError as error:
        return error
    return {"file": str(file), **found.statistics, "index": found.index}
