"""Turns a call that reports its progress into a generator; closing the generator ends the call at its next report.

ZeroGPU and Gradio can stop only generators, and a pipeline is a call that takes many seconds.
"""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

Report = Callable[[Any], None]

INFERENCE_EXECUTOR = ThreadPoolExecutor(1, "easel")
"""The thread in which the painter is loaded and paints, one call after the other. OpenMP keeps a team for each thread
that computes; while all teams together have more threads than there are cores, they sleep between two operations."""


LEAVING = threading.Event()
"""The program ends, after this step: Python waits for the easel first."""


class Stopped(BaseException):
    """Raised in the call when nobody listens any more; no `except Exception` on its way may keep it."""


def stepwise(call: Callable[[Report], None], *, forked: bool = False) -> Generator[Any, None, None]:
    """What call(report) reports, as it happens; its exception reaches the listener.

    forked: in a process of ZeroGPU's, where the easel's thread is not; closing then returns only when the call has
    ended, because the GPU is taken away when this returns.
    """
    reports: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    stop = threading.Event()

    def report(what: Any) -> None:
        if stop.is_set() or LEAVING.is_set():
            raise Stopped
        reports.put(("report", what))

    def run() -> None:
        try:
            call(report)
        except BaseException as problem:
            reports.put(("problem", problem))
        else:
            reports.put(("end", None))

    painting = (ThreadPoolExecutor(1) if forked else INFERENCE_EXECUTOR).submit(run)
    try:
        while (news := reports.get())[0] == "report":
            yield news[1]
    finally:
        stop.set()
        if not painting.cancel() and forked:
            painting.result()
    if news[0] == "problem":
        raise news[1]
