"""Compiled blocks paint what the others paint, and a moved slider compiles nothing."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from impressionism.compiled import compile_blocks
from impressionism.paint import paint
from impressionism.pipeline import Painter, load_pipeline
from impressionism.records import Sampling

SAMPLING = Sampling(prompt="a boat", steps=2, width=64, height=64)
STRENGTHS = (1.0, 0.5, 0.0, 1.3, -0.5)


@pytest.fixture(params=["none", "fp8"])
def plain(request: pytest.FixtureRequest, tiny_flux: Path, tiny_adapter: Path) -> Painter:
    return load_pipeline(str(tiny_flux), str(tiny_adapter), request.param, "cpu")


@pytest.fixture
def compiled(plain: Painter) -> Painter:
    """Traced as for any compiler, and then run as it is: what inductor makes of it is PyTorch's matter."""
    torch._dynamo.reset()
    counters.clear()
    painter = dataclasses.replace(plain, flux=copy.deepcopy(plain.flux))
    compile_blocks(painter.flux, backend="eager")
    return painter


def test_compiled_blocks_paint_the_same_pictures_at_every_strength(compiled: Painter, plain: Painter):
    for strength in STRENGTHS:
        ours, theirs = (np.asarray(paint(one, SAMPLING, strength)) for one in (compiled, plain))
        assert np.array_equal(ours, theirs), strength


def test_a_moved_slider_compiles_nothing(compiled: Painter):
    paint(compiled, SAMPLING, 1.0)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs == 3  # a kind of block each, and the first single one, whose input lies otherwise in memory
    for strength in STRENGTHS:
        paint(compiled, SAMPLING, strength)
    assert counters["stats"]["unique_graphs"] == graphs
