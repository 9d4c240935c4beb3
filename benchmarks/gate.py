"""The page's memory over many calls: `python -m benchmarks.gate` serves the miniature in a process of its own, sends
it calls as visitors, programs, agents and attackers do, two at a time, and writes gate.json.

The first tenth of the calls fills what is kept for later. After it, memory may grow by 64 MiB, every refusal must say
why in a sentence, and a good call must work at the end.
"""

import io
import json
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import httpx
from PIL import Image
from tqdm import tqdm

from benchmarks.measure import markdown, marked, parser, record
from benchmarks.space import Space, serving

SMALL = {"steps": 1, "width": 192, "height": 144}
JUNK: list[Any] = [
    None, -1, 1e300, "x" * 999, [], {}, [[[]]], {"path": "/etc/passwd"}, {"url": "javascript:alert(1)"},
]  # fmt: skip
MOST_MIB = 64


def photograph(seed: int) -> bytes:
    """A JPEG of about 100 kB."""
    draw, file = random.Random(seed), io.BytesIO()
    Image.frombytes("RGB", (240, 240), draw.randbytes(240 * 240 * 3)).save(file, "JPEG", quality=90)
    return file.getvalue()


class Caller:
    """One call of a kind at a time; each answers with a status."""

    def __init__(self, space: Space) -> None:
        self.space, self.seeds = space, count()
        self.http = httpx.Client(base_url=space.address, timeout=120)
        self.silent = 0
        """Refusals without a sentence."""

    def post(self, path: str, body: Any) -> int:
        answer = self.http.post(f"/gradio_api/{path}", json=body)
        if answer.status_code >= 400 and len(answer.text.split()) < 4:
            self.silent += 1
        return answer.status_code

    def picture(self) -> int:
        seed = next(self.seeds)
        self.space.ask("generate", session=f"visitor {seed}", prompt="a cottage at noon", seed=seed, **SMALL)
        return 200

    def repeat(self) -> int:
        self.space.ask("generate", session="again", prompt="a cottage at noon", seed=0, **SMALL)
        return 200

    def page(self) -> int:
        return self.http.get("/").status_code

    def upload(self) -> int:
        files = {"files": ("photo.jpg", photograph(next(self.seeds)), "image/jpeg")}
        return self.http.post("/gradio_api/upload", files=files).status_code

    def agent(self) -> int:
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "status", "arguments": {}}}
        headers = {"Accept": "application/json, text/event-stream"}
        return self.http.post("/gradio_api/mcp/", json=call, headers=headers).status_code

    def forged(self) -> int:
        draw = random.Random(next(self.seeds))
        data = [draw.choice(JUNK) for _ in range(draw.randint(0, 12))]
        if draw.random() < 0.5:
            paths = ["call/generate", "call/finish", "call/v2/compare", "run/predict", "cancel", "deep_link"]
            return self.post(draw.choice(paths), {"data": data, "prompt": draw.choice(JUNK)})
        body = {"data": data, "fn_index": draw.randint(-2, 60), "session_hash": f"forged {draw.randint(0, 50)}"}
        return self.post("queue/join", body)


def measure(space: Space, calls: int) -> dict[str, Any]:
    caller, draw = Caller(space), random.Random(1)
    kinds = [caller.picture, caller.repeat, caller.page, caller.upload, caller.agent, caller.forged, caller.forged]
    caller.repeat()
    todo = [draw.choice(kinds) for _ in range(calls)]
    first = calls // 10
    with ThreadPoolExecutor(2) as pool:  # more calls of one address are told to wait
        statuses = list(pool.map(lambda call: call(), todo[:first]))
        before, began = space.memory(), time.perf_counter()
        statuses += list(tqdm(pool.map(lambda call: call(), todo[first:]), total=calls - first))
    seconds, after = time.perf_counter() - began, space.memory()
    caller.picture()  # the next good call works
    grown = (after - before) / 2**20
    return {
        "calls": calls, "pictures": todo.count(caller.picture), "forged": todo.count(caller.forged),
        "calls_per_second": (calls - first) / seconds, "MiB": after / 2**20, "grown_MiB": grown,
        "statuses": {str(status): number for status, number in sorted(Counter(statuses).items())},
        "silent": caller.silent, "reached": grown <= MOST_MIB and not caller.silent,
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The figures as the README shows them."""
    answers = ", ".join(f"{number} × {status}" for status, number in result["statuses"].items())
    rows = [
        (f"memory grown over {result['calls']} calls", f"{result['grown_MiB']:.0f} MiB of {result['MiB']:.0f}",
         marked(f"≤ {MOST_MIB} MiB", result["grown_MiB"] <= MOST_MIB)),
        ("answers by status", answers),
        ("refusals without a sentence", f"{result['silent']}", marked("0", not result["silent"])),
        ("of these, pictures painted and forged calls", f"{result['pictures']} and {result['forged']}"),
        ("calls in a second, two at a time", f"{result['calls_per_second']:.0f}"),
    ]  # fmt: skip
    return markdown(["The page's memory, with the miniature", "measured", "target"], rows)


def main() -> None:
    chosen = parser("gate", __doc__, calls=2000).parse_args()
    with serving() as space:
        result = measure(space, chosen.calls)
    record(chosen.out, json.loads(json.dumps(result)), ("gradio", "starlette", "uvicorn", "limits"), table)


if __name__ == "__main__":
    main()
