"""Pictures on the way: the same prompts from the same noise at intervals, and a contact sheet of step × prompt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
from PIL import Image, ImageDraw

from impressionism.errors import UserError, explain_disk
from impressionism.files import write_folder
from impressionism.paint import render
from impressionism.records import GenerationParams
from training.examples import say
from training.log import RunLog
from training.recipe import Preview, TrainingConfig

if TYPE_CHECKING:
    from training.base import TrainingContext

SIDE = 256  # pixels of a picture on the sheet, at most


def paint(context: TrainingContext, recipe: TrainingConfig, step: int, log: RunLog | None = None) -> None:
    """`previews/step-000500/00.png …`, one for each prompt, and `previews/sheet.jpg`; what exists is left. A preview
    that cannot be written is named and ends no run."""
    wanted, runtime = recipe.preview, context.runtime
    folder = recipe.run.folder / "previews" / f"step-{step:06d}"
    if not wanted.prompts or not runtime.any(runtime.first and not folder.exists()):
        return
    pictures = list(painted(context, wanted)) if context.sharded or runtime.first else []
    if not runtime.first:
        return
    try:
        with write_folder(folder) as partial:
            for index, picture in enumerate(pictures):
                picture.save(partial / f"{index:02d}.png")
        sheet(folder.parent, wanted.prompts).save(folder.parent / "sheet.jpg", quality=90)
    except (OSError, UserError) as error:
        say(f"Training goes on without {folder}: {explain_disk(error) or error}")
    if log is not None:
        log.pictures(step, pictures, wanted.prompts)


@torch.no_grad()
def painted(context: TrainingContext, wanted: Preview) -> Iterator[Image.Image]:
    """Each prompt's picture by the transformer as it is; where its weights are sharded, all processes paint it."""
    pipe = pipeline(context)
    width, height = (int(side) for side in wanted.size.split("x"))
    with context.modulation.whole_schedules(pipe) if context.modulation else contextlib.nullcontext():
        for prompt in wanted.prompts:
            params = GenerationParams(prompt=prompt, seed=wanted.seed, steps=wanted.steps, guidance=wanted.guidance,
                                      width=width, height=height)  # fmt: skip
            text, pooled = (part[None].to(context.runtime.device) for part in context.kept.text(prompt))
            yield render(pipe, params, (text, pooled))


def pipeline(context: TrainingContext) -> FluxPipeline:
    """The live transformer between the base's scheduler and autoencoder; the captions' embeddings are in the cache."""
    vae: Any = AutoencoderKL.from_pretrained(context.folder, subfolder="vae", dtype=context.runtime.dtype)
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_pretrained(context.folder, subfolder="scheduler")
    encoders: Any = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    vae = vae.to(context.runtime.device)
    pipe = FluxPipeline(scheduler=scheduler, vae=vae, transformer=context.transformer, **encoders)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sheet(previews: Path, prompts: tuple[str, ...]) -> Image.Image:
    """A row for each step, a column for each prompt; white where a prompt came later."""
    folders = sorted(folder for folder in previews.iterdir() if folder.name.startswith("step-"))
    rows = [[small(folder / f"{index:02d}.png") for index in range(len(prompts))] for folder in folders]
    return contact_sheet([folder.name for folder in folders], rows)


def contact_sheet(labels: list[str], rows: list[list[Image.Image | None]]) -> Image.Image:
    width, height = next(picture.size for row in rows for picture in row if picture)
    page = Image.new("RGB", (width * max(map(len, rows)), height * len(rows)), "white")
    for y, (label, row) in enumerate(zip(labels, rows, strict=True)):
        for x, picture in enumerate(row):
            if picture:
                page.paste(picture, (x * width, y * height))
        text = {"fill": "white", "stroke_width": 2, "stroke_fill": "black"}
        ImageDraw.Draw(page).text((4, y * height + 4), label, **text)
    return page


def small(path: Path) -> Image.Image | None:
    if not path.exists():
        return None
    picture = Image.open(path)
    picture.thumbnail((SIDE, SIDE))
    return picture
