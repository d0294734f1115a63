"""The executor on processes of this machine, without SLURM: tests/slurm has the real one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from snakemake_executor_plugin_submitit import report, slurm

from tests.support.counting import Workflow

ONCE = {("start", "0"): 1, ("start", "1"): 1, ("end", "0"): 1, ("end", "1"): 1}


def test_jobs_run_once_and_a_second_run_has_nothing_to_do(tmp_path):
    workflow = Workflow(tmp_path, "local", length=3)
    first = workflow.run()
    assert first.returncode == 0, first.stdout
    assert workflow.events() == ONCE
    assert "Nothing to be done" in workflow.run().stdout
    assert workflow.events() == ONCE
    jobs = report.usages(tmp_path / ".snakemake/submitit")
    assert [job.rule for job in jobs] == ["count"] * 2 and not any(job.failed for job in jobs)
    # three steps of a tenth of a second, on one core that mostly sleeps; no time limit was given
    assert all(job.seconds > 0.3 and 0 < job.cores < 1.1 and job.time is None for job in jobs)
    assert all(5 < job.megabytes < 500 for job in jobs)


def test_kill_9_of_the_main_process_loses_and_repeats_nothing(tmp_path):
    """Both jobs end while nobody watches, and are taken as they are; without --unlock."""
    workflow = Workflow(tmp_path, "local", length=1000)
    workflow.kill_while_counting()
    (tmp_path / "length").write_text("30")  # both end at their next step
    workflow.wait(lambda: workflow.events() == ONCE)
    again = workflow.run()
    assert again.returncode == 0, again.stdout
    assert again.stdout.count("Adopted job ") == 2
    assert workflow.events() == ONCE


def test_running_jobs_are_adopted_and_a_second_main_process_is_refused(tmp_path):
    workflow = Workflow(tmp_path, "local", length=1000)
    workflow.kill_while_counting()
    main = workflow.start()
    workflow.wait(lambda: workflow.said().count("Adopted job ") == 2)
    second = workflow.run()
    assert second.returncode == 2
    sentence = "another Snakemake manages the jobs of this folder; wait for it, or stop it"
    assert second.stdout.splitlines()[-1] == f"submitit: {tmp_path}/.snakemake/submitit: {sentence}"
    (tmp_path / "length").write_text("1")
    assert main.wait(60) == 0, workflow.said()
    assert workflow.events() == ONCE


def test_what_ended_before_its_input_changed_is_run_again(tmp_path):
    snakefile = (
        'rule all:\n    input: "out"\n'
        'rule copy:\n    input: "in"\n    output: "out"\n    shell: "echo x >> runs; sleep 2; cp '
        '{input} {output}"\n'
    )
    workflow = Workflow(tmp_path, "local", snakefile=snakefile)
    (tmp_path / "in").write_text("old")
    killed = workflow.start()
    workflow.wait((tmp_path / "runs").exists)
    killed.kill()
    killed.wait()
    workflow.wait((tmp_path / "out").exists)
    workflow.wait(lambda: list(tmp_path.glob(".snakemake/submitit/copy/*/1/outcome-0.json")))
    (tmp_path / "in").write_text("new")
    assert workflow.run().returncode == 0
    assert (tmp_path / "out").read_text() == "new"
    assert (tmp_path / "runs").read_text() == "x\nx\n"


def test_a_success_that_snakemake_had_no_time_to_note_is_taken_as_it_is(tmp_path):
    """Killed before Snakemake's own record of it, whose marks of incomplete outputs remain."""
    workflow = Workflow(tmp_path, "local", length=1000)
    main = workflow.start()
    workflow.wait(lambda: workflow.state(0) > 2 and workflow.state(1) > 2)
    shutil.copytree(tmp_path / ".snakemake/incomplete", tmp_path / "marks")
    (tmp_path / "length").write_text("1")
    assert main.wait(60) == 0, workflow.said()
    assert list((tmp_path / "marks").iterdir()) and not list(
        (tmp_path / ".snakemake/incomplete").iterdir()
    )
    shutil.copytree(tmp_path / "marks", tmp_path / ".snakemake/incomplete", dirs_exist_ok=True)
    again = workflow.run()
    assert again.returncode == 0, again.stdout
    assert again.stdout.count("Adopted job ") == 2
    assert workflow.events() == ONCE
    # what a user forces is not taken from an earlier run
    assert workflow.run("--forcerun", "count").returncode == 0
    assert workflow.events()["start", "0"] == 2


def test_ctrl_c_stops_the_jobs_which_save_their_state_and_go_on(tmp_path):
    workflow = Workflow(tmp_path, "local", length=1000)
    main = workflow.start()
    workflow.wait(lambda: workflow.state(0) > 2 and workflow.state(1) > 2)
    main.send_signal(signal.SIGINT)
    assert main.wait(60) == 1
    workflow.wait(lambda: workflow.events()["stop", "0"] == workflow.events()["stop", "1"] == 1)
    assert not [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(tmp_path)]
    stopped = workflow.state(0)
    (tmp_path / "length").write_text(str(stopped + 3))
    assert workflow.run().returncode == 0
    assert workflow.events()["start", "0"] == 2 and workflow.events()["end", "0"] == 1


def test_an_error_is_told_with_its_log_and_not_tried_again(tmp_path):
    snakefile = """
rule all:
    input: "out/7"
rule diverge:
    output: "out/{i}"
    params: arm="hd_patch"
    shell: "echo run >> runs; echo before; echo 'loss is nan at step 3' >&2; exit 1"
"""
    workflow = Workflow(tmp_path, "local", snakefile=snakefile)
    result = workflow.run("--retries", "2")
    assert result.returncode == 1
    assert (tmp_path / "runs").read_text() == "run\n"
    (log,) = tmp_path.glob(".snakemake/submitit/diverge/*/1/*_0_log.out")
    job = log.name.split("_")[0]
    said = result.stdout
    assert (
        f"rule diverge (i=7, arm=hd_patch), job {job}: exit code 1: loss is nan at step 3\n" in said
    )
    assert (
        f"log {log.relative_to(tmp_path)} ends with\n    | before\n    | loss is nan at step 3\n"
        in said
    )


def test_lack_of_memory_is_tried_again_as_declared_with_more(tmp_path):
    snakefile = """
rule all:
    input: "out"
rule greedy:
    output: "out"
    resources: mem_mb=lambda wildcards, attempt: 100 * attempt
    shell:
        "echo {resources.mem_mb} >> runs; "
        "[ {resources.mem_mb} -ge 300 ] || exit 137; touch {output}"
"""
    workflow = Workflow(tmp_path, "local", snakefile=snakefile)
    result = workflow.run("--retries", "2")
    assert result.returncode == 0, result.stdout
    assert (tmp_path / "runs").read_text().split() == ["100", "200", "300"]
    assert "out of memory (tries left: 2)" in result.stdout


def test_tasks_of_a_job_know_each_other_and_the_first_failure_counts(tmp_path):
    snakefile = """
rule all:
    input: "out/good", "out/bad"
rule ranks:
    output: "out/{how}"
    resources: tasks_per_node=2
    shell:
        "echo $RANK/$WORLD_SIZE/$LOCAL_RANK/$MASTER_ADDR/$MASTER_PORT >> {wildcards.how};"
        "if [ $RANK = 1 ]; then sleep 1; "
        "[ {wildcards.how} = good ] || {{ echo rank 1 has failed; exit 5; }};"
        "else touch {output}; fi"
"""
    workflow = Workflow(tmp_path, "local", snakefile=snakefile)
    result = workflow.run("--keep-going")
    assert result.returncode == 1
    ranks = sorted((tmp_path / "good").read_text().split())
    assert len(ranks) == 2 and len({rank.rsplit("/", 1)[1] for rank in ranks}) == 1
    assert [rank.split("/")[:3] for rank in ranks] == [["0", "2", "0"], ["1", "2", "1"]]
    assert (tmp_path / "out/good").exists() and not (tmp_path / "out/bad").exists()
    assert (
        "rule ranks (how=bad), job " in result.stdout
        and "exit code 5: rank 1 has failed\n" in result.stdout
    )


def test_what_is_not_a_plain_shell_rule_runs_through_snakemake_and_in_place(tmp_path):
    snakefile = (
        'rule all:\n    input: "out"\n'
        'rule written_in_python:\n    output: "out"\n    run:\n        open(output[0], '
        '"w").write("python")\n'
    )
    for cluster in ("local", "debug"):
        workflow = Workflow(tmp_path, cluster, snakefile=snakefile)
        result = workflow.run()
        assert result.returncode == 0, result.stdout
        assert (tmp_path / "out").read_text() == "python"
        (tmp_path / "out").unlink()


def test_a_group_is_one_job(tmp_path):
    snakefile = (
        'rule all:\n    input: "b"\n'
        'rule a:\n    output: "a"\n    group: "both"\n    shell: "touch {output}"\n'
        'rule b:\n    input: "a"\n    output: "b"\n    group: "both"\n    shell: "cp {input} '
        '{output}"\n'
    )
    result = Workflow(tmp_path, "local", snakefile=snakefile).run()
    assert result.returncode == 0, result.stdout
    assert (tmp_path / "b").exists()
    assert len(list(tmp_path.glob(".snakemake/submitit/*/*/*/record.json"))) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--submitit-cluster", "slrum"),
            "--submitit-cluster = slrum: unknown; use slurm, local, debug",
        ),
        (
            ("--submitit-folder", "length/x"),
            "length/x: cannot be written (Not a directory); choose another --submitit-folder",
        ),
        (
            ("--submitit-cluster", "slurm"),
            "SLURM is not on this machine (sbatch, squeue, scontrol, scancel, sinfo, srun not "
            "found)",
        ),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_submitted(tmp_path, arguments, sentence):
    workflow = Workflow(tmp_path, "local")
    workflow.environment["PATH"] = str(Path(sys.executable).parent)
    result = workflow.run(*arguments)
    assert result.returncode == 2
    last = result.stdout.splitlines()[-1]
    assert last.startswith("submitit: ") and sentence in last
    assert "Traceback" not in result.stdout
    assert not workflow.events()


@pytest.mark.parametrize(
    ("resources", "body", "sentence"),
    [
        (
            "tasks_per_node=2",
            "run: pass",
            "rule x: asks for 2 tasks, which only a plain shell rule can have; set tasks_per_node: "
            "1",
        ),
        (
            "nodes=2",
            "shell: 'touch {output}'",
            "rule x: asks for 2 nodes, but --submitit-cluster local has one",
        ),
    ],
)
def test_tasks_that_cannot_be_are_refused(tmp_path, resources, body, sentence):
    snakefile = f'rule x:\n    output: "out"\n    resources: {resources}\n    {body}\n'
    result = Workflow(tmp_path, "local", snakefile=snakefile).run()
    assert (result.returncode, result.stdout.splitlines()[-1]) == (2, f"submitit: {sentence}")


@pytest.fixture
def sinfo(tmp_path, monkeypatch):
    """SLURM's commands, of which sinfo says what a test wants."""
    for tool in slurm.TOOLS:
        path = tmp_path / tool
        path.write_text(f"#!/bin/sh\ncat {tmp_path}/nodes\n")
        path.chmod(0o755)
    (tmp_path / "nodes").write_text(
        "gpu*|gpu:a100:4(S:0-1)|64|256000|1-00:00:00\ngpu*|gpu:a100:8|64|512000|1-00:00:00\n"
        "long|(null)|32|64000|infinite\n"
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "nodes"


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        ({"slurm_partition": "gpuu"}, "rule x: unknown partition 'gpuu'; did you mean 'gpu'?"),
        ({"slurm_partition": "zzz"}, "rule x: unknown partition 'zzz'; there is gpu, long"),
        (
            {"gpus": 9},
            "rule x: asks for 9 GPUs, but in partition gpu no node has more than 8; lower its gpus",
        ),
        (
            {"gpus": 1, "slurm_partition": "long"},
            "rule x: asks for 1 GPUs, but in partition long no node has more than 0; lower its "
            "gpus",
        ),
        (
            {"gpus": 8, "threads": 9},
            "rule x: asks for 72 CPUs, but in partition gpu no node has more than 64; lower its "
            "threads",
        ),
        (
            {"mem_mb": 600000},
            "rule x: asks for 600000 MB of memory, but in partition gpu no node has more than "
            "512000; lower its mem_mb",
        ),
        (
            {"runtime": 2000},
            "rule x: asks for 2000 minutes, but in partition gpu the partition's time limit is "
            "1440; lower its runtime",
        ),
        ({"nodes": 3}, "rule x: asks for 3 nodes, but partition gpu has 2; lower its nodes"),
    ],
)
def test_what_no_node_can_give_is_refused(sinfo, resources, sentence):
    with pytest.raises(slurm.SlurmError) as error:
        slurm.check({"fits": {"gpus": 8, "threads": 8}, "x": resources})
    assert str(error.value) == sentence


def test_what_fits_is_accepted_with_its_longest_time(sinfo):
    rules = {
        "a": {"gpus": 8, "threads": 8, "mem_mb": 512000, "runtime": 1440},
        "b": {"slurm_partition": "long", "gpus": 0},
    }
    assert slurm.check(rules) == {
        "a": {"minutes": 1440.0, "MB of memory": 512000},
        "b": {"minutes": float("inf"), "MB of memory": 64000},
    }
    sinfo.write_text("long|(null)|32|64000|infinite\n")
    with pytest.raises(
        slurm.SlurmError, match="no default partition; set slurm_partition, one of long"
    ):
        slurm.check({"a": {}})


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("1-12:00:00", 2160), ("30:00", 30), ("4:00:00", 240), ("infinite", float("inf"))],
)
def test_time_limits_are_read(limit, expected):
    assert slurm.minutes(limit) == expected


def test_a_job_s_process_imports_no_snakemake():
    """It would cost every job a second."""
    code = (
        "import sys, snakemake_executor_plugin_submitit.job; "
        "print([m for m in sys.modules if m.split('.')[0] == 'snakemake' or 'interface' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n"


def submission(root: Path, rule: str, number: int, outcomes: list[dict], **asked) -> Path:
    """A job's folder as its submission and its tasks leave it."""
    folder = root / rule / f"{number:016}" / "1"
    folder.mkdir(parents=True)
    node = {"nodes": 1, "tasks_per_node": 1, "threads": 1, "gpus": 0, "mem_mb": None}
    record = {"cluster": "slurm", "asked": node | {"minutes": None} | asked}
    (folder / "record.json").write_text(json.dumps(record))
    for rank, outcome in enumerate(outcomes):
        path = folder / f"outcome-{rank}.json"
        path.write_text(json.dumps({"returncode": 0, "queue_seconds": 7.0, "rank": rank} | outcome))
    return folder


def test_use_is_in_percent_of_what_was_asked_for(tmp_path, capsys):
    def used(wall, cpu, megabytes, **more):
        bytes_ = megabytes * 2**20
        return {"wall_seconds": wall, "cpu_seconds": cpu, "peak_memory_bytes": bytes_} | more

    tasks = [used(3600.0, 1800.0, 1000), used(3500.0, 1800.0, 500)] * 2
    gpus = {"nodes": 2, "tasks_per_node": 2, "threads": 4, "gpus": 2, "mem_mb": 3000}
    submission(tmp_path, "train", 1, tasks, minutes=120, **gpus)
    for number, (seconds, code) in enumerate([(60.0, 0), (180.0, 1)]):
        submission(tmp_path, "draw", number, [used(seconds, 30.0, 100, returncode=code)])
    running = submission(tmp_path, "draw", 7, [])
    assert report.main([str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:3]]
    assert lines == [
        # of 16 cores for an hour 2 hours; a node has 1,500 MB of 3,000; 4 GPUs for an hour
        ["train", "1", "0", "1.00", "50-50%", "12-12%", "50-50%", "1500", "4.00", "7"],
        ["draw", "2", "1", "0.07", "-", "33-50%", "-", "100", "0.00", "7"],
    ]
    assert report.usage_of(running) is None
    assert report.main([str(tmp_path / "none")]) == 2 and "no jobs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"gpu": 2}, {"gpus": 2}),
        ({"gpu": 2, "gpus": 2}, {"gpus": 2}),
        ({"gpu": 2, "gpu_model": "a100"}, {"gpus": 2, "slurm_gres": "gpu:a100:2"}),
        ({"gres": "gpu:a100:4"}, {"gpus": 4, "slurm_gres": "gpu:a100:4"}),
        ({"gres": "gpu:4"}, {"gpus": 4, "slurm_gres": "gpu:4"}),
        ({"gres": "shard:3"}, {"slurm_gres": "shard:3"}),
        ({"gpus": 1, "mem_mb": 5}, {"gpus": 1, "mem_mb": 5}),
    ],
)
def test_gpus_have_the_names_of_snakemake_s_own_executor(given, expected):
    assert slurm.with_gpus("x", given) == expected


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"gpu": 1, "gpus": 2}, "asks for 2 gpus and 1 gpu; state one"),
        ({"gpu_model": "a100"}, "gpu_model = a100 with no gpu; give it with gpu"),
        ({"gres": "gpu:1", "gpu_model": "a100"}, "gpu_model = a100 with gres; give it with gpu"),
    ],
)
def test_gpus_that_contradict_each_other_are_refused(given, sentence):
    with pytest.raises(slurm.SlurmError, match=sentence):
        slurm.with_gpus("x", given)
