"""Rehearsals: gradients are PyTorch's, counts are exact, and what a GPU would refuse is found."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch._subclasses.fake_tensor import FakeTensorMode

from hdbench.cli import main
from hdbench.core.errors import UserError
from hdbench.datasets.latents.cache import rows_at_once
from hdbench.flow.jvp import jvp
from hdbench.methods.trajectory import meanflow
from hdbench.networks.config import TransformerConfig
from hdbench.networks.flops import forward_flops
from hdbench.stages import PROBLEMS
from hdbench.stages.train import trainer_of
from hdbench.suite.load import load_plan
from hdbench.suite.stage import SampleStage
from hdbench.tools.cost.counting import Costs, by_precision
from hdbench.tools.cost.model import read_model
from hdbench.tools.memory.report import comparison, memory_report
from hdbench.tools.rehearsal import parents
from hdbench.tools.rehearsal.autograd import walked
from hdbench.tools.rehearsal.counts import COMMITTED, Rehearsal, counts_of, different, table
from hdbench.tools.rehearsal.device import CUDA, fake_cuda
from hdbench.tools.rehearsal.report import report
from hdbench.tools.rehearsal.stages import context_of, rehearse
from hdbench.tools.rehearsal.watch import BLOCK, CATEGORIES, Watch
from tests.support.tiny import REPOSITORY, TINY, stage_of, tiny_plan, write_suite

HOST = torch.device("cpu")


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def planned(folder, arm: str, kind: str, changes: dict | None = None):
    plan = tiny_plan(folder, changes)
    return plan, plan.stage(stage_of(plan, kind, arm))


# the backward pass


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_walked_backward_pass_is_pytorchs_to_the_bit(checkpointing):
    torch.manual_seed(0)
    config = TransformerConfig(width=32, depth=3, heads=2, patch=2)
    network = config.build(image_size=8, channels=3, classes=10, mean_velocity=True)
    network.gradient_checkpointing = checkpointing
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    z, t, c = torch.randn(4, 3, 8, 8), torch.rand(4), torch.arange(4)

    def gradients() -> list[torch.Tensor]:
        network.zero_grad()
        x = z.clone().requires_grad_()
        (of_input,) = torch.autograd.grad(network(x, 0 * t, t, c).square().mean(), x)
        for _ in range(2):  # the second adds to the first
            network(z, 0 * t, t, c).square().mean().backward()
        return [of_input, *(p.grad.clone() for p in network.parameters())]

    expected = gradients()
    with walked():
        walk = gradients()
    assert all(map(torch.equal, expected, walk))


def test_a_walked_pass_frees_what_was_saved():
    with walked():
        x = torch.ones(3, requires_grad=True)
        y = x.exp().sum()
        y.backward()
        with pytest.raises((RuntimeError, TypeError, AttributeError)):
            y.backward()


# counts


def test_flops_of_training_are_the_objectives_passes(tmp_path):
    plan, stage = planned(tmp_path, "td", "trajectory")
    network = plan.suite.network
    (passes,) = [
        sum(
            by_precision(
                stage.training.objective.passes(network.depth, True), "float32", False
            ).values()
        )
    ]
    rehearsal = rehearse(plan, stage)
    one = forward_flops(network, 8, 1, 10, True)
    assert rehearsal.total_flops == pytest.approx(passes * one, rel=0.1)
    assert not rehearsal.waits and not rehearsal.faults


@pytest.mark.slow
def test_every_kind_of_stage_of_a_suite_rehearses(tmp_path):
    plan = tiny_plan(tmp_path)
    stages = different(plan)
    assert {stage.kind for stage in stages.values()} == {
        "classifier",
        "teacher",
        "trajectory",
        "refine",
        "sample",
    }
    chosen = [
        stage
        for stage in stages.values()
        if stage.kind not in ("refine", "sample")
        or "awd_logit" in stage.id
        or "teacher" in stage.id
    ]
    rehearsals = [rehearse(plan, stage) for stage in chosen]
    assert not [fault for rehearsal in rehearsals for fault in rehearsal.faults]
    assert not [wait for rehearsal in rehearsals for wait in rehearsal.waits]
    assert all(
        rehearsal.flops and rehearsal.peak and rehearsal.parameters for rehearsal in rehearsals
    )
    table, wrong = report(plan, rehearsals, read_model())
    assert "dmd awd_logit on teacher" in table and not wrong


def test_stages_of_other_seeds_and_steps_are_rehearsed_once(tmp_path):
    plan = tiny_plan(tmp_path, {"seeds": [0, 1]})
    (tmp_path / "one").mkdir()
    once = different(tiny_plan(tmp_path / "one"))
    assert different(plan).keys() == once.keys()
    ode = [s for s in once.values() if isinstance(s.config, SampleStage) and s.config.guidance]
    assert len(ode) == 1  # the teacher in 2 and in 4 steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arm", "kind", "options"),
    [
        ("td", "trajectory", {}),
        ("hd_patch", "refine", {}),
        ("hd_patch", "refine", {"gradient_checkpointing": True}),
    ],
)
def test_the_tracked_peak_is_what_a_profiled_step_allocates(tmp_path, arm, kind, options):
    """Within 12%: a step's allocations above what lies there before it, on the CPU."""
    base = {name: TINY["base"][name] for name in ("trajectory", "steps")}
    dmd = {"name": "dmd", "discriminator": "none", "gan": {"blocks": [2, 4], "parameters": 40000}}
    base["refine"] = TINY["base"]["refine"] | {"objective": dmd}
    base[kind] |= options
    network = {"width": 64, "depth": 4, "heads": 4, "patch": 1}
    plan, stage = planned(tmp_path, arm, kind, {"network": network, "base": base})
    tracked = rehearse(plan, stage)
    measured = profiled(plan, stage)
    above = tracked.memory["gradients"] + tracked.memory["activations"]
    assert above == pytest.approx(measured, rel=0.12)


def profiled(plan, stage) -> int:
    """Bytes at the peak of a real step, above those before it, by PyTorch's profiler."""
    context = dataclasses.replace(context_of(plan, stage), device=HOST)
    with mock.patch.object(parents, "ROWS", 256):
        trainer = trainer_of(context, PROBLEMS[stage.kind](context))
    trainer.updates = [dataclasses.replace(update, repeats=1) for update in trainer.updates]
    trainer.train_step()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        trainer.train_step()
    events = profile.profiler.kineto_results.events()
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            total += event.nbytes()
            peak = max(peak, total)
    return peak


@pytest.mark.parametrize("tokens", [256, 1024])
def test_attention_in_forward_mode_holds_the_weights_of_some_queries(tokens):
    """For the backward it keeps log-sums alone; 16 rows and heads of SiT-XL/2."""
    with fake_cuda(), Watch() as watch:
        q, k, v = (
            torch.empty(16, 16, tokens, 72, device=CUDA, requires_grad=True) for _ in range(3)
        )
        tangents = tuple(torch.empty_like(x, requires_grad=False) for x in (q, k, v))
        before = watch.total
        y, dy = jvp(lambda *x: F.scaled_dot_product_attention(*x), (q, k, v), tangents)
        kept = watch.total - before - y.nbytes - dy.nbytes
    weights = 4 * 16 * 16 * tokens**2
    assert kept <= weights / tokens + 2 * BLOCK
    assert watch.peak - before < {256: 2.2e8, 1024: 8.4e8}[tokens]  # 4.4e8, 6.6e9 with all weights


# mistakes


def left_on_the_host(z):
    return z + torch.ones(z.shape)


def in_float64(z):
    return z + torch.ones(1, 1, 1, 1, dtype=torch.float64, device=z.device)


def read_by_the_host(z):
    return z * z.mean().item()


def chosen_by_value(z):
    return z[z.mean((1, 2, 3)) > 0]


def copied_back(z):
    return z.cpu().to(z.device)


@pytest.mark.parametrize(
    ("mistake", "faults", "waits"),
    [
        (left_on_the_host, "Expected all tensors to be on the same device", ""),
        (in_float64, "float64 in hdbench/methods/trajectory/meanflow.py", ""),
        (read_by_the_host, "the host reads a value", "_local_scalar_dense"),
        (chosen_by_value, "the host reads a value", "aten.index.Tensor"),
        (copied_back, "", "copy to the host in hdbench/methods/trajectory/meanflow.py"),
    ],
)
def test_a_planted_mistake_is_found(tmp_path, monkeypatch, mistake, faults, waits):
    plan, stage = planned(tmp_path, "td", "trajectory")
    real = meanflow.interpolate
    monkeypatch.setattr(meanflow, "interpolate", lambda x, eps, t: mistake(real(x, eps, t)))
    rehearsal = rehearse(plan, stage)
    assert faults in " ".join(rehearsal.faults) and waits in " ".join(rehearsal.waits)
    assert bool(rehearsal.faults) == bool(faults) and bool(rehearsal.waits) == bool(waits)


def test_a_network_that_predicts_noise_computes_in_float32(tmp_path):
    """Its times are kept in float64, from which only float32 may come."""
    network = TINY["network"] | {"prediction": "epsilon"}
    plan, stage = planned(tmp_path, "td", "trajectory", {"network": network})
    assert not rehearse(plan, stage).faults


def test_too_little_memory_is_one_sentence(tmp_path):
    plan, stage = planned(tmp_path, "td", "trajectory")
    rehearsal = dataclasses.replace(
        rehearse(plan, stage),
        memory={"parameters": 0, "gradients": 0, "optimizer": 0, "activations": 10**11},
    )
    _, (sentence,) = report(plan, [rehearsal], read_model())
    assert sentence.startswith(f"{stage.id}: needs 100.0 GB with 16 rows at once, an ")
    assert sentence.endswith("lower training.micro_batch, or set training.gradient_checkpointing")


def test_a_watch_counts_storages_once_and_until_they_are_freed():
    with FakeTensorMode(), Watch() as watch:
        x = torch.empty(1000, device=CUDA)
        y = x.view(10, 100)
        assert watch.total == 4096
        z = y + 1
        assert watch.total == watch.peak == 8192
        del x
        assert watch.total == 8192
        del y, z
        assert watch.total == 0 and watch.peak == 8192


# the paper's scale, shortened: the whole is `hdbench rehearse`


@pytest.mark.slow
def test_a_step_at_the_papers_size(tmp_path):
    plan = load_plan("imagenet256")
    (stage,) = [s for s in different(plan).values() if s.kind == "sample" and "1step" in s.id]
    rehearsal = rehearse(plan, stage)
    one = forward_flops(plan.suite.network, 32, 4, 1000, True)
    assert rehearsal.flops.keys() == {"float32"} and rehearsal.total_flops == one
    assert rehearsal.decoding["tfloat32"] > 10 * rehearsal.decoding["float32"]
    assert sum(rehearsal.decoding.values()) == read_model().autoencoders["kl"].decode
    assert not rehearsal.faults and not rehearsal.waits


@pytest.mark.slow
def test_images_of_1024_pixels_are_encoded_in_what_a_gpu_has():
    """32 of them at once would take 88 GB."""
    plan = load_plan("mjhq_1024")
    (data,) = [stage for stage in plan.stages.values() if stage.kind == "data"]
    model = read_model()
    rehearsal = rehearse(plan, data)
    assert not report(plan, [rehearsal], model)[1] and rehearsal.rows == 8
    assert [rows_at_once(side) for side in (256, 512, 8192)] == [32, 32, 1]


def test_the_command_rehearses_and_keeps(tmp_path):
    changes = {"arms": {"teacher": TINY["arms"]["teacher"]}, "tables": {}}
    suite = write_suite(tmp_path, changes)
    arguments = ["rehearse", "--suite", str(suite), "--results", str(tmp_path / "results")]
    first = CliRunner().invoke(main, arguments)
    assert first.exit_code == 0, first.output
    files = list((tmp_path / "results/rehearsals").iterdir())
    assert len(files) == 4  # classifier, teacher, its samples; all as a table
    kept = tmp_path / f"results/rehearsals/{suite.stem}.csv"
    assert first.output.splitlines()[-1] == f"Kept in {kept}."
    with mock.patch("hdbench.tools.rehearsal.report.rehearse_one", side_effect=AssertionError):
        assert CliRunner().invoke(main, arguments).output == first.output
    cost = CliRunner().invoke(main, ["cost", *arguments[1:]])
    assert cost.exit_code == 0 and str(kept) in "".join(cost.output.split()), cost.output
    other = write_suite(tmp_path, {**changes, "seeds": [7]}, name="other")
    arguments[2] = str(other)
    with mock.patch("hdbench.tools.rehearsal.report.rehearse_one", side_effect=AssertionError):
        second = CliRunner().invoke(main, arguments)
    assert second.exit_code == 0, second.output
    told = second.output.replace("teacher-s7-", "teacher-s0-").replace("other.csv", kept.name)
    assert "teacher-s7-" in second.output and told == first.output
    rows = counts_of(load_plan(str(other)), tmp_path / "results").rows
    assert {row.stage for row in rows.values()} <= load_plan(str(other)).stages.keys()


# counts


@pytest.fixture
def counted(tmp_path):
    """A plan and counts of its stages that nobody would guess."""
    plan = tiny_plan(tmp_path)
    rows = {
        key: Rehearsal(
            stage=stage.id,
            rows=4,
            parameters=7,
            flops={"bfloat16": 3.0 + number, "float32": 0.5},
            decoding={"tfloat32": 2.0} if stage.kind == "sample" else {},
            memory=dict.fromkeys(CATEGORIES, number),
        )
        for number, (key, stage) in enumerate(different(plan).items())
    }
    path = tmp_path / f"results/rehearsals/{plan.stem}.csv"
    path.parent.mkdir(parents=True)
    path.write_text(table(rows.items()))
    counts = counts_of(plan, tmp_path / "results")
    assert counts and counts.rows == rows and counts.source == path
    return plan, counts


def test_cost_and_memory_are_a_rehearsals(counted):
    plan, counts = counted
    costs = Costs(plan, read_model(), counts)
    td = plan.stage(stage_of(plan, "trajectory", "td"))
    samples = td.training.steps * td.training.batch
    assert costs.of(td).flops == {x: samples * y for x, y in counts.of(td).flops.items()}
    (teacher,) = [s for s in plan.stages.values() if s.kind == "sample" and "4step" in s.id]
    once = counts.of(teacher)  # guided: two evaluations a step
    assert costs.of(teacher).flops == {
        **{x: 64 * 4 * 2 * y for x, y in once.flops.items()},
        "tfloat32": 64 * 2.0,
    }
    assert costs.of(td).disk == Costs(plan, read_model()).of(td).disk
    printed = memory_report(plan, read_model(), counts)
    assert str(counts.source) in "".join(printed.split()) and "formula" not in printed
    rows = comparison(plan, counts)
    assert len(rows) == sum(bool(stage.training) for stage in different(plan).values())


@pytest.mark.parametrize("suite", [path.stem for path in (REPOSITORY / COMMITTED).glob("*.csv")])
def test_committed_counts_are_of_the_suite_as_it_is(suite, tmp_path):
    plan = load_plan(suite)
    counts = counts_of(plan, tmp_path)
    assert counts and len(counts.different()) == len(counts.rows)


def test_stale_counts_are_refused_in_one_sentence(counted):
    plan, counts = counted
    td = plan.stage(stage_of(plan, "trajectory", "td"))
    training = td.training.model_copy(update={"micro_batch": 2})
    stale = dataclasses.replace(td, config=td.config.model_copy(update={"training": training}))
    with pytest.raises(UserError, match="counts of other settings than trajectory/.* has; run"):
        counts.of(stale)
    longer = td.training.model_copy(update={"steps": 99})
    same = dataclasses.replace(td, config=td.config.model_copy(update={"training": longer}))
    assert counts.of(same) == counts.of(td)
    counts.source.write_text("key,stage\n1,2\n")
    with pytest.raises(UserError, match="not a table of rehearsals"):
        counts_of(plan, counts.source.parent.parent)
    counts.source.unlink()
    assert counts_of(plan, counts.source.parent.parent) is None
