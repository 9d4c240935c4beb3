"""Checkpoints: `checkpoints/step-000500/` with the adapter, the optimizer and the position, whole or absent.

What else a run consists of (order, noise, learning rate) follows from the recipe and the step.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def save(
    folder: Path, weights: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer,
    position: dict[str, Any], *, keep: int,
) -> Path:  # fmt: skip
    """Write the checkpoint of position["step"] beside the others and remove all but the last `keep`."""
    final = folder / f"step-{position['step']:06d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(
        {name: weight.detach().cpu().contiguous() for name, weight in weights.items()},
        partial / "adapter.safetensors",
    )
    torch.save(optimizer.state_dict(), partial / "optimizer.pt")
    (partial / "position.json").write_text(json.dumps(position))
    shutil.rmtree(final, ignore_errors=True)
    partial.replace(final)
    for old in _all(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def latest(folder: Path) -> Path | None:
    checkpoints = _all(folder)
    return checkpoints[-1] if checkpoints else None


def restore(
    checkpoint: Path, weights: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put the checkpoint's numbers into `weights` and `optimizer`; its position."""
    saved = load_file(checkpoint / "adapter.safetensors")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(saved[name])
    optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", weights_only=True))
    return json.loads((checkpoint / "position.json").read_text())


def _all(folder: Path) -> list[Path]:
    if not folder.exists():
        return []
    return sorted((path for path in folder.iterdir() if re.fullmatch(r"step-\d{6,}", path.name)), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))
