"""What a training step keeps in memory and computes, counted on shapes alone: no weight is loaded, no GPU is needed.

FLUX's two kinds of block are run forward and backward with tensors that have a size and no contents. A tensor counts
from when it is made until nothing refers to it any more, and an operation refers to what its backward pass needs, as
PyTorch's autograd does. So what is kept, and what lives for a moment only, is counted rather than estimated. Neither
PyTorch nor diffusers is imported, which takes longer than all of this; tests hold the counts against real steps.
"""

import contextlib
import functools
import heapq
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

GROUP = 128  # weights of quanto's int4 and int2 that share a scale and a shift
WIDE = 4  # bytes of a float32
PIXELS = {"cuda": 1024 * 1024, "cpu": 80 * 1024}  # through the VAE at once; more no longer fit a CPU's caches
CAPTIONS = 16  # through the text encoders at once
LINEARS = {  # of each kind of block: rows and columns, in multiples of the model's width
    "transformer_blocks": {
        "norm1.linear": (6, 1), "norm1_context.linear": (6, 1),
        "attn.to_q": (1, 1), "attn.to_k": (1, 1), "attn.to_v": (1, 1), "attn.to_out.0": (1, 1),
        "attn.add_q_proj": (1, 1), "attn.add_k_proj": (1, 1), "attn.add_v_proj": (1, 1), "attn.to_add_out": (1, 1),
        "ff.net.0.proj": (4, 1), "ff.net.2": (1, 4), "ff_context.net.0.proj": (4, 1), "ff_context.net.2": (1, 4),
    },
    "single_transformer_blocks": {
        "norm.linear": (3, 1), "proj_mlp": (4, 1), "proj_out": (1, 5),
        "attn.to_q": (1, 1), "attn.to_k": (1, 1), "attn.to_v": (1, 1),
    },
}  # fmt: skip
MODULATION = ("norm1.linear", "norm1_context.linear", "norm.linear")


def stored(quantize: str, rows: int, columns: int, itemsize: int) -> int:
    """Bytes of a linear layer's weight as impressionism/quantize.py keeps it."""
    count = rows * columns
    return {
        "none": count * itemsize,
        "fp8": count + rows * 4,
        "int8": count + rows * 4,
        "nf4": count // 2 + count // 64 + count // 64 // 256 * 4,  # double quantization
        "int4": count // 2 + count // GROUP * 2 * itemsize,
        "int2": count // 4 + count // GROUP * 2 * itemsize,
    }[quantize]


def together(size: tuple[int, int], device: str) -> int:
    """How many pictures of a size go through the VAE at once."""
    return min(16, max(1, PIXELS[device] // (size[0] * size[1])))


def encoding_pictures(vae: Mapping[str, Any], numbers: int, sizes: Mapping[tuple[int, int], int], itemsize: int) -> int:
    """Bytes at most while pictures are encoded: the autoencoder's `numbers`, and its first level's tensors for as many
    pictures of a size as go through it together. A residual block has four, and what went into the block before it."""
    pixels = max(count * math.prod(size) for size, count in sizes.items())
    tensors = 4 + (vae["layers_per_block"] > 1)
    return itemsize * (numbers + pixels * (3 + tensors * vae["block_out_channels"][0]))


def encoding_captions(t5: Mapping[str, Any], numbers: int, tokens: int, count: int, itemsize: int) -> int:
    """Bytes at most while `count` captions are encoded: the numbers of CLIP and T5, and T5's tensors in a layer: four
    of its feed-forward's width, four of its own, and the attention's bias."""
    passing = count * tokens * (4 * t5["d_ff"] + 4 * t5["d_model"]) + t5["num_heads"] * tokens**2
    return itemsize * (numbers + passing)


@dataclass(frozen=True)
class Shape:
    """A step's shape: all that its memory depends on besides the layers' ranks."""

    width: int
    heads: int
    batch: int
    image: int
    """Tokens of a picture."""
    text: int
    """Tokens of a caption."""
    itemsize: int
    """Bytes of a number."""
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
class Linear:
    """A linear layer of a block."""

    name: str
    rows: int
    columns: int
    rank: int = 0
    """Rank of its update; 0: it has none."""
    offloaded: bool = False
    packed: bool = True
    """In the recipe's precision; else as it is."""
    banked: bool = False
    """Its outputs were computed ahead."""

    @property
    def numbers(self) -> int:
        """To train."""
        return self.rank * (self.rows + self.columns)


@dataclass(frozen=True)
class Block:
    layers: tuple[Linear, ...]
    recomputed: bool = False
    """By gradient checkpointing."""
    reached: bool = True
    """By a gradient: something in front of it learns."""
    offloaded: bool = False


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
    """Floating-point operations of both passes."""


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
    """The fullest moment of both passes through the parts of a model, in the order in which a picture meets them."""
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
    tape = Tape(shape)
    layers = {
        one.name: replace(one, offloaded=block.offloaded, banked=shape.banked and one.name in MODULATION)
        for one in block.layers
    }
    run = functools.partial(single_block if "proj_mlp" in layers else double_block, tape, layers)
    forward = functools.partial(Checkpoint, tape, run) if block.recomputed else run
    made = 0 if shape.accumulating else WIDE * sum(layer.numbers for layer in block.layers)
    return observe(tape, forward, reached=block.reached, gradients=made)


@functools.cache
def tail_cost(shape: Shape, channels: int) -> Cost:
    """From the last block's output to the loss."""
    tape, width = Tape(shape), shape.width

    def run(image: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        scale, shift = tape.split(tape.row(2 * shape.batch * width), [shape.batch * width] * 2)
        prediction = tape.linear(Linear("proj_out", channels, width, packed=False), tape.modulated(image, scale, shift))
        error = tape.add(tape.to(prediction, WIDE))
        return (tape.mean(tape.square(error), 1),)

    return observe(tape, run, reached=True, gradients=0)


def observe(tape: "Tape", run: Callable[..., Any], *, reached: bool, gradients: int) -> Cost:
    """The cost of what maps the streams of picture and text to outputs."""
    shape = tape.shape
    streams = [tape.empty(shape.batch * count * shape.width, shape.itemsize) for count in (shape.image, shape.text)]
    for stream in streams if reached else ():
        stream.node = Node(tape, [], tape.keep, ())
    stream = None
    outputs = list(run(*streams))
    del streams
    forward = tape.peak
    handed_on = sum(storage.size for storage in {id(out.storage): out.storage for out in outputs}.values())
    kept, tape.peak = tape.now - handed_on, 0
    ends = [(out.node, out.slot, out.numel, out.itemsize) for out in outputs if out.node]
    del outputs
    if ends:
        tape.peak = tape.now
        tape.backward(ends)
    return Cost(kept, forward, tape.peak, gradients, tape.flops)


# ---- The blocks, as diffusers computes them

Layers = Mapping[str, "Linear"]  # of a block, by their names in it


def double_block(tape: "Tape", layers: Layers, image: "Tensor", text: "Tensor") -> tuple["Tensor", "Tensor"]:
    def linear(name: str, x: Tensor) -> Tensor:
        return tape.linear(layers[name], x)

    def feed_forward(name: str, x: Tensor) -> Tensor:
        return linear(f"{name}.net.2", tape.gelu(linear(f"{name}.net.0.proj", x)))

    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = tape.modulation(layers["norm1.linear"], 6)
    x = tape.modulated(image, scale, shift)
    t_shift, t_scale, t_gate, t_mlp_shift, t_mlp_scale, t_mlp_gate = tape.modulation(layers["norm1_context.linear"], 6)
    y = tape.modulated(text, t_scale, t_shift)

    query, key, value = (linear(f"attn.to_{name}", x) for name in "qkv")
    text_query, text_key, text_value = (linear(f"attn.add_{name}_proj", y) for name in "qkv")
    query, key = tape.rms_norm(query), tape.rms_norm(key)
    text_query, text_key = tape.rms_norm(text_query), tape.rms_norm(text_key)
    query, key = tape.cat(text_query, query), tape.cat(text_key, key)
    value = tape.cat(text_value, value)
    attended = tape.attention(query, key, value)
    from_text, from_image = tape.split(attended, [text.numel, image.numel])
    from_image = linear("attn.to_out.0", tape.contiguous(from_image))
    from_text = linear("attn.to_add_out", tape.contiguous(from_text))
    del query, key, value, text_query, text_key, text_value, attended

    from_image = tape.mul(from_image, gate)
    image = tape.add(image, from_image)
    x = tape.modulated(image, mlp_scale, mlp_shift)
    from_mlp = feed_forward("ff", x)
    from_mlp = tape.mul(from_mlp, mlp_gate)
    image = tape.add(image, from_mlp)
    from_text = tape.mul(from_text, t_gate)
    text = tape.add(text, from_text)
    y = tape.modulated(text, t_mlp_scale, t_mlp_shift)
    from_text_mlp = feed_forward("ff_context", y)
    text = tape.add(text, tape.mul(from_text_mlp, t_mlp_gate))
    return text, image


def single_block(tape: "Tape", layers: Layers, image: "Tensor", text: "Tensor") -> tuple["Tensor", "Tensor"]:
    def linear(name: str, x: Tensor) -> Tensor:
        return tape.linear(layers[name], x)

    sizes = [text.numel, image.numel]
    both = residual = tape.cat(text, image)
    shift, scale, gate = tape.modulation(layers["norm.linear"], 3)
    x = tape.modulated(both, scale, shift)
    mlp = tape.gelu(linear("proj_mlp", x))
    query, key, value = (linear(f"attn.to_{name}", x) for name in "qkv")
    query, key = tape.rms_norm(query), tape.rms_norm(key)
    attended = tape.attention(query, key, value)
    del query, key, value
    both = tape.cat(attended, mlp)
    both = tape.mul(linear("proj_out", both), gate)
    both = tape.add(residual, both)
    return tape.slice(both, sizes[0]), tape.slice(both, sizes[1])


# ---- Tensors without contents, and PyTorch's operations on them


class Storage:
    """Bytes that count as long as something refers to them."""

    def __init__(self, tape: "Tape", size: int):
        self.tape, self.size = tape, size
        tape.now += size
        tape.peak = max(tape.peak, tape.now)

    def __del__(self) -> None:
        self.tape.now -= self.size


class Tensor:
    def __init__(self, numel: int, itemsize: int, storage: Any):
        self.numel, self.itemsize, self.storage = numel, itemsize, storage
        self.node: Node | None = None
        """The operation that made it, where a gradient is wanted."""
        self.slot = 0
        """Which of that operation's outputs it is."""


class Node:
    """An operation in the graph of the backward pass."""

    def __init__(self, tape: "Tape", inputs: Sequence["Tensor"], backward: Callable[..., Any], saved: Sequence[Any]):
        self.order = next(tape.counter)
        self.inputs = [(one.node, one.slot) for one in inputs]
        self.backward, self.saved = backward, saved
        self.checkpoint: Checkpoint | None = None


class Recomputed(Exception):
    """All that the backward pass needs is there again."""


class Checkpoint:
    """Gradient checkpointing: a block's outputs; what its operations saved is dropped, and made again when the first of
    them is wanted."""

    def __init__(self, tape: "Tape", run: Callable[..., Any], *streams: Tensor):
        self.tape, self.run, self.streams = tape, run, streams
        self.nodes: list[Node] = []
        self.last: Node | None = None
        """The last operation that saved something: where the recomputing stops."""
        tape.checkpoint = self
        self.outputs = run(*streams)
        tape.checkpoint = None
        for node in self.nodes:
            node.checkpoint = self
        self.wanted = self.nodes.index(self.last) + 1 if self.last else 0

    def __iter__(self):
        outputs, self.outputs = self.outputs, ()
        return iter(outputs)

    def recompute(self) -> None:
        nodes, self.nodes = self.nodes, []
        again = []
        for stream in self.streams:
            again.append(Tensor(stream.numel, stream.itemsize, stream.storage))
            again[-1].node = stream.node
        self.tape.recomputed, self.tape.wanted, self.tape.inputs = [], self.wanted, self.streams
        with contextlib.suppress(Recomputed):
            self.run(*again)
        for node, saved in zip(nodes, self.tape.recomputed, strict=False):
            node.saved = saved
        for node in nodes:
            node.checkpoint = None
        self.tape.recomputed = None


class Tape:
    """The bytes of all tensors, now and at most, and the floating-point operations of matrix products."""

    def __init__(self, shape: Shape):
        self.shape = shape
        self.now = self.peak = self.flops = 0
        self.counter = itertools.count()
        self.kept_gradients: list[Tensor] = []
        self.checkpoint: Checkpoint | None = None
        self.recomputed: list[Sequence[Any]] | None = None
        self.wanted = 0
        self.inputs: Sequence[Tensor] = ()
        """Inputs of a checkpoint, held until the backward pass of its last operation."""

    def empty(self, numel: int, itemsize: int) -> Tensor:
        return Tensor(numel, itemsize, Storage(self, numel * itemsize))

    def like(self, x: Tensor) -> Tensor:
        return self.empty(x.numel, x.itemsize)

    def row(self, numel: int) -> Tensor:
        """One that was there before."""
        return Tensor(numel, self.shape.itemsize, Storage(self, 0))

    def record(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], backward: Callable, *saved: Any) -> None:
        """The outputs' gradients become the inputs' by `backward(*gradients, *saved)`."""
        if not any(one.node for one in inputs):
            return
        node = Node(self, inputs, backward, saved)
        if self.recomputed is not None:
            self.recomputed.append(saved)
            node.saved = ()
            if len(self.recomputed) == self.wanted:
                raise Recomputed
        if self.checkpoint is not None:
            self.checkpoint.nodes.append(node)
            self.checkpoint.last = node if saved else self.checkpoint.last
            node.saved = ()
        for slot, out in enumerate(outputs):
            out.node, out.slot = node, slot

    def keep(self, gradient: Tensor) -> None:
        """An input's gradient is handed on."""
        self.kept_gradients.append(gradient)

    def backward(self, ends: list[tuple[Node, int, int, int]]) -> None:
        """From gradients of the outputs to those of all else, the operation that came last first."""
        gradients: dict[Node, dict[int, Tensor]] = {}
        waiting: list[tuple[int, Node]] = []

        def hand(node: Node | None, slot: int, gradient: Tensor | None) -> None:
            if node is None or gradient is None:
                return
            if node not in gradients:
                heapq.heappush(waiting, (-node.order, node))
            gradients.setdefault(node, {}).setdefault(slot, gradient)  # a second one is added in place

        for node, slot, numel, itemsize in ends:
            hand(node, slot, self.empty(numel, itemsize))
        ends.clear()
        while waiting:
            _, node = heapq.heappop(waiting)
            if node.checkpoint:
                node.checkpoint.recompute()
            given = gradients.pop(node)
            result = node.backward(*given.values(), *node.saved)
            node.saved = ()
            del given
            for (before, slot), gradient in zip(node.inputs, result or (), strict=False):
                hand(before, slot, gradient)
                del gradient
            del result, node

    # Linear layers

    def linear(self, layer: Linear, x: Tensor) -> Tensor:
        """As impressionism.lora.FrozenLinear and LoraLinear compute it."""
        if layer.banked:
            return self.row(x.numel // layer.columns * layer.rows)
        tokens, size = x.numel // layer.columns, x.itemsize
        weight = self.expanded(layer, size)
        y = self.empty(tokens * layer.rows, size)
        del weight
        self.flops += 2 * tokens * layer.rows * layer.columns
        if not layer.rank:
            self.record([y], [x], functools.partial(self._frozen_backward, layer))
            return y
        a = self.cast(layer.rank * layer.columns)
        h = self.empty(tokens * layer.rank, size)
        a = self.cast(layer.rank * layer.rows)
        del a
        self.flops += 2 * tokens * layer.rank * (layer.rows + layer.columns)
        node = x.node
        trained = x if node else self._leaf(x)
        self.record([y], [trained], functools.partial(self._lora_backward, layer, node is not None), x, h)
        return y

    def _leaf(self, x: Tensor) -> Tensor:
        leaf = Tensor(x.numel, x.itemsize, x.storage)
        leaf.node = Node(self, [], lambda gradient: None, ())
        return leaf

    def _frozen_backward(self, layer: Linear, gradient: Tensor) -> tuple[Tensor]:
        tokens = gradient.numel // layer.rows
        weight = self.expanded(layer, gradient.itemsize)
        result = self.empty(tokens * layer.columns, gradient.itemsize)
        del weight
        self.flops += 2 * tokens * layer.rows * layer.columns
        return (result,)

    def _lora_backward(self, layer: Linear, needs_x: bool, gradient: Tensor, x: Tensor, h: Tensor) -> tuple:
        tokens, size, rank = gradient.numel // layer.rows, gradient.itemsize, layer.rank
        b = self.cast(rank * layer.rows)
        product = self.empty(tokens * rank, size)
        del b
        held = [self.empty(tokens * rank, size)]
        del product
        ga = self._wide(self.empty(rank * layer.columns, size))
        product = self.empty(rank * layer.rows, size)
        product = self.empty(rank * layer.rows, size)
        gb = self._wide(product)
        del product
        self.flops += 2 * tokens * rank * (2 * layer.rows + layer.columns)
        gx = None
        if needs_x:
            [gx] = self._frozen_backward(layer, gradient)
            a = self.cast(rank * layer.columns)
            del a
            self.flops += 2 * tokens * rank * layer.columns
        held += [ga, gb]
        if not self.shape.accumulating:
            self.kept_gradients += [ga, gb]
        return (gx,)

    def cast(self, numel: int) -> Tensor | None:
        """A copy of an update's float32 matrix in the computation's precision."""
        return self.empty(numel, self.shape.itemsize) if self.shape.itemsize != WIDE else None

    def _wide(self, x: Tensor) -> Tensor:
        return x if x.itemsize == WIDE else self.empty(x.numel, WIDE)

    def expanded(self, layer: Linear, itemsize: int) -> Tensor | None:
        """A weight as the product needs it: fetched where it waits in main memory, unpacked where it is quantized."""
        quantize = self.shape.quantize if layer.packed else "none"
        numel = layer.rows * layer.columns
        if quantize == "none":
            return self.empty(numel, itemsize) if layer.offloaded else None
        packed = self.empty(stored(quantize, layer.rows, layer.columns, itemsize), 1) if layer.offloaded else None
        scales = self.empty(numel // 64 * 2, WIDE) if quantize == "nf4" else None
        weight = self.empty(numel, itemsize)
        del packed, scales
        return weight

    # What else a block computes

    def modulation(self, layer: Linear, count: int) -> list[Tensor]:
        batch, width = self.shape.batch, self.shape.width
        rows = self.linear(layer, self.empty(batch * width, self.shape.itemsize))  # of what silu makes of the embedding
        return self.split(rows, [batch * width] * count)

    def modulated(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return self.add(self.mul(self.layer_norm(x), self.add(scale)), shift)

    def layer_norm(self, x: Tensor) -> Tensor:
        out = self.like(x)
        moments = self.empty(2 * x.numel // self.shape.width, WIDE)
        self.record([out], [x], lambda gradient, x, _: (self.like(x),), x, moments)
        return out

    def rms_norm(self, x: Tensor) -> Tensor:
        """Over a head: one kernel on a GPU, several operations on a CPU."""
        rows = x.numel // (self.shape.width // self.shape.heads)
        if self.shape.gpu:
            out, root = self.like(x), self.empty(rows, WIDE)
            self.record([out], [x], lambda gradient, x, _: (self.like(x),), x, root)
            return out
        wide = self.to(x, WIDE)
        mean = self.add(self.mean(self.square(wide), rows))
        return self.unary(self.to(self.mul(wide, self.unary(mean, saves=True)), x.itemsize))

    def attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Flash attention, on CPU and GPU alike: keeps its inputs, its output and a number a row."""
        query, key = self.rotated(query), self.rotated(key)
        out, rows = self.like(query), self.empty(query.numel * self.shape.heads // self.shape.width, WIDE)
        flops = 4 * query.numel * self.shape.tokens
        self.flops += flops

        def backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
            self.flops += flops * 5 // 2
            wide = self.empty(query.numel, WIDE) if self.shape.gpu else None  # the query's, summed up
            gradients = self.like(query), self.like(key), self.like(value)
            del wide
            return gradients

        self.record([out], [query, key, value], backward, query, key, value, out.storage, rows)
        return out

    def rotated(self, x: Tensor) -> Tensor:
        """By the angles of every position."""
        real, imaginary = self.split(x, [x.numel // 2] * 2)
        negative = self.unary(imaginary)
        other = self.cat(negative, real)
        del negative, real, imaginary
        both = self.add(self.unary(self.to(x, WIDE)), self.unary(self.to(other, WIDE)))  # by the angles
        return self.to(both, x.itemsize)

    def unary(self, x: Tensor, *, saves: bool = False) -> Tensor:
        out = self.like(x)
        self.record([out], [x], lambda gradient, *_: (self.like(gradient),), *([x] if saves else []))
        return out

    def gelu(self, x: Tensor) -> Tensor:
        return self.unary(x, saves=True)

    def square(self, x: Tensor) -> Tensor:
        out = self.like(x)

        def backward(gradient: Tensor, x: Tensor) -> tuple[Tensor]:
            power = self.like(x)
            power = self.like(x)
            return (self.like(power),)

        self.record([out], [x], backward, x)
        return out

    def mean(self, x: Tensor, rows: int) -> Tensor:
        out, numel = self.empty(rows, x.itemsize), x.numel
        self.record([out], [x], lambda gradient: (self.empty(numel, gradient.itemsize),))
        return out

    def mul(self, x: Tensor, factor: Tensor) -> Tensor:
        """factor: of each number, row or picture."""
        out, few = Tensor(x.numel, x.itemsize, None), factor.numel

        def backward(gradient: Tensor, x: Tensor | None, factor: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
            for_x = self.like(gradient) if factor else None
            for_factor = self.like(gradient) if x else None
            return for_x, self.empty(few, gradient.itemsize) if for_factor else None

        self.record([out], [x, factor], backward, x if factor.node else None, factor if x.node else None)
        out.storage = Storage(self, out.numel * out.itemsize)  # after what it saves, where a recomputing stops
        return out

    def add(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """other: of each number or picture; none: a number or what has no gradient."""
        out, few = self.like(x), other and other.numel

        def backward(gradient: Tensor) -> tuple[Tensor, Tensor | None]:
            needs_sum = other_node and few != gradient.numel
            return gradient, self.empty(few or 0, gradient.itemsize) if needs_sum else gradient

        other_node = other and other.node
        self.record([out], [x, *([other] if other else [])], backward)
        return out

    def to(self, x: Tensor, itemsize: int) -> Tensor:
        if x.itemsize == itemsize:
            return x
        out, before = self.empty(x.numel, itemsize), x.itemsize
        self.record([out], [x], lambda gradient: (self.empty(gradient.numel, before),))
        return out

    def contiguous(self, x: Tensor) -> Tensor:
        """A part of each picture's tokens: a copy where there are several pictures."""
        if self.shape.batch == 1:
            return x
        out = self.like(x)
        self.record([out], [x], lambda gradient: (gradient,))
        return out

    def cat(self, *parts: Tensor) -> Tensor:
        out = self.empty(sum(part.numel for part in parts), parts[0].itemsize)
        sizes = [part.numel for part in parts]
        self.record([out], parts, lambda gradient: [Tensor(n, gradient.itemsize, gradient.storage) for n in sizes])
        return out

    def split(self, x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        parts, numel = [Tensor(size, x.itemsize, x.storage) for size in sizes], x.numel
        self.record(parts, [x], lambda *gradients: (self.empty(numel, gradients[0].itemsize),))
        return parts

    def slice(self, x: Tensor, size: int) -> Tensor:
        part, numel = Tensor(size, x.itemsize, x.storage), x.numel
        self.record([part], [x], lambda gradient: (self.empty(numel, gradient.itemsize),))
        return part
