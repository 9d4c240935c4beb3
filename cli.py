"""The command `impressionism`: one door to every room.

Each command hands its arguments to the room's own `main`, which `python -m ROOM` runs as well, so both do the same.
Nothing heavy is imported here: `--help` and shell completion answer at once.
"""

import importlib
import sys

import typer

from evaluation.__main__ import COMMANDS as EVALUATE
from model_card.__main__ import COMMANDS as CARD
from training.__main__ import ADAPTERS, PAGE
from training.__main__ import COMMANDS as TRAIN

app = typer.Typer(
    help="Paint with FLUX.1-dev in the Impressionist manner, and make the adapter that does it.",
    epilog="Start with: python -m space. Without a GPU everything runs on the bundled miniature.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
FORWARD = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def add(group: typer.Typer, name: str, help_text: str, module: str, *before: str) -> None:
    """A command that runs `module.main` with `before` and whatever was typed after its name."""

    @group.command(name, help=help_text, short_help=help_text, context_settings=FORWARD, add_help_option=False)
    def run(context: typer.Context) -> None:
        raise typer.Exit(importlib.import_module(module).main([*before, *context.args]) or 0)


def add_room(name: str, help_text: str, module: str, commands: dict[str, str]) -> None:
    room = typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None)
    for command, text in commands.items():
        add(room, command, text, module, command)
    app.add_typer(room, name=name)


add(app, "paint", "Paint a picture, a pair or a row of strengths, from a terminal.", "impressionism.__main__")
add(app, "grid", "Paint a labelled grid of two settings, from the same noise.", "impressionism.grid")
add(app, "space", "Open the page in your browser.", "space.__main__")
add_room("train", "From pictures to an adapter on the Hub.", "training.__main__", TRAIN | ADAPTERS | PAGE)
add_room("evaluate", "What an adapter does, in pictures and numbers.", "evaluation.__main__", EVALUATE)
add_room("card", "The adapter's model card.", "model_card.__main__", CARD)
add(app, "deploy", "Make a ZeroGPU Space that paints with an adapter.", "space.deploy")


def main() -> None:
    app(prog_name="impressionism")


if __name__ == "__main__":
    sys.exit(main())
