"""One table of the reference run's arms and of bundles, ranked no finer than the numbers allow.

Rows are compared only where protocol (data, classifier and real images by their digest), distance
and N are equal; other rows stand in a table of their own.  Within a table places are among rows of
as many evaluations of the network.  Row a is better than b for certain where the difference over
chains (paired for equal seeds, else Welch's) passes Benjamini and Hochberg's procedure at 5% over
all pairs of the table.  A row's places go from one behind those that are better for certain, to one
before those that are worse: rows that share places are not ranked.  A row of a single chain says
nothing of what another training seed would change, and has no place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from hdbench.core.errors import UserError
from hdbench.metrics import metric_of
from hdbench.metrics.records import MISSING, Interval, interval, read_metrics, with_count
from hdbench.report.compare import RATE, compare_row
from hdbench.report.document import Cell, Document, for_people, write
from hdbench.report.numbers import Numbers
from hdbench.report.submissions.bundle import name_of, read_numbers, read_record, unranked
from hdbench.report.submissions.checks import problems
from hdbench.report.tables.render import FOOTNOTES
from hdbench.suite.plan import Plan

SHARES = ("precision", "recall")
COSTS = {"parameters": 1e-6, "training_forward_equivalents": 1e-3}


class Line(NamedTuple):
    """A row of the leaderboard: an arm at a number of evaluations."""

    method: str
    source: str
    arm: str
    nfe: int
    protocol: str
    metric: str  # the distance, with its N
    chains: pd.DataFrame  # of the distance, by seed: value, se, n, protocol
    others: dict[str, Interval]  # SHARES and COSTS
    tried: str
    is_judged: bool = True  # not trained on what the distance reads

    @property
    def distance(self) -> Interval:
        values = self.chains.value.to_numpy()
        return interval(values, self.chains.se.iloc[0], metric_of(self.metric))


def lines_of(
    frame: pd.DataFrame,
    names: dict[str, str],
    distance: str,
    source: str,
    unjudged: Sequence[str],
    tried: str = "-",
) -> list[Line]:
    """The rows of these arms that have the distance (a metric with its N)."""
    lines = []
    for (arm, nfe), rows in frame[frame.arm.isin(names)].groupby(["arm", "nfe"], sort=False):
        chains = rows[rows.metric == distance].set_index("seed")
        if chains.empty:
            continue
        count = chains.n.iloc[0]
        wanted = {with_count(name, count): name for name in SHARES} | dict.fromkeys(COSTS)
        others = {
            name or metric: interval(values.value.to_numpy(), values.se.iloc[0], metric_of(metric))
            for metric, name in wanted.items()
            if len(values := rows[rows.metric == metric])
        }
        lines.append(
            Line(
                method=names[arm],
                source=source,
                arm=arm,
                nfe=int(nfe),
                protocol=chains.protocol.iloc[0],
                metric=distance,
                chains=chains,
                others=others,
                tried=tried,
                is_judged=arm not in unjudged,
            )
        )
    return lines


def of_reference(numbers: Numbers) -> list[Line]:
    """The suite's own arms but for real images, by its chains."""
    plan = numbers.plan
    names = {name: name_of(plan, name) for name, arm in plan.arms.items() if not arm.real}
    distance = numbers.counted(numbers.distance)
    return lines_of(numbers.frame, names, distance, plan.name, unranked(plan, names))


def of_bundle(bundle: Path) -> list[Line]:
    """A bundle's arms, by the chains that it declares; UserError where it is not sound."""
    if wrong := problems(bundle):
        raise UserError(
            f"{bundle}: {wrong[0]}; `hdbench validate {bundle}` lists all {len(wrong)} problems"
        )
    record = read_record(bundle)
    frame = read_numbers(bundle)
    frame = frame[frame.seed.isin(record.seeds) | frame.seed.isna()]
    distance = with_count(record.distance, record.samples)
    unjudged = record.trained_on_distance
    tried = str(record.settings_tried)
    return lines_of(frame, record.arms, distance, record.title, unjudged, tried)


def places(lines: Sequence[Line]) -> list[tuple[int, int] | None]:
    """First and last place of each line among those of its NFE, from 1; None: has none.

    A smaller distance is better.  The module's docstring says when a difference is certain.
    """
    ranked = [i for i, line in enumerate(lines) if has_place(line)]
    pairs = [(i, j) for i, j in combinations(ranked, 2) if lines[i].nfe == lines[j].nfe]
    rows = [compare_row(lines[i].chains, lines[j].chains) for i, j in pairs]
    tested = [k for k, row in enumerate(rows) if row.get("method") in ("paired", "separate")]
    adjusted = stats.false_discovery_control([rows[k]["p"] for k in tested]) if tested else []
    better = np.zeros((len(lines), len(lines)), bool)
    for k, p in zip(tested, adjusted, strict=True):
        i, j = pairs[k]
        if p <= RATE:
            better[(i, j) if rows[k]["difference"] > 0 else (j, i)] = True
    result: list[tuple[int, int] | None] = [None] * len(lines)
    for i in ranked:
        rivals = [j for j in ranked if lines[j].nfe == lines[i].nfe]
        result[i] = (1 + int(better[:, i].sum()), len(rivals) - int(better[i].sum()))
    return result


def has_place(line: Line) -> bool:
    """Whether the distance judges it, over several chains that were trained apart."""
    chains = line.chains
    distinct = len(chains[["digest", "value"]].drop_duplicates()) > 1
    return line.is_judged and distinct and bool(np.isfinite(chains.value).all())


def order(line: Line) -> tuple[int, bool, float]:
    """By NFE, then by distance, those that are no number last."""
    value = line.distance.value
    return line.nfe, math.isnan(value), value


def leaderboard(lines: Sequence[Line], title: str) -> Document:
    """One table of each protocol, that of the first line first; sorted by NFE, then by distance."""
    by_protocol: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        by_protocol.setdefault((line.protocol, line.metric), []).append(line)
    tables = [_table(sorted(group, key=order), *key, title) for key, group in by_protocol.items()]
    first, *others = tables
    names = "".join(str(row[0]) for table in tables for row in table.rows)
    marks = [f"{mark} {FOOTNOTES[mark]}" for mark in "†‖" if mark in names]
    return Document(
        label=first.label,
        caption=first.caption,
        columns=first.columns,
        rows=first.rows,
        records=pd.concat([table.records for table in tables], ignore_index=True),
        notes=[*NOTES, *marks]
        + [f"Table {k}: {table.caption}" for k, table in enumerate(others, 2)],
        then=others,
    )


def write_leaderboard(
    plan: Plan, metrics: Path | None, results: Path, bundles: Sequence[Path], out: Path
) -> list[Path]:
    """The suite's numbers in a file of metrics, and bundles, as out.{html,csv,md}; the paths.

    UserError without any row, for two bundles of one title, and for a bundle that is not sound.
    """
    lines = []
    if metrics is not None:
        frame = read_metrics(metrics, strict=False)
        lines += of_reference(Numbers(plan, frame, results, lenient=True))
    for bundle in bundles:
        added = of_bundle(bundle)
        if {line.source for line in added} & {line.source for line in lines}:
            raise UserError(f"{bundle}: has the title of another; submit it with another --title")
        lines += added
    if not lines:
        raise UserError("there is no row to show; name bundles, or --metrics with numbers")
    return write(leaderboard(lines, plan.suite.title), out, ("html", "csv", "md"))


NOTES = [
    "Place: among rows of as many NFE; from one behind those that are better for certain to one "
    "before those that are worse (t over chains, paired for equal seeds; false discoveries kept to "
    "5% over all pairs of the table). Rows that share places are not told apart, whatever their "
    "order here. No place has a row of one chain, whose interval is without the noise of training, "
    "and one that was trained on the features that the distance reads.",
    "Intervals: 95%, t over chains; of one chain, of its samples alone. Rows of another protocol, "
    "that is of other data, classifier, real images or versions of these, are in another table.",
    "Training: thousand forward-equivalents of the network, without the teacher. Settings tried: "
    'as the author declares, before the one shown; "-" of the suite\'s own arms: see its tables.',
]


def _table(lines: Sequence[Line], protocol: str, metric: str, title: str) -> Document:
    ranked = places(lines)
    rows = []
    records = []
    for line, place in zip(lines, ranked, strict=True):
        shown = "-" if place is None else "-".join(map(str, dict.fromkeys(place)))
        others = {name: line.others.get(name, "-") for name in (*SHARES, *COSTS)}
        cells = [for_people(others[name], COSTS.get(name, 1.0)) for name in others]
        number = Cell(for_people(line.distance), math=True)
        chains = line.chains.index.nunique(dropna=False)
        text = [shown, f"{line.nfe}", number, f"{chains}", *cells, line.tried, line.source]
        rows.append([line.method + "‖" * (not line.is_judged), *text])
        records.append(
            {"method": line.method, "source": line.source, "arm": line.arm, "nfe": line.nfe}
            | {"protocol": protocol, "metric": metric, "chains": chains, "place": shown}
            | {"value": line.distance.value, "half_width": line.distance.half_width}
            | {name: line.others.get(name, MISSING).value for name in others}
            | {"settings_tried": line.tried, "digests": " ".join(dict.fromkeys(line.chains.digest))}
        )
    told_apart = sum(place is not None and place[0] > 1 for place in ranked)
    caption = f"{title}: {len(lines)} rows under {protocol}, by {metric}. "
    caption += f"Of {sum(place is not None for place in ranked)} rows with a place "
    caption += (
        f"{told_apart or 'none'} {'are' if told_apart > 1 else 'is'} behind another for certain."
    )
    columns = ["Method", "Place", "NFE", f"{metric} ↓", "Chains", "Precision ↑", "Recall ↑"]
    columns += ["Parameters, M", "Training, kFE", "Settings tried", "From"]
    return Document(
        label="leaderboard",
        caption=caption,
        columns=columns,
        rows=rows,
        records=pd.DataFrame(records),
    )
