"""Targets along the teacher's own trajectory, against the exact flow map and Euler's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hdbench.core.config import validate
from hdbench.core.errors import UserError
from hdbench.core.seeds import Draws
from hdbench.flow.path import expand
from hdbench.methods import Boot
from hdbench.methods.trajectory.boot import lagrangian_residual
from hdbench.suite.schema import Arm
from tests.science.test_objectives import normal, rng
from tests.science.test_trajectory import DATA, Known, only_update, rms
from tests.support.oracles import Mixture, a_gaussian, uniform_times


class EulerMap(nn.Module):
    """u(z, r, t) of K Euler steps of the exact velocity; r and t (B,) on the grid of 1/K."""

    def __init__(self, oracle: Mixture, intervals: int):
        super().__init__()
        self.oracle, self.intervals = oracle, intervals

    def forward(self, z: Tensor, r: Tensor, t: Tensor, c: Tensor) -> Tensor:
        start, place, h = z, t.double(), 1 / self.intervals
        while (left := place - r > h / 2).any():
            step = z - h * self.oracle.v(z, place)
            z, place = torch.where(expand(left), step, z), torch.where(left, place - h, place)
        same = t == r
        mean = (start - z) / expand(torch.where(same, 1.0, t - r))
        return torch.where(expand(same), self.oracle.v(z, t.double()), mean)


def boot_batch(intervals: int, n: int = 64) -> dict[str, Tensor]:
    update = only_update(Boot(intervals=intervals), Known(a_gaussian()))
    zeros = torch.zeros(10, dtype=torch.long)
    b = update.draw(Draws((0,), torch.zeros(10, 1, 2, 3), zeros, n))
    return {
        name: drawn.double() if drawn.is_floating_point() else drawn for name, drawn in b.items()
    }


def test_boot_draws_noise_and_the_grid_and_no_data():
    b = boot_batch(8, 4000)
    assert b.keys() == {"c", "eps", "q", "r"}
    torch.testing.assert_close(b["r"] - b["q"], torch.full((4000,), 1 / 8).double())
    places = (8 * b["r"]).round().long().bincount()
    assert places[0] == 0 and places[1:8].min() > 300 and places[8] > 1000  # and the boundary


def boot_loss(student: nn.Module, oracle: Mixture) -> float:
    update = only_update(Boot(intervals=8), student, teacher_velocity=oracle.v)
    return update.loss(boot_batch(8))[0].item()


@pytest.mark.parametrize("data", DATA)
def test_boot_vanishes_at_euler_steps_of_the_teacher_only(data):
    oracle = DATA[data]()
    assert boot_loss(EulerMap(oracle, 8), oracle) < 1e-24
    assert boot_loss(Known(oracle, 1.1), oracle) > boot_loss(Known(oracle), oracle) > 1e-6


@pytest.mark.parametrize("data", DATA)
def test_lagrangian_residual_of_the_exact_map_is_the_error_of_one_euler_step(data):
    """Half the step, a quarter of the error; of a wrong map half at best."""
    oracle, one = DATA[data](), torch.ones(64).double()
    z, r = normal(64, 1, 2, 3, seed=3), uniform_times(64, rng(1), 0.2, 0.7)
    for student, low, high in (
        (Known(oracle), 3.7, 4.3),
        (Known(oracle, 1.1), 0.5, 2.5),
        (Known(oracle, velocity=True), 0.5, 2.5),
    ):
        coarse, fine = (
            rms(lagrangian_residual(student, oracle.v, z, r - h, r, one, None))
            for h in (1 / 32, 1 / 64)
        )
        assert low < coarse / fine < high


def test_boot_samples_in_one_step_alone():
    arm = {"refine": None, "steps": [1, 2]} | {
        "trajectory": {
            "objective": {"name": "boot"},
            "steps": 4,
            "batch": 8,
            "learning_rate": 1e-3,
            "ema": 0.9,
        }
    }
    with pytest.raises(UserError, match="a student of BOOT is a one-step generator"):
        validate(Arm, arm, "suite.yaml")
