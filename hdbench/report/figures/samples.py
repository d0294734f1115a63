"""Samples of every method from equal noises."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch

from hdbench.core.pixels import load_images
from hdbench.report.figures.base import Figure
from hdbench.report.figures.sources import Sources
from hdbench.report.figures.style import kind_of, note_below, nothing
from hdbench.report.numbers import Entry
from hdbench.stages.pictures import first_images
from hdbench.suite.arms import equal_total, is_teacher

Line = tuple[object, str, torch.Tensor]  # group, label and images (N, C, H, W) of a row
MARGIN = 2.6  # inches, of labels


class Samples(Figure):
    """Equal noises (columns) through every method (rows), first chain; on top real test images."""

    name = "samples"

    def draw(self, sources: Sources) -> plt.Figure:
        plan = sources.plan
        count = min(10, plan.suite.data.classes or 10)
        lines = [*real_images(sources, count), *sampled(sources, count)]
        if not lines:
            return nothing(sources, "results has no samples")
        apart = [1 + 0.25 * (a[0] != b[0]) for a, b in zip(lines, lines[1:], strict=False)]
        tops = np.cumsum([0, *apart])  # in rows
        side = min(0.42, 9.2 / (tops[-1] + 1))  # inches; the whole fits on a page
        size = np.array([MARGIN + side * count, side * (tops[-1] + 1)])
        figure = plt.figure(figsize=size)
        for top, (_, label, images) in zip(tops, lines, strict=True):
            corner = (MARGIN / size[0], 1 - side * (top + 1) / size[1])
            draw_line(figure, (*corner, side * count / size[0], side / size[1]), images)
            middle = 1 - side * (top + 0.5) / size[1]
            figure.text((MARGIN - 0.08) / size[0], middle, label, ha="right", va="center")
        columns = f"Columns: equal noises and classes; chain {plan.suite.seeds[0]}"
        return note_below(figure, sources.notes(plan.arms, columns))


def real_images(sources: Sources, count: int) -> list[Line]:
    """One row: the first test images, one of each class where there are classes."""
    plan = sources.plan
    data = next(stage.id for stage in plan.stages.values() if stage.kind == "data")
    folder = sources.folder(data, "real images")
    if not (folder and (folder / "test.npz").is_file()):
        return []
    images, labels = load_images(folder / "test.npz")
    if not plan.suite.text:
        images = images[[int((labels == label).nonzero()[0]) for label in range(count)]]
    return [("real", "Real images (test)", images[:count])]


def sampled(sources: Sources, count: int) -> list[Line]:
    """Of each arm its fewest and its most sampling steps, of a teacher its most."""
    plan = sources.plan
    lines: list[Line] = []
    for name, arm in plan.arms.items():
        rows = sorted(
            (row for row in sources.rows(name) if row.seed == plan.suite.seeds[0]),
            key=lambda row: row.steps,
        )
        kept = [] if arm.real else rows[-1:] if is_teacher(arm) else rows[:1] + rows[1:][-1:]
        group = (kind_of(plan, name), equal_total(plan, name)) if arm.refine else "before stage 2"
        for row in kept:
            label = sources.name(Entry(name, row.steps, row.nfe))
            if folder := sources.folder(row.stages["sample"], label):
                lines.append((group, label, first_images(folder, count)))
    return lines


def draw_line(
    figure: plt.Figure, place: tuple[float, float, float, float], images: torch.Tensor
) -> None:
    """Images side by side in one axis, white lines between."""
    pixels = np.pad(
        images.permute(2, 0, 3, 1).numpy(), ((0, 1), (0, 0), (0, 1), (0, 0)), constant_values=255
    )
    line = pixels.reshape(len(pixels), -1, pixels.shape[-1])
    axis = figure.add_axes(place)
    axis.imshow(
        line if line.shape[-1] == 3 else line[..., 0],
        cmap="gray",
        vmin=0,
        vmax=255,
        interpolation="nearest",
        aspect="auto",
    )
    axis.set_axis_off()
