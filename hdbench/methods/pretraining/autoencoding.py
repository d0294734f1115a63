"""Autoencoding with a small KL term (Kingma & Welling, arXiv 1312.6114; as in LDM, 2112.10752).

loss   |x - D(y)|  +  kl_weight KL(q(y | x) || N(0, I)),   y = m + exp(s / 2) eps
KL     (m^2 + exp s - s - 1) / 2;   both are means over all their entries
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from hdbench.methods.base import Batch, Loss, Objective, Passes, student_update


class Autoencoding(Objective):
    """The autoencoder's training; the KL term keeps its latents smooth and of bounded size."""

    name: Literal["autoencoding"] = "autoencoding"
    title: ClassVar[str] = "Autoencoding"
    role: ClassVar = "autoencoder"

    kl_weight: float = Field(default=1e-3, ge=0, description="of the KL term, a mean in nats")

    def updates(self, problem):
        network: Any = problem.student

        def draw(d) -> Batch:
            return {"x": d.data()[0], "eps": d.noise(network.latent_shape)}

        def loss(b: Batch) -> Loss:
            decoded, mean, log_variance = network(b["x"], b["eps"])
            error = (decoded - b["x"]).abs().mean()
            kl = divergence(mean, log_variance)
            value = error + self.kl_weight * kl
            return value, {"loss": value, "error": error, "kl": kl}

        return [student_update(problem, draw, loss)]

    def passes(self, depth, guided):
        return {"autoencoder": Passes(forward=1, backward=2)}


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp log_variance) || N(0, 1)) in nats, a mean over all entries."""
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).mean()
