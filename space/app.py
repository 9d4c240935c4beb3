"""The page: what to paint on one side, and beside it the tabs (tabs/, a file each).

python -m space
"""

import os
import time
from pathlib import Path

from space import zerogpu  # noqa: F401  isort: skip  (before torch and gradio)

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import gradio as gr
from gradio.routes import ORJSONResponse

from impressionism import names
from impressionism.pipeline import Painter
from impressionism.theme import STYLE, theme, title
from space import gate, gradio_security
from space.agents import Agents
from space.api import REFUSALS, add_endpoints
from space.arrivals import add_arrivals
from space.gallery import SHOWCASE, is_own, pairs_in
from space.jobs import INFERENCE_EXECUTOR, TELL_EVERY
from space.painting import add_start
from space.pictures import FRONT
from space.settings import add_hint, add_ideas, add_settings, make_settings
from space.studio import Studio
from space.tabs.about import add_about
from space.tabs.gallery import add_gallery
from space.tabs.grid import add_grid
from space.tabs.paint import add_paint
from space.tabs.repaint import add_photograph, add_repaint
from space.texts import NOTICE, words_for

SESSIONS = 100  # whose state Gradio keeps, 0.2 MB each; each call of a program is one, and by default it keeps 10,000
THREADS = 64  # events that Gradio handles at the same time: those that wait in our own line, and some more


def build(painter: Painter, showcase: Path = SHOWCASE) -> gr.Blocks:
    """The page and the API for this painter."""
    prepare()
    studio, texts, pairs = Studio(painter), words_for(painter), pairs_in(showcase)
    own = [pair for pair in pairs if is_own(painter, pair)]
    first = next((pair for pair in own if pair.chosen == "best"), own[0] if own else None)
    with gr.Blocks(title="Impressionism", analytics_enabled=False) as page:
        title("One prompt, painted without and with an Impressionist adapter.")
        settings = make_settings(studio, texts, first and first.recipe)
        with gr.Row(elem_id="room"):
            with gr.Column(elem_id="ask", min_width=260):
                photograph = add_photograph()
                settings.prompt.render()
                to_paint = add_start("paint", "Compare")
                to_repaint = add_start("repaint", "Repaint")
                to_sweep = add_start("grid", "Paint them all")
                hint = add_hint(studio, settings)
            with gr.Column(elem_id="easel", min_width=320):
                settings.tabs.render()
                with settings.tabs:
                    with gr.Tab("Paint", id="paint", elem_id="paint"):
                        board = add_paint(studio, settings, to_paint, showcase, first, texts.sizes["Square"])
                    with gr.Tab("Repaint", id="repaint", elem_id="repaint"):
                        add_repaint(studio, texts, settings, to_repaint, photograph)
                    with gr.Tab("Grid", id="grid", elem_id="grid"):
                        add_grid(studio, texts, settings, to_sweep)
                    with gr.Tab("Gallery", id="gallery", elem_id="gallery"):
                        add_gallery(studio, texts, settings, board, showcase, pairs)
                    with gr.Tab("About", id="about", elem_id="about-tab"):
                        add_about(studio, texts)
                with gr.Column(elem_id="ideas"):
                    add_ideas(studio, texts, settings)
            with gr.Column(elem_id="more", min_width=260):
                if names.on_zero_gpu() and os.environ.get("OAUTH_CLIENT_ID"):  # of hf_oauth, in the Space's README
                    gr.LoginButton("Sign in to see your quota", "Sign out ({})", size="sm", variant="secondary")
                add_settings(studio, texts, settings, hint)
                add_arrivals(page, studio, settings, board, photograph)
        gr.Markdown(f"{painter.about} {NOTICE}", elem_id="notice")
        add_endpoints(studio)
    return queued(page, studio)


def prepare() -> None:
    """Before anything of Gradio's is made."""
    gradio_security.secure()
    gate.own_folder()


def queued(page: gr.Blocks, studio: Studio) -> gr.Blocks:
    page.queue(max_size=1000, default_concurrency_limit=None, api_open=False)  # closed: what passes the queue by
    page.studio = studio  # type: ignore[attr-defined]
    return page


def launch(page: gr.Blocks, host: str | None = None, port: int | None = None, **more: Any) -> str:
    """Serves the page and returns its address; Gradio 6 takes the looks here."""
    studio: Studio = page.studio  # type: ignore[attr-defined]
    app = gradio_security.GatedApp(exception_handlers=REFUSALS, default_response_class=ORJSONResponse)
    app.agents = Agents(studio)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with app.agents.running(), gate.deleting(page):
            yield

    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        theme=theme(),
        css_paths=[STYLE, Path(__file__).with_name("style.css")],
        js=(FRONT / "page.js").read_text(),
        footer_links=["api", "settings"],
        state_session_capacity=SESSIONS,
        run_history=False,  # the page says that it keeps nothing
        max_threads=THREADS,
        max_file_size=gate.LIMITS["upload"],
        ssr_mode=False,
        mcp_server=False,  # agents.py has its own
        enable_monitoring=False,
        app_kwargs={"lifespan": lifespan},
        _app=app,
        _frontend=False,  # only skips Gradio's own visit, which gives up after 3 s on a busy machine
        **more,
    )
    return address


def close(page: gr.Blocks) -> None:
    """Tells those who wait that the page restarts, ends what is painted at its next step, and deletes all files."""
    studio: Studio = page.studio  # type: ignore[attr-defined]
    studio.jobs.close()
    INFERENCE_EXECUTOR.submit(int).result()  # when the step has ended
    if studio.jobs.painting or studio.jobs.waiting:
        time.sleep(2 * TELL_EVERY)  # for the sentence to reach them
    page.close(verbose=False)
    gate.remove_own_folder()
