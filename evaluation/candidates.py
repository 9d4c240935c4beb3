"""Several adapters side by side: which to publish, at which strength, and what a quantization costs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas

from evaluation.evidence import ByPrompt, Table
from evaluation.features import look_at
from evaluation.intervals import bootstrap
from evaluation.metrics import correlations
from impressionism.errors import UserError
from impressionism.records import Candidate, Estimate, Scores, parsed


def read_scores(run: Path) -> Scores:
    file = run / "scores.json"
    if not file.exists():
        raise UserError(f"{run} has no scores: run `python -m evaluation score {run} --real FOLDER` first.")
    return parsed(file, Scores.from_json)


def gather(run: Path, scores: Scores, pictures: Table, others: Sequence[Path]) -> list[Candidate]:
    """The run itself and other scored runs; all must have been asked the same."""
    runs: dict[Path, tuple[Scores, Table]] = {run: (scores, pictures)}
    for other in others:
        found = read_scores(other)
        for what, name in {"prompt_set_sha256": "prompts", "real": "paintings"}.items():
            if getattr(found, what) != getattr(scores, what):
                raise UserError(f"{other} was scored on other {name}: candidates must be asked the same.")
        runs[other] = found, pandas.read_parquet(other / "pictures.parquet")
    full = {scores.provenance.adapter_revision: folder for folder, (scores, _) in runs.items()
            if scores.provenance.quantize == "none"}  # fmt: skip
    result = []
    for folder, (found, own) in runs.items():
        whole = full.get(found.provenance.adapter_revision, folder) if found.provenance.quantize != "none" else folder
        cost, likeness = (None, None) if whole == folder else loss(folder, own, whole, runs[whole][1])
        result.append(candidate(run, folder, found, cost, likeness))
    return result


def candidate(run: Path, folder: Path, scores: Scores, cost: Estimate | None, likeness: Estimate | None) -> Candidate:
    """At its recommended strength; called by its path within the run, or by its run's name."""
    point = scores.recommended
    return Candidate(
        name=folder.relative_to(run).as_posix() if folder != run and folder.is_relative_to(run) else scores.run,
        provenance=scores.provenance,
        index=point.index,
        content=point.content,
        gap_closed=point.gap_closed,
        strength=scores.strength,
        good=scores.good,
        cost=cost,
        likeness=likeness,
    )


def choose(candidates: Sequence[Candidate]) -> str | None:
    """Of those that are good the one that is nearest to real paintings."""
    good = [(abs(1 - one.gap_closed.value), one.name) for one in candidates if one.gap_closed and one.good]
    return min(good)[1] if good else None


def loss(quantized: Path, own: Table, full: Path, whole: Table) -> tuple[Estimate, Estimate]:
    """What a quantization does to the index and to the composition, picture by picture from the same records."""
    both = own.merge(whole, on=["file", "prompt"], suffixes=("", "_full"))
    both = both[both["strength"] > 0]
    seen, whole_seen = (look_at(folder / "gallery" / file for file in both["file"])[1] for folder in (quantized, full))
    cost = by_prompt(both["prompt"], both["index"] - both["index_full"])
    likeness = by_prompt(both["prompt"], correlations(seen["structure"], whole_seen["structure"]))
    return bootstrap(cost), bootstrap(likeness)


def by_prompt(prompts: Any, values: Any) -> ByPrompt:
    return pandas.Series(list(values)).groupby(list(prompts)).apply(list).to_dict()
