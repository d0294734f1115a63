"""Planted changes have the size that their names say, and the table says which metric sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from hdbench.cli import main
from hdbench.datasets import TexturedDigits
from hdbench.evaluation.changes import BLUR, GAIN, NOISE, WRONG, Images, changes, confused, without
from hdbench.report.document import RENDERERS
from hdbench.report.numbers import Numbers
from hdbench.report.tables import TABLES, tables_of
from hdbench.report.tables.sensitivity import cell, with_changes
from hdbench.stages import artifact
from hdbench.stages.sensitivity import UNCHANGED
from tests.support.tiny import run_until, tiny_plan, write_suite
from tests.unit.test_tables import synthetic

TEXTURED = {
    "data": {"name": "textured_digits", "train": 600, "test": 300},
    "network.patch": 4,
    "evaluation": {"samples": 300, "metrics": ["factors"], "sensitivity": 300},
    "arms": {"real_test": {"trajectory": None, "refine": None, "real": "test"}},
    "tables": {},
}


@pytest.fixture(scope="module")
def real() -> Images:
    images, labels = TexturedDigits(train=400, test=2).build()["train"]
    return Images(images, labels, torch.arange(len(labels)))


def test_changes_have_the_sizes_that_their_names_say(real):
    changed = changes(real, real.labels, 0)
    levels = {name: images.double() for name, (images, _, _) in changed.items()}
    x = real.images.double()
    bright = x > 200
    ratio = levels[f"Gain × {GAIN}"][bright] / x[bright]
    assert ratio.mean() == pytest.approx(GAIN, abs=2e-3)
    middle = (x > 60) & (x < 190)  # where nothing is clipped
    noise = (levels[f"Noise of {NOISE} levels"] - x)[middle]
    assert noise.std() == pytest.approx(NOISE, rel=0.02) and abs(noise.mean()) < 0.1
    shifted = levels["Shift by 1 pixel"]
    assert torch.equal(shifted[..., 1:], x[..., :-1])
    blurred = levels[f"Blur of {BLUR} pixels"]
    kernel = np.exp(-0.5 * (np.arange(-2, 3) / BLUR) ** 2)
    expected = np.apply_along_axis(np.convolve, 3, x.numpy(), kernel / kernel.sum(), "same")
    expected = np.apply_along_axis(np.convolve, 2, expected, kernel / kernel.sum(), "same")
    inside = np.s_[:, :, 2:-2, 2:-2]
    np.testing.assert_allclose(blurred.numpy()[inside], expected[inside], atol=0.6)
    assert all(len(images) == len(labels) == 400 for images, labels, _ in changed.values())
    assert f"Gain × {GAIN}" not in changes(real, real.labels, None)


def test_classes_are_dropped_and_confused_and_samples_repeated(real):
    labels = real.labels
    kept = without(labels, 3)
    assert 3 not in labels[kept] and torch.equal(kept[labels != 3], torch.arange(400)[labels != 3])
    wrong = confused(labels)
    changed = wrong != torch.arange(400)
    assert torch.equal(changed.nonzero()[:, 0], torch.arange(0, 400, WRONG))
    assert (labels[wrong] != labels)[changed].all()
    assert torch.equal(wrong.sort().values, torch.arange(400))  # the same images, other labels
    by_name = changes(real, labels, 0)
    images, told, originals = by_name[f"Class wrong in 1 of {WRONG}"]
    assert torch.equal(told, labels) and torch.equal(images, real.images[wrong])
    assert torch.equal(originals, wrong)
    twice, same, originals = by_name["Half of them, twice"]
    assert torch.equal(twice[::2], twice[1::2]) and torch.equal(twice[::2], real.images[:200])
    assert torch.equal(same[::2], labels[:200])
    assert torch.equal(originals, torch.arange(200).repeat_interleave(2))  # not 400 draws


def test_changes_are_over_the_error_of_two_independent_sets():
    rows = [("unchanged", "a", 1.0, 0.3), ("dim", "a", 2.0, 0.4), ("unchanged", "b", 5.0, 0.0),
            ("dim", "b", 5.0, 0.0), ("unchanged", "c", 1.0, 0.1)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["change", "metric", "value", "se"]).assign(n=9)
    records = with_changes(frame).set_index(["metric", "change"])
    assert records.z["a", "dim"] == pytest.approx(1 / 0.5)
    assert records.z["b", "dim"] == 0  # not 0 / 0
    assert np.isnan(records.z["c", "dim"])
    assert [cell(z).text for z in (np.nan, 0.04, -3.21, 12.3)] == ["-", "0.0", "-3.2", "+12"]
    assert [cell(z).emphasis for z in (2.9, -3.0)] == ["", "bold"]


def test_a_suite_that_does_not_ask_has_no_stage_and_no_table(tmp_path):
    plan = tiny_plan(tmp_path, {"tables": {}})
    assert "sensitivity" not in tables_of(plan)
    assert not [stage for stage in plan.stages if stage.startswith("sensitivity/")]
    suite = write_suite(tmp_path, {"tables": ["sensitivity"]})
    result = CliRunner().invoke(main, ["plan", "--suite", str(suite)])
    assert result.exit_code == 2
    assert "tables.sensitivity: the suite has no evaluation.sensitivity" in result.output


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A folder with the suite's file and the results of all its stages, which train no arm."""
    folder = tmp_path_factory.mktemp("textured")
    plan = tiny_plan(folder, TEXTURED)
    for stage in plan.stages:
        if not artifact.exists(folder / "results", stage):
            run_until(plan, folder / "results", stage)
    return folder


@pytest.mark.slow
def test_a_suite_measures_what_its_metrics_see(measured, tmp_path):
    plan = tiny_plan(measured, TEXTURED)
    table = TABLES["sensitivity"]()
    document = table.document(Numbers(plan, synthetic(plan), measured / "results"))
    z = document.records.pivot(index="metric", columns="change", values="z")
    for metric, change in (
        ("factor_coverage_orientation", "Orientation: half of one turned"),
        ("factor_coverage_phase", "Phase: half of the circle"),
        ("factor_mean_coherence", "Phase: a quarter turn by quadrant"),
        ("factor_mean_contrast", "Contrast × 0.9"),
        ("factor_coverage_shift", "Shift by 1 pixel"),
        ("factor_coverage_digit", "One class missing"),
        ("factor_accuracy_digit", f"Class wrong in 1 of {WRONG}"),
        ("power_band4", f"Noise of {NOISE} levels"),
        ("recall", "Half of them, twice"),
    ):
        assert abs(z[change][metric]) > 3, metric
        if metric.startswith("factor"):  # and no reading moves with the gain
            assert abs(z[f"Gain × {GAIN}"][metric]) < 0.2, metric
    assert {UNCHANGED, "Copies of training images", "Images of test"} < set(z.columns)
    assert (z[UNCHANGED].dropna() == 0).all()
    texts = {kind: renderer(document) for kind, renderer in RENDERERS.items()}
    assert all("Orientation: half of one turned" in text for text in texts.values())
    missing = table.document(Numbers(plan, synthetic(plan), tmp_path))
    (stage,) = (stage for stage in plan.stages if stage.startswith("sensitivity/"))
    assert not missing.rows and missing.notes == [f"Not available: {stage} has not run here."]


@pytest.mark.slow
def test_the_command_writes_the_tables_beside_the_others(measured):
    options = ["--suite", str(measured / "tiny.yaml"), "--results", str(measured / "results")]
    for command in ("collect", "tables"):
        done = CliRunner().invoke(main, [command, *options])
        assert done.exit_code == 0, done.output
    folder = next((measured / "results").glob("tiny-*/tables"))
    assert "**" in (folder / "sensitivity.md").read_text(encoding="utf-8")
    factors = pd.read_csv(folder / "factors.csv", index_col="arm")
    distances = pd.read_csv(folder / "distances.csv", index_col="arm")
    assert factors.factor_accuracy_digit_300["real_test"] > 0.95
    assert 2 / 3 < distances.gain_300["real_test"] < 1.5
    terms = distances[["fd_mean_train_300", "fd_covariance_train_300"]].loc["real_test"]
    assert terms.sum() == pytest.approx(distances.fd_train_300["real_test"])


@pytest.mark.slow
def test_errors_are_those_of_originals_and_the_table_says_which_chain(measured):
    plan = tiny_plan(measured, TEXTURED)
    shown = TABLES["sensitivity"]().document(Numbers(plan, synthetic(plan), measured / "results"))
    assert any("those of chain 0 alone" in note for note in shown.notes)
    records = shown.records.set_index(["metric", "change"])
    data = plan.suite.of_chain(0).data
    contrast = data.read_factors(data.build()["train"][0][300:])["contrast"][:, 0] / data.contrast
    originals = data.originals_of("train")[300:]
    frame = pd.DataFrame({"value": contrast - contrast.mean(), "original": originals})
    totals = frame.groupby("original").value.sum()
    error = (len(totals) / (len(totals) - 1) * (totals**2).sum()) ** 0.5 / len(contrast)
    assert len(totals) < 300
    assert records.se["factor_mean_contrast", UNCHANGED] == pytest.approx(error, rel=1e-6)
    twice = records.se["factor_mean_contrast", "Half of them, twice"]
    assert twice > 1.2 * error  # 150 images, not 300
