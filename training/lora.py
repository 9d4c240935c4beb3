"""A frozen linear layer with a low-rank update, at the least memory that its training needs.

    y = W x + b + scale · B A x

PEFT's layer keeps four full-size temporaries a call (a copy of W x, B A x, its multiple, their sum); here the update
is added in place, and the backward pass keeps x and A x alone. W stays quantized and is expanded for a moment, in both
passes, whatever its format. PEFT itself takes the saved file: see adapter.py.
"""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from impressionism.quantize import weight_of


class FrozenLinear(nn.Module):
    """A linear layer whose weight, quantized or not, never learns."""

    def __init__(self, base: Any):  # a linear layer of nn, bitsandbytes or quanto
        super().__init__()
        self.base = base.requires_grad_(False)
        self.in_features: int = base.in_features
        self.out_features: int = base.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Linear.apply(x, None, None, self.base, 1.0)

    def offload(self) -> None:
        """Let the weight wait in main memory; each use takes a copy of it, still packed, to where x is."""
        weight: Any = self.base.weight
        weight.data = weight.data.cpu().pin_memory() if weight.is_cuda else weight.data


class LoraLinear(FrozenLinear):
    """The same with A (rank, in) and B (out, rank) to learn, in float32; B is zero at first, so the base is unchanged.

    `on` switches the update off, to see the base. They lie on `device`, which is the base's where none is given.
    """

    def __init__(
        self, base: nn.Module, rank: int, scale: float, generator: torch.Generator, device: torch.device | None = None
    ):
        super().__init__(base)
        device = device or next(base.parameters()).device
        a = torch.empty(rank, self.in_features)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)  # PEFT's and the LoRA paper's code
        self.lora_A = nn.Parameter(a.to(device))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, rank, device=device))
        self.rank, self.scale, self.on = rank, scale, True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.on:
            return super().forward(x)
        return _Linear.apply(x, self.lora_A, self.lora_B, self.base, self.scale)


def _expanded(base: Any, like: torch.Tensor) -> torch.Tensor:
    weight = base.weight
    if weight.device != like.device:
        base = SimpleNamespace(weight=weight.to(like.device, non_blocking=True))
    return weight_of(base, like.dtype)


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
        saved = ctx.saved_tensors  # to be asked for once only: checkpointing unpacks it then
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
