"""Quantized transformers: read shard by shard, close to the original, trainable, the same strength."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
from diffusers import FluxTransformer2DModel
from optimum.quanto.nn import QLinear
from optimum.quanto.tensor.packed import pack_weights
from safetensors.torch import load_file, save_file
from torch import nn

from impressionism.errors import UserError
from impressionism.quantize import (
    BLOCKS,
    MODES,
    int8,
    kept_transformer,
    load_transformer,
    pack,
    pack_int8,
    pack_nf4,
    save_quantized,
    weight_of,
)

# The relative error that rounding normal weights makes in a layer's output; fp8 rounds its input as well.
ERRORS = {"none": 0.0, "int8": 0.02, "fp8": 0.06, "nf4": 0.15, "int4": 0.2, "int2": 0.9}
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
        hidden_states=torch.randn(1, 16, 64, generator=random).to(model.dtype),
        encoder_hidden_states=torch.randn(1, 32, 32, generator=random).to(model.dtype),
        pooled_projections=torch.randn(1, 32, generator=random).to(model.dtype),
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantize", MODES)
@torch.no_grad()
def test_an_expanded_weight_is_what_the_layer_multiplies_by(tiny_flux: Path, quantize: str, dtype: torch.dtype) -> None:
    model = load_transformer(tiny_flux, quantize=quantize, dtype=dtype, device="cpu")
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and path.startswith(BLOCKS):
            layer.bias = None
            its_own, expanded = layer(torch.eye(layer.in_features, dtype=dtype)).T, weight_of(layer, dtype)
            assert expanded.dtype == dtype
            rounding = 2 * torch.finfo(dtype).eps * its_own.abs().max().item()
            torch.testing.assert_close(expanded, its_own, atol=rounding, rtol=0, msg=path)


@torch.no_grad()
def test_bitsandbytes_8_bits_expand_before_and_after_their_first_use() -> None:
    linear = nn.Linear(64, 96, bias=False)
    layer = int8(linear, pack_int8(linear.weight))  # as on CUDA, which bitsandbytes imitates here
    expanded = weight_of(layer, torch.float32)
    torch.testing.assert_close(layer(torch.eye(64).half()).float().T, expanded, atol=1e-4, rtol=1e-3)
    assert torch.equal(weight_of(layer, torch.float32), expanded)
    assert relative(expanded, linear.weight) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantize, width", [("int8", 448), ("int4", 448), ("int4", 64), ("int2", 256)])
def test_integers_are_those_of_quanto(
    quantize: str, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("impressionism.quantize.PIECE", 2**12)
    weight = torch.randn(96, width, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    theirs: Any = QLinear(width, 96, bias=False, weights=f"q{quantize}")
    kind, group = theirs.weight_qtype, theirs.weight_group_size
    found = pack(weight, quantize, dtype)
    if quantize == "int8":
        scale = theirs.optimizer(weight, qtype=kind, axis=0).to(dtype)
        packed, shift = torch.ops.quanto.quantize_symmetric(weight, torch.int8, 0, scale.float()), None
    else:
        scale, shift = (one.to(dtype) for one in theirs.optimizer(weight, qtype=kind, axis=0, group_size=group))
        packed = torch.ops.quanto.quantize_affine(weight, kind.bits, 0, group, scale.float(), shift.float())
        packed = pack_weights(packed, kind.bits)
        assert torch.equal(found["weight_shift"], shift)
    assert torch.equal(found["weight"], packed) and torch.equal(found["weight_scale"], scale)


def test_nf4_is_as_close_as_bitsandbytes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impressionism.quantize.PIECE", 2**12)  # pieces, and a last shorter one
    weight = torch.randn(96, 448, generator=torch.Generator().manual_seed(0)).bfloat16()
    packed, state = quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
    parts = pack_nf4(weight)
    assert torch.equal(parts["weight.absmax"], state.absmax)
    ours = QuantState.from_dict({name: part for name, part in parts.items() if name != "weight"}, "cpu")
    errors = [
        relative(dequantize_4bit(data, its).float(), weight.float())
        for data, its in ((parts["weight"], ours), (packed, state))
    ]
    assert errors[0] <= 1.001 * errors[1]
    assert (parts["weight"] != packed).float().mean() < 0.01  # where two values are equally near


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantize", [mode for mode in MODES if mode != "none"])
@torch.no_grad()
def test_a_kept_transformer_is_the_same_bit_for_bit(
    tiny_flux: Path, tmp_path: Path, quantize: str, dtype: torch.dtype
) -> None:
    options = {"quantize": quantize, "dtype": dtype, "device": "cpu"}
    model = load_transformer(tiny_flux, **options)
    again = load_transformer(save_quantized(model, tmp_path / "kept", quantize), **options)
    assert [type(module) for module in again.modules()] == [type(module) for module in model.modules()]
    expected, found = model.state_dict(), again.state_dict()
    assert expected.keys() == found.keys()
    assert all(
        torch.equal(tensor, found[name]) and tensor.dtype == found[name].dtype for name, tensor in expected.items()
    )
    assert torch.equal(run(again), run(model))
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]


def test_a_transformer_is_quantized_once_and_found_by_what_it_was_made_of(tiny_flux: Path, tmp_path: Path) -> None:
    said: list[str] = []
    keep, source = tmp_path / "kept", tmp_path / "flux"
    shutil.copytree(tiny_flux / "transformer", source / "transformer")

    def load_kept(quantize: str) -> FluxTransformer2DModel:
        options = {"dtype": torch.float32, "device": "cpu", "keep": keep, "say": said.append}
        return kept_transformer(source, quantize=quantize, **options)

    first, second = run(load_kept("nf4")), run(load_kept("nf4"))
    assert torch.equal(first, second)
    assert [" is kept in " in said[0], " comes from " in said[1]] == [True, True]
    load_kept("int4")
    load_kept("none")
    assert len(list(keep.iterdir())) == 2 and len(said) == 3

    file = source / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({**weights, "proj_out.bias": weights["proj_out.bias"] + 1}, file)
    assert not torch.equal(run(load_kept("nf4")), first)
    assert len(list(keep.iterdir())) == 3


def test_a_torn_or_foreign_kept_transformer_is_refused_in_a_sentence(tiny_flux: Path, tmp_path: Path) -> None:
    kept = save_quantized(load(tiny_flux, "nf4"), tmp_path / "kept", "nf4")
    with pytest.raises(UserError, match=r"keeps a transformer as bitsandbytes-nf4, not integer-int4"):
        load(kept, "int4")
    with pytest.raises(UserError, match=r"as bitsandbytes-nf4, not none; take the original weights"):
        load(kept, "none")
    file = kept / "transformer" / "diffusion_pytorch_model.safetensors"
    whole, metadata = file.read_bytes(), {"quantize": "bitsandbytes-nf4"}
    weights = {name: part.clone() for name, part in load_file(file).items()}  # not the mapped file, which is torn next

    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"only a part of one"):
        load(kept, "nf4")
    layer = "transformer_blocks.0.attn.to_q.weight"
    save_file({name: part for name, part in weights.items() if name != f"{layer}.absmax"}, file, metadata)
    with pytest.raises(UserError, match=r"damaged at transformer_blocks.0.attn.to_q .*delete it"):
        load(kept, "nf4")
    save_file({name: part for name, part in weights.items() if not name.startswith(layer)}, file, metadata)
    with pytest.raises(UserError, match=r"lacks 1 tensors, the first is " + layer):
        load(kept, "nf4")
    leaves = ("", ".absmax", ".quant_state.bitsandbytes__nf4")
    other = {f"{layer}{leaf}": weights[f"transformer_blocks.0.ff.net.2.weight{leaf}"].clone() for leaf in leaves}
    save_file({**weights, **other}, file, metadata)
    with pytest.raises(UserError, match=r"damaged at transformer_blocks.0.attn.to_q .*configuration says \(64, 64\)"):
        load(kept, "nf4")
    save_file({**weights, "transformer_blocks.9.attn.to_q.weight": weights[layer].clone()}, file, metadata)
    with pytest.raises(UserError, match=r"transformer_blocks.9.attn.to_q has no place"):
        load(kept, "nf4")


def test_what_cannot_be_kept_leaves_nothing_behind(tiny_flux: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"kept cannot be written, because"):
        save_quantized(load(tiny_flux, "nf4"), tmp_path / "file" / "kept", "nf4")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


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
    with pytest.raises(UserError, match=r"no quantization int3; there are none, fp8, int8, nf4"):
        load(tiny_flux, "int3")
    with pytest.raises(UserError, match=r"no folder nowhere"):
        load(Path("nowhere"), "none")

    model = FluxTransformer2DModel.from_pretrained(tiny_flux / "transformer")
    model.save_pretrained(tmp_path / "transformer")
    file = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({name: weight for name, weight in weights.items() if name != "proj_out.bias"}, file)
    with pytest.raises(UserError, match=r"lacks 1 tensors, the first is proj_out\.bias"):
        load(tmp_path, "none")
    save_file({**weights, "proj_out.bias": torch.zeros(3)}, file)
    with pytest.raises(UserError, match=r"proj_out\.bias is \(3,\) where the configuration says \(64,\)"):
        load(tmp_path, "none")
    save_file({**weights, "another.weight": torch.zeros(3)}, file)
    with pytest.raises(UserError, match=r"another\.weight has no place"):
        load(tmp_path, "none")
    file.write_bytes(b"\x80\x04pickle")
    with pytest.raises(UserError, match=r"is not a safetensors file"):
        load(tmp_path, "none")
    file.unlink()
    with pytest.raises(UserError, match=r"no \.safetensors files"):
        load(tmp_path, "none")
