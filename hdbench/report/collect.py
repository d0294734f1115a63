"""One file of numbers a suite: every metric and every cost of every row of the plan, and what the
run was made with.

`collect` writes it; `Numbers` reads it with 95% intervals.  Several chains: mean and t-interval
over chains.  One chain: the value and 1.96 standard errors of sampling.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from hdbench.core.errors import UserError
from hdbench.core.outputs import ADVICE, forced, write_outputs
from hdbench.metrics.records import COLUMNS, read_metrics, with_count
from hdbench.networks.flops import forward_flops
from hdbench.networks.reuse import DeepCache, FasterDiffusion
from hdbench.report.latency import latencies, latency_file, read_latencies
from hdbench.report.numbers import metrics_file
from hdbench.report.provenance import METRICS, STAGES, Run, is_collected, ran, read_run
from hdbench.stages import artifact
from hdbench.suite.measuring import measured_by
from hdbench.suite.plan import Plan, Row

Manifests = dict[str, dict[str, Any]]  # by stage id


def collect(
    plan: Plan, results: Path, partial: bool = False, keep: Path | None = None
) -> pd.DataFrame:
    """One row a number (columns `COLUMNS`), written to results/<suite>/metrics.csv.

    Beside it what it was made with, stages.csv and environments.json (hdbench.report.provenance),
    and in short environment.csv.

    Raises UserError for a missing or broken artifact; with `partial`, stages that are missing are
    skipped.  With `keep`, a file of another run of the suite (with what it was made with beside
    it), rows that are not in `results` come from there, if their digests are the plan's.
    """
    digests = [plan.stage(row.stages["evaluate"]).digest for row in plan.all_rows]
    kept = kept_rows(plan, results, digests, read_metrics(keep)) if keep else {}
    needed = {
        stage
        for number, row in enumerate(plan.all_rows)
        if number not in kept
        for stage in row.stages.values()
    }
    stages = [
        stage
        for stage in plan.stages
        if artifact.exists(results, stage) or not partial and (stage in needed or not kept)
    ]
    manifests = {stage: artifact.load(results, stage)[1] for stage in stages}
    measured = read_latencies(latency_file(plan, results))
    parts = [pd.DataFrame(columns=list(COLUMNS))]
    for number, (row, digest) in enumerate(zip(plan.all_rows, digests, strict=True)):
        if number in kept:
            parts.append(kept[number])
        elif set(row.stages.values()) <= manifests.keys():
            common = {"suite": plan.name, "arm": row.arm, "seed": row.seed, "nfe": row.nfe}
            numbers = [*metrics(plan, results, row), *costs(plan, manifests, row)]
            if "teacher" in row.stages:
                numbers += latencies(measured, plan, row)
            frame = pd.DataFrame(numbers, columns=list(COLUMNS))
            parts.append(frame.assign(**common, digest=digest))
    whole = pd.concat([frame.astype(COLUMNS) for frame in parts], ignore_index=True)
    path = metrics_file(plan, results)
    check_collected(path, whole)
    table = whole.to_csv(index=False, lineterminator="\n").encode()
    # without a digest of the metrics no registration may be judged by them
    digests = {METRICS: hashlib.sha256(table).hexdigest()} if not kept or is_collected(keep) else {}
    latency = measured["provenance"] if measured else None
    run = run_of(plan, manifests, read_run(keep.parent) if kept else None, digests, latency)
    summary = run.summary().to_csv(index=False, lineterminator="\n").encode()
    contents = {path: table, path.with_name("environment.csv"): summary}
    write_outputs(contents | run.contents(path.parent))
    return whole


def check_collected(path: Path, whole: pd.DataFrame) -> None:
    """UserError where a file of numbers would be replaced by none, or is not of `collect`."""
    if not path.exists() or forced():
        return
    if whole.empty:
        raise UserError(f"{path}: has numbers, and no row is finished here; run stages first")
    if not path.with_name(STAGES).exists():
        raise UserError(
            f"{path}: has no {STAGES} beside it, so `hdbench collect` did not write it; {ADVICE}"
        )


def kept_rows(
    plan: Plan, results: Path, digests: list[str], frame: pd.DataFrame
) -> dict[int, pd.DataFrame]:
    """Another run's numbers of the plan's rows, by position, that have no results here.

    UserError if the other run has no number of the plan's rows.
    """
    frame = frame[frame.suite == plan.name]
    if not set(frame.digest) & set(digests):
        raise UserError(
            f"no number to keep is of the present suite {plan.name}: suite or digests differ; "
            "leave out --keep, or name the metrics of a run of this suite"
        )
    groups = {
        (arm, None if pd.isna(seed) else int(seed), int(nfe), digest): group
        for (arm, seed, nfe, digest), group in frame.groupby(
            ["arm", "seed", "nfe", "digest"], dropna=False
        )
    }
    return {
        number: groups[key]
        for number, (row, digest) in enumerate(zip(plan.all_rows, digests, strict=True))
        if (key := (row.arm, row.seed, row.nfe, digest)) in groups
        and not all(artifact.exists(results, stage) for stage in row.stages.values())
    }


def metrics(plan: Plan, results: Path, row: Row) -> Iterator[dict[str, Any]]:
    """What the row's evaluate stages measured."""
    for stage in plan.evaluations(row):
        path, manifest = artifact.load(results, stage)
        protocol = manifest.get("protocol") or measured_by(plan.suite)
        for number in pd.read_csv(path / "metrics.csv").itertuples():
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
    teacher, sample = (manifests[row.stages[kind]] for kind in ("teacher", "sample"))
    stages = {
        kind: manifests[row.stages[kind]] for kind in ("trajectory", "refine") if kind in row.stages
    }
    # by stage: one that serves both students is paid once
    pairs = {
        stage: manifests[stage] for kind, stage in row.stages.items() if kind.endswith("pairs")
    }
    trained = [*stages.values(), *pairs.values()]
    totals = {
        f"training_{cost}": sum(manifest[cost] for manifest in trained)
        for cost in ("forward_equivalents", "core_seconds")
    }
    if not stages:
        totals["teacher_forward_equivalents"] = teacher["forward_equivalents"]
    for name, total in {"gpu_seconds": sum, "queue_seconds": sum, "peak_memory_bytes": max}.items():
        if stages and all(name in manifest for manifest in trained):  # older manifests have none
            totals[f"training_{name}"] = total(manifest[name] for manifest in trained)
    totals |= {
        f"{kind}_core_seconds": manifest["core_seconds"] for kind, manifest in stages.items()
    }
    if pairs:
        totals["pairs_core_seconds"] = sum(manifest["core_seconds"] for manifest in pairs.values())
    student = [teacher, *stages.values()][-1]
    totals |= {key: student[key] for key in ("parameters", "head_parameters") if key in student}
    totals["sampling_flops"] = sampling_flops(plan, row)
    if "milliseconds_per_sample" in sample:
        totals["milliseconds_per_sample"] = sample["milliseconds_per_sample"]
    for metric, value in totals.items():
        yield {"metric": metric, "value": value, "protocol": "cost"}


def sampling_flops(plan: Plan, row: Row) -> int:
    """FLOPs of one image: of every evaluation, less what reuse of features leaves out."""
    config = plan.stage(row.stages["sample"]).config
    reuse = config.sampling.reuse if config.sampling else None
    between = flops_of(plan, row.arm, reuse) if reuse else 0
    full = flops_of(plan, row.arm)
    return sum(evaluations * (full if key else between) for evaluations, key in config.calls)


def flops_of(plan: Plan, arm: str, reuse: DeepCache | FasterDiffusion | None = None) -> int:
    """FLOPs of one forward of the network that an arm samples with; see `forward_flops`."""
    suite = plan.suite
    config = plan.arms[arm]
    network = config.baseline.network if config.baseline else suite.network
    return forward_flops(
        network,
        suite.shape.image_size,
        suite.shape.channels,
        suite.shape.classes,
        bool(config.trajectory or config.refine),
        suite.text.tokens if suite.text else 0,
        reuse,
    )


def run_of(
    plan: Plan,
    manifests: Manifests,
    other: Run | None,
    digests: dict[str, str],
    latency: dict[str, Any] | None,
) -> Run:
    """What every finished stage of the plan was made with.

    `other` is another run, for those of the plan's stages that only it has.
    """
    rows = [ran(manifest) for manifest in manifests.values()]
    stages = [stage for stage, _ in rows]
    environments = {stage.environment: environment for stage, environment in rows}
    if other:
        wanted = plan.stages.keys() - manifests.keys()
        stages += (kept := [stage for stage in other.stages if stage.id in wanted])
        environments |= {stage.environment: other.environments[stage.environment] for stage in kept}
    return Run(
        suite=plan.name,
        title=plan.suite.title,
        stages_of_plan=len(plan.stages),
        digests=digests,
        latency=latency,
        environments=environments,
        stages=tuple(stages),
    )
