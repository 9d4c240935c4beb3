"""The formulas: one function a statistic, from CIELAB (height, width, 3) at 224 px to a number.

They look at bands between 1.2 and 7 pixels of that size, never at the finest grain, where a camera's noise, its
sharpness and JPEG live.  Differences of L*, a* and b* are divided by their own kind, so that contrast and saturation
cancel.  Sizes are pixels, G_s is a Gaussian of s pixels, and a constant in a denominator keeps grey or flat tiles
from dividing by nothing.
"""

import cv2
import numpy as np
from PIL import Image
from skimage import feature  # loads its functions when they are first called

from impressionism.errors import UserError

SIDE = 224


def to_size(image: np.ndarray | Image.Image) -> np.ndarray:
    """uint8 RGB with a short side of 224 px, by area averages: everything is measured at this size."""
    pixels = np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else image
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise UserError(f"A picture is uint8 RGB, (height, width, 3); this is {pixels.dtype} {pixels.shape}.")
    height, width = pixels.shape[:2]
    scale = SIDE / min(height, width)
    if scale == 1:
        return pixels
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(pixels, (round(width * scale), round(height * scale)), interpolation=way)


def to_lab(image: np.ndarray) -> np.ndarray:
    """CIELAB (L* 0..100) as float32."""
    return cv2.cvtColor(np.ascontiguousarray(image, np.uint8).astype(np.float32) / 255, cv2.COLOR_RGB2Lab)


# ---- What the formulas are made of


def blur(channels: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(channels, (0, 0), sigma)


def band(channels: np.ndarray, fine: float, coarse: float) -> np.ndarray:
    """What lies between two scales: G_fine*I - G_coarse*I."""
    return blur(channels, fine) - blur(channels, coarse)


def length(channels: np.ndarray) -> np.ndarray:
    """Length of the vectors along the last axis."""
    return np.linalg.norm(channels, axis=-1)


def tiles(values: np.ndarray, side: int) -> np.ndarray:
    """Means over whole tiles of side x side pixels."""
    height, width = (n // side * side for n in values.shape[:2])
    shape = (height // side, side, width // side, side, *values.shape[2:])
    return values[:height, :width].reshape(shape).mean(axis=(1, 3))


def tile_rms(channels: np.ndarray, fine: float, coarse: float, side: int = 8) -> np.ndarray:
    """RMS of a band, of a*b* as vectors, over tiles of side x side pixels."""
    inside = band(channels, fine, coarse)
    return np.sqrt(tiles(np.square(inside if inside.ndim == 2 else length(inside)), side))


def share_under(values: np.ndarray, limit: float, softness: float) -> np.ndarray:
    """1 well under the limit, 0 well over it, a logistic curve between, so that a little noise changes little."""
    return 1 / (1 + np.exp((values - limit) / softness))


def structure(channels: np.ndarray, fine: float, around: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Structure tensor (Bigün; Förstner) as its trace, and cos and sin of the double angle times its anisotropy.

    Derivatives are taken after G_fine, summed over channels and averaged with G_around.
    """
    soft = blur(channels, fine)
    x, y = (cv2.Sobel(soft, cv2.CV_32F, *way).reshape(*soft.shape[:2], -1) for way in ((1, 0), (0, 1)))
    products = np.stack([(x * x + y * y).sum(-1), (x * x - y * y).sum(-1), 2 * (x * y).sum(-1)], axis=-1)
    return tuple(np.moveaxis(blur(products, around), -1, 0))


# ---- The seven characteristics


def strokes(lab: np.ndarray) -> float:
    """Short, visible strokes: 1 - coherence of the structure tensor of L* (after G_1, within G_1.5), 0..1.

    Coherence is |l1 - l2| / (l1 + l2) of its eigenvalues, averaged with weight sqrt(l1 + l2).  Along a clean contour
    it is 1; where short touches cross and overlap it falls.  After Li, Yao, Hendriks and Wang, TPAMI 2012, whose
    own measures need each stroke to be segmented.
    """
    total, even, odd = structure(lab[..., 0], 1.0, 1.5)
    weight = np.sqrt(total)
    return float((weight * (1 - np.hypot(even, odd) / (total + 1))).sum() / (weight.sum() + 1))


def broken_colour(lab: np.ndarray) -> float:
    """Broken colour: median over 8-px tiles of RMS(B(a*, b*)) / sqrt((RMS(B(L*)) + 1) (mean C + 4)).

    B is the band of 1.4 to 2.4 px: a touch and its neighbour.  Divided by light's own change and by chroma, because
    the plain ratio grows with saturation and noise.
    """
    colour, light = tile_rms(lab[..., 1:], 1.4, 2.4), tile_rms(lab[..., 0], 1.4, 2.4)
    chroma = tiles(length(blur(lab[..., 1:], 2.5)), 8)
    return float(np.median(colour / np.sqrt((light + 1) * (chroma + 4))))


def pure_colours(lab: np.ndarray) -> float:
    """Pure colours side by side: the share of chroma lost when the eye blends an 8-px tile, in per mille.

    Median of (mean |c| - |mean c|) / (mean |c| + 4), c = (a*, b*) after G_1.2; from the definition of optical
    mixture (Chevreul; Rood).  0 for mixed paint, 1000 for complementary touches.
    """
    colour = blur(lab[..., 1:], 1.2)
    pure = tiles(length(colour), 8)
    return float(1000 * np.median((pure - length(tiles(colour, 8))) / (pure + 4)))


def light(lab: np.ndarray) -> float:
    """Light: the mean of L*, 0..100.  After the Aesthetics Toolbox's (Redies et al.) lightness."""
    return float(lab[..., 0].mean())


def black(lab: np.ndarray) -> float:
    """Black: the share of pixels darker than L* 25 and greyer than chroma 12, in percent, with soft limits."""
    soft = blur(lab, 2.5)
    return float(100 * (share_under(soft[..., 0], 25, 4) * share_under(length(soft[..., 1:]), 12, 3)).mean())


def coloured_shadows(lab: np.ndarray) -> float:
    """Coloured shadows: mean chroma of the darkest quarter / (mean chroma of all + 2), after G_2.5.

    Black shadows have none, whatever the picture's saturation.
    """
    soft = blur(lab, 2.5)
    chroma = length(soft[..., 1:])
    dark = soft[..., 0] <= np.percentile(soft[..., 0], 25)
    return float(chroma[dark].mean() / (chroma.mean() + 2))


def effect(lab: np.ndarray) -> float:
    """Effect over detail: each part resembles the whole, 0..1.

    Median over cells of 28 px of the overlap (sum of minima) of a cell's histogram of oriented gradients, 12 bins of
    L* after G_1, with their mean.  Self-similarity of Amirshahi, Redies and Denzler, 2012, at one level.
    """
    cells = feature.hog(blur(lab[..., 0], 1.0), 12, (28, 28), (1, 1), "L1", feature_vector=False)
    cells = cells.reshape(-1, 12)
    return float(np.median(np.minimum(cells, cells.mean(axis=0)).sum(axis=1)))


# ---- The miniature's own


def stroke_statistic(image: np.ndarray) -> float:
    """How visible the strokes are: lowest decile of 16-px tiles of sqrt(mean(|G1*I - G4*I|^2)), I in CIELAB.

    G1 and G4 are Gaussians of 1 and 4 pixels of the picture as it is; the mean is a tile's, the square sums L*, a*
    and b*.  The unit is that of CIELAB (a delta E of 1976).  The lowest decile, because strokes are everywhere
    whereas the edges of a drawing are not.
    """
    return float(np.percentile(tile_rms(to_lab(image), 1, 4, 16), 10))
