"""How the card writes numbers and text: the filters of its template."""

import functools
import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from impressionism.records import Estimate, Exhibit
from model_card import pictures


def short(value: float) -> str:
    """A strength or a guidance: two decimals at most."""
    return f"{round(value, 2):g}"


def interval(estimate: Estimate | None) -> str:
    """With the decimals that the interval's width allows."""
    if estimate is None:
        return "–"
    width = estimate.high - estimate.low
    decimals = min(3, max(0, 1 - math.floor(math.log10(width)))) if width > 1e-3 else 2
    value, low, high = (minus(f"{one:.{decimals}f}") for one in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def minus(text: str) -> str:
    """With a minus sign, and no minus at all before zero."""
    return text.lstrip("-") if not any(digit in text for digit in "123456789") else text.replace("-", "−")


def change(estimate: Estimate | None) -> str:
    """A difference with its sign; bold where its interval leaves out zero."""
    if estimate is None:
        return "–"
    text = f"{'+' if estimate.value > 0 else ''}{interval(estimate)}"
    return f"**{text}**" if estimate.low > 0 or estimate.high < 0 else text


def percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    value, low, high = (minus(f"{one * 100:.0f}") for one in (estimate.value, estimate.low, estimate.high))
    return f"{value} % ({low} to {high})"


def stacked(text: str) -> str:
    """The interval under its value, for narrow columns."""
    return text.replace(" (", "<br>(").replace(" to ", "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}")


def caption(row: Any) -> str:
    """Prompt, seed and gain of a noise that was painted several times."""
    sampling = row.adapted.recipe.sampling
    return f"{cell(sampling.prompt)}<br>seed {sampling.seed}<br>index {minus(f'{row.gain:+.2f}')}"


def p_value(p: float | None) -> str:
    """On a line of its own, under the difference that it belongs to."""
    if p is None:
        return ""
    return "<br>p < 0.001" if p < 0.001 else f"<br>p {p:.3f}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def cell(text: Any) -> str:
    """For a table's cell, where a bar or a tag would break it."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def image(exhibit: Exhibit | None, alt: str) -> str:
    if exhibit is None:
        return "–"
    told = f"{alt}: {cell(exhibit.recipe.sampling.prompt)}".replace("[", "(").replace("]", ")")
    return f"![{told}]({pictures.name_of(exhibit)})"


def auc(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


FILTERS: dict[str, Callable[..., str]] = {
    "short": short, "interval": interval, "change": change, "percent": percent, "p_value": p_value,
    "duration": duration, "cell": cell, "image": image, "file": pictures.name_of,
    "auc": auc,
    "stacked": stacked, "caption": caption,
    "python": functools.partial(json.dumps, ensure_ascii=False), "shell": shlex.quote,
}  # fmt: skip


def environment() -> Any:
    """Of the templates, which stand beside this file; a name that they do not get is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    result = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    result.filters |= FILTERS
    return result
