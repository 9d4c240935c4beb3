"""What a training step keeps in memory and computes, counted on shapes alone: no weight is loaded, no GPU is needed.

The very blocks that training runs are built on PyTorch's `meta` device, which has sizes and no contents, and are run
forward and backward. Every tensor that this makes is seen, so what autograd keeps, and what lives for a moment only,
is counted rather than estimated. FLUX repeats two kinds of block, so a few are run and the step is put together.
"""

import functools
import re
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.normalization import AdaLayerNormContinuous
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from impressionism.lora import FrozenLinear, LoraLinear, trainable
from impressionism.modulation import MODULATION
from training import flow

META = torch.device("meta")
MATMULS = {torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm, torch.ops.aten.addmm_}
GROUP = 128  # weights of quanto's int4 and int2 that share a scale and a shift


def stored(quantize: str, rows: int, columns: int, dtype: torch.dtype) -> int:
    """Bytes of a linear layer's weight as impressionism/quantize.py keeps it."""
    count, wide = rows * columns, dtype.itemsize
    return {
        "none": count * wide,
        "fp8": count + rows * 4,
        "int8": count + rows * 4,
        "nf4": count // 2 + count // 64 + count // 64 // 256 * 4,  # double quantization
        "int4": count // 2 + count // GROUP * 2 * wide,
        "int2": count // 4 + count // GROUP * 2 * wide,
    }[quantize]


@dataclass(frozen=True)
class Shape:
    """Of a step: all that its memory depends on besides the layers' ranks."""

    width: int
    heads: int
    batch: int
    image: int
    """Tokens of a picture."""
    text: int
    """Tokens of a caption."""
    dtype: torch.dtype
    quantize: str
    gpu: bool
    banked: bool
    """The modulation's outputs are computed ahead."""
    accumulating: bool
    """Gradients of an earlier batch are there already."""

    @property
    def tokens(self) -> int:
        return self.image + self.text


@dataclass(frozen=True)
class Block:
    single: bool
    ranks: tuple[int, ...]
    """Of its linear layers' updates, in their order; 0: none."""
    recomputed: bool = False
    """By gradient checkpointing."""
    reached: bool = True
    """By a gradient: something in front of it learns."""
    offloaded: bool = False

    @property
    def trained(self) -> bool:
        return any(self.ranks)


@dataclass(frozen=True)
class Cost:
    """Bytes that a part of the model adds to those there are before it, and its floating-point operations."""

    kept: int
    """From its forward to its backward pass."""
    forward: int
    """At most, while its forward pass runs, its input included."""
    backward: int
    """At most, while its backward pass runs, what was kept included."""
    gradients: int
    flops: int
    """Of both passes."""


@dataclass(frozen=True)
class Moment:
    """The one at which a step's memory is fullest: bytes beyond what is there all the time."""

    kept: int
    """For the backward pass."""
    gradients: int
    """Made so far."""
    passing: int
    """Inputs, outputs, expanded weights: gone a moment later."""

    @property
    def bytes(self) -> int:
        return self.kept + self.gradients + self.passing


def fullest(costs: list[Cost]) -> Moment:
    """Of a forward and a backward pass through the parts of a model, in the order in which a picture meets them."""
    moments, kept, gradients = [], 0, 0
    for cost in costs:
        moments.append(Moment(kept, 0, cost.forward))
        kept += cost.kept
    for cost in reversed(costs):
        moments.append(Moment(kept, gradients, cost.backward - cost.kept))
        kept, gradients = kept - cost.kept, gradients + cost.gradients
    return max(moments, key=lambda moment: moment.bytes)


@functools.cache
def cost(block: Block, shape: Shape) -> Cost:
    """Run one block, and look."""
    with torch.device(META):
        module = build(block, shape)
        temb = torch.empty(shape.batch, shape.width, dtype=shape.dtype)
        rotary = tuple(torch.empty(shape.tokens, shape.width // shape.heads) for _ in "cs")

    def run(counter: Counter, *streams: torch.Tensor) -> Any:
        def forward(*inputs: torch.Tensor) -> Any:
            with Kernels(shape.gpu, counter):  # within, so that it is on when autograd runs this again
                return module(*inputs, rotary)

        return checkpoint(forward, *streams, temb, use_reentrant=False) if block.recomputed else forward(*streams, temb)

    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return observe(run, shape, weights, reached=block.reached)


@functools.cache
def tail_cost(shape: Shape, channels: int) -> Cost:
    """From the last block's output to the loss."""
    with torch.device(META):
        norm = AdaLayerNormContinuous(shape.width, shape.width, elementwise_affine=False, eps=1e-6)
        last = nn.Linear(shape.width, channels)
        norm, last = (module.to(shape.dtype).requires_grad_(False) for module in (norm, last))
        temb = torch.empty(shape.batch, shape.width, dtype=shape.dtype)
        velocity = torch.empty(shape.batch, shape.image, channels)

    def run(_: Counter, image: torch.Tensor, __: torch.Tensor) -> Any:
        return (flow.loss(last(norm(image, temb)), velocity).mean(),)

    return observe(run, shape, [], reached=True)


def observe(run: Callable[..., Any], shape: Shape, weights: list, *, reached: bool) -> Cost:
    """The cost of what maps the streams of picture and text to outputs."""
    if shape.accumulating:
        for weight in weights:
            weight.grad = torch.empty_like(weight)
    sizes = [(shape.batch, count, shape.width) for count in (shape.image, shape.text)]
    leaves = [torch.empty(size, dtype=shape.dtype, device=META, requires_grad=reached) for size in sizes]
    with Counter() as counter, torch.set_grad_enabled(reached or bool(weights)):
        streams = [leaf.clone() for leaf in leaves]  # autograd would hold a leaf even where it needs no value of it
        outputs = run(counter, *streams)
        forward = counter.peak
        streams.clear()
        handed_on = sum({out.untyped_storage()._cdata: out.untyped_storage().nbytes() for out in outputs}.values())
        kept = counter.now - handed_on
        counter.peak = 0
        if any(out.requires_grad for out in outputs):
            end = _End.apply(*outputs)
            del outputs
            counter.peak = counter.now
            end.backward()  # type: ignore[union-attr]
    made = 0 if shape.accumulating else sum(weight.numel() * weight.element_size() for weight in weights)
    return Cost(kept, forward, counter.peak, made, counter.flops)


class _End(torch.autograd.Function):
    """Hands gradients back as the next block would: made when they are asked for, and held by nobody."""

    @staticmethod
    def forward(ctx: Any, *outputs: torch.Tensor) -> torch.Tensor:
        ctx.like = [(out.shape, out.dtype) for out in outputs]
        return outputs[0].new_empty(())

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor):
        return tuple(torch.empty(shape, dtype=dtype, device=META) for shape, dtype in ctx.like)


# ---- Building


def build(block: Block, shape: Shape) -> nn.Module:
    """A block of the transformer, dressed as training dresses it."""
    kind = FluxSingleTransformerBlock if block.single else FluxTransformerBlock
    module: Any = kind(shape.width, shape.heads, shape.width // shape.heads).to(shape.dtype).requires_grad_(False)
    for (name, linear), rank in zip(linears(module), block.ranks, strict=True):
        if shape.banked and modulates(name):
            module.set_submodule(name, _Row(linear.out_features, shape))
            continue
        base = _Packed(linear, shape, block.offloaded)
        layer = FrozenLinear(base) if not rank else _adapted(base, rank)
        module.set_submodule(name, layer)
    return module


def modulates(name: str) -> bool:
    return re.search(rf"(^|\.)({MODULATION})$", name) is not None


def linears(block: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, module) for name, module in block.named_modules() if isinstance(module, nn.Linear)]


def _adapted(base: nn.Module, rank: int) -> LoraLinear:
    with torch.device("cpu"):  # its generator is the CPU's
        return trainable(base, rank, 1.0, torch.Generator())


class _Row(nn.Module):
    """A modulation layer's output, computed ahead."""

    def __init__(self, width: int, shape: Shape):
        super().__init__()
        self.row = torch.empty(shape.batch, width, dtype=shape.dtype, device=META)

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.row


class _Packed(nn.Module):
    """A linear layer whose weight is quantized."""

    def __init__(self, linear: nn.Linear, shape: Shape, offloaded: bool):
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        if shape.quantize == "none" and not offloaded:
            self.weight: Any = linear.weight
        else:
            self.weight = _Weight(linear.weight, shape.quantize, torch.device("cpu") if offloaded else META)


class _Weight:
    """Stands in for a quantized weight: takes its room when it is brought to the device, and when it is expanded."""

    dtype = torch.uint8

    def __init__(self, like: torch.Tensor, quantize: str, device: torch.device):
        self.like, self.quantize, self.device = like, quantize, device
        self.room: torch.Tensor | None = None

    def to(self, target: Any, **_: Any) -> Any:
        if isinstance(target, torch.dtype):
            scales = torch.empty(self.like.numel() // 64, 2, device=META) if self.quantize == "nf4" else None
            expanded = torch.empty_like(self.like)
            del scales
            return expanded
        if self.quantize == "none":
            return torch.empty_like(self.like)
        there = _Weight(self.like, self.quantize, META)
        rows, columns = self.like.shape
        room = stored(self.quantize, rows, columns, self.like.dtype)
        there.room = torch.empty(room, dtype=torch.uint8, device=META)
        return there


# ---- Looking


class Counter(TorchDispatchMode):
    """The bytes of tensors made while it is on, now and at most, and the operations of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.flops = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        for storage in _storages((args, kwargs)):
            self._see(storage, 0)  # where it is not known, it was there before
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            self._see(storage, storage.nbytes())
        if func.overloadpacket in MATMULS:
            inner = [tensor for tensor in args if isinstance(tensor, torch.Tensor)][-1].shape[-2]
            self.flops += 2 * result.numel() * inner
        return result

    def _see(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known[key] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._known.pop(key)


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    return (value.untyped_storage() for value in tree_leaves(values) if isinstance(value, torch.Tensor))


class Kernels(TorchFunctionMode):
    """Where `meta` would take apart what a device has one kernel for, take that kernel's inputs and outputs."""

    def __init__(self, gpu: bool, counter: Counter):
        super().__init__()
        self.gpu, self.counter = gpu, counter

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention:
            query, key, value, *_ = (*args, *(kwargs or {}).values())
            return _Attention.apply(query, key, value, self.counter, self.gpu)
        if func is F.rms_norm and self.gpu:
            return _RMSNorm.apply(args[0])
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    """Flash attention, on CPU and GPU alike: keeps its inputs, its output and a number a row."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *more: Any):
        output = torch.empty_like(query)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, sums)
        (ctx.counter, ctx.gpu), ctx.flops = more, 4 * query.numel() * query.shape[-2]
        ctx.counter.flops += ctx.flops
        return output

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor):
        query, key, value, _output, _sums = ctx.saved_tensors
        ctx.counter.flops += ctx.flops * 5 // 2
        wide = query.new_empty(query.shape, dtype=torch.float32) if ctx.gpu else None  # the query's, summed up
        gradients = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        del wide
        return *gradients, None, None


class _RMSNorm(torch.autograd.Function):
    """The fused kernel: keeps its input and a number a row."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor):
        ctx.save_for_backward(x, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor):
        return torch.empty_like(ctx.saved_tensors[0])
