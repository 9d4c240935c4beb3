"""What motifs stand in (sky, hills, meadow, water, snow), and how they are placed there."""

from __future__ import annotations

import math
from collections.abc import Callable

from tools.miniature.light import SNOW, mix
from tools.miniature.shapes import Plate, below, smooth

Motif = Callable[[Plate], None]

# ---------------------------------------------------------------- sky


def sky(p: Plate, horizon: float, top: float = 0.0, left: float = 0.0, width: float = 192.0) -> None:
    """The graded sky with its sun or moon and clouds, within the given frame."""
    p.rect(left, top, width, horizon - top + 3, p.gradient(*p.look.sky))
    height = horizon - top
    if p.look.disc:
        celestial(p, left + width * sun_across(p), top + height * sun_height(p), min(1.0, height / 75))
    for _ in range(cloud_count(p)):
        w = p.vary(0.3, 0.52) * width
        colour = p.look.cloud if p.light != "clouds" else mix(p.look.cloud, "#6f7f7d", p.vary(0, 0.9))
        cloud(p, left + p.vary(0.12, 0.88) * width, top + p.vary(0.14, 0.7) * height, w, colour)


def celestial(p: Plate, x: float, y: float, scale: float) -> None:
    """The sun, or the moon with its shadow, in a glow."""
    radius = p.look.radius * scale
    p.glow(p.look.disc, x, y, radius * (4.5 if p.light != "night" else 3.4), 0.7)
    p.disc(x, y, radius, p.look.disc)
    if p.light == "night":
        p.disc(x + radius * 0.4, y - radius * 0.15, radius * 0.75, p.look.sky[1], 0.28)


def sun_across(p: Plate) -> float:
    """Where the sun stands from 0 to 1: rather on the side that the motif leaves free."""
    at = p.by_place(0.74, 0.2, 0.28)
    return 1 - at if p.scene.place == "centre" and p.side > 0 else at


def sun_height(p: Plate) -> float:
    """Where the sun or moon stands between the top, 0, and the horizon, 1."""
    return {"dawn": 0.74, "noon": 0.19, "sunset": 0.76, "night": 0.28}[p.light]


def cloud_count(p: Plate) -> int:
    low, high = {"noon": (1, 4), "clouds": (5, 8), "snow": (0, 2)}.get(p.light, (0, 3))
    return int(p.surroundings.integers(low, high))


def cloud(p: Plate, x: float, y: float, width: float, colour: str) -> None:
    """A flat-bottomed heap of four rounds."""
    for at, lift, radius in ((-0.3, 0.0, 0.2), (-0.08, 0.1, 0.27), (0.16, 0.05, 0.22), (0.34, -0.02, 0.14)):
        p.ellipse(x + at * width, y - lift * width, radius * width, radius * width * 0.62, colour, 0.8)


def flakes(p: Plate, count: int = 24) -> None:
    for _ in range(count):
        radius = p.vary(2.4, 4.0)
        p.disc(p.vary(0, 192), p.vary(0, 192), radius, "#ffffff", 0.88)


# ---------------------------------------------------------------- land


def ridge(p: Plate, base: float, rise: float, fill: str) -> None:
    """One layer of hills that reaches from edge to edge."""
    phase = p.vary(0, 6.3)
    swing = p.vary(0.6, 1.1)
    crest = [(x, base - rise * (0.55 + 0.45 * math.sin(phase + swing * x / 30))) for x in range(-6, 220, 24)]
    p.path(below(crest), fill)


def hills(p: Plate, horizon: float, most: int) -> None:
    """One to `most` layers of blue far hills, each nearer one greener."""
    layers = int(p.surroundings.integers(1, most + 1))
    for i in range(layers):
        near = (i + 1) / (layers + 1)
        rise = p.vary(14, 26) * (1.1 - near * 0.6)
        ridge(p, horizon + 4 + 3 * i, rise, p.ground(mix("#5f7fc0", "#5d9550", near), 0.72 - 0.45 * near))


def bush(p: Plate, x: float, y: float, width: float, depth: float) -> None:
    """A far tree or bush: two rounds, the lighter one on the sun's side."""
    p.ellipse(x, y - width * 0.38, width * 0.5, width * 0.46, p.ink("#3c6e47", depth, 0.25))
    top = "#e9eef6" if p.snow else "#69a04a"
    p.ellipse(x + p.side * width * 0.12, y - width * 0.5, width * 0.33, width * 0.29, p.ink(top, depth))


def trees(p: Plate, horizon: float, count: int) -> None:
    for _ in range(count):
        bush(p, p.vary(0, 192), horizon + p.vary(2, 6), p.vary(20, 34), p.vary(0.25, 0.5))


def meadow(p: Plate, horizon: float, near: str = "#5c9a3c", far: str = "#a9c25a") -> None:
    """Ground from the horizon down, with two broad swathes."""
    p.rect(0, horizon, 192, 195 - horizon, p.gradient(p.ground(far, 0.2), p.ground(near), p.ground(near, 0, 0.25)))
    for _ in range(2):
        y = p.vary(horizon + 18, 178)
        tone = p.ground(mix(near, far, p.vary(0.1, 0.8)), 0.0, p.vary(0.0, 0.2))
        points = [(x, y + p.vary(-5, 5)) for x in range(-10, 211, 44)]
        p.path(smooth(points) + f"L200 {y + 13:.1f}L-10 {y + p.vary(8, 20):.1f}Z", tone, 0.75)


def country(p: Plate, horizon: float, near: str = "#5c9a3c", far: str = "#a9c25a") -> None:
    """Sky, hills, trees and ground: what most motifs stand in."""
    sky(p, horizon)
    hills(p, horizon, 3)
    trees(p, horizon, int(p.surroundings.integers(0, 4)))
    meadow(p, horizon, near, far)


# ---------------------------------------------------------------- water


def water(p: Plate, top: float, ripples: int = 7) -> None:
    """Water down to the lower edge that mirrors the sky, with broad ripples that widen towards us."""
    high, middle, low = p.look.sky
    teal = p.ink("#2f7f95")
    deep = 195 - top
    p.rect(0, top, 192, deep, p.gradient(mix(low, teal, 0.35), mix(middle, teal, 0.55), mix(high, teal, 0.6)))
    if p.look.disc and p.light != "noon":
        glitter(p, top, deep)
    for _ in range(ripples):
        near = p.vary(0.08, 1)
        tone = mix(low, "#ffffff", 0.25) if p.surroundings.random() < 0.5 else mix(high, teal, 0.7)
        p.ellipse(p.vary(0, 192), top + near * deep, 12 + 20 * near, 1.8 + 1.6 * near, tone, 0.5)


def glitter(p: Plate, top: float, deep: float) -> None:
    """The path of light under a low sun or the moon."""
    x = 192 * sun_across(p)
    for step in range(5):
        near = (step + 0.5) / 5
        p.ellipse(x + p.vary(-4, 4), top + near * deep, p.vary(9, 13) + 9 * near, 2.6, p.look.disc, 0.75)


def sea(p: Plate, horizon: float, shore: float, rise: float) -> None:
    """Sky and open water, in `shore` of all scenes with a far shore up to `rise` high."""
    sky(p, horizon)
    if p.surroundings.random() < shore:
        ridge(p, horizon + 4, p.vary(8, rise), p.ground("#5f7fc0", 0.6))
    water(p, horizon)


def snowy_bank(p: Plate, depth: float) -> None:
    """Under snow a water scene gets a white shore in front, or nothing would tell the season."""
    if p.snow:
        at = 192 - depth
        p.path(below([(-8, at), (40, at + 9), (90, at + 5), (150, at + 12), (200, at - 2)]), p.shaded(SNOW, 0, 0.2))


# ---------------------------------------------------------------- placing one or several


def scale_of(p: Plate) -> float:
    return p.by_size(0.74, 1.12)


def spot(p: Plate) -> float:
    """The x of the motif."""
    return p.by_place(56.0, 96.0, 136.0) + p.between(-6, 6)


def stand(p: Plate, small: float, large: float) -> float:
    """The y on which the motif stands: the nearer, the lower."""
    return p.by_size(small, large) + p.between(-4, 4)


def shadow(p: Plate, x: float, y: float, rx: float, ry: float) -> None:
    """A cast shadow on the ground, faint where the sun is hidden."""
    tone = p.ink("#4a5a3c", 0, 0.8 if p.snow else 0.55)
    p.ellipse(x, y, rx, ry, tone, 0.55 if p.look.disc else 0.3)


def group(p: Plate, x: float, y: float, paint: Motif, reach: float = 62.0, mirror: float = 0.0) -> None:
    """The motif at its place, and its companions farther back where the frame has room for them."""
    scale = scale_of(p) * (1.0, 0.92, 0.84)[p.scene.number - 1]
    room = p.by_place((1, 1.85), (p.side, -p.side), (-1, -1.85))
    far_scale = min(0.6 * scale, 0.54)
    for way in room[: p.scene.number - 1][::-1]:
        far_x = min(172.0, max(20.0, x + way * reach * (0.72 + 0.25 * scale)))
        one(p, far_x, y - 7 * scale, far_scale, paint, mirror)
    one(p, x, y, scale, paint, mirror)


def one(p: Plate, x: float, y: float, scale: float, paint: Motif, mirror: float = 0.0) -> None:
    """One motif on its foot line, with its reflection if it stands in water."""
    if mirror:
        with p.placed(x, y, scale, p.side, -mirror, 0.38):
            paint(p)
    with p.placed(x, y, scale, p.side):
        paint(p)
