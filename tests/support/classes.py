"""Two classes on a line with everything known: x | c ~ N(m_c, s_c^2), labels equally frequent."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hdbench.core.seeds import generator
from hdbench.flow.path import expand
from hdbench.methods import OBJECTIVES
from hdbench.methods.base import Problem
from hdbench.methods.distribution.gan import GanSettings
from hdbench.stages.trainer import Trainer
from hdbench.suite.training import Training

MEANS, SD = (-0.5, 0.5), 0.5


class TwoClasses(nn.Module):
    """The exact velocity of each class, and of both together for the null label 2; learnable."""

    null_label = 2

    def __init__(self, means=MEANS, sd: float = SD):
        super().__init__()
        self.means = nn.Parameter(torch.tensor(means))
        self.log_sds = nn.Parameter(torch.full((2,), math.log(sd)))

    def components(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """log N(z; (1 - t) m_c, sigma_c^2) and v_c (B, 2) of flat z (B,)."""
        z, t = z.flatten()[:, None], t[:, None]
        square = (2 * self.log_sds).exp()
        variance = (1 - t) ** 2 * square + t**2
        offset = z - (1 - t) * self.means
        log_density = -0.5 * (offset**2 / variance + variance.log() + math.log(2 * math.pi))
        return log_density, (t - (1 - t) * square) / variance * offset - self.means

    def forward(self, z, r, t, c):
        log_density, v = self.components(z, t)
        shares = torch.where(
            c[:, None] == self.null_label,
            log_density.softmax(1),
            nn.functional.one_hot(c.clamp(max=1), 2).to(z.dtype),
        )
        return (shares * v).sum(1).view_as(z)

    def features(self, z, t, c, blocks):
        return [torch.stack([z.flatten(1), z.flatten(1).square()], dim=2)]


class AffineByClass(nn.Module):
    """x_hat = a_c eps + b_c in one step."""

    def __init__(self, a=(0.6, 0.6), b=(-0.2, 0.3)):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, z, r, t, c):
        return z - (expand(self.a[c]) * z + expand(self.b[c]))


def trained(
    name: str, steps: int = 200, learning_rate: float = 0.02, head=None, pairs=None, **settings
) -> tuple[Tensor, Tensor]:
    """|a| and b (2,), averaged, after the method's training on the classes at images of one pixel.

    Before each step the fake becomes the exact velocity of the student's own two classes.
    """
    known = {"fake_learning_rate": 1e-9, "fake_steps_per_generator_step": 1}
    fields = OBJECTIVES[name].model_fields
    objective = OBJECTIVES[name](**{k: v for k, v in known.items() if k in fields} | settings)
    torch.manual_seed(0)
    teacher, student = TwoClasses().requires_grad_(False), AffineByClass()
    problem = Problem(
        student=student,
        learning_rate=learning_rate,
        teacher=teacher,
        teacher_velocity=lambda z, t, c: teacher(z, t, t, c),
        copy_teacher=TwoClasses,
        head=head,
        pairs=pairs,
    )
    labels = torch.arange(4000) % 2
    noise = torch.randn(4000, 1, 1, 1, generator=generator("classes"))
    images = torch.tensor(MEANS)[labels].view(-1, 1, 1, 1) + SD * noise
    training = Training(
        objective=objective, steps=steps, batch=256, learning_rate=learning_rate, ema=0.98
    )
    updates = objective.updates(problem)
    trainer = Trainer(updates, training, student, (0, "test"), images, labels)
    for _ in range(steps):
        if "fake" in updates[0].modules:
            with torch.no_grad():
                updates[0].modules["fake"].means.copy_(student.b)
                updates[0].modules["fake"].log_sds.copy_(student.a.abs().log())
        trainer.train_step()
    return trainer.ema["a"].abs(), trainer.ema["b"]


def head_settings(objective: str, **changes) -> GanSettings:
    """The method's own, with these changes."""
    return type(OBJECTIVES[objective]().gan)(**changes)
