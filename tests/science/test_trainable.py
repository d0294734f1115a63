"""Which parameters a stage trains: frozen ones, low-rank changes, heads drawn anew."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hdbench.core.errors import UserError
from hdbench.flow.jvp import jvp
from hdbench.flow.path import guided
from hdbench.methods import DMD, LADD, MeanFlow, Progressive
from hdbench.methods.base import Problem
from hdbench.methods.discriminators import build_head
from hdbench.methods.discriminators.patch import Patch
from hdbench.methods.discriminators.pool import HeadPool
from hdbench.methods.distribution.gan import HingeOnTeacher
from hdbench.networks.trainable import Trainable, merged, restrict
from hdbench.stages.train import restricted_updates
from hdbench.stages.trainer import Trainer
from hdbench.suite.training import Training
from tests.science.test_objectives import GRID, LAYERS, WIDTH, rng, small_transformer, tokens
from tests.support.tiny import run_until, stage_of, tiny_plan

LOW_RANK = Trainable(rank=2, alpha=6.0, adapt=("blocks.*.qkv", "blocks.?.feed_forward.*"))
INNATE = Trainable(freeze=("blocks.*.proj.*", "blocks.*.feed_forward.*"))


def new_trainer(objective, steps: int = 4, **trainable: Trainable) -> Trainer:
    teacher = small_transformer(False).requires_grad_(False)
    images, labels = torch.rand(20, 1, 8, 8, generator=rng()) * 2 - 1, torch.arange(20) % 3

    def head(name, settings, *axes):
        torch.manual_seed(hash(axes) % 2**31)
        return build_head(name, layers=2, width=16, grid=4, parameters=settings.parameters)

    problem = Problem(
        student=small_transformer(True, 1),
        learning_rate=1e-2,
        teacher=teacher,
        teacher_velocity=guided(teacher, 1.5),
        copy_teacher=lambda: small_transformer(False, 2),
        head=head,
    )
    training = Training(
        objective=objective, steps=steps, batch=8, learning_rate=1e-2, ema=0.5, trainable=trainable
    )
    updates = restricted_updates(training, problem, (0, "test"))
    return Trainer(updates, training, problem.student, (0, "test"), images, labels)


def inputs(n: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z = torch.randn(n, 1, 8, 8, generator=rng(3))
    return z, torch.linspace(0, 0.5, n), torch.linspace(0.5, 1, n), torch.arange(n) % 4


def test_a_low_rank_change_starts_at_nothing_and_merges_into_plain_weights():
    """W_0 + (alpha / rank) B A, by hand; value and tangent are those of the merged network."""
    plain, network = small_transformer(True, 1), small_transformer(True, 1)
    restrict(network, LOW_RANK, "student", (0,))
    torch.testing.assert_close(network(*inputs()), plain(*inputs()), rtol=0, atol=0)
    trained = {key for key, p in network.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 4 * 3 and all(key.endswith((".up", ".down")) for key in trained)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key in trained:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=rng(len(key))))
    state = merged(network, network.state_dict())
    assert list(state.keys()) != [] and state.keys() == plain.state_dict().keys()
    layer = network.blocks[1].qkv
    change = layer.parametrizations["weight"][0]
    w_0 = layer.parametrizations["weight"].original
    torch.testing.assert_close(state["blocks.1.qkv.weight"], w_0 + 3.0 * change.up @ change.down)
    plain.load_state_dict(state)
    assert not torch.allclose(plain(*inputs()), small_transformer(True, 1)(*inputs()))
    z, r, t, c = inputs()
    tangents = (torch.ones_like(z), torch.zeros_like(r), torch.ones_like(t))
    both = [jvp(lambda z, r, t: u(z, r, t, c), (z, r, t), tangents) for u in (network, plain)]
    torch.testing.assert_close(*both, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("objective", [MeanFlow(), Progressive(start_steps=2), DMD()])
@pytest.mark.parametrize("trainable", [LOW_RANK, INNATE])
def test_a_stage_trains_its_share_of_the_student_and_nothing_else(objective, trainable):
    trainer = new_trainer(objective, student=trainable)
    before = {key: p.detach().clone() for key, p in trainer.student.named_parameters()}
    for _ in range(4):
        trainer.train_step()
    for key, parameter in trainer.student.named_parameters():
        frozen = not parameter.requires_grad
        assert frozen == torch.equal(parameter, before[key]) or key.endswith("down"), key
        if trainable is INNATE:
            assert frozen == (".proj." in key or ".feed_forward." in key)
    weights = merged(trainer.student, trainer.ema)
    assert weights.keys() == small_transformer(True, 1).state_dict().keys()


def test_the_fake_may_be_a_low_rank_change_of_the_teacher():
    """As in SwiftBrush: the student is whole."""
    trainer = new_trainer(DMD(), fake=LOW_RANK)
    fake = trainer.modules()["fake"]
    for _ in range(2):
        trainer.train_step()
    trained = {key: p for key, p in fake.named_parameters() if p.requires_grad}
    assert trained and all(key.endswith((".up", ".down")) for key in trained)
    assert all(p.any() for key, p in trained.items() if key.endswith(".up"))  # which start at zero
    assert all(p.requires_grad for p in trainer.student.parameters())


POOL = HingeOnTeacher(
    parameters=6000, blocks=(2, 3), heads=4, judging=2, refresh=0.5, learning_rate=1e-2
)


@pytest.mark.parametrize(
    ("objective", "trainable"),
    [(DMD(), {"student": LOW_RANK, "fake": INNATE}), (LADD(discriminator="patch", gan=POOL), {})],
)
def test_a_resumed_run_ends_with_the_same_bits(objective, trainable):
    whole, first, second = (new_trainer(objective, 6, **trainable) for _ in range(3))
    for _ in range(6):
        whole.train_step()
    for _ in range(3):
        first.train_step()
    second.load_state({key: value.clone() for key, value in first.state().items()}, 3)
    for _ in range(3):
        second.train_step()
    states = whole.state(), second.state()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_pool_of_one_is_its_head_and_of_several_their_mean():
    torch.manual_seed(0)
    heads = {axes: Patch(LAYERS, WIDTH, GRID, 12).double() for axes in ((), (1,), (2,))}
    one, three = (HeadPool(lambda *axes: heads[axes], count, None, 0.0) for count in (1, 3))
    for found, expected in zip(one(tokens()), heads[()](tokens()), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    outputs = three(tokens())
    torch.testing.assert_close(outputs.weights.sum(1), torch.ones(5).double())
    losses = [
        (out.weights * out.logits.exp()).sum(1) for out in (h(tokens()) for h in heads.values())
    ]
    torch.testing.assert_close(
        (outputs.weights * outputs.logits.exp()).sum(1), torch.stack(losses).mean(0)
    )


def test_a_pool_draws_its_heads_and_starts_some_anew_with_their_optimisers_state():
    """An untouched head keeps weights and moments, a new one has none; all judge in turn."""
    k = LADD(discriminator="patch", gan=POOL)
    trainer = new_trainer(k, 100)
    pool = trainer.modules()["head"]
    optimizer = trainer.optimizers["critic"]
    judged = torch.zeros(4)
    for step in range(40):
        before = {
            number: [p.clone() for p in h.parameters()] for number, h in enumerate(pool.heads)
        }
        reset = trainer.updates[0].on_step(step, 100)
        anew = [
            n
            for n, h in enumerate(pool.heads)
            if any(p is r for p in h.parameters() for r in reset)
        ]
        trainer.train_step()
        judged[pool.active] += 1
        for number, head in enumerate(pool.heads):
            same = all(map(torch.equal, before[number], head.parameters()))
            assert same == (number not in anew and number not in pool.active), (step, number)
            states = [optimizer.state.get(p, {}) for p in head.parameters()]
            if number in anew:  # on_step gave the same at the trainer's own call
                expected = {1.0} if number in pool.active else {0.0}
                assert {float(s.get("step", 0.0)) for s in states} == expected
    assert judged.sum() == 80 and judged.min() > 10


@pytest.mark.parametrize(
    ("trainable", "sentence"),
    [
        ({"student": Trainable(freeze=("bloks.*",))}, "student.freeze: 'bloks.*' matches none of"),
        ({"student": Trainable(freeze=("*",))}, "student.freeze: nothing is left to train"),
        ({"student": Trainable(rank=2, adapt=("out.*",))}, "student.adapt: 'out.*' matches none"),
        ({"fak": LOW_RANK}, "fak: objective dmd trains no such network; did you mean 'fake'?"),
    ],
)
def test_a_pattern_that_means_nothing_is_one_sentence(trainable, sentence):
    with pytest.raises(UserError) as error:
        new_trainer(DMD(), **trainable)
    assert str(error.value).startswith(f"training.trainable.{sentence}")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "give freeze, patterns of parameters, or rank"),
        ({"freeze": ("a",), "rank": 1}, "freeze, rank: with rank all parameters are frozen"),
        ({"freeze": ("a",), "alpha": 1.0}, "alpha = 1.0: there is no rank"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Trainable(**settings)


@pytest.mark.slow
def test_a_stage_writes_plain_weights_that_the_next_loads(tmp_path):
    """Of a trajectory student trained by a low-rank change; refined, and sampled, as any other."""
    low_rank = {"student": {"rank": 2}}
    changes = {"base.trajectory.trainable": low_rank}
    plans = []
    for name, change in (("a", {}), ("b", changes)):
        (tmp_path / name).mkdir()
        plans.append(tiny_plan(tmp_path / name, change))
    stages = [stage_of(plan, "refine", "hd") for plan in plans]
    assert stages[0] != stages[1]
    run_until(plans[1], tmp_path, stages[1])
    trajectory = stage_of(plans[1], "trajectory", "hd")
    weights = load_file(tmp_path / "stages" / trajectory / "weights.safetensors")
    assert not [key for key in weights if "parametrizations" in key]
