"""One file of numbers a suite: every metric and every cost of every row of the plan, and the
manifest of the run.

`collect` writes it; `Numbers` reads it with 95% intervals.  Several chains: mean and t-interval
over chains.  One chain: the value and 1.96 standard errors of sampling.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from hdbench.core.errors import UserError
from hdbench.core.files import from_json
from hdbench.core.outputs import ADVICE, forced, write_outputs
from hdbench.metrics.records import COLUMNS, read_metrics, with_count
from hdbench.networks.flops import forward_flops
from hdbench.networks.reuse import DeepCache, FasterDiffusion
from hdbench.report.latency import latencies, latency_file, read_latencies
from hdbench.report.numbers import is_collected, metrics_file
from hdbench.stages import artifact
from hdbench.suite.chain import measured_by
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
    run = run_manifest(plan, manifests, keep.with_name("run.json") if kept else None)
    as_collected = not kept or is_collected(keep, keep.with_name("run.json"))
    if measured:
        run["latency"] = measured["provenance"]
    table = whole.to_csv(index=False, lineterminator="\n")
    if as_collected:  # else no registration may be judged by these numbers
        run["metrics"] = hashlib.sha256(table.encode()).hexdigest()
    contents = {
        path: table,
        path.with_name("run.json"): json.dumps(run, indent=1) + "\n",
        path.with_name("environment.csv"): environments(run).to_csv(
            index=False, lineterminator="\n"
        ),
    }
    write_outputs({path: text.encode() for path, text in contents.items()})
    return whole


def check_collected(path: Path, whole: pd.DataFrame) -> None:
    """UserError where a file of numbers would be replaced by none, or is not of `collect`."""
    if not path.exists() or forced():
        return
    if whole.empty:
        raise UserError(f"{path}: has numbers, and no row is finished here; run stages first")
    if not path.with_name("run.json").exists():
        raise UserError(
            f"{path}: has no run.json beside it, so `hdbench collect` did not write it; {ADVICE}"
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
        suite.data.image_size,
        suite.data.channels,
        suite.data.classes,
        bool(config.trajectory or config.refine),
        suite.text.tokens if suite.text else 0,
        reuse,
    )


def run_manifest(plan: Plan, manifests: Manifests, other: Path | None) -> dict[str, Any]:
    """Every finished stage of the plan with its cost (seconds, bytes) and environment.

    `other` is the manifest of another run, for those of the plan's stages that only it has.
    """
    recorded = (
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
        "registrations",
        "shipped",
    )
    stages = [{key: m[key] for key in recorded if key in m} for m in manifests.values()]
    if other:
        stages += stages_of(other, plan.stages.keys() - manifests.keys())
    return {
        "suite": plan.name,
        "title": plan.suite.title,
        "stages_of_plan": len(plan.stages),
        "stages_done": len(stages),
        "core_seconds": round(sum(stage["core_seconds"] for stage in stages), 3),
        "stages": stages,
    }


def stages_of(path: Path, wanted: set[str]) -> list[dict[str, Any]]:
    """What another run's manifest records of the wanted stages; UserError for no such manifest."""
    try:
        stages = {
            stage["id"]: stage
            for stage in from_json(path.read_text(encoding="utf-8"))["stages"]
            if stage["id"] in wanted and stage["core_seconds"] >= 0 and dict(stage["environment"])
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not the manifest of the run whose metrics are kept ({error!r}); it belongs "
            "beside them"
        ) from None
    return list(stages.values())


def environments(run: dict[str, Any]) -> pd.DataFrame:
    """What the stages of a run manifest ran on: item, value, number of stages with that value."""
    recorded = (item for stage in run["stages"] for item in stage["environment"].items())
    counts = Counter((item, str(value)) for item, value in recorded)
    return pd.DataFrame(
        [(*key, count) for key, count in sorted(counts.items())],
        columns=["item", "value", "stages"],
    )
