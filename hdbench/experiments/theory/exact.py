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


class Mixture(NamedTuple):
    """Weights p_k of Gaussians N(mu_k, s_k^2), all arrays (K,) float64, the background last."""

    means: np.ndarray
    sds: np.ndarray
    weights: np.ndarray

    def shares(self, targets: np.ndarray, radius: float) -> np.ndarray:
        """Probabilities (k,) of the intervals `radius` around the targets (k,)."""
        ends = targets[:, None] + np.array([[[radius]], [[-radius]]])
        standard = (ends - self.means) / self.sds  # (2, k, K)
        return np.subtract(*norm.cdf(standard)) @ self.weights


class Scale(NamedTuple):
    """Structure or detail: intervals around targets, and their probabilities, all arrays (k,)."""

    targets: np.ndarray
    radius: float
    true: np.ndarray
    blurred: np.ndarray


class Exact:
    """The distribution of the data with its velocity and flow map."""

    def __init__(self, data: Data):
        def row(count: int, step: float) -> np.ndarray:
            return step * (np.arange(count) - (count - 1) / 2)

        self.data = data
        self.centres = row(data.clusters, data.distance)
        self.modes = (self.centres[:, None] + row(data.submodes, data.gap)).ravel()
        self.mixture = self._with_background(self.modes, data.sd)
        self.means, self.sds, self.weights = self.mixture
        self.overall = math.hypot(data.within, self.centres.std())  # sd of all clusters
        variance = self.weights @ (self.means**2 + self.sds**2)
        self.deviation = math.sqrt(variance)  # sd with the background

    def _with_background(self, means: np.ndarray, sd: float) -> Mixture:
        """Equal components, and the background."""
        count = len(means)
        background = self.data.background
        return Mixture(
            np.append(means, 0.0),
            np.append(np.full(count, sd), self.data.background_sd),
            np.append(np.full(count, (1 - background) / count), background),
        )

    def velocity(self, z: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """v = sum_k P(k | z) [(t - (1 - t) s_k^2) / sigma_k^2 (z - (1 - t) mu_k) - mu_k],

        sigma_k^2 = (1 - t)^2 s_k^2 + t^2.  z (B, 1, 1, 1) and t (B,) float -> like z; c is unused.
        """
        means = torch.from_numpy(self.means).to(z)
        squares = torch.from_numpy(self.sds**2).to(z)
        weights = torch.from_numpy(self.weights).to(z)
        t = t[:, None]
        offset = z.flatten(1) - (1 - t) * means
        variance = (1 - t) ** 2 * squares + t**2
        posterior = torch.softmax(
            weights.log() - 0.5 * variance.log() - 0.5 * offset**2 / variance, dim=1
        )
        return (posterior * ((t - (1 - t) * squares) / variance * offset - means)).sum(1).view_as(z)

    def flow_map(self, eps: Tensor, tolerance: float = 1e-9) -> Tensor:
        """G(eps) (B, 1, 1, 1) float64, by Dormand and Prince's method of order 8."""

        def derivative(t: float, flat: np.ndarray) -> np.ndarray:
            z = torch.from_numpy(flat).view(-1, *SHAPE)
            return self.velocity(z, torch.full((len(z),), t, dtype=z.dtype)).flatten().numpy()

        solution = solve_ivp(
            derivative,
            (1.0, 0.0),
            eps.double().flatten().numpy(),
            method="DOP853",
            rtol=tolerance,
            atol=tolerance,
        )
        return torch.from_numpy(solution.y[:, -1].copy()).view(-1, *SHAPE)

    def sample(self, n: int, random: torch.Generator) -> Tensor:
        """x (n, 1, 1, 1) float32."""
        k = torch.multinomial(
            torch.from_numpy(self.weights), n, replacement=True, generator=random
        ).numpy()
        noise = torch.randn(n, generator=random, dtype=torch.float64).numpy()
        return torch.from_numpy(self.means[k] + self.sds[k] * noise).float().view(-1, *SHAPE)

    @functools.cached_property
    def scales(self) -> dict[str, Scale]:
        """`structure` and `detail`, see the package's docstring."""

        def scale(targets: np.ndarray, radius: float, blurred: Mixture) -> Scale:
            return Scale(
                targets,
                radius,
                self.mixture.shares(targets, radius),
                blurred.shares(targets, radius),
            )

        without_structure = self._with_background(np.zeros(1), self.overall)
        without_detail = self._with_background(self.centres, self.data.within)
        return {
            "structure": scale(self.centres, self.data.cluster_radius, without_structure),
            "detail": scale(self.modes, RADIUS * self.data.sd, without_detail),
        }


class Material(NamedTuple):
    """What all units share: the distribution, a training set and noises with their exact images."""

    exact: Exact
    images: Tensor
    """The training set, (M, 1, 1, 1) float32."""
    noises: Tensor
    """(N, 1, 1, 1) float32."""
    truth: Tensor
    """Where the exact flow takes the noises, (N, 1, 1, 1) float64."""


def make_material(theory: Theory) -> Material:
    exact = Exact(theory.data)
    noises = sample_noise(("theory", "evaluate"), range(theory.noises), SHAPE)
    images = exact.sample(theory.data.points, generator("theory", "data"))
    return Material(exact, images, noises, exact.flow_map(noises))


@functools.lru_cache(maxsize=1)
def exact_pairs(exact: Exact, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Exact (noise, data) pairs of the ODE, in place of a teacher's: eps, G(eps) and labels 0."""
    eps = torch.randn(count, *SHAPE, generator=generator("theory", "pairs"))
    return eps, exact.flow_map(eps).float(), torch.zeros(count, dtype=torch.int64)


def measure(
    exact: Exact, noises: Tensor, truth: Tensor, samples: np.ndarray
) -> Iterator[tuple[str, float, float]]:
    """(metric, value, standard error over noises) of samples (N,) of one step from the noises.

    mean_velocity_error   sqrt(E |u_theta - u|^2 / E |u|^2) at (eps, 0, 1), by the delta method
    structure, detail     see the package's docstring, by influence functions
    """
    n = len(samples)
    x = samples.astype(np.float64)
    error = np.square(x - truth.flatten().numpy())
    size = np.square((noises.double() - truth).flatten().numpy())
    ratio = error.mean() / size.mean()
    root = math.sqrt(ratio)
    spread = float((error - ratio * size).std(ddof=1) / size.mean())
    yield "mean_velocity_error", root, spread / (2 * root * math.sqrt(n)) if root else 0.0
    for name, scale in exact.scales.items():
        inside = np.abs(x[:, None] - scale.targets) <= scale.radius  # without the cell of the rest
        excess = inside.mean(0) - scale.true
        influence = 0.5 * inside @ (np.sign(excess) - np.sign(-excess.sum()))
        blur = total_variation(scale.blurred - scale.true)
        value = 1 - total_variation(excess) / blur
        yield name, value, float(influence.std(ddof=1)) / math.sqrt(n) / blur


def total_variation(differences: np.ndarray) -> float:
    """Between two distributions whose probabilities of all cells but one differ by these (k,)."""
    return 0.5 * float(np.abs(differences).sum() + abs(differences.sum()))
