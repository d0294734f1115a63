"""What the methods of stage 2 share: a critic update (fake score and head) and a generator update.

generator       x_hat = z_k - t_k u_theta(z_k, 0, t_k, c),  of one step eps - u_theta(eps, 0, 1, c)
critic loss     || v_psi(z_t, t, c) - (eps' - x_hat) ||^2 (mean) + GAN loss of the head
generator loss  1/2 || x_hat - sg(x_hat - g - g_gan) ||^2 (mean) + weight * regulariser
GAN's size      RMS(g_gan) = relative_weight RMS(g),  over the global batch
A method gives the direction g, in units of x where it is normalised; without one, RMS(g_gan) is
relative_weight itself.  The GAN loss is in hdbench.methods.distribution.gan.

Backward simulation (DMD2, arXiv 2405.14867, Section 4.5): with S = generator_steps > 1 a row trains
at the input z_k of its own random step k = 0 .. S - 1 (its code: one for the batch) of consistency
sampling, t_k = 1 - k / S, simulated without gradient.  A regulariser is the loss of a trajectory
objective, kept while the generator is refined: with `meanflow` regularised HD, with `scm` rCM
(arXiv 2510.08431), with `knowledge` the regression on the teacher's ODE pairs of DMD (arXiv
2311.18828, Eq. 9; 0.25 LPIPS there, a mean square here).  With `contrast` the head's real samples
are the teacher's, of its ODE, and not the data's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from hdbench.flow.path import MeanVelocity, interpolate, velocity
from hdbench.methods.base import Batch, Loss, Objective, Pairs, Passes, Problem, Update
from hdbench.methods.batches import prefixed, under
from hdbench.methods.discriminators.pool import HeadPool
from hdbench.methods.distribution.gan import (
    GanSettings,
    accuracy,
    approximate_r1,
    critic_loss,
    generator_loss,
    image_gradient,
    normalised_entropy,
)
from hdbench.methods.distribution.networks import (
    Discriminator,
    Networks,
    Point,
    head_problem,
    new_head,
    parameter_free,
)
from hdbench.methods.distribution.shared_pass import SharedPass
from hdbench.methods.distribution.simulation import simulate
from hdbench.methods.distribution.surrogate import generator_surrogate, rms
from hdbench.methods.pretraining.flow_matching import flow_matching_loss
from hdbench.methods.trajectory.consistency import Consistency, consistency
from hdbench.methods.trajectory.knowledge import Knowledge
from hdbench.methods.trajectory.meanflow import MeanFlow
from hdbench.methods.trajectory.scm import SCM
from hdbench.methods.trajectory.stochastic_consistency import StochasticConsistency

Regulariser = Annotated[
    MeanFlow | Consistency | SCM | Knowledge | StochasticConsistency, Field(discriminator="name")
]
OnStep = Callable[[int, int], Sequence[nn.Parameter] | None]
STATE_OPTIONS = ("frozen", "on_step", "round_of")  # of a regulariser, taken over by the generator


class GeneratorObjective(Objective):
    """A generator update and a critic update.

    A method overrides `direction`, and `draw_direction`, `discriminator_inputs` or `perturb` where
    it must.  Fields after `gan` are left out of a dump where they have their default.
    """

    exchanges: ClassVar[bool] = True
    has_fake: ClassVar[bool] = False
    """Whether there is a fake score."""
    directed: ClassVar[bool] = True
    """Whether the method gives a direction beside the GAN's."""
    has_one_point: ClassVar[bool] = False
    """Whether that asks teacher and fake once each, at interpolate(x_hat, eps_match, t_match)."""

    if TYPE_CHECKING:  # fields of methods with a fake score
        fake_learning_rate: float
        t_min: float
        t_max: float

    discriminator: Discriminator = "none"
    gan: GanSettings = GanSettings()
    generator_steps: int = Field(
        default=1,
        ge=1,
        exclude_if=lambda steps: steps == 1,
        description="S: steps that the generator is trained to sample in",
    )
    regulariser: Regulariser | None = Field(default=None, exclude_if=lambda value: value is None)
    regulariser_weight: float = Field(default=1.0, gt=0, exclude_if=lambda weight: weight == 1.0)
    contrast: Pairs | None = Field(
        default=None,
        exclude_if=lambda pairs: pairs is None,
        description="the teacher's ODE pairs, the head's real samples in place of the data's",
    )

    @model_validator(mode="after")
    def _head_fits(self):
        if problem := head_problem(self):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _weight_of_something(self):
        if self.regulariser is None and self.regulariser_weight != 1.0:
            raise ValueError(
                f"regulariser_weight = {self.regulariser_weight}: there is no regulariser to weigh"
            )
        return self

    def critic_steps(self) -> int:
        """Critic updates before each generator update."""
        raise NotImplementedError

    def sampler(self):
        """With one step the two are the same."""
        return "consistency" if self.generator_steps > 1 else "flow_map"

    def sampling_steps(self):
        return self.generator_steps

    def head(self):
        return self.discriminator, self.gan

    def unread_of_head(self):
        times = ("t_min", "t_max") if self.gan.times == "shared" else ()
        return (*times, "learning_rate") if parameter_free(self.discriminator) else times

    def pairs_needed(self):
        of_regulariser = self.regulariser.pairs_needed() if self.regulariser else None
        return self.contrast or of_regulariser

    def evaluations(self, guided: bool) -> tuple[int, int]:
        """Network evaluations of one velocity of the teacher and of the fake."""
        return (2 if guided else 1), 1

    def at_null_label(self, network: str) -> bool:
        """Whether "teacher" or "fake" is asked, or learns, without a row's label."""
        return False

    def shares(self, network: str) -> bool:
        """Whether the head reads this network's tokens in a pass that serves another term."""
        shared = self.gan.times == "shared" and self.discriminator != "none"
        return shared and self.gan.feature_network == network

    # what a method overrides

    def draw_direction(self, d) -> Batch:
        """What `direction` needs."""
        return {}

    def draw_discriminator(self, d, problem: Problem) -> Batch:
        """What `discriminator_inputs` needs beside the generator's samples."""
        x, c_real = d.rows(*problem.pairs[1:]) if self.contrast else d.data()
        b = {"x": x, "c_real": c_real, "eps_gan": d.noise(), "eps_r1": d.noise()}
        return b | {"t_gan": d.uniform(self.gan.t_min, self.gan.t_max)}

    def draw_judgement(self, d) -> Batch:
        """What `perturb` needs."""
        return {"eps_gan": d.noise(), "t_gan": d.uniform(self.gan.t_min, self.gan.t_max)}

    def direction(self, networks: Networks, x_hat: Tensor, b: Batch) -> Loss:
        """g (B, C, H, W) of each sample, to be subtracted from the detached x_hat, and scalars."""
        raise NotImplementedError

    def perturb(self, networks: Networks, x: Tensor, b: Batch) -> Point:
        """(z, t, c) at which the generator has its sample x judged, with gradient in x."""
        return interpolate(x, b["eps_gan"], b["t_gan"]), b["t_gan"], b["c"]

    def discriminator_inputs(
        self, networks: Networks, x_hat: Tensor, b: Batch
    ) -> tuple[Point, Point, Point]:
        """(z, t, c) for the critic to tell apart: real, fake, and the real one perturbed for R1."""
        t = b["t_gan"]
        perturbed = b["x"] + self.gan.r1_sigma * b["eps_r1"]
        return (
            (interpolate(b["x"], b["eps_gan"], t), t, b["c_real"]),
            (interpolate(x_hat, b["eps_fake"], t), t, b["c"]),
            (interpolate(perturbed, b["eps_gan"], t), t, b["c_real"]),
        )

    def combined(self, g: Tensor, g_gan: Tensor, t: Tensor) -> Tensor:
        """The direction and the scaled GAN's together, of samples that start at t (B,)."""
        return g + g_gan

    def on_critic_step(self, networks: Networks) -> OnStep:
        """The critic's `Update.on_step`."""
        pool = networks.head
        return pool.on_step if isinstance(pool, HeadPool) else lambda step, steps: None

    def at_guidance(self, networks: Networks, b: Batch) -> Networks:
        """The networks as the direction sees them."""
        return networks

    # what they share

    def draw_start(self, d, problem: Problem) -> Batch:
        steps = self.generator_steps
        b = {"c": d.label(), "eps": d.noise()}
        if steps > 1:
            b["step"] = (steps * d.uniform()).floor().clamp(max=steps - 1)
            b |= {f"eps_{number}": d.noise() for number in range(1, steps)}
        return b

    def start(self, student: MeanVelocity, b: Batch) -> Point:
        """(z, t, c) at which the student is to jump to data."""
        noises = [b[f"eps_{number}"] for number in range(1, self.generator_steps)]
        return (*simulate(student, b["c"], b["eps"], b.get("step"), noises), b["c"])

    def draw_critic(self, d, problem: Problem) -> Batch:
        b = self.draw_start(d, problem) | {"eps_fake": d.noise()}
        if self.has_fake:
            b["t_fake"] = d.uniform(self.t_min, self.t_max)
        b |= self.draw_discriminator(d, problem) if self.discriminator != "none" else {}
        return b | {"t_gan": b["t_fake"]} if self.gan.times == "shared" else b

    def critic(self, networks: Networks, b: Batch) -> Loss:
        """Flow matching of the fake score on the generator's samples, and the head's loss."""
        losses = []
        scalars = {}
        z, t, c = self.start(networks.student, b)
        with torch.no_grad():
            x_hat = consistency(networks.student, z, t, c)
        shared = None
        if self.shares("fake"):
            fake = networks.fake_network
            shared = SharedPass(fake, len(x_hat), self.gan.blocks, trained=True)
        if self.has_fake:
            loss = self.fake_loss(networks.with_shared(shared) if shared else networks, x_hat, b)
            losses.append(loss)
            scalars["fake_loss"] = loss
        if networks.head is not None:
            loss, of_head = self.head_loss(networks, x_hat, b, shared)
            losses.append(loss)
            scalars |= of_head
        return sum(losses[1:], start=losses[0]), scalars

    def fake_loss(self, networks: Networks, x_hat: Tensor, b: Batch) -> Tensor:
        """Flow matching of the fake score, a scalar."""
        v = velocity(networks.fake_network)
        return flow_matching_loss(v, x_hat, b["eps_fake"], b["t_fake"], b["c"])[0]

    def head_loss(
        self, networks: Networks, x_hat: Tensor, b: Batch, shared: SharedPass | None = None
    ) -> Loss:
        """The GAN loss of the head, with approximate R1."""
        blocks = self.gan.blocks
        real_point, fake_point, perturbed_point = self.discriminator_inputs(networks, x_hat, b)
        real = networks.judge_for_critic(real_point, blocks)
        fake = networks.judge_for_critic(fake_point, blocks, shared)
        loss = critic_loss(real, fake, self.gan.loss)
        scalars = {
            "head_loss": loss,
            "accuracy": accuracy(real, fake),
            "token_entropy": normalised_entropy(fake.token_weights),
        }
        if networks.head.adaptive:
            weights = enumerate(fake.token_weights.mean(0))
            scalars |= {f"token_weight_{token:03}": weight for token, weight in weights}
        if self.gan.r1_weight:
            perturbed = networks.judge_for_critic(perturbed_point, blocks)
            loss = loss + self.gan.r1_weight * approximate_r1(real, perturbed)
        return loss, scalars

    def draw_generator(self, d, problem: Problem, regulariser: Update | None = None) -> Batch:
        b = self.draw_start(d, problem)
        if self.directed:
            b |= self.draw_direction(d)
        if self.discriminator != "none" and self.gan.times == "own":
            b |= self.draw_judgement(d)
        if regulariser:
            b |= prefixed("regulariser", regulariser.draw(d))
        return b

    def generator(self, networks: Networks, b: Batch, regulariser: Update | None = None) -> Loss:
        """The surrogate whose gradient is the direction and the GAN's, and the regulariser."""
        z, t, c = self.start(networks.student, b)
        x_hat = consistency(networks.student, z, t, c)
        g = None
        size = 1.0
        scalars = {}
        shared = None
        if self.shares("teacher") or self.shares("fake"):
            shared = SharedPass(networks.features, len(x_hat), self.gan.blocks)
        if self.directed:
            asked = self.at_guidance(networks.with_shared(shared) if shared else networks, b)
            g, of_direction = self.direction(asked, x_hat.detach(), b)
            size = rms(g)
            scalars = {f"{self.name}_gradient_rms": size} | of_direction
        if networks.head is not None:
            g_gan = self.gan_gradient(networks, x_hat, b, shared)
            scalars["gan_gradient_rms"] = size_gan = rms(g_gan)
            scaled = self.gan.relative_weight * size / size_gan.clamp(min=1e-12) * g_gan
            if g is not None:
                cosine = F.cosine_similarity(g.flatten(1), g_gan.flatten(1))
                scalars["gradient_cosine"] = cosine.mean()
            g = scaled if g is None else self.combined(g, scaled, t)
        loss = generator_surrogate(x_hat, g)
        if regulariser:
            scalars["regulariser_loss"], _ = regulariser.loss(under("regulariser", b))
            loss = loss + self.regulariser_weight * scalars["regulariser_loss"]
        return loss, {"loss": loss} | scalars

    def gan_gradient(
        self, networks: Networks, x_hat: Tensor, b: Batch, shared: SharedPass | None = None
    ) -> Tensor:
        """Gradient (B, C, H, W) of the generator's GAN loss in x_hat."""
        kind = self.gan.loss
        if shared:
            return shared.image_gradient(lambda h: generator_loss(networks.apply_head(h), kind))

        def score(x: Tensor) -> Tensor:
            point = self.perturb(networks, x, b)
            return generator_loss(networks.judge(point, self.gan.blocks), kind)

        return image_gradient(score, x_hat)

    def networks(self, problem: Problem) -> Networks:
        fake = problem.copy_teacher() if self.has_fake else None
        with_head = self.discriminator != "none"
        return Networks(
            student=problem.student,
            teacher=problem.teacher,
            real=problem.teacher_velocity,
            guide=problem.guide,
            fake_network=fake,
            head=new_head(problem.head, self.discriminator, self.gan) if with_head else None,
            features=problem.teacher if self.gan.feature_network == "teacher" else fake,
        )

    def updates(self, problem):
        networks = self.networks(problem)
        modules = {}
        rates = {}
        options = {}
        regulariser = None
        if networks.fake_network is not None:
            modules["fake"] = networks.fake_network
            rates["fake"] = self.fake_learning_rate
        if networks.head is not None and not parameter_free(self.discriminator):
            modules["head"] = networks.head
            rates["head"] = self.gan.learning_rate
        if self.regulariser:
            (regulariser,) = self.regulariser.updates(problem)
            options = {name: getattr(regulariser, name) for name in STATE_OPTIONS}
        critic = Update(
            name="critic",
            modules=modules,
            learning_rates=rates,
            draw=lambda d: self.draw_critic(d, problem),
            loss=lambda b: self.critic(networks, b),
            repeats=self.critic_steps(),
            on_step=self.on_critic_step(networks),
        )
        generator = Update(
            name="generator",
            modules={"student": problem.student},
            learning_rates={"student": problem.learning_rate},
            draw=lambda d: self.draw_generator(d, problem, regulariser),
            loss=lambda b: self.generator(networks, b, regulariser),
            **options,
        )
        return [critic, generator]

    def passes(self, depth, guided):
        """Features count by their share of the blocks; heads, which are no networks, do not."""
        n = self.critic_steps()
        of_teacher, of_fake = self.evaluations(guided)
        passes = {"generator": Passes(forward=(n + 1) * self.generator_steps, backward=2)}
        if self.has_fake:
            passes["fake"] = Passes(forward=n + self.directed * of_fake, backward=2 * n)
        if self.directed:
            passes["teacher"] = Passes(forward=of_teacher)
        if self.discriminator != "none":
            share = max(self.gan.blocks) / depth
            network = self.gan.feature_network
            separate = self.gan.times == "own"
            judged = n * (self.gan.judgements - self.shares("fake"))
            backward = separate + (2 * judged if network == "fake" else 0)
            passes["feature"] = Passes(
                forward=share * (judged + separate), backward=share * backward
            )
            if not separate:
                passes[network] = passes[network].plus(Passes(backward=share))
        for network, extra in self.extra_passes(depth, guided).items():
            passes[network] = passes.get(network, Passes()).plus(extra)
        if self.regulariser:
            others = self.regulariser.passes(depth, guided)
            passes |= {f"regulariser {network}": kinds for network, kinds in others.items()}
        return passes

    def extra_passes(self, depth: int, guided: bool) -> dict[str, Passes]:
        """What the method adds to the generator update's real and fake forward, if it has them."""
        return {}
