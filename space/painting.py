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
from space.pictures import Item, View, view_of
from space.settings import AT_ONCE, LIGHT
from space.studio import Picture, Step, Studio, paced

# One picture is painted at a time, whoever asks.
PAINTING: dict[str, Any] = {"concurrency_id": "painting", "concurrency_limit": 1}
PAINTINGS = 32  # that wait; the next visitor is told to come again

COPY = """async (view) => {
  if (view?.words) return "Not finished";
  const url = location.origin + location.pathname + (view?.link ?? "");
  try { await navigator.clipboard.writeText(url); return "Copied"; } catch { prompt("The link:", url); }
  return "Copy link";
}"""
COPIED = "() => new Promise((done) => setTimeout(() => done('Copy link'), 2000))"
SAVE = """(recipe) => {
  if (!recipe) return;
  const file = new Blob([JSON.stringify(recipe, null, 2)], {type: "application/json"});
  Object.assign(document.createElement("a"), {href: URL.createObjectURL(file), download: "recipe.json"}).click();
}"""


class Job(NamedTuple):
    """What a click asks for."""

    sampling: GenerationParams
    strengths: Sequence[float]
    source: Image.Image | None = None
    change: float | None = None
    beside: Sequence[Item] = ()
    """What hangs in front of the pictures: the photograph that is painted over."""
    row: bool = False
    """The pictures belong together: the link names all their strengths, not only the last."""


@dataclass(frozen=True)
class TabWidgets:
    """The parts of a tab that painting moves."""

    start: gr.Button
    cancel: gr.Button
    board: gr.HTML
    recipe: gr.JSON


def add_start(label: str, **more: Any) -> tuple[gr.Button, gr.Button]:
    """One of the two is seen at a time."""
    start = gr.Button(label, variant="primary", scale=0, min_width=150, elem_classes="start", **more)
    return start, gr.Button("Cancel", scale=0, min_width=150, visible=False, elem_classes="start")


def add_recipe(board: gr.HTML, first: dict[str, Any] | None = None, beside: Component | None = None) -> gr.JSON:
    """The recipe of what hangs on the board, and the ways to take it along."""
    with gr.Row(elem_classes="take"):
        copy = gr.Button("Copy link", size="sm", min_width=100, scale=0)
        save = gr.Button("Save recipe", size="sm", min_width=110, scale=0)
        if beside:
            beside.render()
    with gr.Accordion("Recipe", open=False, elem_classes="recipe"):
        recipe = gr.JSON(first, show_label=False)
    copy.click(None, board, copy, js=COPY).then(None, None, copy, js=COPIED)
    save.click(None, recipe, None, js=SAVE)
    return recipe


def add_quota(studio: Studio, inputs: Sequence[Component], job_of: Callable[..., Job]) -> None:
    """What ZeroGPU will reserve, said before the click; elsewhere nothing is reserved, and nothing said."""
    if studio.seconds(paint.defaults(studio.painter, "any"), [1.0]) is None:
        return

    line = gr.Markdown(elem_classes="quota")
    gr.on(None, lambda *values: quota(studio, job_of(*values)), list(inputs), line, **LIGHT)


def quota(studio: Studio, job: Job) -> str:
    """Nothing, for what cannot be painted: the click will say why."""
    seconds = studio.seconds(*job[:4])
    if seconds is None:
        return ""
    return f"Reserves {seconds} s of your ZeroGPU quota." if seconds else "Painted before: costs nothing."


def on_click(
    studio: Studio,
    bench: TabWidgets,
    inputs: Sequence[Component],
    job_of: Callable[..., Job],
    finished: Mapping[Any, Callable[[list[Picture]], Any]] = MappingProxyType({}),
) -> None:
    """Paints job_of(inputs) when `start` is clicked. finished: what is made of all pictures, and of none before that.

    What was painted before is shown at once. For the rest, the click changes the ticket, and the ticket's change
    waits in the queue: an event cannot decide about its own queue.
    """
    ticket, before = gr.State(""), gr.State(None)
    begun, cancelled = deque(maxlen=PAINTINGS), deque(maxlen=PAINTINGS)  # tickets
    working = {bench.start: gr.update(visible=False), bench.cancel: gr.update("Cancel", visible=True, interactive=True)}
    ending = {bench.cancel: gr.update("Cancelling…", interactive=False)}  # until the painter has let go
    resting = {bench.start: gr.update(visible=True), bench.cancel: gr.update(visible=False)}

    def shown(job: Job, pictures: list[Picture], step: Step | None, painted_for: str = "") -> dict[Component, Any]:
        recipes = [picture.recipe for picture in pictures]
        board = view_of(pictures, job.strengths, step, job.beside, row=job.row)
        return {bench.board: board | {"job": painted_for}, bench.recipe: recipes[-1] if recipes else gr.skip()}

    def made_of(pictures: list[Picture]) -> dict[Any, Any]:
        with plain_words():
            return {component: make(pictures) for component, make in finished.items()}

    def begin(view: View | None, *values: Any) -> dict[Component, Any]:
        with plain_words():
            job = job_of(*values)
            pictures = studio.remembered(*job[:4])
        if pictures:
            return shown(job, pictures, None) | made_of(pictures)
        return {ticket: secrets.token_hex(8), before: view, **working}

    def work(mine: str, *values: Any) -> Iterator[dict[Component, Any]]:
        with plain_words():
            job, pictures, step = job_of(*values), [], None
        begun.append(mine)
        with closing(studio.paint(*job[:4])) as progress:  # pyright: ignore[reportArgumentType]  (a generator)
            for event in paced(progress):
                if mine in cancelled and not (step or pictures):  # before the page knew what to cancel
                    return
                if isinstance(event, Step):
                    step = event
                else:
                    pictures.append(event)
                    last = len(pictures) == len(job.strengths)
                    step = None if last or step is None else step._replace(preview=None)
                yield shown(job, pictures, step, mine) | (made_of([]) if pictures == [event] else {})  # the first
        if finished:
            yield made_of(pictures)

    def finish(mine: str, view: View | None) -> dict[Component, Any]:
        """After a cancel this comes late, when there may be another painting: of that it must leave everything."""
        late = mine and not (view and view.get("job") == mine and view.get("link"))  # Gradio may have forgotten mine
        return {bench.board: gr.skip() if late else hung(view), **resting}

    def fail(mine: str, view: View | None, old: View | None) -> dict[Component, Any]:
        began = view and view.get("job") == mine
        return {bench.board: hung(view, old) if began else gr.skip(), **resting}

    def cancel(mine: str, view: View | None, old: View | None, request: gr.Request) -> dict[Component, Any]:
        if mine:  # else Gradio has forgotten it
            cancelled.append(mine)
        if mine in begun and names.on_zero_gpu():
            hang_up(request.session_hash)
        return {bench.board: hung(view, old) | {"over": mine}, **ending}

    outputs = [bench.board, bench.recipe, *finished]
    buttons = [bench.start, bench.cancel]
    several: dict[str, Any] = AT_ONCE | {"concurrency_limit": 4}  # a click may decode a large photograph
    bench.start.click(begin, [bench.board, *inputs], [*outputs, *buttons, ticket, before], **several)
    painting = ticket.change(
        work, [ticket, *inputs], outputs,
        show_progress="full", show_progress_on=bench.board, api_visibility="private", **PAINTING,
    )  # fmt: skip
    ended = [bench.board, *buttons]
    painting.then(finish, [ticket, bench.board], ended, **LIGHT)
    painting.failure(fail, [ticket, bench.board, before], ended, **LIGHT)  # `then` is for what did not fail
    bench.cancel.click(cancel, [ticket, bench.board, before], ended, cancels=painting, **LIGHT)


def hang_up(session: str | None) -> None:
    """As if the visitor had left: what waits for one of ZeroGPU's GPUs looks for that, and not for a cancel."""
    blocks = LocalContext.blocks.get()
    for event in (event for job in blocks._queue.active_jobs if job for event in job) if blocks else ():
        if event.session_hash == session and event.concurrency_id == PAINTING["concurrency_id"]:
            event.alive = False


def hung(view: View | None, old: View | None = None) -> View:
    """What is done stays, else what hung there before; what was begun goes."""
    hangs = (view if view and view.get("link") else old) or {}
    return {"items": hangs.get("items", []), "link": hangs.get("link", "")}
