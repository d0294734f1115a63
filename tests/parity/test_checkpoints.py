"""Public SiT and DiT files in our Transformer, against the papers implemented anew."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from hdbench.core.errors import UserError
from hdbench.flow.jvp import jvp
from hdbench.networks import transformer
from hdbench.networks.checkpoints import NEEDED, convert, read
from hdbench.networks.config import TransformerConfig
from hdbench.networks.tensors import read_tensors
from hdbench.networks.transformer import NoiseToVelocity, Transformer
from tests.support.sit_reference import Reference, random_reference, sinusoids

DATA = {"image_size": 8, "channels": 3, "classes": 5}
SIZES = [
    {},
    {"width": 72, "heads": 3, "depth": 3, "channels": 4, "image_size": 32},
    {"patch": 4, "mlp_ratio": 2.0},
    {"learn_sigma": False, "width": 288, "heads": 4},
]
ALPHAS = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))  # DDPM's alpha_bar
# where t / (1 - t) = sigma / alpha
TIMES = np.sqrt(1 - ALPHAS) / (np.sqrt(ALPHAS) + np.sqrt(1 - ALPHAS))


def config_of(kind: str, **sizes) -> tuple[TransformerConfig, dict[str, int]]:
    """The configuration that fits a reference of these sizes, and its data."""
    data = {key: sizes.pop(key, value) for key, value in DATA.items()}
    sizes.pop("learn_sigma", None)
    sizes = {"width": 32, "depth": 2, "heads": 2, "patch": 2} | sizes
    side = data["image_size"] // sizes["patch"]
    return TransformerConfig(**sizes, **NEEDED[kind], time_features=256, position_side=side), data


def ours(reference: Reference, kind: str, mean_velocity: bool = False, **sizes) -> Transformer:
    config, data = config_of(kind, **sizes)
    network = Transformer(config, **data, mean_velocity=mean_velocity)
    state = convert(reference.state_dict(), kind, config, **data, source="it")
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected and all(
        mean_velocity and key.startswith("interval_embed.") for key in missing
    )
    return network.requires_grad_(False)


def batch(n: int = 7, **sizes) -> tuple[Tensor, Tensor, Tensor]:
    """z, t and labels, the null label among them."""
    generator = torch.Generator().manual_seed(3)
    data = DATA | {key: value for key, value in sizes.items() if key in DATA}
    z = torch.randn(
        n, data["channels"], data["image_size"], data["image_size"], generator=generator
    )
    return z, torch.rand(n, generator=generator), torch.arange(n) % (data["classes"] + 1)


# SiT


@pytest.mark.parametrize("sizes", SIZES)
def test_sit_to_the_last_bit(sizes):
    """Our v at t is minus theirs at 1 - t; a convolution of patches rounds otherwise."""
    reference, (z, t, c) = random_reference(**sizes), batch(**sizes)
    network = ours(reference, "sit", **sizes)
    found, convolved = network(z, t, t, c), -reference(z, 1 - t, c)
    reference.convolve = False
    assert torch.equal(found, -reference(z, 1 - t, c)) and found.std() > 0.5
    torch.testing.assert_close(found, convolved, atol=2e-5, rtol=0)


def test_features_are_the_tokens_of_the_reference():
    """At t, and, for DiT, at DDPM's step 400 of an input of unit variance."""
    t = TIMES[400]
    for kind, divisor, own_time in (("sit", 1.0, 1 - t), ("dit", math.hypot(1 - t, t), 400.0)):
        reference, (z, _, c) = random_reference(), batch()
        tokens = []
        reference.blocks[0].register_forward_hook(
            lambda module, inputs, output, tokens=tokens: tokens.append(output)
        )
        reference(z / divisor, torch.full((len(z),), own_time), c)
        (found,) = ours(reference, kind).features(
            z, torch.full((len(z),), t, dtype=torch.float32), c, (1,)
        )
        torch.testing.assert_close(found, F.layer_norm(tokens[0], (32,)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["sit", "dit"])
def test_a_student_starts_as_the_teacher_for_every_r(kind):
    reference, (z, t, c) = random_reference(), batch()
    teacher, student = ours(reference, kind), ours(reference, kind, mean_velocity=True)
    for r in (torch.zeros_like(t), 0.5 * t, t):
        assert torch.equal(student(z, r, t, c), teacher(z, t, t, c))


# DiT, and derivatives: in float64


@pytest.fixture
def doubled(monkeypatch) -> None:
    """The sinusoidal embedding in float64, where diffusers' own casts to float32."""
    monkeypatch.setattr(transformer, "timestep_embedding", lambda t, size, **_: sinusoids(t, size))


def ddpm(reference: Reference, z: Tensor, k: int, c: Tensor) -> tuple[Tensor, Tensor]:
    """eps_hat and x_0 = (z_k - sqrt(1 - alpha_bar) eps_hat) / sqrt(alpha_bar) of DDPM's z_k."""
    eps_hat = reference(z, torch.full((len(z),), k, dtype=z.dtype), c)
    return eps_hat, (z - math.sqrt(1 - ALPHAS[k]) * eps_hat) / math.sqrt(ALPHAS[k])


def dit_problem() -> tuple[Reference, Transformer, Tensor, Tensor]:
    reference, (z, _, c) = random_reference(), batch()
    return reference.double(), ours(reference, "dit").double(), z.double(), c


@pytest.mark.parametrize("k", [0, 1, 37, 500, 998, 999])
def test_dit_at_its_own_steps_is_ddpm(doubled, k):
    """z_t = z_k / (alpha_k + sigma_k), x_0 = z - t v, v = eps_hat - x_0 as on a straight path."""
    reference, network, z_k, c = dit_problem()
    eps_hat, x_hat = ddpm(reference, z_k, k, c)
    t, z = TIMES[k], z_k / (math.sqrt(ALPHAS[k]) + math.sqrt(1 - ALPHAS[k]))
    times = torch.full((len(z),), t, dtype=torch.float64)
    v = network(z, times, times, c)
    torch.testing.assert_close(v, eps_hat - x_hat, atol=1e-7, rtol=0)
    torch.testing.assert_close(z - t * v, x_hat, atol=1e-7, rtol=0)
    assert v.std() > 0.5


@pytest.mark.parametrize("t", [0.995, 1.0])
def test_dit_beyond_its_last_step_stays_there(doubled, t):
    """At t = 1 noise is taken for z_999, as DDPM's sampling begins."""
    reference, network, z, c = dit_problem()
    _, x_hat = ddpm(reference, z / math.hypot(1 - t, t), 999, c)
    times = torch.full((len(z),), t, dtype=torch.float64)
    torch.testing.assert_close(z - t * network(z, times, times, c), x_hat, atol=1e-7, rtol=0)
    assert x_hat.std() > 50


@pytest.mark.parametrize("t", [0.0, 1e-9, 5e-3])
def test_dit_before_its_first_step_and_at_data(doubled, t):
    """There is nothing to divide by at t = 0: v = (eps_hat - z) / (1 - t)."""
    reference, network, z, c = dit_problem()
    times = torch.full((len(z),), t, dtype=torch.float64)
    eps_hat, _ = ddpm(reference, z / math.hypot(1 - t, t), 0, c)
    torch.testing.assert_close(
        network(z, times, times, c), (eps_hat - z) / (1 - t), atol=1e-9, rtol=0
    )


def test_dit_is_continuous_where_ddpm_ends(doubled):
    _, network, z, c = dit_problem()
    before, after = (
        torch.full((len(z),), TIMES[-1] + shift, dtype=torch.float64) for shift in (-1e-9, 1e-9)
    )
    torch.testing.assert_close(
        network(z, before, before, c), network(z, after, after, c), atol=1e-2, rtol=0
    )


def test_steps_of_ddpm_between_and_outside():
    module, times = NoiseToVelocity(), torch.tensor(TIMES)
    torch.testing.assert_close(module.step(times), torch.arange(1000).double(), atol=1e-7, rtol=0)
    torch.testing.assert_close(
        module.step(times.float()), torch.arange(1000).float(), atol=1e-2, rtol=0
    )
    torch.testing.assert_close(
        module.step((times[1:] + times[:-1]) / 2),
        torch.arange(999) + 0.5,
        atol=1e-7,
        rtol=0,
        check_dtype=False,
    )
    assert module.step(torch.tensor([0.0, 1e-3, 0.999, 1.0])).tolist() == [0, 0, 999, 999]


@pytest.mark.parametrize("kind", ["sit", "dit"])
@pytest.mark.parametrize("mean_velocity", [False, True])
def test_jvp_against_central_differences(doubled, kind, mean_velocity):
    """Along (v, 0, 1), or (v, 1, 1) without r; inside DDPM's steps and on either side of them."""
    network = ours(random_reference(), kind, mean_velocity).double()
    if mean_velocity:
        nn.init.normal_(
            network.interval_embed.linear_2.weight,
            std=0.1,
            generator=torch.Generator().manual_seed(1),
        )
    z, v, c = batch(6)[0].double(), batch(12)[0][6:].double(), torch.arange(6)
    t = torch.tensor([0.004, 0.2, 0.55, 0.9, 0.99, 0.996], dtype=torch.float64)
    one, r = torch.ones_like(t), 0.5 * t if mean_velocity else t
    tangents = (v, 0 * one if mean_velocity else one, one)
    value, tangent = jvp(lambda z, r, t: network(z, r, t, c), (z, r, t), tangents)
    h = 1e-7
    plus, minus = (
        network(*(x + sign * h * dx for x, dx in zip((z, r, t), tangents, strict=True)), c)
        for sign in (1, -1)
    )
    torch.testing.assert_close(value, network(z, r, t, c))
    for found, expected in zip(tangent, (plus - minus) / (2 * h), strict=True):
        assert found.std() > 0.1
        torch.testing.assert_close(found, expected, atol=1e-6 * found.std().item(), rtol=1e-5)


# files


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return random_reference().state_dict()


def assert_reads(path: Path, tensors: dict[str, Tensor], atol: float = 0.0) -> None:
    config, data = config_of("sit")
    found, wanted = (
        read(path, "sit", config, **data),
        convert(tensors, "sit", config, **data, source="it"),
    )
    assert found.keys() == wanted.keys() and all(
        tensor.dtype == torch.float32 for tensor in found.values()
    )
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, atol=atol, rtol=atol)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w, o: w,
        lambda w, o: {"ema": w, "model": o, "opt": {"state": {}}, "epoch": 3},
        lambda w, o: {"model": w, "args": argparse.Namespace(model="SiT-XL/2")},
        lambda w, o: {"state_dict": w},
    ],
)
def test_pt_files_by_what_the_weights_are_under(tensors, tmp_path, wrap):
    """The moving average comes before the trained weights; a trainer's arguments do no harm."""
    other = {key: tensor + 1 for key, tensor in tensors.items()}
    torch.save(wrap(tensors, other), tmp_path / "it.pt")
    assert_reads(tmp_path / "it.pt", tensors)


def test_safetensors_with_and_without_prefix_and_in_half_precision(tensors, tmp_path):
    other = {f"model.{key}": tensor + 1 for key, tensor in tensors.items()}
    for name, content, atol in (
        ("plain", tensors, 0.0),
        ("ema", {f"ema.{key}": t for key, t in tensors.items()} | other, 0.0),
        ("half", {key: t.half() for key, t in tensors.items()}, 1e-3),
    ):
        save_file(content, tmp_path / f"{name}.safetensors")
        assert_reads(tmp_path / f"{name}.safetensors", tensors, atol)


def test_other_readers_of_weights_see_no_change(tensors, tmp_path):
    torch.save({"ema": tensors, "state_dict": {"x": torch.ones(1)}}, tmp_path / "it.pt")
    assert list(read_tensors(tmp_path / "it.pt")) == ["x"]


class Harmful:
    def __reduce__(self):
        return print, ("run",)


def test_a_file_that_could_run_code_is_refused(tensors, tmp_path, capsys):
    torch.save({"ema": tensors, "args": Harmful()}, tmp_path / "it.pt")
    with pytest.raises(UserError, match="could run code"):
        assert_reads(tmp_path / "it.pt", tensors)
    assert capsys.readouterr().out == ""


def refused(
    tensors: dict[str, Tensor], config: TransformerConfig | None = None, **data: int
) -> str:
    with pytest.raises(UserError) as error:
        convert(tensors, "sit", config or config_of("sit")[0], **(DATA | data), source="it.pt")
    return str(error.value)


@pytest.mark.parametrize(
    ("key", "family"),
    [
        ("down_blocks.0.resnets.0.conv1.weight", "a diffusers U-Net"),
        ("input_blocks.0.0.weight", "an ADM U-Net"),
        ("model.diffusion_model.input_blocks.0.0.weight", "a latent diffusion U-Net"),
        ("encoder.down_blocks.0.resnets.0.conv1.weight", "an autoencoder"),
        ("y_embedder.y_proj.fc1.weight", "a text-to-image transformer such as SANA or PixArt"),
        (
            "caption_projection.linear_1.weight",
            "a text-to-image transformer such as SANA or PixArt",
        ),
        ("transformer_blocks.0.attn1.to_q.weight", "a diffusers transformer"),
        ("label_embed.weight", "hdbench's own weights"),
        ("projectors.0.0.weight", "a SiT of REPA, whose time runs the other way"),
    ],
)
def test_another_family_is_named(tensors, key, family):
    assert refused(tensors | {key: torch.ones(1)}) == f"it.pt: looks like {family}; give a SiT"


def test_keys_that_are_missing_or_too_many(tensors):
    some = {key: tensor for key, tensor in tensors.items() if not key.startswith("blocks.1.mlp")}
    assert refused(some) == (
        "it.pt: not a SiT: it lacks blocks.1.mlp.fc1.weight, blocks.1.mlp.fc1.bias, "
        "blocks.1.mlp.fc2.weight, ... (4 in all); give a SiT as it was published"
    )
    more = tensors | {"blocks.0.attn.q_norm.weight": torch.ones(8)}
    assert refused(more) == (
        "it.pt: not a SiT: a SiT does not have blocks.0.attn.q_norm.weight; give a SiT as it was "
        "published"
    )
    flat = tensors | {"x_embedder.proj.weight": torch.ones(32, 12)}
    assert refused(flat) == (
        "it.pt: not a SiT: of another number of axes are x_embedder.proj.weight; give a SiT as it "
        "was published"
    )
    assert refused({}).startswith("it.pt: not a SiT: it lacks pos_embed, ")


@pytest.mark.parametrize(
    ("change", "needs"),
    [
        ({"width": 64}, "network.width to 32 (not 64)"),
        ({"depth": 3}, "network.depth to 2 (not 3)"),
        ({"patch": 4}, "network.patch to 2 (not 4)"),
        ({"mlp_ratio": 2.0}, "network.mlp_ratio to 4.0 (not 2.0)"),
        ({"time_features": None}, "network.time_features to 256 (not 32)"),
        ({"position_side": 16}, "network.position_side to 4 (not 16)"),
        ({"reversed_time": False}, "network.reversed_time to true (not false)"),
        (
            {"reversed_time": False, "prediction": "epsilon"},
            'network.reversed_time to true (not false), network.prediction to "velocity" (not '
            '"epsilon")',
        ),
        ({"time_scale": 1000.0}, "network.time_scale to 1.0 (not 1000.0)"),
        ({"gelu": "erf"}, 'network.gelu to "tanh" (not "erf")'),
        ({"width": 64, "depth": 3}, "network.width to 32 (not 64), network.depth to 2 (not 3)"),
    ],
)
def test_a_configuration_that_does_not_fit_is_told_what_would(tensors, change, needs):
    config = config_of("sit")[0].model_copy(update=change)
    assert (
        refused(tensors, config)
        == f"it.pt: a SiT of other settings; set {needs}, or give another file"
    )


@pytest.mark.parametrize(
    ("change", "needs"),
    [
        ({"classes": 10}, "the data's classes to 5 (not 10)"),
        ({"channels": 1}, "the data's channels to 3 (not 1)"),
        ({"image_size": 16}, "the data's image_size to 8 (not 16)"),
    ],
)
def test_data_that_do_not_fit(tensors, change, needs):
    assert (
        refused(tensors, **change)
        == f"it.pt: a SiT of other settings; set {needs}, or give another file"
    )


def test_tensors_that_contradict_each_other_and_other_positions(tensors):
    wrong = tensors | {"blocks.1.attn.proj.weight": torch.ones(32, 31)}
    assert refused(wrong) == (
        "it.pt: blocks.1.attn.proj.weight has the shape [32, 31], which does not fit its other "
        "tensors; get the file again"
    )
    wrong = tensors | {
        "final_layer.linear.weight": torch.ones(36, 32),
        "final_layer.linear.bias": torch.ones(36),
    }
    assert refused(wrong).startswith("it.pt: final_layer.linear.weight has the shape [36, 32]")
    for position in (tensors["pos_embed"] + 0.1, tensors["pos_embed"][:, :, :16]):
        assert refused(tensors | {"pos_embed": position}) == (
            "it.pt: its pos_embed is not that of a 4 x 4 grid of integers; give one that has it"
        )


def test_a_file_that_is_not_there(tmp_path):
    config, data = config_of("dit")
    with pytest.raises(UserError) as error:
        read(tmp_path / "it.pt", "dit", config, **data)
    assert (
        str(error.value)
        == f"{tmp_path}/it.pt: there is no such file; put the DiT checkpoint there, or give its "
        f"path"
    )


# the configuration and gradient checkpointing


def test_fields_for_public_files_are_hashed_only_where_they_are_set():
    assert set(TransformerConfig().model_dump(mode="json")) == {
        "width",
        "depth",
        "heads",
        "patch",
        "mlp_ratio",
        "time_scale",
    }
    config, _ = config_of("dit")
    assert (
        TransformerConfig(**config.model_dump(mode="json")) == config
        and config.model_dump()["prediction"] == "epsilon"
    )
    with pytest.raises(ValueError, match="reversed_time = true"):
        TransformerConfig(reversed_time=True, prediction="epsilon")


def test_gradient_checkpointing_changes_no_gradient_and_runs_blocks_again():
    """All blocks twice with gradients, once without and inside the JVP; `features` too."""
    z, t, c = batch()
    runs, gradients = {}, {}
    for again in (False, True):
        config, data = config_of("sit")
        network = Transformer(config, **data, mean_velocity=True, gradient_checkpointing=again)
        with torch.no_grad():
            for number, parameter in enumerate(network.parameters()):
                parameter.copy_(
                    0.2
                    * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
                )
        assert network.width == 32 and network.gradient_checkpointing == again
        count = Counter()
        for block in network.blocks:
            block.register_forward_pre_hook(lambda *_, count=count: count.update(["blocks"]))
        passes = {
            "forward": lambda: network(z, 0 * t, t, c),
            "features": lambda: network.features(z, t, c, (1, 2))[1],
            "jvp": lambda: jvp(lambda z, r, t: network(z, r, t, c), (z, 0 * t, t), (z, 0 * t, t))[
                0
            ],
        }
        for name, value in passes.items():
            count.clear()
            network.zero_grad()
            value().square().sum().backward()
            runs[name, again] = count["blocks"]
            gradients[name, again] = [
                p.grad.clone() for p in network.parameters() if p.grad is not None
            ]
        count.clear()
        with torch.no_grad():
            network(z, 0 * t, t, c)
        assert count["blocks"] == 2
    assert runs == {
        ("forward", False): 2,
        ("features", False): 2,
        ("jvp", False): 2,
        ("forward", True): 4,
        ("features", True): 4,
        ("jvp", True): 2,
    }
    for name in ("forward", "features", "jvp"):
        assert len(gradients[name, True]) > 20
        assert all(
            torch.equal(a, b)
            for a, b in zip(gradients[name, False], gradients[name, True], strict=True)
        )
