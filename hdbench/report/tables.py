"""The suite's tables, as csv for machines, and as Markdown, LaTeX and HTML for people.

Missing is "-", never 0, and a footnote says why.
"""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from hdbench.core.files import write_atomic
from hdbench.metrics.records import read_metrics
from hdbench.report.columns import QUALITY, Cell, Column, columns_of
from hdbench.report.document import (
    Rendered,
    as_text,
    for_people,
    to_csv,
    to_html,
    to_markdown,
    to_tex,
)
from hdbench.report.numbers import Entry, Numbers, figures_folder, metrics_file, tables_folder
from hdbench.suite.arms import base_arm, describe, head_of, is_teacher
from hdbench.suite.plan import Plan

FOOTNOTES = {
    "†": "Reconstruction: the paper gives no formula for its adaptive weighted discriminator.",
    "‡": "Not available: the metrics lack a number of this row, as before its stages have run.",
    "§": "Fewer chains than the suite has, in all columns or some; a single one has its sampling interval.",
    "¶": "Not a number in at least one chain.",
}
RANKS = "Bold: better than every other model here by a 95% interval of paired differences; italic: than all but that one."


def marks(numbers: Numbers, entry: Entry, columns: list[Column], cells: list[Cell]) -> str:
    """Footnote marks of a row: reconstruction, missing, fewer chains, not a number."""
    arm, (have, all_chains) = numbers.plan.arms[entry.arm], numbers.chains(entry)
    found = numbers.of(entry)
    fewer = 0 < have < all_chains or any(  # a column alone may lack a chain that the row has
        0 < len(numbers.of(entry, column.key)) < have for column in columns if column.expected
    )
    broken = (
        not found.value[found.metric.isin([column.key for column in columns])]
        .map(math.isfinite)
        .all()
    )
    itself = (
        numbers.counted("fd_test") if arm.real == "test" else None
    )  # test images against themselves measure nothing
    missing = any(
        column.expected and cell == "-"
        for column, cell in zip(columns, map(for_people, columns, cells))
        if column.key != itself
    )
    return "".join(
        mark
        for mark, holds in {
            "†": (head_of(arm) or "").startswith("awd"),
            "‡": missing and not broken,
            "§": fewer,
            "¶": broken,
        }.items()
        if holds
    )


def render(numbers: Numbers, table: str, keys: list[str] | None = None) -> Rendered:
    """The table of the suite's `tables.<table>`, or some of its columns; in main, real images stand on top."""
    plan = numbers.plan
    spec = getattr(plan.suite.tables, table)
    real = [name for name, arm in plan.arms.items() if arm.real] if table == "main" else []
    columns, rows = (
        [column for column in columns_of(table, numbers) if keys is None or column.key in keys],
        [],
    )
    for entry in (e for name in dict.fromkeys([*real, *spec.rows]) for e in numbers.entries(name)):
        cells = [column.cell(entry) for column in columns]
        rows.append((entry, cells, marks(numbers, entry, columns, cells)))
    entries = [entry for entry, _, _ in rows]
    ranks = {
        (entries.index(entry), index): rank
        for index, column in enumerate(columns)
        for entry, rank in ranked(numbers, entries, column).items()
    }
    used = "".join(m for _, _, m in rows)
    footnotes = [f"{mark} {text}" for mark, text in FOOTNOTES.items() if mark in used]
    footnotes += [RANKS] if ranks else []
    footnotes += explanations(numbers, " ".join(column.title for column in columns)) + numbers.notes
    return Rendered(
        label=f"{plan.name}-{table}",
        caption=caption(numbers, spec.caption, entries),
        footnotes=footnotes,
        columns=columns,
        rows=rows,
        ranks=ranks,
    )


def ranked(numbers: Numbers, entries: list[Entry], column: Column) -> dict[Entry, str]:
    """The best of the models and the second best, each only if it beats all that come after it by a paired 95% interval."""
    sign = {"↓": 1, "↑": -1}.get(column.title[-1:])
    if sign is None:
        return {}
    metric = column.key.removesuffix(numbers.counted(""))
    models = [
        entry
        for entry in entries
        if not numbers.plan.arms[entry.arm].real and math.isfinite(numbers(entry, column.key).value)
    ]
    order, found = sorted(models, key=lambda e: sign * numbers(e, column.key).value), {}
    for place, name in enumerate(("best", "second")):
        behind = (
            [numbers.difference(order[place], other, metric) for other in order[place + 1 :]]
            if place < len(order)
            else []
        )
        if behind and all(
            sign * value + half < 0 for value, half in behind
        ):  # false where the interval is not known
            found[order[place]] = name
    return found


def caption(numbers: Numbers, text: str, entries: list[Entry]) -> str:
    """The suite's caption, then what the numbers are."""
    plan, over = numbers.plan, numbers.over
    kind = (
        f"{over}, with its 95% sampling interval"
        if numbers.alone
        else f"means over {over} (teacher included) with 95% t-intervals"
    )
    if not numbers.alone and any(plan.arms[entry.arm].real for entry in entries):
        kind += "; real images with 95% sampling intervals"
    return f"{text.strip().rstrip('.')}. {plan.suite.title}. N = {plan.suite.evaluation.samples:,} images a set; {kind}."


def explanations(numbers: Numbers, titles: str) -> list[str]:
    """What the columns mean that do not explain themselves."""
    arms, base = numbers.plan.arms, base_arm(numbers.plan)
    protocol = ", ".join(sorted(set(numbers.frame.protocol) - {"cost"})) or "-"
    teachers = [e for name, arm in arms.items() if is_teacher(arm) for e in numbers.entries(name)]
    spent = (
        for_people(None, numbers(teachers[0], "teacher_forward_equivalents"), 1e-3)
        if teachers
        else "-"
    )
    return [
        text
        for word, text in {
            "Method": "A → B + C: stage 2 with objective B and discriminator head C, started from A; from a trajectory student "
            "(TD), this is HD.",
            "FD": f"FD: Frechet distance in features of {protocol}, to real images of either split.",
            "Band": "Band: power in that band of radial frequency, low to high, over that of real training images; 1 is right.",
            "SD of": "SD: standard deviation of one chain's value; of sampling, by the influence of each sample; of training, "
            "what is left of the variance over chains, 0 where sampling alone explains it.",
            "ms/image": "ms/image: wall time of sampling as it was; other work on the machine shows in its interval.",
            "FLOPs": "FLOPs: counted by PyTorch for the network's evaluations of one image, 2 a multiplication and addition.",
            "to base": f"Base: {describe(numbers.plan, base) if base else '-'}.",
            "kFE": f"kFE: thousand forward-equivalents of the network in training, without the teacher's ({spent} kFE), which "
            "all arms share; heads are not counted.",
            "core-s": "Core-s, GPU s, queue s: seconds of CPU cores, of allocated GPUs, and in a scheduler's queue; of TD and "
            "stage 2 together where the column does not say. Peak MB: the most main memory that a stage had, over all "
            'its processes. "-" where a stage was run before these were recorded.',
        }.items()
        if word in titles
    ]


def write_tables(
    plan: Plan, frame: pd.DataFrame, results: Path, out: Path | None, anybody: bool = False
) -> list[Path]:
    """All tables into out/<suite>/ or results/<suite>/tables/, each as csv, md and tex, beside the metrics they were rendered from; the paths.

    `anybody`: the metrics need not be of the present version of the suite; what cannot be used is left out and said.
    """
    folder = tables_folder(plan, results, out)
    numbers, written = Numbers(plan, frame, results, anybody), [folder / "metrics.csv"]
    write_atomic(written[0], frame.to_csv(index=False, lineterminator="\n"))
    if (run := metrics_file(plan, results).with_name("run.json")).is_file():
        written.append(folder / run.name)
        write_atomic(written[-1], run.read_text(encoding="utf-8"))
    for name in plan.tables:
        table = render(numbers, name)
        for suffix, write in {
            "csv": to_csv,
            "md": to_markdown,
            "tex": to_tex,
            "html": to_html,
        }.items():
            written.append(folder / f"{name}.{suffix}")
            write_atomic(written[-1], write(table))
    return written


def print_main(
    plan: Plan, results: Path = Path("results"), out: Path | None = None, width: int = 118
) -> None:
    """The main table in at most `width` columns, then where tables, figures and report lie."""
    numbers = Numbers(plan, read_metrics(metrics_file(plan, results)), results)
    quality = map(numbers.counted, QUALITY[plan.suite.evaluation.protocol])
    table = render(numbers, "main", ["method", "nfe", *quality, "training_forward_equivalents"])
    titles, rows = as_text(table)
    others = [
        max(len(title) + 2, *(len(row[i]) for row in rows)) for i, title in enumerate(titles) if i
    ]
    limits = [max(20, width - sum(others) - 2 * len(others)), *[None] * len(others)]
    print(
        tabulate(
            rows,
            headers=titles,
            tablefmt="simple",
            disable_numparse=True,
            maxcolwidths=limits,
            colalign=["left", *["right"] * len(others)],
        )
    )
    for note in [table.caption, *table.footnotes]:
        print(textwrap.fill(note, width))
    tables, report = tables_folder(plan, results, out), results / plan.name / "report.html"
    figures = figures_folder(plan, results, out)
    missing = (
        ""
        if report.is_file()
        else f" (missing; make it with: snakemake --report {report} --config suite={plan.given})"
    )
    print(f"tables:  {tables}\nfigures: {figures}\nreport:  {report}{missing}")
