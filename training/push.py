"""Run folder → Hub: checks, one commit or a pull request, and a look whether the adapter came back the same.

    python -m training push training/recipes/miniature.yaml [--repo USER/NAME] [--private] [--pull-request] [--dry-run]

What has reached the Hub is not sent again, so after a cut the same command goes on; the tag comes last and means done.
"""

import dataclasses
import filecmp
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, errors, get_token
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from tqdm import tqdm

from impressionism import names
from impressionism.paint import defaults, paint
from impressionism.pipeline import Painter, load_adapter, load_pipeline, parts
from impressionism.records import Run
from training.examples import say
from training.options import Recipe, TrainingError

# Of the adapter's folder, all that goes up; what a tool or a person left there besides stays here.
BELONGS = (
    names.WEIGHTS_FILE, "*_comfy.safetensors", "README.md", "LICENSE.md", "NOTICE",
    "images/*.jpg", "images/*.png", "images/*.webp",
)  # fmt: skip
BESIDE = {".gitattributes", "README.md", "LICENSE", "LICENSE.md", names.WEIGHTS_FILE}  # what an adapter's repo may hold
SECRETS = {
    "an access token": r"\b(hf|ghp|gho|ghs)_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bsk-[\w-]{20,}|\bAKIA[0-9A-Z]{16}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a password in an address": r"://[^\s/@:]+:[^\s/@]+@",
    "a path of this machine": r"(?<![\w.:/-])(/(home|Users|root|mnt|media|tmp|var|opt|srv|private|scratch)/[\w.@+-]+"
    r"|[A-Z]:\\+Users\\+)",
}
AGAIN = "run the same command again; what has arrived is not sent twice"
ADVICE = {
    400: "mend what it says",
    401: "log in again, with `hf auth login` or HF_TOKEN",
    403: "use a token that may write there, a repository of your own, or --pull-request",
    404: "check its name, and that your token may see it",
    409: "the name is taken; choose another with --repo",
}


@dataclass(frozen=True)
class Parcel:
    """What goes up."""

    run: Run
    folder: Path
    """Of the adapter."""
    files: dict[str, Path | bytes]
    """Path in the repository → where it lies, or what it holds."""

    @property
    def weights(self) -> Path:
        return self.folder / names.WEIGHTS_FILE

    @property
    def tag(self) -> str:
        return plain(f"{self.run.name}-step-{self.run.steps}")


def push(
    recipe: Recipe,
    *,
    repo: str | None = None,
    private: bool = False,
    pull_request: bool = False,
    dry_run: bool = False,
) -> None:
    """Check what the run left, send it, and see that it came back the same."""
    parcel = gather(recipe.run.folder)
    if not (dry_run or get_token()):
        raise TrainingError("The Hub takes files from users only: log in with `hf auth login`, or set HF_TOKEN.")
    api = HfApi()
    repo = address(api, parcel, repo, dry_run)
    announce(parcel, repo, private=private, pull_request=pull_request)
    if dry_run:
        say("Nothing was sent (--dry-run).")
        return

    with readable_errors(repo):
        arrange(api, repo, private=private, pull_request=pull_request)
        if done := found_there(api, repo, parcel, pull_request=pull_request):
            say(f"{done}; nothing to do.")
            return

    painter = painter_at_hand(recipe.model.base, parcel.weights)  # refuses an adapter that does not fit
    with tempfile.TemporaryDirectory() as cache:
        with readable_errors(repo):
            commit = send(api, repo, parcel, pull_request=pull_request)
            returned = Path(api.hf_hub_download(repo, names.WEIGHTS_FILE, revision=commit.oid, cache_dir=cache))
        compare(parcel, returned, painter)
    if not pull_request:
        with readable_errors(repo):
            api.create_tag(repo, tag=parcel.tag, revision=commit.oid, exist_ok=True)
    painted = " and paints the same picture" if painter else ""
    say(f"{commit.pr_url or commit.commit_url}: the adapter came back byte for byte{painted}.")
    if not pull_request:
        say(f'Paint with it: python -m impressionism "…" --adapter {repo} --adapter-revision {parcel.tag}')


# ---- What goes up


def gather(folder: Path) -> Parcel:
    """The finished run's files, if nothing speaks against them; raises with all that does."""
    if not (folder / "run.json").exists():
        raise TrainingError(
            f"{folder} holds no finished run (no run.json): run `python -m training fit` with the same recipe first."
        )
    adapter = folder / "adapter"
    files: dict[str, Path | bytes] = {
        file.relative_to(adapter).as_posix(): file for pattern in BELONGS for file in sorted(adapter.glob(pattern))
    }
    problems = [] if names.WEIGHTS_FILE in files else [f"adapter/{names.WEIGHTS_FILE} is missing; run fit again"]
    try:
        run = Run.from_json((folder / "run.json").read_text(encoding="utf-8"))
        record = portable(yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")))
        record.get("tune", {}).pop("storage", None)  # a place, maybe with a password
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise TrainingError(f"{folder}: its records cannot be read ({error}); run fit again.") from None
    files["run.json"] = json.dumps(portable(dataclasses.asdict(run)), indent=1, sort_keys=True).encode()
    files["recipe.yaml"] = yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=110).encode()
    for name, source in files.items():
        problems += wrong(name, source)
    if problems:
        raise TrainingError(f"{folder} cannot go to the Hub: {'; '.join(problems)}.")
    return Parcel(run, adapter, files)


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


def wrong(name: str, source: Path | bytes) -> list[str]:
    """What speaks against sending a file: it is damaged, or tells what nobody should know."""
    try:
        told = "\n".join(texts(source))
    except (SafetensorError, UnidentifiedImageError, OSError) as error:
        return [f"{name} is damaged ({str(error).splitlines()[0]}); make it again"]
    found = [what for what, pattern in secrets().items() if re.search(pattern, told)]
    return [f"{name} holds {what}; take it out" for what in found]


def texts(source: Path | bytes) -> Iterator[str]:
    """What can be read in a file: its text, or what its format carries besides tensors or pixels."""
    if isinstance(source, bytes):
        yield source.decode()
    elif source.suffix == ".safetensors":
        if not all(tensor.isfinite().all() for tensor in load_file(source).values()):
            raise OSError("it holds numbers that are not finite: the training diverged")
        with safe_open(source, framework="pt") as stored:
            yield from (stored.metadata() or {}).values()
    elif source.suffix in (".jpg", ".png", ".webp"):
        with Image.open(source) as image:
            image.load()
            for value in image.info.values():
                yield value.decode("latin-1") if isinstance(value, bytes) else str(value)
    else:
        yield source.read_text(encoding="utf-8", errors="replace")


def secrets() -> dict[str, str]:
    """SECRETS, and those of this machine."""
    places = [re.escape(str(place)) for place in (Path.home(), Path.cwd()) if len(place.parts) > 2]
    own = {"your access token": re.escape(token)} if (token := get_token()) else {}
    here = {"the place where you work": rf"(?<![\w.:/-])({'|'.join(places)})(?![\w-])"} if places else {}
    return SECRETS | own | here


def announce(parcel: Parcel, repo: str, *, private: bool, pull_request: bool) -> None:
    """What will be sent, and what will not."""
    sizes = {
        name: len(source) if isinstance(source, bytes) else source.stat().st_size
        for name, source in sorted(parcel.files.items())
    }
    how = "as a pull request" if pull_request else f"{'private' if private else 'public'}, tag {parcel.tag}"
    say(f"To {repo} ({how}): {len(sizes)} files, {tqdm.format_sizeof(sum(sizes.values()), 'B')}")
    for name, size in sizes.items():
        say(f"  {tqdm.format_sizeof(size, 'B'):>8}  {name}")
    found = (file.relative_to(parcel.folder).as_posix() for file in sorted(parcel.folder.rglob("*")) if file.is_file())
    if left := [name for name in found if name not in parcel.files]:
        say(f"These stay here: {', '.join(left)}.")
    if "README.md" not in parcel.files:
        say(f"There is no README.md, so the page will be bare: `python -m model_card render {parcel.folder.parent}`.")


# ---- To the Hub


def address(api: HfApi, parcel: Parcel, repo: str | None, dry_run: bool) -> str:
    """USER/NAME; without --repo the token's user and the run's name."""
    if repo is None:
        with readable_errors("your account"):
            user = "USER" if dry_run else api.whoami()["name"]
        repo = f"{user}/{plain(parcel.run.name)}"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise TrainingError(f"--repo should read USER/NAME, not {repo!r}.")
    return repo


def arrange(api: HfApi, repo: str, *, private: bool, pull_request: bool) -> None:
    """See to it that the repository is there; refuses to write where something else lives."""
    try:
        there = api.model_info(repo)
    except errors.RepositoryNotFoundError:
        if pull_request:
            raise
        api.create_repo(repo, private=private)
        return
    held = {file.rfilename for file in there.siblings or []}
    if (others := held - BESIDE) and names.WEIGHTS_FILE not in held and not pull_request:
        raise TrainingError(
            f"{repo} holds something else ({', '.join(sorted(others)[:3])}): choose another name with --repo, "
            f"or propose it with --pull-request."
        )
    if private and not there.private:
        raise TrainingError(
            f"{repo} is public already: make it private with `hf repos settings {repo} --private`, or leave --private."
        )


def found_there(api: HfApi, repo: str, parcel: Parcel, *, pull_request: bool) -> str | None:
    """Where on the Hub all of it is already, if it is; a tag that names other weights is refused."""
    tags = [tag.name for tag in api.list_repo_refs(repo).tags]
    if parcel.tag in tags and not is_there(api, repo, {names.WEIGHTS_FILE: parcel.weights}, parcel.tag):
        raise TrainingError(
            f"The tag {parcel.tag} of {repo} names other weights: train in another run.folder, "
            f"or give the tag up with `hf repos tag delete {repo} {parcel.tag}`."
        )
    if is_there(api, repo, parcel.files, "main") and (pull_request or parcel.tag in tags):
        return f"{repo} holds all of this"
    if pull_request:
        for pull in api.get_repo_discussions(repo, discussion_type="pull_request", discussion_status="open"):
            if is_there(api, repo, parcel.files, f"refs/pr/{pull.num}"):
                return f"{pull.url} proposes all of this"
    return None


def is_there(api: HfApi, repo: str, files: dict[str, Path | bytes], revision: str) -> bool:
    """Whether the repository holds these contents under these names, by their hashes."""
    entries = api.get_paths_info(repo, list(files), revision=revision)
    there = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    return there.keys() == files.keys() and all(is_same(there[name], source) for name, source in files.items())


def is_same(there: RepoFile, here: Path | bytes) -> bool:
    content = here if isinstance(here, bytes) else here.read_bytes()
    if there.lfs:
        return there.lfs.sha256 == hashlib.sha256(content).hexdigest()
    return there.blob_id == git_hash(content)


def send(api: HfApi, repo: str, parcel: Parcel, *, pull_request: bool) -> CommitInfo:
    """One commit, or none where all is there; large files travel before it, those that the Hub lacks."""
    run = parcel.run
    return api.create_commit(
        repo,
        [CommitOperationAdd(name, source) for name, source in parcel.files.items()],
        commit_message=f"{run.name}, step {run.steps}",
        commit_description=f"Trained on {run.dataset} from {run.base} in {run.seconds / 60:.0f} minutes.",
        create_pr=pull_request,
    )


@contextmanager
def readable_errors(repo: str) -> Iterator[None]:
    """The Hub's exceptions as sentences; an upload wraps them in a RuntimeError."""
    try:
        yield
    except TrainingError:
        raise
    except json.JSONDecodeError as error:  # a proxy's page, say
        raise TrainingError(f"The Hub answered with something unreadable: later, {AGAIN}.") from error
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if isinstance(cause, errors.HfHubHTTPError):
            raise TrainingError(refused(repo, cause)) from error
        said = " ".join(str(cause).split()) or type(cause).__name__
        if isinstance(cause, ValueError):  # what the Hub, or its library, does not take
            raise TrainingError(f"The Hub does not take {repo}: {said}") from error
        raise TrainingError(
            f"The Hub cannot be reached, or the connection broke ({said}): connect, unset HF_HUB_OFFLINE, then {AGAIN}."
        ) from error


def refused(repo: str, error: errors.HfHubHTTPError) -> str:
    status = error.response.status_code
    wait = error.response.headers.get("Retry-After")
    advice = ADVICE.get(status, f"later, {AGAIN}")
    if status == 429:
        advice = f"wait {f'{wait} seconds' if wait else 'a few minutes'}, then {AGAIN}"
    if isinstance(error, errors.GatedRepoError):
        advice = f"accept its terms at {HfApi().endpoint}/{repo}"
    message = " ".join((error.server_message or "").split()).rstrip(".")
    said = f", {message}" if message and "<" not in message else ""  # a proxy's page says nothing
    return f"The Hub refused {repo} (HTTP {status}{said}): {advice}."


# ---- Back


def painter_at_hand(base: str, adapter: Path) -> Painter | None:
    """A painter with the adapter, where the base is here and paints within seconds."""
    folder = names.MINIATURE if base == "miniature" else Path(base)
    small = sum(file.stat().st_size for file in parts(folder)) < 1e9
    if not folder.is_dir() or not (small or torch.cuda.is_available()):
        return None
    return load_pipeline(folder, adapter)


def compare(parcel: Parcel, returned: Path, painter: Painter | None) -> None:
    """The adapter that came back is the one that left, in its bytes and in what it paints."""
    if not filecmp.cmp(parcel.weights, returned, shallow=False):
        raise TrainingError(f"{names.WEIGHTS_FILE} came back from the Hub changed: {AGAIN}.")
    if painter:
        sampling = dataclasses.replace(defaults(painter, f"{names.TRIGGER} a boat"), steps=4)
        before = paint(painter, sampling)
        painter.flux.unload_lora_weights()
        load_adapter(painter.flux, returned)
        if paint(painter, sampling).tobytes() != before.tobytes():
            raise TrainingError("The adapter that came back paints another picture than the one here: do not use it.")


def plain(name: str) -> str:
    """The name as a tag or a repository takes it."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")
