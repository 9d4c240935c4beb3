"""What a process keeps in memory and how far it is, looked at while it runs; and where it ran."""

import contextlib
import os
import platform
import re
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import psutil

EVERY = 0.02  # seconds


@dataclass
class Memory:
    """Bytes at most. `with Memory() as memory:` watches this process, or another one that it is given."""

    process: int = field(default_factory=os.getpid)
    anonymous: int = 0
    """Of memory that is the process's own: files that are mapped into it can be dropped and read again."""
    resident: int = 0
    """Of all that lies in memory, mapped files included."""

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
            self._over.wait(EVERY)
        self.look()

    def look(self) -> None:
        now = memory_of(self.process)
        self.anonymous = max(self.anonymous, now.get("RssAnon", 0) + now.get("RssShmem", 0))
        self.resident = max(self.resident, now.get("VmRSS", 0))


def memory_of(process: int) -> dict[str, int]:
    """Bytes by the kernel's names; nothing of a process that has ended."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{process}/status").read_text()
        return {name: int(kilobytes) * 1024 for name, kilobytes in re.findall(r"(\w+):\s+(\d+) kB", status)}
    return {}


def progress(line: str, bar: str) -> tuple[int, int] | None:
    """How many steps of how many, where the line is of that progress bar."""
    found = re.match(rf"{re.escape(bar)}: .*?\| (\d+)/(\d+) \[", line)
    return (int(found[1]), int(found[2])) if found else None


def lines_of(stream: IO[bytes]) -> Iterator[str]:
    """Lines as they come; a progress bar ends its own with a carriage return, before or after it."""
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
    """Where and with what something was measured, as every record says it."""
    parts = (platform.machine(), processor, f"Python {platform.python_version()}")
    versions = {name: metadata.version(name) for name in libraries}
    return {"machine": ", ".join(part for part in parts if part), "versions": versions}


def processor() -> str:
    """Its name, the main memory, and the threads that PyTorch computes with."""
    import torch

    known = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.+)", known.read_text() if known.exists() else "")
    memory = psutil.virtual_memory().total / 1e9
    return f"{name[1] if name else platform.processor()}, {memory:.0f} GB, {torch.get_num_threads()} threads"


def taken() -> float:
    """Seconds since this program began."""
    return time.time() - psutil.Process().create_time()
