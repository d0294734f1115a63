"""A unit: its heads are trained side by side, then measured on held-out images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from hdbench.core.pixels import to_float
from hdbench.core.seeds import generator, seeded
from hdbench.experiments.probes.config import ProbeUnit, Source, head_settings
from hdbench.experiments.probes.heads import is_adaptive
from hdbench.experiments.probes.measures import (
    MEASURES,
    UNKNOWN,
    Measured,
    auc,
    canvases,
    mean_of,
    of_gradient,
    plant,
    score,
)
from hdbench.experiments.units import Arrays
from hdbench.flow.path import interpolate
from hdbench.methods.discriminators import build_head, parameter_count
from hdbench.methods.distribution.gan import critic_loss, generator_loss, image_gradient
from hdbench.networks.transformer import Transformer
from hdbench.stages import artifact
from hdbench.stages.context import WEIGHTS, shape

BATCH = 125  # images measured at once
NAMES = (*MEASURES, "flaw_area", "flaw_share", "weight_in_flaw")


def load_teacher(source: Source, results: Path) -> Transformer:
    """The teacher's network, frozen."""
    path, _ = artifact.load(results, source.stage.id)
    network = Transformer(
        source.stage.config.network, **shape(source.plan.suite.data), mean_velocity=False
    )
    network.load_state_dict(load_file(path / WEIGHTS))
    return network.requires_grad_(False)


class Reader:
    """What the heads of a unit read: features of noised images, and at which times."""

    def __init__(self, unit: ProbeUnit, network: nn.Module):
        self.settings = head_settings(unit.source.plan.suite)
        self.network: Any = network
        self.t_max = unit.probes.t_max

    def times(self, n: int, random: torch.Generator) -> Tensor:
        """(n,) in [t_min, t_max)."""
        t_min = self.settings.t_min
        return t_min + (self.t_max - t_min) * torch.rand(n, generator=random)

    def tokens(self, x: Tensor, eps: Tensor, t: Tensor, c: Tensor) -> list[Tensor]:
        """By block (B, N, d), of images x (B, C, H, W) with noise eps at times t (B,)."""
        return self.network.features(interpolate(x, eps, t), t, c, self.settings.blocks)

    def build(self, head: str) -> nn.Module:
        return build_head(
            head,
            layers=len(self.settings.blocks),
            width=self.network.config.width,
            grid=self.network.grid,
            parameters=self.settings.parameters,
        )


def run_unit(unit: ProbeUnit, network: Transformer, progress: Callable[[int], None]) -> Arrays:
    """Train the unit's heads and measure them: the unit's `fields`, by run (a head at a rate)."""
    started = time.process_time()
    reader = Reader(unit, network)
    runs = [(head, rate) for head, rates in unit.rates.items() for rate in rates]
    heads = []
    for name, _ in runs:
        with seeded(unit.seed, "probes", name):
            heads.append(reader.build(name))
    train(unit, reader, heads, [rate for _, rate in runs], progress)

    images = held_out(unit, reader)
    judgements = judge(reader, heads, images)
    flaw, wrong = flaw_of(images, network.config.patch)
    values = [
        flaw | measures_of(judgement, images, wrong if is_adaptive(name) else None)
        for (name, _), judgement in zip(runs, judgements, strict=True)
    ]
    shown = unit.probes.shown
    return {
        "heads": np.array([name for name, _ in runs]),
        "rates": np.array([rate for _, rate in runs]),
        "names": np.array(NAMES),
        "values": np.array([[row.get(name, UNKNOWN) for name in NAMES] for row in values]),
        "parameters": np.array([parameter_count(head) for head in heads]),
        "weights": torch.stack([judgement.weights[:shown] for judgement in judgements]).numpy(),
        "flawed": images.y[:shown].numpy(),
        "where": images.where[:shown].numpy(),
        "core_seconds": np.array(time.process_time() - started),
    }


def train(
    unit: ProbeUnit,
    reader: Reader,
    heads: Sequence[nn.Module],
    rates: Sequence[float],
    progress: Callable[[int], None],
) -> None:
    """Train heads by the critic's loss on the same batches, half of them clean, half flawed."""
    refine = unit.source.plan.suite.base.refine
    clean, turned, labels = canvases(unit.source.plan.suite.data)["train"]
    optimizers = [
        torch.optim.AdamW(
            head.parameters(),
            lr=rate,
            betas=refine.betas,
            weight_decay=refine.weight_decay,
            fused=True,
        )
        for head, rate in zip(heads, rates, strict=True)
    ]
    for step in range(unit.steps):
        random = generator(unit.seed, "probes", "train", step)
        rows = torch.randint(len(clean), (2, refine.batch), generator=random)
        flawed, _ = plant(clean[rows[1]], turned[rows[1]], unit.flaw, random)
        x = torch.cat([to_float(clean[rows[0]]), flawed])
        eps = torch.randn(x.shape, generator=random)
        t = reader.times(refine.batch, random).repeat(2)
        with torch.no_grad():
            tokens = reader.tokens(x, eps, t, labels[rows.flatten()])
        real, fake = zip(*(h.chunk(2) for h in tokens), strict=True)
        for head, optimizer in zip(heads, optimizers, strict=True):
            critic_loss(head(list(real)), head(list(fake)), reader.settings.loss).backward()
            nn.utils.clip_grad_norm_(head.parameters(), refine.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        progress(step + 1)


class HeldOut(NamedTuple):
    """Images on which heads are measured, clean and flawed, with noise, times and labels."""

    x: Tensor  # (N, C, H, W) in [-1, 1], clean
    y: Tensor  # (N, C, H, W) in [-1, 1], flawed
    where: Tensor  # (N, 1, H, W) bool
    eps: Tensor  # (2, N, C, H, W), of x and of y
    t: Tensor  # (N,)
    labels: Tensor  # (N,)


def held_out(unit: ProbeUnit, reader: Reader) -> HeldOut:
    """The first `images` of test validate, the next ones report."""
    first = 0 if unit.validates else unit.probes.images
    test = canvases(unit.source.plan.suite.data)["test"]
    clean, turned, labels = (tensor[first : first + unit.probes.images] for tensor in test)
    random = generator(unit.seed, "probes", "held out")
    y, where = plant(clean, turned, unit.flaw, random)
    eps = torch.randn(2, *y.shape, generator=random)
    return HeldOut(to_float(clean), y, where, eps, reader.times(len(y), random), labels)


class Judgement(NamedTuple):
    """What a head makes of the held-out images."""

    clean: Tensor  # (N,), scores of x
    flawed: Tensor  # (N,), scores of y
    gradient: Tensor  # (N, C, H, W), of each image's generator loss in y
    weights: Tensor  # (N, tokens), token weights of y


def judge(reader: Reader, heads: Sequence[nn.Module], images: HeldOut) -> list[Judgement]:
    """Every head on all images, batch by batch: features are computed once for all heads."""
    batches = [[] for _ in heads]
    for rows in torch.arange(len(images.y)).split(BATCH):
        y = images.y[rows]
        eps = images.eps[1][rows]
        t = images.t[rows]
        labels = images.labels[rows]
        with torch.no_grad():
            clean = reader.tokens(images.x[rows], images.eps[0][rows], t, labels)
            flawed = reader.tokens(y, eps, t, labels)
        for head, judged in zip(heads, batches, strict=True):

            def loss(x: Tensor, head=head, eps=eps, t=t, labels=labels) -> Tensor:
                return generator_loss(head(reader.tokens(x, eps, t, labels)), reader.settings.loss)

            with torch.no_grad():
                of_clean = head(clean)
                of_flawed = head(flawed)
            gradient = len(rows) * image_gradient(loss, y)  # the loss is a mean
            judged.append(
                Judgement(score(of_clean), score(of_flawed), gradient, of_flawed.token_weights)
            )
    return [Judgement(*map(torch.cat, zip(*judged, strict=True))) for judged in batches]


def flaw_of(images: HeldOut, patch: int) -> tuple[dict[str, Measured], Tensor]:
    """Shares of pixels and tokens that are wrong, and which tokens are, (N, tokens)."""
    pixels = (images.y != images.x).any(1, keepdim=True).double()
    wrong = F.max_pool2d(pixels, patch).flatten(1)
    shares = {
        "flaw_area": mean_of(pixels.flatten(1).mean(1).numpy()),
        "flaw_share": mean_of(wrong.mean(1).numpy()),
    }
    return shares, wrong


def measures_of(judgement: Judgement, images: HeldOut, wrong: Tensor | None) -> dict[str, Measured]:
    """The measures of a head, none if it diverged; its weight on `wrong` tokens if given."""
    clean = judgement.clean.double().numpy()
    flawed = judgement.flawed.double().numpy()
    finite = np.isfinite(clean).all() and np.isfinite(flawed).all()
    if not finite or not judgement.gradient.isfinite().all():
        return {}
    measures = {"auc": auc(clean, flawed)}
    measures |= of_gradient(judgement.gradient, images.x - images.y)
    if wrong is not None:
        measures["weight_in_flaw"] = mean_of((judgement.weights * wrong).sum(1).numpy())
    return measures
