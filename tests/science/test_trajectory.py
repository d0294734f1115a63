"""Trajectory objectives on exactly solvable data: they vanish at its mean velocity and reach it."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from hdbench.core.config import validate
from hdbench.core.errors import UserError
from hdbench.core.seeds import Draws, Split
from hdbench.flow.path import expand, generate, guided, interpolate
from hdbench.flow.samplers import sample_ode
from hdbench.methods import (
    OBJECTIVES,
    SCM,
    SLAM,
    TRAJECTORY,
    Boot,
    Consistency,
    DualEnd,
    FlowMatching,
    GuidanceDistillation,
    ImprovedMeanFlow,
    Knowledge,
    MeanFlow,
    Progressive,
    Reflow,
    Shortcut,
    StochasticConsistency,
    TwinFlow,
)
from hdbench.methods.base import Objective, Problem, Update
from hdbench.methods.trajectory import improved_meanflow, meanflow, progressive, scm, shortcut
from hdbench.stages.trainer import Trainer
from hdbench.suite.training import Training
from tests.science.test_objectives import Ledger, normal, pair_of_times, rng, small_transformer
from tests.support.counting import flattened
from tests.support.oracles import Gaussian, Mixture, a_gaussian, a_mixture, uniform_times

DATA = {"gaussian": a_gaussian, "mixture": a_mixture}


class Known(nn.Module):
    """scale times the exact mean velocity, or with `velocity` that at t; times in float64."""

    def __init__(
        self, oracle: Mixture, scale: float = 1.0, velocity: bool = False, **accuracy: int
    ):
        super().__init__()
        self.oracle, self.velocity, self.accuracy = oracle, velocity, accuracy
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, c: Tensor) -> Tensor:
        r, t = r.double(), t.double()
        return self.scale * (
            self.oracle.v(z, t) if self.velocity else self.oracle.u(z, r, t, **self.accuracy)
        )


def pairs_of(oracle: Mixture, n: int, seed: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """eps, the exact end of its trajectory, and labels, all float64."""
    eps = normal(n, *oracle.means.shape[1:], seed=seed)
    return eps, oracle.flow_map(eps, 0.0, 1.0), torch.zeros(n, dtype=torch.long)


def points(oracle: Mixture, t: Tensor, seed: int = 2) -> Tensor:
    """z_t of data and noise."""
    x = oracle.sample(len(t), rng(seed))
    return interpolate(x, normal(*x.shape, seed=seed + 1), t)


def rms(x: Tensor) -> float:
    return x.detach().square().mean().sqrt().item()


def draws(oracle: Mixture, batch: int, seed: int = 0) -> Draws:
    return Draws(
        (seed,), torch.zeros(10, *oracle.means.shape[1:]), torch.zeros(10, dtype=torch.long), batch
    )


def only_update(objective: Objective, student: nn.Module, **problem) -> Update:
    (update,) = objective.updates(Problem(student=student, learning_rate=1e-3, **problem))
    return update


def named(*pairs: Tensor) -> dict[str, Tensor]:
    """Pairs (eps, x, c) as a batch."""
    return dict(zip(("eps", "x", "c"), pairs, strict=True))


# they vanish at the truth, and not elsewhere


@pytest.mark.parametrize("data", DATA)
def test_knowledge_vanishes_at_the_flow_map_only(data):
    oracle = DATA[data]()
    pairs = pairs_of(oracle, 32)
    for student, vanishes in (
        (Known(oracle), True),
        (Known(oracle, 1.1), False),
        (Known(oracle, velocity=True), False),
    ):
        loss, _ = only_update(Knowledge(), student, pairs=pairs).loss(named(*pairs))
        assert loss < 1e-12 if vanishes else loss > 1e-3


def test_knowledge_is_the_square_of_one_step():
    """Mean over C, H, W and rows of (eps - u - x)^2, by hand for u = z: (-1)^2 and 2^2."""
    update = only_update(
        Knowledge(), lambda z, r, t, c: z * t[:, None, None, None] + r[:, None, None, None]
    )
    x = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)
    loss, _ = update.loss({"eps": torch.zeros(2, 1, 1, 1), "x": x, "c": torch.zeros(2)})
    assert loss.item() == 2.5


class Straight(nn.Module):
    """Velocity of the straight couples (eps, mu + s eps), for every r.

    [(1 - s) (z - (1 - t) mu)] / [(1 - t) s + t] - mu
    """

    def __init__(self, oracle: Gaussian):
        super().__init__()
        self.mean, self.sd = oracle.mean, oracle.sd

    def forward(self, z: Tensor, r: Tensor, t: Tensor, c: Tensor) -> Tensor:
        t = expand(t.double())
        return (1 - self.sd) * (z - (1 - t) * self.mean) / ((1 - t) * self.sd + t) - self.mean


def test_reflow_vanishes_where_the_couples_of_a_gaussian_are_straight():
    """A Gaussian's flow map is affine and monotone: its lines do not cross, nor are the ODE's."""
    oracle = a_gaussian()
    pairs, (r, t) = pairs_of(oracle, 64), pair_of_times(64)
    b = named(*pairs) | {"r": r, "t": t}
    assert only_update(Reflow(), Straight(oracle)).loss(b)[0] < 1e-24
    assert only_update(Reflow(), Known(oracle, velocity=True)).loss(b)[0] > 0.01
    zero, one = torch.zeros(64).double(), torch.ones(64).double()
    torch.testing.assert_close(
        Straight(oracle)(pairs[0], zero, one, None), oracle.u(pairs[0], zero, one)
    )


@pytest.mark.parametrize("data", DATA)
def test_reflow_from_noise_is_knowledge_distillation(data):
    oracle = DATA[data]()
    pairs, zero, one = pairs_of(oracle, 32), torch.zeros(32).double(), torch.ones(32).double()
    for scale in (1.0, 1.1):
        b = named(*pairs) | {"r": zero, "t": one}
        loss, _ = only_update(Reflow(), Known(oracle, scale)).loss(b)
        expected, _ = only_update(Knowledge(), Known(oracle, scale)).loss(named(*pairs))
        assert loss.item() == pytest.approx(expected.item(), abs=1e-14)
        assert (loss < 1e-12) == (scale == 1.0)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("n", [1, 4])
def test_two_exact_halves_are_one_exact_step(data, n):
    """To 1e-8 for any step; the velocity in its place is off, and so is a scaled one."""
    oracle, accuracy = DATA[data](), {} if data == "gaussian" else {"steps": 96}
    t = torch.ceil(uniform_times(24, rng(1)) * n) / n
    z, r = points(oracle, t), t - 1 / n
    exact = Known(oracle, **accuracy)
    for teach, low, high in (
        (exact, 0, 1e-8),
        (Known(oracle, velocity=True), 0.02, 9),
        (Known(oracle, 1.1), 0.05, 9),
    ):
        off = progressive.two_halves(teach, z, r, t, None) - exact(z, r, t, None)
        assert low <= off.detach().abs().max() < high


@pytest.mark.parametrize("data", DATA)
def test_first_round_of_progressive_distillation_errs_as_euler_does(data):
    """Two Euler steps in 1/N have a slope off by O(1/N): twice the steps, half the residual."""
    oracle, errors = DATA[data](), []
    t = uniform_times(64, rng(1), 0.2, 0.9)
    x, eps = oracle.sample(64, rng(2)), normal(64, 1, 2, 3, seed=3)
    update = only_update(Progressive(), Known(oracle), teacher_velocity=oracle.v)
    for n in (16, 32, 64):
        b = {"x": x, "c": None, "eps": eps, "r": t - 1 / n, "t": t}
        errors.append(update.loss(b)[0].sqrt().item())
        half, z = 1 / (2 * n), expand(1 - t) * x + expand(t) * eps
        first = oracle.v(z, t)
        second = oracle.v(z - half * first, t - half)
        assert errors[-1] == pytest.approx(rms(oracle.u(z, t - 1 / n, t) - (first + second) / 2))
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)
    assert errors[0] > 1e-3


def test_later_rounds_of_progressive_distillation_vanish_at_the_truth_only():
    oracle = a_mixture()
    for scale in (1.0, 1.1):
        update = only_update(
            Progressive(), Known(oracle, scale, steps=96), teacher_velocity=oracle.v
        )
        update.on_step(5, 10)
        b = update.draw(draws(oracle, 32))
        doubles = {name: b[name].double() for name in ("eps", "r", "t")}
        loss, _ = update.loss(b | doubles | {"x": oracle.sample(32, rng(2))})
        assert (loss < 1e-16) == (scale == 1.0)


@pytest.mark.parametrize("data", DATA)
def test_shortcut_vanishes_at_the_truth_only(data):
    """To 1e-8, but for the smallest steps, whose halves are Euler's and err by O(1/F)."""
    oracle, finest = DATA[data](), 16
    r, t, moving = Shortcut(finest=finest, consistency_share=0.75).draw_times(draws(oracle, 64))
    r, t = r.double(), t.double().clamp(max=1 - 1e-9)
    r, t = torch.where(t - r < 1e-6, t, r), torch.where(t > 1 - 1e-6, torch.ones_like(t), t)
    z, exact = points(oracle, t), Known(oracle, **({} if data == "gaussian" else {"steps": 96}))
    smallest = (r < t) & (t - r < 3 / finest)

    def off(u):
        target = shortcut.shortcut_target(u, oracle.v, z, r, t, t, finest, moving)
        return (u(z, r, t, None) - target).detach()

    assert smallest.any() and off(exact)[~smallest].abs().max() < 1e-8
    assert 1e-3 < rms(off(exact)[smallest]) < 0.1
    for wrong in (off(Known(oracle, 1.1)), off(Known(oracle, velocity=True))):
        assert rms(wrong[t - r > 3 / finest]) > 5e-3
    assert rms(off(Known(oracle, 1.1))[r == t]) > 0.05
    euler = progressive.two_halves(
        lambda z, r, t, c: oracle.v(z, t), z[smallest], r[smallest], t[smallest], None
    )
    torch.testing.assert_close(
        shortcut.shortcut_target(exact, oracle.v, z, r, t, t, finest, moving)[smallest], euler
    )


@pytest.mark.parametrize("data", DATA)
def test_scm_tangent_vanishes_at_the_truth_only(data):
    oracle, t = DATA[data](), uniform_times(16, rng())
    z = points(oracle, t)
    v = oracle.v(z, t)
    exact = Known(oracle, **({} if data == "gaussian" else {"steps": 24}))
    u, g = scm.tangent(exact, v, z, t, None, 1.0)
    torch.testing.assert_close(u, exact(z, torch.zeros_like(t), t, None))
    assert g.abs().max() < (1e-12 if data == "gaussian" else 1e-5)
    for student, w in ((exact, 0.5), (Known(oracle, velocity=True), 1.0)):
        assert rms(scm.tangent(student, v, z, t, None, w)[1]) > 0.05


def test_scm_without_warmup_and_normalisation_is_meanflow_at_r_0():
    """u - sg(u + g) = u - sg(v - t du/dt), values and gradients, for an arbitrary network."""
    theta = torch.tensor([1.3, 0.4], dtype=torch.float64, requires_grad=True)
    u = lambda z, r, t, c: theta[0] * torch.sin(z) * expand(t) + theta[1] * expand(t - r) * z**2
    z, v, t = normal(8, 1, 2, 3), normal(8, 1, 2, 3, seed=1), uniform_times(8, rng())
    value, g = scm.tangent(u, v, z, t, t, 1.0)
    found = value - (value + g).detach()
    expected = meanflow.meanflow_residual(u, v, z, torch.zeros_like(t), t, t)
    torch.testing.assert_close(found, expected)
    gradient = lambda x: torch.autograd.grad(x.square().mean(), theta)[0]
    torch.testing.assert_close(gradient(found), gradient(expected))
    assert not g.requires_grad


def test_scm_tangent_by_central_differences():
    """g = (v - u) - w t du/dt for an arbitrary network, w in between."""
    u = lambda z, r, t, c: torch.sin(2 * z) * expand(t) ** 2 + z * expand(t - r)
    z, v, t = normal(8, 1, 2, 3), normal(8, 1, 2, 3, seed=1), uniform_times(8, rng())
    zero, h, w = torch.zeros_like(t), 1e-5, 0.3
    du_dt = (u(z + h * v, zero, t + h, None) - u(z - h * v, zero, t - h, None)) / (2 * h)
    torch.testing.assert_close(
        scm.tangent(u, v, z, t, None, w)[1],
        v - u(z, zero, t, None) - w * expand(t) * du_dt,
        atol=1e-8,
        rtol=1e-7,
    )


def test_scm_normalisation_and_warmup():
    """Rows 3, 4 and 0, 0, of root mean squares sqrt(12.5) and 0."""
    g = torch.tensor([[[[3.0, 4.0]]], [[[0.0, 0.0]]]], dtype=torch.float64)
    expected = g / (12.5**0.5 + 0.1)
    torch.testing.assert_close(scm.normalised(g, 0.1), expected)
    assert [scm.warmup(step, 100, 0.2) for step in (0, 5, 20, 99)] == [0.0, 0.25, 1.0, 1.0]
    assert scm.warmup(0, 100, 0.0) == 1.0


def test_scm_loss_follows_the_step():
    """The loss is the mean square of the normalised tangent at the w of the step that began."""
    oracle, n = a_gaussian(), 8
    student = Known(oracle, 1.2)
    update = only_update(SCM(), student, teacher_velocity=oracle.v)
    x, eps, t = oracle.sample(n, rng(2)), normal(n, 1, 2, 3, seed=3), uniform_times(n, rng())
    z = interpolate(x, eps, t)
    for step, w in ((0, 0.0), (10, 0.5), (50, 1.0), (10, 0.5)):
        update.on_step(step, 100)
        loss, scalars = update.loss({"x": x, "c": None, "eps": eps, "t": t})
        g = scm.tangent(student, oracle.v(z, t), z, t, None, w)[1]
        assert loss.item() == pytest.approx(scm.normalised(g, 0.1).square().mean().item())
        assert scalars["mean_square"].item() == pytest.approx(g.square().mean().item())


@pytest.mark.parametrize("data", DATA)
def test_improved_meanflow_vanishes_at_the_truth_only(data):
    oracle, (r, t) = DATA[data](), pair_of_times(16)
    z = points(oracle, t)
    residual = lambda u, v: improved_meanflow.velocity_residual(u, v, z, r, t, torch.zeros(16))
    v = oracle.v(z, t)
    exact = Known(oracle, **({} if data == "gaussian" else {"steps": 24}))
    assert residual(exact, v).abs().max() < (1e-12 if data == "gaussian" else 1e-5)
    for student, target in ((Known(oracle, velocity=True), v), (exact, v + 0.1)):
        assert rms(residual(student, target)) > 0.05


def test_improved_meanflow_differentiates_along_its_own_velocity():
    """u - v + (t - r) sg(u(z, t, t) . grad_z u + d_t u) by central differences; u's gradient."""
    theta = torch.tensor([1.3, 0.4], dtype=torch.float64, requires_grad=True)
    parts = lambda z, r, t: (torch.sin(2 * z) * expand(t) ** 2, z * expand(r * t) + z**2)

    def u(z, r, t, c):
        a, b = parts(z, r, t)
        return theta[0] * a + theta[1] * b

    n, h = 12, 1e-5
    (r, t), z, v = pair_of_times(n), normal(n, 1, 2, 2), normal(n, 1, 2, 2, seed=1)
    with torch.no_grad():
        own = u(z, t, t, None)
        du_dt = (u(z + h * own, r, t + h, None) - u(z - h * own, r, t - h, None)) / (2 * h)
        expected = u(z, r, t, None) - v + expand(t - r) * du_dt
    found = improved_meanflow.velocity_residual(u, v, z, r, t, torch.zeros(n))
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-7)
    order = torch.argsort((r < t).int(), stable=True)
    moving = Split(at=int((r == t).sum()), before=True, after=True)
    sorted_rows = (x[order] for x in (v, z, r, t, torch.zeros(n)))
    split = improved_meanflow.velocity_residual(u, *sorted_rows, moving)
    torch.testing.assert_close(split, expected[order], atol=1e-8, rtol=1e-7)
    (gradient,) = torch.autograd.grad(found.square().sum(), theta)
    by_hand = torch.stack([2 * (expected * part).sum() for part in parts(z, r, t)])
    torch.testing.assert_close(gradient, by_hand, atol=1e-6, rtol=1e-6)


def test_targets_of_own_steps_carry_no_gradient():
    oracle, (r, t) = a_gaussian(), pair_of_times(12)
    student, z = Known(oracle, 1.2), points(oracle, t)
    assert student(z, r, t, t).requires_grad
    assert not progressive.two_halves(student, z, r, t, t).requires_grad
    assert not shortcut.shortcut_target(
        student, student.oracle.v, z, r, t, t, 16, meanflow.ALL_MOVING
    ).requires_grad


# draws


@pytest.mark.parametrize("n", [64, 10, 7])
def test_reflow_draws(n):
    d = draws(a_gaussian(), n)
    a, b = d.uniform(), d.uniform()
    r, t = Reflow(prob_t_equals_1=0.3).draw_times(draws(a_gaussian(), n))
    ends = (r == 0) & (t == 1)
    assert (
        ends.sum() == round(0.3 * n)
        and torch.equal(t[~ends], b[~ends])
        and torch.equal(r[~ends], (a * b)[~ends])
    )
    assert (r <= t).all()


@pytest.mark.parametrize(("share", "n"), [(0.25, 64), (0.3, 10), (0.0, 8), (1.0, 8)])
def test_shortcut_draws_exact_shares(share, n):
    d = draws(a_gaussian(), n)
    d.uniform()
    place = d.uniform()
    r, t, moving = Shortcut(consistency_share=share).draw_times(draws(a_gaussian(), n))
    assert moving.at == (r == t).sum()
    assert (r < t).sum() == round(share * n) and len(r) == len(t) == n
    assert torch.equal(t[r == t], place[r == t])


@pytest.mark.parametrize(("share", "one_step", "n"), [(0.25, 0.25, 64), (0.3, 0.5, 10), (0, 1, 8)])
def test_shortcut_draws_an_exact_share_of_the_one_step_besides(share, one_step, n):
    """The other rows are those without it."""
    objective = Shortcut(consistency_share=share, prob_t_equals_1=one_step)
    r, t, moving = objective.draw_times(draws(a_gaussian(), n))
    ones = round(one_step * n)
    assert moving.at == n - ones - round(share * n) == (r == t).sum()
    assert t[n - ones :].eq(1).all() and r[n - ones :].eq(0).all()
    same = Shortcut(consistency_share=(n - moving.at) / n).draw_times(draws(a_gaussian(), n))
    assert torch.equal(r[: n - ones], same[0][: n - ones])
    assert torch.equal(t[: n - ones], same[1][: n - ones])


def test_shortcut_draws_every_size_on_its_own_grid():
    """Sizes 1/8, 1/4, 1/2, 1, never 1/16, equally often for F = 16, each from a multiple of it."""
    n = 8000
    objective = Shortcut(finest=16, consistency_share=1.0)
    r, t, _ = objective.draw_times(draws(a_gaussian(), n))
    sizes = Counter((t - r).tolist())
    assert set(sizes) == {0.125, 0.25, 0.5, 1.0} and all(
        abs(count / n - 0.25) < 0.03 for count in sizes.values()
    )
    assert torch.equal(t / (t - r), torch.round(t / (t - r))) and r.min() == 0 and t.max() == 1
    places = Counter(t[t - r == 0.125].tolist())
    assert len(places) == 8 and max(places.values()) < 1.4 * min(places.values())


def test_scm_draws():
    update = only_update(SCM(prob_t_equals_1=0.3), Known(a_gaussian()))
    t = update.draw(draws(a_gaussian(), 20))["t"]
    assert (t == 1).sum() == 6 and (t[:14] < 1).all() and t.min() >= 0


def test_pairs_are_drawn_together():
    eps = torch.arange(50.0).reshape(50, 1, 1, 1)
    for objective in (Knowledge(), Reflow()):
        update = only_update(objective, Known(a_gaussian()), pairs=(eps, 2 * eps, torch.arange(50)))
        b = update.draw(draws(a_gaussian(), 16))
        assert torch.equal(b["x"], 2 * b["eps"])
        assert torch.equal(b["c"], b["eps"].flatten().long()) and len(b["c"].unique()) > 8


@pytest.mark.parametrize("objective", [Shortcut(), ImprovedMeanFlow()])
def test_ranks_call_the_networks_equally_often(objective):
    """A rank whose rows are all of one kind asks as often as one with both and keeps nothing."""
    asked, n = [], 8
    (r, t), z = pair_of_times(n), normal(n, 1, 2, 3)

    class Asked(Known):
        def forward(self, z, r, t, c):
            asked.append(len(z))
            return super().forward(z, r, t, c)

    student = Asked(a_gaussian())
    v = lambda z, t, c: (asked.append(len(z)), a_gaussian().v(z, t))[1]
    update = only_update(objective, student, teacher_velocity=v)
    counts = []
    for rows in (torch.argsort((r < t).int(), stable=True), r == t, r < t):
        asked.clear()
        b = {"x": z, "c": torch.zeros(n), "eps": z, "r": r, "t": t}
        b = {name: drawn[rows] for name, drawn in b.items()}
        still = int((b["r"] == b["t"]).sum())
        loss, _ = update.loss(b | {"moving": Split(at=still, before=True, after=True)})
        assert loss.isfinite() and all(asked)
        counts.append(len(asked))
    assert len(set(counts)) == 1


# progressive distillation, round by round


def small_net(seed: int = 0) -> nn.Module:
    """u = a(r, t) + b(r, t) z, as every mean velocity of one Gaussian is, by a small network."""

    class Affine(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2)
            )

        def forward(self, z: Tensor, r: Tensor, t: Tensor, c: Tensor) -> Tensor:
            a, b = self.net(torch.stack([t, t - r], dim=1)).unbind(1)
            return expand(a) + expand(b) * z

    torch.manual_seed(seed)
    return Affine()


TRUTH = Gaussian(torch.tensor([[[0.8]]]), 0.4)


def trainer_of(objective: Objective, steps: int, seed: int = 0, batch: int = 256) -> Trainer:
    """The real loop on N(0.8, 0.4^2), with its exact velocity for the teacher and exact pairs."""
    student = small_net(seed)
    eps, x, labels = pairs_of(TRUTH, 4000)
    problem = Problem(
        student=student,
        learning_rate=2e-2,
        pairs=(eps.float(), x.float(), labels),
        teacher_velocity=lambda z, t, c: TRUTH.v(z, t).float(),
    )
    images = TRUTH.sample(4000, rng(9)).float()
    # the loop does not look at the training's objective
    training = Training(
        objective=FlowMatching(),
        steps=steps,
        batch=batch,
        learning_rate=2e-2,
        betas=(0.9, 0.99),
        clip=10.0,
        ema=0.98,
    )
    return Trainer(
        objective.updates(problem),
        training,
        student,
        (0, "test"),
        images,
        torch.zeros(4000, dtype=torch.long),
    )


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def test_rounds_have_their_grid_and_halve():
    """N = 8, 4, 2, 1 in equal parts of the steps; t on {1/N, ..., 1} equally often, r = t - 1/N."""
    objective, steps = Progressive(start_steps=8), 8
    update = only_update(objective, Known(a_gaussian()))
    assert objective.rounds() == 4
    for step in range(steps):
        update.on_step(step, steps)
        b = update.draw(draws(a_gaussian(), 4000, step))
        r, t = b["r"], b["t"]
        n = 8 >> step // 2
        torch.testing.assert_close(t - r, torch.full_like(t, 1 / n))
        places = Counter((t * n).tolist())
        assert set(places) == set(range(1, n + 1)) and min(places.values()) > 0.75 * 4000 / n


def test_the_average_of_weights_begins_anew_in_each_round():
    """After 4, 3 and 3 of 10 steps; decay min(0.98, (1 + k) / (10 + k)), k counted in the round."""
    trainer = trainer_of(Progressive(start_steps=4), 10, batch=8)
    mean = None
    for first, last in ((0, 4), (4, 7), (7, 10)):
        for k in range(last - first):
            before = trainer.ema if mean is None else mean
            decay = min(0.98, (1 + k) / (10 + k))
            before = copied(before)
            trainer.train_step()
            mean = {
                name: decay * before[name] + (1 - decay) * value
                for name, value in trainer.student.state_dict().items()
            }
    torch.testing.assert_close(trainer.ema, mean)


def test_the_schedule_of_rates_begins_anew_in_each_round():
    """Half a cosine from the peak over 4, 3 and 3 of 10 steps, and so in the round of one step."""
    trainer = trainer_of(Progressive(start_steps=4), 10, batch=8)
    (group,) = trainer.optimizers["student"].param_groups
    factors = []
    for _ in range(10):
        trainer.train_step()
        factors.append(group["lr"] / group["peak"])
    falling = [[(1 + math.cos(math.pi * k / n)) / 2 for k in range(n)] for n in (4, 3, 3)]
    assert factors == pytest.approx(sum(falling, []))


def test_rounds_that_are_not_powers_of_two():
    objective = Progressive(start_steps=12, final_steps=3)
    update = only_update(objective, Known(a_gaussian()))
    sizes = []
    for step in range(6):
        update.on_step(step, 6)
        b = update.draw(draws(a_gaussian(), 100, step))
        r, t = b["r"], b["t"]
        sizes.append(round(1 / (t - r).mean().item()))
        assert r.min() >= 0 and t.max() <= 1
    assert objective.rounds() == 3 and sizes == [12, 12, 6, 6, 3, 3]


def test_a_round_is_taught_by_the_weights_at_the_end_of_the_last():
    """4, 3 and 3 of 10 steps: u' changes before steps 4 and 7 alone, to the student of then."""
    trainer = trainer_of(Progressive(start_steps=4), steps=10, batch=16)
    (update,) = trainer.updates
    previous, changes = update.frozen["previous"], {}
    for step in range(10):
        old, student = copied(previous.state_dict()), copied(trainer.student.state_dict())
        trainer.train_step()
        new = previous.state_dict()
        if any(not torch.equal(old[name], new[name]) for name in old):
            changes[step] = all(torch.equal(student[name], new[name]) for name in new)
    assert changes == {4: True, 7: True}
    assert not any(p.requires_grad or p.grad is not None for p in previous.parameters())


@pytest.mark.parametrize("name", [objective().name for objective in TRAJECTORY])
@pytest.mark.parametrize("stop", [4, 5, 7])
def test_resume_is_exact(name, stop):
    """Stopped within a round or the warm-up, or after it, a run ends as one that was not."""
    given = {"progressive": {"start_steps": 4}, "scm": {"warmup_share": 0.8}}.get(name, {})
    objective = OBJECTIVES[name](**given)
    whole, halted, resumed = (trainer_of(objective, 10, seed=seed, batch=16) for seed in (0, 0, 1))
    for trainer, steps in ((whole, 10), (halted, stop)):
        for _ in range(steps):
            trainer.train_step()
    resumed.load_state(copied(halted.state()), stop)
    while resumed.step < 10:
        resumed.train_step()
    expected, found = whole.state(), resumed.state()
    assert expected.keys() == found.keys() and all(
        torch.equal(expected[key], found[key]) for key in expected
    )


def test_too_few_steps_for_the_rounds_are_refused():
    update = only_update(Progressive(start_steps=16), Known(a_gaussian()))
    update.on_step(0, 5)
    with pytest.raises(UserError, match="steps = 4: progressive distillation has 5 rounds"):
        update.on_step(0, 4)


# they reach their optimum

NO_WEIGHT = {"adaptive_power": 0.0}
REACHES = [
    MeanFlow(**NO_WEIGHT),
    ImprovedMeanFlow(**NO_WEIGHT),
    Consistency(intervals=8, **NO_WEIGHT),
    SCM(),
    Knowledge(),
    Reflow(),
    Progressive(start_steps=4),
    Shortcut(finest=8),
    Shortcut(finest=8, prob_t_equals_1=0.25),
    Boot(intervals=8),
]


@pytest.mark.slow
@pytest.mark.parametrize("objective", REACHES, ids=lambda objective: objective.name)
def test_training_reaches_the_optimum(objective):
    """After 1,000 steps u(eps, 0, 1) is within 3% of the method's own optimum (relative RMS).

    The teacher's velocity in its place is off by over 30%; a method whose optimum is an Euler
    sampler of few steps is nearer to that than to the ODE.
    """
    euler = objective.teacher_steps()
    assert euler == {"consistency": 8, "progressive": 8, "shortcut": 8, "boot": 8}.get(
        objective.name
    )
    trainer = trainer_of(objective, 1000)
    for _ in range(1000):
        trainer.train_step()
    trainer.student.load_state_dict(trainer.ema)
    eps, c = normal(4000, 1, 1, 1, seed=5), torch.zeros(4000, dtype=torch.long)
    exact = TRUTH.flow_map(eps, 0.0, 1.0)
    optimum = (
        exact
        if euler is None
        else sample_ode(lambda z, t, c: TRUTH.v(z, t.double()), eps, c, euler)
    )
    with torch.no_grad():
        found = generate(trainer.student, eps.float(), c)
    assert rms(found - optimum) < 0.03 * rms(eps - optimum)
    assert euler is None or rms(found - exact) > max(0.03 * rms(eps - exact), rms(found - optimum))
    assert rms(eps - TRUTH.v(eps, torch.ones(4000).double()) - exact) > 0.3 * rms(eps - exact)


# configuration


@pytest.mark.parametrize(
    ("method", "given", "sentence"),
    [
        (
            Progressive,
            {"start_steps": 12},
            "start_steps = 12: must be a power of two times final_steps, 1",
        ),
        (
            Progressive,
            {"start_steps": 2, "final_steps": 4},
            "start_steps = 2: must be a power of two times final_steps, 4",
        ),
        (
            Progressive,
            {"start_steps": 8, "final_steps": 3},
            "start_steps = 8: must be a power of two times final_steps, 3",
        ),
        (Shortcut, {"finest": 12}, "finest = 12: must be a power of two"),
        (Shortcut, {"consistency_share": 0.6, "prob_t_equals_1": 0.5}, "more than 1"),
        (ImprovedMeanFlow, {"prob_r_equals_t": 0.6, "prob_t_equals_1": 0.5}, "more than 1"),
    ],
)
def test_configurations_that_cannot_be_are_refused(method, given, sentence):
    with pytest.raises(UserError, match=sentence):
        validate(method, given, "suite.yaml")


def test_names_and_samplers():
    assert {method().name: method().sampler() for method in TRAJECTORY} == {
        "meanflow": "flow_map",
        "consistency": "consistency",
        "knowledge": "flow_map",
        "reflow": "flow_map",
        "progressive": "flow_map",
        "shortcut": "flow_map",
        "scm": "consistency",
        "improved_meanflow": "flow_map",
        "boot": "flow_map",
        "stochastic_consistency": "consistency",
        "slam": "consistency",
        "dual_end": "mix",
        "guidance_distillation": "ode",
        "twinflow": "flow_map",
    }


# cost


class SharedLedger(Ledger):
    """A copy of a watched network is counted under the name of the network that it copies."""

    def __deepcopy__(self, memo):
        return self


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize(
    "objective",
    [
        Knowledge(),
        Reflow(),
        SCM(),
        Shortcut(),
        Shortcut(consistency_share=0.5),
        Shortcut(consistency_share=0.0),
        Shortcut(prob_t_equals_1=0.25),
        ImprovedMeanFlow(),
        ImprovedMeanFlow(prob_r_equals_t=0.75),
        ImprovedMeanFlow(prob_r_equals_t=1.0, prob_t_equals_1=0.0),
        Progressive(start_steps=1),
        Progressive(start_steps=4),
        Boot(),
        StochasticConsistency(),
        StochasticConsistency(substeps=1, eta=0.0),
        SLAM(),
        DualEnd(),
        DualEnd(flow_share=0.5, noise_share=0.0),
        GuidanceDistillation(trajectory_steps=3),
        TwinFlow(),
    ],
)
def test_cost_is_counted(objective, guidance):
    """Every pass that is named and no other, over six steps: all rounds, equally long."""
    ledger, steps, batch = SharedLedger(), 6, 8
    teacher = ledger.watch("teacher", small_transformer(False).requires_grad_(False))
    student = ledger.watch("student", small_transformer(True, seed=1))
    images, labels = torch.rand(20, 1, 8, 8, generator=rng()) * 2 - 1, torch.arange(20) % 3
    problem = Problem(
        student=student,
        learning_rate=1e-4,
        teacher=teacher,
        teacher_velocity=guided(teacher, guidance),
        pairs=(torch.randn(20, 1, 8, 8, generator=rng(1)), images, labels),
    )
    training = Training(
        objective=FlowMatching(), steps=steps, batch=batch, learning_rate=1e-4, ema=0.9
    )
    trainer = Trainer(objective.updates(problem), training, student, (0, "test"), images, labels)
    for _ in range(steps):
        trainer.train_step()
    counted = {key: value / steps for key, value in ledger.passes(4, batch).items()}
    assert counted == pytest.approx(flattened(objective.passes(4, guidance != 1.0)))
