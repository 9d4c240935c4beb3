"""The LoRA adapter: into the transformer, and out as a file that `FluxPipeline.load_lora_weights` takes.

Alpha is folded into the weights of the file, because tools disagree on where to read it; the metadata holds
the few fields that every version of PEFT knows.
"""

import json
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from impressionism.names import WEIGHTS_FILE

# Patterns of whole names: a bare "proj_out" would also take the model's last layer.
BLOCKS = r"(single_)?transformer_blocks\.\d+\."
ATTENTION = r"attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
FEED_FORWARD = r"ff(_context)?\.net\.(0\.proj|2)|proj_mlp|proj_out"
MODULATION = r"norm1\.linear|norm1_context\.linear|norm\.linear"
TARGETS = {
    "attention": f"{BLOCKS}({ATTENTION})",
    "all": f"{BLOCKS}({ATTENTION}|{FEED_FORWARD})",
    "every": f"{BLOCKS}({ATTENTION}|{FEED_FORWARD}|{MODULATION})",
}


def add(transformer: FluxTransformer2DModel, *, rank: int, targets: str, seed: int, alpha: float | None = None) -> None:
    """Freeze the transformer and put a trainable LoRA on it, whose update is zero; float32 on any base."""
    transformer.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=TARGETS[targets])  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer.add_adapter(config)
    cast_training_params(transformer, torch.float32)  # in bfloat16 most steps would round to nothing


def trained(transformer: FluxTransformer2DModel) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in transformer.named_parameters() if parameter.requires_grad}


def save(transformer: FluxTransformer2DModel, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write the adapter as diffusers names it, with alpha equal to rank."""
    config = transformer.peft_config["default"]
    scale = config.lora_alpha / config.r
    weights = {
        f"transformer.{name}": (tensor.detach().float() * (scale if ".lora_B." in name else 1))
        .to("cpu", dtype)
        .contiguous()
        for name, tensor in get_peft_model_state_dict(transformer, adapter_name="default").items()
    }
    facts = {"r": config.r, "lora_alpha": config.r, "target_modules": config.target_modules}
    metadata = {f"transformer.{key}": value for key, value in facts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{WEIGHTS_FILE}.partial"
    save_file(weights, partial, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(metadata)})
    partial.replace(folder / WEIGHTS_FILE)
    return folder / WEIGHTS_FILE
