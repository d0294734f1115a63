"""Compiled training and sampling: no break, no second compilation, the numbers of eager code."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from hdbench.networks.transformer import Transformer
from hdbench.stages import PROBLEMS, compiling, train
from hdbench.stages.sample import fast_sampler, sampler_for
from hdbench.suite.load import load_plan
from hdbench.tools.rehearsal import parents
from hdbench.tools.rehearsal.stages import context_of
from tests.support.tiny import TINY, stage_of, tiny_plan

NETWORK = {"width": 16, "depth": 1, "heads": 2, "patch": 4}
CPU = torch.device("cpu")


@pytest.fixture
def backend(monkeypatch):
    """Counts graphs, and needs no compiler."""
    counting = CompileCounterWithBackend("eager")
    monkeypatch.setattr(compiling, "BACKEND", counting)
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", lambda: "c++")
    compiling.compiler_is_there.cache_clear()
    torch._dynamo.reset()
    counters.clear()
    yield counting
    torch.use_deterministic_algorithms(False)
    torch._dynamo.config.trace_autograd_ops = False
    torch._dynamo.reset()
    compiling.compiler_is_there.cache_clear()


def trainer_of(plan, stage, **options):
    training = stage.training.model_copy(update=options)
    stage = dataclasses.replace(
        stage, config=stage.config.model_copy(update={"training": training})
    )
    context = dataclasses.replace(context_of(plan, stage), device=CPU)
    torch.manual_seed(0)
    with mock.patch.object(parents, "ROWS", 64):
        trainer = train.trainer_of(context, PROBLEMS[stage.kind](context))
    trainer.images = torch.randn(64, 1, 8, 8)
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "arm", "options"),
    [
        ("trajectory", "td", {"gradient_checkpointing": True, "micro_batch": 8}),
        ("refine", "hd", {"precision": "bfloat16"}),
        ("refine", "hd_awd_logit", {}),
    ],
)
def test_an_update_is_one_graph_that_trains_the_same(tmp_path, backend, kind, arm, options):
    """The teacher, the forward-mode pass and a GAN's image gradient are inside it."""
    base = {name: TINY["base"][name] for name in ("trajectory", "refine", "steps")}
    dmd = {"name": "dmd", "gan": {"blocks": [1], "parameters": 2000}}
    base["refine"] = base["refine"] | {"objective": dmd}
    plan = tiny_plan(tmp_path, {"network": NETWORK, "base": base})
    stage = plan.stage(stage_of(plan, kind, arm))
    eager = trainer_of(plan, stage, **options)
    fast = trainer_of(plan, stage, **options, compile=True)
    for _ in range(2):
        eager.train_step()
        fast.train_step()
    assert backend.frame_count == len(fast.updates) and not counters["graph_break"]
    for name, value in eager.ema.items():
        torch.testing.assert_close(fast.ema[name], value)
    eager.read_scalars()
    fast.read_scalars()
    for name, values in eager.history.items():
        assert fast.history[name] == pytest.approx(values, rel=1e-4, abs=1e-6)


def test_samples_of_a_compiled_network_are_the_same_whatever_the_last_batch(tmp_path, backend):
    """One graph for all blocks and steps; of batches that are not full too."""
    plan = tiny_plan(tmp_path, {"network": NETWORK | {"depth": 2}, "evaluation.compile": True})
    config = plan.stage(stage_of(plan, "sample", "teacher")).config
    assert config.compile and config.guidance.active and config.steps > 1
    torch.manual_seed(0)
    network = Transformer(
        config.network, image_size=8, channels=1, classes=10, mean_velocity=False
    ).requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(std=0.1)
    noise, labels = torch.randn(1, config.batch + 3, 1, 8, 8), torch.arange(config.batch + 3) % 10
    batches = [slice(0, config.batch), slice(config.batch, None)]
    _, sampler = sampler_for(config, network)
    eager = [sampler(noise[:, rows], labels[rows]) for rows in batches]
    _, sampler = fast_sampler(config, network, CPU)
    fast = [sampler(noise[:, rows], labels[rows]) for rows in batches]
    torch.testing.assert_close(fast, eager)
    assert backend.frame_count == 1 and not counters["graph_break"]


def test_a_suite_without_compilation_keeps_the_ids_of_its_samples(tmp_path):
    plan = tiny_plan(tmp_path)
    assert "compile" not in plan.stage(stage_of(plan, "sample", "teacher")).config.model_dump()


def test_a_stage_without_a_network_of_its_own_is_not_compiled():
    """A CLIP's."""
    plan = load_plan("captions")
    clip = next(stage for stage in plan.stages.values() if stage.kind == "clip")
    assert not compiling.compiles_losses(context_of(plan, clip))


def test_without_a_compiler_it_goes_on_and_says_so_once(capsys):
    with mock.patch("torch._inductor.cpp_builder.get_cpp_compiler", side_effect=RuntimeError):
        compiling.compiler_is_there.cache_clear()
        assert not compiling.compiler_is_there("cpu") and not compiling.compiler_is_there("cpu")
    compiling.compiler_is_there.cache_clear()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "compile: no C++ compiler is there; goes on without, slower"
