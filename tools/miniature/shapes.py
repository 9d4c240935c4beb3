"""The sheet that a scene is drawn on, and the shapes it knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tools.miniature.light import LAMP, LIGHT, SNOW, lit, mix

if TYPE_CHECKING:
    from tools.miniature.world import Scene

Choice = TypeVar("Choice")
Points = Sequence[tuple[float, float]]


class Plate:
    """A 192 x 192 sheet that collects SVG, knows its light and holds the scene's random generator."""

    def __init__(self, scene: Scene, accent: str, rng: np.random.Generator, surroundings: np.random.Generator) -> None:
        self.scene = scene
        self.accent = accent  # The local colour that scene.colour names.
        self.rng = rng  # for the subject itself: the same in every variant
        self.surroundings = surroundings  # for sky, hills, trees and ripples
        self.light = scene.light
        self.look = LIGHT[scene.light]
        self.snow = scene.light == "snow"
        self.side = 1.0 if rng.random() < 0.5 else -1.0  # The side that the light comes from.
        self.defs: list[str] = []
        self.parts: list[str] = []

    # ---------------------------------------------------------------- what the scene settles

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def vary(self, low: float, high: float) -> float:
        """Like `between`, for the surroundings."""
        return float(self.surroundings.uniform(low, high))

    def by_size(self, small: float, large: float) -> float:
        return small if self.scene.size == "small" else large

    def by_place(self, left: Choice, centre: Choice, right: Choice) -> Choice:
        return {"left": left, "centre": centre, "right": right}[self.scene.place]

    # ---------------------------------------------------------------- colours

    def ink(self, local: str, depth: float = 0.0, shade: float = 0.0) -> str:
        """A local colour under the scene's light."""
        return lit(local, self.look, depth, shade)

    def ground(self, local: str, depth: float = 0.0, shade: float = 0.0) -> str:
        """A colour of something that snow would lie on."""
        return self.ink(mix(local, SNOW, 0.9 * self.snow), depth, shade * 0.8)

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

    def shaded(self, local: str, *shades: float, across: bool = False) -> str:
        """A gradient of one local colour through several depths of shadow."""
        return self.gradient(*(self.ink(local, 0, shade) for shade in shades), across=across)

    # ---------------------------------------------------------------- shapes

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

    def disc(self, x: float, y: float, radius: float, fill: str, opacity: float = 1.0) -> None:
        self.ellipse(x, y, radius, radius, fill, opacity)

    def glow(self, colour: str, x: float, y: float, radius: float, strength: float) -> None:
        """A disc of light that fades out to its rim."""
        name = f"g{len(self.defs)}"
        self.defs.append(
            f'<radialGradient id="{name}"><stop offset="0" stop-color="{colour}" stop-opacity="{strength}"/>'
            f'<stop offset="1" stop-color="{colour}" stop-opacity="0"/></radialGradient>'
        )
        self.disc(x, y, radius, f"url(#{name})")

    # ---------------------------------------------------------------- groups

    @contextmanager
    def within(self, attributes: str) -> Iterator[None]:
        """Draw inside an SVG group."""
        self.parts.append(f"<g {attributes}>")
        yield
        self.parts.append("</g>")

    @contextmanager
    def placed(
        self, x: float, y: float, scale: float, flip: float = 1.0, mirror: float = 1.0, opacity: float = 1.0
    ) -> Iterator[None]:
        """Draw in a motif's own coordinates; `mirror` -0.7, say, turns it upside down as a reflection."""
        sizes = f"{scale * flip:.3f} {scale * mirror:.3f}"
        with self.within(f'transform="translate({x:.1f} {y:.1f}) scale({sizes})" opacity="{opacity:.2f}"'):
            yield

    def svg(self) -> str:
        """All that was drawn, as a document."""
        defs, parts = "".join(self.defs), "".join(self.parts)
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 192 192"><defs>{defs}</defs>{parts}</svg>'


def smooth(points: Points) -> str:
    """A curve through the points (Catmull-Rom), as the start of a path."""
    padded = [points[0], *points, points[-1]]
    d = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    # Four neighbours at a time: the shortest of the shifted lists ends the curve.
    for (ax, ay), (bx, by), (cx, cy), (ex, ey) in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        d += (
            f"C{bx + (cx - ax) / 6:.1f} {by + (cy - ay) / 6:.1f} {cx - (ex - bx) / 6:.1f} "
            f"{cy - (ey - by) / 6:.1f} {cx:.1f} {cy:.1f}"
        )
    return d


def below(points: Points) -> str:
    """All of the sheet that lies under the curve through the points."""
    return smooth(points) + "L200 200L-8 200Z"


def polygon(*points: tuple[float, float]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"
