"""SiT (arXiv 2401.08740) and DiT (2212.09748), with the tensors' names of the public files."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoids(t: Tensor, size: int = 256, longest: float = 10000.0) -> Tensor:
    """(B, size): [cos, sin] of t (B,) times `size` / 2 frequencies from 1 down to 1 / longest."""
    frequencies = torch.exp(
        -math.log(longest) * torch.arange(size // 2, dtype=t.dtype) / (size // 2)
    )
    angles = t[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def grid_positions(width: int, side: int) -> np.ndarray:
    """(side^2, width): [sin, cos] of the column in the first half, of the row in the second."""
    frequencies = 10000.0 ** (-np.arange(width // 4) / (width / 4))
    row, column = np.divmod(np.arange(side * side), side)
    return np.concatenate(
        [
            wave(np.outer(place, frequencies))
            for place in (column, row)
            for wave in (np.sin, np.cos)
        ],
        axis=1,
    )


def adapted(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.attn, self.mlp = Attention(width, heads), Mlp(width, int(width * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(condition).chunk(
            6, dim=1
        )
        x = x + gate_a[:, None] * self.attn(adapted(x, shift_a, scale_a))
        return x + gate_m[:, None] * self.mlp(adapted(x, shift_m, scale_m))


class FinalLayer(nn.Module):
    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.linear(adapted(x, *self.adaLN_modulation(condition).chunk(2, dim=1)))


class Container(nn.Module):
    """Modules by name, for names with a dot."""

    def __init__(self, **modules: nn.Module):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class Reference(nn.Module):
    """forward(z, t, y) -> (B, C, H, W): SiT's velocity at its t (1 is data), or DiT's noise at t, a
    step from 0 to 999.

    Without `convolve` patches are multiplied as one matrix, which rounds otherwise.
    """

    convolve = True

    def __init__(
        self,
        *,
        width: int = 32,
        depth: int = 2,
        heads: int = 2,
        patch: int = 2,
        image_size: int = 8,
        channels: int = 3,
        classes: int = 5,
        mlp_ratio: float = 4.0,
        learn_sigma: bool = True,
    ):
        super().__init__()
        self.side, self.patch, self.channels = image_size // patch, patch, channels
        self.x_embedder = Container(proj=nn.Conv2d(channels, width, patch, patch))
        self.t_embedder = Container(
            mlp=nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        )
        self.y_embedder = Container(embedding_table=nn.Embedding(classes + 1, width))
        self.pos_embed = nn.Parameter(
            torch.from_numpy(grid_positions(width, self.side)).float()[None], requires_grad=False
        )
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.final_layer = FinalLayer(width, patch**2 * channels * (2 if learn_sigma else 1))

    def forward(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        conv = self.x_embedder.proj
        if self.convolve:
            x = conv(z).flatten(2).transpose(1, 2)
        else:
            x = F.linear(
                F.unfold(z, self.patch, stride=self.patch).transpose(1, 2),
                conv.weight.flatten(1),
                conv.bias,
            )
        x = x + self.pos_embed
        condition = self.t_embedder.mlp(sinusoids(t)) + self.y_embedder.embedding_table(y)
        for block in self.blocks:
            x = block(x, condition)
        x = self.final_layer(x, condition).reshape(
            len(z), self.side, self.side, self.patch, self.patch, -1
        )
        images = torch.einsum("nhwpqc->nchpwq", x).reshape(len(z), -1, *z.shape[2:])
        return images[:, : self.channels]


def random_reference(seed: int = 0, **sizes) -> Reference:
    """Every weight random, modulations and last layer too, so that no gate is zero."""
    network, generator = Reference(**sizes), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 10
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    return network.requires_grad_(False)
