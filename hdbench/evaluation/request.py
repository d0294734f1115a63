"""What to evaluate, and the networks that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hdbench.core.errors import UserError
from hdbench.core.runtime import set_up
from hdbench.evaluation.extractors import ClipExtractor, Inception, InceptionExtractor
from hdbench.evaluation.features import Settings, Shard
from hdbench.evaluation.images import Images
from hdbench.evaluation.protocols import DIMENSIONS, PROTOCOLS, Layout, Protocol, protocol_named
from hdbench.evaluation.weights import PUBLIC, Weights, find


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to evaluate; references by protocol name, weights by role."""

    samples: Path | None
    protocols: tuple[Protocol, ...]
    references: Mapping[str, Path | Images]
    weights: Mapping[str, str]
    settings: Settings
    device: torch.device
    n: int | None = None
    prompts: Path | None = None
    allow: frozenset[str] = frozenset()
    intervals: bool = True
    layout: Layout = "library"
    name: str | None = None

    @classmethod
    def from_options(
        cls,
        *,
        protocols: Sequence[str],
        weights: Sequence[str],
        allow: Sequence[str],
        cache: Path,
        batch: int,
        threads: int,
        device: str,
        rank: int | None,
        world_size: int | None,
        wait_seconds: float,
        resolution: int | None = None,
        kid_subset_size: int | None = None,
        **fields: Any,
    ) -> Request:
        """The request that options of the command line make; `fields` go into it as they are.

        Sets up the process for the device.  Raises UserError for options that do not fit.
        """
        chosen = changed(protocols, resolution, kid_subset_size)
        files = by_role(weights)
        shard = Shard.of(rank, world_size, wait_seconds)
        computing = set_up(threads, device)
        if computing.type not in ("cpu", "cuda"):
            raise UserError(f"--device = {device}: use cpu, cuda or auto")
        return cls(
            protocols=chosen,
            weights=files,
            settings=Settings(cache=cache, shard=shard, batch=batch, threads=threads),
            device=computing,
            allow=frozenset(allow),
            **fields,
        )


def changed(
    names: Sequence[str], resolution: int | None, kid_subset_size: int | None
) -> tuple[Protocol, ...]:
    """The named protocols, each once, with these settings where they have them."""
    protocols = [protocol_named(name) for name in dict.fromkeys(names)]
    for option, field, value, has in (
        ("--resolution", "resolution", resolution, lambda p: p.resolution is not None),
        ("--kid-subset-size", "kid_subset_size", kid_subset_size, lambda p: "kid" in p.metrics),
    ):
        if value is None:
            continue
        if not any(has(protocol) for protocol in protocols):
            raise UserError(f"{option} = {value}: none of {', '.join(names)} has such a setting")
        protocols = [
            protocol.model_copy(update={field: value}) if has(protocol) else protocol
            for protocol in protocols
        ]
    return tuple(protocols)


def by_role(texts: Sequence[str]) -> dict[str, str]:
    """`ROLE=PATH` of the option --weights as a mapping."""
    files: dict[str, str] = {}
    for text in texts:
        role, _, path = text.partition("=")
        if role not in PUBLIC or not path:
            wanted = " or ".join(f"{role}=PATH" for role in PUBLIC)
            raise UserError(f"--weights = {text!r}: write {wanted}")
        if role in files:
            raise UserError(f"--weights = {text!r}: there are others for {role}; give one")
        files[role] = path
    return files


def by_protocol(protocols: Sequence[str], texts: Sequence[str]) -> dict[str, Path]:
    """`[NAME=]PATH` of the option --reference as a mapping; without a name for all others."""
    paths: dict[str, Path] = {}
    for text in texts:
        name, separator, path = text.partition("=")
        if not (separator and name in PROTOCOLS):
            name = ""
            path = text
        if name in paths:
            raise UserError(
                f"--reference = {text!r}: there is another for {name or 'all protocols'}; give one"
            )
        paths[name] = Path(path)
    default = paths.pop("", None)
    return ({} if default is None else dict.fromkeys(protocols, default)) | paths


class Extractors:
    """The networks that some protocols need, and one extractor for each preprocessing."""

    def __init__(self, request: Request):
        wanted = {role for protocol in request.protocols for role in protocol.networks}
        if request.samples is None:
            wanted.discard("clip")  # references have no prompts
        allowed = "other-weights" in request.allow
        self.weights: dict[str, Weights] = {
            role: find(role, request.weights.get(role), request.settings.cache, allowed)
            for role in PUBLIC
            if role in wanted
        }
        self.by_protocol: dict[str, InceptionExtractor] = {}
        self.clip: ClipExtractor | None = None
        self._request = request

    def load(self) -> None:
        """Load the networks, after everything that is quick to check has been."""
        protocols = self._request.protocols
        device = self._request.device
        if "inception" in self.weights:
            network = Inception(self.weights["inception"], device, self._request.layout)
            self._share(network, [protocol for protocol in protocols if protocol.inception])
        if "clip" in self.weights:
            self.clip = ClipExtractor(self.weights["clip"], protocols[0].clip_architecture, device)

    def _share(self, network: Inception, protocols: Sequence[Protocol]) -> None:
        """One extractor, with all layers, for the protocols of one preprocessing and resolution."""
        groups: dict[tuple, list[Protocol]] = {}
        for protocol in protocols:
            groups.setdefault((protocol.inception, protocol.resolution), []).append(protocol)
        for (preprocessing, resolution), sharing in groups.items():
            needed = {layer for protocol in sharing for layer in protocol.layers}
            layers = tuple(layer for layer in DIMENSIONS if layer in needed)
            extractor = InceptionExtractor(network, preprocessing, layers, resolution)
            self.by_protocol |= {protocol.name: extractor for protocol in sharing}

    def all(self) -> list:
        """Every extractor once."""
        return [*dict.fromkeys(self.by_protocol.values()), *([self.clip] if self.clip else [])]
