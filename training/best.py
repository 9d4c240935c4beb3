"""Which checkpoint of a run is best: python -m training best RECIPE.yaml [--save STEP]

The base and every checkpoint that was kept paint the prompts of `preview` from the same noise, and each is scored on
the held-out pictures. RUN/best/ gets the pictures, sheet.jpg (a row for each, a column for each prompt) and
scores.json. The lowest held-out loss is called best; look at the sheet before you believe it, because a lower loss and
a better picture are not the same. `--save 500` makes that checkpoint the run's adapter.
"""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from impressionism import pictorial
from impressionism.errors import UserError
from impressionism.files import write_atomic
from impressionism.records import Run
from training import checkpoint, fit, preview, validation
from training.base import TrainingContext, prepare
from training.batches import MicroBatch
from training.checkpoint import TrainState
from training.examples import say
from training.recipe import TrainingConfig, changed
from training.runtime import resolve_runtime

FEW_PROMPTS = 3  # captions of held-out pictures that are painted where preview.prompts is empty


@dataclass(frozen=True)
class CheckpointScore:
    step: int
    """0: the base model."""
    loss: float | None
    """On the held-out pictures; none: nothing is held out."""
    impressionist_index: float
    """Mean over the pictures."""


def best(recipe: TrainingConfig, *, save: int | None = None) -> None:
    """The command."""
    checkpoints = recipe.run.folder / "checkpoints"
    steps = [checkpoint.step_of(one) for one in checkpoint.all_of(checkpoints) if _is_whole(one)]
    if not steps:
        raise UserError(f"{checkpoints} holds no whole checkpoint: run `fit` first.")
    if save is not None and save not in steps:
        raise UserError(f"There is no checkpoint of step {save}; there are {', '.join(map(str, steps))}.")
    if resolve_runtime(recipe.model).world > 1:
        raise UserError("Checkpoints are compared in one process: start `python -m training best` by itself.")
    context = prepare(recipe)
    if not recipe.preview.prompts:
        held_out = context.held_out or context.trained_on
        prompts = json.dumps(list(dict.fromkeys(one.caption for one in held_out))[:FEW_PROMPTS])
        recipe = changed(recipe, [f"preview.prompts={prompts}"])  # their embeddings are in the cache already
    state = fit.new_state(context, recipe)
    held_out = validation.held_out_batches(context, recipe)
    folder, found = recipe.run.folder / "best", []
    if save is None:
        with context.without_adapter():
            found.append(score_of(context, recipe, 0, held_out, folder))
        for step in steps:
            fit.load_checkpoint(recipe, state, step)
            found.append(score_of(context, recipe, step, held_out, folder))
        write_results(recipe, folder, found)
    else:
        save_as_adapter(context, recipe, state, save)


def _is_whole(folder: Path) -> bool:
    try:
        checkpoint.read_position(folder)
    except checkpoint.UNREADABLE as error:
        say(f"{folder} is damaged ({error}); it is left out.")
        return False
    return True


def score_of(
    context: TrainingContext, recipe: TrainingConfig, step: int, held_out: list[MicroBatch], folder: Path
) -> CheckpointScore:
    """Paint the prompts and take the held-out loss with the adapter as it is now."""
    loss = validation.score(context, held_out, recipe).mean if held_out else None
    indices = []
    for index, picture in enumerate(preview.painted(context, recipe.preview)):
        write_atomic(folder / name_of(step) / f"{index:02d}.png",
                     lambda file, picture=picture: picture.save(file, format="PNG"))  # fmt: skip
        indices.append(pictorial.index(picture))
    return CheckpointScore(step, loss, statistics.fmean(indices))


def name_of(step: int) -> str:
    return f"step-{step:06d}" if step else "base"


def write_results(recipe: TrainingConfig, folder: Path, found: list[CheckpointScore]) -> None:
    """scores.json, sheet.jpg, and the table on the terminal."""
    trained = [one for one in found if one.step]
    chosen = min(trained, key=lambda one: (one.loss or 0.0, -one.impressionist_index))
    prompts = recipe.preview.prompts
    result = {"best": chosen.step, "prompts": list(prompts), "checkpoints": [asdict(one) for one in found]}
    write_atomic(folder / "scores.json", json.dumps(result, indent=1))
    rows: list[list[Image.Image | None]] = [
        [preview.small(folder / name_of(one.step) / f"{index:02d}.png") for index in range(len(prompts))]
        for one in found
    ]
    page = preview.contact_sheet([name_of(one.step) for one in found], rows)
    write_atomic(folder / "sheet.jpg", lambda file: page.save(file, format="JPEG", quality=90))
    print(f"{'':12}  held-out loss  Impressionist index")
    for one in found:
        loss = "-" if one.loss is None else f"{one.loss:.4f}"
        mark = "  lowest held-out loss" if one is chosen and one.loss is not None else ""
        print(f"{name_of(one.step):12}  {loss:>13}  {one.impressionist_index:>19.2f}{mark}")
    print(f"\nCompare them by eye in {folder / 'sheet.jpg'}. Each checkpoint paints as an adapter:\n"
          f"  python -m impressionism PROMPT --adapter {recipe.run.folder / 'checkpoints' / name_of(chosen.step)}\n"
          f"To make it the run's adapter: python -m training best RECIPE --save {chosen.step}")  # fmt: skip


def save_as_adapter(context: TrainingContext, recipe: TrainingConfig, state: TrainState, step: int) -> None:
    """The checkpoint's weights become RUN/adapter, and run.json says so."""
    fit.load_checkpoint(recipe, state, step)
    folder = fit.save_adapter(context, recipe)
    record = recipe.run.folder / "run.json"
    if record.exists():
        position = checkpoint.read_position(checkpoint.at(recipe.run.folder / "checkpoints", step))
        loss = position.validation.mean if position.validation else None
        values = json.loads(record.read_text()) | {"steps": step, "validation_loss": loss, "saved": "chosen"}
        write_atomic(record, Run.from_dict(values).to_json())
    say(f"{folder}: now holds the adapter of step {step}.")
