"""benchmarks/README.md, written from the JSON beside the scripts: every claim with its figure, reached or not.

python -m benchmarks.page
"""

import importlib
import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.plots import PLOTS, png
from benchmarks.tables import marked

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
PAGE = HERE / "README.md"


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
Both train rank 16 at 192 px in float32: the miniature in 64 steps of four pictures, medium in 16 of one. Times faster
is the median of paired runs, its interval with five of them about their range; the machine was restless that day, and a
quiet one had said 1.08 (1.06 to 1.14) and 1.04 (1.00 to 1.06), before freed weights were given back. From memory the
imports are subtracted, each side's own; the script also wants `datasets` and torchvision. The script's cache of latents
pairs them with the captions of other pictures, which its loss shows; without it, its loss is a little below ours, and a
sample takes it 1.9 times as long as ours.

Most of a step is the same for both: the products of the blocks, forward and backward, and attention. Even at the rate
of large products alone those of medium take two fifths of a sample's time, on the quiet day half, on either side, so
leaving out all that ours leaves out around them makes little: a caption is encoded once, where the script encodes it at
each step, and the modulation is computed ahead. Latents are cached on both sides. Tried for 1.3 times: compiled blocks,
as `model.compile` offers them, which the script does not; and on medium, in turns of two, another allocator, tcmalloc
(1.05), and OpenMP's threads waiting actively (1.03). Tried alone, of a block: a norm and a rotation of queries and keys
with a backward pass of its own, which would make a step of the miniature a twentieth shorter and of medium a thirtieth;
not taken, since compiling does the same. At other settings work can be left out: `style` and `compact` train fewer
layers, and gradients stop where they begin.

Of medium's 922 MB `plan` counts 764 as tensors, 629 of them the base's float32 weights without the modulation's; of
the miniature's 262 it counts 120. The rest is no tensor of a step: about 100 MB of medium lie free between tensors,
where the C library finds room for them at once. Without such room it held 60 MB less, and a step took a fifth longer.
Tried, and within the 3 % by which one run differs from the next: one arena for the C library, and a fixed size from
which it maps. What helped: giving freed weights back after the encoders and after the modulation's rows (30 MB of
medium), reading shards through windows of 64 MB, and two pictures at a time through the autoencoder.

Diffusers' script for NF4, `examples/research_projects/flux_lora_quantization`, wants a GPU: it is beside ours
[there](#on-a-gpu).
""",
        in_readme=True,
    ),
    Section(
        "painting",
        "Painting",
        """
A comparison is cheaper than two pictures because the base's needs no adapter. With an adapted layer's own forward
pass, in place of PEFT's, an adapted picture of the miniature takes 1.13 times the base's where it took 1.26, in turns
in one process. On an H200 a comparison is 1.94 pictures (asked 1.9, **not reached**), [there](#on-a-gpu).

Several strengths in one batch, with a scale a row, save launches where a device is idle between them (an H200 at
1024² is not), but sums are rounded otherwise there: strength 0 would no longer be the base model bit for bit, and no
picture the one that its recipe paints again. So a sweep paints one after the other.

The new strength is set on 494 narrow layers, as many as the published adapter has; compiled graphs are counted with
PyTorch's own backend for that. The benchmarks' `--help` is not among the commands: they load PyTorch first, and answer
after seconds. `python -m space` was started before, so that the system has its files in memory.
""",
    ),
    Section(
        "space",
        "The Space",
        """
On a rented machine a picture's seconds vary by a fifth from one to the next; with a quarter of these turns the same
code had +0.5 % on one day and +8.6 % on another. What the app adds is a fixed time a call, 15 ms where these were
measured, whatever the picture takes: 5 of HTTP and Gradio, as an exact repeat tells, 3 for the PNG, 2 of waiting for
its turn, the rest for previews and threads. The bare call is made in a thread of its own, as the app's: in a
program's main thread the same call took 4 % longer, and the app 1.8 % less than it.

Gradio's queue looked for work a thousand times a second, which took 8 % of a core while nobody asked and contended
with the painter while somebody did. Now it looks 250 times while nothing is painted and 50 times while something is,
so that a painting waits 2 ms for its turn; with 50 throughout it waited 10. A program that begins a new session with
each call, as curl does, waits 20 ms longer: Gradio describes every part of the page to each new session. A PNG of
1024² took 0.4 s to write and takes 0.1, at 5 % more bytes.

OpenMP keeps a team of threads for each thread that computes, and while all teams together have more threads than
there are cores they sleep between two operations: with a new thread a call the app cost 13 to 26 % more than the
pipeline. Now one thread loads the painter and paints. Tried before: telling the steps four times a second instead of
each one (31 % became 26 %). A moved slider needs the adapted picture only, the dearer of the two.

A sweep of six in 5.2 single pictures, adapted ones, is not reached: five adapted pictures and one of the base are
5.88 of them, and all that they can share bit for bit is the caption's encoding and the way through the app. Tried:
two in one batch, and the base alone with the five others in one batch, both [above](#painting), which are faster and
change the pictures. On an H200 a sweep of six is 5.96 pictures and two in one batch 2.27, [there](#on-a-gpu).
""",
    ),
    Section(
        "growth",
        "How it grows",
        """
Memory is what a process holds beyond one that has imported the same libraries. Each row of steps is one run, and from
one day to the next the same run took a fifth longer, so a smaller difference says nothing. The 200 to 20,000 pictures
have 64 px and one caption, those of the last table 192 px and one each; the miniature encodes both. A picture's
milliseconds are a difference of two runs of some seconds, in which start-up hides that of 200 pictures. What memory
grows by is a picture's record; no entry of the cache is kept once it is read. Statistics are of pictures of 192 px that
are in memory; those [below](#pictorial-statistics) are of paintings' files.

The miniature's autoencoder is so small that what comes before and after it takes longer than itself: reading, fitting
and writing a picture, and encoding its caption. So `cache` does not keep up with it. Tried: two pictures at a time
through the autoencoder, and decoding ahead in other threads while it works; both stayed. One of FLUX.1-dev's size, with
random weights, takes many times as long as all of that.
""",
    ),
    Section("statistics", "Pictorial statistics"),
    Section(
        "full_size",
        "FLUX.1-dev at its full size, on a CPU",
        """
Machines differ much: an older one, busy besides, took 234 s for NF4 and 264 s for the pass. In a trial before this
script, on a third, loading took 292 s and 7.2 GB, and one pass 48 s and 8.3 GB. Own memory is judged where weights are
quantized, elsewhere that with mapped files. What is kept in a file is mapped, so loading takes no time and little
memory until a weight is used, and a pass holds the file's pages besides its own memory. The modulation's outputs are
those of its bf16 weights, not of NF4's as in the pass before, so it is compared with them kept in memory.

A training step begins when the base is loaded, and computes the modulation from the bf16 files first. `plan` counts its
tensors; the rest is the program, 0.6 GB, and what the C library keeps between tensors.

Before this script, diffusers' `from_pretrained` with quanto's int8 took 14.6 GB of its own and 23.3 with mapped files;
with bitsandbytes it refuses to load where there is no GPU. Published of another trainer, SimpleTuner: about 50 GB of
main memory at the start, to quantize.
""",
    ),
    Section(
        "gpu",
        "On a GPU",
        """
Random weights in FLUX.1-dev's shape, so seconds and memory are its own; encoders and autoencoder are small. Memory is
asked of `attention` with every block recomputed and 512 tokens; 45 % of the rate of rows at 1024² that are compiled or
recompute nothing, and no row reaches it. `plan` that day is what it said when the row was measured. Its memory is
counted; its seconds were fitted to these rows afterwards, so for other cards they are a guess. A test holds what it
says now to every row: within 4 % of the seconds (asked 10) and 3 % of the memory, 3.5 with 77 tokens. With 77 tokens a
step of 1024² took a tenth longer than its products would lead one to expect, compiled a twentieth; why is not known,
and `plan` adds 9 % for every caption whose length is no multiple of eight. The matmul rate is a product's of 8192², 798
TFLOPS; what `plan` measures for itself is one of 4096² with its launch, 579. The model's own products are those done
without a block's recomputing.

- Recomputed: every block, in the backward pass (gradient checkpointing). Without quantization training holds less
  than painting, since the modulation's weights stay on the disk.
- Small steps are bound by launching kernels: 512² takes as long as 768², and compiled blocks as long as others,
  because each NF4 weight was expanded by two calls through Python. Compiled blocks do it in one kernel now: on a CPU,
  with 57 narrow blocks, a block's pass takes 1.6 ms where it took 2.3. And the optimizer updates one tensor now that
  holds all 532 of `attention`: 66 ms of launching a step became 5, on a CPU with tensors so small that nothing else
  counts. On a card neither is measured yet: `plan` says the seconds of the code as it was measured, probably too
  many.
- A step's seconds leave out the first of six, in which ours computes the modulation of up to 64 steps from the files:
  about 1.7 s, as in painting, or 26 ms a step. And they leave in, on the script's side, a look at every weight after
  each step, whether it is finite, which is gone from our code now. Neither has been measured again. With the 26 ms,
  as an estimate, 1.22 and 1.56 would be about 1.18 and 1.50, and 1.43 and 1.41 about 1.36 and 1.35; without the look
  they would be less again.
- Twice the samples of diffusers' script is not reached at the same settings: both multiply the same matrices, and
  both compute each block twice. Tried: adapted layers that add in place, as in the table, and compiled blocks (1.56).
  With nothing recomputed as well a step of an earlier day took 0.39 s (2.40 times as many samples, 2.25 with the
  26 ms), but 37.4 GiB: the compiler kept every expanded weight from the forward to the backward pass. That is mended,
  so the row went, and today's code is not measured.
- 45 % of the rate of products alone (asked of the model's own products) is not reached: a recomputed block's products
  do not count, and beside products a step expands NF4, attends, normalizes and modulates, at the memory's pace.
  Tried: compiled blocks, 33 % in NF4 and 36 % in bf16 (with the recomputed products 47 and 52 %), and `style` with
  nothing recomputed, 38 and 42 %. Both together are not measured.
- `style` without recomputing makes 1.98 times as many steps as `attention` does with it (asked 1.5); both recomputed,
  1.62 times; and 1.22 times as many as `style` recomputed, in bf16 1.28.
- The script takes no other number of tokens than 77 and knows only NF4; at 768² it was not measured. Published of it
  are 9 GB at 512 × 768 on an RTX 4090, with rank 4 on four layers of a block; of SimpleTuner, rank 16 on every layer,
  more than 30 GB in bf16, 18 in int8, 13 in int4, 9 in NF4 and int2; of painting with fp8 and compiled blocks 3.55 s
  where bf16 took 7.89 (2.23 times, H100).
- cuDNN's attention is left out of training: with 512 tokens its backward pass made NaN of gradients (PyTorch 2.11,
  H200), where the flash kernel's were finite.

Painting, with an adapter on every linear layer of every block; its strength is moved four times after the three
pictures that are timed. In turns: models wait in main memory until they are needed. Steps left out: by MagCache. Drift
is of random weights too, so the decibels, in brackets the least and the greatest of three seeds, tell roundings from
mistakes, and no more. The rows are of two machines of one kind, each beside its own bf16; between the two the adapter's
update became one that is added in place. Since then an adapted layer has also lost PEFT's look-ups, which no row shows.

- 2.2 times the speed of bf16 is not reached by faster products: fp8 and compiled blocks made 1.80 of the 5.75 s, and
  their 3.20 s would be 1.66 of the 5.31. It is reached (2.33 of the 5.31) where MagCache leaves out the steps that
  are most like those before them. The painter does not offer that: how far it moves a picture is FLUX.1-dev's own
  affair, and these weights are not its. MagCache and the modulation began after the first two steps, so that cell is
  empty.
- NF4 with models in turns holds 6.5 GiB (8.5 GB asked, which is 7.9 GiB), 0.63 times as fast. The modulation computed
  ahead holds 6.0 GiB less and takes 1.7 s longer a picture, in which its weights are read from the disk again.
- Packages compiled ahead of time, as ZeroGPU needs them, take 80 s to make and paint as fast as those of
  torch.compile.
- The living adapter is 0.33 s of 5.31 (0.78 of 5.75 before), so a comparison is 1.94 pictures. Base and adapted in
  one batch take longer than one after the other: the card is full with one picture, and the base's half computes an
  update that it drops.
- Loading, from main memory: a local folder is read for its digest too, where a model of the Hub has a commit. Of
  bf16's 22 s, watched by a profiler, 8 went to one question, which precision the model has, that was put for each of
  the adapter's matrices and that diffusers answers by walking through all modules. It is put once now; not measured
  since.
""",
    ),
)


BENCH = ("miniature", "painting", "space", "growth")


def minutes() -> str:
    """How long `make bench` took, where each of its parts says so."""
    records = [HERE / f"{name}.json" for name in BENCH]
    taken = [json.loads(record.read_text()).get("seconds", 0) for record in records if record.exists()]
    if len(taken) < len(BENCH) or not all(taken):
        return ""
    return f", which took {sum(taken) / 60:.0f} minutes together ({marked('asked: ≤ 40', sum(taken) <= 2400)})"


def text() -> str:
    parts = [
        "# Measured\n\nEach table is written by `python -m benchmarks.page` from the JSON beside the script of its "
        f"name, which keeps what that measured. `make bench` runs {', '.join(BENCH)}{minutes()}; with "
        "`DIFFUSERS=` and a checkout of diffusers also training, which wants torchvision installed; `make bench-full` "
        "runs FLUX.1-dev's full size; the others run by hand, each as it says: statistics wants a folder of paintings "
        "and photographs, gpu a card.\n\n"
        "Asked is what the project set itself; without a remark it was reached. In brackets stand 95 % intervals, and "
        "*not sure* means that the limit lies in one. Figures in the text that no table has, and that are not "
        "published, counted or estimated, are of trials whose records were not kept. The miniature is the bundled "
        "model of 24 MB, medium a random FLUX of 207 M parameters."
    ]
    for section in SECTIONS:
        table = section.table()
        parts.append(f"## {section.title}\n")
        parts[-1] += f"\n`python -m benchmarks.{section.script}`" + (f": {section.where()}." if table else ".")
        parts.append(table or "**Not measured.**")
        if section.script in PLOTS and table:
            parts.append(f"![{PLOTS[section.script][1]}]({section.script}.png)")
        if section.notes and table:
            parts.append(section.notes.strip())
    return "\n\n".join(parts) + "\n"


def write_into(file: Path, section: Section) -> None:
    """The section's table, between its marks."""
    before, _, after = file.read_text().split(section.mark, 2)
    file.write_text(f"{before}{section.mark}\n{section.table()}\n{section.mark}{after}")


def main() -> None:
    PAGE.write_text(text())
    for section in SECTIONS:
        if section.script in PLOTS and section.result.exists():
            draw, _ = PLOTS[section.script]
            section.result.with_suffix(".png").write_bytes(png(draw(json.loads(section.result.read_text()))))
        if section.in_readme:
            write_into(README, section)


if __name__ == "__main__":
    main()
