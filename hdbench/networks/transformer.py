"""The diffusion transformer of every tier: SiT/DiT (Peebles & Xie, arXiv 2212.09748; SiT, arXiv 2401.08740) with r.

One class serves the tiny networks and XL/2 (width 1152, depth 28, heads 16, patch 2, image_size 32, channels 4): other
numbers, same code.  Feed-forward, timestep and position embeddings are diffusers' own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import TimestepEmbedding, get_2d_sincos_pos_embed, get_timestep_embedding
from torch import Tensor, nn

from hdbench.networks import TransformerConfig


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive layer norm: x (B, N, d), shift and scale (B, 1, d)."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Block(nn.Module):
    """Attention and feed-forward with adaLN-Zero, as in DiT: x (B, N, d), condition (B, d), already through SiLU."""

    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.feed_forward = FeedForward(width, mult=mlp_ratio, activation_fn="gelu-approximate")
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(condition).unsqueeze(1).chunk(6, dim=-1)
        q, k, v = self.qkv(modulate(x, shift_1, scale_1)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + gate_1 * self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + gate_2 * self.feed_forward(modulate(x, shift_2, scale_2))


class Transformer(nn.Module):
    """u(z_t, r, t, c): a mean velocity, or the velocity v(z_t, t, c) where r = t.

    With `mean_velocity=False` (teacher, fake score) there is no embedding of t - r and only r = t is meaningful.  With
    True the last layer of that embedding starts at zero, so a student that loads a teacher's weights equals the teacher
    for every r until it is trained (METHOD: u(z, t, t) = v(z, t)).
    """

    def __init__(self, config: TransformerConfig, *, image_size: int, channels: int, classes: int, mean_velocity: bool):
        super().__init__()
        if image_size % config.patch:
            raise ValueError(f"patch {config.patch} does not divide the image side {image_size}")
        self.config, self.channels, self.classes, self.mean_velocity = config, channels, classes, mean_velocity
        self.grid = image_size // config.patch
        width = config.width
        self.patch_embed = nn.Linear(channels * config.patch**2, width)
        position = get_2d_sincos_pos_embed(width, self.grid, output_type="pt").float()
        self.register_buffer("position", position, persistent=False)
        self.time_embed = TimestepEmbedding(min(width, 256), width)
        self.label_embed = nn.Embedding(classes + 1, width)  # the last row is the null label of guidance
        self.blocks = nn.ModuleList(Block(width, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.out_modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, channels * config.patch**2)
        self.apply(_xavier)
        nn.init.normal_(self.label_embed.weight, std=0.02)
        for layer in (self.time_embed.linear_1, self.time_embed.linear_2):
            nn.init.normal_(layer.weight, std=0.02)
        zero = [block.modulation for block in self.blocks] + [self.out_modulation, self.out]
        if mean_velocity:
            self.interval_embed = TimestepEmbedding(min(width, 256), width)
            zero.append(self.interval_embed.linear_2)
        for layer in zero:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def depth(self) -> int:
        return self.config.depth

    @property
    def null_label(self) -> int:
        return self.classes

    def patchify(self, z: Tensor) -> Tensor:
        """NCHW -> (B, N, channels * patch^2), tokens in raster order."""
        b, c, h, w = z.shape
        p = self.config.patch
        return z.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, (h // p) * (w // p), -1)

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """Inverse of `patchify`."""
        p, g = self.config.patch, self.grid
        tokens = tokens.unflatten(-1, (self.channels, p, p)).unflatten(1, (g, g))
        return tokens.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), self.channels, g * p, g * p)

    def _embed_time(self, t: Tensor, embed: nn.Module) -> Tensor:
        # get_timestep_embedding calls .float(), so the angle is formed there from the scaled time
        angles = get_timestep_embedding(t * self.config.time_scale, min(self.config.width, 256), flip_sin_to_cos=True,
                                        downscale_freq_shift=0)
        return embed(angles)

    def _condition(self, r: Tensor, t: Tensor, c: Tensor) -> Tensor:
        condition = self._embed_time(t, self.time_embed) + self.label_embed(c)
        if self.mean_velocity:
            condition = condition + self._embed_time(t - r, self.interval_embed)
        return F.silu(condition)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """z (B, C, H, W) float; r, t (B,) in [0, 1], r <= t; c (B,) int64, `null_label` for none -> (B, C, H, W)."""
        condition = self._condition(r, t, c)
        x = self.patch_embed(self.patchify(z)) + self.position
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.out_modulation(condition).unsqueeze(1).chunk(2, dim=-1)
        return self.unpatchify(self.out(modulate(x, shift, scale)))

    def features(self, z: Tensor, t: Tensor, c: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Tokens (B, N, d) after the named blocks (1 = first), layer-normalised; the pass stops at the last of them."""
        condition = self._condition(t, t, c)
        x = self.patch_embed(self.patchify(z)) + self.position
        tokens = {}
        for number, block in enumerate(self.blocks[: max(blocks)], start=1):
            x = block(x, condition)
            if number in blocks:
                tokens[number] = F.layer_norm(x, x.shape[-1:])
        return [tokens[number] for number in blocks]


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
