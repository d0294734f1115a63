"""Trajectory fidelity: exact students, closed forms, and the stage that measures a suite's arms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from hdbench.core.errors import UserError
from hdbench.core.pixels import load_images
from hdbench.core.seeds import sample_noise
from hdbench.metrics.fidelity import feature_distance, mean_squared_error
from hdbench.metrics.frechet import GaussianReference, distance, moments
from hdbench.report import tables
from hdbench.report.numbers import Numbers
from hdbench.stages import artifact
from tests.support.tiny import run_until, tiny_plan
from tests.unit.test_tables import synthetic

FIDELITY = {"evaluation.metrics": ["teacher_mse", "teacher_features"]}


def images(n: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(seed)).byte()


def test_the_exact_student_has_distance_zero():
    x = images(40, 0)
    features = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    for estimate in (mean_squared_error(x, x.clone()), feature_distance(features, features.copy())):
        assert estimate.value == 0 and not estimate.influence.any()


def test_mean_squared_error_is_torchs_over_any_number_of_batches():
    a, b = images(1203, 1), images(1203, 2)
    estimate = mean_squared_error(a, b)
    assert estimate.value == pytest.approx(F.mse_loss(a.double() / 255, b.double() / 255).item())
    assert estimate.influence.shape == (1203,) and abs(estimate.influence.mean()) < 1e-12


def test_independent_draws_of_one_normal_have_twice_its_variance_within_the_interval():
    """E|f - g|^2 = 2 tr Sigma; of 400 draws the 95% interval covers it 93 to 97% of the times."""
    rng = np.random.default_rng(3)
    scales = np.array([1.0, 2.0, 0.5])
    covered = []
    for _ in range(1000):
        f, g = (rng.normal(size=(400, 3)) * scales for _ in range(2))
        estimate = feature_distance(f, g)
        error = abs(estimate.value - 2 * (scales**2).sum())
        covered.append(error < 1.96 * estimate.standard_error)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_pairs_bound_the_frechet_distance_and_reach_it_under_the_optimal_map():
    """A symmetric positive map is optimal, so its pairs have the distance itself (Brenier)."""
    rng = np.random.default_rng(4)
    f = rng.normal(size=(500, 4))
    root = rng.normal(size=(4, 4))
    mapped = f @ (root @ root.T / 4 + np.eye(4)) + rng.normal(size=4)

    def frechet(a: np.ndarray, b: np.ndarray) -> float:
        mu_a = moments(a)[0]
        mu_b, sigma_b = moments(b)
        exact = GaussianReference.of_statistics(mu_b, sigma_b)
        shift = float(np.square(mu_a - mu_b).sum())
        return shift + (distance(a, exact) - shift) * (len(a) - 1) / len(a)  # 1/N, as pairs have

    assert feature_distance(f, mapped).value == pytest.approx(frechet(f, mapped), rel=1e-9)
    shuffled = mapped[rng.permutation(500)]
    assert feature_distance(f, shuffled).value > 1.1 * frechet(f, shuffled)


def test_samples_of_one_and_of_several_noises_start_from_the_same():
    one, four = (sample_noise((0, "sample"), range(3), (k, 1, 8, 8)) for k in (1, 4))
    assert torch.equal(one[:, 0], four[:, 0])


@pytest.mark.slow
def test_a_suite_measures_stage_1_against_its_teacher_and_other_ids_stay(tmp_path):
    before, plan = tiny_plan(tmp_path), tiny_plan(tmp_path, FIDELITY)
    new = plan.stages.keys() - before.stages.keys()
    assert before.stages.keys() < plan.stages.keys()
    assert all(plan.stages[id].kind == "evaluate" for id in new)
    measured = {(row.arm, row.steps): row.stages.get("evaluate fidelity") for row in plan.rows}
    stage_1 = {("teacher", 2), ("teacher", 4), ("td", 1), ("td", 2), ("cd", 1), ("cd", 2)}
    assert {key for key, stage in measured.items() if stage} == stage_1
    target = next(row for row in plan.rows if (row.arm, row.steps) == ("teacher", 4))
    for stage in filter(None, measured.values()):
        assert plan.stages[stage].parents["teacher"] == target.stages["sample"]

    values = {}
    for key in (("teacher", 4), ("td", 1), ("cd", 2)):
        run_until(plan, tmp_path, measured[key])
        table = pd.read_csv(artifact.folder(tmp_path, measured[key]) / "metrics.csv", index_col=0)
        assert table.index.tolist() == ["teacher_mse", "teacher_features"] and (table.n == 64).all()
        values[key] = table.value
    assert (values["teacher", 4] == 0).all()
    samples = {row.arm: row.stages["sample"] for row in plan.rows if row.steps in (1, 4)}
    (x, labels), (y, same) = (
        load_images(artifact.folder(tmp_path, samples[arm]) / "samples.npz")
        for arm in ("td", "teacher")
    )
    assert torch.equal(labels, same)
    by_hand = F.mse_loss(x.double() / 255, y.double() / 255).item()
    assert by_hand > 0 and values["td", 1].teacher_mse == pytest.approx(by_hand)
    assert (values["cd", 2] > 0).all()


def test_tables_have_the_columns_once_they_are_measured(tmp_path):
    plan = tiny_plan(tmp_path, FIDELITY)
    frame = synthetic(plan)
    none = Numbers(plan, frame, tmp_path)
    of_td = frame[(frame.metric == "fd_test_64") & (frame.arm == "td")].assign(
        metric="teacher_mse_64", value=0.125
    )
    some = Numbers(plan, pd.concat([frame, of_td]), tmp_path)
    for name, arm, title in (("components", "td", "MSE to teacher ↓"),
                             ("initialisation", "hd", "Start: MSE to teacher ↓")):  # fmt: skip
        titles = [column.title for column in tables.TABLES[name]().columns(none)]
        assert title not in titles
        columns = {column.title: column for column in tables.TABLES[name]().columns(some)}
        assert columns.keys() - titles == {title}
        assert columns[title].cell(some.entries(arm)[0]).value == 0.125
        assert np.isnan(columns[title].cell(some.entries("dmd")[0]).value)


def test_without_a_teacher_there_is_nothing_to_follow(tmp_path):
    with pytest.raises(UserError, match="compares with the teacher's samples, and no arm is"):
        tiny_plan(tmp_path, FIDELITY | {"arms": {"td": {"refine": None}}, "tables": {}})
