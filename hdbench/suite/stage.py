"""A stage: one artifact of the DAG, keyed by a digest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Raise a number when the meaning of that stage's results changes; a cosmetic edit leaves it, and nothing is run again.
# A data set whose images change says so by its own VERSION, and the others' results stay.
VERSIONS = {
    "data": 1,
    "classifier": 1,
    "clip": 1,
    "text": 1,
    "reference": 1,
    "teacher": 1,
    "pairs": 1,
    "trajectory": 1,
    "refine": 1,
    "sample": 1,
    "evaluate": 1,
}
KINDS = tuple(VERSIONS)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One artifact of the DAG: what it is, and the digest of configuration, parents and stage version that keys it."""

    kind: str
    label: str
    config: dict[str, Any]
    parents: dict[str, str]  # role: stage id
    digest: str

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.label}-{self.digest}"
