"""The door to ZeroGPU, where a GPU is lent for the seconds of one call; imported before torch and gradio."""

import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of image processors that nobody uses

try:
    import spaces  # on ZeroGPU it has to be imported before anything that may touch CUDA
except ImportError:  # a Space's builder installs it; elsewhere it is not needed
    spaces = None

COLD = 20.0  # seconds a fresh worker takes to receive the weights: an estimate, until it has been measured
PER_STEP = 0.7  # seconds per step and megapixel on half an RTX PRO 6000: an estimate, likewise


def on_gpu(function, duration):
    """The function with a GPU lent for duration(*its arguments) seconds; off ZeroGPU, the function."""
    return spaces.GPU(function, duration=duration) if spaces else function


def seconds(*, steps: int, width: int, height: int, pictures: int) -> int:
    """How long to ask for the GPU."""
    return round(COLD + PER_STEP * steps * pictures * width * height / 2**20)
