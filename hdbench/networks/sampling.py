"""How a teacher is sampled without training: solver, guidance and reuse of features."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field
from torch import Tensor

from hdbench.core.config import Config
from hdbench.flow.guidance import Guidance
from hdbench.flow.solvers import SolverName, evaluation_times, sample_solver
from hdbench.networks.base import TokenNetwork
from hdbench.networks.reuse import Reuse, reusing


class Sampling(Config):
    """An arm's own way to sample the teacher; by default Euler steps under the suite's guidance."""

    solver: SolverName = "euler"
    guidance: Guidance | None = Field(None, description="in place of the suite's")
    reuse: Reuse | None = Field(None, description="of features between evaluations")

    def calls(self, steps: int, guidance: Guidance) -> list[tuple[int, bool]]:
        """Each call of the network: evaluations a sample in it, and whether all blocks run.

        Guidance outside its interval takes one evaluation, but not where features are reused, which
        are those of both.
        """
        times = evaluation_times(self.solver, steps)
        keys = self.reuse.keys(times) if self.reuse else [True] * len(times)
        return [
            (guidance.evaluations if self.reuse else guidance.evaluations_at(t), key)
            for t, key in zip(times, keys, strict=True)
        ]

    def sampler(
        self, network: TokenNetwork, guidance: Guidance, steps: int
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """(eps (B, C, H, W), labels (B,)) -> x (B, C, H, W); reuse changes the network."""
        v = guidance.of(network) if self.reuse else guidance.of_one_time(network)
        if self.reuse:
            reusing(network, self.reuse, self.reuse.keys(evaluation_times(self.solver, steps)))
        return lambda eps, c: sample_solver(self.solver, v, eps, c, steps)
