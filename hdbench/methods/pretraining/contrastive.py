"""Contrastive training of a CLIP (Radford et al., arXiv 2103.00020) with open_clip's loss.

Cross-entropy of each image's own caption among the batch's and of each caption's own image,
averaged.  Of rows that share a caption each counts the others as wrong, as in all public training
of this kind.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from hdbench.methods.base import Batch, Loss, Objective, Passes, student_update


class Contrastive(Objective):
    """A CLIP's training on images and rows of captions."""

    name: Literal["contrastive"] = "contrastive"
    title: ClassVar[str] = "CLIP"
    role: ClassVar = "clip"

    def updates(self, problem):
        from open_clip import ClipLoss  # optional: suites with captions alone

        criterion = ClipLoss()

        def draw(d) -> Batch:
            x, rows = d.data()
            return {"x": x, "rows": rows}

        def loss(b: Batch) -> Loss:
            images, texts, scale = problem.student(b["x"], b["rows"])
            value = criterion(images, texts, scale)
            matched = (images @ texts.T).argmax(1) == b["rows"].new_tensor(range(len(b["rows"])))
            return value, {"loss": value, "accuracy": matched.float().mean()}

        return [student_update(problem, draw, loss)]

    def passes(self, depth, guided):
        """In forwards of both towers."""
        return {"clip": Passes(forward=1, backward=2)}
