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
# of a head that sees nothing; None: the flaw's area
CHANCE = {"auc": 0.5, "in_flaw_share": None, "cosine": 0.0}


@functools.lru_cache(maxsize=1)
def canvases(data: Canvas) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """By split images, the same with turned textures, both (N, C, H, W) uint8, and labels (N,)."""
    return data.with_turned()


def plant(
    clean: Tensor, turned: Tensor, flaw: Flaw, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Flawed images, (B, C, H, W) float in [-1, 1], and where their flaw lies, (B, 1, H, W) bool.

    Clean images and those with turned textures are (B, C, H, W) uint8.
    """
    x = clean.float()
    other = turned.float()
    side = clean.shape[-1]
    where = torch.ones_like(clean[:, :1], dtype=torch.bool)
    if flaw.size:
        ink = (x + other).sum(1).flatten(1)  # the texture cancels
        centre = torch.multinomial(ink, 1, generator=random)  # (B, 1)
        corner = torch.cat([centre // side, centre % side], 1) - flaw.size // 2
        corner = corner.clamp(0, side - flaw.size)
        offset = torch.arange(side) - corner[:, :, None]  # (B, 2, side)
        rows, columns = ((offset >= 0) & (offset < flaw.size)).unbind(1)
        where = (rows[:, :, None] & columns[:, None, :]).unsqueeze(1)
    return to_float(torch.where(where, x + STRENGTH[flaw.change] * (other - x), x)), where


def score(output: HeadOutput) -> Tensor:
    """(B,), high for real images."""
    return (output.weights * output.logits).sum(1)


class Measured(NamedTuple):
    """A value and its standard error over images."""

    value: float
    se: float


UNKNOWN = Measured(math.nan, math.nan)


def mean_of(values: np.ndarray) -> Measured:
    """The mean of values (n,)."""
    return Measured(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))


def auc(clean: np.ndarray, flawed: np.ndarray) -> Measured:
    """P(clean > flawed) + P(equal) / 2 of scores (n,) and (n,) of the same images, by ranks.

    The error is that of DeLong, DeLong and Clarke-Pearson 1988, both terms of a pair kept together.
    """
    n = len(clean)
    ranks = rankdata(np.concatenate([clean, flawed]))
    of_clean = (ranks[:n] - rankdata(clean)) / n  # share of flawed ones below each clean one
    of_flawed = 1 - (ranks[n:] - rankdata(flawed)) / n
    return Measured(float(of_clean.mean()), math.sqrt((of_clean + of_flawed).var(ddof=1) / n))


def of_gradient(g: Tensor, correction: Tensor) -> dict[str, Measured]:
    """in_flaw_share, cosine and log10_damage over images that have a flaw.

    Gradients g (N, C, H, W) and corrections x - y (N, C, H, W).
    """
    g, correction = (tensor.double().flatten(1) for tensor in (g, correction))
    flawed = correction.ne(0).any(1)
    g = g[flawed]
    correction = correction[flawed]
    inside = (g.square() * correction.ne(0)).sum(1)
    energy = g.square().sum(1)
    error = correction.square().sum(1)
    along = -(g * correction).sum(1)
    tiny = torch.finfo(torch.float64).tiny
    return {
        "in_flaw_share": mean_of((inside / energy.clamp(min=tiny)).numpy()),
        "cosine": mean_of((along / (energy * error).sqrt().clamp(min=tiny)).numpy()),
        "log10_damage": log10_damage(energy - inside, error, along),
    }


def log10_damage(outside: Tensor, error: Tensor, along: Tensor) -> Measured:
    """Of |g outside|^2, |x - y|^2 and <g, y - x>, all (n,); its error by the delta method."""
    if along.mean() <= 0:
        return Measured(math.inf, math.nan)
    damage = torch.log10(outside.mean() * error.mean() / along.mean().square())
    relative = outside / outside.mean() + error / error.mean() - 2 * along / along.mean()
    influence = relative / math.log(10)
    return Measured(float(damage), float(influence.std() / math.sqrt(len(along))))
