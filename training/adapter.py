"""The LoRA adapter: into the transformer, and out as a file that `FluxPipeline.load_lora_weights` takes."""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from impressionism.errors import UserError
from impressionism.lora import (
    TRAINED,
    FrozenLinear,
    LoraLinear,
    early_single_blocks,
    lora_layers,
    trainable,
    updates_of,
)
from impressionism.lora_file import write_diffusers
from impressionism.modulation import MODULATION
from impressionism.names import WEIGHTS_FILE
from training import flow
from training.recipe import Adapter

# Patterns of whole names: a bare "proj_out" would also take the model's last layer.
BLOCKS = r"(single_)?transformer_blocks\.\d+\."
ATTENTION = r"attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
FEED_FORWARD = r"ff(_context)?\.net\.(0\.proj|2)|proj_mlp|proj_out"


def pattern(targets: str, single_blocks: int) -> str:
    """The whole names of the layers that a preset stands for, in a transformer of so many single blocks."""
    late = [str(index) for index in range(early_single_blocks(single_blocks), single_blocks)]
    return {
        "attention": f"{BLOCKS}({ATTENTION})",
        "all": f"{BLOCKS}({ATTENTION}|{FEED_FORWARD})",
        "every": f"{BLOCKS}({ATTENTION}|{FEED_FORWARD}|{MODULATION})",
        "style": rf"single_transformer_blocks\.({'|'.join(late)})\.({ATTENTION}|{FEED_FORWARD})",
        "compact": rf"single_transformer_blocks\.({'|'.join(late[::2])})\.attn\.to_v",
    }[targets]


def rank_of(name: str, wanted: Adapter, single_blocks: int) -> int:
    """The rank of a layer's update; 0: it has none."""
    if not re.fullmatch(pattern(wanted.targets, single_blocks), name):
        return 0
    return next((rank for part, rank in wanted.ranks.items() if re.search(part, name)), wanted.rank)


def linears(transformer: FluxTransformer2DModel) -> Iterator[tuple[str, nn.Module]]:
    """The blocks' linear layers, quantized ones too."""
    for name, module in list(transformer.named_modules()):
        if re.match(BLOCKS, name) and hasattr(module, "in_features") and not isinstance(module, FrozenLinear):
            yield name.removesuffix(".base"), module


def add(transformer: FluxTransformer2DModel, wanted: Adapter, *, seed: int) -> None:
    """Freeze the transformer and give it a trainable LoRA whose update is zero; one that it had before goes."""
    transformer.requires_grad_(False)
    singles = len(transformer.single_transformer_blocks)
    ranks = {name: rank_of(name, wanted, singles) for name, _ in linears(transformer)}
    if not any(ranks.values()):
        raise UserError("adapter.targets and adapter.ranks leave no layer to train; set other ranks.")
    device = transformer.x_embedder.weight.device  # an offloaded layer's weight is elsewhere, but not its work
    for name, base in linears(transformer):
        rank = ranks[name]
        scale = wanted.alpha / rank if wanted.alpha and rank else 1.0
        generator = flow.generator(seed, "lora", name)
        layer = trainable(base, rank, scale, generator, device) if rank else FrozenLinear(base)
        transformer.set_submodule(name, layer)


def adapted(transformer: FluxTransformer2DModel) -> dict[str, LoraLinear]:
    return lora_layers(transformer)


def trained(transformer: FluxTransformer2DModel) -> dict[str, nn.Parameter]:
    """What an optimizer trains: `layer.lora_A` and `layer.lora_B` of each adapted layer."""
    return {
        f"{path}.{side}": getattr(layer.updates[TRAINED], side)
        for path, layer in lora_layers(transformer).items()
        for side in ("lora_A", "lora_B")
    }


def switch(transformer: FluxTransformer2DModel, on: bool) -> None:
    """The update on, or off to see the base."""
    for layer in adapted(transformer).values():
        layer.updates[TRAINED].on = on  # pyright: ignore[reportArgumentType]


def save(transformer: FluxTransformer2DModel, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write the adapter as diffusers names it, with alpha equal to rank."""
    return write_diffusers(updates_of(transformer, TRAINED), folder / WEIGHTS_FILE, dtype)
