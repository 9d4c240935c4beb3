"""benchmarks/README.md, written from the JSON beside the scripts: every claim with its figure, reached or not.

python -m benchmarks.page
"""

import importlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
PAGE = HERE / "README.md"
PLOT = HERE / "growth.png"


@dataclass(frozen=True)
class Section:
    """A script's part of the page."""

    script: str
    """benchmarks/<script>.py, with a function `table` that takes what is in <script>.json."""
    title: str
    notes: str = ""
    """Why something is not reached, and what was tried."""
    in_readme: bool = False

    @property
    def result(self) -> Path:
        return HERE / f"{self.script}.json"

    @property
    def mark(self) -> str:
        return f"<!-- written by benchmarks/page.py: {self.script} -->"

    def table(self) -> str | None:
        if not self.result.exists():
            return None
        module = importlib.import_module(f"benchmarks.{self.script}")
        return module.table(json.loads(self.result.read_text()))

    def where(self) -> str:
        found = json.loads(self.result.read_text())
        versions = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
        return "; ".join(part for part in (str(found.get("machine", "")), versions) if part)


SECTIONS = (
    Section("miniature", "The miniature", in_readme=True),
    Section(
        "training",
        "Training beside diffusers' script",
        """
Both compute in float32 with equal settings, and both spend their time in matrix products: on the model of 207 M
parameters a sample is 103 GFLOP, which is 1.15 s at the 90 GFLOPS that this processor reaches in a matrix product
alone, so little can be gained there at equal settings: on another day ours was 0.98 times as fast. Tried and left out,
because they gained nothing or less than 3 % on a CPU: `torch.compile` of the blocks, and the Muon optimizer. What can
be left out is work: `style` and `compact` train fewer layers, and gradients stop where they begin.
Diffusers' script for NF4, `examples/research_projects/flux_lora_quantization`, wants a GPU: it is beside ours
[there](#on-a-gpu).
""",
        in_readme=True,
    ),
    Section(
        "painting",
        "Painting",
        """
A comparison is two pictures from one noise, encoded once. That saves a hundredth of the miniature's work; the rest is
the base's picture, which needs no adapter. Both in one batch, with a scale a row, is measured above as well: it saves
launches where a device is idle between them (an H200 at 1024² is not, see below), but its sums are rounded otherwise,
and strength 0 would no longer be the base model bit for bit, which is the comparison's promise.

The miniature's rows are of PEFT's forward pass, with which an adapted picture took 1.26 times the base's. With ours it
takes 1.13 times, in turns in one process, so both together are a larger part of one: about 1.88.
""",
    ),
    Section(
        "space",
        "The Space",
        """
In brackets are 95 % intervals: on a rented machine a picture's seconds vary by a fifth from one to the next, and with a
quarter of these turns the same code had +0.5 % on one day and +8.6 % on another. An exact repeat tells what of a call
is HTTP and Gradio. A program that begins a new session with each call, as curl does, waits 20 ms longer: Gradio
describes every part of the page to each new session.

Gradio's queue looked for work a thousand times a second, which took 8 % of a core while nobody asked and contended with
the painter while somebody did; now it looks 50 times. A PNG of 1024² took 0.4 s to write and takes 0.1, at 5 % more
bytes.

OpenMP keeps a team of threads for each thread that computes, and while all teams together have more threads than there
are cores they sleep between two operations: with a new thread a call the app cost 13 to 26 % more than the pipeline.
Now one thread loads the painter and paints. Tried before: telling the steps four times a second instead of each one
(31 % became 26 %). A moved slider needs the adapted picture only, which on the miniature took 1.26 times the base's
with PEFT's forward pass, as when the table was measured, and takes 1.13 times with ours, in turns in one process: that
would be 53 % of both, and what the app adds. A sweep shares the caption's encoding and its way through the app, and no
more. Two painted in one batch take 1.6 to 1.8 pictures, and then strength 0 would no longer be the base model bit for
bit. What a GPU makes of this is not measured.
""",
    ),
    Section(
        "growth",
        "How it grows",
        """
Memory is what a process holds beyond one that has imported the same libraries. Each row of steps is one run; the same
settings, measured twice, took seconds 5 % apart, and rank changes no more than that. The 200 to 20,000 pictures have 64
px and one caption, those of the last table 192 px and one each; the miniature encodes both. A picture's milliseconds
are a difference of two runs of some seconds, which says little for 200 pictures. The miniature's autoencoder is so
small, taken two pictures at a time, that reading, fitting and writing a picture takes as long again; FLUX.1-dev's is
many times that work, but was not measured here.
""",
    ),
    Section("statistics", "Pictorial statistics"),
    Section(
        "full_size",
        "FLUX.1-dev at its full size, on a CPU",
        "Timed with other, lighter work beside it. What is kept in a file is mapped, so loading takes no time until a "
        "weight is used, and a pass holds the file's pages besides its own memory. `plan` counts tensors; what the C "
        "library holds between them comes on top. Rows that are missing were not measured.",
    ),
    Section(
        "gpu",
        "On a GPU",
        """
Random weights in FLUX.1-dev's shape, so seconds and memory are its own; encoders and autoencoder are small. `plan` is
as it was when a row was measured; it has been fitted to these seconds since, and a test holds it to them within 10 %,
but for captions of 77 tokens. Its memory was counted, not fitted. The matmul rate is a product's of 8192², 798 TFLOPS;
what `plan` measures for itself is one of 4096² with its launch, 579. Blocks that wait in main memory are not measured.

- Recomputed: every block, in the backward pass (gradient checkpointing). Without quantization training holds less than
  painting, since the modulation's weights stay on the disk.
- Small steps are bound by launching kernels: 512² takes as long as 768², and compiled blocks as long as others, because
  each NF4 weight was expanded by two calls through Python. Compiled blocks do it in one kernel now: on a CPU, with 57
  narrow blocks, a block's pass takes 1.6 ms where it took 2.3. And the optimizer updates one tensor now that holds all
  532 of `attention`: 66 ms of launching a step became 5, on a CPU with tensors so small that nothing else counts. On a
  card neither is measured yet: `plan` says the seconds of the code as it was measured, probably too many.
- Twice the samples of diffusers' script is not reached at the same settings: both multiply the same matrices, and both
  compute each block twice. Tried: adapted layers that add in place, as in the table, and compiled blocks (1.56). With
  nothing recomputed as well a step took 0.39 s (2.40 times as many samples), but 37.4 GiB: the compiler kept every
  expanded weight from the forward to the backward pass. That is mended, and its seconds have not been measured since.
- 45 % of the rate of products alone (asked) is reached by compiled blocks at 1024² (47 and 52 %; 45 with 77 tokens),
  and not without.
- `style` without recomputing makes 1.98 times as many steps as `attention` does with it (asked 1.5); both recomputed,
  1.62 times.
- cuDNN's attention is left out of training: with 512 tokens its backward pass made NaN of gradients (PyTorch 2.11,
  H200), where the flash kernel's were finite.

Painting, with an adapter on every linear layer of every block and its strength moved after the first picture. In turns:
models wait in main memory until they are needed. Steps left out: by MagCache. Drift is of random weights too, so the
decibels tell roundings from mistakes, and no more. The rows are of two machines of one kind, each beside its own bf16;
between the two the adapter's update became one that is added in place. Since then an adapted layer has also lost PEFT's
look-ups, which no row shows.

- 2.2 times the speed of bf16 is not reached by faster products: fp8 and compiled blocks made 1.80 of the 5.75 s, and
  their 3.20 s would be 1.66 of the 5.31. It is reached (2.33 of the 5.31) where MagCache leaves out the steps that are
  most like those before them. The painter does not offer that: how far it moves a picture is FLUX.1-dev's own affair,
  and these weights are not its. MagCache and the modulation began after the first two steps, so that cell is empty.
- NF4 with models in turns holds 6.5 GiB (8.5 GB asked, which is 7.9 GiB), 0.63 times as fast. The modulation computed
  ahead holds 6.0 GiB less and takes 1.7 s longer a picture, in which its weights are read from the disk again.
- Packages compiled ahead of time, as ZeroGPU needs them, take 80 s to make and paint as fast as those of torch.compile.
- The living adapter is 0.33 s of 5.31 (0.78 of 5.75 before), so a comparison is 1.94 pictures. Base and adapted in one
  batch take longer than one after the other: the card is full with one picture, and the base's half computes an update
  that it drops.
- Loading, from main memory: a local folder is read for its digest too, where a model of the Hub has a commit. Of bf16's
  22 s, watched by a profiler, 8 went to one question, which precision the model has, that was put for each of the
  adapter's matrices and that diffusers answers by walking through all modules. It is put once now; not measured since.
- Not measured for lack of time: nf4 and fp8 not compiled, nf4 compiled, int8, fp8 compiled with steps left out.
""",
    ),
)


def text() -> str:
    parts = [
        "# Measured\n\nEach table is written by `python -m benchmarks.page` from the JSON beside the script of its "
        "name, which keeps what that measured. `make bench` runs miniature, painting, space and growth, "
        "`make bench-full` FLUX.1-dev's full size; the others run by hand, each as it says."
    ]
    for section in SECTIONS:
        table = section.table()
        parts.append(f"## {section.title}\n")
        parts[-1] += f"\n`python -m benchmarks.{section.script}`" + (f": {section.where()}." if table else ".")
        parts.append(table or "**Not measured.**")
        if section.script == "growth" and table:
            parts.append(f"![Memory and seconds against resolution and rank]({PLOT.name})")
        if section.notes and table:
            parts.append(section.notes.strip())
    return "\n\n".join(parts) + "\n"


def growth_plot() -> bytes:
    """Memory and seconds of a training step against the resolution, and against the rank."""
    from matplotlib.figure import Figure

    found = json.loads((HERE / "growth.json").read_text())
    figure = Figure(figsize=(8, 3), dpi=110, layout="constrained")
    for axes, what in zip(figure.subplots(1, 2), ("resolution", "rank"), strict=True):
        points = sorted((int(value), one) for value, one in found["training"][what].items())
        x = [value for value, _ in points]
        memory = [(one["training_peak"] - found["idle_memory"]) / 1e6 for _, one in points]
        times = [one["seconds_per_sample"] for _, one in points]
        sides = (
            (axes, memory, "memory, MB", "#3b5b92", "o-"),
            (axes.twinx(), times, "seconds a sample", "#a8591a", "s--"),
        )
        for side, y, label, colour, line in sides:
            side.plot(x, y, line, color=colour)
            side.set(ylim=(0, 1.1 * max(y)))
            side.set_ylabel(label, color=colour)
        axes.set(xlabel=what, xticks=x)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def write_into(file: Path, section: Section) -> None:
    """The section's table, between its marks."""
    before, _, after = file.read_text().split(section.mark, 2)
    file.write_text(f"{before}{section.mark}\n{section.table()}\n{section.mark}{after}")


def main() -> None:
    if (HERE / "growth.json").exists():
        PLOT.write_bytes(growth_plot())
    PAGE.write_text(text())
    for section in SECTIONS:
        if section.in_readme:
            write_into(README, section)


if __name__ == "__main__":
    main()
