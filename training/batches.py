"""Cached entries → batches on the device. Which pictures, captions, noise and noise levels a step sees is a function
of (seed, sample, visit) alone, so a resumed run sees the same, and so do several processes that share the batch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from diffusers import FluxPipeline

from training import flow
from training.cache import Cache
from training.examples import Example, Order, Size
from training.recipe import Data, TrainingConfig


@dataclass(frozen=True)
class MicroBatch:
    """What passes through the model together, not read from the cache yet."""

    examples: list[Example]
    visits: list[int]
    """The pictures that the run had seen before each; for validation 0."""
    captions: list[str]
    sigma: torch.Tensor
    """(batch,) noise levels, float32."""


@dataclass(frozen=True)
class Batch:
    x: torch.Tensor  # (batch, tokens, channels), float32
    noise: torch.Tensor  # (batch, tokens, channels), float32
    sigma: torch.Tensor  # (batch,), float32
    text: torch.Tensor  # (batch, text tokens, channels)
    pooled: torch.Tensor  # (batch, channels)
    image_ids: torch.Tensor  # (tokens, 3)


class Schedule:
    """The micro-batches of step 0, 1, 2 …, for process `rank` of `world`: each takes its share of every batch."""

    def __init__(
        self, recipe: TrainingConfig, examples: list[Example], loader: "Loader", *, rank: int = 0, world: int = 1
    ):
        self.recipe, self.loader, self.rank = recipe, loader, rank
        self.batch = recipe.optimizer.train_batch_size
        self.together = self.batch * world
        self.order = Order(examples, batch=self.together, seed=recipe.run.seed)

    def __getitem__(self, step: int) -> list[MicroBatch]:
        options, run = self.recipe.optimizer, self.recipe.run
        sigmas = flow.sample_sigmas(
            self.together * options.gradient_accumulation_steps, flow.generator(run.seed, "sigmas", step),
            distribution=self.recipe.flow.sigmas, mean=self.recipe.flow.mean, std=self.recipe.flow.std,
        ).split(self.together)  # fmt: skip
        mine = slice(self.rank * self.batch, (self.rank + 1) * self.batch)
        return [
            self._micro_batch(step * options.gradient_accumulation_steps + place, sigma, mine)
            for place, sigma in enumerate(sigmas)
        ]

    def _micro_batch(self, index: int, sigma: torch.Tensor, mine: slice) -> MicroBatch:
        examples = self.order[index][mine]
        visits = [index * self.together + slot for slot in range(self.together)][mine]
        seed, data = self.recipe.run.seed, self.recipe.data
        captions = [caption_for(example, data, seed, visit) for example, visit in zip(examples, visits, strict=True)]
        width, height = examples[0].size
        shift = self.loader.sigma_shift(width * height // 256, self.recipe.flow.shift)
        return MicroBatch(examples, visits, captions, flow.shift_sigmas(sigma[mine], shift))


def caption_for(example: Example, data: Data, seed: int, visit: int) -> str:
    """The full caption, the trigger with the content only, or nothing, by their shares."""
    drawn = float(torch.rand((), generator=flow.generator(seed, "caption", example.id, visit)))
    if drawn < data.caption_dropout:
        return ""
    if drawn < data.caption_dropout + data.content_captions and example.content is not None:
        return example.content
    return example.caption


def fixed_parts(examples: list[Example], sigmas: list[float], *, batch: int) -> list[MicroBatch]:
    """For validation: each picture at each noise level, one size to a micro-batch."""
    groups: dict[Size, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.size, []).append(example)
    groups_of_a_batch = [
        group[start : start + batch] for group in groups.values() for start in range(0, len(group), batch)
    ]
    return [
        MicroBatch(group, [0] * len(group), [example.caption for example in group], torch.full((len(group),), sigma))
        for group in groups_of_a_batch
        for sigma in sigmas
    ]


class Loader:
    """Reads a micro-batch's entries from the cache and puts them on the device, as the transformer takes them."""

    def __init__(self, kept: Cache, base: Path, device: torch.device, seed: int):
        self.kept, self.device, self.seed = kept, device, seed
        vae = json.loads((base / "vae" / "config.json").read_text())
        self.shift, self.scale = vae.get("shift_factor") or 0.0, vae["scaling_factor"]
        self.scheduler = json.loads((base / "scheduler" / "scheduler_config.json").read_text())

    def sigma_shift(self, tokens: int, wanted: float | Literal["resolution"]) -> float:
        """The shift wanted; "resolution": the scheduler's own for a picture of so many tokens."""
        if wanted != "resolution":
            return wanted
        if not self.scheduler.get("use_dynamic_shifting"):
            return self.scheduler.get("shift", 1.0)
        keys = {"base_tokens": "base_image_seq_len", "max_tokens": "max_image_seq_len",
                "base_shift": "base_shift", "max_shift": "max_shift"}  # fmt: skip
        options = {ours: self.scheduler[theirs] for ours, theirs in keys.items() if theirs in self.scheduler}
        return flow.resolution_shift(tokens, **options)

    def pooled(self, part: MicroBatch) -> torch.Tensor:
        """(batch, channels) CLIP's summary of each caption."""
        return torch.stack([self.kept.text(caption)[1] for caption in part.captions])

    def train(self, part: MicroBatch) -> Batch:
        """Latents drawn anew from their moments, and new noise, at each visit."""
        pairs = [self._draw(example, visit) for example, visit in zip(part.examples, part.visits, strict=True)]
        return self._collate(part, *zip(*pairs, strict=True))

    def fixed(self, part: MicroBatch) -> Batch:
        """The mean latents, and always the same noise."""
        x = [self.kept.moments(example)[0] for example in part.examples]
        noise = [
            torch.randn(mean.shape, generator=flow.generator("validation", example.id))
            for mean, example in zip(x, part.examples, strict=True)
        ]
        return self._collate(part, x, noise)

    def _draw(self, example: Example, visit: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = flow.generator(self.seed, example.id, visit)
        mean, logvar = self.kept.moments(example)
        x = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=generator)
        return x, torch.randn(mean.shape, generator=generator)

    def _collate(self, part: MicroBatch, x, noise) -> Batch:
        x = (torch.stack(list(x)) - self.shift) * self.scale
        count, channels, height, width = x.shape
        text = torch.stack([self.kept.text(caption)[0] for caption in part.captions])
        ids = FluxPipeline._prepare_latent_image_ids(count, height // 2, width // 2, self.device, torch.float32)

        def pack(latents: torch.Tensor) -> torch.Tensor:
            return FluxPipeline._pack_latents(latents, count, channels, height, width).to(self.device)

        return Batch(
            x=pack(x),
            noise=pack(torch.stack(list(noise))),
            # The transformer gets the noise level in its own precision, so the noise is mixed in at that very level.
            sigma=part.sigma.to(text.dtype).float().to(self.device),
            text=text.to(self.device),
            pooled=self.pooled(part).to(self.device),
            image_ids=ids,
        )
