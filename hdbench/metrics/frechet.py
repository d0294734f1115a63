"""Frechet distance between Gaussians fitted to features, in float64, with influences.

d^2  = |mu - mu_r|^2 + tr(Sigma + Sigma_r) - 2 tr (F' Sigma F)^(1/2),   Sigma_r = F F'
IF_i = 2 z_i.(mu - mu_r) + z_i' G z_i - tr(G Sigma),   z_i = x_i - mu
       G = I - F (F' Sigma F)^(-1/2) F'
(arXiv 1706.08500)  Any factor F gives the same: two differ by a rotation, F Q.  The estimate is
biased in N: compare only values of equal N.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch

from hdbench.metrics.base import MAIN, Estimate, Metric, MetricInput


@dataclass(frozen=True, kw_only=True)
class GaussianReference:
    """Mean (d,), covariance (d, d) with N - 1 and a factor of it, computed once; all float64.

    `cholesky` is the lower Cholesky factor of the covariance, None where that is singular; there
    `root` is its square root.
    """

    mu: np.ndarray
    sigma: np.ndarray
    root: np.ndarray | None = None
    cholesky: np.ndarray | None = None

    @classmethod
    def of_statistics(cls, mu: np.ndarray, sigma: np.ndarray) -> GaussianReference:
        """From a mean (d,) and a covariance (d, d), any float, as `moments` gives them."""
        mu = mu.astype(np.float64)
        sigma = sigma.astype(np.float64)
        try:
            return cls(mu=mu, sigma=sigma, cholesky=np.linalg.cholesky(sigma))
        except np.linalg.LinAlgError:
            values, vectors = _eigh(sigma)
            keep = values > 1e-12 * values[-1]  # the others are rounding
            root = (vectors[:, keep] * np.sqrt(values[keep])) @ vectors[:, keep].T
            return cls(mu=mu, sigma=sigma, root=root)

    @property
    def factor(self) -> np.ndarray:
        """F (d, d), F F' the covariance."""
        factor = self.root if self.cholesky is None else self.cholesky
        if factor is None:
            raise ValueError("a reference has a root or a Cholesky factor")
        return factor

    def inner(self, sigma: np.ndarray) -> np.ndarray:
        """F' Sigma F for a symmetric Sigma (d, d); above the diagonal the values have no meaning.

        LAPACK takes a quarter of the time of two products where F is triangular.
        """
        if self.cholesky is None:
            return self.factor @ sigma @ self.factor
        # transposed, arrays of C are in the order of Fortran, and the upper triangle is the lower
        upper, _ = scipy.linalg.lapack.dsygst(sigma.T, self.cholesky.T, itype=2, lower=0)
        return upper.T


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and covariance (d, d) with N - 1 of features (N, d), any float; in float64."""
    x = features.astype(np.float64)
    mu = x.mean(0)
    x -= mu
    # half of np.cov's work: numpy sees that the product is symmetric
    return mu, x.T @ x / (len(x) - 1)


def _eigh(lower: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (d,), ascending, and -vectors (d, d) of a symmetric matrix's lower triangle.

    By PyTorch, whose LAPACK (MKL, on x86) takes half the time of numpy's.
    """
    values, vectors = torch.linalg.eigh(torch.from_numpy(lower))
    return values.numpy(), vectors.numpy()


def _singular_values(matrix: np.ndarray) -> np.ndarray:
    return torch.linalg.svdvals(torch.from_numpy(matrix)).numpy()


def statistics_distance(mu: np.ndarray, sigma: np.ndarray, reference: GaussianReference) -> float:
    """d^2 from mean (d,) and covariance (d, d): the eigenvalues of one symmetric matrix."""
    inner = torch.from_numpy(reference.inner(sigma))
    return _from_inner(mu, sigma, reference, torch.linalg.eigvalsh(inner).numpy())


def _from_inner(
    mu: np.ndarray, sigma: np.ndarray, reference: GaussianReference, eigenvalues: np.ndarray
) -> float:
    """d^2 from the eigenvalues of F' Sigma F.

    They carry an error of about 1e-16 of the largest, whose root is 1e-8 for each that should be
    zero; singular values of F' Sigma^(1/2) do not, so they are taken where a covariance is singular
    or nearly so.
    """
    if eigenvalues[0] > 1e-13 * eigenvalues[-1]:
        trace_root = np.sqrt(eigenvalues).sum()
    else:
        values, vectors = _eigh(sigma)
        trace_root = _singular_values(
            reference.factor.T @ (vectors * np.sqrt(values.clip(min=0)))
        ).sum()
    return _distance(mu, np.trace(sigma), reference, trace_root)


def is_singular(n: int, reference: GaussianReference) -> bool:
    """Whether the covariance of n samples, or the reference's, has no full rank."""
    return n <= len(reference.mu) or reference.cholesky is None


def library_distance(mu: np.ndarray, sigma: np.ndarray, reference: GaussianReference) -> float:
    """d^2 from the eigenvalues of Sigma Sigma_r, as torch-fidelity and (by `sqrtm`) clean-fid.

    Zero eigenvalues come out as about 1e-16 of the largest, and the sum of their roots makes this
    value too small, by up to 1e-5 of it where covariances are singular; elsewhere it is
    `statistics_distance`.
    """
    products = np.linalg.eigvals(sigma @ reference.sigma).astype(np.complex128)
    roots = np.real(np.sqrt(products))
    return _distance(mu, np.trace(sigma), reference, roots.sum())


def distance(features: np.ndarray, reference: GaussianReference) -> float:
    """d^2 of features (N, d) to the reference; exact for N <= d too, where it costs N^2 d."""
    if len(features) > features.shape[1]:
        return statistics_distance(*moments(features), reference)
    x = features.astype(np.float64)
    # its singular values with F are the roots of the eigenvalues of F' Sigma F
    centred = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    trace_root = _singular_values(centred @ reference.factor).sum()
    return _distance(x.mean(0), np.square(centred).sum(), reference, trace_root)


def estimate(features: np.ndarray, reference: GaussianReference) -> Estimate:
    """`distance` with IF_i (N,): eigenvectors besides eigenvalues, and a product of N d^2.

    For N under about 2 d the standard error is too large, up to 1.5 times at N = d: the
    covariance's error is no longer small against it.
    """
    x = features.astype(np.float64)
    n, d = x.shape
    mu = x.mean(0)
    x -= mu
    if n <= d:
        # Z F = sqrt(N - 1) u s V' gives (F' Sigma F)^(1/2) = V s V' and z_i F V = sqrt(N - 1) u_i s
        u, s, _ = np.linalg.svd(x @ reference.factor / np.sqrt(n - 1), full_matrices=False)
        value = _distance(mu, np.square(x).sum() / (n - 1), reference, s.sum())
        curvature = (n - 1) * (np.square(u) @ s)
    else:
        sigma = x.T @ x / (n - 1)
        values, vectors = _eigh(reference.inner(sigma))
        value = _from_inner(mu, sigma, reference, values)
        keep = values > 1e-12 * values[-1]
        # F (F' Sigma F)^(-1/2) F' = half half'
        half = reference.factor @ (vectors[:, keep] * values[keep] ** -0.25)
        curvature = np.square(x @ half).sum(1)
    quadratic = np.square(x).sum(1) - curvature
    return Estimate(value, 2 * x @ (mu - reference.mu) + quadratic - quadratic.mean())


def mean_term(features: np.ndarray, reference: GaussianReference) -> Estimate:
    """|mu - mu_r|^2 of features (N, d), the first term of `estimate`; the others are the rest."""
    x = features.astype(np.float64)
    mu = x.mean(0)
    shift = mu - reference.mu
    return Estimate(float(shift @ shift), 2 * (x - mu) @ shift)


def _distance(
    mu: np.ndarray, trace: float, reference: GaussianReference, trace_root: float
) -> float:
    shift = mu - reference.mu
    return float(shift @ shift + trace + np.trace(reference.sigma) - 2 * trace_root)


def of_set(
    sample: MetricInput, real_set: str, rows: slice | np.ndarray = slice(None)
) -> GaussianReference:
    """The Gaussian of a real set of the protocol `classifier`, or of some of its rows."""
    return GaussianReference.of_statistics(*moments(sample.real[f"{real_set}_features"][rows]))


class FdTrain(Metric, group="protocol"):
    """Frechet distance to images of train, on the features of the suite's classifier."""

    name = "fd_train"
    title = "FD train"
    better = "lower"
    counted = True
    low = 0.0
    reads = (MAIN,)

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {self.name: estimate(sample.features, sample.once(of_set, "train"))}


class FdTest(Metric, group="protocol"):
    """Frechet distance to images of test; of test itself it has no meaning."""

    name = "fd_test"
    title = "FD test"
    better = "lower"
    counted = True
    low = 0.0
    reads = (MAIN,)

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        if sample.real_split == "test":
            return {}
        return {self.name: estimate(sample.features, sample.once(of_set, "test"))}


class FdTestOfCategory(Metric, group="protocol"):
    """`fd_test` of the samples and the test images of one category, where both have two or more."""

    name = "fd_test_{category}"
    title = "FD test, {category}"
    better = "lower"
    low = 0.0
    reads = (MAIN,)

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        if sample.real_split == "test":
            return {}
        return by_category(sample, "fd_test", lambda rows: of_set(sample, "test", rows), estimate)


class Fid(Metric, group="protocol"):
    """Frechet distance of Inception's last features; rounding can put it below zero."""

    name = "fid"
    title = "FID"
    better = "lower"
    counted = True
    reads = ("inception.2048",)
    needs = "statistics"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {self.name: fid_of_view(sample, *self.reads)}


class SpatialFid(Metric, group="protocol"):
    """Frechet distance of a spatial layer of Inception (arXiv 2103.03841)."""

    name = "sfid"
    title = "sFID"
    better = "lower"
    reads = ("inception.spatial",)
    needs = "statistics"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {self.name: fid_of_view(sample, *self.reads)}


class FidOfCategory(Metric, group="protocol"):
    """`fid` of the samples and the reference of one category, where both have two or more."""

    name = "fid_{category}"
    title = "FID, {category}"
    better = "lower"
    reads = ("inception.2048",)
    needs = "features"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return by_category(
            sample,
            "fid",
            lambda rows: GaussianReference.of_statistics(*moments(sample.reference[rows])),
            lambda features, reference: of_libraries(sample, features, reference),
        )


class FdDinoV2(Metric, group="protocol"):
    """Frechet distance on DINOv2's class token (arXiv 2306.04675)."""

    name = "fd_dinov2"
    title = "FD-DINOv2"
    better = "lower"
    counted = True
    reads = ("dinov2.token",)
    needs = "statistics"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {self.name: sample.once(of_view, *self.reads)}


def of_view(sample: MetricInput, name: str) -> Estimate:
    """`estimate` of one view's features against its reference, or `distance` without intervals."""
    view = sample.views[name]
    return given_intervals(sample, view.features, view.statistics)


def fid_of_view(sample: MetricInput, name: str) -> Estimate:
    """`of_view` with the libraries' rounding where a covariance is singular."""
    view = sample.views[name]
    return rounded(sample.once(of_view, name), view.features, view.statistics)


def of_libraries(
    sample: MetricInput, features: np.ndarray, reference: GaussianReference
) -> Estimate:
    """`estimate`, or `distance` without intervals; `library_distance` where it is singular."""
    return rounded(given_intervals(sample, features, reference), features, reference)


def given_intervals(
    sample: MetricInput, features: np.ndarray, reference: GaussianReference
) -> Estimate:
    """`estimate`, or `distance` where the settings ask for no interval."""
    if sample.settings.intervals:
        return estimate(features, reference)
    return Estimate(distance(features, reference), np.full(len(features), np.nan))


def rounded(result: Estimate, features: np.ndarray, reference: GaussianReference) -> Estimate:
    """The estimate with the value of `library_distance` where a covariance is singular."""
    if not is_singular(len(features), reference):
        return result
    return result._replace(value=library_distance(*moments(features), reference))


def by_category(
    sample: MetricInput,
    prefix: str,
    reference_of: Callable[[np.ndarray], GaussianReference],
    measure: Callable[[np.ndarray, GaussianReference], Estimate],
) -> dict[str, Estimate]:
    """A distance for each category that has two or more images on both sides."""
    estimates = {}
    for category in sample.categories():
        rows, others = sample.rows_of("category", category)
        if min(len(rows), len(others)) > 1:
            result = measure(sample.features[rows], reference_of(others))
            estimates[f"{prefix}_{category}"] = result._replace(rows=rows)
    return estimates
