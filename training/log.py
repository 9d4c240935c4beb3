"""What a run tells on the way: log.jsonl, TensorBoard beside it, and the memory that it took."""

import contextlib
import json
import resource  # not on Windows
import sys
from pathlib import Path

import psutil
import torch
from torch.utils.tensorboard import SummaryWriter


class Log:
    """log.jsonl, one line per logged step, and TensorBoard beside it; lines past `step` are dropped.

    With no folder it is silent: of several processes one writes for all.
    """

    def __init__(self, folder: Path | None, step: int):
        self.board = None
        if folder is None:
            return
        self.path = folder / "log.jsonl"
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        partial = folder / ".log.jsonl.partial"
        partial.write_text("".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step))
        partial.replace(self.path)
        self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        if self.board:
            self.board.close()

    def write(self, step: int, **figures) -> None:
        if self.board is None:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        for name, value in figures.items():
            if isinstance(value, int | float):
                self.board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, pixels) -> None:
        """(height, width, 3) uint8."""
        if self.board:
            self.board.add_image(name, pixels, step, dataformats="HWC")


class Meter:
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
