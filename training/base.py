"""The frozen FLUX with all that a run reads: what one adapter, or several in turn, are trained on."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config as functorch_config
from diffusers.training_utils import compute_loss_weighting_for_sd3
from torch._dynamo.backends.registry import lookup_backend
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from impressionism.modulation import AHEAD, MODULATION_LAYERS, Bank, Rows
from impressionism.quantize import BLOCKS, kept_transformer
from training import adapter, cache, examples, flow
from training.batches import Batch, Latents, Loader, MicroBatch
from training.cache import Cache
from training.examples import Example, say
from training.recipe import TrainingConfig
from training.runtime import Runtime, resolve_runtime

COMPILER = "inductor"  # of torch.compile


@dataclass(frozen=True)
class TrainingContext:
    transformer: Any  # FluxTransformer2DModel; diffusers' types would hide its modules
    bank: Bank | None
    folder: Path
    runtime: Runtime
    kept: Cache
    loader: Loader
    latents: Latents
    examples: list[Example]
    trained_on: list[Example]
    held_out: list[Example]
    sharded: bool = False
    """Each holds a part of the weights only: a pass is then one of all processes together."""

    def with_modulation(self, parts: list[MicroBatch], guidance: float) -> Iterator[tuple[MicroBatch, Rows | None]]:
        """Each part with its modulation's rows, computed for AHEAD parts at a time; none where there is no bank."""
        for start in range(0, len(parts), AHEAD):
            some = parts[start : start + AHEAD]
            rows: list = [None] * len(some)
            if self.bank is not None:
                known = [(p.sigma, torch.full_like(p.sigma, guidance), self.loader.pooled(p)) for p in some]
                rows = self.bank.ahead(known)
            yield from zip(some, rows, strict=True)


def prepare(
    recipe: TrainingConfig, runtime: Runtime | None = None, *, bank: bool | None = None,
    on: TrainingContext | None = None,
) -> TrainingContext:  # fmt: skip
    """Cache what is missing, then load the transformer, or take that of the base `on`, with its bank; VAE and text
    encoders have left memory by then."""
    runtime = runtime or resolve_runtime(recipe.model)
    kept, known = cache.fill(recipe, runtime)
    trained_on, held_out = examples.split(known, recipe.data.held_out)
    folder = cache.locate(recipe.model)
    device = runtime.device
    sharded = recipe.model.shard and runtime.world > 1
    if device.type == "cuda":  # cuDNN's attention has a wrong backward pass: on an H200, with PyTorch 2.11, gradients
        torch.backends.cuda.enable_cudnn_sdp(False)  # were NaN with 512 tokens of caption; the other kernels' were not
    if on is not None:
        transformer, modulation = on.transformer, on.bank
    else:
        transformer, modulation = load(recipe, folder, runtime, sharded, bank)
        if sharded:
            shard(transformer, runtime)
    latents = Latents.of(folder)
    return TrainingContext(
        transformer=transformer, bank=modulation,
        folder=folder, runtime=runtime, kept=kept, latents=latents,
        loader=Loader(kept, latents, device, recipe.run.seed),
        examples=known, trained_on=trained_on, held_out=held_out,
        sharded=sharded,
    )  # fmt: skip


def load(
    recipe: TrainingConfig, folder: Path, runtime: Runtime, sharded: bool, bank: bool | None
) -> tuple[Any, Bank | None]:
    """The frozen transformer, and the bank that computes its modulation ahead, if any."""
    device, dtype = runtime.device, runtime.dtype
    keep = recipe.run.cache / "transformers" if recipe.model.keep_quantized else None
    banked = recipe.model.modulation_bank and recipe.adapter.targets != "every" if bank is None else bank
    transformer = kept_transformer(
        folder, quantize=recipe.model.quantize, dtype=dtype, device="cpu" if sharded else device, keep=keep,
        without=MODULATION_LAYERS if banked else None, say=say,
    )  # fmt: skip
    return transformer, Bank(transformer, folder, device, dtype) if banked else None


def shard(transformer: Any, runtime: Runtime) -> None:
    """Leave a process its part of every block's weights, on the device; the whole transformer was read on the CPU.

    A block is gathered before its forward and before its backward pass, and freed after each. An adapter that is put
    on it afterwards stays whole, as do the layers at both ends.
    """
    # It warns that its outputs are views; nothing is added to them in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")
    mesh = init_device_mesh(runtime.device.type, (runtime.world,))
    for block in blocks_of(transformer):
        fully_shard(block, mesh=mesh)
    ends = {weight for name, weight in transformer.named_parameters() if not name.startswith(BLOCKS)}
    for weight in ends:
        weight.data = weight.data.to(runtime.device)
    fully_shard(transformer, mesh=mesh, ignored_params=ends)  # of its own it has none then, and leads the blocks


def inject_adapter(base: TrainingContext, recipe: TrainingConfig) -> dict[str, torch.nn.Parameter]:
    """Put a new adapter on the base, one that it had before goes; what is to be trained."""
    transformer, model = base.transformer, recipe.model
    adapter.add(transformer, recipe.adapter, seed=recipe.run.seed)
    blocks = blocks_of(transformer)
    for block in blocks[max(0, len(blocks) - model.offload) :]:
        for layer in block.modules():
            if isinstance(layer, adapter.FrozenLinear):
                layer.offload()
    recompute(transformer, blocks, model.gradient_checkpointing)
    if model.compile:
        torch.compiler.reset()  # what was compiled for another adapter counts against its limit
    for block in blocks if model.compile else []:
        block.compile(fullgraph=True, backend=unmerged)
    return adapter.trained(transformer)


def unmerged(graph: Any, inputs: Any) -> Any:
    """The compiler, without its elimination of common subexpressions: a weight that both passes expand is expanded
    twice; merged into one, it would be kept from one to the other."""
    with functorch_config.patch(cse=False):
        return lookup_backend(COMPILER)(graph, inputs)


def blocks_of(transformer: Any) -> list[torch.nn.Module]:
    """In the order in which a picture meets them."""
    return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]


def recompute(transformer: Any, blocks: list[torch.nn.Module], wanted: bool | int) -> None:
    """Gradient checkpointing of all blocks, none, or so many from the first trained one on: those before it keep
    nothing anyhow, since nothing in them needs a gradient."""
    if wanted is False or wanted == 0:
        return transformer.disable_gradient_checkpointing()
    first = next(i for i, block in enumerate(blocks) if any(p.requires_grad for p in block.parameters()))
    last = len(blocks) if wanted is True else first + wanted
    chosen = set(blocks[first:last])

    def run(block: torch.nn.Module, *inputs: Any) -> Any:
        return checkpoint(block, *inputs, use_reentrant=False) if block in chosen else block(*inputs)

    return transformer.enable_gradient_checkpointing(run)


def losses(
    base: TrainingContext, batch: Batch, rows: Rows | None, guidance: float, weighting: str = "none"
) -> torch.Tensor:  # fmt: skip
    """(batch,) how far the predicted velocity is from the true one, at each sample's noise level."""
    if base.bank is not None:
        base.bank.use(rows)
    sigma = batch.sigma
    prediction = base.transformer(
        hidden_states=flow.mix(batch.x, batch.noise, sigma).to(base.runtime.dtype),
        encoder_hidden_states=batch.text,
        pooled_projections=batch.pooled,
        timestep=sigma,  # FluxPipeline feeds timestep / 1000, which is sigma
        guidance=torch.full_like(sigma, guidance) if base.transformer.config.guidance_embeds else None,
        img_ids=batch.image_ids,
        txt_ids=batch.image_ids.new_zeros(batch.text.shape[1], 3),
        return_dict=False,
    )[0]
    weight = compute_loss_weighting_for_sd3(weighting, sigma)
    return weight * flow.loss(prediction, flow.target(batch.x, batch.noise))
