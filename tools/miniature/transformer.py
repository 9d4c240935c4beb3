"""The miniature's transformer: a `FluxTransformer2DModel` of three double and six single blocks, 192 wide,
trained from scratch by flow matching on drawn scenes and their captions."""

# pyright: reportArgumentType=false, reportOptionalSubscript=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false, reportCallIssue=false
# (diffusers' and torch's layers are typed as Tensor | Module)

import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from tqdm import tqdm

from tools.miniature import loop
from tools.miniature.autoencoder import LATENT, to_tensor
from tools.miniature.captions import describe_with
from tools.miniature.text import WIDTH, Frozen, as_typed
from tools.miniature.world import Scene, random_scene

BATCH = {"cpu": 16, "cuda": 128}
UNCAPTIONED = 0.08  # share of samples with an empty prompt
COLOURED = 0.45  # share of captions that surely tell the colour, which is learned later than what is seen
GUIDANCE = (1.0, 5.0)  # drawn at random; without effect until `guide` gives it a meaning
GUIDED = 0.6  # weight of classifier-free guidance for each unit of guidance above 1
SHIFT = 2.5  # of the noise levels; the sampler's own is 1.6 at this size
EVEN = 0.4  # share of the noise levels that are drawn evenly instead, for the details
OFTEN = {"windmill": 3.0, "parasol": 2.0, "boat": 1.3, "bridge": 1.3, "train": 1.3}  # thin parts take longest to learn
CROPS = 8 * ((24, 24),) + ((18, 24), (24, 18))  # latent sizes, a batch each, in turn; cut from the middle


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
    loop.plain_attention(transformer)
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
    means = []
    for i in tqdm(range(0, len(pictures), 16), desc=path.stem):
        with loop.bfloat16():
            means.append(vae.encode(to_tensor(pictures[i : i + 16]).to(loop.device())).latent_dist.mean.cpu().float())
    loop.save(torch.cat(means), path)
    return torch.cat(means)


def normalise(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Latents of mean 0 and deviation 1; the autoencoder's configuration keeps the two numbers, as FLUX's does."""
    shift, scale = latents.mean().item(), 1 / latents.std().item()
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    return (latents - shift) * scale


def sigmas(count: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) noise levels: most logit-normal, stratified and moved up, because high levels decide the composition."""
    spread = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    sigma = torch.sigmoid(torch.special.ndtri(spread.clamp(1e-4, 1 - 1e-4)))
    sigma = SHIFT * sigma / (1 + (SHIFT - 1) * sigma)
    even = int(EVEN * count)
    if even:
        sigma[:even] = 0.001 + 0.998 * (torch.arange(even) + torch.rand(even, generator=generator)) / even
    return sigma


def caption_of(scene: Scene, rng: np.random.Generator) -> str:
    surely = rng.random() < COLOURED
    while True:
        caption, told = describe_with(scene, rng)
        if "colour" in told or not surely:
            return caption


class Batches:
    """What a step sees, as a function of the step alone: drawn on the CPU by calling it, put together by `whole`."""

    def __init__(self, scenes: list[Scene], latents: torch.Tensor, text: Frozen) -> None:
        self.text, self.size = text, BATCH[loop.device().type]
        self.index = {scene: i for i, scene in enumerate(scenes)}
        # Weighted by its variance, an error counts as much as it shows in pixels: the latents' spread was evened
        # out by half (see autoencoder.align), so a channel's variance is the square root of its share of the picture.
        variance = latents.float().var((0, 2, 3)).repeat_interleave(4)  # as packed
        self.weight = (variance / variance.mean()).to(loop.device())
        self.latents = latents.to(loop.device())
        self.no_words, self.no_sentence = text(
            **{name: value.to(loop.device()) for name, value in text.ids([""]).items()}
        )

    def __call__(self, step: int) -> loop.Batch:
        """Which scenes, the part of them, the noise and its level, and the prompts' tokens."""
        rng, generator = np.random.default_rng([13, step]), torch.Generator().manual_seed(step)
        scenes = [random_scene(rng, OFTEN) for _ in range(self.size)]
        captions = [as_typed(caption_of(scene, rng), rng) for scene in scenes]
        height, width = CROPS[step % len(CROPS)]
        low, high = GUIDANCE
        return {
            "index": torch.tensor([self.index.get(scene, 0) for scene in scenes]),  # 0: a --quick build's few scenes
            "rows": torch.arange(height) + (24 - height) * 2 // 3,  # subjects stand rather low
            "columns": torch.arange(width) + (24 - width) // 2,
            "noise": torch.randn(self.size, LATENT, height, width, generator=generator),
            "sigma": sigmas(self.size, generator),
            "guidance": low + (high - low) * torch.rand(self.size, generator=generator),
            **self.text.ids(["" if rng.random() < UNCAPTIONED else caption for caption in captions]),
        }

    def whole(self, batch: loop.Batch) -> loop.Batch:
        """Packed latents with noise, the velocity to learn, and the prompts' embeddings."""
        noise, level = batch["noise"], batch["sigma"].view(-1, 1, 1, 1)
        x = self.latents[batch["index"]][:, :, batch["rows"]][..., batch["columns"]].float()
        words, sentence = self.text(batch["clip_ids"], batch["t5_ids"])
        return {
            "x": pack((1 - level) * x + level * noise),
            "velocity": pack(noise - x),
            "sigma": batch["sigma"],
            "guidance": batch["guidance"],
            "words": words,
            "sentence": sentence,
            "places": places(*noise.shape[2:]),
        }

    def unprompted(self, batch: loop.Batch) -> loop.Batch:
        """The same with the empty prompt."""
        words, sentence = self.no_words.expand_as(batch["words"]), self.no_sentence.expand_as(batch["sentence"])
        return batch | {"words": words, "sentence": sentence}


def pack(latents: torch.Tensor) -> torch.Tensor:
    """(batch, channels, height, width) → (batch, height/2 x width/2, 4 x channels), as FluxPipeline packs them."""
    return FluxPipeline._pack_latents(latents, *latents.shape)


def places(height: int, width: int) -> torch.Tensor:
    """The rows and columns of the packed latents, as FluxPipeline numbers them."""
    return FluxPipeline._prepare_latent_image_ids(1, height // 2, width // 2, loop.device(), torch.float32)


def velocity(model: torch.nn.Module, batch: loop.Batch) -> torch.Tensor:
    with loop.bfloat16():
        return model(
            hidden_states=batch["x"],
            timestep=batch["sigma"],
            guidance=batch["guidance"],
            encoder_hidden_states=batch["words"],
            pooled_projections=batch["sentence"],
            txt_ids=torch.zeros(batch["words"].shape[1], 3, device=batch["x"].device),
            img_ids=batch["places"],
            return_dict=False,
        )[0].float()


def error(prediction: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (weight * (prediction - target).square()).mean()


def train(
    batches: Batches, folder: Path, steps: int, start: FluxTransformer2DModel | None = None
) -> FluxTransformer2DModel:
    """A new transformer, or `start` trained on, by flow matching at a constant learning rate."""
    torch.manual_seed(4)
    model = (start or build()).to(loop.device())
    compiled = loop.compiled(model, steps)

    def loss_of(batch: loop.Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        whole = batches.whole(batch)
        loss = error(velocity(compiled, whole), whole["velocity"], batches.weight)
        return loss, {"loss": loss.detach()}

    return loop.run(
        model=model, state_file=folder / "transformer.pt", steps=steps, rate=1e-3, batch_of=batches, loss_of=loss_of,
        muon=True, schedule=loop.constant,
    )  # fmt: skip


def guide(base: FluxTransformer2DModel, batches: Batches, folder: Path, steps: int) -> FluxTransformer2DModel:
    """Train on while the learning rate falls to zero, and give `guidance` its meaning: what classifier-free guidance
    adds, by the base, is added to the velocity to learn (Tang et al. 2025), so that one evaluation has it in it."""
    model = copy.deepcopy(base).train().requires_grad_(True)
    base.eval().requires_grad_(False)
    student, teacher = loop.compiled(model, steps), loop.compiled(base, steps)

    def loss_of(batch: loop.Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        whole = batches.whole(batch)
        with torch.no_grad():
            more = velocity(teacher, whole) - velocity(teacher, batches.unprompted(whole))
        target = whole["velocity"] + GUIDED * (whole["guidance"].view(-1, 1, 1) - 1) * more
        loss = error(velocity(student, whole), target, batches.weight)
        return loss, {"loss": loss.detach()}

    return loop.run(
        model=model, state_file=folder / "guidance.pt", steps=steps, rate=1e-3,
        batch_of=lambda step: batches(10**6 + step), loss_of=loss_of, muon=True, schedule=loop.to_zero,
    )  # fmt: skip
