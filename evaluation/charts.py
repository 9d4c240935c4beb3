"""The dashboard's drawings, as HTML and SVG that take their colours from dashboard.css."""

import html
from collections.abc import Sequence

from impressionism.records import AtStrength, Estimate

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 280, 44, 16, 14, 34  # px of a curve and of the space around its field

Mark = tuple[str, Estimate]
"""Its class, and where it lies."""


def text(words: object) -> str:
    return html.escape(str(words), quote=True)


def number(value: float) -> str:
    """Three digits that count, and no exponent."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:.0f}"
    digits = max(0, 2 - int(f"{abs(value):e}".split("e")[1]))
    return f"{value:.{min(digits, 4)}f}"


def told(estimate: Estimate) -> str:
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}], n = {estimate.n}"


def track(label: str, note: str, band: tuple[float, float], marks: Sequence[Mark], span: tuple[float, float]) -> str:
    """A row: a name, and on a line the band of real paintings and the marks with their intervals."""
    low, high = span

    def place(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - low) / (high - low or 1)))

    parts = [f'<span class="band" style="left:{place(band[0]):.1f}%;right:{100 - place(band[1]):.1f}%"></span>']
    for kind, estimate in marks:
        left, right = place(estimate.low), 100 - place(estimate.high)
        parts.append(f'<span class="reach {kind}" style="left:{left:.1f}%;right:{right:.1f}%"></span>')
        parts.append(f'<span class="dot {kind}" style="left:{place(estimate.value):.1f}%" '
                     f'title="{text(kind)}: {told(estimate)}"></span>')  # fmt: skip
    said = "; ".join(f"{kind} {told(estimate)}" for kind, estimate in marks)
    aria = f"{label}: real paintings {number(band[0])} to {number(band[1])}; {said}"
    return (f'<div class="row"><div class="name">{text(label)}<small>{text(note)}</small></div>'
            f'<div class="track" role="img" aria-label="{text(aria)}">{"".join(parts)}</div></div>')  # fmt: skip


def curve(points: Sequence[AtStrength], what: str, band: tuple[float, float] | None, good: tuple[float, float]) -> str:
    """index or content by strength, with its interval; the recommended range is shaded."""
    pairs = [(point.strength, getattr(point, what)) for point in points]
    known: list[tuple[float, Estimate]] = [(x, estimate) for x, estimate in pairs if estimate is not None]
    ends = [known[0][0], known[-1][0]]
    highest = max([1.0, *(estimate.high for _, estimate in known)])

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - ends[0]) / (ends[1] - ends[0] or 1)

    def down(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - max(0.0, y) / highest)

    parts = [box("range", across(good[0]), TOP, across(good[1]), HEIGHT - BOTTOM)]
    if band:
        parts.append(box("band", LEFT, down(band[1]), WIDTH - RIGHT, down(band[0])))
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(tick)}" y2="{down(tick)}"/>'
                     f'<text x="{LEFT - 6}" y="{down(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')  # fmt: skip
    for x, _ in known:
        parts.append(f'<text x="{across(x):.1f}" y="{HEIGHT - 12}" text-anchor="middle">{x:g}</text>')
    upper = [f"{across(x):.1f},{down(estimate.high):.1f}" for x, estimate in known]
    lower = [f"{across(x):.1f},{down(estimate.low):.1f}" for x, estimate in reversed(known)]
    parts.append(f'<polygon class="reach" points="{" ".join(upper + lower)}"/>')
    line = " ".join(f"{across(x):.1f},{down(estimate.value):.1f}" for x, estimate in known)
    parts.append(f'<polyline class="line" points="{line}"/>')
    for x, estimate in known:
        parts.append(f'<circle class="dot" cx="{across(x):.1f}" cy="{down(estimate.value):.1f}" r="4.5">'
                     f"<title>strength {x:g}: {told(estimate)}</title></circle>")  # fmt: skip
    said = "; ".join(f"{x:g}: {told(estimate)}" for x, estimate in known)
    return (f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(what)} by strength: {text(said)}">'
            f"{''.join(parts)}</svg>")  # fmt: skip


def box(kind: str, left: float, top: float, right: float, bottom: float) -> str:
    return f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"/>'
