"""The ways in which a command ends early, each with one sentence for the user and an exit code."""

from __future__ import annotations

import errno
import os
import re
import textwrap


class Ended(Exception):
    """Base of expected failures; rank 0 reports one that all ranks raise, else the rank itself."""

    code = 1  # exit code
    agreed = False  # all ranks raise the same
    alone = False  # this rank alone raises it, as far as it knows


class UserError(Ended):
    """A user's mistake: what is wrong and what to do; the command exits with code 2."""

    code = 2


class Divergence(Ended):
    """A loss or gradient that is not finite, with the step and the last losses; exit code 1."""

    agreed = True


class Interrupted(Ended):
    """SIGINT or SIGTERM came; the checkpoint is written and the same command goes on from it."""

    code = 130  # of a shell, for SIGINT
    agreed = True


class OutOfMemory(Ended):
    """Memory ran out."""

    code = 137  # of a kill by the kernel for want of memory, so a scheduler treats both alike


class LostRank(Ended):
    """Another rank of the stage ended or never came; the same command goes on from there."""

    code = 75  # EX_TEMPFAIL


def reason(error: Exception) -> str:
    """What a library's error says, in part of a line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return textwrap.shorten(text, 100, placeholder=" ...")


def first_sentence(error: Exception) -> str:
    """The first sentence of PyTorch's error, without the place in its source."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    return re.sub(r"^\[\S+\] ", "", line).split(". ")[0]


_ADVICE = {
    (errno.ENOSPC, errno.EDQUOT): "what was there before is kept; free space and give the same "
    "command again",
    (errno.EFBIG,): "what was there before is kept; raise the limit (`ulimit -f`) or choose "
    "another place",
    (errno.EACCES, errno.EPERM, errno.EROFS): "ask its owner for the right, or choose another "
    "place",
    (errno.ENAMETOOLONG,): "give a shorter path",
    (errno.EMFILE, errno.ENFILE): "raise the limit of open files (`ulimit -n`)",
    (errno.EIO, errno.ESTALE, errno.ETIMEDOUT): "the disk or the way to it fails; mend it and give "
    "the same command again",
}


def of_system(error: BaseException, place: object = "a file") -> UserError | None:
    """The sentence for what the operating system refused, at whatever depth; None for all else.

    Libraries hide it: safetensors in its text, zipfile under an error of closing the archive.
    `place` is named where the error names none.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            return UserError(_refusal(cause.errno, cause.filename or place))
        if isinstance(cause, ValueError) and "embedded null" in str(cause):
            return UserError("a path has a NUL character; take it out")
        if number := re.search(r"\(os error (\d+)\)", str(cause)):  # of Rust
            return UserError(_refusal(int(number[1]), place))
        cause = cause.__cause__ or cause.__context__
    return None


def _refusal(number: int, path: object) -> str:
    advice = (text for numbers, text in _ADVICE.items() if number in numbers)
    place = os.fsdecode(path) if isinstance(path, bytes) else path
    return f"{place}: {os.strerror(number)}; {next(advice, 'mend it, or choose another place')}"
