"""The page's API over real HTTP, as gradio_client and any other program see it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from impressionism import paint
from impressionism.pipeline import Painter, PainterError
from impressionism.records import Sampling
from space import app
from space.studio import MOST_STRENGTHS, Studio
from space.words import FLUX, MINIATURE

SMALL = {"steps": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def client(tiny_painter: Painter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    page = app.build(tiny_painter)
    address = app.launch(page, prevent_thread_lock=True, quiet=True)
    yield Client(address, download_files=tmp_path_factory.mktemp("received"), verbose=False)
    page.close(verbose=False)


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
    sampling = Sampling(prompt="a windmill", seed=3, guidance=3.0, **SMALL)
    assert Path(picture).suffix == ".png"
    assert np.array_equal(pixels(picture), pixels(paint.paint(tiny_painter, sampling, 0.7)))
    assert paint.read_recipe(picture) == paint.recipe_of(tiny_painter, sampling, 0.7)
    assert paint.Recipe.from_dict(recipe) == paint.read_recipe(picture)


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
    sampling = Sampling(prompt="poppies", seed=5, **SMALL)
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
    expected = paint.repaint(tiny_painter, Sampling(prompt="a meadow", **SMALL), 1.0, source, 0.8)
    assert np.array_equal(pixels(picture), pixels(expected))
    assert (recipe["change"], len(recipe["source"])) == (0.8, 64)


def test_status_says_which_model_paints_and_within_which_limits(client: Client, tiny_painter: Painter):
    status = client.predict(api_name="/status")
    assert status["about"] == tiny_painter.about
    assert status["provenance"]["quantize"] == "none"
    assert "Sixteen subjects" in status["knows"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prompt": " "}, "prompt"),
        ({"prompt": 7}, "prompt"),
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


def test_the_endpoints_are_the_documented_five(client: Client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(endpoints) == ["/generate", "/compare", "/sweep", "/repaint", "/status"]
    parameters = {name: [p["parameter_name"] for p in info["parameters"]] for name, info in endpoints.items()}
    numbers = ["seed", "steps", "guidance", "width", "height"]
    assert parameters["/generate"] == parameters["/compare"] == ["prompt", "strength", *numbers]
    assert parameters["/sweep"] == ["prompt", "strengths", *numbers]
    assert parameters["/repaint"] == ["image", "prompt", "strength", *numbers, "change"]
    for info in endpoints.values():
        assert info["description"]
        required = {p["parameter_name"] for p in info["parameters"] if not p["parameter_has_default"]}
        assert required <= {"prompt", "image"}
        assert all(p["python_type"]["type"] != "Any" for p in [*info["parameters"], *info["returns"]])


def test_the_limits_that_status_tells_are_those_of_the_check(tiny_painter: Painter):
    studio, good = Studio(tiny_painter), Sampling(prompt="a train", **SMALL)
    for name, (least, most) in studio.limits().items():
        if name in ("prompt", "strengths"):
            continue
        for value, beyond in ((least, least - 16), (most, most + 16)):
            if name in ("strength", "change"):
                asked, refused = {name: value or 0.5}, {name: beyond}
                studio.check(good, [asked.get("strength", 1.0)], asked.get("change"))
                with pytest.raises(PainterError):
                    studio.check(good, [refused.get("strength", 1.0)], refused.get("change"))
            else:
                studio.check(Sampling.from_dict({**vars(good), name: value}), [1.0])
                with pytest.raises(PainterError):
                    studio.check(Sampling.from_dict({**vars(good), name: beyond}), [1.0])


def test_examples_and_sizes_can_be_painted():
    for words, largest in ((MINIATURE, paint.LARGEST_MINIATURE), (FLUX, paint.LARGEST)):
        for prompt, shape, seed in words.examples:
            width, height = words.sizes[shape]
            paint.check(Sampling(prompt=prompt, seed=seed, width=width, height=height), largest=largest)


def test_nothing_on_the_page_is_evaluated_from_what_was_written(client: Client):
    with pytest.raises(AppError) as refusal:
        client.predict(prompt="a train", seed="<script>", **SMALL, api_name="/generate")
    assert "<script>" not in str(refusal.value)
