"""The only place that changes Gradio's (and uvicorn's) own code, for what a public page needs and no setting offers.

Each name that is replaced is asserted to be there, so that an upgrade which renames one fails at the start and does not
open a door without a word; tests/test_space_gate.py shows over HTTP what each one mends.
"""

import inspect
import logging
import sys
from types import SimpleNamespace
from typing import Any

import gradio as gr
import uvicorn.config
from fastapi import HTTPException
from gradio import processing_utils, queueing, route_utils, routes, utils
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from space.errors import sorry
from space.gate import LIMITS, Gate, log_briefly, own_origin

NOT_FETCHED = "Pictures are not fetched from the web. Download the picture, then upload it."
NOT_ANSWERED = "This could not be answered. If a program asked: /gradio_api/info names the endpoints and their fields."


def secure() -> None:
    """Closes Gradio's doors; before the page is launched. A second call changes nothing."""
    replace(processing_utils, "async_ssrf_protected_download", fetch_nothing)
    replace(routes, "secure_url_stream_response", serve_nothing)
    replace(route_utils, "get_root_url", root_of)
    replace(route_utils, "update_root_in_config", set_root)
    replace(gr.Blocks, "validate_inputs", check_number)
    for module in (queueing, routes):
        replace(module, "traceback", SimpleNamespace(print_exc=log_without_traceback))
    replace(queueing, "error_payload", payload_of)
    replace(utils, "error_payload", payload_of)
    assert "auto" in uvicorn.config.HTTP_PROTOCOLS
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:PromptProtocol"
    assert "_app" in inspect.signature(gr.Blocks.launch).parameters
    logging.getLogger("uvicorn.error").addFilter(only_briefly)


def replace(owner: Any, name: str, ours: Any) -> None:
    assert hasattr(owner, name), f"Gradio has no {owner.__name__}.{name} any more: see what does its work now."
    setattr(owner, name, ours)


# ---- Nothing is fetched from the web


async def fetch_nothing(url: str, *_: Any, **__: Any) -> str:
    """Gradio would fetch a picture from any public address that a visitor names."""
    raise sorry(NOT_FETCHED)


async def serve_nothing(url: str, *_: Any) -> None:
    """Gradio would also hand on what lies at any public address that is named in /file=…"""
    raise HTTPException(403, NOT_FETCHED)


# ---- Addresses are paths on the page's own origin


def root_of(request: Any, route_path: str, root_path: str | None) -> str:
    """What stands before a file's address. Gradio takes it from the Host header, which behind a proxy is another one,
    and which a stranger can choose. A program that asks for JSON needs a whole address: it gets the one that it asked,
    if that is ours."""
    if root_path and root_path.startswith(("http://", "https://")):
        return root_path.rstrip("/")
    prefix = (root_path or "").rstrip("/")
    path = request.scope["path"]
    if "/gradio_api/call" in path or "/gradio_api/mcp" in path:
        return own_origin(request.scope) + prefix
    return prefix


def set_root(config: Any, root: str) -> Any:
    """The page's script resolves "/" against the address that the browser shows."""
    if config.get("root") is None:
        config = processing_utils.add_root_url(config, root, None)
    config["root"] = root or "/"
    return config


# ---- A failed call is one line in the log and one sentence for whoever called


def check_number(self: Any, block_fn: Any, inputs: list[Any]) -> None:
    """Refuses a call with too few values; Gradio would print those that came, and prompts are not recorded."""
    has, needs = len(inputs), len(block_fn.inputs)
    if has < needs:
        raise sorry(f"The call has {has} values, and needs {needs}: /gradio_api/info names them.")


def log_without_traceback(*_: Any, **__: Any) -> None:
    """In place of traceback.print_exc: an exception's message and its values may quote a prompt."""
    log_briefly("A call failed: %s", type(sys.exc_info()[1]).__name__)


def payload_of(error: BaseException | None, show_error: bool, original: Any = utils.error_payload) -> Any:
    """An error that is no sentence of ours becomes one."""
    return original(error if isinstance(error, gr.Error) else sorry(NOT_ANSWERED), show_error)


def only_briefly(record: logging.LogRecord) -> bool:
    """uvicorn's own lines about requests that are no HTTP go through the same limit."""
    if record.levelno < logging.WARNING:
        return True
    log_briefly("%s", record.getMessage().splitlines()[0])
    return False


# ---- The server


class PromptProtocol(AutoHTTPProtocol):  # pyright: ignore[reportGeneralTypeIssues]  (httptools' or h11's)
    """Closes a connection whose request does not arrive; uvicorn would wait for ever for the rest of its headers."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch(None)

    def _watch(self, seen: Any) -> None:
        """A connection that waits for the same request as the last time is closed."""
        if self.transport.is_closing():
            return
        waits = self.cycle is None or self.cycle.response_complete
        if waits and self.cycle is seen and self._watched:
            self.transport.close()
            return
        self._watched = True
        self.loop.call_later(LIMITS["header_seconds"], self._watch, self.cycle)

    _watched = False


class GatedApp(routes.App):
    """Gradio's app behind the gate: outside of all its middleware, which would reflect origins."""

    agents: Any = None

    def build_middleware_stack(self) -> Any:
        return Gate(super().build_middleware_stack(), self.agents)
