"""Painting at FLUX.1-dev's full size on a card, with an adapter of the published one's shape alive, in each way."""

import dataclasses
import gc
import itertools
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import FluxPipeline, MagCacheConfig
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS
from torch._dynamo.utils import counters

from benchmarks.gpu_scale import GIB, RANK, Scale, timed
from benchmarks.measure import markdown, marked, not_measured
from impressionism import names, plots
from impressionism.compiled import blocks_of, compile_ahead, compile_blocks, use_packages
from impressionism.errors import first_line
from impressionism.modulation import CachedModulation
from impressionism.paint import compare, paint, sweep
from impressionism.pipeline import Painter, load_pipeline
from impressionism.records import GenerationParams

STRENGTHS = [0, 0.25, 0.5, 0.75, 1, 1.25]
FASTER = 2.2  # target of the fastest way that skips no step


@dataclass(frozen=True)
class Way:
    """How a picture is painted."""

    quantize: str = "none"
    blocks: Literal["as they are", "compiled", "packaged"] = "as they are"
    in_turns: bool = False
    """Models wait in main memory until they are needed."""
    banked: bool = False
    """The modulation is computed ahead of each picture, and its weights are left out of memory."""
    skips: bool = False
    """Steps much like those before them are left out (MagCache, whose choice depends on no picture)."""


WAYS = {
    "bf16": Way(),
    "fp8, compiled": Way("fp8", "compiled"),
    "bf16, compiled": Way(blocks="compiled"),
    "nf4, in turns": Way("nf4", in_turns=True),
    "bf16, compiled ahead of time": Way(blocks="packaged"),
    "bf16, steps left out": Way(skips=True),
    "bf16, compiled, steps left out": Way(blocks="compiled", skips=True),
    "bf16, modulation ahead": Way(banked=True),
    "nf4": Way("nf4"),
    "nf4, compiled": Way("nf4", "compiled"),
    "fp8": Way("fp8"),
    "int8": Way("int8"),
    "fp8, compiled, steps left out": Way("fp8", "compiled", skips=True),
}
USUAL, FASTEST, OTHER = "bf16", "fp8, compiled", "another seed"


def painting(folder: Path, scale: Scale, before: dict, keep: Callable[[Any], None], _: Path | None) -> None:
    """Each way to paint, on the same seeds: seconds, memory, and how far from the first its pictures are. The first is
    painted again for those that are missing, and each row keeps the first's seconds of its own day."""
    adapter = write_adapter(folder)
    found: dict[str, Any] = {name: row for name, row in before.items() if "failed" not in row}
    usual: list[np.ndarray] = []
    for name, way in WAYS.items():
        if name in found and (name != USUAL or found.keys() >= WAYS.keys()):
            continue
        try:
            found[name], pictures = painted(folder, adapter, scale, name, way)
            usual = pictures if name == USUAL else usual
            found[name]["psnr"] = [psnr(*pair) for pair in zip(pictures, usual, strict=False)]
            found[name]["usual"] = statistics.median(found[USUAL]["seconds"])
        except Exception as error:  # a row that says so
            if name == USUAL:
                raise RuntimeError(f"{USUAL} failed, beside which all are measured: {first_line(error)}") from error
            found[name] = {"failed": f"{type(error).__name__}: {first_line(error)[-300:]}"}
        found[OTHER] = {"psnr": [psnr(*pair) for pair in itertools.combinations(usual, 2)]}
        free()
        keep(found)


def painted(folder: Path, adapter: Path, scale: Scale, name: str, way: Way) -> tuple[dict, list[np.ndarray]]:
    samplings = [GenerationParams(prompt="a boat", seed=seed, steps=scale.painting_steps, width=scale.side,
                                  height=scale.side)
                 for seed in range(scale.seeds)]  # fmt: skip
    short, device = dataclasses.replace(samplings[0], steps=2), scale.device
    held = torch.cuda.memory_allocated() if device == "cuda" else 0  # by the way before, where that lingers
    painters: list[Painter] = []
    found: dict[str, Any] = {
        "loading": timed(device, lambda: painters.append(load_pipeline(str(folder / "flux"), str(adapter), way.quantize,
                                                                       device)))
    }  # fmt: skip
    [painter] = painters
    found["first"] = timed(device, lambda: (prepare(painter, way, short, folder), paint(painter, short)))
    graphs = counters["stats"]["unique_graphs"]
    pictures: list[np.ndarray] = []
    with around(painter, way, folder, scale.painting_steps):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found["seconds"] = [
            timed(device, lambda one=sampling: pictures.append(np.asarray(paint(painter, one))))
            for sampling in samplings
        ]
        found["peak"] = torch.cuda.max_memory_allocated() - held if device == "cuda" else None
        for strength in (1.0, 0.5, 0.0, 1.3):
            paint(painter, short, strength)
    found["recompiled"] = counters["stats"]["unique_graphs"] - graphs
    if name == FASTEST:
        found["six"] = timed(device, lambda: list(sweep(painter, samplings[0], STRENGTHS)))
    if name == USUAL:
        found["comparison"] = timed(device, lambda: compare(painter, samplings[0]))
    return found, pictures


def prepare(painter: Painter, way: Way, short: GenerationParams, folder: Path) -> None:
    pipe = painter.pipe
    if way.in_turns and pipe.device.type == "cuda":
        pipe.enable_model_cpu_offload()
    if way.blocks == "packaged":
        packages = folder / "packages"
        compile_ahead(pipe, lambda: paint(painter, short), packages)
        use_packages(pipe, packages)
    elif way.blocks == "compiled" and way.skips:
        compile_within(pipe)
    elif way.blocks == "compiled":
        compile_blocks(pipe)


def compile_within(pipe: FluxPipeline) -> None:
    """As compile_blocks, with room around each block for hooks, which no compiler reads."""
    for block in itertools.chain.from_iterable(blocks_of(pipe).values()):
        block.forward = torch.compile(block.forward, fullgraph=True)


@contextmanager
def around(painter: Painter, way: Way, folder: Path, steps: int) -> Iterator[None]:
    """What is so while pictures of so many steps are painted."""
    pipe: Any = painter.pipe
    if way.skips:
        pipe.transformer.enable_cache(MagCacheConfig(mag_ratios=FLUX_MAG_RATIOS, num_inference_steps=steps))
        yield
        pipe.transformer.disable_cache()
    elif way.banked:
        modulation = CachedModulation(pipe.transformer, folder / "flux", pipe.device, pipe.transformer.dtype)
        with modulation.whole_schedules(pipe):
            yield
    else:
        yield


def write_adapter(folder: Path) -> Path:
    """A random one of the published adapter's shape: rank 16 on every linear layer of every block."""
    from accelerate import init_empty_weights
    from diffusers import FluxTransformer2DModel
    from safetensors.torch import save_file

    config: Any = FluxTransformer2DModel.load_config(folder / "flux/transformer")
    with init_empty_weights():
        model: Any = FluxTransformer2DModel.from_config(config)
    weights = {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and "transformer_blocks." in name:
            a, b = torch.randn(RANK, layer.in_features), torch.randn(layer.out_features, RANK)
            weights[f"transformer.{name}.lora_A.weight"] = (a / layer.in_features**0.5).bfloat16()
            weights[f"transformer.{name}.lora_B.weight"] = (0.02 * b).bfloat16()
    (folder / "adapter").mkdir(exist_ok=True)
    save_file(weights, folder / "adapter" / names.WEIGHTS_FILE)
    return folder / "adapter"


def psnr(one: np.ndarray, other: np.ndarray) -> float | None:
    """Decibels; none: they are equal."""
    error = float(np.mean((one.astype(float) - other.astype(float)) ** 2))
    return None if error == 0 else float(10 * np.log10(255**2 / error))


def free() -> None:
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ---- The table


def painting_table(found: dict) -> str:
    head = ["Painting 1024², 28 steps, a live adapter", "seconds", "bf16 beside it", "times as fast", "memory",
            "loading", "first 2 steps", "recompiled", "PSNR from bf16"]  # fmt: skip
    rows = []
    for name, row in found.items():
        if "failed" in row:
            rows.append([name, row["failed"]])
            continue
        figures = [""] * 7
        if "seconds" in row:
            seconds = statistics.median(row["seconds"])
            ratio = row["usual"] / seconds
            faster = f"{ratio:.2f}" + (marked(f", target {FASTER}", ratio >= FASTER) if name == FASTEST else "")
            late = WAYS[name].skips or WAYS[name].banked  # begins after the first steps
            figures = [f"{seconds:.2f}", f"{row['usual']:.2f}", faster,
                       f"{row['peak'] / GIB:.1f} GiB" if row["peak"] else "", f"{row['loading']:.0f} s",
                       "" if late else f"{row['first']:.1f} s", str(row["recompiled"])]  # fmt: skip
        rows.append([name, *figures, drift(row["psnr"])])
    parts = [markdown(head, rows) + not_measured(name for name in WAYS if name not in found)]
    more = {"comparison": "a comparison", "batch of two": "both in one batch (an older trial)", "six": "a sweep of six"}
    for name, row in found.items():
        if said := [
            f"{told} {row[key] / statistics.median(row['seconds']):.2f}" for key, told in more.items() if key in row
        ]:
            parts.append(f"{name[0].upper() + name[1:]}, in times the seconds of one picture: {', '.join(said)}.")
    return "\n\n".join(parts)


def painting_plot(rows: dict[str, Any]) -> bytes:
    """Seconds and memory of each way to paint."""
    ways = {name: row for name, row in rows.items() if "seconds" in row}
    figure, _ = plots.canvas(0.35 * len(ways) + 0.8)
    figure.clear()
    left, right = figure.subplots(1, 2, sharey=True)
    seconds = [statistics.median(row["seconds"]) for row in ways.values()]
    memory = [row["peak"] / GIB for row in ways.values()]
    for side, values, label in ((left, seconds, "seconds per picture"), (right, memory, "GiB")):
        side.bar_label(side.barh(list(ways), values, 0.6, color=plots.BLUE), fmt="{:.1f}", padding=3, fontsize=8)
        side.set(xlabel=label, xlim=(0, 1.15 * max(values)))
        side.spines[["top", "right"]].set_visible(False)
    left.invert_yaxis()
    return plots.png(figure)


def drift(decibels: list[float | None]) -> str:
    seen = [value for value in decibels if value is not None]
    if not seen:
        return "equal" if decibels else ""
    return f"{statistics.median(seen):.1f} dB ({min(seen):.1f} to {max(seen):.1f})"
