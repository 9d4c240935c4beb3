"""From a name to a folder on this machine, and each way that can fail as a sentence that says what to do."""

import hashlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from impressionism import names
from impressionism.errors import UserError

# What a FluxPipeline is made of; not the 24 GB single file in FLUX.1-dev's root, and no pickle.
PIPELINE_FILES = ["model_index.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.safetensors"]


def check_name(name: str | Path, revision: str | None) -> None:
    """Refuses what is neither on this machine nor can be on the Hub."""
    if Path(name).exists():
        if revision:
            raise UserError(f"{name} is on this machine and has no revision {revision}; leave it out.")
        return
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        raise UserError(f"There is no folder {name}, and it is no Hub repository's id (owner/name) either.")


def folder_of(name: str | Path, revision: str | None, patterns: list[str], instead: str = "") -> Path:
    """The folder itself, or the files of a Hub repository that match, from the cache where they are in it.

    instead: what would also do, for the sentence that says why they cannot be had: "paint with another".
    """
    check_name(name, revision)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    with readable_errors(str(name), revision, instead):
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=patterns))


def commit_of(path: Path) -> str | None:
    """The commit of a file or folder in the Hub's cache."""
    match = re.search(r"/snapshots/([0-9a-f]{40})(/|$)", path.as_posix())
    return match.group(1) if match else None


def digest_of(*files: Path) -> str:
    """A short SHA-256 over the SHA-256s of files, in the order given; files are read side by side."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return hashlib.sha256(b"".join(pool.map(sha256_of, files))).hexdigest()[:16]


def sha256_of(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


@contextmanager
def readable_errors(repository: str, revision: str | None, instead: str = "") -> Iterator[None]:
    """The Hub's exceptions as sentences, which end with what to do instead; the order matters, as some inherit from
    others."""
    from huggingface_hub import errors, get_token

    home = f"https://huggingface.co/{repository}"
    instead = f"; or {instead}" if instead else ""
    try:
        yield
    except errors.GatedRepoError as error:
        login = "" if get_token() else ", then log in with `hf auth login` or set HF_TOKEN"
        raise UserError(f"{repository} asks you to accept its licence at {home}{login}{instead}.") from error
    except errors.RepositoryNotFoundError as error:
        login = "with a token that may read it" if get_token() else "with `hf auth login` or HF_TOKEN if it is private"
        raise UserError(f"The Hub shows no {repository}: check the name, log in {login}{instead}.") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{repository} has no revision {revision}; its revisions are at {home}/commits.") from error
    except errors.RemoteEntryNotFoundError as error:
        raise UserError(f"{repository} lacks a file that is needed: {str(error).splitlines()[0]}") from error
    except (errors.EntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        cause = error.__cause__ or error.__context__  # it also wraps refusals
        if isinstance(cause, errors.HfHubHTTPError):
            raise UserError(refused(repository, cause, instead)) from error
        raise UserError(unreachable(repository, instead)) from error
    except (errors.HFValidationError, errors.HfHubHTTPError) as error:
        raise UserError(refused(repository, error, instead)) from error
    except (errors.HTTPError, ConnectionError) as error:  # no answer at all
        raise UserError(unreachable(repository, instead)) from error


def refused(repository: str, error: Exception, instead: str) -> str:
    response = getattr(error, "response", None)
    status, headers = (response.status_code, response.headers) if response is not None else (0, {})
    wait = headers.get("Retry-After", "")
    advice = {
        401: "log in again with `hf auth login`",
        403: "give the token read access to gated repositories and accept the licence on the Hub",
        429: f"wait {wait} seconds" if wait.isdigit() else "wait a few minutes",
    }.get(status, "try again later, what has arrived is kept")
    said = f"HTTP {status}" if status else str(error).splitlines()[0]
    return f"The Hub refused {repository} ({said}): {advice}{instead}."


def unreachable(repository: str, instead: str) -> str:
    return (
        f"{repository} is not completely on this machine and the Hub cannot be reached: "
        f"connect to the network, or unset HF_HUB_OFFLINE{instead}."
    )


@contextmanager
def without_bars() -> Iterator[None]:
    """Diffusers' and transformers' bars of what they load from this machine; the Hub's, of what it sends, come before.

    Transformers' own switch is the Hub's too, so both are turned on again."""
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    shown = [library for library in (diffusers, transformers) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def label(source: str | Path) -> str:
    """What a record calls a source: a Hub id stays, a folder gives its own name without where it lies."""
    path = Path(source)
    if not path.exists():
        return str(source)
    path = path.resolve()
    if path in (names.MINIATURE.resolve(), names.MINIATURE_ADAPTER.resolve()):
        return "miniature"
    name = path.parent.name if path.name == "adapter" else path.name  # runs/<name>/adapter
    return "miniature (another)" if name == "miniature" else name
