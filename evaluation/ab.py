"""A blind comparison by people: the page where they vote, and the report.

python -m evaluation ab runs/NAME             the page; the study is fixed when it first opens
python -m evaluation ab runs/NAME --report    ab.json, from the votes so far

The study (study.py) and the votes (votes.py) are in RUN/votes, with --repo in a private dataset on the Hub as well;
the pictures stay where they are. The page gets pixels alone, re-encoded alike and inlined, so that no name or metadata
tells which model painted.
"""

import dataclasses
import functools
import html
import math
import threading
import uuid
from collections import Counter
from pathlib import Path
from typing import Any, get_args

from PIL import Image

from evaluation import votes
from evaluation.study import QUESTIONS, Side, Study, Trial, digest, plan, schedule
from impressionism.errors import UserError, readable_errors
from impressionism.files import data_url, read_picture, write_atomic
from impressionism.records import Question, parsed

PATTERNS = ["study.json", "*.jsonl"]  # what goes to the dataset
LARGEST = 1024  # pixels a side
MINUTES = 5.0  # between commits to the dataset
SECONDS = 5  # that an answer takes, about
SCRIPT, STYLE = (Path(__file__).with_suffix(suffix) for suffix in (".js", ".css"))
ANSWERS = get_args(votes.Answer)
EVENTS: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def ab(
    run: Path,
    *,
    report: bool = False,
    folder: Path | None = None,
    repo: str | None = None,
    paintings: Path | None = None,
    photographs: Path | None = None,
    strength: float | None = None,
    planned: int | None = None,
    synthetic: bool = False,
    host: str | None = None,
    port: int | None = None,
) -> None:
    """Opens the page, or writes ab.json."""
    folder = folder or run / "votes"
    if repo:
        fetch(repo, folder)
    if report:
        write_report(run, folder)
        return
    if bool(paintings) != bool(photographs):
        raise UserError("A catch trial needs both folders: --paintings and --photographs.")
    study = settled(run, folder, strength=strength, planned=planned, paintings=paintings, photographs=photographs)
    voting = VotingSession(run, folder, study, paintings, photographs, synthetic=synthetic)
    counts = ", ".join(f"{count} {name}" for name, count in Counter(p.against or "catch" for p in study.pairs).items())
    print(f"{study.planned} votes are planned. Pairs: {counts}.", flush=True)
    if not study.has_catch_trials:
        print("No catch trials: give --paintings and --photographs to a new study to have them.", flush=True)
    if repo:
        voting.lock = publish(repo, folder).lock  # nothing is committed while a vote is being written
    launch(build(voting), host, port)


def write_report(run: Path, folder: Path) -> None:
    """ab.json, whole or not at all."""
    if not (file := folder / "study.json").exists():
        raise UserError(f"There is no study {file}: open the page first, with the same RUN and --folder.")
    study = parsed(file, Study.from_json)
    result = votes.tally(study, votes.read(folder, study))
    write_atomic(run / "ab.json", result.to_json() + "\n")
    print(f"{votes.table(result)}\n{run / 'ab.json'}")


# ---- The study and its dataset


def settled(run: Path, folder: Path, **how: Any) -> Study:
    """The study as it was fixed, or a new one; what is asked for now must be what it was fixed with."""
    file = folder / "study.json"
    if not file.exists():
        write_atomic(file, plan(run, **how).to_json())
        return parsed(file, Study.from_json)
    study = parsed(file, Study.from_json)
    changed = [
        sentence
        for sentence, differs in (
            (f"strength {study.strength:g}", how.get("strength") not in (None, study.strength)),
            (f"{study.planned} votes planned", how.get("planned") not in (None, study.planned)),
            ("no catch trials", how.get("paintings") and not study.has_catch_trials),
        )
        if differs
    ]
    if changed:
        raise UserError(
            f"{file} is fixed, with {', '.join(changed)}; leave this out, or give a new study its own --folder."
        )
    return study


def fetch(repo: str, folder: Path) -> None:
    """The study and the votes that earlier processes left in the dataset, if there is one."""
    from huggingface_hub import HfApi

    with readable_errors(repo, None):
        api = HfApi()
        if api.repo_exists(repo, repo_type="dataset"):
            api.snapshot_download(repo, repo_type="dataset", local_dir=folder, allow_patterns=PATTERNS)


def publish(repo: str, folder: Path, minutes: float = MINUTES) -> Any:
    """Commits new votes to a private dataset from now on, and when the program ends."""
    from huggingface_hub import CommitScheduler

    with readable_errors(repo, None):
        return CommitScheduler(
            repo_id=repo, repo_type="dataset", folder_path=folder, every=minutes, private=True, allow_patterns=PATTERNS
        )


# ---- Visitors


@dataclasses.dataclass
class Session:
    """One visitor's way through their trials."""

    id: str
    rater: str
    trials: list[Trial]
    place: int = 0
    asked: int = 0
    """Number of the question about this trial."""
    wins: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def trial(self) -> Trial:
        return self.trials[self.place]

    @property
    def question(self) -> Question:
        return self.trial.questions[self.asked]

    @property
    def step(self) -> str:
        return f"{self.place}.{self.asked}"

    @property
    def done(self) -> bool:
        return self.place >= len(self.trials)

    def go_on(self) -> None:
        self.asked += 1
        if self.asked == len(self.trial.questions):
            self.place, self.asked = self.place + 1, 0


class VotingSession:
    """What the page needs of the study: its pictures, its votes so far, and where new ones go."""

    def __init__(
        self,
        run: Path,
        folder: Path,
        study: Study,
        paintings: Path | None,
        photographs: Path | None,
        *,
        synthetic: bool,
    ) -> None:
        self.study = study
        self.synthetic = synthetic
        self.gallery = run / "gallery"
        self.others = {"painting": paintings, "photograph": photographs}
        self.votes = votes.read(folder, study)
        self.file = votes.new_file(folder)
        self.lock: Any = threading.Lock()
        self.check()

    def check(self) -> None:
        """The pictures are still those that the study was fixed with, and rehearsals stay apart."""
        if any(vote.synthetic != self.synthetic for vote in self.votes):
            kind = "synthetic" if not self.synthetic else "real"
            raise UserError(f"{self.file.parent} has {kind} votes; give these a --folder of their own.")
        for side in (side for pair in self.study.pairs for side in pair.sides):
            if digest(self.picture(side)) != side.sha256:
                raise UserError(f"{side.file} is not as it was; give a new study a --folder of its own.")

    def picture(self, side: Side) -> Path:
        folder = self.others.get(side.arm, self.gallery)
        if folder is None:
            raise UserError("This study has catch trials: give --paintings and --photographs again.")
        return folder / side.file

    def begin(self, visitor: str, seen: set[str]) -> Session | None:
        """A visitor's trials; none when the study has all the votes that were planned."""
        if votes.towards_plan(self.study, self.votes) >= self.study.planned:
            return None
        session = uuid.uuid4().hex
        return Session(
            session, visitor, schedule(self.study, session, seen=seen, votes=Counter(v.pair for v in self.votes))
        )

    def take(self, session: Session, answer: votes.Answer, milliseconds: int) -> None:
        """Writes the vote, then goes on."""
        trial = session.trial
        vote = votes.Vote(
            id=uuid.uuid4().hex,
            time=votes.now(),
            study_sha256=self.study.sha256,
            rater=session.rater,
            session=session.id,
            pair=trial.pair.id,
            kind=trial.kind,
            question=session.question,
            left=trial.left.arm,
            right=trial.right.arm,
            answer=answer,
            milliseconds=milliseconds,
            synthetic=self.synthetic,
        )
        with self.lock:
            self.votes.append(votes.append(self.file, vote))
        if vote.kind == "main" and vote.question == "style":
            session.wins[vote.winner] += 1
        session.go_on()


# ---- What they see


@functools.lru_cache(maxsize=64)
def inline(picture: Path) -> str:
    """The pixels alone, all pictures encoded alike."""
    image = read_picture(picture, max_side=LARGEST)
    return data_url(Image.frombytes("RGB", image.size, image.tobytes()), quality=92)  # bare of EXIF and text


def welcome(study: Study) -> str:
    minutes = math.ceil(study.length * len(QUESTIONS) * SECONDS / 60)
    return f"""<div class="ballot" data-step="begin"><h1>Two pictures, one question at a time</h1>
<p>You will see {study.length} pairs and answer up to three short questions about each. It takes about {minutes}
minutes. Look at both pictures, then click or tap the one you choose, or use the keyboard:</p>
<p class="keys"><kbd>←</kbd> left &ensp; <kbd>→</kbd> right &ensp;
<kbd>↑</kbd> no difference &ensp; <kbd>↓</kbd> neither</p>
<p class="quiet">Your answers are stored, with the time each took and a random number that your browser keeps so
that you see no pair twice; your name and address are not. At the end you will see who painted what.</p>
<button class="begin" data-answer="go on">Begin</button></div>"""


def asking(session: Session) -> str:
    described = f"“{html.escape(session.trial.pair.text)}”" if session.question == "description" else ""
    return f"""<div class="ballot asking" data-step="{session.step}" role="status">
<p class="quiet">Pair {session.place + 1} of {len(session.trials)}</p>
<div class="track"><span style="width: {session.place / len(session.trials):.0%}"></span></div>
<h2>{QUESTIONS[session.question]}</h2><p class="described">{described}</p></div>"""


def showing(voting: VotingSession, trial: Trial) -> str:
    left, right = (inline(voting.picture(side)) for side in (trial.left, trial.right))
    return f"""<div class="ballot"><div class="pair">
<button data-answer="left" aria-label="the first picture"><img src="{left}" alt=""><kbd>←</kbd></button>
<button data-answer="right" aria-label="the second picture"><img src="{right}" alt=""><kbd>→</kbd></button></div>
<div class="others"><button data-answer="tie">No difference <kbd>↑</kbd></button>
<button data-answer="neither">Neither <kbd>↓</kbd></button></div></div>"""


def ending(session: Session | None) -> str:
    if session is None:
        sentence = "This study has all the votes it needs."
    elif not session.trials:
        sentence = "You have seen all pairs."
    else:
        adapter, base = session.wins["adapter"], session.wins["base"] + session.wins["base-styled"]
        sentence = (
            "Each pair was one prompt painted from the same noise: by FLUX alone, and by FLUX with an Impressionist "
            f"adapter. You found the adapter’s picture more Impressionist {adapter} times, the other {base} times."
        )
    return f'<div class="ballot" data-step="end"><h1>Thank you</h1><p>{sentence}</p></div>'


def build(voting: VotingSession) -> Any:
    """The page. Its two parts change apart, so that pictures are sent once for all questions about them."""
    import gradio as gr

    def answer(event: gr.EventData, session: Session | None, memory: Any) -> tuple[Any, ...]:
        given: dict[str, Any] = event._data
        if session is None and given.get("step") == "begin":
            memory = memory_of(memory)
            session = voting.begin(memory["visitor"], set(memory["seen"]))
        elif session is None or session.done or given.get("step") != session.step or given.get("answer") not in ANSWERS:
            return (gr.skip(),) * 4  # a step that was taken already
        else:
            memory = memory_of(memory)
            memory["seen"] = sorted({*memory["seen"], session.trial.pair.id})
            voting.take(session, given["answer"], milliseconds_of(given))
        if session is None or session.done:
            return ending(session), "", session, memory
        return asking(session), gr.skip() if session.asked else showing(voting, session.trial), session, memory

    with gr.Blocks(title="Two pictures", analytics_enabled=False) as page:
        session = gr.State()
        memory = gr.BrowserState(storage_key="impressionism-ab", secret=voting.study.sha256[:16])  # readable to all
        script = SCRIPT.read_text(encoding="utf-8")
        question = gr.HTML(welcome(voting.study), js_on_load=script, elem_id="question", apply_default_css=False)
        pictures = gr.HTML("", js_on_load=None, elem_id="pictures", apply_default_css=False)
        question.submit(answer, [session, memory], [question, pictures, session, memory], **EVENTS)
    return page


def memory_of(memory: Any) -> dict[str, Any]:
    """What the browser remembers of this visitor, or the beginning of it."""
    known = isinstance(memory, dict) and isinstance(memory.get("visitor"), str) and isinstance(memory.get("seen"), list)
    return memory if known else {"visitor": uuid.uuid4().hex, "seen": []}


def milliseconds_of(given: dict[str, Any]) -> int:
    """Whatever the browser said."""
    value = given.get("milliseconds")
    return int(value) if isinstance(value, int | float) and 0 <= value < 1e7 else 0


def launch(page: Any, host: str | None = None, port: int | None = None, **more: Any) -> str:
    """Serves the page and returns its address."""
    _, address, _ = page.launch(
        server_name=host, server_port=port, css_paths=STYLE, footer_links=[], ssr_mode=False, _frontend=False, **more
    )
    return address
