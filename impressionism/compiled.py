"""Compiled blocks with the strength slider alive: `torch.compile` once a kind of block, whatever the strength.

PEFT keeps an adapter's scale as a Python number, for which a compiled block is compiled again when it changes, and
switches to other code at 0. Here the scale is a tensor that `paint.set_strength` fills, so the code stays the same.
"""

from typing import Any

import torch
from diffusers import FluxPipeline

from impressionism.pipeline import ADAPTER_NAME, lora_layers


def compile_blocks(flux: FluxPipeline, **options: Any) -> None:
    """FLUX's two kinds of block are compiled on their next pass, for all of their kind; the options are
    torch.compile's. A second size of picture compiles them again, for any size."""
    for layer in lora_layers(flux):
        layer.scaling[ADAPTER_NAME] = torch.tensor(float(layer.scaling[ADAPTER_NAME]), device=layer.weight.device)
    flux.transformer.compile_repeated_blocks(**{"fullgraph": True} | options)
