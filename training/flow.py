"""The objective, rectified flow, in the paper's letters: x a picture's latents, noise, sigma the noise level.

    x_sigma = (1 - sigma) x + sigma noise        the model predicts  noise - x

All in float32, because bfloat16 has 8 bits of sigma. Every draw is a function of what it is for (seed,
sample, visit), never of what was drawn before: a resumed run, or one on more workers, sees the same numbers.
"""

import hashlib
import math

import torch


def generator(*what: object) -> torch.Generator:
    """A CPU generator seeded by what it is for."""
    digest = hashlib.sha256(repr(what).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def mix(x: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """(batch, …) latents at the noise level sigma (batch,): 0 is the picture, 1 is noise."""
    sigma = sigma.view(-1, *[1] * (x.ndim - 1))
    return (1 - sigma) * x + sigma * noise


def target(x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The velocity d x_sigma / d sigma."""
    return noise - x


def loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(batch,) mean square error of each sample, in float32."""
    return (prediction.float() - target).square().flatten(1).mean(1)


def sample_sigmas(
    count: int,
    generator: torch.Generator,
    *,
    distribution: str = "logit-normal",
    mean: float = 0.0,
    std: float = 1.0,
) -> torch.Tensor:
    """(count,) noise levels, stratified: one in each of `count` equally probable parts, in random order."""
    strata = torch.randperm(count, generator=generator).float()
    u = (strata + torch.rand(count, generator=generator)) / count
    if distribution == "uniform":
        return u
    u = u.clamp(1e-6, 1 - 1e-6)  # float32 rounds the last part's end up to 1, whose quantile is infinite
    return torch.sigmoid(mean + std * math.sqrt(2) * torch.erfinv(2 * u - 1))


def shift_sigmas(sigmas: torch.Tensor, shift: float) -> torch.Tensor:
    """Move noise levels up (shift > 1): a larger picture keeps more of its content at the same level."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def resolution_shift(
    tokens: int,
    *,
    base_tokens: int = 256,
    max_tokens: int = 4096,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
) -> float:
    """FLUX's shift for a picture of so many tokens: exp of a line through (base) and (max)."""
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return math.exp(base_shift + slope * (tokens - base_tokens))
