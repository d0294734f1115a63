"""How samples were drawn, and with it the error of a mean over them (Cochran, Sampling Techniques).

    Var(mean) = sum_h C_h / (C_h - 1) sum_c t_hc^2 / N^2,   t_hc = sum_i (v_i - mean_h v)

for strata h, of which cluster c has the total t_hc.  Without clusters each sample is its own,
without strata all samples are of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Design(NamedTuple):
    """What about N samples was not drawn independently; by default nothing.

    `strata` (N,) holds what was fixed for each sample and not drawn, such as its class: the shares
    of the strata are no accident, so only what varies within them is error.  `clusters` (N,) holds
    what several samples were made from, such as a photograph of which they are crops: only samples
    of different clusters are independent.  Both are arrays of any integers.
    """

    strata: np.ndarray | None = None
    clusters: np.ndarray | None = None

    @classmethod
    def of_labels(cls, labels: np.ndarray, groups: Sequence[Any] | None = None) -> Design:
        """Of samples whose labels (N,) were fixed; `groups` (N,) are coarser, such as categories.

        A label that one sample has, such as a prompt, says nothing of its variance: such samples
        are of one stratum with those of their group, or with each other.  That makes an error
        larger, never smaller, by what differs between the labels.
        """
        _, label, count = np.unique(labels, return_inverse=True, return_counts=True)
        alone = count[label] < 2
        group = np.unique(groups, return_inverse=True)[1] if groups is not None else 0 * label
        return cls(strata=np.where(alone, -1 - group, label))

    @classmethod
    def inferred(cls, labels: np.ndarray, groups: Sequence[Any] | None = None) -> Design:
        """`of_labels` if labels are equally frequent, up to one; else they were drawn."""
        balanced = np.ptp(np.unique(labels, return_counts=True)[1]) <= 1
        return cls.of_labels(labels, groups) if balanced else INDEPENDENT

    def take(self, rows: np.ndarray | None) -> Design:
        """That of some of the samples; None: of all of them."""
        if rows is None:
            return self
        return Design(*(None if array is None else array[rows] for array in self))

    def units(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Of n samples the number of each one's independent unit (n,), and each unit's stratum.

        A stratum of one unit is joined with the others of one, or with the next, since one unit
        has no variance.
        """
        stratum = _numbered(np.zeros(n) if self.strata is None else self.strata)
        cluster = np.arange(n) if self.clusters is None else _numbered(self.clusters)
        unique, unit = np.unique(stratum * n + cluster, return_inverse=True)
        of_unit = unique // n
        alone = np.bincount(of_unit)[of_unit] < 2
        of_unit = _numbered(np.where(alone, of_unit.max(initial=0) + 1, of_unit))
        last = of_unit.max(initial=0)
        if last and alone.sum() == 1:
            of_unit = np.where(alone, last - 1, of_unit)
        return unit, of_unit

    def degrees(self, n: int) -> int:
        """Degrees of freedom of `standard_error` of n samples: independent units less strata."""
        _, stratum = self.units(n)
        return len(stratum) - len(np.unique(stratum))

    def standard_error(self, values: np.ndarray) -> float:
        """Of the mean of values (N,) that belong to the samples; NaN for one unit."""
        if np.isnan(values).any():
            return float("nan")
        unit, stratum = self.units(len(values))
        of_sample = stratum[unit]
        centred = values - (np.bincount(of_sample, values) / np.bincount(of_sample))[of_sample]
        squares = np.bincount(stratum, np.bincount(unit, centred) ** 2)
        count = np.bincount(stratum)
        if count.min() < 2:
            return float("nan")
        return float((squares * count / (count - 1)).sum() ** 0.5 / len(values))


def _numbered(values: np.ndarray) -> np.ndarray:
    """Values (n,) as 0, 1, ... in their order."""
    return np.unique(values, return_inverse=True)[1]


INDEPENDENT = Design()
