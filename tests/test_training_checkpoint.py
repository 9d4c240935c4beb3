import errno
import os
import re
import stat
import subprocess
import sys

import pytest
import torch

from impressionism.errors import UserError
from training import checkpoint
from training.checkpoint import Position, TrainState


def new_state(fill=None) -> TrainState:
    """One layer of rank 2 with an average; a step was taken where `fill` is given."""
    shapes = {"blocks.0.lora_A": (2, 3), "blocks.0.lora_B": (4, 2)}
    weights = {name: torch.nn.Parameter(torch.full(shape, fill or 0.0)) for name, shape in shapes.items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=0.1)
    if fill is not None:
        sum(weight.sum() for weight in weights.values()).backward()
        optimizer.step()
    return TrainState(weights, optimizer, {name: weight.detach() * 2 for name, weight in weights.items()}, alpha=1.0)


def save(folder, step, *, keep=9, **position):
    return checkpoint.save(folder, new_state(1.0), Position(step=step, **position), keep=keep)


def test_restored_is_what_was_saved(tmp_path):
    saved, state = new_state(1.0), new_state()
    checkpoint.save(tmp_path, saved, Position(step=7, seconds=1.5), keep=3)
    assert checkpoint.restore(tmp_path, state) == Position(step=7, seconds=1.5)
    assert all(torch.equal(weight, saved.weights[name]) for name, weight in state.weights.items())
    assert all(torch.equal(mean, saved.ema[name]) for name, mean in state.ema.items())
    moments = [value["exp_avg"] for value in state.optimizer.state.values()]
    assert all(torch.equal(a, b["exp_avg"]) for a, b in zip(moments, saved.optimizer.state.values(), strict=True))


def test_the_last_ones_stay_and_the_best(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step, keep=2, best={"step": 3, "loss": 0.1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000003", "step-000005", "step-000006"]
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000006"


@pytest.mark.parametrize("damage", ["half", "flipped", "gone", "{}"])
@pytest.mark.parametrize("file", [checkpoint.WEIGHTS_FILE, checkpoint.RAW_WEIGHTS_FILE, checkpoint.OPTIMIZER_FILE,
                                  checkpoint.POSITION_FILE, checkpoint.DIGESTS_FILE])  # fmt: skip
def test_of_a_damaged_checkpoint_the_one_before_is_taken(tmp_path, file, damage, capsys):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / file
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[-3] ^= 1
        path.write_bytes({"half": content[: len(content) // 2], "flipped": content, "{}": b"{}"}[damage])
    assert checkpoint.restore(tmp_path, new_state()) == Position(step=1)
    assert "step-000002 is damaged" in capsys.readouterr().err


def test_a_half_written_folder_counts_for_nothing(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".step-000002.partial").mkdir()
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000001"
    assert checkpoint.restore(tmp_path, new_state()) == Position(step=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_a_disk_that_cannot_flush_a_folder_still_takes_checkpoints(tmp_path, monkeypatch):
    """As some network and FUSE disks."""
    flush = os.fsync

    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    save(tmp_path, 1)
    assert checkpoint.restore(tmp_path, new_state()) == Position(step=1)


FULL = """
import resource, signal, sys, torch
from pathlib import Path
from training import checkpoint
from training.checkpoint import Position, TrainState
from training.checkpoint import Position, TrainState
from impressionism.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
weights = {"a.lora_A": torch.nn.Parameter(torch.ones(1, 100_000))}
state = TrainState(weights, torch.optim.AdamW(weights.values()))
checkpoint.save(Path(sys.argv[1]), state, Position(step=1), keep=3)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as on a full disk, a write fails half-way
try:
    checkpoint.save(Path(sys.argv[1]), state, Position(step=2), keep=3)
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits a file's size as Unix does")
def test_where_a_file_cannot_be_written_the_one_before_stays_and_a_sentence_says_so(tmp_path):
    said = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True).stdout
    assert re.search(r"step-000002 could not be written \(.*step-000001 is whole: make room", said)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path):
    save(tmp_path, 1)
    state = new_state()
    state.optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(7))])
    with pytest.raises(UserError, match=r"written by another version .* begin again in another run.folder"):
        checkpoint.restore(tmp_path, state)
    assert not any(weight.any() for weight in state.weights.values())


def test_nothing_saved_is_nothing_restored(tmp_path):
    assert checkpoint.restore(tmp_path, new_state()) is None
