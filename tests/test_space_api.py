"""The API over real HTTP, as gradio_client, curl, an agent and 32 visitors at once see it."""

import asyncio
import base64
import io
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import numpy as np
import psutil
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from PIL import Image
from space_served import events_of, from_address, pictures_of, served, visitor

from impressionism import paint
from impressionism.errors import UserError
from impressionism.paint import key_of
from impressionism.pipeline import Painter, load_pipeline
from impressionism.records import GenerationParams, ImageMetadata
from space import api, app, gate, jobs, preview, studio
from space.guard import Guard
from space.jobs import Step
from space.studio import MOST_STRENGTHS, Studio
from space.texts import FLUX, MINIATURE

SMALL = {"steps": 2, "width": 64, "height": 64}
LONG = {"steps": 100, "width": 512, "height": 512}  # about ten seconds of the tiny FLUX
ROOT = Path(__file__).parents[1]
SNAPSHOT = Path(__file__).parent / f"space_api_{api.VERSION}.json"


@pytest.fixture(scope="module")
def here(tiny_painter: Painter) -> Iterator[tuple[str, gr.Blocks, Studio]]:
    studio = Studio(tiny_painter)
    with served(studio) as (address, page):
        yield address, page, studio


@pytest.fixture(scope="module")
def client(here: tuple, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return visitor(here[0], download_files=tmp_path_factory.mktemp("received"))


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("photograph") / "photograph.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), "uint8")).save(path)
    return str(path)


def pixels(picture: str | Image.Image) -> np.ndarray:
    return np.asarray(Image.open(picture) if isinstance(picture, str) else picture)


def test_generate_paints_what_the_painter_paints_bit_for_bit_and_carries_its_recipe(
    client: Client, tiny_painter: Painter
):
    picture, recipe = client.predict(
        prompt="a windmill", strength=0.7, seed=3, guidance=3, **SMALL, api_name="/generate"
    )
    sampling = GenerationParams(prompt="a windmill", seed=3, guidance=3.0, **SMALL)
    assert Path(picture).suffix == ".png"
    assert np.array_equal(pixels(picture), pixels(paint.paint(tiny_painter, sampling, 0.7)))
    assert paint.read_recipe(picture) == paint.request(tiny_painter, sampling, 0.7).metadata
    assert ImageMetadata.from_dict(recipe) == paint.read_recipe(picture)


def test_generate_needs_only_a_prompt(client: Client):
    _, recipe = client.predict(prompt="a cottage in the snow", api_name="/generate")
    defaults = client.predict(api_name="/status")["defaults"]
    assert recipe["strength"] == defaults["strength"]
    assert recipe["sampling"] == {
        "prompt": "a cottage in the snow",
        **{name: defaults[name] for name in ("seed", "steps", "guidance", "width", "height")},
    }


def test_compare_returns_the_base_and_the_adapted_picture(client: Client, tiny_painter: Painter):
    base, adapted, recipe = client.predict(prompt="poppies", seed=5, **SMALL, api_name="/compare")
    sampling = GenerationParams(prompt="poppies", seed=5, **SMALL)
    for picture, expected in zip((base, adapted), paint.compare(tiny_painter, sampling), strict=True):
        assert np.array_equal(pixels(picture), pixels(expected))
    assert (paint.read_recipe(base).strength, paint.read_recipe(adapted).strength) == (0, 1)
    assert recipe["strength"] == 1


def test_sweep_returns_a_picture_and_a_recipe_for_every_strength(client: Client):
    pictures, recipes = client.predict(prompt="a church", strengths=[1, 0, 0.25], **SMALL, api_name="/sweep")
    assert [recipe["strength"] for recipe in recipes] == [0, 0.25, 1]
    assert [paint.read_recipe(picture).strength for picture in pictures] == [0, 0.25, 1]
    assert not np.array_equal(pixels(pictures[0]), pixels(pictures[2]))


def test_repaint_paints_over_a_photograph(client: Client, tiny_painter: Painter, photograph: str):
    picture, recipe = client.predict(
        image=handle_file(photograph), prompt="a meadow", change=0.8, **SMALL, api_name="/repaint"
    )
    source = Image.open(photograph)
    expected = paint.paint(tiny_painter, GenerationParams(prompt="a meadow", **SMALL), 1.0, source=source, change=0.8)
    assert np.array_equal(pixels(picture), pixels(expected))
    assert (recipe["change"], len(recipe["source"])) == (0.8, 64)


def test_what_the_documentation_says_of_limits_holds(tiny_painter: Painter):
    said = {name: parameter.meaning for name, parameter in api.PARAMETERS.items()}
    for name in ("strength", "change"):
        low, high = paint.LIMITS[name]
        assert f"{low} " in said[name] and f" {high}" in said[name]
    defaults = api.defaults_of(Studio(tiny_painter))
    assert defaults.pop("adapter") == ""
    for name, default in defaults.items():
        assert "Default" not in said[name] or f"Default {default}." in said[name]
    assert f"at most {gate.LIMITS['upload'] // 2**20} MB" in said["image"]
    assert f"at most {MOST_STRENGTHS}." in said["strengths"]


def test_status_says_which_model_paints_and_within_which_limits(client: Client, tiny_painter: Painter):
    status = client.predict(api_name="/status")
    assert status["about"] == tiny_painter.about
    assert status["provenance"]["quantize"] == "none"
    assert "a bowl of fruit" in status["knows"]


def test_what_the_model_does_not_know_is_named_by_status_and_while_it_paints(client: Client):
    prompt = "a boat in Paris, zxqv"
    note = client.predict(prompt, api_name="/status")["note"]
    assert re.fullmatch(r"The miniature does not know: .*Paris, zxqv\.", note)
    assert "note" not in client.predict(api_name="/status")
    job = client.submit(prompt=prompt, **SMALL, api_name="/generate")
    *_, recipe = job.result()
    assert ImageMetadata.from_dict(recipe).sampling.prompt == prompt  # a recipe has its own fields only
    assert note in [early[-1].get("note") for early in job.outputs()]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prompt": " "}, "type what to paint"),
        ({"prompt": 7}, "type what to paint"),
        ({"prompt": "x" * 2001}, "2,000 characters"),
        ({"strength": 9}, "Strength must be a number"),
        ({"strength": "strong"}, "Strength must be a number"),
        ({"seed": -1}, "Seed must be a whole number"),
        ({"seed": 1.5}, "Seed must be a whole number"),
        ({"steps": 10**6}, "Steps must be a whole number"),
        ({"guidance": None}, "Guidance must be a number"),
        ({"width": 100}, "Width must be a multiple of 16"),
        ({"height": 10**6}, "Height must be a multiple of 16"),
        ({"steps": 0, "width": 1}, "steps must be a whole number from 1 to 100, not 0; width must be"),
        ({"seed": "<img src=x>"}, "&lt;img src=x&gt;"),
    ],
)
def test_what_cannot_be_painted_is_refused_in_a_sentence(client: Client, wrong: dict, says: str):
    with pytest.raises(AppError) as refusal:
        client.predict(**{"prompt": "a train", **SMALL, **wrong}, api_name="/generate")
    assert says.lower() in str(refusal.value).lower()
    assert str(refusal.value).rstrip().endswith(".")


@pytest.mark.parametrize("strengths", [[], "all", None, [0.1] * (MOST_STRENGTHS + 1)])
def test_a_sweep_has_one_to_seven_strengths(client: Client, strengths: object):
    with pytest.raises(AppError, match="one to 7 strengths"):
        client.predict(prompt="a train", strengths=strengths, **SMALL, api_name="/sweep")


@pytest.mark.parametrize("image", [None, "/etc/hostname", {"path": "/etc/hostname"}])
def test_repaint_takes_nothing_but_an_upload(client: Client, image: object):
    with pytest.raises(AppError, match="Upload the picture first"):
        client.predict(image=image, prompt="a train", **SMALL, api_name="/repaint")


def test_a_file_that_is_no_picture_is_refused(client: Client, tmp_path: Path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"no picture" * 99)
    with pytest.raises(AppError, match="cannot be read as a picture"):
        client.predict(image=handle_file(tmp_path / "broken.png"), prompt="a train", **SMALL, api_name="/repaint")


def test_after_a_refusal_the_next_good_call_works(client: Client):
    with pytest.raises(AppError):
        client.predict(prompt="", api_name="/generate")
    picture, _ = client.predict(prompt="a train", **SMALL, api_name="/generate")
    assert Image.open(picture).size == (64, 64)


def test_the_limits_that_status_tells_are_those_of_the_check(client: Client, tiny_painter: Painter):
    studio, good = Studio(tiny_painter), GenerationParams(prompt="a train", **SMALL)
    status = client.predict(api_name="/status")
    assert status["server"] == gate.LIMITS
    for name, (least, most) in status["limits"].items():
        if name in ("prompt", "strengths", "count", "blocks"):
            continue
        for value, beyond in ((least, least - 16), (most, most + 16)):
            if name in ("strength", "change"):
                asked, refused = {name: value or 0.5}, {name: beyond}
                studio.request(good, [asked.get("strength", 1.0)], change=asked.get("change"))
                with pytest.raises(UserError):
                    studio.request(good, [refused.get("strength", 1.0)], change=refused.get("change"))
            else:
                studio.request(replace(good, **{name: value}), [1.0])
                with pytest.raises(UserError):
                    studio.request(replace(good, **{name: beyond}), [1.0])


def test_count_paints_successive_seeds_and_gives_lists(client: Client):
    pictures, recipes = client.predict(prompt="a quay", seed=7, count=2, **SMALL, api_name="/generate")
    assert [recipe["sampling"]["seed"] for recipe in recipes] == [7, 8]
    assert [paint.read_recipe(picture).sampling.seed for picture in pictures] == [7, 8]
    bases, adapted, recipes = client.predict(prompt="a quay", seed=7, count=2, **SMALL, api_name="/compare")
    assert [paint.read_recipe(picture).strength for picture in [*bases, *adapted]] == [0, 0, 1, 1]
    assert len(recipes) == 2
    with pytest.raises(AppError, match="Count must be a whole number from 1 to 4"):
        client.predict(prompt="a quay", count=9, **SMALL, api_name="/generate")


def test_a_program_hears_of_the_progress(client: Client):
    job = client.submit(prompt="a slow tide", **SMALL | {"steps": 8, "width": 256, "height": 256}, api_name="/generate")
    job.result(timeout=60)
    heard = [recipe["progress"] for picture, recipe in job.outputs() if picture is None]
    assert heard and heard[0]["steps"] == 8
    assert "progress" not in job.outputs()[-1][1]


def test_examples_and_sizes_can_be_painted():
    for words, largest in ((MINIATURE, paint.LARGEST_MINIATURE), (FLUX, paint.LARGEST)):
        for prompt, shape, seed in words.examples:
            width, height = words.sizes[shape]
            paint.check(GenerationParams(prompt=prompt, seed=seed, width=width, height=height), largest=largest)


def test_nothing_on_the_page_is_evaluated_from_what_was_written(client: Client):
    with pytest.raises(AppError) as refusal:
        client.predict(prompt="a train", seed="<script>", **SMALL, api_name="/generate")
    assert "<script>" not in str(refusal.value)


# ---- What a program may rely on


def test_a_program_of_version_1_goes_on(here: tuple):
    """Against the description that was published: what it takes is taken, in that order, and what it gets is the same.
    Only parameters with a default have been added."""
    published = json.loads(SNAPSHOT.read_text())
    info = httpx.get(f"{here[0]}/gradio_api/info", timeout=60).json()["named_endpoints"]
    assert list(info) == ["/generate", "/compare", "/sweep", "/repaint", "/status"]
    assert set(info) == set(published["endpoints"])
    for name, before in published["endpoints"].items():
        now = info[name]["parameters"]
        for old, new in zip(before["parameters"], now, strict=False):
            fields = ["parameter_name", "type", "parameter_has_default", "parameter_default"]
            for field in fields[: 3 if old["parameter_name"] == "change" else 4]:  # its number means the same now on
                # every base, so that its default is another
                assert old.get(field) == new.get(field), (name, old, new)
        assert all(added["parameter_has_default"] for added in now[len(before["parameters"]) :])
        assert [one["type"] for one in info[name]["returns"]] == [one["type"] for one in before["returns"]]
    tools = {tool["name"]: tool for tool in httpx.get(f"{here[0]}/gradio_api/mcp/schema", timeout=60).json()}
    assert set(tools) == set(published["tools"])
    for name, before in published["tools"].items():
        old, new = before["inputSchema"], tools[name]["inputSchema"]
        assert set(old["properties"]) <= set(new["properties"])
        assert set(new.get("required", [])) <= set(old.get("required", []))


def test_the_api_names_what_it_takes_and_returns(client: Client):
    info = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert [one["label"] for one in info["/compare"]["returns"]] == ["base", "adapted", "recipe"]
    assert [one["label"] for one in info["/sweep"]["returns"]] == ["pictures", "recipes"]
    for endpoint in info.values():
        assert endpoint["description"]
        assert all(p["python_type"]["type"] != "Any" for p in [*endpoint["parameters"], *endpoint["returns"]])
        required = {p["parameter_name"] for p in endpoint["parameters"] if not p["parameter_has_default"]}
        assert required <= {"prompt", "image"}


def test_a_program_without_gradio_gets_pictures_as_they_are_done(here: tuple):
    address = here[0]
    asked = httpx.post(
        f"{address}/gradio_api/call/v2/compare", json={"prompt": "a curl", "seed": 8, **SMALL}, timeout=60
    ).json()
    with httpx.stream("GET", f"{address}/gradio_api/call/compare/{asked['event_id']}", timeout=60) as answer:
        events = [line.partition(": ")[2] for line in answer.iter_lines() if line.startswith(("event", "data"))]
    named = [(event, json.loads(data)) for event, data in zip(events[::2], events[1::2], strict=True)]
    assert [event for event, _ in named][-1] == "complete"
    base, _, recipe = named[-1][1]
    assert recipe["strength"] == 1
    assert httpx.get(base["url"]).content.startswith(b"\x89PNG")
    halves = [data for event, data in named if event == "generating" and data[0] and not data[1]]
    assert halves and halves[0][2]["strength"] == 0


@pytest.mark.parametrize(
    ("endpoint", "call", "says"),
    [
        ("compare", {"promt": "a boat"}, "There is no field 'promt'; compare takes prompt, strength, seed"),
        ("compare", {"data": ["a boat"]}, "There is no field 'data'"),
        ("generate", {}, "The field prompt is missing"),
        ("repaint", {"prompt": "a boat"}, "The field image is missing"),
        ("status", {"promt": "a boat"}, "There is no field 'promt'; status takes prompt"),
        ("compair", {"prompt": "a boat"}, "There is no endpoint compair; there are generate, compare"),
        ("generate", ["a boat"], "valid dictionary"),
    ],
)
def test_a_program_that_misspells_is_told_what_there_is(here: tuple, endpoint: str, call: Any, says: str):
    answer = httpx.post(f"{here[0]}/gradio_api/call/v2/{endpoint}", json=call, timeout=60)
    assert 400 <= answer.status_code < 500 and says in answer.text


def test_the_older_way_to_call_knows_no_other_endpoints(here: tuple):
    answer = httpx.post(f"{here[0]}/gradio_api/call/compair", json={"data": ["a boat"]}, timeout=60)
    assert answer.status_code == 404 and "There is no endpoint compair" in answer.text


async def with_agent(address: str, act: Any) -> Any:
    async with (
        streamablehttp_client(f"{address}/gradio_api/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        return await act(session)


def test_an_agent_finds_documented_tools_and_gets_pictures(here: tuple):
    heard: list[float] = []

    async def hear(done: float, *_: Any) -> None:
        heard.append(done)

    async def act(session: ClientSession) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        orchard = {"prompt": "the orchard of an agent", "seed": 4, **SMALL}
        wrong = [{"prompt": "", **SMALL}, {"promt": "a boat"}, {"seed": 1}]
        painted = {tool: await session.call_tool(tool, orchard) for tool in ("generate", "compare", "sweep")}
        await session.call_tool("generate", orchard | {"seed": 5, "steps": 9}, progress_callback=hear)
        return tools, painted, [await session.call_tool("generate", one) for one in wrong]

    tools, painted, refused = asyncio.run(with_agent(here[0], act))
    assert set(tools) == {"generate", "compare", "sweep", "repaint", "status"}
    assert "data URL" in tools["repaint"].inputSchema["properties"]["image"]["description"]
    for tool in tools.values():
        assert len(tool.description) > 40
        assert all(field["description"] for field in tool.inputSchema["properties"].values())
    properties = tools["generate"].inputSchema["properties"]
    assert {name: properties[name]["type"] for name in ("prompt", "strength", "seed")} == {
        "prompt": "string", "strength": "number", "seed": "integer",
    }  # fmt: skip
    for tool, pictures in (("generate", 1), ("compare", 2), ("sweep", 3)):
        *blocks, note = painted[tool].content
        assert [block.type for block in blocks] == ["image", "text"] * pictures
        assert "agent" in json.loads(note.text)["note"]  # which the tiny model does not know
    recipe = json.loads(painted["generate"].content[1].text)
    assert recipe["sampling"]["prompt"] == "the orchard of an agent"
    data = base64.b64decode(painted["generate"].content[0].data)
    assert paint.read_recipe(Image.open(io.BytesIO(data))).strength == 1
    assert heard and heard[-1] <= 9
    sentences = ("Type what to paint first", "no field 'promt'", "field prompt is missing")
    for answer, says in zip(refused, sentences, strict=True):
        assert answer.isError and says in answer.content[0].text


def test_an_agent_sends_a_photograph_as_text(here: tuple, photograph: str):
    def encoded(data: bytes) -> str:
        return "data:image/jpeg;base64," + base64.b64encode(data).decode()

    async def act(session: ClientSession) -> list[Any]:
        sent = (encoded(Path(photograph).read_bytes()), "https://example.org/a.png", encoded(b"no picture"))
        return [await session.call_tool("repaint", {"image": one, "prompt": "sent", **SMALL}) for one in sent]

    good, fetched, broken = asyncio.run(with_agent(here[0], act))
    assert not good.isError and good.content[0].type == "image"
    assert fetched.isError and "not fetched from the web" in fetched.content[0].text
    assert broken.isError and "cannot be read as a picture" in broken.content[0].text


def shown_examples() -> list[tuple[str, str]]:
    """What the documentation shows a program to do, with the language of each."""
    text = "".join((ROOT / page).read_text() for page in ("README.md", "docs/api.md"))
    blocks = re.findall(r"```(python|sh)\n(.+?)```", text, re.DOTALL)
    return [(language, code) for language, code in blocks if "gradio_client" in code or "curl " in code]


def test_the_documented_examples_run(here: tuple):
    examples = shown_examples()
    assert [language for language, _ in examples] == ["python", "python", "sh"]
    for language, code in examples:
        code = code.replace("http://127.0.0.1:7860", here[0])
        command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
        assert told.returncode == 0, told.stderr
        assert language == "python" or "event: complete" in told.stdout


# ---- Time


def test_an_exact_repeat_is_answered_while_others_paint(here: tuple, client: Client):
    asked = {"prompt": "a mill pond", "seed": 21, **SMALL, "api_name": "/compare"}
    first = client.predict(**asked)
    other = visitor(here[0])
    long = other.submit(prompt="a long afternoon", **LONG, api_name="/generate")
    wait_for(lambda: long.outputs())
    again = client.predict(**asked)
    still_painting = not long.done()
    long.cancel()
    assert still_painting, "the repeat waited for its turn"
    assert [Path(path).read_bytes() for path in again[:2]] == [Path(path).read_bytes() for path in first[:2]]
    assert again[2] == first[2]


def test_a_cancelled_painting_makes_room_within_a_step(here: tuple, client: Client):
    long = visitor(here[0]).submit(prompt="a longer afternoon", **LONG, api_name="/generate")
    wait_for(lambda: long.outputs())
    long.cancel()
    client.predict(prompt="a short one", seed=1, **SMALL, api_name="/generate")
    unfinished = here[2].request(GenerationParams(prompt="a longer afternoon", **LONG), [1.0])
    assert here[2].remembered(unfinished) is None


def test_a_program_that_hangs_up_makes_room(here: tuple, client: Client):
    asked = httpx.post(f"{here[0]}/gradio_api/call/v2/compare", json={"prompt": "a call cut off", **LONG}, timeout=60)
    event = f"{here[0]}/gradio_api/call/compare/{asked.json()['event_id']}"
    with httpx.stream("GET", event, timeout=60) as answer:
        assert "event: generating" in answer.iter_lines()
    client.predict(prompt="another call", **SMALL, api_name="/generate")
    unfinished = here[2].request(GenerationParams(prompt="a call cut off", **LONG), [1.0])
    assert here[2].remembered(unfinished) is None


def test_a_closed_painting_ends_and_leaves_the_painter_as_it_was(tiny_painter: Painter):
    studio, params = Studio(tiny_painter), GenerationParams(prompt="a gate", **SMALL)
    before = threading.active_count()
    long = studio.request(GenerationParams(prompt="a gate", **LONG), [0.0, 1.0])
    events_of(studio, long, until=lambda event: isinstance(event, Step))
    [picture] = pictures_of(studio, params, [0.5])
    assert np.array_equal(pixels(picture.path), pixels(paint.paint(tiny_painter, params, 0.5)))
    assert threading.active_count() <= before + 4  # the painter's own, those that read and write files


def test_a_moved_slider_paints_only_the_adapted_picture(tiny_painter: Painter, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs, "PAUSE", 0)
    studio, params = Studio(tiny_painter), GenerationParams(prompt="a slider", **SMALL)
    first = [event for event in events_of(studio, studio.request(params, [0.0, 1.0])) if isinstance(event, Step)]
    moved = [event for event in events_of(studio, studio.request(params, [0.0, 0.5])) if isinstance(event, Step)]
    assert (len(first), len(moved)) == (4, 2)
    assert {step.picture for step in moved} == {2}
    assert {step.pictures for step in moved} == {2}
    again = studio.request(params, [0.0, 0.5])
    assert events_of(studio, again) == studio.remembered(again)


def test_a_picture_whose_file_is_gone_is_painted_again(tiny_painter: Painter):
    studio, params = Studio(tiny_painter), GenerationParams(prompt="a lost one", **SMALL)
    [picture] = pictures_of(studio, params, [1.0])
    Path(picture.path).unlink()
    assert studio.remembered(studio.request(params, [1.0])) is None
    [again] = pictures_of(studio, params, [1.0])
    assert Path(again.path).exists()


def test_whatever_decides_the_pixels_is_painted_anew(tiny_painter: Painter):
    known = paint.request(tiny_painter, GenerationParams(prompt="a key", **SMALL), 1.0).metadata
    changed = {"prompt": "a lock", "seed": 1, "steps": 3, "guidance": 1.0, "width": 80, "height": 80}
    others = [replace(known, sampling=replace(known.sampling, **{name: value})) for name, value in changed.items()]
    others += [replace(known, strength=0.5), replace(known, source="x"), replace(known, change=0.5)]
    weights = ("base", "base_revision", "adapter", "adapter_revision", "quantize", "dtype", "device")
    others += [replace(known, provenance=replace(known.provenance, **{name: "another"})) for name in weights]
    assert len({key_of(recipe) for recipe in [known, *others]}) == 1 + len(others)


def test_only_the_last_pictures_are_remembered(tiny_painter: Painter):
    memory = studio.Memory(2)
    pictures = {seed: studio.Picture(__file__, {"seed": seed}) for seed in range(3)}
    recipes = {
        s: paint.request(tiny_painter, GenerationParams(prompt="x", seed=s, **SMALL), 1.0).metadata for s in pictures
    }
    memory.put(recipes[0], pictures[0])
    memory.put(recipes[1], pictures[1])
    assert memory.get(recipes[0]) == pictures[0]
    memory.put(recipes[2], pictures[2])
    assert [memory.get(recipes[seed]) for seed in range(3)] == [pictures[0], None, pictures[2]]


def test_the_previews_approach_the_picture(monkeypatch: pytest.MonkeyPatch):
    """On the miniature, whose pictures show something: its autoencoder was trained, the tiny one's is random."""
    monkeypatch.setattr(preview, "PAUSE", 0)
    monkeypatch.setattr(jobs, "PAUSE", 0)
    studio = Studio(load_pipeline("miniature", device="cpu"))
    params = GenerationParams(prompt="a haystack at sunset", steps=6, width=144, height=192)
    *steps, picture = events_of(studio, studio.request(params, [1.0]))
    assert steps[0].preview is None
    assert all(step.preview.size == (192, 256) for step in steps[1:])

    def seen(image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((16, 24), Image.Resampling.BOX), float).ravel()

    final = seen(Image.open(picture.path))
    likeness = [np.corrcoef(seen(step.preview), final)[0, 1] for step in steps[1:]]
    assert likeness[0] > 0.5  # after two of six steps
    assert likeness[-1] > 0.9 and likeness[-1] > likeness[0]


def test_a_preview_calls_no_model_whose_turn_it_is_not(tiny_painter: Painter):
    vae = tiny_painter.pipe.vae
    vae._hf_hook = SimpleNamespace(pre_forward=lambda *_: pytest.fail("the transformer would have left the card"))
    try:
        preview.projection.cache_clear()
        assert preview.projection(vae).shape == (vae.config.latent_channels + 1, 3)
    finally:
        del vae._hf_hook


def test_a_preview_is_made_once_in_a_while_and_shown_until_the_next(
    tiny_painter: Painter, monkeypatch: pytest.MonkeyPatch
):
    made = []
    monkeypatch.setattr(preview, "PAUSE", 1000)
    monkeypatch.setattr(preview.Previews, "picture", lambda *_: made.append(1) or Image.new("RGB", (8, 8)))
    monkeypatch.setattr(jobs, "PAUSE", 0)
    studio = Studio(tiny_painter)
    request = studio.request(GenerationParams(prompt="a long wait", steps=5, width=64, height=64), [0.5, 1.0])
    steps = [event for event in events_of(studio, request) if isinstance(event, Step)]
    assert [bool(step.preview) for step in steps] == 2 * [False, True, True, True, True]
    assert len(made) == 2  # one of each picture


# ---- Failures


class SecondIsWithheld(Guard):
    """Lets the first picture pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def check_picture(self, image: Image.Image, what: str = "") -> None:
        self.seen += 1
        if self.seen == 2:
            raise UserError("The second half is missing.")


def test_when_the_second_half_fails_the_first_has_arrived(tiny_painter: Painter):
    with served(Studio(tiny_painter, SecondIsWithheld())) as (address, _):
        job = visitor(address).submit(prompt="half a pair", **SMALL, api_name="/compare")
        with pytest.raises(AppError, match="The second half is missing"):
            job.result()
        base, adapted, recipe = job.outputs()[-1]
    assert Path(base).exists() and adapted is None
    assert recipe["strength"] == 0


def test_a_failure_of_the_machine_says_what_to_do_and_hides_the_prompt(
    tiny_painter: Painter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    sampling = GenerationParams(prompt="my secret garden", **SMALL)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"cannot paint {sampling.prompt}")

    studio = Studio(tiny_painter)
    with monkeypatch.context() as patch, pytest.raises(gr.Error) as refusal:
        patch.setattr(paint, "render", fail)
        pictures_of(studio, sampling, [1.0])
    assert "try again" in str(refusal.value)
    assert "RuntimeError" in caplog.text and "secret" not in caplog.text
    assert len(pictures_of(studio, sampling, [1.0])) == 1


def test_no_address_of_a_visitors_is_fetched(here: tuple):
    asked: list[str] = []

    class Trap(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            """Silent."""

    trap = ThreadingHTTPServer(("127.0.0.1", 0), Trap)
    threading.Thread(target=trap.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{trap.server_port}/secret.png"
    image = {"path": address, "url": address, "meta": {"_type": "gradio.FileData"}}
    said = answer_to(here[0], "repaint", {"image": image, "prompt": "a train", **SMALL})
    assert "event: error" in said and "not fetched from the web" in said
    trap.shutdown()
    trap.server_close()
    assert not asked
    named = httpx.get(f"{here[0]}/gradio_api/file=https://example.org/a.png")
    assert named.status_code == 403 and "not fetched from the web" in named.text


# ---- Uploads


def broken_uploads(folder: Path) -> Iterator[Path]:
    good = Image.effect_noise((60, 60), 50).convert("RGB")
    for kind in ("png", "jpeg", "gif", "webp", "tiff", "bmp"):
        path = folder / f"cut.{kind}"
        good.save(path)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 3])
        yield path
    (folder / "page.png").write_text("<html>no picture</html>")
    yield folder / "page.png"
    (folder / "empty.jpg").write_bytes(b"")
    yield folder / "empty.jpg"


def test_a_broken_upload_is_refused_in_a_sentence_and_the_next_good_one_works(
    client: Client, photograph: str, tmp_path: Path
):
    for path in broken_uploads(tmp_path):
        with pytest.raises(AppError, match="cannot be read as a picture"):
            client.predict(image=handle_file(path), prompt="a train", **SMALL, api_name="/repaint")
    good = client.predict(image=handle_file(photograph), prompt="a train", **SMALL, api_name="/repaint")
    assert Image.open(good[0]).size == (64, 64)


@pytest.mark.parametrize("side", [6_400, 14_000, 20_000])  # above the page's limit, Pillow's warning, Pillow's error
def test_a_decompression_bomb_is_refused_before_it_is_decoded(client: Client, tmp_path: Path, side: int):
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    before = psutil.Process().memory_info().rss
    with pytest.raises(AppError, match=r"This file cannot be used: .* more than 40 million"):
        client.predict(image=handle_file(tmp_path / "bomb.png"), prompt="a train", **SMALL, api_name="/repaint")
    assert psutil.Process().memory_info().rss - before < 100 * 2**20


def test_a_turned_and_a_cmyk_photograph_are_painted_upright_and_in_their_colours(
    client: Client, tiny_painter: Painter, tmp_path: Path
):
    upright = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 96, 3), "uint8"))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned clockwise by 90 degrees
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    upright.convert("CMYK").save(tmp_path / "press.tiff")
    sampling = GenerationParams(prompt="a train", **SMALL)
    for name, seen in (("turned.png", upright), ("press.tiff", upright.convert("CMYK").convert("RGB"))):
        picture, _ = client.predict(image=handle_file(tmp_path / name), prompt="a train", **SMALL, api_name="/repaint")
        assert np.array_equal(pixels(picture), pixels(paint.paint(tiny_painter, sampling, 1.0, source=seen)))


def test_uploads_and_pictures_are_deleted_after_their_time(here: tuple, client: Client, photograph: str):
    address, _, studio = here
    [uploaded] = httpx.post(f"{address}/gradio_api/upload", files={"files": Path(photograph).read_bytes()}).json()
    client.predict(prompt="to be deleted", **SMALL, api_name="/generate")
    [picture] = studio.remembered(studio.request(GenerationParams(prompt="to be deleted", **SMALL), [1.0]))
    cut_off = gate.own_folder() / "tmp_of_nobody"
    cut_off.touch()
    gate.delete_old()
    assert Path(uploaded).exists() and Path(picture.path).exists() and cut_off.exists()
    for path in (uploaded, picture.path, cut_off):
        os.utime(path, (1, 1))
    gate.delete_old(keep=[uploaded])
    assert Path(uploaded).exists() and not Path(picture.path).exists() and not cut_off.exists()
    assert client.predict(prompt="to be deleted", **SMALL, api_name="/generate")


def test_a_folder_of_a_process_that_was_killed_goes_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, own = (tmp_path / f"{gate.FOLDER}{pid}-x" for pid in (dead.pid, os.getpid()))
    for folder in (left, own, other := tmp_path / "somebody-elses"):
        folder.mkdir()
    gate.delete_old()
    assert not left.exists() and own.exists() and other.exists()


# ---- Whatever they ask

WRONG: dict[str, list[Any]] = {
    "prompt": ["", " ", None, 7, [], {}, "x" * 2001, True, "half a \ud83d boat"],
    "strength": [None, "1", "NaN", 1e308, -1e308, 2.01, -1.01, [], {}, True, float("nan"), float("inf"), 10**400],
    "seed": [None, -1, 2**31, 1.5, "1", [], True, 10**400, float("nan"), float("-inf")],
    "steps": [None, 0, -5, 101, 10**9, 2.5, "many", False, float("nan")],
    "guidance": [None, -0.1, 20.1, "high", [], float("inf"), 10**400, True],
    "width": [None, 0, 63, 65, 100, -64, 4096, 64.5, "wide", float("nan")],
    "height": [None, 0, 63, 65, 100, -64, 4096, 64.5, [64], 10**400],
}


def wrong_calls(count: int) -> Iterator[dict[str, Any]]:
    """Good settings with one to four of them spoilt."""
    draw = random.Random(7)
    for _ in range(count):
        spoilt = draw.sample(sorted(WRONG), draw.randint(1, 4))
        yield {"prompt": "a train", "strength": 1.0, "seed": 0, "guidance": 3.5, **SMALL} | {
            name: draw.choice(WRONG[name]) for name in spoilt
        }


def test_two_thousand_bad_calls_are_each_refused_in_a_sentence_and_the_next_good_one_works(tiny_painter: Painter):
    desk = Studio(tiny_painter)
    for call in wrong_calls(2000):
        call = dict(call)
        strength = call.pop("strength")
        with pytest.raises(UserError) as refusal:
            desk.request(studio.sampling_of(call), [studio.real(strength)])
        sentence = str(refusal.value)
        assert sentence[0].isupper() and sentence.endswith("."), sentence
        assert len(sentence) < 1200 and "Traceback" not in sentence and "unexpectedly" not in sentence, sentence
    assert len(pictures_of(desk, GenerationParams(prompt="a train", **SMALL), [1.0])) == 1


def test_bad_calls_over_http_are_refused_alike(here: tuple, client: Client):
    with ThreadPoolExecutor(8) as pool:
        for said in pool.map(lambda call: answer_to(here[0], "generate", call), wrong_calls(120)):
            assert "event: complete" not in said and "Traceback" not in said, said
            assert re.search(r'"[A-Z][^"]{10,}\."', said), said
    assert client.predict(prompt="a train", seed=99, **SMALL, api_name="/generate")


@pytest.mark.parametrize("endpoint", ["generate", "compare", "repaint"])
def test_a_call_that_lacks_values_is_told_so_and_not_recorded(here: tuple, endpoint: str, capfd: pytest.CaptureFixture):
    asked = httpx.post(f"{here[0]}/gradio_api/call/{endpoint}", json={"data": ["a secret garden"]}, timeout=60)
    event = f"{here[0]}/gradio_api/call/{endpoint}/{asked.json()['event_id']}"
    with httpx.stream("GET", event, timeout=60) as answer:
        said = "\n".join(answer.iter_lines())
    assert "event: error" in said and "The call has 1 values, and needs" in said
    assert "secret" not in "".join(capfd.readouterr())


# ---- Many at once


def test_sixteen_visitors_get_their_own_pictures_each_a_first_one_before_anybody_a_second(
    here: tuple, tiny_painter: Painter
):
    address = here[0]
    first = visitor(address, headers=from_address("198.51.100.99"))
    busy = first.submit(prompt="first", count=4, **LONG, api_name="/generate")  # until all others wait
    wait_for(lambda: busy.outputs())
    clients = [visitor(address, headers=from_address(f"198.51.100.{number}")) for number in range(16)]
    finished: list[int] = []
    work = []
    for number in range(32):  # the first 16 are everybody's first
        job = clients[number // 2].submit(
            prompt=f"visitor {number}", seed=1000 + number, **SMALL, api_name="/generate",
            result_callbacks=lambda *_, number=number: finished.append(number),
        )  # fmt: skip
        work.append(job)
        wait_for(lambda number=number: len(here[2].jobs.waiting) == number + 1)
    busy.cancel()
    results = [job.result(timeout=120) for job in work]  # all of them, as the test then paints with the same painter
    for number, (picture, recipe) in enumerate(results):
        sampling = GenerationParams(prompt=f"visitor {number}", seed=1000 + number, **SMALL)
        assert recipe["sampling"]["prompt"] == sampling.prompt
        assert np.array_equal(pixels(picture), pixels(paint.paint(tiny_painter, sampling, 1.0)))
    order = [*range(0, 32, 2), *range(1, 32, 2)]
    late = [abs(order.index(number) - place) for place, number in enumerate(finished)]
    assert len(finished) == 32 and max(late) <= 4, finished  # callbacks of different clients overtake each other a bit


def test_memory_stays_flat(tiny_painter: Painter):
    desk, process = Studio(tiny_painter), psutil.Process()

    def paint_many(seeds: range) -> int:
        for seed in seeds:
            pictures_of(desk, GenerationParams(prompt="again", seed=seed, steps=1, width=64, height=64), [1.0])
        return process.memory_info().rss

    warm = paint_many(range(50))
    assert paint_many(range(50, 200)) - warm < 24 * 2**20


def answer_to(address: str, endpoint: str, call: dict[str, Any]) -> str:
    """The events that a program without gradio_client gets, as text."""
    asked = httpx.post(
        f"{address}/gradio_api/call/v2/{endpoint}",
        content=json.dumps(call),  # with NaN and Infinity, as Python's json and JavaScript's careless cousins send
        headers={"Content-Type": "application/json"},
        timeout=60,
    )
    if asked.status_code >= 400:
        assert asked.status_code < 500, asked.text
        return asked.text
    with httpx.stream("GET", f"{address}/gradio_api/call/{endpoint}/{asked.json()['event_id']}", timeout=60) as answer:
        return "\n".join(answer.iter_lines())


def wait_for(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def test_of_old_visitors_nothing_is_kept(tiny_painter: Painter, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(app, "SESSIONS", 2)
    with served(Studio(tiny_painter)) as (address, page):
        for _ in range(4):
            visitor(address).predict(api_name="/status")
        assert len(page.state_holder.session_data) <= 2
