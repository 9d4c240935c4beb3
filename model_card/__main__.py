"""python -m model_card COMMAND …"""

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from impressionism import names

COMMANDS: dict[str, str] = {  # a command is the function of that name in the module of that name
    "render": "Write the card of a trained and evaluated run from its records.",
    "check": "Say what is wrong with an adapter's folder before the Hub or its users do.",
}
OPTIONS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "render": [
        ("run", {"type": Path, "metavar": "RUN", "help": "a run's folder, as runs/NAME"}),
        ("--repo", {"metavar": "USER/NAME", "help": "where on the Hub it will be; the card's commands name it"}),
        ("--space", {"metavar": "USER/NAME", "help": "a Space that paints with it (default: your own page)"}),
        ("--base", {"metavar": "ID", "help": "the base's Hub id, or miniature, where the run names a folder"}),
    ],
    "check": [
        ("folder", {"type": Path, "metavar": "FOLDER", "help": "an adapter's folder, as runs/NAME/adapter"}),
        ("--base", {"metavar": "FOLDER", "help": "its base model on this machine, or miniature"}),
    ],
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    options = vars(_parser().parse_args(arguments))
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of image processors that nobody uses
    from impressionism.errors import status_of

    command = options.pop("command")

    def run() -> int:
        return 1 if getattr(importlib.import_module(f"model_card.{command}"), command)(**options) is False else 0

    return status_of(run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=names.program("card", "model_card"), description="The card of an adapter.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        for flag, how in OPTIONS[name]:
            command.add_argument(flag, **how)
    return parser


if __name__ == "__main__":
    sys.exit(main())
