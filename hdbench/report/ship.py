"""Copies of trained and evaluated teachers, and of their autoencoders, for suites to take."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd

from hdbench.core.errors import UserError
from hdbench.core.files import MANIFEST
from hdbench.core.outputs import write_outputs
from hdbench.core.provenance import DIRTY, SHIPPED, UNKNOWN, git
from hdbench.report.collect import metrics
from hdbench.report.provenance import Ran
from hdbench.stages import artifact
from hdbench.stages.shipped import KINDS
from hdbench.suite.load import load_plan
from hdbench.suite.plan import Plan, find_stage

CURVE = 100  # steps of which a shipped curve has the mean


def ship(suite: str, results: Path, seed: int | None, out: Path) -> list[Path]:
    """A chain's teacher as out/teacher/<label>-<digest>/, with its evaluation; the files.

    With it the autoencoder in whose latents it works, if that was trained here too.  UserError for
    what was not trained from a commit without changes, or a teacher that was not evaluated.
    """
    plan = load_plan(suite)
    teacher = find_stage(plan, "teacher", None, seed, None)
    source, manifest = artifact.load(results, teacher.id)
    if "shipped" in manifest:
        raise UserError(f"{source}: was itself taken from {manifest['shipped'].get('folder')}")
    if teacher.training is None:
        raise UserError(f"{source}: is a public network, which is not trained; give its own suite")
    measured = evaluation(plan, results, seed)
    contents = {}
    for stage in plan.needed_for([teacher.id]):
        if plan.stage(stage).kind in KINDS and not is_taken(results, stage):
            of_stage = shipment(results, stage, measured)
            contents |= {out / stage / name: content for name, content in of_stage.items()}
    return write_outputs(contents)


def is_taken(results: Path, stage: str) -> bool:
    return "shipped" in artifact.load(results, stage)[1]


def shipment(results: Path, stage: str, measured: str) -> dict[str, bytes]:
    """The files of a stage that ships, with what was measured; UserError for no clean commit."""
    source, manifest = artifact.load(results, stage)
    commit = manifest["environment"].get("commit", UNKNOWN)
    if commit == UNKNOWN or str(commit).endswith(DIRTY):
        raise UserError(
            f"{source}: was trained from a tree with changes or of no known commit ({commit}); "
            "commit, and train it again with --again --teachers trained"
        )
    contents = {
        "history.csv": thinned(source / "history.csv").encode(),
        "evaluation.csv": measured.encode(),
        "weights.safetensors": (source / "weights.safetensors").read_bytes(),
    }
    manifest["payload"] = {
        name: hashlib.sha256(contents[name]).hexdigest() for name in sorted(contents)
    }
    return contents | {MANIFEST: (json.dumps(manifest, indent=1) + "\n").encode()}


def evaluation(plan: Plan, results: Path, seed: int | None) -> str:
    """What was measured of the chain's teacher, however it was sampled, and of real images."""
    teacher = find_stage(plan, "teacher", None, seed, None)
    seed = plan.suite.seeds[0] if seed is None else seed
    numbers = []
    for row in plan.rows:
        if row.seed not in (seed, None) or {"trajectory", "refine"} & row.stages.keys():
            continue
        if row.stages.get("teacher", teacher.id) != teacher.id:
            continue  # a public network
        if all(artifact.exists(results, stage) for stage in plan.evaluations(row)):
            named = {"arm": row.arm, "steps": row.steps, "nfe": row.nfe}
            digest = {"digest": plan.stage(row.stages["evaluate"]).digest}
            numbers += [named | number | digest for number in metrics(plan, results, row)]
    if not any(number["steps"] for number in numbers):
        raise UserError(
            f"{teacher.id}: none of its samples is evaluated; make them first, with "
            f"`hdbench arm teacher --suite {plan.given}`"
        )
    return pd.DataFrame(numbers).to_csv(index=False, lineterminator="\n", float_format="%.6g")


def thinned(history: Path) -> str:
    """Of a history.csv, every scalar's mean over `CURVE` steps, at the last of them."""
    frame = pd.read_csv(history)
    steps = frame.groupby((frame.step - 1) // CURVE)
    means = steps.mean().assign(step=steps.step.max())
    return means.to_csv(index=False, lineterminator="\n", float_format="%.6g")


def is_shipped(stage: Ran, registration: Path, since: str) -> bool:
    """Whether a stage of a run was taken as shipped, which then is older than its registration.

    UserError unless the registration's commit `since` ships the same.
    """
    if stage.shipped is None:
        return False
    file = SHIPPED / stage.id / MANIFEST
    said = git(Path(), "show", f"{since}:./{file}")
    shipped = hashlib.sha256(said.stdout.encode()).hexdigest() if said and said.stdout else None
    if shipped != stage.shipped:
        raise UserError(
            f"{registration}: {stage.id} was taken as shipped, and {file} "
            f"{'is not in' if shipped is None else 'is another in'} the registration's commit, "
            f"{since[:12]}; commit it, then register anew"
        )
    return True
