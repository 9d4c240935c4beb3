"""The card of a run of the tiny FLUX, really trained and painted: what it says, and that records alone say it."""

import ast
import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from evaluated import make_run
from hub import Hub
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from impressionism import names
from impressionism.lora_file import open_file
from impressionism.pictorial import STATISTICS
from impressionism.records import Estimate, Preference, Scores, StudyResult
from model_card import __main__ as model_card
from model_card import check, render, run_records, weights
from model_card.presets import FLUX, MINIATURE
from training import parcel

FLUX_ID = names.BASE
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_flux: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("card"), tiny_flux)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """The run's folder, a test's own."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "lilies"))


def write(run: Path, *options: str, base: str = FLUX_ID) -> str:
    assert model_card.main(["render", str(run), "--base", base, *options]) == 0
    return (run / "adapter" / "README.md").read_text()


def front(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def rescored(run: Path, /, **changes) -> None:
    scores = Scores.from_json((run / "scores.json").read_text())
    (run / "scores.json").write_text(dataclasses.replace(scores, **changes).to_json())


# ---- The whole card


def test_a_rendered_card_passes_every_check(run: Path, tiny_flux: Path) -> None:
    write(run)
    assert check.faults(run / "adapter", str(tiny_flux)) == []


def test_the_same_records_give_the_same_bytes_and_nothing_is_written_twice(run: Path, capsys) -> None:
    write(run)
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in (run / "adapter").rglob("*.*")}
    (run / "adapter" / "images" / "of-an-older-card.webp").write_bytes(b"old")
    capsys.readouterr()
    write(run)
    assert "none of them new or changed" in capsys.readouterr().out
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in (run / "adapter").rglob("*.*")} == before
    records = run_records.read(run)
    composed = [render.compose(records, FLUX, repo=None, space=None) for _ in range(2)]
    assert composed[0] == composed[1]


def test_all_that_is_written_may_go_to_the_hub_and_the_hub_takes_it(run: Path, hub: Hub) -> None:
    write(run, "--repo", "monet/lilies")
    written = {file.relative_to(run / "adapter").as_posix() for file in (run / "adapter").rglob("*") if file.is_file()}
    assert written <= parcel.gather(run).files.keys()
    ModelCard.load(run / "adapter" / "README.md").validate()
    assert hub.count("validate-yaml") == 1


def test_the_snippet_paints_the_very_picture_that_stands_first(run, tiny_flux, tmp_path, monkeypatch) -> None:
    card = write(run, base="miniature")
    monkeypatch.chdir(tmp_path)
    block = next(block for block in check.PYTHON.findall(card) if "from_pretrained" in block)
    here = {"impressionism/miniature": tiny_flux, f"runs/{run.name}/adapter": run / "adapter"}
    for name, folder in here.items():
        assert f'"{name}"' in block
        block = block.replace(f'"{name}"', repr(str(folder)))
    exec(block, {})
    [first] = [exhibit for exhibit in run_records.read(run).exhibits if exhibit.file == "lilies/1001-adapter-1.png"]
    there, here = Image.open(run / "gallery" / first.file), Image.open(tmp_path / "painting.png")
    assert front(card)["widget"][0]["text"] == first.recipe.sampling.prompt
    assert there.tobytes() == here.tobytes()


def test_the_client_s_call_is_one_that_the_space_takes(run: Path) -> None:
    block = next(block for block in check.PYTHON.findall(write(run)) if "gradio_client" in block)
    called = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call) and node.keywords]
    asked = {keyword.arg for keyword in called[0].keywords} - {"api_name"}
    snapshot = json.loads((ROOT / "tests" / "space_api_1.json").read_text())  # what every version of the page takes
    accepted = {each["parameter_name"] for each in snapshot["endpoints"]["/compare"]["parameters"]}
    assert {"prompt", "strength", "seed"} <= asked <= accepted


# ---- What it says


def test_front_matter_is_what_the_hub_shows_and_loads_by(run: Path) -> None:
    head = front(write(run, "--repo", "monet/lilies"))
    assert (head["base_model"], head["base_model_relation"]) == (FLUX_ID, "adapter")
    assert (head["license"], head["license_name"], head["license_link"]) == (
        "other", "flux-1-dev-non-commercial-license", "LICENSE.md",
    )  # fmt: skip
    assert head["pipeline_tag"] == "text-to-image" and "lora" in head["tags"]
    assert head["instance_prompt"] == names.TRIGGER and head["widget"][0]["text"].startswith(names.TRIGGER)
    [model] = head["model-index"]
    assert {one["type"]: one["value"] for result in model["results"] for one in result["metrics"]} == {
        "index": 0.613, "strokes": 0.4, "pictorial-kid": 5.0, "composition": 0.9,
    }  # fmt: skip
    assert {result["source"]["url"] for result in model["results"]} == {"https://huggingface.co/monet/lilies"}
    assert "datasets" not in head and "co2_eq_emissions" not in head


def test_the_miniature_is_mit_and_claims_no_base_on_the_hub(run: Path) -> None:
    head = front(write(run, base="miniature"))
    assert head["license"] == "mit" and "license_name" not in head and "base_model" not in head
    assert "miniature" in head["tags"] and "instance_prompt" not in head
    assert "MIT License" in (run / "adapter" / "LICENSE.md").read_text()


def test_the_licence_s_notice_is_verbatim_and_says_what_was_changed(run: Path) -> None:
    write(run)
    licence, notice = ((run / "adapter" / name).read_text() for name in ("LICENSE.md", "NOTICE"))
    quoted = re.search(r"“(The FLUX\.1 \[dev\] Model is licensed.*?)”", licence, re.DOTALL)
    assert quoted and " ".join(quoted[1].split()) in " ".join(notice.split())
    assert "has been modified" in notice and "granted directly by Black Forest Labs Inc." in notice
    assert licence.startswith("FLUX.1 [dev] Non-Commercial License v1.1.1") and "11. General." in licence


def test_numbers_follow_the_scores_into_text_snippets_and_the_file_s_hint(run: Path) -> None:
    curve = [dataclasses.replace(at, strength=0.85 * at.strength) for at in run_records.read(run).scores.curve]
    rescored(run, curve=curve, strength=0.85, strength_low=0.35, strength_high=1.15, prompts=47, seeds=3)
    card = write(run)
    assert 'set_adapters("impressionism", 0.85)' in card and "strength=0.85," in card
    assert "`strength_model`\n0.85" in card and "47 prompts × 3 seeds" in card
    assert "From **0.35** to **1.15** nothing measured speaks against the adapter" in card
    hint = open_file(run / "adapter" / "lilies_comfy.safetensors", weights=False)[1]["modelspec.usage_hint"]
    assert hint == "Strength 0.85, useful from 0.35 to 1.15; 0 is the base model."


def test_intervals_have_the_digits_that_they_deserve(run: Path) -> None:
    card = write(run)
    told = card.replace("\N{NO-BREAK SPACE}", " ").replace("<br>[", " [")
    assert "0.61 [0.50, 0.74]" in told and "69% [58%, 82%]" in told  # index: 0.613, gap 0.688
    assert "**+0.41 [0.30, 0.54]**" in told and "−0.10 [−0.21, 0.03]" in told and "≤ 0.001" in told


def test_what_speaks_against_the_adapter_is_told(run: Path) -> None:
    scores = Scores.from_json((run / "scores.json").read_text())
    weak = Estimate(value=0.3, low=0.2, high=0.4, n=2)
    curve = [*scores.curve[:-1], dataclasses.replace(scores.curve[-1], problems=["it copies"])]
    rescored(run, arms={"adapter": weak, "base-styled": dataclasses.replace(weak, value=0.5, high=0.6)}, curve=curve,
             failed=["it is overdone"], verdict="Not good: it is overdone.")  # fmt: skip
    card = write(run).replace("\N{NO-BREAK SPACE}", " ")
    assert "**strength 1** came out best." in card and "**Not good: it is overdone.**" in card
    assert "- At strength 1.5: it copies." in card
    said = rf"^- {STATISTICS['strokes'].label}: it moves away from real paintings \(−50%.*\)\.$"
    assert re.search(said, card, re.MULTILINE)
    assert "not shown to be more Impressionist than the base model when the prompt asks for the style" in card
    assert "Not computed: Likeness to the prompt (100 × cosine), by CLIP. Reason: the weights are not on" in card
    assert "by pictorial statistics: worse than the base model, 5.00 [4.89, 5.13] against 3.00 [2.89, 3.13]." in card
    for file in scores.worst:
        prompt, picture = file.removesuffix(".png").split("/")
        assert f"(images/{prompt}-{picture}.webp) |" in card
    assert card.count("index −0.07") == 2


def test_a_card_says_where_its_pictures_are_not_at_the_recommended_strength(run: Path) -> None:
    assert "not at the recommended" not in write(run)
    rescored(run, strength=0.5)
    assert "They are painted at strength 1, not at the recommended 0.5." in write(run)


def test_rendering_leaves_the_evaluated_file_and_all_tensors_alone(run: Path) -> None:
    evaluated, comfy = (run / "adapter" / name for name in (names.WEIGHTS_FILE, "lilies_comfy.safetensors"))
    before, tensors = evaluated.read_bytes(), load_file(comfy)
    write(run)
    after = load_file(comfy)
    assert evaluated.read_bytes() == before
    assert after.keys() == tensors.keys() and all((after[key] == tensors[key]).all() for key in after)
    assert open_file(comfy, weights=False)[1]["modelspec.hash_sha256"] == weights.hash_of(comfy)


def test_what_people_chose_is_told_with_its_interval(run: Path) -> None:
    (run / "ab.json").write_text(comparison().to_json())
    card = write(run)
    assert "in 210 votes on 12 prompts" in card and "exploratory" in card
    assert "which looks more like an Impressionist painting: 62% [55%," in card
    results = front(card)["model-index"][0]["results"]
    assert {"human-win-rate-style"} == {one["type"] for one in results[-1]["metrics"]}


def comparison(*, synthetic: bool = False) -> StudyResult:
    rate = Estimate(value=0.62, low=0.55, high=0.69, n=12)
    style = Preference(against="base-styled", question="style", adapter=120, base=70, tie=15, neither=5, win_rate=rate,
                       decisive=rate, p=0.004)  # fmt: skip
    return StudyResult(
        run="lilies", study_sha256="ab" * 32, strength=1.0, synthetic=synthetic, planned=210, votes=210, prompts=12,
        raters=6, sessions=7, excluded={}, preferences=[style], left=None, left_p=0.7, consistency=None, catch=None,
        milliseconds=2100.0,
    )  # fmt: skip


def test_carbon_is_told_in_grams_where_codecarbon_measured_it(run: Path) -> None:
    assert "CO2: not measured." in write(run)
    head = "emissions,country_name,gpu_model,cpu_model\n"
    (run / "emissions.csv").write_text(head)  # cut off before the first measurement
    assert "CO2: not measured." in write(run)
    (run / "emissions.csv").write_text(f"{head}0.4102,France,1 x L40S,an EPYC\n")
    head = front(card := write(run))
    assert head["co2_eq_emissions"]["emissions"] == 410.2 and head["co2_eq_emissions"]["hardware_used"] == "1 x L40S"
    assert "410.2 g" in card


def test_the_pictures_say_that_they_are_generated(run: Path) -> None:
    write(run)
    for entry in front((run / "adapter" / "README.md").read_text())["widget"]:
        with Image.open(run / "adapter" / entry["output"]["url"]) as picture:
            assert "AI-generated" in picture.getexif()[0x010E] and "Seed: 1001" in picture.getexif()[0x010E]


# ---- What it refuses


@pytest.mark.parametrize("record", [*run_records.WRITTEN_BY, "adapter/lilies_comfy.safetensors"])
def test_a_missing_record_is_named_with_the_way_to_it(run: Path, record: str, capsys) -> None:
    (run / record).unlink()
    assert model_card.main(["render", str(run)]) == 2
    said = capsys.readouterr().err
    assert record.replace("lilies_comfy", "*_comfy") in said and "written by `python -m " in said
    assert not (run / "adapter" / "README.md").exists()


def test_a_run_that_is_not_there_is_named_and_nothing_else(tmp_path: Path, capsys) -> None:
    assert model_card.main(["render", str(tmp_path / "lilies")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"There is no folder {tmp_path / 'lilies'}; ") and said.count("\n") == 1
    assert "written by" not in said


def other_weights(run: Path) -> None:
    render.relabel(run / "adapter" / names.WEIGHTS_FILE, {"title": "trained further"})


def another_run(run: Path) -> None:
    rescored(run, run="poplars")


def a_rehearsal(run: Path) -> None:
    (run / "ab.json").write_text(comparison(synthetic=True).to_json())


def damaged(run: Path) -> None:
    (run / "scores.json").write_text('{"run": "lilies", "charm": 1}')


def without_trigger(run: Path) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"]["trigger"] = "in the manner of Giverny,"
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def a_picture_less(run: Path) -> None:
    next((run / "gallery").glob("*/*.png")).unlink()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (other_weights, f"measured other weights than {names.WEIGHTS_FILE}"),
        (another_run, "scores.json belongs to the run poplars, not to lilies"),
        (a_rehearsal, "synthetic votes from a rehearsal"),
        (damaged, "there is no charm"),
        (without_trigger, "painted with the trigger 'in the manner of Giverny,'"),
        (a_picture_less, "the gallery has no "),
    ],
)
def test_records_that_do_not_belong_together_are_refused(run: Path, capsys, spoil, sentence: str) -> None:
    spoil(run)
    assert model_card.main(["render", str(run), "--base", FLUX_ID]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_an_unknown_base_s_licence_is_asked_for(run: Path, capsys) -> None:
    assert model_card.main(["render", str(run)]) == 2
    assert f"say --base {FLUX_ID}" in capsys.readouterr().err


def test_presets_differ_in_the_licence_file() -> None:
    assert FLUX.license_file.read_text() != MINIATURE.license_file.read_text()


def test_no_number_of_a_result_is_written_in_the_template() -> None:
    """Digits in card.md.j2 are section numbers, sizes of code and the two ends of the strength only."""
    text = re.sub(
        r"\{[{%#].*?[}%#]\}|```.*?```|\]\([^)]*\)",
        "",
        (ROOT / "model_card" / "card.md.j2").read_text(),
        flags=re.DOTALL,
    )
    assert set(re.findall(r"\d+(?:\.\d+)?", text)) <= {"0", "1", "95", "0.05", "100", "4", "2", "256"}


def test_json_of_the_run_is_untouched(run: Path) -> None:
    before = {name: (run / name).read_text() for name in ("run.json", "scores.json", "recipe.yaml", "log.jsonl")}
    write(run)
    assert {name: (run / name).read_text() for name in before} == before
    assert json.loads(before["run.json"])["steps"] == 4
