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
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, errors, get_token
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from impressionism import names
from training.examples import say
from training.options import Recipe, TrainingError
from training.parcel import Parcel, gather, one_line, plain

if TYPE_CHECKING:
    from impressionism.pipeline import Painter  # loaded late: a push that has nothing to do is quick

BESIDE = {".gitattributes", "README.md", "LICENSE", "LICENSE.md", names.WEIGHTS_FILE}  # what an adapter's repo may hold
AGAIN = "run the same command again; what has arrived is not sent twice"
ADVICE = {
    400: "mend what it says",
    401: "log in again, with `hf auth login` or HF_TOKEN",
    403: "use a token that may write there, a repository of your own, or --pull-request",
    404: "check its name, and that your token may see it",
    409: "the name is taken; choose another with --repo",
}


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
    new = f"{'private' if private else 'public'} if it is new, tag {parcel.tag}"
    parcel.announce(f"To {repo} ({'as a pull request' if pull_request else new})")
    if dry_run:
        say("Nothing was sent (--dry-run).")
        return

    with readable_errors(repo):
        is_private = arrange(api, repo, private=private, pull_request=pull_request)
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
    where = f"{commit.pr_url or commit.commit_url} ({'private' if is_private else 'public'})"
    say(f"{where}: the adapter came back byte for byte{' and paints the same picture' if painter else ''}.")
    if not pull_request:
        strength = "" if parcel.strength is None else f" --strength {parcel.strength:g}"
        say(f'Paint with it: python -m impressionism "…" --adapter {repo} --adapter-revision {parcel.tag}{strength}')


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


def arrange(api: HfApi, repo: str, *, private: bool, pull_request: bool) -> bool:
    """See to it that the repository is there, and say whether it is private; refuses where something else lives."""
    try:
        there = api.model_info(repo)
    except errors.RepositoryNotFoundError:
        if pull_request:
            raise
        api.create_repo(repo, private=private)
        return private
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
    return bool(there.private)


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
        mine = api.whoami()["name"]
        for pull in api.get_repo_discussions(
            repo, author=mine, discussion_type="pull_request", discussion_status="open"
        ):
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
    """The Hub's exceptions as sentences; uploads and downloads wrap them in others."""
    try:
        yield
    except TrainingError:
        raise
    except json.JSONDecodeError as error:  # a proxy's page, say
        raise TrainingError(f"The Hub answered with something unreadable: later, {AGAIN}.") from error
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        wrapped = isinstance(error, RuntimeError | errors.LocalEntryNotFoundError)
        cause = (wrapped and error.__cause__) or error
        if isinstance(cause, errors.HfHubHTTPError):
            raise TrainingError(refused(repo, cause)) from error
        if isinstance(cause, ValueError):  # what the Hub, or its library, does not take
            raise TrainingError(f"The Hub does not take {repo}: {one_line(cause)}") from error
        raise TrainingError(
            f"The Hub cannot be reached, or the connection broke ({one_line(cause)}): "
            f"connect, unset HF_HUB_OFFLINE, then {AGAIN}."
        ) from error


def refused(repo: str, error: errors.HfHubHTTPError) -> str:
    status = error.response.status_code
    wait = error.response.headers.get("Retry-After")
    advice = ADVICE.get(status, f"later, {AGAIN}")
    if status == 429:
        advice = f"wait {f'{wait} seconds' if wait else 'a few minutes'}, then {AGAIN}"
    if isinstance(error, errors.GatedRepoError):
        advice = f"accept its terms at {HfApi().endpoint}/{repo}"
    message = one_line(error.server_message or "").rstrip(".")
    said = f", {message}" if message and "<" not in message else ""  # a proxy's page says nothing
    return f"The Hub refused {repo} (HTTP {status}{said}): {advice}."


# ---- Back


def painter_at_hand(base: str, adapter: Path) -> "Painter | None":
    """A painter with the adapter, where the base is here and paints within seconds."""
    import torch

    from impressionism.pipeline import load_pipeline, parts

    folder = names.MINIATURE if base == "miniature" else Path(base)
    small = sum(file.stat().st_size for file in parts(folder)) < 1e9
    if not folder.is_dir() or not (small or torch.cuda.is_available()):
        return None
    return load_pipeline(folder, adapter)


def compare(parcel: Parcel, returned: Path, painter: "Painter | None") -> None:
    """The adapter that came back is the one that left, in its bytes and in what it paints."""
    if not filecmp.cmp(parcel.weights, returned, shallow=False):
        raise TrainingError(f"{names.WEIGHTS_FILE} came back from the Hub changed: {AGAIN}.")
    if painter:
        from impressionism.paint import defaults, paint
        from impressionism.pipeline import load_adapter

        sampling = dataclasses.replace(defaults(painter, f"{names.TRIGGER} a boat"), steps=4)
        strength = 1.0 if parcel.strength is None else parcel.strength
        before = paint(painter, sampling, strength)
        painter.flux.unload_lora_weights()
        load_adapter(painter.flux, returned)
        if paint(painter, sampling, strength).tobytes() != before.tobytes():
            raise TrainingError("The adapter that came back paints another picture than the one here: do not use it.")
