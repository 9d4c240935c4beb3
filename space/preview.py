"""What a picture is becoming, small and rough, for the cost of a matrix product: no decoder runs at a step.

Two sources: a latent's channels are nearly linear in the colours that they stand for
(https://discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204); and along a flow two successive
latents tell the velocity, so that the noise that is still to go can be taken away.
"""

import time
from functools import lru_cache
from typing import Any

import torch
from diffusers import FluxPipeline
from PIL import Image
from torch.nn import functional as F

PAUSE = 0.25  # seconds from one preview to the next; making one takes about a hundredth of that
LONGEST = 256  # pixels, a sixteenth of a finished picture's area: it goes through ZeroGPU's pipe at each step


class Previews:
    """Rough previews of pictures of one size, from their packed latents after each step."""

    def __init__(self, pipe: FluxPipeline, width: int, height: int) -> None:
        self.pipe, self.width, self.height = pipe, width, height
        self.before: tuple[float, torch.Tensor] | None = None  # noise level and latents of the step before
        self.shown: Image.Image | None = None
        self.due = 0.0

    def look(self, latents: torch.Tensor) -> Image.Image | None:
        """The picture so far, from latents (1, tokens, channels · 4), or what it was a moment ago; none at a picture's
        first step."""
        scheduler = self.pipe.scheduler
        sigma = float(scheduler.sigmas[scheduler.step_index])
        before, self.before = self.before, (sigma, latents)
        if before is None or before[0] <= sigma:  # within a picture the noise only falls
            self.shown, self.due = None, 0.0
        elif (now := time.monotonic()) >= self.due:
            velocity = (latents.float() - before[1].float()) / (sigma - before[0])
            self.shown = self.picture(latents.float() - sigma * velocity)
            self.due = now + PAUSE
        return self.shown

    def picture(self, latents: torch.Tensor) -> Image.Image:
        scale = self.pipe.vae_scale_factor
        image = self.pipe._unpack_latents(latents, self.height, self.width, scale)[0]  # (channels, h / 8, w / 8)
        colours = colours_of(image.permute(1, 2, 0).cpu(), projection(self.pipe.vae))
        small = Image.fromarray((colours.clamp(0, 1) * 255).round().byte().numpy())
        zoom = LONGEST / max(small.size)
        return small.resize((round(small.width * zoom), round(small.height * zoom)), Image.Resampling.BICUBIC)


def colours_of(latents: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """(…, channels) by (channels + 1, 3) → (…, 3), 0 to 1; the last row is what no channel changes."""
    return latents @ matrix[:-1] + matrix[-1]


@lru_cache(maxsize=2)
@torch.no_grad()
def projection(vae: Any) -> torch.Tensor:
    """(channels + 1, 3): the least-squares fit of colours to the latents of an autoencoder, on soft random colours.
    One encoding of a picture of 256 x 256, once in a process."""
    scale, config = 2 ** (len(vae.config.block_out_channels) - 1), vae.config
    coarse = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    picture = F.interpolate(coarse, size=(256, 256), mode="bicubic").clamp(0, 1)
    # Past encode(), which would call it to the card where models take turns, and the one that is painting away.
    moments = vae._encode((2 * picture - 1).to(vae.device, vae.dtype))
    latents = (moments.chunk(2, dim=1)[0].float().cpu() - (config.shift_factor or 0)) * config.scaling_factor
    known = latents[0].permute(1, 2, 0).flatten(0, 1)
    wanted = F.avg_pool2d(picture, scale)[0].permute(1, 2, 0).flatten(0, 1)
    return torch.linalg.lstsq(torch.cat([known, torch.ones(len(known), 1)], 1), wanted).solution
