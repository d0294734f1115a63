"""Absurd sizes, refused before anything is computed: what no machine counts to, or holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hdbench.core.errors import UserError
from hdbench.suite.plan import Plan
from hdbench.suite.training import LARGEST_COUNT, ClipText

LARGEST_MEMORY = 16 * 2**40  # bytes; larger than any one machine's
MOST_ARMS = 10_000  # over all chains; planning them takes seconds
MOST_BLOCKS = 10_000
MOST_STEPS = 100_000  # of sampling; each has a time in the plan
LARGEST_SEED = 10**18 - 1  # of the tables; sums of two are below 2**63
MOST = {"steps": MOST_STEPS, "network.depth": MOST_BLOCKS}
SEEDS = ("seed", "seeds", "stage2_seeds")  # keys of whole numbers that are no counts


def check_sizes(plan: Plan, source: str) -> None:
    """UserError for a whole number that nothing can be counted to, or for too much memory.

    Memory is a lower bound, of weights and of one tensor of images at a time.
    """
    suite = plan.suite
    chains = len(suite.seeds) + sum(map(len, suite.stage2_seeds.values()))
    if len(plan.arms) * chains > MOST_ARMS:
        raise UserError(
            f"{source}: {len(plan.arms)} arms of {chains} chains are more than {MOST_ARMS:,} "
            "together; make several suites of them"
        )
    for seed in (*suite.seeds, *(seed for seeds in suite.stage2_seeds.values() for seed in seeds)):
        if not 0 <= seed <= LARGEST_SEED:
            raise UserError(f"{source}: seeds: {seed} is not from 0 to {LARGEST_SEED}; choose one")
    configs = {"": suite, **{f"arms.{name}.": arm for name, arm in plan.arms.items()}}
    for prefix, config in configs.items():
        dump = config.model_dump(mode="python", exclude={"arms"} if not prefix else None)
        for key, value in _counts(dump):
            most = MOST.get(key if prefix else key.removeprefix("base."), LARGEST_COUNT)
            if abs(value) > most:
                raise UserError(
                    f"{source}: {prefix}{key} = {value}: more than {most:,}; write a smaller number"
                )
    for key, size in _memory(plan):
        if size > LARGEST_MEMORY:
            raise UserError(
                f"{source}: {key}: takes {size / 1e12:.3g} TB or more, which no machine has; "
                "lower it"
            )


def _counts(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Whole numbers with their keys, but those of seeds."""
    if isinstance(value, dict):
        for name, child in value.items():
            if name not in SEEDS:
                yield from _counts(child, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for child in value:
            yield from _counts(child, key)
    elif isinstance(value, int):
        yield key, value


def _memory(plan: Plan) -> Iterator[tuple[str, float]]:
    """Keys, and the bytes that their values take at least."""
    suite = plan.suite
    data, network, evaluation = suite.data, suite.network, suite.evaluation
    image = data.channels * data.image_size**2  # floats
    block = network.width**2 * (4 + 2 * network.mlp_ratio)  # attention and MLP
    yield (
        f"network.width = {network.width} at depth = {network.depth} and mlp_ratio = "
        f"{network.mlp_ratio}",
        4 * network.depth * block,
    )
    if suite.classifier:
        sizes = suite.classifier.network
        weights = 4 * sizes.width * (sizes.width + sizes.features)
        yield f"classifier.network.width = {sizes.width}", weights
    if isinstance(suite.text, ClipText):
        for name in ("text_cfg", "vision_cfg"):
            tower = suite.text.model[name]
            width, layers = (tower.get(size, 1) for size in ("width", "layers"))
            if isinstance(width, int) and isinstance(layers, int):
                yield f"text.model.{name}.width = {width}", 4 * layers * width**2
    if suite.autoencoder:
        width = suite.autoencoder.network.widths[-1]
        yield f"autoencoder.network.width = {suite.autoencoder.network.width}", 4 * 18 * width**2
    for split, count in data.counts.items():
        yield f"data.{split} = {count}", count * image
    yield f"evaluation.samples = {evaluation.samples}", evaluation.samples * image
    yield f"evaluation.batch = {evaluation.batch}", 4 * evaluation.batch * image
    trained = {"teacher.training": suite.teacher.training}
    trained |= {
        f"arms.{name}.{kind}": getattr(arm, kind)
        for name, arm in plan.arms.items()
        for kind in ("trajectory", "refine")
    }
    if suite.classifier:
        trained["classifier.training"] = suite.classifier.training
    if suite.autoencoder:
        trained["autoencoder.training"] = suite.autoencoder.training
    if isinstance(suite.text, ClipText):
        trained["text.training"] = suite.text.training
    for key, training in trained.items():
        if training is None:
            continue
        yield f"{key}.batch = {training.batch}", 4 * training.batch * image
        if head := training.objective.head():
            parameters = head[1].parameters
            yield f"{key}.objective.gan.parameters = {parameters}", 4 * parameters
        if pairs := training.objective.pairs_needed():
            yield f"{key}.objective.pairs.count = {pairs.count}", 4 * pairs.count * image
