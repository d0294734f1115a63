"""Two runs compared row by row: which numbers moved beyond noise, and which cannot be compared.

A row is an arm, its nfe and a metric, with a value of every chain (seed).  Difference: B minus A.  Its interval and p by
  paired     chains that both have, at least two: t of the differences, chain by chain
  separate   chains of other seeds, several each: Welch's t
  one alone  one chain against several others: t, with the scatter of the several for both
  sampling   one chain each, or differences without any scatter: the standard errors of sampling combined, normal
Benjamini and Hochberg's procedure controls the share of false discoveries over all compared rows of quality that differ.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from tabulate import tabulate

from hdbench.collect import COLUMNS, interval, with_count
from hdbench.config import nearest
from hdbench.errors import UserError
from hdbench.tables import number

KEY = ["suite", "arm", "nfe", "metric"]
RATE = 0.05  # of false discoveries
RESULT = {**{key: COLUMNS[key] for key in KEY}, "a": "float64", "b": "float64", "difference": "float64", "ratio": "float64",
          "low": "float64", "high": "float64", "chains": "str", "method": "str", "p": "float64", "p_adjusted": "float64",
          "verdict": "str", "protocol": "str", "note": "str"}
VERDICTS = ("moved", "within noise", "identical", "no error known", "not a number", "not comparable: other N",
            "not comparable: other protocol", "cost")  # in the order of the report
UNCOMPARED = VERDICTS[3:-1]
WIDTH = 118
EXPLAINED = {
    "paired": "n: of the same n seeds, differences taken chain by chain.",
    "separate": "n and m: of other seeds, the two means compared (Welch).",
    "one alone": "1 and m: one chain against others, taken to scatter as they do.",
    "sampling": "*: one chain each, or no scatter between chains: sampling errors alone, blind to what another training seed "
                "would change."}


class Comparison(NamedTuple):
    """`rows` with the columns `RESULT`, what moved first; rows of one file alone by name; sentences on the matching; `lost`,
    chains (arm and seed) that only A has, of arms that share others with B.
    """

    rows: pd.DataFrame
    only_a: list[str]
    only_b: list[str]
    notes: list[str]
    lost: list[str]


def compare(a: pd.DataFrame, b: pd.DataFrame, metrics: Sequence[str] = (), costs: bool = False) -> Comparison:
    """Compare two frames of `hdbench.collect`; `metrics` keeps those alone, by their names with or without sample count.

    Raises UserError for an unknown metric, and where no row stands in both.
    """
    a, b, notes = align(*(keep(frame, a, b, metrics, costs) for frame in (a, b)))
    one, two = ({key: group.set_index("seed") for key, group in frame.groupby(KEY, sort=False)} for frame in (a, b))
    found = [dict(zip(KEY, key)) | compare_row(one[key], two[key]) for key in one if key in two]
    only_a, only_b = ([key for key in mine if key not in others] for mine, others in ((one, two), (two, one)))
    bases = {(*key[:3], base(two[key])): key for key in only_b}
    for key in list(only_a):
        other = bases.pop((*key[:3], base(one[key])), None)
        if other is not None:
            only_a.remove(key), only_b.remove(other)
            found.append(dict(zip(KEY, key)) | {"verdict": "not comparable: other N", "note": f"{key[3]} and {other[3]}",
                                                "protocol": one[key].protocol.iloc[0]})
    if not found:
        raise UserError(f"no row stands in both A ({described(a)}) and B ({described(b)}); rows are matched by suite, arm, "
                        "nfe and metric")
    rows = pd.DataFrame(found, columns=list(RESULT)).astype(RESULT)
    tested = rows.p.notna() & (rows.verdict != "identical")  # what is the same to the bit is no test of anything
    rows.loc[rows.p.notna(), "p_adjusted"] = rows.p
    if tested.any():
        rows.loc[tested, "p_adjusted"] = stats.false_discovery_control(rows.p[tested])
    rows.loc[rows.p_adjusted <= RATE, "verdict"] = "moved"
    rows = rows.sort_values(["verdict", "p"], kind="stable", ignore_index=True,
                            key=lambda column: column.map(VERDICTS.index) if column.name == "verdict" else column)
    lost, new = lone_chains(a, b), lone_chains(b, a)
    notes += [f"Chains of which only {name} has all numbers: {', '.join(chains[:10])}{', ...' * (len(chains) > 10)}."
              for name, chains in (("A", lost), ("B", new)) if chains]
    return Comparison(rows, *([named(key) for key in keys] for keys in (only_a, only_b)), notes, lost)


def lone_chains(a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    """`hd 1`: chains of which `a` has a number that `b` lacks, of rows of which both have other chains in common."""
    seeds = [frame.groupby(KEY, sort=False).seed.agg(set) for frame in (a, b)]
    return list(dict.fromkeys(f"{key[1]} {seed}" for key, own in seeds[0].items() if own & seeds[1].get(key, set())
                              for seed in sorted(own - seeds[1][key])))


def named(key: Sequence[Any]) -> str:
    """`hd 1 fd_test_4k`: arm, nfe and metric of a key."""
    return " ".join("-" if part == -1 else str(part) for part in key[-3:])


def keep(frame: pd.DataFrame, a: pd.DataFrame, b: pd.DataFrame, metrics: Sequence[str], costs: bool) -> pd.DataFrame:
    """The rows that are wanted; chains and nfe that do not apply are -1."""
    known = {name for part in (a, b) for pair in zip(part.metric, bare(part)) for name in pair}
    if (unknown := [metric for metric in metrics if metric not in known]):
        raise UserError(f"--metric = {unknown[0]!r}: in neither file" + nearest(unknown[0], known))
    wanted = frame.metric.isin(metrics) | bare(frame).isin(metrics) if metrics else pd.Series(True, frame.index)
    return frame[wanted & (costs | (frame.protocol != "cost"))].fillna({"seed": -1, "nfe": -1})


def bare(frame: pd.DataFrame) -> pd.Series:
    """Names of metrics without their sample counts."""
    names = [metric if pd.isna(n) else metric.removesuffix(with_count("", n)) for metric, n in zip(frame.metric, frame.n)]
    return pd.Series(names, frame.index, dtype="str")


def base(rows: pd.DataFrame) -> str:
    return bare(rows).iloc[0]


def align(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Both with equal names where a file has a single suite, or a single arm, and the other another; and what was renamed."""
    notes = []
    for column, note in (("suite", "The suite is {} in A and {} in B; rows are matched without it."),
                         ("arm", "A has the single arm {}, B the single arm {}; these two are compared.")):
        names = [frame[column].unique() for frame in (a, b)]
        if [len(name) for name in names] == [1, 1] and names[0][0] != names[1][0]:
            shared = " / ".join(name[0] for name in names)
            a, b = (frame.assign(**{column: shared}) for frame in (a, b))
            notes.append(note.format(*(name[0] for name in names)))
    return a, b, notes


def compare_row(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, Any]:
    """What `RESULT` says of one row, from its values and standard errors by seed, before p is adjusted."""
    result: dict[str, Any] = {"a": a.value.mean(skipna=False), "b": b.value.mean(skipna=False),
                              "chains": f"{len(a)} and {len(b)}", "protocol": a.protocol.iloc[0]}
    for column, what in (("protocol", "protocol"), ("n", "N")):
        here, there = (sorted(set(frame[column].dropna())) for frame in (a, b))
        if here != there:
            return result | {"verdict": f"not comparable: other {what}",
                             "note": " and ".join("/".join(map(str, found)) for found in (here, there))}
    if not np.isfinite([*a.value, *b.value]).all():
        return result | {"verdict": "not a number"}
    shared = a.index.intersection(b.index)
    if len(shared) > 1 or (len(shared) == 1 and 1 in (len(a), len(b))):
        a, b = a.loc[shared], b.loc[shared]
        result |= {"a": a.value.mean(), "b": b.value.mean(), "chains": str(len(shared))}
    same = a.index.isin(shared).all() and (a.value == b.value.reindex(a.index)).all()
    if result["protocol"] == "cost":
        return result | ratio(a, b) | {"verdict": "identical" if same else "cost"}
    if same:
        return result | {"difference": 0.0, "p": 1.0, "verdict": "identical"}
    method, error, freedom = noise(a, b, shared)
    if not error > 0:
        return result | {"difference": result["b"] - result["a"], "verdict": "no error known"}
    difference, half = result["b"] - result["a"], stats.t.ppf(0.975, freedom) * error
    return result | {"difference": difference, "low": difference - half, "high": difference + half, "method": method,
                     "p": 2 * stats.t.sf(abs(difference) / error, freedom), "verdict": "within noise"}


def noise(a: pd.DataFrame, b: pd.DataFrame, shared: pd.Index) -> tuple[str, float, float]:
    """Method, standard error of the difference of the two means, and degrees of freedom; see the head of this file."""
    n, m = len(a), len(b)
    method, error, freedom = "sampling", 0.0, np.inf
    if len(shared) == n == m and n > 1:
        method, error, freedom = "paired", float(stats.sem(b.value - a.value)), n - 1
    elif n > 1 and m > 1:
        parts = np.array([a.value.var() / n, b.value.var() / m])
        if parts.sum() > 0:
            method, error = "separate", float(parts.sum() ** 0.5)
            freedom = float(parts.sum() ** 2 / (parts**2 / [n - 1, m - 1]).sum())
    elif n > 1 or m > 1:
        several = a if n > 1 else b
        method, error, freedom = "one alone", float(several.value.std() * (1 + 1 / len(several)) ** 0.5), len(several) - 1
    if error <= 1e-9 * max(a.value.abs().max(), b.value.abs().max()):  # of rounding
        return "sampling", float(((a.se**2).sum(skipna=False) / n**2 + (b.se**2).sum(skipna=False) / m**2) ** 0.5), np.inf
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
    return ", ".join(filter(None, [*frame.suite.unique(), f"{len(arms)} arms" if len(arms) > 1 else "".join(arms),
                                   f"chains {' '.join(map(str, seeds))}" if seeds else ""]))


def report(found: Comparison, everything: bool) -> str:
    """For people, in at most 118 columns: what moved, the rows nearest to it (or all), what is left out and why."""
    rows = found.rows
    of = {verdict: rows[rows.verdict == verdict] for verdict in VERDICTS}
    quality, costs = rows[rows.protocol != "cost"], rows[rows.protocol == "cost"]
    tested = pd.concat([of["moved"], of["within noise"]])
    listed = quality if everything else tested.head(max(10, len(of["moved"])))
    text = [*found.notes, *([quality_table(listed)] if len(listed) else [])]
    if len(tested) > len(listed):
        text.append(f"... and {len(tested) - len(listed)} more rows within noise; --all shows them, and costs.")
    if len(tested):
        text.append("B - A is with its own 95% interval. p is adjusted (Benjamini-Hochberg) for the number of quality rows "
                    f"that differ, {len(tested)}; a row has moved where it is {RATE} or less, so an interval without 0 is not "
                    "enough.")
        text.append("chains: " + " ".join(line for method, line in EXPLAINED.items() if method in set(listed.method)))
    if len(costs):
        text.append(cost_table(costs))
    for verdict in UNCOMPARED:
        if len(of[verdict]):
            notes = " and ".join(of[verdict].note.dropna().unique()[:3])
            names = ", ".join(map(named, of[verdict].head(3)[KEY].itertuples(index=False)))
            text.append(f"{verdict}: {plural(len(of[verdict]))}, such as {names}" + f" ({notes})" * bool(notes))
    if "classifier:" in "".join(of["not comparable: other protocol"].note):
        text.append("The digest behind \"classifier:\" is of the data, the classifier and the real images that all is "
                    "measured with: where these differ, so do the units.")
    for name, keys in (("A", found.only_a), ("B", found.only_b)):
        if keys:
            text.append(f"{plural(len(keys))} only in {name}: {', '.join(keys[:10])}" + ", ..." * (len(keys) > 10))
    return "\n".join([line if "\n" in line else textwrap.fill(line, WIDTH) for line in [*text, sentence(rows)]])


def quality_table(rows: pd.DataFrame) -> str:
    """Values to the digits of the difference's interval; arms and verdicts on several lines where they are long."""
    titles, cells = ["arm", "nfe", "metric", "A", "B", "B - A", "chains", "p", "verdict"], []
    for row in rows.fillna({"method": "", "chains": "-"}).itertuples():
        change, decimals = with_half_width(row.difference, row.high - row.difference, signed=True)
        p = "-" if pd.isna(row.p) else "< 0.001" if row.p_adjusted < 0.001 else f"{row.p_adjusted:.3f}"
        cells.append([row.arm, "-" if row.nfe == -1 else row.nfe, row.metric, shown(row.a, decimals), shown(row.b, decimals),
                      change, row.chains + "*" * (row.method == "sampling"), p, row.verdict])
    widest = [max(len(title) + 2, *(len(str(row[i])) for row in cells)) for i, title in enumerate(titles)]
    widest[-1] = min(widest[-1], 14)
    limits = [max(8, WIDTH - sum(widest[1:]) - 2 * len(widest[1:])), *[None] * 7, 14]
    return tabulate(cells, titles, disable_numparse=True, maxcolwidths=limits,
                    colalign=("left", "right", "left", *["right"] * 5, "left"))


def cost_table(rows: pd.DataFrame) -> str:
    """Costs with their ratios, mean and 95% interval over chains of the same seeds."""
    cells = [[row.arm, "-" if row.nfe == -1 else row.nfe, row.metric, shown(row.a), shown(row.b), "1 (identical)" if
              row.verdict == "identical" else with_half_width(row.ratio, row.high - row.ratio)[0], row.chains]
             for row in rows.itertuples()]
    return "\n" + tabulate(cells, ["arm", "nfe", "cost", "A", "B", "B / A", "chains"], disable_numparse=True,
                           colalign=("left", "right", "left", *["right"] * 4)) + "\n"


def with_half_width(value: float, half: float, signed: bool = False) -> tuple[str, int | None]:
    """`+0.52 ± 0.11`, to two digits of the half-width, and how many decimals that is; None without a half-width."""
    if not half > 1e-9 * abs(value):
        return shown(value, None, signed), None
    decimals = max(0, 1 - math.floor(math.log10(float(f"{half:.1e}"))))
    return f"{shown(value, decimals, signed)} ± {shown(half, decimals)}", decimals


def shown(value: float, decimals: int | None = None, signed: bool = False) -> str:
    return number(value, decimals, signed) if math.isfinite(value) else "-"


def plural(n: int) -> str:
    return f"{n:,} row{'' if n == 1 else 's'}"


def count(rows: pd.DataFrame) -> int:
    """How many rows of quality were compared."""
    return int(rows.p.notna().sum())


def sentence(rows: pd.DataFrame) -> str:
    """The end of a report: how many rows moved, did not, and could not be compared."""
    n, left = rows[rows.p.notna()].verdict.value_counts(), int(rows.verdict.isin(UNCOMPARED).sum())
    if not count(rows):
        return f"Of {left} quality rows none could be compared."
    moved = n.get("moved", 0)
    return (f"{moved} of {count(rows)} quality rows moved beyond noise"
            + (" (of such findings at most 5% are expected to be false)" if moved else "")
            + f", {n.get('within noise', 0)} are within noise, {n.get('identical', 0)} identical to the bit"
            + (f"; {left} could not be compared." if left else "."))


def failed(found: Comparison) -> bool:
    """Whether a row moved, is not a number or stands in A alone, a chain of A is lost, or nothing could be compared."""
    return bool(found.rows.verdict.isin(["moved", "not a number"]).any() or found.only_a or found.lost
                or not count(found.rows))
