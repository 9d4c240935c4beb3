"""Writes benchmarks/README.md from the JSON records beside the scripts: `python -m benchmarks.page`.

The text is in page.md.j2. A script's record is <script>.json, its table the function `table(record)`, and its plot,
where there is one, `plot(record)`.
"""

import importlib
import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
SCRIPTS = ("miniature", "training", "adapters", "painting", "space", "gate", "growth", "statistics", "full_size", "gpu")


def record(script: str) -> dict | None:
    file = HERE / f"{script}.json"
    return json.loads(file.read_text()) if file.exists() else None


def section(script: str) -> str:
    """The command, where it ran, and the table."""
    measured = record(script)
    if measured is None:
        return f"`python -m benchmarks.{script}`: **not measured.**"
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    table = importlib.import_module(f"benchmarks.{script}").table(measured)
    return f"`python -m benchmarks.{script}` on {measured['machine']}; {versions}.\n\n{table}"


def text() -> str:
    environment = Environment(loader=FileSystemLoader(HERE), undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.get_template("page.md.j2").render(section=section)


def main() -> None:
    PAGE.write_text(text())
    for script in SCRIPTS:
        plot = getattr(importlib.import_module(f"benchmarks.{script}"), "plot", None)
        if plot and (measured := record(script)):
            (HERE / f"{script}.png").write_bytes(plot(measured))


if __name__ == "__main__":
    main()
