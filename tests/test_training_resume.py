"""What may change in a run's folder, and what a run's failures say: all through the command."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from balls import paint, weights_of
from diffusers import FluxPipeline
from safetensors.torch import load_file

from impressionism.names import WEIGHTS_FILE
from training import __main__ as training
from training import checkpoint, fit, resume, runtime
from training import recipe as recipes

HERE = Path(__file__).parents[1]


def run(recipe_file: Path, *options: str) -> int:
    return training.main(["fit", str(recipe_file), *options])


def in_process(recipe_file: Path, *options: str, before: str = "", **environment: str) -> subprocess.CompletedProcess:
    """The command in a process of its own, after some Python."""
    arguments = ["fit", str(recipe_file), *options]
    code = f"import sys\n{before}\nfrom training.__main__ import main\nsys.exit(main({arguments!r}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE,
                          env=os.environ | {"OMP_NUM_THREADS": "1"} | environment)  # fmt: skip


def test_what_changes_no_sample_may_change_in_the_middle(recipe_file, tmp_path):
    whole = recipes.read(recipe_file, [f"run.folder={tmp_path / 'whole'}"])
    fit.fit(whole)
    assert fit.fit(recipes.read(recipe_file), until=3) is False
    changes = ["model.gradient_checkpointing=true", "model.offload=1", "model.device=auto", "run.keep=1",
               "run.log_every=3", "tune.trials=3", "log.report_to=none", "adapter.dtype=float32"]  # fmt: skip
    assert run(recipe_file, *changes) == 0
    expected = weights_of(tmp_path / "whole")
    assert all((weight - expected[name]).abs().max() < 1e-6 for name, weight in weights_of(tmp_path / "run").items())


def test_a_recipe_of_which_nothing_was_trained_is_no_obstacle(recipe_file, tmp_path):
    """As after running out of memory in the first step."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(recipes.read(recipe_file, ["optimizer.batch=4"]).to_yaml())
    assert run(recipe_file) == 0


def test_a_finished_run_is_trained_further_where_its_schedule_allows(recipe_file, tmp_path, capsys):
    constant = ["optimizer.lr_scheduler=constant"]
    whole = [*constant, "optimizer.steps=10", f"run.folder={tmp_path / 'whole'}"]
    assert run(recipe_file, *constant) == 0 and run(recipe_file, *constant, "optimizer.steps=10") == 0
    assert run(recipe_file, *whole) == 0
    first, second = (load_file(tmp_path / name / "adapter" / WEIGHTS_FILE) for name in ("run", "whole"))
    assert all((first[key] == second[key]).all() for key in first)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["steps"] == 10
    assert run(recipe_file, *constant, "optimizer.steps=5") == 2
    assert "has trained 10 steps, and optimizer.steps is 5" in capsys.readouterr().err
    falling = [f"run.folder={tmp_path / 'falling'}"]
    assert run(recipe_file, *falling) == 0 and run(recipe_file, *falling, "optimizer.steps=10") == 2
    assert f"set adapter.start_from={tmp_path / 'falling'} in another run.folder" in capsys.readouterr().err


def test_a_run_goes_on_with_smaller_batches_and_refuses_other_pictures(recipe_file, tmp_path, capsys):
    """As after running out of memory in the middle."""
    assert fit.fit(recipes.read(recipe_file), until=4) is False
    smaller = ["optimizer.train_batch_size=1", "optimizer.gradient_accumulation_steps=2"]
    assert run(recipe_file, *smaller, "data.held_out=0.5") == 2
    assert "data.held_out is 0.2 there and 0.5 here" in capsys.readouterr().err
    assert run(recipe_file, *smaller, "data.limit=5") == 2
    capsys.readouterr()
    assert run(recipe_file, *smaller) == 0
    said = capsys.readouterr().err
    assert "going on from step 4" in said and "pictures in a batch: 1 now and 2 before" in said
    assert json.loads((tmp_path / "run" / "run.json").read_text())["steps"] == 8


def test_damage_to_the_last_checkpoint_costs_only_its_steps(recipe_file, tmp_path, capsys):
    fit.fit(recipes.read(recipe_file, [f"run.folder={tmp_path / 'whole'}"]))
    fit.fit(recipes.read(recipe_file), until=6)
    file = tmp_path / "run" / "checkpoints" / "step-000006" / WEIGHTS_FILE
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    assert run(recipe_file) == 0
    assert "step-000006 is damaged" in capsys.readouterr().err
    expected = weights_of(tmp_path / "whole")
    assert all((weight == expected[name]).all() for name, weight in weights_of(tmp_path / "run").items())


def test_a_checkpoint_paints_as_it_was_trained_alpha_included(recipe_file, tiny_flux, tmp_path):
    options = ["adapter.alpha=8", "adapter.ranks={to_q: 2}", "optimizer.rate=0.02", "adapter.dtype=float32"]
    assert run(recipe_file, *options) == 0
    pictures_painted = []
    for file in ("adapter", "checkpoints/step-000008"):
        pipe = FluxPipeline.from_pretrained(tiny_flux, dtype=torch.float32)
        pipe.load_lora_weights(tmp_path / "run" / file, weight_name=WEIGHTS_FILE)
        pictures_painted.append(paint(pipe))
    assert abs(pictures_painted[0] - pictures_painted[1]).max() < 1e-5
    assert abs(pictures_painted[0] - paint(FluxPipeline.from_pretrained(tiny_flux, dtype=torch.float32))).max() > 0.01


def test_leftovers_of_a_launcher_train_alone_and_are_named(recipe_file, monkeypatch, capsys):
    left = {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    result = in_process(recipe_file, "optimizer.steps=3", **left, ACCELERATE_USE_DEEPSPEED="true",
                        ACCELERATE_MIXED_PRECISION="fp16")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "WORLD_SIZE=4 is set, but no launcher started this process" in result.stderr
    assert "accelerate is configured for DeepSpeed" in result.stderr and "mixed precision fp16" in result.stderr
    monkeypatch.setenv("WORLD_SIZE", "4")  # the one variable alone
    runtime._forget_leftovers()
    assert "WORLD_SIZE" not in os.environ and "WORLD_SIZE=4 is set" in capsys.readouterr().err


def test_out_of_memory_says_what_to_lower_and_the_folder_goes_on(recipe_file):
    limit = ("import resource, torch, training.fit\n"
             "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
             "resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 29), now + (1 << 29)))")  # fmt: skip
    result = in_process(recipe_file, "optimizer.train_batch_size=6000", before=limit)
    assert result.returncode == 2, result.stderr[-2000:]
    assert "Out of memory" in result.stderr and "model.gradient_checkpointing=true" in result.stderr
    assert "Traceback" not in result.stderr
    assert run(recipe_file) == 0  # with another batch size, in the same folder
    assert resume.is_out_of_memory(RuntimeError("unable to mmap 8432 bytes from file <…>: Cannot allocate memory (12)"))


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="limits a file's size as Unix does")
def test_a_full_disk_is_one_sentence(recipe_file, tmp_path):
    full = "import resource, signal, training.fit\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    nothing = full + "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))"
    result = in_process(recipe_file, f"run.cache={tmp_path / 'cache'}", before=nothing)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "because" in result.stderr.splitlines()[-1] and "run the same command again" in result.stderr


def test_a_preview_and_a_tracker_that_cannot_be_written_end_no_run(recipe_file, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "previews").write_text("a file where a folder should be")
    (folder / "tensorboard").write_text("another")
    options = ["preview.prompts=[a ball]", "preview.size=64x64", "preview.steps=1", "preview.every=4"]
    assert run(recipe_file, *options) == 0
    said = capsys.readouterr().err
    assert "Training goes on without" in said and "tensorboard fails and is told no more" in said
    assert checkpoint.latest(folder / "checkpoints") == folder / "checkpoints" / "step-000008"
