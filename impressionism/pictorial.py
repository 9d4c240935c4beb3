"""How Impressionist a picture is, from its pixels alone: one function a characteristic, and an index of all.

    measured = measure(picture)        # every statistic, by name
    index(measured)                    # 0 to 1; higher is more Impressionist
    heat(picture)                      # where it is so

Every picture is first brought to one size, 224 pixels on its short side, so that neither its resolution nor the
camera's sharpness decides.  What a statistic is worth is in `STATISTICS`; `python -m evaluation calibrate` measures it.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIDE = 224
CALIBRATION = Path(__file__).with_suffix(".json")


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """What is known of one statistic."""

    label: str
    """The characteristic of Impressionism that it stands for."""
    unit: str
    higher: str
    """What a higher value means."""
    impressionist: int
    """+1 where Impressionist paintings have more of it, -1 where they have less."""
    auc: float
    """How often an Impressionist painting is on its side of a photograph: 0.5 is chance."""
    auc_styles: float
    """The same against paintings of other styles."""
    exploratory: bool
    """Under 0.65 against both: shown, but not relied upon."""
    failure: str
    """What is known to mislead it."""


def to_lab(image: np.ndarray) -> np.ndarray:
    """CIELAB (L* 0..100) as float32."""
    return cv2.cvtColor(np.ascontiguousarray(image, np.uint8).astype(np.float32) / 255, cv2.COLOR_RGB2Lab)


def stroke_statistic(image: np.ndarray) -> float:
    """How visible the strokes are: lowest decile of 16-px tiles of sqrt(mean(|G1*I - G4*I|^2)), I in CIELAB.

    G1 and G4 are Gaussians of 1 and 4 pixels; the mean is a tile's, the square sums L*, a* and b*.
    The unit is that of CIELAB (a delta E of 1976).  The lowest decile, because strokes are everywhere whereas
    the edges of a drawing are not.
    """
    return float(np.percentile(np.sqrt(tiles(squares(band(to_lab(image), 1, 4)), 16)), 10))


def blur(channels: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(channels, (0, 0), sigma)


def band(channels: np.ndarray, fine: float, coarse: float) -> np.ndarray:
    """What lies between two scales: G_fine*I - G_coarse*I."""
    return blur(channels, fine) - blur(channels, coarse)


def squares(channels: np.ndarray) -> np.ndarray:
    return np.square(channels if channels.ndim == 2 else np.linalg.norm(channels, axis=-1))


def tiles(values: np.ndarray, side: int) -> np.ndarray:
    """Means over whole tiles of side x side pixels."""
    height, width = (n // side * side for n in values.shape[:2])
    shape = (height // side, side, width // side, side, *values.shape[2:])
    return values[:height, :width].reshape(shape).mean(axis=(1, 3))


def to_size(image: np.ndarray | Image.Image) -> np.ndarray:
    """uint8 RGB with a short side of 224 pixels, by area averages: the size at which everything is measured."""
    pixels = np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else image
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"A picture is uint8 RGB, (height, width, 3); this is {pixels.dtype} {pixels.shape}.")
    height, width = pixels.shape[:2]
    scale = SIDE / min(height, width)
    if scale == 1:
        return pixels
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(pixels, (round(width * scale), round(height * scale)), interpolation=way)


def strokes(lab: np.ndarray) -> float:
    """Short strokes: how soon orientation changes, 1 - sum(w w' cos 2(t - t')) / sum(w w') at 4 px (0..1).

    t and w are the angle and the magnitude of the structure tensor of L* (sigma 1).
    """
    light = lab[..., 0]
    gx, gy = cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1)
    even, odd = blur(gx * gx - gy * gy, 1), blur(2 * gx * gy, 1)
    weight = np.sqrt(np.maximum(blur(gx * gx + gy * gy, 1), 1e-6))
    angle = np.arctan2(odd, even)
    u, v = weight * np.cos(angle), weight * np.sin(angle)
    pairs = [(np.s_[:, 4:], np.s_[:, :-4]), (np.s_[4:], np.s_[:-4])]
    same = sum((u[a] * u[b] + v[a] * v[b]).sum() for a, b in pairs)
    return float(1 - same / sum((weight[a] * weight[b]).sum() for a, b in pairs))


def broken_colour(lab: np.ndarray) -> float:
    """Broken colour: median over 8-px tiles of the a*b* band of 1.5 to 5 px, against that of L* and the chroma."""
    change = np.sqrt(tiles(squares(band(lab[..., 1:], 1.5, 5)), 8))
    light = np.sqrt(tiles(squares(band(lab[..., 0], 1.5, 5)), 8))
    chroma = tiles(np.linalg.norm(lab[..., 1:], axis=-1), 8)
    return float(np.median(change / np.sqrt((light + 1) * (chroma + 4))))


def pure_colours(lab: np.ndarray) -> float:
    """Pure colours side by side: the share of chroma that is lost when the eye blends a tile of 12 px."""
    colour = blur(lab[..., 1:], 1)
    pure = tiles(np.linalg.norm(colour, axis=-1), 12)
    return float(np.median((pure - np.linalg.norm(tiles(colour, 12), axis=-1)) / (pure + 4)))


def light(lab: np.ndarray) -> float:
    """Light: the mean of L* (0..100)."""
    return float(lab[..., 0].mean())


def black(lab: np.ndarray) -> float:
    """Black: the share of pixels with L* under 25 and chroma under 10."""
    return float(((lab[..., 0] < 25) & (np.linalg.norm(lab[..., 1:], axis=-1) < 10)).mean())


def coloured_shadows(lab: np.ndarray) -> float:
    """Coloured shadows: the share of cool chroma in the darkest quarter less that in the lightest (-1..1)."""
    soft = blur(lab, 2.5)
    chroma = np.linalg.norm(soft[..., 1:], axis=-1)
    hue = np.degrees(np.arctan2(soft[..., 2], soft[..., 1])) % 360
    cool = chroma * ((hue > 180) & (hue < 330))
    low, high = np.percentile(soft[..., 0], [25, 75])
    dark, bright = soft[..., 0] <= low, soft[..., 0] >= high
    return float(cool[dark].sum() / (chroma[dark].sum() + 1) - cool[bright].sum() / (chroma[bright].sum() + 1))


def effect(lab: np.ndarray) -> float:
    """Effect over detail: evenness, 1 - Gini of the RMS of L* between 0.7 and 2.5 px over 8-px tiles (0..1)."""
    rms = np.sort(np.sqrt(tiles(squares(band(lab[..., 0], 0.7, 2.5)), 8)).ravel())
    rank = np.arange(1, len(rms) + 1)
    return float(1 - ((2 * rank - len(rms) - 1) * rms).sum() / (len(rms) * rms.sum() + 1e-6))


MEASURES = {
    "strokes": strokes,
    "broken_colour": broken_colour,
    "pure_colours": pure_colours,
    "light": light,
    "black": black,
    "coloured_shadows": coloured_shadows,
    "effect": effect,
}


@functools.cache
def calibration() -> dict:
    return json.loads(CALIBRATION.read_text())


STATISTICS = {name: Statistic(**known) for name, known in calibration()["statistics"].items()}


def measure(image: np.ndarray | Image.Image) -> dict[str, float]:
    """Every statistic of a picture, by name."""
    lab = to_lab(to_size(image))
    return {name: function(lab) for name, function in MEASURES.items()}


def index(measured: dict[str, float]) -> float:
    """How Impressionist: 0 to 1, calibrated on paintings against photographs and other styles."""
    model = calibration()["index"]
    values = np.array([measured[name] for name in model["names"]])
    standard = np.clip((values - model["mean"]) / model["scale"], -3, 3)
    return float(1 / (1 + np.exp(-(standard @ np.array(model["weights"]) + model["bias"]))))


def heat(image: np.ndarray | Image.Image) -> np.ndarray:
    """Where a picture is Impressionist, 0..1 at 224 px on the short side: the index of windows of 64 px, smoothed."""
    pixels = to_size(image)
    height, width = pixels.shape[:2]
    window, step = 96, 32
    tops, lefts = (sorted({*range(0, n - window, step), n - window}) for n in (height, width))
    grid = np.array(
        [[index_of(to_lab(pixels[top : top + window, left : left + window])) for left in lefts] for top in tops]
    )
    return np.clip(cv2.resize(grid.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def index_of(lab: np.ndarray) -> float:
    return index({name: function(lab) for name, function in MEASURES.items()})
