"""Run folder → Hub: checks, one commit or a pull request, and a comparison with what arrived.

    python -m training push training/recipes/miniature.yaml [--repo USER/NAME] [--private] [--pull-request] [--dry-run]

With --dataset the pictures that `curate` left in data.source are uploaded, with their captions; see curated.py.

What has reached the Hub is not sent again, so after an interruption the same command continues; the tag comes last and
means that all is done.
"""

import filecmp
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, errors, get_token

from impressionism import names
from impressionism.errors import UserError, explain
from impressionism.lora_file import linears_of, read_adapter
from training.parcel import gather, one_line
from training.recipe import TrainingConfig
from training.sources import say

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

    check_fit(recipe.model.base, bundle.weights)
    with upload_errors(repo):
        is_private = prepare_repo(api, repo, "model", names.WEIGHTS_FILE, private=private, pull_request=pull_request)
        refs, before = api.list_repo_refs(repo).tags, api.repo_info(repo).sha
        if pull_request and (url := proposed(api, repo, "model", bundle.title)):
            say(f"{url} proposes all of this; nothing to do.")
            return
        commit = api.create_commit(  # or none where all is there; large files that the Hub lacks are sent before it
            repo,
            [CommitOperationAdd(name, source) for name, source in bundle.files.items()],
            commit_message=bundle.title,
            commit_description=bundle.description,
            create_pr=pull_request,
        )
        if commit.oid == before and (pull_request or bundle.tag in {ref.name for ref in refs}):
            say(f"{repo} holds all of this; nothing to do.")
            return
        with tempfile.TemporaryDirectory() as cache:
            returned = api.hf_hub_download(repo, names.WEIGHTS_FILE, revision=commit.oid, cache_dir=cache)
            if not filecmp.cmp(bundle.weights, returned, shallow=False):
                raise UserError(f"{names.WEIGHTS_FILE} came back from the Hub changed: {AGAIN}.")
        if not pull_request:
            api.create_tag(repo, tag=bundle.tag, revision=commit.oid, exist_ok=True)
    say(f"{commit.pr_url or commit.commit_url} ({'private' if is_private else 'public'}): the adapter came back byte "
        "for byte.")  # fmt: skip
    if not pull_request:
        strength = "" if bundle.strength is None else f" --strength {bundle.strength:g}"
        say(f'Paint with it: python -m impressionism "…" --adapter {repo} --adapter-revision {bundle.tag}{strength}')


def check_fit(base: str, weights: Path) -> None:
    """Refuse an adapter that does not fit the base of its recipe, where that lies here."""
    folder = names.MINIATURE if base == "miniature" else Path(base)
    if folder.is_dir():
        read_adapter(weights, linears_of(folder))


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


def proposed(api: HfApi, repo: str, kind: str, title: str) -> str | None:
    """The address of the user's own open pull request of this title, which names the files by their digest."""
    user = api.whoami()["name"]
    pulls = api.get_repo_discussions(
        repo, repo_type=kind, author=user, discussion_type="pull_request", discussion_status="open"
    )
    return next((pull.url for pull in pulls if pull.title == title), None)


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
