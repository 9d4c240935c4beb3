"""How the card writes numbers, names and verdicts: the filters of its template."""

import functools
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from impressionism.estimates import NONE, interval, is_sure, number, p_value, percent, short
from impressionism.records import FEATURES, KINDS, Estimate, Exhibit, Metric, Scores
from model_card.presets import Preset
from model_card.run_records import RunRecords

ASKED = {
    "style": "which looks more like an Impressionist painting",
    "description": "which follows the description better",
    "preference": "which they prefer",
}


def trigger_of(records: RunRecords, preset: Preset) -> str | None:
    """The phrase that a prompt should begin with."""
    data = records.recipe["data"]
    return (data.get("instance_prompt") or data.get("trigger")) if preset.uses_trigger else None


def label(metric: Metric) -> str:
    """A metric's name for people."""
    from impressionism.pictorial import STATISTICS

    if metric.name in STATISTICS:
        return STATISTICS[metric.name].label
    if metric.name.startswith("index"):
        return "Impressionist index" + (", prompts worded in the style" if metric.name != "index" else "")
    feature, _, kind = metric.name.partition("-")
    return f"{KINDS[kind]}, by {FEATURES.get(feature, feature)}" if kind in KINDS else metric.name.replace("-", " ")


def gap_rows(scores: Scores) -> list[tuple[str, Metric]]:
    """The index and the statistics that tell real pictures from the base model's."""
    from impressionism.pictorial import STATISTICS

    return [
        (label(metric), metric)
        for metric in scores.metrics
        if metric.gap_closed and (metric.name == "index" or metric.name in STATISTICS)
    ]


def weaknesses(records: RunRecords, preset: Preset) -> list[str]:
    """What the scores say against the adapter, one sentence each."""
    scores = records.scores
    found = []
    for name, metric in gap_rows(scores):
        gap = metric.gap_closed
        if gap and gap.low > 1:
            found.append(f"{name}: it overshoots {preset.real} ({percent(gap)} of the distance).")
        elif gap and gap.high < 0:
            found.append(f"{name}: it moves away from {preset.real} ({percent(gap)} of the distance).")
        elif gap and gap.low <= 0:
            found.append(f"{name}: not shown to move closer to {preset.real} ({percent(gap)} of the distance).")
    for metric in scores.metrics:
        change = metric.difference
        if change and (change.low > 0 if metric.better == "lower" else metric.better == "higher" and change.high < 0):
            before, after = interval(metric.base), interval(metric.adapter)
            found.append(f"{label(metric)}: worse than the base model, {after} against {before}.")
    styled, plain = scores.arms.get("base-styled"), scores.arms.get("adapter")
    if styled and plain and plain.low <= styled.high:
        found.append(
            f"It is not shown to be more Impressionist than the base model {preset.styled}: the index is "
            f"{interval(plain)} against {interval(styled)}."
        )
    if found:
        found.append(f"This was measured at strength {short(records.gallery_strength)}.")
    return found


# ---- Numbers


def mean(estimate: Estimate | None) -> str:
    return number(estimate.value) if estimate else NONE


def change(metric: Metric) -> str:
    """The difference with its sign, bold where it is sure, and p."""
    sign = "+" if metric.difference and metric.difference.value > 0 else ""
    text = f"{sign}{interval(metric.difference)}"
    return (f"**{text}**" if is_sure(metric) else text) + (f"<br>p {p_value(metric.p)}" if metric.p is not None else "")


def stacked(text: str) -> str:
    """The interval below its value, for narrow columns."""
    return text.replace(" [", "<br>[")


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


# ---- Markdown


def cell(text: Any) -> str:
    """Text for a table cell, where a bar or a tag would break the table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def picture_name(exhibit: Exhibit) -> str:
    """The picture's file in the adapter's folder."""
    seed = exhibit.recipe.sampling.seed
    return f"images/{exhibit.prompt}-{seed}-{exhibit.arm}-{exhibit.recipe.strength:g}.webp"


def image(exhibit: Exhibit | None, alt: str) -> str:
    if exhibit is None:
        return "–"
    text = f"{alt}: {cell(exhibit.recipe.sampling.prompt)}".replace("[", "(").replace("]", ")")
    return f"![{text}]({picture_name(exhibit)})"


FILTERS: dict[str, Callable[..., str]] = {
    **{f.__name__: f for f in (short, mean, interval, change, percent, stacked, duration, cell, image, label)},
    "file": picture_name,
    "python": functools.partial(json.dumps, ensure_ascii=False),
    "shell": shlex.quote,
}


def environment() -> Any:
    """Jinja2 for the card's template; a name that the template does not get is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    result = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    result.filters |= FILTERS
    return result
