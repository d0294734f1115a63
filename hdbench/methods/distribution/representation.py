"""What the losses in a representation share: one-step samples against data, seen by features.

phi(x)  the means over tokens, layer-normalised, after blocks of the frozen teacher at t = 0 and the
        null label
x_hat   eps - u_theta(eps, 0, 1, c)
The papers' representations are networks of classification and self-supervision.  The teacher has
seen the same data as its student, costs no further network, and measures nothing in this suite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from hdbench.methods.base import Batch, Loss, Objective, Passes, Problem, student_update
from hdbench.methods.trajectory.consistency import consistency

Compared = Callable[[Tensor, Tensor, Tensor, Tensor], Loss]


class Representation(Objective):
    """An objective whose loss compares phi of samples and of data."""

    blocks: tuple[int, ...] = Field(
        default=(2, 3), min_length=1, description="blocks of the teacher, 1 = first"
    )

    def compared(self, problem: Problem) -> tuple[Compared, dict[str, nn.Module]]:
        """The loss of phi(x_hat) (B, J d), phi(x), and the labels (B,) of both; and its state."""
        raise NotImplementedError

    def sampler(self):
        return "flow_map"

    def sampling_steps(self):
        return 1

    def updates(self, problem):
        compare, state = self.compared(problem)

        def draw(d) -> Batch:
            x, c_real = d.data()
            return {"x": x, "c_real": c_real, "c": d.label(), "eps": d.noise()}

        def loss(b: Batch) -> Loss:
            eps = b["eps"]
            with torch.no_grad():
                real = pooled(problem.teacher, b["x"], self.blocks)
            x_hat = consistency(problem.student, eps, torch.ones_like(eps[:, 0, 0, 0]), b["c"])
            fake = pooled(problem.teacher, x_hat, self.blocks)
            with torch.autocast(eps.device.type, enabled=False):
                return compare(fake, real, b["c"], b["c_real"])

        return [student_update(problem, draw, loss, frozen=state)]

    def passes(self, depth, guided):
        share = max(self.blocks) / depth
        return {
            "student": Passes(forward=1, backward=2),
            "feature": Passes(forward=2 * share, backward=share),
        }


def pooled(network: Any, x: Tensor, blocks: Sequence[int]) -> Tensor:
    """phi of images x (B, C, H, W): (B, J d) of J blocks of width d, at least float32."""
    t = torch.zeros_like(x[:, 0, 0, 0])
    null = torch.full_like(t, network.null_label, dtype=torch.int64)
    phi = torch.cat([tokens.mean(1) for tokens in network.features(x, t, null, blocks)], dim=1)
    return phi.to(torch.promote_types(phi.dtype, torch.float32))
