"""The controls: what they offer, what a recipe makes of them, what ZeroGPU will reserve."""

import dataclasses

import gradio as gr
import hub_spaces
import pytest
from hub import WRITER, Hub
from space_served import events_of

from impressionism.errors import UserError
from impressionism.pipeline import Painter
from impressionism.records import GenerationParams
from space import zerogpu
from space.painting import Job, price
from space.settings import (
    Settings,
    hint_of,
    make_settings,
    nearest_size,
    ratio,
    recommended_strength,
    request_for,
    restored,
    with_chip,
    with_or_without,
)  # fmt: skip
from space.studio import Studio
from space.texts import FLUX, MINIATURE

SMALL = {"steps": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def studio(tiny_painter: Painter) -> Studio:
    return Studio(tiny_painter)


@pytest.fixture
def settings(studio: Studio) -> Settings:
    with gr.Blocks():
        return make_settings(studio, MINIATURE, None)


def test_sizes_have_the_usual_name_of_their_aspect_ratio():
    assert {name: ratio(size) for name, size in FLUX.sizes.items()} == {
        "Square": "1:1", "Landscape": "3:2", "Portrait": "2:3", "Wide": "16:9", "Tall": "9:16",
    }  # fmt: skip
    assert {name: ratio(size) for name, size in MINIATURE.sizes.items()} == {
        "Square": "1:1", "Landscape": "4:3", "Portrait": "3:4",
    }  # fmt: skip


def test_a_photograph_takes_the_size_that_crops_it_least():
    assert nearest_size(MINIATURE, 4000, 3000) == (192, 144)
    assert nearest_size(FLUX, 900, 1600) == FLUX.sizes["Tall"]
    assert nearest_size(FLUX, 10, 3000) == FLUX.sizes["Tall"]


def test_a_chip_changes_the_subject_or_the_light_of_the_prompt():
    assert with_chip(MINIATURE, "a cottage at noon", "at sunset") == "a cottage at sunset"
    assert with_chip(MINIATURE, "a cottage at noon", "a steam train") == "a steam train at noon"
    assert with_chip(MINIATURE, "art of a mill at dawn", "a cottage", "art of") == "art of a cottage at dawn"
    assert with_chip(MINIATURE, "a cat", "at night") == "a cat at night"
    assert with_chip(MINIATURE, "", "at night") == "at night"


def test_a_second_adapter_has_its_own_strength_and_trigger_phrase(tiny_painter: Painter):
    [(name, info)] = tiny_painter.adapters.items()
    second = dataclasses.replace(info, recommended_strength=0.6, trigger="a drawing of")
    studio = Studio(dataclasses.replace(tiny_painter, adapters={name: info, "second": second}))
    assert recommended_strength(studio) == info.recommended_strength
    assert request_for(studio, {"prompt": "a", "adapter": "second"}).items[0].metadata.strength == 0.6
    assert hint_of(studio, "a", name) == {}
    assert hint_of(studio, "a", "second")["action"] == "Add it"


def test_the_trigger_phrase_is_offered_and_can_be_taken_out(tiny_painter: Painter):
    [(name, info)] = tiny_painter.adapters.items()
    triggered = dataclasses.replace(info, trigger="a painting of")
    studio = Studio(dataclasses.replace(tiny_painter, adapters={name: triggered}))
    # Words that the tiny tokenizer knows; a trigger's own words are not called unknown.
    assert hint_of(studio, "a painting of a")["action"] == "Remove it"
    assert hint_of(studio, "a")["action"] == "Add it"
    assert with_or_without("a painting of", "a mill") == "a painting of a mill"
    assert with_or_without("a painting of", "A painting of a mill") == "a mill"


def test_the_controls_end_where_painting_ends(studio: Studio, settings: Settings):
    limits = studio.limits()
    for name in ("seed", "steps", "guidance", "width", "height", "change"):
        control = getattr(settings, name)
        assert [control.minimum, control.maximum] == list(limits[name]), name
    assert [settings.strength.props[end] for end in ("least", "most")] == list(limits["strength"])
    assert settings.prompt.max_length == limits["prompt"][1]


@pytest.mark.parametrize(
    ("asked", "tab"),
    [({"strengths": [0.3]}, "paint"), ({"strengths": [0.0, 0.3]}, "grid"), ({"change": 0.4}, "repaint")],
)
def test_a_recipe_opens_the_tab_that_it_comes_from(studio: Studio, settings: Settings, asked: dict, tab: str):
    updates = restored(studio, settings, {"prompt": "a haystack", **asked})
    assert updates[settings.prompt] == "a haystack"
    assert updates[settings.tabs]["selected"] == tab
    assert settings.seed not in updates  # what is not named stays


@pytest.mark.parametrize("asked", [{"steps": 1000}, {"width": 65}, {"strengths": [float("nan")]}, {"prompt": " "}])
def test_a_recipe_that_cannot_be_painted_reaches_no_control(studio: Studio, settings: Settings, asked: dict):
    with pytest.raises(UserError):
        restored(studio, settings, asked)


def test_the_quota_is_told_before_the_click(tiny_painter: Painter, hub: Hub, monkeypatch: pytest.MonkeyPatch):
    studio = Studio(tiny_painter)
    request = studio.request(GenerationParams(prompt="a quay", seed=61, **SMALL), [0.0, 1.0])

    def ask() -> Job:
        return Job(request, each=2)

    def ask_for_nonsense() -> Job:
        return Job(studio.request(GenerationParams(prompt="", **SMALL), [1.0]), each=1)

    assert price(studio, ask) == ""  # nothing is reserved off ZeroGPU
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert price(studio, ask) == f"Reserves {studio.seconds(request)} s of your ZeroGPU quota."
    assert price(studio, ask_for_nonsense) == ""
    with monkeypatch.context() as slow:
        slow.setattr(zerogpu, "COLD", 200)
        assert "without signing in you have 120 s a day" in price(studio, ask)
    monkeypatch.setitem(hub_spaces.QUOTA, "monet", 3.0)
    assert (zerogpu.left(WRITER), zerogpu.left("of nobody")) == (3.0, None)
    with monkeypatch.context() as signed_in:
        signed_in.setattr("space.painting.login_here", lambda: {"access_token": WRITER})
        assert "and 3 s are left today: choose Fast, fewer steps" in price(studio, ask)
    monkeypatch.delenv("SPACES_ZERO_GPU")
    events_of(studio, request)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert price(studio, ask) == "Painted before: costs nothing."
