"""The house itself: who may import whom, the Space's front matter, and what its builder would install."""

import ast
import re
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement

from impressionism import names, quantize
from space import deploy
from tools.miniature.captions import NOUNS
from tools.miniature.subjects import MOTIF
from tools.miniature.world import COLOURS
from training import cards, footprint
from training.recipe import Data, TrainingConfig, changed

ROOT = Path(__file__).parents[1]
ROOMS = ("impressionism", "training", "evaluation", "model_card", "space")
# Added by the Spaces builder to our requirements, from its build logs.
BUILDER = ("gradio[oauth,mcp]=={sdk}", "uvicorn>=0.14.0", "websockets>=10.4", "spaces==0.51.3", "torch<=2.13.0")


def imports_of(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add("." * node.level + node.module)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_itself_and_the_painter(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, f"{room} is missing"
    for file in files:
        others = imports_of(file) & set(ROOMS) - {room, "impressionism"}
        assert not others, f"{file.relative_to(ROOT)} imports {others}"


def test_every_precision_is_known_wherever_one_is_chosen():
    for mode in quantize.MODES:
        assert changed(TrainingConfig(data=Data(source="pictures")), [f"model.quantize={mode}"]).model.quantize == mode
        assert footprint.stored(mode, 64, 64, 2) > 0 and cards.PACE[mode] > 0, mode


def test_every_subject_that_is_offered_is_one_that_the_miniature_was_taught():
    taught = {motif: [noun.head for noun in nouns] for motif, nouns in NOUNS.items()}
    found = [next((motif for motif, heads in taught.items() if any(head in subject for head in heads)), None)
             for subject in names.SUBJECTS]  # fmt: skip
    assert None not in found and len(set(found)) == len(found)
    assert set(found) <= set(MOTIF) == set(COLOURS) == set(taught)


def front_matter() -> dict:
    """The head of the Space's README, which a deployment writes."""
    _, head, _ = deploy.readme("monet/paint", names.ADAPTER).split("---\n", 2)
    return yaml.safe_load(head)


def requirements(text: str | None = None) -> list[Requirement]:
    """The project's, or those in a text."""
    lines = (text or (ROOT / "requirements.txt").read_text()).splitlines()
    return [Requirement(line) for each in lines if (line := each.split("#")[0].strip())]


def pins() -> dict[str, str]:
    return {canonical(r.name): str(r.specifier).removeprefix("==") for r in requirements()}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_space_s_front_matter_is_what_the_hub_takes():
    head = front_matter()
    assert head["sdk"] == "gradio"
    assert head["sdk_version"] == pins()["gradio"]
    assert head["python_version"] == "3.12"
    assert (ROOT / head["app_file"]).is_file()
    assert len(head["short_description"]) <= 60
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {head["colorFrom"], head["colorTo"]} <= colours


def test_everything_required_is_pinned_and_installed_as_pinned():
    for requirement in requirements():
        assert str(requirement.specifier).startswith("=="), f"{requirement} is not pinned"
        installed = metadata.version(requirement.name)
        assert requirement.specifier.contains(installed.split("+")[0]), f"{requirement}: {installed} is installed"


def test_the_spaces_builder_can_resolve_our_requirements():
    """Walk the installed metadata from the Space's pins and the builder's additions: no two constraints clash."""
    environment = {**default_environment(), "python_version": "3.12", "python_full_version": "3.12.12"}
    ours = requirements(deploy.requirements())
    assert len(ours) < len(requirements()) and {str(one) for one in ours} <= {str(one) for one in requirements()}
    todo = [*ours, *(Requirement(line.format(sdk=front_matter()["sdk_version"])) for line in BUILDER)]
    todo.append(Requirement("pydantic<=2.12.5"))
    seen = set()
    while todo:
        requirement = todo.pop()
        name = canonical(requirement.name)
        if name.startswith(("nvidia-", "cuda-")) or name in ("triton", "websockets"):
            continue  # come with PyTorch's CUDA build, or with the builder, only; nothing of ours needs them
        version = metadata.version(name).split("+")[0]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} clashes with {name} {version}"
        for extra in requirement.extras or {""}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for line in metadata.requires(name) or []:
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({**environment, "extra": extra}):
                    todo.append(needed)
    assert len(seen) > 50


def test_every_bundled_file_can_be_pushed_to_a_space():
    bundle = list((ROOT / "impressionism" / "miniature").rglob("*"))
    sizes = {file: file.stat().st_size for file in bundle if file.is_file()}
    assert sizes, "the miniature is missing: python -m tools.miniature"
    assert max(sizes.values()) < 10_000_000
    assert sum(sizes.values()) <= 60_000_000
