"""What the steps of a recipe really take on this machine, beside what `plan` says of them.

    python -m training measure RECIPE.yaml [section.key=value …] [--variant "section.key=value …"]… [--steps 6] [--json]

A few steps are taken as `fit` takes them; of what they learn nothing is saved, the cache is filled as ever. Variants of
the recipe follow one another; the base stays in memory from one to the next where its keys in `model` are the same, but
for those of NOT_THE_BASE. A variant that fails, for lack of memory above all, says so and leaves the others alone.
"""

import dataclasses
import statistics
import time
from dataclasses import dataclass
from json import dumps
from typing import Any

import numpy as np

from impressionism.errors import UserError, first_line
from training import cache, cards, fit, plan
from training import recipe as recipes
from training.base import TrainingContext, prepare, training_batches
from training.cards import GIB
from training.log import MemoryMeter
from training.recipe import TrainingConfig
from training.runtime import resolve_runtime

# Keys of `model` that leave the base as it is.
NOT_THE_BASE = {"gradient_checkpointing": False, "max_sequence_length": 512}


@dataclass(frozen=True)
class Measured:
    variant: str
    """As it was asked for; empty: the recipe as it is."""
    plan_peak: int
    """Bytes that `plan` says a step takes at most."""
    plan_seconds: float
    """Seconds of a step as `plan` predicts them."""
    operations: float
    """Floating-point operations of a step, as `plan` counts them."""
    model_operations: float
    """Those of them that are not a block's recomputing."""
    peak: int | None = None
    """Bytes at most: on a GPU those allocated, the base among them; on a CPU resident ones beyond base and adapter."""
    seconds: float | None = None
    """Median seconds of a step; the first, which warms up, is left out. `plan` has the mean over the recipe's sizes."""
    failed: str | None = None


def measure(recipe: TrainingConfig, *, variant: list[str], steps: int, json: bool = False) -> None:
    """The command."""
    if steps < 2:
        raise UserError("--steps should be 2 at least: the first warms up and is left out.")
    if resolve_runtime(recipe.model).world > 1:
        raise UserError("Steps are measured in one process: start `python -m training measure` by itself.")
    short = recipes.changed(recipe, [f"optimizer.steps={steps}", "optimizer.lr_warmup_steps=0"])
    asked = [(text, recipes.changed(short, text.split())) for text in variant or [""]]
    base, its = None, None
    for text, wanted in asked:
        if base is None or its != base_of(wanted):
            base = None
            cache.free()
        card = cards.at_hand(resolve_runtime(wanted.model).device)
        predicted = plan.predict(wanted, card)
        alone = plan.predict(recipes.changed(wanted, ["model.gradient_checkpointing=false"]), card)
        found = Measured(text, predicted.peak, predicted.seconds, predicted.operations, alone.operations)
        try:
            base, its = prepare(wanted, on=base), base_of(wanted)
            found = dataclasses.replace(found, **taken(base, wanted))
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            found, base = dataclasses.replace(found, failed=first_line(error)), None
        cache.free()
        print(dumps(dataclasses.asdict(found)) if json else sentence(found), flush=True)


def base_of(recipe: TrainingConfig) -> tuple:
    """What the base in memory depends on."""
    return recipe.model.model_copy(update=NOT_THE_BASE), recipe.adapter.targets == "every"


def taken(base: TrainingContext, recipe: TrainingConfig) -> dict[str, Any]:
    """Peak and seconds of the recipe's steps."""
    state = fit.new_state(base, recipe)
    meter = MemoryMeter(base.runtime.device)  # offloaded blocks have left the GPU
    ends = []
    for step, batches in enumerate(training_batches(base, recipe)):
        result = fit.train_step(base, recipe, state, batches, step)  # which waits for the GPU
        ends.append(time.perf_counter())
        if not np.isfinite(result.grad_norm):
            raise RuntimeError(f"The gradient of step {step + 1} is not finite.")
    return {"peak": meter.peak(), "seconds": statistics.median(np.diff(ends).tolist())}


def sentence(found: Measured) -> str:
    """On a CPU the base and the adapter are in `plan`'s figure and not in what was measured."""
    what = found.variant or "the recipe"
    planned = f"plan: {found.plan_peak / GIB:.2f} GiB, {found.plan_seconds:.3g} s"
    if found.failed:
        return f"{what}: {found.failed} ({planned})"
    return f"{what}: {found.peak / GIB:.2f} GiB at most, {found.seconds:.3g} s a step ({planned})"  # type: ignore
