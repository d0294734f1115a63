"""A bundle: the numbers of some arms of a suite, and all that they can be checked by.

    submission.json     what it is, and the SHA-256 of the other files
    metrics.csv         the arms' numbers as `hdbench collect` wrote them
    manifests.json      the manifests of every stage that the numbers were made by, parents first
    evaluations/*.csv   what each evaluate stage measured, by its digest

A manifest has the SHA-256 of its stage's files (weights, samples, influences, measured metrics),
its configuration, parents, versions and environment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from hdbench import __version__
from hdbench.core.config import Config, nearest, validate
from hdbench.core.errors import UserError
from hdbench.core.files import from_json, read_text
from hdbench.core.outputs import write_outputs
from hdbench.metrics.records import read_metrics
from hdbench.report.numbers import metrics_file
from hdbench.report.validation import of_suite, of_this_plan
from hdbench.stages import artifact
from hdbench.suite.arms import describe, head_of, is_reconstruction
from hdbench.suite.plan import Plan
from hdbench.suite.trained_on import shared

RECORD = "submission.json"
METRICS = "metrics.csv"
MANIFESTS = "manifests.json"
Count = Annotated[int, Field(ge=0)]


class Submission(Config):
    """submission.json."""

    format: Literal[1]  # of bundles, raised where their meaning changes
    hdbench: str  # the version that wrote it
    title: Annotated[str, Field(min_length=1)]
    suite: str
    distance: str  # the suite's metric for rankings, without its sample count
    samples: Annotated[int, Field(ge=1)]  # of that metric
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]  # chains of the suite
    arms: Annotated[dict[str, str], Field(min_length=1)]  # names for people
    trained_on_distance: tuple[str, ...]  # arms that the distance may not decide about
    settings_tried: Count
    """Settings of each arm that were trained before these, the chosen among them."""
    files: dict[str, str]  # SHA-256


def submit(
    plan: Plan, results: Path, arms: Sequence[str], title: str, settings_tried: int, out: Path
) -> list[Path]:
    """Write the bundle of these arms into the folder `out`; the paths.

    UserError where an arm is unknown or of real images, or has numbers that were not collected from
    the present suite.
    """
    for arm in arms:
        if arm not in plan.arms:
            raise UserError(f"--arm = {arm!r}: unknown arm" + nearest(arm, plan.arms))
        if plan.arms[arm].real:
            raise UserError(f"--arm = {arm!r}: has real images, which are no submission")
    frame = of_this_plan(plan, of_suite(plan, read_metrics(metrics_file(plan, results)), []))
    rows = [row for row in plan.all_rows if row.arm in arms]
    needed = plan.needed_for(stage for row in rows for stage in row.stages.values())
    manifests = [artifact.load(results, stage)[1] for stage in needed]
    contents = {
        METRICS: frame[frame.arm.isin(arms)].to_csv(index=False, lineterminator="\n"),
        MANIFESTS: json.dumps(manifests, indent=1) + "\n",
    }
    for stage in needed:
        if stage.startswith("evaluate/"):
            measured = artifact.folder(results, stage) / "metrics.csv"
            contents[evaluation_file(plan.stage(stage).digest)] = measured.read_text("utf-8")
    record = Submission(
        format=1,
        hdbench=__version__,
        title=title,
        suite=plan.name,
        distance=plan.suite.evaluation.distance,
        samples=plan.suite.evaluation.samples,
        seeds=tuple(plan.suite.seeds),
        arms={arm: name_of(plan, arm) for arm in arms},
        trained_on_distance=tuple(unranked(plan, arms)),
        settings_tried=settings_tried,
        files={name: hashlib.sha256(text.encode()).hexdigest() for name, text in contents.items()},
    )
    contents[RECORD] = record.model_dump_json(indent=1) + "\n"
    return write_outputs({out / name: text.encode() for name, text in contents.items()})


def unranked(plan: Plan, arms: Iterable[str]) -> list[str]:
    """Those of the arms that were trained on the features that the suite's distance reads."""
    return [arm for arm in arms if shared(plan, arm, plan.suite.evaluation.distance)]


def name_of(plan: Plan, arm: str) -> str:
    """The arm for people, with † where its head is a reconstruction."""
    return describe(plan, arm) + "†" * is_reconstruction(head_of(plan.arms[arm]))


def evaluation_file(digest: str) -> str:
    """The file in a bundle of what the evaluate stage of this digest measured."""
    return f"evaluations/{digest}.csv"


def read_record(bundle: Path) -> Submission:
    """submission.json; UserError where the folder is no bundle of this format."""
    path = bundle / RECORD
    return validate(Submission, read_json(path), str(path))


def read_json(path: Path) -> Any:
    """The value in a file of the bundle; UserError where there is none."""
    try:
        return from_json(read_text(path))
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist; `hdbench submit` writes bundles") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); make the bundle again") from None


def read_numbers(bundle: Path) -> pd.DataFrame:
    """The bundle's metrics.csv by the reader of all numbers."""
    return read_metrics(bundle / METRICS)
