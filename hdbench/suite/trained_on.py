"""A metric decides nothing about a model that was trained on the metric's own features.

Such a metric is a training loss, and a generator can please its network without looking better:
FD-Loss (arXiv 2604.28190) on pMF-H has an FID of 0.77, where real images have 1.68, and an FDr3 of
2.69, where they have 1 (both as MGFlow's authors report them).  Objectives and heads say what they
train on (`trains_on`), metrics what they read (`reads`).
"""

from __future__ import annotations

from collections.abc import Iterable

from hdbench.evaluation.extractors import EXTRACTORS
from hdbench.evaluation.protocols import PROTOCOLS
from hdbench.methods import OBJECTIVES
from hdbench.methods.base import Objective
from hdbench.methods.discriminators import HEADS, Head
from hdbench.metrics import MAIN, metric_of
from hdbench.suite.plan import Plan
from hdbench.suite.stage import classes_of

KINDS = (OBJECTIVES, HEADS)
CLASSIFIER = "classifier"  # the suite's own, the main network of the protocol of that name


def trained_on(plan: Plan, arm: str) -> frozenset[str]:
    """Networks of metrics whose features a training stage of the arm, or of its parents, sees."""
    rows = [stage for row in plan.rows if row.arm == arm for stage in row.stages.values()]
    classes = [
        cls
        for stage in plan.needed_for(rows)
        for cls in classes_of(plan.stages[stage].config).values()
    ]
    trained = [cls.trains_on for cls in classes if issubclass(cls, Objective | Head)]
    return frozenset(network for networks in trained for network in networks)


def read_by(plan: Plan, metric: str) -> frozenset[str]:
    """Networks that decide a metric of the suite, by its name with or without its count."""
    kind = metric_of(metric)
    protocol = PROTOCOLS[plan.suite.evaluation.protocol]
    networks = set()
    for feature in kind.reads if kind else ():
        name = feature.rpartition(".")[0]
        if feature == MAIN:
            name = protocol.extractors[0] if protocol.extractors else CLASSIFIER
        if name in EXTRACTORS:
            networks |= {EXTRACTORS[name].network, *EXTRACTORS[name].relatives}
        else:
            networks.add(name)
    return frozenset(networks)


def shared(plan: Plan, arm: str, metric: str) -> frozenset[str]:
    """Networks that the arm trains on and the metric reads; empty where the metric may decide."""
    declared = {name for kind in KINDS for cls in kind.values() for name in cls.trains_on}
    read = read_by(plan, metric) & declared  # most often empty, and then no stage is looked at
    return read & trained_on(plan, arm) if read and arm in plan.arms else frozenset()


def refusal(plan: Plan, arms: Iterable[str], metric: str) -> str:
    """Why a metric may not decide about arms, in a sentence; empty if it may."""
    for arm in arms:
        if networks := shared(plan, arm, metric):
            return (
                f"{arm} was trained on the features of {' and '.join(sorted(networks))}, which "
                f"{metric} reads: a metric that is a training loss decides nothing; test one of "
                "other networks."
            )
    return ""
