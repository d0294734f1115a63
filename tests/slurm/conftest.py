"""These tests need SLURM itself, and one small cluster serves them all."""

import pytest

from tests.slurm.cluster import cluster as running_cluster
from tests.slurm.cluster import missing


@pytest.hookimpl(tryfirst=True)  # before any fixture
def pytest_runtest_setup():
    if missing():
        pytest.skip("SLURM is not installed; `make test-slurm` installs and runs these")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Four CPUs, two GPUs, the partitions `gpu` and `urgent`.

    A test that breaks a daemon starts a cluster of its own.
    """
    with running_cluster(tmp_path_factory.mktemp("slurm"), cpus=4, gpus=2, preempt=True) as running:
        yield running
