"""What `tune` found: a table of the trials, and one HTML file with plots that needs no network."""

import base64
import csv
import io
import itertools
import statistics
from pathlib import Path
from typing import Any

import optuna
from jinja2 import Environment
from optuna.trial import FrozenTrial, TrialState

from impressionism.plots import BLUE, GREY, ORANGE, canvas, png
from training.recipe import TrainingConfig

TEMPLATE = Path(__file__).with_name("tune_report.html.j2")
ENOUGH = 15  # finished trials for their importance: PED-ANOVA wants at least five among the best third
ENDS = {
    TrialState.COMPLETE: "",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "lost",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def reached(trial: FrozenTrial) -> tuple[int, float] | None:
    """(step, change): how far a trial came, and its held-out loss there relative to the base's, less 1."""
    if (step := trial.last_step) is None:
        return None
    return step, trial.intermediate_values[step] - 1


def outcome(trial: FrozenTrial) -> str:
    """In words."""
    at = reached(trial)
    if trial.state == TrialState.COMPLETE and at:
        return f"held-out loss {at[1]:+.2%} against the base's after {at[0]} steps"
    if trial.state == TrialState.PRUNED:
        stopped = f"stopped after {at[0]} steps at {at[1]:+.2%}" if at else ENDS[trial.state]
        return trial.user_attrs.get("why") or stopped
    return ENDS[trial.state]


def value_of(recipe: TrainingConfig, path: str) -> Any:
    """The recipe's own value of `section.key`."""
    section, key = path.split(".")
    return getattr(getattr(recipe, section), key)


def table(trials: list[FrozenTrial]) -> str:
    """trials.csv: `change` is the held-out loss relative to the base's, less 1, at `step`."""
    names = sorted({name for trial in trials for name in trial.params})
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["trial", "state", "step", "change", *names, "seconds", "worker", "why"])
    for trial in trials:
        step, change = reached(trial) or ("", "")
        attrs, values = trial.user_attrs, [trial.params.get(name, "") for name in names]
        rows.writerow([trial.number, trial.state.name.lower(), step, change, *values, seconds(trial),
                       attrs.get("worker", ""), attrs.get("why", "")])  # fmt: skip
    return file.getvalue()


def page(study: str, trials: list[FrozenTrial], best: FrozenTrial | None, recipe: TrainingConfig) -> str:
    """The report, of the trials that have numbers."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["value"] = lambda value: f"{value:.3g}" if isinstance(value, float) else str(value)
    judged = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and reached(trial)]
    states = [trial.state for trial in trials]
    finished, stopped = states.count(TrialState.COMPLETE), states.count(TrialState.PRUNED)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        study=study, trials=trials, best=best, recipe=recipe, value_of=value_of, outcome=outcome, reached=reached,
        seconds=seconds, ends=ENDS, finished=finished, stopped=stopped,
        left=max(0, recipe.tune.trials - finished - stopped),
        own=next((trial for trial in trials if "own" in trial.user_attrs), None),
        names=list(dict.fromkeys(name for trial in trials for name in trial.params)),
        plots=plots(judged, best) if judged else {}, importance=importance(judged),
        best_recipe=recipe.run.folder / "tune" / "best.yaml",
    )  # fmt: skip


def seconds(trial: FrozenTrial) -> str:
    return "" if trial.duration is None else f"{trial.duration.total_seconds():.1f}"


def importance(judged: list[FrozenTrial]) -> dict[str, float]:
    """Share of each number in being among the best third; nothing where too few trials are finished."""
    finished = [trial for trial in judged if trial.state == TrialState.COMPLETE]
    if len(finished) < ENOUGH:
        return {}
    study = optuna.create_study()
    study.add_trials(finished)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=1 / 3)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def plots(judged: list[FrozenTrial], best: FrozenTrial | None) -> dict[str, str]:
    """Title → a PNG as a data URL."""
    changes = [value - 1 for trial in judged for value in trial.intermediate_values.values()]
    limits = y_limits([100 * change for change in changes])
    drawn = {"Held-out loss by trial": _by_trial(judged, best, limits)}
    drawn["Held-out loss by step"] = _by_step(judged, best, limits)
    for name in judged[0].params:
        drawn[f"Held-out loss by {name}"] = _by_number(judged, best, name, limits)
    return {title: "data:image/png;base64," + base64.b64encode(image).decode() for title, image in drawn.items()}


def y_limits(changes: list[float]) -> tuple[float, float]:
    """In per cent; a few trials that went astray do not press the others together."""
    least, usual = min(*changes, 0.0), max(statistics.quantiles([0.0, *changes], n=10)[-2], 0.0)
    margin = 0.08 * (usual - least) or 1.0
    return least - margin, usual + margin


def _by_trial(judged: list[FrozenTrial], best: FrozenTrial | None, limits: tuple[float, float]) -> bytes:
    figure, axes = _axes("trial", limits)
    finished = [trial for trial in judged if trial.state == TrialState.COMPLETE]
    lows = list(itertools.accumulate((_change(trial) for trial in finished), min))
    axes.step([trial.number for trial in finished], lows, where="post", color=BLUE, label="the best so far")
    _dots(axes, judged, [trial.number for trial in judged], best, limits)
    return png(figure)


def _by_step(judged: list[FrozenTrial], best: FrozenTrial | None, limits: tuple[float, float]) -> bytes:
    figure, axes = _axes("step", limits)
    for trial in judged:
        steps = sorted(trial.intermediate_values.items())
        chosen = best is not None and trial.number == best.number
        width = 2 if chosen else 1
        axes.plot([0, *(step for step, _ in steps)], [0, *(100 * (value - 1) for _, value in steps)],
                  color=ORANGE if chosen else GREY, linewidth=width, zorder=1 + width)  # fmt: skip
    return png(figure)


def _by_number(judged: list[FrozenTrial], best: FrozenTrial | None, name: str, limits: tuple[float, float]) -> bytes:
    figure, axes = _axes(name, limits, width=4.6, height=2.6)
    distribution: Any = judged[0].distributions[name]
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        choices = list(distribution.choices)
        axes.set_xticks(range(len(choices)), [str(choice) for choice in choices])
        values = [choices.index(trial.params[name]) for trial in judged]
    else:
        axes.set_xscale("log" if distribution.log else "linear")
        values = [trial.params[name] for trial in judged]
    _dots(axes, judged, values, best, limits)  # pyright: ignore[reportArgumentType]
    return png(figure, legend=False)


def _axes(x: str, limits: tuple[float, float], **size: float) -> tuple[Any, Any]:
    figure, axes = canvas(**size)
    axes.axhline(0, color=GREY, linestyle="--", linewidth=1)
    axes.set(xlabel=x, ylabel="held-out loss, % of the base's", ylim=limits)
    return figure, axes


def _dots(
    axes: Any, judged: list[FrozenTrial], x: list[float], best: FrozenTrial | None, limits: tuple[float, float]
) -> None:
    """A ring for a trial that was stopped; what lies above the field is drawn at its edge."""
    for trial, across in zip(judged, x, strict=True):
        chosen = best is not None and trial.number == best.number
        colour = ORANGE if chosen else BLUE
        fill = "none" if trial.state == TrialState.PRUNED else colour
        axes.scatter(across, min(_change(trial), limits[1]), s=40 if chosen else 24, edgecolors=colour, facecolors=fill,
                     clip_on=False, zorder=3)  # fmt: skip


def _change(trial: FrozenTrial) -> float:
    """Of the held-out loss against the base's, in per cent."""
    _, change = reached(trial) or (0, 0.0)
    return 100 * change
