"""Adapters made by anyone: a file in any tool's layout becomes updates of FLUX's layers, or a sentence says why not.

Tools differ in what they call a layer (diffusers by its place, FLUX's authors, ComfyUI and kohya by theirs, XLabs by
its processor), in which layers they fuse, and in where they write alpha. diffusers reads most of these, but it passes
over names that it does not know, loses alpha in some layouts, and has the width of FLUX.1 written into it. So they are
read here, and the tests hold the result against diffusers' where that is right.
"""

import datetime
import glob
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from diffusers.loaders.lora_conversion_utils import swap_scale_shift
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized
from safetensors.torch import save_file
from torch import nn

from impressionism import names
from impressionism.errors import UserError, readable_errors
from impressionism.files import write_atomic
from impressionism.hub import commit_of, digest_of, folder_of
from impressionism.lora import Update
from impressionism.records import LIMITS, within

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

# What programs that wrap a model write into its layers' names, anywhere: compilers, FSDP, gradient checkpointing.
WRAPPERS = re.compile(r"_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)(?=_|$)")
# What may stand before a layer outside the blocks. A block's layer, whose name says more, may have any prefix without
# digits (they would be another block's) or a text encoder's name.
PREFIX = re.compile(r"(base|model|module|diffusion|transformer|lora|unet|dit|flux|net|pipe|_)+_")
# transformer.x.lora_A.weight, lora_unet_x.lora_down.weight, x.processor.y.down.weight, x.lora_A.default.weight …
SIDE = re.compile(
    r"(.+?)(?:\.(?:lora_|lora\.|lora_linear_layer\.)|_lora_)(A|B|down|up)(?:\.(?!bias$)\w+)??(?:\.weight)?"
)
XLABS_SIDE = re.compile(r"(.+?)\.(down|up)\.weight")
ALPHA = re.compile(r"(.+?)(?:\.lora(?:_A|_B|_down)?(?:\.weight)?)?\.alpha")
PARTS = {"A": "down", "down": "down", "B": "up", "up": "up"}
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
MOST_FRONT_MATTER = 100_000  # characters of a model card that are looked at
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
USUAL_NAMES = (names.WEIGHTS_FILE, names.ADAPTER_FILE, PEFT_FILE)
OTHER_KINDS = {
    "dora_scale": "DoRA, whose update has no strength",
    "lora_magnitude": "DoRA, whose update has no strength",
    "lokr_": "LoKr, whose update is no product of two small matrices",
    "hada_": "LoHa, whose update is no product of two small matrices",
}


MLP_RATIO = 4  # a block's MLP is so many times as wide as the block
PROBES = 4  # random inputs on which two updates are compared

Layout = Literal["diffusers", "comfy"]
Matrices = tuple[torch.Tensor, torch.Tensor]  # A (rank, in) and B (out, rank) with the scale folded into it
Linears = Mapping[str, nn.Linear]
"""A transformer's linear layers by their paths, quantized ones too."""


@dataclass(frozen=True)
class AdapterInfo:
    """What an adapter says of itself, in its file's header or in the model card beside it."""

    name: str
    """Hub id, folder or file name."""
    revision: str
    """Commit on the Hub, or a digest of the file."""
    key: str
    """The name of its updates in the transformer's layers."""
    title: str | None = None
    trigger: str | None = None
    """The phrase with which most of its captions began."""
    recommended_strength: float = names.DEFAULT_STRENGTH
    base: str | None = None
    """The model that it was trained on, where it says so."""
    license: str | None = None
    steps: int | None = None
    """An accelerator's denoising steps."""
    guidance: float | None = None
    """An accelerator's guidance."""


# ---- What a file says of itself


def read_info(file: Path, name: str, key: str) -> AdapterInfo:
    """Reads the header and the model card beside the file; what cannot be read there is left out."""
    metadata, card = open_file(file, weights=False)[1], read_card(file.with_name("README.md"))
    spec = {field.removeprefix("modelspec."): value for field, value in metadata.items()}
    hint = re.search(r"[Ss]trength (-?\d+(?:\.\d+)?)", spec.get("usage_hint", ""))
    strengths = map(number, (spec.get("recommended_strength"), card.get("recommended_strength"), hint and hint[1]))
    return AdapterInfo(
        name=name,
        revision=commit_of(file) or digest_of(file),
        key=key,
        title=spec.get("title"),
        trigger=spec.get("trigger_phrase") or text_or_none(card.get("instance_prompt")),
        recommended_strength=next(
            (it for it in strengths if it is not None and within(it, *LIMITS["strength"])), names.DEFAULT_STRENGTH
        ),
        base=text_or_none(card.get("base_model")) or spec.get("architecture"),
        license=spec.get("license") or text_or_none(card.get("license_name") or card.get("license")),
        steps=int(number(metadata.get("impressionism.steps")) or 0) or None,
        guidance=number(metadata.get("impressionism.guidance")),
    )


def read_card(card: Path) -> dict[str, Any]:
    """The front matter of a model card; empty where there is none that can be read."""
    try:
        with card.open(encoding="utf-8") as lines:
            text = lines.read(MOST_FRONT_MATTER)
        front = text.split("---\n", 2)[1] if text.startswith("---\n") else ""
        found = None if re.search(r"[&*]\w", front) else yaml.safe_load(front)  # an anchor could name itself often
    except (OSError, ValueError, IndexError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def number(value: Any) -> float | None:
    """A finite number, also one that is written as text."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


# ---- Which file


def parse_source(source: str, revision: str | None = None) -> tuple[str, str | None, str | None]:
    """The repository or local path, the file within the repository, and the revision that an adapter's name means.

    It may be a local path, `owner/name`, `owner/name/file.safetensors`, each with `@revision`, or an address on the
    Hub such as https://huggingface.co/owner/name/blob/main/file.safetensors."""
    if Path(source).exists():
        if revision:
            raise UserError(f"{source} is on this machine and has no revision {revision}; leave it out.")
        return source, None, None
    if address := re.fullmatch(
        r"https?://[^/]+/([\w.-]+/[\w.-]+?)(?:/(?:blob|resolve|tree)/([^/?]+)(/[^?]+)?)?/?(?:\?.*)?", source
    ):
        repository, at, file = address.groups()
        return repository, (file and file.strip("/")) or None, revision or at
    if named := re.fullmatch(r"([\w.-]+/[\w.-]+)((?:/[^/@]+)*)(?:@([\w./-]+))?", source):
        repository, file, at = named[1], named[2].strip("/") or None, named[3]
        local = repository.startswith(".") or repository.endswith(PICKLES + (".safetensors",))
        if not local and (file is None or file.endswith(".safetensors")):
            return repository, file, revision or at
    raise UserError(
        f"There is no file or folder {source} here, "
        "and it is no adapter on the Hub either (owner/name or owner/name/file.safetensors)."
    )


def find_adapter(source: str, revision: str | None) -> Path:
    """The adapter's one file: safetensors, because a pickle can run code. Of a Hub repository, the files are listed
    before any is fetched."""
    place, file, revision = parse_source(source, revision)
    path = Path(place)
    if path.is_dir():
        return path / choose_file([found.name for found in sorted(path.iterdir()) if found.is_file()], source)
    if path.exists():
        if path.suffix != ".safetensors":
            raise UserError(f"{path.name} is not a .safetensors file; pickles can run code and are never opened.")
        if not path.is_file():
            raise UserError(f"{path.name} is not a file on a disk; save the adapter as a file.")
        return path
    without = "paint without it: --adapter none"
    listed = list_files(place, revision, without)
    if listed is None:  # the Hub cannot be asked, but the cache may have what it needs
        folder = folder_of(place, revision, [glob.escape(file)] if file else ["*.safetensors", PEFT_CONFIG], without)
        return folder / (file or choose_file([found.name for found in sorted(folder.iterdir())], source))
    if file is None:
        file = choose_file(listed, source)
    elif file not in listed:
        raise UserError(f"{place} has no file {file}; it has {', '.join(listed)}.")
    beside = [Path(file).with_name(name).as_posix() for name in (PEFT_CONFIG, "README.md")]
    return folder_of(place, revision, [glob.escape(name) for name in (file, *beside)], without) / file


def list_files(repository: str, revision: str | None, instead: str) -> list[str] | None:
    """The names of a repository's files; none where the Hub cannot be asked now."""
    from huggingface_hub import HfApi, errors

    refusals = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
    with readable_errors(repository, revision, instead):
        try:
            info = HfApi().model_info(repository, revision=revision)
        except refusals:
            raise
        except (errors.HfHubHTTPError, errors.HTTPError, errors.OfflineModeIsEnabled, ConnectionError):
            return None
    return sorted(file.rfilename for file in info.siblings or [])


def choose_file(listed: list[str], source: str) -> str:
    """The adapter among the names of a folder's files: one of the usual names, the only one, or the final one where
    the others are its numbered checkpoints, as ai-toolkit and kohya's tools write them."""
    found = [name for name in listed if name.endswith(".safetensors") and not name.startswith(".") and "/" not in name]
    published = [names.ADAPTER_FILE] if source == names.ADAPTER else []
    for name in (*published, *USUAL_NAMES):
        if name in found:
            return name
    numbered = {
        name: match
        for name in found
        if (match := re.fullmatch(r"(.+?)[-_](?:step|epoch|e|s)?[-_]?(\d+)\.safetensors", name))
    }
    final = [name for name in found if name not in numbered or f"{numbered[name][1]}.safetensors" not in found]
    if len(final) > 1 and len(final) == len(numbered) and len({match[1] for match in numbered.values()}) == 1:
        return max(final, key=lambda name: int(numbered[name][2]))
    if len(final) == 1:
        return final[0]
    if final:
        raise UserError(
            f"{source} has several adapters: {', '.join(final)}; name one, as in {source.rstrip('/')}/{final[0]}."
        )
    others = ", ".join(name for name in listed if "/" not in name and not name.startswith("."))
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
        plain = plain_name(theirs, known)
        if (paths := known.get(plain)) is None:
            if "up" in part and not part["up"].any():
                continue  # kohya's tools also write what was not trained
            raise UserError(f"{file.name} {misfit(theirs, metadata)}.")
        plain = paths[0] if len(paths) == 1 else plain
        check(file.name, plain, part, paths, linears, metadata)
        if twice := updates.keys() & paths:
            raise UserError(f"{file.name} changes {min(twice)} twice, under two names; save it in one layout.")
        updates |= split_fused(theirs, part, scale_of(file.name, plain, part, config), paths, linears)
    if not parts:
        raise UserError(f"{file.name} holds no LoRA tensors.")
    return updates


def open_file(file: Path, weights: bool = True) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors, at least 16 bits each, and the metadata."""
    try:
        with safe_open(file, framework="pt") as stored:
            keys = stored.keys() if weights else ()
            tensors = {key: stored.get_tensor(key) for key in keys}
            metadata = stored.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{file.name} {no_safetensors(file)}.") from error
    small = {key: it for key, it in tensors.items() if it.is_floating_point() and it.element_size() == 1}
    return tensors | {key: it.bfloat16() for key, it in small.items()}, metadata


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
        if match := SIDE.fullmatch(key) or XLABS_SIDE.fullmatch(key):
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


def plain_name(theirs: str, known: Mapping[str, Any]) -> str:
    """The known name that a file's name for a layer ends with, without what wraps or precedes it."""
    flat = re.sub("_+", "_", WRAPPERS.sub("", theirs.replace(".", "_"))).strip("_")
    for start in (0, *(match.end() for match in re.finditer("_", flat))):  # the longest first
        before, name = flat[:start], flat[start:]
        if name not in known:
            continue
        in_block = re.search(r"blocks_\d+_", name)
        if not before or PREFIX.fullmatch(before):
            return name
        if in_block and not re.search(r"\d|text|(^|_)te(_|$)", before):
            return name
    return flat


def misfit(theirs: str, metadata: dict[str, str]) -> str:
    """Why a layer of the file has no place here."""
    if theirs.startswith(("text_encoder", "lora_te")):
        return "also changes the text encoder, which strength could not undo; train without"
    return f"{another_model(metadata)}: this one has no linear layer {theirs}"


def another_model(metadata: dict[str, str]) -> str:
    """Said only where the file names the model."""
    model = metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version")
    return f"was trained for another model ({model})" if model else "does not fit this model"


def check(
    name: str,
    plain: str,
    part: dict[str, torch.Tensor],
    paths: tuple[str, ...],
    linears: Linears,
    metadata: dict[str, str],
) -> None:
    """Both sides are there and fit each other and the layers."""
    if not {"down", "up"} <= part.keys():
        raise UserError(f"{name} is incomplete: {plain} has only one of lora_A and lora_B.")
    down, up = part["down"], part["up"]
    widths = {"A": linears[paths[0]].in_features, "B": sum(linears[path].out_features for path in paths)}
    for side, matrix, axis in (("A", down, 1), ("B", up, 0)):
        if matrix.ndim != 2 or matrix.shape[axis] != widths[side]:
            found = matrix.shape[axis] if matrix.ndim > axis else matrix.numel()
            raise UserError(
                f"{name} {another_model(metadata)}: at {plain} lora_{side} has {found} features where this model "
                f"has {widths[side]}."
            )
        if not matrix.is_floating_point():
            raise UserError(f"{name} is damaged: at {plain} lora_{side} holds whole numbers in place of weights.")
    if not len(down):
        raise UserError(f"{name} is damaged: at {plain} lora_A has rank 0.")
    if len(down) != up.shape[1]:
        raise UserError(f"{name} is damaged: at {plain} lora_A has rank {len(down)}, lora_B {up.shape[1]}.")
    if not all(tensor.isfinite().all() for tensor in part.values()):
        raise UserError(f"{name} holds numbers that are not finite, at {plain}: its training diverged.")
    if part.get("alpha", down[0, 0]).numel() != 1:
        raise UserError(f"{name} is damaged: at {plain} alpha is no number.")


def split_fused(
    theirs: str, part: dict[str, torch.Tensor], scale: float, paths: tuple[str, ...], linears: Linears
) -> Iterator[tuple[str, Update]]:
    """The updates of the layers that a fused one is made of; ranks that a member does not use are left out."""
    down, up = part["down"], part["up"]
    if theirs.replace(".", "_").endswith(SHIFT_FIRST):
        up = swap_scale_shift(up)
    if len(paths) == 1:
        yield paths[0], Update(down, up, scale)
        return
    for path, rows in zip(paths, up.split([linears[path].out_features for path in paths]), strict=True):
        used = rows.any(dim=0)
        if used.any():
            yield path, Update(down[used], rows[:, used], scale)


def linears_of(base: Path | None) -> dict[str, Any]:
    """A transformer's linear layers without a weight in memory: of the pipeline in a folder, or of FLUX.1 [dev]."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        if base:
            config: Any = FluxTransformer2DModel.load_config(base / "transformer")
            model: Any = FluxTransformer2DModel.from_config(config)
        else:
            model = FluxTransformer2DModel(guidance_embeds=True)  # its defaults are FLUX.1's sizes
    return {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}


# ---- Writing


def write_adapter(
    updates: Mapping[str, Update], file: Path, dtype: torch.dtype, *, layout: Layout = "diffusers", **facts: str
) -> Path:
    """Writes an adapter as diffusers names FLUX's layers, or as its authors do, which ComfyUI, Forge and kohya's
    scripts read. Alpha is folded into B, because tools disagree on where to read it.

    facts: the ModelSpec's keys, such as title, trigger_phrase, license, resolution.
    """
    folded = {
        path: (down.detach().to("cpu", dtype).contiguous(), (up.detach() * scale).to("cpu", dtype).contiguous())
        for path, (down, up, scale) in updates.items()
    }
    metadata = {"format": "pt"}
    if layout == "diffusers":
        weights = {f"transformer.{path}.lora_{side}.weight": matrix
                   for path, pair in folded.items() for side, matrix in zip("AB", pair, strict=True)}  # fmt: skip
        metadata["lora_adapter_metadata"] = peft_config({path: len(down) for path, (down, _) in folded.items()})
    else:
        weights = fused_weights(folded)
    if facts:
        spec = {
            "sai_model_spec": "1.0.1",
            "architecture": "flux-1-dev/lora",
            "implementation": "diffusers" if layout == "diffusers" else "https://github.com/black-forest-labs/flux",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "hash_sha256": hash_of(weights),
            **facts,
        }
        metadata |= {f"modelspec.{key}": value for key, value in spec.items()}
    return write_atomic(file, lambda partial: save_file(weights, partial, metadata))


def peft_config(ranks: Mapping[str, int], alpha: float | None = None) -> str:
    """PEFT's configuration of layers with these ranks, in the few fields that every version knows; alpha: the rank."""
    usual = max(set(ranks.values()), key=list(ranks.values()).count)
    config: dict[str, Any] = {"r": usual, "lora_alpha": alpha or usual, "target_modules": list(ranks)}
    if others := {path: rank for path, rank in ranks.items() if rank != usual}:
        config |= {"rank_pattern": others, "alpha_pattern": {path: alpha or rank for path, rank in others.items()}}
    return json.dumps({f"transformer.{key}": value for key, value in config.items()})


def fused_weights(folded: Mapping[str, Matrices]) -> dict[str, torch.Tensor]:
    """The tensors under the names of FLUX's authors, with alpha equal to rank."""
    left, weights = dict(folded), {}
    blocks = {match[0] for path in folded if (match := re.match(r"(single_)?transformer_blocks\.\d+", path))}
    for block in sorted(blocks):
        kind, index = block.split(".")
        name, table = ("single", SINGLE_BLOCK) if kind.startswith("single") else ("double", DOUBLE_BLOCK)
        for part, members in table.items():
            pairs = {member: left.pop(f"{block}.{member}", None) for member in members}
            if any(pairs.values()):
                down, up = fused(pairs)
                layer = f"lora_unet_{name}_blocks_{index}_{part}"
                weights |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
                weights[f"{layer}.alpha"] = torch.tensor(float(len(down)))  # bfloat16 has no 301
    if left:
        raise UserError(f"There is no name for {next(iter(left))} outside diffusers; train the blocks' layers only.")
    return weights


def fused(pairs: Mapping[str, Matrices | None]) -> Matrices:
    """(rank, in) and (out, rank) of the one layer whose rows are those of the members: their downs on top of one
    another, their ups along a diagonal, zeros beside them and where a member has no update."""
    present = [pair for pair in pairs.values() if pair]
    width = present[0][0].shape[1]
    absent = {member: width * (MLP_RATIO if member == "proj_mlp" else 1) for member in pairs}
    rows = [pair[1].shape[0] if pair else absent[member] for member, pair in pairs.items()]
    up = present[0][1].new_zeros(sum(rows), sum(b.shape[1] for _, b in present))
    row = column = 0
    for pair, size in zip(pairs.values(), rows, strict=True):
        if pair:
            up[row : row + size, column : column + pair[1].shape[1]] = pair[1]
            column += pair[1].shape[1]
        row += size
    return torch.cat([a for a, _ in present]), up


def hash_of(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 of a file's bytes after the header, as the ModelSpec asks."""
    data = serialized(weights)
    return f"0x{hashlib.sha256(data[8 + int.from_bytes(data[:8], 'little') :]).hexdigest()}"


@torch.no_grad()
def check_parity(updates: Mapping[str, Update], file: Path, linears: Linears) -> float:
    """The largest relative difference between live updates and those that a file has when it is read again; refuses a
    file that differs by more than the rounding of its numbers."""
    again, worst = read_adapter(file, linears), 0.0
    if strange := sorted(again.keys() - updates.keys()):
        raise UserError(f"{file.name} changes {strange[0]}, which was not trained; report this.")
    for path, live in updates.items():
        if path not in again and live.up.any():
            raise UserError(f"{file.name} lacks the update of {path}; the run's last checkpoint still has it.")
        read = again.get(path, Update(live.down[:0], live.up[:, :0], 1.0))
        error, rounding = relative_difference(live, read), torch.finfo(read.up.dtype).eps
        if not error <= rounding:  # and not if it is no number
            raise UserError(
                f"{file.name}, read again, differs from what was trained at {path} by {error:.2g} of its size, more "
                "than rounding would; the run's last checkpoint still has it."
            )
        worst = max(worst, error)
    return worst


def relative_difference(one: Update, other: Update) -> float:
    """Difference of two updates on random inputs, relative to the terms that the products sum: rounding A and B then
    counts as the rounding of one number, however much of the terms cancels out."""
    (a, b, scale), (a2, b2, scale2) = ((it.down.cpu().double(), it.up.cpu().double(), it.scale) for it in (one, other))
    x = torch.randn(a.shape[1], PROBES, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    h = a @ x
    size = scale * (b.square() @ (h.square() + a.square() @ x.square())).sum().sqrt()
    difference = scale * (b @ h) - scale2 * (b2 @ (a2 @ x))
    return (difference.norm() / size.clamp(min=torch.finfo(torch.double).tiny)).item()


# ---- How strongly


def config_of(file: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> dict[str, Any]:
    """PEFT's configuration, from the metadata or from the file that PEFT writes beside its own."""
    pefts_own = any(key.startswith("base_model.model.") and "transformer_blocks." in key for key in tensors)
    pefts_own &= not any(key.endswith(".alpha") for key in tensors)
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


def scale_of(name: str, plain: str, part: dict[str, torch.Tensor], config: dict[str, Any]) -> float:
    """alpha / rank, 1 where there is no alpha; a tensor speaks for its own layer, before the configuration."""
    rank = len(part["down"])
    if "alpha" in part:
        return float(part["alpha"]) / rank
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise UserError(f"{name} is damaged: its alpha_pattern is no table of layers and numbers.")
    alpha = next((value for key, value in patterns.items() if names_layer(name, key, plain)), config.get("lora_alpha"))
    if alpha is None:
        return 1.0
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or number(alpha) is None:
        raise UserError(f"{name} is damaged: at {plain} alpha is {str(alpha)[:20]!r} and no number.")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def names_layer(name: str, pattern: str, path: str) -> bool:
    """Whether a pattern of PEFT's means the layer: it is one of the layer's endings, read literally, because a regular
    expression from outside can take forever."""
    literal = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if not re.fullmatch(r"[\w.-]+", literal):
        raise UserError(f"{name}: its alpha_pattern {pattern[:60]!r} is no layer's name, and only names are read.")
    return path == literal or (path.endswith(f".{literal}") and not pattern.startswith("^"))
