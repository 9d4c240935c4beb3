"""Brush strokes over any picture, in any dose: to see whether a statistic answers to them.

After Haeberli, Paint by numbers, SIGGRAPH 1990: each stroke has one colour of the picture under it, and lies along the
contour there.  It is not the miniature's brush, so that what is calibrated with it was not made for it.
"""

import cv2
import numpy as np

from impressionism.pictorial import to_lab

DENSITY = 1 / 12  # strokes a pixel at dose 1
BROKEN = np.array([5.0, 9.0, 9.0])  # standard deviation of a stroke's L*, a* and b* at dose 1


def haeberli(image: np.ndarray, dose: float, seed: int = 0) -> np.ndarray:
    """A uint8 RGB picture of 224 px with strokes of 7 to 13 by 3 px over it; dose 0 is the picture itself."""
    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    canvas = image.copy()
    count = round(height * width * DENSITY * dose)
    if not count:
        return canvas
    y, x = rng.integers(0, height, count), rng.integers(0, width, count)
    angle = contours(image)[y, x] + rng.normal(0, 0.3, count)
    reach = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * rng.uniform(2, 5, (count, 1))
    colours = to_lab(image)[y, x] + dose * BROKEN * rng.normal(size=(count, 3))
    colours = cv2.cvtColor(colours[None].astype(np.float32), cv2.COLOR_Lab2RGB)[0].clip(0, 1) * 255
    centres = np.stack([x, y], axis=-1)
    ends = (np.rint((centres + way * reach) * 16).astype(int).tolist() for way in (-1, 1))
    for start, end, colour in zip(*ends, colours.tolist(), strict=True):
        cv2.line(canvas, start, end, colour, 3, cv2.LINE_AA, shift=4)
    return canvas


def contours(image: np.ndarray) -> np.ndarray:
    """The angle along which a picture changes least, at each pixel."""
    soft = cv2.GaussianBlur(to_lab(image)[..., 0], (0, 0), 3)
    return np.arctan2(cv2.Sobel(soft, cv2.CV_32F, 0, 1), cv2.Sobel(soft, cv2.CV_32F, 1, 0)) + np.pi / 2
