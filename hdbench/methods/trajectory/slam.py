"""Sub-path linear approximation, SLAM (Xu et al., arXiv 2404.13903), on the flow path.

teacher step  z_s = z_t - (t - s) v^w(z_t, t, c),  s = t - 1/K
sub-path      z_g = g z_t + (1 - g) z_s,  at the time t_g = g t + (1 - g) s,  g ~ U(0, 1)
loss          || f_theta(z_g, t_g, c) - sg f_theta(z_s, s, c) ||^2
With g = 1 it is consistency distillation.  On this path z_g is where an Euler step from t to t_g
ends: its noise level is the mean of those of z_t and z_s, so t_g says all, and the optimum is that
of consistency distillation.  The paper's network also gets g, and names the level of z_g by the
root of the mean square, as if z_s were another sample's.  Not the paper's: g uniform along the
segment in z in place of z / (1 - t); the student as its own target instead of its moving average.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from hdbench.flow.path import expand
from hdbench.methods.trajectory.consistency import Consistency, consistency


class SLAM(Consistency):
    """Consistency distillation asked between the ends of each teacher step."""

    name: Literal["slam"] = "slam"
    title: ClassVar[str] = "SLAM"

    def draw_further(self, d):
        return {"g": d.uniform()}

    def residual(self, u, v, z, b) -> Tensor:
        s, t, c, g = b["s"], b["t"], b["c"], b["g"]
        with torch.no_grad():
            end = z - expand(t - s) * v(z, t, c)
            target = consistency(u, end, s, c)
        return consistency(u, torch.lerp(end, z, expand(g)), torch.lerp(s, t, g), c) - target
