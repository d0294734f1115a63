"""One seed's stages and rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from hdbench.core.config import Config
from hdbench.core.errors import UserError
from hdbench.core.files import digest_of
from hdbench.datasets import DATASETS
from hdbench.suite.budget import resolve_steps
from hdbench.suite.plan import Plan, Row
from hdbench.suite.schema import Arm, ClipText, Training
from hdbench.suite.stage import VERSIONS, Stage


class _Origin(NamedTuple):
    """What an arm starts from: a stage, what its students and its samples are called by, its sampler and its network."""

    stage: Stage
    start: str
    label: str
    sampler: str
    network: dict[str, Any]


def version_of(kind: str, label: str) -> int:
    """Of the results of a stage; `label` is a data set's name where its kind is data."""
    return VERSIONS[kind] + (DATASETS[label].version - 1 if kind == "data" else 0)


@dataclass
class _Chain:
    """One seed's stages and rows; equal stages of different arms, seeds and suites have one digest and meet in the plan."""

    plan: Plan
    seed: int
    source: str

    def __post_init__(self):
        suite = self.plan.suite
        self.guidance = {
            "guidance": suite.teacher.guidance,
            "guidance_interval": list(suite.teacher.guidance_interval),
        }
        self.data = self.add("data", suite.data.name, _dump(suite.data))
        self.measured, self.measuring = self.measurement()
        self.conditions = self.text()
        for name in self.plan.arms:
            arm = self.plan.arms[name] = resolve_steps(self.plan, name, self.source)
            self.real(name, arm) if arm.real else self.model(name, arm)

    def add(self, kind: str, label: str, config: dict[str, Any], **parents: Stage) -> Stage:
        key = {
            "kind": kind,
            "version": version_of(kind, label),
            "config": config,
            "parents": {role: parent.digest for role, parent in parents.items()},
        }
        stage = Stage(
            kind=kind,
            label=label,
            config=config,
            parents={r: p.id for r, p in parents.items()},
            digest=digest_of(key),
        )
        self.plan.stages.setdefault(stage.id, stage)
        return stage

    def measurement(self) -> tuple[dict[str, Any], dict[str, Stage]]:
        """Configuration of `evaluate`, and its parents beside the samples."""
        suite, wanted = self.plan.suite, self.plan.suite.evaluation
        if not (c := suite.classifier):
            config = {"protocol": wanted.protocol, "weights": wanted.weights}
            return config, {
                "reference": self.add(
                    "reference", wanted.protocol, config | {"reference": wanted.reference}
                )
            }
        classifier = self.add(
            "classifier",
            suite.data.name,
            {"network": _dump(c.network), "seed": c.seed, **_dump(c.training)},
            data=self.data,
        )
        reference = self.add(
            "reference",
            suite.data.name,
            {"samples": wanted.samples, "bands": wanted.bands},
            data=self.data,
            classifier=classifier,
        )
        return {"neighbours": wanted.neighbours}, {"reference": reference, "classifier": classifier}

    def text(self) -> dict[str, Stage]:
        """The parent that networks with prompts need; a suite's own CLIP also measures."""
        text = self.plan.suite.text
        if isinstance(text, ClipText):
            config = {"model": text.model, "seed": text.seed, **_dump(text.training)}
            clip = {
                split: self.add("clip", split, {"split": split, **config}, data=self.data)
                for split in ("train", "score")
            }
            self.measuring |= {"clip": clip["score"], "data": self.data}
            return {"text": self.add("text", "clip", {}, data=self.data, clip=clip["train"])}
        config = {"prompts": self.plan.suite.evaluation.prompts}
        return (
            {"text": self.add("text", "pipeline", config | _dump(text), data=self.data)}
            if text
            else {}
        )

    def origin(self, arm: Arm) -> _Origin:
        """The teacher, trained or public, or an arm's own public network."""
        suite, network = self.plan.suite, _dump(self.plan.suite.network)
        if own := arm.baseline:
            network = _dump(own.network)
            stage = self.add(
                "teacher",
                own.checkpoint.format,
                {"network": network, "checkpoint": _dump(own.checkpoint)},
            )
            return _Origin(stage, "", f"baseline-{stage.label}", "consistency", network)
        if public := suite.teacher.checkpoint:
            stage = self.add(
                "teacher", public.format, {"network": network, "checkpoint": _dump(public)}
            )
            return _Origin(
                stage, f"{public.format}-s{self.seed}", f"teacher-{stage.label}", "ode", network
            )
        training = suite.teacher.training
        stage = self.add(
            "teacher",
            f"s{self.seed}",
            {"network": network, "seed": self.seed, **_dump(training)},
            data=self.data,
            **self.conditions,
        )
        return _Origin(
            stage, stage.label, f"teacher-{stage.label}", training.objective.sampler(), network
        )

    def real(self, name: str, arm: Arm) -> None:
        """The row of real images."""
        evaluation = self.plan.suite.evaluation
        sample = self.add(
            "sample",
            f"real-{arm.real}",
            {"samples": evaluation.samples, "split": arm.real},
            source=self.data,
        )
        self.row(name, None, 0, 0, {}, sample)

    def model(self, name: str, arm: Arm) -> None:
        """Training stages of an arm, and the rows of its numbers of sampling steps."""
        origin, evaluation = self.origin(arm), self.plan.suite.evaluation
        student, label, sampled, stages = (
            origin.stage,
            origin.label,
            origin.sampler,
            {"teacher": origin.stage.id},
        )
        for kind, training in (("trajectory", arm.trajectory), ("refine", arm.refine)):
            if training is not None:
                sampled, objective = training.objective.sampler(), training.objective
                start = (
                    student.label
                    if kind == "refine" and student is not origin.stage
                    else origin.start
                )
                label = "-".join(
                    filter(None, (objective.name, (objective.head() or (None,))[0], start))
                )
                student = self.trained(name, kind, label, training, origin, student, stages)
                stages[kind] = student.id
        teacher = student is origin.stage and not arm.baseline
        config = {"samples": evaluation.samples, "seed": evaluation.seed, "sampler": sampled}
        config |= self.guidance if teacher else {}
        for steps in arm.steps:
            times = (
                {"times": list(arm.baseline.times[steps])}
                if arm.baseline and steps in arm.baseline.times
                else {}
            )
            sample = self.add(
                "sample",
                f"{label}-{steps}step",
                {**config, "steps": steps, "network": origin.network, **times},
                source=student,
                **self.conditions,
            )
            guided = teacher and self.plan.suite.teacher.guidance != 1.0
            self.row(name, self.seed, steps, steps * (2 if guided else 1), stages, sample)

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
        if training.steps < (least := training.objective.rounds()):
            raise UserError(
                f"{self.source}: arms.{name}.{kind}.steps = {training.steps}: its objective has {least} rounds; "
                "give it at least a step for each"
            )
        config = {"network": origin.network, "seed": self.seed, **self.guidance}
        parents = {
            "data": self.data,
            "teacher": origin.stage,
            "student": student,
            **self.conditions,
        }
        if pairs := training.objective.pairs_needed():
            with_prompts = {"data": self.data, **self.conditions} if self.conditions else {}
            parents["pairs"] = self.add(
                "pairs",
                f"{pairs.steps}step-s{self.seed}",
                config | _dump(pairs),
                teacher=origin.stage,
                **with_prompts,
            )
            stages[f"{kind}_pairs"] = parents["pairs"].id
        return self.add(kind, label, config | _dump(training), **parents)

    def row(
        self,
        name: str,
        seed: int | None,
        steps: int,
        nfe: int,
        stages: dict[str, str],
        sample: Stage,
    ) -> None:
        evaluate = self.add(
            "evaluate", sample.label, self.measured, sample=sample, **self.measuring
        )
        row = Row(
            arm=name,
            seed=seed,
            steps=steps,
            nfe=nfe,
            stages=stages | {"sample": sample.id, "evaluate": evaluate.id},
        )
        if row not in self.plan.rows:
            self.plan.rows.append(row)


def _dump(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json")
