"""Captions by a vision-language model: for each picture one of all it shows, and one of its content only.

    python -m training caption RECIPE.yaml [caption.endpoint=http://127.0.0.1:8000/v1]

The model runs here, through transformers, or behind any OpenAI-compatible endpoint. `data.captions` gets a line a
picture as soon as it is done, so the command may stop at any moment; the next run asks for what is missing.
"""

import collections
import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from impressionism.errors import UserError
from impressionism.files import clean_text, read_picture
from training.captioner import Captioner, Endpoint, Local, NoCaption
from training.content import content_of, style_words
from training.examples import UsableRow, usable, written_captions
from training.recipe import TrainingConfig
from training.sources import say, skip

IN_A_ROW = 20  # failures after which it is not the pictures' fault

GENRES = {
    "landscape": "the land, the light, the weather, any water, the season and the time of day",
    "portrait": "the person's age, pose, dress and gaze, and what is behind them",
    "cityscape": "the streets and buildings, the people and vehicles in them, the weather and the time of day",
    "still life": "the objects, what they are made of, how they are arranged and what they lie on",
}
ANY_GENRE = "who or what is there, where, doing what, in which light"

PROMPT = """Describe this {kind} in two captions, each one sentence of at most {max_words} words:
full: begins with "{trigger}", says what is to be seen, and then how it is made: brushwork, palette, handling of light.
content: only what is to be seen, as if you stood there and it were no picture at all. It begins with "a", "an" or \
a name and continues the words "{trigger}". Not a word on style, medium, brushwork, palette, art or artists.
Name what matters here: {matters}. Only what you see; no guesses, no title.
"""
AS_JSON = 'Answer with a JSON object only: {"full": "…", "content": "…"}'
AS_LINES = "Answer with two lines of plain text, nothing else: one begins with FULL: and one with CONTENT:"
AGAIN = "The content must do without the words: {words}.\n"


@dataclass(frozen=True)
class CaptionRecord:
    """A line of data.captions."""

    id: str
    """The sample's."""
    name: str
    """What its source calls it."""
    full: str
    """What is to be seen, and how it is painted."""
    content: str
    """What is to be seen; the trigger is put in front when it is read. Empty where no caption did without style."""
    model: str
    """Which model wrote it; none: taken from the source's own caption."""
    genre: str | None = None


def caption(recipe: TrainingConfig) -> None:
    """The command."""
    path = recipe.data.captions
    if path is None:
        raise UserError("Say where the captions go: set data.captions, such as data.captions=captions.jsonl.")
    done = _finished(path, recipe)
    failed: collections.Counter[str] = collections.Counter()
    with _appending(path) as file:
        for record in _captions(recipe, done, failed):
            print(json.dumps(asdict(record), ensure_ascii=False), file=file, flush=True)
            done.add(record.id)
    reasons = ", ".join(f"{count} × {reason}" for reason, count in failed.most_common())
    rest = f"; {failed.total()} failed ({reasons}): run `caption` again to try them again" if failed else ""
    say(f"{path}: {len(done)} pictures have captions{rest}.")


def describe(
    picture: Image.Image, ask: Captioner, *, genre: str | None, trigger: str, max_words: int
) -> tuple[str, str]:
    """(full, content) in the model's words; asks a second time where the answer cannot be used as it is."""
    prompt = prompt_for(genre, trigger=trigger, max_words=max_words)
    captions = parse(ask(picture, prompt + AS_JSON, as_json=True))
    captions = captions or parse(ask(picture, prompt + AS_LINES, as_json=False))
    if captions is None:
        raise NoCaption("no captions in the answer")
    full, content = captions
    if words := style_words(content):
        without = AGAIN.format(words=", ".join(words))
        again = parse(ask(picture, prompt + without + AS_JSON, as_json=True))
        content = again[1] if again else content
    if style_words(content):
        content = content_of(content)
    return shorten(full, max_words), _continuing(shorten(content, max_words))


def prompt_for(genre: str | None, *, trigger: str, max_words: int) -> str:
    """The genre decides what the model is asked to look for."""
    words = re.sub(r"[_-]", " ", (genre or "").lower())
    kind = next((name for name in GENRES if name in words), None)
    return PROMPT.format(
        kind=kind or "picture", matters=GENRES.get(kind or "", ANY_GENRE), trigger=trigger, max_words=max_words
    )


def parse(answer: str) -> tuple[str, str] | None:
    """(full, content) in an answer, whatever stands around them; none where they are not both there."""
    answer = answer.rpartition("</think>")[2].partition("<think>")[0]  # what it thought first, ended or cut
    for start in re.finditer(r"\{", answer):
        try:
            values, _ = json.JSONDecoder(strict=False).raw_decode(answer, start.start())
        except (json.JSONDecodeError, RecursionError):
            continue
        if captions := _both({key.lower(): value for key, value in values.items()}):
            return captions
    lines = re.findall(r"^\W*(full|content)\W*:(.+)$", answer, re.IGNORECASE | re.MULTILINE)
    return _both({key.lower(): value.strip(" \t\r*_\"'") for key, value in lines})


def _both(values: dict) -> tuple[str, str] | None:
    texts = (values.get(key) for key in ("full", "content"))
    full, content = (" ".join(clean_text(text).split()) if isinstance(text, str) else "" for text in texts)
    return (full, content) if full and content else None


def shorten(text: str, max_words: int) -> str:
    """At most so many words, up to the end of a clause where there is one in the second half."""
    words = text.split()
    if len(words) <= max_words:
        return text
    ends = [end for end in range(max_words // 2, max_words + 1) if words[end - 1][-1] in ",;.!?"]
    return " ".join(words[: ends[-1] if ends else max_words]).rstrip(",; ")


def _continuing(content: str) -> str:
    """Fit to follow the trigger: "A boat." → "a boat"."""
    content = content.rstrip(" .,;")
    return re.sub(r"^(?:An?|The|Two|Three|Some|Several)\b", lambda first: first.group().lower(), content)


# ---- Which pictures, how many at once, and where the lines go


def _captions(recipe: TrainingConfig, done: set[str], failed: collections.Counter[str]) -> Iterator[CaptionRecord]:
    """A record for each picture that is not done, in the order they are finished; failures are counted by reason."""
    missing = [row for row in usable(recipe.data) if row.id not in done]
    write, at_once = _writer(recipe)
    in_a_row = 0
    with tqdm(total=len(missing), desc="captions", unit="picture") as bar:
        for row, future in _at_once(write, missing, at_once):
            bar.update()
            try:
                yield future.result()
                in_a_row = 0
            except PictureError as error:
                skip(row.name, error)
            except UserError:  # no picture's fault
                raise
            except (NoCaption, RuntimeError, ValueError) as error:  # the latter are what transformers raises
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                failed[reason] += 1
                in_a_row += 1
                say(f"No caption for {row.name}: {reason}.")
            if in_a_row == IN_A_ROW:
                raise UserError(
                    f"{IN_A_ROW} pictures in a row got no caption, the last because of: {reason}. Check "
                    "caption.model and caption.endpoint, and run `caption` again; what is done is kept."
                )


class PictureError(Exception):
    """This one picture cannot be decoded."""


def _at_once(
    write: Callable[[UsableRow], CaptionRecord], missing: list[UsableRow], count: int
) -> Iterator[tuple[UsableRow, Future[CaptionRecord]]]:
    """Each picture with its result, `count` of them under way."""
    pool = ThreadPoolExecutor(count)
    pending: dict[Future[CaptionRecord], UsableRow] = {}
    try:
        for row in missing:
            pending[pool.submit(write, row)] = row
            if len(pending) >= 2 * count:
                finished, _ = wait(pending, return_when=FIRST_COMPLETED)
                yield from ((pending.pop(future), future) for future in finished)
        yield from ((pending[future], future) for future in as_completed(pending))
    finally:
        pool.shutdown(cancel_futures=True)


def _writer(recipe: TrainingConfig) -> tuple[Callable[[UsableRow], CaptionRecord], int]:
    """What makes a picture's record, and how many may be made at once."""
    if recipe.caption.model == "none":
        return _from_source, 1
    if recipe.caption.endpoint:
        return functools.partial(_from_model, recipe=recipe, ask=Endpoint(recipe.caption)), recipe.caption.concurrency
    return functools.partial(_from_model, recipe=recipe, ask=Local(recipe.caption, recipe.model)), 1


def _from_source(row: UsableRow) -> CaptionRecord:
    """The source's own caption, and the same without its words on style."""
    if row.caption is None:
        raise NoCaption("the source has none, and caption.model is none")
    return CaptionRecord(row.id, row.name, row.caption, row.content or content_of(row.caption), "none", row.genre)


def _from_model(row: UsableRow, recipe: TrainingConfig, ask: Captioner) -> CaptionRecord:
    wanted = recipe.caption
    try:
        picture = read_picture(row.load(), name=row.name, max_side=wanted.side)
    except (OSError, ValueError) as error:
        raise PictureError(str(error)) from error
    full, content = describe(picture, ask, genre=row.genre, trigger=recipe.data.trigger, max_words=wanted.max_words)
    return CaptionRecord(row.id, row.name, full, content, wanted.model, row.genre)


def _finished(path: Path, recipe: TrainingConfig) -> set[str]:
    """The samples that have their line; a last line that was torn when the run was stopped is taken away."""
    if not path.exists():
        return set()
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
        say(f"{path}: its last line was torn and is written anew.")
    done = set(written_captions(recipe.data))
    if done:
        say(f"{path}: {len(done)} pictures have captions already; delete it to have them written anew.")
    return done


def _appending(path: Path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"data.captions {path} cannot be written ({error.strerror}): set another.") from None
