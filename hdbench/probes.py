"""Which head finds a local flaw, and where its gradient goes: real images with one planted flaw, so that the truth is known.

Flawed    y = x + a m (x' - x), x a real canvas, x' the same with every texture's phase turned by half a period
          flip, a = 1: the phase is turned; fade, a = 1/4: the texture has half its amplitude
where     m = 1 in one s x s patch whose centre is a pixel drawn in proportion to its ink, or m = 1 everywhere (global)
correction x - y, known exactly.  A flip of a whole digit is as likely as the digit itself: there is nothing to find, so a
          global control must be a fade.
Features are those of a suite's frozen teachers, at times from its stage 2's smallest to t_max; heads, their size, loss and
optimiser are those of its stage 2.  Heads of a unit are trained side by side on the same batches: clean against flawed images,
other canvases, by the critic's loss.

Measures of a head, on held-out images; g is the gradient of the generator's loss in y:
auc            P(score of a clean image > score of a flawed one), the score sum_j weights_j logits_j; DeLong's standard error
in_flaw_share  E [|g|^2 where x != y] / |g|^2; a uniform gradient has flaw_area, the share of pixels that are wrong
cosine         E cos(-g, x - y)
log10_damage   log10 of E |g outside|^2 E |x - y|^2 / E <g, y - x>^2.  Let a step -b g, b for all images, cancel the flaw along
               the true correction, b = E |x - y|^2 / E <g, y - x>: this is the squared change outside for each unit of
               squared error so repaired.  Infinite where the gradient leads away from the correction
flaw_share     the tokens in which anything is wrong, of all; weight_in_flaw: the token weight that lies on them
Rule: of the declared learning rates a head has the one with the largest cosine on the validation seed, whose teacher and
held-out images are others, for each flaw and number of tokens.  (Canvases are others; the digits on them are of the same 450.)
Heads of a seed share teacher, images and noise, so adaptive heads are compared with each plain one by differences within seeds.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from pydantic import Field, model_validator
from safetensors.torch import load_file
from scipy.stats import rankdata
from torch import Tensor, nn

from hdbench import artifact, figures
from hdbench.collect import COLUMNS, MISSING, Interval, check, interval
from hdbench.config import Config, read_yaml, validate
from hdbench.datasets import canvas
from hdbench.discriminators import HEADS, build_head, parameter_count
from hdbench.discriminators.base import Verdict
from hdbench.errors import UserError
from hdbench.flow import interpolate
from hdbench.images import to_float
from hdbench.networks import TransformerConfig
from hdbench.objectives.gan import critic_loss, generator_loss, image_gradient
from hdbench.seeds import generator
from hdbench.stages import WEIGHTS, seeded, shape
from hdbench.suite import Plan, Stage, check_head, load_plan
from hdbench.tables import Column, for_people
from hdbench.train import Progress

VERSION = 3  # of a unit's meaning
CONFIG = Path("workflow/probes.yaml")
STRENGTH = {"flip": 1.0, "fade": 0.25}  # a
DIGIT = 16  # side of one of a canvas's digits
MEASURES = {"auc": "AUC ↑", "in_flaw_share": "Gradient inside ↑", "cosine": "Cosine ↑", "log10_damage": "log10 damage ↓"}
CHANCE = {"auc": 0.5, "in_flaw_share": None, "cosine": 0.0}  # of a head that sees nothing; None: the flaw's area
PART = 125  # images measured at once
FIELDS = ("heads", "rates", "names", "values", "parameters", "weights", "flawed", "where", "core_seconds")

Rates = dict[str, tuple[float, ...]]  # learning rates by head


class Flaw(Config):
    change: Literal[tuple(STRENGTH)]
    size: int | None = Field(ge=1, description="side of the patch in pixels; null: everywhere")

    @model_validator(mode="after")
    def _can_be_found(self):
        if self.change == "flip" and (self.size is None or self.size > DIGIT // 2):
            raise ValueError(f"size = {self.size}: a flip of more than half a digit is as likely as the digit itself; take at "
                             f"most {DIGIT // 2}, or a fade")
        if (self.size or 0) >= 2 * DIGIT:
            raise ValueError(f"size = {self.size}: a canvas has {2 * DIGIT} x {2 * DIGIT} pixels; for all of it write null")
        return self

    @property
    def name(self) -> str:
        return f"{self.change}{self.size or '_global'}"

    @property
    def title(self) -> str:
        return f"{self.change}, {f'{self.size} x {self.size}' if self.size else 'global'}"


class Probes(Config):
    """workflow/probes.yaml"""

    suites: tuple[str, ...] = Field(min_length=1, description="whose teachers' features are read")
    tokens: tuple[int, ...] = Field(min_length=1, description="of the teachers, each a line of the figure")
    seeds: tuple[int, ...] = Field(min_length=1, description="of teachers and heads, to report")
    validation_seed: int = Field(ge=0, description="on which learning rates are chosen")
    flaws: tuple[Flaw, ...] = Field(min_length=1)
    heads: tuple[Literal[tuple(HEADS)], ...] = Field(min_length=1)
    learning_rates: tuple[float, ...] = Field(min_length=1, description="the grid that all heads share")
    t_max: float = Field(gt=0, le=1, description="times are uniform from stage 2's smallest to this; much noise hides a flaw")
    steps: int = Field(ge=1, description="of the heads' training")
    images: int = Field(ge=2, description="held-out images on which heads are measured")
    shown: int = Field(2, ge=1, description="images of each flaw in the figure of token weights")

    @model_validator(mode="after")
    def _lists(self):
        for name in ("suites", "tokens", "seeds", "flaws", "heads", "learning_rates"):
            values = [value.name if isinstance(value, Flaw) else value for value in getattr(self, name)]
            if len(set(values)) < len(values):
                raise ValueError(f"{name} = {values}: one stands twice; remove it")
        if min(self.learning_rates) <= 0:
            raise ValueError(f"learning_rates = {list(self.learning_rates)}: must be positive")
        if self.validation_seed in self.seeds:
            raise ValueError(f"validation_seed = {self.validation_seed}: is one of seeds; what is chosen on a seed is not "
                             "reported on it")
        if self.shown > self.images:
            raise ValueError(f"shown = {self.shown}: must not be above images = {self.images}")
        return self


def read_probes(path: Path = CONFIG) -> Probes:
    return validate(Probes, read_yaml(path), str(path))


class Source(NamedTuple):
    """A teacher, and the suite that trains it."""

    plan: Plan
    stage: Stage


def teachers(probes: Probes) -> dict[tuple[int, int], Source]:
    """By number of tokens and seed; UserError where no suite has one, or suites that differ in more than networks."""
    plans, found = [load_plan(name) for name in probes.suites], {}
    first, told = plans[0].suite, f"suites = {list(probes.suites)}"
    if first.data.name != "canvas":
        raise UserError(f"{told}: {plans[0].name} has data {first.data.name}; flaws are planted in canvas alone")
    gan = getattr(first.base.refine and first.base.refine.objective, "gan", None)
    if gan is None or gan.feature_network != "teacher":
        raise UserError(f"{told}: stage 2 of {plans[0].name} does not read a frozen teacher's features; name another suite")
    if probes.t_max < gan.t_min:
        raise UserError(f"t_max = {probes.t_max}: stage 2 of {plans[0].name} has times from t_min = {gan.t_min}; raise it")
    if probes.images > first.data.test // 2:
        raise UserError(f"images = {probes.images}: test has only {first.data.test // 2} for validation and as many to "
                        "report; lower it")
    for plan in plans:
        alike = plan.suite.model_copy(update={"network": plan.suite.network.model_copy(update={"patch": first.network.patch})})
        for part in ("data", "base", "network", "teacher"):
            if getattr(alike, part) != getattr(first, part):
                raise UserError(f"{told}: {plan.name} has other {part} than {plans[0].name}; name suites that differ in "
                                "network.patch and seeds")
        tokens = (first.data.image_size // plan.suite.network.patch) ** 2
        for row in plan.rows:
            if "teacher" in row.stages:
                found.setdefault((tokens, row.seed), Source(plan, plan.stage(row.stages["teacher"])))
    wanted = {(tokens, seed): None for tokens in probes.tokens for seed in (probes.validation_seed, *probes.seeds)}
    for tokens, seed in wanted:
        if (tokens, seed) not in found:
            have = ", ".join(f"{n} tokens, seed {s}" for n, s in sorted(found))
            raise UserError(f"{told}: none has a teacher of {tokens} tokens and seed {seed}; they have {have}")
    for plan, head in itertools.product(plans, probes.heads):
        objective = plan.suite.base.refine.objective.model_copy(update={"discriminator": head})
        check_head("base.refine.objective", objective, plan.suite, f"heads: {head} of {plan.name}")
    return {key: found[key] for key in wanted}


def load_teacher(source: Source, results: Path) -> nn.Module:
    from hdbench.networks.transformer import Transformer

    path, _ = artifact.load(results, source.stage.id)
    network = Transformer(TransformerConfig(**source.stage.config["network"]), **shape(source.plan.suite.data),
                          mean_velocity=False)
    network.load_state_dict(load_file(path / WEIGHTS))
    return network.requires_grad_(False)


@dataclass(frozen=True, eq=False)
class Unit:
    """Heads at some learning rates against one flaw, on one teacher's features."""

    probes: Probes
    source: Source
    tokens: int
    seed: int
    flaw: Flaw
    rates: Rates

    @property
    def validates(self) -> bool:
        return self.seed == self.probes.validation_seed

    @property
    def name(self) -> str:
        return f"n{self.tokens}-{self.flaw.name}-s{self.seed}"

    @property
    def digest(self) -> str:
        """Of all that decides the unit; the teacher's own digest covers data and network."""
        said = {"version": VERSION, "teacher": self.source.stage.id, "seed": self.seed, "rates": self.rates,
                "validates": self.validates, "flaw": self.flaw.model_dump(mode="json"),
                "refine": self.source.plan.suite.base.refine.model_dump(mode="json"),
                **self.probes.model_dump(mode="json", include={"steps", "images", "shown", "t_max"})}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    def path(self, results: Path) -> Path:
        return results / "probes" / "units" / f"{self.name}-{self.digest}.npz"


@functools.lru_cache(maxsize=1)
def canvases(configuration: canvas.Configuration) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    return canvas.with_turned(configuration)


def plant(clean: Tensor, turned: Tensor, flaw: Flaw, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Flawed images (B, C, H, W) float in [-1, 1], and where their flaw lies, (B, 1, H, W); from images uint8."""
    x, other, side = clean.float(), turned.float(), clean.shape[-1]
    where = torch.ones_like(clean[:, :1], dtype=torch.bool)
    if flaw.size:
        ink = (x + other).sum(1).flatten(1)  # the texture cancels
        centre = torch.multinomial(ink, 1, generator=random)  # (B, 1)
        first = (torch.cat([centre // side, centre % side], 1) - flaw.size // 2).clamp(0, side - flaw.size)
        offset = torch.arange(side) - first[:, :, None]  # (B, 2, side)
        rows, columns = ((offset >= 0) & (offset < flaw.size)).unbind(1)
        where = (rows[:, :, None] & columns[:, None, :]).unsqueeze(1)
    return to_float(torch.where(where, x + STRENGTH[flaw.change] * (other - x), x)), where


def score(verdict: Verdict) -> Tensor:
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
    found = {"in_flaw_share": mean_of((inside / energy.clamp(min=tiny)).numpy()),
             "cosine": mean_of((along / (energy * error).sqrt().clamp(min=tiny)).numpy())}
    outside = energy - inside
    if along.mean() <= 0:
        return found | {"log10_damage": Measured(math.inf, math.nan)}
    damage = torch.log10(outside.mean() * error.mean() / along.mean().square())
    influence = (outside / outside.mean() + error / error.mean() - 2 * along / along.mean()) / math.log(10)
    return found | {"log10_damage": Measured(float(damage), float(influence.std() / math.sqrt(len(g))))}


def run_unit(unit: Unit, network: nn.Module, progress: Callable[[int], None]) -> dict[str, np.ndarray]:
    """Train the unit's heads and measure them: `FIELDS`, by run (a head at a rate); pictures of those shown."""
    started, refine = time.process_time(), unit.source.plan.suite.base.refine
    gan, data = refine.objective.gan, canvases(unit.source.plan.suite.data)
    clean, turned, labels = data["train"]
    runs = [(head, rate) for head, rates in unit.rates.items() for rate in rates]
    heads, optimizers = [], []
    for head, rate in runs:
        with seeded(unit.seed, "probes", head):
            heads.append(build_head(head, layers=len(gan.blocks), width=network.config.width, grid=network.grid,
                                    parameters=gan.parameters))
        optimizers.append(torch.optim.AdamW(heads[-1].parameters(), lr=rate, betas=refine.betas,
                                            weight_decay=refine.weight_decay, fused=True))

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
            tokens = features(x, torch.randn(x.shape, generator=random), times(refine.batch, random).repeat(2), c)
        real, fake = zip(*(h.chunk(2) for h in tokens))
        for head, optimizer in zip(heads, optimizers):
            critic_loss(head(list(real)), head(list(fake)), gan.loss).backward()
            nn.utils.clip_grad_norm_(head.parameters(), refine.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        progress(step + 1)

    first = 0 if unit.validates else unit.probes.images
    clean, turned, labels = (part[first:first + unit.probes.images] for part in data["test"])
    random = generator(unit.seed, "probes", "held out")
    y, where = plant(clean, turned, unit.flaw, random)
    x, eps, t = to_float(clean), torch.randn(2, *y.shape, generator=random), times(len(y), random)
    scores, gradients, weights = ([[] for _ in runs] for _ in range(3))
    for part in torch.arange(len(y)).split(PART):
        with torch.no_grad():
            tokens = [features(z[part], noise[part], t[part], labels[part]) for z, noise in ((x, eps[0]), (y, eps[1]))]
        for number, head in enumerate(heads):
            def loss(images: Tensor) -> Tensor:
                return generator_loss(head(features(images, eps[1][part], t[part], labels[part])), gan.loss)

            with torch.no_grad():
                verdicts = [head(h) for h in tokens]
            scores[number].append(torch.stack([score(verdict) for verdict in verdicts]))
            weights[number].append(verdicts[1].token_weights)
            gradients[number].append(len(part) * image_gradient(loss, y[part]))
    pixels = (y != x).any(1, keepdim=True).double()
    wrong = F.max_pool2d(pixels, network.config.patch).flatten(1)  # (N, tokens)
    rows, names = [], (*MEASURES, "flaw_area", "flaw_share", "weight_in_flaw")
    flaw = {"flaw_area": mean_of(pixels.flatten(1).mean(1).numpy()), "flaw_share": mean_of(wrong.mean(1).numpy())}
    for head, s, g, w in zip(heads, scores, gradients, weights):
        s, g, w = torch.cat(s, 1).double().numpy(), torch.cat(g), torch.cat(w)
        found = dict.fromkeys(names, Measured(math.nan, math.nan)) | flaw
        if np.isfinite(s).all() and g.isfinite().all():  # else the head has diverged
            found |= {"auc": auc(*s), **of_gradient(g, x - y)}
            if hasattr(head, "token_weights"):
                found["weight_in_flaw"] = mean_of((w * wrong).sum(1).numpy())
        rows.append([found[name] for name in names])
    k = unit.probes.shown
    return {"heads": np.array([head for head, _ in runs]), "rates": np.array([rate for _, rate in runs]),
            "names": np.array(names), "values": np.array(rows), "parameters": np.array([parameter_count(h) for h in heads]),
            "weights": torch.stack([torch.cat(w)[:k] for w in weights]).numpy(), "flawed": y[:k].numpy(),
            "where": where[:k].numpy(), "core_seconds": np.array(time.process_time() - started)}


def finish(units: list[Unit], results: Path) -> dict[Unit, dict[str, np.ndarray]]:
    """What each unit found; those that are not in results are run first."""
    todo = [unit for unit in units if not unit.path(results).exists()]
    progress = Progress("probes", len(todo) * units[0].probes.steps)
    for number, unit in enumerate(todo):
        done, payload = number * unit.probes.steps, io.BytesIO()
        found = run_unit(unit, load_teacher(unit.source, results), lambda step: progress(done + step, unit.name))
        np.savez(payload, **found)
        artifact.write_together({unit.path(results): payload.getvalue()})
    return {unit: artifact.load_unit(unit.path(results), FIELDS) for unit in units}


def choose(found: Mapping[str, np.ndarray]) -> Rates:
    """Of each head the learning rate with the largest cosine; one without a finite cosine is the last choice."""
    cosine = np.nan_to_num(found["values"][:, list(found["names"]).index("cosine"), 0], nan=-math.inf)
    best: dict[str, tuple[float, float]] = {}
    for head, rate, value in zip(found["heads"].tolist(), found["rates"].tolist(), cosine.tolist()):
        if head not in best or value > best[head][1]:
            best[head] = rate, value
    return {head: (rate,) for head, (rate, _) in best.items()}


def collect(probes: Probes, results: Path) -> tuple[pd.DataFrame, dict[Unit, dict[str, np.ndarray]]]:
    """Metrics (columns of hdbench.collect), suite `probes` and, of the tuning, `probes_validation`; and the reported units."""
    sources = teachers(probes)
    for (tokens, seed), source in sources.items():
        if not artifact.exists(results, source.stage.id):
            raise UserError(f"{artifact.folder(results, source.stage.id)}: the teacher of {tokens} tokens and seed {seed} "
                            f"does not exist yet; make it with `snakemake teachers --config suite={source.plan.name}`")

    def units(seed: int, rates: Callable[[int, Flaw], Rates]) -> list[Unit]:
        return [Unit(probes, sources[tokens, seed], tokens, seed, flaw, rates(tokens, flaw))
                for tokens in probes.tokens for flaw in probes.flaws]

    tuned = finish(units(probes.validation_seed, lambda *cell: dict.fromkeys(probes.heads, probes.learning_rates)), results)
    chosen = {(unit.tokens, unit.flaw): choose(found) for unit, found in tuned.items()}
    reported = finish([unit for seed in probes.seeds for unit in units(seed, lambda *cell: chosen[cell])], results)
    rows = []
    for unit, found in (tuned | reported).items():
        names, suite = list(found["names"]), "probes_validation" if unit.validates else "probes"
        for head, rate, values, parameters in zip(found["heads"], found["rates"], found["values"], found["parameters"]):
            arm = f"{head}_n{unit.tokens}_{unit.flaw.name}" + (f"_lr{rate:g}" if unit.validates else "")
            common = {"suite": suite, "arm": arm, "seed": unit.seed, "nfe": 0, "digest": unit.digest}
            rows += [common | {"metric": name, "value": value, "se": se, "n": probes.images, "protocol": "probe"}
                     for name, (value, se) in zip(names, values) if head.startswith("awd") or name != "weight_in_flaw"]
            rows += [common | {"metric": name, "value": value, "protocol": "cost"}
                     for name, value in (("learning_rate", rate), ("head_parameters", parameters))]
        rows.append({"suite": suite, "arm": f"n{unit.tokens}_{unit.flaw.name}", "seed": unit.seed, "nfe": 0,
                     "metric": "training_core_seconds", "value": float(found["core_seconds"]), "protocol": "cost",
                     "digest": unit.digest})
    return check(pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)), reported


def run_probes(probes: Probes, results: Path, out: Path) -> list[Path]:
    """Everything: results/probes/metrics.csv, a copy of it, table and figures in out/probes; the paths written."""
    frame, units = collect(probes, results)
    paired = differences(probes, frame)
    text, folder, table = frame.to_csv(index=False, lineterminator="\n").encode(), out / "probes", render(probes, frame)
    contents = {results / "probes" / "metrics.csv": text, folder / "metrics.csv": text,
                folder / "probes.csv": table.to_csv(index=False, lineterminator="\n").encode(),
                folder / "differences.csv": paired.to_csv(index=False, lineterminator="\n").encode(),
                folder / "probes.md": to_markdown(probes, table, paired, lost(probes, frame)).encode()}
    with figures.plt.rc_context(figures.STYLE):
        contents |= figures.pictures_of(draw_crossover(probes, frame), folder / "crossover")
        contents |= figures.pictures_of(draw_weights(probes, units), folder / "weights")
    artifact.write_together(contents)
    return list(contents)


def intervals(frame: pd.DataFrame) -> Callable[..., Interval]:
    """Of a reported arm and metric, or of it minus another arm's, paired: over seeds; one arm's over images for one seed."""
    groups = dict(list(frame[frame.suite == "probes"].set_index("seed").groupby(["arm", "metric"])))

    def found(arm: str, metric: str, minus: str | None = None) -> Interval:
        group, other = groups.get((arm, metric)), groups.get((minus, metric))
        if group is None or minus and other is None:
            return MISSING
        if not minus and len(group) > 1 and group.value.nunique(dropna=False) == 1:  # settings; the mean of equal values rounds
            return Interval(group.value.iloc[0], math.nan)
        return interval(group.value - other.value) if minus else interval(group.value, group.se.iloc[0])

    return found


def render(probes: Probes, frame: pd.DataFrame) -> pd.DataFrame:
    """One row a head, flaw and number of tokens: each measure with the half-width of its 95% interval, and what was chosen."""
    found, rows = intervals(frame), []
    for tokens in probes.tokens:
        for flaw in probes.flaws:
            for head in probes.heads:
                arm = f"{head}_n{tokens}_{flaw.name}"
                row: dict[str, Any] = {"arm": arm, "tokens": tokens, "flaw": flaw.name, "head": head}
                for metric in ("flaw_area", "flaw_share", *MEASURES, "weight_in_flaw", "learning_rate", "head_parameters"):
                    value = found(arm, metric)
                    row |= {metric: value.value, f"{metric}_half_width": value.half_width}
                rows.append(row)
    return pd.DataFrame(rows)


def differences(probes: Probes, frame: pd.DataFrame) -> pd.DataFrame:
    """One row a flaw, number of tokens, adaptive head and plain head: each measure of the first minus the second, by seeds."""
    found, rows = intervals(frame), []
    adaptive = [head for head in probes.heads if head.startswith("awd")]
    for tokens, flaw, head, plain in itertools.product(probes.tokens, probes.flaws, adaptive, probes.heads):
        if plain not in adaptive:
            row = {"tokens": tokens, "flaw": flaw.name, "head": head, "minus": plain}
            for metric in MEASURES:
                value = found(f"{head}_n{tokens}_{flaw.name}", metric, f"{plain}_n{tokens}_{flaw.name}")
                row |= {metric: value.value, f"{metric}_half_width": value.half_width}
            rows.append(row)
    return pd.DataFrame(rows)


def lost(probes: Probes, frame: pd.DataFrame) -> str:
    """A sentence that names what has no number on some seed, or nothing."""
    found = intervals(frame)
    names = [f"{title.strip(' ↑↓')} of {label(head)}, {tokens} tokens, {flaw.title}"
             for tokens, flaw, head in itertools.product(probes.tokens, probes.flaws, probes.heads)
             for metric, title in MEASURES.items() if not math.isfinite(found(f"{head}_n{tokens}_{flaw.name}", metric).value)]
    return f" Without a finite number on some seed: {'; '.join(names)}." if names else ""


def label(head: str) -> str:
    return head.replace("awd_", "AWD-") + figures.dagger(head)


def explanation(probes: Probes) -> str:
    over = f"t over {len(probes.seeds)} seeds" if len(probes.seeds) > 1 else "over images"
    return (f"Real images with one planted flaw against clean ones: heads of equal size on frozen features at times up to "
            f"{probes.t_max:g}, {probes.steps:,} steps, measured on {probes.images:,} held-out images. Flip: the texture's phase "
            "is turned by half a period; fade: its amplitude is halved. Inside: share of the energy of the generator's gradient "
            "where the image is wrong. "
            "Cosine: of minus the gradient with the true correction. Damage: squared change elsewhere for each unit of squared "
            "error repaired, at the step that cancels the flaw along the true correction. Learning rates by the largest cosine "
            f"on a seed that is not shown. 95% intervals, {over}.")


def to_markdown(probes: Probes, table: pd.DataFrame, differences: pd.DataFrame, lost: str) -> str:
    titles = {"flaw_share": "Share of tokens", **MEASURES, "weight_in_flaw": "Weight inside", "learning_rate": "Learning rate"}
    flaws = {flaw.name: flaw.title for flaw in probes.flaws}

    def shown(table: pd.DataFrame, titles: Mapping[str, str], **more: pd.Series) -> str:
        named = {"Tokens": table.tokens.astype(str), "Flaw": table.flaw.map(flaws), "Head": table["head"].map(label)}
        column = Column(key="", title="", cell=lambda entry: MISSING, signed=bool(more))
        columns = {title: [for_people(column, Interval(*pair)) for pair in zip(table[key], table[f"{key}_half_width"])]
                   for key, title in titles.items()}
        return pd.DataFrame(named | more | columns).to_markdown(index=False, disable_numparse=True)

    parts = [explanation(probes) + " † Reconstruction: the paper gives no formula." + lost, shown(table, titles)]
    if len(differences):
        parts += ["Each adaptive head minus each plain one, within seeds:",
                  shown(differences, MEASURES, Minus=differences["minus"].map(label))]
    return "\n\n".join(parts) + "\n"


def draw_crossover(probes: Probes, frame: pd.DataFrame) -> Figure:
    """Each measure against the share of tokens that a flaw fills, one line a head; global flaws open."""
    found = intervals(frame)
    changes = [change for change in STRENGTH if any(flaw.change == change for flaw in probes.flaws)]
    lines = [(tokens, change) for tokens in probes.tokens for change in changes]
    figure, axes = figures.plt.subplots(len(lines), len(MEASURES), figsize=(7.2, 0.7 + 1.65 * len(lines)), squeeze=False,
                                        layout="constrained", sharex=True, sharey="col")
    for row, (tokens, change) in zip(axes, lines):
        for axis, metric in zip(row, MEASURES):
            for number, head in enumerate(probes.heads):
                points = []
                for flaw in (flaw for flaw in probes.flaws if flaw.change == change):
                    x, y = (found(f"{head}_n{tokens}_{flaw.name}", name) for name in ("flaw_share", metric))
                    if not (math.isfinite(x.value) and math.isfinite(y.value)):
                        continue
                    shifted = x.value * 1.03 ** (number - (len(probes.heads) - 1) / 2)
                    points.append((shifted, y.value))
                    colour = figures.HEAD_COLOURS[head]
                    style = {"marker": "o", "color": colour, "markersize": 3.5, "linestyle": "none"}
                    figures.error_bars(axis, shifted, y, style | {"markerfacecolor": colour if flaw.size else "white"})
                if points:
                    axis.plot(*zip(*sorted(points)), color=figures.HEAD_COLOURS[head], linestyle=figures.HEAD_LINES[head],
                              linewidth=0.9, zorder=1)
            if axis is row[0]:
                axis.set_ylabel(f"{tokens} tokens, {change}")
            axis.set_xscale("log")
            chance = [[found(f"{probes.heads[0]}_n{tokens}_{flaw.name}", name).value for name in ("flaw_share", "flaw_area")]
                      for flaw in probes.flaws if flaw.change == change]
            x, area = zip(*sorted(chance))
            if metric in CHANCE:
                axis.plot(x, area if CHANCE[metric] is None else [CHANCE[metric]] * len(x), color=figures.REFERENCE,
                          linestyle=":", linewidth=0.9, zorder=0)
    for axis, (metric, title) in zip(axes[0], MEASURES.items()):
        axis.set_title(title.replace("↑", "(higher is better)").replace("↓", "(lower is better)").replace(" (", "\n("))
        if metric in ("auc", "in_flaw_share"):  # intervals of shares may go beyond
            low, high = axis.get_ylim()
            axis.set_ylim(max(low, -0.02), min(high, 1.03))
    for axis in axes[-1]:
        axis.set_xlabel("tokens in the flaw, share")
        axis.xaxis.set_major_formatter("{x:g}")
    handles = [Line2D([], [], color=figures.HEAD_COLOURS[head], linestyle=figures.HEAD_LINES[head], label=label(head))
               for head in probes.heads]
    handles += [Line2D([], [], color=figures.REFERENCE, marker="o", markersize=3.5, linestyle="none", label=text,
                       markerfacecolor=face) for text, face in (("local", figures.REFERENCE), ("global", "white"))]
    handles.append(Line2D([], [], color=figures.REFERENCE, linestyle=":", label="uniform or by chance"))
    figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncol=4)
    return figures.note_below(figure, explanation(probes) + " †\u00a0Reconstruction: the paper gives no formula."
                              + lost(probes, frame))


def draw_weights(probes: Probes, units: Mapping[Unit, Mapping[str, np.ndarray]]) -> Figure:
    """Flawed images with the flaw outlined, and below each the token weights of every adaptive head; of the first seed."""
    tokens, heads = max(probes.tokens), [head for head in probes.heads if head.startswith("awd")]
    shown = [(unit.flaw, found) for unit, found in units.items() if unit.tokens == tokens and unit.seed == probes.seeds[0]]
    columns = [(flaw, found, k) for flaw, found in shown for k in range(len(found["flawed"]))]
    weights = {head: [tokens * found["weights"][list(found["heads"]).index(head), k] for _, found, k in columns]
               for head in heads}
    side = math.isqrt(tokens)
    largest = max([2.0 ** 0.25, *(float(np.nanmax(w)) for values in weights.values() for w in values if np.isfinite(w).any())])
    figure, axes = figures.plt.subplots(1 + len(heads), len(columns), squeeze=False, layout="constrained",
                                        figsize=(max(7.2, 0.62 * len(columns)), 0.9 + 0.75 * (1 + len(heads))))
    drawn = None
    for number, (flaw, found, k) in enumerate(columns):
        pixels, where = found["flawed"].shape[-1], found["where"][k, 0]
        extent = (-0.5, pixels - 0.5, pixels - 0.5, -0.5)
        axes[0, number].imshow(found["flawed"][k, 0], cmap="gray", vmin=-1, vmax=1, extent=extent)
        for line, head in enumerate(heads, start=1):
            drawn = axes[line, number].imshow(weights[head][number].reshape(side, side).clip(1 / largest), cmap="PuOr_r",
                                              norm=LogNorm(1 / largest, largest), extent=extent)
        for axis in axes[:, number]:
            axis.set(xticks=[], yticks=[], frame_on=False)
            if flaw.size:
                top, left = np.argwhere(where)[0]
                axis.add_patch(Rectangle((left - 0.5, top - 0.5), flaw.size, flaw.size, fill=False, linewidth=0.8,
                                         edgecolor=figures.GREEN))
        axes[0, number].set_title(flaw.title.replace(", ", "\n"), fontsize=6)
    for line, text in enumerate(("image", *map(label, heads))):
        axes[line, 0].set_ylabel(text, rotation=0, ha="right", va="center")
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=axes[1:], location="bottom", aspect=60, shrink=0.7, extend="min", format="{x:.2g}",
                              ticks=np.geomspace(1 / largest, largest, 5), label="weight × N of each of N tokens; 1: alike")
        bar.minorticks_off()
    return figures.note_below(figure, (
        f"Held-out real images with a planted flaw (green: its place), {tokens} tokens, seed {probes.seeds[0]}, at a random "
        f"time. Learning rates as chosen, {probes.steps:,} steps. †\u00a0Reconstruction: the paper gives no formula."))
