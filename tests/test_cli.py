"""The command `impressionism`, installed from a wheel: it finds its rooms and their files, and `--help` is quick."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files in a folder of their own, without its dependencies, which are installed here already."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    [wheel] = folder.glob("*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", target, wheel], check=True)
    return target


def run(installed: Path, *arguments: str, **more) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(installed / "bin" / "impressionism"), *arguments]
    return subprocess.run(
        command, env={"PYTHONPATH": str(installed), "PATH": ""}, text=True, capture_output=True, **more
    )


def test_help_lists_the_commands_and_imports_nothing_heavy(installed: Path, tmp_path: Path) -> None:
    said = run(installed, "--help", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    for command in ("paint", "space", "train", "evaluate", "card", "deploy"):
        assert f"\n  {command} " in said.stdout
    listed = run(installed, "train", "--help", cwd=tmp_path).stdout
    assert all(command in listed for command in ("curate", "plan", "fit", "push"))
    heavy = "import sys, cli; print([name for name in ('torch', 'diffusers', 'gradio') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", heavy], env={"PYTHONPATH": str(installed)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_command_takes_its_arguments_and_answers_with_its_status(installed: Path, tmp_path: Path) -> None:
    assert "--vram" in run(installed, "train", "plan", "--help", cwd=tmp_path).stdout
    wrong = run(installed, "paint", "a boat", "--strength", "-5", cwd=tmp_path)
    assert wrong.returncode == 2 and "Strength must be" in wrong.stderr and "Traceback" not in wrong.stderr
    unknown = run(installed, "train", "fly", cwd=tmp_path)
    assert unknown.returncode == 2 and "fly" in unknown.stderr


def test_an_installed_package_paints_with_its_bundled_miniature(installed: Path, tmp_path: Path) -> None:
    done = run(installed, "paint", "a boat", "--model", "miniature", "--steps", "2", "--out", "boat.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "boat.png").read_bytes().startswith(b"\x89PNG")
    planned = run(installed, "train", "plan", "8gb", "--vram", "8", cwd=tmp_path)
    assert planned.returncode == 0 and "GiB" in planned.stdout + planned.stderr
