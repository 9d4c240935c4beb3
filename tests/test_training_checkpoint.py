import os
import re
import subprocess
import sys

import pytest
import torch

from impressionism.errors import UserError
from training import checkpoint


@pytest.fixture
def state():
    weights = {"a": torch.nn.Parameter(torch.arange(3.0)), "b": torch.nn.Parameter(torch.ones(2, 2))}
    optimizer = torch.optim.AdamW(weights.values(), lr=0.1)
    sum(weight.sum() for weight in weights.values()).backward()
    optimizer.step()
    return weights, {name: weight.detach() * 2 for name, weight in weights.items()}, optimizer


def save(folder, state, step, *, keep=9, **position):
    weights, averages, optimizer = state
    return checkpoint.save(folder, weights, averages, optimizer, {"step": step} | position, keep=keep)


def fresh(state):
    weights = {name: torch.nn.Parameter(torch.zeros_like(weight)) for name, weight in state[0].items()}
    return (
        weights,
        {name: torch.zeros_like(weight) for name, weight in weights.items()},
        torch.optim.AdamW(weights.values(), lr=0.1),
    )


def test_restored_is_what_was_saved(tmp_path, state):
    save(tmp_path, state, 7, seconds=1.5)
    weights, averages, optimizer = fresh(state)
    assert checkpoint.restore(tmp_path, weights, averages, optimizer) == {"step": 7, "seconds": 1.5}
    assert all(torch.equal(weight, state[0][name]) for name, weight in weights.items())
    assert all(torch.equal(mean, state[1][name]) for name, mean in averages.items())
    moments = [value["exp_avg"] for value in optimizer.state.values()]
    assert all(torch.equal(a, b["exp_avg"]) for a, b in zip(moments, state[2].state.values(), strict=True))


def test_the_last_ones_stay_and_the_best(tmp_path, state):
    for step in range(1, 7):
        save(tmp_path, state, step, keep=2, best={"step": 3, "loss": 0.1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000003", "step-000005", "step-000006"]
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000006"


@pytest.mark.parametrize("file", ["adapter.safetensors", "average.safetensors", "optimizer.pt", "position.json"])
def test_of_a_torn_checkpoint_the_one_before_is_taken(tmp_path, state, file, capsys):
    save(tmp_path, state, 1)
    torn = save(tmp_path, state, 2) / file
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    assert checkpoint.restore(tmp_path, *fresh(state)) == {"step": 1}
    assert "step-000002 is torn" in capsys.readouterr().err


def test_a_half_written_folder_counts_for_nothing(tmp_path, state):
    save(tmp_path, state, 1)
    (tmp_path / ".step-000002.partial").mkdir()
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000001"
    save(tmp_path, state, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000002"]


FULL = """
import resource, signal, sys, torch
from pathlib import Path
from training import checkpoint
from impressionism.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
weights = {"a": torch.nn.Parameter(torch.ones(100_000))}
optimizer = torch.optim.AdamW(weights.values())
checkpoint.save(Path(sys.argv[1]), weights, {}, optimizer, {"step": 1}, keep=3)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as on a full disk, a write fails half-way
try:
    checkpoint.save(Path(sys.argv[1]), weights, {}, optimizer, {"step": 2}, keep=3)
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits a file's size as Unix does")
def test_where_a_file_cannot_be_written_the_one_before_stays_and_a_sentence_says_so(tmp_path):
    said = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True).stdout
    assert re.search(r"step-000002 could not be written \(.*step-000001 is whole: make room", said)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_nothing_saved_is_nothing_restored(tmp_path, state):
    assert checkpoint.restore(tmp_path, *fresh(state)) is None


def test_a_checkpoint_of_another_optimizer_is_refused_and_changes_nothing(tmp_path, state):
    save(tmp_path, state, 1)
    weights, averages, _ = fresh(state)
    whole = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(7))])
    with pytest.raises(UserError, match=r"written by another version .* begin again in another run.folder"):
        checkpoint.restore(tmp_path, weights, averages, whole)
    assert not any(weight.any() for weight in weights.values())
