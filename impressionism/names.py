"""Ids and phrases that must agree everywhere."""

import os
import sys
from pathlib import Path

BASE = "black-forest-labs/FLUX.1-dev"
ADAPTER = "dolphinium/FLUX.1-dev-wikiart-impressionism"
ADAPTER_FILE = "flux_1_dev_wikiart_impressionism_v2.safetensors"

MINIATURE = Path(__file__).parent / "miniature"  # an ordinary diffusers folder
MINIATURE_ADAPTER = MINIATURE / "adapter"

# Few-step adapters, which are active together with the style adapter in fast mode, on both sides of a comparison.
ACCELERATOR = "ByteDance/Hyper-SD/Hyper-FLUX.1-dev-8steps-lora.safetensors"
ACCELERATOR_STRENGTH = 0.125  # as its authors say
ACCELERATOR_STEPS = 8

# What the miniature was taught to paint, and in which light.
SUBJECTS = [
    "a sailing boat on the sea", "a haystack in a field", "poplars by a river", "a cottage",
    "water lilies on a pond", "a field of poppies", "a stone bridge over a river",
    "a village church", "a windmill", "cliffs by the sea", "a steam train", "a lighthouse",
    "a blossoming tree", "a vase of sunflowers", "a bowl of fruit", "a woman with a parasol",
]  # fmt: skip
LIGHTS = ["at dawn", "at noon", "at sunset", "at night", "under heavy clouds", "in the snow"]

# The groups of FLUX's blocks that have a strength of their own, and what a visitor reads.
BLOCK_GROUPS = {"two_stream": "two-stream", "early_single": "early single-stream", "late_single": "late single-stream"}

DEFAULT_STRENGTH = 1.0  # of an adapter that recommends no other
WEIGHTS_FILE = "pytorch_lora_weights.safetensors"  # what diffusers, and our training, call an adapter's file
MODULATION_AHEAD = 64  # batches whose modulation is held; a picture's is 2.1 MB in FLUX.1-dev at bfloat16
TRIGGER = "an impressionist painting of"  # how the published adapter's captions begin

# A Space switches to a newly pushed adapter by these variables, without a code change.
ENVIRONMENT = {
    "base": "IMPRESSIONISM_BASE",
    "base_revision": "IMPRESSIONISM_BASE_REVISION",
    "adapter": "IMPRESSIONISM_ADAPTER",
    "adapter_revision": "IMPRESSIONISM_ADAPTER_REVISION",
    "adapters": "IMPRESSIONISM_ADAPTERS",
    "accelerator_revision": "IMPRESSIONISM_ACCELERATOR_REVISION",
    "adapter_pinned": "IMPRESSIONISM_ADAPTER_PINNED",
    "compile": "IMPRESSIONISM_COMPILE",
}


def from_environment(what: str) -> str | None:
    """The variable's value; unset and empty are the same."""
    return os.environ.get(ENVIRONMENT[what]) or None


def on_zero_gpu() -> bool:
    """There a card is emulated until a visitor's call, so its memory says nothing."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def program(command: str, module: str) -> str:
    """How the running command is called in its help: `impressionism paint`, or `python -m impressionism`."""
    return f"impressionism {command}" if Path(sys.argv[0]).stem == "impressionism" else f"python -m {module}"
