"""Training and painting at FLUX.1-dev's full size on a card, with random weights; writes gpu.json.

    python -m benchmarks.gpu [--folder work/full-size] [--diffusers diffusers] [--only training painting]

(about ten minutes on an H200; 24 GB of disk, better of memory: --folder /dev/shm/flux). Speed and memory do not depend
on the weights' values; the encoders and the autoencoder are small here, so that a picture's seconds are the
transformer's. --diffusers is a checkout of huggingface/diffusers, whose NF4 LoRA script, examples/research_projects/
flux_lora_quantization/train_dreambooth_lora_flux_miniature.py, trains beside ours; it wants torchvision.

A run that fails, for lack of memory above all, is a row that says so, and each row is kept as soon as it is there.
`--tiny` goes the same way with a tiny model on any device, to see that the script works; it writes nothing beside it.
"""

import argparse
import dataclasses
import gc
import hashlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._dynamo.utils import counters

from benchmarks import full_size
from benchmarks.painting import batch_of_two
from benchmarks.process import surroundings
from impressionism import names
from impressionism.compiled import compile_blocks
from impressionism.paint import compare, paint, sweep
from impressionism.pipeline import first_line, load_pipeline
from impressionism.records import Sampling

HERE = Path(__file__).parent
RESULT = HERE / "gpu.json"
SCRIPT = Path("examples/research_projects/flux_lora_quantization/train_dreambooth_lora_flux_miniature.py")
GIB = 2**30
RANK, TOKENS, PEER_TOKENS = 16, 512, 77  # the script takes no other number of tokens
ASKED = {("nf4", 512): 5.6, ("nf4", 768): 6.2, ("nf4", 1024): 7.0, ("int4", 1024): 8, ("int8", 1024): 13,
         ("int2", 1024): 5.5}  # GiB, of `attention`, every block recomputed  # fmt: skip
TINY = full_size.FLUX | {"num_layers": 2, "num_single_layers": 4, "num_attention_heads": 2}


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    device: str
    resolutions: tuple[int, ...]
    peer_resolutions: tuple[int, ...]
    """At which diffusers' script trains beside ours."""
    steps: int
    """Of training."""
    side: int
    painting_steps: int
    seeds: int
    offload: int


FULL = Scale("cuda", (512, 768, 1024), (1024, 512), 6, 1024, 28, 2, 40)
SMALL = Scale("cuda" if torch.cuda.is_available() else "cpu", (64, 80), (80,), 3, 64, 2, 2, 3)


# ---- Training


@dataclass(frozen=True)
class Setting:
    quantize: str
    resolution: int
    targets: str = "attention"
    checkpointing: bool = True
    compile: bool = False
    offload: int = 0
    peer: bool = False
    """Whether tokens and trained layers are those of diffusers' script."""

    def variant(self) -> str:
        """As `python -m training measure` takes it."""
        said = (f"model.quantize={self.quantize} data.resolution={self.resolution} adapter.targets={self.targets} "
                f"model.gradient_checkpointing={self.checkpointing} model.compile={self.compile} "
                f"model.offload={self.offload}")  # fmt: skip
        return said + f' model.max_sequence_length={PEER_TOKENS} adapter.ranks={{"add_":0}}' * self.peer


def settings(scale: Scale) -> list[Setting]:
    """What is asked about first; those of one precision together, which loads its base once."""
    least, *_, largest = scale.resolutions
    found = [Setting("nf4", side) for side in scale.resolutions]
    found += [Setting("nf4", side, peer=True) for side in scale.peer_resolutions]
    for mode in ("nf4", "none"):
        found += [Setting(mode, largest), Setting(mode, least)]
        found += [Setting(mode, largest, "style"), Setting(mode, largest, "style", checkpointing=False)]
    found += [Setting("nf4", least, offload=scale.offload)]
    found += [Setting(mode, largest) for mode in ("int8", "fp8", "int4", "int2")]
    found += [Setting(mode, largest, compile=True) for mode in ("nf4", "none")]
    return list(dict.fromkeys(found))


def training(folder: Path, scale: Scale, keep: Callable[[Any], None], _: Path | None) -> None:
    """Each setting beside what `plan` says of it."""
    rate = matmul_rate(scale.device)
    recipe = write_recipe(folder, scale)
    known = settings(scale)
    rows = []
    for setting, row in zip(known, measured(recipe, scale, [one.variant() for one in known]), strict=True):
        rows.append({**vars(setting), **row})
        keep({"matmul_rate": rate, "rows": rows})


def measured(recipe: Path, scale: Scale, variants: list[str]) -> Iterator[dict]:
    """Lines as they come; a variant that fails is one too."""
    command = full_size.training("measure", recipe, "--json", "--steps", str(scale.steps))
    for variant in variants:
        command += ["--variant", variant]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)
    if process.wait():
        raise RuntimeError(f"python -m training measure {recipe} failed; its reason is above.")


def write_recipe(folder: Path, scale: Scale) -> Path:
    recipe = folder / "recipe.json"  # JSON is YAML
    recipe.write_text(
        json.dumps(
            {
                "model": {"base": str(folder / "flux"), "max_sequence_length": TOKENS, "device": scale.device},
                "data": {"source": str(folder / "pictures"), "held_out": 0.0},
                "adapter": {"rank": RANK},
                "optimizer": {"name": "adamw8bit", "batch": 1, "accumulate": 1},
                "run": {"folder": str(folder / "run"), "cache": str(folder / "cache")},
            }
        )
    )
    return recipe


def matmul_rate(device: str, repeats: int = 10) -> float:
    """Operations a second of a matrix product alone, in the precision that the device trains in."""
    side, dtype = (8192, torch.bfloat16) if device == "cuda" else (1024, torch.float32)
    a = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side**3 / statistics.median(timed(device, lambda: a @ a) for _ in range(repeats))


def timed(device: str, work: Any) -> float:
    begun = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


# ---- Training beside diffusers' script

WATCHED = """
import json, runpy, sys, time
import datasets, torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook

script, picture, *sys.argv[1:] = sys.argv[1:]
datasets.load_dataset = lambda *_, **__: [{"image": Image.open(picture)}]  # the script names a dataset of the Hub
ends = []

def after(optimizer, *_):
    torch.cuda.synchronize()
    ends.append(time.perf_counter())
    finite = all(bool(p.isfinite().all()) for group in optimizer.param_groups for p in group["params"])
    print(json.dumps({"ends": ends, "peak": torch.cuda.max_memory_allocated(), "finite": finite}), flush=True)
    if len(ends) == 1:
        torch.cuda.reset_peak_memory_stats()  # what loading took is not a step's

register_optimizer_step_post_hook(after)
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""


def diffusers(folder: Path, scale: Scale, keep: Callable[[Any], None], checkout: Path | None) -> None:
    """Its script in NF4, at the settings of the rows of `training` that are marked so."""
    if checkout is None:
        return
    script, rows = checkout / SCRIPT, []
    for side in scale.peer_resolutions:
        rows.append({"resolution": side} | peer(folder, scale, script, side))
        keep({"script": str(SCRIPT), "sha256": hashlib.sha256(script.read_bytes()).hexdigest(), "rows": rows})


def peer(folder: Path, scale: Scale, script: Path, side: int) -> dict:
    picture = folder / "pictures" / "noise.png"
    options = {
        "pretrained_model_name_or_path": folder / "flux", "data_df_path": embeddings(folder, picture),
        "output_dir": folder / f"theirs-{side}", "mixed_precision": "bf16", "resolution": side,
        "train_batch_size": 1, "rank": RANK, "max_train_steps": scale.steps, "guidance_scale": 1,
        "lr_warmup_steps": 0, "learning_rate": 1e-4, "seed": 0, "max_sequence_length": PEER_TOKENS,
    }  # fmt: skip
    command = [sys.executable, "-c", WATCHED, str(script), str(picture), *(f"--{k}={v}" for k, v in options.items()),
               "--use_8bit_adam", "--gradient_checkpointing", "--cache_latents"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"ends"')]
    if len(lines) < scale.steps:
        return {"failed": (done.stderr.strip().splitlines() or ["it said nothing"])[-1][-300:]}
    last = lines[-1]
    return {
        "seconds": statistics.median(np.diff(last["ends"]).tolist()),
        "peak": last["peak"],
        "finite": last["finite"],
    }


def embeddings(folder: Path, picture: Path) -> Path:
    """Of the picture's caption, as the script's compute_embeddings.py would write them, with random numbers."""
    import pandas as pd
    from PIL import Image

    random = np.random.default_rng(0)
    row = {
        "image_hash": hashlib.sha256(Image.open(picture).tobytes()).hexdigest(),
        "prompt_embeds": random.standard_normal(PEER_TOKENS * 4096).tolist(),
        "pooled_prompt_embeds": random.standard_normal(768).tolist(),
        "text_ids": [0.0] * (PEER_TOKENS * 3),
    }
    pd.DataFrame([row]).to_parquet(folder / "embeddings.parquet")
    return folder / "embeddings.parquet"


# ---- Painting

WAYS = {  # precision, whether blocks are compiled, whether models wait in main memory for their turn
    "eager": ("none", False, False), "fp8, compiled": ("fp8", True, False), "compiled": ("none", True, False),
    "nf4, in turns": ("nf4", False, True), "fp8": ("fp8", False, False), "nf4": ("nf4", False, False),
    "int8": ("int8", False, False),
}  # fmt: skip


def painting(folder: Path, scale: Scale, keep: Callable[[Any], None], _: Path | None) -> None:
    """Each way to paint, on the same seeds: seconds, memory, and how far from the first its pictures are."""
    adapter = write_adapter(folder)
    found: dict[str, Any] = {}
    eager: list[np.ndarray] = []
    for way in WAYS:
        try:
            found[way], pictures = painted(folder, adapter, scale, way)
            eager = pictures if way == "eager" else eager
            found[way]["psnr"] = [psnr(*pair) for pair in zip(pictures, eager, strict=False)]
        except (RuntimeError, ValueError) as error:  # of which running out of memory is one
            found[way] = {"failed": first_line(error)[-300:]}
        found["another seed"] = {"psnr": [psnr(*pair) for pair in itertools.pairwise(eager)]}
        free()
        keep(found)


def painted(folder: Path, adapter: Path, scale: Scale, way: str) -> tuple[dict, list[np.ndarray]]:
    quantize, compiled, in_turns = WAYS[way]
    loading = time.perf_counter()
    painter = load_pipeline(str(folder / "flux"), str(adapter), quantize, scale.device)
    loading = time.perf_counter() - loading
    if in_turns and scale.device == "cuda":
        painter.flux.enable_model_cpu_offload()
    if compiled:
        compile_blocks(painter.flux)
    samplings = [Sampling(prompt="a boat", seed=seed, steps=scale.painting_steps, width=scale.side, height=scale.side)
                 for seed in range(scale.seeds if way == "eager" else 1)]  # fmt: skip
    short = dataclasses.replace(samplings[0], steps=2)
    found: dict[str, Any] = {"loading": loading, "first": timed(scale.device, lambda: paint(painter, short))}
    graphs = counters["stats"]["unique_graphs"]
    if scale.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    pictures: list[np.ndarray] = []
    found["seconds"] = [
        timed(scale.device, lambda one=sampling: pictures.append(np.asarray(paint(painter, one))))
        for sampling in samplings
    ]
    found["peak"] = torch.cuda.max_memory_allocated() if scale.device == "cuda" else None
    found["moved"] = [timed(scale.device, lambda s=s: paint(painter, short, s)) for s in (1.0, 0.5, 0.0, 1.3)]
    found["recompiled"] = counters["stats"]["unique_graphs"] - graphs
    if way == "fp8, compiled":
        strengths = [0, 0.25, 0.5, 0.75, 1, 1.25]
        found["six"] = timed(scale.device, lambda: list(sweep(painter, samplings[0], strengths)))
    if way == "eager":
        found["comparison"] = timed(scale.device, lambda: compare(painter, samplings[0]))
        found["batch of two"] = timed(scale.device, lambda: batch_of_two(painter, samplings[0]))
    return found, pictures


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


# ---- The record


def table(result: dict) -> str:
    parts = []
    if "training" in result:
        parts.append(training_table(result["training"]))
    if "diffusers" in result and "training" in result:
        parts.append(diffusers_table(result["diffusers"], result["training"]["rows"]))
    if "painting" in result:
        parts.append(painting_table(result["painting"]))
    return "\n\n".join(parts)


def training_table(part: dict) -> str:
    lines = ["| A training step, batch 1, rank 16 | seconds | memory | `plan` | of the matmul rate | asked |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for row in part["rows"]:
        name = f"{row['quantize']}, {row['resolution']}², {row['targets']}"
        name += ", recomputed" * row["checkpointing"] + ", compiled" * row["compile"] + ", 77 tokens" * row["peer"]
        name += f", {row['offload']} blocks wait" * (row["offload"] > 0)
        plan = f"{row['plan_peak'] / GIB:.2f} GiB, {row['plan_seconds']:.2f} s"
        if row["failed"]:
            lines.append(f"| {name} | {row['failed']} | | {plan} | | |")
            continue
        plain = row["targets"] == "attention" and not (row["offload"] or row["compile"] or row["peer"])
        most = ASKED.get((row["quantize"], row["resolution"])) if plain else None
        asked = "" if most is None else f"≤ {most} GiB" + late(row["peak"] > most * GIB)
        share = row["operations"] / row["seconds"] / part["matmul_rate"]
        lines.append(
            f"| {name} | {row['seconds']:.3f} | {row['peak'] / GIB:.2f} GiB | {plan} | {share:.0%} | {asked} |"
        )
    return "\n".join(lines)


def diffusers_table(part: dict, ours: list[dict]) -> str:
    lines = ["| NF4 beside diffusers' script, 77 tokens | ours | theirs | times as fast | of its memory |",
             "|---|---|---|---|---|"]  # fmt: skip
    alike = {row["resolution"]: row for row in ours if row["peer"]}
    for theirs in part["rows"]:
        mine = alike.get(theirs["resolution"], {"failed": "ours was not measured"})
        if failed := mine["failed"] or theirs.get("failed"):
            lines.append(f"| {theirs['resolution']}² | {failed} | | | |")
            continue
        each = [f"{side['seconds']:.3f} s, {side['peak'] / GIB:.2f} GiB" for side in (mine, theirs)]
        each[1] += ", its weights NaN" * (not theirs["finite"])
        faster, share = theirs["seconds"] / mine["seconds"], mine["peak"] / theirs["peak"]
        lines.append(f"| {theirs['resolution']}² | {' | '.join(each)} | {faster:.2f}, asked 2{late(faster < 2)} "
                     f"| {share:.2f} |")  # fmt: skip
    return "\n".join(lines)


def painting_table(found: dict) -> str:
    lines = ["| Painting 1024², 28 steps, a live adapter | seconds | times as fast | memory | loading | first 2 steps "
             "| recompiled | PSNR from eager |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    usual = statistics.median(found["eager"].get("seconds", [float("nan")]))
    for way, row in found.items():
        if "failed" in row:
            lines.append(f"| {way} | {row['failed']} |" + " |" * 6)
            continue
        seen = [value for value in row["psnr"] if value is not None]
        drift = f"{statistics.median(seen):.1f} dB" if seen else "equal" if row["psnr"] else ""
        figures = [""] * 6
        if "seconds" in row:
            seconds = statistics.median(row["seconds"])
            peak = f"{row['peak'] / GIB:.1f} GiB" if row["peak"] else ""
            figures = [f"{seconds:.2f}", f"{usual / seconds:.2f}", peak, f"{row['loading']:.0f} s",
                       f"{row['first']:.1f} s", str(row["recompiled"])]  # fmt: skip
        lines.append(f"| {way} | {' | '.join(figures)} | {drift} |")
    more = {"comparison": "a comparison", "batch of two": "both of it in one batch", "six": "a sweep of six"}
    for way, row in found.items():
        if said := [
            f"{told} {row[key] / statistics.median(row['seconds']):.2f}" for key, told in more.items() if key in row
        ]:
            lines.append(f"\n{way[0].upper() + way[1:]}, in pictures: {', '.join(said)}.")
    return "\n".join(lines)


def late(short: bool) -> str:
    return " **not reached**" * short


PARTS = {"training": training, "diffusers": diffusers, "painting": painting}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--folder", type=Path, default=Path("work/full-size"), help="for the weights; kept")
    parser.add_argument("--diffusers", type=Path, metavar="FOLDER", help="a checkout of diffusers, to train beside it")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=tuple(PARTS))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--tiny", action="store_true", help="the same with a tiny model, to try the script")
    arguments = parser.parse_args()
    if arguments.tiny:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "gpu.json"
            measure(Path(folder), SMALL, arguments.only, TINY, arguments.diffusers, out)
            print(table(json.loads(out.read_text())))
        return
    if not torch.cuda.is_available():
        sys.exit("This machine has no CUDA device that PyTorch can use; --tiny tries the script without one.")
    measure(arguments.folder.absolute(), FULL, arguments.only, full_size.FLUX, arguments.diffusers, arguments.out)
    print(table(json.loads(arguments.out.read_text())))


def measure(folder: Path, scale: Scale, only: tuple[str, ...], flux: dict, checkout: Path | None, out: Path) -> None:
    """Part after part; what there is of a part is kept at once, and one that fails leaves the others alone."""
    if not (folder / "flux").exists():
        full_size.write(folder, flux, TOKENS, scale.resolutions[-1])
    card = torch.cuda.get_device_name() if scale.device == "cuda" else "a CPU"
    result: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    if result.get("card", card) != card:
        raise SystemExit(f"{out} is of another card, an {result['card']}; give --out another file.")
    result |= {"card": card, **surroundings(card, ("torch", "diffusers", "peft", "bitsandbytes"))}

    def keep(name: str, part: Any) -> None:
        result[name] = part
        out.write_text(json.dumps(result, indent=1) + "\n")

    for name in only:
        begun = time.monotonic()
        try:
            PARTS[name](folder, scale, lambda part, name=name: keep(name, part), checkout)
        except (OSError, RuntimeError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
