"""The drawn world that the miniature model learns: sixteen motifs under six lights, like fine screenprints.

Shapes are bold and softly graded, because a small autoencoder with 8x downsampling has to keep them; every
random choice comes from the scene's own seed.  Write a contact sheet (and its painted twin) with

    python -m training.miniature.world OUT.png
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

Colour = tuple[float, float, float]
Points = list[tuple[float, float]]

SUBJECTS = (
    "boat",
    "haystack",
    "poplars",
    "cottage",
    "lilies",
    "poppies",
    "bridge",
    "church",
    "windmill",
    "cliffs",
    "train",
    "lighthouse",
    "orchard",
    "sunflowers",
    "fruit",
    "parasol",
)
LIGHTS = ("dawn", "noon", "sunset", "night", "clouds", "snow")
PLACES = ("left", "centre", "right")
SIZES = ("small", "large")
NUMBERED = ("boat", "haystack", "cottage", "windmill", "orchard", "sunflowers", "parasol")
COLOURS: dict[str, dict[str, str]] = {
    "boat": {"white": "#f7f1e3", "red": "#cf3a2c", "blue": "#2f62b5", "ochre": "#dc9a34"},
    "haystack": {"golden": "#eab73c", "orange": "#dd7d33", "pink": "#dd95a0"},
    "poplars": {"green": "#43863f", "golden": "#e2b02f", "orange": "#d6672a"},
    "cottage": {"red": "#c4432f", "blue": "#3f6fb0", "ochre": "#d79a3a"},
    "lilies": {"white": "#fbf5ea", "pink": "#ea86a8", "yellow": "#f4cf45"},
    "poppies": {"red": "#dc2f26", "pink": "#ee86a0", "orange": "#f08a2b"},
    "bridge": {"grey": "#a7a9ac", "pink": "#d99a94", "ochre": "#d3a458"},
    "church": {"grey": "#a3a5ad", "white": "#f3ecdf", "ochre": "#d8a557"},
    "windmill": {"white": "#f3ecdd", "red": "#b9452f", "blue": "#4f78b4"},
    "cliffs": {"white": "#f1e9da", "ochre": "#d8a65a", "pink": "#dd9f98"},
    "train": {"black": "#474b62", "red": "#bf3329", "green": "#2f7a4c"},
    "lighthouse": {"white": "#9aa6b8", "red": "#cf3a2f", "blue": "#2f62b5"},
    "orchard": {"pink": "#f0a0b8", "white": "#fbf2ee", "lilac": "#b796d8"},
    "sunflowers": {"blue": "#2f62b5", "white": "#f1ebdd", "green": "#3f8a5e"},
    "fruit": {"red": "#cf3227", "green": "#7fae3a", "orange": "#ee8a26"},
    "parasol": {"white": "#fbf5ea", "red": "#d33c30", "green": "#4c9a5a", "blue": "#3f74c0"},
}
PLACE_X = {"left": 56.0, "centre": 96.0, "right": 136.0}


@dataclass(frozen=True)
class Scene:
    """Everything that fixes one picture: what is seen, under which light, and how it stands in the frame."""

    subject: str  # The motif, one of SUBJECTS.
    light: str  # The hour or the weather that colours the whole picture, one of LIGHTS.
    place: str  # Where the motif stands in the frame: "left", "centre" or "right".
    number: int  # How many of the motif there are, 1 to 3; always 1 where counting makes no sense.
    colour: str  # The colour word of its telling part (sail, roof, petals, vase), a key of COLOURS[subject].
    size: str  # "small" for far away, "large" for near.
    seed: int  # Settles all free variation: horizon, hills, trees, clouds and small shifts.


def random_scene(rng: np.random.Generator) -> Scene:
    """A scene with every attribute drawn evenly."""
    subject = str(rng.choice(SUBJECTS))
    return Scene(
        subject,
        str(rng.choice(LIGHTS)),
        str(rng.choice(PLACES)),
        int(rng.integers(1, 4)) if subject in NUMBERED else 1,
        str(rng.choice(list(COLOURS[subject]))),
        str(rng.choice(SIZES)),
        int(rng.integers(2**31)),
    )


# ---------------------------------------------------------------- light


@dataclass(frozen=True)
class Light:
    """How one hour or weather colours the world."""

    sky: tuple[str, str, str]  # Zenith, middle, horizon.
    tint: Colour  # Each local colour is multiplied by this,
    wash: str  # then mixed towards this colour,
    wash_share: float  # by this much.
    haze: str  # Far things fade into this.
    shade: str  # Shadows fall towards this.
    cloud: str
    disc: str = ""  # Sun or moon colour; empty where it is hidden.
    radius: float = 0.0


LIGHT: dict[str, Light] = {
    "dawn": Light(
        ("#8e8cc9", "#dda3c8", "#fde0cf"),
        (1.0, 0.84, 0.92),
        "#e0a2c0",
        0.27,
        "#e3b5cd",
        "#7d6bb0",
        "#f3c6d2",
        "#fff3d2",
        12,
    ),
    "noon": Light(
        ("#2f83dc", "#6db6f2", "#cdeaf8"),
        (1.04, 1.04, 0.98),
        "#ffffff",
        0.0,
        "#a9d2ec",
        "#3d5fa8",
        "#ffffff",
        "#fff4a8",
        10,
    ),
    "sunset": Light(
        ("#6a2763", "#e04e32", "#ffb545"),
        (1.0, 0.68, 0.56),
        "#c8452c",
        0.16,
        "#d9623c",
        "#5a2160",
        "#a63a56",
        "#fff0a0",
        23,
    ),
    "night": Light(
        ("#0c1548", "#1b3380", "#4166ae"),
        (0.48, 0.56, 0.84),
        "#142a6e",
        0.24,
        "#29458a",
        "#0f1850",
        "#3b579f",
        "#fbf3cb",
        13,
    ),
    "clouds": Light(
        ("#76868a", "#9aaaa6", "#c3ccbf"),
        (0.82, 0.87, 0.82),
        "#87958c",
        0.22,
        "#9daba2",
        "#3f5866",
        "#dde1d8",
    ),
    "snow": Light(
        ("#93a9ca", "#b9cbe0", "#e2e9f2"), (0.96, 0.97, 1.0), "#d6dfec", 0.2, "#cfd9e6", "#8296bd", "#f3f6f9"
    ),
}
SNOW = "#f6f8fc"
LAMP = "#ffd15e"


def rgb(colour: str) -> Colour:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))  # type: ignore[return-value]


def hexed(colour: Colour) -> str:
    return "#" + "".join(f"{round(255 * min(1.0, max(0.0, c))):02x}" for c in colour)


def mix(a: str, b: str, share: float) -> str:
    """The colour that is `share` of the way from a to b."""
    return hexed(tuple(x + (y - x) * share for x, y in zip(rgb(a), rgb(b), strict=False)))  # type: ignore[arg-type]


def lit(local: str, light: str, depth: float = 0.0, shade: float = 0.0) -> str:
    """A local colour as it looks under a light: tinted, washed, in shadow by `shade`, hazed by `depth`."""
    look = LIGHT[light]
    tinted = hexed(tuple(c * t for c, t in zip(rgb(local), look.tint, strict=False)))  # type: ignore[arg-type]
    washed = mix(tinted, look.wash, look.wash_share)
    return mix(mix(washed, look.shade, shade), look.haze, depth)


# ---------------------------------------------------------------- the plate one draws on


class Plate:
    """A 192 x 192 sheet that collects SVG, knows its light and holds the scene's random generator."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.light = scene.light
        self.look = LIGHT[scene.light]
        self.rng = np.random.default_rng([scene.seed, SUBJECTS.index(scene.subject)])
        self.side = 1.0 if self.rng.random() < 0.5 else -1.0  # The side that the light comes from.
        self.accent = COLOURS[scene.subject][scene.colour]
        self.defs: list[str] = []
        self.parts: list[str] = []

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def ink(self, local: str, depth: float = 0.0, shade: float = 0.0) -> str:
        return lit(local, self.light, depth, shade)

    def ground(self, local: str, depth: float = 0.0, shade: float = 0.0) -> str:
        """A colour of something that snow would lie on."""
        return self.ink(mix(local, SNOW, 0.9) if self.light == "snow" else local, depth, shade * 0.8)

    def pane(self) -> str:
        """A window from outside: dark by day, a lamp behind it in the dark hours."""
        glow = {"night": 1.0, "sunset": 0.75, "snow": 0.75, "dawn": 0.35}.get(self.light, 0.0)
        return mix(self.ink("#3f5578"), LAMP, glow)

    def gradient(self, *colours: str, across: bool = False) -> str:
        """A linear gradient, from top to bottom or from left to right, as a paint."""
        name = f"g{len(self.defs)}"
        stops = "".join(
            f'<stop offset="{i / (len(colours) - 1):.3f}" stop-color="{c}"/>' for i, c in enumerate(colours)
        )
        end = 'x2="1" y2="0"' if across else 'x2="0" y2="1"'
        self.defs.append(f'<linearGradient id="{name}" {end}>{stops}</linearGradient>')
        return f"url(#{name})"

    def glow(self, colour: str, x: float, y: float, radius: float, strength: float) -> None:
        name = f"g{len(self.defs)}"
        self.defs.append(
            f'<radialGradient id="{name}"><stop offset="0" stop-color="{colour}" '
            f'stop-opacity="{strength}"/><stop offset="1" stop-color="{colour}" stop-opacity="0"/>'
            "</radialGradient>"
        )
        self.ellipse(x, y, radius, radius, f"url(#{name})")

    def path(self, d: str, fill: str, opacity: float = 1.0) -> None:
        self.parts.append(f'<path d="{d}" fill="{fill}" fill-opacity="{opacity:.2f}" fill-rule="evenodd"/>')

    def line(self, d: str, colour: str, width: float) -> None:
        self.parts.append(
            f'<path d="{d}" fill="none" stroke="{colour}" stroke-width="{width:.1f}" '
            'stroke-linecap="round" stroke-linejoin="round"/>'
        )

    def rect(self, x: float, y: float, w: float, h: float, fill: str, round_: float = 0.0) -> None:
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{round_}" fill="{fill}"/>'
        )

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: str, opacity: float = 1.0, turn: float = 0.0
    ) -> None:
        self.parts.append(
            f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{rx:.1f}" ry="{ry:.1f}" fill="{fill}" '
            f'fill-opacity="{opacity:.2f}" transform="rotate({turn:.0f} {x:.1f} {y:.1f})"/>'
        )

    @contextmanager
    def placed(
        self, x: float, y: float, scale: float, flip: float = 1.0, mirror: float = 1.0, opacity: float = 1.0
    ) -> Iterator[None]:
        """Draw in a motif's own coordinates; `mirror` -0.7, say, turns it upside down as a reflection."""
        self.parts.append(
            f'<g transform="translate({x:.1f} {y:.1f}) scale({scale * flip:.3f} '
            f'{scale * mirror:.3f})" opacity="{opacity:.2f}">'
        )
        yield
        self.parts.append("</g>")

    def svg(self) -> str:
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 192 192"><defs>'
            + "".join(self.defs)
            + "</defs>"
            + "".join(self.parts)
            + "</svg>"
        )


def smooth(points: Points) -> str:
    """A curve through the points (Catmull-Rom), as the start of a path."""
    padded = [points[0], *points, points[-1]]
    d = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (ax, ay), (bx, by), (cx, cy), (ex, ey) in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        d += (
            f"C{bx + (cx - ax) / 6:.1f} {by + (cy - ay) / 6:.1f} {cx - (ex - bx) / 6:.1f} "
            f"{cy - (ey - by) / 6:.1f} {cx:.1f} {cy:.1f}"
        )
    return d


def polygon(*points: tuple[float, float]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"


# ---------------------------------------------------------------- settings


def cloud(p: Plate, x: float, y: float, width: float, colour: str, opacity: float) -> None:
    """A flat-bottomed heap of three or four rounds."""
    for at, lift, radius in ((-0.3, 0.0, 0.2), (-0.08, 0.1, 0.27), (0.16, 0.05, 0.22), (0.34, -0.02, 0.14)):
        p.ellipse(x + at * width, y - lift * width, radius * width, radius * width * 0.62, colour, opacity)


def sky(p: Plate, horizon: float, top: float = 0.0, left: float = 0.0, width: float = 192.0) -> None:
    """The graded sky with its sun or moon and clouds, within the given frame."""
    p.rect(left, top, width, horizon - top + 3, p.gradient(*p.look.sky))
    height = horizon - top
    if p.look.disc:
        celestial(p, left + width * sun_across(p), top + height * sun_height(p), min(1.0, height / 75))
    for _ in range(cloud_count(p)):
        w = p.between(0.3, 0.52) * width
        colour = p.look.cloud if p.light != "clouds" else mix(p.look.cloud, "#6f7f7d", p.between(0, 0.9))
        cloud(p, left + p.between(0.12, 0.88) * width, top + p.between(0.14, 0.7) * height, w, colour, 0.8)


def cloud_count(p: Plate) -> int:
    low, high = {"noon": (1, 4), "clouds": (5, 8), "snow": (0, 2)}.get(p.light, (0, 3))
    return int(p.rng.integers(low, high))


def sun_across(p: Plate) -> float:
    """Where the sun stands from 0 to 1: rather on the side that the motif leaves free."""
    low, high = {"left": (0.6, 0.85), "centre": (0.12, 0.28), "right": (0.15, 0.4)}[p.scene.place]
    at = p.between(low, high)
    return 1 - at if p.scene.place == "centre" and p.side > 0 else at


def sun_height(p: Plate) -> float:
    low, high = {"dawn": (0.68, 0.8), "noon": (0.14, 0.24), "sunset": (0.66, 0.86), "night": (0.2, 0.36)}[
        p.light
    ]
    return p.between(low, high)


def celestial(p: Plate, x: float, y: float, scale: float) -> None:
    radius = p.look.radius * scale
    p.glow(p.look.disc, x, y, radius * (4.5 if p.light != "night" else 3.4), 0.7)
    p.ellipse(x, y, radius, radius, p.look.disc)
    if p.light == "night":
        p.ellipse(x + radius * 0.4, y - radius * 0.15, radius * 0.75, radius * 0.75, p.look.sky[1], 0.28)


def ridge(p: Plate, base: float, rise: float, fill: str) -> None:
    """One layer of hills that reaches from edge to edge."""
    phase = p.between(0, 6.3)
    swing = p.between(0.6, 1.1)
    points = [(x, base - rise * (0.55 + 0.45 * math.sin(phase + swing * x / 30))) for x in range(-6, 220, 24)]
    p.path(smooth(points) + "L200 200L-8 200Z", fill)


def hills(p: Plate, horizon: float, layers: int) -> None:
    """Blue far hills, each nearer one greener."""
    for i in range(layers):
        near = (i + 1) / (layers + 1)
        ridge(
            p,
            horizon + 4 + 3 * i,
            p.between(14, 26) * (1.1 - near * 0.6),
            p.ground(mix("#5f7fc0", "#5d9550", near), 0.72 - 0.45 * near),
        )


def bush(p: Plate, x: float, y: float, width: float, depth: float) -> None:
    """A far tree or bush: two rounds, the lighter one on the sun's side."""
    p.ellipse(x, y - width * 0.38, width * 0.5, width * 0.46, p.ink("#3c6e47", depth, 0.25))
    top = "#e9eef6" if p.light == "snow" else "#69a04a"
    p.ellipse(x + p.side * width * 0.12, y - width * 0.5, width * 0.33, width * 0.29, p.ink(top, depth))


def trees(p: Plate, horizon: float, count: int) -> None:
    for _ in range(count):
        bush(p, p.between(0, 192), horizon + p.between(2, 6), p.between(20, 34), p.between(0.25, 0.5))


def meadow(p: Plate, horizon: float, near: str = "#5c9a3c", far: str = "#a9c25a") -> None:
    """Ground from the horizon down, with two broad swathes."""
    p.rect(
        0,
        horizon,
        192,
        195 - horizon,
        p.gradient(p.ground(far, 0.2), p.ground(near), p.ground(near, 0, 0.25)),
    )
    for _ in range(2):
        y = p.between(horizon + 18, 178)
        tone = p.ground(mix(near, far, p.between(0.1, 0.8)), 0.0, p.between(0.0, 0.2))
        points = [(x, y + p.between(-5, 5)) for x in range(-10, 211, 44)]
        p.path(smooth(points) + f"L200 {y + 13:.1f}L-10 {y + p.between(8, 20):.1f}Z", tone, 0.75)


def country(p: Plate, horizon: float, near: str = "#5c9a3c", far: str = "#a9c25a") -> None:
    """Sky, hills, trees and ground: what most motifs stand in."""
    sky(p, horizon)
    hills(p, horizon, int(p.rng.integers(1, 4)))
    trees(p, horizon, int(p.rng.integers(0, 4)))
    meadow(p, horizon, near, far)


def water(p: Plate, top: float, bottom: float = 195.0, ripples: int = 7) -> None:
    """Water that mirrors the sky, with broad horizontal ripples that widen towards us."""
    high, middle, low = p.look.sky
    teal = p.ink("#2f7f95")
    p.rect(
        0,
        top,
        192,
        bottom - top,
        p.gradient(mix(low, teal, 0.35), mix(middle, teal, 0.55), mix(high, teal, 0.6)),
    )
    if p.look.disc and p.light != "noon":
        glitter(p, top, bottom)
    for _ in range(ripples):
        near = p.between(0.08, 1)
        tone = mix(low, "#ffffff", 0.25) if p.rng.random() < 0.5 else mix(high, teal, 0.7)
        p.ellipse(p.between(0, 192), top + near * (bottom - top), 12 + 20 * near, 1.8 + 1.6 * near, tone, 0.5)


def glitter(p: Plate, top: float, bottom: float) -> None:
    """The path of light under a low sun or the moon."""
    x = 192 * sun_across(p)
    for step in range(5):
        near = (step + 0.5) / 5
        p.ellipse(
            x + p.between(-4, 4),
            top + near * (bottom - top),
            p.between(9, 13) + 9 * near,
            2.6,
            p.look.disc,
            0.75,
        )


def snowy_bank(p: Plate, depth: float = 26.0) -> None:
    """Under snow a water scene gets a white shore in front, or nothing would tell the season."""
    if p.light == "snow":
        at = 192 - depth
        p.path(
            smooth([(-8, at), (40, at + 9), (90, at + 5), (150, at + 12), (200, at - 2)])
            + "L200 200L-8 200Z",
            p.gradient(p.ink(SNOW), p.ink(SNOW, 0, 0.2)),
        )


def flakes(p: Plate, count: int = 24) -> None:
    for _ in range(count):
        radius = p.between(2.4, 4.0)
        p.ellipse(p.between(0, 192), p.between(0, 192), radius, radius, "#ffffff", 0.88)


def shadow(p: Plate, x: float, y: float, rx: float, ry: float) -> None:
    p.ellipse(
        x,
        y,
        rx,
        ry,
        p.ink("#4a5a3c", 0, 0.55 if p.light != "snow" else 0.8),
        0.3 if p.light in ("clouds", "snow") else 0.55,
    )


# ---------------------------------------------------------------- placing one or several


def scale_of(scene: Scene) -> float:
    return {"small": 0.74, "large": 1.12}[scene.size]


def stand(p: Plate, small: float, large: float) -> float:
    """The y on which the motif stands: the nearer, the lower."""
    return (small if p.scene.size == "small" else large) + p.between(-4, 4)


def group(
    p: Plate, x: float, y: float, paint: Callable[[Plate], None], reach: float = 62.0, mirror: float = 0.0
) -> None:
    """The motif at its place, and its companions farther back where the frame has room for them."""
    scale = scale_of(p.scene) * {1: 1.0, 2: 0.92, 3: 0.84}[p.scene.number]
    room = {"left": (1, 1.85), "right": (-1, -1.85), "centre": (p.side, -p.side)}[p.scene.place]
    far_scale = min(0.6 * scale, 0.54)
    for way in room[: p.scene.number - 1][::-1]:
        far_x = min(172.0, max(20.0, x + way * reach * (0.72 + 0.25 * scale)))
        one(p, far_x, y - 7 * scale, far_scale, paint, mirror)
    one(p, x, y, scale, paint, mirror)


def one(p: Plate, x: float, y: float, scale: float, paint: Callable[[Plate], None], mirror: float) -> None:
    """One motif on its foot line, with its reflection if it stands in water."""
    if mirror:
        with p.placed(x, y, scale, p.side, -mirror, 0.38):
            paint(p)
    with p.placed(x, y, scale, p.side):
        paint(p)


def spot(p: Plate) -> float:
    return PLACE_X[p.scene.place] + p.between(-6, 6)


# ---------------------------------------------------------------- motifs by the water


def sailing_boat(p: Plate) -> None:
    """Hull and two sails, foot at the water line, 92 wide and 104 high."""
    sail = p.accent
    p.line("M0 -8L0 -104", p.ink("#6b4a35"), 4)
    p.path("M4 -102C34 -74 46 -44 46 -20L4 -20Z", p.gradient(p.ink(sail), p.ink(sail, 0, 0.22)))
    p.path("M-5 -94C-10 -60 -24 -34 -40 -20L-5 -20Z", p.ink(sail, 0, 0.16))
    p.path("M-48 -15L50 -15C46 2 38 8 26 8L-28 8C-40 8 -46 -4 -48 -15Z", p.ink("#7a4632", 0, 0.12))
    p.rect(-46, -16, 95, 5.5, p.ink("#e9dcc2"), 2)


def boat(p: Plate) -> None:
    horizon = p.between(78, 108)
    sky(p, horizon)
    if p.rng.random() < 0.6:
        ridge(p, horizon + 4, p.between(8, 20), p.ground("#5f7fc0", 0.6))
    water(p, horizon)
    group(p, spot(p), stand(p, 136, 150), sailing_boat, mirror=0.5)
    snowy_bank(p, 22)


def poplar(p: Plate, x: float, y: float, height: float) -> None:
    """One tall flame of leaves with its lit side."""
    width = height * 0.115
    leaf = mix(p.accent, SNOW, 0.45) if p.light == "snow" else p.accent
    p.line(f"M{x:.1f} {y:.1f}L{x:.1f} {y - height * 0.3:.1f}", p.ink("#6b4a38"), 4.5)
    top, low, wide = y - height, y - height * 0.12, width * 1.05
    flame = (
        f"M{x:.1f} {top:.1f}C{x + wide:.1f} {top + height * 0.3:.1f} {x + wide * 1.3:.1f} {low:.1f} {x:.1f}"
        f" {low:.1f}"
        f"C{x - wide * 1.3:.1f} {low:.1f} {x - wide:.1f} {top + height * 0.3:.1f} {x:.1f} {top:.1f}Z"
    )
    p.path(flame, p.gradient(p.ink(leaf, 0, 0.4), p.ink(mix(leaf, "#ffe98a", 0.2)), across=True))


def poplars(p: Plate) -> None:
    horizon = p.between(112, 126)
    sky(p, horizon)
    hills(p, horizon, int(p.rng.integers(1, 3)))
    meadow(p, horizon)
    bank = horizon + p.between(12, 18)
    water(p, bank)
    row = poplar_row(p)
    for mirror in (True, False):
        for x, height in row:
            with p.placed(x, bank, 1, 1, -0.75 if mirror else 1, 0.4 if mirror else 1):
                poplar(p, 0, 4, height)
    p.rect(0, bank - 1, 192, 6, p.ground("#4f8040", 0, 0.2), 3)
    snowy_bank(p, 20)


def poplar_row(p: Plate) -> Points:
    """Where the trees stand and how tall: falling away from the place of the nearest."""
    tall = 112.0 if p.scene.size == "large" else 84.0
    step = 27.0 if p.scene.size == "large" else 22.0
    start = spot(p) - {"left": 30, "centre": 0, "right": -30}[p.scene.place]
    ways = {"left": range(6), "right": range(0, -6, -1), "centre": (-3, 3, -2, 2, -1, 1, 0)}[p.scene.place]
    row = [
        (start + i * step * (1 - 0.05 * abs(i)), tall * (1 - 0.11 * abs(i)) * p.between(0.95, 1.05))
        for i in ways
    ]
    return sorted(row, key=lambda tree: tree[1])


def pad(p: Plate, x: float, y: float, width: float) -> None:
    """A lily leaf lying flat, with the light on its far rim."""
    p.ellipse(x, y + 2, width, width * 0.36, p.ground("#3f8a5a", 0, 0.35))
    p.ellipse(x, y, width * 0.94, width * 0.31, p.ground("#6cb266", 0.05))


def lily(p: Plate, x: float, y: float, size: float) -> None:
    """A cup of five petals around a yellow heart."""
    for turn, shade in ((-62, 0.25), (62, 0.25), (-32, 0.1), (32, 0.1), (0, 0.0)):
        lean = math.radians(turn)
        p.ellipse(
            x + math.sin(lean) * size * 0.55,
            y - math.cos(lean) * size * 0.55,
            size * 0.3,
            size * 0.62,
            p.ink(p.accent, 0, shade),
            1,
            turn,
        )
    p.ellipse(x, y - size * 0.1, size * 0.34, size * 0.26, p.ink("#f4b53a"))


def lilies(p: Plate) -> None:
    bank = p.between(26, 52)
    sky(p, bank)
    ridge(p, bank + 6, 24, p.ground("#6f9a58", 0.4))
    trees(p, bank + 8, 4)
    water(p, bank + 6, ripples=5)
    size = 21 if p.scene.size == "large" else 15
    x, y = spot(p), p.between(112, 126)
    for _ in range(6):
        pad(p, p.between(0, 192), p.between(bank + 26, 184), p.between(0.7, 1.1) * size)
    spread = ((-1.9, -1.7), (1.5, -2.2), (-0.4, 0.1), (1.9, 0.7), (-1.7, 1.7))
    for dx, dy in spread:
        at = (x + dx * size + p.between(-3, 3), y + dy * size + p.between(-3, 3))
        grown = size * (1 + 0.13 * dy)
        pad(p, at[0], at[1], grown * 1.5)
        lily(p, at[0], at[1], grown)


def arch_stones(p: Plate) -> None:
    """A humped three-arched bridge, water line at 0, 176 wide."""
    deck = "M-88 4L-88 -44C-40 -66 40 -66 88 -44L88 4Z"
    arches = "M-26 4L-26 -14A26 29 0 0 1 26 -14L26 4Z"
    arches += "M-75 4L-75 -12A19 20 0 0 1 -37 -12L-37 4ZM37 4L37 -12A19 20 0 0 1 75 -12L75 4Z"
    p.path(deck + arches, p.gradient(p.ink(p.accent), p.ink(p.accent, 0, 0.35)))
    p.path(
        "M-90 -42C-40 -66 40 -66 90 -42L90 -51C40 -75 -40 -75 -90 -51Z",
        p.ground(mix(p.accent, "#ffffff", 0.25)),
    )


def bridge(p: Plate) -> None:
    horizon = p.between(84, 98)
    sky(p, horizon)
    hills(p, horizon, int(p.rng.integers(1, 4)))
    trees(p, horizon + 4, int(p.rng.integers(2, 5)))
    meadow(p, horizon)
    bank = stand(p, 124, 134)
    water(p, bank - 8)
    scale = 0.74 if p.scene.size == "small" else 1.08
    x = 96 + (PLACE_X[p.scene.place] - 96) * 0.85 + p.between(-4, 4)
    river_sides(p, bank, x, scale)
    one(p, x, bank, scale, arch_stones, 0.62)
    snowy_bank(p, 24)


def river_sides(p: Plate, bank: float, x: float, scale: float) -> None:
    """Green banks that carry both ends of the bridge."""
    for way in (-1, 1):
        end = x + way * 80 * scale
        p.path(
            f"M{end - way * 10:.1f} {bank + 3:.1f}C{end:.1f} {bank - 36 * scale:.1f} {end + way * 30:.1f} "
            f"{bank - 44 * scale:.1f} {end + way * 90:.1f} {bank - 42 * scale:.1f}"
            f"L{end + way * 120:.1f} {bank + 20:.1f}Z",
            p.ground("#5f9a45", 0, 0.12),
        )


def chalk_arch(p: Plate) -> None:
    """A headland that ends in an arch, with a needle beside it; the land lies to the left."""
    rock = p.gradient(p.ink(p.accent), p.ink(p.accent, 0, 0.34))
    p.path(
        "M-150 8L-150 -84C-110 -92 -70 -88 -44 -80C-14 -74 6 -70 20 -60C30 -50 30 -20 34 8L12 8"
        "C14 -14 8 -40 -6 -42C-20 -42 -26 -16 -26 8Z",
        rock,
    )
    p.path(
        "M-150 -80C-110 -94 -70 -92 -40 -82C-20 -77 4 -73 18 -62L10 -60C-30 -72 -80 -78 -150 -72Z",
        p.ground("#6fa34a"),
    )
    p.path("M-26 8C-26 -16 -20 -42 -6 -42C-12 -30 -14 -10 -15 8Z", p.ink(p.accent, 0, 0.55))
    p.path(
        "M46 8C48 -20 53 -44 58 -54C64 -42 68 -20 72 8Z", p.gradient(p.ink(p.accent), p.ink(p.accent, 0, 0.4))
    )
    for y in (-58, -34):
        p.line(f"M-140 {y}C-100 {y - 4} -70 {y} -40 {y + 2}", p.ink(p.accent, 0, 0.2), 4.5)


def cliffs(p: Plate) -> None:
    horizon = p.between(88, 108)
    sky(p, horizon)
    water(p, horizon)
    flip = {"left": 1.0, "right": -1.0, "centre": p.side}[p.scene.place]
    scale = 0.86 if p.scene.size == "small" else 1.18
    x = {"left": 58.0, "right": 134.0, "centre": 96.0}[p.scene.place] + p.between(-5, 5)
    y = horizon + p.between(20, 34)
    for mirror, opacity in ((-0.4, 0.35), (1.0, 1.0)):
        with p.placed(x, y, scale, flip, mirror, opacity):
            chalk_arch(p)
    beach(p, flip)


def beach(p: Plate, flip: float) -> None:
    with p.placed(96, 0, 1, flip):
        p.path("M-100 166C-60 160 -20 178 30 184L60 196L-100 196Z", p.ground("#e2c48c"))


def tower_by_the_sea(p: Plate) -> None:
    """A banded lighthouse on its rock, foot at 0."""
    band, wall = p.accent, "#f8f2e4"
    p.path("M-58 12C-52 -10 -36 -16 -22 -18L24 -18C40 -14 54 -4 60 12Z", p.ground("#7a7266", 0, 0.2))
    p.path("M-17 -16L-11 -100L11 -100L17 -16Z", p.gradient(p.ink(wall), p.ink(wall, 0, 0.3), across=True))
    for low, high in ((-24, -44), (-62, -82)):
        left, right = 17 - 6 * (-16 - low) / 84, 17 - 6 * (-16 - high) / 84
        p.path(
            polygon((-left, low), (-right, high), (right, high), (left, low)),
            p.gradient(p.ink(band), p.ink(band, 0, 0.3), across=True),
        )
    p.rect(-17, -106, 34, 7, p.ink("#48536a"), 2)
    p.rect(-10, -122, 20, 17, LAMP if p.light in ("night", "sunset", "snow") else p.ink("#fbe7a0"))
    p.path("M-14 -121L0 -136L14 -121Z", p.ground(band))


def lighthouse(p: Plate) -> None:
    horizon = p.between(96, 118)
    sky(p, horizon)
    if p.rng.random() < 0.5:
        ridge(p, horizon + 4, p.between(8, 16), p.ground("#5f7fc0", 0.6))
    water(p, horizon)
    x, y = spot(p), stand(p, 142, 162)
    scale = 0.86 if p.scene.size == "small" else 1.13
    if p.light == "night":
        beam(p, x, y - 113 * scale)
    one(p, x, y, scale, tower_by_the_sea, 0.3)
    snowy_bank(p, 22)


def beam(p: Plate, x: float, y: float) -> None:
    way = 1 if x < 96 else -1
    p.path(polygon((x, y), (x + way * 190, y - 26), (x + way * 190, y + 20)), LAMP, 0.35)


# ---------------------------------------------------------------- motifs in the country


def stack(p: Plate) -> None:
    """A round stack with a thatched cone, 96 wide."""
    straw = p.accent
    p.path(
        "M-42 0C-50 -22 -44 -36 -36 -40L36 -40C44 -36 50 -22 42 0C24 7 -24 7 -42 0Z",
        p.gradient(p.ink(straw, 0, 0.5), p.ink(straw, 0, 0.1), p.ink(straw), across=True),
    )
    roof = mix(straw, SNOW, 0.6) if p.light == "snow" else mix(straw, "#fff0b0", 0.3)
    p.path(
        "M-50 -34C-34 -58 -14 -80 0 -86C14 -80 34 -58 50 -34C30 -26 -30 -26 -50 -34Z",
        p.gradient(p.ink(roof, 0, 0.42), p.ink(roof), p.ink(roof), across=True),
    )


def haystack(p: Plate) -> None:
    horizon = p.between(84, 106)
    country(p, horizon, "#c9b04a", "#dcc878")
    x, y = spot(p), stand(p, 146, 160)
    shadow(p, x - p.side * 26 * scale_of(p.scene), y + 1, 56 * scale_of(p.scene), 9)
    group(p, x, y, stack)


def house(p: Plate) -> None:
    """A low white house, door and two windows, 104 wide."""
    roof = p.accent
    p.rect(22, -88, 15, 28, p.ink("#a4614c"))
    p.rect(-44, -44, 90, 46, p.gradient(p.ink("#e9ddc6", 0, 0.3), p.ink("#fbf1dc"), across=True))
    p.path("M-54 -40L-36 -78L38 -78L56 -40Z", p.gradient(p.ink(roof), p.ink(roof, 0, 0.3)))
    if p.light == "snow":
        p.path("M-50 -50L-37 -80L39 -80L53 -50C30 -57 -10 -44 -50 -50Z", p.ink(SNOW))
    p.rect(-9, -30, 17, 32, p.ink("#6b4a3a", 0, 0.1), 2)
    for x in (-35, 21):
        p.rect(x, -31, 16, 17, p.pane(), 1.5)


def cottage(p: Plate) -> None:
    country(p, p.between(84, 104))
    x, y = spot(p), stand(p, 142, 158)
    scale = scale_of(p.scene)
    p.path(
        f"M{x - 8 * scale:.1f} {y:.1f}C{x - 14:.1f} {y + 20:.1f} {x - 34:.1f} 180 {x - 40:.1f} 196"
        f"L{x + 16:.1f} 196"
        f"C{x + 8:.1f} 178 {x + 10 * scale:.1f} {y + 16:.1f} {x + 8 * scale:.1f} {y:.1f}Z",
        p.ground("#e3cf9c"),
    )
    group(p, x, y, house, 66)
    garden(p, x, y, scale)


def garden(p: Plate, x: float, y: float, scale: float) -> None:
    for way in (-1, 1):
        if p.rng.random() < 0.7:
            bush(p, x + way * p.between(52, 62) * scale, y + 4, p.between(24, 34) * scale, 0.05)


def chapel(p: Plate) -> None:
    """Nave and steepled tower, 100 wide, 132 high."""
    wall, slate = p.accent, "#5b6684"
    snow = p.light == "snow"
    p.rect(-8, -46, 60, 48, p.gradient(p.ink(wall), p.ink(wall, 0, 0.22)))
    p.path("M-14 -44L2 -72L46 -72L58 -44Z", p.ground(slate, 0, 0.1))
    p.rect(-44, -84, 34, 86, p.gradient(p.ink(wall, 0, 0.32), p.ink(wall), across=True))
    p.path(
        "M-49 -82L-27 -134L-5 -82Z",
        p.gradient(p.ink(slate, 0, 0.25), p.ink(mix(slate, SNOW, 0.75 * snow)), across=True),
    )
    p.path("M-33 -52L-33 -64A6 7 0 0 1 -21 -64L-21 -52Z", p.pane())
    p.path("M-34 2L-34 -18A7 9 0 0 1 -20 -18L-20 2Z", p.ink("#5b4038"))
    for x in (4, 26):
        p.path(f"M{x} -12L{x} -28A6 8 0 0 1 {x + 12} -28L{x + 12} -12Z", p.pane())


def church(p: Plate) -> None:
    country(p, p.between(94, 114))
    x, y = spot(p), stand(p, 144, 160)
    p.ellipse(x, y + 22, 110, 26, p.ground("#6ea549"))
    with p.placed(x, y, 0.84 if p.scene.size == "small" else 1.1, p.side):
        chapel(p)
    garden(p, x, y, scale_of(p.scene))


def mill(p: Plate) -> None:
    """Tapering tower, cap and four broad sails, 104 across."""
    wall = p.accent
    p.path("M-26 2L-15 -66L15 -66L26 2Z", p.gradient(p.ink(wall, 0, 0.35), p.ink(wall), across=True))
    p.path("M-19 -64C-17 -82 -8 -88 0 -88C8 -88 17 -82 19 -64Z", p.ground("#6b4a3c", 0, 0.1))
    p.rect(-7, -20, 14, 22, p.ink("#5d4536"), 2)
    p.rect(-6, -48, 12, 13, p.pane(), 1.5)
    turn = p.between(22, 68)
    for quarter in range(4):
        p.parts.append(f'<g transform="translate(0 -70) rotate({turn + 90 * quarter:.0f})">')
        p.line("M0 0L0 -54", p.ink("#5d4536"), 4.5)
        p.rect(0, -54, 12, 40, p.ink("#f3e6c8" if p.light != "snow" else "#c8a878"), 1)
        p.parts.append("</g>")
    p.ellipse(0, -70, 5, 5, p.ink("#5d4536"))


def windmill(p: Plate) -> None:
    country(p, p.between(104, 124), "#8aa644", "#c3c568")
    x, y = spot(p), stand(p, 146, 164)
    p.ellipse(x, y + 22, 90, 25, p.ground("#7aa247"))
    group(p, x, y, mill, 66)


def engine(p: Plate) -> None:
    """A locomotive running right with one carriage behind; rail at 0."""
    body = p.accent
    p.rect(-104, -44, 50, 34, p.gradient(p.ink("#d9a24a"), p.ink("#d9a24a", 0, 0.3)), 3)
    p.rect(-108, -49, 58, 7, p.ground("#5b4a48"), 3)
    for x in (-97, -75):
        p.rect(x, -37, 14, 13, p.pane(), 1.5)
    p.rect(-44, -58, 32, 48, p.ink(body, 0, 0.15), 2)
    p.rect(-36, -50, 16, 17, p.pane(), 1.5)
    p.rect(-49, -64, 42, 8, p.ground(mix(body, "#20222e", 0.4)), 3)
    p.rect(
        -14, -42, 62, 30, p.gradient(p.ink(mix(body, "#ffffff", 0.3)), p.ink(body), p.ink(body, 0, 0.4)), 9
    )
    p.path("M28 -40L26 -64L44 -64L41 -40Z", p.ink(mix(body, "#20222e", 0.4)))
    p.ellipse(6, -43, 8, 8, p.ink("#e0a83c"))
    p.path("M46 -12L62 0L44 0Z", p.ink(mix(body, "#20222e", 0.5)))
    p.rect(-104, -13, 152, 6, p.ink("#4a455c"), 2)
    for x, radius in ((-92, 8), (-66, 8), (-32, 11), (-4, 11), (24, 11)):
        p.ellipse(x, -radius + 2, radius, radius, p.ink("#4a455c"))
        p.ellipse(x, -radius + 2, radius * 0.45, radius * 0.45, p.ink("#c98a52"))


def smoke(p: Plate, x: float, y: float, scale: float, way: float) -> None:
    """The plume that trails over the carriage."""
    tone = mix(LIGHT[p.light].cloud, "#ffffff", 0.35 if p.light != "night" else 0.2)
    tone = mix(tone, p.look.shade, 0.25) if p.light == "snow" else tone
    for i in range(6):
        p.ellipse(
            x - way * 17 * i * scale,
            y - (6 + 7 * i - 0.4 * i * i) * scale,
            (8 + 3.4 * i) * scale,
            (7 + 2.3 * i) * scale,
            mix(tone, p.look.shade, 0.05 * (5 - i)),
            0.92,
        )


def train(p: Plate) -> None:
    country(p, p.between(86, 106))
    y = stand(p, 140, 154)
    p.path(f"M-4 {y - 2:.1f}L196 {y - 2:.1f}L196 {y + 26:.1f}L-4 {y + 30:.1f}Z", p.ground("#b39b78", 0, 0.1))
    p.rect(0, y, 192, 5, p.ink("#5a4a4c"))
    scale = 0.74 if p.scene.size == "small" else 1.1
    x = spot(p) + p.side * 14 * scale
    smoke(p, x + p.side * 35 * scale, y - 66 * scale, scale, p.side)
    with p.placed(x, y, scale, p.side):
        engine(p)


def blossom_tree(p: Plate) -> None:
    """A forked trunk under a cloud of petals, 100 wide."""
    bark = p.ink("#6b4a40", 0, 0.1)
    p.path("M-8 2C-4 -18 -6 -30 -20 -48L-12 -52L0 -34L14 -54L21 -49C8 -30 6 -18 9 2Z", bark)
    bloom = p.accent
    rounds = ((-30, -58, 23), (30, -58, 23), (0, -52, 22), (-18, -80, 24), (20, -80, 23), (0, -94, 18))
    for x, y, radius in rounds:
        p.ellipse(x, y, radius, radius * 0.86, p.ink(bloom, 0, 0.32))
    for x, y, radius in rounds:
        p.ellipse(x + 5, y - 5, radius * 0.74, radius * 0.6, p.ink(bloom, 0, 0.06))
    for x, y in ((10, -86), (34, -66), (-12, -66)):
        p.ellipse(x, y, 9, 7, p.ink(mix(bloom, "#ffffff", 0.5)))


def orchard(p: Plate) -> None:
    country(p, p.between(92, 116), "#6ea645", "#b4cc66")
    x, y = spot(p), stand(p, 150, 164)
    shadow(p, x - p.side * 12, y + 2, 44 * scale_of(p.scene), 7)
    group(p, x, y, blossom_tree)
    for _ in range(7):
        p.ellipse(
            x + p.between(-50, 50), y + p.between(8, 20), 6, 2.6, p.ink(mix(p.accent, "#ffffff", 0.2)), 0.85
        )


def poppy(p: Plate, x: float, y: float, size: float, depth: float) -> None:
    """Two broad petals and a dark heart, on a stem."""
    p.line(
        f"M{x:.1f} {y:.1f}Q{x + size * 0.3:.1f} {y + size:.1f} {x:.1f} {y + size * 2.2:.1f}",
        p.ink("#3f7a3c", depth),
        max(4.0, size * 0.26),
    )
    p.ellipse(x, y - size * 0.22, size * 0.95, size * 0.72, p.ink(p.accent, depth, 0.28))
    p.ellipse(x, y + size * 0.14, size, size * 0.62, p.ink(p.accent, depth))
    if size > 9:
        p.ellipse(x, y - size * 0.08, size * 0.26, size * 0.24, p.ink("#43304e"))


def poppies(p: Plate) -> None:
    horizon = p.between(62, 88)
    country(p, horizon, "#4f8f3f", "#9cc058")
    x, size = spot(p), 18.0 if p.scene.size == "large" else 12.0
    for row in range(5):
        near = row / 4
        y = horizon + 12 + near * (168 - horizon - 20)
        for _ in range(5 if row < 3 else 4):
            at = x + p.rng.normal(0, 44) if row > 1 else p.between(0, 192)
            poppy(p, at, y + p.between(-5, 5), size * (0.36 + 0.64 * near), 0.25 * (1 - near))
    poppy(p, x, 146, size * 1.25, 0)


def lady(p: Plate) -> None:
    """A woman in a long dress under her parasol, 84 wide and 132 high."""
    dress, skin = "#e9ecf6" if p.light != "snow" else "#7488b8", "#eab899"
    p.line("M15 -74L22 -126", p.ink("#7a5540"), 4)
    p.path(
        "M-9 -80C-12 -64 -10 -58 -14 -46C-24 -24 -30 -10 -33 2"
        "C-12 8 16 8 32 2C24 -22 14 -36 10 -48C11 -58 12 -70 9 -80Z",
        p.gradient(p.ink(dress, 0, 0.45), p.ink(dress), across=True),
    )
    p.path("M-13 -52L12 -52L11 -45L-14 -45Z", p.ink("#4a6ab0"))
    p.line("M7 -76L17 -64L17 -76", p.ink(dress, 0, 0.2), 7)
    p.ellipse(0, -89, 8.5, 9.5, p.ink(skin))
    p.path("M-14 -92C-11 -106 10 -106 14 -92C6 -95 -6 -95 -14 -92Z", p.ink("#d8a848"))
    dome = p.accent
    p.path(
        "M-30 -106C-28 -134 4 -150 30 -143C58 -136 72 -114 70 -92"
        "C60 -100 50 -100 42 -100C32 -108 20 -110 10 -107"
        "C-2 -112 -18 -110 -30 -106Z",
        p.gradient(p.ink(dome), p.ink(dome, 0, 0.3)),
    )
    p.path(
        "M10 -107C8 -122 16 -138 28 -144C38 -134 44 -116 42 -100C32 -108 20 -110 10 -107Z",
        p.ink(mix(dome, "#ffffff", 0.35)),
    )


def parasol(p: Plate) -> None:
    country(p, p.between(100, 130), "#5f9f40", "#a9c85c")
    x, y = spot(p), stand(p, 158, 176)
    p.path(
        smooth([(-8, y - 2), (x - 40, y - 8), (x, y - 12), (x + 50, y - 6), (200, y + 2)])
        + "L200 200L-8 200Z",
        p.ground("#5a9a40", 0, 0.08),
    )
    shadow(p, x - p.side * 30, y + 1, 36, 6)
    group(p, x - p.side * 8, y, lady, 58)


# ---------------------------------------------------------------- still lifes


def room(p: Plate) -> float:
    """A wall, a window that shows the light outside, and a table; the table's edge is returned."""
    wall = str(p.rng.choice(["#b9a5c4", "#9fb6b0", "#cbb08e", "#a8b4cc"]))
    dim = 0.3 if p.light == "night" else 0.0
    p.rect(0, 0, 192, 192, p.gradient(p.ink(wall, 0.1, dim), p.ink(wall, 0, 0.25 + dim)))
    left = {"left": 92.0, "right": 12.0, "centre": 12.0 if p.side > 0 else 92.0}[p.scene.place] + p.between(
        -4, 4
    )
    view(p, left, p.between(12, 18), 88, 96)
    table = p.between(132, 140)
    p.rect(0, table, 192, 60, p.gradient(p.ink("#d99a5c"), p.ink("#b06f40", 0, 0.2)))
    p.rect(0, table, 192, 6, p.ink("#f0c48a"))
    return table


def view(p: Plate, x: float, y: float, w: float, h: float) -> None:
    """The window: its sky, one hill and a broad frame."""
    low = y + h * 0.72
    p.parts.append(
        f'<clipPath id="view"><rect x="{x}" y="{y}" width="{w}" height="{h}"/></clipPath>'
        '<g clip-path="url(#view)">'
    )
    sky(p, low, y, x, w)
    p.path(
        f"M{x} {low:.1f}C{x + w * 0.3:.1f} {low - 14:.1f} {x + w * 0.6:.1f} {low + 8:.1f} {x + w}"
        f" {low - 6:.1f}"
        f"L{x + w} {y + h}L{x} {y + h}Z",
        p.ground("#6fa04e", 0.15),
    )
    if p.light == "snow":
        flakes(p, 40)
    p.parts.append("</g>")
    frame = p.ink("#efe4d0", 0, 0.12)
    outer, inner = (x - 6, y - 6, x + w + 6, y + h + 6), (x, y, x + w, y + h)
    ring = "".join(polygon((a, b), (c, b), (c, d), (a, d)) for a, b, c, d in (outer, inner))
    p.path(ring, frame)
    p.rect(x + w / 2 - 2.5, y, 5, h, frame)


def sunflower(p: Plate, x: float, y: float, size: float) -> None:
    for turn in range(0, 360, 36):
        a = math.radians(turn)
        p.ellipse(
            x + math.cos(a) * size * 0.68,
            y + math.sin(a) * size * 0.68,
            size * 0.4,
            size * 0.24,
            p.ink("#f6c12c", 0, 0.0 if turn % 72 else 0.14),
            1,
            turn,
        )
    p.ellipse(x, y, size * 0.5, size * 0.5, p.ink("#7a4426", 0, 0.15))
    p.ellipse(x + size * 0.1, y - size * 0.1, size * 0.25, size * 0.24, p.ink("#a8643a"))


def bunch(p: Plate) -> None:
    """A vase, foot at 0, with as many flowers as the scene counts."""
    heads = {1: ((0, -106),), 2: ((-26, -94), (24, -108)), 3: ((-34, -88), (34, -92), (0, -122))}[
        p.scene.number
    ]
    size = {1: 36, 2: 30, 3: 27}[p.scene.number]
    for x, y in heads:
        p.line(f"M0 -40Q{x * 0.3:.0f} {y * 0.6:.0f} {x} {y}", p.ink("#4f8a3c"), 5)
    for x, turn in ((-20, 28), (20, -28)):
        p.ellipse(x, -62, 17, 8, p.ink("#5f9a45", 0, 0.1), 1, turn)
    vase = p.accent
    p.path(
        "M-13 -54L13 -54C11 -44 26 -38 26 -20"
        "C26 -6 18 2 12 3L-12 3C-18 2 -26 -6 -26 -20C-26 -38 -11 -44 -13 -54Z",
        p.gradient(p.ink(mix(vase, "#ffffff", 0.3)), p.ink(vase), p.ink(vase, 0, 0.45), across=True),
    )
    for x, y in heads:
        sunflower(p, x, y, size)


def sunflowers(p: Plate) -> None:
    table = room(p)
    x, y = spot(p), table + p.between(20, 30)
    shadow(p, x + 10, y, 36, 6)
    with p.placed(x, y, 0.84 if p.scene.size == "small" else 1.1):
        bunch(p)


def fruit_bowl(p: Plate) -> None:
    """A wide bowl heaped with round fruit, 112 wide."""
    heap = ((-30, -48, 17), (30, -48, 17), (0, -52, 18), (-16, -70, 17), (17, -71, 17))
    for x, y, radius in heap:
        p.ellipse(x, y, radius, radius, p.ink(p.accent, 0, 0.3))
        p.ellipse(x + 2, y - 2, radius * 0.8, radius * 0.8, p.ink(p.accent))
        p.ellipse(x + 5, y - 6, radius * 0.34, radius * 0.28, p.ink(mix(p.accent, "#fff6d0", 0.65)))
    p.path(
        "M-56 -44L56 -44C52 -18 34 -4 18 -2L18 4L-18 4L-18 -2C-34 -4 -52 -18 -56 -44Z",
        p.gradient(p.ink("#f3efe6"), p.ink("#dfe4ee"), p.ink("#aab8d6", 0, 0.3), across=True),
    )
    p.path("M-52 -32C-30 -22 30 -22 52 -32L50 -25C28 -15 -28 -15 -50 -25Z", p.ink("#4a74b8"))


def fruit(p: Plate) -> None:
    table = room(p)
    x, y = spot(p), table + p.between(24, 34)
    scale = 0.8 if p.scene.size == "small" else 1.18
    shadow(p, x + 10 * scale, y, 50 * scale, 7)
    with p.placed(x, y, scale):
        fruit_bowl(p)
    for way in p.rng.permutation([-1, 1])[: int(p.rng.integers(1, 3))]:
        at = x + way * 66 * scale
        p.ellipse(at, y - 8 * scale, 15 * scale, 15 * scale, p.ink(p.accent, 0, 0.3))
        p.ellipse(at + 2, y - 10 * scale, 11.5 * scale, 11.5 * scale, p.ink(p.accent))


# ---------------------------------------------------------------- drawing


MOTIF: dict[str, Callable[[Plate], None]] = {
    "boat": boat,
    "haystack": haystack,
    "poplars": poplars,
    "cottage": cottage,
    "lilies": lilies,
    "poppies": poppies,
    "bridge": bridge,
    "church": church,
    "windmill": windmill,
    "cliffs": cliffs,
    "train": train,
    "lighthouse": lighthouse,
    "orchard": orchard,
    "sunflowers": sunflowers,
    "fruit": fruit,
    "parasol": parasol,
}
INDOORS = ("sunflowers", "fruit")


def svg_of(scene: Scene) -> str:
    """The scene as an SVG document."""
    plate = Plate(scene)
    MOTIF[scene.subject](plate)
    if scene.light == "snow" and scene.subject not in INDOORS:
        flakes(plate)
    return plate.svg()


def draw(scene: Scene, side: int = 192) -> np.ndarray:
    """The scene as uint8 RGB of shape (side, side, 3)."""
    png = resvg_py.svg_to_bytes(svg_string=svg_of(scene), width=side, height=side, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))


def contact_sheet(subjects: tuple[str, ...] = SUBJECTS, side: int = 192, seed: int = 0) -> np.ndarray:
    """Rows of subjects, columns of lights; all else at random."""
    rng = np.random.default_rng(seed)
    rows = []
    for subject in subjects:
        scenes = [random_scene(rng) for _ in LIGHTS]
        rows.append(
            np.hstack(
                [
                    draw(
                        Scene(
                            subject,
                            light,
                            s.place,
                            s.number if subject in NUMBERED else 1,
                            str(rng.choice(list(COLOURS[subject]))),
                            s.size,
                            s.seed,
                        ),
                        side,
                    )
                    for light, s in zip(LIGHTS, scenes, strict=False)
                ]
            )
        )
    return np.vstack(rows)


def main() -> None:
    from training.miniature.brush import paint_over  # Here, so that drawing alone needs no OpenCV.

    out = Path(sys.argv[1])
    sheet = contact_sheet()
    Image.fromarray(sheet).save(out)
    tiles = [
        [paint_over(tile, 6 * i + j) for j, tile in enumerate(np.hsplit(row, len(LIGHTS)))]
        for i, row in enumerate(np.vsplit(sheet, len(SUBJECTS)))
    ]
    Image.fromarray(np.vstack([np.hstack(row) for row in tiles])).save(out.with_stem(out.stem + "_painted"))


if __name__ == "__main__":
    main()
