"""python -m model_card COMMAND …"""

import sys
from pathlib import Path

from impressionism.commands import Options, run_command

COMMANDS: dict[str, str] = {  # a command is the function of that name in the module of that name
    "render": "Write the card of a trained and evaluated run from its records.",
    "check": "Say what is wrong with an adapter's folder before the Hub or its users do.",
}
OPTIONS: dict[str, Options] = {
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
    return run_command("model_card", "card", "The card of an adapter.", COMMANDS, OPTIONS, arguments)


if __name__ == "__main__":
    sys.exit(main())
