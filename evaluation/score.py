"""What the adapter does, in numbers: scores.json for the dashboard and the card, and a row a picture.

python -m evaluation score runs/NAME --real FOLDER --training FOLDER

The main score is the gap closed, (adapter - base) / (real - base): 0 is the base model, 1 a real painting that no
training saw. Prompts are the unit: pictures of one are averaged, intervals are drawn over prompts, and the p values of
one question are corrected together. The verdict calls no adapter good that loses the scene, repeats itself, copies,
overdoes, moves away from real paintings in any distance, or is beaten by a prompt that asks for the style in words.
"""

import dataclasses
import platform
import time
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas

from evaluation.candidates import choose, gather
from evaluation.evidence import OUT_OF_STYLE, ScoreInputs, Table, collect, real_pictures
from evaluation.exhibits import own_strength
from evaluation.intervals import bootstrap
from evaluation.judge import judge_rows
from evaluation.learned import learned_rows
from evaluation.metrics import CONTENT_KEPT, COPIED, DIVERSE, SEEN, nearest, recommended, useful
from evaluation.prompt_set import PromptSet, digest
from evaluation.rows import COPY, ROW, corrected, distinct, gap_of, weightless
from impressionism.files import thumbnail
from impressionism.hub import digest_of, label
from impressionism.records import FEATURES, FEW_PROMPTS, AtStrength, Estimate, Failure, GenreScores, Metric, Scores

SHOWN = 12  # of the best, of the worst, and of real paintings
THUMBNAIL = 256  # pixels, of a picture that is not the gallery's
DISTANCES = ("pictorial", "network", "palette")  # features in which no adapter may surely move away


def score(
    run: Path,
    *,
    real: Path,
    training: Path | None = None,
    candidates: Sequence[Path] = (),
    features: Sequence[str] | None = None,
    device: str = "auto",
    judge: str | None = None,
    judge_model: str | None = None,
) -> None:
    """Writes RUN/pictures.parquet, real.parquet, references/ and, last, scores.json."""
    began = time.perf_counter()
    evidence = collect(run, real, training)
    rows = corrected(
        weightless(evidence) + judge_rows(evidence, judge, judge_model) + learned_rows(evidence, real, features, device)
    )
    curve = strength_curve(evidence)
    target = float(evidence.real["score"].mean())
    strength = recommended(curve, target)
    at_recommended = cross_fitted(evidence, curve, target)
    low, high = useful(curve, strength)
    failed = reasons(evidence.at(strength), at_recommended)
    best, worst = extremes(evidence)
    file = run / "gallery" / "prompts.yaml"
    prompts = PromptSet.read(file)
    scores = Scores(
        run=run.resolve().name,
        provenance=evidence.exhibits[0].recipe.provenance,
        prompt_set=f"{prompts.name}, version {prompts.version}",
        prompt_set_sha256=digest(file),
        prompts=int(evidence.pictures["prompt"].nunique()),
        seeds=int(evidence.pictures["seed"].nunique()),
        real=f"{label(real)}, {len(evidence.real)} pictures, content {digest_of(*real_pictures(real))}",
        metrics=rows,
        arms={arm: bootstrap(evidence.column("index", arm)) for arm in evidence.pictures["arm"].unique()},
        curve=curve,
        strength=strength,
        strength_low=low,
        strength_high=high,
        measure=evidence.measure,
        good=not failed,
        failed=failed,
        at_recommended=at_recommended,
        genres=by_genre(evidence),
        failures=failures(evidence),
        best=best,
        worst=worst,
        seconds=round(time.perf_counter() - began, 1),
        machine=f"{platform.system()}, {platform.machine()}, Python {platform.python_version()}",
        versions={name: metadata.version(name) for name in ("numpy", "scipy", "opencv-python-headless", "torch")},
    )
    scores = dataclasses.replace(scores, verdict=in_words(scores, rival_gap(evidence)))
    found = gather(run, scores, evidence.pictures, candidates)
    scores = dataclasses.replace(scores, candidates=found, choice=choose(found))
    write(evidence, real, scores)
    print(f"{scores.verdict}\n{run / 'scores.json'}")


# ---- The verdict


def row_of(scores: Scores, name: str) -> Metric:
    return next(row for row in scores.metrics if row.name == name)


def problems(evidence: ScoreInputs, content: Estimate, varied: Estimate | None) -> list[str]:
    """What speaks against the adapter at the strength of `evidence`, however much of the gap it closes.

    Other strengths than the gallery's own are painted from fewer noises, which show less. There, what is sure at the
    own strength counts too: variety where it could not be measured, and a distance that grows here as well.
    """
    result, whole = [], dataclasses.replace(evidence, strength=None)
    fewer = len(evidence.rows("adapter")) < len(whole.rows("adapter"))
    if varied is None and fewer:
        varied = diversity(whole, own_strength(evidence.exhibits))
    if content.value < CONTENT_KEPT:
        result.append(
            f"it paints another scene (its composition correlates with the base's by {content.value:.2f}, "
            f"less than {CONTENT_KEPT:g})"
        )
    if varied and varied.high < DIVERSE:
        result.append(f"its pictures of one prompt repeat each other ({varied.value:.0%} of the base's variety)")
    for name in DISTANCES:
        difference = ROW["kid"](evidence, evidence.vectors[name]).difference
        sure = difference and difference.low > 0
        if fewer and difference and difference.value > 0 and not sure:
            at_own = ROW["kid"](whole, evidence.vectors[name]).difference
            sure = at_own and at_own.low > 0
        if sure:
            result.append(f"it moves away from real paintings ({FEATURES[name]}: kernel distance surely grows)")
    copies = ROW["copies"](evidence, evidence.vectors["layout"])
    if copies.adapter and copies.difference and copies.difference.low > 0 and copies.adapter.low > COPIED:
        result.append(f"it copies training pictures ({copies.adapter.value:.0%} of its pictures are close to one)")
    return result


def reasons(evidence: ScoreInputs, point: AtStrength) -> list[str]:
    """Why the adapter is not good at its recommended strength; none if it is. point: measured on other prompts."""
    closed = point.gap_closed
    result = []
    if closed is None:
        result.append("nothing tells the real paintings from the base model's pictures")
    elif closed.low <= SEEN:
        result.append(
            f"it does not surely close more than {SEEN:.0%} of the gap between the base and real paintings "
            f"({share_of(closed)})"
        )
    elif closed.low > 1:
        result.append(f"it is overdone ({share_of(closed)} of the gap)")
    result += point.problems
    worded, own = words_against(evidence)
    if worded is not None and own is not None and worded.low > 0:
        result.append(f"words alone come closer to real paintings (by {worded.value:.2f})")
    return result


def words_against(evidence: ScoreInputs) -> tuple[Estimate | None, Estimate | None]:
    """How much nearer to real paintings the base comes by a prompt worded in the style than the adapter does without,
    prompt by prompt in the main measure; and the same the other way round."""
    styled = evidence.rows("base-styled")
    if not len(styled):
        return None, None
    target = float(evidence.real["score"].mean())
    words, adapter = (evidence.column("score", arm) for arm in ("base-styled", "adapter"))
    if len(words) < 2 or words.keys() != adapter.keys():
        return None, None
    nearer = {p: abs(np.mean(adapter[p]) - target) - abs(np.mean(words[p]) - target) for p in words}
    return bootstrap(nearer), bootstrap({prompt: -value for prompt, value in nearer.items()})  # pyright: ignore[reportArgumentType]


def rival_gap(evidence: ScoreInputs) -> Estimate | None:
    """The gap that a prompt worded in the style closes without the adapter."""
    if not len(evidence.rows("base-styled")):
        return None
    real = evidence.real_of(evidence.real["score"])
    return gap_of(evidence, evidence.column("score", "base"), evidence.column("score", "base-styled"), real)


def share_of(estimate: Estimate) -> str:
    return f"{estimate.value:.0%} [{estimate.low:.0%}, {estimate.high:.0%}]"


def in_words(scores: Scores, words: Estimate | None) -> str:
    """The verdict in a sentence or two, the reasons first."""
    point = scores.recommended
    told = f"Words alone close {share_of(words)}." if words else ""
    if scores.failed:
        closed = f" It closes {share_of(point.gap_closed)} of the gap." if point.gap_closed else ""
        return f"Not good at its best strength, {scores.strength:g}: {'; '.join(scores.failed)}.{closed} {told}".strip()
    assert point.gap_closed
    few = f" With fewer than {FEW_PROMPTS} prompts this is exploratory." if scores.prompts < FEW_PROMPTS else ""
    return (
        f"Good at strength {scores.strength:g}: it closes {share_of(point.gap_closed)} of the gap between the base and "
        f"real paintings and keeps the scene (correlation {point.content.value:.2f}). {told}{few}"
    ).strip()


# ---- Strengths


def strength_curve(evidence: ScoreInputs) -> list[AtStrength]:
    """The plain prompt at every strength; only noises that are painted at all of them, so that points compare."""
    return [at_strength(evidence, strength, table_at(evidence, strength)) for strength in strengths_of(evidence)]


def strengths_of(evidence: ScoreInputs) -> list[float]:
    pictures = evidence.pictures[evidence.pictures["arm"].isin(["base", "adapter"])]
    return sorted(float(strength) for strength in pictures["strength"].unique())


def table_at(evidence: ScoreInputs, strength: float) -> Table:
    """The plain pictures at a strength, of the noises that are painted at all strengths."""
    pictures = evidence.pictures[evidence.pictures["arm"].isin(["base", "adapter"])]
    counts = pictures.groupby(["prompt", "seed"])["strength"].transform("nunique")
    shared = pictures[counts == len(strengths_of(evidence))]
    return shared[shared["strength"] == strength]


def at_strength(evidence: ScoreInputs, strength: float, pictures: Table) -> AtStrength:
    index, own, content = (
        pictures.groupby("prompt")[name].apply(list).to_dict() for name in ("index", "score", "content")
    )
    kept, varied = bootstrap(content), diversity(evidence, strength)
    real = evidence.real_of(evidence.real["score"])
    base = table_at(evidence, 0.0).groupby("prompt")["score"].apply(list).to_dict()
    return AtStrength(
        strength=strength,
        index=bootstrap(index),
        content=kept,
        diversity=varied,
        score=bootstrap(own),
        gap_closed=gap_of(evidence, base, own, real) if strength else None,
        problems=problems(evidence.at(strength), kept, varied) if strength else [],
    )


def cross_fitted(evidence: ScoreInputs, curve: list[AtStrength], real: float) -> AtStrength:
    """The recommended strength, each half of the prompts measured at the strength that the other half chose."""
    prompts = sorted(set(table_at(evidence, 0.0)["prompt"]))
    halves, tables = [prompts[::2], prompts[1::2]], {s: table_at(evidence, s) for s in strengths_of(evidence)}
    whole = recommended(curve, real)
    if min(map(len, halves)) < 2:
        return next(point for point in curve if point.strength == whole)
    parts = []
    for own, other in (halves, halves[::-1]):
        points = []
        for point in curve:
            table = tables[point.strength]
            values = table[table["prompt"].isin(other)].groupby("prompt")["score"].apply(list).to_dict()
            points.append(dataclasses.replace(point, score=bootstrap(values, draws=100)))
        chosen = tables[recommended(points, real)]
        parts.append(chosen[chosen["prompt"].isin(own)])
    measured = at_strength(evidence, whole, pandas.concat(parts))
    known = next(point for point in curve if point.strength == whole)
    return dataclasses.replace(measured, problems=known.problems)


def diversity(evidence: ScoreInputs, strength: float) -> Estimate | None:
    """Effective number of pictures of a prompt over the base's; None where a prompt was painted from one noise only."""
    base, own = evidence.rows("base"), evidence.rows("adapter" if strength else "base", strength)
    if len(own) < len(base) or evidence.pictures["seed"].nunique() < 2:
        return None
    before, after = (distinct(evidence, evidence.vectors["layout"], rows) for rows in (base, own))
    return bootstrap({prompt: after[prompt][0] / before[prompt][0] for prompt in before})


# ---- Genres and failures


def by_genre(evidence: ScoreInputs) -> dict[str, GenreScores]:
    """Of each genre with two prompts or more."""
    real = evidence.real_of(evidence.real["score"])
    sides = (("index", "base"), ("index", "adapter"), ("content", "adapter"), ("score", "base"), ("score", "adapter"))
    columns = [evidence.column(name, arm) for name, arm in sides]
    result = {}
    for genre in dict.fromkeys(evidence.genres.values()):
        names = [prompt for prompt, of in evidence.genres.items() if of == genre and prompt in columns[0]]
        if len(names) > 1:
            parts = [{name: column[name] for name in names} for column in columns]
            result[genre] = GenreScores(
                base=bootstrap(parts[0]),
                adapter=bootstrap(parts[1]),
                content=bootstrap(parts[2]),
                gap_closed=None if genre == OUT_OF_STYLE else gap_of(evidence, parts[3], parts[4], real),
            )
    return result


def failures(evidence: ScoreInputs, count: int = SHOWN) -> list[Failure]:
    """The worst pictures for each thing that failed, at most so many in all; none where nothing failed."""
    adapted = evidence.pictures.loc[evidence.rows("adapter")]
    limit = None
    if "likeness" in adapted:
        layout = evidence.vectors["layout"]
        limit = float(np.percentile(nearest(layout.real, layout.training)[1], COPY))  # pyright: ignore[reportArgumentType]
    kinds = {
        "scene lost": (adapted["content"], CONTENT_KEPT, -1),
        "less Impressionist": (adapted["gain"], 0.0, -1),
        "like a training picture": (adapted["likeness"], limit, 1) if limit is not None else None,
        "not what the prompt says": (adapted["shown"], 0.5, -1) if "shown" in adapted else None,
    }
    groups = []
    for what, kind in kinds.items():
        if kind is not None:
            values, level, way = kind
            failed = values[way * values > way * level].sort_values(ascending=way < 0)
            groups.append([Failure(file=adapted["file"][i], what=what, value=float(v)) for i, v in failed.items()])
    each = max(1, count // max(1, sum(bool(group) for group in groups)))
    return [failure for group in groups for failure in group[:each]]


def extremes(evidence: ScoreInputs, count: int = SHOWN) -> tuple[list[str], list[str]]:
    """Files of the pairs that gained most and least: of each genre the first, then by rank over all. The showcase
    has a best, a worst and a middle of each genre by the same gain (showcase.choose)."""
    adapted = evidence.pictures.loc[evidence.rows("adapter")].sort_values("gain")
    return ranked(adapted[::-1], count), ranked(adapted, count)


def ranked(pictures: Table, count: int) -> list[str]:
    leaders = pictures.drop_duplicates("genre")
    others = pictures.drop(leaders.index).head(max(0, count - len(leaders)))
    chosen = {*leaders["file"], *others["file"]}
    return [file for file in pictures["file"] if file in chosen]


# ---- Files


def write(evidence: ScoreInputs, real: Path, scores: Scores) -> None:
    """The tables, small copies of the paintings that the dashboard shows, and the scores last."""
    run = evidence.run
    evidence.pictures.to_parquet(run / "pictures.parquet", index=False)
    evidence.real.to_parquet(run / "real.parquet", index=False)
    some = real_pictures(real)
    thumbnails(some[:: max(1, len(some) // SHOWN)][:SHOWN], run / "references" / "real")
    if "nearest" in evidence.pictures:
        wanted = set(evidence.pictures["nearest"])
        thumbnails((file for file in evidence.training if file.name in wanted), run / "references" / "training")
    (run / "scores.json").write_text(scores.to_json() + "\n", encoding="utf-8")


def thumbnails(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        thumbnail(file, THUMBNAIL).save(folder / f"{file.name}.webp", quality=80)
