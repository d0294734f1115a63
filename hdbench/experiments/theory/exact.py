"""The mixture with everything known, and measures against it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.stats import norm
from torch import Tensor

from hdbench.core.seeds import generator, sample_noise
from hdbench.experiments.theory.config import RADIUS, SHAPE, Data, Theory


class Exact:
    """The mixture with everything known: shares p_k, N(mu_k, s_k^2), all arrays (K,) with the background last."""

    def __init__(self, data: Data):
        def row(count: int, step: float) -> np.ndarray:
            return step * (np.arange(count) - (count - 1) / 2)

        self.data, self.centres = data, row(data.clusters, data.distance)
        self.modes = (
            self.centres[:, None] + row(data.submodes, data.gap)
        ).ravel()  # cluster by cluster
        self.means, self.sds, self.weights = self._law(self.modes, data.sd)
        self.overall = math.hypot(data.within, self.centres.std())  # sd of all clusters
        self.deviation = float(
            math.sqrt(self.weights @ (self.means**2 + self.sds**2))
        )  # and with the background

    def _law(self, means: np.ndarray, sd: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means, sds and shares of equal components and the background."""
        k, d = len(means), self.data
        return (
            np.append(means, 0.0),
            np.append(np.full(k, sd), d.background_sd),
            np.append(np.full(k, (1 - d.background) / k), d.background),
        )

    def velocity(self, z: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """v = sum_k P(k | z) [(t - (1 - t) s_k^2) / sigma_k^2 (z - (1 - t) mu_k) - mu_k],  sigma_k^2 = (1 - t)^2 s_k^2 + t^2.

        z (B, 1, 1, 1), t (B,).
        """
        means, squares, weights = (
            torch.from_numpy(x).to(z) for x in (self.means, self.sds**2, self.weights)
        )
        t = t[:, None]
        offset, variance = z.flatten(1) - (1 - t) * means, (1 - t) ** 2 * squares + t**2
        posterior = torch.softmax(
            weights.log() - 0.5 * variance.log() - 0.5 * offset**2 / variance, dim=1
        )
        return (posterior * ((t - (1 - t) * squares) / variance * offset - means)).sum(1).view_as(z)

    def flow_map(self, eps: Tensor, tolerance: float = 1e-9) -> Tensor:
        """G(eps) (B, 1, 1, 1) float64, by Dormand and Prince's method of order 8."""

        def derivative(t: float, flat: np.ndarray) -> np.ndarray:
            z = torch.from_numpy(flat).view(-1, *SHAPE)
            return self.velocity(z, torch.full((len(z),), t, dtype=z.dtype)).flatten().numpy()

        found = solve_ivp(
            derivative,
            (1.0, 0.0),
            eps.double().flatten().numpy(),
            method="DOP853",
            rtol=tolerance,
            atol=tolerance,
        )
        return torch.from_numpy(found.y[:, -1].copy()).view(-1, *SHAPE)

    def sample(self, n: int, random: torch.Generator) -> Tensor:
        """x (n, 1, 1, 1) float32."""
        k = torch.multinomial(
            torch.from_numpy(self.weights), n, replacement=True, generator=random
        ).numpy()
        noise = torch.randn(n, generator=random, dtype=torch.float64).numpy()
        return torch.from_numpy(self.means[k] + self.sds[k] * noise).float().view(-1, *SHAPE)

    @functools.cached_property
    def scales(self) -> dict[str, tuple[np.ndarray, float, np.ndarray, np.ndarray]]:
        """Of structure and detail: targets (k,), their radius, and the true and the blurred law's shares there (k,)."""

        def shares(law, targets, radius) -> np.ndarray:
            means, sds, weights = law
            ends = (
                targets[:, None] + np.array([[[radius]], [[-radius]]]) - means
            ) / sds  # (2, k, K)
            return np.subtract(*norm.cdf(ends)) @ weights

        found = {
            "structure": (
                self.centres,
                self.data.cluster_radius,
                self._law(np.zeros(1), self.overall),
            ),
            "detail": (
                self.modes,
                RADIUS * self.data.sd,
                self._law(self.centres, self.data.within),
            ),
        }
        true = self.means, self.sds, self.weights
        return {
            name: (targets, radius, shares(true, targets, radius), shares(blurred, targets, radius))
            for name, (targets, radius, blurred) in found.items()
        }


class Material(NamedTuple):
    """What all units share: the law, its training set, the noises (N, 1, 1, 1) and where the true flow takes them."""

    exact: Exact
    images: Tensor
    noises: Tensor
    truth: Tensor


def material(theory: Theory) -> Material:
    exact, noises = (
        Exact(theory.data),
        sample_noise(("theory", "evaluate"), range(theory.noises), SHAPE),
    )
    return Material(
        exact,
        exact.sample(theory.data.points, generator("theory", "data")),
        noises,
        exact.flow_map(noises),
    )


@functools.lru_cache(maxsize=1)
def exact_pairs(exact: Exact, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noises and their places under the true flow, in the stead of a teacher's Euler steps."""
    eps = torch.randn(count, *SHAPE, generator=generator("theory", "pairs"))
    return eps, exact.flow_map(eps).float(), torch.zeros(count, dtype=torch.int64)


def measure(
    exact: Exact, noises: Tensor, truth: Tensor, samples: np.ndarray
) -> Iterator[tuple[str, float, float]]:
    """(metric, value, standard error over noises) of samples (N,) of one step from the noises (N, 1, 1, 1).

    mean_velocity_error   sqrt(E |u_theta - u|^2 / E |u|^2) at (eps, 0, 1), its error by the delta method
    structure, detail     as in the head of this file, their errors too
    """
    n, x = len(samples), samples.astype(np.float64)
    wrong, whole = (
        np.square(x - truth.flatten().numpy()),
        np.square((noises.double() - truth).flatten().numpy()),
    )
    ratio = wrong.mean() / whole.mean()
    root, spread = math.sqrt(ratio), float((wrong - ratio * whole).std(ddof=1) / whole.mean())
    yield "mean_velocity_error", root, spread / (2 * root * math.sqrt(n)) if root else 0.0
    for name, (targets, radius, true, blurred) in exact.scales.items():
        inside = np.abs(x[:, None] - targets) <= radius  # of the cells only the rest is left out
        sign, error = np.sign(inside.mean(0) - true), inside.mean(0) - true
        influence = 0.5 * inside @ (sign - np.sign(-error.sum()))
        scale = total_variation(blurred - true)
        yield (
            name,
            1 - total_variation(error) / scale,
            float(influence.std(ddof=1)) / math.sqrt(n) / scale,
        )


def total_variation(differences: np.ndarray) -> float:
    """Between two laws whose shares of all cells but one differ by these (k,)."""
    return 0.5 * float(np.abs(differences).sum() + abs(differences.sum()))
