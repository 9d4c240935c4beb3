"""Preserving what the base paints, further training, the quick run, trackers, and which checkpoint is best."""

import json
import shutil
import sqlite3

import pytest
import torch
from balls import draw
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from impressionism.names import WEIGHTS_FILE
from training import __main__ as training
from training import fit
from training import recipe as recipes
from training.base import prepare, training_batches


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    """Four pictures of one thing, and a recipe that learns it on the miniature."""
    folder = tmp_path_factory.mktemp("subject")
    (folder / "pictures").mkdir()
    for index in range(4):
        draw(7).rotate(90 * index).resize((96, 96)).save(folder / "pictures" / f"{index}.png")
    path = folder / "subject.yaml"
    path.write_text(f"""
        model: {{base: miniature, quantize: none, device: cpu}}
        data: {{source: {folder / "pictures"}, resolution: [96x96], instance_prompt: a boat by mntp, held_out: 0}}
        adapter: {{rank: 4}}
        optimizer: {{steps: 12, train_batch_size: 4, learning_rate: 5e-3}}
        preview: {{size: 96x96, steps: 2}}
        run: {{cache: {folder / "cache"}, checkpoint_every: 12}}
    """)
    return path


def learned(path, folder, *options) -> tuple[float, float]:
    """(mean loss on the subject, mean square drift from the base under another prompt) after training."""
    arguments = [*options, f"run.folder={folder}"]
    assert training.main(["fit", str(path), *arguments]) == 0
    recipe = recipes.read(path, [*arguments, "prior.class_prompt=a boat", "prior.output_preservation=1"])
    context = prepare(recipe)
    state = fit.new_state(context, recipe)
    fit.load_checkpoint(recipe, state, 12)
    batches = next(training_batches(context, recipe))
    [own], [other] = batches.pictures, batches.as_class
    with torch.no_grad():
        loss = context.losses(context.loader.train(own), 1.0).mean()
        batch = context.loader.train(other)
        after = context.predict(batch, 1.0)
        with context.without_adapter():
            drift = (context.predict(batch, 1.0) - after).square().mean()
            before = context.losses(context.loader.train(own), 1.0).mean()
    return float(loss / before), float(drift)


def test_the_subject_is_learned_while_the_class_keeps_what_the_base_paints(subject, tmp_path):
    alone, far = learned(subject, tmp_path / "alone")
    options = ["prior.class_prompt=a boat", "prior.output_preservation=3"]
    preserved, near = learned(subject, tmp_path / "preserved", *options)
    assert alone < 0.9 and preserved < 0.95
    assert near < 0.5 * far


def test_class_pictures_are_painted_once_and_trained_on(subject, tmp_path, capsys):
    options = ["prior.class_prompt=a boat", "prior.num_class_images=3", f"run.cache={tmp_path / 'cache'}",
               "optimizer.steps=2"]  # fmt: skip
    for name in ("one", "two"):
        assert training.main(["fit", str(subject), *options, f"run.folder={tmp_path / name}"]) == 0
    assert capsys.readouterr().err.count("the base paints 3 pictures") == 1
    assert len([*(tmp_path / "cache" / "class_pictures").rglob("*.png")]) == 3
    [line, *_] = (json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines())
    assert line["prior_loss"] > 0
    weights = [load_file(tmp_path / name / "adapter" / WEIGHTS_FILE) for name in ("one", "two")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_class_prompt_without_effect_and_an_effect_without_one_are_refused(subject, capsys):
    assert training.main(["fit", str(subject), "prior.class_prompt=a boat"]) == 2
    assert "class_prompt has no effect alone" in capsys.readouterr().err
    assert training.main(["fit", str(subject), "prior.num_class_images=3"]) == 2
    assert "need class_prompt" in capsys.readouterr().err


def test_a_quick_run_goes_end_to_end_in_a_folder_of_its_own(recipe_file, tmp_path, capsys):
    options = ["preview.prompts=[a ball]", "preview.size=64x64"]
    for _ in range(2):  # it begins anew each time
        assert training.main(["fit", str(recipe_file), "--quick", *options]) == 0
        assert "finished after 8 steps" in capsys.readouterr().err
    made = {path.name for path in (tmp_path / "run-quick").iterdir()}
    assert {"adapter", "previews", "checkpoints", "run.json"} <= made and not (tmp_path / "run").exists()


def test_training_goes_on_from_an_adapter_or_a_finished_run(recipe_file, tmp_path, capsys):
    assert training.main(["fit", str(recipe_file), "optimizer.rate=0.02", "adapter.dtype=float32"]) == 0
    first = load_file(tmp_path / "run" / "adapter" / WEIGHTS_FILE)
    further = ["optimizer.steps=1", "optimizer.warmup=0", "optimizer.rate=1e-9", "adapter.dtype=float32",
               f"run.folder={tmp_path / 'further'}"]  # fmt: skip
    for source in (tmp_path / "run", tmp_path / "run" / "adapter" / WEIGHTS_FILE):
        options = [*further, f"adapter.start_from={source}", "adapter.rank=6", "adapter.alpha=3"]
        assert training.main(["fit", str(recipe_file), *options]) == 0
        second = load_file(tmp_path / "further" / "adapter" / WEIGHTS_FILE)
        for key in (key for key in first if "lora_A" in key):
            b = key.replace("lora_A", "lora_B")
            torch.testing.assert_close(second[b] @ second[key], first[b] @ first[key], atol=1e-5, rtol=1e-4)
        shutil.rmtree(tmp_path / "further")
    source = f"adapter.start_from={tmp_path / 'run'}"
    for change, sentence in (("adapter.rank=2", "has rank 4 in"), ("adapter.targets=style", "does not train, such as"),
                             ("adapter.start_from=nowhere/at/all", "nowhere")):  # fmt: skip
        assert training.main(["fit", str(recipe_file), *further, source, change]) == 2
        assert sentence in capsys.readouterr().err


def test_trackers_are_told_losses_previews_and_the_recipe(recipe_file, tmp_path, monkeypatch, capsys):
    """TensorBoard, and Trackio as it works without a network; one that is not installed is named before the run."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    options = ["preview.prompts=[a ball]", "preview.size=64x64", "preview.steps=1", "preview.every=4"]
    assert training.main(["fit", str(recipe_file), "log.report_to=wandb"]) == 2
    assert "log.report_to names wandb, which is not installed: pip install wandb" in capsys.readouterr().err
    options += ["log.report_to=[tensorboard, trackio]"]
    assert training.main(["fit", str(recipe_file), *options]) == 0
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    tags = board.Tags()
    assert {"train/loss", "train/learning_rate", "train/grad_norm", "validation"} <= set(tags["scalars"])
    assert "validation_by_sigma/0.125" in tags["scalars"]
    assert tags["images"] == ["preview/00"] and tags["tensors"] == ["recipe/text_summary"]
    assert "learning_rate" in str(board.Tensors("recipe/text_summary")[0].tensor_proto.string_val)
    [database] = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        lines = [json.loads(line) for (line,) in connection.execute("SELECT metrics FROM metrics")]
    assert sum("train/loss" in line for line in lines) == 4 and any("preview/00" in line for line in lines)


def test_every_checkpoint_paints_the_same_prompts_and_one_can_be_chosen(recipe_file, tmp_path, capsys):
    options = ["preview.size=64x64", "preview.steps=1", "optimizer.rate=0.02"]
    assert training.main(["fit", str(recipe_file), *options]) == 0
    assert training.main(["best", str(recipe_file), *options]) == 0
    said = capsys.readouterr().out
    assert "step-000004" in said and "step-000008" in said and "lowest held-out loss" in said
    folder = tmp_path / "run" / "best"
    assert {path.name for path in folder.iterdir()} == {
        "base", "step-000004", "step-000008", "sheet.jpg", "scores.json"
    }  # fmt: skip
    before = load_file(tmp_path / "run" / "adapter" / WEIGHTS_FILE)
    assert training.main(["best", str(recipe_file), *options, "--save", "4"]) == 0
    after = load_file(tmp_path / "run" / "adapter" / WEIGHTS_FILE)
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["steps"] == 4
    assert training.main(["best", str(recipe_file), *options, "--save", "5"]) == 2
    assert "there are 4, 8" in capsys.readouterr().err
