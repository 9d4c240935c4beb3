"""The whole way of an adapter, over HTTP: from drawn scenes to a picture by a Space that fetched what was pushed."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client
from hub import Hub
from PIL import Image

from impressionism import names, paint
from impressionism.pipeline import load_pipeline
from impressionism.records import Sampling

ROOT = Path(__file__).parents[1]
BOAT = Sampling(prompt="a sailing boat on the sea at dawn", seed=7, steps=2, width=64, height=64)


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """Of each command, which finds the Hub here and this machine's weights nowhere else."""
    here = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0", "PYTHONUNBUFFERED": "1"}
    return os.environ | hub.environment(tmp_path / "home") | here


def run(folder: Path, environment: dict[str, str], *command: str) -> str:
    """A command of the README, as a person types it in a folder of their own; what it said."""
    done = subprocess.run([*command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return done.stdout + done.stderr


@contextmanager
def space(folder: Path, environment: dict[str, str]) -> Iterator[tuple[Client, str]]:
    """A Space's process, and the address that it says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "space", "--port", port], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        said = ""
        for line in process.stdout or ():
            said += line
            if match := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield Client(match[0], download_files=folder / "received", verbose=False), said
                return
        raise AssertionError(f"The Space did not start: {said}")
    finally:
        process.terminate()
        process.wait(10)


def test_from_scenes_to_a_picture_by_a_space_that_fetched_the_pushed_adapter(
    hub: Hub, tiny_flux: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    python = sys.executable
    recipe = tmp_path / "scenes.yaml"
    recipe.write_text(f"""
        model: {{base: {tiny_flux}, device: cpu}}
        data: {{source: painted, resolution: 64, held_out: 0}}
        adapter: {{rank: 4}}
        optimizer: {{rate: 0.01, steps: 2, warmup: 0}}
        preview: {{prompts: []}}
        run: {{folder: runs/scenes, cache: cache}}
    """)
    hub.add_repo(names.BASE, tiny_flux, gated=True).accepted.add("monet")

    run(tmp_path, environment, python, "-m", "training.miniature.scenes", "painted", "--painted", "--count", "4")
    run(tmp_path, environment, python, "-m", "training", "fit", str(recipe))
    said = run(tmp_path, environment, python, "-m", "training", "push", str(recipe))
    assert "came back byte for byte and paints the same picture" in said
    pushed = hub.repos["monet/scenes"].find("scenes-step-2")

    variables = {"base": names.BASE, "adapter": "monet/scenes", "adapter_revision": pushed}
    chosen = {names.ENVIRONMENT[name]: value for name, value in variables.items()}
    with space(tmp_path, environment | chosen) as (client, _):
        status = client.predict(api_name="/status")
        assert status["provenance"]["adapter_revision"] == pushed
        picture, recipe_of_it = client.predict(
            prompt=BOAT.prompt, seed=BOAT.seed, steps=BOAT.steps, width=64, height=64, api_name="/generate"
        )[:2]
    here = load_pipeline(tiny_flux, tmp_path / "runs" / "scenes" / "adapter", device="cpu")
    expected, base = paint.paint(here, BOAT), paint.paint(here, BOAT, 0.0)
    assert np.array_equal(np.asarray(Image.open(picture)), np.asarray(expected))
    assert not np.array_equal(np.asarray(expected), np.asarray(base))
    assert recipe_of_it["provenance"]["adapter"] == "monet/scenes"
    assert paint.read_recipe(picture).provenance.base_revision == hub.repos[names.BASE].find("main")
