"""Captions by a vision-language model: for each picture one of all it shows, and one of its content only.

    python -m training caption RECIPE.yaml [caption.endpoint=http://127.0.0.1:8000/v1]

The model runs here, through transformers, or behind any OpenAI-compatible endpoint. `data.captions` gets a line a
picture as soon as it is done, so the command may stop at any moment; the next run asks for what is missing.
"""

import collections
import functools
import io
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
from training import examples as intake
from training.captioner import Captioner, Endpoint, Local, NoCaption
from training.content import content_of, style_words
from training.examples import Row, say
from training.recipe import TrainingConfig

IN_A_ROW = 20  # failures after which it is not the pictures' fault
NOT_AN_IMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)

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
class Picture:
    """A picture without a caption so far."""

    id: str
    row: Row
    content: bytes


@dataclass(frozen=True)
class Written:
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
    """Who wrote it; none: taken from the source's own caption."""
    genre: str | None = None


def caption(recipe: TrainingConfig) -> None:
    """The command."""
    path = recipe.data.captions
    if path is None:
        raise UserError("Say where the captions go: set data.captions, such as data.captions=captions.jsonl.")
    done = _finished(path, recipe)
    failed: collections.Counter[str] = collections.Counter()
    with _appending(path) as file:
        for line in _captions(recipe, done, failed):
            print(json.dumps(asdict(line), ensure_ascii=False), file=file, flush=True)
            done.add(line.id)
    why = ", ".join(f"{count} × {reason}" for reason, count in failed.most_common())
    rest = f"; {failed.total()} failed ({why}): run `caption` again to try them again" if failed else ""
    say(f"{path}: {len(done)} pictures have captions{rest}.")


def describe(
    picture: Image.Image, ask: Captioner, *, genre: str | None, trigger: str, max_words: int
) -> tuple[str, str]:
    """(full, content) in the model's words; asks a second time where the answer cannot be used as it is."""
    prompt = prompt_for(genre, trigger=trigger, max_words=max_words)
    found = parse(ask(picture, prompt + AS_JSON, as_json=True))
    found = found or parse(ask(picture, prompt + AS_LINES, as_json=False))
    if found is None:
        raise NoCaption("no captions in the answer")
    full, content = found
    if words := style_words(content):
        without = AGAIN.format(words=", ".join(words))
        again = parse(ask(picture, prompt + without + AS_JSON, as_json=True))
        content = again[1] if again else content
    if style_words(content):
        content = content_of(content)
    return shorten(full, max_words), _continuing(shorten(content, max_words))


def prompt_for(genre: str | None, *, trigger: str, max_words: int) -> str:
    said = re.sub(r"[_-]", " ", (genre or "").lower())
    known = next((name for name in GENRES if name in said), None)
    return PROMPT.format(
        kind=known or "picture", matters=GENRES.get(known or "", ANY_GENRE), trigger=trigger, max_words=max_words
    )


def parse(answer: str) -> tuple[str, str] | None:
    """The two captions in an answer, whatever stands around them; none where they are not both there."""
    answer = answer.rpartition("</think>")[2].partition("<think>")[0]  # what it thought first, ended or cut
    for start in re.finditer(r"\{", answer):
        try:
            found, _ = json.JSONDecoder(strict=False).raw_decode(answer, start.start())
        except (json.JSONDecodeError, RecursionError):
            continue
        if captions := _both({key.lower(): value for key, value in found.items()}):
            return captions
    lines = re.findall(r"^\W*(full|content)\W*:(.+)$", answer, re.IGNORECASE | re.MULTILINE)
    return _both({key.lower(): value.strip(" \t\r*_\"'") for key, value in lines})


def shorten(text: str, max_words: int) -> str:
    """At most so many words, up to the end of a clause where there is one in the second half."""
    words = text.split()
    if len(words) <= max_words:
        return text
    ends = [end for end in range(max_words // 2, max_words + 1) if words[end - 1][-1] in ",;.!?"]
    return " ".join(words[: ends[-1] if ends else max_words]).rstrip(",; ")


def _both(found: dict) -> tuple[str, str] | None:
    full, content = (_tidy(found.get(key)) for key in ("full", "content"))
    return (full, content) if full and content else None


def _tidy(text: object) -> str:
    """On one line, and of characters that a file can hold: JSON may spell half a surrogate pair."""
    return " ".join(text.encode(errors="ignore").decode().split()) if isinstance(text, str) else ""


def _continuing(content: str) -> str:
    """Fit to follow the trigger: "A boat." → "a boat"."""
    content = content.rstrip(" .,;")
    return re.sub(r"^(?:An?|The|Two|Three|Some|Several)\b", lambda first: first.group().lower(), content)


# Which pictures, how many at once, and where the lines go


def _captions(recipe: TrainingConfig, done: set[str], failed: collections.Counter[str]) -> Iterator[Written]:
    """A line for each picture that is not done, in the order they are finished; failures are counted by reason."""
    rows = list(intake.rows(recipe.data))
    write, at_once = _writer(recipe)
    in_a_row = 0
    with tqdm(total=len(rows), desc="captions", unit="picture") as bar:
        for picture, future in _at_once(write, _missing(rows, done, bar), at_once):
            bar.update()
            try:
                if line := future.result():
                    yield line
                in_a_row = 0
            except UserError:  # no picture's fault
                raise
            except (NoCaption, RuntimeError, ValueError) as error:  # the latter are what transformers raises
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                failed[reason] += 1
                in_a_row += 1
                say(f"No caption for {picture.row.name}: {reason}.")
            if in_a_row == IN_A_ROW:
                raise UserError(
                    f"{IN_A_ROW} pictures in a row got no caption, the last because of: {reason}. Look after "
                    "caption.model and caption.endpoint, and run `caption` again; what is done is kept."
                )


def _missing(rows: list[Row], done: set[str], bar: tqdm) -> Iterator[Picture]:
    """Each picture once that has no caption yet."""
    seen = set(done)
    for row in rows:
        try:
            content = row.load()
        except (OSError, ValueError) as error:
            _skip(row, error)
            bar.update()
            continue
        sample = intake.sample_id(content)
        if sample in seen:
            bar.update()
            continue
        seen.add(sample)
        yield Picture(sample, row, content)


def _at_once(write, pictures: Iterator[Picture], count: int) -> Iterator[tuple[Picture, Future[Written | None]]]:
    """Each picture with its result, `count` of them under way; little more than those in memory."""
    pool = ThreadPoolExecutor(count)
    pending: dict[Future[Written | None], Picture] = {}
    try:
        for picture in pictures:
            pending[pool.submit(write, picture)] = picture
            if len(pending) >= 2 * count:
                finished, _ = wait(pending, return_when=FIRST_COMPLETED)
                yield from ((pending.pop(future), future) for future in finished)
        yield from ((pending[future], future) for future in as_completed(pending))
    finally:
        pool.shutdown(cancel_futures=True)


def _writer(recipe: TrainingConfig) -> tuple[Callable[[Picture], Written | None], int]:
    """What makes a picture's line, and how many may be made at once."""
    if recipe.caption.model == "none":
        return _from_source, 1
    if recipe.caption.endpoint:
        return functools.partial(_from_model, recipe=recipe, ask=Endpoint(recipe.caption)), recipe.caption.concurrency
    return functools.partial(_from_model, recipe=recipe, ask=Local(recipe.caption, recipe.model)), 1


def _from_source(picture: Picture) -> Written:
    """The source's own caption, and what it says of the content."""
    row = picture.row
    if row.caption is None:
        raise NoCaption("the source has none, and caption.model is none")
    return Written(picture.id, row.name, row.caption, content_of(row.caption), "none", row.genre)


def _from_model(picture: Picture, recipe: TrainingConfig, ask: Captioner) -> Written | None:
    row, wanted = picture.row, recipe.caption
    try:
        shown = _shown(picture.content, wanted.side)
    except NOT_AN_IMAGE as error:
        return _skip(row, error)
    full, content = describe(shown, ask, genre=row.genre, trigger=recipe.data.trigger, max_words=wanted.max_words)
    return Written(picture.id, row.name, full, content, wanted.model, row.genre)


def _shown(content: bytes, side: int) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        shown = intake.to_rgb(image)
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    return shown


def _skip(row: Row, error: Exception) -> None:
    say(f"Skipped {row.name}: it cannot be decoded ({error}).")


def _finished(path: Path, recipe: TrainingConfig) -> set[str]:
    """The samples that have their line; a last line that was torn when the run was stopped is taken away."""
    if not path.exists():
        return set()
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
        say(f"{path}: its last line was torn and is written anew.")
    done = set(intake.written_captions(recipe.data))
    if done:
        say(f"{path}: {len(done)} pictures have captions already; delete it to have them written anew.")
    return done


def _appending(path: Path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"data.captions {path} cannot be written ({error.strerror}): set another.") from None
