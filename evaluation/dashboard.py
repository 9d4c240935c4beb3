"""The report: pictures and numbers of a scored run in one HTML file that opens without a server.

python -m evaluation dashboard runs/NAME            writes runs/NAME/report.html
"""

from pathlib import Path

import jinja2
import numpy as np
import pandas

from evaluation.evidence import Table
from evaluation.exhibits import own_strength, pairs, read_gallery, read_scores
from evaluation.features import in_parallel
from evaluation.rows import SEEN
from impressionism import plots
from impressionism.estimates import interval, is_sure, number, p_value, percent, short
from impressionism.files import data_url, read_picture, write_atomic
from impressionism.pictorial import STATISTICS
from impressionism.records import FEATURES, FEW_PROMPTS, KINDS, QUESTIONS, Metric, Scores

BUDGET = 13_000_000  # characters for the gallery's pictures
SMALLEST = {"score": 0.5, "preferred": 0.5, "yes": 0.05, "nearest": 0.05, "copies": 0.02}
"""The least difference that is coloured, by what a row measures; elsewhere a tenth of the base's value."""
SIZES = ((512, 80), (384, 78), (320, 75), (256, 70), (192, 60))  # pixels and WebP quality


def dashboard(run: Path) -> None:
    """Writes RUN/report.html."""
    scores, exhibits = read_scores(run), read_gallery(run)
    pictures, real = (pandas.read_parquet(run / name) for name in ("pictures.parquet", "real.parquet"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {written.__name__: written for written in (number, interval, percent, p_value, short)}
    files = [run / "gallery" / exhibit.file for exhibit in exhibits]
    references = {kind: sorted((run / "references" / kind).glob("*.webp")) for kind in ("real", "training")}
    table, strength = pictures.set_index("file"), own_strength(exhibits)
    compared = [(base.file, adapted.file) for base, adapted in pairs(exhibits)]
    base_of = {adapted: base for base, adapted in compared}
    page = environment.get_template("dashboard.html.j2").render(
        scores=scores,
        own_strength=strength,
        exploratory=scores.prompts < FEW_PROMPTS,
        point=scores.recommended,
        varied=next((one for one in scores.curve if one.strength == strength), scores.recommended),
        images=encoded(files),
        real=[data_url(file.read_bytes(), "webp") for file in references["real"]],
        training={file.stem: data_url(file.read_bytes(), "webp") for file in references["training"]},
        curve=data_url(plots.strength_curve(scores), "png"),
        traits=data_url(trait_plot(scores, real), "png"),
        pairs=compared,
        base_of=base_of,
        table={name: row.to_dict() for name, row in table.iterrows()},
        questions=[(title, [row for row in scores.metrics if row.question == question and row.adapter])
                   for question, title in QUESTIONS.items()],
        not_computed=[row for row in scores.metrics if not row.adapter],
        name_of=name_of,
        colour=colour,
        nearest=nearest_first(table, [adapted for _, adapted in compared]),
        reproduce=reproduce(run),
        downloads={
            "scores.json": data_url(scores.to_json().encode(), "json").replace("image/", "application/", 1),
            "pictures.csv": data_url(pictures.to_csv(index=False).encode(), "csv").replace("image/", "text/", 1),
        },
    )  # fmt: skip
    path = write_atomic(run / "report.html", page)
    print(f"{path}: {len(exhibits)} pictures, {len(page.encode()) / 1e6:.1f} MB")


# ---- What the numbers say


def name_of(row: Metric) -> tuple[str, str]:
    """A row's name for people, and what it looks with."""
    if row.name in STATISTICS:
        return STATISTICS[row.name].label, "pictorial statistic"
    if row.name.startswith("index"):
        return "Impressionist index", "style-worded prompt" if row.name.endswith("styled") else "plain prompt"
    feature, kind = row.name.rsplit("-", 1)
    return KINDS[kind], row.weights or FEATURES[feature]


def colour(row: Metric) -> str:
    """good or bad, where the difference is sure and large enough to see; a gap closed twice over is as far from the
    paintings as before."""
    if row.difference is None or not is_sure(row):
        return ""
    if row.better == "closer":
        closed = row.gap_closed
        if closed is None or abs(closed.value) < SEEN:
            return ""
        return "good" if closed.low > 0 and closed.high < 2 else "bad" if closed.high < 0 or closed.low > 2 else ""
    tenth = SEEN * abs(row.base.value) if row.base else 0.0
    if abs(row.difference.value) < SMALLEST.get(row.name.rpartition("-")[2], tenth):
        return ""
    return "good" if (row.difference.value > 0) == (row.better == "higher") else "bad"


def nearest_first(table: Table, adapted: list[str]) -> list[str]:
    """The adapter's twelve pictures that are most like a training picture."""
    if "likeness" not in table:
        return []
    return list(table.loc[adapted].sort_values("likeness", ascending=False).index[:12])


def trait_plot(scores: Scores, real: Table) -> bytes:
    """Base and adapter beside the middle 80% of real paintings, each statistic in units of that range."""
    rows = [row for row in scores.metrics if row.name in STATISTICS and row.base and row.adapter]
    figure, axes = plots.canvas(1.0 + 0.45 * len(rows))
    for place, row in enumerate(reversed(rows)):
        low, high = np.percentile(real[row.name], [10, 90])
        width = float(high - low) or 1.0
        for estimate, shift, tint, label in (
            (row.base, 0.12, plots.GREY, "base"),
            (row.adapter, -0.12, plots.BLUE, "adapter"),
        ):
            ends = [(value - low) / width for value in (estimate.low, estimate.value, estimate.high)]  # pyright: ignore[reportOptionalMemberAccess]
            axes.plot([ends[0], ends[2]], [place + shift] * 2, color=tint, linewidth=2)
            axes.plot(ends[1], place + shift, "o", color=tint, label=label if place == 0 else None)
    axes.axvspan(0, 1, color=plots.ORANGE, alpha=0.15, label="80% of real paintings")
    axes.set_yticks(range(len(rows)), [STATISTICS[row.name].label for row in reversed(rows)])
    axes.set_xticks([0, 1], ["10%", "90%"])
    return plots.png(figure)


def reproduce(run: Path) -> str:
    name = f"runs/{run.resolve().name}"
    return (f"python -m evaluation gallery {name}\npython -m evaluation score {name} --real REAL --training TRAINING\n"
            f"python -m evaluation dashboard {name}")  # fmt: skip


# ---- Pictures


def encoded(files: list[Path]) -> dict[str, str]:
    """Data addresses by the gallery's names (folder/file), as large as the budget allows by a sample."""

    def address(file: Path, side: int, quality: int) -> str:
        return data_url(read_picture(file, max_side=side), quality=quality, method=4)

    sample = files[:: max(1, len(files) // 12)]
    sizes = (size for size in SIZES if len(files) * np.mean([len(address(file, *size)) for file in sample]) <= BUDGET)
    side, quality = next(sizes, SIZES[-1])
    addresses = in_parallel(lambda file: address(file, side, quality), files)
    return {f"{file.parent.name}/{file.name}": url for file, url in zip(files, addresses, strict=True)}
