import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from impressionism.lora import (
    TRAINED,
    FrozenLinear,
    LoraLinear,
    Update,
    early_single_blocks,
    inject,
    linears,
    lora_layers,
    remove,
    set_strength,
    trainable,
)
from impressionism.quantize import MODES, load_transformer, pack, quantized, weight_of
from impressionism.records import BlockStrengths


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(quantize: str = "none") -> nn.Module:
    layer = nn.Linear(64, 96)
    layer.weight.data, layer.bias.data = random(96, 64, seed=1) / 8, random(96, seed=2)
    layer.requires_grad_(False)
    if quantize == "none":
        return layer
    return quantized(layer, pack(layer.weight.data, quantize, torch.float32), quantize, torch.float32)


def live(base: nn.Module, scale: float = 1.0) -> LoraLinear:
    layer = trainable(base, 4, scale, torch.Generator().manual_seed(3))
    layer.updates[TRAINED].lora_B.data = random(96, 4, seed=4)
    return layer


def test_an_untrained_layer_is_its_base_exactly():
    x = random(2, 7, 64)
    layer = trainable(linear(), 4, 1.0, torch.Generator())
    assert torch.equal(layer(x), linear()(x))


def test_outputs_and_gradients_are_those_of_peft():
    theirs = nn.Sequential(linear())
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=["0"]), theirs)
    ours = live(linear(), scale=2.0)
    lora = theirs[0]
    lora.lora_A["default"].weight.data, lora.lora_B["default"].weight.data = (
        ours.updates[TRAINED].lora_A.data,
        ours.updates[TRAINED].lora_B.data,
    )

    x, y = random(2, 7, 64).requires_grad_(), random(2, 7, 64).requires_grad_()
    for output in (ours(x), theirs(y)):
        (output * random(2, 7, 96, seed=5)).sum().backward()
    torch.testing.assert_close(ours(x), theirs(y))
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(ours.updates[TRAINED].lora_A.grad, lora.lora_A["default"].weight.grad)
    torch.testing.assert_close(ours.updates[TRAINED].lora_B.grad, lora.lora_B["default"].weight.grad)


@pytest.mark.parametrize("quantize", MODES)
def test_on_any_precision_it_computes_with_the_expanded_weight(quantize):
    layer = live(linear(quantize))
    weight = weight_of(layer.base, torch.float32)
    assert (weight - linear().weight).abs().max() < (1e-9 if quantize == "none" else 0.4)
    x = random(2, 7, 64).requires_grad_()
    expected = x @ (weight + layer.updates[TRAINED].lora_B @ layer.updates[TRAINED].lora_A).T + layer.base.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)
    [gradient] = torch.autograd.grad(layer(x).sum(), x)
    [wanted] = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(gradient, wanted, atol=1e-4, rtol=1e-4)


def test_switched_off_it_is_the_base():
    layer = live(linear("nf4"))
    x = random(3, 64)
    layer.updates[TRAINED].on = False
    assert torch.equal(layer(x), FrozenLinear(linear("nf4"))(x))


@pytest.mark.parametrize("layer, kept", [(FrozenLinear(linear()), 0), (live(linear()), 7 * (64 + 4))])
def test_backward_keeps_the_input_and_its_small_product_and_nothing_else(layer, kept):
    saved = []
    weights = {id(parameter) for parameter in layer.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(random(7, 64).requires_grad_())
    assert sum(tensor.numel() for tensor in saved if id(tensor) not in weights) == kept


def test_bfloat16_activations_meet_float32_masters():
    layer = live(linear())
    y = layer(random(5, 64).bfloat16())
    y.sum().backward()
    assert (
        y.dtype == torch.bfloat16
        and layer.updates[TRAINED].lora_A.grad.dtype == layer.updates[TRAINED].lora_B.grad.dtype == torch.float32
    )


# ---- Painting


@pytest.mark.parametrize("quantize", MODES)
@torch.no_grad()
def test_two_named_updates_are_two_of_pefts_and_at_strength_zero_the_base_bit_for_bit(quantize):
    ours, theirs, x = LoraLinear(linear(quantize)), linear(quantize), random(2, 7, 64)
    model = nn.Sequential(theirs)
    for name, rank, alpha, strength in (("style", 4, 8, 0.7), ("accelerator", 2, 3, -0.5)):
        update = Update(random(rank, 64, seed=rank), random(96, rank, seed=rank + 1), alpha / rank)
        ours.add(name, update).set_strength(strength)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"]), model, adapter_name=name)
        model[0].lora_A[name].weight.data, model[0].lora_B[name].weight.data = update.down, update.up
        model[0].set_scale(name, strength)
    model[0].set_adapter(["style", "accelerator"])
    torch.testing.assert_close(ours(x), model(x))
    ours.updates["style"].set_strength(0)
    alone = LoraLinear(linear(quantize))
    alone.add("accelerator", update).set_strength(-0.5)
    assert torch.equal(ours(x), alone(x))
    ours.updates["accelerator"].set_strength(0)
    assert torch.equal(ours(x), linear(quantize)(x))


@torch.no_grad()
def test_a_strength_is_not_rounded_to_bfloat16():
    base, x, down = nn.Linear(64, 4, bias=False).bfloat16(), random(5, 64).bfloat16(), random(4, 64, seed=5).bfloat16()
    base.weight.zero_()
    layer = LoraLinear(base)
    layer.add("style", Update(down, torch.eye(4).bfloat16(), 1.0)).set_strength(0.7)
    assert torch.equal(layer(x), (nn.functional.linear(x, down).float() * 0.7).bfloat16())


def test_each_group_of_blocks_has_its_strength(tiny_flux):
    transformer = load_transformer(tiny_flux, dtype=torch.float32, device="cpu")  # two single blocks: one is early
    paths = {"transformer_blocks.0.attn.to_q": 0.5, "single_transformer_blocks.0.proj_mlp": 1.0,
             "single_transformer_blocks.1.attn.to_v": 0.0, "x_embedder": 2.0}  # fmt: skip
    bases = linears(transformer)
    updates = {path: Update(torch.ones(1, bases[path].in_features), torch.ones(bases[path].out_features, 1), 1.0)
               for path in paths}  # fmt: skip
    inject(transformer, "style", updates, torch.float32)
    set_strength(transformer, "style", 2.0, BlockStrengths(two_stream=0.25, early_single=0.5, late_single=0))
    layers = {path: layer.updates["style"] for path, layer in lora_layers(transformer).items()}
    assert {path: update.scaling.item() for path, update in layers.items()} == paths
    assert not layers["single_transformer_blocks.1.attn.to_v"].on
    assert [early_single_blocks(count) for count in (38, 6, 2)] == [10, 2, 1]
    remove(transformer, "style")
    assert not lora_layers(transformer)
