"""Tensors of foreign files, read without running anybody's code."""

from __future__ import annotations

import argparse
import io
import pickle
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from hdbench.core.errors import UserError, reason


def read_tensors(path: Path, wrappers: Sequence[str] = ("state_dict",)) -> dict[str, Tensor]:
    """The tensors of a .safetensors, PyTorch (weights_only) or TorchScript file, on the CPU.

    Of a PyTorch file with more than weights, such as a trainer's, those under the first of the
    `wrappers` that it has.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if is_torchscript(path):
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
        with (
            warnings.catch_warnings(action="ignore"),
            torch.serialization.safe_globals([argparse.Namespace]),
        ):
            # warnings: of old forms of pickle
            state = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(state, dict):
            state = next((state[name] for name in wrappers if name in state), state)
        if not isinstance(state, dict) or not all(
            isinstance(tensor, Tensor) for tensor in state.values()
        ):
            raise ValueError("not a mapping of names to tensors")
        return state
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: not a file of weights (not a PyTorch file, or one with objects other than "
            "tensors, which could run code); get it again, best as .safetensors"
        ) from None
    except Exception as error:  # the readers' errors have no common base but this
        raise UserError(f"{path}: not a file of weights ({reason(error)}); get it again") from None


def is_torchscript(path: Path) -> bool:
    """Whether it is a TorchScript archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def as_buffer(tensors: dict[str, Tensor]) -> io.BytesIO:
    """Checked tensors as a PyTorch file in memory, for a library that reads unchecked files."""
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    buffer.seek(0)
    return buffer
