"""Structure, detail and nuisance apart."""

from __future__ import annotations

from hdbench.report import columns
from hdbench.report.columns import Column
from hdbench.report.numbers import Numbers
from hdbench.report.tables.base import Table
from hdbench.suite.plan import Plan


class OfMetrics(Table):
    """Every arm by further metrics; real images, the noise floor, are its first rows."""

    metrics: tuple[str, ...]

    def lacks(self, plan: Plan) -> str:
        measured = set(self.metrics) & set(plan.suite.evaluation.metrics)
        return "" if measured else "the suite does not measure factors"

    def shows(self, plan: Plan, arm: str) -> bool:
        return True

    def columns(self, numbers: Numbers) -> list[Column]:
        return [
            columns.method(numbers),
            columns.nfe(),
            columns.chains(numbers),
            *columns.further(numbers, self.metrics),
        ]


class Factors(OfMetrics):
    """The factors that the data set plants: structure in digit and shift, detail in the texture."""

    name = "factors"
    caption = "Planted factors of the images, read by matched filters."
    metrics = (
        "factor_accuracy_{factor}",
        "factor_coverage_{factor}",
        "factor_mean_{factor}",
        "factor_distance_{factor}",
    )


class Distances(OfMetrics):
    """The Frechet distance by its terms, and without the nuisance of the gain."""

    name = "distances"
    caption = "Frechet distances by their terms, and at the gain that the images need."
    metrics = ("gain", "fd_mean_{split}", "fd_covariance_{split}", "fd_calibrated_{split}")

    def columns(self, numbers: Numbers) -> list[Column]:
        method, nfe, chains, *further = super().columns(numbers)
        raw = [columns.measured(numbers, name) for name in ("fd_train", "fd_test")]
        return [method, nfe, chains, *raw, *further]
