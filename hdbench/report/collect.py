"""One file of numbers a suite: every metric and every cost of every row of the plan, and the
manifest of the run.

`collect` writes it; `Numbers` reads it with 95% intervals.  Several chains: mean and t-interval
over chains.  One chain: the value and 1.96 standard errors of sampling.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from hdbench.core import files
from hdbench.core.errors import UserError
from hdbench.metrics.records import COLUMNS, read_metrics, with_count
from hdbench.networks.flops import forward_flops
from hdbench.report.numbers import metrics_file
from hdbench.stages import artifact
from hdbench.suite.plan import Plan, Row

Manifests = dict[str, dict[str, Any]]  # by stage id


def collect(
    plan: Plan, results: Path, partial: bool = False, keep: Path | None = None
) -> pd.DataFrame:
    """One row a number (columns `COLUMNS`), written to results/<suite>/metrics.csv.

    Beside it the run's manifest, run.json, and what it ran on, environment.csv.

    Raises UserError for a missing or broken artifact; with `partial`, stages that are missing are
    skipped.  With `keep`, a file of another run of the suite (its run.json beside it), rows that
    are not in `results` come from there, if their digests are the plan's.
    """
    digests = [plan.stage(row.stages["evaluate"]).digest for row in plan.rows]
    kept = kept_rows(plan, results, digests, read_metrics(keep)) if keep else {}
    needed = {
        stage
        for number, row in enumerate(plan.rows)
        if number not in kept
        for stage in row.stages.values()
    }
    stages = [
        stage
        for stage in plan.stages
        if artifact.exists(results, stage) or not partial and (stage in needed or not kept)
    ]
    manifests = {stage: artifact.load(results, stage)[1] for stage in stages}
    parts = [pd.DataFrame(columns=list(COLUMNS))]
    for number, (row, digest) in enumerate(zip(plan.rows, digests, strict=True)):
        if number in kept:
            parts.append(kept[number])
        elif set(row.stages.values()) <= manifests.keys():
            numbers = pd.DataFrame(
                [*metrics(plan, results, row), *costs(plan, manifests, row)], columns=list(COLUMNS)
            )
            parts.append(
                numbers.assign(
                    suite=plan.name, arm=row.arm, seed=row.seed, nfe=row.nfe, digest=digest
                )
            )
    frame = pd.concat([numbers.astype(COLUMNS) for numbers in parts], ignore_index=True)
    run = run_manifest(plan, manifests)
    if kept:
        run = with_stages_of(run, plan, keep.with_name("run.json"))
    folder = metrics_file(plan, results).parent
    files.write_together(
        {
            metrics_file(plan, results): frame.to_csv(index=False, lineterminator="\n").encode(),
            folder / "run.json": (json.dumps(run, indent=1) + "\n").encode(),
            folder / "environment.csv": environments(run)
            .to_csv(index=False, lineterminator="\n")
            .encode(),
        }
    )
    return frame


def kept_rows(
    plan: Plan, results: Path, digests: list[str], frame: pd.DataFrame
) -> dict[int, pd.DataFrame]:
    """Of another run's numbers those of the plan's rows, by position, that have no results here;
    UserError if none are.
    """
    if not (set(frame.digest[frame.suite == plan.name]) & set(digests)):
        raise UserError(
            f"no number to keep is of the present suite {plan.name}: suite or digests differ; "
            "leave out --keep, or name the metrics of a run of this suite"
        )
    frame = frame[frame.suite == plan.name]
    groups = {
        (arm, None if pd.isna(seed) else int(seed), int(nfe), digest): group
        for (arm, seed, nfe, digest), group in frame.groupby(
            ["arm", "seed", "nfe", "digest"], dropna=False
        )
    }
    return {
        number: groups[key]
        for number, (row, digest) in enumerate(zip(plan.rows, digests, strict=True))
        if (key := (row.arm, row.seed, row.nfe, digest)) in groups
        and not all(artifact.exists(results, stage) for stage in row.stages.values())
    }


def metrics(plan: Plan, results: Path, row: Row) -> Iterator[dict[str, Any]]:
    """What the row's evaluate stages measured."""
    _, manifest = artifact.load(results, row.stages["evaluate"])
    protocol = (
        manifest.get("protocol")
        or f"classifier:{plan.stage(manifest['parents']['reference']).digest}"
    )
    files = [artifact.folder(results, stage) / "metrics.csv" for stage in plan.evaluations(row)]
    for number in pd.concat(map(pd.read_csv, files)).itertuples():
        yield {
            "metric": with_count(number.metric, number.n),
            "value": number.value,
            "se": number.se,
            "n": number.n,
            "protocol": protocol,
        }


def costs(plan: Plan, manifests: Manifests, row: Row) -> Iterator[dict[str, Any]]:
    """What the row's own stages cost, without the shared teacher; nothing for real images."""
    if "teacher" not in row.stages:
        return
    stages = {
        kind: manifests[row.stages[kind]] for kind in ("trajectory", "refine") if kind in row.stages
    }
    pairs = {
        stage: manifests[stage] for kind, stage in row.stages.items() if kind.endswith("pairs")
    }  # each paid once
    trained = [*stages.values(), *pairs.values()]
    totals = {
        f"training_{cost}": sum(manifest[cost] for manifest in trained)
        for cost in ("forward_equivalents", "core_seconds")
    }
    if not stages:
        totals["teacher_forward_equivalents"] = manifests[row.stages["teacher"]][
            "forward_equivalents"
        ]
    for name, total in {"gpu_seconds": sum, "queue_seconds": sum, "peak_memory_bytes": max}.items():
        if stages and all(name in manifest for manifest in trained):  # older manifests have none
            totals[f"training_{name}"] = total(manifest[name] for manifest in trained)
    totals |= {
        f"{kind}_core_seconds": manifest["core_seconds"] for kind, manifest in stages.items()
    }
    if pairs:
        totals["pairs_core_seconds"] = sum(manifest["core_seconds"] for manifest in pairs.values())
    student = [manifests[row.stages["teacher"]], *stages.values()][-1]
    totals |= {key: student[key] for key in ("parameters", "head_parameters") if key in student}
    totals["sampling_flops"] = row.nfe * flops_of(plan, row.arm)
    totals |= {
        key: value
        for key, value in manifests[row.stages["sample"]].items()
        if key == "milliseconds_per_sample"
    }
    for metric, value in totals.items():
        yield {"metric": metric, "value": value, "protocol": "cost"}


def flops_of(plan: Plan, arm: str) -> int:
    """FLOPs of one forward of the network that an arm samples with."""
    suite = plan.suite
    config = plan.arms[arm]
    network = config.baseline.network if config.baseline else suite.network
    return forward_flops(
        network,
        suite.data.image_size,
        suite.data.channels,
        suite.data.classes,
        bool(config.trajectory or config.refine),
        suite.text.tokens if suite.text else 0,
    )


def run_manifest(plan: Plan, manifests: Manifests) -> dict[str, Any]:
    """Every finished stage of the plan with its cost (seconds, bytes) and environment."""
    kept = (
        "id",
        "digest",
        "wall_seconds",
        "core_seconds",
        "gpu_seconds",
        "queue_seconds",
        "peak_memory_bytes",
        "peak_gpu_memory_bytes",
        "ranks",
        "environment",
    )
    return {
        "suite": plan.name,
        "title": plan.suite.title,
        "stages_of_plan": len(plan.stages),
        "stages_done": len(manifests),
        "core_seconds": round(sum(m["core_seconds"] for m in manifests.values()), 3),
        "stages": [
            {key: manifest[key] for key in kept if key in manifest}
            for manifest in manifests.values()
        ],
    }


def with_stages_of(run: dict[str, Any], plan: Plan, path: Path) -> dict[str, Any]:
    """The run manifest with the plan's stages that only another run's manifest has."""
    here = {stage["id"] for stage in run["stages"]}
    try:
        other = {
            stage["id"]: stage
            for stage in json.loads(path.read_text(encoding="utf-8"))["stages"]
            if stage["id"] in plan.stages.keys() - here
            and stage["core_seconds"] >= 0
            and dict(stage["environment"])
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not the manifest of the run whose metrics are kept ({error!r}); it belongs "
            "beside them"
        ) from None
    stages = [*run["stages"], *other.values()]
    return run | {
        "stages": stages,
        "stages_done": len(stages),
        "core_seconds": round(sum(stage["core_seconds"] for stage in stages), 3),
    }


def environments(run: dict[str, Any]) -> pd.DataFrame:
    """What the stages of a run manifest ran on: item, value, number of stages with that value."""
    counts = Counter(
        (item, str(value))
        for stage in run["stages"]
        for item, value in stage["environment"].items()
    )
    return pd.DataFrame(
        [(*key, count) for key, count in sorted(counts.items())],
        columns=["item", "value", "stages"],
    )
