"""The one place where models are built: which weights, in which precision, on which device.

painter = load_pipeline()   # FLUX.1-dev and the published adapter on a GPU, else the bundled miniature
"""

import importlib.metadata
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from diffusers import FluxPipeline
from safetensors import SafetensorError

from impressionism import lora, names
from impressionism.errors import UserError, first_line
from impressionism.hub import PIPELINE_FILES, check_name, commit_of, digest_of, folder_of, label, without_bars
from impressionism.lora_file import USUAL_NAMES, AdapterInfo, find_adapter, parse_source, read_adapter, read_info
from impressionism.quantize import MODES, format_of, load_transformer
from impressionism.records import Provenance

ADAPTER_NAME, ACCELERATOR_NAME = "impressionism", "accelerator"  # of the updates in the transformer's layers
GIB = 2**30

# Free memory that a precision needs, as a multiple of the pipeline's files in bfloat16, activations included.
# FLUX.1-dev's are 31.4 GiB: 36 GiB in bfloat16, 24 in int8, 14 in NF4, T5 too; a CPU computes in float32.
MEMORY_FACTORS = {
    "cuda": {"none": 1.15, "int8": 0.77, "nf4": 0.45},
    "cpu": {"none": 2.3, "int8": 1.2, "nf4": 0.9},
}
FOUR_BITS = ("nf4", "int4", "int2")  # about four: with these T5 is quantized as well


@dataclass(frozen=True)
class Painter:
    """A base model with adapters on it, ready to paint."""

    pipe: FluxPipeline
    provenance: Provenance
    """Base, first adapter, precision and libraries, as every picture records them."""
    about: str
    """One line for people: which model paints, and why that one."""
    adapters: dict[str, AdapterInfo] = field(default_factory=dict)
    """By name, in the order in which they were asked for."""
    accelerator: AdapterInfo | None = None
    """The few-step adapter of fast mode."""
    sizes: tuple[tuple[int, int], ...] | None = None
    """(width, height) of the pictures that the model knows; none: all that are multiples of 16."""

    @property
    def adapter(self) -> AdapterInfo | None:
        return next(iter(self.adapters.values()), None)

    @property
    def is_miniature(self) -> bool:
        """Whether it is a small model that knows a few scenes only."""
        return self.pipe.vae.config.sample_size < 512


def load_pipeline(
    model: str | Path = "auto",
    adapter: str | Path | Sequence[str | Path] = "auto",
    quantize: str = "auto",
    device: str = "auto",
    *,
    model_revision: str | None = None,
    adapter_revision: str | None = None,
    fast: bool | None = None,
) -> Painter:
    """Builds a painter.

    model and adapter are Hub ids or local paths; `miniature` is the bundled one, adapter `none` leaves the
    base alone. Several adapters are given as a list, or in one string with commas between them. `auto` follows the
    variables in names.ENVIRONMENT, then what this machine can do. fast also loads the accelerator; none: only where
    it is on this machine beside the base.
    """
    device = choose_device(device)
    if quantize not in ("auto", *MODES):
        raise UserError(f"There is no quantization {quantize}; there are auto, {', '.join(MODES)}.")
    base, base_revision, why = choose_base(str(model), model_revision, device)
    sources = choose_adapters(adapter, adapter_revision, base, str(model) != "auto")
    check_name(base, base_revision)  # and the adapters are found before the large download: mistakes show early
    files = {source: find_adapter(source, revision) for source, revision in sources}
    accelerator = find_accelerator(base, fast)
    folder = folder_of(base, base_revision, PIPELINE_FILES, "paint with the bundled model: --model miniature")
    quantize, offload, memory = choose_quantization(quantize, folder, device)

    adapters: dict[str, AdapterInfo] = {}
    try:
        pipe = build(folder, label(base), quantize, device, offload)
        for number, (source, file) in enumerate(files.items(), 1):
            info = read_info(file, label_of(source), ADAPTER_NAME if number == 1 else f"{ADAPTER_NAME}_{number}")
            load_adapter(pipe, file, info.key)
            adapters[info.name if info.name not in adapters else f"{info.name} ({number})"] = info
        if accelerator:
            load_adapter(pipe, accelerator[0], accelerator[1].key)
        if offload:
            pipe.enable_model_cpu_offload(device=device)
        else:
            pipe.to(device)
    except torch.OutOfMemoryError as error:
        smaller = "" if quantize in FOUR_BITS else ", or say --quantize nf4"
        raise UserError(f"{label(base)} does not fit into {device}'s free memory: free some{smaller}.") from error

    first = next(iter(adapters.values()), None)
    provenance = Provenance(
        base=label(base),
        base_revision=commit_of(folder) or digest_of(*weight_files(folder)),
        adapter=first.name if first else None,
        adapter_revision=first.revision if first else None,
        quantize=quantize,
        dtype=str(dtype_for(device)).removeprefix("torch."),
        device=name_of(device),
        versions=versions(quantize, device),
    )
    return Painter(
        pipe, provenance, about(provenance, why, memory), adapters, accelerator and accelerator[1], sizes_of(folder)
    )


# ---- What to load


def choose_device(device: str) -> str:
    has_cuda = names.on_zero_gpu() or torch.cuda.is_available()
    if device == "auto":
        return "cuda" if has_cuda else "cpu"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise UserError(f"There is no device {device}; say auto, cpu, cuda, cuda:1 or mps.")
    if device.startswith("cuda") and not has_cuda:
        raise UserError("This machine has no CUDA device that PyTorch can use; say --device cpu or auto.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("This machine has no Apple GPU that PyTorch can use; say --device cpu or auto.")
    return device


def choose_base(model: str, revision: str | None, device: str) -> tuple[str, str | None, str]:
    """The base's source and revision, and why that one."""
    why = ""
    if model == "auto":
        revision = revision or names.from_environment("base_revision")
        if model_set := names.from_environment("base"):
            model, why = model_set, f"as {names.ENVIRONMENT['base']} says"
        elif device.startswith("cuda"):
            model, why = names.BASE, "a GPU was found"
        else:
            model, why = "miniature", "no GPU found"
    return (miniature(), None, why) if model == "miniature" else (model, revision, why)


def miniature() -> str:
    if not (names.MINIATURE / "model_index.json").exists():
        raise UserError("The bundled miniature is missing; build it with `python -m tools.miniature`.")
    return str(names.MINIATURE)


def choose_adapter(
    adapter: str, revision: str | None, base: str, base_asked: bool = False
) -> tuple[str | None, str | None]:
    """The adapter's source and revision; no source for the base alone. The variables suit the base that is chosen
    by itself, not one that was asked for."""
    if adapter == "auto" and not base_asked:
        adapter = names.from_environment("adapter") or "auto"
        revision = revision or names.from_environment("adapter_revision")
    if adapter == "none":
        return None, None
    if adapter == "miniature":
        return str(names.MINIATURE_ADAPTER), None
    if adapter != "auto":
        return adapter, revision
    if Path(base).is_dir():
        own = Path(base) / "adapter"
        return (str(own), revision) if own.is_dir() else (None, None)
    return names.ADAPTER, revision


def choose_adapters(
    adapter: str | Path | Sequence[str | Path], revision: str | None, base: str, base_asked: bool = False
) -> list[tuple[str, str | None]]:
    """The sources and revisions of all adapters, each once, in the order given."""
    if adapter == "auto" and not base_asked:
        adapter = names.from_environment("adapters") or adapter
    if isinstance(adapter, str) and not Path(adapter).exists():
        adapter = [part.strip() for part in adapter.split(",") if part.strip()]
    several = [adapter] if isinstance(adapter, str | Path) else adapter
    if len(several) > 1 and revision:
        raise UserError("Of several adapters each has its own revision: name them as owner/name@revision.")
    chosen = [choose_adapter(str(one), revision, base, base_asked) for one in several]
    return list(dict.fromkeys((source, at) for source, at in chosen if source))


def find_accelerator(base: str, fast: bool | None) -> tuple[Path, AdapterInfo] | None:
    """The few-step adapter for the base: its own, or a public one that is fetched when asked for."""
    own = Path(base) / "accelerator"
    if fast is not False and own.is_dir():
        file = find_adapter(str(own), None)
        return file, read_info(file, label(own), ACCELERATOR_NAME)
    if not fast:
        return None
    if Path(base).exists():  # on the Hub, FLUX.1-dev and what was trained from it, such as FLUX.1-Krea-dev
        raise UserError(f"There is no accelerator for {label(base)}, so it cannot paint in fast mode.")
    file = find_adapter(names.ACCELERATOR, names.from_environment("accelerator_revision"))
    info = read_info(file, names.ACCELERATOR, ACCELERATOR_NAME)
    return file, replace(info, recommended_strength=names.ACCELERATOR_STRENGTH, steps=names.ACCELERATOR_STEPS)


def sizes_of(folder: Path) -> tuple[tuple[int, int], ...] | None:
    """The sizes that a small model was trained on, from sizes.json in its folder."""
    file = folder / "sizes.json"
    if not file.is_file():
        return None
    return tuple((int(width), int(height)) for width, height in json.loads(file.read_text(encoding="utf-8")))


def label_of(source: str) -> str:
    """What a record calls an adapter: a Hub repository with its file, or a folder's or file's own name."""
    place, file, _ = parse_source(source)
    path = Path(place)
    if path.is_file() and path.name in USUAL_NAMES:  # which says nothing
        return label(path.absolute().parent)
    return f"{place}/{file}" if file else label(place)


def choose_quantization(quantize: str, folder: Path, device: str) -> tuple[str, bool, str]:
    """The transformer's precision, whether models wait for their turn in main memory, and why."""
    kind = "cuda" if device.startswith("cuda") else "cpu"
    if names.on_zero_gpu() or device == "mps":
        return ("none" if quantize == "auto" else quantize), False, ""
    free = torch.cuda.mem_get_info(device)[0] if kind == "cuda" else psutil.virtual_memory().available
    size = sum(file.stat().st_size for file in weight_files(folder))
    factors = MEMORY_FACTORS[kind]
    fitting = (mode for mode, factor in factors.items() if factor * size <= free)
    chosen = quantize if quantize != "auto" else next(fitting, "nf4")
    factor = factors["int8" if chosen == "fp8" else "nf4" if chosen in FOUR_BITS else chosen]
    offload = kind == "cuda" and chosen != "int8" and factor * size > free
    if offload:
        return chosen, True, f"{free / GIB:.0f} GiB free, so its parts take turns"
    return chosen, False, f"{free / GIB:.0f} GiB free" if quantize == "auto" and chosen != "none" else ""


# ---- Building it


def dtype_for(device: str) -> torch.dtype:
    """Few CPUs multiply bfloat16 fast, and most a hundred times slower than float32."""
    return torch.float32 if device == "cpu" else torch.bfloat16


@without_bars()
def build(folder: Path, name: str, quantize: str, device: str, offload: bool = False) -> FluxPipeline:
    """offload: the models will take turns on the device, so one waits in main memory while the next is loaded."""
    check_kind(folder, name)
    dtype = dtype_for(device)
    staged = "cpu" if names.on_zero_gpu() else device  # a card that is only emulated cannot compute
    transformer: Any = load_transformer(folder, quantize=quantize, dtype=dtype, device=staged)
    components: dict[str, Any] = {"transformer": transformer.to("cpu") if offload else transformer}
    if quantize in FOUR_BITS and staged.startswith("cuda"):
        components["text_encoder_2"] = small_t5(folder, dtype, device)
    try:
        pipe = FluxPipeline.from_pretrained(
            folder, **components, dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        damaged = first_line(error).replace(str(folder), name).rstrip(". ")
        raise UserError(f"{name} is incomplete or damaged ({damaged}); fetch it again.") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def check_kind(folder: Path, name: str) -> None:
    """Refuses what is no FluxPipeline in diffusers' layout, before anything is read."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"{name} holds no FluxPipeline: in diffusers' layout there is a model_index.json.")
    try:
        kind = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{name}: its model_index.json cannot be read; fetch it again.") from error
    if kind != "FluxPipeline":
        raise UserError(f"{name} is a {kind}; this painter is a FluxPipeline, for example {names.BASE}.")


def small_t5(folder: Path, dtype: torch.dtype, device: str) -> torch.nn.Module:
    """Where the transformer has to be small, the 9.5 GB of T5 have to be small too."""
    from transformers import BitsAndBytesConfig, T5EncoderModel

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return T5EncoderModel.from_pretrained(
        folder / "text_encoder_2", quantization_config=config, dtype=dtype, device_map={"": device}
    )


# ---- The adapter


def load_adapter(pipe: FluxPipeline, file: Path, name: str = ADAPTER_NAME) -> None:
    """Puts the adapter on the transformer, whichever tool wrote it, or refuses it in a sentence."""
    updates = read_adapter(file, lora.linears(pipe.transformer))
    lora.inject(pipe.transformer, name, updates, pipe.transformer.dtype)


# ---- Saying what it is


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of the pipeline itself: not the adapter beside them, nor a single file in the root."""
    own = {"text_encoder", "text_encoder_2", "transformer", "vae"}
    return sorted(file for file in folder.glob("*/*.safetensors") if file.parent.name in own)


def name_of(device: str) -> str:
    if device.startswith("cuda") and not names.on_zero_gpu():
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return "cuda (ZeroGPU)" if device.startswith("cuda") else device


def versions(quantize: str, device: str) -> dict[str, str]:
    """Versions of the libraries that a pixel depends on."""
    quantizes = format_of(quantize, torch.device(device)).startswith("bitsandbytes")
    libraries = ["torch", "diffusers", "transformers", *(["bitsandbytes"] if quantizes else [])]
    return {name: importlib.metadata.version(name) for name in libraries}


def about(provenance: Provenance, why: str, memory: str) -> str:
    precision = provenance.dtype if provenance.quantize == "none" else provenance.quantize
    base = "the bundled miniature model" if provenance.base == "miniature" else provenance.base
    adapter = f" with the adapter {provenance.adapter}" if provenance.adapter not in (None, "miniature") else ""
    details = "; ".join(part for part in (why, f"{precision} on {provenance.device}", memory) if part)
    return f"Running {base}{adapter} ({details})."
