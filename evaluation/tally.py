"""From votes to win rates: which sessions count, what they chose, and how far that can be trusted: ab.json."""

import dataclasses
import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable

from evaluation.intervals import (
    binomial_p,
    holm,
    paired_p,
    proportion,
)
from evaluation.intervals import (
    share as share_of_prompts,
)
from evaluation.study import PRIMARY, QUESTIONS, Comparison, Study
from evaluation.votes import Vote
from impressionism.errors import UserError
from impressionism.records import FEW_PROMPTS, Arm, Estimate, Preference, Question, StudyResult

DECISIVE = ("left", "right")


# ---- Which votes count


def sessions_of(votes: Iterable[Vote]) -> dict[str, list[Vote]]:
    sessions: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        sessions[vote.session].append(vote)
    return sessions


def broken_rule(session: list[Vote], caught: list[bool], study: Study) -> str | None:
    """The rule that the session broke, in words, or none. caught: whether each of its rater's catch trials, of all
    sessions, was right."""
    rules = study.rules
    if statistics.median(vote.milliseconds for vote in session) < rules.median_milliseconds:
        return f"median answer under {rules.median_milliseconds:g} ms"
    has_catches = any(duel.against is None for duel in study.duels)
    if has_catches and not any(vote.kind == "catch" for vote in session):
        return "no catch trial answered"
    if caught and sum(caught) / len(caught) < rules.catch_accuracy:
        return f"under {rules.catch_accuracy:.0%} of catch trials right"
    return None


def first_answers(votes: Iterable[Vote]) -> list[Vote]:
    """Of each rater to each question about each pair, the first one."""
    first: dict[tuple[str, str, str], Vote] = {}
    for vote in votes:
        if vote.kind == "main":
            first.setdefault((vote.rater, vote.duel, vote.question), vote)
    return list(first.values())


def counting(study: Study, votes: list[Vote]) -> tuple[list[Vote], Counter[str]]:
    """The votes of the sessions that count, and how many sessions broke which rule."""
    sessions = sessions_of(votes)
    caught: dict[str, list[bool]] = defaultdict(list)
    for vote in votes:
        if vote.kind == "catch":
            caught[vote.rater].append(vote.winner == "painting")
    broken = {name: broken_rule(session, caught[session[0].rater], study) for name, session in sessions.items()}
    return [vote for vote in votes if not broken[vote.session]], Counter(rule for rule in broken.values() if rule)


def towards_plan(study: Study, votes: list[Vote]) -> int:
    """Counting votes on the style question against the styled base: what the plan counts."""
    primary = {duel.id for duel in study.duels if duel.against == PRIMARY}
    kept, _ = counting(study, votes)
    return sum(vote.question == "style" and vote.duel in primary for vote in first_answers(kept))


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
    decisive = [vote.answer for vote in main if vote.answer in DECISIVE]
    lefts = decisive.count("left")
    caught = [vote.winner == "painting" for vote in votes if vote.kind == "catch"]
    return StudyResult(
        run=study.run,
        study_sha256=study.sha256,
        strength=study.strength,
        synthetic=made_up > 0,
        planned=study.planned,
        votes=counted,
        prompts=len({duel.prompt for duel in duels_of(study, main).values()}),
        raters=len({vote.rater for vote in main}),
        sessions=len(sessions_of(main)),
        excluded=dict(excluded),
        preferences=preferences(study, main, tested=counted >= study.planned),
        left=share(lefts, len(decisive)),
        left_p=binomial_p(lefts, len(decisive)),
        consistency=consistency(kept),
        catch=share(sum(caught), len(caught)),
        milliseconds=statistics.median(vote.milliseconds for vote in main) if main else 0.0,
    )


def duels_of(study: Study, votes: Iterable[Vote]) -> dict[str, Comparison]:
    known = {duel.id: duel for duel in study.duels}
    return {vote.duel: known[vote.duel] for vote in votes}


def preferences(study: Study, main: list[Vote], *, tested: bool) -> list[Preference]:
    """A row for each opponent and question, over all genres and in each; p only where the plan allows a test."""
    known = duels_of(study, main)
    groups: dict[tuple[str | None, Arm, Question], list[Vote]] = defaultdict(list)
    for vote in main:
        duel = known[vote.duel]
        for genre in (None, duel.genre):
            groups[genre, duel.against or PRIMARY, vote.question].append(vote)
    genres = [None, *dict.fromkeys(duel.genre for duel in study.duels)]
    keys = [key for key in itertools.product(genres, (PRIMARY, "base"), QUESTIONS) if key in groups]
    rows = [preference(groups[key], known, *key) for key in keys]
    return corrected(rows) if tested else [dataclasses.replace(row, p=None) for row in rows]


def preference(
    asked: list[Vote], known: dict[str, Comparison], genre: str | None, against: Arm, question: Question
) -> Preference:
    """One row, with its p uncorrected."""
    count = Counter(vote.winner for vote in asked)
    wins = wins_by_prompt(asked, known)
    return Preference(
        against=against,
        question=question,
        genre=genre,
        adapter=count["adapter"],
        base=count[against],
        tie=count["tie"],
        neither=count["neither"],
        win_rate=rate(wins),
        decisive=rate(wins_by_prompt([vote for vote in asked if vote.answer in DECISIVE], known)),
        p=paired_p({prompt: [win - 0.5 for win in row] for prompt, row in wins.items()}),
    )


def wins_by_prompt(votes: Iterable[Vote], known: dict[str, Comparison]) -> dict[str, list[float]]:
    """1 for the adapter, 0 for the base, 0.5 for a tie or for neither."""
    wins: dict[str, list[float]] = defaultdict(list)
    for vote in votes:
        wins[known[vote.duel].prompt].append(0.5 if vote.answer not in DECISIVE else float(vote.winner == "adapter"))
    return wins


def rate(wins: dict[str, list[float]]) -> Estimate | None:
    return share_of_prompts(wins) if len(wins) > 1 else None


def corrected(rows: list[Preference]) -> list[Preference]:
    """Holm's correction over the questions to one opponent, and apart from these over its questions and genres."""
    result = []
    for _, family in itertools.groupby(sorted(rows, key=family_of), family_of):
        members = list(family)
        ps = holm([1.0 if row.p is None else row.p for row in members])
        result += [dataclasses.replace(row, p=p) for row, p in zip(members, ps, strict=True)]
    return result


def family_of(row: Preference) -> tuple[bool, bool]:
    return row.genre is not None, row.against != PRIMARY


def share(part: int, whole: int) -> Estimate | None:
    return proportion(part, whole) if whole else None


def consistency(votes: list[Vote]) -> Estimate | None:
    """How often a repeated question was answered for the same picture as before."""
    first = {(vote.session, vote.duel, vote.question): vote.winner for vote in votes if vote.kind == "main"}
    alike = [
        first[key] == vote.winner
        for vote in votes
        if vote.kind == "repeat" and (key := (vote.session, vote.duel, vote.question)) in first
    ]
    return share(sum(alike), len(alike))


# ---- In words


def table(comparison: StudyResult) -> str:
    """The headline for a terminal."""
    c = comparison
    lines = [
        f"{c.votes} of {c.planned} planned votes on {c.prompts} prompts by {c.raters} raters in {c.sessions} sessions"
        + (" — SYNTHETIC, no person voted" if c.synthetic else ""),
        *(f"left out: {count} sessions with {rule}" for rule, count in c.excluded.items()),
        *([f"exploratory: fewer than {FEW_PROMPTS} prompts"] if c.prompts < FEW_PROMPTS else []),
        *([] if c.votes >= c.planned else ["no p before the plan is met"]),
        *(row_line(row) for row in c.preferences if row.genre is None),
        f"left picture chosen: {percent(c.left)} (p {c.left_p:.3g}); repeats alike: {percent(c.consistency)}; "
        f"catch trials right: {percent(c.catch)}",
    ]
    return "\n".join(lines)


def row_line(row: Preference) -> str:
    tested = "" if row.p is None else f", p {row.p:.3g}"
    return (
        f"{row.question} against {row.against}: {percent(row.win_rate)} for the adapter{tested} "
        f"({row.adapter} adapter, {row.base} base, {row.tie} tie, {row.neither} neither)"
    )


def percent(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate.value:.0%} [{estimate.low:.0%}, {estimate.high:.0%}]"
