"""What the tests of training share: pictures of balls, and what a run left."""

import numpy as np
import torch
from diffusers import FluxPipeline
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from training import checkpoint


def draw(seed: int) -> Image.Image:
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (64, 64), tuple(random.integers(0, 256, 3).tolist()))
    ImageDraw.Draw(image).ellipse((12, 12, 50, 50), fill=tuple(random.integers(0, 256, 3).tolist()))
    return image


def weights_of(run_folder) -> dict[str, torch.Tensor]:
    """Weights of the last checkpoint; with an average, the weights themselves too, under names of their own."""
    last = run_folder / "checkpoints" / "step-000008"
    raw = last / checkpoint.RAW_WEIGHTS_FILE
    more = {f"raw {name}": weight for name, weight in load_file(raw).items()} if raw.exists() else {}
    return checkpoint.read_weights(last / checkpoint.WEIGHTS_FILE) | more


def paint(pipe: FluxPipeline) -> np.ndarray:
    return pipe(
        "a ball", num_inference_steps=2, width=64, height=64, max_sequence_length=32, output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images[0]  # fmt: skip


def gradient(context, recipe, batches) -> float:
    """Leave the gradient of a step in the adapter's weights; the loss."""
    total = 0.0
    for micro_batch in batches.pictures:
        loss = context.losses(context.loader.train(micro_batch), recipe.flow.guidance).mean()
        (loss / len(batches.pictures)).backward()
        total += float(loss.detach())
    return total
