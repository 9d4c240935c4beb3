"""How Impressionist a picture is, from its pixels alone: one function a characteristic.

Of the seven characteristics the visible stroke is here so far; `evaluation` will bring the others and an index.
"""

import cv2
import numpy as np


def to_lab(image: np.ndarray) -> np.ndarray:
    """CIELAB (L* 0..100) as float32."""
    return cv2.cvtColor(np.ascontiguousarray(image, np.uint8).astype(np.float32) / 255, cv2.COLOR_RGB2Lab)


def stroke_statistic(image: np.ndarray) -> float:
    """How visible the strokes are: lowest decile of 16-px tiles of sqrt(mean(|G1*I - G4*I|^2)), I in CIELAB.

    G1 and G4 are Gaussians of 1 and 4 pixels; the mean is a tile's, the square sums L*, a* and b*.
    The unit is that of CIELAB (a delta E of 1976).  The lowest decile, because strokes are everywhere whereas
    the edges of a drawing are not.
    """
    lab = to_lab(image)
    band = cv2.GaussianBlur(lab, (0, 0), 1.0) - cv2.GaussianBlur(lab, (0, 0), 4.0)
    power = (band * band).sum(axis=-1)
    height, width = (n // 16 * 16 for n in power.shape)
    tiles = power[:height, :width].reshape(height // 16, 16, width // 16, 16).mean(axis=(1, 3))
    return float(np.percentile(np.sqrt(tiles), 10))
