"""The way to the Hub and back, over HTTP against the Hub in hub.py."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from hub import READER, Hub, sha256
from huggingface_hub import DatasetCard, constants
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file
from tiny import make_tiny_adapter

from impressionism.errors import UserError
from impressionism.hub import digest_of
from impressionism.names import WEIGHTS_FILE
from impressionism.records import Provenance, Run, Scores
from training import __main__ as training
from training import examples, parcel, recipe
from training.recipe import Data

CARD = """---
license: mit
tags: [lora]
---
# Haystacks
See https://example.org/home/monet and [the model](https://huggingface.co/me/haystacks), ./tmp/out.png or a/tmp/b.
"""
SENT = {WEIGHTS_FILE, "README.md", "images/boat.png", "recipe.yaml", "run.json"}


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """The recipe of a finished run, made by hand: an adapter, a card, a picture, and what must stay here."""
    folder = tmp_path / "runs" / "haystacks"
    make_tiny_adapter(folder / "adapter")
    (folder / "adapter" / "README.md").write_text(CARD)
    (folder / "adapter" / "images").mkdir()
    Image.new("RGB", (8, 8), "gold").save(folder / "adapter" / "images" / "boat.png")
    (folder / "adapter" / "notes.txt").write_text("hf_" + "a" * 34)
    (folder / "checkpoints").mkdir()
    path = tmp_path / "haystacks.yaml"
    path.write_text(f"""
        data: {{source: {tmp_path / "paintings"}, resolution: 64}}
        tune: {{storage: "postgresql://monet:lilies@giverny/studies"}}
        run: {{folder: {folder}, cache: {tmp_path / "cache"}}}
    """)
    (folder / "recipe.yaml").write_text(recipe.read(path).to_yaml())
    record = Run(
        name="haystacks", base="flux", base_revision="0123", dataset="paintings", dataset_revision="content 4567",
        steps=8, seconds=90.0, peak_memory=1, trained_parameters=1, validation_loss=0.9, base_validation_loss=1.0,
        versions={},
    )  # fmt: skip
    (folder / "run.json").write_text(record.to_json())
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between huggingface_hub's retries, noted and not waited for."""
    pauses: list[float] = []
    for module in ("utils._http", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", SimpleNamespace(sleep=pauses.append))
    return pauses


def adapter_of(recipe_file: Path) -> Path:
    return recipe_file.parent / "runs" / "haystacks" / "adapter"


def tag_of(recipe_file: Path) -> str:
    return f"haystacks-step-8-{sha256((adapter_of(recipe_file) / WEIGHTS_FILE).read_bytes())[:8]}"


def send(recipe_file: Path, *options: str) -> int:
    return training.main(["push", str(recipe_file), *options])


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# ---- There and back


def test_a_run_goes_to_the_hub_and_its_adapter_comes_back(hub: Hub, recipe_file: Path, tiny_flux: Path, capsys) -> None:
    tag, adapter = tag_of(recipe_file), adapter_of(recipe_file)
    evaluated(adapter.parent, adapter / WEIGHTS_FILE, good=True)
    assert send(recipe_file, f"model.base={tiny_flux}") == 0
    files = hub.files("monet/haystacks", tag)
    assert files.keys() == SENT and files == hub.files("monet/haystacks")
    assert files[WEIGHTS_FILE] == (adapter / WEIGHTS_FILE).read_bytes()
    assert not hub.repos["monet/haystacks"].private
    said = capsys.readouterr().err
    assert "came back byte for byte" in said
    assert f"--adapter monet/haystacks --adapter-revision {tag} --strength 0.8" in said
    assert "These stay here: notes.txt" in said


def test_the_records_go_up_without_the_paths_and_passwords_of_this_machine(hub: Hub, recipe_file: Path) -> None:
    assert send(recipe_file) == 0
    files = hub.files("monet/haystacks")
    sent = recipe.read(write(recipe_file.parent / "sent.yaml", files["recipe.yaml"]))
    assert (sent.data.source, sent.run.folder, sent.run.cache) == ("paintings", Path("haystacks"), Path("cache"))
    assert sent.tune.storage is None
    assert Run.from_json(files["run.json"].decode()).steps == 8
    everything = b"".join(files.values())
    assert str(recipe_file.parent).encode() not in everything and b"lilies" not in everything


def test_paths_below_the_working_folder_become_relative(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    told = {"cache": [str(tmp_path / "cache"), "/elsewhere/cache", r"C:\Users\monet\cache"], "rank": 4, "id": "me/flux"}
    assert parcel.portable(told) == {"cache": ["cache", "cache", "cache"], "rank": 4, "id": "me/flux"}


def test_a_second_push_does_nothing_and_a_new_card_alone_is_sent(hub: Hub, recipe_file: Path, capsys) -> None:
    assert send(recipe_file) == 0
    first = hub.repos["monet/haystacks"].find("main")
    assert send(recipe_file) == 0
    assert "monet/haystacks holds all of this; nothing to do" in capsys.readouterr().err
    assert hub.repos["monet/haystacks"].find("main") == first and hub.count("/commit/") == 1

    (adapter_of(recipe_file) / "README.md").write_text(CARD + "They glow.\n")
    assert send(recipe_file) == 0
    assert b"They glow" in hub.files("monet/haystacks")["README.md"]
    assert (
        hub.repos["monet/haystacks"].find(tag_of(recipe_file)) == first
    )  # the tag names the weights, which are the same
    assert hub.count("PUT /lfs/") == 2  # the weights and the picture, once each


def test_private_is_private_and_never_becomes_public_unseen(hub: Hub, recipe_file: Path, capsys) -> None:
    assert send(recipe_file, "--private", "--repo", "monet/secret") == 0
    assert hub.repos["monet/secret"].private
    hub.add_repo("monet/open")
    assert send(recipe_file, "--private", "--repo", "monet/open") == 2
    assert "monet/open is public already" in capsys.readouterr().err
    assert not hub.files("monet/open")


def test_a_pull_request_leaves_the_repository_as_it_is_and_is_opened_once(hub: Hub, recipe_file: Path, capsys) -> None:
    hub.add_repo("renoir/haystacks")
    assert send(recipe_file, "--repo", "renoir/haystacks", "--pull-request") == 0
    assert f"{hub.url}/renoir/haystacks/discussions/1 (public): the adapter came back" in capsys.readouterr().err
    assert hub.files("renoir/haystacks") == {}
    assert hub.files("renoir/haystacks", "refs/pr/1").keys() == SENT
    assert send(recipe_file, "--repo", "renoir/haystacks", "--pull-request") == 0
    assert "discussions/1 proposes all of this; nothing to do" in capsys.readouterr().err
    assert len(hub.repos["renoir/haystacks"].pulls) == 1


def test_a_dry_run_tells_files_sizes_and_visibility_and_asks_nobody(hub: Hub, recipe_file: Path, capsys) -> None:
    assert send(recipe_file, "--dry-run", "--private", "--repo", "monet/haystacks") == 0
    said = capsys.readouterr().err
    assert (
        f"To monet/haystacks (private if it is new, tag {tag_of(recipe_file)}): 5 files" in said
        and "Nothing was sent" in said
    )
    for name in SENT:
        assert name in said
    size = (adapter_of(recipe_file) / WEIGHTS_FILE).stat().st_size
    assert f"{size / 1000:.1f}kB  {WEIGHTS_FILE}" in said
    assert hub.calls == []


def evaluated(folder: Path, weights: Path, *, good: bool) -> None:
    """The run's scores as evaluation leaves them."""
    provenance = Provenance(base="flux", adapter="haystacks", adapter_revision=digest_of(weights))
    scores = Scores(
        run="haystacks", provenance=provenance, prompt_set="miniature, version 1", prompt_set_sha256="0", prompts=8,
        seeds=1, real="scenes", metrics=[], curve=[], strength=0.8, strength_low=0.6, strength_high=1.0, best=[],
        worst=[], good=good, seconds=1.0, machine="here",
    )  # fmt: skip
    (folder / "scores.json").write_text(scores.to_json())


def test_what_evaluation_did_not_find_good_is_sent_with_a_word(hub: Hub, recipe_file: Path, capsys) -> None:
    adapter = adapter_of(recipe_file)
    evaluated(adapter.parent, adapter / WEIGHTS_FILE, good=False)
    assert send(recipe_file, "--dry-run") == 0
    assert "The evaluation does not call this adapter good" in capsys.readouterr().err
    other = make_tiny_adapter(recipe_file.parent / "lilies", seed=5) / WEIGHTS_FILE
    evaluated(adapter.parent, other, good=True)
    assert send(recipe_file, "--dry-run") == 0
    assert "made with other weights" in capsys.readouterr().err
    (adapter.parent / "scores.json").write_text("{")
    assert send(recipe_file, "--dry-run") == 2


# ---- When the way is bad


def test_a_cut_in_the_middle_is_mended_by_itself(hub: Hub, recipe_file: Path, quick: list[float]) -> None:
    hub.cut("PUT /lfs/", after=1000)
    hub.cut("GET /lfs/", after=1000)
    assert send(recipe_file) == 0
    assert hub.count("PUT /lfs/") == 3 and hub.count("GET /lfs/") == 2
    assert hub.files("monet/haystacks", tag_of(recipe_file)).keys() == SENT


def test_after_a_cut_for_good_the_same_command_goes_on(hub: Hub, recipe_file: Path, quick, capsys) -> None:
    hub.cut("POST .*/commit/")  # the files have arrived, the commit too: only its answer is lost
    assert send(recipe_file) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "The Hub cannot be reached" in said and "run the same command again" in said
    assert hub.count("PUT /lfs/") == 2 and tag_of(recipe_file) not in str(hub.repos["monet/haystacks"].refs)
    assert send(recipe_file) == 0
    assert hub.count("PUT /lfs/") == 2 and hub.count("POST .*/commit/") == 1
    assert hub.files("monet/haystacks", tag_of(recipe_file)).keys() == SENT


def test_what_arrived_before_a_cut_is_not_sent_again(hub: Hub, recipe_file: Path, quick, capsys) -> None:
    weights = sha256((adapter_of(recipe_file) / WEIGHTS_FILE).read_bytes())
    hub.cut(f"PUT /lfs/{weights}", after=1000, times=6)  # as often as huggingface_hub tries
    assert send(recipe_file) == 2
    assert "The Hub cannot be reached" in capsys.readouterr().err
    assert hub.files("monet/haystacks") == {}
    before = hub.count("PUT /lfs/")
    assert send(recipe_file) == 0
    assert hub.count("PUT /lfs/") == before + 1 and hub.count(f"PUT /lfs/{weights}") == 7


def test_a_busy_hub_is_asked_again_after_the_time_it_names(hub: Hub, recipe_file: Path, quick: list[float]) -> None:
    hub.fail("POST .*/preupload/", status=429, Retry_After="3")
    hub.fail("PUT /lfs/", status=503)
    hub.delay("POST .*/verify", seconds=0.2)
    assert send(recipe_file) == 0
    assert quick == [4.0, 1]
    assert hub.files("monet/haystacks", tag_of(recipe_file)).keys() == SENT


def test_a_file_that_comes_back_changed_is_told(hub: Hub, recipe_file: Path, capsys) -> None:
    here = (adapter_of(recipe_file) / WEIGHTS_FILE).read_bytes()
    rotten = here[:-1] + bytes([here[-1] ^ 1])
    hub.stored |= {sha256(here): rotten, sha256(rotten): rotten}
    assert send(recipe_file) == 2
    assert f"{WEIGHTS_FILE} came back from the Hub changed" in capsys.readouterr().err
    assert tag_of(recipe_file) not in str(hub.repos["monet/haystacks"].refs)


@pytest.mark.parametrize(
    ("spoil", "options", "sentence"),
    [
        (lambda hub, patch: patch.delenv("HF_TOKEN"), [], "log in with `hf auth login`, or set HF_TOKEN"),
        (
            lambda hub, patch: patch.setenv("HF_TOKEN", "hf_revoked"),
            [],
            "The Hub refused your account (HTTP 401): log in again",
        ),
        (lambda hub, patch: patch.setenv("HF_TOKEN", READER), [], "HTTP 403, You don't have the rights"),
        (lambda hub, patch: None, ["--repo", "renoir/haystacks"], "use a token that may write there"),
        (lambda hub, patch: hub.add_repo("renoir/haystacks"), ["--repo", "renoir/haystacks"], "or --pull-request"),
        (lambda hub, patch: None, ["--repo", "me/nowhere", "--pull-request"], "HTTP 404, Repository not found"),
        (lambda hub, patch: None, ["--repo", "haystacks"], "--repo should read USER/NAME, not 'haystacks'"),
        (lambda hub, patch: hub.fail("whoami", 429, Retry_After="7"), [], "HTTP 429): wait 7 seconds; then run"),
        (lambda hub, patch: hub.fail("GET /api/models", 503), [], "HTTP 503): try again later"),
        (lambda hub, patch: hub.fail("repos/create", 409), [], "the name is taken; choose another with --repo"),
        (lambda hub, patch: hub.fail("validate-yaml", 502), [], "The Hub answered with something unreadable"),
        (lambda hub, patch: hub.fail("/lfs/", 500, times=99), [], "HTTP 500): try again later"),
        (lambda hub, patch: hub.fail("HEAD .*/resolve/", 503, 9), [], "HTTP 503): try again later"),
        (lambda hub, patch: hub.__exit__(), [], "The Hub cannot be reached"),
        (lambda hub, patch: patch.setattr(constants, "HF_HUB_OFFLINE", True), [], "unset HF_HUB_OFFLINE"),
    ],
)
def test_each_refusal_is_one_sentence_with_a_remedy(
    hub: Hub, recipe_file: Path, monkeypatch: pytest.MonkeyPatch, quick, capsys, spoil, options, sentence: str
) -> None:
    spoil(hub, monkeypatch)
    assert send(recipe_file, *options) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert sentence in said
    assert not any(name.startswith("refs/tags/") for repo in hub.repos.values() for name in repo.refs)


def test_a_name_that_holds_something_else_is_left_alone(hub: Hub, recipe_file: Path, tiny_flux: Path, capsys) -> None:
    hub.add_repo("monet/haystacks", tiny_flux)
    before = hub.files("monet/haystacks")
    assert send(recipe_file) == 2
    assert "monet/haystacks holds something else (model_index.json" in capsys.readouterr().err
    assert hub.files("monet/haystacks") == before


def test_other_weights_of_the_same_step_get_a_tag_of_their_own(hub: Hub, recipe_file: Path) -> None:
    assert send(recipe_file) == 0
    first, before = tag_of(recipe_file), hub.repos["monet/haystacks"].find("main")
    make_tiny_adapter(adapter_of(recipe_file), seed=9)
    assert send(recipe_file) == 0
    page = hub.repos["monet/haystacks"]
    assert page.find(first) == before and page.find(tag_of(recipe_file)) == page.find("main") != before


def test_a_card_that_the_hub_does_not_take_is_told_before_anything_is_sent(hub: Hub, recipe_file: Path, capsys) -> None:
    (adapter_of(recipe_file) / "README.md").write_text("---\nwidget: boat\n---\n")
    assert send(recipe_file) == 2
    assert '"widget" must be an array' in capsys.readouterr().err.splitlines()[-1]
    assert hub.count("PUT /lfs/") == 0


# ---- Curated pictures go the same way


@pytest.fixture
def curated_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> Path:
    """The recipe of six pictures, of which `curate` held one out."""
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.url)
    source = tmp_path / "found"
    source.mkdir()
    for seed in range(6):
        colours = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((64, 64)).save(source / f"{seed}.png")
        (source / f"{seed}.txt").write_text(f"a pond, {seed}")
    path = tmp_path / "ponds.yaml"
    path.write_text(f"""
        curate: {{source: {source}, min_side: 48, held_out: 0.2}}
        data: {{source: {tmp_path / "ponds"}, resolution: 64}}
    """)
    assert training.main(["curate", str(path)]) == 0
    return path


def send_pictures(curated_file: Path, *options: str) -> int:
    return training.main(["push", str(curated_file), "--dataset", *options])


def test_curated_pictures_go_up_as_a_dataset_that_a_recipe_takes_by_its_id(
    hub: Hub, curated_file: Path, capsys
) -> None:
    assert send_pictures(curated_file, "--license", "cc0-1.0", "--private") == 0
    said = capsys.readouterr().err
    assert "the first picture of each split came back as it left" in said and "(private)" in said
    tag = re.search(r"data\.source=monet/ponds data\.revision=(ponds-[0-9a-f]{8})", said)
    assert tag
    page = hub.repos["datasets/monet/ponds"]
    assert page.private and page.find(tag[1]) == page.find("main")

    taken = examples.read(Data(source="monet/ponds", revision=tag[1], resolution=64))
    here = examples.read(Data(source=str(curated_file.with_name("ponds")), resolution=64))
    assert len(taken) == 6 and {(one.id, one.caption, one.held_out) for one in taken} == {
        (one.id, one.caption, one.held_out) for one in here
    }


def test_a_dataset_s_card_is_made_of_its_record_and_tells_no_path(hub: Hub, curated_file: Path) -> None:
    assert send_pictures(curated_file, "--license", "cc0-1.0") == 0
    files = hub.files("datasets/monet/ponds")
    card = DatasetCard(files["README.md"].decode())
    assert card.data.license == "cc0-1.0"  # type: ignore[attr-defined]
    assert "of 6 pictures 5 to train on and 1 held out" in card.text and "the folder `found`" in card.text
    assert yaml.safe_load(card.text.split("```yaml\n")[1].split("```")[0])["curate"]["source"] == "found"
    assert str(curated_file.parent).encode() not in b"".join(files.values())


def test_a_second_push_of_pictures_does_nothing_and_another_choice_leaves_no_old_split(
    hub: Hub, curated_file: Path, capsys
) -> None:
    assert send_pictures(curated_file, "--license", "cc0-1.0") == 0
    commits = hub.count("/commit/")
    assert send_pictures(curated_file, "--license", "cc0-1.0") == 0
    assert "monet/ponds holds all of this; nothing to do" in capsys.readouterr().err
    assert hub.count("/commit/") == commits
    shutil.rmtree(curated_file.with_name("ponds"))
    assert training.main(["curate", str(curated_file), "curate.held_out=0"]) == 0
    assert send_pictures(curated_file, "--license", "cc0-1.0") == 0
    held = [name for name in hub.files("datasets/monet/ponds") if name.endswith(".parquet")]
    assert held == ["data/train-00000-of-00001.parquet"]
    assert len([ref for ref in hub.repos["datasets/monet/ponds"].refs if ref.startswith("refs/tags/ponds-")]) == 2


def test_the_captions_that_were_trained_on_go_up_with_their_pictures(hub: Hub, curated_file: Path) -> None:
    captions = f"data.captions={curated_file.with_name('captions.jsonl')}"
    for file in (curated_file.parent / "found").glob("*.txt"):
        file.write_text(f"an impressionist painting of a pond, {file.stem}, with loose brushstrokes")
    assert training.main(["curate", str(curated_file), f"data.source={curated_file.parent / 'lilies'}"]) == 0
    options = [captions, f"data.source={curated_file.parent / 'lilies'}"]
    assert training.main(["caption", str(curated_file), "caption.model=none", *options]) == 0
    assert training.main(["push", str(curated_file), *options, "--dataset", "--license", "mit"]) == 0
    here = Data(
        source=str(curated_file.parent / "lilies"), captions=curated_file.with_name("captions.jsonl"), resolution=64
    )
    wanted = {(one.id, one.caption, one.content) for one in examples.read(here)}
    taken = examples.read(Data(source="monet/lilies", resolution=64))
    assert {(one.id, one.caption, one.content) for one in taken} == wanted
    assert all(content and "brushstrokes" not in content for _, _, content in wanted)


def test_pictures_can_be_proposed_to_another_s_dataset(hub: Hub, curated_file: Path) -> None:
    hub.add_repo("renoir/ponds", kind="datasets")
    options = ["--license", "cc0-1.0", "--repo", "renoir/ponds", "--pull-request"]
    assert send_pictures(curated_file, *options) == 0
    assert hub.files("datasets/renoir/ponds") == {}
    proposed = hub.files("datasets/renoir/ponds", "refs/pr/1")
    assert "data/train-00000-of-00001.parquet" in proposed and b"license: cc0-1.0" in proposed["README.md"]
    assert send_pictures(curated_file, *options) == 0
    assert len(hub.repos["datasets/renoir/ponds"].pulls) == 1


def test_after_a_cut_the_pictures_that_arrived_are_not_sent_again(hub: Hub, curated_file: Path, quick) -> None:
    hub.cut("POST .*/commit/")  # whose answer alone is lost
    assert send_pictures(curated_file, "--license", "cc0-1.0") == 2
    sent = hub.count("PUT /lfs/")
    assert send_pictures(curated_file, "--license", "cc0-1.0") == 0
    assert hub.count("PUT /lfs/") == sent == 2


def test_pictures_that_came_back_changed_are_told(hub: Hub, curated_file: Path, capsys) -> None:
    class Rotten(dict):
        def __setitem__(self, name: str, content: bytes) -> None:
            rotten = content.replace(b"IDAT", b"IDAX")
            super().__setitem__(name, rotten)
            super().__setitem__(sha256(rotten), rotten)

    hub.stored = Rotten(hub.stored)
    assert send_pictures(curated_file, "--license", "cc0-1.0") == 2
    assert "came back from the Hub changed" in capsys.readouterr().err
    assert not any(ref.startswith("refs/tags/") for ref in hub.repos["datasets/monet/ponds"].refs)


def a_token_in_a_caption(folder: Path) -> None:
    shutil.rmtree(folder)
    (folder.with_name("found") / "3.txt").write_text("a pond, hf_" + "a1" * 17)
    assert training.main(["curate", str(folder.with_name("ponds.yaml"))]) == 0


def no_pictures(folder: Path) -> None:
    for picture in folder.glob("*/*.png"):
        picture.unlink()


def a_card_without_licence(folder: Path) -> None:
    (folder / "README.md").write_text("---\ntags: [art]\n---\n# Ponds\n")


def a_card_of_another_licence(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Ponds\n")


def not_curated(folder: Path) -> None:
    (folder / "curate.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "options", "sentence"),
    [
        (lambda folder: None, [], "name it with --license, such as cc0-1.0"),
        (a_token_in_a_caption, ["--license", "mit"], "metadata.jsonl holds an access token"),
        (no_pictures, ["--license", "mit"], "curate it again"),
        (a_card_without_licence, [], "its README.md names no licence"),
        (a_card_of_another_licence, ["--license", "cc0-1.0"], "says that the licence is mit; leave --license out"),
        (not_curated, ["--license", "mit"], "no dataset that `training curate` wrote (no curate.json)"),
    ],
)
def test_pictures_without_a_licence_or_with_a_secret_stay_here(
    hub: Hub, curated_file: Path, capsys, spoil, options, sentence
) -> None:
    spoil(curated_file.with_name("ponds"))
    capsys.readouterr()
    assert send_pictures(curated_file, *options) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
    assert hub.calls == []


def test_a_dry_run_of_pictures_asks_nobody_and_a_licence_is_not_for_adapters(
    hub: Hub, curated_file: Path, recipe_file: Path, capsys
) -> None:
    assert send_pictures(curated_file, "--license", "mit", "--dry-run") == 0
    said = capsys.readouterr().err
    assert "of 6 pictures 5 to train on" in said and "text" in said and "Nothing was sent" in said
    assert send(recipe_file, "--license", "mit") == 2
    assert "--license is for --dataset" in capsys.readouterr().err
    assert hub.calls == []


# ---- What does not go up


def test_an_unfinished_run_is_refused(recipe_file: Path, capsys) -> None:
    (adapter_of(recipe_file).parent / "run.json").unlink()
    assert send(recipe_file, "--dry-run") == 2
    assert "holds no finished run (no run.json): run `python -m training fit`" in capsys.readouterr().err


def no_adapter(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()


def half_an_adapter(folder: Path) -> None:
    (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:5000])


def diverged(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    save_file({name: tensor * torch.nan for name, tensor in weights.items()}, folder / WEIGHTS_FILE)


def told_in_metadata(folder: Path) -> None:
    metadata = {"recipe": json.dumps({"run": {"folder": "/home/monet/runs"}})}
    save_file(load_file(folder / WEIGHTS_FILE), folder / "haystacks_comfy.safetensors", metadata)


def told_in_the_card(folder: Path) -> None:
    (folder / "README.md").write_text(CARD + "Log in with hf_" + "a1" * 17)


def told_in_an_address(folder: Path) -> None:
    (folder / "NOTICE").write_text("From file:///home/monet/paintings.")


def told_in_a_picture(folder: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("impressionism", json.dumps({"adapter": f"{Path.cwd()}/runs/haystacks"}))
    Image.new("RGB", (8, 8)).save(folder / "images" / "boat.png", pnginfo=text)


def half_a_picture(folder: Path) -> None:
    (folder / "images" / "boat.png").write_bytes((folder / "images" / "boat.png").read_bytes()[:40])


def damaged_records(folder: Path) -> None:
    (folder.parent / "recipe.yaml").write_text("data:\n  source: [\n")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (no_adapter, f"adapter/{WEIGHTS_FILE} is missing"),
        (half_an_adapter, f"{WEIGHTS_FILE} is damaged"),
        (diverged, "not finite: the training diverged"),
        (told_in_metadata, "haystacks_comfy.safetensors holds a path of this machine"),
        (told_in_the_card, "README.md holds an access token"),
        (told_in_an_address, "NOTICE holds a path of this machine"),
        (told_in_a_picture, "images/boat.png holds the place where you work"),
        (half_a_picture, "images/boat.png is damaged"),
        (damaged_records, "its records cannot be read"),
    ],
)
def test_what_is_damaged_or_tells_too_much_stays_here(hub: Hub, recipe_file: Path, capsys, spoil, sentence) -> None:
    spoil(adapter_of(recipe_file))
    assert send(recipe_file) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
    assert hub.calls == []


def test_all_problems_are_told_at_once(recipe_file: Path) -> None:
    half_an_adapter(adapter_of(recipe_file))
    told_in_the_card(adapter_of(recipe_file))
    with pytest.raises(UserError, match=r"is damaged .*; README\.md holds an access token"):
        parcel.gather(adapter_of(recipe_file).parent)


def test_an_adapter_of_another_base_is_refused_before_anything_is_sent(hub: Hub, recipe_file: Path, capsys) -> None:
    assert send(recipe_file, "model.base=miniature") == 2
    assert "does not fit this model" in capsys.readouterr().err
    assert hub.count("PUT|/commit/") == 0


def test_without_a_card_the_way_to_one_is_told(recipe_file: Path, capsys) -> None:
    (adapter_of(recipe_file) / "README.md").unlink()
    assert send(recipe_file, "--dry-run") == 0
    assert "python -m model_card render" in capsys.readouterr().err
