"""What of a finished run goes to the Hub: only what belongs there, whole, and with nothing of this machine in it."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml
from huggingface_hub import get_token
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from tqdm import tqdm

from impressionism import names
from impressionism.errors import UserError
from impressionism.files import open_picture
from impressionism.hub import digest_of, sha256_of
from impressionism.records import Run, Scores
from training.sources import say

# Of the adapter's folder, all that goes up; what a tool or a person left there besides stays here.
FILES = (
    names.WEIGHTS_FILE, "*_comfy.safetensors", "README.md", "LICENSE.md", "NOTICE",
    "images/*.jpg", "images/*.png", "images/*.webp",
)  # fmt: skip
ROOT = r"(?<![\w.-])(?<!:/)/"  # the slash of an absolute path, not one in an address or a relative path
SECRETS = {
    "an access token": r"\b(hf|ghp|gho|ghs)_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bsk-[\w-]{20,}|\bAKIA[0-9A-Z]{16}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a password in an address": r"://[^\s/@:]+:[^\s/@]+@",
    "a path of this machine": rf"{ROOT}(home|Users|root|mnt|media|tmp|var|opt|srv|private)/\w|[A-Z]:\\+Users\\+",
}


@dataclass(frozen=True, kw_only=True)
class UploadBundle:
    """What is uploaded of a run."""

    name: str
    """The repository's name where no other is asked for."""
    folder: Path
    """The adapter's folder."""
    files: dict[str, Path | bytes]
    """Path in the repository → the file here, or its content."""
    tag: str
    """Names the weights by their digest, so that it never has to move."""
    title: str
    """The commit's title, which names the files by their digest."""
    description: str
    strength: float | None = None
    """The strength that evaluation recommends; none: these weights were not evaluated."""

    @property
    def weights(self) -> Path:
        return self.folder / names.WEIGHTS_FILE

    def announce(self, where: str) -> None:
        """List what is uploaded, and what is not."""
        sizes = {name: len(it) if isinstance(it, bytes) else it.stat().st_size for name, it in self.files.items()}
        say(f"{where}: {len(sizes)} files, {tqdm.format_sizeof(sum(sizes.values()), 'B')}")
        for name, size in sizes.items():
            say(f"  {tqdm.format_sizeof(size, 'B'):>8}  {name}")
        here = (file.relative_to(self.folder).as_posix() for file in self.folder.rglob("*") if file.is_file())
        if left := sorted(set(here) - set(self.files)):
            say(f"These stay here: {', '.join(left)}.")
        if "README.md" not in self.files:
            say(f"There is no README.md, so the page will be bare: `python -m model_card render {self.folder.parent}`.")


def gather(folder: Path) -> UploadBundle:
    """The finished run's files, if nothing speaks against them; raises with all that does."""
    if not (folder / "run.json").exists():
        raise UserError(
            f"{folder} holds no finished run (no run.json): run `python -m training fit` with the same recipe first."
        )
    adapter, strength = folder / "adapter", recommended_strength(folder)
    files = {file.relative_to(adapter).as_posix(): file for pattern in FILES for file in sorted(adapter.glob(pattern))}
    problems = [] if names.WEIGHTS_FILE in files else [f"adapter/{names.WEIGHTS_FILE} is missing; run fit again"]
    try:
        text = (folder / "run.json").read_text(encoding="utf-8")
        run, facts = Run.from_json(text), portable(json.loads(text))
        record = portable(yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")))
        record.get("tune", {}).pop("storage", None)  # a place, maybe with a password
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{folder}: its records cannot be read ({one_line(error)}); run fit again.") from None
    files["run.json"] = json.dumps(facts, indent=1, sort_keys=True).encode()  # pyright: ignore[reportArgumentType]
    files["recipe.yaml"] = yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=110).encode()  # pyright: ignore[reportArgumentType]
    if problems := problems + problems_of(files):  # pyright: ignore[reportArgumentType]
        raise UserError(f"{folder} cannot go to the Hub: {'; '.join(problems)}.")
    weights, content = sha256_of(adapter / names.WEIGHTS_FILE).hex(), hashlib.sha256()
    for name, source in files.items():
        content.update(f"{name} ".encode() + (source if isinstance(source, bytes) else sha256_of(source)))
    return UploadBundle(
        name=plain(run.name),
        folder=adapter,
        files=files,  # pyright: ignore[reportArgumentType]
        tag=plain(f"{run.name}-step-{run.steps}-{weights[:8]}"),
        title=f"{run.name}, step {run.steps} ({content.hexdigest()[:8]})",
        description=f"Trained on {run.dataset} from {run.base} in {run.seconds / 60:.0f} minutes.",
        strength=strength,
    )


def recommended_strength(folder: Path) -> float | None:
    """The strength that evaluation recommends for the run's adapter; none where it did not find that adapter good."""
    file, weights = folder / "scores.json", folder / "adapter" / names.WEIGHTS_FILE
    if not file.exists():
        return None
    try:
        scores = Scores.from_json(file.read_text(encoding="utf-8"))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be read ({one_line(error)}): evaluate the run again.") from None
    if weights.exists() and digest_of(weights) != scores.provenance.adapter_revision:
        say("The evaluation (scores.json) was made with other weights than those that are uploaded: score them anew.")
        return None
    if not scores.good:
        say("The evaluation does not call this adapter good (scores.json): look at the pictures first.")
        return None
    return scores.strength


def portable(value: Any) -> Any:
    """The same without what holds on this machine only: absolute paths, and passwords in addresses."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
    if not isinstance(value, str):
        return value
    if PureWindowsPath(value).is_absolute():
        return PureWindowsPath(value).name
    if PurePosixPath(value).is_absolute():
        path = Path(value)
        return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.name
    return re.sub(r"(?<=://)[^/@\s]+@", "", value)


def problems_of(files: dict[str, Path | bytes]) -> list[str]:
    """What speaks against uploading these, a sentence each: damaged files, and what nobody should know."""
    patterns, problems = secrets(), []
    for name, source in files.items():
        try:
            problems += secrets_in(name, texts(source), patterns)
        except (SafetensorError, OSError, ValueError) as error:
            problems.append(f"{name} is damaged ({one_line(error)}); make it again")
    return problems


def secrets_in(name: str, texts: Iterable[str], patterns: dict[str, str]) -> list[str]:
    text = "\n".join(texts)
    return [f"{name} holds {what}; take it out" for what, pattern in patterns.items() if re.search(pattern, text)]


def texts(source: Path | bytes) -> Iterator[str]:
    """What can be read in a file: its text, or what its format carries besides tensors or pixels."""
    if isinstance(source, bytes):
        yield source.decode()
    elif source.suffix == ".safetensors":
        if not all(tensor.isfinite().all() for tensor in load_file(source).values()):
            raise ValueError("it holds numbers that are not finite: the training diverged")
        with safe_open(source, framework="pt") as stored:
            yield from (stored.metadata() or {}).values()
    elif source.suffix in (".jpg", ".png", ".webp"):
        with open_picture(source) as image:
            image.load()  # a PNG may have text behind its pixels
            for value in image.info.values():
                yield value.decode("latin-1") if isinstance(value, bytes) else str(value)
    else:
        yield source.read_text(encoding="utf-8", errors="replace")


def secrets() -> dict[str, str]:
    """SECRETS, and those of this machine: what they are → pattern."""
    places = [re.escape(str(place)[1:]) for place in (Path.home(), Path.cwd()) if len(place.parts) > 2]
    own = {"your access token": re.escape(token)} if (token := get_token()) else {}
    here = {"the place where you work": rf"{ROOT}({'|'.join(places)})(?![\w-])"} if places else {}
    return SECRETS | own | here


def plain(name: str) -> str:
    """The name as a tag or a repository takes it."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")


def one_line(text: object) -> str:
    return " ".join(str(text).split())
