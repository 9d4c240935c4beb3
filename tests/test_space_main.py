"""What the command does beyond opening the page."""

import socket
import sys
import threading
from pathlib import Path

import gradio as gr
import pytest
import torch._dynamo
import torch._inductor.config

from impressionism import paint
from impressionism.pipeline import Painter, load_pipeline
from impressionism.records import GenerationParams
from space import stepwise
from space.__main__ import main
from space.app import build
from space.compiling import compile_ahead_or_not, compile_or_not


def test_where_blocks_cannot_be_compiled_they_paint_as_they_are(tiny_flux: Path, tiny_adapter: Path):
    """That compiled blocks paint the same is held by test_impressionism_compiled.py."""
    painter = load_pipeline(str(tiny_flux), str(tiny_adapter), device="cpu")
    sampling = GenerationParams(prompt="a mill", steps=1, width=64, height=64)
    eager = [paint.paint(painter, sampling, strength).tobytes() for strength in (0.0, 1.0)]
    no_compiler = torch._inductor.config.patch({"cpp.cxx": ("/nonexistent/compiler",)})
    with no_compiler, torch._dynamo.config.patch(suppress_errors=False):  # which is then put back
        compile_or_not(painter)
        assert [paint.paint(painter, sampling, strength).tobytes() for strength in (0.0, 1.0)] == eager


def test_where_nothing_can_be_compiled_ahead_the_blocks_paint_as_they_are(
    tiny_flux: Path, tiny_adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    painter = load_pipeline(str(tiny_flux), str(tiny_adapter), device="cpu")
    sampling = GenerationParams(prompt="a mill", steps=1, width=64, height=64)
    eager = [paint.paint(painter, sampling, strength).tobytes() for strength in (0.0, 1.0)]
    (tmp_path / "full").touch()
    compile_ahead_or_not(painter, tmp_path / "full")
    assert "paint as they are" in caplog.text
    assert [paint.paint(painter, sampling, strength).tobytes() for strength in (0.0, 1.0)] == eager


def test_the_queue_looks_for_work_less_often_than_gradio_would(tiny_painter: Painter, tmp_path: Path):
    """By two fields that Gradio does not document: without them it takes a good part of a core while it waits."""
    usual, ours = gr.Blocks().queue()._queue, build(tiny_painter, tmp_path)._queue
    idle = ours.sleep_when_free
    ours.active_jobs = [[object()]]  # something is painted
    assert usual.sleep_when_free < idle < ours.sleep_when_free < 0.1
    assert usual.progress_update_sleep_when_free < ours.progress_update_sleep_when_free


def test_when_the_program_ends_a_painting_ends_at_its_next_step(monkeypatch: pytest.MonkeyPatch):
    """Else Python would wait for all of it."""
    monkeypatch.setattr(stepwise, "LEAVING", threading.Event())
    reached = []

    def call(report: stepwise.Report) -> None:
        for step in range(3):
            report(step)
            reached.append(step)
            stepwise.LEAVING.set()

    with pytest.raises(stepwise.Stopped):
        list(stepwise.stepwise(call))
    assert reached == [0]


def test_a_taken_port_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stepwise, "LEAVING", threading.Event())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["space", "--model", "miniature", "--port", str(port)])
        with pytest.raises(SystemExit, match=f"Port {port} is taken"):
            main()
