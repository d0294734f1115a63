"""Metrics: features -> statistics -> value, three separate steps; every value comes with the influence of each sample.

`Estimate.influence` (N,) float64 holds IF_i: its standard deviation over sqrt(N) is the standard error of the value, and
the difference of two models on the same noises has the standard error of the paired differences of their influences.
What is random in it are the samples; the reference is given.  `Estimate.both` counts the reference as a draw as well.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    value: float
    influence: np.ndarray  # (N,) float64, mean about 0
    both: float | None = (
        None  # standard error when samples and reference are both random, where the metric knows it
    )

    @property
    def standard_error(self) -> float:
        return float(self.influence.std(ddof=1) / len(self.influence) ** 0.5)

    def with_standard_error(self, error: float) -> Estimate:
        """The same influences scaled to this standard error; left alone where they do not vary."""
        own = self.standard_error
        return self if own == 0 else self._replace(influence=self.influence * (error / own))


def mean(values: np.ndarray) -> Estimate:
    """The mean of values (N,), each its own influence."""
    values = np.asarray(values, dtype=np.float64)
    return Estimate(float(values.mean()), values - values.mean())
