"""The report of a comparison of two runs."""

from __future__ import annotations

import math
import textwrap

import pandas as pd
from tabulate import tabulate

from hdbench.report.compare import KEY, RATE, UNCOMPARED, VERDICTS, Comparison, count, named
from hdbench.report.document import decimals_of, number

WIDTH = 118
EXPLAINED = {
    "paired": "n: of the same n seeds, differences taken chain by chain.",
    "separate": "n and m: of other seeds, the two means compared (Welch).",
    "one alone": "1 and m: one chain against others, taken to scatter as they do.",
    "sampling": "*: one chain each, or no scatter between chains: sampling errors alone, blind to "
    "what another training seed would change.",
}


def report(comparison: Comparison, everything: bool) -> str:
    """What moved, the rows nearest to it (or all), what is left out and why; 118 columns wide."""
    rows = comparison.rows
    of = {verdict: rows[rows.verdict == verdict] for verdict in VERDICTS}
    quality = rows[rows.protocol != "cost"]
    costs = rows[rows.protocol == "cost"]
    tested = pd.concat([of["moved"], of["within noise"]])
    listed = quality if everything else tested.head(max(10, len(of["moved"])))
    text = [*comparison.notes, *([quality_table(listed)] if len(listed) else [])]
    if len(tested) > len(listed):
        text.append(
            f"... and {len(tested) - len(listed)} more rows within noise; --all shows them, and "
            "costs."
        )
    if len(tested):
        text.append(
            "B - A is with its own 95% interval. p is adjusted (Benjamini-Hochberg) for the number "
            f"of quality rows that differ, {len(tested)}; a row has moved where it is {RATE} or "
            "less, so an interval without 0 is not enough."
        )
        methods = set(listed.method)
        lines = (line for method, line in EXPLAINED.items() if method in methods)
        text.append(f"chains: {' '.join(lines)}")
    if len(costs):
        text.append(cost_table(costs))
    for verdict in UNCOMPARED:
        if len(of[verdict]):
            notes = " and ".join(of[verdict].note.dropna().unique()[:3])
            names = ", ".join(map(named, of[verdict].head(3)[KEY].itertuples(index=False)))
            text.append(
                f"{verdict}: {plural(len(of[verdict]))}, such as {names}"
                + f" ({notes})" * bool(notes)
            )
    if "classifier" in "".join(of["not comparable: other protocol"].note):
        text.append(
            'The digest behind "classifier" is of the data, the classifier and the real images '
            "that all is measured with: where these differ, so do the units."
        )
    for name, keys in (("A", comparison.only_a), ("B", comparison.only_b)):
        if keys:
            text.append(
                f"{plural(len(keys))} only in {name}: {', '.join(keys[:10])}"
                + ", ..." * (len(keys) > 10)
            )
    return "\n".join(
        [line if "\n" in line else textwrap.fill(line, WIDTH) for line in [*text, sentence(rows)]]
    )


def quality_table(rows: pd.DataFrame) -> str:
    """Values to the digits of the difference's interval; long arms and verdicts are wrapped."""
    titles = ["arm", "nfe", "metric", "A", "B", "B - A", "chains", "p", "verdict"]
    cells = []
    for row in rows.fillna({"method": "", "chains": "-"}).itertuples():
        change, decimals = with_half_width(row.difference, row.high - row.difference, signed=True)
        p = "< 0.001" if row.p_adjusted < 0.001 else f"{row.p_adjusted:.3f}"
        cells.append(
            [
                row.arm,
                "-" if row.nfe == -1 else row.nfe,
                row.metric,
                shown(row.a, decimals),
                shown(row.b, decimals),
                change,
                row.chains + "*" * (row.method == "sampling"),
                "-" if pd.isna(row.p) else p,
                row.verdict,
            ]
        )
    widest = [
        max(len(title) + 2, *(len(str(row[i])) for row in cells)) for i, title in enumerate(titles)
    ]
    widest[-1] = min(widest[-1], 14)
    limits = [max(8, WIDTH - sum(widest[1:]) - 2 * len(widest[1:])), *[None] * 7, 14]
    return tabulate(
        cells,
        titles,
        disable_numparse=True,
        maxcolwidths=limits,
        colalign=("left", "right", "left", *["right"] * 5, "left"),
    )


def cost_table(rows: pd.DataFrame) -> str:
    """Costs with their ratios, mean and 95% interval over chains of the same seeds."""
    cells = [
        [
            row.arm,
            "-" if row.nfe == -1 else row.nfe,
            row.metric,
            shown(row.a),
            shown(row.b),
            "1 (identical)"
            if row.verdict == "identical"
            else with_half_width(row.ratio, row.high - row.ratio)[0],
            row.chains,
        ]
        for row in rows.itertuples()
    ]
    return (
        "\n"
        + tabulate(
            cells,
            ["arm", "nfe", "cost", "A", "B", "B / A", "chains"],
            disable_numparse=True,
            colalign=("left", "right", "left", *["right"] * 4),
        )
        + "\n"
    )


def with_half_width(value: float, half: float, signed: bool = False) -> tuple[str, int | None]:
    """`+0.52 ± 0.11`, to two digits of the half-width, and its decimals; None without one."""
    if not half > 1e-9 * abs(value):
        return shown(value, None, signed), None
    decimals = decimals_of(half)
    return f"{shown(value, decimals, signed)} ± {shown(half, decimals)}", decimals


def shown(value: float, decimals: int | None = None, signed: bool = False) -> str:
    return number(value, decimals, signed) if math.isfinite(value) else "-"


def plural(n: int) -> str:
    return f"{n:,} row{'' if n == 1 else 's'}"


def sentence(rows: pd.DataFrame) -> str:
    """The end of a report: how many rows moved, did not, and could not be compared."""
    n = rows[rows.p.notna()].verdict.value_counts()
    left = int(rows.verdict.isin(UNCOMPARED).sum())
    if not count(rows):
        return f"Of {left} quality rows none could be compared."
    moved = n.get("moved", 0)
    return (
        f"{moved} of {count(rows)} quality rows moved beyond noise"
        + f" (of such findings at most {RATE:.0%} are expected to be false)" * bool(moved)
        + f", {n.get('within noise', 0)} are within noise, {n.get('identical', 0)} identical to "
        "the bit" + f"; {left} could not be compared" * bool(left) + "."
    )
