"""A room's commands from two tables: `python -m ROOM COMMAND …`."""

import argparse
import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from impressionism import names

Options = Sequence[tuple[str, dict[str, Any]]]
"""Flags, and what argparse is told about each."""


def run_command(
    room: str,
    name: str,
    description: str,
    commands: Mapping[str, str],
    options: Mapping[str, Options],
    arguments: list[str] | None,
) -> int:
    """Parses the arguments and calls the function of the command's name in the room's module of that name, with the
    options by name; returns the exit status, which is the function's where it has one.

    commands: each with a sentence of help. name: the room's in `impressionism NAME`.
    """
    parser = argparse.ArgumentParser(prog=names.program(name, room), description=description)
    parsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for command, text in commands.items():
        own = parsers.add_parser(command, help=text, description=text)
        for flag, how in options[command]:
            own.add_argument(flag, **how)
    given = vars(parser.parse_args(arguments))
    command = given.pop("command")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of image processors that nobody uses
    from impressionism.errors import status_of  # --help answers at once

    return status_of(lambda: getattr(importlib.import_module(f"{room}.{command}"), command)(**given))
