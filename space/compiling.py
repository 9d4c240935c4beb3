"""Compiled blocks for the page: where that fails, for whatever reason, they paint as they are and the log says why."""

from space.zerogpu import on_gpu  # isort: skip  (before torch)

import logging
import tempfile
from pathlib import Path

from impressionism import names
from impressionism.errors import first_line
from impressionism.paint import defaults, paint
from impressionism.pipeline import Painter

SECONDS = 300  # of a GPU, asked for once at the start: an H200 with 16 cores took 80, ZeroGPU is not measured

logger = logging.getLogger(__name__)


def compile_or_not(painter: Painter) -> None:
    """On ZeroGPU ahead of time, for its processes begin anew with each call; elsewhere when a block first runs."""
    if names.on_zero_gpu():
        compile_ahead_or_not(painter, Path(tempfile.mkdtemp(prefix="blocks-")))
    else:
        compile_when_first_run(painter)


def compile_when_first_run(painter: Painter) -> None:
    import torch._dynamo

    from impressionism.compiled import compile_blocks

    torch._dynamo.config.suppress_errors = True  # PyTorch logs them
    compile_blocks(painter.pipe, fullgraph=False)


def compile_ahead_or_not(painter: Painter, folder: Path) -> None:
    from impressionism.compiled import compile_ahead, use_packages

    short = defaults(painter, "a boat").replace(steps=1)  # which tells what a block is given

    def work() -> None:
        compile_ahead(painter.pipe, lambda: paint(painter, short), folder)

    try:
        on_gpu(work, SECONDS)()
    except Exception as error:
        logger.warning("The blocks cannot be compiled here, and paint as they are: %s", first_line(error))
    else:
        use_packages(painter.pipe, folder)
