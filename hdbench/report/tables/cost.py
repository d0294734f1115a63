"""What training and sampling cost."""

from __future__ import annotations

from hdbench.metrics.records import MISSING, Interval
from hdbench.report import columns
from hdbench.report.columns import Column, Value
from hdbench.report.numbers import Entry, Numbers
from hdbench.report.tables.base import Table
from hdbench.suite.arms import is_teacher
from hdbench.suite.plan import Plan


class Cost(Table):
    """Compute, time and memory of every model of the suite's own."""

    name = "cost"
    caption = "What training and sampling cost."

    def shows(self, plan: Plan, arm: str) -> bool:
        return not plan.arms[arm].real and arm not in plan.recipes

    def columns(self, numbers: Numbers) -> list[Column]:
        arms = numbers.plan.arms
        teachers = [
            e for name, arm in arms.items() if is_teacher(arm) for e in numbers.entries(name)
        ]
        teacher = max(teachers, key=lambda e: e.nfe, default=None)

        def fewer(e: Entry) -> Value:
            return Interval(teacher.nfe / e.nfe, 0) if teacher and e.nfe else MISSING

        def faster(e: Entry) -> Value:
            return numbers.ratio(e, teacher, "milliseconds_per_sample")

        return [
            columns.method(numbers),
            columns.nfe(),
            columns.cost(numbers, "parameters", "Parameters"),
            columns.head_parameters(numbers),
            columns.flops(numbers),
            columns.training(numbers),
            *columns.tuning(numbers),
            columns.cost(numbers, "trajectory_core_seconds", "TD, core-s"),
            columns.cost(numbers, "refine_core_seconds", "Stage 2, core-s"),
            columns.cost(numbers, "training_gpu_seconds", "GPU s"),
            columns.cost(numbers, "training_queue_seconds", "Queue s"),
            columns.cost(numbers, "training_peak_memory_bytes", "Peak MB", 1e-6),
            columns.speed(numbers),
            *columns.latencies(numbers),
            columns.text("speed_up_time", "Teacher/own ms", faster),
            columns.text("speed_up_nfe", "Teacher/own NFE", fewer),
        ]
