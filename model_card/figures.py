"""The records as plots: PNGs whose bytes follow from the records alone."""

import io
from collections.abc import Sequence
from typing import Any

from impressionism.records import AtStrength, Estimate, Metric, Scores

INDEX, KEPT, DIVERSITY, MUTED = "#3b5b92", "#c8752d", "#5e8c61", "#9aa0a6"
WIDTH, HEIGHT, DPI = 8.0, 3.4, 110  # inches


def strength_curve(scores: Scores) -> bytes:
    """Style gained and content kept against the strength, with their intervals and the recommended range."""
    figure, axes = canvas()
    curve = sorted(scores.curve, key=lambda point: point.strength)
    axes.axvspan(scores.strength_low, scores.strength_high, color=INDEX, alpha=0.08, label="useful range")
    axes.axvline(scores.strength, color=INDEX, linewidth=1, linestyle=":", label="recommended")
    band(axes, curve, [point.index for point in curve], INDEX, "Impressionist index")
    band(axes, curve, [point.content for point in curve], KEPT, "composition kept")
    diverse = [point for point in curve if point.diversity]
    band(axes, diverse, [point.diversity for point in diverse if point.diversity], DIVERSITY, "diversity")
    axes.set(xlabel="strength", ylim=(0, None), xlim=(curve[0].strength, curve[-1].strength))
    return finished(figure, axes)


def band(axes: Any, points: Sequence[AtStrength], estimates: Sequence[Estimate], colour: str, name: str) -> None:
    if points:
        x = [point.strength for point in points]
        axes.plot(x, [one.value for one in estimates], color=colour, marker="o", markersize=4, label=name)
        axes.fill_between(
            x, [one.low for one in estimates], [one.high for one in estimates], color=colour, alpha=0.2, linewidth=0
        )


def training_loss(log: list[dict[str, Any]]) -> bytes:
    """The loss of each logged step, and the held-out loss beside the base model's own."""
    figure, axes = canvas()
    for name, colour, label, style in (
        ("loss", MUTED, "training pictures", {"linewidth": 1}),
        ("validation", INDEX, "held-out pictures", {"marker": "o", "markersize": 4}),
        ("base_validation", KEPT, "held-out pictures, base model", {"linestyle": "--"}),
    ):
        told = [(line["step"], line[name]) for line in log if isinstance(line.get(name), int | float)]
        if told:
            axes.plot(*zip(*told, strict=True), color=colour, label=label, **style)
    axes.set(xlabel="step", ylabel="flow-matching loss")
    return finished(figure, axes)


def gaps(rows: list[tuple[str, Metric]], real: str = "real paintings") -> bytes:
    """How far each characteristic went from the base model (0) towards the real pictures (1)."""
    figure, axes = canvas(1.2 + 0.42 * len(rows))
    told = [(label, metric.gap_closed) for label, metric in reversed(rows) if metric.gap_closed]
    for row, (_, gap) in enumerate(told):
        axes.plot([gap.low, gap.high], [row, row], color=INDEX, linewidth=2)
        axes.plot(gap.value, row, "o", color=INDEX)
    axes.axvline(0, color=MUTED, linewidth=1, label="base model")
    axes.axvline(1, color=KEPT, linewidth=1, label=real)
    axes.set_yticks(range(len(told)), [label for label, _ in told])
    axes.set(xlabel=f"part of the way from the base model to {real}", ylim=(-0.6, len(told) - 0.4))
    return finished(figure, axes)


def dose(grown: dict[str, Any]) -> bytes:
    """The stroke statistic against the strength, as benchmarks/miniature.json has it."""
    figure, axes = canvas(2.6)
    axes.plot(
        grown["strengths"], grown["stroke_statistic"], color=INDEX, marker="o", label=f"{grown['prompts']} prompts"
    )
    axes.set(xlabel="strength", ylabel="stroke statistic (ΔE)", ylim=(0, None))
    return finished(figure, axes)


# ---- What they have in common


def canvas(height: float = HEIGHT) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # not pyplot: no state, no window

    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def finished(figure: Any, axes: Any) -> bytes:
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})  # without the version that drew it
    return file.getvalue()
