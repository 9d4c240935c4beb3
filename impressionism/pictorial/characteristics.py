"""What each statistic stands for. The words are here; the numbers in calibration.json come from `python -m
tools.calibrate`."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from impressionism.pictorial import measures

CALIBRATION: dict[str, Any] = json.loads(Path(__file__).with_name("calibration.json").read_text())
"""What was measured of the statistics and of the index, on which pictures, by which painters."""


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """One statistic, what it stands for and what it is worth."""

    label: str
    """The characteristic of Impressionism that it stands for."""
    measure: Callable[[np.ndarray], float]
    """The formula, of CIELAB at 224 px; its docstring has unit and source."""
    unit: str = ""
    higher: str
    """What a higher value means."""
    impressionist: int = 1
    """+1 where Impressionist paintings have more of it, -1 where they have less."""
    failure: str
    """What is known to mislead it."""
    auc: float = math.nan
    """How often an Impressionist painting is on its side of a photograph: 0.5 is chance."""
    auc_styles: float = math.nan
    """The same against paintings of other styles."""
    low: float = math.nan
    """5% of real paintings have less."""
    high: float = math.nan
    """5% of real paintings have more."""
    dose: float = math.nan
    """Spearman correlation, towards `impressionist`, with the dose of strokes laid over photographs by a renderer."""

    @property
    def exploratory(self) -> bool:
        """Under 0.65 against photographs and other styles, half each: shown, but not to be relied upon."""
        return not (self.auc + self.auc_styles) / 2 >= 0.65  # not a number either: not measured yet


WORDS = {
    "strokes": {
        "label": "Short, visible strokes",
        "higher": "Orientation changes sooner: touches are shorter and cross each other.",
        "failure": "Foliage, gravel and noise in photographs look like touches; long parallel strokes do not.",
    },
    "broken_colour": {
        "label": "Broken colour",
        "higher": "Colour changes more from a touch to its neighbour, beyond what light and saturation explain.",
        "failure": "Does not tell Impressionists from later painters who broke colour too; JPEG thins its colour out.",
    },
    "pure_colours": {
        "label": "Pure colours side by side",
        "unit": "‰ of chroma",
        "higher": "More chroma is lost when the eye blends neighbouring touches.",
        "failure": "Says nothing about other painters' styles; grows with the noise of a camera's colour.",
    },
    "light": {
        "label": "Emphasis on light",
        "unit": "L*",
        "higher": "The picture is lighter.",
        "failure": "Over-exposed photographs and white backgrounds; a dark varnish or scan; night scenes.",
    },
    "black": {
        "label": "Avoidance of black",
        "unit": "% of the picture",
        "higher": "More of the picture is nearly black.",
        "impressionist": -1,
        "failure": "Photographs without deep shadows have none either; dark scans of light paintings have some.",
    },
    "coloured_shadows": {
        "label": "Coloured shadows",
        "higher": "Shadows are as colourful as the rest of the picture, or more so.",
        "failure": "Dark objects that are colourful themselves; underexposed skies.",
    },
    "effect": {
        "label": "Effect over detail",
        "higher": "Every part resembles the whole: no part is finished more than another.",
        "failure": "Textures that fill a photograph (grass, sand, crowds) are alike everywhere too.",
    },
}
STATISTICS = {
    name: Statistic(measure=getattr(measures, name), **words, **CALIBRATION["statistics"].get(name, {}))
    for name, words in WORDS.items()
}
"""One for each characteristic, by name."""
