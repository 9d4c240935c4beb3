"""The adapter's files beside the one that diffusers reads, what they say of themselves, and whether they hold.

ComfyUI, Forge and kohya's sd-scripts name FLUX's layers as its authors do, where one matrix gives queries, keys and
values together. An update of the three apart is one of that matrix, exactly: their downs on top of one another, their
ups along a diagonal, zeros beside them.

check_parity stands between training and "finished": a file is read by diffusers and laid on empty layers by PEFT, and
what it then adds is compared with what the trained layers add.
"""

import datetime
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from diffusers.loaders.peft import PeftAdapterMixin
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import nn

from impressionism.errors import UserError
from impressionism.files import write_atomic
from impressionism.lora_file import DOUBLE_BLOCK, SINGLE_BLOCK

Weights = dict[str, torch.Tensor]
Layers = dict[str, tuple[torch.Tensor, torch.Tensor, float]]  # of each layer A (rank, in), B (out, rank) and the scale

MLP_RATIO = 4  # a block's MLP is so many times as wide as the block
FLUX_WIDTH = 3072
LINEAR1_UP = "linear1.lora_up.weight"
PROBES = 4  # random inputs on which two updates are compared


# ---- Other names


def write_comfy(file: Path) -> Path:
    """Beside a file that diffusers reads, the same adapter for ComfyUI, Forge and kohya; named after the run."""
    with safe_open(file, framework="pt") as stored:
        facts = {key: value for key, value in (stored.metadata() or {}).items() if key.startswith("modelspec.")}
    weights = comfy(load_file(file))
    if facts:
        facts |= {"modelspec.implementation": "https://github.com/black-forest-labs/flux"}
        facts |= {"modelspec.hash_sha256": hash_of(weights)}
    name = file.parent.resolve().parent.name if file.parent.name == "adapter" else file.stem
    return write(weights, file.with_name(f"{name}_comfy.safetensors"), {"format": "pt", **facts})


def comfy(weights: Weights) -> Weights:
    """The same adapter under the names of FLUX's authors, with alpha equal to rank."""
    layers = {
        key.removeprefix("transformer.").removesuffix(".lora_A.weight"): (
            down,
            weights[key.replace("lora_A", "lora_B")],
        )
        for key, down in weights.items()
        if key.endswith(".lora_A.weight")
    }
    blocks = {match[0] for name in layers if (match := re.match(r"(single_)?transformer_blocks\.\d+", name))}
    renamed = {}
    for block in sorted(blocks):
        kind, index = block.split(".")
        own = ("single", SINGLE_BLOCK) if kind.startswith("single") else ("double", DOUBLE_BLOCK)
        for part, members in own[1].items():
            found = {member: layers.pop(f"{block}.{member}", None) for member in members}
            if any(pair is not None for pair in found.values()):
                renamed |= named(f"lora_unet_{own[0]}_blocks_{index}_{part}", *fused(found))
    if layers:
        raise UserError(f"There is no name for {next(iter(layers))} outside diffusers; train the blocks' layers only.")
    return renamed


def fused(found: dict[str, tuple[torch.Tensor, torch.Tensor] | None]) -> tuple[torch.Tensor, torch.Tensor]:
    """(rank, in) and (out, rank) of the one layer whose rows are those of the members; absent ones stay as they are."""
    present = [pair for pair in found.values() if pair is not None]
    width = present[0][0].shape[1]
    absent = {member: width * (MLP_RATIO if member == "proj_mlp" else 1) for member in found}
    rows = [absent[member] if pair is None else pair[1].shape[0] for member, pair in found.items()]
    up = present[0][1].new_zeros(sum(rows), sum(b.shape[1] for _, b in present))
    row = column = 0
    for pair, size in zip(found.values(), rows, strict=True):
        if pair is not None:
            up[row : row + size, column : column + pair[1].shape[1]] = pair[1]
            column += pair[1].shape[1]
        row += size
    return torch.cat([a for a, _ in present]), up


def named(layer: str, down: torch.Tensor, up: torch.Tensor) -> Weights:
    alpha = torch.tensor(float(len(down)))  # bfloat16 has no 301
    return {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up, f"{layer}.alpha": alpha}


# ---- What a file says of itself


def label(file: Path, *, title: str, **facts: str) -> Path:
    """Writes the ModelSpec's keys into an adapter's file: the title, and others of the standard such as author,
    description, license, resolution, trigger_phrase. Its tensors and its other metadata stay as they are."""
    with safe_open(file, framework="pt") as stored:
        metadata = stored.metadata() or {}
    weights = load_file(file)
    spec = {
        "sai_model_spec": "1.0.1",
        "architecture": "flux-1-dev/lora",
        "implementation": "diffusers",
        "title": title,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hash_sha256": hash_of(weights),
        **facts,
    }
    return write(weights, file, {**metadata, **{f"modelspec.{key}": value for key, value in spec.items()}})


def hash_of(weights: Weights) -> str:
    """Of a file's bytes after the header, as the ModelSpec asks."""
    data = save(weights)
    return f"0x{hashlib.sha256(data[8 + int.from_bytes(data[:8], 'little') :]).hexdigest()}"


def write(weights: Weights, file: Path, metadata: dict[str, str]) -> Path:
    tensors = {key: tensor.contiguous() for key, tensor in weights.items()}
    return write_atomic(file, lambda partial: save_file(tensors, partial, metadata))


# ---- Whether it holds


@torch.no_grad()
def check_parity(layers: Layers, file: Path) -> float:
    """The largest relative difference between the trained layers' updates and what the file adds once diffusers has
    loaded it; refuses a file that differs by more than the rounding of its numbers."""
    weights, alphas, metadata = read(file)
    weights = {key: tensor for key, tensor in weights.items() if path_of(key) in layers or changes(weights, key)}
    if strange := {path_of(key) for key in weights} - layers.keys():
        raise UserError(f"{file.name} changes {min(strange)}, which was not trained; report this.")
    if missing := [name for name in layers if f"transformer.{name}.lora_B.weight" not in weights]:
        raise UserError(f"{file.name} lacks the update of {missing[0]}; the run's last checkpoint still has it.")
    model: Any = Skeleton(layers)
    try:
        FluxPipeline.load_lora_into_transformer(
            weights, alphas, model, adapter_name="again", metadata=metadata, low_cpu_mem_usage=True
        )
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"diffusers cannot load {file.name} again: {error}") from error
    loaded = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    worst = 0.0
    for name, layer in layers.items():
        again: Any = loaded[name]
        a, b = (part["again"].weight for part in (again.lora_A, again.lora_B))
        error = difference(layer, (a, b, again.scaling["again"]))
        if (
            not error <= torch.finfo(weights[f"transformer.{name}.lora_B.weight"].dtype).eps
        ):  # and not if it is no number
            raise UserError(
                f"{file.name}, read again, differs from what was trained at {name} by {error:.2g} of its size, more "
                "than rounding would; the run's last checkpoint still has it."
            )
        worst = max(worst, error)
    return worst


def difference(trained: tuple[Any, Any, float], loaded: tuple[Any, Any, float]) -> float:
    """Of two updates scale · B A, on random inputs, relative to the terms that the products sum: what rounding A and
    B can make of them is then the rounding of one number, however much of the terms cancels out."""
    (a, b, scale), (a2, b2, scale2) = ((a.cpu().double(), b.cpu().double(), scale) for a, b, scale in (trained, loaded))
    x = torch.randn(a.shape[1], PROBES, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    h = a @ x
    size = scale * (b.square() @ (h.square() + a.square() @ x.square())).sum().sqrt()
    difference = scale * (b @ h) - scale2 * (b2 @ (a2 @ x))
    return (difference.norm() / size.clamp(min=torch.finfo(torch.double).tiny)).item()


def path_of(key: str) -> str:
    return key.removeprefix("transformer.").split(".lora_")[0]


def changes(weights: Weights, key: str) -> bool:
    """Whether a layer's update is anything but zero: those beside a fused layer's trained members are zero."""
    return bool(weights.get(f"transformer.{path_of(key)}.lora_B.weight", torch.ones(1)).any())


class Skeleton(PeftAdapterMixin, nn.Module):
    """A transformer of the adapted layers alone, all zero; diffusers puts an adapter on it as on a whole one."""

    def __init__(self, layers: Layers):
        super().__init__()
        for name, (a, b, _) in layers.items():
            layer = nn.Linear(a.shape[1], b.shape[0], bias=False, device="meta")
            layer.weight = nn.Parameter(torch.zeros(()).expand(layer.weight.shape), requires_grad=False)  # four bytes
            *path, leaf = name.split(".")
            grow(self, path).add_module(leaf, layer)


def grow(module: nn.Module, path: Iterable[str]) -> nn.Module:
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    return module


def read(file: Path) -> tuple[Weights, Any, Any]:
    """Tensors, alphas and metadata as FluxPipeline.load_lora_weights takes them from a file.

    Its converter has the width of FLUX.1 written into it; a smaller model's linear1 passes through at that size.
    """
    options = {"return_alphas": True, "return_lora_metadata": True}
    stored = load_file(file)
    width = next((len(up) // (3 + MLP_RATIO) for key, up in stored.items() if key.endswith(LINEAR1_UP)), FLUX_WIDTH)
    if width == FLUX_WIDTH:
        return FluxPipeline.lora_state_dict(
            str(file.parent), weight_name=file.name, use_safetensors=True, local_files_only=True, **options
        )  # type: ignore[return-value]
    wide = {key: resized(up, width, FLUX_WIDTH) if key.endswith(LINEAR1_UP) else up for key, up in stored.items()}
    weights, alphas, metadata = FluxPipeline.lora_state_dict(wide, **options)  # type: ignore[misc]
    linear1 = re.compile(rf".*single_transformer_blocks\.\d+\.({'|'.join(SINGLE_BLOCK['linear1'])})\.lora_B\.weight")
    narrow = {key: resized(up, FLUX_WIDTH, width) if linear1.fullmatch(key) else up for key, up in weights.items()}
    return narrow, alphas, metadata


def resized(up: torch.Tensor, width: int, new: int) -> torch.Tensor:
    """(n · width, rank) with each of its n parts cut, or filled with zeros, to the new width."""
    parts = up.view(-1, width, up.shape[1])
    result = parts.new_zeros(len(parts), new, up.shape[1])
    result[:, : min(width, new)] = parts[:, : min(width, new)]
    return result.view(-1, up.shape[1])
