"""Metrics: features -> statistics -> value, with the influence of each sample; one class for each.

Installed packages add theirs by the entry points `hdbench.metrics`; a suite measures one by naming
it in `evaluation.metrics`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hdbench.core.config import nearest
from hdbench.core.errors import UserError
from hdbench.core.registry import Registry
from hdbench.metrics.base import MAIN, Estimate, Metric, MetricInput, Settings, View, mean
from hdbench.metrics.calibration import CalibratedDistance, CovarianceTerm, Gain, MeanTerm
from hdbench.metrics.classification import Accuracy, AccuracyHeldOut, AccuracySeen, ClassifierScore
from hdbench.metrics.clip_score import ClipScore
from hdbench.metrics.design import INDEPENDENT, Design
from hdbench.metrics.factors import FactorAccuracy, FactorCoverage, FactorDistance, FactorMean
from hdbench.metrics.fdr import Fdr3, Fdr6, FdrOfEncoder
from hdbench.metrics.fidelity import TeacherFeatures, TeacherLpips, TeacherMse
from hdbench.metrics.frechet import (
    FdDinoV2,
    FdTest,
    FdTestOfCategory,
    FdTrain,
    Fid,
    FidOfCategory,
    SpatialFid,
)
from hdbench.metrics.inception_score import InceptionScore
from hdbench.metrics.kernel import Cmmd, KernelDistance
from hdbench.metrics.manifold import Coverage, Density, Precision, Recall
from hdbench.metrics.mind import Mind
from hdbench.metrics.preference import HpsV2, PickScore
from hdbench.metrics.scorers import DpgBench, GenEval, GenEvalTask, VqaScore
from hdbench.metrics.spectrum import BandPower

__all__ = [
    "INDEPENDENT",
    "MAIN",
    "METRICS",
    "Design",
    "Estimate",
    "Metric",
    "MetricInput",
    "Settings",
    "View",
    "error_of",
    "mean",
    "measure_metrics",
    "metric_of",
    "metrics_named",
]

METRICS = Registry(
    "hdbench.metrics",
    base=Metric,
    builtin=[
        FdTrain,
        FdTest,
        FdTestOfCategory,
        Fid,
        SpatialFid,
        FdDinoV2,
        Fdr6,
        Fdr3,
        FdrOfEncoder,
        FidOfCategory,
        KernelDistance,
        Cmmd,
        Mind,
        InceptionScore,
        Precision,
        Recall,
        Density,
        Coverage,
        Accuracy,
        AccuracySeen,
        AccuracyHeldOut,
        ClassifierScore,
        ClipScore,
        BandPower,
        TeacherMse,
        TeacherFeatures,
        FactorAccuracy,
        FactorCoverage,
        FactorMean,
        FactorDistance,
        MeanTerm,
        CovarianceTerm,
        Gain,
        CalibratedDistance,
        TeacherLpips,
        PickScore,
        HpsV2,
        GenEval,
        GenEvalTask,
        DpgBench,
        VqaScore,
    ],
)


def metric_of(name: str) -> type[Metric] | None:
    """The metric of a name with or without its sample count: `fd_train`, `power_band2_4k`.

    A metric of its own comes before a family: `fd_test_4k` is `fd_test`.  None for a name of no
    metric.
    """
    matching = [metric for metric in METRICS.values() if metric.matches(name)]
    return min(matching, key=lambda metric: metric.is_family(), default=None)


def error_of(name: str, estimate: Estimate) -> float:
    """The standard error that is written with a named metric's estimate."""
    metric = metric_of(name)
    return metric.error(estimate) if metric else estimate.standard_error


def metrics_named(names: Iterable[str]) -> tuple[str, ...]:
    """The named metrics, the name of a group standing for all of its metrics, each once."""
    groups: dict[str, list[str]] = {}
    for name, metric in METRICS.load().items():
        groups.setdefault(metric.group, []).append(name)
    named = (groups.get(name, [name]) if name != "protocol" else [name] for name in names)
    return tuple(dict.fromkeys(name for group in named for name in group))


def measure_metrics(names: Iterable[str], sample: MetricInput) -> dict[str, Estimate]:
    """The named metrics of a sample, in order; a metric without a meaning for it is left out.

    Raises UserError for an unknown name, for fewer samples than a metric takes or features that are
    not there, and for a metric that gives another's name or an influence not of the samples.
    """
    _check_finite(sample)
    estimates: dict[str, Estimate] = {}
    for name in names:
        if name not in METRICS.load():
            raise UserError(
                f"evaluation.metrics = {name!r}: no such metric" + nearest(name, METRICS)
            )
        _check_enough(METRICS[name], sample)
        for given, estimate in _measured(METRICS[name], sample).items():
            _check(METRICS[name], given, estimate, sample)
            estimates[given] = estimate._replace(design=sample.design.take(estimate.rows))
    return estimates


def _measured(metric: type[Metric], sample: MetricInput) -> dict[str, Estimate]:
    """`measure`; UserError for features that are not among the sample's views."""
    try:
        return metric().measure(sample)
    except KeyError as error:
        if (view := error.args[0]) not in {v for kind in METRICS.values() for v in kind.reads}:
            raise
        raise UserError(f"{metric.name}: needs the features {view} among the views") from None


def _check_enough(metric: type[Metric], sample: MetricInput) -> None:
    """UserError for fewer samples, or images of its reference, than a metric takes."""
    least, why = metric.least(sample.settings)
    counts = {"samples": sample.size}
    if metric.needs == "features" and sample.reference is not None:
        counts["images of the reference"] = len(sample.reference)
    for what, count in counts.items():
        if count < least:
            raise UserError(
                f"too few {what}, {count}: {metric.name} needs at least {least} for {why}"
            )


def _check_finite(sample: MetricInput) -> None:
    """UserError for features that are not finite, of which no metric has a meaning."""
    samples = [sample.features, *(view.features for view in sample.views.values())]
    references = [sample.reference, *(view.reference for view in sample.views.values())]
    sets = [("sample", x) for x in (*samples, *(sample.clip or ()))]
    sets += [("image of the reference", x) for x in references]
    checked = {id(x): (what, x) for what, x in sets if x is not None}  # views share arrays
    for what, features in checked.values():
        if not (finite := np.isfinite(features).all(1)).all():
            raise UserError(
                f"the features of {what} {int(finite.argmin())} are not finite; look at the image, "
                "and at the weights of the network that sees it"
            )


def _check(metric: type[Metric], name: str, estimate: Estimate, sample: MetricInput) -> None:
    where = f"metric {metric.name} ({metric.__module__}.{metric.__name__})"
    if not (metric.matches(name) if metric.is_family() else name == metric.name):
        raise UserError(
            f"{where}: its measure gives {name!r}, which is not its name; fix the metric"
        )
    if not isinstance(estimate, Estimate):
        raise UserError(f"{where}: its measure gives {estimate!r}, not an Estimate; fix the metric")
    rows = sample.size if estimate.rows is None else len(estimate.rows)
    if estimate.influence.shape != (rows,):
        raise UserError(
            f"{where}: its influence has the shape {estimate.influence.shape}, not ({rows},), one "
            "value for each sample; fix the metric"
        )
