"""A suite's tables with their cells, footnotes and emphasis.

Missing is "-", never 0, and a footnote says why.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from hdbench.core.outputs import check_outputs, write_outputs
from hdbench.evaluation.protocols import PROTOCOLS
from hdbench.metrics import METRICS
from hdbench.metrics.records import MISSING, Interval, read_metrics
from hdbench.report import document
from hdbench.report.columns import Column, Value
from hdbench.report.document import Cell, Document, for_people, number
from hdbench.report.numbers import Entry, Numbers, figures_folder, metrics_file, tables_folder
from hdbench.report.provenance import FILES
from hdbench.report.tables.base import Table
from hdbench.report.tables.kinds import TABLES, tables_of
from hdbench.suite.arms import base_arm, describe, head_of, is_reconstruction, is_teacher
from hdbench.suite.plan import Plan
from hdbench.suite.trained_on import shared

FOOTNOTES = {
    "†": "Reconstruction: the paper gives no formula for its adaptive weighted discriminator.",
    "‡": "Not available: the metrics lack a number of this row, as before its stages have run.",
    "§": "Fewer chains than the suite has, in all columns or some; a single one has its sampling "
    "interval.",
    "¶": "Not a number in at least one chain.",
    "‖": "Trained on the features that this metric reads: shown, but neither ranked nor judged.",
}
IN_CSV = {
    "†": "reconstruction",
    "‡": "not available",
    "§": "fewer chains",
    "¶": "not a number",
    "‖": "trained on a metric's features",
}
RARE = (
    "Recall, density: their sampling intervals are too short where a few outliers or a rare mode "
    "decide; in simulations 95% ones covered recall of 0.05 by outliers in 70%, and density of "
    "0.48, of skewed features in 16 dimensions, in 91%."
)
RANKS = (
    "Bold: better than every other model here by a 95% interval of paired differences and by more "
    "than the least detectable one; italic: than all but that one."
)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A table with all its cells."""

    label: str
    caption: str
    footnotes: list[str]
    columns: list[Column]
    rows: list[tuple[Entry, list[Value], str]]  # entry, cells and footnote marks
    ranks: dict[tuple[int, int], str]  # "best" or "second" by row and column, by intervals
    trained: frozenset[tuple[int, int]]  # rows and columns of models trained on the metric

    @property
    def document(self) -> Document:
        """For people; footnote marks are in the first column."""
        shown = [(index, column) for index, column in enumerate(self.columns) if column.title]
        rows = []
        for row, (_, values, mark) in enumerate(self.rows):
            cells = [self._cell(row, index, values[index]) for index, _ in shown]
            marks = [
                mark.replace("‖", ""),
                *("†" * (c.marked and "†" in mark) for _, c in shown[1:]),
            ]
            pairs = zip(cells, marks, strict=True)
            rows.append([cell._replace(text=cell.text + mark) for cell, mark in pairs])
        return Document(
            label=self.label,
            caption=self.caption,
            columns=[column.title for _, column in shown],
            rows=rows,
            notes=self.footnotes,
            records=self.records(),
        )

    def _cell(self, row: int, index: int, value: Value) -> Cell:
        rank = self.ranks.get((row, index))
        return Cell(
            self.columns[index].for_people(value) + "‖" * ((row, index) in self.trained),
            {"best": "bold", "second": "italic", None: ""}[rank],
            isinstance(value, Interval),
        )

    def records(self) -> pd.DataFrame:
        """Full precision; a column of half-widths beside one of values; missing is empty."""
        records = []
        for entry, cells, mark in self.rows:
            record = {"arm": entry.arm}
            for column, cell in zip(self.columns, cells, strict=True):
                if isinstance(cell, Interval) or cell == "reference":
                    value, half = cell if isinstance(cell, Interval) else MISSING
                    record |= {column.key: value, f"{column.key}_half_width": half}
                else:
                    record[column.key] = "" if cell == "-" else cell
            records.append(record | {"note": "; ".join(IN_CSV[m] for m in mark)})
        return pd.DataFrame(records)


def render(numbers: Numbers, name: str, keys: list[str] | None = None) -> Rendered:
    """The suite's table of this name, or some of its columns."""
    plan = numbers.plan
    table = TABLES[name]()
    columns = [column for column in table.columns(numbers) if keys is None or column.key in keys]
    entries = [entry for arm in shown_arms(plan, table) for entry in numbers.entries(arm)]
    trained = frozenset(
        (row, index)
        for row, entry in enumerate(entries)
        for index, column in enumerate(columns)
        if shared(plan, entry.arm, column.key)
    )
    rows = []
    for row, entry in enumerate(entries):
        cells = [column.cell(entry) for column in columns]
        mark = marks(numbers, entry, columns, cells) + "‖" * any(of == row for of, _ in trained)
        rows.append((entry, cells, mark))
    ranks = {
        (entries.index(entry), index): rank
        for index, column in enumerate(columns)
        for entry, rank in ranked(numbers, entries, column).items()
    }
    used = "".join(mark for _, _, mark in rows)
    footnotes = [f"{mark} {text}" for mark, text in FOOTNOTES.items() if mark in used]
    footnotes += [RANKS] if ranks else []
    footnotes += detectability(numbers, entries, columns)
    footnotes += explanations(numbers, " ".join(column.title for column in columns)) + numbers.notes
    return Rendered(
        label=f"{plan.name}-{name}",
        caption=caption(numbers, table.title(plan), entries),
        footnotes=footnotes,
        columns=columns,
        rows=rows,
        ranks=ranks,
        trained=trained,
    )


def shown_arms(plan: Plan, table: Table) -> list[str]:
    """The rows of a table; in main, real images are on top."""
    real = [name for name, arm in plan.arms.items() if arm.real] if table.name == "main" else []
    return list(dict.fromkeys([*real, *table.rows(plan)]))


def marks(numbers: Numbers, entry: Entry, columns: list[Column], cells: list[Value]) -> str:
    """Footnote marks of a row: reconstruction, missing, fewer chains, not a number."""
    arm = numbers.plan.arms[entry.arm]
    have, all_chains = numbers.chains(entry)
    rows = numbers.of(entry)
    fewer = 0 < have < all_chains or any(  # a column alone may lack a chain that the row has
        0 < len(numbers.of(entry, column.key)) < have for column in columns if column.expected
    )
    shown = rows.metric.isin([column.key for column in columns])
    broken = not rows.value[shown].map(math.isfinite).all()
    # test images against themselves measure nothing
    is_reference = arm.real == "test" and not arm.autoencoded
    itself = numbers.counted("fd_test") if is_reference else None
    missing = any(
        column.expected and column.for_people(cell) == "-"
        for column, cell in zip(columns, cells, strict=True)
        if column.key != itself
    )
    holds = {
        "†": is_reconstruction(head_of(arm)),
        "‡": missing and not broken,
        "§": fewer,
        "¶": broken,
    }
    return "".join(mark for mark in holds if holds[mark])


def ranked(numbers: Numbers, entries: list[Entry], column: Column) -> dict[Entry, str]:
    """The best model and the second, better than all behind it beyond doubt.

    That is where differences to these have 95% intervals below 0, and are beyond the least
    detectable one.
    """
    sign = {"↓": 1, "↑": -1}.get(column.title[-1:])
    if sign is None or numbers.alone:  # one chain says nothing of another training run
        return {}
    metric = column.key.removesuffix(numbers.counted(""))
    models = models_of(numbers, entries, column.key)
    least = numbers.least_detectable(models, column.key)
    models = [entry for entry in models if not shared(numbers.plan, entry.arm, column.key)]
    order = sorted(models, key=lambda e: sign * numbers(e, column.key).value)
    ranks = {}
    for place, name in enumerate(("best", "second")):
        behind = [numbers.difference(order[place], other, metric) for other in order[place + 1 :]]
        # false where the interval is not known
        if behind and all(sign * value + max(half, least) < 0 for value, half in behind):
            ranks[order[place]] = name
    return ranks


def models_of(numbers: Numbers, entries: list[Entry], key: str) -> list[Entry]:
    """The entries of models, not of real images, that have a number."""
    return [
        entry
        for entry in entries
        if not numbers.plan.arms[entry.arm].real and math.isfinite(numbers(entry, key).value)
    ]


def detectability(numbers: Numbers, entries: list[Entry], columns: list[Column]) -> list[str]:
    """What differences of the suite's distance a table can show, where it shows any."""
    key = numbers.counted(numbers.distance)
    if not any(key in column.key for column in columns):
        return []
    title = METRICS[numbers.distance].title
    if numbers.alone:
        return ["One chain: its intervals say nothing of other training runs, nor which is better."]
    least = numbers.least_detectable(models_of(numbers, entries, key), key)
    if not math.isfinite(least):
        return []
    return [
        f"Least detectable difference of {title}: {number(least)}, what a paired t-test over the "
        "chains at level 5% finds with probability 0.9, at the median SD over pairs of models here."
    ]


def caption(numbers: Numbers, text: str, entries: list[Entry]) -> str:
    """The table's caption, then what the numbers are."""
    plan = numbers.plan
    over = numbers.over
    included = " (teacher included)" if plan.suite.teacher.seed is None else ""
    kind = (
        f"{over}, with its 95% sampling interval"
        if numbers.alone
        else f"means over {over}{included} with 95% t-intervals"
    )
    if not numbers.alone and any(plan.arms[entry.arm].real for entry in entries):
        kind += "; real images with 95% sampling intervals"
    return (
        f"{text.strip().rstrip('.')}. {plan.suite.title}. N = "
        f"{plan.suite.evaluation.samples:,} images a set; {kind}."
    )


def explanations(numbers: Numbers, titles: str) -> list[str]:
    """What the columns mean that do not explain themselves."""
    arms = numbers.plan.arms
    base = base_arm(numbers.plan)
    protocol = ", ".join(sorted(set(numbers.frame.protocol) - {"cost"})) or "-"
    teachers = [e for name, arm in arms.items() if is_teacher(arm) for e in numbers.entries(name)]
    cost = numbers(teachers[0], "teacher_forward_equivalents") if teachers else MISSING
    spent = for_people(cost, 1e-3)
    return [
        text
        for word, text in {
            "Method": "A → B + C: stage 2 with objective B and discriminator head C, started from "
            "A; from a trajectory student (TD), this is HD.",
            "FD": f"FD: Frechet distance in features of {protocol}, to real images of either "
            "split.",
            "Band": "Band: power in that band of radial frequency, low to high, over that of real "
            "training images; 1 is right.",
            "Coverage of": "Coverage of a factor: exp(-KL) of its frequencies against the law that "
            "the data set draws it from; of equally likely values it is the share that is used. "
            "Matched filters of the data set read it, no learned network: in textured digits digit "
            "and shift after a low-pass, all else off the texture.",
            "Mean coherence": "Mean: over what is planted; 1 is right. Distance: root mean square "
            "deviation from it. What real images have is what the filters themselves leave.",
            "Gain needed": "Gain needed: the factor between 2/3 and 3/2 on the images' deviation "
            "from black with which FD train is least; FD train at that gain is this minimum.",
            "Recall" * numbers.alone: RARE,
            "SD of": "SD: standard deviation of one chain's value; of sampling, by the influence "
            "of each sample; of training, what is left of the variance over chains, 0 where "
            "sampling alone explains it."
            + ' "-": one chain alone does not scatter.'
            * numbers.alone,
            "ms/image": "ms/image: wall time of sampling as it was; other work on the machine "
            "shows in its interval.",
            "FLOPs": "FLOPs: counted by PyTorch for the network's evaluations of one image, 2 a "
            "multiplication and addition.",
            "to base": f"Base: {describe(numbers.plan, base) if base else '-'}.",
            "kFE": "kFE: thousand forward-equivalents of the network in training, without the "
            f"teacher's ({spent} kFE), which all arms share; heads are not counted.",
            "core-s": "Core-s, GPU s, queue s: seconds of CPU cores, of allocated GPUs, and in a "
            "scheduler's queue; of TD and stage 2 together where the column does not say. Peak MB: "
            "the most main memory that a stage had, over all its processes. "
            '"-" where a stage was run before these were recorded.',
        }.items()
        if word and word in titles
    ]


def write_tables(
    plan: Plan,
    frame: pd.DataFrame,
    results: Path,
    out: Path | None,
    lenient: bool = False,
    run: Path | None = None,
) -> list[Path]:
    """All tables into out/<suite>/ or results/<suite>/tables/; the paths.

    Each is csv, md, tex and html, beside the metrics that they were rendered from.  `run` is the
    folder of what they were made with, which goes with them; that of others goes away.  `lenient`:
    the metrics need not be of the present version of the suite; what cannot be used is left out and
    reported.
    """
    tables = tables_of(plan)
    numbers = Numbers(plan, frame, results, lenient)
    folder = tables_folder(plan, results, out)
    contents = {folder / "metrics.csv": frame.to_csv(index=False, lineterminator="\n").encode()}
    for name in FILES:
        if run is not None and (run / name).is_file():
            contents[folder / name] = (run / name).read_bytes()
        else:
            check_outputs([folder / name])
            (folder / name).unlink(missing_ok=True)
    written = write_outputs(contents)
    for name, table in tables.items():
        whole = table.document(numbers) or render(numbers, name).document
        written += document.write(whole, folder / name)
    return written


def print_main(
    plan: Plan, results: Path = Path("results"), out: Path | None = None, width: int = 118
) -> None:
    """The main table in at most `width` columns, then where tables, figures and report lie."""
    numbers = Numbers(plan, read_metrics(metrics_file(plan, results)), results)
    quality = map(numbers.counted, PROTOCOLS[plan.suite.evaluation.protocol].quality)
    keys = ["method", "nfe", *quality, "training_forward_equivalents"]
    shown = render(numbers, "main", keys).document
    texts = shown.frame()
    others = [max(len(title) + 2, *map(len, texts[title])) for title in shown.columns[1:]]
    limits = [max(20, width - sum(others) - 2 * len(others)), *[None] * len(others)]
    print(
        tabulate(
            texts.to_numpy().tolist(),
            headers=shown.columns,
            tablefmt="simple",
            disable_numparse=True,
            maxcolwidths=limits,
            colalign=["left", *["right"] * len(others)],
        )
    )
    for note in [shown.caption, *shown.notes]:
        print(textwrap.fill(note, width))
    tables = tables_folder(plan, results, out)
    report = results / plan.name / "report.html"
    figures = figures_folder(plan, results, out)
    missing = (
        ""
        if report.is_file()
        else f" (missing; make it with: snakemake --report {report} --config suite={plan.given})"
    )
    print(f"tables:  {tables}\nfigures: {figures}\nreport:  {report}{missing}")
