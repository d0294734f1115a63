"""What a suite's own classifier measures against."""

from __future__ import annotations

from hdbench.suite.schema import Suite
from hdbench.suite.stage import ClassifierStage, DataStage, ReferenceStage, Stage


def measuring(suite: Suite) -> dict[str, Stage]:
    """What the suite's own classifier measures against: data, classifier and reference."""
    label = suite.data.name
    parents = {"data": Stage.of("data", label, DataStage(dataset=suite.data), {})}
    trained = suite.classifier
    config = ClassifierStage(network=trained.network, seed=trained.seed, training=trained.training)
    parents["classifier"] = Stage.of("classifier", label, config, parents)
    config = ReferenceStage(samples=suite.evaluation.samples, bands=suite.evaluation.bands)
    parents["reference"] = Stage.of("reference", label, config, parents)
    return parents


def measured_by(suite: Suite) -> str:
    """`classifier:<digest>`: the protocol of a suite's numbers by its own classifier.

    The digest is of data, classifier and reference as the suite declares them; each chain's add its
    seed, which `[splits=chain]` says.  Numbers of any chains of one such protocol are comparable.
    """
    if suite.teacher.seed is not None:
        suite, splits = suite.of_chain(suite.teacher.seed), ""
    else:
        splits = "[splits=chain]" if suite.splits == "chain" else ""
    return f"classifier{splits}:{measuring(suite)['reference'].digest}"
