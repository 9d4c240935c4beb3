"""The adaLN modulation of FLUX's blocks, computed ahead: 27 % of the transformer out of memory, with the numbers of its
unquantized weights.

The linear layers that shift and scale a block's activations see nothing but the noise level, the guidance and CLIP's
summary of the caption. A training step knows these long before it runs, because every draw is a function of the sample
it is for. So the layers' outputs are computed for many passes at once, while one weight at a time is read from the
file, in the shapes of the pass itself, which makes them equal bit for bit; the weights stay on disk.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from impressionism.errors import UserError
from impressionism.lora import LoraLinear, linears
from impressionism.names import MODULATION_AHEAD
from impressionism.quantize import give_back_memory

MODULATION = r"norm1\.linear|norm1_context\.linear|norm\.linear"  # of a block
MODULATION_LAYERS = rf"(?:single_)?transformer_blocks\.\d+\.({MODULATION})"  # of a transformer
AHEAD = MODULATION_AHEAD

Condition = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]
"""sigma (batch,), guidance (batch,) where the model has such an input, CLIP's pooled embedding (batch, width)"""


class StoredLinear(nn.Module):
    """A linear layer whose weight is read from its file at each use, unless its output is known already."""

    def __init__(self, file: Path, name: str, device: torch.device, dtype: torch.dtype, adapted: bool):
        super().__init__()
        self.file, self.name, self.device, self.dtype = file, name, device, dtype
        self.adapted = adapted  # an adapter adds its update to the output, in place
        self.output: torch.Tensor | None = None  # of the pass at hand

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.output is None:
            return self.compute([x])[0]
        return self.output.clone() if self.adapted else self.output

    def compute(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        with safe_open(self.file, framework="pt") as stored:
            weight, bias = (stored.get_tensor(f"{self.name}.{leaf}") for leaf in ("weight", "bias"))
        weight, bias = weight.to(self.device, self.dtype), bias.to(self.device, self.dtype)
        return [F.linear(x, weight, bias) for x in inputs]


class CachedModulation:
    """Takes the modulation weights out of a transformer. Its passes run as before: one hook finds what was computed
    ahead for a pass's conditions, and where there is nothing, the weights are read. An adapter on them stays in force.
    """

    def __init__(self, transformer: FluxTransformer2DModel, folder: Path, device: torch.device, dtype: torch.dtype):
        files = weight_files(folder / "transformer")
        self.transformer: Any = transformer
        self.device, self.dtype = device, dtype
        self.layers: list[StoredLinear] = []
        self.adaln_outputs: dict[bytes, list[torch.Tensor]] = {}  # each layer's, (batch, 3 or 6 x width), on the CPU
        for path in filter(re.compile(MODULATION_LAYERS).fullmatch, linears(transformer)):
            adapted = isinstance(transformer.get_submodule(path), LoraLinear)
            layer = StoredLinear(files[f"{path}.weight"], path, device, dtype, adapted)
            transformer.set_submodule(f"{path}.base" if adapted else path, layer)
            self.layers.append(layer)
        transformer.register_forward_pre_hook(self.use, with_kwargs=True)

    @contextlib.contextmanager
    def precomputed(self, conditions: Iterable[Condition]) -> Iterator[None]:
        """Inside the block, passes under these conditions find their modulation."""
        computed = self.compute(list(conditions))
        self.adaln_outputs |= computed
        try:
            yield
        finally:
            for key in computed:
                self.adaln_outputs.pop(key, None)

    @torch.no_grad()
    def compute(self, conditions: list[Condition]) -> dict[bytes, list[torch.Tensor]]:
        """Every layer's output under each condition; one weight at a time is on the device."""
        inputs = [F.silu(self.embedding(*condition)) for condition in conditions]
        by_layer = [[output.cpu() for output in layer.compute(inputs)] for layer in self.layers]
        give_back_memory()  # each layer's outputs lie behind its weight, which is free by now
        return {self.key(*condition): outputs for condition, *outputs in zip(conditions, *by_layer, strict=True)}

    def embedding(self, sigma: torch.Tensor, guidance: torch.Tensor | None, pooled: torch.Tensor) -> torch.Tensor:
        """As FluxTransformer2DModel.forward makes it."""
        numbers = [value.to(self.device, self.dtype) * 1000 for value in (sigma, guidance) if value is not None]
        return self.transformer.time_text_embed(*numbers, pooled.to(self.device, self.dtype))

    def key(self, *condition: torch.Tensor | None) -> bytes:
        return b"".join(value.float().cpu().numpy().tobytes() for value in condition if value is not None)

    def use(self, _: Any, __: Any, given: dict[str, Any]) -> None:
        """Before each pass, its layers get their outputs."""
        found = self.adaln_outputs.get(self.key(*condition_of(given))) if self.adaln_outputs else None
        for index, layer in enumerate(self.layers):
            layer.output = found[index].to(self.device, non_blocking=True) if found else None

    @contextlib.contextmanager
    def whole_schedules(self, pipe: FluxPipeline) -> Iterator[None]:
        """Inside the block, a picture's first pass computes the modulation of all its passes. For pictures that run
        through the whole schedule, unlike a repaint."""
        with contextlib.ExitStack() as picture:

            def precompute(_: Any, __: Any, given: dict[str, Any]) -> None:
                if pipe.scheduler.step_index is None:  # no step of this picture was taken yet
                    sigma, guidance, pooled = condition_of(given)
                    sigmas = pipe.scheduler.timesteps[:, None].to(sigma.dtype).expand(-1, len(sigma)) / 1000
                    picture.close()
                    picture.enter_context(self.precomputed([(each, guidance, pooled) for each in sigmas]))

            hook = self.transformer.register_forward_pre_hook(precompute, with_kwargs=True, prepend=True)
            try:
                yield
            finally:
                hook.remove()


def condition_of(given: dict[str, Any]) -> Condition:
    """What a pass of FluxTransformer2DModel is given."""
    return given["timestep"], given.get("guidance"), given["pooled_projections"]


def weight_files(folder: Path) -> dict[str, Path]:
    """Which file holds a tensor."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            found |= dict.fromkeys(stored.keys(), file)
    if not found:
        raise UserError(f"There are no .safetensors files in {folder}.")
    return found
