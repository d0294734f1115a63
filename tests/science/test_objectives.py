"""Objectives and heads against exactly solvable data, formulas by hand and a count of passes."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from itertools import product

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn

from hdbench.core.seeds import Draws, Split
from hdbench.flow.path import expand, guided, interpolate, velocity
from hdbench.methods import DMD, Consistency, FlowMatching, MeanFlow
from hdbench.methods.base import Objective, Problem, adaptive_mean_square, times_of
from hdbench.methods.discriminators import HEADS, build_head, parameter_count
from hdbench.methods.discriminators.awd import AwdLogit, AwdLoss, AwdPool
from hdbench.methods.discriminators.base import HeadOutput
from hdbench.methods.discriminators.patch import Patch
from hdbench.methods.distribution import dmd, gan
from hdbench.methods.distribution import generator as generator_module
from hdbench.methods.pretraining import flow_matching
from hdbench.methods.trajectory import consistency, meanflow
from hdbench.networks.config import TransformerConfig
from hdbench.networks.transformer import Transformer
from hdbench.stages.trainer import Trainer
from hdbench.suite.training import Training
from tests.support import shipped
from tests.support.counting import flattened
from tests.support.oracles import (
    Gaussian,
    Mixture,
    a_gaussian,
    a_mixture,
    gaussian_kl,
    sign_nodes,
    uniform_times,
)

DATA = {"gaussian": a_gaussian, "mixture": a_mixture}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


NO_LABELS = torch.zeros(1, dtype=torch.int64)


def pair_of_times(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """r <= t, every fourth row with r = t, the last with r = 0 and t = 1."""
    a, b = uniform_times(n, rng(seed)), uniform_times(n, rng(seed + 1))
    r, t = torch.minimum(a, b), torch.maximum(a, b)
    r[::4] = t[::4]
    r[-1], t[-1] = 0.0, 1.0
    return r, t


# adaptive weight


def test_adaptive_mean_square_by_hand():
    """Rows of mean square 2.5 and 9, p = 1/2, c = 1; the weight is not differentiated."""
    delta = torch.tensor([[[[1.0, 2.0]]], [[[3.0, -3.0]]]], dtype=torch.float64, requires_grad=True)
    value = adaptive_mean_square(delta, 0.5, 1.0)
    assert value.item() == pytest.approx((2.5 / 3.5**0.5 + 9 / 10**0.5) / 2)
    (gradient,) = torch.autograd.grad(value, delta)
    # w_b 2 delta / (2 dims) / batch
    expected = [1 / 3.5**0.5 / 2, 2 / 3.5**0.5 / 2, 3 / 10**0.5 / 2, -3 / 10**0.5 / 2]
    assert gradient.flatten().tolist() == pytest.approx(expected)


def test_adaptive_power_zero_is_the_mean_square():
    delta = normal(3, 2, 4, 4)
    torch.testing.assert_close(adaptive_mean_square(delta, 0.0, 1e-3), delta.square().mean())


# flow matching


def flow_matching_nodes(data: Gaussian, t: float):
    """x and eps on sign nodes: exact expectations of quadratic losses, on 1x1x1 images."""
    signs = sign_nodes()
    x, eps = (signs[:, i].reshape(-1, 1, 1, 1) for i in (0, 1))
    return data.mean + data.sd * x, eps, torch.full((len(signs),), t, dtype=torch.float64)


@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_flow_matching_at_the_true_velocity_is_the_conditional_variance(t):
    """E || v(z_t) - (eps - x) ||^2 = s^2 / sigma_t^2, and no affine change of v lowers it."""
    data = Gaussian(torch.tensor([[[0.7]]]), 0.4)
    x, eps, times = flow_matching_nodes(data, t)
    change = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    v = lambda z, t, c: data.v(z, t) + change[0] + change[1] * z
    loss, scalars = flow_matching.flow_matching_loss(v, x, eps, times, None)
    assert loss.item() == pytest.approx(data.conditional_variance(times[0]).item(), rel=1e-12)
    assert scalars["loss"] is loss
    (gradient,) = torch.autograd.grad(loss, change)
    assert gradient.abs().max() < 1e-12
    worse, _ = flow_matching.flow_matching_loss(
        lambda z, t, c: data.v(z, t) + 0.1, x, eps, times, None
    )
    assert worse.item() == pytest.approx(loss.item() + 0.01)


def test_flow_matching_gradient_vanishes_for_a_mixture_in_expectation():
    """Its Monte Carlo mean is within four standard errors of 0, at the true velocity only."""
    data, n = a_mixture(), 40000
    x, eps, t = data.sample(n, rng(1)), normal(n, 1, 2, 3, seed=2), uniform_times(n, rng(3))
    for offset, vanishes in ((0.0, True), (0.1, False)):
        change = torch.zeros(n, dtype=torch.float64, requires_grad=True)
        v = lambda z, t, c: data.v(z, t) + (offset + expand(change)) * torch.tanh(z)
        loss, _ = flow_matching.flow_matching_loss(v, x, eps, t, None)
        (gradient,) = torch.autograd.grad(loss, change)
        ratio = gradient.mean() / (gradient.std() / n**0.5)
        assert (abs(ratio) < 4) == vanishes


def test_times_are_logit_normal():
    """P(t <= q) = Phi((logit q - m) / s), and t stays in [0, 1] where u is 0 or nearly 1."""
    u = torch.cat([torch.linspace(0, 1 - 2**-24, 1001), torch.tensor([0.5])])
    assert torch.equal(times_of(u, None), u)
    for m, s in ((0.0, 1.0), (0.7, 0.5)):
        t = times_of(u, (m, s))
        assert t[0] == 0 and t[1000] <= 1 and (t[:1001].diff() > 0).all()
        phi = 0.5 * (1 + torch.erf((t.double().logit() - m) / (s * 2**0.5)))
        torch.testing.assert_close(phi[:-2].float(), u[:-2], atol=1e-5, rtol=0)
        assert t[-1] == pytest.approx(1 / (1 + math.exp(-m)))


def test_label_dropout_replaces_its_share_by_the_null_label():
    network = small_transformer(False)
    problem = Problem(student=network, learning_rate=1e-3)
    (update,) = FlowMatching(label_dropout=0.3).updates(problem)
    labels = torch.arange(20) % 3
    draws = Draws((0,), torch.zeros(20, 1, 8, 8), labels, 4000)
    drawn = update.draw(draws)
    t, c = drawn["t"], drawn["c"]
    assert abs((c == network.null_label).float().mean() - 0.3) < 0.03
    assert set(c.unique().tolist()) == {0, 1, 2, 3} and 0 <= t.min() and t.max() <= 1


# MeanFlow


def test_times_of_meanflow_are_the_order_statistics_of_two_logit_normals():
    """E max and E min of two draws by a quadrature of their distribution function F: the densities
    are 2 F f and 2 (1 - F) f.
    """
    d = Draws((5,), torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.long), 40000)
    objective = MeanFlow(prob_r_equals_t=0.25, prob_t_equals_1=0.0, logit_normal=(-0.4, 1.0))
    r, t, moving = objective.draw_times(d)
    u = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    quantiles = torch.sigmoid(-0.4 + torch.special.ndtri(u))
    assert (r[: moving.at] == t[: moving.at]).all() and (r <= t).all()
    largest, least = (2 * u * quantiles).mean(), (2 * (1 - u) * quantiles).mean()
    assert t.double().mean() == pytest.approx(largest.item(), abs=4e-3)
    assert r[moving.at :].double().mean() == pytest.approx(least.item(), abs=4e-3)


def test_the_first_share_of_meanflows_steps_takes_the_teacher_without_guidance():
    """Also where a run goes on from a checkpoint inside the first share; passes count it."""
    plain, strong = small_transformer(False), small_transformer(False, seed=1)
    problem = Problem(
        student=small_transformer(True, seed=2),
        learning_rate=1e-3,
        teacher=plain,
        teacher_velocity=velocity(strong),
    )
    draws = Draws((0,), torch.randn(9, 1, 8, 8), torch.arange(9) % 3, 12)
    (update,) = MeanFlow(unguided=0.25).updates(problem)
    batch = update.draw(draws)

    def expected(teacher) -> float:
        z = interpolate(batch["x"], batch["eps"], batch["t"])
        v = velocity(teacher)(z, batch["t"], batch["c"]).detach()
        residual = meanflow.meanflow_residual(problem.student, v, z, *(batch[k] for k in "rtc"))
        return residual.square().mean().item()

    ways = [expected(plain), expected(strong)]
    assert abs(ways[0] - ways[1]) > 1e-3
    for step, way in ((0, 0), (4, 0), (5, 1), (19, 1), (3, 0)):
        update.on_step(step, 20)
        assert update.loss(batch)[1]["mean_square"].item() == pytest.approx(ways[way], rel=1e-5)
    assert MeanFlow(unguided=0.25).passes(4, True)["teacher"].forward == 1.75
    assert MeanFlow(unguided=0.25).passes(4, False)["teacher"].forward == 1
    assert (
        "unguided" not in MeanFlow().model_dump() and "logit_normal" not in MeanFlow().model_dump()
    )


@pytest.mark.slow
@pytest.mark.parametrize("data", DATA)
def test_meanflow_residual_vanishes_at_the_true_mean_velocity_only(data):
    """u = v - (t - r) du/dt fails for v itself, for a scaled u, and with the wrong v."""
    oracle, (r, t) = DATA[data](), pair_of_times(16)
    z = interpolate(oracle.sample(16, rng(2)), normal(16, 1, 2, 3, seed=3), t)
    v = oracle.v(z, t)
    residual = partial(meanflow.meanflow_residual, z=z, r=r, t=t, c=torch.zeros(16))
    assert residual(oracle.u, v).abs().max() < (1e-12 if data == "gaussian" else 1e-6)
    wrong = {
        "v": residual(lambda z, r, t, c: oracle.v(z, t), v),
        "scaled": residual(lambda *a: 1.1 * oracle.u(*a), v),
        "other v": residual(oracle.u, v + 0.1),
    }
    for name, value in wrong.items():
        assert value.square().mean().sqrt() > 0.05, name


def test_meanflow_residual_is_the_equation_with_an_independent_derivative():
    """u - v + (t - r) (v . grad_z u + d_t u) for any u, by central differences.

    Rows with r = t are alike with a JVP and without.
    """

    def u(z, r, t, c):
        return torch.sin(2 * z) * expand(t) ** 2 + z * expand(r * t) + expand(c) * z**2

    n, h = 9, 1e-5
    (r, t), c = pair_of_times(n), 0.1 * torch.arange(n).double()
    z, v = normal(n, 1, 2, 2), normal(n, 1, 2, 2, seed=1)
    du_dt = (u(z + h * v, r, t + h, c) - u(z - h * v, r, t - h, c)) / (2 * h)
    expected = u(z, r, t, c) - v + expand(t - r) * du_dt
    found = meanflow.meanflow_residual(u, v, z, r, t, c)  # all rows by the JVP
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-7)
    order = torch.argsort((r < t).int(), stable=True)
    moving = Split(at=int((r == t).sum()), before=True, after=True)
    split = meanflow.meanflow_residual(u, *(x[order] for x in (v, z, r, t, c)), moving)
    torch.testing.assert_close(split, expected[order], atol=1e-8, rtol=1e-7)


def test_meanflow_target_carries_no_gradient():
    """d loss / d theta = 2 residual . d u_theta / d theta, the target held fixed."""
    oracle, (r, t) = a_gaussian(), pair_of_times(12)
    z = normal(12, 1, 2, 3)
    v = oracle.v(z, t)
    theta = torch.tensor([1.3, 0.4], dtype=torch.float64, requires_grad=True)
    u = lambda z, r, t, c: theta[0] * oracle.u(z, r, t) + theta[1] * expand(t) * z**2
    residual = meanflow.meanflow_residual(u, v, z, r, t, torch.zeros(12))
    (found,) = torch.autograd.grad(residual.square().sum(), theta)
    parts = (oracle.u(z, r, t), expand(t) * z**2)
    expected = torch.stack([2 * (residual.detach() * part).sum() for part in parts])
    torch.testing.assert_close(found, expected)


def test_meanflow_target_holds_the_velocity_fixed_too():
    """sg covers all of v - (t - r) du/dt: a velocity with a graph (a student's own) gets none."""
    (r, t), z = pair_of_times(12), normal(12, 1, 2, 3)
    v = normal(12, 1, 2, 3, seed=1).requires_grad_()
    theta = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    residual = meanflow.meanflow_residual(
        lambda z, r, t, c: theta * expand(t) * z**2, v, z, r, t, torch.zeros(12)
    )
    (at_v,) = torch.autograd.grad(residual.square().sum(), v, allow_unused=True)
    assert at_v is None or not at_v.any()


@pytest.mark.parametrize(("still", "moving"), [(3, 5), (8, 0), (0, 8)])
def test_jvp_runs_on_moving_rows_alone(monkeypatch, still, moving):
    """Rows with r = t cost no tangent, a batch of them no pass; tangents are (v, 0, 1)."""
    calls, evaluated, real = [], [], meanflow.jvp

    def counting(function, primals, tangents):
        calls.append((primals, tangents))
        return real(function, primals, tangents)

    def u(z, r, t, c):
        evaluated.append(len(z))
        return z * expand(t)

    monkeypatch.setattr(meanflow, "jvp", counting)
    n, t = still + moving, torch.full((still + moving,), 0.8)
    r = torch.cat([t[:still], torch.full((moving,), 0.3)])
    z, v = torch.randn(n, 1, 2, 2, generator=rng()), torch.randn(n, 1, 2, 2, generator=rng(1))
    split = Split(at=still, before=bool(still), after=bool(moving))
    residual = meanflow.meanflow_residual(u, v, z, r, t, torch.zeros(n), split)
    assert len(residual) == n and sorted(evaluated) == sorted(k for k in (still, moving) if k)
    if not moving:
        assert not calls
        return
    ((primals, tangents),) = calls
    assert all(len(x) == moving for x in (*primals, *tangents))
    assert torch.equal(tangents[0], v[still:])
    assert not tangents[1].any() and (tangents[2] == 1).all()


@pytest.mark.slow
def test_meanflow_training_reaches_the_true_mean_velocity():
    """u = a(r, t) + b(r, t) z by a small network, after 1,000 steps on N(0.8, 0.4^2).

    Its relative RMS error is under 5% over the drawn (r, t) and under 4% for one step from noise,
    where the velocity in its place is off by 40%.
    """
    data = Gaussian(torch.tensor([[[0.8]]]), 0.4)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))

    def u(z, r, t, c):
        a, b = net(torch.stack([t, t - r], dim=1)).unbind(1)
        return expand(a) + expand(b) * z

    objective = MeanFlow(adaptive_power=0.0)
    steps, batch, g = 1000, 256, rng()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-2, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        r, t, moving = objective.draw_times(Draws((step,), data.mean[None], NO_LABELS, batch))
        x = data.sample(batch, g).float()
        z = interpolate(x, torch.randn(x.shape, generator=g), t)
        delta = meanflow.meanflow_residual(u, data.v(z, t).float(), z, r, t, t, moving)
        optimizer.zero_grad()
        adaptive_mean_square(delta, 0.0, 1e-3).backward()
        optimizer.step()
        schedule.step()
    n = 4000
    r, t, _ = objective.draw_times(Draws((-1,), data.mean[None], NO_LABELS, n))
    z = interpolate(data.sample(n, g).float(), torch.randn(n, 1, 1, 1, generator=g), t)
    eps, zero, one = torch.randn(n, 1, 1, 1, generator=g), torch.zeros(n), torch.ones(n)
    off = lambda found, exact: ((found - exact).square().mean() / exact.square().mean()).sqrt()
    with torch.no_grad():
        everywhere = off(u(z, r, t, t), data.u(z, r, t))
        one_step = off(u(eps, zero, one, one), data.u(eps, zero, one))
    assert off(data.v(eps, one), data.u(eps, zero, one)) > 0.3
    assert everywhere < 0.05 and one_step < 0.04


@pytest.mark.parametrize(
    ("share_equal", "share_one", "n"),
    [(0.25, 0.25, 64), (0.0, 0.5, 10), (1.0, 0.0, 8), (0.5, 0.0, 7), (0.3, 0.7, 10), (0.0, 0.0, 5)],
)
def test_draw_times_has_exact_shares(share_equal, share_one, n):
    objective = MeanFlow(prob_r_equals_t=share_equal, prob_t_equals_1=share_one)
    draws = Draws((4,), torch.zeros(2, 1, 1, 1), NO_LABELS, n)
    a, b = draws.uniform(), draws.uniform()
    r, t, moving = objective.draw_times(Draws((4,), torch.zeros(2, 1, 1, 1), NO_LABELS, n))
    assert moving.at == (r == t).sum() and (r[: moving.at] == t[: moving.at]).all()
    assert (r <= t).all() and (r >= 0).all() and (t <= 1).all()
    assert (r == t).sum() == round(share_equal * n) and (t == 1).sum() == round(share_one * n)
    free = (r < t) & (t < 1)
    assert torch.equal(t[free], torch.maximum(a, b)[free])
    assert torch.equal(r[free], torch.minimum(a, b)[free])


def test_shares_over_one_are_refused():
    with pytest.raises(ValueError, match="more than 1"):
        MeanFlow(prob_r_equals_t=0.6, prob_t_equals_1=0.5)


# consistency


@pytest.mark.parametrize("data", DATA)
def test_consistency_residual_vanishes_at_second_order(data):
    """With exact u only the Euler step errs, by O((t - s)^2): half the step, a quarter of it."""
    oracle, n = DATA[data](), 32
    t = uniform_times(n, rng(1), 0.3, 0.95)
    z = interpolate(oracle.sample(n, rng(2)), normal(n, 1, 2, 3, seed=3), t)
    sizes = []
    for step in (0.04, 0.02, 0.01):
        residual = consistency.consistency_residual(oracle.u, oracle.v(z, t), z, t - step, t, None)
        sizes.append(residual.abs().mean().item())
    assert sizes[0] > 1e-5
    assert sizes[0] / sizes[1] == pytest.approx(4, abs=0.25)
    assert sizes[1] / sizes[2] == pytest.approx(4, abs=0.15)
    wrong = consistency.consistency_residual(
        lambda z, r, t, c: oracle.v(z, t), oracle.v(z, t), z, t - 0.01, t, None
    )
    assert wrong.abs().mean() > 20 * sizes[2]


def test_consistency_function_is_the_identity_at_zero_and_the_flow_map_elsewhere():
    oracle, z = a_gaussian(), normal(5, 1, 2, 3)
    zero, t = torch.zeros(5, dtype=torch.float64), torch.full((5,), 0.7, dtype=torch.float64)
    assert torch.equal(consistency.consistency(lambda z, r, t, c: 1e6 + z, z, zero, None), z)
    torch.testing.assert_close(
        consistency.consistency(oracle.u, z, t, None), oracle.flow_map(z, 0.0, 0.7)
    )


def test_consistency_target_carries_no_gradient():
    """d residual / d theta = -t d u / d theta at (z_t, 0, t) alone."""
    theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    z, v, t = normal(4, 1, 2, 2), normal(4, 1, 2, 2, seed=1), uniform_times(4, rng())
    residual = consistency.consistency_residual(
        lambda z, r, t, c: theta * z**2, v, z, t - 0.05, t, None
    )
    (found,) = torch.autograd.grad(residual.sum(), theta)
    torch.testing.assert_close(found, -(expand(t) * z**2).sum())


def test_consistency_draws_the_teachers_grid():
    """t on {1/K, ..., 1}, s = t - 1/K, every interval equally often."""
    k = 5
    network = small_transformer(True)
    problem = Problem(student=network, learning_rate=1e-3, teacher_velocity=lambda z, t, c: z)
    (update,) = Consistency(intervals=k).updates(problem)
    drawn = update.draw(
        Draws((0,), torch.zeros(6, 1, 8, 8), torch.zeros(6, dtype=torch.long), 5000)
    )
    s, t = drawn["s"], drawn["t"]
    torch.testing.assert_close(t - s, torch.full_like(t, 1 / k))
    shares = torch.bincount((t * k).round().long(), minlength=k + 1) / len(t)
    assert shares[0] == 0 and (shares[1:] - 1 / k).abs().max() < 0.03
    assert s.min() == 0 and t.max() == 1


# DMD


def renoised(fake, t: Tensor, n: int):
    x_hat = fake.sample(n, rng(11))
    return x_hat, interpolate(x_hat, normal(*x_hat.shape, seed=12), t)


@pytest.mark.parametrize("data", DATA)
def test_dmd_gradient_is_the_score_difference(data):
    """g = t^2 / (1 - t) (s_fake - s_real) / mean |x_hat - x_real|, by scores of the densities.

    From x = z - t v and v = -(z + t s) / (1 - t):
    x_fake - x_real = t (v_real - v_fake) = t^2 / (1 - t) (s_fake - s_real).
    """
    real, n = DATA[data](), 12
    fake = Mixture(real.means.flip(-1) + 0.2, 1.2 * real.sds, real.shares.flip(0))
    t = uniform_times(n, rng(10))
    x_hat, z = renoised(fake, t, n)
    g = dmd.dmd_gradient(x_hat, z, t, None, real.v, fake.v)
    norm = (x_hat - real.denoised(z, t)).abs().mean(dim=(1, 2, 3))
    difference = fake.score(z, t) - real.score(z, t)
    torch.testing.assert_close(g, expand(t**2 / (1 - t) / norm) * difference)
    assert g.abs().mean() > 0.01
    assert torch.equal(dmd.dmd_gradient(x_hat, z, t, None, real.v, real.v), torch.zeros_like(g))


def test_dmd_gradient_points_away_from_the_fake_towards_the_real():
    """x_hat - g is closer to the real mean, from either side; the gradient is detached."""
    real = Gaussian(torch.zeros(1, 2, 2), 0.5)
    for mean in (1.0, -1.0):
        fake = Gaussian(torch.full((1, 2, 2), mean), 0.5)
        t = uniform_times(64, rng(1))
        x_hat, z = renoised(fake, t, 64)
        x_hat.requires_grad_()
        g = dmd.dmd_gradient(x_hat, z, t, None, real.v, fake.v)
        assert not g.requires_grad and (g * mean > 0).all()


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_dmd_gradient_is_the_gradient_of_the_kl_divergence(t):
    """E[(x_fake - x_real) dx/dtheta] = t^2 / (1 - t)^2 dKL(p_fake,t || p_real,t)/dtheta.

    For x = a eps + b exactly.
    """
    a, b, mean, sd = 0.7, -0.3, 0.4, 0.5
    real, fake = Gaussian(torch.full((1, 1, 1), mean), sd), Gaussian(torch.full((1, 1, 1), b), a)
    eps, eps_renoise = (column.reshape(-1, 1, 1, 1) for column in sign_nodes().T)
    x_hat, times = a * eps + b, torch.full((4,), t, dtype=torch.float64)
    z = interpolate(x_hat, eps_renoise, times)
    norm = (x_hat - real.denoised(z, times)).abs()  # one dimension: undo the normalisation
    unnormalised = dmd.dmd_gradient(x_hat, z, times, None, real.v, fake.v) * norm
    theta = torch.tensor([a, b], dtype=torch.float64, requires_grad=True)
    variance = lambda s: (1 - t) ** 2 * s**2 + t**2
    kl = gaussian_kl(
        (1 - t) * theta[1],
        variance(theta[0]),
        torch.tensor((1 - t) * mean),
        torch.tensor(variance(sd)),
    )
    expected = t**2 / (1 - t) ** 2 * torch.autograd.grad(kl, theta)[0]
    found = torch.stack([(unnormalised * eps).mean(), unnormalised.mean()])
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-6)


def test_surrogate_gradient_is_g_over_numel():
    x, g = normal(3, 2, 4, 4).requires_grad_(), normal(3, 2, 4, 4, seed=1)
    loss = generator_module.generator_surrogate(x, g)
    assert loss.item() == pytest.approx(0.5 * g.square().mean().item())
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], g / g.numel())


def test_dmd_training_matches_the_real_mean_and_sd():
    """x = a eps + b with the exact fake of N(b, a^2) comes within 3% of N(0.6, 0.35^2)."""
    real, g = Gaussian(torch.full((1, 2, 2), 0.6), 0.35), rng()
    theta = torch.tensor([1.2, -0.8], dtype=torch.float64, requires_grad=True)
    steps = 300
    optimizer = torch.optim.Adam([theta], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        eps, eps_renoise = (
            torch.randn(128, 1, 2, 2, generator=g, dtype=torch.float64) for _ in range(2)
        )
        t = uniform_times(128, g, 0.02, 0.98)
        x_hat = theta[0] * eps + theta[1]
        a, b = theta.tolist()
        fake = Gaussian(torch.full((1, 2, 2), b), a)
        gradient = dmd.dmd_gradient(
            x_hat.detach(), interpolate(x_hat.detach(), eps_renoise, t), t, None, real.v, fake.v
        )
        optimizer.zero_grad()
        generator_module.generator_surrogate(x_hat, gradient).backward()
        optimizer.step()
        schedule.step()
    a, b = theta.tolist()
    assert (abs(a), b) == (pytest.approx(0.35, rel=0.03), pytest.approx(0.6, rel=0.03))


# GAN

LAYERS, WIDTH, GRID = 2, 16, 4


def tokens(n: int = 5, seed: int = 0, width: int = WIDTH) -> list[Tensor]:
    return [normal(n, GRID**2, width, seed=seed + 10 * layer) for layer in range(LAYERS)]


def head(cls, queries: float = 0.0, seed: int = 0) -> nn.Module:
    """A head in float64 whose queries are zero, or normal of this size, with normal keys."""
    torch.manual_seed(seed)
    module = cls(LAYERS, WIDTH, GRID, 12).double()
    if cls.adaptive:
        with torch.no_grad():
            weights = module.token_weights
            weights.queries.copy_(queries * normal(*weights.queries.shape, seed=3))
            for number, key in enumerate(weights.keys):
                key.weight.copy_(normal(*key.weight.shape, seed=4 + number) / WIDTH**0.5)
    return module


@pytest.mark.parametrize("kind", ["non_saturating", "hinge"])
def test_awd_loss_with_zero_queries_is_patch(kind):
    """Both losses' values and gradients, with the same MLPs; with other queries they differ."""
    patch, real, fake = head(Patch, seed=1), tokens(seed=1), tokens(seed=2)
    for queries, equal in ((0.0, True), (2.0, False)):
        awd = head(AwdLoss, queries)
        awd.mlps.load_state_dict(patch.mlps.state_dict())
        results = []
        for module in (patch, awd):
            losses = (
                gan.critic_loss(module(real), module(fake), kind),
                gan.generator_loss(module(fake), kind),
            )
            gradients = [
                torch.autograd.grad(loss, list(module.mlps.parameters()), retain_graph=True)
                for loss in losses
            ]
            results.append((losses, gradients))
        (patch_losses, patch_gradients), (awd_losses, awd_gradients) = results
        for a, b in zip(patch_losses, awd_losses, strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=0) == equal
        for a, b in zip(
            sum(map(list, patch_gradients), []), sum(map(list, awd_gradients), []), strict=True
        ):
            if equal:
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["awd_loss", "awd_logit", "awd_pool"])
def test_awd_starts_at_uniform_weights(name):
    module = build_head(name, layers=LAYERS, width=WIDTH, grid=GRID, parameters=2000).double()
    torch.testing.assert_close(
        module(tokens()).token_weights, torch.full((5, GRID**2), 1 / GRID**2, dtype=torch.float64)
    )


def test_awd_weights_by_hand():
    """w = mean over layers and queries of softmax_i(q . K_q h_i / sqrt(d_k)), in three readings."""
    real = tokens(seed=4)
    loss_head, logit_head, pool_head = (head(cls, 1.5) for cls in (AwdLoss, AwdLogit, AwdPool))
    weigh = loss_head.token_weights
    w = torch.zeros(5, GRID**2, dtype=torch.float64)
    for h, key, queries in zip(real, weigh.keys, weigh.queries, strict=True):
        for q, k in zip(queries, key.weight.unflatten(0, queries.shape), strict=True):
            w += torch.softmax((h @ k.T) @ q / math.sqrt(len(q)), dim=1) / (LAYERS * len(queries))
    assert w.std() > 0.005
    verdict = loss_head(real)
    torch.testing.assert_close(verdict.token_weights, w)
    losses = torch.stack(
        [F.softplus(-mlp(h).squeeze(-1)) for mlp, h in zip(loss_head.mlps, real, strict=True)]
    )  # (layers, B, N)
    torch.testing.assert_close(
        gan.generator_loss(verdict, "non_saturating"), (w * losses).sum(-1).mean()
    )
    for module in (logit_head, pool_head):
        module.token_weights.load_state_dict(weigh.state_dict())
    logits = torch.stack(
        [(w * mlp(h).squeeze(-1)).sum(1) for mlp, h in zip(logit_head.mlps, real, strict=True)],
        dim=1,
    )
    torch.testing.assert_close(logit_head(real).logits, logits)
    pooled = [
        mlp((w[..., None] * value(h)).sum(1))
        for mlp, value, h in zip(pool_head.mlps, pool_head.values, real, strict=True)
    ]
    torch.testing.assert_close(pool_head(real).logits, torch.cat(pooled, dim=1))


def test_awd_queries_of_a_layer_learn_different_weights():
    """Queries that start alike and stay alike for ever would be one query, not several."""
    torch.manual_seed(0)
    module = AwdLoss(LAYERS, WIDTH, GRID, 12)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(20):
        real, fake = ([h.float() for h in tokens(32, seed=100 * step + shift)] for shift in (1, 2))
        real = [h + torch.linspace(0, 1, GRID**2)[:, None] for h in real]
        optimizer.zero_grad()
        gan.critic_loss(module(real), module(fake), "non_saturating").backward()
        optimizer.step()
    weights = module.token_weights
    by_query = [
        torch.softmax((key(h).unflatten(-1, q.shape) * q).sum(-1), dim=1)
        for key, q, h in zip(weights.keys, weights.queries, real, strict=True)
    ]
    assert weights(real).std() > 1e-4  # it has learned to weigh at all
    assert torch.stack(by_query).std(dim=-1).max() > 1e-5


@pytest.mark.parametrize("name", shipped.HEADS)
def test_weights_of_every_head_sum_to_one(name):
    module = head(HEADS[name], queries=2.0)
    verdict = module(tokens())
    ones = torch.ones(5, dtype=torch.float64)
    assert verdict.logits.shape == verdict.weights.shape
    assert verdict.token_weights.shape == (5, GRID**2)
    torch.testing.assert_close(verdict.weights.sum(1), ones)
    torch.testing.assert_close(verdict.token_weights.sum(1), ones)
    assert (verdict.weights >= 0).all() and (verdict.token_weights >= 0).all()


@pytest.mark.parametrize("name", shipped.HEADS)
def test_heads_judge_samples_one_by_one_and_read_every_layer_and_token(name):
    module = head(HEADS[name], queries=1.0)
    real = tokens()
    torch.testing.assert_close(module([h[:2] for h in real]).logits, module(real).logits[:2])
    real = [h.requires_grad_() for h in real]
    gradients = torch.autograd.grad(gan.generator_loss(module(real), "non_saturating"), real)
    assert all((g.abs().amax(-1) > 0).all() for g in gradients)


def test_pooled_head_sees_the_mean_token_only():
    module, real = head(HEADS["pooled"]), tokens()
    shuffled = [h[:, torch.randperm(GRID**2, generator=rng())] for h in real]
    torch.testing.assert_close(module(real).logits, module(shuffled).logits)
    conv = head(HEADS["conv"])
    assert not torch.allclose(conv(real).logits, conv(shuffled).logits, atol=1e-3)


def verdict(*rows: list[float], weights: list[float]) -> HeadOutput:
    logits = torch.tensor(rows, dtype=torch.float64)
    w = torch.tensor(weights, dtype=torch.float64).expand_as(logits)
    return HeadOutput(logits, w, w)


def test_gan_losses_by_hand():
    """Means over the batch of 0.25 loss(first logit) + 0.75 loss(second)."""
    w = [0.25, 0.75]
    real = verdict([2.0, 0.5], [-1.0, 3.0], weights=w)
    fake = verdict([0.5, -2.0], [-0.5, 1.0], weights=w)
    hinge_real, hinge_fake = (0.75 * 0.5 + 0.25 * 2) / 2, (0.25 * 1.5 + 0.25 * 0.5 + 0.75 * 2) / 2
    assert gan.critic_loss(real, fake, "hinge").item() == pytest.approx(hinge_real + hinge_fake)
    assert gan.generator_loss(fake, "hinge").item() == pytest.approx(
        -(0.125 - 1.5 - 0.125 + 0.75) / 2
    )
    softplus = lambda s: math.log(1 + math.exp(s))
    row = lambda first, second: 0.25 * softplus(first) + 0.75 * softplus(second)
    on_real, on_fake = (row(-2, -0.5) + row(1, -3)) / 2, (row(0.5, -2) + row(-0.5, 1)) / 2
    assert gan.critic_loss(real, fake, "non_saturating").item() == pytest.approx(on_real + on_fake)
    generator = (row(-0.5, 2) + row(0.5, -1)) / 2
    assert gan.generator_loss(fake, "non_saturating").item() == pytest.approx(generator)


def test_approximate_r1():
    clean = verdict([1.0, 2.0], weights=[0.25, 0.75])
    noisy = verdict([3.0, 1.0], weights=[0.5, 0.5])
    assert gan.approximate_r1(clean, clean).item() == 0
    assert gan.approximate_r1(clean, noisy).item() == pytest.approx(0.25 * 4 + 0.75 * 1)


def test_image_gradient_is_the_derivative_and_leaves_networks_alone():
    layer, x = nn.Linear(4, 1).double(), normal(3, 1, 2, 2).requires_grad_()
    g = gan.image_gradient(lambda x: layer(x.flatten(1)).square().sum(), x)
    s = layer(x.detach().flatten(1))
    torch.testing.assert_close(g, (2 * s * layer.weight).detach().reshape(3, 1, 2, 2))
    assert not g.requires_grad and x.grad is None
    assert all(p.grad is None for p in layer.parameters())


def test_normalised_entropy():
    assert gan.normalised_entropy(torch.full((3, 16), 1 / 16)).item() == pytest.approx(1)
    assert gan.normalised_entropy(F.one_hot(torch.tensor([0, 5]), 16).double()).item() == 0
    half = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    assert gan.normalised_entropy(half).item() == pytest.approx(0.5)


# parameter budgets of the heads


@pytest.mark.parametrize("name", shipped.HEADS)
@pytest.mark.parametrize(
    ("layers", "width", "grid", "budget"),
    [
        (2, 64, 4, 20000),
        (1, 64, 4, 20000),
        (2, 32, 4, 8000),
        (3, 64, 8, 60000),
        (2, 128, 8, 100000),
    ],
)
def test_heads_meet_their_budget(name, layers, width, grid, budget):
    module = build_head(name, layers=layers, width=width, grid=grid, parameters=budget)
    size = sum(p.numel() for p in module.parameters())
    assert size == parameter_count(module) and abs(size - budget) <= 0.1 * budget
    verdict = module([torch.randn(2, grid**2, width) for _ in range(layers)])
    assert verdict.logits.shape[0] == 2


def test_heads_take_the_nearest_width():
    """No other hidden width of the patch head, of hidden (width + 2) + 1 a layer, is closer."""
    for budget in (5000, 5030, 7777, 20000):
        size = parameter_count(build_head("patch", layers=2, width=64, grid=4, parameters=budget))
        sizes = [2 * (hidden * 66 + 1) for hidden in range(1, 400)]
        assert abs(size - budget) == min(abs(s - budget) for s in sizes)


@pytest.mark.parametrize(("name", "budget"), [("pooled", 20), ("awd_pool", 5000), ("conv", 300)])
def test_an_impossible_budget_is_refused(name, budget):
    with pytest.raises(ValueError, match=f"{name}.*{budget}"):
        build_head(name, layers=2, width=64, grid=4, parameters=budget)


# cost: what `passes` says, against a count of what runs


class Ledger:
    """Rows through the blocks of networks, by (network, kind of call, kind of pass).

    Calls are "full" or "features"; passes are "forward", "backward" or "tangent".  A block's output
    projection is tapped: each call adds its rows to the forward count; in backward, a gradient to
    its input adds them once and a gradient to its weight once, so a backward to parameters counts
    two and one to the image alone counts one.
    """

    def __init__(self):
        self.rows, self.kind = Counter(), "full"

    def watch(self, name: str, network: Transformer) -> Transformer:
        for block in network.blocks:
            block.proj.forward = partial(self._project, name, block.proj)
        network.features = partial(self._features, network.features)
        return network

    def _features(self, features, *arguments):
        self.kind = "features"
        try:
            return features(*arguments)
        finally:
            self.kind = "full"

    def _project(self, name: str, layer: nn.Linear, x: Tensor) -> Tensor:
        kind, rows = self.kind, len(x)
        self.rows[name, kind, "forward"] += rows
        if forward_ad.unpack_dual(x).tangent is not None:
            self.rows[name, kind, "tangent"] += rows

        def count(_):
            self.rows[name, kind, "backward"] += rows

        x, weight = x.view_as(x), layer.weight.view_as(layer.weight)
        for tensor in (x, weight):
            if tensor.requires_grad:
                tensor.register_hook(count)
        return F.linear(x, weight, layer.bias)

    def passes(self, depth: int, batch: int) -> dict[tuple[str, str, str], float]:
        """Per sample, in forwards of the whole network."""
        return {key: rows / depth / batch for key, rows in self.rows.items()}


def small_transformer(mean_velocity: bool, seed: int = 0, depth: int = 4) -> Transformer:
    torch.manual_seed(seed)
    config = TransformerConfig(width=16, depth=depth, heads=2, patch=2)
    network = Transformer(config, image_size=8, channels=1, classes=3, mean_velocity=mean_velocity)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return network


def count_one_step(objective: Objective, guidance: float, batch: int = 8):
    """Passes counted over one step of the trainer, and what the objective says they are."""
    ledger = Ledger()
    teacher = ledger.watch("teacher", small_transformer(False).requires_grad_(False))
    student = ledger.watch("student", small_transformer(objective.role == "student", seed=1))

    def build(name, settings):
        return build_head(
            name, layers=len(settings.blocks), width=16, grid=4, parameters=settings.parameters
        )

    problem = Problem(
        student=student,
        learning_rate=1e-4,
        teacher=teacher,
        teacher_velocity=guided(teacher, guidance),
        copy_teacher=lambda: ledger.watch("fake", small_transformer(False, seed=2)),
        head=build,
    )
    training = Training(objective=objective, steps=2, batch=batch, learning_rate=1e-4, ema=0.9)
    images, labels = torch.rand(20, 1, 8, 8, generator=rng()) * 2 - 1, torch.arange(20) % 3
    trainer = Trainer(objective.updates(problem), training, student, (0, "test"), images, labels)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    trainer.train_step()
    assert any(not torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    return ledger.passes(4, batch), objective.passes(4, guidance != 1.0)


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize(
    "objective",
    [
        FlowMatching(),
        Consistency(),
        MeanFlow(),
        MeanFlow(prob_r_equals_t=0.0),
        MeanFlow(prob_r_equals_t=0.75),
        MeanFlow(prob_r_equals_t=1.0, prob_t_equals_1=0.0),
    ],
)
def test_cost_of_trajectory_objectives(objective, guidance):
    """Every pass that is named, and no pass that is not."""
    counted, stated = count_one_step(objective, guidance)
    assert counted == pytest.approx(flattened(stated))


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize(
    ("discriminator", "feature_network", "r1_weight"),
    [("none", "teacher", 0.0), *product(shipped.HEADS, ["teacher", "fake"], [0.0, 0.5])],
)
def test_cost_of_distribution_matching(discriminator, feature_network, r1_weight, guidance):
    """Features run through 3 of 4 blocks, with a backward to the image, of the fake to both."""
    settings = gan.GanSettings(
        feature_network=feature_network, r1_weight=r1_weight, blocks=(2, 3), parameters=4000
    )
    objective = DMD(discriminator=discriminator, gan=settings, fake_steps_per_generator_step=2)
    counted, stated = count_one_step(objective, guidance)
    assert counted == pytest.approx(flattened(stated, feature_network))


# stage 2 as a whole


def stage_two(discriminator: str, **settings):
    """Networks by name, alike at every call, the two updates, and draws from a small data set."""
    objective = DMD(discriminator=discriminator, gan=gan.GanSettings(parameters=4000, **settings))
    teacher = small_transformer(False).requires_grad_(False)
    student, fake = small_transformer(True, 1), small_transformer(False, 2)
    head = partial(build_head, layers=2, width=16, grid=4, parameters=4000)
    problem = Problem(
        student=student,
        learning_rate=1e-3,
        teacher=teacher,
        teacher_velocity=guided(teacher, 1.5),
        copy_teacher=lambda: fake,
        head=lambda name, _: head(name),
    )
    images, labels = torch.rand(20, 1, 8, 8, generator=rng()) * 2 - 1, torch.arange(20) % 3
    critic, generator = objective.updates(problem)
    modules = {"teacher": teacher, "student": student} | critic.modules
    return modules, critic, generator, Draws((0,), images, labels, 8)


@pytest.mark.parametrize("feature_network", ["teacher", "fake"])
def test_generator_update_trains_the_student_alone_and_the_critic_the_rest(feature_network):
    """Gradients of an update reach the modules that it names and no other."""
    modules, critic, generator, draws = stage_two("awd_loss", feature_network=feature_network)
    for update, trained in ((critic, {"fake", "head"}), (generator, {"student"})):
        loss, _ = update.loss(update.draw(draws))
        loss.backward()
        touched = {
            name
            for name, module in modules.items()
            if any(p.grad is not None for p in module.parameters())
        }
        assert set(update.modules) == touched == trained
        for module in modules.values():
            module.zero_grad(set_to_none=True)


def test_gan_gradient_is_scaled_to_its_relative_weight(monkeypatch):
    """What is added to g has relative_weight times its RMS; subtracting it lowers the GAN loss."""
    given, surrogate = [], generator_module.generator_surrogate
    monkeypatch.setattr(
        generator_module,
        "generator_surrogate",
        lambda x, g: (given.append((x, g)), surrogate(x, g))[1],
    )
    for discriminator in ("none", "patch"):
        torch.manual_seed(5)
        modules, _, generator, draws = stage_two(discriminator, relative_weight=0.5)
        drawn = generator.draw(draws)
        _, scalars = generator.loss(drawn)
    (x_hat, g), (_, g_sum) = given
    added, rms = g_sum - g, lambda x: x.square().mean().sqrt().item()
    assert rms(added) == pytest.approx(0.5 * rms(g), rel=1e-4)
    assert scalars["dmd_gradient_rms"].item() == pytest.approx(rms(g), rel=1e-5)
    c, eps_gan, t_gan = drawn["c"], drawn["eps_gan"], drawn["t_gan"]

    def loss(x):
        tokens = modules["teacher"].features(interpolate(x, eps_gan, t_gan), t_gan, c, (2, 3))
        return gan.generator_loss(modules["head"](tokens), "non_saturating").item()

    with torch.no_grad():
        step = 0.01 * added / rms(added)
        assert loss(x_hat - step) < loss(x_hat) < loss(x_hat + step)
