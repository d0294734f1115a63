"""Tables and text of the probes."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path

import pandas as pd

from hdbench.experiments.probes.collect import collect
from hdbench.experiments.probes.config import Probes, arm_name
from hdbench.experiments.probes.figures import draw_crossover, draw_weights
from hdbench.experiments.probes.heads import is_adaptive, label
from hdbench.experiments.probes.measures import MEASURES
from hdbench.experiments.report import Intervals, Report, markdown_table, with_half_widths

METRICS = (
    "flaw_area",
    "flaw_share",
    *MEASURES,
    "weight_in_flaw",
    "learning_rate",
    "head_parameters",
)
TITLES = {
    "flaw_share": "Share of tokens",
    **MEASURES,
    "weight_in_flaw": "Weight inside",
    "learning_rate": "Learning rate",
}
RECONSTRUCTION = "Reconstruction: the paper gives no formula."


def run_probes(probes: Probes, results: Path, out: Path, pdf: bool = False) -> list[Path]:
    """Run what is missing; write results/probes/metrics.csv and all of out/probes; the paths."""
    frame, units = collect(probes, results)
    intervals = reported(frame)
    table = render(probes, intervals)
    paired = differences(probes, intervals)
    missing = without_number(probes, intervals)
    note = explanation(probes) + f" †\u00a0{RECONSTRUCTION}" + missing
    report = Report(
        experiment="probes",
        metrics=frame,
        tables={"probes": table, "differences": paired},
        text=to_markdown(probes, table, paired, missing),
        figures={
            "crossover": partial(draw_crossover, probes, intervals, note),
            "weights": partial(draw_weights, probes, units),
        },
    )
    return report.write(results, out, pdf)


def reported(frame: pd.DataFrame) -> Intervals:
    """Of the numbers that are reported, not those that choose."""
    return Intervals(frame[frame.suite == "probes"], nfe=0)


def render(probes: Probes, intervals: Intervals) -> pd.DataFrame:
    """One row a head, flaw and number of tokens: measures with half-widths of 95% intervals."""
    rows = []
    for tokens, flaw, head in probes.cells():
        arm = arm_name(head, tokens, flaw)
        row = {"arm": arm, "tokens": tokens, "flaw": flaw.name, "head": head}
        rows.append(row | with_half_widths({name: intervals(arm, name) for name in METRICS}))
    return pd.DataFrame(rows)


def differences(probes: Probes, intervals: Intervals) -> pd.DataFrame:
    """One row a flaw, number of tokens, adaptive and plain head: the first minus the second."""
    adaptive = [head for head in probes.heads if is_adaptive(head)]
    plain = [head for head in probes.heads if not is_adaptive(head)]
    rows = []
    for tokens, flaw, head, minus in itertools.product(
        probes.tokens, probes.flaws, adaptive, plain
    ):
        arms = arm_name(head, tokens, flaw), arm_name(minus, tokens, flaw)
        row = {"tokens": tokens, "flaw": flaw.name, "head": head, "minus": minus}
        values = {metric: intervals.difference(*arms, metric) for metric in MEASURES}
        rows.append(row | with_half_widths(values))
    return pd.DataFrame(rows)


def without_number(probes: Probes, intervals: Intervals) -> str:
    """A sentence that names what has no finite number on some seed, or nothing."""
    names = [
        f"{title.strip(' ↑↓')} of {label(head)}, {tokens} tokens, {flaw.title}"
        for tokens, flaw, head in probes.cells()
        for metric, title in MEASURES.items()
        if not math.isfinite(intervals(arm_name(head, tokens, flaw), metric).value)
    ]
    return f" Without a finite number on some seed: {'; '.join(names)}." if names else ""


def explanation(probes: Probes) -> str:
    """What is measured, how, and what the intervals are."""
    over = f"t over {len(probes.seeds)} seeds" if len(probes.seeds) > 1 else "over images"
    return (
        "Real images with one planted flaw against clean ones: heads of equal size on frozen "
        f"features at times up to {probes.t_max:g}, {probes.steps:,} steps, measured on "
        f"{probes.images:,} held-out images. Flip: the texture's phase is turned by half a period; "
        "fade: its amplitude is halved. Inside: share of the energy of the generator's gradient "
        "where the image is wrong. Cosine: of minus the gradient with the true correction. Damage: "
        "squared change elsewhere for each unit of squared error repaired, at the step that "
        "cancels the flaw along the true correction. Learning rates by the largest cosine on a "
        f"seed that is not shown. 95% intervals, {over}."
    )


def to_markdown(probes: Probes, table: pd.DataFrame, paired: pd.DataFrame, missing: str) -> str:
    """Explanation and both tables for people."""
    titles = {flaw.name: flaw.title for flaw in probes.flaws}

    def labels(table: pd.DataFrame) -> dict[str, pd.Series]:
        return {
            "Tokens": table.tokens.astype(str),
            "Flaw": table.flaw.map(titles),
            "Head": table["head"].map(label),
        }

    paragraphs = [
        f"{explanation(probes)} † {RECONSTRUCTION}{missing}",
        markdown_table(table, labels(table), TITLES),
    ]
    if len(paired):
        minus = {"Minus": paired["minus"].map(label)}
        paragraphs += [
            "Each adaptive head minus each plain one, within seeds:",
            markdown_table(paired, labels(paired) | minus, MEASURES, signed=True),
        ]
    return "\n\n".join(paragraphs) + "\n"
