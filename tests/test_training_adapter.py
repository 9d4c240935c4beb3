import pytest
import torch
from diffusers import FluxPipeline
from safetensors import safe_open

from impressionism.lora import updates_of
from impressionism.quantize import load_transformer
from training import adapter
from training.recipe import Adapter

INPUTS = {
    "hidden_states": torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0)),
    "encoder_hidden_states": torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(1)),
    "pooled_projections": torch.randn(2, 32, generator=torch.Generator().manual_seed(2)),
    "timestep": torch.tensor([0.3, 0.8]),
    "guidance": torch.ones(2),
    "img_ids": FluxPipeline._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float32),
    "txt_ids": torch.zeros(8, 3),
    "return_dict": False,
}


def live(tiny_flux, *, quantize="none", targets="all", alpha=None, ranks=None):
    """The tiny transformer with an adapter whose update is not zero, as after training."""
    transformer = load_transformer(tiny_flux, quantize=quantize, dtype=torch.float32, device="cpu")
    adapter.add(transformer, Adapter(rank=4, alpha=alpha, targets=targets, ranks=ranks or {}), seed=0)
    random = torch.Generator().manual_seed(3)
    for name, weight in adapter.trained(transformer).items():
        if name.endswith("lora_B"):
            weight.data = torch.randn(weight.shape, generator=random) * 0.1
    return transformer


PRESETS = ("attention", "all", "every", "style", "compact")


@pytest.mark.parametrize("targets", PRESETS)
@pytest.mark.parametrize("alpha", [None, 8.0])
def test_a_plain_pipeline_gives_the_live_models_outputs(tiny_flux, tmp_path, targets, alpha):
    transformer = live(tiny_flux, targets=targets, alpha=alpha)
    adapter.save(transformer, tmp_path, torch.float32)
    pipe = FluxPipeline.from_pretrained(tiny_flux, dtype=torch.float32)
    with torch.no_grad():
        base = pipe.transformer(**INPUTS)[0]
        pipe.load_lora_weights(tmp_path)
        torch.testing.assert_close(pipe.transformer(**INPUTS)[0], transformer(**INPUTS)[0], atol=1e-4, rtol=1e-4)
        assert (pipe.transformer(**INPUTS)[0] - base).abs().max() > 0.1


def test_alpha_is_folded_and_the_metadata_minimal(tiny_flux, tmp_path):
    path = adapter.save(live(tiny_flux, alpha=8.0), tmp_path)
    with safe_open(path, "pt") as file:
        keys = list(file.keys())
        assert all(key.startswith("transformer.") and "alpha" not in key for key in keys)
        assert '"transformer.r": 4, "transformer.lora_alpha": 4' in file.metadata()["lora_adapter_metadata"]
        assert file.get_tensor(keys[0]).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "targets, count",
    [("attention", 8 + 2 * 3), ("all", 8 + 4 + 2 * 5), ("every", 14 + 2 * 6), ("style", 5), ("compact", 1)],
)
def test_targets_name_the_layers_they_say(tiny_flux, targets, count):
    names = adapter.trained(live(tiny_flux, targets=targets))
    assert len(names) == 2 * count
    assert all("transformer_blocks." in name for name in names)


def test_only_float32_masters_are_trained_on_a_quantized_base(tiny_flux):
    transformer = load_transformer(tiny_flux, quantize="nf4", dtype=torch.bfloat16, device="cpu")
    adapter.add(transformer, Adapter(rank=2, targets="attention"), seed=0)
    assert {weight.dtype for weight in adapter.trained(transformer).values()} == {torch.float32}
    assert all(".lora_" in name for name in adapter.trained(transformer))


def test_layers_may_have_other_ranks_or_none_and_the_file_says_so(tiny_flux, tmp_path):
    ranks = {r"single_transformer_blocks\.1\.": 2, "ff_context": 0}
    transformer = live(tiny_flux, ranks=ranks, alpha=8.0)
    found = {name: len(update.down) for name, update in updates_of(transformer, "trained").items()}
    assert found["single_transformer_blocks.1.attn.to_q"] == 2 and found["single_transformer_blocks.0.attn.to_q"] == 4
    assert not any("ff_context" in name for name in found)
    adapter.save(transformer, tmp_path, torch.float32)
    pipe = FluxPipeline.from_pretrained(tiny_flux, dtype=torch.float32)
    pipe.load_lora_weights(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(pipe.transformer(**INPUTS)[0], transformer(**INPUTS)[0], atol=1e-4, rtol=1e-4)
