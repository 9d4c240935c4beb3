"""What a machine can hold and how fast it multiplies: the card at hand, a card that is only asked about, or a CPU."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

GIB = 2**30
CONTEXT = round(0.45 * GIB)  # bytes that CUDA and its libraries take beside what PyTorch allocates
# TFLOPS of dense bfloat16 products summed in float32, from NVIDIA's data sheets; by memory, a card many have of it.
TYPICAL = {
    8: ("RTX 4060", 30),
    12: ("RTX 3060", 25),
    16: ("RTX 4060 Ti", 44),
    24: ("RTX 4090", 165),
    32: ("RTX 5090", 210),
    48: ("L40S", 362),
    80: ("A100", 312),
    141: ("H200", 989),
}
REACHED = 0.5  # of that, in training: 0.49 is computed for diffusers' example on a 4090, about half seen on a CPU
# Measured on an H200 (benchmarks/gpu.json), with an NF4 base; for other precisions so many times as much:
REACHED_BY = {"H200": 0.32}  # of the data sheet
SHARE = 0.55  # of what `products` says
PACE = {"none": 1.09, "nf4": 1.0, "int8": 0.87, "fp8": 0.88, "int4": 0.84, "int2": 0.81}
COMPILED = 1.2  # times as fast
ODD_CAPTION = 1.09  # times as long where its tokens are no multiple of 8: seen with 77, beside 512
# Seconds of a block's pass at least, with plain and with quantized weights: its kernels are launched one by one. It is
# the host's pace, and was seen on one. Compiled blocks took no less with NF4, before that was one kernel a weight; what
# they take now is not measured.
LAUNCHING, LAUNCHING_QUANTIZED = 1.8e-3, 2.3e-3


@dataclass(frozen=True)
class GpuSpec:
    name: str
    gpu: bool
    memory: int
    """Bytes that a run may take."""
    rate: float
    """Floating-point operations a second that training is expected to reach, on a GPU with an NF4 base."""
    why: str
    """Where the rate is from."""


def seconds(card: GpuSpec, operations: float, passes: int, quantize: str, compiled: bool, tokens: int) -> float:
    """Seconds for operations in so many passes through a block, one direction each, with captions of so many tokens."""
    if not card.gpu:
        return operations / card.rate
    computing = operations / (card.rate * PACE[quantize])
    if compiled:
        computing /= COMPILED
    if tokens % 8:
        computing *= ODD_CAPTION
    return max(computing, passes * (LAUNCHING if quantize == "none" else LAUNCHING_QUANTIZED))


def of_size(gib: float) -> GpuSpec:
    """A card with so much memory: a common one of that class."""
    size = max((size for size in TYPICAL if size <= gib), default=min(TYPICAL))
    name, tflops = TYPICAL[size]
    share = REACHED_BY.get(name, REACHED)
    why = f"{share:.0%} of an {name}'s {tflops} TFLOPS"
    return GpuSpec(f"a card of {gib:g} GiB", True, int(gib * GIB) - CONTEXT, tflops * 1e12 * share, why)


def at_hand(device: "torch.device") -> GpuSpec:
    """The GPU, or else the CPU with the main memory that is free."""
    bare, share = products(device), SHARE if device.type == "cuda" else REACHED
    rate, why = bare * share, f"{share:.0%} of {bare / 1e12:.3g} TFLOPS, measured here"
    if device.type == "cuda":
        import torch

        properties = torch.cuda.get_device_properties(device)
        return GpuSpec(properties.name, True, properties.total_memory - CONTEXT, rate, why)
    return GpuSpec("this machine's CPU", False, psutil.virtual_memory().available, rate, why)


def products(device: "torch.device", seconds: float = 0.5) -> float:
    """Operations a second of matrix products of a block's proportions, on a GPU in bfloat16, on a CPU in float32."""
    import torch

    size, dtype = (4096, torch.bfloat16) if device.type == "cuda" else (512, torch.float32)
    a, b = torch.randn(size, size, device=device, dtype=dtype), torch.randn(size, size, device=device, dtype=dtype)
    count, begun, spent = 0, time.perf_counter(), 0.0
    while spent < seconds:
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        count, spent = count + 1, time.perf_counter() - begun
    return 2 * size**3 * count / spent
