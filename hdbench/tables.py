"""The suite's tables, as csv for machines, and as Markdown, LaTeX and HTML for people.

Missing is "-", never 0, and a footnote says why.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from hdbench.arms import (base_arm, describe, equal_total, head_name, head_of, initialisation, is_teacher,
                          same_from_trajectory, same_without_head, settings)
from hdbench.artifact import write_atomic
from hdbench.collect import MISSING, Entry, Interval, Numbers, metrics_file, read_metrics
from hdbench.suite import Plan

FOOTNOTES = {
    "†": "Reconstruction: the paper gives no formula for its adaptive weighted discriminator.",
    "‡": "Not available: the metrics lack a number of this row, as before its stages have run.",
    "§": "Fewer chains than the suite has, in all columns or some; a single one has its sampling interval.",
    "¶": "Not a number in at least one chain."}
_INCEPTION = {"fid": "FID N ↓", "precision": "Precision ↑", "recall": "Recall ↑"}
QUALITY = {  # columns by the suite's protocol
    "classifier": {"fd_train": "FD train N ↓", "fd_test": "FD test N ↓", "precision": "Precision ↑", "recall": "Recall ↑"},
    "adm_imagenet256_50k": {"fid": "FID N ↓", "sfid": "sFID ↓", "inception_score": "IS ↑", **_INCEPTION},
    "torch_fidelity": {"fid": "FID N ↓", "kid": "KID ↓", "inception_score": "IS ↑", **_INCEPTION},
    "clean_fid": {"fid": "FID N ↓"}, "mjhq30k": {"fid": "FID N ↓", "clip_score": "CLIP score ↑"}}
RANKS = "Bold: better than every other model here by a 95% interval of paired differences; italic: than all but that one."
TEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "→": r"$\rightarrow$", "↓": r"$\downarrow$", "↑": r"$\uparrow$",
    "Δ": r"$\Delta$", "±": r"$\pm$", "×": r"$\times$", "†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$", "§": r"$^{\S}$",
    "¶": r"$^{\P}$", "<": "$<$", ">": "$>$"})

Cell = Interval | str | int


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its name in csv, its title for people, and the cell of an entry."""

    key: str
    title: str
    cell: Callable[[Entry], Cell]
    scale: float = 1.0  # of values for people; csv has them as they are
    expected: bool = False  # a missing value gets a footnote
    signed: bool = False


def against(numbers: Numbers, reference: Callable[[Plan, str], str | None], title: str, suffix: str = "") -> list[Column]:
    """Difference of the distance to the arm that `reference` names for an entry's arm, and, in csv alone, that arm's name."""
    plan = numbers.plan

    def cell(e: Entry) -> Cell:
        other = reference(plan, e.arm)
        if other is None or plan.arms[e.arm].real:
            return MISSING
        compared = numbers.entries(other)[0]
        return "reference" if compared == e else numbers.difference(e, compared, numbers.distance)

    return [Column(key=numbers.counted(f"difference_{numbers.distance}") + suffix, title=title, cell=cell, signed=True),
            Column(key=f"difference_against{suffix}", title="", cell=lambda e: reference(plan, e.arm) or "")]


def columns_of(table: str, numbers: Numbers) -> list[Column]:
    """The columns of a table, all of them functions of an entry."""
    plan, arms = numbers.plan, numbers.plan.arms
    bands = plan.suite.evaluation.bands

    def metric(name: str, title: str) -> Column:
        key = numbers.counted(name)
        title = title.replace(" N", key.removeprefix(name).replace("_", " "))
        return Column(key=key, title=title, cell=lambda e: numbers(e, key), expected=True)

    def parts(prefix: str, what: str = "") -> list[Column]:
        """Metrics of parts of the samples."""
        found = sorted({key.rpartition("_")[0] for key in set(numbers.frame.metric) if key.startswith(prefix)} - {prefix[:-1]})
        return [Column(key=name, title=what + name.removeprefix(prefix).replace("_", " ").capitalize(),
                       cell=lambda e, name=name: numbers.part(e, name)) for name in found]

    def cost(key: str, title: str, scale: float = 1.0) -> Column:
        return Column(key=key, title=title, cell=lambda e: numbers(e, key), scale=scale)

    def text(key: str, title: str, of: Callable[[Entry], Cell]) -> Column:
        return Column(key=key, title=title, cell=of)

    def control(e: Entry) -> str:
        if same_from_trajectory(plan, e.arm) in (None, e.arm) or arms[e.arm].trajectory:
            return "none"
        return "equal total compute" if equal_total(plan, e.arm) else "equal stage-2 steps"

    teachers = [entry for name, arm in arms.items() if is_teacher(arm) for entry in numbers.entries(name)]
    teacher = max(teachers, key=lambda e: e.nfe, default=None)
    method = text("method", "Method", lambda e: describe(plan, e.arm))
    head = text("head", "Head", lambda e: ", ".join([head_name(arms[e.arm]),
                                                     *settings(plan, e.arm, ("refine", "objective", "gan"))]))
    start = text("initialisation", "Initialisation", lambda e: "-" if arms[e.arm].real else initialisation(arms[e.arm]))
    steps, nfe = text("steps", "Steps", lambda e: e.steps or "-"), text("nfe", "NFE", lambda e: e.nfe or "-")
    chains = text("chains", "Chains", lambda e: "-" if arms[e.arm].real else numbers.chains(e)[0])
    quality = [metric(name, title) for name, title in QUALITY[plan.suite.evaluation.protocol].items()]
    power = [metric(f"power_band{band}", f"Band {band}") for band in range(1, bands + 1) if plan.suite.classifier]
    scores = [metric("accuracy", "Accuracy ↑"), metric("classifier_score", "Score ↑")] if plan.suite.classifier else []
    if plan.suite.text and plan.suite.classifier:
        scores.append(metric("clip_score", "CLIP score ↑"))
    distance, distance_title = numbers.distance, QUALITY[plan.suite.evaluation.protocol][numbers.distance]
    difference = distance_title.removesuffix(" N ↓")
    budget = text("budget", "Stage-2 steps", lambda e: arms[e.arm].refine.steps if arms[e.arm].refine else "-")
    training = cost("training_forward_equivalents", "Training, kFE", 1e-3)
    speed = cost("milliseconds_per_sample", "ms/image")
    if table == "main":
        return [method, steps, nfe, chains, *quality, *scores, *power, training, speed]
    if table == "methods":
        to = [column for arm in plan.suite.tables.methods.against
              for column in against(numbers, lambda plan, _, arm=arm: arm, f"Δ {difference} to {describe(plan, arm)}", f"_{arm}")]
        return [method, text("source", "Source", lambda e: plan.recipes[e.arm].source if e.arm in plan.recipes else "-"),
                steps, nfe, chains, *quality, *power, *to, training, cost("training_core_seconds", "Core-s"),
                cost("sampling_flops", "MFLOPs/image", 1e-6), speed]
    if table == "components":
        return [method, text("td", "TD", lambda e: "yes" if arms[e.arm].trajectory else "no"),
                text("dmd", "DMD", lambda e: "yes" if arms[e.arm].refine else "no"), head, nfe, chains, *quality, *power[-1:],
                *against(numbers, lambda plan, arm: base_arm(plan), f"Δ {difference} to base")]
    if table == "discriminators":
        return [head, start, budget, cost("head_parameters", "Head parameters"), chains, *quality,
                *against(numbers, same_without_head, f"Δ {difference} to no head")]
    if table == "initialisation":
        return [head, start, text("control", "Control", control), budget, training, chains, *quality,
                *against(numbers, same_from_trajectory, f"Δ {difference} to TD start")]
    if table == "categories":
        return [method, nfe, chains, metric(distance, distance_title), *parts(f"{distance}_"), *scores,
                *parts("accuracy_", "Accuracy: ")]
    if table == "reproducibility":
        fd = numbers.counted(distance)

        def components(part: str, title: str) -> Column:
            return Column(key=f"{fd}_{part}", title=title, cell=lambda e: Interval(numbers.components(e, fd)[part], math.nan))

        return [method, nfe, chains, metric(distance, distance_title), components("lowest", "Lowest"),
                components("highest", "Highest"), components("total", "SD of chains"),
                components("sampling", "of it sampling"), components("training", "of it training")]
    return [method, nfe, cost("parameters", "Parameters"), cost("head_parameters", "Head parameters"),
            cost("sampling_flops", "MFLOPs/image", 1e-6), training,
            cost("trajectory_core_seconds", "TD, core-s"), cost("refine_core_seconds", "Stage 2, core-s"),
            cost("training_gpu_seconds", "GPU s"), cost("training_queue_seconds", "Queue s"),
            cost("training_peak_memory_bytes", "Peak MB", 1e-6), speed,
            text("speed_up_time", "Teacher/own ms", lambda e: numbers.ratio(e, teacher, "milliseconds_per_sample")),
            text("speed_up_nfe", "Teacher/own NFE",
                 lambda e: Interval(teacher.nfe / e.nfe, 0) if teacher and e.nfe else MISSING)]


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A table with all its cells: caption, footnotes, columns, and by entry the cells and footnote marks.

    `ranks`: "best" or "second" by (row, column), where intervals support it.
    """

    label: str
    caption: str
    footnotes: list[str]
    columns: list[Column]
    rows: list[tuple[Entry, list[Cell], str]]
    ranks: dict[tuple[int, int], str]


def marks(numbers: Numbers, entry: Entry, columns: list[Column], cells: list[Cell]) -> str:
    """Footnote marks of a row: reconstruction, missing, fewer chains, not a number."""
    arm, (have, all_chains) = numbers.plan.arms[entry.arm], numbers.chains(entry)
    found = numbers.of(entry)
    fewer = 0 < have < all_chains or any(  # a column alone may lack a chain that the row has
        0 < len(numbers.of(entry, column.key)) < have for column in columns if column.expected)
    broken = not found.value[found.metric.isin([column.key for column in columns])].map(math.isfinite).all()
    itself = numbers.counted("fd_test") if arm.real == "test" else None  # test images against themselves measure nothing
    missing = any(column.expected and cell == "-" for column, cell in zip(columns, map(for_people, columns, cells))
                  if column.key != itself)
    return "".join(mark for mark, holds in {
        "†": (head_of(arm) or "").startswith("awd"), "‡": missing and not broken, "§": fewer,
        "¶": broken}.items() if holds)


def render(numbers: Numbers, table: str, keys: list[str] | None = None) -> Rendered:
    """The table of the suite's `tables.<table>`, or some of its columns; in main, real images stand on top."""
    plan = numbers.plan
    spec = getattr(plan.suite.tables, table)
    real = [name for name, arm in plan.arms.items() if arm.real] if table == "main" else []
    columns, rows = [column for column in columns_of(table, numbers) if keys is None or column.key in keys], []
    for entry in (e for name in dict.fromkeys([*real, *spec.rows]) for e in numbers.entries(name)):
        cells = [column.cell(entry) for column in columns]
        rows.append((entry, cells, marks(numbers, entry, columns, cells)))
    entries = [entry for entry, _, _ in rows]
    ranks = {(entries.index(entry), index): rank for index, column in enumerate(columns)
             for entry, rank in ranked(numbers, entries, column).items()}
    used = "".join(m for _, _, m in rows)
    footnotes = [f"{mark} {text}" for mark, text in FOOTNOTES.items() if mark in used]
    footnotes += [RANKS] if ranks else []
    footnotes += explanations(numbers, " ".join(column.title for column in columns)) + numbers.notes
    return Rendered(label=f"{plan.name}-{table}", caption=caption(numbers, spec.caption, entries),
                    footnotes=footnotes, columns=columns, rows=rows, ranks=ranks)


def ranked(numbers: Numbers, entries: list[Entry], column: Column) -> dict[Entry, str]:
    """The best of the models and the second best, each only if it beats all that come after it by a paired 95% interval."""
    sign = {"↓": 1, "↑": -1}.get(column.title[-1:])
    if sign is None:
        return {}
    metric = column.key.removesuffix(numbers.counted(""))
    models = [entry for entry in entries if not numbers.plan.arms[entry.arm].real
              and math.isfinite(numbers(entry, column.key).value)]
    order, found = sorted(models, key=lambda e: sign * numbers(e, column.key).value), {}
    for place, name in enumerate(("best", "second")):
        behind = [numbers.difference(order[place], other, metric) for other in order[place + 1:]] if place < len(order) else []
        if behind and all(sign * value + half < 0 for value, half in behind):  # false where the interval is not known
            found[order[place]] = name
    return found


def caption(numbers: Numbers, text: str, entries: list[Entry]) -> str:
    """The suite's caption, then what the numbers are."""
    plan, over = numbers.plan, numbers.over
    kind = (f"{over}, with its 95% sampling interval" if numbers.alone else
            f"means over {over} (teacher included) with 95% t-intervals")
    if not numbers.alone and any(plan.arms[entry.arm].real for entry in entries):
        kind += "; real images with 95% sampling intervals"
    return f"{text.strip().rstrip('.')}. {plan.suite.title}. N = {plan.suite.evaluation.samples:,} images a set; {kind}."


def explanations(numbers: Numbers, titles: str) -> list[str]:
    """What the columns mean that do not explain themselves."""
    arms, base = numbers.plan.arms, base_arm(numbers.plan)
    protocol = ", ".join(sorted(set(numbers.frame.protocol) - {"cost"})) or "-"
    teachers = [e for name, arm in arms.items() if is_teacher(arm) for e in numbers.entries(name)]
    spent = for_people(None, numbers(teachers[0], "teacher_forward_equivalents"), 1e-3) if teachers else "-"
    return [text for word, text in {
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
                  "its processes. \"-\" where a stage was run before these were recorded."}.items() if word in titles]


def number(value: float, decimals: int | None = None, signed: bool = False) -> str:
    """1,234 or 0.0123: to `decimals`, or whole numbers whole and others to three digits."""
    if decimals is None:
        decimals = 0 if value == int(value) or abs(value) >= 100 else 2 - math.floor(math.log10(abs(value)))
    text = f"{value:{'+' if signed else ''},.{decimals}f}"
    return text.lstrip("+-") if float(text.replace(",", "")) == 0 else text


def for_people(column: Column | None, cell: Cell, scale: float | None = None) -> str:
    """`9.63 ± 0.42`, to two digits of the half-width; "-" where there is no value."""
    if not isinstance(cell, Interval):
        return f"{cell:,}" if isinstance(cell, int) else cell
    scale, signed = scale or (column.scale if column else 1.0), bool(column and column.signed)
    value, half = scale * cell.value, scale * cell.half_width
    if not math.isfinite(value):
        return "-"
    if not math.isfinite(half) or half == 0:
        return number(value, signed=signed) + (" ± 0" if half == 0 and column and column.expected else "")
    decimals = max(0, 1 - math.floor(math.log10(float(f"{half:.1e}"))))
    return f"{number(value, decimals, signed)} ± {number(half, decimals)}"


def as_text(table: Rendered, emphasis: dict[str, str] | None = None) -> tuple[list[str], list[list[str]]]:
    """Titles and rows for people; footnote marks stand in the first column.  `emphasis` is a format by rank."""
    shown = [(index, column) for index, column in enumerate(table.columns) if column.title]
    rows = [[(emphasis or {}).get(table.ranks.get((row, index)), "{}").format(for_people(column, cells[index]))
             for index, column in shown] for row, (_, cells, _) in enumerate(table.rows)]
    return [column.title for _, column in shown], [[row[0] + mark, *row[1:]] for row, (_, _, mark) in zip(rows, table.rows)]


def to_csv(table: Rendered) -> str:
    """Full precision; a column of half-widths beside each column of values; missing is empty."""
    records = []
    for entry, cells, mark in table.rows:
        record = {"arm": entry.arm}
        for column, cell in zip(table.columns, cells):
            if isinstance(cell, Interval) or cell == "reference":
                value, half = cell if isinstance(cell, Interval) else MISSING
                record |= {column.key: value, f"{column.key}_half_width": half}
            else:
                record[column.key] = "" if cell == "-" else cell
        notes = {"†": "reconstruction", "‡": "not available", "§": "fewer chains", "¶": "not a number"}
        records.append(record | {"note": "; ".join(notes[m] for m in mark)})
    return pd.DataFrame(records).to_csv(index=False, lineterminator="\n")


def to_markdown(table: Rendered) -> str:
    titles, rows = as_text(table, {"best": "**{}**", "second": "*{}*"})
    text = pd.DataFrame(rows, columns=titles).to_markdown(
        index=False, disable_numparse=True, colalign=["left", *["right"] * (len(titles) - 1)])
    return "\n\n".join([table.caption, text, *table.footnotes]) + "\n"


STYLE_SHEET = """body{font:14px/1.45 system-ui,sans-serif;margin:1rem;color:#222}div{overflow-x:auto}
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left;white-space:normal;min-width:9rem;position:sticky;left:0;
background:#fff}.text td,.text th,.text td:first-child{white-space:normal;text-align:left;min-width:0}
p{max-width:60rem}"""


def to_page(caption: str, tables: Sequence[pd.DataFrame], notes: Sequence[str] = (), kind: str = "") -> str:
    """One self-contained HTML page of tables for people; bold and italic are written `\x02cell\x03` and `\x04cell\x05`."""
    text = "".join(f"<div>{table.to_html(index=False, border=0, classes=kind, justify='inherit')}</div>" for table in tables)
    for mark, tag in {"\x02": "<b>", "\x03": "</b>", "\x04": "<i>", "\x05": "</i>"}.items():
        text = text.replace(mark, tag)
    below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    title = html.escape(caption)
    return ('<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{title}</title><style>{STYLE_SHEET}</style><p>{title}</p>{text}{below}</html>\n")


def to_html(table: Rendered) -> str:
    titles, rows = as_text(table, {"best": "\x02{}\x03", "second": "\x04{}\x05"})
    return to_page(table.caption, [pd.DataFrame(rows, columns=titles)], table.footnotes)


def to_tex(table: Rendered) -> str:
    """A table environment for \\input; needs booktabs and graphicx."""
    titles, rows = as_text(table, {"best": "best:{}", "second": "second:{}"})

    def tex(text: str) -> str:
        for rank, command in (("best:", r"\mathbf"), ("second:", r"\mathit")):
            if text.startswith(rank):
                return f"${command}{{{tex(text.removeprefix(rank)).strip('$')}}}$"
        value, _, half = text.partition(" ± ")
        return f"${value} \\pm {half}$".replace(",", "{,}") if half else (
            f"${text}$".replace(",", "{,}") if text[:1] in "+-" and text[1:] else text.translate(TEX))

    def tabular(kept: list[int]) -> str:
        lines = [" & ".join(tex(row[i]) for i in kept) + r" \\" for row in (titles, *rows)]
        return "\n".join([r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                          rf"\begin{{tabular}}{{l{'r' * (len(kept) - 1)}}}", r"\toprule", lines[0], r"\midrule", *lines[1:],
                          r"\bottomrule", r"\end{tabular}}"])

    last = len(titles) if len(titles) <= 12 else 8  # a wide table goes on below itself, its first columns repeated
    panels = [list(range(last))] + ([[0, 1, 2, *range(last, len(titles))]] if last < len(titles) else [])
    notes = r" \\ ".join(note.translate(TEX) for note in table.footnotes)
    head = [rf"\caption{{{table.caption.translate(TEX)}}}", rf"\label{{tab:{table.label}}}"]
    below = [rf"\par\smallskip\raggedright\scriptsize {notes}"] if notes else []
    again = [r"\end{table}", r"\begin{table}[tbp]", r"\centering", rf"Table~\ref{{tab:{table.label}}}, continued."]
    tall = len(rows) * len(panels) > 70  # lines of a page
    between = [*again, r"\medskip"] if tall else [r"\par\medskip"]
    return "\n".join(["% needs \\usepackage{booktabs,graphicx}", r"\begin{table}[tbp]", r"\centering", *head, r"\medskip",
                      "\n".join(["", *between, ""]).join(map(tabular, panels)), *below, r"\end{table}", ""])


def write_tables(plan: Plan, frame: pd.DataFrame, results: Path, out: Path, anybody: bool = False) -> list[Path]:
    """All tables into out/<suite>/, each as csv, md and tex, beside the metrics they were rendered from; the paths.

    `anybody`: the metrics need not be of the present version of the suite; what cannot be used is left out and said.
    """
    numbers, written = Numbers(plan, frame, results, anybody), [out / plan.name / "metrics.csv"]
    write_atomic(written[0], frame.to_csv(index=False, lineterminator="\n"))
    if (run := metrics_file(plan, results).with_name("run.json")).is_file():
        written.append(out / plan.name / run.name)
        write_atomic(written[-1], run.read_text(encoding="utf-8"))
    for name in plan.tables:
        table = render(numbers, name)
        for suffix, write in {"csv": to_csv, "md": to_markdown, "tex": to_tex, "html": to_html}.items():
            written.append(out / plan.name / f"{name}.{suffix}")
            write_atomic(written[-1], write(table))
    return written


def print_main(plan: Plan, results: Path = Path("results"), out: Path = Path("paper_tables"), width: int = 118) -> None:
    """The main table in at most `width` columns, then where tables, figures and report lie."""
    numbers = Numbers(plan, read_metrics(metrics_file(plan, results)), results)
    quality = map(numbers.counted, QUALITY[plan.suite.evaluation.protocol])
    table = render(numbers, "main", ["method", "nfe", *quality, "training_forward_equivalents"])
    titles, rows = as_text(table)
    others = [max(len(title) + 2, *(len(row[i]) for row in rows)) for i, title in enumerate(titles) if i]
    limits = [max(20, width - sum(others) - 2 * len(others)), *[None] * len(others)]
    print(tabulate(rows, headers=titles, tablefmt="simple", disable_numparse=True, maxcolwidths=limits,
                   colalign=["left", *["right"] * len(others)]))
    for note in [table.caption, *table.footnotes]:
        print(textwrap.fill(note, width))
    tables, report = out / plan.name, results / plan.name / "report.html"
    missing = "" if report.is_file() else f" (missing; make it with: snakemake --report {report} --config suite={plan.name})"
    print(f"tables:  {tables}\nfigures: {tables / 'figures'}\nreport:  {report}{missing}")
