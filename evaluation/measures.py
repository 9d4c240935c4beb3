"""Pictures measured by impressionism.pictorial, on all cores."""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from impressionism.paint import open_image
from impressionism.pictorial import index, measure


def measured(files: Iterable[Path]) -> list[dict[str, float]]:
    """Every statistic, and `index`, of each file."""
    with ProcessPoolExecutor() as pool:
        return list(pool.map(_measure, files, chunksize=4))


def _measure(file: Path) -> dict[str, float]:
    values = measure(open_image(file).convert("RGB"))
    return {**values, "index": index(values)}
