"""One thread a process, and a marker a folder.

The networks here are so small that more threads would only add overhead; results stay the same.
"""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """A test has the name of its folder as a marker."""
    for item in items:
        item.add_marker(getattr(pytest.mark, item.path.relative_to(TESTS).parts[0]))
