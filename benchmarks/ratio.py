"""How many times as long one thing takes as another, timed in turn; and how sure that is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.tables import marked

DRAWS = 10_000


class Ratio(NamedTuple):
    """The median of the turns' own ratios, since a slow spell of the machine takes both; with a 95 % interval."""

    median: float
    low: float
    high: float

    def told(self, form: str = ".3f") -> str:
        """As a table has it; form is a number's format."""
        return f"{self.median:{form}} ({self.low:{form}} to {self.high:{form}})"

    def judged(self, asked: str, limit: float, *, least: bool = False) -> str:
        """What was asked, and whether the median reaches it: not sure, where the limit lies in the interval."""
        reached = self.median >= limit if least else self.median <= limit
        if not self.low < limit < self.high:
            return marked(asked, reached)
        return marked(asked, reached) + " reached" * reached + ", not sure"


def ratio(ones: Sequence[float], others: Sequence[float]) -> Ratio:
    """Of seconds that belong together. The interval is the percentile bootstrap's, over the turns; of five turns or
    fewer it is about their range."""
    turns = np.divide(ones, others)
    drawn = np.random.default_rng(0).choice(turns, (DRAWS, len(turns)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return Ratio(float(np.median(turns)), float(low), float(high))
