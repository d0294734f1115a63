"""The suite's figures: quality from the collected numbers; samples, training curves, spectra and
token weights from artifacts.

Colour is the discriminator head; the marker is what stage 2 starts from, open for controls of equal
total compute.  What has no numbers or no artifact is left out, and a note below the figure says so.
A new figure is its file and a line in `FIGURES`, or an installed package's entry point
`hdbench.figures`.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from hdbench.core.outputs import write_outputs
from hdbench.core.registry import Registry
from hdbench.report.figures.base import Figure
from hdbench.report.figures.curves import Curves
from hdbench.report.figures.efficiency import Efficiency
from hdbench.report.figures.forest import Forest
from hdbench.report.figures.methods import Methods
from hdbench.report.figures.precision_recall import PrecisionRecall
from hdbench.report.figures.quality import Quality
from hdbench.report.figures.samples import Samples
from hdbench.report.figures.sources import Sources
from hdbench.report.figures.spectrum import Spectrum
from hdbench.report.figures.style import NOTHING, STYLE, pictures_of
from hdbench.report.figures.weights import Weights
from hdbench.report.numbers import Numbers, figures_folder
from hdbench.report.page import figure_page
from hdbench.suite.plan import Plan

FIGURES: Registry[Figure] = Registry(
    "hdbench.figures",
    base=Figure,
    builtin=[
        Samples,
        Curves,
        Spectrum,
        PrecisionRecall,
        Quality,
        Efficiency,
        Methods,
        Forest,
        Weights,
    ],
)


def draw(
    plan: Plan,
    results: Path,
    out: Path | None,
    frame: pd.DataFrame | None = None,
    lenient: bool = False,
    pdf: bool = False,
) -> list[Path]:
    """Every figure into out/<suite>/figures, as png (and `pdf`), from artifacts and metrics
    (`lenient`: as Numbers); the paths.  Without `out` also as html, for the report.

    From foreign metrics, a figure for which there is nothing does not replace one that is there.
    """
    folder = figures_folder(plan, results, out)
    pictures: dict[Path, bytes] = {}
    known: dict[tuple[str, ...], tuple[Plan, Numbers | None]] = {}
    for name, kind in FIGURES.load().items():
        figure = kind()
        if figure.tables not in known:
            shown = figure.part(plan)
            known[figure.tables] = shown, _numbers(plan, shown, results, frame, lenient)
        shown, numbers = known[figure.tables]
        with plt.rc_context(STYLE):
            drawing = figure.draw(Sources(shown, results, numbers))
            if lenient and drawing.get_label() == NOTHING and (folder / f"{name}.png").exists():
                plt.close(drawing)
            else:
                pictures |= pictures_of(drawing, folder / name, pdf)
                if out is None:
                    picture = pictures[folder / f"{name}.png"]
                    page = figure_page(picture, (inspect.getdoc(kind) or name).split("\n\n")[0])
                    pictures[folder / f"{name}.html"] = page.encode()
    return write_outputs(pictures)


def _numbers(
    plan: Plan, shown: Plan, results: Path, frame: pd.DataFrame | None, lenient: bool
) -> Numbers | None:
    """The numbers of the part of the plan that is shown."""
    if frame is None:
        return None
    return Numbers(shown, frame[~frame.arm.isin(plan.arms.keys() - shown.arms)], results, lenient)
