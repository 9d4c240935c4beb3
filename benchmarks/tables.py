"""Tables of the page, in Markdown."""

from collections.abc import Iterable, Sequence


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A row that is shorter than the head ends in empty cells."""
    filled = ([*row, *[""] * (len(head) - len(row))] for row in rows)
    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, filled)])


def not_measured(names: Iterable[str]) -> str:
    """A sentence below a table; none where there is nothing to name."""
    said = "; ".join(names)
    return f"\n\nNot measured: {said}." if said else ""


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def marked(asked: str, reached: bool) -> str:
    """What was asked, and whether it is missed."""
    return asked if reached else f"{asked} **not reached**"
