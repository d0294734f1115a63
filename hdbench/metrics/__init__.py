"""Metrics: features -> statistics -> value, three separate steps; every value comes with the influence of each sample.

`Estimate.influence` (N,) float64 holds IF_i: its standard deviation over sqrt(N) is the standard error of the value, and
the difference of two models on the same noises has the standard error of the paired differences of their influences.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    value: float
    influence: np.ndarray  # (N,) float64, mean about 0

    @property
    def standard_error(self) -> float:
        return float(self.influence.std(ddof=1) / len(self.influence) ** 0.5)


def mean(values: np.ndarray) -> Estimate:
    """The mean of values (N,), each its own influence."""
    values = np.asarray(values, dtype=np.float64)
    return Estimate(float(values.mean()), values - values.mean())
