"""Whether a network predicts what its family does, told by how it answers to noise.

SiT and DiT have the same tensors, and what one gives is wrong for the other.  At its time of pure
noise a network that has learned anything gives the noise up to a sign, whatever its data: SiT's
velocity at 0, E[x | eps] - eps, is minus eps and a mean; DiT's noise at step 999 is eps.  DiT is
at its cleanest step at 0, and the noise that it finds there in noise is not minus that noise.  With
rho(tau) the correlation of a file's own output at tau with eps, means over the batch taken off,
    SiT: rho(0) <= -0.3,   DiT: rho(0) > -0.3 and rho(999) >= 0.3,   else neither.
A SiT whose time runs the other way (REPA's), given as a SiT, is told at half time on smooth fields
x, where the output correlates with x - eps for a SiT and with eps - x for the other; on white data
both are one function.  Given as a DiT it may pass, where its file has no other tensors.

Rates, in networks of width 32 and 64 as tests/science/test_prediction.py makes them: of 65 SiT and
DiT trained for 30 to 300 steps on white, smooth, shifted and textured data one was taken for the
other, a SiT of 30 steps on white data, whose loss had not fallen.  With random weights the
correlation scatters by about 1 / (values of a patch): of 450 with 12 or 16 of them none was taken
for any family, of 150 with 4 of them 28.  An untrained network is so refused, and a suite's
`checkpoint.allow` takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hdbench.core.errors import UserError
from hdbench.networks.transformer import TransformerConfig, positions

ALLOW = "any-prediction"  # of a suite's `checkpoint.allow`
LEAST = 0.3  # |correlation| of a network that has learned, at its time of pure noise
NUMBERS = 2**14  # drawn for one correlation, of standard error 0.01


class Answers(NamedTuple):
    """Correlations of a network's own output, in its own time and sign, in [-1, 1]."""

    at_0: float
    """With noise, at 0: pure noise for a SiT."""
    at_999: float
    """With noise, at 999: pure noise for a DiT."""
    between: float
    """With x - eps of smooth fields x, at 0.5: half noise for a SiT."""

    @property
    def family(self) -> Literal["sit", "dit", "reversed"] | None:
        """Whose answers these are; None: nobody's."""
        if self.at_0 <= -LEAST:
            return "reversed" if self.between <= -LEAST else "sit"
        return "dit" if self.at_999 >= LEAST else None


NAMES = {
    "sit": "a SiT, which predicts the velocity",
    "dit": "a DiT, which predicts the noise",
    "reversed": "a SiT whose time runs the other way",
    None: "neither a SiT nor a DiT, so hardly trained",
}


@torch.no_grad()
def check_prediction(
    state: Mapping[str, Tensor],
    kind: Literal["sit", "dit"],
    config: TransformerConfig,
    *,
    image_size: int,
    channels: int,
    classes: int,
    source: Path,
) -> dict[str, float]:
    """The `Answers` of a converted network; UserError where they are not those of its family."""
    plain = {"prediction": "velocity", "reversed_time": False, "time_scale": 1.0}
    with torch.device("meta"):
        network = config.model_copy(update=plain).build(
            image_size=image_size, channels=channels, classes=classes, mean_velocity=False
        )
    network.load_state_dict(state, assign=True)
    network.position = positions(config, network.grid)
    sign = -1 if kind == "sit" else 1  # see `checkpoints`

    def answer(z: Tensor, tau: float) -> Tensor:
        times = torch.full((len(z),), tau)
        return sign * network(z, times, times, torch.zeros(len(z), dtype=torch.long))

    answers = answers_of(answer, (channels, image_size, image_size))
    if answers.family != kind:
        raise UserError(
            f"{source}: behaves as {NAMES[answers.family]}; wanted is {NAMES[kind]} (what it gives "
            f"for noise correlates with that noise by {answers.at_0:.2f} at time 0, where a SiT "
            f"has -1, and by {answers.at_999:.2f} at 999, where a DiT has 1); give another file, "
            f"or set checkpoint.allow to [{ALLOW}]"
        )
    return answers._asdict()


def answers_of(
    answer: Callable[[Tensor, float], Tensor], dimensions: tuple[int, int, int]
) -> Answers:
    """The answers of a network, called with z (B, C, H, W) and its own time, for (C, H, W)."""
    eps = drawn(dimensions, 0)
    x = smooth(dimensions)
    return Answers(
        correlation(answer(eps, 0.0), eps),
        correlation(answer(eps, 999.0), eps),
        correlation(answer((x + eps) / 2, 0.5), x - eps),
    )


def drawn(dimensions: tuple[int, int, int], seed: int) -> Tensor:
    """Normal noise (B, C, H, W), the same in every call, B from 4 to 64."""
    count = min(64, max(4, NUMBERS // torch.Size(dimensions).numel()))
    return torch.randn(count, *dimensions, generator=torch.Generator().manual_seed(seed))


def noise_correlation(
    answer: Callable[[Tensor], Tensor], dimensions: tuple[int, int, int]
) -> float:
    """The correlation of a network's answer to noise with that noise."""
    eps = drawn(dimensions, 0)
    return correlation(answer(eps), eps)


def smooth(dimensions: tuple[int, int, int]) -> Tensor:
    """Smooth random fields (B, C, H, W) of variance 1, the same in every call."""
    side = dimensions[-1]
    cells = min(side, max(4, side // 4))
    coarse = drawn(dimensions, 1)[..., :cells, :cells]
    x = F.interpolate(coarse, size=(side, side), mode="bicubic")
    return x / x.std()


def correlation(a: Tensor, b: Tensor) -> float:
    """Of two (B, ...) over all entries, each less its mean over B; 0 where one does not vary."""
    a = (a - a.mean(0)).double()
    b = (b - b.mean(0)).double()
    scale = (a.square().sum() * b.square().sum()).sqrt()
    return float((a * b).sum() / scale) if 0 < scale < torch.inf else 0.0
