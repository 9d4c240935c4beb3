"""The whole way of an adapter, over HTTP: from drawn scenes to a picture by a Space that fetched what was pushed."""

import importlib
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
import yaml
from gradio_client import Client
from hub import Hub
from huggingface_hub import ModelCard
from PIL import Image

from impressionism import names, paint
from impressionism.records import Exhibit
from tools.miniature.scenes import write_folder

ROOT = Path(__file__).parents[1]
RECIPE = {
    "data": {"source": "painted", "resolution": 64, "held_out": 0.3},
    "model": {"device": "cpu"},  # the base is FLUX.1-dev, as in every recipe that names none
    "adapter": {"rank": 4},
    "optimizer": {"rate": 0.01, "steps": 2, "warmup": 0},
    "preview": {"prompts": []},
    "run": {"folder": "runs/scenes", "cache": "cache", "log_every": 1},
}
PROMPTS = {
    "name": "journey", "version": 1, "seeds": [7], "styled": f"{names.TRIGGER} {{text}}", "strengths": [0.5],
    "axis_seeds": 1, "steps": 2, "width": 64, "height": 64,
    "prompts": [{"id": "boat", "genre": "sea", "text": "a boat"}, {"id": "mill", "genre": "land", "text": "a mill"}],
}  # fmt: skip


def run(*command: str) -> None:
    """`python -m ROOM COMMAND …`, but in this process: torch's import costs more than the command."""
    room, *arguments = command
    assert importlib.import_module(f"{room}.__main__").main(arguments) == 0, command


@contextmanager
def space(environment: dict[str, str]) -> Iterator[Client]:
    """A Space's process, once it has said its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "space", "--port", port]
    here = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, env=os.environ | here | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        said = ""
        for line in process.stdout or ():
            said += line
            if match := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield Client(match[0], download_files="received", verbose=False)
                return
        raise AssertionError(f"The Space did not start: {said}")
    finally:
        process.terminate()
        process.wait(10)


def test_from_scenes_to_a_picture_by_a_space_that_fetched_the_pushed_adapter(
    hub: Hub, tiny_flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Every command of the README in a folder of one's own, each finding only the files of those before it."""
    monkeypatch.chdir(tmp_path)
    pipe = hub.add_repo(names.BASE, tiny_flux, gated=True)
    pipe.accepted.add("monet")
    Path("scenes.yaml").write_text(yaml.safe_dump(RECIPE))
    Path("prompts.yaml").write_text(yaml.safe_dump(PROMPTS))
    for folder, seed in (("painted", 100), ("held-out", 300)):
        write_folder(Path(folder), seed=seed, count=4, painted=True)

    run("training", "fit", "scenes.yaml")
    run("evaluation", "gallery", "runs/scenes", "--prompts", "prompts.yaml", "--device", "cpu")
    run("evaluation", "score", "runs/scenes", "--real", "held-out", "--training", "painted", "--features")
    run("model_card", "render", "runs/scenes", "--repo", "monet/scenes")
    run("model_card", "check", "runs/scenes/adapter", "--base", str(tiny_flux))
    run("training", "push", "scenes.yaml")
    assert "the adapter came back byte for byte" in capsys.readouterr().err

    pushed = hub.repos["monet/scenes"].find("main")
    card = ModelCard.load("monet/scenes")
    assert card.data.base_model == names.BASE and "monet/scenes" in card.text
    assert card.content.encode() == Path("runs/scenes/adapter/README.md").read_bytes()
    first = card.data.widget[0]
    assert first["output"]["url"] in hub.files("monet/scenes")

    hung = [Exhibit.from_json(line) for line in Path("runs/scenes/gallery/gallery.jsonl").read_text().splitlines()]
    shown = next(one for one in hung if one.arm == "adapter-styled" and one.recipe.sampling.prompt == first["text"])
    asked = shown.recipe.sampling
    chosen = {"base": names.BASE, "adapter": "monet/scenes", "adapter_revision": pushed}
    variables = {names.ENVIRONMENT[name]: value for name, value in chosen.items()}
    with space(hub.environment(tmp_path / "home-of-the-space") | variables) as client:
        assert client.predict(api_name="/status")["provenance"]["adapter_revision"] == pushed
        picture, recipe = client.predict(
            prompt=asked.prompt, strength=shown.recipe.strength, seed=asked.seed, steps=asked.steps,
            width=asked.width, height=asked.height, api_name="/generate",
        )[:2]  # fmt: skip
    there, here = (np.asarray(Image.open(file)) for file in (picture, Path("runs/scenes/gallery") / shown.file))
    assert np.array_equal(there, here), "the Space paints another picture than the one that the card shows"
    base = next(one for one in hung if one.arm == "base-styled" and one.recipe.sampling == asked)
    assert not np.array_equal(here, np.asarray(Image.open(Path("runs/scenes/gallery") / base.file)))
    assert recipe["provenance"]["adapter"] == "monet/scenes"
    assert paint.read_recipe(picture).provenance.base_revision == pipe.find("main")
