"""The gate in front of Gradio: which addresses are open, how large and how frequent requests may be, how long they may
take, and what becomes of files. All limits stand in one table; /status tells them.

Gradio comes with routes, headers and file handling for every kind of app. Here everything is closed that this page does
not use, each request is read and checked before Gradio sees it, and whatever fails inside is one line in the log and
one sentence for the visitor.
"""

import asyncio
import contextlib
import errno
import ipaddress
import json
import logging
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import psutil
from limits import RateLimitItemPerHour, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

logger = logging.getLogger(__name__)

LIMITS: dict[str, int] = {
    "body": 64 * 1024,  # bytes of a request
    "upload": 10 * 1024 * 1024,  # bytes of an uploaded photograph
    "data_url": 4 * 1024 * 1024,  # bytes of an agent's request, which may hold a photograph as text
    "uploads_of_one": 100 * 1024,  # kB an hour from one address; uploads are deleted within the hour
    "uploads_of_all": 1024 * 1024,  # kB an hour from everybody: the most that uploads take of the disk
    "requests_of_one": 6000,  # a minute from one address
    "calls_of_one": 3000,  # of those, a minute: what starts a function or sends a file
    "header_seconds": 10,  # for a request's headers
    "body_seconds": 30,  # for its body
    "waiting": 32,  # paintings that wait for the painter
    "waiting_of_one": 2,  # of those, of one visitor, beside the one that is painted
    "prepare": 2,  # photographs and recipes that are read at the same time
    "visitors": 1000,  # whose last painting is remembered, to be fair to the others
    "keep_seconds": 3000,  # how long a file stays after it was last shown
    "delete_every": 600,  # seconds; together they make the hour that the page promises
}

# And the process's id: where a page keeps its files, under the system's temporary folder.
FOLDER = "impressionism-space-"


class Route(NamedTuple):
    """An open address: a pattern of the whole path."""

    methods: str
    path: str
    kind: str = "request"
    """call: it starts a function; upload, agent: it may bring a photograph."""


ROUTES = [
    Route(
        "GET HEAD", r"/|/config/?|/favicon\.ico|/robots\.txt|/manifest\.json|/pwa_icon(/\d+)?|(/gradio_api)?/theme\.css"
    ),
    Route("GET HEAD", r"/(static|assets|svelte)/.+"),
    Route("GET", r"/login/(huggingface|callback)|/logout"),
    Route("GET", r"/gradio_api/(info/?|openapi\.json|app_id/?|user/?|login_check/?|upload_progress|queue/data)"),
    Route("GET", r"/gradio_api/(heartbeat/[\w-]+|call/(v2/)?\w+/\w+)"),
    Route("GET HEAD", r"/gradio_api/file=.+"),
    Route("POST", r"/gradio_api/(queue/join|call/(v2/)?\w+/?|(run|api)/\w+/?)", "call"),
    Route("POST", r"/gradio_api/(cancel|reset)/?"),
    Route("POST", r"/gradio_api/upload", "upload"),
    Route("GET", r"/gradio_api/mcp/schema"),
    Route("GET POST DELETE", r"/gradio_api/mcp/?", "agent"),
]
STARTUP = "/gradio_api/startup-events"  # Gradio asks for it once, when it is launched
BODY = {"request": "body", "call": "body", "upload": "upload", "agent": "data_url"}
OVERHEAD = 4096  # bytes of a form around an uploaded file

FULL = "The server's disk is full for the moment. Your settings are kept: try again in a few minutes."
FAILED = "Something went wrong on the server. Your settings are kept: try again in a minute."


class Refused(Exception):
    """A request that goes no further: a status, and a sentence for whoever sent it."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Gate:
    """An ASGI application in front of another one."""

    def __init__(self, app: Any, agents: Any = None) -> None:
        """agents: an ASGI application for /gradio_api/mcp."""
        self.app, self.agents = app, agents
        self.limiter = FixedWindowRateLimiter(MemoryStorage())
        self.started = False
        self.uploads = asyncio.Semaphore(4)  # bodies of uploads that are held in memory at the same time

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        reply = Reply(scope, send)
        try:
            kind = self._admit(scope)
            if kind == "upload" or (kind == "agent" and scope["method"] == "POST"):
                async with self.uploads:
                    receive = await self._body(scope, receive, kind)
                    await self._pass_on(scope, receive, reply)
            else:
                await self._pass_on(scope, await self._body(scope, receive, kind), reply)
        except Refused as refused:
            log_briefly("Refused with %d: %s", refused.status, refused.sentence)
            await reply.refuse(refused.status, refused.sentence)
        except Exception as error:
            log_briefly("A request failed: %s", type(error).__name__)  # not its message, which may quote a prompt
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            await reply.refuse(507 if full else 500, FULL if full else FAILED)

    async def _pass_on(self, scope: dict[str, Any], receive: Any, reply: "Reply") -> None:
        path = scope["path"]
        mcp = self.agents and path.rstrip("/") in ("/gradio_api/mcp", "/gradio_api/mcp/schema")
        await (self.agents if mcp else self.app)(scope, receive, reply)
        await reply.finish()

    def _admit(self, scope: dict[str, Any]) -> str:
        """The kind of the request's route; raises Refused."""
        check_encoding(scope)
        method, path, headers = scope["method"], scope["path"], Headers(scope)
        address = address_of(scope)
        if not self._hit(RateLimitItemPerMinute(LIMITS["requests_of_one"]), address):
            raise Refused(429, "Too many requests from your address; try again in a minute.")
        if path == STARTUP and not self.started:
            self.started = True
            return "request"
        fitting = [route for route in ROUTES if re.fullmatch(route.path, path)]
        if not fitting:
            raise Refused(404, "There is nothing at this address. The API is described at /gradio_api/info.")
        kinds = [route.kind for route in fitting if method in route.methods.split()]
        if not kinds:
            raise Refused(405, f"This address does not take {method[:20]}.")
        if method == "POST" and headers.get("sec-fetch-site") == "cross-site" and not on_a_space():
            raise Refused(403, "This page takes no requests from other sites.")
        if method == "POST" and not self._hit(RateLimitItemPerMinute(LIMITS["calls_of_one"]), "call", address):
            raise Refused(429, "Too many calls from your address; try again in a minute.")
        scope["headers"] = [(k, v) for k, v in scope["headers"] if k not in (b"origin", b"x-gradio-server")]
        return kinds[0]

    def _hit(self, limit: Any, *who: str, cost: int = 1) -> bool:
        return self.limiter.hit(limit, *who, cost=cost)

    async def _body(self, scope: dict[str, Any], receive: Any, kind: str) -> Any:
        """The request's body, read at once and within its limits; the app reads it from memory."""
        most = LIMITS[BODY[kind]] if scope["method"] == "POST" else 0
        allowed = most + (OVERHEAD if kind == "upload" else 0)
        too_large = Refused(
            413, f"This is too large: at most {sized(most)}." if most else "This address takes no body."
        )
        length = Headers(scope).get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > allowed:
            raise too_large
        body, more, end = bytearray(), True, time.monotonic() + LIMITS["body_seconds"]
        while more:
            try:
                message = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
            except TimeoutError:
                raise Refused(408, f"The request did not arrive within {LIMITS['body_seconds']} s.") from None
            if message["type"] == "http.disconnect":
                raise Refused(400, "The connection ended before the request had arrived.")
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > allowed:
                raise too_large
        if kind in ("upload", "agent") and len(body) > LIMITS["body"]:
            self._count_upload(address_of(scope), len(body))
        return replayed(bytes(body), receive)

    def _count_upload(self, address: str, size: int) -> None:
        kilobytes = -(-size // 1024)
        if not self._hit(RateLimitItemPerHour(LIMITS["uploads_of_one"]), "upload", address, cost=kilobytes):
            raise Refused(
                429, f"You have sent {sized(1024 * LIMITS['uploads_of_one'])} within an hour; try again later."
            )
        if not self._hit(RateLimitItemPerHour(LIMITS["uploads_of_all"]), "uploads", cost=kilobytes):
            raise Refused(503, "The server holds as many uploads as it can; try again within the hour.")


def replayed(body: bytes, receive: Any) -> Any:
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive_again() -> Any:
        return next(messages, None) or await receive()

    return receive_again


class Reply:
    """The way back: Gradio's plain 500 is held, and told in a sentence; the headers are those that we choose."""

    def __init__(self, scope: dict[str, Any], send: Any) -> None:
        self.scope, self.send = scope, send
        self.begun = self.held = False

    async def __call__(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = [(k.lower(), v) for k, v in message.get("headers", [])]
            kind = dict(headers).get(b"content-type", b"")
            self.held = message["status"] >= 500 and not kind.startswith((b"application/json", b"text/event-stream"))
            message = message | {"headers": self._headers(headers)}
            self.begun = not self.held
        if not self.held:
            await self.send(message)

    def _headers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        kept = [(k, v) for k, v in headers if not k.startswith(b"access-control-")]
        shared = [(b"access-control-allow-origin", b"*")] if on_a_space() else []  # without credentials
        return [*kept, (b"x-content-type-options", b"nosniff"), *shared]

    async def finish(self) -> None:
        if self.held:
            await self.refuse(500, FAILED)

    async def refuse(self, status: int, sentence: str) -> None:
        if self.begun:  # a stream that fails later just ends
            return
        self.begun, self.held = True, False
        body = json.dumps({"detail": sentence}).encode()
        length = str(len(body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length), (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": status, "headers": self._headers(headers)})
        await self.send({"type": "http.response.body", "body": b"" if self.scope["method"] == "HEAD" else body})


# ---- What a request says of itself


class Headers(dict[str, str]):
    """The request's headers; of one that comes twice, the last."""

    def __init__(self, scope: dict[str, Any]) -> None:
        super().__init__((k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in scope["headers"])


def check_encoding(scope: dict[str, Any]) -> None:
    """Refuses addresses that are not text: Gradio and the file system read these each in their own way."""
    raw, query = scope.get("raw_path") or scope["path"].encode(), scope["query_string"]
    try:
        path, asked = unquote_to_bytes(raw).decode(), unquote_to_bytes(query).decode()
    except UnicodeDecodeError:
        raise Refused(400, "This address is not written in UTF-8.") from None
    if re.search(r"[\x00-\x1f\x7f]", path) or "\x00" in asked or re.search(rb"%(?![0-9a-fA-F]{2})", raw):
        raise Refused(400, "This address holds characters that no address has.")
    if len(raw) + len(query) > 16 * 1024:
        raise Refused(414, "This address is too long.")


def address_of(scope: Any) -> str:
    """The visitor's address. On a Space, the last public one that its proxies noted: those before it, a visitor can
    invent (which addresses a Space's proxies note was not measured). Elsewhere, the one that connects to us."""
    connecting = (scope.get("client") or ("unknown",))[0]
    if not on_a_space():
        return connecting
    noted = [part.strip() for part in Headers(scope).get("x-forwarded-for", "").split(",")]
    return next((address for address in reversed(noted) if is_public(address)), connecting)


def is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def on_a_space() -> bool:
    return bool(os.environ.get("SPACE_ID"))


def own_origin(scope: dict[str, Any]) -> str:
    """http://host of the request if the host is one of ours, else nothing: a foreign name is not repeated."""
    host = Headers(scope).get("host", "")
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    name = name.strip("[]").casefold()
    own = {"localhost", socket.gethostname().casefold(), socket.getfqdn().casefold()}
    own |= {each.casefold() for each in os.environ.get("SPACE_HOST", "").split(",") if each}
    try:
        known = bool(ipaddress.ip_address(name))
    except ValueError:
        known = name in own
    if not known or not re.fullmatch(r"[\w.:\[\]-]+", host):
        return ""
    secure = scope.get("scheme") == "https" or Headers(scope).get("x-forwarded-proto") == "https" or on_a_space()
    return f"{'https' if secure else 'http'}://{host}"


def sized(size: int) -> str:
    return f"{size // 2**20} MB" if size >= 2**20 else f"{size // 1024} KB"


# ---- Logs


class Brief:
    """At most one line a second: who sends a thousand bad requests writes one line, with their number."""

    def __init__(self) -> None:
        self.last, self.more = 0.0, 0

    def __call__(self, line: str, *values: Any) -> None:
        if time.monotonic() - self.last < 1:
            self.more += 1
            return
        logger.warning(line + (f" (and {self.more} lines like it)" if self.more else ""), *values)
        self.last, self.more = time.monotonic(), 0


log_briefly = Brief()


# ---- Files


def own_folder() -> Path:
    """Where Gradio keeps this process's uploads and pictures; GRADIO_TEMP_DIR names another place."""
    if "GRADIO_TEMP_DIR" not in os.environ:
        os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-")
    return Path(os.environ["GRADIO_TEMP_DIR"])


def remove_own_folder() -> None:
    """At the end of the program."""
    folder = own_folder()
    if folder.name.startswith(f"{FOLDER}{os.getpid()}-"):
        shutil.rmtree(folder, ignore_errors=True)


def delete_old(keep: Iterable[str] = (), age: float | None = None) -> None:
    """Deletes files that were last shown so many seconds ago, and whole folders of processes that have ended without
    doing it themselves. It walks the folder, so that it also finds what nobody noted: uploads that were cut off."""
    age = LIMITS["keep_seconds"] if age is None else age
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        process = re.match(rf"{FOLDER}(\d+)-", folder.name)
        if process and not psutil.pid_exists(int(process[1])):
            shutil.rmtree(folder, ignore_errors=True)
    kept, folder = set(keep), own_folder()
    for path in sorted(folder.rglob("*"), reverse=True):  # what lies in a folder comes before it
        with contextlib.suppress(OSError):  # it is gone, or a folder that is not empty
            if path.is_dir() and not path.is_symlink():
                if time.time() - path.stat().st_mtime > 60:  # or something is about to be written there
                    path.rmdir()
            elif str(path) not in kept and time.time() - path.lstat().st_mtime > age:
                path.unlink()


def kept_by(page: Any) -> Iterator[str]:
    """Files that belong to the page itself, such as the showcase's."""
    return (file for part in page.blocks.values() for file in getattr(part, "keep_in_cache", ()))


@contextlib.asynccontextmanager
async def deleting(page: Any) -> AsyncIterator[None]:
    """While the page is served, old files are deleted at the start and every ten minutes."""

    async def forever() -> None:
        while True:
            await asyncio.to_thread(lambda: delete_old(kept_by(page)))
            await asyncio.sleep(LIMITS["delete_every"])

    task = asyncio.create_task(forever())
    try:
        yield
    finally:
        task.cancel()
