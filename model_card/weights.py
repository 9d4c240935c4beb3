"""An adapter's files: they load, they are the same adapter, and a strength means the same in every tool.

diffusers reads alpha from its own metadata or from tensors, ComfyUI, Forge and kohya from tensors only, and without any
alpha a strength of 1 is the update as it stands. So they agree where alpha equals the rank, or is written as tensors.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from impressionism import names
from impressionism.errors import UserError

if TYPE_CHECKING:
    from impressionism.lora_file import Update  # PyTorch takes seconds

CLOSE = 0.02  # relative difference of two updates: bfloat16 rounds each factor by 0.004
MUST = ("sai_model_spec", "architecture", "implementation", "title")  # github.com/Stability-AI/ModelSpec


def when(*cases: tuple[object, str]) -> list[str]:
    """The sentences whose condition holds."""
    return [sentence for condition, sentence in cases if condition]


def faults(folder: Path, base: Path | None) -> list[str]:
    """What is wrong with its .safetensors files, read as layers of the base at hand, or of FLUX.1 [dev]."""
    files = sorted(folder.glob("*.safetensors"))
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.ckpt", "*.pth") for file in folder.glob(pattern))
    faults_ = [f"{name} is a pickle, which can run code: save it as .safetensors." for name in pickles]
    if not files:
        return [*faults_, f"There is no adapter: save it as {names.WEIGHTS_FILE}."]
    if len(files) > 1 and not (folder / names.WEIGHTS_FILE).exists():
        faults_.append(f"Of several files none is called {names.WEIGHTS_FILE}: load_lora_weights cannot choose.")
    from impressionism.lora_file import linears_of, read_adapter  # PyTorch takes seconds

    linears, updates = linears_of(base), {}
    for file in files:
        faults_ += header_faults(file)
        try:
            updates[file.name] = read_adapter(file, linears)
        except UserError as error:
            faults_.append(str(error))
    readable = list(updates.items())
    return faults_ + [fault for other in readable[1:] for fault in differ(readable[0], other)]


def header_faults(file: Path) -> list[str]:
    """What the file says of itself: the ModelSpec's keys, and an alpha that all tools read alike."""
    try:
        with safe_open(file, "numpy") as stored:
            keys, metadata = stored.keys(), stored.metadata() or {}
            shapes = {key: stored.get_slice(key).get_shape() for key in keys}
    except SafetensorError:
        return []  # reading its tensors says why
    missing = [key for key in MUST if f"modelspec.{key}" not in metadata]
    digest = metadata.get("modelspec.hash_sha256")
    return alphas(file.name, shapes, metadata) + when(
        (missing, f"{file.name} lacks the ModelSpec's {', '.join(missing)}: tools cannot say what it is."),
        (not missing and digest and digest != hash_of(file),
         f"{file.name}: modelspec.hash_sha256 is of other tensors than it holds."),
    )  # fmt: skip


def hash_of(file: Path) -> str:
    """SHA-256 of the tensors' bytes, which follow the header, as `modelspec.hash_sha256` asks."""
    with file.open("rb") as stream:
        stream.seek(int.from_bytes(stream.read(8), "little"), 1)
        return f"0x{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def alphas(name: str, shapes: dict[str, list[int]], metadata: dict[str, str]) -> list[str]:
    """Where alpha is written, and whether all tools read the same; the first fault."""
    tensors = any(key.endswith("alpha") for key in shapes)
    if "lora_adapter_metadata" not in metadata:
        return [] if tensors else [f"{name} says no alpha: tools guess a strength; write lora_adapter_metadata."]
    if tensors:
        return [f"{name} says alpha twice, in tensors and in metadata: diffusers refuses that; keep one."]
    try:
        written = json.loads(metadata["lora_adapter_metadata"])
        config = {key.removeprefix("transformer."): value for key, value in written.items()}
    except (ValueError, AttributeError):
        return [f"{name}: lora_adapter_metadata is no JSON object."]
    rank, alpha = config.get("r"), config.get("lora_alpha")
    ranks = {shape[0] for key, shape in shapes.items() if key.endswith("lora_A.weight")}
    known = {rank, *(config.get("rank_pattern") or {}).values()}
    patterns = [config.get(f"{what}_pattern") or {} for what in ("alpha", "rank")]
    unsafe = alpha != rank or config.get("use_rslora") or patterns[0] != patterns[1]
    return when(
        (not isinstance(rank, int) or alpha is None, f"{name}: its metadata lacks r or lora_alpha."),
        (ranks - known, f"{name}: its metadata says rank {rank}, its tensors have {sorted(ranks)}."),
        (unsafe, f"{name}: alpha {alpha} at rank {rank} is in diffusers' metadata only, so that a strength means "
                 "something else in ComfyUI and Forge: fold it into the weights."),
    )[:1]  # fmt: skip


def differ(first: tuple[str, dict[str, "Update"]], other: tuple[str, dict[str, "Update"]]) -> list[str]:
    """Two files of one folder should be one adapter under different names."""
    from impressionism.lora_file import relative_difference

    (name, updates), (other_name, others) = first, other
    start = f"{name} and {other_name} are different adapters: "
    changed = [{path for path, update in one.items() if update.up.any()} for one in (updates, others)]
    if missing := changed[0] ^ changed[1]:
        return [f"{start}only one of them changes {min(missing)}."]
    far = [path for path in changed[0] if not relative_difference(updates[path], others[path]) <= CLOSE]
    return [f"{start}at {min(far)} they add something else."] if far else []
