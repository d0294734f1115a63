"""Our numbers under a benchmark's protocol, from files of metrics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hdbench.core.errors import UserError
from hdbench.metrics.records import interval, read_metrics, with_count
from hdbench.report.document import number
from hdbench.report.published.benchmarks import OURS, Benchmark, Line


def measured(benchmark: Benchmark, files: Sequence[Path]) -> tuple[list[Line], list[str]]:
    """Our rows, one a suite, arm, NFE and protocol of the benchmark; notes on other protocols."""
    if not files or not benchmark.protocols:
        return [], []
    frames = {path: read_metrics(path) for path in files}
    for path, numbers in frames.items():
        if numbers.empty:
            raise UserError(f"{path}: holds no numbers; give a file that `hdbench collect` wrote")
    frame = pd.concat(frames.values(), ignore_index=True)
    named = frame.protocol.fillna("-").map(name_of)
    other = frame[~named.isin([*benchmark.protocols, "cost"])].assign(protocol=named)
    arms = [
        f"{rows.arm.nunique()} of {suite} ({protocol})"
        for (suite, protocol), rows in other.groupby(["suite", "protocol"], sort=False)
    ]
    said = f"Left out, arms that are not of {' or '.join(benchmark.protocols)}: {'; '.join(arms)}."
    notes = [said] if arms else []
    ours = frame[named.isin(benchmark.protocols)]
    if ours.n.isna().any():
        raise UserError(
            f"{ours.arm[ours.n.isna().idxmax()]}: a number of {' or '.join(benchmark.protocols)} "
            "without its n; make the file again with `hdbench evaluate` or `hdbench collect`"
        )
    if len(twice := ours[ours.duplicated(["suite", "arm", "seed", "nfe", "metric", "protocol"])]):
        raise UserError(
            f"{twice.metric.iloc[0]} of {twice.arm.iloc[0]} is in several files of --metrics; "
            "give each once, or evaluate under different names (--name)"
        )
    metrics = [metric for _, metric in benchmark.columns.values() if metric]
    wanted = [
        metric in [with_count(name, n) for name in metrics]
        for metric, n in zip(ours.metric, ours.n, strict=True)
    ]
    ours = ours[pd.Series(wanted, index=ours.index, dtype=bool)]
    sizes = frame[(frame.protocol == "cost") & (frame.metric == "parameters")]
    parameters = sizes.groupby(["suite", "arm"]).value.first()
    keys = ["suite", "arm", "nfe", "protocol", "n"]
    references = {(name_of(text), text.rpartition(":")[2]) for text in ours.protocol}
    mixed = len(references) > len({name for name, _ in references})
    return [
        _line(benchmark, rows, dict(zip(keys, key, strict=True)), parameters, mixed)
        for key, rows in ours.groupby(keys, dropna=False, sort=False)
    ], notes


def name_of(protocol: str) -> str:
    """The name in a protocol's text, `adm_imagenet256_50k[inception=abc]:REFERENCE`."""
    return re.split(r"[\[:]", protocol, maxsplit=1)[0]


def _line(
    benchmark: Benchmark,
    rows: pd.DataFrame,
    key: dict[str, Any],
    parameters: pd.Series,
    mixed: bool,
) -> Line:
    """One of ours; its terms: what differs from the protocol, missing chains, a mixed reference."""
    method = key["arm"] if key["suite"] == "evaluate" else f"{key['suite']}: {key['arm']}"
    protocol = name_of(key["protocol"])
    if protocol != benchmark.protocols[0]:
        method += f" ({protocol})"
    chains = rows.seed.nunique(dropna=False)
    wanted = benchmark.samples(protocol)
    shown = {
        column: rows[rows.metric == (with_count(metric, key["n"]) if metric else "")]
        for column, (_, metric) in benchmark.columns.items()
    }
    terms = [f"N = {key['n']:,}, not {wanted:,}"] if wanted not in (None, key["n"]) else []
    terms += re.findall(r"\[([^\]]*)\]", key["protocol"])
    terms += [f"reference {key['protocol'].rpartition(':')[2]}"] if mixed else []
    terms += [
        f"{benchmark.columns[column][0][:-2]} of {len(values)} of {chains} chains"
        for column, values in shown.items()
        if 0 < len(values) < chains
    ]
    size = parameters.get((key["suite"], key["arm"]))
    broken = not np.isfinite(rows.value).all()
    return Line(
        group=OURS,
        method=method,
        nfe="" if pd.isna(key["nfe"]) else str(key["nfe"]),
        params="" if size is None else number(size / 1e6),
        cells={
            column: interval(values.value.to_numpy(), values.se.iloc[0]) if len(values) else ""
            for column, values in shown.items()
        },
        facts={"n": str(key["n"]), "chains": str(chains), "protocol": key["protocol"]},
        marks=("‡" if terms else "") + ("¶" if broken else ""),
        terms=f"{method}: {', '.join(terms)}" if terms else "",
    )
