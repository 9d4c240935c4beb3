"""The miniature's autoencoder: an `AutoencoderKL` of FLUX's layout (8 x smaller sides, 16 channels), narrow.

Trained from a random start, such a network is still blurred after hours on a CPU. But the best *linear* one is
found in minutes and already reaches 30 dB. So it is trained in two parts: first its straight path alone
(convolutions, shortcuts and samplers: a linear network), then, with `straighten` having made the whole network
compute just that path, everything together. A 64-px crop teaches as much as a whole picture at a ninth of the cost.
"""

# pyright: reportArgumentType=false, reportOptionalSubscript=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false, reportCallIssue=false
# (diffusers' and torch's layers are typed as Tensor | Module)

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F

from tools.miniature import loop

SIDE = 192  # px
CROP = 64  # px
BATCH = {"cpu": 12, "cuda": 96}
CHANNELS = (24, 48, 64, 128)
LATENT = 16
GROUPS = 4
CONSTANT = 8.0  # of the channels that hold a normalisation still, see `straighten`
STRAIGHT = {
    "encoder": (12, 32, 64, 32),
    "decoder": (64, 32, 16, 8),
}  # channels of the straight path, by block


def build() -> AutoencoderKL:
    levels = len(CHANNELS)
    return AutoencoderKL(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=LATENT,
        layers_per_block=1,
        norm_num_groups=GROUPS,
        mid_block_add_attention=False,  # FLUX's has one; at this size it costs more than it gives
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=SIDE,
    )


# --- the straight path -------------------------------------------------------------------------------------


def _path(half: nn.Module) -> list[tuple[nn.Conv2d, str, int]]:
    """The straight path of an encoder or decoder: each convolution, what resamples its input, and how many of its
    output channels the path uses. The others are left for the residual branches."""
    name = "encoder" if hasattr(half, "down_blocks") else "decoder"
    blocks = half.down_blocks if name == "encoder" else half.up_blocks
    path = [(half.conv_in, "", STRAIGHT[name][0])]
    for block, width in zip(blocks, STRAIGHT[name], strict=True):
        if block.resnets[0].conv_shortcut is not None:
            path.append((block.resnets[0].conv_shortcut, "", width))
        for sampler in getattr(block, "downsamplers", None) or getattr(block, "upsamplers", None) or ():
            path.append((sampler.conv, "halve" if name == "encoder" else "double", width))
    return [*path, (half.conv_out, "", half.conv_out.out_channels)]


def _straight(half: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the half would give without its residual branches, normalisations and activations: a linear network."""
    for conv, resample, width in _path(half):
        if resample == "halve":
            x = F.pad(x, (0, 1, 0, 1))
        elif resample == "double":
            x = F.interpolate(x, scale_factor=2.0)
        x = F.conv2d(x, conv.weight[:width, : x.shape[1]], conv.bias[:width], conv.stride, conv.padding)
    return x


@torch.no_grad()
def even_start(vae: AutoencoderKL) -> None:
    """Start every convolution of the straight path so that it keeps the size of its input: twenty default starts
    in a row would shrink a signal to nothing."""
    for half in (vae.encoder, vae.decoder):
        before = half.conv_in.in_channels
        for conv, _, width in _path(half):
            fan_in = before * conv.kernel_size[0] * conv.kernel_size[1]
            nn.init.normal_(conv.weight[:width, :before], std=fan_in**-0.5)
            nn.init.zeros_(conv.bias)
            before = width


@torch.no_grad()
def straighten(vae: AutoencoderKL) -> None:
    """Make the whole network compute its straight path, so that training goes on from there.

    Residual branches end in zeros. The last normalisation and SiLU of each half are made to pass `x` on: every
    channel comes with its negative, for silu(x) - silu(-x) = x, and every group of the normalisation gets two
    channels of ±CONSTANT, so that its mean is 0 and its deviation nearly the same for every picture.
    """
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    for half in (vae.encoder, vae.decoder):
        path = _path(half)
        for (_, _, before), (conv, _, width) in pairwise(path):
            conv.weight[:width, before:] = 0  # nothing from outside enters the path
        (shortcut, _, passed), (out, _, _) = path[-2:]
        width = half.conv_norm_out.num_channels // GROUPS  # channels a group
        weight, bias, last = shortcut.weight.clone(), shortcut.bias.clone(), out.weight.clone()
        out.weight.zero_()
        shortcut.weight.mul_(0.1)  # what is left over is free for the branches
        for group in range(GROUPS):
            first = group * width
            for k in range(passed // GROUPS):
                source, channel = group * passed // GROUPS + k, first + 2 * k
                for sign, target in ((1, channel), (-1, channel + 1)):
                    shortcut.weight[target], shortcut.bias[target] = (
                        sign * weight[source],
                        sign * bias[source],
                    )
                    out.weight[:, target] = sign * last[:, source]
            pair = slice(first + width - 2, first + width)
            shortcut.weight[pair] = 0
            shortcut.bias[pair] = torch.tensor([CONSTANT, -CONSTANT])
        deviation = CONSTANT * (2 / width) ** 0.5
        half.conv_norm_out.weight.fill_(deviation)


@torch.no_grad()
def align(vae: AutoencoderKL, pictures: torch.Tensor) -> None:
    """Turn the latents to their principal axes and even out their spread by half (on a logarithmic scale).

    Fully even, noise would drown the composition as late as the last detail; not at all, the details would be
    too faint for the transformer to care.
    """
    latents = _straight(vae.encoder, pictures)[:, :LATENT].permute(0, 2, 3, 1).reshape(-1, LATENT).double()
    mean = latents.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(latents.T))
    turn = (vectors * values.clamp_min(1e-9) ** -0.25).T.float()  # new = turn @ (old - mean)
    back = torch.linalg.inv(turn)
    out, into = vae.encoder.conv_out, vae.decoder.conv_in
    out.weight[:LATENT] = torch.einsum("ij,jchw->ichw", turn, out.weight[:LATENT])
    out.bias[:LATENT] = turn @ (out.bias[:LATENT] - mean.float())
    into.bias += into.weight.sum((2, 3)) @ mean.float()
    into.weight.copy_(torch.einsum("ojhw,ji->oihw", into.weight, back))
    out.weight[LATENT:] = 0  # the log-variance: constant, small
    out.bias[LATENT:] = -7.0


# --- training ----------------------------------------------------------------------------------------------


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """(batch, height, width, 3) uint8 → (batch, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def crops(sets: tuple[np.ndarray, ...], step: int, count: int) -> torch.Tensor:
    """So many crops in equal parts from each set, turned and mirrored at random: a function of the step alone."""
    rng = np.random.default_rng([7, step % 2**32])
    batch = []
    for pictures in sets:
        for _ in range(count // len(sets)):
            top, left = rng.integers(pictures.shape[1] - CROP + 1, size=2)
            crop = pictures[rng.integers(len(pictures)), top : top + CROP, left : left + CROP]
            crop = np.rot90(crop, rng.integers(4))
            batch.append(crop[:, ::-1] if rng.integers(2) else crop)
    return to_tensor(np.stack(batch))


def psnr(error: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB of a mean square error on the [-1, 1] scale."""
    return 10 * torch.log10(4 / error)


def _figures(error: torch.Tensor) -> dict[str, torch.Tensor]:
    drawn, painted = error.detach().square().chunk(2)
    return {"drawn_dB": psnr(drawn.mean()), "painted_dB": psnr(painted.mean())}


def train(drawn: np.ndarray, painted: np.ndarray, folder: Path, straight_steps: int, steps: int) -> AutoencoderKL:
    """The autoencoder for two sets of pictures, (count, side, side, 3) uint8 each; its state is kept in `folder`."""
    device = loop.device()
    size = BATCH[device.type]
    torch.manual_seed(1)
    vae = build().to(device, memory_format=torch.channels_last)
    even_start(vae)

    def batch_of(step: int) -> loop.Batch:
        x = crops((drawn, painted), step, size)
        latent = (len(x), LATENT, CROP // 8, CROP // 8)
        return {"x": x, "noise": torch.randn(latent, generator=torch.Generator().manual_seed(step))}

    def straight_loss(batch: loop.Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x = batch["x"].to(memory_format=torch.channels_last)
        error = _straight(vae.decoder, _straight(vae.encoder, x)[:, :LATENT]) - x
        return error.square().mean(), _figures(error)

    loop.run(
        model=vae,
        state_file=folder / "autoencoder-straight.pt",
        steps=straight_steps,
        rate=3e-3,
        batch_of=batch_of,
        loss_of=straight_loss,
    )
    align(vae, torch.cat([crops((drawn, painted), -1 - i, 12) for i in range(20)]).to(device))
    straighten(vae)

    def loss_of(batch: loop.Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x = batch["x"].to(memory_format=torch.channels_last)
        posterior = vae.encode(x).latent_dist
        error = vae.decode(posterior.mean + posterior.std * batch["noise"]).sample - x
        # The absolute error keeps edges; the pull towards a unit Gaussian is slight, as in FLUX's own.
        loss = error.square().mean() + 0.1 * error.abs().mean() + 1e-7 * posterior.kl().mean()
        return loss, _figures(error)

    return loop.run(
        model=vae,
        state_file=folder / "autoencoder.pt",
        steps=steps,
        rate=8e-4,
        batch_of=lambda step: batch_of(straight_steps + step),
        loss_of=loss_of,
    )
