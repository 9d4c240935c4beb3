"""From vectors and values to numbers, pure: intervals, tests, distances between sets, diversity, copies.

Prompts are the unit that is drawn. Pictures and votes of one prompt are alike, so they are averaged before anything is
drawn: an interval that took them for independent would be too narrow (Miller, arXiv 2411.00640).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats
from scipy.spatial.distance import cdist, pdist

from impressionism.errors import UserError
from impressionism.records import Estimate

Values = Mapping[str, float | Sequence[float]] | Sequence[float] | np.ndarray
"""Numbers by prompt, one or several for each; or a sequence with one number a prompt."""

LEVEL = 0.95


# ---- Intervals


def bootstrap(values: Values, *, draws: int = 10_000, seed: int = 0) -> Estimate:
    """The mean over prompts with its BCa interval (Efron 1987).

    The interval is widened for few prompts as a t interval is (Hesterberg 2015, section 3.3): percentiles alone held
    skewed means of ten prompts 85 times in 100.
    """
    numbers = by_prompt(values)
    level, value = widened(len(numbers)), float(numbers.mean())
    if np.ptp(numbers) == 0:
        return Estimate(value=value, low=value, high=value, n=len(numbers))
    method = "BCa" if len(numbers) > 2 else "percentile"  # two values have no skew to correct for
    found = stats.bootstrap(
        (numbers,), np.mean, n_resamples=draws, confidence_level=level, method=method, rng=np.random.default_rng(seed)
    ).confidence_interval
    return Estimate(value=value, low=float(found.low), high=float(found.high), n=len(numbers))


def widened(count: int) -> float:
    """The confidence level to ask a bootstrap of so many units for, so that it holds LEVEL."""
    if count < 2:
        raise UserError("An interval needs at least two prompts; give the gallery more of them.")
    return float(1 - 2 * stats.norm.cdf(math.sqrt(count / (count - 1)) * stats.t.ppf((1 - LEVEL) / 2, count - 1)))


def share(values: Values) -> Estimate:
    """A share: of each prompt 0 to 1. Where all prompts agree on 0 or 1, the bounds are Clopper and Pearson's, because
    drawing again from nothing but zeros gives nothing but zeros."""
    numbers = by_prompt(values)
    if len(numbers) > 1 and numbers.min() == numbers.max() and numbers[0] in (0, 1):
        return proportion([value == 1 for value in numbers], method="exact")  # type: ignore[return-value]
    return bootstrap(values)


def clustered(
    values: Sequence[float] | np.ndarray, groups: Sequence[str], *, draws: int = 10_000, seed: int = 0
) -> Estimate:
    """The mean of real paintings, painters drawn whole: paintings by one painter are alike. `n` counts painters."""
    sums, counts = totals(values, groups)
    if len(sums) < 2:
        raise UserError("An interval over painters needs at least two of them.")
    drawn = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    tail = (1 - widened(len(sums))) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(value=float(sums.sum() / counts.sum()), low=float(low), high=float(high), n=len(sums))


def totals(values: Sequence[float] | np.ndarray, groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each group."""
    _, which = np.unique(np.asarray(groups), return_inverse=True)
    return np.bincount(which, weights=np.asarray(values, float)), np.bincount(which).astype(float)


@dataclasses.dataclass(frozen=True)
class Real:
    """Real paintings as a gap needs them."""

    values: np.ndarray
    painters: Sequence[str]
    """The painter of each painting; where none is known, a name of its own."""
    genres: Sequence[str] = ()
    """The genre of each painting, in the words of the prompt set; empty where none is known."""

    @classmethod
    def of(cls, values: "Real | Sequence[float] | np.ndarray") -> "Real":
        numbers = values if isinstance(values, Real) else np.asarray(values, float)
        return numbers if isinstance(numbers, Real) else cls(numbers, [str(i) for i in range(len(numbers))])


MATCHED = 3  # paintings of a genre, from which on its prompts are compared with these alone


def gap_closed(
    base: Values, adapter: Values, real: Real | Values, *, genres: Mapping[str, str] | None = None,
    draws: int = 10_000, seed: int = 0,
) -> Estimate | None:  # fmt: skip
    """(adapter − base) ÷ (real − base): 0 is the base model, 1 a real painting, above 1 overdone.

    A prompt is compared with the real paintings of its genre (`genres`, by prompt) where there are MATCHED of them, and
    else with all. Prompts are drawn with base and adapter together, and painters by themselves. None where real
    paintings and the base are not told apart: a quotient by what may be zero has no interval.
    """
    names = list(base) if isinstance(base, Mapping) else []
    base, adapter = aligned(base, adapter)
    real = Real.of(real)  # type: ignore[arg-type]
    of_prompt = [genres.get(name, "") for name in names] if genres else [""] * len(base)
    labels = list(real.genres) or [""] * len(real.values)
    matched = sorted({genre for genre in of_prompt if genre and labels.count(genre) >= MATCHED})
    columns = [np.ones(len(labels), bool), *(np.array(labels) == genre for genre in matched)]
    column_of = np.array([matched.index(genre) + 1 if genre in matched else 0 for genre in of_prompt])
    parts = [totals(np.where(column, real.values, 0.0), real.painters)[0] for column in columns]
    sizes = [totals(column.astype(float), real.painters)[0] for column in columns]
    sums, counts = np.array(parts).T, np.array(sizes).T  # (painters, 1 + genres)
    if min(len(base), len(sums)) < 2:
        raise UserError("A gap needs at least two prompts and two real paintings; give more of them.")

    rng = np.random.default_rng(seed)
    prompts = rng.integers(len(base), size=(draws, len(base)))
    painters = rng.integers(len(sums), size=(draws, len(sums)))

    def target(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Mean of each column; a genre of which nothing was drawn counts as all."""
        return np.where(counts > 0, sums / np.maximum(counts, 1), sums[..., :1] / counts[..., :1])

    drawn = np.take_along_axis(
        target(*(np.stack([column[painters].sum(1) for column in part.T], axis=-1) for part in (sums, counts))),
        column_of[prompts],
        axis=1,
    )
    way = drawn.mean(1) - base[prompts].mean(1)
    tail = (1 - widened(min(len(base), len(sums)))) / 2
    low, high = np.quantile(way, [tail, 1 - tail])
    if low <= 0 <= high:
        return None
    whole = target(sums.sum(0), counts.sum(0))[column_of].mean() - base.mean()
    low, high = np.quantile((adapter - base)[prompts].mean(1) / way, [tail, 1 - tail])
    return Estimate(value=float((adapter - base).mean() / whole), low=float(low), high=float(high), n=len(base))


def proportion(outcomes: Sequence[bool], method: str = "wilson") -> Estimate | None:
    """Share of independent trials that succeeded, with Wilson's interval, or Clopper and Pearson's ("exact"); None
    where there was no trial."""
    if not outcomes:
        return None
    found = stats.binomtest(sum(outcomes), len(outcomes)).proportion_ci(LEVEL, method=method)
    return Estimate(value=sum(outcomes) / len(outcomes), low=float(found.low), high=float(found.high), n=len(outcomes))


# ---- Tests


def paired_p(adapter: Values, base: Values | None = None, *, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p that the mean difference is zero: prompts' signs flipped, in all ways where they are few.

    With one argument, the values are the differences.
    """
    difference = by_prompt(adapter) if base is None else np.subtract(*aligned(adapter, base))
    if len(difference) < 2 or not difference.any():
        return 1.0
    test = stats.permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=draws,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def binomial_p(outcomes: Sequence[bool]) -> float:
    """Exact two-sided p that independent trials succeed half of the time."""
    return float(stats.binomtest(sum(outcomes), len(outcomes)).pvalue) if outcomes else 1.0


def holm(ps: Sequence[float | None], families: Sequence[object] | None = None) -> list[float | None]:
    """The p values, each family's corrected for their number (Holm 1979), in the order given; None stays None."""
    result = list(ps)
    families = families or [""] * len(ps)
    for family in set(families):
        places = [place for place, p in enumerate(ps) if p is not None and families[place] == family]
        least = 0.0
        for rank, place in enumerate(sorted(places, key=lambda place: ps[place] or 0.0)):
            least = max(least, min(1.0, (ps[place] or 0.0) * (len(places) - rank)))
            result[place] = least
    return result


# ---- What goes in


def by_prompt(values: Values) -> np.ndarray:
    """One number a prompt: the mean of its pictures or votes."""
    rows = values.values() if isinstance(values, Mapping) else values
    numbers = np.array([np.mean(row) for row in rows], dtype=float)
    if not np.isfinite(numbers).all():
        raise UserError("A number is missing or infinite; leave its picture out before the interval is asked for.")
    return numbers


def aligned(one: Values, other: Values) -> tuple[np.ndarray, np.ndarray]:
    """Both with the same prompts in the same order."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if one.keys() != other.keys():
            odd = sorted(one.keys() ^ other.keys())
            raise UserError(f"These prompts are on one side only: {', '.join(odd[:5])}; paint them on both.")
        other = {prompt: other[prompt] for prompt in one}
    first, second = by_prompt(one), by_prompt(other)
    if len(first) != len(second):
        raise UserError(f"{len(first)} prompts cannot be paired with {len(second)}.")
    return first, second


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

PENALTY = 10.0  # of the classifier; its vectors have unit variance, so that one value suits all features


def real_likeness(
    pictures: np.ndarray, prompts: np.ndarray, is_base: np.ndarray, real: np.ndarray, folds: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """How real a ridge classifier of real paintings (1) against the base's pictures (0) takes each picture and each
    painting to be: (pictures,) and (real,). None is judged by a classifier that saw its prompt, or the painting."""
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
    """Correlation of each row with its counterpart."""
    return (unit(one) * unit(other)).sum(1)


def nearest(pictures: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each picture the most similar of the others, and their correlation."""
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
