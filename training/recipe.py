"""The typed configuration of a training run: read from YAML, overridden by `section.key=value`, and checked.

Every problem is reported at once, with its path, before anything is loaded. `recipes/` holds the shipped.
"""

import difflib
import re
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

MULTIPLE = 16  # px: the autoencoder's 8 times the transformer's 2 × 2 patches


class TrainingError(ValueError):
    """A sentence for the user: what is wrong and what to do."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Model(Section):
    base: str = "black-forest-labs/FLUX.1-dev"
    """Hub id or folder of a FLUX model; "miniature" is the bundled one."""
    revision: str | None = None
    """Commit, branch or tag on the Hub."""
    quantize: Literal["none", "int8", "nf4", "int4", "int2"] = "nf4"
    """Precision of the frozen transformer's weights."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the computation: bfloat16 on a GPU, float32 on a CPU; the adapter is float32 in both."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes the GPU where there is one."""
    max_sequence_length: int = Field(default=512, ge=1, le=512)
    """T5 tokens of a caption; a tokenizer that takes fewer wins. FLUX.1-dev paints with 512."""
    gradient_checkpointing: bool = False
    """Compute each block twice instead of keeping its activations: less memory, a third more time."""


class Data(Section):
    source: str
    """A folder of pictures, a folder written by `datasets`, or a dataset's Hub id."""
    revision: str | None = None
    """Commit, branch or tag of the dataset on the Hub."""
    split: str = "train"
    """Split of a `datasets` dataset."""
    image_column: str = "image"
    """Column of a `datasets` dataset that holds the pictures."""
    caption_column: str = "text"
    """Column of a `datasets` dataset that holds the captions."""
    instance_prompt: str | None = None
    """Caption of each picture that has none."""
    resolution: int | tuple[str, ...] = 1024
    """Side of a square picture; other shapes get about the same area. Or exact sizes: [192x192, 192x144]."""
    held_out: float = Field(default=0.05, ge=0, le=0.5)
    """Part of the pictures, chosen by content, that is never trained on and gives the validation loss."""
    caption_dropout: float = Field(default=0.0, ge=0, le=1)
    """Part of the visits that see the empty caption instead."""

    @field_validator("resolution", mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 2 * MULTIPLE or value % MULTIPLE:
                raise ValueError(f"should be a multiple of {MULTIPLE} from {2 * MULTIPLE} up, not {value}")
            return value
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(f"should be a number of pixels or a list such as [192x192, 192x144], not {value!r}")
        for size in value:
            match = re.fullmatch(r"(\d+)x(\d+)", str(size))
            if not match or any(int(side) % MULTIPLE or not int(side) for side in match.groups()):
                raise ValueError(f"{size!r} should be WIDTHxHEIGHT in multiples of {MULTIPLE}")
        return tuple(value)


class Adapter(Section):
    rank: int = Field(default=16, ge=1, le=1024)
    """Rank of the update of each layer."""
    alpha: float | None = Field(default=None, gt=0)
    """Scale of the update is alpha / rank; none: 1. The saved file has it folded into its weights."""
    targets: Literal["attention", "all", "every"] = "all"
    """Which linear layers of the blocks: the attention's, all but the modulation, or every one."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the saved file; training keeps float32."""


class Flow(Section):
    sigmas: Literal["logit-normal", "uniform"] = "logit-normal"
    """How noise levels are drawn for training."""
    mean: float = 0.0
    """Mean of the logit-normal; above 0 favours noisy levels."""
    std: float = Field(default=1.0, gt=0)
    """Spread of the logit-normal."""
    shift: float | Literal["resolution"] = "resolution"
    """sigma → shift·sigma / (1 + (shift - 1)·sigma); "resolution": the scheduler's, by picture size."""
    guidance: float = Field(default=1.0, ge=0)
    """Distilled guidance fed while training; only at 1 is the distilled model's target the flow itself."""

    @field_validator("shift", mode="before")
    @classmethod
    def _shift(cls, value: Any) -> Any:
        number = not isinstance(value, bool) and isinstance(value, int | float) and value > 0
        if value != "resolution" and not number:
            raise ValueError(f'should be a number above 0 or "resolution", not {value!r}')
        return value


class Optimizer(Section):
    name: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit keeps its state in 8 bits (bitsandbytes)."""
    rate: float = Field(default=1e-4, gt=0, le=1)
    """Learning rate after the warm-up."""
    warmup: int = Field(default=0, ge=0)
    """Steps over which the rate rises from zero."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What the rate does after the warm-up: stay, or fall to zero at the last step."""
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    steps: int = Field(default=2000, ge=1)
    """Optimizer steps."""
    batch: int = Field(default=1, ge=1)
    """Pictures that go through the model together; all of one size."""
    accumulate: int = Field(default=1, ge=1)
    """Batches to a step."""

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        if self.warmup >= self.steps:
            raise ValueError(f"warmup ({self.warmup}) should be shorter than steps ({self.steps})")
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
    """Checkpoints kept; older ones are removed."""


class FitRecipe(Section):
    model: Model = Model()
    """The frozen base."""
    data: Data
    """The pictures."""
    adapter: Adapter = Adapter()
    """What is trained."""
    flow: Flow = Flow()
    """The objective."""
    optimizer: Optimizer = Optimizer()
    """How it is trained."""
    run: RunOptions = RunOptions()
    """Where, and how often what."""

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def read(path: Path, overrides: list[str] | None = None) -> FitRecipe:
    """The recipe at `path` with `section.key=value` laid over it; raises TrainingError with every problem."""
    problems: list[str] = []
    values = _load(path)
    run = values.setdefault("run", {})
    if isinstance(run, dict):
        run.setdefault("folder", f"runs/{path.stem}")
    for override in overrides or []:
        problems += _override(values, override)
    try:
        recipe = FitRecipe.model_validate(values)
    except ValidationError as error:
        problems += [_sentence(details) for details in error.errors()]
    if problems:
        raise TrainingError(f"{path}: " + "; ".join(problems) + ".")
    return recipe


def differences(first: FitRecipe, second: FitRecipe) -> list[str]:
    """One phrase for each key in which two recipes differ."""
    return [
        f"{section}.{key} is {value!r} there and {other!r} here"
        for section, there in first.model_dump(mode="json").items()
        for key, value in there.items()
        if (other := second.model_dump(mode="json")[section][key]) != value
    ]


def _load(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be read ({error.strerror}); give a recipe such as those in training/recipes."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise TrainingError(f"{path}: should hold the sections {', '.join(FitRecipe.model_fields)}.")
    return values


def _override(values: dict[str, Any], override: str) -> list[str]:
    """Lay `section.key=value` over `values`; what is wrong with it, if anything."""
    path, equals, text = override.partition("=")
    section, dot, key = path.partition(".")
    if not equals or not dot:
        return [f"{override!r} should read section.key=value"]
    if not isinstance(values.setdefault(section, {}), dict):
        return []  # the section itself is wrong, and the validation says so
    try:
        values[section][key] = yaml.safe_load(text)
    except yaml.YAMLError:
        return [f"{path}: {text!r} is no YAML value"]
    return []


def _sentence(details: Any) -> str:
    location = [str(part) for part in details["loc"]]
    path = ".".join(location)
    if details["type"] == "extra_forbidden":
        known = _keys(location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        return f"{path}: no such key ({hint})"
    if details["type"] == "missing":
        return f"{path}: is missing"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
    given = "" if details["type"] == "value_error" else f", not {details['input']!r}"
    return f"{path}: {message}{given}"


def _keys(location: list[str]) -> list[str]:
    fields = FitRecipe.model_fields
    for part in location:
        fields = fields[part].annotation.model_fields  # type: ignore[union-attr]
    return list(fields)
