"""python -m space [--port 7860] [--host 127.0.0.1] [--model auto] [--adapter auto] [--quantize auto] [--device auto]
[--run RUN] [--compile]"""

import argparse
import signal
import sys
import threading
from pathlib import Path

from impressionism.__main__ import add_model_options
from impressionism.errors import UserError, check_environment, check_port
from impressionism.names import program


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=program("space", "space"), description="The page, in the browser.")
    parser.add_argument("--port", type=int, help="the first free one from 7860 by default")
    parser.add_argument("--host", help="127.0.0.1 by default; 0.0.0.0 opens the page to the network")
    add_model_options(parser)
    parser.add_argument("--run", type=Path, help="a training run: paints with its adapter and shows its showcase")
    parser.add_argument(
        "--compile", action="store_true", help="compile FLUX's blocks: takes minutes at first, then paints faster"
    )
    chosen = parser.parse_args(arguments)
    try:  # before a model is loaded for minutes
        check_environment()
        check_port(chosen.host or "127.0.0.1", chosen.port)
    except UserError as problem:
        sys.exit(str(problem))

    from impressionism import names
    from space.app import build, close, launch  # late: gradio and torch take seconds, and --help needs neither
    from space.compiling import compile_or_not
    from space.gallery import SHOWCASE
    from space.jobs import INFERENCE_EXECUTOR
    from space.opening import open_painter

    model, adapter, showcase = chosen.model or "auto", chosen.adapter or "auto", SHOWCASE
    try:
        if chosen.run:
            model, adapter, showcase = of_run(chosen.run, model, adapter)
    except UserError as problem:
        sys.exit(str(problem))
    asked = model, adapter, chosen.quantize or "auto", chosen.device
    try:
        painter = (
            open_painter(*asked) if names.on_zero_gpu() else INFERENCE_EXECUTOR.submit(open_painter, *asked).result()
        )
    except UserError as problem:
        sys.exit(str(problem))
    if chosen.compile or names.from_environment("compile"):
        compile_or_not(painter)
    print(painter.about, flush=True)
    page = build(painter, showcase)
    leave = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: leave.set())
    try:
        launch(page, chosen.host, chosen.port, prevent_thread_lock=True)
        leave.wait()
    except OSError as problem:
        if chosen.port is None or "empty port" not in str(problem):
            raise
        sys.exit(f"Port {chosen.port} is taken; name another one with --port, or none for the first that is free.")
    finally:
        close(page)


def of_run(run: Path, model: str, adapter: str) -> tuple[str, str, Path]:
    """The run's base, adapter and showcase; what was asked for besides goes before."""
    from impressionism.records import Run, parsed
    from space.deploy import showcase_of

    if not (run / "run.json").exists() or not (run / "adapter").is_dir():
        raise UserError(f"{run} is no finished training run: it has no run.json and adapter/. Name its folder.")
    base = parsed(run / "run.json", Run.from_json).base
    return (
        base if model == "auto" else model,
        str(run / "adapter") if adapter == "auto" else adapter,
        showcase_of(run) or run / "showcase",
    )


if __name__ == "__main__":
    main()
