"""Pictures on the way: the same prompts from the same noise every so often, and a sheet of step × prompt."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
from PIL import Image, ImageDraw

from impressionism.modulation import modulation_ahead
from impressionism.paint import render
from impressionism.records import GenerationParams
from training.base import TrainingContext
from training.log import Log
from training.recipe import Preview, TrainingConfig

SIDE = 256  # pixels of a picture on the sheet, at most


def paint(base: TrainingContext, recipe: TrainingConfig, step: int, log: Log | None = None) -> None:
    """`previews/step-000500/00.png …`, one for each prompt, and `previews/sheet.jpg`; what exists is left."""
    wanted, previews = recipe.preview, recipe.run.folder / "previews"
    folder = previews / f"step-{step:06d}"
    if not wanted.prompts or not base.runtime.any(base.runtime.rank == 0 and not folder.exists()):
        return
    pictures = list(painted(base, wanted)) if base.sharded or base.runtime.rank == 0 else []
    if base.runtime.rank:
        return  # the first process writes for all
    partial = previews / f".{folder.name}.partial"
    partial.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures):
        picture.save(partial / f"{index:02d}.png")
        if log is not None:
            log.picture(step, f"preview/{index:02d}", np.asarray(picture))
    partial.replace(folder)
    sheet(previews, wanted.prompts).save(previews / "sheet.jpg", quality=90)


@torch.no_grad()
def painted(base: TrainingContext, wanted: Preview) -> Iterator[Image.Image]:
    """Each prompt's picture by the transformer as it is; where its weights are sharded, all processes paint it."""
    pipe = pipeline(base)
    with modulation_ahead(base.bank, pipe) if base.bank else contextlib.nullcontext():
        for prompt in wanted.prompts:
            text, pooled = (part[None].to(base.runtime.device) for part in base.kept.text(prompt))
            yield render(pipe, sampling_of(wanted, prompt), (text, pooled))


def sampling_of(wanted: Preview, prompt: str) -> GenerationParams:
    width, height = (int(side) for side in wanted.size.split("x"))
    return GenerationParams(prompt=prompt, seed=wanted.seed, steps=wanted.steps, guidance=wanted.guidance,
                    width=width, height=height)  # fmt: skip


def pipeline(base: TrainingContext) -> FluxPipeline:
    """The live transformer between the base's scheduler and autoencoder; the captions' embeddings are in the cache."""
    vae: Any = AutoencoderKL.from_pretrained(base.folder, subfolder="vae", dtype=base.runtime.dtype)
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_pretrained(base.folder, subfolder="scheduler")
    encoders: Any = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = FluxPipeline(scheduler=scheduler, vae=vae.to(base.runtime.device), transformer=base.transformer, **encoders)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sheet(previews: Path, prompts: tuple[str, ...]) -> Image.Image:
    """A row a step, a column a prompt; white where a prompt came later."""
    folders = sorted(folder for folder in previews.iterdir() if folder.name.startswith("step-"))
    rows = [[_small(folder / f"{index:02d}.png") for index in range(len(prompts))] for folder in folders]
    width, height = next(picture.size for row in rows for picture in row if picture)
    page = Image.new("RGB", (width * len(prompts), height * len(rows)), "white")
    for y, (folder, row) in enumerate(zip(folders, rows, strict=True)):
        for x, picture in enumerate(row):
            if picture:
                page.paste(picture, (x * width, y * height))
        text = {"fill": "white", "stroke_width": 2, "stroke_fill": "black"}
        ImageDraw.Draw(page).text((4, y * height + 4), folder.name, **text)
    return page


def _small(path: Path) -> Image.Image | None:
    if not path.exists():
        return None
    picture = Image.open(path)
    picture.thumbnail((SIDE, SIDE))
    return picture
