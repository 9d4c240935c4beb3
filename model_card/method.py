"""docs/method.md: what was done and why, with every number and plot from the records.

    python -m model_card method                  from the records that are kept in docs/method
    python -m model_card method runs/miniature   from those of this run, which are then kept there

The wording is in method.md; the tables that benchmarks write into README.md are taken from there.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from impressionism import names
from impressionism.errors import UserError
from impressionism.pictorial import STATISTICS, SUPPORTING
from impressionism.records import QUESTIONS, Metric, Run, Scores
from model_card import figures
from model_card.numbers import environment
from model_card.words import gap_rows, label

ROOT = Path(__file__).parents[1]
KEPT = ("scores.json", "run.json", "log.jsonl")
TEMPLATE = Path(__file__).with_name("method.md")


def method(run: Path | None = None, *, root: Path = ROOT) -> None:
    """Write docs/method.md and its plots; what is there already stays as it is."""
    folder = root / "docs" / "method"
    if run:
        keep(run, folder)
    changed = 0
    for name, content in compose(root).items():
        file = root / "docs" / name
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            changed += 1
    print(f"{root / 'docs' / 'method.md'}: {changed or 'none'} of its files new or changed.")


def keep(run: Path, folder: Path) -> None:
    """The run's records, where the repository has them."""
    if not run.is_dir():
        raise UserError(f"There is no folder {run}; name a run's, as `training fit` leaves it: runs/NAME.")
    if missing := [name for name in KEPT if not (run / name).exists()]:
        raise UserError(f"{run} lacks {', '.join(missing)}: train and score it first.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(run / name, folder / name)


def compose(root: Path) -> dict[str, bytes]:
    """Every file of the page by its path in docs/, from the records that the repository has."""
    folder = root / "docs" / "method"
    scores = Scores.from_json((folder / "scores.json").read_text()) if (folder / "scores.json").exists() else None
    run = Run.from_json((folder / "run.json").read_text()) if (folder / "run.json").exists() else None
    files = {"method/strokes.png": figures.dose(benchmark(root, "miniature")["c_strokes_grow"])}
    if scores:
        files["method/strength.png"] = figures.strength_curve(scores)
        files["method/characteristics.png"] = figures.gaps(gap_rows(scores), "real pictures")
    if (folder / "log.jsonl").exists():
        lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        files["method/training.png"] = figures.training_loss([json.loads(line) for line in lines])
    text = environment().get_template(TEMPLATE.name).render(
        scores=scores, run=run, names=names, statistics=STATISTICS, supporting=SUPPORTING,
        recipe=recipe(root, "impressionism"), miniature=benchmark(root, "miniature"), tables=tables(root),
        rows=rows(scores), files=files,
    )  # fmt: skip
    return {**files, "method.md": text.encode()}


def benchmark(root: Path, name: str) -> dict[str, Any]:
    return json.loads((root / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def recipe(root: Path, name: str) -> dict[str, Any]:
    return yaml.safe_load((root / "training" / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))


def tables(root: Path) -> dict[str, str]:
    """What each benchmark wrote into README.md, by its name."""
    marked = re.compile(
        r"<!-- written by benchmarks/page\.py: (\w+) -->\n(.*?)<!-- written by benchmarks/page\.py: \1 -->", re.DOTALL
    )
    text = (root / "README.md").read_text(encoding="utf-8")
    return {name: table.strip() for name, table in marked.findall(text) if table.strip()}


def rows(scores: Scores | None) -> list[tuple[str, str, Metric]]:
    """Question, label and row of all that was computed."""
    order = list(QUESTIONS)
    found = sorted(scores.metrics if scores else [], key=lambda row: order.index(row.question))
    return [(QUESTIONS[row.question], label(row), row) for row in found if row.adapter]
