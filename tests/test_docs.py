"""The documentation, run: the notebooks on the miniature, and every command that a reader is told to type."""

import argparse
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from accelerate.commands.launch import launch_command_parser
from nbclient import NotebookClient
from PIL import Image

from impressionism.records import Run
from training import cards, plan
from training import recipe as recipes

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "training.md", ROOT / "docs" / "evaluation.md")
MORE = ("docs/api.md", "docs/method.md", "CONTRIBUTING.md", "benchmarks/README.md")
LINKED = (*PAGES, *(ROOT / page for page in MORE))
ROOMS = {path.parent.name for path in ROOT.glob("*/__init__.py")}
PATH = re.compile(r"(?:[\w.-]+=)?((?:runs|work|cache|docs|training)/\S+|[\w./-]+\.(?:png|jpg|yaml|jsonl))")
BIN = Path(sys.executable).parent


# ---- The notebooks


def test_the_notebooks_run_from_top_to_bottom_on_the_miniature(tmp_path, monkeypatch):
    folder = tmp_path / "repository"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "__pycache__", "runs", "work", "cache"))
    for name, value in {"QUICK": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1",
                        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "JUPYTER_DATA_DIR": str(tmp_path),
                        "IPYTHONDIR": str(tmp_path / "ipython"), "MPLBACKEND": "agg"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    run = folder / "runs" / "miniature"

    printed = executed(folder, "explore")
    assert (folder / "work" / "explore-curated" / "report.html").exists() and "12 pictures" in printed

    printed = executed(folder, "train")
    assert Run.from_json((run / "run.json").read_text()).steps == 2
    pictures = [Image.open(folder / f"{name}.png").tobytes() for name in ("boat-base", "boat", "mine")]
    assert len(set(pictures)) == 3
    assert "against the base" in printed and "Nothing was sent" in printed

    printed = executed(folder, "evaluate")  # of the run that the one before made
    assert "Recommended strength" in printed and (run / "report.html").exists()


def executed(folder: Path, name: str) -> str:
    """What the notebook prints; every cell must succeed, and it must be committed without outputs."""
    notebook = nbformat.read(folder / "notebooks" / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells), "clear its outputs"
    for cell in notebook.cells:  # a shell command that fails does not end its cell
        cell.source = re.sub(r"^( *)(!.+)$", r"\1\2\n\1assert _exit_code == 0", cell.source, flags=re.MULTILINE)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder / "notebooks")}}).execute()
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


# ---- Every command


class Parsed(Exception):
    """What a program was told: raised where it would begin to work."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one_that_the_program_takes(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # as after a clone: nothing is there but what is tracked
    for name in (*ROOMS, "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    found, made = commands(page), set()
    assert found
    if page.name == "evaluation.md":  # which begins with what training.md's commands left
        assert "](training.md)" in page.read_text()
        write_recipes(PAGES[1])
        found = commands(PAGES[1]) + found
    write_recipes(page)
    for words in found:
        module, *arguments = words[2:]
        if module.split(".")[0] not in ROOMS:
            assert find_spec(module), f"{shlex.join(words)}: there is no {module}"
            continue
        made |= outputs(parsed(module, arguments, monkeypatch))
        missing = [path for path in paths(arguments) if not is_there(path, made)]
        assert not missing, f"{shlex.join(words)}: nothing before it makes {', '.join(missing)}"


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_a_rented_gpu_is_asked_for_as_the_hub_takes_it(tmp_path):
    [line] = [line for line in shell_lines(PAGES[1]) if line.startswith("hf jobs uv run")]
    words = shlex.split(line)
    dry = [str(BIN / "hf"), *words[1:4], "--dry-run", *words[4:]]
    result = subprocess.run(dry, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"HF_TOKEN": "hf_none"})
    assert result.returncode == 0, result.stderr
    assert "HF_TOKEN=***" in result.stdout and "Job not submitted" in result.stdout


def test_the_job_plans_and_lists_its_commands(tmp_path):
    script = [sys.executable, str(ROOT / "training/jobs/train.py"), "miniature", "--folder", str(tmp_path / "run")]
    here = os.environ | {"PYTHONPATH": str(ROOT)}
    options = ["--real", "paintings", "--repo", "monet/lilies", "--dry-run"]
    done = subprocess.run([*script, *options], capture_output=True, text=True, env=here)
    assert done.returncode == 0, done.stderr
    order = [done.stdout.index(part) for part in ("training fit", "gallery", "score", "model_card render", "push")]
    assert order == sorted(order) and not (tmp_path / "run").exists()


def test_the_table_of_cards_says_what_plan_says():
    rows = re.findall(
        r"^\| (\d+) GB \| `(\w+)` \|.*\| ([\d.]+) GiB \| ([\d.]+) MB \|$", PAGES[1].read_text(), re.MULTILINE
    )
    assert len(rows) >= 6
    for gib, name, needed, adapter in rows:
        one = plan.predict(recipes.read(recipes.SHIPPED / f"{name}.yaml"), cards.of_size(float(gib)))
        assert one.fits
        assert (f"{one.needed / cards.GIB:.1f}", f"{one.adapter / 1e6:.1f}") == (needed, adapter), name


# ---- Reading the pages


def shell_lines(page: Path) -> Iterator[str]:
    """The lines of the fenced `sh` blocks, those that end in a backslash joined."""
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        yield from filter(None, block.replace("\\\n", " ").splitlines())


def commands(page: Path) -> list[list[str]]:
    """`python -m …` of the shell lines, also behind `&&`, `accelerate launch`, or in a job's script."""
    return [words for line in shell_lines(page) for words in commands_in(line)]


def commands_in(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    words: list[str] = []
    for token in [*lexer, ";"]:
        if token.strip("&|;"):
            words.append(token)
        else:
            yield from python_of(words)
            words = []


def python_of(words: list[str]) -> Iterator[list[str]]:
    while words and re.fullmatch(r"\w+=\S*", words[0]):  # NAME=value in front
        words = words[1:]
    if words[:2] == ["accelerate", "launch"]:
        launch = launch_command_parser().parse_args(words[2:])
        assert launch.module, "a room is started with -m"
        words = ["python", "-m", launch.training_script, *launch.training_script_args]
    if words[:2] == ["python", "-m"]:
        yield words


# ---- Reading a command


def parsed(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """By the program's own parser."""
    parse, within = argparse.ArgumentParser.parse_known_args, []

    def stop(self, *given, **named):
        within.append(self)
        found, others = parse(self, *given, **named)
        within.pop()
        if within:  # a command's own parser, asked by the program's
            return found, others
        assert all("=" in each and not each.startswith("-") for each in others), others  # keys of a recipe may follow
        raise Parsed(found)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [module, *arguments])
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        with pytest.raises(Parsed) as told:
            runpy.run_module(module, run_name="__main__")
    return told.value.args[0]


def outputs(chosen: argparse.Namespace) -> set[str]:
    """What a command writes; a recipe is checked, key by key, with what is laid over it."""
    told = vars(chosen)
    if "recipe" not in told:
        made = {told.get("folder"), told.get("out")}
        if told.get("compare"):
            made.add(chosen.out.with_name(f"{chosen.out.stem}-base.png"))
        return {str(path) for path in made if path}
    if not chosen.recipe.exists():  # a command before this one makes it
        return set()
    recipe = recipes.read(chosen.recipe, [override for override in chosen.override if "=" in override])
    run = recipe.run.folder
    made = {"curate": recipe.data.source, "caption": recipe.data.captions, "fit": run, "tune": run / "tune"}
    return {str(made[chosen.command])} if chosen.command in made else set()


def paths(arguments: list[str]) -> list[str]:
    return [match[1] for word in arguments if (match := PATH.fullmatch(word))]


def is_there(path: str, made: set[str]) -> bool:
    return Path(path).exists() or any(Path(path).is_relative_to(folder) for folder in made)


def write_recipes(page: Path) -> None:
    """The recipes that a page shows, under the name in their first line."""
    for name, text in re.findall(r"^```yaml\n# (\S+\.yaml)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        Path(name).write_text(text)
