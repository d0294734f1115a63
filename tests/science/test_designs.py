"""Nominal 95% intervals cover 93 to 97% under each design, and what ignores the design does not.

Samples are drawn thousands of times by laws in few dimensions; the target is the estimator's own
mean over them, or a truth that is known.  2,000 repetitions measure a coverage to 1% (two errors).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from threadpoolctl import threadpool_limits

from hdbench.metrics import Design, Estimate, frechet
from hdbench.metrics.classification import classifier_score
from hdbench.metrics.clip_score import ClipScore
from hdbench.metrics.comparison import variance_components
from hdbench.metrics.inception_score import inception_score
from hdbench.metrics.kernel import kid
from hdbench.metrics.manifold import Coverage, Density, Precision, Recall, manifold_metrics
from hdbench.metrics.records import interval
from hdbench.metrics.scorers import GenEvalTask

REPETITIONS = 2000
CLASSES = 5
CENTRES = 2 * np.random.default_rng(5).normal(size=(CLASSES, 2))
REFERENCE = frechet.GaussianReference.of_statistics(np.zeros(2), np.diag([3.0, 5.0]))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with threadpool_limits(1):
        yield


def distance(x: np.ndarray) -> Estimate:
    return frechet.estimate(x, REFERENCE)


def spread(draw: Callable[[np.random.Generator], np.ndarray], design: Design) -> tuple:
    """Coverage by the design's errors, and by those of independent samples."""
    rng = np.random.default_rng(0)
    drawn = [distance(draw(rng)) for _ in range(REPETITIONS)]
    values = np.array([e.value for e in drawn])
    shares = []
    for of in (design, Design()):
        errors = np.array([of.standard_error(e.influence) for e in drawn])
        shares.append((np.abs(values - values.mean()) < 1.96 * errors).mean())
    return tuple(shares)


def test_independent_samples():
    covered, _ = spread(lambda rng: 0.3 + rng.normal(size=(200, 2)), Design())
    assert 0.93 < covered < 0.97


def test_samples_of_fixed_labels():
    """The usual error counts the labels as drawn, and is too wide."""
    labels = np.arange(200) % CLASSES
    design = Design.of_labels(labels)
    covered, usual = spread(lambda rng: CENTRES[labels] + 0.5 * rng.normal(size=(200, 2)), design)
    assert 0.93 < covered < 0.97 and usual > 0.99


@pytest.mark.parametrize(("n", "size", "strata"), [(3, 1, 1), (8, 1, 1), (6, 4, 1), (12, 2, 3)])
def test_intervals_of_few_samples_are_students(n, size, strata):
    """Of means of n clusters of a size, in strata of means of their own; by 1.96 they are short."""
    rng = np.random.default_rng(0)
    cluster = np.arange(n * size) // size
    of_strata = cluster % strata if strata > 1 else None
    design = Design(strata=of_strata, clusters=cluster)
    assert design.degrees(n * size) == n - strata
    inside, normal = [], []
    for _ in range(REPETITIONS):
        x = rng.normal(size=n)[cluster] + rng.normal(size=n * size) + 3 * (cluster % strata)
        estimate = Estimate(x.mean() - 3 * (strata - 1) / 2, x - x.mean(), design=design)
        for limits, degrees in ((inside, n - strata), (normal, np.inf)):
            low, high = ClipScore.limits(estimate.value, estimate.standard_error, degrees)
            limits.append(low <= 0 <= high)
    assert 0.935 < np.mean(inside) < 0.965 and np.mean(normal) < 0.93


def test_images_of_few_originals():
    """Drawn with replacement from originals that are drawn themselves; the usual is too narrow."""
    index = np.random.default_rng(1).integers(120, size=800)

    def draw(rng: np.random.Generator) -> np.ndarray:
        return rng.normal(size=(120, 2))[index] + 0.3 * rng.normal(size=(800, 2))

    covered, usual = spread(draw, Design(clusters=index))
    assert 0.93 < covered < 0.97 and usual < 0.7


@pytest.mark.parametrize(("originals", "ratio"), [(1347, 5.9 / 3.1), (450, 8.6 / 2.8)])
def test_real_images_of_the_reference_run_have_two_to_three_times_the_usual_error(originals, ratio):
    """4,000 images of as many originals as the digits' parts have, a tenth of the variance own.

    The ratios are those of the errors of two real sets' Frechet distances, by originals and not.
    """
    rng = np.random.default_rng(0)
    values, errors = [], []
    for _ in range(200):
        index = rng.integers(originals, size=4000)
        shapes = rng.normal(size=(originals, 2)) * 0.9**0.5
        estimate = distance(0.5 + shapes[index] + 0.1**0.5 * rng.normal(size=(4000, 2)))
        values.append(estimate.value)
        designs = Design(clusters=index), Design()
        errors.append([design.standard_error(estimate.influence) for design in designs])
    clustered, usual = np.mean(errors, axis=0)
    assert clustered / usual == pytest.approx(ratio, rel=0.06)
    assert np.std(values) == pytest.approx(clustered, rel=0.15)  # an SD of 200 is known to 5%


def test_paired_difference_of_fixed_labels():
    labels = np.arange(200) % CLASSES
    design = Design.of_labels(labels)
    rng = np.random.default_rng(0)
    values, errors, usual = [], [], []
    for _ in range(REPETITIONS):
        x = CENTRES[labels] + 0.5 * rng.normal(size=(200, 2))
        a, b = distance(x), distance(1.1 * x + 0.1)
        values.append(a.value - b.value)
        difference = a.influence - b.influence
        errors.append(design.standard_error(difference))
        usual.append(Design().standard_error(difference))
    deviation = np.abs(np.array(values) - np.mean(values))
    assert 0.93 < (deviation < 1.96 * np.array(errors)).mean() < 0.97
    assert (deviation < 1.96 * np.array(usual)).mean() > 0.98


@pytest.mark.parametrize("shared", [False, True])
def test_chains_with_noises_of_their_own(shared):
    """Intervals of an arm and of a difference cover, and the training part is unbiased.

    Four chains of two arms, which share their chain's noises and training.  With one set of noises
    for all chains an arm's interval leaves it out, and the training part is too small.
    """
    rng = np.random.default_rng(0)
    chains, n, sd = 4, 60, 0.15
    arms, differences, training = [], [], []
    for _ in range(REPETITIONS // 2):
        noise = rng.normal(size=(1 if shared else chains, n, 2))
        trained = np.array([1.0, 0.0]) + sd * rng.normal(size=(chains, 1, 2))
        x = np.broadcast_to(noise, (chains, n, 2)) + trained
        a = [Estimate(values.mean(), values - values.mean()) for values in x[..., 0]]
        b = [values.mean() for values in (1.2 * x[..., 0] + 0.1 * x[..., 1])]
        values = [e.value for e in a]
        arms.append(interval(values))
        differences.append(interval([two - one for one, two in zip(values, b, strict=True)]))
        errors = [e.standard_error for e in a]
        training.append(variance_components(values, errors).training ** 2)
    covered = np.mean([abs(value - 1) < half for value, half in arms])
    if shared:
        assert covered < 0.9 and np.mean(training) < 1.1 * sd**2
        return
    assert 0.93 < covered < 0.97
    assert 0.93 < np.mean([abs(value - 0.2) < half for value, half in differences]) < 0.97


def test_the_training_part_is_unbiased_with_noises_of_their_own_alone():
    rng = np.random.default_rng(0)
    chains, n, sd = 6, 60, 0.3
    found = []
    for shared in (False, True):
        parts = []
        for _ in range(REPETITIONS):
            x = rng.normal(size=(1 if shared else chains, n)) + sd * rng.normal(size=(chains, 1))
            errors = x.std(1, ddof=1) / n**0.5
            scatter = x.mean(1).var(ddof=1)
            parts.append(variance_components(x.mean(1), np.broadcast_to(errors, chains)).training)
            assert parts[-1] ** 2 == pytest.approx(max(scatter - (errors**2).mean(), 0))
        found.append(np.mean(np.square(parts)) / sd**2)
    assert found[0] == pytest.approx(1, abs=0.04) and found[1] < 0.88


@pytest.mark.parametrize("truth", [0.002, 0.02, 0.5, 0.98, 0.998])
@pytest.mark.parametrize("fixed", [False, True])
def test_shares_near_0_and_1(truth, fixed):
    """Of 400 samples, also with labels that differ in it; the normal interval fails there."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % CLASSES
    design = Design.of_labels(labels) if fixed else Design()
    odds = 1 + 0.8 * fixed * np.linspace(-1, 1, CLASSES)[labels]
    p = truth * odds if truth < 0.9 else 1 - (1 - truth) * odds
    inside, normal = [], []
    for draw in rng.random((REPETITIONS // 2, 400)) < p:
        estimate = Estimate(draw.mean(), draw - draw.mean(), design=design)
        low, high = Precision.limits(estimate.value, Precision.error(estimate))
        inside.append(low <= truth <= high)
        normal.append(abs(estimate.value - truth) < 1.96 * estimate.standard_error)
    assert 0.935 < np.mean(inside) < (0.97 if truth == 0.5 else 0.9999)
    if truth in (0.002, 0.998):
        assert np.mean(normal) < 0.6


@pytest.mark.parametrize("truth", [0.005, 0.02, 1.0])
def test_mean_counts_near_0(truth):
    """Of 400 samples, of which a mean number of events is a density."""
    draws = np.random.default_rng(0).poisson(truth, (REPETITIONS // 2, 400))
    limits = []
    for draw in draws:
        estimate = Estimate(draw.mean(), draw - draw.mean())
        limits.append(Density.limits(estimate.value, Density.error(estimate)))
    low, high = np.transpose(limits)
    assert 0.935 < ((low <= truth) & (truth <= high)).mean() < 0.99


@pytest.mark.parametrize("alike", [0.05, 0.3, 0.7])
@pytest.mark.parametrize("truth", [0.5, 0.9, 0.98])
def test_shares_of_prompts_whose_images_are_alike(truth, alike):
    """As GenEval's tasks have them: 80 prompts of four images, correlated within a prompt."""
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(80), 4)
    inside = []
    for _ in range(800):
        of_prompt = rng.beta(*(np.array([truth, 1 - truth]) * (1 - alike) / alike), size=80)
        right = (rng.random(320) < of_prompt[prompts]).astype(float)
        design = Design(clusters=prompts)
        estimate = Estimate(right.mean(), right - right.mean(), design=design)
        low, high = GenEvalTask.limits(estimate.value, GenEvalTask.error(estimate))
        inside.append(low <= truth <= high)
    assert 0.935 < np.mean(inside) < (0.98 if truth == 0.5 else 0.9999)


@pytest.mark.parametrize(("events", "n"), [(0, 7), (3, 50), (49, 50), (50, 50)])
def test_limits_are_the_exact_ones_of_independent_samples(events, n):
    value = events / n
    error = (value * (1 - value) / n) ** 0.5 or Recall.error(Estimate(value, np.zeros(n)))
    exact = stats.binomtest(events, n).proportion_ci(method="exact")
    assert Recall.limits(value, error) == pytest.approx(tuple(exact))
    error = value**0.5 / n**0.5 or Density.error(Estimate(value, np.zeros(n)))
    exact = [stats.chi2.ppf(q, 2 * k) / 2 / n for q, k in ((0.025, events), (0.975, events + 1))]
    assert Density.limits(value, error) == pytest.approx(np.nan_to_num(exact).tolist())


def test_at_0_and_1_an_interval_is_not_empty():
    """With no event in n its upper limit is 1 - .025^(1 / n); n are independent units."""
    few = Estimate(0.0, np.zeros(100), design=Design(clusters=np.arange(100) // 10))
    assert Precision.limits(0.0, Precision.error(few))[1] == pytest.approx(1 - 0.025**0.1)
    worth = few._replace(value=1.0, units=20.0)
    assert Recall.limits(1.0, Recall.error(worth)) == pytest.approx((0.025**0.05, 1))
    assert Density.error(worth) == 0  # of counts, 1 is no limit


NEAR_0, MIDDLE, NEAR_1 = (0.0, 0.1), (0.1, 0.95), (0.95, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "m", "scale", "shift", "fixed", "near"),
    [
        (100, 100, 0.4, 3.6, False, {"recall": NEAR_0, "coverage": NEAR_0}),
        (100, 100, 0.3, 3.0, True, {"recall": NEAR_0, "coverage": NEAR_0, "density": MIDDLE}),
        (100, 100, 0.5, 0.3, False, {"precision": NEAR_1, "recall": MIDDLE, "coverage": MIDDLE}),
        (100, 100, 1.2, 0.6, True, {"precision": MIDDLE, "density": MIDDLE, "coverage": MIDDLE}),
        (200, 60, 1.3, 0.0, False, {"recall": NEAR_1, "coverage": NEAR_1, "density": MIDDLE}),
    ],
)
def test_manifolds_near_0_in_the_middle_and_near_1(n, m, scale, shift, fixed, near):
    """All four of samples drawn anew against one reference; their target is their own mean.

    Near 0 and 1, intervals may cover up to everything; a normal one covers less than 92% there.  In
    the middle their errors are as large as the scatter.
    """
    rng = np.random.default_rng(1)
    labels = np.arange(n) % CLASSES
    design = Design.of_labels(labels) if fixed else Design()
    centres = 0.3 * CENTRES * fixed
    real = centres[rng.integers(CLASSES, size=m)] + rng.normal(size=(m, 2))
    drawn = []
    for _ in range(250):
        x = scale * (centres[labels] + rng.normal(size=(n, 2))) + shift / 2**0.5
        drawn.append(manifold_metrics(torch.from_numpy(x), torch.from_numpy(real), 3, design))
    normal = {}
    for metric in (Precision, Recall, Density, Coverage):
        estimates = [getattr(e, metric.name) for e in drawn]
        values = np.array([e.value for e in estimates])
        truth = values.mean()
        limits = [metric.limits(e.value, metric.error(e)) for e in estimates]
        covered = np.mean([low <= truth <= high for low, high in limits])
        errors = np.array([e.standard_error for e in estimates])
        normal[metric.name] = (np.abs(values - truth) < 1.96 * errors).mean()
        low, high = near.get(metric.name, (0.0, 2.0))
        assert low <= truth <= high, (metric.name, truth)
        assert covered > 0.92, (metric.name, truth, covered)
        if (low, high) == MIDDLE:
            ratio = np.mean(errors**2) ** 0.5 / values.std()
            assert 0.85 < ratio < 1.25, (metric.name, truth, ratio)
    if near.get("coverage") == NEAR_1:
        assert normal["recall"] < 0.92 and normal["coverage"] < 0.92


def jackknife(measure: Callable[[np.ndarray], float], x: np.ndarray) -> np.ndarray:
    """(N - 1) times the mean of all but one minus the value without each."""
    rows = np.arange(len(x))
    without = np.array([measure(x[rows != row]) for row in rows])
    return (len(x) - 1) * (without.mean() - without)


@pytest.mark.parametrize(
    ("measure", "tolerance"),
    [
        (lambda x, y: distance(x), 0.04),
        (lambda x, y: kid(torch.from_numpy(x), torch.from_numpy(y)), 1e-6),
        (lambda x, y: classifier_score(softmax(x)), 0.04),
        (lambda x, y: inception_score(x, [np.arange(len(x))]), 0.04),
        (lambda x, y: all_four(x, y).precision, 1e-9),
        (lambda x, y: all_four(x, y).density, 1e-9),
        (lambda x, y: all_four(x, y).coverage, 1e-9),
    ],
)
def test_influences_are_those_of_leaving_one_out(measure, tolerance):
    """Up to terms of order 1 / N; KID's and coverage's, scaled to their error, up to a factor."""
    x, y = (np.random.default_rng(seed).normal(size=(60, 2)) for seed in (0, 1))
    influence = measure(x, y).influence
    expected = jackknife(lambda rows: measure(rows, y).value, x)
    factor = influence @ expected / (expected @ expected)
    assert 0.4 < factor <= 1.05
    scale = np.abs(influence).max()
    np.testing.assert_allclose(influence, factor * expected, atol=tolerance * scale)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x)
    return e / e.sum(1, keepdims=True)


def all_four(x: np.ndarray, y: np.ndarray):
    return manifold_metrics(torch.from_numpy(x), torch.from_numpy(y), 3)
