"""The card's front matter, in the Hub's keys."""

from typing import Any

from impressionism.records import Estimate, Exhibit
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

    def result(metric: str, name: str, estimate: Estimate, of: str, dataset: dict[str, Any]) -> EvalResult:
        name = f"{name} (95% CI {estimate.low:.3g} to {estimate.high:.3g}, {of})"
        return EvalResult(**common, **dataset, metric_type=metric, metric_name=name,
                          metric_value=round(estimate.value, 4))  # fmt: skip

    prompts: dict[str, Any] = {"dataset_type": scores.prompt_set, "dataset_name": f"prompt set {scores.prompt_set}",
               "dataset_revision": scores.prompt_set_sha256}  # fmt: skip
    results = [result(metric.name, label(metric), metric.adapter, f"{metric.adapter.n} prompts", prompts)
               for metric in scores.metrics if metric.adapter]  # fmt: skip
    if votes:
        people: dict[str, Any] = {"dataset_type": "blind-comparison", "dataset_revision": votes.study_sha256,
                  "dataset_name": "blind comparison with the base model asked for the style in words"}  # fmt: skip
        results += [
            result(f"human-win-rate-{row.question}", f"People's choice, {ASKED[row.question]}", row.win_rate,
                   f"{votes.votes} votes", people)
            for row in votes.preferences if row.against == "base-styled" and row.genre is None and row.win_rate
        ]  # fmt: skip
    return results


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
