"""Set-up of a process that computes: device, threads, deterministic kernels, kept memory."""

from __future__ import annotations

import ctypes
import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO

import torch

from hdbench.core import distributed
from hdbench.core.errors import UserError

# options of glibc's mallopt
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4

_held: list[IO[str]] = []  # locks of CUDA devices, which go with the process


def set_up(threads: int, device: str) -> torch.device:
    """The device to compute on, see `choose` and `free_cuda`; UserError where it cannot be had.

    glibc gives every large block back to the kernel and faults it in again; keeping them halves a
    small network's step.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_TOP_PAD, 2**26)
    except (OSError, AttributeError):
        pass  # another libc: slower, same results
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # use_deterministic_algorithms, without importing a compiler
    torch.set_deterministic_debug_mode("error")
    chosen = choose(device)
    if chosen == torch.device("cuda") and torch.cuda.device_count() > 1:
        chosen = free_cuda()
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen)
    return chosen


def choose(device: str) -> torch.device:
    """`auto` is cuda if visible, else cpu; each rank has its own cuda device, or UserError."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device = {device}: no CUDA device is visible; use --device cpu")
    unknown = UserError(f"--device = {device}: unknown device; use cpu, cuda or auto")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise unknown from None
    if chosen.type not in ("cpu", "cuda"):
        raise unknown
    if chosen.type == "cuda" and distributed.place().world_size > 1:
        return cuda_of_rank(chosen)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device = {device}: no such CUDA device is visible; use cuda")
    return chosen


def free_cuda() -> torch.device:
    """The first visible CUDA device that no other such process of this machine has, and now has it.

    So stages that start side by side on one machine take one each, without a scheduler.  UserError
    if none is free.
    """
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    for index, name in enumerate(visible.split(",")[:count]):
        path = Path(tempfile.gettempdir(), f"hdbench-{os.getuid()}-cuda-{name.strip()}.lock")
        lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _held.append(lock)
        return torch.device("cuda", index)
    raise UserError(
        f"--device = cuda: each of the {count} visible devices has a process; start fewer at once "
        f"with snakemake --resources gpus={count}, or name one, as cuda:0"
    )


def cuda_of_rank(device: torch.device) -> torch.device:
    """This rank's own device on its machine; UserError if there are too few, or one is named."""
    local_rank = distributed.place().local_rank
    count = torch.cuda.device_count()
    if device.index is not None:
        raise UserError(
            f"--device = {device}: several ranks cannot share a device; use cuda, and each takes "
            "its own"
        )
    if count > 1 and local_rank >= count:
        raise UserError(
            f"LOCAL_RANK = {local_rank}: only {count} CUDA devices are visible; start one process "
            "for each"
        )
    # SLURM may show each process its own device alone
    return torch.device("cuda", local_rank if count > 1 else 0)
