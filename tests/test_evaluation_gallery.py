"""The gallery on the tiny FLUX: complete, resumable, shared, and painted as the Space paints."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny import make_tiny_adapter

from evaluation.__main__ import main
from evaluation.exhibits import pairs, read_gallery
from evaluation.gallery import plan
from evaluation.prompt_set import PROMPTS, PromptSet
from evaluation.showcase import choose, copy_picture, file_name
from impressionism.errors import UserError
from impressionism.paint import paint, read_recipe
from impressionism.records import Exhibit, Pair

PROMPT_SET = {
    "name": "tiny", "version": 1, "seeds": [5, 6], "styled": "a painting of {text}", "strengths": [0.5],
    "axis_seeds": 1, "steps": 1,
    "prompts": [{"id": "boat", "genre": "sea", "text": "a boat"}, {"id": "pear", "genre": "table", "text": "a pear"},
                {"id": "ship", "genre": "sea", "text": "a ship"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, tiny_flux: Path, tiny_adapter: Path) -> list[str]:
    file = tmp_path_factory.mktemp("prompts") / "prompts.yaml"
    file.write_text(yaml.safe_dump(PROMPT_SET))
    return ["--prompts", str(file), "--model", str(tiny_flux), "--adapter", str(tiny_adapter), "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, asked: list[str]) -> Path:
    """A finished gallery; do not write into it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["gallery", str(folder), *asked]) == 0
    return folder


def test_every_arm_is_painted_from_the_same_noise_and_the_axis_from_the_first_seeds(run: Path):
    exhibits = read_gallery(run)
    assert len(exhibits) == 3 * (2 * 4 + 1)
    for prompt in ("boat", "pear", "ship"):
        for seed in (5, 6):
            arms = {(e.arm, e.recipe.strength) for e in exhibits
                    if (e.prompt, e.recipe.sampling.seed) == (prompt, seed)}  # fmt: skip
            plain = {("base", 0), ("adapter", 1)} | ({("adapter", 0.5)} if seed == 5 else set())
            assert arms == plain | {("base-styled", 0), ("adapter-styled", 1)}
    styled = {e.recipe.sampling.prompt for e in exhibits if e.arm.endswith("styled")}
    assert styled == {"a painting of a boat", "a painting of a pear", "a painting of a ship"}


def test_at_another_strength_the_adapter_as_trained_stays_on_the_axis(tiny_painter):
    exhibits = plan(PromptSet.from_dict(PROMPT_SET), tiny_painter, strength=0.75)
    for seed, at in ((5, {0.5, 0.75, 1.0}), (6, {0.75})):
        of_seed = [one for one in exhibits if one.recipe.sampling.seed == seed]
        assert {one.recipe.strength for one in of_seed if one.arm == "adapter"} == at
        assert {one.recipe.strength for one in of_seed if one.arm == "adapter-styled"} == {0.75}


def test_a_picture_is_the_one_that_paint_makes_of_its_record(run: Path, tiny_painter):
    for exhibit in read_gallery(run)[::5]:
        picture = Image.open(run / "gallery" / exhibit.file)
        assert read_recipe(picture) == exhibit.recipe
        again = paint(tiny_painter, exhibit.recipe.sampling, exhibit.recipe.strength)
        assert np.array_equal(np.asarray(picture), np.asarray(again))


def test_what_is_there_is_left_and_what_is_missing_or_of_another_adapter_is_painted(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
):
    run = tmp_path / "tiny"
    main(["gallery", str(run), *asked])
    before = {file: file.stat().st_mtime_ns for file in (run / "gallery" / each.file for each in read_gallery(run))}
    gone, *_ = before
    gone.unlink()
    capsys.readouterr()
    main(["gallery", str(run), *asked])
    assert "27 pictures, 26 of them are there already" in capsys.readouterr().out
    assert [file for file, time in before.items() if file.stat().st_mtime_ns != time] == [gone]

    other = make_tiny_adapter(tmp_path / "other", seed=9)
    main(["gallery", str(run), *asked[:-4], "--adapter", str(other), "--device", "cpu"])
    assert "27 pictures, 0 of them are there already" in capsys.readouterr().out


def test_several_processes_share_a_gallery(run: Path, asked: list[str], tmp_path: Path):
    together = tmp_path / "tiny"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "evaluation",
               "gallery", str(together), *asked, "--only", "1"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "2 processes share the rest" in done.stdout
    first = [exhibit for exhibit in read_gallery(run) if exhibit.prompt != "ship"]
    assert read_gallery(together) == first
    for exhibit in first:
        one, other = (np.asarray(Image.open(folder / "gallery" / exhibit.file)) for folder in (run, together))
        assert np.array_equal(one, other)


def test_the_showcase_has_the_best_and_the_worst_of_each_genre(run: Path):
    folder = run / "gallery" / "showcase"
    chosen = [Pair.from_json(line) for line in (folder / "showcase.jsonl").read_text().splitlines()]
    assert {(pair.genre, pair.chosen) for pair in chosen} == {
        ("sea", "best"), ("sea", "worst"), ("sea", "between"), ("table", "best"), ("table", "worst")
    }  # fmt: skip
    for genre in ("sea", "table"):
        gains = {pair.chosen: pair.gain for pair in chosen if pair.genre == genre}
        assert gains["best"] == max(gains.values())
        assert gains["worst"] == min(gains.values())
    for pair in chosen:
        assert read_recipe(folder / pair.adapted) == pair.recipe
        assert read_recipe(folder / pair.base) == dataclasses.replace(pair.recipe, strength=0.0)


def test_a_large_picture_of_the_showcase_is_made_small(run: Path, tmp_path: Path):
    exhibit = read_gallery(run)[0]
    large = dataclasses.replace(exhibit.recipe.sampling, width=1024, height=512)
    exhibit = dataclasses.replace(exhibit, recipe=dataclasses.replace(exhibit.recipe, sampling=large))
    Image.new("RGB", (1024, 512), "teal").save(tmp_path / "large.png")
    copy_picture(tmp_path / "large.png", file := tmp_path / file_name(exhibit))
    small = Image.open(file)
    assert (small.format, small.size) == ("WEBP", (768, 384))


def test_the_choice_follows_the_gain_alone(run: Path):
    compared = [pair for pair in pairs(read_gallery(run)) if pair[1].genre == "sea"]
    chosen = choose(compared, [0.1, 0.4, -0.2, 0.3])
    assert [(pair.chosen, pair.gain) for _, _, pair in chosen] == [("best", 0.4), ("worst", -0.2), ("between", 0.1)]


def test_a_run_is_painted_with_its_own_adapter_and_base(tiny_flux: Path, tmp_path: Path, asked: list[str]):
    run = tmp_path / "runs" / "mine"
    make_tiny_adapter(run / "adapter", seed=4)
    main(["gallery", str(run), *asked[:2], "--model", str(tiny_flux), "--device", "cpu", "--only", "1"])
    exhibits = read_gallery(run)
    assert {exhibit.prompt for exhibit in exhibits} == {"boat", "pear"}
    assert {exhibit.recipe.provenance.adapter for exhibit in exhibits} == {"mine"}


def test_a_damaged_gallery_is_told_in_a_sentence(tmp_path: Path):
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "gallery.jsonl").write_text('{"file": "cut off')
    with pytest.raises(UserError, match=r"gallery\.jsonl cannot be read .* write it again"):
        read_gallery(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"styled": "as a painting"}, "styled must have {text}"),
        ({"prompts": PROMPT_SET["prompts"][:1] * 2}, "two prompts are called boat"),
        ({"seeds": []}, "it has no seeds"),
        ({"strengths": [0.5, -0.5]}, "strengths must be above 0"),
        ({"colour": "red"}, "there is no colour"),
    ],
)
def test_a_prompt_set_that_cannot_be_painted_is_refused(change: dict, said: str, tmp_path: Path):
    file = tmp_path / "prompts.yaml"
    file.write_text(yaml.safe_dump(PROMPT_SET | change))
    with pytest.raises(UserError, match=said):
        PromptSet.read(file)


def test_the_published_prompt_sets_are_whole():
    pipe = PromptSet.read(PROMPTS / "flux.yaml")
    genres = [prompt.genre for prompt in pipe.prompts]
    assert (len(genres), len(pipe.seeds), len(set(genres))) == (60, 4, 6)
    assert all(genres.count(genre) == 10 for genre in genres)
    assert PromptSet.read(PROMPTS / "miniature.yaml").name == "miniature"


def test_the_miniatures_prompts_keep_to_its_words():
    """Its tokenizers are taught with these words alone; a stranger would be spelt in letters."""
    from tools.miniature.captions import vocabulary, words

    prompts = PromptSet.read(PROMPTS / "miniature.yaml")
    texts = [prompts.styled.format(text=prompt.text) for prompt in prompts.prompts]
    assert {word for text in texts for word in words(text)} <= vocabulary()


def test_records_of_the_gallery_come_back_from_their_json(run: Path):
    for exhibit in read_gallery(run):
        assert Exhibit.from_json(exhibit.to_json()) == exhibit
        assert dataclasses.is_dataclass(exhibit.recipe.provenance)
