"""The training loop: a frozen, quantized FLUX with a LoRA on top learns the flow towards the cached pictures.

    python -m training fit training/recipes/miniature.yaml [section.key=value …]
    accelerate launch --num_processes 2 -m training fit RECIPE.yaml

A run resumes from its latest checkpoint by itself and then makes the same numbers as one that was never
stopped: order, noise and rate are functions of the seed, the sample and the step.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import torch
from tqdm import tqdm

from impressionism.errors import UserError
from impressionism.hub import commit_of, digest_of, label
from impressionism.lora import TRAINED, updates_of
from impressionism.modulation import AHEAD, Rows
from impressionism.pipeline import parts as files_of
from impressionism.records import Run
from training import adapter, cache, checkpoint, export, preview, validation
from training import recipe as recipes
from training.base import TrainingContext, inject_adapter, losses, prepare
from training.batches import MicroBatch, Schedule
from training.examples import Example, say
from training.log import Log, Meter
from training.recipe import Data, Optimizer, TrainingConfig
from training.runtime import Runtime, resolve_runtime

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "bitsandbytes", "safetensors")
FREE = (  # sections and keys that change no number of a run
    "curate", "caption", "tune", "preview", "model.keep_quantized", "model.shard", "run.folder", "run.cache",
    "run.log_every", "run.checkpoint_every", "run.keep",
)  # fmt: skip

Weights = Mapping[str, torch.nn.Parameter]


def fit(recipe: TrainingConfig, *, until: int | None = None) -> Run | bool:
    """Train, or go on training; false if the run was told to leave: by SIGTERM, Ctrl-C, or at step `until`."""
    if done := _finished(recipe):
        return done
    runtime = resolve_runtime(recipe.model)
    with _alone(recipe, runtime):
        base = prepare(recipe, runtime)
        return train(base, recipe, until=until)


def train(base: TrainingContext, recipe: TrainingConfig, *, until: int | None = None) -> Run | bool:
    """The run itself, on a base that is in memory."""
    run, options, first = recipe.run, recipe.optimizer, base.runtime.rank == 0

    # Model: the base is frozen, the adapter on it is trained.
    meter = Meter(base.runtime.device)
    weights = inject_adapter(base, recipe)
    averages = {name: weight.detach().clone() for name, weight in weights.items()} if options.ema else {}
    optimizer = make_optimizer(options, weights)
    held_out = validation.parts_for(base, recipe)
    if first:
        _claim(recipe)

    # Position: the start, or the latest whole checkpoint.
    checkpoints = run.folder / "checkpoints"
    position: dict = {"step": 0, "seconds": 0.0, "best": None, "peak": 0, "shown": [], "rests_on": rests_on(base)}
    if found := checkpoint.restore(checkpoints, weights, averages, optimizer):
        _same(position["rests_on"], found["rests_on"], run.folder)
        position = found
        say(f"{run.folder}: going on from step {position['step']} of {options.steps}.")
    if held_out and "base" not in position:  # the base never changes, so once is enough
        adapter.switch(base.transformer, False)
        position["base"] = dataclasses.asdict(validation.score(base, held_out, recipe))
        adapter.switch(base.transformer, True)

    # Loop.
    begun = time.monotonic() - position["seconds"]
    bar = tqdm(range(position["step"], options.steps), desc=str(run.folder), initial=position["step"],
               total=options.steps, disable=not first)  # fmt: skip
    parts = upcoming(base, recipe, position["step"])
    with Log(run.folder if first else None, position["step"]) as log, signals() as received:
        shown: list[float] = position["shown"]
        if position["step"] == options.steps or position["step"] % recipe.preview.every == 0:  # killed before it
            with judged(weights, averages):
                preview.paint(base, recipe, position["step"], log)
        for step, these in zip(bar, parts, strict=False):
            loss, rate, norm = take_step(base, recipe, these, weights, averages, optimizer, step)
            if not math.isfinite(norm):
                if first:
                    checkpoint.save(checkpoints, weights, averages, optimizer, position, keep=run.keep)
                _stop(base, checkpoint.at(checkpoints, step), these)
            shown.append(loss)

            step += 1
            last_step, leaving = step == options.steps, base.runtime.any(bool(received) or step == until)
            seconds, peak = time.monotonic() - begun, max(position["peak"], meter.peak())
            position |= {"step": step, "seconds": seconds, "peak": peak}
            if last_step or step % run.log_every == 0:
                log.write(
                    step, loss=sum(shown) / len(shown), lr=rate, norm=norm, seconds=round(seconds, 2), memory=peak
                )
                bar.set_postfix(loss=f"{sum(shown) / len(shown):.4f}")
                shown.clear()
            if held_out and (last_step or step % run.validate_every == 0):
                with judged(weights, averages):
                    position |= _validate(base, held_out, recipe, position, log)
            if first and (last_step or leaving or step % run.checkpoint_every == 0 or _is_best(position)):
                checkpoint.save(checkpoints, weights, averages, optimizer, position, keep=run.keep)
            if last_step or step % recipe.preview.every == 0:
                with judged(weights, averages):
                    preview.paint(base, recipe, step, log)
            if leaving and not last_step:
                say(f"{run.folder}: saved step {step} and left; the same command goes on from there.")
                return False

    return _finish(base, recipe, weights, averages, position)


def upcoming(
    base: TrainingContext, recipe: TrainingConfig, step: int
) -> Iterator[list[tuple[MicroBatch, Rows | None]]]:
    """The parts of step after step, with their modulation."""
    schedule = Schedule(recipe, base.trained_on, base.latents, rank=base.runtime.rank, world=base.runtime.world)
    accumulate = recipe.optimizer.gradient_accumulation_steps
    some = max(1, AHEAD // accumulate)
    for start in range(step, recipe.optimizer.steps, some):
        steps = [schedule[index] for index in range(start, min(start + some, recipe.optimizer.steps))]
        parts = base.with_modulation([part for parts in steps for part in parts], recipe.flow.guidance)
        for _ in steps:
            yield [next(parts) for _ in range(accumulate)]


def take_step(
    base: TrainingContext, recipe: TrainingConfig, parts: list[tuple[MicroBatch, Rows | None]], weights: Weights,
    averages: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer, step: int,
) -> tuple[float, float, float]:  # fmt: skip
    """One optimizer step: its loss, its rate, its gradient's norm; where that is not finite the weights stay good."""
    options = recipe.optimizer
    rate = options.learning_rate * rate_factor(step, options.steps, options.lr_warmup_steps, options.lr_scheduler)
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = step_gradient(base, recipe, parts)
    [whole] = optimizer.param_groups[0]["params"]
    whole.grad = mean_gradient(base, weights)
    norm = float(torch.nn.utils.clip_grad_norm_([whole], options.max_grad_norm))
    if math.isfinite(norm):
        optimizer.step()
        average(averages, weights, options.ema, step)
    optimizer.zero_grad()
    return loss, rate, norm


def step_gradient(base: TrainingContext, recipe: TrainingConfig, parts: list[tuple[MicroBatch, Rows | None]]) -> float:
    """Leave the gradient of a step's own parts in the adapter; the mean loss over all processes."""
    total = torch.zeros(())
    for part, rows in parts:
        batch = base.loader.train(part)
        loss = losses(base, batch, rows, recipe.flow.guidance, recipe.flow.weighting).mean() / len(parts)
        loss.backward()
        total += loss.detach().cpu()
    return float(base.runtime.sum(total)) / base.runtime.world


def mean_gradient(base: TrainingContext, weights: Weights) -> torch.Tensor:
    """Of all weights, one after the other, taken from them; the mean over all processes, in one exchange."""
    gradient = torch.cat(  # what no output depends on has none
        [(torch.zeros_like(one) if one.grad is None else one.grad).flatten() for one in weights.values()]
    )
    for weight in weights.values():
        weight.grad = None
    return base.runtime.sum(gradient).div_(base.runtime.world)


@torch.no_grad()
def average(averages: dict[str, torch.Tensor], weights: Weights, decay: float, step: int) -> None:
    """An exponential mean that forgets the start: its window grows with what there is to average."""
    for name, mean in averages.items():
        mean.lerp_(weights[name], 1 - min(decay, (step + 1) / (step + 10)))


@contextlib.contextmanager
def judged(weights: Weights, averages: dict[str, torch.Tensor]) -> Iterator[None]:
    """The averages, where they are kept, stand in for the weights."""
    own = {name: weights[name].detach().clone() for name in averages}
    checkpoint.copy(averages, {name: weights[name] for name in averages})
    try:
        yield
    finally:
        checkpoint.copy(own, {name: weights[name] for name in own})


def rate_factor(step: int, steps: int, warmup: int, schedule: str) -> float:
    """Learning-rate factor of a step: a linear warm-up, then constant, or a fall to zero."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / (steps - warmup)
    return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[schedule]


def make_optimizer(options: Optimizer, weights: Weights) -> torch.optim.Optimizer:
    """Of one parameter that holds all the weights, which become views of it, so once for each adapter: its step is then
    a few operations, not a few for each weight."""
    settings: dict[str, Any] = {
        "params": [joined(weights)],
        "lr": options.learning_rate,
        "weight_decay": options.weight_decay,
    }
    if options.name == "adamw8bit":
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(**settings)
    if options.name == "prodigy":
        import prodigyopt

        return prodigyopt.Prodigy(**settings, use_bias_correction=True, safeguard_warmup=True)
    return torch.optim.AdamW(**settings, fused=True)


def joined(weights: Weights) -> torch.nn.Parameter:
    """All weights, one after the other, in one parameter; each becomes a view of its part."""
    whole = torch.nn.Parameter(torch.cat([weight.detach().flatten() for weight in weights.values()]))
    parts = whole.detach().split([weight.numel() for weight in weights.values()])
    for weight, part in zip(weights.values(), parts, strict=True):
        weight.data = part.view_as(weight)
    return whole


# ---- What happens on the way


def _validate(base: TrainingContext, parts: list[MicroBatch], recipe: TrainingConfig, position: dict, log: Log) -> dict:
    """What changes of the position; the best so far is the one with the lowest held-out loss."""
    now, before = validation.score(base, parts, recipe), validation.Score(**position["base"])
    step, best = position["step"], position["best"]
    log.write(step, **validation.as_figures(now, before))
    if base.runtime.rank == 0:
        change = now.mean / before.mean - 1
        say(f"step {step}: held-out loss {now.mean:.4f}, the base's {before.mean:.4f} ({change:+.1%})")
    better = best is None or now.mean < best["loss"]
    return {"validation": dataclasses.asdict(now), "best": {"step": step, "loss": now.mean} if better else best}


def _is_best(position: dict) -> bool:
    return position["best"] is not None and position["best"]["step"] == position["step"]


def rests_on(base: TrainingContext) -> dict:
    """What the numbers of a run depend on besides its recipe."""
    said = json.dumps([(example.id, example.size, example.caption, example.content) for example in base.examples])
    return {
        "pictures and captions": hashlib.sha256(said.encode()).hexdigest()[:16],
        "base model": weights_of(base.folder),
        "number of processes": base.runtime.world,
        "precision": str(base.runtime.dtype),
    }


def weights_of(folder: Path) -> str | None:
    """The digest of a model in the Hub's cache, where files go by their digests; not of a folder, whose 34 GB would be
    read at each start."""
    return cache.digest(folder, "transformer", *cache.ENCODERS) if commit_of(folder) else None


def _same(now: dict, then: dict, folder: Path) -> None:
    if changed := [what for what, value in then.items() if now[what] != value]:
        raise UserError(
            f"{folder} cannot go on: since its last checkpoint there is a change of {', '.join(changed)}; "
            "undo it, or begin again in another run.folder."
        )


def _stop(base: TrainingContext, good: Path, parts: list[tuple[MicroBatch, Rows | None]]) -> None:
    """The weights are those of the step before, and kept; say what was being looked at."""
    base.runtime.wait()  # the first process writes, and would be ended with the others
    names = ", ".join(example.name for part, _ in parts for example in part.examples)
    raise UserError(
        f"The gradient of the step after {good} is not finite (pictures: {names}); that state is the last good one: "
        "lower optimizer.learning_rate, or take the picture out, and begin again in another run.folder."
    )


def _finish(
    base: TrainingContext, recipe: TrainingConfig, weights: Weights, averages: checkpoint.Weights, position: dict
) -> Run | bool:
    """The adapter's files, read back and compared; run.json comes last, so its presence means done."""
    if base.runtime.rank:
        return True
    best = position["best"]
    if recipe.run.save == "best" and best:
        checkpoint.copy(checkpoint.judged(checkpoint.at(recipe.run.folder / "checkpoints", best["step"])), weights)
        position["validation"] = {"mean": best["loss"]}
    elif averages:
        checkpoint.copy(averages, weights)
    folder = recipe.run.folder / "adapter"
    file = adapter.save(base.transformer, folder, getattr(torch, recipe.adapter.dtype))
    trigger = trigger_in(base.examples, recipe.data)
    export.label(file, title=recipe.run.folder.name, **({"trigger_phrase": trigger} if trigger else {}))
    live = updates_of(base.transformer, TRAINED)
    for written in (file, export.write_comfy(file)):
        export.check_parity(live, written)
    run = _record(base, recipe, position, sum(weight.numel() for weight in weights.values()))
    say(f"{recipe.run.folder}: finished after {run.steps} steps; the adapter is in {folder}.")
    return run


def trigger_in(examples: Iterable[Example], data: Data) -> str | None:
    """The phrase that most captions begin with; none where they do not."""
    captions = [example.caption.casefold() for example in examples]
    for phrase in filter(None, (data.trigger, data.instance_prompt)):
        if sum(caption.startswith(phrase.casefold()) for caption in captions) > len(captions) / 2:
            return phrase
    return None


LEAVING = b"\nLeaving after this step; Ctrl-C again leaves at once and loses what came after the last checkpoint.\n"


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """What was received: the loop then saves and leaves after its step; a second Ctrl-C ends it at once."""
    received: list[int] = []

    def receive(number: int, _: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not received:
            os.write(2, LEAVING)  # past Python's streams, which a progress bar may be writing to
        received.append(number)

    previous = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# ---- The run's folder


@contextlib.contextmanager
def _alone(recipe: TrainingConfig, runtime: Runtime) -> Iterator[None]:
    """One run at a time in a folder; the system lets go of the lock when a process ends, however it ends."""
    folder = recipe.run.folder
    if not runtime.first:
        yield  # the first process holds it for all
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"Another process trains in {folder}; wait for it, or set run.folder.") from None
    try:
        yield
    finally:
        lock.release()


def _claim(recipe: TrainingConfig) -> None:
    """Write the resolved recipe into the run's folder."""
    partial = recipe.run.folder / ".recipe.yaml.partial"
    partial.write_text(recipe.to_yaml(), encoding="utf-8")
    partial.replace(recipe.run.folder / "recipe.yaml")


def _finished(recipe: TrainingConfig) -> Run | None:
    """The record of a finished run of this recipe; a run of another recipe in the folder is refused."""
    folder = recipe.run.folder
    if (folder / "recipe.yaml").exists():
        different = recipes.differences(recipes.read(folder / "recipe.yaml"), recipe, besides=FREE)
        if different:
            raise UserError(
                f"{folder} holds a run of another recipe: {'; '.join(different)}; set run.folder, or remove it."
            )
    if not (folder / "run.json").exists():
        return None
    run = Run.from_json((folder / "run.json").read_text())
    say(f"{folder}: finished after {run.steps} steps, the adapter is in {folder / 'adapter'}; nothing to do.")
    return run


def _record(base: TrainingContext, recipe: TrainingConfig, position: dict, parameters: int) -> Run:
    run = Run(
        name=recipe.run.folder.name,
        base=label(recipe.model.base),
        base_revision=commit_of(base.folder) or digest_of(*files_of(base.folder)),
        dataset=label(recipe.data.source),
        dataset_revision=recipe.data.revision or f"content {position['rests_on']['pictures and captions']}",
        steps=position["step"],
        seconds=round(position["seconds"], 1),
        peak_memory=position["peak"],
        trained_parameters=parameters,
        validation_loss=(position.get("validation") or {}).get("mean"),
        base_validation_loss=(position.get("base") or {}).get("mean"),
        best_step=(position["best"] or {}).get("step"),
        saved=recipe.run.save if position["best"] else "last",
        trigger=trigger_in(base.examples, recipe.data),
        versions={library: importlib.metadata.version(library) for library in LIBRARIES},
    )
    partial = recipe.run.folder / ".run.json.partial"
    partial.write_text(run.to_json(), encoding="utf-8")
    partial.replace(recipe.run.folder / "run.json")
    return run
