"""Job files: a stage in a small file beside its artifact, so that a job plans no suite."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hdbench.core.config import Config
from hdbench.core.errors import UserError
from hdbench.core.files import read_text, write_atomic
from hdbench.suite.plan import Plan
from hdbench.suite.stage import Stage, config_of


class Job(NamedTuple):
    """A stage, and the arms that it was planned for."""

    stage: Stage
    arms: Sequence[str]


class JobFile(Config):
    """What a job file holds; `config` is the stage's own, of its kind's class."""

    kind: str
    label: str
    digest: str
    parents: dict[str, str]
    config: dict[str, Any]
    arms: list[str]


def job_file(results: Path, stage_id: str) -> Path:
    """results/stages/<kind>/<label>-<digest>.json."""
    return results / "stages" / f"{stage_id}.json"


def plain(value: Any) -> Any:
    """A configuration with all its fields, those too that no digest covers."""
    if isinstance(value, Config):
        return {field: plain(getattr(value, field)) for field in type(value).model_fields}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def write_jobs(plan: Plan, results: Path) -> None:
    """A file for every stage of the plan; one that is there and the same is left alone."""
    for stage in plan.stages.values():
        content = {
            "kind": stage.kind,
            "label": stage.label,
            "digest": stage.digest,
            "parents": stage.parents,
            "config": plain(stage.config),
            "arms": plan.arms_of(stage.id),
        }
        path = job_file(results, stage.id)
        text = json.dumps(content, indent=1) + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomic(path, text)


def read_job(results: Path, stage_id: str) -> Job | None:
    """The job of a stage, or None where no plan has written it; UserError for a broken file."""
    path = job_file(results, stage_id)
    try:
        job = JobFile.model_validate_json(read_text(path))
        config = config_of(job.kind, job.config)
        stage = Stage.from_ids(job.kind, job.label, config, job.parents)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError):
        raise UserError(f"{path}: not a job file; delete it") from None
    if stage.id != stage_id:
        raise UserError(
            f"{path}: it or the version of a class has changed: it is now of {stage.id}; "
            "plan the suite anew, or delete the file"
        )
    return Job(stage, job.arms)
