"""The path, its samplers and the transformer's contracts, against exactly solvable data."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from hdbench.core.seeds import Draws, generator, sample_noise, seed_of
from hdbench.flow.path import expand, generate, guided, interpolate, velocity
from hdbench.flow.samplers import sample_consistency, sample_flow_map, sample_ode
from hdbench.networks.config import TransformerConfig
from hdbench.networks.transformer import Transformer
from tests.support.oracles import Gaussian, a_gaussian, a_mixture, uniform_times

DATA = {"gaussian": a_gaussian, "mixture": a_mixture}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(n: int, shape=(1, 2, 3), seed: int = 0) -> torch.Tensor:
    return torch.randn(n, *shape, generator=rng(seed), dtype=torch.float64)


def in_float32(u):
    """An oracle in float64 behind the networks' own dtype."""
    return lambda z, r, t, c: u(z.double(), r.double(), t.double(), c).float()


def transformer(mean_velocity: bool, seed: int = 0, **config) -> Transformer:
    """Small, with every weight random: nothing starts at zero, so nothing is hidden."""
    sizes = TransformerConfig(**({"width": 16, "depth": 4, "heads": 2, "patch": 2} | config))
    network = Transformer(sizes, image_size=8, channels=1, classes=3, mean_velocity=mean_velocity)
    with torch.no_grad():
        for parameter in network.parameters():
            values = torch.randn(parameter.shape, generator=rng(seed + parameter.numel()))
            parameter.copy_(0.3 * values)
    return network


# the oracles themselves


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_oracle_velocity_is_the_conditional_mean(t):
    """v(z, t) against numerical integration of eps - x over the posterior of one-dimensional x."""
    mixture = a_mixture()
    one = type(mixture)(mixture.means[:, :, :1, :1], mixture.sds, mixture.shares)
    x = np.linspace(-8, 8, 20001)
    for z in (-1.3, 0.2, 0.9):
        prior = sum(
            p * np.exp(-0.5 * ((x - m) / s) ** 2) / s
            for p, m, s in zip(
                one.shares.tolist(), one.means.flatten().tolist(), one.sds.tolist(), strict=True
            )
        )
        posterior = prior * np.exp(-0.5 * ((z - (1 - t) * x) / t) ** 2)
        expected = ((z - (1 - t) * x) / t - x) @ posterior / posterior.sum()
        found = one.v(
            torch.full((1, 1, 1, 1), z, dtype=torch.float64), torch.tensor([t], dtype=torch.float64)
        ).item()
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("data", DATA)
def test_oracle_velocity_follows_from_the_score(data):
    """v = -(z + t score) / (1 - t), and the x-prediction z - t v is Tweedie's posterior mean."""
    oracle, z, t = DATA[data](), noise(16), uniform_times(16, rng(1))
    v = oracle.v(z, t)
    torch.testing.assert_close(v, -(z + expand(t) * oracle.score(z, t)) / (1 - expand(t)))
    torch.testing.assert_close(z - expand(t) * v, oracle.denoised(z, t))


@pytest.mark.parametrize("data", DATA)
def test_oracle_mean_velocity_integrates_the_ode(data):
    """(t - r) u(z, r, t) = z_t - z_r of an adaptive solver; u(z, t, t) = v(z, t)."""
    oracle, z = DATA[data](), noise(8)
    for r, t in ((0.0, 1.0), (0.2, 0.7), (0.6, 0.65)):
        solver = super(Gaussian, oracle) if data == "gaussian" else oracle
        exact = solver.flow_map(z, r, t)
        times = [torch.full((8,), value, dtype=torch.float64) for value in (r, t)]
        torch.testing.assert_close(z - (t - r) * oracle.u(z, *times), exact, atol=1e-7, rtol=0)
        torch.testing.assert_close(oracle.u(z, times[1], times[1]), oracle.v(z, times[1]))


# path and samplers


def test_path_runs_from_data_to_noise():
    x, eps = noise(4, seed=1), noise(4, seed=2)
    t = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    z = interpolate(x, eps, t)
    assert torch.equal(z[0], x[0]) and torch.equal(z[3], eps[3])
    torch.testing.assert_close(z[1], 0.75 * x[1] + 0.25 * eps[1])


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_mean_velocity_samples_exactly_in_any_number_of_steps(data, steps):
    """The flow map from t = 1 to 0 does not depend on where it is cut."""
    oracle, eps = DATA[data](), noise(6)
    exact = oracle.flow_map(eps, 0.0, 1.0)
    torch.testing.assert_close(
        sample_flow_map(oracle.u, eps, None, steps), exact, atol=1e-6, rtol=0
    )
    if steps == 1:
        torch.testing.assert_close(generate(oracle.u, eps, None), exact, atol=1e-6, rtol=0)


@pytest.mark.parametrize("data", DATA)
def test_euler_converges_at_first_order(data):
    """Twice the steps, half the error."""
    oracle, eps = DATA[data](), noise(6)
    exact = oracle.flow_map(eps, 0.0, 1.0)
    errors = [
        (sample_ode(oracle.v, eps, None, steps) - exact).abs().mean().item()
        for steps in (64, 128, 256)
    ]
    assert errors[0] > 1e-3
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.05)


def test_euler_evaluates_at_the_start_of_each_step():
    """Times 1, 3/4, 1/2, 1/4: the velocity at t = 0 is never asked for."""
    seen = []

    def v(z, t, c):
        seen.append(t[0].item())
        return torch.zeros_like(z)

    sample_ode(v, noise(2), None, 4)
    assert seen == [1.0, 0.75, 0.5, 0.25]


def test_consistency_sampling_starts_with_the_one_step_sample_and_renoises():
    """x = G(eps_0); then x = f((1 - t) x + t eps_n, t), f = z - t u(z, 0, t), at t = 2/3, 1/3."""
    oracle, noises = a_gaussian(), torch.stack([noise(5, seed=s) for s in range(3)]).float()
    x = generate(in_float32(oracle.u), noises[0], None)
    assert torch.equal(sample_consistency(in_float32(oracle.u), noises[:1], None), x)
    for number, t in ((1, 2 / 3), (2, 1 / 3)):
        x = oracle.flow_map((1 - t) * x.double() + t * noises[number], 0.0, t)
    torch.testing.assert_close(
        sample_consistency(in_float32(oracle.u), noises, None), x.float(), atol=1e-5, rtol=0
    )


def test_samplers_keep_the_data_distribution():
    """From the exact mean velocity both samplers give N(mu, s^2) itself."""
    oracle, noises = a_gaussian(), torch.stack([noise(20000, seed=s) for s in range(3)]).float()
    u = in_float32(oracle.u)
    for x in (sample_flow_map(u, noises[0], None, 2), sample_consistency(u, noises, None)):
        assert (x.mean(0) - oracle.mean).abs().max() < 4 * oracle.sd / 20000**0.5 + 1e-3
        assert (x.std(0) / oracle.sd - 1).abs().max() < 0.025


# guidance


class Recorder(nn.Module):
    """A linear 'network' that keeps what it was asked: z + 0.1 c, scaled by t."""

    null_label = 3

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, z, r, t, c):
        assert torch.equal(r, t)
        self.calls.append(c)
        return expand(t) * (z + 0.1 * expand(c.to(z.dtype)) ** 2)


def test_guidance_extrapolates_inside_its_interval_only():
    """v(null) + w (v(c) - v(null)) for t in [0.3, 0.6], v(c) elsewhere; 2B rows in one call."""
    network, z, c = Recorder(), noise(5), torch.tensor([0, 1, 2, 0, 1])
    t = torch.tensor([0.1, 0.3, 0.5, 0.6, 0.9], dtype=torch.float64)
    found = guided(network, 1.5, (0.3, 0.6))(z, t, c)
    assert len(network.calls) == 1 and network.calls[0].tolist() == [0, 1, 2, 0, 1, 3, 3, 3, 3, 3]
    conditional, null = network(z, t, t, c), network(z, t, t, torch.full_like(c, 3))
    inside = torch.tensor([False, True, True, True, False])
    expected = torch.where(expand(inside), null + 1.5 * (conditional - null), conditional)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found[~inside], conditional[~inside])


def test_guidance_zero_is_unconditional_and_one_is_a_single_evaluation():
    network, z, c = Recorder(), noise(4), torch.tensor([0, 1, 2, 0])
    t = torch.full((4,), 0.5, dtype=torch.float64)
    assert torch.equal(guided(network, 1.0)(z, t, c), velocity(network)(z, t, c))
    assert [len(call) for call in network.calls] == [4, 4]
    torch.testing.assert_close(
        guided(network, 0.0)(z, t, c), network(z, t, t, torch.full_like(c, 3))
    )


# seeds


def test_noise_of_a_sample_does_not_depend_on_its_batch():
    axes, shape = (0, "sample"), (1, 4, 4)
    whole = sample_noise(axes, range(10), shape)
    parts = [sample_noise(axes, rows, shape) for rows in (range(3), range(3, 10))]
    assert torch.equal(whole, torch.cat(parts))
    assert len({tuple(row.flatten().tolist()) for row in whole}) == 10
    assert not torch.equal(whole, sample_noise((1, "sample"), range(10), shape))
    assert abs(sample_noise(axes, range(400), shape).std().item() - 1) < 0.03


def test_seeds_distinguish_their_axes_and_order():
    axes = [
        (0, "refine", 1),
        (1, "refine", 0),
        (0, "refine", 11),
        (0, "refine", 1, 1),
        (0, "td", 1),
        (0, 1, "refine"),
    ]
    assert len({seed_of(*a) for a in axes}) == len(axes)
    assert all(0 <= seed_of(*a) < 2**63 for a in axes)
    digest = hashlib.sha256(b"0/refine/1").hexdigest()
    assert seed_of(0, "refine", 1) == int(digest[:16], 16) // 2


def test_draws_repeat_and_follow_the_data():
    """Same axes, same draws; labels belong to their images and times stay in their range."""
    images = torch.arange(50.0).reshape(50, 1, 1, 1).expand(50, 1, 2, 2)
    labels = torch.arange(50) % 7

    def draw():
        d = Draws((0, "x", 3), images, labels, 4000)
        return *d.data(), d.label(), d.noise(), d.uniform(0.2, 0.6)

    x, c, label, eps, t = draw()
    assert all(torch.equal(a, b) for a, b in zip(draw(), (x, c, label, eps, t), strict=True))
    assert torch.equal(x[:, 0, 0, 0].long() % 7, c) and not torch.equal(label, c)
    assert eps.shape == x.shape and t.min() >= 0.2 and t.max() < 0.6 and abs(t.mean() - 0.4) < 0.01
    assert generator(1).initial_seed() == seed_of(1)


# transformer


def test_patchify_in_raster_order_and_back():
    network = transformer(False)
    z = torch.arange(2 * 64.0).reshape(2, 1, 8, 8)
    tokens = network.patchify(z)
    assert tokens.shape == (2, 16, 4)
    assert tokens[0, 1].tolist() == [2, 3, 10, 11] and tokens[0, 4].tolist() == [16, 17, 24, 25]
    assert torch.equal(network.unpatchify(tokens), z)


def test_patchify_round_trip_with_channels():
    network = Transformer(
        TransformerConfig(width=16, depth=1, heads=2, patch=4),
        image_size=8,
        channels=3,
        classes=2,
        mean_velocity=False,
    )
    z = torch.randn(2, 3, 8, 8, generator=rng())
    tokens = network.patchify(z)
    assert tokens.shape == (2, 4, 48) and torch.equal(network.unpatchify(tokens), z)


def test_student_from_teacher_weights_equals_the_teacher_for_every_r():
    teacher = transformer(mean_velocity=False)
    student = Transformer(teacher.config, image_size=8, channels=1, classes=3, mean_velocity=True)
    missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
    assert not unexpected and missing and all(key.startswith("interval_embed.") for key in missing)
    z, c = noise(6, (1, 8, 8)).float(), torch.tensor([0, 1, 2, 3, 0, 1])
    t = torch.rand(6, generator=rng())
    expected = teacher(z, t, t, c)
    assert expected.std() > 0.1
    for r in (torch.zeros(6), 0.5 * t, t):
        torch.testing.assert_close(student(z, r, t, c), expected)
    nn.init.normal_(student.interval_embed.linear_2.weight, std=0.3)
    assert not torch.allclose(student(z, torch.zeros(6), t, c), student(z, t, t, c), atol=1e-3)


def test_network_depends_on_time_label_and_position():
    network, z, t = transformer(False), noise(2, (1, 8, 8)).float(), torch.tensor([0.3, 0.3])
    c = torch.tensor([0, 0])
    base = network(z, t, t, c)
    assert not torch.allclose(base, network(z, t + 0.3, t + 0.3, c), atol=1e-3)
    assert not torch.allclose(base, network(z, t, t, c + 1), atol=1e-3)
    swapped = torch.cat([z[..., 4:], z[..., :4]], dim=-1)
    moved = network(swapped, t, t, c)
    assert not torch.allclose(torch.cat([base[..., 4:], base[..., :4]], dim=-1), moved, atol=1e-3)


@pytest.mark.parametrize("blocks", [(1,), (2, 3), (3, 1), (4,)])
def test_features_are_the_tokens_of_the_full_pass_and_stop_at_the_last_block(blocks):
    network = transformer(False)
    z, c, t = noise(3, (1, 8, 8)).float(), torch.tensor([0, 1, 2]), torch.rand(3, generator=rng())
    seen, count = {}, []
    for number, block in enumerate(network.blocks, start=1):

        def keep(module, inputs, output, number=number):
            seen[number] = output
            count.append(number)

        block.register_forward_hook(keep)
    network(z, t, t, c)
    full, _ = dict(seen), count.clear()
    tokens = network.features(z, t, c, blocks)
    assert count == list(range(1, max(blocks) + 1))
    for number, h in zip(blocks, tokens, strict=True):
        assert h.shape == (3, 16, 16)
        x = full[number]
        sd = (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        expected = (x - x.mean(-1, keepdim=True)) / sd
        torch.testing.assert_close(h, expected, atol=1e-5, rtol=1e-5)


def test_patch_must_divide_the_image():
    with pytest.raises(ValueError, match="does not divide"):
        Transformer(
            TransformerConfig(width=16, depth=1, heads=2, patch=3),
            image_size=8,
            channels=1,
            classes=2,
            mean_velocity=False,
        )
