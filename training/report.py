"""What `curate` examined, kept and dropped, as one HTML page with pictures that loads nothing from the network."""

import collections
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from impressionism import plots
from impressionism.files import data_url, thumbnail, write_atomic
from training.recipe import Curate

if TYPE_CHECKING:
    from training.curate import ImageRecord, Reason

THUMBNAIL = 180  # px
SHEET = 60  # pictures on the sheet of the kept
REASON_SHEET = 18  # pictures on a sheet of the dropped
PAIRS = 24
ARTISTS = 25  # rows of the table; the others are one row
SIDES = (0, 256, 512, 768, 1024, 1536, 2048, 3072)  # px
ASPECTS = (0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.25, 1.4, 1.6, 1.8, 2.2)  # width / height


def write_report(
    path: Path,
    records: "list[ImageRecord]",
    pictures: Path,
    settings: Curate,
    source: str,
    meaning: "dict[Reason, str]",
) -> None:
    """One HTML file. pictures: the folder that has each record's file, or a thumbnail of it."""
    examined = [record for record in records if record.file]  # not those of another style or genre, or undecodable
    kept = [record for record in records if record.kept]
    held = [record for record in kept if record.held_out]
    unseen = {one.artist for one in held if one.artist} - {one.artist for one in kept if not one.held_out}
    cut = [record for record in examined if record.box]
    by_id = {record.id: record for record in examined if record.twin is None}
    pairs = [(by_id[record.twin], record) for record in examined if record.twin in by_id]
    counts = collections.Counter(record.reason for record in records)
    values = settings.model_dump() | {"genres": ", ".join(settings.genres) or "all"}
    by_genre = grouped(kept, _genre)

    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    templates.filters |= {
        "readable": readable,
        "size": lambda record: f"{record.width} × {record.height}",
        "thumbnail": lambda record, before: data_url(
            thumbnail(pictures / (f"{record.id}.before" if before else record.file), THUMBNAIL), "jpeg", quality=78
        ),
    }
    page = templates.get_template("report.html.j2").render(
        source=source, records=records, kept=kept, held=len(held), unseen=sorted(unseen), settings=values,
        reasons=[("kept", "", counts[None]),
                 *((why, text.format(**values), counts[why]) for why, text in meaning.items() if counts[why])],
        table=_table(examined), chart=data_url(_histograms(examined), "png"),
        kept_sheets=[(genre, len(group), _spread(group, max(1, SHEET // len(by_genre))))
                     for genre, group in by_genre.items()],
        cut=len(cut), cut_shown=_spread(cut, REASON_SHEET), pairs=len(pairs), pairs_shown=_spread(pairs, PAIRS),
        dropped_sheets=[(why, counts[why], _spread([one for one in records if one.reason == why], REASON_SHEET))
                        for why in meaning if counts[why] and why.name not in ("STYLE", "GENRE", "DUPLICATE")],
    )  # fmt: skip
    write_atomic(path, page)


def readable(name: str) -> str:
    """`claude-monet` and `still_life` as people write them."""
    if name != name.lower() or not ("-" in name or "_" in name):
        return name
    words = name.replace("_", " ")
    return " ".join(part.capitalize() for part in words.split("-")) if "-" in words else words


def _genre(record: "ImageRecord") -> str:
    return record.genre or "no genre"


def _artist(record: "ImageRecord") -> str:
    return record.artist or "unsigned"


def grouped(records: "Iterable[ImageRecord]", key: "Callable[[ImageRecord], str]") -> "dict[str, list[ImageRecord]]":
    """The largest group first."""
    groups: dict[str, list[ImageRecord]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def _table(examined: "list[ImageRecord]") -> tuple[list[str], list[tuple[str, list[tuple[int, int]]]]]:
    """(genres and "all", for each artist, the rest of them and all: how many pictures of each genre, how many kept)."""
    genres, artists = list(grouped(examined, _genre)), grouped(examined, _artist)
    rows = dict(list(artists.items())[:ARTISTS])
    if others := list(artists.values())[ARTISTS:]:
        rows[f"{len(others)} more"] = [record for group in others for record in group]
    rows["all"] = examined

    def counts(records: "list[ImageRecord]") -> list[tuple[int, int]]:
        groups = [[record for record in records if _genre(record) == genre] for genre in genres]
        return [(len(group), sum(record.kept for record in group)) for group in [*groups, records]]

    return [*genres, "all"], [(artist, counts(records)) for artist, records in rows.items()]


def _histograms(examined: "list[ImageRecord]") -> bytes:
    """Shorter side, and width over height: the dropped stand on the kept."""
    figure, first = plots.canvas()
    first.remove()
    for axes, edges, label, measure in zip(
        figure.subplots(1, 2), (SIDES, ASPECTS), ("shorter side, px", "width / height"),
        (lambda record: min(record.width, record.height), lambda record: record.width / record.height), strict=True,
    ):  # fmt: skip
        groups = ([record for record in examined if record.kept], [record for record in examined if not record.kept])
        bins = [np.histogram([measure(record) for record in group], [*edges, math.inf])[0] for group in groups]
        axes.bar(range(len(edges)), bins[0], color=plots.BLUE, label="kept")
        axes.bar(range(len(edges)), bins[1], bottom=bins[0], color=plots.GREY, label="dropped")
        axes.set_xticks(
            [place - 0.5 for place in range(1, len(edges))], [f"{edge:g}" for edge in edges[1:]], rotation=45
        )
        axes.set(xlabel=label, ylabel="pictures")
        axes.legend(frameon=False)
    return plots.png(figure, legend=False)


def _spread(items: list[Any], wanted: int) -> list[Any]:
    """So many of them, from the first to the last."""
    count = min(wanted, len(items))
    return [items[place * len(items) // count] for place in range(count)]
