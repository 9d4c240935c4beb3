"""Puts the trained parts together as the folder that `FluxPipeline.from_pretrained` loads, and adds the adapter."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from impressionism.names import WEIGHTS_FILE
from tools.miniature.text import Frozen
from training.fit import fit
from training.recipe import read

RECIPE = Path("miniature")  # a shipped one, by its name
SIZES = ((192, 192), (192, 144), (144, 192))  # width and height of the pictures that it was taught
SHARD = "9MB"  # the Hub takes files of 10 MB and less in a plain commit


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1-dev's own settings."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15,
        base_image_seq_len=256, max_image_seq_len=4096,
    )  # fmt: skip


def save(
    out: Path,
    transformer: FluxTransformer2DModel,
    vae: AutoencoderKL,
    text: Frozen,
) -> None:
    """Write the pipeline as bfloat16 safetensors, every file under 10 MB; what was there is replaced at the end."""
    pipeline = FluxPipeline(
        scheduler=scheduler(), vae=vae, text_encoder=text.clip, tokenizer=text.clip_tokenizer,
        text_encoder_2=text.t5, tokenizer_2=text.t5_tokenizer, transformer=transformer,
    )  # fmt: skip
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline.to(torch.bfloat16).save_pretrained(partial, max_shard_size=SHARD)
    (partial / "sizes.json").write_text(json.dumps(SIZES) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def load(out: Path) -> tuple[FluxTransformer2DModel, AutoencoderKL, Frozen]:
    """The parts of a built miniature, in float32, to train on."""
    pipeline = FluxPipeline.from_pretrained(out, dtype=torch.float32)
    text = Frozen(pipeline.text_encoder, pipeline.text_encoder_2, pipeline.tokenizer, pipeline.tokenizer_2)
    return pipeline.transformer, pipeline.vae, text


def train_adapter(out: Path, work: Path, steps: int) -> None:
    """The ordinary recipe on the painted scenes; its file and its record go beside the base."""
    run = work / "miniature"  # the run's name is the adapter's title
    overrides = {
        "model.base": out,
        "data.source": work / "style",
        "run.folder": run,
        "run.cache": work / "cache",
        "optimizer.steps": steps,
        "optimizer.lr_warmup_steps": min(20, steps - 1),
    }
    fit(read(RECIPE, [f"{key}={value}" for key, value in overrides.items()]))
    (out / "adapter").mkdir(exist_ok=True)
    for file in (run / "adapter" / WEIGHTS_FILE, run / "run.json"):
        shutil.copy(file, out / "adapter")
