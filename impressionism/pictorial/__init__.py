"""How Impressionist a picture is, from its pixels alone.

    index(picture)           # 0 to 1; higher is more Impressionist
    measure(picture)         # one readable statistic for each of seven characteristics, by name
    assess(picture)          # both, a little faster than one after the other

The index judges: a logistic model of the statistics and of a small pretrained network (network.py), fitted on real
paintings, paintings of other styles, photographs, and pictures spoiled on purpose. The statistics explain: each has a
formula (measures.py), a meaning and the range of real paintings (characteristics.py). Every picture is first brought to
224 px on its short side, so that neither its resolution nor a camera's sharpness decides. calibration.json says how
well all this works on painters that were not used to choose it; `python -m tools.calibrate` makes it anew.

Two characteristics of Impressionism are missing: pixels do not tell whether a moment was caught and whether a scene is
candid. Ask people, or a model that understands what is depicted.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from impressionism.pictorial.characteristics import CALIBRATION, STATISTICS, Statistic
from impressionism.pictorial.measures import blur, stroke_statistic, to_lab, to_size

__all__ = ["CALIBRATION", "STATISTICS", "Assessment", "Statistic", "assess", "blur", "index", "measure"]
__all__ += ["stroke_statistic", "to_lab"]

MODEL = Path(__file__).with_name("index.safetensors")


class Assessment(NamedTuple):
    statistics: dict[str, float]
    """By the names in STATISTICS."""
    index: float
    """0 to 1."""


def measure(image: np.ndarray | Image.Image) -> dict[str, float]:
    """The statistics of a picture (PIL, or uint8 RGB of shape (height, width, 3)) by name."""
    return statistics_of(to_size(image))


def index(image: np.ndarray | Image.Image) -> float:
    """How Impressionist a picture is, 0 to 1; 0.5 is where a real Impressionist painting and anything else are equally
    likely, if half of all pictures are paintings by Impressionists."""
    return assess(image).index


def assess(image: np.ndarray | Image.Image) -> Assessment:
    """A picture's statistics and its index."""
    picture = to_size(image)
    statistics = statistics_of(picture)
    return Assessment(statistics, index_of(features(picture, statistics)))


def statistics_of(picture: np.ndarray) -> dict[str, float]:
    lab = to_lab(picture)
    return {name: statistic.measure(lab) for name, statistic in STATISTICS.items()}


# ---- The model of the index


def features(picture: np.ndarray, statistics: dict[str, float]) -> np.ndarray:
    """What the model looks at, (615,): the statistics, then the network's description of a picture of 224 px."""
    from impressionism.pictorial.network import describe  # brings torch, which the statistics do without

    return np.concatenate([list(statistics.values()), describe(picture)])


def index_of(values: np.ndarray) -> float:
    """The index of a picture's features (615,)."""
    return float(1 / (1 + np.exp(-score(values, model()))))


def score(values: np.ndarray, model: dict[str, np.ndarray]) -> np.ndarray:
    """Log odds of features (..., 615): a linear model, less a penalty for what is unlike every real painting.

    A statistic beyond the range of real paintings counts as its end: more than they have makes no picture more
    Impressionist. Features are standardised and bent (3 tanh(z / 3)), so that one extreme value cannot decide. The
    penalty grows with the root mean square distance from the mean painting, beyond the distance that 95% of real
    paintings stay within.
    """
    within = np.clip(values, model["low"], model["high"])
    linear = bent((within - model["mean"]) / model["scale"]) @ model["weight"] + model["bias"]
    return linear - model["penalty"] * np.maximum(0, distance(values, model) - model["usual"])


def distance(values: np.ndarray, model: dict[str, np.ndarray]) -> np.ndarray:
    """Root mean square, over features, of the distance from the mean painting in units of the paintings' spread."""
    return np.sqrt(np.square(bent((values - model["centre"]) / model["spread"])).mean(-1))


def bent(standard: np.ndarray) -> np.ndarray:
    return 3 * np.tanh(standard / 3)


@functools.cache
def model() -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(MODEL)
