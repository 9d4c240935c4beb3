import numpy as np
import pytest
import torch
from test_training_adapter import INPUTS

from impressionism.modulation import MODULATION_LAYERS, Bank, modulation_ahead
from impressionism.paint import paint
from impressionism.pipeline import load_pipeline
from impressionism.quantize import load_transformer
from impressionism.records import GenerationParams

SIGMA, GUIDANCE, POOLED = (INPUTS[name] for name in ("timestep", "guidance", "pooled_projections"))


@pytest.fixture
def whole(tiny_flux):
    return load_transformer(tiny_flux, quantize="none", dtype=torch.float32, device="cpu")


@pytest.fixture
def banked(tiny_flux):
    transformer = load_transformer(
        tiny_flux, quantize="none", dtype=torch.float32, device="cpu", without=MODULATION_LAYERS
    )
    return transformer, Bank(transformer, tiny_flux, torch.device("cpu"), torch.float32)


@torch.no_grad()
def test_what_was_computed_ahead_gives_the_same_picture_bit_for_bit(whole, banked):
    transformer, bank = banked
    other = (torch.tensor([0.5, 0.1]), torch.tensor([3.5, 3.5]), POOLED.flip(0))
    for rows, (sigma, guidance, pooled) in zip(
        bank.ahead([(SIGMA, GUIDANCE, POOLED), other]), [(SIGMA, GUIDANCE, POOLED), other], strict=True
    ):
        bank.use(rows)
        inputs = INPUTS | {"timestep": sigma, "guidance": guidance, "pooled_projections": pooled}
        assert torch.equal(transformer(**inputs)[0], whole(**inputs)[0])


@torch.no_grad()
def test_with_nothing_computed_ahead_the_weights_are_read_as_needed(whole, banked):
    transformer, bank = banked
    bank.use(None)
    assert torch.equal(transformer(**INPUTS)[0], whole(**INPUTS)[0])


def test_the_weights_are_not_in_memory(whole, banked):
    transformer, _ = banked
    gone = sum(p.numel() for p in whole.parameters()) - sum(p.numel() for p in transformer.parameters())
    modulation = sum(p.numel() for name, p in whole.named_parameters() if "blocks" in name and "norm" in name and
                     ".linear." in name)  # fmt: skip
    assert gone == modulation > 0.1 * sum(p.numel() for p in whole.parameters())


@torch.no_grad()
def test_an_adapter_on_the_modulation_stays_in_force(tiny_flux, tiny_adapter):
    sampling = GenerationParams(prompt="a boat", steps=3, width=64, height=64)
    painter = load_pipeline(str(tiny_flux), str(tiny_adapter), device="cpu")
    whole = [np.asarray(paint(painter, sampling, strength)) for strength in (1.0, 0.0)]
    bank = Bank(painter.pipe.transformer, tiny_flux, torch.device("cpu"), torch.float32)
    assert all(layer.adapted for layer in bank.layers)
    with modulation_ahead(bank, painter.pipe):
        with pytest.raises(KeyboardInterrupt):
            paint(painter, sampling, on_step=interrupt)
        ahead = [np.asarray(paint(painter, sampling, strength)) for strength in (1.0, 0.0)]
    assert not np.array_equal(*whole)
    assert all(np.array_equal(*pair) for pair in zip(whole, ahead, strict=True))


def interrupt(step, *_):
    raise KeyboardInterrupt
