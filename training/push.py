"""Run folder → Hub: checks, one commit or a pull request, and a comparison with what arrived.

    python -m training push training/recipes/miniature.yaml [--repo USER/NAME] [--private] [--pull-request] [--dry-run]

With --dataset the pictures that `curate` left in data.source are uploaded, with their captions; see curated.py.

What has reached the Hub is not sent again, so after an interruption the same command continues; the tag comes last and
means that all is done.
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

from huggingface_hub import CommitOperationAdd, HfApi, errors, get_token
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from impressionism import names
from impressionism.errors import UserError, explain
from training.parcel import UploadBundle, gather, one_line
from training.recipe import TrainingConfig
from training.sources import say

if TYPE_CHECKING:
    from impressionism.pipeline import Painter  # loaded late: a push that has nothing to do is quick

# What a repository may hold that this command has not filled yet.
BESIDE = {".gitattributes", "README.md", "LICENSE", "LICENSE.md", names.WEIGHTS_FILE}
AGAIN = "run the same command again; what has arrived is not sent twice"


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
    """Check what the run, or with `dataset` curate, left; upload it, and compare what arrived."""
    if dataset:
        from training.curated import push_dataset  # it brings `datasets`

        push_dataset(recipe, license, repo, private=private, pull_request=pull_request, dry_run=dry_run)
        return
    if license:
        raise UserError("--license is for --dataset: the licence of an adapter is in the card that is rendered.")
    bundle, api = gather(recipe.run.folder), HfApi()
    repo = address(api, bundle.name, repo, dry_run)
    new = f"{'private' if private else 'public'} if it is new, tag {bundle.tag}"
    bundle.announce(f"To {repo} ({'as a pull request' if pull_request else new})")
    if dry_run:
        say("Nothing was sent (--dry-run).")
        return

    with upload_errors(repo):
        is_private = prepare_repo(api, repo, "model", names.WEIGHTS_FILE, private=private, pull_request=pull_request)
        if done := already_there(api, repo, bundle, pull_request=pull_request):
            say(f"{done}; nothing to do.")
            return

    painter = painter_at_hand(recipe.model.base, bundle.weights)  # refuses what does not fit
    with upload_errors(repo):
        commit = api.create_commit(  # or none where all is there; large files that the Hub lacks are sent before it
            repo,
            [CommitOperationAdd(name, source) for name, source in bundle.files.items()],
            commit_message=bundle.title,
            commit_description=bundle.description,
            create_pr=pull_request,
        )
    with tempfile.TemporaryDirectory() as cache:
        with upload_errors(repo):
            returned = Path(api.hf_hub_download(repo, names.WEIGHTS_FILE, revision=commit.oid, cache_dir=cache))
        compare(bundle, returned, painter)
    if not pull_request:
        with upload_errors(repo):
            api.create_tag(repo, tag=bundle.tag, revision=commit.oid, exist_ok=True)
    same = f"the adapter came back byte for byte{' and paints the same picture' if painter else ''}"
    say(f"{commit.pr_url or commit.commit_url} ({'private' if is_private else 'public'}): {same}.")
    if not pull_request:
        strength = "" if bundle.strength is None else f" --strength {bundle.strength:g}"
        say(f'Paint with it: python -m impressionism "…" --adapter {repo} --adapter-revision {bundle.tag}{strength}')


# ---- To the Hub


def address(api: HfApi, name: str, repo: str | None, dry_run: bool) -> str:
    """USER/NAME; without --repo the token's user and this name."""
    if not (dry_run or get_token()):
        raise UserError("The Hub takes files from users only: log in with `hf auth login`, or set HF_TOKEN.")
    if repo is None:
        with upload_errors("your account"):
            user = "USER" if dry_run else api.whoami()["name"]
        repo = f"{user}/{name}"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UserError(f"--repo should read USER/NAME, not {repo!r}.")
    return repo


def prepare_repo(api: HfApi, repo: str, kind: str, mark: str, *, private: bool, pull_request: bool) -> bool:
    """Create the repository where it is missing; whether it is private. Refuses one that holds something else.

    kind: model or dataset. mark: how the name of a file begins by which a repository of ours is known.
    """
    try:
        there: Any = api.repo_info(repo, repo_type=kind)
    except errors.RepositoryNotFoundError:
        if pull_request:
            raise
        api.create_repo(repo, private=private, repo_type=kind)
        return private
    files = {file.rfilename for file in there.siblings or []}
    ours = any(file.startswith(mark) for file in files)
    if (others := files - BESIDE) and not ours and not pull_request:
        raise UserError(
            f"{repo} holds something else ({', '.join(sorted(others)[:3])}): choose another name with --repo, "
            f"or propose it with --pull-request."
        )
    if private and not there.private:
        raise UserError(
            f"{repo} is public already: make it private with `hf repos settings {repo} --type {kind} "
            "--private`, or leave --private."
        )
    return bool(there.private)


def already_there(api: HfApi, repo: str, bundle: UploadBundle, *, pull_request: bool) -> str | None:
    """Where on the Hub all of it is already, if it is; a tag on other weights is refused."""
    tags = [tag.name for tag in api.list_repo_refs(repo).tags]
    if bundle.tag in tags and not is_there(api, repo, bundle, [names.WEIGHTS_FILE], bundle.tag):
        raise UserError(
            f"The tag {bundle.tag} of {repo} names something else: choose another folder, "
            f"or give the tag up with `hf repos tag delete {repo} {bundle.tag} --type model`."
        )
    if is_there(api, repo, bundle, bundle.files, "main") and (pull_request or bundle.tag in tags):
        return f"{repo} holds all of this"
    for pull in open_pulls(api, repo, "model") if pull_request else ():
        if is_there(api, repo, bundle, bundle.files, f"refs/pr/{pull.num}"):
            return f"{pull.url} proposes all of this"
    return None


def open_pulls(api: HfApi, repo: str, kind: str) -> Iterable[Any]:
    """The user's own pull requests."""
    return api.get_repo_discussions(
        repo, repo_type=kind, author=api.whoami()["name"], discussion_type="pull_request", discussion_status="open"
    )


def is_there(api: HfApi, repo: str, bundle: UploadBundle, wanted: Iterable[str], revision: str) -> bool:
    """Whether the repository holds these of the bundle's files, by their hashes."""
    entries = api.get_paths_info(repo, list(wanted), revision=revision)
    there = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    return there.keys() == set(wanted) and all(is_same(there[name], bundle.files[name]) for name in wanted)


def is_same(there: RepoFile, here: Path | bytes) -> bool:
    if there.lfs:
        with io.BytesIO(here) if isinstance(here, bytes) else here.open("rb") as content:
            return there.lfs.sha256 == hashlib.file_digest(content, "sha256").hexdigest()
    return there.blob_id == git_hash(here if isinstance(here, bytes) else here.read_bytes())


@contextmanager
def upload_errors(repo: str) -> Iterator[None]:
    """Failures of an upload become UserError; uploads and downloads wrap the Hub's exceptions in others."""
    try:
        yield
    except UserError:
        raise
    except json.JSONDecodeError as error:  # a proxy's page, for instance
        raise UserError(f"The Hub answered with something unreadable: later, {AGAIN}.") from error
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = (isinstance(error, RuntimeError | errors.LocalEntryNotFoundError) and error.__cause__) or error
        status = cause.response.status_code if isinstance(cause, errors.HfHubHTTPError) else None
        message = one_line(getattr(cause, "server_message", None) or "").rstrip(".")
        if status in ADVICE or status == 404:
            reason = f", {message}" if message and "<" not in message else ""  # a proxy's page says nothing
            advice = ADVICE.get(status, "check its name, and that your token may see it")
            raise UserError(f"The Hub refused {repo} (HTTP {status}{reason}): {advice}.") from error
        if isinstance(cause, ValueError):  # what the Hub, or its library, does not take
            raise UserError(f"The Hub does not take {repo}: {one_line(cause)}") from error
        sentence = explain(cause, repo if status else "", writing=True)
        if sentence is None:
            raise
        raise UserError(f"{sentence.rstrip('.')}; then {AGAIN}.") from error


ADVICE = {
    400: "correct what it names",
    403: "use a token that may write there, a repository of your own, or --pull-request",
    409: "the name is taken; choose another with --repo",
}


# ---- Back


def painter_at_hand(base: str, adapter: Path) -> "Painter | None":
    """A painter with the adapter, where the base is here and paints within seconds."""
    import torch

    from impressionism.pipeline import load_pipeline, weight_files

    folder = names.MINIATURE if base == "miniature" else Path(base)
    small = sum(file.stat().st_size for file in weight_files(folder)) < 1e9
    if not folder.is_dir() or not (small or torch.cuda.is_available()):
        return None
    return load_pipeline(folder, adapter)


def compare(bundle: UploadBundle, returned: Path, painter: "Painter | None") -> None:
    """The adapter that came back is the one that left, in its bytes and in what it paints."""
    if not filecmp.cmp(bundle.weights, returned, shallow=False):
        raise UserError(f"{names.WEIGHTS_FILE} came back from the Hub changed: {AGAIN}.")
    if painter:
        from impressionism.paint import defaults, paint
        from impressionism.pipeline import load_adapter

        params = dataclasses.replace(defaults(painter, f"{names.TRIGGER} a boat"), steps=4)
        before = paint(painter, params, bundle.strength)
        load_adapter(painter.pipe, returned)
        if paint(painter, params, bundle.strength).tobytes() != before.tobytes():
            raise UserError("The adapter that came back paints another picture than the one here: do not use it.")
