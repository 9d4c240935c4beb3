"""Reads the records that a run left behind. A card says only what these records show."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from impressionism import names
from impressionism.errors import UserError
from impressionism.hub import digest_of
from impressionism.records import Exhibit, Pair, Run, Scores, StudyResult, parsed, parsed_lines

WRITTEN_BY = {  # record → the command that writes it
    "recipe.yaml": "training fit RECIPE.yaml",
    "run.json": "training fit RECIPE.yaml",
    "log.jsonl": "training fit RECIPE.yaml",
    f"adapter/{names.WEIGHTS_FILE}": "training fit RECIPE.yaml",
    "gallery/gallery.jsonl": "evaluation gallery RUN",
    "gallery/showcase/showcase.jsonl": "evaluation gallery RUN",
    "scores.json": "evaluation score RUN",
}


@dataclass(frozen=True, kw_only=True)
class RunRecords:
    """The records of a trained and evaluated run."""

    folder: Path
    run: Run
    recipe: dict[str, Any]
    """The resolved recipe: section → key → value."""
    log: list[dict[str, Any]]
    exhibits: list[Exhibit]
    pairs: list[Pair]
    scores: Scores
    votes: StudyResult | None
    """None: no people were asked."""
    emissions: dict[str, str] | None
    """The last row of emissions.csv, where codecarbon measured the training."""

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def comfy(self) -> Path:
        """The same adapter in the layout that ComfyUI, Forge and kohya read."""
        return next(self.adapter.glob("*_comfy.safetensors"))

    @property
    def gallery_strength(self) -> float:
        """The strength at which the gallery's adapter pictures, and so the tables, were made."""
        return self.pairs[0].recipe.strength

    def picture(self, exhibit: Exhibit) -> Path:
        return self.folder / "gallery" / exhibit.file

    def exhibit(self, pair: Pair) -> Exhibit:
        """The gallery picture that a pair of the showcase shows."""
        return next(exhibit for exhibit in self.exhibits if exhibit.recipe == pair.recipe)

    def sibling(self, exhibit: Exhibit, arm: str) -> Exhibit | None:
        """The same prompt and noise in another arm, with the adapter at the same strength."""
        strength = 0.0 if arm.startswith("base") else exhibit.recipe.strength
        wanted = (exhibit.noise, arm, strength)
        return next((one for one in self.exhibits if (one.noise, one.arm, one.recipe.strength) == wanted), None)


def read(folder: Path) -> RunRecords:
    """The run's records. Raises one UserError with everything that is missing, damaged or about another adapter."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; name a run's folder, such as runs/NAME.")
    missing = [
        f"{record} (written by `python -m {command.replace('RUN', str(folder))}`)"
        for record, command in WRITTEN_BY.items()
        if not (folder / record).exists()
    ]
    if not any((folder / "adapter").glob("*_comfy.safetensors")):
        missing.append("adapter/*_comfy.safetensors (written by `python -m training fit RECIPE.yaml`)")
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}.")
    emissions = folder / "emissions.csv"
    measured = list(csv.DictReader(emissions.read_text().splitlines())) if emissions.exists() else []
    records = RunRecords(
        folder=folder,
        run=parsed(folder / "run.json", Run.from_json),
        recipe=parsed(folder / "recipe.yaml", yaml.safe_load),
        log=parsed_lines(folder / "log.jsonl", json.loads),
        exhibits=parsed_lines(folder / "gallery" / "gallery.jsonl", Exhibit.from_json),
        pairs=parsed_lines(folder / "gallery" / "showcase" / "showcase.jsonl", Pair.from_json),
        scores=parsed(folder / "scores.json", Scores.from_json),
        votes=parsed(folder / "ab.json", StudyResult.from_json) if (folder / "ab.json").exists() else None,
        emissions=measured[-1] if measured else None,
    )
    if problems := contradictions(records):
        raise UserError(f"{folder}: {'; '.join(problems)}.")
    return records


def contradictions(records: RunRecords) -> list[str]:
    """Records that describe something else than this run's adapter as it is now."""
    run, scores = records.run, records.scores
    weights = records.adapter / names.WEIGHTS_FILE
    digest, again = digest_of(weights), f"run `python -m evaluation gallery {records.folder}` and `score` again"
    painted = {exhibit.recipe.provenance.adapter_revision for exhibit in records.exhibits}
    absent = [exhibit.file for exhibit in records.exhibits if not records.picture(exhibit).exists()]
    problems = {
        f"scores.json belongs to the run {scores.run}, not to {run.name}": scores.run != run.name,
        f"the gallery was painted with other weights than {weights.name}: {again}": painted - {digest},
        f"scores.json measured other weights than {weights.name}: {again}":
            scores.provenance.adapter_revision != digest,
        f"the gallery has no {absent[0] if absent else ''}: {again}": absent,
        "the showcase is empty: " + again: not records.pairs,
        "ab.json holds synthetic votes from a rehearsal, which no card may show: remove it":
            records.votes and records.votes.synthetic,
    }  # fmt: skip
    return [sentence for sentence, applies in problems.items() if applies]
