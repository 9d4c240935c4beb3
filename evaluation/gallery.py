"""The gallery: a prompt set painted by base and adapter, one Exhibit a picture.

python -m evaluation gallery runs/NAME
accelerate launch -m evaluation gallery runs/NAME                  the same, shared by all GPUs
torchrun --nproc-per-node 2 -m evaluation gallery runs/NAME        or by processes on a CPU

Four arms, base and adapter with the plain and with the style-worded prompt, from the same noise; and the adapter at
other strengths. A picture is made by `paint` from its record alone, so it is the one that the Space would show.
"""

import datetime
import itertools
import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm import tqdm

from evaluation import showcase
from evaluation.exhibits import write_lines
from evaluation.prompt_set import PROMPTS, Prompt, PromptSet
from impressionism.errors import UserError, counted
from impressionism.names import DEFAULT_STRENGTH
from impressionism.paint import defaults, read_recipe, request, save, sweep
from impressionism.pipeline import Painter, load_pipeline
from impressionism.records import Arm, Exhibit, GenerationParams, Run, parsed

PATIENCE = datetime.timedelta(days=1)  # how long a process that is done waits for the others


def gallery(
    run: Path,
    *,
    prompts: Path | None = None,
    model: str | None = None,
    adapter: str | None = None,
    strength: float = DEFAULT_STRENGTH,
    quantize: str = "auto",
    device: str = "auto",
    only: int | None = None,
) -> None:
    """Writes RUN/gallery: the pictures, and when all are there prompts.yaml, the showcase and gallery.jsonl."""
    state: Any = PartialState(cpu=device == "cpu", timeout=PATIENCE)
    if state.num_processes > 1:
        device = str(state.device) if state.device.type == "cuda" else state.device.type  # a CPU has no number
    painter = load(run, model, adapter, quantize, device)
    file = prompts or PROMPTS / ("miniature.yaml" if painter.is_miniature else "flux.yaml")
    exhibits = plan(PromptSet.read(file), painter, strength, only)

    folder = run / "gallery"
    wanted = missing(folder, exhibits)
    state.wait_for_everyone()  # all look before one paints: else each would share another list, and leave rows out
    if state.is_main_process:
        there = len(exhibits) - sum(len(row) for row in wanted)
        shared = f" {state.num_processes} processes share the rest." if state.num_processes > 1 else ""
        own = "" if adapter or (run / "adapter").is_dir() else f"{run} holds no adapter of its own. "
        print(
            f"{own}{painter.about} {counted(len(exhibits), 'picture')}, {there} of them are there already.{shared}",
            flush=True,
        )
    paint_missing(painter, folder, wanted[state.process_index :: state.num_processes], progress=state.is_main_process)
    state.wait_for_everyone()

    if state.is_main_process:
        shutil.copyfile(file, folder / "prompts.yaml")
        showcase.write(folder, exhibits)
        write_lines(folder / "gallery.jsonl", exhibits)
        print(folder / "gallery.jsonl")
    state.wait_for_everyone()


def load(run: Path, model: str | None, adapter: str | None, quantize: str, device: str) -> Painter:
    """The run's adapter on what it was trained on, where nothing else is asked for."""
    own, record, revision = run / "adapter", run / "run.json", None
    adapter = adapter or (str(own) if own.is_dir() else "auto")
    if not model and record.exists():
        trained = parsed(record, Run.from_json)
        model = trained.base
        revision = (
            trained.base_revision if len(trained.base_revision or "") == 40 else None
        )  # else a digest of local files
    painter = load_pipeline(model or "auto", adapter, quantize, device, model_revision=revision)
    if not painter.provenance.adapter:
        raise UserError(f"{run} has no adapter to evaluate: name one with --adapter.")
    return painter


def plan(prompts: PromptSet, painter: Painter, strength: float, only: int | None = None) -> list[Exhibit]:
    """Every picture of the gallery; those of one prompt and noise stand together."""
    result = []
    for prompt, (place, seed) in itertools.product(prompts.first(only), enumerate(prompts.seeds)):
        others = [1.0, *prompts.strengths] if place < prompts.axis_seeds else []  # 1: the adapter as trained
        plain: list[tuple[Arm, float]] = [("base", 0.0), *(("adapter", at) for at in sorted({strength, *others}))]
        styled: list[tuple[Arm, float]] = [("base-styled", 0.0), ("adapter-styled", strength)]
        for text, arms in ((prompt.text, plain), (prompts.styled.format(text=prompt.text), styled)):
            sampling = prompts.sampling(defaults(painter, text), seed)
            result += [exhibit(prompt, arm, painter, sampling, at) for arm, at in arms]
    return result


def exhibit(prompt: Prompt, arm: Arm, painter: Painter, sampling: GenerationParams, strength: float) -> Exhibit:
    file = f"{prompt.id}/{sampling.seed}-{arm}-{strength:g}.png"
    recipe = request(painter, sampling, strength).metadata
    return Exhibit(file=file, prompt=prompt.id, genre=prompt.genre, arm=arm, recipe=recipe)


def missing(folder: Path, exhibits: list[Exhibit]) -> list[list[Exhibit]]:
    """What is not there, or was painted by another record; a list for each prompt and noise."""
    wanted = [exhibit for exhibit in exhibits if not is_painted(folder, exhibit)]
    return [list(row) for _, row in itertools.groupby(wanted, key=lambda exhibit: exhibit.recipe.sampling)]


def is_painted(folder: Path, exhibit: Exhibit) -> bool:
    file = folder / exhibit.file
    return file.exists() and read_recipe(file) == exhibit.recipe


def paint_missing(painter: Painter, folder: Path, rows: list[list[Exhibit]], *, progress: bool) -> None:
    """Paint them, each row from one noise."""
    for row in tqdm(rows, desc="gallery", unit="row", disable=not (progress and rows)):
        pictures = sweep(painter, row[0].recipe.sampling, [exhibit.recipe.strength for exhibit in row])
        for exhibit, (_, picture) in zip(row, pictures, strict=True):
            file = folder / exhibit.file
            save(picture, exhibit.recipe, file.with_suffix(".partial.png")).replace(file)
