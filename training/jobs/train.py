# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Trains, evaluates and publishes an adapter on a rented GPU. It needs this package, which `--with` installs:

    hf jobs uv run --flavor l40sx1 --timeout 8h --secrets HF_TOKEN -v hf://buckets/USER/runs:/runs \
        --with "flux-impressionism[train,evaluate] @ git+https://github.com/USER/flux-impressionism" \
        training/jobs/train.py impressionism --folder /runs/impressionism --repo USER/NAME

The folder lies in a bucket, so checkpoints outlive the job: start the same line again and it resumes. With --dry-run it
says what each step needs, and runs none.
"""

import argparse
import subprocess
import sys


def steps(chosen: argparse.Namespace) -> list[list[str]]:
    """The commands, in order."""
    folder = chosen.folder
    recipe = [chosen.recipe, f"run.folder={folder}", *chosen.override]
    commands = [["training", "plan", *recipe], ["training", "fit", *recipe]]
    if chosen.real:
        commands += [
            ["evaluation", "gallery", folder],
            ["evaluation", "score", folder, "--real", chosen.real],
            ["evaluation", "dashboard", folder],
            ["model_card", "render", folder, *(["--repo", chosen.repo] if chosen.repo else [])],
        ]
    if chosen.repo:
        commands.append(["training", "push", f"{folder}/recipe.yaml", "--repo", chosen.repo])
    return [[sys.executable, "-m", *command] for command in commands]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a recipe's file, or the name of one that comes with the package")
    parser.add_argument("override", nargs="*", metavar="section.key=value", help="changes to the recipe")
    parser.add_argument("--folder", required=True, help="the run's folder, in a mounted bucket to outlive the job")
    parser.add_argument("--real", help="paintings to evaluate against; without them nothing is evaluated")
    parser.add_argument("--repo", metavar="USER/NAME", help="where to push the adapter; without it nothing is pushed")
    parser.add_argument("--dry-run", action="store_true", help="plan, and list the commands")
    chosen = parser.parse_args(arguments)
    plan, *others = steps(chosen)
    for command in [plan] if chosen.dry_run else [plan, *others]:
        print("+", *command[1:], flush=True)
        if status := subprocess.run(command).returncode:
            return status
    if chosen.dry_run:
        print("It would run:", *(" ".join(command[1:]) for command in others), sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
