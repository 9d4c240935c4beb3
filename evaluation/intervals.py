"""Intervals, tests and sample sizes, as pure statistics; prompts are the unit that is drawn.

Pictures and votes of one prompt are alike, so they are averaged before anything is drawn: an interval that took
them for independent would be too narrow (Miller, arXiv 2411.00640).
"""

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from scipy import stats

from impressionism.errors import UserError
from impressionism.records import Estimate

Values = Mapping[str, float | Sequence[float]] | Sequence[float] | np.ndarray
"""Numbers by prompt, one or several for each; or a sequence with one number a prompt."""

LEVEL = 0.95


# ---- Intervals


def bootstrap(
    values: Values, *, statistic: Callable[..., np.ndarray] = np.mean, draws: int = 10_000, seed: int = 0
) -> Estimate:
    """The statistic over prompts with its interval; `statistic` takes an `axis` as NumPy's do."""
    numbers = by_prompt(values)
    return resampled((numbers,), statistic, len(numbers), draws, seed)


def gap_closed(base: Values, adapter: Values, real: Values, *, draws: int = 10_000, seed: int = 0) -> Estimate | None:
    """(adapter − base) ÷ (real − base): 0 is the base model, 1 a real painting, above 1 overdone.

    Base and adapter are drawn together, prompt by prompt, real paintings by themselves. None where real paintings
    and the base are not told apart: a quotient by what may be zero has no interval.
    """
    base, adapter = aligned(base, adapter)
    real = by_prompt(real)
    prompts = np.arange(len(base))

    def gap(drawn: np.ndarray, real: np.ndarray, axis: int = -1) -> np.ndarray:
        return real.mean(axis=axis) - base[drawn].mean(axis=axis)

    def closed(drawn: np.ndarray, real: np.ndarray, axis: int = -1) -> np.ndarray:
        return (adapter - base)[drawn].mean(axis=axis) / gap(drawn, real, axis)

    whole = resampled((prompts, real), gap, len(prompts), draws, seed)
    if whole.low <= 0 <= whole.high:
        return None
    return resampled((prompts, real), closed, len(prompts), draws, seed)


def resampled(samples: Sequence[np.ndarray], statistic: Callable, n: int, draws: int, seed: int) -> Estimate:
    """The percentile interval, widened for few prompts as a t interval is (Hesterberg 2015, section 3.3)."""
    count = min(len(sample) for sample in samples)
    if count < 2:
        raise UserError("An interval needs at least two prompts; give the gallery more of them.")
    tail = stats.norm.cdf(math.sqrt(count / (count - 1)) * stats.t.ppf((1 - LEVEL) / 2, count - 1))
    found = stats.bootstrap(
        samples,
        statistic,
        n_resamples=draws,
        confidence_level=float(1 - 2 * tail),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    value = statistic(*samples, axis=-1)
    return Estimate(value=float(value), low=float(found.low), high=float(found.high), n=n)


def proportion(successes: int, trials: int) -> Estimate:
    """Wilson's interval, for independent trials only; `n` counts them."""
    if not trials:
        raise UserError("A share of nothing has no interval.")
    found = stats.binomtest(successes, trials).proportion_ci(LEVEL, method="wilson")
    return Estimate(value=successes / trials, low=float(found.low), high=float(found.high), n=trials)


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


def binomial_p(successes: int, trials: int, rate: float = 0.5) -> float:
    """Exact two-sided p that independent trials succeed at this rate."""
    return float(stats.binomtest(successes, trials, rate).pvalue) if trials else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """The p values of one family, corrected for their number (Holm 1979), in the order given."""
    order = np.argsort(ps, kind="stable")
    factors = np.arange(len(ps), 0, -1)
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(ps, dtype=float)[order] * factors), 1)
    return corrected.tolist()


# ---- Agreement


def krippendorff(units: Sequence[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for names: 1 is agreement, 0 chance. A unit is what all its raters answered.

    None where no unit has two answers, or where all answers are the same and chance cannot be told.
    """
    units = [unit for unit in units if len(unit) > 1]
    names = sorted({answer for unit in units for answer in unit}, key=str)
    counts = np.array([[list(unit).count(name) for name in names] for unit in units])  # (units, names)
    if len(names) < 2:
        return None
    totals = counts.sum(axis=0)
    n = totals.sum()
    sizes = counts.sum(axis=1)
    observed = ((sizes**2 - (counts**2).sum(axis=1)) / (sizes - 1)).sum() / n
    expected = (n**2 - (totals**2).sum()) / (n * (n - 1))
    return float(1 - observed / expected)


# ---- How many votes


def power(votes: int, rate: float, alpha: float = 0.05) -> float:
    """Chance that the exact two-sided binomial test sees a true win rate in so many independent decisive votes."""
    wins = np.arange(votes + 1)
    tails = np.minimum(stats.binom.cdf(wins, votes, 0.5), stats.binom.sf(wins - 1, votes, 0.5))
    return float(stats.binom.pmf(wins, votes, rate)[tails <= alpha / 2].sum())


@functools.cache
def votes_needed(rate: float, *, wanted: float = 0.8, alpha: float = 0.05) -> int:
    """The number of independent decisive votes from which on a true win rate is seen this often."""
    if not 0.5 < rate < 1:
        raise UserError(f"A win rate above 0.5 and below 1 can be told from chance, not {rate}.")
    z, beta = stats.norm.ppf([1 - alpha / 2, wanted])
    about = ((z / 2 + beta * math.sqrt(rate * (1 - rate))) / (rate - 0.5)) ** 2
    votes = int(1.2 * about) + 20
    while power(votes - 1, rate, alpha) >= wanted:  # from above: the power of an exact test is a saw
        votes -= 1
    return votes


def design_effect(votes_per_prompt: float, correlation: float = 0.3) -> float:
    """How many times more votes are needed where votes on one prompt resemble each other."""
    return 1 + (votes_per_prompt - 1) * correlation


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
