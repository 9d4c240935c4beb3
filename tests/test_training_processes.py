"""Training ended in the middle, and training on several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_training_fit import pictures, recipe_file, weights_of  # noqa: F401 - fixtures

import training
from impressionism.records import Run
from training import fit
from training import recipe as recipes
from training.options import TrainingError

# A process that imports the libraries once, never trains itself (autograd's threads do not survive a fork), and forks.
HARNESS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from training import fit, recipe
wanted = recipe.read(Path(sys.argv[1]), sys.argv[4:])

def start():
    if child := os.fork():
        return child
    try:
        os._exit(0 if fit.fit(wanted) else 3)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)

moments, kills, longest = random.Random(5), int(sys.argv[2]), float(sys.argv[3])
for number in range(kills):
    child = start()
    while number == 0 and not [*wanted.run.folder.glob("checkpoints/step-*")]:  # there is then something to go on from
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended by itself"
        time.sleep(0.01)
    time.sleep(moments.uniform(0.02, longest) * (number > 0))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
child = start()
print("last")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def harness(recipe: Path, kills: int, longest: float, *options: str) -> subprocess.Popen:
    """`fit` that is killed so many times and then left alone: at its first checkpoint, then after at most `longest`
    seconds each time."""
    command = [sys.executable, "-c", HARNESS, recipe, kills, longest, *options]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            start_new_session=True)  # fmt: skip


def on_processes(count: int, *arguments: object) -> subprocess.CompletedProcess:
    """As `accelerate launch --num_processes 2` does on two GPUs; on a CPU that would start only one."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count, *arguments]
    surroundings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(training.__file__).parents[1])}
    return subprocess.run(list(map(str, launch)), capture_output=True, text=True, env=surroundings)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=int)


def script(folder: Path, text: str) -> Path:
    """The file of that text, for processes to run."""
    path = folder / "script.py"
    path.write_text(text)
    return path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="ends a forked process")
def test_ended_at_thirty_random_moments_it_still_comes_out_the_same_bit_for_bit(recipe_file, tmp_path):  # noqa: F811
    changes = ["optimizer.ema=0.9", "run.checkpoint_every=1", "run.validate_every=3", "run.keep=2"]
    whole = recipes.read(recipe_file, [*changes, f"run.folder={tmp_path / 'whole'}"])
    begun = time.monotonic()
    fit.fit(whole)
    took = time.monotonic() - begun  # on a busy machine nothing would be reached in moments of an idle one's
    process = harness(recipe_file, 30, took / 2, *changes, f"run.folder={tmp_path / 'pieces'}")
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert 1 <= said.count("going on from step") <= 30
    expected = weights_of(tmp_path / "whole")
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(tmp_path / "pieces").items())
    lines = [json.loads(line) for line in (tmp_path / "pieces" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8]


def test_two_processes_with_half_the_batch_agree_with_one(recipe_file, tmp_path):  # noqa: F811
    one = recipes.read(recipe_file, ["optimizer.batch=4", f"run.folder={tmp_path / 'one'}"])
    fit.fit(one)
    both = ["fit", recipe_file, "optimizer.batch=2", f"run.folder={tmp_path / 'two'}", f"run.cache={tmp_path / 'new'}"]
    result = on_processes(2, "-m", "training", *both)
    assert result.returncode == 0, result.stderr
    expected = weights_of(tmp_path / "one")
    for name, weight in weights_of(tmp_path / "two").items():
        torch.testing.assert_close(weight, expected[name], atol=2e-5, rtol=1e-3)
    logs = [json.loads((tmp_path / run / "run.json").read_text()) for run in ("one", "two")]
    assert logs[0]["validation_loss"] == pytest.approx(logs[1]["validation_loss"], rel=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_second_run_in_the_folder_is_refused(recipe_file):  # noqa: F811
    options = ["optimizer.steps=5000"]
    recipe = recipes.read(recipe_file, options)
    process = harness(recipe_file, 0, 0, *options)
    try:
        while not (recipe.run.folder / "log.jsonl").exists() and process.poll() is None:
            time.sleep(0.05)
        with pytest.raises(TrainingError, match="Another process trains in"):
            fit.fit(recipe)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert fit.fit(recipe, until=3) is False  # the lock went with its holder


def test_previews_are_painted_from_the_same_noise_and_laid_out_step_by_prompt(recipe_file, tmp_path):  # noqa: F811
    options = ["preview.prompts=[a ball, a red ball]", "preview.every=4", "preview.steps=2", "preview.size=64x64",
               "optimizer.rate=0.05"]  # fmt: skip
    fit.fit(recipes.read(recipe_file, options))
    previews = tmp_path / "run" / "previews"
    steps = ["step-000000", "step-000004", "step-000008"]
    assert sorted(path.name for path in previews.iterdir()) == ["sheet.jpg", *steps]
    first, _, last = ((previews / step / "00.png").read_bytes() for step in steps)
    assert first != last
    assert load_file(tmp_path / "run" / "adapter" / "pytorch_lora_weights.safetensors")


# What a process holds after a step, with the base whole and sharded, and of how many blocks at once while it takes one.
HELD = """
import gc, json, os, sys
from pathlib import Path
import torch
from torch.distributed.tensor import DTensor
from training import fit, recipe
from training.base import dress, prepare

def held():
    gc.collect()
    tensors = (each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter))
    storages = (tensor.untyped_storage() for tensor in tensors if not tensor.is_meta)
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())

def after_a_step(*options):
    wanted = recipe.read(Path(sys.argv[1]), [*sys.argv[3:], *options])
    base = prepare(wanted)
    weights = dress(base, wanted)
    blocks = [*base.transformer.transformer_blocks, *base.transformer.single_transformer_blocks]
    at_once = []
    def look(*_):
        at_once.append(sum(not isinstance(block.attn.to_q.base.weight, DTensor) for block in blocks))
    for block in blocks:
        block.attn.to_v.register_forward_hook(look)
        block.attn.to_v.register_full_backward_hook(look)
    optimizer = fit.make_optimizer(wanted.optimizer, list(weights.values()))
    fit.take_step(base, wanted, next(fit.upcoming(base, wanted, 0)), weights, {}, optimizer, 0)
    frozen = sum(p.numel() * 4 for block in blocks for p in block.parameters() if not p.requires_grad)
    return {"held": held(), "blocks": frozen, "most at once": max(at_once)}

both = [after_a_step("model.shard=false"), after_a_step("model.shard=true")]
(Path(sys.argv[2]) / f"{os.environ['RANK']}.json").write_text(json.dumps(both))
"""


def test_a_base_that_is_sharded_gives_the_same_adapter_and_previews_and_can_be_resumed(recipe_file, tmp_path):  # noqa: F811
    options = ["model.quantize=none", "model.gradient_checkpointing=1", "preview.prompts=[a ball]", "preview.steps=2",
               "preview.size=64x64", "preview.every=4"]  # fmt: skip
    one = recipes.read(recipe_file, [*options, "optimizer.batch=3", f"run.folder={tmp_path / 'one'}"])
    fit.fit(one)
    stopped_and_resumed = (
        "import sys; from pathlib import Path; from training import fit, recipe; "
        "wanted = recipe.read(Path(sys.argv[1]), sys.argv[2:]); "
        "assert fit.fit(wanted, until=3) is False and fit.fit(wanted)"
    )
    result = on_processes(3, script(tmp_path, stopped_and_resumed), recipe_file, *options, "optimizer.batch=1",
                          "model.shard=true", f"run.folder={tmp_path / 'three'}")  # fmt: skip
    assert result.returncode == 0, result.stderr
    expected = weights_of(tmp_path / "one")
    for name, weight in weights_of(tmp_path / "three").items():
        torch.testing.assert_close(weight, expected[name], atol=2e-5, rtol=1e-3)
    records = [Run.from_json((tmp_path / run / "run.json").read_text()) for run in ("one", "three")]
    assert records[0].validation_loss == pytest.approx(records[1].validation_loss, rel=1e-5)
    for picture in (tmp_path / "one" / "previews").glob("step-*/00.png"):
        again = tmp_path / "three" / picture.relative_to(tmp_path / "one")
        assert np.abs(pixels(picture) - pixels(again)).max() <= 2


def test_a_process_holds_its_half_of_a_sharded_base_and_two_blocks_whole_at_most(recipe_file, tmp_path):  # noqa: F811
    result = on_processes(2, script(tmp_path, HELD), recipe_file, tmp_path, "model.quantize=none")
    assert result.returncode == 0, result.stderr
    for rank in range(2):
        whole, sharded = json.loads((tmp_path / f"{rank}.json").read_text())
        assert whole["blocks"] == sharded["blocks"]
        assert whole["held"] - sharded["held"] == pytest.approx(whole["blocks"] / 2, rel=0.01)
        assert sharded["most at once"] <= 2  # the one that computes, and the one that is fetched meanwhile
