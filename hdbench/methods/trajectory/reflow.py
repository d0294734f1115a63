"""Reflow (Liu et al., arXiv 2209.03003): velocity regression on the teacher's own couples.

pairs  (eps, x) with x the teacher's sample from the noise eps;  z_t = (1 - t) x + t eps
loss   || u_theta(z_t, r, t, c) - (eps - x) ||^2,  0 <= r <= t    (Eq. 1, on these couples)
The paper's network is a velocity of t alone.  Where the flow is straight its velocity is constant
along a trajectory, so its mean over any [r, t] is that velocity: r is drawn too, and the target is
the same for all.  Rows with r = 0 and t = 1, where one-step samples start, are knowledge
distillation: u_theta(eps, 0, 1, c) - (eps - x) = x - G_theta(eps, c).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from hdbench.core.seeds import Draws
from hdbench.flow.path import interpolate
from hdbench.methods.base import Batch, Pairs, Passes, Regression


class Reflow(Regression):
    """Velocity regression on the teacher's ODE pairs."""

    name: Literal["reflow"] = "reflow"
    title: ClassVar[str] = "Reflow"

    pairs: Pairs = Pairs()
    prob_t_equals_1: float = Field(
        default=0.25, ge=0, le=1, description="share of rows with r = 0 and t = 1"
    )

    def pairs_needed(self):
        return self.pairs

    def draw_times(self, d: Draws) -> tuple[Tensor, Tensor]:
        """(r, t) (B,) uniform with r <= t; the last rows get r = 0 and t = 1, in an exact share."""
        first = d.split(d.batch - round(self.prob_t_equals_1 * d.batch)).at
        share = d.uniform()
        t = d.uniform()
        r = share * t
        r[first:] = 0.0
        t[first:] = 1.0
        return r, t

    def updates(self, problem):
        def draw(d) -> Batch:
            eps, x, c = d.rows(*problem.pairs)
            r, t = self.draw_times(d)
            return {"eps": eps, "x": x, "c": c, "r": r, "t": t}

        def residual(b: Batch) -> Tensor:
            z = interpolate(b["x"], b["eps"], b["t"])
            return problem.student(z, b["r"], b["t"], b["c"]) - (b["eps"] - b["x"])

        return self.regression(problem, draw, residual)

    def passes(self, depth, guided):
        """The pairs are a stage of their own."""
        return {"student": Passes(forward=1, backward=2)}
