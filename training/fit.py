"""The training loop: a frozen, quantized FLUX with a LoRA on top learns the flow towards the cached pictures.

    python -m training fit training/recipes/miniature.yaml [section.key=value …]

A run resumes from its latest checkpoint by itself and then makes the same numbers as one that was never
stopped: order, noise and rate are functions of the seed, the sample and the step.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from impressionism.hub import commit_of, label
from impressionism.quantize import load_transformer
from impressionism.records import Run
from training import adapter, cache, checkpoint, flow
from training import recipe as recipes
from training.cache import Cache
from training.examples import Example, Order, Size, say, split
from training.options import Optimizer, Recipe, TrainingError

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "bitsandbytes", "safetensors")
VALIDATION_SIGMAS = flow.fixed_sigmas(4)


@dataclass(frozen=True)
class Latents:
    """How this base's VAE latents become the transformer's."""

    shift: float
    scale: float
    scheduler: dict

    @classmethod
    def of(cls, folder: Path) -> "Latents":
        vae = json.loads((folder / "vae" / "config.json").read_text())
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        return cls(vae.get("shift_factor") or 0.0, vae["scaling_factor"], scheduler)

    def sigma_shift(self, tokens: int, wanted: float | Literal["resolution"]) -> float:
        """The shift wanted; "resolution": the scheduler's own for a picture of so many tokens."""
        if wanted != "resolution":
            return wanted
        if not self.scheduler.get("use_dynamic_shifting"):
            return self.scheduler.get("shift", 1.0)
        keys = {"base_tokens": "base_image_seq_len", "max_tokens": "max_image_seq_len",
                "base_shift": "base_shift", "max_shift": "max_shift"}  # fmt: skip
        known = {ours: self.scheduler[theirs] for ours, theirs in keys.items() if theirs in self.scheduler}
        return flow.resolution_shift(tokens, **known)


@dataclass(frozen=True)
class Batch:
    x: torch.Tensor  # (batch, tokens, channels), float32
    noise: torch.Tensor  # (batch, tokens, channels), float32
    text: torch.Tensor  # (batch, text tokens, channels)
    pooled: torch.Tensor  # (batch, channels)
    image_ids: torch.Tensor  # (tokens, 3)


class Loader:
    """Cached entries → a batch on the device; what is drawn depends on (seed, sample, visit) alone."""

    def __init__(self, kept: Cache, latents: Latents, device: torch.device, *, seed: int, caption_dropout: float):
        self.kept, self.latents, self.device = kept, latents, device
        self.seed, self.caption_dropout = seed, caption_dropout

    def visit(self, examples: list[Example], first: int) -> Batch:
        """A training batch; `first` counts the pictures seen before it."""
        drawn = [self._draw(example, first + slot) for slot, example in enumerate(examples)]
        return self._collate(*zip(*drawn, strict=True))

    def validation(self, examples: list[Example], *, batch: int) -> list[Batch]:
        """Batches of one size each, for `validate`."""
        groups: dict[Size, list[Example]] = {}
        for example in examples:
            groups.setdefault(example.size, []).append(example)
        return [
            self._fixed(group[start : start + batch])
            for group in groups.values()
            for start in range(0, len(group), batch)
        ]

    def _fixed(self, examples: list[Example]) -> Batch:
        """No dropout, the mean latents, always the same noise."""
        x = [self.kept.moments(example)[0] for example in examples]
        noise = [
            torch.randn(mean.shape, generator=flow.generator("validation", example.id))
            for mean, example in zip(x, examples, strict=True)
        ]
        return self._collate(x, noise, [example.caption for example in examples])

    def _draw(self, example: Example, visit: int) -> tuple[torch.Tensor, torch.Tensor, str]:
        generator = flow.generator(self.seed, example.id, visit)
        mean, logvar = self.kept.moments(example)
        x = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(mean.shape, generator=generator)
        dropped = torch.rand((), generator=generator) < self.caption_dropout
        return x, noise, "" if dropped else example.caption

    def _collate(self, x, noise, captions) -> Batch:
        x = (torch.stack(list(x)) - self.latents.shift) * self.latents.scale
        count, channels, height, width = x.shape
        text, pooled = zip(*map(self.kept.text, captions), strict=True)
        ids = FluxPipeline._prepare_latent_image_ids(count, height // 2, width // 2, self.device, torch.float32)

        def pack(latents: torch.Tensor) -> torch.Tensor:
            return FluxPipeline._pack_latents(latents, count, channels, height, width).to(self.device)

        return Batch(
            x=pack(x),
            noise=pack(torch.stack(list(noise))),
            text=torch.stack(text).to(self.device),
            pooled=torch.stack(pooled).to(self.device),
            image_ids=ids,
        )


def losses(transformer: FluxTransformer2DModel, batch: Batch, sigma: torch.Tensor, guidance: float) -> torch.Tensor:
    """(batch,) how far the predicted velocity is from the true one at noise level sigma (batch,)."""
    sigma = sigma.to(batch.x.device)
    dtype = batch.text.dtype
    with torch.autocast(batch.x.device.type, dtype, enabled=dtype != torch.float32):
        prediction = transformer(
            hidden_states=flow.mix(batch.x, batch.noise, sigma).to(dtype),
            encoder_hidden_states=batch.text,
            pooled_projections=batch.pooled,
            timestep=sigma,  # FluxPipeline feeds timestep / 1000, which is sigma
            guidance=torch.full_like(sigma, guidance) if transformer.config.guidance_embeds else None,  # type: ignore[attr-defined]
            img_ids=batch.image_ids,
            txt_ids=batch.image_ids.new_zeros(batch.text.shape[1], 3),
            return_dict=False,
        )[0]
    return flow.loss(prediction, flow.target(batch.x, batch.noise))


@torch.no_grad()
def validate(transformer: FluxTransformer2DModel, batches: list[Batch], guidance: float) -> list[float]:
    """Mean loss at each of VALIDATION_SIGMAS."""
    by_sigma = []
    for sigma in VALIDATION_SIGMAS:
        values = [losses(transformer, batch, torch.full((len(batch.x),), sigma), guidance) for batch in batches]
        by_sigma.append(float(torch.cat(values).mean()))
    return by_sigma


def train_step(
    transformer: FluxTransformer2DModel, loader: Loader, order: Order, recipe: Recipe, step: int
) -> torch.Tensor:
    """Leave the gradient of step `step` in the adapter; its mean loss."""
    options, seed = recipe.optimizer, recipe.run.seed
    count = options.batch * options.accumulate
    sigmas = flow.sample_sigmas(
        count, flow.generator(seed, "sigmas", step),
        distribution=recipe.flow.sigmas, mean=recipe.flow.mean, std=recipe.flow.std,
    )  # fmt: skip
    total = torch.zeros((), device=loader.device)
    for part, sigma in enumerate(sigmas.split(options.batch)):
        index = step * options.accumulate + part
        batch = loader.visit(order[index], first=index * options.batch)
        sigma = flow.shift_sigmas(sigma, loader.latents.sigma_shift(batch.x.shape[1], recipe.flow.shift))
        loss = losses(transformer, batch, sigma, recipe.flow.guidance).mean() / options.accumulate
        loss.backward()
        total += loss.detach()
    return total


def fit(recipe: Recipe, *, until: int | None = None) -> Run | None:
    """Train, or go on training; none if the run was told to leave: by SIGTERM, Ctrl-C, or at step `until`."""
    run, options = recipe.run, recipe.optimizer
    if done := _finished(recipe):
        return done

    # Data: what follows reads the cache; the encoders have left memory.
    kept, examples = cache.fill(recipe)
    trained_on, held_out = split(examples, recipe.data.held_out)
    base = cache.locate(recipe.model)
    device, dtype = cache.place(recipe.model)
    loader = Loader(kept, Latents.of(base), device, seed=run.seed, caption_dropout=recipe.data.caption_dropout)
    order = Order(trained_on, batch=options.batch, seed=run.seed)
    validation = loader.validation(held_out[: run.validation_pictures], batch=options.batch)

    # Model: the base is frozen, the adapter on it is trained.
    transformer = load_transformer(base, quantize=recipe.model.quantize, dtype=dtype, device=device)
    wanted = recipe.adapter
    adapter.add(transformer, rank=wanted.rank, alpha=wanted.alpha, targets=wanted.targets, seed=run.seed)
    if recipe.model.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    weights = adapter.trained(transformer)
    optimizer = _optimizer(options, list(weights.values()))

    # Position: the start, or the latest checkpoint.
    _claim(recipe)
    checkpoints = run.folder / "checkpoints"
    position = {"step": 0, "seconds": 0.0}
    if (last := checkpoint.latest(checkpoints)) is not None:
        position = checkpoint.restore(last, weights, optimizer)
        say(f"{run.folder}: going on from step {position['step']} of {options.steps}.")
    if validation and "base_validation" not in position:  # the base never changes, so once is enough
        position["base_validation"] = _validate_base(transformer, validation, recipe.flow.guidance)

    # Loop.
    begun = time.monotonic() - position["seconds"]
    bar = tqdm(
        range(position["step"], options.steps),
        desc=str(run.folder),
        initial=position["step"],
        total=options.steps,
    )
    with Log(run.folder, position["step"]) as log, _signals() as received:
        shown: list[torch.Tensor] = []
        for step in bar:
            rate = options.rate * rate_factor(step, options.steps, options.warmup, options.schedule)
            for group in optimizer.param_groups:
                group["lr"] = rate
            shown.append(train_step(transformer, loader, order, recipe, step))
            torch.nn.utils.clip_grad_norm_(weights.values(), options.clip)
            optimizer.step()
            optimizer.zero_grad()

            step += 1
            last_step, leaving = step == options.steps, bool(received) or step == until
            position |= {"step": step, "seconds": time.monotonic() - begun}
            if last_step or step % run.log_every == 0:
                loss = _finite(torch.stack(shown).mean().item(), step, checkpoints)
                log.write(step, loss=loss, lr=rate, seconds=round(position["seconds"], 2), memory=memory(device))
                bar.set_postfix(loss=f"{loss:.4f}")
                shown.clear()
            if validation and (last_step or step % run.validate_every == 0):
                position["validation"] = validate(transformer, validation, recipe.flow.guidance)
                log.validation(step, position["validation"], position["base_validation"])
            if last_step or leaving or step % run.checkpoint_every == 0:
                _finite(sum(loss.item() for loss in shown), step, checkpoints)
                checkpoint.save(checkpoints, weights, optimizer, position, keep=run.keep)
            if leaving and not last_step:
                say(f"{run.folder}: saved step {step} and left; the same command goes on from there.")
                return None

    # Result: run.json comes last, so its presence means done.
    adapter.save(transformer, run.folder / "adapter", getattr(torch, wanted.dtype))
    return _record(recipe, base, examples, position, sum(weight.numel() for weight in weights.values()), device)


def rate_factor(step: int, steps: int, warmup: int, schedule: str) -> float:
    """Learning-rate factor of a step: a linear warm-up, then constant or half a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def memory(device: torch.device) -> int:
    """Peak bytes: resident on a CPU, allocated on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Log:
    """log.jsonl, one line per logged step, and TensorBoard beside it; lines past `step` are dropped."""

    def __init__(self, folder: Path, step: int):
        self.path = folder / "log.jsonl"
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        self.path.write_text(
            "".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step)
        )
        self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.board.close()

    def write(self, step: int, **figures: float | list[float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        for name, value in figures.items():
            if not isinstance(value, list):
                self.board.add_scalar(name, value, step)

    def validation(self, step: int, adapted: list[float], base: list[float]) -> None:
        loss, base_loss = statistics.fmean(adapted), statistics.fmean(base)
        self.write(step, validation=loss, base_validation=base_loss, validation_by_sigma=adapted,
                   base_validation_by_sigma=base)  # fmt: skip
        say(f"step {step}: held-out loss {loss:.4f}, the base's {base_loss:.4f} ({loss / base_loss - 1:+.1%})")


def _optimizer(options: Optimizer, weights: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    if options.name == "adamw8bit":
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(weights, lr=options.rate, weight_decay=options.weight_decay)
    return torch.optim.AdamW(weights, lr=options.rate, weight_decay=options.weight_decay)


def _validate_base(transformer: FluxTransformer2DModel, batches: list[Batch], guidance: float) -> list[float]:
    transformer.disable_adapters()
    try:
        return validate(transformer, batches, guidance)
    finally:
        transformer.enable_adapters()


def _finite(loss: float, step: int, checkpoints: Path) -> float:
    if math.isfinite(loss):
        return loss
    last = checkpoint.latest(checkpoints)
    raise TrainingError(
        f"The loss is {loss} by step {step}; the last good state is {last or 'the start'}: "
        "lower optimizer.rate and remove the run's folder to begin again."
    )


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """What was received: the loop then saves and leaves after its step; a second Ctrl-C ends it at once."""
    received: list[int] = []

    def receive(number: int, _: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _claim(recipe: Recipe) -> None:
    """Write the resolved recipe into the run's folder."""
    recipe.run.folder.mkdir(parents=True, exist_ok=True)
    partial = recipe.run.folder / ".recipe.yaml.partial"
    partial.write_text(recipe.to_yaml(), encoding="utf-8")
    partial.replace(recipe.run.folder / "recipe.yaml")


def _finished(recipe: Recipe) -> Run | None:
    """The record of a finished run of this recipe; a run of another recipe in the folder is refused."""
    folder = recipe.run.folder
    if (folder / "recipe.yaml").exists():
        different = recipes.differences(recipes.read(folder / "recipe.yaml"), recipe)
        if different:
            raise TrainingError(
                f"{folder} holds a run of another recipe: {'; '.join(different)}; set run.folder, or remove it."
            )
    if not (folder / "run.json").exists():
        return None
    run = Run.from_json((folder / "run.json").read_text())
    say(f"{folder}: finished after {run.steps} steps; nothing to do.")
    return run


def _mean(losses: list[float] | None) -> float | None:
    return statistics.fmean(losses) if losses else None


def _record(
    recipe: Recipe,
    base: Path,
    examples: list[Example],
    position: dict,
    parameters: int,
    device: torch.device,
) -> Run:
    content = hashlib.sha256(json.dumps([(example.id, example.caption) for example in examples]).encode()).hexdigest()
    run = Run(
        name=recipe.run.folder.name,
        base=label(recipe.model.base),
        base_revision=commit_of(base) or cache.digest(base, "transformer")[:16],
        dataset=label(recipe.data.source),
        dataset_revision=recipe.data.revision or f"content {content[:16]}",
        steps=position["step"],
        seconds=round(position["seconds"], 1),
        peak_memory=memory(device),
        trained_parameters=parameters,
        validation_loss=_mean(position.get("validation")),
        base_validation_loss=_mean(position.get("base_validation")),
        versions={library: importlib.metadata.version(library) for library in LIBRARIES},
    )
    partial = recipe.run.folder / ".run.json.partial"
    partial.write_text(run.to_json(), encoding="utf-8")
    partial.replace(recipe.run.folder / "run.json")
    return run
