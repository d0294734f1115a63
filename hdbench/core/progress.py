"""Progress lines on standard error, and interruption by a signal."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tqdm import tqdm

from hdbench.core import distributed


@dataclass
class Progress:
    """A line on standard error every few seconds: stage, steps, time left; on rank 0 alone."""

    label: str
    total: int
    every_seconds: float = 5.0
    started: float = field(default_factory=time.perf_counter)
    first: int | None = None
    last: float = -math.inf

    def __call__(self, done: int, note: str = "") -> None:
        now = time.perf_counter()
        if self.first is None:
            self.first = done
            self.started = now
        if distributed.rank() == 0 and (
            now - self.last >= self.every_seconds or done == self.total
        ):
            self.last = now
            line = tqdm.format_meter(
                done,
                self.total,
                now - self.started,
                initial=self.first,
                prefix=self.label,
                ncols=110,
                postfix=note or None,
            )
            print(line, file=sys.stderr, flush=True)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM has come, as a function; the old handlers return at the end."""
    seen = []
    old = {
        number: signal.signal(number, lambda n, frame: seen.append(n))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
