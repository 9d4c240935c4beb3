import json
import os
import shutil
import signal

import numpy as np
import prodigyopt
import pytest
import torch
from balls import draw, gradient, paint, weights_of
from diffusers import FluxPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from impressionism.errors import UserError
from impressionism.records import Run
from training import __main__ as training
from training import cache, checkpoint, fit
from training import recipe as recipes
from training.base import prepare, training_batches
from training.recipe import Optimizer, TrainingConfig


def test_the_straight_line_from_pictures_to_a_changed_picture(tiny_flux, recipe_file, tmp_path, capsys):
    assert training.main(["cache", str(recipe_file)]) == 0
    assert training.main(["fit", str(recipe_file), "optimizer.learning_rate=0.02"]) == 0
    run = tmp_path / "run"
    files = {path.name for path in run.iterdir()}
    assert files == {".lock", "recipe.yaml", "log.jsonl", "tensorboard", "checkpoints", "adapter", "run.json"}
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000004", "step-000008"]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "loss" in line] == [2, 4, 6, 8]
    assert [line["step"] for line in log if "validation" in line] == [4, 8]
    assert recipes.read(run / "recipe.yaml").optimizer.learning_rate == 0.02
    record = Run.from_json((run / "run.json").read_text())
    assert record.steps == 8 and record.trained_parameters == sum(w.numel() for w in weights_of(run).values())
    assert record.validation_loss != record.base_validation_loss

    pipe = FluxPipeline.from_pretrained(tiny_flux, dtype=torch.float32)
    before = paint(pipe)
    pipe.load_lora_weights(run / "adapter")
    assert np.abs(paint(pipe) - before).max() > 0.01

    capsys.readouterr()
    assert training.main(["fit", str(recipe_file), "optimizer.learning_rate=0.02"]) == 0
    assert "finished after 8 steps, the adapter is in" in capsys.readouterr().err
    assert training.main(["fit", str(recipe_file)]) == 2
    assert "optimizer.learning_rate is 0.02 there and 0.001 here" in capsys.readouterr().err


@pytest.mark.parametrize("options", [
    ["optimizer.name=adamw", "optimizer.gradient_accumulation_steps=2"],
    ["optimizer.name=adamw8bit", "adapter.rank=64", "adapter.targets=every"],
    ["model.quantize=int8", "model.gradient_checkpointing=true", "optimizer.ema=0.9"],
    ["model.quantize=none", "adapter.targets=style", "flow.weighting=cosmap", "data.resolution=[32, 64]"],
    ["model.quantize=int4", "optimizer.name=prodigy", "optimizer.learning_rate=1"],
    ["model.quantize=int2", "model.modulation_bank=false", "optimizer.lr_scheduler=linear"],
    ["model.quantize=fp8", "model.gradient_checkpointing=2"],
    ["model.offload=1", "run.save=best"],
])  # fmt: skip
def test_a_stopped_and_resumed_run_is_the_same_bit_for_bit(recipe_file, tmp_path, options):
    whole = recipes.read(recipe_file, [*options, f"run.folder={tmp_path / 'whole'}"])
    parts = recipes.read(recipe_file, [*options, f"run.folder={tmp_path / 'parts'}"])
    fit.fit(whole)
    assert fit.fit(parts, until=3) is False
    torch.rand(5)  # the global generator is somewhere else after a restart
    record = fit.fit(parts)
    expected = weights_of(tmp_path / "whole")
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(tmp_path / "parts").items())
    assert record and record.validation_loss == fit.fit(whole).validation_loss
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 4, 6, 8, 8]


def test_sigterm_saves_and_leaves(recipe_file, tmp_path, monkeypatch, capsys):
    train_step = fit.train_step

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return train_step(*arguments)

    monkeypatch.setattr(fit, "train_step", interrupted)
    assert training.main(["fit", str(recipe_file)]) == training.STOPPED
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]
    assert "saved step 1 and left" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_one_picture_is_learnt(recipe_file, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    draw(0).save(folder / "ball.png")
    changes = [
        f"data.source={folder}",
        "data.instance_prompt=a ball",
        "data.held_out=0",
        "optimizer.steps=60",
        "optimizer.learning_rate=0.01",
        "optimizer.train_batch_size=8",
        "run.log_every=20",
    ]
    record = fit.fit(recipes.read(recipe_file, changes))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert record and record.validation_loss is None


def test_a_gradient_that_is_no_number_ends_the_run_names_the_pictures_and_keeps_the_last_good_state(
    recipe_file, tmp_path
):
    recipe: TrainingConfig = recipes.read(recipe_file, [f"run.cache={tmp_path / 'cache'}"])
    fit.fit(recipe, until=3)
    kept, usable = cache.fill(recipe)
    for example in usable:
        entry = load_file(kept.latents_file(example))
        cache._write(kept.latents_file(example), {name: tensor * torch.nan for name, tensor in entry.items()})
    with pytest.raises(UserError, match=r"step after .*step-000003 is not finite \(pictures: \d.png, \d.png\)"):
        fit.fit(recipe)
    [last] = (tmp_path / "run" / "checkpoints").iterdir()
    assert last.name == "step-000003"
    assert all(torch.isfinite(weight).all() for weight in load_file(last / checkpoint.WEIGHTS_FILE).values())


def test_a_run_whose_pictures_changed_meanwhile_does_not_go_on(recipe_file, pictures, tmp_path):
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    recipe = recipes.read(recipe_file, [f"data.source={folder}"])
    fit.fit(recipe, until=3)
    draw(99).save(folder / "more.png")
    (folder / "more.txt").write_text("one more ball")
    with pytest.raises(UserError, match="a change of pictures and captions; undo it"):
        fit.fit(recipe)
    (folder / "more.png").unlink()
    assert fit.fit(recipe)


def test_what_changes_no_number_may_change_in_the_middle(recipe_file):
    fit.fit(recipes.read(recipe_file), until=3)
    assert fit.fit(recipes.read(recipe_file, ["run.keep=1", "run.log_every=3", "tune.trials=3"]))


def test_a_run_goes_on_after_its_folder_moved_and_the_bases_page_on_the_hub_changed(
    recipe_file, hub, tiny_flux, tmp_path
):
    hub.add_repo("monet/flux", tiny_flux)
    fit.fit(recipes.read(recipe_file, ["model.base=monet/flux"]), until=3)
    hub.commit(
        "monet/flux",
        hub.files("monet/flux") | {"model_index.json": (tiny_flux / "model_index.json").read_bytes() + b" "},
    )
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    moved = ["model.base=monet/flux", f"run.folder={tmp_path / 'elsewhere'}"]
    assert fit.fit(recipes.read(recipe_file, moved))


def test_an_adapters_file_names_the_trigger_only_where_captions_began_with_it(recipe_file, tmp_path):
    for trigger, expected in (("a ball", "a ball"), ("an impressionist painting of", None)):
        folder = tmp_path / (expected or "without")
        options = [
            f"data.trigger={trigger}",
            "optimizer.steps=1",
            "optimizer.lr_warmup_steps=0",
            f"run.folder={folder}",
        ]
        fit.fit(recipes.read(recipe_file, options))
        with safe_open(folder / "adapter" / "pytorch_lora_weights.safetensors", "pt") as file:
            assert file.metadata().get("modelspec.trigger_phrase") == expected


def test_problems_are_one_sentence_and_exit_2(recipe_file, capsys):
    assert training.main(["fit", str(recipe_file), "adapter.rnk=3"]) == 2
    assert "adapter.rnk: no such key (did you mean rank?)" in capsys.readouterr().err
    assert training.main(["cache", str(recipe_file), "model.base=nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("schedule, end", [("constant", 1.0), ("cosine", 0.0), ("linear", 0.0)])
def test_the_rate_warms_up_and_then_follows_its_schedule(schedule, end):
    options = Optimizer(steps=100, lr_warmup_steps=10, lr_scheduler=schedule)
    factors = [fit.lr_factor(step, options) for step in range(101)]
    assert factors[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert factors[10] == 1 and factors[100] == pytest.approx(end)


@pytest.mark.parametrize(("name", "rate"), [("adamw", 1e-3), ("prodigy", 1.0)])
def test_the_optimizer_of_all_weights_at_once_does_what_one_of_each_would(recipe_file, name, rate):
    """But for the order in which a norm is summed; in 8 bits the blocks that share a scale are others."""
    recipe = recipes.read(recipe_file, [f"optimizer.name={name}", f"optimizer.learning_rate={rate}",
                                       "optimizer.lr_warmup_steps=0", "optimizer.lr_scheduler=constant"])  # fmt: skip
    context = prepare(recipe)
    state = fit.new_state(context, recipe)
    start = {key: weight.detach().clone() for key, weight in state.weights.items()}
    each = {key: torch.nn.Parameter(weight.clone()) for key, weight in start.items()}
    settings = {"lr": rate, "weight_decay": recipe.optimizer.weight_decay}
    alone: torch.optim.Optimizer = torch.optim.AdamW(each.values(), **settings)
    if name == "prodigy":
        alone = prodigyopt.Prodigy(each.values(), **settings, use_bias_correction=True, safeguard_warmup=True)
    steps = training_batches(context, recipe)
    for step in range(2):
        batches = next(steps)
        gradient(context, recipe, batches)
        for key, weight in state.weights.items():
            each[key].grad, weight.grad = weight.grad, None
        norm = float(torch.nn.utils.clip_grad_norm_(each.values(), recipe.optimizer.max_grad_norm))
        alone.step()
        result = fit.train_step(context, recipe, state, batches, step)
        assert result.grad_norm == pytest.approx(norm, rel=1e-4)
        moved, wanted = (
            torch.cat([(now[key] - start[key]).flatten() for key in start]) for now in (state.weights, each)
        )
        assert wanted.any()
        assert (moved - wanted).norm() < 1e-3 * wanted.norm()
    assert len({weight.untyped_storage().data_ptr() for weight in state.weights.values()}) == 1
