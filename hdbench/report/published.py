"""The published numbers of a benchmark, and below them ours: its main table as csv, Markdown and LaTeX.

Published values are shown as the file has them, digit by digit; ours come from files of metrics.  Missing is "-", never 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from hdbench.core.errors import UserError
from hdbench.core.files import write_atomic
from hdbench.evaluation.protocols import PROTOCOLS
from hdbench.metrics.records import Interval, interval, read_metrics, with_count
from hdbench.report.document import TEX, for_people, number

COLUMNS = (
    "benchmark",
    "method",
    "family",
    "params_M",
    "nfe",
    "guidance",
    "fid",
    "is",
    "precision",
    "recall",
    "clip",
    "other",
    "latency",
    "source",
    "locator",
    "confidence",
)
VALUES = ["fid", "is", "precision", "recall", "clip"]
TRAJECTORY, DISTRIBUTION, HD, OURS = (
    "One and few steps: trajectory (consistency, flow maps)",
    "One and few steps: distribution matching",
    "Hierarchical distillation",
    "hdbench",
)
GROUPS = {  # of table rows, with the families in them; a family that stands nowhere is in OTHER
    "Many steps: teachers, diffusion, flow, autoregressive": (
        "diffusion",
        "flow",
        "flow (teacher class)",
        "AR/mask",
        "base",
        "base (teacher class)",
    ),
    "GANs and adversarial training": ("GAN", "adversarial", "distill+GAN (pixel)", "LADD"),
    TRAJECTORY: (
        "consistency",
        "consistency distill",
        "consistency (image-free)",
        "sCM",
        "flow map",
        "flow map distill",
        "flow map fine-tune",
        "data-free flow map + correction",
        "shortcut",
        "moment matching",
        "policy distill",
    ),
    DISTRIBUTION: (
        "DMD",
        "DMD+GAN",
        "DMD+RL",
        "drifting",
        "drifting distill",
        "wasserstein flow",
        "FD-loss",
    ),
    (OTHER := "One and few steps: both, or other"): ("sCM+LADD", "one/few-step T2I"),
    HD: ("TD+DMD+GAN",),
    OURS: (),
}
ORDER = list(GROUPS)
GROUP_OF = {family: group for group, families in GROUPS.items() for family in families}
OWN_TERMS = re.compile(
    "protocol|evaluator|re-evaluated|not comparable|disagree|differs"
)  # in a method or remark
SECOND_HAND = re.compile(r"secondary|\bnotes?\b|wiki|transcription")  # in a source
FOOTNOTES = {
    "†": "Remembered, not checked.",
    "‡": "Not on equal terms, or in doubt.",
    "§": "Second-hand: from a note on the paper or a transcription.",
    "¶": "Not a number in at least one chain.",
}
CLIP_WEIGHTS = " --weights clip=PATH --prompts meta_data.json"
LINES = 46  # of a table that shares a page with its caption
CONTINUED = (r"\addtocounter{table}{-1}", r"\caption{Continued.}")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Its name among the published, its protocol here, and columns: title, and `evaluate`'s metric."""

    name: str
    protocol: str
    columns: dict[str, tuple[str, str]]
    reference: str
    options: str = ""

    @property
    def command(self) -> str:
        return (
            f"hdbench evaluate --protocol {self.protocol} --samples FOLDER --reference {self.reference} "
            f"--weights inception=PATH{self.options} --name HD --out hd.csv"
        )


BENCHMARKS = {
    "imagenet256": Benchmark(
        name="ImageNet-256",
        protocol="adm_imagenet256_50k",
        reference="VIRTUAL_imagenet256_labeled.npz",
        columns={
            "fid": ("FID ↓", "fid"),
            "is": ("IS ↑", "inception_score"),
            "precision": ("Prec. ↑", "precision"),
            "recall": ("Recall ↑", "recall"),
        },
    ),
    "mjhq": Benchmark(
        name="MJHQ-30K",
        protocol="mjhq30k",
        reference="mjhq30k_imgs",
        options=CLIP_WEIGHTS,
        columns={"fid": ("FID ↓", "fid"), "clip": ("CLIP ↑", "clip_score")},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of the table: texts as the sources have them, or intervals of ours; `terms` says what ‡ stands for."""

    group: str
    method: str
    cells: dict[str, Interval | str]
    params: str = ""
    nfe: str = ""
    guidance: str = ""
    facts: dict[str, object] = field(default_factory=dict)  # for the csv alone
    source: str = ""
    marks: str = ""
    terms: str = ""

    @property
    def quality(self) -> float:
        """FID, by which a group is sorted; missing comes last."""
        value = (
            self.cells["fid"].value
            if isinstance(self.cells["fid"], Interval)
            else float(self.cells["fid"] or "inf")
        )
        return value if math.isfinite(value) else math.inf


def read_published(path: Path) -> pd.DataFrame:
    """The published numbers as text; UserError where columns lack, a value is none, or a row stands twice."""
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except FileNotFoundError:
        raise UserError(
            f"{path}: does not exist; it ships with hdbench as paper_tables/published.csv"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a table of published numbers ({str(error).splitlines()[0]})"
        ) from None
    if lacking := [column for column in COLUMNS if column not in frame]:
        raise UserError(
            f"{path}: has no column {', '.join(lacking)}; it needs {', '.join(COLUMNS)}"
        )

    def where(rows: pd.Series) -> str:
        found = rows[rows].index
        return f"{path}: row {found[0] + 2} ({frame.method[found[0]]})"

    values = frame[VALUES]
    wrong = (values != "") & ~np.isfinite(values.apply(pd.to_numeric, errors="coerce"))
    if wrong.any(axis=None):
        column = wrong.any().idxmax()
        raise UserError(
            f"{where(wrong[column])}: {column} = {frame[column][wrong[column].idxmax()]!r} is not a number; leave "
            "it empty where there is none"
        )
    if (wrong := ~frame.confidence.isin(["seen", "remembered"]) | frame.isna().any(axis=1)).any():
        raise UserError(
            f"{where(wrong)}: confidence is neither seen nor remembered; are its columns shifted?"
        )
    if (twice := frame.duplicated(["benchmark", "method", "nfe", "guidance", "source"])).any():
        raise UserError(
            f"{where(twice)}: stands there twice, with the same steps, guidance and source; leave one"
        )
    return frame


def published(benchmark: Benchmark, frame: pd.DataFrame) -> list[Line]:
    """The rows of a benchmark, as lines of its table."""
    lines = []
    for row in frame[frame.benchmark == benchmark.name].to_dict("records"):
        text = ": ".join(filter(None, [row["method"], row["other"]]))
        terms = text if OWN_TERMS.search(text) else ""
        marks = {
            "†": row["confidence"] == "remembered",
            "‡": terms,
            "§": SECOND_HAND.search(row["source"] + row["locator"]),
        }
        lines.append(
            Line(
                group=GROUP_OF.get(row["family"], OTHER),
                method=row["method"],
                params=row["params_M"],
                nfe=row["nfe"],
                guidance=row["guidance"],
                cells={column: row[column] for column in benchmark.columns},
                source=row["source"],
                marks="".join(mark for mark, holds in marks.items() if holds),
                terms=terms,
                facts={key: row[key] for key in ("family", "other", "locator", "confidence")},
            )
        )
    return lines


def measured(benchmark: Benchmark, files: Sequence[Path]) -> tuple[list[Line], list[str]]:
    """Our rows under the benchmark's protocol, one for each suite, arm and NFE, and a footnote on what was left out."""
    if not files:
        return [], []
    frame = pd.concat([read_metrics(path) for path in files], ignore_index=True)
    named = frame.protocol.fillna("-").str.split(r"[\[:]", n=1, regex=True).str[0]
    other = frame[~named.isin([benchmark.protocol, "cost"])].assign(protocol=named)
    notes = (
        [
            f"Left out, arms that are not of {benchmark.protocol}: "
            + "; ".join(
                f"{rows.arm.nunique()} of {suite} ({protocol})"
                for (suite, protocol), rows in other.groupby(["suite", "protocol"], sort=False)
            )
            + "."
        ]
        if len(other)
        else []
    )
    ours = frame[named == benchmark.protocol]
    if ours.n.isna().any():
        raise UserError(
            f"{ours.arm[ours.n.isna().idxmax()]}: a number of {benchmark.protocol} without its n; make the file "
            f"again with `hdbench evaluate` or `hdbench collect`"
        )
    if len(twice := ours[ours.duplicated(["suite", "arm", "seed", "nfe", "metric", "protocol"])]):
        raise UserError(
            f"{twice.metric.iloc[0]} of {twice.arm.iloc[0]} stands in several files of --metrics; give each once, "
            "or evaluate under different names (--name)"
        )
    metrics = [metric for _, metric in benchmark.columns.values()]
    wanted = [
        metric in {with_count(name, n) for name in metrics}
        for metric, n in zip(ours.metric, ours.n)
    ]
    ours = ours[pd.Series(wanted, index=ours.index, dtype=bool)]
    parameters = (
        frame[(frame.protocol == "cost") & (frame.metric == "parameters")]
        .groupby(["suite", "arm"])
        .value.first()
    )
    keys, references = (
        ["suite", "arm", "nfe", "protocol", "n"],
        {text.rpartition(":")[2] for text in ours.protocol},
    )
    return [
        _line(benchmark, rows, dict(zip(keys, key)), parameters, len(references) > 1)
        for key, rows in ours.groupby(keys, dropna=False, sort=False)
    ], notes


def _line(
    benchmark: Benchmark,
    rows: pd.DataFrame,
    key: dict[str, object],
    parameters: pd.Series,
    mixed: bool,
) -> Line:
    """One of ours; its terms are what differs from the protocol or lacks in a chain, and, of mixed references, its own."""
    method = key["arm"] if key["suite"] == "evaluate" else f"{key['suite']}: {key['arm']}"
    chains, wanted = rows.seed.nunique(dropna=False), PROTOCOLS[benchmark.protocol].n
    found = {
        column: rows[rows.metric == with_count(metric, key["n"])]
        for column, (_, metric) in benchmark.columns.items()
    }
    terms = [f"N = {key['n']:,}, not {wanted:,}"] if key["n"] != wanted else []
    terms += re.findall(r"\[([^\]]*)\]", key["protocol"])
    terms += [f"reference {key['protocol'].rpartition(':')[2]}"] if mixed else []
    terms += [
        f"{benchmark.columns[column][0][:-2]} of {len(values)} of {chains} chains"
        for column, values in found.items()
        if 0 < len(values) < chains
    ]
    size = parameters.get((key["suite"], key["arm"]))
    broken = not np.isfinite(rows.value).all()
    return Line(
        group=OURS,
        method=method,
        nfe="" if pd.isna(key["nfe"]) else str(key["nfe"]),
        params="" if size is None else number(size / 1e6),
        cells={
            column: interval(values.value.to_numpy(), values.se.iloc[0]) if len(values) else ""
            for column, values in found.items()
        },
        facts={"n": str(key["n"]), "chains": str(chains), "protocol": key["protocol"]},
        marks=("‡" if terms else "") + ("¶" if broken else ""),
        terms=f"{method}: {', '.join(terms)}" if terms else "",
    )


@dataclass(frozen=True, kw_only=True)
class Table:
    """The table of one benchmark: its lines in order, and what stands below."""

    label: str
    benchmark: Benchmark
    lines: list[Line]
    notes: list[str]

    @property
    def titles(self) -> list[str]:
        return [
            "Method",
            "Params, M",
            "NFE",
            "Guidance",
            *(title for title, _ in self.benchmark.columns.values()),
            "Source",
        ]

    @property
    def sources(self) -> list[str]:
        """In the order of their numbers."""
        return list(dict.fromkeys(line.source for line in self.lines if line.source))

    @property
    def caption(self) -> str:
        protocol = PROTOCOLS[self.benchmark.protocol]
        return (
            f"{self.benchmark.name}: published numbers, sorted by FID, and below them ours. Published numbers are as "
            f"their sources print them, by evaluators of their own; ours are under {protocol.name} (N = {protocol.n:,})."
        )

    def text(self, line: Line) -> list[str]:
        """A line for people; marks stand with the method."""
        cells = [
            line.params,
            line.nfe,
            line.guidance,
            *(for_people(None, cell) for cell in line.cells.values()),
            f"[{self.sources.index(line.source) + 1}]" if line.source else "",
        ]
        return [line.method.replace("->", "→") + line.marks, *(cell or "-" for cell in cells)]


def render(
    name: str, frame: pd.DataFrame, files: Sequence[Path] = (), remembered: bool = True
) -> Table:
    """The table of BENCHMARKS[name] from `read_published`'s frame and files of metrics."""
    benchmark = BENCHMARKS[name]
    theirs, (ours, left_out) = published(benchmark, frame), measured(benchmark, files)
    kept = [line for line in theirs if remembered or "†" not in line.marks]
    empty = Line(group=OURS, method="HD, this suite", cells=dict.fromkeys(benchmark.columns, ""))
    lines = sorted(
        [*kept, *(ours or [empty])], key=lambda line: (ORDER.index(line.group), line.quality)
    )
    terms = ". ".join(line.terms for line in lines if line.terms)
    used = "".join(line.marks for line in lines)
    notes = [
        f"{mark} {text}" + (f" {terms}." if mark == "‡" else "")
        for mark, text in FOOTNOTES.items()
        if mark in used
    ]
    notes += (
        [f"Left out: {len(theirs) - len(kept)} remembered and not checked."]
        if len(kept) < len(theirs)
        else []
    )
    notes += (
        [f"HD has no published number on {benchmark.name} here."]
        if all(line.group != HD for line in kept)
        else []
    )
    notes += (
        [f"{OURS}: with its 95% interval, of sampling for one chain, a t-interval over several."]
        if ours
        else [
            f"{OURS}: nothing was measured at this scale; `{benchmark.command}` does, "
            f"and `hdbench published --benchmark {name} --metrics hd.csv` puts it here."
        ]
    )
    notes += [
        'NFE: as the source counts; x2: two evaluations a step, for guidance. "-": not given, or not measured.'
    ]
    return Table(label=name, benchmark=benchmark, lines=lines, notes=notes + left_out)


def to_csv(table: Table) -> str:
    """Published values as their source has them, ours in full precision; missing is empty."""
    words = {"†": "remembered", "‡": "other terms", "§": "second-hand", "¶": "not a number"}
    records = []
    for line in table.lines:
        record = {
            "group": line.group,
            "method": line.method,
            "params_M": line.params,
            "nfe": line.nfe,
            "guidance": line.guidance,
        }
        for column, cell in line.cells.items():
            value, half = cell if isinstance(cell, Interval) else (cell, "")
            record |= {column: value, f"{column}_half_width": half}
        records.append(
            record
            | {"note": "; ".join(words[mark] for mark in line.marks), "source": line.source}
            | line.facts
        )
    return pd.DataFrame(records).to_csv(index=False, lineterminator="\n")


def to_markdown(table: Table) -> str:
    rows, group = [], None
    for line in table.lines:
        if line.group != group:
            rows.append([f"*{line.group}*", *[""] * (len(table.titles) - 1)])
        group, cells = line.group, [cell.replace("|", r"\|") for cell in table.text(line)]
        rows.append([f"**{cell}**" for cell in cells] if group == HD else cells)
    text = pd.DataFrame(rows, columns=table.titles).to_markdown(
        index=False, disable_numparse=True, colalign=["left", *["right"] * (len(table.titles) - 1)]
    )
    sources = "\n".join(f"- [{index}] {source}" for index, source in enumerate(table.sources, 1))
    return "\n\n".join([table.caption, text, *table.notes, sources]) + "\n"


def tex(text: str) -> str:
    """Text for LaTeX; `code` in a typewriter's font."""
    parts = [part.translate(TEX) for part in text.split("`")]
    parts[1::2] = [rf"\texttt{{{part}}}" for part in parts[1::2]]
    return "".join(parts)


def to_tex(table: Table) -> str:
    """Table environments of a page or less for \\input, the last of notes and sources; needs booktabs and graphicx."""
    rows = []
    for line in table.lines:
        cells = [
            rf"\textbf{{{tex(cell)}}}" if line.group == HD else tex(cell)
            for cell in table.text(line)
        ]
        rows.append(
            (line.group, " & ".join([r"\raggedright\hangindent=1em " + cells[0], *cells[1:]]))
        )
    size = math.ceil(len(rows) / math.ceil((len(rows) + len(GROUPS)) / LINES))
    panels = [
        _panel(table, rows[first : first + size], first and rows[first - 1][0])
        for first in range(0, len(rows), size)
    ]
    notes = (
        r" \\ ".join(map(tex, table.notes))
        + r" \\ Sources: "
        + "; ".join(
            f"[{index}] {tex(source)}" for index, source in enumerate(table.sources, 1)
        ).replace("/", r"/\allowbreak{}")
        + "."
    )
    return "\n".join(
        [
            "% needs \\usepackage{booktabs,graphicx}",
            *panels,
            r"\begin{table}[tbp]",
            *CONTINUED,
            rf"\par\medskip\raggedright\scriptsize {notes}",
            r"\end{table}",
            "",
        ]
    )


def _panel(table: Table, rows: list[tuple[str, str]], before: str | int) -> str:
    """One table environment; after the first (`before` is the group that the last one ended in) a continued one."""
    lines, group = [], None
    for of, cells in rows:
        if of != group:
            title = tex(of) + (", continued" if group is None and of == before else "")
            lines += [
                r"\midrule",
                rf"\multicolumn{{{len(table.titles)}}}{{l}}{{\emph{{{title}}}}} \\",
            ]
        group = of
        lines.append(cells + r" \\")
    head = (
        CONTINUED
        if before
        else [rf"\caption{{{tex(table.caption)}}}", rf"\label{{tab:published-{table.label}}}"]
    )
    return "\n".join(
        [
            r"\begin{table}[tbp]",
            r"\centering\setlength{\tabcolsep}{4pt}",
            *head,
            r"\medskip",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{p{{64mm}}{'r' * (len(table.titles) - 1)}}}",
            r"\toprule",
            " & ".join(map(tex, table.titles)) + r" \\",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
    )


def write_published(
    names: Sequence[str], numbers: Path, files: Sequence[Path], remembered: bool, out: Path
) -> list[Path]:
    """Every named benchmark's table into out/<name>.{csv,md,tex}; the paths."""
    frame, written = read_published(numbers), []
    for table in [render(name, frame, files, remembered) for name in names]:
        for suffix, write in {"csv": to_csv, "md": to_markdown, "tex": to_tex}.items():
            written.append(out / f"{table.label}.{suffix}")
            write_atomic(written[-1], write(table))
    return written
