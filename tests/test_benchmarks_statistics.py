"""The record of the pictorial index's benchmark is of the committed calibration, and reached what it claims."""

import copy
import json

import numpy as np
import pytest

from benchmarks import statistics
from impressionism.pictorial.known import MEASURED

RESULT = json.loads((statistics.HERE / "statistics.json").read_text())


def test_the_record_is_of_the_committed_calibration():
    found = RESULT["a_discrimination"]
    assert found["calibration_is_the_committed_one"]
    assert found["auc_photographs"] == pytest.approx(MEASURED["index"]["auc"], abs=0.002)
    assert found["auc_styles"] == pytest.approx(MEASURED["index"]["auc_styles"], abs=0.002)


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
