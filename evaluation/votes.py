"""Votes, one JSON line each, appended and never changed; and what they say: ab.json.

A file of votes belongs to one process. Each vote is checked against the study when it is read; only the dataset's
history tells whether a file was edited.
"""

import dataclasses
import datetime
import itertools
import os
import statistics
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from filelock import FileLock

from evaluation.numbers import binomial_p, holm, paired_p, proportion, share
from evaluation.study import PRIMARY, QUESTIONS, Comparison, Kind, Study
from impressionism.errors import UserError
from impressionism.estimates import percent
from impressionism.records import FEW_PROMPTS, Preference, Question, Record, StudyResult

Answer = Literal["left", "right", "tie", "neither"]
DECISIVE = ("left", "right")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vote(Record):
    """One answer to one question. No address, no name, no text that anybody wrote."""

    version: int = 4
    id: str
    time: str
    """UTC, to the second."""
    study_sha256: str
    rater: str
    """A random number that the visitor's browser keeps."""
    session: str
    pair: str
    """The pair's id in the study."""
    kind: Kind
    question: Question
    left: str
    """Arm of the left picture; on a narrow window it is the upper one."""
    right: str
    answer: Answer
    milliseconds: int
    """From the moment the pictures could be seen."""
    synthetic: bool

    @property
    def winner(self) -> str:
        """The arm that was chosen, or tie or neither."""
        return {"left": self.left, "right": self.right}.get(self.answer, self.answer)


# ---- The files


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_file(folder: Path) -> Path:
    """A name that no other process uses, on this machine or another; names sort by time."""
    return folder / f"{now().replace(':', '')}-{uuid.uuid4().hex[:8]}.jsonl"


def append(file: Path, vote: Vote) -> Vote:
    """On the disk when this returns; several processes may write one file."""
    with FileLock(file.with_suffix(".lock")), file.open("a+b") as stream:
        stream.seek(0)
        whole, end, _torn = stream.read().rpartition(b"\n")
        stream.truncate(len(whole + end))  # a line whose writer was killed; nobody was told that it counts
        stream.write(vote.to_json().encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return vote


def read(folder: Path, study: Study) -> list[Vote]:
    """The votes of all processes, or a sentence about the first line that cannot be a vote of this study."""
    return [vote for file in sorted(folder.glob("*.jsonl")) for vote in read_file(file, study)]


def read_file(file: Path, study: Study) -> Iterator[Vote]:
    pairs = {pair.id: pair for pair in study.pairs}
    *lines, _torn = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        where = f"{file.name}, line {number},"
        try:
            vote = Vote.from_json(line.decode())
        except (ValueError, TypeError) as error:
            raise UserError(f"{where} is no vote: {error}") from error
        if vote.study_sha256 != study.sha256:
            raise UserError(f"{where} belongs to another study; keep each study in a folder.")
        if vote.pair not in pairs:
            raise UserError(f"{where} is about a pair that the study does not have: {vote.pair}.")
        pair = pairs[vote.pair]
        sides = sorted(side.arm for side in pair.sides)
        if sorted((vote.left, vote.right)) != sides or (vote.kind == "catch") != (pair.against is None):
            raise UserError(f"{where} names sides or a kind that the pair {vote.pair} does not have.")
        yield vote


# ---- Which votes count


def counting(study: Study, votes: list[Vote]) -> tuple[list[Vote], Counter[str]]:
    """The votes of the sessions that count, and how many sessions broke which rule."""
    sessions: dict[str, list[Vote]] = defaultdict(list)
    caught: dict[str, list[bool]] = defaultdict(list)  # of each rater, whether catch trials were right
    for vote in votes:
        sessions[vote.session].append(vote)
        if vote.kind == "catch":
            caught[vote.rater].append(vote.winner == "painting")
    broken = {name: broken_rule(session, caught[session[0].rater], study) for name, session in sessions.items()}
    return [vote for vote in votes if not broken[vote.session]], Counter(rule for rule in broken.values() if rule)


def broken_rule(session: list[Vote], caught: list[bool], study: Study) -> str | None:
    """The rule that the session broke, in words. caught: of its rater's catch trials, in all sessions."""
    rules = study.rules
    if statistics.median(vote.milliseconds for vote in session) < rules.median_milliseconds:
        return f"median answer under {rules.median_milliseconds:g} ms"
    if study.has_catch_trials and not any(vote.kind == "catch" for vote in session):
        return "no catch trial answered"
    if caught and sum(caught) / len(caught) < rules.catch_accuracy:
        return f"under {rules.catch_accuracy:.0%} of catch trials right"
    return None


def first_answers(votes: Iterable[Vote]) -> list[Vote]:
    """The first answer of each rater to each question about each pair."""
    first: dict[tuple[str, str, str], Vote] = {}
    for vote in votes:
        if vote.kind == "main":
            first.setdefault((vote.rater, vote.pair, vote.question), vote)
    return list(first.values())


def towards_plan(study: Study, votes: list[Vote]) -> int:
    """Counting votes on the style question against the styled base: what the plan counts."""
    primary = {pair.id for pair in study.pairs if pair.against == PRIMARY}
    return sum(vote.question == "style" and vote.pair in primary for vote in first_answers(counting(study, votes)[0]))


# ---- What they say


def tally(study: Study, votes: list[Vote]) -> StudyResult:
    """All that the votes tell, by the study's own rules."""
    if not votes:
        raise UserError(f"{study.run} has no votes yet: open the page with `python -m evaluation ab`.")
    made_up = sum(vote.synthetic for vote in votes)
    if 0 < made_up < len(votes):
        raise UserError(f"{made_up} synthetic votes lie among {len(votes) - made_up} real ones; take their files out.")
    kept, excluded = counting(study, votes)
    main, counted = first_answers(kept), towards_plan(study, votes)
    first = {(vote.session, vote.pair, vote.question): vote.winner for vote in kept if vote.kind == "main"}
    repeats = [(vote.winner, first.get((vote.session, vote.pair, vote.question)))
               for vote in kept if vote.kind == "repeat"]  # fmt: skip
    lefts = [vote.answer == "left" for vote in main if vote.answer in DECISIVE]
    pairs = {pair.id: pair for pair in study.pairs}
    return StudyResult(
        run=study.run,
        study_sha256=study.sha256,
        strength=study.strength,
        synthetic=made_up > 0,
        planned=study.planned,
        votes=counted,
        prompts=len({pairs[vote.pair].prompt for vote in main}),
        raters=len({vote.rater for vote in main}),
        sessions=len({vote.session for vote in main}),
        excluded=dict(excluded),
        preferences=preferences(pairs, main, tested=counted >= study.planned),
        left=proportion(lefts),
        left_p=binomial_p(lefts),
        consistency=proportion([again == before for again, before in repeats if before]),
        catch=proportion([vote.winner == "painting" for vote in votes if vote.kind == "catch"]),
        milliseconds=statistics.median(vote.milliseconds for vote in main) if main else 0.0,
    )


def preferences(pairs: dict[str, Comparison], main: list[Vote], *, tested: bool) -> list[Preference]:
    """A row for each opponent and question, over all genres and in each. p only where the plan allows a test, with
    Holm's correction over the questions to one opponent, and apart from these over its questions and genres."""
    genres = [None, *dict.fromkeys(pair.genre for pair in pairs.values() if pair.against)]
    rows = []
    for genre, against, question in itertools.product(genres, (PRIMARY, "base"), QUESTIONS):
        asked = [(pairs[vote.pair].prompt, vote) for vote in main
                 if (pairs[vote.pair].against, vote.question) == (against, question)
                 and genre in (None, pairs[vote.pair].genre)]  # fmt: skip
        if asked:
            count = Counter(vote.winner for _, vote in asked)
            wins, decisive = wins_by_prompt(asked), wins_by_prompt([one for one in asked if one[1].answer in DECISIVE])
            rows.append(
                Preference(
                    against=against,
                    question=question,
                    genre=genre,
                    adapter=count["adapter"],
                    base=count[against],
                    tie=count["tie"],
                    neither=count["neither"],
                    win_rate=share(wins) if len(wins) > 1 else None,
                    decisive=share(decisive) if len(decisive) > 1 else None,
                    p=paired_p({prompt: [win - 0.5 for win in row] for prompt, row in wins.items()}),
                )
            )
    corrected = holm([row.p for row in rows], [(row.genre is None, row.against) for row in rows])
    return [dataclasses.replace(row, p=p if tested else None) for row, p in zip(rows, corrected, strict=True)]


def wins_by_prompt(asked: Iterable[tuple[str, Vote]]) -> dict[str, list[float]]:
    """1 for the adapter, 0 for the base, 0.5 for a tie or for neither."""
    wins: dict[str, list[float]] = defaultdict(list)
    for prompt, vote in asked:
        wins[prompt].append(0.5 if vote.answer not in DECISIVE else float(vote.winner == "adapter"))
    return wins


def table(result: StudyResult) -> str:
    """The main results for a terminal."""
    lines = [
        f"{result.votes} of {result.planned} planned votes on {result.prompts} prompts by {result.raters} raters in "
        f"{result.sessions} sessions" + (" — SYNTHETIC, no person voted" if result.synthetic else ""),
        *(f"left out: {count} sessions with {rule}" for rule, count in result.excluded.items()),
        *([f"exploratory: fewer than {FEW_PROMPTS} prompts"] if result.prompts < FEW_PROMPTS else []),
        *([] if result.votes >= result.planned else ["no p before the plan is met"]),
    ]
    for row in result.preferences:
        if row.genre is None:
            tested = "" if row.p is None else f", p {row.p:.3g}"
            lines.append(
                f"{row.question} against {row.against}: {percent(row.win_rate)} for the adapter{tested} "
                f"({row.adapter} adapter, {row.base} base, {row.tie} tie, {row.neither} neither)"
            )
    lines.append(
        f"left picture chosen: {percent(result.left)} (p {result.left_p:.3g}); repeats alike: "
        f"{percent(result.consistency)}; catch trials right: {percent(result.catch)}"
    )
    return "\n".join(lines)
