"""The page: what to paint on one side, and beside it the tabs (tabs/, a file each).

python -m space          or, as a Space does, python space/app.py
"""

import sys
from pathlib import Path

if not __package__:  # run as a file: Python put space/ on the path, the packages lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from space import zerogpu  # noqa: F401  isort: skip  (before torch and gradio)

from typing import Any

import gradio as gr
from gradio.queueing import Queue

from impressionism.pipeline import Painter
from space.api import REFUSALS, add_endpoints
from space.arrivals import add_arrivals
from space.gallery import SHOWCASE, pairs_in
from space.painting import PAINTING, PAINTINGS, add_start
from space.pictures import FRONT
from space.settings import add_settings, make_settings, only
from space.studio import DELETE_EVERY_AND_AFTER, MOST_MEGABYTES, Studio
from space.tabs.about import add_about
from space.tabs.gallery import add_gallery
from space.tabs.grid import add_grid
from space.tabs.paint import add_paint
from space.tabs.repaint import add_photograph, add_repaint
from space.texts import NOTICE, words_for
from space.theme import STYLE, theme

SESSIONS = 100  # whose state Gradio keeps, 0.2 MB each; each call of a program is one, and by default it keeps 10,000
LOOK_FOR_WORK = (0.004, 0.02)  # seconds; the second while something is painted, as looking takes of the painter's cores


def build(painter: Painter, showcase: Path = SHOWCASE) -> gr.Blocks:
    """The page and the API for this painter."""
    studio, texts, pairs = Studio(painter), words_for(painter), pairs_in(showcase)
    own = [pair for pair in pairs if pair.recipe.provenance.base == painter.provenance.base]
    first = next((pair for pair in own if pair.chosen == "best"), own[0] if own else None)
    with gr.Blocks(title="Impressionism", delete_cache=DELETE_EVERY_AND_AFTER, analytics_enabled=False) as page:
        gr.HTML(
            "<h1>Impressionism</h1><p>One prompt, painted without and with an Impressionist adapter.</p>",
            elem_id="title",
        )
        settings = make_settings(studio, texts, first and first.recipe)
        with gr.Row(elem_id="room"):
            with gr.Column(elem_id="ask", min_width=260):
                photograph = add_photograph()
                settings.prompt.render()
                to_paint = add_start("paint", "Compare")
                to_repaint = add_start("repaint", "Repaint")
                to_sweep = add_start("grid", "Paint them all")
                stale = gr.Markdown(elem_classes=[*only("paint"), "stale"])
            with gr.Column(elem_id="easel", min_width=320):
                settings.tabs.render()
                with settings.tabs:
                    with gr.Tab("Paint", id="paint", elem_id="paint"):
                        board = add_paint(studio, settings, to_paint, stale, showcase, first, texts.sizes["Square"])
                    with gr.Tab("Repaint", id="repaint", elem_id="repaint"):
                        add_repaint(studio, texts, settings, to_repaint, photograph)
                    with gr.Tab("Grid", id="grid", elem_id="grid"):
                        add_grid(studio, settings, to_sweep)
                    with gr.Tab("Gallery", id="gallery", elem_id="gallery"):
                        add_gallery(studio, settings, board, showcase, pairs)
                    with gr.Tab("About", id="about", elem_id="about-tab"):
                        add_about(studio, texts)
            with gr.Column(elem_id="more", min_width=260):
                add_settings(studio, texts, settings)
                add_arrivals(page, studio, settings, board, photograph)
        gr.Markdown(f"{painter.about} {NOTICE}", elem_id="notice")
        add_endpoints(studio, PAINTING)
    page.queue(max_size=1000, default_concurrency_limit=1, api_open=False)  # closed: the doors that pass the queue by
    page._queue.__class__ = BoundedQueue
    page._queue.progress_update_sleep_when_free = 1  # second; for gr.Progress, which nobody uses here
    return page


class BoundedQueue(Queue):
    """Gradio's queue, where so many paintings may wait, and which looks for work as often as is worth it."""

    async def push(self, *call: Any, **named: Any) -> Any:
        """Gradio's own limit would also refuse what waits for no painter: a page that is opened by a link, a picture
        that was painted before. And a call that is answered at once Gradio would keep for good, with its prompt."""
        pushed = await super().push(*call, **named)
        event = self.event_ids_to_events.get(str(pushed[1]))
        if event is None:
            return pushed
        line = self.event_queue_per_concurrency_id[event.concurrency_id].queue
        too_many = event.concurrency_id == PAINTING["concurrency_id"] and len(line) > PAINTINGS
        if event in line and not too_many:
            return pushed
        self.event_ids_to_events.pop(event._id)
        self.blocks.app.iterators.pop(event._id, None)
        if event not in line:
            return pushed
        line.remove(event)
        self.event_analytics.pop(event._id, None)
        self.pending_event_ids_session[event.session_hash].discard(event._id)
        return False, f"{PAINTINGS} paintings are waiting already; try again in a few minutes.", "queue_full"

    @property
    def sleep_when_free(self) -> float:  # type: ignore[override]
        """Seconds until it looks again; Gradio's would look each millisecond, 8 % of a core."""
        return LOOK_FOR_WORK[any(self.active_jobs)]


# ---------------------------------------------------------------- opening the doors


def launch(page: gr.Blocks, host: str | None = None, port: int | None = None, **more: Any) -> str:
    """Serves the page and returns its address; Gradio 6 takes the looks here."""
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        theme=theme(),
        css_paths=STYLE,
        js=(FRONT / "page.js").read_text(),
        mcp_server=True,
        footer_links=["api", "settings"],
        state_session_capacity=SESSIONS,
        run_history=False,  # the page says that it keeps nothing
        max_file_size=f"{MOST_MEGABYTES}mb",
        ssr_mode=False,
        app_kwargs={"exception_handlers": REFUSALS},
        _frontend=False,  # only skips Gradio's own visit, which gives up after 3 s on a busy machine
        **more,
    )
    return address


if __name__ == "__main__":
    from space.__main__ import main

    main()
