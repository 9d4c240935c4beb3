"""The Impressionist manner: repaints a picture in short broken-colour strokes.

The order is Hertzmann's (broad strokes first, fine ones where the painting still differs), the touch is
Haeberli's (one colour a stroke), the palette is Monet's: no black, violet shadows, warm lights.

    from tools.miniature.brush import paint_over
    painted = paint_over(image, seed=1)
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from impressionism.pictorial import to_lab

REFERENCE_SIDE = 192.0
DARKEST = 22.0  # L* under which no stroke goes: an Impressionist keeps no black.


@dataclass(frozen=True)
class Layer:
    """One coat of strokes; lengths are pixels at a side of 192."""

    length: float
    width: float
    spacing: float
    blur: float  # How much of the picture is smoothed before colours are taken from it.
    jitter: float  # Strength of the colour change from stroke to stroke, in CIELAB units.
    threshold: float  # A stroke is laid only where the painting is off by more than this (CIELAB units).


LAYERS = (
    Layer(26, 10, 7.5, 2.0, 4.5, 0.0),
    Layer(18, 7, 7.0, 1.2, 7.0, 0.0),
    Layer(14, 5, 4.0, 0.7, 4.5, 3.5),
)
SAME_COLOUR = 11.0  # CIELAB units: a stroke stops where the picture departs further from its colour


def to_rgb(lab: np.ndarray) -> np.ndarray:
    return (np.clip(cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_Lab2RGB), 0, 1) * 255 + 0.5).astype(np.uint8)


def impressionist_palette(lab: np.ndarray) -> np.ndarray:
    """The same picture in the painter's colours: darks lifted to blue-violet, lights warmed, more chroma."""
    lightness = lab[..., 0]
    dark = np.clip(1 - lightness / 62, 0, 1)
    light = np.clip((lightness - 65) / 35, 0, 1)
    return np.stack(
        [
            lightness + 20 * dark**1.5 + 1.5 * light * (lightness < 97),
            lab[..., 1] * 1.16 + 10 * dark,
            lab[..., 2] * 1.16 - 15 * dark + 4 * light,
        ],
        axis=-1,
    ).astype(np.float32)


def flow(lightness: np.ndarray, unit: float, rng: np.random.Generator) -> np.ndarray:
    """The angle of a stroke at each pixel: along contours, or a calm sweep where there are none."""
    soft = cv2.GaussianBlur(lightness, (0, 0), 1.5 * unit)
    gx, gy = cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)
    # Double angles, so that opposite directions agree.
    even = cv2.GaussianBlur(gy * gy - gx * gx, (0, 0), 3.0 * unit)
    odd = cv2.GaussianBlur(-2 * gx * gy, (0, 0), 3.0 * unit)
    height, width = lightness.shape
    calm = 2 * calm_sweep(height, width, rng)
    weight = 12.0 / unit**2
    return 0.5 * np.arctan2(odd + weight * np.sin(calm), even + weight * np.cos(calm))


def calm_sweep(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A gentle curve for the sky above, which settles to the horizontal of water and ground below."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    phase, lean = rng.uniform(0, 6.28), rng.uniform(-0.35, 0.35)
    sky = np.clip(1.3 - 2 * y / height, 0, 1)
    return sky * (0.55 * np.sin(4.5 * x / width + 2.5 * y / height + phase) + lean)


def stroke_colours(lab: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """One colour a stroke: broken in lightness and hue, warm against cool, now and then its complement."""
    n = len(lab)
    warm = rng.choice([-1.0, 1.0], n)[:, None] * np.array([0.0, 0.7, 1.3])
    shift = strength * (rng.normal(0, 1, (n, 3)) * np.array([0.75, 0.9, 0.9]) + warm)
    colours = lab + shift
    touched = rng.random(n) < 0.05
    colours[touched, 1:] -= 0.75 * lab[touched, 1:]
    colours[:, 0] = np.clip(colours[:, 0], DARKEST, 98)
    return to_rgb(colours[None])[0]


def sites(height: int, width: int, spacing: float, rng: np.random.Generator) -> np.ndarray:
    """Jittered grid points (x, y) in random order."""
    y, x = np.mgrid[spacing / 2 : height : spacing, spacing / 2 : width : spacing]
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    points += rng.uniform(-0.5, 0.5, points.shape) * spacing
    points = np.clip(points, 0, [width - 1, height - 1])
    return points[rng.permutation(len(points))]


def lay(
    canvas: np.ndarray,
    target: np.ndarray,
    angle: np.ndarray,
    layer: Layer,
    unit: float,
    rng: np.random.Generator,
) -> None:
    """Paint one layer onto the canvas (RGB), in place."""
    height, width = angle.shape
    soft = cv2.GaussianBlur(target, (0, 0), max(0.3, layer.blur * unit))
    points = sites(height, width, layer.spacing * unit, rng)
    if layer.threshold > 0:
        # Blurred before the norm, so that broken colour cancels and only lost form calls for a stroke.
        off = np.linalg.norm(cv2.GaussianBlur(to_lab(canvas) - soft, (0, 0), 0.45 * layer.width * unit), axis=-1)
        x, y = points.astype(int).T
        points = points[off[y, x] > layer.threshold * rng.uniform(0.6, 1.4, len(points))]
    if len(points):
        draw_strokes(canvas, points, soft, angle, layer, unit, rng)


def draw_strokes(
    canvas: np.ndarray,
    points: np.ndarray,
    soft: np.ndarray,
    angle: np.ndarray,
    layer: Layer,
    unit: float,
    rng: np.random.Generator,
) -> None:
    """One stroke of one colour at each point, along the angle there and no farther than its colour goes."""
    x, y = points.astype(int).T
    colours = stroke_colours(soft[y, x], layer.jitter, rng).tolist()
    turn = angle[y, x] + rng.normal(0, 0.16, len(points))
    width = max(1, round(layer.width * unit))
    # The round caps add one width to the line's own length.
    half = 0.5 * unit * (layer.length * rng.uniform(0.75, 1.15, len(points)) - layer.width)
    step = np.stack([np.cos(turn), np.sin(turn)], axis=1) * half[:, None]
    start, end = (
        np.rint((points + way * step * free_run(soft, points, way * step)) * 16).astype(int).tolist() for way in (-1, 1)
    )
    for a, b, colour in zip(start, end, colours, strict=True):
        cv2.line(canvas, a, b, colour, width, cv2.LINE_AA, 4)


def free_run(soft: np.ndarray, points: np.ndarray, step: np.ndarray) -> np.ndarray:
    """The share of each step that a stroke may go before it would cross into another colour, as a column."""
    height, width = soft.shape[:2]
    x, y = points.astype(int).T
    run, going = np.zeros(len(points)), np.ones(len(points), bool)
    for share in (1 / 3, 2 / 3, 1.0):
        to_x, to_y = np.clip(points + step * share * 1.2, 0, [width - 1, height - 1]).astype(int).T
        going &= np.linalg.norm(soft[to_y, to_x] - soft[y, x], axis=-1) < SAME_COLOUR
        run[going] = share
    return run[:, None]


def paint_over(image: np.ndarray, seed: int, strokes: float = 1.0) -> np.ndarray:
    """The picture painted over in strokes, uint8 RGB of the same shape; `strokes` scales their size."""
    rng = np.random.default_rng(seed)
    unit = strokes * min(image.shape[:2]) / REFERENCE_SIDE
    lab = to_lab(image)
    target = impressionist_palette(lab)
    angle = flow(lab[..., 0], unit, rng)
    canvas = to_rgb(cv2.GaussianBlur(target, (0, 0), 6 * unit))
    for layer in LAYERS:
        lay(canvas, target, angle, layer, unit, rng)
    return canvas
