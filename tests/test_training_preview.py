import shutil

import numpy as np
import pytest
from safetensors.torch import load_file

from impressionism.modulation import StoredLinear
from training import fit, preview
from training import recipe as recipes
from training.base import inject_adapter, prepare


def test_previews_are_painted_from_the_same_noise_and_laid_out_step_by_prompt(recipe_file, tmp_path):
    options = ["preview.prompts=[a ball, a red ball]", "preview.every=4", "preview.steps=2", "preview.size=64x64",
               "optimizer.learning_rate=0.05"]  # fmt: skip
    fit.fit(recipes.read(recipe_file, options))
    previews = tmp_path / "run" / "previews"
    steps = ["step-000000", "step-000004", "step-000008"]
    assert sorted(path.name for path in previews.iterdir()) == ["sheet.jpg", *steps]
    first, _, last = ((previews / step / "00.png").read_bytes() for step in steps)
    assert first != last
    assert load_file(tmp_path / "run" / "adapter" / "pytorch_lora_weights.safetensors")


def test_a_prompt_may_join_on_the_way_and_a_preview_that_was_not_painted_is_painted_later(recipe_file, tmp_path):
    options = ["preview.every=4", "preview.steps=1", "preview.size=64x64"]
    fit.fit(recipes.read(recipe_file, ["preview.prompts=[a ball]", *options]), until=5)
    two = recipes.read(recipe_file, ["preview.prompts=[a ball, a red ball]", *options])
    assert fit.fit(two)
    last = tmp_path / "run" / "previews" / "step-000008"
    kept = {path.name: path.read_bytes() for path in last.iterdir()}
    assert set(kept) == {"00.png", "01.png"}
    shutil.rmtree(last)  # as if the process had been killed between the last checkpoint and its preview
    (tmp_path / "run" / "run.json").unlink()
    assert fit.fit(two)
    assert {path.name: path.read_bytes() for path in last.iterdir()} == kept


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_modulation_computed_ahead_paints_the_same_previews_bit_for_bit(recipe_file, monkeypatch, dtype):
    options = ["preview.prompts=[a ball, a red ball]", "preview.steps=3", "preview.size=64", "model.quantize=none",
               f"model.dtype={dtype}"]  # fmt: skip
    compute, passes = StoredLinear.compute, []

    def counted(self, inputs):
        passes.append(len(inputs))
        return compute(self, inputs)

    monkeypatch.setattr(StoredLinear, "compute", counted)
    painted = {}
    for banked in (True, False):
        recipe = recipes.read(recipe_file, [*options, f"model.modulation_bank={banked}"])
        base = prepare(recipe)
        inject_adapter(base, recipe)
        painted[banked] = list(preview.painted(base, recipe.preview))
    assert passes == [3] * len(passes) and len(passes) == 2 * 4  # a read for each prompt and layer, not for each step
    for ahead, whole in zip(painted[True], painted[False], strict=True):
        assert np.array_equal(np.asarray(ahead), np.asarray(whole))
