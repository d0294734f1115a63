"""The forward-mode pass against torch.func.jvp with math attention and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hdbench.flow import jvp as lean
from hdbench.flow.jvp import jvp
from hdbench.networks import transformer
from hdbench.networks.config import TransformerConfig
from hdbench.networks.transformer import Transformer


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def double_timestep_embedding(t: Tensor, size: int, **_) -> Tensor:
    """`timestep_embedding` in float64."""
    frequencies = torch.exp(
        -math.log(10000) * torch.arange(size // 2, dtype=torch.float64) / (size // 2)
    )
    angles = t[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


@pytest.fixture
def network(monkeypatch) -> Transformer:
    """A float64 student with every weight random, so that no modulation gates anything away."""
    monkeypatch.setattr(transformer, "timestep_embedding", double_timestep_embedding)
    config = TransformerConfig(width=16, depth=2, heads=2, patch=4, time_scale=10.0)
    network = Transformer(config, image_size=8, channels=1, classes=3, mean_velocity=True).double()
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.copy_(0.25 * normal(*parameter.shape, seed=number))
    return network


def problem(n: int = 5):
    """z, r, t, c, and tangents of the first three: the velocity, 0 and 1."""
    z, v = normal(n, 1, 8, 8, seed=100), normal(n, 1, 8, 8, seed=101)
    r, t = (
        torch.linspace(0.0, 0.4, n, dtype=torch.float64),
        torch.linspace(0.5, 1.0, n, dtype=torch.float64),
    )
    return z, r, t, torch.arange(n) % 4, (v, torch.zeros_like(r), torch.ones_like(t))


def gradients(value: Tensor, weight: Tensor, parameters) -> list[Tensor]:
    return torch.autograd.grad((value * weight).sum(), list(parameters))


def test_transformer_against_functorch(network):
    """Value, tangent, and the parameters' gradient of the value."""
    z, r, t, c, tangents = problem()
    function = lambda z, r, t: network(z, r, t, c)
    value, tangent = jvp(function, (z, r, t), tangents)
    with sdpa_kernel(SDPBackend.MATH):
        expected_value, expected_tangent = torch.func.jvp(function, (z, r, t), tangents)
        weight = normal(*value.shape, seed=7)
        expected = gradients(expected_value, weight, network.parameters())
    assert value.std() > 0.3 and expected_tangent.std() > 0.3
    torch.testing.assert_close(value, expected_value)
    torch.testing.assert_close(tangent, expected_tangent)
    for found, wanted in zip(gradients(value, weight, network.parameters()), expected, strict=True):
        assert wanted.any()
        torch.testing.assert_close(found, wanted)


def test_transformer_in_float32_with_its_own_time_embedding():
    config = TransformerConfig(width=16, depth=2, heads=2, patch=4)
    network = Transformer(config, image_size=8, channels=1, classes=3, mean_velocity=True)
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.copy_(0.25 * normal(*parameter.shape, seed=number))
    z, r, t, c, tangents = problem()
    primals, tangents = tuple(x.float() for x in (z, r, t)), tuple(x.float() for x in tangents)
    function = lambda z, r, t: network(z, r, t, c)
    value, tangent = jvp(function, primals, tangents)
    with sdpa_kernel(SDPBackend.MATH):
        expected_value, expected_tangent = torch.func.jvp(function, primals, tangents)
    assert value.dtype == tangent.dtype == torch.float32
    torch.testing.assert_close(value, expected_value, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tangent, expected_tangent, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("moved", ["z", "r", "t", "all"])
def test_transformer_against_finite_differences(network, moved):
    """Central differences along each argument alone, and along (v, 0, 1) together."""
    z, r, t, c, (v, _, one) = problem()
    tangents = {
        "z": (v, 0 * r, 0 * t),
        "r": (0 * z, one, 0 * t),
        "t": (0 * z, 0 * r, one),
        "all": (v, 0 * r, one),
    }[moved]
    _, tangent = jvp(lambda z, r, t: network(z, r, t, c), (z, r, t), tangents)
    h = 1e-5
    with torch.no_grad():
        plus, minus = (
            network(*(x + sign * h * dx for x, dx in zip((z, r, t), tangents, strict=True)), c)
            for sign in (1, -1)
        )
    assert tangent.std() > 0.01
    torch.testing.assert_close(tangent, (plus - minus) / (2 * h), atol=1e-8, rtol=1e-6)


def test_derivative_is_detached_and_value_is_not(network):
    z, r, t, c, tangents = problem(2)
    value, tangent = jvp(lambda z, r, t: network(z, r, t, c), (z, r, t), tangents)
    assert value.requires_grad and not tangent.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(value, network(z, r, t, c))
    # operations under PyTorch's own rules record a graph for the tangent
    weight = torch.tensor(2.0, requires_grad=True)
    value, tangent = jvp(lambda x: weight * x**2, (torch.tensor(3.0),), (torch.tensor(1.0),))
    assert value.requires_grad and not tangent.requires_grad and tangent.item() == 12


def test_shapes_must_pair_up():
    with pytest.raises(ValueError):
        jvp(lambda x, y: x * y, (normal(2), normal(2)), (normal(2),))


def check(function, primals: tuple[Tensor, ...], parameters: tuple[Tensor, ...] = ()) -> None:
    """`jvp` of `function` equals torch.func.jvp in value, tangent and gradients of the value."""
    tangents = tuple(normal(*x.shape, seed=50 + i) for i, x in enumerate(primals))
    parameters = (*parameters, *(x.requires_grad_() for x in primals))
    value, tangent = jvp(function, primals, tangents)
    with sdpa_kernel(SDPBackend.MATH):
        expected_value, expected_tangent = torch.func.jvp(function, primals, tangents)
    torch.testing.assert_close(value, expected_value)
    torch.testing.assert_close(tangent, expected_tangent)
    weight = normal(*value.shape, seed=60)
    with sdpa_kernel(SDPBackend.MATH):
        expected = gradients(function(*primals), weight, parameters)
    for found, wanted in zip(gradients(value, weight, parameters), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias):
    layer = nn.Linear(5, 4, bias=bias).double()
    check(layer, (normal(3, 2, 5),), tuple(layer.parameters()))


@pytest.mark.parametrize("affine", ["none", "weight", "weight and bias"])
@pytest.mark.parametrize("eps", [1e-6, 0.3])
def test_layer_norm(affine, eps):
    """A large eps shows whether it stands inside the root, in the value and in the derivative."""
    weight = normal(6, seed=1).requires_grad_() if affine != "none" else None
    bias = normal(6, seed=2).requires_grad_() if affine == "weight and bias" else None
    parameters = tuple(p for p in (weight, bias) if p is not None)
    check(lambda x: F.layer_norm(x, (6,), weight, bias, eps), (normal(3, 4, 6),), parameters)
    check(
        lambda x: F.layer_norm(x, x.shape[-1:], weight=weight, bias=bias, eps=eps),
        (normal(3, 4, 6),),
        parameters,
    )


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate):
    check(lambda x: F.gelu(x, approximate=approximate), (3 * normal(4, 7),))
    check(nn.GELU(approximate), (3 * normal(4, 7),))


SUMS_AND_PRODUCTS = {
    "sum": lambda x, y: x + y,
    "scaled sum": lambda x, y: torch.Tensor.add(y, x, alpha=-0.3),
    "product": lambda x, y: x * y,
    "square": lambda x, y: (x * x) * y,
    "modulation": lambda x, y: x * (1 + y) + y,
}


@pytest.mark.parametrize("still", [(), (0,), (1,)])
@pytest.mark.parametrize("name", SUMS_AND_PRODUCTS)
def test_sums_and_products_broadcast(name, still):
    """Of two that move, or of one that does: then the other has a gradient, but no tangent."""
    both = normal(3, 4, 5, seed=1), normal(3, 1, 5, seed=2)
    fixed = tuple(both[place].requires_grad_() for place in still)

    def function(*moving: Tensor) -> Tensor:
        one = iter(moving)
        x, y = (x if place in still else next(one) for place, x in enumerate(both))
        return SUMS_AND_PRODUCTS[name](x, y)

    check(function, tuple(x for place, x in enumerate(both) if place not in still), fixed)


def test_sums_with_numbers_leave_the_tangent_of_what_they_add_to():
    def function(x: Tensor) -> Tensor:
        y = x + 1
        y *= 3
        return x * 2 + y

    check(function, (normal(2, 3),))


@pytest.mark.parametrize("queries", [2, 128])
@pytest.mark.parametrize("options", ["plain", "scale", "additive mask", "additive mask of -inf"])
def test_attention(options, queries, monkeypatch):
    """All three of q, k and v move; five queries on six keys, by twos and at once."""
    monkeypatch.setattr(lean, "QUERIES", queries)
    mask = normal(5, 6, seed=9)
    if options == "additive mask of -inf":
        mask = torch.zeros(5, 6, dtype=torch.float64).masked_fill(mask > 0.8, -math.inf)
    keywords = {"scale": {"scale": 0.7}}.get(
        options, {"attn_mask": mask} if "mask" in options else {}
    )
    primals = (normal(2, 3, 5, 4, seed=1), normal(2, 3, 6, 4, seed=2), normal(2, 3, 6, 4, seed=3))
    check(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **keywords), primals)


UNCOVERED = {
    "boolean mask": (
        lambda x: F.scaled_dot_product_attention(
            x, x, x, attn_mask=torch.ones(4, 4, dtype=torch.bool).tril()
        ),
        (2, 4, 6),
    ),
    "causal attention": (
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
        (2, 4, 6),
    ),
    "attention dropout": (
        lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=1.0),
        (2, 4, 6),
    ),
    "layer norm over two axes": (lambda x: F.layer_norm(x, x.shape[-2:]), (2, 4, 6)),
}


@pytest.mark.parametrize("name", UNCOVERED)
def test_arguments_without_a_rule_are_right_or_refused(name):
    """Never a silently different function: the value is the plain call's, or there is an error."""
    function, shape = UNCOVERED[name]
    x = normal(*shape)
    try:
        value, tangent = jvp(function, (x,), (normal(*shape, seed=1),))
    except (NotImplementedError, RuntimeError, ValueError, TypeError):
        return
    with sdpa_kernel(SDPBackend.MATH):
        expected_value, expected_tangent = torch.func.jvp(function, (x,), (normal(*shape, seed=1),))
    torch.testing.assert_close(value, expected_value)
    torch.testing.assert_close(tangent, expected_tangent)


def test_operations_without_a_moving_input_are_plain():
    """A linear layer of something that does not move has no tangent and disturbs nothing."""
    layer, other = nn.Linear(3, 3).double(), normal(2, 3, seed=4)
    check(lambda x: x * F.gelu(layer(other)), (normal(2, 3),), tuple(layer.parameters()))
