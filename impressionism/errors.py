"""What goes wrong and can be mended by the person who reads it: one exception, and one table of sentences.

Every room raises UserError for what a person can mend. Failures of the disk and of the Hugging Face Hub become such
sentences here and nowhere else, so that the same failure reads the same in every command.
"""

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(ValueError):
    """One clear sentence for a person: what is wrong and what to do about it."""


def status_of(command: Callable[[], int | None]) -> int:
    """Run a command; its exit status. A UserError, a disk's failure and Ctrl-C become a sentence, not a traceback."""
    try:
        check_environment()
        return command() or 0
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # `… | head` has read enough; nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("\nStopped. What was saved stays; the same command continues from there.", file=sys.stderr)
        return 130
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        print(sentence, file=sys.stderr)
        return 2


def first_line(error: BaseException) -> str:
    """What an exception says, without the rest of a long text; its type where it says nothing."""
    return next((line for line in str(error).strip("'\"").splitlines() if line.strip()), type(error).__name__)


def counted(count: int, thing: str) -> str:
    """Such as "1 picture" and "1,204 pictures"."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def check_environment() -> None:
    """Refuses addresses in the environment with which huggingface_hub and httpx fail while they are imported."""
    from urllib.parse import urlsplit  # here and below: --help needs none of these, and should answer at once

    for name, schemes in {"HF_ENDPOINT": ("http", "https"), **dict.fromkeys(_PROXIES, _PROXY_SCHEMES)}.items():
        if not (address := os.environ.get(name, "")):
            os.environ.pop(name, None)  # empty is the same as unset, except to huggingface_hub
            continue
        try:
            parts = urlsplit(address if "://" in address or name == "HF_ENDPOINT" else f"http://{address}")
            good = parts.scheme in schemes and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            good = False
        if not good:
            raise UserError(
                f"{name} is {address!r}, which is no address such as {schemes[0]}://host: correct or unset it."
            )


def check_port(host: str, port: int | None) -> None:
    """Refuses a port that something else listens at; none: any."""
    import socket

    if port is None:
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OverflowError:
            raise UserError(f"Port {port} is none: ports are from 1 to 65535.") from None
        except OSError as error:
            reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise UserError(
                f"Port {port} {reason}; name another one with --port, or none for the first that is free."
            ) from None


_PROXIES = ("ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


@contextmanager
def readable_errors(
    repository: str = "", revision: str | None = None, instead: str = "", *, writing: bool = False
) -> Iterator[None]:
    """Failures of the Hub and of the disk inside the block become UserError; anything else passes.

    repository: the Hub repository the block talks to. instead: what else the person can do ("paint without it").
    writing: the block writes to the repository.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        sentence = explain(error, repository, revision, instead, writing=writing)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def explain(
    error: BaseException, repository: str = "", revision: str | None = None, instead: str = "", *, writing: bool = False
) -> str | None:
    """The sentence for a failure of the Hub or of the disk, with its remedy; None for any other exception."""
    instead = f"; or {instead}" if instead else ""
    return _explain_hub(error, repository, revision, instead, writing) or explain_disk(error)


# ---- The disk

DISK = {
    errno.ENOSPC: "the disk is full: make room, then run the same command again",
    errno.EFBIG: "the file is larger than the disk or `ulimit -f` allows: make room, then run the same command again",
    errno.EDQUOT: "your disk quota is used up: make room, then run the same command again",
    errno.EACCES: "permission is denied: make it accessible to you, or choose another folder",
    errno.EPERM: "permission is denied: make it accessible to you, or choose another folder",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.EIO: "the disk reports a read or write error: check it, or choose another folder",
    errno.ENOTDIR: "a part of its path is a file, not a folder: choose another folder",
    errno.EEXIST: "a part of its path is a file, not a folder: choose another folder",
    errno.EISDIR: "it is a folder, not a file: name a file",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.EMFILE: "too many files are open: raise the limit with `ulimit -n 4096`",
    errno.ESTALE: "the network disk has lost the file: mount it again",
}


def explain_disk(error: BaseException, path: Path | str | None = None) -> str | None:
    """The sentence for an OSError, or for what safetensors and torch make of one; path: the file, where the error
    does not name it."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (code := re.search(r"\(os error (\d+)\)", str(error))):  # safetensors
        number = int(code[1])
    if number is None and "PytorchStreamWriter failed" in str(error) and _is_full(path):  # torch.save
        number = errno.ENOSPC
    if number == errno.ENOENT and isinstance(error, OSError) and (path or error.filename):
        return f"There is no file or folder {path or error.filename} here."
    if number not in DISK:
        return None
    name = path or (error.filename if isinstance(error, OSError) else None)
    verb = "used" if name and Path(str(name)).exists() else "written"
    return f"{name} cannot be {verb}, because {DISK[number]}." if name else f"{DISK[number].capitalize()}."


def _is_full(path: Path | str | None) -> bool:
    import shutil

    folder = Path(path or ".").absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(existing).free < 2**20


# ---- The Hugging Face Hub


def _explain_hub(
    error: BaseException, repository: str, revision: str | None, instead: str, writing: bool
) -> str | None:
    """The order matters, because some of huggingface_hub's exceptions inherit from others."""
    if isinstance(error, ImportError) and "socks" in str(error).lower():
        return "A proxy is set that begins with socks5://, which needs `pip install socksio`; or unset ALL_PROXY."
    if "huggingface_hub" not in sys.modules:  # nothing has spoken to the Hub
        return None
    from huggingface_hub import constants, errors, get_token

    cache = Path(constants.HF_HUB_CACHE)
    if isinstance(error, OSError) and error.filename and _inside(str(error.filename), cache):
        why = DISK.get(error.errno or 0, f"{error.strerror}").split(":")[0]
        return (
            f"The Hub's cache {cache} cannot be written, because {why}: set HF_HOME to a folder that can be{instead}."
        )
    home = f"{constants.ENDPOINT}/{repository}"
    cause = error.__cause__ or error.__context__
    if isinstance(error, errors.GatedRepoError):
        login = "" if get_token() else ", then log in with `hf auth login` or set HF_TOKEN"
        return f"{repository} asks you to accept its licence at {home}{login}{instead}."
    if isinstance(error, errors.RepositoryNotFoundError):
        allowed = "write to it" if writing else "read it"
        login = (
            f"with a token that may {allowed}" if get_token() else "with `hf auth login` or HF_TOKEN if it is private"
        )
        return f"The Hub shows no {repository}: check the name, log in {login}{instead}."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision}; its revisions are at {home}/commits."
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"{repository} lacks a file that is needed: {first_line(error)}"
    if isinstance(error, errors.EntryNotFoundError | errors.OfflineModeIsEnabled):
        if isinstance(cause, Exception) and not isinstance(cause, errors.EntryNotFoundError):  # it also wraps refusals
            return _explain_hub(cause, repository, revision, instead, writing) or _unreachable(repository, instead)
        return _unreachable(repository, instead)
    if isinstance(error, errors.HFValidationError | errors.HfHubHTTPError):
        return _refused(repository, error, instead, writing)
    if _is_no_answer(error):
        return _unreachable(repository, instead, error)
    return None


def _inside(path: str, folder: Path) -> bool:
    try:
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder.parent))
    except (OSError, ValueError):
        return False


def _refused(repository: str, error: Exception, instead: str, writing: bool) -> str:
    from huggingface_hub import constants

    response = getattr(error, "response", None)
    status, headers = (response.status_code, response.headers) if response is not None else (0, {})
    if 300 <= status < 400:
        return (
            f"The Hub's address {constants.ENDPOINT} redirects to {headers.get('Location', 'nowhere')} "
            f"(HTTP {status}): set HF_ENDPOINT to the final address, or unset it{instead}."
        )
    wait = headers.get("Retry-After", "")
    forbidden = (
        "log in with a token that may write to it"
        if writing
        else "give the token read access to gated repositories and accept the licence on the Hub"
    )
    advice = {
        401: "log in again with `hf auth login`",
        403: forbidden,
        404: _check_endpoint(),
        429: f"wait {wait} seconds" if wait.isdigit() else "wait a few minutes",
    }.get(status, "try again later, what has arrived is kept")
    reason = f"HTTP {status}" if status else first_line(error)
    return f"The Hub refused {repository} ({reason}): {advice}{instead}."


def _check_endpoint() -> str:
    from huggingface_hub import constants

    official = constants.ENDPOINT == "https://huggingface.co"
    return "check the name" if official else f"check HF_ENDPOINT, which is {constants.ENDPOINT}"


def _is_no_answer(error: BaseException) -> bool:
    """Whether the connection failed: huggingface_hub speaks through httpx2, whose errors share one base but two."""
    from huggingface_hub import errors

    named = {"InvalidURL", "UnsupportedProtocol", "LocalProtocolError"}
    return isinstance(error, errors.HTTPError | ConnectionError) or type(error).__name__ in named


def _unreachable(repository: str, instead: str, error: BaseException | None = None) -> str:
    """Names the setting that most likely is at fault."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        remedy = "connect to the network, and unset HF_HUB_OFFLINE"
    elif constants.ENDPOINT != "https://huggingface.co":
        remedy = f"check HF_ENDPOINT, which is {constants.ENDPOINT}, or unset it"
    elif proxy := next((name for name in _PROXIES if os.environ.get(name)), None):
        remedy = f"check the proxy in {proxy}, which is {os.environ[proxy]}, or connect to the network"
    else:
        remedy = "connect to the network"
    what = f"{repository} is not completely on this machine and the Hub" if repository else "The Hub"
    return f"{what} cannot be reached: {remedy}{instead}."
