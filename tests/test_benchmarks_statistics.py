"""The record of the index's benchmark is of the committed calibration, and says what it does not reach."""

import copy
import json

import numpy as np
import pytest

from benchmarks import statistics
from impressionism.pictorial import CALIBRATION

RESULT = json.loads((statistics.HERE / "statistics.json").read_text())


def test_the_record_is_of_the_committed_calibration():
    assert {key: RESULT["a_discrimination"][key] for key in CALIBRATION["index"]} == CALIBRATION["index"]


def test_everything_was_reached_and_a_claim_that_falls_short_is_called_so():
    assert "not reached" not in statistics.table(RESULT)
    short = copy.deepcopy(RESULT)
    short["a_discrimination"]["auc_styles"] = 0.77
    [line] = [line for line in statistics.table(short).splitlines() if "not reached" in line]
    assert "other styles" in line


@pytest.mark.parametrize("name", statistics.CHANGES)
def test_a_change_changes_a_picture_a_little(name):
    picture = np.random.default_rng(0).integers(60, 200, (28, 28, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    changed = statistics.CHANGES[name](picture)
    difference = np.abs(changed.astype(int) - picture).mean()
    assert changed.shape == picture.shape and changed.dtype == np.uint8
    assert 0.5 < difference < 20
