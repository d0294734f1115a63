"""The suite's tables: csv for machines, Markdown, LaTeX and HTML for people; one file a kind.

A new kind is its file and a line in `kinds`, or an installed package's entry point
`hdbench.tables`.
"""

from __future__ import annotations

from hdbench.report.tables.base import Table
from hdbench.report.tables.kinds import TABLES, tables_of
from hdbench.report.tables.render import (
    FOOTNOTES,
    caption,
    explanations,
    marks,
    print_main,
    render,
    write_tables,
)

__all__ = [
    "FOOTNOTES",
    "TABLES",
    "Table",
    "caption",
    "explanations",
    "marks",
    "print_main",
    "render",
    "tables_of",
    "write_tables",
]
