"""Quantized transformers: read shard by shard, close to the original, trainable, the same strength."""

from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn

from impressionism.hub import PainterError
from impressionism.quantize import BLOCKS, MODES, load_transformer

# The relative error that rounding normal weights makes in a layer's output.
ERRORS = {"none": 0.0, "int8": 0.02, "nf4": 0.15, "int4": 0.2, "int2": 0.9}
INPUT = {
    "timestep": torch.tensor([0.5]),
    "guidance": torch.tensor([3.5]),
    "txt_ids": torch.zeros(32, 3),
    "img_ids": torch.zeros(16, 3),
}


def load(folder: Path, quantize: str) -> FluxTransformer2DModel:
    return load_transformer(folder, quantize=quantize, dtype=torch.float32, device="cpu")


def run(model: FluxTransformer2DModel) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return model(
        hidden_states=torch.randn(1, 16, 64, generator=random),
        encoder_hidden_states=torch.randn(1, 32, 32, generator=random),
        pooled_projections=torch.randn(1, 32, generator=random),
        **INPUT,
    ).sample


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("quantize", MODES)
@torch.no_grad()
def test_every_layer_stays_close_to_the_original(tiny_flux: Path, quantize: str) -> None:
    original, model = load(tiny_flux, "none"), load(tiny_flux, quantize)
    for path, layer in original.named_modules():
        if isinstance(layer, nn.Linear):
            twin, x = model.get_submodule(path), torch.randn(3, layer.in_features)
            assert (type(twin) is nn.Linear) == (quantize == "none" or not path.startswith(BLOCKS)), path
            assert relative(twin(x), layer(x)) <= (ERRORS[quantize] if path.startswith(BLOCKS) else 0), path
    assert relative(run(model), run(original)) <= 1.5 * ERRORS[quantize]


@pytest.mark.parametrize("quantize", MODES)
def test_a_lora_trains_on_every_precision_and_the_base_stays(tiny_flux: Path, quantize: str) -> None:
    model = load(tiny_flux, quantize)
    before = run(model).detach()
    torch.manual_seed(0)
    model.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "norm1.linear", "proj_mlp"]))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.02)
    losses = []
    for _ in range(6):
        loss = (run(model) - 1.2 * before).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
    model.disable_adapters()
    assert torch.equal(run(model), before)


@pytest.mark.parametrize("quantize", MODES)
@torch.no_grad()
def test_strength_means_the_same_in_every_precision(tiny_flux: Path, quantize: str) -> None:
    model = load(tiny_flux, quantize)
    model.add_adapter(LoraConfig(r=2, lora_alpha=6, init_lora_weights=False, target_modules=["to_q"]))
    layer = next(module for module in model.modules() if isinstance(module, LoraLayer))
    x = torch.randn(5, layer.in_features)
    update = 3 * layer.lora_B["default"](layer.lora_A["default"](x))
    for strength in (1.0, 0.5, -0.5, 1.25):
        layer.set_scale("default", strength)
        torch.testing.assert_close(layer(x) - layer.base_layer(x), strength * update, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_unquantized_is_what_diffusers_loads_also_from_shards(tiny_flux: Path, tmp_path: Path) -> None:
    theirs = FluxTransformer2DModel.from_pretrained(tiny_flux / "transformer", dtype=torch.bfloat16)
    theirs.save_pretrained(tmp_path / "transformer", max_shard_size="100KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 2
    ours = load_transformer(tmp_path, dtype=torch.bfloat16, device="cpu")
    assert not any(parameter.is_meta for parameter in [*ours.parameters(), *ours.buffers()])
    state = ours.state_dict()
    assert all(torch.equal(state.pop(name), tensor) for name, tensor in theirs.state_dict().items())
    assert not state


def test_nf4_takes_a_quarter_of_bfloat16(tiny_flux: Path) -> None:
    model = load(tiny_flux, "nf4")
    layer = model.transformer_blocks[0].ff.net[0].proj
    assert layer.weight.numel() * layer.weight.element_size() == layer.in_features * layer.out_features / 2
    assert layer.weight.quant_state.nested  # the scales are quantized as well


def test_what_cannot_be_loaded_says_why(tiny_flux: Path, tmp_path: Path) -> None:
    with pytest.raises(PainterError, match=r"no quantization int3; there are none, int8, nf4"):
        load(tiny_flux, "int3")
    with pytest.raises(PainterError, match=r"no folder nowhere"):
        load(Path("nowhere"), "none")

    model = FluxTransformer2DModel.from_pretrained(tiny_flux / "transformer")
    model.save_pretrained(tmp_path / "transformer")
    file = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({name: weight for name, weight in weights.items() if name != "proj_out.bias"}, file)
    with pytest.raises(PainterError, match=r"lacks 1 tensors, the first is proj_out\.bias"):
        load(tmp_path, "none")
    save_file({**weights, "proj_out.bias": torch.zeros(3)}, file)
    with pytest.raises(PainterError, match=r"proj_out\.bias is \(3,\) where the configuration says \(64,\)"):
        load(tmp_path, "none")
    save_file({**weights, "another.weight": torch.zeros(3)}, file)
    with pytest.raises(PainterError, match=r"another\.weight has no place"):
        load(tmp_path, "none")
    file.write_bytes(b"\x80\x04pickle")
    with pytest.raises(PainterError, match=r"is not a safetensors file"):
        load(tmp_path, "none")
    file.unlink()
    with pytest.raises(PainterError, match=r"no \.safetensors files"):
        load(tmp_path, "none")
