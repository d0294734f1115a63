"""DMD2 (Yin et al., arXiv 2405.14867): hdbench.methods.distribution.dmd with other defaults.

Two time scales (Section 4.2: 5 fake updates a generator update), a GAN on the trained fake score's
features (4.3) and, with generator_steps = 4, backward simulation (4.5).  In the paper the GAN's
weight is a constant; here it is relative to the RMS of the direction, by the rule of all heads.
Renoising times do not depend on the generator's step, as in the paper's code.  Nor does the fake,
which is of the mixture of all steps' laws: while one lags, a step that has the real law already is
pushed past it, towards a mixture that has.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hdbench.methods.distribution.dmd import DMD
from hdbench.methods.distribution.gan import OnFake
from hdbench.methods.distribution.networks import Discriminator


class DMD2(DMD):
    """DMD with DMD2's settings."""

    name: Literal["dmd2"] = "dmd2"
    title: ClassVar[str] = "DMD2"

    discriminator: Discriminator = "conv"
    gan: OnFake = OnFake()
    fake_steps_per_generator_step: int = Field(default=5, ge=1)
