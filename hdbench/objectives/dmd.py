"""Distribution matching distillation (Yin et al., arXiv 2311.18828; DMD2, arXiv 2405.14867), stage 2 of HD.

G(eps, c) = eps - u_theta(eps, 0, 1, c);  z_t = (1 - t) x_hat + t eps';  v_psi the fake velocity
x_real = z_t - t v^w_phi(z_t, t, c),  x_fake = z_t - t v_psi(z_t, t, c)
g = (x_fake - x_real) / mean |x_hat - x_real|   per sample                          (DMD, Eqs. 7 and 8)
generator loss 1/2 || x_hat - sg(x_hat - g - g_gan) ||^2 (mean), fake loss: flow matching on x_hat, k steps a generator step
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from hdbench.config import Config
from hdbench.discriminators import HEADS
from hdbench.discriminators.base import Verdict
from hdbench.distributed import global_mean
from hdbench.flow import Velocity, expand, generate, interpolate, velocity
from hdbench.objectives import gan as adversarial
from hdbench.objectives.base import Setting, Update
from hdbench.objectives.flow_matching import flow_matching_loss


SAMPLER = "flow_map"  # how a network of this objective samples, see hdbench.stages.sample


class Configuration(Config):
    name: Literal["dmd"] = "dmd"
    discriminator: Literal[("none", *HEADS)] = "none"
    gan: adversarial.GanConfiguration = adversarial.GanConfiguration()
    fake_steps_per_generator_step: int = Field(3, ge=1)
    fake_learning_rate: float = Field(4e-4, gt=0)
    t_min: float = Field(0.02, ge=0, le=1, description="renoising times are uniform in [t_min, t_max]")
    t_max: float = Field(0.98, ge=0, le=1)

    @model_validator(mode="after")
    def _times_in_order(self):
        if self.t_min >= self.t_max:
            raise ValueError(f"t_min = {self.t_min}: must be below t_max = {self.t_max}")
        return self


def dmd_gradient(x_hat: Tensor, z: Tensor, t: Tensor, c: Tensor, real: Velocity, fake: Velocity) -> Tensor:
    """g (B, C, H, W), to be *subtracted* from x_hat: (x_fake - x_real) / mean |x_hat - x_real|, the mean per sample."""
    with torch.no_grad():
        x_real, x_fake = z - expand(t) * real(z, t, c), z - expand(t) * fake(z, t, c)
        return (x_fake - x_real) / expand((x_hat - x_real).abs().flatten(1).mean(1).clamp(min=1e-6))


def generator_surrogate(x_hat: Tensor, g: Tensor) -> Tensor:
    """1/2 mean || x_hat - sg(x_hat - g) ||^2, whose gradient in x_hat is g / numel."""
    return 0.5 * F.mse_loss(x_hat, (x_hat - g).detach())


def rms(x: Tensor) -> Tensor:
    """Root mean square over the whole batch, on however many ranks its rows are."""
    return global_mean(x.square()).sqrt()


def updates(configuration: Configuration, setting: Setting) -> list[Update]:
    k = configuration
    fake_network = setting.copy_teacher()
    head = setting.head(k.discriminator, k.gan) if k.discriminator != "none" else None
    feature_network = setting.teacher if k.gan.feature_network == "teacher" else fake_network
    fake = velocity(fake_network)
    student = setting.student

    def judge(x: Tensor, eps: Tensor, t: Tensor, c: Tensor) -> Verdict:
        return head(feature_network.features(interpolate(x, eps, t), t, c, k.gan.blocks))

    def judge_for_critic(x: Tensor, eps: Tensor, t: Tensor, c: Tensor) -> Verdict:
        with torch.no_grad() if feature_network is setting.teacher else nullcontext():
            tokens = feature_network.features(interpolate(x, eps, t), t, c, k.gan.blocks)
        return head(tokens)

    def draw_critic(d):
        c = d.label()
        drawn = c, d.noise(), d.noise(), d.uniform(k.t_min, k.t_max)
        if head is None:
            return drawn
        return *drawn, *d.data(), d.noise(), d.noise(), d.uniform(k.gan.t_min, k.gan.t_max)

    def critic(c, eps, eps_fake, t, x=None, c_real=None, eps_gan=None, eps_r1=None, t_gan=None):
        with torch.no_grad():
            x_hat = generate(student, eps, c)
        fake_loss, _ = flow_matching_loss(fake, x_hat, eps_fake, t, c)
        if head is None:
            return fake_loss, {"fake_loss": fake_loss}
        on_real, on_fake = judge_for_critic(x, eps_gan, t_gan, c_real), judge_for_critic(x_hat, eps_fake, t_gan, c)
        head_loss = adversarial.critic_loss(on_real, on_fake, k.gan.loss)
        scalars = {"fake_loss": fake_loss, "head_loss": head_loss,
                   "accuracy": 0.5 * ((on_real.logits > 0).float().mean() + (on_fake.logits < 0).float().mean()),
                   "token_entropy": adversarial.normalised_entropy(on_fake.token_weights)}
        if hasattr(head, "token_weights"):  # learned ones; those of other heads never change
            scalars |= {f"token_weight_{token:03}": weight for token, weight in enumerate(on_fake.token_weights.mean(0))}
        if k.gan.r1_weight:
            noisy = judge_for_critic(x + k.gan.r1_sigma * eps_r1, eps_gan, t_gan, c_real)
            head_loss = head_loss + k.gan.r1_weight * adversarial.approximate_r1(on_real, noisy)
        return fake_loss + head_loss, scalars

    def draw_generator(d):
        drawn = d.label(), d.noise(), d.noise(), d.uniform(k.t_min, k.t_max)
        return drawn if head is None else (*drawn, d.noise(), d.uniform(k.gan.t_min, k.gan.t_max))

    def generator(c, eps, eps_renoise, t, eps_gan=None, t_gan=None):
        x_hat = generate(student, eps, c)
        g = dmd_gradient(x_hat, interpolate(x_hat.detach(), eps_renoise, t), t, c, setting.teacher_velocity, fake)
        scalars = {"dmd_gradient_rms": rms(g)}
        if head is not None:
            g_gan = adversarial.image_gradient(
                lambda x: adversarial.generator_loss(judge(x, eps_gan, t_gan, c), k.gan.loss), x_hat)
            scale = k.gan.relative_weight * rms(g) / rms(g_gan).clamp(min=1e-12)
            cosine = F.cosine_similarity(g.flatten(1), g_gan.flatten(1)).mean()
            scalars |= {"gan_gradient_rms": rms(g_gan), "gradient_cosine": cosine}
            g = g + scale * g_gan
        loss = generator_surrogate(x_hat, g)
        return loss, {"loss": loss} | scalars

    critic_modules = {"fake": fake_network} | ({} if head is None else {"head": head})
    return [
        Update(name="critic", modules=critic_modules, draw=draw_critic, loss=critic, repeats=k.fake_steps_per_generator_step,
               learning_rates={"fake": k.fake_learning_rate, "head": k.gan.learning_rate}),
        Update(name="generator", modules={"student": student}, draw=draw_generator, loss=generator,
               learning_rates={"student": setting.learning_rate}),
    ]


def forward_equivalents(configuration: Configuration, depth: int, guided: bool) -> dict[str, float]:
    """Per sample and training step, in forwards of the network; a backward is two, one to the input alone is one.

    Features count the share of blocks that they run through; heads are not networks and are not counted.
    """
    k, n = configuration, configuration.fake_steps_per_generator_step
    cost = {"generator forward": n + 1, "generator backward": 2, "fake forward": n + 1, "fake backward": 2 * n,
            "teacher forward": 2 if guided else 1}
    if k.discriminator != "none":
        share = max(k.gan.blocks) / depth
        judged = n * (3 if k.gan.r1_weight else 2)
        cost |= {"feature forward": share * (judged + 1),
                 "feature backward": share * (1 + (2 * judged if k.gan.feature_network == "fake" else 0))}
    return cost
