"""What the scores are made of: the gallery's pictures, real paintings and training pictures, as tables and vectors."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas

from evaluation.exhibits import own_strength, read_gallery
from evaluation.features import look_at
from evaluation.metrics import correlations, nearest
from impressionism.errors import UserError
from impressionism.records import Exhibit

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}

Table = Any  # a pandas.DataFrame, of which its own types know less than it can do
ByPrompt = dict[str, list[float]]


class Vectors(NamedTuple):
    """One feature of all pictures, as rows."""

    pictures: np.ndarray
    real: np.ndarray
    training: np.ndarray | None = None
    texts: np.ndarray | None = None
    """Of the pictures' prompts, where the feature can read."""


@dataclasses.dataclass
class ScoreInputs:
    run: Path
    exhibits: list[Exhibit]
    pictures: Table
    """A row an exhibit, in their order: file, prompt, genre, arm, seed, strength, every statistic, `index`;
    `content`, the correlation with the base model's composition; `gain`, the index less the base model's; and
    `nearest` and `likeness` of the training picture that is likest."""
    real: Table
    """A row a real painting: file, every statistic, `index`."""
    training: list[Path]
    vectors: dict[str, Vectors]
    """By the feature's name."""

    def rows(self, arm: str, strength: float | None = None) -> np.ndarray:
        """Places of an arm's pictures, in the order of prompt and seed; of the adapter's at its own strength."""
        wanted = strength if strength is not None else own_strength(self.exhibits) if "adapter" in arm else 0.0
        chosen = self.pictures[(self.pictures["arm"] == arm) & (self.pictures["strength"] == wanted)]
        return chosen.sort_values(["prompt", "seed"]).index.to_numpy()

    def by_prompt(self, values: Sequence[float] | np.ndarray, rows: np.ndarray) -> ByPrompt:
        """Values of the pictures at these places."""
        result: ByPrompt = {}
        for prompt, value in zip(self.pictures["prompt"].to_numpy()[rows], values, strict=True):
            result.setdefault(prompt, []).append(float(value))
        return result

    def column(self, name: str, arm: str, strength: float | None = None) -> ByPrompt:
        rows = self.rows(arm, strength)
        return self.by_prompt(self.pictures[name].to_numpy()[rows], rows)


def collect(run: Path, real: Path, training: Path | None) -> ScoreInputs:
    """Everything that needs no weights."""
    exhibits = read_gallery(run)
    files = [run / "gallery" / exhibit.file for exhibit in exhibits]
    real_files, training_files = files_of(real), files_of(training) if training else []
    statistics, vectors = look_at([*files, *real_files, *training_files])
    shown, hung = len(files), len(files) + len(real_files)
    evidence = ScoreInputs(
        run=run,
        exhibits=exhibits,
        pictures=pandas.DataFrame([described(one) | seen for one, seen in zip(exhibits, statistics, strict=False)]),
        real=pandas.DataFrame([{"file": f.name} | s for f, s in zip(real_files, statistics[shown:hung], strict=True)]),
        training=training_files,
        vectors={
            name: Vectors(found[:shown], found[shown:hung], found[hung:] if training else None)
            for name, found in vectors.items()
        },
    )
    beside_the_base(evidence)
    return evidence


def files_of(folder: Path) -> list[Path]:
    """The folder's pictures, in the order of their names."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if len(files) < 2:
        raise UserError(f"{folder} is no folder with pictures in it; name one that has two at least.")
    return files


def described(exhibit: Exhibit) -> dict[str, str | int | float]:
    sampling = exhibit.recipe.sampling
    return {
        "file": exhibit.file,
        "prompt": exhibit.prompt,
        "genre": exhibit.genre,
        "arm": exhibit.arm,
        "seed": sampling.seed,
        "strength": exhibit.recipe.strength,
        "text": sampling.prompt,
    }


def beside_the_base(evidence: ScoreInputs) -> None:
    """content and gain, against the base's picture of the same words and noise; and the likest training picture."""
    pictures = evidence.pictures
    keys = list(zip(pictures["text"], pictures["seed"], strict=True))
    bases = {key: place for place, key in enumerate(keys) if pictures["strength"][place] == 0}
    base = np.array([bases[key] for key in keys])
    structure = evidence.vectors["structure"].pictures
    pictures["content"] = correlations(structure, structure[base])
    pictures["gain"] = pictures["index"].to_numpy() - pictures["index"].to_numpy()[base]
    layout = evidence.vectors["layout"]
    if layout.training is not None:
        likest, likeness = nearest(layout.pictures, layout.training)
        pictures["nearest"] = [evidence.training[place].name for place in likest]
        pictures["likeness"] = likeness
