"""The transformer with quantized weights, read tensor by tensor, so that it never exists in full precision.

nf4 is bitsandbytes', and so is int8 on CUDA. int8 on a CPU, int4 and int2 are optimum-quanto's integers, in a layer of
our own: quanto's picks kernels made for one token at a time, slow for a picture's thousands and without a backward
pass, and compiles others at first use. fp8 is PyTorch's matrix product of 8-bit floats when painting, on GPUs that have
one; training expands the weights. Diffusers itself refuses a BitsAndBytesConfig without a GPU. Only the linear layers
inside the blocks are quantized: the layers at both ends are small and sensitive.

A quantized transformer can be kept in a folder: its layers' tensors by their names, the layers at the ends as they
are. `FluxTransformer2DModel.from_pretrained` cannot take it, because diffusers finds no way to leave out the last
layer, `proj_out`, without the blocks' layers of that name.
"""

import contextlib
import ctypes
import logging
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from impressionism.errors import UserError
from impressionism.files import write_folder
from impressionism.hub import commit_of, digest_of, folder_of

Mode = Literal["none", "fp8", "int8", "nf4", "int4", "int2"]
MODES: tuple[Mode, ...] = get_args(Mode)
BLOCKS = ("transformer_blocks.", "single_transformer_blocks.")
FILES = ["transformer/*.json", "transformer/*.safetensors"]
BITS = {"int8": 8, "int4": 4, "int2": 2}
PACKED = re.compile(r"(.+?)\.(weight(?:[._].+)?|SCB)")  # a quantized layer, and what it stores
FLOAT8 = torch.float8_e4m3fn
FLOAT8_MAX = torch.finfo(FLOAT8).max
MAPPED = 2**26  # bytes of a file that are read before it is mapped anew
PIECE = 2**22  # weights that are quantized at once: enough for all cores, little for the memory
PackedTensors = dict[str, torch.Tensor]  # what a quantized layer stores, named as in its state dict

logger = logging.getLogger(__name__)


def load_transformer(
    folder_or_repo: str | Path,
    *,
    revision: str | None = None,
    quantize: str = "none",
    dtype: torch.dtype,
    device: str | torch.device,
    without: str | None = None,
) -> FluxTransformer2DModel:
    """The frozen transformer of a pipeline's folder or Hub repository, unquantized parts in the dtype; or one that
    save_quantized has kept, whose tensors stay on the disk until they are used where the device is the CPU.

    Layers whose names match the pattern `without` are not read: the caller puts something else in their place.
    """
    if quantize not in MODES:
        raise UserError(f"There is no quantization {quantize}; there are {', '.join(MODES)}.")
    folder = folder_of(folder_or_repo, revision, FILES) / "transformer"
    device = torch.device(device)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder_or_repo} is no FLUX model's folder: it has no transformer/config.json.")
    kept, wanted = format_in(folder), format_of(quantize, device)
    if kept not in (None, wanted):
        raise UserError(f"{folder_or_repo} keeps a transformer as {kept}, not {wanted}; take the original weights.")
    with init_empty_weights(include_buffers=False):  # buffers are computed, not stored
        config: Any = FluxTransformer2DModel.load_config(folder)
        model: Any = FluxTransformer2DModel.from_config(config)
    if kept:
        place_kept(model, folder, quantize, dtype, device, without)
    else:
        for name, tensor in tensors(folder, without):
            place(model, name, tensor, quantize, dtype, device)
    unread = (name for name, parameter in model.named_parameters() if parameter.is_meta)
    if missing := [name for name in unread if not belongs(name, without)]:
        raise UserError(f"The transformer in {folder} lacks {len(missing)} tensors, the first is {missing[0]}.")
    return model.requires_grad_(False).eval()


# ---- Reading


def belongs(name: str, layers: str | None) -> bool:
    """Whether a tensor is one of a layer that the pattern means."""
    return layers is not None and re.match(rf"({layers})\.", name) is not None


def tensors(folder: Path, without: str | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of every shard, one at a time. The files are memory-mapped, anew after so many bytes: what was read
    before is then no longer mapped, unless somebody keeps it."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"There are no .safetensors files in {folder}; other formats are not read.")
    for file in files:
        with opened(file) as shard:
            names = [name for name in shard.keys() if not belongs(name, without)]  # noqa: SIM118 - it is no dict
        while names:
            with opened(file) as shard:
                read = 0
                while names and read < MAPPED:
                    tensor = shard.get_tensor(name := names.pop(0))
                    read += tensor.nbytes
                    yield name, tensor


def opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise UserError(f"{file.name} is not a safetensors file, or only a part of one; fetch it again.") from error


def place(
    model: nn.Module, name: str, tensor: torch.Tensor, quantize: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Puts one stored tensor where it belongs in the model, quantized if it is a block's linear weight."""
    path, _, leaf = name.rpartition(".")
    try:
        module = model.get_submodule(path)
        expected = getattr(module, leaf).shape
    except AttributeError as error:
        raise UserError(f"{name} has no place in a FLUX transformer of this configuration.") from error
    if tensor.shape != expected:
        raise UserError(f"{name} is {tuple(tensor.shape)} where the configuration says {tuple(expected)}.")
    if quantize != "none" and leaf == "weight" and isinstance(module, nn.Linear) and path.startswith(BLOCKS):
        parts = pack(tensor.to(device), quantize, dtype)
        model.set_submodule(path, quantized(module, parts, quantize, dtype))
        give_back_memory()
    else:
        # A copy lies where PyTorch puts it; a mapped tensor lies as in its file, and sums may be rounded otherwise.
        tensor = tensor.to(device, dtype, copy=quantize != "none")
        setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))


def give_back_memory() -> None:
    """Without this, glibc keeps most of the freed full-precision weights for itself, resident between what stays."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


# ---- Keeping a quantized transformer


def kept_transformer(
    folder_or_repo: str | Path,
    *,
    revision: str | None = None,
    quantize: str,
    dtype: torch.dtype,
    device: str | torch.device,
    keep: Path | None,
    without: str | None = None,
    say: Callable[[str], None] = logger.info,
) -> FluxTransformer2DModel:
    """load_transformer, which quantizes once: the result is kept under a folder and found by what it was made of."""
    options: dict[str, Any] = {"quantize": quantize, "dtype": dtype, "device": device}
    if keep is None or quantize not in MODES or quantize == "none":
        return load_transformer(folder_or_repo, revision=revision, without=without, **options)
    folder = folder_of(folder_or_repo, revision, FILES)
    files = sorted(folder.glob("transformer/*.safetensors"))
    source = commit_of(folder) or digest_of(folder / "transformer" / "config.json", *files)
    kept = keep / "-".join((source, format_of(quantize, torch.device(device)), str(dtype).removeprefix("torch.")))
    if kept.is_dir():
        say(f"The quantized transformer comes from {kept}.")
        return load_transformer(kept, without=without, **options)
    model = load_transformer(folder, **options)
    save_quantized(model, kept, quantize)
    say(f"The quantized transformer is kept in {kept}.")
    return model


def save_quantized(model: FluxTransformer2DModel, folder: Path, quantize: str) -> Path:
    """Writes a transformer so that load_transformer gives back the same bits; a folder is there whole or not at all."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    shards = split_torch_state_dict_into_shards(
        state, filename_pattern="diffusion_pytorch_model{suffix}.safetensors", max_shard_size="4GB"
    )
    metadata = {"format": "pt", "quantize": format_of(quantize, model.device)}
    with write_folder(folder) as partial:
        model.save_config(partial / "transformer")
        for file, names in shards.filename_to_tensors.items():
            save_file({name: state[name] for name in names}, partial / "transformer" / file, metadata)
    return folder


def format_of(quantize: str, device: torch.device) -> str:
    """What a quantization's tensors are, as kept files name it."""
    if quantize in ("none", "fp8"):
        return quantize
    theirs = quantize == "nf4" or (quantize == "int8" and device.type == "cuda")
    return f"{'bitsandbytes' if theirs else 'integer'}-{quantize}"


def format_in(folder: Path) -> str | None:
    """What save_quantized has written there, if anything."""
    for file in sorted(folder.glob("*.safetensors"))[:1]:
        with opened(file) as shard:
            return (shard.metadata() or {}).get("quantize")
    return None


def place_kept(
    model: nn.Module, folder: Path, quantize: str, dtype: torch.dtype, device: torch.device, without: str | None
) -> None:
    layers: dict[str, PackedTensors] = defaultdict(dict)
    for name, tensor in tensors(folder, without):
        match = PACKED.fullmatch(name)
        if match and name.startswith(BLOCKS) and isinstance(linear_at(model, match[1]), nn.Linear):
            layers[match[1]][match[2]] = tensor
        else:
            place(model, name, tensor.clone(), "none", dtype, device)
    for path, parts in layers.items():
        try:
            parts = {name: tensor.to(device) for name, tensor in parts.items()}
            model.set_submodule(path, quantized(linear_at(model, path), parts, quantize, dtype))
        except (AssertionError, KeyError, RuntimeError, ValueError) as error:
            raise UserError(f"{folder} is damaged at {path} ({error}); delete it.") from error


def linear_at(model: nn.Module, path: str) -> Any:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise UserError(f"{path} has no place in a FLUX transformer of this configuration.") from error


# ---- Quantizing


def pack(weight: torch.Tensor, quantize: str, dtype: torch.dtype) -> PackedTensors:
    """A weight's quantized tensors, on its device; computed in float32 and in pieces, whatever the weight comes in."""
    if quantize == "nf4":
        return pack_nf4(weight)
    if quantize == "int8" and weight.is_cuda:
        return pack_int8(weight)
    pieces = [piece.float() for piece in weight.chunk(-(-weight.numel() // PIECE))]
    if quantize == "fp8":
        rows, scales = map(torch.cat, zip(*map(in_fp8, pieces), strict=True))
        # Bytes, and not 8-bit floats, in which autograd and safetensors would see a trainable type.
        return {"weight": rows.view(torch.uint8), "weight_scale": scales}
    rounded = (in_integers(piece, BITS[quantize], dtype) for piece in pieces)
    integers, *scales = map(torch.cat, zip(*rounded, strict=True))
    packed = torch.zeros_like(integers[: len(integers) * BITS[quantize] // 8])
    for place, part in enumerate(integers.chunk(8 // BITS[quantize])):  # byte row i of n holds rows i, n + i, …
        packed |= part << place * BITS[quantize]
    return {"weight": packed, **dict(zip(("weight_scale", "weight_shift"), scales, strict=False))}


def quantized(linear: nn.Linear, parts: PackedTensors, quantize: str, dtype: torch.dtype) -> nn.Module:
    """The same layer around quantized tensors; its bias stays as it is."""
    if quantize == "nf4":
        layer = nf4(linear, parts, dtype)
    elif "SCB" in parts:
        layer = int8(linear, parts)
    else:
        layer = (LinearFloat8 if quantize == "fp8" else LinearScaled)(linear, parts)
    layer.bias = linear.bias
    return layer.requires_grad_(False)


def in_fp8(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows as 8-bit floats, each stretched over their whole range, and (rows, 1) by how much, in float32."""
    scales = rows.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / FLOAT8_MAX
    return (rows / scales).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8), scales


def in_integers(rows: torch.Tensor, bits: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """As optimum-quanto: 8 bits a row with a scale each, or groups of fewer with a scale and a shift. These are rounded
    to the dtype first, and the integers make up for it."""
    if bits == 8:
        scale = (rows.abs().amax(1, keepdim=True) / 127).to(dtype)
        return (rows / scale.float()).round_().clamp_(-128, 127).to(torch.int8), scale
    width = rows.shape[1]
    groups = (size for size in (128, 96, 64, 32) if width > 128 and width % size == 0)
    rows = rows.reshape(-1, next(groups, width))
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    scale, shift = ((high - low) / (2**bits - 1)).to(dtype), (-low).to(dtype)
    integers = ((rows + shift.float()) / scale.float()).round_().clamp_(0, 2**bits - 1)
    return integers.to(torch.uint8), scale, shift


def pack_nf4(weight: torch.Tensor) -> PackedTensors:
    """bitsandbytes' normal floats in blocks of 64, whose scales are quantized in blocks of 256."""
    from bitsandbytes.functional import QuantState, get_4bit_type, quantize_4bit, quantize_blockwise

    if weight.is_cuda:
        packed, state = quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
        return {"weight": packed, **{f"weight.{name}": part for name, part in state.as_dict(packed=True).items()}}
    # On a CPU its 4 bits are PyTorch's work, in eight passes; its own kernel for 8 bits takes a third of the time.
    values = get_4bit_type("nf4", device=weight.device)
    code = values.repeat_interleave(16)  # each 16 times: the upper half of an index into these is one into the values
    packed = torch.empty(weight.numel() // 2, 1, dtype=torch.uint8)
    scales = torch.empty(-(-weight.numel() // 64))
    for start in range(0, weight.numel(), PIECE):
        piece = weight.view(-1)[start : start + PIECE]
        index, state = quantize_blockwise(piece, code, blocksize=64)
        index = index.view(-1, 2)
        packed[start // 2 : (start + PIECE) // 2, 0] = (index[:, 0] & 0xF0) | (index[:, 1] >> 4)
        scales[start // 64 : (start + PIECE) // 64] = state.absmax
    offset = scales.mean()
    absmax, nested = quantize_blockwise(scales - offset, blocksize=256)
    state: Any = QuantState(absmax, weight.shape, values, 64, "nf4", weight.dtype, offset, nested)
    return {"weight": packed, **{f"weight.{name}": part for name, part in state.as_dict(packed=True).items()}}


def nf4(linear: nn.Linear, parts: PackedTensors, dtype: torch.dtype) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    shape = (linear.in_features, linear.out_features)
    layer: Any = Linear4bit(*shape, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta")
    layer.support_avx512bf16_for_cpu = False  # or inference would repack the weights, and training fail on them
    stats, device = {name: part for name, part in parts.items() if name != "weight"}, str(parts["weight"].device)
    layer.weight = Params4bit.from_prequantized(parts["weight"], stats, device=device, module=layer)
    check_shape(layer.quant_state.shape, linear)
    layer.quant_state.dtype = dtype  # that it is expanded to
    return layer


def check_shape(shape: torch.Size, linear: nn.Linear) -> None:
    if shape != linear.weight.shape:
        raise ValueError(f"it is {tuple(shape)} where the configuration says {tuple(linear.weight.shape)}")


def pack_int8(weight: torch.Tensor) -> PackedTensors:
    """bitsandbytes' rows of 8 bits with a scale each."""
    from bitsandbytes.functional import int8_vectorwise_quant

    rows, scales, _ = int8_vectorwise_quant(weight.half())
    return {"weight": rows, "SCB": scales}


def int8(linear: nn.Linear, parts: PackedTensors) -> nn.Module:
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    shape = (linear.in_features, linear.out_features)
    layer = Linear8bitLt(*shape, bias=False, has_fp16_weights=False, threshold=6.0, device="meta")
    rows, scales = parts["weight"], parts["SCB"]
    check_shape(rows.shape, linear)
    layer.weight = Int8Params(rows, requires_grad=False, has_fp16_weights=False, CB=rows, SCB=scales)  # type: ignore
    return layer


class LinearScaled(nn.Linear):
    """A linear layer whose weight has few bits, and a scale for each row or group; it is expanded at each use."""

    weight_scale: torch.Tensor

    def __init__(self, linear: nn.Linear, parts: PackedTensors):
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        groups = parts["weight_scale"].numel() * parts["weight"].shape[1] // linear.in_features
        check_shape(torch.Size((groups, linear.in_features)), linear)
        self.weight = nn.Parameter(parts["weight"], requires_grad=False)
        for name in parts.keys() - {"weight"}:
            self.register_buffer(name, parts[name])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, weight_of(self, x.dtype))
        return y if self.bias is None else y + self.bias


class LinearFloat8(LinearScaled):
    """A linear layer whose product is one of 8-bit floats: the input's rows are scaled and rounded as they come. A GPU
    that has no such product (before compute capability 8.9) expands the weight and multiplies by that."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad or not multiplies_fp8(x.device):  # the product has no gradient
            return super().forward(x)
        rows, scales = in_fp8(x.reshape(-1, self.in_features))
        weight, others = self.weight.view(FLOAT8).t(), self.weight_scale.float().t()
        y = torch._scaled_mm(rows, weight, scales, others, out_dtype=x.dtype, use_fast_accum=True)
        y = y.view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias


@torch.compiler.assume_constant_result
def multiplies_fp8(device: torch.device) -> bool:
    return device.type == "cpu" or (device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9))


# ---- Expanding


def weight_of(layer: Any, dtype: torch.dtype, device: torch.device | None = None) -> torch.Tensor:
    """(out, in) the weight that a layer of any precision stands for, expanded to the dtype: what its own forward
    multiplies by. device: where it is wanted, if that is not where it lies; it travels unexpanded."""
    weight = layer.weight if device is None else layer.weight.to(device, non_blocking=True)
    if isinstance(layer, LinearScaled):
        scale, shift = layer.weight_scale, getattr(layer, "weight_shift", None)
        if shift is not None:
            return expanded(weight, scale, shift, dtype).view(layer.out_features, layer.in_features)
        return (weight.view(FLOAT8) if weight.dtype == torch.uint8 else weight).to(dtype).mul_(scale)
    if (state := getattr(weight, "quant_state", None)) is not None:  # bitsandbytes' 4 bits
        from bitsandbytes.functional import dequantize_blockwise

        if torch.compiler.is_compiling() and math.prod(state.shape) % state.blocksize == 0:
            return expanded_nf4(weight.data, state, dtype)
        scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
        return torch.ops.bitsandbytes.dequantize_4bit(weight.data, scales, 64, "nf4", state.shape, dtype)
    if weight.dtype == torch.int8:  # bitsandbytes' 8 bits; its first forward moves the scales
        scales = weight.SCB if weight.SCB is not None else layer.state.SCB
        return weight.data.to(dtype).mul_(scales.view(-1, 1) / 127)
    return weight.to(dtype)


def expanded_nf4(packed: torch.Tensor, state: Any, dtype: torch.dtype) -> torch.Tensor:
    """bitsandbytes' 4 bits in PyTorch's own operations, of which a compiler makes one kernel: theirs are two, each
    called by way of Python, which takes the host longer than a small step's products take a GPU."""
    blocks = torch.arange(len(state.absmax), device=packed.device)
    scales = state.state2.code[state.absmax.int()] * state.state2.absmax[blocks // state.state2.blocksize]
    halves = torch.stack([packed >> 4, packed & 15], -1)
    values = state.code[halves.int()].view(-1, state.blocksize) * (scales + state.offset).unsqueeze(1)
    return values.to(dtype).view(state.shape)


def expanded(packed: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Groups of packed integers as numbers; on a CPU in pieces that fit its cache."""
    count, parts = len(scale), len(scale) // len(packed)
    bits = 8 // parts
    values = torch.empty(count, packed.shape[1], dtype=dtype, device=packed.device)
    step = len(packed) if packed.is_cuda else max(1, 2**18 // packed.shape[1])
    for part in range(parts):
        for start in range(0, len(packed), step):
            rows = slice(part * len(packed) + start, part * len(packed) + min(start + step, len(packed)))
            whole = packed[start : start + step] >> part * bits & 2**bits - 1
            torch.mul(whole, scale[rows], out=values[rows]).sub_(shift[rows])
    return values
