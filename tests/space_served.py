"""The Space over real HTTP, on a free port, and its studio without HTTP."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import gradio as gr
from gradio_client import Client

from impressionism.records import GenerationParams
from space import app
from space.api import add_endpoints
from space.jobs import Visitor
from space.studio import Picture, Request, Studio


@contextmanager
def served(studio: Studio, **options: Any) -> Iterator[tuple[str, gr.Blocks]]:
    """The address, and what serves it: the API and the gate, without the page's tabs."""
    app.prepare()
    with gr.Blocks(analytics_enabled=False) as page:
        add_endpoints(studio)
    app.queued(page, studio)
    address = app.launch(page, prevent_thread_lock=True, quiet=True, **options)
    try:
        yield address.rstrip("/"), page
    finally:
        page.close(verbose=False)


def visitor(address: str, **options: Any) -> Client:
    """A program; on a busy machine it has more patience than gradio_client's five seconds."""
    return Client(address, verbose=False, httpx_kwargs={"timeout": 60}, **options)


def from_address(address: str) -> dict[str, str]:
    """Headers of a visitor with another network address, as a proxy on this machine would note it."""
    return {"X-Forwarded-For": address}


def events_of(studio: Studio, request: Request, until: Callable[[Any], bool] = lambda _: False) -> list[Any]:
    """What happens, in order; the call is closed after the first event of which `until` says so."""

    async def collect() -> list[Any]:
        events = []
        async with aclosing(studio.jobs.run(request, Visitor("a test"))) as happening:
            async for event in happening:
                events.append(event)
                if until(event):
                    break
        return events

    return asyncio.run(collect())


def pictures_of(studio: Studio, params: GenerationParams, strengths: list[float], **more: Any) -> list[Picture]:
    """The pictures alone, when all are done."""
    request = studio.request(params, strengths, **more)
    return [event for event in events_of(studio, request) if isinstance(event, Picture)]


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
