"""What a stage ran on: versions, processor, commit, lock file, registrations."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from hdbench.core.files import sha256

REGISTRATIONS = Path("workflow/prereg")
SHIPPED = Path("workflow/shipped")  # finished stages, which are taken by their digest
LOCK = Path(__file__).parents[2] / "requirements.lock"  # of a repository, not of a package
DIRTY = "-dirty"  # what ends the commit of a tree with changes
UNKNOWN = "unknown"


def git(folder: Path, *words: str) -> subprocess.CompletedProcess[str] | None:
    """`git` in a folder, its output as text; None where there is no git on this machine."""
    try:
        return subprocess.run(("git", *words), cwd=folder, capture_output=True, text=True)
    except OSError:
        return None


def registrations(folder: Path = REGISTRATIONS) -> dict[str, str]:
    """SHA-256 of the files of registered claims that are there, by name."""
    return {path.stem: sha256(path) for path in sorted(folder.glob("*.yaml"))}


def environment(device: str) -> dict[str, str]:
    """Versions and machine, recorded in every manifest and hashed into none."""
    packages = ("torch", "diffusers", "numpy", "scikit-learn", "safetensors", "snakemake")
    words = ("describe", "--always", f"--dirty={DIRTY}", "--exclude=*", "--abbrev=40")
    said = git(Path(__file__).parent, *words)
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "device": device,
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": processor(),
        "lock": lock(),
        "commit": said.stdout.strip() if said and said.stdout.strip() else UNKNOWN,
    }


@functools.cache
def lock(path: Path = LOCK) -> str:
    """SHA-256 of the lock file if all of its packages that are installed have its versions.

    Else what the first other one is; UNKNOWN where there is no lock file.
    """
    if not path.is_file():
        return UNKNOWN
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith((" ", "#")):
            continue
        try:
            pin = Requirement(line.removesuffix("\\"))
        except InvalidRequirement:
            return f"other: {path.name} has a line that is no requirement, {line[:40]!r}"
        try:
            installed = version(pin.name)
        except PackageNotFoundError:
            continue
        needed = pin.marker is None or pin.marker.evaluate()
        if needed and not pin.specifier.contains(installed, prereleases=True):
            return f"other: {pin.name} {installed}, locked {str(pin.specifier).lstrip('=')}"
    return sha256(path)


def processor() -> str:
    """Its name: another processor may round otherwise, so equal seeds need not give equal bits."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    named = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or UNKNOWN)
