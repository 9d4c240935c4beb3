"""This process: its device, its precision, and the other processes of the run. Resolved once, when a command begins."""

import datetime
import os
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import reduce

from impressionism.errors import UserError
from training.examples import say
from training.recipe import Model

PATIENCE = datetime.timedelta(hours=3)  # that processes wait for one that downloads, encodes or paints
LAUNCHERS = ("TORCHELASTIC_RUN_ID", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")  # of torchrun and accelerate, mpirun, srun
SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
OF_A_LAUNCH = (*SIZES, "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# What `accelerate launch` and its configuration file may ask for, and what to set here instead.
IGNORED_SETTINGS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed; set model.shard=true or model.offload to save memory",
    "ACCELERATE_USE_FSDP": "FSDP; set model.shard=true",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM; set model.shard=true",
    "ACCELERATE_DYNAMO_BACKEND": "TorchDynamo; set model.compile=true",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "gradient accumulation; set optimizer.gradient_accumulation_steps",
}


@dataclass(frozen=True)
class Runtime:
    device: torch.device
    dtype: torch.dtype
    """The computation's precision; the adapter is float32."""
    rank: int = 0
    """Which process this is."""
    world: int = 1
    """How many there are."""

    @property
    def first(self) -> bool:
        """The first process writes files and speaks for all."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Over all processes."""
        if self.world == 1:
            return tensor
        return reduce(tensor.to(self.device), "sum").to(tensor.device)  # type: ignore[union-attr]

    def any(self, here: bool) -> bool:
        """Whether it is so in any process, so that all of them do the same."""
        return bool(self.sum(torch.tensor(float(here))) > 0)

    def wait(self) -> None:
        """For all other processes to come here, too."""
        if self.world > 1:
            PartialState().wait_for_everyone()


def resolve_runtime(model: Model) -> Runtime:
    """Where and how precisely to compute, with whom; UserError where the recipe asks for a GPU and there is none."""
    if model.device == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device is cuda, but no GPU is to be seen; set model.device=cpu or auto.")
    cpu_asked = model.device == "cpu" or (
        model.device == "auto" and os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    )
    gpu = torch.cuda.is_available() and not cpu_asked
    if not PartialState._shared_state:  # accelerate reads the environment only once
        _forget_leftovers()
        _forget_accelerate_settings(model)
    state = PartialState(cpu=not gpu, timeout=PATIENCE)
    device = state.device if gpu and state.device else torch.device("cpu")
    automatic = gpu or os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16"
    bfloat16 = automatic if model.dtype == "auto" else model.dtype == "bfloat16"
    return Runtime(device, torch.bfloat16 if bfloat16 else torch.float32, state.process_index, state.num_processes)


def _forget_leftovers() -> None:
    """Variables of a launcher that an earlier job, a container or a notebook left: nobody else would come."""
    launched = any(name in os.environ for name in LAUNCHERS) and (
        "LOCAL_RANK" in os.environ or "OMPI_COMM_WORLD_RANK" in os.environ
    )
    found = [name for name in OF_A_LAUNCH if name in os.environ]
    if launched or not found:
        return
    claimed = next((f"{name}={os.environ[name]}" for name in SIZES if os.environ.get(name, "1") != "1"), None)
    for name in found:
        del os.environ[name]
    if claimed:
        say(f"{claimed} is set, but no launcher started this process, so it trains alone; for several processes: "
            "accelerate launch --num_processes N -m training …")  # fmt: skip


def _forget_accelerate_settings(model: Model) -> None:
    """Name those that are ignored; of the precisions, bf16 is honoured where model.dtype is auto."""
    for name, instead in IGNORED_SETTINGS.items():
        default = "1" if name.endswith("STEPS") else "no"
        if os.environ.pop(name, default).lower() not in ("", "no", "false", "0", default):
            say(f"accelerate is configured for {instead}. Its own setting is ignored.")
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    honoured = precision == "bf16" and model.dtype in ("auto", "bfloat16")
    if not honoured and precision not in ("no", ""):
        say(f"accelerate is configured for mixed precision {precision}; it is ignored: model.dtype is {model.dtype}.")
