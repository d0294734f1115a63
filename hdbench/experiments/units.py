"""Units of experiments beside the suites: arrays on disk under a digest of what decides them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hdbench.core.errors import UserError


def load_unit(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """These arrays of an npz, a finished unit of an experiment beside the suites; UserError for a broken file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a finished unit ({error}); delete it and run again") from None
