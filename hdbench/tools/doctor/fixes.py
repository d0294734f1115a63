"""What is left to do before a suite's first job, as a checklist with commands."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from hdbench.suite.plan import Plan
from hdbench.tools.doctor.report import Finding, look, report
from hdbench.tools.doctor.sources import MARK, Source, Sources, read_sources
from hdbench.tools.numbers import number


def examine(
    plan: Plan, results: Path, config: Path, verify: bool, device: str, fix_list: bool
) -> tuple[str, bool]:
    """The report of a suite, or its checklist, and whether nothing is missing or broken."""
    sources = read_sources(config)
    findings = list(look(plan, results, sources, verify, device))
    text = checklist(plan, findings, sources) if fix_list else report(plan, findings)
    return text, not any(finding.state in ("missing", "broken") for finding in findings)


def checklist(plan: Plan, findings: list[Finding], sources: Sources) -> str:
    """A box for each thing, ticked where it is there, then those of the cluster and the run."""
    lines = [f"{plan.stem}: from here to the first job, run in this folder", ""]
    needed: dict[Path, float] = {}
    for finding in findings:
        need = finding.need
        source = sources.find(need.kind, need.path)[0]
        if finding.state == "ok":
            lines.append(f"[x] {need.what}: {need.path}")
            continue
        lines += [f"[ ] {need.what}: {need.path} ({finding.state})", *to_get(finding, source)]
        if source and source.bytes and need.check:
            disk = existing(Path(need.path))
            needed[disk] = needed.get(disk, 0.0) + source.bytes
    lines += room(needed)
    lines += to_run(plan)
    if any(MARK in line for line in lines):
        lines.append(f"{MARK} as far as known, not read at its source")
    return "\n".join(lines)


def to_get(finding: Finding, source: Source | None) -> Iterator[str]:
    """Indented lines: what it is, and how it gets to its place."""
    need = finding.need
    path = shlex.quote(need.path)
    if finding.state == "broken":
        yield f"    {finding.note.partition('; get ')[0]}"
    if need.kind == "package":
        yield f"    pip install {path}"
    if source is None:
        if need.kind not in ("package", "device"):
            yield f"    {finding.note}"
        return
    mark = "" if source.checked else MARK
    size = f"about {number(source.bytes / 1e9)} GB" if source.bytes else "size not known"
    digest = f"SHA-256 {source.digest}" if source.digest else "no SHA-256 is known"
    yield f"    {source.name}: {size}; licence: {source.licence}{mark}; {digest}"
    if source.by_hand:
        yield f"    {source.address}"
        yield f"    {source.by_hand.format(path=path)}"
    elif finding.state == "missing" and finding.command:
        yield f"    {finding.command}"
    else:
        yield f"    {source.address or 'any of your own'}, to be put there by hand"


def existing(path: Path) -> Path:
    """The nearest folder above a path that is there."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())


def room(needed: dict[Path, float]) -> Iterator[str]:
    """A box for each folder in which downloads are to go."""
    for folder, size in needed.items():
        free = shutil.disk_usage(folder).free
        box = "[x]" if free > size else "[ ]"
        yield f"{box} {number(size / 1e9)} GB in {folder}: {number(free / 1e9)} GB are free"


def to_run(plan: Plan) -> list[str]:
    """The cluster's part: a profile, the cost, and the command."""
    suite = shlex.quote(plan.given)
    run = f"all_ablations --config suite={suite} device=cuda"
    profile = "profiles/imagenet256" if plan.suite.data.stored == "latents" else "slurm"
    return [
        f"[ ] under SLURM: fill in partition and account in {profile}/config.yaml; without SLURM "
        "nothing",
        f"[ ] hdbench cost --suite {suite} --gpus 8  # hours, disk and wall time; --memory: GB",
        f"[ ] hdbench rehearse --suite {suite}  # one step of each kind of stage, without a GPU",
        f"[ ] snakemake --profile {profile} {run} --dry-run  # then without --dry-run",
        "    on one machine with 8 GPUs, each stage on a free one: snakemake --cores all "
        f"--resources gpus=8 {run}",
    ]
