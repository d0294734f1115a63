"""The loss of a generator whose gradient is given."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hdbench.core.distributed import global_mean


def generator_surrogate(x_hat: Tensor, g: Tensor) -> Tensor:
    """1/2 mean || x_hat - sg(x_hat - g) ||^2, whose gradient in x_hat is g / numel."""
    return 0.5 * F.mse_loss(x_hat, (x_hat - g).detach())


def rms(x: Tensor) -> Tensor:
    """Root mean square over the whole batch, on however many ranks its rows are."""
    return global_mean(x.square()).sqrt()
