"""What a run reports: log.jsonl, the trackers of `log.report_to`, and the memory that it took."""

import contextlib
import importlib
import importlib.util
import json
import resource  # not on Windows
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from PIL import Image

from impressionism.errors import UserError
from impressionism.files import write_atomic
from training.examples import say
from training.recipe import TrainingConfig
from training.validation import SIGMAS

NAMES = {"loss": "train/loss", "lr": "train/learning_rate", "norm": "train/grad_norm", "seconds": "train/seconds",
         "memory": "train/peak_memory"}  # fmt: skip


def check_trackers(report_to: tuple[str, ...]) -> None:
    """Refuses one that is not installed, before anything is loaded."""
    for name in report_to:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"log.report_to names {name}, which is not installed: pip install {name}.")


class RunLog:
    """log.jsonl, one line for each logged step, and trackers beside it; lines past `step` are dropped.

    Of several processes the first one writes. A tracker that fails is named once and left alone from then on.
    """

    def __init__(self, recipe: TrainingConfig, step: int, *, write: bool):
        self.trackers: dict[str, Any] = {}
        self.write_here = write
        if not write:
            return
        folder = recipe.run.folder
        self.path = folder / "log.jsonl"
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_atomic(self.path, "".join(whole))
        options: dict[str, dict[str, Any]] = {
            "tensorboard": {"run_name": "", "logging_dir": folder / "tensorboard", "purge_step": step + 1},
            "wandb": {"run_name": "flux-impressionism", "name": folder.name, "dir": str(folder)},
            "trackio": {"run_name": "flux-impressionism", "name": folder.name},
        }
        for name in recipe.log.report_to:
            self._tell(name, lambda name=name: self._start(name, options[name], recipe, step))

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        for name, tracker in list(self.trackers.items()):
            self._tell(name, tracker.finish)

    def write(self, step: int, **figures: Any) -> None:
        if not self.write_here:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        values: dict[str, float] = {}
        for name, value in figures.items():
            if isinstance(value, list):  # the held-out loss by noise level
                values |= {f"{name}/{sigma:g}": number for sigma, number in zip(SIGMAS, value, strict=True)}
            elif isinstance(value, dict):  # by genre
                values |= {f"{name}/{key}": number for key, number in value.items()}
            else:
                values[NAMES.get(name, name)] = value
        for name, tracker in list(self.trackers.items()):
            self._tell(name, lambda tracker=tracker: tracker.log(values, step=step))

    def pictures(self, step: int, pictures: list[Image.Image], prompts: tuple[str, ...]) -> None:
        for name, tracker in list(self.trackers.items()):
            self._tell(name, lambda name=name, tracker=tracker: _show(name, tracker, step, pictures, prompts))

    def _start(self, name: str, options: dict[str, Any], recipe: TrainingConfig, step: int) -> None:
        tracker = LOGGER_TYPE_TO_CLASS[name](**options)
        tracker.start()
        if name == "tensorboard":  # its own table of hyperparameters would be a run of its own
            tracker.log({"recipe": f"```yaml\n{recipe.to_yaml()}```"}, step=step)
        else:
            tracker.store_init_configuration(recipe.model_dump(mode="json"))
        self.trackers[name] = tracker

    def _tell(self, name: str, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as error:  # whatever a tracker raises, the run is worth more
            self.trackers.pop(name, None)
            say(f"{name} fails and is told no more ({type(error).__name__}: {' '.join(str(error).split())[:120]}).")


def _show(name: str, tracker: Any, step: int, pictures: list[Image.Image], prompts: tuple[str, ...]) -> None:
    if name == "tensorboard":
        for index, picture in enumerate(pictures):
            tracker.log_images({f"preview/{index:02d}": np.asarray(picture)[None]}, step=step, dataformats="NHWC")
        return
    library = importlib.import_module(name)  # trackio or wandb
    shown = zip(pictures, prompts, strict=True)
    images = {f"preview/{index:02d}": library.Image(one, caption=prompt) for index, (one, prompt) in enumerate(shown)}
    tracker.log(images, step=step)


class MemoryMeter:
    """Peak bytes since it was made: allocated ones on a GPU; on a CPU resident ones beyond those there were."""

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):  # Linux alone can begin its peak anew
                Path("/proc/self/clear_refs").write_text("5")
            self.before = psutil.Process().memory_info().rss

    def peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return max(0, _peak_resident() - self.before)


def _peak_resident() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
