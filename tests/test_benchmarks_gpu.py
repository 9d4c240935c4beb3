"""The benchmark for a card, without one: what is measured already is left alone, and what is missing is said."""

from pathlib import Path

from benchmarks import gpu_training
from benchmarks.gpu_scale import FULL

ROW = {"plan_peak": 1, "plan_seconds": 1.0, "operations": 6e14, "model_operations": 4e14, "peak": 1, "seconds": 1.0,
       "failed": None, "matmul_rate": 8e14}  # fmt: skip


def test_where_every_setting_has_a_row_nothing_is_measured():
    rows = [vars(setting) | ROW for setting in gpu_training.settings(FULL)]
    gpu_training.training(Path(), FULL, {"rows": rows}, print, None)
    assert "Not measured" not in gpu_training.training_table({"rows": rows})


def test_settings_without_a_row_are_named_and_shares_are_of_the_rows_own_rate():
    first, *others = gpu_training.settings(FULL)
    table = gpu_training.training_table({"rows": [vars(first) | ROW]})
    assert "| 75% | 50% |" in table
    assert table.endswith(f"Not measured: {'; '.join(one.name() for one in others)}.")


def test_the_models_own_products_are_held_to_what_was_asked():
    compiled = gpu_training.Setting("nf4", 1024, compile=True)
    for operations, verdict in ((4e14, False), (3e14, True)):
        row = vars(compiled) | ROW | {"model_operations": operations}
        assert ("not reached" in gpu_training.training_table({"rows": [row]})) == verdict
