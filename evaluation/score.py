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

from evaluation.evidence import OUT_OF_STYLE, ScoreInputs, Table, collect, real_pictures
from evaluation.exhibits import own_strength
from evaluation.judge import judge_rows
from evaluation.learned import learned_rows
from evaluation.numbers import bootstrap, holm
from evaluation.prompt_set import PromptSet
from evaluation.rows import SEEN, copies_row, copy_limit, distinct, gap_of, kid_row, weightless
from impressionism.estimates import percent
from impressionism.files import thumbnail, write_atomic
from impressionism.hub import digest_of, label, sha256_of
from impressionism.records import FEATURES, FEW_PROMPTS, AtStrength, Estimate, Failure, GenreScores, Scores

CONTENT_KEPT = 0.8
"""Correlation with the base model's composition from which on the content counts as kept."""
DIVERSE = 0.8
"""Distinct pictures of a prompt, relative to the base's, below which an adapter surely repeats itself."""
COPIED = 0.02
"""Share of pictures closer to a training picture than 99% of real paintings, above which an adapter surely copies."""
DISTANCES = ("pictorial", "network", "palette")  # features in which no adapter may surely move away
SHOWN = 12  # of the best, of the worst, and of real paintings
THUMBNAIL = 256  # pixels, of a picture that is not the gallery's


def score(
    run: Path,
    *,
    real: Path,
    training: Path | None = None,
    features: Sequence[str] | None = None,
    device: str = "auto",
    judge: str | None = None,
    judge_model: str | None = None,
) -> None:
    """Writes RUN/pictures.parquet, real.parquet, references/ and, last, scores.json."""
    began = time.perf_counter()
    evidence = collect(run, real, training)
    rows = weightless(evidence)
    rows += judge_rows(evidence, judge, judge_model) + learned_rows(evidence, real, features, device)
    corrected = holm([row.p for row in rows], [row.question for row in rows])
    curve = strength_curve(evidence)
    strength = recommended(curve, evidence.real["score"].mean())
    at_recommended = cross_fitted(evidence, curve)
    low, high = useful(curve, strength)
    failed = reasons(evidence.at(strength), at_recommended)
    adapted = evidence.pictures.loc[evidence.rows("adapter")].sort_values("gain")
    file = run / "gallery" / "prompts.yaml"
    prompts = PromptSet.read(file)
    scores = Scores(
        run=run.resolve().name,
        provenance=evidence.exhibits[0].recipe.provenance,
        prompt_set=f"{prompts.name}, version {prompts.version}",
        prompt_set_sha256=sha256_of(file).hex(),
        prompts=int(evidence.pictures["prompt"].nunique()),
        seeds=int(evidence.pictures["seed"].nunique()),
        real=f"{label(real)}, {len(evidence.real)} pictures, content {digest_of(*real_pictures(real))}",
        metrics=[dataclasses.replace(row, p=p) for row, p in zip(rows, corrected, strict=True)],
        arms={arm: bootstrap(evidence.column("index", arm)) for arm in evidence.pictures["arm"].unique()},
        curve=curve,
        strength=strength,
        strength_low=low,
        strength_high=high,
        measure=evidence.measure,
        good=not failed,
        failed=failed,
        at_recommended=at_recommended,
        words=words_gap(evidence),
        genres=by_genre(evidence),
        failures=failures(evidence),
        best=ranked(adapted[::-1]),
        worst=ranked(adapted),
        seconds=round(time.perf_counter() - began, 1),
        machine=f"{platform.system()}, {platform.machine()}, Python {platform.python_version()}",
        versions={name: metadata.version(name) for name in ("numpy", "scipy", "opencv-python-headless", "torch")},
    )
    scores = dataclasses.replace(scores, verdict=in_words(scores))
    write(evidence, real, scores)
    print(f"{scores.verdict}\n{run / 'scores.json'}")


# ---- The verdict


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
        growth = kid_row(evidence, evidence.vectors[name]).get("difference")
        if fewer and growth and growth.value > 0 >= growth.low:
            growth = kid_row(whole, evidence.vectors[name])["difference"]
        if growth and growth.low > 0:
            result.append(f"it moves away from real paintings ({FEATURES[name]}: kernel distance surely grows)")
    copies = copies_row(evidence, evidence.vectors["layout"])
    if "difference" in copies and copies["difference"].low > 0 and copies["adapter"].low > COPIED:
        result.append(f"it copies training pictures ({copies['adapter'].value:.0%} of its pictures are close to one)")
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
            f"({percent(closed)})"
        )
    elif closed.low > 1:
        result.append(f"it is overdone ({percent(closed)} of the gap)")
    worded = words_against(evidence)
    beaten = [f"words alone come closer to real paintings (by {worded.value:.2f})"] if worded and worded.low > 0 else []
    return result + point.problems + beaten


def words_against(evidence: ScoreInputs) -> Estimate | None:
    """How much nearer to real paintings, in the main measure, the base comes by a prompt worded in the style than the
    adapter does without; prompt by prompt."""
    words, adapter = (evidence.column("score", arm) for arm in ("base-styled", "adapter"))
    if len(words) < 2 or words.keys() != adapter.keys():
        return None
    target = evidence.real["score"].mean()
    return bootstrap({p: abs(np.mean(adapter[p]) - target) - abs(np.mean(words[p]) - target) for p in words})


def words_gap(evidence: ScoreInputs) -> Estimate | None:
    """The gap that a prompt worded in the style closes without the adapter."""
    base, styled = (evidence.column("score", arm) for arm in ("base", "base-styled"))
    return gap_of(evidence, base, styled, evidence.real_of("score")) if styled else None


def in_words(scores: Scores) -> str:
    """The verdict in a sentence or two, the reasons first."""
    point = scores.recommended
    rival = f"Words alone close {percent(scores.words)}." if scores.words else ""
    if scores.failed:
        closed = f" It closes {percent(point.gap_closed)} of the gap." if point.gap_closed else ""
        return (
            f"Not good at its best strength, {scores.strength:g}: {'; '.join(scores.failed)}.{closed} {rival}".strip()
        )
    assert point.gap_closed
    few = f" With fewer than {FEW_PROMPTS} prompts this is exploratory." if scores.prompts < FEW_PROMPTS else ""
    return (
        f"Good at strength {scores.strength:g}: it closes {percent(point.gap_closed)} of the gap between the base and "
        f"real paintings and keeps the scene (correlation {point.content.value:.2f}). {rival}{few}"
    ).strip()


# ---- Strengths


def strength_curve(evidence: ScoreInputs) -> list[AtStrength]:
    """The plain prompt at every strength; only noises that are painted at all of them, so that points compare."""
    return [at_strength(evidence, float(strength), table) for strength, table in shared(evidence).items()]


def shared(evidence: ScoreInputs) -> dict[float, Table]:
    """The plain pictures at each strength, of the noises that are painted at all strengths."""
    plain = evidence.pictures[evidence.pictures["arm"].isin(["base", "adapter"])]
    counts = plain.groupby(["prompt", "seed"])["strength"].transform("nunique")
    return dict(list(plain[counts == plain["strength"].nunique()].groupby("strength")))


def at_strength(evidence: ScoreInputs, strength: float, pictures: Table) -> AtStrength:
    index, own, content = (lists(pictures, name) for name in ("index", "score", "content"))
    kept, varied = bootstrap(content), diversity(evidence, strength)
    base = lists(shared(evidence)[0.0], "score")
    return AtStrength(
        strength=strength,
        index=bootstrap(index),
        content=kept,
        diversity=varied,
        score=bootstrap(own),
        gap_closed=gap_of(evidence, base, own, evidence.real_of("score")) if strength else None,
        copies=copies_row(evidence.at(strength), evidence.vectors["layout"]).get("adapter") if strength else None,
        problems=problems(evidence.at(strength), kept, varied) if strength else [],
    )


def lists(pictures: Table, name: str) -> dict[str, list[float]]:
    """A column by prompt."""
    return pictures.groupby("prompt")[name].apply(list).to_dict()


def main_measure(point: AtStrength) -> float:
    return (point.score or point.index).value


def recommended(curve: list[AtStrength], real: float) -> float:
    """The strength whose pictures come nearest to real paintings in the main measure, among those without a problem;
    where all have one, among all. curve: its first point is the base."""
    points = [point for point in curve[1:] if not point.problems] or curve[1:]
    return min(points, key=lambda point: abs(main_measure(point) - real)).strength


def useful(curve: list[AtStrength], strength: float) -> tuple[float, float]:
    """The least and the largest measured strength around the recommended one: between them no strength has a problem,
    and each gains at least half of what the recommended one gains."""
    points = curve[1:]
    place = next(place for place, point in enumerate(points) if point.strength == strength)
    wanted = (main_measure(points[place]) - main_measure(curve[0])) / 2

    def fits(point: AtStrength) -> bool:
        return not point.problems and main_measure(point) - main_measure(curve[0]) >= wanted

    low = high = place
    while low > 0 and fits(points[low - 1]):
        low -= 1
    while high + 1 < len(points) and fits(points[high + 1]):
        high += 1
    return points[low].strength, points[high].strength


def cross_fitted(evidence: ScoreInputs, curve: list[AtStrength]) -> AtStrength:
    """The recommended strength, each half of the prompts measured at the strength that the other half chose."""
    tables, real = shared(evidence), evidence.real["score"].mean()
    prompts = sorted(set(tables[0.0]["prompt"]))
    whole = next(point for point in curve if point.strength == recommended(curve, real))
    if len(prompts) < 4:
        return whole
    parts = []
    for own, other in ((prompts[::2], prompts[1::2]), (prompts[1::2], prompts[::2])):
        points = [
            dataclasses.replace(point, score=bootstrap(lists(table[table["prompt"].isin(other)], "score"), draws=100))
            for point, table in zip(curve, tables.values(), strict=True)
        ]
        chosen = tables[recommended(points, real)]
        parts.append(chosen[chosen["prompt"].isin(own)])
    return dataclasses.replace(at_strength(evidence, whole.strength, pandas.concat(parts)), problems=whole.problems)


def diversity(evidence: ScoreInputs, strength: float) -> Estimate | None:
    """Effective number of pictures of a prompt over the base's; None where a prompt was painted from one noise only."""
    base, own = evidence.rows("base"), evidence.rows("adapter" if strength else "base", strength)
    if len(own) < len(base) or evidence.pictures["seed"].nunique() < 2:
        return None
    before, after = (distinct(evidence, evidence.vectors["layout"], rows) for rows in (base, own))
    return bootstrap({prompt: after[prompt][0] / before[prompt][0] for prompt in before})


# ---- Genres and failures


def by_genre(evidence: ScoreInputs) -> dict[str, GenreScores]:
    """Scores for each genre with two prompts or more."""
    sides = (("index", "base"), ("index", "adapter"), ("content", "adapter"), ("score", "base"), ("score", "adapter"))
    columns = [evidence.column(name, arm) for name, arm in sides]
    result = {}
    for genre in dict.fromkeys(evidence.genres.values()):
        prompts = [prompt for prompt, of in evidence.genres.items() if of == genre and prompt in columns[0]]
        if len(prompts) > 1:
            parts = [{prompt: column[prompt] for prompt in prompts} for column in columns]
            closed = None if genre == OUT_OF_STYLE else gap_of(evidence, parts[3], parts[4], evidence.real_of("score"))
            base, adapter, content = map(bootstrap, parts[:3])
            result[genre] = GenreScores(base=base, adapter=adapter, content=content, gap_closed=closed)
    return result


def failures(evidence: ScoreInputs, count: int = SHOWN) -> list[Failure]:
    """The worst pictures for each thing that failed, at most so many in all; none where nothing failed."""
    adapted = evidence.pictures.loc[evidence.rows("adapter")]
    kinds: dict[str, tuple[str, float, int]] = {
        "scene lost": ("content", CONTENT_KEPT, -1),
        "less Impressionist": ("gain", 0.0, -1),
        "not what the prompt says": ("shown", 0.5, -1),
    }
    if evidence.training:
        kinds["like a training picture"] = ("likeness", copy_limit(evidence), 1)
    groups = []
    for what, (column, level, way) in kinds.items():
        if column in adapted:
            values = adapted[column][way * adapted[column] > way * level].sort_values(ascending=way < 0)
            groups.append([Failure(file=adapted["file"][i], what=what, value=float(v)) for i, v in values.items()])
    each = max(1, count // max(1, sum(bool(group) for group in groups)))
    return [failure for group in groups for failure in group[:each]]


def ranked(pictures: Table, count: int = SHOWN) -> list[str]:
    """Files of the first pictures of a ranking, with the first of each genre among them."""
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
    wanted = set(evidence.pictures.get("nearest", ()))
    thumbnails((file for file in evidence.training if file.name in wanted), run / "references" / "training")
    write_atomic(run / "scores.json", scores.to_json() + "\n")


def thumbnails(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        thumbnail(file, THUMBNAIL).save(folder / f"{file.name}.webp", quality=80)
