"""A digest covers exactly what its stage reads.

Reads are recorded in tiny stages of all kinds, and every value of every shipped suite is changed.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hdbench.core.config import Config
from hdbench.core.errors import UserError
from hdbench.methods.base import Pairs
from hdbench.methods.distribution.gan import GanSettings
from hdbench.methods.distribution.representation import Representation
from hdbench.stages import run as stages_run
from hdbench.stages.run import run_stage
from hdbench.suite import load, reading
from hdbench.suite.load import load_plan
from hdbench.suite.overrides import leaves
from hdbench.suite.plan import Plan
from hdbench.suite.reading import read_suite
from hdbench.suite.stage import PairsStage, Stage
from tests.science.test_autoencoding import TRAINED as AUTOENCODER
from tests.support import paper_scale
from tests.support.shipped import SUITES as SHIPPED
from tests.support.small_cifar10 import write_cifar10
from tests.support.tiny import REPOSITORY, tiny_plan

PERMISSIONS = {"dataset.corrupt_allowed"}  # read, and in no digest: see the field
Path_ = tuple[str, ...]
GUIDED = {"objective": {"name": "guidance_distillation", "trajectory_steps": 2}}
SAMPLERS = {
    "arms.guided": {"trajectory": GUIDED, "refine": None, "steps": [2]},
    "arms.decm": {"trajectory": {"objective": {"name": "dual_end"}}, "refine": None, "steps": [2]},
    "evaluation.sensitivity": 40,
} | {
    f"arms.teacher_{name}": {
        "trajectory": None, "refine": None, "steps": [4], "sampling": sampling
    }
    for name, sampling in {
        "heun": {"solver": "heun"},
        "deepcache": {"reuse": {"name": "deepcache", "first": 2, "last": 2, "every": 2}},
        "faster": {"reuse": {"name": "faster_diffusion", "last": 1, "key_times": [1.0, 0.5]}},
        "interval": {"guidance": {"scale": 1.5, "interval": [0.1, 0.8]}},
    }.items()
}  # fmt: skip

AUTOENCODED = {
    "autoencoder": AUTOENCODER,
    "arms.coded": {"trajectory": None, "refine": None, "real": "test", "autoencoded": True},
}


def variant(stage: Stage) -> tuple[str, ...]:
    """What decides which values a stage reads: its kind and the parts of its configuration."""
    parts = sorted(
        f"{'.'.join(path)}={type(part).__module__}.{type(part).__name__}"
        for path, part in parts_of(stage.config)
    )
    switches = [
        f"{'.'.join(path)}.{name}={getattr(part, name)}"
        for path, part in parts_of(stage.config)
        for name in ("discriminator", "sampler", "split", "format")
        if name in type(part).model_fields
    ]
    heads = [
        text if "=none" in text or "discriminator" not in text else text.split("=")[0]
        for text in switches
    ]
    return (stage.kind, type(stage.config).__name__, *parts, *heads)


def parts_of(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Config]]:
    """Every configuration inside one, with where it is."""
    if isinstance(value, Config):
        yield path, value
        for name in type(value).model_fields:
            yield from parts_of(getattr(value, name), (*path, name))


def values_of(config: Config) -> dict[str, Any]:
    """Every field that is not a configuration itself, by dotted path."""
    return {
        ".".join((*path, name)): getattr(part, name)
        for path, part in parts_of(config)
        for name in type(part).model_fields
        if not isinstance(getattr(part, name), Config)
    }


@contextmanager
def recorded(config: Config, reads: set[str]) -> Iterator[None]:
    """Reads of the fields of this very configuration, and of those inside it, by dotted path."""
    places = {id(part): path for path, part in parts_of(config)}
    plain = Config.__getattribute__

    def getattribute(self, name):
        if id(self) in places and name in type(self).model_fields:
            reads.add(".".join((*places[id(self)], name)))
        return plain(self, name)

    Config.__getattribute__ = getattribute
    try:
        yield
    finally:
        del Config.__getattribute__


def run_recorded(stage: Stage, results: Path, reads: dict[tuple[str, ...], set[str]]) -> None:
    """Run a stage; what its computation alone reads is added under its variant."""
    mine = reads.setdefault(variant(stage), set())
    compute = stages_run.STAGES[stage.kind]

    def watched(context):
        with recorded(stage.config, mine):
            return compute(context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(stages_run.STAGES, stage.kind, watched)
        run_stage(stage, results, torch.device("cpu"), 1000.0)


@functools.cache
def shipped(name: str) -> Plan:
    return load_plan(name)


@pytest.fixture(scope="module")
def reads(tmp_path_factory) -> dict[tuple[str, ...], set[str]]:
    """What stages read, by variant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        found: dict[tuple[str, ...], set[str]] = {}
        results = tmp_path_factory.mktemp("reads")
        plans = [tiny_plan(tmp_path_factory.mktemp("tiny"))]
        plans.append(tiny_plan(tmp_path_factory.mktemp("samplers"), SAMPLERS))
        folder = tmp_path_factory.mktemp("paper")
        plans += [load_plan(str(path)) for path in paper_scale.write(folder).values()]
        captions = yaml.safe_load((REPOSITORY / "workflow/suites/captions.yaml").read_text())
        plans.append(load_plan(str(small_captions(captions, folder))))
        plans.append(load_plan(str(write_cifar10(tmp_path_factory.mktemp("cifar10")))))
        plans.append(tiny_plan(tmp_path_factory.mktemp("autoencoder"), AUTOENCODED))
        for plan in plans:
            first = {variant(stage): stage.id for stage in reversed(plan.stages.values())}
            new = [stage_id for kind, stage_id in first.items() if kind not in found]
            for stage_id in plan.needed_for(new):
                run_recorded(plan.stage(stage_id), results, found)
        objectives(plans[0], results, found)
        for kind in ("textured_digits", "canvas", "photographs"):
            for name in SHIPPED:
                if shipped(name).suite.data.name == kind:
                    stage = next(iter(shipped(name).stages.values()))
                    if variant(stage) not in found:
                        run_recorded(stage, results, found)
        return found


def small_captions(data: dict, folder: Path) -> Path:
    """The suite of captions with few steps and images."""
    data = copy.deepcopy(data)
    data["data"] |= {"train": 200, "score": 200, "test": 100}
    data["seeds"] = data["seeds"][:1]
    data["evaluation"]["samples"] = 64
    trainings = [data[part]["training"] for part in ("classifier", "text", "teacher")]
    for training in (*trainings, data["base"]["trajectory"], data["base"]["refine"]):
        training |= {"steps": 2, "batch": 4}
    path = folder / "toy_captions.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def objectives(tiny: Plan, results: Path, found: dict[tuple[str, ...], set[str]]) -> None:
    """One small stage for every way in which a shipped suite trains a student of the small tier."""
    row = next(row for row in tiny.rows if row.arm == "hd")
    base = {kind: tiny.stage(row.stages[kind]) for kind in ("trajectory", "refine")}
    pairs = None
    for name in SHIPPED:
        for stage in shipped(name).stages.values():
            if stage.kind not in base or variant(stage) in found:
                continue
            like = base[stage.kind]
            objective = smaller(stage.training.objective)
            training = stage.training.model_copy(
                update={
                    "objective": objective,
                    "steps": max(2, objective.rounds()),
                    "batch": 4,
                    "micro_batch": 2,
                    "compile": False,
                }
            )
            config = like.config.model_copy(update={"training": training})
            parents = {role: tiny.stage(parent) for role, parent in like.parents.items()}
            if "pairs" in stage.parents:
                pairs = pairs or small_pairs(tiny, like, results, found)
                parents["pairs"] = pairs
            if "classifier" in stage.parents:
                parents["classifier"] = next(
                    other for other in tiny.stages.values() if other.kind == "classifier"
                )
            small = Stage.of(stage.kind, "small", config, parents)
            run_recorded(small, results, found)
            found[variant(stage)] = found[variant(small)]


def smaller(objective: Config) -> Config:
    """The objective for a network of two blocks."""
    changes: dict[str, Any] = {}
    if isinstance(objective, Representation):
        changes["blocks"] = (1, 2)
    if getattr(objective, "gan", None) is not None:
        changes["gan"] = objective.gan.model_copy(update={"blocks": (1, 2), "parameters": 2000})
    return objective.model_copy(update=changes)


def small_pairs(tiny: Plan, like: Stage, results: Path, found) -> Stage:
    config = PairsStage(
        network=like.config.network,
        shape=like.config.shape,
        guidance=like.config.guidance,
        seed=0,
        count=16,
        steps=2,
        batch=8,
    )
    pairs = Stage.of("pairs", "small", config, {"teacher": tiny.stage(like.parents["teacher"])})
    run_recorded(pairs, results, found)
    return pairs


def by_role(plan: Plan) -> dict[tuple, Stage]:
    """The stages of a plan by row, then roles from its measurements back to the data."""
    shared = ("data", "classifier", "reference", "clip", "text", "teacher", "pairs")
    found: dict[tuple, Stage] = {}

    def visit(key: tuple, stage: Stage) -> None:
        if key not in found:
            found[key] = stage
            for role, parent in stage.parents.items():
                of_row = (key[0], role) if role in shared else (*key, role)
                visit(of_row, plan.stage(parent))

    for row in plan.rows:
        for kind, stage in row.stages.items():
            visit(((row.arm, row.seed, row.steps), kind), plan.stage(stage))
    return found


def changes_of(value: Any, others: set[Any]) -> Iterator[Any]:
    """Sensible other values."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, 2 * value, value // 2, value + 4)
    elif isinstance(value, float):
        yield from (0.5 * value, 0.9 * value + 0.05, value + 1.0)
    elif isinstance(value, str):
        yield from sorted(other for other in others if isinstance(other, str) and other != value)
        yield f"{value}x"
    elif isinstance(value, list) and value:
        for position in (len(value) - 1, 0):
            for other in changes_of(value[position], others):
                yield [*value[:position], other, *value[position + 1 :]]


# of words
CHOICES = {
    "schedule": {"constant", "cosine"},
    "precision": {"float32", "bfloat16"},
    "dtype": {"float32", "bfloat16", "float16"},
    "feature_network": {"teacher", "fake"},
    "discriminator": {"none", "patch", "pooled"},
    "protocol": {"clean_fid", "torch_fidelity"},
}
WORDS = ("title", "caption", "tables", "claims", "only", "expected")


def suite_values() -> Iterator[tuple[str, dict, tuple[str, ...], Any, set]]:
    """Every value of every shipped suite: suite, mapping, keys, value, and others of that key."""
    data = {name: read_suite(Path(f"workflow/suites/{name}.yaml")) for name in SHIPPED}
    pool: dict[str, set] = copy.deepcopy(CHOICES)
    for suite in data.values():
        for keys, value in leaves(suite).items():
            if isinstance(value, str):
                pool.setdefault(keys[-1], set()).add(value)
    for name, suite in data.items():
        suite["seeds"] = suite["seeds"][:1]
        for keys, value in leaves(suite).items():
            if value is not None and not set(WORDS) & {keys[0], keys[-1]}:
                yield name, suite, keys, value, pool.get(keys[-1], set())


@pytest.mark.slow
def test_every_value_of_every_suite_renews_exactly_the_stages_that_read_it(reads, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(reading, "read_recipe", functools.cache(reading.read_recipe))
    monkeypatch.setattr(load, "suite_files", lambda path: (path,))
    checked, skipped, roles, wrong = 0, [], {}, []
    for name, data, keys, value, others in suite_values():
        plan = functools.partial(planned, monkeypatch, name)
        if name not in roles:
            roles = {name: by_role(plan(data))}
        for other in changes_of(value, others):
            changed = copy.deepcopy(data)
            node = functools.reduce(lambda node, key: node[key], keys[:-1], changed)
            node[keys[-1]] = other
            try:
                after = by_role(plan(changed))
                break
            except UserError:
                continue
        else:
            skipped.append((name, ".".join(keys), value))
            continue
        checked += 1
        for key, new in after.items():
            old = roles[name].get(key)
            if old is None or old.config == new.config:
                continue  # nothing of its own differs: its digest neither
            if variant(old) != variant(new):
                continue  # another method or network: another stage
            before, present = values_of(old.config), values_of(new.config)
            differing = {
                path
                for path in before.keys() | present.keys()
                if before.get(path) != present.get(path)
            }
            read = differing & reads.get(variant(new), set())
            is_new = Stage.own_key(old.kind, old.config) != Stage.own_key(new.kind, new.config)
            if is_new != bool(read - PERMISSIONS):
                verdict = "new" if is_new else "not new"
                wrong.append((name, ".".join(keys), new.kind, tuple(sorted(differing)), verdict))
    report = "\n".join(map(str, dict.fromkeys(wrong)))
    print(f"{checked} values changed, {len(skipped)} skipped: {skipped}")
    assert checked > 900 and len(skipped) < 0.25 * checked, (checked, skipped)
    assert not wrong, report


def planned(monkeypatch, name: str, data: dict) -> Plan:
    monkeypatch.setattr(load, "read_suite", lambda path: copy.deepcopy(data))
    return load_plan(name)


@pytest.mark.slow
def test_no_stage_holds_a_value_that_it_does_not_read(reads, monkeypatch):
    """Of every stage of every shipped suite."""
    monkeypatch.chdir(REPOSITORY)
    unread, unseen = {}, set()
    for name in SHIPPED:
        for stage in shipped(name).stages.values():
            if variant(stage) not in reads:
                unseen.add(variant(stage))
                continue
            idle = values_of(stage.config).keys() - reads[variant(stage)]
            idle = {path for path in idle if covered(stage.config, path)}
            if idle:
                unread.setdefault((stage.kind, type(stage.config).__name__), set()).update(idle)
    assert not unread, unread
    assert not unseen, unseen


def covered(config: Config, path: str) -> bool:
    """Whether a value can change and is then in the digest; a `name` only chooses the class."""
    *keys, last = path.split(".")
    part = functools.reduce(getattr, keys, config)
    bounds = {str(bound) for bound in type(part).model_fields[last].metadata}
    is_constant = len({text.split("=")[1].rstrip(")") for text in bounds}) == 1 and len(bounds) == 2
    # by hdbench.suite.stage.without_unread: the same in all stages
    is_reset = isinstance(part, Pairs) or (
        isinstance(part, GanSettings)
        and (
            config.training.objective.head()[0] == "none"
            or last in config.training.objective.unread_of_head()
        )
    )
    if last == "name" or is_constant or is_reset or getattr(part, last) is None:
        return False
    node: Any = config.model_dump(mode="json")
    for key in path.split("."):
        if key not in node:
            return False
        node = node[key]
    return True
