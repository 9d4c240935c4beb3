"""Chooses paintings for training and says why: python -m training curate RECIPE.yaml

One pass over the source looks at each picture by itself and keeps the usable ones beside what was found out; then
they are compared with each other and the dataset is written. All of it happens in `<data.source>.partial`, where a
stopped run goes on; data.source appears at the end, whole, with a report in it.
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
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import imagehash
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from tqdm import tqdm

from impressionism.errors import UserError
from impressionism.pictorial import to_lab
from training.examples import sample_id, say, to_rgb
from training.recipe import Curate, TrainingConfig
from training.report import ImageRecord, Reason, write_report
from training.sources import Source, open_source, same_word

Box = tuple[int, int, int, int]  # left, top, right, bottom

LARGEST = 4096  # px: a picture with more than the square of it is kept at that size
PIXELS = 64_000_000  # more are not decoded: as RGBA and floats they would take gigabytes
VIEW = 1024  # px: what borders are looked for in
SMALL = 256  # px: what colours and hashes are taken from
THUMBNAIL = 200  # px: what stays of a dropped picture, for the report
WHOLE = {"JPEG", "PNG", "WEBP"}  # formats that are kept as they came
THREADS = min(8, os.cpu_count() or 1)
BATCH = 4 * THREADS  # pictures in memory at once

BORDER_TOLERANCE = 6.0  # CIELAB: what noise and JPEG make of one colour
BORDER_SPECKS = 0.05  # part of a line of border that may differ more than that
BORDER_EDGE = 0.4  # part of a line that is new where the picture begins; a sky gives way little by little
BORDER_DEEPEST = 0.4  # of the picture: what reaches farther is no border


def curate(recipe: TrainingConfig) -> None:
    """Choose among the pictures of curate.source; the chosen ones and a report become data.source."""
    settings, folder = recipe.curate, Path(recipe.data.source)
    if settings.source is None:
        raise UserError(
            "There is nothing to curate: set curate.source to `huggan/wikiart`, the id of another dataset, or a folder "
            "of pictures."
        )
    made_of = _made_of(recipe)
    if _is_made(folder, made_of):
        return
    source = open_source(settings)
    work = folder.with_name(folder.name + ".partial")
    _prepare(work, made_of)
    chosen = choose(scan(source, settings, work), settings)
    if not any(picture.kept for picture in chosen):
        raise UserError(f"No picture of {source.name} is left: {_counted(chosen)}.")
    _write(chosen, work, recipe, source.name)
    write_report(work / "dataset" / "report.html", chosen, work / "pictures", settings, source.name)
    _finish(chosen, work, folder, made_of)


# Is it done, and what was begun?


def _made_of(recipe: TrainingConfig) -> dict:
    """All that decides what curate writes."""
    data = recipe.data
    return {
        "curate": recipe.curate.model_dump(mode="json"),
        "columns": [data.split, data.image_column, data.caption_column, data.genre_column],
        "files": _listing(Path(str(recipe.curate.source))),
    }


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
    record = folder / "curate.json"
    if not record.exists():
        raise UserError(f"{folder} is there, and `curate` did not write it: set data.source to a new folder.")
    made = json.loads(record.read_text(encoding="utf-8"))
    if made["of"] != made_of:
        raise UserError(
            f"{folder} was curated with other settings or from other pictures: remove it, or set data.source to a new "
            "folder."
        )
    say(f"{folder} is curated already with these settings: {made['result']}.")
    return True


def _prepare(work: Path, made_of: dict) -> None:
    """A folder to work in that is new, or that a run with the same settings left."""
    record = work / "curate.json"
    if work.exists() and not (record.exists() and json.loads(record.read_text(encoding="utf-8")) == made_of):
        say(f"{work} was left by a run with other settings or other pictures: starting anew.")
        shutil.rmtree(work)
    (work / "pictures").mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(made_of), encoding="utf-8")


# Each picture by itself.


def scan(source: Source, settings: Curate, work: Path) -> list[ImageRecord]:
    """What is found out about each picture; the usable ones are left in work/pictures, of the others thumbnails."""
    found, position = _resume(work / "found.jsonl")
    if position is not None:
        say(f"Going on after {len(found)} pictures.")
        source.rows.load_state_dict(position)
    look = functools.partial(inspect, source=source, settings=settings, pictures=work / "pictures")
    bar = tqdm(total=source.total, initial=len(found), desc="look", unit="picture")
    with _large_headers(), bar, ThreadPoolExecutor(THREADS) as pool, (work / "found.jsonl").open("ab") as log:
        for batch in _batches(source):
            names = [row.get("file_name") or f"row {len(found) + place}" for place, row in enumerate(batch)]
            new = list(pool.map(look, names, batch))
            lines = [*map(dataclasses.asdict, new), {"position": source.rows.state_dict()}]
            log.writelines(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
            log.flush()
            for picture in new:
                if picture.reason == Reason.UNDECODABLE:
                    say(f"Skipped {picture.name}: it cannot be decoded ({picture.detail}).")
            found += new
            bar.update(len(new))
    return found


def _resume(log: Path) -> tuple[list[ImageRecord], dict | None]:
    """What a stopped run had found, and the source's position after it; a half-written end is cut off."""
    found, pending, position, end, read = [], [], None, 0, 0
    for line in log.read_bytes().splitlines(keepends=True) if log.exists() else []:
        read += len(line)
        if not line.endswith(b"\n"):
            break
        record = json.loads(line)
        if "position" in record:
            found, pending, position, end = found + pending, [], record["position"], read
        else:
            pending.append(ImageRecord(**record))
    if log.exists():
        os.truncate(log, end)
    return found, position


def _batches(source: Source) -> Iterator[list[dict]]:
    rows = iter(source.rows)
    while True:
        try:
            batch = list(itertools.islice(rows, BATCH))
        except Exception as error:  # whatever a connection or a damaged file can raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{source.name} cannot be read on ({reason}): run `curate` again, it goes on from here."
            ) from error
        if not batch:
            return
        yield batch


@contextlib.contextmanager
def _large_headers() -> Iterator[None]:
    """Pillow refuses a huge picture before it can be asked to decode a fraction of it; `_decode` has its own limit."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def inspect(name: str, row: dict, *, source: Source, settings: Curate, pictures: Path) -> ImageRecord:
    """Look at one picture, and leave it, or its thumbnail, in `pictures` under its id."""
    found = dataclasses.replace(ImageRecord(name), **source.about(row))
    if settings.style and not same_word(found.style, settings.style):
        return found.dropped(Reason.STYLE, found.style or "none given")
    if settings.genres and not any(same_word(found.genre, genre) for genre in settings.genres):
        return found.dropped(Reason.GENRE, found.genre or "none given")
    try:
        found, files = _examine(found, _bytes(row[source.image]), settings)
    except Exception as error:  # damaged files make decoders raise all sorts
        return found.dropped(Reason.UNDECODABLE, " ".join(str(error).split()) or type(error).__name__)
    for file, content in files.items():
        (pictures / file).write_bytes(content)
    return found


def _examine(found: ImageRecord, content: bytes, settings: Curate) -> tuple[ImageRecord, dict[str, bytes]]:
    """(what its pixels say; the files to leave)."""
    picture, whole = _decode(content)
    box = border(picture) if settings.trim_borders else None
    cut = picture.crop(box) if box else picture
    found = _judge(dataclasses.replace(found, **_measures(cut)), settings)
    if not found.kept:
        content = _jpeg(_shrunk(cut, THUMBNAIL), quality=80)
    elif box or not whole:
        content = _jpeg(cut, quality=95)
    found = dataclasses.replace(found, id=sample_id(content))
    files = {found.id: content}
    if box:
        files[f"{found.id}.before"] = _jpeg(_shrunk(picture, THUMBNAIL), quality=80)
        parts = [round(end / side, 4) for end, side in zip(box, picture.size * 2, strict=True)]
        found = dataclasses.replace(found, box=parts)
    return found, files


def _bytes(picture: dict | None) -> bytes:
    if picture is None:
        raise ValueError("the row has no picture")
    return picture["bytes"] if picture["bytes"] is not None else Path(picture["path"]).read_bytes()


def _decode(content: bytes) -> tuple[Image.Image, bool]:
    """(the picture, upright, in RGB and not too large; whether it is just what the file holds)."""
    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:  # its own message is about a place in memory
        raise ValueError("no picture, or of no format that is known") from None
    size = image.size
    whole = image.format in WHOLE and image.mode == "RGB" and getattr(image, "n_frames", 1) == 1
    whole = whole and not image.has_transparency_data and math.prod(size) <= LARGEST**2
    whole = whole and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    image.draft(None, (LARGEST, LARGEST))  # a huge JPEG is decoded at a fraction of its size
    needed = size if image.info.get("progressive") else image.size  # which needs all coefficients at once
    if math.prod(needed) > PIXELS:
        raise ValueError(f"{size[0]} × {size[1]} px would take too much memory")
    picture = to_rgb(image)
    return _shrunk(picture, round(max(picture.size) * min(1, LARGEST / math.sqrt(math.prod(picture.size))))), whole


def _shrunk(picture: Image.Image, side: int) -> Image.Image:
    small = picture.copy() if max(picture.size) > side else picture
    if small is not picture:
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def _jpeg(picture: Image.Image, *, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def _measures(picture: Image.Image) -> dict:
    small = _shrunk(picture, SMALL)
    lab = to_lab(np.asarray(small))
    few = _shrunk(small, 64).quantize(5)
    colours = np.array(few.getpalette(), dtype=np.uint8)[: 3 * 5].reshape(-1, 3)
    return {
        "width": picture.width,
        "height": picture.height,
        "chroma": round(float(np.hypot(lab[..., 1], lab[..., 2]).mean()), 2),
        "hash": str(imagehash.phash(small)),
        "palette": ["#" + bytes(colour).hex() for colour in colours],
    }


def _judge(found: ImageRecord, settings: Curate) -> ImageRecord:
    aspect = max(found.width, found.height) / min(found.width, found.height)
    if min(found.width, found.height) < settings.min_side:
        return found.dropped(Reason.SMALL, f"{found.width} × {found.height} px")
    if aspect > settings.max_aspect:
        return found.dropped(Reason.LONG, f"{found.width} × {found.height} px, 1 : {aspect:.1f}")
    if found.chroma < settings.min_chroma:
        return found.dropped(Reason.MONOCHROME, f"chroma {found.chroma:.1f}")
    return found


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


# The pictures beside each other.


def choose(found: list[ImageRecord], settings: Curate) -> list[ImageRecord]:
    """Near-duplicates go, artists and genres are brought into balance, and some are held out."""
    chosen = _balance(_without_duplicates(found, settings), settings)
    held = _held_out([picture for picture in chosen if picture.kept], settings)
    return [dataclasses.replace(picture, held_out=picture.kept and picture.id in held) for picture in chosen]


def _draw(settings: Curate, content: str) -> int:
    """A place in the lot that depends on nothing but the content and the seed."""
    return int(hashlib.sha256(f"{settings.seed} {content}".encode()).hexdigest()[:16], 16)


def _artist(picture: ImageRecord) -> str:
    """Who painted it; a picture that nobody signs stands for itself."""
    unknown = not picture.artist or same_word(picture.artist, "unknown artist")
    return picture.id if unknown else str(picture.artist)


def _without_duplicates(found: list[ImageRecord], settings: Curate) -> list[ImageRecord]:
    """Of pictures with nearly one hash the largest stays."""
    kept = [place for place, picture in enumerate(found) if picture.kept]
    kept.sort(key=lambda place: (-found[place].width * found[place].height, _draw(settings, found[place].id)))
    hashes = np.array([int(found[place].hash, 16) for place in kept], dtype=np.uint64)
    gone: dict[int, ImageRecord] = {}
    for rank, place in enumerate(kept):
        if place in gone:
            continue
        bits = np.bitwise_count(hashes[rank + 1 :] ^ hashes[rank])
        for near in np.flatnonzero(bits <= settings.duplicate_bits):
            twin = kept[rank + 1 + near]
            detail = f"{bits[near]} bits from {found[place].name}"
            gone.setdefault(twin, found[twin].dropped(Reason.DUPLICATE, detail, twin=found[place].id))
    return [gone.get(place, picture) for place, picture in enumerate(found)]


def _balance(found: list[ImageRecord], settings: Curate) -> list[ImageRecord]:
    """No artist outweighs a genre; where there are too many pictures, genres and artists take turns."""
    genres = _grouped((picture for picture in found if picture.kept), lambda picture: picture.genre or "")
    stay: list[tuple[int, int, str]] = []  # turn, lot, id
    capped: set[str] = set()
    for pictures in genres.values():
        artists = _grouped(pictures, _artist)
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
        for picture in found
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
    if settings.held_out and not wanted and len(kept) > 1:  # a small set is judged by something too
        wanted = 1
    artists = _grouped(kept, _artist)
    held: set[str] = set()
    for artist in sorted(artists, key=lambda artist: _draw(settings, artist)):
        if len(held) + len(artists[artist]) <= wanted / 2:
            held |= {picture.id for picture in artists[artist]}
    turns = []
    for pictures in _grouped(kept, lambda picture: picture.genre or "").values():
        pictures.sort(key=lambda picture: (picture.id not in held, _draw(settings, picture.id)))
        turns += [(place / len(pictures), picture.id) for place, picture in enumerate(pictures)]
    rest = (id for _, id in sorted(turns) if id not in held)
    return held | set(itertools.islice(rest, wanted - len(held)))


def _grouped(pictures: Iterable[ImageRecord], key) -> dict[str, list[ImageRecord]]:
    groups: dict[str, list[ImageRecord]] = collections.defaultdict(list)
    for picture in pictures:
        groups[key(picture)].append(picture)
    return groups


# The dataset.


def _write(chosen: list[ImageRecord], work: Path, recipe: TrainingConfig, source: str) -> None:
    """The splits, row by row, with the columns that the recipe's `data` will look for."""
    data = recipe.data
    kept = [picture for picture in chosen if picture.kept]
    columns = {"id": "id", "artist": "artist", data.genre_column: "genre", "title": "title", "source": "source"}
    if any(picture.text for picture in kept):
        columns[data.caption_column] = "text"
    image = {data.image_column: datasets.Image()}
    features = datasets.Features(image | {column: datasets.Value("string") for column in columns})
    shutil.rmtree(work / "arrow", ignore_errors=True)
    shutil.rmtree(work / "dataset", ignore_errors=True)
    splits = datasets.DatasetDict()
    for split, held_out in ((data.split, False), ("validation", True)):
        if pictures := tuple(picture for picture in kept if picture.held_out == held_out):  # `datasets` shards lists
            how = {"pictures": pictures, "folder": work / "pictures", "source": source, "image": data.image_column}
            splits[split] = datasets.Dataset.from_generator(
                _rows, features, str(work / "arrow"), gen_kwargs=how | {"columns": columns},
                split=datasets.NamedSplit(split), writer_batch_size=BATCH,
            )  # fmt: skip
    splits.save_to_disk(str(work / "dataset"))


def _rows(
    pictures: tuple[ImageRecord, ...], folder: Path, source: str, image: str, columns: dict[str, str]
) -> Iterator[dict]:
    for picture in pictures:
        values = {**dataclasses.asdict(picture), "source": f"{source}: {picture.name}"}
        content = {"bytes": (folder / picture.id).read_bytes(), "path": None}
        yield {image: content} | {column: values[what] for column, what in columns.items()}


def _finish(chosen: list[ImageRecord], work: Path, folder: Path, made_of: dict) -> None:
    """The findings and the settings join the dataset, which then takes its place."""
    result = _counted(chosen)
    with (work / "dataset" / "pictures.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(dataclasses.asdict(picture), ensure_ascii=False) + "\n" for picture in chosen)
    record = json.dumps({"of": made_of, "result": result}, indent=1, ensure_ascii=False)
    (work / "dataset" / "curate.json").write_text(record, encoding="utf-8")
    (work / "dataset").replace(folder)
    shutil.rmtree(work)
    say(f"{folder}: {result}. See {folder / 'report.html'}.")


def _counted(chosen: list[ImageRecord]) -> str:
    kept = [picture for picture in chosen if picture.kept]
    held = sum(picture.held_out for picture in kept)
    reasons = collections.Counter(picture.reason for picture in chosen)
    dropped = "; ".join(f"{reasons[reason]} {reason}" for reason in Reason if reasons[reason])
    return f"of {len(chosen)} pictures {len(kept) - held} to train on and {held} held out ({dropped or 'none dropped'})"
