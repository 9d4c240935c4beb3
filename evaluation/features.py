"""From pictures to vectors, without a download: statistics, the index's network, composition, colours."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from impressionism.files import read_picture
from impressionism.pictorial import features, index_of, statistics_of, to_lab, to_size

VERSIONS, CROP = 12, 0.8  # of a training picture, in which copies are looked for; part of the sides
SIDE = 192  # pixels to which a picture is brought first, so that its size decides nothing


# ---- Without weights


def structure(lab: np.ndarray) -> np.ndarray:
    """(1024,): the lightness without brush strokes, blurred by a 24th of the picture, at 32 x 32."""
    return cv2.resize(cv2.GaussianBlur(lab[..., 0], (0, 0), SIDE / 24), (32, 32), interpolation=cv2.INTER_AREA).ravel()


def layout(lab: np.ndarray) -> np.ndarray:
    """(768,): where which colour is, L*a*b* at 16 x 16; a* and b* weigh as much as L*."""
    small = cv2.resize(lab, (16, 16), interpolation=cv2.INTER_AREA) - (50, 0, 0)
    return (small * (1, 1.5, 1.5)).astype(np.float32).ravel()


def palette(lab: np.ndarray) -> np.ndarray:
    """(180,): how much of which colour there is: square roots of the shares of 5 x 6 x 6 bins of L*a*b*."""
    ranges = ((0, 100), (-60, 60), (-60, 60))
    inside = np.clip(lab.reshape(-1, 3), [low for low, _ in ranges], [high for _, high in ranges])
    counts, _ = np.histogramdd(inside, bins=(5, 6, 6), range=ranges)
    return np.sqrt(counts / counts.sum()).ravel()


WEIGHTLESS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "structure": structure,
    "layout": layout,
    "palette": palette,
}


def measure_file(file: Path) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """A picture's statistics with `index`, and its vectors that need no download."""
    pixels = np.asarray(read_picture(file))
    picture = to_size(pixels)
    statistics = statistics_of(picture)
    values = features(picture, statistics)
    vectors = {name: function(small_lab(pixels)) for name, function in WEIGHTLESS.items()}
    vectors |= {"pictorial": values[: len(statistics)], "network": values[len(statistics) :]}
    return {**statistics, "index": index_of(values)}, vectors


def measure_files(files: Sequence[Path]) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
    """The same of many, on all cores: a dict for each picture, and (pictures, d) by the vector's name."""
    measured = in_parallel(measure_file, files)
    statistics = [values for values, _ in measured]
    return statistics, {name: np.stack([vectors[name] for _, vectors in measured]) for name in measured[0][1]}


def in_parallel(function: Callable[[Path], Any], files: Sequence[Path], title: str = "") -> list[Any]:
    """A result for each file, on all cores; with a title, progress is shown."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV and PyTorch let other threads run
        return list(tqdm(pool.map(function, files), title, len(files), disable=not title))


def small_lab(pixels: np.ndarray) -> np.ndarray:
    return to_lab(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def layouts(file: Path) -> np.ndarray:
    """(VERSIONS, 768): the layout of a picture, of its middle and its four corners, each mirrored too, so that a copy
    is found when it was mirrored or cropped."""
    pixels = np.asarray(read_picture(file))
    height, width = pixels.shape[:2]
    tall, wide = round(CROP * height), round(CROP * width)
    corners = [(0, 0), (0, width - wide), (height - tall, 0), (height - tall, width - wide)]
    corners.append(((height - tall) // 2, (width - wide) // 2))
    parts = [pixels, *(pixels[top : top + tall, left : left + wide] for top, left in corners)]
    labs = [small_lab(np.ascontiguousarray(part)) for part in parts]
    return np.stack([layout(lab) for whole in labs for lab in (whole, np.ascontiguousarray(whole[:, ::-1]))])
