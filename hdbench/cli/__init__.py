"""The command `hdbench`: `stage` computes one artifact; others collect, render and show."""

from __future__ import annotations

from hdbench.cli import evaluate, experiments, report, stages, tools
from hdbench.cli.group import main

__all__ = ["evaluate", "experiments", "main", "report", "stages", "tools"]
