"""Checks of a suite that no single key can make."""

from __future__ import annotations

import functools

import torch

from hdbench.core.config import nearest
from hdbench.core.errors import UserError
from hdbench.evaluation.protocols import BESIDE, PROTOCOLS
from hdbench.methods import OBJECTIVES
from hdbench.methods.base import Objective
from hdbench.methods.discriminators import build_head
from hdbench.methods.distribution.representation import Representation
from hdbench.metrics import METRICS, metric_of
from hdbench.networks.config import SanaConfig
from hdbench.networks.text import TextConfig
from hdbench.suite.arms import is_teacher
from hdbench.suite.checks_of_expected import check_expected
from hdbench.suite.limits import check_sizes
from hdbench.suite.plan import Plan
from hdbench.suite.schema import Suite
from hdbench.suite.training import ClipText, Training


def _check_stage2_seeds(suite: Suite, source: str) -> None:
    """Further seeds are of a chain that there is, and differ from all others."""
    for chain in suite.stage2_seeds:
        if chain not in suite.seeds:
            raise UserError(
                f"{source}: stage2_seeds.{chain}: not one of the seeds {list(suite.seeds)}; name "
                "the chain whose teacher they share"
            )
    further = [seed for seeds in suite.stage2_seeds.values() for seed in seeds]
    if len({*suite.seeds, *further}) < len(suite.seeds) + len(further):
        raise UserError(
            f"{source}: stage2_seeds: of {further} one appears twice, or is a chain's; choose "
            "another"
        )


def _check_tuning(suite: Suite, source: str) -> None:
    """What settings are chosen by is measured, and one of its ends is better."""
    if not suite.tuning:
        return
    criterion = suite.tuning.criterion
    evaluation = suite.evaluation
    measured = (*PROTOCOLS[evaluation.protocol].metrics, *evaluation.metrics)
    kind = metric_of(criterion)
    if kind is None or kind.name not in measured or not kind.better:
        known = [name for name in measured if METRICS[name].better]
        raise UserError(
            f"{source}: tuning.criterion = {criterion!r}: the suite measures nothing of that name "
            "by which settings are better" + nearest(criterion, known)
        )


def check(plan: Plan, source: str) -> None:
    """UserError for the first combination of keys that cannot be; `source` is the suite's file."""
    suite = plan.suite
    check_sizes(plan, source)
    _check_autoencoder(plan, source)
    if suite.shape.image_size % suite.network.patch:
        seen = "latents'" if suite.autoencoder else "image"
        raise UserError(
            f"{source}: network.patch = {suite.network.patch} does not divide the {seen} side "
            f"{suite.shape.image_size}; choose a divisor"
        )
    _check_stage2_seeds(suite, source)
    _check_tuning(suite, source)
    _check_scale(plan, source)
    if suite.evaluation.protocol == "classifier":
        _check_classifier(suite, source)
    for name in suite.evaluation.metrics:
        if problem := _problem_of_metric(name, plan):
            raise UserError(f"{source}: evaluation.metrics = {name!r}: {problem}")
    if isinstance(suite.text, ClipText):
        _check_training("text.training", suite.text.training, "clip", source)
    if suite.teacher.training:
        _check_training("teacher.training", suite.teacher.training, "teacher", source)
    arms = {f"arms.{name}": arm for name, arm in plan.arms.items()}
    for name, arm in {"base": suite.base, **arms}.items():
        if arm.real and suite.evaluation.protocol != "classifier":
            raise UserError(
                f"{source}: {name}.real = {arm.real!r}: real images are arms of the protocol "
                "classifier alone; remove the arm"
            )
        reuse = arm.sampling.reuse if arm.sampling else None
        if reuse and reuse.last > suite.network.depth:
            raise UserError(
                f"{source}: {name}.sampling.reuse.last = {reuse.last}: the network has blocks 1 to "
                f"{suite.network.depth}"
            )
        for kind in ("trajectory", "refine"):
            if training := getattr(arm, kind):
                _check_training(f"{name}.{kind}", training, "student", source)
                check_head(f"{name}.{kind}.objective", training.objective, suite, source)
    check_expected(plan, source)


def _check_autoencoder(plan: Plan, source: str) -> None:
    """A trained autoencoder fits images, whose networks are trained in the DAG too."""
    suite = plan.suite
    if not suite.autoencoder:
        for name, arm in plan.arms.items():
            if arm.autoencoded:
                raise UserError(
                    f"{source}: arms.{name}.autoencoded: the suite trains no autoencoder; add one "
                    "or remove the arm"
                )
        return
    if suite.data.stored == "latents":
        raise UserError(
            f"{source}: autoencoder: {suite.data.name} are stored as latents already; remove it"
        )
    if suite.data.image_size % suite.autoencoder.network.factor:
        raise UserError(
            f"{source}: autoencoder.network.factor = {suite.autoencoder.network.factor} does not "
            f"divide the image side {suite.data.image_size}; choose a divisor"
        )
    if suite.teacher.checkpoint or any(arm.baseline for arm in plan.arms.values()):
        raise UserError(
            f"{source}: autoencoder: a public network has one of its own; remove the one or the "
            "other"
        )
    _check_training("autoencoder.training", suite.autoencoder.training, "autoencoder", source)


def _check_scale(plan: Plan, source: str) -> None:
    """Data, network, text, public files and protocol go together."""
    suite = plan.suite
    data = suite.data
    evaluation = suite.evaluation
    latents = data.stored == "latents"
    if isinstance(suite.network, SanaConfig) != bool(suite.text):
        raise UserError(
            f"{source}: text: belongs to network.name = 'sana', and to no other; add or remove it"
        )
    _check_text(suite, source)
    _check_publics(plan, source)
    if isinstance(suite.network, SanaConfig) and suite.network.guidance_input is not None:
        raise UserError(
            f"{source}: network.guidance_input = {suite.network.guidance_input}: such a network "
            "has no velocity to distil; it can be a baseline alone"
        )
    if bool(evaluation.prompts) != isinstance(suite.text, TextConfig):
        raise UserError(
            f"{source}: evaluation.prompts: goes with the text of a pipeline, and only with it; "
            "add or remove it"
        )
    if evaluation.protocol == "mjhq30k" and not evaluation.prompts:
        raise UserError(
            f"{source}: evaluation.protocol = 'mjhq30k': its samples have prompts; name another, "
            "or add text and evaluation.prompts"
        )
    if (evaluation.protocol == "classifier") == latents:
        raise UserError(
            f"{source}: evaluation.protocol = {evaluation.protocol!r}: not for the data "
            f"{data.name}; name another"
        )
    if evaluation.sensitivity and latents:
        raise UserError(
            f"{source}: evaluation.sensitivity: belongs to evaluation.protocol = 'classifier'; "
            "remove it"
        )
    if suite.classifier and latents:
        raise UserError(
            f"{source}: classifier: belongs to evaluation.protocol = 'classifier'; set it to null"
        )


def _check_text(suite: Suite, source: str) -> None:
    """Labels of the data and encoder of the prompts go together."""
    data = suite.data
    fitting = {type(None): "class", TextConfig: "prompt", ClipText: "caption"}
    if data.label_kind != fitting[type(suite.text)]:
        raise UserError(
            f"{source}: text: not for the data {data.name}; a pipeline encodes images with "
            "text: true, a clip the data set captions, and classes have none"
        )
    # the network of a suite with text is SANA's: `_check_scale`
    if isinstance(suite.text, ClipText) and isinstance(suite.network, SanaConfig):
        sizes = {
            "vision_cfg.image_size": data.image_size,
            "text_cfg.width": suite.network.caption_width,
        }
        for key, value in sizes.items():
            tower, _, size = key.partition(".")
            if suite.text.model[tower][size] != value:
                raise UserError(
                    f"{source}: text.model.{key} = {suite.text.model[tower][size]}: data and "
                    f"network need {value}"
                )


def _check_publics(plan: Plan, source: str) -> None:
    """Public networks are of the suite's kind and fit its data."""
    suite = plan.suite
    data = suite.data
    sana = isinstance(suite.network, SanaConfig)
    publics = {"teacher.checkpoint": (suite.network, suite.teacher.checkpoint)}
    publics |= {
        f"arms.{name}.baseline.checkpoint": (arm.baseline.network, arm.baseline.checkpoint)
        for name, arm in plan.arms.items()
        if arm.baseline
    }
    for key, (network, public) in publics.items():
        if public and not (public.format == "sana") == isinstance(network, SanaConfig) == sana:
            raise UserError(
                f"{source}: {key}.format = {public.format!r}: not of this kind of network; sana "
                "goes with network.name = 'sana', sit and dit go without a name"
            )
        if data.image_size % network.patch:
            raise UserError(
                f"{source}: {key}: its network.patch = {network.patch} does not divide the side "
                f"{data.image_size}"
            )


def _problem_of_metric(name: str, plan: Plan) -> str:
    """Why a metric cannot be measured beside the suite's protocol, or ""."""
    evaluation = plan.suite.evaluation
    if name not in METRICS.load():
        return "unknown metric" + nearest(name, METRICS)
    if name in PROTOCOLS[evaluation.protocol].metrics:
        return "the protocol has it already; remove it"
    if plan.suite.classifier and METRICS[name].group == "protocol":
        return "is measured by other protocols alone; remove it"
    if not plan.suite.classifier and name not in BESIDE:
        return f"beside {evaluation.protocol} there are {', '.join(BESIDE)}; remove it"
    if not plan.suite.classifier and PROTOCOLS[BESIDE[name]].prompts and not evaluation.prompts:
        return "needs the prompts of a suite with text; remove it"
    if METRICS[name].paired and not any(map(is_teacher, plan.arms.values())):
        return (
            "compares with the teacher's samples, and no arm is the teacher; add one, or remove "
            "the metric"
        )
    return ""


def _check_classifier(suite: Suite, source: str) -> None:
    """The small suites' protocol: it has its classifier, and enough images and frequencies."""
    data = suite.data
    if suite.classifier is None:
        raise UserError(
            f"{source}: classifier: this key is missing; add it, or name another "
            "evaluation.protocol"
        )
    if suite.evaluation.samples > data.largest_sample:
        raise UserError(
            f"{source}: evaluation.samples = {suite.evaluation.samples}, but {data.name} has only "
            f"{data.largest_sample} real images for each side of a comparison; lower it"
        )
    if suite.evaluation.neighbours >= suite.evaluation.samples:
        raise UserError(
            f"{source}: evaluation.neighbours = {suite.evaluation.neighbours}: must be below "
            f"evaluation.samples = {suite.evaluation.samples}"
        )
    if (changed := suite.evaluation.sensitivity) and changed <= suite.evaluation.neighbours:
        raise UserError(
            f"{source}: evaluation.sensitivity = {changed}: must be above "
            f"evaluation.neighbours = {suite.evaluation.neighbours}"
        )
    if suite.evaluation.bands > data.image_size // 2:
        raise UserError(
            f"{source}: evaluation.bands = {suite.evaluation.bands}, but images of side "
            f"{data.image_size} have only {data.image_size // 2} frequencies; lower it"
        )
    _check_training("classifier.training", suite.classifier.training, "classifier", source)


def _check_training(key: str, training: Training, role: str, source: str) -> None:
    """The objective is one for this stage, and the number of steps can be known."""
    name = training.objective.name
    if training.objective.role != role:
        objectives = [other for other, cls in OBJECTIVES.items() if cls.role == role]
        raise UserError(
            f"{source}: {key}.objective.name = {name!r}: not for this stage"
            + nearest(name, objectives)
        )
    if key in ("classifier.training", "text.training", "autoencoder.training"):
        options = {
            "compile": training.compile,
            "gradient_checkpointing": training.gradient_checkpointing,
        }
        if option := next((option for option, is_set in options.items() if is_set), None):
            raise UserError(
                f"{source}: {key}.{option} = true: only transformers have it; remove it"
            )
    if not isinstance(training.steps, int) and not key.startswith("arms."):
        raise UserError(
            f"{source}: {key}.steps = {training.steps.model_dump()}: must be an integer; "
            "equal_total is for arms"
        )


def check_head(key: str, objective: Objective, suite: Suite, source: str) -> None:
    """Blocks whose features are read exist, and a head of the wished size can be built."""
    head, gan = objective.head() or ("none", None)
    read = {"gan.blocks": gan.blocks} if gan else {}
    if isinstance(objective, Representation):
        read = {"blocks": objective.blocks}
    for field, blocks in read.items():
        if not all(1 <= block <= suite.network.depth for block in blocks):
            raise UserError(
                f"{source}: {key}.{field} = {list(blocks)}: the network has blocks 1 to "
                f"{suite.network.depth}"
            )
    if head != "none":
        grid = suite.shape.image_size // suite.network.patch
        share = max(gan.parameters // gan.heads, 1)
        sizes = (len(gan.blocks), suite.network.width, grid, share)
        if problem := problem_of_head(head, *sizes):
            raise UserError(f"{source}: {key}.gan.parameters = {gan.parameters}: {problem}")


@functools.cache
def problem_of_head(name: str, layers: int, width: int, grid: int, parameters: int) -> str:
    """Why no head of this size can be built, or "": the same for many arms of a suite."""
    try:
        with torch.device("meta"):
            build_head(name, layers=layers, width=width, grid=grid, parameters=parameters)
    except ValueError as error:
        return str(error)
    return ""
