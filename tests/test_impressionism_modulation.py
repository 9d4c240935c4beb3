import numpy as np
import pytest
import torch
from test_training_adapter import INPUTS

from impressionism.modulation import MODULATION_LAYERS, CachedModulation
from impressionism.paint import paint
from impressionism.pipeline import load_pipeline
from impressionism.quantize import load_transformer
from impressionism.records import GenerationParams

SIGMA, GUIDANCE, POOLED = (INPUTS[name] for name in ("timestep", "guidance", "pooled_projections"))
CPU, FLOAT = torch.device("cpu"), torch.float32


@torch.no_grad()
def test_computed_ahead_or_read_as_needed_the_output_is_the_same_bit_for_bit(tiny_flux, monkeypatch):
    whole = load_transformer(tiny_flux, dtype=FLOAT, device="cpu")
    transformer = load_transformer(tiny_flux, dtype=FLOAT, device="cpu", without=MODULATION_LAYERS)
    modulation = CachedModulation(transformer, tiny_flux, CPU, FLOAT)
    gone = sum(p.numel() for p in whole.parameters()) - sum(p.numel() for p in transformer.parameters())
    weights = [p for name, p in whole.named_parameters() if "blocks" in name and "norm" in name and ".linear." in name]
    assert gone == sum(p.numel() for p in weights) > 0.1 * sum(p.numel() for p in whole.parameters())

    other = (torch.tensor([0.5, 0.1]), torch.tensor([3.5, 3.5]), POOLED.flip(0))
    passes = [
        INPUTS | {"timestep": sigma, "guidance": guidance, "pooled_projections": pooled}
        for sigma, guidance, pooled in (other, (SIGMA, GUIDANCE, POOLED))
    ]
    expected = [whole(**inputs)[0] for inputs in passes]
    assert all(torch.equal(transformer(**inputs)[0], out) for inputs, out in zip(passes, expected, strict=True))
    with modulation.precomputed([(SIGMA, GUIDANCE, POOLED), other]), monkeypatch.context() as patch:
        patch.setattr("impressionism.modulation.StoredLinear.compute", None)  # no weight is read any more
        assert all(torch.equal(transformer(**inputs)[0], out) for inputs, out in zip(passes, expected, strict=True))
    assert not modulation.adaln_outputs
    assert torch.equal(transformer(**passes[0])[0], expected[0])


@torch.no_grad()
def test_an_adapter_on_the_modulation_stays_in_force(tiny_flux, tiny_adapter):
    sampling = GenerationParams(prompt="a boat", steps=3, width=64, height=64)
    painter = load_pipeline(str(tiny_flux), str(tiny_adapter), device="cpu")
    whole = [np.asarray(paint(painter, sampling, strength)) for strength in (1.0, 0.0)]
    modulation = CachedModulation(painter.pipe.transformer, tiny_flux, CPU, FLOAT)
    assert all(layer.adapted for layer in modulation.layers)
    with modulation.whole_schedules(painter.pipe):
        with pytest.raises(KeyboardInterrupt):
            paint(painter, sampling, on_step=interrupt)
        ahead = [np.asarray(paint(painter, sampling, strength)) for strength in (1.0, 0.0)]
    assert not np.array_equal(*whole)
    assert all(np.array_equal(*pair) for pair in zip(whole, ahead, strict=True))


def interrupt(step, *_):
    raise KeyboardInterrupt
