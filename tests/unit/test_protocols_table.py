"""One sample set under all protocols, side by side in four formats."""

import io
import math

import numpy as np
import pandas as pd
import pytest

from hdbench.evaluation.protocols import PROTOCOLS
from hdbench.evaluation.results import Evaluation, Result
from hdbench.metrics import Estimate
from hdbench.report import document
from hdbench.report.protocols import protocols_document, ratio

IDS = tuple(map(str, range(50)))


def evaluation(protocol: str, **values: tuple[float, np.ndarray]) -> Evaluation:
    results = {name: Result(Estimate(*estimate), IDS) for name, estimate in values.items()}
    return Evaluation(
        name="mine",
        protocol=f"{protocol}:abcdef",
        reference="abcdef" * 6,
        digest="d",
        results=results,
    )


@pytest.fixture
def measured():
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    return [
        (
            PROTOCOLS["torch_fidelity"],
            evaluation("torch_fidelity", fid=(8.0, x), inception_score=(20.0, x)),
        ),
        (PROTOCOLS["clean_fid"], evaluation("clean_fid", fid=(10.0, 1.5 * x))),
        (PROTOCOLS["fd_dinov2"], evaluation("fd_dinov2[dinov2=123]", fd_dinov2=(300.0, 9 * x))),
    ]


def test_equal_metrics_stand_together_with_what_made_them(measured):
    shown = protocols_document(measured)
    frame = pd.read_csv(io.StringIO(document.to_csv(shown)))
    assert frame.metric.tolist() == ["fid", "fid", "inception_score", "fd_dinov2"]
    assert frame.extractors.tolist()[:2] == ["inception_tensorflow", "inception_clean"]
    assert frame.preprocessing.nunique() == 3 and (frame.n == 50).all()
    reference = frame.set_index("metric").reference
    assert pd.isna(reference["inception_score"]) and reference["fd_dinov2"] == "abcdef" * 6
    assert frame.value.tolist() == [8.0, 10.0, 20.0, 300.0]
    assert frame.of_first.tolist() == [1.0, 1.25, 1.0, 1.0]
    text = document.to_markdown(shown)
    assert "TensorFlow 1's bilinear to 299" in text and "| fd_dinov2[dinov2=123]" in text
    assert all(protocol.about in text for protocol, _ in measured)
    assert "±" not in document.to_tex(shown) and "<table" in document.to_html(shown)


def test_the_ratio_of_two_protocols_has_the_interval_of_paired_samples(measured):
    first, second = (measured[k][1].results["fid"] for k in (0, 1))
    value, half = ratio(second, first)
    influence = 1.25 * (second.estimate.influence / 10 - first.estimate.influence / 8)
    assert value == 1.25 and half == pytest.approx(1.96 * influence.std(ddof=1) / 50**0.5)
    alone = 1.96 * second.estimate.standard_error / 8
    assert half < alone  # the samples' own error is in both
    other = second._replace(ids=tuple(reversed(IDS)))
    assert math.isnan(ratio(other, first).half_width) and ratio(other, first).value == 1.25
    below = first._replace(estimate=first.estimate._replace(value=-1.0))
    assert math.isnan(ratio(second, below).value)
