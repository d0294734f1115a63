"""Which methods reach the true mean velocity, and what a student of limited capacity loses: data where both are known.

Data      clusters of Gaussian sub-modes on a line, and a background; z_t = (1 - t) x + t eps is a mixture at every t
velocity  v(z, t) = E[eps - x | z_t = z] in closed form, see `Exact.velocity`
flow map  dz/dt = v(z, t) from t = 1 to t = 0, G(eps) = z_0, by an adaptive solver of order 8
truth     u(eps, 0, 1) = eps - G(eps), the mean velocity of one step from noise
Students are small networks u_theta(z, r, t), trained by the objectives of the suite as they are, with v for their teacher.
Euler's n steps with v are what a student of n teacher steps can reach at best; one step is v itself in the place of u.

Structure and detail: 1 - D(student) / D(blurred), D the total variation from the true law on these cells: the two sd around
each cluster, or the 1.5 sd around each sub-mode, and all the rest.  In the blurred law one Gaussian of the same mean and
variance stands for all clusters, or for each cluster's sub-modes.  So 1 is the true law, and 0 one without this scale.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from pydantic import Field, model_validator
from scipy.integrate import solve_ivp
from scipy.stats import gaussian_kde, norm
from torch import Tensor, nn

from hdbench import figures
from hdbench.artifact import load_unit, write_together
from hdbench.collect import COLUMNS, MISSING, Interval, check, interval
from hdbench.config import Config, nearest, read_yaml, validate
from hdbench.errors import Divergence
from hdbench.flow import generate, sample_ode
from hdbench.objectives import OBJECTIVES
from hdbench.objectives.base import Setting
from hdbench.seeds import generator, sample_noise, seed_of
from hdbench.suite import Decay, Objective, Training
from hdbench.tables import for_people
from hdbench.train import Progress, Trainer

VERSION = 1  # of a unit's meaning
CONFIG = Path("workflow/theory.yaml")
SHAPE = (1, 1, 1)  # a point of the line as an image, (C, H, W)
RADIUS = 1.5  # in sd: what is this near to a sub-mode is counted as of it
NAMES = {"knowledge": "Regression on true pairs", "meanflow": "MeanFlow", "improved_meanflow": "Improved MeanFlow",
         "scm": "sCM", "shortcut": "Shortcut", "consistency": "Consistency", "progressive": "Progressive"}
COLOURS = {kind: (colour, marker) for kind, colour, marker in zip(
    NAMES, (figures.BLACK, figures.BLUE, figures.SKY, figures.PURPLE, figures.ORANGE, figures.VERMILION, figures.GREEN),
    "hoDPXs^")}
KERNEL = 0.35  # width of the kernel of drawn densities, in sd of a sub-mode
QUALITY = ("mean_velocity_error", "structure", "detail")


class Data(Config):
    """Evenly spaced clusters of evenly spaced sub-modes, N(mu_k, sd^2), and a background N(0, background_sd^2) around them."""

    clusters: int = Field(ge=2)
    distance: float = Field(gt=0, description="of neighbouring clusters")
    submodes: int = Field(ge=2, description="of each cluster")
    gap: float = Field(gt=0, description="of neighbouring sub-modes")
    sd: float = Field(gt=0, description="of a sub-mode")
    background: float = Field(ge=0, lt=1, description="share of the background, which bounds the slope of the flow map")
    background_sd: float = Field(gt=0)
    points: int = Field(ge=1, description="size of the training set, from which batches are drawn")

    @model_validator(mode="after")
    def _apart(self):
        if 2 * RADIUS * self.sd > self.gap:
            raise ValueError(f"gap = {self.gap}: neighbouring sub-modes must be {2 * RADIUS:g} sd apart or more")
        if 2 * self.cluster_radius > self.distance:
            raise ValueError(f"distance = {self.distance}: neighbouring clusters overlap; it must be at least "
                             f"{2 * self.cluster_radius:g}")
        return self

    @property
    def within(self) -> float:
        """sd of a cluster."""
        return math.sqrt(self.sd**2 + self.gap**2 * (self.submodes**2 - 1) / 12)

    @property
    def cluster_radius(self) -> float:
        return 2 * self.within


class Network(Config):
    layers: int = Field(ge=1, description="hidden")
    frequencies: int = Field(ge=0, description="sines and cosines of z, t and t - r, besides the three themselves")


class Schedule(Config):
    """Training of every student, see hdbench.suite.Training."""

    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    ema: Decay


class Method(Config):
    objective: Objective
    every_width: bool = Field(False, description="train it in every width, not in the largest alone")

    @model_validator(mode="after")
    def _has_a_mean_velocity(self):
        if self.objective.name not in NAMES:
            raise ValueError(f"objective.name = {self.objective.name}: does not claim the true mean velocity"
                             + nearest(self.objective.name, NAMES))
        return self


class Theory(Config):
    """workflow/theory.yaml"""

    seeds: tuple[int, ...] = Field(min_length=1)
    data: Data
    network: Network
    widths: tuple[int, ...] = Field(min_length=1)
    training: Schedule
    noises: int = Field(ge=2, description="at which every student is measured")
    euler_steps: tuple[int, ...] = Field(min_length=1, description="of the exact velocity, as references")
    methods: dict[str, Method] = Field(min_length=1)
    shown: str = Field(description="the method whose samples are drawn, trained in every width")

    @model_validator(mode="after")
    def _sizes(self):
        for name in ("seeds", "widths", "euler_steps"):
            if len(set(values := getattr(self, name))) < len(values) or (name != "seeds" and min(values, default=1) < 1):
                raise ValueError(f"{name} = {list(values)}: must be different" + " and positive" * (name != "seeds"))
        if self.shown not in self.methods or not self.methods[self.shown].every_width:
            raise ValueError(f"shown = {self.shown}: must be a method with every_width"
                             + nearest(self.shown, (name for name, method in self.methods.items() if method.every_width)))
        return self

    @property
    def largest(self) -> int:
        return max(self.widths)


def digest(theory: Theory, *parts: str, **more) -> str:
    said = theory.model_dump(mode="json", include=set(parts)) | more | {"version": VERSION}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Unit:
    """One student: a method at a width, from a seed; keyed by a digest of all that decides it."""

    theory: Theory
    method: str
    width: int
    seed: int

    @property
    def arm(self) -> str:
        return f"{self.method}_w{self.width}"

    @property
    def digest(self) -> str:
        objective = self.theory.methods[self.method].objective.model_dump(mode="json")
        return digest(self.theory, "data", "network", "training", "noises", objective=objective, width=self.width,
                      seed=self.seed)

    def path(self, results: Path) -> Path:
        return results / "theory" / "units" / f"{self.arm}-s{self.seed}-{self.digest}.npz"


def units(theory: Theory) -> list[Unit]:
    return [Unit(theory, name, width, seed) for name, method in theory.methods.items() for width in theory.widths
            if method.every_width or width == theory.largest for seed in theory.seeds]


class Exact:
    """The mixture with everything known: shares p_k, N(mu_k, s_k^2), all arrays (K,) with the background last."""

    def __init__(self, data: Data):
        def row(count: int, step: float) -> np.ndarray:
            return step * (np.arange(count) - (count - 1) / 2)

        self.data, self.centres = data, row(data.clusters, data.distance)
        self.modes = (self.centres[:, None] + row(data.submodes, data.gap)).ravel()  # cluster by cluster
        self.means, self.sds, self.weights = self._law(self.modes, data.sd)
        self.overall = math.hypot(data.within, self.centres.std())  # sd of all clusters
        self.deviation = float(math.sqrt(self.weights @ (self.means**2 + self.sds**2)))  # and with the background

    def _law(self, means: np.ndarray, sd: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means, sds and shares of equal components and the background."""
        k, d = len(means), self.data
        return (np.append(means, 0.0), np.append(np.full(k, sd), d.background_sd),
                np.append(np.full(k, (1 - d.background) / k), d.background))

    def velocity(self, z: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """v = sum_k P(k | z) [(t - (1 - t) s_k^2) / sigma_k^2 (z - (1 - t) mu_k) - mu_k],  sigma_k^2 = (1 - t)^2 s_k^2 + t^2.

        z (B, 1, 1, 1), t (B,).
        """
        means, squares, weights = (torch.from_numpy(x).to(z) for x in (self.means, self.sds**2, self.weights))
        t = t[:, None]
        offset, variance = z.flatten(1) - (1 - t) * means, (1 - t) ** 2 * squares + t**2
        posterior = torch.softmax(weights.log() - 0.5 * variance.log() - 0.5 * offset**2 / variance, dim=1)
        return (posterior * ((t - (1 - t) * squares) / variance * offset - means)).sum(1).view_as(z)

    def flow_map(self, eps: Tensor, tolerance: float = 1e-9) -> Tensor:
        """G(eps) (B, 1, 1, 1) float64, by Dormand and Prince's method of order 8."""
        def derivative(t: float, flat: np.ndarray) -> np.ndarray:
            z = torch.from_numpy(flat).view(-1, *SHAPE)
            return self.velocity(z, torch.full((len(z),), t, dtype=z.dtype)).flatten().numpy()

        found = solve_ivp(derivative, (1.0, 0.0), eps.double().flatten().numpy(), method="DOP853", rtol=tolerance,
                          atol=tolerance)
        return torch.from_numpy(found.y[:, -1].copy()).view(-1, *SHAPE)

    def sample(self, n: int, random: torch.Generator) -> Tensor:
        """x (n, 1, 1, 1) float32."""
        k = torch.multinomial(torch.from_numpy(self.weights), n, replacement=True, generator=random).numpy()
        noise = torch.randn(n, generator=random, dtype=torch.float64).numpy()
        return torch.from_numpy(self.means[k] + self.sds[k] * noise).float().view(-1, *SHAPE)

    @functools.cached_property
    def scales(self) -> dict[str, tuple[np.ndarray, float, np.ndarray, np.ndarray]]:
        """Of structure and detail: targets (k,), their radius, and the true and the blurred law's shares there (k,)."""
        def shares(law, targets, radius) -> np.ndarray:
            means, sds, weights = law
            ends = (targets[:, None] + np.array([[[radius]], [[-radius]]]) - means) / sds  # (2, k, K)
            return np.subtract(*norm.cdf(ends)) @ weights

        found = {"structure": (self.centres, self.data.cluster_radius, self._law(np.zeros(1), self.overall)),
                 "detail": (self.modes, RADIUS * self.data.sd, self._law(self.centres, self.data.within))}
        true = self.means, self.sds, self.weights
        return {name: (targets, radius, shares(true, targets, radius), shares(blurred, targets, radius))
                for name, (targets, radius, blurred) in found.items()}


class Student(nn.Module):
    """u_theta(z, r, t, c) = u_S(z, r, t) + perceptron(z / sigma_t, t, t - r and their sines and cosines); c is unused.

    u_S = (t + r - S^2 (2 - t - r)) / ((sigma_t + sigma_r) sigma_t) z is the mean velocity of N(0, S^2) with the data's own
    sd S, sigma_t^2 = (1 - t)^2 S^2 + t^2: what Karras et al. (arXiv 2206.00364, Section 5) call preconditioning.
    z (B, 1, 1, 1), r and t (B,).
    """

    def __init__(self, width: int, network: Network, sd: float):
        super().__init__()
        self.sd, sizes = sd, [3 * (1 + 2 * network.frequencies), *[width] * network.layers]
        hidden = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.GELU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 1))
        self.register_buffer("frequencies", math.pi / 2 * 2.0 ** torch.arange(network.frequencies), persistent=False)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        sigma_t, sigma_r = (((1 - s) ** 2 * self.sd**2 + s**2).sqrt() for s in (t, r))
        y = z.flatten() / sigma_t
        given = torch.stack([y, t, t - r], dim=1)
        waves = (given[:, :, None] * self.frequencies).flatten(1)
        slope = (t + r - self.sd**2 * (2 - t - r)) / (sigma_t + sigma_r)
        return (slope * y + self.layers(torch.cat([given, waves.sin(), waves.cos()], dim=1)).flatten()).view_as(z)


class Material(NamedTuple):
    """What all units share: the law, its training set, the noises (N, 1, 1, 1) and where the true flow takes them."""

    exact: Exact
    images: Tensor
    noises: Tensor
    truth: Tensor


def material(theory: Theory) -> Material:
    exact, noises = Exact(theory.data), sample_noise(("theory", "evaluate"), range(theory.noises), SHAPE)
    return Material(exact, exact.sample(theory.data.points, generator("theory", "data")), noises, exact.flow_map(noises))


@functools.lru_cache(maxsize=1)
def exact_pairs(exact: Exact, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noises and their places under the true flow, in the stead of a teacher's Euler steps."""
    eps = torch.randn(count, *SHAPE, generator=generator("theory", "pairs"))
    return eps, exact.flow_map(eps).float(), torch.zeros(count, dtype=torch.int64)


def train(unit: Unit, given: Material, progress: Callable[[int], None]) -> dict[str, np.ndarray]:
    """The unit's samples G(eps) (N,) at the common noises, by its averaged weights, and what it cost."""
    theory, objective, started = unit.theory, unit.theory.methods[unit.method].objective, time.process_time()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(unit.seed, "theory", unit.width))
        student = Student(unit.width, theory.network, given.exact.deviation)
    setting = Setting(student=student, learning_rate=theory.training.learning_rate, teacher_velocity=given.exact.velocity,
                      pairs=exact_pairs(given.exact, objective.pairs.count) if hasattr(objective, "pairs") else None)
    training = Training(objective=objective, **theory.training.model_dump())
    trainer = Trainer(OBJECTIVES[objective.name].updates(objective, setting), training, student, (unit.seed, "theory"),
                      given.images, torch.zeros(len(given.images), dtype=torch.int64))
    try:
        while trainer.step < training.steps:
            trainer.train_step()
            progress(trainer.step)
        trainer.check_weights()
    except Divergence as error:
        raise Divergence(f"{unit.arm}, seed {unit.seed}: {error}") from None
    student.load_state_dict(trainer.ema)
    with torch.no_grad():
        samples = generate(student, given.noises, torch.zeros(len(given.noises), dtype=torch.int64))
    return {"samples": samples.flatten().numpy(), "core_seconds": np.array(time.process_time() - started),
            "parameters": np.array(sum(p.numel() for p in student.parameters()))}


def measure(exact: Exact, noises: Tensor, truth: Tensor, samples: np.ndarray) -> Iterator[tuple[str, float, float]]:
    """(metric, value, standard error over noises) of samples (N,) of one step from the noises (N, 1, 1, 1).

    mean_velocity_error   sqrt(E |u_theta - u|^2 / E |u|^2) at (eps, 0, 1), its error by the delta method
    structure, detail     as in the head of this file, their errors too
    """
    n, x = len(samples), samples.astype(np.float64)
    wrong, whole = np.square(x - truth.flatten().numpy()), np.square((noises.double() - truth).flatten().numpy())
    ratio = wrong.mean() / whole.mean()
    root, spread = math.sqrt(ratio), float((wrong - ratio * whole).std(ddof=1) / whole.mean())
    yield "mean_velocity_error", root, spread / (2 * root * math.sqrt(n)) if root else 0.0
    for name, (targets, radius, true, blurred) in exact.scales.items():
        inside = np.abs(x[:, None] - targets) <= radius  # of the cells only the rest is left out
        sign, error = np.sign(inside.mean(0) - true), inside.mean(0) - true
        influence = 0.5 * inside @ (sign - np.sign(-error.sum()))
        scale = total_variation(blurred - true)
        yield name, 1 - total_variation(error) / scale, float(influence.std(ddof=1)) / math.sqrt(n) / scale


def total_variation(differences: np.ndarray) -> float:
    """Between two laws whose shares of all cells but one differ by these (k,)."""
    return 0.5 * float(np.abs(differences).sum() + abs(differences.sum()))


def read_theory_config(path: Path = CONFIG) -> Theory:
    return validate(Theory, read_yaml(path), str(path))


def collect(theory: Theory, results: Path) -> tuple[pd.DataFrame, dict[tuple[str, int], np.ndarray], Material]:
    """Metrics (columns of hdbench.collect) and samples (N,) of every unit; those that are not in results are trained first."""
    todo = [unit for unit in units(theory) if not unit.path(results).exists()]
    given, steps = material(theory), theory.training.steps
    progress = Progress("theory", len(todo) * steps)
    for number, unit in enumerate(todo):
        payload = io.BytesIO()
        found = train(unit, given, lambda step: progress(number * steps + step, f"{unit.arm}, seed {unit.seed}"))
        np.savez(payload, **found)
        write_together({unit.path(results): payload.getvalue()})
    rows, samples = [], {}

    def add(common: dict, values: np.ndarray) -> None:
        rows.extend(common | {"metric": metric, "value": value, "se": se, "n": len(values), "protocol": "exact"}
                    for metric, value, se in measure(given.exact, given.noises, given.truth, values))

    for steps in theory.euler_steps:
        found = sample_ode(lambda z, t, c: given.exact.velocity(z, t.to(z)), given.noises.double(), None, steps)
        add({"arm": "euler", "nfe": steps, "digest": digest(theory, "data", "noises")}, found.flatten().numpy())
    for unit in units(theory):
        found = load_unit(unit.path(results), ("samples", "core_seconds", "parameters"))
        samples[unit.arm, unit.seed] = found["samples"]
        common = {"arm": unit.arm, "seed": unit.seed, "nfe": 1, "digest": unit.digest}
        add(common, found["samples"])
        rows += [common | {"metric": metric, "value": float(found[key]), "protocol": "cost"}
                 for metric, key in (("parameters", "parameters"), ("training_core_seconds", "core_seconds"))]
    frame = pd.DataFrame([{"suite": "theory"} | row for row in rows], columns=list(COLUMNS)).astype(COLUMNS)
    return check(frame), samples, given


def run_theory(theory: Theory, results: Path, out: Path) -> list[Path]:
    """Everything: results/theory/metrics.csv, a copy of it, table and figure in out/theory; the paths written."""
    frame, samples, given = collect(theory, results)
    text, folder = frame.to_csv(index=False, lineterminator="\n").encode(), out / "theory"
    table = render(theory, frame)
    contents = {results / "theory" / "metrics.csv": text, folder / "metrics.csv": text,
                folder / "theory.csv": table.to_csv(index=False, lineterminator="\n").encode(),
                folder / "theory.md": to_markdown(theory, table).encode()}
    with figures.plt.rc_context(figures.STYLE):
        contents |= figures.pictures_of(draw(theory, frame, samples, given), folder / "theory")
    write_together(contents)
    return list(contents)


def intervals(frame: pd.DataFrame) -> dict[tuple[str, int, str], Interval]:
    """By arm, evaluations of the network and metric: over seeds, or over noises where there is one value."""
    return {key: interval(group.value.to_numpy(), group.se.iloc[0]) for key, group in frame.groupby(["arm", "nfe", "metric"])}


def label(method: str, objective: Objective) -> str:
    """`Consistency, 64 teacher steps`"""
    steps = teacher_steps(objective)
    return NAMES[objective.name] + (f", {steps} teacher steps" if steps else "")


def teacher_steps(objective: Objective) -> int | None:
    """Euler steps of the teacher that the method's perfect student follows; None if it follows the exact flow."""
    match objective.name:
        case "consistency":
            return objective.intervals
        case "progressive":
            return 2 * objective.start_steps
        case "shortcut":
            return objective.finest
    return None


def render(theory: Theory, frame: pd.DataFrame) -> pd.DataFrame:
    """One row a student or reference: what it is, and each metric with the half-width of its 95% interval."""
    found = intervals(frame)
    named = [("euler", steps, f"Exact velocity, {steps} Euler step{'s' if steps > 1 else ''}", None)
             for steps in theory.euler_steps]
    named += [(unit.arm, 1, label(unit.method, theory.methods[unit.method].objective), unit.width)
              for unit in units(theory) if unit.seed == theory.seeds[0]]
    rows = []
    for arm, nfe, name, width in named:
        row = {"arm": arm, "nfe": nfe, "method": name, "width": width}
        for metric in (*QUALITY, "parameters", "training_core_seconds"):
            value = found.get((arm, nfe, metric), MISSING)
            row |= {metric: value.value, f"{metric}_half_width": value.half_width}
        rows.append(row)
    return pd.DataFrame(rows).astype({"width": "Int64"})


def to_markdown(theory: Theory, table: pd.DataFrame) -> str:
    titles = {"mean_velocity_error": "Error of u ↓", "structure": "Structure", "detail": "Detail",
              "parameters": "Parameters", "training_core_seconds": "Core-s"}
    shown = pd.DataFrame({"Method": table.method, "Width": ["-" if pd.isna(w) else str(w) for w in table.width]} | {
        title: [for_people(None, Interval(*pair)) for pair in zip(table[key], table[f"{key}_half_width"])]
        for key, title in titles.items()})
    caption = (f"Students where the true mean velocity is known, one step from noise, {theory.noises:,} noises. Error: root "
               "mean square of u_theta - u at (eps, 0, 1), relative to u. Structure and detail: 1 is the true law, 0 a law "
               f"without any. 95% t-intervals over {len(theory.seeds)} seeds; of references, over "
               f"noises. Students have {theory.network.layers} hidden layers and {theory.training.steps:,} steps of "
               f"{theory.training.batch} points.")
    return caption + "\n\n" + shown.to_markdown(index=False, disable_numparse=True) + "\n"


def draw(theory: Theory, frame: pd.DataFrame, samples: dict[tuple[str, int], np.ndarray], given: Material) -> Figure:
    """Error against the teacher's steps, and of each method; what small and large students generate; scales against width."""
    figure = figures.plt.figure(figsize=(7.2, 5.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1))
    found = intervals(frame)
    by_steps, by_method = top.subplots(1, 2, width_ratios=(1, 1.15))
    flow_map, density, widths = bottom.subplots(1, 3, width_ratios=(1, 1, 1.15))
    draw_steps(by_steps, theory, found)
    draw_methods(by_method, theory, found)
    draw_samples(flow_map, density, theory, samples, given)
    draw_widths(widths, theory, found)
    return figures.note_below(figure, (
        f"Students of {theory.network.layers} hidden layers, {theory.training.steps:,} steps of {theory.training.batch} "
        f"points from fresh weights, with the exact velocity for their teacher. Error: root mean square over "
        f"{theory.noises:,} noises, relative to that of u. Structure and detail: 1 is the true law, 0 a law without any. "
        f"Intervals: 95%, t over {len(theory.seeds)} seeds. Samples are of seed {theory.seeds[0]}."))


def draw_steps(axis: Axes, theory: Theory, found: dict) -> None:
    steps = sorted(theory.euler_steps)
    axis.plot(steps, [found["euler", n, "mean_velocity_error"].value for n in steps], color=figures.REFERENCE,
              linestyle=(0, (4, 1)), label="exact velocity")
    for kind, shift in (("consistency", 0.94), ("progressive", 1.06)):
        arms = sorted((teacher_steps(method.objective), f"{name}_w{theory.largest}")
                      for name, method in theory.methods.items() if method.objective.name == kind)
        for n, arm in arms:
            figures.error_bars(axis, shift * n, found[arm, 1, "mean_velocity_error"], point(kind))
        axis.plot([shift * n for n, _ in arms], [found[arm, 1, "mean_velocity_error"].value for _, arm in arms], linewidth=0.7,
                  color=COLOURS[kind][0], marker=COLOURS[kind][1], markersize=5, label=f"{NAMES[kind].lower()} student")
    axis.set(xscale="log", yscale="log", xlabel="Euler steps of the teacher", ylabel="relative error of u(ε, 0, 1)",
             title="(a) Error against the teacher's steps")
    axis.set_xticks(steps, map(str, steps), minor=False)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter("{x:g}")
    axis.legend(loc="lower left", handlelength=2.5)


def draw_methods(axis: Axes, theory: Theory, found: dict) -> None:
    names = list(theory.methods)[::-1]
    for y, name in enumerate(names):
        value = found[f"{name}_w{theory.largest}", 1, "mean_velocity_error"]
        kind = theory.methods[name].objective.name
        axis.errorbar(value.value, y, xerr=None if math.isnan(value.half_width) else value.half_width, elinewidth=0.9,
                      ecolor=COLOURS[kind][0], **point(kind))
        if (steps := teacher_steps(theory.methods[name].objective)) in theory.euler_steps:
            axis.plot(found["euler", steps, "mean_velocity_error"].value, y, marker="|", color=figures.REFERENCE, markersize=9,
                      markeredgewidth=1.2)
    axis.set_yticks(range(len(names)), [label(name, theory.methods[name].objective) for name in names])
    axis.set(xscale="log", xlabel="relative error of u(ε, 0, 1)", ylim=(-0.6, len(names) - 0.4),
             title=f"(b) Each method, width {theory.largest}; grey: Euler's limit")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def draw_samples(flow_map: Axes, density: Axes, theory: Theory, samples: dict[tuple[str, int], np.ndarray],
                 given: Material) -> None:
    eps, order = given.noises.flatten().numpy(), np.argsort(given.noises.flatten().numpy())
    shown = [(given.truth.flatten().numpy(), {"color": "0.55", "linewidth": 2.6, "label": "true"})]
    for width, colour, style in ((theory.largest, figures.BLUE, "-"), (min(theory.widths), figures.VERMILION, (0, (3, 1)))):
        shown.append((samples[f"{theory.shown}_w{width}", theory.seeds[0]],
                      {"color": colour, "linestyle": style, "linewidth": 1.1, "label": f"width {width}"}))
    extent = 1.15 * (np.abs(given.exact.modes).max() + 2 * theory.data.sd)
    grid = np.linspace(-extent, extent, 241)
    for x, line in shown:
        flow_map.plot(eps[order], x[order], **line)
        density.plot(grid, gaussian_kde(x, KERNEL * theory.data.sd / x.std())(grid), **line)
    flow_map.set(xlabel="noise ε", ylabel="sample G(ε)", ylim=(-extent, extent), xlim=(-2.6, 2.6),
                 title=f"(c) {NAMES[theory.methods[theory.shown].objective.name]}: the map")
    density.set(xlabel="sample", ylabel="density", ylim=(0, None), title="(d) and its samples")
    flow_map.legend(loc="upper left", handlelength=1.8, borderaxespad=0.2)


def draw_widths(axis: Axes, theory: Theory, found: dict) -> None:
    widths, names = sorted(theory.widths), [name for name, method in theory.methods.items() if method.every_width]
    for name, shift in zip(names, np.geomspace(0.95, 1.05, len(names)) if len(names) > 1 else (1.0,)):
        kind = theory.methods[name].objective.name
        for metric, line, face in (("structure", "-", COLOURS[kind][0]), ("detail", (0, (3, 1)), "white")):
            values = [found[f"{name}_w{width}", 1, metric] for width in widths]
            for width, value in zip(widths, values):
                figures.error_bars(axis, shift * width, value, point(kind) | {"markerfacecolor": face, "markersize": 4})
            axis.plot([shift * width for width in widths], [value.value for value in values], color=COLOURS[kind][0],
                      linestyle=line, linewidth=0.9, zorder=1)
    for level in (0, 1):
        axis.axhline(level, color="0.3", linewidth=0.7)
    handles = [Line2D([], [], color=figures.REFERENCE, linestyle=line, marker="o", markersize=4, markerfacecolor=face,
                      label=text)
               for text, line, face in (("structure", "-", figures.REFERENCE), ("detail", (0, (3, 1)), "white"))]
    handles += [Line2D([], [], label=NAMES[theory.methods[name].objective.name], **point(theory.methods[name].objective.name))
                for name in names]
    low, high = axis.get_ylim()
    axis.set_ylim(low - 0.4 * (high - low), high + 0.03 * (high - low))
    axis.legend(handles=handles, loc="lower right", handlelength=2.2)
    axis.set(xscale="log", xlabel="width of the student", ylabel="kept of the true law", title="(e) Structure and detail")
    axis.set_xticks(widths, map(str, widths), minor=False)
    axis.xaxis.set_minor_locator(NullLocator())


def point(kind: str) -> dict:
    colour, marker = COLOURS[kind]
    return {"color": colour, "marker": marker, "markersize": 5, "linestyle": "none"}
