"""Votes: one JSON line each, appended and never changed, each line with the hash of the one before it.

A file belongs to one process and begins with the study's hash. A vote that was altered, removed or slipped in breaks
the chain; that the last ones are missing, only the dataset's history tells.
"""

import dataclasses
import datetime
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from filelock import FileLock

from evaluation.study import Kind
from impressionism.errors import UserError
from impressionism.records import Question, Record

Answer = Literal["left", "right", "tie", "neither"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vote(Record):
    """One answer to one question. No address, no name, no text that anybody wrote."""

    version: int = 1
    id: str
    time: str
    """UTC, to the second."""
    study_sha256: str
    rater: str
    """A keyed hash of a random number that the visitor's browser keeps."""
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
    previous: str = ""
    """SHA-256 of the line before, or of the study."""

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
    """On the disk when this returns, whatever happens next; several processes may write one file."""
    with FileLock(file.with_suffix(".lock")), file.open("a+b") as stream:
        stream.seek(0)
        whole, end, _torn = stream.read().rpartition(b"\n")
        stream.truncate(len(whole + end))  # a line whose writer was killed; nobody was told that it counts
        last = hashlib.sha256(whole.rpartition(b"\n")[2]).hexdigest() if whole else vote.study_sha256
        vote = dataclasses.replace(vote, previous=last)
        stream.write(vote.to_json().encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return vote


def read(folder: Path, study_sha256: str) -> list[Vote]:
    """The votes of all processes, or a sentence about the first line that is not as it was written."""
    return [vote for file in sorted(folder.glob("*.jsonl")) for vote in read_file(file, study_sha256)]


def read_file(file: Path, study_sha256: str) -> Iterator[Vote]:
    previous = study_sha256
    *lines, _torn = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            vote = Vote.from_json(line.decode())
        except (ValueError, TypeError) as error:
            raise UserError(f"{file.name}, line {number}, is no vote: {error}") from error
        if vote.study_sha256 != study_sha256:
            raise UserError(f"{file.name}, line {number}, belongs to another study; keep each study in a folder.")
        if vote.previous != previous:
            raise UserError(f"{file.name} was changed at line {number} or before it; restore it from its history.")
        previous = hashlib.sha256(line).hexdigest()
        yield vote
