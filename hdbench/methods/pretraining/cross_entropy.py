"""Cross-entropy of a classifier on clean images, summed over what it tells apart.

It trains the network whose features the small suites' metrics use.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch.nn.functional as F

from hdbench.methods.base import Batch, Loss, Objective, Passes, student_update


class CrossEntropy(Objective):
    """A classifier's training; labels (B,), or (B, A) where an image has A attributes."""

    name: Literal["cross_entropy"] = "cross_entropy"
    title: ClassVar[str] = "Cross-entropy"
    role: ClassVar = "classifier"

    def updates(self, problem):
        def draw(d) -> Batch:
            x, labels = d.data()
            return {"x": x, "labels": labels}

        def loss(b: Batch) -> Loss:
            logits = problem.student(b["x"]).split(problem.student.attributes, dim=1)
            targets = b["labels"].view(len(b["x"]), -1).unbind(1)
            value: Any = sum(map(F.cross_entropy, logits, targets))
            return value, {"loss": value}

        return [student_update(problem, draw, loss)]

    def passes(self, depth, guided):
        return {"classifier": Passes(forward=1, backward=2)}
