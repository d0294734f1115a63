"""The command line is frozen: a name that changes here breaks somebody's script."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hdbench import stages
from hdbench.cli import main
from hdbench.cli.group import SECTIONS
from hdbench.core import runtime
from hdbench.core.errors import UserError
from hdbench.evaluation.request import by_protocol, by_role
from hdbench.stages import artifact
from hdbench.stages.run import label_of
from hdbench.suite.plan import Plan, find_stage
from hdbench.suite.schema import Checkpoint, Evaluation
from hdbench.suite.stage import KINDS, ProtocolStage, outside_paths
from tests.support.tiny import REPOSITORY, run_until, stage_of, tiny_plan, write_suite

STAGE_OPTIONS = {
    "--id",
    "--arm",
    "--seed",
    "--steps",
    "--suite",
    "--results",
    "--threads",
    "--device",
    "--checkpoint-seconds",
    "--sharding",
    "--again",
    "--teachers",
}
EVALUATION_OPTIONS = {
    "--array",
    "--layout",
    "--weights",
    "--resolution",
    "--allow",
    "--cache",
    "--batch",
    "--threads",
    "--device",
    "--rank",
    "--world-size",
    "--wait-seconds",
}
COMMANDS = {
    "stage": set(),
    **{f"stage {kind}": STAGE_OPTIONS for kind in KINDS},
    "collect": {"--partial", "--keep", "--suite", "--results"},
    "tables": {"--metrics", "--release", "--suite", "--results", "--out"},
    "claims": {
        "--metrics",
        "--theory",
        "--flops",
        "--rules",
        "--prereg",
        "--suite",
        "--results",
        "--out",
    },
    "preregister": {"--claim", "--seeds", "--cap", "--metric", "--rules", "--out", "--suite"},
    "theory": {"--config", "--threads", "--results", "--out", "--pdf"},
    "flops": {"--config", "--results", "--out"},
    "probes": {"--config", "--threads", "--results", "--out", "--pdf"},
    "tuned": {"--suite", "--metrics", "--results"},
    "prose": {"documents", "--out"},
    "init": {"folder"},
    "run": {"--cores", "--suite", "--results", "--verbose"},
    "ship": {"--seed", "--suite", "--results", "--out"},
    "export": {"--arm", "--seed", "--suite", "--results", "--out"},
    "figures": {"--metrics", "--suite", "--results", "--out", "--pdf"},
    "show": {"--suite", "--results", "--out"},
    "published": {"--benchmark", "--metrics", "--numbers", "--without-remembered", "--out"},
    "plan": {"--suite", "--results"},
    "publish": {"--experiment", "--suite", "--results", "--out"},
    "arm": {"name"} | STAGE_OPTIONS - {"--id", "--arm", "--steps"},
    "compare": {"a", "b", "--in", "--metric", "--all", "--out", "--fail-if-moved"},
    "cost": {"--suite", "--results", "--out", "--config", "--gpu", "--gpus", "--memory"},
    "rehearse": {"--suite", "--results", "--config", "--gpu", "--jobs"},
    "latency": {"--suite", "--results", "--rounds", "--device", "--threads"},
    "doctor": {"--suite", "--results", "--config", "--device", "--verify", "--fix-list"},
    "submit": {"--arm", "--title", "--settings-tried", "--suite", "--results", "--out"},
    "validate": {"bundle"},
    "leaderboard": {
        *("bundles", "--metrics", "--without-reference", "--suite", "--results", "--out")
    },
    "tensorboard": {"--suite", "--results", "--watch", "--out"},
    "status": {"--suite", "--results", "--watch", "--cores"},
    "evaluate": EVALUATION_OPTIONS
    | {
        "--samples",
        "--protocol",
        "--reference",
        "--prompts",
        "--n",
        "--kid-subset-size",
        "--name",
        "--intervals",
        "--no-intervals",
        "--out",
        "--table",
    },
    "reference": EVALUATION_OPTIONS | {"--source", "--dataset", "--protocol", "--out"},
    "import": {"benchmark", "scores", "--name", "--partial", "--out"},
    "verify": {"tables", "--suite", "--rerun", "--seed", "--release", "--threads", "--device"},
}

for _name in (
    *("prose", "ship", "tuned", "preregister"),
    *("evaluate", "import", "collect", "tables", "claims", "figures", "published", "compare"),
    *("publish", "theory", "flops", "probes", "export", "latency", "submit", "leaderboard"),
):
    COMMANDS[_name] |= {"--force"}


@pytest.fixture(autouse=True)
def leaves_this_process_alone(monkeypatch):
    """A command sets threads and determinism for its process, which here is that of all tests."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(runtime, "set_up", lambda threads, device: torch.device(device))


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    return tiny_plan(tmp_path_factory.mktemp("plan"), {"seeds": [0, 4]})


def invoke(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_commands_and_options_are_these():
    stages = {f"stage {kind}": command for kind, command in main.commands["stage"].commands.items()}
    found = {
        name: {text for option in command.params for text in (*option.opts, *option.secondary_opts)}
        for name, command in (main.commands | stages).items()
    }
    assert found == COMMANDS


def test_defaults_are_those_of_the_demo():
    defaults = {
        option.name: option.default for option in main.commands["stage"].commands["refine"].params
    }
    assert {
        key: defaults[key] for key in ("suite", "results", "threads", "device", "sharding")
    } == {
        "suite": "demo",
        "results": Path("results"),
        "threads": 1,
        "device": "cpu",
        "sharding": "none",
    }


@pytest.mark.parametrize("command", [(), *[tuple(name.split()) for name in COMMANDS]])
def test_help_says_what_each_command_and_option_is_for(command):
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    target = functools.reduce(lambda group, name: group.commands[name], command, main)
    assert " ".join(target.help.split()) in " ".join(result.output.split())
    for option in target.params:
        assert (
            option.opts[0].upper() if isinstance(option, click.Argument) else option.opts[0]
        ) in result.output


def test_the_first_help_has_every_command_once_with_its_whole_sentence():
    assert set(sum(SECTIONS.values(), ())) <= set(main.commands)
    text = " ".join(invoke("--help").output.split())
    for name, command in main.commands.items():
        sentence = " ".join(command.help.split("\n\n")[0].split()).removesuffix(".")
        assert text.count(f" {name} {sentence}") == 1


def test_examples_of_the_help_are_commands_with_their_options():
    lines = [
        line.partition("#")[0]
        for command in (main, *main.commands.values())
        for line in (command.epilog or "").splitlines()
    ]
    examples = [shlex.split(line)[1:] for line in lines if line.strip().startswith("hdbench ")]
    assert len(examples) > 15
    for words in examples:
        if "--help" in words:
            assert words[0] in main.commands
            continue
        command = main
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        command.make_context("hdbench", words)  # UsageError for what is not an option of it


def test_plan_lists_stages_and_costs(plan, tmp_path):
    suite = write_suite(tmp_path, {"seeds": [0, 4]})
    run_until(plan, tmp_path, next(iter(plan.stages)))
    result = invoke("plan", "--suite", suite, "--results", tmp_path)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    listed = dict(line.split(maxsplit=1) for line in lines[: len(plan.stages)])
    first = next(iter(plan.stages))
    assert listed.keys() == plan.stages.keys()
    assert all(("  done   " in line) == (stage == first) for stage, line in listed.items())
    assert listed[stage_of(plan, "refine", "hd_patch")].endswith("  to do  hd_patch")
    assert f"1 of {len(plan.stages)} stages done" in lines
    costs = {line.split()[0]: line.split()[1] for line in lines[-len(plan.arms) :]}
    assert costs.keys() == plan.arms.keys()
    assert costs["real_train"] == "-" and costs["teacher"] == "0"
    passes = 2 + 1 + 1 + 2  # guided teacher, target, student and its backward
    assert costs["cd"] == f"{passes * 10 * 16:,}"


@pytest.mark.parametrize(
    ("arguments", "arm", "seed", "steps"),
    [
        (("teacher", None, None, None), "td", 0, 1),
        (("teacher", "hd", 4, None), "hd", 4, 1),
        (("trajectory", "cd", None, None), "cd", 0, 1),
        (("refine", "hd_patch", 4, None), "hd_patch", 4, 1),
        (("sample", "td", None, None), "td", 0, 1),
        (("sample", "td", None, 2), "td", 0, 2),
        (("evaluate", "teacher", 4, 4), "teacher", 4, 4),
        (("evaluate", "real_test", 4, None), "real_test", 4, 0),
    ],
)
def test_a_stage_is_found_by_arm_seed_and_steps(plan, arguments, arm, seed, steps):
    row = next(row for row in plan.rows if (row.arm, row.seed, row.steps) == (arm, seed, steps))
    assert find_stage(plan, *arguments).id == row.stages[arguments[0]]


@pytest.mark.parametrize("kind", ["data", "classifier", "reference"])
def test_a_shared_stage_needs_no_arm(plan, kind):
    assert find_stage(plan, kind, None, None, None).kind == kind


def test_a_shared_stage_is_of_the_seeds_chain(tmp_path):
    """Further seeds of stage 2 have their chain's; planted changes are of the first alone."""
    changes = {"seeds": [0, 4], "stage2_seeds": {"4": [9]}, "evaluation.sensitivity": 32}
    plan = tiny_plan(tmp_path, changes)
    for seed, chain in ((None, 0), (0, 0), (4, 4), (9, 4)):
        assert find_stage(plan, "data", None, seed, None).config.dataset.seed == chain
        assert find_stage(plan, "classifier", None, seed, None).config.seed == chain
    assert find_stage(plan, "sensitivity", None, 0, None).kind == "sensitivity"
    with pytest.raises(UserError, match="has no sensitivity stage of seed 4"):
        find_stage(plan, "sensitivity", None, 4, None)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("refine", "hd_pach", None, None),
            "--arm = 'hd_pach': unknown arm; did you mean 'hd_patch'?",
        ),
        (("refine", "hd", 1, None), "--seed = 1: suite tiny has the seeds 0, 4"),
        (("data", None, 1, None), "--seed = 1: suite tiny has the seeds 0, 4"),
        (
            ("clip", None, None, None),
            "suite tiny has no clip stage of seed 0; `hdbench plan` lists its stages",
        ),
        (("sample", "td", None, 3), "--steps = 3: arm td samples with 1, 2 steps"),
        (
            ("refine", "td", None, None),
            "arm td has no refine stage; its stages are teacher, trajectory, sample, evaluate",
        ),
        (
            ("refine", None, None, None),
            "say which stage: --arm NAME or --id ID; arms of tiny: real_train, real_test, "
            "teacher, td, cd, hd, hd_patch, hd_awd_logit, dmd, dmd_total",
        ),
    ],
)
def test_a_stage_that_is_not_there(plan, tmp_path, arguments, sentence):
    with pytest.raises(UserError) as error:
        find_stage(plan, *arguments)
    assert str(error.value) == sentence
    kind, *values = arguments
    options = [
        text
        for name, value in zip(("--arm", "--seed", "--steps"), values, strict=True)
        if value is not None
        for text in (name, value)
    ]
    suite, results = write_suite(tmp_path, {"seeds": [0, 4]}), tmp_path / "results"
    result = invoke("stage", kind, "--suite", suite, "--results", results, *options)
    assert (result.exit_code, result.output) == (2, f"hdbench: {sentence}\n")
    assert not results.exists()


def test_a_wrong_stage_id(plan, tmp_path):
    suite, refine = write_suite(tmp_path, {"seeds": [0, 4]}), stage_of(plan, "refine", "hd")
    wrong = invoke(
        "stage", "refine", "--suite", suite, "--results", tmp_path, "--id", f"{refine[:-1]}x"
    )
    assert wrong.exit_code == 2
    assert (
        wrong.output
        == f"hdbench: suite tiny has no stage {refine[:-1]}x; did you mean '{refine}'?\n"
    )
    other = invoke("stage", "trajectory", "--suite", suite, "--results", tmp_path, "--id", refine)
    assert other.exit_code == 2
    assert other.output == f"hdbench: --id = {refine}: that is of `hdbench stage refine`\n"


def test_arm_and_stage_are_two_names_of_one_result(plan, tmp_path):
    suite, stage = write_suite(tmp_path, {"seeds": [0, 4]}), stage_of(plan, "teacher", "td", seed=4)
    for results, which in (
        ("by_stage", ["--id", stage]),
        ("by_arm", ["--arm", "td", "--seed", "4"]),
    ):
        run_until(plan, tmp_path / results, plan.stage(stage).parents["data"])
        assert (
            invoke(
                "stage", "teacher", "--suite", suite, "--results", tmp_path / results, *which
            ).exit_code
            == 0
        )
    payloads = [
        artifact.load(tmp_path / results, stage)[1]["payload"] for results in ("by_stage", "by_arm")
    ]
    assert payloads[0] == payloads[1]


def test_progress_names_the_stage_and_whose_it_is(plan):
    def label(stage_id: str) -> str:
        return label_of(plan.stages[stage_id], plan.arms_of(stage_id))

    refine = label(stage_of(plan, "refine", "hd_patch"))
    assert refine == "refine dmd-patch-meanflow-s0 [hd_patch]"
    assert label(stage_of(plan, "trajectory", "td")) == "trajectory meanflow-s0 [4 arms]"
    assert label(next(iter(plan.stages))) == "data digits"


@pytest.mark.slow
def test_a_device_that_is_not_there(tmp_path):
    """In a process of its own: this is the whole command, from the shell to the exit code."""
    suite = write_suite(tmp_path)
    command = [
        sys.executable,
        "-m",
        "hdbench",
        "stage",
        "data",
        "--suite",
        str(suite),
        "--results",
        str(tmp_path / "results"),
        "--device",
        "cuda",
    ]
    result = subprocess.run(
        command,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert result.returncode == 2
    assert (
        result.stderr.splitlines()[-1]
        == "hdbench: --device = cuda: no CUDA device is visible; use --device cpu"
    )
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("device", "visible", "found"),
    [
        ("auto", False, "cpu"),
        ("auto", True, "cuda"),
        ("cpu", True, "cpu"),
        ("cuda:1", True, "cuda:1"),
    ],
)
def test_the_device_auto_is_cuda_where_it_is_visible(monkeypatch, device, visible, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert runtime.choose(device) == torch.device(found)


@pytest.mark.parametrize(
    ("device", "problem"),
    [
        ("gpu", "unknown device; use cpu, cuda or auto"),
        ("meta", "unknown device; use cpu, cuda or auto"),
        ("cuda:2", "no such CUDA device is visible; use cuda"),
    ],
)
def test_a_device_that_nothing_runs_on_is_one_sentence(monkeypatch, device, problem):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=f"^--device = {device}: {problem}$"):
        runtime.choose(device)


@pytest.mark.parametrize(
    ("local_rank", "count", "device"), [("1", 4, "cuda:1"), ("3", 1, "cuda:0"), ("4", 4, None)]
)
def test_each_rank_takes_its_own_cuda_device(monkeypatch, local_rank, count, device):
    """SLURM may show each process its one device alone; more processes than devices are wrong."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    for name, value in {
        "RANK": "7",
        "WORLD_SIZE": "8",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "29500",
    }.items():
        monkeypatch.setenv(name, value)
    if device:
        assert runtime.cuda_of_rank(torch.device("cuda")) == torch.device(device)
        with pytest.raises(
            UserError, match="--device = cuda:1: several ranks cannot share a device"
        ):
            runtime.cuda_of_rank(torch.device("cuda:1"))
    else:
        with pytest.raises(UserError, match="LOCAL_RANK = 4: only 4 CUDA devices are visible"):
            runtime.cuda_of_rank(torch.device("cuda"))


@pytest.mark.parametrize(
    "exhaust",
    [
        lambda context: torch.empty(2**48),
        lambda context: np.empty(2**60, dtype=np.uint8),
        lambda context: [0] * 2**58,
        lambda context: (_ for _ in ()).throw(
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        ),
    ],
)
def test_memory_that_runs_out_is_one_sentence_and_the_code_of_a_kill(
    tmp_path, monkeypatch, exhaust
):
    monkeypatch.setitem(stages.STAGES, "data", exhaust)
    result = invoke(
        "stage", "data", "--suite", write_suite(tmp_path), "--results", tmp_path / "results"
    )
    assert result.exit_code == 137
    assert (
        result.output.startswith("hdbench: out of memory at data digits (")
        and result.output.count("\n") == 1
    )
    assert result.output.endswith("); ask for more memory or lower the batch size\n")


@pytest.mark.parametrize("option", ["--rounds", "--threads"])
def test_latencies_need_at_least_one_round_and_thread(option):
    result = invoke("latency", "--suite", "digits", option, 0)
    assert result.exit_code == 2 and f"'{option}': 0 is not in the range x>=1" in result.output


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "-1"])
@pytest.mark.parametrize(
    "words",
    [
        "status --suite digits --watch",
        "stage teacher --suite digits --checkpoint-seconds",
        "evaluate --samples x --protocol cmmd --wait-seconds",
    ],
)
def test_a_time_to_wait_is_a_number_that_a_clock_has(words, value):
    result = invoke(*words.split(), value)
    option = words.split()[-1]
    assert result.exit_code == 2 and f"Invalid value for '{option}'" in result.output


def test_a_rank_left_over_from_another_program_is_said(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    result = invoke("stage", "teacher", "--suite", "digits")
    assert result.exit_code == 2 and "WORLD_SIZE is not set, though RANK is" in result.output


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
    """Of options, also after `=`, and of every field of a suite that is a path of the user's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(REPOSITORY / "workflow/suites/demo.yaml", tmp_path / "mine.yaml")
    runner = CliRunner()
    assert runner.invoke(main, ["plan", "--suite", "~/mine.yaml"]).exit_code == 0
    compared = runner.invoke(main, ["compare", "~/a.csv", "~/b.csv"])
    assert f"{tmp_path}/a.csv: " in compared.output
    assert by_role(["clip=~/w.pt"]) == {"clip": f"{tmp_path}/w.pt"}
    assert by_role(["clip=hf-hub:a/b/c"]) == {"clip": "hf-hub:a/b/c"}
    assert by_protocol(["cmmd"], ["cmmd=~/r", "~/x"])["cmmd"] == tmp_path / "r"
    checkpoint = Checkpoint(format="sit", path="~/it.pt")
    stage = ProtocolStage(protocol="cmmd", weights={"clip": "~/w.pt"}, samples=2)
    assert checkpoint.path == f"{tmp_path}/it.pt"
    assert list(outside_paths(stage)) == [f"{tmp_path}/w.pt"]
    evaluation = Evaluation(samples=2, protocol="cmmd", reference="~/r", weights={"clip": "~/w"})
    assert (evaluation.reference, evaluation.weights) == (
        f"{tmp_path}/r",
        {"clip": f"{tmp_path}/w"},
    )
    assert by_role(["clip=~nobody-of-this-name/w"]) == {"clip": "~nobody-of-this-name/w"}


def test_processes_side_by_side_take_a_gpu_each(monkeypatch, tmp_path):
    """As two stages on a machine with two; a lock goes with its process."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(runtime, "_held", [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [runtime.free_cuda().index for _ in range(2)] == [0, 1]
    with pytest.raises(UserError, match="each of the 2 visible devices has a process; start fewer"):
        runtime.free_cuda()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,4")  # another process's view: 5 is taken
    assert runtime.free_cuda().index == 1
    runtime._held[0].close()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    assert runtime.free_cuda().index == 1
