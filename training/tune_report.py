"""What `tune` found: a table of the trials, and one HTML file with plots that asks nothing of the network."""

import csv
import html
import io
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from training.recipe import TrainingConfig

STYLES = [Path(__file__).with_name(name) for name in ("report.css", "tune_report.css")]
WIDE, NARROW = (1080, 300), (520, 230)  # px
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 30  # px around a plot's field
MOST_TICKS = 7
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
        return trial.user_attrs.get("why") or (
            f"stopped after {at[0]} steps at {at[1]:+.2%}" if at else ENDS[trial.state]
        )
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
        rows.writerow([trial.number, trial.state.name.lower(), step, change, *values, _seconds(trial),
                       attrs.get("worker", ""), attrs.get("why", "")])  # fmt: skip
    return file.getvalue()


def page(study: str, trials: list[FrozenTrial], best: FrozenTrial | None, recipe: TrainingConfig) -> str:
    """The report, of the trials that have numbers."""
    judged = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and reached(trial)]
    sections = [_head(study, trials, best, recipe)]
    if judged:
        y = _change_axis([change for trial in judged for change in _curve(trial).values()])
        sections += [
            _history(judged, best, y),
            _curves(judged, best, y),
            _numbers(judged, best, y),
            _importance(judged),
        ]
    sections.append(_all(trials, best))
    style = "".join(path.read_text(encoding="utf-8") for path in STYLES)
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>Tuned: {_text(study)}</title>
<style>
{style}</style>
<body>
{"".join(sections)}
</body>
</html>
"""


# The sections.


def _head(study: str, trials: list[FrozenTrial], best: FrozenTrial | None, recipe: TrainingConfig) -> str:
    states = [trial.state for trial in trials]
    finished, stopped = states.count(TrialState.COMPLETE), states.count(TrialState.PRUNED)
    left = max(0, recipe.tune.trials - finished - stopped)
    counts = f"{finished} trials came to their end, {stopped} were stopped early, {left} are left."
    head = f"<header>\n<h1>The search for {_text(study)}</h1>\n"
    if best is None:
        return f'{head}<p class="lede">{counts}</p>\n</header>\n'
    own = next((f" The recipe's own numbers: {outcome(trial)}." for trial in trials if "own" in trial.user_attrs), "")
    rows = "".join(f'<tr><th scope="row">{_text(path)}</th><td>{_value(value_of(recipe, path))}</td>'
                   f"<td><b>{_value(value)}</b></td></tr>\n" for path, value in best.params.items())  # fmt: skip
    _, change = reached(best) or (0, 0.0)
    worse = " No trial beat the base: train longer, or try lower rates." if change >= 0 else ""
    return f"""{head}<p class="lede">Trial {best.number} is the best: {outcome(best)}.{worse}</p>
<p class="note">{counts}{own}</p>
</header>
<table>
<thead><tr><th></th><th scope="col">recipe</th><th scope="col">best</th></tr></thead>
<tbody>
{rows}</tbody></table>
<pre>python -m training fit {_text(str(recipe.run.folder / "tune" / "best.yaml"))}</pre>
"""


def _history(judged: list[FrozenTrial], best: FrozenTrial | None, y: "Axis") -> str:
    x = Axis(0, max(trial.number for trial in judged) or 1, whole=True)
    plot = Plot(WIDE, x, y)
    finished = [trial for trial in judged if trial.state == TrialState.COMPLETE]
    ends = [(trial.number, change) for trial in finished for _, change in [reached(trial) or (0, 0.0)]]
    lows = list(itertools.accumulate((change for _, change in ends), min))
    plot.line([(number, low) for (number, _), low in zip(ends, lows, strict=True)], "best", "the best so far")
    plot.dots(judged, lambda trial: trial.number, best)
    return f"""<h2>The trials</h2>
<p class="note">Held-out loss relative to the base's, by the trial's number, and the best so far. A ring is a trial that
was stopped, where it stood then; what lies above the field is drawn at its edge.</p>
{plot.svg("Held-out loss by trial")}"""


def _curves(judged: list[FrozenTrial], best: FrozenTrial | None, y: "Axis") -> str:
    steps = [step for trial in judged for step in trial.intermediate_values]
    plot = Plot(WIDE, Axis(0, max(steps), whole=True), y)
    for trial in sorted(judged, key=lambda trial: trial is best):
        kind = "best" if best and trial.number == best.number else ""
        plot.line([(0, 0.0), *_curve(trial).items()], kind, f"trial {trial.number}: {outcome(trial)}")
    return f"""<h2>On the way</h2>
<p class="note">Held-out loss relative to the base's, by the step; at each rung the worse half ends.</p>
{plot.svg("Held-out loss by step")}"""


def _numbers(judged: list[FrozenTrial], best: FrozenTrial | None, y: "Axis") -> str:
    figures = []
    for name in judged[0].params:
        distribution = judged[0].distributions[name]
        if isinstance(distribution, optuna.distributions.FloatDistribution):
            x = Axis(distribution.low, distribution.high, log=distribution.log)
            plot = Plot(NARROW, x, y)
            plot.dots(judged, lambda trial, name=name: trial.params[name], best)
        else:
            choices = list(distribution.choices)
            plot = Plot(NARROW, Axis(-0.5, len(choices) - 0.5, names=[str(choice) for choice in choices]), y)
            plot.dots(judged, lambda trial, name=name, of=choices: of.index(trial.params[name]), best)
        figures.append(
            f"<figure><figcaption>{_text(name)}</figcaption>{plot.svg(f'Held-out loss by {name}')}</figure>\n"
        )
    return f"""<h2>By the numbers</h2>
<p class="note">The same trials; the red one is the best.</p>
<div class="charts">
{"".join(figures)}</div>
"""


def _importance(judged: list[FrozenTrial]) -> str:
    finished = [trial for trial in judged if trial.state == TrialState.COMPLETE]
    if len(finished) < ENOUGH:
        return ""
    study = optuna.create_study()
    study.add_trials(finished)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=1 / 3)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    rows = "".join(
        f'<tr class="kept"><th scope="row">{_text(name)}</th><td>{share:.0%}</td>'
        f'<td><span class="bar" style="width:{100 * share:.1f}%"></span></td></tr>\n'
        for name, share in shares.items()
    )
    return f"""<h2>What mattered</h2>
<p class="note">Share of each number in being among the best third (PED-ANOVA), over the {len(finished)} trials that
came to their end. The search draws near what was good, so numbers that it drew together share the merit.</p>
<table class="reasons"><tbody>
{rows}</tbody></table>
"""


def _all(trials: list[FrozenTrial], best: FrozenTrial | None) -> str:
    names = list(trials[0].params) if trials else []
    heads = ["trial", *names, "steps", "change", "seconds", ""]
    rows = []
    for trial in trials:
        kind = ' class="best"' if best and trial.number == best.number else ""
        step, change = (at[0], f"{at[1]:+.2%}") if (at := reached(trial)) else ("", "")
        end = trial.user_attrs.get("why") or ENDS[trial.state]
        cells = [*(_value(trial.params.get(name, "")) for name in names), step, change, _seconds(trial)]
        rows.append(f'<tr{kind}><th scope="row">{trial.number}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}'
                    f'<td class="name">{_text(end)}</td></tr>\n')  # fmt: skip
    return f"""<h2>All trials</h2>
<div class="scroll"><table>
<thead><tr>{"".join(f'<th scope="col">{_text(head)}</th>' for head in heads)}</tr></thead>
<tbody>
{"".join(rows)}</tbody></table></div>
"""


# Their parts.


def _curve(trial: FrozenTrial) -> dict[int, float]:
    return {step: value - 1 for step, value in sorted(trial.intermediate_values.items())}


def _seconds(trial: FrozenTrial) -> str:
    return "" if trial.duration is None else f"{trial.duration.total_seconds():.1f}"


def _value(value: object) -> str:
    return _text(f"{value:.3g}" if isinstance(value, float) else str(value))


def _text(words: str) -> str:
    return html.escape(words, quote=True)


@dataclass(frozen=True)
class Axis:
    """From a value to its place between 0 and 1."""

    low: float
    high: float
    log: bool = False
    whole: bool = False
    """Whole numbers only."""
    percent: bool = False
    names: Sequence[str] = ()
    """Of the places 0, 1, 2 …, in their stead."""

    def place(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        if self.names:
            return list(enumerate(self.names))
        values = _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high, whole=self.whole)
        return [(value, f"{value:+.3g} %" if self.percent and value else f"{value:g}") for value in values]


def _change_axis(changes: list[float]) -> Axis:
    """In per cent; a few trials that went astray do not press the others together."""
    least, usual = min(*changes, 0.0), statistics.quantiles([0.0, *changes], n=10)[-2]
    margin = 0.08 * (max(usual, 0.0) - least) or 0.01
    return Axis(100 * (least - margin), 100 * (max(usual, 0.0) + margin), percent=True)


def _ticks(low: float, high: float, *, whole: bool) -> list[float]:
    """Round numbers from low to high."""
    rough = (high - low) / MOST_TICKS or 1.0
    power = 10 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    step = max(1.0, step) if whole else step
    return [round(step * index, 10) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick * (1 + 1e-9) and tick <= high * (1 + 1e-9)] or [low]


class Plot:
    """An SVG with axes, to which lines and dots are added; y is the change of the held-out loss."""

    def __init__(self, size: tuple[int, int], x: Axis, y: Axis):
        self.size, self.x, self.y = size, x, y
        width, height = size
        self.parts = []
        for value, label in y.ticks():
            down, kind = self._down(value), "axis" if value else "base"
            self.parts.append(
                f'<line class="{kind}" x1="{LEFT}" x2="{width - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>'
            )
            self.parts.append(f'<text x="{LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{label}</text>')
        for value, label in x.ticks():
            place = f'x="{self._across(value):.1f}" y="{height - 10}"'
            self.parts.append(f'<text {place} text-anchor="middle">{_text(label)}</text>')

    def _across(self, value: float) -> float:
        return LEFT + self.x.place(value) * (self.size[0] - LEFT - RIGHT)

    def _down(self, percent: float) -> float:
        return self.size[1] - BOTTOM - self.y.place(percent) * (self.size[1] - BOTTOM - TOP)

    def line(self, points: list[tuple[float, float]], kind: str, title: str) -> None:
        places = " ".join(f"{self._across(x):.1f},{self._down(100 * change):.1f}" for x, change in points)
        self.parts.append(f'<polyline class="line {kind}" points="{places}"><title>{_text(title)}</title></polyline>')

    def dots(self, trials: list[FrozenTrial], where: Callable[[FrozenTrial], float], best: FrozenTrial | None) -> None:
        for trial in trials:
            is_best = best is not None and trial.number == best.number
            kind = "best" if is_best else "stopped" if trial.state == TrialState.PRUNED else ""
            _, change = reached(trial) or (0, 0.0)
            place = (
                f'cx="{self._across(where(trial)):.1f}" cy="{self._down(100 * change):.1f}" r="{5 if is_best else 4}"'
            )
            title = _text(f"trial {trial.number}: {outcome(trial)}")
            self.parts.append(f'<circle class="dot {kind}" {place}><title>{title}</title></circle>')

    def svg(self, title: str) -> str:
        width, height = self.size
        return (f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{_text(title)}">'
                f"{''.join(self.parts)}</svg>\n")  # fmt: skip
