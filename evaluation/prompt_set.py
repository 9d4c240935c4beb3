"""Prompt sets: what is asked of base and adapter, from which noise; YAML files in evaluation/prompts, versioned."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any, Self

import yaml

from impressionism.errors import UserError
from impressionism.records import GenerationParams, Record

PROMPTS = Path(__file__).parent / "prompts"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt(Record):
    id: str
    """Short, for file names and tables."""
    genre: str
    text: str
    """Content only: the style is the adapter's business, or that of PromptSet.styled."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptSet(Record):
    name: str
    version: int
    seeds: list[int]
    styled: str
    """How the style is asked for in words, with {text} for the prompt."""
    strengths: list[float]
    """Strengths of the adapter, beside the gallery's own."""
    axis_seeds: int
    """From how many of the seeds these other strengths are painted."""
    prompts: list[Prompt]
    steps: int | None = None
    width: int | None = None
    height: int | None = None

    @classmethod
    def read(cls, file: Path) -> Self:
        try:
            prompts = cls.from_dict(yaml.safe_load(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(f"There is no prompt set {file}.") from None
        except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{file} is no prompt set: {' '.join(str(error).split())}") from error
        if wrong := prompts.problems():
            raise UserError(f"{file}: {'; '.join(wrong)}.")
        return prompts

    def problems(self) -> list[str]:
        ids = [prompt.id for prompt in self.prompts]
        return [
            *(f"two prompts are called {id}" for id in sorted({id for id in ids if ids.count(id) > 1})),
            *(["styled must have {text} in it"] if "{text}" not in self.styled else []),
            *(["an interval needs at least two prompts"] if len(ids) < 2 else []),
            *(["it has no seeds"] if not self.seeds else []),
            *(["strengths must be above 0, which is the base"] if min(self.strengths, default=1) <= 0 else []),
        ]

    def first(self, count: int | None) -> list[Prompt]:
        """So many prompts of each genre, or all."""
        genres = itertools.groupby(sorted(self.prompts, key=lambda prompt: prompt.genre), lambda prompt: prompt.genre)
        chosen = {prompt.id for _, prompts in genres for prompt in list(prompts)[:count]}
        return [prompt for prompt in self.prompts if prompt.id in chosen]

    def sampling(self, usual: GenerationParams, seed: int) -> GenerationParams:
        """As suits the model, where the set does not say otherwise."""
        own: dict[str, Any] = {"steps": self.steps, "width": self.width, "height": self.height}
        return dataclasses.replace(usual, seed=seed, **{name: value for name, value in own.items() if value})
