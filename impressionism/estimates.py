"""How numbers and their 95% intervals are written in the terminal, the report and the model card."""

import math
from collections.abc import Callable

from impressionism.records import Estimate, Metric

NONE = "–"


def number(value: float) -> str:
    """Three significant digits, four decimals at most, no exponent."""
    if value == 0 or abs(value) >= 1000:
        return minus(f"{value:.0f}")
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return minus(f"{value:.{min(digits, 4)}f}")


def interval(estimate: Estimate | None) -> str:
    """value [low, high], with as many decimals as the interval's width allows."""
    if estimate is None:
        return NONE
    width = estimate.high - estimate.low
    decimals = min(4, max(0, 1 - math.floor(math.log10(width)))) if width > 1e-4 else 2
    return _bracketed(estimate, f"{{:.{decimals}f}}".format)


def percent(estimate: Estimate | None) -> str:
    """The same as percentages."""
    return NONE if estimate is None else _bracketed(estimate, "{:.0%}".format)


def _bracketed(estimate: Estimate, write: Callable[[float], str]) -> str:
    value, low, high = (minus(write(one)) for one in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low},\N{NO-BREAK SPACE}{high}]"


def minus(text: str) -> str:
    """With a minus sign, and none before zero."""
    return text.lstrip("-") if not any(digit in text for digit in "123456789") else text.replace("-", "−")


def p_value(p: float | None) -> str:
    """Resampling gives no p below its floor, so a small one is a bound."""
    return "" if p is None else "≤ 0.001" if p <= 0.001 else f"{p:.3f}"


def is_sure(row: Metric) -> bool:
    """Whether base and adapter surely differ: by the difference's interval and, where there is one, by Holm's p."""
    if row.difference is None or row.difference.low <= 0 <= row.difference.high:
        return False
    return row.p is None or row.p < 0.05


def short(value: float) -> str:
    """A strength or a guidance, with two decimals at most."""
    return f"{round(value, 2):g}"
