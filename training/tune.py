"""Searches a recipe's best numbers on a base that stays in memory: python -m training tune RECIPE.yaml

An Optuna study in a database. Start the command once for each GPU, on this machine or, with tune.storage, on several:
the workers share its trials. A trial puts a new adapter on the base, sees the same pictures and noise as every other,
and is judged by its held-out loss relative to the base's; at each rung the worse half stops (successive halving).
"""

import math
import os
import platform
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import jinja2
import numpy as np
import optuna
import sqlalchemy
import torch
import yaml
from optuna.trial import FrozenTrial, Trial, TrialState
from tqdm import tqdm

from impressionism import plots
from impressionism.errors import UserError
from impressionism.files import data_url, write_atomic
from training import adapter, validation
from training.base import TrainingContext, inject_adapter, prepare, training_batches
from training.batches import MicroBatch
from training.examples import say
from training.fit import leave_on_signals, new_state, train_step
from training.recipe import TrainingConfig, Tune, differences
from training.runtime import resolve_runtime

HEARTBEAT = 30  # s between a running trial's signs of life; after four without one it counts as lost
ENOUGH = 15  # finished trials for their importance: PED-ANOVA wants at least five among the best third
CHOICES = {"adapter.rank": "ranks", "adapter.targets": "targets", "flow.sigmas": "sigmas", "flow.shift": "shifts"}
SPANS = {"optimizer.learning_rate": "learning_rates", "data.caption_dropout": "caption_dropout"}
FREE = (  # sections and keys in which the workers of a study may differ: none of them changes a trial
    "curate", "caption", "preview", "log", "model.device", "model.keep_quantized", "optimizer.steps", "run.folder",
    "run.cache", "run.log_every", "run.validate_every", "run.checkpoint_every", "run.keep", "run.save",
    "tune.trials", "tune.storage", *CHOICES, *SPANS,
)  # fmt: skip
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class Left(Exception):
    """The worker was told to leave in the middle of a trial."""


def tune(recipe: TrainingConfig) -> bool:
    """Run what is left of the study; false if told to leave by SIGTERM or Ctrl-C. Where several workers are at the
    last trials, each finishes its own, so there may be a few more than tune.trials."""
    _check(recipe)
    study, wanted = open_study(recipe), recipe.tune.trials
    done = len(study.get_trials(deepcopy=False, states=DONE))
    say(f"{_folder(recipe)}: {done} of {wanted} trials are done, {max(0, wanted - done)} are left.")
    if done < wanted:
        with leave_on_signals() as received:
            worker = Worker.start(recipe, received)
            enough = optuna.study.MaxTrialsCallback(wanted, states=DONE)
            study.optimize(worker.run, catch=(Left,), callbacks=[worker.after, enough])
    _write(study, recipe)
    return _conclude(study, recipe)


def _check(recipe: TrainingConfig) -> None:
    """What pydantic does not see: it would only come out after the base is loaded."""
    options, warmup = recipe.tune, recipe.optimizer.lr_warmup_steps
    if not recipe.data.held_out:
        raise UserError("A trial is judged by held-out pictures: set data.held_out above 0.")
    if warmup >= options.steps:
        raise UserError(f"optimizer.lr_warmup_steps ({warmup}) should be shorter than tune.steps ({options.steps}).")
    if resolve_runtime(recipe.model).world > 1:
        raise UserError("A trial runs in one process: start `python -m training tune` once for each GPU instead.")


def _folder(recipe: TrainingConfig) -> Path:
    return recipe.run.folder / "tune"


# ---- The study


def open_study(recipe: TrainingConfig) -> optuna.Study:
    """The study of this name: made, or found as another worker left it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of the heartbeat, from 2021
    folder, name = _folder(recipe), recipe.run.folder.name
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock"):  # two processes cannot make the tables at once
        study = optuna.create_study(
            storage=_open_storage(recipe), study_name=name, direction="minimize", load_if_exists=True,
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=rungs(recipe.tune)[0], reduction_factor=2),
        )  # fmt: skip
        if "recipe" not in study.user_attrs:
            study.set_user_attr("recipe", recipe.model_dump(mode="json", exclude={"tune": {"storage"}}))
            if own := own_numbers(recipe):
                study.enqueue_trial(own, user_attrs={"own": True})
        written = TrainingConfig.model_validate(study.user_attrs["recipe"])
        if different := differences(written, recipe, besides=FREE):
            raise UserError(
                f"The study {name} is of another recipe: {'; '.join(different)}; set run.folder, or remove {folder}."
            )
        workers = study.user_attrs.get("workers", 0)  # each draws others, as does one that goes on
        study.set_user_attr("workers", workers + 1)
        study.sampler = optuna.samplers.TPESampler(seed=recipe.run.seed + workers)
    return study


def _open_storage(recipe: TrainingConfig) -> optuna.storages.RDBStorage:
    url = recipe.tune.storage or f"sqlite:///{_folder(recipe) / 'study.db'}"
    try:
        return optuna.storages.RDBStorage(
            url,
            engine_kwargs={"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {},
            heartbeat_interval=HEARTBEAT, grace_period=4 * HEARTBEAT,
            # once: a trial may be what its worker died of
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=1),
        )  # fmt: skip
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, RuntimeError) as error:
        reason = " ".join(str(getattr(error, "orig", error) or error).split())
        raise UserError(  # without the URL, which may hold a password
            f"The database of tune.storage cannot be opened ({reason}): set it to a URL such as sqlite:///tune.db, "
            "or leave it out."
        ) from None


def rungs(options: Tune) -> list[int]:
    """The steps after which the worse half stops."""
    first = options.steps // 2**options.rungs
    return [first * 2**rung for rung in range(options.rungs)]


def suggest(trial: Trial, options: Tune) -> dict[str, Any]:
    """This trial's numbers, by their path in the recipe."""
    choices = {path: trial.suggest_categorical(path, getattr(options, key)) for path, key in CHOICES.items()}
    spans = {
        path: trial.suggest_float(path, *getattr(options, key), log=key == "learning_rates")
        for path, key in SPANS.items()
    }
    return choices | spans


def numbers_of(recipe: TrainingConfig) -> dict[str, Any]:
    """The recipe's own, by their paths."""
    paths = [path.split(".") for path in (*CHOICES, *SPANS)]
    return {f"{section}.{key}": getattr(getattr(recipe, section), key) for section, key in paths}


def own_numbers(recipe: TrainingConfig) -> dict[str, Any] | None:
    """They are the first trial where they lie in the space."""
    values = numbers_of(recipe)
    ranges = {path: getattr(recipe.tune, key) for path, key in SPANS.items()}
    chosen = all(values[path] in getattr(recipe.tune, key) for path, key in CHOICES.items())
    within = all(low <= values[path] <= high for path, (low, high) in ranges.items())
    return values if chosen and within else None


def lay_over(recipe: TrainingConfig, numbers: dict[str, Any]) -> TrainingConfig:
    values = recipe.model_dump()
    for path, value in numbers.items():
        section, key = path.split(".")
        values[section][key] = value
    return TrainingConfig.model_validate(values)


# ---- A trial


@dataclass(frozen=True)
class Worker:
    """One process with the base in memory."""

    base: TrainingContext
    recipe: TrainingConfig
    held_out: list[MicroBatch]
    before: float
    """The base's held-out loss."""
    received: list[int]
    """Signals to leave."""

    @classmethod
    def start(cls, recipe: TrainingConfig, received: list[int]) -> "Worker":
        base = prepare(recipe, bank=recipe.model.modulation_bank and "every" not in recipe.tune.targets)
        held_out = validation.held_out_batches(base, recipe)
        inject_adapter(base, recipe)  # the frozen layers as every trial has them
        adapter.switch(base.transformer, False)
        return cls(base, recipe, held_out, validation.score(base, held_out, recipe).mean, received)

    def run(self, trial: Trial) -> float:
        """Train the trial's adapter; its held-out loss in parts of the base's."""
        try:
            trial.set_user_attr("worker", f"{platform.node()}:{os.getpid()}")
            numbers = suggest(trial, self.recipe.tune) | {"optimizer.steps": self.recipe.tune.steps}
            return self.train(lay_over(self.recipe, numbers), trial)
        except torch.OutOfMemoryError:
            return _stop(trial, "out of memory")
        except optuna.exceptions.UpdateFinishedTrialError:  # Optuna would tell an Exception to the finished trial
            raise SystemExit(
                f"This worker gave no sign of life for {4 * HEARTBEAT} s, so trial {trial.number} is run again by "
                "another one; start the same command again."
            ) from None

    def train(self, recipe: TrainingConfig, trial: Trial) -> float:
        base, options = self.base, recipe.optimizer
        state = new_state(base, recipe)
        score, stops = math.nan, rungs(recipe.tune)
        bar = tqdm(training_batches(base, recipe), desc=f"trial {trial.number}", total=options.steps, leave=False)
        for step, batches in enumerate(bar, start=1):
            if self.received:
                raise Left
            if not math.isfinite(train_step(base, recipe, state, batches, step - 1).grad_norm):
                return _stop(trial, f"diverged at step {step}")
            if step not in (*stops, options.steps):
                continue
            with state.ema_weights():
                score = validation.score(base, self.held_out, recipe).mean / self.before
            if not math.isfinite(score):
                return _stop(trial, f"diverged by step {step}")
            trial.report(score, step)
            if step in stops and trial.should_prune():
                return _stop(trial, f"stopped after {step} steps")
        return score

    def after(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Tell of the trial; one that was left in the middle is queued again."""
        if trial.state == TrialState.FAIL:
            study.enqueue_trial(trial.params, user_attrs={key: True for key in trial.user_attrs if key == "own"})
        else:
            how = " ".join(f"{path}={_rounded(value)}" for path, value in trial.params.items())
            say(f"trial {trial.number}: {outcome(trial)} ({how})")
        if self.received:
            study.stop()
        _write(study, self.recipe)


def _stop(trial: Trial, why: str) -> float:
    """The trial is done, and the sampler learns to stay away from its numbers."""
    trial.set_user_attr("why", why)
    raise optuna.TrialPruned


# ---- The results


def outcome(trial: FrozenTrial) -> str:
    """In words; `value` is that of the last rung where the trial was stopped."""
    loss = f"held-out loss {trial.value - 1:+.2%} against the base's" if trial.value is not None else ""
    return ", ".join(filter(None, (trial.user_attrs.get("why"), loss)))


def _rounded(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _best(study: optuna.Study) -> FrozenTrial | None:
    finished = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return min(finished, key=lambda trial: (trial.value, trial.number), default=None)


def _write(study: optuna.Study, recipe: TrainingConfig) -> None:
    """report.html, trials.csv and best.yaml, as the study stands."""
    folder, best = _folder(recipe), _best(study)
    write_atomic(folder / "trials.csv", _table(study).to_csv(index=False))
    write_atomic(folder / "report.html", report(study, recipe))
    if best:
        write_atomic(folder / "best.yaml", best_recipe(recipe, best))


def _table(study: optuna.Study) -> Any:
    """A row for each trial; `change` is its last held-out loss relative to the base's, less 1."""
    rows = study.trials_dataframe(attrs=("number", "state", "value", "params", "duration", "user_attrs"))
    rows = rows.rename(columns=lambda name: name.removeprefix("params_").removeprefix("user_attrs_"))
    rows["seconds"] = rows.pop("duration").astype("timedelta64[ns]").dt.total_seconds().round(1)
    return rows.assign(value=rows["value"] - 1).rename(columns={"number": "trial", "value": "change"})


def report(study: optuna.Study, recipe: TrainingConfig) -> str:
    """One HTML file with plots, which needs no network."""
    best, states = _best(study), [trial.state for trial in study.get_trials(deepcopy=False)]
    finished, importance = states.count(TrialState.COMPLETE), {}
    if finished >= ENOUGH:
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=1 / 3)
        importance = optuna.importance.get_param_importances(study, evaluator=evaluator)
    template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(
        Path(__file__).with_name("tune_report.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        study=study.study_name, best=best, outcome=outcome, rounded=_rounded, recipe=numbers_of(recipe),
        finished=finished, stopped=states.count(TrialState.PRUNED), importance=importance,
        plots=[data_url(image, "png") for image in _plots(study)],
        table=_table(study).to_html(index=False, na_rep="", border=0, float_format="{:.4g}".format),
        command=f"python -m training fit {_folder(recipe) / 'best.yaml'}",
    )  # fmt: skip


def _plots(study: optuna.Study) -> list[bytes]:
    """The held-out loss by step, and at the end by each number; what went astray is drawn at the upper edge."""
    trials = [trial for trial in study.get_trials(deepcopy=False, states=DONE) if trial.value is not None]
    if not trials:
        return []
    best, changes = _best(study), [100 * ((trial.value or 0) - 1) for trial in trials]
    colours = [plots.ORANGE if best and trial.number == best.number else plots.BLUE for trial in trials]
    top = max(2.0, float(np.quantile(changes, 0.9)))
    by_step, axes = plots.canvas()
    for trial, colour in zip(trials, colours, strict=True):
        reached = {0: 1.0} | trial.intermediate_values
        axes.plot(reached.keys(), [100 * (value - 1) for value in reached.values()], color=colour, linewidth=1)
    axes.set(xlabel="step", ylabel="held-out loss against the base's, %", ylim=(None, top))
    by_number, axes = plots.canvas(height=5, width=10)
    axes.remove()
    for name, axes in zip(trials[0].params, by_number.subplots(2, 3, sharey=True).flat, strict=True):
        values = [trial.params[name] for trial in trials]
        values = [str(value) for value in values] if any(isinstance(value, str) for value in values) else values
        axes.scatter(values, np.minimum(changes, top), c=colours, s=16)
        axes.set_xlabel(name)
        if name == "optimizer.learning_rate":
            axes.set_xscale("log")
            axes.tick_params(axis="x", which="minor", labelbottom=False)
    return [plots.png(figure, legend=False) for figure in (by_step, by_number)]


def best_recipe(recipe: TrainingConfig, best: FrozenTrial) -> str:
    """The recipe with the best numbers, for a run of its own; without the search, whose storage may be secret."""
    folder = recipe.run.folder
    run = recipe.run.model_copy(update={"folder": folder.with_name(f"{folder.name}-tuned")})
    values = lay_over(recipe, best.params).model_copy(update={"run": run}).model_dump(mode="json", exclude={"tune"})
    head = f"# Trial {best.number} of the study {folder.name}: {outcome(best)}.\n"
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)


def _conclude(study: optuna.Study, recipe: TrainingConfig) -> bool:
    folder, best = _folder(recipe), _best(study)
    left = recipe.tune.trials - len(study.get_trials(deepcopy=False, states=DONE))
    if left > 0:
        say(f"{folder}: left with {left} trials to do; the same command goes on from there.")
        return False
    if best is None:
        say(f"{folder}: done, but no trial came to its end; lower tune.learning_rates. See {folder / 'report.html'}.")
        return True
    say(f"{folder}: done. The best is trial {best.number}, {outcome(best)}; see {folder / 'report.html'}.")
    say(f"Train with its numbers: python -m training fit {folder / 'best.yaml'}")
    return True
