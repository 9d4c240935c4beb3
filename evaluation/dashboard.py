"""The report: pictures and numbers of a scored run in one HTML file that opens with no server.

python -m evaluation dashboard runs/NAME            writes runs/NAME/report.html
python -m evaluation dashboard runs/NAME --serve    and shows it as a Gradio page
"""

import base64
import io
import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from string import Template

import numpy as np
import pandas
from PIL import Image

from evaluation.candidates import read_scores
from evaluation.charts import curve, number, text, track
from evaluation.evidence import Table
from evaluation.exhibits import own_strength, pairs, read_gallery
from evaluation.metrics import CONTENT_KEPT, SEEN
from evaluation.score import is_better, row_of, verdict
from impressionism.paint import open_image
from impressionism.pictorial import EVERY, STATISTICS, heat
from impressionism.records import (
    FEATURES,
    FEW_PROMPTS,
    KINDS,
    QUESTIONS,
    Candidate,
    Estimate,
    Exhibit,
    Metric,
    Scores,
)

HERE = Path(__file__).parent
BUDGET = 10_000_000  # bytes of the gallery's pictures before they become text, a third longer
SIZES = ((768, 82), (640, 80), (512, 80), (384, 78), (320, 75), (256, 70), (192, 60))  # pixels and WebP quality
REFERENCE, LITTLE = (128, 70), (160, 75)  # of training pictures and of real paintings
HEAT, WARM = 32, (255, 120, 20)  # pixels and colour of a heat map


def dashboard(run: Path, *, serve: bool = False) -> None:
    """Writes RUN/report.html."""
    scores, exhibits = read_scores(run), read_gallery(run)
    pictures, real = (pandas.read_parquet(run / name) for name in ("pictures.parquet", "real.parquet"))
    path = run / "report.html"
    page = render(run, scores, exhibits, pictures, real)
    path.write_text(page, encoding="utf-8")
    print(f"{path}: {len(exhibits)} pictures, {len(page.encode()) / 1e6:.1f} MB")
    if serve:
        show(path).launch(allowed_paths=[str(run)])


def show(path: Path):
    """The same file inside Gradio."""
    import gradio as gr

    with gr.Blocks(title=path.parent.name, fill_width=True) as page:
        gr.HTML(f'<iframe title="report" src="/gradio_api/file={path.resolve()}" '
                'style="width: 100%; height: 94vh; border: 0"></iframe>')  # fmt: skip
    return page


def render(run: Path, scores: Scores, exhibits: list[Exhibit], pictures: Table, real: Table) -> str:
    template = Template((HERE / "dashboard.html").read_text(encoding="utf-8"))
    index = real["index"].to_numpy()
    better = is_better(scores)
    return template.substitute(
        title=text(f"What the adapter {scores.run} does"),
        style=(HERE / "dashboard.css").read_text(encoding="utf-8"),
        script=(HERE / "dashboard.js").read_text(encoding="utf-8"),
        standing="good" if better else "",
        verdict=text(verdict(scores)),
        asked=text(asked(scores, exhibits)),
        table=table(scores.metrics),
        traits=traits(scores, real),
        arms="".join(arm_rows(scores, band(index))),
        real=strip(run / "references" / "real"),
        recommendation=text(recommendation(scores)),
        curves=curves(scores, band(index)),
        candidates=candidates(scores),
        memory=text(memory(scores)),
        provenance=provenance(scores),
        reproduce=text(reproduce(run, scores)),
        json=link("application/json", scores.to_json().encode()),
        csv=link("text/csv", pictures.to_csv(index=False).encode()),
        parquet=link("application/vnd.apache.parquet", (run / "pictures.parquet").read_bytes()),
        data=json.dumps(embedded(run, scores, exhibits, pictures)).replace("<", "\\u003c"),
    )


# ---- In words


def asked(scores: Scores, exhibits: list[Exhibit]) -> str:
    few = f" Below {FEW_PROMPTS} prompts a result is exploratory." if scores.prompts < FEW_PROMPTS else ""
    return (f"{len(exhibits)} pictures: {scores.prompts} prompts of the set {scores.prompt_set}, {scores.seeds} seeds, "
            f"the pictures in {scores.real.split(', content')[0]} stand for real paintings.{few}")  # fmt: skip


def recommendation(scores: Scores) -> str:
    return (f"Recommended: {scores.strength:g}, the strength whose pictures come nearest to real paintings among those "
            f"that keep the content. From {scores.strength_low:.2f} half of its gain is there; up to "
            f"{scores.strength_high:.2f} the composition stays (correlation {CONTENT_KEPT:g} or more). Bands: real "
            "paintings in the index, and the usable range of strengths.")  # fmt: skip


def memory(scores: Scores) -> str:
    row = row_of(scores, "layout-copies")
    if not row.adapter or not row.real:
        return row.note
    return (f"{row.adapter.value:.1%} [{row.adapter.low:.1%}, {row.adapter.high:.1%}] of the adapter's pictures are "
            "liker to a training picture than 99 % of held-out paintings are. Likeness is the correlation of "
            "colours at 16 × 16; the twelve likest pairs are shown, the adapter's picture on the left.")  # fmt: skip


def name_of(row: Metric) -> tuple[str, str]:
    """A row's name for people, and what it looks with."""
    if row.name in STATISTICS:
        return STATISTICS[row.name].label, "pictorial statistic"
    if row.name.startswith("index"):
        return "Impressionist index", "style-worded prompt" if row.name.endswith("styled") else "plain prompt"
    feature, kind = row.name.rsplit("-", 1)
    return KINDS[kind], row.weights or FEATURES[feature]


# ---- Tables


def table(rows: Iterable[Metric]) -> str:
    head = ("", "base", "adapter", "real paintings", "difference", "gap closed", "p", "n", "")
    body = []
    for question, title in QUESTIONS.items():
        own = [row for row in rows if row.question == question]
        if own:
            body.append(f'<tr class="question"><th colspan="{len(head)}" scope="colgroup">{title}</th></tr>')
            body += [table_row(row) for row in own]
    heads = "".join(f'<th scope="col">{word}</th>' for word in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def table_row(row: Metric) -> str:
    name, looks = name_of(row)
    if row.adapter is None:
        return (f'<tr><th scope="row">{text(name)}<small>{text(looks)}</small></th>'
                f'<td class="words" colspan="8">{text(row.note)}</td></tr>')  # fmt: skip
    unit = f", {row.unit}" if row.unit else ""
    n = next((one.n for one in (row.difference, row.adapter) if one), "")
    kind, cells = effect(row), [cell(row.base), cell(row.adapter), cell(row.real)]
    coloured = [row.better == "closer" and row.gap_closed is not None, row.better != "closer"]
    cells += [cell(row.difference, kind if coloured[1] else ""), cell(row.gap_closed, kind if coloured[0] else "")]
    p = "" if row.p is None else "&lt; 0.001" if row.p < 0.001 else f"{row.p:.3f}"
    return (f'<tr><th scope="row">{text(name)}<small>{text(looks + unit)}</small></th>{"".join(cells)}'
            f'<td>{p}</td><td>{n}</td><td class="words">{text(row.note)}</td></tr>')  # fmt: skip


def cell(estimate: Estimate | None, kind: str = "") -> str:
    if estimate is None:
        return "<td>–</td>"
    reach = f"<small>{number(estimate.low)} to {number(estimate.high)}</small>"
    return f'<td class="{kind}" title="n = {estimate.n}">{number(estimate.value)}{reach}</td>'


def effect(row: Metric) -> str:
    """good or bad, if the interval leaves no doubt; a gap closed twice over is as far from the paintings as before."""
    if row.better == "closer":
        closed = row.gap_closed
        if closed is None:
            return ""
        return "good" if closed.low > 0 and closed.high < 2 else "bad" if closed.high < 0 or closed.low > 2 else ""
    change = row.difference
    if change is None or change.low <= 0 <= change.high:
        return ""
    return "good" if (change.value > 0) == (row.better == "higher") else "bad"


def candidates(scores: Scores) -> str:
    if len(scores.candidates) < 2:
        return ""
    heads = ("candidate", "base", "precision", "strength", "index", "gap closed", "content", "cost", "likeness")
    rows = "".join(candidate_row(one, chosen=one.name == scores.choice) for one in scores.candidates)
    return ('<h3>Candidates</h3><p class="note">To publish: the one whose index is nearest to real paintings, of '
            f"those that surely close more than {SEEN:.0%} of the gap and keep the content. Cost and likeness are a "
            "quantization’s, against the same adapter on the unquantized base, from the same noise.</p>"
            f'<div class="scroll"><table><thead><tr>{"".join(f"<th>{head}</th>" for head in heads)}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>")  # fmt: skip


def candidate_row(one: Candidate, *, chosen: bool) -> str:
    where = one.provenance
    mark = " <b>to publish</b>" if chosen else ""
    cells = [cell(estimate) for estimate in (one.index, one.gap_closed, one.content, one.cost, one.likeness)]
    return (f'<tr><th scope="row">{text(one.name)}{mark}</th><td>{text(where.base)}</td><td>{text(where.quantize)}, '
            f"{text(where.dtype)}</td><td>{one.strength:g}</td>{''.join(cells)}</tr>")  # fmt: skip


# ---- Drawings


def band(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [10, 90])
    return float(low), float(high)


def traits(scores: Scores, real: Table) -> str:
    """A row a statistic, drawn so that all bands lie under each other."""
    rows = []
    for row in scores.metrics:
        if row.name in STATISTICS and row.base and row.adapter:
            low, high = band(real[row.name].to_numpy())
            width = (high - low) or 1.0
            reach = max(width, *(max(low - one.low, one.high - high) for one in (row.base, row.adapter))) * 1.05
            known = STATISTICS[row.name]
            note = f"Higher: {known.higher}{' Exploratory.' if known.exploratory else ''}"
            marks = [("base", row.base), ("adapter", row.adapter)]
            rows.append(track(known.label, note, (low, high), marks, (low - reach, high + reach)))
    return "".join(rows)


def arm_rows(scores: Scores, real: tuple[float, float]) -> list[str]:
    words = {
        "base": ("Base", "plain prompt"), "base-styled": ("Base", "style-worded prompt"),
        "adapter": ("Adapter", "plain prompt"), "adapter-styled": ("Adapter", "style-worded prompt"),
    }  # fmt: skip
    return [track(*words[arm], real, [(arm.split("-")[0], scores.arms[arm])], (0, 1))
            for arm in words if arm in scores.arms]  # fmt: skip


def curves(scores: Scores, real: tuple[float, float]) -> str:
    good = (scores.strength_low, min(scores.strength_high, scores.curve[-1].strength))
    drawn = [("index", "Impressionist index", real), ("content", "Content kept", None)]
    return "".join(f"<figure>{curve(scores.curve, what, where, good)}<figcaption>{title}, by strength"
                   "</figcaption></figure>" for what, title, where in drawn)  # fmt: skip


# ---- Pictures


def embedded(run: Path, scores: Scores, exhibits: list[Exhibit], pictures: Table) -> dict:
    """What dashboard.js works with."""
    columns = [name for name in pictures.columns if name not in EVERY]
    return {
        "strength": own_strength(exhibits),
        "pictures": json.loads(pictures[columns].to_json(orient="records", double_precision=4)),
        "best": scores.best,
        "worst": scores.worst,
        "images": images(run, exhibits),
    }


def images(run: Path, exhibits: list[Exhibit]) -> dict[str, str]:
    """Data addresses by name: the gallery's files, their heat maps (file#heat), training pictures (training/file)."""
    files = [exhibit.file for exhibit in exhibits]
    size = fitting([run / "gallery" / file for file in files])
    paired = list(dict.fromkeys(exhibit.file for pair in pairs(exhibits) for exhibit in pair))
    with ProcessPoolExecutor() as pool:
        encoded = pool.map(webp, [run / "gallery" / file for file in files], [size] * len(files), chunksize=8)
        result = dict(zip(files, encoded, strict=True))
        warm = pool.map(heat_map, [run / "gallery" / file for file in paired], chunksize=4)
        result |= {f"{file}#heat": map for file, map in zip(paired, warm, strict=True)}
    for file in sorted((run / "references" / "training").glob("*.webp")):
        result[f"training/{file.stem}"] = webp(file, REFERENCE)
    return result


def fitting(files: list[Path]) -> tuple[int, int]:
    """The largest pictures that the budget allows, by a sample of them."""
    sample = files[:: max(1, len(files) // 12)]
    for size in SIZES:
        if sum(len(compressed(file, size)) for file in sample) / len(sample) * len(files) <= BUDGET:
            return size
    return SIZES[-1]


def compressed(file: Path, size: tuple[int, int]) -> bytes:
    picture = open_image(file).convert("RGB")
    picture.thumbnail((size[0], size[0]), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "webp", quality=size[1], method=5)
    return stream.getvalue()


def webp(file: Path, size: tuple[int, int]) -> str:
    return link("image/webp", compressed(file, size))


def heat_map(file: Path) -> str:
    """The heat as a small transparent picture that the browser enlarges."""
    warmth = Image.fromarray((230 * heat(open_image(file).convert("RGB"))).astype(np.uint8))
    warmth.thumbnail((HEAT, HEAT))
    shown = Image.new("RGBA", warmth.size, (*WARM, 0))
    shown.putalpha(warmth)
    stream = io.BytesIO()
    shown.save(stream, "png", optimize=True)
    return link("image/png", stream.getvalue())


def strip(folder: Path) -> str:
    return "".join(f'<img src="{webp(file, LITTLE)}" alt="real painting {text(file.stem)}">'
                   for file in sorted(folder.glob("*.webp")))  # fmt: skip


def link(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


# ---- Where it comes from


def provenance(scores: Scores) -> str:
    p = scores.provenance
    facts = {
        "Base": f"{p.base}, {p.base_revision}",
        "Adapter": f"{p.adapter}, {p.adapter_revision}",
        "Precision": f"{p.quantize if p.quantize != 'none' else 'not quantized'}, {p.dtype}, on {p.device}",
        "Prompts": f"{scores.prompt_set}, SHA-256 {scores.prompt_set_sha256[:16]}",
        "Real paintings": scores.real,
        "Painted with": ", ".join(f"{name} {version}" for name, version in p.versions.items()),
        "Scored with": ", ".join(f"{name} {version}" for name, version in scores.versions.items()),
        "Scored on": f"{scores.machine}, in {scores.seconds:.0f} s",
    }
    return "".join(f"<dt>{name}</dt><dd>{text(value)}</dd>" for name, value in facts.items())


def reproduce(run: Path, scores: Scores) -> str:
    name = f"runs/{run.resolve().name}"
    return (f"python -m evaluation gallery {name}\npython -m evaluation score {name} --real REAL --training TRAINING\n"
            f"python -m evaluation dashboard {name}")  # fmt: skip
