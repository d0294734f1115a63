"""What the settings of recipes make of their methods, on exactly solvable data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hdbench.core.seeds import Draws
from hdbench.flow.path import expand, guided, interpolate
from hdbench.methods.base import Problem
from hdbench.methods.discriminators import build_head
from hdbench.methods.distribution.adm import euler_step
from hdbench.stages.trainer import Trainer
from hdbench.suite.reading import read_recipe
from hdbench.suite.training import Training
from tests.science.test_objectives import rng, small_transformer
from tests.support import shipped
from tests.support.oracles import Gaussian, sign_nodes


def training_of(recipe: str, stage: str = "refine") -> Training:
    return getattr(read_recipe(recipe, "")[2].arm, stage)


def drawn(images: Tensor, batch: int) -> Draws:
    return Draws(("held out",), images, torch.zeros(len(images), dtype=torch.long), batch)


# LADD

CHECKERS = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)


def two_modes(eps: Tensor, scale: float | Tensor) -> Tensor:
    """Half of each: scale times N(+-CHECKERS / 2, 0.2^2), a function of eps."""
    return scale * (0.5 * expand(eps.flatten(1).sum(1).sign()) * CHECKERS + 0.2 * eps)


class Shrunken(nn.Module):
    """u of a generator of two modes at 0.7 of their size, as regression leaves them."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, z, r, t, c):
        return z - two_modes(z, self.scale)


def accuracy_of_head(head_steps: int, generator_steps: int = 10) -> float:
    """On samples not seen, after training by the recipe's settings."""
    training = training_of("ladd").model_copy(update={"steps": generator_steps})
    objective = training.objective.model_copy(update={"head_steps_per_generator_step": head_steps})
    torch.manual_seed(0)
    teacher = small_transformer(False, depth=3).requires_grad_(False)
    problem = Problem(
        student=Shrunken(),
        learning_rate=training.learning_rate,
        teacher=teacher,
        teacher_velocity=guided(teacher, 1.0),
        head=lambda name, gan, *_: build_head(
            name, layers=len(gan.blocks), width=16, grid=4, parameters=gan.parameters
        ),
    )
    images = two_modes(torch.randn(2000, 1, 8, 8, generator=rng(3)), 1.0)
    labels = torch.zeros(2000, dtype=torch.long)
    updates = objective.updates(problem)
    trainer = Trainer(updates, training, problem.student, (0, "test"), images, labels)
    for _ in range(generator_steps):
        trainer.train_step()
    critic = updates[0]
    with torch.no_grad():
        return critic.loss(critic.draw(drawn(images, 1000)))[1]["accuracy"].item()


@pytest.mark.slow
def test_the_head_of_ladd_tells_a_shrunken_mixture_after_ten_generator_steps():
    """With one head step each it is at chance."""
    assert accuracy_of_head(training_of("ladd").objective.head_steps_per_generator_step) > 0.56
    assert accuracy_of_head(1) < 0.53


# ADM


def sensitivity(t: Tensor, delta: float, sd: float) -> float:
    """d log Var(z_s) / d log sd^2 of the student, mean over t (B,), by a central difference: of the
    fake's step, its network fixed at N(0, sd^2), from z_t to s = t - delta."""
    x, eps = (column.reshape(-1, 1, 1, 1) for column in sign_nodes().T)
    fake = Gaussian(torch.zeros(1, 1, 1).double(), sd).v
    h = 1e-4

    def log_variance(scale: float, t: Tensor) -> Tensor:
        z = interpolate(scale * sd * x, eps, t)
        return euler_step(fake, z, t, None, delta)[0].square().mean().log()

    times = t.double()[:, None].expand(-1, len(x))
    slopes = [log_variance(1 + h, row) - log_variance(1 - h, row) for row in times]
    return torch.stack(slopes).mean().item() / (4 * h)


@pytest.mark.parametrize("recipe", ["adm", "dmdx"])
def test_the_law_that_adm_discriminates_follows_high_frequencies(recipe):
    """Of N(0, 0.1^2): 10% on average at the paper's times, 0.2% at times above 1/2."""
    objective = training_of(recipe).objective
    gan = objective.gan
    t = objective.draw_discriminator(drawn(torch.zeros(10, 1, 1, 1), 400), None)["t_gan"]
    share = ((1 - t) * 0.1) ** 2 / (((1 - t) * 0.1) ** 2 + t**2)
    assert sensitivity(t, objective.delta, 0.1) == pytest.approx(share.mean().item(), rel=1e-3)
    assert sensitivity(t, objective.delta, 0.1) > 0.08
    assert (objective.delta, gan.t_min, gan.t_max) == (1 / 64, 0.02, 0.98)
    assert sensitivity(0.5 + 0.48 * torch.linspace(0, 1, 400), 0.5, 0.1) < 0.01


# shares of rows at t = 1 and power of the adaptive weight


@pytest.mark.parametrize(
    ("recipe", "share"),
    [
        *((name, 1 / 4) for name in ("meanflow", "improved_meanflow", "scm", "reflow")),
        ("twinflow", 1 / 4),
        ("shortcut", 1 / 4 + 1 / 4 * (2 - 1 / 64) / 7),  # besides: 1, 1/2, ..., 1/64 of each size
        *((name, 1 / 8) for name in ("consistency", "slam", "scott_without_gan")),
    ],
)
def test_a_quarter_of_rows_starts_from_noise_unless_the_paper_has_equal_steps(recipe, share):
    """With exact shares where it is one of the suite's; of 8 equal steps one starts at t = 1."""
    images = torch.zeros(10, 1, 1, 1)
    problem = Problem(
        student=nn.Linear(1, 1),
        learning_rate=1.0,
        pairs=(images, images, torch.zeros(10, dtype=torch.long)),
    )
    (update,) = training_of(recipe, "trajectory").objective.updates(problem)
    b = update.draw(drawn(images, 8000))
    start = b["t"] == 1
    assert start.double().mean().item() == pytest.approx(share, abs=0.015)
    if share != 1 / 8:
        assert start[-2000:].all()
    if recipe in ("reflow", "shortcut", "twinflow"):  # their ends at t = 1 are data
        assert b["r"][-2000:].eq(0).all()


@pytest.mark.parametrize("recipe", shipped.RECIPES)
def test_a_power_other_than_one_has_a_source_or_a_reason(recipe):
    """For each recipe with a trajectory stage of its own."""
    _, written, whole = read_recipe(recipe, "")
    objective = (written["trajectory"] or {}).get("objective", {})
    if objective.get("adaptive_power", 1.0) != 1.0:
        said = whole.hyper_parameters["trajectory.objective.adaptive_power"]
        assert said.startswith(("paper", "code")) or "conditional mean" in said
