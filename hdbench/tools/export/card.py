"""The model card: how to sample, what the student was made from, and how good it is."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml
from diffusers import ModelMixin
from tabulate import tabulate

from hdbench.core.provenance import UNKNOWN
from hdbench.metrics.records import COLUMNS, Interval, read_metrics
from hdbench.report.numbers import Entry, Numbers, metrics_file
from hdbench.report.tables import FOOTNOTES, TABLES, caption, explanations, marks
from hdbench.suite.arms import describe
from hdbench.suite.plan import Plan
from hdbench.suite.stage import Stage
from hdbench.tools.export.sampling import install_line


def card(
    plan: Plan,
    results: Path,
    name: str,
    stage: Stage,
    environment: dict[str, str],
    lines: str,
    model: ModelMixin,
) -> str:
    """The card of an arm's student; what was not collected is "-"."""
    source = metrics_file(plan, results)
    frame = pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    if source.exists():
        frame = read_metrics(source)
    numbers = Numbers(plan, frame, results)
    entry = Entry(name, 1, 1)
    mark, table, notes = metrics(numbers, entry)
    keys = ("torch", "diffusers", "commit")
    made_with = ", ".join(f"{key} {environment.get(key, UNKNOWN)}" for key in keys)
    return f"""---
{front_matter(plan)}---

# {describe(plan, name)}{mark}, one step

Chain {stage.config.seed} of the arm `{name}` of hdbench's suite `{plan.stem}` ({plan.suite.title}):
`{stage.id}`, made with {made_with}.
Time is folded into the weights, so that this is diffusers' own `{type(model).__name__}`.

## Sampling

    {install_line(plan.suite.text is not None)}

```python
{lines}
```

## Teacher, data and training

{origin(plan, name)}

```yaml
{settings(plan, name)}```

## Metrics

{caption(numbers, "This arm in one step", [entry])}

{table}

{notes}
"""


def front_matter(plan: Plan) -> str:
    """YAML that the hub reads."""
    kind = "text-to-image" if plan.suite.text else "class-conditional"
    front = {
        "library_name": "diffusers",
        "license": "other" if plan.suite.teacher.checkpoint else "apache-2.0",
        "tags": [kind, "one-step", "distillation", "hdbench", plan.suite.data.name],
    }
    return yaml.safe_dump(front, sort_keys=False)


def origin(plan: Plan, name: str) -> str:
    """Teacher, data and recipe as a list."""
    suite = plan.suite
    recipe = plan.recipes.get(name)
    public = suite.teacher.checkpoint
    if public:
        teacher = (
            f"the public {public.format} checkpoint `{Path(public.path).name}`, whose license "
            "holds for this model too"
        )
    else:
        teacher = f"trained from scratch by {suite.teacher.training.objective.name}"
    lines = [
        f"- Teacher: {teacher}; guidance {suite.teacher.guidance.scale:g}.",
        f"- Data: `{suite.data.name}`, {suite.data.title}",
    ]
    if recipe:
        lines.append(f"- Recipe: {recipe.title}, {recipe.source}. {recipe.differences.strip()}")
    return "\n".join(lines)


def settings(plan: Plan, name: str) -> str:
    """The configuration that the student was made by, as YAML."""
    arm = plan.arms[name]
    sections = {
        "data": plan.suite.data,
        "network": plan.suite.network,
        "teacher": plan.suite.teacher,
        "trajectory": arm.trajectory,
        "refine": arm.refine,
    }
    return yaml.safe_dump(
        {key: section.model_dump(mode="json") for key, section in sections.items() if section},
        sort_keys=False,
        default_flow_style=None,
        width=110,
    )


def metrics(numbers: Numbers, entry: Entry) -> tuple[str, str, str]:
    """Footnote marks of an entry, its numbers with intervals as a Markdown table, and notes."""
    columns = TABLES["main"]().columns(numbers)
    cells = [column.cell(entry) for column in columns]
    rows = {
        "Protocol": ", ".join(sorted(set(numbers.of(entry).protocol) - {"cost"})) or "-",
        "Chains": "{} of {}".format(*numbers.chains(entry)),
    }
    rows |= {
        column.title: column.for_people(cell)
        for column, cell in zip(columns, cells, strict=True)
        if isinstance(cell, Interval)
    }
    footnotes = marks(numbers, entry, columns, cells)
    table = tabulate(
        rows.items(), headers=["Metric", "Value"], tablefmt="pipe", disable_numparse=True
    )
    notes = [f"{mark} {FOOTNOTES[mark]}" for mark in footnotes]
    return footnotes, table, "\n\n".join([*notes, *explanations(numbers, " ".join(rows))])
