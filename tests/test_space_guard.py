"""The content filter: what it refuses, how often it errs, and that a filter that is not there is not claimed."""

from pathlib import Path

import pytest
import torch
from gradio import Error
from hub import Hub
from PIL import Image
from space_served import pictures_of
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from impressionism.errors import UserError
from impressionism.pipeline import Painter
from impressionism.records import GenerationParams
from space import guard
from space.guard import Guard, ImageFilter, guard_for
from space.studio import Studio

BENIGN = (Path(__file__).parent / "benign_prompts.txt").read_text().splitlines()
SMALL = {"steps": 2, "width": 64, "height": 64}


@pytest.mark.parametrize(
    "prompt",
    [
        "hardcore porn, oil on canvas",
        "PORNOGRAPHIC scene by Renoir",
        "p o r n in a garden",
        "p.o.r.n in a garden",
        "p\u200born in a garden",
        "pörn in a garden",
        "p0rn in a garden",
        "a woman having sex, impressionist",
        "explicit penis, macro",
        "a naked child on a beach",
        "nude schoolgirl",
        "sexy 12 year old",
        "an erotic painting of a 16-year-old",
        "naked boys",
        "n4ked boys!",
        "a n4ked child!",
        "pen1s!",
        "!ncest",
        "undress her, photograph of my neighbour",
        "remove her clothes",
        "lolicon in watercolours",
    ],
)
def test_explicit_prompts_and_bare_children_are_refused(prompt: str):
    with pytest.raises(UserError, match="is not painted here"):
        Guard(prompts=True).check_prompt(prompt)


def test_of_the_benign_prompts_only_bare_children_are_refused():
    """The filter's false positives on pictures that have hung in museums: 2 of 64, both nude children."""
    refused = [prompt for prompt in BENIGN if guard.objection(prompt)]
    assert len(BENIGN) == 64
    assert refused == [
        "the infant Bacchus naked on a panther skin",
        "boys bathing naked from a rock at Asnieres",
    ]


def test_what_is_no_prompt_is_left_to_the_check():
    for prompt in (None, 7, [], ""):
        Guard(prompts=True).check_prompt(prompt)


# ---- Pictures, by a classifier of random weights with the class, files and labels of the pinned one


def make_classifier(folder: Path, labels: tuple[str, ...] = ("normal", "nsfw"), lean: float = 0.0) -> Path:
    """lean: how sure it is, whatever it sees, that the last label is right."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16,
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    model = ViTForImageClassification(config)
    model.classifier.bias.data = torch.tensor([0.0] * (len(labels) - 1) + [lean])
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def pinned(hub: Hub, folder: Path) -> str:
    return f"falcon/filter@{hub.add_repo('falcon/filter', folder).find('main')}"


PICTURE = Image.effect_noise((80, 60), 60).convert("RGB")


def test_a_picture_above_the_threshold_is_withheld(hub: Hub, tmp_path: Path, tiny_painter: Painter):
    images = ImageFilter(pinned(hub, make_classifier(tmp_path / "filter", lean=9.0)))
    assert images.score(PICTURE) > 0.99
    studio = Studio(tiny_painter, Guard(prompts=True, images=images))
    with pytest.raises(Error, match="was painted, but it is withheld"):
        pictures_of(studio, GenerationParams(prompt="a gate", **SMALL), [1.0])
    with pytest.raises(Error, match="photograph is withheld"):
        pictures_of(studio, GenerationParams(prompt="a gate", **SMALL), [1.0], photograph=PICTURE, change=0.6)
    with pytest.raises(UserError, match="is not painted here"):
        pictures_of(studio, GenerationParams(prompt="porn", **SMALL), [1.0])


def test_a_picture_below_it_is_shown(hub: Hub, tmp_path: Path, tiny_painter: Painter):
    studio = Studio(
        tiny_painter, Guard(images=ImageFilter(pinned(hub, make_classifier(tmp_path / "filter", lean=-9.0))))
    )
    assert len(pictures_of(studio, GenerationParams(prompt="a gate", **SMALL), [1.0])) == 1
    assert "falcon/filter looks at the pictures" in studio.guard.about()


def test_every_unsafe_label_counts(hub: Hub, tmp_path: Path):
    source = pinned(hub, make_classifier(tmp_path / "filter", ("drawings", "Hentai", "neutral", "porn"), lean=5.0))
    images = ImageFilter(source)
    assert images.unsafe == [1, 3]
    assert images.score(PICTURE) > 0.9


@pytest.mark.parametrize(
    ("labels", "spoil", "says"),
    [
        (("cat", "dog"), lambda source: source, "its labels are cat, dog"),
        (("normal", "nsfw"), lambda source: source.split("@")[0], "is not pinned"),
        (("normal", "nsfw"), lambda source: source.split("@")[0] + "@main", "is not pinned"),
        (("normal", "nsfw"), lambda source: "falcon/none@" + "f" * 40, "The Hub shows no falcon/none"),
    ],
)
def test_a_filter_that_cannot_do_it_is_refused(hub: Hub, tmp_path: Path, labels, spoil, says):
    source = pinned(hub, make_classifier(tmp_path / "filter", labels))
    with pytest.raises(UserError, match=says):
        ImageFilter(spoil(source))


def test_a_filter_whose_weights_cannot_be_had_is_not_claimed_but_said_at_the_start(
    hub: Hub, caplog: pytest.LogCaptureFixture
):
    here = guard_for(is_miniature=False)
    assert here.images is None and here.prompts
    assert "none looks at the pictures, because its weights cannot be had" in here.about()
    assert here.about() in caplog.text
    here.check_picture(PICTURE)


def test_the_filter_is_off_for_the_miniature_on_for_flux_and_can_be_replaced(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert "No content filter is on" in guard_for(is_miniature=True).about()
    source = pinned(hub, make_classifier(tmp_path / "filter"))
    monkeypatch.setattr(guard, "CLASSIFIER", source)
    assert guard_for(is_miniature=False).images
    monkeypatch.setenv("IMPRESSIONISM_FILTER", "off")
    assert "switched off" in guard_for(is_miniature=False).about()
    monkeypatch.setenv("IMPRESSIONISM_FILTER", source)
    assert guard_for(is_miniature=True).images
