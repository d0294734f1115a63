"""SANA (arXiv 2410.10629): diffusers' SanaTransformer2DModel with r, a prompt as a label.

SANA's own time is ours: on z_t = (1 - t) x + t eps it predicts v = eps - x and is given 1000 t.

SANA-Sprint (arXiv 2503.09641) is a consistency network in TrigFlow's time s: its sampler jumps from
x_s = sigma_d (cos s x + sin s eps) to sigma_d x_hat = cos s x_s - sin s sigma_d G.  With t = sin s
/ (cos s + sin s) and n = 1 / (cos s + sin s)
    n^2 = (1 - t)^2 + t^2,   cos s = (1 - t) / n,   sin s = t / n,   z_t = n x_s / sigma_d,
and the network F is given z_t and t (unscaled), with G = ((1 - 2t) z_t + n^2 F) / n.  So
    x_hat = [(1 - t) - t (1 - 2t)] z_t / n^2 - t F = z_t - t F,
since (1 - t) - t (1 - 2t) = n^2: F(z_t, t) is u(z_t, 0, t) in our notation, and no change of
variables is left to compute.  Such a network is for one-step and consistency sampling alone; it has
no velocity and takes its guidance as an input.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from diffusers import SanaTransformer2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from hdbench.core.errors import UserError
from hdbench.networks.autoencoders import pretrained
from hdbench.networks.base import TokenNetwork, dual, normalised, xavier
from hdbench.networks.prediction import ALLOW, LEAST, noise_correlation
from hdbench.networks.sizes import SanaSizes
from hdbench.networks.text import PUBLIC, Conditions


class LinearAttention:
    """y_i = relu(q_i) sum_j relu(k_j)' v_j / (relu(q_i) . sum_j relu(k_j)), always in float32.

    diffusers' processor leaves the sums to autocast, and casts float64 down.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states=None,
        attention_mask=None,
    ) -> Tensor:
        q = attn.to_q(hidden_states)
        k = attn.to_k(hidden_states)
        v = attn.to_v(hidden_states)
        if attn.norm_q is not None:
            q = attn.norm_q(q)
            k = attn.norm_k(k)
        # counting runs on the meta device, which has none
        with torch.autocast("cuda" if q.is_cuda else "cpu", enabled=False):
            q, k, v = (
                x.to(torch.promote_types(x.dtype, torch.float32))
                .unflatten(-1, (attn.heads, -1))
                .transpose(1, 2)
                for x in (q, k, v)
            )
            sums = F.relu(q) @ (F.relu(k).mT @ F.pad(v, (0, 1), value=1.0))
            y = sums[..., :-1] / (sums[..., -1:] + 1e-15)
        return attn.to_out[0](y.transpose(1, 2).flatten(2).to(hidden_states.dtype))


class SanaNetwork(TokenNetwork):
    """u(z_t, r, t, c) of SANA, where c is a row of `conditions`; else as `Transformer`.

    With `mean_velocity` an embedding of t - r, zero at first, is added to that of t, for the
    blocks' and the final modulation.  The initialisation is SANA's own.
    """

    def __init__(
        self,
        config: SanaSizes,
        *,
        image_size: int,
        channels: int,
        conditions: Conditions,
        mean_velocity: bool,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        if conditions.width != config.caption_width:
            raise UserError(
                f"network.caption_width = {config.caption_width}: the encoded prompts have width "
                f"{conditions.width}; set it to that, or encode with another text encoder"
            )
        if image_size % config.patch:
            raise ValueError(f"patch {config.patch} does not divide the image side {image_size}")
        self.config = config
        self.channels = channels
        self.conditions = conditions
        self.mean_velocity = mean_velocity
        self.grid = image_size // config.patch
        self.gradient_checkpointing = gradient_checkpointing
        self.transformer = model = SanaTransformer2DModel(**arguments(config, image_size, channels))
        blocks: Any = self.blocks
        for block in blocks:
            block.attn1.set_processor(LinearAttention())
        self.apply(xavier)
        nn.init.xavier_uniform_(model.patch_embed.proj.weight.view(config.width, -1))
        embedders = [module for module in model.modules() if isinstance(module, TimestepEmbedding)]
        for embedder in (*embedders, model.caption_projection):
            nn.init.normal_(embedder.linear_1.weight, std=0.02)
            nn.init.normal_(embedder.linear_2.weight, std=0.02)
        nn.init.normal_(model.time_embed.linear.weight, std=0.02)
        if mean_velocity:
            self.time_proj = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
            self.interval_embed = TimestepEmbedding(256, config.width)
            nn.init.zeros_(self.interval_embed.linear_2.weight)
            nn.init.zeros_(self.interval_embed.linear_2.bias)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.transformer.transformer_blocks

    @property
    def null_label(self) -> int:
        """The row of the empty prompt."""
        return len(self.conditions) - 1

    def embed_times(self, r: Tensor, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The blocks' modulation (B, 6 d) and the embedded times (B, d)."""
        embed = self.transformer.time_embed
        scale = self.config.time_scale
        guidance = {}
        if self.config.guidance_input is not None:
            config: Any = self.transformer.config
            given = self.config.guidance_input * config.guidance_embeds_scale
            guidance = {"guidance": torch.full_like(t, given)}
        modulation, embedded = embed(scale * t, hidden_dtype=dtype, **guidance)
        if self.mean_velocity:
            embedded = embedded + self.interval_embed(self.time_proj(scale * (t - r)).to(dtype))
            modulation = embed.linear(embed.silu(embedded))
        return modulation, embedded

    def start(self, z: Tensor, r: Tensor, t: Tensor, c: Tensor) -> tuple[Tensor, tuple, Tensor]:
        """Tokens (B, N, d), what else a block takes, and the embedded times (B, d)."""
        model = self.transformer
        modulation, embedded = self.embed_times(r, t, z.dtype)
        embeddings, mask = self.conditions[c]
        captions = model.caption_norm(model.caption_projection(embeddings.to(z.dtype)))
        if dual(z, r, t):  # jvp's rule for attention wants tangents of all three
            captions = forward_ad.make_dual(captions, torch.zeros_like(captions))
        bias = (mask.to(z.dtype) - 1)[:, None] * 10000  # of the scores, as diffusers has it
        return (
            model.patch_embed(z),
            (None, captions, bias, modulation, self.grid, self.grid),
            embedded,
        )

    def forward(
        self, z: Tensor, r: Tensor, t: Tensor, c: Tensor, blocks: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """z (B, C, H, W); r <= t (B,) in [0, 1]; c (B,), `null_label` for none -> (B, C, H, W).

        With `blocks` also their tokens, as of `features`, of the same pass.
        """
        model = self.transformer
        g = self.grid
        p = self.config.patch
        x, others, embedded = self.start(z, r, t, c)
        *tokens, x = self.after(x, others, [*blocks, self.depth])
        x = model.proj_out(model.norm_out(x, embedded, model.scale_shift_table))
        x = x.unflatten(-1, (p, p, -1)).unflatten(1, (g, g)).permute(0, 5, 1, 3, 2, 4)
        out = x.reshape(z.shape).to(z.dtype).contiguous()
        return (out, normalised(tokens)) if blocks else out


def arguments(config: SanaSizes, image_size: int, channels: int) -> dict[str, Any]:
    """The configuration as SanaTransformer2DModel's arguments; others have its defaults."""
    return {
        "in_channels": channels,
        "out_channels": channels,
        "sample_size": image_size,
        "patch_size": config.patch,
        "num_layers": config.depth,
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "num_cross_attention_heads": config.cross_heads,
        "cross_attention_head_dim": config.width // config.cross_heads,
        "cross_attention_dim": config.width,
        "caption_channels": config.caption_width,
        "mlp_ratio": config.mlp_ratio,
        "qk_norm": "rms_norm_across_heads" if config.qk_norm else None,
        "guidance_embeds": config.guidance_input is not None,
        "timestep_scale": config.time_scale / 1000 if config.guidance_input is None else 1.0,
    }


def read(path: Path, config: SanaSizes, *, image_size: int, channels: int) -> dict[str, Tensor]:
    """The state dict, float32, of our SanaNetwork with `mean_velocity=False`, from a folder.

    UserError for a missing folder, another class, missing or unexpected keys, and sizes that
    differ, with those that fit.
    """
    model = pretrained(SanaTransformer2DModel, str(path), "transformer", PUBLIC)
    stored = model.config
    fitting = {
        "width": stored.num_attention_heads * stored.attention_head_dim,
        "depth": stored.num_layers,
        "patch": stored.patch_size,
        "heads": stored.num_attention_heads,
        "cross_heads": stored.num_cross_attention_heads,
        "mlp_ratio": stored.mlp_ratio,
        "caption_width": stored.caption_channels,
        "qk_norm": stored.qk_norm is not None,
        "time_scale": 1.0 if stored.guidance_embeds else 1000 * stored.timestep_scale,
        "guidance_input": (config.guidance_input or 4.5) if stored.guidance_embeds else None,
    }
    if wrong := {key: value for key, value in fitting.items() if value != getattr(config, key)}:
        raise UserError(
            f"{path}: not of the configured size; set "
            + ", ".join(
                f"network.{key} to {json.dumps(value)} (not {json.dumps(getattr(config, key))})"
                for key, value in wrong.items()
            )
        )
    with torch.device("meta"):
        expected = SanaTransformer2DModel(**arguments(config, image_size, channels)).config
    unused = "timestep_scale" if stored.guidance_embeds else None
    if wrong := [
        key for key in expected if key[0] != "_" and key != unused and stored[key] != expected[key]
    ]:
        raise UserError(
            f"{path}: its "
            + ", ".join(f"{key} is {stored[key]} (not {expected[key]})" for key in wrong)
            + ", which data and network do not fit; choose another checkpoint or other data"
        )
    return {f"transformer.{key}": tensor for key, tensor in model.state_dict().items()}


class RandomConditions:
    """In place of encoded prompts: 8 random tokens for any row."""

    def __init__(self, width: int):
        self.width = width

    def __getitem__(self, c: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.randn(len(c), 8, self.width, generator=torch.Generator().manual_seed(2))
        return tokens, torch.ones(len(c), 8, dtype=torch.bool)


@torch.no_grad()
def check_prediction(
    state: Mapping[str, Tensor], config: SanaSizes, *, image_size: int, channels: int, source: Path
) -> dict[str, float]:
    """The correlation at t = 1 of a converted network's answer to noise with that noise.

    A velocity eps - E[x], and what a network of SANA-Sprint gives, eps - x_hat, have a positive
    one.  UserError where it is less than `prediction.LEAST`.
    """
    conditions: Any = RandomConditions(config.caption_width)
    with torch.device("meta"):
        network = SanaNetwork(
            config,
            image_size=image_size,
            channels=channels,
            conditions=conditions,
            mean_velocity=False,
        )
    network.load_state_dict(state, assign=True)

    def answer(z: Tensor) -> Tensor:
        ones = torch.ones(len(z))
        return network(z, ones, ones, torch.zeros(len(z), dtype=torch.long))

    at_noise = noise_correlation(answer, (channels, image_size, image_size))
    if at_noise < LEAST:
        raise UserError(
            f"{source}: does not behave as a SANA, which predicts the velocity: what it gives for "
            f"noise correlates with that noise by {at_noise:.2f} at its last time, where a trained "
            f"one has about 1; give another folder, or set checkpoint.allow to [{ALLOW}]"
        )
    return {"at_noise": at_noise}
