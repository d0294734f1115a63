"""The columns of each table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hdbench.metrics.records import MISSING, Interval
from hdbench.report.numbers import Entry, Numbers
from hdbench.suite.arms import (
    base_arm,
    describe,
    equal_total,
    head_name,
    initialisation,
    is_teacher,
    same_from_trajectory,
    same_without_head,
    settings,
)
from hdbench.suite.plan import Plan

_INCEPTION = {"fid": "FID N ↓", "precision": "Precision ↑", "recall": "Recall ↑"}
QUALITY = {  # columns by the suite's protocol
    "classifier": {
        "fd_train": "FD train N ↓",
        "fd_test": "FD test N ↓",
        "precision": "Precision ↑",
        "recall": "Recall ↑",
    },
    "adm_imagenet256_50k": {
        "fid": "FID N ↓",
        "sfid": "sFID ↓",
        "inception_score": "IS ↑",
        **_INCEPTION,
    },
    "torch_fidelity": {"fid": "FID N ↓", "kid": "KID ↓", "inception_score": "IS ↑", **_INCEPTION},
    "clean_fid": {"fid": "FID N ↓"},
    "mjhq30k": {"fid": "FID N ↓", "clip_score": "CLIP score ↑"},
}
Cell = Interval | str | int


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its name in csv, its title for people, and the cell of an entry."""

    key: str
    title: str
    cell: Callable[[Entry], Cell]
    scale: float = 1.0  # of values for people; csv has them as they are
    expected: bool = False  # a missing value gets a footnote
    signed: bool = False


def against(
    numbers: Numbers, reference: Callable[[Plan, str], str | None], title: str, suffix: str = ""
) -> list[Column]:
    """Difference of the distance to the arm that `reference` names for an entry's arm, and, in csv alone, that arm's name."""
    plan = numbers.plan

    def cell(e: Entry) -> Cell:
        other = reference(plan, e.arm)
        if other is None or plan.arms[e.arm].real:
            return MISSING
        compared = numbers.entries(other)[0]
        return "reference" if compared == e else numbers.difference(e, compared, numbers.distance)

    return [
        Column(
            key=numbers.counted(f"difference_{numbers.distance}") + suffix,
            title=title,
            cell=cell,
            signed=True,
        ),
        Column(
            key=f"difference_against{suffix}", title="", cell=lambda e: reference(plan, e.arm) or ""
        ),
    ]


def columns_of(table: str, numbers: Numbers) -> list[Column]:
    """The columns of a table, all of them functions of an entry."""
    plan, arms = numbers.plan, numbers.plan.arms
    bands = plan.suite.evaluation.bands

    def metric(name: str, title: str) -> Column:
        key = numbers.counted(name)
        title = title.replace(" N", key.removeprefix(name).replace("_", " "))
        return Column(key=key, title=title, cell=lambda e: numbers(e, key), expected=True)

    def parts(prefix: str, what: str = "") -> list[Column]:
        """Metrics of parts of the samples."""
        found = sorted(
            {key.rpartition("_")[0] for key in set(numbers.frame.metric) if key.startswith(prefix)}
            - {prefix[:-1]}
        )
        return [
            Column(
                key=name,
                title=what + name.removeprefix(prefix).replace("_", " ").capitalize(),
                cell=lambda e, name=name: numbers.part(e, name),
            )
            for name in found
        ]

    def cost(key: str, title: str, scale: float = 1.0) -> Column:
        return Column(key=key, title=title, cell=lambda e: numbers(e, key), scale=scale)

    def text(key: str, title: str, of: Callable[[Entry], Cell]) -> Column:
        return Column(key=key, title=title, cell=of)

    def control(e: Entry) -> str:
        if same_from_trajectory(plan, e.arm) in (None, e.arm) or arms[e.arm].trajectory:
            return "none"
        return "equal total compute" if equal_total(plan, e.arm) else "equal stage-2 steps"

    teachers = [
        entry for name, arm in arms.items() if is_teacher(arm) for entry in numbers.entries(name)
    ]
    teacher = max(teachers, key=lambda e: e.nfe, default=None)
    method = text("method", "Method", lambda e: describe(plan, e.arm))
    head = text(
        "head",
        "Head",
        lambda e: ", ".join(
            [head_name(arms[e.arm]), *settings(plan, e.arm, ("refine", "objective", "gan"))]
        ),
    )
    start = text(
        "initialisation",
        "Initialisation",
        lambda e: "-" if arms[e.arm].real else initialisation(arms[e.arm]),
    )
    steps, nfe = (
        text("steps", "Steps", lambda e: e.steps or "-"),
        text("nfe", "NFE", lambda e: e.nfe or "-"),
    )
    chains = text("chains", "Chains", lambda e: "-" if arms[e.arm].real else numbers.chains(e)[0])
    quality = [
        metric(name, title) for name, title in QUALITY[plan.suite.evaluation.protocol].items()
    ]
    power = [
        metric(f"power_band{band}", f"Band {band}")
        for band in range(1, bands + 1)
        if plan.suite.classifier
    ]
    scores = (
        [metric("accuracy", "Accuracy ↑"), metric("classifier_score", "Score ↑")]
        if plan.suite.classifier
        else []
    )
    if plan.suite.text and plan.suite.classifier:
        scores.append(metric("clip_score", "CLIP score ↑"))
    distance, distance_title = (
        numbers.distance,
        QUALITY[plan.suite.evaluation.protocol][numbers.distance],
    )
    difference = distance_title.removesuffix(" N ↓")
    budget = text(
        "budget", "Stage-2 steps", lambda e: arms[e.arm].refine.steps if arms[e.arm].refine else "-"
    )
    training = cost("training_forward_equivalents", "Training, kFE", 1e-3)
    speed = cost("milliseconds_per_sample", "ms/image")
    if table == "main":
        return [method, steps, nfe, chains, *quality, *scores, *power, training, speed]
    if table == "methods":
        to = [
            column
            for arm in plan.suite.tables.methods.against
            for column in against(
                numbers,
                lambda plan, _, arm=arm: arm,
                f"Δ {difference} to {describe(plan, arm)}",
                f"_{arm}",
            )
        ]
        return [
            method,
            text(
                "source",
                "Source",
                lambda e: plan.recipes[e.arm].source if e.arm in plan.recipes else "-",
            ),
            steps,
            nfe,
            chains,
            *quality,
            *power,
            *to,
            training,
            cost("training_core_seconds", "Core-s"),
            cost("sampling_flops", "MFLOPs/image", 1e-6),
            speed,
        ]
    if table == "components":
        return [
            method,
            text("td", "TD", lambda e: "yes" if arms[e.arm].trajectory else "no"),
            text("dmd", "DMD", lambda e: "yes" if arms[e.arm].refine else "no"),
            head,
            nfe,
            chains,
            *quality,
            *power[-1:],
            *against(numbers, lambda plan, arm: base_arm(plan), f"Δ {difference} to base"),
        ]
    if table == "discriminators":
        return [
            head,
            start,
            budget,
            cost("head_parameters", "Head parameters"),
            chains,
            *quality,
            *against(numbers, same_without_head, f"Δ {difference} to no head"),
        ]
    if table == "initialisation":
        return [
            head,
            start,
            text("control", "Control", control),
            budget,
            training,
            chains,
            *quality,
            *against(numbers, same_from_trajectory, f"Δ {difference} to TD start"),
        ]
    if table == "categories":
        return [
            method,
            nfe,
            chains,
            metric(distance, distance_title),
            *parts(f"{distance}_"),
            *scores,
            *parts("accuracy_", "Accuracy: "),
        ]
    if table == "reproducibility":
        fd = numbers.counted(distance)

        def components(part: str, title: str) -> Column:
            return Column(
                key=f"{fd}_{part}",
                title=title,
                cell=lambda e: Interval(numbers.components(e, fd)[part], math.nan),
            )

        return [
            method,
            nfe,
            chains,
            metric(distance, distance_title),
            components("lowest", "Lowest"),
            components("highest", "Highest"),
            components("total", "SD of chains"),
            components("sampling", "of it sampling"),
            components("training", "of it training"),
        ]
    return [
        method,
        nfe,
        cost("parameters", "Parameters"),
        cost("head_parameters", "Head parameters"),
        cost("sampling_flops", "MFLOPs/image", 1e-6),
        training,
        cost("trajectory_core_seconds", "TD, core-s"),
        cost("refine_core_seconds", "Stage 2, core-s"),
        cost("training_gpu_seconds", "GPU s"),
        cost("training_queue_seconds", "Queue s"),
        cost("training_peak_memory_bytes", "Peak MB", 1e-6),
        speed,
        text(
            "speed_up_time",
            "Teacher/own ms",
            lambda e: numbers.ratio(e, teacher, "milliseconds_per_sample"),
        ),
        text(
            "speed_up_nfe",
            "Teacher/own NFE",
            lambda e: Interval(teacher.nfe / e.nfe, 0) if teacher and e.nfe else MISSING,
        ),
    ]
