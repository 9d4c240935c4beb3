"""The adapter: which layers it trains, and two files from which every tool reads the same update."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from impressionism.errors import UserError
from impressionism.lora import TRAINED, Update, inject, linears, updates_of
from impressionism.lora_file import SINGLE_BLOCK, check_parity, linears_of, read_adapter, write_adapter
from impressionism.names import WEIGHTS_FILE
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
RECIPES = {
    "attention": Adapter(targets="attention", rank=3),
    "all": Adapter(targets="all", rank=4, ranks={r"to_k": 0, r"add_v_proj": 2, r"blocks.0.proj_mlp": 7}),
    "every": Adapter(targets="every", rank=4, alpha=6),
    "style": Adapter(targets="style", rank=4, alpha=8),
    "compact": Adapter(targets="compact", rank=4),
}


def load(tiny_flux: Path):
    return load_transformer(tiny_flux, dtype=torch.float32, device="cpu")


def trained(tiny_flux: Path, wanted: Adapter):
    """The tiny transformer with an adapter that has learned something."""
    transformer = load(tiny_flux)
    adapter.add(transformer, wanted, seed=0)
    random = torch.Generator().manual_seed(3)
    for name, weight in adapter.trained(transformer).items():
        if name.endswith("lora_B"):
            weight.data = torch.randn(weight.shape, generator=random) * 0.3
    return transformer


@torch.no_grad()
def run(transformer) -> torch.Tensor:
    return transformer(**INPUTS)[0]


@pytest.mark.parametrize("recipe", RECIPES)
def test_both_files_paint_as_the_trained_transformer(tiny_flux: Path, tmp_path: Path, recipe: str) -> None:
    transformer = trained(tiny_flux, RECIPES[recipe])
    updates, known = updates_of(transformer, TRAINED), linears(transformer)
    expected, base = run(transformer), run(load(tiny_flux))
    assert (expected - base).abs().max() > 0.1
    for layout in ("diffusers", "comfy"):
        file = write_adapter(updates, tmp_path / layout / WEIGHTS_FILE, torch.float32, layout=layout)
        assert check_parity(updates, file, known) < 1e-7
        again = load(tiny_flux)
        inject(again, "again", read_adapter(file, linears_of(tiny_flux)), torch.float32)
        torch.testing.assert_close(run(again), expected, atol=1e-3, rtol=1e-4)
        rounded = write_adapter(updates, tmp_path / "rounded.safetensors", torch.bfloat16, layout=layout)
        assert 0 < check_parity(updates, rounded, known) < 0.004
    pipe = FluxPipeline.from_pretrained(tiny_flux, dtype=torch.float32)
    pipe.load_lora_weights(tmp_path / "diffusers")  # PEFT is the authority on its format
    torch.testing.assert_close(run(pipe.transformer), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("ranks", [(4, 4, 4, 4), (2, None, 5, None), (None, None, None, 4), (8, 8, 8, None)])
def test_diffusers_finds_the_layers_again_in_the_file_for_comfyui(tmp_path: Path, ranks: tuple) -> None:
    """At the width of FLUX.1, which diffusers' converter has written into it."""
    random, updates = torch.Generator().manual_seed(0), {}
    for member, rank in zip(SINGLE_BLOCK["linear1"], ranks, strict=True):
        if rank:
            out = 3072 * (4 if member == "proj_mlp" else 1)
            down, up = torch.randn(rank, 3072, generator=random), torch.randn(out, rank, generator=random)
            updates[f"single_transformer_blocks.37.{member}"] = Update(down, up, 0.5)
    file = write_adapter(updates, tmp_path / "comfy.safetensors", torch.float32, layout="comfy")
    stored = load_file(file)
    assert stored["lora_unet_single_blocks_37_linear1.alpha"] == sum(filter(None, ranks))
    theirs, alphas = FluxPipeline.lora_state_dict(stored, return_alphas=True)
    assert not alphas
    x = torch.randn(3072, 4, generator=random)
    for path, (down, up, scale) in updates.items():
        a, b = (theirs.pop(f"transformer.{path}.lora_{side}.weight") for side in "AB")
        torch.testing.assert_close(b @ (a @ x), scale * up @ (down @ x), rtol=1e-3, atol=1e-2)
    assert not any(up.any() for name, up in theirs.items() if "lora_B" in name)  # layers that were not trained


def test_a_file_that_differs_is_refused_and_the_layer_named(tiny_flux: Path, tmp_path: Path) -> None:
    transformer = trained(tiny_flux, RECIPES["every"])
    updates, known = updates_of(transformer, TRAINED), linears(transformer)
    file, comfy = (
        write_adapter(updates, tmp_path / f"{layout}.safetensors", torch.bfloat16, layout=layout)
        for layout in ("diffusers", "comfy")
    )
    with safe_open(file, framework="pt") as stored:
        metadata = stored.metadata()
    weights, fused = ({key: tensor.clone() for key, tensor in load_file(one).items()} for one in (file, comfy))

    def refused(file: Path, changed: dict, metadata: dict | None, words: str) -> None:
        save_file(changed, file, metadata)
        with pytest.raises(UserError, match=words):
            check_parity(updates, file, known)

    differs = r"differs from what was trained at transformer_blocks\.0\.attn\.to_q by"
    key = "transformer.transformer_blocks.0.attn.to_q.lora_B.weight"
    refused(file, {**weights, key: weights[key] * 1.02}, metadata, differs)
    refused(file, {**weights, key: weights[key] * torch.nan}, metadata, "not finite")
    without = {name: tensor for name, tensor in weights.items() if ".to_q." not in name}
    refused(file, without, metadata, "lacks the update")
    twice = json.dumps({**json.loads(metadata["lora_adapter_metadata"]), "transformer.lora_alpha": 8})
    refused(file, weights, {**metadata, "lora_adapter_metadata": twice}, "differs from what was trained")
    other = {"A": torch.ones(4, 64), "B": torch.ones(64, 4)}
    others = {f"transformer.proj_out.lora_{side}.weight": matrix for side, matrix in other.items()}
    refused(file, {**weights, **others}, metadata, "changes proj_out, which was not trained")

    alpha = "lora_unet_double_blocks_0_img_attn_qkv.alpha"
    refused(comfy, {**fused, alpha: fused[alpha] / 2}, None, differs)
    up = alpha.replace("alpha", "lora_up.weight")
    swapped = torch.cat([fused[up][64:128], fused[up][:64], fused[up][128:]])  # keys where the queries belong
    refused(comfy, {**fused, up: swapped}, None, differs)
    with pytest.raises(UserError, match="no name for x_embedder outside diffusers"):
        write_adapter({"x_embedder": Update(*other.values(), 1.0)}, comfy, torch.float32, layout="comfy")


def test_an_adapter_that_has_learned_nothing_yet_passes(tiny_flux: Path, tmp_path: Path) -> None:
    transformer = load(tiny_flux)
    adapter.add(transformer, RECIPES["every"], seed=0)
    updates = updates_of(transformer, TRAINED)
    for layout in ("diffusers", "comfy"):
        file = write_adapter(updates, tmp_path / WEIGHTS_FILE, torch.bfloat16, layout=layout)
        assert check_parity(updates, file, linears(transformer)) == 0


def test_both_files_say_what_they_are_and_alpha_is_folded(tiny_flux: Path, tmp_path: Path) -> None:
    updates = updates_of(trained(tiny_flux, Adapter(rank=4, alpha=8)), TRAINED)
    implementations = {"diffusers": "diffusers", "comfy": "https://github.com/black-forest-labs/flux"}
    for layout, implementation in implementations.items():
        file = write_adapter(updates, tmp_path / f"{layout}.safetensors", torch.bfloat16, layout=layout,
                             title="Water lilies", license="MIT")  # fmt: skip
        with safe_open(file, framework="pt") as stored:
            metadata, keys = stored.metadata(), list(stored.keys())
        facts = {key: metadata[f"modelspec.{key}"] for key in ("sai_model_spec", "architecture", "title", "license")}
        assert list(facts.values()) == ["1.0.1", "flux-1-dev/lora", "Water lilies", "MIT"]
        assert metadata["modelspec.implementation"] == implementation
        data = file.read_bytes()
        body = data[8 + int.from_bytes(data[:8], "little") :]
        assert metadata["modelspec.hash_sha256"] == "0x" + hashlib.sha256(body).hexdigest()
        if layout == "diffusers":
            assert '"transformer.r": 4, "transformer.lora_alpha": 4' in metadata["lora_adapter_metadata"]
            assert all(key.startswith("transformer.") and "alpha" not in key for key in keys)


@pytest.mark.parametrize(
    "targets, count",
    [("attention", 8 + 2 * 3), ("all", 8 + 4 + 2 * 5), ("every", 14 + 2 * 6), ("style", 5), ("compact", 1)],
)
def test_targets_name_the_layers_they_say(tiny_flux, targets, count):
    transformer = load(tiny_flux)
    adapter.add(transformer, Adapter(rank=2, targets=targets), seed=0)
    names = adapter.trained(transformer)
    assert len(names) == 2 * count
    assert all("transformer_blocks." in name for name in names)


def test_only_float32_masters_are_trained_on_a_quantized_base(tiny_flux):
    transformer = load_transformer(tiny_flux, quantize="nf4", dtype=torch.bfloat16, device="cpu")
    adapter.add(transformer, Adapter(rank=2, targets="attention"), seed=0)
    assert {weight.dtype for weight in adapter.trained(transformer).values()} == {torch.float32}


def test_layers_may_have_other_ranks_or_none(tiny_flux):
    ranks = {r"single_transformer_blocks\.1\.": 2, "ff_context": 0}
    transformer = trained(tiny_flux, Adapter(rank=4, ranks=ranks))
    found = {name: len(update.down) for name, update in updates_of(transformer, TRAINED).items()}
    assert found["single_transformer_blocks.1.attn.to_q"] == 2 and found["single_transformer_blocks.0.attn.to_q"] == 4
    assert not any("ff_context" in name for name in found)
