"""Group-normalised distribution matching, GNDM (arXiv 2603.28460): a **reconstruction**.

The abstract says no more than that DMD's direction is read as a reward and normalised by statistics
of a group, as in GRPO (arXiv 2402.03300).  A group here is the rows of a batch with one label;
with d = x_fake - x_real at z_t there are two readings.
scale    g = d / RMS_group(x_hat - x_real)           DMD with a group's normaliser for a sample's
centred  g = (d - mean_group d) / sd_group(d),       GRPO's own: mean and variance removed
The centred one cannot move the mean of a class: mean_group g = 0 whatever student and teacher are,
so a student of the wrong mean keeps it.  Group means are over this rank's rows of a micro-batch.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from hdbench.flow.path import expand, interpolate
from hdbench.methods.distribution.dmd import DMD
from hdbench.methods.distribution.matching import denoised


class GNDM(DMD):
    """DMD's direction, normalised over the rows of a label."""

    name: Literal["gndm"] = "gndm"
    title: ClassVar[str] = "GNDM"

    normaliser: Literal["scale", "centred"] = "scale"

    def direction(self, networks, x_hat, b):
        t = b["t_match"]
        c = b["c"]
        z = interpolate(x_hat, b["eps_match"], t)
        with torch.no_grad():
            x_real = denoised(networks.real, z, t, c)
            d = denoised(networks.fake, z, t, c) - x_real
            if self.normaliser == "scale":
                g = d / group_rms(x_hat - x_real, c)
            else:
                d = d - group_mean(d, c)
                g = d / group_rms(d, c)
        return g, {}


def group_mean(x: Tensor, c: Tensor) -> Tensor:
    """The mean over the rows that share a label, (B, C, H, W) as x, for each row; c (B,)."""
    same = (c[:, None] == c).to(x.dtype)
    return (same @ x.flatten(1) / same.sum(1, keepdim=True)).view_as(x)


def group_rms(x: Tensor, c: Tensor) -> Tensor:
    """max(root mean square over a label's rows and all pixels, 1e-6), (B, 1, 1, 1)."""
    squares = expand(x.square().flatten(1).mean(1))
    return group_mean(squares, c).sqrt().clamp(min=1e-6)
