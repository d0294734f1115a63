"""What to evaluate, and the networks that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hdbench.core.config import MISSING_NAMES
from hdbench.core.errors import UserError
from hdbench.core.files import expanded
from hdbench.core.runtime import set_up
from hdbench.evaluation.archives import STANDARD, ArrayForm
from hdbench.evaluation.extractors import EXTRACTORS, Extractor, Layout, Setup
from hdbench.evaluation.features import Settings, Shard
from hdbench.evaluation.images import Images
from hdbench.evaluation.protocols import PROTOCOLS, Protocol, protocol_named
from hdbench.evaluation.weights import PUBLIC, Weights, find

LONGEST_TITLE = 200


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to evaluate; references by protocol name (and extractor), weights by role."""

    samples: Path | None
    protocols: tuple[Protocol, ...]
    references: Mapping[str, Path | Images | Mapping[str, Path]]
    weights: Mapping[str, str]
    settings: Settings
    device: torch.device
    n: int | None = None
    prompts: Path | None = None
    allow: frozenset[str] = frozenset()
    intervals: bool = True
    layout: Layout = "library"
    name: str | None = None
    form: ArrayForm = STANDARD  # of the npz files of samples, or of what a reference is built from

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
        array: str | None = None,
        name: str | None = None,
        samples: Path | None = None,
        **fields: Any,
    ) -> Request:
        """The request that options of the command line make; `fields` go into it as they are.

        Sets up the process for the device.  Raises UserError for options that do not fit.
        """
        if samples is not None:
            name = title_of(name, "--samples", samples)
        chosen = changed(protocols, resolution, kid_subset_size)
        files = by_role(weights)
        shard = Shard.of(rank, world_size, wait_seconds)
        computing = set_up(threads, device)
        return cls(
            protocols=chosen,
            weights=files,
            settings=Settings(cache=cache, shard=shard, batch=batch, threads=threads),
            device=computing,
            allow=frozenset(allow),
            form=STANDARD if array is None else ArrayForm.read(array),
            name=name,
            samples=samples,
            **fields,
        )


def title_of(name: str | None, option: str, path: Path) -> str:
    """What tables call samples, by default as the file or folder that `option` gives.

    UserError for a name that tables do not show, or read as a missing value.
    """
    title = path.resolve().stem if name is None else name
    where = f"{option} = {str(path)!r}" if name is None else f"--name = {name[:200]!r}"
    if not title.strip() or not title.isprintable() or len(title) > LONGEST_TITLE:
        raise UserError(
            f"{where}: a name is not empty, has at most {LONGEST_TITLE} characters, and all are "
            "shown; give another --name"
        )
    if title.lower() in MISSING_NAMES:
        raise UserError(f"{where}: tables read {title!r} as a missing value; give another --name")
    return title


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
        files[role] = expanded(path)
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
        paths[name] = Path(expanded(path))
    default = paths.pop("", None)
    return ({} if default is None else dict.fromkeys(protocols, default)) | paths


class Extractors:
    """The networks that some protocols need, and one extractor for each row and resolution."""

    def __init__(self, request: Request):
        self._request = request
        wanted = {
            EXTRACTORS[name].network
            for protocol in request.protocols
            for name in self._names(protocol)
        }
        allowed = "other-weights" in request.allow
        self.weights: dict[str, Weights] = {
            role: find(role, request.weights.get(role), request.settings.cache, allowed)
            for role in PUBLIC
            if role in wanted
        }
        self.by_protocol: dict[str, dict[str, Extractor]] = {}

    def _names(self, protocol: Protocol) -> tuple[str, ...]:
        """Extractors of a protocol: those that real images pass too where there are no samples."""
        return protocol.compared if self._request.samples is None else protocol.extractors

    def load(self) -> None:
        """Load the networks, after everything that is quick to check has been."""
        protocols = self._request.protocols
        networks: dict[str, Any] = {}
        extractors: dict[tuple, Extractor] = {}
        for protocol in protocols:
            self.by_protocol[protocol.name] = {}
            for name in self._names(protocol):
                kind = EXTRACTORS[name]
                weights = self.weights[kind.network]
                setup = Setup(
                    device=self._request.device,
                    layout=self._request.layout,
                    resolution=protocol.resolution,
                )
                loading = kind.loading or name
                if loading not in networks:
                    networks[loading] = kind.load(weights, setup)
                key = (name, protocol.resolution)
                if key not in extractors:
                    needed = {
                        layer
                        for other in protocols
                        if name in other.extractors and other.resolution == protocol.resolution
                        for layer in other.layers(name)
                    }
                    layers = tuple(layer for layer in kind.dimensions if layer in needed)
                    extractors[key] = kind(networks[loading], weights, layers, setup)
                self.by_protocol[protocol.name][name] = extractors[key]

    def all(self) -> list[Extractor]:
        """Every extractor once."""
        return list(
            dict.fromkeys(
                extractor for by_name in self.by_protocol.values() for extractor in by_name.values()
            )
        )
