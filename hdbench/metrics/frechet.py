"""Frechet distance between Gaussians fitted to features, in float64, with the influence of every sample.

d^2 = |mu - mu_r|^2 + tr(Sigma + Sigma_r - 2 (S Sigma S)^(1/2)),  S = Sigma_r^(1/2)              (arXiv 1706.08500)
IF_i = 2 z_i.(mu - mu_r) + z_i' G z_i - tr(G Sigma),  G = I - S (S Sigma S)^(-1/2) S,  z_i = x_i - mu
The estimate is biased in N: compare only values of equal N.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hdbench.metrics import Estimate


@dataclass(frozen=True, kw_only=True)
class GaussianReference:
    """Mean (d,), covariance (d, d) with N - 1, and its square root, computed once for a reference."""

    mu: np.ndarray
    sigma: np.ndarray
    root: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> GaussianReference:
        """features (N, d), any float."""
        x = features.astype(np.float64)
        sigma = np.cov(x, rowvar=False)
        return cls(mu=x.mean(0), sigma=sigma, root=_power(sigma, 0.5))


def _power(symmetric: np.ndarray, exponent: float) -> np.ndarray:
    """Power of a positive semi-definite matrix; eigenvalues under 1e-12 of the largest count as zero."""
    values, vectors = np.linalg.eigh(symmetric)
    keep = values > 1e-12 * values[-1]
    return (vectors[:, keep] * values[keep] ** exponent) @ vectors[:, keep].T


def frechet_distance(features: np.ndarray, reference: GaussianReference) -> Estimate:
    """d^2 of features (N, d) to the reference, and IF_i (N,)."""
    x = features.astype(np.float64)
    mu, sigma, s = x.mean(0), np.cov(x, rowvar=False), reference.root
    inner = s @ sigma @ s
    eigenvalues = np.linalg.eigvalsh(inner)
    eigenvalues = eigenvalues[eigenvalues > 1e-12 * eigenvalues[-1]]
    shift = mu - reference.mu
    value = shift @ shift + np.trace(sigma) + np.trace(reference.sigma) - 2 * np.sqrt(eigenvalues).sum()
    gradient = np.eye(len(mu)) - s @ _power(inner, -0.5) @ s
    z = x - mu
    influence = 2 * z @ shift + np.einsum("ni,ij,nj->n", z, gradient, z, optimize=True) - np.trace(gradient @ sigma)
    return Estimate(float(value), influence)
