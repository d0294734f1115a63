"""Objectives: one file each, with its equation, its configuration, its updates and its cost.

A module offers `Configuration`, `updates(configuration, setting) -> list[Update]`,
`forward_equivalents(configuration, depth, guided) -> dict[str, float]` and, if its network generates, the name of its
`SAMPLER`, or `sampler(configuration)` where that depends.  A configuration with `pairs`, its own or its regulariser's, gets
the teacher's ODE pairs from the DAG.  The training loop and the DAG know none by name.
"""

from __future__ import annotations

from hdbench.methods.distribution import (
    adm,
    adversarial,
    decoupled_dmd,
    dmd,
    dmd2,
    f_distill,
    ladd,
    sid,
    vsd,
)
from hdbench.methods.pretraining import contrastive, cross_entropy, flow_matching
from hdbench.methods.trajectory import (
    consistency,
    improved_meanflow,
    knowledge,
    meanflow,
    progressive,
    reflow,
    scm,
    shortcut,
)

OBJECTIVES = {
    module.Configuration.model_fields["name"].default: module
    for module in (
        flow_matching,
        cross_entropy,
        contrastive,
        meanflow,
        consistency,
        knowledge,
        reflow,
        progressive,
        shortcut,
        scm,
        improved_meanflow,
        dmd,
        dmd2,
        decoupled_dmd,
        f_distill,
        vsd,
        sid,
        adversarial,
        ladd,
        adm,
    )
}
