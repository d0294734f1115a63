"""Training of the heads, choice of their learning rates, and collecting their metrics."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hdbench.core import files
from hdbench.core.errors import UserError
from hdbench.core.pixels import to_float
from hdbench.core.progress import Progress
from hdbench.core.seeds import generator, seeded
from hdbench.experiments import units as experiments_units
from hdbench.experiments.probes.config import Flaw, Probes, Rates, Unit, load_teacher, teachers
from hdbench.experiments.probes.measures import (
    FIELDS,
    MEASURES,
    PART,
    Measured,
    auc,
    canvases,
    mean_of,
    of_gradient,
    plant,
    score,
)
from hdbench.flow.path import interpolate
from hdbench.methods.discriminators import build_head, parameter_count
from hdbench.methods.distribution.gan import critic_loss, generator_loss, image_gradient
from hdbench.metrics.records import COLUMNS, check
from hdbench.stages import artifact


def run_unit(
    unit: Unit, network: nn.Module, progress: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """Train the unit's heads and measure them: `FIELDS`, by run (a head at a rate); pictures of those shown."""
    started, refine = time.process_time(), unit.source.plan.suite.base.refine
    gan, data = refine.objective.gan, canvases(unit.source.plan.suite.data)
    clean, turned, labels = data["train"]
    runs = [(head, rate) for head, rates in unit.rates.items() for rate in rates]
    heads, optimizers = [], []
    for head, rate in runs:
        with seeded(unit.seed, "probes", head):
            heads.append(
                build_head(
                    head,
                    layers=len(gan.blocks),
                    width=network.config.width,
                    grid=network.grid,
                    parameters=gan.parameters,
                )
            )
        optimizers.append(
            torch.optim.AdamW(
                heads[-1].parameters(),
                lr=rate,
                betas=refine.betas,
                weight_decay=refine.weight_decay,
                fused=True,
            )
        )

    def times(n: int, random: torch.Generator) -> Tensor:
        return gan.t_min + (unit.probes.t_max - gan.t_min) * torch.rand(n, generator=random)

    def features(x: Tensor, eps: Tensor, t: Tensor, c: Tensor) -> list[Tensor]:
        return network.features(interpolate(x, eps, t), t, c, gan.blocks)

    for step in range(unit.probes.steps):
        random = generator(unit.seed, "probes", "train", step)
        rows = torch.randint(len(clean), (2, refine.batch), generator=random)
        flawed, _ = plant(clean[rows[1]], turned[rows[1]], unit.flaw, random)
        x, c = torch.cat([to_float(clean[rows[0]]), flawed]), labels[rows.flatten()]
        with torch.no_grad():
            tokens = features(
                x, torch.randn(x.shape, generator=random), times(refine.batch, random).repeat(2), c
            )
        real, fake = zip(*(h.chunk(2) for h in tokens))
        for head, optimizer in zip(heads, optimizers):
            critic_loss(head(list(real)), head(list(fake)), gan.loss).backward()
            nn.utils.clip_grad_norm_(head.parameters(), refine.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        progress(step + 1)

    first = 0 if unit.validates else unit.probes.images
    clean, turned, labels = (part[first : first + unit.probes.images] for part in data["test"])
    random = generator(unit.seed, "probes", "held out")
    y, where = plant(clean, turned, unit.flaw, random)
    x, eps, t = to_float(clean), torch.randn(2, *y.shape, generator=random), times(len(y), random)
    scores, gradients, weights = ([[] for _ in runs] for _ in range(3))
    for part in torch.arange(len(y)).split(PART):
        with torch.no_grad():
            tokens = [
                features(z[part], noise[part], t[part], labels[part])
                for z, noise in ((x, eps[0]), (y, eps[1]))
            ]
        for number, head in enumerate(heads):

            def loss(images: Tensor) -> Tensor:
                return generator_loss(
                    head(features(images, eps[1][part], t[part], labels[part])), gan.loss
                )

            with torch.no_grad():
                verdicts = [head(h) for h in tokens]
            scores[number].append(torch.stack([score(verdict) for verdict in verdicts]))
            weights[number].append(verdicts[1].token_weights)
            gradients[number].append(len(part) * image_gradient(loss, y[part]))
    pixels = (y != x).any(1, keepdim=True).double()
    wrong = F.max_pool2d(pixels, network.config.patch).flatten(1)  # (N, tokens)
    rows, names = [], (*MEASURES, "flaw_area", "flaw_share", "weight_in_flaw")
    flaw = {
        "flaw_area": mean_of(pixels.flatten(1).mean(1).numpy()),
        "flaw_share": mean_of(wrong.mean(1).numpy()),
    }
    for head, s, g, w in zip(heads, scores, gradients, weights):
        s, g, w = torch.cat(s, 1).double().numpy(), torch.cat(g), torch.cat(w)
        found = dict.fromkeys(names, Measured(math.nan, math.nan)) | flaw
        if np.isfinite(s).all() and g.isfinite().all():  # else the head has diverged
            found |= {"auc": auc(*s), **of_gradient(g, x - y)}
            if hasattr(head, "token_weights"):
                found["weight_in_flaw"] = mean_of((w * wrong).sum(1).numpy())
        rows.append([found[name] for name in names])
    k = unit.probes.shown
    return {
        "heads": np.array([head for head, _ in runs]),
        "rates": np.array([rate for _, rate in runs]),
        "names": np.array(names),
        "values": np.array(rows),
        "parameters": np.array([parameter_count(h) for h in heads]),
        "weights": torch.stack([torch.cat(w)[:k] for w in weights]).numpy(),
        "flawed": y[:k].numpy(),
        "where": where[:k].numpy(),
        "core_seconds": np.array(time.process_time() - started),
    }


def finish(units: list[Unit], results: Path) -> dict[Unit, dict[str, np.ndarray]]:
    """What each unit found; those that are not in results are run first."""
    todo = [unit for unit in units if not unit.path(results).exists()]
    progress = Progress("probes", len(todo) * units[0].probes.steps)
    for number, unit in enumerate(todo):
        done, payload = number * unit.probes.steps, io.BytesIO()
        found = run_unit(
            unit, load_teacher(unit.source, results), lambda step: progress(done + step, unit.name)
        )
        np.savez(payload, **found)
        files.write_together({unit.path(results): payload.getvalue()})
    return {unit: experiments_units.load_unit(unit.path(results), FIELDS) for unit in units}


def choose(found: Mapping[str, np.ndarray]) -> Rates:
    """Of each head the learning rate with the largest cosine; one without a finite cosine is the last choice."""
    cosine = np.nan_to_num(
        found["values"][:, list(found["names"]).index("cosine"), 0], nan=-math.inf
    )
    best: dict[str, tuple[float, float]] = {}
    for head, rate, value in zip(found["heads"].tolist(), found["rates"].tolist(), cosine.tolist()):
        if head not in best or value > best[head][1]:
            best[head] = rate, value
    return {head: (rate,) for head, (rate, _) in best.items()}


def collect(
    probes: Probes, results: Path
) -> tuple[pd.DataFrame, dict[Unit, dict[str, np.ndarray]]]:
    """Metrics (columns of hdbench.metrics.records), suite `probes` and, of the tuning, `probes_validation`; and the reported units."""
    sources = teachers(probes)
    for (tokens, seed), source in sources.items():
        if not artifact.exists(results, source.stage.id):
            raise UserError(
                f"{artifact.folder(results, source.stage.id)}: the teacher of {tokens} tokens and seed {seed} "
                f"does not exist yet; make it with `snakemake teachers --config suite={source.plan.given}`"
            )

    def units(seed: int, rates: Callable[[int, Flaw], Rates]) -> list[Unit]:
        return [
            Unit(probes, sources[tokens, seed], tokens, seed, flaw, rates(tokens, flaw))
            for tokens in probes.tokens
            for flaw in probes.flaws
        ]

    tuned = finish(
        units(
            probes.validation_seed, lambda *cell: dict.fromkeys(probes.heads, probes.learning_rates)
        ),
        results,
    )
    chosen = {(unit.tokens, unit.flaw): choose(found) for unit, found in tuned.items()}
    reported = finish(
        [unit for seed in probes.seeds for unit in units(seed, lambda *cell: chosen[cell])], results
    )
    rows = []
    for unit, found in (tuned | reported).items():
        names, suite = list(found["names"]), "probes_validation" if unit.validates else "probes"
        for head, rate, values, parameters in zip(
            found["heads"], found["rates"], found["values"], found["parameters"]
        ):
            arm = f"{head}_n{unit.tokens}_{unit.flaw.name}" + (
                f"_lr{rate:g}" if unit.validates else ""
            )
            common = {
                "suite": suite,
                "arm": arm,
                "seed": unit.seed,
                "nfe": 0,
                "digest": unit.digest,
            }
            rows += [
                common
                | {
                    "metric": name,
                    "value": value,
                    "se": se,
                    "n": probes.images,
                    "protocol": "probe",
                }
                for name, (value, se) in zip(names, values)
                if head.startswith("awd") or name != "weight_in_flaw"
            ]
            rows += [
                common | {"metric": name, "value": value, "protocol": "cost"}
                for name, value in (("learning_rate", rate), ("head_parameters", parameters))
            ]
        rows.append(
            {
                "suite": suite,
                "arm": f"n{unit.tokens}_{unit.flaw.name}",
                "seed": unit.seed,
                "nfe": 0,
                "metric": "training_core_seconds",
                "value": float(found["core_seconds"]),
                "protocol": "cost",
                "digest": unit.digest,
            }
        )
    return check(pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)), reported
