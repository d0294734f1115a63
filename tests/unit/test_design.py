"""Errors of a mean under a design, against their textbook formulas written out."""

from __future__ import annotations

import numpy as np
import pytest

from hdbench.core.errors import UserError
from hdbench.metrics import Design, Estimate, MetricInput, View, measure_metrics
from hdbench.metrics.comparison import paired_difference

VALUES = np.random.default_rng(0).normal(size=120) + 3 * (np.arange(120) % 4)


def within(labels: np.ndarray) -> float:
    """sqrt(sum_h n_h s_h^2) / N."""
    groups = [VALUES[labels == label] for label in set(labels.tolist())]
    return float(sum(len(v) * v.var(ddof=1) for v in groups) ** 0.5 / len(VALUES))


def test_independent_samples_have_the_usual_error():
    assert Design().standard_error(VALUES) == pytest.approx(VALUES.std(ddof=1) / 120**0.5)


def test_fixed_labels_leave_what_varies_within_them():
    labels = np.arange(120) % 4
    error = Design.of_labels(labels).standard_error(VALUES)
    assert error == pytest.approx(within(labels))
    assert error < 0.5 * Design().standard_error(VALUES)


def test_images_of_one_original_count_once():
    """sum_c t_c^2 C / (C - 1) / N^2 with the originals' totals t_c; copies say nothing new."""
    clusters = np.random.default_rng(1).integers(30, size=120)
    totals = np.array([(VALUES - VALUES.mean())[clusters == c].sum() for c in set(clusters)])
    expected = (totals @ totals * len(totals) / (len(totals) - 1)) ** 0.5 / 120
    assert Design(clusters=clusters).standard_error(VALUES) == pytest.approx(expected)
    copies = Design(clusters=np.tile(np.arange(120), 5)).standard_error(np.tile(VALUES, 5))
    assert copies == pytest.approx(Design().standard_error(VALUES))


def test_clusters_within_strata():
    strata = np.arange(120) // 60
    clusters = np.arange(120) // 5
    variance = 0.0
    for h in (0, 1):
        v = VALUES[strata == h]
        totals = (v - v.mean()).reshape(12, 5).sum(1)
        variance += totals @ totals * 12 / 11
    error = Design(strata, clusters).standard_error(VALUES)
    assert error == pytest.approx(variance**0.5 / 120)
    # equal numbers of clusters in two strata name different clusters
    assert Design(strata, clusters % 12).standard_error(VALUES) == pytest.approx(error)


def test_labels_of_one_sample_are_taken_together():
    """By group where there are any; a single one that is left goes to a neighbour."""
    alone = np.arange(120)
    plain = pytest.approx(Design().standard_error(VALUES))
    assert Design.of_labels(alone).standard_error(VALUES) == plain
    groups = np.arange(120) % 4
    by_group = Design.of_labels(alone, groups.tolist()).standard_error(VALUES)
    assert by_group == pytest.approx(within(groups))
    labels = np.where(alone < 118, alone // 59, alone)  # 0 and 1 59 times, 118 and 119 once
    assert Design.of_labels(labels).standard_error(VALUES) == pytest.approx(
        within(np.minimum(labels, 2))
    )
    labels = np.where(alone < 119, 0, 1)
    assert Design.of_labels(labels).standard_error(VALUES) == plain
    labels = np.where(alone < 119, alone // 60, 2)
    found = Design.of_labels(labels).standard_error(VALUES)
    assert found == pytest.approx(within(np.minimum(labels, 1)))


def test_labels_tell_whether_they_were_fixed():
    """Equally many of each, up to one, are no accident of a draw."""
    fixed = np.arange(118) % 4
    assert (Design.inferred(fixed).strata == fixed).all()
    drawn = np.random.default_rng(0).integers(4, size=118)
    assert Design.inferred(drawn) == Design()


def test_one_unit_has_no_error():
    assert np.isnan(Design().standard_error(np.ones(1)))
    assert np.isnan(Design(clusters=np.zeros(9, dtype=int)).standard_error(np.arange(9.0)))
    assert np.isnan(Design().standard_error(np.array([1.0, np.nan, 2.0])))


def test_metrics_and_differences_have_the_samples_design():
    """Also of some rows alone, and whatever order the other samples are in."""
    labels = np.arange(120) % 4
    x = np.random.default_rng(2).dirichlet(np.ones(4), size=120)
    sample = MetricInput(
        features=x,
        probabilities=x,
        wanted=labels,
        captions=[{"held_out": row < 40} for row in range(120)],
        design=Design.of_labels(labels),
    )
    estimates = measure_metrics(["accuracy", "accuracy_held_out"], sample)
    for name, rows in (("accuracy", slice(None)), ("accuracy_held_out", slice(40))):
        right = (x.argmax(1) == labels)[rows].astype(float)
        expected = Design(labels[rows]).standard_error(right)
        assert estimates[name].standard_error == pytest.approx(expected)
    a = estimates["accuracy"]
    b = Estimate(0.0, VALUES, design=a.design)
    ids = [str(row) for row in range(120)]
    order = np.random.default_rng(3).permutation(120)
    shuffled = Estimate(0.0, VALUES[order], design=b.design.take(order))
    difference = paired_difference(a, ids, shuffled, [ids[row] for row in order])
    expected = Design(labels).standard_error(a.influence - VALUES)
    assert difference.standard_error == pytest.approx(expected)


@pytest.mark.parametrize(("field", "what"), [("features", "sample"), ("reference", "image of the")])
def test_features_that_are_not_finite_are_said_to_be(field, what):
    arrays = {name: np.ones((9, 2)) for name in ("features", "reference")}
    arrays[field][4, 1] = np.nan
    with pytest.raises(UserError, match=f"features of {what}.* 4 are not finite; look at"):
        measure_metrics(["precision"], MetricInput(**arrays))
    view = View(**arrays)  # that of another network than the main one
    with pytest.raises(UserError, match=f"features of {what}.* 4 are not finite; look at"):
        measure_metrics(["mind"], MetricInput(views={"inception.2048": view}))
