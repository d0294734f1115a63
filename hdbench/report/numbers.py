"""The collected numbers of a suite, with intervals over chains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from hdbench.core.errors import UserError
from hdbench.metrics.comparison import variance_components
from hdbench.metrics.records import KEY, MISSING, SHARES, Interval, check, interval, with_count
from hdbench.stages import artifact
from hdbench.suite.plan import Plan, Row


def metrics_file(plan: Plan, results: Path) -> Path:
    return results / plan.name / "metrics.csv"


def tables_folder(plan: Plan, results: Path, out: Path | None) -> Path:
    """Where tables and claims go: out/<suite>, and by default results/<suite>/tables."""
    return out / plan.name if out else results / plan.name / "tables"


def figures_folder(plan: Plan, results: Path, out: Path | None) -> Path:
    """Where figures go: out/<suite>/figures, and by default results/<suite>/figures."""
    return (out or results) / plan.name / "figures"


def paired_difference(
    results: Path, plan: Plan, row_a: Row, row_b: Row, metric: str
) -> tuple[float, float]:
    """Value of a minus value of b and its standard error, sd(IF_a - IF_b) / sqrt(N): sample i of both had the same noise.

    `metric` is a name of the evaluate stage, without a sample count (`fd_test`).  Raises UserError for a missing artifact
    or metric.
    """
    values, influences = [], []
    for row in (row_a, row_b):
        for stage in plan.evaluations(row):
            path, _ = artifact.load(results, stage)
            table = pd.read_csv(path / "metrics.csv", index_col="metric")
            if metric in table.index:
                break
        with np.load(path / "influence.npz", allow_pickle=False) as file:
            if metric not in table.index or metric not in file:
                raise UserError(
                    f"{path}: has no metric {metric!r}; it has {', '.join(table.index)}"
                )
            values.append(float(table.value[metric]))
            influences.append(file[metric].astype(np.float64))
    difference = influences[0] - influences[1]
    return values[0] - values[1], float(difference.std(ddof=1) / len(difference) ** 0.5)


class Entry(NamedTuple):
    """A row of a table."""

    arm: str
    steps: int
    nfe: int


class Numbers:
    """The suite's numbers by entry, over chains.

    UserError where the frame is not of this plan; unless `anybody`: then what cannot be used is left out and said in `notes`.
    """

    def __init__(self, plan: Plan, frame: pd.DataFrame, results: Path, anybody: bool = False):
        self.plan, self.results, self.notes, self.distance = (
            plan,
            results,
            [],
            plan.suite.evaluation.distance,
        )
        self.rows = {(row.arm, row.seed, row.nfe): row for row in plan.rows}
        if anybody and len(frame) and plan.name not in set(frame.suite):
            raise UserError(
                f"the metrics are of the suite {', '.join(sorted(set(frame.suite)))}, not of {plan.name}; name it "
                "by --suite"
            )
        if len(others := frame[frame.suite != plan.name]):
            self.notes.append(
                f"Left out: {len(others)} numbers of other suites ({', '.join(sorted(set(others.suite)))})."
            )
        frame = frame[frame.suite == plan.name]
        frame = frame.assign(
            seed=pd.Series(
                [None if pd.isna(seed) else int(seed) for seed in frame.seed],
                index=frame.index,
                dtype=object,
            )
        )
        self.frame = self._usable(frame) if anybody else self._of_this_plan(check(frame))
        self.groups = {
            key: group.set_index("seed")
            for keys in (["arm", "nfe"], ["arm", "nfe", "metric"])
            for key, group in self.frame.groupby(keys)
        }

    def _digest(self, arm: str, seed: int | None, nfe: int) -> str | None:
        row = self.rows.get((arm, seed, nfe))
        return row and self.plan.stage(row.stages["evaluate"]).digest

    def _of_this_plan(self, frame: pd.DataFrame) -> pd.DataFrame:
        for arm, seed, nfe, digest in zip(frame.arm, frame.seed, frame.nfe, frame.digest):
            if self._digest(arm, seed, nfe) != digest:
                raise UserError(
                    f"metrics of arm {arm}, seed {seed}, nfe {nfe} are not of the present suite {self.plan.name}; "
                    "run `hdbench collect` again, or name the file by --metrics to render it as it is"
                )
        return frame

    def _usable(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Without rows of unknown arms, contradictions, what cannot be, and rows under another arm or seed than theirs."""
        named = {(row.arm, row.nfe) for row in self.plan.rows}

        def leave_out(frame: pd.DataFrame, those: pd.Series, why: str) -> pd.DataFrame:
            if those.any():
                arms = ", ".join(sorted(set(frame.arm[those]))[:5])
                self.notes.append(
                    f"Left out: {those.sum()} number{'s' if those.sum() > 1 else ''} {why} (arms: {arms})."
                )
            return frame[~those]

        frame = frame.drop_duplicates()
        frame = frame.assign(value=frame.value.replace([-math.inf, math.inf], math.nan))
        frame = leave_out(
            frame,
            ~pd.Series(
                [key in named for key in zip(frame.arm, frame.nfe)], frame.index, dtype=bool
            ),
            "of rows that the suite does not have",
        )
        frame = leave_out(
            frame, frame.duplicated(KEY, keep=False), "that stand there twice with different values"
        )
        counted = pd.Series(
            [
                protocol == "cost" or not pd.isna(n) and metric.endswith(with_count("", n))
                for protocol, metric, n in zip(frame.protocol, frame.metric, frame.n)
            ],
            frame.index,
            dtype=bool,
        )
        frame = leave_out(frame, ~counted, "whose sample count is not the one in their name")
        shares = frame.metric.str.startswith(SHARES)
        cost = frame.protocol == "cost"
        positive = shares | cost | frame.metric.str.startswith(("fd_", "power_"))
        frame = leave_out(
            frame,
            (frame.value < 0) & positive
            | (frame.value > 1) & shares
            | (frame.value.abs() > 1e9) & ~cost
            | (frame.se < 0)
            | np.isinf(frame.se),
            "that cannot be: a negative distance, cost or error, a share outside 0 to 1, or a size beyond 1e9",
        )
        expected = pd.Series(
            [self._digest(*key) for key in zip(frame.arm, frame.seed, frame.nfe)],
            frame.index,
            dtype=object,
        )
        own = expected == frame.digest
        swapped = ~own & frame.digest.isin(expected.dropna())
        frame = leave_out(frame, swapped, "whose digest is that of another arm or seed")
        frame = leave_out(
            frame,
            self._repeated(frame),
            "of chains that repeat another chain of their arm to the bit",
        )
        if others := int((~own[frame.index]).sum()):
            self.notes.append(
                f"{others} of {len(frame)} numbers were made by another version of this suite."
            )
        return check(frame)

    def _repeated(self, frame: pd.DataFrame) -> pd.Series:
        """Which rows are of a chain whose quality is, number by number, that of a chain before: a copy, no draw of its own.

        Chains that share a digest (a public teacher's) are one on purpose.
        """
        seen, copies = {}, set()
        for key, part in frame[frame.protocol != "cost"].groupby(["arm", "nfe", "seed"]):
            same = (*key[:2], tuple(sorted(zip(part.metric, part.value))))
            if len(part) > 1 and seen.setdefault(same, set(part.digest)) != set(part.digest):
                copies.add(key)
        return pd.Series(
            [key in copies for key in zip(frame.arm, frame.nfe, frame.seed)],
            frame.index,
            dtype=bool,
        )

    @property
    def alone(self) -> bool:
        """Whether one chain is all there is, so that intervals are over its samples."""
        return self.frame.seed.nunique() < 2

    @property
    def over(self) -> str:
        """`3 complete chains`, `2 of 3 chains`, `one chain`, `one chain of 3`: what the file has, and the suite."""
        have, declared = self.frame.seed.nunique(), len(self.plan.suite.seeds)
        if self.alone:
            return "one chain" + f" of {declared}" * (declared > 1)
        return f"{have} of {declared} chains" if have < declared else f"{have} complete chains"

    def entries(self, arm: str) -> list[Entry]:
        return list(
            dict.fromkeys(
                Entry(arm, row.steps, row.nfe) for row in self.plan.rows if row.arm == arm
            )
        )

    def counted(self, metric: str) -> str:
        return with_count(metric, self.plan.suite.evaluation.samples)

    def of(self, entry: Entry, metric: str | None = None) -> pd.DataFrame:
        """Values and standard errors by seed."""
        found = self.groups.get(
            (entry.arm, entry.nfe, metric) if metric else (entry.arm, entry.nfe)
        )
        return self.frame[:0].set_index("seed") if found is None else found

    def __call__(self, entry: Entry, metric: str) -> Interval:
        found = self.of(entry, metric)
        found = found[
            ~found[["digest", "value"]].duplicated()
        ]  # a public teacher's samples are one set in every chain
        return interval(found.value.to_numpy(), found.se.iloc[0] if len(found) else math.nan)

    def part(self, entry: Entry, metric: str) -> Interval:
        """Of a part of the samples, such as a category, whose own count is behind the name: `fd_test_seven_400`."""
        own = [key for key in set(self.of(entry).metric) if key.rpartition("_")[0] == metric]
        return self(entry, own[0]) if len(own) == 1 else MISSING

    def components(self, entry: Entry, metric: str) -> dict[str, float]:
        """Scatter of single chains (all NaN if there are fewer than two, or a value is not finite)."""
        found = self.of(entry, metric)
        found = found[~found[["digest", "value"]].duplicated()]
        values = found.value.to_numpy()
        if len(values) < 2 or not np.isfinite(values).all():
            return dict.fromkeys(("lowest", "highest", "total", "sampling", "training"), math.nan)
        parts = variance_components(values, found.se.to_numpy())
        return {
            "lowest": values.min(),
            "highest": values.max(),
            "total": values.std(ddof=1),
            "sampling": parts.sampling,
            "training": parts.training,
        }

    def chains(self, entry: Entry) -> tuple[int, int]:
        """How many have numbers, and how many the suite has."""
        return (
            self.of(entry).index.nunique(dropna=False),
            sum((row.arm, row.nfe) == (entry.arm, entry.nfe) for row in self.plan.rows),
        )

    def difference(self, entry: Entry, other: Entry, metric: str) -> Interval:
        """Entry minus other, chain by chain; for a single chain by the paired influences of its samples."""
        a, b = (self.of(e, self.counted(metric)) for e in (entry, other))
        seeds = [seed for seed in a.index if seed in b.index]
        kept = {
            (a.digest[seed], b.digest[seed], a.value[seed], b.value[seed]): seed
            for seed in reversed(seeds)
        }
        seeds, a, b = (
            [seed for seed in seeds if seed in kept.values()],
            a.value,
            b.value,
        )  # two public networks differ once
        standard_error = math.nan
        if len(seeds) == 1:
            try:
                pair: list[Row] = [self.rows[e.arm, seeds[0], e.nfe] for e in (entry, other)]
                _, standard_error = paired_difference(self.results, self.plan, *pair, metric)
            except (
                UserError,
                KeyError,
            ):  # a metrics file without its artifacts: the difference is known, its interval is not
                pass
        return interval([a[seed] - b[seed] for seed in seeds], standard_error)

    def ratio(self, entry: Entry, other: Entry | None, metric: str) -> Interval:
        """Other over entry, chain by chain."""
        if other is None:
            return MISSING
        a, b = (self.of(e, metric).value for e in (entry, other))
        return interval([b[seed] / a[seed] for seed in a.index if seed in b.index])
