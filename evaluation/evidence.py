"""What the scores are made of: the gallery's pictures, real paintings and training pictures, as tables and vectors."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas

from evaluation import numbers
from evaluation.exhibits import own_strength, read_gallery
from evaluation.features import VERSIONS, in_parallel, layouts, measure_files
from evaluation.numbers import Real
from impressionism import files
from impressionism.errors import UserError
from impressionism.records import Exhibit

OUT_OF_STYLE = "out of style"
"""The genre of prompts that no Impressionist painted; their gap has no real paintings to close it to."""
GENRES = {"cityscape": "urban", "genre scene": "portrait", "interior": "portrait"}
"""Names of genres in data sets of paintings, and the prompt sets' names for them."""
KNOWN = 0.3
"""Mean index of real paintings from which on the index is the main measure: of Impressionists it is about 0.7, of other
painters 0.26; drawn scenes, which stand for real paintings in the miniature's world, have less than 0.01."""

Table = Any  # a pandas.DataFrame, of which its own types know less than it can do
ByPrompt = dict[str, list[float]]


class Vectors(NamedTuple):
    """One feature of all pictures, as rows."""

    pictures: np.ndarray
    real: np.ndarray
    texts: np.ndarray | None = None
    """Vectors of the pictures' prompts, where the feature can read."""


@dataclasses.dataclass
class ScoreInputs:
    run: Path
    exhibits: list[Exhibit]
    pictures: Table
    """A row for each exhibit, in their order: file, prompt, genre, arm, seed, strength, text, every statistic, `index`;
    `score`, the main measure; `content`, the correlation with the base model's composition; `gain`, the index less the
    base model's; and, where training pictures were given, `nearest` and `likeness` of the most similar one."""
    real: Table
    """A row for each real painting: file, painter, genre, every statistic, `index`, `score` and `likeness`."""
    training: list[Path]
    vectors: dict[str, Vectors]
    """By the feature's name."""
    measure: Literal["index", "probe"] = "index"
    """What `score` holds: see records.Scores."""
    strength: float | None = None
    """At which the adapter is compared; none: at the gallery's own."""

    def at(self, strength: float) -> "ScoreInputs":
        """The same, with the adapter compared at this strength, on the noises that were painted at it."""
        return dataclasses.replace(self, strength=None if strength == own_strength(self.exhibits) else strength)

    def rows(self, arm: str, strength: float | None = None) -> np.ndarray:
        """Places of an arm's pictures, in the order of prompt and seed."""
        names = ("arm", "strength", "prompt", "seed")
        arms, strengths, prompts, seeds = (self.pictures[name].to_numpy() for name in names)
        if strength is None:
            own = own_strength(self.exhibits)
            strength = {"adapter": own if self.strength is None else self.strength, "adapter-styled": own}.get(arm, 0.0)
        chosen = (arms == arm) & (strengths == strength)
        if self.strength is not None and arm.startswith("base"):
            painted = (arms == "adapter") & (strengths == self.strength)
            keys = set(zip(prompts[painted], seeds[painted], strict=True))
            chosen &= [key in keys for key in zip(prompts, seeds, strict=True)]
        places = np.flatnonzero(chosen)
        return places[np.lexsort((seeds[places], prompts[places].astype(str)))]

    def by_prompt(self, values: Sequence[float] | np.ndarray, rows: np.ndarray) -> ByPrompt:
        """Values of the pictures at these places."""
        result: ByPrompt = {}
        for prompt, value in zip(self.pictures["prompt"].to_numpy()[rows], values, strict=True):
            result.setdefault(prompt, []).append(float(value))
        return result

    def column(self, name: str, arm: str, strength: float | None = None) -> ByPrompt:
        rows = self.rows(arm, strength)
        return self.by_prompt(self.pictures[name].to_numpy()[rows], rows)

    @property
    def genres(self) -> dict[str, str]:
        """By prompt."""
        return dict(zip(self.pictures["prompt"], self.pictures["genre"], strict=True))

    def real_of(self, values: str | Sequence[float] | np.ndarray) -> Real:
        """A column, or other values, of the real paintings, with their painters and genres."""
        numbers_ = self.real[values] if isinstance(values, str) else values
        return Real(np.asarray(numbers_, float), list(self.real["painter"]), list(self.real["genre"]))

    def real_likeness(self, vectors: Vectors) -> tuple[np.ndarray, np.ndarray]:
        """How real a classifier of real paintings against the base's pictures takes each picture to be."""
        is_base = (self.pictures["arm"] == "base").to_numpy()
        return numbers.real_likeness(vectors.pictures, self.pictures["prompt"].to_numpy(), is_base, vectors.real)


def collect(run: Path, real: Path, training: Path | None) -> ScoreInputs:
    """Everything that needs no weights from the Hub."""
    exhibits = read_gallery(run)
    painted = [run / "gallery" / exhibit.file for exhibit in exhibits]
    real_files, training_files = real_pictures(real), files_of(training) if training else []
    statistics, vectors = measure_files([*painted, *real_files])
    count = len(painted)
    evidence = ScoreInputs(
        run=run,
        exhibits=exhibits,
        pictures=pandas.DataFrame([described(one) | values for one, values in zip(exhibits, statistics, strict=False)]),
        real=pandas.DataFrame(
            [{**labels, **values} for labels, values in zip(labels_of(real_files), statistics[count:], strict=True)]
        ),
        training=training_files,
        vectors={name: Vectors(found[:count], found[count:]) for name, found in vectors.items()},
    )
    beside_the_base(evidence)
    nearest_training(evidence)
    return evidence


def real_pictures(folder: Path) -> list[Path]:
    """The real paintings of a folder; of a curated data set its validation split, which no training saw."""
    held_out = folder / "validation"
    return files_of(held_out if held_out.is_dir() else folder)


def files_of(folder: Path) -> list[Path]:
    """The folder's pictures, in the order of their names."""
    found, left_out = files.pictures_in(folder) if folder.is_dir() else ([], {})
    if len(found) < 2:
        why = f" {line}" if (line := files.left_out_line(left_out)) else ""
        raise UserError(f"{folder} is no folder with pictures in it; name one that has two at least.{why}")
    return found


def labels_of(pictures: list[Path]) -> list[dict[str, str]]:
    """File, painter and genre of each; from a metadata.jsonl, metadata.csv or manifest.csv beside them. A painting with
    no known painter stands for itself."""
    known: dict[Path, dict[str, Any]] = {}
    for folder in {picture.parent for picture in pictures}:
        names = ("metadata.jsonl", "metadata.csv", "manifest.csv")
        if table := next((folder / name for name in names if (folder / name).is_file()), None):
            lines = files.read_text(table).splitlines()
            try:
                rows = [json.loads(line) for line in lines if line.strip()] if table.suffix == ".jsonl" else (
                    list(csv.DictReader(lines)))  # fmt: skip
            except ValueError as error:
                raise UserError(f"{table} cannot be read: {error}.") from error
            known |= {folder / str(row.get("file_name") or row.get("file")): row for row in rows}
    labels = [known.get(picture, {}) for picture in pictures]
    painters = [str(label.get("artist") or "") for label in labels]
    several = len({painter for painter in painters if painter}) > 1
    genres = [str(label.get("genre") or "").replace("_", " ").lower() for label in labels]
    return [
        {"file": picture.name, "painter": painter if several and painter else picture.name,
         "genre": GENRES.get(genre, genre)}
        for picture, painter, genre in zip(pictures, painters, genres, strict=True)
    ]  # fmt: skip


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
    """Adds content and gain, against the base's picture of the same words and noise, and the main measure."""
    pictures, real = evidence.pictures, evidence.real
    keys = list(zip(pictures["text"], pictures["seed"], strict=True))
    bases = {key: place for place, key in enumerate(keys) if pictures["strength"][place] == 0}
    base = np.array([bases[key] for key in keys])
    structure = evidence.vectors["structure"].pictures
    pictures["content"] = numbers.correlations(structure, structure[base])
    pictures["gain"] = pictures["index"].to_numpy() - pictures["index"].to_numpy()[base]
    if real["index"].mean() >= KNOWN:
        pictures["score"], real["score"] = pictures["index"], real["index"]
    else:
        evidence.measure = "probe"
        pictures["score"], real["score"] = evidence.real_likeness(evidence.vectors["network"])


def nearest_training(evidence: ScoreInputs) -> None:
    """Adds the most similar training picture, in whichever of its VERSIONS, and how similar it is."""
    if evidence.training:
        training = np.concatenate(in_parallel(layouts, evidence.training))
        layout = evidence.vectors["layout"]
        places, evidence.pictures["likeness"] = numbers.nearest(layout.pictures, training)
        evidence.pictures["nearest"] = [evidence.training[place // VERSIONS].name for place in places]
        evidence.real["likeness"] = numbers.nearest(layout.real, training)[1]
