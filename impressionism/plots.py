"""Plots of records for the card and the reports, drawn by matplotlib without a window; the same record gives the same
bytes on one machine."""

import io
from collections.abc import Sequence
from typing import Any

from impressionism.records import AtStrength, Estimate, Metric, Scores

BLUE, ORANGE, GREEN, GREY = "#3b5b92", "#c8752d", "#5e8c61", "#9aa0a6"
WIDTH, HEIGHT, DPI = 8.0, 3.4, 110  # inches


def canvas(height: float = HEIGHT, width: float = WIDTH) -> tuple[Any, Any]:
    """A figure and its axes; sizes in inches."""
    from matplotlib.figure import Figure  # not pyplot, which keeps state and may open a window

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def png(figure: Any, *, legend: bool = True) -> bytes:
    """The figure as a PNG, each legend to the right of its axes."""
    for axes in figure.axes if legend else ():
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})  # its version would change the bytes
    return file.getvalue()


def strength_curve(scores: Scores, real: str = "real paintings") -> bytes:
    """Gap closed, kept composition and variety against the strength, with 95% intervals; the index where the scores
    have no gap."""
    figure, axes = canvas()
    curve = sorted(scores.curve, key=lambda point: point.strength)
    axes.axvspan(scores.strength_low, scores.strength_high, color=BLUE, alpha=0.08, label="useful range")
    axes.axvline(scores.strength, color=BLUE, linewidth=1, linestyle=":", label="recommended")
    if any(point.gap_closed for point in curve):
        base = Estimate(value=0, low=0, high=0, n=0)
        closed = [point.gap_closed if point.strength else base for point in curve]
        _band(axes, curve, closed, BLUE, f"gap closed (1: {real})")
    else:
        _band(axes, curve, [point.index for point in curve], BLUE, "Impressionist index")
    _band(axes, curve, [point.content for point in curve], ORANGE, "composition kept")
    _band(axes, curve, [point.diversity for point in curve], GREEN, "variety")
    axes.set(xlabel="strength", ylim=(0, None), xlim=(curve[0].strength, curve[-1].strength))
    return png(figure)


def _band(
    axes: Any, points: Sequence[AtStrength], estimates: Sequence[Estimate | None], colour: str, name: str
) -> None:
    measured = [(point.strength, one) for point, one in zip(points, estimates, strict=True) if one]
    if measured:
        x = [strength for strength, _ in measured]
        axes.plot(x, [one.value for _, one in measured], color=colour, marker="o", markersize=4, label=name)
        low, high = [one.low for _, one in measured], [one.high for _, one in measured]
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def training_loss(log: list[dict[str, Any]]) -> bytes:
    """Training and held-out loss by step, from the lines of log.jsonl."""
    figure, axes = canvas()
    for name, colour, label, style in (
        ("loss", GREY, "training pictures", {"linewidth": 1}),
        ("validation", BLUE, "held-out pictures", {"marker": "o", "markersize": 4}),
        ("base_validation", ORANGE, "held-out pictures, base model", {"linestyle": "--"}),
    ):
        values = [(line["step"], line[name]) for line in log if isinstance(line.get(name), int | float)]
        if values:
            axes.plot(*zip(*values, strict=True), color=colour, label=label, **style)
    axes.set(xlabel="step", ylabel="flow-matching loss")
    return png(figure)


def gaps_closed(rows: list[tuple[str, Metric]], real: str = "real paintings") -> bytes:
    """How far each (label, metric) moved from the base model (0) to real pictures (1), with 95% intervals."""
    figure, axes = canvas(1.2 + 0.42 * len(rows))
    measured = [(label, metric.gap_closed) for label, metric in reversed(rows) if metric.gap_closed]
    for row, (_, gap) in enumerate(measured):
        axes.plot([gap.low, gap.high], [row, row], color=BLUE, linewidth=2)
        axes.plot(gap.value, row, "o", color=BLUE)
    axes.axvline(0, color=GREY, linewidth=1, label="base model")
    axes.axvline(1, color=ORANGE, linewidth=1, label=real)
    axes.set_yticks(range(len(measured)), [label for label, _ in measured])
    low, high = min([-0.2, *(gap.value for _, gap in measured)]), max([1.2, *(gap.value for _, gap in measured)])
    axes.set_xlim(low - 0.3, high + 0.8)  # of a very wide interval the end is not shown
    axes.set(xlabel=f"share of the distance from the base model to {real}", ylim=(-0.6, len(measured) - 0.4))
    return png(figure)
