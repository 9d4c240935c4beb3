"""The way to the Hub and what opens there: over HTTP, to the Hub of hub.py."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hub_spaces
import pytest
import yaml
from hub import READER, WRITER, Hub
from hub_protocol import sha256
from space_served import served, visitor
from tiny import make_tiny_adapter

from impressionism import names, paint
from impressionism.pipeline import Painter
from impressionism.records import GenerationParams
from space import deploy
from space.opening import open_painter
from space.studio import Studio

PINNED = names.ENVIRONMENT["adapter_pinned"]
ROOT = Path(__file__).parents[1]
SPACE = "monet/impressionism"
SMALL = {"steps": 2, "width": 64, "height": 64}


@pytest.fixture
def stocked(hub: Hub, tiny_flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """With a base model, an adapter, and a token for the Space in the environment."""
    monkeypatch.setattr(names, "BASE", "bfl/flux")
    monkeypatch.setattr(names, "ADAPTER", "monet/adapter")
    monkeypatch.setattr(names, "ADAPTER_FILE", names.WEIGHTS_FILE)
    hub.add_repo("bfl/flux", tiny_flux)
    hub.add_repo("monet/adapter", make_tiny_adapter(tmp_path / "first"))
    monkeypatch.setenv(deploy.TOKEN, READER)
    monkeypatch.setattr(sys, "argv", ["deploy", SPACE, "--poll", "0.01"])
    hub_spaces.SPACES.clear()
    yield hub


def with_card(hub: Hub, card: str) -> None:
    hub.commit("monet/adapter", hub.files("monet/adapter") | {"README.md": card.encode()})


def switch(hub: Hub, folder: Path, seed: int) -> str:
    """Another adapter on main; its commit."""
    data = make_tiny_adapter(folder, seed=seed).joinpath(names.WEIGHTS_FILE).read_bytes()
    hub.stored[sha256(data)] = data
    return hub.repos["monet/adapter"].commit("refs/heads/main", {names.WEIGHTS_FILE: data}, "another")


def variables(hub: Hub) -> dict[str, str]:
    return hub_spaces.SPACES[SPACE].variables


class Live:
    """What the Space's variables make of it: opened and served as on the Hub."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SPACE_ID", SPACE)
        self.painter: Painter = open_painter(device="cpu")


def test_a_new_space_is_created_filled_awaited_and_asked(
    stocked: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    commit = stocked.repos["monet/adapter"].find("main")
    base = stocked.repos["bfl/flux"].find("main")
    expected = {
        "IMPRESSIONISM_BASE": "bfl/flux", "IMPRESSIONISM_BASE_REVISION": base,
        "IMPRESSIONISM_ADAPTER": "monet/adapter", "IMPRESSIONISM_ADAPTER_REVISION": commit,
    }  # fmt: skip
    live = Live(monkeypatch, expected)
    with served(Studio(live.painter)) as (address, _):
        monkeypatch.setattr(hub_spaces, "State", lambda hardware: answering(address, hardware))
        deploy.main()
    said = capsys.readouterr().out
    state = hub_spaces.SPACES[SPACE]
    assert state.hardware == "zero-a10g"
    assert state.variables == expected
    assert state.secrets == {"HF_TOKEN": READER}
    assert READER not in said and WRITER not in said
    assert "It runs: https://huggingface.co/spaces/monet/impressionism" in said
    assert live.painter.about in said


def answering(address: str, hardware: str) -> "hub_spaces.State":
    state = STATE(hardware)
    state.host = address
    return state


STATE = hub_spaces.State


def test_what_goes_up_is_what_the_space_runs_and_starts_from_there(
    stocked: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Without the packages that only training and evaluation need, for the Space's requirements leave them out."""
    monkeypatch.setattr(deploy, "await_it", lambda *_: None)
    monkeypatch.setattr(deploy, "ask_it", lambda *_: None)
    deploy.main()
    files = stocked.files(f"spaces/{SPACE}")
    assert {name.split("/")[0] for name in files} == {
        "README.md", "LICENSE", "requirements.txt", "app.py", "impressionism", "space", deploy.MANIFEST,
    }  # fmt: skip
    assert max(len(data) for data in files.values()) < 10_000_000
    assert not any("__pycache__" in name or name.startswith((".", "tests")) for name in files)
    head = yaml.safe_load(files["README.md"].decode().split("---")[1])
    pins = files["requirements.txt"].decode().split()
    assert head["app_file"] in files and f"gradio[oauth,mcp]=={head['sdk_version']}" in pins
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    unneeded = ("bitsandbytes", "optimum", "datasets", "pyarrow", "tensorboard", "matplotlib", "optuna")
    assert not [pin for pin in pins if pin.startswith(unneeded)]
    start = (
        f"import sys; sys.modules.update(dict.fromkeys({unneeded}))\n"
        "import app, space.app; from impressionism.pipeline import load_pipeline\n"
        "from impressionism import paint; painter = load_pipeline('miniature', device='cpu'); import impressionism\n"
        "page = space.app.build(painter); print(paint.paint(painter, paint.defaults(painter, 'a boat')).size)\n"
        "print(impressionism.__path__)"
    )
    told = subprocess.run([sys.executable, "-c", start], cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert str(tmp_path) in told.stdout and "(192, 192)" in told.stdout


def test_only_what_a_deployment_put_there_is_ever_deleted(
    stocked: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for step in ("await_it", "ask_it"):
        monkeypatch.setattr(deploy, step, lambda *_: None)
    showcase = tmp_path / "run" / "gallery" / "showcase"
    showcase.mkdir(parents=True)
    (showcase / "showcase.jsonl").write_text("")
    stocked.add_repo(SPACE, kind="spaces")
    theirs = {"training/fit.py": b"a checkout", "notes.md": b"the owner's"}
    stocked.repos[f"spaces/{SPACE}"].commit("refs/heads/main", theirs, "before")
    hub_spaces.SPACES[SPACE] = STATE()
    deploy.main()
    first = set(stocked.files(f"spaces/{SPACE}"))
    assert set(theirs) < first and any(re.match(r"space/showcase/.+\.png", name) for name in first)
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--run", str(tmp_path / "run")])
    deploy.main()
    second = set(stocked.files(f"spaces/{SPACE}"))
    assert set(theirs) < second
    assert {name for name in second if "showcase/" in name} == {"space/showcase/showcase.jsonl"}


def test_a_dry_run_tells_everything_and_sends_nothing(
    stocked: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--dry-run"])
    deploy.main()
    said = capsys.readouterr().out
    for told in ("zero-a10g", "space/app.py", "variable IMPRESSIONISM_ADAPTER = monet/adapter", "secret HF_TOKEN"):
        assert told in said
    assert READER not in said
    assert not stocked.count("^(POST|PUT|DELETE)")
    assert f"spaces/{SPACE}" not in stocked.repos


def test_a_space_that_does_not_start_says_where_to_look(stocked: Hub, monkeypatch: pytest.MonkeyPatch):
    def breaking(hardware: str) -> "hub_spaces.State":
        state = STATE(hardware)
        state.stages = ["BUILDING", "RUNTIME_ERROR"]
        return state

    monkeypatch.setattr(hub_spaces, "State", breaking)
    with pytest.raises(SystemExit, match=r"stopped at RUNTIME_ERROR \(it broke\).*hf spaces logs"):
        deploy.main()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda patch: patch.setenv(deploy.TOKEN, WRITER), "may write"),
        (lambda patch: patch.delenv(deploy.TOKEN), "set SPACE_HF_TOKEN"),
        (lambda patch: patch.setenv("HF_TOKEN", READER), "log in with a token that may write"),
        (lambda patch: patch.setattr(sys, "argv", ["deploy", "impressionism"]), "say USER/NAME"),
        (lambda patch: patch.setattr(sys, "argv", ["deploy", SPACE, "--adapter", "monet/none"]), "The Hub refused"),
    ],
)
def test_what_the_hub_would_refuse_is_said_in_a_sentence(stocked: Hub, monkeypatch: pytest.MonkeyPatch, spoil, says):
    spoil(monkeypatch)
    with pytest.raises(SystemExit, match=says):
        deploy.main()


def test_what_paints_there_is_pinned_and_never_an_adapter_that_failed(
    stocked: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for step in ("await_it", "ask_it"):
        monkeypatch.setattr(deploy, step, lambda *_: None)
    deploy.main()
    first = variables(stocked)["IMPRESSIONISM_ADAPTER_REVISION"]
    assert PINNED not in variables(stocked)  # nothing has painted there yet
    live = Live(monkeypatch, variables(stocked))
    bad = switch(stocked, tmp_path / "bad", seed=5)
    with served(Studio(live.painter)) as (address, _):
        hub_spaces.SPACES[SPACE].host, hub_spaces.SPACES[SPACE].stages = address, ["RUNNING"]
        deploy.main()
    hub_spaces.SPACES[SPACE].stages = ["RUNTIME_ERROR"]
    deploy.main()  # the same again
    assert variables(stocked)["IMPRESSIONISM_ADAPTER_REVISION"] == bad
    assert variables(stocked)[PINNED] == f"monet/adapter@{first}"


@pytest.mark.parametrize("base", ["monet/other", "[monet/other, renoir/third]"])
def test_an_adapter_of_another_base_is_refused_before_anything_is_sent(stocked: Hub, base: str):
    with_card(stocked, f"---\nbase_model: {base}\n---\n")
    with pytest.raises(
        SystemExit, match=r"monet/adapter is an adapter of monet/other.* loads bfl/flux: name an adapter"
    ):
        deploy.main()
    assert not stocked.count("^(POST|PUT|DELETE)")


@pytest.mark.parametrize(
    ("card", "warns"),
    [
        ("---\nbase_model: BFL/flux\n---\n", False),
        ("---\nbase_model: [bfl/flux, monet/other]\n---\n", False),
        ("---\nlicense: mit\n---\n", True),
        ("---\nbase_model: [\n---\n", True),
        (None, True),
    ],
)
def test_an_adapter_whose_base_nobody_names_is_sent_with_a_warning(
    stocked: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, card: str | None, warns: bool
):
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--dry-run"])
    if card:
        with_card(stocked, card)
    deploy.main()
    told = capsys.readouterr()
    assert "variable IMPRESSIONISM_ADAPTER = monet/adapter" in told.out
    assert told.err.count("No card says that monet/adapter is for bfl/flux") == warns


# ---- What opens there


def test_the_space_switches_to_another_adapter_by_its_variables(
    stocked: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    first = stocked.repos["monet/adapter"].find("main")
    second = switch(stocked, tmp_path / "second", seed=5)
    values = {"IMPRESSIONISM_BASE": "bfl/flux", "IMPRESSIONISM_ADAPTER": "monet/adapter"}
    painters = [
        Live(monkeypatch, {**values, "IMPRESSIONISM_ADAPTER_REVISION": commit}).painter for commit in (first, second)
    ]
    sampling = GenerationParams(prompt="a switch", **SMALL)
    assert [painter.provenance.adapter_revision for painter in painters] == [first, second]
    assert paint.paint(painters[0], sampling).tobytes() != paint.paint(painters[1], sampling).tobytes()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"IMPRESSIONISM_ADAPTER_REVISION": "f" * 40}, "has no revision ffff"),
        ({"IMPRESSIONISM_ADAPTER_REVISION": "main"}, "is not pinned"),
        ({"IMPRESSIONISM_ADAPTER": "monet/elsewhere", "IMPRESSIONISM_ADAPTER_REVISION": "f" * 40}, "monet/elsewhere"),
    ],
)
def test_a_bad_adapter_leaves_the_pinned_one_painting_and_status_says_so(
    stocked: Hub, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str], says: str
):
    commit = stocked.repos["monet/adapter"].find("main")
    values = {
        "IMPRESSIONISM_BASE": "bfl/flux", "IMPRESSIONISM_ADAPTER": "monet/adapter", PINNED: f"monet/adapter@{commit}",
    }  # fmt: skip
    live = Live(monkeypatch, values | wrong)
    with served(Studio(live.painter)) as (address, _):
        client = visitor(address)
        status = client.predict(api_name="/status")
        _, recipe = client.predict(prompt="still painting", **SMALL, api_name="/generate")
    assert says in status["about"] and f"{commit} paints on" in status["about"]
    assert recipe["provenance"]["adapter_revision"] == commit


def test_without_a_pinned_adapter_the_base_paints_with_its_own_or_alone(stocked: Hub, monkeypatch: pytest.MonkeyPatch):
    values = {"IMPRESSIONISM_BASE": "bfl/flux", "IMPRESSIONISM_ADAPTER": "monet/gone"}
    live = Live(monkeypatch, values | {"IMPRESSIONISM_ADAPTER_REVISION": "f" * 40})
    assert live.painter.provenance.adapter == "monet/adapter"  # the published one
