"""From vectors to numbers, pure: distances between sets, diversity, copies, and the strength to recommend."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats
from scipy.spatial.distance import cdist, pdist

from evaluation.intervals import LEVEL
from impressionism.records import AtStrength, Estimate

CONTENT_KEPT = 0.8
"""Correlation with the base model's composition from which on the content counts as kept."""
SEEN = 0.1
"""Share of the gap that must surely be closed before an adapter counts as better: less, no eye sees. The pictures are
paired by their noise, so that even what shuffled weights do is told from zero."""
DIVERSE = 0.8
"""Distinct pictures of a prompt, relative to the base's, below which an adapter surely repeats itself."""
COPIED = 0.02
"""Share of pictures closer to a training picture than 99 % of real paintings, above which an adapter surely copies."""
PENALTY = 10.0  # of the probe; its vectors have unit variance, so that one value suits all features


# ---- Distances between sets


def kid(pictures: np.ndarray, prompts: np.ndarray, real: np.ndarray) -> Estimate:
    """Kernel distance to the real paintings: 0 where nothing tells the two sets apart (Bińkowski et al. 2018).

    pictures (n, d), prompts (n,) their prompts, real (m, d), all `standard`. It is unbiased, and may fall below 0: a
    picture is compared with those of other prompts only, as those of one prompt are alike.
    """
    return jackknife(*_kernels(pictures, prompts, real))


def kid_difference(adapted: np.ndarray, base: np.ndarray, prompts: np.ndarray, real: np.ndarray) -> Estimate:
    """kid(adapted) less kid(base), prompt by prompt: below 0 where the adapter comes closer."""
    after, count = _kernels(adapted, prompts, real)
    before, _ = _kernels(base, prompts, real)
    return jackknife(lambda prompts, real: after(prompts, real) - before(prompts, real), count)


def _kernels(pictures: np.ndarray, prompts: np.ndarray, real: np.ndarray) -> tuple[Callable, tuple[int, int]]:
    """The distance as a function of weights of prompts and of real paintings, and how many there are of each."""
    names, which = np.unique(prompts, return_inverse=True)
    member = np.eye(len(names))[which]  # (pictures, prompts)
    within = member.T @ polynomial(pictures, pictures) @ member / np.outer(member.sum(0), member.sum(0))
    across = member.T @ polynomial(pictures, real) / member.sum(0)[:, None]
    among = polynomial(real, real)
    np.fill_diagonal(within, 0)
    np.fill_diagonal(among, 0)

    def distance(p: np.ndarray, r: np.ndarray) -> float:
        return _apart(p, within) + _apart(r, among) - 2 * float(p @ across @ r) / (p.sum() * r.sum())

    return distance, (len(names), len(real))


def _apart(weights: np.ndarray, kernel: np.ndarray) -> float:
    """The mean kernel of two different ones."""
    return float(weights @ kernel @ weights) / (weights.sum() ** 2 - (weights**2).sum())


def polynomial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def standard(base: np.ndarray, adapted: np.ndarray, real: np.ndarray) -> list[np.ndarray]:
    """All three in units of the spread of base and real paintings together, 3 of them at most; unscaled embeddings
    leave the kernel all but linear, and blind to a set that has collapsed."""
    centre = (base.mean(0) + real.mean(0)) / 2
    spread = np.sqrt((((base - centre) ** 2).mean(0) + ((real - centre) ** 2).mean(0)) / 2)
    spread = np.where(spread > 1e-6, spread, 1)  # what never varies tells nothing
    return [np.clip((vectors - centre) / spread, -3, 3) for vectors in (base, adapted, real)]


def jackknife(statistic: Callable[..., float], sizes: Sequence[int]) -> Estimate:
    """A U-statistic with its interval, each sample's members left out in turn; drawing them with replacement would
    pair a member with itself."""
    whole = [np.ones(size) for size in sizes]
    variance = 0.0
    for place, size in enumerate(sizes):
        without = [statistic(*whole[:place], 1 - np.eye(size)[left], *whole[place + 1 :]) for left in range(size)]
        variance += (size - 1) * float(np.var(without))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, min(sizes) - 1)) * math.sqrt(variance)
    value = statistic(*whole)
    return Estimate(value=value, low=value - reach, high=value + reach, n=sizes[0])


# ---- Of each picture


def probe(
    base: np.ndarray, adapted: np.ndarray, prompts: np.ndarray, real: np.ndarray, folds: int = 5
) -> list[np.ndarray]:
    """How real a ridge classifier of real paintings (1) against the base's pictures (0) takes each of the three sets
    to be. No picture is judged by a classifier that saw its prompt, nor a painting by one that saw it."""
    names, which = np.unique(prompts, return_inverse=True)
    folds = min(folds, len(names), len(real))
    of_real = np.arange(len(real)) % folds
    result = [np.empty(len(base)), np.empty(len(adapted)), np.empty(len(real))]
    for fold in range(folds):
        out, real_out = which % folds == fold, of_real == fold
        judge = classifier(base[~out], real[~real_out])
        for values, vectors, mask in zip(result, (base, adapted, real), (out, out, real_out), strict=True):
            values[mask] = judge(vectors[mask])
    return result


def real_likeness(
    pictures: np.ndarray, prompts: np.ndarray, is_base: np.ndarray, real: np.ndarray, folds: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """`probe` of all pictures of a gallery: how real a classifier of real paintings against base pictures, which saw
    neither the picture's prompt nor the painting, takes each picture and each painting to be."""
    names, which = np.unique(prompts, return_inverse=True)
    folds = min(folds, len(names), len(real))
    of_real = np.arange(len(real)) % folds
    values, real_values = np.empty(len(pictures)), np.empty(len(real))
    for fold in range(folds):
        out, real_out = which % folds == fold, of_real == fold
        judge = classifier(pictures[is_base & ~out], real[~real_out])
        values[out], real_values[real_out] = judge(pictures[out]), judge(real[real_out])
    return values, real_values


def classifier(no: np.ndarray, yes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Regularised least squares on 0 and 1, both sets weighing the same."""
    both = np.vstack([no, yes])
    centre = (no.mean(0) + yes.mean(0)) / 2
    scale = both.std(0) + 1e-9
    x = (both - centre) / scale
    y = np.r_[-np.ones(len(no)), np.ones(len(yes))] / 2
    weight = np.r_[np.full(len(no), 0.5 / len(no)), np.full(len(yes), 0.5 / len(yes))] * len(both)
    gram = (x * weight[:, None]).T @ x + PENALTY * np.eye(x.shape[1])
    slope = np.linalg.solve(gram, (x * weight[:, None]).T @ y)
    return lambda vectors: 0.5 + (vectors - centre) / scale @ slope


def correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each row with its counterpart."""
    return (unit(one) * unit(other)).sum(1)


def nearest(pictures: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each picture the likest of the others, and their correlation."""
    alike = unit(pictures) @ unit(others).T
    return alike.argmax(1), alike.max(1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows without their mean and of length 1."""
    centred = vectors.astype(np.float64) - vectors.mean(1, keepdims=True)
    return centred / (np.linalg.norm(centred, axis=1, keepdims=True) + 1e-12)


# ---- Diversity


def vendi(vectors: np.ndarray, scale: float) -> float:
    """The effective number of distinct pictures, 1 to n (Friedman and Dieng, arXiv 2210.02410); those further apart
    than `scale` are distinct."""
    alike = np.exp(-cdist(vectors, vectors, "sqeuclidean") / (2 * scale**2))
    shares = np.linalg.eigvalsh(alike / len(vectors))
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def spread(vectors: np.ndarray) -> float:
    """The usual distance between two of a set."""
    return float(np.median(pdist(vectors))) or 1.0


# ---- The strength


def score_of(point: AtStrength) -> float:
    """The main measure at a strength: the index, or what stands in for it."""
    return (point.score or point.index).value


def recommended(curve: list[AtStrength], real: float) -> float:
    """The strength whose pictures come nearest to real paintings in the main measure, among those without a problem;
    where all have one, among all. curve: its first point is the base."""
    points = [point for point in curve[1:] if not point.problems] or curve[1:]
    return min(points, key=lambda point: abs(score_of(point) - real)).strength


def useful(curve: list[AtStrength], strength: float) -> tuple[float, float]:
    """The least and the largest measured strength around the recommended one: between them no strength has a problem,
    and each gains at least half of what the recommended one gains."""
    points = curve[1:]
    place = next(place for place, point in enumerate(points) if point.strength == strength)
    wanted = (score_of(points[place]) - score_of(curve[0])) / 2

    def fits(point: AtStrength) -> bool:
        return not point.problems and score_of(point) - score_of(curve[0]) >= wanted

    low = high = place
    while low > 0 and fits(points[low - 1]):
        low -= 1
    while high + 1 < len(points) and fits(points[high + 1]):
        high += 1
    return points[low].strength, points[high].strength
