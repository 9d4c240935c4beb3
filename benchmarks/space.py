"""What the page adds to painting: `python -m benchmarks.space` (about four minutes on two CPU cores) serves the
miniature in a process of its own, asks it over HTTP as a program does, and writes space.json.

(a) The app's time over the bare pipeline call's: ≤ 3 %.
(b) A moved slider, which paints only the adapted picture: ≤ 55 % of a first comparison.
(c) A sweep of six strengths: ≤ 5.2 single pictures.
(d) An exact repeat: ≤ 100 ms.
(e) How often the idle page is served in a second, and what it costs when nobody asks.
(f) Memory over 300 pictures.

Of ratios, the median of the turns' own with a 95 % interval: a picture's seconds vary by a fifth on a rented machine.
"""

import argparse
import contextlib
import dataclasses
import functools
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
from tqdm import tqdm

from benchmarks.measure import Ratio, in_turn, markdown, marked, parser, ratio, record
from impressionism.paint import defaults, encode, initial_latents, pipeline_kwargs, set_strength
from impressionism.pipeline import Painter, load_pipeline
from impressionism.records import GenerationParams

HERE = Path(__file__).parent
EASEL = ThreadPoolExecutor(1)  # the bare painter's thread, as the app's has one: in the main one it is some % slower
PROMPTS = ("a haystack in a field at sunset", "a sailing boat on the sea at dawn", "a cottage in the snow")
SIX = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]


class Space:
    """The page in a process of its own, seen over HTTP by one visitor."""

    def __init__(self, port: int, process: psutil.Process) -> None:
        self.address, self.process = f"http://127.0.0.1:{port}", process
        self.http = httpx.Client(timeout=300)

    @functools.cached_property
    def endpoints(self) -> dict[str, dict[str, Any]]:
        """The defaults of each endpoint's parameters."""
        told = self.http.get(f"{self.address}/gradio_api/info").json()["named_endpoints"]
        return {
            name.removeprefix("/"): {each["parameter_name"]: each["parameter_default"] for each in one["parameters"]}
            for name, one in told.items()
        }

    def ask(self, endpoint: str, session: str = "one", **asked: Any) -> float:
        """Seconds from the request to the last picture's address. A page and a gradio_client keep one session; where
        each call is a new one, as curl's, Gradio takes 20 ms longer."""
        known = self.endpoints[endpoint]
        assert asked.keys() <= known.keys(), f"{endpoint} takes {', '.join(known)}"
        start = time.perf_counter()
        where = f"{self.address}/gradio_api/call/{endpoint}"
        call = self.http.post(where, json={"data": [*(known | asked).values()], "session_hash": session}).json()
        with self.http.stream("GET", f"{where}/{call['event_id']}") as answer:
            events = [line for line in answer.iter_lines() if line.startswith("event: ")]
        seconds = time.perf_counter() - start
        assert events[-1] == "event: complete", events[-1]
        return seconds

    def memory(self) -> int:
        """Resident bytes."""
        return self.process.memory_info().rss

    def computed(self) -> float:
        """Seconds of processor so far."""
        times = self.process.cpu_times()
        return times.user + times.system


@contextlib.contextmanager
def serving() -> Iterator[Space]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "space", "--model", "miniature", "--port", str(port)]
    process = subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.DEVNULL)
    space = Space(port, psutil.Process(process.pid))
    try:
        for _ in range(1200):
            with contextlib.suppress(httpx.TransportError):
                if space.http.get(f"{space.address}/config").status_code == 200:
                    break
            time.sleep(0.1)
        yield space
    finally:
        process.terminate()
        process.wait(30)


def fresh(start: int = 0) -> Iterator[dict[str, Any]]:
    """Prompts and seeds that were not painted before."""
    seed = start
    while True:
        yield {"prompt": PROMPTS[seed % len(PROMPTS)], "seed": seed}
        seed += 1


def bare(painter: Painter, asked: dict[str, Any]) -> None:
    """One call of diffusers' pipeline, the prompt's encoding, if it is new, and the decoding included."""
    sampling: GenerationParams = dataclasses.replace(defaults(painter, ""), **asked)
    set_strength(painter.pipe, 1.0)
    given = pipeline_kwargs(painter.pipe, sampling, encode(painter, sampling.prompt))
    painter.pipe(**given, latents=initial_latents(painter.pipe, sampling))


def compared(rows: list[tuple[float, float]], one: str, other: str, told: str, most: float) -> dict:
    """Seconds of one and of the other, how many times as long the other takes, and whether that is little enough."""
    seconds, others = zip(*rows, strict=True)
    found = ratio(others, seconds)
    return {
        f"{one}_seconds": median(seconds), f"{other}_seconds": median(others), told: found,
        "reached": found.median <= most,
    }  # fmt: skip


def overhead(painter: Painter, space: Space, pairs: int) -> dict:
    """(a), in turns, now one first and now the other, so that a busy moment meets both."""
    first, second = fresh(), fresh()  # the same, in the same order
    times = in_turn(
        pairs,
        pipeline=lambda: EASEL.submit(bare, painter, next(first)).result(),
        app=lambda: space.ask("generate", **next(second)),
    )
    rows = list(zip(times["pipeline"], times["app"], strict=True))
    return {"pairs": pairs} | compared(rows, "pipeline", "app", "beside", 1.03)


def slider(space: Space, rounds: int) -> dict:
    """(b)"""
    todo, rows = fresh(1000), []
    for _ in tqdm(range(rounds), desc="slider"):
        asked = next(todo)
        rows.append((space.ask("compare", **asked), space.ask("compare", strength=0.6, **asked)))
    return {"rounds": rounds} | compared(rows, "first", "moved", "share", 0.55)


def sweeps(space: Space, rounds: int) -> dict:
    """(c)"""
    todo, rows = fresh(2000), []
    for _ in tqdm(range(rounds), desc="sweeps"):
        rows.append((space.ask("generate", **next(todo)), space.ask("sweep", strengths=SIX, **next(todo))))
    return {"rounds": rounds} | compared(rows, "single", "sweep", "singles", 5.2)


def repeats(space: Space, rounds: int) -> dict:
    """(d)"""
    space.ask("compare", **(asked := next(fresh(3000))))
    times = sorted(space.ask("compare", **asked) for _ in range(rounds))
    return {
        "rounds": rounds, "median_ms": 1e3 * median(times), "slowest_ms": 1e3 * times[-1],
        "reached": median(times) <= 0.1,
    }  # fmt: skip


def idle(space: Space, seconds: float, visitors: int) -> dict:
    """(e), the page itself, as the server makes it; before that, the share of a core that waiting takes."""
    before = space.computed()
    time.sleep(2 * seconds)
    waiting = (space.computed() - before) / (2 * seconds)

    def visit(_: int) -> int:
        with httpx.Client(timeout=30) as http:
            served, end = 0, time.perf_counter() + seconds
            while time.perf_counter() < end:
                http.get(space.address).raise_for_status()
                served += 1
        return served

    with ThreadPoolExecutor(visitors) as pool:
        served = sum(pool.map(visit, range(visitors)))
    return {"core_while_waiting": waiting, "visitors": visitors, "pages_per_second": served / seconds}


def memory(space: Space, pictures: int) -> dict:
    """(f), each in a session of its own; the first fifty fill what is kept for later."""
    todo, marks = fresh(4000), []
    for number in tqdm(range(pictures), desc="memory"):
        space.ask("generate", session=f"visitor {number}", steps=1, width=192, height=144, **next(todo))
        marks.append(space.memory())
    grown = (marks[-1] - marks[min(49, pictures // 2)]) / 2**20
    return {"pictures": pictures, "MiB": marks[-1] / 2**20, "grown_MiB_after_50": grown, "reached": grown <= 32}


def table(result: dict) -> str:
    """The figures as the README shows them."""
    a, b, c, d, e, f = (result[key] for key in sorted(result) if key[1] == "_")
    beside, share, singles = Ratio(*a["beside"]), Ratio(*b["share"]), Ratio(*c["singles"])
    more = Ratio(*(times - 1 for times in beside))
    rows = [
        ("the app's time over the bare pipeline call's", more.text("+.1%"), beside.judged("≤ 3 %", 1.03)),
        ("a moved slider, of a first comparison", share.text(".1%"), share.judged("≤ 55 %", 0.55)),
        ("a sweep of six, in single pictures", singles.text(".2f"), singles.judged("≤ 5.2", 5.2)),
        ("an exact repeat", f"{d['median_ms']:.0f} ms", marked("≤ 100 ms", d["reached"])),
        (f"the idle page, {e['visitors']} visitors", f"{e['pages_per_second']:.0f} a second"),
        ("waiting for visitors", f"{e['core_while_waiting']:.1%} of a core"),
        (f"memory grown over {f['pictures']} pictures", f"{f['grown_MiB_after_50']:.0f} MiB",
         marked("≤ 32 MiB", f["reached"])),
    ]  # fmt: skip
    return markdown(["The Space, with the miniature on two CPU cores", "measured", "target"], rows)


def measured(painter: Painter, space: Space, chosen: argparse.Namespace) -> dict:
    steps: dict[str, Callable[[], dict]] = {
        "a_overhead": lambda: overhead(painter, space, chosen.pairs),
        "b_slider": lambda: slider(space, chosen.rounds),
        "c_sweep": lambda: sweeps(space, chosen.rounds),
        "d_repeat": lambda: repeats(space, 2 * chosen.rounds),
        "e_idle": lambda: idle(space, chosen.seconds, 4),
        "f_memory": lambda: memory(space, chosen.pictures),
    }
    return {name: step() for name, step in steps.items()}


def main() -> None:
    chosen = parser("space", __doc__, pairs=60, rounds=15, pictures=300, seconds=4).parse_args()
    painter = EASEL.submit(load_pipeline, "miniature", device="cpu").result()
    with serving() as space:
        result = measured(painter, space, chosen)
    result |= {"provenance": painter.provenance.to_dict()}
    record(chosen.out, result, ("torch", "diffusers", "gradio", "spaces"), table)


if __name__ == "__main__":
    main()
