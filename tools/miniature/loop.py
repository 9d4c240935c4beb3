"""The loop that the miniature's parts share: a progress bar, a cosine schedule, an average of the weights,
and a state on disk from which a stopped build goes on where it was."""

import copy
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch.utils.data import DataLoader
from tqdm import tqdm

SAVE_EVERY = 60.0  # seconds
AVERAGE = 0.998  # how much of the averaged weights a step keeps
WORKERS = 8  # processes that draw batches ahead, at most

Batch = dict[str, torch.Tensor]


def cosine(step: int, steps: int, warmup: int = 100) -> float:
    """Learning-rate factor: a linear warm-up, then half a cosine down to 2 %."""
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def constant(step: int, steps: int) -> float:
    """Learning-rate factor: a short linear warm-up, and no more."""
    return min(1.0, (step + 1) / 50)


def to_zero(step: int, steps: int) -> float:
    """Learning-rate factor: a short linear warm-up, then straight down to 1 %."""
    return min(1.0, (step + 1) / 50) * max(0.01, 1 - step / steps)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def prepare() -> None:
    """Faster products on a GPU, and no attention of cuDNN's: with these narrow heads its backward pass ended in an
    illegal memory access (H200, PyTorch 2.11); training/base.py knows it from FLUX's own."""
    if device().type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cuda.enable_cudnn_sdp(False)


def fast() -> bool:
    """Whether this machine multiplies bfloat16 fast: a GPU, or a processor with AMX."""
    return device().type == "cuda" or torch.cpu._is_amx_tile_supported()


def bfloat16() -> torch.autocast:
    return torch.autocast(device().type, torch.bfloat16, enabled=fast())


def plain_attention(transformer: FluxTransformer2DModel) -> None:
    """On a processor, attention as two products: the fused one's backward pass took a third of a step there."""
    if device().type == "cpu":
        transformer.set_attention_backend("_native_math")


def compiled(model: torch.nn.Module, steps: int) -> Callable[..., Any]:
    """The same model, compiled where there are enough steps to repay it: 27 instead of 18 samples a second with AMX."""
    return torch.compile(model, dynamic=False) if steps > 100 and fast() else model


def optimizers(model: torch.nn.Module, rate: float, muon: bool, weight_decay: float) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon for the matrices of the blocks and AdamW for the rest. In 100 steps of 16 Muon lowered the
    transformer's loss as far as AdamW in about 150."""

    def for_muon(name: str, parameter: torch.nn.Parameter) -> bool:
        return muon and parameter.ndim == 2 and "blocks" in name and ".norm" not in name

    matrices = [p for name, p in model.named_parameters() if for_muon(name, p)]
    rest = [p for name, p in model.named_parameters() if not for_muon(name, p)]
    adamw = torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
    if not matrices:
        return [adamw]
    return [adamw, torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")]


def run(
    *,
    model: torch.nn.Module,
    state_file: Path,
    steps: int,
    rate: float,
    batch_of: Callable[[int], Batch],
    loss_of: Callable[[Batch], tuple[torch.Tensor, dict[str, torch.Tensor]]],
    weight_decay: float = 0.0,
    muon: bool = False,
    schedule: Callable[[int, int], float] = cosine,
) -> torch.nn.Module:
    """Train `model` for `steps` steps and leave its averaged weights in it.

    `batch_of(step)` draws a batch on the CPU, as a function of the step alone, so that a resumed build sees the same
    data; `loss_of` gets it on the model's device and returns the loss and the figures to show beside the bar.
    """
    name = state_file.stem
    used = optimizers(model, rate, muon, weight_decay)
    mean = copy.deepcopy(model).requires_grad_(False)
    means: tuple[torch.Tensor, ...] = tuple(mean.parameters())
    weights: tuple[torch.Tensor, ...] = tuple(model.parameters())
    parts = {"model": model, "mean": mean, **{f"optimizer {i}": optimizer for i, optimizer in enumerate(used)}}
    start, where = 0, weights[0].device
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=where)
        if (before := state.get("steps")) != steps:
            raise SystemExit(f"{state_file} was begun for {before} steps, not {steps}; --fresh begins again.")
        for part in parts:
            parts[part].load_state_dict(state[part])
        start = state["step"]

    model.train()
    saved = time.monotonic()
    bar = tqdm(range(start, steps), desc=name, initial=start, total=steps, mininterval=5)
    for step, batch in zip(bar, batches(batch_of, range(start, steps), where), strict=True):
        loss, figures = loss_of({key: value.to(where, non_blocking=True) for key, value in batch.items()})
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in used:
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(step, steps)
            optimizer.step()
        with torch.no_grad():  # a mean that forgets the start: its window grows with what there is to average
            torch._foreach_lerp_(means, weights, 1 - min(AVERAGE, (step + 1) / (step + 10)))
        if step % 20 == 0:
            bar.set_postfix({key: f"{float(value):.4f}" for key, value in figures.items()})
        if time.monotonic() - saved > SAVE_EVERY or step + 1 == steps:
            state = {part: parts[part].state_dict() for part in parts} | {"step": step + 1, "steps": steps}
            save(state, state_file)
            saved = time.monotonic()
    model.load_state_dict(mean.state_dict())
    return model.eval()


def batches(batch_of: Callable[[int], Batch], steps: range, where: torch.device) -> DataLoader:
    """One after the other. For a GPU, which would wait for them, other processes draw them ahead: forked, because what
    draws them cannot be pickled."""
    workers: dict[str, Any] = {}
    if where.type == "cuda" and steps and "fork" in multiprocessing.get_all_start_methods():
        count = min(WORKERS, max(1, len(os.sched_getaffinity(0)) - 2))
        workers = {"num_workers": count, "multiprocessing_context": "fork", "pin_memory": True}
    return DataLoader(_Drawn(batch_of), batch_size=None, sampler=steps, **workers)


class _Drawn(torch.utils.data.Dataset):
    def __init__(self, batch_of: Callable[[int], Batch]) -> None:
        self.batch_of = batch_of

    def __getitem__(self, step: int) -> Batch:
        return self.batch_of(step)


def save(state: dict | torch.Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
