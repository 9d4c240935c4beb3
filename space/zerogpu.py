"""The door to ZeroGPU, where a GPU is lent for the seconds of one call; imported before torch and gradio."""

import math
import os
import time
from collections import deque
from functools import lru_cache

from impressionism import names
from impressionism.records import GenerationParams

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of image processors that nobody uses
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")  # it logs the end of a long prompt, and prompts are not recorded

try:
    import spaces  # on ZeroGPU it has to be imported before anything that may touch CUDA
except ImportError:  # a Space's builder installs it; elsewhere it is not needed
    spaces = None

COLD = 20.0  # seconds a fresh worker takes to receive the weights: an estimate, never measured on ZeroGPU
# Seconds per step and megapixel on half an RTX PRO 6000: an estimate, never measured there; `Pace` learns it.
PER_STEP = 0.7
ANONYMOUS = 120  # seconds a day of a visitor who is not signed in, as the Hub's documentation says
MEASURED = 20  # paintings whose pace is kept
TELLING = 2.0  # steps times megapixels from which the steps, not decoding and saving, decide how long it takes


def on_gpu(function, duration):
    """The function, a generator or not, with half a card lent for so many seconds, a number or a function of its
    arguments; off ZeroGPU, the function as it is."""
    return spaces.GPU(function, duration=duration, size="large") if spaces else function


def reserved(seconds: int) -> int:
    """What a visitor's quota has to hold for it; used up is what the painting takes."""
    return round(seconds * factor())


def left(token: str) -> float | None:
    """Seconds of ZeroGPU that a signed-in visitor has left today; none if the Hub does not say."""
    return _left(token, int(time.time() / 20))  # asked at most every 20 s


@lru_cache(100)
def _left(token: str, _: int) -> float | None:
    from huggingface_hub import HfApi, errors

    try:
        return HfApi().get_zero_gpu_quota(token=token).remaining
    except (errors.HfHubHTTPError, OSError, KeyError, ValueError):  # the login has ended, or lacks the scope
        return None


def factor() -> float:
    """What `large` reserves for a second asked for: 1.5 on the cards that are lent now."""
    from spaces.zero.config import get_config

    return get_config()["duration_factor"]


def hang_up() -> None:
    """Lets go of the GPU that the visitor's event waits for: spaces looks whether its event is alive, not for a cancel.
    LocalContext names the event that Gradio is handling."""
    from gradio.context import LocalContext

    blocks, event = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    jobs = blocks._queue.active_jobs if blocks and names.on_zero_gpu() else ()
    for waiting in (one for job in jobs if job for one in job):
        if waiting._id == event:
            waiting.alive = False


class Pace:
    """Seconds that a painting takes: the slowest of the last few, or an estimate until one was measured."""

    def __init__(self) -> None:
        self.measured: deque[float] = deque(maxlen=MEASURED)

    def learn(self, seconds: float, *, steps: int, params: GenerationParams) -> None:
        """From the steps of a painting that was long enough to tell."""
        work = steps * params.width * params.height / 2**20
        if work >= TELLING:
            self.measured.append(seconds / work)

    def seconds(self, *, steps: int, params: GenerationParams) -> int:
        """How long to ask for the GPU, from a fresh worker on, for so many steps of pictures of this size."""
        per_step = max(self.measured, default=PER_STEP)
        return math.ceil(COLD + per_step * steps * params.width * params.height / 2**20)
