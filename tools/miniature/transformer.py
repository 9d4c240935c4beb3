"""The miniature's transformer: a `FluxTransformer2DModel` of three double and six single blocks, 192 wide,
trained from scratch by flow matching on drawn scenes and their captions."""

# pyright: reportArgumentType=false, reportOptionalSubscript=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false, reportCallIssue=false
# (diffusers' and torch's layers are typed as Tensor | Module)

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from tqdm import tqdm

from tools.miniature import loop
from tools.miniature.autoencoder import LATENT, to_tensor
from tools.miniature.captions import describe
from tools.miniature.scenes import scene_of
from tools.miniature.text import WIDTH, Frozen, as_typed

BATCH = {"cpu": 16, "cuda": 512}
UNCAPTIONED = 0.08  # share of samples with an empty prompt
GUIDANCE = (1.0, 5.0)  # fed at random, so that it changes nothing until `distill` gives it a meaning
SHIFT = 2.0  # of the noise levels; the sampler's own is 1.6 at this size
CROPS = ((24, 24), (24, 24), (24, 24), (18, 24), (24, 18))  # latent sizes, a batch each, in turn


def build() -> FluxTransformer2DModel:
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT,
        num_layers=3,
        num_single_layers=6,
        attention_head_dim=48,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 20, 20),
    )
    # Every block begins as the identity and the whole as zero (adaLN-Zero, Peebles & Xie 2023).
    for name, module in transformer.named_modules():
        if isinstance(module, torch.nn.Linear) and (".norm" in name or name == "proj_out"):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return transformer


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray, path: Path) -> torch.Tensor:
    """(count, channels, height, width) latent means, as the autoencoder gives them; kept at `path`."""
    if path.exists() and len(kept := torch.load(path, weights_only=True)) == len(pictures):
        return kept
    vae = vae.to(loop.device(), memory_format=torch.channels_last)
    size = BATCH[loop.device().type] // 8
    means = [
        vae.encode(to_tensor(pictures[i : i + size]).to(loop.device())).latent_dist.mean.cpu()
        for i in tqdm(range(0, len(pictures), size), desc=path.stem)
    ]
    loop.save(torch.cat(means), path)
    return torch.cat(means)


def normalise(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Latents of mean 0 and deviation 1; the autoencoder's configuration keeps the two numbers, as FLUX's does."""
    shift, scale = latents.mean().item(), 1 / latents.std().item()
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    return (latents - shift) * scale


def sigmas(count: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) logit-normal noise levels, stratified; moved up, because high levels decide the composition."""
    even = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    sigma = torch.sigmoid(torch.special.ndtri(even.clamp(1e-4, 1 - 1e-4)))
    return SHIFT * sigma / (1 + (SHIFT - 1) * sigma)


class Batches:
    """What a step sees, as a function of the step alone: drawn on the CPU by calling it, put together by `whole`."""

    def __init__(self, latents: torch.Tensor, seed: int, text: Frozen) -> None:
        self.seed, self.text, self.count, self.size = seed, text, len(latents), BATCH[loop.device().type]
        # Weighted by its variance, an error counts as much as it shows in pixels: the latents' spread was evened
        # out by half (see autoencoder.align), so a channel's variance is the square root of its share of the picture.
        variance = latents.var((0, 2, 3)).repeat_interleave(4)  # as packed
        self.weight = (variance / variance.mean()).to(loop.device())
        self.latents = latents.to(loop.device())
        self.nothing = text(**{name: value.to(loop.device()) for name, value in text.ids([""]).items()})

    def __call__(self, step: int) -> loop.Batch:
        """Which scenes, which rows and columns of theirs, the noise and its level, and the prompts' tokens."""
        rng, generator = np.random.default_rng([13, step]), torch.Generator().manual_seed(step)
        index = rng.integers(self.count, size=self.size)
        height, width = CROPS[step % len(CROPS)]
        top, left = rng.integers(24 - height + 1), rng.integers(24 - width + 1)
        captions = [as_typed(describe(scene_of(self.seed, int(i)), rng), rng) for i in index]
        prompts = ["" if rng.random() < UNCAPTIONED else caption for caption in captions]
        low, high = GUIDANCE
        return {
            "index": torch.from_numpy(index),
            "rows": torch.arange(top, top + height),
            "columns": torch.arange(left, left + width),
            "noise": torch.randn(self.size, LATENT, height, width, generator=generator),
            "sigma": sigmas(self.size, generator),
            "guidance": low + (high - low) * torch.rand(self.size, generator=generator),
            **self.text.ids(prompts),
        }

    def whole(self, batch: loop.Batch) -> loop.Batch:
        """Packed latents with noise, the velocity to learn, and the prompts' embeddings beside those of no prompt."""
        noise, level = batch["noise"], batch["sigma"].view(-1, 1, 1, 1)
        height, width = noise.shape[2:]
        x = self.latents[batch["index"]][:, :, batch["rows"]][..., batch["columns"]]
        words, sentence = self.text(batch["clip_ids"], batch["t5_ids"])
        return {
            "x": pack((1 - level) * x + level * noise),
            "velocity": pack(noise - x),
            "sigma": batch["sigma"],
            "guidance": batch["guidance"],
            "words": words,
            "sentence": sentence,
            "no_words": self.nothing[0].expand_as(words),
            "no_sentence": self.nothing[1].expand_as(sentence),
            "places": FluxPipeline._prepare_latent_image_ids(1, height // 2, width // 2, x.device, torch.float32),
        }


def pack(latents: torch.Tensor) -> torch.Tensor:
    """(batch, channels, height, width) → (batch, height/2 x width/2, 4 x channels), as FluxPipeline packs them."""
    return FluxPipeline._pack_latents(latents, *latents.shape)


def velocity(model: torch.nn.Module, batch: dict[str, torch.Tensor], *, prompted: bool = True) -> torch.Tensor:
    words, sentence = ("words", "sentence") if prompted else ("no_words", "no_sentence")
    device = batch["x"].device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        return model(
            hidden_states=batch["x"],
            timestep=batch["sigma"],
            guidance=batch["guidance"],
            encoder_hidden_states=batch[words],
            pooled_projections=batch[sentence],
            txt_ids=torch.zeros(batch[words].shape[1], 3, device=device),
            img_ids=batch["places"],
            return_dict=False,
        )[0]


def error(prediction: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (weight * (prediction - target).square()).mean()


def train(
    batches: Batches, folder: Path, steps: int, start: FluxTransformer2DModel | None = None
) -> FluxTransformer2DModel:
    """A new transformer, or `start` trained on."""
    torch.manual_seed(4)
    model = (start or build()).to(loop.device())

    def loss_of(batch: loop.Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        whole = batches.whole(batch)
        loss = error(velocity(model, whole), whole["velocity"], batches.weight)
        return loss, {"loss": loss.detach()}

    return loop.run(
        model=model, state_file=folder / "transformer.pt", steps=steps, rate=1.5e-3, batch_of=batches, loss_of=loss_of,
        weight_decay=0.01,
    )  # fmt: skip


def distill(base: FluxTransformer2DModel, batches: Batches, folder: Path, steps: int) -> FluxTransformer2DModel:
    """Give `guidance` its meaning, as FLUX.1-dev got it: at g the student learns what classifier-free guidance
    of weight g makes of the trained model, in one evaluation."""
    student = build().to(loop.device())
    student.load_state_dict(base.state_dict())
    base.requires_grad_(False)

    def loss_of(batch: loop.Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        whole = batches.whole(batch)
        with torch.no_grad():
            free = velocity(base, whole, prompted=False)
            target = free + whole["guidance"].view(-1, 1, 1) * (velocity(base, whole) - free)
        loss = error(velocity(student, whole), target, batches.weight)
        return loss, {"loss": loss.detach()}

    return loop.run(
        model=student,
        state_file=folder / "guidance.pt",
        steps=steps,
        rate=4e-4,
        batch_of=lambda step: batches(10**6 + step),
        loss_of=loss_of,
    )
