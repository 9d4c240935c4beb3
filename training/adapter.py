"""A new adapter on the transformer, to be trained."""

import re
from typing import TYPE_CHECKING

from torch import nn

from impressionism.errors import UserError
from impressionism.lora import TRAINED, FrozenLinear, lora_layers, trainable
from training import flow
from training.recipe import Adapter
from training.targets import BLOCKS, rank_of

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel


def linears(transformer: "FluxTransformer2DModel") -> dict[str, nn.Module]:
    """The blocks' linear layers by their paths, quantized ones too; of those that carry an adapter, their base."""
    return {
        name.removesuffix(".base"): module
        for name, module in transformer.named_modules()
        if re.match(BLOCKS, name) and hasattr(module, "in_features") and not isinstance(module, FrozenLinear)
    }


def add(transformer: "FluxTransformer2DModel", wanted: Adapter, *, seed: int) -> None:
    """Freeze the transformer and give it a trainable LoRA whose update is zero; one that it had before goes."""
    transformer.requires_grad_(False)
    singles = len(transformer.single_transformer_blocks)
    layers = linears(transformer)
    ranks = {name: rank_of(name, wanted, singles) for name in layers}
    if not any(ranks.values()):
        raise UserError("adapter.targets and adapter.ranks leave no layer to train; set other ranks.")
    device = transformer.x_embedder.weight.device  # an offloaded layer's weight is elsewhere, but not its work
    for name, base in layers.items():
        rank = ranks[name]
        scale = wanted.alpha / rank if wanted.alpha and rank else 1.0
        generator = flow.generator(seed, "lora", name)
        layer = trainable(base, rank, scale, generator, device) if rank else FrozenLinear(base)
        transformer.set_submodule(name, layer)


def trained(transformer: "FluxTransformer2DModel") -> dict[str, nn.Parameter]:
    """What an optimizer trains: `layer.lora_A` and `layer.lora_B` of each adapted layer."""
    return {
        f"{path}.{side}": getattr(layer.updates[TRAINED], side)
        for path, layer in lora_layers(transformer).items()
        for side in ("lora_A", "lora_B")
    }


def switch(transformer: "FluxTransformer2DModel", on: bool) -> None:
    """The update on, or off to see the base."""
    for layer in lora_layers(transformer).values():
        layer.updates[TRAINED].on = on  # type: ignore[assignment]
