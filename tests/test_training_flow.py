import math

import pytest
import torch

from training import flow


def test_the_ends_of_the_path_are_the_picture_and_the_noise():
    x, noise = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    assert torch.equal(flow.mix(x, noise, torch.zeros(2)), x)
    assert torch.equal(flow.mix(x, noise, torch.ones(2)), noise)


def test_the_target_is_the_paths_velocity():
    x, noise = torch.randn(1, 5, 4, dtype=torch.float64), torch.randn(1, 5, 4, dtype=torch.float64)
    low, high = torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.3001], dtype=torch.float64)
    slope = (flow.mix(x, noise, high) - flow.mix(x, noise, low)) / 1e-4
    torch.testing.assert_close(slope, flow.target(x, noise), atol=1e-8, rtol=0)


def test_loss_is_one_number_a_sample():
    target = torch.zeros(3, 5, 4)
    assert torch.equal(flow.loss(target + torch.tensor([0.0, 1, 2]).view(3, 1, 1), target), torch.tensor([0.0, 1, 4]))


@pytest.mark.parametrize("distribution", ["uniform", "logit-normal"])
def test_every_stratum_has_one_sigma(distribution):
    sigmas = flow.sample_sigmas(8, flow.generator(0), distribution=distribution)
    probability = sigmas if distribution == "uniform" else 0.5 * (1 + torch.erf(torch.logit(sigmas) / math.sqrt(2)))
    assert sorted((probability * 8).int().tolist()) == list(range(8))


def test_sigmas_follow_their_distribution():
    sigmas = flow.sample_sigmas(10_000, flow.generator(0), mean=0.5, std=0.7)
    logits = torch.logit(sigmas.double())
    assert float(logits.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(logits.std()) == pytest.approx(0.7, abs=0.01)


def test_resolution_shift_is_the_pipelines():
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    for tokens in (144, 256, 1024, 4096):
        assert flow.resolution_shift(tokens) == pytest.approx(math.exp(calculate_shift(tokens)))
    assert flow.shift_sigmas(torch.tensor([0.0, 0.5, 1.0]), 3.0).tolist() == [0, 0.75, 1]


def test_draws_depend_on_what_they_are_for():
    draw = [torch.randn(4, generator=flow.generator(*what)) for what in ((0, "a", 1), (0, "a", 1), (0, "a", 2))]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])
