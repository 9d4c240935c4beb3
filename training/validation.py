"""The held-out loss: the same pictures, noise and noise levels every time, so that two numbers can be compared."""

import statistics
from dataclasses import dataclass

import torch

from training import flow
from training.base import TrainingContext, losses
from training.batches import MicroBatch, fixed_parts
from training.recipe import TrainingConfig

SIGMAS = flow.fixed_sigmas(4)


@dataclass(frozen=True)
class Score:
    """Flow-matching loss on the held-out pictures."""

    mean: float
    by_sigma: list[float]
    """At each of SIGMAS."""
    by_genre: dict[str, float]
    """Of the pictures whose genre is known."""


def parts_for(base: TrainingContext, recipe: TrainingConfig) -> list[MicroBatch]:
    """Each held-out picture at each noise level."""
    pictures = sorted({example.id for example in base.held_out})[: recipe.run.validation_pictures]
    return fixed_parts(
        [example for example in base.held_out if example.id in pictures],
        SIGMAS,
        batch=recipe.optimizer.train_batch_size,
    )


@torch.no_grad()
def score(base: TrainingContext, parts: list[MicroBatch], recipe: TrainingConfig) -> Score:
    """What the adapter, as it is now, loses; every process takes its share of the parts."""
    genres = sorted({example.genre for part in parts for example in part.examples if example.genre})
    sums = torch.zeros(len(SIGMAS), len(genres) + 1, 2)  # [..., 0] of losses, [..., 1] of samples; genre 0: unknown
    mine = parts[base.runtime.rank :: base.runtime.world]
    idle = -(-len(parts) // base.runtime.world) - len(mine)  # a sharded pass is one of all processes
    for index, (part, rows) in enumerate(base.with_modulation(mine + parts[:idle], recipe.flow.guidance)):
        found = losses(base, base.loader.fixed(part), rows, recipe.flow.guidance)
        if index == len(mine):
            break
        level = min(range(len(SIGMAS)), key=lambda index: abs(SIGMAS[index] - float(part.sigma[0])))
        for example, loss in zip(part.examples, found.tolist(), strict=True):
            sums[level, genres.index(example.genre) + 1 if example.genre else 0] += torch.tensor([loss, 1.0])
    return _score(base.runtime.sum(sums), genres)


def _score(sums: torch.Tensor, genres: list[str]) -> Score:
    by_sigma = (sums[..., 0].sum(1) / sums[..., 1].sum(1)).tolist()
    by_genre = (sums[..., 0].sum(0) / sums[..., 1].sum(0)).tolist()
    return Score(statistics.fmean(by_sigma), by_sigma, dict(zip(genres, by_genre[1:], strict=True)))


def as_figures(now: Score, base: Score) -> dict:
    """For log.jsonl: every loss beside the base model's."""
    figures = {"validation": now.mean, "base_validation": base.mean}
    for name in ("by_sigma", "by_genre"):
        figures |= {f"validation_{name}": getattr(now, name), f"base_validation_{name}": getattr(base, name)}
    return figures
