"""Losses of the stages that run or ended early, each as one line of blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

from hdbench.suite.plan import Plan
from hdbench.tools.status.history import history_of
from hdbench.tools.status.states import STATES

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 32


def sparkline(values: np.ndarray, width: int = WIDTH) -> str:
    """At most `width` blocks over the (N,) values in order, from the lowest to the highest.

    A block is the median of its share of the values, on a logarithmic scale if all medians are
    positive; medians that are equal are blocks of middle height.
    """
    medians = medians_of(values, width)
    scale = np.log(medians) if (medians > 0).all() else medians
    spread = np.ptp(scale)
    heights = (scale - scale.min()) / spread if spread > 0 else np.full(len(scale), 0.5)
    return "".join(BLOCKS[round(height * (len(BLOCKS) - 1))] for height in heights)


def medians_of(values: np.ndarray, width: int = WIDTH) -> np.ndarray:
    """Of at most `width` consecutive groups of the (N,) values, whose sizes differ by at most 1."""
    groups = np.array_split(values, min(width, len(values)))
    return np.array([np.median(group) for group in groups])


def losses(plan: Plan, frame: pd.DataFrame, results: Path) -> str:
    """A table of those stages of `states.look` that run or ended early; "" without a checkpoint."""
    begun = frame[frame.state.isin(STATES[1:4]) & (frame.step > 0)]
    cells = []
    for row in begun.itertuples():
        history = history_of(results, plan.stage(row.stage), "/loss")
        title = row.stage.rpartition("-")[0]
        for name, values in history.items():
            medians = medians_of(values.to_numpy())
            ends = f"{medians[0]:.3g} to {medians[-1]:.3g}"
            cells.append([title, name.removesuffix("/loss"), sparkline(values.to_numpy()), ends])
            title = ""
    titles = ["stage", "loss of", "up to its checkpoint", ""]
    return tabulate(cells, titles, disable_numparse=True) if cells else ""
