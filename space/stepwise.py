"""Turns a call that reports its progress into a generator; closing the generator ends the call at its next report.

ZeroGPU and Gradio can stop only generators, and the pipeline is a call that takes many seconds.
"""

import threading
from collections.abc import Callable, Iterator
from queue import Queue
from typing import Any


class Stopped(BaseException):
    """Raised in the call when nobody listens any more; no `except Exception` on its way may keep it."""


def stepwise(call: Callable[[Callable[[Any], None]], None]) -> Iterator[Any]:
    """What call(report) reports, as it happens; its exception reaches the listener.

    The call runs in a thread of its own and waits at each report until the one before has been taken, so that it is
    never more than a step ahead of whoever listens.
    """
    reports: Queue[tuple[str, Any]] = Queue(maxsize=1)
    stop = threading.Event()

    def report(what: Any) -> None:
        if not stop.is_set():
            reports.put(("report", what))
        if stop.is_set():
            raise Stopped

    def run() -> None:
        try:
            call(report)
        except BaseException as problem:
            reports.put(("problem", problem))
        else:
            reports.put(("end", None))

    thread = threading.Thread(target=run, name="stepwise", daemon=True)
    thread.start()
    try:
        while True:
            kind, what = reports.get()
            if kind == "problem":
                raise what
            if kind == "end":
                return
            yield what
    finally:
        stop.set()
        while thread.is_alive():  # until it has noticed, what it still reports is taken and dropped
            if not reports.empty():
                reports.get()
            thread.join(0.005)
