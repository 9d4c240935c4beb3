"""Building the miniature: the autoencoder's straight start, the readers' tokenizers, the resumable loop, and all
stages once."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from transformers import CLIPTokenizer, T5TokenizerFast

from tools.miniature import autoencoder, loop, text, transformer
from tools.miniature.captions import describe
from tools.miniature.world import all_scenes, random_scene


@pytest.fixture
def smooth() -> torch.Tensor:
    """(4, 3, 64, 64) pictures in [-1, 1]."""
    coarse = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(-1, 1)


@torch.no_grad()
def test_straightened_the_whole_network_computes_its_straight_path(smooth):
    torch.manual_seed(0)
    vae = autoencoder.build()
    autoencoder.even_start(vae)
    latents = autoencoder._straight(vae.encoder, smooth)[:, : autoencoder.LATENT]
    picture = autoencoder._straight(vae.decoder, latents)
    autoencoder.straighten(vae)
    scale = latents.abs().max()
    assert (vae.encoder(smooth)[:, : autoencoder.LATENT] - latents).abs().max() < 0.02 * scale
    assert (vae.decoder(latents) - picture).abs().max() < 0.02 * picture.abs().max()


@torch.no_grad()
def test_aligning_evens_the_latents_and_keeps_the_picture(smooth):
    torch.manual_seed(0)
    vae = autoencoder.build()
    autoencoder.even_start(vae)

    def through() -> torch.Tensor:
        return autoencoder._straight(vae.decoder, autoencoder._straight(vae.encoder, smooth)[:, : autoencoder.LATENT])

    def spread() -> float:
        deviations = autoencoder._straight(vae.encoder, smooth)[:, : autoencoder.LATENT].std((0, 2, 3))
        return float(deviations.max() / deviations.min())

    before, spread_before = through(), spread()
    autoencoder.align(vae, smooth)
    inside = (slice(None), slice(None), slice(16, -16), slice(16, -16))  # the border is padded with zeros
    assert (through() - before)[inside].abs().max() < 0.02 * before.abs().max()
    assert spread() < 0.7 * spread_before**2


def test_the_tokenizers_read_alike_after_saving_and_every_caption_fits(tmp_path):
    clip, t5 = text.tokenizers()
    clip.save_pretrained(tmp_path / "clip")
    t5.save_pretrained(tmp_path / "t5")
    loaded = CLIPTokenizer.from_pretrained(tmp_path / "clip"), T5TokenizerFast.from_pretrained(tmp_path / "t5")
    rng = np.random.default_rng(0)
    for held_out in [False, True] * 100:
        caption = text.as_typed(describe(random_scene(rng), rng, held_out=held_out), rng)
        for ours, theirs in zip((clip, t5), loaded, strict=True):
            ids = ours(caption).input_ids
            assert len(ids) <= text.TOKENS
            assert ids == theirs(caption).input_ids
    assert t5.unk_token_id not in t5("A zebra, at 7 o'clock!").input_ids


def test_a_stopped_build_goes_on_to_the_same_weights(tmp_path):
    class Stop(Exception):
        pass

    def train(name: str, stop: int | None = None, steps: int = 12) -> torch.nn.Module:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 4)

        def batch_of(step: int) -> loop.Batch:
            if step == stop:
                raise Stop
            return {"x": torch.randn(8, 4, generator=torch.Generator().manual_seed(step))}

        def loss_of(batch: loop.Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return (model(batch["x"]) - batch["x"]).square().mean(), {}

        return loop.run(
            model=model, state_file=tmp_path / name, steps=steps, rate=0.1, batch_of=batch_of, loss_of=loss_of
        )

    whole = train("whole.pt")
    loop_save, loop.SAVE_EVERY = loop.SAVE_EVERY, 0.0
    try:
        with pytest.raises(Stop):
            train("halves.pt", stop=7)
    finally:
        loop.SAVE_EVERY = loop_save
    assert torch.equal(train("halves.pt").weight, whole.weight)
    with pytest.raises(SystemExit, match="begun for 12 steps, not 13"):
        train("halves.pt", steps=13)


def test_noise_levels_are_spread_over_the_whole_range_and_most_are_high():
    levels = transformer.sigmas(100, torch.Generator().manual_seed(0))
    assert ((levels > 0) & (levels < 1)).all()
    assert 0.6 < float((levels > 0.5).float().mean()) < 0.8
    assert all(((levels >= low) & (levels < low + 0.2)).any() for low in (0.0, 0.2, 0.4, 0.6, 0.8))


def test_every_scene_that_may_be_drawn_is_encoded_once():
    scenes, rng = all_scenes(), np.random.default_rng(0)
    assert len(set(scenes)) == len(scenes)
    assert {random_scene(rng) for _ in range(2000)} <= set(scenes)


def test_all_stages_once_make_a_pipeline_with_two_adapters(tmp_path):
    command = [sys.executable, "-m", "tools.miniature", "--quick", "--out", tmp_path / "out", "--work", tmp_path]
    subprocess.run([str(part) for part in command], check=True, capture_output=True, timeout=500)
    pipe = FluxPipeline.from_pretrained(tmp_path / "out", torch_dtype=torch.float32)
    pipe.load_lora_weights(tmp_path / "out" / "adapter", adapter_name="style")
    pipe.load_lora_weights(tmp_path / "out" / "accelerator", adapter_name="few steps")
    pipe.set_adapters(["style", "few steps"])
    image = pipe("a boat", num_inference_steps=1, width=192, height=192, max_sequence_length=32).images[0]
    assert image.size == (192, 192)
    assert (tmp_path / "out" / "adapter" / "run.json").is_file()
