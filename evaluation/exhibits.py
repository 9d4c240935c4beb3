"""The gallery's records: read, written, and put beside each other."""

from collections.abc import Iterable
from pathlib import Path

from impressionism.errors import UserError
from impressionism.files import write_atomic
from impressionism.records import Exhibit, Record, Scores, parsed, parsed_lines


def write_lines(path: Path, records: Iterable[Record]) -> None:
    """One record a line, whole or not at all."""
    write_atomic(path, "".join(record.to_json() + "\n" for record in records))


def read_gallery(run: Path) -> list[Exhibit]:
    """The run's finished gallery, or a sentence."""
    path = run / "gallery" / "gallery.jsonl"
    if not path.exists():
        raise UserError(f"{run} has no finished gallery: paint it with `python -m evaluation gallery {run}`.")
    return parsed_lines(path, Exhibit.from_json)


def read_scores(run: Path) -> Scores:
    file = run / "scores.json"
    if not file.exists():
        raise UserError(f"{run} has no scores: run `python -m evaluation score {run} --real FOLDER` first.")
    return parsed(file, Scores.from_json)


def own_strength(exhibits: list[Exhibit]) -> float:
    """The adapter's strength in the arms; the plain arm alone is painted at others too."""
    return next(exhibit.recipe.strength for exhibit in exhibits if exhibit.arm == "adapter-styled")


def pairs(exhibits: list[Exhibit]) -> list[tuple[Exhibit, Exhibit]]:
    """Base and adapter of each plain prompt and noise."""
    strength = own_strength(exhibits)
    bases = {exhibit.noise: exhibit for exhibit in exhibits if exhibit.arm == "base"}
    adapted = [one for one in exhibits if one.arm == "adapter" and one.recipe.strength == strength]
    return [(bases[exhibit.noise], exhibit) for exhibit in adapted]
