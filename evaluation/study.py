"""A blind comparison, fixed before its first vote: pairs, questions, rules and number of votes; and who sees what.

The study is votes/study.json. What a visitor sees, and on which side, is drawn for each session.
"""

import dataclasses
import functools
import hashlib
import random
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from evaluation.exhibits import Noise, noise_of, own_strength, read_gallery
from impressionism.errors import UserError
from impressionism.records import FEW_PROMPTS, Arm, Exhibit, Question, Record, Scores, parsed

Kind = Literal["main", "catch", "repeat"]

QUESTIONS: dict[Question, str] = {  # in the order in which they are asked
    "style": "Which looks more like an Impressionist painting?",
    "description": "Which follows the description better?",
    "preference": "Which do you prefer?",
}
PRIMARY: Arm = "base-styled"
VOTES = 200  # planned where nothing else is said
BLOCK = 4  # in so many trials, each side comes up twice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules(Record):
    """Which sessions count."""

    median_milliseconds: float = 700
    """A session whose median answer came sooner is left out."""
    catch_accuracy: float = 0.75
    """All sessions of a rater with a smaller share of catch trials right are left out; so are sessions without an
    answered catch trial, where the study has them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side(Record):
    """One picture of a pair."""

    arm: str
    """An arm of the gallery; in a catch trial painting or photograph."""
    file: str
    """Within the gallery or, in a catch trial, within the folder of paintings or photographs."""
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison(Record):
    """Two pictures of the same prompt and noise; in a catch trial, of nothing in common."""

    id: str
    against: Arm | None
    """The adapter's opponent; none: a catch trial."""
    prompt: str
    """The prompt's id."""
    genre: str
    text: str
    """The prompt without words of style, to judge the pictures by."""
    sides: list[Side]
    """What should win first: the adapter, or the painting."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study(Record):
    """All that is decided before the first vote."""

    version: int = 1
    run: str
    strength: float
    questions: dict[Question, str]
    duels: list[Comparison]
    planned: int
    """Votes that count on the style question against the styled base; with them the page closes."""
    primary: int = 16
    """Pairs against the styled base in a session."""
    secondary: int = 4
    """Pairs against the base with the plain prompt in a session."""
    catch: int = 4
    """Catch trials in a session; a rater's are pooled."""
    repeats: int = 1
    """Pairs of a session shown once more with sides changed."""
    rules: Rules = dataclasses.field(default_factory=Rules)
    analysis: str = (
        "Win rate of the adapter with ties and 'neither' as halves, votes of one prompt averaged first; 95 % interval "
        "by 10,000 bootstrap draws of prompts; p by flipping prompts' signs, Holm-corrected over the questions, and "
        "apart from these over questions and genres. A rater's first answer to a question about a pair counts. "
        f"Sessions that break a rule are left out whole. Fewer than {FEW_PROMPTS} prompts are exploratory."
    )

    @property
    def parts(self) -> list[tuple[Arm | None, int]]:
        """A session's pairs by the adapter's opponent, and its catch trials; fewer where there are not so many."""
        return [(PRIMARY, self.primary), ("base", self.secondary), (None, self.catch)]

    @property
    def length(self) -> int:
        """Trials of a first session."""
        there = Counter(duel.against for duel in self.duels)
        return self.repeats + sum(min(count, there[against]) for against, count in self.parts)

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def read(cls, file: Path) -> Self:
        try:
            return cls.from_json(file.read_text(encoding="utf-8"))
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{file} is damaged ({error}); votes without their study say nothing.") from error


# ---- What is compared


def plan(
    run: Path, *, strength: float | None, votes: int | None, paintings: Path | None, photographs: Path | None
) -> Study:
    """The study of a run's gallery; catch trials where both folders are given."""
    exhibits = read_gallery(run)
    strength = recommended(run, exhibits) if strength is None else strength
    pairs = duels(run / "gallery", exhibits, strength)
    if not any(duel.against == PRIMARY for duel in pairs):
        raise UserError(f"{run}'s gallery has no adapter at strength {strength:g}; paint it, or set --strength.")
    pairs += catches(paintings, photographs) if paintings and photographs else []
    return Study(
        run=run.resolve().name, strength=strength, questions=dict(QUESTIONS), duels=pairs, planned=votes or VOTES
    )


def recommended(run: Path, exhibits: list[Exhibit]) -> float:
    """The strength that scores.json recommends, if the gallery has it; else the gallery's own."""
    file = run / "scores.json"
    if file.exists():
        advised = parsed(file, Scores.from_json).strength
        if any(one.arm == "adapter" and one.recipe.strength == advised for one in exhibits):
            return advised
    return own_strength(exhibits)


def duels(gallery: Path, exhibits: list[Exhibit], strength: float) -> list[Comparison]:
    """The adapter, with the plain prompt, beside both arms of the base."""
    by_arm: dict[str, dict[Noise, Exhibit]] = {}
    for exhibit in exhibits:
        if exhibit.arm != "adapter" or exhibit.recipe.strength == strength:
            by_arm.setdefault(exhibit.arm, {})[noise_of(exhibit)] = exhibit
    return [
        duel(gallery, adapted, by_arm[against][noise])
        for against in (PRIMARY, "base")
        for noise, adapted in by_arm.get("adapter", {}).items()
        if noise in by_arm.get(against, {})
    ]


def duel(gallery: Path, adapted: Exhibit, base: Exhibit) -> Comparison:
    sides = [Side(arm=one.arm, file=one.file, sha256=digest(gallery / one.file)) for one in (adapted, base)]
    sampling = adapted.recipe.sampling
    name = f"{adapted.prompt}-{sampling.seed}-{base.arm}"
    return Comparison(
        id=name, against=base.arm, prompt=adapted.prompt, genre=adapted.genre, text=sampling.prompt, sides=sides
    )


def catches(paintings: Path, photographs: Path) -> list[Comparison]:
    """Real paintings beside photographs, as many as the smaller folder has."""
    chosen = zip(pictures(paintings), pictures(photographs), strict=False)
    result = []
    for place, (painting, photograph) in enumerate(chosen):
        sides = [Side(arm="painting", file=painting.name, sha256=digest(painting)),
                 Side(arm="photograph", file=photograph.name, sha256=digest(photograph))]  # fmt: skip
        result.append(Comparison(id=f"catch-{place}", against=None, prompt="", genre="", text="", sides=sides))
    return result


def pictures(folder: Path) -> list[Path]:
    files = folder.iterdir() if folder.is_dir() else []
    found = sorted(file for file in files if re.fullmatch(r"\.(png|jpe?g|webp)", file.suffix.lower()))
    if not found:
        raise UserError(f"{folder} has no pictures (.png, .jpg, .webp) for catch trials.")
    return found


def digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise UserError(f"The picture {file} is missing; put it back, or paint the gallery again.") from None


# ---- Who sees what


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One pair as a visitor sees it."""

    duel: Comparison
    kind: Kind
    swapped: bool
    """Whether the adapter, or the painting, is on the right."""

    @property
    def left(self) -> Side:
        return self.duel.sides[self.swapped]

    @property
    def right(self) -> Side:
        return self.duel.sides[not self.swapped]

    @property
    def questions(self) -> list[Question]:
        """A catch trial asks for the style alone: nothing else is common to its pictures."""
        return list(QUESTIONS)[:1] if self.kind == "catch" else list(QUESTIONS)


def schedule(study: Study, session: str, *, seen: set[str], votes: Mapping[str, int]) -> list[Trial]:
    """A visitor's session: pairs with the fewest votes first, one of a prompt as far as there are others."""
    drawn, shown = random.Random(f"{study.sha256} {session}"), Counter[str]()
    *pairs, catches = [
        sided(choose(unseen(study, against, seen), count, shown, votes, drawn), "main" if against else "catch", drawn)
        for against, count in study.parts
    ]
    main = [trial for part in pairs for trial in part]
    if not main:
        return []
    drawn.shuffle(main)
    again = [dataclasses.replace(trial, kind="repeat", swapped=not trial.swapped) for trial in main[: study.repeats]]
    for catch in catches:
        main.insert(drawn.randrange(1, len(main) + 1), catch)
    return main + again


def unseen(study: Study, against: Arm | None, seen: set[str]) -> list[Comparison]:
    return [duel for duel in study.duels if duel.against == against and (duel.id not in seen or not against)]


def choose(
    duels: list[Comparison], count: int, shown: Counter[str], votes: Mapping[str, int], drawn: random.Random
) -> list[Comparison]:
    """So many of them, of the prompts that were shown least, and then of the pairs that have the fewest votes."""
    result: list[Comparison] = []
    left = drawn.sample(duels, len(duels))
    while left and len(result) < count:
        duel = min(left, key=lambda duel: (shown[duel.prompt], votes.get(duel.id, 0)))
        left.remove(duel)
        shown[duel.prompt] += 1
        result.append(duel)
    return result


def sided(duels: list[Comparison], kind: Kind, drawn: random.Random) -> list[Trial]:
    """Sides from permuted blocks, so that each comes up as often as the other."""
    swapped: list[bool] = []
    while len(swapped) < len(duels):
        swapped += drawn.sample([False, True] * (BLOCK // 2), BLOCK)
    return [Trial(duel=duel, kind=kind, swapped=side) for duel, side in zip(duels, swapped, strict=False)]
