"""What the card says, in sentences made of records."""

from pathlib import Path
from typing import Any

import yaml

from impressionism import names
from impressionism.records import FEATURES, FEW_PROMPTS, KINDS, QUESTIONS, Exhibit, Metric, Scores, StudyResult
from model_card.evidence import RunRecords
from model_card.numbers import duration, interval, minus, percent, short
from model_card.presets import Preset

ASKED = {
    "style": "which looks more like an Impressionist painting",
    "description": "which follows the description better",
    "preference": "which they prefer",
}
RECIPE_SECTIONS = ("model", "data", "adapter", "flow", "optimizer")


def words(
    evidence: RunRecords, preset: Preset, shown: list[Exhibit], repo: str | None, space: str | None
) -> dict[str, Any]:
    """All that the template needs besides records."""
    run, scores = evidence.run, evidence.scores
    source = repo or f"runs/{run.name}/adapter"
    metrics = [
        (title, [(label(row), row) for row in scores.metrics if row.question == question and row.adapter])
        for question, title in QUESTIONS.items()
    ]
    untold = [row for row in scores.metrics if not row.adapter]
    return {
        "title": repo.split("/")[-1] if repo else run.name,
        "headline": headline(evidence, preset),
        "trigger": trigger_of(evidence, preset),
        "learned_trigger": run.trigger == trigger_of(evidence, preset),
        "at": measured_at(evidence),
        "first": shown[0].recipe.sampling,
        "source": source,
        "weights": names.WEIGHTS_FILE,
        "comfy": evidence.comfy.name,
        "tokens": preset.tokens,
        "space": space,
        "styled_base": any(exhibit.arm == "base-styled" for exhibit in evidence.exhibits),
        "curve": sorted(scores.curve, key=lambda point: point.strength),
        "diversity": any(point.diversity for point in scores.curve),
        "metrics": [(title, rows) for title, rows in metrics if rows],
        "people": people(evidence.votes, preset),
        "untold": {note.rstrip("."): [label(row) for row in untold if row.note == note]
                   for note in sorted({row.note for row in untold})},
        "learned": sorted({metric.weights for metric in scores.metrics if metric.weights and metric.adapter}),
        "limits": limits(evidence, preset),
        "facts": facts(evidence),
        "emissions": emissions(evidence),
        "recipe_yaml": portable_recipe(evidence),
        "precision": f"{scores.provenance.dtype}, {scores.provenance.device}, quantized: {scores.provenance.quantize}",
        "data": data(evidence, preset),
    }  # fmt: skip


def trigger_of(evidence: RunRecords, preset: Preset) -> str | None:
    """What a prompt should begin with."""
    data = evidence.recipe["data"]
    return (data.get("instance_prompt") or data["trigger"]) if preset.uses_trigger else None


def label(metric: Metric) -> str:
    """What people call it."""
    from impressionism.pictorial import STATISTICS

    if metric.name in STATISTICS:
        return STATISTICS[metric.name].label
    if metric.name.startswith("index"):
        return "Impressionist index" + (", prompts worded in the style" if metric.name != "index" else "")
    feature, _, kind = metric.name.partition("-")
    by = FEATURES.get(feature, feature)
    return f"{KINDS[kind]}, by {by}" if kind in KINDS else metric.name.replace("-", " ")


def gap_rows(scores: Scores) -> list[tuple[str, Metric]]:
    """The index and the characteristics that tell real pictures from the base model's."""
    from impressionism.pictorial import STATISTICS

    return [
        (label(metric), metric)
        for metric in scores.metrics
        if metric.gap_closed and (metric.name == "index" or metric.name in STATISTICS)
    ]


def headline(evidence: RunRecords, preset: Preset) -> str:
    """The index of base, adapter and real pictures, and of the base model asked for the style in words."""
    scores = evidence.scores
    found = next((metric for metric in scores.metrics if metric.name == "index"), None)
    if not (found and found.base and found.adapter):
        return ""
    told = [
        f"Over {scores.prompts} prompts the Impressionist index (0 to 1) goes from {interval(found.base)} to "
        f"**{interval(found.adapter)}** at strength {short(measured_at(evidence))}"
    ]
    if scores.strength != measured_at(evidence):
        told.append(f"at the recommended {short(scores.strength)} it is {interval(scores.recommended.index)}")
    if found.real:
        told.append(f"{preset.real} have {interval(found.real)}")
    if worded := scores.arms.get("base-styled"):
        told.append(f"the base model alone, with {preset.styled}, reaches {interval(worded)}")
    return f"{'; '.join(told)}. In brackets are 95 % intervals."


def measured_at(evidence: RunRecords) -> float:
    """The adapter's strength in the gallery's four arms, which the tables compare."""
    return next(pair.recipe.strength for pair in evidence.pairs)


def limits(evidence: RunRecords, preset: Preset) -> list[str]:
    """What the scores say against the adapter."""
    scores = evidence.scores
    told = [line for name, row in gap_rows(scores) if (line := short_of(name, row, preset.real))]
    told += [line for row in scores.metrics if (line := worse(row))]
    worded, plain = scores.arms.get("base-styled"), scores.arms.get("adapter")
    if worded and plain and plain.low <= worded.high:
        told.append(
            f"It is not shown to be more Impressionist than the base model with {preset.styled}: "
            f"{interval(plain)} against {interval(worded)} of the index."
        )
    if told:
        told.append(f"All of this is at strength {short(measured_at(evidence))}.")
    kept = interval(scores.recommended.content)
    return [
        *told,
        f"At the recommended {short(scores.strength)}, its composition correlates with the base's by {kept}.",
    ]


def short_of(name: str, metric: Metric, real: str) -> str:
    """What one characteristic says against it, if anything."""
    gap = metric.gap_closed
    if gap is None or (gap.low > 0 and gap.low <= 1):
        return ""
    said = f"{name} ({percent(gap)} of the way to {real})"
    if gap.low > 1:
        return f"{said}: it goes further than they do."
    return f"{said}: it moves away from them." if gap.high < 0 else f"{said}: no approach to them is shown."


def worse(metric: Metric) -> str:
    """Where the adapter is surely worse than the base model."""
    gone = metric.difference
    down = gone and (gone.low > 0 if metric.better == "lower" else metric.better == "higher" and gone.high < 0)
    if not down:
        return ""
    return f"{label(metric)}: worse than the base model, {interval(metric.adapter)} against {interval(metric.base)}."


def people(votes: StudyResult | None, preset: Preset) -> str:
    """What people preferred, over the base model with the style-worded prompt."""
    if votes is None:
        return "No people have been asked yet: nothing here says which picture anyone prefers."
    rows = [row for row in votes.preferences if row.against == "base-styled" and row.genre is None and row.win_rate]
    asked = "; ".join(f"{ASKED[row.question]}: {percent(row.win_rate)}" for row in rows)
    few = " These are few prompts, so take it as exploratory." if votes.prompts < FEW_PROMPTS else ""
    return (
        f"{votes.raters} people were asked, blind, in {votes.votes} votes on {votes.prompts} prompts, with the base "
        f"model, {preset.styled}, beside the adapter at strength {short(votes.strength)}. They chose the "
        f"adapter's picture, a draw counting half, when asked {asked}.{few}"
    )


def facts(evidence: RunRecords) -> list[tuple[str, str]]:
    """The training, from recipe.yaml and run.json."""
    run, recipe = evidence.run, evidence.recipe
    model, optimizer, flow, adapter = (recipe[section] for section in ("model", "optimizer", "flow", "adapter"))
    pictures_a_step = optimizer["batch"] * optimizer["accumulate"]
    loss = "nothing was held out"
    if run.validation_loss is not None and run.base_validation_loss is not None:
        change = run.validation_loss / run.base_validation_loss - 1
        loss = f"{run.validation_loss:.4f}; the base model's {run.base_validation_loss:.4f} ({minus(f'{change:+.1%}')})"
    return [
        ("base model", f"{run.base}, revision {run.base_revision}, {model['quantize']} while training"),
        ("pictures", f"{run.dataset}, {run.dataset_revision}"),
        ("size", " and ".join(map(str, as_list(recipe["data"]["resolution"]))) + " px"),
        ("adapter", f"rank {adapter['rank']}, {adapter['targets']} layers, {run.trained_parameters:,} parameters"),
        ("optimizer", f"{optimizer['name']}, rate {optimizer['rate']:g}, {optimizer['schedule']}, "
                      f"warm-up {optimizer['warmup']}"),
        ("length", f"{run.steps:,} training steps of {pictures_a_step} pictures, {duration(run.seconds)}"),
        ("flow matching", f"{flow['sigmas']} noise levels, shift {flow['shift']}, guidance {flow['guidance']:g}"),
        ("captions", f"dropped in {recipe['data']['caption_dropout']:.0%} of the visits, of the content only in "
                     f"{recipe['data']['content_captions']:.0%}"),
        ("memory", f"{run.peak_memory / 2**30:.1f} GiB at the peak"),
        ("held-out loss", loss),
        ("saved", f"the {run.saved} state" + (f"; the best was at step {run.best_step}" if run.best_step else "")),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(run.versions.items()))),
    ]  # fmt: skip


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def co2(evidence: RunRecords) -> dict[str, Any] | None:
    """As the Hub takes it, in grams; codecarbon tells kilograms."""
    if not (row := evidence.emissions):
        return None
    return {
        "emissions": round(float(row["emissions"]) * 1000, 1),
        "source": "codecarbon",
        "training_type": "fine-tuning",
        "geographical_location": row["country_name"],
        "hardware_used": row.get("gpu_model") or row["cpu_model"],
    }


def emissions(evidence: RunRecords) -> str:
    told = co2(evidence)
    if not told:
        return "CO2: not measured."
    return f"CO2: {told['emissions']:g} g, by codecarbon, in {told['geographical_location']}."


def portable_recipe(evidence: RunRecords) -> str:
    """The sections that decide the numbers, without this machine's paths."""
    told = {section: dict(evidence.recipe[section]) for section in RECIPE_SECTIONS}
    for section in told.values():
        for key, value in section.items():
            if isinstance(value, str) and Path(value).is_absolute():
                section[key] = Path(value).name
    own = ("seed", "save", "validate_every", "validation_pictures")
    told["run"] = {key: evidence.recipe["run"][key] for key in own}
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=110).strip()


def data(evidence: RunRecords, preset: Preset) -> str:
    run = evidence.run
    if not preset.on_hub:
        return f"Trained on `{run.dataset}`, scenes that the project draws and paints itself ({run.dataset_revision})."
    where = f"[{run.dataset}](https://huggingface.co/datasets/{run.dataset})" if "/" in run.dataset else run.dataset
    return (
        f"Trained on {where} ({run.dataset_revision}). Whether a painting is in the public domain depends on the "
        "painting and on the country; no blanket licence is claimed for the pictures. Captions that a language model "
        "wrote may be wrong."
    )


def notice(evidence: RunRecords, preset: Preset) -> str:
    """What the licence asks to be told alongside: the notice, the change, who grants the rights, and no more."""
    if not preset.on_hub:
        return f"{preset.attribution}\n\nIt is licensed under the MIT licence; see LICENSE.md.\n"
    return f"""{preset.attribution}

The FLUX.1 [dev] Model has been modified: {names.WEIGHTS_FILE} and {evidence.comfy.name} are low-rank updates of its
transformer, trained on {evidence.run.dataset}. They are a Derivative in the sense of the License.

Any rights to use the FLUX.1 [dev] Model and this Derivative are granted directly by Black Forest Labs Inc., pursuant to
the License, a copy of which is in LICENSE.md. Its disclaimers (section 5) and its limitation of liability (section 6)
apply to this Derivative as they do to the Model, for the benefit of Black Forest Labs Inc. and of this Derivative's
maker.

This Derivative is no official product of Black Forest Labs Inc., and has not been endorsed, approved or validated by
them.
"""
