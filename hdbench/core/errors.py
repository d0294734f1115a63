"""The ways in which a command ends early, each with one sentence for the user and an exit code."""

from __future__ import annotations

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
