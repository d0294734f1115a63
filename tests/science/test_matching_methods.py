"""Methods of stage 2 that build on others: what they change, and where their training ends."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from hdbench.core.seeds import Draws
from hdbench.flow.path import expand, guided, interpolate, velocity
from hdbench.methods import ASD, DMD, GDD, GNDM, AdversarialPretraining, FlashDMD, SiD
from hdbench.methods.base import Problem
from hdbench.methods.discriminators import build_head, parameter_count
from hdbench.methods.distribution import embedding_loss, gndm
from hdbench.methods.distribution.dmd import dmd_gradient
from hdbench.methods.distribution.flash_dmd import pull_towards
from hdbench.methods.distribution.gan import HingeOnTeacher
from hdbench.methods.distribution.gdd import OnClassifier
from hdbench.methods.distribution.networks import Networks
from hdbench.methods.trajectory.consistency import consistency
from hdbench.networks.projected import ProjectedClassifier
from hdbench.stages.trainer import Trainer
from tests.science.test_distribution import (
    MEAN,
    SD,
    AffineStudent,
    GaussianVelocity,
    QuadraticHead,
    a_classifier,
    configured,
    networks_of,
    stage_two,
    trained,
    training_of,
)
from tests.science.test_objectives import rng, small_transformer
from tests.support.classes import TwoClasses
from tests.support.oracles import Mixture
from tests.support.tiny import run_until, stage_of, tiny_plan

NOISES = torch.randn(4000, 1, 2, 2, generator=rng(7))
PAIRS = (NOISES, MEAN + SD * NOISES, torch.zeros(4000, dtype=torch.int64))
IMAGES = MEAN + SD * torch.randn(4000, 1, 2, 2, generator=rng())


# VSD's weight of times


def test_the_weight_of_times_is_the_noise_variance_of_the_preserving_path():
    """sigma^2 = 1 - alpha^2 where z_t / n_t = alpha x + sigma eps."""
    plain, weighted = configured("vsd"), configured("vsd", omega="noise_variance")
    modules, (_, update), images, labels = stage_two(plain)
    b = update.draw(Draws((0,), images, labels, 8))
    x_hat = torch.randn(8, 1, 8, 8, generator=rng())
    g, weighed = (k.direction(networks_of(k, modules), x_hat, b)[0] for k in (plain, weighted))
    t = expand(b["t_match"])
    alpha, sigma = (part / ((1 - t) ** 2 + t**2).sqrt() for part in (1 - t, t))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    torch.testing.assert_close(weighed, sigma**2 * g)


# SiD for several steps


class TwoSteps(nn.Module):
    """x_hat = a_k z + b_k at step k, at times 1 and 1/2."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(row)) for row in ((0.6, 0.9), (0.2, 0.5)))

    def forward(self, z, r, t, c):
        k = (t < 0.75).long()
        return (z - expand(self.a[k]) * z - expand(self.b[k])) / expand(t)

    @torch.no_grad()
    def laws(self) -> tuple[Tensor, Tensor]:
        """Means and sds (2,) of the two steps' outputs, the second from the first renoised."""
        second = 0.5 * ((self.a[0] ** 2 + 1) ** 0.5)
        means = torch.stack([self.b[0], self.a[1] * 0.5 * self.b[0] + self.b[1]])
        return means, torch.stack([self.a[0], self.a[1] * second]).abs()


class OfBoth(TwoClasses):
    """The exact velocity of the mixture of both steps' outputs, whatever the label."""

    def forward(self, z, r, t, c):
        return super().forward(z, r, t, torch.full_like(c, self.null_label))


def test_one_fake_of_the_mixture_pushes_a_step_past_the_law_while_another_lags():
    """Scales .5, .8, .9 and 1 of the law, exact scores: dmd's direction enlarges the last as well,
    which a fake of its own step leaves; and none where all are at the law."""
    n = 4000
    eps, noise = (torch.randn(n, 1, 2, 2, generator=rng(seed)).double() for seed in (1, 2))
    t = 0.1 + 0.8 * torch.rand(n, generator=rng(3)).double()

    def law(*scales: float) -> Mixture:
        k = len(scales)
        shares = torch.full((k,), 1 / k).double()
        return Mixture(torch.zeros(k, 1, 2, 2).double(), torch.tensor(scales).double(), shares)

    def growth(scale: float, fake: Mixture) -> float:
        """Of the scale, by descent along the direction."""
        x_hat = scale * eps
        z = interpolate(x_hat, noise, t)
        return -(dmd_gradient(x_hat, z, t, labels, law(1.0).v, fake.v) * eps).mean().item()

    labels = torch.zeros(n, dtype=torch.long)
    lagging = law(0.5, 0.8, 0.9, 1.0)
    assert growth(1.0, lagging) > 0.02
    assert growth(1.0, law(1.0)) == pytest.approx(0, abs=1e-12)
    assert growth(1.0, law(1.0, 1.0, 1.0, 1.0)) == pytest.approx(0, abs=1e-12)
    assert growth(1.1, law(1.1)) < 0 < growth(1.1, lagging)


@pytest.mark.slow
def test_one_fake_of_the_mixture_brings_the_steps_together_to_the_teachers_law():
    """Lemma 1 of few-step SiD: the mixture is matched at once; its steps then slowly.

    Means m +- delta with the variance less delta^2 differ from the law in the fourth order alone.
    """
    k = SiD(generator_steps=2, fake_learning_rate=1e-9, alpha=0.5)
    teacher, student = GaussianVelocity().requires_grad_(False), TwoSteps()
    problem = Problem(
        student=student,
        learning_rate=0.02,
        teacher=teacher,
        teacher_velocity=guided(teacher, 1.0),
        copy_teacher=OfBoth,
    )
    updates = k.updates(problem)
    images, labels = IMAGES[:, :, :1, :1], PAIRS[2]
    training = training_of(steps=300, batch=128, ema=0.98)
    trainer = Trainer(updates, training, student, (0, "test"), images, labels)
    fake = updates[0].modules["fake"]
    apart = student.laws()[0].diff().item()
    for _ in range(300):
        means, sds = student.laws()
        with torch.no_grad():
            fake.means.copy_(means)
            fake.log_sds.copy_(sds.log())
        trainer.train_step()
    student.load_state_dict(trainer.ema)
    means, sds = student.laws()
    variance = (sds**2 + means**2).mean() - means.mean() ** 2
    assert means.mean().item() == pytest.approx(MEAN, rel=0.02)
    assert variance.sqrt().item() == pytest.approx(SD, rel=0.02)
    assert means.diff().item() < 0.3 < apart


def test_the_mean_head_has_no_parameters_and_only_the_fake_learns_from_it():
    """Its logit is linear in a token: the first half of channels minus the second."""
    head = build_head("mean", layers=2, width=16, grid=4, parameters=20000)
    assert parameter_count(head) == 0
    tokens = [torch.randn(3, 16, 16, generator=rng(layer)) for layer in (1, 2)]
    signs = torch.cat([torch.ones(8), -torch.ones(8)]) / 8
    logits = torch.cat([h @ signs for h in tokens], dim=1)
    torch.testing.assert_close(head(tokens).logits, logits)
    k = configured("sid", discriminator="mean", gan={"feature_network": "fake"})
    _, (critic, _), images, labels = stage_two(k)
    assert critic.modules.keys() == {"fake"}
    loss, scalars = critic.loss(critic.draw(Draws((0,), images, labels, 8)))
    assert loss.item() == pytest.approx((scalars["fake_loss"] + scalars["head_loss"]).item())


# adversarial pre-training


class OnThePath(nn.Module):
    """x_hat = b + a (z - (1 - t) b) / ((1 - t) a + t): on the path of pairs x* = b + a eps, x*."""

    def __init__(self, a: float = 0.6, b: float = 0.2):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, z, r, t, c):
        t = expand(t)
        x = self.b + self.a * (z - (1 - t) * self.b) / ((1 - t) * self.a + t)
        return (z - x) / t.clamp(min=1e-6)


def pretraining(student: nn.Module, **head) -> tuple[AdversarialPretraining, Problem]:
    k = AdversarialPretraining(head_steps_per_generator_step=4, gan=HingeOnTeacher(**head))
    teacher = GaussianVelocity().requires_grad_(False)
    problem = Problem(
        student=student,
        learning_rate=0.005,
        teacher=teacher,
        teacher_velocity=guided(teacher, 1.0),
        head=lambda *_: QuadraticHead(),
        pairs=PAIRS,
    )
    return k, problem


def test_pretraining_starts_on_the_pairs_path_mostly_near_noise():
    """With the exact map its sample is the pair's image, and the critic is shown that image."""
    student = OnThePath(SD, MEAN)
    k, problem = pretraining(student)
    critic, generator = k.updates(problem)
    for update in (critic, generator):
        b = update.draw(Draws((0,), IMAGES, PAIRS[2], 4000))
        for q in (0.2, 0.5, 0.8):
            assert ((1 - b["t"]) < q**3).float().mean().item() == pytest.approx(q, abs=0.03)
        torch.testing.assert_close(b["x"], MEAN + SD * b["eps"])
        z, t, c = k.start(student, b)
        torch.testing.assert_close(z, interpolate(b["x"], b["eps"], b["t"]))
    networks, b = k.networks(problem), critic.draw(Draws((0,), IMAGES, PAIRS[2], 64))
    z, t, c = k.start(student, b)
    x_hat = (z - expand(t) * student(z, t * 0, t, c)).detach()
    torch.testing.assert_close(x_hat, b["x"], atol=1e-4, rtol=1e-4)
    (real, s, _), (fake, s_fake, _), _ = k.discriminator_inputs(networks, x_hat, b)
    torch.testing.assert_close(
        real - fake, expand(s) * (b["eps_gan"] - b["eps_fake"]), atol=1e-4, rtol=1e-4
    )


@pytest.mark.slow
def test_pretraining_ends_near_the_teachers_law():
    torch.manual_seed(0)
    student = OnThePath()
    k, problem = pretraining(student, learning_rate=0.3)
    training = training_of(steps=150, batch=256, ema=0.98)
    trainer = Trainer(k.updates(problem), training, student, (0, "test"), IMAGES, PAIRS[2])
    for _ in range(150):
        trainer.train_step()
    a, b = (trainer.ema[name].item() for name in "ab")
    assert (a, b) == (pytest.approx(SD, rel=0.1), pytest.approx(MEAN, rel=0.1))


# group normalisation


def test_group_statistics_by_hand():
    x, c = torch.randn(7, 2, 3, 3, generator=rng()), torch.tensor([2, 0, 2, 1, 0, 2, 2])
    mean, size = gndm.group_mean(x, c), gndm.group_rms(x, c)
    for label in range(3):
        rows = c == label
        torch.testing.assert_close(mean[rows], x[rows].mean(0).expand(int(rows.sum()), -1, -1, -1))
        rms = x[rows].square().mean().sqrt()
        torch.testing.assert_close(size[rows].flatten(), rms.expand(int(rows.sum())))


def test_the_centred_reading_cannot_move_the_mean_of_a_class():
    """And the other is DMD's difference over one number a class."""
    directions = {}
    for normaliser in ("centred", "scale"):
        k = configured("gndm", normaliser=normaliser)
        modules, (_, update), images, labels = stage_two(k)
        b = update.draw(Draws((0,), images, labels, 32))
        x_hat = torch.randn(32, 1, 8, 8, generator=rng())
        directions[normaliser], _ = k.direction(networks_of(k, modules), x_hat, b)
    c = b["c"]
    assert gndm.group_mean(directions["centred"], c).abs().max() < 1e-5
    assert gndm.group_mean(directions["scale"], c).abs().max() > 1e-2
    networks = networks_of(DMD(), modules)
    t = b["t_match"]
    z = interpolate(x_hat, b["eps_match"], t)
    with torch.no_grad():
        real, fake = (z - expand(t) * v(z, t, c) for v in (networks.real, networks.fake))
    expected = (fake - real) / gndm.group_rms(x_hat - real, c)
    torch.testing.assert_close(directions["scale"], expected)


@pytest.mark.parametrize(("normaliser", "ends"), [("scale", MEAN), ("centred", 0.2)])
def test_descent_ends_at_the_law_scaled_and_at_its_first_mean_centred(normaliser, ends):
    """Plain gradient steps from N(0.2, 0.6^2) with the exact fake, a group of 64 rows."""
    k = GNDM(normaliser=normaliser)
    teacher, fake = GaussianVelocity(), GaussianVelocity()
    networks = Networks(
        student=teacher,
        teacher=teacher,
        real=velocity(teacher),
        fake_network=fake,
        head=None,
        features=None,
    )
    a, b = torch.tensor(0.6), torch.tensor(0.2)
    labels = torch.zeros(64, dtype=torch.int64)
    for step in range(400):
        with torch.no_grad():
            fake.mean.copy_(b)
            fake.log_sd.copy_(a.log())
        d = Draws((step,), IMAGES, labels, 64)
        eps, batch = d.noise(), {"c": labels} | k.draw_direction(d)
        g, _ = k.direction(networks, a * eps + b, batch)
        a, b = a - 0.05 * (g * eps).mean(), b - 0.05 * g.mean()
    assert b.item() == pytest.approx(ends, abs=0.01)
    assert normaliser == "centred" or a.item() == pytest.approx(SD, abs=0.01)


# embedding loss


def test_mmd_is_the_mean_over_pairs_of_different_rows_with_equal_labels():
    f_x, f_y = (torch.randn(n, 2, 5, generator=rng(n)) for n in (4, 6))
    c_x, c_y = torch.tensor([0, 1, 0, 0]), torch.tensor([0, 1, 1, 0, 0, 1])

    def mean(f, g, c, d, skip):
        values = [
            float((f[i] * g[j]).sum()) * bool(c[i] == d[j])
            for i in range(len(f))
            for j in range(len(g))
            if not (skip and i == j)
        ]
        return sum(values) / len(values)

    expected = mean(f_x, f_x, c_x, c_x, True) + mean(f_y, f_y, c_y, c_y, True)
    expected -= 2 * mean(f_x, f_y, c_x, c_y, False)
    assert embedding_loss.mmd(f_x, f_y, c_x, c_y).item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_mmd_is_unbiased_at_every_batch_size():
    """For f = x: 2 (E x_hat - E x) a row's share, where the diagonal would add x_hat / B."""
    shift, count = 0.3, 200_000
    for batch in (2, 16):
        x, y = (torch.randn(count // batch, batch, 1, 1, generator=rng(seed)) for seed in (0, 1))
        x = (2 * x + shift).requires_grad_()
        c = torch.zeros(batch)
        loss = torch.func.vmap(lambda f, g, c=c: embedding_loss.mmd(f, g, c, c))(x, y).sum()
        (gradient,) = torch.autograd.grad(loss, x)
        assert gradient.sum(1).mean().item() == pytest.approx(2 * shift, abs=0.05)
        along = (gradient * x.detach()).sum(1).mean().item()
        assert along == pytest.approx(2 * shift**2, abs=0.1)  # with the diagonal 2 * 4 / B more


def test_embeddings_are_those_of_their_step_and_do_not_depend_on_the_batch():
    x = torch.randn(5, 1, 8, 8, generator=rng())
    embeddings = embedding_loss.Embeddings(3, 8)
    first = embeddings(x)
    torch.testing.assert_close(embeddings(x[1:3]), first[1:3])
    embeddings.step = 1
    assert first.shape == (5, 3, 8) and (embeddings(x) - first).abs().mean() > 1e-2
    embeddings.step = 0
    assert torch.equal(embeddings(x), first)


def test_embedding_loss_adds_its_gradient_at_its_relative_size():
    k = configured("embedding_loss", relative_weight=0.7)
    modules, (critic, update), images, labels = stage_two(k)
    critic.on_step(3, 10)
    b = update.draw(Draws((0,), images, labels, 16))
    x_hat = torch.randn(16, 1, 8, 8, generator=rng()).requires_grad_()
    plain = networks_of(DMD(), modules)
    embeddings = embedding_loss.Embeddings(4, 32, step=3)
    networks = embedding_loss.WithEmbeddings(**vars(plain), embeddings=embeddings)
    g, _ = k.direction(networks, x_hat.detach(), b)
    of_dmd, _ = DMD().direction(plain, x_hat.detach(), b)
    loss = embedding_loss.mmd(
        embeddings(x_hat), embeddings(b["x_embedded"]), b["c"], b["c_embedded"]
    )
    (of_mmd,) = torch.autograd.grad(loss, x_hat)
    rms = lambda x: x.square().mean().sqrt()
    torch.testing.assert_close(g, of_dmd + 0.7 * rms(of_dmd) / rms(of_mmd) * of_mmd)


@pytest.mark.slow
def test_embedding_loss_ends_at_the_law_of_the_data():
    a, b = trained("embedding_loss", 0.02, {"learning_rate": 0.02}, embeddings=1, width=8)
    assert (a, b) == (pytest.approx(SD, rel=0.03), pytest.approx(MEAN, rel=0.03))


# Flash-DMD


def test_flash_dmd_gives_each_step_one_of_the_two_terms():
    """Above the split its loss is DMD's on the same draws, below it a GAN's."""
    losses = {}
    for name, k in (
        ("dmd", DMD(generator_steps=4)),
        ("high", configured("flash_dmd", split=0.0)),
        ("low", configured("flash_dmd", split=1.0)),
        ("both", configured("flash_dmd", split=0.6)),
    ):
        _, (_, update), images, labels = stage_two(k)
        losses[name] = update.loss(update.draw(Draws((0,), images, labels, 8)))[0].item()
    assert losses["high"] == pytest.approx(losses["dmd"])
    assert len({round(loss, 9) for loss in losses.values()}) == 3
    k, t = FlashDMD(), torch.tensor([1.0, 0.75, 0.5, 0.25])
    g = torch.arange(4.0).view(4, 1, 1, 1)
    assert k.combined(g, 10 + g, t).flatten().tolist() == [0.0, 1.0, 12.0, 13.0]


def test_the_fake_is_pulled_to_the_student_after_the_critic():
    student, fake, before = (small_transformer(*of) for of in ((True, 1), (False, 2), (False, 2)))
    pull_towards(fake, student, 0.9)
    theta, psi = dict(student.named_parameters()), dict(before.named_parameters())
    for name, parameter in fake.named_parameters():
        torch.testing.assert_close(parameter, 0.9 * psi[name] + 0.1 * theta[name])
    k = configured("flash_dmd", pull=0.5)
    modules, (critic, generator), *_ = stage_two(k)
    weight = modules["fake"].blocks[0].proj.weight
    old = weight.detach().clone()
    critic.on_step(0, 10)
    assert torch.equal(weight, old)
    generator.on_step(0, 10)
    torch.testing.assert_close(weight, (old + modules["student"].blocks[0].proj.weight) / 2)


# NitroFusion


def test_a_pool_of_one_head_trains_as_ladd():
    """The same losses to the bit, on the same seed."""
    losses = []
    for more in ({}, {"refresh": 1e-12}):
        k = configured("ladd", discriminator="patch", gan=more)
        modules, updates, images, labels = stage_two(k)
        trainer = Trainer(
            updates,
            training_of(steps=3, batch=8, ema=0.9),
            modules["student"],
            (0, "t"),
            images,
            labels,
        )
        for _ in range(3):
            trainer.train_step()
        trainer.read_scalars()
        losses.append(trainer.history)
    assert losses[0] == losses[1]


# GDD


class Quadratic(nn.Module):
    """A stand-in for a classifier: each pixel's x and x^2 as tokens, of images as they are."""

    def features(self, z, t, c, blocks):
        assert not t.any()
        return [torch.stack([z.flatten(1), z.flatten(1).square()], dim=2)]


@pytest.mark.slow
def test_gdd_ends_near_the_law_of_the_data():
    torch.manual_seed(0)
    student = AffineStudent()
    k = GDD(head_steps_per_generator_step=4, gan=OnClassifier(learning_rate=0.1, r1_weight=10.0))
    problem = Problem(
        student=student,
        learning_rate=0.005,
        teacher=GaussianVelocity(),
        head=lambda *_: QuadraticHead(),
        classifier=Quadratic(),
    )
    training = training_of(steps=150, batch=256, ema=0.98)
    trainer = Trainer(k.updates(problem), training, student, (0, "test"), IMAGES, PAIRS[2])
    for _ in range(150):
        trainer.train_step()
    a, b = (trainer.ema[name].item() for name in "ab")
    assert (a, b) == (pytest.approx(SD, rel=0.1), pytest.approx(MEAN, rel=0.1))


def test_a_classifiers_tokens_are_mixed_top_down_and_carry_the_label():
    """The coarse scale reaches the fine one, not the other way; by hand, and frozen."""
    network = a_classifier()
    x, c = torch.randn(5, 1, 8, 8, generator=rng()), torch.arange(5) % 3
    fine, coarse = network.features(x, torch.zeros(5), c, (1, 2))
    assert fine.shape == coarse.shape == (5, 16, 16)
    h_1 = network.first(x)
    p_2 = network.project[1](network.second(h_1))
    assert h_1.shape[2:] == (8, 8) and p_2.shape[2:] == (4, 4)
    p_1 = network.project[0](h_1) + network.mix(p_2.repeat_interleave(2, 2).repeat_interleave(2, 3))
    for tokens, p in ((fine, F.avg_pool2d(p_1, 2)), (coarse, p_2)):
        h = F.layer_norm(p.flatten(2).mT, (16,))
        torch.testing.assert_close(tokens, h + network.codes[c][:, None])
    (again,) = network.features(x, torch.zeros(5), (c + 1) % 3, (1,))
    assert (again - fine).abs().mean() > 0.1
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("r1_weight", [0.0, 0.5])
def test_a_step_of_gdd_asks_the_classifier_as_often_as_it_says(r1_weight, monkeypatch):
    k = configured("gdd", gan={"r1_weight": r1_weight})
    rows, plain = [], ProjectedClassifier.features
    monkeypatch.setattr(
        ProjectedClassifier, "features", lambda *a: (rows.append(len(a[1])), plain(*a))[1]
    )
    modules, updates, images, labels = stage_two(k)
    training = training_of(steps=1, batch=8, ema=0.9)
    Trainer(updates, training, modules["student"], (0, "t"), images, labels).train_step()
    assert sum(rows) == 8 * k.passes(4, False)["classifier"].forward
    assert k.passes(4, False).keys() == {"generator", "classifier"}


@pytest.mark.slow
def test_the_critics_classifier_is_not_the_one_that_measures(tmp_path):
    gdd = {"trajectory": None, "refine": {"objective": {"name": "gdd", "discriminator": "patch"}}}
    plan = tiny_plan(tmp_path, {"arms.gdd": gdd})
    stage = plan.stage(stage_of(plan, "refine", "gdd"))
    evaluate = plan.stage(stage_of(plan, "evaluate", "gdd"))
    critic, measuring = (plan.stage(s.parents["classifier"]) for s in (stage, evaluate))
    assert critic.config.seed == measuring.config.seed + 1
    assert critic.config.training == measuring.config.training and critic.id != measuring.id
    run_until(plan, tmp_path, stage.id)
    assert (tmp_path / "stages" / stage.id / "weights.safetensors").exists()


# adversarial self-distillation


def exact_map(mean: float, sd: float):
    """u(z, 0, t) of the flow map of N(mean, sd^2) to data: (z - f) / t, f its jump."""

    def u(z, r, t, c):
        t = expand(t)
        f = mean + sd / ((1 - t) ** 2 * sd**2 + t**2).sqrt() * (z - (1 - t) * mean)
        return (z - f) / t.clamp(min=1e-12)

    return u


def shrunk(z, r, t, c):
    """u(z, 0, t) of the jump 0.7 z + 0.2, whatever t is."""
    return (0.3 * z - 0.2) / expand(t).clamp(min=1e-12)


def fake_and_real_of(k: ASD, u, n: int = 20_000) -> tuple[Tensor, Tensor, Tensor]:
    """What ASD's head is to tell apart, (n, 1, 2, 2), without noise; and the rows' steps."""
    networks = Networks(
        student=u, teacher=None, real=None, fake_network=None, head=None, features=None
    )
    d = Draws((0,), IMAGES, torch.zeros(len(IMAGES), dtype=torch.int64), n)
    b = k.draw_critic(d, None) | {"t_gan": torch.zeros(n)}
    z, t, c = k.start(u, b)
    (real, *_), (fake, *_), _ = k.discriminator_inputs(networks, consistency(u, z, t, c), b)
    return fake, real, b["step"]


def test_the_real_sample_of_asd_is_its_own_of_one_step_more():
    """Mean and variance of a student whose every jump is 0.7 z + 0.2, from step to step."""
    steps = 3
    fake, real, step = fake_and_real_of(ASD(generator_steps=steps), shrunk)
    mean, variance = 0.2, 0.7**2  # of one step
    for k in range(steps):
        rows = step == k
        assert fake[rows].mean().item() == pytest.approx(mean, abs=0.015)
        assert fake[rows].var().item() == pytest.approx(variance, rel=0.03)
        t = 1 - (k + 1) / steps
        mean, variance = 0.7 * (1 - t) * mean + 0.2, 0.7**2 * ((1 - t) ** 2 * variance + t**2)
        if k == steps - 1:
            torch.testing.assert_close(real[rows], fake[rows])
        else:
            assert real[rows].mean().item() == pytest.approx(mean, abs=0.015)
            assert real[rows].var().item() == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize("steps", [2, 4])
def test_asd_alone_is_at_rest_at_any_exact_map_and_compares_first_and_last_step(steps):
    """Fake and real are one law at the map of *any* Gaussian; else the laws of the steps between
    cancel: E h(fake) - E h(real) = (E h(x_0) - E h(x_last)) / S."""
    k = ASD(generator_steps=steps)
    fake, real, _ = fake_and_real_of(k, exact_map(-0.4, 0.2))
    for power in (1, 2):
        assert fake.pow(power).mean().item() == pytest.approx(
            real.pow(power).mean().item(), abs=0.005
        )
    assert fake.mean().item() == pytest.approx(-0.4, abs=0.01)
    fake, real, step = fake_and_real_of(k, shrunk)
    for power in (1, 2):
        first, last = (fake[step == place].pow(power).mean() for place in (0, steps - 1))
        found = (fake.pow(power).mean() - real.pow(power).mean()).item()
        assert abs(found) > 0.02
        assert found == pytest.approx(((first - last) / steps).item(), abs=0.012)


def test_asd_has_no_data_and_no_head_of_other_samples():
    k = ASD()
    drawn = k.draw_critic(Draws((0,), IMAGES, torch.zeros(4000, dtype=torch.int64), 4), None)
    assert "x" not in drawn and "c_real" not in drawn
    for settings, sentence in (
        ({"contrast": {}}, "student's own"),
        ({"discriminator": "none"}, "has no other loss"),
        ({"generator_steps": 1}, "greater than or equal to 2"),
    ):
        with pytest.raises(ValidationError, match=sentence):
            ASD.model_validate(settings)
