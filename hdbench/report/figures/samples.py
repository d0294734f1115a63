"""Samples of the suite's arms from equal noises, with their distances."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch

from hdbench.core.pixels import load_images
from hdbench.report.document import for_people
from hdbench.report.figures.base import Figure
from hdbench.report.figures.sources import Sources
from hdbench.report.figures.style import kind_of, note_below, nothing, title_of
from hdbench.report.numbers import Entry
from hdbench.stages.pictures import first_images
from hdbench.suite.arms import equal_total, head_of, is_teacher, same_from_trajectory
from hdbench.suite.plan import Plan

MARGIN, BESIDE, ABOVE = 2.6, 0.9, 0.25  # inches: labels, distances, classes
HEIGHT, LARGEST = 7.2, 0.62  # inches, of all images and of one


class Line(NamedTuple):
    """A row: lines of one group stand together."""

    group: object
    label: str
    images: torch.Tensor  # (N, C, H, W) uint8
    distance: str = ""


class Samples(Figure):
    """Equal noises (columns) through each arm (rows), first chain; on top real test images."""

    name = "samples"

    def draw(self, sources: Sources) -> plt.Figure:
        plan = sources.plan
        count = min(10, plan.suite.data.classes or 10)
        lines, labels = sampled(sources, count)
        lines = [*real_images(sources, labels, count), *lines]
        if not lines:
            return nothing(sources, "results has no samples")
        apart = [1 + 0.25 * (a.group != b.group) for a, b in zip(lines, lines[1:], strict=False)]
        tops = np.cumsum([0, *apart])  # in rows
        side = min(LARGEST, HEIGHT / (tops[-1] + 1))
        size = np.array([MARGIN + side * count + BESIDE, ABOVE + side * (tops[-1] + 1)])
        figure = plt.figure(figsize=size)
        for top, line in zip(tops, lines, strict=True):
            bottom = 1 - (ABOVE + side * (top + 1)) / size[1]
            draw_line(
                figure,
                (MARGIN / size[0], bottom, side * count / size[0], side / size[1]),
                line.images,
            )
            middle = bottom + side / 2 / size[1]
            figure.text((MARGIN - 0.08) / size[0], middle, line.label, ha="right", va="center")
            right = (MARGIN + side * count + 0.08) / size[0]
            figure.text(right, middle, line.distance, va="center", fontsize=7)
        above = 1 - ABOVE / 2 / size[1]
        numbers = sources.numbers
        if any(line.distance for line in lines):
            text = title_of(numbers, numbers.distance)
            figure.text(right, above, text, va="center", fontsize=7)
        for column, label in enumerate([] if plan.suite.text else labels):
            x = (MARGIN + side * (column + 0.5)) / size[0]
            figure.text(x, above, f"class {label}", ha="center", va="center", fontsize=6)
        columns = f"Columns: equal noises and classes; chain {plan.suite.seeds[0]}"
        return note_below(figure, sources.notes(plan.arms, columns))


def real_images(sources: Sources, labels: list[int], count: int) -> list[Line]:
    """One row: of each column's class or caption its first test image, blank where there is none.

    Without labels the first test images.
    """
    data = next(stage.id for stage in sources.plan.stages.values() if stage.kind == "data")
    folder = sources.folder(data, "real images")
    if not (folder and (folder / "test.npz").is_file()):
        return []
    images, classes = load_images(folder / "test.npz")
    places = [(classes == label).nonzero()[:1, 0] for label in labels]
    blank = torch.full_like(images[0], 255)
    row = [images[int(place)] if len(place) else blank for place in places]
    return [Line("real", "Real images (test)", torch.stack(row) if row else images[:count])]


def shown(plan: Plan, arm: str) -> bool:
    """All but real images and controls: equal totals, and heads on what starts from the teacher."""
    has_head = head_of(plan.arms[arm]) not in (None, "none")
    from_teacher = has_head and same_from_trajectory(plan, arm) not in (None, arm)
    return not (plan.arms[arm].real or equal_total(plan, arm) or from_teacher)


def sampled(sources: Sources, count: int) -> tuple[list[Line], list[int]]:
    """Of each arm its fewest sampling steps, of a teacher its most; the columns' labels."""
    plan = sources.plan
    numbers = sources.numbers
    lines: list[Line] = []
    labels: list[int] = []
    for name, arm in plan.arms.items():
        rows = sorted(
            (row for row in sources.rows(name) if row.seed == plan.suite.seeds[0]),
            key=lambda row: row.steps,
        )
        if not rows or not shown(plan, name):
            continue
        row = rows[-1 if is_teacher(arm) else 0]
        group = kind_of(plan, name) if arm.refine else "before stage 2"
        entry = Entry(name, row.steps, row.nfe)
        label = sources.name(entry)
        if folder := sources.folder(row.stages["sample"], label):
            distance = for_people(numbers(entry, numbers.counted(numbers.distance)))
            images = first_images(folder, count)
            lines.append(Line(group, label, images, distance.removesuffix("-")))
            labels = labels or labels_of(folder, count)
    return lines, labels


def labels_of(folder: Path, count: int) -> list[int]:
    """Classes or captions of the first samples of a stage, where it keeps them."""
    file = folder / "samples.npz"
    return load_images(file)[1][:count].tolist() if file.is_file() else []


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
