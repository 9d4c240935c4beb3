"""The rows of the scores: what is asked of base, adapter and real paintings, feature by feature."""

import dataclasses
from collections.abc import Callable

import numpy as np

from evaluation import metrics
from evaluation.evidence import OUT_OF_STYLE, ByPrompt, ScoreInputs, Vectors
from evaluation.intervals import Real, aligned, bootstrap, by_prompt, clustered, gap_closed, holm, paired_p, share
from impressionism.pictorial import STATISTICS
from impressionism.records import Estimate, Metric

ASKED = {  # feature → what is computed from it; the learned ones are in evaluation.learned
    "pictorial": ("kid", "probe"),
    "network": ("kid",),
    "palette": ("kid",),
    "structure": ("kept",),
    "layout": ("vendi", "nearest", "copies"),
    "judge": ("yes",),
    "clip": ("score", "kid", "probe"),
    "dinov2": ("kid", "probe", "vendi"),
}
COPY = 99  # percentile of real paintings' likeness to training pictures, beyond which a picture may be a copy
NO_TRAINING = "Not computed: no training pictures were given (--training)."


def weightless(evidence: ScoreInputs) -> list[Metric]:
    """All that is computed without weights."""
    features = [name for name in ASKED if name in evidence.vectors]
    return [index_row(evidence, ""), index_row(evidence, "-styled"), *statistic_rows(evidence)] + [
        row for name in features for row in rows_of(name, evidence, evidence.vectors[name])
    ]


def rows_of(name: str, evidence: ScoreInputs, vectors: Vectors, weights: str | None = None) -> list[Metric]:
    """Every row of a feature."""
    rows = {kind: ROW[kind](evidence, vectors) for kind in ASKED[name]}
    return [dataclasses.replace(row, name=f"{name}-{kind}", weights=weights) for kind, row in rows.items()]


def not_computed(name: str, why: str, weights: str) -> list[Metric]:
    rows = {kind: EMPTY[kind] for kind in ASKED[name]}
    return [dataclasses.replace(row, name=f"{name}-{kind}", note=why, weights=weights) for kind, row in rows.items()]


def corrected(rows: list[Metric]) -> list[Metric]:
    """With Holm's correction of the p values of each question."""
    result = list(rows)
    for question in dict.fromkeys(row.question for row in rows):
        places = [place for place, row in enumerate(rows) if row.question == question and row.p is not None]
        for place, p in zip(places, holm([rows[place].p or 0.0 for place in places]), strict=True):
            result[place] = dataclasses.replace(rows[place], p=p)
    return result


def compared(evidence: ScoreInputs, row: Metric, base: ByPrompt, adapter: ByPrompt, real: Real | None = None) -> Metric:
    """The row with its numbers; prompts are paired."""
    gains = np.subtract(*aligned(adapter, base))
    closed = gap_of(evidence, base, adapter, real) if real is not None and row.question == "style" else None
    blind = real is not None and row.question == "style" and not closed
    untold = "It does not tell real paintings from the base. " if blind else ""
    return dataclasses.replace(
        row,
        base=bootstrap(base),
        adapter=bootstrap(adapter),
        real=clustered(real.values, real.painters) if real is not None else None,
        difference=bootstrap(gains),
        gap_closed=closed,
        p=paired_p(by_prompt(adapter), by_prompt(base)),
        note=f"{untold}{row.note}".strip(),
    )


def gap_of(evidence: ScoreInputs, base: ByPrompt, adapter: ByPrompt, real: Real) -> Estimate | None:
    """The gap closed, prompts matched with real paintings by genre; without prompts that no Impressionist painted."""
    genres = evidence.genres
    inside = [prompt for prompt in base if genres[prompt] != OUT_OF_STYLE]
    kept = inside if len(inside) > 1 else list(base)
    sides = ({prompt: side[prompt] for prompt in kept} for side in (base, adapter))
    return gap_closed(*sides, real, genres=genres)  # pyright: ignore[reportCallIssue]


# ---- Of each picture's own numbers


def index_row(evidence: ScoreInputs, words: str) -> Metric:
    note = "Both prompts worded in the style: the base model's best chance." if words else ""
    row = Metric(name=f"index{words}", question="style", better="closer", note=note)
    real = evidence.real_of(evidence.real["index"])
    sides = [evidence.column("index", f"{who}{words}") for who in ("base", "adapter")]
    found = compared(evidence, row, sides[0], sides[1], real)
    if evidence.measure == "index":
        return found
    unknown = "The index does not know what stands for real paintings here, so it measures no gap to them."
    return dataclasses.replace(found, gap_closed=None, note=f"{unknown} {note}".strip())


def statistic_rows(evidence: ScoreInputs) -> list[Metric]:
    return [
        compared(
            evidence,
            Metric(
                name=name,
                question="style",
                unit=known.unit,
                better="closer",
                note=f"Exploratory: its AUC is {known.auc:.2f} against photographs, {known.auc_styles:.2f} against "
                "other styles." if known.exploratory else "",
            ),
            evidence.column(name, "base"),
            evidence.column(name, "adapter"),
            evidence.real_of(evidence.real[name]),
        )
        for name, known in STATISTICS.items()
    ]  # fmt: skip


# ---- Of vectors

EMPTY: dict[str, Metric] = {
    "kid": Metric(name="", question="style", better="lower"),
    "probe": Metric(name="", question="style", better="closer"),
    "kept": Metric(name="", question="content"),
    "score": Metric(name="", question="content"),
    "yes": Metric(name="", question="content"),
    "vendi": Metric(name="", question="diversity", unit="pictures"),
    "nearest": Metric(name="", question="memorisation", better="lower"),
    "copies": Metric(name="", question="memorisation", better="lower"),
}


def kid_row(evidence: ScoreInputs, vectors: Vectors) -> Metric:
    """How far base and adapter are from the real paintings as sets; `real` is the floor: one half of the real paintings
    against the other."""
    prompts, base, adapted = plain(evidence, vectors)
    if min(len(set(prompts)), len(vectors.real)) < 3:  # its interval leaves one out, and pairs the others
        return dataclasses.replace(EMPTY["kid"], note="Not computed: it takes three prompts and three real pictures.")
    base, adapted, real = metrics.standard(base, adapted, vectors.real)
    return dataclasses.replace(
        EMPTY["kid"],
        base=metrics.kid(base, prompts, real),
        adapter=metrics.kid(adapted, prompts, real),
        real=metrics.kid(real[::2], np.arange(len(real[::2])), real[1::2]) if len(real) >= 6 else None,
        difference=metrics.kid_difference(adapted, base, prompts, real),
    )


def probe_row(evidence: ScoreInputs, vectors: Vectors) -> Metric:
    """How real a classifier of base against real paintings takes the adapter's pictures to be."""
    prompts, base, adapted = plain(evidence, vectors)
    base, adapted, real = metrics.probe(base, adapted, prompts, vectors.real)
    return compared(evidence, EMPTY["probe"], *both(evidence, base, adapted), evidence.real_of(real))


def kept_row(evidence: ScoreInputs, vectors: Vectors) -> Metric:
    """Correlation of the adapter's composition with the base's from the same noise."""
    return dataclasses.replace(EMPTY["kept"], adapter=bootstrap(evidence.column("content", "adapter")))


def score_row(evidence: ScoreInputs, vectors: Vectors) -> Metric:
    """100 x the cosine of picture and plain prompt, 0 at least: CLIPScore (Hessel et al. 2021) with another CLIP and
    without its factor of 2.5 and its prefix, so that its values are not comparable with theirs."""
    assert vectors.texts is not None
    both_units = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (vectors.pictures, vectors.texts))
    scores = 100 * np.maximum(np.multiply(*both_units).sum(1), 0)
    return compared(
        evidence, EMPTY["score"], *both(evidence, scores[evidence.rows("base")], scores[evidence.rows("adapter")])
    )


def vendi_row(evidence: ScoreInputs, vectors: Vectors) -> Metric:
    """Effective number of distinct pictures among those of one prompt."""
    if evidence.pictures["seed"].nunique() < 2:
        return dataclasses.replace(EMPTY["vendi"], note="Not computed: there is one picture a prompt.")
    base, adapter = (distinct(evidence, vectors, evidence.rows(arm)) for arm in ("base", "adapter"))
    return compared(evidence, EMPTY["vendi"], base, adapter)


def distinct(evidence: ScoreInputs, vectors: Vectors, rows: np.ndarray) -> ByPrompt:
    """By prompt; pictures count as distinct in so far as those of the base's different prompts are."""
    scale = metrics.spread(vectors.pictures[evidence.rows("base")])
    places = evidence.by_prompt(rows, rows)
    return {prompt: [metrics.vendi(vectors.pictures[np.array(own, int)], scale)] for prompt, own in places.items()}


def nearest_row(evidence: ScoreInputs, vectors: Vectors) -> Metric:
    """Likeness to the most similar training picture; that of held-out paintings is what is usual."""
    if vectors.training is None:
        return dataclasses.replace(EMPTY["nearest"], note=NO_TRAINING)
    *sides, real = likenesses(evidence, vectors)
    return compared(evidence, EMPTY["nearest"], *sides, evidence.real_of(real))  # pyright: ignore[reportCallIssue]


def copies_row(evidence: ScoreInputs, vectors: Vectors) -> Metric:
    """The share of pictures that are closer to a training picture than all but one in a hundred held-out paintings."""
    if vectors.training is None:
        return dataclasses.replace(EMPTY["copies"], note=NO_TRAINING)
    *sides, real = likenesses(evidence, vectors)
    limit = np.percentile(real, COPY)
    base, adapter = ({prompt: [float(v > limit) for v in one[prompt]] for prompt in one} for one in sides)
    row = compared(evidence, EMPTY["copies"], base, adapter)
    return dataclasses.replace(row, base=share(base), adapter=share(adapter), real=share((real > limit).astype(float)))


def likenesses(evidence: ScoreInputs, vectors: Vectors) -> tuple[ByPrompt, ByPrompt, np.ndarray]:
    """Of base, adapter and real paintings to their most similar training picture."""
    assert vectors.training is not None
    _, base, adapted = plain(evidence, vectors)
    found = [metrics.nearest(one, vectors.training)[1] for one in (base, adapted, vectors.real)]
    return (*both(evidence, found[0], found[1]), found[2])


def plain(evidence: ScoreInputs, vectors: Vectors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prompts, and the vectors of base and adapter with the plain prompt, row by row from the same noise."""
    base, adapted = evidence.rows("base"), evidence.rows("adapter")
    return evidence.pictures["prompt"].to_numpy()[base], vectors.pictures[base], vectors.pictures[adapted]


def both(evidence: ScoreInputs, base: np.ndarray, adapted: np.ndarray) -> tuple[ByPrompt, ByPrompt]:
    return evidence.by_prompt(base, evidence.rows("base")), evidence.by_prompt(adapted, evidence.rows("adapter"))


ROW: dict[str, Callable[[ScoreInputs, Vectors], Metric]] = {
    "kid": kid_row,
    "probe": probe_row,
    "kept": kept_row,
    "score": score_row,
    "vendi": vendi_row,
    "nearest": nearest_row,
    "copies": copies_row,
}
