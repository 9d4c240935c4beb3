"""Searches a recipe's best numbers on a base that stays in memory: python -m training tune RECIPE.yaml

An Optuna study in a database. Start the command once for each GPU, on this machine or, with tune.storage, on several:
the workers share its trials. A trial puts a new adapter on the base, sees the same pictures and noise as every other,
and is judged by its held-out loss relative to the base's; at each rung the worse half stops (successive halving).
"""

import math
import os
import platform
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import optuna
import sqlalchemy
import torch
import yaml
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState
from tqdm import tqdm

from impressionism.errors import UserError
from impressionism.files import write_atomic
from training import adapter, flow, tune_report, validation
from training.base import TrainingContext, inject_adapter, prepare, training_batches
from training.batches import MicroBatch
from training.examples import say
from training.fit import leave_on_signals, new_state, train_step
from training.recipe import TrainingConfig, Tune
from training.runtime import resolve_runtime

HEARTBEAT = 30  # s between a running trial's signs of life; after four without one it counts as lost
POLL = 2  # s between two looks at the trials of other workers
CHOICES = {"adapter.rank": "ranks", "adapter.targets": "targets", "flow.sigmas": "sigmas", "flow.shift": "shifts"}
SPANS = {"optimizer.learning_rate": "learning_rates", "data.caption_dropout": "caption_dropout"}
FREE = {  # sections and keys in which the workers of a study may differ: none of them changes a trial
    "curate", "caption", "preview", "model.device", "model.keep_quantized", "optimizer.steps", "run.folder",
    "run.cache", "run.log_every", "run.validate_every", "run.checkpoint_every", "run.keep", "run.save",
    "tune.trials", "tune.storage", *CHOICES, *SPANS,
}  # fmt: skip
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class Taken(Exception):
    """Another worker took the last place while this one asked for it."""


class Left(Exception):
    """The worker was told to leave in the middle of a trial."""


class Lost(BaseException):
    """The worker was silent for so long that another one runs the trial again. Optuna would tell the storage of an
    Exception, which takes no more of this trial."""


def tune(recipe: TrainingConfig) -> bool:
    """Run what is left of the study; false if told to leave by SIGTERM or Ctrl-C."""
    _check(recipe)
    study, wanted = open_study(recipe), recipe.tune.trials
    done = len(_trials(study, *DONE))
    say(f"{_folder(recipe)}: {done} of {wanted} trials are done, {max(0, wanted - done)} are left.")
    with leave_on_signals() as received, tqdm(total=wanted, initial=done, desc="trials", disable=done >= wanted) as bar:
        worker = None
        while (done := len(_trials(study, *DONE))) < wanted and not received:
            bar.update(done - bar.n)
            optuna.storages.fail_stale_trials(study)
            if _has_place(study, wanted):
                worker = worker or Worker.start(recipe, received)
                _run_one(study, worker)
                _write(study, recipe)
            else:  # others are at work on the last trials: whoever is lost is replaced
                time.sleep(POLL)
        bar.update(done - bar.n)
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


# ---- The study: who runs what


def open_study(recipe: TrainingConfig) -> optuna.Study:
    """The study of this name: made, or found as another worker left it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of the heartbeat, from 2021
    _folder(recipe).mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(_folder(recipe) / ".lock"):  # two processes cannot make the tables at once
        name, storage = recipe.run.folder.name, _open_storage(recipe)
        how: dict[str, Any] = {
            "sampler": Sampler(recipe.run.seed),
            "pruner": optuna.pruners.SuccessiveHalvingPruner(min_resource=rungs(recipe.tune)[0], reduction_factor=2),
        }
        try:
            study = optuna.create_study(storage=storage, study_name=name, direction="minimize", **how)
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(storage=storage, study_name=name, **how)
        else:
            study.set_user_attr("recipe", _decisive(recipe))
            if own := own_numbers(recipe):
                study.enqueue_trial(own, user_attrs={"own": True})
    _refuse_another_recipe(study, recipe)
    return study


def _open_storage(recipe: TrainingConfig) -> optuna.storages.RDBStorage:
    url = recipe.tune.storage or f"sqlite:///{_folder(recipe) / 'study.db'}"
    try:
        known = sqlalchemy.make_url(url)
        return optuna.storages.RDBStorage(
            url,
            engine_kwargs={"connect_args": {"timeout": 60}} if known.get_backend_name() == "sqlite" else {},
            heartbeat_interval=HEARTBEAT, grace_period=4 * HEARTBEAT, heartbeat_stale_trial_callback=_once_more,
        )  # fmt: skip
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, RuntimeError) as error:
        reason = " ".join(str(getattr(error, "orig", error) or error).split())
        raise UserError(  # without the URL, which may hold a password
            f"The database of tune.storage cannot be opened ({reason}): set it to a URL such as sqlite:///tune.db, "
            "or leave it out."
        ) from None


def _decisive(recipe: TrainingConfig) -> dict[str, Any]:
    """All that decides a trial's result, besides its numbers."""
    sections = recipe.model_dump(mode="json")
    return {
        f"{section}.{key}": value
        for section, keys in sections.items()
        for key, value in keys.items()
        if not {section, f"{section}.{key}"} & FREE
    }


def _refuse_another_recipe(study: optuna.Study, recipe: TrainingConfig) -> None:
    here, there = _decisive(recipe), study.user_attrs.get("recipe", {})
    different = [f"{path} is {there[path]!r} there and {value!r} here"
                 for path, value in here.items() if path in there and there[path] != value]  # fmt: skip
    if different:
        raise UserError(
            f"The study {study.study_name} is of another recipe: {'; '.join(different)}; set run.folder, or remove "
            f"{_folder(recipe)}."
        )


def _trials(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=states)


def _has_place(study: optuna.Study, wanted: int) -> bool:
    """Whether a trial waits, or may be added."""
    taken = _trials(study, *DONE, TrialState.RUNNING)
    return len(taken) < wanted


def _once_more(study: optuna.Study, lost: FrozenTrial) -> None:
    """The numbers of a lost trial are tried again, once: they may be what its worker died of."""
    if lost.params and "again" not in lost.user_attrs:
        marks = {key: value for key, value in lost.user_attrs.items() if key == "own"}
        study.enqueue_trial(lost.params, user_attrs=marks | {"again": lost.number})


class Sampler(BaseSampler):
    """TPE whose draws are a function of (seed, trial): neither a resumed study nor another worker repeats them."""

    def __init__(self, seed: int):
        self.seed = seed

    def infer_relative_search_space(self, study, trial):
        return TPESampler().infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space):
        return self._for(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study, trial, param_name, param_distribution):
        return self._for(trial, param_name).sample_independent(study, trial, param_name, param_distribution)

    def _for(self, trial: FrozenTrial, *what: str) -> TPESampler:
        return TPESampler(seed=flow.generator(self.seed, "tune", trial.number, *what).initial_seed() % 2**32)


# ---- The numbers


def suggest(trial: Trial, options: Tune) -> dict[str, Any]:
    """This trial's numbers, by their path in the recipe."""
    choices = {path: trial.suggest_categorical(path, getattr(options, key)) for path, key in CHOICES.items()}
    spans = {
        path: trial.suggest_float(path, *getattr(options, key), log=key == "learning_rates")
        for path, key in SPANS.items()
    }
    return choices | spans


def own_numbers(recipe: TrainingConfig) -> dict[str, Any] | None:
    """The recipe's own, which are the first trial where they lie in the space."""
    values = {path: tune_report.value_of(recipe, path) for path in (*CHOICES, *SPANS)}
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


def rungs(options: Tune) -> list[int]:
    """The steps after which the worse half stops."""
    first = options.steps // 2**options.rungs
    return [first * 2**rung for rung in range(options.rungs)]


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
        taken = [t for t in trial.study.get_trials(deepcopy=False) if t.state != TrialState.FAIL]
        if sum(other.number < trial.number for other in taken) >= self.recipe.tune.trials:
            raise Taken
        try:
            trial.set_user_attr("worker", f"{platform.node()}:{os.getpid()}")
            numbers = suggest(trial, self.recipe.tune) | {"optimizer.steps": self.recipe.tune.steps}
            return self.train(lay_over(self.recipe, numbers), trial)
        except torch.OutOfMemoryError:
            return _give_up(trial, "out of memory")
        except optuna.exceptions.UpdateFinishedTrialError:
            raise Lost from None

    def train(self, recipe: TrainingConfig, trial: Trial) -> float:
        base, options = self.base, recipe.optimizer
        state = new_state(base, recipe)
        score, stops = math.nan, rungs(recipe.tune)
        bar = tqdm(training_batches(base, recipe), desc=f"trial {trial.number}", total=options.steps, leave=False)
        for step, batches in enumerate(bar, start=1):
            if self.received:
                raise Left
            if not math.isfinite(train_step(base, recipe, state, batches, step - 1).grad_norm):
                return _give_up(trial, f"diverged at step {step}")
            if step not in (*stops, options.steps):
                continue
            with state.ema_weights():
                score = validation.score(base, self.held_out, recipe).mean / self.before
            if not math.isfinite(score):
                return _give_up(trial, f"diverged by step {step}")
            trial.report(score, step)
            if step in stops and trial.should_prune():
                raise optuna.TrialPruned
        return score


def _give_up(trial: Trial, why: str) -> float:
    """A trial that cannot end well is done, and the sampler learns to stay away from its numbers."""
    trial.set_user_attr("why", why)
    raise optuna.TrialPruned


def _run_one(study: optuna.Study, worker: Worker) -> None:
    try:
        study.optimize(worker.run, n_trials=1, catch=(Taken, Left), callbacks=[_after])
    except Lost:
        say("This worker gave no sign of life for too long; another one runs the trial again.")


def _after(study: optuna.Study, trial: FrozenTrial) -> None:
    if trial.state == TrialState.FAIL:
        _once_more(study, trial)
    else:
        how = " ".join(f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={value}"
                       for path, value in trial.params.items())  # fmt: skip
        say(f"trial {trial.number}: {tune_report.outcome(trial)} ({how})")


# ---- The results


def _write(study: optuna.Study, recipe: TrainingConfig) -> None:
    """report.html, trials.csv and best.yaml, as the study stands."""
    folder, trials = _folder(recipe), [trial for trial in study.get_trials(deepcopy=False) if trial.params]
    best = _best(study)
    write_atomic(folder / "trials.csv", tune_report.table(trials))
    write_atomic(folder / "report.html", tune_report.page(study.study_name, trials, best, recipe))
    if best:
        write_atomic(folder / "best.yaml", best_recipe(recipe, best))


def _best(study: optuna.Study) -> FrozenTrial | None:
    return min(_trials(study, TrialState.COMPLETE), key=lambda trial: (trial.value, trial.number), default=None)


def best_recipe(recipe: TrainingConfig, best: FrozenTrial) -> str:
    """The recipe with the best numbers, for a run of its own; without the search, whose storage may be secret."""
    folder = recipe.run.folder
    run = recipe.run.model_copy(update={"folder": folder.with_name(f"{folder.name}-tuned")})
    values = lay_over(recipe, best.params).model_copy(update={"run": run}).model_dump(mode="json", exclude={"tune"})
    head = f"# Trial {best.number} of the study {folder.name}: {tune_report.outcome(best)}.\n"
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)


def _conclude(study: optuna.Study, recipe: TrainingConfig) -> bool:
    folder, best, left = _folder(recipe), _best(study), recipe.tune.trials - len(_trials(study, *DONE))
    if left > 0:
        say(f"{folder}: left with {left} trials to do; the same command goes on from there.")
        return False
    if best is None:
        say(f"{folder}: done, but no trial came to its end; lower tune.learning_rates. See {folder / 'report.html'}.")
        return True
    say(f"{folder}: done. The best is trial {best.number}, {tune_report.outcome(best)}; see {folder / 'report.html'}.")
    say(f"Train with its numbers: python -m training fit {folder / 'best.yaml'}")
    return True
