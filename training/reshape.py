"""Adapters made smaller, merged, extracted from a full fine-tune, or written in another layout.

python -m training resize ADAPTER --rank 4 --out small          or --size 3MB
python -m training merge ONE OTHER --weights 1 0.5 --out both
python -m training extract FINETUNED --model BASE --rank 16 --out adapter
python -m training convert ADAPTER --to comfy --out converted
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from impressionism import names
from impressionism.errors import UserError
from impressionism.hub import folder_of
from impressionism.lora import Update
from impressionism.lora_file import Layout, find_adapter, linears_of, read_adapter, read_info, write_adapter

Updates = Mapping[str, Update]

OVERHEAD = 400  # bytes of the file's header for each layer
OVERSAMPLED = 8  # more directions than asked for, so that svd_lowrank finds the largest ones
DRIFT_PROMPTS = ("a sailing boat on the sea at dawn", "a haystack in a field at noon")
LARGEST_ON_CPU = 1e9  # bytes of a base with which pictures are painted on a processor


# ---- The mathematics


def singular(update: Update) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U (out, rank), S (rank,) and Vᵀ (rank, in) of scale · B A, without making the full matrix: with B = Q₁R₁ and
    Aᵀ = Q₂R₂ they are those of the small matrix R₁R₂ᵀ, turned by Q₁ and Q₂."""
    q1, r1 = torch.linalg.qr(update.scale * update.up.double())
    q2, r2 = torch.linalg.qr(update.down.double().T)
    u, s, vt = torch.linalg.svd(r1 @ r2.T, full_matrices=False)
    return q1 @ u, s, vt @ q2.T


def truncated(u: torch.Tensor, s: torch.Tensor, vt: torch.Tensor, rank: int) -> Update:
    root = s[:rank].sqrt()
    return Update((root[:, None] * vt[:rank]).float(), (u[:, :rank] * root).float(), 1.0)


def resize(updates: Updates, *, rank: int | None = None, size: int | None = None) -> tuple[dict[str, Update], float]:
    """The best approximation with this rank in each layer, or in a file of this many bytes, where the ranks go to the
    singular values that hold most energy for their bytes. Also the share of the squared update that is kept."""
    parts = {path: singular(update) for path, update in updates.items()}
    ranks = dict.fromkeys(parts, rank) if rank is not None else ranks_for(parts, size or 0)
    kept = {path: truncated(*part, ranks[path]) for path, part in parts.items() if ranks[path]}
    if not kept:
        raise UserError("Nothing is left of the adapter at this size; allow more.")
    energy = sum(float(part[1][: ranks[path]].square().sum()) for path, part in parts.items())
    return kept, energy / max(sum(float(part[1].square().sum()) for part in parts.values()), 1e-300)


def ranks_for(parts: Mapping[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]], size: int) -> dict[str, int]:
    costs = {path: 2 * (len(u) + vt.shape[1]) for path, (u, _, vt) in parts.items()}  # bytes of a rank in bfloat16
    best = sorted(
        ((float(value) ** 2 / costs[path], path) for path, (_, s, _) in parts.items() for value in s if value > 0),
        reverse=True,
    )
    ranks, left = dict.fromkeys(parts, 0), size
    for _, path in best:  # a layer's values come in falling order
        cost = costs[path] + (0 if ranks[path] else OVERHEAD)
        if cost <= left:
            ranks[path] += 1
            left -= cost
    return ranks


def merge(adapters: Sequence[Updates], weights: Sequence[float]) -> dict[str, Update]:
    """The weighted sum, exactly: a layer's matrices beside one another, so that its ranks add up."""
    merged = {}
    for path in dict.fromkeys(path for updates in adapters for path in updates):
        own = [(updates[path], weight) for updates, weight in zip(adapters, weights, strict=True) if path in updates]
        down = torch.cat([update.down.float() for update, _ in own])
        up = torch.cat([weight * update.scale * update.up.float() for update, weight in own], dim=1)
        merged[path] = Update(down, up, 1.0)
    return merged


def extract(base: Path, finetuned: Path, paths: Sequence[str], rank: int) -> tuple[dict[str, Update], float]:
    """The best update of this rank for each linear layer whose weight differs, and the share of the squared difference
    that it holds."""
    ours, theirs = files_of(base), files_of(finetuned)
    updates, kept, whole = {}, 0.0, 0.0
    for path in paths:
        name = f"{path}.weight"
        if name not in ours or name not in theirs:
            raise UserError(f"{base if name not in ours else finetuned} has no {name}: they are not one model.")
        change = tensor_in(theirs[name], name) - tensor_in(ours[name], name)
        if not change.any():
            continue
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(change, q=min(rank + OVERSAMPLED, *change.shape), niter=4)
        updates[path] = truncated(u, s, v.T, rank)
        kept, whole = kept + float(s[:rank].square().sum()), whole + float(change.square().sum())
    if not updates:
        raise UserError(f"{finetuned} changes no linear layer of {base}.")
    return updates, kept / whole


def files_of(folder: Path) -> dict[str, Path]:
    """Which file holds each tensor of the transformer in a pipeline's folder."""
    found: dict[str, Path] = {}
    for file in sorted((folder / "transformer").glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            found |= dict.fromkeys(stored.keys(), file)
    if not found:
        raise UserError(f"{folder} holds no transformer in diffusers' layout.")
    return found


def tensor_in(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as stored:
        return stored.get_tensor(name).float()


# ---- The commands


def run_resize(options: argparse.Namespace) -> None:
    file, updates = opened(options.adapter, options.model)
    small, energy = resize(updates, rank=rank_of(options.rank), size=bytes_of(options.size))
    written = save(small, options.out, file)
    print(f"{written}: {written.stat().st_size / 1e6:.1f} MB in place of {file.stat().st_size / 1e6:.1f} MB, "
          f"{energy:.1%} of the update's energy kept.")  # fmt: skip
    print(drift(file, written, updates, options.model))


def run_merge(options: argparse.Namespace) -> None:
    weights = options.weights or [1.0] * len(options.adapter)
    if len(weights) != len(options.adapter) or len(weights) < 2:
        raise UserError("Name two adapters or more, and with --weights one number for each of them.")
    read = [opened(adapter, options.model) for adapter in options.adapter]
    merged, energy = merge([updates for _, updates in read], weights), 1.0
    if options.rank or options.size:
        merged, energy = resize(merged, rank=rank_of(options.rank), size=bytes_of(options.size))
    written = save(merged, options.out, read[0][0])
    print(f"{written}: {len(read)} adapters in one, {energy:.1%} of the sum's energy kept.")


def run_extract(options: argparse.Namespace) -> None:
    base = base_folder(options.model or names.BASE)
    finetuned = base_folder(options.adapter)
    paths = [path for path in linears_of(base) if "transformer_blocks." in path]
    updates, energy = extract(base, finetuned, paths, rank_of(options.rank) or 16)
    written = save(updates, options.out, None)
    print(f"{written}: rank {options.rank} in {len(updates)} layers, {energy:.1%} of the difference's energy kept.")


def run_convert(options: argparse.Namespace) -> None:
    file, updates = opened(options.adapter, options.model)
    print(save(updates, options.out, file, layout=options.to))


def opened(adapter: str, model: str | None) -> tuple[Path, dict[str, Update]]:
    """The adapter's file and its updates of the model's layers; where no model is named, of FLUX.1's or the
    miniature's, whichever it fits."""
    file = find_adapter(adapter, None)
    if model:
        return file, read_adapter(file, linears_of(base_folder(model)))
    try:
        return file, read_adapter(file, linears_of(None))
    except UserError as error:
        try:
            return file, read_adapter(file, linears_of(names.MINIATURE))
        except UserError:
            raise error from None


def base_folder(model: str) -> Path:
    if model == "miniature":
        return names.MINIATURE
    return folder_of(model, None, ["transformer/*.json", "transformer/*.safetensors"])


def save(updates: Updates, folder: Path, source: Path | None, layout: Layout = "diffusers") -> Path:
    """In bfloat16, with what the source's header says of itself."""
    info = read_info(source, folder.name, "") if source else None
    facts = {"title": info.title, "trigger_phrase": info.trigger, "license": info.license} if info else {}
    facts = {"title": folder.name} | {key: value for key, value in facts.items() if value}
    name = names.WEIGHTS_FILE if layout == "diffusers" else f"{folder.name}_{layout}.safetensors"
    return write_adapter(updates, folder / name, torch.bfloat16, layout=layout, **facts)


def rank_of(rank: int | None) -> int | None:
    if rank is not None and rank < 1:
        raise UserError(f"The rank must be 1 or more, not {rank}.")
    return rank


def bytes_of(size: str | None) -> int | None:
    if size is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKMG]?)B?", size)
    if not match:
        raise UserError(f"--size is a number with a unit, such as 3MB, not {size}.")
    return int(float(match[1]) * {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}[match[2]])


def drift(before: Path, after: Path, updates: Updates, model: str | None) -> str:
    """How far the smaller adapter's pictures are from the larger one's, beside what the adapter changes at all."""
    width = next(iter(updates.values())).down.shape[1]
    folder = base_folder(model) if model else names.MINIATURE
    weights = sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))
    if (
        not (folder / "model_index.json").exists()
        or (weights > LARGEST_ON_CPU and not torch.cuda.is_available())
        or (not model and width not in {linear.in_features for linear in linears_of(folder).values()})
    ):
        return "What that does to pictures was not measured, since its base cannot paint here: use evaluation gallery."
    from impressionism.paint import defaults, paint
    from impressionism.pipeline import load_pipeline

    painter = load_pipeline(folder, [before, after])
    one, other = painter.adapters
    moved = changed = 0.0
    for prompt in DRIFT_PROMPTS:
        params = defaults(painter, prompt)
        base, first, second = (
            np.asarray(paint(painter, params, strength, adapter=adapter), dtype=float)
            for strength, adapter in ((0.0, one), (1.0, one), (1.0, other))
        )
        moved, changed = moved + np.abs(second - first).mean(), changed + np.abs(first - base).mean()
    return (f"Its pictures differ from the larger adapter's by {moved / max(changed, 1e-9):.1%} of what that changes "
            f"in the base model's ({len(DRIFT_PROMPTS)} prompts).")  # fmt: skip
