"""The line in front of the painter: who paints next, how many may wait, and what a cancel does.

Gradio's own queue serves first come, first served, without a limit for one visitor, and cannot stop a call that has
not begun. So each painting event enters here at once: a visitor may have one painting under way and two waiting, the
visitor who was served longest ago is next, and a cancelled call frees the painter within one step.
"""

from space import zerogpu  # isort: skip  (before torch and gradio)

import asyncio
import contextvars
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from gradio.context import LocalContext
from PIL import Image

from impressionism.errors import UserError
from impressionism.paint import key_of
from space.errors import plain_words
from space.gate import LIMITS, address_of
from space.preview import PAUSE
from space.stepwise import Stopped

if TYPE_CHECKING:
    from space.studio import Picture, Request, Studio

TELL_EVERY = 1.0  # seconds between two messages about a visitor's place; Gradio notices one who has left only then
RESTARTING = "The page is restarting. Your settings are kept: try again in a minute."

INFERENCE_EXECUTOR = ThreadPoolExecutor(1, "painter")
"""The thread in which the painter is loaded and paints. OpenMP keeps a team of threads for each thread that computes;
while all teams together have more threads than there are cores, they sleep between two operations."""

PREPARE_EXECUTOR = ThreadPoolExecutor(LIMITS["prepare"], "prepare")
"""Decodes photographs and reads recipes, a few at a time, so that no visitor's files take all cores."""


class Waiting(NamedTuple):
    """The painter is busy; sent every second until it is this visitor's turn."""

    before: int
    """Paintings that come first, with the one under way."""


class Step(NamedTuple):
    """A step is done; sent while pictures are painted."""

    done: int
    """Steps done, of all pictures that this call has to paint."""
    steps: int
    """Steps of them all."""
    picture: int
    """Which picture is being painted, from 1, counting those that were there already."""
    pictures: int
    """Pictures of the call."""
    preview: Image.Image | None
    """What the picture is becoming, small and rough; none at a picture's first step."""


Events = AsyncGenerator["Waiting | Step | Picture", None]
"""What happens, in order. Closing it frees the painter within a step; a failure comes as gr.Error, after the pictures
that were finished before it."""


class Visitor(NamedTuple):
    """Whose call it is, as far as the server can tell."""

    address: str
    """The network address; on a Space, the one that its proxy saw."""
    session: str | None = None
    """Gradio's session: one open page or one gradio_client."""
    name: str | None = None
    """The name that the visitor is logged in with."""

    @property
    def keys(self) -> set[str]:
        """A limit holds for each of these; a name that is known stands for the address, which others may share."""
        return {self.name or self.address, *([self.session] if self.session else [])}


def visitor_here() -> Visitor:
    """The visitor whose event Gradio is handling."""
    request = LocalContext.request.get(None)
    if request is None or request.request is None:
        return Visitor("local")
    name = request.username or login_here().get("userinfo", {}).get("preferred_username")
    return Visitor(address_of(request.request.scope), request.session_hash, name)


def login_here() -> dict[str, Any]:
    """The visitor's login with hf_oauth, from a signed cookie: userinfo and access_token; empty without one."""
    request = LocalContext.request.get(None)
    scope = request.request.scope if request and request.request else {}
    return scope.get("session", {}).get("oauth_info") or {}


async def in_thread(call: Callable[..., Any], *values: Any) -> Any:
    """call(*values) in one of the few threads for preparation, as a visitor's files are decoded in no other."""
    if PREPARE_EXECUTOR._work_queue.qsize() >= LIMITS["waiting"]:
        raise UserError("Too many files are being read just now; try again in a minute.")
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(PREPARE_EXECUTOR, context.run, call, *values)  # pyright: ignore[reportArgumentType]


@dataclass(eq=False)
class Place:
    """One call in the line."""

    visitor: Visitor
    turn: asyncio.Future[None]
    """Done when the painter is free for this call."""
    work: Future[None] | None = None
    """The painting, once it has been handed to the painter's thread; the painter is free when it has ended."""


class Jobs:
    """All calls that wait for the painter or paint, of one event loop."""

    def __init__(self, studio: "Studio") -> None:
        self.studio = studio
        self.waiting: list[Place] = []
        self.painting: Place | None = None
        self.served: OrderedDict[str, float] = OrderedDict()
        """When each visitor's last painting began, of the last visitors."""
        self.closing = False

    async def run(self, request: "Request", visitor: Visitor) -> Events:
        """The pictures of the request, in its order; those that were painted before come at once, past the line."""
        with plain_words():
            if pictures := self.studio.remembered(request):
                for picture in pictures:
                    yield picture
                return
            place = self._join(visitor)
            try:
                while not place.turn.done():
                    yield Waiting(self._before(place))
                    await asyncio.wait([place.turn], timeout=TELL_EVERY)
                    self._check_open()
                async with aclosing(self._paint(request, place)) as events:
                    async for event in events:
                        yield event
            finally:
                self._leave(place)

    def close(self) -> None:
        """Ends all calls with a sentence, those that paint at their next step; for the end of the program."""
        self.closing = True

    # ---- The line

    def _check_open(self) -> None:
        if self.closing:
            raise UserError(RESTARTING)

    def _join(self, visitor: Visitor) -> Place:
        self._check_open()
        if len(self.waiting) >= LIMITS["waiting"]:
            raise UserError(f"{LIMITS['waiting']} paintings are waiting already; try again in a few minutes.")
        own = sum(bool(place.visitor.keys & visitor.keys) for place in self.waiting)
        if own >= LIMITS["waiting_of_one"]:
            raise UserError(f"{own} paintings of yours are waiting already; try again when one of them is done.")
        place = Place(visitor, asyncio.get_running_loop().create_future())
        self.waiting.append(place)
        self._serve()
        return place

    def _leave(self, place: Place) -> None:
        """A call that ends before its painting began makes room; one that paints does so when its step has ended."""
        if place in self.waiting:
            self.waiting.remove(place)
        elif place.work is None:
            self._free()

    def _free(self) -> None:
        self.painting = None
        self._serve()

    def _serve(self) -> None:
        if self.painting is None and self.waiting:
            self.painting = place = min(self.waiting, key=lambda place: self._last_served(place, self.served))
            self.waiting.remove(place)
            for key in place.visitor.keys:
                self.served[key] = time.monotonic()
                self.served.move_to_end(key)
            while len(self.served) > LIMITS["visitors"]:
                self.served.popitem(last=False)
            place.turn.set_result(None)

    @staticmethod
    def _last_served(place: Place, served: dict[str, float]) -> float:
        """The order in which visitors are served; among equals, `min` takes who came first."""
        return max(served.get(key, 0.0) for key in place.visitor.keys)

    def _before(self, place: Place) -> int:
        """Paintings that are served before this one, if nobody else comes."""
        served, line, before = dict(self.served), list(self.waiting), int(self.painting is not None)
        while (first := min(line, key=lambda other: self._last_served(other, served))) is not place:
            line.remove(first)
            served |= dict.fromkeys(first.visitor.keys, time.monotonic() + before)
            before += 1
        return before

    # ---- The painting

    async def _paint(self, request: "Request", place: Place) -> Events:
        studio, loop = self.studio, asyncio.get_running_loop()
        events: asyncio.Queue[Any] = asyncio.Queue()
        left = threading.Event()
        await in_thread(studio.check_photographs, request)
        keyed = {key_of(item.metadata): item for item in request.items}
        found = {key: studio.memory.get(item.metadata) for key, item in keyed.items()}
        missing = [item for key, item in keyed.items() if found[key] is None]

        def report(event: Any) -> None:
            if left.is_set() or self.closing:
                raise Stopped
            loop.call_soon_threadsafe(events.put_nowait, event)

        def end(work: Future[None]) -> None:
            try:
                loop.call_soon_threadsafe(events.put_nowait, work)
                loop.call_soon_threadsafe(self._free)
            except RuntimeError:  # this call's event loop is closed; the painter is free all the same
                self._free()

        context = contextvars.copy_context()  # ZeroGPU finds the visitor in it
        place.work = INFERENCE_EXECUTOR.submit(context.run, studio.work, missing, report)
        place.work.add_done_callback(end)
        began = told = 0.0
        first = done = 0
        try:
            for number, item in enumerate(request.items, 1):
                while (picture := found[key_of(item.metadata)]) is None:
                    event = await events.get()
                    if isinstance(event, Future):
                        raise failure(event)
                    if isinstance(event, Image.Image):
                        found[key_of(item.metadata)] = await asyncio.to_thread(studio.keep, event, item.metadata)
                        continue
                    done, steps, preview = event
                    began, first = (began, first) if began else (time.monotonic(), done)
                    if time.monotonic() - told >= PAUSE:  # no more steps than are worth their way to a browser
                        told = time.monotonic()
                        yield Step(done, steps, number, len(request.items), preview)
                yield picture
            if began:
                studio.pace.learn(
                    time.monotonic() - began, steps=done - first, params=request.items[0].metadata.sampling
                )
        except (asyncio.CancelledError, GeneratorExit):
            zerogpu.hang_up()
            raise
        finally:
            left.set()
            place.work.cancel()


def failure(work: Future[None]) -> Exception:
    """Why a painting ended before all its pictures were there."""
    problem = None if work.cancelled() else work.exception()
    if isinstance(problem, Stopped):
        return UserError(RESTARTING)
    if isinstance(problem, Exception):
        return problem
    if problem is None:
        return UserError("The painting ended before the picture was done. Try again.")
    return RuntimeError(f"the painter's thread ended with {type(problem).__name__}")
