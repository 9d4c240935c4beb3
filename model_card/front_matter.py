"""The card's front matter in the Hub's keys, and the ModelSpec's facts of the file beside it."""

from typing import Any

from impressionism.records import Exhibit, StudyResult
from model_card import pictures
from model_card.evidence import RunRecords
from model_card.numbers import short
from model_card.presets import Preset
from model_card.words import ASKED, co2, label, trigger_of


def front_matter(evidence: RunRecords, preset: Preset, shown: list[Exhibit], repo: str | None) -> str:
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


def model_index(evidence: RunRecords, repo: str | None) -> list[Any]:
    """The scores as the Hub indexes them; one source for all, as the Hub keeps the first only."""
    from huggingface_hub import EvalResult

    scores = evidence.scores
    source: dict[str, Any] = (
        {"source_name": "the card's evaluation", "source_url": f"https://huggingface.co/{repo}"} if repo else {}
    )
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
    ] + human_results(evidence.votes, source)


def human_results(votes: StudyResult | None, source: dict[str, Any]) -> list[Any]:
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-to-image",
            task_name="Text-to-Image",
            dataset_type="blind-comparison",
            dataset_name="blind comparison with the base model asked for the style in words",
            dataset_revision=votes.study_sha256,
            metric_type=f"human-win-rate-{row.question}",
            metric_name=f"People's choice, {ASKED[row.question]} (95 % CI {row.win_rate.low:.2f} to "
            f"{row.win_rate.high:.2f}, {votes.votes} votes)",
            metric_value=round(row.win_rate.value, 4),
            **source,
        )
        for row in (votes.preferences if votes else [])
        if votes and row.against == "base-styled" and row.genre is None and row.win_rate
    ]


def spec(evidence: RunRecords, preset: Preset) -> dict[str, str]:
    """ModelSpec keys for the tools that show them; the file that was evaluated keeps its bytes, and has fit's own."""
    scores = evidence.scores
    return {
        "description": f"Gives {preset.called} an Impressionist's hand.",
        "license": preset.license.get("license_name", preset.license["license"]),
        "tags": ", ".join(preset.tags),
        "usage_hint": f"Strength {short(scores.strength)}, useful from {short(scores.strength_low)} to "
        f"{short(scores.strength_high)}; 0 is the base model.",
    }
