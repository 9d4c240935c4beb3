"""Deploy this repository as a ZeroGPU Space: create, configure and upload it, wait until it runs, and send it one test
request.

    python -m space.deploy USER/NAME [--adapter OWNER/NAME] [--adapter-revision REVISION] [--run RUN] [--private]
                           [--dry-run]

Log in with a token that may write. The Space uses its own read-only token, taken from SPACE_HF_TOKEN; that token's
account must have accepted FLUX.1-dev's licence. The same command again sends only what has changed; a new adapter
restarts the Space. Only files that an earlier deployment put there are ever deleted.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from impressionism import names
from impressionism.errors import UserError

ROOT = Path(__file__).parents[1]
NEEDED = ("LICENSE", "app.py", "impressionism", "space")
PACKAGES = (
    "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "huggingface_hub", "gradio", "spaces",
    "limits", "pydantic", "numpy", "pandas", "pillow", "pillow_heif", "opencv-python-headless", "scikit-image",
    "sentencepiece", "protobuf", "PyYAML", "tqdm", "psutil", "Jinja2",
)  # fmt: skip
"""The part of requirements.txt that painting and the page need; training, evaluation and quantization stay at home."""
HARDWARE = "zero-a10g"  # what the Hub calls ZeroGPU, whichever card that is today
TOKEN = "SPACE_HF_TOKEN"  # of this machine; on the Space it is HF_TOKEN
MANIFEST = "deployed.json"  # in the Space: the files that a deployment put there
SHOWCASE = "space/showcase/"


class Plan(NamedTuple):
    """All that a deployment changes."""

    repo: str
    private: bool
    hardware: str
    files: dict[str, Path | str]
    """By its path in the Space, a file here, or a text."""
    gone: list[str]
    """Files of an earlier deployment that this one no longer has."""
    variables: dict[str, str]
    secrets: dict[str, str]

    def announce(self) -> None:
        visibility = "private" if self.private else "public"
        size = sum(map(size_of, self.files.values())) / 1e6
        print(
            f"Space {self.repo}, {visibility} if it is new, on {self.hardware}: {len(self.files)} files, {size:.1f} MB"
        )
        for path, source in self.files.items():
            print(f"  {size_of(source) / 1e3:>9,.1f} kB  {path}")
        for path in self.gone:
            print(f"    deleted     {path}")
        for name, value in self.variables.items():
            print(f"  variable {name} = {value}")
        for name in self.secrets:
            print(f"  secret {name}, from {TOKEN}")


def size_of(source: Path | str) -> int:
    return source.stat().st_size if isinstance(source, Path) else len(source.encode())


def files_for(repo: str, adapter: str, run: Path | None) -> dict[str, Path | str]:
    """What the Space runs: no training, no tests, nothing that Python or an editor left."""
    paths = [
        path for name in NEEDED for path in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))
    ]
    kept = sorted(path.relative_to(ROOT) for path in paths if path.is_file())
    files: dict[str, Path | str] = {
        path.as_posix(): ROOT / path for path in kept if not any(p.startswith((".", "__pycache__")) for p in path.parts)
    }
    if run and (showcase := showcase_of(run)):
        files = {path: source for path, source in files.items() if not path.startswith(SHOWCASE)}
        files |= {SHOWCASE + path.name: path for path in sorted(showcase.iterdir()) if path.is_file()}
    files |= {"README.md": readme(repo, adapter), "requirements.txt": requirements()}
    return files | {MANIFEST: json.dumps(sorted([*files, MANIFEST]), indent=1)}


def requirements() -> str:
    """The pins of requirements.txt that a Space needs."""
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line]
    pins = {re.split(r"[\[=]", line)[0].casefold(): line for line in lines}
    return "".join(f"{pins[name.casefold()]}\n" for name in PACKAGES)


def readme(repo: str, adapter: str) -> str:
    """The Space's own page: the settings that the Hub reads, and a few lines for people."""
    gradio = re.search(r"^gradio.*==(.+)$", requirements(), re.MULTILINE)
    settings = {
        "title": "Flux Impressionism",
        "emoji": "🪷",
        "colorFrom": "indigo",
        "colorTo": "yellow",
        "sdk": "gradio",
        "sdk_version": gradio[1] if gradio else None,
        "python_version": "3.12",
        "app_file": "app.py",
        "short_description": "Paint with FLUX.1-dev in the Impressionist manner",
        "models": [names.BASE, adapter],
        "license": "mit",
        "tags": ["mcp-server"],
        "startup_duration_timeout": "1h",
        "hf_oauth": True,  # who signs in sees how much ZeroGPU quota is left, for which the Hub asks for this scope
        "hf_oauth_scopes": ["read-billing"],
    }
    return f"""---
{yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)}---

# Flux Impressionism

One prompt, painted twice from the same noise: by [{names.BASE}](https://huggingface.co/{names.BASE}) as it is, and with
the adapter [{adapter}](https://huggingface.co/{adapter}).

Programs can use it, too:

```python
from gradio_client import Client

picture, recipe = Client("{repo}").predict(prompt="a cottage at sunset", api_name="/generate")
```

Agents find it as an MCP server at `/gradio_api/mcp/`. The pictures are generated by an AI model; the weights of FLUX.1
[dev] may not be used commercially, see its licence.
"""


def showcase_of(run: Path) -> Path | None:
    """The showcase that `python -m evaluation gallery` chose of a run's pictures."""
    folders = (run / "showcase", run / "gallery" / "showcase")
    return next((folder for folder in folders if (folder / "showcase.jsonl").exists()), None)


def plan(
    api: Any, repo: str, adapter: str, revision: str | None, private: bool, hardware: str, run: Path | None = None
) -> Plan:
    """What to do, with every revision pinned to a commit; refuses what the Hub would refuse later."""
    if len(repo.split("/")) != 2:
        raise UserError(f"{repo} names no Space; say USER/NAME.")
    token = os.environ.get(TOKEN, "")
    if token and api.whoami(token=token)["auth"]["accessToken"].get("role") == "write":
        raise UserError(f"The token in {TOKEN} may write, and a Space should not; make one that may only read.")
    there = api.repo_exists(repo, repo_type="space")
    if not (token or there):
        raise UserError(f"A new Space needs a token to read FLUX.1-dev with: set {TOKEN}.")
    commit = api.model_info(adapter, revision=revision).sha
    check_base(api, adapter, commit)
    before = {name: it.value for name, it in api.get_space_variables(repo).items()} if there else {}
    variables = {
        names.ENVIRONMENT["base"]: names.BASE,
        names.ENVIRONMENT["base_revision"]: api.model_info(names.BASE).sha,
        names.ENVIRONMENT["adapter"]: adapter,
        names.ENVIRONMENT["adapter_revision"]: commit,
    }
    if known := pin(api, repo, before):
        variables[names.ENVIRONMENT["adapter_pinned"]] = known
    if run and not showcase_of(run):
        raise UserError(f"{run} has no showcase; `python -m evaluation gallery` makes one.")
    files = files_for(repo, adapter, run)
    gone = [path for path in put_before(api, repo) if path not in files] if there else []
    return Plan(repo, private, hardware, files, gone, variables, {"HF_TOKEN": token} if token else {})


def put_before(api: Any, repo: str) -> list[str]:
    """The files that an earlier deployment noted; everything else in the Space is its owner's."""
    from huggingface_hub import errors

    try:
        noted = json.loads(Path(api.hf_hub_download(repo, MANIFEST, repo_type="space")).read_text())
    except (errors.HfHubHTTPError, OSError, ValueError):
        return []
    there = set(api.list_repo_files(repo, repo_type="space"))
    return [path for path in noted if isinstance(path, str) and path in there] if isinstance(noted, list) else []


def pin(api: Any, repo: str, before: dict[str, str]) -> str | None:
    """The adapter that is known to work: what paints there now, else the last that did; none before the first."""
    asked, pinned = (before.get(names.ENVIRONMENT[name]) for name in ("adapter", "adapter_pinned"))
    if not asked or api.get_space_runtime(repo).stage != "RUNNING":
        return pinned
    try:
        live = status_of(api, repo)["provenance"]
    except Exception:  # it does not answer: gradio_client raises almost anything
        return pinned
    works = live["adapter_revision"] == before.get(names.ENVIRONMENT["adapter_revision"])
    return f"{asked}@{live['adapter_revision']}" if works else pinned


def status_of(api: Any, repo: str) -> dict[str, Any]:
    """What a running Space says of itself; it costs no GPU."""
    from gradio_client import Client
    from huggingface_hub import get_token

    space = api.space_info(repo)
    token = api.token or get_token() if space.private else False  # a public page gets no token of anybody's
    return Client(space.host, token=token, verbose=False).predict(api_name="/status")  # type: ignore[arg-type]


def check_base(api: Any, adapter: str, commit: str) -> None:
    """Refuses an adapter whose card says that it was made for another base than the Space loads; warns where no card
    says for which."""
    from huggingface_hub import ModelCard, errors

    try:
        said = ModelCard.load(api.hf_hub_download(adapter, "README.md", revision=commit)).data.get("base_model")
    except (errors.HfHubHTTPError, errors.EntryNotFoundError, OSError, ValueError, yaml.YAMLError):
        said = None  # no card, or none that can be read
    if not said:
        print(f"No card says that {adapter} is for {names.BASE}; it will not load if it is not.", file=sys.stderr)
        return
    bases = [str(base) for base in (said if isinstance(said, list) else [said])]
    if names.BASE.casefold() not in (base.casefold() for base in bases):
        raise UserError(
            f"{adapter} is an adapter of {' and '.join(bases)}, and the Space loads {names.BASE}: name an adapter of "
            "that one with --adapter, or correct base_model in the card."
        )


def carry_out(api: Any, plan: Plan) -> None:
    """Creates the Space if it is new, sets what it needs before it is built, then sends the files."""
    api.create_repo(
        plan.repo, repo_type="space", space_sdk="gradio", space_hardware=plan.hardware, private=plan.private,
        exist_ok=True,
    )  # fmt: skip
    there = {name: it.value for name, it in api.get_space_variables(plan.repo).items()}
    for name, value in plan.variables.items():
        if there.get(name) != value:
            api.add_space_variable(plan.repo, name, value)
    for name, value in plan.secrets.items():
        api.add_space_secret(plan.repo, name, value)
    runtime = api.get_space_runtime(plan.repo)
    if plan.hardware not in (runtime.hardware, runtime.requested_hardware):
        api.request_space_hardware(plan.repo, plan.hardware)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    sources = {path: source if isinstance(source, Path) else source.encode() for path, source in plan.files.items()}
    operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=source) for path, source in sources.items()]
    operations += [CommitOperationDelete(path_in_repo=path) for path in plan.gone]
    commit = api.create_commit(plan.repo, operations, repo_type="space", commit_message="What the Space runs")
    print(f"Sent: {commit.commit_url}")


def await_it(api: Any, repo: str, seconds: float, poll: float) -> None:
    """Until it runs, or says why it does not."""
    print("Waiting for the Space to be built and to load FLUX.1-dev …", flush=True)
    logs = f"read them with `hf spaces logs {repo} --build`"
    try:
        runtime = api.wait_for_space(repo, timeout=seconds, poll_interval=poll)
    except TimeoutError:
        raise UserError(f"{repo} does not run after {seconds / 60:.0f} minutes; its logs say why, {logs}.") from None
    if runtime.stage != "RUNNING":
        said = runtime.raw.get("errorMessage") or "no reason was given"
        raise UserError(f"{repo} stopped at {runtime.stage} ({said}); its logs say more, {logs}.")


def ask_it(api: Any, plan: Plan) -> None:
    """Whether it answers, and whether the adapter is the one that was sent."""
    status = status_of(api, plan.repo)
    print(status["about"])
    live = status["provenance"].get("adapter_revision")
    if live != plan.variables[names.ENVIRONMENT["adapter_revision"]]:
        raise UserError(f"{plan.repo} runs, but with the adapter's revision {live}; what it says is above.")


def main(arguments: list[str] | None = None) -> None:
    chosen = options(arguments)
    from huggingface_hub import HfApi, errors

    api = HfApi()
    try:
        todo = plan(
            api, chosen.repo, chosen.adapter, chosen.adapter_revision, chosen.private, chosen.hardware, chosen.run
        )
        todo.announce()
        if chosen.dry_run:
            print("Nothing was sent (--dry-run).")
            return
        carry_out(api, todo)
        await_it(api, chosen.repo, 60 * chosen.minutes, chosen.poll)
        ask_it(api, todo)
    except UserError as problem:
        sys.exit(str(problem))
    except (errors.HfHubHTTPError, errors.LocalTokenNotFoundError) as problem:
        first = str(problem).strip().splitlines()[0]
        sys.exit(f"The Hub refused ({first}): log in with a token that may write there, then run the command again.")
    except errors.HTTPError as problem:  # no answer at all
        sys.exit(f"The Hub cannot be reached ({problem}): connect to the network; a dry run asks it as well.")
    print(f"It runs: https://huggingface.co/spaces/{chosen.repo}")


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m space.deploy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repo", metavar="USER/NAME", help="the Space")
    parser.add_argument("--adapter", default=names.ADAPTER, help="on the Hub; the published one by default")
    parser.add_argument("--adapter-revision", help="branch, tag or commit; the newest by default; pinned to its commit")
    parser.add_argument("--run", type=Path, metavar="RUN", help="also upload the showcase of this training run")
    parser.add_argument("--hardware", default=HARDWARE, help="as the Hub names it; ZeroGPU by default")
    parser.add_argument("--private", action="store_true", help="if the Space is new")
    parser.add_argument("--minutes", type=float, default=60, help="how long to wait until it runs")
    parser.add_argument("--poll", type=float, default=10, help="seconds between status checks")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
