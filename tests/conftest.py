"""The tiny FLUX that every test shares; see tiny.py."""

import os

# Commands that tests start get one thread too: two threads beside the other worker's load wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from balls import draw
from hub import Hub
from playwright.sync_api import Browser, sync_playwright
from tiny import make_tiny_adapter, make_tiny_flux

from impressionism.pipeline import Painter, load_pipeline

torch.set_num_threads(1)

# Gradio looks for a free port and takes it a moment later: two workers that look at once would meet.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
os.environ["GRADIO_SERVER_PORT"] = str(7860 + 100 * WORKER)


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random FluxPipeline; do not write into it."""
    return make_tiny_flux(tmp_path_factory.mktemp("tiny") / "flux")


@pytest.fixture(scope="session")
def tiny_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an adapter of the tiny FLUX; do not write into it."""
    return make_tiny_adapter(tmp_path_factory.mktemp("tiny") / "adapter")


@pytest.fixture(scope="session")
def tiny_painter(tiny_flux: Path, tiny_adapter: Path) -> Painter:
    """A painter with its adapter, shared: every call of paint sets all the state that it needs."""
    return load_pipeline(str(tiny_flux), str(tiny_adapter), device="cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine balls with captions; do not write into it."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(9):
        draw(index).save(folder / f"{index}.png")
    lines = [json.dumps({"file_name": f"{index}.png", "text": f"a ball, {index}"}) for index in range(9)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def recipe_file(tiny_flux: Path, pictures: Path, tmp_path: Path) -> Path:
    """Eight steps on the tiny FLUX in NF4; a run folder for each test, one cache for all."""
    path = tmp_path / "tiny.yaml"
    path.write_text(f"""
        model: {{base: {tiny_flux}, quantize: nf4, device: cpu}}
        data: {{source: {pictures}, resolution: 64, held_out: 0.2, caption_dropout: 0.2}}
        adapter: {{rank: 4, targets: all}}
        optimizer: {{steps: 8, train_batch_size: 2, learning_rate: 1e-3, lr_warmup_steps: 2, lr_scheduler: cosine}}
        run: {{folder: {tmp_path / "run"}, cache: {pictures.with_name(pictures.name + "-cache")},
               log_every: 2, validate_every: 4, checkpoint_every: 4}}
    """)
    return path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub on this machine, which this process takes for the Hub and where it is the user monet; see hub.py."""
    with Hub() as hub:
        hub.lead_here(monkeypatch, tmp_path / "huggingface")
        yield hub


@pytest.fixture(scope="module")  # while it lives, its event loop is the thread's: others need theirs
def chromium() -> Iterator[Browser]:
    """A real browser, without a window."""
    path = shutil.which("chromium")
    if not path:
        pytest.skip("there is no chromium on this machine; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the person who runs the tests reaches them, and no test reaches the Hub."""
    for name in [name for name in os.environ if name.startswith(("IMPRESSIONISM_", "SPACES_ZERO_GPU"))]:
        monkeypatch.delenv(name)
