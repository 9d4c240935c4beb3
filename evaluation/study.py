"""A blind comparison, fixed before its first vote: pairs, questions, rules and number of votes; and who sees what.

The study is votes/study.json. What a visitor sees, and on which side, is drawn for each session.
"""

import dataclasses
import functools
import hashlib
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from evaluation.exhibits import own_strength, read_gallery
from impressionism.errors import UserError
from impressionism.files import pictures_in
from impressionism.hub import sha256_of
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
    against: Arm | None = None
    """The adapter's opponent; none: a catch trial."""
    prompt: str = ""
    """The prompt's id."""
    genre: str = ""
    text: str = ""
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
    pairs: list[Comparison]
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
        "Win rate of the adapter with ties and 'neither' as halves, votes of one prompt averaged first; 95% interval "
        "by 10,000 bootstrap draws of prompts; p by flipping prompts' signs, Holm-corrected over the questions, and "
        "apart from these over questions and genres. A rater's first answer to a question about a pair counts. "
        f"Sessions that break a rule are left out whole. Fewer than {FEW_PROMPTS} prompts are exploratory."
    )

    @property
    def parts(self) -> list[tuple[Arm | None, int]]:
        """A session's pairs by the adapter's opponent, and its catch trials; fewer where there are not so many."""
        return [(PRIMARY, self.primary), ("base", self.secondary), (None, self.catch)]

    @property
    def has_catch_trials(self) -> bool:
        return any(pair.against is None for pair in self.pairs)

    @property
    def length(self) -> int:
        """Trials of a first session."""
        there = Counter(pair.against for pair in self.pairs)
        return self.repeats + sum(min(count, there[against]) for against, count in self.parts)

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()


# ---- What is compared


def plan(
    run: Path,
    *,
    strength: float | None = None,
    planned: int | None = None,
    paintings: Path | None = None,
    photographs: Path | None = None,
) -> Study:
    """The study of a run's gallery, at the strength that scores.json recommends where nothing else is said; with catch
    trials where both folders are given."""
    exhibits = read_gallery(run)
    painted = {one.recipe.strength for one in exhibits if one.arm == "adapter"}
    if strength is None:
        scores = run / "scores.json"
        advised = parsed(scores, Scores.from_json).strength if scores.exists() else None
        strength = advised if advised in painted else own_strength(exhibits)
    if strength not in painted:
        raise UserError(f"{run}'s gallery has no adapter at strength {strength:g}; paint it, or set --strength.")
    pairs = [pair for against in (PRIMARY, "base") for pair in pairs_against(run, exhibits, strength, against)]
    if paintings and photographs:
        beside = zip(sides_of("painting", paintings), sides_of("photograph", photographs), strict=False)
        pairs += [Comparison(id=f"catch-{place}", sides=list(sides)) for place, sides in enumerate(beside)]
    return Study(
        run=run.resolve().name, strength=strength, questions=dict(QUESTIONS), pairs=pairs, planned=planned or VOTES
    )


def pairs_against(run: Path, exhibits: list[Exhibit], strength: float, against: Arm) -> list[Comparison]:
    """The adapter, with the plain prompt, beside an arm of the base from the same noise."""
    gallery = run / "gallery"
    bases = {one.noise: one for one in exhibits if one.arm == against}
    return [
        Comparison(
            id=f"{one.prompt}-{one.recipe.sampling.seed}-{against}", against=against, prompt=one.prompt,
            genre=one.genre, text=one.recipe.sampling.prompt,
            sides=[Side(arm=each.arm, file=each.file, sha256=digest(gallery / each.file))
                   for each in (one, bases[one.noise])],
        )
        for one in exhibits
        if one.arm == "adapter" and one.recipe.strength == strength and one.noise in bases
    ]  # fmt: skip


def sides_of(arm: str, folder: Path) -> list[Side]:
    """Every picture of a folder, for catch trials."""
    found = pictures_in(folder)[0] if folder.is_dir() else []
    if not found:
        raise UserError(f"{folder} has no pictures for catch trials.")
    return [Side(arm=arm, file=file.relative_to(folder).as_posix(), sha256=digest(file)) for file in found]


def digest(file: Path) -> str:
    try:
        return sha256_of(file).hex()
    except FileNotFoundError:
        raise UserError(f"The picture {file} is missing; put it back, or paint the gallery again.") from None


# ---- Who sees what


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One pair as a visitor sees it."""

    pair: Comparison
    kind: Kind
    swapped: bool
    """Whether the adapter, or the painting, is on the right."""

    @property
    def left(self) -> Side:
        return self.pair.sides[self.swapped]

    @property
    def right(self) -> Side:
        return self.pair.sides[not self.swapped]

    @property
    def questions(self) -> list[Question]:
        """A catch trial asks for the style alone: nothing else is common to its pictures."""
        return list(QUESTIONS)[:1] if self.kind == "catch" else list(QUESTIONS)


def schedule(study: Study, session: str, *, seen: set[str], votes: Mapping[str, int]) -> list[Trial]:
    """A visitor's session, drawn from its name: pairs with the fewest votes first, one of a prompt as far as there are
    others. `seen`: ids of the pairs that the visitor has seen; `votes`: how many each pair has."""
    drawn, shown = random.Random(f"{study.sha256} {session}"), Counter[str]()
    main: list[Trial] = []
    catches: list[Trial] = []
    for against, count in study.parts:
        unseen = [pair for pair in study.pairs if pair.against == against and (not against or pair.id not in seen)]
        chosen = choose(unseen, count, shown, votes, drawn)
        blocks = -(-len(chosen) // BLOCK)
        sides = [swapped for _ in range(blocks) for swapped in drawn.sample([False, True] * (BLOCK // 2), BLOCK)]
        trials = [Trial(pair=pair, kind="main" if against else "catch", swapped=swapped)
                  for pair, swapped in zip(chosen, sides, strict=False)]  # fmt: skip
        (main if against else catches).extend(trials)
    if not main:
        return []
    drawn.shuffle(main)
    again = [dataclasses.replace(trial, kind="repeat", swapped=not trial.swapped) for trial in main[: study.repeats]]
    for catch in catches:
        main.insert(drawn.randrange(1, len(main) + 1), catch)
    return main + again


def choose(
    pairs: list[Comparison], count: int, shown: Counter[str], votes: Mapping[str, int], drawn: random.Random
) -> list[Comparison]:
    """So many of them, of the prompts that were shown least, and then of the pairs that have the fewest votes."""
    result: list[Comparison] = []
    left = drawn.sample(pairs, len(pairs))
    while left and len(result) < count:
        pair = min(left, key=lambda pair: (shown[pair.prompt], votes.get(pair.id, 0)))
        left.remove(pair)
        shown[pair.prompt] += 1
        result.append(pair)
    return result
