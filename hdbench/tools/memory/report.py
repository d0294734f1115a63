"""The memory of a suite's training stages as a table."""

from __future__ import annotations

import textwrap

from tabulate import tabulate

from hdbench.suite.plan import Plan
from hdbench.suite.stage import Stage
from hdbench.tools.cost.counting import Costs
from hdbench.tools.cost.model import CostModel, read_model
from hdbench.tools.memory.held import Memory
from hdbench.tools.numbers import WIDTH, number
from hdbench.tools.rehearsal.counts import Counts


def memory_report(plan: Plan, model: CostModel, counts: Counts | None = None) -> str:
    """Of each different training stage the bytes on each GPU, in GB.

    By a rehearsal's `counts`, or else by formula.
    """
    if counts:
        rows = {
            (*names_of(stage), rehearsal.rows, key): dict(rehearsal.memory)
            for key, (stage, rehearsal) in enumerate(counts.different())
            if stage.training
        }
        source = f"At the peak of a step of a micro-batch, by the rehearsal in {counts.source}"
    else:
        rows = different_stages(plan)
        source = (
            "Activations by formula, without heads and passes without gradient; '-': not counted "
            f"for this network; `hdbench rehearse --suite {plan.given}` counts all"
        )
    categories = next(iter(rows.values()), {})
    headers = ["rule", "objective", "head", "rows", *categories, "total GB"]
    cells = []
    for (*names, _), sizes in rows.items():
        known = [value for value in sizes.values() if value is not None]
        total = number(sum(known) / 1e9)
        if len(known) < len(sizes):  # the least that it can be
            total = f">{total}".replace("><0.01", ">0")
        gigabytes = ["-" if value is None else number(value / 1e9) for value in sizes.values()]
        cells.append([*names, *gigabytes, total])
    table = tabulate(
        cells,
        headers,
        disable_numparse=True,
        colalign=("left",) * 3 + ("right",) * (len(headers) - 3),
    )
    text = (
        f"On each GPU, in replicas (an {model.gpu} has {model.gpus[model.gpu].memory:g} GB); with "
        "sharding=fsdp2 over R ranks all but teacher and activations is divided by R. Rows: of a "
        f"micro-batch. {source}. Without torch.compile and fragmentation: leave a fifth for them."
    )
    return "\n".join([table, *textwrap.wrap(text, WIDTH)])


def different_stages(plan: Plan) -> dict[tuple, dict[str, float | None]]:
    """Bytes by category, by kind, objective, head, rows and those bytes."""
    memory = Memory(plan)
    rows = {}
    for stage in plan.stages.values():
        training = stage.training
        if not training:
            continue
        sizes = {
            **memory.held(stage, training).bytes(),
            "activations": memory.activations(stage, training),
        }
        names = (*names_of(stage), memory.rows(training))
        rows.setdefault((*names, tuple(sizes.values())), sizes)
    return rows


def names_of(stage: Stage) -> tuple[str, str, str]:
    """A training stage's kind, objective and head."""
    objective = stage.config.training.objective
    head, _ = objective.head() or ("-", None)
    return stage.kind, objective.name, head


def comparison(plan: Plan, counts: Counts) -> list[list[str]]:
    """Rows of each different training stage: names, and formula beside rehearsal.

    GFLOP of a sample and step, and GB on a GPU; "-" where the formula counts none.
    """
    costs, memory = Costs(plan, read_model()), Memory(plan)
    rows = []
    for stage, rehearsal in counts.different():
        training = stage.training
        if not training:
            continue
        samples = training.planned_steps * training.batch
        held = sum(memory.held(stage, training).bytes().values())
        activations = memory.activations(stage, training)
        flops = [sum(costs.of(stage).flops.values()) / samples, rehearsal.total_flops]
        whole = [None if activations is None else held + activations, rehearsal.peak]
        pairs = [*flops, *whole]
        rows.append([*names_of(stage), *("-" if x is None else number(x / 1e9) for x in pairs)])
    return rows
