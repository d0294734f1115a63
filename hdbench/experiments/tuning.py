"""How settings are chosen: by the smallest criterion on validation chains.

A suite with `tuning` has the trials of `hdbench.suite.tuning`; in another with one seed, a grid of
heads, each head has its arm with the smallest fd_train.
"""

from __future__ import annotations

from math import ceil, isfinite, nan
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from hdbench.core.errors import UserError
from hdbench.core.outputs import write_outputs
from hdbench.experiments.units import choose
from hdbench.metrics import metric_of
from hdbench.metrics.records import with_count
from hdbench.suite.arms import head_of
from hdbench.suite.budget import refused_cost, trained_cost
from hdbench.suite.plan import Plan
from hdbench.suite.trials import choices_file, earlier_choices
from hdbench.suite.tuning import Choice, Choices, Trial, Tuned, Tuning

METRIC = "fd_train"
TUNED = ("learning_rate", "relative_weight")  # of the head


def settings(plan: Plan, arm: str) -> dict[str, float]:
    """The tuned values of an arm's head."""
    gan = plan.arms[arm].refine.objective.gan
    return {name: getattr(gan, name) for name in TUNED}


def grid(plan: Plan) -> dict[str, list[str]]:
    """The arms of each head, in the suite's order."""
    arms: dict[str, list[str]] = {}
    for name, arm in plan.arms.items():
        if head_of(arm) not in (None, "none"):
            arms.setdefault(head_of(arm), []).append(name)
    return arms


def chosen(plan: Plan, frame: pd.DataFrame) -> dict[str, str]:
    """The best arm of each head.

    UserError if the suite has several seeds, or an arm has no finite number of this suite.
    """
    if len(plan.suite.seeds) > 1:
        raise UserError(
            f"suite {plan.name}: seeds = {list(plan.suite.seeds)}: heads are tuned on one seed, "
            "and other methods by a suite with `tuning`; name another suite"
        )
    values = distances(plan, frame)
    arms = grid(plan)
    for candidates in arms.values():
        if missing := [arm for arm in candidates if not isfinite(values.get(arm, nan))]:
            raise UserError(
                f"suite {plan.name}: no {METRIC} of {', '.join(missing)}; run the suite first (an "
                "arm that has diverged has none: take its settings out of the grid of all heads)"
            )
    return choose(
        (head, arm, -values[arm]) for head, candidates in arms.items() for arm in candidates
    )


def choices(plan: Plan, frame: pd.DataFrame) -> tuple[Choices, dict[str, list[str]]]:
    """What the rule of tuning has chosen, as far as each arm's rungs have run; and what is lacking.

    That is, by arm, the trials of its next rung that have no number on every chain.  UserError
    where no arm's first rung has run, or all trials of an arm have diverged.
    """
    tuning = plan.suite.tuning
    assert tuning is not None
    if is_of_another_version(plan, frame, tuning.criterion):
        raise UserError(
            f"suite {plan.stem}: these numbers were made by another version of it; run it again"
        )
    scores = distances(plan, frame, tuning.criterion) | dict.fromkeys(tuning.diverged, nan)
    trials: dict[str, dict[str, Trial]] = {}
    for name, trial in plan.suite.trials.items():
        trials.setdefault(trial.arm, {})[name] = trial
    arms, lacking = {}, {}
    for arm, given in trials.items():
        ranks, lacks = rungs(plan, tuning, scores, given)
        if lacks:
            lacking[arm] = lacks
        if not ranks:
            continue
        going_on = [halved(ranked, given) for ranked in ranks[: len(tuning.rungs) - 1]]
        arms[arm] = Tuned(
            digest=next(iter(given.values())).digest,
            going_on=tuple({t.label: t.settings for t in kept} for kept in going_on),
            choice=choice(plan, frame, given, *next(iter(ranks[-1].items())))
            if len(ranks) == len(tuning.rungs)
            else None,
        )
    if not arms:
        missing = ", ".join(next(iter(lacking.values())))
        raise UserError(
            f"suite {plan.stem}: no {tuning.criterion} of {missing} on every chain; run the suite "
            "first (a trial that has diverged is named in tuning.diverged)"
        )
    made = Choices(
        suite=plan.stem,
        seeds=plan.suite.seeds,
        criterion=tuning.criterion,
        rates=tuning.rates,
        rungs=tuning.rungs,
        arms=arms,
    )
    return made, lacking


def write_choices(plan: Plan, frame: pd.DataFrame) -> tuple[Path, list[str], list[str]]:
    """Write the file of `choices`; its path, a line an arm for people, and what is to do next.

    It keeps what the same rule has chosen for arms that this suite does not tune now, or of which
    the frame has no numbers.
    """
    tuning = plan.suite.tuning
    assert tuning is not None
    result, lacking = choices(plan, frame)
    path = choices_file(plan.sources[0])
    digests = {trial.arm: trial.digest for trial in plan.suite.trials.values()}
    earlier = earlier_choices(path, tuning, plan.suite.seeds)
    kept = {
        arm: tuned
        for arm, tuned in earlier.items()
        if digests.get(arm, tuned.digest) == tuned.digest
    }
    result = result.model_copy(update={"arms": kept | result.arms})
    content = result.model_dump(mode="json", exclude_none=True)
    write_outputs({path: yaml.safe_dump(content, sort_keys=False, width=120).encode()})
    lines, edge, going_on = [], [], []
    for arm, tuned in result.arms.items():
        if tuned.choice is None:
            lines.append(f"{arm}: {', '.join(tuned.going_on[-1])} go on")
            going_on.append(arm)
        else:
            lines.append(f"{arm}: {sentence(result, tuned.choice)}")
            edge += [] if tuned.choice.interior else [arm]
    advice = [
        f"{arm}: no {tuning.criterion} of {', '.join(names)} on every chain; run {plan.given} for "
        "it (a trial that has diverged is named in tuning.diverged)."
        for arm, names in lacking.items()
        if arm not in result.arms
    ]
    if going_on:
        advice.append(f"Run {plan.given} again, then this command: these trials go on.")
    if edge:
        advice.append(
            f"The best rate is at the edge of tuning.rates for {', '.join(edge)}: extend it, which "
            "is for all arms, and run again."
        )
    return path, lines, advice


def sentence(result: Choices, best: Choice) -> str:
    """What was chosen and what it cost."""
    core = "" if best.core_seconds is None else f", {best.core_seconds:,.0f} core-s"
    changed = ", ".join(f"{path} = {value}" for path, value in best.settings.items())
    return (
        f"{changed or 'as declared'}  # {result.criterion} {best.score:.4g}; {best.trials} trials, "
        f"{best.runs} runs on each of {len(result.seeds)} chains, "
        f"{1e-3 * best.forward_equivalents:,.0f} kFE{core}; "
        + ("interior" if best.interior else "at the edge of the rates")
    )


def rungs(
    plan: Plan, tuning: Tuning, scores: dict[str, float], trials: dict[str, Trial]
) -> tuple[list[dict[str, float]], list[str]]:
    """Of each rung of an arm that has run whole, the trials that ended and scores, best first.

    And of the next rung, the trials without a number.
    """
    sign = 1 if metric_of(tuning.criterion).better == "lower" else -1
    finished: list[dict[str, float]] = []
    labels = {trial.label for trial in trials.values()}
    for share in tuning.rungs:
        of_rung = {t.label: n for n, t in trials.items() if t.share == share and t.label in labels}
        if missing := [name for name in of_rung.values() if name not in scores]:
            return finished, missing
        if of_rung.keys() != labels:
            break
        ended = {name: scores[name] for name in of_rung.values() if isfinite(scores[name])}
        if not ended:
            raise UserError(
                f"suite {plan.name}: {', '.join(of_rung.values())} have diverged, so none is "
                "left; give their arm other settings"
            )
        finished.append(dict(sorted(ended.items(), key=lambda item: sign * item[1])))
        labels = {trial.label for trial in halved(finished[-1], trials)}
    return finished, []


def halved(ranked: dict[str, float], trials: dict[str, Trial]) -> list[Trial]:
    """The better half, one more of an odd number."""
    return [trials[name] for name in list(ranked)[: ceil(len(ranked) / 2)]]


def choice(
    plan: Plan, frame: pd.DataFrame, trials: dict[str, Trial], best: str, score: float
) -> Choice:
    """An arm's best trial, and what all of its trials cost.

    One that diverged counts with the steps that it was to train, at the others' pace.
    """
    tuning = plan.suite.tuning
    assert tuning is not None
    trial = trials[best]
    trained = trained_cost(plan, trials)
    refused = sum(refused_cost(plan, name) for name in trials if name in tuning.diverged)
    seconds = core_seconds(plan, frame, trials)
    return Choice(
        settings=trial.settings,
        trials=len({trial.label for trial in trials.values()}),
        runs=len(trials),
        forward_equivalents=trained + refused,
        core_seconds=None if seconds is None else round(seconds * (1 + refused / trained), 1),
        score=score,
        interior=tuning.rates[0] < trial.rate < tuning.rates[-1],
    )


def core_seconds(plan: Plan, frame: pd.DataFrame, trials: dict[str, Trial]) -> float | None:
    """Of all trainings of trials, each stage once; None where they were not measured."""
    costs = frame[frame.protocol == "cost"].set_index(["arm", "seed", "metric"]).value
    kinds = {"trajectory": "trajectory", "refine": "refine"}
    total = {}
    for row in (row for row in plan.rows if row.arm in trials):
        pairs = [kind for kind in row.stages if kind.endswith("pairs")]
        for kind, name in (kinds | dict.fromkeys(pairs, "pairs")).items():
            if kind in row.stages:
                key = (row.arm, row.seed, f"{name}_core_seconds")
                total[row.stages[kind]] = costs.get(key, nan)
    seconds = float(np.sum(list(total.values())))
    return seconds if isfinite(seconds) else None


def distances(plan: Plan, frame: pd.DataFrame, metric: str = METRIC) -> dict[str, float]:
    """The mean of a metric over the suite's chains, of arms that have it on all of them.

    Of present evaluations, or all if there are none.
    """
    rows = numbers(plan, frame, metric)
    if not is_of_another_version(plan, frame, metric):
        present = digests(plan)
        keys = zip(rows.arm, rows.seed, strict=True)
        rows = rows[rows.digest == [present.get(key) for key in keys]]
    by_arm = rows.groupby("arm").value
    whole = by_arm.size() == len(plan.suite.seeds)
    return by_arm.agg(lambda values: values.mean(skipna=False))[whole].to_dict()


def is_of_another_version(plan: Plan, frame: pd.DataFrame, metric: str = METRIC) -> bool:
    """Whether the frame has numbers of the suite, but none of its present evaluations."""
    rows = numbers(plan, frame, metric)
    return len(rows) > 0 and not set(rows.digest) & set(digests(plan).values())


def numbers(plan: Plan, frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The suite's rows of a metric."""
    name = with_count(metric, plan.suite.evaluation.samples)
    return frame[(frame.suite == plan.name) & (frame.metric == name)]


def digests(plan: Plan) -> dict[tuple[str, int | None], str]:
    """Those of the present evaluations, by arm and seed."""
    return {(row.arm, row.seed): plan.stage(row.stages["evaluate"]).digest for row in plan.rows}
