"""Knowledge distillation (Luhman & Luhman, arXiv 2101.02388): one step against the teacher's ODE.

pairs      (eps, x) with x the teacher's sample from the noise eps, made once
generator  G_theta(eps, c) = eps - u_theta(eps, 0, 1, c)
loss       || G_theta(eps, c) - x ||^2
The regression term of the original DMD is the same with LPIPS for the square.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from hdbench.flow.path import generate
from hdbench.methods.base import Batch, Pairs, Passes, Regression


class Knowledge(Regression):
    """One-step regression on the teacher's ODE pairs."""

    name: Literal["knowledge"] = "knowledge"
    title: ClassVar[str] = "Knowledge distillation"
    learns_mean_velocity: ClassVar[bool] = True

    pairs: Pairs = Pairs()

    def pairs_needed(self):
        return self.pairs

    def updates(self, problem):
        def draw(d) -> Batch:
            eps, x, c = d.rows(*problem.pairs)
            return {"eps": eps, "x": x, "c": c}

        return self.regression(
            problem, draw, lambda b: generate(problem.student, b["eps"], b["c"]) - b["x"]
        )

    def passes(self, depth, guided):
        """The pairs are a stage of their own."""
        return {"student": Passes(forward=1, backward=2)}
