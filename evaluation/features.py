"""From pictures to vectors. Some need no weights; the learned ones come from the Hub, or say why they do not."""

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from impressionism.paint import open_image
from impressionism.pictorial import index, measure, to_lab

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


def look(file: Path) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """A picture's statistics with `index`, and its vectors that need no weights."""
    pixels = np.asarray(open_image(file).convert("RGB"))
    values = measure(pixels)
    lab = to_lab(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    return {**values, "index": index(values)}, {name: function(lab) for name, function in WEIGHTLESS.items()}


def look_at(files: Iterable[Path]) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
    """The same of many, on all cores: a dict a picture, and (pictures, d) by the vector's name."""
    with ProcessPoolExecutor() as pool:
        seen = list(pool.map(look, files, chunksize=4))
    statistics = [values for values, _ in seen]
    vectors = {name: np.stack([found[name] for _, found in seen]) for name in WEIGHTLESS}
    vectors["pictorial"] = np.array([[value for name, value in one.items() if name != "index"] for one in statistics])
    return statistics, vectors
