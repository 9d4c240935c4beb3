"""The benchmark of the Space, made small: it asks a real server over HTTP and tells what it measured."""

from argparse import Namespace

import psutil
from space_served import served

from benchmarks import gate
from benchmarks.space import Space, measured, table
from impressionism.pipeline import Painter
from space.studio import Studio


def test_it_measures_a_served_painter_and_says_what_was_not_reached(tiny_painter: Painter):
    with served(Studio(tiny_painter)) as (address, _):
        space = Space(int(address.rsplit(":", 1)[1]), psutil.Process())
        result = measured(tiny_painter, space, Namespace(pairs=1, rounds=1, pictures=6, seconds=0.2))
    overhead, slider = result["a_overhead"], result["b_slider"]  # which of two is more, one turn cannot tell
    assert overhead["app_seconds"] > 0 and overhead["pipeline_seconds"] > 0
    assert slider["moved_seconds"] > 0 and slider["first_seconds"] > 0
    assert result["c_sweep"]["singles"].median > 2
    assert result["d_repeat"]["median_ms"] < 1000
    assert result["e_idle"]["pages_per_second"] > 0
    rows = table(result).splitlines()[2:]
    missed = [row for row in rows if "not reached" in row]
    assert len(missed) == sum(not figures.get("reached", True) for figures in result.values())


def test_the_page_answers_mixed_calls_and_its_memory_is_told(tiny_painter: Painter):
    with served(Studio(tiny_painter)) as (address, _):
        result = gate.measure(Space(int(address.rsplit(":", 1)[1]), psutil.Process()), 30)
    assert sum(result["statuses"].values()) == 30
    assert result["silent"] == 0 and result["statuses"]["200"] > 10
    assert "memory grown over 30 calls" in gate.table(result)
