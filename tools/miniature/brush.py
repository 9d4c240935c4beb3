"""The Impressionist manner: repaints a picture in short strokes of broken colour.

Coats go from broad to fine, and a stroke of a finer coat is laid only where the painting still differs from the
picture (Hertzmann 1998). Strokes follow the form, along the smoothed structure tensor, and end at edges (Litwinowicz
1997). There is no black: shadows are violet and lights are warm.

    from tools.miniature.brush import paint_over
    painted = paint_over(image, seed=1)
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from impressionism.pictorial import to_lab

REFERENCE_SIDE = 192.0
DARKEST = 20.0  # L* under which no stroke goes


@dataclass(frozen=True)
class Coat:
    """One coat of strokes; lengths are pixels at a side of 192, differences are CIELAB units."""

    length: float
    width: float
    spacing: float
    blur: float  # how far the picture is smoothed before colours are taken from it
    jitter: float  # how much the colour changes from stroke to stroke
    threshold: float  # a stroke is laid only where the painting differs by more than this
    edge: float  # a stroke ends where the picture differs by more than this from its colour


COATS = (
    Coat(length=26, width=9.0, spacing=6.0, blur=2.0, jitter=3.0, threshold=0.0, edge=12.0),
    Coat(length=19, width=6.0, spacing=5.0, blur=1.0, jitter=5.5, threshold=2.5, edge=9.0),
    Coat(length=12, width=3.6, spacing=3.0, blur=0.6, jitter=4.0, threshold=6.0, edge=8.0),
    Coat(length=7, width=2.2, spacing=2.0, blur=0.3, jitter=2.0, threshold=9.0, edge=8.0),
)


def to_rgb(lab: np.ndarray) -> np.ndarray:
    return (np.clip(cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_Lab2RGB), 0, 1) * 255 + 0.5).astype(np.uint8)


def impressionist_palette(lab: np.ndarray, unit: float) -> np.ndarray:
    """The same picture in the painter's colours: form against ground strengthened, then darks lifted towards violet,
    lights warmed and chroma raised."""
    around = cv2.GaussianBlur(lab, (0, 0), 14 * unit)
    lab = lab + np.array([0.35, 0.2, 0.2], np.float32) * (lab - around)
    lightness = lab[..., 0]
    dark = np.clip(1 - lightness / 55, 0, 1)
    light = np.clip((lightness - 65) / 35, 0, 1)
    return np.stack(
        [
            lightness + 16 * dark**1.5,
            lab[..., 1] * 1.14 + 7 * dark,
            lab[..., 2] * 1.14 - 8 * dark + 3 * light,
        ],
        axis=-1,
    ).astype(np.float32)


def flow(lab: np.ndarray, unit: float, rng: np.random.Generator) -> np.ndarray:
    """The angle of a stroke at each pixel: along the form, or a calm sweep where there is none."""
    soft = cv2.GaussianBlur(lab, (0, 0), 1.2 * unit)
    gx, gy = (cv2.Sobel(soft, cv2.CV_32F, *order).astype(np.float32) for order in ((1, 0), (0, 1)))
    # The structure tensor, as double angles so that opposite directions agree.
    even = cv2.GaussianBlur((gy * gy - gx * gx).sum(-1), (0, 0), 3.5 * unit)
    odd = cv2.GaussianBlur((-2 * gx * gy).sum(-1), (0, 0), 3.5 * unit)
    calm = 2 * calm_sweep(*lab.shape[:2], rng)  # pyright: ignore[reportCallIssue]
    weight = 20.0 / unit**2
    return 0.5 * np.arctan2(odd + weight * np.sin(calm), even + weight * np.cos(calm))


def calm_sweep(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A gentle curve for the sky above, which settles to the horizontal of water and ground below."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    phase, lean = rng.uniform(0, 6.28), rng.uniform(-0.35, 0.35)
    sky = np.clip(1.3 - 2 * y / height, 0, 1)
    return sky * (0.55 * np.sin(4.5 * x / width + 2.5 * y / height + phase) + lean)


def broken(lab: np.ndarray, jitter: float, rng: np.random.Generator) -> np.ndarray:
    """One colour a stroke, RGB: lightness and warmth change from stroke to stroke. Pale and grey colours change their
    hue least, where a foreign one would look like confetti."""
    count = len(lab)
    chroma = np.linalg.norm(lab[:, 1:], axis=1)
    hue = np.clip(0.35 + chroma / 45, 0, 1.1)[:, None]
    warmth = rng.choice([-1.0, 1.0], (count, 1)) * np.array([0.5, 1.0])
    shift = np.hstack([rng.normal(0, 0.9, (count, 1)), hue * (rng.normal(0, 0.7, (count, 2)) + warmth)])
    colours = lab + jitter * shift
    colours[:, 0] = np.clip(colours[:, 0], DARKEST, 98)
    return to_rgb(colours[None])[0]


def sites(height: int, width: int, spacing: float, rng: np.random.Generator) -> np.ndarray:
    """Jittered grid points (x, y) in random order."""
    y, x = np.mgrid[spacing / 2 : height : spacing, spacing / 2 : width : spacing]
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    points += rng.uniform(-0.5, 0.5, points.shape) * spacing
    points = np.clip(points, 0, [width - 1, height - 1])
    return points[rng.permutation(len(points))]


def look_up(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The values at the points (x, y), which may lie outside."""
    x, y = np.rint(points).astype(int).T
    return image[np.clip(y, 0, len(image) - 1), np.clip(x, 0, image.shape[1] - 1)]


def lay(
    canvas: np.ndarray, target: np.ndarray, angle: np.ndarray, coat: Coat, unit: float, rng: np.random.Generator
) -> None:
    """Paint one coat onto the canvas (RGB), in place: curved strokes of one colour each, along the flow."""
    soft = cv2.GaussianBlur(target, (0, 0), max(0.3, coat.blur * unit))
    points = sites(*angle.shape, coat.spacing * unit, rng)  # pyright: ignore[reportCallIssue]
    if coat.threshold > 0:
        # Blurred before the norm, so that broken colour cancels and only lost form calls for a stroke.
        missing = cv2.GaussianBlur(to_lab(canvas) - soft, (0, 0), 0.35 * coat.width * unit)
        off = np.linalg.norm(look_up(missing, points), axis=-1)
        points = points[off > coat.threshold * rng.uniform(0.7, 1.3, len(points))]
    if not len(points):
        return
    own = look_up(soft, points)
    lean = rng.normal(0, 0.12, len(points))
    # The round caps add one width to the line's own length.
    reach = 0.5 * unit * (coat.length * rng.uniform(0.75, 1.2, len(points)) - coat.width)
    halves = []
    for way in (-1, 1):
        at, going, turn = points, np.ones(len(points), bool), angle_at(angle, points, None) + lean
        line = [at]
        for _ in range(3):
            step = way * np.stack([np.cos(turn), np.sin(turn)], axis=1) * reach[:, None] / 3
            going = going & (np.linalg.norm(look_up(soft, at + 1.3 * step) - own, axis=-1) < coat.edge)
            at = np.where(going[:, None], at + step, at)
            turn = angle_at(angle, at, turn - lean) + lean
            line.append(at)
        halves.append(line)
    lines = np.stack([*halves[0][:0:-1], *halves[1]], axis=1)  # (strokes, 7, 2), from end to end
    width = max(1, round(coat.width * unit))
    for line, colour in zip(np.rint(lines * 16).astype(np.int32), broken(own, coat.jitter, rng).tolist(), strict=True):
        cv2.polylines(canvas, [line], False, colour, width, cv2.LINE_AA, 4)


def angle_at(angle: np.ndarray, points: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """The flow's angle at the points, turned by half a turn where it would go back on the angle before."""
    found = look_up(angle, points)
    return found if before is None else before + (found - before + np.pi / 2) % np.pi - np.pi / 2


def paint_over(image: np.ndarray, seed: int, strokes: float = 1.0) -> np.ndarray:
    """The picture painted over in strokes, uint8 RGB of the same shape; `strokes` scales their size."""
    rng = np.random.default_rng(seed)
    unit = strokes * min(image.shape[:2]) / REFERENCE_SIDE
    target = impressionist_palette(to_lab(image), unit)
    angle = flow(target, unit, rng)
    canvas = to_rgb(cv2.GaussianBlur(target, (0, 0), 6 * unit))
    for coat in COATS:
        lay(canvas, target, angle, coat, unit, rng)
    return canvas
