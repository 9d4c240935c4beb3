"""Checkpoints: `checkpoints/step-000500/` with the adapter, the optimizer's state and the position, whole or absent.

What else a run consists of (order, noise, learning rate) follows from the recipe and the step. The adapter's file is
one that diffusers, the Space and `evaluation` paint with, alpha included; the digests of all files lie beside them, so
that a torn or damaged checkpoint is noticed and the one before it is taken.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from impressionism.errors import UserError
from impressionism.files import write_folder
from impressionism.hub import sha256_of
from impressionism.lora_file import peft_config
from impressionism.names import WEIGHTS_FILE
from training.examples import say
from training.validation import Score

RAW_WEIGHTS_FILE = "training_weights.safetensors"  # with an average, which then is what WEIGHTS_FILE holds
OPTIMIZER_FILE, POSITION_FILE, DIGESTS_FILE = "optimizer.pt", "position.json", "digests.json"
UNREADABLE = (OSError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError, UnpicklingError)

Weights = Mapping[str, torch.Tensor]  # `LAYER.lora_A` (rank, in) and `LAYER.lora_B` (out, rank)


class Best(BaseModel):
    step: int
    loss: float


class Position(BaseModel):
    """Where a run stands."""

    model_config = ConfigDict(extra="forbid")

    step: int = 0
    seconds: float = 0.0
    peak_memory: int = 0
    losses: list[float] = []
    """Since the last line of the log."""
    base: Score | None = None
    """Held-out loss of the base model; none before it is known, or where nothing is held out."""
    validation: Score | None = None
    """The last one of the adapter."""
    best: Best | None = None
    rests_on: dict[str, Any] = {}
    """What the run's numbers depend on besides its recipe."""


@dataclass
class TrainState:
    """All that a training step changes."""

    weights: Mapping[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    ema: dict[str, torch.Tensor] = field(default_factory=dict)
    """An average of the weights; empty where the recipe asks for none."""
    alpha: float | None = None

    @contextlib.contextmanager
    def ema_weights(self) -> Iterator[None]:
        """The average, where there is one, stands in for the weights."""
        own = {name: self.weights[name].detach().clone() for name in self.ema}
        copy(self.ema, {name: self.weights[name] for name in self.ema})
        try:
            yield
        finally:
            copy(own, {name: self.weights[name] for name in own})


def save(folder: Path, state: TrainState, position: Position, *, keep: int) -> Path:
    """Write the checkpoint of the position's step; of the others the last `keep` stay, and the best."""
    final = at(folder, position.step)
    try:
        with write_folder(final, durable=True) as partial:
            _write_adapter(state.ema or state.weights, state.alpha, partial / WEIGHTS_FILE)
            if state.ema:
                _write_adapter(state.weights, state.alpha, partial / RAW_WEIGHTS_FILE)
            torch.save(state.optimizer.state_dict(), partial / OPTIMIZER_FILE)
            (partial / POSITION_FILE).write_text(position.model_dump_json())
            digests = {file.name: sha256_of(file).hex() for file in sorted(partial.iterdir())}
            (partial / DIGESTS_FILE).write_text(json.dumps(digests))
    except (OSError, SafetensorError, RuntimeError, UserError) as error:  # torch reports a full disk as a RuntimeError
        kept = latest(folder)
        raise UserError(
            f"{final} could not be written ({error}); {f'{kept} is whole' if kept else 'no other was written yet'}: "
            "make room on the disk and start the same command again."
        ) from error
    best = position.best.step if position.best else None
    for old in [kept for kept in all_of(folder) if step_of(kept) <= position.step][:-keep]:
        if step_of(old) != best:
            shutil.rmtree(old)
    return final


def restore(folder: Path, state: TrainState) -> Position | None:
    """Put the numbers of the latest whole checkpoint into place; its position, or none where there is none."""
    for unfinished in folder.glob(".*.partial"):  # of a process that was killed
        shutil.rmtree(unfinished, ignore_errors=True)
    for checkpoint in reversed(all_of(folder)):
        try:
            position = read_position(checkpoint)
            raw = checkpoint / (RAW_WEIGHTS_FILE if state.ema else WEIGHTS_FILE)
            saved, averaged = read_weights(raw), read_weights(checkpoint / WEIGHTS_FILE) if state.ema else {}
            optimizer = torch.load(checkpoint / OPTIMIZER_FILE, weights_only=True, map_location="cpu")
        except UNREADABLE as error:
            say(f"{checkpoint} is damaged ({' '.join(str(error).split())[:80]}); the one before it is taken.")
            continue
        try:
            state.optimizer.load_state_dict(optimizer)
            copy(saved, state.weights)
            copy(averaged, state.ema)
        except (ValueError, KeyError, RuntimeError) as error:
            raise UserError(
                f"{checkpoint} was written by another version of this trainer: begin again in another run.folder."
            ) from error
        return position
    return None


def read_position(checkpoint: Path) -> Position:
    """Raises ValueError where a file of the checkpoint is not the one that was written."""
    digests = json.loads((checkpoint / DIGESTS_FILE).read_text())
    if not {WEIGHTS_FILE, OPTIMIZER_FILE, POSITION_FILE} <= set(digests):
        raise ValueError(f"{DIGESTS_FILE} is incomplete")
    for name, digest in digests.items():
        if sha256_of(checkpoint / name).hex() != digest:
            raise ValueError(f"{name} does not have its digest")
    try:
        return Position.model_validate_json((checkpoint / POSITION_FILE).read_text())
    except ValidationError as error:
        raise ValueError(f"{POSITION_FILE}: {error.errors()[0]['msg']}") from None


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's weights, by the names that a run gives them."""
    return {name.removeprefix("transformer.").removesuffix(".weight"): w for name, w in load_file(file).items()}


@torch.no_grad()
def copy(source: Weights, target: Weights) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])


def latest(folder: Path) -> Path | None:
    checkpoints = all_of(folder)
    return checkpoints[-1] if checkpoints else None


def at(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def all_of(folder: Path) -> list[Path]:
    """The checkpoints in a folder, by their step."""
    if not folder.exists():
        return []
    return sorted((path for path in folder.iterdir() if re.fullmatch(r"step-\d{6,}", path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _write_adapter(weights: Weights, alpha: float | None, file: Path) -> None:
    """In diffusers' layout and float32, so that training goes on bit for bit; the metadata says alpha."""
    ranks = {name.removesuffix(".lora_A"): len(w) for name, w in weights.items() if name.endswith(".lora_A")}
    tensors = {f"transformer.{name}.weight": w.detach().cpu().contiguous() for name, w in weights.items()}
    save_file(tensors, file, {"format": "pt", "lora_adapter_metadata": peft_config(ranks, alpha)})
