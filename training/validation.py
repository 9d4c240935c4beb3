"""The held-out loss: the same pictures, noise and noise levels every time, so that two numbers can be compared."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from impressionism.modulation import AHEAD
from training.batches import MicroBatch, fixed_parts
from training.recipe import TrainingConfig

if TYPE_CHECKING:
    from training.base import TrainingContext

SIGMAS = [0.125, 0.375, 0.625, 0.875]  # noise levels at which validation always looks


@dataclass(frozen=True)
class Score:
    """Flow-matching loss on the held-out pictures."""

    mean: float
    by_sigma: list[float]
    """At each of SIGMAS."""
    by_genre: dict[str, float]
    """Mean loss by genre, of the pictures whose genre is known."""


def held_out_batches(context: TrainingContext, recipe: TrainingConfig) -> list[MicroBatch]:
    """Each held-out picture at each noise level."""
    pictures = sorted({example.id for example in context.held_out})[: recipe.run.validation_pictures]
    chosen = [example for example in context.held_out if example.id in pictures]
    return fixed_parts(chosen, SIGMAS, batch=recipe.optimizer.train_batch_size)


@torch.no_grad()
def score(context: TrainingContext, batches: list[MicroBatch], recipe: TrainingConfig) -> Score:
    """The loss of the adapter as it is now; every process takes its share of the batches."""
    runtime, guidance = context.runtime, recipe.flow.guidance
    genres = sorted({example.genre for one in batches for example in one.examples if example.genre})
    sums = torch.zeros(len(SIGMAS), len(genres) + 1, 2)  # [..., 0] of losses, [..., 1] of samples; genre 0: unknown
    mine = batches[runtime.rank :: runtime.world]
    idle = -(-len(batches) // runtime.world) - len(mine)  # a sharded pass is one of all processes
    passes = mine + batches[:idle]
    for start in range(0, len(passes), AHEAD):
        together = passes[start : start + AHEAD]
        with context.modulation_of(together, guidance):
            for index, one in enumerate(together, start=start):
                losses = context.losses(context.loader.fixed(one), guidance)
                if index >= len(mine):
                    break
                level = min(range(len(SIGMAS)), key=lambda index: abs(SIGMAS[index] - float(one.sigma[0])))
                for example, loss in zip(one.examples, losses.tolist(), strict=True):
                    sums[level, genres.index(example.genre) + 1 if example.genre else 0] += torch.tensor([loss, 1.0])
    sums = runtime.sum(sums)
    by_sigma = (sums[..., 0].sum(1) / sums[..., 1].sum(1)).tolist()
    by_genre = (sums[..., 0].sum(0) / sums[..., 1].sum(0)).tolist()
    return Score(statistics.fmean(by_sigma), by_sigma, dict(zip(genres, by_genre[1:], strict=True)))


def as_figures(now: Score, base: Score) -> dict:
    """For log.jsonl: every loss beside the base model's."""
    figures = {"validation": now.mean, "base_validation": base.mean}
    for name in ("by_sigma", "by_genre"):
        figures |= {f"validation_{name}": getattr(now, name), f"base_validation_{name}": getattr(base, name)}
    return figures
