"""The collected numbers of a suite, with intervals over chains."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from hdbench.core.errors import UserError
from hdbench.core.files import from_json, sha256
from hdbench.core.outputs import forced
from hdbench.metrics import metric_of
from hdbench.metrics.base import Estimate
from hdbench.metrics.comparison import variance_components
from hdbench.metrics.design import Design
from hdbench.metrics.records import MISSING, Interval, interval, with_count
from hdbench.report.sequences import detectable
from hdbench.report.validation import of_suite, of_this_plan, usable
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


def check_place(plan: Plan, results: Path, metrics: Path | None, out: Path | None) -> None:
    """UserError where other numbers' tables or figures would stand among those of the own run."""
    collected = metrics_file(plan, results)
    if (
        metrics
        and not out
        and collected.is_file()
        and collected.read_bytes() != metrics.read_bytes()
    ):
        if not forced():
            raise UserError(
                f"{metrics}: has other numbers than {collected}, whose tables and figures would be "
                "replaced; give --out another folder, or --force"
            )


def is_collected(metrics: Path, run: Path) -> bool:
    """Whether a file of metrics is the one that was collected with a run's manifest."""
    try:
        recorded = from_json(run.read_text(encoding="utf-8")).get("metrics")
    except (OSError, ValueError, AttributeError):
        return False  # none there, or another file
    return recorded == sha256(metrics)


def paired_difference(
    results: Path, plan: Plan, row_a: Row, row_b: Row, metric: str
) -> tuple[float, float]:
    """Value of a minus value of b and its standard error, that of the mean of IF_a - IF_b: sample i
    of both had the same noise and label.

    `metric` is a name of the evaluate stage, without a sample count (`fd_test`).  Raises UserError
    for a missing artifact or metric.
    """
    a, b = (measured(results, plan, row, metric) for row in (row_a, row_b))
    return a.value - b.value, a.design.standard_error(a.influence - b.influence)


def measured(results: Path, plan: Plan, row: Row, metric: str) -> Estimate:
    """The metric with its influences (N,), of that evaluation of the row which has it."""
    known: list[str] = []
    for stage in plan.evaluations(row):
        path, _ = artifact.load(results, stage)
        table = pd.read_csv(path / "metrics.csv", index_col="metric")
        if metric in table.index:
            with (
                np.load(path / "influence.npz", allow_pickle=False) as influences,
                np.load(path / "design.npz", allow_pickle=False) as designs,
            ):
                arrays = (designs.get(f"{kind}.{metric}") for kind in Design._fields)
                influence = influences[metric].astype(np.float64)
                return Estimate(float(table.value[metric]), influence, design=Design(*arrays))
        known.extend(table.index)
    path = artifact.folder(results, row.stages["evaluate"])
    raise UserError(f"{path}: has no metric {metric!r}; it has {', '.join(known)}")


class Entry(NamedTuple):
    """A row of a table."""

    arm: str
    steps: int
    nfe: int


class Numbers:
    """The suite's numbers by entry, over chains.

    UserError where the frame is not of this plan; if `lenient`, what cannot be used is left out and
    reported in `notes`.
    """

    def __init__(self, plan: Plan, frame: pd.DataFrame, results: Path, lenient: bool = False):
        self.plan = plan
        self.results = results
        self.distance = plan.suite.evaluation.distance
        self.notes: list[str] = []
        self.rows = {(row.arm, row.seed, row.nfe): row for row in plan.rows}
        self.frame = (
            usable(plan, frame, self.notes)
            if lenient
            else of_this_plan(plan, of_suite(plan, frame, self.notes))
        )
        further = [seed for seeds in plan.suite.stage2_seeds.values() for seed in seeds]
        alone = self.frame.seed.isin(further)
        self.stage2 = self.frame[alone]  # of seeds of stage 2 at a chain's teacher
        self.frame = self.frame[~alone]
        self.groups = {
            key: group.set_index("seed")
            for keys in (["arm", "nfe"], ["arm", "nfe", "metric"])
            for key, group in self.frame.groupby(keys)
        }

    @property
    def alone(self) -> bool:
        """Whether one chain is all there is, so that intervals are over its samples."""
        return self.frame.seed.nunique() < 2

    @property
    def over(self) -> str:
        """`3 complete chains`, `2 of 3 chains`, `one chain` or `one chain of 3`, and of what."""
        have = self.frame.seed.nunique()
        declared = len(self.plan.suite.seeds)
        teacher = self.plan.suite.teacher.seed
        one = "" if teacher is None else f" from one teacher (seed {teacher})"
        if self.alone:
            return "one chain" + f" of {declared}" * (declared > 1) + one
        complete = f"{have} of {declared} chains" if have < declared else f"{have} complete chains"
        return complete + one

    def entries(self, arm: str) -> list[Entry]:
        rows = (row for row in self.plan.rows if row.arm == arm)
        return list(dict.fromkeys(Entry(arm, row.steps, row.nfe) for row in rows))

    def counted(self, metric: str) -> str:
        return with_count(metric, self.plan.suite.evaluation.samples)

    def of(self, entry: Entry, metric: str | None = None) -> pd.DataFrame:
        """Values and standard errors by seed."""
        key = (entry.arm, entry.nfe, metric) if metric else (entry.arm, entry.nfe)
        group = self.groups.get(key)
        return self.frame[:0].set_index("seed") if group is None else group

    def by_chain(self, entry: Entry, metric: str) -> pd.Series:
        """Values by chain."""
        return self.of(entry, metric).value

    def by_stage2_seed(self, entry: Entry, metric: str) -> pd.Series:
        """Values by (chain, stage-2 seed), the chain's own among these, of chains with several.

        An arm without stage 2 has its chain's value for all of them.  Where one teacher serves all
        chains, they are its seeds.
        """
        chains = self.by_chain(entry, metric)
        if (teacher := self.plan.suite.teacher.seed) is not None:
            return pd.concat({teacher: chains}, names=["chain", "seed"]) if len(chains) else chains
        rows = self.stage2[
            (self.stage2.arm == entry.arm)
            & (self.stage2.nfe == entry.nfe)
            & (self.stage2.metric == metric)
        ]
        further = dict(zip(rows.seed, rows.value, strict=True))
        fixed = self.plan.arms[entry.arm].refine is None
        values = {
            (chain, seed): chains[chain] if fixed or seed == chain else further[seed]
            for chain in self.plan.suite.seeds
            if chain in self.plan.suite.stage2_seeds and chain in chains.index
            for seed in (chain, *self.plan.suite.stage2_seeds[chain])
            if fixed or seed == chain or seed in further
        }
        index = pd.MultiIndex.from_tuples(list(values), names=["chain", "seed"])
        return pd.Series(list(values.values()), index, dtype=float)

    def __call__(self, entry: Entry, metric: str) -> Interval:
        """Mean over chains with its 95% interval; of one chain, with its sampling interval."""
        chains = self._distinct(entry, metric)
        error = chains.se.iloc[0] if len(chains) else math.nan
        return interval(chains.value.to_numpy(), error, metric_of(metric))

    def _distinct(self, entry: Entry, metric: str) -> pd.DataFrame:
        """By seed; a public teacher's samples are one set in every chain."""
        chains = self.of(entry, metric)
        return chains[~chains[["digest", "value"]].duplicated()]

    def part(self, entry: Entry, metric: str) -> Interval:
        """Of a part of the samples, with the part's own count in the name: `fd_test_seven_400`."""
        names = [key for key in set(self.of(entry).metric) if key.rpartition("_")[0] == metric]
        return self(entry, names[0]) if len(names) == 1 else MISSING

    def components(self, entry: Entry, metric: str) -> dict[str, float]:
        """Scatter of single chains (all NaN with fewer than two, or a value that is not finite)."""
        chains = self._distinct(entry, metric)
        values = chains.value.to_numpy()
        if len(values) < 2 or not np.isfinite(values).all():
            return dict.fromkeys(("lowest", "highest", "total", "sampling", "training"), math.nan)
        parts = variance_components(values, chains.se.to_numpy())
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
        """Entry minus other, chain by chain; of one chain, with the interval of its samples.

        A public network has one set of samples for all chains: its error is not in their scatter,
        and is added.
        """
        a, b = (self.of(e, self.counted(metric)) for e in (entry, other))
        shared = [seed for seed in a.index if seed in b.index]
        distinct = {  # two public networks differ once
            (a.digest[seed], b.digest[seed], a.value[seed], b.value[seed]): seed
            for seed in reversed(shared)
        }
        seeds = [seed for seed in shared if seed in distinct.values()]
        standard_error = math.nan
        if len(seeds) == 1:
            try:
                pair: list[Row] = [self.rows[e.arm, seeds[0], e.nfe] for e in (entry, other)]
                _, standard_error = paired_difference(self.results, self.plan, *pair, metric=metric)
            except (UserError, KeyError):
                pass  # without its artifacts a difference is known, its interval is not
        value, half = interval([a.value[seed] - b.value[seed] for seed in seeds], standard_error)
        shared_by_all = [e for e in (a, b) if len(seeds) > 1 and e.digest[seeds].nunique() == 1]
        return Interval(value, math.hypot(half, *(1.96 * e.se[seeds[0]] for e in shared_by_all)))

    def least_detectable(self, entries: list[Entry], metric: str) -> float:
        """The true difference of two entries that a paired t-test over chains finds.

        At level 5% with probability 0.9: `detectable` times the SD of the differences, median over
        the pairs of entries; NaN where no pair has two chains.  `metric` has its count.
        """
        values = {entry: self._distinct(entry, metric).value for entry in dict.fromkeys(entries)}
        differences = (
            (a - b).dropna().to_numpy(float) for a, b in combinations(values.values(), 2)
        )
        sizes = [
            detectable(len(x)) * float(np.std(x, ddof=1))
            for x in differences
            if len(x) > 1 and np.isfinite(x).all()
        ]
        return float(np.median(sizes)) if sizes else math.nan

    def ratio(self, entry: Entry, other: Entry | None, metric: str) -> Interval:
        """Other over entry, chain by chain."""
        if other is None:
            return MISSING
        a, b = (self.of(e, metric).value for e in (entry, other))
        return interval([b[seed] / a[seed] for seed in a.index if seed in b.index])
