"""The probability path in the one convention of the suite: t = 0 is data, t = 1 is noise.

z_t = (1 - t) x + t eps, conditional velocity v = eps - x, x-prediction x = z_t - t v(z_t, t).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# z, v and u (B, C, H, W); r, t and c (B,)
Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]  # (z, t, c) -> v
MeanVelocity = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (z, r, t, c) -> u


def expand(t: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1), to scale images sample by sample."""
    return t[:, None, None, None]


def interpolate(x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """z_t = (1 - t) x + t eps; x and eps (B, C, H, W), t (B,) in [0, 1]."""
    return torch.lerp(x, eps, expand(t))


def velocity(network: nn.Module) -> Velocity:
    """The network at r = t."""
    return lambda z, t, c: network(z, t, t, c)


def guided(
    network: nn.Module, guidance: float, interval: tuple[float, float] = (0.0, 1.0)
) -> Velocity:
    """v^w = v(z, t, null) + w [v(z, t, c) - v(z, t, null)] in the interval; v(z, t, c) elsewhere.

    Both halves run as one batch of 2B: two network evaluations a sample, one where guidance = 1.
    """
    if guidance == 1.0:
        return velocity(network)

    def v_w(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        w = torch.where((t >= interval[0]) & (t <= interval[1]), guidance, 1.0)
        return guided_by(network, w)(z, t, c)

    return v_w


def guided_by(network: nn.Module, w: float | Tensor) -> Velocity:
    """v^w = v(z, t, null) + w [v(z, t, c) - v(z, t, null)], w one number or (B,), of any sign.

    The number 1 is v(z, t, c) and 0 is v(z, t, null), one network evaluation a sample; all others
    are two, in one batch of 2B.
    """
    number = None if isinstance(w, Tensor) else w
    if number == 1:
        return velocity(network)

    def v_w(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        null = torch.full_like(c, network.null_label)
        if number == 0:
            return network(z, t, t, null)
        tt = torch.cat([t, t])
        both = network(torch.cat([z, z]), tt, tt, torch.cat([c, null]))
        conditional, unconditional = both.chunk(2)
        weight = expand(w.to(z.dtype)) if isinstance(w, Tensor) else w
        return torch.lerp(unconditional, conditional, weight)

    return v_w


def generate(u: MeanVelocity, eps: Tensor, c: Tensor) -> Tensor:
    """One step: G(eps, c) = eps - u(eps, 0, 1, c); eps (B, C, H, W), c (B,)."""
    one = torch.ones(len(eps), device=eps.device)
    return eps - u(eps, torch.zeros_like(one), one, c)
