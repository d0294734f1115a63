"""MIND, CMMD and FDr against closed forms, and their standard errors against repeated draws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hdbench.metrics import Estimate, MetricInput, View
from hdbench.metrics.fdr import HELD_OUT, VALIDATION, Fdr3, Fdr6, FdrOfEncoder
from hdbench.metrics.frechet import GaussianReference, moments
from hdbench.metrics.kernel import cmmd
from hdbench.metrics.mind import mind

D = 16


def normal(n: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) + shift


def unit(n: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.nn.functional.normalize(normal(n, seed, shift))


def test_mind_of_a_moved_and_a_stretched_set_is_exact():
    """W2^2 along u is (u'm)^2, or (s - 1)^2 times the mean square along u."""
    y = normal(300, 1)
    m = torch.linspace(-1, 2, D)
    mean_square = (m @ m / D).item()
    assert mind(y + m, y, 20_000).value == pytest.approx(3 * D * mean_square, rel=0.03)
    centred = y - y.mean(0)
    spread = centred.square().sum(1).mean().item() / D
    stretched = mind(1.5 * centred, centred, 20_000).value
    assert stretched == pytest.approx(3 * D * 0.25 * spread, rel=0.01)
    assert mind(y, y).value == 0
    assert mind(y, y + m).value == pytest.approx(mind(y + m, y).value, rel=1e-5)


def test_mind_draws_the_larger_set_down_and_says_which_samples_are_left():
    x, y = normal(50, 2, 0.5), normal(40, 3)
    estimate = mind(x, y)
    assert len(set(estimate.rows.tolist())) == 40 == len(estimate.influence)
    assert estimate.value == pytest.approx(mind(x[estimate.rows], y).value, rel=0.3)
    assert mind(y, x).rows is None


@pytest.mark.parametrize(
    ("metric", "draw", "shift"),
    [
        (lambda x, y: mind(x, y, projections=50), normal, 0.3),
        (lambda x, y: mind(x, y, projections=50), normal, 1.0),
        (cmmd, unit, 0.0),
        (cmmd, unit, 0.3),
    ],
)
def test_standard_errors_are_the_scatter_of_repeated_draws(
    metric: Callable[[Tensor, Tensor], Estimate], draw: Callable, shift: float
):
    """Of the samples given the reference; jointly of the two where both are drawn again."""
    n = 200
    given = [metric(draw(n, seed, shift), draw(n, 0)) for seed in range(1, 101)]
    both = [metric(draw(n, seed, shift), draw(n, -seed)) for seed in range(1, 101)]
    scatter, joint = (np.std([e.value for e in estimates], ddof=1) for estimates in (given, both))
    assert np.mean([e.standard_error for e in given]) == pytest.approx(scatter, rel=0.2)
    assert np.mean([e.joint_standard_error for e in both]) == pytest.approx(joint, rel=0.2)


def test_fdr_is_the_mean_of_ratios_with_the_error_of_correlated_estimates():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5))
    views = {}
    distances = {}
    for place, name in enumerate(VALIDATION):
        m = np.full(5, 0.2 * (place + 1))
        features = x + m  # the same images on all encoders, so the errors do not average out
        identity = GaussianReference.of_statistics(x.mean(0), moments(x)[1])
        views[name] = View(features=features, statistics=identity)
        distances[name] = m @ m
    sample = MetricInput(views=views)
    for metric, names in ((Fdr6, VALIDATION), (Fdr3, HELD_OUT)):
        (estimate,) = metric().measure(sample).values()
        expected = np.mean([distances[name] / VALIDATION[name] for name in names])
        assert estimate.value == pytest.approx(expected, rel=1e-9)
        gradient = sum(2 * (views[n].features - x)[0] / VALIDATION[n] for n in names) / len(names)
        moved = (x - x.mean(0)) @ gradient
        assert estimate.standard_error == pytest.approx(moved.std(ddof=1) / 20, rel=1e-6)
    encoders = FdrOfEncoder().measure(sample)
    kinds = ("inception", "convnextv2", "dinov2", "mae", "siglip2", "clip")
    assert list(encoders) == [f"fdr_{kind}" for kind in kinds]
