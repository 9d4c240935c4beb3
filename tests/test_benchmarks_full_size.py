"""The full-size benchmark's stages, with a tiny model: what must be the same is, and limits are judged."""

from pathlib import Path

import pytest

from benchmarks import full_size


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder: Path = tmp_path_factory.mktemp("full-size") / "tiny"
    found = {"write": full_size.write(folder, full_size.TINY) | {"process_seconds": 1.0}}
    return found | {
        stage.__name__: stage(folder)
        for stage in (
            full_size.nf4,
            full_size.load,
            full_size.int8,
            full_size.forward,
            full_size.banked,
            full_size.whole,
        )
    }


def test_the_modulation_computed_ahead_is_that_of_its_weights(stages):
    assert stages["banked"]["output"] == stages["whole"]["output"] != stages["forward"]["output"]
    assert 0.5 < stages["banked"]["spread"] < 2
    assert stages["nf4"]["kept"] < stages["int8"]["size"] < stages["write"]["bytes"]


def test_what_is_over_its_limit_is_called_so(stages):
    table = full_size.table({"stages": stages})
    assert "the same output, bit for bit" in table and "not reached" not in table
    [late] = [line for line in full_size.table({"stages": {"nf4": stages["nf4"] | {"seconds": 241}}}).splitlines()
              if line.startswith("| bf16 shards to NF4")]  # fmt: skip
    assert "not reached" in late
