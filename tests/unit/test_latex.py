"""The tables compile as LaTeX, fit the page, and use nothing that a plain article lacks."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hdbench.report.published import BENCHMARKS, write_published

PAPER_TABLES = Path(__file__).parents[2] / "paper_tables"
DOCUMENT = r"""\documentclass[a4paper,10pt]{article}
\usepackage{booktabs,graphicx}
\begin{document}
%s
\end{document}
"""


def compiled(folder: Path, tables: list[Path]) -> str:
    """The log of an article of these tables, compiled in `folder`; skips where there is no
    LaTeX.
    """
    engine = next(filter(shutil.which, ("pdflatex", "tectonic")), None)
    if engine is None:
        pytest.skip(
            "no pdflatex or tectonic on PATH: install texlive-latex-base and "
            "texlive-latex-recommended"
        )
    (folder / "tables.tex").write_text(
        DOCUMENT
        % "\n".join(rf"\clearpage\typeout{{TABLE {path.name}}}\input{{{path}}}" for path in tables)
    )
    command = {
        "pdflatex": ["pdflatex", "-interaction=nonstopmode", "-file-line-error"],
        "tectonic": ["tectonic", "--keep-logs", "--untrusted"],
    }[engine]
    for _ in range(2 if engine == "pdflatex" else 1):  # the second for references
        done = subprocess.run(
            [*command, "tables.tex"],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
            env=os.environ | {"max_print_line": "10000"},
        )
    log = (folder / "tables.log").read_text(errors="replace")
    assert done.returncode == 0, (
        "\n".join(re.findall(r"^.*(?:^!|:\d+: ).*$", log, re.M)) or done.stdout[-2000:]
    )
    return log


def faults(log: str) -> list[str]:
    """Of each table its errors, undefined commands and references, floats above a page, boxes more
    than 1pt too wide.
    """
    found = []
    for part in re.split(r"^TABLE ", log, flags=re.M):
        lines = re.findall(
            r"^(?:!|.*:\d+: |.*[Uu]ndefined|.*Float too|Missing character|Overfull \\hbox).*$",
            part,
            re.M,
        )
        wide = [re.search(r"\(([\d.]+)pt too wide", line) for line in lines]
        found += [
            f"{part.split()[0]}: {line}"
            for line, points in zip(lines, wide, strict=True)
            if not points or float(points[1]) > 1
        ]
    return found


def test_every_table_compiles_and_fits(tmp_path):
    ours = tmp_path / "ours.csv"
    ours.write_text(
        "suite,arm,seed,nfe,metric,value,se,n,protocol,digest\n"
        "evaluate,[50%] <a_b> & c^2 "
        "#~\\,,1,fid_2k,3.5,0.1,2000,adm_imagenet256_50k[inception=a]:b,d\n"
    )
    write_published(
        tuple(BENCHMARKS), PAPER_TABLES / "published.csv", [ours], True, tmp_path / "new"
    )
    tables = sorted(PAPER_TABLES.rglob("*.tex")) + sorted((tmp_path / "new").rglob("*.tex"))
    assert {"main", "imagenet256", "mjhq"} <= {path.stem for path in tables}
    copies = [tmp_path / f"{number}-{path.name}" for number, path in enumerate(tables)]
    for path, copy in zip(tables, copies, strict=True):  # of which several may have the same label
        copy.write_text(
            path.read_text(encoding="utf-8").replace("{tab:", f"{{tab:{copy.stem}-"),
            encoding="utf-8",
        )
    log = compiled(tmp_path, copies)
    assert not faults(log), "\n".join(faults(log))
    assert (tmp_path / "tables.pdf").stat().st_size > 10_000


@pytest.mark.parametrize(
    "text",
    [r"\undefinedcommand", r"\makebox[1.1\linewidth]{wide}", r"\ref{tab:nowhere}", "100_000"],
)
def test_a_fault_is_seen(tmp_path, text):
    (tmp_path / "broken.tex").write_text(rf"\noindent {text}")
    try:
        log = compiled(tmp_path, [tmp_path / "broken.tex"])
    except AssertionError:
        return
    assert faults(log)
