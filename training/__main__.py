"""python -m training cache|fit RECIPE.yaml [section.key=value …]"""

import argparse
import os
import sys
from pathlib import Path

STOPPED = 143  # what a shell reports of a program that SIGTERM ended


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of image processors that nobody uses
    from impressionism.hub import PainterError
    from training.recipe import TrainingError, read

    try:
        recipe = read(options.recipe, options.override)
        return options.run(recipe)
    except (TrainingError, PainterError) as error:
        print(error, file=sys.stderr)
        return 2


def _cache(recipe) -> int:
    from training import cache

    cache.fill(recipe)
    return 0


def _fit(recipe) -> int:
    from training import fit

    return 0 if fit.fit(recipe) else STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train an adapter on pictures.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("cache", _cache, "Encode the pictures and captions once: latents and text embeddings on disk."),
        (
            "fit",
            _fit,
            "Train the adapter; caches first where that is missing, resumes where a run was stopped.",
        ),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("recipe", type=Path, help="a YAML file such as training/recipes/miniature.yaml")
        command.add_argument("override", nargs="*", metavar="section.key=value", help="laid over the recipe")
        command.set_defaults(run=run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
