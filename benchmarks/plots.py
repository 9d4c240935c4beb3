"""The page's pictures, each drawn from what is in a script's JSON."""

import io
import statistics
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from benchmarks.gpu_scale import GIB

STAGES = {  # of full_size.py
    "nf4": "to NF4", "load": "kept NF4 loads", "int8": "to int8", "forward": "NF4 pass",
    "banked": "pass, modulation ahead", "whole": "pass, modulation in memory", "attention": "step, attention",
    "style": "step, style",
}  # fmt: skip
BLUE, BROWN, GREY = "#3b5b92", "#a8591a", "#777777"


def figure(height: float = 3) -> Figure:
    return Figure(figsize=(8, height), dpi=110, layout="constrained")


def growth(found: dict) -> Figure:
    """Memory and seconds of a training step against the resolution, and against the rank."""
    made = figure()
    for axes, what in zip(made.subplots(1, 2), ("resolution", "rank"), strict=True):
        points = sorted((int(value), one) for value, one in found["training"][what].items())
        x = [value for value, _ in points]
        memory = [(one["training_peak"] - found["idle_memory"]) / 1e6 for _, one in points]
        times = [one["seconds_per_sample"] for _, one in points]
        sides = ((axes, memory, "memory, MB", BLUE, "o-"), (axes.twinx(), times, "seconds a sample", BROWN, "s--"))
        for side, y, label, colour, line in sides:
            side.plot(x, y, line, color=colour)
            side.set(ylim=(0, 1.1 * max(y)))
            side.set_ylabel(label, color=colour)
        axes.set(xlabel=what, xticks=x)
    return made


def training(found: dict) -> Figure:
    """Ours as a share of the script's: seconds with their interval, and memory."""
    made = figure()
    axes = made.subplots()
    asked = {"seconds a sample": 1 / 1.3, "memory,\nup to the last step": 0.7, "memory,\nof the whole process": 0.7}
    for aside, colour, (name, part) in zip((-0.16, 0.16), (BLUE, BROWN), found["models"].items(), strict=True):
        middle, low, high = (1 / times for times in part["faster"])
        ours, theirs = (part["medians"][side] for side in ("ours", "theirs"))
        shares = [middle, *(ours[key] / theirs[key] for key in ("training_memory", "memory"))]
        axes.bar([where + aside for where in range(3)], shares, 0.3, color=colour, label=name)
        axes.errorbar(aside, middle, [[middle - high], [low - middle]], color=GREY, capsize=4)
    axes.axhline(1, color=GREY, linewidth=0.8, label="diffusers' script")
    axes.hlines(list(asked.values()), [-0.4, 0.6, 1.6], [0.4, 1.4, 2.4], "black", "dashed", linewidth=1, label="asked")
    axes.set(ylabel="ours, of the script's", xticks=range(3), xticklabels=asked)
    axes.spines[["top", "right"]].set_visible(False)
    made.legend(frameon=False, loc="outside right upper")
    return made


def gpu(found: dict) -> Figure:
    """Seconds and memory of each way to paint."""
    ways = {name: row for name, row in found["painting"].items() if "seconds" in row}
    made = figure(0.35 * len(ways) + 0.8)
    seconds = [statistics.median(row["seconds"]) for row in ways.values()]
    memory = [row["peak"] / GIB for row in ways.values()]
    sides = ((seconds, "seconds a picture", BLUE), (memory, "GiB", BROWN))
    for axes, (values, label, colour) in zip(made.subplots(1, 2, sharey=True), sides, strict=True):
        axes.bar_label(axes.barh(list(ways), values, 0.6, color=colour), fmt="{:.1f}", padding=3, fontsize=8)
        axes.set(xlabel=label, xlim=(0, 1.15 * max(values)))
        axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    return made


def full_size(found: dict) -> Figure:
    """Memory at most of each stage: the process's own, and with the files that are mapped."""
    stages = {STAGES[name]: one for name, one in found["stages"].items() if "own" in one}
    made = figure(0.35 * len(stages) + 0.8)
    axes = made.subplots()
    own, resident = ([one[key] / 1e9 for one in stages.values()] for key in ("own", "resident"))
    outer = axes.barh(list(stages), resident, 0.6, color=GREY, label="with mapped files")
    axes.barh(list(stages), own, 0.6, color=BLUE, label="own memory")
    axes.bar_label(outer, [f"{a:.1f}, {b:.1f}" for a, b in zip(own, resident, strict=True)], padding=3, fontsize=8)
    bf16 = found["stages"]["write"]["bytes"] / 1e9
    axes.axvline(bf16, color=BROWN, linestyle="dashed", linewidth=1, label="the bf16 weights")
    axes.set(xlabel="GB", xlim=(0, 1.05 * bf16))
    axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    made.legend(frameon=False, loc="outside right upper")
    return made


PLOTS: dict[str, tuple[Callable[[Any], Figure], str]] = {  # of a script's section; and what the picture shows
    "training": (training, "Seconds and memory beside those of diffusers' script"),
    "growth": (growth, "Memory and seconds against resolution and rank"),
    "full_size": (full_size, "Memory of each stage at FLUX.1-dev's size"),
    "gpu": (gpu, "Seconds and memory of each way to paint"),
}


def png(drawn: Figure) -> bytes:
    file = io.BytesIO()
    drawn.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
