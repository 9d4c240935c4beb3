"""Votes: one JSON line each, appended and never changed.

A file belongs to one process. Each vote is checked against the study when it is read; that a file was edited, only the
dataset's history tells.
"""

import dataclasses
import datetime
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from filelock import FileLock

from evaluation.study import Kind, Study
from impressionism.errors import UserError
from impressionism.records import Question, Record

Answer = Literal["left", "right", "tie", "neither"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vote(Record):
    """One answer to one question. No address, no name, no text that anybody wrote."""

    version: int = 2
    id: str
    time: str
    """UTC, to the second."""
    study_sha256: str
    rater: str
    """A random number that the visitor's browser keeps."""
    session: str
    duel: str
    """The pair's id in the study."""
    kind: Kind
    question: Question
    left: str
    """Arm of the left picture; on a narrow window it is the upper one."""
    right: str
    answer: Answer
    milliseconds: int
    """From the moment the pictures could be seen."""
    width: int
    """Of the window, in CSS pixels."""
    density: float
    """Device pixels in a CSS pixel."""
    synthetic: bool

    @property
    def winner(self) -> str:
        """The arm that was chosen, or tie or neither."""
        return {"left": self.left, "right": self.right}.get(self.answer, self.answer)


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
    arms = {duel.id: sorted(side.arm for side in duel.sides) for duel in study.duels}
    catches = {duel.id for duel in study.duels if not duel.against}
    *lines, _torn = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        where = f"{file.name}, line {number},"
        try:
            vote = Vote.from_json(line.decode())
        except (ValueError, TypeError) as error:
            raise UserError(f"{where} is no vote: {error}") from error
        if vote.study_sha256 != study.sha256:
            raise UserError(f"{where} belongs to another study; keep each study in a folder.")
        if vote.duel not in arms:
            raise UserError(f"{where} is about a pair that the study does not have: {vote.duel}.")
        if sorted((vote.left, vote.right)) != arms[vote.duel] or (vote.kind == "catch") != (vote.duel in catches):
            raise UserError(f"{where} names sides or a kind that the pair {vote.duel} does not have.")
        yield vote
