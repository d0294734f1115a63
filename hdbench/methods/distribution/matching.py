"""What the methods of stage 2 share: a critic update (fake velocity and head) and a generator update.

generator        x_hat = z_k - t_k u_theta(z_k, 0, t_k, c);  with one step G(eps, c) = eps - u_theta(eps, 0, 1, c)
critic loss      mean || v_psi(z_t, t, c) - (eps' - x_hat) ||^2 + GAN loss of the head (hdbench.methods.distribution.gan)
generator loss   1/2 || x_hat - sg(x_hat - g - g_gan) ||^2 (mean) + weight * regulariser
A method gives the direction g, in units of x where it is normalised; RMS(g_gan) = relative_weight RMS(g) over the global
batch, and relative_weight itself where a method has no g.

Backward simulation (DMD2, arXiv 2405.14867, Section 4.5): with S = generator_steps > 1 a row trains at the input z_k of its
own random step k = 0 .. S - 1 (its code: one for the batch) of `hdbench.flow.samplers.sample_consistency`, t_k = 1 - k / S, simulated
without gradient.
A regulariser is the loss of a trajectory objective, kept while the generator is refined: with `meanflow` regularised HD, with
`knowledge` the regression on the teacher's ODE pairs of DMD (arXiv 2311.18828, Eq. 9; 0.25 LPIPS there, a mean square here).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from itertools import islice
from typing import Annotated, Literal, Union

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from hdbench.core.config import Config
from hdbench.core.distributed import global_mean
from hdbench.flow.path import MeanVelocity, Velocity, expand, interpolate, velocity
from hdbench.methods.base import Setting, Update
from hdbench.methods.discriminators import HEADS
from hdbench.methods.discriminators.base import Verdict
from hdbench.methods.distribution.gan import (
    GanConfiguration,
    approximate_r1,
    critic_loss,
    generator_loss,
    image_gradient,
    normalised_entropy,
)
from hdbench.methods.pretraining.flow_matching import flow_matching_loss
from hdbench.methods.trajectory import consistency, knowledge, meanflow

SAMPLER = "flow_map"  # how a network of these objectives samples after one step, see `sampler`
REGULARISERS = {"meanflow": meanflow, "consistency": consistency, "knowledge": knowledge}
Discriminator = Literal[("none", *HEADS)]
Regulariser = Annotated[
    Union[tuple(m.Configuration for m in REGULARISERS.values())], Field(discriminator="name")
]


class Shared(Config):
    """Fields of every method.  Those after `gan` are left out of a dump where they have their default."""

    name: str
    discriminator: Discriminator = "none"
    gan: GanConfiguration = GanConfiguration()
    generator_steps: int = Field(
        1,
        ge=1,
        exclude_if=lambda steps: steps == 1,
        description="S: steps that the generator is trained to sample in",
    )
    regulariser: Regulariser | None = Field(
        None, exclude_if=lambda regulariser: regulariser is None
    )
    regulariser_weight: float = Field(1.0, gt=0, exclude_if=lambda weight: weight == 1.0)

    @model_validator(mode="after")
    def _weight_of_something(self):
        if self.regulariser is None and self.regulariser_weight != 1.0:
            raise ValueError(
                f"regulariser_weight = {self.regulariser_weight}: there is no regulariser to weigh"
            )
        return self


class Configuration(Shared):
    """Fields of the methods with a fake velocity."""

    fake_steps_per_generator_step: int = Field(3, ge=1)
    fake_learning_rate: float = Field(4e-4, gt=0)
    t_min: float = Field(
        0.02, ge=0, le=1, description="renoising times are uniform in [t_min, t_max]"
    )
    t_max: float = Field(0.98, ge=0, le=1)

    @model_validator(mode="after")
    def _times_in_order(self):
        if self.t_min >= self.t_max:
            raise ValueError(f"t_min = {self.t_min}: must be below t_max = {self.t_max}")
        return self

    @property
    def critic_steps(self) -> int:
        return self.fake_steps_per_generator_step


def sampler(configuration: Shared) -> str:
    """How a network of this configuration samples, see hdbench.flow.samplers; with one step the two are the same."""
    return "consistency" if configuration.generator_steps > 1 else SAMPLER


def denoised(v: Velocity, z: Tensor, t: Tensor, c: Tensor) -> Tensor:
    """x = z_t - t v(z_t, t, c)."""
    return z - expand(t) * v(z, t, c)


def per_sample(x: Tensor) -> Tensor:
    """max(mean |x|, 1e-6) of each sample, (B, 1, 1, 1): what directions are normalised by."""
    return expand(x.abs().flatten(1).mean(1).clamp(min=1e-6))


def generator_surrogate(x_hat: Tensor, g: Tensor) -> Tensor:
    """1/2 mean || x_hat - sg(x_hat - g) ||^2, whose gradient in x_hat is g / numel."""
    return 0.5 * F.mse_loss(x_hat, (x_hat - g).detach())


def rms(x: Tensor) -> Tensor:
    """Root mean square over the whole batch, on however many ranks its rows are."""
    return global_mean(x.square()).sqrt()


@torch.no_grad()
def simulate(
    u: MeanVelocity, c: Tensor, eps: Tensor, step: Tensor, noises: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """z_k (B, C, H, W) and t_k (B,) from which consistency sampling jumps to data in a row's step k (B,), counted from 0.

    The noises (B, C, H, W) are those of steps 1, 2, ...; all rows go through all steps, so that ranks call u equally often.
    """
    z, t = eps, torch.ones(len(eps), device=eps.device)
    found, times = z, t
    for number, noise in enumerate(noises, start=1):
        x, t = (
            consistency.consistency(u, z, t, c),
            torch.full_like(t, 1 - number / (len(noises) + 1)),
        )
        z = interpolate(x, noise, t)
        found, times = (
            torch.where(expand(step == number), z, found),
            torch.where(step == number, t, times),
        )
    return found, times


class Matching:
    """The two updates.  A method overrides `direction`, and `draw_own`, `own`, `contrast` or `noised` where it must."""

    has_fake = True  # whether there is a fake velocity
    own = 2  # how many tensors `draw_own` draws; 0 for a method without a direction

    def __init__(self, configuration: Shared, setting: Setting):
        k = self.configuration = configuration
        self.setting, self.student, self.real = setting, setting.student, setting.teacher_velocity
        self.fake_network = setting.copy_teacher() if self.has_fake else None
        self.fake = velocity(self.fake_network)
        self.head = setting.head(k.discriminator, k.gan) if k.discriminator != "none" else None
        self.feature_network = (
            setting.teacher if k.gan.feature_network == "teacher" else self.fake_network
        )
        self.regulariser = (
            k.regulariser and REGULARISERS[k.regulariser.name].updates(k.regulariser, setting)[0]
        )

    # what methods override

    def draw_own(self, d) -> tuple[Tensor, ...]:
        """What `direction` needs."""
        return d.noise(), d.uniform(self.configuration.t_min, self.configuration.t_max)

    def direction(
        self, x_hat: Tensor, c: Tensor, eps: Tensor, t: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """g (B, C, H, W), a sample's own (not divided by B), to be subtracted from x_hat, which is detached; and scalars."""
        raise NotImplementedError

    def noised(self, x: Tensor, eps: Tensor, t: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(z, t, c) at which the generator has its sample x judged, with gradient in x."""
        return interpolate(x, eps, t), t, c

    def contrast(
        self, x, c_real, eps, eps_r1, t, x_hat, c, eps_fake
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(z, t, c) that the critic learns to tell apart: real, fake, and the real one perturbed for R1."""
        perturbed = x + self.configuration.gan.r1_sigma * eps_r1
        return [
            (interpolate(x, eps, t), t, c_real),
            (interpolate(x_hat, eps_fake, t), t, c),
            (interpolate(perturbed, eps, t), t, c_real),
        ]

    # what they share

    def draw_start(self, d) -> list[Tensor]:
        drawn, steps = [d.label(), d.noise()], self.configuration.generator_steps
        if steps > 1:
            drawn += [
                (steps * d.uniform()).floor().clamp(max=steps - 1),
                *(d.noise() for _ in range(steps - 1)),
            ]
        return drawn

    def start(self, drawn: Iterator[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(z, t, c) at which the student is to jump to data."""
        steps, (c, eps) = self.configuration.generator_steps, islice(drawn, 2)
        z, t = simulate(
            self.student, c, eps, next(drawn) if steps > 1 else None, list(islice(drawn, steps - 1))
        )
        return z, t, c

    def judge(self, z: Tensor, t: Tensor, c: Tensor) -> Verdict:
        return self.of_head(self.feature_network.features(z, t, c, self.configuration.gan.blocks))

    def of_head(self, tokens: list[Tensor]) -> Verdict:
        """The head's verdict, without autocast: its logits and weights stay float32."""
        with torch.autocast("cuda" if tokens[0].is_cuda else "cpu", enabled=False):
            return self.head([h.to(next(self.head.parameters()).dtype) for h in tokens])

    def judge_for_critic(self, z: Tensor, t: Tensor, c: Tensor) -> Verdict:
        with torch.no_grad() if self.feature_network is self.setting.teacher else nullcontext():
            tokens = self.feature_network.features(z, t, c, self.configuration.gan.blocks)
        return self.of_head(tokens)

    def draw_critic(self, d) -> list[Tensor]:
        k = self.configuration
        drawn = [*self.draw_start(d), d.noise()]
        if self.has_fake:
            drawn.append(d.uniform(k.t_min, k.t_max))
        if self.head is not None:
            drawn += [*d.data(), d.noise(), d.noise(), d.uniform(k.gan.t_min, k.gan.t_max)]
        return drawn

    def critic(self, *drawn: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        settings, drawn = self.configuration.gan, iter(drawn)
        z, t, c = self.start(drawn)
        with torch.no_grad():
            x_hat = consistency.consistency(self.student, z, t, c)
        eps_fake, losses, scalars = next(drawn), [], {}
        if self.has_fake:
            losses.append(flow_matching_loss(self.fake, x_hat, eps_fake, next(drawn), c)[0])
            scalars["fake_loss"] = losses[0]
        if self.head is not None:
            real, fake, perturbed = self.contrast(*drawn, x_hat, c, eps_fake)
            on_real, on_fake = self.judge_for_critic(*real), self.judge_for_critic(*fake)
            head_loss = critic_loss(on_real, on_fake, settings.loss)
            scalars |= {
                "head_loss": head_loss,
                "accuracy": 0.5
                * ((on_real.logits > 0).float().mean() + (on_fake.logits < 0).float().mean()),
                "token_entropy": normalised_entropy(on_fake.token_weights),
            }
            if hasattr(
                self.head, "token_weights"
            ):  # learned ones; those of other heads never change
                scalars |= {
                    f"token_weight_{token:03}": weight
                    for token, weight in enumerate(on_fake.token_weights.mean(0))
                }
            if settings.r1_weight:
                head_loss = head_loss + settings.r1_weight * approximate_r1(
                    on_real, self.judge_for_critic(*perturbed)
                )
            losses.append(head_loss)
        return sum(losses[1:], start=losses[0]), scalars

    def draw_generator(self, d) -> list[Tensor]:
        settings = self.configuration.gan
        drawn = [*self.draw_start(d), *self.draw_own(d)]
        if self.head is not None:
            drawn += [d.noise(), d.uniform(settings.t_min, settings.t_max)]
        return drawn + (list(self.regulariser.draw(d)) if self.regulariser else [])

    def generator(self, *drawn: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        k, drawn = self.configuration, iter(drawn)
        z, t, c = self.start(drawn)
        x_hat = consistency.consistency(self.student, z, t, c)
        g, size, scalars = None, 1.0, {}
        if self.own:
            g, scalars = self.direction(x_hat.detach(), c, *islice(drawn, self.own))
            size = rms(g)
            scalars = {f"{k.name}_gradient_rms": size} | scalars
        if self.head is not None:
            eps_gan, t_gan = islice(drawn, 2)
            g_gan = image_gradient(
                lambda x: generator_loss(
                    self.judge(*self.noised(x, eps_gan, t_gan, c)), k.gan.loss
                ),
                x_hat,
            )
            scalars["gan_gradient_rms"] = size_gan = rms(g_gan)
            scaled = k.gan.relative_weight * size / size_gan.clamp(min=1e-12) * g_gan
            if g is not None:
                scalars["gradient_cosine"] = F.cosine_similarity(
                    g.flatten(1), g_gan.flatten(1)
                ).mean()
            g = scaled if g is None else g + scaled
        loss = generator_surrogate(x_hat, g)
        if self.regulariser:
            scalars["regulariser_loss"], _ = self.regulariser.loss(*drawn)
            loss = loss + k.regulariser_weight * scalars["regulariser_loss"]
        return loss, {"loss": loss} | scalars

    def updates(self) -> list[Update]:
        k, of_regulariser = self.configuration, {}
        modules, rates = {}, {}
        if self.has_fake:
            modules["fake"], rates["fake"] = self.fake_network, k.fake_learning_rate
        if self.head is not None:
            modules["head"], rates["head"] = self.head, k.gan.learning_rate
        if self.regulariser:
            of_regulariser = {"frozen": self.regulariser.frozen, "begin": self.regulariser.begin}
        return [
            Update(
                name="critic",
                modules=modules,
                learning_rates=rates,
                draw=self.draw_critic,
                loss=self.critic,
                repeats=k.critic_steps,
            ),
            Update(
                name="generator",
                modules={"student": self.student},
                draw=self.draw_generator,
                loss=self.generator,
                learning_rates={"student": self.setting.learning_rate},
                **of_regulariser,
            ),
        ]


def forward_equivalents(
    configuration: Shared,
    depth: int,
    guided: bool,
    method: type[Matching] = Matching,
    extra: Mapping[str, float] = {},
) -> dict[str, float]:
    """Per sample and training step, in forwards of the network; a backward is two, one to the input alone is one.

    Features count the share of blocks that they run through; heads are not networks and are not counted.  `extra` is what
    the method adds to one real and one fake forward of the generator update, or to none if it has no direction.
    """
    k, n, directed = configuration, configuration.critic_steps, bool(method.own)
    cost = {"generator forward": (n + 1) * k.generator_steps, "generator backward": 2}
    if method.has_fake:
        cost |= {"fake forward": n + directed, "fake backward": 2 * n}
    if directed:
        cost["teacher forward"] = 2 if guided else 1
    if k.discriminator != "none":
        share = max(k.gan.blocks) / depth
        judged = n * (3 if k.gan.r1_weight else 2)
        cost |= {
            "feature forward": share * (judged + 1),
            "feature backward": share
            * (1 + (2 * judged if k.gan.feature_network == "fake" else 0)),
        }
    for term, value in extra.items():
        cost[term] = cost.get(term, 0) + value
    if k.regulariser:
        of_regulariser = REGULARISERS[k.regulariser.name].forward_equivalents(
            k.regulariser, depth, guided
        )
        cost |= {f"regulariser {term}": value for term, value in of_regulariser.items()}
    return cost
