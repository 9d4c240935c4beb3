"""The transformer with quantized weights, read tensor by tensor, so that it never exists in full precision.

nf4 and int8 are bitsandbytes' on CUDA, nf4 on a CPU too; int8 on a CPU, int4 and int2 are quanto's. Diffusers
itself refuses a BitsAndBytesConfig without a GPU. Only the linear layers inside the blocks are quantized: the
layers at both ends are small and sensitive. PEFT puts LoRA on the result and trains it.
"""

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

import torch
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel
from safetensors import SafetensorError, safe_open
from torch import nn

from impressionism.hub import PainterError, folder_of

Mode = Literal["none", "int8", "nf4", "int4", "int2"]
MODES: tuple[Mode, ...] = get_args(Mode)
BLOCKS = ("transformer_blocks.", "single_transformer_blocks.")
FILES = ["transformer/*.json", "transformer/*.safetensors"]


def load_transformer(
    folder_or_repo: str | Path,
    *,
    revision: str | None = None,
    quantize: str = "none",
    dtype: torch.dtype,
    device: str | torch.device,
) -> FluxTransformer2DModel:
    """The frozen transformer of a pipeline's folder or Hub repository, unquantized parts in the dtype."""
    if quantize not in MODES:
        raise PainterError(f"There is no quantization {quantize}; there are {', '.join(MODES)}.")
    folder = folder_of(folder_or_repo, revision, FILES) / "transformer"
    device = torch.device(device)
    if not (folder / "config.json").is_file():
        raise PainterError(f"{folder_or_repo} is no FLUX model's folder: it has no transformer/config.json.")
    with init_empty_weights(include_buffers=False):  # buffers are computed, not stored
        config: Any = FluxTransformer2DModel.load_config(folder)
        model: Any = FluxTransformer2DModel.from_config(config)
    for name, tensor in tensors(folder):
        place(model, name, tensor, quantize, dtype, device)
    if missing := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise PainterError(f"The transformer in {folder} lacks {len(missing)} tensors, the first is {missing[0]}.")
    model.is_loaded_in_4bit = quantize == "nf4"  # PEFT asks for these two before it looks at a layer
    model.is_loaded_in_8bit = quantize == "int8" and device.type == "cuda"
    return model.requires_grad_(False).eval()


def tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of every shard, one at a time; the files are memory-mapped."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise PainterError(f"There are no .safetensors files in {folder}; other formats are not read.")
    for file in files:
        try:
            shard = safe_open(file, framework="pt")
        except SafetensorError as error:
            raise PainterError(f"{file.name} is not a safetensors file, whatever its name says.") from error
        with shard:
            for name in shard.keys():  # noqa: SIM118 - it is no dict
                yield name, shard.get_tensor(name)


def place(
    model: nn.Module, name: str, tensor: torch.Tensor, quantize: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Puts one stored tensor where it belongs in the model, quantized if it is a block's linear weight."""
    path, _, leaf = name.rpartition(".")
    try:
        module = model.get_submodule(path)
        expected = getattr(module, leaf).shape
    except AttributeError as error:
        raise PainterError(f"{name} has no place in a FLUX transformer of this configuration.") from error
    if tensor.shape != expected:
        raise PainterError(f"{name} is {tuple(tensor.shape)} where the configuration says {tuple(expected)}.")
    tensor = tensor.to(device, dtype)
    if quantize != "none" and leaf == "weight" and isinstance(module, nn.Linear) and path.startswith(BLOCKS):
        model.set_submodule(path, quantized(module, tensor, quantize, dtype))
        del tensor
        give_back_memory()
    else:
        setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))


def give_back_memory() -> None:
    """Without this, glibc keeps most of the freed full-precision weights for itself."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def quantized(linear: nn.Linear, weight: torch.Tensor, quantize: str, dtype: torch.dtype) -> nn.Module:
    """The same layer around a quantized copy of the weight; its bias stays as it is."""
    if quantize == "nf4":
        layer = nf4(linear, weight, dtype)
    elif quantize == "int8" and weight.is_cuda:
        layer = int8(linear, weight)
    else:
        layer = quanto(linear, weight, f"q{quantize}", dtype)
    layer.bias = linear.bias
    return layer


def nf4(linear: nn.Linear, weight: torch.Tensor, dtype: torch.dtype) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    layer = Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=False,
        compute_dtype=dtype,
        quant_type="nf4",
        device="meta",
    )
    layer.support_avx512bf16_for_cpu = False  # or inference would repack the weights, and training fail on them
    parameter = Params4bit(weight, quant_type="nf4", compress_statistics=True, module=layer)  # type: ignore
    layer.weight = parameter.to(weight.device)  # quantizes
    return layer


def int8(linear: nn.Linear, weight: torch.Tensor) -> nn.Module:
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    layer = Linear8bitLt(
        linear.in_features,
        linear.out_features,
        bias=False,
        has_fp16_weights=False,
        threshold=6.0,
        device="meta",
    )
    parameter = Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)  # type: ignore
    layer.weight = parameter.to(weight.device)  # quantizes
    return layer


def quanto(linear: nn.Linear, weight: torch.Tensor, qtype: str, dtype: torch.dtype) -> nn.Module:
    from optimum.quanto.library import get_extension, is_extension_available
    from optimum.quanto.nn import QLinear

    for extension in filter(is_extension_available, ("quanto_cpp", "quanto_cuda")):
        # Quanto would compile its unpacking on first use, which takes minutes and a compiler.
        get_extension(extension)._lib = SimpleNamespace(unpack=unpack)
    layer = QLinear(
        linear.in_features, linear.out_features, bias=False, dtype=dtype, device=torch.device("meta"), weights=qtype
    )
    layer.input_scale = layer.output_scale = torch.ones((), dtype=dtype, device=weight.device)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.freeze()
    return layer


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 values that each hold two or four smaller ones, as one tensor of the smaller ones."""
    return torch.cat([packed >> shift & (2**bits - 1) for shift in range(0, 8, bits)])


def weight_of(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """(out, in) the weight that a layer of any precision stands for, expanded to the dtype."""
    weight = layer.weight
    if (state := getattr(weight, "quant_state", None)) is not None:  # bitsandbytes' 4 bits
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, state).to(dtype)
    if (scales := getattr(weight, "SCB", None)) is not None:  # bitsandbytes' 8 bits: a scale a row
        return (weight.data.to(dtype) * (scales.view(-1, 1) / 127).to(dtype)).to(dtype)
    expanded = weight.dequantize() if hasattr(weight, "_scale") else weight  # quanto's
    return expanded.to(dtype)
