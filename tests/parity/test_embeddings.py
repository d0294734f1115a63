"""Our embeddings and feed-forward layer against diffusers', to the bit, weights' names included."""

from __future__ import annotations

import subprocess
import sys

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
            lambda: ours.FeedForward(64, 4.0, "erf"),
            lambda: attention.FeedForward(64, mult=4.0, activation_fn="gelu"),
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
    for output in outputs:
        output.square().sum().backward()
    for parameter, reference in zip(*(layer.parameters() for layer in layers), strict=True):
        assert torch.equal(parameter.grad, reference.grad)


def test_the_small_tier_does_not_import_diffusers():
    """A network of the small suites is made and run without the heavy libraries."""
    code = (
        "import sys, torch, hdbench.stages\n"
        "from hdbench.networks.config import NETWORK\n"
        "config = NETWORK.validate_python({'width': 16, 'depth': 1, 'heads': 2})\n"
        "sizes = {'image_size': 8, 'channels': 1, 'classes': 3}\n"
        "network = config.build(**sizes, mean_velocity=True)\n"
        "z, t, c = torch.zeros(2, 1, 8, 8), torch.ones(2), torch.zeros(2, dtype=torch.int64)\n"
        "assert network(z, 0 * t, t, c).shape == z.shape\n"
        "heavy = {'diffusers', 'transformers', 'open_clip', 'torchvision', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
