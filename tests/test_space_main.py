"""What the command does beyond opening the page."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch._dynamo
import torch._inductor.config
from space_served import visitor

from impressionism import paint
from impressionism.pipeline import load_pipeline
from impressionism.records import GenerationParams
from space.__main__ import main
from space.compiling import compile_ahead_or_not, compile_or_not

ROOT = Path(__file__).parents[1]


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


def test_a_stopped_program_deletes_its_files_and_ends(tmp_path: Path):
    """By the signal that a Space, systemd or Docker sends."""
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    environment.pop("GRADIO_TEMP_DIR", None)
    command = [sys.executable, "-m", "space", "--model", "miniature"]
    program = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert program.stdout
    address = next(line.split()[-1] for line in program.stdout if "http://" in line)
    visitor(address).predict(prompt="a cottage at noon", steps=2, api_name="/generate")
    assert list(tmp_path.rglob("*.png"))
    program.send_signal(signal.SIGTERM)
    assert program.wait(60) == 0
    assert not list(tmp_path.rglob("*.png"))


def test_a_taken_port_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["space", "--model", "miniature", "--port", str(port)])
        with pytest.raises(SystemExit, match=f"Port {port} is taken"):
            main()
