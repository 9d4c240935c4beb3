"""Turns a call that reports its progress into a generator; closing the generator ends the call at its next report.

ZeroGPU can stop only generators, and a pipeline is a call that takes many seconds.
"""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

Report = Callable[[Any], None]


class Stopped(BaseException):
    """Raised in the call when nobody listens any more; no `except Exception` on its way may keep it."""


def stepwise(call: Callable[[Report], None]) -> Generator[Any, None, None]:
    """What call(report) reports, as it happens; its exception reaches the listener. Closing returns only when the call
    has ended, because ZeroGPU takes the GPU away when this returns."""
    reports: SimpleQueue[Any] = SimpleQueue()
    end, stop = object(), threading.Event()

    def report(what: Any) -> None:
        if stop.is_set():
            raise Stopped
        reports.put(what)

    with ThreadPoolExecutor(1) as executor:
        work = executor.submit(call, report)
        work.add_done_callback(lambda _: reports.put(end))
        try:
            while (event := reports.get()) is not end:
                yield event
        finally:
            stop.set()
    work.result()
