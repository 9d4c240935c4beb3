"""The Space under ZeroGPU's own code, with a scheduler on this machine; and what it asks of ZeroGPU."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from space_served import events_of, visitor
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel
from zerogpu_here import ANSWERS, Scheduler, space_on

from impressionism import paint
from impressionism.pipeline import Painter
from impressionism.records import GenerationParams
from space import errors, zerogpu
from space.jobs import Step
from space.studio import Studio

SMALL = {"steps": 2, "width": 64, "height": 64}
LONG = {"steps": 100, "width": 512, "height": 512}
LARGE = GenerationParams(prompt="x", width=1024, height=1024)
LARGE_CARD = 42 * 2**30  # bytes on the GPU from which ZeroGPU lends a whole card, at twice the quota


@pytest.fixture(scope="module")
def scheduler() -> Iterator[Scheduler]:
    with Scheduler() as scheduler:
        yield scheduler


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def space(scheduler: Scheduler, tiny_flux: Path, tiny_adapter: Path, home: Path) -> Iterator[str]:
    with space_on(scheduler, tiny_flux, tiny_adapter, home) as address:
        yield address


@pytest.fixture(scope="module")
def client(space: str) -> Client:
    """A visitor who is signed in, as ZeroGPU sees it."""
    return visitor(space, headers={"X-IP-Token": "header.e30.signature"})


def test_what_a_worker_paints_is_what_the_painter_paints(client: Client, tiny_painter: Painter, scheduler: Scheduler):
    sampling = GenerationParams(prompt="a forked worker", seed=3, **SMALL)
    for strength in (0.7, 0.0, 1.0):  # the worker is used again: nothing of the last visitor's may be left in it
        picture, _ = client.predict(prompt=sampling.prompt, strength=strength, seed=3, **SMALL, api_name="/generate")
        assert np.array_equal(
            np.asarray(Image.open(picture)), np.asarray(paint.paint(tiny_painter, sampling, strength))
        )
    assert len(scheduler.workers()) == 1
    assert len(scheduler.asked("release")) == 3


def test_an_exact_repeat_asks_for_no_gpu(client: Client, scheduler: Scheduler):
    for _ in range(2):
        client.predict(prompt="the same", **SMALL, api_name="/compare")
    before = len(scheduler.asked("schedule"))
    client.predict(prompt="the same", **SMALL, api_name="/compare")
    client.predict(prompt="the same", strength=0, **SMALL, api_name="/generate")
    assert len(scheduler.asked("schedule")) == before


def test_what_cannot_be_painted_asks_for_no_gpu(client: Client, scheduler: Scheduler):
    before = len(scheduler.asked("schedule"))
    with pytest.raises(AppError, match="Steps must be"):
        client.predict(prompt="too much", steps=999, api_name="/generate")
    assert len(scheduler.asked("schedule")) == before


def test_the_gpu_is_asked_for_as_long_as_the_painting_may_take(client: Client, scheduler: Scheduler):
    client.predict(prompt="how long", **SMALL, api_name="/generate")
    asked = scheduler.asked("schedule")[-1]
    assert asked["gpuSize"] == "large"
    assert zerogpu.COLD <= int(asked["durationSeconds"]) <= 2 * zerogpu.COLD


def test_a_tiny_painting_which_is_mostly_decoding_and_saving_tells_nothing_of_a_large_one():
    pace = zerogpu.Pace()
    before = pace.seconds(steps=56, params=LARGE)
    pace.learn(1.0, steps=1, params=GenerationParams(prompt="x", width=64, height=64))
    assert pace.seconds(steps=56, params=LARGE) == before
    pace.learn(56.0, steps=28, params=LARGE)
    assert pace.seconds(steps=56, params=LARGE) == zerogpu.COLD + 2 * 56


def test_cancel_gives_the_gpu_back_and_the_worker_goes_on(client: Client, scheduler: Scheduler):
    client.predict(prompt="warm up", **SMALL, api_name="/generate")
    workers, released = scheduler.workers(), len(scheduler.asked("release"))
    job = client.submit(prompt="a long afternoon", **LONG, api_name="/generate")
    wait_for(lambda: job.outputs())
    job.cancel()
    wait_for(lambda: len(scheduler.asked("release")) > released, seconds=5)
    client.predict(prompt="after the cancel", **SMALL, api_name="/generate")
    assert scheduler.workers() == workers


def test_a_worker_that_dies_is_a_clear_error_and_the_next_call_works(client: Client, scheduler: Scheduler):
    client.predict(prompt="alive", **SMALL, api_name="/generate")
    job = client.submit(prompt="dies on the way", **LONG, api_name="/generate")
    wait_for(lambda: job.outputs())
    os.kill(scheduler.workers()[-1], signal.SIGKILL)
    with pytest.raises(AppError, match="GPU's time ran out, or its process died"):
        job.result(timeout=30)
    assert client.predict(prompt="dies on the way", **SMALL, api_name="/generate")


def test_no_prompt_is_logged(client: Client, scheduler: Scheduler, home: Path):
    long = "a walled garden " * 20 + "with a hidden door"
    client.predict(prompt=long, **SMALL, api_name="/generate")  # longer than the text encoders read
    scheduler.next.append("broken")
    with pytest.raises(AppError):
        client.predict(prompt=long, seed=1, **SMALL, api_name="/generate")
    with pytest.raises(AppError, match=r"stopped unexpectedly \(ValueError\)"):  # in the worker
        client.predict(prompt=f"explode {long}", **SMALL, api_name="/generate")
    wait_for(lambda: "It will." in (home / "said").read_text())  # what it prints is seen
    log = (home / "log").read_text() + (home / "said").read_text()
    assert "garden" not in log and "hidden" not in log


SAYS = {
    "illegal duration": "Waiting does not help",
    "quota": r"11 s are left; more comes in 1:01:40",
    "runs": "runs for today are used up",
    "pending": "Other paintings of yours",
    "queue timeout": "All GPUs are lent out",
    "no GPU": "All GPUs are lent out",
    "expired": "The page was open for so long",
    "broken": "try again",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_every_refusal_of_zerogpu_comes_with_advice(client: Client, scheduler: Scheduler, answer: str):
    scheduler.next.append(answer)
    with pytest.raises(AppError, match=SAYS[answer]) as refusal:
        client.predict(prompt=f"refused: {answer}", **SMALL, api_name="/generate")
    assert "http" not in str(refusal.value)
    assert client.predict(prompt=f"refused: {answer}", **SMALL, api_name="/generate")


def test_a_visitor_whom_zerogpu_does_not_know_is_told_to_sign_in(space: str, scheduler: Scheduler):
    stranger = visitor(space)
    for answer in ("quota", "queue timeout"):
        scheduler.next.append(answer)
        with pytest.raises(AppError, match="sign in to Hugging Face"):
            stranger.predict(prompt=f"a stranger, {answer}", **SMALL, api_name="/generate")


def test_other_errors_are_left_as_they_are():
    problem = gr.Error("Type what to paint first.", title="Not painted")
    assert errors.advice(problem) is problem
    assert "twice" in errors.advice(gr.Error("RuntimeError", title="ZeroGPU worker error")).message


def test_who_cancels_waits_for_no_worker_and_the_next_painting_does(
    tiny_painter: Painter, monkeypatch: pytest.MonkeyPatch
):
    """The thread that serves every page must not wait for a worker's step; the next painting has to."""
    studio, params, ended = Studio(tiny_painter), GenerationParams(prompt="a slow worker", **SMALL), []
    step = threading.Event()

    def worker(*_: object):
        try:
            yield 1, 2, None
            yield 2, 2, None
        finally:
            step.wait(30)  # its next one
            ended.append(1)

    monkeypatch.setattr(studio, "paint_on_gpu", worker)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    request = studio.request(params, [1.0])
    events_of(studio, request, until=lambda event: isinstance(event, Step))
    assert not ended
    threading.Timer(0.1, step.set).start()
    events_of(studio, request, until=lambda event: isinstance(event, Step))
    assert ended


# ---- What is asked of it


def test_more_steps_and_pixels_take_longer():
    pace = zerogpu.Pace()
    one = pace.seconds(steps=28, params=LARGE)
    assert one < pace.seconds(steps=56, params=LARGE) < 2 * one
    assert one < pace.seconds(steps=28, params=replace(LARGE, width=2048)) < 2 * one


def test_seconds_follow_what_was_measured():
    pace = zerogpu.Pace()
    for seconds in (20, 31, 20):
        pace.learn(seconds, steps=10, params=LARGE)
    assert pace.seconds(steps=20, params=LARGE) == zerogpu.COLD + 2 * 31
    for _ in range(zerogpu.MEASURED):
        pace.learn(5, steps=10, params=LARGE)
    assert pace.seconds(steps=10, params=LARGE) == zerogpu.COLD + 5


def test_the_visitor_sees_what_will_be_reserved(tiny_painter: Painter, monkeypatch: pytest.MonkeyPatch):
    studio, params = Studio(tiny_painter), GenerationParams(prompt="how much", **SMALL)
    request = studio.request(params, [0.0, 1.0])
    assert studio.seconds(request) is None
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert studio.seconds(request) == zerogpu.reserved(studio.pace.seconds(steps=4, params=params))
    events_of(studio, request)
    assert studio.seconds(request) == 0


def test_the_rule_is_that_of_the_installed_spaces(monkeypatch: pytest.MonkeyPatch):
    configs = json.loads(files("spaces.zero").joinpath("configs.json").read_text())
    [current] = [config for config in configs if "RTX PRO 6000" in config["model"]]
    monkeypatch.setattr("spaces.zero.config.get_config", lambda: current)
    assert (zerogpu.reserved(40), current["xlarge_threshold"]) == (60, LARGE_CARD)


def test_flux_and_a_large_adapter_fit_into_the_half_card_that_is_lent():
    """FLUX.1-dev's parts at their full size, without their numbers."""
    t5 = T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    clip = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(guidance_embeds=True)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=16,
        )  # fmt: skip
        parts = [transformer, vae, T5EncoderModel(t5), CLIPTextModel(clip)]
    placed = sum(part.to(torch.bfloat16).get_memory_footprint() for part in parts)
    layers = [module for module in transformer.modules() if isinstance(module, torch.nn.Linear)]
    adapter = sum(2 * 128 * (layer.in_features + layer.out_features) for layer in layers)  # bfloat16, rank 128
    assert placed == pytest.approx(31.4 * 2**30, rel=0.01)
    assert placed + adapter < LARGE_CARD
    assert 2 * placed > LARGE_CARD  # a second copy would not


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
