"""A document, that is a table with its caption and notes, and the one renderer of each format."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from hdbench.core.outputs import write_outputs
from hdbench.metrics.records import Interval
from hdbench.report.page import SCRIPT, STYLE_SHEET

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
        "‖": r"$^{\Vert}$",
        "◇": r"$^{\diamond}$",
        "<": "$<$",
        ">": "$>$",
    }
)


class Cell(NamedTuple):
    """A text for people; `math` says that it is a number, which LaTeX sets as mathematics."""

    text: str
    emphasis: Literal["", "bold", "italic"] = ""
    math: bool = False


Row = Sequence[str | Cell] | str


@dataclass(frozen=True, kw_only=True)
class Document:
    """A table with caption and notes.

    `rows` hold texts or `Cell`s, one a column; a row that is a text is a heading of those below.
    `align` is "l", "r" or LaTeX's "p{...}" of each column; by default the first is left, others
    right. `records` is what csv has, by default the texts.  `sources` are numbered, below the
    notes. `layout` is LaTeX's: "fit" shrinks the table to the line, "text" wraps columns, "pages"
    goes on over several floats.  `then` holds further tables of the same file, captions for LaTeX
    alone.
    """

    label: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    align: Sequence[str] = ()
    records: pd.DataFrame | None = None
    sources: Sequence[str] = ()
    layout: Literal["fit", "text", "pages"] = "fit"
    then: Sequence[Document] = ()

    @property
    def alignment(self) -> Sequence[str]:
        return self.align or ["l", *["r"] * (len(self.columns) - 1)]

    def frame(self, bold: str = "{}", italic: str = "{}") -> pd.DataFrame:
        """Texts by column, emphasised by these formats, a heading in its first cell."""
        marks = {"bold": bold, "italic": italic, "": "{}"}
        width = len(self.columns)
        rows = [
            [italic.format(row), *[""] * (width - 1)]
            if isinstance(row, str)
            else [marks[cell.emphasis].format(cell.text) for cell in map(as_cell, row)]
            for row in self.rows
        ]
        return pd.DataFrame(rows, columns=list(self.columns))


def as_cell(cell: str | Cell) -> Cell:
    return cell if isinstance(cell, Cell) else Cell(cell)


def wrapped(share: float) -> str:
    """Alignment of a column of wrapped text, as wide as this share of the line."""
    return rf"p{{{share}\linewidth}}"


def write(document: Document, path: Path, kinds: Sequence[str] = ()) -> list[Path]:
    """The document as path.csv, .md, .tex and .html (or of these `kinds`); the paths."""
    kinds = kinds or tuple(RENDERERS)
    contents = {file: RENDERERS[kind](document).encode() for kind, file in files_of(path, kinds)}
    return write_outputs(contents)


def files_of(path: Path, kinds: Sequence[str] = ()) -> list[tuple[str, Path]]:
    """The files of a document, path.csv, .md, .tex and .html or of these `kinds`, by kind."""
    return [(kind, path.with_name(f"{path.name}.{kind}")) for kind in kinds or RENDERERS]


def to_csv(document: Document) -> str:
    """For machines: full precision, missing is empty."""
    records = document.frame() if document.records is None else document.records
    return records.to_csv(index=False, lineterminator="\n")


def to_markdown(document: Document) -> str:
    """Caption, tables, notes and sources, a blank line between."""
    tables = [markdown_table(table) for table in (document, *document.then)]
    sources = [f"- [{number}] {source}" for number, source in enumerate(document.sources, 1)]
    blocks = [document.caption, *tables, *document.notes, "\n".join(sources)]
    return "\n\n".join(filter(None, blocks)) + "\n"


def markdown_table(document: Document) -> str:
    """The table alone."""
    frame = document.frame("**{}**", "*{}*").map(lambda text: text.replace("|", r"\|"))
    align = ["right" if kind == "r" else "left" for kind in document.alignment]
    return frame.to_markdown(index=False, disable_numparse=True, colalign=align)


def to_html(document: Document) -> str:
    """One self-contained page, light or dark as the reader's, its tables to be sorted."""
    text = ""
    for table in (document, *document.then):
        kind = "text" if document.layout == "text" else ""
        if not any(isinstance(row, str) for row in table.rows):
            kind += " sortable"
        # marks that pandas does not escape stand for tags
        frame = table.frame("\x02{}\x03", "\x04{}\x05")
        body = frame.to_html(index=False, border=0, classes=kind, justify="inherit")
        text += f"<div>{body}</div>"
    for mark, tag in {"\x02": "<b>", "\x03": "</b>", "\x04": "<i>", "\x05": "</i>"}.items():
        text = text.replace(mark, tag)
    sources = [f"[{number}] {source}" for number, source in enumerate(document.sources, 1)]
    below = "".join(f"<p>{html.escape(note)}</p>" for note in [*document.notes, *sources])
    title = html.escape(document.caption)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE_SHEET}</style><p>{title}</p>{text}{below}"
        f"<script>{SCRIPT}</script></html>\n"
    )


def to_tex(document: Document) -> str:
    """Table environments for \\input; needs booktabs and, but for wrapped text, graphicx."""
    layout = {"fit": _fitted, "text": _wrapped, "pages": _paged}[document.layout]
    return "\n".join([*layout(document), ""])


RENDERERS = {"csv": to_csv, "md": to_markdown, "tex": to_tex, "html": to_html}


def tex(text: str) -> str:
    """Text for LaTeX; `code` in a typewriter's font."""
    pieces = [piece.translate(TEX) for piece in text.split("`")]
    pieces[1::2] = [rf"\texttt{{{code}}}" for code in pieces[1::2]]
    return "".join(pieces)


def tex_cell(cell: str | Cell) -> str:
    text, emphasis, is_math = as_cell(cell)
    if not is_math:
        command = {"bold": r"\textbf{%s}", "italic": r"\emph{%s}", "": "%s"}[emphasis]
        return command % tex(text)
    value, _, half = text.partition(" ± ")
    if half:
        number = f"${value} \\pm {half}$".replace(",", "{,}")
    elif text[:1] in "+-" and text[1:]:
        number = f"${text}$".replace(",", "{,}")
    else:
        number = text.translate(TEX)
    command = {"bold": r"$\mathbf{%s}$", "italic": r"$\mathit{%s}$", "": ""}[emphasis]
    return command % number.strip("$") if command else number


def tex_row(cells: Sequence[str | Cell]) -> str:
    return " & ".join(map(tex_cell, cells)) + r" \\"


def _head(document: Document) -> list[str]:
    return [rf"\caption{{{tex(document.caption)}}}", rf"\label{{tab:{document.label}}}"]


def _float(head: Sequence[str], body: Sequence[str], setup: str = "") -> list[str]:
    return [r"\begin{table}[tbp]", rf"\centering{setup}", *head, r"\medskip", *body, r"\end{table}"]


def _tabular(align: str, head: str, lines: Sequence[str], shrink: bool = True) -> list[str]:
    """`lines` begin with their rule; `shrink`: no wider than the line."""
    box = [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"] if shrink else []
    return [
        *box,
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        head,
        *lines,
        r"\bottomrule",
        r"\end{tabular}" + "}" * shrink,
    ]


def _fitted(document: Document) -> list[str]:
    """A wide table goes on below itself, its first three columns repeated; a tall one overleaf."""
    width = len(document.columns)
    last = width if width <= 12 else 8
    panels = [list(range(last))]
    panels += [[0, 1, 2, *range(last, width)]] if last < width else []
    tabulars = [
        _tabular(
            "".join(document.alignment[index] for index in kept),
            tex_row([document.columns[index] for index in kept]),
            [r"\midrule", *(tex_row([row[index] for index in kept]) for row in rows)],
        )
        for kept in panels
        for rows in _even(document.rows, PAGE)
    ]
    between = ["", r"\par\medskip", ""]
    if len(document.rows) * len(panels) > 70:  # lines of a page
        again = rf"Table~\ref{{tab:{document.label}}}, continued."
        start = [r"\end{table}", r"\begin{table}[tbp]", r"\centering", again, r"\medskip"]
        between = ["", *start, ""]
    body = "\n".join(between).join("\n".join(tabular) for tabular in tabulars)
    notes = r" \\ ".join(map(tex, document.notes))
    below = [rf"\par\smallskip\raggedright\scriptsize {notes}"] if notes else []
    return ["% needs \\usepackage{booktabs,graphicx}", *_float(_head(document), [body, *below])]


def _even(rows: Sequence[Row], most: int) -> list[Sequence[Row]]:
    """The rows in as few parts of about one size as have no more than `most`."""
    size = math.ceil(len(rows) / max(1, math.ceil(len(rows) / most)))
    return [rows[first : first + size] for first in range(0, len(rows), size or 1)]


def _wrapped(document: Document) -> list[str]:
    """Floats of TALL rows of wrapped text a table, in small type; notes are in the last caption."""
    lines = ["% needs \\usepackage{booktabs}"]
    for table in (document, *document.then):
        head = tex_row(table.columns)
        for number, rows in enumerate(_even(table.rows, TALL)):
            cells = [r"\midrule", *map(tex_row, rows)]
            body = _tabular("".join(table.alignment), head, cells, shrink=False)
            caption = CONTINUED if number else _head(table)
            lines += _float(caption, body, r"\scriptsize\setlength{\tabcolsep}{3pt}")
    return lines


TALL = 15  # rows of wrapped text on a page
PAGE = 46  # lines of a table that shares a page with its caption
CONTINUED = [r"\addtocounter{table}{-1}", r"\caption{Continued.}"]


def _paged(document: Document) -> list[str]:
    """Floats of a page or less with rows under their headings, then one of notes and sources."""
    rows: list[tuple[str, str]] = []
    heading = ""
    headings = [row for row in document.rows if isinstance(row, str)]
    for row in document.rows:
        if isinstance(row, str):
            heading = row
        else:
            rows.append((heading, r"\raggedright\hangindent=1em " + tex_row(row)))
    size = math.ceil(len(rows) / math.ceil((len(rows) + len(headings)) / PAGE))
    lines = ["% needs \\usepackage{booktabs,graphicx}"]
    for first in range(0, len(rows), size):
        before = rows[first - 1][0] if first else ""
        body = []
        for number, (heading, cells) in enumerate(rows[first : first + size]):
            if not number or heading != rows[first + number - 1][0]:
                title = tex(heading) + (", continued" if heading == before else "")
                span = rf"\multicolumn{{{len(document.columns)}}}{{l}}{{\emph{{{title}}}}} \\"
                body += [r"\midrule", span]
            body.append(cells)
        tabular = _tabular("".join(document.alignment), tex_row(document.columns), body)
        head = CONTINUED if first else _head(document)
        lines += _float(head, tabular, r"\setlength{\tabcolsep}{4pt}")
    sources = "; ".join(f"[{n}] {tex(source)}" for n, source in enumerate(document.sources, 1))
    notes = list(map(tex, document.notes))
    notes += [f"Sources: {sources}.".replace("/", r"/\allowbreak{}")] if sources else []
    below = r" \\ ".join(notes)
    return [
        *lines,
        r"\begin{table}[tbp]",
        *CONTINUED,
        rf"\par\medskip\raggedright\scriptsize {below}",
        r"\end{table}",
    ]


def number(value: float, decimals: int | None = None, signed: bool = False) -> str:
    """1,234 or 0.0123: to `decimals`, or whole numbers whole and others to three digits."""
    if decimals is None:
        whole = value == int(value) or abs(value) >= 100
        decimals = 0 if whole else 2 - math.floor(math.log10(abs(value)))
    text = f"{value:{'+' if signed else ''},.{decimals}f}"
    return text.lstrip("+-") if float(text.replace(",", "")) == 0 else text


def decimals_of(half: float) -> int:
    """The decimals that two digits of a half-width have."""
    return max(0, 1 - math.floor(math.log10(float(f"{half:.1e}"))))


def for_people(
    cell: Interval | str | int, scale: float = 1.0, signed: bool = False, exact: bool = False
) -> str:
    """`9.63 ± 0.42`, to two digits of the half-width; "-" where there is no value.

    A half-width of zero is shown only where it is `exact`.
    """
    if not isinstance(cell, Interval):
        return f"{cell:,}" if isinstance(cell, int) else cell
    value = scale * cell.value
    half = scale * cell.half_width
    if not math.isfinite(value):
        return "-"
    if not math.isfinite(half) or half == 0:
        return number(value, signed=signed) + " ± 0" * bool(exact and half == 0)
    decimals = decimals_of(half)
    return f"{number(value, decimals, signed)} ± {number(half, decimals)}"
