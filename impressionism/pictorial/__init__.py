"""How Impressionist a picture is, from its pixels alone: one statistic a characteristic, and an index of all.

    measured = measure(picture)        # every statistic, by name
    index(measured)                    # 0 to 1; higher is more Impressionist
    heat(picture)                      # where it is so

Every picture is first brought to one size, 224 px on its short side, so that neither its resolution nor the camera's
sharpness decides.  measures.py has the formulas, known.py what each stands for and is worth, calibration.json the
numbers, which `python -m evaluation calibrate` makes anew.

Of Impressionism's characteristics two are not here: that a moment is caught and that a scene is candid cannot be told
from such statistics; ask people, or a model that sees what is depicted.
"""

import itertools

import numpy as np
from PIL import Image

from impressionism.pictorial.known import MEASURED, STATISTICS, SUPPORTING, Statistic
from impressionism.pictorial.measures import blur, stroke_statistic, to_lab, to_size

__all__ = ["EVERY", "STATISTICS", "SUPPORTING", "Statistic", "heat", "index", "measure", "stroke_statistic", "to_lab"]

EVERY = STATISTICS | SUPPORTING
WINDOW, STEP = 96, 32


def measure(image: np.ndarray | Image.Image) -> dict[str, float]:
    """Every statistic of a picture (uint8 RGB, or of PIL), by name: those of STATISTICS, then those of SUPPORTING."""
    return measure_lab(to_lab(to_size(image)))


def measure_lab(lab: np.ndarray) -> dict[str, float]:
    return {name: statistic.measure(lab) for name, statistic in EVERY.items()}


def index(measured: dict[str, float]) -> float:
    """How Impressionist, 0 to 1: rises with every statistic in its Impressionist direction.

    A logistic regression with no weight against a statistic's direction, on values standardised over real pictures
    and bent (3 tanh(z / 3)) so that one extreme value cannot decide.  0.5 is where an Impressionist painting and a
    picture that is none, photographs and other styles in equal parts, are equally likely.
    """
    model = MEASURED["index"]
    values = np.array([measured[name] for name in EVERY])
    standard = bent((values - column(model, "mean")) / column(model, "scale"))
    return float(1 / (1 + np.exp(-(standard @ column(model, "weight") + model["bias"]))))


def bent(standard: np.ndarray) -> np.ndarray:
    """What is far from ordinary counts less and less; calibration fits its weights to the same."""
    return 3 * np.tanh(standard / 3)


def column(model: dict, name: str) -> np.ndarray:
    return np.array([model[name][statistic] for statistic in EVERY])


def heat(image: np.ndarray | Image.Image) -> np.ndarray:
    """Where a picture is Impressionist, 0..1, (height, width) at 224 px on the short side.

    The mean index of the windows of 96 px that cover a pixel, 32 px apart, smoothed.  A window knows nothing of the
    rest of the picture, so a plain sky is nowhere Impressionist.
    """
    lab = to_lab(to_size(image))
    height, width = lab.shape[:2]
    total, windows = np.zeros((2, height, width), np.float32)
    tops, lefts = (np.linspace(0, n - WINDOW, 1 + round((n - WINDOW) / STEP)).astype(int) for n in (height, width))
    for top, left in itertools.product(tops, lefts):
        window = np.s_[top : top + WINDOW, left : left + WINDOW]
        total[window] += index(measure_lab(lab[window]))
        windows[window] += 1
    return blur(total / windows, STEP / 2)
