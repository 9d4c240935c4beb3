"""Adapters made by anyone: a file in any tool's layout becomes updates of FLUX's layers, or a sentence says why not.

Tools differ in what they call a layer (diffusers by its place, FLUX's authors, ComfyUI and kohya by theirs, XLabs by
its processor), in which layers they fuse, and in where they write alpha. diffusers reads most of these, but it passes
over names that it does not know, loses alpha in some layouts, and has the width of FLUX.1 written into it. So they are
read here, and the tests hold the result against diffusers' where that is right.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.loaders.lora_conversion_utils import swap_scale_shift
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from torch import nn

from impressionism import names
from impressionism.errors import UserError
from impressionism.hub import folder_of

# FLUX's own layers, and diffusers' that each is made of, in the order of their rows.
QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
ADDED_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
DOUBLE_BLOCK = {
    "img_attn_qkv": QKV,
    "img_attn_proj": ("attn.to_out.0",),
    "img_mlp_0": ("ff.net.0.proj",),
    "img_mlp_2": ("ff.net.2",),
    "img_mod_lin": ("norm1.linear",),
    "txt_attn_qkv": ADDED_QKV,
    "txt_attn_proj": ("attn.to_add_out",),
    "txt_mlp_0": ("ff_context.net.0.proj",),
    "txt_mlp_2": ("ff_context.net.2",),
    "txt_mod_lin": ("norm1_context.linear",),
}
SINGLE_BLOCK = {
    "linear1": (*QKV, "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation_lin": ("norm.linear",),
}
XLABS_DOUBLE_BLOCK = {
    "processor_qkv_lora1": QKV,
    "processor_proj_lora1": ("attn.to_out.0",),
    "processor_qkv_lora2": ADDED_QKV,
    "processor_proj_lora2": ("attn.to_add_out",),
}
XLABS_SINGLE_BLOCK = {"processor_qkv_lora": QKV, "processor_proj_lora": ("proj_out",)}
SHIFT_FIRST = "final_layer_adaLN_modulation_1"  # FLUX's rows are shift, scale; diffusers' scale, shift
OUTSIDE_BLOCKS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in_in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in_out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in_in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in_out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in_in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in_out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer_linear": "proj_out",
    SHIFT_FIRST: "norm_out.linear",
}

# transformer.x.lora_A.weight, lora_unet_x.lora_down.weight, x.processor.y.down.weight, x.lora_A.default.weight …
PREFIXES = re.compile(r"(base_model\.model\.|model\.|diffusion_model\.|transformer\.|lora_unet_|lora_transformer_)+")
SIDE = re.compile(r"(.+?)\.(?:lora_|lora\.|lora_linear_layer\.)?(A|B|down|up)(?:(?:\.\w+)?\.weight)?")
ALPHA = re.compile(r"(.+?)(?:\.lora(?:_A|_B|_down)?(?:\.weight)?)?\.alpha")
PARTS = {"A": "down", "down": "down", "B": "up", "up": "up"}
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
OTHER_KINDS = {
    "dora_scale": "DoRA, whose update has no strength",
    "lora_magnitude": "DoRA, whose update has no strength",
    "lokr_": "LoKr, whose update is no product of two small matrices",
    "hada_": "LoHa, whose update is no product of two small matrices",
}


class Update(NamedTuple):
    """What an adapter adds to a layer's weight: scale · up @ down."""

    down: torch.Tensor
    """(rank, in)"""
    up: torch.Tensor
    """(out, rank)"""
    scale: float


Linears = Mapping[str, nn.Linear]
"""A transformer's linear layers by their paths, quantized ones too."""


# ---- Which file


def find_adapter(source: str, revision: str | None) -> Path:
    """The adapter's one file: safetensors, because a pickle can run code."""
    path = Path(source)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UserError(f"{path.name} is not a .safetensors file; pickles can run code and are never opened.")
        return path
    without = "paint without it: --adapter none"
    if source == names.ADAPTER:  # the published file, whatever else is there
        published = folder_of(source, revision, [names.ADAPTER_FILE], without) / names.ADAPTER_FILE
        if published.exists():
            return published
    usual = (names.WEIGHTS_FILE, names.ADAPTER_FILE, PEFT_FILE)
    folder = folder_of(source, revision, [*usual, PEFT_CONFIG], without)
    if not path.is_dir() and not any((folder / name).exists() for name in usual):
        folder = folder_of(source, revision, ["*.safetensors"], without)
    return only_adapter(folder, source, usual)


def only_adapter(folder: Path, source: str, usual: tuple[str, ...]) -> Path:
    for name in usual:
        if (folder / name).exists():
            return folder / name
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{source} has several adapters: {', '.join(file.name for file in found)}; name one file.")
    others = ", ".join(sorted(file.name for file in folder.glob("*")))  # of the Hub's files only what was wanted
    raise UserError(f"{source} holds no .safetensors adapter{f'; it has {others}' if others else ''}.")


# ---- What it changes


def read_adapter(file: Path, linears: Linears) -> dict[str, Update]:
    """The update of each layer that the adapter changes, by the layer's path.

    Raises UserError where any of it has no place in the transformer, is damaged, or is no plain LoRA.
    """
    tensors, metadata = open_file(file)
    parts = by_layer(file.name, tensors)
    known, config = known_names(linears), config_of(file, tensors, metadata)
    updates: dict[str, Update] = {}
    for theirs, part in parts.items():
        plain = PREFIXES.sub("", theirs, count=1)
        if (paths := known.get(plain.replace(".", "_"))) is None:
            if "up" in part and not part["up"].any():
                continue  # kohya's tools also write what was not trained
            raise UserError(f"{file.name} {misfit(theirs, plain, metadata)}.")
        check(file.name, plain, part, paths, linears)
        if twice := updates.keys() & paths:
            raise UserError(f"{file.name} changes {min(twice)} twice, under two names; save it in one layout.")
        updates |= apart(plain, part, scale_of(plain, part, config), paths, linears)
    if not parts:
        raise UserError(f"{file.name} holds no LoRA tensors.")
    return updates


def open_file(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors, at least 16 bits each, and the metadata."""
    try:
        with safe_open(file, framework="pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118  (it is no dict)
            metadata = stored.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{file.name} {no_safetensors(file)}.") from error
    return {key: it.bfloat16() if it.element_size() == 1 else it for key, it in tensors.items()}, metadata


def no_safetensors(file: Path) -> str:
    with file.open("rb") as stream:
        head = stream.read(64)
    if not head:
        return "is empty: download it again"
    if head.startswith((b"PK", b"\x80")):
        return "is not a safetensors file but a pickle, which can run code and is never opened"
    if head.startswith(b"version https://git-lfs"):
        return "is only Git LFS's pointer to the file: run `git lfs pull` where it comes from"
    if head.lstrip().startswith(b"<"):
        return "is a web page: download the file itself"
    if head[8:9] == b"{":
        return "is cut off: download it again"
    return "is not a safetensors file, whatever its name says"


def by_layer(name: str, tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """down, up and alpha of each layer, as the file calls it."""
    parts: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        if kind := next((kind for mark, kind in OTHER_KINDS.items() if mark in key), None):
            raise UserError(f"{name} is a {kind}; train a plain LoRA.")
        if match := SIDE.fullmatch(key):
            parts[match[1]][PARTS[match[2]]] = tensor
        elif match := ALPHA.fullmatch(key):
            parts[match[1]]["alpha"] = tensor
        elif tensor.any():  # kohya's tools write biases and norms that are all zero
            raise UserError(f"{name} holds {key}, which is no LoRA tensor of FLUX's transformer.")
    return parts


def known_names(linears: Linears) -> dict[str, tuple[str, ...]]:
    """Each layer's paths by the names that tools give it, underscores for dots."""
    known: dict[str, tuple[str, ...]] = {path.replace(".", "_"): (path,) for path in linears}
    blocks = {match[0] for path in linears if (match := re.match(r"(single_)?transformer_blocks\.\d+", path))}
    for block in blocks:
        kind, index = block.split(".")
        single = kind.startswith("single")
        table = SINGLE_BLOCK | XLABS_SINGLE_BLOCK if single else DOUBLE_BLOCK | XLABS_DOUBLE_BLOCK
        for part, members in table.items():
            theirs = f"{'single' if single else 'double'}_blocks_{index}_{part}"
            known[theirs] = tuple(f"{block}.{member}" for member in members)
    return known | {theirs: (path,) for theirs, path in OUTSIDE_BLOCKS.items() if path in linears}


def misfit(theirs: str, plain: str, metadata: dict[str, str]) -> str:
    """Why a layer of the file has no place here."""
    if theirs.startswith(("text_encoder", "lora_te")):
        return "also changes the text encoder, which strength could not undo; train without"
    model = metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version")
    return f"was trained for another model{f' ({model})' if model else ''}: this one has no linear layer {plain}"


def check(name: str, plain: str, part: dict[str, torch.Tensor], paths: tuple[str, ...], linears: Linears) -> None:
    """Both sides are there and fit each other and the layers."""
    if not {"down", "up"} <= part.keys():
        raise UserError(f"{name} is incomplete: {plain} has only one of lora_A and lora_B.")
    down, up = part["down"], part["up"]
    widths = {"A": linears[paths[0]].in_features, "B": sum(linears[path].out_features for path in paths)}
    for side, matrix, axis in (("A", down, 1), ("B", up, 0)):
        if matrix.ndim != 2 or matrix.shape[axis] != widths[side]:
            found = matrix.shape[axis] if matrix.ndim > axis else matrix.numel()
            raise UserError(
                f"{name} was trained for another model: at {plain} lora_{side} has {found} features where this model "
                f"has {widths[side]}."
            )
    if len(down) != up.shape[1]:
        raise UserError(f"{name} is damaged: at {plain} lora_A has rank {len(down)}, lora_B {up.shape[1]}.")
    if not all(tensor.isfinite().all() for tensor in part.values()):
        raise UserError(f"{name} holds numbers that are not finite, at {plain}: its training diverged.")
    if part.get("alpha", down[0, 0]).numel() != 1:
        raise UserError(f"{name} is damaged: at {plain} alpha is no number.")


def apart(
    plain: str, part: dict[str, torch.Tensor], scale: float, paths: tuple[str, ...], linears: Linears
) -> Iterator[tuple[str, Update]]:
    """The updates of the layers that a fused one is made of; ranks that a member does not use are left out."""
    down, up = part["down"], part["up"]
    if plain.replace(".", "_") == SHIFT_FIRST:
        up = swap_scale_shift(up)
    if len(paths) == 1:
        yield paths[0], Update(down, up, scale)
        return
    for path, rows in zip(paths, up.split([linears[path].out_features for path in paths]), strict=True):
        used = rows.any(dim=0)
        if used.any():
            yield path, Update(down[used], rows[:, used], scale)


# ---- How strongly


def config_of(file: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> dict[str, Any]:
    """PEFT's configuration, from the metadata or from the file that PEFT writes beside its own."""
    pefts_own = any(key.startswith("base_model.model.") and "transformer_blocks." in key for key in tensors)
    beside = file.with_name(PEFT_CONFIG)
    try:
        if "lora_adapter_metadata" in metadata:
            config = json.loads(metadata["lora_adapter_metadata"])
        elif pefts_own:
            config = json.loads(beside.read_text(encoding="utf-8"))
        else:
            return {}
        return {key.removeprefix("transformer."): value for key, value in config.items()}
    except FileNotFoundError as error:
        raise UserError(f"{file.name} needs PEFT's {PEFT_CONFIG} beside it, which says its alpha.") from error
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file.name}: the configuration that says its alpha cannot be read ({error}).") from error


def scale_of(plain: str, part: dict[str, torch.Tensor], config: dict[str, Any]) -> float:
    """alpha / rank, 1 where there is no alpha; a tensor speaks for its own layer, before the configuration."""
    rank = len(part["down"])
    if "alpha" in part:
        return float(part["alpha"]) / rank
    patterns: dict[str, float] = config.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(list(patterns), plain), config.get("lora_alpha"))
    if alpha is None:
        return 1.0
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
