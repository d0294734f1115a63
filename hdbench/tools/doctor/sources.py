"""Where public things are from: workflow/sources.yaml, typed."""

from __future__ import annotations

import re
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from hdbench.core.config import Config, validate
from hdbench.core.yaml_file import read_yaml
from hdbench.evaluation.weights import PUBLIC
from hdbench.tools.numbers import number

SOURCES = Path("workflow/sources.yaml")
MARK = "*"  # after what is not checked
HUB = re.compile(r"https://huggingface\.co/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)")
FILE = re.compile(r"\.(pt|pth|npz|bin|json|safetensors)(\?|$)")  # an archive is to be unpacked


class Source(Config):
    """A public thing; its address and SHA-256 are here or in hdbench.evaluation.weights."""

    name: str
    serves: tuple[str, ...] = Field(min_length=1)
    pattern: str = "*"
    url: str | None = None
    public: Literal[tuple(PUBLIC)] | None = None
    licence: str
    bytes: float | None = Field(None, gt=0)
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    checked: bool
    by_hand: str | None = Field(
        None, description="what to do where a download alone is not enough; {path} is its place"
    )

    @model_validator(mode="after")
    def _one_address(self):
        if self.public and (self.url or self.sha256):
            raise ValueError(
                f"public = {self.public}: its url and sha256 are in hdbench/evaluation/weights.py; "
                "leave them out"
            )
        return self

    @property
    def address(self) -> str | None:
        return PUBLIC[self.public].url if self.public else self.url

    @property
    def digest(self) -> str | None:
        return PUBLIC[self.public].sha256 if self.public else self.sha256

    def command(self, path: str) -> str | None:
        """The command that puts it at `path`; None for what has a page of its own conditions."""
        address = self.address or ""
        hub = HUB.fullmatch(address)
        if hub:
            kind = ["--repo-type", "dataset"] if hub["kind"] else []
            return shlex.join(["hf", "download", hub["name"], *kind, "--local-dir", path])
        if FILE.search(address):
            return shlex.join(["curl", "-L", "--create-dirs", "-o", path, address])
        return None

    def __str__(self) -> str:
        size = f", about {number(self.bytes / 1e9)} GB" if self.bytes else ""
        address = f", from {self.address}" if self.address else ""
        return f"{self.name}{size}{address}; licence: {self.licence}{'' if self.checked else MARK}"


class Sources(Config):
    sources: tuple[Source, ...] = Field(min_length=1)

    def find(self, kind: str, path: str) -> tuple[Source | None, str]:
        """The source that serves a kind and fits a path, and what to do where nothing is there."""
        serving = [source for source in self.sources if kind in source.serves]
        fitting = next((source for source in serving if fnmatch(path, source.pattern)), None)
        if fitting:
            return fitting, f"get {fitting}"
        return None, f"get one such as {serving[0]}" if serving else "no public source is known"


def read_sources(path: Path = SOURCES) -> Sources:
    return validate(Sources, read_yaml(path), str(path))
