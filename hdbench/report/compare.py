"""Two runs, or two arms, compared row by row: what moved beyond noise, what cannot be compared.

A row is an arm, its nfe and a metric, with a value of every chain (seed).  Difference: B minus A.
Its interval and p by
  paired     chains that both have, at least two: t of the differences, chain by chain
  separate   chains of other seeds, several each: Welch's t
  one alone  one chain against several others: t, with the scatter of the several for both
  sampling   one chain each, or differences without any scatter: the standard errors of sampling
    combined, normal
Benjamini and Hochberg's procedure controls the share of false discoveries over all compared rows of
quality that differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from hdbench.core.config import nearest
from hdbench.core.errors import UserError
from hdbench.metrics.records import COLUMNS, interval, with_count

KEY = ["suite", "arm", "nfe", "metric"]
RATE = 0.05  # of false discoveries
RESULT = {
    **{key: COLUMNS[key] for key in KEY},
    "a": "float64",
    "b": "float64",
    "difference": "float64",
    "ratio": "float64",
    "low": "float64",
    "high": "float64",
    "chains": "str",
    "method": "str",
    "p": "float64",
    "p_adjusted": "float64",
    "verdict": "str",
    "protocol": "str",
    "note": "str",
}
VERDICTS = (  # in the order of the report
    "moved",
    "within noise",
    "identical",
    "no error known",
    "not a number",
    "not comparable: other N",
    "not comparable: other protocol",
    "cost",
)
UNCOMPARED = VERDICTS[3:-1]


class Comparison(NamedTuple):
    """What `compare` found; rows and chains of one file alone by name."""

    rows: pd.DataFrame  # with the columns `RESULT`, what moved first
    only_a: list[str]
    only_b: list[str]
    notes: list[str]  # sentences on the matching
    lost: list[str]  # chains (arm and seed) that only A has, of arms that share others with B


def compare(
    a: pd.DataFrame, b: pd.DataFrame, metrics: Sequence[str] = (), costs: bool = False
) -> Comparison:
    """Compare two frames of `hdbench.report.collect`; `metrics` keeps those alone, by their names
    with or without sample count.

    Raises UserError for an unknown metric, and where no row is in both.
    """
    known = {name for run in (a, b) for names in (run.metric, bare(run)) for name in names}
    if unknown := [metric for metric in metrics if metric not in known]:
        raise UserError(f"--metric = {unknown[0]!r}: in neither file" + nearest(unknown[0], known))
    a, b, notes = align(*(keep(frame, metrics, costs) for frame in (a, b)))
    one, two = (
        {key: group.set_index("seed") for key, group in frame.groupby(KEY, sort=False)}
        for frame in (a, b)
    )
    compared = [
        dict(zip(KEY, key, strict=True)) | compare_row(one[key], two[key])
        for key in one
        if key in two
    ]
    only_a, only_b = (
        [key for key in mine if key not in others] for mine, others in ((one, two), (two, one))
    )
    bases = {(*key[:3], base(two[key])): key for key in only_b}
    for key in list(only_a):
        other = bases.pop((*key[:3], base(one[key])), None)
        if other is not None:
            only_a.remove(key)
            only_b.remove(other)
            compared.append(
                dict(zip(KEY, key, strict=True))
                | {
                    "verdict": "not comparable: other N",
                    "note": f"{key[3]} and {other[3]}",
                    "protocol": one[key].protocol.iloc[0],
                }
            )
    if not compared:
        raise UserError(
            f"no row is in both A ({described(a)}) and B ({described(b)}); "
            "rows are matched by suite, arm, nfe and metric"
        )
    rows = decided(compared)
    lost = lone_chains(a, b)
    new = lone_chains(b, a)
    notes += [
        f"Chains of which only {name} has all numbers: "
        f"{', '.join(chains[:10])}{', ...' * (len(chains) > 10)}."
        for name, chains in (("A", lost), ("B", new))
        if chains
    ]
    return Comparison(
        rows, [named(key) for key in only_a], [named(key) for key in only_b], notes, lost
    )


def decided(compared: list[dict[str, Any]]) -> pd.DataFrame:
    """Compared rows with adjusted p and verdicts, what moved first."""
    rows = pd.DataFrame(compared, columns=list(RESULT)).astype(RESULT)
    # what is the same to the bit is no test of anything
    tested = rows.p.notna() & (rows.verdict != "identical")
    rows.loc[rows.p.notna(), "p_adjusted"] = rows.p
    if tested.any():
        rows.loc[tested, "p_adjusted"] = stats.false_discovery_control(rows.p[tested])
    rows.loc[rows.p_adjusted <= RATE, "verdict"] = "moved"
    return rows.sort_values(
        ["verdict", "p"],
        kind="stable",
        ignore_index=True,
        key=lambda column: column.map(VERDICTS.index) if column.name == "verdict" else column,
    )


def lone_chains(a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    """`hd 1`: chains that `b` lacks in a row of which it shares other chains with `a`."""
    seeds = [frame.groupby(KEY, sort=False).seed.agg(set) for frame in (a, b)]
    return list(
        dict.fromkeys(
            f"{key[1]} {seed}"
            for key, in_a in seeds[0].items()
            if in_a & seeds[1].get(key, set())
            for seed in sorted(in_a - seeds[1][key])
        )
    )


def named(key: Sequence[Any]) -> str:
    """`hd 1 fd_test_4k`: arm, nfe and metric of a key."""
    return " ".join("-" if name == -1 else str(name) for name in key[-3:])


def keep(frame: pd.DataFrame, metrics: Sequence[str], costs: bool) -> pd.DataFrame:
    """The rows that are wanted; chains and nfe that do not apply are -1."""
    wanted = (
        frame.metric.isin(metrics) | bare(frame).isin(metrics)
        if metrics
        else pd.Series(True, frame.index)
    )
    return frame[wanted & (costs | (frame.protocol != "cost"))].fillna({"seed": -1, "nfe": -1})


def bare(frame: pd.DataFrame) -> pd.Series:
    """Names of metrics without their sample counts."""
    names = [
        metric if pd.isna(n) else metric.removesuffix(with_count("", n))
        for metric, n in zip(frame.metric, frame.n, strict=True)
    ]
    return pd.Series(names, frame.index, dtype="str")


def base(rows: pd.DataFrame) -> str:
    return bare(rows).iloc[0]


def of_arm(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of one arm, `hd`, or of its samples with so many evaluations, `teacher@50`.

    Raises UserError for an arm, or a number of evaluations, without rows.
    """
    arm, _, nfe = name.partition("@")
    rows = frame[frame.arm == arm]
    if rows.empty:
        raise UserError(f"{arm}: no such arm in the file{nearest(arm, frame.arm.unique())}")
    if not nfe:
        return rows
    counts = sorted(set(rows.nfe.dropna()))
    if nfe not in map(str, counts):
        raise UserError(f"{name}: {arm} has numbers of nfe {', '.join(map(str, counts)) or '-'}")
    return rows[rows.nfe == int(nfe)]


def align(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """A single suite, arm or nfe of each under one name; and what was renamed."""
    notes = []
    for column, note in (
        ("suite", "The suite is {} in A and {} in B; rows are matched without it."),
        ("arm", "A has the single arm {}, B the single arm {}; these two are compared."),
    ):
        names = [frame[column].unique() for frame in (a, b)]
        if [len(name) for name in names] == [1, 1] and names[0][0] != names[1][0]:
            shared = " / ".join(name[0] for name in names)
            a, b = (frame.assign(**{column: shared}) for frame in (a, b))
            notes.append(note.format(*(name[0] for name in names)))
    counts = [frame.nfe.unique() for frame in (a, b)]
    if [len(count) for count in counts] == [1, 1] and counts[0][0] != counts[1][0]:
        a, b = (frame.assign(nfe=-1) for frame in (a, b))
        notes.append(f"A has nfe {counts[0][0]} alone, B {counts[1][0]}; these two are compared.")
    return a, b, notes


def compare_row(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, Any]:
    """The columns `RESULT` of one row from its chains, by seed; p is not adjusted yet."""
    result: dict[str, Any] = {
        "a": a.value.mean(skipna=False),
        "b": b.value.mean(skipna=False),
        "chains": f"{len(a)} and {len(b)}",
        "protocol": a.protocol.iloc[0],
    }
    for column, what in (("protocol", "protocol"), ("n", "N")):
        here, there = (sorted(set(frame[column].dropna())) for frame in (a, b))
        if here != there:
            return result | {
                "verdict": f"not comparable: other {what}",
                "note": " and ".join("/".join(map(str, side)) for side in (here, there)),
            }
    if not np.isfinite([*a.value, *b.value]).all():
        return result | {"verdict": "not a number"}
    shared = a.index.intersection(b.index)
    if len(shared) > 1 or (len(shared) == 1 and 1 in (len(a), len(b))):
        a = a.loc[shared]
        b = b.loc[shared]
        result |= {"a": a.value.mean(), "b": b.value.mean(), "chains": str(len(shared))}
    same = a.index.isin(shared).all() and (a.value == b.value.reindex(a.index)).all()
    if result["protocol"] == "cost":
        return result | ratio(a, b) | {"verdict": "identical" if same else "cost"}
    if same:
        return result | {"difference": 0.0, "p": 1.0, "verdict": "identical"}
    difference = result["b"] - result["a"]
    method, error, freedom = noise(a, b, shared)
    if not error > 0:
        return result | {"difference": difference, "verdict": "no error known"}
    half = stats.t.ppf(0.975, freedom) * error
    return result | {
        "difference": difference,
        "low": difference - half,
        "high": difference + half,
        "method": method,
        "p": 2 * stats.t.sf(abs(difference) / error, freedom),
        "verdict": "within noise",
    }


def noise(a: pd.DataFrame, b: pd.DataFrame, shared: pd.Index) -> tuple[str, float, float]:
    """Method (see the head of this file), standard error of mean b - mean a, degrees of freedom."""
    n = len(a)
    m = len(b)
    method = "sampling"
    error = 0.0
    freedom = np.inf
    if len(shared) == n == m and n > 1:
        method = "paired"
        error = float(stats.sem(b.value - a.value))
        freedom = n - 1
    elif n > 1 and m > 1:
        parts = np.array([a.value.var() / n, b.value.var() / m])
        if parts.sum() > 0:
            method = "separate"
            error = float(parts.sum() ** 0.5)
            freedom = float(parts.sum() ** 2 / (parts**2 / [n - 1, m - 1]).sum())
    elif n > 1 or m > 1:
        several = a if n > 1 else b
        method = "one alone"
        error = float(several.value.std() * (1 + 1 / len(several)) ** 0.5)
        freedom = len(several) - 1
    if error <= 1e-9 * max(a.value.abs().max(), b.value.abs().max()):  # of rounding
        variance = (a.se**2).sum(skipna=False) / n**2 + (b.se**2).sum(skipna=False) / m**2
        return "sampling", float(variance**0.5), np.inf
    return method, error, freedom


def ratio(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, float]:
    """B over A: mean and t-interval over chains of the same seeds, else the ratio of the means."""
    paired = a.index.equals(b.index)
    with np.errstate(divide="ignore", invalid="ignore"):
        value, half = interval((b.value / a.value) if paired else [b.value.mean() / a.value.mean()])
    return {"ratio": value, "low": value - half, "high": value + half}


def described(frame: pd.DataFrame) -> str:
    """`textured_digits, 31 arms, chains 0 1 2`."""
    seeds = sorted(set(frame.seed.dropna()) - {-1})
    arms = frame.arm.unique()
    parts = [*frame.suite.unique(), f"{len(arms)} arms" if len(arms) > 1 else "".join(arms)]
    parts += [f"chains {' '.join(map(str, seeds))}"] if seeds else []
    return ", ".join(filter(None, parts))


def count(rows: pd.DataFrame) -> int:
    """How many rows of quality were compared."""
    return int(rows.p.notna().sum())


def failed(comparison: Comparison) -> bool:
    """Whether a row moved, broke or is gone, a chain of A is lost, or nothing was compared."""
    return bool(
        comparison.rows.verdict.isin(["moved", "not a number"]).any()
        or comparison.only_a
        or comparison.lost
        or not count(comparison.rows)
    )
