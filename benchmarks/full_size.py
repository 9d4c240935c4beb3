"""FLUX.1-dev at its full size on a CPU: loaded in 4 and 8 bits, one forward pass, one training step.

    python -m benchmarks.full_size [--folder work/full-size] [--stages nf4 load …]

Speed and memory do not depend on the weights' values, so the transformer is a random one of FLUX.1-dev's configuration:
11.9 thousand million weights in sharded bfloat16, 23.8 GB, with encoders that are small but for their output's width.
Each stage is a process of its own, is measured, and is kept in full_size.json beside this script at once; the folder is
deleted at the end unless --keep is given. 45 GB of disk; 12 minutes on two quick cores, 45 on slow and busy ones.
`--tiny` goes the same way with a tiny model, to see that the stages work, and keeps nothing.

"own" is anonymous memory, the process alone; mapped files come on top while there is room for them. Quantizing is
held to the first, which is what it needs; what runs from the kept file, which stays mapped, to both together.
"""

import argparse
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.measure import Memory, lines_of, markdown, marked, parser, processor, progress, surroundings
from benchmarks.measure import write as write_record

SHARD = 4 * 10**9  # bytes
FLUX = {
    "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128, "num_attention_heads": 24,
    "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True, "axes_dims_rope": [16, 56, 56],
}  # fmt: skip
TINY = FLUX | {"num_layers": 2, "num_single_layers": 4, "num_attention_heads": 2}
SIDE, TOKENS = 256, 128  # pixels, of a caption
GB = 1e9
ASKED = {  # seconds, GB
    "nf4": (240, 7.0), "load": (30, 6.9), "int8": (None, None), "forward": (None, 7.6), "banked": (None, 6.0),
}  # fmt: skip


# ---- The model


def write(folder: Path, pipe: dict = FLUX, tokens: int = TOKENS, side: int = SIDE) -> dict:
    """A pipeline's folder whose transformer has FLUX.1-dev's size."""
    from impressionism.names import MINIATURE

    shutil.copytree(MINIATURE, folder / "flux", ignore=shutil.ignore_patterns("adapter", "transformer"))
    write_encoders(folder / "flux", tokens)
    update(folder / "flux" / "vae" / "config.json", sample_size=1024)  # so that the painter takes full-size pictures
    write_transformer(folder / "flux" / "transformer", pipe)
    write_picture(folder / "pictures", side)
    return {"bytes": sum(file.stat().st_size for file in (folder / "flux" / "transformer").iterdir())}


def write_encoders(pipe: Path, tokens: int) -> None:
    """One layer each, whose outputs are as wide as FLUX.1-dev's transformer takes them."""
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    t5: Any = T5Config.from_pretrained(pipe / "text_encoder_2", num_layers=1, d_model=4096)
    clip: Any = CLIPTextConfig.from_pretrained(pipe / "text_encoder", num_hidden_layers=1, hidden_size=768)
    T5EncoderModel(t5).save_pretrained(pipe / "text_encoder_2")
    CLIPTextModel(clip).save_pretrained(pipe / "text_encoder")
    update(pipe / "tokenizer_2" / "tokenizer_config.json", model_max_length=tokens)


def update(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def write_transformer(folder: Path, pipe: dict) -> None:
    from accelerate import init_empty_weights
    from diffusers import FluxTransformer2DModel
    from safetensors.torch import save_file

    with init_empty_weights():
        model: Any = FluxTransformer2DModel(**pipe)
    model.save_config(folder)
    index: dict[str, str] = {}

    def write_shard(number: int, shard: dict) -> None:
        file = f"diffusion_pytorch_model-{number:05}.safetensors"
        save_file({name: values(name, like.shape) for name, like in shard.items()}, folder / file)
        index.update(dict.fromkeys(shard, file))

    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 4)) as pool:  # each holds a shard in memory
        list(pool.map(write_shard, itertools.count(1), shards(model.state_dict())))
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )


def shards(state: dict) -> Iterator[dict]:
    shard, size = {}, 0
    for name, like in state.items():
        if size + 2 * like.numel() > SHARD:
            yield shard
            shard, size = {}, 0
        shard[name], size = like, size + 2 * like.numel()
    yield shard


def values(name: str, shape: Any):
    """Random weights that keep activations in range; one draw is used again and again, because drawing is slow."""
    import torch

    if len(shape) < 2:
        return (torch.ones if name.endswith("weight") else torch.zeros)(shape, dtype=torch.bfloat16)
    drawn = torch.randn(2**20 + 7, generator=torch.Generator().manual_seed(len(name)))
    count = shape.numel()
    return (drawn / shape[-1] ** 0.5).bfloat16().repeat(-(-count // len(drawn)))[:count].view(shape)


def write_picture(folder: Path, side: int) -> None:
    import numpy as np
    from PIL import Image

    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    (folder / "noise.txt").write_text("a boat")


# ---- The stages


def nf4(folder: Path) -> dict:
    """bf16 shards to NF4 with double quantization, and the result kept."""
    from impressionism.quantize import save_quantized

    model, found = loaded(folder / "flux", "nf4")
    begun = time.monotonic()
    with Memory() as memory:
        save_quantized(model, folder / "kept", "nf4")
    kept = sum(file.stat().st_size for file in (folder / "kept" / "transformer").iterdir())
    return found | {"saving": time.monotonic() - begun, "saving_own": memory.anonymous, "kept": kept}


def load(folder: Path) -> dict:
    """The NF4 transformer from where it was kept."""
    return loaded(folder / "kept", "nf4")[1]


def int8(folder: Path) -> dict:
    """bf16 shards to quanto's int8."""
    model, found = loaded(folder / "flux", "int8")
    return found | {"size": sum(tensor.nbytes for tensor in model.state_dict().values())}


def loaded(folder: Path, quantize: str, **more: Any) -> tuple[Any, dict]:
    import torch

    from impressionism.quantize import load_transformer

    begun = time.monotonic()
    with Memory() as memory:
        model = load_transformer(folder, quantize=quantize, dtype=torch.float32, device="cpu", **more)
    return model, {"seconds": time.monotonic() - begun, "own": memory.anonymous, "resident": memory.resident}


def forward(folder: Path) -> dict:
    """One pass of the NF4 transformer."""
    return passed(loaded(folder / "kept", "nf4")[0])


def banked(folder: Path) -> dict:
    """The same with the modulation's outputs computed ahead, from the weights as they were before NF4."""
    import torch

    from impressionism.modulation import MODULATION_LAYERS, CachedModulation

    model, _ = loaded(folder / "kept", "nf4", without=MODULATION_LAYERS)
    modulation = CachedModulation(model, folder / "flux", torch.device("cpu"), torch.float32)
    sample = inputs()
    begun = time.monotonic()
    with Memory() as memory:
        computed = modulation.compute([(sample["timestep"], sample["guidance"], sample["pooled_projections"])])
    modulation.adaln_outputs |= computed
    ahead = {"seconds": time.monotonic() - begun, "own": memory.anonymous, "resident": memory.resident}
    return passed(model) | {"ahead": ahead}


def whole(folder: Path) -> dict:
    """What `banked` must equal: the modulation's own weights in memory, as before NF4, in float32."""
    from torch import nn

    from impressionism.modulation import MODULATION_LAYERS
    from impressionism.quantize import tensors

    model, _ = loaded(folder / "kept", "nf4", without=MODULATION_LAYERS)
    for name, tensor in tensors(folder / "flux" / "transformer"):
        path, _, leaf = name.rpartition(".")
        if re.fullmatch(MODULATION_LAYERS, path):
            setattr(model.get_submodule(path), leaf, nn.Parameter(tensor.float(), requires_grad=False))
    return passed(model)


def passed(model: Any) -> dict:
    import torch

    begun = time.monotonic()
    with Memory() as memory, torch.no_grad():
        output = model(**inputs(), return_dict=False)[0]
    return {
        "seconds": time.monotonic() - begun, "own": memory.anonymous, "resident": memory.resident,
        "output": hashlib.sha256(output.numpy().tobytes()).hexdigest(), "spread": float(output.std()),
    }  # fmt: skip


def inputs() -> dict[str, Any]:
    """The transformer's inputs for a picture of SIDE pixels and a caption of TOKENS."""
    import torch
    from diffusers import FluxPipeline

    draw = torch.Generator().manual_seed(0)
    side = SIDE // 16
    return {
        "hidden_states": torch.randn(1, side * side, FLUX["in_channels"], generator=draw),
        "encoder_hidden_states": torch.randn(1, TOKENS, FLUX["joint_attention_dim"], generator=draw),
        "pooled_projections": torch.randn(1, FLUX["pooled_projection_dim"], generator=draw),
        "timestep": torch.tensor([0.5]),
        "guidance": torch.tensor([3.5]),
        "img_ids": FluxPipeline._prepare_latent_image_ids(1, side, side, torch.device("cpu"), torch.float32),
        "txt_ids": torch.zeros(TOKENS, 3),
    }


def attention(folder: Path) -> dict:
    """One step of `python -m training fit`, all of the blocks checkpointed."""
    return fitted(folder, "attention")


def style(folder: Path) -> dict:
    return fitted(folder, "style")


def fitted(folder: Path, targets: str) -> dict:
    """What a training step takes, its modulation's pass over the files included, beside what `plan` predicts for it;
    loading, which comes before, by itself."""
    recipe = folder / f"{targets}.json"  # JSON is YAML
    recipe.write_text(
        json.dumps(
            {
                "model": {"base": str(folder / "flux"), "quantize": "nf4", "max_sequence_length": TOKENS,
                          "gradient_checkpointing": True, "device": "cpu"},
                "data": {"source": str(folder / "pictures"), "resolution": SIDE, "held_out": 0.0},
                "adapter": {"rank": 16, "targets": targets},
                "optimizer": {"steps": 1, "batch": 1, "accumulate": 1, "warmup": 0},
                "run": {"folder": str(folder / targets), "cache": str(folder / "cache"), "checkpoint_every": 1},
            }
        )
    )  # fmt: skip
    predicted = planned(recipe)
    subprocess.run(training("cache", recipe), check=True, stderr=subprocess.DEVNULL)
    begun = time.monotonic()
    process = subprocess.Popen(training("fit", recipe), stderr=subprocess.PIPE, bufsize=0)
    lines = lines_of(process.stderr)
    with Memory(process.pid) as before:
        next((line for line in lines if progress(line, str(folder / targets))), None)  # the bar appears
    loading = {"seconds": time.monotonic() - begun, "own": before.anonymous}
    with Memory(process.pid) as memory:
        for _ in lines:  # or the process would wait for somebody to read them
            pass
        if process.wait():
            raise SystemExit(f"python -m training fit {recipe} failed; run it to see why.")
    step = json.loads((folder / targets / "log.jsonl").read_text().splitlines()[0])
    return {
        "seconds": step["seconds"], "own": memory.anonymous, "resident": memory.resident, "loading": loading,
        "plan": predicted["peak"], "loss": step["loss"],
    }  # fmt: skip


def planned(recipe: Path) -> dict:
    """What `plan` says of it."""
    said = subprocess.run(training("plan", recipe, "--json"), check=True, capture_output=True).stdout
    return json.loads(said)


def training(command: str, recipe: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "training", command, str(recipe), *more]


STAGES: dict[str, Callable[[Path], dict]] = {
    stage.__name__: stage for stage in (write, nf4, load, int8, forward, banked, whole, attention, style)
}


# ---- The record


def run(stage: str, folder: Path) -> dict:
    """A stage in a process of its own, so that each begins with nothing."""
    command = [sys.executable, "-m", "benchmarks.full_size", "--folder", str(folder), "--stage", stage]
    begun = time.monotonic()
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(said.splitlines()[-1]) | {"process_seconds": time.monotonic() - begun}


def table(result: dict) -> str:
    stages = result["stages"]
    head = ["FLUX.1-dev's size on two CPU cores", "seconds", "own memory", "with mapped files", "target"]
    rows = []
    if written := stages.get("write"):
        size = f"random weights, {written['bytes'] / GB:.1f} GB, written"
        rows.append([size, f"{written['process_seconds']:.0f}", "", "", ""])
    for stage, told in ROWS.items():
        if found := stages.get(stage):
            rows.append([told, *measures(found), asked(stage, found)])
        if stage == "nf4" and found:
            size = f"… kept on the disk, {found['kept'] / GB:.2f} GB"
            rows.append([size, f"{found['saving']:.0f}", "", "", marked("≤ 6.4 GB", found["kept"] <= 6.4 * GB)])
        if stage == "banked" and found and "whole" in stages:
            same = "the same" if found["output"] == stages["whole"]["output"] else "**not** the same"
            rows.append(["… which is computed, layer by layer from the bf16 files", *measures(found["ahead"])])
            told = f"… and with those weights in memory, in float32: {same} output, bit for bit"
            rows.append([told, "", "", "", "the same"])
    return markdown(head, rows)


def measures(found: dict) -> tuple[str, ...]:
    """Seconds and memory as the table has them."""
    return f"{found['seconds']:.0f}", *(f"{found[key] / GB:.2f} GB" for key in ("own", "resident"))


ROWS = {
    "nf4": "bf16 shards to NF4, tensor by tensor",
    "load": "the kept NF4 transformer loads",
    "int8": "bf16 shards to int8",
    "forward": "one NF4 pass, 256 px and 128 text tokens",
    "banked": "a pass without the modulation's weights, whose outputs are there",
    "attention": "a training step: rank 16, attention, checkpointed",
    "style": "a training step: rank 16, style, checkpointed",
}


def asked(stage: str, found: dict) -> str:
    if "plan" in found:
        counted = found["plan"]
        return (
            f"nothing; `plan` counts {counted / GB:.2f} GB of tensors, {counted / found['own']:.0%} of its own memory"
        )
    seconds, memory = ASKED[stage]
    if stage == "int8":
        memory = (found["size"] + GB) / GB  # its own size and one more
    taken = found["own" if stage in ("nf4", "int8") else "resident"]  # what is kept in a file is mapped from there
    reached = taken <= memory * GB and (seconds is None or found["seconds"] <= seconds)
    limits = ([f"≤ {seconds} s"] if seconds else []) + [f"≤ {memory:.1f} GB"]
    return marked(", ".join(limits), reached)


def main() -> None:
    options = parser("full_size", __doc__)
    add = options.add_argument
    add("--folder", type=Path, default=Path("work/full-size"), help="for the weights; made and deleted")
    add("--stages", nargs="+", choices=STAGES, default=[*STAGES], metavar="STAGE", help=", ".join(STAGES))
    add("--keep", action="store_true", help="leave the folder there")
    add("--tiny", action="store_true", help="the same with a tiny model, to try the script")
    add("--stage", choices=STAGES, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    folder, stages = arguments.folder.absolute(), arguments.stages
    if arguments.stage:
        print(json.dumps(STAGES[arguments.stage](folder)))
        return
    if arguments.tiny:
        with tempfile.TemporaryDirectory() as tiny:
            write(Path(tiny), TINY)
            measure(Path(tiny), [stage for stage in stages if stage != "write"], Path(tiny) / "full_size.json")
        return
    measure(folder, stages, arguments.out)
    if not arguments.keep:
        shutil.rmtree(folder)


def measure(folder: Path, stages: list[str], out: Path) -> None:
    """Stage after stage, each kept at once; some of them are added to those that were measured before."""
    here = surroundings(processor(), ("torch", "diffusers", "bitsandbytes"))
    result: dict[str, Any] = {"stages": {}}
    if out.exists() and {*stages} != {*STAGES}:
        result = json.loads(out.read_text())
        if {key: result[key] for key in here} != here:
            sys.exit(f"{out.name} is of another machine or other versions: measure all the stages.")
    result |= here
    for stage in stages:
        result["stages"][stage] = run(stage, folder)
        print(stage, result["stages"][stage], flush=True)
        write_record(out, result)
    print(table(result))


if __name__ == "__main__":
    main()
