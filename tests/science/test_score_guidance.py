"""Guidance of teacher and fake score on two classes with everything known: what is descended."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hdbench.core.seeds import Draws
from hdbench.flow.path import guided, guided_by, interpolate
from hdbench.methods import VSD
from hdbench.methods.distribution.networks import Networks
from tests.science.test_distribution import stage_two
from tests.science.test_objectives import small_transformer
from tests.support.classes import MEANS, SD, TwoClasses, trained


def test_guidance_by_row_is_that_of_each_number():
    network, n = small_transformer(False, 2), 6
    z, t, c = torch.randn(n, 1, 8, 8), torch.linspace(0.1, 0.9, n), torch.arange(n) % 3
    weights = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, 4.0])
    by_row = guided_by(network, weights)(z, t, c)
    for row, w in enumerate(weights.tolist()):
        one = (z[row : row + 1], t[row : row + 1], c[row : row + 1])
        torch.testing.assert_close(by_row[row : row + 1], guided(network, w)(*one))
        torch.testing.assert_close(by_row[row : row + 1], guided_by(network, w)(*one))
    null = torch.full_like(c, 3)
    torch.testing.assert_close(guided_by(network, 0.0)(z, t, c), network(z, t, t, null))
    torch.testing.assert_close(guided_by(network, 1)(z, t, c), network(z, t, t, c))


def functional(theta: Tensor, t: float, w: float, kappa: float) -> Tensor:
    """E_c KL[p_g(z|c) : p(z|c)^w p(z)^(1-w)] - (1 - kappa) I_g(z; c) at time t, by quadrature."""
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]

    def log_density(means, sds):
        variance = (1 - t) ** 2 * sds**2 + t**2
        squares = (z - (1 - t) * means) ** 2 / variance
        return -0.5 * (squares + variance.log() + math.log(2 * math.pi))

    log_p = log_density(torch.tensor(MEANS).double(), torch.full((2,), SD).double())
    log_g = log_density(theta[2:], theta[:2])
    of_all = lambda log: torch.logsumexp(log, 1, keepdim=True) - math.log(2)
    fit = log_g - w * log_p - (1 - w) * of_all(log_p)
    information = log_g - of_all(log_g)
    return torch.trapezoid(
        (0.5 * log_g.exp() * (fit - (1 - kappa) * information)).sum(1), z.flatten()
    )


@pytest.mark.parametrize("t", [0.3, 0.8])
@pytest.mark.parametrize(
    ("w", "kappa"), [(1.0, 1.0), (1.5, 1.0), (3.0, 3.0), (1.0, 0.0), (1.0, -0.5), (2.5, 0.5)]
)
def test_the_direction_is_the_gradient_of_its_functional(t, w, kappa):
    """E[g dx/dtheta] = t / (1 - t) dF/dtheta for VSD with exact scores, by quadrature."""
    a, b = torch.tensor([0.6, 0.4]).double(), torch.tensor([-0.2, 0.9]).double()
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(60))
    weights = weights / weights.sum()
    eps, eps_match = (x.reshape(-1, 1, 1, 1) for x in torch.meshgrid(nodes, nodes, indexing="ij"))
    both = torch.outer(weights, weights).flatten()
    k = VSD(guidance=(w, w), fake_guidance=kappa, label_dropout=0.1)
    teacher, fake = TwoClasses().double(), TwoClasses().double()
    with torch.no_grad():
        fake.means.copy_(b)
        fake.log_sds.copy_(a.log())
    networks = Networks(
        student=teacher, teacher=teacher, real=None, fake_network=fake, head=None, features=None
    )
    expected = torch.zeros(4, dtype=torch.float64)
    for c in (0, 1):
        x_hat, times = a[c] * eps + b[c], torch.full((len(eps),), t, dtype=torch.float64)
        labels = torch.full((len(eps),), c)
        batch = {"c": labels, "eps_match": eps_match, "t_match": times}
        g, _ = k.direction(k.at_guidance(networks, batch), x_hat, batch)
        g = 0.5 * both * g.flatten()
        expected[c], expected[2 + c] = (g * eps.flatten()).sum(), g.sum()
    theta = torch.cat([a, b]).requires_grad_()
    (found,) = torch.autograd.grad(functional(theta, t, w, kappa), theta)
    torch.testing.assert_close(expected, t / (1 - t) * found, atol=2e-6, rtol=1e-4)


def test_fake_and_teacher_take_the_same_guidance_in_each_row():
    """With the fake equal to the teacher the direction is zero, whatever each row's w."""
    k = VSD(guidance=(0.5, 4.0), fake_guidance="teacher", label_dropout=0.1)
    modules, (critic, generator), images, labels = stage_two(k)
    modules["fake"].load_state_dict(modules["teacher"].state_dict())
    b = generator.draw(Draws((0,), images, labels, 8))
    assert b["guidance"].unique().numel() == 8
    assert (b["guidance"] >= 0.5).all() and (b["guidance"] < 4).all()
    assert generator.loss(b)[0].item() < 1e-10
    one_sided = VSD(guidance=(0.5, 4.0), label_dropout=0.1)
    modules, (_, generator), images, labels = stage_two(one_sided)
    modules["fake"].load_state_dict(modules["teacher"].state_dict())
    assert generator.loss(generator.draw(Draws((0,), images, labels, 8)))[0].item() > 1e-6


def test_label_dropout_shows_the_fake_its_share_of_null_labels():
    k = VSD(label_dropout=0.3)
    modules, (critic, _), images, labels = stage_two(k)
    drawn = critic.draw(Draws((0,), images, labels, 4000))
    assert abs(drawn["null"].float().mean() - 0.3) < 0.03
    fake, plain = modules["fake"], VSD()
    x_hat = torch.randn(8, 1, 8, 8)
    b = critic.draw(Draws((0,), images, labels, 8))
    b["null"] = torch.arange(8) < 3
    networks = Networks(
        student=fake, teacher=fake, real=None, fake_network=fake, head=None, features=None
    )
    nulled = b | {"c": torch.where(b["null"], 3, b["c"])}
    z = interpolate(x_hat, b["eps_fake"], b["t_fake"])
    v = fake(z, b["t_fake"], b["t_fake"], nulled["c"])
    assert torch.equal(
        k.fake_loss(networks, x_hat, b), (v - (b["eps_fake"] - x_hat)).square().mean()
    )
    assert not torch.equal(plain.fake_loss(networks, x_hat, b), k.fake_loss(networks, x_hat, b))


@pytest.mark.slow
def test_guidance_in_both_scores_leaves_the_law_of_the_data():
    """Whatever each row's w: the optimum is p(.|c); guidance in the teacher alone sharpens it."""
    settings = {"label_dropout": 0.1}
    a, b = trained("vsd", guidance=(0.5, 4.0), fake_guidance="teacher", **settings)
    assert a.tolist() == pytest.approx([SD, SD], rel=0.02)
    assert b.tolist() == pytest.approx(MEANS, abs=0.01)
    a, b = trained("vsd", guidance=(2.0, 2.0), **settings)
    assert b[1] > MEANS[1] + 0.1 and b[0] < MEANS[0] - 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vsd", "sid"])
def test_the_null_label_in_the_fake_separates_the_classes(name):
    """Zero-CFG, no guidance of the teacher; by SiD's Fisher divergence too."""
    distances = []
    for kappa in (1.0, 0.0):
        _, b = trained(name, guidance=(1.0, 1.0), fake_guidance=kappa, label_dropout=0.1)
        distances.append((b[1] - b[0]).item())
    assert distances[0] == pytest.approx(MEANS[1] - MEANS[0], abs=0.04)
    assert distances[1] > distances[0] + 0.1, distances
