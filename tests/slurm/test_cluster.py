"""The cluster that the other tests here rely on."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.slurm import cluster as script
from tests.slurm.cluster import Cluster


def wait(condition, timeout=30):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def is_alive(pid):
    with contextlib.suppress(FileNotFoundError):
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )  # not a zombie, which is only unread
    return False


def test_two_jobs_get_a_gpu_each(cluster, tmp_path):
    for name in "ab":  # they overlap, so that one GPU can't serve both
        cluster.run(
            "sbatch",
            f"--output={tmp_path}/{name}",
            "--gres=gpu:1",
            f"--job-name={tmp_path}",
            "--wrap=echo $CUDA_VISIBLE_DEVICES; sleep 2",
            check=True,
        )
    states = lambda: cluster.run(
        "squeue", "--states=all", "-h", f"--name={tmp_path}", "-o", "%T"
    ).stdout.split()
    wait(lambda: states() == ["COMPLETED"] * 2)
    assert {(tmp_path / name).read_text() for name in "ab"} == {"0\n", "1\n"}


def test_more_gpus_than_the_node_has_are_refused(cluster):
    refused = cluster.run("sbatch", "--gres=gpu:3", "--output=/dev/null", "--wrap=true")
    assert (
        refused.returncode == 1
        and "Requested node configuration is not available" in refused.stderr
    )


def test_stop_leaves_nothing_even_of_a_node_that_lost_its_daemons(tmp_path):
    folder = tmp_path / ("a-path-too-long-for-a-socket" * 4)
    one = Cluster(folder).start()
    try:
        one.run(
            "sbatch",
            f"--output={tmp_path}/out",
            "--wrap=sleep 300 & setsid -f sleep 300; echo $$ $!; wait",
            check=True,
        )
        wait(
            lambda: (tmp_path / "out").exists() and len((tmp_path / "out").read_text().split()) == 2
        )
        job = {int(pid) for pid in (tmp_path / "out").read_text().split()}
        assert job < one.processes("slurmd")
        for pid in (
            one.processes() - job
        ):  # only the jobs' processes are left, and have lost their parents
            if Path(f"/proc/{pid}/comm").read_text().strip() != "sleep":
                os.kill(pid, 9)
        wait(lambda: not one.processes("munged", "slurmctld"))
        assert job <= one.processes()
    finally:
        one.stop()
    assert one.processes() == set()
    assert not any(is_alive(pid) for pid in job)  # asked of the kernel, not of the cluster


def test_the_script_ends_as_its_command_did(tmp_path):
    command = [
        sys.executable,
        "-m",
        script.__name__,
        "run",
        "--folder",
        tmp_path,
        "--",
        "sh",
        "-c",
        "sinfo -h -o %G; exit 3",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, "gpu:2\n")
    assert Cluster(tmp_path).processes() == set()
