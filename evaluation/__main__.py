"""python -m evaluation COMMAND …"""

import sys
from pathlib import Path
from typing import Any

from impressionism.commands import Options, run_command

RUN: tuple[str, dict[str, Any]] = (
    "run",
    {"type": Path, "metavar": "RUN", "help": "the run's folder, such as runs/NAME; results are written there"},
)
COMMANDS = {  # a command is the function of that name in the module of that name
    "gallery": "Paint the prompt set with the base model and the adapter; existing pictures are kept.",
    "score": "Score the adapter and write scores.json.",
    "ab": "Open a page where people compare pairs blind.",
    "dashboard": "Show pictures and numbers in one HTML file that needs no server: report.html.",
    "statistics": "Measure pictures: a row for each, with every statistic that docs/method.md explains, and the index.",
}
OPTIONS: dict[str, Options] = {  # handed to the function by name
    "gallery": [
        RUN,
        ("--prompts", {"type": Path, "help": "a prompt set's file (default: flux or miniature, as suits the model)"}),
        ("--model", {"help": "miniature, a Hub id or a folder (default: what the run was trained on)"}),
        ("--adapter", {"help": "a Hub id, folder or file (default: the run's; where it has none, the published one)"}),
        ("--strength", {"type": float, "default": 1.0, "help": "of the adapter's two arms (default 1)"}),
        ("--quantize", {"default": "auto", "help": "auto, none, fp8, int8, nf4, int4 or int2 (default auto)"}),
        ("--device", {"default": "auto", "help": "auto, cuda, mps or cpu (default auto)"}),
        ("--only", {"type": int, "metavar": "N", "help": "the first N prompts of each genre, for a quick look"}),
    ],
    "score": [
        RUN,
        ("--real", {"type": Path, "required": True, "help": "paintings that no training saw, or a curated data set"}),
        ("--training", {"type": Path, "help": "the folder of training pictures, to look for copies of them"}),
        ("--features", {"nargs": "*", "metavar": "NAME", "help": "of clip, dinov2, pickscore (default: all)"}),
        ("--judge", {"metavar": "URL", "help": "an OpenAI-compatible endpoint whose model sees pictures"}),
        ("--judge-model", {"metavar": "NAME", "help": "the model to ask there whether a picture shows its prompt"}),
        ("--device", {"default": "auto", "help": "of the learned features: auto, cuda, mps or cpu (default auto)"}),
    ],
    "ab": [
        RUN,
        ("--report", {"action": "store_true", "help": "write ab.json from the votes instead of opening the page"}),
        ("--folder", {"type": Path, "help": "of the study and its votes (default: RUN/votes)"}),
        ("--repo", {"metavar": "USER/NAME", "help": "a private dataset on the Hub for them, as on a Space"}),
        ("--paintings", {"type": Path, "help": "a folder of real paintings, for catch trials"}),
        ("--photographs", {"type": Path, "help": "a folder of photographs, for catch trials"}),
        ("--strength", {"type": float, "help": "of the adapter (default: the recommended one)"}),
        ("--planned", {"type": int, "metavar": "VOTES", "help": "where a new study ends (default 200)"}),
        ("--synthetic", {"action": "store_true", "help": "a rehearsal: its votes are marked, and kept apart"}),
        ("--host", {"help": "127.0.0.1 by default; 0.0.0.0 opens the page to the network"}),
        ("--port", {"type": int, "help": "the first free one from 7860 by default"}),
    ],
    "dashboard": [RUN],
    "statistics": [
        ("pictures", {"type": Path, "nargs": "+", "metavar": "PICTURE-OR-FOLDER", "help": "what to measure"}),
        ("--out", {"type": Path, "required": True, "metavar": "TABLE.csv", "help": "the table to write"}),
    ],
}


def main(arguments: list[str] | None = None) -> int:
    description = "What an adapter does, shown and measured."
    return run_command("evaluation", "evaluate", description, COMMANDS, OPTIONS, arguments)


if __name__ == "__main__":
    sys.exit(main())
