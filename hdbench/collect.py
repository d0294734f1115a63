"""One file of numbers a suite: every metric and every cost of every row of the plan, and the manifest of the run.

`collect` writes it; `Numbers` reads it with 95% intervals.  Several chains: mean and t-interval over chains.  One chain:
the value and 1.96 standard errors of sampling.
"""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from hdbench import artifact
from hdbench.errors import UserError
from hdbench.metrics.comparison import variance_components
from hdbench.networks import SanaConfig, TransformerConfig, build
from hdbench.suite import Plan, Row

COLUMNS = {"suite": "str", "arm": "str", "seed": "Int64", "nfe": "Int64", "metric": "str", "value": "float64",
           "se": "float64", "n": "Int64", "protocol": "str", "digest": "str"}
KEY = ["arm", "seed", "nfe", "metric"]
SHARES = ("precision", "recall", "accuracy")  # metrics within [0, 1]

Manifests = dict[str, dict[str, Any]]  # by stage id


def with_count(metric: str, n: int) -> str:
    """The metric's name with its sample count: `fd_train` and 4000 -> `fd_train_4k`, and 450 -> `fd_train_450`."""
    return f"{metric}_{n // 1000}k" if n % 1000 == 0 else f"{metric}_{n}"


def metrics_file(plan: Plan, results: Path) -> Path:
    return results / plan.name / "metrics.csv"


def collect(plan: Plan, results: Path, partial: bool = False, keep: Path | None = None) -> pd.DataFrame:
    """One row a number (columns `COLUMNS`), written to results/<suite>/metrics.csv.

    Beside it the run's manifest, run.json, and what it ran on, environment.csv.

    Raises UserError for a missing or broken artifact; with `partial`, stages that are missing are skipped.  With `keep`, a
    file of another run of the suite (its run.json beside it), rows that are not in `results` come from there, if their
    digests are the plan's.
    """
    digests = [plan.stage(row.stages["evaluate"]).digest for row in plan.rows]
    kept = kept_rows(plan, results, digests, read_metrics(keep)) if keep else {}
    needed = {stage for number, row in enumerate(plan.rows) if number not in kept for stage in row.stages.values()}
    stages = [stage for stage in plan.stages if artifact.exists(results, stage)
              or not partial and (stage in needed or not kept)]
    manifests = {stage: artifact.load(results, stage)[1] for stage in stages}
    parts = [pd.DataFrame(columns=list(COLUMNS))]
    for number, (row, digest) in enumerate(zip(plan.rows, digests)):
        if number in kept:
            parts.append(kept[number])
        elif set(row.stages.values()) <= manifests.keys():
            found = pd.DataFrame([*metrics(plan, results, row), *costs(plan, manifests, row)], columns=list(COLUMNS))
            parts.append(found.assign(suite=plan.name, arm=row.arm, seed=row.seed, nfe=row.nfe, digest=digest))
    frame = pd.concat([part.astype(COLUMNS) for part in parts], ignore_index=True)
    run = run_manifest(plan, manifests)
    if kept:
        run = with_stages_of(run, plan, keep.with_name("run.json"))
    folder = metrics_file(plan, results).parent
    artifact.write_together({
        metrics_file(plan, results): frame.to_csv(index=False, lineterminator="\n").encode(),
        folder / "run.json": (json.dumps(run, indent=1) + "\n").encode(),
        folder / "environment.csv": environments(run).to_csv(index=False, lineterminator="\n").encode()})
    return frame


def kept_rows(plan: Plan, results: Path, digests: list[str], frame: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """Of another run's numbers those of the plan's rows, by position, that have no results here; UserError if none are."""
    if not (set(frame.digest[frame.suite == plan.name]) & set(digests)):
        raise UserError(f"no number to keep is of the present suite {plan.name}: suite or digests differ; leave out --keep, or "
                        "name the metrics of a run of this suite")
    frame = frame[frame.suite == plan.name]
    groups = {(arm, None if pd.isna(seed) else int(seed), int(nfe), digest): group for (arm, seed, nfe, digest), group
              in frame.groupby(["arm", "seed", "nfe", "digest"], dropna=False)}
    return {number: groups[key] for number, (row, digest) in enumerate(zip(plan.rows, digests))
            if (key := (row.arm, row.seed, row.nfe, digest)) in groups
            and not all(artifact.exists(results, stage) for stage in row.stages.values())}


def metrics(plan: Plan, results: Path, row: Row) -> Iterator[dict[str, Any]]:
    """What the row's evaluate stage measured."""
    path, manifest = artifact.load(results, row.stages["evaluate"])
    protocol = manifest.get("protocol") or f"classifier:{plan.stage(manifest['parents']['reference']).digest}"
    for number in pd.read_csv(path / "metrics.csv").itertuples():
        yield {"metric": with_count(number.metric, number.n), "value": number.value, "se": number.se, "n": number.n,
               "protocol": protocol}


class Unencoded(NamedTuple):
    """Prompts of this length and width, of no content: what counting needs of `hdbench.text.Conditions`."""

    length: int
    width: int

    def __getitem__(self, c):
        import torch

        return torch.empty(len(c), self.length, self.width), torch.ones(len(c), self.length, dtype=torch.bool)


@functools.cache
def forward_flops(config: TransformerConfig | SanaConfig, image_size: int, channels: int, classes: int, mean_velocity: bool,
                  prompt_length: int = 0) -> int:
    """FLOPs of one forward of one image, as PyTorch counts them: 2 for each multiplication and addition of a product."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    conditions = Unencoded(prompt_length, config.caption_width) if isinstance(config, SanaConfig) else None
    with torch.device("meta"):
        network = build(config, image_size=image_size, channels=channels, classes=classes, mean_velocity=mean_velocity,
                        conditions=conditions)
        z, t, c = torch.empty(1, channels, image_size, image_size), torch.empty(1), torch.empty(1, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            network(z, t, t, c)
    return counter.get_total_flops()


def costs(plan: Plan, manifests: Manifests, row: Row) -> Iterator[dict[str, Any]]:
    """What the row's own stages cost, without the teacher that all share; nothing for real images."""
    if "teacher" not in row.stages:
        return
    own = {kind: manifests[row.stages[kind]] for kind in ("trajectory", "refine") if kind in row.stages}
    pairs = {stage: manifests[stage] for kind, stage in row.stages.items() if kind.endswith("pairs")}  # each paid once
    trained = [*own.values(), *pairs.values()]
    found = {f"training_{cost}": sum(manifest[cost] for manifest in trained)
             for cost in ("forward_equivalents", "core_seconds")}
    if not own:
        found["teacher_forward_equivalents"] = manifests[row.stages["teacher"]]["forward_equivalents"]
    for name, total in {"gpu_seconds": sum, "queue_seconds": sum, "peak_memory_bytes": max}.items():
        if own and all(name in manifest for manifest in trained):  # older manifests have none
            found[f"training_{name}"] = total(manifest[name] for manifest in trained)
    found |= {f"{kind}_core_seconds": manifest["core_seconds"] for kind, manifest in own.items()}
    if pairs:
        found["pairs_core_seconds"] = sum(manifest["core_seconds"] for manifest in pairs.values())
    student = [manifests[row.stages["teacher"]], *own.values()][-1]
    found |= {key: student[key] for key in ("parameters", "head_parameters") if key in student}
    found["sampling_flops"] = row.nfe * flops_of(plan, row.arm)
    found |= {key: value for key, value in manifests[row.stages["sample"]].items() if key == "milliseconds_per_sample"}
    for metric, value in found.items():
        yield {"metric": metric, "value": value, "protocol": "cost"}


def flops_of(plan: Plan, arm: str) -> int:
    """FLOPs of one forward of the network that an arm samples with."""
    suite, own = plan.suite, plan.arms[arm]
    network = own.baseline.network if own.baseline else suite.network
    return forward_flops(network, suite.data.image_size, suite.data.channels, suite.data.classes,
                         bool(own.trajectory or own.refine), suite.text.tokens if suite.text else 0)


def run_manifest(plan: Plan, manifests: Manifests) -> dict[str, Any]:
    """Every finished stage of the plan with its cost (seconds, bytes) and environment."""
    kept = ("id", "digest", "wall_seconds", "core_seconds", "gpu_seconds", "queue_seconds", "peak_memory_bytes",
            "peak_gpu_memory_bytes", "ranks", "environment")
    return {"suite": plan.name, "title": plan.suite.title, "stages_of_plan": len(plan.stages), "stages_done": len(manifests),
            "core_seconds": round(sum(m["core_seconds"] for m in manifests.values()), 3),
            "stages": [{key: manifest[key] for key in kept if key in manifest} for manifest in manifests.values()]}


def with_stages_of(run: dict[str, Any], plan: Plan, path: Path) -> dict[str, Any]:
    """The run manifest with the plan's stages that only another run's manifest has."""
    here = {stage["id"] for stage in run["stages"]}
    try:
        other = {stage["id"]: stage for stage in json.loads(path.read_text(encoding="utf-8"))["stages"]
                 if stage["id"] in plan.stages.keys() - here and stage["core_seconds"] >= 0 and dict(stage["environment"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the manifest of the run whose metrics are kept ({error!r}); it belongs beside "
                        "them") from None
    stages = [*run["stages"], *other.values()]
    return run | {"stages": stages, "stages_done": len(stages),
                  "core_seconds": round(sum(stage["core_seconds"] for stage in stages), 3)}


def environments(run: dict[str, Any]) -> pd.DataFrame:
    """What the stages of a run manifest ran on: item, value, number of stages with that value."""
    found = Counter((item, str(value)) for stage in run["stages"] for item, value in stage["environment"].items())
    return pd.DataFrame([(*key, count) for key, count in sorted(found.items())], columns=["item", "value", "stages"])


def read_metrics(path: Path, strict: bool = True) -> pd.DataFrame:
    """A file that `collect` wrote; UserError where it is missing or is not such a file, or fails `check` (if `strict`)."""
    try:
        frame = pd.read_csv(path, dtype=COLUMNS, keep_default_na=False, na_values=["", "nan", "NaN"])
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist; make it with `hdbench collect`") from None
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a file of metrics ({reason}); make it with `hdbench collect`") from None
    if list(frame.columns) != list(COLUMNS):
        raise UserError(f"{path}: columns are {', '.join(frame.columns)}, not {', '.join(COLUMNS)}; make it with "
                        "`hdbench collect`")
    for column in ("suite", "arm", "metric", "protocol"):
        if (empty := frame[column].isna()).any():
            line = int(empty.to_numpy().argmax()) + 2
            raise UserError(f"{path}: line {line} has no {column}; make it with `hdbench collect`")
    return check(frame, str(path)) if strict else frame


def check(frame: pd.DataFrame, source: str = "metrics") -> pd.DataFrame:
    """The frame itself, or UserError where a number stands twice or two protocols are mixed."""
    twice = frame[frame.duplicated(["suite", *KEY], keep=False)][KEY].drop_duplicates()
    if len(twice):
        named = "; ".join(" ".join(f"{key} {'-' if pd.isna(value) else value}" for key, value in zip(KEY, values))
                          for values in twice.head(3).itertuples(index=False))
        raise UserError(f"{source}: {len(twice)} numbers stand there more than once ({named}); make it again with "
                        "`hdbench collect`")
    protocols = frame.groupby("suite").protocol.agg(lambda column: set(column) - {"cost"})
    if (mixed := [p for p in protocols if len(p) > 1]):
        raise UserError(f"{source}: mixes the protocols {', '.join(sorted(mixed[0]))}; make it again with `hdbench collect`")
    return frame


def paired_difference(results: Path, plan: Plan, row_a: Row, row_b: Row, metric: str) -> tuple[float, float]:
    """Value of a minus value of b and its standard error, sd(IF_a - IF_b) / sqrt(N): sample i of both had the same noise.

    `metric` is a name of the evaluate stage, without a sample count (`fd_test`).  Raises UserError for a missing artifact
    or metric.
    """
    values, influences = [], []
    for row in (row_a, row_b):
        path, _ = artifact.load(results, plan.stage(row.stages["evaluate"]).id)
        table = pd.read_csv(path / "metrics.csv", index_col="metric")
        with np.load(path / "influence.npz", allow_pickle=False) as file:
            if metric not in table.index or metric not in file:
                raise UserError(f"{path}: has no metric {metric!r}; it has {', '.join(table.index)}")
            values.append(float(table.value[metric]))
            influences.append(file[metric].astype(np.float64))
    difference = influences[0] - influences[1]
    return values[0] - values[1], float(difference.std(ddof=1) / len(difference) ** 0.5)


class Interval(NamedTuple):
    """A value and the half-width of its 95% interval; NaN where unknown."""

    value: float
    half_width: float


MISSING = Interval(math.nan, math.nan)


def interval(values: Sequence[float], standard_error: float = math.nan) -> Interval:
    """Mean over chains and t-interval; for one value its sampling interval.  A value that is not finite leaves nothing."""
    values = np.asarray(values)  # a Series is indexed by its seeds
    n = len(values)
    if n == 0 or not np.isfinite(values).all():
        return MISSING
    if n == 1:
        return Interval(float(values[0]), 1.96 * standard_error)
    return Interval(float(np.mean(values)), float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)))


class Entry(NamedTuple):
    """A row of a table."""

    arm: str
    steps: int
    nfe: int


class Numbers:
    """The suite's numbers by entry, over chains.

    UserError where the frame is not of this plan; unless `anybody`: then what cannot be used is left out and said in `notes`.
    """

    def __init__(self, plan: Plan, frame: pd.DataFrame, results: Path, anybody: bool = False):
        self.plan, self.results, self.notes, self.distance = plan, results, [], plan.suite.evaluation.distance
        self.rows = {(row.arm, row.seed, row.nfe): row for row in plan.rows}
        if anybody and len(frame) and plan.name not in set(frame.suite):
            raise UserError(f"the metrics are of the suite {', '.join(sorted(set(frame.suite)))}, not of {plan.name}; name it "
                            "by --suite")
        if len(others := frame[frame.suite != plan.name]):
            self.notes.append(f"Left out: {len(others)} numbers of other suites ({', '.join(sorted(set(others.suite)))}).")
        frame = frame[frame.suite == plan.name]
        frame = frame.assign(seed=pd.Series([None if pd.isna(seed) else int(seed) for seed in frame.seed], index=frame.index,
                                            dtype=object))
        self.frame = self._usable(frame) if anybody else self._of_this_plan(check(frame))
        self.groups = {key: group.set_index("seed") for keys in (["arm", "nfe"], ["arm", "nfe", "metric"])
                       for key, group in self.frame.groupby(keys)}

    def _digest(self, arm: str, seed: int | None, nfe: int) -> str | None:
        row = self.rows.get((arm, seed, nfe))
        return row and self.plan.stage(row.stages["evaluate"]).digest

    def _of_this_plan(self, frame: pd.DataFrame) -> pd.DataFrame:
        for arm, seed, nfe, digest in zip(frame.arm, frame.seed, frame.nfe, frame.digest):
            if self._digest(arm, seed, nfe) != digest:
                raise UserError(f"metrics of arm {arm}, seed {seed}, nfe {nfe} are not of the present suite {self.plan.name}; "
                                "run `hdbench collect` again, or name the file by --metrics to render it as it is")
        return frame

    def _usable(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Without rows of unknown arms, contradictions, what cannot be, and rows under another arm or seed than theirs."""
        named = {(row.arm, row.nfe) for row in self.plan.rows}

        def leave_out(frame: pd.DataFrame, those: pd.Series, why: str) -> pd.DataFrame:
            if those.any():
                arms = ", ".join(sorted(set(frame.arm[those]))[:5])
                self.notes.append(f"Left out: {those.sum()} number{'s' if those.sum() > 1 else ''} {why} (arms: {arms}).")
            return frame[~those]

        frame = frame.drop_duplicates()
        frame = frame.assign(value=frame.value.replace([-math.inf, math.inf], math.nan))
        frame = leave_out(frame, ~pd.Series([key in named for key in zip(frame.arm, frame.nfe)], frame.index, dtype=bool),
                          "of rows that the suite does not have")
        frame = leave_out(frame, frame.duplicated(KEY, keep=False), "that stand there twice with different values")
        counted = pd.Series([protocol == "cost" or not pd.isna(n) and metric.endswith(with_count("", n)) for protocol, metric, n
                             in zip(frame.protocol, frame.metric, frame.n)], frame.index, dtype=bool)
        frame = leave_out(frame, ~counted, "whose sample count is not the one in their name")
        shares = frame.metric.str.startswith(SHARES)
        cost = frame.protocol == "cost"
        positive = shares | cost | frame.metric.str.startswith(("fd_", "power_"))
        frame = leave_out(frame, (frame.value < 0) & positive | (frame.value > 1) & shares | (frame.value.abs() > 1e9) & ~cost
                          | (frame.se < 0) | np.isinf(frame.se),
                          "that cannot be: a negative distance, cost or error, a share outside 0 to 1, or a size beyond 1e9")
        expected = pd.Series([self._digest(*key) for key in zip(frame.arm, frame.seed, frame.nfe)], frame.index, dtype=object)
        own = expected == frame.digest
        swapped = ~own & frame.digest.isin(expected.dropna())
        frame = leave_out(frame, swapped, "whose digest is that of another arm or seed")
        frame = leave_out(frame, self._repeated(frame), "of chains that repeat another chain of their arm to the bit")
        if (others := int((~own[frame.index]).sum())):
            self.notes.append(f"{others} of {len(frame)} numbers were made by another version of this suite.")
        return check(frame)

    def _repeated(self, frame: pd.DataFrame) -> pd.Series:
        """Which rows are of a chain whose quality is, number by number, that of a chain before: a copy, no draw of its own.

        Chains that share a digest (a public teacher's) are one on purpose.
        """
        seen, copies = {}, set()
        for key, part in frame[frame.protocol != "cost"].groupby(["arm", "nfe", "seed"]):
            same = (*key[:2], tuple(sorted(zip(part.metric, part.value))))
            if len(part) > 1 and seen.setdefault(same, set(part.digest)) != set(part.digest):
                copies.add(key)
        return pd.Series([key in copies for key in zip(frame.arm, frame.nfe, frame.seed)], frame.index, dtype=bool)

    @property
    def alone(self) -> bool:
        """Whether one chain is all there is, so that intervals are over its samples."""
        return self.frame.seed.nunique() < 2

    @property
    def over(self) -> str:
        """`3 complete chains`, `2 of 3 chains`, `one chain`, `one chain of 3`: what the file has, and the suite."""
        have, declared = self.frame.seed.nunique(), len(self.plan.suite.seeds)
        if self.alone:
            return "one chain" + f" of {declared}" * (declared > 1)
        return f"{have} of {declared} chains" if have < declared else f"{have} complete chains"

    def entries(self, arm: str) -> list[Entry]:
        return list(dict.fromkeys(Entry(arm, row.steps, row.nfe) for row in self.plan.rows if row.arm == arm))

    def counted(self, metric: str) -> str:
        return with_count(metric, self.plan.suite.evaluation.samples)

    def of(self, entry: Entry, metric: str | None = None) -> pd.DataFrame:
        """Values and standard errors by seed."""
        found = self.groups.get((entry.arm, entry.nfe, metric) if metric else (entry.arm, entry.nfe))
        return self.frame[:0].set_index("seed") if found is None else found

    def __call__(self, entry: Entry, metric: str) -> Interval:
        found = self.of(entry, metric)
        found = found[~found[["digest", "value"]].duplicated()]  # a public teacher's samples are one set in every chain
        return interval(found.value.to_numpy(), found.se.iloc[0] if len(found) else math.nan)

    def part(self, entry: Entry, metric: str) -> Interval:
        """Of a part of the samples, such as a category, whose own count is behind the name: `fd_test_seven_400`."""
        own = [key for key in set(self.of(entry).metric) if key.rpartition("_")[0] == metric]
        return self(entry, own[0]) if len(own) == 1 else MISSING

    def components(self, entry: Entry, metric: str) -> dict[str, float]:
        """Scatter of single chains (all NaN if there are fewer than two, or a value is not finite)."""
        found = self.of(entry, metric)
        found = found[~found[["digest", "value"]].duplicated()]
        values = found.value.to_numpy()
        if len(values) < 2 or not np.isfinite(values).all():
            return dict.fromkeys(("lowest", "highest", "total", "sampling", "training"), math.nan)
        parts = variance_components(values, found.se.to_numpy())
        return {"lowest": values.min(), "highest": values.max(), "total": values.std(ddof=1), "sampling": parts.sampling,
                "training": parts.training}

    def chains(self, entry: Entry) -> tuple[int, int]:
        """How many have numbers, and how many the suite has."""
        return (self.of(entry).index.nunique(dropna=False),
                sum((row.arm, row.nfe) == (entry.arm, entry.nfe) for row in self.plan.rows))

    def difference(self, entry: Entry, other: Entry, metric: str) -> Interval:
        """Entry minus other, chain by chain; for a single chain by the paired influences of its samples."""
        a, b = (self.of(e, self.counted(metric)) for e in (entry, other))
        seeds = [seed for seed in a.index if seed in b.index]
        kept = {(a.digest[seed], b.digest[seed], a.value[seed], b.value[seed]): seed for seed in reversed(seeds)}
        seeds, a, b = [seed for seed in seeds if seed in kept.values()], a.value, b.value  # two public networks differ once
        standard_error = math.nan
        if len(seeds) == 1:
            try:
                pair: list[Row] = [self.rows[e.arm, seeds[0], e.nfe] for e in (entry, other)]
                _, standard_error = paired_difference(self.results, self.plan, *pair, metric)
            except (UserError, KeyError):  # a metrics file without its artifacts: the difference is known, its interval is not
                pass
        return interval([a[seed] - b[seed] for seed in seeds], standard_error)

    def ratio(self, entry: Entry, other: Entry | None, metric: str) -> Interval:
        """Other over entry, chain by chain."""
        if other is None:
            return MISSING
        a, b = (self.of(e, metric).value for e in (entry, other))
        return interval([b[seed] / a[seed] for seed in a.index if seed in b.index])
