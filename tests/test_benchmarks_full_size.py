"""The full-size benchmark's stages, with a tiny model: what must be the same is, and limits are judged."""

import pytest

from benchmarks import full_size


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("full-size")
    found = {"write": full_size.write(folder, full_size.TINY) | {"process_seconds": 1.0}}
    names = ("nf4", "load", "int8", "forward", "banked", "whole")
    return found | {name: full_size.STAGES[name](folder) for name in names}


def test_the_modulation_computed_ahead_is_that_of_its_weights(stages):
    assert stages["banked"]["output"] == stages["whole"]["output"] != stages["forward"]["output"]
    assert 0.5 < stages["banked"]["spread"] < 2
    assert stages["nf4"]["kept"] < stages["int8"]["size"] < stages["write"]["bytes"]
    assert "the same output, bit for bit" in full_size.table({"stages": stages})


@pytest.mark.parametrize(
    ("seconds", "own", "short"), [(240, 7 * 10**9, False), (241, 7 * 10**9, True), (240, 7 * 10**9 + 1, True)]
)
def test_what_is_over_its_limit_is_called_so(stages, seconds, own, short):
    found = stages["nf4"] | {"seconds": seconds, "own": own}
    assert ("not reached" in full_size.table({"stages": {"nf4": found}})) == short
