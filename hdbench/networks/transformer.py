"""The diffusion transformer of every tier: DiT (arXiv 2212.09748), SiT (arXiv 2401.08740) with r.

One class serves the tiny networks and XL/2 (width 1152, depth 28, heads 16, patch 2, image_size 32,
channels 4): other numbers, same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from hdbench.core.config import Config
from hdbench.flow.path import expand
from hdbench.networks.base import TokenNetwork, normalised, xavier
from hdbench.networks.embeddings import (
    FeedForward,
    Gelu,
    TimestepEmbedding,
    sincos_positions,
    timestep_embedding,
)


class TransformerConfig(Config):
    """Size of the transformer; `image_size`, `channels` and `classes` are those of the data set.

    Fields after `time_scale` say what weights cannot; a dump leaves out their defaults.
    """

    width: int = Field(default=64, ge=1, description="token width d")
    depth: int = Field(default=4, ge=1, description="number of blocks L")
    heads: int = Field(default=4, ge=1)
    patch: int = Field(default=4, ge=1, description="patch side in pixels (or latent cells)")
    mlp_ratio: float = Field(default=4.0, gt=0)
    time_scale: float = Field(
        default=1.0,
        gt=0,
        description="factor on t before the sinusoidal embedding (SiT 1, DiT 1000)",
    )
    time_features: int | None = Field(
        default=None,
        ge=2,
        multiple_of=2,
        exclude_if=lambda size: size is None,
        description="size of that embedding; by default min(width, 256) (SiT and DiT 256)",
    )
    position_side: int = Field(
        default=16,
        ge=1,
        exclude_if=lambda side: side == 16,
        description="positions run from 0 to this over any grid (SiT and DiT: the grid's own side)",
    )
    reversed_time: bool = Field(
        default=False,
        exclude_if=lambda reverse: not reverse,
        description="the network is given 1 - t (SiT)",
    )
    prediction: Literal["velocity", "epsilon"] = Field(
        default="velocity",
        exclude_if=lambda kind: kind == "velocity",
        description="what the network gives; epsilon: the noise, at a DDPM step, not t (DiT)",
    )
    gelu: Gelu = Field(
        default="tanh",
        exclude_if=lambda form: form == "tanh",
        description="GELU by its tanh approximation (SiT and DiT), or exact, which costs half",
    )

    @model_validator(mode="after")
    def _one_notion_of_time(self):
        if self.reversed_time and self.prediction == "epsilon":
            raise ValueError(
                "reversed_time = true: a network that predicts epsilon counts DDPM's steps; "
                "leave one out"
            )
        return self

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.width % (2 * self.heads) or self.width % 4:
            raise ValueError(
                f"width {self.width} must be a multiple of 4 and of 2 * heads = {2 * self.heads}"
            )
        return self

    @property
    def time_embedding_size(self) -> int:
        """`time_features`, or its default."""
        return self.time_features or min(self.width, 256)

    def build(
        self,
        *,
        image_size: int,
        channels: int,
        classes: int,
        mean_velocity: bool,
        conditions: None = None,
    ) -> Transformer:
        """A new network of this size; it takes no conditions, labels are classes."""
        return Transformer(
            self,
            image_size=image_size,
            channels=channels,
            classes=classes,
            mean_velocity=mean_velocity,
        )


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive layer norm: x (B, N, d), shift and scale (B, 1, d)."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Block(nn.Module):
    """DiT's block with adaLN-Zero: tokens x (B, N, d), condition (B, d), already through SiLU."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, gelu: Gelu):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.feed_forward = FeedForward(width, mlp_ratio, gelu)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (
            self.modulation(condition).unsqueeze(1).chunk(6, dim=-1)
        )
        q, k, v = (
            self.qkv(modulate(x, shift_1, scale_1))
            .unflatten(-1, (3, self.heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        x = x + gate_1 * self.proj(
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        )
        return x + gate_2 * self.feed_forward(modulate(x, shift_2, scale_2))


class NoiseToVelocity(nn.Module):
    """eps_hat at DDPM's 1,000 steps (beta 1e-4 to 0.02; arXiv 2006.11239) as our path's velocity.

    z_t / n_t, n_t = sqrt((1 - t)^2 + t^2), is DDPM's z_k = alpha_k x + sigma_k eps at t_k = sigma_k
    / (alpha_k + sigma_k), from t_0 = 0.0099 to t_999 = 0.9937.  Then x_hat = (z_t - t eps_hat) / (1
    - t), and v = (z_t - x_hat) / t is (eps_hat - z_t) / (1 - t), without a division by t.  Before
    t_0 the step stays 0.  Beyond t_999, where DDPM has no step, it stays 999 with its alpha and
    sigma, x_hat = (z_t / n_t - sigma_999 eps_hat) / alpha_999: v is continuous, and t = 1 starts as
    DDPM's sampling does, with noise taken for z_999.  There an error of eps_hat counts 157 times.
    """

    times: Tensor

    def __init__(self):
        super().__init__()
        beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        signal = torch.cumprod(1 - beta, 0)  # alpha_k^2
        self.register_buffer("times", 1 / (1 + (signal / (1 - signal)).sqrt()), persistent=False)

    def step(self, t: Tensor) -> Tensor:
        """k (B,) in [0, 999], linear between the t_k, which crowd at t_999: a slope of 16,000."""
        times = self.times.to(t.dtype)
        t = t.clamp(times[0], times[-1])
        k = torch.searchsorted(times, t.detach()).clamp(min=1)
        return k - 1 + (t - times[k - 1]) / (times[k] - times[k - 1])

    def velocity(self, z: Tensor, eps_hat: Tensor, t: Tensor) -> Tensor:
        """v (B, C, H, W) = [l eps_hat - (l - 1 + n_s / n_t) z_t] / [max(t, l) (1 - s)].

        l = t_999 and s = min(t, l).
        """
        last = self.times.to(t.dtype)[-1]
        s = t.clamp(max=last)
        share = last - 1 + norm(s) / norm(t)
        return (last * eps_hat - expand(share) * z) / expand(t.clamp(min=last) * (1 - s))


def norm(t: Tensor) -> Tensor:
    """n_t = sqrt((1 - t)^2 + t^2), the standard deviation of z_t for data of unit variance."""
    return ((1 - t) ** 2 + t**2).sqrt()


class Transformer(TokenNetwork):
    """u(z_t, r, t, c): a mean velocity, or the velocity v(z_t, t, c) where r = t.

    With `mean_velocity=False` (teacher, fake score) there is no embedding of t - r and only r = t
    is meaningful.  With True the last layer of that embedding starts at zero, so a student that
    loads a teacher's weights equals the teacher for every r until it is trained.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        image_size: int,
        channels: int,
        classes: int,
        mean_velocity: bool,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        if image_size % config.patch:
            raise ValueError(f"patch {config.patch} does not divide the image side {image_size}")
        self.config = config
        self.channels = channels
        self.classes = classes
        self.mean_velocity = mean_velocity
        self.grid = image_size // config.patch
        self.gradient_checkpointing = gradient_checkpointing
        width = config.width
        self.patch_embed = nn.Linear(channels * config.patch**2, width)
        self.register_buffer("position", positions(config, self.grid), persistent=False)
        self.noise_to_velocity = NoiseToVelocity() if config.prediction == "epsilon" else None
        self.time_embed = TimestepEmbedding(config.time_embedding_size, width)
        self.label_embed = nn.Embedding(classes + 1, width)  # the last row is the null label
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.mlp_ratio, config.gelu) for _ in range(config.depth)
        )
        self.out_modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, channels * config.patch**2)
        self.apply(xavier)
        nn.init.normal_(self.label_embed.weight, std=0.02)
        for layer in (self.time_embed.linear_1, self.time_embed.linear_2):
            nn.init.normal_(layer.weight, std=0.02)
        modulations = (block.modulation for block in self.blocks)
        zero: list[Any] = [*modulations, self.out_modulation, self.out]
        if mean_velocity:
            self.interval_embed = TimestepEmbedding(config.time_embedding_size, width)
            zero.append(self.interval_embed.linear_2)
        for layer in zero:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def null_label(self) -> int:
        return self.classes

    def patchify(self, z: Tensor) -> Tensor:
        """NCHW -> (B, N, channels * patch^2), tokens in raster order."""
        b, c, h, w = z.shape
        p = self.config.patch
        return (
            z.reshape(b, c, h // p, p, w // p, p)
            .permute(0, 2, 4, 1, 3, 5)
            .reshape(b, (h // p) * (w // p), -1)
        )

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """Inverse of `patchify`."""
        p = self.config.patch
        g = self.grid
        tokens = tokens.unflatten(-1, (self.channels, p, p)).unflatten(1, (g, g))
        return tokens.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), self.channels, g * p, g * p)

    def _embed_time(self, t: Tensor, embed: TimestepEmbedding) -> Tensor:
        return embed(timestep_embedding(t * self.config.time_scale, embed.linear_1.in_features))

    def embed_times(self, r: Tensor, t: Tensor) -> list[Tensor]:
        """The condition's parts (B, d): of t, in the network's own time, and of t - r, if any."""
        if self.noise_to_velocity:
            time = self.noise_to_velocity.step(t)
        else:
            time = 1 - t if self.config.reversed_time else t
        times = [self._embed_time(time, self.time_embed)]
        if self.mean_velocity:
            times.append(self._embed_time(t - r, self.interval_embed))
        return times

    def start(self, z: Tensor, r: Tensor, t: Tensor, c: Tensor) -> tuple[Tensor, tuple, Tensor]:
        """Tokens (B, N, d) and, for the blocks and for the output, the condition (B, d)."""
        time, *interval = self.embed_times(r, t)
        condition = F.silu(sum(interval, time + self.label_embed(c)))
        z = z / expand(norm(t)) if self.noise_to_velocity else z
        return self.patch_embed(self.patchify(z)) + self.position, (condition,), condition

    def forward(
        self, z: Tensor, r: Tensor, t: Tensor, c: Tensor, blocks: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """z (B, C, H, W); r <= t (B,) in [0, 1]; c (B,), `null_label` for none -> (B, C, H, W).

        With `blocks` also their tokens, as of `features`, of the same pass.
        """
        x, others, condition = self.start(z, r, t, c)
        *tokens, x = self.after(x, others, [*blocks, self.depth])
        shift, scale = self.out_modulation(condition).unsqueeze(1).chunk(2, dim=-1)
        out = self.unpatchify(self.out(modulate(x, shift, scale))).to(z.dtype)  # autocast or not
        out = self.noise_to_velocity.velocity(z, out, t) if self.noise_to_velocity else out
        return (out, normalised(tokens)) if blocks else out


def positions(config: TransformerConfig, grid: int) -> Tensor:
    """Fixed position embeddings (grid^2, d), float32, tokens in raster order."""
    return sincos_positions(config.width, grid, config.position_side).float()
