"""Training and painting at FLUX.1-dev's full size on a card, with random weights; writes gpu.json.

    python -m benchmarks.gpu [--folder work/full-size] [--only training painting]

A run that fails, for lack of memory above all, is a row that says so. `--tiny` goes the same way with a tiny model on
any device, in a minute, to see that the script works; it writes nothing beside this script.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import full_size
from benchmarks.process import surroundings
from impressionism.compiled import compile_blocks
from impressionism.paint import compare, paint, sweep
from impressionism.pipeline import Painter, load_pipeline
from impressionism.records import Sampling

HERE = Path(__file__).parent
RESULT = HERE / "gpu.json"
GIB = 2**30
MODES = ("nf4", "int8", "int4", "int2", "none")
TARGETS = {"attention": True, "style": False}  # and whether blocks are recomputed
ASKED = {("nf4", 512): 5.6, ("nf4", 768): 6.2, ("nf4", 1024): 7.0, ("int4", 1024): 8, ("int8", 1024): 13,
         ("int2", 1024): 5.5}  # GiB, of `attention`  # fmt: skip
TINY = full_size.FLUX | {"num_layers": 2, "num_single_layers": 4, "num_attention_heads": 2}


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large everything is."""

    device: str
    resolutions: tuple[int, ...]
    training_steps: int
    side: int
    painting_steps: int
    seeds: int


FULL = Scale("cuda", (512, 768, 1024), 12, 1024, 28, 8)
SMALL = Scale("cuda" if torch.cuda.is_available() else "cpu", (64,), 3, 64, 2, 2)


# ---- Training


def training(folder: Path, scale: Scale) -> list[dict]:
    """Each precision, resolution and preset in a process of its own, beside what `plan` says."""
    rate = matmul_rate(scale.device)
    return [
        {"quantize": mode, "resolution": side, "targets": targets} | fitted(folder, scale, mode, side, targets, rate)
        for mode in MODES
        for side in scale.resolutions
        for targets in TARGETS
    ]


def fitted(folder: Path, scale: Scale, mode: str, side: int, targets: str, rate: float) -> dict:
    run = folder / f"{mode}-{side}-{targets}"
    recipe = run.with_suffix(".json")
    recipe.write_text(json.dumps(recipe_for(folder, run, scale, mode, side, targets)))
    predicted = json.loads(subprocess.run(full_size.training("plan", recipe, "--json"), check=True,
                                          capture_output=True).stdout)  # fmt: skip
    tried = subprocess.run(full_size.training("fit", recipe), stderr=subprocess.PIPE, text=True)
    if tried.returncode:
        return {"plan": predicted["peak"], "failed": tried.stderr.strip().splitlines()[-1][-300:]}
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    times = [line["seconds"] for line in log]
    step = statistics.median(np.diff(times[1:])) if len(times) > 2 else times[-1] / len(times)
    return {
        "seconds": float(step), "peak": json.loads((run / "run.json").read_text())["peak_memory"],
        "plan": predicted["peak"], "plan_seconds": predicted["seconds"],
        "share_of_matmul_rate": predicted["operations"] / float(step) / rate,
    }  # fmt: skip


def recipe_for(folder: Path, run: Path, scale: Scale, mode: str, side: int, targets: str) -> dict:
    return {
        "model": {"base": str(folder / "flux"), "quantize": mode, "max_sequence_length": full_size.TOKENS,
                  "gradient_checkpointing": TARGETS[targets], "device": scale.device},
        "data": {"source": str(folder / f"pictures-{side}"), "resolution": side, "held_out": 0.0},
        "adapter": {"rank": 16, "targets": targets},
        "optimizer": {"name": "adamw8bit", "steps": scale.training_steps, "batch": 1, "accumulate": 1, "warmup": 0},
        "run": {"folder": str(run), "cache": str(folder / "cache"), "log_every": 1,
                "checkpoint_every": scale.training_steps},
    }  # fmt: skip


def matmul_rate(device: str, side: int = 8192, repeats: int = 10) -> float:
    """Operations a second of a matrix product alone, in the precision that the device trains in."""
    if device == "cpu":
        side, dtype = 1024, torch.float32
    else:
        dtype = torch.bfloat16
    a = torch.randn(side, side, device=device, dtype=dtype)
    times = [timed(device, lambda: a @ a) for _ in range(repeats + 1)]
    return 2 * side**3 / statistics.median(times[1:])


def timed(device: str, work: Any) -> float:
    begun = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


# ---- Painting


def painting(folder: Path, scale: Scale) -> dict:
    """Each way to paint, on the same seeds: seconds, memory, and how far from the first its pictures are."""
    found: dict[str, Any] = {}
    eager: list[np.ndarray] = []
    for way, (quantize, compiled) in WAYS.items():
        with contextlib.ExitStack() as stack:
            stack.callback(free)
            try:
                found[way], pictures = painted(folder, scale, quantize, compiled)
            except (RuntimeError, ValueError) as error:  # of which running out of memory is one
                found[way] = {"failed": str(error).splitlines()[0][-300:]}
                continue
        eager = pictures if way == "eager" else eager
        found[way]["psnr"] = [psnr(one, other) for one, other in zip(pictures, eager, strict=False)]
    found["another seed"] = {"psnr": [psnr(*pair) for pair in itertools.pairwise(eager)]}
    return found


WAYS = {
    "eager": ("none", False), "compiled": ("none", True), "fp8": ("fp8", False), "fp8, compiled": ("fp8", True),
    "int8": ("int8", False), "nf4": ("nf4", False), "nf4, compiled": ("nf4", True),
}  # fmt: skip


def painted(folder: Path, scale: Scale, quantize: str, compiled: bool) -> tuple[dict, list[np.ndarray]]:
    painter = load_pipeline(str(folder / "flux"), str(adapter_of(folder)), quantize, scale.device)
    if compiled:
        compile_blocks(painter.flux)
    samplings = [Sampling(prompt="a boat", seed=seed, steps=scale.painting_steps, width=scale.side, height=scale.side)
                 for seed in range(scale.seeds)]  # fmt: skip
    first = timed(scale.device, lambda: paint(painter, samplings[0]))
    if scale.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    pictures, times = [], []
    for sampling in samplings:
        times.append(timed(scale.device, lambda one=sampling: pictures.append(np.asarray(paint(painter, one)))))
    more = slider_and_sweep(painter, samplings[0], scale)
    peak = torch.cuda.max_memory_allocated() if scale.device == "cuda" else None
    return {"first": first, "seconds": times, "peak": peak} | more, pictures


def slider_and_sweep(painter: Painter, sampling: Sampling, scale: Scale) -> dict:
    return {
        "moved": [timed(scale.device, lambda s=s: paint(painter, sampling, s)) for s in (0.5, 0.0, 1.3)],
        "comparison": timed(scale.device, lambda: compare(painter, sampling)),
        "six": timed(scale.device, lambda: list(sweep(painter, sampling, [0, 0.25, 0.5, 0.75, 1, 1.25]))),
    }


def adapter_of(folder: Path) -> Path:
    """One that training left there."""
    return next(iter(sorted(folder.glob("*-attention/adapter"))))


def psnr(one: np.ndarray, other: np.ndarray) -> float | None:
    """Decibels; none: they are equal."""
    error = float(np.mean((one.astype(float) - other.astype(float)) ** 2))
    return None if error == 0 else float(10 * np.log10(255**2 / error))


def free() -> None:
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    torch._dynamo.reset()


# ---- The record


def table(result: dict) -> str:
    lines = [
        f"On {result['card']}.\n",
        "| Training a step, batch 1, rank 16 | seconds | memory | `plan` | of the matmul rate | asked |",
        "|---|---|---|---|---|---|",
    ]
    for row in result.get("training", []):
        name = f"{row['quantize']}, {row['resolution']}², {row['targets']}"
        if "failed" in row:
            lines.append(f"| {name} | {row['failed']} | | {row['plan'] / GIB:.1f} GiB | | |")
            continue
        most = ASKED.get((row["quantize"], row["resolution"])) if row["targets"] == "attention" else None
        asked = "" if most is None else f"≤ {most} GiB" + " **not reached**" * (row["peak"] > most * GIB)
        lines.append(f"| {name} | {row['seconds']:.2f} | {row['peak'] / GIB:.2f} GiB | {row['plan'] / GIB:.2f} GiB "
                     f"| {row['share_of_matmul_rate']:.0%} | {asked} |")  # fmt: skip
    lines += [
        "",
        "| Painting | seconds | memory | first | comparison | PSNR from eager, median |",
        "|---|---|---|---|---|---|",
    ]
    for way, found in result.get("painting", {}).items():
        if "failed" in found:
            lines.append(f"| {way} | {found['failed']} | | | | |")
            continue
        seen = [value for value in found["psnr"] if value is not None]
        drift = f"{statistics.median(seen):.1f} dB" if seen else "equal" if found["psnr"] else ""
        figures = [""] * 4
        if "seconds" in found:
            peak = f"{found['peak'] / GIB:.1f} GiB" if found["peak"] else ""
            figures = [f"{statistics.median(found['seconds']):.2f}", peak, f"{found['first']:.1f}",
                       f"{found['comparison']:.2f}"]  # fmt: skip
        lines.append(f"| {way} | {' | '.join(figures)} | {drift} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--folder", type=Path, default=Path("work/full-size"), help="for the weights; kept")
    parser.add_argument("--only", nargs="+", choices=("training", "painting"), default=("training", "painting"))
    parser.add_argument("--tiny", action="store_true", help="the same with a tiny model, to try the script")
    arguments = parser.parse_args()
    if arguments.tiny:
        with tempfile.TemporaryDirectory() as folder:
            print(table(measure(Path(folder), SMALL, arguments.only, TINY)))
        return
    if not torch.cuda.is_available():
        sys.exit("This machine has no CUDA device that PyTorch can use; --tiny tries the script without one.")
    result = measure(arguments.folder.absolute(), FULL, arguments.only, full_size.FLUX)
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.write_text(json.dumps(known | result, indent=1) + "\n")
    print(table(known | result))


def measure(folder: Path, scale: Scale, only: tuple[str, ...], flux: dict) -> dict:
    if not (folder / "flux").exists():
        full_size.write(folder, flux)
    for side in scale.resolutions:
        if not (folder / f"pictures-{side}").exists():
            full_size.write_picture(folder / f"pictures-{side}", side)
    parts = {"training": training, "painting": painting}
    card = torch.cuda.get_device_name() if scale.device == "cuda" else "a CPU"
    return {name: parts[name](folder, scale) for name in only} | {
        "card": card, **surroundings(card, ("torch", "diffusers", "peft", "bitsandbytes")),
    }  # fmt: skip


if __name__ == "__main__":
    main()
