import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from impressionism.quantize import MODES, pack, quantized, weight_of
from training.lora import FrozenLinear, LoraLinear


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
    layer = LoraLinear(base, 4, scale, torch.Generator().manual_seed(3))
    layer.lora_B.data = random(96, 4, seed=4)
    return layer


def test_an_untrained_layer_is_its_base_exactly():
    x = random(2, 7, 64)
    layer = LoraLinear(linear(), 4, 1.0, torch.Generator())
    assert torch.equal(layer(x), linear()(x))


def test_outputs_and_gradients_are_those_of_peft():
    theirs = nn.Sequential(linear())
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=["0"]), theirs)
    ours = live(linear(), scale=2.0)
    lora = theirs[0]
    lora.lora_A["default"].weight.data, lora.lora_B["default"].weight.data = ours.lora_A.data, ours.lora_B.data

    x, y = random(2, 7, 64).requires_grad_(), random(2, 7, 64).requires_grad_()
    for output in (ours(x), theirs(y)):
        (output * random(2, 7, 96, seed=5)).sum().backward()
    torch.testing.assert_close(ours(x), theirs(y))
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(ours.lora_A.grad, lora.lora_A["default"].weight.grad)
    torch.testing.assert_close(ours.lora_B.grad, lora.lora_B["default"].weight.grad)


@pytest.mark.parametrize("quantize", MODES)
def test_on_any_precision_it_computes_with_the_expanded_weight(quantize):
    layer = live(linear(quantize))
    weight = weight_of(layer.base, torch.float32)
    assert (weight - linear().weight).abs().max() < (1e-9 if quantize == "none" else 0.4)
    x = random(2, 7, 64).requires_grad_()
    expected = x @ (weight + layer.lora_B @ layer.lora_A).T + layer.base.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)
    [gradient] = torch.autograd.grad(layer(x).sum(), x)
    [wanted] = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(gradient, wanted, atol=1e-4, rtol=1e-4)


def test_switched_off_it_is_the_base():
    layer = live(linear("nf4"))
    x = random(3, 64)
    layer.on = False
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
    assert y.dtype == torch.bfloat16 and layer.lora_A.grad.dtype == layer.lora_B.grad.dtype == torch.float32
