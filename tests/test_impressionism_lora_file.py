"""Adapters made by others: one adapter written in each tool's layout paints the same picture, or is refused."""

import json
import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.loaders.lora_conversion_utils import (
    _convert_kohya_flux_lora_to_diffusers,
    _convert_xlabs_flux_lora_to_diffusers,
)
from hub import Hub
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save, save_file
from tiny import TRANSFORMER, make_tiny_adapter
from torch import nn

from impressionism import names
from impressionism.errors import UserError
from impressionism.lora import lora_layers, remove
from impressionism.lora_file import Linears, find_adapter, read_adapter
from impressionism.paint import paint, set_strength
from impressionism.pipeline import ADAPTER_NAME, Painter, load_adapter, load_pipeline
from impressionism.records import GenerationParams

BOAT = GenerationParams(prompt="a boat", steps=2, width=64, height=64)
LAYER = "transformer.transformer_blocks.0.attn.to_q"

Tensors = dict[str, torch.Tensor]
Layers = dict[str, tuple[torch.Tensor, torch.Tensor, float]]  # path → down, up, alpha

# What FLUX's authors call the layers of a block, and diffusers' in the order of their rows.
DOUBLE = {
    "img_attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"], "img_attn.proj": ["attn.to_out.0"],
    "img_mlp.0": ["ff.net.0.proj"], "img_mlp.2": ["ff.net.2"], "img_mod.lin": ["norm1.linear"],
    "txt_attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"], "txt_attn.proj": ["attn.to_add_out"],
    "txt_mlp.0": ["ff_context.net.0.proj"], "txt_mlp.2": ["ff_context.net.2"], "txt_mod.lin": ["norm1_context.linear"],
}  # fmt: skip
SINGLE = {
    "linear1": ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"], "linear2": ["proj_out"],
    "modulation.lin": ["norm.linear"],
}  # fmt: skip
XLABS_DOUBLE = {
    "processor.qkv_lora1": DOUBLE["img_attn.qkv"], "processor.proj_lora1": ["attn.to_out.0"],
    "processor.qkv_lora2": DOUBLE["txt_attn.qkv"], "processor.proj_lora2": ["attn.to_add_out"],
}  # fmt: skip
XLABS_SINGLE = {"processor.qkv_lora": SINGLE["linear1"][:3], "processor.proj_lora": ["proj_out"]}


@pytest.fixture(scope="module")
def bare(tiny_flux: Path) -> Painter:
    """A painter without an adapter, which refused adapters must leave so."""
    return load_pipeline(tiny_flux, "none", "none", "cpu")


@pytest.fixture
def fresh(bare: Painter) -> Iterator[Painter]:
    """The same, for adapters that fit; they are taken off afterwards."""
    yield bare
    remove(bare.pipe.transformer, ADAPTER_NAME)


@pytest.fixture(scope="module")
def linears() -> Linears:
    transformer = FluxTransformer2DModel(**TRANSFORMER)
    return {name: layer for name, layer in transformer.named_modules() if isinstance(layer, nn.Linear)}


def an_adapter(linears: Linears, pattern: str = "transformer_blocks") -> Layers:
    """Ranks 4 and, for the keys, 2; alpha 8: scales 2 and 4, which fold into bfloat16 without rounding."""
    random, layers = torch.Generator().manual_seed(0), {}
    for path, layer in linears.items():
        if re.search(pattern, path):
            rank = 2 if path.endswith("to_k") else 4
            down = torch.randn(rank, layer.in_features, generator=random) * layer.in_features**-0.5
            up = torch.randn(layer.out_features, rank, generator=random) * rank**-0.5
            layers[path] = (down.bfloat16(), up.bfloat16(), 8.0)
    return layers


def deltas(layers: Layers) -> Tensors:
    return {path: alpha / len(down) * up.double() @ down.double() for path, (down, up, alpha) in layers.items()}


def deltas_of(file: Path, linears: Linears) -> Tensors:
    return {
        path: update.scale * update.up.double() @ update.down.double()
        for path, update in read_adapter(file, linears).items()
    }


# ---- Each tool's layout


def apart(layers: Layers, prefix: str, down: str, up: str, alpha: str = "", dots: str = ".") -> Tensors:
    """Under diffusers' names; where the layout has no alpha, it is in the weights."""
    tensors: Tensors = {}
    for path, (a, b, value) in layers.items():
        name = prefix + path.replace(".", dots)
        tensors |= {name + down: a, name + up: b if alpha else b * (value / len(a))}
        tensors |= {name + alpha: torch.tensor(value)} if alpha else {}
    return tensors


def fused(
    layers: Layers, prefix: str, down: str, up: str, alpha: str = "", dots: str = ".", double=DOUBLE, single=SINGLE
) -> Tensors:
    """Under the names of FLUX's authors: the downs on top of one another, the ups along a diagonal."""
    tensors: Tensors = {}
    blocks = sorted({".".join(path.split(".")[:2]) for path in layers})
    for block in blocks:
        kind, index = block.split(".")
        table = single if kind.startswith("single") else double
        for part, members in table.items():
            found = [layers[f"{block}.{member}"] for member in members if f"{block}.{member}" in layers]
            if len(found) < len(members):
                continue
            name = prefix + f"{'single' if table is single else 'double'}_blocks.{index}.{part}".replace(".", dots)
            a = torch.cat([one for one, _, _ in found])
            b = torch.block_diag(*(one * (value / len(a_)) for a_, one, value in found))
            tensors |= {name + down: a, name + up: b * 2 if alpha else b}  # alpha is half of the rank
            tensors |= {name + alpha: torch.tensor(len(a) / 2)} if alpha else {}
    return tensors


def config_of(layers: Layers) -> dict:
    """PEFT's: the usual rank and alpha, and patterns for the keys."""
    ranks = {path: len(down) for path, (down, _, _) in layers.items() if len(down) != 4}
    return {"r": 4, "lora_alpha": 8, "rank_pattern": ranks, "target_modules": list(layers)}


def with_config(tensors: Tensors, config: dict) -> tuple[Tensors, dict[str, str]]:
    packed = {f"transformer.{key}": value for key, value in config.items()}
    return tensors, {"format": "pt", "lora_adapter_metadata": json.dumps(packed)}


def unscaled(layers: Layers) -> Tensors:
    """In diffusers' layout, with alpha said elsewhere."""
    tensors = apart(layers, "transformer.", ".lora_A.weight", ".lora_B.weight", ".alpha")
    return {key: tensor for key, tensor in tensors.items() if not key.endswith(".alpha")}


def rank_stabilised(layers: Layers) -> tuple[Tensors, dict[str, str]]:
    """Scale alpha / √rank: for the same updates alpha is 4, and 4√2 where the rank is 2."""
    config = config_of(layers)
    alphas = dict.fromkeys(config["rank_pattern"], 4 * 2**0.5)
    return with_config(unscaled(layers), config | {"use_rslora": True, "lora_alpha": 4, "alpha_pattern": alphas})


Written = Tensors | tuple[Tensors, dict[str, str]]
A, B, DOWN, UP = ".lora_A.weight", ".lora_B.weight", ".lora_down.weight", ".lora_up.weight"
KOHYA = {"down": DOWN, "up": UP, "alpha": ".alpha"}

LAYOUTS: dict[str, Callable[[Layers], Written]] = {
    "diffusers, metadata": lambda layers: with_config(unscaled(layers), config_of(layers)),
    "diffusers, rank-stabilised": rank_stabilised,
    "diffusers, alpha tensors": lambda layers: apart(layers, "transformer.", A, B, ".alpha"),
    "diffusers, both": lambda layers: with_config(
        apart(layers, "transformer.", A, B, ".alpha"), config_of(layers) | {"lora_alpha": 99}
    ),
    "diffusers, lora_down and alpha": lambda layers: apart(layers, "transformer.", **KOHYA),
    "diffusers, lora.down": lambda layers: apart(layers, "transformer.", ".lora.down.weight", ".lora.up.weight"),
    "diffusers, a named adapter": lambda layers: apart(
        layers, "transformer.", ".lora_A.default.weight", ".lora_B.default.weight"
    ),
    "ai-toolkit": lambda layers: {key: it.half() for key, it in apart(layers, "transformer.", A, B).items()},
    "SimpleTuner": lambda layers: apart(layers, "diffusion_model.", A, B, ".alpha"),
    "OneTrainer": lambda layers: apart(layers, "lora_transformer_", **KOHYA, dots="_"),
    "kohya": lambda layers: fused(layers, "lora_unet_", **KOHYA, dots="_"),
    "kohya without alpha": lambda layers: fused(layers, "lora_unet_", DOWN, UP, dots="_"),
    "ComfyUI": lambda layers: fused(layers, "diffusion_model.", **KOHYA),
    "ComfyUI, lora_A": lambda layers: fused(layers, "diffusion_model.", A, B, ".alpha"),
    "fal": lambda layers: fused(layers, "base_model.model.", A, B),
}


def write(file: Path, written: Written) -> Path:
    tensors, metadata = written if isinstance(written, tuple) else (written, {"format": "pt"})
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file, metadata)
    return file


def assert_same(found: Tensors, expected: Tensors, tolerance: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for path, delta in expected.items():
        torch.testing.assert_close(found[path], delta, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_paints_the_same_picture_at_the_same_strength(
    fresh: Painter, linears: Linears, tmp_path: Path, layout: str
) -> None:
    layers = an_adapter(linears)
    file = write(tmp_path / "theirs.safetensors", LAYOUTS[layout](layers))
    assert_same(deltas_of(file, linears), deltas(layers), 1e-3 if layout == "ai-toolkit" else 1e-6)
    base = paint(fresh, BOAT, 0.7)
    load_adapter(fresh.pipe, file)
    theirs = paint(fresh, BOAT, 0.7)
    remove(fresh.pipe.transformer, ADAPTER_NAME)
    load_adapter(fresh.pipe, write(tmp_path / "ours.safetensors", LAYOUTS["diffusers, metadata"](layers)))
    ours = paint(fresh, BOAT, 0.7)
    assert difference(theirs, ours) < 0.5 < 5 < difference(base, ours)


def difference(one, other) -> float:
    """Mean, in levels of 255."""
    first, second = (torch.tensor(list(image.tobytes()), dtype=torch.float) for image in (one, other))
    return (first - second).abs().mean().item()


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_xlabs_processors_are_the_attention_layers(linears: Linears, tmp_path: Path, prefix: str) -> None:
    layers = an_adapter(linears, r"attn|single_.*proj_out")
    tensors = fused(layers, prefix, ".down.weight", ".up.weight", double=XLABS_DOUBLE, single=XLABS_SINGLE)
    file = write(tmp_path / "xlabs.safetensors", tensors)
    assert_same(deltas_of(file, linears), deltas(layers))


def test_layers_outside_the_blocks_are_found_and_shift_comes_before_scale(linears: Linears, tmp_path: Path) -> None:
    outside = {
        "x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
        "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
        "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
    }  # fmt: skip
    layers = {path: it for path, it in an_adapter(linears, "").items() if path in outside}
    down, up, alpha = layers["norm_out.linear"]
    theirs = {outside[path]: it for path, it in layers.items()}
    theirs["final_layer.adaLN_modulation.1"] = (down, up.roll(len(up) // 2, dims=0), alpha)
    for prefix, dots in (("lora_unet_", "_"), ("diffusion_model.", ".")):
        file = write(tmp_path / "outside.safetensors", apart(theirs, prefix, **KOHYA, dots=dots))
        assert_same(deltas_of(file, linears), deltas(layers))


VARIED: dict = {
    "r": 4, "lora_alpha": 6, "target_modules": ["to_q", "to_k", "proj_out"], "rank_pattern": {"to_k": 2},
    "init_lora_weights": False,
}  # fmt: skip


def test_pefts_own_files_are_read_with_their_configuration_and_refused_without(
    linears: Linears, tmp_path: Path
) -> None:
    config = LoraConfig(alpha_pattern={r"single_transformer_blocks\.1\.attn\.to_k": 3}, **VARIED)
    model = get_peft_model(FluxTransformer2DModel(**TRANSFORMER), config)  # type: ignore[arg-type]
    expected = live(model)
    model.save_pretrained(str(tmp_path))
    file = find_adapter(str(tmp_path), None)
    assert file.name == "adapter_model.safetensors"
    assert_same(deltas_of(file, linears), expected)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"needs PEFT's adapter_config\.json beside it, which says its alpha"):
        read_adapter(file, linears)


def live(model: PeftModel) -> Tensors:
    """What PEFT itself adds to each weight."""
    adapted = {name: layer for name, layer in model.base_model.model.named_modules() if hasattr(layer, "lora_A")}
    return {name: layer.get_delta_weight("default").double() for name, layer in adapted.items()}  # type: ignore


@pytest.mark.parametrize("stabilised", [False, True])
def test_what_diffusers_saves_with_its_metadata_keeps_every_scale(
    linears: Linears, tmp_path: Path, stabilised: bool
) -> None:
    config = LoraConfig(alpha_pattern={"to_q": 2}, use_rslora=stabilised, **VARIED)
    model = get_peft_model(FluxTransformer2DModel(**TRANSFORMER), config)  # type: ignore[arg-type]
    weights = get_peft_model_state_dict(model)
    FluxPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers={key.removeprefix("base_model.model."): it for key, it in weights.items()},
        transformer_lora_adapter_metadata={**config.to_dict(), "invented_in_2030": True, "init_lora_weights": "pissa"},
    )
    assert_same(deltas_of(find_adapter(str(tmp_path), None), linears), live(model))


def test_the_painters_strength_multiplies_what_the_file_says(fresh: Painter, linears: Linears, tmp_path: Path) -> None:
    layers = an_adapter(linears)
    load_adapter(fresh.pipe, write(tmp_path / "it.safetensors", LAYOUTS["diffusers, metadata"](layers)))
    for strength in (1.0, 0.5, -0.5, 1.5):
        set_strength(fresh.pipe, strength)
        for layer in lora_layers(fresh.pipe.transformer).values():
            update = layer.updates[ADAPTER_NAME]
            assert update.scaling == pytest.approx(strength * 8 / update.rank)


# ---- Held against diffusers, whose converters know FLUX.1's width only


def test_at_the_width_of_flux_kohya_and_xlabs_files_are_what_diffusers_makes_of_them(tmp_path: Path) -> None:
    wide: Linears = {
        **{f"transformer_blocks.3.{path}": meta(3072, 3072) for path in ("attn.to_q", "attn.to_k", "attn.to_v",
           "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_out.0", "attn.to_add_out")},
        **{f"single_transformer_blocks.7.attn.{path}": meta(3072, 3072) for path in ("to_q", "to_k", "to_v")},
        "single_transformer_blocks.7.proj_mlp": meta(3072, 12288),
        "single_transformer_blocks.7.proj_out": meta(15360, 3072),
    }  # fmt: skip
    random = torch.Generator().manual_seed(3)
    shapes = {"double_blocks_3_img_attn_qkv": (3072, 9216), "double_blocks_3_txt_attn_proj": (3072, 3072),
              "single_blocks_7_linear1": (3072, 21504), "single_blocks_7_linear2": (15360, 3072)}  # fmt: skip
    kohya, xlabs = {}, {}
    for name, (wide_in, wide_out) in shapes.items():
        down, up = torch.randn(2, wide_in, generator=random), torch.randn(wide_out, 2, generator=random)
        kohya |= {
            f"lora_unet_{name}{DOWN}": down,
            f"lora_unet_{name}{UP}": up,
            f"lora_unet_{name}.alpha": torch.tensor(3.0),
        }
    for name, (wide_in, wide_out) in {
        "double_blocks.3.processor.qkv_lora1": (3072, 9216), "double_blocks.3.processor.qkv_lora2": (3072, 9216),
        "double_blocks.3.processor.proj_lora1": (3072, 3072), "double_blocks.3.processor.proj_lora2": (3072, 3072),
        "single_blocks.7.processor.qkv_lora": (3072, 9216), "single_blocks.7.processor.proj_lora": (15360, 3072),
    }.items():  # fmt: skip
        xlabs[f"{name}.down.weight"] = torch.randn(2, wide_in, generator=random)
        xlabs[f"{name}.up.weight"] = torch.randn(wide_out, 2, generator=random)
    for theirs, convert in (
        (kohya, _convert_kohya_flux_lora_to_diffusers),
        (xlabs, _convert_xlabs_flux_lora_to_diffusers),
    ):
        updates = read_adapter(write(tmp_path / "wide.safetensors", theirs), wide)
        expected = convert(dict(theirs))
        assert {f"transformer.{path}" for path in updates} == {key.split(".lora_")[0] for key in expected}
        for path, (down, up, scale) in updates.items():
            a, b = (expected[f"transformer.{path}.lora_{side}.weight"] for side in "AB")
            torch.testing.assert_close(scale * up[:9] @ down, b[:9] @ a, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(scale * up[-9:] @ down, b[-9:] @ a, rtol=1e-4, atol=1e-4)


def meta(wide_in: int, wide_out: int) -> nn.Linear:
    return nn.Linear(wide_in, wide_out, device="meta")


# ---- Refused


def spoiled(tmp_path: Path, change: Callable[[Tensors], Tensors | None], **metadata: str) -> Path:
    """A file made from a good adapter."""
    file = make_tiny_adapter(tmp_path) / names.WEIGHTS_FILE
    weights = load_file(file)
    changed = change(weights)
    weights = weights if changed is None else changed
    save_file({key: tensor.clone() for key, tensor in weights.items()}, file, metadata or None)
    return file


def other(key: str, *shape: int) -> Callable[[Tensors], None]:
    return lambda weights: weights.update({key: torch.ones(*shape)})


def without(weights: Tensors, key: str) -> Tensors:
    return {name: tensor for name, tensor in weights.items() if name != key}


SDXL = "input_blocks.4.1.transformer_blocks.0.attn1.to_q"
CLIP = "text_model.encoder.layers.0.mlp.fc1"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (other(f"text_encoder.{CLIP}.lora_A.weight", 4, 32), "also changes the text encoder"),
        (other(f"lora_te1_{CLIP.replace('.', '_')}.lora_down.weight", 4, 32), "also changes the text encoder"),
        (other(f"{LAYER}.lora_A.weight", 4, 3072), r"at transformer_blocks\.0\.attn\.to_q lora_A has 3072 features"),
        (other(f"{LAYER}.lora_A.weight", 4, 64, 1, 1), r"lora_A has 64 features"),
        (
            other("transformer.transformer_blocks.7.attn.to_q.lora_A.weight", 4, 64),
            r"does not fit this model: this one has no linear layer transformer\.transformer_blocks\.7\.attn\.to_q",
        ),
        (lambda weights: without(weights, f"{LAYER}.lora_B.weight"), "has only one of lora_A"),
        (other(f"{LAYER}.alpha", 2), "alpha is no number"),
        (lambda weights: weights.update({f"{LAYER}.lora_B.weight": torch.full((64, 4), torch.nan)}), "not finite"),
        (lambda weights: weights.update({f"{LAYER}.alpha": torch.tensor(torch.inf)}), "not finite"),
        (other(f"{LAYER}.lora_A.weight", 3, 64), "lora_A has rank 3, lora_B 4"),
        (lambda weights: weights.update({f"{LAYER}.lora_A.weight": torch.ones(4, 64, dtype=torch.int8)}),
         "whole numbers"),
        (lambda weights: weights.update({f"{LAYER}.lora_A.weight": torch.ones(0, 64),
                                         f"{LAYER}.lora_B.weight": torch.ones(64, 0)}), "lora_A has rank 0"),
        (lambda weights: {}, "holds no LoRA tensors"),
        (lambda weights: {"transformer.proj_out.weight": torch.ones(4, 4)}, r"holds transformer\.proj_out\.weight"),
        (other(f"{LAYER}.lora_B.bias", 64), "lora_B.bias, which is no LoRA tensor"),
        (other("lora_unet_double_blocks_0_img_attn_qkv.diff_b", 192), "diff_b, which is no LoRA tensor"),
        (
            lambda weights: {key: weights[f"{LAYER}.lora_{side}.weight"] for side in "AB" for key in
                             (f"{LAYER}.lora_{side}.weight", f"diffusion_model.{LAYER}.lora_{side}.weight")},
            r"changes transformer_blocks\.0\.attn\.to_q twice",
        ),
        (other(f"{LAYER}.dora_scale", 64), "is a DoRA, whose update has no strength; train a plain LoRA"),
        (other(f"lora_unet_{SDXL.replace('.', '_')}.lora_down.weight", 4, 640),
         "no linear layer lora_unet_input_blocks_4_1_"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_is_refused(bare: Painter, tmp_path: Path, change, sentence: str) -> None:
    file = spoiled(tmp_path, change)
    with pytest.raises(UserError, match=sentence) as caught:
        load_adapter(bare.pipe, file)
    assert str(caught.value).startswith(file.name) and "\n" not in str(caught.value)
    assert not lora_layers(bare.pipe.transformer)


def test_an_adapter_of_another_model_is_called_by_that_models_name(linears: Linears, tmp_path: Path) -> None:
    """As kohya's and diffusers' scripts write adapters of SDXL."""
    for key, metadata, said in (
        (f"lora_unet_{SDXL.replace('.', '_')}", {"ss_base_model_version": "sdxl_base_v1-0"}, r"\(sdxl_base_v1-0\)"),
        (f"unet.{SDXL}", {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, r"\(stable-diffusion-xl-v1-"),
        (f"unet.{SDXL}", {"format": "pt"}, "does not fit this model: this one has no linear layer unet"),
    ):
        tensors = {f"{key}.lora_{'down' if '_' in key else 'A'}.weight": torch.ones(4, 640),
                   f"{key}.lora_{'up' if '_' in key else 'B'}.weight": torch.ones(640, 4)}  # fmt: skip
        with pytest.raises(UserError, match=said):
            read_adapter(write(tmp_path / "sdxl.safetensors", (tensors, metadata)), linears)


def test_what_is_all_zero_does_no_harm_wherever_it_belongs(linears: Linears, tmp_path: Path) -> None:
    layers = an_adapter(linears)
    tensors = LAYOUTS["kohya"](layers)
    assert isinstance(tensors, dict)
    encoder = f"lora_te1_{CLIP.replace('.', '_')}"
    tensors |= {
        f"{encoder}{DOWN}": torch.ones(4, 32),
        f"{encoder}{UP}": torch.zeros(32, 4),
        f"{encoder}.alpha": torch.tensor(1.0),
    }
    tensors["lora_unet_double_blocks_0_img_attn_qkv.diff_b"] = torch.zeros(192)
    assert_same(deltas_of(write(tmp_path / "kohya.safetensors", tensors), linears), deltas(layers))


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (LoraConfig(r=2, target_modules=["to_q"], use_dora=True), "DoRA"),
        (LoKrConfig(r=2, target_modules=["to_q"]), "LoKr"),
        (LoHaConfig(r=2, target_modules=["to_q"]), "LoHa"),
    ],
)
def test_other_kinds_of_updates_are_refused_by_name(linears: Linears, tmp_path: Path, config, kind: str) -> None:
    get_peft_model(FluxTransformer2DModel(**TRANSFORMER), config).save_pretrained(str(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"adapter_model\.safetensors is a {kind}, .*; train a plain LoRA"):
        read_adapter(find_adapter(str(tmp_path), None), linears)


class Trap:
    """A pickle that leaves a file where it is opened."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


def test_pickles_are_never_opened(linears: Linears, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    for name, sentence in [
        ("adapter.bin", r"adapter\.bin is not a \.safetensors file; pickles"),
        ("adapter.pt", r"adapter\.pt is not a \.safetensors file; pickles"),
        ("adapter.safetensors", r"adapter\.safetensors is not a safetensors file but a pickle"),
    ]:
        for dump in (lambda it, file: file.write_bytes(pickle.dumps(it)), torch.save):
            dump(Trap(trap), tmp_path / name)
            with pytest.raises(UserError, match=sentence):
                read_adapter(find_adapter(str(tmp_path / name), None), linears)
    (tmp_path / "adapter.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no \.safetensors adapter; it has adapter\.bin, adapter\.pt"):
        find_adapter(str(tmp_path), None)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (lambda whole: b"", "is empty: download it again"),
        (lambda whole: whole[:20], "is cut off: download it again"),
        (lambda whole: whole[:-1], "is cut off: download it again"),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (lambda whole: b"\n<!DOCTYPE html><html><body>Log in</body></html>", "is a web page: download the file itself"),
        (lambda whole: b"\x00\x01\x02 anything else", "is not a safetensors file, whatever its name says"),
    ],
)
def test_what_is_no_whole_file_is_told_from_its_bytes(linears: Linears, tmp_path: Path, content, sentence) -> None:
    (tmp_path / "it.safetensors").write_bytes(content(save({"a": torch.ones(9)})))
    with pytest.raises(UserError, match=sentence):
        read_adapter(tmp_path / "it.safetensors", linears)


def test_a_configuration_that_cannot_be_read_is_refused(linears: Linears, tmp_path: Path) -> None:
    for text in ("{", "[4]"):
        file = spoiled(tmp_path, lambda weights: None, lora_adapter_metadata=text)
        with pytest.raises(UserError, match="the configuration that says its alpha cannot be read"):
            read_adapter(file, linears)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"lora_alpha": "8"}, "alpha is '8' and no number"),
        ({"lora_alpha": 8, "alpha_pattern": {"(a|a)*(.*)*b": 3}}, r"is no layer's name, and only names are read"),
        ({"lora_alpha": 8, "alpha_pattern": [4]}, "is no table of layers and numbers"),
        ('{"lora_alpha": 1e400}', "alpha is 'inf' and no number"),
    ],
)
def test_a_hostile_alpha_is_refused(linears: Linears, tmp_path: Path, config, sentence: str) -> None:
    text = config if isinstance(config, str) else json.dumps(config)
    file = spoiled(tmp_path, lambda weights: None, lora_adapter_metadata=text)
    with pytest.raises(UserError, match=sentence):
        read_adapter(file, linears)


WRAPPED = {
    "compiled": "transformer._orig_mod.{}", "a compiled block": "transformer.transformer_blocks.0._orig_mod.attn.to_q",
    "FSDP": "base_model.model._fsdp_wrapped_module.{}", "an unknown wrapper": "my_trainer.network.{}",
    "underscores": "lora_unet__{}_",
}  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_what_wraps_a_layers_name_is_taken_off_by_rule(linears: Linears, tmp_path: Path, wrapper: str) -> None:
    path = "transformer_blocks.0.attn.to_q"
    down, up = torch.ones(2, 64), torch.ones(64, 2)
    name = WRAPPED[wrapper].format(path.replace(".", "_") if wrapper == "underscores" else path)
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
    updates = read_adapter(write(tmp_path / "it.safetensors", tensors), linears)
    assert {path: update.scale for path, update in updates.items()} == {path: 0.5}


def test_another_models_last_layer_is_not_taken_for_ours(linears: Linears, tmp_path: Path) -> None:
    for name in ("transformer.single_transformer_blocks.99.proj_out", "unet.mid_block.proj_out", "text_model.proj_out"):
        tensors = {f"{name}.lora_A.weight": torch.ones(2, 64), f"{name}.lora_B.weight": torch.ones(64, 2)}
        with pytest.raises(UserError, match="does not fit this model"):
            read_adapter(write(tmp_path / "it.safetensors", tensors), linears)


# ---- Which file


def test_the_final_file_beside_its_checkpoints_is_taken(tiny_adapter: Path, tmp_path: Path, hub: Hub) -> None:
    """As ai-toolkit pushes a run; nothing but the adapter and what stands beside it is fetched."""
    data = (tiny_adapter / names.WEIGHTS_FILE).read_bytes()
    for name in ("my_style.safetensors", "my_style_000000250.safetensors", "my_style_000000500.safetensors"):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "optimizer.pt").write_bytes(b"large")
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert find_adapter(str(tmp_path), None).name == "my_style.safetensors"
    with pytest.raises(UserError, match="is not a file on a disk"):
        find_adapter(str(tmp_path / "pipe.safetensors"), None)
    (tmp_path / "pipe.safetensors").unlink()
    hub.add_repo("monet/style", tmp_path)
    for source, chosen in (
        ("monet/style", "my_style"),
        ("monet/style/my_style_000000250.safetensors", "my_style_000000250"),
        ("monet/style@main", "my_style"),
        ("https://huggingface.co/monet/style/blob/main/my_style_000000500.safetensors", "my_style_000000500"),
    ):
        assert find_adapter(source, None).stem == chosen
    assert not any("optimizer.pt" in call for call in hub.calls)
    with pytest.raises(UserError, match=r"has no file other\.safetensors; it has .*my_style\.safetensors"):
        find_adapter("monet/style/other.safetensors", None)
    (tmp_path / "my_style.safetensors").unlink()
    assert find_adapter(str(tmp_path), None).name == "my_style_000000500.safetensors"  # the last one


def test_the_usual_names_are_found_and_several_others_are_not_guessed(tiny_adapter: Path, tmp_path: Path) -> None:
    weights = tiny_adapter / names.WEIGHTS_FILE
    assert find_adapter(str(weights), None) == find_adapter(str(tiny_adapter), None) == weights
    (tmp_path / "mine.safetensors").write_bytes(weights.read_bytes())
    assert find_adapter(str(tmp_path), None).name == "mine.safetensors"  # the only one
    (tmp_path / "yours.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(UserError, match=r"has several adapters: mine\.safetensors, yours\.safetensors"):
        find_adapter(str(tmp_path), None)
    for usual in ("adapter_model.safetensors", names.ADAPTER_FILE, names.WEIGHTS_FILE):
        (tmp_path / usual).write_bytes(weights.read_bytes())
        assert find_adapter(str(tmp_path), None).name == usual
