"""Comparing models: paired differences, and sampling variance apart from that of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hdbench.core.errors import UserError
from hdbench.metrics.base import Estimate


def paired_difference(
    a: Estimate, ids_a: Sequence[str], b: Estimate, ids_b: Sequence[str]
) -> Estimate:
    """a - b where sample i of both had the same noise, label and prompt; influences in a's order.

    Samples are matched by id, in whatever order they are.  Raises UserError where the two do not
    have the same ids.
    """
    if sorted(ids_a) != sorted(ids_b):
        alone = sorted(set(ids_a) ^ set(ids_b))
        what = (
            f"{len(alone)} ids are in one alone, such as {alone[0]!r}"
            if alone
            else "an id appears twice"
        )
        raise UserError(
            f"the two evaluations are not of the same samples ({what}); pair only samples of the "
            "same ids"
        )
    position = {sample: row for row, sample in enumerate(ids_b)}
    if len(position) != len(ids_b):
        raise UserError("an id appears more than once, so the samples cannot be paired")
    order = [position[sample] for sample in ids_a]
    return Estimate(a.value - b.value, a.influence - b.influence[order], design=a.design)


class Components(NamedTuple):
    """Standard deviations of one seed's value by their source, and the mean's standard error."""

    mean: float
    sampling: float  # finite number of samples, sqrt(mean se^2)
    training: float  # training seeds, zero where sampling alone explains the scatter
    standard_error: float  # of the mean over chains, both sources in it; NaN for one chain


def variance_components(values: Sequence[float], standard_errors: Sequence[float]) -> Components:
    """Sources of the variance of independent seeds' values: Var(values) = training^2 + mean se^2.

    Unbiased before it is cut off at zero, where chains are sampled from noises of their own, as a
    suite's are; of the same noises they would share part of their sampling error.  What differs
    between chains, such as their split of the data, is in `training`.  Raises UserError for unequal
    lengths or no value.
    """
    x = np.asarray(values, dtype=np.float64)
    se = np.asarray(standard_errors, dtype=np.float64)
    if len(x) != len(se) or len(x) == 0:
        raise UserError(
            f"{len(x)} values and {len(se)} standard errors: give one of each for each seed, at "
            "least one"
        )
    sampling = float(np.mean(se**2))
    scatter = float(np.var(x, ddof=1)) if len(x) > 1 else float("nan")
    training = max(scatter - sampling, 0.0) if len(x) > 1 else float("nan")
    return Components(float(x.mean()), sampling**0.5, training**0.5, (scatter / len(x)) ** 0.5)
