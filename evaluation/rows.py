"""The rows of the scores: what is asked of base, adapter and real paintings, feature by feature."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evaluation import numbers
from evaluation.evidence import OUT_OF_STYLE, ByPrompt, ScoreInputs, Vectors
from evaluation.numbers import Real, aligned, bootstrap, clustered, gap_closed, paired_p, share
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
    "pickscore": ("preferred",),
}
FACTS: dict[str, dict[str, Any]] = {  # of a row, whatever the feature
    "kid": {"question": "style", "better": "lower"},
    "probe": {"question": "style", "better": "closer"},
    "kept": {"question": "content"},
    "score": {"question": "content"},
    "yes": {"question": "content"},
    "preferred": {"question": "preference"},
    "vendi": {"question": "diversity", "unit": "pictures"},
    "nearest": {"question": "memorisation", "better": "lower"},
    "copies": {"question": "memorisation", "better": "lower"},
}
SEEN = 0.1
"""Share of the gap that must surely be closed before an adapter counts as better: smaller differences are not visible.
The pictures are paired by their noise, so that even what shuffled weights do is told from zero."""
COPY = 99  # percentile of real paintings' likeness to training pictures, beyond which a picture may be a copy
NO_TRAINING = {"note": "Not computed: no training pictures were given (--training)."}

Found = dict[str, Any]
"""Fields of a Metric."""


def weightless(evidence: ScoreInputs) -> list[Metric]:
    """All that is computed without weights from the Hub."""
    features = [name for name in ASKED if name in evidence.vectors]
    return [index_row(evidence, ""), index_row(evidence, "-styled"), *statistic_rows(evidence)] + [
        row for name in features for row in rows_of(name, evidence, evidence.vectors[name])
    ]


def rows_of(name: str, evidence: ScoreInputs, vectors: Vectors, weights: str | None = None) -> list[Metric]:
    """Every row of a feature."""
    return [
        Metric(name=f"{name}-{kind}", weights=weights, **FACTS[kind], **ROW[kind](evidence, vectors))
        for kind in ASKED[name]
    ]


def not_computed(name: str, why: str, weights: str = "") -> list[Metric]:
    return [Metric(name=f"{name}-{kind}", weights=weights, note=why, **FACTS[kind]) for kind in ASKED[name]]


def compared(base: ByPrompt, adapter: ByPrompt, real: Real | None = None) -> Found:
    """Base and adapter, paired by prompt, beside the real paintings."""
    return {
        "base": bootstrap(base),
        "adapter": bootstrap(adapter),
        "real": clustered(real.values, real.painters) if real is not None else None,
        "difference": bootstrap(np.subtract(*aligned(adapter, base))),
        "p": paired_p(adapter, base),
    }


def compared_with_gap(evidence: ScoreInputs, base: ByPrompt, adapter: ByPrompt, real: Real, note: str = "") -> Found:
    """The same, with the gap that the adapter closes."""
    closed = gap_of(evidence, base, adapter, real)
    blind = "" if closed else "It does not tell real paintings from the base. "
    return {**compared(base, adapter, real), "gap_closed": closed, "note": f"{blind}{note}".strip()}


def gap_of(evidence: ScoreInputs, base: ByPrompt, adapter: ByPrompt, real: Real) -> Estimate | None:
    """The gap closed, prompts matched with real paintings by genre; without prompts that no Impressionist painted."""
    inside = [prompt for prompt in base if evidence.genres[prompt] != OUT_OF_STYLE]
    kept = inside if len(inside) > 1 else list(base)
    base, adapter = ({prompt: side[prompt] for prompt in kept} for side in (base, adapter))
    return gap_closed(base, adapter, real, genres=evidence.genres)  # pyright: ignore[reportArgumentType]


# ---- Of each picture's own numbers


def index_row(evidence: ScoreInputs, words: str) -> Metric:
    note = "Both prompts worded in the style: the base model's best chance." if words else ""
    sides = [evidence.column("index", f"{who}{words}") for who in ("base", "adapter")]
    found = compared_with_gap(evidence, sides[0], sides[1], evidence.real_of("index"), note)
    if evidence.measure != "index":
        unknown = "The index does not know what stands for real paintings here, so it measures no gap to them."
        found |= {"gap_closed": None, "note": f"{unknown} {note}".strip()}
    return Metric(name=f"index{words}", question="style", better="closer", **found)


def statistic_rows(evidence: ScoreInputs) -> list[Metric]:
    rows = []
    for name, known in STATISTICS.items():
        note = (
            f"Exploratory: its AUC is {known.auc:.2f} against photographs, {known.auc_styles:.2f} against other styles."
            if known.exploratory
            else ""
        )
        sides = [evidence.column(name, arm) for arm in ("base", "adapter")]
        found = compared_with_gap(evidence, sides[0], sides[1], evidence.real_of(name), note)
        rows.append(Metric(name=name, question="style", unit=known.unit, better="closer", **found))
    return rows


# ---- Of vectors


def kid_row(evidence: ScoreInputs, vectors: Vectors) -> Found:
    """How far base and adapter are from the real paintings as sets; `real` is the floor: one half of the real paintings
    against the other."""
    base, adapted = evidence.rows("base"), evidence.rows("adapter")
    prompts = evidence.pictures["prompt"].to_numpy()[base]
    if min(len(set(prompts)), len(vectors.real)) < 3:  # its interval leaves one out, and pairs the others
        return {"note": "Not computed: it takes three prompts and three real pictures."}
    before, after, real = numbers.standard(vectors.pictures[base], vectors.pictures[adapted], vectors.real)
    return {
        "base": numbers.kid(before, prompts, real),
        "adapter": numbers.kid(after, prompts, real),
        "real": numbers.kid(real[::2], np.arange(len(real[::2])), real[1::2]) if len(real) >= 6 else None,
        "difference": numbers.kid_difference(after, before, prompts, real),
    }


def probe_row(evidence: ScoreInputs, vectors: Vectors) -> Found:
    """How real a classifier of base against real paintings takes the adapter's pictures to be."""
    values, real = evidence.real_likeness(vectors)
    return compared_with_gap(evidence, *sides_of(evidence, values), evidence.real_of(real))


def kept_row(evidence: ScoreInputs, vectors: Vectors) -> Found:
    """Correlation of the adapter's composition with the base's from the same noise."""
    return {"adapter": bootstrap(evidence.column("content", "adapter"))}


def score_row(evidence: ScoreInputs, vectors: Vectors) -> Found:
    """100 x the cosine of picture and plain prompt, 0 at least: CLIPScore (Hessel et al. 2021) with another CLIP and
    without its factor of 2.5 and its prefix, so that its values are not comparable with theirs. With
    PickScore's weights it is PickScore (Kirstain et al. 2023)."""
    assert vectors.texts is not None
    units = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (vectors.pictures, vectors.texts))
    return compared(*sides_of(evidence, 100 * np.maximum(np.multiply(*units).sum(1), 0)))


def vendi_row(evidence: ScoreInputs, vectors: Vectors) -> Found:
    """Effective number of distinct pictures among those of one prompt."""
    if evidence.pictures["seed"].nunique() < 2:
        return {"note": "Not computed: there is one picture a prompt."}
    base, adapter = (distinct(evidence, vectors, evidence.rows(arm)) for arm in ("base", "adapter"))
    return compared(base, adapter)


def distinct(evidence: ScoreInputs, vectors: Vectors, rows: np.ndarray) -> ByPrompt:
    """By prompt; pictures count as distinct in so far as those of the base's different prompts are."""
    scale = numbers.spread(vectors.pictures[evidence.rows("base")])
    places = evidence.by_prompt(rows, rows)
    return {prompt: [numbers.vendi(vectors.pictures[np.array(own, int)], scale)] for prompt, own in places.items()}


def nearest_row(evidence: ScoreInputs, vectors: Vectors) -> Found:
    """Likeness to the most similar training picture; that of held-out paintings is what is usual."""
    if "likeness" not in evidence.pictures:
        return NO_TRAINING
    return compared(*sides_of(evidence, evidence.pictures["likeness"]), evidence.real_of("likeness"))


def copies_row(evidence: ScoreInputs, vectors: Vectors) -> Found:
    """The share of pictures that are closer to a training picture than all but one in a hundred held-out paintings."""
    if "likeness" not in evidence.pictures:
        return NO_TRAINING
    limit = copy_limit(evidence)
    base, adapter = sides_of(evidence, evidence.pictures["likeness"] > limit)
    real = share((evidence.real["likeness"] > limit).astype(float).to_numpy())
    found = {"base": share(base), "adapter": share(adapter), "real": real}
    if found["base"].value == found["adapter"].value == 0:  # nothing to draw a difference from
        return found
    return compared(base, adapter) | found


def copy_limit(evidence: ScoreInputs) -> float:
    """Likeness to a training picture beyond which a picture may be a copy."""
    return float(np.percentile(evidence.real["likeness"], COPY))


def sides_of(evidence: ScoreInputs, values: Sequence[float] | np.ndarray) -> tuple[ByPrompt, ByPrompt]:
    """A value of every picture, as base and adapter with the plain prompt, by prompt, from the same noise."""
    base, adapted = evidence.rows("base"), evidence.rows("adapter")
    values = np.asarray(values)
    return evidence.by_prompt(values[base], base), evidence.by_prompt(values[adapted], adapted)


ROW: dict[str, Callable[[ScoreInputs, Vectors], Found]] = {
    "kid": kid_row,
    "probe": probe_row,
    "kept": kept_row,
    "score": score_row,
    "preferred": score_row,
    "vendi": vendi_row,
    "nearest": nearest_row,
    "copies": copies_row,
}
