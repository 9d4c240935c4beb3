"""What the benchmarks share: memory and progress of a process, ratios with their interval, tables, and where it ran."""

import argparse
import contextlib
import json
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import psutil

LOOK_EVERY = 0.02  # seconds between two looks at a process's memory
BOOTSTRAP_DRAWS = 10_000


# ---- A script


def parser(script: str, doc: str | None, **numbers: int) -> argparse.ArgumentParser:
    """Arguments of `python -m benchmarks.SCRIPT`: --out for its record, and a whole number for each of `numbers`."""
    result = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{script}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in numbers.items():
        result.add_argument(f"--{name}", type=int, default=default)
    result.add_argument("--out", type=Path, default=Path(__file__).with_name(f"{script}.json"))
    return result


def record(out: Path, result: dict[str, Any], libraries: Iterable[str], table: Callable[[dict], str]) -> None:
    """Write what was measured, with where and in how many seconds, and print its table."""
    result = result | {"seconds": taken()} | surroundings(processor(), libraries)
    write(out, result)
    print(table(json.loads(out.read_text())))


def write(out: Path, result: dict[str, Any]) -> None:
    out.write_text(json.dumps(result, indent=1) + "\n")


# ---- A process


@dataclass
class Memory:
    """Peak memory in bytes: `with Memory() as memory:` watches this process, or the one whose id it is given."""

    process: int = field(default_factory=os.getpid)
    anonymous: int = 0
    """The process's own memory; mapped files are left out, because the system can drop and read them again."""
    resident: int = 0
    """Everything in memory, mapped files included."""

    def __enter__(self) -> "Memory":
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            self.look()
            self._over.wait(LOOK_EVERY)
        self.look()

    def look(self) -> None:
        now = memory_of(self.process)
        self.anonymous = max(self.anonymous, now.get("RssAnon", 0) + now.get("RssShmem", 0))
        self.resident = max(self.resident, now.get("VmRSS", 0))


def memory_of(process: int) -> dict[str, int]:
    """Bytes by the kernel's names; empty for a process that has ended."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{process}/status").read_text()
        return {name: int(kilobytes) * 1024 for name, kilobytes in re.findall(r"(\w+):\s+(\d+) kB", status)}
    return {}


def progress(line: str, bar: str) -> tuple[int, int] | None:
    """(steps done, steps in all), if the line belongs to that progress bar."""
    match = re.match(rf"{re.escape(bar)}: .*?\| (\d+)/(\d+) \[", line)
    return (int(match[1]), int(match[2])) if match else None


def lines_of(stream: IO[bytes] | None) -> Iterator[str]:
    """Lines as they come. A progress bar ends its line with a carriage return, before or after it."""
    assert stream is not None
    line = b""
    while byte := stream.read(1):
        if byte in b"\r\n":
            yield line.decode(errors="replace")
            line = b""
        else:
            line += byte
            if byte == b"]":
                yield line.decode(errors="replace")


def surroundings(processor: str, libraries: Iterable[str]) -> dict[str, Any]:
    """Machine and library versions, as every record has them."""
    parts = (platform.machine(), processor, f"Python {platform.python_version()}")
    versions = {name: metadata.version(name) for name in libraries}
    return {"machine": ", ".join(part for part in parts if part), "versions": versions}


def processor() -> str:
    """Name, main memory, and the threads that PyTorch uses."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.+)", cpuinfo.read_text() if cpuinfo.exists() else "")
    memory = psutil.virtual_memory().total / 1e9
    return f"{name[1] if name else platform.processor()}, {memory:.0f} GB, {torch.get_num_threads()} threads"


def taken() -> float:
    """Seconds since this program began."""
    return time.time() - psutil.Process().create_time()


# ---- Ratios


def seconds_of(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def in_turn(repeats: int, **works: Callable[[], Any]) -> dict[str, list[float]]:
    """Seconds of each work, run alternately, after one round that does not count."""
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats):
        for name in list(works) if turn % 2 else reversed(works):
            times[name].append(seconds_of(works[name]))
    return times


class Ratio(NamedTuple):
    """The median of the turns' own ratios, because a slow moment of the machine slows both; with a 95 % interval."""

    median: float
    low: float
    high: float

    def text(self, form: str = ".3f") -> str:
        """For a table; `form` is a number's format."""
        return f"{self.median:{form}} ({self.low:{form}} to {self.high:{form}})"

    def judged(self, target: str, limit: float, *, least: bool = False) -> str:
        """The target and whether the median reaches it; "not sure" where the limit lies inside the interval."""
        reached = self.median >= limit if least else self.median <= limit
        if not self.low < limit < self.high:
            return marked(target, reached)
        return marked(target, reached) + " reached" * reached + ", not sure"


def ratio(ones: Sequence[float], others: Sequence[float]) -> Ratio:
    """Ratio of seconds measured side by side, by the percentile bootstrap over the turns. With five turns or fewer the
    interval is about their range."""
    turns = np.divide(ones, others)
    drawn = np.random.default_rng(0).choice(turns, (BOOTSTRAP_DRAWS, len(turns)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return Ratio(float(np.median(turns)), float(low), float(high))


# ---- Markdown tables


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A row shorter than the head ends in empty cells."""
    filled = ([*row, *[""] * (len(head) - len(row))] for row in rows)
    lines = [head, ["---"] * len(head), *filled]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def not_measured(names: Iterable[str]) -> str:
    """A sentence below a table, empty where everything was measured."""
    listed = "; ".join(names)
    return f"\n\nNot measured: {listed}." if listed else ""


def marked(target: str, reached: bool) -> str:
    return target if reached else f"{target} **not reached**"
