"""Pictures spoiled on purpose, which the index must not take for Impressionist: noise, blotches, shuffled blocks,
wrong colours, cheap painting filters and the marks of bad scaling.

Each takes a uint8 RGB picture and a random generator, which draws how strongly; a keyword sets it.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator

Picture = np.ndarray


def to_uint8(pixels: np.ndarray) -> Picture:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def to_lab(picture: Picture) -> np.ndarray:
    return cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)


def from_lab(lab: np.ndarray) -> Picture:
    return to_uint8(255 * cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_Lab2RGB))


# ---- Noise and disorder


def noise(picture: Picture, rng: Generator, deviation: float | None = None) -> Picture:
    """Gaussian noise, coloured or grey, of 8 to 70 levels."""
    deviation = deviation or rng.uniform(8, 70)
    channels = 3 if rng.random() < 0.6 else 1
    return to_uint8(picture + rng.normal(0, deviation, (*picture.shape[:2], channels)))


def pure_noise(picture: Picture, rng: Generator) -> Picture:
    """Nothing but noise of the picture's size, fine or cloudy."""
    noise = rng.normal(rng.uniform(90, 160), rng.uniform(20, 80), picture.shape).astype(np.float32)
    if rng.random() < 0.5:
        noise = 128 + (cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.5, 6)) - 128) * rng.uniform(1, 6)
    return to_uint8(noise)


def blotches(picture: Picture, rng: Generator, deviation: float | None = None, size: float | None = None) -> Picture:
    """Soft coloured spots of 6 to 30 levels and 0.8 to 8 px."""
    deviation, size = deviation or rng.uniform(6, 30), size or rng.uniform(0.8, 8)
    spots = cv2.GaussianBlur(rng.normal(size=picture.shape).astype(np.float32), (0, 0), size)
    return to_uint8(picture + deviation * spots / spots.std())


def shuffle(picture: Picture, rng: Generator, side: int | None = None) -> Picture:
    """Square blocks of 6 to 63 px in another order."""
    side = side or int(rng.integers(6, 64))
    height, width = (size // side for size in picture.shape[:2])
    blocks = picture[: height * side, : width * side].reshape(height, side, width, side, 3).swapaxes(1, 2)
    blocks = blocks.reshape(-1, side, side, 3)[rng.permutation(height * width)].reshape(height, width, side, side, 3)
    return np.ascontiguousarray(blocks.swapaxes(1, 2).reshape(height * side, width * side, 3))


def glass(picture: Picture, rng: Generator) -> Picture:
    """Each pixel taken from up to 7 px away, as through rough glass."""
    reach = int(rng.integers(2, 8))
    height, width = picture.shape[:2]
    y, x = (place + rng.integers(-reach, reach + 1, (height, width)) for place in np.mgrid[:height, :width])
    return picture[y.clip(0, height - 1), x.clip(0, width - 1)]


# ---- Wrong colours


def posterize(picture: Picture, rng: Generator, levels: int | None = None) -> Picture:
    """2 to 6 levels in each channel, or 4 to 13 colours in all."""
    if levels or rng.random() < 0.6:
        steps = (levels or int(rng.integers(2, 7))) - 1
        return to_uint8(np.rint(picture / 255 * steps) / steps * 255)
    some = picture[::4, ::4].reshape(-1, 3).astype(np.float32)
    colours = some[rng.choice(len(some), int(rng.integers(4, 14)), replace=False)]
    for _ in range(8):  # k-means
        nearest = np.square(some[:, None] - colours).sum(-1).argmin(-1)
        colours = np.stack([some[nearest == k].mean(0) if (nearest == k).any() else c for k, c in enumerate(colours)])
    return to_uint8(colours[np.square(picture[:, :, None] - colours).sum(-1).argmin(-1)])


def turn_hues(picture: Picture, rng: Generator, degrees: float | None = None) -> Picture:
    """All hues turned, by 180 degrees or by 90 to 270."""
    degrees = degrees or (180.0 if rng.random() < 0.5 else rng.uniform(90, 270))
    lab, angle = to_lab(picture), np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32)
    lab[..., 1:] = lab[..., 1:] @ turn
    return from_lab(lab)


def negative(picture: Picture, rng: Generator) -> Picture:
    """The negative, or red and blue exchanged."""
    return 255 - picture if rng.random() < 0.7 else np.ascontiguousarray(picture[..., ::-1])


def saturate(picture: Picture, rng: Generator) -> Picture:
    lab = to_lab(picture)
    lab[..., 1:] *= rng.uniform(1.6, 3)
    return from_lab(lab)


# ---- Cheap filters


def kuwahara(picture: Picture, rng: Generator, radius: int | None = None) -> Picture:
    """Each pixel becomes the mean of the most even of the four squares around it (Kuwahara et al. 1976)."""
    radius = radius or int(rng.integers(1, 5))
    pixels, side = picture.astype(np.float32), (radius + 1, radius + 1)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mean = cv2.blur(pixels, side)
    variance = cv2.blur(grey * grey, side) - cv2.blur(grey, side) ** 2
    result, least = pixels, np.full(grey.shape, np.inf, np.float32)
    shift = (radius + 1) // 2
    for way in [(-shift, -shift), (-shift, shift), (shift, -shift), (shift, shift)]:
        moved = np.roll(variance, way, (0, 1))
        even = moved < least
        least = np.where(even, moved, least)
        result = np.where(even[..., None], np.roll(mean, way, (0, 1)), result)
    return to_uint8(result)


def oil(picture: Picture, rng: Generator, radius: int | None = None, levels: int | None = None) -> Picture:
    """The oil paint filter: each pixel becomes the mean of the commonest brightness around it."""
    radius, levels = radius or int(rng.integers(2, 7)), levels or int(rng.integers(6, 25))
    side, pixels = (2 * radius + 1, 2 * radius + 1), picture.astype(np.float32)
    brightness = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(int) * levels // 256
    result, most = pixels, np.full(brightness.shape, -1, np.float32)
    for level in np.unique(brightness):
        member = (brightness == level).astype(np.float32)
        share = cv2.blur(member, side)
        mean = cv2.blur(pixels * member[..., None], side) / np.maximum(share, 1e-6)[..., None]
        result = np.where((share > most)[..., None], mean, result)
        most = np.maximum(most, share)
    return to_uint8(result)


def smooth(picture: Picture, rng: Generator) -> Picture:
    """OpenCV's smoothing and cartoon filters."""
    match rng.integers(5):
        case 0:
            return cv2.medianBlur(picture, int(rng.choice([5, 7, 9, 11])))
        case 1:
            return cv2.bilateralFilter(picture, 9, rng.uniform(40, 120), rng.uniform(3, 9))
        case 2:
            return cv2.stylization(picture, sigma_s=rng.uniform(20, 100), sigma_r=rng.uniform(0.2, 0.7))
        case 3:
            return cv2.edgePreservingFilter(
                picture, flags=1, sigma_s=rng.uniform(20, 90), sigma_r=rng.uniform(0.2, 0.6)
            )
        case _:
            return cv2.pyrMeanShiftFiltering(picture, rng.uniform(5, 15), rng.uniform(15, 40))


def emboss(picture: Picture, rng: Generator) -> Picture:
    """A relief, or a cartoon with black outlines."""
    if rng.random() < 0.5:
        return to_uint8(cv2.filter2D(picture.astype(np.float32), -1, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2.0]])))
    grey = cv2.medianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 5)
    lines = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, 9, 3)
    flat = cv2.bilateralFilter(picture, 9, 100, 7)
    return np.where(lines[..., None] > 0, flat, flat // 4)


# ---- Bad scaling


def sharpen(picture: Picture, rng: Generator) -> Picture:
    soft = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), rng.uniform(0.8, 2.5))
    return to_uint8(picture + rng.uniform(1.5, 5) * (picture - soft))


def upscale(picture: Picture, rng: Generator) -> Picture:
    """Made small and large again: pixels, or mush."""
    scale, way = rng.uniform(0.12, 0.45), int(rng.choice([cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC]))
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, picture.shape[1::-1], interpolation=way)


NEGATIVES: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        noise, pure_noise, blotches, shuffle, glass, posterize, turn_hues, negative, saturate, kuwahara, oil, smooth,
        emboss, sharpen, upscale,
    )
}  # fmt: skip
