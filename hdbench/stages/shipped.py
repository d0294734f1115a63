"""Finished stages that ship with the repository: taken by their digest in place of training.

They are teachers, and the autoencoders of those that work in latents.  A folder of
`workflow/shipped/<kind>/` is an artifact as its stage published it, from a commit without changes:
weights, recipe (`config`), commit and cost in the manifest, the curve thinned, and the evaluation.
`hdbench ship` writes it.  The digest covers recipe, seed, data and versions, so a suite that
changes any of these trains its own.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from hdbench.core.files import MANIFEST, sha256
from hdbench.stages.artifact import Work, checked
from hdbench.stages.sources import manifests_of

KINDS = ("autoencoder", "teacher")


def take(work: Work, results: Path, shipped: Path) -> bool:
    """Publish the shipped artifact of this stage, if there is one.

    Its manifest stays that of its training, and `shipped` says where it is from.  UserError for one
    that is damaged; a sentence where one of this label has another digest.
    """
    stage = work.stage
    if stage.kind not in KINDS:
        return False
    source = shipped / stage.id
    if not (source / MANIFEST).is_file():
        others = sorted(shipped.glob(f"{stage.kind}/{stage.label}-*"))
        if others:
            print(
                f"{stage.id}: shipped is {others[0].name}, of another recipe, seed or data; "
                "it is trained anew",
                file=sys.stderr,
                flush=True,
            )
        return False
    remedy = f"restore {source}, or train anew with --teachers trained"
    manifest = checked(source, stage.id, remedy)
    for name in manifest["payload"]:
        shutil.copyfile(source / name, work.path / name)
    manifest["shipped"] = {
        "folder": str(source),
        "manifest": sha256(source / MANIFEST),
        "sources": manifest.get(
            "sources", {}
        ),  # no present file is compared with them: the digest says
    }
    manifest |= {"sources": {}, "parent_manifests": manifests_of(results, stage)}
    work.replace_final(manifest)
    print(f"{stage.id}: taken from {source}, not trained", file=sys.stderr, flush=True)
    return True
