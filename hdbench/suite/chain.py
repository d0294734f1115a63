"""One seed's stages and rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from hdbench.core.errors import UserError
from hdbench.evaluation.protocols import BESIDE, PROTOCOLS
from hdbench.flow.guidance import Guidance
from hdbench.metrics import METRICS
from hdbench.suite.arms import is_teacher
from hdbench.suite.budget import resolve_steps
from hdbench.suite.measuring import measuring
from hdbench.suite.plan import Plan, Row
from hdbench.suite.schema import Arm, Network
from hdbench.suite.stage import (
    AutoencoderStage,
    CheckpointStage,
    ClassifierStage,
    ClipStage,
    ClipTextStage,
    DataStage,
    DistillStage,
    EvaluateStage,
    LatentsStage,
    MetricsStage,
    PairsStage,
    ProtocolReferenceStage,
    ProtocolStage,
    RealStage,
    SampleStage,
    SensitivityStage,
    Stage,
    StageConfig,
    TeacherStage,
    TextStage,
    metrics_of,
    without_unread,
)
from hdbench.suite.training import ClipText, Training


class _Origin(NamedTuple):
    """What an arm starts from: the teacher, or its own public network."""

    stage: Stage
    start: str  # in the labels of its students
    label: str  # of its own samples
    sampler: str
    network: Network
    public: bool  # one network for all chains


@dataclass
class Chain:
    """Adds one seed's stages and rows to the plan, where equal stages of arms and seeds meet."""

    plan: Plan
    seed: int
    source: str
    stage2_seed: int | None = None  # of stage 2 alone: arms without one are the chain's

    def __post_init__(self):
        self.suite = suite = self.plan.suite.of_chain(self.teacher_seed)
        self.shape = suite.shape
        self.data = self.add("data", suite.data.name, DataStage(dataset=suite.data))
        self.measured, self.measuring = self.measurement()
        self.encoder = self.autoencoder()
        self.conditions = self.text()
        self.sensitivity()
        for name in self.plan.arms:
            arm = self.plan.arms[name] = resolve_steps(self.plan, name, self.source)
            if self.stage2_seed is not None and not arm.refine:
                continue
            self.real(name, arm) if arm.real else self.model(name, arm)

    @property
    def teacher_seed(self) -> int:
        """The seed of the teacher and of what measures: the chain's own, or one for all chains."""
        fixed = self.plan.suite.teacher.seed
        return self.seed if fixed is None else fixed

    @property
    def row_seed(self) -> int:
        """The seed that rows are known by, and that stage 2 draws from."""
        return self.seed if self.stage2_seed is None else self.stage2_seed

    def add(self, kind: str, label: str, config: StageConfig, **parents: Stage) -> Stage:
        """A stage of the plan; one that is there already stays."""
        stage = Stage.of(kind, label, config, parents)
        return self.plan.stages.setdefault(stage.id, stage)

    def measurement(self) -> tuple[StageConfig, dict[str, Stage]]:
        """Configuration of `evaluate`, and its parents beside the samples."""
        suite = self.suite
        wanted = suite.evaluation
        if not suite.classifier:
            of_protocol = self.by_protocol(wanted.protocol)
            named = {"protocol": of_protocol.protocol, "weights": of_protocol.weights}
            config = ProtocolReferenceStage(**named, reference=wanted.reference)
            reference = self.add("reference", wanted.protocol, config)
            return of_protocol, {"reference": reference}
        parents = measuring(suite)
        for stage in parents.values():
            self.plan.stages.setdefault(stage.id, stage)
        return EvaluateStage(neighbours=wanted.neighbours), parents

    def sensitivity(self) -> None:
        """The stage of planted changes, of the suites that ask for it; of their first chain."""
        wanted = self.suite.evaluation
        if wanted.sensitivity and self.seed == self.suite.seeds[0]:
            metrics = (*PROTOCOLS[wanted.protocol].metrics, *wanted.metrics)
            config = SensitivityStage(
                metrics=tuple(name for name in metrics if not METRICS[name].paired),
                neighbours=wanted.neighbours,
                samples=min(wanted.sensitivity, wanted.samples),
            )
            self.add("sensitivity", self.suite.data.name, config, **measuring(self.suite))

    def autoencoder(self) -> dict[str, Stage]:
        """The parent that turns latents into images, if the suite trains one."""
        wanted = self.suite.autoencoder
        if not wanted:
            return {}
        config = AutoencoderStage(
            network=wanted.network,
            shape=self.suite.data_shape.model_copy(update={"classes": None}),  # it reads none
            seed=wanted.seed,
            training=wanted.training,
        )
        label = self.suite.data.name
        return {"autoencoder": self.add("autoencoder", label, config, data=self.data)}

    def trained_on(self) -> dict[str, Stage]:
        """The parents from which networks take their rows: images, or latents of them; prompts."""
        parents = {"data": self.data, **self.conditions}
        if self.encoder:
            label = self.suite.data.name
            of_images = {"data": self.data, **self.encoder}
            parents["latents"] = self.add("latents", label, LatentsStage(), **of_images)
        return parents

    def critics_classifier(self, key: str) -> Stage:
        """A classifier as the one that measures, of the next seed."""
        classifier = self.suite.classifier
        if not classifier or not self.shape.classes or self.encoder:
            raise UserError(
                f"{self.source}: {key}.objective: it reads a classifier of labels, and the suite "
                "trains none, or not of what its networks see; choose another objective"
            )
        config = ClassifierStage(
            network=classifier.network, seed=classifier.seed + 1, training=classifier.training
        )
        return self.add("classifier", f"{self.suite.data.name}-critic", config, data=self.data)

    def text(self) -> dict[str, Stage]:
        """The parent that networks with prompts need; a suite's own CLIP also measures."""
        text = self.suite.text
        if isinstance(text, ClipText):
            settings = {"model": text.model, "seed": text.seed, "training": text.training}
            clip = {
                split: self.add("clip", split, ClipStage(**settings, split=split), data=self.data)
                for split in ("train", "score")
            }
            self.measuring |= {"clip": clip["score"]}
            parents = {"data": self.data, "clip": clip["train"]}
            return {"text": self.add("text", "clip", ClipTextStage(), **parents)}
        if not text:
            return {}
        config = TextStage(encoder=text, prompts=self.suite.evaluation.prompts)
        stage = self.add("text", "pipeline", config, data=self.data)
        self.measuring |= {"text": stage}
        return {"text": stage}

    def origin(self, arm: Arm) -> _Origin:
        """The teacher, trained or public, or an arm's own public network."""
        suite = self.suite
        public = arm.baseline.checkpoint if arm.baseline else suite.teacher.checkpoint
        network = arm.baseline.network if arm.baseline else suite.network
        if public:
            config = CheckpointStage(network=network, shape=self.shape, checkpoint=public)
            stage = self.add("teacher", public.format, config)
            if arm.baseline:
                return _Origin(stage, "", f"baseline-{stage.label}", "consistency", network, True)
            start = f"{stage.label}-s{self.seed}"
            return _Origin(stage, start, f"teacher-{stage.label}", "ode", network, True)
        training = suite.teacher.training
        seed = self.teacher_seed
        config = TeacherStage(network=network, shape=self.shape, seed=seed, training=training)
        stage = self.add("teacher", f"s{seed}", config, **self.trained_on())
        start = stage.label if seed == self.seed else f"{stage.label}-s{self.seed}"
        sampler = training.objective.sampler()
        return _Origin(stage, start, f"teacher-{stage.label}", sampler, network, False)

    def real(self, name: str, arm: Arm) -> None:
        """The row of real images."""
        config = RealStage(samples=self.suite.evaluation.samples, split=arm.real)
        through = self.encoder if arm.autoencoded else {}
        label = f"real-{arm.real}{'-autoencoded' if through else ''}"
        sample = self.add("sample", label, config, source=self.data, **through)
        of_chain = self.suite.splits == "chain" and self.suite.teacher.seed is None
        self.row(name, self.seed if of_chain else None, 0, 0, {}, sample)

    def model(self, name: str, arm: Arm) -> None:
        """Training stages of an arm, and the rows of its numbers of sampling steps."""
        origin = self.origin(arm)
        suite = self.suite
        student = origin.stage
        label = origin.label
        sampled = origin.sampler
        stages = {"teacher": origin.stage.id}
        for kind, training in (("trajectory", arm.trajectory), ("refine", arm.refine)):
            if training is not None:
                objective = training.objective
                sampled = objective.sampler()
                head, _ = objective.head() or (None, None)
                start = origin.start if student is origin.stage else student.label
                alone = kind == "refine" and self.stage2_seed is not None
                further = f"r{self.stage2_seed}" if alone else None
                label = "-".join(filter(None, (objective.name, head, start, further)))
                student = self.trained(name, kind, label, training, origin, student, stages)
                stages[kind] = student.id
        teacher = student is origin.stage and not arm.baseline
        guidance = suite.teacher.guidance if teacher else None
        if arm.sampling:
            guidance = arm.sampling.guidance or guidance
            label = f"{name}-{label}"
        # of a public network one set serves all chains: it takes longest to make
        once = student is origin.stage and origin.public
        chain = suite.seeds[0] if once else self.row_seed
        for steps in arm.steps:
            config = self.sampling(arm, sampled, steps, origin.network, guidance, chain)
            parents = {"source": student, **self.conditions, **self.encoder}
            sample = self.add("sample", f"{label}-{steps}step", config, **parents)
            nfe = sum(evaluations for evaluations, _ in config.calls)
            followed = None if arm.baseline or arm.refine else origin
            self.row(name, self.row_seed, steps, nfe, stages, sample, followed)

    def sampling(
        self,
        arm: Arm,
        sampled: str,
        steps: int,
        network: Network,
        guidance: Guidance | None,
        chain: int,
    ) -> SampleStage:
        """How an arm's images are made with so many steps, from the noises of a chain."""
        evaluation = self.suite.evaluation
        data = self.suite.data
        return SampleStage(
            network=network,
            shape=self.shape,
            sampler=sampled,
            samples=evaluation.samples,
            steps=steps,
            seed=evaluation.seed,
            chain=chain,
            batch=evaluation.batch,
            guidance=guidance,
            times=arm.baseline.times.get(steps) if arm.baseline else None,
            autoencoder=data.autoencoder if data.stored == "latents" else None,
            pictures=data.stored == "latents" and data.autoencoder is None,
            # its guidance is the stage's own
            sampling=arm.sampling and arm.sampling.model_copy(update={"guidance": None}),
            compile=evaluation.compile,
        )

    def teacher_sample(self, origin: _Origin) -> Stage:
        """The teacher's own samples with most steps; all arms have the same noises and labels."""
        teachers = [arm for arm in self.plan.declared.values() if is_teacher(arm)]
        arm = max(teachers, key=lambda arm: max(arm.steps))
        steps = max(arm.steps)
        guidance = self.suite.teacher.guidance
        config = self.sampling(arm, origin.sampler, steps, origin.network, guidance, self.seed)
        parents = {"source": origin.stage, **self.conditions, **self.encoder}
        return self.add("sample", f"{origin.label}-{steps}step", config, **parents)

    def trained(
        self,
        name: str,
        kind: str,
        label: str,
        training: Training,
        origin: _Origin,
        student: Stage,
        stages: dict[str, str],
    ) -> Stage:
        """A training stage; the teacher's pairs, if it needs them, go into `stages`."""
        if training.planned_steps < (least := training.objective.rounds()):
            raise UserError(
                f"{self.source}: arms.{name}.{kind}.steps = {training.steps}: its objective has "
                f"{least} rounds; give it at least a step for each"
            )
        common = self.trained_on()
        parents = {"teacher": origin.stage, "student": student, **common}
        shared = {
            "network": origin.network,
            "shape": self.shape,
            "guidance": self.suite.teacher.guidance,
            "seed": self.seed,
        }
        if pairs := training.objective.pairs_needed():
            batch = self.suite.evaluation.batch
            config = PairsStage(**shared, count=pairs.count, steps=pairs.steps, batch=batch)
            prompts = common if self.conditions else {}
            label_of_pairs = f"{pairs.steps}step-s{self.seed}"
            parents["pairs"] = self.add(
                "pairs", label_of_pairs, config, teacher=origin.stage, **prompts
            )
            stages[f"{kind}_pairs"] = parents["pairs"].id
        if training.objective.reads_classifier:
            parents["classifier"] = self.critics_classifier(f"arms.{name}.{kind}")
        shared["seed"] = self.row_seed if kind == "refine" else self.seed
        for going_on in training.stages:
            if not going_on.span:
                raise UserError(
                    f"{self.source}: arms.{name}.{kind}.stops = {list(training.stops)}: of "
                    f"{training.planned_steps} steps one of its stages has none; give other shares"
                )
            config = DistillStage(**shared, training=without_unread(going_on))
            parents["begun"] = stage = self.add(kind, label, config, **parents)
        return stage

    def further_metrics(self) -> dict[str, StageConfig]:
        """What measures the metrics that a suite names beside its protocol's: an artifact each.

        By group, or with a named protocol by the further protocol that has them.
        """
        wanted = self.suite.evaluation
        if not self.suite.classifier:
            names = dict.fromkeys(BESIDE[name] for name in wanted.metrics)
            return {name: self.by_protocol(name) for name in names}
        groups: dict[str, tuple[str, ...]] = {}
        for name in wanted.metrics:
            group = METRICS[name].group
            groups[group] = (*groups.get(group, ()), name)
        return {
            group: MetricsStage(metrics=names, neighbours=wanted.neighbours)
            for group, names in groups.items()
        }

    def parents_beside(self, config: StageConfig, parents: dict[str, Stage]) -> dict[str, Stage]:
        """Those of the protocol's parents that a further evaluation has too."""
        if not isinstance(config, ProtocolStage):
            return dict(parents)
        roles = ("sample", "text") if PROTOCOLS[config.protocol].prompts else ("sample",)
        return {role: parents[role] for role in roles}

    def by_protocol(self, name: str) -> ProtocolStage:
        """The stage that measures a named protocol, with the weights that it needs."""
        wanted = self.suite.evaluation
        roles = PROTOCOLS[name].networks
        weights = {role: path for role, path in wanted.weights.items() if role in roles}
        return ProtocolStage(protocol=name, weights=weights, samples=wanted.samples)

    def row(
        self,
        name: str,
        seed: int | None,
        steps: int,
        nfe: int,
        stages: dict[str, str],
        sample: Stage,
        followed: _Origin | None = None,
    ) -> None:
        """A row with its evaluations; `followed` is the teacher whose samples its own should be."""
        parents = {"sample": sample, **self.measuring}
        measured = {"evaluate": self.add("evaluate", sample.label, self.measured, **parents)}
        for group, config in self.further_metrics().items():
            of_group = self.parents_beside(config, parents)
            if any(METRICS[name].paired for name in metrics_of(config)):
                if followed is None:
                    continue
                of_group["teacher"] = self.teacher_sample(followed)
            label = f"{sample.label}-{group}"
            measured[f"evaluate {group}"] = self.add("evaluate", label, config, **of_group)
        of_row = {"sample": sample} | measured
        ids = stages | {kind: stage.id for kind, stage in of_row.items()}
        row = Row(arm=name, seed=seed, steps=steps, nfe=nfe, stages=ids)
        rows = self.plan.rows if self.stage2_seed is None else self.plan.further
        if row not in rows:
            rows.append(row)
