"""What the repository ships, by `tests/unit/stage_ids.json`: tests of suites are of these alone, so
that suites, arms, recipes and classes that a user adds fail none of them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from hdbench.suite.plan import Plan
from tests.support.tiny import REPOSITORY

IDS = REPOSITORY / "tests/unit/stage_ids.json"
HELD: dict[str, dict[str, str]] = json.loads(IDS.read_text(encoding="utf-8"))
SUITES = tuple(HELD)
HEADS = ("pooled", "patch", "conv", "awd_loss", "awd_logit", "awd_pool")
RECIPES = (
    "adm",
    "adversarial",
    "asd",
    "boot",
    "consistency",
    "decoupled_dmd",
    "dmd",
    "dmd2",
    "dmd2_four_step",
    "dmdx",
    "drifting",
    "dual_end",
    "embedding_loss",
    "f_distill",
    "flash_dmd",
    "frechet_loss",
    "fsf_dmd",
    "gdd",
    "gdd_i",
    "gndm",
    "gndm_centred",
    "guidance_distillation",
    "hd_joint",
    "hd_regularised",
    "improved_meanflow",
    "knowledge",
    "ladd",
    "meanflow",
    "nitrofusion",
    "pg_sb",
    "progressive",
    "rcm",
    "reflow",
    "scm",
    "scott",
    "scott_without_gan",
    "shortcut",
    "sid",
    "sid_anti_cfg",
    "sid_diffusion_gan",
    "sid_four_step",
    "sid_zero_cfg",
    "slam",
    "swiftbrush",
    "twinflow",
    "vsd",
)


def ids_of(plan: Plan) -> dict[str, str]:
    """A digest of the stages of every arm, but for those of metrics that a user names."""
    ids = {
        arm: {
            stage
            for row in plan.rows
            if row.arm == arm
            for kind, stage in row.stages.items()
            if not kind.startswith("evaluate ")
        }
        for arm in plan.arms
    }
    texts = {arm: "\n".join(sorted(stages)) for arm, stages in ids.items()}
    return {arm: hashlib.sha256(text.encode()).hexdigest()[:16] for arm, text in texts.items()}


def as_shipped(plan: Plan) -> Plan:
    """The plan of a shipped suite without the arms that a user added to it."""
    arms = {name: arm for name, arm in plan.arms.items() if name in HELD[plan.name]}
    return replace(plan, arms=arms, rows=[row for row in plan.rows if row.arm in arms])
