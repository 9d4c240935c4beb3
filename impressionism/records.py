"""The typed records that travel between stages as files."""

import dataclasses
import json
from typing import Any, Self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A frozen record that is its own JSON; unknown keys are refused, so that a misspelt one cannot hide."""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"{cls.__name__} has no {', '.join(unknown)}; it has: {', '.join(sorted(known))}.")
        return cls(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling(Record):
    """All that decides the base model's picture."""

    prompt: str
    """What to paint, in English."""
    seed: int = 0
    """Seed of the initial noise, 0 to 2**31 - 1; the noise is drawn on the CPU, so every device starts alike."""
    steps: int = 20
    """Denoising steps."""
    guidance: float = 3.5
    """The distilled guidance that FLUX.1-dev takes as an input; not classifier-free guidance."""
    width: int = 1024
    """Pixels, a multiple of 16."""
    height: int = 1024
    """Pixels, a multiple of 16."""


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
    quantize: str = "none"
    """Precision of the base transformer's weights: none, int8, nf4, int4 or int2."""
    dtype: str = "float32"
    """Precision of the computation."""
    device: str = "cpu"
    """Kind of device, and the card's name where there is one."""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    """Versions of the libraries that decide a pixel."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(Record):
    """Everything needed to paint one picture again; a PNG carries it as text."""

    sampling: Sampling
    strength: float
    """Weight of the adapter's update: 0 is the base model exactly, 1 the adapter as trained."""
    provenance: Provenance
    source: str | None = None
    """For a repaint: SHA-256 of the source picture's pixels as they entered the model."""
    change: float | None = None
    """For a repaint: how far the source may change, 0 (not at all) to 1 (entirely)."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        values = dict(values)
        values["sampling"] = Sampling.from_dict(values["sampling"])
        values["provenance"] = Provenance.from_dict(values["provenance"])
        return super().from_dict(values)


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
    """Which state became the adapter: last or best."""
    versions: dict[str, str]
