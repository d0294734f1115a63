"""What a stage ran on: versions, processor, commit."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def environment(device: str) -> dict[str, str]:
    """Versions and machine, recorded in every manifest and hashed into none."""
    packages = ("torch", "diffusers", "numpy", "scikit-learn", "safetensors", "snakemake")
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        commit = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True
        ).stdout.strip()
    except OSError:  # no git on this machine
        commit = ""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "device": device,
        "machine": platform.machine(),
        "processor": processor(),
        "commit": commit or "unknown",
    }


def processor() -> str:
    """Its name: another processor may round otherwise, so equal seeds need not give equal bits."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    named = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")
