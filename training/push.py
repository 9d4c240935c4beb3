"""Run folder → Hub: checks, one commit or a pull request, and a look whether the adapter came back the same.

    python -m training push training/recipes/miniature.yaml [--repo USER/NAME] [--private] [--pull-request] [--dry-run]

With --dataset what `curate` left in data.source goes the same way, as a dataset.

What has reached the Hub is not sent again, so after a cut the same command goes on; the tag comes last and means done.
"""

import dataclasses
import filecmp
import hashlib
import io
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, errors, get_token
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from impressionism import names
from impressionism.errors import UserError
from training.examples import say
from training.parcel import UploadBundle, gather, one_line
from training.recipe import TrainingConfig

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
    recipe: TrainingConfig,
    *,
    dataset: bool = False,
    license: str | None = None,
    repo: str | None = None,
    private: bool = False,
    pull_request: bool = False,
    dry_run: bool = False,
) -> None:
    """Check what the run, or with `dataset` curate, left; send it, and see that it came back the same."""
    if license and not dataset:
        raise UserError("--license is for --dataset: the licence of an adapter is in the card that is rendered.")
    parcel = pictures(recipe, license) if dataset else gather(recipe.run.folder)
    if not (dry_run or get_token()):
        raise UserError("The Hub takes files from users only: log in with `hf auth login`, or set HF_TOKEN.")
    api = HfApi()
    repo = address(api, parcel, repo, dry_run)
    new = f"{'private' if private else 'public'} if it is new, tag {parcel.tag}"
    parcel.announce(f"To {repo} ({'as a pull request' if pull_request else new})")
    if dry_run:
        say("Nothing was sent (--dry-run).")
        return

    with readable_errors(repo):
        is_private = arrange(api, repo, parcel, private=private, pull_request=pull_request)
        if done := found_there(api, repo, parcel, pull_request=pull_request):
            say(f"{done}; nothing to do.")
            return

    painter = None if dataset else painter_at_hand(recipe.model.base, parcel.weights)  # refuses what does not fit
    with readable_errors(repo):
        commit = send(api, repo, parcel, pull_request=pull_request)
    oid = commit.oid
    said = see_pictures(repo, parcel, oid) if dataset else see_adapter(api, repo, parcel, oid, painter)
    if not pull_request:
        with readable_errors(repo):
            api.create_tag(repo, tag=parcel.tag, revision=oid, repo_type=parcel.kind, exist_ok=True)
    say(f"{commit.pr_url or commit.commit_url} ({'private' if is_private else 'public'}): {said}.")
    if not pull_request:
        say(usage(repo, parcel))


def pictures(recipe: TrainingConfig, licence: str | None) -> UploadBundle:
    from training.curated import gather  # loaded late: it brings `datasets`

    return gather(Path(recipe.data.source), licence)


def usage(repo: str, parcel: UploadBundle) -> str:
    if parcel.kind == "dataset":
        return f"Train on it: data.source={repo} data.revision={parcel.tag}"
    strength = "" if parcel.strength is None else f" --strength {parcel.strength:g}"
    return f'Paint with it: python -m impressionism "…" --adapter {repo} --adapter-revision {parcel.tag}{strength}'


# ---- To the Hub


def address(api: HfApi, parcel: UploadBundle, repo: str | None, dry_run: bool) -> str:
    """USER/NAME; without --repo the token's user and the run's name."""
    if repo is None:
        with readable_errors("your account"):
            user = "USER" if dry_run else api.whoami()["name"]
        repo = f"{user}/{parcel.name}"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UserError(f"--repo should read USER/NAME, not {repo!r}.")
    return repo


def arrange(api: HfApi, repo: str, parcel: UploadBundle, *, private: bool, pull_request: bool) -> bool:
    """See to it that the repository is there, and say whether it is private; refuses where something else lives."""
    try:
        there: Any = api.repo_info(repo, repo_type=parcel.kind)
    except errors.RepositoryNotFoundError:
        if pull_request:
            raise
        api.create_repo(repo, private=private, repo_type=parcel.kind)
        return private
    held = {file.rfilename for file in there.siblings or []}
    if (others := held - BESIDE) and parcel.mark not in held and not pull_request:
        raise UserError(
            f"{repo} holds something else ({', '.join(sorted(others)[:3])}): choose another name with --repo, "
            f"or propose it with --pull-request."
        )
    if private and not there.private:
        raise UserError(
            f"{repo} is public already: make it private with `hf repos settings {repo} --type {parcel.kind} "
            "--private`, or leave --private."
        )
    return bool(there.private)


def found_there(api: HfApi, repo: str, parcel: UploadBundle, *, pull_request: bool) -> str | None:
    """Where on the Hub all of it is already, if it is; a tag that names other weights is refused."""
    tags = [tag.name for tag in api.list_repo_refs(repo, repo_type=parcel.kind).tags]
    if parcel.tag in tags and not is_there(api, repo, parcel, parcel.tagged, parcel.tag):
        raise UserError(
            f"The tag {parcel.tag} of {repo} names something else: choose another folder, "
            f"or give the tag up with `hf repos tag delete {repo} {parcel.tag} --type {parcel.kind}`."
        )
    if is_there(api, repo, parcel, parcel.files, "main") and (pull_request or parcel.tag in tags):
        return f"{repo} holds all of this"
    if pull_request:
        mine = api.whoami()["name"]
        for pull in api.get_repo_discussions(
            repo, repo_type=parcel.kind, author=mine, discussion_type="pull_request", discussion_status="open"
        ):
            if is_there(api, repo, parcel, parcel.files, f"refs/pr/{pull.num}"):
                return f"{pull.url} proposes all of this"
    return None


def is_there(api: HfApi, repo: str, parcel: UploadBundle, wanted: Iterable[str], revision: str) -> bool:
    """Whether the repository holds these of the parcel's files, by their hashes."""
    entries = api.get_paths_info(repo, list(wanted), revision=revision, repo_type=parcel.kind)
    there = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    return there.keys() == set(wanted) and all(is_same(there[name], parcel.files[name]) for name in wanted)


def is_same(there: RepoFile, here: Path | bytes) -> bool:
    if there.lfs:
        with io.BytesIO(here) if isinstance(here, bytes) else here.open("rb") as content:
            return there.lfs.sha256 == hashlib.file_digest(content, "sha256").hexdigest()
    return there.blob_id == git_hash(here if isinstance(here, bytes) else here.read_bytes())


def send(api: HfApi, repo: str, parcel: UploadBundle, *, pull_request: bool) -> CommitInfo:
    """One commit, or none where all is there; large files travel before it, those that the Hub lacks."""
    return api.create_commit(
        repo,
        [
            *(CommitOperationAdd(name, source) for name, source in parcel.files.items()),
            *(CommitOperationDelete(name) for name in outdated(api, repo, parcel)),
        ],
        commit_message=parcel.title,
        commit_description=parcel.description,
        create_pr=pull_request,
        repo_type=parcel.kind,
    )


def outdated(api: HfApi, repo: str, parcel: UploadBundle) -> list[str]:
    """Shards of a dataset that was there before: they would be read with the new ones."""
    there = api.list_repo_files(repo, repo_type=parcel.kind) if parcel.kind == "dataset" else []
    return [name for name in there if name.endswith(".arrow") and name not in parcel.files]


@contextmanager
def readable_errors(repo: str) -> Iterator[None]:
    """The Hub's exceptions as sentences; uploads and downloads wrap them in others."""
    try:
        yield
    except UserError:
        raise
    except json.JSONDecodeError as error:  # a proxy's page, say
        raise UserError(f"The Hub answered with something unreadable: later, {AGAIN}.") from error
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        wrapped = isinstance(error, RuntimeError | errors.LocalEntryNotFoundError)
        cause = (wrapped and error.__cause__) or error
        if isinstance(cause, errors.HfHubHTTPError):
            raise UserError(refused(repo, cause)) from error
        if isinstance(cause, ValueError):  # what the Hub, or its library, does not take
            raise UserError(f"The Hub does not take {repo}: {one_line(cause)}") from error
        raise UserError(
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


def see_adapter(api: HfApi, repo: str, parcel: UploadBundle, revision: str, painter: "Painter | None") -> str:
    """Fetch the adapter that was sent, compare, and say how it went."""
    with tempfile.TemporaryDirectory() as cache:
        with readable_errors(repo):
            returned = Path(api.hf_hub_download(repo, names.WEIGHTS_FILE, revision=revision, cache_dir=cache))
        compare(parcel, returned, painter)
    return f"the adapter came back byte for byte{' and paints the same picture' if painter else ''}"


def see_pictures(repo: str, parcel: UploadBundle, revision: str) -> str:
    """Read the dataset as training would, and say how it went."""
    from training.curated import check_returned

    with readable_errors(repo):
        check_returned(parcel, repo, revision)
    return "the first picture of each split came back as it left"


def compare(parcel: UploadBundle, returned: Path, painter: "Painter | None") -> None:
    """The adapter that came back is the one that left, in its bytes and in what it paints."""
    if not filecmp.cmp(parcel.weights, returned, shallow=False):
        raise UserError(f"{names.WEIGHTS_FILE} came back from the Hub changed: {AGAIN}.")
    if painter:
        from impressionism.paint import defaults, paint
        from impressionism.pipeline import load_adapter

        sampling = dataclasses.replace(defaults(painter, f"{names.TRIGGER} a boat"), steps=4)
        strength = 1.0 if parcel.strength is None else parcel.strength
        before = paint(painter, sampling, strength)
        load_adapter(painter.pipe, returned)
        if paint(painter, sampling, strength).tobytes() != before.tobytes():
            raise UserError("The adapter that came back paints another picture than the one here: do not use it.")
