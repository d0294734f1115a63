"""Knowledge distillation of a sampler (Luhman & Luhman, arXiv 2101.02388): one step regressed on the teacher's whole ODE.

Pairs (eps, x) with x the teacher's sample from the noise eps, made once;  G(eps, c) = eps - u_theta(eps, 0, 1, c)
loss  || G_theta(eps, c) - x ||^2
The regression term of the original DMD is the same with LPIPS for the square.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hdbench.core.config import Config
from hdbench.flow.path import generate
from hdbench.methods.base import Pairs, Setting, Update, regression

SAMPLER = "flow_map"  # how a network of this objective samples, see hdbench.flow.samplers


class Configuration(Config):
    name: Literal["knowledge"] = "knowledge"
    pairs: Pairs = Pairs()
    adaptive_power: float = Field(
        0.0, ge=0, description="p of the adaptive weight 1 / (d + c)^p, d a mean of squares"
    )
    adaptive_offset: float = Field(1e-3, gt=0, description="c of the adaptive weight")


def updates(configuration: Configuration, setting: Setting) -> list[Update]:
    return regression(
        configuration,
        setting,
        lambda d: d.rows(*setting.pairs),
        lambda eps, x, c: generate(setting.student, eps, c) - x,
    )


def forward_equivalents(configuration: Configuration, depth: int, guided: bool) -> dict[str, float]:
    """Per sample and training step, in forwards of the network; a backward is two.  The pairs are a stage of their own."""
    return {"student forward": 1, "student backward": 2}
