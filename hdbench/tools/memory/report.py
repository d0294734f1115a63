"""The memory of a suite's training stages as a table."""

from __future__ import annotations

import textwrap

from tabulate import tabulate

from hdbench.suite.plan import Plan
from hdbench.tools.cost.model import CostModel
from hdbench.tools.memory.held import Memory
from hdbench.tools.numbers import WIDTH, number


def memory_report(plan: Plan, model: CostModel) -> str:
    """Of each different training stage the bytes on each GPU, in GB."""
    rows = different_stages(plan)
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
        "micro-batch. Activations by formula, without torch.compile, heads, passes without "
        "gradient and fragmentation: leave a fifth for them; '-': not counted for this network."
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
        head, _ = training.objective.head() or ("-", None)
        names = (stage.kind, training.objective.name, head, memory.rows(training))
        rows.setdefault((*names, tuple(sizes.values())), sizes)
    return rows
