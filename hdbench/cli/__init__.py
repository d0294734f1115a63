"""The command `hdbench`: `stage` computes one artifact; others collect, render and show."""

from __future__ import annotations

from hdbench.cli import (
    evaluate,
    experiments,
    imports,
    report,
    stages,
    submissions,
    tools,
    verify,
    workspace,
)
from hdbench.cli.group import main

__all__ = [
    "evaluate",
    "experiments",
    "imports",
    "main",
    "report",
    "stages",
    "submissions",
    "tools",
    "verify",
    "workspace",
]
