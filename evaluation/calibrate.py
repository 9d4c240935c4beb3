"""Fits the index on real pictures, and measures what it and each statistic are worth.

    python -m evaluation calibrate --paintings FOLDER --styles FOLDER --photographs FOLDER

A folder holds pictures and a manifest.csv with the columns file and artist; with no artist a picture stands alone.
What is written holds numbers only: calibration.json of impressionism.pictorial.

The figures of the index are of artists that its fit has not seen: the artists of each kind are dealt into up to three
parts, and every part of the paintings is told from every part of the others by a fit without all of them.
"""

import csv
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu, spearmanr

from evaluation.haeberli import haeberli
from evaluation.statistics import measured
from impressionism.errors import UserError
from impressionism.pictorial import EVERY, bent, measure
from impressionism.pictorial.known import CALIBRATION
from impressionism.pictorial.measures import to_size

PAINTINGS, STYLES, PHOTOGRAPHS = range(3)
PARTS = 3
RIDGE = 0.1  # penalty on half the squared weights, against the mean loss of a picture
DOSES = (0.0, 0.25, 0.5, 0.75, 1.0)
DOSED = 8  # photographs that are painted over
SIGNS = np.array([statistic.impressionist for statistic in EVERY.values()])


def calibrate(paintings: Path, styles: Path, photographs: Path, out: Path | None = None) -> None:
    manifests = [manifest(folder) for folder in (paintings, styles, photographs)]
    artists = {file: artist for rows in manifests for file, artist in rows.items()}
    groups = np.array([artist or str(file) for file, artist in artists.items()])
    kind = np.repeat(range(3), [len(rows) for rows in manifests])
    values = np.array([list(row.values()) for row in measured(list(artists))])
    doses = dosed(list(manifests[PHOTOGRAPHS])[:: max(1, len(manifests[PHOTOGRAPHS]) // DOSED)])

    model = fit(values, kind)
    result = {
        "statistics": {
            name: {**aucs(sign * values[:, i], kind), "dose": trend(sign * doses[..., i])}
            for i, (name, sign) in enumerate(zip(EVERY, SIGNS, strict=True))
        },
        "index": {
            **{key: dict(zip(EVERY, model[key].tolist(), strict=True)) for key in ("mean", "scale", "weight")},
            "bias": model["bias"],
            **{f"fitted_{key}": value for key, value in aucs(score(model, values), kind).items()},
            **cross_validated(values, kind, groups),
            "dose": trend(score(model, doses)),
        },
        "pictures": dict(zip(("paintings", "styles", "photographs"), map(len, manifests), strict=True)),
        "artists": Counter(filter(None, artists.values())),
    }
    (out or CALIBRATION).write_text(json.dumps(rounded(result), indent=1, ensure_ascii=False) + "\n")
    print(table(result))


def manifest(folder: Path) -> dict[Path, str]:
    """Each picture of a folder with its artist, "" where none is named."""
    path = folder / "manifest.csv"
    if not path.exists():
        raise UserError(f"There is no {path}: a CSV with the columns file and artist.")
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or not {"file", "artist"} <= set(rows[0]):
        raise UserError(f"{path} needs the columns file and artist, and a row for each picture.")
    if len({row["artist"] or row["file"] for row in rows}) < 2:
        raise UserError(f"{path} has one artist; at least two are needed, so that one can be left out.")
    return {folder / row["file"]: row["artist"] for row in rows}


# ---- The index


def weights_of(kind: np.ndarray) -> np.ndarray:
    """Half of all for the paintings, a quarter each for other styles and photographs; the sum is 1."""
    share = np.array([0.5, 0.25, 0.25]) / np.bincount(kind, minlength=3)
    return share[kind]


def fit(values: np.ndarray, kind: np.ndarray) -> dict:
    """Ridge logistic regression on standardised statistics; no weight goes against its statistic's direction."""
    weights, sides = weights_of(kind), np.where(kind == PAINTINGS, 1, -1)
    mean = weights @ values
    scale = np.sqrt(weights @ (values - mean) ** 2) + 1e-9
    signed = bent((values - mean) / scale) * SIGNS

    def loss(p: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sides * (signed @ p[:-1] + p[-1])
        slope = -weights * sides / (1 + np.exp(margin))
        value = weights @ np.logaddexp(0, -margin) + RIDGE / 2 * p[:-1] @ p[:-1]
        return value, np.append(signed.T @ slope + RIDGE * p[:-1], slope.sum())

    bounds = [(0, None)] * len(SIGNS) + [(None, None)]
    found = minimize(loss, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds).x
    return {"mean": mean, "scale": scale, "weight": found[:-1] * SIGNS, "bias": float(found[-1])}


def score(model: dict, values: np.ndarray) -> np.ndarray:
    """The index before the logistic curve, of values (..., statistics)."""
    return bent((values - model["mean"]) / model["scale"]) @ model["weight"] + model["bias"]


def cross_validated(values: np.ndarray, kind: np.ndarray, groups: np.ndarray) -> dict:
    """Mean AUCs over the combinations of parts left out, weighted by the pairs compared; and each painters' own."""
    found = []
    for painters, others, photographers in itertools.product(*(dealt(groups[kind == of]) for of in range(3))):
        out = np.isin(groups, painters + others + photographers)
        model = fit(values[~out], kind[~out])
        paintings, styles, photographs = np.bincount(kind[out])
        weights = {"auc": paintings * photographs, "auc_styles": paintings * styles}
        found.append((", ".join(painters), aucs(score(model, values[out]), kind[out]), weights))
    every = dict.fromkeys(painters for painters, _, _ in found)
    return {
        **averaged(found),
        "painters": {name: averaged([one for one in found if one[0] == name]) for name in every},
    }


def averaged(found: list[tuple[str, dict, dict]]) -> dict[str, float]:
    keys = ("auc", "auc_styles")
    return {key: float(np.average([a[key] for _, a, _ in found], weights=[w[key] for *_, w in found])) for key in keys}


def dealt(groups: np.ndarray) -> list[list[str]]:
    """Artists in up to three parts of about as many pictures each: the next largest goes to the smallest part."""
    counts = Counter(groups.tolist())
    parts: list[list[str]] = [[] for _ in range(min(PARTS, len(counts)))]
    for artist, _ in counts.most_common():
        min(parts, key=lambda part: sum(counts[one] for one in part)).append(artist)
    return parts


# ---- What it is worth


def aucs(scores: np.ndarray, kind: np.ndarray) -> dict[str, float]:
    """How often a painting scores above a photograph, and above a painting of another style."""
    return {
        name: float(mannwhitneyu(scores[kind == PAINTINGS], scores[kind == of]).statistic)
        / ((kind == PAINTINGS).sum() * (kind == of).sum())
        for name, of in (("auc", PHOTOGRAPHS), ("auc_styles", STYLES))
    }


def dosed(files: list[Path]) -> np.ndarray:
    """Statistics (photographs, doses, statistics) of photographs under more and more strokes."""
    pictures = [to_size(Image.open(file)) for file in files]
    rows = [[list(measure(haeberli(picture, dose)).values()) for dose in DOSES] for picture in pictures]
    return np.array(rows)


def trend(values: np.ndarray) -> float:
    """Mean over photographs of the Spearman correlation with the dose, for values (photographs, doses)."""
    return float(np.nan_to_num([spearmanr(DOSES, row).statistic for row in values]).mean())


def rounded(value):
    """Five digits are more than a picture tells."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def table(result: dict) -> str:
    rows = [(name, one["auc"], one["auc_styles"], one["dose"]) for name, one in result["statistics"].items()]
    index = result["index"]
    rows += [(f"index, without {name}", one["auc"], one["auc_styles"], "") for name, one in index["painters"].items()]
    rows += [("index, artists apart", index["auc"], index["auc_styles"], index["dose"])]
    head = f"{'':40}{'photographs':>12}{'styles':>8}{'dose':>8}"
    return "\n".join([head, *(f"{name[:38]:40}{a:12.3f}{b:8.3f}{d and format(d, '8.2f')}" for name, a, b, d in rows)])
