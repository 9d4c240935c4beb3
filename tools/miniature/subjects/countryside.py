"""Motifs in the country: haystack, cottage, church, windmill, train, orchard, poppies, a lady with a parasol."""

from __future__ import annotations

from tools.miniature.light import SNOW, mix
from tools.miniature.scenery import bush, country, group, one, scale_of, shadow, spot, stand
from tools.miniature.shapes import Plate, below


def window(p: Plate, x: float, y: float, w: float, h: float) -> None:
    p.rect(x, y, w, h, p.pane(), 1.5)


def stack(p: Plate) -> None:
    """A round stack with a thatched cone, 96 wide."""
    straw = p.accent
    p.path(
        "M-42 0C-50 -22 -44 -36 -36 -40L36 -40C44 -36 50 -22 42 0C24 7 -24 7 -42 0Z",
        p.shaded(straw, 0.5, 0.1, 0, across=True),
    )
    roof = mix(straw, SNOW, 0.6) if p.snow else mix(straw, "#fff0b0", 0.3)
    p.path(
        "M-50 -34C-34 -58 -14 -80 0 -86C14 -80 34 -58 50 -34C30 -26 -30 -26 -50 -34Z",
        p.shaded(roof, 0.42, 0, 0, across=True),
    )


def haystack(p: Plate) -> None:
    horizon = p.between(84, 106)
    country(p, horizon, "#c9b04a", "#dcc878")
    x, y = spot(p), stand(p, 146, 160)
    shadow(p, x - p.side * 26 * scale_of(p), y + 1, 56 * scale_of(p), 9)
    group(p, x, y, stack)


def house(p: Plate) -> None:
    """A low white house, door and two windows, 104 wide."""
    p.rect(22, -88, 15, 28, p.ink("#a4614c"))
    p.rect(-44, -44, 90, 46, p.gradient(p.ink("#e9ddc6", 0, 0.3), p.ink("#fbf1dc"), across=True))
    p.path("M-54 -40L-36 -78L38 -78L56 -40Z", p.shaded(p.accent, 0, 0.3))
    if p.snow:
        p.path("M-50 -50L-37 -80L39 -80L53 -50C30 -57 -10 -44 -50 -50Z", p.ink(SNOW))
    p.rect(-9, -30, 17, 32, p.ink("#6b4a3a", 0, 0.1), 2)
    for x in (-35, 21):
        window(p, x, -31, 16, 17)


def cottage(p: Plate) -> None:
    country(p, p.between(84, 104))
    x, y = spot(p), stand(p, 142, 158)
    scale = scale_of(p)
    footpath = (
        f"M{x - 8 * scale:.1f} {y:.1f}C{x - 14:.1f} {y + 20:.1f} {x - 34:.1f} 180 {x - 40:.1f} 196L{x + 16:.1f} 196"
        f"C{x + 8:.1f} 178 {x + 10 * scale:.1f} {y + 16:.1f} {x + 8 * scale:.1f} {y:.1f}Z"
    )
    p.path(footpath, p.ground("#e3cf9c"))
    group(p, x, y, house, 66)
    garden(p, x, y)


def garden(p: Plate, x: float, y: float) -> None:
    """Bushes on both sides of a building."""
    scale = scale_of(p)
    for way in (-1, 1):
        if p.rng.random() < 0.7:
            bush(p, x + way * p.between(52, 62) * scale, y + 4, p.between(24, 34) * scale, 0.05)


def chapel(p: Plate) -> None:
    """Nave and steepled tower, 100 wide, 132 high."""
    wall, slate = p.accent, "#5b6684"
    p.rect(-8, -46, 60, 48, p.shaded(wall, 0, 0.22))
    p.path("M-14 -44L2 -72L46 -72L58 -44Z", p.ground(slate, 0, 0.1))
    p.rect(-44, -84, 34, 86, p.shaded(wall, 0.32, 0, across=True))
    p.path(
        "M-49 -82L-27 -134L-5 -82Z",
        p.gradient(p.ink(slate, 0, 0.25), p.ink(mix(slate, SNOW, 0.75 * p.snow)), across=True),
    )
    p.path("M-33 -52L-33 -64A6 7 0 0 1 -21 -64L-21 -52Z", p.pane())
    p.path("M-34 2L-34 -18A7 9 0 0 1 -20 -18L-20 2Z", p.ink("#5b4038"))
    for x in (4, 26):
        p.path(f"M{x} -12L{x} -28A6 8 0 0 1 {x + 12} -28L{x + 12} -12Z", p.pane())


def church(p: Plate) -> None:
    country(p, p.between(94, 114))
    x, y = spot(p), stand(p, 144, 160)
    p.ellipse(x, y + 22, 110, 26, p.ground("#6ea549"))
    one(p, x, y, p.by_size(0.84, 1.1), chapel)
    garden(p, x, y)


def mill(p: Plate) -> None:
    """Tapering tower, cap and four broad sails, 104 across."""
    p.path("M-26 2L-15 -66L15 -66L26 2Z", p.shaded(p.accent, 0.35, 0, across=True))
    p.path("M-19 -64C-17 -82 -8 -88 0 -88C8 -88 17 -82 19 -64Z", p.ground("#6b4a3c", 0, 0.1))
    p.rect(-7, -20, 14, 22, p.ink("#5d4536"), 2)
    window(p, -6, -48, 12, 13)
    turn = p.between(22, 68)
    for quarter in range(4):
        with p.within(f'transform="translate(0 -70) rotate({turn + 90 * quarter:.0f})"'):
            p.line("M0 0L0 -54", p.ink("#5d4536"), 4.5)
            p.rect(0, -54, 12, 40, p.ink("#c8a878" if p.snow else "#f3e6c8"), 1)
    p.disc(0, -70, 5, p.ink("#5d4536"))


def windmill(p: Plate) -> None:
    country(p, p.between(104, 124), "#8aa644", "#c3c568")
    x, y = spot(p), stand(p, 146, 164)
    p.ellipse(x, y + 22, 90, 25, p.ground("#7aa247"))
    group(p, x, y, mill, 66)


def engine(p: Plate) -> None:
    """A locomotive running right with one carriage behind; rail at 0."""
    body, dark = p.accent, mix(p.accent, "#20222e", 0.4)
    p.rect(-104, -44, 50, 34, p.shaded("#d9a24a", 0, 0.3), 3)
    p.rect(-108, -49, 58, 7, p.ground("#5b4a48"), 3)
    for x in (-97, -75):
        window(p, x, -37, 14, 13)
    p.rect(-44, -58, 32, 48, p.ink(body, 0, 0.15), 2)
    window(p, -36, -50, 16, 17)
    p.rect(-49, -64, 42, 8, p.ground(dark), 3)
    p.rect(-14, -42, 62, 30, p.gradient(p.ink(mix(body, "#ffffff", 0.3)), p.ink(body), p.ink(body, 0, 0.4)), 9)
    p.path("M28 -40L26 -64L44 -64L41 -40Z", p.ink(dark))
    p.disc(6, -43, 8, p.ink("#e0a83c"))
    p.path("M46 -12L62 0L44 0Z", p.ink(mix(body, "#20222e", 0.5)))
    p.rect(-104, -13, 152, 6, p.ink("#4a455c"), 2)
    for x, radius in ((-92, 8), (-66, 8), (-32, 11), (-4, 11), (24, 11)):
        p.disc(x, -radius + 2, radius, p.ink("#4a455c"))
        p.disc(x, -radius + 2, radius * 0.45, p.ink("#c98a52"))


def smoke(p: Plate, x: float, y: float, scale: float, way: float) -> None:
    """The plume that trails over the carriage."""
    tone = mix(p.look.cloud, "#ffffff", 0.35 if p.light != "night" else 0.2)
    tone = mix(tone, p.look.shade, 0.25 * p.snow)
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
    scale = p.by_size(0.74, 1.1)
    x = spot(p) + p.side * 14 * scale
    smoke(p, x + p.side * 35 * scale, y - 66 * scale, scale, p.side)
    one(p, x, y, scale, engine)


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
    shadow(p, x - p.side * 12, y + 2, 44 * scale_of(p), 7)
    group(p, x, y, blossom_tree)
    for _ in range(7):
        p.ellipse(x + p.between(-50, 50), y + p.between(8, 20), 6, 2.6, p.ink(mix(p.accent, "#ffffff", 0.2)), 0.85)


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
    x, size = spot(p), p.by_size(12.0, 18.0)
    for row in range(5):
        near = row / 4
        y = horizon + 12 + near * (168 - horizon - 20)
        for _ in range(5 if row < 3 else 4):
            at = x + p.rng.normal(0, 44) if row > 1 else p.between(0, 192)
            poppy(p, at, y + p.between(-5, 5), size * (0.36 + 0.64 * near), 0.25 * (1 - near))
    poppy(p, x, 146, size * 1.25, 0)


def lady(p: Plate) -> None:
    """A woman in a long dress under her parasol, 84 wide and 132 high."""
    dress = "#7488b8" if p.snow else "#e9ecf6"
    p.line("M15 -74L22 -126", p.ink("#7a5540"), 4)
    p.path(
        "M-9 -80C-12 -64 -10 -58 -14 -46C-24 -24 -30 -10 -33 2"
        "C-12 8 16 8 32 2C24 -22 14 -36 10 -48C11 -58 12 -70 9 -80Z",
        p.shaded(dress, 0.45, 0, across=True),
    )
    p.path("M-13 -52L12 -52L11 -45L-14 -45Z", p.ink("#4a6ab0"))
    p.line("M7 -76L17 -64L17 -76", p.ink(dress, 0, 0.2), 7)
    p.ellipse(0, -89, 8.5, 9.5, p.ink("#eab899"))
    p.path("M-14 -92C-11 -106 10 -106 14 -92C6 -95 -6 -95 -14 -92Z", p.ink("#d8a848"))
    dome = p.accent
    p.path(
        "M-30 -106C-28 -134 4 -150 30 -143C58 -136 72 -114 70 -92"
        "C60 -100 50 -100 42 -100C32 -108 20 -110 10 -107"
        "C-2 -112 -18 -110 -30 -106Z",
        p.shaded(dome, 0, 0.3),
    )
    p.path(
        "M10 -107C8 -122 16 -138 28 -144C38 -134 44 -116 42 -100C32 -108 20 -110 10 -107Z",
        p.ink(mix(dome, "#ffffff", 0.35)),
    )


def parasol(p: Plate) -> None:
    country(p, p.between(100, 130), "#5f9f40", "#a9c85c")
    x, y = spot(p), stand(p, 158, 176)
    knoll = [(-8, y - 2), (x - 40, y - 8), (x, y - 12), (x + 50, y - 6), (200, y + 2)]
    p.path(below(knoll), p.ground("#5a9a40", 0, 0.08))
    shadow(p, x - p.side * 30, y + 1, 36, 6)
    group(p, x - p.side * 8, y, lady, 58)
