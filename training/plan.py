"""What a run will need, before anything is loaded: memory and what it is made of, hours, disk.

    python -m training plan training/recipes/impressionism.yaml [--vram 8] [--processes 2] [section.key=value …]

`predict` is the arithmetic, a function of the recipe and the card alone; footprint.py counts what a step keeps. Where
the recipe does not fit, the finest precision that does is chosen, then as few recomputed blocks as possible, and the
keys to set are told. No weight is read, nothing is fetched, and no GPU is needed.
"""

import bisect
import functools
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from impressionism import names
from impressionism.errors import UserError, counted
from training import cards, examples, footprint, sources
from training import recipe as recipes
from training.cards import GIB, GpuSpec
from training.examples import Size
from training.footprint import LINEARS, MODULATION, Block, Cost, Linear, Moment, Shape
from training.recipe import COMPILABLE, Model, Optimizer, TrainingConfig
from training.targets import rank_of

FINEST_FIRST = ("none", "int8", "nf4")  # int4 saves nothing over nf4, and int2 is left to those who ask for it
SPARE = 1.08  # times what is counted on a GPU: an allocator's memory lies in pieces, of which no peak tells
SPARE_CPU = 2.2  # on a CPU: glibc 2.36 held 1.8 to 2.2 times the miniature's tensors, freed ones in between
TRAVEL = 12e9  # bytes a second from main memory to a card: half of what 16 lanes of PCIe 4.0 carry
PROGRAM = GIB  # main memory of Python and its libraries
GATHERED = 3  # blocks of a sharded base: one in use, the next as it comes and as it is laid out (not measured on a GPU)
ITEMSIZE = {"float32": 4, "bfloat16": 2}
CHANNELS = 16  # of the autoencoder's latents
FORWARD_SHARE = 1 / 3  # of a step's time, about


@dataclass(frozen=True)
class Facts:
    """What is known of a base model from its configuration alone."""

    transformer: dict[str, Any]
    text_tokens: int
    """Maximum T5 tokens per caption."""
    vae: dict[str, Any]
    """The autoencoder's configuration."""
    t5: dict[str, Any]
    """T5's configuration."""
    encoder_numbers: dict[str, int]
    """Weights of autoencoder, CLIP and T5."""
    download: int
    """Bytes, where it is not on this machine."""


FLUX = Facts(  # black-forest-labs/FLUX.1-dev: its config.json files
    transformer={
        "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
        "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
        "axes_dims_rope": (16, 56, 56),
    },
    text_tokens=512,
    vae={"layers_per_block": 2, "block_out_channels": [128, 256, 512, 512]},
    t5={"d_model": 4096, "d_ff": 10240, "num_heads": 64},
    encoder_numbers={"vae": 83_819_683, "text_encoder": 123_060_480, "text_encoder_2": 4_762_310_656},
    download=33_700_000_000,
)  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    recipe: TrainingConfig
    card: GpuSpec
    parts: dict[str, int]
    """What the peak is made of, in bytes of the card (without a GPU: of main memory)."""
    loading: int
    """Bytes at most while the base is quantized onto the card; offloaded blocks leave it only then."""
    encoding: int
    """Bytes at most while captions are encoded, before that."""
    encoding_pictures: int
    """Bytes at most while pictures are, before that."""
    operations: float
    """Floating-point operations of an optimizer step."""
    seconds: float
    """Time of an optimizer step."""
    layers: int
    """With an update."""
    numbers: int
    """Trained ones."""
    adapter: int
    """Bytes of the adapter's file."""
    main_memory: int
    """Bytes of it, at most."""
    disk: dict[str, int]
    """Bytes that a run leaves there."""
    pictures: int | None
    """In the source; none: it is not on this machine."""
    class_pictures_seconds: float = 0.0
    """That the base paints class pictures, once (prior preservation)."""

    @property
    def peak(self) -> int:
        """Bytes of tensors at most while it trains. On a GPU, what run.json calls peak_memory; on a CPU that leaves out
        the base, which was there before, and has in it the libraries and what the C library holds beside tensors."""
        return sum(self.parts.values())

    @property
    def needed(self) -> int:
        """Most bytes of the GPU at any time of the run itself."""
        return round(max(self.peak, self.loading) * (SPARE if self.card.gpu else SPARE_CPU))

    @property
    def fits(self) -> bool:
        return self.needed <= self.card.memory

    @property
    def hours(self) -> float:
        return (self.seconds * self.recipe.optimizer.steps + self.class_pictures_seconds) / 3600


def plan(recipe: TrainingConfig, *, vram: float | None = None, processes: int = 1, json: bool = False) -> None:
    """The command."""
    if processes < 1:
        raise UserError(f"--processes should be 1 or more, not {processes}.")
    if vram is None:
        from training.runtime import resolve_runtime  # it brings PyTorch

        card = cards.at_hand(resolve_runtime(recipe.model).device)
    else:
        card = cards.of_size(vram)
    pictures = count(recipe)
    if json:
        print(as_json(predict(recipe, card, pictures, processes)))
        return
    written, best = predict(recipe, card, pictures, processes), choose(recipe, card, pictures, processes)
    if best is None:
        raise UserError(refusal(recipe, card))
    changes = " ".join(overrides(recipe, best.recipe))
    if not written.fits:
        print(f"As written the recipe needs {_size(written.needed)}. It fits with\n\n  {changes}\n")
    print(as_text(written if written.fits else best))
    if written.fits and changes:
        print(f"\nThere is room for finer weights or less recomputing, {_time(best.seconds)} a step:\n\n  {changes}")


def count(recipe: TrainingConfig) -> int | None:
    """Pictures in a folder, of the splits and up to the limit that the recipe names; none for what is no folder."""
    if not sources.is_picture_folder(recipe.data.source):
        return None
    return sum(len(list(itertools.islice(rows, recipe.data.limit))) for rows in sources.splits(recipe.data))


# ---- Predicting


def predict(recipe: TrainingConfig, card: GpuSpec, pictures: int | None = None, processes: int = 1) -> Prediction:
    """What a process of a run takes: memory for its largest pictures, time for the mean of its sizes."""
    facts, model, options = facts_of(recipe.model), recipe.model, recipe.optimizer
    blocks = layers_of(facts, recipe)
    layers = [layer for block in blocks for layer in block]
    buckets = [examples.buckets(side) for side in examples.resolutions(recipe.data.resolution)]
    sizes = [max(sizes, key=math.prod) for sizes in buckets]
    shapes = sorted((shape_of(recipe, facts, size, card) for size in sizes), key=lambda shape: shape.image)
    costs = [costs_of(blocks, shape, model, facts) for shape in shapes]
    shape, itemsize, steps = shapes[-1], shapes[-1].itemsize, options.steps * options.gradient_accumulation_steps

    packed = [sum(_stored(layer, shape) for layer in block if not left_out(layer, shape)) for block in blocks]
    offloaded = packed[max(0, len(blocks) - model.offload) :]
    others = other_numbers(facts) * itemsize
    whole = sum(packed) + others
    share = sum(packed) // processes + others if model.shard else whole
    first = sum(_stored(layer, shape) for layer in layers) + others if model.keep_quantized else share  # kept whole
    gathered = GATHERED * max(packed) if share < whole else 0
    numbers = sum(layer.numbers for layer in layers)
    state = optimizer_bytes(options, numbers)
    rows = sum(layer.rows for layer in layers if left_out(layer, shape)) * options.train_batch_size * itemsize
    ahead = rows * min(names.MODULATION_AHEAD, steps)
    resident = {
        f"base in {model.quantize}{', modulation left out' * shape.banked}": share - sum(offloaded),
        "blocks gathered": gathered,
        "adapter, optimizer's state": 4 * numbers + state,
        "pictures, captions, modulation": batch_bytes(shape, facts) + (rows if card.gpu else ahead),
    }
    parts = resident | at_the_peak(footprint.fullest(costs[-1]), options, numbers)
    operations = sum(cost.flops for one in costs for cost in one) / len(costs)
    seconds = step_seconds(recipe, shape, card, operations, passes(blocks, model), sum(offloaded))
    # Class pictures are as many batches again; output preservation is those again, and a forward pass of the base.
    prior = recipe.prior
    factor = 1 + (prior.num_class_images > 0) + (1 + FORWARD_SHARE) * (prior.output_preservation > 0)
    forward = seconds * FORWARD_SHARE / (options.gradient_accumulation_steps * options.train_batch_size)
    disk = disk_use(recipe, facts, sizes, itemsize, pictures, 4 * numbers + state)
    if model.keep_quantized:
        disk["quantized base"] = first
    if count := recipe.prior.num_class_images:
        disk["class pictures"] = count * math.prod(sizes[0]) * (3 + CHANNELS * 2 * 4 // 64)  # at most, and latents
    vae, clip, t5 = facts.encoder_numbers.values()
    captions = footprint.encoding_captions(facts.t5, clip + t5, shape.text, footprint.CAPTIONS, itemsize)
    at_once = {size: footprint.together(size, "cuda" if card.gpu else "cpu") for size in itertools.chain(*buckets)}
    pixels = footprint.encoding_pictures(facts.vae, vae, at_once, itemsize)
    return Prediction(
        recipe=recipe, card=card, parts=parts,
        loading=first + max(gathered, 2 * max(layer.rows * layer.columns for layer in layers)),
        encoding=captions, encoding_pictures=pixels,
        operations=operations * options.gradient_accumulation_steps * factor,
        seconds=seconds * factor, class_pictures_seconds=prior.num_class_images * recipe.preview.steps * forward,
        layers=sum(layer.rank > 0 for layer in layers), numbers=numbers,
        adapter=numbers * ITEMSIZE[recipe.adapter.dtype],
        main_memory=PROGRAM + max(ahead + sum(offloaded), whole if gathered else 0, captions, pixels),
        disk=disk, pictures=pictures,
    )  # fmt: skip


def step_seconds(
    recipe: TrainingConfig, shape: Shape, card: GpuSpec, operations: float, passes: int, offloaded: int
) -> float:
    """Seconds for batches of so many operations and passes through a block; a byte kept elsewhere travels with each."""
    model = recipe.model
    travel = offloaded * (3 if model.gradient_checkpointing is True else 2) / TRAVEL
    computing = cards.seconds(card, operations, passes, model.quantize, model.compile, shape.text)
    return recipe.optimizer.gradient_accumulation_steps * (computing + travel)


def at_the_peak(moment: Moment, options: Optimizer, numbers: int) -> dict[str, int]:
    """What comes and goes with a step, at its fullest: in a pass, or while all gradients are copied into one."""
    gradients = 4 * numbers if options.gradient_accumulation_steps > 1 else moment.gradients
    if moment.kept + gradients + moment.passing < 8 * numbers:
        return {"gradients": 4 * numbers, "temporary": 4 * numbers}
    return {"gradients": gradients, "activations kept": moment.kept, "temporary": moment.passing}


def shape_of(recipe: TrainingConfig, facts: Facts, size: Size, card: GpuSpec) -> Shape:
    config, model = facts.transformer, recipe.model
    automatic = "bfloat16" if card.gpu else "float32"
    return Shape(
        width=width_of(facts),
        heads=config["num_attention_heads"],
        batch=recipe.optimizer.train_batch_size,
        image=math.prod(size) // 256,
        text=min(model.max_sequence_length, facts.text_tokens),
        itemsize=ITEMSIZE[automatic if model.dtype == "auto" else model.dtype],
        quantize=model.quantize,
        gpu=card.gpu,
        banked=model.modulation_bank and recipe.adapter.targets != "every",
        accumulating=recipe.optimizer.gradient_accumulation_steps > 1,
    )


def costs_of(blocks: list[list[Linear]], shape: Shape, model: Model, facts: Facts) -> list[Cost]:
    """Costs of each block in turn, and of what follows them; recomputed and offloaded as training.base does it."""
    first, recomputed = gradients_from(blocks), recomputed_of(blocks, model)
    return [
        footprint.cost(
            Block(
                layers=tuple(block),
                recomputed=index in recomputed,
                reached=index > first,
                offloaded=index >= len(blocks) - model.offload,
            ),
            shape,
        )
        for index, block in enumerate(blocks)
    ] + [footprint.tail_cost(shape, facts.transformer["in_channels"])]


def gradients_from(blocks: list[list[Linear]]) -> int:
    """The first block that is trained."""
    return next(index for index, block in enumerate(blocks) if any(layer.rank for layer in block))


def recomputed_of(blocks: list[list[Linear]], model: Model) -> range:
    first, wanted = gradients_from(blocks), model.gradient_checkpointing
    return range(first, len(blocks) if wanted is True else min(first + wanted, len(blocks)))


def passes(blocks: list[list[Linear]], model: Model) -> int:
    """Through a block, of a batch: forward, forward again where it is recomputed, and backward, which counts twice."""
    return len(blocks) + len(recomputed_of(blocks, model)) + 2 * (len(blocks) - gradients_from(blocks))


def left_out(layer: Linear, shape: Shape) -> bool:
    """Whether the modulation bank keeps the layer out of memory."""
    return shape.banked and layer.name in MODULATION


def _stored(layer: Linear, shape: Shape) -> int:
    return footprint.stored(shape.quantize, layer.rows, layer.columns, shape.itemsize)


def optimizer_bytes(options: Optimizer, numbers: int) -> int:
    """Bytes of the optimizer's state, and of the averages where they are kept."""
    packed = 2 * numbers + 8 * -(-numbers // 256) if numbers >= 4096 else 8 * numbers  # bitsandbytes packs no fewer
    state = {"adamw": 8 * numbers, "prodigy": 16 * numbers, "adamw8bit": packed}[options.name]
    return state + (4 * numbers if options.ema else 0)


def batch_bytes(shape: Shape, facts: Facts) -> int:
    """Latents and noise in float32, captions, and the angles of every position, in float32 too."""
    latents = 2 * 4 * shape.image * facts.transformer["in_channels"]
    captions = (shape.text * facts.transformer["joint_attention_dim"]) * shape.itemsize
    return shape.batch * (latents + captions) + 2 * 4 * shape.tokens * shape.width // shape.heads


def disk_use(
    recipe: TrainingConfig, facts: Facts, sizes: list[Size], itemsize: int, pictures: int | None, state: int
) -> dict[str, int]:
    """What a run leaves; `state` is a checkpoint's bytes. The best checkpoint may come on top of those kept."""
    adapter_bytes = {"checkpoints": state * (recipe.run.keep + 1)}
    if not Path(recipe.model.base).exists() and recipe.model.base != "miniature":
        adapter_bytes["base model"] = facts.download
    if pictures is None:
        return adapter_bytes
    caption = min(recipe.model.max_sequence_length, facts.text_tokens) * facts.transformer["joint_attention_dim"]
    variants = 2 if recipe.data.captions else 1
    return adapter_bytes | {
        "latents": pictures * sum(math.prod(size) // 64 for size in sizes) * CHANNELS * 2 * 4,
        "captions": (pictures * variants + 1) * caption * itemsize,
    }


# ---- The model


def facts_of(model: Model) -> Facts:
    """Read from the files of the bundled miniature or a folder; for any other id, those of FLUX.1-dev."""
    folder = names.MINIATURE if model.base == "miniature" else Path(model.base)
    return _read_facts(folder) if folder.is_dir() else FLUX


@functools.cache
def _read_facts(folder: Path) -> Facts:
    try:
        return Facts(
            transformer=_config(folder / "transformer"),
            text_tokens=json.loads((folder / "tokenizer_2" / "tokenizer_config.json").read_text())["model_max_length"],
            vae=_config(folder / "vae"),
            t5=_config(folder / "text_encoder_2"),
            encoder_numbers={part: _numbers_in(folder / part) for part in FLUX.encoder_numbers},
            download=0,
        )
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{folder} is no FLUX model's folder ({error}); set model.base.") from error


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def _numbers_in(folder: Path) -> int:
    """Weights in a folder's files, by their headers."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="np") as stored:
            total += sum(math.prod(stored.get_slice(name).get_shape()) for name in stored.keys())  # noqa: SIM118
    return total


def layers_of(facts: Facts, recipe: TrainingConfig) -> list[list[Linear]]:
    """The linear layers of each block, in the order in which a picture meets them."""
    config, width = facts.transformer, width_of(facts)
    counts = {"transformer_blocks": config["num_layers"], "single_transformer_blocks": config["num_single_layers"]}

    def rank(path: str) -> int:
        return rank_of(path, recipe.adapter, counts["single_transformer_blocks"])

    blocks = [
        [
            Linear(name, rows * width, columns * width, rank(f"{kind}.{index}.{name}"))
            for name, (rows, columns) in LINEARS[kind].items()
        ]
        for kind, count in counts.items()
        for index in range(count)
    ]
    if not any(layer.rank for block in blocks for layer in block):
        raise UserError("adapter.targets and adapter.ranks leave no layer to train; set other ranks.")
    return blocks


def other_numbers(facts: Facts) -> int:
    """All that is not a weight of a block's linear layer: the blocks' biases and norms, and the layers at both ends."""
    config, width = facts.transformer, width_of(facts)
    rows = {kind: sum(rows for rows, _ in layers.values()) for kind, layers in LINEARS.items()}
    head = config["attention_head_dim"]
    blocks = config["num_layers"] * (rows["transformer_blocks"] * width + 4 * head)
    blocks += config["num_single_layers"] * (rows["single_transformer_blocks"] * width + 2 * head)
    embedders = [256, config["pooled_projection_dim"], *[256] * config["guidance_embeds"]]  # timestep, CLIP, guidance
    ends = sum((size + 1 + width + 1) * width for size in embedders)
    ends += (config["in_channels"] + 1 + config["joint_attention_dim"] + 1) * width
    return blocks + ends + 2 * width * (width + 1) + config["in_channels"] * (width + 1)


def width_of(facts: Facts) -> int:
    return facts.transformer["num_attention_heads"] * facts.transformer["attention_head_dim"]


# ---- Choosing


def choose(recipe: TrainingConfig, card: GpuSpec, pictures: int | None = None, processes: int = 1) -> Prediction | None:
    """The finest precision that fits, then the fewest recomputed blocks; the last resort is to offload. None: none."""
    blocks = layers_of(facts_of(recipe.model), recipe)
    trained = len(blocks) - gradients_from(blocks)

    def with_(quantize: str, recomputed: int, offload: int) -> Prediction:
        wanted = True if recomputed == trained else recomputed or False
        shard = recipe.model.shard and quantize == "none"
        compiled = recipe.model.compile and quantize in COMPILABLE and not offload
        keys = {"quantize": quantize, "gradient_checkpointing": wanted, "offload": offload, "shard": shard,
                "compile": compiled}  # fmt: skip
        model = recipe.model.model_copy(update=keys)
        return predict(recipe.model_copy(update={"model": model}), card, pictures, processes)

    for quantize in FINEST_FIRST:
        if with_(quantize, trained, 0).fits:
            fewest = bisect.bisect_left(range(trained), True, key=lambda count: with_(quantize, count, 0).fits)
            return with_(quantize, fewest, 0)
    fewest = bisect.bisect_left(range(len(blocks)), True, key=lambda count: with_("nf4", trained, count).fits)
    last = with_("nf4", trained, fewest)
    return last if last.fits else None


def overrides(written: TrainingConfig, chosen: TrainingConfig) -> list[str]:
    """What to set on the command line."""
    before, after = written.model.model_dump(mode="json"), chosen.model.model_dump(mode="json")
    return [f"model.{key}={json.dumps(value).strip(chr(34))}" for key, value in after.items() if value != before[key]]


def refusal(recipe: TrainingConfig, card: GpuSpec) -> str:
    blocks = layers_of(facts_of(recipe.model), recipe)
    keys = {"quantize": "nf4", "gradient_checkpointing": True, "offload": len(blocks), "shard": False, "compile": False}
    least = predict(recipe.model_copy(update={"model": recipe.model.model_copy(update=keys)}), card)
    fits = nearest(recipe, card)
    other = f"the nearest that fits is training/recipes/{fits.name}. Or lower" if fits else "lower"
    return (
        f"{card.name} has {_size(card.memory)} for a run, and this recipe needs {_size(least.needed)} at the least; "
        f"{other} data.resolution, optimizer.train_batch_size or adapter.rank."
    )


def nearest(recipe: TrainingConfig, card: GpuSpec) -> Path | None:
    """The shipped recipe for the same base that fills the card best."""
    shipped = [(path, recipes.read(path)) for path in sorted(recipes.SHIPPED.glob("*.yaml"))]
    asked = [(predict(one, card), path) for path, one in shipped if one.model.base == recipe.model.base]
    return max(((one.needed, path) for one, path in asked if one.fits), default=(0, None))[1]


# ---- Telling


def as_json(prediction: Prediction) -> str:
    """All figures but the recipe, which the reader has."""
    figures = {name: value for name, value in vars(prediction).items() if name not in ("recipe", "card")}
    derived = {name: getattr(prediction, name) for name in ("peak", "needed", "fits", "hours")}
    return json.dumps(figures | derived | {"card": prediction.card.name}, indent=1)


def as_text(prediction: Prediction) -> str:
    one, card, options = prediction, prediction.card, prediction.recipe.optimizer
    rows = [(name, _size(size)) for name, size in one.parts.items() if size]
    rows += [("while it trains", f"{_size(one.peak)} of {_size(card.memory)} on {card.name}")]
    rows += [("while it loads", _size(one.loading))]
    rows += [("while pictures are encoded", _size(one.encoding_pictures))]
    rows += [("while captions are encoded", _size(one.encoding))]
    rows += [("", "")]
    count = options.train_batch_size * options.gradient_accumulation_steps
    each = counted(count, "picture")
    rows += [("a step", f"{_time(one.seconds)} ({each}) at {card.rate / 1e12:.3g} TFLOPS ({card.why})")]
    if number := one.recipe.prior.num_class_images:
        rows += [(f"{number} class pictures", f"{_time(one.class_pictures_seconds)} to paint, once")]
    rows += [(f"{options.steps} steps", _time(one.seconds * options.steps))]
    rows += [("adapter", f"{_bytes(one.adapter)}: {one.numbers:,} numbers in {one.layers} layers")]
    rows += [("main memory", _size(one.main_memory))]
    pictures = "" if one.pictures is not None else ", and the cache of pictures and captions (not built yet)"
    disk = ", ".join(f"{name} {_bytes(size)}" for name, size in one.disk.items())
    rows += [("disk", f"{_bytes(sum(one.disk.values()))}: {disk}{pictures}")]
    width = max(len(name) for name, _ in rows)
    text = "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)
    if not card.gpu:
        text += (
            f"\n\nThese are bytes of tensors; the C library may hold up to {SPARE_CPU:g} times as much between them."
        )
    if card.gpu and max(one.encoding, one.encoding_pictures) > card.memory:
        text += "\n\nThe encoders do not fit the card. First: python -m training cache RECIPE model.device=cpu "
        text += "model.dtype=bfloat16"
    return text


def _size(count: float) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"


def _bytes(count: float) -> str:
    """As disks and downloads count."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
