"""Whether what a suite needs is there and of the right kind, and if not where to get and put it.

Checks are cheap: names, headers and the first bytes of files, of weights all that their stage
checks but values; with `verify` sizes and, where one is known, SHA-256.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from glob import iglob
from pathlib import Path
from typing import Literal, NamedTuple

from hdbench.core.errors import UserError
from hdbench.core.files import sha256
from hdbench.core.runtime import choose
from hdbench.suite.plan import Plan
from hdbench.tools.doctor.needs import Need, needs
from hdbench.tools.doctor.sources import MARK, Source, Sources
from hdbench.tools.numbers import number

LARGEST_ERROR = 0.15  # of an approximate size


class Finding(NamedTuple):
    need: Need
    state: Literal["ok", "missing", "broken", "unknown"]
    note: str
    """What is wrong and where to get it, or which public thing it is."""
    command: str | None = None
    """That puts it there, where one can."""


def look(
    plan: Plan, results: Path, sources: Sources, verify: bool = False, device: str = "cpu"
) -> Iterator[Finding]:
    """Every need of the suite with its state."""
    for need in needs(plan, results, device):
        source, advice = sources.find(need.kind, need.path)
        path = Path(need.path)
        if need.path.startswith("hf-hub:"):
            yield Finding(need, "unknown", "a name of the hub, not looked up")
            continue
        try:
            present = is_present(need)
            if present and need.check:
                need.check(path)
            checked = f"{need.checked}: " if need.checked else ""
            if present and verify and source and path.is_file():
                checked += verified(path, source)
        except UserError as error:
            yield Finding(need, "broken", f"{error}; {advice}" if need.check else str(error))
        else:
            note = f"{checked}{source or ''}".removesuffix(": ") if present else advice
            command = source.command(need.path) if source and not present else None
            yield Finding(need, "ok" if present else "missing", note, command)


def is_present(need: Need) -> bool:
    """Whether there is anything; UserError for a device that is not visible."""
    if need.kind == "package":
        return importlib.util.find_spec(need.path) is not None
    if need.kind == "device":
        return bool(choose(need.path))
    return Path(need.path).exists() or any(iglob(need.path))


def verified(path: Path, source: Source) -> str:
    """What of the file agrees with its source; UserError for another SHA-256 or size."""
    if source.digest:
        digest = sha256(path)
        if digest != source.digest:
            raise UserError(f"its SHA-256 is {digest}, not {source.digest}")
        return "SHA-256 agrees: "
    if not source.bytes:
        return ""
    size = path.stat().st_size
    if abs(size / source.bytes - 1) > LARGEST_ERROR:
        raise UserError(f"it has {number(size / 1e9)} GB")
    return "size agrees, no SHA-256 is known: "


def report(plan: Plan, findings: list[Finding]) -> str:
    """A line for each thing; those that are not there last."""
    if not findings:
        return (
            f"{plan.stem} needs nothing from outside: its data are made and its networks trained "
            "in the DAG."
        )
    what = max(len(finding.need.what) for finding in findings)
    path = max(len(finding.need.path) for finding in findings)
    findings = sorted(findings, key=lambda finding: finding.state != "ok")
    lines = [
        f"{state:7}  {need.what:{what}}  {need.path:{path}}  {note}".rstrip()
        for need, state, note, _ in findings
    ]
    if any(line.endswith(MARK) for line in lines):
        lines.append(f"{MARK} as far as known, not read at its source")
    absent = sum(finding.state in ("missing", "broken") for finding in findings)
    present = sum(finding.state == "ok" for finding in findings)
    summary = (
        f"{plan.stem}: {present} of {len(findings)} things that it needs from outside are there"
    )
    if absent:
        summary += f"; put the other {absent} at the paths of their lines"
    commands = list(dict.fromkeys(finding.command for finding in findings if finding.command))
    if commands:
        lines += ["by these commands, after reading the licences:", *commands]
    return "\n".join([*lines, summary])
