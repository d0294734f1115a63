"""Losses in a representation, and matching without a fake score: where their optimum is known."""

from __future__ import annotations

import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from hdbench.core.seeds import Draws
from hdbench.flow.path import interpolate
from hdbench.methods import Drifting, FakeScoreFree, FrechetLoss, MeanFlow
from hdbench.methods.base import Problem
from hdbench.methods.distribution.dmd import dmd_gradient
from hdbench.methods.distribution.drifting import barycentre, drift
from hdbench.methods.distribution.fake_score_free import pseudo_velocity, self_gradient
from hdbench.methods.distribution.frechet_loss import Moments, frechet
from tests.science.test_distribution import MEAN, SD, AffineStudent, GaussianVelocity
from tests.science.test_objectives import count_one_step, rng
from tests.support.counting import flattened
from tests.support.oracles import Gaussian, uniform_times


def rows(n: int, width: int, seed: int) -> Tensor:
    mix = torch.randn(width, width, generator=rng(seed)).double()
    return torch.randn(n, width, generator=rng(seed + 1)).double() @ mix + seed


class Seen(GaussianVelocity):
    """A teacher whose pooled features are each image's mean of z and of z^2."""

    width, null_label = 2, 0


def descended(objective, steps: int, rate: float) -> tuple[float, float]:
    """a and b of x_hat = a eps + b after training from 0.6 and 0.2; data are N(MEAN, SD^2)."""
    student, teacher = AffineStudent(), Seen().requires_grad_(False)
    images = MEAN + SD * torch.randn(4000, 1, 2, 2, generator=rng())
    problem = Problem(student=student, learning_rate=rate, teacher=teacher)
    (update,) = objective.updates(problem)
    optimizer = torch.optim.Adam(student.parameters(), lr=rate)
    labels = torch.zeros(len(images), dtype=torch.int64)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        update.loss(update.draw(Draws((step,), images, labels, 128)))[0].backward()
        optimizer.step()
    return student.a.item(), student.b.item()


# FD-loss


def test_the_distance_is_the_formula_by_a_general_matrix_root():
    fake, real = rows(50, 4, 1), rows(70, 4, 3)
    (m, c), (m_r, c_r) = ((f.mean(0), torch.cov(f.T, correction=0)) for f in (fake, real))
    root = scipy.linalg.sqrtm((c @ c_r).numpy()).real.trace()
    expected = (m - m_r).square().sum() + (c + c_r).trace() - 2 * root
    assert frechet(m, c, m_r, c_r).item() == pytest.approx(expected.item(), rel=1e-9)


def test_moments_are_those_of_the_rows_of_equal_batches_in_the_limit_of_memory():
    """And of one batch alone, without bias, after one step or without memory."""
    batches = [rows(40, 3, 1)[10 * i : 10 * i + 10] for i in range(4)]
    long, none = Moments(3, 1 - 1e-5).double(), Moments(3, 0.0).double()
    for batch in batches:
        mean, covariance = long(batch)
        of_batch = none(batch)
        torch.testing.assert_close(of_batch, (batch.mean(0), torch.cov(batch.T, correction=0)))
    of_all = torch.cat(batches)
    torch.testing.assert_close(mean, of_all.mean(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(covariance, torch.cov(of_all.T, correction=0), rtol=1e-3, atol=1e-3)


def test_the_gradient_is_that_of_the_distance_at_the_populations_moments():
    """dF = 2 (m - m_r) dm + (1 - s_r / s) dC in one dimension, whatever the batch is."""
    moments = Moments(1, 0.5).double()
    for seed in (1, 2):
        moments(rows(30, 1, seed))
    batch = rows(20, 1, 5).requires_grad_()
    mean, covariance = moments(batch)
    m_r, c_r = torch.tensor([0.3]).double(), torch.tensor([[0.7]]).double()
    (gradient,) = torch.autograd.grad(frechet(mean, covariance, m_r, c_r), batch)
    slope = 1 - (c_r / covariance.detach()).sqrt()
    expected = 2 * (mean.detach() - m_r) + 2 * slope * (batch.detach() - mean.detach())
    torch.testing.assert_close(gradient, expected / len(batch))


def test_features_far_from_zero_have_the_gradient_of_those_around_zero():
    """In single precision, with means that are many deviations and a steep spectrum."""
    scale = torch.logspace(0, -3, 8)
    k = FrechetLoss(blocks=(1, 2, 3, 4), memory=0.0)
    compare, _ = k.compared(Problem(student=nn.Identity(), learning_rate=1, teacher=Seen()))
    fake, real = (scale * torch.randn(64, 8, generator=rng(seed)) for seed in (1, 2))
    labels = torch.zeros(64, dtype=torch.int64)
    gradients = []
    for offset in (0.0, 32.0):
        shifted = (fake + offset).requires_grad_()
        value, _ = compare(shifted, real + offset, labels, labels)
        gradients.append(torch.autograd.grad(value, shifted)[0])
    assert gradients[0].dtype == torch.float32
    torch.testing.assert_close(*gradients, rtol=0.01, atol=1e-6)


class OneFeature(Seen):
    width = 1


def test_laws_of_equal_moments_have_no_gradient():
    """Two points against three: mean 0 and variance 1 both."""
    k = FrechetLoss(blocks=(1,), memory=0.0)
    compare, _ = k.compared(Problem(student=nn.Identity(), learning_rate=1, teacher=OneFeature()))
    two = torch.tensor([[-1.0], [1.0]]).double().repeat(3, 1).requires_grad_()
    three = torch.tensor([[-(1.5**0.5)], [0.0], [1.5**0.5]]).double().repeat(2, 1)
    labels = torch.zeros(6, dtype=torch.int64)
    value, _ = compare(two, three, labels, labels)
    assert value.abs() < 1e-6
    assert torch.autograd.grad(value, two)[0].abs().max() < 1e-6
    value, _ = compare(1.1 * two, three, labels, labels)
    assert torch.autograd.grad(value, two)[0].abs().max() > 1e-3


@pytest.mark.parametrize("memory", [0.9, 0.0])
def test_fd_loss_ends_at_the_moments_of_the_data(memory):
    """The short memory's loss is that of a batch, whose distance is biased for any law."""
    a, b = descended(FrechetLoss(blocks=(1,), memory=memory), 200, 0.01)
    assert (abs(a), b) == (pytest.approx(SD, rel=0.03), pytest.approx(MEAN, rel=0.05))


# drifting


def test_drift_of_gaussians_is_the_difference_of_their_smoothed_scores():
    """tau^2 (grad log p_tau - grad log q_tau) at any point, with a Gaussian kernel."""
    tau = 0.8
    fake, real = (
        mean + sd * torch.randn(20000, 1, generator=rng(seed)).double()
        for mean, sd, seed in ((0.4, 0.5, 1), (-0.2, 0.9, 2))
    )
    at, all_alike = torch.linspace(-0.5, 1.2, 7).double()[:, None], torch.ones(7, 20000).bool()
    v = barycentre(at, real, all_alike, tau, "gaussian")
    v = v - barycentre(at, fake, all_alike, tau, "gaussian")
    score = lambda mean, sd: (mean - at) / (sd**2 + tau**2)
    expected = tau**2 * (score(-0.2, 0.9) - score(0.4, 0.5))
    torch.testing.assert_close(v, expected, atol=0.03, rtol=0)


@pytest.mark.parametrize("kernel", ["laplace", "gaussian"])
def test_drift_is_antisymmetric_and_keeps_labels_apart(kernel):
    """At a point that belongs to neither, drift of (p, q) is minus that of (q, p)."""
    p, q, at = rows(30, 3, 1), rows(40, 3, 5), rows(1, 3, 2)
    one, other = (
        drift(torch.cat([at, x]), y, torch.zeros(len(x) + 1), torch.zeros(len(y)), 2.0, kernel)[0]
        for x, y in ((p, q), (q, p))
    )
    torch.testing.assert_close(one, -other)
    c, c_real = torch.arange(40) % 2, torch.arange(30) % 2
    v = drift(q, p, c, c_real, 2.0, kernel)
    for label in (0, 1):
        rows_of, real_of = q[c == label], p[c_real == label]
        alone = drift(rows_of, real_of, c[c == label], c_real[c_real == label], 2.0, kernel)
        torch.testing.assert_close(v[c == label], alone)
    lonely = drift(q[:2], p, torch.tensor([0, 1]), c_real, 2.0, kernel)
    assert not lonely.any()


def test_drifting_ends_near_the_law_of_the_data():
    a, b = descended(Drifting(blocks=(1,), kernel="gaussian", temperature=0.5), 200, 0.02)
    assert (abs(a), b) == (pytest.approx(SD, rel=0.1), pytest.approx(MEAN, rel=0.1))


# matching without a fake score


class OfLaw(nn.Module):
    """The exact mean velocity of a Gaussian law."""

    def __init__(self, law: Gaussian):
        super().__init__()
        self.law = law

    def forward(self, z, r, t, c):
        return self.law.u(z, r, t)


def test_the_flow_map_of_a_law_has_that_laws_velocity():
    """So the direction is DMD's with the exact fake score, and zero against the same law."""
    law = Gaussian(torch.full((1, 2, 2), 0.3), 0.6)
    student = OfLaw(law)
    t = uniform_times(12, rng(3))
    x_hat, z = law.sample(12, rng(1)), torch.randn(12, 1, 2, 2, generator=rng(2)).double()
    torch.testing.assert_close(pseudo_velocity(student, z, t, None), law.v(z, t))
    other = Gaussian(torch.full((1, 2, 2), -0.1), 0.8)
    g = self_gradient(x_hat, z, t, None, other.v, student)
    torch.testing.assert_close(g, dmd_gradient(x_hat, z, t, None, other.v, law.v))
    assert self_gradient(x_hat, z, t, None, law.v, student).abs().max() < 1e-9


def test_a_map_that_is_no_flow_map_misleads_it():
    """x_hat = a z + b at all times, as one-step training alone would have it: the direction does
    not vanish at the law of the samples, which the flow-map loss is for."""
    law = Gaussian(torch.full((1, 2, 2), MEAN), SD)
    student = AffineStudent().double()
    student.a.data.fill_(SD), student.b.data.fill_(MEAN)
    t = uniform_times(200, rng(3))
    x_hat = law.sample(200, rng(1))
    z = torch.randn(200, 1, 2, 2, generator=rng(2)).double()
    assert self_gradient(x_hat, z, t, None, law.v, student).abs().mean() > 0.1


def test_both_losses_vanish_at_the_flow_map_of_the_teachers_law_and_add_up_elsewhere():
    law = Gaussian(torch.full((1, 2, 2), 0.3), 0.6)
    other = Gaussian(torch.full((1, 2, 2), -0.1), 0.8)
    images, labels = law.sample(50, rng(1)), torch.zeros(50, dtype=torch.int64)
    b: dict = {}

    def losses(teacher: Gaussian, weight: float) -> tuple[Tensor, Tensor]:
        k = FakeScoreFree(flow_map=MeanFlow(adaptive_power=0.0), flow_map_weight=weight)
        problem = Problem(
            student=OfLaw(law), learning_rate=1, teacher_velocity=lambda z, t, c: teacher.v(z, t)
        )
        (update,) = k.updates(problem)
        drawn = update.draw(Draws((0,), images, labels, 64))
        b.update({k: x.double() if getattr(x, "is_floating_point", bool)() else x
                  for k, x in drawn.items()})  # fmt: skip
        value, scalars = update.loss(b)
        return value, scalars["flow_map_loss"]

    assert max(losses(law, 0.5)) < 1e-9
    (half, of_flow_map), (twice, same) = losses(other, 0.5), losses(other, 2.0)
    assert of_flow_map == same and of_flow_map > 0.01
    torch.testing.assert_close(twice - half, 1.5 * of_flow_map)
    t = b["t_match"]
    x_hat = b["eps"] - law.u(b["eps"], torch.zeros_like(t), torch.ones_like(t))
    z = interpolate(x_hat, b["eps_match"], t)
    g = self_gradient(x_hat, z, t, None, lambda z, t, c: other.v(z, t), OfLaw(law))
    torch.testing.assert_close(half - 0.5 * of_flow_map, 0.5 * g.square().mean())


def test_times_of_fake_score_free_are_in_order():
    with pytest.raises(ValueError, match="t_min = 0.5: must be below t_max = 0.5"):
        FakeScoreFree(t_min=0.5, t_max=0.5)


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize("kind", [FrechetLoss, Drifting, FakeScoreFree])
def test_cost_is_what_runs(kind, guidance):
    """Every pass that is named and no other: methods are compared at equal compute."""
    counted, stated = count_one_step(kind(), guidance)
    assert counted == pytest.approx(flattened(stated))
