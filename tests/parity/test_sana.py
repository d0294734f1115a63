"""SANA against diffusers' own pipelines on tiny random weights, and wrong folders."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from diffusers import SanaTransformer2DModel
from diffusers.models import embeddings
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hdbench.core.errors import UserError
from hdbench.flow.jvp import jvp
from hdbench.flow.path import generate, guided
from hdbench.flow.samplers import sample_consistency, sample_ode
from hdbench.networks.config import SanaConfig
from hdbench.networks.sana import SanaNetwork, read
from hdbench.networks.text import Conditions, TextConfig, encode
from tests.science.test_jvp import double_timestep_embedding
from tests.support.pipelines import (
    CAPTION_WIDTH,
    CHANNELS,
    LATENT_SIDE,
    SPRINT,
    TRANSFORMER,
    changed,
    made,
    random_conditions,
    sana_pipeline,
    sana_sprint_pipeline,
)

CPU = torch.device("cpu")
CONFIG = SanaConfig(width=16, depth=2, heads=2, cross_heads=4, caption_width=CAPTION_WIDTH)
SPRINT_CONFIG = CONFIG.model_copy(
    update={"time_scale": 1.0, "qk_norm": True, "guidance_input": 4.5}
)
SIZES = {"image_size": LATENT_SIDE, "channels": CHANNELS}
PROMPTS = ["A cat", "two Dogs on a hill, far too long to fit"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network_of(
    config: SanaConfig, conditions: Conditions, mean_velocity: bool = False, seed: int = 0
) -> SanaNetwork:
    """With every weight random, so that nothing is gated away."""
    network = SanaNetwork(config, **SIZES, conditions=conditions, mean_velocity=mean_velocity)
    for number, parameter in enumerate(network.parameters()):
        parameter.data = 0.3 * normal(*parameter.shape, seed=seed + number)
    return network


def encoded(folder: Path, tmp_path: Path) -> Conditions:
    config = TextConfig(path=str(folder), length=16, dtype="float32")
    encode(PROMPTS, config, tmp_path, CPU, lambda done, total: None)
    return Conditions(tmp_path)


def loaded(config: SanaConfig, folder: Path, conditions: Conditions) -> SanaNetwork:
    network = SanaNetwork(config, **SIZES, conditions=conditions, mean_velocity=False)
    network.load_state_dict(read(folder, config, **SIZES))
    return network.requires_grad_(False)


def images_of(pipeline: str, folder: Path, latents: Tensor, **options) -> Tensor:
    """Latents that diffusers' pipeline makes of these for `PROMPTS`."""
    import diffusers

    made_by = getattr(diffusers, pipeline).from_pretrained(folder)
    made_by.set_progress_bar_config(disable=True)
    return made_by(
        PROMPTS,
        latents=latents,
        height=32,
        width=32,
        output_type="latent",
        use_resolution_binning=False,
        max_sequence_length=16,
        **options,
    ).images


# against diffusers


def test_guided_sampling_equals_the_pipelines(tmp_path):
    """Prompts, guidance, time and the sign of the velocity, over three Euler steps."""
    network = loaded(CONFIG, sana_pipeline(), encoded(sana_pipeline(), tmp_path))
    eps = normal(2, CHANNELS, LATENT_SIDE, LATENT_SIDE)
    x = sample_ode(guided(network, 4.5), eps, torch.arange(2), 3)
    expected = images_of(
        "SanaPipeline", sana_pipeline(), eps, guidance_scale=4.5, sigmas=[1, 2 / 3, 1 / 3]
    )
    assert (x - eps).abs().max() > 0.1
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)


def test_sprint_sampling_equals_the_pipelines(tmp_path):
    """One step, and two whose second starts at TrigFlow's pi / 4, our t = 1/2."""
    network = loaded(
        SPRINT_CONFIG, sana_sprint_pipeline(), encoded(sana_sprint_pipeline(), tmp_path)
    )
    eps, c = normal(2, 2, CHANNELS, LATENT_SIDE, LATENT_SIDE), torch.arange(2)
    options = {"max_timesteps": math.pi / 2, "guidance_scale": 4.5}
    one = images_of(
        "SanaSprintPipeline",
        sana_sprint_pipeline(),
        eps[0],
        num_inference_steps=1,
        intermediate_timesteps=None,
        **options,
    )
    torch.testing.assert_close(generate(network, eps[0], c), one, rtol=0, atol=1e-5)
    two = images_of(
        "SanaSprintPipeline",
        sana_sprint_pipeline(),
        eps[0],
        num_inference_steps=2,
        intermediate_timesteps=math.pi / 4,
        generator=torch.Generator().manual_seed(7),
        **options,
    )
    eps[1] = normal(*eps[1].shape, seed=7)
    torch.testing.assert_close(sample_consistency(network, eps, c), two, rtol=0, atol=1e-5)
    assert (one - two).abs().max() > 0.01


def problem(dtype: torch.dtype, n: int = 5):
    """z, r, t and c, the last the null label."""
    z, t = (
        normal(n, CHANNELS, LATENT_SIDE, LATENT_SIDE).to(dtype),
        torch.linspace(0.5, 1.0, n, dtype=dtype),
    )
    return z, t - torch.linspace(0.4, 0.1, n, dtype=dtype), t, torch.arange(n)


@pytest.mark.parametrize(("config", "arguments"), [(CONFIG, TRANSFORMER), (SPRINT_CONFIG, SPRINT)])
@pytest.mark.parametrize("patch", [1, 2])
def test_student_starts_as_its_teacher(config, arguments, patch):
    """With diffusers' weights it gives diffusers' output until the embedding of t - r moves."""
    config = config.model_copy(update={"patch": patch})
    model, conditions = (
        made(5, SanaTransformer2DModel, **arguments, patch_size=patch),
        random_conditions(5),
    )
    student = SanaNetwork(config, **SIZES, conditions=conditions, mean_velocity=True)
    student.transformer.load_state_dict(model.state_dict())
    z, r, t, c = problem(torch.float32)
    embeddings, mask = conditions[c]
    guidance = torch.full((5,), 0.45) if config.guidance_input else None
    expected = model(
        z, embeddings, config.time_scale * t, guidance=guidance, encoder_attention_mask=mask
    ).sample
    with torch.no_grad():
        torch.testing.assert_close(student(z, r, t, c), expected, rtol=0, atol=1e-5)
        student.interval_embed.linear_2.weight.normal_()
        assert (student(z, r, t, c) - expected).abs().max() > 0.01


def test_features_are_the_normalised_outputs_of_blocks_and_the_pass_stops():
    network, outputs = network_of(CONFIG, random_conditions(5)), {}
    for number, block in enumerate(network.blocks, start=1):
        block.register_forward_hook(
            lambda module, inputs, output, number=number: outputs.__setitem__(number, output)
        )
    z, _, t, c = problem(torch.float32)
    (first,) = network.features(z, t, c, [1])
    assert list(outputs) == [1] and first.shape == (5, LATENT_SIDE**2, 16)
    second, first = network.features(z, t, c, [2, 1])
    for tokens, number in ((first, 1), (second, 2)):
        torch.testing.assert_close(tokens, nn.functional.layer_norm(outputs[number], (16,)))
    assert (network.depth, network.width, network.grid, network.null_label) == (
        2,
        16,
        LATENT_SIDE,
        4,
    )


# derivatives


@pytest.fixture
def student(monkeypatch):
    """In float64, with SANA's time slowed down so that finite differences see it."""
    monkeypatch.setattr(
        embeddings,
        "get_timestep_embedding",
        lambda t, size, **_: double_timestep_embedding(t, size),
    )

    def build(**changes) -> SanaNetwork:
        config = CONFIG.model_copy(update={"time_scale": 10.0, **changes})
        return network_of(config, random_conditions(5), mean_velocity=True).double()

    return build


def tangents_of(z: Tensor, r: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return normal(*z.shape, seed=3).to(z.dtype), torch.zeros_like(r), torch.ones_like(t)


@pytest.mark.parametrize("moved", [(0,), (1,), (2,), (0, 1, 2)])
def test_derivative_against_finite_differences(student, moved):
    network = student()
    *primals, c = problem(torch.float64)
    tangents = [
        x if row in moved else torch.zeros_like(x)
        for row, x in enumerate(
            (normal(*primals[0].shape, seed=3).double(), *map(torch.ones_like, primals[1:]))
        )
    ]
    _, tangent = jvp(lambda z, r, t: network(z, r, t, c), tuple(primals), tuple(tangents))

    def at(step: float) -> Tensor:
        with torch.no_grad():
            return network(*(x + step * d for x, d in zip(primals, tangents, strict=True)), c)

    h = 1e-6
    assert tangent.abs().max() > 0.1
    torch.testing.assert_close(tangent, (at(h) - at(-h)) / (2 * h), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "guidance_input": 4.5}])
def test_derivative_and_gradients_against_functorch(student, changes):
    """Value, tangent, and the gradient of the value in every parameter."""
    network = student(**changes)
    z, r, t, c = problem(torch.float64)
    function, weight = lambda z, r, t: network(z, r, t, c), normal(*z.shape, seed=4).double()
    with sdpa_kernel(SDPBackend.MATH):
        expected_value, expected_tangent = torch.func.jvp(function, (z, r, t), tangents_of(z, r, t))
    value, tangent = jvp(function, (z, r, t), tangents_of(z, r, t))
    torch.testing.assert_close(value, expected_value)
    torch.testing.assert_close(tangent, expected_tangent)
    parameters = list(network.parameters())
    found = torch.autograd.grad((value * weight).sum(), parameters)
    for gradient, expected in zip(
        found, torch.autograd.grad((function(z, r, t) * weight).sum(), parameters), strict=True
    ):
        torch.testing.assert_close(gradient, expected)
        assert gradient.abs().max() > 0


def test_gradient_checkpointing_changes_nothing(student):
    """Neither gradients nor, though it is off there, the derivative."""
    network = student()
    z, r, t, c = problem(torch.float64)
    found = []
    for checkpointing in (False, True):
        network.gradient_checkpointing = checkpointing
        value, tangent = jvp(lambda z, r, t: network(z, r, t, c), (z, r, t), tangents_of(z, r, t))
        loss = value.sum() + network(z, r, t, c).square().sum()
        found.append([tangent, *torch.autograd.grad(loss, list(network.parameters()))])
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_linear_attention_stays_exact_under_autocast():
    """Its sums are of the layers' bfloat16 outputs; in bfloat16 they would be off by 1e-2."""
    attention, x, seen = (
        network_of(CONFIG, random_conditions(5)).blocks[0].attn1,
        normal(5, 64, 16),
        [],
    )
    attention.to_out[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        attention(x)
        q, k, v = (
            layer(x).double().unflatten(-1, (2, -1)).transpose(1, 2)
            for layer in (attention.to_q, attention.to_k, attention.to_v)
        )
    weights = q.relu() @ k.relu().mT
    expected = (weights / (weights.sum(-1, keepdim=True) + 1e-15) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(seen[0].double(), expected, rtol=1e-4, atol=1e-5)


# the folder


def test_copies_share_the_table():
    network = network_of(CONFIG, random_conditions(5))
    assert copy.deepcopy(network).conditions is network.conditions
    assert not any("conditions" in key for key in network.state_dict())


def test_weights_in_shards_or_of_a_variant_read_the_same(tmp_path):
    expected = read(sana_pipeline(), CONFIG, **SIZES)
    model = SanaTransformer2DModel.from_pretrained(sana_pipeline() / "transformer")
    model.save_pretrained(tmp_path / "shards", max_shard_size="30KB")
    model.save_pretrained(tmp_path / "variant", variant="bf16")
    model.save_pretrained(tmp_path / "both" / "transformer", variant="bf16", max_shard_size="30KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for folder in ("shards", "variant", "both"):
        found = read(tmp_path / folder, CONFIG, **SIZES)
        assert found.keys() == expected.keys() and all(
            torch.equal(found[key], expected[key]) for key in found
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda config, tensors: config.update(_class_name="UNet2DModel"),
            "holds UNet2DModel, not SanaTransformer2DModel",
        ),
        (lambda config, tensors: tensors.pop("proj_out.bias"), r"1 missing keys \(proj_out.bias\)"),
        (
            lambda config, tensors: tensors.update(extra=torch.zeros(1)),
            r"1 unexpected keys \(extra\)",
        ),
        (
            lambda config, tensors: tensors.update({"proj_out.bias": torch.zeros(7)}),
            "of its config.json",
        ),
        (
            lambda config, tensors: config.update(interpolation_scale=1.0),
            r"interpolation_scale is 1.0 \(not None\)",
        ),
    ],
)
def test_wrong_folders_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read(
            changed(sana_pipeline() / "transformer", tmp_path / "transformer", change),
            CONFIG,
            **SIZES,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 3}, r"set network.depth to 2 \(not 3\)"),
        (
            {"width": 32, "heads": 4},
            r"set network.width to 16 \(not 32\), network.heads to 2 \(not 4\)",
        ),
        (
            {"qk_norm": True, "guidance_input": 4.5},
            r"qk_norm to false \(not true\), network.guidance_input to null \(not 4.5\)",
        ),
        ({"time_scale": 1.0}, r"network.time_scale to 1000.0 \(not 1.0\)"),
    ],
)
def test_sizes_that_differ_are_named_with_those_that_fit(changes, message):
    with pytest.raises(UserError, match=message):
        read(sana_pipeline(), CONFIG.model_copy(update=changes), **SIZES)


def test_data_that_differ_and_missing_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"in_channels is 4 \(not 8\), out_channels is 4 \(not 8\)"):
        read(sana_pipeline(), CONFIG, image_size=LATENT_SIDE, channels=8)
    with pytest.raises(UserError, match=r"sample_size is 8 \(not 16\)"):
        read(sana_pipeline(), CONFIG, image_size=16, channels=CHANNELS)
    with pytest.raises(UserError, match="no such folder; put diffusers' SanaTransformer2DModel"):
        read(tmp_path / "missing", CONFIG, **SIZES)
    with pytest.raises(
        UserError, match="network.caption_width = 16: the encoded prompts have width 8"
    ):
        SanaNetwork(CONFIG, **SIZES, conditions=random_conditions(5, width=8), mean_velocity=False)
