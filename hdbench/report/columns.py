"""Columns of tables, and those that several tables have."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hdbench.evaluation.protocols import PROTOCOLS
from hdbench.metrics import METRICS, metric_of
from hdbench.metrics.records import MISSING, Interval
from hdbench.report.document import for_people
from hdbench.report.latency import FULL, SINGLE
from hdbench.report.numbers import Entry, Numbers
from hdbench.suite.arms import describe, head_name, initialisation, is_reconstruction, settings
from hdbench.suite.plan import Plan

ARROWS = {"lower": " ↓", "higher": " ↑", None: ""}
Value = Interval | str | int


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its name in csv, its title for people, and the value of an entry."""

    key: str
    title: str  # "": in csv alone
    cell: Callable[[Entry], Value]
    scale: float = 1.0  # of values for people; csv has them as they are
    expected: bool = False  # a missing value gets a footnote
    signed: bool = False
    marked: bool = False  # a row's † is repeated here for people

    def for_people(self, cell: Value) -> str:
        return for_people(cell, self.scale, self.signed, exact=self.expected)


def dagger(head: str | None) -> str:
    """The mark of a head that is a reconstruction."""
    return "†" if is_reconstruction(head) else ""


def metric(numbers: Numbers, name: str, title: str) -> Column:
    """A metric of the whole sample; " N" in the title becomes the number of samples."""
    key = numbers.counted(name)
    title = title.replace(" N", key.removeprefix(name).replace("_", " "))
    return Column(key=key, title=title, cell=lambda e: numbers(e, key), expected=True)


def parts(numbers: Numbers, prefix: str, what: str = "") -> list[Column]:
    """Metrics of parts of the sample, those whose names begin with `prefix`."""
    names = {key.rpartition("_")[0] for key in set(numbers.frame.metric) if key.startswith(prefix)}
    return [
        Column(
            key=name,
            title=what + name.removeprefix(prefix).replace("_", " ").capitalize(),
            cell=lambda e, name=name: numbers.part(e, name),
        )
        for name in sorted(names - {prefix[:-1]})
    ]


def cost(numbers: Numbers, key: str, title: str, scale: float = 1.0) -> Column:
    """A cost of training or sampling, for people times `scale`."""
    return Column(key=key, title=title, cell=lambda e: numbers(e, key), scale=scale)


def text(key: str, title: str, of: Callable[[Entry], Value]) -> Column:
    return Column(key=key, title=title, cell=of)


def method(numbers: Numbers) -> Column:
    return text("method", "Method", lambda e: describe(numbers.plan, e.arm))


def head(numbers: Numbers) -> Column:
    """The discriminator head, and what an arm changes of its GAN."""
    plan = numbers.plan

    def cell(e: Entry) -> str:
        gan = settings(plan, e.arm, ("refine", "objective", "gan"))
        return ", ".join([head_name(plan.arms[e.arm]), *gan])

    return Column(key="head", title="Head", cell=cell, marked=True)


def start(numbers: Numbers) -> Column:
    arms = numbers.plan.arms

    def cell(e: Entry) -> str:
        return "-" if arms[e.arm].real else initialisation(arms[e.arm])

    return text("initialisation", "Initialisation", cell)


def steps() -> Column:
    return text("steps", "Steps", lambda e: e.steps or "-")


def nfe() -> Column:
    return text("nfe", "NFE", lambda e: e.nfe or "-")


def chains(numbers: Numbers) -> Column:
    arms = numbers.plan.arms
    return text("chains", "Chains", lambda e: "-" if arms[e.arm].real else numbers.chains(e)[0])


def stage_two_steps(numbers: Numbers) -> Column:
    arms = numbers.plan.arms
    return text(
        "budget", "Stage-2 steps", lambda e: arms[e.arm].refine.steps if arms[e.arm].refine else "-"
    )


def measured(numbers: Numbers, name: str) -> Column:
    """A metric, titled by its class."""
    kind = METRICS[name]
    count = " N" if kind.counted else ""
    return metric(numbers, name, f"{kind.title}{count}{ARROWS[kind.better]}")


def quality(numbers: Numbers) -> list[Column]:
    """The metrics of the suite's protocol; its density and coverage where they were measured."""
    protocol = PROTOCOLS[numbers.plan.suite.evaluation.protocol]
    beside = [name for name in ("density", "coverage") if name in protocol.metrics]
    return [*(measured(numbers, name) for name in protocol.quality), *further(numbers, beside)]


def distance(numbers: Numbers) -> Column:
    """The metric by which arms are compared."""
    return measured(numbers, numbers.distance)


def fidelity(
    numbers: Numbers, of: Callable[[Entry], Entry | None] = lambda e: e, prefix: str = ""
) -> list[Column]:
    """Distances of an entry, or of another that it names, to the teacher's samples, if measured."""
    names = [name for name in numbers.plan.suite.evaluation.metrics if METRICS[name].paired]
    columns = [measured(numbers, name) for name in names]

    def cell(e: Entry, key: str) -> Interval:
        entry = of(e)
        return MISSING if entry is None else numbers(entry, key)

    return [
        replace(
            column,
            title=prefix + column.title,
            cell=lambda e, key=column.key: cell(e, key),
            expected=False,
        )
        for column in columns
        if column.key in set(numbers.frame.metric)
    ]


def further(numbers: Numbers, names: Sequence[str]) -> list[Column]:
    """Those of further metrics that the file of numbers has, families member by member."""
    count = numbers.counted("")
    have = [key.removesuffix(count) for key in dict.fromkeys(numbers.frame.metric)]
    columns = []
    for kind in (METRICS[name] for name in names):
        for name in (name for name in have if metric_of(name) is kind):
            column = metric(numbers, name, kind.title_of(name) + ARROWS[kind.better])
            columns.append(replace(column, expected=False))
    return columns


def power(numbers: Numbers) -> list[Column]:
    """Power in bands of radial frequency, low to high, of suites with a classifier."""
    suite = numbers.plan.suite
    bands = range(1, suite.evaluation.bands + 1) if suite.classifier else ()
    return [metric(numbers, f"power_band{band}", f"Band {band}") for band in bands]


def scores(numbers: Numbers) -> list[Column]:
    """What the suite's own classifier and CLIP say of samples, or the models that it names."""
    suite = numbers.plan.suite
    if not suite.classifier:
        names = [name for name in suite.evaluation.metrics if not METRICS[name].paired]
        return [measured(numbers, name) for name in names]
    names = {"accuracy": "Accuracy ↑", "classifier_score": "Score ↑"}
    names |= {"clip_score": "CLIP score ↑"} if suite.text else {}
    return [metric(numbers, name, title) for name, title in names.items()]


def training(numbers: Numbers) -> Column:
    return cost(numbers, "training_forward_equivalents", "Training, kFE", 1e-3)


def tuning(numbers: Numbers) -> list[Column]:
    """How many settings were tried for an arm, and the compute of these; of suites with any."""
    tuned = numbers.plan.suite.tuned

    def trials(e: Entry) -> Value:
        return tuned[e.arm].choice.trials if e.arm in tuned else "-"

    def compute(e: Entry) -> Value:
        known = e.arm in tuned
        return Interval(tuned[e.arm].choice.forward_equivalents, math.nan) if known else MISSING

    columns = [
        text("trials", "Trials", trials),
        Column(key="tuning_cost", title="Tuning, kFE", cell=compute, scale=1e-3),
    ]
    return columns if tuned else []


def head_parameters(numbers: Numbers) -> Column:
    return cost(numbers, "head_parameters", "Head parameters")


def flops(numbers: Numbers) -> Column:
    return cost(numbers, "sampling_flops", "MFLOPs/image", 1e-6)


def latencies(numbers: Numbers) -> list[Column]:
    """If `hdbench latency` has measured them; the same in every chain, so without an interval."""
    titles = {SINGLE: "ms, batch 1", FULL: "ms/image, full batch"}
    known = set(numbers.frame.metric)

    def cell(e: Entry, key: str) -> Interval:
        return Interval(numbers(e, key).value, math.nan)

    return [
        text(key, title, lambda e, key=key: cell(e, key))
        for key, title in titles.items()
        if key in known
    ]


def speed(numbers: Numbers) -> Column:
    return cost(numbers, "milliseconds_per_sample", "ms/image")


def against(
    numbers: Numbers, reference: Callable[[Plan, str], str | None], to: str, suffix: str = ""
) -> list[Column]:
    """Paired difference of the distance to the arm that `reference` names for an entry's arm.

    Titled `Δ FD test to <to>`; in csv alone a second column, that arm's name.
    """
    plan = numbers.plan
    title = METRICS[numbers.distance].title

    def cell(e: Entry) -> Value:
        other = reference(plan, e.arm)
        if other is None or plan.arms[e.arm].real:
            return MISSING
        compared = numbers.entries(other)[0]
        return "reference" if compared == e else numbers.difference(e, compared, numbers.distance)

    return [
        Column(
            key=numbers.counted(f"difference_{numbers.distance}") + suffix,
            title=f"Δ {title} to {to}",
            cell=cell,
            signed=True,
        ),
        text(f"difference_against{suffix}", "", lambda e: reference(plan, e.arm) or ""),
    ]


def component(numbers: Numbers, name: str, title: str) -> Column:
    """A component of the scatter of single chains' distances, see `Numbers.components`."""
    key = numbers.counted(numbers.distance)

    def cell(e: Entry) -> Interval:
        return Interval(numbers.components(e, key)[name], math.nan)

    return text(f"{key}_{name}", title, cell)
