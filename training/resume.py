"""A run's folder: who may write into it, whether a recipe may go on in it, and what its failures mean."""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import torch

from impressionism.errors import UserError, explain_disk, first_line
from impressionism.files import write_atomic
from impressionism.hub import commit_of
from impressionism.records import Run
from training import cache, checkpoint
from training.base import TrainingContext
from training.examples import say
from training.recipe import TrainingConfig, differences, read
from training.runtime import Runtime

NON_DETERMINING_KEYS = (  # sections and keys that change no sample of a run; they may change at any time
    "curate", "caption", "tune", "preview", "log", "model.device", "model.keep_quantized", "model.shard",
    "model.gradient_checkpointing", "model.offload", "model.compile", "adapter.dtype", "run.folder", "run.cache",
    "run.log_every", "run.validate_every", "run.checkpoint_every", "run.keep", "run.save",
)  # fmt: skip
# Checked elsewhere: the steps in check_folder, the others in check_same.
CHECKED_BY_POSITION = ("optimizer.steps", "optimizer.train_batch_size", "optimizer.gradient_accumulation_steps")
GOES_ON = ("precision", "pictures in a batch", "batches in a step")  # may be others after a checkpoint, with a line


@contextlib.contextmanager
def lock(folder: Path, runtime: Runtime) -> Iterator[None]:
    """One run at a time in a folder; the system lets go of the lock when a process ends, however it ends."""
    if not runtime.first:
        yield  # the first process holds it for all
        return
    folder.mkdir(parents=True, exist_ok=True)
    held = filelock.FileLock(folder / ".lock")
    try:
        held.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"Another process trains in {folder}; wait for it, or set run.folder.") from None
    try:
        yield
    finally:
        held.release()


def check_folder(recipe: TrainingConfig) -> Run | None:
    """The record of a run that is finished already; UserError where the folder holds one of another recipe.

    A recipe of which nothing was trained yet is no obstacle. Optimizer steps may be added where the learning rate of
    the steps before does not depend on their number.
    """
    folder = recipe.run.folder
    last, finished = checkpoint.latest(folder / "checkpoints"), (folder / "run.json").exists()
    if not (folder / "recipe.yaml").exists() or not (last or finished):
        return None
    written = read(folder / "recipe.yaml")
    if different := differences(written, recipe, besides=(*NON_DETERMINING_KEYS, *CHECKED_BY_POSITION)):
        raise UserError(
            f"{folder} holds a run of another recipe: {'; '.join(different)}; set run.folder, or remove it."
        )
    before, now = written.optimizer.steps, recipe.optimizer.steps
    reached = checkpoint.step_of(last) if last else before
    if now != before and recipe.optimizer.lr_scheduler != "constant":
        further = f"set adapter.start_from={folder} in another run.folder" if finished else "set another run.folder"
        raise UserError(
            f"{folder}: optimizer.steps is {before} there and {now} here, and with lr_scheduler "
            f"{recipe.optimizer.lr_scheduler} the learning rate of every step depends on it; {further}."
        )
    if now < reached:
        raise UserError(f"{folder} has trained {reached} steps, and optimizer.steps is {now}; set another run.folder.")
    if not finished:
        return None
    if now > before:
        if last is None:
            raise UserError(f"{folder} has no checkpoint to go on from: set adapter.start_from={folder} in another "
                            "run.folder.")  # fmt: skip
        # It says that the run is done. Each process comes here; the adapter stays until the new one replaces it.
        (folder / "run.json").unlink(missing_ok=True)
        return None
    run = Run.from_json((folder / "run.json").read_text())
    say(f"{folder}: finished after {run.steps} steps, the adapter is in {folder / 'adapter'}; nothing to do.")
    return run


def write_recipe(recipe: TrainingConfig) -> None:
    """The resolved recipe, into the run's folder."""
    write_atomic(recipe.run.folder / "recipe.yaml", recipe.to_yaml())


def rests_on(context: TrainingContext, recipe: TrainingConfig) -> dict[str, Any]:
    """What the numbers of a run depend on besides its recipe."""
    # The base is known by the digest of its files where they lie in the Hub's cache, which names them so; those of a
    # folder (34 GB) are not read at each start.
    weights = cache.digest(context.folder, "transformer", *cache.ENCODERS) if commit_of(context.folder) else None
    found = {
        "pictures and captions": _digest([(e.id, e.size, e.caption, e.content) for e in context.examples]),
        "base model": weights,
        "pictures in a batch": context.runtime.world * recipe.optimizer.train_batch_size,
        "batches in a step": recipe.optimizer.gradient_accumulation_steps,
        "precision": str(context.runtime.dtype),
    }
    if context.class_examples:
        found["class pictures"] = _digest([(e.id, e.size, e.caption) for e in context.class_examples])
    return found


def check_same(now: dict[str, Any], then: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with other pictures or another base. A smaller batch, as after running out of memory, and another
    precision are named."""
    changed = [what for what in {**then, **now} if now.get(what) != then.get(what)]
    for what in GOES_ON:
        if what in changed and what in then:
            say(f"{folder}: {what}: {now[what]} now and {then[what]} before; it goes on, but not as it would have.")
    changed = [what for what in changed if what not in GOES_ON]
    if changed:
        raise UserError(
            f"{folder} cannot go on: since its last checkpoint there is a change of {', '.join(changed)}; "
            "undo it, or begin again in another run.folder."
        )


@contextlib.contextmanager
def readable_failures(recipe: TrainingConfig) -> Iterator[None]:
    """A full disk and too little memory as a sentence that says what to do; the folder may go on afterwards."""
    again = f"what {recipe.run.folder} has saved stays, and the same command goes on from there"
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            sentence = f"Out of memory ({first_line(error)[:160]}). {less_memory(recipe)} "
            raise UserError(f"{sentence}{again[0].upper()}{again[1:]}.") from None
        if sentence := explain_disk(error):
            raise UserError(f"{sentence.removesuffix('.')}; {again}.") from None
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch, Python or the system (safetensors maps files: ENOMEM) had no memory left."""
    words = ("can't allocate memory", os.strerror(errno.ENOMEM))
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


def less_memory(recipe: TrainingConfig) -> str:
    """What to change, what changes no result first."""
    model = recipe.model
    free = []
    if model.gradient_checkpointing is not True:
        free.append("model.gradient_checkpointing=true")
    if model.quantize in ("none", "nf4") and not model.compile and not model.shard:
        free.append(f"model.offload={max(8, 2 * model.offload)}")
    if not free:
        free = ["model.compile=false"] if model.compile else []
    sooner = f"Set {' or '.join(free)}, which changes no result; otherwise lower" if free else "Lower"
    return (f"{sooner} optimizer.train_batch_size (and raise optimizer.gradient_accumulation_steps in turn); or, in "
            "another run.folder, data.resolution or adapter.rank. `plan` says what fits.")  # fmt: skip


def _digest(what: list) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
