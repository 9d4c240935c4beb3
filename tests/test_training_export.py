"""One adapter in two files: every tool reads the same update from them, and a file that lost something is refused."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from impressionism.errors import UserError
from impressionism.lora import TRAINED, updates_of
from impressionism.quantize import load_transformer
from training import adapter, export
from training.recipe import Adapter

RECIPES = {
    "every": Adapter(targets="every", rank=4, alpha=6, dtype="float32"),
    "attention": Adapter(targets="attention", rank=3, dtype="float32"),
    "ranks": Adapter(
        targets="all", rank=4, ranks={r"to_k": 0, r"add_v_proj": 2, r"blocks.0.proj_mlp": 7}, dtype="float32"
    ),
}


def load(tiny_flux: Path):
    return load_transformer(tiny_flux, dtype=torch.float32, device="cpu")


def trained(tiny_flux: Path, wanted: Adapter):
    """A transformer whose adapter has learned something."""
    transformer = load(tiny_flux)
    adapter.add(transformer, wanted, seed=0)
    random = torch.Generator().manual_seed(1)
    for layer in adapter.adapted(transformer).values():
        up = layer.updates[TRAINED].lora_B
        up.data = torch.randn(up.shape, generator=random) * 0.3
    return transformer


def live(transformer) -> export.Layers:
    return updates_of(transformer, TRAINED)


@torch.no_grad()
def run(transformer) -> torch.Tensor:
    random = torch.Generator().manual_seed(2)
    return transformer(
        hidden_states=torch.randn(1, 16, 64, generator=random),
        encoder_hidden_states=torch.randn(1, 8, 32, generator=random),
        pooled_projections=torch.randn(1, 32, generator=random),
        timestep=torch.tensor([0.5]),
        guidance=torch.tensor([1.0]),
        img_ids=torch.zeros(16, 3),
        txt_ids=torch.zeros(8, 3),
    ).sample


@pytest.mark.parametrize("recipe", RECIPES)
def test_both_files_paint_as_the_trained_transformer(tiny_flux: Path, tmp_path: Path, recipe: str) -> None:
    transformer = trained(tiny_flux, RECIPES[recipe])
    expected, base = run(transformer), run(load(tiny_flux))
    file = adapter.save(transformer, tmp_path, torch.float32)
    for written in (file, export.write_comfy(file)):
        weights, alphas, metadata = export.read(written)
        again = load(tiny_flux)
        FluxPipeline.load_lora_into_transformer(weights, alphas, again, metadata=metadata)
        torch.testing.assert_close(run(again), expected, atol=1e-3, rtol=1e-4)
        assert (expected - base).abs().max() > 1  # it does change the picture


def test_a_fused_layer_is_the_layers_apart_and_zeros_elsewhere() -> None:
    random = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, 8, generator=random), torch.randn(8, 2, generator=random)
    mlp_down, mlp_up = torch.randn(3, 8, generator=random), torch.randn(32, 3, generator=random)
    block = "transformer.single_transformer_blocks.5"
    renamed = export.comfy(
        {f"{block}.attn.to_k.lora_A.weight": down, f"{block}.attn.to_k.lora_B.weight": up,
         f"{block}.proj_mlp.lora_A.weight": mlp_down, f"{block}.proj_mlp.lora_B.weight": mlp_up}
    )  # fmt: skip
    name = "lora_unet_single_blocks_5_linear1"
    assert sorted(renamed) == [f"{name}.alpha", f"{name}.lora_down.weight", f"{name}.lora_up.weight"]
    assert renamed[f"{name}.alpha"] == 5
    whole = renamed[f"{name}.lora_up.weight"] @ renamed[f"{name}.lora_down.weight"]
    expected = torch.zeros(56, 8)
    expected[8:16], expected[24:] = up @ down, mlp_up @ mlp_down
    torch.testing.assert_close(whole, expected)


@pytest.mark.parametrize("ranks", [(4, 4, 4, 4), (2, None, 5, None), (None, None, None, 4), (8, 8, 8, None)])
def test_at_the_width_of_flux_diffusers_itself_finds_the_layers_again(tmp_path: Path, ranks: tuple) -> None:
    random, layers, weights = torch.Generator().manual_seed(0), {}, {}
    for member, rank in zip(export.SINGLE_BLOCK["linear1"], ranks, strict=True):
        if rank:
            out = 3072 * (4 if member == "proj_mlp" else 1)
            a, b = torch.randn(rank, 3072, generator=random), torch.randn(out, rank, generator=random)
            name = f"single_transformer_blocks.37.{member}"
            layers[name] = (a, b, 1.0)
            weights |= {f"transformer.{name}.lora_A.weight": a.bfloat16()}
            weights |= {f"transformer.{name}.lora_B.weight": b.bfloat16()}
    save_file(weights, tmp_path / "adapter.safetensors")
    assert 0 < export.check_parity(layers, export.write_comfy(tmp_path / "adapter.safetensors")) < 0.004


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-7), (torch.bfloat16, 0.004)])
@pytest.mark.parametrize("recipe", RECIPES)
def test_files_that_hold_what_was_trained_pass(
    tiny_flux: Path, tmp_path: Path, recipe: str, dtype: torch.dtype, rounding: float
) -> None:
    transformer = trained(tiny_flux, RECIPES[recipe])
    file = adapter.save(transformer, tmp_path, dtype)
    for written in (file, export.write_comfy(file)):
        assert export.check_parity(live(transformer), written) < rounding


def test_an_adapter_that_has_learned_nothing_yet_passes(tiny_flux: Path, tmp_path: Path) -> None:
    transformer = load(tiny_flux)
    adapter.add(transformer, RECIPES["every"], seed=0)
    file = adapter.save(transformer, tmp_path)
    assert [export.check_parity(live(transformer), written) for written in (file, export.write_comfy(file))] == [0, 0]


def test_a_file_that_differs_is_refused_and_the_layer_named(tiny_flux: Path, tmp_path: Path) -> None:
    transformer = trained(tiny_flux, RECIPES["every"])
    file = adapter.save(transformer, tmp_path)
    comfy = export.write_comfy(file)
    with safe_open(file, framework="pt") as stored:
        metadata = stored.metadata()
    weights = {key: tensor.clone() for key, tensor in load_file(file).items()}
    key = "transformer.transformer_blocks.0.attn.to_q.lora_B.weight"
    layers = live(transformer)

    def refused(file: Path, changed: dict, metadata: dict | None, words: str) -> None:
        save_file(changed, file, metadata)
        with pytest.raises(UserError, match=words):
            export.check_parity(layers, file)

    differs = r"differs from what was trained at transformer_blocks\.0\.attn\.to_q by"
    refused(file, {**weights, key: weights[key] * 1.02}, metadata, differs)
    refused(file, {**weights, key: weights[key] * torch.nan}, metadata, differs)
    refused(
        file, {name: tensor for name, tensor in weights.items() if ".to_q." not in name}, metadata, "lacks the update"
    )
    twice = json.dumps({**json.loads(metadata["lora_adapter_metadata"]), "transformer.lora_alpha": 8})
    refused(file, weights, {**metadata, "lora_adapter_metadata": twice}, "differs from what was trained")
    other = {f"transformer.proj_out.lora_{side}.weight": torch.ones(4, 64) for side in "AB"}
    refused(file, {**weights, **other}, metadata, "changes proj_out, which was not trained")

    fused = {name: tensor.clone() for name, tensor in load_file(comfy).items()}
    alpha = "lora_unet_double_blocks_0_img_attn_qkv.alpha"
    refused(comfy, {**fused, alpha: fused[alpha] / 2}, None, differs)
    up = alpha.replace("alpha", "lora_up.weight")
    swapped = torch.cat([fused[up][64:128], fused[up][:64], fused[up][128:]])  # keys where the queries belong
    refused(comfy, {**fused, up: swapped}, None, differs)


def test_both_files_say_what_they_are(tiny_flux: Path, tmp_path: Path) -> None:
    transformer = trained(tiny_flux, RECIPES["ranks"])
    file = adapter.save(transformer, tmp_path / "lilies" / "adapter")
    before = file.read_bytes()
    export.label(file, title="Water lilies", license="MIT", resolution="1024x1024")
    comfy = export.write_comfy(file)
    assert comfy.name == "lilies_comfy.safetensors"
    for written, implementation in ((file, "diffusers"), (comfy, "https://github.com/black-forest-labs/flux")):
        with safe_open(written, framework="pt") as stored:
            metadata = stored.metadata()
        facts = {key: metadata[f"modelspec.{key}"] for key in ("sai_model_spec", "architecture", "title", "license")}
        assert list(facts.values()) == ["1.0.1", "flux-1-dev/lora", "Water lilies", "MIT"]
        assert metadata["modelspec.implementation"] == implementation
        data = written.read_bytes()
        body = data[8 + int.from_bytes(data[:8], "little") :]
        assert metadata["modelspec.hash_sha256"] == "0x" + hashlib.sha256(body).hexdigest()
    assert "lora_adapter_metadata" not in metadata  # its ranks are those of the layers apart
    assert before.endswith(file.read_bytes()[-1000:])
    assert export.check_parity(live(transformer), file) < 0.004


def test_layers_outside_the_blocks_are_refused() -> None:
    a = torch.ones(2, 64)
    with pytest.raises(UserError, match="no name for x_embedder outside diffusers"):
        export.comfy({"transformer.x_embedder.lora_A.weight": a, "transformer.x_embedder.lora_B.weight": a.T})
