"""Our embeddings and feed-forward layer against diffusers', to the bit, weights' names included."""

from __future__ import annotations

import pytest
import torch
from diffusers.models import attention
from diffusers.models import embeddings as theirs
from torch import nn

from hdbench.networks import embeddings as ours
from hdbench.networks.base import xavier


@pytest.mark.parametrize("size", [2, 32, 64, 256])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_timestep_embeddings(size, scale, dtype):
    t = scale * torch.rand(500, generator=torch.Generator().manual_seed(0)).to(dtype)
    t[:2] = torch.tensor([0.0, scale])
    expected = theirs.get_timestep_embedding(t, size, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert torch.equal(ours.timestep_embedding(t, size), expected)


@pytest.mark.parametrize("grid", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("side", [16, 4, 32])
@pytest.mark.parametrize("width", [16, 64, 1152])
def test_positions(width, grid, side):
    expected = theirs.get_2d_sincos_pos_embed(width, grid, base_size=side, output_type="pt")
    found = ours.sincos_positions(width, grid, side)
    assert found.dtype == expected.dtype and torch.equal(found, expected)


def seeded(build, *arguments, **settings) -> nn.Module:
    torch.manual_seed(0)
    return build(*arguments, **settings)


@pytest.mark.parametrize("initialised", [False, True])
@pytest.mark.parametrize(
    ("own", "other", "x"),
    [
        (
            lambda: ours.TimestepEmbedding(32, 64),
            lambda: theirs.TimestepEmbedding(32, 64),
            torch.linspace(-3, 3, 320).view(10, 32),
        ),
        (
            lambda: ours.FeedForward(64, 4.0),
            lambda: attention.FeedForward(64, mult=4.0, activation_fn="gelu-approximate"),
            torch.linspace(-3, 3, 6400).view(5, 20, 64),
        ),
        (
            lambda: ours.FeedForward(48, 2.5),
            lambda: attention.FeedForward(48, mult=2.5, activation_fn="gelu-approximate"),
            torch.linspace(-3, 3, 480).view(10, 48),
        ),
    ],
)
def test_layers_have_the_same_weights_outputs_and_gradients(own, other, x, initialised):
    """From one seed: the default initialisation draws in the same order, and so does Xavier's."""
    layers = [seeded(own), seeded(other)]
    if initialised:
        for layer in layers:
            torch.manual_seed(1)
            layer.apply(xavier)
    states = [layer.state_dict() for layer in layers]
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    outputs = [layer(x) for layer in layers]
    assert torch.equal(*outputs)
    for layer, output in zip(layers, outputs, strict=True):
        output.square().sum().backward()
    for parameter, reference in zip(*(layer.parameters() for layer in layers), strict=True):
        assert torch.equal(parameter.grad, reference.grad)
