"""Students as models of diffusers.

x = eps - u(eps, 0, 1, c) needs the network at t = 1 and r = 0 alone.  There the embeddings of t and
of t - r are constants, so they go into a bias of diffusers' own `DiTTransformer2DModel` or
`SanaTransformer2DModel`, and the time that it is given does not matter.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiTTransformer2DModel, SanaTransformer2DModel
from torch import Tensor, nn

from hdbench.networks.sana import SanaNetwork, arguments
from hdbench.networks.transformer import Transformer


@torch.no_grad()
def to_diffusers(network: Transformer) -> tuple[DiTTransformer2DModel, float]:
    """A model and a number s such that x = s eps - model(eps, any time, c), up to rounding.

    Where the network gives u, s = 1.  Where it gives eps_hat, u = a eps + b eps_hat at t = 1: b
    goes into the last layer, and s = 1 - a.
    """
    a, b = velocity_factors(network)
    model: Any = empty_model(network)
    copy_ends(network, model, b)
    own_time, *interval = network.embed_times(torch.zeros(1), torch.ones(1))
    times = sum(interval, own_time)[0]
    for target, block in zip(model.transformer_blocks, network.blocks, strict=True):
        copy_block(block, target)
        embedder = target.norm1.emb
        zero_parameters(embedder.timestep_embedder)
        embedder.timestep_embedder.linear_2.bias.copy_(times)
        embedder.class_embedder.embedding_table.load_state_dict(network.label_embed.state_dict())
    return model, 1 - a


def velocity_factors(network: Transformer) -> tuple[float, float]:
    """a and b of u = a eps + b output at t = 1."""
    if not network.noise_to_velocity:
        return 0.0, 1.0
    one = torch.ones(1)
    factors = [
        network.noise_to_velocity.velocity(z, 1 - z, one).item()
        for z in (torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    ]
    return factors[0], factors[1]


def empty_model(network: Transformer) -> DiTTransformer2DModel:
    """Of the network's sizes."""
    config = network.config
    return DiTTransformer2DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.width // config.heads,
        in_channels=network.channels,
        out_channels=network.channels,
        num_layers=config.depth,
        sample_size=network.grid * config.patch,
        patch_size=config.patch,
        num_embeds_ada_norm=network.classes,
        activation_fn="gelu-approximate" if config.gelu == "tanh" else "gelu",
        norm_eps=1e-6,
    ).eval()


def copy_ends(network: Transformer, model: DiTTransformer2DModel, factor: float) -> None:
    """First and last layers, the last one times a factor."""
    channels = network.channels
    p = network.config.patch

    def reordered(tensor: Tensor) -> Tensor:
        """(c, p, p) -> (p, p, c) of the outputs."""
        return tensor.unflatten(0, (channels, p * p)).transpose(0, 1).flatten(0, 1)

    weight = network.patch_embed.weight.unflatten(1, (channels, p, p))
    model.pos_embed.proj.weight.copy_(weight)
    model.pos_embed.proj.bias.copy_(network.patch_embed.bias)
    model.proj_out_1.load_state_dict(network.out_modulation.state_dict())
    model.proj_out_2.weight.copy_(factor * reordered(network.out.weight))
    model.proj_out_2.bias.copy_(factor * reordered(network.out.bias))


def copy_block(block: Any, target: Any) -> None:
    """Attention, MLP and modulation of one block."""
    projections = (target.attn1.to_q, target.attn1.to_k, target.attn1.to_v)
    weights = block.qkv.weight.chunk(3)
    biases = block.qkv.bias.chunk(3)
    for projection, weight, bias in zip(projections, weights, biases, strict=True):
        projection.weight.copy_(weight)
        projection.bias.copy_(bias)
    target.attn1.to_out[0].load_state_dict(block.proj.state_dict())
    target.ff.load_state_dict(block.feed_forward.state_dict())
    target.norm1.linear.load_state_dict(block.modulation.state_dict())


def zero_parameters(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.zero_()


@torch.no_grad()
def sana_to_diffusers(network: SanaNetwork) -> SanaTransformer2DModel:
    """A model such that x = eps - model(eps, prompts, any time) up to rounding."""
    side = network.grid * network.config.patch
    shape = arguments(network.config, side, network.channels)
    model: Any = SanaTransformer2DModel(**shape).eval()
    model.load_state_dict(network.transformer.state_dict())
    _, times = network.embed_times(torch.zeros(1), torch.ones(1), torch.float32)
    embedder = model.time_embed.emb.timestep_embedder
    zero_parameters(embedder)
    embedder.linear_2.bias.copy_(times[0])
    return model
