"""Metrics against independent implementations, and their standard errors against simulation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from hdbench.core.errors import UserError
from hdbench.core.pixels import load_images, save_images, to_float, to_uint8
from hdbench.evaluation.imports import IMPORTERS
from hdbench.evaluation.protocols import PROTOCOLS
from hdbench.metrics import (
    METRICS,
    Estimate,
    Metric,
    MetricInput,
    Settings,
    frechet,
    manifold,
    mean,
    measure_metrics,
    metric_of,
)
from hdbench.metrics.classification import accuracy, classifier_score
from hdbench.metrics.frechet import GaussianReference
from hdbench.metrics.manifold import manifold_metrics
from hdbench.metrics.spectrum import band_power, radial_power, relative_power


def correlated(
    n: int, d: int, seed: int, shift: float = 0.0, rank: int | None = None
) -> np.ndarray:
    """Features (n, d) with a random covariance of this rank."""
    mixing = np.random.default_rng(1000 + seed).normal(size=(rank or d, d))
    drawn = np.random.default_rng(seed).normal(size=(n, rank or d))
    return shift + drawn @ mixing / np.sqrt(d)


# estimates


def test_standard_error_of_a_mean():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    estimate = mean(values)
    assert estimate.value == 4 and estimate.influence.tolist() == [-3, -2, 0, 5]
    assert estimate.standard_error == pytest.approx(np.sqrt(38 / 3 / 4))


def test_paired_difference_of_influences_is_the_influence_of_the_difference():
    a, b = np.random.default_rng(0).normal(size=(2, 50))
    pair = Estimate(0.0, mean(a).influence - mean(b).influence)
    assert pair.standard_error == pytest.approx(np.std(a - b, ddof=1) / 50**0.5)


# Frechet distance


def frechet_by_sqrtm(mu_1, sigma_1, mu_2, sigma_2) -> float:
    """|mu_1 - mu_2|^2 + tr(Sigma_1 + Sigma_2 - 2 (Sigma_1 Sigma_2)^(1/2)), by scipy's root."""
    root = scipy.linalg.sqrtm(sigma_1 @ sigma_2)
    return float(
        ((mu_1 - mu_2) ** 2).sum() + np.trace(sigma_1) + np.trace(sigma_2) - 2 * np.trace(root).real
    )


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centred = x - x.mean(0)
    return x.mean(0), centred.T @ centred / (len(x) - 1)


def gaussian(features: np.ndarray) -> GaussianReference:
    return GaussianReference.of_statistics(*frechet.moments(features))


def by_root_and_gradient(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """d^2 and IF_i by S = Sigma_r^(1/2) and G = I - S (S Sigma S)^(-1/2) S, each formed whole."""

    def power(symmetric: np.ndarray, exponent: float) -> np.ndarray:
        values, vectors = np.linalg.eigh(symmetric)
        keep = values > 1e-12 * values[-1]
        return (vectors[:, keep] * values[keep] ** exponent) @ vectors[:, keep].T

    (mu, sigma), (mu_r, sigma_r) = moments(x), moments(y)
    s = power(sigma_r, 0.5)
    inner = s @ sigma @ s
    eigenvalues = np.linalg.eigvalsh(inner)
    eigenvalues = eigenvalues[eigenvalues > 1e-12 * eigenvalues[-1]]
    shift = mu - mu_r
    value = shift @ shift + np.trace(sigma) + np.trace(sigma_r) - 2 * np.sqrt(eigenvalues).sum()
    gradient = np.eye(len(mu)) - s @ power(inner, -0.5) @ s
    z = x - mu
    quadratic = np.einsum("ni,ij,nj->n", z, gradient, z)
    return value, 2 * z @ shift + quadratic - quadratic.mean()


@pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 8), (4000, 4000, 64), (70, 200, 64)])
@pytest.mark.parametrize("dead", [0, 3])
def test_frechet_estimate_by_its_whole_matrices(n, m, d, dead):
    """Value and influences, also where features never vary, as those of dead ReLUs."""
    x, y = correlated(n, d, 1, shift=0.1), correlated(m, d, 2)
    x[:, :dead], y[:, :dead] = 0, 0
    value, influence = by_root_and_gradient(x, y)
    estimate = frechet.estimate(x, gaussian(y))
    assert estimate.value == pytest.approx(value, rel=1e-9)
    np.testing.assert_allclose(estimate.influence, influence, rtol=1e-6, atol=1e-8 * abs(value))


@pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 8), (1000, 500, 32), (80, 90, 64)])
def test_frechet_distance_against_sqrtm(n, m, d):
    x, y = correlated(n, d, 1, shift=0.1), correlated(m, d, 2)
    expected = frechet_by_sqrtm(*moments(x), *moments(y))
    assert frechet.estimate(x, gaussian(y)).value == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    ("n", "m", "rank_x", "rank_y"),
    [(30, 200, 64, 64), (200, 30, 64, 64), (200, 200, 5, 64), (20, 200, 64, 3), (200, 200, 3, 5)],
)
def test_frechet_distance_of_rank_deficient_covariances(n, m, rank_x, rank_y):
    """tr (Sigma_x Sigma_y)^(1/2) is the nuclear norm of centred X Y' / sqrt((n - 1)(m - 1))."""
    x, y = correlated(n, 64, 1, shift=0.1, rank=rank_x), correlated(m, 64, 2, rank=rank_y)
    (mu_x, sigma_x), (mu_y, sigma_y) = moments(x), moments(y)
    product = (x - mu_x) @ (y - mu_y).T / np.sqrt((n - 1) * (m - 1))
    nuclear = np.linalg.svd(product, compute_uv=False).sum()
    expected = ((mu_x - mu_y) ** 2).sum() + np.trace(sigma_x) + np.trace(sigma_y) - 2 * nuclear
    estimate = frechet.estimate(x, gaussian(y))
    assert estimate.value == pytest.approx(expected, rel=1e-7)
    assert np.isfinite(estimate.influence).all() and estimate.standard_error < expected


def test_frechet_distance_in_closed_form():
    """|shift|^2 for a shift, that and sum (sd_1 - sd_2)^2 for a scale, 0 for a set to itself."""
    x = correlated(500, 6, 3)
    assert frechet.estimate(x + 0.5, gaussian(x)).value == pytest.approx(6 * 0.25, rel=1e-9)
    assert frechet.estimate(3 * x, gaussian(x)).value == pytest.approx(
        4 * (x.mean(0) ** 2).sum() + 4 * np.trace(moments(x)[1]), rel=1e-9
    )
    assert abs(frechet.estimate(x, gaussian(x)).value) < 1e-6


def test_frechet_distance_takes_float32_features_without_losing_digits():
    """Moments are in float64: float32 sums would not carry a common offset of 1,000."""
    x, y = ((1000 + correlated(400, 8, seed)).astype(np.float32) for seed in (1, 2))
    expected = frechet_by_sqrtm(*moments(x.astype(np.float64)), *moments(y.astype(np.float64)))
    assert frechet.estimate(x, gaussian(y)).value == pytest.approx(expected, rel=1e-8)


def test_frechet_influence_is_the_derivative_in_a_samples_weight():
    """IF_i = d/dh d^2((1 - h) P + h delta_i) at h = 0, by central differences."""
    n = 4000
    x, y = correlated(n, 5, 1, shift=0.2), correlated(900, 5, 2)
    influence = frechet.estimate(x, gaussian(y)).influence

    def functional(i: int, h: float) -> float:
        w = np.full(n, (1 - h) / n)
        w[i] += h
        mu = w @ x
        return frechet_by_sqrtm(mu, (x - mu).T @ (w[:, None] * (x - mu)), *moments(y))

    h, rows = 1e-4, [0, 17, 100, 3000, int(np.abs(influence).argmax())]
    derivative = [(functional(i, h) - functional(i, -h)) / (2 * h) for i in rows]
    np.testing.assert_allclose(influence[rows], derivative, rtol=2e-3, atol=2e-3)
    assert abs(influence.mean()) < 5 * influence.std() / n  # 0 but for N against N - 1


def test_frechet_standard_error_by_simulation():
    """The SE is the replicates' SD within 15%; intervals about their (biased) mean cover 95%."""
    reference = gaussian(correlated(2000, 4, 0))
    estimates = [
        frechet.estimate(1.2 * np.random.default_rng(r).normal(size=(400, 4)) + 0.1, reference)
        for r in range(300)
    ]
    values, errors = (
        np.array([getattr(e, name) for e in estimates]) for name in ("value", "standard_error")
    )
    assert errors.mean() / values.std(ddof=1) == pytest.approx(1, abs=0.15)
    covered_share = (np.abs(values - values.mean()) < 1.96 * errors).mean()
    assert 0.91 < covered_share < 0.98


def test_frechet_paired_standard_error_by_simulation():
    """Of two models on the same noises: the difference's own, far below the unpaired one."""
    reference = gaussian(correlated(2000, 4, 0))
    differences, paired, unpaired = [], [], []
    for r in range(200):
        rng = np.random.default_rng(r)
        shared, own = rng.normal(size=(400, 4)), rng.normal(size=(400, 4))
        a, b = (frechet.estimate(x, reference) for x in (1.3 * shared, 1.25 * shared + 0.1 * own))
        differences.append(a.value - b.value)
        paired.append(Estimate(0.0, a.influence - b.influence).standard_error)
        unpaired.append(np.hypot(a.standard_error, b.standard_error))
    assert np.mean(paired) / np.std(differences, ddof=1) == pytest.approx(1, abs=0.15)
    assert np.mean(unpaired) > 2 * np.mean(paired)


# precision and recall


def brute_force(samples: np.ndarray, reference: np.ndarray, k: int) -> tuple[float, float]:
    """One pair at a time, in float64."""

    def share(points, centres):
        others = [
            [np.linalg.norm(a - b) for j, b in enumerate(centres) if j != i]
            for i, a in enumerate(centres)
        ]
        radius = [sorted(distances)[k - 1] for distances in others]
        balls = list(zip(centres, radius, strict=True))
        return np.mean([any(np.linalg.norm(p - a) <= r for a, r in balls) for p in points])

    return share(samples, reference), share(reference, samples)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_against_brute_force(k):
    rng = np.random.default_rng(k)
    samples, reference = 0.8 * rng.normal(size=(60, 3)) + 0.7, rng.normal(size=(75, 3))
    precision, recall, *_ = manifold_metrics(
        torch.from_numpy(samples), torch.from_numpy(reference), k
    )
    expected = brute_force(samples, reference, k)
    assert all(0.1 < value < 0.95 for value in expected) and expected[0] != expected[1]
    assert (precision.value, recall.value) == pytest.approx(expected)
    assert len(precision.influence) == len(recall.influence) == 60  # samples, not the reference
    p = expected[0]
    assert precision.standard_error == pytest.approx(np.sqrt(p * (1 - p) / 59))


def test_precision_and_recall_of_float32_features_far_from_the_origin():
    """Distances keep the digits that |a|^2 - 2 a.b + |b|^2 in float32 would lose."""
    rng = np.random.default_rng(0)
    samples, reference = (100 + 0.5 * rng.normal(size=(80, 3)).astype(np.float32) for _ in range(2))
    found = manifold_metrics(*(torch.from_numpy(x).double() for x in (samples, reference)), 2)[:2]
    expected = brute_force(samples.astype(np.float64), reference.astype(np.float64), 2)
    assert tuple(e.value for e in found) == pytest.approx(expected)


def test_precision_and_recall_of_disjoint_and_of_equal_sets():
    x = torch.from_numpy(correlated(50, 4, 1))
    assert [e.value for e in manifold_metrics(x, x, 3)[:2]] == [1.0, 1.0]
    assert [e.value for e in manifold_metrics(x + 100, x, 3)] == [0.0] * 4


def test_mode_collapse_costs_recall_and_scatter_costs_precision():
    rng = np.random.default_rng(0)
    real = torch.from_numpy(rng.normal(size=(300, 2)))
    collapsed, scattered = (
        torch.from_numpy(scale * rng.normal(size=(300, 2))) for scale in (0.2, 4)
    )
    precision, recall, *_ = manifold_metrics(collapsed, real, 3)
    assert precision.value > 0.95 and recall.value < 0.4
    precision, recall, *_ = manifold_metrics(scattered, real, 3)
    assert precision.value < 0.4 and recall.value > 0.8


def test_radii_exclude_the_point_itself():
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert manifold._balls(points, 1)[0].tolist() == [1, 1, 2, 4]
    assert manifold._balls(points, 2)[0].tolist() == [3, 2, 3, 6]
    inside_or_not = torch.tensor([[-1.0], [-1.1], [11.0], [11.5]])
    precision, *_ = manifold_metrics(inside_or_not, points, 1)
    assert (precision.influence > 0).tolist() == [True, False, True, False]


# classification


def dirichlet(n: int, seed: int, classes: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), size=n)


def test_classifier_score_by_the_formula():
    """exp of (entropy of the mean - mean entropy), another form of the mean divergence."""
    p = dirichlet(300, 0)
    entropy = lambda q: -(q * np.log(np.clip(q, 1e-300, None))).sum(-1)
    assert classifier_score(p).value == pytest.approx(
        np.exp(entropy(p.mean(0)) - entropy(p).mean()), rel=1e-9
    )


def test_classifier_score_does_not_depend_on_order():
    p = dirichlet(300, 1)
    order = np.random.default_rng(0).permutation(300)
    assert classifier_score(p[order]).value == pytest.approx(classifier_score(p).value, rel=1e-12)
    found, expected = classifier_score(p[order]).influence, classifier_score(p).influence[order]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_classifier_score_between_one_and_the_number_of_classes():
    assert classifier_score(np.eye(5)[np.arange(50) % 5]).value == pytest.approx(5, rel=1e-6)
    assert classifier_score(np.full((50, 5), 0.2, dtype=np.float32)).value == pytest.approx(1)
    assert classifier_score(
        np.eye(5)[np.zeros(50, dtype=int)].astype(np.float32)
    ).value == pytest.approx(1)


def test_classifier_score_standard_error_by_simulation():
    estimates = [classifier_score(dirichlet(400, seed)) for seed in range(300)]
    spread = np.std([e.value for e in estimates], ddof=1)
    assert np.mean([e.standard_error for e in estimates]) / spread == pytest.approx(1, abs=0.15)


def test_accuracy():
    p, labels = np.array([[0.6, 0.4], [0.1, 0.9], [0.7, 0.3], [0.2, 0.8]]), np.array([0, 1, 1, 1])
    estimate = accuracy(p, labels)
    assert estimate.value == 0.75
    assert estimate.standard_error == pytest.approx(np.sqrt(0.75 * 0.25 / 3))


# spectrum


def test_white_noise_is_flat_at_its_variance():
    x = 0.7 * torch.randn(2000, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    rings = radial_power(x)
    assert rings.shape == (2000, 8) and rings.dtype == np.float64
    np.testing.assert_allclose(rings.mean(0), 0.49, rtol=0.03)
    np.testing.assert_allclose(band_power(rings, 4).mean(0), 0.49, rtol=0.03)


@pytest.mark.parametrize(("fx", "fy"), [(1, 0), (0, 3), (3, 4), (-2, 2), (5, -5), (8, 0)])
def test_a_sinusoid_lands_on_its_ring(fx, fy):
    """All power but rounding is on ring round(sqrt(fx^2 + fy^2)); the mean adds none."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    image = 3 + torch.cos(2 * torch.pi * (fx * x + fy * y) / 16).expand(1, 1, 16, 16)
    rings, ring = radial_power(image)[0], round((fx**2 + fy**2) ** 0.5)
    assert rings.argmax() + 1 == ring and rings[ring - 1] > 1e6 * np.delete(rings, ring - 1).max()
    bands = band_power(rings[None], 4)[0]
    assert bands.argmax() == (ring - 1) // 2


def test_power_on_rings_adds_up_to_the_variance():
    """Parseval: rings times their sizes, and the corners, are the sum of squares about the mean."""
    x = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    frequency = np.fft.fftfreq(16, 1 / 16)
    radius = np.rint(np.hypot(frequency[:, None], frequency[None]))
    corners = (np.abs(np.fft.fft2(x.numpy()))[:, 0] ** 2 / 256)[:, radius > 8].sum(1)
    sizes = np.array([(radius == r).sum() for r in range(1, 9)])
    squares = (x - x.mean(dim=(2, 3), keepdim=True)).square().sum(dim=(1, 2, 3)).numpy()
    np.testing.assert_allclose(radial_power(x) @ sizes + corners, squares, rtol=1e-10)


def test_bands_average_neighbouring_rings():
    rings = np.arange(8.0)[None]
    assert band_power(rings, 4).tolist() == [[0.5, 2.5, 4.5, 6.5]]
    assert band_power(rings, 3).tolist() == [[1, 4, 6.5]]


def test_relative_power_and_its_standard_error_by_simulation():
    """1 for equal power, 4 for fourfold; the SE is the replicates' SD within 15%."""
    reference = np.random.default_rng(0).chisquare(4, size=500)
    assert relative_power(reference, reference).value == pytest.approx(1)
    assert relative_power(4 * reference, reference).value == pytest.approx(4)
    estimates = [
        relative_power(np.random.default_rng(s).chisquare(4, size=200), reference)
        for s in range(1, 301)
    ]
    spread = np.std([e.value for e in estimates], ddof=1)
    assert np.mean([e.standard_error for e in estimates]) / spread == pytest.approx(1, abs=0.15)


# the contract


def a_sample(**given) -> MetricInput:
    return MetricInput(
        features=np.zeros((6, 2)), images=torch.zeros(6, 1, 4, 4, dtype=torch.uint8), **given
    )


class TotalVariation(Metric):
    """A metric as another package would write it."""

    name = "total_variation"
    title = "TV"
    better = "lower"
    low = 0.0

    def measure(self, sample):
        x = sample.images.double()
        return {self.name: mean((x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3)).numpy())}


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(METRICS._classes, "total_variation", TotalVariation)


def test_a_metric_of_another_package_is_measured_by_its_name(registered):
    images = torch.zeros(6, 1, 4, 4, dtype=torch.uint8)
    images[:3, ..., ::2] = 9
    sample = MetricInput(features=np.zeros((6, 2)), images=images)
    estimates = measure_metrics(["total_variation"], sample)
    assert estimates["total_variation"].value == 4.5
    assert estimates["total_variation"].standard_error == pytest.approx((81 / 4 * 6 / 5 / 6) ** 0.5)
    assert TotalVariation.group == "total_variation" and TotalVariation.version == 1
    assert metric_of("total_variation_6") is TotalVariation
    assert "total_variation" not in PROTOCOLS["classifier"].metrics  # its evaluate stage is its own


def test_a_protocols_further_metrics_are_those_of_packages(registered):
    protocol = PROTOCOLS["classifier"]
    assert protocol.further(["fd_test", "total_variation"]) == ("total_variation",)
    with pytest.raises(
        UserError, match="'fid': not a metric of the protocol classifier; remove it"
    ):
        protocol.further(["fid"])
    with pytest.raises(UserError, match="'total_variatio': no such metric; did you mean 'total_v"):
        protocol.further(["total_variatio"])


def test_a_wrong_metric_is_one_sentence(registered, monkeypatch):
    with pytest.raises(UserError, match="'total_variaton': no such metric; did you mean 'total_va"):
        measure_metrics(["total_variaton"], a_sample())
    monkeypatch.setattr(TotalVariation, "measure", lambda *_: {"other": mean(np.zeros(6))})
    with pytest.raises(UserError, match="gives 'other', which is not its name; fix the metric"):
        measure_metrics(["total_variation"], a_sample())
    monkeypatch.setattr(TotalVariation, "measure", lambda *_: {"total_variation": 1.0})
    with pytest.raises(UserError, match=r"gives 1.0, not an Estimate; fix the metric"):
        measure_metrics(["total_variation"], a_sample())
    monkeypatch.setattr(
        TotalVariation, "measure", lambda *_: {"total_variation": mean(np.zeros(5))}
    )
    with pytest.raises(UserError, match=r"influence has the shape \(5,\), not \(6,\)"):
        measure_metrics(["total_variation"], a_sample())


def test_fewer_samples_than_a_metric_takes_are_one_sentence():
    rng = np.random.default_rng(0)

    def sample(n: int, m: int) -> MetricInput:
        features = rng.normal(size=(n, 2)), rng.normal(size=(m, 2))
        sets = {f"{name}_features": features[1] for name in ("train", "held_out", "test")}
        return MetricInput(features=features[0], reference=features[1], real=sets)

    for name, least in (("fd_train", 2), ("precision", 5), ("density", 5), ("kid", 1000)):
        with pytest.raises(UserError, match=f"too few samples, {least - 1}: {name} needs at least"):
            measure_metrics([name], sample(least - 1, 1000))
        assert name in measure_metrics([name], sample(least, 1000))
    with pytest.raises(UserError, match="too few images of the reference, 4: recall needs at leas"):
        measure_metrics(["recall"], sample(50, 4))
    for name in ("fid", "fdr6", "fdr3", "pickscore"):
        with pytest.raises(UserError, match=rf"{name}: needs the features \S+ among the views"):
            measure_metrics([name], sample(50, 50))


def test_every_metric_states_the_contract_and_no_two_claim_a_name():
    for name, metric in METRICS.items():
        assert metric.title and metric.low < metric.high and metric.version >= 1, name
        measuring = (*PROTOCOLS.values(), *IMPORTERS.values())
        of_protocol = any(name in protocol.metrics for protocol in measuring)
        assert (metric.group == "protocol") == of_protocol or metric.paired, name
        assert metric.better in ("lower", "higher", None)
        member = name.replace("{n}", "3").replace("{category}", "art")
        assert (
            metric_of(member) is metric_of(f"{member}_4k") is metric_of(f"{member}_450") is metric
        )


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("fd_test_4k", "fd_test"),
        ("fd_test_zero_391", "fd_test_{category}"),
        ("power_band4_64", "power_band{n}"),
        ("accuracy_held_out_812", "accuracy_held_out"),
        ("precision_2k", "precision"),
        ("fid_50k", "fid"),
    ],
)
def test_a_name_with_its_count_belongs_to_one_metric(name, metric):
    assert metric_of(name) is METRICS[metric]


def test_a_name_of_no_metric_has_none():
    assert metric_of("training_core_seconds") is None and metric_of("fd") is None


def test_what_several_metrics_need_is_computed_once():
    calls = []
    sample = a_sample()
    assert [sample.once(calls.append), sample.once(calls.append)] == [None, None]
    assert calls == [sample]
    rng = np.random.default_rng(0)
    sample = MetricInput(features=rng.normal(size=(40, 3)), reference=rng.normal(size=(50, 3)))
    estimates = measure_metrics(["precision", "recall", "density", "coverage"], sample)
    expected = manifold_metrics(*map(torch.from_numpy, (sample.features, sample.reference)), 3)
    for estimate, other in zip(estimates.values(), expected, strict=True):
        assert estimate is not other and estimate.value == other.value
        np.testing.assert_array_equal(estimate.influence, other.influence)
    assert len(sample._results) == 1


def test_protocols_say_what_their_metrics_need():
    """Layers by extractor, those that the reference must hold, prompts and categories."""
    needs = {
        name: (
            {x: p.layers(x) for x in p.extractors},
            {x: p.reference_layers(x, "features") for x in p.compared},
            p.prompts,
            p.categories,
        )
        for name, p in PROTOCOLS.items()
    }
    tensorflow, clean, resized = (
        f"inception_{kind}" for kind in ("tensorflow", "clean", "pytorch_fid")
    )
    clip = {"clip": ("image", "text")}
    kinds = ("convnextv2", "dinov2", "mae", "siglip2", "clip")
    encoders = {f"fdr_{kind}": ("token",) for kind in kinds}
    assert needs == {
        "adm_imagenet256_50k": (
            {tensorflow: ("2048", "spatial")},
            {tensorflow: ("2048",)},
            False,
            False,
        ),
        "torch_fidelity": ({tensorflow: ("2048",)}, {tensorflow: ("2048",)}, False, False),
        "clean_fid": ({clean: ("2048",)}, {clean: ()}, False, False),
        "mjhq30k": ({resized: ("2048",), **clip}, {resized: ("2048",)}, True, True),
        "clip_score": (clip, {}, True, False),
        "pickscore": ({"pickscore": ("image", "text")}, {}, True, False),
        "hpsv2": ({"hpsv2": ("image", "text")}, {}, True, False),
        "fidelity": ({"lpips": ("alexnet", "pixels")}, {}, False, False),
        "classifier": ({}, {}, False, False),
        "fd_dinov2": ({"dinov2": ("token",)}, {"dinov2": ()}, False, False),
        "fdr6": (
            {tensorflow: ("2048",), **encoders},
            {tensorflow: (), **dict.fromkeys(encoders, ())},
            False,
            False,
        ),
        "mind": ({tensorflow: ("2048",)}, {tensorflow: ("2048",)}, False, False),
        "cmmd": ({"clip_cmmd": ("image",)}, {"clip_cmmd": ("image",)}, False, False),
        "imagenet256_wide": (
            {
                tensorflow: ("2048", "spatial"),
                **encoders,
                "dinov2": ("token",),
                "clip_cmmd": ("image",),
            },
            {
                tensorflow: ("2048",),
                **dict.fromkeys((*encoders, "dinov2"), ()),
                "clip_cmmd": ("image",),
            },
            False,
            False,
        ),
    }
    for protocol in PROTOCOLS.values():
        assert set(protocol.quality) <= set(protocol.metrics) <= set(METRICS)
        assert protocol.distance in (*protocol.quality, None)


@pytest.mark.parametrize(
    ("metric", "settings", "least"),
    [
        ("fid", {}, (2, "an interval")),
        ("recall", {"neighbours": 4}, (6, "4 neighbours")),
        ("inception_score", {}, (10, "the 10 parts of the inception score")),
        ("inception_score", {"score_splits": "consecutive_5000"}, (2, "an interval")),
    ],
)
def test_the_fewest_samples_of_a_metric(metric, settings, least):
    assert METRICS[metric].least(Settings(**settings)) == least


# images


def test_uint8_conversion_rounds_to_the_nearest_level():
    """Flooring would send everything below the next level down; levels sit at k / 127.5 - 1."""
    level = 1 / 127.5
    levels = torch.tensor([0, 0.49, 0.51, 99.6, 100.4, 255])
    x = torch.cat([-1 + levels * level, torch.tensor([1.7, -3.0])])
    assert to_uint8(x).tolist() == [0, 0, 1, 100, 100, 255, 255, 0]
    assert to_uint8(x).dtype == torch.uint8
    x = 1.8 * torch.rand(200000, generator=torch.Generator().manual_seed(0)) - 0.9
    assert abs((to_float(to_uint8(x)) - x).mean().item()) < 0.02 * level  # flooring: half a level


def test_every_level_survives_the_round_trip():
    levels = torch.arange(256, dtype=torch.uint8)
    x = to_float(levels)
    assert torch.equal(to_uint8(x), levels)
    assert x.dtype == torch.float32 and x.min() == -1 and x.max() == 1
    torch.testing.assert_close(
        x.double(), torch.arange(256).double() / 127.5 - 1, atol=1e-6, rtol=0
    )


def test_image_files_round_trip(tmp_path):
    images, labels = torch.randint(256, (5, 3, 4, 4), dtype=torch.uint8), torch.arange(5)
    save_images(tmp_path / "a.npz", images, labels)
    found, found_labels = load_images(tmp_path / "a.npz")
    assert torch.equal(found, images) and found.dtype == torch.uint8
    assert torch.equal(found_labels, labels)
    with np.load(tmp_path / "a.npz") as file:
        assert file["arr_0"].shape == (5, 4, 4, 3) and file["arr_0"].dtype == np.uint8


def test_a_file_that_holds_no_images_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("nothing")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name in ("text.npz", "other.npz", "absent.npz"):
        with pytest.raises(UserError, match=name):
            load_images(tmp_path / name)
