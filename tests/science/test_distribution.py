"""Stage 2 on exactly solvable data: directions, what updates train, cost, where training ends."""

from __future__ import annotations

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from hdbench.core.seeds import Draws
from hdbench.flow.path import expand, generate, guided, interpolate
from hdbench.flow.samplers import sample_consistency
from hdbench.methods import (
    ADM,
    DISTRIBUTION,
    DMD,
    DMD2,
    LADD,
    OBJECTIVES,
    SCM,
    Adversarial,
    Consistency,
    DecoupledDMD,
    FDistill,
    FlowMatching,
    Knowledge,
    MeanFlow,
    SiD,
    StochasticConsistency,
)
from hdbench.methods.base import Pairs, Problem
from hdbench.methods.discriminators import build_head
from hdbench.methods.discriminators.base import Head, HeadOutput, uniform
from hdbench.methods.distribution import (
    adm,
    decoupled_dmd,
    dmd,
    f_distill,
    gan,
    sid,
    simulation,
    vsd,
)
from hdbench.methods.distribution import generator as generator_module
from hdbench.methods.distribution.generator import GeneratorObjective
from hdbench.methods.distribution.networks import Networks
from hdbench.methods.trajectory import consistency
from hdbench.networks.classifier import Classifier
from hdbench.networks.config import ClassifierConfig
from hdbench.networks.projected import ProjectedClassifier
from hdbench.stages.trainer import Trainer
from hdbench.suite.training import Training
from tests.science.test_objectives import Ledger, normal, rng, small_transformer
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

METHODS = [method().name for method in DISTRIBUTION if issubclass(method, GeneratorObjective)]
REGULARISERS = {
    objective.name: objective
    for objective in (MeanFlow(), Consistency(), SCM(), Knowledge(), StochasticConsistency())
}


# directions with exact velocities


def a_pair(data=a_mixture) -> tuple[Mixture, Mixture]:
    """The real distribution and another one as the fake."""
    real = data()
    return real, Mixture(real.means.flip(-1) + 0.2, 1.2 * real.sds, real.shares.flip(0))


def renoised(fake: Mixture, n: int = 12) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_hat, its noise, t and z_t."""
    x_hat, t = fake.sample(n, rng(1)), uniform_times(n, rng(3))
    eps = normal(n, *fake.means.shape[1:], seed=2)
    return x_hat, eps, t, interpolate(x_hat, eps, t)


def affine(t: float):
    """x = a eps + b against N(m, s^2) in one dimension, on nodes that are exact for quadratics."""
    a, b, m, s = 0.7, -0.3, 0.4, 0.5
    eps, eps_renoise = (column.reshape(-1, 1, 1, 1) for column in sign_nodes().T)
    x_hat, times = a * eps + b, torch.full((4,), t, dtype=torch.float64)
    real, fake = Gaussian(torch.full((1, 1, 1), m), s), Gaussian(torch.full((1, 1, 1), b), a)
    theta = torch.tensor([a, b], dtype=torch.float64, requires_grad=True)
    return x_hat, eps, eps_renoise, times, interpolate(x_hat, eps_renoise, times), real, fake, theta


def variance(t: float, s):
    return (1 - t) ** 2 * s**2 + t**2


def by_theta(g: Tensor, eps: Tensor) -> Tensor:
    """E[g dx/dtheta] for x = a eps + b."""
    return torch.stack([(g * eps).mean(), g.mean()])


@pytest.mark.parametrize("data", [a_gaussian, a_mixture])
def test_decoupled_dmd_at_equal_times_has_the_numerator_of_dmd(data):
    """With z_s = z_t it is x_fake - x^w, over |x_hat - x_cond|; without guidance g is DMD's."""
    conditional, fake = a_pair(data)
    unconditional = Mixture(conditional.means - 0.3, 1.5 * conditional.sds, conditional.shares)

    def real(z, t, c):
        return unconditional.v(z, t) + 1.5 * (conditional.v(z, t) - unconditional.v(z, t))

    x_hat, _, t, z = renoised(fake)
    g = decoupled_dmd.decoupled_gradient(x_hat, z, t, z, t, None, real, conditional.v, fake.v)
    norm = lambda v: (x_hat - z + expand(t) * v(z, t, None)).abs().mean(dim=(1, 2, 3), keepdim=True)
    numerator = dmd.dmd_gradient(x_hat, z, t, None, real, fake.v) * norm(real)
    torch.testing.assert_close(g * norm(conditional.v), numerator)
    z_s, s = normal(12, 1, 2, 3, seed=9), uniform_times(12, rng(8))
    g = decoupled_dmd.decoupled_gradient(
        x_hat, z, t, z_s, s, None, conditional.v, conditional.v, fake.v
    )
    torch.testing.assert_close(g, dmd.dmd_gradient(x_hat, z, t, None, conditional.v, fake.v))


def test_decoupled_dmd_takes_guidance_at_its_own_noise():
    """The change by guidance is s (v^w - v_cond) at (z_s, s), whatever z_t is."""
    conditional, fake = a_pair()
    x_hat, _, t, z = renoised(fake)
    z_s, s = normal(12, 1, 2, 3, seed=9), uniform_times(12, rng(8))
    push = lambda z, t, c: torch.sin(z) * expand(t)
    real = lambda z, t, c: conditional.v(z, t) + push(z, t, c)
    with_guidance, without = (
        decoupled_dmd.decoupled_gradient(x_hat, z, t, z_s, s, None, v, conditional.v, fake.v)
        for v in (real, conditional.v)
    )
    norm = (x_hat - conditional.denoised(z_s, s)).abs().mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close((with_guidance - without) * norm, expand(s) * push(z_s, s, None))


def test_the_weight_of_guidance_in_decoupled_dmd_does_not_follow_the_time_of_matching():
    """With the fake exact g is guidance alone: the size of 99% of rows is within 5 medians, where
    the norm at t would make it 15."""
    n = 4000
    real, student = (Gaussian(torch.full((1, 2, 2), mean).double(), sd)
                     for mean, sd in ((0.4, 0.5), (0.2, 0.4)))  # fmt: skip
    x_hat = student.sample(n, rng(1))
    t, s = (0.02 + 0.96 * torch.rand(n, generator=rng(seed)).double() for seed in (2, 3))
    z, z_s = (
        interpolate(x_hat, normal(n, 1, 2, 2, seed=5 + i), time) for i, time in enumerate((t, s))
    )
    guided_velocity = lambda z, t, c: real.v(z, t) + 1.0
    g = decoupled_dmd.decoupled_gradient(x_hat, z, t, z_s, s, None, guided_velocity, real.v, real.v)
    norm = lambda z, t: (x_hat - real.denoised(z, t)).abs().mean(dim=(1, 2, 3))
    size = g.abs().mean(dim=(1, 2, 3))
    torch.testing.assert_close(size, s / norm(z_s, s))
    tail = lambda sizes: sizes.quantile(0.99) / sizes.median()
    assert tail(size) < 5 and tail(size * norm(z_s, s) / norm(z, t)) > 15


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_sid_gradient_at_one_half_is_half_that_of_the_fisher_divergence(t):
    """E[g dx/dtheta] = 1/2 d/dtheta E||d||^2, the fake following theta; E<d, x_fake - x> = 0."""
    x_hat, eps, eps_renoise, times, z, real, fake, theta = affine(t)
    norm = (x_hat - real.denoised(z, times)).abs()  # one dimension: undo the normalisation
    g = sid.sid_gradient(x_hat, eps_renoise, times, None, real.v, fake.v, 0.5) * norm

    def denoised(sd, mean):
        """Slope and offset of E[x | z] for N(mean, sd^2)."""
        slope = (1 - t) * sd**2 / variance(t, sd)
        return slope, mean - slope * (1 - t) * mean

    k_real, o_real = denoised(torch.tensor(real.sd).double(), real.mean.squeeze())
    k_fake, o_fake = denoised(*theta)
    mean = (k_real - k_fake) * (1 - t) * theta[1] + o_real - o_fake
    fisher = (k_real - k_fake) ** 2 * variance(t, theta[0]) + mean**2
    torch.testing.assert_close(
        by_theta(g, eps), 0.5 * torch.autograd.grad(fisher, theta)[0], atol=1e-7, rtol=1e-6
    )

    def value(alpha):
        losses = sid.sid_loss(x_hat, z, times, None, real.v, fake.v, alpha)
        return (losses * norm.flatten()).mean()

    assert value(0.0).item() == pytest.approx(fisher.item(), rel=1e-6) and value(1.0).abs() < 1e-7


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_sid_gradient_is_that_of_its_loss_in_each_sample(alpha):
    """By central differences, also through z_t; zero where networks agree; samples do not mix."""
    real, fake = a_pair()
    x_hat, eps, t, z = renoised(fake)
    g = sid.sid_gradient(x_hat, eps, t, None, real.v, fake.v, alpha)
    norm = expand((x_hat - real.denoised(z, t)).abs().flatten(1).mean(1))

    def loss(x: Tensor) -> Tensor:
        """Written out, by sample."""
        z = interpolate(x, eps, t)
        d = real.denoised(z, t) - fake.denoised(z, t)
        return (((1 - alpha) * d**2 + d * (fake.denoised(z, t) - x)) / norm).flatten(1).sum(1)

    along, h = normal(*x_hat.shape, seed=7), 1e-5
    torch.testing.assert_close(
        (loss(x_hat + h * along) - loss(x_hat - h * along)) / (2 * h),
        (g * along).flatten(1).sum(1),
        atol=1e-7,
        rtol=1e-6,
    )
    torch.testing.assert_close(
        sid.sid_gradient(x_hat[:3], eps[:3], t[:3], None, real.v, fake.v, alpha), g[:3]
    )
    assert sid.sid_gradient(x_hat, eps, t, None, real.v, real.v, alpha).abs().max() < 1e-12
    assert not g.requires_grad


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("divergence", ["rkl", "js", "fkl"])
def test_f_distill_is_the_gradient_of_its_divergence(divergence, t):
    """E[h(r) (x_fake - x_real) dx/dtheta] = t^2 / (1 - t)^2 dD_f(p_real,t || p_fake,t)/dtheta.

    By Gauss-Hermite quadrature.
    """
    nodes, weights = (torch.from_numpy(values) for values in np.polynomial.hermite_e.hermegauss(80))
    weights = weights / weights.sum()
    eps, eps_renoise = (
        axis.reshape(-1, 1, 1, 1) for axis in torch.meshgrid(nodes, nodes, indexing="ij")
    )
    a, b, m, s = 0.6, 0.1, 0.4, 0.5
    real, fake = Gaussian(torch.full((1, 1, 1), m), s), Gaussian(torch.full((1, 1, 1), b), a)
    x_hat, times = a * eps + b, torch.full((len(eps),), t, dtype=torch.float64)
    z = interpolate(x_hat, eps_renoise, times)
    log_ratio = real.log_density(z, times) - fake.log_density(z, times)
    norm = (x_hat - real.denoised(z, times)).abs()
    g = (
        expand(f_distill.weight(log_ratio, divergence))
        * dmd.dmd_gradient(x_hat, z, times, None, real.v, fake.v)
        * norm
    )
    both = torch.outer(weights, weights).reshape(-1, 1, 1, 1)
    found = torch.stack([(both * g * eps).sum(), (both * g).sum()])
    theta = torch.tensor([a, b], dtype=torch.float64, requires_grad=True)
    sd = variance(t, theta[0]).sqrt()
    z = (1 - t) * theta[1] + sd * nodes  # p_fake,t
    p_real = torch.distributions.Normal((1 - t) * m, math.sqrt(variance(t, s)))
    p_fake = torch.distributions.Normal((1 - t) * theta[1], sd)
    log_r = p_real.log_prob(z) - p_fake.log_prob(z)
    r = log_r.exp()
    js = r * log_r - (1 + r) * torch.log((1 + r) / 2)
    f = {"rkl": -log_r, "fkl": r * log_r, "js": js}[divergence]
    expected = t**2 / (1 - t) ** 2 * torch.autograd.grad((weights * f).sum(), theta)[0]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_vsd_gradient_is_the_difference_of_noise_predictions(t):
    """eps = -t score for both, and E[g dx/dtheta] = t / (1 - t) dKL/dtheta exactly."""
    real, fake = a_pair()
    _, _, times, z = renoised(fake)
    torch.testing.assert_close(
        vsd.vsd_gradient(z, times, None, real.v, fake.v),
        expand(times) * (fake.score(z, times) - real.score(z, times)),
    )
    _, eps, _, times, z, real, fake, theta = affine(t)
    kl = gaussian_kl(
        (1 - t) * theta[1],
        variance(t, theta[0]),
        (1 - t) * real.mean.squeeze(),
        torch.tensor(variance(t, real.sd)),
    )
    found = by_theta(vsd.vsd_gradient(z, times, None, real.v, fake.v), eps)
    torch.testing.assert_close(
        found, t / (1 - t) * torch.autograd.grad(kl, theta)[0], atol=1e-7, rtol=1e-6
    )


def test_adm_step_is_on_the_trajectory_to_second_order():
    """An Euler step is off by delta^2 / 2 of the second derivative: a quarter at half the step."""
    data, t = a_gaussian(), 0.6
    z, times = normal(8, 1, 2, 3), torch.full((8,), 0.6, dtype=torch.float64)
    errors = []
    for delta in (1 / 64, 1 / 128):
        z_s, s, _ = adm.euler_step(data.v, z, times, None, delta)
        assert torch.equal(s, times - delta)
        errors.append((z_s - data.flow_map(z, t - delta, t)).abs().max().item())
    assert errors[0] < 1e-3 and errors[0] / errors[1] == pytest.approx(4, rel=0.05)


# training ends at the data's distribution

MEAN, SD = 0.6, 0.35


class AffineStudent(nn.Module):
    """x_hat = a eps + b in one step."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.6)), nn.Parameter(torch.tensor(0.2))

    def forward(self, z, r, t, c):
        return z - (self.a * z + self.b)


class GaussianVelocity(nn.Module):
    """The exact velocity of N(mean, sd^2), both learnable; as tokens, each pixel's z and z^2."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(MEAN))
        self.log_sd = nn.Parameter(torch.tensor(math.log(SD)))

    def forward(self, z, r, t, c):
        t, square = expand(t), (2 * self.log_sd).exp()
        slope = (t - (1 - t) * square) / ((1 - t) ** 2 * square + t**2)
        return slope * (z - (1 - t) * self.mean) - self.mean

    def features(self, z, t, c, blocks):
        return [torch.stack([z.flatten(1), z.flatten(1).square()], dim=2)]


class QuadraticHead(Head):
    """One logit: affine in the mean of z and of z^2."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(2, 1)

    def forward(self, tokens):
        logits = self.out(tokens[0].mean(1))
        return HeadOutput(logits, uniform(logits), uniform(tokens[0][..., 0]))


def trained(name: str, learning_rate: float, head: dict, **settings) -> tuple[float, float]:
    """(|a|, b), averaged over the last steps, after the method's training on N(MEAN, SD^2), 2x2.

    Before each step the fake becomes the exact velocity of N(b, a^2); its own learning rate is next
    to nothing.
    """
    k, steps = OBJECTIVES[name](), 250
    known = {
        "fake_learning_rate": 1e-9,
        "fake_steps_per_generator_step": 2,
        "head_steps_per_generator_step": 4,
    }
    settings |= {field: value for field, value in known.items() if field in type(k).model_fields}
    k = k.model_copy(update={"gan": k.gan.model_copy(update=head)} | settings)
    torch.manual_seed(0)
    teacher, student = GaussianVelocity().requires_grad_(False), AffineStudent()
    problem = Problem(
        student=student,
        learning_rate=learning_rate,
        teacher=teacher,
        teacher_velocity=guided(teacher, 1.0),
        copy_teacher=GaussianVelocity,
        head=lambda *_: QuadraticHead(),
    )
    images = MEAN + SD * torch.randn(4000, 1, 2, 2, generator=rng())
    updates = k.updates(problem)
    trainer = Trainer(
        updates,
        training_of(steps=steps, batch=256, ema=0.98),
        student,
        (0, "test"),
        images,
        torch.zeros(4000, dtype=torch.int64),
    )
    for _ in range(steps):
        if "fake" in updates[0].modules:
            with torch.no_grad():
                updates[0].modules["fake"].mean.copy_(student.b)
                updates[0].modules["fake"].log_sd.copy_(student.a.abs().log())
        trainer.train_step()
    return abs(trainer.ema["a"].item()), trainer.ema["b"].item()


def test_a_trained_heads_logit_is_the_log_density_ratio_of_real_to_fake():
    """What f_distill takes for log r, which is quadratic for N(1, 0.5^2) against N(0, 1)."""
    head = QuadraticHead()
    real, fake = (torch.distributions.Normal(*of) for of in ((1.0, 0.5), (0.0, 1.0)))
    torch.manual_seed(0)
    samples = [distribution.sample((20_000, 1)) for distribution in (real, fake)]
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def tokens(x):
        return [torch.stack([x, x**2], -1)]

    def closure():
        optimizer.zero_grad()
        loss = gan.critic_loss(*(head(tokens(x)) for x in samples), "non_saturating")
        loss.backward()
        return loss

    optimizer.step(closure)
    x = torch.linspace(0, 2, 30)[:, None]
    torch.testing.assert_close(
        head(tokens(x)).logits, real.log_prob(x) - fake.log_prob(x), rtol=0, atol=0.1
    )


def training_of(**settings) -> Training:
    """The trainer does not read the objective."""
    return Training(objective=FlowMatching(), learning_rate=1e-4, **settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dmd", {}),
        ("dmd2", {}),
        ("decoupled_dmd", {}),
        ("sid", {"alpha": 0.5}),
        ("sid", {}),
        ("sid", {"alpha": 1.2}),
        ("f_distill", {"divergence": "js"}),
        ("f_distill", {"divergence": "fkl"}),
        ("vsd", {}),
    ],
)
def test_matching_ends_at_the_real_mean_and_sd(name, settings):
    """Within 2%, the most by the noise of a head; without one g vanishes there."""
    a, b = trained(name, 0.02, {"learning_rate": 0.02}, **settings)
    tolerance = 1e-3 if OBJECTIVES[name]().discriminator == "none" else 0.02
    assert (a, b) == (pytest.approx(SD, rel=tolerance), pytest.approx(MEAN, rel=tolerance))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("adversarial", {"learning_rate": 0.1, "r1_weight": 10.0}),
        ("ladd", {"learning_rate": 0.3}),
        ("adm", {"learning_rate": 0.1, "r1_weight": 10.0}),
    ],
)
def test_a_gan_alone_ends_near_the_real_mean_and_sd(name, head):
    """Within 10%, from 71% and 67% off: it circles the equilibrium at a step of constant size."""
    a, b = trained(name, 0.005, head)
    assert (a, b) == (pytest.approx(SD, rel=0.1), pytest.approx(MEAN, rel=0.1))


# stage 2 with transformers: draws, gradients, cost

BLOCKS = {"blocks": (2, 3), "parameters": 4000}


def configured(name: str, **settings):
    """A method with small heads and 2 critic steps a generator step; `gan` gives single fields."""
    k = OBJECTIVES[name]()
    steps = "fake" if k.has_fake else "head"
    steps = f"{steps}_steps_per_generator_step"
    blocks = {"blocks": (1, 2)} if k.reads_classifier else {}
    given = BLOCKS | blocks | settings.pop("gan", {})
    settings["gan"] = type(k.gan)(**k.gan.model_dump() | given)
    return OBJECTIVES[name](**{steps: 2} | settings)


def stage_two(objective, guidance: float = 1.5, ledger: Ledger | None = None):
    """Networks by name, and the updates; the same at every call."""
    watch = ledger.watch if ledger else lambda name, network: network
    networks = {
        "teacher": watch("teacher", small_transformer(False).requires_grad_(False)),
        "student": watch("student", small_transformer(True, 1)),
    }
    images, labels = torch.rand(20, 1, 8, 8, generator=rng()) * 2 - 1, torch.arange(20) % 3
    torch.manual_seed(5)
    problem = Problem(
        student=networks["student"],
        learning_rate=1e-3,
        teacher=networks["teacher"],
        teacher_velocity=guided(networks["teacher"], guidance),
        guide=partial(guided, guidance=guidance),
        copy_teacher=lambda: watch("fake", small_transformer(False, 2)),
        head=lambda name, k, *axes: build_head(
            name, layers=len(k.blocks), width=16, grid=4, parameters=k.parameters
        ),
        classifier=a_classifier() if objective.reads_classifier else None,
        pairs=(torch.randn(20, 1, 8, 8, generator=rng(1)), images, labels),
    )
    updates = objective.updates(problem)
    return networks | updates[0].modules, updates, images, labels


def a_classifier() -> ProjectedClassifier:
    """Of images of 8x8 in three classes, as tokens of 4x4; the same at every call."""
    torch.manual_seed(6)
    config = ClassifierConfig(width=4, features=8)
    classifier = Classifier(config, image_size=8, channels=1, attributes=(3,))
    return ProjectedClassifier(classifier, width=16, grid=4, classes=3)


def networks_of(objective, modules, guidance: float = 1.5) -> Networks:
    """The networks of `stage_two`, as a method's own functions take them."""
    teacher, fake = modules["teacher"], modules.get("fake")
    return Networks(
        student=modules["student"],
        teacher=teacher,
        real=guided(teacher, guidance),
        guide=partial(guided, guidance=guidance),
        fake_network=fake,
        head=modules.get("head"),
        features=teacher if objective.gan.feature_network == "teacher" else fake,
    )


SHARED = [
    ("dmd", {"discriminator": "patch", "gan": {"times": "shared"}}),
    ("dmd2", {"gan": {"times": "shared", "r1_weight": 0.5}}),
    (
        "gndm",
        {
            "discriminator": "awd_logit",
            "gan": {"times": "shared"},
            "fake_guidance": -0.5,
            "label_dropout": 0.5,
        },
    ),
    ("vsd", {"discriminator": "conv", "gan": {"times": "shared"}, "guidance": (1.0, 3.0)}),
    ("f_distill", {"gan": {"times": "shared"}}),
]
VARIANTS = [(name, {}) for name in METHODS] + [
    ("dmd", {"generator_steps": 4}),
    ("dmd2", {"generator_steps": 4}),
    ("ladd", {"generator_steps": 3}),
    *(("dmd", {"regulariser": regulariser}) for regulariser in REGULARISERS.values()),
    ("adversarial", {"regulariser": REGULARISERS["knowledge"], "generator_steps": 2}),
    ("sid", {"discriminator": "patch"}),
    ("sid", {"discriminator": "awd_logit", "gan": {"feature_network": "fake"}}),
    ("f_distill", {"divergence": "rkl", "discriminator": "none"}),
    ("f_distill", {"divergence": "fkl"}),
    ("f_distill", {"gan": {"feature_network": "teacher", "r1_weight": 0.5}}),
    ("vsd", {"discriminator": "pooled"}),
    ("decoupled_dmd", {"discriminator": "conv"}),
    ("ladd", {"gan": {"r1_weight": 0.5}}),
    ("adm", {"gan": {"r1_weight": 0.5}}),
    ("vsd", {"guidance": (0.5, 4.0), "fake_guidance": "teacher", "label_dropout": 0.1}),
    ("vsd", {"guidance": (0.0, 0.0), "fake_guidance": "teacher", "label_dropout": 1.0}),
    ("sid", {"guidance": (1.0, 1.0), "fake_guidance": 0.0, "label_dropout": 0.5}),
    ("dmd", {"guidance": (1.0, 3.0)}),
    ("decoupled_dmd", {"fake_guidance": -0.5, "label_dropout": 0.5}),
    ("f_distill", {"guidance": (2.0, 2.0)}),
    ("ladd", {"contrast": Pairs()}),
    ("ladd", {"discriminator": "patch", "gan": {"heads": 3, "judging": 2, "refresh": 0.5}}),
    ("sid", {"discriminator": "mean", "gan": {"feature_network": "fake"}}),
    ("vsd", {"omega": "noise_variance"}),
    ("gndm", {"normaliser": "centred"}),
    ("asd", {"generator_steps": 3, "gan": {"r1_weight": 0.5}}),
    ("gdd", {"gan": {"r1_weight": 0.5}}),
    ("flash_dmd", {"generator_steps": 1, "split": 1.0, "pull": 1.0}),
    ("embedding_loss", {"discriminator": "patch", "gan": {"parameters": 4000}}),
    *SHARED,
]
named = pytest.mark.parametrize(
    ("name", "settings"),
    VARIANTS,
    ids=["-".join([name, *map(str, settings)]) for name, settings in VARIANTS],
)


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@named
def test_cost_is_what_runs(name, settings, guidance):
    """In a step of the trainer every stated pass and no other; the student moves, no teacher."""
    objective, ledger, batch = configured(name, **settings), Ledger(), 8
    networks, updates, images, labels = stage_two(objective, guidance, ledger)
    student = networks["student"]
    trainer = Trainer(
        updates, training_of(steps=2, batch=batch, ema=0.9), student, (0, "test"), images, labels
    )
    before = {key: value.clone() for key, value in student.state_dict().items()}
    trainer.train_step()
    trainer.read_scalars()
    assert any(not torch.equal(before[key], value) for key, value in student.state_dict().items())
    assert all(parameter.grad is None for parameter in networks["teacher"].parameters())
    stated = objective.passes(4, guidance != 1.0)
    assert ("classifier" in stated) == objective.reads_classifier
    stated.pop("classifier", None)  # no transformer: counted in test_matching_methods
    assert ledger.passes(4, batch) == pytest.approx(
        flattened(stated, objective.gan.feature_network)
    )
    assert all(math.isfinite(value[0]) for value in trainer.history.values())
    assert ("generator/regulariser_loss" in trainer.history) == ("regulariser" in settings)


@named
def test_updates_train_the_modules_that_they_name(name, settings):
    """And no other; the critic's are the fake and the head, where there are these."""
    objective = configured(name, **settings)
    modules, (critic, generator), images, labels = stage_two(objective)
    expected = {"fake"} if objective.has_fake else set()
    expected |= {"head"} if objective.discriminator not in ("none", "mean") else set()
    for update, names in ((critic, expected), (generator, {"student"})):
        loss, _ = update.loss(update.draw(Draws((0,), images, labels, 8)))
        loss.backward()
        touched = {
            name
            for name, module in modules.items()
            if any(p.grad is not None for p in module.parameters())
        }
        assert set(update.modules) == set(update.learning_rates) == touched == names
        for module in modules.values():
            module.zero_grad(set_to_none=True)


def assert_drawn(drawn: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same names in the same order, with the same bits."""
    assert list(drawn) == list(expected)
    assert all(torch.equal(drawn[name], expected[name]) for name in expected)


def test_default_dmd_is_as_it_was():
    """Its dump to the byte; its draws and losses, without a head, to the bit."""
    assert json.dumps(DMD().model_dump(mode="json")) == (
        '{"name": "dmd", "discriminator": "none", "gan": {"loss": "non_saturating", '
        '"feature_network": "teacher", "blocks": [2, 3], "parameters": 20000, '
        '"learning_rate": 0.001, "relative_weight": 0.5, "t_min": 0.02, "t_max": 0.7, '
        '"r1_weight": 0.0, "r1_sigma": 0.1}, "fake_steps_per_generator_step": 3, '
        '"fake_learning_rate": 0.0004, "t_min": 0.02, "t_max": 0.98}'
    )
    modules, (critic, generator), images, labels = stage_two(DMD())
    student, fake = modules["student"], modules["fake"]
    for update in (critic, generator):
        d, drawn = Draws((0,), images, labels, 8), update.draw(Draws((0,), images, labels, 8))
        c, eps, eps_t, t = d.label(), d.noise(), d.noise(), d.uniform(0.02, 0.98)
        term = "fake" if update is critic else "match"
        assert_drawn(drawn, {"c": c, "eps": eps, f"eps_{term}": eps_t, f"t_{term}": t})
        x_hat = generate(student, eps, c)
        z = interpolate(x_hat.detach(), eps_t, t)
        if update is critic:
            loss = (fake(z, t, t, c) - (eps_t - x_hat.detach())).square().mean()
        else:
            x_real, x_fake = (
                z - expand(t) * v
                for v in (guided(modules["teacher"], 1.5)(z, t, c), fake(z, t, t, c))
            )
            g = (x_fake - x_real) / expand((x_hat - x_real).abs().flatten(1).mean(1))
            loss = 0.5 * F.mse_loss(x_hat, x_hat - g)
        assert torch.equal(update.loss(drawn)[0], loss)


def test_draws_with_a_head_keep_their_order():
    """Resumed runs and arms of one seed share them."""
    _, (critic, generator), images, labels = stage_two(configured("dmd", discriminator="patch"))
    d = Draws((0,), images, labels, 8)
    expected = {
        "c": d.label(),
        "eps": d.noise(),
        "eps_fake": d.noise(),
        "t_fake": d.uniform(0.02, 0.98),
        **dict(zip(("x", "c_real"), d.data(), strict=True)),
        "eps_gan": d.noise(),
        "eps_r1": d.noise(),
        "t_gan": d.uniform(0.02, 0.7),
    }
    assert_drawn(critic.draw(Draws((0,), images, labels, 8)), expected)
    d = Draws((0,), images, labels, 8)
    expected = {
        "c": d.label(),
        "eps": d.noise(),
        "eps_match": d.noise(),
        "t_match": d.uniform(0.02, 0.98),
        "eps_gan": d.noise(),
        "t_gan": d.uniform(0.02, 0.7),
    }
    assert_drawn(generator.draw(Draws((0,), images, labels, 8)), expected)


@pytest.mark.parametrize("name", METHODS)
def test_new_fields_are_dumped_only_where_they_differ(name):
    method = OBJECTIVES[name]
    changed = {"adversarial_pretraining": {"contrast"}, "flash_dmd": {"generator_steps"}}
    changed |= {"asd": {"generator_steps"}}
    new = {"generator_steps", "regulariser", "regulariser_weight"}
    hooks = {"contrast", "guidance", "fake_guidance", "label_dropout"}
    dumped = (new | hooks) & set(method().model_dump(mode="json"))
    assert dumped == changed.get(name, set())
    one_step_alone = name in ("decoupled_dmd", "adversarial_pretraining")
    steps = {} if one_step_alone else {"generator_steps": 2}
    k = method(**steps, regulariser=REGULARISERS["meanflow"], regulariser_weight=0.25)
    assert new - {"generator_steps"} | steps.keys() < set(k.model_dump(mode="json"))
    assert method.model_validate_json(json.dumps(k.model_dump(mode="json"))) == k
    k = k.model_copy(update={"generator_steps": 2})
    assert k.sampler() == "consistency"
    steps = method().generator_steps
    assert method().sampler() == ("consistency" if steps > 1 else "flow_map")


# regulariser and backward simulation


@pytest.mark.parametrize("regulariser", REGULARISERS)
def test_a_regulariser_adds_its_own_loss(regulariser):
    """Weight times the loss of its update, on the draws that come last, on top of the loss."""
    settings = {"regulariser": REGULARISERS[regulariser], "regulariser_weight": 0.3}
    results = {}
    for name, more in (("with", settings), ("without", {})):
        modules, (_, generator), images, labels = stage_two(configured("dmd", **more))
        drawn = generator.draw(Draws((0,), images, labels, 8))
        loss, scalars = generator.loss(drawn)
        loss.backward()
        gradients = [p.grad for p in modules["student"].parameters()]
        results[name] = drawn, loss.detach(), scalars, gradients
    drawn, loss, scalars, gradients = results["with"]
    problem = Problem(
        student=modules["student"],
        learning_rate=1e-3,
        teacher_velocity=guided(modules["teacher"], 1.5),
        pairs=(torch.zeros(1),),
    )
    without = list(results["without"][0])
    assert list(drawn)[: len(without)] == without
    last = list(drawn)[len(without) :]
    (update,) = REGULARISERS[regulariser].updates(problem)
    own, _ = update.loss({key.removeprefix("regulariser/"): drawn[key] for key in last})
    assert scalars["regulariser_loss"].item() == pytest.approx(own.item(), rel=1e-5)
    assert loss.item() == pytest.approx(results["without"][1].item() + 0.3 * own.item(), rel=1e-5)
    of_own = torch.autograd.grad(own, list(modules["student"].parameters()), allow_unused=True)
    for found, alone, extra in zip(gradients, results["without"][3], of_own, strict=True):
        if alone is not None:
            torch.testing.assert_close(
                found, alone + (0 if extra is None else 0.3 * extra), atol=1e-6, rtol=1e-4
            )


def test_backward_simulation_is_consistency_sampling():
    """Row by row, the jump from step k's input ends where sampling with the same noises does."""
    u, steps, n = small_transformer(True, 1), 4, 12
    noises, c = torch.randn(steps, n, 1, 8, 8, generator=rng()), torch.arange(n) % 3
    step = torch.arange(n) % steps
    z, t = simulation.simulate(u, c, noises[0], step.float(), list(noises[1:]))
    assert not z.requires_grad and torch.equal(t, 1 - step / steps)
    x = consistency.consistency(u, z, t, c)
    with torch.no_grad():
        for k in range(steps):
            rows, grid = step == k, noises[:, step == k]
            # sampling stopped after step k: the same times, 1 - number / steps, for fewer steps
            partial_x = generate(u, grid[0], c[rows])
            for number in range(1, k + 1):
                time = torch.full((int(rows.sum()),), 1 - number / steps)
                partial_x = consistency.consistency(
                    u, interpolate(partial_x, grid[number], time), time, c[rows]
                )
            torch.testing.assert_close(x[rows], partial_x)
        last = step == steps - 1
        torch.testing.assert_close(x[last], sample_consistency(u, noises, c)[last])
        assert torch.equal(z[step == 0], noises[0][step == 0])


def test_backward_simulation_draws_every_step_alike():
    """A row's step is uniform on 0 .. S - 1, for the critic as for the generator."""
    k = configured("dmd", generator_steps=4)
    _, updates, images, labels = stage_two(k)
    for update in updates:
        drawn = update.draw(Draws((0,), images, labels, 4000))
        shares = torch.bincount(drawn["step"].long(), minlength=4) / 4000
        assert shares.shape == (4,) and (shares - 0.25).abs().max() < 0.03
        noises = [drawn[f"eps_{number}"] for number in (1, 2, 3)]
        assert all(noise.shape == (4000, 1, 8, 8) for noise in noises)


# single methods


def test_f_distill_with_reverse_kl_is_dmd_and_weights_have_mean_one():
    losses = {}
    for name, settings in (
        ("dmd", {}),
        ("f_distill", {"divergence": "rkl", "discriminator": "none"}),
    ):
        _, (_, generator), images, labels = stage_two(configured(name, **settings))
        losses[name] = generator.loss(generator.draw(Draws((0,), images, labels, 8)))[0]
    assert torch.equal(losses["dmd"], losses["f_distill"])
    for divergence in ("js", "fkl"):
        modules, (_, generator), images, labels = stage_two(
            configured("f_distill", divergence=divergence)
        )
        with torch.no_grad():
            for parameter in modules["head"].parameters():
                parameter.mul_(3)
        _, scalars = generator.loss(generator.draw(Draws((0,), images, labels, 64)))
        assert scalars["ratio_weight_square"] > 1.001  # of mean 1, so this is 1 + its variance


def test_f_distill_clamps_the_ratio_and_takes_the_logit_at_z():
    k = configured("f_distill", divergence="fkl", log_ratio_limit=0.2)
    modules, *_ = stage_two(k)
    networks = networks_of(k, modules)
    x_hat, eps = torch.randn(6, 1, 8, 8, generator=rng()), torch.randn(6, 1, 8, 8, generator=rng(1))
    t, c = torch.linspace(0.1, 0.9, 6), torch.arange(6) % 3
    with torch.no_grad():
        for parameter in modules["head"].parameters():
            parameter.mul_(3)
        g, _ = k.direction(networks, x_hat, {"c": c, "eps_match": eps, "t_match": t})
        z = interpolate(x_hat, eps, t)
        logits = modules["head"](modules["fake"].features(z, t, c, (2, 3))).logits.mean(1)
        h = logits.clamp(-0.2, 0.2).exp()
        plain = dmd.dmd_gradient(x_hat, z, t, c, networks.real, networks.fake)
    assert (logits.abs() > 0.2).any() and (logits.abs() < 0.2).any()
    torch.testing.assert_close(g, expand(h / h.mean()) * plain)


@pytest.mark.parametrize("name", ["adversarial", "ladd", "adm"])
def test_gan_alone_has_the_size_of_its_relative_weight(name, monkeypatch):
    """And subtracting it raises the mean logit that the generator sees."""
    given, surrogate = [], generator_module.generator_surrogate
    monkeypatch.setattr(
        generator_module,
        "generator_surrogate",
        lambda x, g: (given.append((x, g)), surrogate(x, g))[1],
    )
    objective = configured(name, gan={"relative_weight": 0.7})
    modules, (_, generator), images, labels = stage_two(objective)
    drawn = generator.draw(Draws((0,), images, labels, 8))
    generator.loss(drawn)
    ((x_hat, g),) = given
    networks = networks_of(objective, modules)

    def logit(x: Tensor) -> Tensor:
        point = objective.perturb(networks, x, drawn)
        return networks.judge(point, objective.gan.blocks).logits.mean()

    assert g.square().mean().sqrt().item() == pytest.approx(0.7, rel=1e-5)
    with torch.no_grad():
        assert logit(x_hat - 0.01 * g) > logit(x_hat) > logit(x_hat + 0.01 * g)


def test_adm_tells_nothing_apart_where_fake_and_real_agree():
    """One z_t, two Euler steps; with the teacher as the fake and no guidance they coincide."""
    objective, n = configured("adm"), 6
    modules, *_ = stage_two(objective, guidance=1.0)
    networks = networks_of(objective, modules, guidance=1.0)
    x_hat, eps = (torch.randn(n, 1, 8, 8, generator=rng(seed)) for seed in (0, 1))
    t, c = torch.linspace(0.1, 0.9, n), torch.arange(n) % 3
    b = {"c": c, "t_gan": t, "eps_fake": eps, "eps_r1": torch.ones(n, 1, 8, 8)}
    real, fake, perturbed = objective.discriminator_inputs(networks, x_hat, b)
    assert not torch.allclose(real[0], fake[0])
    torch.testing.assert_close(
        perturbed[0] - real[0], torch.full_like(real[0], objective.gan.r1_sigma)
    )
    for z, s, labels_ in (real, fake):
        assert torch.equal(s, t - 1 / 64) and labels_ is c and not z.requires_grad
    modules["fake"].load_state_dict(modules["teacher"].state_dict())
    real, fake, _ = objective.discriminator_inputs(networks, x_hat, b)
    torch.testing.assert_close(real[0], fake[0])


@pytest.mark.parametrize(
    ("method", "settings", "sentence"),
    [
        (DMD, {"t_min": 0.5, "t_max": 0.4}, "t_min = 0.5: must be below t_max = 0.4"),
        (DMD, {"regulariser_weight": 0.25}, "regulariser_weight = 0.25: there is no regulariser"),
        (
            DecoupledDMD,
            {"ca_t_min": 0.5, "ca_t_max": 0.5},
            "ca_t_min = 0.5: must be below ca_t_max = 0.5",
        ),
        (
            FDistill,
            {"discriminator": "none"},
            "discriminator = none: divergence js needs a head, whose logit is the log density",
        ),
        (
            FDistill,
            {"gan": {"loss": "hinge"}},
            "gan.loss = hinge: only the logit of a non_saturating head",
        ),
        (FDistill, {"gan": {"t_max": 0.7}}, "gan.t_max = 0.7: must be t_max = 0.98"),
        (FDistill, {"t_min": 0.1}, "gan.t_min = 0.02: must be t_min = 0.1"),
        (
            Adversarial,
            {"discriminator": "none"},
            "discriminator = none: objective adversarial has no other loss",
        ),
        (
            Adversarial,
            {"gan": {"feature_network": "teacher"}},
            "gan.feature_network = teacher: then nothing would read the fake",
        ),
        (LADD, {"discriminator": "none"}, "discriminator = none: objective ladd has no other loss"),
        (
            DecoupledDMD,
            {"generator_steps": 4},
            "generator_steps = 4: the guidance term's times would have to follow",
        ),
        (
            LADD,
            {"gan": {"feature_network": "fake"}},
            "gan.feature_network = fake: objective ladd has no fake network",
        ),
        (ADM, {"discriminator": "none"}, "discriminator = none: objective adm has no other loss"),
        (
            ADM,
            {"gan": {"feature_network": "fake"}},
            "gan.feature_network = fake: the head of objective adm reads the frozen",
        ),
        (ADM, {"contrast": Pairs()}, "contrast: the head of objective adm sees no real samples"),
        (DMD, {"contrast": Pairs()}, "contrast: there is no discriminator to show the pairs to"),
        (DMD, {"guidance": (2.0, 1.0)}, "guidance = [2.0, 1.0]: the first must not be above"),
        (DMD, {"fake_guidance": "teacher"}, "fake_guidance = teacher: give guidance = [low, high]"),
        (DMD, {"fake_guidance": 0.0}, "fake_guidance = 0.0: the fake score learns no null label"),
        (ADM, {"fake_guidance": 0.0}, "guidance, fake_guidance: objective adm has no direction"),
        (LADD, {"discriminator": "mean"}, "gan.feature_network = teacher: neither it nor head"),
        (
            LADD,
            {"gan": {"feature_network": "classifier"}},
            "gan.feature_network = classifier: objective gdd reads a classifier, and no other",
        ),
        (LADD, {"gan": {"times": "shared"}}, "gan.times = shared: the direction of ladd does not"),
        (SiD, {"gan": {"times": "shared"}}, "gan.times = shared: the direction of sid does not"),
        (
            DMD2,
            {"gan": {"times": "shared"}, "label_dropout": 0.1},
            "the fake, whose tokens the head reads, is asked or learns at its null label; use own",
        ),
        (LADD, {"gan": {"judging": 2}}, "judging = 2: there are 1 heads to draw from"),
        (ADM, {"delta": 0.05}, "delta = 0.05: must not exceed gan.t_min = 0.02"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(method, settings, sentence):
    with pytest.raises(ValidationError) as error:
        if "gan" in settings:
            default = method().gan
            settings = settings | {"gan": type(default)(**default.model_dump() | settings["gan"])}
        method(**settings)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("method", "unknown"), [(LADD, "fake_learning_rate"), (LADD, "t_min"), (DMD, "alpha")]
)
def test_a_method_has_no_fields_that_mean_nothing(method, unknown):
    with pytest.raises(ValidationError, match="Extra inputs"):
        method(**{unknown: 0.1})


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("dmd2", {"feature_network": "fake"}),
        ("adversarial", {"feature_network": "fake"}),
        ("ladd", {"loss": "hinge"}),
        ("f_distill", {"feature_network": "fake", "t_max": 0.98}),
        ("adm", {"loss": "hinge", "t_max": 0.98}),
    ],
)
def test_a_part_of_gan_leaves_the_methods_other_defaults(name, kept):
    """Given by a suite's file: some keys of the mapping, the rest the method's and not dmd's."""
    text = f'{{"name": "{name}", "gan": {{"learning_rate": 0.002}}}}'
    found = OBJECTIVES[name].model_validate_json(text).gan.model_dump()
    assert found == OBJECTIVES[name]().gan.model_dump() | {"learning_rate": 0.002}
    assert found | kept == found
