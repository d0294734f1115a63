"""One pass of a network for its velocity and for the tokens that a head reads, `gan.times: shared`.

z_t = (1 - t) x_hat + t eps',  v and tokens h of the same pass at z_t
d loss(D(h)) / d x_hat = (1 - t) d loss(D(h)) / d z_t
A generator update then judges its samples where the direction asks the network whose tokens the
head reads, the teacher or the fake score, and saves the forward of the features, as FastGen does
(github.com/NVlabs/FastGen, methods/distribution_matching/dmd2.py).  A critic update whose head
reads the fake score judges them where that learns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hdbench.core.distributed import share_of_batch
from hdbench.flow.path import expand


class SharedPass:
    """Stands for the network in one call, of whose first `rows` rows it keeps z_t and tokens.

    The rows after them are the null label's, of guidance.  `trained`: the velocity keeps its graph,
    as does the tokens', to the weights; else only the tokens', to z_t.
    """

    def __init__(self, network: Any, rows: int, blocks: Sequence[int], trained: bool = False):
        self.network = network
        self.rows = rows
        self.blocks = blocks
        self.trained = trained
        self.tokens: list[Tensor] | None = None

    @property
    def null_label(self) -> int:
        return self.network.null_label

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """Velocities (n, C, H, W), as the network's own."""
        if self.tokens is not None:
            raise RuntimeError("a shared pass is of one call")
        n = self.rows
        self.t = t[:n]
        self.z = z[:n].detach().requires_grad_(not self.trained)
        with torch.enable_grad():
            v, self.tokens = self.network(self.z, r[:n], self.t, c[:n], self.blocks)
        v = v if self.trained else v.detach()
        return v if len(z) == n else torch.cat([v, self.network(z[n:], r[n:], t[n:], c[n:])])

    def image_gradient(self, score: Callable[[list[Tensor]], Tensor]) -> Tensor:
        """d score / d x_hat (B, C, H, W) of a mean over the batch, of the tokens; detached."""
        (g,) = torch.autograd.grad(score(self.tokens), self.z)
        return share_of_batch(self.rows) * expand(1 - self.t) * g
