"""Copies of what is rendered into the folder of committed tables; no run takes this step."""

from __future__ import annotations

from pathlib import Path

from hdbench.core.errors import UserError
from hdbench.core.outputs import write_outputs
from hdbench.report.provenance import ENVIRONMENTS

SUFFIXES = (".csv", ".md", ".tex", ".png")  # of a figure one format, which pages show


def publish(name: str, results: Path, out: Path) -> list[Path]:
    """results/<name>/{*.csv, *.md, tables/*, figures/*} to out/<name>/, all or none; the paths.

    UserError where nothing is rendered, or tables from other numbers than the present.
    """
    source = results / name
    target = out / name
    tables = source / "tables" if (source / "tables").is_dir() else source
    contents = {
        target / inside / path.name: path.read_bytes()
        for folder, inside in ((tables, ""), (source / "figures", "figures"))
        for path in sorted(folder.glob("*"))
        if path.suffix in SUFFIXES or path.name == ENVIRONMENTS
    }
    numbers = [folder / "metrics.csv" for folder in (source, tables)]
    if all(path.is_file() for path in numbers) and len({path.read_bytes() for path in numbers}) > 1:
        raise UserError(
            f"{tables}: rendered from other numbers than {numbers[0]}; render tables and figures "
            "again"
        )
    if not contents:
        raise UserError(f"{source}: nothing is rendered there; render tables and figures first")
    return write_outputs(contents)
