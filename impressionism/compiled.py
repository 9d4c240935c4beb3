"""Compiled blocks whose strength slider stays alive: each kind of block is compiled once, for all strengths, because a
strength is a buffer of its layer and no constant of the code.

`compile_blocks` compiles in this process when it first paints (torch.compile). `compile_ahead` writes packages that
other processes load in a moment (AOTInductor, through the library `spaces`), for ZeroGPU, where each call runs in a new
process; `use_packages` takes them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline

ROOT = "root"  # the folder in which spaces puts a module's own package


def compile_blocks(pipe: FluxPipeline, **options: Any) -> None:
    """Compiles FLUX's two kinds of block at their next pass, once for all of their kind; the options are
    torch.compile's. A second size of picture compiles them again, for any size."""
    pipe.transformer.compile_repeated_blocks(**{"fullgraph": True} | options)


def compile_ahead(pipe: FluxPipeline, paint: Callable[[], Any], folder: Path, **options: Any) -> None:
    """Writes one package for each kind of block, for pictures of any size and prompts as long as those that `paint`
    paints. It is compiled for the device that the weights are on, where `paint` must be possible, for unquantized
    weights and fp8. The options are inductor's. The weights are not in the package."""
    from spaces.zero.torch.aoti import PACKAGE_FILENAME, aoti_compile_and_save

    for kind, program in exported(pipe, paint).items():
        aoti_compile_and_save(folder / kind, program, options)
        torch._inductor.aoti_load_package(str(folder / kind / ROOT / PACKAGE_FILENAME))  # or it fails here and now


def use_packages(pipe: FluxPipeline, folder: Path) -> None:
    """From now on the blocks run the packages' code, on their own weights."""
    from spaces.zero.torch.aoti import aoti_load_from_package_dir

    for kind, blocks in blocks_of(pipe).items():
        aoti_load_from_package_dir(torch.nn.ModuleList(blocks), folder / kind)


def exported(pipe: FluxPipeline, paint: Callable[[], Any]) -> dict[str, torch.export.ExportedProgram]:
    """A program for each kind of block, from the arguments that its first one gets while `paint` paints."""
    firsts = {kind: blocks[0] for kind, blocks in blocks_of(pipe).items()}
    given: dict[str, dict[str, Any]] = {}
    hooks = [
        block.register_forward_pre_hook(lambda _, __, kwargs, kind=kind: given.update({kind: kwargs}), with_kwargs=True)
        for kind, block in firsts.items()
    ]
    paint()
    for hook in hooks:
        hook.remove()
    # the dimensions that depend on the picture's size: its tokens, and the positions of all tokens
    auto = torch.export.Dim.AUTO
    varying = {"hidden_states": {1: auto}, "image_rotary_emb": ({0: auto}, {0: auto})}
    programs = {}
    for kind, block in firsts.items():
        sizes = {
            name: varying.get(name, {} if isinstance(value, dict) else None) for name, value in given[kind].items()
        }
        with torch.no_grad():
            programs[kind] = torch.export.export(block, (), given[kind], dynamic_shapes=sizes)
    return programs


def blocks_of(pipe: FluxPipeline) -> dict[str, list[Any]]:
    transformer: Any = pipe.transformer
    return {
        kind: [block for block in transformer.modules() if type(block).__name__ == kind]
        for kind in transformer._repeated_blocks
    }
