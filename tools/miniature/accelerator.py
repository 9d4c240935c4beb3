"""The miniature's few-step adapter: a LoRA that paints in 4 steps what the base, or the base under its style adapter,
paints in 20.

The teacher's sampling paths are kept where every fifth step ends; on each of the four stretches the student learns the
velocity that leads straight from its beginning to its end.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from tqdm import tqdm

from impressionism.names import WEIGHTS_FILE
from tools.miniature import loop
from tools.miniature.assemble import load
from tools.miniature.autoencoder import LATENT
from tools.miniature.captions import describe
from tools.miniature.text import Frozen, as_typed
from tools.miniature.transformer import CROPS, pack, places, velocity
from tools.miniature.world import random_scene
from training.targets import pattern

NAME = "few_steps"
RANK = 24
STEPS, FINE = 4, 5  # the student's steps, and the teacher's for each of them
GUIDANCE = 3.5  # what a user gets who asks for nothing else
BATCH = 16


def noise_levels(pipeline: FluxPipeline, tokens: int) -> torch.Tensor:
    """The teacher's noise levels, as FluxPipeline sets them; every FINE-th is one of the student's."""
    count = STEPS * FINE
    pipeline.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / count, count), mu=calculate_shift(tokens))
    return pipeline.scheduler.sigmas


def prompted(text: Frozen, rng: np.random.Generator, height: int, width: int) -> loop.Batch:
    """What the transformer needs to know for a batch of prompts, apart from latents and noise level."""
    prompts = [as_typed(describe(random_scene(rng), rng), rng) for _ in range(BATCH)]
    words, sentence = text(**{name: ids.to(loop.device()) for name, ids in text.ids(prompts).items()})
    guidance = torch.full((BATCH,), GUIDANCE, device=loop.device())
    return {"words": words, "sentence": sentence, "guidance": guidance, "places": places(height, width)}


def use(pipeline: FluxPipeline, adapters: list[str]) -> None:
    """These adapters, each at strength 1; only the new one learns."""
    if adapters:
        pipeline.enable_lora()
        pipeline.set_adapters(adapters)
    else:
        pipeline.disable_lora()
    for name, parameter in pipeline.transformer.named_parameters():
        parameter.requires_grad_(NAME in name)


@torch.no_grad()
def path_of(pipeline: FluxPipeline, text: Frozen, index: int) -> loop.Batch:
    """A batch of the teacher's sampling paths, without the style adapter and with it in turn."""
    rng = np.random.default_rng([17, index])
    styled, (height, width) = index % 2 == 1, CROPS[index // 2 % len(CROPS)]
    use(pipeline, ["style"] if styled else [])
    condition = prompted(text, rng, height, width)
    x = pack(torch.randn(BATCH, LATENT, height, width, generator=torch.Generator().manual_seed(index)))
    x = x.to(loop.device())
    levels = noise_levels(pipeline, x.shape[1]).to(x.device)
    kept = [x]
    for step, (sigma, after) in enumerate(pairwise(levels)):
        x = x + (after - sigma) * velocity(pipeline.transformer, condition | {"x": x, "sigma": sigma.expand(BATCH)})
        if (step + 1) % FINE == 0:
            kept.append(x)
    return condition | {"path": torch.stack(kept), "levels": levels[::FINE], "styled": torch.tensor(styled)}


def train(out: Path, folder: Path, steps: int, paths: int) -> None:
    """The few-step adapter for the built miniature in `out`, beside it."""
    torch.manual_seed(6)
    transformer, _, text = load(out)
    pipeline = FluxPipeline.from_pretrained(out, transformer=transformer.to(loop.device()), dtype=torch.float32)  # pyright: ignore[reportArgumentType]
    pipeline.load_lora_weights(out / "adapter", adapter_name="style")  # pyright: ignore[reportArgumentType]
    blocks = pattern("all", transformer.config.num_single_layers)
    transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=blocks), NAME)
    loop.plain_attention(transformer)
    transformer.eval()

    file = folder / "paths.pt"
    if not file.exists():
        loop.save({i: path_of(pipeline, text, i) for i in tqdm(range(paths), desc="paths")}, file)
    kept = torch.load(file, weights_only=True)
    trained = torch.nn.ParameterList(p for name, p in transformer.named_parameters() if NAME in name)

    def batch_of(step: int) -> loop.Batch:
        """One path's batch; each of its samples at a stretch of its own."""
        rng = np.random.default_rng([19, step])
        path = kept[int(rng.integers(len(kept)))]
        stretch, each = torch.from_numpy(rng.integers(STEPS, size=BATCH)), torch.arange(BATCH)
        begin, end = path["path"][stretch, each], path["path"][stretch + 1, each]
        sigma, after = path["levels"][stretch], path["levels"][stretch + 1]
        straight = (end - begin) / (after - sigma).view(-1, 1, 1)
        rest = {name: path[name] for name in ("words", "sentence", "guidance", "places", "styled")}
        return rest | {"x": begin, "sigma": sigma, "velocity": straight}

    def loss_of(batch: loop.Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        use(pipeline, ["style", NAME] if batch["styled"] else [NAME])
        loss = (velocity(transformer, batch) - batch["velocity"]).square().mean()
        return loss, {"loss": loss.detach()}

    loop.run(
        model=trained, state_file=folder / "accelerator.pt", steps=steps, rate=1e-3, batch_of=batch_of, loss_of=loss_of
    )
    layers = {k: v.to(torch.bfloat16) for k, v in get_peft_model_state_dict(transformer, adapter_name=NAME).items()}
    weights = {f"transformer.{name}": weight.contiguous() for name, weight in layers.items()}
    facts = {
        "format": "pt", "modelspec.title": "accelerator", "modelspec.recommended_strength": "1",
        "impressionism.steps": str(STEPS), "impressionism.guidance": str(GUIDANCE),
    }  # fmt: skip
    (out / "accelerator").mkdir(exist_ok=True)
    save_file(weights, out / "accelerator" / WEIGHTS_FILE, facts)
