"""Checkpoints: `checkpoints/step-000500/` with the adapter, the optimizer and the position, whole or absent.

What else a run consists of (order, noise, learning rate) follows from the recipe and the step.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from impressionism.errors import UserError
from training.examples import say

Weights = Mapping[str, torch.Tensor]
TORN = (OSError, SafetensorError, RuntimeError, EOFError, ValueError, UnpicklingError)  # what its readers raise


def save(
    folder: Path, weights: Weights, averages: Weights, optimizer: torch.optim.Optimizer,
    position: dict[str, Any], *, keep: int,
) -> Path:  # fmt: skip
    """Write the checkpoint of position["step"]; of the others the last `keep` stay, and the best."""
    final = at(folder, position["step"])
    partial = folder / f".{final.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_plain(weights), partial / "adapter.safetensors")
        if averages:
            save_file(_plain(averages), partial / "average.safetensors")
        torch.save(optimizer.state_dict(), partial / "optimizer.pt")
        (partial / "position.json").write_text(json.dumps(position))
        for written in (*partial.iterdir(), partial):
            _to_disk(written)
        aside = folder / f".{final.name}.old"  # there if the step is saved again
        if final.exists():
            final.replace(aside)
        partial.replace(final)
        _to_disk(folder)
        shutil.rmtree(aside, ignore_errors=True)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        shutil.rmtree(partial, ignore_errors=True)
        kept = latest(folder)
        raise UserError(
            f"{final} could not be written ({error}); {f'{kept} is whole' if kept else 'no other was written yet'}: "
            "make room on the disk and start the same command again."
        ) from error
    best = (position.get("best") or {}).get("step")
    for old in [kept for kept in _all(folder) if _step(kept) <= position["step"]][:-keep]:
        if _step(old) != best:
            shutil.rmtree(old)
    return final


def latest(folder: Path) -> Path | None:
    checkpoints = _all(folder)
    return checkpoints[-1] if checkpoints else None


def restore(folder: Path, weights: Weights, averages: Weights, optimizer: torch.optim.Optimizer) -> dict | None:
    """Put the latest whole checkpoint's numbers into place; its position, or none where there is none."""
    for checkpoint in reversed(_all(folder)):
        try:
            saved = load_file(checkpoint / "adapter.safetensors")
            averaged = load_file(checkpoint / "average.safetensors") if averages else {}
            state = torch.load(checkpoint / "optimizer.pt", weights_only=True, map_location="cpu")
            position = json.loads((checkpoint / "position.json").read_text())
        except TORN as error:
            say(f"{checkpoint} is torn ({' '.join(str(error).split())[:80]}); the one before it is taken.")
            continue
        try:
            optimizer.load_state_dict(state)
        except ValueError as error:
            raise UserError(
                f"{checkpoint} was written by another version of this trainer: begin again in another run.folder."
            ) from error
        copy(saved, weights)
        copy(averaged, averages)
        return position
    return None


@torch.no_grad()
def copy(source: Weights, target: Weights) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])


def judged(checkpoint: Path) -> Weights:
    """The weights that validation saw: the average where there is one."""
    average = checkpoint / "average.safetensors"
    return load_file(average if average.exists() else checkpoint / "adapter.safetensors")


def at(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def _plain(weights: Weights) -> dict[str, torch.Tensor]:
    return {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}


def _to_disk(path: Path) -> None:
    """Or a power cut could leave a whole name with torn contents."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _all(folder: Path) -> list[Path]:
    if not folder.exists():
        return []
    return sorted((path for path in folder.iterdir() if re.fullmatch(r"step-\d{6,}", path.name)), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))
