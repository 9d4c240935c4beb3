"""From a name to a folder on this machine, and each way that can fail as a sentence that says what to do."""

import errno
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from impressionism import names
from impressionism.errors import UserError, readable_errors

logger = logging.getLogger(__name__)

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
    from huggingface_hub import HfApi, errors, snapshot_download

    with readable_errors(str(name), revision, instead):
        try:
            snapshot_download(str(name), revision=revision, allow_patterns=patterns, local_files_only=True)
        except errors.LocalEntryNotFoundError:  # one plain question: for files the Hub would be asked six times
            HfApi().repo_info(str(name), revision=revision)
        try:
            return Path(snapshot_download(str(name), revision=revision, allow_patterns=patterns))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            return cached_snapshot(str(name), revision, patterns, error)


def cached_snapshot(name: str, revision: str | None, patterns: list[str], error: OSError) -> Path:
    """The commit in a cache that cannot take a newer one, as when an administrator fills it; raises error without."""
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=True)
    except errors.LocalEntryNotFoundError:
        raise error from None
    logger.warning("The Hub's cache cannot be written, so the commit of %s that is in it is used.", name)
    return Path(folder)


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
