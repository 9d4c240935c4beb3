"""What the Hub of hub.py answers: each route of its API that huggingface_hub asks for, and what a repository is.

A repository is commits (path → bytes) and refs, in memory. Large files lie on a second server, the CDN, which takes
signed addresses and refuses tokens, as S3 does.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import yaml

if TYPE_CHECKING:
    from hub import Call, Hub

LARGE = 10_000_000  # bytes from which a text file, too, goes to LFS
DATE = "2026-11-25T12:00:00.000Z"

Tree = dict[str, bytes]


@dataclass
class Answer:
    status: int
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str = "", **body: Any):
        self.answer = Answer(status, {"error": message, **body}, {"X-Error-Code": code, "X-Error-Message": message})


@dataclass
class Repo:
    id: str
    kind: str  # models, datasets or spaces
    private: bool = False
    gated: bool = False
    accepted: set[str] = field(default_factory=set)  # users who took a gated repository's terms
    commits: dict[str, Tree] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # such as refs/heads/main → commit
    pulls: list[dict] = field(default_factory=list)

    @property
    def page(self) -> str:
        return self.id if self.kind == "models" else f"{self.kind}/{self.id}"

    def find(self, revision: str) -> str:
        """The commit of a branch, tag, reference or commit."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if found := self.refs.get(name, name if name in self.commits else None):
                return found
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, ref: str, tree: Tree, title: str) -> str:
        content = [self.refs.get(ref, ""), title, *(f"{path} {sha256(data)}" for path, data in sorted(tree.items()))]
        self.refs[ref] = hashlib.sha1("\n".join(content).encode()).hexdigest()
        self.commits[self.refs[ref]] = tree
        return self.refs[ref]


ROUTES: list[tuple[str, re.Pattern, Callable[[Any], Any]]] = []
API = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
PAGE = r"/(?:(?P<kind>datasets|spaces)/)?(?P<id>[^/]+/[^/]+)"


def route(method: str, path: str) -> Callable:
    def keep(function: Callable) -> Callable:
        ROUTES.append((method, re.compile(path), function))
        return function

    return keep


# ---- Who and what is there


@route("GET", "/api/whoami-v2")
def whoami(call: "Call") -> dict:
    if not call.user:
        raise Refusal(401, "Invalid username or password.")
    person = {"fullname": call.user.title(), "avatarUrl": f"{call.hub.url}/{call.user}.png"}
    return {"type": "user", "name": call.user, **person, "orgs": [], "auth": {"accessToken": {"role": call.role}}}


@route("POST", "/api/repos/create")
def create(call: "Call") -> dict:
    asked, kind = call.json(), call.json().get("type", "model") + "s"
    owner = asked.get("organization") or call.user
    page = Repo(f"{owner}/{asked['name']}", kind).page
    if not call.user:
        raise Refusal(401, "Invalid username or password.")
    if owner != call.user or call.role != "write":
        raise Refusal(403, f"You don't have the rights to create a {kind[:-1]} under the namespace {owner!r}")
    if page in call.hub.repos:
        raise Refusal(409, f"You already created this {kind[:-1]} repo", url=f"{call.hub.url}/{page}")
    call.hub.add_repo(f"{owner}/{asked['name']}", kind=kind, private=asked.get("visibility") == "private")
    return {"url": f"{call.hub.url}/{page}"}


@route("GET", API)
@route("GET", API + "/revision/(?P<revision>[^/]+)")
def info(call: "Call") -> dict:
    repo = call.repo()
    commit = repo.find(call.groups.get("revision") or "main")
    files = [entry(path, data) for path, data in sorted(repo.commits[commit].items())]
    return {
        "id": repo.id, "author": repo.id.split("/")[0], "sha": commit, "private": repo.private, "tags": [],
        "gated": "manual" if repo.gated else False, "lastModified": DATE, "createdAt": DATE,
        "siblings": [{**file, "rfilename": file["path"], "blobId": file["oid"]} for file in files],
    }  # fmt: skip


@route("GET", API + "/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?")
def tree(call: "Call") -> list[dict]:
    """Files in a folder; with `recursive` also those below it, else the folders in it."""
    repo = call.repo()
    files = repo.commits[repo.find(call.groups["revision"])]
    folder = f"{call.groups['folder']}/" if call.groups.get("folder") else ""
    below = {path: data for path, data in sorted(files.items()) if path.startswith(folder)}
    if folder and not below:
        raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
    if call.query.get("recursive", "").lower() != "true":
        inside = {path: path.removeprefix(folder).split("/") for path in below}
        folders = dict.fromkeys(folder + parts[0] for parts in inside.values() if len(parts) > 1)
        below = {path: data for path, data in below.items() if len(inside[path]) == 1}
        return [*({"type": "directory", "path": path, "size": 0, "oid": git_hash(path.encode())} for path in folders),
                *(entry(path, data) for path, data in below.items())]  # fmt: skip
    return [entry(path, data) for path, data in below.items()]


@route("POST", API + "/paths-info/(?P<revision>[^/]+)")
def paths_info(call: "Call") -> list[dict]:
    repo, wanted = call.repo(), parse_qs(call.body.decode())["paths"]
    files = repo.commits[repo.find(call.groups["revision"])]
    return [entry(path, data) for path, data in sorted(files.items()) if path in wanted]


@route("GET", API + "/refs")
def refs(call: "Call") -> dict:
    repo, found = call.repo(), {}
    for name, prefix in {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": "refs/pr/"}.items():
        under = {ref: commit for ref, commit in repo.refs.items() if ref.startswith(prefix)}
        found[name] = [{"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": under[ref]} for ref in under]
    return {**found, "converts": []}


@route("GET", API + "/discussions")
def discussions(call: "Call") -> dict:
    pulls = [pull for pull in call.repo().pulls if pull["author"]["name"] == call.query.get("author")]
    return {"discussions": pulls, "count": len(pulls), "start": 0}


# ---- Up


@route("POST", "/api/validate-yaml")
def validate_yaml(call: "Call") -> dict:
    """The Hub's rules for a card's front matter, as far as they are known."""
    match = re.match(r"---\r?\n(.*?)\r?\n---", call.json()["content"], re.DOTALL)
    if not match:
        return {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
    try:
        card = yaml.safe_load(match[1]) or {}
    except yaml.YAMLError as error:
        raise Refusal(400, "", errors=[{"message": f"YAML cannot be read: {error}"}]) from None
    wrong = [] if isinstance(card.get("widget", []), list) else ['"widget" must be an array']
    wrong += ['"datasets" must hold strings'] if None in (card.get("datasets") or []) else []
    for result in (result for model in card.get("model-index") or [] for result in model.get("results", [])):
        wrong += [] if "type" in result.get("task", {}) else ['"task" must have property "type"']
    if wrong:
        raise Refusal(400, "", errors=[{"message": message} for message in wrong])
    return {"errors": [], "warnings": []}


def proposes(call: "Call") -> bool:
    """Whether this opens a pull request or adds to one, which anyone may who is logged in."""
    return "create_pr" in call.query or call.groups["revision"].startswith("refs/pr/")


@route("POST", API + "/preupload/(?P<revision>[^/]+)")
def preupload(call: "Call") -> dict:
    repo = call.repo(write=not proposes(call))
    there, files = repo.commits[repo.find(call.groups["revision"])], call.json()["files"]
    for file in files:
        large = is_large(file["path"], base64.b64decode(file.pop("sample")), file["size"])
        known = there.get(file["path"])
        oid = None if known is None else (sha256 if large else git_hash)(known)
        file |= {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}
    return {"files": files}


@route("POST", PAGE + r"\.git/info/lfs/objects/batch")
def batch(call: "Call") -> dict:
    repo = call.repo(write="ref" in call.json())  # a pull request's files go up without naming a branch
    verify = {"href": f"{call.hub.url}/{repo.page}.git/info/lfs/objects/verify"}
    objects = call.json()["objects"]
    for asked in objects:
        if asked["oid"] not in call.hub.stored:
            asked["actions"] = {"upload": {"href": signed(call.hub, asked["oid"])}, "verify": verify}
    return {"transfer": "basic", "objects": objects}


@route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
def store(call: "Call") -> bytes:
    check_signature(call)
    if sha256(call.body) != call.groups["oid"]:
        raise Refusal(400, "the content is not what its name says")
    call.hub.stored[call.groups["oid"]] = call.body
    return b""


@route("POST", PAGE + r"\.git/info/lfs/objects/verify")
def verify(call: "Call") -> dict:
    call.repo()
    if len(call.hub.stored.get(call.json()["oid"], b"")) != call.json()["size"]:
        raise Refusal(404, "the object has not arrived")
    return {}


@route("POST", API + "/commit/(?P<revision>[^/]+)")
def commit(call: "Call") -> dict:
    proposed, revision = "create_pr" in call.query, call.groups["revision"]
    repo = call.repo(write=not proposes(call))
    if not call.user:
        raise Refusal(401, "Invalid username or password.")
    header, *changes = (json.loads(line) for line in call.body.splitlines())
    head, title = repo.find(revision), header["value"]["summary"]
    if header["value"].get("parentCommit", head) != head:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = changed(call.hub, dict(repo.commits[head]), changes)
    ref, pull = revision if revision.startswith("refs/") else f"refs/heads/{revision}", None
    if proposed:
        number, by = len(repo.pulls) + 1, {"name": repo.id, "type": repo.kind[:-1]}
        ref, pull = f"refs/pr/{number}", f"{call.hub.url}/{repo.page}/discussions/{number}"
        repo.pulls.append({"num": number, "title": title, "author": {"name": call.user}, "repo": by,
                           "createdAt": DATE, "status": "open", "isPullRequest": True})  # fmt: skip
    oid = repo.commit(ref, files, title)
    return {"commitOid": oid, "commitUrl": f"{call.hub.url}/{repo.page}/commit/{oid}", "pullRequestUrl": pull}


def changed(hub: "Hub", files: Tree, changes: list[dict]) -> Tree:
    for change in changes:
        key, value = change["key"], change["value"]
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile" and value["oid"] in hub.stored:
            files[value["path"]] = hub.stored[value["oid"]]
        elif key == "deletedFile" and value["path"] in files:
            del files[value["path"]]
        else:
            raise Refusal(400, f"cannot do {key} {value['path']}: it is not there")
    return files


@route("POST", API + "/(?P<what>tag|branch)/(?P<name>[^/]+)")
def mark(call: "Call") -> dict:
    """A tag is put on the revision in the address; a branch has its name there."""
    repo, asked, name = call.repo(write=True), call.json(), call.groups["name"]
    is_tag = call.groups["what"] == "tag"
    ref = f"refs/tags/{asked['tag']}" if is_tag else f"refs/heads/{name}"
    if ref in repo.refs:
        raise Refusal(409, f"{ref} already exists")
    repo.refs[ref] = repo.find(name if is_tag else asked.get("startingPoint", "main"))
    return {}


# ---- Down


@route("GET", PAGE + "/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(call: "Call") -> Answer:
    """Where a file lies: a large one on the CDN, another one in the Hub's cache under its commit."""
    repo, path = call.repo(content=True), call.groups["path"]
    commit = repo.find(call.groups["revision"])
    headers = {"X-Repo-Commit": commit}
    data = repo.commits[commit].get(path)
    if data is None:
        return Answer(404, b"Entry not found", {**headers, "X-Error-Code": "EntryNotFound"})
    if not is_large(path, data, len(data)):
        return Answer(307, b"", {**headers, "Location": f"/api/resolve-cache/{repo.kind}/{repo.id}/{commit}/{path}"})
    linked = {"X-Linked-ETag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
    return Answer(302, b"", {**headers, **linked, "Location": signed(call.hub, sha256(data))})


@route("GET", API.replace("/api/", "/api/resolve-cache/") + "/(?P<commit>[0-9a-f]{40})/(?P<path>.+)")
def resolve_cache(call: "Call") -> Answer:
    data = call.repo(content=True).commits[call.groups["commit"]][call.groups["path"]]
    return ranged(call, data, {"X-Repo-Commit": call.groups["commit"], "ETag": f'"{git_hash(data)}"'})


@route("GET", "/lfs/(?P<oid>[0-9a-f]{64})")
def fetch(call: "Call") -> Answer:
    check_signature(call)
    return ranged(call, call.hub.stored[call.groups["oid"]], {})


def ranged(call: "Call", data: bytes, headers: dict[str, str]) -> Answer:
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("Range", ""))
    if not match:
        return Answer(200, data, headers)
    first, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
    if first > last:
        return Answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
    return Answer(206, data[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"})


# ---- What things are called


def signed(hub: "Hub", oid: str) -> str:
    return f"{hub.cdn}/lfs/{oid}?X-Amz-Signature=signed"


def check_signature(call: "Call") -> None:
    if "X-Amz-Signature" not in call.query or call.user:
        raise Refusal(400, "Only one auth mechanism allowed: a token has left the Hub")


def is_large(path: str, sample: bytes, size: int) -> bool:
    """What the Hub keeps in LFS: weights by their name, and all that is binary or large."""
    return path.endswith(".safetensors") or b"\0" in sample[:512] or size >= LARGE


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entry(path: str, data: bytes) -> dict:
    """A file as the tree lists it; of a large one git holds only the pointer."""
    file = {"type": "file", "path": path, "size": len(data)}
    if not is_large(path, data, len(data)):
        return {**file, "oid": git_hash(data)}
    oid = sha256(data)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n".encode()
    lfs = {"oid": oid, "sha256": oid, "size": len(data), "pointerSize": len(pointer)}
    return {**file, "oid": git_hash(pointer), "lfs": lfs}
