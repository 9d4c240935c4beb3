"""The recipe of a training run: every key with its type, meaning and limits, and how a YAML file becomes one.

`read` takes a file and `section.key=value` overrides and reports all problems at once, each with its path, before
anything is loaded. An empty value (`key:`, `key: ~`) means the default. `recipes/` holds the recipes that are shipped.
"""

import difflib
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)  # fmt: skip

from impressionism.errors import UserError
from impressionism.names import BASE, TRIGGER

SHIPPED = Path(__file__).parent / "recipes"
MULTIPLE = 16  # px: the autoencoder's 8 times the transformer's 2 × 2 patches
COMPILABLE = ("none", "nf4")  # precisions whose blocks torch.compile takes whole
OLD_KEYS = {  # as published recipes and earlier runs have them → their names now
    "optimizer.rate": "learning_rate",
    "optimizer.warmup": "lr_warmup_steps",
    "optimizer.schedule": "lr_scheduler",
    "optimizer.clip": "max_grad_norm",
    "optimizer.batch": "train_batch_size",
    "optimizer.accumulate": "gradient_accumulation_steps",
    "tune.rates": "learning_rates",
}

Rank = Annotated[int, Field(ge=1, le=1024)]
Targets = Literal["attention", "all", "every", "style", "compact"]
Sigmas = Literal["logit-normal", "uniform"]


def _check_size(size: Any) -> Any:
    if isinstance(size, int) and not isinstance(size, bool):
        if size < 2 * MULTIPLE or size % MULTIPLE:
            raise ValueError(f"should be a multiple of {MULTIPLE} from {2 * MULTIPLE} up, not {size}")
        return size
    match = re.fullmatch(r"(\d+)x(\d+)", str(size))
    if not match or any(int(side) % MULTIPLE or not int(side) for side in match.groups()):
        raise ValueError(f"{size!r} should be WIDTHxHEIGHT in multiples of {MULTIPLE}")
    return size


def _check_shift(shift: Any) -> Any:
    number = not isinstance(shift, bool) and isinstance(shift, int | float) and shift > 0
    if shift != "resolution" and not number:
        raise ValueError(f'should be a number above 0 or "resolution", not {shift!r}')
    return shift


def _square(size: Any) -> Any:
    return f"{size}x{size}" if str(size).isdigit() else size


Shift = Annotated[float | Literal["resolution"], BeforeValidator(_check_shift)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Model(Section):
    base: str = BASE
    """Hub id or folder of a FLUX model; "miniature" is the bundled one."""
    revision: str | None = None
    """Commit, branch or tag on the Hub."""
    quantize: Literal["none", "fp8", "int8", "nf4", "int4", "int2"] = "nf4"
    """Precision of the frozen transformer's weights."""
    keep_quantized: bool = False
    """Keep the quantized transformer in run.cache, where the next run finds it (FLUX.1-dev in NF4: 6.2 GB)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the computation: bfloat16 on a GPU, float32 on a CPU; the adapter is float32 in both."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes the GPU where there is one."""
    max_sequence_length: int = Field(default=512, ge=1, le=512)
    """T5 tokens of a caption; a tokenizer that takes fewer wins. FLUX.1-dev paints with 512."""
    gradient_checkpointing: bool | Annotated[int, Field(ge=0)] = False
    """Compute blocks twice instead of keeping their activations: all, none, or the first N that are trained."""
    compile: bool = False
    """Compile the blocks (torch.compile): a minute or two at the start, then faster steps on a GPU."""
    modulation_bank: bool = True
    """Compute the modulation's outputs ahead of the steps and keep its weights, 27 % of FLUX, out of memory. The
    outputs are those of the unquantized weights. Has no effect where the adapter trains these layers (`every`)."""
    offload: int = Field(default=0, ge=0)
    """Blocks whose quantized weights wait in main memory and are copied to the GPU when they are used."""
    shard: bool = False
    """With several processes, each keeps a part of every block's unquantized weights and gathers a block while it is
    used (FSDP). Has no effect on one process."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.offload and self.quantize not in ("none", "nf4"):
            raise ValueError(f"offload works with quantize nf4 or none, not with {self.quantize}")
        if self.shard and (self.offload or self.quantize != "none"):
            raise ValueError("shard works with quantize none and offload 0 only; set these, or leave shard out")
        if self.compile and (self.shard or self.offload or self.quantize not in COMPILABLE):
            raise ValueError("compile works with quantize nf4 or none, without offload and shard; leave it out")
        return self


class Data(Section):
    source: str
    """A folder of pictures, a folder written by `datasets`, or a dataset's Hub id."""
    revision: str | None = None
    """Commit, branch or tag of the dataset on the Hub."""
    split: str = "train"
    """Split of a `datasets` dataset, as `train` or `train[:20]`."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first N usable pictures."""
    image_column: str = "image"
    """Column of a `datasets` dataset that holds the pictures."""
    caption_column: str = "text"
    """Column of a `datasets` dataset that holds the captions."""
    genre_column: str = "genre"
    """Column, or key of metadata.jsonl, with a picture's genre; the validation loss is also given by genre."""
    captions: Path | None = None
    """A file that `caption` writes: for each picture a full caption and one of its content only."""
    instance_prompt: str | None = None
    """Caption of each picture that has none."""
    trigger: str = TRIGGER
    """What stands in front of a caption of the content only."""
    resolution: int | tuple[int | str, ...] = 1024
    """Side of a square picture; other shapes get about the same area. Several sides: each visit takes one of those
    the picture is large enough for. Or exact sizes: [192x192, 192x144]."""
    held_out: float = Field(default=0.05, ge=0, le=0.5)
    """Part of the pictures, chosen by content, that is never trained on and gives the validation loss."""
    caption_dropout: Share = 0.0
    """Part of the visits that see the empty caption instead."""
    content_captions: Share = 0.0
    """Part of the visits that see the trigger and the content only."""

    @field_validator("resolution", mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        sizes = value if isinstance(value, list | tuple) else [value]
        if not sizes or isinstance(value, str):
            raise ValueError(f"should be a number of pixels or a list such as [192x192, 192x144], not {value!r}")
        if len({isinstance(size, str) for size in sizes}) > 1:
            raise ValueError("should be all sides (512, 768) or all exact sizes (512x512, 512x384)")
        for size in sizes:
            _check_size(size)
        return value if isinstance(value, int) else tuple(value)


class Prior(Section):
    """Keep what the base already paints under a prompt while a subject is learned (DreamBooth)."""

    class_prompt: str | None = None
    """What the subject is one of, such as `a boat` for `a boat by mntp`; none: nothing is preserved."""
    num_class_images: int = Field(default=0, ge=0, le=10_000)
    """Prior preservation: the base paints so many pictures of class_prompt once (kept in run.cache), and every step
    also trains on some of them. 0: off."""
    prior_loss_weight: float = Field(default=1.0, gt=0)
    """Weight of the loss on these pictures."""
    output_preservation: float = Field(default=0.0, ge=0)
    """Differential output preservation: weight of the difference between what the adapter and the base alone predict
    for class_prompt, on the step's own pictures. No second model is loaded. 0: off."""

    @model_validator(mode="after")
    def _has_a_prompt(self) -> Self:
        wanted = self.num_class_images > 0 or self.output_preservation > 0
        if wanted and not self.class_prompt:
            raise ValueError("num_class_images and output_preservation need class_prompt, such as `a boat`")
        if self.class_prompt and not wanted:
            raise ValueError("class_prompt has no effect alone: set num_class_images (such as 50), output_preservation "
                             "(such as 1), or both")  # fmt: skip
        return self


class Adapter(Section):
    rank: Rank = 16
    """Rank of the update of each layer."""
    alpha: float | None = Field(default=None, gt=0)
    """The update is multiplied by alpha / rank; none: by 1. The finished adapter has it folded into its weights."""
    targets: Targets = "all"
    """Which linear layers of the blocks: the attention's, all but the modulation, every one (as the published
    adapter), the later single blocks' (style lives there), or a few of those (at rank 16 a file under 3 MB)."""
    ranks: dict[str, Annotated[int, Field(ge=0, le=1024)]] = {}
    """Other ranks for some layers: a pattern of names, as in `single_transformer_blocks.3\\d`, to a rank; 0: none."""
    start_from: str | None = None
    """Train an existing adapter further: a file, a folder, a finished run's folder, or a Hub id. Its layers and ranks
    must fit into those of this recipe."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the saved file; training keeps float32."""

    @field_validator("ranks")
    @classmethod
    def _patterns(cls, value: dict[str, int]) -> dict[str, int]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no pattern ({error})") from None
        return value


class Flow(Section):
    sigmas: Sigmas = "logit-normal"
    """How noise levels are drawn for training."""
    mean: float = 0.0
    """Mean of the logit-normal; above 0 favours noisy levels."""
    std: float = Field(default=1.0, gt=0)
    """Standard deviation of the logit-normal."""
    shift: Shift = "resolution"
    """sigma → shift·sigma / (1 + (shift - 1)·sigma); "resolution": the scheduler's, by picture size."""
    weighting: Literal["none", "sigma_sqrt", "cosmap"] = "none"
    """Weight of the loss by noise level, named as in diffusers: 1, sigma^-2, or 2 / (pi (1 - 2 sigma + 2 sigma^2))."""
    guidance: float = Field(default=1.0, ge=0)
    """Distilled guidance fed while training; only at 1 is the distilled model's target the flow itself."""


class Optimizer(Section):
    name: Literal["adamw", "adamw8bit", "prodigy"] = "adamw"
    """adamw8bit keeps its state in 8 bits (bitsandbytes); prodigy finds the rate itself: set learning_rate=1."""
    learning_rate: LearningRate = 1e-4
    """Learning rate after the warm-up."""
    lr_warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises from zero."""
    lr_scheduler: Literal["constant", "cosine", "linear"] = "constant"
    """What the learning rate does after the warm-up: stay, or fall towards zero until the last step."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of AdamW and Prodigy."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The gradient is scaled down to this norm where it is larger."""
    steps: int = Field(default=2000, ge=1)
    """Optimizer steps."""
    train_batch_size: int = Field(default=1, ge=1)
    """Pictures of one size that go through the model together, on each process."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Batches to an optimizer step."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of an average of the adapter over the steps, which is then validated and saved; 0: no average."""

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        if self.lr_warmup_steps >= self.steps:
            raise ValueError(f"lr_warmup_steps ({self.lr_warmup_steps}) should be shorter than steps ({self.steps})")
        return self


class Preview(Section):
    prompts: tuple[str, ...] = ()
    """Painted at intervals from the same noise with the adapter as it is by then; `best` paints them with every
    checkpoint. None: no previews."""
    every: int = Field(default=250, ge=1)
    """Steps between two previews."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the noise."""
    steps: int = Field(default=20, ge=1, le=100)
    """Denoising steps."""
    guidance: float = Field(default=3.5, ge=0, le=20)
    """Distilled guidance."""
    size: Annotated[str, BeforeValidator(_square), AfterValidator(_check_size)] = "1024x1024"
    """WIDTHxHEIGHT of a preview, or the side of a square one."""


class Log(Section):
    report_to: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ("tensorboard",)
    """Trackers that are told what log.jsonl is told, and shown the previews; through accelerate."""

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return () if value in ("none", "") else (value,) if isinstance(value, str) else value


class Curate(Section):
    source: str | None = None
    """Where the paintings come from: `huggan/wikiart`, another dataset's id, or a folder (of a dataset or of pictures
    with .txt or metadata.jsonl); `curate` writes what it chooses to data.source. None: data.source is used as it is."""
    revision: str | None = None
    """Commit, branch or tag of the source on the Hub."""
    split: str = "train"
    """Split of the source."""
    style: str | None = None
    """Keep this style only, by the source's `style`, such as Impressionism."""
    genres: tuple[str, ...] = ()
    """Keep these genres only, by the source's `genre`, such as [landscape, still_life]; none named: all."""
    limit: int | None = Field(default=None, ge=1)
    """Pictures to keep at most, balanced; none: all that pass."""
    min_side: int = Field(default=512, ge=1)
    """Pixels of the shorter side, at least."""
    max_aspect: float = Field(default=2.2, ge=1)
    """Longer side over shorter side, at most."""
    min_chroma: float = Field(default=4.0, ge=0)
    """Mean CIELAB chroma under which a picture counts as monochrome (a drawing, a print, a photograph)."""
    duplicate_bits: int = Field(default=6, ge=0, le=64)
    """Two pictures whose 64-bit perceptual hashes differ in so many bits or fewer are one painting."""
    trim_borders: bool = True
    """Cut away a border of one colour (a mount, a scanner's bed)."""
    artist_share: float = Field(default=0.2, gt=0, le=1)
    """No artist makes up more of a genre than this part …"""
    artist_floor: int = Field(default=10, ge=1)
    """… but may always give a genre so many pictures: a small set would be cut to nothing otherwise."""
    held_out: float = Field(default=0.1, ge=0, le=0.5)
    """Part of the pictures that goes to the split `validation`, which no training sees: half of them whole artists,
    the others by genre."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """With a picture's content, decides which stay where there are too many, and which are held out."""


class Caption(Section):
    model: str = "HuggingFaceTB/SmolVLM-Instruct"
    """Vision-language model: a Hub id or folder for transformers, or the endpoint's name for it (Qwen3-VL sees more,
    but in this process it wants torchvision too); "none" takes the source's own captions apart instead."""
    endpoint: str | None = None
    """Base URL of an OpenAI-compatible server (its key is read from OPENAI_API_KEY), or `hf` for the Hub's inference
    providers; none: runs here."""
    concurrency: int = Field(default=4, ge=1, le=64)
    """Requests to the endpoint at once."""
    retries: int = Field(default=4, ge=0, le=20)
    """Tries again after a failed answer."""
    max_words: int = Field(default=60, ge=5, le=200)
    """Length that is asked of a caption; a longer one ends after its last clause that fits."""
    side: int = Field(default=768, ge=64)
    """Longest side in pixels at which a picture is shown to the model."""

    @field_validator("endpoint")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None and value != "hf" and not re.match(r"https?://[^/]", value):
            raise ValueError(f"should be hf, or begin with http:// or https://, not {value!r}")
        return value


class Tune(Section):
    trials: int = Field(default=20, ge=1)
    """Trials in the study, whoever runs them."""
    steps: int = Field(default=400, ge=1)
    """Steps of a trial that is not stopped early; warm-up and schedule are the optimizer section's."""
    rungs: int = Field(default=3, ge=1, le=6)
    """Times on the way at which the worse half of the trials is stopped; the last one is at half the steps, each one
    before it at half of those."""
    ranks: tuple[Rank, ...] = (4, 8, 16, 32)
    """Ranks to try."""
    learning_rates: tuple[LearningRate, LearningRate] = (2e-5, 1e-3)
    """Least and greatest learning rate, drawn on a logarithmic scale; prodigy wants [1, 1]."""
    targets: tuple[Targets, ...] = ("attention", "all", "style")
    """Targets to try; with `every` among them the modulation's weights stay in memory."""
    sigmas: tuple[Sigmas, ...] = ("logit-normal", "uniform")
    """Distributions of noise levels to try."""
    shifts: tuple[Shift, ...] = ("resolution", 1.0, 3.0)
    """Shifts of the noise levels to try; to the logit-normal a shift is a mean that is higher by its logarithm."""
    caption_dropout: tuple[Share, Share] = (0.0, 0.2)
    """Least and greatest caption dropout."""
    storage: str | None = None
    """Optuna storage URL that several workers share, such as postgresql://host/tune; none: a SQLite file in the run's
    folder, which workers on this machine share."""

    @field_validator("ranks", "targets", "sigmas", "shifts")
    @classmethod
    def _choices(cls, values: tuple) -> tuple:
        if not values or len(set(values)) < len(values):
            raise ValueError(f"should name at least one choice, and none twice, not {list(values)}")
        return values

    @field_validator("learning_rates", "caption_dropout")
    @classmethod
    def _least_first(cls, values: tuple[float, float]) -> tuple[float, float]:
        if values[0] > values[1]:
            raise ValueError(f"should be the least and the greatest, not {list(values)}")
        return values

    @model_validator(mode="after")
    def _searches(self) -> Self:
        choices = (self.ranks, self.targets, self.sigmas, self.shifts)
        if all(len(set(values)) == 1 for values in (*choices, self.learning_rates, self.caption_dropout)):
            raise ValueError("should leave something to search: the space has one point")
        if self.steps < 2**self.rungs:
            raise ValueError(f"steps ({self.steps}) should be at least {2**self.rungs} to be halved {self.rungs} times")
        return self


class RunOptions(Section):
    folder: Path = Path("runs/unnamed")
    """Where the run is written; a recipe without one is named after its file."""
    cache: Path = Path("cache")
    """Where latents and text embeddings are kept; runs share it."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """With the sample and the visit, it decides every random draw."""
    log_every: int = Field(default=10, ge=1)
    """Steps between two lines of log.jsonl."""
    validate_every: int = Field(default=100, ge=1)
    """Steps between two validation losses."""
    validation_pictures: int = Field(default=64, ge=1)
    """Held-out pictures to take for it, at most."""
    checkpoint_every: int = Field(default=250, ge=1)
    """Steps between two checkpoints."""
    keep: int = Field(default=3, ge=1)
    """Checkpoints kept, besides the best; older ones are removed."""
    save: Literal["last", "best"] = "last"
    """Which state becomes the adapter: the last, or the one with the lowest held-out loss."""


class TrainingConfig(Section):
    model: Model = Model()
    """The frozen base."""
    data: Data
    """The pictures."""
    prior: Prior = Prior()
    """What must not change while a subject is learned."""
    adapter: Adapter = Adapter()
    """What is trained."""
    flow: Flow = Flow()
    """The objective."""
    optimizer: Optimizer = Optimizer()
    """How it is trained."""
    preview: Preview = Preview()
    """Pictures painted while training."""
    log: Log = Log()
    """Who is told how the run goes."""
    run: RunOptions = RunOptions()
    """Where, and how often what."""
    curate: Curate = Curate()
    """What `curate` takes and leaves."""
    caption: Caption = Caption()
    """Who writes captions for `caption`."""
    tune: Tune = Tune()
    """What `tune` searches."""

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


# ---- Reading


def read(path: Path, overrides: list[str] | None = None) -> TrainingConfig:
    """The recipe at `path`, or the shipped one of that name, with `section.key=value` laid over it; raises UserError
    with every problem."""
    if not path.is_file() and (shipped := SHIPPED / f"{path}.yaml").exists():
        path = shipped
    values = _load(path)
    if isinstance(run := values.setdefault("run", {}), dict):
        run.setdefault("folder", f"runs/{path.stem}")
    return _validated(values, overrides or [], str(path))


def changed(recipe: TrainingConfig, overrides: list[str]) -> TrainingConfig:
    """The recipe with `section.key=value` laid over it; raises UserError with every problem."""
    return _validated(recipe.model_dump(mode="json"), overrides, "with " + " ".join(overrides))


def differences(first: TrainingConfig, second: TrainingConfig, *, besides: tuple[str, ...] = ()) -> list[str]:
    """One phrase for each key in which two recipes differ, some sections and keys left aside."""
    here = second.model_dump(mode="json")
    return [
        f"{section}.{key} is {value!r} there and {here[section][key]!r} here"
        for section, there in first.model_dump(mode="json").items()
        for key, value in there.items()
        if here[section][key] != value and not {section, f"{section}.{key}"} & set(besides)
    ]


def _load(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), _UniqueKeyLoader)  # a SafeLoader
    except OSError as error:
        shipped = ", ".join(sorted(recipe.name for recipe in SHIPPED.glob("*.yaml")))
        raise UserError(f"{path} cannot be read ({error.strerror}); training/recipes has {shipped}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: should hold the sections {', '.join(TrainingConfig.model_fields)}.")
    return {section: {} if keys is None else keys for section, keys in values.items()}


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML silently keeps the last of two equal keys; here that is an error with its line."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        first: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in first:
                    raise yaml.YAMLError(f"{key.value!r} in line {line} is there already, in line {first[key.value]}")
                first[key.value] = line
        return super().construct_mapping(node, deep)


def _validated(values: dict[str, Any], overrides: list[str], where: str) -> TrainingConfig:
    problems = [problem for override in overrides for problem in _override(values, override)]
    problems += _rename_old_keys(values)
    for section, keys in values.items():
        if isinstance(keys, dict):  # nothing written means the default
            values[section] = {key: value for key, value in keys.items() if value is not None}
    try:
        recipe = TrainingConfig.model_validate(values)
    except ValidationError as error:
        problems += [_sentence(details) for details in error.errors()]
    if problems:
        raise UserError(f"{where}: " + "; ".join(problems) + ".")
    return recipe


def _rename_old_keys(values: dict[str, Any]) -> list[str]:
    """Old names of keys become the present ones; a problem for each that is there under both."""
    problems = []
    for old, new in OLD_KEYS.items():
        section, _, key = old.partition(".")
        if isinstance(keys := values.get(section), dict) and key in keys:
            value = keys.pop(key)
            if keys.get(new, value) != value:
                problems.append(f"{old}: is the old name of {new}, which is there too; leave one out")
            keys[new] = value
    return problems


def _override(values: dict[str, Any], override: str) -> list[str]:
    """Lay `section.key=value` over `values`; what is wrong with it, if anything."""
    path, equals, text = override.partition("=")
    section, dot, key = path.partition(".")
    if not equals or not dot:
        return [f"{override!r} should read section.key=value"]
    if not isinstance(values.setdefault(section, {}), dict):
        return []  # the section itself is wrong, and the validation says so
    key = OLD_KEYS.get(path, key)
    for old, new in OLD_KEYS.items():  # what the file says under an old name gives way, too
        if old.startswith(f"{section}.") and new == key:
            values[section].pop(old.removeprefix(f"{section}."), None)
    try:
        values[section][key] = _value(text, section, key)
    except (yaml.YAMLError, RecursionError, ValueError):
        return [f"{path}: {text!r} is not a YAML value"]
    return []


def _value(text: str, section: str, key: str) -> Any:
    """What an override says: YAML, but a text is taken as typed, and `#` begins no comment."""
    fields = getattr(TrainingConfig.model_fields.get(section), "annotation", Section).model_fields
    wanted = fields[key].annotation if key in fields else None
    choices = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    if set(choices) <= {str, Path, types.NoneType} and text.strip()[:1] not in ("'", '"'):
        return None if text.strip() in ("", "~", "null") else text
    hash_sign = "\ue000"  # a character of nobody's
    return _restored(yaml.load(text.replace("#", hash_sign), _UniqueKeyLoader), hash_sign)


def _restored(value: Any, hash_sign: str) -> Any:
    if isinstance(value, str):
        return value.replace(hash_sign, "#")
    if isinstance(value, list):
        return [_restored(each, hash_sign) for each in value]
    if isinstance(value, dict):
        return {_restored(key, hash_sign): _restored(each, hash_sign) for key, each in value.items()}
    return value


def _sentence(details: Any) -> str:
    location = [str(part) for part in details["loc"]]
    path = ".".join(location)
    if details["type"] == "extra_forbidden":
        known = _keys(location[:-1])
        old = {path.partition(".")[2]: new for path, new in OLD_KEYS.items() if new in known}
        close = difflib.get_close_matches(location[-1], [*known, *old], n=1)
        hint = f"did you mean {old.get(close[0], close[0])}?" if close else f"there are {', '.join(known)}"
        return f"{path}: no such key ({hint})"
    if details["type"] == "missing":
        return f"{path}: is missing"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
    given = "" if details["type"] == "value_error" else f", not {details['input']!r}"
    return f"{path}: {message}{given}"


def _keys(location: list[str]) -> list[str]:
    fields = TrainingConfig.model_fields
    for part in location:
        fields = fields[part].annotation.model_fields  # type: ignore[union-attr]
    return list(fields)
