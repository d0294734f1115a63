"""Which numbers of a file belong to a suite: all, or of a foreign file those that can be used."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from hdbench.core.errors import UserError
from hdbench.metrics import metric_of
from hdbench.metrics.records import KEY, check, with_count
from hdbench.suite.plan import Plan


def of_suite(plan: Plan, frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The numbers of the suite, seeds as Python's integers; what is left out is said in `notes`."""
    if len(others := frame[frame.suite != plan.name]):
        suites = ", ".join(sorted(set(others.suite)))
        notes.append(f"Left out: {len(others)} numbers of other suites ({suites}).")
    frame = frame[frame.suite == plan.name]
    seeds = [None if pd.isna(seed) else int(seed) for seed in frame.seed]
    return frame.assign(seed=pd.Series(seeds, index=frame.index, dtype=object))


def of_this_plan(plan: Plan, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame itself; UserError where a number's digest is not the one that its row has now."""
    digests = expected_digests(plan, check(frame))
    for row, digest in zip(frame.itertuples(), digests, strict=True):
        if row.digest != digest:
            raise UserError(
                f"metrics of arm {row.arm}, seed {row.seed}, nfe {row.nfe} are not of the present "
                f"suite {plan.name}; run `hdbench collect` again, or name the file by --metrics to "
                "render it as it is"
            )
    return frame


def usable(plan: Plan, frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Of a foreign file the numbers that can be used; what is left out is said in `notes`.

    Left out are rows of unknown arms, contradictions, what cannot be, what is under another arm or
    seed than its own, and chains that repeat another.  UserError if the file is of another suite.
    """
    if len(frame) and plan.name not in set(frame.suite):
        raise UserError(
            f"the metrics are of the suite {', '.join(sorted(set(frame.suite)))}, not of "
            f"{plan.name}; name it by --suite"
        )
    frame = of_suite(plan, frame, notes).drop_duplicates().reset_index(drop=True)
    frame = frame.assign(value=frame.value.replace([-math.inf, math.inf], math.nan))
    expected = expected_digests(plan, frame)
    matches = expected == frame.digest
    known = {(row.arm, row.nfe) for row in plan.rows}
    unknown = [key not in known for key in zip(frame.arm, frame.nfe, strict=True)]
    reasons = {
        "of rows that the suite does not have": lambda rows: _series(unknown, frame),
        "that appear twice with different values": lambda rows: rows.duplicated(KEY, keep=False),
        "whose sample count is not the one in their name": _miscounted,
        "that cannot be: a negative distance, cost or error, a share outside 0 to 1, or a size "
        "beyond 1e9": _impossible,
        "whose digest is that of another arm or seed": lambda rows: (
            ~matches & frame.digest.isin(expected[rows.index].dropna())
        ),
        "of chains that repeat another chain of their arm to the bit": _repeated,
    }
    kept = frame
    for reason, wrong in reasons.items():
        left_out = wrong(kept).reindex(kept.index)
        if left_out.any():
            arms = ", ".join(sorted(set(kept.arm[left_out]))[:5])
            many = "s" if left_out.sum() > 1 else ""
            notes.append(f"Left out: {left_out.sum()} number{many} {reason} (arms: {arms}).")
        kept = kept[~left_out]
    if others := int((~matches[kept.index]).sum()):
        notes.append(f"{others} of {len(kept)} numbers were made by another version of this suite.")
    return check(kept)


def expected_digests(plan: Plan, frame: pd.DataFrame) -> pd.Series:
    """The digests of the present evaluate stages, by number; None of rows that the plan lacks."""
    digests = {
        (row.arm, row.seed, row.nfe): plan.stage(row.stages["evaluate"]).digest
        for row in plan.all_rows
    }
    keys = zip(frame.arm, frame.seed, frame.nfe, strict=True)
    return pd.Series([digests.get(key) for key in keys], frame.index, dtype=object)


def _series(values: list[bool], frame: pd.DataFrame) -> pd.Series:
    return pd.Series(values, frame.index, dtype=bool)


def _miscounted(frame: pd.DataFrame) -> pd.Series:
    columns = zip(frame.protocol, frame.metric, frame.n, strict=True)
    counted = [
        protocol == "cost" or not pd.isna(n) and metric.endswith(with_count("", n))
        for protocol, metric, n in columns
    ]
    return ~_series(counted, frame)


def _impossible(frame: pd.DataFrame) -> pd.Series:
    cost = frame.protocol == "cost"
    kinds = {name: metric_of(name) for name in set(frame.metric)}
    out_of_range = [
        not math.isnan(value) and (kind := kinds[name]) is not None and not kind.is_possible(value)
        for name, value in zip(frame.metric, frame.value, strict=True)
    ]
    return (
        _series(out_of_range, frame) & ~cost
        | (frame.value < 0) & cost
        | (frame.value.abs() > 1e9) & ~cost
        | (frame.se < 0)
        | np.isinf(frame.se)
    )


def _repeated(frame: pd.DataFrame) -> pd.Series:
    """Rows of a chain whose quality is, number by number, that of a chain before: a copy, no draw
    of its own.

    Chains that share a digest (a public teacher's) are one on purpose.
    """
    seen: dict[tuple, set[str]] = {}
    copies = set()
    for key, chain in frame[frame.protocol != "cost"].groupby(["arm", "nfe", "seed"]):
        numbers = (*key[:2], tuple(sorted(zip(chain.metric, chain.value, strict=True))))
        digests = set(chain.digest)
        if len(chain) > 1 and seen.setdefault(numbers, digests) != digests:
            copies.add(key)
    keys = zip(frame.arm, frame.nfe, frame.seed, strict=True)
    return _series([key in copies for key in keys], frame)
