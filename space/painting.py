"""From a click to finished pictures: looked up, queued, shown step by step, cancelled; the same for every tab."""

import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import gradio as gr
from gradio.components import Component
from gradio.context import LocalContext
from PIL import Image

from impressionism import names, paint
from impressionism.records import GenerationParams
from space.errors import plain_words
from space.pictures import Item, View, progress, view_of
from space.settings import AT_ONCE, LIGHT, only
from space.studio import Picture, Step, Studio, paced

# One picture is painted at a time, whoever asks.
PAINTING: dict[str, Any] = {"concurrency_id": "painting", "concurrency_limit": 1}
PAINTINGS = 32  # that wait; the next visitor is told to come again

COPY = """async (view) => {
  if (!view?.link) return "Nothing is painted yet";
  const url = location.origin + location.pathname + view.link;
  try { await navigator.clipboard.writeText(url); return "Copied"; } catch { prompt("The link:", url); }
  return "Copy link";
}"""
COPIED = "() => new Promise((done) => setTimeout(() => done('Copy link'), 2000))"
SAVE = """(view) => {
  if (!view?.recipe) return;
  const file = new Blob([JSON.stringify(view.recipe, null, 2)], {type: "application/json"});
  Object.assign(document.createElement("a"), {href: URL.createObjectURL(file), download: "recipe.json"}).click();
}"""


class Job(NamedTuple):
    """What a click asks for."""

    sampling: GenerationParams
    strengths: Sequence[float]
    source: Image.Image | None = None
    change: float | None = None
    before: Sequence[Item] = ()
    """What hangs in front of the pictures: the photograph that is painted over."""
    whole: bool = False
    """The pictures belong together: the link names all their strengths, not only the last."""

    @property
    def asked(self) -> tuple[Any, ...]:
        return self[:4]


@dataclass(frozen=True)
class TabWidgets:
    """The parts of a tab that painting moves."""

    start: gr.Button
    cancel: gr.Button
    price: gr.Markdown
    board: gr.HTML


def add_start(tab: str, label: str) -> tuple[gr.Button, gr.Button, gr.Markdown]:
    """The button that paints, the one that cancels, of which one is seen at a time, and what the click will cost."""
    with gr.Column(elem_classes=[*only(tab), "act"], min_width=100):
        start = gr.Button(label, variant="primary", elem_classes="start", elem_id=f"start-{tab}")
        cancel = gr.Button("Cancel", visible=False, elem_classes="start")
        return start, cancel, gr.Markdown(elem_classes="price")


def add_take(board: gr.HTML, beside: Component | None = None) -> None:
    """The ways to take a picture's settings along."""
    with gr.Row(elem_classes="take"):
        copy = gr.Button("Copy link", size="sm", min_width=100, scale=0)
        save = gr.Button("Save recipe", size="sm", min_width=110, scale=0)
        if beside:
            beside.render()
    copy.click(None, board, copy, js=COPY).then(None, None, copy, js=COPIED)
    save.click(None, board, None, js=SAVE)


def price(studio: Studio, job: Job) -> str:
    """Nothing where nothing is reserved, and for what cannot be painted: the click will say why."""
    seconds = studio.seconds(*job.asked)
    if seconds is None:
        return ""
    return f"Reserves {seconds} s of your ZeroGPU quota." if seconds else "Painted before: costs nothing."


def on_click(
    studio: Studio,
    tab: TabWidgets,
    inputs: Sequence[Component],
    job_of: Callable[..., Job],
    finished: Mapping[Any, Callable[[list[Picture]], Any]] = MappingProxyType({}),
    priced: Callable[..., Job] | None = None,
) -> None:
    """Paints job_of(inputs) when `start` is clicked. finished: what is made of all pictures, and of none before that.
    priced: the job as far as its price needs it.

    What was painted before is shown at once. For the rest, the click changes the ticket, and the ticket's change
    waits in the queue: an event cannot decide about its own queue.
    """
    ticket = gr.State("")
    begun, cancelled = deque(maxlen=PAINTINGS), deque(maxlen=PAINTINGS)  # tickets
    working = {tab.start: gr.update(visible=False), tab.cancel: gr.update("Cancel", visible=True, interactive=True)}
    ending = {tab.cancel: gr.update("Cancelling…", interactive=False)}  # until the painter has let go
    resting = {tab.start: gr.update(visible=True), tab.cancel: gr.update(visible=False)}

    def made_of(pictures: list[Picture]) -> dict[Any, Any]:
        with plain_words():
            return {component: make(pictures) for component, make in finished.items()}

    def begin(*values: Any) -> dict[Component, Any]:
        with plain_words():
            job = job_of(*values)
            pictures = studio.remembered(*job.asked)
        if pictures:
            return {tab.board: shown(job, pictures)} | made_of(pictures)
        mine = secrets.token_hex(8)
        waiting = {"job": mine, "words": "Waiting for the painter", "size": size_of(job)}
        return {ticket: mine, tab.board: waiting, **working}

    def work(mine: str, *values: Any) -> Iterator[dict[Component, Any]]:
        with plain_words():
            job, pictures, step = job_of(*values), [], None
        begun.append(mine)
        with closing(studio.paint(*job.asked)) as painting:  # pyright: ignore[reportArgumentType]  (a generator)
            for event in paced(painting):
                if mine in cancelled and not (step or pictures):  # before the page knew what to cancel
                    return
                if isinstance(event, Step):
                    step = event
                else:
                    pictures.append(event)
                    last = len(pictures) == len(job.strengths)
                    step = None if last or step is None else step._replace(preview=None)
                now = progress(step, job.strengths[step.picture - 1]) if step else {}
                view = shown(job, pictures) | now | {"job": mine, "size": size_of(job)}
                yield {tab.board: view} | (made_of([]) if pictures == [event] else {})  # the first
        if finished:
            yield made_of(pictures)

    def end(mine: str) -> dict[Component, Any]:
        return {tab.board: over(mine), **resting}

    def cancel(mine: str, request: gr.Request) -> dict[Component, Any]:
        if mine:  # else Gradio has forgotten it
            cancelled.append(mine)
        if mine in begun and names.on_zero_gpu():
            hang_up(request.session_hash)
        return {tab.board: over(mine), **ending}

    buttons = [tab.start, tab.cancel]
    several: dict[str, Any] = AT_ONCE | {"concurrency_limit": 4}  # a click may decode a large photograph
    tab.start.click(begin, list(inputs), [tab.board, *finished, *buttons, ticket], **several)
    painting = ticket.change(
        work, [ticket, *inputs], [tab.board, *finished], show_progress="hidden", api_visibility="private", **PAINTING
    )
    painting.then(end, ticket, [tab.board, *buttons], **LIGHT)
    painting.failure(end, ticket, [tab.board, *buttons], **LIGHT)  # `then` is for what did not fail
    tab.cancel.click(cancel, ticket, [tab.board, *buttons], cancels=painting, **LIGHT)
    if studio.seconds(paint.defaults(studio.painter, "any"), [1.0]) is not None:
        gr.on(None, lambda *values: price(studio, (priced or job_of)(*values)), list(inputs), tab.price, **LIGHT)


def shown(job: Job, pictures: list[Picture]) -> View:
    """The pictures of a grid, or the pair that is being painted, with the pairs that are finished."""
    if job.whole:
        return view_of(pictures, whole=True)
    each = len(job.strengths)
    views = [view_of(pictures[start : start + each], job.before) for start in range(0, len(pictures), each)]
    return (views[-1] if views else {}) | {"finished": views[: len(pictures) // each]}


def size_of(job: Job) -> tuple[int, int]:
    return job.sampling.width, job.sampling.height


def over(job: str) -> View:
    """The board stays at what is finished; late news of this job is dropped."""
    return {"over": job}


def hang_up(session: str | None) -> None:
    """As if the visitor had left: what waits for one of ZeroGPU's GPUs looks for that, and not for a cancel."""
    blocks = LocalContext.blocks.get()
    for event in (event for job in blocks._queue.active_jobs if job for event in job) if blocks else ():
        if event.session_hash == session and event.concurrency_id == PAINTING["concurrency_id"]:
            event.alive = False
