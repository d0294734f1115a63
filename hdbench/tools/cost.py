"""What a run will cost, before it is run: GPU hours or core-hours, and disk, by rule, from the model in workflow/cost.yaml.

A stage's FLOPs are forward-equivalents, each objective's own count, times those of one forward (collect.forward_flops):
    GPU seconds = sum over precisions of FLOPs / (peak * utilisation) + seconds in which the GPU waits for the CPU
What a forward-mode pass goes through is float32 in any precision: with k tangents a sample also k forwards and their 2k
backwards.  Gradient checkpointing computes half of all other backwards again, as forwards.  Heads, data loading and queues are
not counted.

Suites without latents run on CPUs: core-seconds are those of the same stage in a committed paper_tables/*/run.json, or else
FLOPs at the median pace of the plan's measured stages of its kind, or at the model's rate of a core.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tabulate import tabulate

from hdbench.core.errors import UserError
from hdbench.methods.base import Passes, total
from hdbench.suite.plan import Plan
from hdbench.suite.stage import KINDS, Stage
from hdbench.tools.cost_model import MODEL, CostModel

WIDTH = 118
ITEM = {"float16": 2, "bfloat16": 2, "float32": 4}  # bytes
SPATIAL = 7 * 17 * 17  # sFID's features of an image


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of a stage: FLOPs by precision, seconds that a GPU waits, bytes that stay, and bytes of its checkpoint while it runs."""

    flops: Mapping[str, float] = field(default_factory=dict)
    waiting: float = 0.0
    disk: float = 0.0
    checkpoint: float = 0.0


def by_precision(
    passes: Mapping[str, Passes], precision: str, checkpointing: bool
) -> dict[str, float]:
    """Forwards of a sample and step; `passes` are an objective's own."""
    tangents = sum(kinds.tangent for kinds in passes.values())
    backwards = sum(kinds.backward for kinds in passes.values())
    again = (backwards - 2 * tangents) / 2 if checkpointing else 0
    found = Counter({"float32": 4 * tangents})
    found[precision] += total(passes) - 4 * tangents + again
    return dict(found)


class Costs:
    """The cost of a plan's stages; a method for each kind."""

    def __init__(self, plan: Plan, model: CostModel):
        from hdbench.tools.memory import Memory

        self.plan, self.model, self.memory, self.data = plan, model, Memory(plan), plan.suite.data
        self.autoencoder = self.data.autoencoder if self.data.stored == "latents" else None
        self.nfe = {row.stages["sample"]: row.nfe for row in plan.rows}

    def of(self, stage: Stage) -> Cost:
        return getattr(self, f"_{stage.kind}")(stage)

    def forward(self, stage: Stage) -> int:
        """FLOPs of one forward of the stage's network; every student has its embedding of t - r, and counts as one."""
        from hdbench.networks.flops import forward_flops

        config, text = stage.config.network, self.plan.suite.text
        return forward_flops(
            config,
            self.data.image_size,
            self.data.channels,
            self.data.classes,
            stage.kind != "teacher",
            text.tokens if text else 0,
        )

    def latent(self, images: int, item: int = 4) -> int:
        """Bytes of so many x."""
        return images * self.data.channels * self.data.image_size**2 * item

    def images(self) -> int:
        """In the training data; UserError where the model does not say."""
        if not self.autoencoder:
            return self.data.counts["train"]
        source, known = self.data.source, self.model.images
        if not (found := [n for pattern, n in known.items() if fnmatch(source, pattern)]):
            raise UserError(
                f"images: nothing in the cost model fits data.source = {source!r}, only {', '.join(known)}; add "
                "how many images it has"
            )
        return found[0]

    def decoded(self, part: str, images: float) -> float:
        """FLOPs of encoding or decoding so many images."""
        cost = self.model.autoencoders[self.autoencoder.name]
        return images * getattr(cost, part) * (self.data.resolution / cost.resolution) ** 2

    def _data(self, stage: Stage) -> Cost:
        n = self.images()
        if not self.autoencoder:
            every = sum(self.data.counts.values())
            return Cost(disk=self.latent(every, item=1) + 8 * every)
        sides = 1 + self.data.flips
        return Cost(
            flops={"tfloat32": self.decoded("encode", n * sides)},
            disk=self.latent(n * sides, ITEM[self.data.dtype]) + 8 * n,
        )

    def _trained(self, stage: Stage) -> Cost:
        training = stage.training
        held = self.memory.held(stage, training)
        generator = stage.kind not in ("classifier", "clip")
        flops = self.forward(stage) if generator else self.small_forward(stage)
        guided = self.plan.suite.teacher.guidance.active
        passes = training.objective.passes(self.plan.suite.network.depth, guided)
        forwards = by_precision(passes, training.precision, training.gradient_checkpointing)
        return Cost(
            flops={
                kind: flops * training.steps * training.batch * count
                for kind, count in forwards.items()
            },
            disk=4 * held.student,
            checkpoint=held.checkpoint,
        )

    _classifier = _clip = _trajectory = _refine = _trained

    def small_forward(self, stage: Stage) -> int:
        """FLOPs of one forward of a classifier or a CLIP trained in the DAG."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        from hdbench.tools.memory import student_of

        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            x = torch.empty(1, self.data.channels, self.data.image_size, self.data.image_size)
            captions = (
                [torch.empty(1, self.plan.suite.text.tokens, dtype=torch.int64)]
                if stage.kind == "clip"
                else []
            )
            student_of(self.plan, stage)(x, *captions)
        return counter.get_total_flops()

    def _teacher(self, stage: Stage) -> Cost:
        if stage.training:
            return self._trained(stage)
        from hdbench.methods.discriminators import parameter_count

        return Cost(disk=4 * parameter_count(self.memory.network(stage.config.network, False)))

    def _text(self, stage: Stage) -> Cost:
        if not self.autoencoder:
            return Cost()
        suite, encoder = self.plan.suite, self.model.text_encoder
        prompts = self.images() + suite.evaluation.samples
        return Cost(
            flops={"bfloat16": prompts * encoder.tokens * encoder.flops_per_token},
            disk=prompts
            * encoder.tokens_kept
            * suite.network.caption_width
            * ITEM[suite.text.dtype],
        )

    def _pairs(self, stage: Stage) -> Cost:
        n, evaluations = stage.config.count, stage.config.guidance.evaluations
        return Cost(
            flops={"float32": n * stage.config.steps * evaluations * self.forward(stage)},
            disk=2 * self.latent(n) + 8 * n,
        )

    def _sample(self, stage: Stage) -> Cost:
        n = stage.config.samples
        flops = (
            {"float32": n * self.nfe[stage.id] * self.forward(stage)} if self.nfe[stage.id] else {}
        )
        if not self.autoencoder:
            return Cost(flops=flops, disk=self.latent(n, item=1) + 8 * n)
        pixels, png = n * self.data.resolution**2, self.model.png
        return Cost(
            flops=flops | {"tfloat32": self.decoded("decode", n)},
            disk=pixels * png.bytes_per_pixel,
            waiting=1e-9 * pixels * png.write_nanoseconds_per_pixel,
        )

    def _reference(self, stage: Stage) -> Cost:
        return self._measured(
            stage, 3 * stage.config.samples if self.plan.suite.classifier else None
        )

    def _evaluate(self, stage: Stage) -> Cost:
        return self._measured(stage, self.plan.suite.evaluation.samples)

    def _measured(self, stage: Stage, n: int | None) -> Cost:
        """n images through the extractors; None: a reference of unknown size, taken for as large as the samples."""
        if self.plan.suite.classifier:
            network = next(
                other for other in self.plan.stages.values() if other.kind == "classifier"
            )
            return Cost(flops={"float32": n * self.small_forward(network)})
        from hdbench.evaluation.protocols import protocol_named

        evaluation, model = self.plan.suite.evaluation, self.model
        protocol, n = protocol_named(evaluation.protocol), n or evaluation.samples
        clip = protocol.prompts and stage.kind == "evaluate"
        distances = len(protocol.layers) + 10 * protocol.categories
        numbers = 2048 + SPATIAL * ("spatial" in protocol.layers) + 2 * 768 * clip
        reading = 1e-9 * n * self.data.resolution**2 * model.png.read_nanoseconds_per_pixel
        return Cost(
            flops={
                "tfloat32": n * model.extractors.inception,
                "float32": n * model.extractors.clip * clip,
            },
            waiting=reading + model.frechet_seconds * distances,
            disk=4 * n * numbers,
        )


def measured_seconds(tables: Path) -> dict[str, float]:
    """Core-seconds of stages by id, of all runs whose run.json stands beside their tables."""
    found = {}
    for path in sorted(tables.glob("*/run.json")):
        try:
            stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
            found |= {stage["id"]: float(stage["core_seconds"]) for stage in stages}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: not the manifest of a run ({error!r}); make it with `hdbench collect`"
            ) from None
    return found


class Estimate(NamedTuple):
    """By stage its cost and seconds, of a GPU or a core; `how` many are measured, at a measured pace, or counted."""

    costs: dict[str, Cost]
    seconds: dict[str, float]
    how: dict[str, int]


def estimate(plan: Plan, stages: Iterable[str], model: CostModel, tables: Path) -> Estimate:
    costs = Costs(plan, model)
    if costs.autoencoder:
        found = {stage: costs.of(plan.stage(stage)) for stage in stages}
        return Estimate(
            found,
            {stage: model.seconds(cost.flops) + cost.waiting for stage, cost in found.items()},
            {},
        )
    found, measured, paces, how, seconds = {}, measured_seconds(tables), {}, Counter(), {}
    for stage in plan.stages.values():
        found[stage.id] = costs.of(stage)
        if stage.id in measured and (flops := sum(found[stage.id].flops.values())):
            paces.setdefault(stage.kind, []).append(measured[stage.id] / flops)
    for stage in map(plan.stage, stages):
        how[
            "measured" if stage.id in measured else "alike" if stage.kind in paces else "counted"
        ] += 1
        pace = median(paces.get(stage.kind, [1 / (1e9 * model.cpu.gflops)]))
        seconds[stage.id] = measured.get(stage.id, pace * sum(found[stage.id].flops.values()))
    return Estimate(found, seconds, dict(how))


def to_do(plan: Plan, results: Path) -> list[str]:
    """The plan's stages that are not done."""
    from hdbench.stages import artifact

    return [stage for stage in plan.stages if not artifact.exists(results, stage)]


def number(value: float) -> str:
    """At most two decimals, none from 100."""
    return (
        "0"
        if value == 0
        else "<0.01"
        if value < 0.005
        else f"{value:,.0f}"
        if value >= 100
        else f"{value:.2f}"
    )


def report(
    plan: Plan, stages: Iterable[str], model: CostModel, tables: Path, local: int = 0
) -> str:
    """A table by rule of these stages, with totals, and what was assumed; `local` jobs collect and render."""
    stages = list(stages)
    found, rows = estimate(plan, stages, model, tables), []
    for kind in KINDS:
        if own := [stage for stage in stages if plan.stage(stage).kind == kind]:
            costs = [found.costs[stage] for stage in own]
            rows.append(
                [
                    kind,
                    len(own),
                    sum(found.seconds[stage] for stage in own) / 3600,
                    sum(cost.disk for cost in costs) / 1e9,
                    max(cost.checkpoint for cost in costs) / 1e9,
                ]
            )
    rows += [["local rules", local, 0, 0, 0]] if local else []
    totals = [sum(column) for column in list(zip(*rows))[1:4]] or [0, 0, 0]
    rows.append(["total", *totals, max((row[4] for row in rows), default=0)])
    cells = [[kind, f"{jobs:,}", *map(number, numbers)] for kind, jobs, *numbers in rows]
    unit = "GPU hours" if plan.suite.data.stored == "latents" else "core-hours"
    table = tabulate(
        cells,
        ["rule", "jobs", unit, "disk GB", "checkpoint GB a job"],
        disable_numparse=True,
        colalign=("left", *["right"] * 4),
    )
    said = assumptions(plan, model, found) if stages else "All stages are done."
    return "\n".join(
        [f"{plan.stem}, what is still to do, by {MODEL}:", table, *textwrap.wrap(said, WIDTH)]
    )


def assumptions(plan: Plan, model: CostModel, found: Estimate) -> str:
    if plan.suite.data.stored == "memory":
        texts = {
            "measured": "measured before",
            "alike": "at the pace of measured ones of their kind",
            "counted": f"counted, at {model.cpu.gflops:g} GFLOP/s a core",
        }
        how = "; ".join(
            f"{text}: {found.how[kind]}" for kind, text in texts.items() if kind in found.how
        )
        return f"Stages {how}. The start of each process, some seconds, comes on top."
    used = ", ".join(
        f"{100 * getattr(model.utilisation, kind):.0f}% of {peak:g} TFLOP/s in {kind}"
        for kind, peak in model.gpus[model.gpu].peak.items()
    )
    return (
        f"Assumed: {model.gpu} ({used}), no loss with several a job; {Costs(plan, model).images():,} images of data; "
        f"PNG of {model.png.bytes_per_pixel:g} bytes a pixel. "
        "A checkpoint goes when its job is done; there are two while it is saved. Start with --config device=cuda; "
        f"`hdbench doctor --suite {plan.given}` says what must be there."
    )


def memory_report(plan: Plan, model: CostModel) -> str:
    """Of each different training stage the bytes on each GPU, in GB: hdbench.tools.memory."""
    from hdbench.tools.memory import Memory

    memory, rows = Memory(plan), {}
    for stage in plan.stages.values():
        if not (training := stage.training):
            continue
        parts = {
            **memory.held(stage, training).bytes(),
            "activations": memory.activations(stage, training),
        }
        names = (stage.kind, training.objective.name, (training.objective.head() or ("-",))[0])
        rows.setdefault((*names, memory.rows(training), tuple(parts.values())), parts)
    cells = []
    for (*names, _), parts in rows.items():
        known, total = (
            [value for value in parts.values() if value is not None],
            sum(filter(None, parts.values())),
        )
        cells.append(
            [
                *names,
                *("-" if value is None else number(value / 1e9) for value in parts.values()),
                ">" * (len(known) < len(parts)) + number(total / 1e9),
            ]
        )
    headers = ["rule", "objective", "head", "rows", *next(iter(rows.values()), {}), "total GB"]
    text = (
        f"On each GPU, in replicas (an {model.gpu} has {model.gpus[model.gpu].memory:g} GB); with sharding=fsdp2 over R "
        "ranks all but teacher and activations is divided by R. Rows: of a micro-batch. Activations by formula, without "
        "torch.compile, heads, passes without gradient and fragmentation: leave a fifth for them; '-': not counted for "
        "this network."
    )
    table = tabulate(
        cells,
        headers,
        disable_numparse=True,
        colalign=("left",) * 3 + ("right",) * (len(headers) - 3),
    )
    return "\n".join([table, *textwrap.wrap(text, WIDTH)])
