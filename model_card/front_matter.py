"""The card's front matter, in the Hub's keys."""

from typing import Any

from impressionism.records import Exhibit
from model_card.presets import Preset
from model_card.run_records import RunRecords
from model_card.wording import ASKED, label, picture_name, trigger_of


def front_matter(records: RunRecords, preset: Preset, shown: list[Exhibit], repo: str | None) -> str:
    """YAML: what the Hub shows, indexes and loads by."""
    from huggingface_hub import ModelCardData

    run, trigger = records.run, trigger_of(records, preset)
    results = evaluation_results(records, repo)
    settings: dict[str, Any] = {
        **preset.license,
        **({"base_model": preset.base} if preset.on_hub else {}),
        "datasets": [run.dataset] if "/" in run.dataset else None,
        "language": ["en"],
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": [*preset.tags, *(["qlora"] if records.recipe["model"]["quantize"] != "none" else [])],
        **({"model_name": repo.split("/")[-1] if repo else run.name, "eval_results": results} if results else {}),
        **({"base_model_relation": "adapter"} if preset.on_hub else {}),
        **({"instance_prompt": trigger} if trigger else {}),
        "widget": [widget(exhibit) for exhibit in shown],
        "co2_eq_emissions": emissions(records),
    }
    return ModelCardData(**settings).to_yaml()


def widget(exhibit: Exhibit) -> dict[str, Any]:
    sampling = exhibit.recipe.sampling
    return {
        "text": sampling.prompt,
        "output": {"url": picture_name(exhibit)},
        "parameters": {"guidance_scale": sampling.guidance, "num_inference_steps": sampling.steps},
    }


def evaluation_results(records: RunRecords, repo: str | None) -> list[Any]:
    """model-index: every computed metric, and what people preferred."""
    from huggingface_hub import EvalResult

    scores, votes = records.scores, records.votes
    common: dict[str, Any] = {"task_type": "text-to-image", "task_name": "Text-to-Image"}
    if repo:  # one source for all results, because the Hub keeps only the first
        common |= {"source_name": "the card's evaluation", "source_url": f"https://huggingface.co/{repo}"}
    measured = [
        EvalResult(
            **common,
            dataset_type=scores.prompt_set,
            dataset_name=f"prompt set {scores.prompt_set}",
            dataset_revision=scores.prompt_set_sha256,
            metric_type=metric.name,
            metric_name=f"{label(metric)} (95% CI {metric.adapter.low:.3g} to {metric.adapter.high:.3g}, "
            f"{metric.adapter.n} prompts)",
            metric_value=round(metric.adapter.value, 4),
        )
        for metric in scores.metrics
        if metric.adapter
    ]
    preferred = [
        EvalResult(
            **common,
            dataset_type="blind-comparison",
            dataset_name="blind comparison with the base model asked for the style in words",
            dataset_revision=votes.study_sha256,
            metric_type=f"human-win-rate-{row.question}",
            metric_name=f"People's choice, {ASKED[row.question]} (95% CI {row.win_rate.low:.2f} to "
            f"{row.win_rate.high:.2f}, {votes.votes} votes)",
            metric_value=round(row.win_rate.value, 4),
        )
        for row in (votes.preferences if votes else [])
        if votes and row.against == "base-styled" and row.genre is None and row.win_rate
    ]
    return measured + preferred


def emissions(records: RunRecords) -> dict[str, Any] | None:
    """CO2 in grams, as the Hub wants it; codecarbon writes kilograms."""
    if not (row := records.emissions):
        return None
    return {
        "emissions": round(float(row["emissions"]) * 1000, 1),
        "source": "codecarbon",
        "training_type": "fine-tuning",
        "geographical_location": row["country_name"],
        "hardware_used": row.get("gpu_model") or row["cpu_model"],
    }
