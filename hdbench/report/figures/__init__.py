"""The suite's figures: quality from the collected numbers; samples, training curves, spectra and token weights from artifacts.

Colour is the discriminator head; the marker is what stage 2 starts from, open for controls of equal total compute.  What has
no numbers or no artifact is left out, and a note below the figure says so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from hdbench.core.files import write_together
from hdbench.report.figures.curves import curves
from hdbench.report.figures.forest import forest
from hdbench.report.figures.methods import methods
from hdbench.report.figures.precision_recall import precision_recall
from hdbench.report.figures.quality import quality
from hdbench.report.figures.samples import samples
from hdbench.report.figures.sources import Sources
from hdbench.report.figures.spectrum import spectrum
from hdbench.report.figures.style import NOTHING, STYLE, pictures_of
from hdbench.report.figures.weights import weights
from hdbench.report.numbers import Numbers, figures_folder
from hdbench.suite.plan import Plan
from hdbench.suite.schema import FIGURES


def draw(
    plan: Plan,
    results: Path,
    out: Path | None,
    frame: pd.DataFrame | None = None,
    anybody: bool = False,
) -> list[Path]:
    """Every figure into out/<suite>/figures, as pdf and png, from artifacts and metrics (`anybody`: as Numbers); the paths.

    From anybody's metrics, a figure for which there is nothing does not replace one that is there.
    """
    folder, pictures = figures_folder(plan, results, out), {}

    def numbers(of: Plan) -> Numbers | None:
        return (
            None
            if frame is None
            else Numbers(
                of, frame[~frame.arm.isin(plan.arms.keys() - of.arms.keys())], results, anybody
            )
        )

    parts = {"methods": plan, "forest": ablations(plan, "main", "initialisation")}
    known = {
        name: (part, numbers(part)) for name, part in {**parts, "": ablations(plan, "main")}.items()
    }
    for name in FIGURES:
        part, found = known.get(name, known[""])
        with plt.rc_context(STYLE):
            figure = FIGURE_OF[name](Sources(part, results, found))
            if anybody and figure.get_label() == NOTHING and (folder / f"{name}.png").exists():
                plt.close(figure)
            else:
                pictures |= pictures_of(figure, folder / name)
    write_together(pictures)
    return list(pictures)


def ablations(plan: Plan, *tables: str) -> Plan:
    """The plan with the arms of these tables and the real images alone: other methods have a figure of their own."""
    shown = {name for table in tables for name in getattr(plan.suite.tables, table).rows}
    arms = {name: arm for name, arm in plan.arms.items() if arm.real or name in shown}
    return replace(plan, arms=arms, rows=[row for row in plan.rows if row.arm in arms])


FIGURE_OF = {
    "samples": samples,
    "curves": curves,
    "spectrum": spectrum,
    "precision_recall": precision_recall,
    "quality": quality,
    "methods": methods,
    "forest": forest,
    "weights": weights,
}
