"""What the boards are told: files, texts from recipes, progress."""

import base64
import dataclasses
import io
from pathlib import Path

import pytest
from PIL import Image

from impressionism.records import GenerationParams, ImageMetadata, Provenance
from space.jobs import Step
from space.pictures import FRONT, alt, progress, view_of
from space.studio import Picture

RECIPE = ImageMetadata(
    sampling=GenerationParams(prompt="a windmill", seed=4), strength=0.5, provenance=Provenance(base="miniature")
)


def picture(strength: float) -> Picture:
    return Picture(f"/tmp/{strength}.png", dataclasses.asdict(dataclasses.replace(RECIPE, strength=strength)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"strength": 0.0}, "by the base model; seed 4"),
        ({}, "with the Impressionist adapter at strength 0.5; seed 4"),
        ({"source": "ab" * 32, "change": 0.4}, "over a photograph; seed 4"),
    ],
)
def test_the_alternative_text_says_what_is_painted_and_how(change: dict, says: str):
    text = alt(dataclasses.replace(RECIPE, **change))
    assert text.startswith("“a windmill”, painted ")
    assert says in text


def test_while_the_second_picture_is_painted_the_first_is_shown_and_the_step_told():
    step = Step(done=7, steps=20, picture=2, pictures=2, preview=Image.new("RGB", (8, 8), "#336699"))
    shown = view_of([picture(0.0)]) | progress(step, "Impressionist, strength 0.5")
    assert [item["caption"] for item in shown["items"]] == ["Base model"]
    assert (shown["words"], shown["done"], shown["steps"]) == ("Impressionist, strength 0.5: picture 2 of 2", 7, 20)
    kind, data = shown["preview"].split(",")
    assert kind == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (8, 8)


def test_when_all_is_painted_nothing_is_left_of_the_progress():
    view = view_of([picture(0.0), picture(0.5)])
    assert set(view) == {"items", "link", "recipe"}
    assert view["recipe"]["strength"] == 0.5


@pytest.mark.parametrize("template", sorted(FRONT.glob("*.html")), ids=lambda path: path.name)
def test_templates_have_no_place_for_what_a_visitor_wrote(template: Path):
    """Gradio runs a template as Handlebars and then as JavaScript: a prompt with ${…} in it would be executed."""
    text = template.read_text()
    assert "{{" not in text
    assert "${" not in text
