"""DoRA and LoKr beside a LoRA, and an adapter made smaller: what each costs in held-out loss, on the miniature, and
what the smaller one costs by gallery and score.

    python -m benchmarks.adapters

(about 25 minutes on two CPU cores) writes adapters.json. PEFT makes all three kinds, on the layers and with the
schedule of the miniature's recipe, and each is trained on the same samples at four learning rates. The loss is that of
pictures which no training saw.
"""

import copy
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoKrConfig, LoraConfig, inject_adapter_in_model
from safetensors.torch import save

from benchmarks.measure import in_turn, markdown, parser, ratio, record
from benchmarks.miniature import scenes
from evaluation.gallery import gallery
from evaluation.score import score
from impressionism import lora, names
from impressionism.estimates import percent
from impressionism.lora_file import find_adapter, linears_of, read_adapter
from impressionism.records import Estimate, Scores, parsed
from training import adapter, validation
from training import recipe as recipes
from training.__main__ import main as command
from training.base import StepBatches, TrainingContext, loaders, prepare
from training.fit import lr_factor
from training.recipe import TrainingConfig
from training.reshape import resize
from training.targets import rank_of

RANK, BATCH, WARMUP = 16, 6, 10
RATES = (1e-3, 4e-3, 1.6e-2, 6.4e-2)
SHRUNK = (8, 2)
KINDS: dict[str, Callable[[list[str]], Any]] = {
    "LoRA": lambda layers: LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers),
    "DoRA": lambda layers: LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers, use_dora=True),
    "LoKr": lambda layers: LoKrConfig(r=RANK, alpha=RANK, target_modules=layers),
    "LoKr, larger": lambda layers: LoKrConfig(r=RANK, alpha=RANK, target_modules=layers, decompose_factor=4),
}


def adapted(context: TrainingContext, recipe: TrainingConfig, config: Callable) -> TrainingContext:
    """The context with a copy of the base that carries a new adapter."""
    torch.manual_seed(recipe.run.seed)
    transformer = copy.deepcopy(context.transformer)
    count = len(transformer.single_transformer_blocks)
    layers = [name for name in adapter.linears(transformer) if rank_of(name, recipe.adapter, count)]
    transformer = inject_adapter_in_model(config(layers), transformer.requires_grad_(False))
    return dataclasses.replace(context, transformer=transformer)


def backward(context: TrainingContext, recipe: TrainingConfig, batches: StepBatches) -> None:
    for micro_batch in batches.pictures:
        context.losses(context.loader.train(micro_batch), recipe.flow.guidance).mean().backward()


def trained(context: TrainingContext, recipe: TrainingConfig, config: Callable, rate: float) -> dict[str, float]:
    """One adapter's held-out loss and the size of its file."""
    context, options = adapted(context, recipe, config), recipe.optimizer
    weights = {name: one for name, one in context.transformer.named_parameters() if one.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=rate, weight_decay=options.weight_decay)
    steps, held_out = loaders(context, recipe)
    for step, batches in zip(range(options.steps), steps, strict=False):
        backward(context, recipe, batches)
        torch.nn.utils.clip_grad_norm_(weights.values(), options.max_grad_norm)
        optimizer.param_groups[0]["lr"] = rate * lr_factor(step, options)
        optimizer.step()
        optimizer.zero_grad()
    stored = save({name: one.detach().bfloat16().contiguous() for name, one in weights.items()})
    return {"rate": rate, "loss": validation.score(context, held_out, recipe).mean, "bytes": len(stored)}


def seconds(context: TrainingContext, recipe: TrainingConfig, repeats: int) -> dict[str, list[float]]:
    """Seconds of one step's forward and backward passes, the kinds in turn."""
    batches = next(loaders(context, recipe)[0])
    works = {}
    for kind, config in KINDS.items():
        one = adapted(context, recipe, config)
        works[kind] = lambda one=one: backward(one, recipe, batches)
    return in_turn(repeats, **works)


def shrunk(context: TrainingContext, recipe: TrainingConfig) -> list[dict[str, float]]:
    """The bundled adapter, and what a truncated SVD leaves of it: held-out loss, size, share of the squared update."""
    updates = read_adapter(find_adapter(str(names.MINIATURE / "adapter"), None), linears_of(names.MINIATURE))
    held_out, rows = validation.held_out_batches(context, recipe), []
    for rank in (max(len(update.down) for update in updates.values()), *SHRUNK):
        kept, energy = resize(updates, rank=rank)
        transformer = copy.deepcopy(context.transformer)
        lora.inject(transformer, "shrunk", kept, torch.float32)
        lora.set_strength(transformer, "shrunk", 1.0)
        loss = validation.score(dataclasses.replace(context, transformer=transformer), held_out, recipe).mean
        stored = sum(2 * (update.down.numel() + update.up.numel()) for update in kept.values())
        rows.append({"rank": rank, "loss": loss, "bytes": stored, "energy": energy})
    return rows


def judged(folder: Path, prompts: int) -> list[dict[str, Any]]:
    """The bundled adapter and smaller ones at strength 1, as `evaluation` judges them: a gallery of so many prompts of
    each genre and its score, with painted scenes that training never saw in place of real paintings."""
    bundled, real, rows = names.MINIATURE / "adapter", folder / "held-out", []
    scenes(real, 96, 300, "--painted", "--held-out")
    for rank in (None, *SHRUNK):
        run, made = folder / f"judged-{rank}", folder / f"rank-{rank}"
        if rank:
            command(["resize", str(bundled), "--rank", str(rank), "--out", str(made)])
        gallery(run, model="miniature", adapter=str(made if rank else bundled), device="cpu", only=prompts)
        score(run, real=real, features=[])
        scores = parsed(run / "scores.json", Scores.from_json)
        point = next(point for point in scores.curve if point.strength == 1)
        rows.append(
            {"prompts": scores.prompts, "gap_closed": point.to_dict()["gap_closed"], "content": point.content.value}
        )
    return rows


def table(result: dict) -> str:
    base, whole, rows = result["base_loss"], result["shrunk_base_loss"], []
    for kind, runs in result["kinds"].items():
        losses = ", ".join(f"{run['loss'] / base - 1:+.1%} at {run['rate']:g}" for run in runs)
        pace = ratio(result["seconds_of_a_step"][kind], result["seconds_of_a_step"]["LoRA"])
        rows.append((kind, losses, f"{runs[0]['bytes'] / 1e6:.1f} MB", "1" if kind == "LoRA" else pace.text(".2f")))
    head = ["Adapter", "held-out loss beside the base's, by learning rate", "file", "seconds a step, LoRA = 1"]
    smaller = [
        (str(row["rank"]), f"{row['bytes'] / 1e6:.2f} MB", f"{row['energy']:.1%}", f"{row['loss'] / whole - 1:+.1%}",
         percent(Estimate(**row["gap_closed"])), f"{row['content']:.2f}")
        for row in result["shrunk"]
    ]  # fmt: skip
    head_smaller = [
        "The bundled adapter at rank", "in bfloat16", "energy kept", "held-out loss beside the base's",
        f"gap to real paintings closed, {result['shrunk'][0]['prompts']} prompts", "composition kept",
    ]  # fmt: skip
    return markdown(head, rows) + "\n\n" + markdown(head_smaller, smaller)


def main() -> None:
    arguments = parser("adapters", __doc__, steps=120, pictures=320, turns=9, prompts=3).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scenes(Path(folder, "painted"), arguments.pictures, 411, "--painted")
        recipe = recipes.changed(recipes.read(recipes.SHIPPED / "miniature.yaml"), [
            f"data.source={folder}/painted", f"run.folder={folder}/run", f"run.cache={folder}/cache",
            "data.held_out=0.15", f"optimizer.steps={arguments.steps}", f"optimizer.train_batch_size={BATCH}",
            f"optimizer.lr_warmup_steps={min(WARMUP, arguments.steps - 1)}", "model.quantize=none",
        ])  # fmt: skip
        context = prepare(recipe)
        base = validation.score(context, validation.held_out_batches(context, recipe), recipe).mean
        kinds = {kind: [trained(context, recipe, config, rate) for rate in RATES] for kind, config in KINDS.items()}
        smaller = [
            row | more
            for row, more in zip(shrunk(context, recipe), judged(Path(folder), arguments.prompts), strict=True)
        ]
        paces = seconds(context, recipe, arguments.turns)
    result = {"rank": RANK, "steps": arguments.steps, "base_loss": base, "kinds": kinds}
    result |= {"shrunk_base_loss": base, "shrunk": smaller}
    result["seconds_of_a_step"] = paces
    record(arguments.out, result, ("torch", "diffusers", "peft"), table)


if __name__ == "__main__":
    main()
