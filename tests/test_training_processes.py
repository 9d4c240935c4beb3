"""Training ended in the middle, and training on several processes."""

import gc
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from balls import weights_of
from PIL import Image
from torch.distributed.tensor import DTensor

from impressionism.errors import UserError
from training import fit
from training import recipe as recipes
from training.base import prepare, training_batches
from training.recipe import TrainingConfig

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


CONFIG = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
num_processes: 2
num_machines: 1
machine_rank: 0
gpu_ids: all
mixed_precision: fp16
dynamo_config: {dynamo_backend: INDUCTOR}
"""


def launched(home: Path, *arguments: object) -> subprocess.CompletedProcess:
    """`accelerate launch` with the configuration that another project left in this home."""
    (home / "accelerate").mkdir(parents=True)
    (home / "accelerate" / "default_config.yaml").write_text(CONFIG)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", free_port(), "-m", "training"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HOME": str(home)}
    command = [*map(str, launch), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def on_processes(count: int, work: Callable, *arguments: object) -> list:
    """What `work` returns in each of so many processes that train together; the libraries are imported once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.fit"])
    port = free_port()
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        running = [pool.submit(joined, rank, count, port, work, *arguments) for rank in range(count)]
        return [process.result() for process in running]


def joined(rank: int, count: int, port: int, work: Callable, *arguments: object) -> object:
    """With what `accelerate launch` tells a process of the others."""
    torch.set_num_threads(1)
    known = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": "test",
    }
    os.environ |= {name: str(value) for name, value in known.items()}
    try:
        return work(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # the others would wait for this one; now the pool ends them


def stopped_and_resumed(recipe: TrainingConfig) -> float | None:
    """The held-out loss."""
    assert fit.fit(recipe, until=3) is False
    return getattr(fit.fit(recipe), "validation_loss", None)


def after_a_step(recipe: TrainingConfig) -> dict[str, int]:
    """The bytes of tensors here, those of all the blocks' weights, and how many blocks were whole at once."""
    base = prepare(recipe)
    state = fit.new_state(base, recipe)
    blocks = [*base.transformer.transformer_blocks, *base.transformer.single_transformer_blocks]
    whole: list[int] = []

    def look(*_: object) -> None:
        whole.append(sum(not isinstance(block.attn.to_q.base.weight, DTensor) for block in blocks))

    for block in blocks:
        block.attn.to_v.register_forward_hook(look)
        block.attn.to_v.register_full_backward_hook(look)
    fit.train_step(base, recipe, state, next(training_batches(base, recipe)), 0)
    frozen = sum(weight.numel() * 4 for block in blocks for weight in block.parameters() if not weight.requires_grad)
    return {"here": held(), "blocks": frozen, "whole": max(whole)}


def held() -> int:
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
    storages = [tensor.untyped_storage() for tensor in tensors if not tensor.is_meta]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=int)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="ends a forked process")
def test_ended_at_ten_random_moments_it_still_comes_out_the_same_bit_for_bit(recipe_file, tmp_path):
    changes = ["optimizer.ema=0.9", "run.checkpoint_every=1", "run.validate_every=3", "run.keep=2"]
    whole = recipes.read(recipe_file, [*changes, f"run.folder={tmp_path / 'whole'}"])
    begun = time.monotonic()
    fit.fit(whole)
    took = time.monotonic() - begun  # on a busy machine nothing would be reached in moments of an idle one's
    process = harness(recipe_file, 10, took / 2, *changes, f"run.folder={tmp_path / 'pieces'}")
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert 1 <= said.count("going on from step") <= 10
    expected = weights_of(tmp_path / "whole")
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(tmp_path / "pieces").items())
    lines = [json.loads(line) for line in (tmp_path / "pieces" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8]


def test_accelerate_launch_with_half_the_batch_on_two_processes_agrees_with_one(recipe_file, tmp_path):
    one = recipes.read(recipe_file, ["optimizer.train_batch_size=4", f"run.folder={tmp_path / 'one'}"])
    fit.fit(one)
    both = [
        "fit",
        recipe_file,
        "optimizer.train_batch_size=2",
        f"run.folder={tmp_path / 'two'}",
        f"run.cache={tmp_path / 'new'}",
    ]
    result = launched(tmp_path / "home", *both)
    assert result.returncode == 0, result.stderr
    assert "accelerate is configured for mixed precision fp16; it is ignored" in result.stderr
    assert "accelerate is configured for TorchDynamo; set model.compile=true" in result.stderr
    expected = weights_of(tmp_path / "one")
    for name, weight in weights_of(tmp_path / "two").items():
        torch.testing.assert_close(weight, expected[name], atol=2e-5, rtol=1e-3)
    logs = [json.loads((tmp_path / run / "run.json").read_text()) for run in ("one", "two")]
    assert logs[0]["validation_loss"] == pytest.approx(logs[1]["validation_loss"], rel=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_second_run_in_the_folder_is_refused(recipe_file):
    options = ["optimizer.steps=5000"]
    recipe = recipes.read(recipe_file, options)
    process = harness(recipe_file, 0, 0, *options)
    try:
        while not (recipe.run.folder / "log.jsonl").exists() and process.poll() is None:
            time.sleep(0.05)
        with pytest.raises(UserError, match="Another process trains in"):
            fit.fit(recipe)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert fit.fit(recipe, until=3) is False  # the lock went with its holder


def test_a_sharded_base_gives_the_same_adapter_and_previews_and_the_run_can_be_resumed(recipe_file, tmp_path):
    options = ["model.quantize=none", "model.gradient_checkpointing=1", "preview.prompts=[a ball]", "preview.steps=2",
               "preview.size=64x64", "preview.every=4"]  # fmt: skip
    one = recipes.read(recipe_file, [*options, "optimizer.train_batch_size=3", f"run.folder={tmp_path / 'one'}"])
    three = [*options, "optimizer.train_batch_size=1", "model.shard=true", f"run.folder={tmp_path / 'three'}"]
    losses = on_processes(3, stopped_and_resumed, recipes.read(recipe_file, three))
    record = fit.fit(one)
    assert record and losses[0] == pytest.approx(record.validation_loss, rel=1e-5)
    expected = weights_of(tmp_path / "one")
    for name, weight in weights_of(tmp_path / "three").items():
        torch.testing.assert_close(weight, expected[name], atol=2e-5, rtol=1e-3)
    for step in ("step-000000", "step-000004", "step-000008"):
        first, second = (pixels(tmp_path / run / "previews" / step / "00.png") for run in ("one", "three"))
        assert np.abs(first - second).max() <= 2


def test_a_process_holds_its_half_of_a_sharded_base_and_two_blocks_whole_at_most(recipe_file):
    wanted = [recipes.read(recipe_file, ["model.quantize=none", f"model.shard={shard}"]) for shard in (False, True)]
    for before, after in zip(*(on_processes(2, after_a_step, recipe) for recipe in wanted), strict=True):
        assert before["blocks"] == after["blocks"]
        assert before["here"] - after["here"] == pytest.approx(before["blocks"] / 2, rel=0.01)
        assert after["whole"] <= 2  # the one that computes, and the one that is fetched meanwhile
