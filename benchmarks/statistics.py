"""What the Impressionist index is worth:

    python -m benchmarks.statistics --paintings FOLDER --styles FOLDER --photographs FOLDER

(about 8 minutes on two CPU cores; a folder has pictures and a manifest.csv, as for `python -m tools.calibrate`) writes
statistics.json.

(a) On painters and sources that no choice has seen, at 224 px: AUC against photographs (>= 0.95) and against paintings
    of other styles (>= 0.85), for each painter (>= 0.88) and genre (>= 0.85) against photographs; photographs spoiled
    on purpose stay under 0.4 in the mean. These figures are the calibration's own.
(b) The ranking of pictures stays under JPEG quality 50, slight blur, sensor noise and saturation 20 % down and up
    (Spearman >= 0.9), and photographs do not become paintings when they alone are so changed (AUC).
(c) It takes <= 0.3 s a picture on one core.
"""

import argparse
import csv
import io
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from scipy.stats import mannwhitneyu, spearmanr
from tqdm import tqdm

from benchmarks.measure import markdown, marked, surroundings
from impressionism.pictorial import CALIBRATION, index, measure
from impressionism.pictorial.measures import to_size

HERE = Path(__file__).parent
KINDS = ("paintings", "styles", "photographs")


# ---- What may happen to a picture at 224 px


def jpeg(picture: np.ndarray) -> np.ndarray:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=50)
    return np.asarray(Image.open(data))


def noise(picture: np.ndarray) -> np.ndarray:
    """5 grey levels of standard deviation, in each channel by itself."""
    grain = np.random.default_rng(0).normal(0, 5, picture.shape)
    return (picture + grain + 0.5).clip(0, 255).astype(np.uint8)


def saturation(picture: np.ndarray, factor: float) -> np.ndarray:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    return (grey + factor * (picture - grey) + 0.5).clip(0, 255).astype(np.uint8)


def resampled(picture: np.ndarray) -> np.ndarray:
    smaller = cv2.resize(picture, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    return cv2.resize(smaller, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC)


def sharpened(picture: np.ndarray) -> np.ndarray:
    return cv2.addWeighted(picture, 1.5, cv2.GaussianBlur(picture, (0, 0), 1), -0.5, 0)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "jpeg_50": jpeg,
    "blur_0.8_px": lambda picture: cv2.GaussianBlur(picture, (0, 0), 0.8),
    "noise_5_levels": noise,
    "saturation_0.8": lambda picture: saturation(picture, 0.8),
    "saturation_1.2": lambda picture: saturation(picture, 1.2),
    "resampled_0.75": resampled,
    "sharpened": sharpened,
    "warmer": lambda picture: (picture * np.array([1.06, 1.0, 0.94])).clip(0, 255).astype(np.uint8),
}


def indices(file: Path) -> list[float]:
    """Index of a picture as it is, then after each change."""
    picture = to_size(Image.open(file))
    return [index(one) for one in (picture, *(change(picture) for change in CHANGES.values()))]


# ---- The claims


def pictures_of(folder: Path) -> list[Path]:
    with (folder / "manifest.csv").open(newline="") as stream:
        return [folder / row["file"] for row in csv.DictReader(stream)]


def discrimination() -> dict:
    """(a)"""
    figures = CALIBRATION["index"]
    least_painter = min(one["auc"] for one in figures["by_painter"].values())
    least_genre = min(one["auc"] for one in figures["by_genre"].values())
    most_spoiled = max(one["mean"] for one in figures["spoiled"].values())
    return {
        **figures,
        "least_painter": least_painter,
        "least_genre": least_genre,
        "most_spoiled": most_spoiled,
        "statistics": CALIBRATION["statistics"],
        "reached": figures["auc"] >= 0.95 and figures["auc_styles"] >= 0.85 and least_painter >= 0.88
        and least_genre >= 0.85 and most_spoiled < 0.4,
    }  # fmt: skip


def robustness(folders: dict[str, Path], every: int) -> dict:
    """(b)"""
    files = {kind: pictures_of(folders[kind])[::every] for kind in KINDS}
    listed = [file for kind in KINDS for file in files[kind]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(tqdm(pool.map(indices, listed), total=len(listed), desc="changes"))
    before, *after = np.array(rows).T
    paintings, photographs = before[: len(files["paintings"])], slice(-len(files["photographs"]), None)
    changes = {
        name: {
            "spearman": round(float(spearmanr(before, values).statistic), 4),
            "auc_if_photographs_alone": round(auc(paintings, values[photographs]), 4),
        }
        for name, values in zip(CHANGES, after, strict=True)
    }
    least = min(one["spearman"] for one in changes.values())
    unchanged = round(auc(paintings, before[photographs]), 4)
    return {"pictures": len(listed), "auc_fitted": unchanged, "changes": changes, "reached": least >= 0.9}


def auc(more: np.ndarray, less: np.ndarray) -> float:
    return float(mannwhitneyu(more, less).statistic) / (len(more) * len(less))


def speed(files: list[Path]) -> dict:
    """(c), reading the file included; seconds of the one core that was used."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    index(Image.open(files[0]))  # loads what is loaded once
    seconds = {
        "index": seconds_each(lambda file: index(Image.open(file)), files),
        "statistics": seconds_each(lambda file: measure(Image.open(file)), files),
    }
    return {"pictures": len(files), "seconds": seconds, "reached": seconds["index"] <= 0.3}


def seconds_each(what: Callable[[Path], object], files: list[Path]) -> float:
    start = time.process_time()
    for file in files:
        what(file)
    return round((time.process_time() - start) / len(files), 4)


def table(result: dict) -> str:
    """The figures as a page shows them."""
    a, b, c = (result[key] for key in sorted(result) if key[1] == "_")
    least = min(one["spearman"] for one in b["changes"].values())
    interval = {key: " to ".join(f"{end:.2f}" for end in a[f"{key}_interval"]) for key in ("auc", "auc_styles")}
    photographs, styles = a["auc"], a["auc_styles"]
    rows = [
        ("tells unseen painters from photographs (AUC, 95 % interval over painters)",
         f"{photographs:.3f} ({interval['auc']})", "≥ 0.95", photographs >= 0.95),
        ("and from painters of other styles", f"{styles:.3f} ({interval['auc_styles']})", "≥ 0.85", styles >= 0.85),
        ("the hardest painter, against photographs", f"{a['least_painter']:.3f}", "≥ 0.88", a["least_painter"] >= 0.88),
        ("the hardest genre, against photographs", f"{a['least_genre']:.3f}", "≥ 0.85", a["least_genre"] >= 0.85),
        ("mean index of photographs spoiled in nine ways, the highest", f"{a['most_spoiled']:.2f}", "< 0.4",
         a["most_spoiled"] < 0.4),
        ("ranking kept under JPEG, blur, noise, saturation", f"{least:.3f}", "≥ 0.9", b["reached"]),
        ("a picture, on one core", f"{c['seconds']['index']:.2f} s", "≤ 0.3 s", c["reached"]),
    ]  # fmt: skip
    lines = ((claim, found, marked(asked, reached)) for claim, found, asked, reached in rows)
    return markdown(["The Impressionist index", "measured", "target"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.statistics", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=Path, required=True)
    parser.add_argument("--every", type=int, default=2, help="of the pictures for (b), take every so many")
    parser.add_argument("--out", type=Path, default=HERE / "statistics.json")
    arguments = parser.parse_args()

    folders = {kind: getattr(arguments, kind) for kind in KINDS}
    result = {
        "a_discrimination": discrimination(),
        "b_robustness": robustness(folders, arguments.every),
        "c_speed": speed(pictures_of(folders["paintings"])[:20]),
        **surroundings("", ("numpy", "torch", "opencv-python-headless", "scikit-image")),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
