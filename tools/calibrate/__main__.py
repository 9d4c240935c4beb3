"""Fits the Impressionist index on real pictures and measures what it and each statistic are worth.

    python -m tools.calibrate --paintings FOLDER --styles FOLDER --photographs FOLDER

(about 25 minutes on one core). A folder holds pictures and a manifest.csv with the columns file, artist, genre and
source. It writes index.safetensors and calibration.json of impressionism.pictorial: numbers only, no picture.

Painters, and sources of photographs, are kept whole. A fifth of each kind is held back by a rule that looks at names
alone (`held_back`): no choice of layers, penalties or weights was made with them. The published figures are
theirs, from a fit without them; then the same recipe is fitted on everything, and that is what is shipped.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from safetensors.numpy import save_file
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu, spearmanr
from tqdm import tqdm

from impressionism.errors import UserError
from impressionism.pictorial import MODEL, STATISTICS, bent, distance, features, measure, score, statistics_of
from impressionism.pictorial.measures import to_size
from tools.calibrate.haeberli import haeberli
from tools.calibrate.negatives import NEGATIVES, from_lab, to_lab

KINDS = ("paintings", "styles", "photographs")
HELD_BACK = 1 / 5  # of each kind's pictures, at least
WEIGHTS = {"paintings": 0.5, "styles": 0.3, "photographs": 0.2, "spoiled": 0.5}  # of a kind in the fit
RIDGE = 0.1  # penalty on half the squared weights, against the mean loss of a picture
PENALTY = 4.0  # log odds lost for each unit of distance beyond the usual one
DOSES = (0.0, 0.25, 0.5, 0.75, 1.0)
DOSED = 8  # photographs that are painted over
DRAWS = 1000  # of painters, for an interval
TRIED: dict[str, dict[str, Any]] = {  # how the held-back photographs are spoiled to see what the index says of it
    "noise": {"deviation": 25}, "pure_noise": {}, "blotches": {"deviation": 10, "size": 3}, "shuffle": {"side": 28},
    "posterize": {"levels": 4}, "turn_hues": {"degrees": 180}, "negative": {}, "oil": {"radius": 4, "levels": 12},
    "kuwahara": {"radius": 4},
}  # fmt: skip


@dataclass(frozen=True)
class Labelled:
    """A picture of a manifest."""

    file: Path
    kind: str
    group: str
    """Its painter, or the source of a photograph: what is kept whole."""
    genre: str


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.calibrate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=MODEL.parent, help="folder for the two files")
    parser.add_argument("--workers", type=int, help="threads (default: one for each core)")
    parser.add_argument("--features", type=Path, help="a .npz file that keeps the features for another fit")
    arguments = parser.parse_args()
    folders = {kind: getattr(arguments, kind) for kind in KINDS}
    calibrate(folders, arguments.out, arguments.workers, arguments.features)


def calibrate(folders: dict[str, Path], out: Path, workers: int | None = None, kept: Path | None = None) -> None:
    pictures = [picture for kind in KINDS for picture in manifest(folders[kind], kind)]
    held = held_back(pictures)
    jobs = [(picture, change) for picture in pictures for change in changes_of(picture, picture.group in held)]
    if kept and kept.exists():
        values, doses = (np.load(kept)[name] for name in ("values", "doses"))
    else:
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            values = np.array(list(tqdm(pool.map(features_of, jobs), total=len(jobs), desc="features")))
            photographs = [picture.file for picture in pictures if picture.kind == "photographs"]
            doses = np.array(list(pool.map(dosed, photographs[:: max(1, len(photographs) // DOSED)])))
        if kept:
            np.savez(kept, values=values.astype(np.float32), doses=doses)
    sample = Sample(jobs, values, held)

    figures = judge(sample, fit(sample, ~sample.held & sample.fitted))
    plain = sample.change == "plain"
    result = {
        "statistics": statistics_figures(values[plain], sample.kind[plain], doses),
        "index": figures,
        "pictures": dict(Counter(picture.kind for picture in pictures)),
        "painters": dict(Counter(picture.group for picture in pictures if picture.kind == "paintings").most_common()),
        "held_back": sorted({picture.group for picture in pictures if picture.group in held}),
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file(fit(sample, sample.fitted), out / "index.safetensors")
    (out / "calibration.json").write_text(json.dumps(rounded(result), indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(rounded(figures), indent=1, ensure_ascii=False))


# ---- Pictures


def manifest(folder: Path, kind: str) -> list[Labelled]:
    path = folder / "manifest.csv"
    if not path.exists():
        raise UserError(f"There is no {path}: a CSV with the columns file, artist, genre and source.")
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or not {"file", "artist", "genre", "source"} <= set(rows[0]):
        raise UserError(f"{path} needs the columns file, artist, genre and source, and a row for each picture.")
    return [
        Labelled(folder / row["file"], kind, row["artist"] or row["source"] or row["file"], row["genre"])
        for row in rows
    ]


def held_back(pictures: list[Labelled]) -> set[str]:
    """Groups in the order of the SHA-256 of their names, until a fifth of each kind's pictures is held back; a source
    with more than a third of all photographs is passed over. A painter held back in one kind is held back in all."""
    held: set[str] = set()
    for kind in KINDS:
        counts = Counter(picture.group for picture in pictures if picture.kind == kind)
        taken = 0
        for group in sorted(counts, key=lambda group: hashlib.sha256(group.encode()).hexdigest()):
            if taken >= HELD_BACK * counts.total():
                break
            if kind == "photographs" and counts[group] > counts.total() / 3:
                continue
            held.add(group)
            taken += counts[group]
    return held


def changes_of(picture: Labelled, held: bool) -> list[str]:
    """What is done to a picture: names of `changed`. To fit with, and of those held back also to judge with."""
    rng = generator(picture, "choice")
    names = sorted(set(NEGATIVES) - (set() if picture.kind == "photographs" else {"saturate", "upscale"}))
    spoiled = rng.choice(names, 4 if picture.kind == "photographs" else 2, replace=False)
    tried = {"paintings": ["try noise"], "photographs": [f"try {name}" for name in TRIED]}.get(picture.kind, [])
    return ["plain", "photographed again", *spoiled, *(tried if held else [])]


def generator(picture: Labelled, change: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f"{change}|{picture.kind}|{picture.file.name}".encode()))


def features_of(job: tuple[Labelled, str]) -> np.ndarray:
    picture = changed(*job)
    return features(picture, statistics_of(picture))


def changed(picture: Labelled, change: str) -> np.ndarray:
    """A picture at 224 px after a change."""
    rng, pixels = generator(picture, change), np.asarray(Image.open(picture.file).convert("RGB"))
    if change == "plain":
        return to_size(pixels)
    if change == "photographed again":
        return to_size(photographed_again(pixels, rng))
    if change.startswith("try "):
        name = change.removeprefix("try ")
        return to_size(
            255 - to_size(pixels) if name == "negative" else NEGATIVES[name](to_size(pixels), rng, **TRIED[name])
        )
    if rng.random() < 0.6:
        pixels = to_size(pixels)
    if rng.random() < 0.3:
        pixels = photographed_again(pixels, rng)
    pixels = NEGATIVES[change](pixels, rng)
    return to_size(jpeg(pixels, rng.uniform(60, 95)) if rng.random() < 0.3 else pixels)


def photographed_again(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cropped, mirrored, scaled, compressed, with other light and colours: so that a source's ways decide nothing."""
    height, width = (int(size * rng.uniform(0.7, 1)) for size in pixels.shape[:2])
    top, left = (
        int(rng.integers(0, whole - part + 1)) for whole, part in zip(pixels.shape, (height, width), strict=False)
    )
    part = pixels[top : top + height, left : left + width]
    part = part[:, ::-1] if rng.random() < 0.5 else part
    scale = min(1.0, rng.uniform(190, 600) / min(height, width))
    part = cv2.resize(np.ascontiguousarray(part), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    lab = to_lab(jpeg(part, rng.uniform(45, 96)))
    lab[..., 1:] = lab[..., 1:] * rng.uniform(0.8, 1.2) + rng.normal(0, 2.5, 2)
    lab[..., 0] = 100 * (lab[..., 0].clip(0, 100) / 100) ** rng.uniform(0.85, 1.18)
    return from_lab(lab)


def jpeg(pixels: np.ndarray, quality: float) -> np.ndarray:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=int(quality))
    return np.asarray(Image.open(data).convert("RGB"))


# ---- The index


class Sample:
    """All features with what they are of, as arrays of one length."""

    def __init__(self, jobs: list[tuple[Labelled, str]], values: np.ndarray, held: set[str]) -> None:
        self.values = values
        self.change = np.array([change for _, change in jobs])
        self.picture_kind = np.array([picture.kind for picture, _ in jobs])
        self.whole = np.isin(self.change, ["plain", "photographed again"])
        self.kind = np.where(self.whole, self.picture_kind, "spoiled")
        self.group = np.array([picture.group for picture, _ in jobs])
        self.genre = np.array([picture.genre for picture, _ in jobs])
        self.file = np.array([str(picture.file) for picture, _ in jobs])
        self.held = np.isin(self.group, sorted(held))
        self.fitted = ~np.char.startswith(self.change, "try ")


def fit(sample: Sample, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Ridge logistic regression of paintings against all else, each kind with its weight; and what is usual."""
    values, kind = sample.values[mask], sample.kind[mask]
    weights = np.zeros(len(values))
    for name, share in WEIGHTS.items():
        weights[kind == name] = share / max(1, (kind == name).sum())
    weights /= weights.sum()
    painting = kind == "paintings"
    side = np.where(painting, 1, -1)
    low, high = np.full((2, values.shape[1]), [[-np.inf], [np.inf]])
    for place, statistic in enumerate(STATISTICS.values()):
        ends = np.quantile(values[painting, place], (0.05, 0.95))
        (high if statistic.impressionist > 0 else low)[place] = ends[1 if statistic.impressionist > 0 else 0]
    within = np.clip(values, low, high)
    mean = weights @ within
    scale = np.sqrt(weights @ (within - mean) ** 2) + 1e-6
    standard = bent((within - mean) / scale)

    def loss(p: np.ndarray) -> tuple[float, np.ndarray]:
        margin = side * (standard @ p[:-1] + p[-1])
        slope = -weights * side / (1 + np.exp(margin))
        return weights @ np.logaddexp(0, -margin) + RIDGE / 2 * p[:-1] @ p[:-1], np.append(
            standard.T @ slope + RIDGE * p[:-1], slope.sum()
        )

    found = minimize(loss, np.zeros(values.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    model = {
        "low": low, "high": high, "mean": mean, "scale": scale, "weight": found[:-1], "bias": found[-1],
        "centre": values[painting].mean(0), "spread": values[painting].std(0) + 1e-6, "penalty": np.array(PENALTY),
    }  # fmt: skip
    model["usual"] = np.quantile(distance(values[painting], model), 0.95)
    return {name: np.asarray(part, np.float32) for name, part in model.items()}


def judge(sample: Sample, model: dict[str, np.ndarray]) -> dict[str, Any]:
    """The figures of the held-back pictures under a model that was fitted without them."""
    odds = score(sample.values, model)
    index = 1 / (1 + np.exp(-odds))
    plain = sample.held & (sample.change == "plain")
    kinds = {kind: np.flatnonzero(plain & (sample.kind == kind)) for kind in KINDS}
    paintings, others = kinds["paintings"], {"auc": kinds["photographs"], "auc_styles": kinds["styles"]}
    median = float(np.median(index[paintings]))
    tried = {name: index[sample.held & (sample.change == f"try {name}")] for name in TRIED if name != "noise"}
    noisy = sample.held & (sample.change == "try noise")
    tried["noise"] = index[noisy & (sample.picture_kind == "photographs")]
    before = dict(zip(sample.file[paintings], index[paintings], strict=True))
    gains = [index[i] - before[sample.file[i]] for i in np.flatnonzero(noisy & (sample.picture_kind == "paintings"))]

    def by(labels: np.ndarray, of: np.ndarray) -> dict[str, dict[str, Any]]:
        """AUCs of the paintings of each label, for labels with five paintings or more."""
        counts = Counter(labels[paintings].tolist())
        return {
            label: {"n": n, **{k: auc(odds[paintings[labels[paintings] == label]], odds[o]) for k, o in of.items()}}
            for label, n in counts.most_common()
            if n >= 5
        }

    return {
        "pictures": {kind: len(places) for kind, places in kinds.items()},
        **{key: auc(odds[paintings], odds[other]) for key, other in others.items()},
        **{f"{key}_interval": auc_interval(odds, paintings, other, sample.group) for key, other in others.items()},
        "by_painter": by(sample.group, others),  # pyright: ignore[reportArgumentType]
        "by_genre": by(sample.genre, others),  # pyright: ignore[reportArgumentType]
        "mean": {kind: float(index[places].mean()) for kind, places in kinds.items()},
        "median_painting": median,
        "spoiled": {
            name: {"mean": float(values.mean()), "above_median_painting": float((values > median).mean())}
            for name, values in tried.items()
        },
        "noise_on_paintings": {"mean_change": float(np.mean(gains)), "gained": float(np.mean(np.array(gains) > 0.02))},
    }


def auc(more: np.ndarray, less: np.ndarray) -> float:
    """How often one of the first scores above one of the second."""
    return float(mannwhitneyu(more, less).statistic) / (len(more) * len(less))


def auc_interval(odds: np.ndarray, paintings: np.ndarray, others: np.ndarray, group: np.ndarray) -> list[float]:
    """95 % interval of the AUC, both sides' painters (or sources) drawn whole."""
    rng = np.random.default_rng(0)

    def drawn(places: np.ndarray) -> np.ndarray:
        names = np.unique(group[places])
        return np.concatenate([places[group[places] == name] for name in rng.choice(names, len(names))])

    values = [auc(odds[drawn(paintings)], odds[drawn(others)]) for _ in range(DRAWS)]
    return np.quantile(values, [0.025, 0.975]).tolist()


# ---- The statistics


def statistics_figures(values: np.ndarray, kind: np.ndarray, doses: np.ndarray) -> dict[str, dict[str, float]]:
    """AUCs, range of real paintings and answer to strokes; of all pictures, because nothing in them is fitted."""
    result = {}
    for place, (name, statistic) in enumerate(STATISTICS.items()):
        signed, real = statistic.impressionist * values[:, place], values[kind == "paintings", place]
        result[name] = {
            "auc": auc(signed[kind == "paintings"], signed[kind == "photographs"]),
            "auc_styles": auc(signed[kind == "paintings"], signed[kind == "styles"]),
            "low": float(np.quantile(real, 0.05)),
            "high": float(np.quantile(real, 0.95)),
            "dose": trend(statistic.impressionist * doses[..., place]),
        }
    return result


def dosed(file: Path) -> list[list[float]]:
    """Statistics of a photograph under more and more strokes, (doses, statistics)."""
    picture = to_size(Image.open(file))
    return [list(measure(haeberli(picture, dose)).values()) for dose in DOSES]


def trend(values: np.ndarray) -> float:
    """Mean over photographs of the Spearman correlation with the dose, for values (photographs, doses)."""
    return float(np.nan_to_num([spearmanr(DOSES, row).statistic for row in values]).mean())


def rounded(value: Any) -> Any:
    """Four digits are more than a picture tells."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
