"""A complete FluxPipeline of random weights that fits in 2 MB and paints in a tenth of a second.

Same layout and classes as the bundled miniature and FLUX.1-dev: the tests run the real code on it.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

SIDE = 64  # pixels, the size it paints by default
TOKENS = 32
WIDTH = 32  # of both text encoders
TRANSFORMER = {
    "in_channels": 64,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "pooled_projection_dim": WIDTH,
    "guidance_embeds": True,
    "axes_dims_rope": (8, 12, 12),
}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [8, 8, 8, 8],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 16,
    "sample_size": SIDE,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "shift_factor": 0.1,
    "scaling_factor": 0.4,
}


def make_tiny_flux(folder: Path, seed: int = 0) -> Path:
    """Writes the pipeline's folder, in bfloat16 as FLUX.1-dev is published, and returns it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=AutoencoderKL(**VAE),
            text_encoder=CLIPTextModel(clip_config()),
            tokenizer=clip_tokenizer(),
            text_encoder_2=T5EncoderModel(t5_config()),
            tokenizer_2=t5_tokenizer(),
            transformer=lively(FluxTransformer2DModel(**TRANSFORMER)),
        )
    pipeline.vae.decoder.conv_out.weight.data *= 4  # contrast: random pictures are grey otherwise
    pipeline.to(torch.bfloat16).save_pretrained(folder)
    return Path(folder)


def make_tiny_adapter(folder: Path, rank: int = 4, alpha: float | None = None, seed: int = 1) -> Path:
    """Writes an adapter on all linear layers of the blocks, as training does; returns its folder."""
    alpha = alpha or rank
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for name, module in FluxTransformer2DModel(**TRANSFORMER).named_modules():
        if isinstance(module, torch.nn.Linear) and "transformer_blocks" in name:
            down = torch.randn(rank, module.in_features, generator=random) * module.in_features**-0.5
            up = torch.randn(module.out_features, rank, generator=random) * rank**-0.5
            weights[f"transformer.{name}.lora_A.weight"] = down.bfloat16()
            weights[f"transformer.{name}.lora_B.weight"] = up.bfloat16()
    targets = sorted({key.split(".lora_")[0].removeprefix("transformer.") for key in weights})
    config = {"transformer.r": rank, "transformer.lora_alpha": alpha, "transformer.target_modules": targets}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(config)}
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(weights, Path(folder) / "pytorch_lora_weights.safetensors", metadata)
    return Path(folder)


def lively(transformer: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """Random weights change their input little; larger ones make prompt, seed and strength visible."""
    for parameter in transformer.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
    return transformer


def clip_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(clip_tokenizer()), hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=TOKENS, projection_dim=WIDTH,
        bos_token_id=0, eos_token_id=1, pad_token_id=1, initializer_factor=8.0,
    )  # fmt: skip


def t5_config() -> T5Config:
    return T5Config(
        vocab_size=len(t5_tokenizer()), d_model=WIDTH, d_kv=16, d_ff=WIDTH, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu", dropout_rate=0.0,
    )  # fmt: skip


def clip_tokenizer() -> CLIPTokenizer:
    """One token a byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=TOKENS)


def t5_tokenizer() -> T5Tokenizer:
    """One token a letter."""
    letters = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"-()"
    tokens = ["<pad>", "</s>", "<unk>", *letters]
    return T5Tokenizer(vocab=[(token, -5.0) for token in tokens], extra_ids=0, model_max_length=TOKENS)
