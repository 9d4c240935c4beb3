"""Still lifes in a room whose window shows the light: sunflowers in a vase, a bowl of fruit."""

from __future__ import annotations

import math

from tools.miniature.light import mix
from tools.miniature.scenery import flakes, shadow, sky, spot
from tools.miniature.shapes import Plate, polygon


def room(p: Plate) -> float:
    """A wall, a window that shows the light outside, and a table; the table's edge is returned."""
    wall = str(p.surroundings.choice(["#b9a5c4", "#9fb6b0", "#cbb08e", "#a8b4cc"]))
    dim = 0.3 if p.light == "night" else 0.0
    p.rect(0, 0, 192, 192, p.gradient(p.ink(wall, 0.1, dim), p.ink(wall, 0, 0.25 + dim)))
    left = p.by_place(92.0, 12.0 if p.side > 0 else 92.0, 12.0) + p.between(-4, 4)
    view(p, left, p.between(12, 18), 88, 96)
    table = p.between(132, 140)
    p.rect(0, table, 192, 60, p.gradient(p.ink("#d99a5c"), p.ink("#b06f40", 0, 0.2)))
    p.rect(0, table, 192, 6, p.ink("#f0c48a"))
    return table


def view(p: Plate, x: float, y: float, w: float, h: float) -> None:
    """The window: its sky, one hill and a broad frame."""
    low = y + h * 0.72
    hill = (
        f"M{x} {low:.1f}C{x + w * 0.3:.1f} {low - 14:.1f} {x + w * 0.6:.1f} {low + 8:.1f} {x + w} {low - 6:.1f}"
        f"L{x + w} {y + h}L{x} {y + h}Z"
    )
    p.parts.append(f'<clipPath id="view"><rect x="{x}" y="{y}" width="{w}" height="{h}"/></clipPath>')
    with p.within('clip-path="url(#view)"'):
        sky(p, low, y, x, w)
        p.path(hill, p.ground("#6fa04e", 0.15))
        if p.snow:
            flakes(p, 40)
    frame = p.ink("#efe4d0", 0, 0.12)
    outer, inner = (x - 6, y - 6, x + w + 6, y + h + 6), (x, y, x + w, y + h)
    ring = "".join(polygon((a, b), (c, b), (c, d), (a, d)) for a, b, c, d in (outer, inner))
    p.path(ring, frame)
    p.rect(x + w / 2 - 2.5, y, 5, h, frame)


def sunflower(p: Plate, x: float, y: float, size: float) -> None:
    """A wheel of ten petals around a brown heart."""
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
    p.disc(x, y, size * 0.5, p.ink("#7a4426", 0, 0.15))
    p.ellipse(x + size * 0.1, y - size * 0.1, size * 0.25, size * 0.24, p.ink("#a8643a"))


def bunch(p: Plate) -> None:
    """A vase, foot at 0, with as many flowers as the scene counts."""
    size, heads = {
        1: (36, [(0, -106)]),
        2: (30, [(-26, -94), (24, -108)]),
        3: (27, [(-34, -88), (34, -92), (0, -122)]),
    }[p.scene.number]
    for x, y in heads:
        p.line(f"M0 -40Q{x * 0.3:.0f} {y * 0.6:.0f} {x} {y}", p.ink("#4f8a3c"), 5)
    for x, turn in ((-20, 28), (20, -28)):
        p.ellipse(x, -62, 17, 8, p.ink("#5f9a45", 0, 0.1), 1, turn)
    vase = p.accent
    p.path(
        "M-13 -54L13 -54C11 -44 26 -38 26 -20C26 -6 18 2 12 3L-12 3C-18 2 -26 -6 -26 -20C-26 -38 -11 -44 -13 -54Z",
        p.gradient(p.ink(mix(vase, "#ffffff", 0.3)), p.ink(vase), p.ink(vase, 0, 0.45), across=True),
    )
    for x, y in heads:
        sunflower(p, x, y, size)


def sunflowers(p: Plate) -> None:
    table = room(p)
    x, y = spot(p), table + p.between(20, 30)
    shadow(p, x + 10, y, 36, 6)
    with p.placed(x, y, p.by_size(0.84, 1.1)):
        bunch(p)


def fruit_bowl(p: Plate) -> None:
    """A wide bowl heaped with round fruit, 112 wide."""
    heap = ((-30, -48, 17), (30, -48, 17), (0, -52, 18), (-16, -70, 17), (17, -71, 17))
    for x, y, radius in heap:
        p.disc(x, y, radius, p.ink(p.accent, 0, 0.3))
        p.disc(x + 2, y - 2, radius * 0.8, p.ink(p.accent))
        p.ellipse(x + 5, y - 6, radius * 0.34, radius * 0.28, p.ink(mix(p.accent, "#fff6d0", 0.65)))
    p.path(
        "M-56 -44L56 -44C52 -18 34 -4 18 -2L18 4L-18 4L-18 -2C-34 -4 -52 -18 -56 -44Z",
        p.gradient(p.ink("#f3efe6"), p.ink("#dfe4ee"), p.ink("#aab8d6", 0, 0.3), across=True),
    )
    p.path("M-52 -32C-30 -22 30 -22 52 -32L50 -25C28 -15 -28 -15 -50 -25Z", p.ink("#4a74b8"))


def fruit(p: Plate) -> None:
    table = room(p)
    x, y = spot(p), table + p.between(24, 34)
    scale = p.by_size(0.8, 1.18)
    shadow(p, x + 10 * scale, y, 50 * scale, 7)
    with p.placed(x, y, scale):
        fruit_bowl(p)
    for way in p.rng.permutation([-1, 1])[: int(p.rng.integers(1, 3))]:
        at = x + way * 66 * scale
        p.disc(at, y - 8 * scale, 15 * scale, p.ink(p.accent, 0, 0.3))
        p.disc(at + 2, y - 10 * scale, 11.5 * scale, p.ink(p.accent))
