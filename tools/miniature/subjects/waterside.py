"""Motifs by the water: boat, poplars on a bank, lilies, bridge, cliffs, lighthouse."""

from __future__ import annotations

import math

from tools.miniature.light import LAMP, SNOW, mix
from tools.miniature.scenery import group, hills, meadow, one, ridge, sea, sky, snowy_bank, spot, stand, trees, water
from tools.miniature.shapes import Plate, Points, polygon


def sailing_boat(p: Plate) -> None:
    """Hull and two sails, foot at the water line, 92 wide and 104 high."""
    sail = p.accent
    p.line("M0 -8L0 -104", p.ink("#6b4a35"), 4)
    p.path("M4 -102C34 -74 46 -44 46 -20L4 -20Z", p.shaded(sail, 0, 0.22))
    p.path("M-5 -94C-10 -60 -24 -34 -40 -20L-5 -20Z", p.ink(sail, 0, 0.16))
    p.path("M-48 -15L50 -15C46 2 38 8 26 8L-28 8C-40 8 -46 -4 -48 -15Z", p.ink("#7a4632", 0, 0.12))
    p.rect(-46, -16, 95, 5.5, p.ink("#e9dcc2"), 2)


def boat(p: Plate) -> None:
    horizon = p.between(78, 108)
    sea(p, horizon, 0.6, 20)
    group(p, spot(p), stand(p, 136, 150), sailing_boat, mirror=0.5)
    snowy_bank(p, 22)


def poplar(p: Plate, height: float) -> None:
    """One tall flame of leaves with its lit side, foot just below 0."""
    foot = 4
    top, low, wide = foot - height, foot - height * 0.12, height * 0.115 * 1.05
    belly = top + height * 0.3
    leaf = mix(p.accent, SNOW, 0.45 * p.snow)
    p.line(f"M0 {foot}L0 {foot - height * 0.3:.1f}", p.ink("#6b4a38"), 4.5)
    flame = (
        f"M0 {top:.1f}C{wide:.1f} {belly:.1f} {wide * 1.3:.1f} {low:.1f} 0 {low:.1f}"
        f"C{-wide * 1.3:.1f} {low:.1f} {-wide:.1f} {belly:.1f} 0 {top:.1f}Z"
    )
    p.path(flame, p.gradient(p.ink(leaf, 0, 0.4), p.ink(mix(leaf, "#ffe98a", 0.2)), across=True))


def poplars(p: Plate) -> None:
    horizon = p.between(112, 126)
    sky(p, horizon)
    hills(p, horizon, 2)
    meadow(p, horizon)
    bank = horizon + p.between(12, 18)
    water(p, bank)
    row = poplar_row(p)
    for mirror, opacity in ((-0.75, 0.4), (1, 1)):
        for x, height in row:
            with p.placed(x, bank, 1, 1, mirror, opacity):
                poplar(p, height)
    p.rect(0, bank - 1, 192, 6, p.ground("#4f8040", 0, 0.2), 3)
    snowy_bank(p, 20)


def poplar_row(p: Plate) -> Points:
    """Where the trees stand and how tall: falling away from the place of the nearest."""
    tall = p.by_size(84.0, 112.0)
    step = p.by_size(22.0, 27.0)
    start = spot(p) + p.by_place(-30, 0, 30)
    ways = p.by_place([0, 1, 2, 3, 4, 5], [-3, 3, -2, 2, -1, 1, 0], [0, -1, -2, -3, -4, -5])
    row = [(start + i * step * (1 - 0.05 * abs(i)), tall * (1 - 0.11 * abs(i)) * p.between(0.95, 1.05)) for i in ways]
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
    size = p.by_size(15, 21)
    x, y = spot(p), p.between(112, 126)
    for _ in range(6):
        pad(p, p.between(0, 192), p.between(bank + 26, 184), p.between(0.7, 1.1) * size)
    for dx, dy in ((-1.9, -1.7), (1.5, -2.2), (-0.4, 0.1), (1.9, 0.7), (-1.7, 1.7)):
        at_x, at_y = x + dx * size + p.between(-3, 3), y + dy * size + p.between(-3, 3)
        grown = size * (1 + 0.13 * dy)
        pad(p, at_x, at_y, grown * 1.5)
        lily(p, at_x, at_y, grown)


def arch_stones(p: Plate) -> None:
    """A humped three-arched bridge, water line at 0, 176 wide."""
    deck = "M-88 4L-88 -44C-40 -66 40 -66 88 -44L88 4Z"
    arches = "M-26 4L-26 -14A26 29 0 0 1 26 -14L26 4Z"
    arches += "M-75 4L-75 -12A19 20 0 0 1 -37 -12L-37 4ZM37 4L37 -12A19 20 0 0 1 75 -12L75 4Z"
    p.path(deck + arches, p.shaded(p.accent, 0, 0.35))
    p.path(
        "M-90 -42C-40 -66 40 -66 90 -42L90 -51C40 -75 -40 -75 -90 -51Z",
        p.ground(mix(p.accent, "#ffffff", 0.25)),
    )


def bridge(p: Plate) -> None:
    horizon = p.between(84, 98)
    sky(p, horizon)
    hills(p, horizon, 3)
    trees(p, horizon + 4, int(p.surroundings.integers(2, 5)))
    meadow(p, horizon)
    bank = stand(p, 124, 134)
    water(p, bank - 8)
    scale = p.by_size(0.74, 1.08)
    x = p.by_place(62.0, 96.0, 130.0) + p.between(-4, 4)
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
    p.path(
        "M-150 8L-150 -84C-110 -92 -70 -88 -44 -80C-14 -74 6 -70 20 -60C30 -50 30 -20 34 8L12 8"
        "C14 -14 8 -40 -6 -42C-20 -42 -26 -16 -26 8Z",
        p.shaded(p.accent, 0, 0.34),
    )
    p.path(
        "M-150 -80C-110 -94 -70 -92 -40 -82C-20 -77 4 -73 18 -62L10 -60C-30 -72 -80 -78 -150 -72Z",
        p.ground("#6fa34a"),
    )
    p.path("M-26 8C-26 -16 -20 -42 -6 -42C-12 -30 -14 -10 -15 8Z", p.ink(p.accent, 0, 0.55))
    p.path("M46 8C48 -20 53 -44 58 -54C64 -42 68 -20 72 8Z", p.shaded(p.accent, 0, 0.4))
    for y in (-58, -34):
        p.line(f"M-140 {y}C-100 {y - 4} -70 {y} -40 {y + 2}", p.ink(p.accent, 0, 0.2), 4.5)


def cliffs(p: Plate) -> None:
    horizon = p.between(88, 108)
    sky(p, horizon)
    water(p, horizon)
    flip = p.by_place(1.0, p.side, -1.0)
    scale = p.by_size(0.86, 1.18)
    x = p.by_place(58.0, 96.0, 134.0) + p.between(-5, 5)
    y = horizon + p.between(20, 34)
    for mirror, opacity in ((-0.4, 0.35), (1, 1)):
        with p.placed(x, y, scale, flip, mirror, opacity):
            chalk_arch(p)
    with p.placed(96, 0, 1, flip):
        p.path("M-100 166C-60 160 -20 178 30 184L60 196L-100 196Z", p.ground("#e2c48c"))


def tower_by_the_sea(p: Plate) -> None:
    """A banded lighthouse on its rock, foot at 0."""
    band, wall = p.accent, "#f8f2e4"
    p.path("M-58 12C-52 -10 -36 -16 -22 -18L24 -18C40 -14 54 -4 60 12Z", p.ground("#7a7266", 0, 0.2))
    p.path("M-17 -16L-11 -100L11 -100L17 -16Z", p.shaded(wall, 0, 0.3, across=True))
    for low, high in ((-24, -44), (-62, -82)):
        wide, narrow = 17 - 6 * (-16 - low) / 84, 17 - 6 * (-16 - high) / 84
        p.path(
            polygon((-wide, low), (-narrow, high), (narrow, high), (wide, low)),
            p.shaded(band, 0, 0.3, across=True),
        )
    p.rect(-17, -106, 34, 7, p.ink("#48536a"), 2)
    p.rect(-10, -122, 20, 17, LAMP if p.light in ("night", "sunset", "snow") else p.ink("#fbe7a0"))
    p.path("M-14 -121L0 -136L14 -121Z", p.ground(band))


def lighthouse(p: Plate) -> None:
    horizon = p.between(96, 118)
    sea(p, horizon, 0.5, 16)
    x, y = spot(p), stand(p, 142, 162)
    scale = p.by_size(0.86, 1.13)
    if p.light == "night":
        beam(p, x, y - 113 * scale)
    one(p, x, y, scale, tower_by_the_sea, 0.3)
    snowy_bank(p, 22)


def beam(p: Plate, x: float, y: float) -> None:
    """The lighthouse's light, thrown over the wider side of the sea."""
    way = 1 if x < 96 else -1
    p.path(polygon((x, y), (x + way * 190, y - 26), (x + way * 190, y + 20)), LAMP, 0.35)
