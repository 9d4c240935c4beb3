"""Training steps at FLUX.1-dev's full size on a card, beside what `plan` says of them and beside diffusers' script."""

import dataclasses
import hashlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import full_size
from benchmarks.gpu_scale import FULL, GIB, RANK, Scale, timed
from benchmarks.measure import markdown, marked, not_measured

SCRIPT = Path("examples/research_projects/flux_lora_quantization/train_dreambooth_lora_flux_miniature.py")
TOKENS, PEER_TOKENS = 512, 77  # the script takes no other number of tokens
ASKED = {("nf4", 512): 5.6, ("nf4", 768): 6.2, ("nf4", 1024): 7.0, ("int4", 1024): 8, ("int8", 1024): 13,
         ("int2", 1024): 5.5}  # GiB, of `attention`, every block recomputed  # fmt: skip
SHARE = 0.45  # target of the matmul rate at 1024², compiled or without checkpointing


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

    def name(self) -> str:
        """As the table has it."""
        said = f"{'bf16' if self.quantize == 'none' else self.quantize}, {self.resolution}², {self.targets}"
        said += ", checkpointed" * self.checkpointing + ", compiled" * self.compile + ", 77 tokens" * self.peer
        return said + f", {self.offload} blocks in main memory" * (self.offload > 0)

    @classmethod
    def of(cls, row: dict) -> "Setting":
        return cls(**{field.name: row[field.name] for field in dataclasses.fields(cls)})


def settings(scale: Scale) -> list[Setting]:
    """The most wanted first; rows of one precision together, because each precision loads the base once."""
    *smaller, largest = scale.resolutions
    least = smaller[0]
    found = [Setting("nf4", side) for side in scale.resolutions]
    found += [Setting("nf4", side, peer=True) for side in scale.peer_resolutions]
    for mode in ("nf4", "none"):
        found += [Setting(mode, largest), Setting(mode, least)]
        found += [Setting(mode, largest, "style"), Setting(mode, largest, "style", checkpointing=False)]
    found += [Setting("nf4", least, offload=scale.offload)]
    found += [Setting(mode, largest) for mode in ("int8", "fp8", "int4", "int2")]
    found += [Setting("nf4", side, compile=True, peer=True) for side in scale.peer_resolutions]
    found += [Setting(mode, side) for mode in ("none", "int8", "int4", "int2") for side in smaller]
    found += [Setting("nf4", largest, checkpointing=False, compile=True, peer=True)]
    found += [Setting("nf4", largest, "style", checkpointing=False, compile=True)]
    found += [Setting(mode, side, compile=True) for mode in ("nf4", "none") for side in (largest, least)]
    compiles = scale.device == "cuda"  # which takes a CPU too long for a trial
    return [one for one in dict.fromkeys(found) if compiles or not one.compile]


def training(folder: Path, scale: Scale, before: dict, keep: Callable[[Any], None], _: Path | None) -> None:
    """Each setting beside what `plan` says of it."""
    rows = [row for row in before.get("rows", []) if not row["failed"]]
    todo = missing(settings(scale), rows)
    if not todo:
        return
    rate, recipe = matmul_rate(scale.device), write_recipe(folder, scale)
    for setting, row in zip(todo, measured(recipe, scale, [one.variant() for one in todo]), strict=True):
        rows.append({**vars(setting), **row, "matmul_rate": rate})
        keep({"rows": rows})


def missing(wanted: list[Setting], rows: list[dict]) -> list[Setting]:
    """Those that have no row."""
    there = {Setting.of(row) for row in rows}
    return [one for one in wanted if one not in there]


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


# ---- Training beside diffusers' script

WATCHED = """
import json, runpy, sys, time
import datasets, torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook

script, picture, steps, *sys.argv[1:] = sys.argv[1:]
datasets.load_dataset = lambda *_, **__: [{"image": Image.open(picture)}]  # the script names a dataset of the Hub
ends = []

def after(optimizer, *_):
    torch.cuda.synchronize()
    ends.append(time.perf_counter())
    if len(ends) == 1:
        torch.cuda.reset_peak_memory_stats()  # what loading took is not a step's
    if len(ends) == int(steps):
        peak = torch.cuda.max_memory_allocated()
        finite = all(bool(p.isfinite().all()) for group in optimizer.param_groups for p in group["params"])
        print(json.dumps({"ends": ends, "peak": peak, "finite": finite}), flush=True)

register_optimizer_step_post_hook(after)
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""


def diffusers(folder: Path, scale: Scale, _: dict, keep: Callable[[Any], None], checkout: Path | None) -> None:
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
    command = [sys.executable, "-c", WATCHED, str(script), str(picture), str(scale.steps),
               *(f"--{k}={v}" for k, v in options.items()),
               "--use_8bit_adam", "--gradient_checkpointing", "--cache_latents"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"ends"')]
    if not lines:
        return {"failed": (done.stderr.strip().splitlines() or ["it said nothing"])[-1][-300:]}
    [found] = lines
    return {
        "seconds": statistics.median(np.diff(found["ends"]).tolist()),
        "peak": found["peak"],
        "finite": found["finite"],
    }


def embeddings(folder: Path, picture: Path) -> Path:
    """Random embeddings of the picture's caption, as the script's compute_embeddings.py would write them."""
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


# ---- The tables


def training_table(part: dict) -> str:
    head = ["A training step, batch 1, rank 16", "seconds", "memory", "`plan` that day", "target",
            "share of the matmul rate", "without recomputation"]  # fmt: skip
    rows = []
    for row in part["rows"]:
        setting = Setting.of(row)
        plan = f"{row['plan_peak'] / GIB:.2f} GiB, {row['plan_seconds']:.2f} s"
        if row["failed"]:
            rows.append([setting.name(), row["failed"], "", plan])
            continue
        plain = setting == Setting(setting.quantize, setting.resolution)
        most = ASKED.get((setting.quantize, setting.resolution)) if plain else None
        target = "" if most is None else marked(f"≤ {most} GiB", row["peak"] <= most * GIB)
        done, own = (row[key] / row["seconds"] / row["matmul_rate"] for key in ("operations", "model_operations"))
        fast = setting.resolution == 1024 and (setting.compile or not setting.checkpointing)
        verdict = marked(f", target {100 * SHARE:.0f} %", own >= SHARE) if fast else ""
        rows.append([setting.name(), f"{row['seconds']:.3f}", f"{row['peak'] / GIB:.2f} GiB", plan, target,
                     f"{done:.0%}", f"{own:.0%}{verdict}"])  # fmt: skip
    return markdown(head, rows) + not_measured(one.name() for one in missing(settings(FULL), part["rows"]))


def diffusers_table(part: dict, ours: list[dict]) -> str:
    head = ["NF4 beside diffusers' script, 77 tokens", "ours", "theirs", "times as fast", "of its memory"]
    pairs = [(mine, theirs) for theirs in part["rows"] for mine in ours if mine["peer"]]
    rows = [beside(mine, theirs) for mine, theirs in pairs if mine["resolution"] == theirs["resolution"]]
    return markdown(head, rows)


def beside(mine: dict, theirs: dict) -> list[str]:
    name = f"{theirs['resolution']}²" + ", compiled" * mine["compile"]
    name += ", not checkpointed" * (not mine["checkpointing"])
    if failed := mine["failed"] or theirs.get("failed"):
        return [name, failed]
    each = [f"{side['seconds']:.3f} s, {side['peak'] / GIB:.2f} GiB" for side in (mine, theirs)]
    each[1] += ", its weights NaN" * (not theirs["finite"])
    faster, share = theirs["seconds"] / mine["seconds"], mine["peak"] / theirs["peak"]
    return [name, *each, marked(f"{faster:.2f}, target 2", faster >= 2), f"{share:.2f}"]
