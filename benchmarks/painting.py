"""What the painter costs beside the bare pipeline, and what the adapter and the slider cost.

    python -m benchmarks.painting

(about 4 minutes on two CPU cores) writes painting.json. Ratios are of things timed in turn, the median of several
with a 95 % interval.
"""

import dataclasses
import itertools
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from torch import nn
from torch._dynamo.utils import counters

from benchmarks.measure import Ratio, in_turn, markdown, marked, parser, ratio, record, seconds_of
from impressionism.compiled import compile_blocks
from impressionism.lora import Update, inject, linears, lora_layers
from impressionism.paint import compare, encode, paint, set_strength, sweep
from impressionism.pipeline import ADAPTER_NAME, Painter, load_pipeline
from impressionism.records import GenerationParams

WIDTH, HEADS = 3072, 24  # of FLUX.1-dev's blocks
SIX = (0, 0.3, 0.6, 0.9, 1.2, 1.5)  # strengths of a sweep
TOKENS = (256, 128)  # of a picture of 256 pixels, of a caption
LINEAR = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
          "net.0.proj", "net.2", "proj_mlp", "proj_out"]  # fmt: skip
COMMANDS = (  # of each room the one with the most to import, and the whole command line
    ["cli"], ["impressionism"], ["space"], ["space.deploy"], ["tools.miniature"], ["training", "plan"],
    ["training", "fit"], ["evaluation", "score"], ["model_card", "check"],
)  # fmt: skip
TARGETS = {  # the largest ratio that is good
    "painter": (1.02, "a picture by the painter, beside the bare pipeline"),
    "comparison": (1.9, "a comparison, beside one picture"),
    "adapter": (1.08, "one FLUX.1-dev block of each kind with a rank-16 adapter, beside none (256 px, float32)"),
}


# ---- The painter


def pictures(painter: Painter, sampling: GenerationParams, repeats: int) -> dict:
    pipe: Any = painter.pipe
    tokens = encode(painter, sampling.prompt)[0].shape[1]
    numbers = itertools.count()

    def bare() -> None:
        pipe(sampling.prompt, num_inference_steps=sampling.steps, guidance_scale=sampling.guidance,
             width=sampling.width, height=sampling.height, max_sequence_length=tokens,
             generator=torch.Generator().manual_seed(sampling.seed))  # fmt: skip

    def unknown() -> None:  # a prompt that the painter does not remember
        paint(painter, dataclasses.replace(sampling, prompt=f"{sampling.prompt}, {next(numbers)}"))

    set_strength(pipe, 1.0)
    beside = in_turn(4 * repeats, bare=bare, painter=unknown)
    times = in_turn(
        repeats,
        painter=lambda: paint(painter, sampling),
        comparison=lambda: compare(painter, sampling),
        six=lambda: list(sweep(painter, sampling, SIX)),
    )
    ratios = {name: ratio(times[name], times["painter"]) for name in times if name != "painter"}
    return {
        "beside_the_pipeline": beside, "seconds": times,
        "ratios": {"painter": ratio(beside["painter"], beside["bare"])} | ratios,
    }  # fmt: skip


# ---- The adapter, at FLUX.1-dev's width


def blocks() -> nn.ModuleList:
    torch.manual_seed(0)
    head = WIDTH // HEADS
    made = [kind(WIDTH, HEADS, head) for kind in (FluxTransformerBlock, FluxSingleTransformerBlock)]
    return nn.ModuleList(made).requires_grad_(False).eval()


@torch.no_grad()
def adapter(repeats: int) -> dict:
    """One block of each kind, in float32, on a picture of 256 pixels: with an adapter of rank 16 on every linear layer
    but the modulation's, whose forward pass is the painter's, and without."""
    image, text = TOKENS
    streams = torch.randn(1, image, WIDTH), torch.randn(1, text, WIDTH)
    temb = torch.randn(1, WIDTH)
    rotary = (torch.ones(image + text, WIDTH // HEADS), torch.zeros(image + text, WIDTH // HEADS))
    plain = blocks()
    dressed = blocks()
    inject(dressed, ADAPTER_NAME, updates_for(dressed, rank=16), torch.float32)

    def run(both: Any) -> None:
        for block in both:
            block(*streams, temb, rotary)

    times = in_turn(repeats, adapter=lambda: run(dressed), none=lambda: run(plain))
    return {"seconds": times, "ratio": ratio(times["adapter"], times["none"])}


def updates_for(model: nn.Module, rank: int, layers: Sequence[str] = LINEAR) -> dict[str, Update]:
    """A random update for each linear layer whose name ends so."""
    return {
        path: Update(torch.randn(rank, linear.in_features), torch.randn(linear.out_features, rank), 1.0)
        for path, linear in linears(model).items()
        if path.endswith(tuple(layers)) and path != "proj_out"
    }


# ---- The slider


def slider(repeats: int) -> dict:
    """Milliseconds for a new strength on as many layers as the published adapter changes, 494."""
    transformer: Any = FluxTransformer2DModel(
        num_attention_heads=1, attention_head_dim=16, axes_dims_rope=(4, 6, 6), joint_attention_dim=16,
        pooled_projection_dim=16, num_layers=19, num_single_layers=38,
    )  # fmt: skip
    every = [*LINEAR, "norm1.linear", "norm1_context.linear", "norm.linear"]
    inject(transformer, ADAPTER_NAME, updates_for(transformer, 1, every), torch.float32)
    pipe: Any = type("Flux", (), {"transformer": transformer})
    times = [seconds_of(lambda s=turn: set_strength(pipe, s / repeats)) for turn in range(repeats)]
    return {"layers": len(lora_layers(transformer)), "milliseconds": statistics.median(times) * 1000}


def recompilations(painter: Painter, sampling: GenerationParams) -> int:
    """Graphs made by five new strengths once the blocks are compiled."""
    compile_blocks(painter.pipe, backend="eager")
    paint(painter, sampling)
    before = counters["stats"]["unique_graphs"]
    for strength in (0.5, 0.0, 1.3, -0.5, 1.0):
        paint(painter, sampling, strength)
    return counters["stats"]["unique_graphs"] - before


# ---- Starting


def starts() -> dict:
    """Seconds to the answer of --help; of the page, to its first answer. The median of three each."""

    def thrice(work: Callable[[], Any]) -> float:
        return statistics.median(seconds_of(work) for _ in range(3))

    helps = {" ".join(command): thrice(lambda command=command: help_of(command)) for command in COMMANDS}
    return {"help": helps, "space": thrice(page_answers)}


def help_of(command: list[str]) -> None:
    subprocess.run([sys.executable, "-m", *command, "--help"], check=True, capture_output=True)


def page_answers() -> None:
    page = subprocess.Popen([sys.executable, "-u", "-m", "space", "--model", "miniature"], stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True)  # fmt: skip
    assert page.stdout is not None
    for line in page.stdout:
        if "http://" in line:
            break
    else:
        raise SystemExit(f"`python -m space` ended before it answered, with status {page.wait()}; run it to see why.")
    page.terminate()
    page.wait()


# ---- The record


def table(result: dict) -> str:
    ratios = {name: Ratio(*found) for name, found in result["pictures"]["ratios"].items()}
    ratios["adapter"] = Ratio(*result["adapter"]["ratio"])
    moved, compiled, helps = result["slider"], result["recompilations"], result["starts"]["help"]
    slowest = max(helps, key=helps.get)
    rows = [
        *((what, ratios[name].text(), ratios[name].judged(f"≤ {most}", most))
          for name, (most, what) in TARGETS.items()),
        ("a sweep of six strengths, beside one picture", ratios["six"].text()),
        (f"a new strength on {moved['layers']} layers", f"{moved['milliseconds']:.2f} ms",
         marked("≤ 5 ms", moved["milliseconds"] <= 5)),
        ("graphs compiled by five new strengths", f"{compiled}", marked("0", compiled == 0)),
        (f"`--help`, the slowest of {len(helps)} commands ({slowest})", f"{helps[slowest]:.2f} s",
         marked("≤ 1 s", helps[slowest] <= 1)),
        ("`python -m space` until it answers", f"{result['starts']['space']:.1f} s"),
    ]  # fmt: skip
    return markdown(["Painting, on the miniature", "measured", "target"], rows)


def main() -> None:
    arguments = parser("painting", __doc__, repeats=10, steps=20).parse_args()
    painter = load_pipeline("miniature", device="cpu")
    sampling = GenerationParams(
        prompt="a sailing boat on the sea at dawn", steps=arguments.steps, width=192, height=192
    )
    result = {
        "starts": starts(),
        "pictures": pictures(painter, sampling, arguments.repeats),
        "adapter": adapter(3 * arguments.repeats),
        "slider": slider(50),
        "recompilations": recompilations(painter, sampling),
    }
    record(arguments.out, result, ("torch", "diffusers", "peft"), table)


if __name__ == "__main__":
    main()
