"""Confidence sequences: their e-processes by numerical integration, their errors by simulation.

Errors are those of whoever looks after every seed and stops where it suits.
"""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from hdbench.metrics.records import interval
from hdbench.report.effects import Deviation
from hdbench.report.sequences import (
    correlation_evidence,
    detectable,
    half_width,
    largest_correlation,
    mean_interval,
    spread_interval,
    t_evidence,
)

LEVELS = (0.05, 0.05 / 6)


def t_statistics(x: np.ndarray) -> np.ndarray:
    """By run (row) and number of values from 2 on."""
    n = np.arange(1, x.shape[1] + 1)
    mean = np.cumsum(x, axis=1) / n
    variance = (np.cumsum(x**2, axis=1) - n * mean**2)[:, 1:] / (n - 1)[1:]
    return mean[:, 1:] * np.sqrt(n[1:] / variance)


def correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of the first n pairs, by run and n from 4 on."""
    n = np.arange(1, x.shape[1] + 1)

    def covariance(a, b):
        return np.cumsum(a * b, axis=1) - np.cumsum(a, axis=1) * np.cumsum(b, axis=1) / n

    xx, yy, xy = (covariance(*pair)[:, 3:] for pair in ((x, x), (y, y), (x, y)))
    return xy / np.sqrt(xx * yy)


@pytest.mark.parametrize(("n", "t", "c"), [(2, 5.0, 1.0), (7, -3.1, 1.0), (20, 4.0, 0.5)])
def test_the_evidence_of_t_is_the_integral_of_its_density_over_the_mixture(n, t, c):
    """Of the maximal invariant: noncentral t, mu / sigma ~ N(0, 1 / c), over central t."""

    def weighted(effect):
        density = stats.nct.pdf(t, n - 1, effect * math.sqrt(n))
        return density * stats.norm.pdf(effect, scale=c**-0.5)

    integral, _ = integrate.quad(weighted, -12, 12, points=[0, t / math.sqrt(n)], limit=300)
    assert t_evidence(t, n, c) == pytest.approx(integral / stats.t.pdf(t, n - 1), rel=1e-6)


def test_the_evidence_of_t_is_that_of_two_integrals_over_mean_and_deviation():
    """Of raw data, with the prior 1 / sigma on both sides, by quadrature over log sigma."""
    x = np.array([0.3, 1.1, 0.7, -0.2, 1.4])
    n = len(x)

    def marginal(covariance):
        def at(log_sigma):
            return stats.multivariate_normal.pdf(x, cov=math.exp(2 * log_sigma) * covariance)

        return integrate.quad(at, -6, 8, limit=200)[0]

    ratio = marginal(np.eye(n) + np.ones((n, n))) / marginal(np.eye(n))
    assert t_evidence(stats.ttest_1samp(x, 0).statistic, n) == pytest.approx(ratio, rel=1e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("c", [1.0, 0.25])
def test_the_half_width_is_where_the_evidence_is_one_over_the_level(level, c):
    bounded = [n for n in range(2, 80) if math.isfinite(half_width(n, level, c))]
    assert bounded == list(range(bounded[0], 80)) and bounded[0] <= 8
    for n in bounded:
        t = half_width(n, level, c) * math.sqrt(n)
        assert t_evidence(t, n, c) == pytest.approx(1 / level, rel=1e-9)
        assert t > stats.t.ppf(1 - level / 2, n - 1)  # the price of looking
    for n in range(2, bounded[0]):  # however far off, too few values exclude nothing
        assert t_evidence(1e9, n, c) < 1 / level
    assert half_width(1, level) == math.inf


@pytest.mark.parametrize("level", LEVELS)
def test_whoever_looks_after_every_value_errs_at_most_at_the_level(level):
    t = t_statistics(np.random.default_rng(1).normal(size=(20_000, 150)))
    sizes = np.arange(2, 151)
    half = np.array([half_width(n, level) * math.sqrt(n) for n in sizes])
    rate = np.mean((np.abs(t) > half).any(axis=1))
    assert 0.2 * level < rate <= level
    fixed = np.mean((np.abs(t) > stats.t.ppf(1 - level / 2, sizes - 1)).any(axis=1))
    assert fixed > 3 * level  # what the t-test's own intervals would have done


def test_a_sequence_of_the_mean_covers_it_at_all_numbers_at_once():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        x = rng.normal(loc=-7, scale=3, size=60)
        intervals = [mean_interval(x[:n], 0.05) for n in range(2, 61)]
        covered += all(low <= -7 <= high for low, high in intervals)
    assert covered / 300 >= 0.95
    shuffled = mean_interval(x[::-1], 0.05)
    assert shuffled == pytest.approx(mean_interval(x, 0.05))  # of no order
    more = mean_interval(x[:8], 0.05, n=60)
    assert more[1] - more[0] == pytest.approx(2 * half_width(60, 0.05) * x[:8].std(ddof=1))


@pytest.mark.parametrize(("n", "r"), [(4, 0.9), (8, -0.55), (30, 0.2)])
def test_the_evidence_of_a_correlation_is_that_of_hotellings_density(n, r):
    """The density of r in its other form, an integral over w of (cosh w - rho r)^(1 - n)."""

    def density(rho):
        integral, _ = integrate.quad(lambda w: (math.cosh(w) - rho * r) ** (1 - n), 0, 30)
        return (1 - rho**2) ** ((n - 1) / 2) * integral

    mixed, _ = integrate.quad(lambda rho: density(rho) / 2, -1, 1)
    assert correlation_evidence(r, n) == pytest.approx(mixed / density(0), rel=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_whoever_looks_at_a_ratio_of_spreads_after_every_pair_errs_at_most_at_the_level(level):
    """Arms that share most of their noise, SDs 2 and 1: x - 2 y and x + 2 y are uncorrelated."""
    rng = np.random.default_rng(3)
    shared, a, b = rng.normal(size=(3, 20_000, 60))
    x, y = 2 * (0.9 * shared + math.sqrt(0.19) * a), 0.9 * shared + math.sqrt(0.19) * b + 5
    r = correlations(x - 2 * y, x + 2 * y)
    bounds = np.array([largest_correlation(n, level) for n in range(4, 61)])
    assert 0.2 * level < np.mean((np.abs(r) > bounds).any(axis=1)) <= level


def test_a_sequence_of_a_ratio_of_spreads_ends_where_the_evidence_does():
    rng = np.random.default_rng(4)
    y = rng.normal(size=14)
    x = 3 * y + rng.normal(size=14)
    low, high = spread_interval(x, y, 0.05)
    assert low < np.std(x, ddof=1) / np.std(y, ddof=1) < high
    for theta in (low, high):
        r = np.corrcoef(x - theta * y, x + theta * y)[0, 1]
        assert correlation_evidence(r, 14) == pytest.approx(20, rel=1e-6)
    assert spread_interval(y, x, 0.05) == pytest.approx((1 / high, 1 / low))
    assert spread_interval(x[:3], y[:3], 0.05) == (0, math.inf)
    narrower = spread_interval(x, y, 0.05, n=100)
    assert low < narrower[0] < narrower[1] < high


def test_the_errors_under_other_laws_are_those_that_the_documents_say():
    """Heavy tails harm a ratio of spreads alone; skewness and two modes, the mean alone."""
    rng = np.random.default_rng(7)
    laws = {
        "t5": lambda *size: rng.standard_t(5, size=size),
        "t3": lambda *size: rng.standard_t(3, size=size),
        "exponential": lambda *size: rng.exponential(size=size) - 1,
        "two modes": lambda *size: rng.choice([-1, 1], size) + 0.2 * rng.normal(size=size),
    }
    half = np.array([half_width(n, 0.05) * math.sqrt(n) for n in range(2, 101)])
    bounds = np.array([largest_correlation(n, 0.05) for n in range(4, 61)])
    said = {"t5": (0.02, 0.03), "t3": (0.02, 0.08), "exponential": (0.13, 0.05)}
    said["two modes"] = (0.08, 0.02)
    for name, law in laws.items():
        of_mean = np.mean((np.abs(t_statistics(law(10_000, 100))) > half).any(axis=1))
        shared, a, b = law(3, 10_000, 60)
        x, y = shared + a / 2, shared + b / 2
        of_spread = np.mean((np.abs(correlations(x - y, x + y)) > bounds).any(axis=1))
        assert (of_mean, of_spread) == pytest.approx(said[name], abs=0.008)


def test_the_coverage_over_three_chains_is_what_the_guide_says():
    """Of t-intervals; docs/guide/evaluating.md."""
    rng = np.random.default_rng(3)
    laws = {
        "uniform": (rng.uniform(-1, 1, (4000, 3)), 0.0, 0.91, 0.94),
        "log-normal": (rng.lognormal(0, 0.5, (4000, 3)), math.exp(0.125), 0.91, 0.94),
        "t3": (rng.standard_t(3, (4000, 3)), 0.0, 0.95, 0.98),
    }
    for name, (chains, mean, low, high) in laws.items():
        intervals = [interval(values) for values in chains]
        covered = np.mean([abs(x.value - mean) <= x.half_width for x in intervals])
        assert low < covered < high, (name, covered)


def deviation(a, b) -> Deviation:
    return Deviation(a=np.asarray(a), b=np.asarray(b), n=len(a), mixture=1.0)


def test_a_deviation_does_not_fold_and_its_interval_holds():
    """Of true means on one side of 0, on both, and at 0, where |x| of single values is biased."""
    rng = np.random.default_rng(5)
    for mean_a, mean_b in ((0.1, 0.3), (-0.2, 0.25), (0.0, 0.0), (0.3, -0.1)):
        true = abs(mean_a) - abs(mean_b)
        held = 0
        for _ in range(200):
            a, b = (mean + 0.1 * rng.normal(size=20) for mean in (mean_a, mean_b))
            effects = [deviation(a[:n], b[:n]) for n in range(4, 21, 2)]
            held += all(low <= true <= high for low, high in (e.interval(0.05) for e in effects))
        assert held / 200 >= 0.95
    a, b = 0.5 + 0.01 * rng.normal(size=(2, 12))
    low, high = deviation(a, b + 0.3).interval(0.05)
    assert (low, high) == pytest.approx(mean_interval(a - b - 0.3, 0.025))  # signs are known
    assert deviation(a, b + 0.3).estimate == pytest.approx(np.mean(a - b - 0.3))


def test_the_detectable_difference_has_its_power():
    rng = np.random.default_rng(6)
    for n in (3, 8, 20):
        t = np.abs(stats.ttest_1samp(detectable(n) + rng.normal(size=(n, 20_000)), 0).statistic)
        assert np.mean(t > stats.t.ppf(0.975, n - 1)) == pytest.approx(0.9, abs=0.01)
    assert detectable(1) == math.inf
