"""What the scripts for a card share: how large everything is, and a clock that waits for the card."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

GIB = 2**30
RANK = 16


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    device: str
    resolutions: tuple[int, ...]
    peer_resolutions: tuple[int, ...]
    """At which diffusers' script trains beside ours."""
    steps: int
    """Training steps."""
    side: int
    painting_steps: int
    seeds: int
    offload: int


FULL = Scale("cuda", (512, 768, 1024), (1024, 512), 6, 1024, 28, 3, 40)
SMALL = Scale("cuda" if torch.cuda.is_available() else "cpu", (64, 80), (80,), 3, 64, 4, 3, 3)


def timed(device: str, work: Callable[[], Any]) -> float:
    """Seconds."""
    begun = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun
