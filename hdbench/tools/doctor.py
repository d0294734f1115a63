"""What a suite needs from outside: whether it is there and of the right kind, and if not where to get it and put it.

Checks are cheap: names, headers and the first bytes of files; with `verify` sizes and, where one is known, SHA-256.
"""

from __future__ import annotations

import importlib.util
import json
import tarfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from glob import iglob
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from hdbench.core.config import Config, read_yaml, validate
from hdbench.core.errors import UserError
from hdbench.suite.plan import Plan
from hdbench.suite.schema import Checkpoint
from hdbench.tools.cost import number

SOURCES = Path("workflow/sources.yaml")
MARK = "*"  # after what is not checked
LARGEST_ERROR = 0.15  # of an approximate size


class Source(Config):
    """A public thing; its address and SHA-256 here, or in hdbench.evaluation.weights under the name `public`."""

    name: str
    serves: tuple[str, ...] = Field(min_length=1)
    pattern: str = "*"
    url: str | None = None
    public: Literal["inception", "clip"] | None = None
    licence: str
    bytes: float | None = Field(None, gt=0)
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    checked: bool

    @model_validator(mode="after")
    def _one_address(self):
        if self.public and (self.url or self.sha256):
            raise ValueError(
                f"public = {self.public}: its url and sha256 are in hdbench/evaluation/weights.py; leave them out"
            )
        return self

    @property
    def address(self) -> str | None:
        return _public(self.public).url if self.public else self.url

    @property
    def digest(self) -> str | None:
        return _public(self.public).sha256 if self.public else self.sha256

    def __str__(self) -> str:
        size = f", about {number(self.bytes / 1e9)} GB" if self.bytes else ""
        address = f", from {self.address}" if self.address else ""
        return f"{self.name}{size}{address}; licence: {self.licence}{'' if self.checked else MARK}"


class Sources(Config):
    sources: tuple[Source, ...] = Field(min_length=1)

    def of(self, need: Need) -> tuple[Source | None, str]:
        """The one whose pattern fits the need's path, and what to say where nothing is there."""
        found = [source for source in self.sources if need.kind in source.serves]
        fitting = next((source for source in found if fnmatch(need.path, source.pattern)), None)
        return (
            fitting,
            f"get {fitting}"
            if fitting
            else f"get one such as {found[0]}"
            if found
            else "no public source is known",
        )


class Need(NamedTuple):
    """`check` raises UserError where what is at `path` is not of the right kind; None: `path` is a package or a device."""

    what: str
    kind: str
    path: str
    check: Callable[[Path], None] | None


class Finding(NamedTuple):
    need: Need
    state: Literal["ok", "missing", "broken"]
    note: str


def _public(role: str):
    from hdbench.evaluation.weights import PUBLIC

    return PUBLIC[role]


# what a suite needs


def needs(plan: Plan, results: Path, device: str = "cpu") -> list[Need]:
    suite, found = plan.suite, []
    checkpoints = {"teacher": suite.teacher.checkpoint}
    checkpoints |= {
        f"baseline {name}": arm.baseline.checkpoint
        for name, arm in plan.arms.items()
        if arm.baseline
    }
    found += [
        Need(what, public.format, public.path, partial(check_checkpoint, public))
        for what, public in checkpoints.items()
        if public
    ]
    if suite.data.stored == "latents":
        from hdbench.networks.autoencoders import PUBLIC

        autoencoder = suite.data.autoencoder
        check = partial(check_model, "vae", PUBLIC[autoencoder.name][0])
        found.append(Need("autoencoder", autoencoder.name, autoencoder.path, check))
    if pipeline := getattr(suite.text, "path", None):  # a CLIP of the DAG has none
        found += [
            Need("text encoder", "text", pipeline, check_text),
            Need("package", "package", "transformers", None),
        ]
    if source := getattr(suite.data, "source", None):
        found.append(Need("data", "images", source, check_images))
    evaluation = suite.evaluation
    if evaluation.reference:
        found.append(Need("reference", evaluation.protocol, evaluation.reference, check_reference))
        found += [
            Need(role, role, evaluation.weights.get(role) or place_of(role, results), check_weights)
            for role in roles(evaluation)
        ]
    if evaluation.prompts:
        found.append(Need("prompts", "prompts", evaluation.prompts, check_prompts))
    return found + ([Need("device", "device", device, None)] if device != "cpu" else [])


def roles(evaluation) -> list[str]:
    """Networks that the protocol measures with."""
    from hdbench.evaluation.protocols import protocol_named

    protocol = protocol_named(evaluation.protocol)
    return [
        role
        for role, wanted in (("inception", protocol.inception), ("clip", protocol.prompts))
        if wanted
    ]


def place_of(role: str, results: Path) -> str:
    """Where `hdbench.evaluation.weights.find` looks for the public file, without one in the first of its places."""
    import torch

    places = [results / "evaluation/weights", Path(torch.hub.get_dir()) / "checkpoints"]
    file = _public(role).file
    return str(
        next((place / file for place in places if (place / file).is_file()), places[0] / file)
    )


# of which kind a file is


def check_weights(path: Path) -> None:
    """A file that could be PyTorch's, or a folder or hub id, which `hdbench evaluate` looks into."""
    if path.is_file():
        with path.open("rb") as file:
            if file.read(2) not in (b"PK", b"\x80\x02") and path.suffix != ".safetensors":
                raise UserError("not a file of weights")
    if path.suffix == ".safetensors":
        shapes_in(path)


def shapes_in(path: Path) -> dict[str, list[int]]:
    """Shapes by name, from the header alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return {key: list(file.get_slice(key).get_shape()) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path.name} is not a whole .safetensors file ({error})") from None


def check_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """A SANA's transformer, or a file; the family of a .safetensors file, as `hdbench.networks.checkpoints.read` has it."""
    if checkpoint.format == "sana":
        return check_model("transformer", "SanaTransformer2DModel", path)
    check_weights(path)
    if path.suffix == ".safetensors":
        from hdbench.networks.checkpoints import MODELS, check_keys, unwrapped

        tensors = unwrapped(
            {key: SimpleNamespace(ndim=len(shape)) for key, shape in shapes_in(path).items()}
        )
        check_keys(tensors, MODELS[checkpoint.format], path.name)
    elif path.is_dir():
        raise UserError("a folder, not a file")


def check_model(part: str, kind: str, path: Path) -> None:
    """A folder in diffusers' format, or a pipeline's with `part` inside: its class and whole files of weights."""
    folder = path / part if (path / part).is_dir() else path
    if read_json(folder / "config.json").get("_class_name") != kind:
        raise UserError(f"{folder / 'config.json'} is not of an {kind}")
    check_shards(folder)


def check_text(path: Path) -> None:
    read_json(path / "text_encoder/config.json")
    check_shards(path / "text_encoder")
    if not any((path / "tokenizer").glob("tokenizer*")):
        raise UserError(f"no tokenizer in {path / 'tokenizer'}")


def check_shards(folder: Path) -> None:
    """The folder's .safetensors files, all that an index beside them names."""
    files = {file.name for file in folder.glob("*.safetensors")}
    for index in folder.glob("*.safetensors.index*.json"):
        files |= set(read_json(index).get("weight_map", {}).values())
    if not files:
        raise UserError(f"no .safetensors file in {folder}")
    for file in sorted(files):
        shapes_in(folder / file)


def read_json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or 'not JSON'})"
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no mapping")
    return found


def check_images(path: Path) -> None:
    """A folder that is not empty, or tars by a glob, of which the first opens."""
    if path.is_dir():
        if not any(path.iterdir()):
            raise UserError("an empty folder")
    elif not tarfile.is_tarfile(first := min(iglob(str(path)))):
        raise UserError(f"{first} is not a tar")


def check_reference(path: Path) -> None:
    """A folder that is not empty, or an npz with statistics or images."""
    if path.is_dir():
        return check_images(path)
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            names = file.files
    except Exception as error:  # numpy's depend on the first bytes
        raise UserError(f"not an npz ({type(error).__name__})") from None
    if not ({"mu", "sigma"} <= {*names} or "arr_0" in names):
        raise UserError(
            f"has neither statistics (mu, sigma) nor images (arr_0), but {', '.join(names)}"
        )


def check_prompts(path: Path) -> None:
    rows = read_json(path).values()
    if not rows or not all(
        isinstance(row.get("prompt") if isinstance(row, dict) else row, str) for row in rows
    ):
        raise UserError('must be {image: {"prompt": ...}}')


# the report


def look(
    plan: Plan, results: Path, sources: Sources, verify: bool = False, device: str = "cpu"
) -> Iterator[Finding]:
    for need in needs(plan, results, device):
        source, get = sources.of(need)
        try:
            present = is_there(need)
            if present and need.check:
                need.check(Path(need.path))
            agrees = (
                verified(Path(need.path), source)
                if present and verify and source and Path(need.path).is_file()
                else ""
            )
        except UserError as error:
            yield Finding(need, "broken", f"{error}; {get}" if need.check else str(error))
        else:
            yield Finding(
                need, "ok" if present else "missing", f"{agrees}{source or ''}" if present else get
            )


def is_there(need: Need) -> bool:
    if need.kind == "package":
        return importlib.util.find_spec(need.path) is not None
    if need.kind == "device":
        from hdbench.core.runtime import choose

        return bool(choose(need.path))
    return need.path.startswith("hf-hub:") or Path(need.path).exists() or any(iglob(need.path))


def verified(path: Path, source: Source) -> str:
    from hdbench.core.files import sha256

    if source.digest:
        if (found := sha256(path)) != source.digest:
            raise UserError(f"its SHA-256 is {found}, not {source.digest}")
        return "SHA-256 agrees: "
    if source.bytes and abs((size := path.stat().st_size) / source.bytes - 1) > LARGEST_ERROR:
        raise UserError(f"it has {number(size / 1e9)} GB")
    return "size agrees, no SHA-256 is known: " if source.bytes else ""


def report(plan: Plan, findings: list[Finding]) -> str:
    """A line for each thing; those that are not there last."""
    if not findings:
        return f"{plan.name} needs nothing from outside: its data are made and its networks trained in the DAG."
    widths = [
        max(len(getattr(finding.need, key)) for finding in findings) for key in ("what", "path")
    ]
    findings = sorted(findings, key=lambda finding: finding.state != "ok")
    lines = [
        f"{state:7}  {need.what:{widths[0]}}  {need.path:{widths[1]}}  {note}".rstrip()
        for need, state, note in findings
    ]
    absent = sum(finding.state != "ok" for finding in findings)
    marked = (
        [f"{MARK} as far as known, not read at its source"]
        if any(line.endswith(MARK) for line in lines)
        else []
    )
    said = f"{plan.name}: {len(findings) - absent} of {len(findings)} things that it needs from outside are there"
    return "\n".join(
        [
            *lines,
            *marked,
            said + (f"; put the other {absent} at the paths of their lines" if absent else ""),
        ]
    )


def read_sources(path: Path = SOURCES) -> Sources:
    return validate(Sources, read_yaml(path), str(path))
