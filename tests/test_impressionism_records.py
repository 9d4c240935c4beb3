"""Records that travel as files: what was written comes back, and what is wrong is told in plain words."""

import json

import pytest

from impressionism.errors import UserError
from impressionism.records import Estimate, GenerationParams, ImageMetadata, Provenance, Run, parsed

METADATA = ImageMetadata(
    sampling=GenerationParams(prompt="Mühle 🌊", seed=7), strength=0.8, provenance=Provenance(base="miniature")
)


def test_a_record_is_its_own_json_and_a_changed_copy_leaves_it_alone() -> None:
    assert ImageMetadata.from_json(METADATA.to_json()) == METADATA
    assert METADATA.replace(strength=0.0).strength == 0 != METADATA.strength


def test_the_recipe_of_an_older_version_is_read() -> None:
    old = {  # as the first version wrote it: fewer keys, and whole numbers where fractions may stand
        "sampling": {"prompt": "a boat", "seed": 1, "steps": 20, "guidance": 3, "width": 192, "height": 192},
        "strength": 1,
        "provenance": {"base": "miniature", "adapter": "miniature", "versions": {"torch": "2.11.0"}},
        "source": None,
        "change": None,
    }
    assert ImageMetadata.from_dict(old).to_json() == ImageMetadata.from_json(json.dumps(old)).to_json()
    assert '"guidance": 3,' in ImageMetadata.from_dict(old).to_json()  # a study's SHA-256 stays what it was


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"strength": float("nan")}, "strength must be a number from -1 to 2, not nan"),
        ({"strength": True}, "strength must be a number from -1 to 2, not True"),
        ({"strenght": 1}, "there is no strenght"),
        ({"provenance": "mine"}, "provenance is 'mine': input should be a dictionary"),
        ({"sampling": {"prompt": "a", "seed": -1, "steps": 2.5}},
         r"sampling\.seed must be a whole number from 0 to 2,147,483,647, not -1; sampling\.steps must be a whole"),
        ({"sampling": {"prompt": "a", "width": 65}}, r"sampling\.width is 65: input should be a multiple of 16"),
        ({"sampling": {"prompt": "a" * 2001}}, "at most 2000 characters"),
        ({"sampling": {"seed": 1}}, r"sampling\.prompt is missing"),
        ({"blocks": {"two_stream": 3}}, r"blocks\.two_stream is 3: input should be less than or equal to 2"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_told_in_plain_words(change: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ImageMetadata.from_dict(METADATA.to_dict() | change)


def test_a_damaged_file_is_named(tmp_path) -> None:
    file = tmp_path / "run.json"
    for text in ("{}", "[]", "[" * 100_000, '{"name": 1}', "\ufeff", json.dumps({"steps": "many"})):
        file.write_text(text)
        with pytest.raises(UserError, match=r"run\.json cannot be read .*; write it again\."):
            parsed(file, Run.from_json)


def test_lists_and_tables_of_records_are_records_again() -> None:
    from impressionism.records import AtStrength

    one = Estimate(value=0.5, low=0.4, high=0.6, n=20)
    point = AtStrength(strength=3, index=one, content=one)  # an index's own strength has no limits
    assert AtStrength.from_json(point.to_json()) == point
