"""One arm of one chain computed anew, its metrics compared with the committed ones.

The same seeds draw the same noises, so on the same processor and versions the numbers are the same
to the bit.  Others round otherwise.  What is only sampled moves by far less than its standard error
of sampling; what is trained takes another path and ends as another run of the same recipe would, so
its committed and new value differ as two chains do.  A metric therefore agrees if it moved by no
more than `TOLERANCE` standard errors: of its sampling, sqrt(se^2 + se'^2), and of an arm that is
trained here at least sqrt(2) SD over the committed chains, of which there must be two.  4 standard
errors of a normal error are passed by chance once in 16,000 metrics; an SD of few chains is itself
uncertain, and passed more often.  Counts of FLOPs and parameters must be equal.  The classifier of
a chain is trained anew, too, whose features on another processor are others: what they move is in
the scatter over chains, but not in a shipped teacher's standard errors.
"""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pandas as pd
import torch

from hdbench.core.errors import UserError
from hdbench.core.files import MANIFEST
from hdbench.core.provenance import SHIPPED
from hdbench.metrics.records import read_metrics
from hdbench.report.collect import costs, metrics
from hdbench.report.provenance import METRICS
from hdbench.stages import artifact
from hdbench.stages.run import run_stage
from hdbench.suite.plan import Plan, Row, rows_of

TOLERANCE = 4.0  # standard errors
RELATIVE = 1e-3  # of a metric that has no standard error
EXACT = ("sampling_flops", "parameters", "head_parameters")


class Known(NamedTuple):
    """A committed number, with what it scatters by over chains (NaN: not known)."""

    value: float
    se: float
    protocol: str
    scatter: float


class Rerun(NamedTuple):
    """What differs beyond tolerance; how many numbers were compared, and are the same."""

    differences: list[str]
    compared: int
    equal: int
    """To six digits, which a shipped teacher's numbers have."""


def committed(plan: Plan, row: Row, tables: Path) -> dict[str, Known]:
    """The committed numbers of a row by metric: collected ones, else of its shipped teacher.

    They are of this row if their digest is that of its evaluation, which teachers that were shipped
    earlier do not say.
    """
    digest = plan.stage(row.stages["evaluate"]).digest
    file = tables / plan.name / METRICS
    if file.is_file():
        frame = read_metrics(file)
        alike = frame[(frame.arm == row.arm) & (frame.nfe == row.nfe)]
        scatter = alike.groupby("metric").value.std(ddof=1)
        numbers = alike[alike.digest == digest]
        if len(numbers):
            return {
                number.metric: Known(
                    number.value, number.se, number.protocol, scatter[number.metric]
                )
                for number in numbers.itertuples()
            }
    shipped = SHIPPED / row.stages.get("teacher", "") / "evaluation.csv"
    if not shipped.is_file():
        return {}
    frame = pd.read_csv(shipped)
    rows = frame[(frame.arm == row.arm) & (frame.steps == row.steps) & (frame.nfe == row.nfe)]
    if "digest" in frame:
        rows = rows[rows.digest == digest]
    return {
        number.metric: Known(number.value, number.se, number.protocol, math.nan)
        for number in rows.itertuples()
    }


def moved(name: str, known: Known, value: float, se: float, trained: bool) -> str:
    """How a metric differs beyond its tolerance; empty if it does not."""
    if known.value == value or math.isnan(known.value) and math.isnan(value):
        return ""
    if name in EXACT:
        return f"{value:,.0f}, not {known.value:,.0f}"
    error = math.hypot(*(x for x in (known.se, se) if not math.isnan(x)))
    if trained and not math.isnan(known.scatter):
        error = max(error, math.sqrt(2) * known.scatter)
    limit = TOLERANCE * error or RELATIVE * abs(known.value)
    if abs(value - known.value) <= limit:  # false where one of both is not a number
        return ""
    return f"{value:.6g}, not {known.value:.6g} within {limit:.3g}"


def rerun(plan: Plan, arm: str, seed: int | None, tables: Path, device: torch.device) -> Rerun:
    """Compute the arm's stages of a chain in a temporary folder; what differs.

    UserError where no number of them is committed, before anything is computed.
    """
    known = [(row, committed(plan, row, tables)) for row in rows_of(plan, arm, seed)]
    known = [(row, numbers) for row, numbers in known if numbers]
    if not known:
        raise UserError(
            f"{arm} of {plan.name}: no committed number is of its present stages, neither in "
            f"{tables / plan.name / METRICS} nor of a shipped teacher; they were made by another "
            "version of the suite, so run that version (its commit is in stages.csv)"
        )
    for row, numbers in known:
        if is_trained(plan, row) and all(math.isnan(number.scatter) for number in numbers.values()):
            raise UserError(
                f"{arm} of {plan.name}: is trained here, and fewer than two chains of it are "
                "committed, so how far a training moves its numbers is not known; give another arm"
            )
    wanted = [stage for row, _ in known for stage in row.stages.values()]
    with TemporaryDirectory() as place:
        results = Path(place)
        for stage in plan.needed_for(wanted):
            run_stage(
                plan.stage(stage), results, device, 30.0, "none", plan.arms_of(stage), SHIPPED
            )
        outcomes = [compared(plan, row, numbers, results) for row, numbers in known]
    return Rerun(
        [sentence for outcome in outcomes for sentence in outcome.differences],
        sum(outcome.compared for outcome in outcomes),
        sum(outcome.equal for outcome in outcomes),
    )


def is_trained(plan: Plan, row: Row) -> bool:
    """Whether a network of the row is trained by this run, not shipped or public."""
    return any(
        plan.stage(row.stages[kind]).training is not None
        and not (SHIPPED / row.stages[kind] / MANIFEST).is_file()
        for kind in ("teacher", "trajectory", "refine")
        if kind in row.stages
    )


def compared(plan: Plan, row: Row, known: dict[str, Known], results: Path) -> Rerun:
    """The new numbers of a row against the committed."""
    manifests = {stage: artifact.load(results, stage)[1] for stage in row.stages.values()}
    numbers = [*metrics(plan, results, row), *costs(plan, manifests, row)]
    place = f"{row.arm}, seed {row.seed}, {row.steps} steps" if row.steps else row.arm
    new = {
        number["metric"]: number
        for number in numbers
        if number["protocol"] != "cost" or number["metric"] in EXACT
    }
    trained = is_trained(plan, row)
    differing = [
        f"{place}: {name} is not measured any more"
        for name, number in known.items()
        if number.protocol != "cost" and name not in new
    ]
    shared = {name: number for name, number in new.items() if name in known}
    for name, number in shared.items():
        if number["protocol"] != known[name].protocol:
            differing.append(
                f"{place}: {name} is of {number['protocol']}, not {known[name].protocol}"
            )
        elif said := moved(name, known[name], number["value"], number.get("se", math.nan), trained):
            differing.append(f"{place}: {name} is {said}")
    pairs = [(known[name].value, number["value"]) for name, number in shared.items()]
    equal = sum(math.isclose(*pair, rel_tol=1e-5) for pair in pairs)
    return Rerun(differing, len(shared), equal)
