"""The typed records that travel between stages as files; their limits and their meaning stand on the fields.

They are frozen dataclasses. What comes from a file, a picture or a visitor goes through `from_json` or `from_dict`,
where pydantic checks types and limits; what our own code makes is checked before it paints, by `paint.check`.
"""

import dataclasses
import functools
import json
import reprlib
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from annotated_types import Ge, Le, MaxLen, MultipleOf
from pydantic import ConfigDict, GetCoreSchemaHandler, Strict, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from impressionism.errors import UserError

# ---- What may be asked for, by every command, page and file: the fields' types

Prompt = Annotated[str, MaxLen(2000)]
Seed = Annotated[int, Strict(), Ge(0), Le(2**31 - 1)]
Steps = Annotated[int, Strict(), Ge(1), Le(100)]
Guidance = Annotated[float, Strict(), Ge(0), Le(20)]
Side = Annotated[int, Strict(), Ge(64), Le(4096), MultipleOf(16)]
Strength = Annotated[float, Strict(), Ge(-1), Le(2)]
BlockStrength = Annotated[float, Strict(), Ge(0), Le(2)]
Change = Annotated[float, Strict(), Ge(0), Le(1)]

NUMBERS: dict[str, Any] = {
    "seed": Seed, "steps": Steps, "guidance": Guidance, "strength": Strength, "blocks": BlockStrength, "change": Change,
}  # fmt: skip


def limits(field: Any) -> tuple[int, int]:
    """(least, most) of such a type."""
    marks: Any = field.__metadata__
    return next(m.ge for m in marks if hasattr(m, "ge")), next(m.le for m in marks if hasattr(m, "le"))


LIMITS = {"prompt": (1, Prompt.__metadata__[0].max_length)} | {name: limits(field) for name, field in NUMBERS.items()}


def within(value: Any, low: float, high: float, kind: type = float) -> bool:
    """A bool is an int in Python; NaN is within nothing."""
    kinds = (int,) if kind is int else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high


def outside(name: str, value: Any, said: str = "") -> list[str]:
    """The sentence that a number is out of its limits; nothing where it is within. said: what to call it."""
    (low, high), kind = LIMITS[name], typing.get_args(NUMBERS[name])[0]
    if within(value, low, high, kind):
        return []
    whole = "a whole number" if kind is int else "a number"
    return [f"{said or name} must be {whole} from {low:,} to {high:,}, not {reprlib.repr(value)}"]


# ---- Records


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A frozen record that is its own JSON; unknown keys are refused, so that a misspelt one cannot hide."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True)

    def replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(keep_whole_numbers, handler(source))

    @classmethod
    def from_json(cls, text: str) -> Self:
        try:
            return cls.from_dict(json.loads(text))
        except RecursionError:
            raise ValueError("its JSON is nested too deeply") from None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Raises ValueError with everything that is wrong; whoever reads a file adds its name."""
        try:
            return adapter(cls).validate_python(values)
        except ValidationError as error:
            raise ValueError("; ".join(map(problem, error.errors()))) from None


def keep_whole_numbers(values: Any, validate: Callable) -> Any:
    """A fraction that a file writes as 1 stays 1, so that the record's JSON, and its SHA-256, are the file's."""
    record = validate(values)
    for name, value in values.items() if isinstance(values, dict) else ():
        if type(value) is int and type(getattr(record, name)) is float:
            object.__setattr__(record, name, value)
    return record


adapter = functools.cache(TypeAdapter)  # of a record's class


def problem(error: Any) -> str:
    """One of pydantic's findings in plain words."""
    name, given = ".".join(map(str, error["loc"])), error["input"]
    if error["type"] == "unexpected_keyword_argument":
        return f"there is no {name}"
    if error["type"].startswith("missing"):
        return f"{name} is missing"
    field = str(error["loc"][-1]) if error["loc"] else ""
    sentence = outside(field, given, name) if field in NUMBERS else []
    message = f"{error['msg'][0].lower()}{error['msg'][1:]}"
    return sentence[0] if sentence else f"{name or 'it'} is {reprlib.repr(given)}: {message}"


def parsed(file: Path, parse: Callable[[str], Any]) -> Any:
    """A file's text as a record; UserError for one that is damaged."""
    try:
        return parse(file.read_text(encoding="utf-8"))
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{file} cannot be read ({reason}); write it again.") from error


def parsed_lines(file: Path, parse: Callable[[str], Any]) -> list[Any]:
    """The same of a file with a record a line."""
    return parsed(file, lambda text: [parse(line) for line in text.splitlines()])


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationParams(Record):
    """All that decides the base model's picture."""

    prompt: Prompt
    """What to paint, in English."""
    seed: Seed = 0
    """Seed of the initial noise, 0 to 2**31 - 1; the noise is drawn on the CPU, so every device starts alike."""
    steps: Steps = 20
    """Denoising steps."""
    guidance: Guidance = 3.5
    """The distilled guidance that FLUX.1-dev takes as an input; not classifier-free guidance."""
    width: Side = 1024
    """Pixels, a multiple of 16."""
    height: Side = 1024
    """Pixels, a multiple of 16."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockStrengths(Record):
    """What multiplies the adapter's strength in each group of the transformer's blocks."""

    two_stream: BlockStrength = 1.0
    """The blocks in which text and picture have weights of their own: 19 in FLUX.1."""
    early_single: BlockStrength = 1.0
    """The first 10 of FLUX.1's 38 single-stream blocks, and the same share of another model's."""
    late_single: BlockStrength = 1.0
    """The other single-stream blocks, which hold most of the style."""


EARLY_SINGLE = 10 / 38
"""Share of the single-stream blocks that hold content rather than style: 10 of FLUX.1's 38 (SplitFlux, arXiv
2511.15258). A model with fewer blocks is divided in the same proportion."""


def early_single_blocks(single_blocks: int) -> int:
    """How many of a model's single-stream blocks count as early ones: 10 of FLUX.1's 38."""
    return round(EARLY_SINGLE * single_blocks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance(Record):
    """Which weights painted, and in what precision."""

    base: str
    """Hub id or folder name of the base model."""
    base_revision: str | None = None
    """Commit of the base model on the Hub, or a digest of the bundled weights."""
    adapter: str | None = None
    """Hub id or folder name of the adapter; none: the base model alone."""
    adapter_revision: str | None = None
    """Commit of the adapter on the Hub, or a digest of its file."""
    accelerator: str | None = None
    """Hub id or folder name of the few-step adapter that painted along, in fast mode."""
    accelerator_revision: str | None = None
    """Commit of the accelerator on the Hub, or a digest of its file."""
    quantize: str = "none"
    """Precision of the base transformer's weights: none, fp8, int8, nf4, int4 or int2."""
    dtype: str = "float32"
    """Precision of the computation."""
    device: str = "cpu"
    """Kind of device, and the card's name where there is one."""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    """Versions of the libraries that decide a pixel."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageMetadata(Record):
    """Everything needed to paint one picture again; a PNG carries it as text."""

    sampling: GenerationParams
    strength: Strength
    """Weight of the adapter's update: 0 is the base model exactly, 1 the adapter as trained."""
    provenance: Provenance
    blocks: BlockStrengths | None = None
    """Where the adapter is stronger or weaker than `strength` says; none: everywhere the same."""
    fast: bool = False
    """Whether the accelerator painted along."""
    source: str | None = None
    """For a repaint: SHA-256 of the source picture's pixels as they entered the model."""
    change: Change | None = None
    """For a repaint: how much of the source is noise at the start, 0 (none) to 1 (all)."""
    upscale: bool = False
    """Whether the source is a picture of half this size, painted over in tiles where it is too large for the model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Record):
    """What a training run was and came to: run.json."""

    name: str
    base: str
    base_revision: str | None
    dataset: str
    dataset_revision: str | None
    steps: int
    seconds: float
    peak_memory: int
    """Bytes that training took: allocated ones on a GPU; on a CPU, resident ones beyond the program's own."""
    trained_parameters: int
    validation_loss: float | None
    """Flow-matching loss on the held-out pictures with fixed noise, adapter on; none: nothing was held out."""
    base_validation_loss: float | None
    """The same with the adapter off."""
    best_step: int | None = None
    """The step with the lowest held-out loss; its checkpoint is kept."""
    saved: str = "last"
    """Which state became the adapter: the last, the best by held-out loss, or one chosen with `best --save`."""
    trigger: str | None = None
    """The phrase that most captions began with."""
    versions: dict[str, str]


# ---- What evaluation found: gallery/gallery.jsonl and scores.json

FEW_PROMPTS = 20
"""With fewer a result is called exploratory: an interval says little."""

Arm = Literal["base", "base-styled", "adapter", "adapter-styled"]
"""Who painted, and whether the prompt was plain or worded in the style; base is the adapter's strength 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exhibit(Record):
    """One picture of the gallery: a line of gallery.jsonl."""

    file: str
    """Its PNG, relative to the gallery's folder."""
    prompt: str
    """The prompt's id in the prompt set; pictures of one prompt and seed are a comparison."""
    genre: str
    """landscape, portrait, urban, still life, light and weather, or out of style."""
    arm: Arm
    recipe: ImageMetadata
    """With the prompt as it was painted."""

    @property
    def noise(self) -> tuple[str, int]:
        """The prompt's id and the seed: what pictures that can be compared share."""
        return self.prompt, self.recipe.sampling.seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair(Record):
    """The same noise painted by the base model and with the adapter, for the showcase: a line of showcase.jsonl."""

    base: str
    """File of the base model's picture, relative to the showcase's folder."""
    adapted: str
    """File of the adapted picture."""
    genre: str
    chosen: Literal["best", "worst", "between"]
    """By rule, from the gain: the best and the worst of a genre, or one in the middle."""
    gain: float
    """Index of the adapted picture less that of the base model's."""
    recipe: ImageMetadata
    """How the adapted picture was painted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate(Record):
    """A number with its 95% interval."""

    value: float
    low: float
    high: float
    n: int
    """Prompts behind it: pictures of one prompt are averaged first, and the bootstrap draws prompts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric(Record):
    """One row of the scores: what was asked of base, adapter and real paintings, and what came out."""

    name: str
    """A statistic of impressionism.pictorial, or a learned measure such as clip-score."""
    question: Literal["style", "content", "preference", "diversity", "memorisation"]
    unit: str = ""
    better: Literal["higher", "lower", "closer"] = "higher"
    """Which way is good: up, down, or towards the real paintings."""
    base: Estimate | None = None
    adapter: Estimate | None = None
    real: Estimate | None = None
    """The same for held-out real paintings."""
    difference: Estimate | None = None
    """Adapter less base, paired by prompt and seed."""
    gap_closed: Estimate | None = None
    """(adapter - base) / (real - base)."""
    p: float | None = None
    """p value of the paired difference, after Holm's correction over the rows of its question."""
    note: str = ""
    """Exploratory, or why it was not computed."""
    weights: str | None = None
    """Hub id and revision of what a learned measure looks with, and its licence."""


QUESTIONS = {
    "style": "Is it more Impressionist?",
    "content": "Is the scene kept?",
    "preference": "Would people prefer it?",
    "diversity": "Do its pictures differ?",
    "memorisation": "Does it copy?",
}
FEATURES = {  # a measure's name is FEATURE-KIND: what it looks with
    "pictorial": "pictorial statistics",
    "palette": "colours",
    "structure": "lightness without brush strokes",
    "layout": "colours at 16 × 16",
    "clip": "CLIP",
    "dinov2": "DINOv2",
    "pickscore": "PickScore",
    "network": "a small ImageNet network",
    "judge": "a vision-language model",
}
KINDS = {  # and what it measures
    "kid": "Kernel distance to the real pictures (MMD², as KID)",
    "probe": "Taken for a real picture by a classifier",
    "kept": "Composition kept",
    "score": "Likeness to the prompt (100 × cosine)",
    "yes": "Shows what the prompt says",
    "preferred": "People's preference, as a model of it predicts (100 × cosine with the prompt)",
    "vendi": "Distinct pictures for a prompt (Vendi)",
    "nearest": "Likeness to the nearest training picture, mirrored and cropped ones included",
    "copies": "Share closer to a training picture than 99% of held-out pictures",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtStrength(Record):
    """One point of the strength curve."""

    strength: float
    index: Estimate
    """Impressionist index, 0 to 1."""
    content: Estimate
    """How much of the base model's composition is kept, 0 to 1."""
    diversity: Estimate | None = None
    """Effective number of distinct pictures, relative to the base model's."""
    score: Estimate | None = None
    """The main measure (Scores.measure); none in old files: the index."""
    gap_closed: Estimate | None = None
    """(this - base) / (real - base) in the main measure."""
    copies: Estimate | None = None
    """Share of pictures closer to a training picture than 99% of held-out paintings; none: no training pictures."""
    problems: list[str] = dataclasses.field(default_factory=list)
    """What speaks against this strength: the scene lost, a distance to real paintings that grew, copies …"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenreScores(Record):
    """One genre of the prompt set, at the strength of the gallery."""

    base: Estimate
    """Impressionist index."""
    adapter: Estimate
    content: Estimate
    """How much of the base model's composition is kept, 0 to 1."""
    gap_closed: Estimate | None = None
    """Against real paintings of the genre, where there are enough, and else against all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure(Record):
    """A picture that somebody should look at."""

    file: str
    """Relative to the gallery's folder."""
    what: str
    """scene lost, less Impressionist, like a training picture, or not what the prompt says."""
    value: float
    """The number that says so."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores(Record):
    """All that evaluation found out about a run: scores.json, which the dashboard and the card read."""

    version: int = 1
    run: str
    provenance: Provenance
    prompt_set: str
    """Name and version."""
    prompt_set_sha256: str
    prompts: int
    seeds: int
    real: str
    """What stood for real paintings: a dataset with its revision, or the miniature's painted scenes."""
    metrics: list[Metric]
    arms: dict[str, Estimate] = dataclasses.field(default_factory=dict)
    """Impressionist index of each of the four arms."""
    curve: list[AtStrength]
    strength: float
    """Recommended, from the curve."""
    strength_low: float
    """The least measured strength that gains at least half of what the recommended one gains, without a problem."""
    strength_high: float
    """The largest measured strength up to which there is no problem."""
    measure: Literal["index", "probe"] = "index"
    """What the gap is measured with: the Impressionist index; or, where the pictures that stand for real paintings are
    none that the index knows (the miniature's drawn scenes), a classifier of them against the base's pictures."""
    good: bool = False
    """Whether the adapter is worth publishing: it surely closes a visible part of the gap, and nothing contradicts."""
    verdict: str = ""
    """The result in a sentence or two, the reason first."""
    failed: list[str] = dataclasses.field(default_factory=list)
    """Why it is not good; empty if it is."""
    at_recommended: AtStrength | None = None
    """The recommended strength, each prompt measured at the strength that the other prompts chose: choosing the best of
    several strengths on the prompts that judge it would flatter it."""
    words: Estimate | None = None
    """The gap that the base model closes without the adapter, by a prompt that asks for the style in words."""
    genres: dict[str, GenreScores] = dataclasses.field(default_factory=dict)
    failures: list[Failure] = dataclasses.field(default_factory=list)
    """The worst pictures for each thing that can fail."""
    best: list[str]
    """Files of the gallery with the largest gain, one a genre at least."""
    worst: list[str]
    seconds: float
    machine: str
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def recommended(self) -> AtStrength:
        """The recommended strength, measured on prompts that did not choose it; in old files the curve's point."""
        return self.at_recommended or next(point for point in self.curve if point.strength == self.strength)


# ---- What people preferred: ab.json

Question = Literal["style", "description", "preference"]
"""Which looks more Impressionist, which follows the description better, which is preferred."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preference(Record):
    """How often people chose the adapter's picture, asked one question beside one arm of the base model."""

    against: Arm
    """base-styled: the base model asked for the style in words, the comparison that counts; or base."""
    question: Question
    genre: str | None = None
    """None: all genres."""
    adapter: int
    """Votes for the adapter."""
    base: int
    tie: int
    neither: int
    """Votes that both pictures are bad."""
    win_rate: Estimate | None
    """How often the adapter won; 0.5 is a draw; ties and "neither" are halves; none: fewer than two prompts."""
    decisive: Estimate | None
    """The same of the votes that chose a picture."""
    p: float | None
    """That people choose by chance, after Holm's correction over the family's rows; none before the plan is met."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyResult(Record):
    """The blind comparison by people: ab.json."""

    version: int = 1
    run: str
    study_sha256: str
    """Digest of study.json, which was written before the first vote."""
    strength: float
    """Strength of the adapter in the pairs."""
    synthetic: bool
    """Made by a rehearsal or a test, by nobody's eyes; never published."""
    planned: int
    """Votes on the style question against the styled base, fixed beforehand; with them the study ends."""
    votes: int
    """How many of these count."""
    prompts: int
    """Prompts voted on; fewer than FEW_PROMPTS are exploratory."""
    raters: int
    sessions: int
    excluded: dict[str, int]
    """Sessions left out, by the rule that they broke."""
    preferences: list[Preference]
    left: Estimate | None
    """Share of decisive votes for the left picture; sides are balanced, so 0.5 is unbiased; n counts votes."""
    left_p: float
    consistency: Estimate | None
    """Share of repeated questions, sides changed, that were answered alike; n counts repeats."""
    catch: Estimate | None
    """Share of catch trials in which the real painting was chosen over the photograph; n counts trials."""
    milliseconds: float
    """Median time to an answer."""
