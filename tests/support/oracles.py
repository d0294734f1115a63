"""Exactly solvable data for the tests: a Gaussian and a mixture of Gaussians.

On the path z_t = (1 - t) x + t eps a component N(mu_k, s_k^2 I) becomes N((1 - t) mu_k,
sigma_k^2 I), sigma_k^2 = (1 - t)^2 s_k^2 + t^2. Nothing here uses hdbench, so agreement means
something.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor


def column(t: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return t.reshape(-1, 1, 1, 1)


def uniform_times(
    n: int, generator: torch.Generator, low: float = 0.05, high: float = 0.95
) -> Tensor:
    """(n,) float64, away from the ends."""
    return low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)


class Mixture:
    """sum_k p_k N(mu_k, s_k^2 I) on images: means mu (K, C, H, W), sds s (K,), shares p (K,)."""

    def __init__(self, means: Tensor, sds: Tensor, shares: Tensor):
        self.means, self.sds, self.shares = means.double(), sds.double(), shares.double()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """x (n, C, H, W)."""
        k = torch.multinomial(self.shares, n, replacement=True, generator=generator)
        noise = torch.randn(n, *self.means.shape[1:], generator=generator, dtype=torch.float64)
        return self.means[k] + column(self.sds[k]) * noise

    def _components(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z - (1 - t) mu_k (B, K, C, H, W), sigma_k^2 (B, K), log p_k N(z; ...) (B, K)."""
        t = t[:, None]
        offset = z[:, None] - (1 - t)[..., None, None, None] * self.means
        variance = (1 - t) ** 2 * self.sds**2 + t**2
        dimensions = self.means[0].numel()
        log_joint = (
            self.shares.log()
            - 0.5 * dimensions * torch.log(2 * math.pi * variance)
            - offset.flatten(2).square().sum(2) / (2 * variance)
        )
        return offset, variance, log_joint

    def log_density(self, z: Tensor, t: Tensor) -> Tensor:
        """log p_t(z) (B,)."""
        return torch.logsumexp(self._components(z, t)[2], dim=1)

    def score(self, z: Tensor, t: Tensor) -> Tensor:
        """grad log p_t(z), by differentiating the density."""
        z = z.detach().requires_grad_()
        return torch.autograd.grad(self.log_density(z, t).sum(), z)[0]

    def denoised(self, z: Tensor, t: Tensor) -> Tensor:
        """E[x | z_t = z] by Tweedie's formula, (z + t^2 score) / (1 - t); t < 1."""
        return (z + column(t) ** 2 * self.score(z, t)) / (1 - column(t))

    def v(self, z: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """E[eps - x | z_t = z]
        = sum_k P(k | z) [(t - (1 - t) s_k^2) / sigma_k^2 (z - (1 - t) mu_k) - mu_k].
        """
        offset, variance, log_joint = self._components(z, t)
        posterior = torch.softmax(log_joint, dim=1)
        slope = (t[:, None] - (1 - t[:, None]) * self.sds**2) / variance
        return (
            posterior[..., None, None, None] * (slope[..., None, None, None] * offset - self.means)
        ).sum(1)

    def u(
        self, z: Tensor, r: Tensor, t: Tensor, c: Tensor | None = None, steps: int = 48
    ) -> Tensor:
        """Mean velocity, the mean slope of Runge-Kutta steps from t to r: r = t needs no limit."""
        h, mean = (r - t) / steps, torch.zeros_like(z)
        for number in range(steps):
            s = t + number * h
            k1 = self.v(z, s)
            k2 = self.v(z + column(h / 2) * k1, s + h / 2)
            k3 = self.v(z + column(h / 2) * k2, s + h / 2)
            k4 = self.v(z + column(h) * k3, s + h)
            slope = (k1 + 2 * k2 + 2 * k3 + k4) / 6
            z, mean = z + column(h) * slope, mean + slope / steps
        return mean

    def flow_map(self, z: Tensor, r: float, t: float) -> Tensor:
        """z_r on the trajectory through z_t = z, by an adaptive high-order solver."""

        def derivative(s: float, flat: np.ndarray) -> np.ndarray:
            times = torch.full((len(z),), s, dtype=torch.float64)
            return self.v(torch.from_numpy(flat).reshape(z.shape), times).flatten().numpy()

        solution = solve_ivp(
            derivative, (t, r), z.flatten().numpy(), method="DOP853", rtol=1e-10, atol=1e-12
        )
        return torch.from_numpy(solution.y[:, -1]).reshape(z.shape)


class Gaussian(Mixture):
    """N(mu, s^2 I): everything in closed form, the mean velocity too."""

    def __init__(self, mean: Tensor, sd: float):
        super().__init__(mean[None], torch.tensor([sd], dtype=torch.float64), torch.ones(1))
        self.mean, self.sd = mean.double(), sd

    def sigma(self, t: Tensor) -> Tensor:
        return ((1 - t) ** 2 * self.sd**2 + t**2).sqrt()

    def u(self, z: Tensor, r: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """(z_t - z_r) / (t - r), with t - r cancelled, where
        z_r - (1 - r) mu = sigma_r / sigma_t (z_t - (1 - t) mu).
        """
        slope = ((t + r) - self.sd**2 * (2 - t - r)) / (
            (self.sigma(t) + self.sigma(r)) * self.sigma(t)
        )
        return column(slope) * (z - (1 - column(t)) * self.mean) - self.mean

    def flow_map(self, z: Tensor, r: float, t: float) -> Tensor:
        ratio = self.sigma(torch.tensor(r, dtype=torch.float64)) / self.sigma(
            torch.tensor(t, dtype=torch.float64)
        )
        return (1 - r) * self.mean + ratio * (z - (1 - t) * self.mean)

    def conditional_variance(self, t: Tensor) -> Tensor:
        """Var(eps - x | z_t) = s^2 / sigma_t^2 a dimension: what no velocity can explain."""
        return self.sd**2 / self.sigma(t) ** 2


def gaussian_kl(mean_p: Tensor, variance_p: Tensor, mean_q: Tensor, variance_q: Tensor) -> Tensor:
    """KL(N(mean_p, variance_p) || N(mean_q, variance_q)) in one dimension; differentiable."""
    return 0.5 * (
        torch.log(variance_q / variance_p) + (variance_p + (mean_p - mean_q) ** 2) / variance_q - 1
    )


def sign_nodes(images: int = 2) -> Tensor:
    """Standard normal in `images` independent 1x1 images, replaced by +-1: (2^images, images),
    equally weighted.

    Means over the rows are exact expectations for polynomials of degree up to three, so quadratic
    losses of linear velocities need no random numbers.
    """
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * images)


def a_gaussian() -> Gaussian:
    """On 1x2x3 images."""
    return Gaussian(torch.tensor([[[0.5, -1.0, 0.2], [0.0, 0.8, -0.4]]]), 0.4)


def a_mixture() -> Mixture:
    """Two overlapping components of unequal shares and widths, on 1x2x3 images."""
    means = torch.tensor(
        [[[[0.6, -0.5, 0.1], [0.0, 0.4, -0.3]]], [[[-0.7, 0.3, 0.2], [0.5, -0.6, 0.0]]]]
    )
    return Mixture(means, torch.tensor([0.5, 0.7]), torch.tensor([0.3, 0.7]))
