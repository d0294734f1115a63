"""Samples of every method from equal noises."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from hdbench.core.pixels import load_images
from hdbench.report.figures.sources import Sources
from hdbench.report.figures.style import kind_of, note_below, nothing
from hdbench.report.numbers import Entry
from hdbench.stages.pictures import first_images
from hdbench.suite.arms import equal_total, is_teacher


def samples(sources: Sources) -> Figure:
    """The same noises (columns) through every method (rows), first chain; on top real test images of those classes."""
    plan, shown = sources.plan, []
    count = min(10, plan.suite.data.classes or 10)
    data = next(stage.id for stage in plan.stages.values() if stage.kind == "data")
    folder = sources.folder(data, "real images")
    if folder and (folder / "test.npz").is_file():
        images, labels = load_images(folder / "test.npz")
        shown.append(
            (
                "real",
                "Real images (test)",
                images[:count]
                if plan.suite.text
                else images[[int((labels == c).nonzero()[0]) for c in range(count)]],
            )
        )
    for name, arm in plan.arms.items():
        rows = sorted(
            (row for row in sources.rows(name) if row.seed == plan.suite.seeds[0]),
            key=lambda row: row.steps,
        )
        kept = [] if arm.real else rows[-1:] if is_teacher(arm) else rows[:1] + rows[1:][-1:]
        for row in kept:
            label = sources.name(Entry(name, row.steps, row.nfe))
            group = (
                (kind_of(plan, name), equal_total(plan, name)) if arm.refine else "before stage 2"
            )
            if folder := sources.folder(row.stages["sample"], label):
                shown.append((group, label, first_images(folder, count)))
    if not shown:
        return nothing(sources, "results has no samples")
    tops = np.cumsum(
        [0, *(1 + 0.25 * (above[0] != below[0]) for above, below in zip(shown, shown[1:]))]
    )  # in rows
    side, margin = min(0.42, 9.2 / (tops[-1] + 1)), 2.6  # inches; the whole fits on a page
    size = np.array([margin + side * count, side * (tops[-1] + 1)])
    figure = plt.figure(figsize=size)
    for top, (_, label, images) in zip(tops, shown):
        pixels = np.pad(
            images.permute(2, 0, 3, 1).numpy(),
            ((0, 1), (0, 0), (0, 1), (0, 0)),
            constant_values=255,
        )
        line = pixels.reshape(
            len(pixels), -1, pixels.shape[-1]
        )  # one image of all, with white lines between
        axis = figure.add_axes(
            (
                margin / size[0],
                1 - side * (top + 1) / size[1],
                side * count / size[0],
                side / size[1],
            )
        )
        axis.imshow(
            line if line.shape[-1] == 3 else line[..., 0],
            cmap="gray",
            vmin=0,
            vmax=255,
            interpolation="nearest",
            aspect="auto",
        )
        axis.set_axis_off()
        figure.text(
            (margin - 0.08) / size[0],
            1 - side * (top + 0.5) / size[1],
            label,
            ha="right",
            va="center",
        )
    return note_below(
        figure,
        sources.notes(plan.arms, f"Columns: equal noises and classes; chain {plan.suite.seeds[0]}"),
    )
