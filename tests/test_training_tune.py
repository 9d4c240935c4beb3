import contextlib
import csv
import itertools
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
import yaml
from accelerate import PartialState
from balls import gradient
from diffusers import FluxTransformer2DModel
from optuna.trial import TrialState
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from tiny import TRANSFORMER

from impressionism.errors import UserError
from training import __main__ as training
from training import adapter, cache, fit, tune
from training import recipe as recipes
from training.base import inject_adapter, prepare, training_batches
from training.recipe import Adapter
from training.runtime import resolve_runtime

HERE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(6):
        random = np.random.default_rng(index)
        image = Image.new("RGB", (32, 32), tuple(random.integers(0, 256, 3).tolist()))
        ImageDraw.Draw(image).ellipse((6, 6, 25, 25), fill=tuple(random.integers(0, 256, 3).tolist()))
        image.save(folder / f"{index}.png")
    lines = [json.dumps({"file_name": f"{index}.png", "text": f"a ball, {index}"}) for index in range(6)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def recipe_file(tiny_flux, pictures, tmp_path):
    """Six trials of eight steps, half of which stop after two or four; one cache for all tests."""
    path = tmp_path / "tiny.yaml"
    path.write_text(f"""
        model: {{base: {tiny_flux}, quantize: nf4, device: cpu}}
        data: {{source: {pictures}, resolution: 32, held_out: 0.2}}
        adapter: {{rank: 4, targets: attention}}
        optimizer: {{steps: 20, train_batch_size: 2, learning_rate: 1e-3}}
        tune: {{trials: 6, steps: 8, rungs: 2, ranks: [2, 4], learning_rates: [1e-4, 3e-2],
                targets: [attention, style]}}
        run: {{folder: {tmp_path / "run"}, cache: {pictures.with_name(pictures.name + "-cache")}}}
    """)
    return path


def study_in(run: Path) -> optuna.Study:
    return optuna.load_study(study_name=run.name, storage=f"sqlite:///{run / 'tune' / 'study.db'}")


def done(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED])


def until(holds, seconds: float = 300) -> None:
    """Wait for what another process or thread does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def has_trial(run: Path, number: int, *states: str):
    """A question for `until`: whether the trial of this number has all its numbers and is in one of the states."""
    query = "SELECT state, count(*) FROM trials JOIN trial_params USING (trial_id) WHERE number = ?"

    def holds() -> bool:
        try:
            with contextlib.closing(sqlite3.connect(f"file:{run}/tune/study.db?mode=ro", uri=True)) as database:
                state, numbers = database.execute(query, [number]).fetchone()
        except sqlite3.OperationalError:  # the database is still being made, and not by this look at it
            return False
        return state in states and numbers == 6

    return holds


@contextlib.contextmanager
def meanwhile(what):
    """What a thread does to the worker in this one; it may fail the test."""
    with ThreadPoolExecutor() as pool:
        future = pool.submit(what)
        yield
        future.result()


@contextlib.contextmanager
def other_worker(recipe_file: Path, *overrides: str):
    """Another process, as a second terminal would start it."""
    command = [sys.executable, "-m", "training", "tune", str(recipe_file), *overrides]
    worker = subprocess.Popen(command, cwd=HERE)
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


def test_a_study_stops_trials_early_comes_out_the_same_again_and_its_best_recipe_too(recipe_file, tmp_path, capsys):
    arguments = ["tune", str(recipe_file), "optimizer.ema=0.5"]
    assert training.main(arguments) == 0
    assert training.main([*arguments, f"run.folder={tmp_path / 'again' / 'run'}"]) == 0
    assert "0 of 6 trials are done, 6 are left" in capsys.readouterr().err
    first, second = study_in(tmp_path / "run"), study_in(tmp_path / "again" / "run")
    states = [trial.state for trial in first.trials]
    assert len(states) == 6 and TrialState.PRUNED in states and TrialState.COMPLETE in states
    assert {trial.last_step for trial in first.trials if trial.state == TrialState.PRUNED} <= {2, 4}
    for one, other in zip(first.trials, second.trials, strict=True):
        assert (one.params, one.values, one.state) == (other.params, other.values, other.state)
    assert len({json.dumps(trial.params) for trial in first.trials}) == 6
    own = recipes.read(recipe_file)
    assert first.trials[0].params["adapter.rank"] == own.adapter.rank
    assert first.trials[0].params["optimizer.learning_rate"] == own.optimizer.learning_rate

    folder, best = tmp_path / "run" / "tune", first.best_trial
    recipe = recipes.read(folder / "best.yaml", ["optimizer.steps=8"])
    assert tune.numbers_of(recipe) == best.params
    written = yaml.safe_load((folder / "best.yaml").read_text())
    assert written["optimizer"]["steps"] == 20 and "tune" not in written
    record = fit.fit(recipe)
    assert record.name == "run-tuned"
    assert record.validation_loss / record.base_validation_loss == pytest.approx(best.value, rel=1e-5)

    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert [int(row["trial"]) for row in rows] == list(range(6))
    assert float(rows[best.number]["change"]) == best.value - 1
    report = (folder / "report.html").read_text()
    assert f"Trial {best.number} is the best" in report and report.count("data:image/png") == 2
    assert "://" not in report


def test_the_report_says_which_number_mattered_and_that_no_trial_beat_the_base(recipe_file):
    recipe = recipes.read(recipe_file)
    study = optuna.create_study(study_name="<reeds>", sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(tune.ENOUGH):
        trial = study.ask()
        score = 1 + abs(np.log(tune.suggest(trial, recipe.tune)["optimizer.learning_rate"] / 3e-3)) / 10
        trial.report(score, 8)
        study.tell(trial, score)
    page = tune.report(study, recipe)
    assert "&lt;reeds&gt;" in page and "<reeds>" not in page and "No trial beat the base" in page
    shares = {path: int(share) for path, share in re.findall(r"<th>([\w.]+)</th>.*<td>(\d+) %</td>", page)}
    assert max(shares, key=shares.__getitem__) == "optimizer.learning_rate" and len(shares) == 6


def test_the_base_is_loaded_once_and_a_finished_study_needs_none(recipe_file, tiny_flux, tmp_path, capsys):
    """Its weights are taken away after the first trial."""
    pipe = shutil.copytree(tiny_flux, tmp_path / "flux")
    arguments = ["tune", str(recipe_file), f"model.base={pipe}", "model.modulation_bank=false", "tune.trials=3"]

    def take_away():
        until(has_trial(tmp_path / "run", 0, "COMPLETE"))
        assert not done(study_in(tmp_path / "run"))[2:]
        shutil.rmtree(pipe / "transformer")

    with meanwhile(take_away):
        assert training.main(arguments) == 0
    assert not (pipe / "transformer").exists() and len(done(study_in(tmp_path / "run"))) == 3
    assert training.main(arguments) == 0
    assert "3 of 3 trials are done, 0 are left" in capsys.readouterr().err
    assert training.main([*arguments, "tune.trials=4"]) == 2  # there is one to do, and no base


def test_the_trial_of_a_killed_worker_is_run_again_and_finished_ones_are_kept(recipe_file, tmp_path, monkeypatch):
    with other_worker(recipe_file, "tune.steps=40", "tune.trials=4"):
        until(has_trial(tmp_path / "run", 2, "RUNNING"))
    before = study_in(tmp_path / "run").trials
    assert [trial.state for trial in before[2:]] == [TrialState.RUNNING]

    monkeypatch.setattr(tune, "HEARTBEAT", 1)  # it counts as lost after four seconds
    time.sleep(5)
    assert training.main(["tune", str(recipe_file), "tune.steps=40", "tune.trials=4"]) == 0
    after = study_in(tmp_path / "run").trials
    assert after[:2] == before[:2] and after[2].state == TrialState.FAIL
    assert len(done(study_in(tmp_path / "run"))) == 4 and len(after) == 5
    [again] = [trial for trial in after if trial.system_attrs.get("failed_trial") == 2]
    assert again.params == after[2].params and again.state in (TrialState.COMPLETE, TrialState.PRUNED)


def test_two_workers_share_a_study_and_neither_loses_nor_doubles_a_trial(recipe_file, tmp_path):
    arguments = ["tune.trials=8", "tune.rungs=1"]
    with other_worker(recipe_file, *arguments) as worker:
        until(has_trial(tmp_path / "run", 0, "RUNNING", "COMPLETE"))
        assert training.main(["tune", str(recipe_file), *arguments]) == 0
        assert worker.wait(300) == 0
    trials = done(study_in(tmp_path / "run"))
    assert len(trials) in (8, 9) and len({json.dumps(trial.params) for trial in trials}) == len(trials)
    assert len({trial.user_attrs["worker"] for trial in trials}) == 2
    spans = sorted((trial.datetime_start, trial.datetime_complete) for trial in trials)
    assert any(later[0] < earlier[1] for earlier, later in itertools.pairwise(spans))


def test_a_worker_that_counted_as_lost_gives_its_trial_up(recipe_file, monkeypatch):
    recipe = recipes.read(recipe_file)
    train_step = tune.train_step

    def declared_lost(*arguments):
        study_in(recipe.run.folder).tell(0, state=TrialState.FAIL)
        monkeypatch.setattr(tune, "train_step", train_step)
        return train_step(*arguments)

    monkeypatch.setattr(tune, "train_step", declared_lost)
    with pytest.raises(SystemExit, match="trial 0 is run again by another one; start the same command again"):
        tune.tune(recipe)
    assert [trial.state for trial in study_in(recipe.run.folder).trials] == [TrialState.FAIL]


def test_sigterm_leaves_in_the_middle_of_a_trial_which_the_next_start_runs_again(recipe_file, tmp_path, capsys):
    arguments = ["tune", str(recipe_file), "tune.trials=2", "tune.steps=40"]

    def terminate():
        until(has_trial(tmp_path / "run", 0, "RUNNING"))
        os.kill(os.getpid(), signal.SIGTERM)

    with meanwhile(terminate):
        assert training.main(arguments) == training.STOPPED
    assert "left with 2 trials to do; the same command goes on from there" in capsys.readouterr().err
    assert training.main(arguments) == 0
    failed, again, _ = study_in(tmp_path / "run").trials
    assert failed.state == TrialState.FAIL and again.state == TrialState.COMPLETE and again.params == failed.params


def test_a_trial_that_diverges_is_done_and_says_why(recipe_file, tmp_path, capsys):
    changes = [f"run.cache={tmp_path / 'cache'}", "tune.trials=2"]
    recipe = recipes.read(recipe_file, changes)
    base = prepare(recipe)
    for example in base.trained_on:
        file = base.kept.latents_file(example)
        cache._write(file, {name: tensor * torch.nan for name, tensor in load_file(file).items()})
    assert training.main(["tune", str(recipe_file), *changes]) == 0
    trials = study_in(tmp_path / "run").trials
    assert [trial.state for trial in trials] == [TrialState.PRUNED] * 2
    assert trials[0].user_attrs["why"] == "diverged at step 1"
    assert "no trial came to its end" in capsys.readouterr().err
    assert not (tmp_path / "run" / "tune" / "best.yaml").exists()
    assert "diverged at step 1" in (tmp_path / "run" / "tune" / "report.html").read_text()


def test_with_every_among_the_targets_no_trial_misses_the_modulation(recipe_file):
    assert tune.Worker.start(recipes.read(recipe_file), []).base.modulation is not None
    recipe = recipes.read(recipe_file, ["tune.targets=[attention, every]"])
    base = tune.Worker.start(recipe, []).base
    weights = inject_adapter(base, tune.lay_over(recipe, {"adapter.targets": "every"}))
    assert base.modulation is None and any("norm1.linear" in name for name in weights)


def test_a_new_adapter_leaves_nothing_of_the_one_before(recipe_file):
    """A base that carried another one gives the same numbers as a fresh one."""
    recipe = recipes.read(recipe_file, ["model.gradient_checkpointing=1", "model.offload=1"])
    other = tune.lay_over(recipe, {"adapter.targets": "all", "adapter.rank": 8})
    used, fresh = prepare(recipe), prepare(recipe)
    old = inject_adapter(used, other)
    for weight in old.values():
        weight.data += 1
    now, expected = inject_adapter(used, recipe), inject_adapter(fresh, recipe)
    assert now.keys() == expected.keys() and all(torch.equal(now[name], expected[name]) for name in now)
    assert not {id(weight) for weight in old.values()} & {id(weight) for weight in used.transformer.parameters()}
    assert [n for n, _ in used.transformer.named_parameters()] == [n for n, _ in fresh.transformer.named_parameters()]
    losses = [gradient(base, recipe, next(training_batches(base, recipe))) for base in (used, fresh)]
    assert losses[0] == losses[1]
    assert all(torch.equal(now[name].grad, expected[name].grad) for name in now)


def test_an_adapter_on_an_offloaded_layer_lies_where_the_layer_computes():
    transformer = FluxTransformer2DModel(**TRANSFORMER).to("meta")
    waiting = transformer.single_transformer_blocks[1].attn.to_q
    waiting.weight = torch.nn.Parameter(torch.zeros(waiting.weight.shape))
    adapter.add(transformer, Adapter(rank=2, targets="attention"), seed=0)
    assert {weight.device.type for weight in adapter.trained(transformer).values()} == {"meta"}


@pytest.mark.parametrize("changes, sentence", [
    (["data.held_out=0"], "set data.held_out above 0"),
    (["optimizer.lr_warmup_steps=8"], "optimizer.lr_warmup_steps (8) should be shorter than tune.steps (8)"),
    (["tune.ranks=[0]"], "tune.ranks.0: should be greater than or equal to 1, not 0"),
    (["tune.ranks=[4, 4]"], "tune.ranks: should name at least one choice, and none twice, not [4, 4]"),
    (["tune.learning_rates=[1e-3, 1e-4]"], "tune.learning_rates: should be the least and the greatest"),
    (["tune.caption_dropout=[0, 2]"], "tune.caption_dropout.1: should be less than or equal to 1, not 2"),
    (["tune.shifts=[-1]"], 'tune.shifts.0: should be a number above 0 or "resolution", not -1'),
    (["tune.steps=3"], "steps (3) should be at least 4 to be halved 2 times"),
    (["tune.ranks=[4]", "tune.learning_rates=[1e-3, 1e-3]", "tune.targets=[all]", "tune.sigmas=[uniform]",
      "tune.shifts=[1]", "tune.caption_dropout=[0, 0]"], "should leave something to search: the space has one point"),
    (["tune.storage=sqlite:////nowhere/study.db"], "The database of tune.storage cannot be opened"),
    (["tune.storage=postgresql://monet:secret@127.0.0.1:1/tune"], "The database of tune.storage cannot be opened"),
    (["tune.storage=nothing"], "The database of tune.storage cannot be opened"),
])  # fmt: skip
def test_what_cannot_be_searched_is_refused_in_one_sentence(recipe_file, capsys, changes, sentence):
    assert training.main(["tune", str(recipe_file), *changes]) == 2
    said = capsys.readouterr().err
    assert sentence in said and "Traceback" not in said and "secret" not in said


def test_a_study_of_another_recipe_is_refused_but_a_longer_one_goes_on(recipe_file):
    recipe = recipes.read(recipe_file)
    tune.open_study(recipe)
    with pytest.raises(UserError, match=r"optimizer.train_batch_size is 2 there and 1 here; set run.folder"):
        tune.open_study(recipes.read(recipe_file, ["optimizer.train_batch_size=1"]))
    with pytest.raises(UserError, match=r"adapter.ranks is {} there and {'to_q': 2} here"):
        tune.open_study(recipes.read(recipe_file, ["adapter.ranks={to_q: 2}"]))
    tune.open_study(recipes.read(recipe_file, ["tune.trials=9", "optimizer.learning_rate=0.5", "preview.every=3"]))


def test_several_processes_are_told_to_be_workers(recipe_file, monkeypatch):
    resolve_runtime(recipes.read(recipe_file).model)
    monkeypatch.setattr(PartialState(), "num_processes", 2)
    with pytest.raises(UserError, match="start `python -m training tune` once for each GPU"):
        tune.tune(recipes.read(recipe_file))
