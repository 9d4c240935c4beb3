"""Chooses paintings for training and says why: python -m training curate RECIPE.yaml

One pass over the source examines each picture by itself and keeps the usable ones, with a record of each; then they
are compared with each other and the dataset is written: folders `train` and `validation` of pictures, each with a
metadata.jsonl, as `datasets`' imagefolder has them. All of it happens in `<data.source>.partial`, where a stopped run
continues; data.source appears at the end, whole, with a report in it.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image
from tqdm import tqdm

from impressionism.errors import UserError, counted
from impressionism.files import open_picture, picture_size, read_picture, read_text, write_atomic
from impressionism.pictorial import to_lab
from training.examples import sample_id
from training.recipe import Curate, TrainingConfig
from training.report import grouped, write_report
from training.sources import CurateSource, bytes_of, dataset_errors, open_source, same_word, say, skip, split_of

Box = tuple[int, int, int, int]  # left, top, right, bottom

LARGEST = 4096  # px: a picture whose longer side is longer is kept at that size
VIEW = 1024  # px: what borders are looked for in
SMALL = 256  # px: what colours and hashes are taken from
THUMBNAIL = 200  # px: what stays of a dropped picture, for the report
KEPT_AS_IT_IS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
THREADS = min(8, os.cpu_count() or 1)
BATCH = 4 * THREADS  # pictures in memory at once

BORDER_TOLERANCE = 6.0  # CIELAB: what noise and JPEG make of one colour
BORDER_SPECKS = 0.05  # part of a line of border that may differ more than that
BORDER_EDGE = 0.4  # part of a line that is new where the picture begins; a sky changes gradually
BORDER_DEEPEST = 0.4  # of the picture: what reaches farther is no border


class Reason(StrEnum):
    """Why a picture is dropped, in the order in which that is decided."""

    STYLE = "of another style"
    GENRE = "of another genre"
    UNDECODABLE = "undecodable"
    SMALL = "too small"
    LONG = "too long"
    MONOCHROME = "monochrome"
    DUPLICATE = "near-duplicates"
    ARTIST = "beyond their artist's share"
    LIMIT = "beyond the limit"


MEANING = {
    Reason.STYLE: "The source gives another style than {style}.",
    Reason.GENRE: "The source gives none of the genres {genres}.",
    Reason.UNDECODABLE: "The file is damaged, is no picture, or would take too much memory.",
    Reason.SMALL: "Its shorter side has less than {min_side} px, borders not counted.",
    Reason.LONG: "Its longer side is more than {max_aspect} times the shorter.",
    Reason.MONOCHROME: "Its mean CIELAB chroma is below {min_chroma}: a drawing, a print, a photograph.",
    Reason.DUPLICATE: "Its perceptual hash differs from a larger picture's in {duplicate_bits} of 64 bits or fewer.",
    Reason.ARTIST: "Its artist would make up more than {artist_share:.0%} of the genre, and more than {artist_floor} "
    "pictures of it.",
    Reason.LIMIT: "There are {limit} without it; genres and artists took turns.",
}


@dataclass(frozen=True)
class ImageRecord:
    """What `curate` measured of a picture, and whether it was kept: a line of pictures.jsonl."""

    name: str
    """What the source calls it: a file or a row."""
    text: str | None = None
    """Its caption."""
    artist: str | None = None
    genre: str | None = None
    title: str | None = None
    style: str | None = None
    id: str = ""
    """As in examples.Example, of the picture as it is kept."""
    file: str = ""
    """The name it has in the dataset."""
    width: int = 0
    height: int = 0
    chroma: float = 0.0
    """Mean distance from grey in CIELAB."""
    hash: str = ""
    """Perceptual hash, 64 bits as hexadecimal digits."""
    box: list[float] | None = None
    """Where borders were cut away: left, top, right, bottom of what is left, in parts of the sides."""
    reason: str | None = None
    """Why it was dropped; none: it was kept."""
    detail: str = ""
    """The number or name that decided."""
    twin: str | None = None
    """For a near-duplicate the id of the picture that is kept in its place."""
    held_out: bool = False

    @property
    def kept(self) -> bool:
        return self.reason is None

    def dropped(self, reason: Reason, detail: str, *, twin: str | None = None) -> "ImageRecord":
        return dataclasses.replace(self, reason=reason.value, detail=detail, twin=twin)


def curate(recipe: TrainingConfig) -> None:
    """Choose among the pictures of curate.source; the chosen ones and a report become data.source."""
    settings, folder = recipe.curate, Path(recipe.data.source)
    if settings.source is None:
        raise UserError(
            "There is nothing to curate: set curate.source to `huggan/wikiart`, the id of another dataset, or a folder "
            "of pictures."
        )
    if split_of(recipe.data.split)[0] != "train":
        raise UserError("`curate` writes the splits train and validation: leave data.split out.")
    made_of = {  # all that decides what is written
        "curate": settings.model_dump(mode="json"),
        "columns": [recipe.data.caption_column, recipe.data.genre_column],
        "files": _listing(Path(settings.source)),
    }
    if _is_made(folder, made_of):
        return
    source = open_source(settings)
    work = folder.with_name(folder.name + ".partial")
    _prepare(work, made_of)
    records = choose(scan(source, settings, work), settings)
    result = _counted(records)
    if not any(record.kept for record in records):
        raise UserError(f"No picture of {source.name} is left: {result}.")

    shutil.rmtree(work / "dataset", ignore_errors=True)
    _write_splits(records, work, recipe, source.name)
    write_report(work / "dataset" / "report.html", records, work / "pictures", settings, source.name, MEANING)
    lines = [json.dumps(dataclasses.asdict(record), ensure_ascii=False) + "\n" for record in records]
    write_atomic(work / "dataset" / "pictures.jsonl", "".join(lines))
    made = json.dumps({"of": made_of, "result": result}, indent=1, ensure_ascii=False)
    write_atomic(work / "dataset" / "curate.json", made)
    if folder.exists():
        folder.rmdir()  # an empty one, as _is_made saw
    (work / "dataset").replace(folder)
    shutil.rmtree(work)
    say(f"{folder}: {result}. See {folder / 'report.html'}.")


# ---- Is it done, and what was begun?


def _listing(folder: Path) -> str | None:
    """A hash of the names and sizes of a folder's files: pictures that came or went are noticed."""
    if not folder.is_dir():
        return None
    files = [(path.relative_to(folder).as_posix(), path.stat().st_size)
             for path in sorted(folder.rglob("*")) if path.is_file()]  # fmt: skip
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:32]


def _is_made(folder: Path, made_of: dict) -> bool:
    here, source = folder.resolve(), Path(made_of["curate"]["source"]).resolve()
    if source.is_dir() and (here.is_relative_to(source) or source.is_relative_to(here)):
        raise UserError(f"data.source and curate.source lie in each other ({folder}): set data.source elsewhere.")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / "curate.json").exists():
        raise UserError(f"{folder} is there, and `curate` did not write it: set data.source to a new folder.")
    made = _json(folder / "curate.json")
    if made is None or made["of"] != made_of:
        raise UserError(
            f"{folder} was curated with other settings or from other pictures: remove it, or set data.source to a new "
            "folder."
        )
    say(f"{folder} is curated already with these settings: {made['result']}.")
    return True


def _prepare(work: Path, made_of: dict) -> None:
    """A folder to work in that is new, or that a run with the same settings left."""
    if work.exists() and _json(work / "curate.json") != made_of:
        say(f"{work} was left by a run with other settings or other pictures: starting anew.")
        shutil.rmtree(work)
    (work / "pictures").mkdir(parents=True, exist_ok=True)
    write_atomic(work / "curate.json", json.dumps(made_of))


def _json(path: Path) -> dict | None:
    """None where there is no such file, or a damaged one."""
    with contextlib.suppress(ValueError):  # UserError is one
        return json.loads(read_text(path))
    return None


# ---- Each picture by itself


def scan(source: CurateSource, settings: Curate, work: Path) -> list[ImageRecord]:
    """A record of each picture; the usable ones are left in work/pictures, of the others thumbnails."""
    records, position = _resume(work / "scanned.jsonl")
    if position is not None:
        say(f"Continuing after {counted(len(records), 'picture')}.")
        source.rows.load_state_dict(position)
    one = functools.partial(examine, source=source, settings=settings, pictures=work / "pictures")
    bar = tqdm(total=source.total, initial=len(records), desc="examine", unit="picture")
    with bar, ThreadPoolExecutor(THREADS) as pool, (work / "scanned.jsonl").open("ab") as log:
        for batch in _batches(source):
            names = [row.get("file_name") or f"row {len(records) + place}" for place, row in enumerate(batch)]
            new = list(pool.map(one, names, batch))
            lines = [*map(dataclasses.asdict, new), {"position": source.rows.state_dict()}]
            log.writelines(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
            log.flush()
            for record in new:
                if record.reason == Reason.UNDECODABLE:
                    skip(record.name, ValueError(record.detail))
            records += new
            bar.update(len(new))
    return records


def _resume(log: Path) -> tuple[list[ImageRecord], dict | None]:
    """What a stopped run had recorded, and the source's position after it; a half-written end is cut off."""
    records, pending, position, end, read = [], [], None, 0, 0
    for line in log.read_bytes().splitlines(keepends=True) if log.exists() else []:
        read += len(line)
        try:
            values = json.loads(line if line.endswith(b"\n") else b"")
        except ValueError:
            break
        if "position" in values:
            records, pending, position, end = records + pending, [], values["position"], read
        else:
            pending.append(ImageRecord(**values))
    if log.exists():
        os.truncate(log, end)
    return records, position


def _batches(source: CurateSource) -> Iterator[list[dict]]:
    rows = iter(source.rows)
    while True:
        with dataset_errors("curate.source", source.name, "cannot be read on; run `curate` again, it continues there"):
            batch = list(itertools.islice(rows, BATCH))
        if not batch:
            return
        yield batch


def examine(name: str, row: dict, *, source: CurateSource, settings: Curate, pictures: Path) -> ImageRecord:
    """The record of one picture; it, or its thumbnail, is left in `pictures`."""
    record = dataclasses.replace(ImageRecord(name), **source.about(row))
    if settings.style and not same_word(record.style, settings.style):
        return record.dropped(Reason.STYLE, record.style or "none given")
    if settings.genres and not any(same_word(record.genre, genre) for genre in settings.genres):
        return record.dropped(Reason.GENRE, record.genre or "none given")
    try:
        record, files = _examine(record, bytes_of(row[source.image]), settings)
    except Exception as error:  # one file must not end the run
        reason = " ".join(str(error).split()).removeprefix(name).lstrip(" :").rstrip(".")
        return record.dropped(Reason.UNDECODABLE, reason or type(error).__name__)
    for file, content in files.items():
        (pictures / file).write_bytes(content)
    return record


def _examine(record: ImageRecord, content: bytes, settings: Curate) -> tuple[ImageRecord, dict[str, bytes]]:
    """(the record with what its pixels say; the files to leave)."""
    with open_picture(content, name=record.name) as image:
        plain = image.mode == "RGB" and not image.has_transparency_data and getattr(image, "n_frames", 1) == 1
        plain = plain and image.size == picture_size(content) and max(image.size) <= LARGEST
        plain = plain and image.getexif().get(0x0112, 1) == 1
        suffix = KEPT_AS_IT_IS.get(str(image.format)) if plain else None
    picture = read_picture(content, name=record.name, max_side=LARGEST)
    box = border(picture) if settings.trim_borders else None
    cut = picture.crop(box) if box else picture
    record = _judge(dataclasses.replace(record, **_measures(cut)), settings)
    if not record.kept:
        content, suffix = _jpeg(_shrunk(cut, THUMBNAIL), quality=80), ".jpg"
    elif box or suffix is None:
        content, suffix = _jpeg(cut, quality=95), ".jpg"
    id = sample_id(content)
    record = dataclasses.replace(record, id=id, file=f"{id}{suffix}")
    files = {record.file: content}
    if box:
        files[f"{id}.before"] = _jpeg(_shrunk(picture, THUMBNAIL), quality=80)
        parts = [round(end / side, 4) for end, side in zip(box, picture.size * 2, strict=True)]
        record = dataclasses.replace(record, box=parts)
    return record, files


def _shrunk(picture: Image.Image, side: int) -> Image.Image:
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def _jpeg(picture: Image.Image, *, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def _measures(picture: Image.Image) -> dict:
    small = _shrunk(picture, SMALL)
    lab = to_lab(np.asarray(small))
    return {
        "width": picture.width,
        "height": picture.height,
        "chroma": round(float(np.hypot(lab[..., 1], lab[..., 2]).mean()), 2),
        "hash": str(imagehash.phash(small)),
    }


def _judge(record: ImageRecord, settings: Curate) -> ImageRecord:
    aspect = max(record.width, record.height) / min(record.width, record.height)
    if min(record.width, record.height) < settings.min_side:
        return record.dropped(Reason.SMALL, f"{record.width} × {record.height} px")
    if aspect > settings.max_aspect:
        return record.dropped(Reason.LONG, f"{record.width} × {record.height} px, 1 : {aspect:.1f}")
    if record.chroma < settings.min_chroma:
        return record.dropped(Reason.MONOCHROME, f"chroma {record.chroma:.1f}")
    return record


def border(picture: Image.Image) -> Box | None:
    """What is left when borders of one colour are cut away, also one within another; none where there is none."""
    view = picture.copy()
    view.thumbnail((VIEW, VIEW), Image.Resampling.BOX)
    lab = to_lab(np.asarray(view))
    left, top, right, bottom = 0, 0, view.width, view.height
    for _ in range(3):  # a scanner's bed, a mount, a margin
        rows = lab[top:bottom, left:right]
        above, below = _depth(rows), _depth(rows[::-1])
        columns = rows[above : len(rows) - below].swapaxes(0, 1)
        before, after = _depth(columns), _depth(columns[::-1])
        if not any((above, below, before, after)):
            break
        left, top, right, bottom = left + before, top + above, right - after, bottom - below
    if (left, top, right, bottom) == (0, 0, view.width, view.height):
        return None
    across, down = picture.width / view.width, picture.height / view.height
    return (math.ceil(left * across), math.ceil(top * down), int(right * across), int(bottom * down))


def _depth(lines: np.ndarray) -> int:
    """How many of the lines (lines, pixels, CIELAB) are border, from the first on."""
    if len(lines) < 16:
        return 0
    colour = np.median(lines[0], axis=0)
    if _differing(lines[:2], colour).max() > BORDER_SPECKS:  # by far the most pictures: no border here
        return 0
    differs = _differing(lines[: int(BORDER_DEEPEST * len(lines))], colour)
    depth = int(np.argmax(differs > BORDER_SPECKS))
    edge = _differing(lines[depth : depth + 4], lines[depth - 1].mean(axis=0)).max()
    return depth + 1 if depth and edge > BORDER_EDGE else 0  # one more: the edge is blurred


def _differing(lines: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The part of each line that has another colour."""
    return (((lines - colour) ** 2).sum(axis=-1) > BORDER_TOLERANCE**2).mean(axis=1)


# ---- The pictures beside each other


def choose(records: list[ImageRecord], settings: Curate) -> list[ImageRecord]:
    """Near-duplicates go, artists and genres are brought into balance, and some are held out."""
    chosen = _balance(_without_duplicates(records, settings), settings)
    held = _held_out([picture for picture in chosen if picture.kept], settings)
    return [dataclasses.replace(picture, held_out=picture.kept and picture.id in held) for picture in chosen]


def _draw(settings: Curate, content: str) -> int:
    """A place in the lot that depends on nothing but the content and the seed."""
    return int(hashlib.sha256(f"{settings.seed} {content}".encode()).hexdigest()[:16], 16)


def _artist(picture: ImageRecord) -> str:
    """Who painted it; a picture that nobody signs stands for itself."""
    unknown = not picture.artist or same_word(picture.artist, "unknown artist")
    return picture.id if unknown else str(picture.artist)


def _without_duplicates(records: list[ImageRecord], settings: Curate) -> list[ImageRecord]:
    """Keeps the largest of pictures with nearly the same hash."""
    kept = [place for place, picture in enumerate(records) if picture.kept]
    kept.sort(key=lambda place: (-records[place].width * records[place].height, _draw(settings, records[place].id)))
    hashes = np.array([int(records[place].hash, 16) for place in kept], dtype=np.uint64)
    gone: dict[int, ImageRecord] = {}
    for rank, place in enumerate(kept):
        if place in gone:
            continue
        bits = np.bitwise_count(hashes[rank + 1 :] ^ hashes[rank])
        for near in np.flatnonzero(bits <= settings.duplicate_bits):
            twin = kept[rank + 1 + near]
            detail = f"{bits[near]} bits from {records[place].name}"
            gone.setdefault(twin, records[twin].dropped(Reason.DUPLICATE, detail, twin=records[place].id))
    return [gone.get(place, picture) for place, picture in enumerate(records)]


def _balance(records: list[ImageRecord], settings: Curate) -> list[ImageRecord]:
    """No artist outweighs a genre; where there are too many pictures, genres and artists take turns."""
    genres = grouped((picture for picture in records if picture.kept), lambda picture: picture.genre or "")
    stay: list[tuple[int, int, str]] = []  # turn, lot, id
    capped: set[str] = set()
    for pictures in genres.values():
        artists = grouped(pictures, _artist)
        cap = artist_cap([len(works) for works in artists.values()], settings.artist_share, settings.artist_floor)
        turns = []
        for works in artists.values():
            works.sort(key=lambda picture: _draw(settings, picture.id))
            capped |= {picture.id for picture in works[cap:]}
            turns += [(turn, _draw(settings, work.id), work.id) for turn, work in enumerate(works[:cap])]
        stay += [(turn, lot, id) for turn, (_, lot, id) in enumerate(sorted(turns))]
    beyond = {id for _, _, id in sorted(stay)[settings.limit :]} if settings.limit else set()
    reasons = dict.fromkeys(capped, Reason.ARTIST) | dict.fromkeys(beyond, Reason.LIMIT)
    return [
        picture.dropped(reasons[picture.id], picture.artist or "")
        if picture.kept and picture.id in reasons
        else picture
        for picture in records
    ]


def artist_cap(counts: list[int], share: float, floor: int) -> int:
    """The most pictures an artist may give so that none makes up more than `share`; `floor` are always allowed."""
    for cap in range(max(counts), floor, -1):
        if cap <= share * sum(min(count, cap) for count in counts):
            return cap
    return floor


def _held_out(kept: list[ImageRecord], settings: Curate) -> set[str]:
    """Half of them whole artists, whom training then never sees; the others from each genre its part."""
    wanted = round(settings.held_out * len(kept))
    if settings.held_out and not wanted and len(kept) > 1:  # a small set has a held-out loss too
        wanted = 1
    artists = grouped(kept, _artist)
    held: set[str] = set()
    for artist in sorted(artists, key=lambda artist: _draw(settings, artist)):
        if len(held) + len(artists[artist]) <= wanted / 2:
            held |= {picture.id for picture in artists[artist]}
    turns = []
    for pictures in grouped(kept, lambda picture: picture.genre or "").values():
        pictures.sort(key=lambda picture: (picture.id not in held, _draw(settings, picture.id)))
        turns += [(place / len(pictures), picture.id) for place, picture in enumerate(pictures)]
    rest = (id for _, id in sorted(turns) if id not in held)
    return held | set(itertools.islice(rest, wanted - len(held)))


# ---- The dataset


def _write_splits(records: list[ImageRecord], work: Path, recipe: TrainingConfig, source: str) -> None:
    """A folder for each split, with the pictures and a metadata.jsonl in the columns that the recipe's `data` names."""
    data = recipe.data
    for split, held_out in (("train", False), ("validation", True)):
        folder, lines = work / "dataset" / split, []
        for record in records:
            if record.kept and record.held_out == held_out:
                folder.mkdir(parents=True, exist_ok=True)
                _place(work / "pictures" / record.file, folder / record.file)
                about = {data.caption_column: record.text, data.genre_column: record.genre, "artist": record.artist,
                         "title": record.title, "source": f"{source}: {record.name}"}  # fmt: skip
                lines.append({"file_name": record.file} | {key: value for key, value in about.items() if value})
        if lines:
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write_atomic(folder / "metadata.jsonl", text)


def _place(file: Path, target: Path) -> None:
    """Without a copy, where the disk can."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def _counted(records: list[ImageRecord]) -> str:
    kept = [record for record in records if record.kept]
    held = sum(record.held_out for record in kept)
    reasons = collections.Counter(record.reason for record in records)
    dropped = "; ".join(f"{reasons[reason]} {reason}" for reason in Reason if reasons[reason])
    return (
        f"of {len(records)} pictures {len(kept) - held} to train on and {held} held out ({dropped or 'none dropped'})"
    )
