"""The frozen FLUX with all that a run reads: what one adapter, or several in turn, are trained on."""

import contextlib
import dataclasses
import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config as functorch_config
from diffusers.training_utils import compute_loss_weighting_for_sd3
from torch._dynamo.backends.registry import lookup_backend
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from impressionism import lora
from impressionism.errors import UserError, counted
from impressionism.files import write_atomic
from impressionism.hub import label
from impressionism.lora_file import find_adapter, read_adapter
from impressionism.modulation import AHEAD, MODULATION_LAYERS, CachedModulation
from impressionism.quantize import BLOCKS, kept_transformer
from impressionism.records import Run
from training import adapter, cache, examples, flow, preview, validation
from training.batches import Batch, Loader, MicroBatch, Schedule
from training.cache import Cache
from training.examples import Example, say
from training.recipe import Data, Prior, TrainingConfig
from training.runtime import Runtime, resolve_runtime

COMPILER = "inductor"  # of torch.compile


@dataclass(frozen=True)
class TrainingContext:
    transformer: Any  # FluxTransformer2DModel; diffusers' types would hide its modules
    modulation: CachedModulation | None
    """Stands for the modulation's weights, where the recipe leaves them on disk."""
    folder: Path
    runtime: Runtime
    kept: Cache
    loader: Loader
    examples: list[Example]
    trained_on: list[Example]
    held_out: list[Example]
    class_examples: list[Example] = field(default_factory=list)
    """Pictures of prior.class_prompt by the base, for prior preservation."""
    sharded: bool = False
    """Each process holds a part of the weights only: a pass is then one of all processes together."""

    def modulation_of(self, batches: list[MicroBatch], guidance: float) -> contextlib.AbstractContextManager[None]:
        """Inside the block, passes over these micro-batches, AHEAD of them at most, find their modulation computed."""
        if self.modulation is None:
            return contextlib.nullcontext()
        given = guidance if self.transformer.config.guidance_embeds else None
        return self.modulation.precomputed(
            (one.sigma, None if given is None else torch.full_like(one.sigma, given), self.loader.pooled(one))
            for one in batches
        )

    def predict(self, batch: Batch, guidance: float) -> torch.Tensor:
        """(batch, tokens, channels) the velocity that the transformer predicts at each sample's noise level."""
        sigma = batch.sigma
        return self.transformer(
            hidden_states=flow.mix(batch.x, batch.noise, sigma).to(self.runtime.dtype),
            encoder_hidden_states=batch.text,
            pooled_projections=batch.pooled,
            timestep=sigma,  # FluxPipeline feeds timestep / 1000, which is sigma
            guidance=torch.full_like(sigma, guidance) if self.transformer.config.guidance_embeds else None,
            img_ids=batch.image_ids,
            txt_ids=batch.image_ids.new_zeros(batch.text.shape[1], 3),
            return_dict=False,
        )[0]

    def losses(self, batch: Batch, guidance: float, weighting: str = "none") -> torch.Tensor:
        """(batch,) how far the predicted velocity is from the true one."""
        prediction = self.predict(batch, guidance)
        return compute_loss_weighting_for_sd3(weighting, batch.sigma) * flow.loss(
            prediction, flow.target(batch.x, batch.noise)
        )

    @contextlib.contextmanager
    def without_adapter(self) -> Iterator[None]:
        """The base alone, as at strength 0."""
        adapter.switch(self.transformer, False)
        try:
            yield
        finally:
            adapter.switch(self.transformer, True)


def prepare(
    recipe: TrainingConfig, runtime: Runtime | None = None, *, bank: bool | None = None,
    on: TrainingContext | None = None,
) -> TrainingContext:  # fmt: skip
    """Cache what is missing, then load the transformer, or take that of the context `on`; VAE and text encoders have
    left memory by then. Class pictures that are missing are painted by the base."""
    runtime = runtime or resolve_runtime(recipe.model)
    prompts = dict.fromkeys((*recipe.preview.prompts, *filter(None, [recipe.prior.class_prompt])))
    encoded = recipe.model_copy(update={"preview": recipe.preview.model_copy(update={"prompts": tuple(prompts)})})
    kept, known = cache.fill(encoded, runtime)
    trained_on, held_out = examples.split(known, recipe.data.held_out)
    folder = cache.locate(recipe.model)
    sharded = recipe.model.shard and runtime.world > 1
    if runtime.device.type == "cuda":  # cuDNN's attention has a wrong backward pass: on an H200, with PyTorch 2.11,
        torch.backends.cuda.enable_cudnn_sdp(False)  # gradients were NaN with 512 tokens of caption
    if on is not None:
        transformer, modulation = on.transformer, on.modulation
    else:
        transformer, modulation = load(recipe, folder, runtime, sharded, bank)
        if sharded:
            shard(transformer, runtime)
    context = TrainingContext(
        transformer=transformer, modulation=modulation,
        folder=folder, runtime=runtime, kept=kept,
        loader=Loader(kept, folder, runtime.device, recipe.run.seed),
        examples=known, trained_on=trained_on, held_out=held_out, sharded=sharded,
    )  # fmt: skip
    if recipe.prior.num_class_images:
        context = dataclasses.replace(context, class_examples=class_pictures(context, recipe))
    return context


def class_pictures(context: TrainingContext, recipe: TrainingConfig) -> list[Example]:
    """Pictures of prior.class_prompt as the base paints them; those that are there already are not painted again."""
    prior, paint = recipe.prior, recipe.preview
    sizes = examples.buckets(examples.resolutions(recipe.data.resolution)[0])
    width, height = min(sizes, key=lambda size: abs(size[0] - size[1]))  # the squarest at the lowest resolution
    made_of = (recipe.model.base, recipe.model.revision, prior.class_prompt, width, height, paint.steps, paint.guidance)
    folder = recipe.run.cache / "class_pictures" / hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]
    files = [folder / f"{seed:05d}.png" for seed in range(prior.num_class_images)]
    missing = [seed for seed, file in enumerate(files) if not file.exists()]
    if context.runtime.any(bool(missing)):
        if context.runtime.first or context.sharded:
            wanted = paint.model_copy(update={"prompts": (prior.class_prompt,), "size": f"{width}x{height}"})
            say(f"{folder}: the base paints {counted(len(missing), 'picture')} of {prior.class_prompt!r}.")
            for seed in missing:
                [picture] = preview.painted(context, wanted.model_copy(update={"seed": seed}))
                if context.runtime.first:
                    write_atomic(files[seed], lambda file, picture=picture: picture.save(file, format="PNG"))
        context.runtime.wait()
    data = Data(source=str(folder), instance_prompt=prior.class_prompt, resolution=(f"{width}x{height}",), held_out=0)
    known = cache.fill(recipe.model_copy(update={"data": data, "prior": Prior()}), context.runtime)[1]
    names = {file.name for file in files}  # an earlier run may have asked for more
    return [example for example in known if example.name in names]


def load(
    recipe: TrainingConfig, folder: Path, runtime: Runtime, sharded: bool, bank: bool | None
) -> tuple[Any, CachedModulation | None]:
    """The frozen transformer, and what stands for its modulation's weights, if anything."""
    keep = recipe.run.cache / "transformers" if recipe.model.keep_quantized else None
    banked = recipe.model.modulation_bank and recipe.adapter.targets != "every" if bank is None else bank
    transformer = kept_transformer(
        folder, quantize=recipe.model.quantize, dtype=runtime.dtype, device="cpu" if sharded else runtime.device,
        keep=keep, without=MODULATION_LAYERS if banked else None, say=say,
    )  # fmt: skip
    return transformer, CachedModulation(transformer, folder, runtime.device, runtime.dtype) if banked else None


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


# ---- The adapter


def inject_adapter(context: TrainingContext, recipe: TrainingConfig) -> dict[str, torch.nn.Parameter]:
    """Put a new adapter on the base, in place of one that it had before; returns what is to be trained."""
    transformer, model = context.transformer, recipe.model
    adapter.add(transformer, recipe.adapter, seed=recipe.run.seed)
    blocks = blocks_of(transformer)
    for block in blocks[max(0, len(blocks) - model.offload) :]:
        for layer in block.modules():
            if isinstance(layer, adapter.FrozenLinear):
                layer.offload()
    set_gradient_checkpointing(transformer, blocks, model.gradient_checkpointing)
    if model.compile:
        torch.compiler.reset()  # what was compiled for another adapter counts against its limit
        for block in blocks:
            block.compile(fullgraph=True, backend=_compiler_without_cse)
    weights = adapter.trained(transformer)
    if recipe.adapter.start_from:
        read_start(context, recipe, weights)
    return weights


def read_start(context: TrainingContext, recipe: TrainingConfig, weights: dict[str, torch.nn.Parameter]) -> None:
    """Put the adapter of adapter.start_from into the new one; refused where a part of it would be lost."""
    source = Path(str(recipe.adapter.start_from))
    if (source / "run.json").exists():
        run = Run.from_json((source / "run.json").read_text())
        if run.base != label(recipe.model.base):
            raise UserError(f"adapter.start_from {source} was trained on {run.base}, and model.base is another; "
                            "set one of them.")  # fmt: skip
        source /= "adapter"
    updates = read_adapter(find_adapter(str(source), None), lora.linears(context.transformer))
    if lost := sorted(path for path in updates if f"{path}.lora_A" not in weights):
        raise UserError(
            f"adapter.start_from {source} also changes {len(lost)} layers that this recipe does not train, such as "
            f"{lost[0]}: set adapter.targets so that it does."
        )
    rank, path = max((len(update.down) - len(weights[f"{path}.lora_A"]), path) for path, update in updates.items())
    if rank > 0:
        raise UserError(
            f"adapter.start_from {source} has rank {len(updates[path].down)} in {path}, more than this recipe: set "
            f"adapter.rank={len(updates[path].down)}, or make it smaller first (python -m training resize)."
        )
    layers = lora.lora_layers(context.transformer)
    with torch.no_grad():
        for path, update in updates.items():
            rank = len(update.down)  # A's rows beyond it stay as drawn, and B's columns zero: the same update
            weights[f"{path}.lora_A"][:rank] = update.down
            own: Any = layers[path].updates[lora.TRAINED]
            weights[f"{path}.lora_B"][:, :rank] = update.up.float() * (update.scale / own.scale)


def _compiler_without_cse(graph: Any, inputs: Any) -> Any:
    """Without its elimination of common subexpressions: a weight that both passes expand is expanded twice; merged
    into one, it would be kept from one to the other."""
    with functorch_config.patch(cse=False):
        return lookup_backend(COMPILER)(graph, inputs)


def blocks_of(transformer: Any) -> list[torch.nn.Module]:
    """In the order in which a picture meets them."""
    return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]


def set_gradient_checkpointing(transformer: Any, blocks: list[torch.nn.Module], wanted: bool | int) -> None:
    """Checkpoint all blocks, none, or the first `wanted` that are trained: those before them keep nothing anyhow,
    because nothing in them needs a gradient."""
    if wanted is False or wanted == 0:
        return transformer.disable_gradient_checkpointing()
    first = next(i for i, block in enumerate(blocks) if any(p.requires_grad for p in block.parameters()))
    last = len(blocks) if wanted is True else first + wanted
    chosen = set(blocks[first:last])

    def run(block: torch.nn.Module, *inputs: Any) -> Any:
        return checkpoint(block, *inputs, use_reentrant=False) if block in chosen else block(*inputs)

    return transformer.enable_gradient_checkpointing(run)


# ---- What the steps see


@dataclass(frozen=True)
class StepBatches:
    """What one process sees in one optimizer step."""

    pictures: list[MicroBatch]
    class_pictures: list[MicroBatch] = field(default_factory=list)
    """As many, for prior preservation."""
    as_class: list[MicroBatch] = field(default_factory=list)
    """The pictures once more, under the class prompt, for differential output preservation."""

    @property
    def all(self) -> list[MicroBatch]:
        return [*self.pictures, *self.class_pictures, *self.as_class]


def loaders(
    context: TrainingContext, recipe: TrainingConfig, step: int = 0
) -> tuple[Iterator[StepBatches], list[MicroBatch]]:
    """(the batches of step after step, the held-out batches), each with its modulation in reach."""
    return training_batches(context, recipe, step), validation.held_out_batches(context, recipe)


def training_batches(context: TrainingContext, recipe: TrainingConfig, step: int = 0) -> Iterator[StepBatches]:
    runtime, prior = context.runtime, recipe.prior

    def schedule(pictures: list[Example]) -> Schedule:
        return Schedule(recipe, pictures, context.loader, rank=runtime.rank, world=runtime.world)

    own = schedule(context.trained_on)
    classes = schedule(context.class_examples) if context.class_examples else None

    def batches_of(index: int) -> StepBatches:
        pictures = own[index]
        again = [dataclasses.replace(one, captions=[prior.class_prompt] * len(one.captions)) for one in pictures]
        return StepBatches(pictures, classes[index] if classes else [], again if prior.output_preservation else [])

    count = len(batches_of(step).all) if step < recipe.optimizer.steps else 1
    together = max(1, AHEAD // count)
    for start in range(step, recipe.optimizer.steps, together):
        steps = [batches_of(index) for index in range(start, min(start + together, recipe.optimizer.steps))]
        with context.modulation_of([one for batches in steps for one in batches.all], recipe.flow.guidance):
            yield from steps
