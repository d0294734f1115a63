"""Density and coverage against their authors' definition (arXiv 2002.09797, prdc) written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from hdbench.metrics.manifold import manifold_metrics


@pytest.mark.parametrize(("n", "m", "d", "k"), [(60, 45, 3, 5), (40, 80, 2, 1), (150, 150, 8, 3)])
def test_all_four_by_whole_matrices_of_distances(n, m, d, k):
    rng = np.random.default_rng(n)
    fake, real = 1.2 * rng.normal(size=(n, d)) + 0.3, rng.normal(size=(m, d))
    radius_real = np.sort(cdist(real, real), axis=1)[:, k]
    radius_fake = np.sort(cdist(fake, fake), axis=1)[:, k]
    between = cdist(real, fake)
    expected = (
        (between < radius_real[:, None]).any(0).mean(),
        (between < radius_fake[None]).any(1).mean(),
        (between < radius_real[:, None]).sum(0).mean() / k,
        (between.min(1) < radius_real).mean(),
    )
    found = manifold_metrics(torch.from_numpy(fake), torch.from_numpy(real), k)
    assert [e.value for e in found] == pytest.approx(expected, abs=1e-12)


def test_coverage_of_the_references_own_law_is_known():
    """All k nearest of N + M - 1 others are real, by chance, and a sample is in k of M balls.

    So 1 - coverage = prod_j (M - j) / (N + M - j) for j = 1 to k, and density is 1.
    """
    rng = np.random.default_rng(0)
    n, m, k = 80, 60, 3
    found = [
        manifold_metrics(*(torch.from_numpy(rng.normal(size=(count, 2))) for count in (n, m)), k)
        for _ in range(300)
    ]
    missed = np.prod([(m - j) / (n + m - j) for j in range(1, k + 1)])
    assert np.mean([e.coverage.value for e in found]) == pytest.approx(1 - missed, abs=0.006)
    assert np.mean([e.density.value for e in found]) == pytest.approx(1, abs=0.02)
