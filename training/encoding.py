"""What encoding pictures and captions takes, before any training: counted on shapes, as footprint.py counts a step.

The encoders are built from their configurations on PyTorch's `meta` device and run as cache.py runs them.
"""

import functools
import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from training import cache
from training.examples import Size
from training.footprint import META, Counter, Kernels

Config = dict[str, Any]
FLUX: dict[str, Config] = {  # black-forest-labs/FLUX.1-dev: what its config.json files say besides the defaults
    "vae": {
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 16,
        "use_quant_conv": False, "use_post_quant_conv": False,
    },
    "text_encoder": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "max_position_embeddings": 77,
    },
    "text_encoder_2": {
        "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
    },
}  # fmt: skip


def pictures(encoders: dict[str, Config], sizes: Iterable[Size], dtype: torch.dtype, gpu: bool) -> int:
    """Bytes at most: the autoencoder, and its pass over as many pictures as the cache takes at once."""
    together = {size: cache.together(size, "cuda" if gpu else "cpu") for size in sizes}
    size = max(together, key=lambda size: together[size] * math.prod(size))
    return _pictures(json.dumps(encoders["vae"]), together[size], size, dtype, gpu)


def captions(encoders: dict[str, Config], tokens: int, dtype: torch.dtype, gpu: bool) -> int:
    """Bytes at most: CLIP and T5, and a pass over as many captions as the cache takes at once."""
    return _captions(*(json.dumps(encoders[name]) for name in ("text_encoder", "text_encoder_2")), tokens, dtype, gpu)


@functools.cache
def _pictures(config: str, count: int, size: Size, dtype: torch.dtype, gpu: bool) -> int:
    with META:
        vae: Any = AutoencoderKL.from_config(json.loads(config))
        nn.Module.to(vae, dtype)  # diffusers' own warns
        pixels = torch.empty(count, 3, *reversed(size), dtype=dtype)
    return _bytes(vae) + pixels.nbytes + _passing(lambda: vae.encode(pixels), gpu)


@functools.cache
def _captions(clip: str, t5: str, tokens: int, dtype: torch.dtype, gpu: bool) -> int:
    with META:
        short: Any = nn.Module.to(CLIPTextModel(CLIPTextConfig(**json.loads(clip))), dtype)
        long: Any = nn.Module.to(T5EncoderModel(T5Config(**json.loads(t5))), dtype)
        few = torch.zeros(cache.CAPTIONS, short.config.max_position_embeddings, dtype=torch.long)
        many = torch.zeros(cache.CAPTIONS, tokens, dtype=torch.long)
    return _bytes(short) + _bytes(long) + max(_passing(lambda: short(few), gpu), _passing(lambda: long(many), gpu))


def _bytes(model: nn.Module) -> int:
    return sum(weight.nbytes for weight in model.parameters())


@torch.no_grad()
def _passing(run: Callable[[], Any], gpu: bool) -> int:
    with Counter() as counter, Kernels(gpu, counter):
        run()
    return counter.peak
