"""The choice of learning rates, and the metrics of all heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from hdbench.core.errors import UserError
from hdbench.experiments.probes.config import Flaw, Probes, ProbeUnit, Rates, arm_name, teachers
from hdbench.experiments.probes.heads import is_adaptive
from hdbench.experiments.probes.run import load_teacher, run_unit
from hdbench.experiments.report import metrics_frame
from hdbench.experiments.units import Arrays, choose, finish
from hdbench.stages import artifact

Finished = dict[ProbeUnit, Arrays]


def collect(probes: Probes, results: Path) -> tuple[pd.DataFrame, Finished]:
    """Metrics (columns of hdbench.metrics.records), and the reported units.

    The suite is `probes`, and `probes_validation` where learning rates are chosen.
    """
    sources = teachers(probes)
    for (tokens, seed), source in sources.items():
        if not artifact.exists(results, source.stage.id):
            raise UserError(
                f"{artifact.folder(results, source.stage.id)}: the teacher of {tokens} tokens and "
                f"seed {seed} does not exist yet; make it with "
                f"`snakemake teachers --config suite={source.plan.given}`"
            )

    def units(seed: int, rates: Callable[[int, Flaw], Rates]) -> list[ProbeUnit]:
        return [
            ProbeUnit(probes, sources[tokens, seed], tokens, seed, flaw, rates(tokens, flaw))
            for tokens in probes.tokens
            for flaw in probes.flaws
        ]

    def run(unit: ProbeUnit, progress: Callable[[int], None]) -> Arrays:
        teacher: nn.Module = load_teacher(unit.source, results)
        return run_unit(unit, teacher, progress)

    every_rate = dict.fromkeys(probes.heads, probes.learning_rates)
    tuned = finish(units(probes.validation_seed, lambda *cell: every_rate), run, results)
    chosen = {(unit.tokens, unit.flaw): best_rates(arrays) for unit, arrays in tuned.items()}
    reporting = [unit for seed in probes.seeds for unit in units(seed, lambda *cell: chosen[cell])]
    reported = finish(reporting, run, results)
    rows = [row for unit, arrays in (tuned | reported).items() for row in rows_of(unit, arrays)]
    return metrics_frame(rows), reported


def best_rates(arrays: Arrays) -> Rates:
    """The learning rate with the largest cosine for each head."""
    cosines = arrays["values"][:, list(arrays["names"]).index("cosine"), 0]
    rates = zip(arrays["heads"].tolist(), arrays["rates"].tolist(), cosines.tolist(), strict=True)
    return {head: (rate,) for head, rate in choose(rates).items()}


def rows_of(unit: ProbeUnit, arrays: Arrays) -> Iterator[dict[str, Any]]:
    """The numbers of a unit's heads, and its training time."""
    common = {
        "suite": "probes_validation" if unit.validates else "probes",
        "seed": unit.seed,
        "nfe": 0,
        "digest": unit.digest,
    }
    columns = (arrays[name] for name in ("heads", "rates", "values", "parameters"))
    for head, rate, values, parameters in zip(*columns, strict=True):
        arm = arm_name(head, unit.tokens, unit.flaw)
        of_head = common | {"arm": arm + (f"_lr{rate:g}" if unit.validates else "")}
        for name, (value, se) in zip(arrays["names"], values, strict=True):
            if is_adaptive(head) or name != "weight_in_flaw":
                number = {"metric": name, "value": value, "se": se, "n": unit.probes.images}
                yield of_head | number | {"protocol": "probe"}
        for name, value in (("learning_rate", rate), ("head_parameters", parameters)):
            yield of_head | {"metric": name, "value": value, "protocol": "cost"}
    yield common | {
        "arm": f"n{unit.tokens}_{unit.flaw.name}",
        "metric": "training_core_seconds",
        "value": float(arrays["core_seconds"]),
        "protocol": "cost",
    }
