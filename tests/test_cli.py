"""The command `impressionism`, installed from a wheel: it finds its rooms and their files, and `--help` is quick."""

import contextlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.build import build_wheel

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files in a folder of their own, without its dependencies, which are installed here already."""
    folder = tmp_path_factory.mktemp("installed")
    with contextlib.chdir(ROOT):
        wheel = folder / build_wheel(str(folder))
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as its script runs it, in a folder that is not the repository."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=installed.parent, text=True, capture_output=True,
        env={"PYTHONPATH": str(installed), "PATH": "", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
    )  # fmt: skip


COMMAND = "import sys, cli; sys.argv[0] = 'impressionism'; sys.exit(cli.main())"


def test_the_commands_are_listed_and_wrong_ones_refused_and_nothing_heavy_is_imported(installed: Path) -> None:
    [entry] = installed.glob("*.dist-info/entry_points.txt")
    assert "impressionism = cli:main" in entry.read_text()
    said = run(installed, COMMAND, "--help")
    assert said.returncode == 0, said.stderr
    for command in ("paint", "grid", "space", "train", "evaluate", "card", "deploy"):
        assert f"\n  {command} " in said.stdout
    listed = run(installed, COMMAND, "train", "--help").stdout
    assert all(command in listed for command in ("curate", "plan", "fit", "push"))
    unknown = run(installed, COMMAND, "train", "fly")
    assert unknown.returncode == 2 and "fly" in unknown.stderr
    wrong = run(installed, COMMAND, "paint", "a boat", "--out", "boat.jpg")
    assert wrong.returncode == 2 and "name the picture something.png" in wrong.stderr
    # `impressionism paint --help`, and what it imported
    heavy = "import sys, cli, atexit; atexit.register(lambda: print({'torch', 'diffusers', 'gradio'} & {*sys.modules}))"
    helped = run(installed, f"{heavy}; sys.argv[0] = 'impressionism'; cli.main()", "paint", "--help")
    assert "impressionism paint" in helped.stdout and "--strength" in helped.stdout
    assert helped.stdout.endswith("set()\n"), helped.stderr


def test_an_installed_package_holds_every_file_of_its_rooms_and_paints_with_its_miniature(installed: Path) -> None:
    rooms = ("impressionism", "training", "evaluation", "model_card", "space")
    kept = subprocess.run(["git", "ls-files", *rooms], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    assert not [file for file in kept if (ROOT / file).exists() and not (installed / file).exists()]
    boat = installed.parent / "boat.png"
    command = ("paint", "a bicycle by the sea", "--model", "miniature", "--steps", "1", "--out", str(boat))
    done = run(installed, COMMAND, *command)
    assert done.returncode == 0, done.stderr
    assert boat.read_bytes().startswith(b"\x89PNG")
    assert "The miniature does not know: bicycle." in done.stderr
