"""What to evaluate, and the networks that it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from hdbench.evaluation.extractors import ClipExtractor, Inception, InceptionExtractor
from hdbench.evaluation.features import Settings
from hdbench.evaluation.images import Images
from hdbench.evaluation.protocols import Layout, Protocol
from hdbench.evaluation.weights import Weights, find


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


class Extractors:
    """The networks that some protocols need, each loaded once, and one extractor for each preprocessing."""

    def __init__(self, request: Request):
        protocols, other = request.protocols, "other-weights" in request.allow
        roles = [
            role
            for role, wanted in (
                ("inception", any(p.inception for p in protocols)),
                ("clip", request.samples and any(p.prompts for p in protocols)),
            )
            if wanted
        ]
        self.weights: dict[str, Weights] = {
            role: find(role, request.weights.get(role), request.settings.cache, other)
            for role in roles
        }
        self.by_protocol: dict[str, InceptionExtractor] = {}
        self.clip: ClipExtractor | None = None
        self._request = request

    def load(self) -> None:
        """Networks, after everything that is quick to check has been."""
        protocols, device = self._request.protocols, self._request.device
        network = (
            Inception(self.weights["inception"], device, self._request.layout)
            if "inception" in self.weights
            else None
        )
        settings = {
            protocol.name: (protocol.inception, protocol.resolution)
            for protocol in protocols
            if protocol.inception
        }
        for key in dict.fromkeys(settings.values()):
            sharing = [protocol for protocol in protocols if settings.get(protocol.name) == key]
            layers = tuple(
                layer
                for layer in ("2048", "spatial")
                if any(layer in protocol.layers for protocol in sharing)
            )
            extractor = InceptionExtractor(network, key[0], layers, key[1])
            self.by_protocol |= {protocol.name: extractor for protocol in sharing}
        if "clip" in self.weights:
            self.clip = ClipExtractor(self.weights["clip"], protocols[0].clip_architecture, device)

    def all(self) -> list:
        return [*dict.fromkeys(self.by_protocol.values()), *([self.clip] if self.clip else [])]
