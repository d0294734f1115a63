"""Objectives: one file each, with its equation, its configuration, its updates and its cost.

A module offers `Configuration`, `updates(configuration, setting) -> list[Update]`,
`forward_equivalents(configuration, depth, guided) -> dict[str, float]` and, if its network generates, the name of its
`SAMPLER`.  The training loop and the DAG know none by name.
"""

from hdbench.objectives import consistency, cross_entropy, dmd, flow_matching, meanflow

OBJECTIVES = {"flow_matching": flow_matching, "meanflow": meanflow, "consistency": consistency, "dmd": dmd,
              "cross_entropy": cross_entropy}
