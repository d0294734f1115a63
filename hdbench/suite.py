"""Suites are data: a validated YAML file becomes arms, and arms become a plan of stages keyed by digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Union

import torch
from pydantic import Discriminator, Field, Tag, model_validator

from hdbench.config import Config, nearest, read_yaml, validate
from hdbench.datasets import DATASETS
from hdbench.discriminators import build_head
from hdbench.errors import UserError
from hdbench.networks import SanaConfig, TransformerConfig
from hdbench.networks.classifier import ClassifierConfig
from hdbench.objectives import OBJECTIVES
from hdbench.objectives.base import Pairs
from hdbench.text import TextConfig

SUITES, RECIPES = Path("workflow/suites"), Path("workflow/recipes")

# Raise a number when the meaning of that stage's results changes; a cosmetic edit leaves it, and nothing is run again.
# A data set whose images change says so by its own VERSION, and the others' results stay.
VERSIONS = {"data": 1, "classifier": 1, "clip": 1, "text": 1, "reference": 1, "teacher": 1, "pairs": 1, "trajectory": 1,
            "refine": 1, "sample": 1, "evaluate": 1}
KINDS = tuple(VERSIONS)
TABLES = ("main", "components", "discriminators", "initialisation", "methods", "cost", "reproducibility")
FIGURES = ("samples", "curves", "spectrum", "precision_recall", "quality", "methods", "forest", "weights")

Objective = Annotated[Union[tuple(m.Configuration for m in OBJECTIVES.values())], Field(discriminator="name")]
Dataset = Annotated[Union[tuple(m.Configuration for m in DATASETS.values())], Field(discriminator="name")]
Decay = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _absent(value: Any) -> bool:
    """A field that is not given is not hashed, so that older digests stay."""
    return not value


class EqualTotal(Config):
    """As many steps as make the arm's total training compute equal to that of another arm, in forward-equivalents."""

    equal_total: str = Field(description="the arm whose trajectory and refine stages together set the budget")


class Training(Config):
    """One training stage: an objective and how it is optimised (AdamW, gradients clipped, EMA of the student)."""

    objective: Objective
    steps: int | EqualTotal
    batch: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0, description="bound on the norm of each network's gradient")
    ema: float = Field(ge=0, lt=1, description="decay of the student's moving average, reached after a warm-up")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", exclude_if=lambda precision: precision == "float32",
        description="of matrix products; weights, forward-mode derivatives, losses and averages stay float32")
    micro_batch: int | None = Field(None, ge=1, exclude_if=_absent, description="rows of a rank at once; gradients add up")
    gradient_checkpointing: bool = Field(False, exclude_if=_absent, description="blocks are computed again in the backward")
    compile: bool = Field(False, exclude_if=_absent, description="blocks of networks that no forward-mode pass goes through")

    @classmethod
    def of(cls, config: dict[str, Any]) -> Training:
        """The training part of a stage's configuration, typed again."""
        return cls.model_validate_json(json.dumps({key: config[key] for key in cls.model_fields if key in config}))

    @model_validator(mode="after")
    def _some_steps(self):
        if isinstance(self.steps, int) and self.steps > 10**9:
            raise ValueError("steps = more than 1,000,000,000: no stage takes that many")
        if isinstance(self.steps, int) and self.steps < 1:
            raise ValueError(f"steps = {self.steps}: a training stage takes at least 1 step")
        return self


class Checkpoint(Config):
    """A public network, converted once by a `teacher` stage that trains nothing."""

    format: Literal["sit", "dit", "sana"]
    path: str = Field(description="the published file, or the folder of a diffusers pipeline")


class Teacher(Config):
    """The teacher's training, or where it comes from, and the guidance with which every stage uses it."""

    training: Training | None = Field(None, exclude_if=_absent)
    checkpoint: Checkpoint | None = Field(None, exclude_if=_absent)
    guidance: float = Field(1.0, ge=0, description="w of classifier-free guidance; 1 means none")
    guidance_interval: tuple[Fraction, Fraction] = (0.0, 1.0)

    @model_validator(mode="after")
    def _interval_in_order(self):
        low, high = self.guidance_interval
        if low > high:
            raise ValueError(f"guidance_interval = {[low, high]}: the first must not be above the second")
        if bool(self.training) == bool(self.checkpoint):
            raise ValueError("give either training or checkpoint")
        return self


class ClassifierStage(Config):
    """The network whose features the metrics use, and its training; one for all chains, so that they can be compared."""

    network: ClassifierConfig = ClassifierConfig()
    training: Training
    seed: int = Field(0, ge=0)


class ClipText(Config):
    """A CLIP trained in the DAG whose text tower encodes the prompts; one of the data's split `score` gives the CLIP score."""

    name: Literal["clip"] = "clip"
    model: dict[str, Any] = Field(description="open_clip's model configuration, as its JSON files have it")
    training: Training
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _says_its_sizes(self):
        text, vision = self.model.get("text_cfg") or {}, self.model.get("vision_cfg") or {}
        if not all(isinstance(n, int) for n in (text.get("context_length"), text.get("width"), vision.get("image_size"))):
            raise ValueError("model: give text_cfg.context_length, text_cfg.width and vision_cfg.image_size")
        if text.get("vocab_size", 49408) < 49408:
            raise ValueError(f"model: text_cfg.vocab_size = {text['vocab_size']}: open_clip's tokens need 49408")
        if self.training.micro_batch:
            raise ValueError("training.micro_batch: captions are compared over the whole batch; remove it")
        return self

    @property
    def tokens(self) -> int:
        """The most tokens of a prompt."""
        return self.model["text_cfg"]["context_length"]


def _named(default: str) -> Discriminator:
    """Which alternative is meant: by `name`, and without one the default, whose older files and digests have none."""
    def tag(value: Any) -> str:
        return (value.get("name") if isinstance(value, dict) else getattr(value, "name", None)) or default

    return Discriminator(tag)


Network = Annotated[Union[Annotated[TransformerConfig, Tag("transformer")], Annotated[SanaConfig, Tag("sana")]],
                    _named("transformer")]
Text = Annotated[Union[Annotated[TextConfig, Tag("pipeline")], Annotated[ClipText, Tag("clip")]], _named("pipeline")]


class Evaluation(Config):
    """Sampling and metrics, the same for every arm."""

    samples: int = Field(ge=2, description="N of every set of images, generated or real; part of every metric's name")
    neighbours: int = Field(3, ge=1, description="k of precision and recall")
    bands: int = Field(4, ge=1, description="number of equal bands of radial frequency, up to Nyquist")
    seed: int = Field(0, ge=0, description="axis of the sampling noise, shared by all arms")
    protocol: Literal["classifier", "adm_imagenet256_50k", "torch_fidelity", "clean_fid", "mjhq30k"] = "classifier"
    reference: str | None = Field(None, description="real images, or ADM's npz; of every protocol but `classifier`")
    weights: dict[Literal["inception", "clip"], str] = Field({}, description="by path; without, the public files")
    prompts: str | None = Field(None, description="MJHQ's meta_data.json: a sample for each of its prompts, in order")
    batch: int = Field(256, ge=1, description="samples that are made at once; of no sample's noise or condition")

    @model_validator(mode="after")
    def _reference_of_protocol(self):
        if (self.protocol == "classifier") == bool(self.reference):
            raise ValueError("reference belongs to every protocol but `classifier`, whose real images are the data's own")
        return self

    @property
    def distance(self) -> str:
        """The metric by which arms are compared."""
        return "fd_test" if self.protocol == "classifier" else "fid"


class Baseline(Config):
    """A public few-step network, which is sampled and not trained."""

    title: str
    network: Network
    checkpoint: Checkpoint
    times: dict[int, tuple[Fraction, ...]] = Field({}, description="t of the further steps, by number of steps; else uniform")

    @model_validator(mode="after")
    def _a_time_for_each_further_step(self):
        for steps, found in self.times.items():
            if len(found) != steps - 1:
                raise ValueError(f"times = {{{steps}: {list(found)}}}: give {steps - 1} times, one for each step after the first")
        return self


class Arm(Config):
    """What one row of a table does: stages after the teacher, and how it samples."""

    trajectory: Training | None
    refine: Training | None
    baseline: Baseline | None = Field(None, exclude_if=_absent)
    steps: tuple[int, ...] = Field(min_length=1, description="sampling steps, each of them a row")
    real: Literal["train", "test"] | None = Field(None, description="no model at all: real images, for the noise floor")

    @model_validator(mode="after")
    def _real_has_no_stages(self):
        if self.baseline and (self.real or self.trajectory or self.refine):
            raise ValueError("baseline is sampled as it is; set trajectory and refine to null and leave out real")
        if self.real and (self.trajectory or self.refine):
            raise ValueError(f"real = {self.real!r}: real images take no model; set trajectory and refine to null")
        if min(self.steps) < 1:
            raise ValueError(f"steps = {list(self.steps)}: sampling takes at least 1 step")
        last = self.refine or self.trajectory
        trained = getattr(last.objective, "generator_steps", 1 if self.refine else 0) if last else 0
        if trained == 1 and max(self.steps) > 1:
            raise ValueError(f"steps = {list(self.steps)}: an arm with 'refine' is a one-step generator; set steps to [1]")
        if trained and any(trained % steps for steps in self.steps):
            raise ValueError(f"steps = {list(self.steps)}: stage 2 trains {trained} steps, and can take a divisor of them")
        return self


class Recipe(Config):
    """A published method as an arm: every hyper-parameter with where it is from, and what differs from the paper."""

    title: str
    source: str
    differences: str
    arm: Arm
    hyper_parameters: dict[str, str] = Field(description="where values are from, by path in `arm`; a path covers those below")

    @model_validator(mode="after")
    def _every_value_has_a_source(self):
        paths = {".".join(path) for path in leaves(self.arm.model_dump(mode="json"))}

        def covers(key: str, path: str) -> bool:
            return path == key or path.startswith(f"{key}.")

        for key in self.hyper_parameters:
            if not any(covers(key, path) for path in paths):
                raise ValueError(f"hyper_parameters.{key}: the arm has no such value" + nearest(key, paths))
        for path in sorted(paths):
            if not path.endswith("objective.name") and not any(covers(key, path) for key in self.hyper_parameters):
                raise ValueError(f"hyper_parameters: nothing says where arm.{path} is from; add a line")
        return self


class Table(Config):
    """One rendered table: these arms, in this order."""

    caption: str
    rows: tuple[str, ...] = Field(min_length=1)
    against: tuple[str, ...] = Field((), description="arms to which paired differences are shown")


class Tables(Config):
    main: Table
    components: Table
    discriminators: Table
    initialisation: Table
    methods: Table
    cost: Table
    reproducibility: Table
    categories: Table | None = Field(None, description="of suites whose samples have captions")


class Suite(Config):
    """A whole suite; `base` is the full arm that each arm's entry overrides."""

    title: str
    data: Dataset
    classifier: ClassifierStage | None = Field(None, description="of the protocol `classifier`")
    network: Network
    text: Text | None = Field(None, description="how prompts are encoded; labels are then rows of prompts, not classes")
    teacher: Teacher
    evaluation: Evaluation
    seeds: tuple[int, ...] = Field(min_length=1, description="each seed is a complete chain: teacher, TD, stage 2")
    base: Arm
    arms: dict[str, Any] = Field(min_length=1)
    claims: tuple[str, ...] | None = Field(None, description="of workflow/claims.yaml, that the suite is made to judge by its "
                                                             "own numbers; by default all")
    tables: Tables

    directives: ClassVar[tuple[str, ...]] = ("extends", "only")

    @model_validator(mode="after")
    def _seeds_differ(self):
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {list(self.seeds)}: one stands twice; remove it")
        return self


class RunConfig(Config):
    """workflow/config.yaml and what `snakemake --config` puts over it."""

    suite: str
    results: str
    tables: str
    device: str
    sharding: Literal["none", "fsdp2"]
    theory: str
    probes: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One artifact of the DAG: what it is, and the digest of configuration, parents and stage version that keys it."""

    kind: str
    label: str
    config: dict[str, Any]
    parents: dict[str, str]  # role: stage id
    digest: str

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.label}-{self.digest}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One evaluation of one arm: `stages` holds the ids on its chain by kind."""

    arm: str
    seed: int | None  # None: real images belong to no chain
    steps: int
    nfe: int  # network evaluations a sample, both halves of guidance counted
    stages: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All stages of a suite, each once, parents first, and the rows that they serve."""

    name: str
    suite: Suite
    arms: dict[str, Arm]
    sources: tuple[Path, ...]  # the suite's file, those that it extends, and the recipes that it names
    recipes: dict[str, Recipe] = field(default_factory=dict)  # by arm
    declared: dict[str, Arm] = field(default_factory=dict)  # the arms with `equal_total` as it was written
    stages: dict[str, Stage] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that are rendered."""
        return (*TABLES, *(["categories"] if self.suite.tables.categories else []))

    def stage(self, stage_id: str) -> Stage:
        if stage_id not in self.stages:
            raise UserError(f"suite {self.name} has no stage {stage_id}{nearest(stage_id, self.stages)}")
        return self.stages[stage_id]

    def arms_of(self, stage_id: str) -> list[str]:
        """The arms that need a stage, in the suite's order."""
        return list(dict.fromkeys(row.arm for row in self.rows if stage_id in row.stages.values()))


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces, the form that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def merge(base: Any, override: Any) -> Any:
    """Override wins; mappings merge key by key, but one that names another `name` replaces the base's as a whole."""
    if not (isinstance(base, dict) and isinstance(override, dict)):
        return override
    if "name" in override and override["name"] != base.get("name"):
        return override
    return base | {key: merge(base.get(key), value) for key, value in override.items()}


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every value below a mapping that is not itself a mapping, by its path."""
    if not isinstance(value, dict):
        return {path: value}
    return {p: v for key, child in value.items() for p, v in leaves(child, (*path, key)).items()}


def differs(base: Arm, arm: Arm, keys: tuple[str, ...]) -> bool:
    """Whether an arm has another value there than the base, or stands in a mapping that another `name` replaced."""

    def at(config: Config, keys: tuple[str, ...]) -> Any:
        value = config.model_dump(mode="json")
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    return any(at(base, path) != at(arm, path) for path in (keys, *((*keys[:n], "name") for n in range(len(keys)))))


def find_suite(name: str) -> Path:
    """The file of a suite given by name (in workflow/suites) or by path."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    path = SUITES / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"no suite {name!r} in {SUITES}" + nearest(name, (p.stem for p in SUITES.glob("*.yaml"))))
    return path


def read_suite(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's mapping, merged over the suite that it `extends`; `only` keeps some arms."""
    if path in seen:
        raise UserError(f"{path}: extends itself, by way of {', '.join(map(str, seen))}; name another suite")
    data = read_yaml(path)
    parent, only = data.pop("extends", None), data.pop("only", None)
    if parent is not None:
        try:
            file = find_suite(str(parent))
        except UserError as error:
            raise UserError(f"{path}: extends = {parent!r}: {error}") from None
        data = merge(read_suite(file, (*seen, path)), data)
    arms, tables = data.get("arms"), data.get("tables")
    if only is not None and isinstance(arms, dict) and isinstance(tables, dict):  # anything else fails in `validate`
        if not isinstance(only, list) or not only:
            raise UserError(f"{path}: only = {only!r}: must be a list of arms")
        for arm in only:
            if not isinstance(arm, str) or arm not in arms:
                raise UserError(f"{path}: only = {arm!r}: unknown arm" + nearest(arm, arms))
        data["arms"] = {name: value for name, value in arms.items() if name in only}
        for table in tables.values():
            for key in ("rows", "against"):
                if isinstance(table, dict) and isinstance(table.get(key), list):
                    table[key] = [row for row in table[key] if row in only or row not in arms]
    return data


def suite_files(path: Path) -> tuple[Path, ...]:
    """The suite's file and those that it extends; all of them are known to be readable."""
    parent = read_yaml(path).get("extends")
    return (path,) if parent is None else (path, *suite_files(find_suite(str(parent))))


def read_recipe(name: Any, where: str, folder: Path = RECIPES) -> tuple[Path, dict[str, Any], Recipe]:
    """The file of a recipe, its arm as it was written, and the whole of it, validated."""
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise UserError(f"{where}.recipe = {name!r}: no such recipe in {folder}" + nearest(name, known))
    path = folder / f"{name}.yaml"
    data = read_yaml(path)
    return path, data.get("arm"), validate(Recipe, data, str(path))


def load_plan(name: str) -> Plan:
    """Read, validate and plan a suite; every mistake in it is a UserError, before any compute."""
    path = find_suite(name)
    data = read_suite(path)
    suite = validate(Suite, data, str(path))
    arms, recipes, sources = {}, {}, suite_files(path)
    for arm, override in suite.arms.items():
        override = {} if override is None else override
        base, whose = data["base"], "the base"
        if isinstance(override, dict) and "recipe" in override:
            beside = path.parent.parent / RECIPES.name  # a suite is in a folder beside them, or takes those from here
            file, base, recipes[arm] = read_recipe(override["recipe"], f"{path}: arms.{arm}",
                                                   beside if beside.is_dir() else RECIPES)
            override = {key: value for key, value in override.items() if key != "recipe"}
            for keys, value in leaves(override).items():
                if keys[-2:] == ("objective", "name"):
                    raise UserError(f"{path}: arms.{arm}.{'.'.join(keys)} = {value!r}: a recipe's objective stays what it "
                                    "is; leave out recipe, or the name")
            sources, whose = sources + ((file,) if file not in sources else ()), str(file)
        arms[arm] = validate(Arm, merge(base, override), str(path), ("arms", arm))
        for keys, value in leaves(override).items():
            if keys and not differs(recipes[arm].arm if arm in recipes else suite.base, arms[arm], keys):
                raise UserError(f"{path}: arms.{'.'.join((arm, *keys))} = {value!r}: that is {whose}'s value; remove it")
    for table, spec in suite.tables:
        for key in ("rows", "against") if spec else ():
            for row in getattr(spec, key):
                if row not in arms:
                    raise UserError(f"{path}: tables.{table}.{key} = {row!r}: unknown arm" + nearest(row, arms))
    plan = Plan(name=path.stem, suite=suite, arms=arms, sources=sources, recipes=recipes, declared=dict(arms))
    _check(plan, str(path))
    for seed in suite.seeds:
        _Chain(plan, seed, str(path))
    return plan


def _check(plan: Plan, source: str) -> None:
    """Combinations that no single key can see."""
    suite, data = plan.suite, plan.suite.data
    if data.image_size % suite.network.patch:
        raise UserError(f"{source}: network.patch = {suite.network.patch} does not divide the image side "
                        f"{data.image_size}; choose a divisor")
    _check_scale(plan, source)
    if suite.evaluation.protocol == "classifier":
        _check_classifier(suite, source)
    if suite.tables.categories and not suite.text:
        raise UserError(f"{source}: tables.categories: only samples of prompts have categories; remove it")
    if isinstance(suite.text, ClipText):
        _check_training("text.training", suite.text.training, ("contrastive",), source)
    if suite.teacher.training:
        _check_training("teacher.training", suite.teacher.training, ("flow_matching",), source)
    students = tuple(name for name in OBJECTIVES if name not in ("cross_entropy", "contrastive", "flow_matching"))
    for name, arm in {"base": suite.base, **{f"arms.{name}": arm for name, arm in plan.arms.items()}}.items():
        if arm.real and suite.evaluation.protocol != "classifier":
            raise UserError(f"{source}: {name}.real = {arm.real!r}: real images are arms of the protocol classifier alone; "
                            "remove the arm")
        for kind in ("trajectory", "refine"):
            if training := getattr(arm, kind):
                _check_training(f"{name}.{kind}", training, students, source)
                check_head(f"{name}.{kind}.objective", training.objective, suite, source)


def _check_scale(plan: Plan, source: str) -> None:
    """Data, network, text, public files and protocol go together."""
    suite, data, evaluation = plan.suite, plan.suite.data, plan.suite.evaluation
    sana, latents = isinstance(suite.network, SanaConfig), hasattr(data, "autoencoder")
    if sana != bool(suite.text):
        raise UserError(f"{source}: text: belongs to network.name = 'sana', and to no other; add it, or remove it")
    fits = {type(None): bool(data.classes) and not hasattr(DATASETS[data.name], "prompts"),
            TextConfig: getattr(data, "text", False), ClipText: hasattr(DATASETS[data.name], "prompts")}
    if not fits[type(suite.text)]:
        raise UserError(f"{source}: text: not for the data {data.name}; a pipeline encodes images with text: true, a clip the "
                        "data set captions, and classes have none")
    if isinstance(suite.text, ClipText):
        sizes = {"vision_cfg.image_size": data.image_size, "text_cfg.width": suite.network.caption_width}
        for key, value in sizes.items():
            part, _, size = key.partition(".")
            if suite.text.model[part][size] != value:
                raise UserError(f"{source}: text.model.{key} = {suite.text.model[part][size]}: data and network need {value}")
    publics = {"teacher.checkpoint": (suite.network, suite.teacher.checkpoint)}
    publics |= {f"arms.{name}.baseline.checkpoint": (arm.baseline.network, arm.baseline.checkpoint)
                for name, arm in plan.arms.items() if arm.baseline}
    for key, (network, public) in publics.items():
        if public and not (public.format == "sana") == isinstance(network, SanaConfig) == sana:
            raise UserError(f"{source}: {key}.format = {public.format!r}: not of this kind of network; sana goes with "
                            "network.name = 'sana', sit and dit go without a name")
        if data.image_size % network.patch:
            raise UserError(f"{source}: {key}: its network.patch = {network.patch} does not divide the side {data.image_size}")
    if getattr(suite.network, "guidance_input", None):
        raise UserError(f"{source}: network.guidance_input = {suite.network.guidance_input}: such a network has no velocity to "
                        "distil; it can be a baseline alone")
    if bool(evaluation.prompts) != isinstance(suite.text, TextConfig):
        raise UserError(f"{source}: evaluation.prompts: goes with the text of a pipeline, and only with it; add it, or remove "
                        "it")
    if evaluation.protocol == "mjhq30k" and not evaluation.prompts:
        raise UserError(f"{source}: evaluation.protocol = 'mjhq30k': its samples have prompts; name another, or add text and "
                        "evaluation.prompts")
    if (evaluation.protocol == "classifier") == latents:
        raise UserError(f"{source}: evaluation.protocol = {evaluation.protocol!r}: not for the data {data.name}; name another")
    if suite.classifier and latents:
        raise UserError(f"{source}: classifier: belongs to evaluation.protocol = 'classifier'; set it to null")


def _check_classifier(suite: Suite, source: str) -> None:
    """The small suites' protocol: it has its classifier, and enough images and frequencies."""
    data = suite.data
    if suite.classifier is None:
        raise UserError(f"{source}: classifier: this key is missing; add it, or name another evaluation.protocol")
    if suite.evaluation.samples > data.largest_sample:
        raise UserError(f"{source}: evaluation.samples = {suite.evaluation.samples}, but {data.name} has only "
                        f"{data.largest_sample} real images for each side of a comparison; lower it")
    if suite.evaluation.neighbours >= suite.evaluation.samples:
        raise UserError(f"{source}: evaluation.neighbours = {suite.evaluation.neighbours}: must be below "
                        f"evaluation.samples = {suite.evaluation.samples}")
    if suite.evaluation.bands > data.image_size // 2:
        raise UserError(f"{source}: evaluation.bands = {suite.evaluation.bands}, but images of side {data.image_size} have "
                        f"only {data.image_size // 2} frequencies; lower it")
    _check_training("classifier.training", suite.classifier.training, ("cross_entropy",), source)


def _check_training(key: str, training: Training, objectives: tuple[str, ...], source: str) -> None:
    """The objective is one for this stage, and the number of steps can be known."""
    name = training.objective.name
    if name not in objectives:
        raise UserError(f"{source}: {key}.objective.name = {name!r}: not for this stage" + nearest(name, objectives))
    if not isinstance(training.steps, int) and not key.startswith("arms."):
        raise UserError(f"{source}: {key}.steps = {training.steps.model_dump()}: must be an integer; equal_total is for arms")


def check_head(key: str, objective: Any, suite: Suite, source: str) -> None:
    """The discriminator's blocks exist, and a head of the wished size can be built."""
    gan = getattr(objective, "gan", None)
    for block in gan.blocks if gan else ():
        if not 1 <= block <= suite.network.depth:
            raise UserError(f"{source}: {key}.gan.blocks = {list(gan.blocks)}: the network has blocks 1 to "
                            f"{suite.network.depth}")
    if gan and objective.discriminator != "none":
        try:
            with torch.device("meta"):
                build_head(objective.discriminator, layers=len(gan.blocks), width=suite.network.width,
                           grid=suite.data.image_size // suite.network.patch, parameters=gan.parameters)
        except ValueError as error:
            raise UserError(f"{source}: {key}.gan.parameters = {gan.parameters}: {error}") from None


def sampler(objective: Any) -> str:
    """How a network of this objective samples: its module's `sampler` of the configuration, or `SAMPLER`."""
    module = OBJECTIVES[objective.name]
    return module.sampler(objective) if hasattr(module, "sampler") else module.SAMPLER


def cost_per_step(plan: Plan, training: Training) -> float:
    """Forward-equivalents of one training step: the objective's own count a sample, times the batch."""
    terms = OBJECTIVES[training.objective.name].forward_equivalents(
        training.objective, plan.suite.network.depth, plan.suite.teacher.guidance != 1.0)
    return training.batch * sum(terms.values())


def pairs_of(training: Training) -> Pairs | None:
    """The teacher's ODE pairs that an objective, or the regulariser of stage 2, needs."""
    objective = training.objective
    return getattr(objective, "pairs", None) or getattr(getattr(objective, "regulariser", None), "pairs", None)


def pairs_cost(pairs: Pairs, guided: bool) -> int:
    """Forward-equivalents of making them: each Euler step is one forward, two with guidance."""
    return pairs.count * pairs.steps * (2 if guided else 1)


def total_cost(plan: Plan, arm: Arm) -> float:
    """Forward-equivalents of the arm's own training: pairs, trajectory and refine, without the teacher that all share."""
    trained = [training for training in (arm.trajectory, arm.refine) if training]
    pairs = {pairs for training in trained if (pairs := pairs_of(training))}
    return (sum(training.steps * cost_per_step(plan, training) for training in trained)
            + sum(pairs_cost(each, plan.suite.teacher.guidance != 1.0) for each in pairs))


def resolve_steps(plan: Plan, name: str, source: str) -> Arm:
    """The arm with `equal_total` replaced by the number of steps that comes nearest to that budget."""
    arm = plan.arms[name]
    kinds = [kind for kind in ("trajectory", "refine") if (training := getattr(arm, kind)) and
             isinstance(training.steps, EqualTotal)]
    if not kinds:
        return arm
    kind = kinds[0]
    training = getattr(arm, kind)
    other = training.steps.equal_total
    where = f"{source}: arms.{name}.{kind}.steps.equal_total = {other!r}"
    if len(kinds) > 1:
        raise UserError(f"{where}: and that of refine too; one of them must be a number")
    if other not in plan.arms:
        of_recipe = f" (it is in {RECIPES}/{plan.suite.arms[name]['recipe']}.yaml)" if name in plan.recipes else ""
        raise UserError(f"{where}: unknown arm{of_recipe}" + nearest(other, plan.arms))
    target = plan.arms[other]
    if any(t and isinstance(t.steps, EqualTotal) for t in (target.trajectory, target.refine)):
        raise UserError(f"{where}: that arm's steps are not a number")

    def with_steps(steps: int) -> Arm:
        return arm.model_copy(update={kind: training.model_copy(update={"steps": steps})})

    steps = round((total_cost(plan, target) - total_cost(plan, with_steps(0))) / cost_per_step(plan, training))
    if steps < 1:
        raise UserError(f"{source}: arms.{name}: the compute of {other!r} leaves no step for {kind}")
    return with_steps(steps)


class _Origin(NamedTuple):
    """What an arm starts from: a stage, what its students and its samples are called by, its sampler and its network."""

    stage: Stage
    start: str
    label: str
    sampler: str
    network: dict[str, Any]


def version_of(kind: str, label: str) -> int:
    """Of the results of a stage; `label` is a data set's name where its kind is data."""
    return getattr(DATASETS[label], "VERSION", VERSIONS[kind]) if kind == "data" else VERSIONS[kind]


@dataclass
class _Chain:
    """One seed's stages and rows; equal stages of different arms, seeds and suites have one digest and meet in the plan."""

    plan: Plan
    seed: int
    source: str

    def __post_init__(self):
        suite = self.plan.suite
        self.guidance = {"guidance": suite.teacher.guidance, "guidance_interval": list(suite.teacher.guidance_interval)}
        self.data = self.add("data", suite.data.name, _dump(suite.data))
        self.measured, self.measuring = self.measurement()
        self.conditions = self.text()
        for name in self.plan.arms:
            arm = self.plan.arms[name] = resolve_steps(self.plan, name, self.source)
            self.real(name, arm) if arm.real else self.model(name, arm)

    def add(self, kind: str, label: str, config: dict[str, Any], **parents: Stage) -> Stage:
        key = {"kind": kind, "version": version_of(kind, label), "config": config,
               "parents": {role: parent.digest for role, parent in parents.items()}}
        stage = Stage(kind=kind, label=label, config=config, parents={r: p.id for r, p in parents.items()},
                      digest=digest_of(key))
        self.plan.stages.setdefault(stage.id, stage)
        return stage

    def measurement(self) -> tuple[dict[str, Any], dict[str, Stage]]:
        """Configuration of `evaluate`, and its parents beside the samples."""
        suite, wanted = self.plan.suite, self.plan.suite.evaluation
        if not (c := suite.classifier):
            config = {"protocol": wanted.protocol, "weights": wanted.weights}
            return config, {"reference": self.add("reference", wanted.protocol, config | {"reference": wanted.reference})}
        classifier = self.add("classifier", suite.data.name,
                              {"network": _dump(c.network), "seed": c.seed, **_dump(c.training)}, data=self.data)
        reference = self.add("reference", suite.data.name, {"samples": wanted.samples, "bands": wanted.bands},
                             data=self.data, classifier=classifier)
        return {"neighbours": wanted.neighbours}, {"reference": reference, "classifier": classifier}

    def text(self) -> dict[str, Stage]:
        """The parent that networks with prompts need; a suite's own CLIP also measures."""
        text = self.plan.suite.text
        if isinstance(text, ClipText):
            config = {"model": text.model, "seed": text.seed, **_dump(text.training)}
            clip = {split: self.add("clip", split, {"split": split, **config}, data=self.data) for split in ("train", "score")}
            self.measuring |= {"clip": clip["score"], "data": self.data}
            return {"text": self.add("text", "clip", {}, data=self.data, clip=clip["train"])}
        config = {"prompts": self.plan.suite.evaluation.prompts}
        return {"text": self.add("text", "pipeline", config | _dump(text), data=self.data)} if text else {}

    def origin(self, arm: Arm) -> _Origin:
        """The teacher, trained or public, or an arm's own public network."""
        suite, network = self.plan.suite, _dump(self.plan.suite.network)
        if (own := arm.baseline):
            network = _dump(own.network)
            stage = self.add("teacher", own.checkpoint.format, {"network": network, "checkpoint": _dump(own.checkpoint)})
            return _Origin(stage, "", f"baseline-{stage.label}", "consistency", network)
        if (public := suite.teacher.checkpoint):
            stage = self.add("teacher", public.format, {"network": network, "checkpoint": _dump(public)})
            return _Origin(stage, f"{public.format}-s{self.seed}", f"teacher-{stage.label}", "ode", network)
        training = suite.teacher.training
        stage = self.add("teacher", f"s{self.seed}", {"network": network, "seed": self.seed, **_dump(training)},
                         data=self.data, **self.conditions)
        return _Origin(stage, stage.label, f"teacher-{stage.label}", sampler(training.objective), network)

    def real(self, name: str, arm: Arm) -> None:
        """The row of real images."""
        evaluation = self.plan.suite.evaluation
        sample = self.add("sample", f"real-{arm.real}", {"samples": evaluation.samples, "split": arm.real}, source=self.data)
        self.row(name, None, 0, 0, {}, sample)

    def model(self, name: str, arm: Arm) -> None:
        """Training stages of an arm, and the rows of its numbers of sampling steps."""
        origin, evaluation = self.origin(arm), self.plan.suite.evaluation
        student, label, sampled, stages = origin.stage, origin.label, origin.sampler, {"teacher": origin.stage.id}
        for kind, training in (("trajectory", arm.trajectory), ("refine", arm.refine)):
            if training is not None:
                sampled, objective = sampler(training.objective), training.objective
                start = student.label if kind == "refine" and student is not origin.stage else origin.start
                label = "-".join(filter(None, (objective.name, getattr(objective, "discriminator", None), start)))
                student = self.trained(name, kind, label, training, origin, student, stages)
                stages[kind] = student.id
        teacher = student is origin.stage and not arm.baseline
        config = {"samples": evaluation.samples, "seed": evaluation.seed, "sampler": sampled}
        config |= self.guidance if teacher else {}
        for steps in arm.steps:
            times = {"times": list(arm.baseline.times[steps])} if arm.baseline and steps in arm.baseline.times else {}
            sample = self.add("sample", f"{label}-{steps}step", {**config, "steps": steps, "network": origin.network, **times},
                              source=student, **self.conditions)
            guided = teacher and self.plan.suite.teacher.guidance != 1.0
            self.row(name, self.seed, steps, steps * (2 if guided else 1), stages, sample)

    def trained(self, name: str, kind: str, label: str, training: Training, origin: _Origin, student: Stage,
                stages: dict[str, str]) -> Stage:
        """A training stage; the teacher's pairs, if it needs them, go into `stages`."""
        if training.steps < (least := getattr(training.objective, "rounds", 1)):
            raise UserError(f"{self.source}: arms.{name}.{kind}.steps = {training.steps}: its objective has {least} rounds; "
                            "give it at least a step for each")
        config = {"network": origin.network, "seed": self.seed, **self.guidance}
        parents = {"data": self.data, "teacher": origin.stage, "student": student, **self.conditions}
        if (pairs := pairs_of(training)):
            with_prompts = {"data": self.data, **self.conditions} if self.conditions else {}
            parents["pairs"] = self.add("pairs", f"{pairs.steps}step-s{self.seed}", config | _dump(pairs),
                                        teacher=origin.stage, **with_prompts)
            stages[f"{kind}_pairs"] = parents["pairs"].id
        return self.add(kind, label, config | _dump(training), **parents)

    def row(self, name: str, seed: int | None, steps: int, nfe: int, stages: dict[str, str], sample: Stage) -> None:
        evaluate = self.add("evaluate", sample.label, self.measured, sample=sample, **self.measuring)
        row = Row(arm=name, seed=seed, steps=steps, nfe=nfe, stages=stages | {"sample": sample.id, "evaluate": evaluate.id})
        if row not in self.plan.rows:
            self.plan.rows.append(row)


def _dump(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json")
