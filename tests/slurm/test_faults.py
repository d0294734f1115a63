"""What becomes of jobs on a real SLURM when something goes wrong: nothing runs twice, nothing is
lost.
"""

from __future__ import annotations

import json
import signal

import pytest

from tests.slurm.cluster import cluster as started
from tests.support.counting import SNAKEFILE, Workflow

ONCE = {("start", "0"): 1, ("start", "1"): 1, ("end", "0"): 1, ("end", "1"): 1}


@pytest.fixture
def workflow(cluster, tmp_path):
    """Two jobs that count until the test shortens them."""
    return Workflow(tmp_path, "slurm", length=10000, environment=cluster.environment)


def counting(workflow, jobs=2) -> bool:
    return all(workflow.state(job) > 2 for job in range(jobs))


def finish_soon(workflow, steps=3) -> None:
    (workflow.folder / "length").write_text(str(max(workflow.state(0), workflow.state(1)) + steps))


def job_ids(workflow) -> dict[str, str]:
    """The jobs of this workflow's folder that SLURM has not ended yet: id to state."""
    lines = workflow.slurm("squeue", "-h", "-o", "%i|%T|%Z").splitlines()
    return {
        line.split("|")[0]: line.split("|")[1]
        for line in lines
        if line.endswith(f"|{workflow.folder}")
    }


@pytest.fixture(autouse=True)
def ask(workflow, cluster):
    workflow.slurm = lambda *command: cluster.run(*command).stdout


def test_jobs_run_once_on_the_cluster(workflow):
    (workflow.folder / "length").write_text("3")
    result = workflow.run()
    assert result.returncode == 0, result.stdout
    assert workflow.events() == ONCE
    assert len(list(workflow.folder.glob(".snakemake/submitit/count/*/1/*_submission.sh"))) == 2


def test_after_kill_9_running_jobs_are_adopted_and_finished_ones_taken(workflow):
    workflow.kill_while_counting("--config", "jobs=3", jobs=3)
    assert sorted(job_ids(workflow).values()) == ["RUNNING"] * 3
    main = workflow.start("--config", "jobs=3")
    workflow.wait(lambda: workflow.said().count("Adopted job ") == 3)
    main.kill()
    main.wait()
    finish_soon(workflow)
    workflow.wait(lambda: not job_ids(workflow))
    last = workflow.run("--config", "jobs=3")
    assert last.returncode == 0, last.stdout
    assert workflow.events() == {(what, job): 1 for what in ("start", "end") for job in "012"}
    assert len(list(workflow.folder.glob(".snakemake/submitit/count/*/*/record.json"))) == 3


def test_a_submission_whose_record_was_never_finished_is_found_by_its_name(workflow):
    workflow.kill_while_counting()
    for record in workflow.folder.glob(".snakemake/submitit/count/*/1/record.json"):
        record.write_text(json.dumps(json.loads(record.read_text()) | {"job_id": None}))
    main = workflow.start()
    workflow.wait(lambda: workflow.said().count("Adopted job ") == 2)
    finish_soon(workflow)
    assert main.wait(60) == 0, workflow.said()
    assert workflow.events() == ONCE


def test_a_requeued_job_goes_on_from_its_state(workflow):
    main = workflow.start()
    workflow.wait(lambda: counting(workflow))
    for job in job_ids(workflow):
        workflow.slurm("scontrol", "requeue", job)
    workflow.wait(lambda: workflow.events()["start", "0"] == workflow.events()["start", "1"] == 2)
    finish_soon(workflow)
    assert main.wait(60) == 0, workflow.said()
    events = (workflow.folder / "events").read_text()
    for job in "01":
        assert [line.split()[0] for line in events.splitlines() if line.split()[1] == job] == [
            "start",
            "stop",
            "start",
            "end",
        ]
        stopped, started_again = [
            int(line.split()[2]) for line in events.splitlines() if line.split()[1] == job
        ][1:3]
        assert stopped == started_again > 2


def test_the_time_limit_stops_a_job_in_time_and_it_goes_on(workflow):
    """SLURM counts limits in minutes and looks at them twice a minute."""
    main = workflow.start(
        "--default-resources", "runtime=1", "--submitit-stop-seconds", "45", "--config", "jobs=1"
    )
    workflow.wait(lambda: workflow.events()["start", "0"] == 2, timeout=120)
    finish_soon(workflow)
    assert main.wait(60) == 0, workflow.said()
    events = [line.split() for line in (workflow.folder / "events").read_text().splitlines()]
    assert [event[0] for event in events] == ["start", "stop", "start", "end"]
    assert events[1][2] == events[2][2]


def test_a_preempting_job_goes_first_and_the_preempted_one_goes_on(tmp_path_factory, tmp_path):
    with started(tmp_path_factory.mktemp("preempt"), cpus=1, preempt=True) as cluster:
        workflow = Workflow(tmp_path, "slurm", length=10000, environment=cluster.environment)
        main = workflow.start("--config", "jobs=1")
        workflow.wait(lambda: counting(workflow, 1))
        cluster.run(
            "sbatch",
            "-p",
            "urgent",
            "-o",
            "/dev/null",
            "--wrap",
            f"sleep 1; touch {tmp_path}/urgent",
        )
        workflow.wait(lambda: workflow.events()["start", "0"] == 2)
        assert (tmp_path / "urgent").exists()
        finish_soon(workflow)
        assert main.wait(60) == 0, workflow.said()
        assert workflow.events() == {("start", "0"): 2, ("stop", "0"): 1, ("end", "0"): 1}


def test_scancel_fails_its_job_only_and_the_next_run_goes_on(workflow):
    main = workflow.start("--keep-going", "--retries", "2")
    workflow.wait(lambda: counting(workflow))
    job = min(job_ids(workflow), key=int)
    workflow.slurm("scancel", job)
    workflow.wait(lambda: f"job {job}: cancelled" in workflow.said())
    finish_soon(workflow)
    assert main.wait(60) == 1
    assert sum(workflow.events()["end", which] for which in "01") == 1
    assert workflow.run().returncode == 0
    assert {key: n for key, n in workflow.events().items() if key[0] == "end"} == {
        ("end", "0"): 1,
        ("end", "1"): 1,
    }


def test_ctrl_c_cancels_the_jobs(workflow):
    main = workflow.start()
    workflow.wait(lambda: counting(workflow))
    main.send_signal(signal.SIGINT)
    main.wait(60)
    workflow.wait(lambda: workflow.events()["stop", "0"] == workflow.events()["stop", "1"] == 1)
    finish_soon(workflow)
    result = workflow.run()  # at once: the old jobs may still be leaving
    assert result.returncode == 0, result.stdout
    assert workflow.events() == {
        (what, job): n for job in "01" for what, n in (("start", 2), ("stop", 1), ("end", 1))
    }


def test_a_node_that_fails_gives_its_jobs_back(tmp_path_factory, tmp_path):
    """As if it had lost power: its job runs again when it is back, from its state."""
    with started(tmp_path_factory.mktemp("node"), SlurmdTimeout=5) as cluster:
        workflow = Workflow(tmp_path, "slurm", length=10000, environment=cluster.environment)
        main = workflow.start("--config", "jobs=1", "--retries", "2")
        workflow.wait(lambda: counting(workflow, 1))
        cluster.stop_slurmd(steps=True)
        cluster.start_slurmd()
        workflow.wait(lambda: workflow.events()["start", "0"] == 2, timeout=90)
        finish_soon(workflow)
        assert main.wait(60) == 0, workflow.said()
        assert workflow.events() == {("start", "0"): 2, ("end", "0"): 1}


def test_jobs_outlive_slurmd_and_slurmctld(workflow, cluster):
    main = workflow.start()
    workflow.wait(lambda: counting(workflow))
    cluster.stop_slurmd()
    cluster.start_slurmd()
    cluster.restart_slurmctld()
    finish_soon(workflow, steps=20)
    assert main.wait(60) == 0, workflow.said()
    assert workflow.events() == ONCE


def test_jobs_are_submitted_once_the_controller_is_back(workflow, tmp_path_factory):
    with started(tmp_path_factory.mktemp("away")) as cluster:
        workflow.environment |= cluster.environment
        (workflow.folder / "Snakefile").write_text(
            'rule all:\n    input: "b"\n'
            'rule a:\n    output: "a"\n    shell: "touch begun; sleep 6; touch {output}"\n'
            'rule b:\n    input: "a"\n    output: "b"\n    shell: "echo run >> runs; touch '
            '{output}"\n'
        )
        main = workflow.start()
        workflow.wait((workflow.folder / "begun").exists)
        cluster.stop_slurmctld()
        workflow.wait(lambda: "trying again to submit" in workflow.said())
        cluster.start_slurmctld()
        assert main.wait(60) == 0, workflow.said()
        assert (workflow.folder / "runs").read_text() == "run\n"


def test_an_error_says_rule_arm_job_reason_and_log(workflow):
    (workflow.folder / "Snakefile").write_text("""
rule all:
    input: "out/7"
rule refine:
    output: "out/{i}"
    params: arm="hd_patch"
    shell: "echo run >> runs; echo 'diverged at step 3: loss nan' >&2; exit 1"
""")
    result = workflow.run("--retries", "2")
    assert result.returncode == 1
    assert (workflow.folder / "runs").read_text() == "run\n"
    (log,) = workflow.folder.glob(".snakemake/submitit/refine/*/1/*_0_log.out")
    job = log.name.split("_")[0]
    assert (
        f"rule refine (i=7, arm=hd_patch), job {job}: exit code 1: diverged at step 3: loss nan\n"
        in result.stdout
    )
    assert f"log {log.relative_to(workflow.folder)} ends with" in result.stdout


def test_too_much_memory_is_tried_again_with_more(tmp_path_factory, tmp_path):
    (tmp_path / "greedy.py").write_text("import time\nbuffer = b'x' * 200_000_000\ntime.sleep(6)\n")
    snakefile = SNAKEFILE.replace(
        "    params:", "    resources: mem_mb=lambda w, attempt: 150 * attempt\n    params:"
    ).replace(
        "python count.py {wildcards.i} {output}",
        "echo {resources.mem_mb} >> tries; python greedy.py; touch {output}",
    )
    with started(tmp_path_factory.mktemp("memory"), enforce_memory=True) as cluster:
        workflow = Workflow(tmp_path, "slurm", snakefile=snakefile, environment=cluster.environment)
        result = workflow.run("--config", "jobs=1", "--retries", "2")
        assert result.returncode == 0, result.stdout
        assert (tmp_path / "tries").read_text().split() == ["150", "300"]
        assert ": out of memory (tries left: 2)" in result.stdout


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        ("slurm_partition='gpuu'", "rule count: unknown partition 'gpuu'; did you mean 'gpu'?"),
        (
            "gpus=3",
            "rule count: asks for 3 GPUs, but in partition gpu no node has more than 2; lower its "
            "gpus",
        ),
        (
            "runtime=99999",
            "rule count: asks for 99999 minutes, but in partition gpu the partition's time limit "
            "is 1440; lower "
            "its runtime",
        ),
        (
            "slurm_acount='x'",
            "rule count: unknown resource slurm_acount; did you mean 'slurm_account'?",
        ),
    ],
)
def test_what_the_cluster_cannot_give_is_refused_before_anything_is_submitted(
    workflow, resources, sentence
):
    before = workflow.slurm("squeue", "--states=all", "-h", "-o", "%i")
    result = workflow.run("--default-resources", resources)
    assert result.returncode == 2
    assert result.stdout.splitlines()[-1] == f"submitit: {sentence}"
    assert workflow.slurm("squeue", "--states=all", "-h", "-o", "%i") == before


RANKS = """
rule all:
    input: "out"
rule ranks:
    output: "out"
    resources: tasks_per_node=2
    shell: "echo $RANK >> starts; if [ $RANK = 1 ]; then {how}; fi; sleep 600; touch {{output}}"
"""


def test_a_submission_killed_before_the_job_had_its_pickle_goes_on(workflow):
    """submitit names the pickle after the job when sbatch has answered; the job waits a minute for
    it.
    """
    main = workflow.start("--config", "jobs=1")
    folder = workflow.folder / ".snakemake/submitit/count"
    workflow.wait(lambda: list(folder.glob("*/1/*_submitted.pkl")))
    main.kill()
    main.wait()
    workflow.wait(lambda: workflow.events()["start", "0"] == 1)
    (pickle,) = folder.glob("*/1/*_submitted.pkl")
    workflow.slurm("scontrol", "requeue", pickle.name.split("_")[0])
    pickle.rename(pickle.with_name("0123456789abcdef0123456789abcdef.pkl"))
    record = pickle.with_name("record.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"job_id": None}))
    again = workflow.start("--config", "jobs=1")
    workflow.wait(lambda: workflow.events()["start", "0"] == 2)
    finish_soon(workflow)
    assert again.wait(60) == 0, workflow.said()


def test_a_task_that_dies_without_a_word_makes_its_job_fail(workflow):
    """SLURM then ends the other tasks as it would for a preemption, but nothing is requeued for
    ever.
    """
    (workflow.folder / "Snakefile").write_text(RANKS.format(how="kill -9 $PPID"))
    main = workflow.start("--retries", "1")
    assert main.wait(90) == 1
    assert workflow.said().count("it ended before its command did") == 2
    assert (workflow.folder / "starts").read_text().split().count("1") == 2


def test_the_task_that_failed_first_is_the_one_that_is_told(workflow):
    (workflow.folder / "Snakefile").write_text(
        RANKS.format(how="echo disk full; exit 1").replace("sleep 600", "sleep 1; exit 75")
    )
    result = workflow.run("--retries", "2")
    assert result.returncode == 1
    assert ": exit code 1: disk full\n" in result.stdout
    starts = (
        (workflow.folder / "starts").read_text().split()
    )  # never tried again; on a busy machine 0 may be ended before it starts
    assert starts.count("1") == 1 and starts.count("0") <= 1


def test_a_stop_after_the_last_step_leaves_a_success(workflow):
    """The command ends with success though it is cancelled; bash waits for it, and nothing is run
    again.
    """
    (workflow.folder / "late.py").write_text(
        "import pathlib, signal, time\nsignal.signal(signal.SIGTERM, "
        "signal.SIG_IGN)\npathlib.Path('begun').touch()\n"
        "time.sleep(2)\npathlib.Path('out').touch()\n"
    )
    (workflow.folder / "Snakefile").write_text(
        'rule all:\n    input: "out"\n'
        'rule late:\n    output: "out"\n    shell: "echo run >> runs; python late.py"\n'
    )
    main = workflow.start()
    workflow.wait((workflow.folder / "begun").exists)
    for job in job_ids(workflow):
        workflow.slurm("scancel", "--signal=TERM", job)
    assert main.wait(60) == 0, workflow.said()
    assert (workflow.folder / "runs").read_text() == "run\n"


def test_what_has_succeeded_is_not_run_again_by_a_requeue(workflow):
    (workflow.folder / "length").write_text("1")
    assert workflow.run().returncode == 0
    ids = [
        path.name.split("_")[0]
        for path in workflow.folder.glob(".snakemake/submitit/count/*/1/*_submitted.pkl")
    ]
    for job in ids:
        workflow.slurm("scontrol", "requeue", job)
    workflow.wait(lambda: not job_ids(workflow))
    assert workflow.events() == ONCE
