"""One thread a process: the networks here are so small that more would only add overhead, and results stay the same."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """Of several processes one runs all tests of a file, which share fixtures, and one all that share the cluster."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("slurm" if item.path.parent.name == "slurm" else item.path.stem))
    return (yield)
