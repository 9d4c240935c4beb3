"""What `curate` saw, kept and dropped, as one HTML file with pictures that asks nothing of the network."""

import base64
import collections
import colorsys
import dataclasses
import html
import io
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from PIL import Image

from training.recipe import Curate

STYLE = Path(__file__).with_suffix(".css")
THUMBNAIL = 180  # px
SHEET = 60  # pictures on the sheet of the kept
REASON_SHEET = 18  # pictures on a sheet of the dropped
PAIRS = 24
ARTISTS = 25  # rows of the table; the others are one row
NAMES = 200  # of pictures that could not be decoded
STRIPES = 160  # pictures in a palette
SIDES = (0, 256, 512, 768, 1024, 1536, 2048, 3072, math.inf)  # px
ASPECTS = (0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.25, 1.4, 1.6, 1.8, 2.2, math.inf)  # width / height


class Reason(StrEnum):
    """Why a picture is dropped, in the order of the questions."""

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
    Reason.STYLE: "The source says that it is not {style}.",
    Reason.GENRE: "The source says that it is none of {genres}.",
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
    """What `curate` found out about a picture, and what became of it."""

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
    width: int = 0
    height: int = 0
    chroma: float = 0.0
    """Mean distance from grey in CIELAB."""
    hash: str = ""
    """Perceptual hash, 64 bits as hexadecimal digits."""
    palette: list[str] = field(default_factory=list)
    """Five colours."""
    box: list[float] | None = None
    """Where borders were cut away: left, top, right, bottom of what is left, in parts of the sides."""
    reason: str | None = None
    """Why it was dropped; none: it was kept."""
    detail: str = ""
    """The number or name that decided."""
    twin: str | None = None
    """Of a near-duplicate: the id of the picture that stays for it."""
    held_out: bool = False

    @property
    def kept(self) -> bool:
        return self.reason is None

    def dropped(self, reason: Reason, detail: str, *, twin: str | None = None) -> "ImageRecord":
        return dataclasses.replace(self, reason=reason.value, detail=detail, twin=twin)


def write_report(path: Path, chosen: list[ImageRecord], pictures: Path, settings: Curate, source: str) -> None:
    """One HTML file; `pictures` has what is left of each picture under its id."""
    asked = [picture for picture in chosen if picture.reason not in (Reason.STYLE, Reason.GENRE)]
    kept = [picture for picture in chosen if picture.kept]
    sections = [
        _head(chosen, kept, source),
        _reasons(chosen, settings),
        _table(asked),
        _charts(asked),
        _palettes(kept),
        _kept_sheet(kept, pictures),
        _cut_sheet(asked, pictures),
        _pairs(asked, pictures),
        _dropped_sheets(asked, pictures),
        _settings(settings),
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>Curated: {_text(source)}</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
<body>
{"".join(sections)}
</body>
</html>
"""
    path.write_text(page, encoding="utf-8")


# The sections.


def _head(chosen: list[ImageRecord], kept: list[ImageRecord], source: str) -> str:
    held = [picture for picture in kept if picture.held_out]
    trained_artists = {picture.artist for picture in kept if not picture.held_out}
    unseen = sorted({picture.artist for picture in held if picture.artist} - trained_artists)
    artists = f" Training sees nothing by {_text(_enumerated(unseen))}." if unseen else ""
    return f"""<header>
<h1>Chosen from {_text(source)}</h1>
<p class="lede">{len(kept):,} of {len(chosen):,} pictures stay: {len(kept) - len(held):,} to train on,
{len(held):,} held out.{artists}</p>
</header>
"""


def _reasons(chosen: list[ImageRecord], settings: Curate) -> str:
    counts = collections.Counter(picture.reason for picture in chosen)
    rows = [_reason_row("kept", "", counts[None], len(chosen), "kept")]
    for reason in Reason:
        if counts[reason]:
            meaning = MEANING[reason].format(**_words(settings))
            rows.append(_reason_row(reason, meaning, counts[reason], len(chosen), ""))
    return f"""<h2>What was dropped and why</h2>
<p class="note">In this order; a picture is counted where it fell first.</p>
<div class="scroll"><table class="reasons"><tbody>
{"".join(rows)}</tbody></table></div>
"""


def _reason_row(name: str, meaning: str, count: int, total: int, kind: str) -> str:
    bar = f'<span class="bar" style="width:{100 * count / total:.2f}%"></span>'
    why = f"<small>{_text(meaning)}</small>" if meaning else ""
    return f'<tr class="{kind}"><th scope="row">{_text(name)}{why}</th><td>{count:,}</td><td>{bar}</td></tr>\n'


def _table(asked: list[ImageRecord]) -> str:
    before = collections.Counter(map(_place, asked))
    after = collections.Counter(_place(picture) for picture in asked if picture.kept)
    artists = list(_by(asked, lambda picture: _place(picture)[0]))
    genres = list(_by(asked, lambda picture: _place(picture)[1]))
    rows = {artist: [artist] for artist in artists[:ARTISTS]}
    if artists[ARTISTS:]:
        rows[f"{len(artists) - ARTISTS} more"] = artists[ARTISTS:]

    def row(name: str, members: list[str]) -> str:
        cells = [_cell(after, before, members, columns) for columns in [*([genre] for genre in genres), genres]]
        return f'<tr><th scope="row">{_text(_readable(name))}</th>{"".join(cells)}</tr>\n'

    head = "".join(f'<th scope="col">{_text(_readable(genre))}</th>' for genre in [*genres, "all"])
    return f"""<h2>Artists and genres</h2>
<p class="note">Kept, and behind it how many there were.</p>
<div class="scroll"><table>
<thead><tr><th scope="col">Artist</th>{head}</tr></thead>
<tbody>
{"".join(row(name, members) for name, members in rows.items())}</tbody>
<tfoot>{row("all", artists)}</tfoot>
</table></div>
"""


def _place(picture: ImageRecord) -> tuple[str, str]:
    return picture.artist or "unsigned", picture.genre or "no genre"


def _cell(after: collections.Counter, before: collections.Counter, artists: list[str], genres: list[str]) -> str:
    kept, there = (sum(count[place] for place in itertools.product(artists, genres)) for count in (after, before))
    return f"<td><b>{kept:,}</b> <small>/ {there:,}</small></td>" if there else '<td class="zero">·</td>'


def _charts(asked: list[ImageRecord]) -> str:
    seen = [picture for picture in asked if picture.width]
    sides = _chart("Shorter side in pixels", seen, lambda picture: min(picture.width, picture.height), SIDES)
    aspects = _chart("Width over height", seen, lambda picture: picture.width / picture.height, ASPECTS)
    return f"""<h2>Sizes and shapes</h2>
<p class="note"><span class="key kept" style="margin-left:0"></span>kept<span class="key"></span>dropped</p>
<div class="charts">
{sides}{aspects}</div>
"""


def _chart(
    title: str, pictures: list[ImageRecord], measure: Callable[[ImageRecord], float], edges: Sequence[float]
) -> str:
    """A histogram; the bars of the kept stand on the axis, the dropped on top of them."""
    ranges = list(itertools.pairwise(edges))
    bins = [[picture for picture in pictures if low <= measure(picture) < high] for low, high in ranges]
    counts = [(sum(picture.kept for picture in group), len(group)) for group in bins]
    labels = [f"{low:g}+" if high == math.inf else f"{low:g}" if low else f"<{high:g}" for low, high in ranges]
    scale = 125 / max(1, *(count for _, count in counts))
    bars = [_bar(place, 520 / len(bins), scale, label, kept, count)
            for place, (label, (kept, count)) in enumerate(zip(labels, counts, strict=True))]  # fmt: skip
    said = "; ".join(f"{label}: {kept} of {count}" for label, (kept, count) in zip(labels, counts, strict=True))
    how = f'viewBox="0 0 520 170" role="img" aria-label="{_text(f"{title}, kept of all: {said}.")}"'
    return f"<figure><figcaption>{title}</figcaption>\n<svg {how}>{''.join(bars)}</svg></figure>\n"


def _bar(place: int, width: float, scale: float, label: str, kept: int, count: int) -> str:
    middle = f'x="{(place + 0.5) * width:.1f}" text-anchor="middle"'
    sides = f'x="{place * width + 2:.1f}" width="{width - 4:.1f}"'
    kept_top, top = 150 - kept * scale, 150 - count * scale
    number = f'<text {middle} y="{top - 4:.1f}">{count:,}</text>' if count else ""
    return (
        f'<rect class="kept" {sides} y="{kept_top:.1f}" height="{150 - kept_top:.1f}"/>'
        f'<rect class="gone" {sides} y="{top:.1f}" height="{kept_top - top:.1f}"/>'
        f'<text {middle} y="165">{_text(label)}</text>{number}'
    )


def _palettes(kept: list[ImageRecord]) -> str:
    strips = []
    for genre, pictures in _by(kept, lambda picture: _place(picture)[1]).items():
        strips.append(f"<h3>{_text(_readable(genre))} <small>{len(pictures):,}</small></h3>\n")
        strips.append(_stripes(pictures[:: math.ceil(len(pictures) / STRIPES)], genre))
    return f"""<h2>Palettes</h2>
<p class="note">A stripe is a painting: five of its colours, dark below, and the paintings from warm to cool.</p>
{"".join(strips)}"""


def _stripes(pictures: list[ImageRecord], genre: str) -> str:
    columns = sorted((sorted(picture.palette, key=_light, reverse=True) for picture in pictures), key=_warmth)
    rects = []
    for x, column in enumerate(columns):
        tall = 5 / len(column)
        rects += [f'<rect x="{x}" y="{place * tall:g}" width="1.02" height="{tall + 0.02:g}" fill="{colour}"/>'
                  for place, colour in enumerate(column)]  # fmt: skip
    alt = _text(f"The colours of {len(columns)} paintings: {_readable(genre)}.")
    return (f'<svg class="palette" viewBox="0 0 {len(columns)} 5" preserveAspectRatio="none" role="img" '
            f'style="max-width:{3 * len(columns)}rem" '
            f'aria-label="{alt}">{"".join(rects)}</svg>\n')  # fmt: skip


def _kept_sheet(kept: list[ImageRecord], pictures: Path) -> str:
    groups = _by(kept, lambda picture: _place(picture)[1])
    each = max(1, SHEET // len(groups)) if groups else 0
    sheets = []
    for genre, group in groups.items():
        shown = [_figure(picture, pictures, _size(picture)) for picture in _spread(group, each)]
        count = f"{len(shown)} of {len(group):,}" if len(shown) < len(group) else f"{len(group):,}"
        sheets.append(f"<h3>{_text(_readable(genre))} <small>{count}</small></h3>\n{_sheet(shown)}")
    return f"<h2>Kept</h2>\n{''.join(sheets)}"


def _cut_sheet(asked: list[ImageRecord], pictures: Path) -> str:
    cut = [picture for picture in asked if picture.box]
    if not cut:
        return ""
    shown = [_figure(picture, pictures, _size(picture), before=True) for picture in _spread(cut, REASON_SHEET)]
    return f"""<h2>Borders cut away</h2>
<p class="note">{len(shown)} of {len(cut):,}; what lies outside the red frame is gone.</p>
{_sheet(shown)}"""


def _pairs(asked: list[ImageRecord], pictures: Path) -> str:
    by_id = {picture.id: picture for picture in asked if picture.id and picture.reason != Reason.DUPLICATE}
    twins = [picture for picture in asked if picture.twin in by_id]
    if not twins:
        return ""
    pairs = [(by_id[str(twin.twin)], twin) for twin in _spread(twins, PAIRS)]
    shown = [
        f"{_figure(larger, pictures, _size(larger))}{_figure(twin, pictures, f'{_size(twin)}, {twin.detail}')}"
        for larger, twin in pairs
    ]
    pairs = "".join(f'<div class="pair">{pair}</div>\n' for pair in shown)
    return f"""<h2>Near-duplicates</h2>
<p class="note">{len(shown)} of {len(twins):,} pairs; the picture on the left is the larger and was preferred.</p>
<div class="pairs">
{pairs}</div>
"""


def _dropped_sheets(asked: list[ImageRecord], pictures: Path) -> str:
    sheets = []
    for reason in Reason:
        gone = [picture for picture in asked if picture.reason == reason]
        if not gone or reason == Reason.DUPLICATE:
            continue
        count = f"{len(gone):,}"
        if reason == Reason.UNDECODABLE:
            rest = f"<li>and {len(gone) - NAMES:,} more</li>" if len(gone) > NAMES else ""
            names = [f"<li>{_text(picture.name)}: {_text(picture.detail)}</li>\n" for picture in gone[:NAMES]]
            body = f'<ul class="names">{"".join(names)}{rest}</ul>\n'
        else:
            shown = [_figure(picture, pictures, picture.detail) for picture in _spread(gone, REASON_SHEET)]
            count = f"{len(shown)} of {count}" if len(shown) < len(gone) else count
            body = _sheet(shown)
        sheets.append(f"<h3>{_text(reason.capitalize())} <small>{count}</small></h3>\n{body}")
    return f"<h2>Dropped</h2>\n{''.join(sheets)}" if sheets else ""


def _settings(settings: Curate) -> str:
    rows = [
        f'<tr><th scope="row">curate.{name}</th><td>{_text(value)}</td></tr>\n'
        for name, value in _words(settings).items()
    ]
    return f"<details><summary>The settings</summary>\n<table><tbody>\n{''.join(rows)}</tbody></table></details>\n"


# Their parts.


def _sheet(figures: list[str]) -> str:
    return f'<div class="sheet">\n{"".join(figures)}</div>\n'


def _figure(picture: ImageRecord, pictures: Path, note: str, *, before: bool = False) -> str:
    """A thumbnail with its label; `before` shows it with its borders, and where they were cut."""
    title = picture.title or picture.name
    alt = ", ".join(filter(None, (title, picture.artist, picture.genre)))
    shown = _thumbnail(pictures / (f"{picture.id}.before" if before else picture.id), alt)
    if before and picture.box:
        left, top, right, bottom = picture.box
        frame = f"left:{left:.2%};top:{top:.2%};width:{right - left:.2%};height:{bottom - top:.2%}"
        shown = f'<span class="cut">{shown}<i style="{frame}"></i></span>'
    mark = " <b>held out</b>" if picture.held_out else ""
    artist = f"{_text(_readable(picture.artist))}<br>" if picture.artist else ""
    return f"<figure>{shown}<figcaption>{_text(title)}<br>{artist}{_text(note)}{mark}</figcaption></figure>\n"


def _thumbnail(path: Path, alt: str) -> str:
    with Image.open(path) as image:
        image.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=78, optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    sides = f'width="{small.width}" height="{small.height}"'
    return f'<img src="data:image/jpeg;base64,{data}" {sides} alt="{_text(alt)}" loading="lazy">'


def _text(words: object) -> str:
    return html.escape(str(words), quote=True)


def _readable(name: str) -> str:
    """`claude-monet` and `still_life` as people write them."""
    if name != name.lower() or not ("-" in name or "_" in name):
        return name
    words = name.replace("_", " ")
    return " ".join(part.capitalize() for part in words.split("-")) if "-" in words else words


def _enumerated(names: list[str]) -> str:
    shown = [_readable(name) for name in names[:8]]
    more = [f"{len(names) - 8} more"] if len(names) > 8 else []
    *first, last = shown + more
    return f"{', '.join(first)} or {last}" if first else last


def _size(picture: ImageRecord) -> str:
    return f"{picture.width} × {picture.height}"


def _words(settings: Curate) -> dict:
    values = settings.model_dump()
    return {**values, "genres": ", ".join(settings.genres) or "all"}


def _by(pictures: Iterable[ImageRecord], key: Callable[[ImageRecord], str]) -> dict[str, list[ImageRecord]]:
    """Groups, the largest first."""
    groups: dict[str, list[ImageRecord]] = {}
    for picture in pictures:
        groups.setdefault(key(picture), []).append(picture)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def _spread(pictures: list[ImageRecord], wanted: int) -> list[ImageRecord]:
    """So many of them, from the first to the last."""
    count = min(wanted, len(pictures))
    return [pictures[place * len(pictures) // count] for place in range(count)]


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue


def _light(colour: str) -> float:
    return colorsys.rgb_to_yiq(*_rgb(colour))[0]


def _warmth(colours: list[str]) -> float:
    """Blue less red, on average: warm palettes come first."""
    return sum(_rgb(colour)[2] - _rgb(colour)[0] for colour in colours) / len(colours)
