"""Targets along the teacher's own trajectory, against the exact flow map and Euler's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hdbench.core.config import validate
from hdbench.core.errors import UserError
from hdbench.core.seeds import Draws, Split
from hdbench.flow.path import expand
from hdbench.flow.samplers import sample_consistency, sample_mix
from hdbench.methods import (
    SLAM,
    Boot,
    Consistency,
    DualEnd,
    GuidanceDistillation,
    MeanFlow,
    StochasticConsistency,
    TwinFlow,
)
from hdbench.methods.trajectory.boot import lagrangian_residual
from hdbench.methods.trajectory.dual_end import noise_residual
from hdbench.methods.trajectory.guidance_distillation import trajectory
from hdbench.methods.trajectory.stochastic_consistency import stochastic_steps
from hdbench.methods.trajectory.twinflow import base_residual, difference, moved
from hdbench.suite.schema import Arm
from tests.science.test_objectives import normal, rng
from tests.science.test_trajectory import DATA, Known, only_update, rms
from tests.support.oracles import (
    Gaussian,
    Mixture,
    a_gaussian,
    a_mixture,
    sign_nodes,
    uniform_times,
)


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


def test_teacher_steps_of_the_optimum():
    """None where there is fresh noise: then the optimum is on no trajectory."""
    scott = StochasticConsistency(intervals=8, substeps=3)
    assert scott.teacher_steps() is None and not scott.learns_mean_velocity
    assert StochasticConsistency(intervals=8, substeps=3, eta=0.0).teacher_steps() == 24
    assert SLAM(intervals=8).teacher_steps() == Boot(intervals=8).teacher_steps() == 8


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


# SCott and SLAM, relatives of consistency distillation


def linear_batch(sd: float, s: float, t: float, noises: int = 0) -> dict[str, Tensor]:
    """x, eps and further noises on sign nodes: exact expectations of quadratic losses."""
    signs = sign_nodes(2 + noises)
    x, eps, *others = (signs[:, i].reshape(-1, 1, 1, 1) for i in range(signs.shape[1]))
    full = lambda value: torch.full((len(signs),), value, dtype=torch.float64)
    b = {"x": sd * x, "eps": eps, "s": full(s), "t": full(t), "c": None}
    return b | {f"noise_{number}": noise for number, noise in enumerate(others)}


def shrinking(oracle: Gaussian, intervals: int, substeps: int, eta: float) -> list[float]:
    """Factors k_0 = 1, ... of the optimum f(z_t) = k_j z_t at t = j / K, by hand: E[f(z_s) | z_t].

    z_t N(0, A^2), A^2 = (1 - t)^2 S^2 + t^2, has x_hat = (1 - t) S^2 / A^2 z and e_hat = t / A^2 z.
    """
    factors = [1.0]
    for j in range(1, intervals + 1):
        factor = 1.0
        for i in range(substeps):
            a, b = (j - i / substeps) / intervals, (j - (i + 1) / substeps) / intervals
            variance = (1 - a) ** 2 * oracle.sd**2 + a**2
            ratio = b * (1 - a) / (a * (1 - b))
            q = eta * b * math.sqrt(max(0.0, 1 - ratio**2))
            x_hat, e_hat = (1 - a) * oracle.sd**2 / variance, a / variance
            factor *= (1 - b) * x_hat + math.sqrt(b**2 - q**2) * e_hat
        factors.append(factors[-1] * factor)
    return factors


@pytest.mark.parametrize(
    ("intervals", "substeps", "eta", "sd"),
    [(40, 1, 0.0, 0.482), (40, 1, 0.1, 0.463), (40, 1, 0.3, 0.337), (40, 1, 0.5, 0.171),
     (40, 1, 1.0, 0.0), (200, 1, 0.0, 0.496), (200, 1, 0.3, 0.296), (200, 1, 0.5, 0.114),
     (40, 3, 0.0, 0.494), (40, 3, 0.3, 0.309), (40, 3, 1.0, 0.0)],
)  # fmt: skip
def test_scott_without_a_gan_shrinks_to_this_standard_deviation(intervals, substeps, eta, sd):
    """Of one-step samples of N(0, 0.5^2)."""
    oracle = Gaussian(torch.zeros(1, 1, 1), 0.5)
    assert shrinking(oracle, intervals, substeps, eta)[-1] == pytest.approx(sd, abs=6e-4)


@pytest.mark.parametrize(("place", "substeps"), [(8, 1), (5, 2), (1, 2), (1, 1)])
def test_scott_has_its_optimum_where_it_shrinks(place, substeps):
    """There alone the expected loss has no gradient in the factor of f at t, its target held."""
    oracle, k, eta = Gaussian(torch.zeros(1, 1, 1), 0.5), 8, 0.6
    factors = shrinking(oracle, k, substeps, eta)
    s, t = (place - 1) / k, place / k
    b = linear_batch(0.5, s, t, substeps)
    z = (1 - t) * b["x"] + t * b["eps"]
    for change, vanishes in ((0.0, True), (0.01, False)):
        off = torch.tensor(change, dtype=torch.float64, requires_grad=True)

        def u(z, r, times, c):
            factor = factors[place] + off if times[0] == t else factors[place - 1]
            return (1 - factor) / times[0].clamp(min=1e-300) * z

        method = StochasticConsistency(intervals=k, substeps=substeps, eta=eta)
        loss = method.residual(u, oracle.v, z, b).square().mean()
        (gradient,) = torch.autograd.grad(loss, off)
        assert (gradient.abs() < 1e-14) == vanishes


def test_stochastic_steps_keep_the_marginal_law():
    """Where e_hat and x_hat are the truth, z_s has the noise level s: any eta, any sub-steps."""
    n = 200000
    x, eps, noises = 0.3, normal(n, 1, 1, 1), [normal(n, 1, 1, 1, seed=i) for i in (1, 2)]
    z = (1 - 0.9) * x + 0.9 * eps
    v = lambda z, a, c: (z - x) / a.reshape(-1, 1, 1, 1)  # of the point x
    full = lambda value: torch.full((n,), value, dtype=torch.float64)
    for eta in (0.0, 0.5, 1.0):
        end = stochastic_steps(v, z, full(0.4), full(0.9), full(0.0), noises, eta)
        assert end.mean().item() == pytest.approx(0.6 * x, abs=0.005)
        assert end.std().item() == pytest.approx(0.4, rel=0.01)
        correlation = torch.corrcoef(torch.stack([end.flatten(), eps.flatten()]))[0, 1]
        assert correlation > 0.9999 if eta == 0 else correlation < 0.95


@pytest.mark.parametrize("data", DATA)
def test_without_noise_or_inside_they_are_consistency_distillation(data):
    oracle = DATA[data]()
    student, t = Known(oracle, 1.2), torch.ceil(8 * uniform_times(32, rng(1))) / 8
    z = normal(32, 1, 2, 3)
    b = {"s": t - 1 / 8, "t": t, "c": t, "g": torch.ones(32).double(), "noise_0": z}
    expected = Consistency(intervals=8).residual(student, oracle.v, z, b)
    for method in (SLAM(intervals=8), StochasticConsistency(intervals=8, substeps=1, eta=0.0)):
        torch.testing.assert_close(method.residual(student, oracle.v, z, b), expected)
    other = b | {"g": torch.full((32,), 0.5).double()}
    assert rms(SLAM(intervals=8).residual(student, oracle.v, z, other) - expected) > 1e-3


@pytest.mark.parametrize("intervals", [5, 10, 40])
def test_slam_has_the_optimum_of_consistency_distillation(intervals):
    """K Euler steps, and inside an interval the point that the Euler step to there comes from."""
    oracle, k = a_gaussian(), intervals

    class Between(EulerMap):
        def forward(self, z, r, t, c):
            grid = (torch.ceil(k * t - 1e-9) / k).clamp(min=1 / k)
            inside = expand(grid - t)
            # z = y - (grid - t) v(y, grid) of an affine v: solved for y by its two values
            at_zero = self.oracle.v(torch.zeros_like(z), grid)
            slope = self.oracle.v(torch.ones_like(z), grid) - at_zero
            y = torch.where(inside > 1e-9, (z + inside * at_zero) / (1 - inside * slope), z)
            end = y - expand(grid) * super().forward(y, r, grid, c)
            return (z - end) / expand(t.clamp(min=1e-300))

    b = {
        "t": torch.ceil(k * uniform_times(32, rng(1))) / k,
        "g": uniform_times(32, rng(2)),
        "c": None,
    }
    b["s"] = (b["t"] - 1 / k).clamp(min=0)
    z, method = normal(32, 1, 2, 3), SLAM(intervals=k)
    assert method.residual(Between(oracle, k), oracle.v, z, b).abs().max() < 1e-9
    assert rms(method.residual(Known(oracle), oracle.v, z, b)) > 1e-5


# DE-CM


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("weights", [(0.5, 1.0), (0.0, 1.0), (2.0, 0.3)])
def test_dual_end_noise_to_noisy_vanishes_at_the_truth_only(data, weights):
    """For any weights of the two identities; not with those in front of the velocities swapped."""
    oracle, n = DATA[data](), 24
    t, accuracy = uniform_times(n, rng(1), 0.6, 1.0), {} if data == "gaussian" else {"steps": 24}
    r, z = t * uniform_times(n, rng(2)), normal(n, 1, 2, 3, seed=3)
    exact, v = Known(oracle, **accuracy), oracle.v(z, t)
    off = lambda u: noise_residual(u, oracle.v, v, z, r, t, None, *weights).detach()
    assert off(exact).abs().max() < (1e-12 if data == "gaussian" else 1e-5)
    assert min(rms(off(Known(oracle, 1.1))), rms(off(Known(oracle, velocity=True)))) > 0.02
    end = oracle.v(z - expand(t - r) * exact(z, r, t, None), r)
    a, b = weights
    swapped = off(exact) + (a - b) * (v - end) / (a + b)
    assert rms(swapped) > 0.02


@pytest.mark.parametrize("data", DATA)
def test_dual_end_all_terms_vanish_at_the_truth_at_once(data):
    oracle, n = DATA[data](), 32
    accuracy = {} if data == "gaussian" else {"steps": 24}
    for student, vanishes in ((Known(oracle, **accuracy), True), (Known(oracle, 1.1), False)):
        update = only_update(DualEnd(adaptive_power=0.0), student, teacher_velocity=oracle.v)
        update.on_step(1, 100)
        zeros = torch.zeros(10, dtype=torch.long)
        b = update.draw(Draws((0,), torch.zeros(10, 1, 2, 3), zeros, n))
        assert (b["r"][:8] == b["t"][:8]).all() and (b["r"][8:24] == 0).all()
        assert (b["t"][24:] == torch.tensor(0.905)).all() and (b["r"] <= b["t"]).all()
        doubles = {name: b[name].double().clamp(min=0.0) for name in ("r", "t", "eps")}
        doubles["x"] = oracle.sample(n, rng(2))
        loss, scalars = update.loss(b | doubles)
        assert (loss < 1e-9) == vanishes and (scalars["angle"] < 1e-12)


def test_dual_end_without_noise_rows_is_meanflow_to_data_and_an_angle():
    oracle, n = a_gaussian(), 32
    student = Known(oracle, velocity=True, scale=1.2)
    update = only_update(DualEnd(noise_share=0.0), student, teacher_velocity=oracle.v)
    zeros = torch.zeros(10, dtype=torch.long)
    b = update.draw(Draws((0,), torch.zeros(10, 1, 2, 3), zeros, n))
    loss, scalars = update.loss(b)
    expected, _ = only_update(MeanFlow(), student, teacher_velocity=oracle.v).loss(b)
    torch.testing.assert_close(loss - scalars["angle"], expected)
    assert scalars["angle"].abs() < 1e-6  # a multiple of v points as v does


def test_dual_end_starts_below_pure_noise_and_ends_there():
    update = only_update(DualEnd(decay=0.2, decay_share=0.5), Known(a_gaussian()))
    starts = []
    for step in (0, 25, 50, 99):
        update.on_step(step, 100)
        zeros = torch.zeros(10, dtype=torch.long)
        b = update.draw(Draws((step,), torch.zeros(10, 1, 2, 3), zeros, 16))
        starts.append(b["t"][-1].item())
    assert starts == pytest.approx([0.8, 0.9, 1.0, 1.0])


def test_mix_is_a_flow_map_step_and_then_consistency():
    """Of the exact map two steps are the map itself; further ones noise again, by hand."""
    oracle, noises, c = a_gaussian(), normal(3, 50, 1, 2, 3).float(), torch.zeros(50)
    exact = lambda *point: oracle.u(point[0].double(), *map(Tensor.double, point[1:3])).float()
    torch.testing.assert_close(
        sample_mix(exact, noises[:1], c), oracle.flow_map(noises[0], 0.0, 1.0).float()
    )
    x = oracle.flow_map(noises[0], 0.0, 1.0).float()
    for eps, t in zip(noises[1:], (0.5, 0.25), strict=True):
        x = oracle.flow_map((1 - t) * x + t * eps, 0.0, t).float()
    torch.testing.assert_close(sample_mix(exact, noises, c), x)
    plain = sample_consistency(exact, noises[:2], c)
    assert not torch.allclose(sample_mix(exact, noises[:2], c), plain)


# guidance distillation


@pytest.mark.parametrize("data", DATA)
def test_guidance_distillation_vanishes_at_the_guided_velocity_only(data):
    """On the trajectory of the guided teacher, whose states and targets are one simulation's."""
    oracle, other = DATA[data](), a_mixture()
    guided_velocity = lambda z, t, c: 1.5 * oracle.v(z, t) - 0.5 * other.v(z, t)

    class Guided(nn.Module):
        def __init__(self, w: float):
            super().__init__()
            self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

        def forward(self, z, r, t, c):
            assert torch.equal(r, t)
            return self.w * oracle.v(z, t) + (1 - self.w) * other.v(z, t)

    b = {"eps": normal(16, 1, 2, 3), "c": torch.arange(16)}
    method = GuidanceDistillation(trajectory_steps=7)
    for w, vanishes in ((1.5, True), (1.4, data == "mixture"), (1.0, data == "mixture")):
        update = only_update(method, Guided(w), teacher_velocity=guided_velocity)
        assert (update.loss(b)[0] < 1e-24) == vanishes
    z, t, v = trajectory(guided_velocity, b["eps"], b["c"], 7)
    end = b["eps"]
    for k in range(7):
        rows = slice(16 * k, 16 * (k + 1))
        torch.testing.assert_close(z[rows], end)
        assert torch.equal(t[rows], torch.full((16,), 1 - k / 7, dtype=torch.float64))
        end = end - guided_velocity(end, t[rows], None) / 7
    torch.testing.assert_close(z[-16:] - v[-16:] / 7, end)


def test_states_of_the_guided_trajectory_are_not_noised_data():
    """Their law differs, which is why they are simulated: here by over a tenth in spread."""
    oracle, other = a_gaussian(), Gaussian(torch.zeros(1, 2, 3), 1.0)
    guided_velocity = lambda z, t, c: 3 * oracle.v(z, t) - 2 * other.v(z, t)
    z, t, _ = trajectory(guided_velocity, normal(4000, 1, 2, 3), torch.zeros(4000), 50)
    middle = z[t == 0.5]
    noised = 0.5 * oracle.sample(4000, rng(1)) + 0.5 * normal(4000, 1, 2, 3, seed=2)
    assert abs(middle.std(0).mean() / noised.std(0).mean() - 1) > 0.1


def test_ranks_of_a_dual_end_call_the_networks_equally_often():
    """A rank with rows of one kind alone asks as often as one with all three."""
    asked, n, oracle = [], 9, a_gaussian()

    class Asked(Known):
        def forward(self, z, r, t, c):
            asked.append(len(z))
            return super().forward(z, r, t, c)

    v = lambda z, t, c: (asked.append(len(z)), oracle.v(z, t))[1]
    update = only_update(DualEnd(), Asked(oracle), teacher_velocity=v)
    t = uniform_times(n, rng(1))
    r = torch.cat([t[:3], torch.zeros(3), t[6:] / 2])
    b = {"x": normal(n, 1, 2, 3), "eps": normal(n, 1, 2, 3, seed=1), "r": r, "t": t}
    counts = set()
    for rows in (range(9), range(3), range(3, 6), range(6, 9), range(6), range(3, 9)):
        asked.clear()
        kinds = [row // 3 for row in rows]
        moving = Split(at=kinds.count(0), before=True, after=True)
        noisy = Split(at=len(kinds) - kinds.count(2), before=True, after=True)
        chosen = {name: drawn[list(rows)] for name, drawn in b.items()}
        c = torch.zeros(len(rows))
        loss, _ = update.loss(chosen | {"c": c, "moving": moving, "noisy": noisy})
        assert loss < 1e-20 and all(asked)
        counts.add(len(asked))
    assert counts == {5}  # the teacher twice, the student once for each kind


# TwinFlow


class Twin(Known):
    """The exact flow map of a distribution, and at negative times the velocity of another."""

    def __init__(self, oracle: Mixture, own: Mixture, **accuracy: int):
        super().__init__(oracle, **accuracy)
        self.own = own

    def forward(self, z: Tensor, r: Tensor, t: Tensor, c: Tensor) -> Tensor:
        if (t < 0).all():
            assert torch.equal(r, t)
            return self.own.v(z, -t.double())
        return super().forward(z, r, t, c)


@pytest.mark.parametrize("data", DATA)
def test_twinflow_base_vanishes_at_the_truth_with_the_teachers_first_step(data):
    """Half the step, half the residual; a wrong map keeps its own."""
    oracle, n = DATA[data](), 32
    t = uniform_times(n, rng(1), 0.3, 0.9)
    r, z = t * uniform_times(n, rng(2), 0.0, 0.6), normal(n, 1, 2, 3, seed=3)

    def off(student, step):
        return rms(base_residual(student, oracle.v, step, student(z, r, t, None), z, r, t, None))

    exact, wrong = Known(oracle), Known(oracle, 1.1)
    assert off(exact, 0.02) / off(exact, 0.01) == pytest.approx(2, rel=0.05)
    assert off(exact, 0.01) < 0.05 < off(wrong, 0.001)
    near = t - 1e-3  # within the first step the residual is u - v
    value = wrong(z, near, t, None)
    found = base_residual(wrong, oracle.v, 0.01, value, z, near, t, None)
    torch.testing.assert_close(found, value - oracle.v(z, t))
    found = base_residual(wrong, oracle.v, 0.01, value, z, t, t, None)
    torch.testing.assert_close(found, value - oracle.v(z, t))


def test_twinflow_rectifies_along_the_direction_of_distribution_matching():
    """None where own samples have the law; else x moves by the scores' difference, here down."""
    oracle, z = a_gaussian(), normal(32, 1, 2, 3)
    s = uniform_times(32, rng(1))
    assert rms(difference(Twin(oracle, oracle), z, s, None)) < 1e-14
    above = Gaussian(oracle.mean + 0.5, oracle.sd)
    off = difference(Twin(oracle, above), z, s, None)
    scores = above.score(z, s) - oracle.score(z, s)
    torch.testing.assert_close(off, -expand(s / (1 - s)) * scores)  # v = -(z + t score) / (1 - t)
    # u falls by `off` < 0, so G = eps - u falls: towards the mean that is below
    assert (off < 0).all()
    value = normal(4, 1, 2, 3).requires_grad_()
    residual = 3 * normal(4, 1, 2, 3, seed=1)
    shift = moved(value, residual)
    torch.testing.assert_close(shift.detach(), residual.clamp(-1, 1))
    (gradient,) = torch.autograd.grad(shift.sum(), value)
    assert torch.equal(gradient, torch.ones_like(value))


def test_twinflow_rows_and_their_signs_of_time():
    """Twins at -t alone; flow maps of all three kinds; the twin's target is its own samples'."""
    asked, oracle = [], a_gaussian()

    class Asked(Twin):
        def forward(self, z, r, t, c):
            asked.append((r.detach(), t.detach()))
            one = torch.where(t < 0, -t, t)
            return torch.where(
                expand(t < 0),
                self.own.v(z, one.double()),
                self.scale * self.oracle.u(z, torch.where(t < 0, one, r).double(), one.double()),
            )

    update = only_update(TwinFlow(), Asked(oracle, oracle), teacher_velocity=oracle.v)
    zeros = torch.zeros(10, dtype=torch.long)
    b = update.draw(Draws((0,), torch.zeros(10, 1, 2, 3), zeros, 32))
    doubles = {name: b[name].double() for name in ("eps", "eps_twin", "r", "t", "s")}
    loss, scalars = update.loss(b | doubles | {"x": oracle.sample(32, rng(2))})
    r, t = next((r, t) for r, t in asked if len(t) == 32)
    assert (t[:8] < 0).all() and torch.equal(r[:8], t[:8]) and (t[8:] > 0).all()
    assert (r[8:16] <= t[8:16]).all() and (r[8:16] < 0.9 * t[8:16]).any()
    assert (r[16:24] >= 0.95 * t[16:24] - 1e-6).all()
    assert (r[24:] == 0).all() and (t[24:] == 1).all()
    assert loss.isfinite() and scalars["mean_square"] > 0.01  # the twins' own noise remains
