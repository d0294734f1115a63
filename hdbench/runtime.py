"""Set-up of a process that computes: threads, deterministic kernels, and memory that is kept instead of given back."""

from __future__ import annotations

import ctypes
import os

import torch

from hdbench.errors import UserError

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of glibc's mallopt


def set_up(threads: int, device: str) -> torch.device:
    """The device to compute on; UserError where it cannot be had.

    glibc gives every large block back to the kernel and faults it in again; keeping them halves a small network's step.
    """
    try:
        libc = ctypes.CDLL(None)
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
            libc.mallopt(option, value)
    except (OSError, AttributeError):
        pass  # another libc: slower, same results
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device = {device}: no CUDA device is visible; use --device cpu")
    try:
        return torch.device(device)
    except RuntimeError:
        raise UserError(f"--device = {device}: unknown device; use cpu or cuda") from None
