"""The modulation bank: 27 % of FLUX out of memory, with the numbers of its unquantized weights.

The linear layers that shift and scale a block's activations see nothing but the noise level, the guidance and CLIP's
summary of the caption. A training step knows these long before it runs, since every draw is a function of what it is
for. So the layers' outputs are computed ahead for many batches while one weight at a time is read from the file, in
the very shapes that the step would use, which makes them equal bit for bit; the weights themselves stay on disk.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from impressionism.errors import UserError
from impressionism.lora import LoraLinear
from impressionism.quantize import give_back_memory

MODULATION = r"norm1\.linear|norm1_context\.linear|norm\.linear"  # of a block
MODULATION_LAYERS = rf"(?:single_)?transformer_blocks\.\d+\.({MODULATION})"  # of a transformer
AHEAD = 64  # batches whose outputs are held; a picture's are 2.1 MB in FLUX.1-dev at bfloat16

Condition = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # sigma (batch,), guidance (batch,), pooled (batch, width)
Rows = list[torch.Tensor]  # of each layer, (batch, 3 or 6 x width)


class CachedModulation(nn.Module):
    """Stands where a modulation's linear layer stood; gives what was computed ahead, or reads the weight now."""

    def __init__(self, file: Path, name: str, device: torch.device, dtype: torch.dtype, adapted: bool):
        super().__init__()
        self.file, self.name, self.device, self.dtype = file, name, device, dtype
        self.adapted = adapted
        """An adapter adds its update to what this gives, in place."""
        self.rows: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.rows is None:
            return self.compute([x])[0]
        return self.rows.clone() if self.adapted else self.rows

    def compute(self, inputs: list[torch.Tensor]) -> Rows:
        with safe_open(self.file, framework="pt") as stored:
            weight, bias = (stored.get_tensor(f"{self.name}.{leaf}") for leaf in ("weight", "bias"))
        weight, bias = weight.to(self.device, self.dtype), bias.to(self.device, self.dtype)
        return [F.linear(x, weight, bias) for x in inputs]


class Bank:
    """Every modulation layer of a transformer, emptied of its weights; an adapter on them stays in force."""

    def __init__(self, transformer: FluxTransformer2DModel, folder: Path, device: torch.device, dtype: torch.dtype):
        files = _files(folder / "transformer")
        self.transformer: Any = transformer
        self.layers = []
        for name in list(_names(transformer)):
            adapted = isinstance(transformer.get_submodule(name), LoraLinear)
            layer = CachedModulation(files[f"{name}.weight"], name, device, dtype, adapted)
            transformer.set_submodule(f"{name}.base" if adapted else name, layer)
            self.layers.append(layer)

    @torch.no_grad()
    def ahead(self, conditions: list[Condition]) -> list[Rows]:
        """The rows of each batch, in main memory; one weight at a time is on the device."""
        inputs = [F.silu(self._embedding(*condition)) for condition in conditions]
        by_layer = [[rows.cpu() for rows in layer.compute(inputs)] for layer in self.layers]
        give_back_memory()  # each layer's rows lie behind its weight, which is free by now
        return [list(rows) for rows in zip(*by_layer, strict=True)]

    def use(self, rows: Rows | None) -> None:
        """The next pass is over the batch that these belong to; none: any pass, reading as it goes."""
        for index, layer in enumerate(self.layers):
            layer.rows = None if rows is None else rows[index].to(layer.device, non_blocking=True)

    def _embedding(self, sigma: torch.Tensor, guidance: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """As FluxTransformer2DModel.forward makes it."""
        model, layer = self.transformer, self.layers[0]
        sigma, guidance, pooled = (value.to(layer.device, layer.dtype) for value in (sigma, guidance, pooled))
        if model.config.guidance_embeds:
            return model.time_text_embed(sigma * 1000, guidance * 1000, pooled)
        return model.time_text_embed(sigma * 1000, pooled)


@contextlib.contextmanager
def modulation_ahead(bank: Bank, pipe: FluxPipeline) -> Iterator[None]:
    """At a picture's first pass the modulation of all its passes is computed; read at each, it is 27 % of FLUX. For
    pictures that run through the whole schedule, unlike a repaint."""
    rows: Iterator[Rows] = iter(())

    def use_next(_: Any, __: tuple, given: dict[str, Any]) -> None:
        nonlocal rows
        if pipe.scheduler.step_index is None:  # no step of this picture was taken yet
            now = given["timestep"]
            times = pipe.scheduler.timesteps[:, None].to(now.dtype).expand(-1, len(now)) / 1000  # as FluxPipeline's
            guidance, pooled = given["guidance"], given["pooled_projections"]
            rows = iter(bank.ahead([(time, now if guidance is None else guidance, pooled) for time in times]))
        bank.use(next(rows))

    hook = bank.transformer.register_forward_pre_hook(use_next, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        bank.use(None)


def _names(transformer: FluxTransformer2DModel) -> Iterator[str]:
    for name, module in transformer.named_modules():
        if re.fullmatch(MODULATION_LAYERS, name) and hasattr(module, "in_features"):
            yield name


def _files(folder: Path) -> dict[str, Path]:
    """Which file holds a tensor."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            found |= dict.fromkeys(stored.keys(), file)
    if not found:
        raise UserError(f"There are no .safetensors files in {folder}.")
    return found
