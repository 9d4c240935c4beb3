"""ZeroGPU on this machine: the scheduler that lends GPUs, over HTTP, and the Space under spaces' own code.

    with Scheduler() as scheduler, space_on(scheduler, flux, adapter) as address: …

spaces forks a worker for a call, talks to the scheduler, streams what is yielded through a pipe and ends what takes too
long, all as on the Hub. Only its emulation of CUDA is left out, which needs PyTorch's CUDA build.

python tests/zerogpu_here.py FLUX ADAPTER         is the Space; it prints its address
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

ROOT = Path(__file__).parents[1]

# What the scheduler may answer to /schedule: status, headers, body.
ANSWERS: dict[str, tuple[int, dict[str, str], Any]] = {
    "illegal duration": (429, {"X-Approve-Result": "illegal-duration"}, {"left": 0, "wait": -1}),
    "quota": (429, {"X-Authenticated": "regular", "X-Approve-Result": "quota-exceeded"}, {"left": 11, "wait": 3700}),
    "runs": (429, {"X-Approve-Result": "runs-exceeded"}, {"left": 0, "wait": 0}),
    "pending": (429, {"X-Approve-Result": "pending-overquota-exceeded"}, {"left": 0, "wait": 0}),
    "queue timeout": (200, {"Content-Type": "text/event-stream"}, b"event: failed\n\n"),
    "no GPU": (503, {}, {}),
    "expired": (401, {}, {}),
    "broken": (500, {}, {}),
}


class Scheduler:
    """Lends one GPU. `next` names the answers to come; else the GPU is lent."""

    def __init__(self) -> None:
        self.next: list[str] = []
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Desk,), {"scheduler": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "Scheduler":
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def asked(self, what: str) -> list[dict[str, str]]:
        return [values for path, values in self.calls if path == f"/{what}"]

    def workers(self) -> list[int]:
        """Process ids of the workers that asked for their GPU, in order."""
        return [int(values["pid"]) for values in self.asked("allow")]


class Desk(BaseHTTPRequestHandler):
    scheduler: Scheduler
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        address = urlsplit(self.path)
        values = {name: value[-1] for name, value in parse_qs(address.query).items()}
        lent = len(self.scheduler.asked("schedule"))
        self.scheduler.calls.append((address.path, values))
        status, headers, body = 200, {}, {}
        if address.path == "/schedule":
            body = {"idle": lent > 0, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": f"token-{lent}"}
            if self.scheduler.next:
                status, headers, body = ANSWERS[self.scheduler.next.pop(0)]
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Tests read `calls` instead."""


@contextlib.contextmanager
def space_on(scheduler: Scheduler, pipe: Path, adapter: Path, home: Path) -> Iterator[str]:
    """The Space in a process of its own; its address."""
    environment = os.environ | {
        "SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": scheduler.url, "HOME": str(home),
        "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1", "GRADIO_TEMP_DIR": str(home / "gradio"),
        "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }  # fmt: skip
    command = [sys.executable, __file__, str(pipe), str(adapter)]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, start_new_session=True
        )
    try:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("http"):
                copy = (home / "said").open("w", buffering=1)
                threading.Thread(target=copy.writelines, args=(process.stdout,), daemon=True).start()
                yield line.strip()
                break
        else:
            raise AssertionError((home / "log").read_text())
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its workers, too: they would keep visitors' connections open
        process.wait(20)


def leave_out_cuda() -> None:
    nothing = types.ModuleType("spaces.zero.torch")
    for name in ("enter_mode", "patch", "unpatch", "init", "move"):
        setattr(nothing, name, lambda *_, **__: None)
    nothing.pack = nothing.size = lambda *_, **__: 0  # type: ignore[attr-defined]
    nothing.is_in_bad_fork = lambda: False  # type: ignore[attr-defined]
    sys.modules["spaces.zero.torch"] = nothing


def main() -> None:
    leave_out_cuda()
    from impressionism import paint
    from impressionism.pipeline import load_pipeline
    from space import app

    render = paint.render

    def rendered(pipe: Any, sampling: Any, *more: Any) -> Any:
        if "explode" in sampling.prompt:
            print("It will.")
            raise ValueError(sampling.prompt)
        return render(pipe, sampling, *more)

    paint.render = rendered
    page = app.build(load_pipeline(sys.argv[1], sys.argv[2], device="cpu"))
    print(app.launch(page, prevent_thread_lock=True, quiet=True), flush=True)
    page.block_thread()


if __name__ == "__main__":
    main()
