"""What a run left behind, read as records: all that a card may say. What is missing is named, with the way to it."""

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

NEEDED = {  # record → the command that writes it
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
    """As resolved: section → key → value."""
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
        """The same adapter under the names that ComfyUI, Forge and kohya know."""
        return next(self.adapter.glob("*_comfy.safetensors"))

    def picture(self, exhibit: Exhibit) -> Path:
        return self.folder / "gallery" / exhibit.file


def read(folder: Path) -> RunRecords:
    """The run's records; raises one UserError with everything that is missing, damaged or of another adapter."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; name a run's, as `training fit` leaves it: runs/NAME.")
    missing = [
        f"{record} (written by `python -m {command.replace('RUN', str(folder))}`)"
        for record, command in NEEDED.items()
        if not (folder / record).exists()
    ]
    if not any((folder / "adapter").glob("*_comfy.safetensors")):
        missing.append("adapter/*_comfy.safetensors (written by `python -m training fit RECIPE.yaml`)")
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}: a card says only what records show.")
    emissions = folder / "emissions.csv"
    measured = list(csv.DictReader(emissions.read_text().splitlines())) if emissions.exists() else []
    evidence = RunRecords(
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
    if problems := contradictions(evidence):
        raise UserError(f"{folder}: {'; '.join(problems)}.")
    return evidence


def contradictions(evidence: RunRecords) -> list[str]:
    """Records that speak of something else than this run's adapter, as it lies there now."""
    run, scores = evidence.run, evidence.scores
    weights = evidence.adapter / names.WEIGHTS_FILE
    digest, again = digest_of(weights), f"`python -m evaluation gallery {evidence.folder}` again, and `score`"
    painted = {exhibit.recipe.provenance.adapter_revision for exhibit in evidence.exhibits}
    absent = [exhibit.file for exhibit in evidence.exhibits if not evidence.picture(exhibit).exists()]
    return [
        *([f"scores.json is of the run {scores.run}, not of {run.name}"] if scores.run != run.name else []),
        *([f"the gallery was painted with other weights than {weights.name}: run {again}"]
          if painted - {digest} else []),
        *([f"scores.json measured other weights than {weights.name}: run {again}"]
          if scores.provenance.adapter_revision != digest else []),
        *([f"the gallery has no {absent[0]}: run {again}"] if absent else []),
        *(["ab.json counts a rehearsal's votes (synthetic), which no card may show: remove it"]
          if evidence.votes and evidence.votes.synthetic else []),
    ]  # fmt: skip
