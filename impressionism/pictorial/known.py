"""What is known of each statistic: words here, numbers from `python -m evaluation calibrate` in calibration.json."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from impressionism.pictorial import measures

CALIBRATION = Path(__file__).with_name("calibration.json")
MEASURED = json.loads(CALIBRATION.read_text())


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
MORE_WORDS = {
    "dabs": {
        "label": "Dabs rather than lines",
        "higher": "What bends, bends both ways: spots and dabs rather than edges and lines.",
        "failure": "Noise; pebbles, leaves.",
    },
    "free_colour": {
        "label": "Colour free of drawing",
        "higher": "Colour changes along other directions than light does.",
        "failure": "Nearly grey pictures, whose colour is noise and compression.",
    },
    "even_colour": {
        "label": "Colour broken everywhere",
        "higher": "Changes of colour are spread evenly over the picture.",
        "failure": "A flat or grey picture has nothing to spread; a texture that fills a photograph.",
    },
    "fine_colour": {
        "label": "Small touches of colour",
        "unit": "ln",
        "higher": "Colour changes in touches rather than in patches.",
        "failure": "A photograph's fine coloured texture.",
    },
    "red_and_green": {
        "label": "Quiet reds and greens",
        "unit": "a*",
        "higher": "Reds and greens stand out more.",
        "impressionist": -1,
        "failure": "Grows with saturation; poppies, dresses and flags.",
    },
    "leaf_green": {
        "label": "No photographic green",
        "unit": "% of chroma",
        "higher": "More of the colour is the green of foliage before a camera.",
        "impressionist": -1,
        "failure": "Says nothing where nothing grows; lily ponds.",
    },
}


def known(words: dict[str, dict]) -> dict[str, Statistic]:
    return {
        name: Statistic(measure=getattr(measures, name), **said, **MEASURED["statistics"].get(name, {}))
        for name, said in words.items()
    }


STATISTICS = known(WORDS)
"""One a characteristic."""
SUPPORTING = known(MORE_WORDS)
"""What the index looks at besides."""
