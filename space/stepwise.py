"""Turns a call that reports its progress into a generator; closing the generator ends the call at its next report.

ZeroGPU and Gradio can stop only generators, and a pipeline is a call that takes many seconds.
"""

import threading
from collections.abc import Callable, Generator
from queue import SimpleQueue
from typing import Any

Report = Callable[[Any], None]


class Stopped(BaseException):
    """Raised in the call when nobody listens any more; no `except Exception` on its way may keep it."""


def stepwise(call: Callable[[Report], None], *, wait: bool = False) -> Generator[Any, None, None]:
    """What call(report) reports, as it happens; its exception reaches the listener.

    The call runs in a thread of its own. wait: closing returns only when the call has ended, not at once.
    """
    reports: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    stop = threading.Event()

    def report(what: Any) -> None:
        if stop.is_set() or not threading.main_thread().is_alive():  # Ctrl-C: the program ends after this step
            raise Stopped
        reports.put(("report", what))

    def run() -> None:
        try:
            call(report)
        except BaseException as problem:
            reports.put(("problem", problem))
        else:
            reports.put(("end", None))

    thread = threading.Thread(target=run, name="stepwise")
    thread.start()
    try:
        while (news := reports.get())[0] == "report":
            yield news[1]
    finally:
        stop.set()
        if wait:
            thread.join()
    if news[0] == "problem":
        raise news[1]
