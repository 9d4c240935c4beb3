"""Evidence → card: the adapter folder's README.md, images, LICENSE.md and NOTICE, from the run's records alone.

    python -m model_card render runs/NAME --repo USER/NAME

The wording is in card.md; the numbers are in the records, and the same records give the same bytes.
"""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from impressionism import names
from impressionism.hub import PainterError
from impressionism.records import Estimate, Exhibit, Metric, Pair
from model_card import figures, modelspec, pictures
from model_card.evidence import Evidence, read
from model_card.presets import FLUX, MINIATURE, Preset, preset_for

HERE = Path(__file__).parent
SHOWN = 12  # pictures at the head of the card
QUESTIONS = {
    "style": "How Impressionist is it?",
    "content": "Does it still paint what was asked?",
    "diversity": "Are the pictures different from one another?",
    "memorisation": "Does it repeat the pictures that it learned from?",
    "quality": "How good are the pictures?",
}
RECIPE_SECTIONS = ("model", "data", "adapter", "flow", "optimizer")


class Row(NamedTuple):
    """One noise, painted several times."""

    base: Exhibit
    styled: Exhibit | None
    adapted: Exhibit
    gain: float


def render(run: Path, *, base: str | None = None, repo: str | None = None, space: str | None = None) -> None:
    """Write the card and all that belongs to it into RUN/adapter; what is there already stays as it is."""
    evidence = read(run)
    preset = {"miniature": MINIATURE, names.BASE: FLUX, None: None}.get(base) or preset_for(base or evidence.run.base)
    files = compose(evidence, preset, repo=repo, space=space)
    before = {name: (evidence.adapter / name).read_bytes() for name in files if (evidence.adapter / name).exists()}
    for name, content in files.items():
        if before.get(name) != content:
            (evidence.adapter / name).parent.mkdir(parents=True, exist_ok=True)
            (evidence.adapter / name).write_bytes(content)
    for old in set((evidence.adapter / "images").iterdir()) - {evidence.adapter / name for name in files}:
        old.unlink()
    modelspec.relabel(evidence.comfy, **spec(evidence, preset))
    changed = sum(before.get(name) != content for name, content in files.items())
    print(f"{evidence.adapter / 'README.md'}: {len(files)} files, {changed or 'none'} of them new or changed.")


def compose(evidence: Evidence, preset: Preset, *, repo: str | None, space: str | None) -> dict[str, bytes]:
    """Every file of the card, by its path in the adapter's folder."""
    shown = best(evidence, preset)
    rows = [row_of(evidence, pair) for pair in evidence.pairs if pair.chosen != "worst"]
    worst = [row_of(evidence, pair) for pair in evidence.pairs if pair.chosen == "worst"]
    strengths = pictures.rows_of_strengths(evidence)
    gaps = gap_rows(evidence)
    hung = [*shown, *(exhibit for row in rows + worst for exhibit in row[:3] if exhibit)]
    files = pictures.files_of(evidence, hung)
    files["images/strength.png"] = figures.strength_curve(evidence.scores)
    files["images/training.png"] = figures.training_loss(evidence.log)
    if strengths:
        files["images/strengths.webp"] = pictures.encoded(pictures.sheet(evidence, strengths))
    if gaps:
        files["images/characteristics.png"] = figures.gaps(gaps)
    body = template().render(
        preset=preset, scores=evidence.scores, run=evidence.run, shown=shown, compared=rows, worst=worst,
        **words(evidence, preset, shown, repo, space), has_sheet=bool(strengths), has_gaps=bool(gaps),
    )  # fmt: skip
    files["README.md"] = f"---\n{front_matter(evidence, preset, shown, repo)}\n---\n\n{body}".encode()
    files["LICENSE.md"] = preset.license_file.read_bytes()
    files["NOTICE"] = notice(evidence, preset).encode()
    return files


# ---- Which pictures


def best(evidence: Evidence, preset: Preset) -> list[Exhibit]:
    """The best-gaining pictures of all genres, in turn; painted with the trigger where there is one."""
    found = pictures.named(evidence, evidence.scores.best)
    trigger = trigger_of(evidence, preset)
    if trigger:
        found = [pictures.sibling(evidence, exhibit, "adapter-styled") or exhibit for exhibit in found]
        found.sort(key=lambda exhibit: trigger not in exhibit.recipe.sampling.prompt)
        if not found or trigger not in found[0].recipe.sampling.prompt:
            raise PainterError(
                f"No picture of the gallery was painted with the trigger {trigger!r}, so none can stand first: let "
                f"`styled` of the prompt set begin with it, and run `python -m evaluation gallery {evidence.folder} "
                "--prompts FILE` again."
            )
    return in_turn(found)[:SHOWN]


def in_turn(exhibits: list[Exhibit]) -> list[Exhibit]:
    """One of each genre, then the next of each; the first stays the first."""
    genres: dict[str, list[Exhibit]] = {}
    for exhibit in exhibits:
        genres.setdefault(exhibit.genre, []).append(exhibit)
    longest = max(map(len, genres.values()), default=0)
    return [genre[place] for place in range(longest) for genre in genres.values() if place < len(genre)]


def row_of(evidence: Evidence, pair: Pair) -> Row:
    adapted = pictures.exhibit_of(evidence, pair)
    base = pictures.sibling(evidence, adapted, "base")
    if base is None:
        raise PainterError(f"The gallery has no base picture beside {adapted.file}: run `evaluation gallery` again.")
    return Row(base, pictures.sibling(evidence, adapted, "base-styled"), adapted, pair.gain)


# ---- What is said


def words(
    evidence: Evidence, preset: Preset, shown: list[Exhibit], repo: str | None, space: str | None
) -> dict[str, Any]:
    """All that the template needs besides records."""
    run, scores = evidence.run, evidence.scores
    source = repo or f"runs/{run.name}/adapter"
    metrics = [
        (title, [(label(metric), metric) for metric in scores.metrics if metric.question == question])
        for question, title in QUESTIONS.items()
    ]
    return {
        "title": repo.split("/")[-1] if repo else run.name,
        "headline": headline(evidence),
        "trigger": trigger_of(evidence, preset),
        "first": shown[0].recipe.sampling,
        "source": source,
        "adapter_argument": source,
        "weights": names.WEIGHTS_FILE,
        "comfy": evidence.comfy.name,
        "tokens": preset.tokens,
        "space": space,
        "styled_base": any(exhibit.arm == "base-styled" for exhibit in evidence.exhibits),
        "curve": sorted(scores.curve, key=lambda point: point.strength),
        "diversity": any(point.diversity for point in scores.curve),
        "metrics": [(title, rows) for title, rows in metrics if rows],
        "people": people(evidence.votes),
        "memorisation": "" if any(rows and title == QUESTIONS["memorisation"] for title, rows in metrics)
        else "Whether it repeats pictures that it learned from was not measured.",
        "learned": sorted({metric.weights for metric in scores.metrics if metric.weights}),
        "limits": limits(evidence),
        "facts": facts(evidence),
        "emissions": emissions(evidence),
        "recipe_yaml": portable_recipe(evidence),
        "precision": f"{scores.provenance.dtype} on {scores.provenance.device}, quantized: {scores.provenance.quantize}",
        "data": data(evidence, preset),
    }  # fmt: skip


def trigger_of(evidence: Evidence, preset: Preset) -> str | None:
    return evidence.recipe["data"]["trigger"] if preset.uses_trigger else None


def label(metric: Metric) -> str:
    """What people call it."""
    from impressionism.pictorial import STATISTICS

    known = STATISTICS.get(metric.name)
    return known.label if known else metric.name.replace("-", " ").replace("_", " ")


def gap_rows(evidence: Evidence) -> list[tuple[str, Metric]]:
    return [
        (label(metric), metric)
        for metric in evidence.scores.metrics
        if metric.question == "style" and metric.gap_closed
    ]


def headline(evidence: Evidence) -> str:
    """The index of base, adapter and real paintings in one sentence."""
    found = next((metric for metric in evidence.scores.metrics if metric.name == "index"), None)
    if not (found and found.base and found.adapter):
        return ""
    real = f"; real paintings have {interval(found.real)}" if found.real else ""
    way = f" That is {percent(found.gap_closed)} of the way to them." if found.gap_closed else ""
    return (
        f"Over {evidence.scores.prompts} prompts the Impressionist index (0 to 1) goes from {interval(found.base)} to "
        f"{interval(found.adapter)}{real}.{way}"
    )


def limits(evidence: Evidence) -> list[str]:
    """What the scores say against the adapter."""
    told = []
    for name, metric in gap_rows(evidence):
        gap = metric.gap_closed
        assert gap
        if gap.high < 0:
            told.append(f"{name}: it moves away from real paintings ({percent(gap)} of the way).")
        elif gap.low <= 0:
            told.append(f"{name}: no change towards real paintings is shown ({percent(gap)} of the way).")
        elif gap.low > 1:
            told.append(f"{name}: it goes further than real paintings do ({percent(gap)} of the way).")
    at = next((point for point in evidence.scores.curve if point.strength == evidence.scores.strength), None)
    if at:
        told.append(f"At the recommended strength {percent(at.content)} of the base model's composition is kept.")
    lost = [metric for metric in evidence.scores.metrics if metric.note and not metric.adapter]
    if lost:
        told.append(f"Not computed: {', '.join(f'{label(metric)} ({metric.note})' for metric in lost)}.")
    return told


def people(votes: dict[str, Any] | None) -> str:
    if votes is None:
        return "No people have been asked yet: there are no votes, and nothing here says which picture anyone prefers."
    raise NotImplementedError


def facts(evidence: Evidence) -> list[tuple[str, str]]:
    """The training, from recipe.yaml and run.json."""
    run, recipe = evidence.run, evidence.recipe
    model, optimizer, flow, adapter = (recipe[section] for section in ("model", "optimizer", "flow", "adapter"))
    pictures_a_step = optimizer["batch"] * optimizer["accumulate"]
    loss = "nothing was held out"
    if run.validation_loss is not None and run.base_validation_loss is not None:
        change = run.validation_loss / run.base_validation_loss - 1
        loss = f"{run.validation_loss:.4f}; the base model's {run.base_validation_loss:.4f} ({change:+.1%})"
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


def emissions(evidence: Evidence) -> str:
    told = co2(evidence)
    if not told:
        return "CO2: not measured."
    return f"CO2: {told['emissions']:g} g, by codecarbon, in {told['geographical_location']}."


def co2(evidence: Evidence) -> dict[str, Any] | None:
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


def portable_recipe(evidence: Evidence) -> str:
    """The sections that decide the numbers, without this machine's paths."""
    told = {section: dict(evidence.recipe[section]) for section in RECIPE_SECTIONS}
    for section in told.values():
        for key, value in section.items():
            if isinstance(value, str) and Path(value).is_absolute():
                section[key] = Path(value).name
    told["run"] = {key: evidence.recipe["run"][key] for key in ("seed", "save")}
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=110).strip()


def data(evidence: Evidence, preset: Preset) -> str:
    run = evidence.run
    if not preset.on_hub:
        return f"Trained on `{run.dataset}`, scenes that the project draws and paints over itself ({run.dataset_revision})."
    where = f"[{run.dataset}](https://huggingface.co/datasets/{run.dataset})" if "/" in run.dataset else run.dataset
    return (
        f"Trained on {where} ({run.dataset_revision}). Whether a painting is in the public domain depends on the "
        "painting and on the country; no blanket licence is claimed for the pictures. Captions that a language model "
        "wrote may be wrong."
    )


def notice(evidence: Evidence, preset: Preset) -> str:
    """What the licence asks to be told alongside: the notice, the change, who grants the rights, and no more."""
    if not preset.on_hub:
        return f"{preset.attribution}\n\nIt is licensed under the MIT licence; see LICENSE.md.\n"
    return f"""{preset.attribution}

The FLUX.1 [dev] Model has been modified: {names.WEIGHTS_FILE} and {evidence.comfy.name} are low-rank updates of its
transformer, trained on {evidence.run.dataset}. They are a Derivative in the sense of the License.

Any rights to use the FLUX.1 [dev] Model and this Derivative are granted directly by Black Forest Labs Inc., pursuant to
the License, a copy of which is in LICENSE.md. Its disclaimers (section 5) and its limitation of liability (section 6)
apply to this Derivative as they do to the Model, for the benefit of Black Forest Labs Inc. and of the maker of this Derivative.

This Derivative is no official product of Black Forest Labs Inc., and has not been endorsed, approved or validated by
them.
"""


# ---- Front matter and ModelSpec


def front_matter(evidence: Evidence, preset: Preset, shown: list[Exhibit], repo: str | None) -> str:
    """In the Hub's keys, as YAML."""
    from huggingface_hub import ModelCardData

    run, trigger = evidence.run, trigger_of(evidence, preset)
    results = model_index(evidence, repo)
    settings: dict[str, Any] = {
        **preset.license,
        **({"base_model": preset.base} if preset.on_hub else {}),
        "datasets": [run.dataset] if "/" in run.dataset else None,
        "language": ["en"],
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": [*preset.tags, *(["qlora"] if evidence.recipe["model"]["quantize"] != "none" else [])],
        **({"model_name": repo.split("/")[-1] if repo else run.name, "eval_results": results} if results else {}),
        **({"base_model_relation": "adapter"} if preset.on_hub else {}),
        **({"instance_prompt": trigger} if trigger else {}),
        "widget": [widget(exhibit) for exhibit in shown],
        "co2_eq_emissions": co2(evidence),
    }
    return ModelCardData(**settings).to_yaml()


def widget(exhibit: Exhibit) -> dict[str, Any]:
    sampling = exhibit.recipe.sampling
    return {
        "text": sampling.prompt,
        "output": {"url": pictures.name_of(exhibit)},
        "parameters": {"guidance_scale": sampling.guidance, "num_inference_steps": sampling.steps},
    }


def model_index(evidence: Evidence, repo: str | None) -> list[Any]:
    """The scores as the Hub indexes them; one source for all, as the Hub keeps the first only."""
    from huggingface_hub import EvalResult

    scores = evidence.scores
    source = {"source_name": "the card's evaluation", "source_url": f"https://huggingface.co/{repo}"} if repo else {}
    return [
        EvalResult(
            task_type="text-to-image",
            task_name="Text-to-Image",
            dataset_type=scores.prompt_set,
            dataset_name=f"prompt set {scores.prompt_set}",
            dataset_revision=scores.prompt_set_sha256,
            metric_type=metric.name,
            metric_name=f"{label(metric)} (95 % CI {metric.adapter.low:.3g} to {metric.adapter.high:.3g}, "
            f"{metric.adapter.n} prompts)",
            metric_value=round(metric.adapter.value, 4),
            **source,
        )
        for metric in scores.metrics
        if metric.adapter
    ]


def spec(evidence: Evidence, preset: Preset) -> dict[str, str]:
    """ModelSpec keys for the tools that show them; the file that was evaluated keeps its bytes, and has fit's own."""
    scores = evidence.scores
    return {
        "description": f"Gives {preset.called} an Impressionist's hand.",
        "license": preset.license.get("license_name", preset.license["license"]),
        "tags": ", ".join(preset.tags),
        "usage_hint": f"Strength {short(scores.strength)}; {short(scores.strength_low)} to {short(scores.strength_high)} "
        "is useful. 0 is the base model.",
    }


# ---- How numbers are written


def short(value: float) -> str:
    return f"{value:g}"


def number(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    digits = max(0, 2 - int(f"{abs(value) or 1:e}".split("e")[1]))
    return f"{value:.{min(digits, 4)}f}"


def interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{number(estimate.value)} ({number(estimate.low)} to {number(estimate.high)})"


def change(estimate: Estimate | None) -> str:
    """A difference with its sign; bold where its interval leaves out zero."""
    if estimate is None:
        return "–"
    text = f"{'+' if estimate.value > 0 else ''}{interval(estimate)}"
    return f"**{text}**" if estimate.low > 0 or estimate.high < 0 else text


def percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%})"


def p_value(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def cell(text: Any) -> str:
    """For a table's cell, where a bar or a tag would break it."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def image(exhibit: Exhibit | None, alt: str) -> str:
    if exhibit is None:
        return "–"
    told = f"{alt}: {cell(exhibit.recipe.sampling.prompt)}".replace("[", "(").replace("]", ")")
    return f"![{told}]({pictures.name_of(exhibit)})"


FILTERS: dict[str, Callable[..., str]] = {
    "short": short, "interval": interval, "change": change, "percent": percent, "p_value": p_value,
    "duration": duration, "cell": cell, "image": image, "file": pictures.name_of, "signed": lambda x: f"{x:+.2f}",
    "python": lambda text: json_string(text), "shell": shlex.quote,
}  # fmt: skip


def json_string(text: str) -> str:
    """A Python literal in double quotes."""
    import json

    return json.dumps(text, ensure_ascii=False)


def template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    environment.filters |= FILTERS
    return environment.get_template("card.md")
