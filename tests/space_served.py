"""The Space's API without its page: real HTTP, on a free port."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio_client import Client

from space.api import REFUSALS, add_endpoints
from space.studio import Picture, Progress, Studio


@contextmanager
def served(studio: Studio, **options: Any) -> Iterator[tuple[str, gr.Blocks]]:
    """The address, and what serves it."""
    with gr.Blocks(analytics_enabled=False) as page:
        add_endpoints(studio, {"concurrency_id": "painting", "concurrency_limit": 1})
    page.queue(max_size=32, default_concurrency_limit=1)
    _, address, _ = page.launch(
        prevent_thread_lock=True, quiet=True, ssr_mode=False, _frontend=False,
        app_kwargs={"exception_handlers": REFUSALS}, **options,
    )  # fmt: skip
    try:
        yield address.rstrip("/"), page
    finally:
        page.close(verbose=False)


def visitor(address: str, **options: Any) -> Client:
    """A program; on a busy machine it has more patience than gradio_client's five seconds."""
    return Client(address, verbose=False, httpx_kwargs={"timeout": 60}, **options)


def pictures_of(progress: Progress) -> list[Picture]:
    """The pictures alone, when all are done."""
    return [event for event in progress if isinstance(event, Picture)]
