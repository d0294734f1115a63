"""Adversarial distillative pre-training, ADP (Lu et al., arXiv 2507.18569): stage 1 of DMDX.

pairs      (eps, x*) of the teacher's ODE;  z_t = (1 - t) x* + t eps with the pair's own eps
generator  x_hat = z_t - t u_theta(z_t, 0, t, c),  t = 1 - q^3 with q uniform: mostly near noise
critic     raises D(renoised x*, s, c) and lowers D(renoised x_hat, s, c),  s uniform
Hinge loss, on tokens of several blocks of the frozen teacher; there is no regression.  With an
optimal critic x_hat has the distribution of x*; which x* a noise gets is free, since the critic
does not see z_t.
The paper's second critic, in pixels on a frozen SAM encoder (weight 0.15 to 0.85), has no
counterpart here; head and blocks are ours.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from hdbench.flow.path import interpolate
from hdbench.methods.base import Pairs
from hdbench.methods.distribution.ladd import LADD


class AdversarialPretraining(LADD):
    """A head that tells the teacher's samples from the student's, from the teacher's own path."""

    name: Literal["adversarial_pretraining"] = "adversarial_pretraining"
    title: ClassVar[str] = "ADP"

    contrast: Pairs = Pairs()
    power: float = Field(
        default=3.0, ge=1, description="of q in t = 1 - q^power, q uniform; 1 is t uniform"
    )

    @model_validator(mode="after")
    def _from_one_point(self):
        if self.generator_steps > 1:
            raise ValueError(
                f"generator_steps = {self.generator_steps}: objective {self.name} starts from the "
                "pairs' own path, in one step"
            )
        return self

    def draw_start(self, d, problem):
        eps, x, c = d.rows(*problem.pairs)
        return {"eps": eps, "x": x, "c": c, "t": 1 - d.uniform() ** self.power}

    def draw_discriminator(self, d, problem):
        """The real samples are the images of the pairs that were drawn."""
        b = {"eps_gan": d.noise(), "eps_r1": d.noise()}
        return b | {"t_gan": d.uniform(self.gan.t_min, self.gan.t_max)}

    def start(self, student, b):
        return interpolate(b["x"], b["eps"], b["t"]), b["t"], b["c"]

    def discriminator_inputs(self, networks, x_hat, b):
        return super().discriminator_inputs(networks, x_hat, b | {"c_real": b["c"]})
