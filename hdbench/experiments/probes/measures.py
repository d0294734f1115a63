"""Planted flaws, and measures of a head that looks for them."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from hdbench.core.pixels import to_float
from hdbench.datasets.canvas import Canvas
from hdbench.experiments.probes.config import STRENGTH, Flaw
from hdbench.methods.discriminators.base import HeadOutput

MEASURES = {
    "auc": "AUC ↑",
    "in_flaw_share": "Gradient inside ↑",
    "cosine": "Cosine ↑",
    "log10_damage": "log10 damage ↓",
}
CHANCE = {
    "auc": 0.5,
    "in_flaw_share": None,
    "cosine": 0.0,
}  # of a head that sees nothing; None: the flaw's area
PART = 125  # images measured at once
FIELDS = (
    "heads",
    "rates",
    "names",
    "values",
    "parameters",
    "weights",
    "flawed",
    "where",
    "core_seconds",
)


@functools.lru_cache(maxsize=1)
def canvases(data: Canvas) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    return data.with_turned()


def plant(
    clean: Tensor, turned: Tensor, flaw: Flaw, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Flawed images (B, C, H, W) float in [-1, 1], and where their flaw lies, (B, 1, H, W); from images uint8."""
    x, other, side = clean.float(), turned.float(), clean.shape[-1]
    where = torch.ones_like(clean[:, :1], dtype=torch.bool)
    if flaw.size:
        ink = (x + other).sum(1).flatten(1)  # the texture cancels
        centre = torch.multinomial(ink, 1, generator=random)  # (B, 1)
        first = (torch.cat([centre // side, centre % side], 1) - flaw.size // 2).clamp(
            0, side - flaw.size
        )
        offset = torch.arange(side) - first[:, :, None]  # (B, 2, side)
        rows, columns = ((offset >= 0) & (offset < flaw.size)).unbind(1)
        where = (rows[:, :, None] & columns[:, None, :]).unsqueeze(1)
    return to_float(torch.where(where, x + STRENGTH[flaw.change] * (other - x), x)), where


def score(verdict: HeadOutput) -> Tensor:
    """(B,), high for real images."""
    return (verdict.weights * verdict.logits).sum(1)


class Measured(NamedTuple):
    value: float
    se: float


def mean_of(values: np.ndarray) -> Measured:
    return Measured(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))


def auc(clean: np.ndarray, flawed: np.ndarray) -> Measured:
    """P(clean > flawed) + P(equal) / 2 of scores (n,) and (n,) of the same images, by ranks.

    The error is that of DeLong, DeLong and Clarke-Pearson 1988, with a pair's two parts kept together.
    """
    n = len(clean)
    ranks = rankdata(np.concatenate([clean, flawed]))
    of_clean = (ranks[:n] - rankdata(clean)) / n  # share of flawed ones below each clean one
    of_flawed = 1 - (ranks[n:] - rankdata(flawed)) / n
    return Measured(float(of_clean.mean()), math.sqrt((of_clean + of_flawed).var(ddof=1) / n))


def of_gradient(g: Tensor, correction: Tensor) -> dict[str, Measured]:
    """in_flaw_share, cosine and log10_damage of gradients g (N, C, H, W) and corrections x - y, of images with a flaw."""
    g, correction = (tensor.double().flatten(1) for tensor in (g, correction))
    flawed = correction.ne(0).any(1)
    g, correction = g[flawed], correction[flawed]
    inside = (g.square() * correction.ne(0)).sum(1)
    energy, error, along = g.square().sum(1), correction.square().sum(1), -(g * correction).sum(1)
    tiny = torch.finfo(torch.float64).tiny
    found = {
        "in_flaw_share": mean_of((inside / energy.clamp(min=tiny)).numpy()),
        "cosine": mean_of((along / (energy * error).sqrt().clamp(min=tiny)).numpy()),
    }
    outside = energy - inside
    if along.mean() <= 0:
        return found | {"log10_damage": Measured(math.inf, math.nan)}
    damage = torch.log10(outside.mean() * error.mean() / along.mean().square())
    influence = (
        outside / outside.mean() + error / error.mean() - 2 * along / along.mean()
    ) / math.log(10)
    return found | {
        "log10_damage": Measured(float(damage), float(influence.std() / math.sqrt(len(g))))
    }
