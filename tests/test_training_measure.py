"""`measure`: real steps of a recipe and of its variants, beside what `plan` says."""

import json

import pytest
import torch
from balls import gradient
from torch._dynamo.utils import counters

from impressionism.errors import UserError
from training import base
from training import recipe as recipes
from training.measure import measure
from training.recipe import TrainingConfig


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_variant_is_measured_beside_its_plan(recipe_file, capsys):
    recomputing = "model.quantize=int8 adapter.targets=style model.gradient_checkpointing=true"
    variants = ["optimizer.train_batch_size=1", "optimizer.train_batch_size=4", recomputing]
    measure(recipes.read(recipe_file), variant=variants, steps=3, json=True)
    found = lines(capsys)
    assert [row["variant"] for row in found] == variants
    assert all(row["failed"] is None and row["seconds"] > 0 for row in found)
    one, four, again = found
    assert one["operations"] == one["model_operations"]
    assert 1.2 < again["operations"] / again["model_operations"] < 1.5
    assert 3.9 < four["operations"] / one["operations"] < 4.1
    assert four["plan_peak"] > one["plan_peak"]
    assert four["peak"] > 0


def test_a_variant_that_fails_leaves_the_others_alone(recipe_file, capsys):
    measure(
        recipes.read(recipe_file), variant=["adapter.alpha=1.0e+30", "optimizer.train_batch_size=1"], steps=3, json=True
    )
    bad, good = lines(capsys)
    assert "not finite" in bad["failed"]
    assert good["failed"] is None


def test_it_leaves_no_run_behind_and_says_its_figures_in_a_sentence(recipe_file, capsys):
    recipe = recipes.read(recipe_file)
    measure(recipe, variant=[], steps=2)
    assert capsys.readouterr().out.startswith("the recipe: ")
    assert not recipe.run.folder.exists()


@pytest.mark.parametrize(
    ("variant", "steps", "match"),
    [
        ("optimizer.bach=1", 3, "did you mean train_batch_size"),
        ("optimizer.train_batch_size=1", 1, "--steps should be 2"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_loads(recipe_file, variant, steps, match):
    with pytest.raises(UserError, match=match):
        measure(recipes.read(recipe_file), variant=["optimizer.train_batch_size=1", variant], steps=steps)


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_compiled_blocks_give_the_same_gradients(recipe_file, quantize, monkeypatch):
    """Traced whole as for any compiler; what inductor makes of the graphs is PyTorch's matter."""
    monkeypatch.setattr(base, "COMPILER", "aot_eager")
    torch._dynamo.reset()
    counters.clear()
    gradients, graphs = [], []
    for compiled in ("false", "true"):
        options = [f"model.quantize={quantize}", "model.gradient_checkpointing=true", f"model.compile={compiled}"]
        recipe = recipes.read(recipe_file, options)
        ready = base.prepare(recipe)
        weights = base.inject_adapter(ready, recipe)
        batches = base.training_batches(ready, recipe)  # keeps their modulation at hand, which no compiler could read
        gradient(ready, recipe, next(batches))
        gradients.append({name: weight.grad for name, weight in weights.items()})
        graphs.append(counters["stats"]["unique_graphs"])
    plain, other = gradients
    assert all(torch.equal(plain[name], other[name]) for name in plain)
    assert graphs[0] == 0 < graphs[1]


def test_compiled_blocks_keep_no_expanded_weight_between_the_passes(recipe_file, monkeypatch):
    monkeypatch.setattr(base, "COMPILER", "aot_eager")
    torch._dynamo.reset()
    plain, compiled = (
        kept(recipes.read(recipe_file, ["model.quantize=nf4", "model.gradient_checkpointing=false", option]))
        for option in ("model.compile=false", "model.compile=true")
    )
    assert compiled < 1.1 * plain


def kept(recipe: TrainingConfig) -> int:
    """Bytes of numbers between a step's forward and backward pass."""
    ready = base.prepare(recipe)
    base.inject_adapter(ready, recipe)
    batches = base.training_batches(ready, recipe)
    seen = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda one: seen.setdefault(one.data_ptr(), one), lambda one: one):
        gradient(ready, recipe, next(batches))
    return sum(one.nbytes for one in seen.values() if one.is_floating_point())
