"""The training loop: a frozen, quantized FLUX with a LoRA on top learns the flow towards the cached pictures.

    python -m training fit training/recipes/miniature.yaml [--quick] [section.key=value …]
    accelerate launch --num_processes 2 -m training fit RECIPE.yaml

Stop a run whenever you like and start the same command to resume: order, noise and learning rate are functions of the
seed, the sample and the step, so that a resumed run makes the same numbers as one that was never stopped.
"""

import contextlib
import importlib.metadata
import math
import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from impressionism import lora
from impressionism.errors import UserError
from impressionism.files import write_atomic
from impressionism.hub import commit_of, digest_of, label
from impressionism.lora_file import Layout, check_parity, write_adapter
from impressionism.names import WEIGHTS_FILE
from impressionism.pipeline import weight_files
from impressionism.records import Run
from training import checkpoint, flow, preview, resume, validation
from training.base import StepBatches, TrainingContext, inject_adapter, loaders, prepare
from training.checkpoint import Best, Position, TrainState
from training.examples import Example, check_folders, say
from training.log import MemoryMeter, RunLog, check_trackers
from training.recipe import Data, Optimizer, TrainingConfig, changed
from training.runtime import resolve_runtime

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "bitsandbytes", "safetensors")
QUICK_PICTURES, QUICK_STEPS = 8, 10


def fit(recipe: TrainingConfig, *, quick: bool = False, until: int | None = None) -> Run | bool:
    """Train, or resume training; false if the run was told to leave: by SIGTERM, Ctrl-C, or at step `until`."""
    whole, recipe = recipe, quick_recipe(recipe) if quick else recipe
    check_folders(recipe)
    check_trackers(recipe.log.report_to)
    runtime = resolve_runtime(recipe.model)
    with resume.readable_failures(recipe):
        if quick:
            if runtime.first:
                shutil.rmtree(recipe.run.folder, ignore_errors=True)
            runtime.wait()  # or another process would find the run before
        if done := resume.check_folder(recipe):
            return done
        with resume.lock(recipe.run.folder, runtime):
            context = prepare(recipe, runtime)
            run = train(context, recipe, until=until)
    if quick and isinstance(run, Run):
        hours = run.seconds / run.steps * whole.optimizer.steps / 3600
        say(f"The recipe works from end to end. At this pace its {whole.optimizer.steps} steps take {hours:.1f} hours, "
            f"without previews; look at {recipe.run.folder}, then start the same command without --quick.")  # fmt: skip
    return run


def quick_recipe(recipe: TrainingConfig) -> TrainingConfig:
    """The same run end to end on a few pictures, in a folder of its own that each quick run begins anew."""
    steps = min(QUICK_STEPS, recipe.optimizer.steps)
    folder = recipe.run.folder
    return changed(recipe, [
        f"data.limit={QUICK_PICTURES}", f"optimizer.steps={steps}",
        f"optimizer.lr_warmup_steps={min(recipe.optimizer.lr_warmup_steps, steps - 1)}",
        f"prior.num_class_images={min(2, recipe.prior.num_class_images)}",
        f"preview.every={steps}", f"preview.steps={min(4, recipe.preview.steps)}",
        f"run.folder={folder.with_name(folder.name + '-quick')}", "run.log_every=1", f"run.validate_every={steps}",
        f"run.checkpoint_every={steps}",
    ])  # fmt: skip


def train(context: TrainingContext, recipe: TrainingConfig, *, until: int | None = None) -> Run | bool:
    """The run itself, on a base that is in memory."""
    run, options, runtime = recipe.run, recipe.optimizer, context.runtime
    meter = MemoryMeter(runtime.device)
    state = new_state(context, recipe)
    if runtime.first:
        resume.write_recipe(recipe)

    # Position: the start, or the latest whole checkpoint.
    checkpoints = run.folder / "checkpoints"
    rests_on = resume.rests_on(context, recipe)
    position = checkpoint.restore(checkpoints, state)
    if position:
        resume.check_same(rests_on, position.rests_on, run.folder)
        position.rests_on = rests_on
        say(f"{run.folder}: going on from step {position.step} of {options.steps}.")
    else:
        position = Position(rests_on=rests_on)
    steps, held_out = loaders(context, recipe, position.step)
    if held_out and position.base is None:  # the base never changes, so once is enough
        with context.without_adapter():
            position.base = validation.score(context, held_out, recipe)

    # Loop.
    begun = time.monotonic() - position.seconds
    bar = tqdm(range(position.step, options.steps), desc=str(run.folder), initial=position.step,
               total=options.steps, disable=not runtime.first)  # fmt: skip
    with RunLog(recipe, position.step, write=runtime.first) as log, leave_on_signals() as received:
        if position.step == options.steps or position.step % recipe.preview.every == 0:  # killed before it
            with state.ema_weights():
                preview.paint(context, recipe, position.step, log)
        for step, batches in zip(bar, steps, strict=False):
            result = train_step(context, recipe, state, batches, step)
            if not math.isfinite(result.grad_norm):
                if runtime.first:
                    checkpoint.save(checkpoints, state, position, keep=run.keep)
                runtime.wait()  # the first process writes, and would be ended with the others
                names = ", ".join(example.name for one in batches.all for example in one.examples)
                raise UserError(
                    f"The gradient of the step after {checkpoint.at(checkpoints, step)} is not finite (pictures: "
                    f"{names}); that state is the last good one: lower optimizer.learning_rate, or take the picture "
                    "out, and begin again in another run.folder."
                )
            position.losses.append(result.loss)

            position.step = step = step + 1
            position.seconds = time.monotonic() - begun
            position.peak_memory = max(position.peak_memory, meter.peak())
            last_step, leaving = step == options.steps, runtime.any(bool(received) or step == until)
            if last_step or step % run.log_every == 0:
                mean = sum(position.losses) / len(position.losses)
                log.write(step, loss=mean, lr=result.learning_rate, norm=result.grad_norm, **result.preserved,
                          seconds=round(position.seconds, 2), memory=position.peak_memory)  # fmt: skip
                bar.set_postfix(loss=f"{mean:.4f}")
                position.losses.clear()
            if position.base and (last_step or step % run.validate_every == 0):
                with state.ema_weights():
                    position.validation = now = validation.score(context, held_out, recipe)
                if position.best is None or now.mean < position.best.loss:
                    position.best = Best(step=step, loss=now.mean)
                log.write(step, **validation.as_figures(now, position.base))
                if runtime.first:
                    say(f"step {step}: held-out loss {now.mean:.4f}, the base's {position.base.mean:.4f} "
                        f"({now.mean / position.base.mean - 1:+.1%})")  # fmt: skip
            is_best = position.best is not None and position.best.step == step
            if runtime.first and (last_step or leaving or is_best or step % run.checkpoint_every == 0):
                checkpoint.save(checkpoints, state, position, keep=run.keep)
            if last_step or step % recipe.preview.every == 0:
                with state.ema_weights():
                    preview.paint(context, recipe, step, log)
            if leaving and not last_step:
                say(f"{run.folder}: saved step {step} and left; the same command goes on from there.")
                return False

    return finish(context, recipe, state, position) if runtime.first else True


# ---- A step


def new_state(context: TrainingContext, recipe: TrainingConfig) -> TrainState:
    """A new adapter on the base, with its optimizer."""
    weights = inject_adapter(context, recipe)
    ema = {name: weight.detach().clone() for name, weight in weights.items()} if recipe.optimizer.ema else {}
    return TrainState(weights, make_optimizer(recipe.optimizer, weights), ema, recipe.adapter.alpha)


@dataclass(frozen=True)
class StepResult:
    loss: float
    """Mean over the pictures of all processes."""
    learning_rate: float
    grad_norm: float
    """Before it is cut to max_grad_norm; not finite where the step was not taken."""
    preserved: dict[str, float]
    """The losses that preserve the prior, where the recipe asks for them."""


def train_step(
    context: TrainingContext, recipe: TrainingConfig, state: TrainState, batches: StepBatches, step: int
) -> StepResult:
    """One optimizer step; where the gradient is not finite, weights and optimizer stay as they were."""
    options, guidance, runtime = recipe.optimizer, recipe.flow.guidance, context.runtime
    count = len(batches.pictures)
    totals = {"loss": torch.zeros(())}

    def backward(name: str, loss: torch.Tensor, weight: float = 1.0) -> None:
        (weight * loss / count).backward()
        totals[name] = totals.get(name, torch.zeros(())) + loss.detach().cpu() / count

    for micro_batch in batches.pictures:
        batch = context.loader.train(micro_batch)
        backward("loss", context.losses(batch, guidance, recipe.flow.weighting).mean())
    for micro_batch in batches.class_pictures:  # prior preservation
        batch = context.loader.train(micro_batch)
        loss = context.losses(batch, guidance, recipe.flow.weighting).mean()
        backward("prior_loss", loss, recipe.prior.prior_loss_weight)
    for micro_batch in batches.as_class:  # differential output preservation: the base is its own teacher
        batch = context.loader.train(micro_batch)
        with torch.no_grad(), context.without_adapter():
            teacher = context.predict(batch, guidance).float()
        loss = flow.loss(context.predict(batch, guidance), teacher).mean()
        backward("preservation_loss", loss, recipe.prior.output_preservation)

    learning_rate = options.learning_rate * lr_factor(step, options)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    [parameter] = state.optimizer.param_groups[0]["params"]
    parameter.grad = runtime.sum(take_gradient(state.weights)).div_(runtime.world)
    norm = float(torch.nn.utils.clip_grad_norm_([parameter], options.max_grad_norm))
    if math.isfinite(norm):
        state.optimizer.step()
        update_ema(state, options.ema, step)
    state.optimizer.zero_grad()
    means = {name: float(runtime.sum(total)) / runtime.world for name, total in totals.items()}
    return StepResult(means.pop("loss"), learning_rate, norm, means)


def take_gradient(weights: Mapping[str, torch.nn.Parameter]) -> torch.Tensor:
    """Concatenate the gradients of all weights and clear them."""
    gradient = torch.cat(  # what no output depends on has none
        [(torch.zeros_like(one) if one.grad is None else one.grad).flatten() for one in weights.values()]
    )
    for weight in weights.values():
        weight.grad = None
    return gradient


@torch.no_grad()
def update_ema(state: TrainState, decay: float, step: int) -> None:
    """An exponential mean whose window grows with the steps, so that it forgets the start."""
    for name, mean in state.ema.items():
        mean.lerp_(state.weights[name], 1 - min(decay, (step + 1) / (step + 10)))


def lr_factor(step: int, options: Optimizer) -> float:
    """Learning-rate factor of a step: a linear warm-up, then constant, or a fall to zero."""
    warmup = options.lr_warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / (options.steps - warmup)
    return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[options.lr_scheduler]


def make_optimizer(options: Optimizer, weights: Mapping[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
    """An optimizer of one parameter that holds all the weights, which become views of it (so once for each adapter):
    its step is then a few operations, not a few for each weight."""
    parameter = torch.nn.Parameter(torch.cat([weight.detach().flatten() for weight in weights.values()]))
    views = parameter.detach().split([weight.numel() for weight in weights.values()])
    for weight, view in zip(weights.values(), views, strict=True):
        weight.data = view.view_as(weight)
    settings: dict[str, Any] = {
        "params": [parameter], "lr": options.learning_rate, "weight_decay": options.weight_decay,
    }  # fmt: skip
    if options.name == "adamw8bit":
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(**settings)
    if options.name == "prodigy":
        import prodigyopt

        return prodigyopt.Prodigy(**settings, use_bias_correction=True, safeguard_warmup=True)
    return torch.optim.AdamW(**settings, fused=True)


# ---- The end


def finish(context: TrainingContext, recipe: TrainingConfig, state: TrainState, position: Position) -> Run:
    """The adapter's files, read back and compared; run.json comes last, so its presence means done."""
    best = position.best
    if recipe.run.save == "best" and best:
        load_checkpoint(recipe, state, best.step)
    elif state.ema:
        checkpoint.copy(state.ema, state.weights)
    folder = save_adapter(context, recipe)
    loss = position.validation.mean if position.validation else None
    run = Run(
        name=recipe.run.folder.name,
        base=label(recipe.model.base),
        base_revision=commit_of(context.folder) or digest_of(*weight_files(context.folder)),
        dataset=label(recipe.data.source),
        dataset_revision=recipe.data.revision or f"content {position.rests_on['pictures and captions']}",
        steps=position.step,
        seconds=round(position.seconds, 1),
        peak_memory=position.peak_memory,
        trained_parameters=sum(weight.numel() for weight in state.weights.values()),
        validation_loss=best.loss if best and recipe.run.save == "best" else loss,
        base_validation_loss=position.base.mean if position.base else None,
        best_step=best.step if best else None,
        saved=recipe.run.save if best else "last",
        trigger=trigger_in(context.examples, recipe.data),
        versions={library: importlib.metadata.version(library) for library in LIBRARIES},
    )
    write_atomic(recipe.run.folder / "run.json", run.to_json())
    say(f"{recipe.run.folder}: finished after {run.steps} steps; the adapter is in {folder}.")
    return run


def load_checkpoint(recipe: TrainingConfig, state: TrainState, step: int) -> None:
    """The weights that were validated at a step: the average where there is one."""
    file = checkpoint.at(recipe.run.folder / "checkpoints", step) / checkpoint.WEIGHTS_FILE
    checkpoint.copy(checkpoint.read_weights(file), state.weights)


def save_adapter(context: TrainingContext, recipe: TrainingConfig) -> Path:
    """Write the adapter that is on the base, for diffusers and for ComfyUI, and compare both files with it."""
    folder, updates = recipe.run.folder / "adapter", lora.updates_of(context.transformer, lora.TRAINED)
    trigger = trigger_in(context.examples, recipe.data)
    facts = {"title": recipe.run.folder.name} | ({"trigger_phrase": trigger} if trigger else {})
    dtype, linears = getattr(torch, recipe.adapter.dtype), lora.linears(context.transformer)
    files: dict[Layout, str] = {"diffusers": WEIGHTS_FILE, "comfy": f"{recipe.run.folder.name}_comfy.safetensors"}
    for layout, name in files.items():
        check_parity(updates, write_adapter(updates, folder / name, dtype, layout=layout, **facts), linears)
    return folder


def trigger_in(examples: Iterable[Example], data: Data) -> str | None:
    """The phrase that most captions begin with; none where they do not."""
    captions = [example.caption.casefold() for example in examples]
    for phrase in filter(None, (data.trigger, data.instance_prompt)):
        if sum(caption.startswith(phrase.casefold()) for caption in captions) > len(captions) / 2:
            return phrase
    return None


LEAVING = b"\nLeaving after this step; Ctrl-C again leaves at once and loses what came after the last checkpoint.\n"


@contextlib.contextmanager
def leave_on_signals() -> Iterator[list[int]]:
    """SIGTERM and Ctrl-C are collected, and the loop saves and leaves after its step; a second Ctrl-C ends it."""
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
