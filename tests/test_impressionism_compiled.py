"""Compiled blocks paint what the others paint, and a moved slider compiles nothing."""

import dataclasses
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import spaces
import torch
from torch._dynamo.utils import counters

from impressionism.compiled import blocks_of, compile_ahead, compile_blocks, exported, use_packages
from impressionism.paint import encode, paint, render, set_strength
from impressionism.pipeline import Painter, load_pipeline
from impressionism.records import GenerationParams

SAMPLING = GenerationParams(prompt="a boat", steps=2, width=64, height=64)
QUICKLY: dict = {  # of the compiler, not of what it makes
    "aot_inductor.compile_wrapper_opt_level": "O0", "aot_inductor.precompile_headers": False,
}  # fmt: skip
STRENGTHS = (1.0, 0.5, 0.0, 1.3, -0.5)


@pytest.mark.parametrize("quantize", ["none", "fp8"])
def test_compiled_blocks_paint_the_same_pictures_and_a_moved_slider_compiles_nothing(
    tiny_flux: Path, tiny_adapter: Path, quantize: str
):
    """Traced as for any compiler, and then run as it is: what inductor makes of it is PyTorch's matter."""
    torch._dynamo.reset()
    counters.clear()
    painter = load_pipeline(str(tiny_flux), str(tiny_adapter), quantize, "cpu")
    expected = [np.asarray(paint(painter, SAMPLING, strength)) for strength in STRENGTHS]
    compile_blocks(painter.pipe, backend="eager")
    for strength, picture in zip(STRENGTHS, expected, strict=True):
        assert np.array_equal(np.asarray(paint(painter, SAMPLING, strength)), picture), strength
        # a kind of block each, and the first single one, whose input lies otherwise in memory
        assert counters["stats"]["unique_graphs"] == 3


# ---- Ahead of time


def fresh(tiny_flux: Path, tiny_adapter: Path) -> Painter:
    return load_pipeline(str(tiny_flux), str(tiny_adapter), device="cpu")


def test_an_exported_block_is_the_block_at_every_strength_and_size(tiny_flux: Path, tiny_adapter: Path):
    """What is compiled ahead; that the compiler keeps to it is PyTorch's matter."""
    painter = fresh(tiny_flux, tiny_adapter)
    programs = exported(painter.pipe, lambda: paint(painter, SAMPLING))
    for kind, program in programs.items():
        run = program.module()
        for strength in STRENGTHS:
            for size in (64, 96):
                set_strength(painter.pipe, strength)
                given = taken(painter, blocks_of(painter.pipe)[kind][0], dataclasses.replace(SAMPLING, height=size))
                with torch.no_grad():
                    ours, theirs = (block(**given) for block in (run, blocks_of(painter.pipe)[kind][0]))
                torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def taken(painter: Painter, block: torch.nn.Module, sampling: GenerationParams) -> dict:
    """What the block is given while the sampling is painted at the strength that is set."""
    given: dict = {}
    watch = block.register_forward_pre_hook(lambda _, __, kwargs: given.update(kwargs), with_kwargs=True)
    render(painter.pipe, sampling, encode(painter, sampling.prompt))
    watch.remove()
    return given


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_packages_paint_the_same_pictures_at_every_strength_and_size(
    tiny_flux: Path, tiny_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # spaces imports its emulation of CUDA first, which needs PyTorch's CUDA build; its compiler needs none
    package = types.ModuleType("spaces.zero.torch")
    package.__path__ = [str(Path(spaces.__file__).parent / "zero" / "torch")]
    monkeypatch.setitem(sys.modules, "spaces.zero.torch", package)
    painter, plain = fresh(tiny_flux, tiny_adapter), fresh(tiny_flux, tiny_adapter)
    painter.pipe.transformer._repeated_blocks = ["FluxSingleTransformerBlock"]  # one kind's compiling takes long enough
    compile_ahead(painter.pipe, lambda: paint(painter, SAMPLING), tmp_path, **QUICKLY)
    use_packages(painter.pipe, tmp_path)
    for strength in STRENGTHS:
        for sampling in (SAMPLING, dataclasses.replace(SAMPLING, width=96)):
            ours, theirs = (np.asarray(paint(one, sampling, strength)).astype(int) for one in (painter, plain))
            assert np.abs(ours - theirs).max() <= 1, strength  # sums are rounded otherwise
