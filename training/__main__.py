"""python -m training COMMAND RECIPE.yaml [section.key=value …]"""

import argparse
import importlib
import os
import sys
from pathlib import Path

from impressionism import names

STOPPED = 143  # what a shell reports of a program that SIGTERM ended
COMMANDS = {  # a command is the function of that name in the module of that name; it is given the recipe
    "curate": "Choose paintings for training, and report what was chosen and why.",
    "caption": "Let a vision-language model describe the pictures.",
    "plan": "Predict what a training run needs: memory, hours, disk; nothing is loaded.",
    "measure": "Run a few training steps; report time and memory next to plan's prediction; no adapter is saved.",
    "cache": "Encode the pictures and captions once: latents and text embeddings on disk.",
    "fit": "Train the adapter: fills the cache first if needed, and resumes a run that was stopped.",
    "best": "Paint the same prompts with every checkpoint and score each; one can become the run's adapter.",
    "tune": "Search for the best hyperparameters, keeping the base model in memory.",
    "push": "Upload the trained adapter, or curated pictures, to the Hub and verify the upload.",
}
ADAPTERS = {  # commands of training/reshape.py, which are given adapters and no recipe
    "resize": "Make an adapter smaller by truncated SVD, and report how much of it is kept.",
    "merge": "Add adapters into one.",
    "extract": "Make an adapter of what a full fine-tune changed in its base's linear layers.",
    "convert": "Write an adapter in the layout of diffusers or of ComfyUI and kohya's scripts.",
}
PAGE = {"ui": "Open a page in the browser for all of this: pictures, captions, plan, training, previews, upload."}
SWITCH: dict = {"action": "store_true"}
OPTIONS: dict[str, list[tuple[str, str, dict]]] = {  # beside the recipe; handed to the function by name
    "plan": [
        ("--vram", "plan for a GPU with this much memory", {"type": float, "metavar": "GIB"}),
        ("--processes", "number of training processes (see model.shard)", {"type": int, "default": 1, "metavar": "N"}),
        ("--json", "the figures of the recipe as written, in bytes and seconds", SWITCH),
    ],
    "measure": [
        ("--variant", "measure the recipe with these keys instead; may be repeated",
         {"action": "append", "default": [], "metavar": "'section.key=value …'"}),
        ("--steps", "steps for each variant (default: 6)", {"type": int, "default": 6}),
        ("--json", "one line of JSON for each variant, in bytes and seconds", SWITCH),
    ],
    "best": [("--save", "make this checkpoint the run's adapter", {"type": int, "metavar": "STEP"})],
    "fit": [("--quick", "try it end to end on 8 pictures, in a folder of its own", SWITCH)],
    "push": [
        ("--dataset", "send the curated pictures of data.source, not the adapter", SWITCH),
        ("--license", "licence of the pictures, if their README.md does not state one", {"metavar": "ID"}),
        ("--repo", "repository to push to (default: your name and the run's)", {"metavar": "USER/NAME"}),
        ("--private", "make the repository private", SWITCH),
        ("--pull-request", "open a pull request and leave the main branch as it is", SWITCH),
        ("--dry-run", "check, and list what would be sent; send nothing", SWITCH),
    ],
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    options = _parsed(arguments)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of image processors that nobody uses
    from impressionism.errors import status_of

    command = options.pop("command")

    def run() -> int:
        if command in PAGE:
            importlib.import_module("training.ui").ui(**options)
            return 0
        if command in ADAPTERS:
            getattr(importlib.import_module("training.reshape"), f"run_{command}")(argparse.Namespace(**options))
            return 0
        from training.recipe import read

        recipe = read(options.pop("recipe"), options.pop("override"))
        done = getattr(importlib.import_module(f"training.{command}"), command)(recipe, **options)
        return STOPPED if done is False else 0

    return status_of(run)


def _parsed(arguments: list[str] | None) -> dict:
    """argparse takes keys of the recipe in front of options only; here they may follow."""
    parser = _parser()
    known, others = parser.parse_known_args(arguments)
    keys = [each for each in others if "=" in each and not each.startswith("-") and hasattr(known, "override")]
    if strange := [each for each in others if each not in keys]:
        parser.error(f"unrecognized arguments: {' '.join(strange)}; see {parser.prog} {known.command} --help")
    if keys:
        known.override += keys
    return vars(known)


def _parser() -> argparse.ArgumentParser:
    program = names.program("train", "training")
    parser = argparse.ArgumentParser(prog=program, description="Train an adapter on pictures.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("recipe", type=Path, help="a YAML file such as training/recipes/miniature.yaml")
        command.add_argument("override", nargs="*", metavar="section.key=value", help="overrides a key of the recipe")
        for flag, meaning, how in OPTIONS.get(name, []):
            command.add_argument(flag, help=meaning, **how)
    for name, text in PAGE.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--folder", type=Path, default="adapters", help="where adapters are kept (adapters/)")
        command.add_argument("--port", type=int, help="of the page on this machine (default: the first that is free)")
    for name, text in ADAPTERS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("adapter", nargs="+" if name == "merge" else None, help="file, folder or Hub id"
                             if name != "extract" else "folder or Hub id of the fine-tuned pipeline")  # fmt: skip
        command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a folder to write it to")
        command.add_argument("--model", help="folder or Hub id of its base (default: FLUX.1 [dev] or the miniature)")
        if name != "convert":
            how = command.add_mutually_exclusive_group(required=name == "resize")
            how.add_argument("--rank", type=int, default=16 if name == "extract" else None, help="of each layer")
            if name != "extract":
                how.add_argument("--size", help="of the file, such as 3MB; the ranks go where they are needed most")
        if name == "merge":
            command.add_argument("--weights", type=float, nargs="+", help="one for each adapter (default: 1)")
        if name == "convert":
            command.add_argument("--to", choices=("diffusers", "comfy"), required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
