"""Any number of ranks are one process that is faster: the same numbers, stop and files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from hdbench import stages
from hdbench.cli import main
from hdbench.core import distributed
from hdbench.core.errors import Divergence, LostRank, UserError
from hdbench.flow.path import guided
from hdbench.methods import (
    ADM,
    DMD,
    DMD2,
    LADD,
    SCM,
    VSD,
    AdversarialPretraining,
    Consistency,
    CrossEntropy,
    DecoupledDMD,
    FakeScoreFree,
    FDistill,
    FlashDMD,
    FlowMatching,
    FrechetLoss,
    ImprovedMeanFlow,
    Knowledge,
    MeanFlow,
    Progressive,
    Reflow,
    Shortcut,
    SiD,
)
from hdbench.methods.base import Problem
from hdbench.methods.discriminators import build_head
from hdbench.methods.distribution import adm, f_distill, gan
from hdbench.networks import transformer
from hdbench.networks.classifier import Classifier
from hdbench.networks.config import ClassifierConfig, TransformerConfig
from hdbench.networks.trainable import Trainable
from hdbench.stages import artifact
from hdbench.stages.loop import CHECKPOINT
from hdbench.stages.train import restricted_updates
from hdbench.stages.trainer import Trainer
from hdbench.suite.load import load_plan
from hdbench.suite.plan import Plan
from hdbench.suite.training import Training
from tests.support.ports import free_ports
from tests.support.tiny import REPOSITORY, run_until, stage_of, tiny_plan, write_suite

STEPS = 3


# processes


@dataclass
class Ranks:
    """Forked processes, one a rank, and where each writes what it prints."""

    pids: list[int]
    logs: list[Path]

    def wait(self, seconds: float = 120) -> list[int]:
        """Exit codes, negative for a signal; a failure if one is left then, and all are killed."""
        codes: dict[int, int] = {}
        end = time.monotonic() + seconds
        while len(codes) < len(self.pids) and time.monotonic() < end:
            for pid in set(self.pids) - codes.keys():
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    codes[pid] = os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        for pid in (left := set(self.pids) - codes.keys()):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        assert not left, f"{len(left)} of {len(self.pids)} ranks hang: {self.said()}"
        return [codes[pid] for pid in self.pids]

    def said(self) -> list[list[str]]:
        """What each printed, but for progress."""
        return [
            [
                line
                for line in path.read_text(encoding="utf-8").splitlines()
                if "it/s]" not in line and "?it" not in line and "s/it]" not in line
            ]
            for path in self.logs
        ]


def fork(
    folder: Path, world_size: int, job: Callable[[], object], **environment: str | None
) -> Ranks:
    """`job` on every rank, in a process with the launcher's environment, changed where asked."""
    logs = [folder / f"rank{rank}-{time.monotonic_ns()}.log" for rank in range(world_size)]
    pids, port = [], free_ports()[0]
    for rank, log in enumerate(logs):
        log.touch()
        pids.append(os.fork())
        if pids[-1] == 0:
            code = 1
            try:
                for stream in (1, 2):
                    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), stream)
                sys.stdout, sys.stderr = (
                    open(stream, "w", buffering=1, closefd=False) for stream in (1, 2)
                )
                launched = {
                    "RANK": str(rank),
                    "WORLD_SIZE": str(world_size),
                    "LOCAL_RANK": str(rank),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    **environment,
                }
                os.environ.update(
                    {name: value for name, value in launched.items() if value is not None}
                )
                for name in (name for name, value in launched.items() if value is None):
                    os.environ.pop(name)
                job()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
    return Ranks(pids, logs)


def connected(job: Callable[[], object]) -> None:
    with distributed.ranks(torch.device("cpu")):
        job()


def command(kind: str, suite: Path, results: Path, *more: str) -> Callable[[], object]:
    """`hdbench stage ...` in this process."""
    return lambda: main(["stage", kind, "--suite", str(suite), "--results", str(results), *more])


# the same numbers, in double precision, where rounding cannot hide a mistake


def network(mean_velocity: bool, seed: int) -> transformer.Transformer:
    torch.manual_seed(seed)
    config = TransformerConfig(width=16, depth=2, heads=2, patch=4)
    found = transformer.Transformer(
        config, image_size=8, channels=1, classes=3, mean_velocity=mean_velocity
    )
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return found.double()


def a_head(name: str, settings: gan.GanSettings, *axes: int) -> nn.Module:
    torch.manual_seed(7 + sum(axes))
    head = build_head(
        name, layers=len(settings.blocks), width=16, grid=2, parameters=settings.parameters
    )
    with torch.no_grad():
        for parameter in head.parameters():  # queries start at zero, where some gradients vanish
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return head.double()


def of_two_blocks(kind: type[gan.GanSettings] = gan.GanSettings, **settings) -> gan.GanSettings:
    return kind(blocks=(1, 2), parameters=2000, **settings)


def with_head(name: str, **settings) -> DMD:
    return DMD(discriminator=name, gan=of_two_blocks(**settings))


CASES = {
    "cross_entropy": CrossEntropy(),
    "flow_matching": FlowMatching(),
    "meanflow": MeanFlow(),
    # 1 row of 10 with r = t: most ranks have none
    "meanflow_uneven": MeanFlow(prob_r_equals_t=0.1),
    "consistency": Consistency(),
    "dmd": DMD(),
    "patch": with_head("patch"),
    "pooled_hinge_r1": with_head("pooled", loss="hinge", r1_weight=0.5),
    "awd_logit_fake": with_head("awd_logit", feature_network="fake", r1_weight=0.5),
    "knowledge": Knowledge(),
    "reflow": Reflow(),
    "progressive": Progressive(start_steps=4),
    "scm": SCM(),
    "shortcut_uneven": Shortcut(finest=8, consistency_share=0.1),
    "improved_meanflow_uneven": ImprovedMeanFlow(prob_r_equals_t=0.9, prob_t_equals_1=0.0),
    "regularised": DMD(regulariser=MeanFlow(prob_r_equals_t=0.1)),
    "dmd2": DMD2(gan=of_two_blocks(gan.OnFake), generator_steps=2, fake_steps_per_generator_step=1),
    "decoupled_dmd": DecoupledDMD(),
    "sid": SiD(alpha=1.2),
    "f_distill": FDistill(gan=of_two_blocks(f_distill.Gan)),
    "ladd": LADD(gan=of_two_blocks(gan.HingeOnTeacher)),
    "adm": ADM(gan=of_two_blocks(adm.Gan)),
    "guided_fake": VSD(guidance=(0.5, 4.0), fake_guidance="teacher", label_dropout=0.3),
    "pretraining": AdversarialPretraining(gan=of_two_blocks(gan.HingeOnTeacher)),
    "flash_dmd": FlashDMD(gan=of_two_blocks(), generator_steps=2),
    "pool": LADD(
        discriminator="patch",
        gan=of_two_blocks(gan.HingeOnTeacher, heads=2, judging=1, refresh=0.5),
    ),
    "frechet_loss": FrechetLoss(blocks=(1, 2)),
    "fsf_dmd": FakeScoreFree(),
    "low_rank": DMD(),
    "frozen": MeanFlow(prob_r_equals_t=0.1),
}
TRAINABLE = {
    "low_rank": {"student": Trainable(rank=2), "fake": Trainable(rank=2)},
    "frozen": {"student": Trainable(freeze=("blocks.*.proj.*", "blocks.*.feed_forward.*"))},
}
SHARDED = (
    "flow_matching",
    "meanflow_uneven",
    "dmd",
    "awd_logit_fake",  # slower: every block is gathered for itself
    "progressive",
    "shortcut_uneven",
    "improved_meanflow_uneven",
    "regularised",
    "dmd2",
    "sid",
    "adm",
    "pool",
    "frechet_loss",
    "low_rank",
)


def trainer_of(case: str, sharding: str = "none", steps: int = STEPS) -> Trainer:
    objective, teacher = CASES[case], network(False, 0).requires_grad_(False)
    student = network(objective.role == "student", 1)
    if objective.role == "classifier":
        torch.manual_seed(1)
        student = Classifier(
            ClassifierConfig(width=4, features=8), image_size=8, channels=1, attributes=(3,)
        ).double()
    problem = Problem(
        student=student,
        learning_rate=1e-2,
        teacher=teacher,
        teacher_velocity=guided(teacher, 1.5),
        copy_teacher=lambda: network(False, 2),
        head=a_head,
        pairs=(
            *torch.randn(2, 12, 1, 8, 8, generator=torch.Generator().manual_seed(3)),
            torch.arange(12) % 3,
        ),
    )
    training = Training(
        objective=objective,
        steps=steps,
        batch=10,
        learning_rate=1e-2,
        ema=0.9,
        clip=0.5,
        trainable=TRAINABLE.get(case, {}),
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(20, 1, 8, 8, generator=generator, dtype=torch.float64) * 2 - 1
    updates = restricted_updates(training, problem, (0, case))
    return Trainer(updates, training, student, (0, case), images, torch.arange(20) % 3, sharding)


def train_cases(folder: Path, sharding: str, cases=tuple(CASES)) -> None:
    """Train each case and write rank 0's whole state, and what every rank logged."""
    real = transformer.timestep_embedding
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer, "timestep_embedding", lambda *a, **k: real(*a, **k).double())
        torch.set_default_dtype(torch.float64)
        try:
            for case in cases:
                trainer = trainer_of(case, sharding)
                for _ in range(STEPS):
                    trainer.train_step()
                trainer.check_replicas()
                state = trainer.state()
                if distributed.rank() == 0:
                    torch.save(state, folder / f"{case}.pt")
                (folder / f"{case}-{distributed.rank()}.json").write_text(
                    json.dumps(trainer.history)
                )
        finally:
            torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """Every case on one process."""
    folder = tmp_path_factory.mktemp("alone")
    train_cases(folder, "none")
    return folder


def assert_same(folder: Path, alone: Path, world_size: int, cases=tuple(CASES)) -> None:
    """Weights, averages, moments and every logged scalar to 1e-9; scalars alike on all ranks."""
    for case in cases:
        states = [torch.load(path / f"{case}.pt") for path in (folder, alone)]
        assert states[0].keys() == states[1].keys()
        for key, value in states[0].items():
            close = 1e-6 if key.endswith("accuracy") else 1e-9  # a count in single precision
            said = partial("{} {}: {}".format, case, key)
            torch.testing.assert_close(value, states[1][key], rtol=close, atol=close, msg=said)
        logged = {(folder / f"{case}-{rank}.json").read_text() for rank in range(world_size)}
        assert len(logged) == 1, case


@pytest.mark.parametrize(("world_size", "sharding"), [(2, "none"), (3, "none"), (3, "fsdp2")])
def test_ranks_are_one_process(alone, tmp_path, world_size, sharding):
    cases = SHARDED if sharding == "fsdp2" else tuple(CASES)
    ranks = fork(
        tmp_path, world_size, lambda: connected(lambda: train_cases(tmp_path, sharding, cases))
    )
    assert ranks.wait() == [0] * world_size, ranks.said()
    assert_same(tmp_path, alone, world_size, cases)


def not_averaged(tensors, share, average=distributed.average_) -> None:
    """The scalars alone."""
    average(tensors[:1], share)


def test_without_averaged_gradients_the_numbers_differ(alone, tmp_path):
    """The comparison sees a mistake in the JVP's step, and in head, fake score and generator."""

    def job():
        distributed.average_ = not_averaged
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "check_replicas", lambda self: None)
            train_cases(tmp_path, "none", ("meanflow", "pooled_hinge_r1"))

    assert fork(tmp_path, 2, lambda: connected(job)).wait() == [0, 0]
    for case in ("meanflow", "pooled_hinge_r1"):
        with pytest.raises(AssertionError, match=case):
            assert_same(tmp_path, alone, 2, (case,))


def test_replicas_that_differ_are_found(tmp_path):
    def job():
        trainer = trainer_of("cross_entropy")
        trainer.check_replicas()
        with torch.no_grad():
            next(trainer.student.parameters())[0] += 1e-9 * distributed.rank()
        with pytest.raises(Divergence, match="at step 0 of 3 the ranks hold different weights"):
            trainer.check_replicas()

    assert fork(tmp_path, 2, lambda: connected(job)).wait() == [0, 0]


def test_collectives_by_hand(tmp_path):
    def job():
        rank = distributed.rank()
        mine = [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]]), torch.tensor(4.0)][rank]
        assert distributed.global_mean(mine).item() == 2.5
        assert distributed.share_of_batch(rank + 1) == (rank + 1) / 6
        assert distributed.any_of(rank == 2, False, rank < 5) == [True, False, True]
        assert distributed.all_equal(5) and not distributed.all_equal(rank)
        assert distributed.gather(rank) == [0, 1, 2]
        whole = distributed.concatenate(
            torch.full((rank * 2, 3), rank, dtype=torch.uint8), [0, 2, 4]
        )
        assert rank or whole[:, 0].tolist() == [1, 1, 2, 2, 2, 2]
        distributed.BUCKET = 3  # several buckets, one of them a tensor that is larger
        tensors = [torch.full((n,), float(rank + 1)) for n in (1, 2, 5, 1)]
        distributed.average_(tensors, 0.5 if rank else 0.0)
        assert [tensor.tolist() for tensor in tensors] == [[2.5], [2.5] * 2, [2.5] * 5, [2.5]]

        def fails():
            raise UserError(f"of rank {rank}") if rank else LostRank("not this")

        with pytest.raises(UserError, match="of rank 1") as error:
            distributed.call_on_all_ranks(lambda: fails() if rank else None)
        assert error.value.agreed
        assert distributed.from_rank_0(lambda: {"rank": rank}) == {"rank": 0}

    ranks = fork(tmp_path, 3, lambda: connected(job))
    assert ranks.wait() == [0, 0, 0], ranks.said()


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda *a, **k: pytest.fail("a group was made")
    )
    for name, value in {"RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    x = torch.arange(5.0)
    with distributed.ranks(torch.device("cpu")):
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        assert (
            torch.equal(distributed.global_mean(x), x.mean())
            and distributed.share_of_batch(3) == 1.0
        )
        assert distributed.any_of(True, False) == [True, False] and distributed.gather("a") == ["a"]
        assert (
            distributed.concatenate(x, [5]) is x
            and distributed.from_rank_0(lambda: 7) == 7
            and distributed.all_equal(3)
        )


# stages: stop, resume, sample

TEACHER_STEPS = 80
LENGTH = {"teacher.training.steps": TEACHER_STEPS, "teacher.training.batch": 10}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Plan, Path]:
    """A teacher and two students, made by one process without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    plan = tiny_plan(folder, LENGTH)
    for arm in ("td", "cd"):
        run_until(plan, folder, stage_of(plan, "trajectory", arm))
    return plan, folder


def started(
    whole, results: Path, world_size: int, *more: str, checkpoint_seconds: int = 1000
) -> tuple[Ranks, str]:
    """The teacher's stage on that many ranks, with its parent there."""
    plan, folder = whole
    stage_id = stage_of(plan, "teacher", "td")
    for parent in plan.stages[stage_id].parents.values():
        shutil.copytree(
            artifact.folder(folder, parent), artifact.folder(results, parent), dirs_exist_ok=True
        )
    job = command(
        "teacher",
        write_suite(results, LENGTH),
        results,
        "--id",
        stage_id,
        "--checkpoint-seconds",
        str(checkpoint_seconds),
        *more,
    )
    return fork(results, world_size, job), stage_id


def header(whole, results: Path, stage_id: str) -> dict[str, str]:
    """Of the checkpoint; step 0 if there is none."""
    path = artifact.Work(results, whole[0].stages[stage_id]).path / CHECKPOINT
    if not path.exists():
        return {"step": "0"}
    with safe_open(path, "pt") as file:
        return file.metadata()


def wait_for_step(step: int, whole, results: Path, stage_id: str) -> None:
    end = time.monotonic() + 60
    while int(header(whole, results, stage_id)["step"]) < step:
        assert time.monotonic() < end, f"no checkpoint of step {step} came"
        time.sleep(0.002)


def assert_finished(whole, results: Path, stage_id: str, ranks: Ranks) -> None:
    """It ended well, with the numbers of one process.

    Weights may differ by what AdamW makes of gradients that are zero but for rounding.
    """
    assert ranks.wait() == [0] * len(ranks.pids), ranks.said()
    path, manifest = artifact.load(results, stage_id)
    other, _ = artifact.load(whole[1], stage_id)
    assert manifest["ranks"] == len(ranks.pids)
    found, expected = (
        np.loadtxt(where / "history.csv", delimiter=",", skiprows=1) for where in (path, other)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    weights = [load_file(where / "weights.safetensors") for where in (path, other)]
    found, expected = (
        torch.cat([value.flatten() for _, value in sorted(tensors.items())]) for tensors in weights
    )
    assert (found - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize(
    ("first", "second", "sharding"), [(3, 2, "none"), (2, 1, "fsdp2"), (1, 2, "fsdp2")]
)
def test_a_signal_to_one_rank_stops_all_at_one_step_and_another_number_goes_on(
    whole, tmp_path, first, second, sharding
):
    ranks, stage_id = started(whole, tmp_path, first, "--sharding", sharding, checkpoint_seconds=0)
    wait_for_step(5, whole, tmp_path, stage_id)
    os.kill(ranks.pids[-1], signal.SIGTERM)
    assert ranks.wait() == [130] * first, ranks.said()
    step = int(header(whole, tmp_path, stage_id)["step"])
    assert 5 <= step < TEACHER_STEPS
    lines, *silent = ranks.said()
    assert lines[-1].startswith("hdbench: teacher ")
    assert lines[-1].endswith(
        f": stopped at step {step} of {TEACHER_STEPS}; the same command goes on from there"
    )
    assert not any(silent)
    spent = json.loads(header(whole, tmp_path, stage_id)["spent"])
    assert spent["ranks"] == first and spent["core_seconds"] > 0
    ranks, _ = started(whole, tmp_path, second, "--sharding", sharding)
    assert_finished(whole, tmp_path, stage_id, ranks)
    assert artifact.load(tmp_path, stage_id)[1]["core_seconds"] > spent["core_seconds"]


@pytest.mark.parametrize("dies", [0, 1])
def test_when_a_rank_is_killed_the_others_end_and_the_stage_resumes(whole, tmp_path, dies):
    ranks, stage_id = started(whole, tmp_path, 2, checkpoint_seconds=0)
    wait_for_step(5, whole, tmp_path, stage_id)
    os.kill(ranks.pids[dies], signal.SIGKILL)
    codes = ranks.wait()
    assert (codes[dies], codes[1 - dies]) == (-signal.SIGKILL, 75), ranks.said()
    (line,) = ranks.said()[1 - dies]
    assert line.startswith(f"hdbench: rank {1 - dies}: the connection to another rank broke (")
    assert line.endswith("; the same command goes on from the last checkpoint")
    again, straight = started(whole, tmp_path, 2)[0], tmp_path / "straight"
    assert_finished(whole, tmp_path, stage_id, again)
    straight.mkdir()
    assert_finished(whole, straight, stage_id, started(whole, straight, 2)[0])
    payloads = [artifact.load(results, stage_id)[1]["payload"] for results in (tmp_path, straight)]
    assert payloads[0] == payloads[1]  # of as many ranks: the same bytes


def test_samples_are_the_same_bytes_for_any_number_of_ranks(whole, tmp_path):
    """64 images in batches of 10: 7 batches over 2 and 3 ranks, and one batch for both."""
    _, folder = whole
    payloads = {}
    for world_size, batch in ((1, 10), (2, 10), (3, 10), (2, 256)):
        suite = write_suite(tmp_path, LENGTH | {"evaluation.batch": batch})
        plan = load_plan(str(suite))
        rows = {
            arm: next(row for row in plan.rows if row.arm == arm and row.steps == 2)
            for arm in ("td", "cd")
        }
        results = tmp_path / f"{world_size}-{batch}"
        shutil.copytree(folder / "stages", results / "stages")

        def job(suite=suite, results=results, rows=rows):
            for row in rows.values():
                try:
                    command("sample", suite, results, "--id", row.stages["sample"])()
                except SystemExit as end:
                    assert not end.code
                os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)

        ranks = fork(tmp_path, world_size, job)
        assert ranks.wait() == [0] * world_size, ranks.said()
        for arm, row in rows.items():
            path, manifest = artifact.load(results, row.stages["sample"])
            with np.load(path / "samples.npz") as file:
                payloads[world_size, batch, arm] = {name: file[name] for name in file.files}
            assert manifest["ranks"] == world_size and manifest["milliseconds_per_sample"] > 0
    for (_, batch, arm), arrays in payloads.items():
        for name, expected in payloads[1, 10, arm].items():
            assert len(expected) == 64
            if batch == 10:
                np.testing.assert_array_equal(arrays[name], expected)
            else:  # another batch may round a grey level otherwise
                assert np.abs(arrays[name].astype(int) - expected).max() <= 1


def test_what_one_rank_computes_the_others_do_not_wait_for(tmp_path, monkeypatch):
    monkeypatch.setitem(
        stages.STAGES,
        "data",
        lambda context, data=stages.STAGES["data"]: (
            time.sleep(2 * (distributed.rank() == 0)) or data(context)
        ),
    )
    ranks = fork(tmp_path, 2, command("data", write_suite(tmp_path), tmp_path))
    time.sleep(0.2)
    end = time.monotonic() + 1.5
    while os.waitpid(ranks.pids[1], os.WNOHANG)[0] == 0:
        assert time.monotonic() < end, "rank 1 waits"
        time.sleep(0.01)
    ranks.pids.pop()
    assert ranks.wait() == [0]
    assert artifact.load(tmp_path, next(iter(tiny_plan(tmp_path).stages)))[1]["ranks"] == 1


# mistakes


def test_an_error_of_rank_0_ends_all_ranks_alike_and_is_said_once(tmp_path):
    suite = write_suite(tmp_path)
    ranks = fork(tmp_path, 3, command("teacher", suite, tmp_path))
    assert ranks.wait() == [2, 2, 2]
    (line,), *silent = ranks.said()
    assert "this artifact does not exist yet" in line and silent == [[], []]


def test_a_batch_has_a_row_for_every_rank(whole, tmp_path):
    plan, folder = whole
    shutil.copytree(folder / "stages", tmp_path / "stages")
    suite = write_suite(tmp_path, LENGTH | {"base.refine.batch": 2})
    ranks = fork(tmp_path, 3, command("refine", suite, tmp_path, "--arm", "hd"))
    assert ranks.wait() == [2, 2, 2]
    (line,), *silent = ranks.said()
    assert line.endswith(
        "its batch of 2 cannot be split over 3 processes; start at most 2"
    ) and silent == [[], []]


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        (
            {"WORLD_SIZE": "2"},
            "RANK is not set, though WORLD_SIZE is: several processes need RANK, "
            "WORLD_SIZE, MASTER_ADDR and MASTER_PORT, one process none of them",
        ),
        (
            {"RANK": "0"},
            "WORLD_SIZE is not set, though RANK is: several processes need RANK, "
            "WORLD_SIZE, MASTER_ADDR and MASTER_PORT, one process none of them",
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"},
            "MASTER_PORT is not set, though RANK is: several processes need RANK, "
            "WORLD_SIZE, MASTER_ADDR and MASTER_PORT, one process none of them",
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"},
            "MASTER_ADDR is not set, though WORLD_SIZE = 2: it is the host of rank 0",
        ),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK = 2: must be an integer, 0 to 1"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK = one: must be an integer, 0 to 1"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE = 0: must be an integer, at least 1"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "-1"},
            "LOCAL_RANK = -1: must be an integer, at least 0",
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "70000"},
            "MASTER_PORT = 70000: must be an integer, 1 to 65535",
        ),
    ],
)
def test_an_environment_of_half_a_launcher_is_refused(environment, sentence):
    with pytest.raises(UserError) as error:
        distributed.place(environment)
    assert str(error.value) == sentence and error.value.alone


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, (0, 1, 0)),
        ({"MASTER_ADDR": "x"}, (0, 1, 0)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1, 0)),
        (
            {
                "RANK": "3",
                "WORLD_SIZE": "4",
                "LOCAL_RANK": "1",
                "MASTER_ADDR": "x",
                "MASTER_PORT": "29500",
            },
            (3, 4, 1),
        ),
    ],
)
def test_the_launchers_environment_is_read(environment, place):
    assert distributed.place(environment) == place


def test_ranks_that_do_not_meet_say_so(tmp_path):
    """One of two comes: be it rank 0 or 1, it does not wait for ever, and says which it is."""
    job, port = command("data", write_suite(tmp_path), tmp_path), free_ports()[0]
    for rank in ("0", "1"):
        ranks = fork(
            tmp_path,
            1,
            job,
            RANK=rank,
            WORLD_SIZE="2",
            MASTER_PORT=str(port),
            HDBENCH_MEETING_SECONDS="1",
        )
        assert ranks.wait(20) == [75], ranks.said()
        line = ranks.said()[0][-1]
        assert line.startswith(
            f"hdbench: rank {rank}: 2 ranks did not meet at 127.0.0.1:{port} within 1 seconds ("
        )
        assert line.endswith("); start them all with one WORLD_SIZE, MASTER_ADDR and MASTER_PORT")


def test_torchrun_starts_a_stage(tmp_path):
    """The whole way: launcher, command, artifact."""
    suite, plan = write_suite(tmp_path), tiny_plan(tmp_path)
    run_until(plan, tmp_path, next(iter(plan.stages)))
    arguments = ["stage", "classifier", "--suite", str(suite), "--results", str(tmp_path)]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "hdbench",
    ]
    result = subprocess.run(
        [*launcher, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    manifest = artifact.load(
        tmp_path, next(stage for stage in plan.stages if stage.startswith("classifier/"))
    )[1]
    assert manifest["ranks"] == 2 and manifest["peak_memory_bytes"] > 2 * 50e6
