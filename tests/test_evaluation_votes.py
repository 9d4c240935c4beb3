"""Votes are kept as they were given, sessions are left out by rule alone, and win rates come out as they went in."""

import dataclasses
import json
import multiprocessing
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation import votes
from evaluation.study import PRIMARY, QUESTIONS, Comparison, Rules, Side, Study, schedule
from evaluation.votes import Vote
from impressionism.errors import UserError
from impressionism.records import StudyResult


def study_of(prompts: int = 24, planned: int = 10, catch: int = 10) -> Study:
    def side(arm: str) -> Side:
        return Side(arm=arm, file=f"{arm}.png", sha256="")

    pairs = [
        Comparison(id=f"{prompt}-{seed}-{against}", against=against, prompt=str(prompt), text="a boat",
             genre=("landscape", "urban")[prompt % 2], sides=[side("adapter"), side(against)])
        for against in (PRIMARY, "base") for prompt in range(prompts) for seed in (1, 2)
    ]  # fmt: skip
    pairs += [
        Comparison(id=f"catch-{place}", against=None, prompt="", genre="", text="",
             sides=[side("painting"), side("photograph")])
        for place in range(catch)
    ]  # fmt: skip
    return Study(run="test", strength=1.0, questions=dict(QUESTIONS), pairs=pairs, planned=planned)


def vote_of(study: Study, **changed: Any) -> Vote:
    usual: dict[str, Any] = {
        "id": "1", "time": votes.now(), "study_sha256": study.sha256, "rater": "monet", "session": "morning",
        "pair": f"0-1-{PRIMARY}", "kind": "main", "question": "style", "left": "adapter", "right": PRIMARY,
        "answer": "left", "milliseconds": 2000, "synthetic": True,
    }  # fmt: skip
    return Vote(**{**usual, **changed})


Choice = Callable[[Any, str], str]
"""What a made-up visitor answers to a trial and question: an arm, tie, neither, left or right."""


def visit(study: Study, rater: int, choose: Choice, milliseconds: int = 2000) -> list[Vote]:
    """A whole session of a made-up visitor."""
    session = f"session {rater}"
    result = []
    for trial in schedule(study, session, seen=set(), votes={}):
        for question in trial.questions:
            chosen = choose(trial, question)
            answer = {trial.left.arm: "left", trial.right.arm: "right"}.get(chosen, chosen)
            result.append(
                vote_of(study, rater=str(rater), session=session, pair=trial.pair.id, kind=trial.kind,
                        question=question, left=trial.left.arm, right=trial.right.arm, answer=answer,
                        milliseconds=milliseconds)
            )  # fmt: skip
    return result


def always_right(trial: Any, question: str) -> str:
    return trial.pair.sides[0].arm


# ---- The file


def test_a_vote_is_read_as_it_was_written_and_names_nobody(tmp_path: Path):
    study = study_of()
    file = votes.new_file(tmp_path)
    written = [votes.append(file, vote_of(study, id=str(number))) for number in range(3)]
    assert votes.read(tmp_path, study) == written
    fields = set(json.loads(file.read_text().splitlines()[0]))
    assert not fields & {"ip", "address", "name", "user", "username", "agent"}
    assert votes.new_file(tmp_path) != votes.new_file(tmp_path)


@pytest.mark.parametrize(
    ("forged", "said"),
    [
        ({"pair": "the-moon"}, "a pair that the study does not have: the-moon"),
        ({"left": "adapter", "right": "painting"}, "names sides or a kind"),
        ({"kind": "catch"}, "names sides or a kind"),
        ({"left": "adapter", "right": "adapter"}, "names sides or a kind"),
    ],
)
def test_votes_that_cannot_be_the_studys_are_refused_in_a_sentence(tmp_path: Path, forged: dict, said: str):
    study, file = study_of(), tmp_path / "votes.jsonl"
    votes.append(file, vote_of(study))
    votes.append(file, vote_of(study, id="forged", **forged))
    with pytest.raises(UserError, match=rf"votes\.jsonl, line 2, .*{said}"):
        votes.read(tmp_path, study)


def test_votes_of_another_study_are_refused(tmp_path: Path):
    votes.append(tmp_path / "votes.jsonl", vote_of(study_of()))
    with pytest.raises(UserError, match="another study"):
        votes.read(tmp_path, study_of(prompts=3))


def test_a_line_that_was_being_written_when_its_process_ended_is_no_vote(tmp_path: Path):
    study, file = study_of(), tmp_path / "votes.jsonl"
    votes.append(file, vote_of(study))
    with file.open("a") as stream:
        stream.write('{"id": "2", "answ')
    assert len(votes.read(tmp_path, study)) == 1
    votes.append(file, vote_of(study, id="3"))
    assert [vote.id for vote in votes.read(tmp_path, study)] == ["1", "3"]


def write_some(file: Path, name: str) -> None:
    for number in range(15):
        votes.append(file, vote_of(study_of(), id=f"{name} {number}"))


def test_two_processes_may_write_one_file(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_some, args=(tmp_path / "votes.jsonl", name)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    ids = [vote.id for vote in votes.read(tmp_path, study_of())]
    assert sorted(ids) == sorted(f"{name} {number}" for name in ("a", "b") for number in range(15))


# ---- Who sees what


def test_a_session_has_its_parts_and_sides_come_up_equally_often():
    study = study_of()
    trials = schedule(study, "morning", seen=set(), votes={})
    main = [trial for trial in trials if trial.kind == "main"]
    assert len(main) == study.primary + study.secondary
    assert len({trial.pair.prompt for trial in main}) == len(main)
    for against, count in ((PRIMARY, study.primary), ("base", study.secondary)):
        swapped = [trial.swapped for trial in main if trial.pair.against == against]
        assert len(swapped) == count
        assert sum(swapped) == count / 2
    assert sum(trial.kind == "catch" for trial in trials) == study.catch
    [repeat] = [trial for trial in trials if trial.kind == "repeat"]
    [first] = [trial for trial in main if trial.pair == repeat.pair]
    assert repeat.left == first.right
    assert trials.index(repeat) - trials.index(first) > 10


def test_a_session_is_drawn_anew_and_can_be_drawn_again():
    study = study_of()

    def sides(session: str) -> list[tuple[str, bool]]:
        return [(trial.pair.id, trial.swapped) for trial in schedule(study, session, seen=set(), votes={})]

    assert sides("morning") == sides("morning") != sides("evening")


def test_pairs_with_few_votes_come_first_and_seen_ones_never_again():
    study = study_of(prompts=2)
    ids = [pair.id for pair in study.pairs if pair.against]
    trials = schedule(study, "morning", seen=set(ids[:3]), votes={})
    assert {trial.pair.id for trial in trials if trial.kind == "main"} == set(ids[3:])
    assert schedule(study, "morning", seen=set(ids), votes={}) == []

    study = study_of(prompts=30)
    busy = {pair.id: 5 for pair in study.pairs if pair.id.endswith(f"-1-{PRIMARY}")}
    trials = schedule(study, "morning", seen=set(), votes=busy)
    assert not {trial.pair.id for trial in trials} & set(busy)


# ---- What counts, and what comes out


def test_win_rates_are_what_was_voted():
    study = study_of()
    comparison = votes.tally(study, [vote for rater in range(3) for vote in visit(study, rater, always_right)])
    rows = [row for row in comparison.preferences if row.genre is None]
    assert [(row.against, row.question) for row in rows] == [
        (against, question) for against in (PRIMARY, "base") for question in QUESTIONS
    ]
    assert all(row.win_rate and row.win_rate.value == 1 for row in rows)
    assert rows[0].win_rate and 0.75 < rows[0].win_rate.low < 0.9, "Clopper and Pearson's, of the prompts"
    assert rows[0].adapter == comparison.votes == 3 * study.primary
    assert rows[0].p is not None
    assert rows[0].p < 0.01
    assert (comparison.raters, comparison.sessions, comparison.excluded) == (3, 3, {})
    assert comparison.catch
    assert comparison.catch.value == 1
    assert comparison.consistency
    assert comparison.consistency.value == 1
    assert comparison.synthetic
    assert StudyResult.from_json(comparison.to_json()) == comparison


def test_ties_are_halves_and_swapping_adapter_and_base_mirrors_the_rate():
    study, dice = study_of(), random.Random(1)
    opinions: dict[tuple[str, str], str] = {}

    def opinion(trial: Any, question: str) -> str:
        if trial.kind == "catch":
            return "painting"
        asked = (trial.pair.id, question)
        return opinions.setdefault(asked, dice.choice(["adapter", "adapter", "other", "tie", "neither"]))

    def loyal(trial: Any, question: str) -> str:
        said = opinion(trial, question)
        return trial.pair.sides[1].arm if said == "other" else said

    def mirrored(trial: Any, question: str) -> str:
        said = loyal(trial, question)
        arms = [side.arm for side in trial.pair.sides]
        return arms[1 - arms.index(said)] if said in arms and trial.kind != "catch" else said

    one, other = (votes.tally(study, visit(study, 1, choose)).preferences[0] for choose in (loyal, mirrored))
    assert one.adapter + one.base + one.tie + one.neither == study.primary
    assert (one.adapter, one.base, one.tie) == (other.base, other.adapter, other.tie)
    assert one.win_rate and other.win_rate
    assert one.win_rate.value == (one.adapter + (one.tie + one.neither) / 2) / study.primary
    assert one.win_rate.value == pytest.approx(1 - other.win_rate.value)
    assert one.decisive
    assert one.decisive.value == one.adapter / (one.adapter + one.base)
    assert one.p == pytest.approx(other.p)


def test_a_visitor_who_always_presses_left_shows_as_bias_and_says_nothing():
    study = study_of(catch=0)
    comparison = votes.tally(study, [vote for rater in range(4) for vote in visit(study, rater, lambda *_: "left")])
    assert comparison.left
    assert comparison.left.value == 1
    assert comparison.left_p < 1e-9
    assert comparison.consistency
    assert comparison.consistency.value == 0
    rate = comparison.preferences[0].win_rate
    assert rate
    assert rate.value == pytest.approx(0.5, abs=0.12)


def test_sessions_that_break_a_rule_are_left_out_and_counted():
    study = study_of()
    good = visit(study, 1, always_right)
    hasty = visit(study, 2, always_right, milliseconds=300)
    blind = visit(study, 3, lambda trial, _: trial.pair.sides[1].arm)  # takes photographs for paintings
    comparison = votes.tally(study, good + hasty + blind)
    assert comparison.excluded == {"median answer under 700 ms": 1, "under 75% of catch trials right": 1}
    assert (comparison.sessions, comparison.votes) == (1, study.primary)
    assert comparison.preferences[0].win_rate == votes.tally(study, good).preferences[0].win_rate

    silent = [vote for vote in visit(study, 4, always_right) if vote.kind != "catch"]
    assert votes.tally(study, good + silent).excluded == {"no catch trial answered": 1}

    lenient = dataclasses.replace(study, rules=Rules(median_milliseconds=0, catch_accuracy=0))
    everyone = [dataclasses.replace(vote, study_sha256=lenient.sha256) for vote in good + hasty + blind]
    assert votes.tally(lenient, everyone).sessions == 3


def test_a_raters_first_answer_counts_once():
    study = study_of()
    again = [vote_of(study, session=session, answer=answer) for session, answer in (("1", "left"), ("2", "right"))]
    assert votes.first_answers(again) == again[:1]


def test_there_is_no_p_before_the_plan_is_met():
    votes_ = visit(study_of(planned=16), 1, always_right)
    assert all(row.p is not None for row in votes.tally(study_of(planned=16), votes_).preferences)
    early = votes.tally(study_of(planned=17), visit(study_of(planned=17), 1, always_right))
    assert all(row.p is None for row in early.preferences)
    assert "no p before the plan is met" in votes.table(early)


def test_synthetic_votes_never_mix_with_real_ones():
    study = study_of()
    made_up = visit(study, 1, always_right)
    real = [dataclasses.replace(vote, synthetic=False) for vote in visit(study, 2, always_right)]
    with pytest.raises(UserError, match="67 synthetic votes lie among 67 real ones"):
        votes.tally(study, made_up + real)
    assert not votes.tally(study, real).synthetic
    assert "SYNTHETIC" in votes.table(votes.tally(study, made_up))


def test_the_report_without_votes_says_how_to_get_them():
    with pytest.raises(UserError, match="no votes yet"):
        votes.tally(study_of(), [])
