"""A Hub on 127.0.0.1: real HTTP in what huggingface_hub speaks, so that a test takes the path that a user takes.

    def test_…(hub):                                  # the fixture is in conftest.py
        hub.add_repo("me/flux", folder, gated=True)
        hub.fail("GET .*/resolve/", status=503, times=2)

Here is the server and what a test does with it; what it answers is in hub_protocol.py. It speaks plain LFS: clients
are told HF_HUB_DISABLE_XET=1, because for uploads they choose xet by themselves.
"""

import json
import re
import socket
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hub_protocol import ROUTES, Answer, Refusal, Repo, Tree, is_large, sha256

WRITER, READER, STRANGER = "hf_writer", "hf_reader", "hf_stranger"
TOKENS = {WRITER: ("monet", "write"), READER: ("monet", "read"), STRANGER: ("renoir", "write")}


@dataclass
class Fault:
    pattern: str
    times: int
    answer: Answer | None = None
    cut: int | None = None
    delay: float = 0.0


class Hub:
    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}  # by their page: me/flux, datasets/me/paintings
        self.stored: Tree = {}  # LFS: SHA-256 → content
        self.moved: dict[str, str] = {}  # a repository's old page → its page
        self.faults: list[Fault] = []
        self.calls: list[str] = []  # as in "GET /lfs/… bytes=1000-"
        self.lock = threading.Lock()
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Call,), {"hub": self})) for _ in range(2)]
        self.url, self.cdn = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)

    def __enter__(self) -> "Hub":
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def add_repo(self, id: str, folder: Path | None = None, kind: str = "models", **options: bool) -> Repo:
        """A repository with the folder's files; options are `private` and `gated`."""
        repo = Repo(id, kind, **options)  # type: ignore[arg-type]
        files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder else []
        tree = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}  # type: ignore[arg-type]
        self.repos[repo.page] = repo
        self.commit(repo.page, tree, "initial commit")
        return repo

    def commit(self, page: str, tree: Tree, title: str = "changed") -> str:
        """What main holds from now on; the commit."""
        self.stored |= {sha256(data): data for path, data in tree.items() if is_large(path, data, len(data))}
        attributes = {".gitattributes": b"*.safetensors filter=lfs\n"}
        return self.repos[page].commit("refs/heads/main", attributes | tree, title)

    def move(self, page: str, to: str) -> None:
        """Rename a repository; its old address leads to the new one."""
        repo = self.repos.pop(page)
        repo.id = to
        self.repos[repo.page] = repo
        self.moved[page] = repo.page

    def files(self, page: str, revision: str = "main") -> Tree:
        repo = self.repos[page]
        return {path: data for path, data in repo.commits[repo.find(revision)].items() if path != ".gitattributes"}

    def fail(self, pattern: str, status: int, times: int = 1, **headers: str) -> None:
        """Answer requests such as "PUT /lfs/…" that match with a status, so many times; Retry_After="3" is a header."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(pattern, times, Answer(status, b"<html>not now</html>", named)))

    def cut(self, pattern: str, after: int = 0, times: int = 1) -> None:
        """End the connection after so many bytes of a file on its way up (PUT), or else of the answer."""
        self.faults.append(Fault(pattern, times, cut=after))

    def delay(self, pattern: str, seconds: float, times: int = 1) -> None:
        self.faults.append(Fault(pattern, times, delay=seconds))

    def count(self, pattern: str) -> int:
        """How many requests matched so far."""
        return sum(bool(re.search(pattern, call)) for call in self.calls)

    def environment(self, home: Path, token: str | None = WRITER) -> dict[str, str]:
        """What leads another process here."""
        here = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
        return here | {"HF_HOME": str(home), "HF_TOKEN": token or ""}

    def lead_here(self, monkeypatch: pytest.MonkeyPatch, home: Path, token: str | None = WRITER) -> None:
        """Lead this process here, whose huggingface_hub has read its environment long ago."""
        from huggingface_hub import constants, hf_api

        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": self.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(home / "hub"), "HF_TOKEN_PATH": str(home / "token"),
        }.items():  # fmt: skip
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(hf_api.api, "endpoint", self.url)
        for name, value in self.environment(home, token).items():
            monkeypatch.setenv(name, value)

    def fault(self, call: str) -> Fault:
        with self.lock:
            self.calls.append(call)
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, call):
                    fault.times -= 1
                    return fault
        return Fault("", 0)


class Call(BaseHTTPRequestHandler):
    """One request to either server; the routes below say what it gets."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def respond(self) -> None:
        address = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        fault = self.hub.fault(f"{self.command} {unquote(address.path)} {self.headers.get('Range', '')}".strip())
        length, cut_upload = int(self.headers.get("Content-Length", 0)), self.command == "PUT" and fault.cut is not None
        self.body = self.rfile.read(min(length, fault.cut) if cut_upload else length)  # type: ignore[type-var]
        time.sleep(fault.delay)
        if cut_upload:
            return self.hang_up()
        return self.send(fault.answer or self.ask(address.path), fault.cut)

    do_GET = do_HEAD = do_POST = do_PUT = respond

    def ask(self, path: str) -> Answer:
        for old, new in self.hub.moved.items():
            if f"/{old}/" in f"{path}/":
                return Answer(307, b"", {"Location": f"{self.path.replace(f'/{old}', f'/{new}', 1)}"})
        for method, pattern, function in ROUTES:
            if method == self.command.replace("HEAD", "GET") and (match := pattern.fullmatch(path)):
                self.groups = {name: unquote(value or "") for name, value in match.groupdict().items()}
                try:
                    self.user, self.role = self.bearer()
                    result = function(self)
                except Refusal as refusal:
                    return refusal.answer
                return result if isinstance(result, Answer) else Answer(200, result)
        return Answer(404, {"error": f"no route for {self.command} {path}"})

    def bearer(self) -> tuple[str | None, str]:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return TOKENS.get(token, (None, ""))

    def send(self, answer: Answer, cut: int | None) -> None:
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body[:cut])
        if cut is not None:
            self.hang_up()

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read `hub.calls` instead."""

    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def repo(self, *, write: bool = False, content: bool = False) -> Repo:
        """The repository that is asked for, if this user may do that there."""
        kind, id = self.groups["kind"] or "models", self.groups["id"]
        repo = self.hub.repos.get(Repo(id, kind).page)
        owns = self.user == id.split("/")[0]
        if repo is None or (repo.private and not owns):
            raise Refusal(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if content and repo.gated and not owns and self.user not in repo.accepted:
            raise Refusal(403 if self.user else 401, f"Access to model {id} is restricted.", "GatedRepo")
        if write and not (owns and self.role == "write"):
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository.")
        return repo
