"""Compiled blocks with the strength slider alive: the code of each kind of block is made once, whatever the strength.

PEFT keeps an adapter's scale as a Python number, which would be part of the code: a compiled block would be compiled
again when it changes. Here the scale is a buffer of its layer, which `paint.set_strength` fills.

`compile_blocks` compiles in this process when it first paints (torch.compile). `compile_ahead` writes packages that
other processes load in a moment (AOTInductor), for ZeroGPU, whose every process begins anew; `use_packages` takes them.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from peft.tuners.lora import LoraLayer

from impressionism.pipeline import ADAPTER_NAME, first_line, lora_layers

# The weights stay the model's own: they are neither in the package nor folded into its code.
PACKAGED = {
    "aot_inductor.package_constants_in_so": False,
    "always_keep_tensor_constants": True,
    "joint_graph_constant_folding": False,
}

logger = logging.getLogger(__name__)


class LiveScale(dict):
    """PEFT's table of an adapter's scales, whose one value is a buffer of the layer: filled, never replaced."""

    def __init__(self, layer: LoraLayer):
        super().__init__(layer.scaling)
        self.layer: Any = layer

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.layer.live_scale

    def __setitem__(self, name: str, scale: Any) -> None:
        self.layer.live_scale.fill_(scale)


def enliven(pipe: FluxPipeline) -> None:
    """Makes the scales buffers; once is enough."""
    for layer in lora_layers(pipe):
        if not isinstance(layer.scaling, LiveScale):
            scale = torch.tensor(float(layer.scaling[ADAPTER_NAME]), device=layer.weight.device)
            layer.register_buffer("live_scale", scale)  # type: ignore[operator]
            layer.scaling = LiveScale(layer)


def compile_blocks(pipe: FluxPipeline, **options: Any) -> None:
    """FLUX's two kinds of block are compiled on their next pass, for all of their kind; the options are
    torch.compile's. A second size of picture compiles them again, for any size."""
    enliven(pipe)
    pipe.transformer.compile_repeated_blocks(**{"fullgraph": True} | options)


# ---- Ahead of time


def compile_ahead(pipe: FluxPipeline, paint: Callable[[], Any], folder: Path, **options: Any) -> None:
    """Writes a package a kind of block, for pictures of any size and captions as long as those that `paint` paints.

    It is compiled for the device that the weights are on, where `paint` must be possible. For unquantized weights, and
    fp8. The options are inductor's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for kind, program in exported(pipe, paint).items():
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(folder / f"{kind}.pt2"), inductor_configs=PACKAGED | options
        )


def exported(pipe: FluxPipeline, paint: Callable[[], Any]) -> dict[str, torch.export.ExportedProgram]:
    """A program a kind of block, from what its first one is given while `paint` paints."""
    enliven(pipe)
    firsts = {kind: blocks[0] for kind, blocks in blocks_of(pipe).items()}
    given: dict[str, dict[str, Any]] = {}
    watches = [
        block.register_forward_pre_hook(lambda _, __, kwargs, kind=kind: given.update({kind: kwargs}), with_kwargs=True)
        for kind, block in firsts.items()
    ]
    paint()
    for watch in watches:
        watch.remove()
    programs = {}
    for kind, block in firsts.items():
        arguments = what_counts(given[kind])
        sizes = {name: any_size(name, value) for name, value in arguments.items()}
        with torch.no_grad():
            programs[kind] = torch.export.export(block, (), arguments, dynamic_shapes=sizes)
    return programs


def any_size(name: str, value: Any) -> Any:
    """Which dimensions follow from a picture's size: its tokens, and the positions of all."""
    auto = torch.export.Dim.AUTO
    return {"hidden_states": {1: auto}, "image_rotary_emb": ({0: auto}, {0: auto})}.get(name)


def what_counts(arguments: dict[str, Any]) -> dict[str, Any]:
    """Without those that are empty."""
    return {name: value for name, value in arguments.items() if torch.is_tensor(value) or value}


def blocks_of(pipe: FluxPipeline) -> dict[str, list[Any]]:
    transformer: Any = pipe.transformer
    return {
        kind: [block for block in transformer.modules() if type(block).__name__ == kind]
        for kind in transformer._repeated_blocks
    }


def use_packages(pipe: FluxPipeline, folder: Path) -> None:
    """Blocks run the packages' code from now on; where it cannot be loaded they run their own, and the log says why."""
    enliven(pipe)
    for kind, blocks in blocks_of(pipe).items():
        package = Package(folder / f"{kind}.pt2")
        for block in blocks:
            block.forward = Packaged(block, package)


class Package:
    """The code of a kind of block, loaded once in each process, at the first pass: there the weights are."""

    def __init__(self, file: Path):
        self.file = file
        self.loaded_in: int | None = None
        self.model: Any = None
        self.weights: dict[Any, dict[str, torch.Tensor]] = {}
        self.at: Any = None
        """The block whose weights the code has now."""

    def with_weights_of(self, block: Any) -> Any:
        """The code, ready for the block; none where it cannot be."""
        try:
            if self.loaded_in != os.getpid():
                self.loaded_in, self.model, self.weights, self.at = os.getpid(), None, {}, None
                self.model = torch._inductor.aoti_load_package(str(self.file))
            if self.model is not None and self.at is not block:
                self.model.load_constants(self.weights_of(block), check_full_update=True, user_managed=True)
                self.at = block
        except (OSError, RuntimeError, KeyError) as error:
            self.model = None
            logger.warning("%s does not run here, its blocks do without: %s", self.file.name, first_line(error))
        return self.model

    def weights_of(self, block: Any) -> dict[str, torch.Tensor]:
        if block not in self.weights:
            tensors = dict([*block.named_parameters(), *block.named_buffers()])
            self.weights[block] = {name: tensors[name].data for name in self.model.get_constant_fqns()}
        return self.weights[block]


class Packaged:
    """A block's pass by a package."""

    def __init__(self, block: Any, package: Package):
        self.block, self.own, self.package = block, block.forward, package

    def __call__(self, **arguments: Any) -> Any:
        model = self.package.with_weights_of(self.block)
        return self.own(**arguments) if model is None else model(**what_counts(arguments))
