"""What a network predicts, told by its answers to noise: exact ones, trained ones, random ones."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hdbench.core.errors import UserError
from hdbench.networks.checkpoints import NEEDED, convert
from hdbench.networks.prediction import answers_of, check_prediction, correlation, drawn, smooth
from hdbench.networks.transformer import TransformerConfig
from hdbench.stages.train import read_checkpoint
from hdbench.suite.schema import Checkpoint
from hdbench.suite.stage import CheckpointStage, Shape
from tests.support.sit_reference import Reference, random_reference

DATA = {"image_size": 8, "channels": 4, "classes": 5}
SIZES = {"width": 64, "depth": 2, "heads": 2, "patch": 2}
DIMENSIONS = 4, 8, 8
ALPHAS = torch.tensor(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))).float()  # DDPM's alpha_bar


# exact: data N(m, s^2), white, so that every posterior mean is affine in z


def velocity(z: Tensor, t: float, m: float, s: float) -> Tensor:
    """E[x - eps | z_t = t x + (1 - t) eps]."""
    variance = (t * s) ** 2 + (1 - t) ** 2
    return m + (t * s**2 - (1 - t)) / variance * (z - t * m)


def noise(z: Tensor, step: float, m: float, s: float) -> Tensor:
    """E[eps | z = sqrt(alpha_bar) x + sqrt(1 - alpha_bar) eps] at the next of DDPM's steps."""
    alpha = float(ALPHAS[round(step)])
    return math.sqrt(1 - alpha) / (alpha * s**2 + 1 - alpha) * (z - math.sqrt(alpha) * m)


@pytest.mark.parametrize("m", [0.0, -0.8])
@pytest.mark.parametrize("s", [0.1, 1.0, 3.0])
def test_optimal_predictions_are_told_whatever_mean_and_scale(m, s):
    sit = answers_of(lambda z, t: velocity(z, min(t, 1.0), m, s), DIMENSIONS)
    dit = answers_of(lambda z, step: noise(z, step, m, s), DIMENSIONS)
    assert sit.family == "sit" and sit.at_0 == pytest.approx(-1)
    assert dit.family == "dit" and dit.at_999 == pytest.approx(1)


def test_an_optimal_velocity_on_smooth_data_whose_time_runs_the_other_way():
    """x = A u: the field that `smooth` draws, so E[x - eps | (x + eps) / 2] is known."""
    x = smooth(DIMENSIONS)
    flat = x.flatten(1)
    covariance = flat.T @ flat / len(flat)  # of rank 64, of 256
    gain = covariance @ torch.linalg.inv(covariance + torch.eye(256))

    def given(z: Tensor) -> Tensor:
        mean = (2 * z.flatten(1) @ gain.T).view_as(z)
        return 2 * mean - 2 * z  # x - eps, where eps = 2 z - x

    right = answers_of(lambda z, t: given(z) if t == 0.5 else -z, DIMENSIONS)
    wrong = answers_of(lambda z, t: -given(z) if t == 0.5 else -z, DIMENSIONS)
    assert right.family == "sit" and right.between > 0.5
    assert wrong.family == "reversed" and wrong.between < -0.5


@pytest.mark.parametrize("answer", [torch.zeros_like, lambda z: torch.full_like(z, 3.0),
                                    lambda z: z * torch.nan, lambda z: z.flip(1)])  # fmt: skip
def test_what_does_not_find_the_noise_is_of_no_family(answer):
    assert answers_of(lambda z, t: answer(z), DIMENSIONS).family is None


def test_correlation_is_that_of_numpy_less_means_over_the_batch():
    a = drawn((3, 4, 4), 0) + drawn((3, 4, 4), 2)[:1]
    b = 0.5 * a + drawn((3, 4, 4), 1) + 7
    expected = np.corrcoef((a - a.mean(0)).flatten(), (b - b.mean(0)).flatten())[0, 1]
    assert correlation(a, b) == pytest.approx(expected, abs=1e-6)


# trained for a moment


def fields(n: int, kind: str, generator: torch.Generator) -> Tensor:
    if kind == "white":
        return torch.randn(n, *DIMENSIONS, generator=generator)
    x = F.interpolate(torch.randn(n, 4, 4, 4, generator=generator), size=8, mode="bicubic")
    return x if kind == "smooth" else 0.3 * x - 0.6


@functools.cache
def trained(objective: str, kind: str, steps: int = 60, seed: int = 1) -> Reference:
    """A DiT or SiT with adaLN-Zero's initialisation after a few steps of Adam."""
    generator = torch.Generator().manual_seed(seed)
    network = random_reference(seed, width=64, channels=4)
    for layer in (*(block.adaLN_modulation[1] for block in network.blocks),
                  network.final_layer.adaLN_modulation[1], network.final_layer.linear):  # fmt: skip
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    weights = [weight for weight in network.parameters() if weight is not network.pos_embed]
    optimizer = torch.optim.Adam([weight.requires_grad_() for weight in weights], 2e-3)
    for _ in range(steps):
        x = fields(32, kind, generator)
        eps = torch.randn(x.shape, generator=generator)
        y = torch.randint(0, 5, (32,), generator=generator)
        if objective == "dit":
            time = torch.randint(0, 1000, (32,), generator=generator)
            alpha = ALPHAS[time].view(-1, 1, 1, 1)
            z, target = alpha.sqrt() * x + (1 - alpha).sqrt() * eps, eps
        else:
            time = torch.rand(32, generator=generator)
            t = time.view(-1, 1, 1, 1)
            z, target = t * x + (1 - t) * eps, x - eps
        loss = (network(z, time.float(), y) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.requires_grad_(False)


def checked(network: Reference, kind: str) -> dict[str, float]:
    config = TransformerConfig(**SIZES, **NEEDED[kind], time_features=256, position_side=4)
    state = convert(network.state_dict(), kind, config, **DATA, source="it.pt")
    return check_prediction(state, kind, config, **DATA, source="it.pt")


@pytest.mark.parametrize("kind", ["white", "offset"])
@pytest.mark.parametrize("objective", ["sit", "dit"])
def test_a_trained_file_is_taken_as_what_it_is_and_refused_as_the_other(objective, kind):
    network = trained(objective, kind)
    assert abs(checked(network, objective)["at_0" if objective == "sit" else "at_999"]) > 0.4
    other = {"sit": "dit", "dit": "sit"}[objective]
    predicts = {"sit": "a SiT, which predicts the velocity", "dit": "a DiT, which predicts the"}
    with pytest.raises(UserError, match=f"it.pt: behaves as {predicts[objective]}"):
        checked(network, other)


def test_random_weights_are_taken_for_nobodys():
    """How often an untrained network passes, of 30: not once, at sizes of this project's tests."""
    for seed in range(10):
        for sizes in ({}, {"width": 16}, {"width": 64, "channels": 4}):
            network = random_reference(seed, **sizes)
            side = network.side * network.patch
            answers = answers_of(
                lambda z, t, network=network: network(
                    z, torch.full((len(z),), t), torch.zeros(len(z), dtype=torch.long)
                ),
                (network.channels, side, side),
            )
            assert answers.family is None, (seed, sizes, answers)


def test_a_check_is_repeatable_and_leaves_the_global_generator_alone():
    network = trained("sit", "smooth")
    torch.manual_seed(3)
    first = checked(network, "sit")
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1)) and checked(network, "sit") == first


def test_a_stage_refuses_a_file_of_the_other_family_unless_it_is_allowed(tmp_path):
    torch.save({"ema": trained("dit", "offset").state_dict()}, tmp_path / "it.pt")

    def stage(*allow: str, kind: str = "sit") -> CheckpointStage:
        network = TransformerConfig(**SIZES, **NEEDED[kind], time_features=256, position_side=4)
        public = Checkpoint(format=kind, path=str(tmp_path / "it.pt"), allow=allow)
        return CheckpointStage(network=network, shape=Shape(**DATA), checkpoint=public)

    with pytest.raises(UserError, match=r"set checkpoint.allow to \[any-prediction\]"):
        read_checkpoint(stage())
    weights, answers = read_checkpoint(stage("any-prediction"))
    assert weights and not answers
    assert read_checkpoint(stage(kind="dit"))[1]["at_999"] > 0.9
    assert "allow" not in stage().model_dump(mode="json")["checkpoint"]
