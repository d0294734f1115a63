"""Solvers, reuse of features, guidance in an interval: exact maps, and counts by hooks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hdbench.core.config import validate
from hdbench.core.errors import UserError
from hdbench.flow.guidance import Guidance
from hdbench.flow.path import guided
from hdbench.flow.samplers import sample_ode
from hdbench.flow.solvers import evaluation_times, sample_solver, scheduler
from hdbench.networks.flops import forward_flops
from hdbench.networks.reuse import DeepCache, FasterDiffusion, reusing
from hdbench.networks.sampling import Sampling
from hdbench.suite.schema import Arm
from tests.science.test_objectives import normal, small_transformer
from tests.support.oracles import Mixture, a_gaussian

SOLVERS = ("euler", "heun", "dpm_solver", "unipc")


def error(solver: str, steps: int, oracle: Mixture) -> float:
    """Root mean square distance to the exact flow map from noise."""
    eps = normal(128, 1, 2, 3, seed=1).float()
    v = lambda z, t, c: oracle.v(z.double(), t.double()).float()
    x = sample_solver(solver, v, eps, torch.zeros(128), steps)
    return (x - oracle.flow_map(eps.double(), 0.0, 1.0)).square().mean().sqrt().item()


@pytest.mark.parametrize(
    ("solver", "steps", "low"),
    [("euler", 64, 1.9), ("heun", 32, 3.6), ("dpm_solver", 128, 3.0), ("unipc", 64, 3.0)],
)
def test_a_solver_reaches_the_flow_map_of_a_gaussian_at_its_order(solver, steps, low):
    """Twice the steps, half the error or a quarter; the multi-step ones with a log beside it."""
    coarse, fine = (error(solver, n, a_gaussian()) for n in (steps, 2 * steps))
    assert low < coarse / fine < (2.1 if solver == "euler" else 5.0)
    assert fine < (0.02 if solver == "euler" else 6e-4)


@pytest.mark.parametrize("solver", SOLVERS[1:])
def test_at_sixteen_evaluations_each_is_nearer_than_euler(solver):
    steps = 8 if solver == "heun" else 16
    assert error(solver, steps, a_gaussian()) < 0.3 * error("euler", 16, a_gaussian())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [2, 5, 25])
def test_the_networks_times_are_the_schedulers_own_sigmas(solver, steps):
    """To 2e-6; timesteps of the multi-step solvers, rounded, are off by up to 1e-3."""
    schedule = scheduler(solver, steps)
    times = torch.tensor(evaluation_times(solver, steps))
    if solver == "heun":
        sigmas = schedule.timesteps / 1000
    else:
        sigmas = schedule.sigmas[: len(schedule.timesteps)]
    assert len(times) == len(schedule.timesteps) == (2 * steps - 1 if solver == "heun" else steps)
    torch.testing.assert_close(times, sigmas.float(), atol=2e-6, rtol=0)


def test_euler_is_diffusers_euler():
    oracle, eps, c = a_gaussian(), normal(16, 1, 2, 3).float(), torch.zeros(16)
    v = lambda z, t, c: oracle.v(z.double(), t.double()).float()
    schedule, z = scheduler("euler", 7), eps
    for t in schedule.timesteps:
        z = schedule.step(v(z, torch.full((16,), t.item() / 1000), c), t, z).prev_sample
    torch.testing.assert_close(sample_solver("euler", v, eps, c, 7), z, atol=1e-5, rtol=1e-5)
    assert torch.equal(sample_solver("euler", v, eps, c, 7), sample_ode(v, eps, c, 7))


# reuse of features


def noise_and_labels(n: int = 6) -> tuple[Tensor, Tensor]:
    return normal(n, 1, 8, 8).float(), torch.arange(n) % 3


def trained_looking(seed: int = 0):
    """A small network whose gates and output are not zero, as after training."""
    network = small_transformer(False, seed=seed).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return network


def test_keys():
    times = evaluation_times("euler", 50)
    faster = FasterDiffusion(
        last=2, key_times=(1.0, 0.98, 0.96, 0.94, 0.9, 0.8, 0.7, 0.5, 0.3)
    ).keys(times)
    assert [i for i, key in enumerate(faster) if key] == [0, 1, 2, 3, 5, 10, 15, 25, 35]
    assert DeepCache(first=2, last=3, every=3).keys(times[:7]) == [i % 3 == 0 for i in range(7)]
    assert FasterDiffusion(last=1, key_times=()).keys(times[:3]) == [True, False, False]


@pytest.mark.parametrize("reuse", [DeepCache(first=2, last=3, every=2),
                                   FasterDiffusion(last=2, key_times=(0.5,))])  # fmt: skip
def test_reused_blocks_by_hand(reuse):
    """Two evaluations, the second without these blocks: residuals added, or tokens replaced."""
    z, c = noise_and_labels()
    t, plain, changed = torch.full((6,), 0.7), trained_looking(), trained_looking()
    reusing(changed, reuse, [True, False])
    first = changed(z, t, t, c)
    assert torch.equal(first, plain(z, t, t, c))
    later, moved = t - 0.2, z + 0.3
    second = changed(moved, later, later, c)
    kept = {}
    x, (condition,), _ = plain.start(z, t, t, c)
    for number, block in enumerate(plain.blocks, start=1):
        y = block(x, condition)
        kept[number] = (y - x, y)
        x = y
    x, (condition,), _ = plain.start(moved, later, later, c)
    for number, block in enumerate(plain.blocks, start=1):
        inside = reuse.first <= number <= reuse.last
        if inside:
            residual, tokens = kept[number]
            x = x + residual if reuse.name == "deepcache" else tokens
        else:
            x = block(x, condition)
    plain.blocks = torch.nn.ModuleList()  # the output layer on x alone
    plain.after = lambda *_: [x]
    expected = plain(moved, later, later, c)
    torch.testing.assert_close(second, expected)
    assert torch.equal(changed(z, t, t, c), first)  # the next turn begins with a key


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 0.8)])
@pytest.mark.parametrize("reuse", [None, DeepCache(first=2, last=3, every=3)])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_evaluations_and_blocks_are_those_that_are_counted(interval, reuse, solver):
    """Rows of the network's calls and of each block's, by hooks, over two batches."""
    network, n, steps = trained_looking(), 6, 7
    guidance, sampling = (
        Guidance(scale=1.5, interval=interval),
        Sampling(solver=solver, reuse=reuse),
    )
    rows = {"network": 0, "inner": 0}

    def count(name):
        return lambda module, arguments: rows.__setitem__(name, rows[name] + len(arguments[0]))

    network.register_forward_pre_hook(count("network"))
    network.blocks[1].register_forward_pre_hook(count("inner"))
    sampler = sampling.sampler(network, guidance, steps)
    eps, c = noise_and_labels(n)
    x = sampler(eps, c)
    again = sampler(eps, c)
    torch.testing.assert_close(x, again, rtol=0, atol=0)
    calls = sampling.calls(steps, guidance)
    assert rows["network"] == 2 * n * sum(number for number, _ in calls)
    assert rows["inner"] == 2 * n * sum(number for number, key in calls if key)
    plain = sample_solver(solver, guided(trained_looking(), 1.5, interval), eps, c, steps)
    assert torch.allclose(x, plain, atol=1e-5) == (reuse is None)
    inside = sum(interval[0] <= t <= interval[1] for t in evaluation_times(solver, steps))
    assert reuse or sum(number for number, _ in calls) == len(calls) + inside


def test_flops_between_keys_are_those_of_the_blocks_that_run():
    config = trained_looking().config
    full, between = (
        forward_flops(config, 8, 1, 3, False, reuse=reuse)
        for reuse in (None, DeepCache(first=2, last=3, every=2))
    )
    one = full - forward_flops(config, 8, 1, 3, False, reuse=DeepCache(first=2, last=2, every=2))
    assert full - between == 2 * one > 0


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"solver": "rk45"}, 'sampling.solver = "rk45": unknown; valid: dpm_solver, euler'),
        ({"reuse": {"name": "deepcache", "first": 3, "last": 2, "every": 2}}, "must not be above"),
        ({"reuse": {"name": "deepcache", "first": 1, "last": 2, "every": 1}}, "every = 1"),
        ({"reuse": {"name": "faster_diffusion", "last": 2, "key_times": [1.5]}}, "1.5"),
    ],
)
def test_a_sampling_that_cannot_be_is_one_sentence(given, sentence):
    arm = {"trajectory": None, "refine": None, "steps": [2], "sampling": given}
    with pytest.raises(UserError, match=sentence):
        validate(Arm, arm, "suite.yaml")
    with pytest.raises(UserError, match="sampling is of the teacher"):
        validate(Arm, arm | {"sampling": {"solver": "heun"}, "real": "test"}, "suite.yaml")
