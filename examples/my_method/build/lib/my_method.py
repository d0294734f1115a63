"""Knowledge distillation with a robust loss: regression on the teacher's pairs, pseudo-Huber.

pairs      (eps, x) with x the teacher's sample from the noise eps, made once
generator  G_theta(eps, c) = eps - u_theta(eps, 0, 1, c)
loss       mean of sqrt(delta^2 + h^2) - h,  delta = G_theta(eps, c) - x
"""

from typing import ClassVar, Literal

from pydantic import Field

from hdbench.flow.path import generate
from hdbench.methods.base import Batch, student_update
from hdbench.methods.trajectory.knowledge import Knowledge


class RobustKnowledge(Knowledge):
    """One-step regression on the teacher's ODE pairs that forgives large errors."""

    name: Literal["robust_knowledge"] = "robust_knowledge"
    title: ClassVar[str] = "Robust knowledge distillation"

    h: float = Field(default=0.1, gt=0, description="errors below it are squared, above linear")

    def updates(self, problem):
        def draw(d) -> Batch:
            eps, x, c = d.rows(*problem.pairs)
            return {"eps": eps, "x": x, "c": c}

        def loss(b: Batch):
            delta = generate(problem.student, b["eps"], b["c"]) - b["x"]
            value = ((delta.square() + self.h**2).sqrt() - self.h).mean()
            return value, {"loss": value}

        return [student_update(problem, draw, loss)]
