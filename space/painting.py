"""From a click to finished pictures: looked up, queued, shown step by step, cancelled; the same for every tab."""

import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import gradio as gr
from gradio.components import Component

from impressionism import names
from impressionism.errors import UserError
from impressionism.grid import Grid, caption_of, columns_for
from impressionism.records import ImageMetadata
from space import zerogpu
from space.errors import plain_words
from space.jobs import Step, Waiting, in_thread, login_here, visitor_here
from space.pictures import Item, View, progress, size_of, view_of
from space.settings import LIGHT, only
from space.studio import Picture, Request, Studio

# What a board shows is known to the board alone: pairs of this session come back to it without the server.
SHOWN = "[...document.querySelectorAll('.pair, .wall')].find((board) => board.offsetParent)?.shown"
COPY = f"""async () => {{
  const view = {SHOWN};
  if (!view?.link) return "Nothing is painted yet";
  const url = location.origin + location.pathname + view.link;
  try {{ await navigator.clipboard.writeText(url); return "Copied"; }} catch {{ prompt("The link:", url); }}
  return "Copy link";
}}"""
COPIED = "() => new Promise((done) => setTimeout(() => done('Copy link'), 2000))"
OVER = "() => ({over: true})"  # the board stays at what is finished; late news of this painting is dropped
SAVE = f"""() => {{
  const recipe = {SHOWN}?.recipe;
  if (!recipe) return;
  const file = new Blob([JSON.stringify(recipe, null, 2)], {{type: "application/json"}});
  Object.assign(document.createElement("a"), {{href: URL.createObjectURL(file), download: "recipe.json"}}).click();
}}"""


class Job(NamedTuple):
    """What a click asks for."""

    request: Request
    each: int
    """Pictures that belong together: a pair, or a whole grid."""
    before: Sequence[Item] = ()
    """What hangs in front of the pictures: the photograph that is painted over."""
    grid: Grid | None = None
    """All pictures stay on the board; the link of a single row names all its strengths."""
    caption: Callable[[ImageMetadata], str] = caption_of
    """What distinguishes a picture from the others."""


LESS = "choose Fast, fewer steps or fewer or smaller pictures."


class Start(NamedTuple):
    """The buttons of a tab."""

    paint: gr.Button
    cancel: gr.Button
    price: gr.Markdown


def add_start(tab: str, label: str) -> Start:
    """The button that paints, the one that cancels, and what the click will cost. The tab's board shows one of the two
    buttons at a time: Gradio can lose a change of `visible` when news from the server come close together."""
    with gr.Column(elem_id=f"act-{tab}", elem_classes=[*only(tab), "act"], min_width=100):
        paint = gr.Button(label, variant="primary", elem_classes="start", elem_id=f"start-{tab}")
        cancel = gr.Button("Cancel", elem_classes="start cancel")
        return Start(paint, cancel, gr.Markdown(elem_classes="price"))


def add_take(*beside: Component) -> None:
    """The ways to take a picture's settings along."""
    with gr.Row(elem_classes="take"):
        copy = gr.Button("Copy link", size="sm", min_width=100, scale=0)
        save = gr.Button("Save recipe", size="sm", min_width=110, scale=0)
        for component in beside:
            component.render()
    copy.click(None, None, copy, js=COPY).then(None, None, copy, js=COPIED)
    save.click(None, None, None, js=SAVE)


def price(studio: Studio, ask: Callable[[], Job]) -> str:
    """Nothing where nothing is reserved, and for what cannot be painted: the click will say why."""
    try:
        seconds = studio.seconds(ask().request)
    except UserError:
        return ""
    if seconds is None:
        return ""
    if not seconds:
        return "Painted before: costs nothing."
    token = login_here().get("access_token")
    left = zerogpu.left(token) if token else None
    if left is not None and seconds > left:
        return f"Needs {seconds} s of your ZeroGPU quota, and {left:.0f} s are left today: {LESS}"
    if not token and seconds > zerogpu.ANONYMOUS:
        a_day = f"without signing in you have {zerogpu.ANONYMOUS} s a day"
        return f"Needs {seconds} s of ZeroGPU quota; {a_day}. Sign in, or {LESS}"
    rest = "" if left is None else f", of which {left:.0f} s are left today"
    return f"Reserves {seconds} s of your ZeroGPU quota{rest}."


def on_click(
    studio: Studio,
    start: Start,
    board: gr.HTML,
    inputs: Mapping[str, Component],
    job_of: Callable[..., Job],
    finished: Mapping[Any, Callable[[Job, list[Picture]], Any]] = MappingProxyType({}),
    priced: Callable[..., Job] | None = None,
    js: str | None = None,
) -> None:
    """Paints job_of(**inputs) on the board when `start` is clicked. finished: what is made of all pictures, and of none
    before that. priced: the job as far as its price needs it. js: makes the inputs, in the browser.

    One event from the click to the last picture: it waits in our own line (jobs.py), not in Gradio's."""

    def made_of(job: Job, pictures: list[Picture]) -> dict[Any, Any]:
        with plain_words():
            return {component: make(job, pictures) for component, make in finished.items()}

    async def work(**values: Any) -> AsyncIterator[dict[Component, Any]]:
        with plain_words():
            job = await in_thread(partial(job_of, **values))
        if pictures := studio.remembered(job.request):
            yield {board: shown(job, pictures)} | await in_thread(made_of, job, pictures)
            return
        items = [item.metadata for item in job.request.items]
        mine, pictures, step = secrets.token_hex(8), [], None
        base = {"job": mine, "size": size_of(items[0])}
        yield {board: base | {"words": "Waiting for the painter"}}
        async with aclosing(studio.jobs.run(job.request, visitor_here())) as events:
            async for event in events:
                if isinstance(event, Waiting):
                    yield {board: base | {"words": f"Waiting for the painter: {event.before} before yours"}}
                    continue
                if isinstance(event, Step):
                    step = event
                else:
                    pictures.append(event)
                    step = None if step is None or len(pictures) == len(items) else step._replace(preview=None)
                now = progress(step, job.caption(items[step.picture - 1])) if step else {}
                view = shown(job, pictures) | now | base
                yield {board: view} | (made_of(job, []) if pictures == [event] else {})  # the first  # pyright: ignore[reportReturnType]
        # with the pictures: a busy browser sees only the last of several news that come close together
        yield {**(await in_thread(made_of, job, pictures)), board: shown(job, pictures) | {"over": mine}}

    painting = start.paint.click(
        work, None, [board, *finished], inputs_kwargs=dict(inputs),
        concurrency_limit=None, show_progress="hidden", api_visibility="private", js=js,
    )  # fmt: skip
    painting.failure(None, None, board, js=OVER)
    start.cancel.click(None, None, board, js=OVER, cancels=painting)
    if names.on_zero_gpu():
        ask = priced or job_of
        gr.on(
            None, lambda **values: price(studio, lambda: ask(**values)), None, start.price,
            inputs_kwargs=dict(inputs), js=js, **LIGHT,
        )  # fmt: skip


def shown(job: Job, pictures: list[Picture]) -> View:
    """The pictures of a grid, or the pair that is being painted, with the pairs that are finished."""
    if job.grid:
        row = job.grid.rows is None
        columns = columns_for(job.each) if row else len(job.grid.columns.values)
        return view_of(pictures, caption=job.caption, whole=row) | {"columns": columns, "table": not row}
    views = [
        view_of(pictures[start : start + job.each], job.before, job.caption)
        for start in range(0, len(pictures), job.each)
    ]
    return (views[-1] if views else {}) | {"finished": [] if job.before else views[: len(pictures) // job.each]}
