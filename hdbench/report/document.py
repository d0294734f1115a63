"""A table as csv, Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from hdbench.metrics.records import MISSING, Interval
from hdbench.report.columns import Cell, Column
from hdbench.report.numbers import Entry

TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "→": r"$\rightarrow$",
        "↓": r"$\downarrow$",
        "↑": r"$\uparrow$",
        "Δ": r"$\Delta$",
        "±": r"$\pm$",
        "×": r"$\times$",
        "†": r"$^{\dagger}$",
        "‡": r"$^{\ddagger}$",
        "§": r"$^{\S}$",
        "¶": r"$^{\P}$",
        "<": "$<$",
        ">": "$>$",
    }
)


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


def number(value: float, decimals: int | None = None, signed: bool = False) -> str:
    """1,234 or 0.0123: to `decimals`, or whole numbers whole and others to three digits."""
    if decimals is None:
        decimals = (
            0
            if value == int(value) or abs(value) >= 100
            else 2 - math.floor(math.log10(abs(value)))
        )
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
        return number(value, signed=signed) + (
            " ± 0" if half == 0 and column and column.expected else ""
        )
    decimals = max(0, 1 - math.floor(math.log10(float(f"{half:.1e}"))))
    return f"{number(value, decimals, signed)} ± {number(half, decimals)}"


def as_text(
    table: Rendered, emphasis: dict[str, str] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Titles and rows for people; footnote marks stand in the first column.  `emphasis` is a format by rank."""
    shown = [(index, column) for index, column in enumerate(table.columns) if column.title]
    rows = [
        [
            (emphasis or {})
            .get(table.ranks.get((row, index)), "{}")
            .format(for_people(column, cells[index]))
            for index, column in shown
        ]
        for row, (_, cells, _) in enumerate(table.rows)
    ]
    return [column.title for _, column in shown], [
        [row[0] + mark, *row[1:]] for row, (_, _, mark) in zip(rows, table.rows)
    ]


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
        notes = {
            "†": "reconstruction",
            "‡": "not available",
            "§": "fewer chains",
            "¶": "not a number",
        }
        records.append(record | {"note": "; ".join(notes[m] for m in mark)})
    return pd.DataFrame(records).to_csv(index=False, lineterminator="\n")


def to_markdown(table: Rendered) -> str:
    titles, rows = as_text(table, {"best": "**{}**", "second": "*{}*"})
    text = pd.DataFrame(rows, columns=titles).to_markdown(
        index=False, disable_numparse=True, colalign=["left", *["right"] * (len(titles) - 1)]
    )
    return "\n\n".join([table.caption, text, *table.footnotes]) + "\n"


STYLE_SHEET = """body{font:14px/1.45 system-ui,sans-serif;margin:1rem;color:#222}div{overflow-x:auto}
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left;white-space:normal;min-width:9rem;position:sticky;left:0;
background:#fff}.text td,.text th,.text td:first-child{white-space:normal;text-align:left;min-width:0}
p{max-width:60rem}"""


def to_page(
    caption: str, tables: Sequence[pd.DataFrame], notes: Sequence[str] = (), kind: str = ""
) -> str:
    """One self-contained HTML page of tables for people; bold and italic are written `\x02cell\x03` and `\x04cell\x05`."""
    text = "".join(
        f"<div>{table.to_html(index=False, border=0, classes=kind, justify='inherit')}</div>"
        for table in tables
    )
    for mark, tag in {"\x02": "<b>", "\x03": "</b>", "\x04": "<i>", "\x05": "</i>"}.items():
        text = text.replace(mark, tag)
    below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    title = html.escape(caption)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE_SHEET}</style><p>{title}</p>{text}{below}</html>\n"
    )


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
        return (
            f"${value} \\pm {half}$".replace(",", "{,}")
            if half
            else (
                f"${text}$".replace(",", "{,}")
                if text[:1] in "+-" and text[1:]
                else text.translate(TEX)
            )
        )

    def tabular(kept: list[int]) -> str:
        lines = [" & ".join(tex(row[i]) for i in kept) + r" \\" for row in (titles, *rows)]
        return "\n".join(
            [
                r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                rf"\begin{{tabular}}{{l{'r' * (len(kept) - 1)}}}",
                r"\toprule",
                lines[0],
                r"\midrule",
                *lines[1:],
                r"\bottomrule",
                r"\end{tabular}}",
            ]
        )

    last = (
        len(titles) if len(titles) <= 12 else 8
    )  # a wide table goes on below itself, its first columns repeated
    panels = [list(range(last))] + (
        [[0, 1, 2, *range(last, len(titles))]] if last < len(titles) else []
    )
    notes = r" \\ ".join(note.translate(TEX) for note in table.footnotes)
    head = [rf"\caption{{{table.caption.translate(TEX)}}}", rf"\label{{tab:{table.label}}}"]
    below = [rf"\par\smallskip\raggedright\scriptsize {notes}"] if notes else []
    again = [
        r"\end{table}",
        r"\begin{table}[tbp]",
        r"\centering",
        rf"Table~\ref{{tab:{table.label}}}, continued.",
    ]
    tall = len(rows) * len(panels) > 70  # lines of a page
    between = [*again, r"\medskip"] if tall else [r"\par\medskip"]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs,graphicx}",
            r"\begin{table}[tbp]",
            r"\centering",
            *head,
            r"\medskip",
            "\n".join(["", *between, ""]).join(map(tabular, panels)),
            *below,
            r"\end{table}",
            "",
        ]
    )
