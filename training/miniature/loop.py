"""The loop that the miniature's parts share: a progress bar, a cosine schedule, an average of the weights,
and a state on disk from which a stopped build goes on where it was."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

SAVE_EVERY = 60.0  # seconds
AVERAGE = 0.995  # how much of the averaged weights a step keeps


def cosine(step: int, steps: int, warmup: int = 100) -> float:
    """Learning-rate factor: a linear warm-up, then half a cosine down to 2 %."""
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def run(
    *,
    model: torch.nn.Module,
    state_file: Path,
    steps: int,
    rate: float,
    loss_of: Callable[[int], tuple[torch.Tensor, dict[str, float]]],
    weight_decay: float = 0.0,
) -> torch.nn.Module:
    """Train `model` for `steps` steps of AdamW and leave its averaged weights in it.

    `loss_of(step)` draws its own batch, as a function of the step alone, so that a resumed build sees the same
    data; it returns the loss and the figures to show beside the bar.
    """
    name = state_file.stem
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, steps))
    mean = torch.optim.swa_utils.AveragedModel(model, avg_fn=_running_mean)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "mean": mean}
    start = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=device())
        for part in parts:
            parts[part].load_state_dict(state[part])
        start = state["step"]

    model.train()
    saved = time.monotonic()
    bar = tqdm(range(start, steps), desc=name, initial=start, total=steps, mininterval=5)
    for step in bar:
        loss, figures = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean.update_parameters(model)
        if step % 20 == 0:
            bar.set_postfix({key: f"{value:.4f}" for key, value in figures.items()})
        if time.monotonic() - saved > SAVE_EVERY or step + 1 == steps:
            save({part: parts[part].state_dict() for part in parts} | {"step": step + 1}, state_file)
            saved = time.monotonic()
    model.load_state_dict(mean.module.state_dict())
    return model.eval()


def _running_mean(mean: torch.Tensor, value: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
    """An exponential mean that forgets the start: its window grows with what there is to average."""
    return mean.lerp(value, 1 - min(AVERAGE, (int(count) + 1) / (int(count) + 10)))


def save(state: dict | torch.Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
