"""How long a suite still takes, from the pace of what is done and running."""

from __future__ import annotations

import math

import pandas as pd


def with_time_left(frame: pd.DataFrame, start_up: float = 0.0) -> pd.DataFrame:
    """The frame of `look` with `left`, seconds: the median pace of stages alike times the work.

    The pace is that of finished ones; where there are none, of those that run, up to their
    checkpoints; NaN where there are neither.  A running stage goes on at its own pace.
    `start_up`: seconds of a process before it works, for those that have yet to begin.
    """
    share = (frame.step / frame.steps.where(frame.steps > 0)).fillna(0.0)
    of_done = frame.seconds / frame.work
    of_begun = frame.spent / (frame.work * share.where(share > 0))
    medians = [pace.groupby(frame.like).transform("median") for pace in (of_done, of_begun)]
    pace = medians[0].fillna(medians[1])
    pace = of_begun.where(frame.state == "running").fillna(pace)
    left = pace * frame.work * (1 - share) + start_up * (frame.state != "running")
    return frame.assign(left=left.where(frame.state != "done", 0.0))


def duration(seconds: float) -> str:
    """`45 s`, `35 min`, `2 h 05 min`; "-" where unknown."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
