"""One low-rank adapter layer, for painting, training and compiled blocks.

    y = W x + b + Σ scaling · B A x

A layer may carry several named updates, such as a style adapter and an accelerator, each with its own strength. The
strength is a buffer, so that a compiled or exported block is one program for all strengths. An update at strength 0 is
left out, which makes the layer its base bit for bit.

PEFT's layer keeps four full-size temporaries in each call (a copy of W x, B A x, its multiple, and their sum). Here the
update is added in place, and the backward pass keeps x and A x only. W may be quantized in any of quantize.py's
formats. PEFT is the authority on the file format: the tests compare every picture with `load_lora_weights`.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from impressionism.quantize import weight_of
from impressionism.records import BlockStrengths, early_single_blocks

EVERYWHERE = BlockStrengths()  # the same strength in all blocks
TRAINED = "trained"
"""The name of the update that a run trains, in float32; such a layer has no other."""


class Update(NamedTuple):
    """What an adapter adds to a layer's weight: scale · up @ down."""

    down: torch.Tensor
    """A, (rank, in)"""
    up: torch.Tensor
    """B, (out, rank)"""
    scale: float
    """alpha / rank"""


class FrozenLinear(nn.Module):
    """A linear layer whose weight, quantized or not, is never trained. Its weight is expanded in both passes, because
    the quantized kernels have no backward pass."""

    def __init__(self, base: Any):  # a linear layer of nn, bitsandbytes or quantize.py
        super().__init__()
        self.base = base.requires_grad_(False)
        self.in_features: int = base.in_features
        self.out_features: int = base.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Linear.apply(x, None, None, self.base, 1.0)

    def offload(self) -> None:
        """Keep the weight in main memory; each use copies it, still quantized, to the device of x."""
        weight: Any = self.base.weight
        weight.data = weight.data.cpu().pin_memory() if weight.is_cuda else weight.data


class LoraUpdate(nn.Module):
    """One named update of a layer."""

    scaling: torch.Tensor

    def __init__(self, update: Update):
        super().__init__()
        self.lora_A = nn.Parameter(update.down, requires_grad=False)
        self.lora_B = nn.Parameter(update.up, requires_grad=False)
        self.scale, self.on = float(update.scale), True
        # scale · strength in float32; of one dimension, because PyTorch would round a scalar tensor to x's precision
        self.register_buffer("scaling", torch.full((1,), self.scale, device=update.down.device))

    def set_strength(self, strength: float) -> None:
        """1 is the adapter as trained; 0 switches the update off."""
        self.scaling.fill_(self.scale * strength)
        self.on = strength != 0

    @property
    def rank(self) -> int:
        return len(self.lora_A)


class LoraLinear(FrozenLinear):
    """A linear layer with named updates. While painting, the base runs its own kernel."""

    def __init__(self, base: nn.Module):
        super().__init__(base)
        self.updates = nn.ModuleDict()

    def add(self, name: str, update: Update) -> LoraUpdate:
        self.updates[name] = result = LoraUpdate(update)
        return result

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if TRAINED in self.updates:
            update: Any = self.updates[TRAINED]
            if not update.on:
                return super().forward(x)
            return _Linear.apply(x, update.lora_A, update.lora_B, self.base, update.scale)
        y = self.base(x)
        for update in self.updates.values():
            # compiled code always adds the update: `on` would be a part of it, and the slider would compile again
            if torch.compiler.is_compiling() or update.on:
                h = F.linear(x, update.lora_A).mul_(update.scaling)
                y.view(-1, self.out_features).addmm_(h.view(-1, h.shape[-1]), update.lora_B.T)
        return y


def trainable(base: nn.Module, rank: int, scale: float, generator: torch.Generator, device: Any = None) -> LoraLinear:
    """A layer with an update to train, in float32; B is zero at first, so the base is unchanged. A and B lie on
    `device`, which is the base's where none is given."""
    layer = LoraLinear(base)
    device = device or next(base.parameters()).device
    a = torch.empty(rank, layer.in_features)
    nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)  # as in PEFT's and the LoRA paper's code
    b = torch.zeros(layer.out_features, rank, device=device)
    layer.add(TRAINED, Update(a.to(device), b, scale)).requires_grad_()
    return layer


def _expanded(base: Any, like: torch.Tensor) -> torch.Tensor:
    return weight_of(base, like.dtype, None if base.weight.device == like.device else like.device)


class _Linear(torch.autograd.Function):
    """Gradients for x, A and B; none for the base. Computes in x's precision, as autocast would."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, a: torch.Tensor | None, b: torch.Tensor | None, base: Any, scale: float):
        bias = None if base.bias is None else base.bias.to(x.dtype)
        y = F.linear(x, _expanded(base, x), bias)
        ctx.base, ctx.scale = base, scale
        if a is None or b is None:
            ctx.save_for_backward()
            return y
        h = F.linear(x, a.to(x.dtype))  # (…, rank)
        y.view(-1, y.shape[-1]).addmm_(h.view(-1, h.shape[-1]), b.to(x.dtype).T, alpha=scale)
        ctx.save_for_backward(x, h, a, b)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor):
        (g,) = gradients
        saved = ctx.saved_tensors  # read once only, because gradient checkpointing computes it then
        if not saved:
            return g @ _expanded(ctx.base, g), None, None, None, None
        x, h, a, b = saved
        flat = g.reshape(-1, g.shape[-1])
        gh = flat @ b.to(g.dtype) * ctx.scale  # (tokens, rank)
        ga = (gh.T @ x.reshape(-1, x.shape[-1])).to(a.dtype)
        gb = (flat.T @ h.reshape(-1, h.shape[-1]) * ctx.scale).to(b.dtype)
        gx = None
        if ctx.needs_input_grad[0]:
            gx = flat @ _expanded(ctx.base, g)
            gx = gx.addmm_(gh, a.to(g.dtype)).view(x.shape)
        return gx, ga, gb, None, None


# ---- A whole transformer's adapters


def linears(transformer: nn.Module) -> dict[str, Any]:
    """The linear layers by their paths, quantized ones too; of those that carry an adapter, their base."""
    return {
        path.removesuffix(".base"): layer for path, layer in transformer.named_modules() if isinstance(layer, nn.Linear)
    }


def lora_layers(transformer: nn.Module) -> dict[str, LoraLinear]:
    return {path: layer for path, layer in transformer.named_modules() if isinstance(layer, LoraLinear)}


def updates_of(transformer: nn.Module, name: str) -> dict[str, Update]:
    """The live matrices of one adapter, by the layers' paths."""
    layers = lora_layers(transformer).items()
    updates: dict[str, Any] = {path: layer.updates[name] for path, layer in layers if name in layer.updates}
    return {path: Update(update.lora_A, update.lora_B, update.scale) for path, update in updates.items()}


def inject(transformer: nn.Module, name: str, updates: Mapping[str, Update], dtype: torch.dtype) -> None:
    """Puts a frozen adapter on the transformer, beside those that are there, at strength 1."""
    bases = linears(transformer)
    for path, update in updates.items():
        layer = transformer.get_submodule(path)
        if not isinstance(layer, LoraLinear):
            layer = LoraLinear(layer)
            transformer.set_submodule(path, layer)
        device = bases[path].weight.device
        layer.add(name, Update(update.down.to(device, dtype), update.up.to(device, dtype), update.scale))


def remove(transformer: nn.Module, name: str) -> None:
    """Takes an adapter off; a layer that has no other is its base again."""
    for path, layer in lora_layers(transformer).items():
        if name in layer.updates:
            del layer.updates[name]
        if not layer.updates:
            transformer.set_submodule(path, layer.base)


def set_strength(transformer: Any, name: str, strength: float, blocks: BlockStrengths = EVERYWHERE) -> None:
    """The strength of one adapter: 1 as trained, 0 switched off; `blocks` multiplies it in each group of blocks."""
    early = early_single_blocks(len(transformer.single_transformer_blocks))
    for path, layer in lora_layers(transformer).items():
        if name in layer.updates:
            update: Any = layer.updates[name]
            update.set_strength(strength * factor(path, blocks, early))


def factor(path: str, blocks: BlockStrengths, early: int) -> float:
    """A layer outside the blocks belongs to no group."""
    kind, _, rest = path.partition(".")
    if kind == "transformer_blocks":
        return blocks.two_stream
    if kind == "single_transformer_blocks":
        return blocks.early_single if int(rest.split(".")[0]) < early else blocks.late_single
    return 1.0
