"""Registered claims: rules, arms and seeds that were committed before the run that they judge.

The file lies in workflow/prereg, named as the suite.  A run keeps to it if every stage ran from a
clean commit that has the commit of the registration (of the tag prereg/<name>, if there is one)
among its ancestors, with the file as it is now, if its chains are the first of the registered
seeds, complete and not more than the cap, with further stage-2 seeds at the registered chains, and
if its metrics are as they were collected.  Stages record the file's digest beside their commit;
neither is in their ids.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml
from pydantic import Field, model_validator

from hdbench.core.config import nearest, validate
from hdbench.core.errors import UserError
from hdbench.core.files import sha256
from hdbench.core.outputs import write_outputs
from hdbench.core.provenance import REGISTRATIONS, git
from hdbench.core.yaml_file import read_yaml
from hdbench.report.known import check_arms, check_metric_names
from hdbench.report.provenance import ENVIRONMENTS, Run, check_clean, is_collected, read_run
from hdbench.report.rules import RULES, Rules, arms_of, read_rules
from hdbench.report.ship import is_shipped
from hdbench.suite.load import load_plan
from hdbench.suite.plan import Plan

MOST = 10_000  # seeds
DRAFT = ".draft"  # what ends the name of one that is still to be made


def exploratory(rules: Path) -> str:
    return f"Exploratory: the rules are {rules}, not a registration before the run."


EXPLORATORY = exploratory(RULES)


class Registration(Rules):
    """Rules with the suite, the arms and the seeds that they are for."""

    suite: str
    metric: str = Field(description="the primary one")
    arms: tuple[str, ...] = Field(min_length=1, description="whose chains have to be complete")
    seeds: tuple[int, ...] = Field(min_length=2, description="of chains, in this order")
    cap: int = Field(ge=2, description="the most chains")
    stage2_seeds: dict[int, tuple[int, ...]] = Field(
        {}, description="by chain, further ones of stage 2 alone, in this order"
    )
    teacher: int | None = Field(None, description="seed of the one that serves all chains")
    digests: dict[str, str] = Field(
        {}, description="by arm, of its first evaluation with the first seed: its settings"
    )

    @model_validator(mode="after")
    def _consistent(self):
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {list(self.seeds)}: one appears twice; remove it")
        if self.cap > len(self.seeds):
            raise ValueError(f"cap = {self.cap}: there are {len(self.seeds)} seeds; lower it")
        needed = arms_of(self.claims, self)
        for arm in needed:
            if arm not in self.arms:
                raise ValueError(f"arms = {list(self.arms)}: a test or margin names {arm} too")
        alone = arms_of(self.claims, self, "stage2_seed")
        if alone and not self.stage2_seeds and self.teacher is None:
            raise ValueError(
                f"stage2_seeds = none, though tests of {_list(alone)} are over them; give the "
                "suite some, or one teacher for all chains, before it is registered, or leave out "
                "the claims"
            )
        metrics = {test.metric for claim in self.claims.values() for test in claim.tests}
        if self.metric not in metrics:
            raise ValueError(
                f"metric = {self.metric!r}: no test is of it" + nearest(self.metric, metrics)
            )
        return self


def read_registration(path: Path) -> Registration:
    return validate(Registration, read_yaml(path), str(path))


def rules_for(
    plan: Plan, frame: pd.DataFrame, metrics: Path, prereg: Path | None, rules: Path | None
) -> tuple[Rules, str]:
    """What judges a run, and in a sentence what that makes of its verdicts.

    `frame` is what the file `metrics` holds, beside which its manifest is.  It is `prereg`, or by
    default the registration named as the suite if the run keeps to it; else `rules`, and the
    verdicts are exploratory.  UserError where the run breaks the registration that is given.
    """
    if prereg is not None and rules is not None:
        raise UserError(f"{prereg}: a registration has its own rules; leave out --rules")
    path = prereg or REGISTRATIONS / f"{plan.name}.yaml"
    if prereg is None and (rules is not None or not path.is_file()):
        return rules_of(rules or RULES, plan, frame), exploratory(rules or RULES)
    registration = read_registration(path)
    try:
        return registration, kept(registration, path, plan, frame, metrics)
    except UserError as error:
        if prereg is not None:
            raise
        why = f"Exploratory, for the run does not keep to its registration: {error}."
        return rules_of(RULES, plan, frame), why


def rules_of(path: Path, plan: Plan, frame: pd.DataFrame) -> Rules:
    """The rules of a file, whose arms and metrics there are; see hdbench.report.known."""
    declared = read_rules(path)
    check_arms(declared, path, plan)
    check_metric_names(declared, path, frame)
    return declared


def kept(
    registration: Registration, path: Path, plan: Plan, frame: pd.DataFrame, metrics: Path
) -> str:
    """Says that a run keeps to its registration; UserError for the first thing that breaks it."""
    if path.stem.endswith(DRAFT):
        raise UserError(f"{path}: is a draft; make the registration with `hdbench preregister`")
    if registration.suite != plan.name:
        raise UserError(f"{path}: is of the suite {registration.suite}, not of {plan.name}")
    check_teachers(registration, path, plan)
    seeds = check_seeds(registration, path, plan, frame)
    check_settings(registration, path, frame)
    run = read_run(metrics.parent)
    check_metrics(metrics)
    check_clean(run, metrics.parent)
    since = committed(path)
    check_stages(run, path, since)
    return (
        f"Registered: {path} ({sha256(path)[:12]}) of commit {since[:12]}, {len(seeds)} of at most "
        f"{registration.cap} chains."
    )


def check_teachers(registration: Registration, path: Path, plan: Plan) -> None:
    """That teacher and further stage-2 seeds of the suite are as they are registered."""
    if plan.suite.teacher.seed != registration.teacher:
        raise UserError(
            f"{path}: teacher = {registration.teacher}, and the suite's seed of its teacher is "
            f"{plan.suite.teacher.seed}; give the suite the registered one"
        )
    for chain, seeds in plan.suite.stage2_seeds.items():
        registered = registration.stage2_seeds.get(chain, ())
        if others := [seed for seed in seeds if seed not in registered]:
            raise UserError(
                f"{path}: the stage-2 seeds {_list(others)} are not registered at chain {chain}; "
                "give the suite the registered ones"
            )


def check_seeds(
    registration: Registration, path: Path, plan: Plan, frame: pd.DataFrame
) -> list[int]:
    """The chains of the run: the first of the registered, each with all arms, as of stage 2."""
    listed = [seed for seed in plan.suite.seeds if seed in registration.seeds]
    if listed != list(registration.seeds[: len(listed)]):
        raise UserError(
            f"{path}: the suite lists the seeds {_list(listed)}, out of the registered order "
            f"{_list(registration.seeds)}; take the first of these, in order"
        )
    measured = frame[frame.arm.isin(registration.arms) & frame.seed.notna()]
    by_arm = measured.groupby("arm").seed.agg(lambda column: set(map(int, column)))
    arms = {arm: by_arm.get(arm, set()) for arm in registration.arms}
    further = [seed for seeds in registration.stage2_seeds.values() for seed in seeds]
    used = set().union(*arms.values()) - set(further)
    if others := sorted(used - set(registration.seeds)):
        raise UserError(
            f"{path}: the seeds {_list(others)} are not registered; leave their chains out"
        )
    if len(used) > registration.cap:
        raise UserError(
            f"{path}: {len(used)} chains are more than the cap, {registration.cap}; leave out "
            "those beyond it"
        )
    if not used:
        raise UserError(f"{path}: no chain has run; begin with seed {registration.seeds[0]}")
    named = arms_of(registration.claims, registration, "stage2_seed")
    refined = [arm for arm in plan.arms if arm in named and plan.arms[arm].refine]
    for seeds in registration.stage2_seeds.values():
        check_complete(path, seeds, {arm: arms[arm] & set(seeds) for arm in refined})
    return check_complete(path, registration.seeds, {a: arms[a] - set(further) for a in arms})


def check_complete(path: Path, seeds: tuple[int, ...], arms: dict[str, set[int]]) -> list[int]:
    """The seeds of which arms have numbers: the first ones, and all arms have the same."""
    used = set().union(*arms.values())
    first = list(seeds[: len(used)])
    for seed in first:
        if lacking := [arm for arm in arms if seed not in arms[arm]]:
            later = used - set(first)
            raise UserError(
                f"{path}: seed {seed} has no numbers of {_list(lacking)}"
                + (f", though seed {min(later)} after it has" if later else "")
                + "; finish its chain, for none may be skipped"
            )
    return first


def check_settings(registration: Registration, path: Path, frame: pd.DataFrame) -> None:
    """That arms of the first seed have the registered digests, so the registered settings."""
    first = frame[frame.seed == registration.seeds[0]]
    for arm, digest in registration.digests.items():
        if digest not in set(first.digest[first.arm == arm]):
            raise UserError(
                f"{path}: {arm} has other settings, or is of another version, than was registered; "
                "run it as registered, or register anew under another suite"
            )


def check_metrics(metrics: Path) -> None:
    """That a file of metrics is the one that was collected with the run beside it."""
    if not is_collected(metrics):
        raise UserError(
            f"{metrics}: is not the file that was collected with {metrics.with_name(ENVIRONMENTS)};"
            " make both again with `hdbench collect`"
        )


def committed(path: Path) -> str:
    """The commit of a registration: of its tag prereg/<name>, or that which added it."""
    tag = git(path.parent, "rev-parse", "--quiet", "--verify", f"refs/tags/prereg/{path.stem}^{{}}")
    added = git(path.parent, "log", "--diff-filter=A", "--format=%H", "--", path.name)
    commits = [*(tag.stdout.split() if tag else []), *(added.stdout.split()[-1:] if added else [])]
    if not commits:
        raise UserError(f"{path}: is in no commit; commit it before the first chain")
    return commits[0]


def check_stages(run: Run, path: Path, since: str) -> None:
    """That all stages ran after the registration, with the file as it is, or shipped with it."""
    digest = sha256(path)
    stages = [stage for stage in run.stages if not is_shipped(stage, path, since)]
    for commit in sorted({stage.commit for stage in stages}):
        said = git(path.parent, "merge-base", "--is-ancestor", since, commit)
        if said is None or said.returncode:
            example = next(stage.id for stage in stages if stage.commit == commit)
            raise UserError(
                f"{path}: {example} ran from commit {commit[:12]}, which is not after the "
                f"registration's, {since[:12]}, in this repository; run it again"
            )
    for stage in stages:
        if (recorded := run.registrations(stage).get(path.stem)) != digest:
            then = "was not there" if recorded is None else f"was another ({recorded[:12]})"
            raise UserError(
                f"{path}: {then} when {stage.id} ran; restore it (`git log -- {path}`), or "
                "register anew under another suite"
            )


def register(
    plan: Plan,
    rules: Rules,
    claims: tuple[str, ...],
    seeds: range,
    cap: int,
    metric: str,
    draft: bool,
) -> Registration:
    """A registration of claims of the rules, by default of all that the suite's arms can test.

    UserError for an unknown claim, a claim whose arms the suite lacks, or, but of a draft, a suite
    that does not begin with the first seed, so that its settings cannot be registered.
    """
    if plan.suite.seeds[0] != seeds[0] and not draft:
        raise UserError(
            f"suite {plan.stem}: begins with seed {plan.suite.seeds[0]}, not with {seeds[0]}; set "
            f"its seeds to [{seeds[0]}], and append the others as they are run"
        )
    for name in claims:
        if name not in rules.claims:
            raise UserError(f"--claim = {name!r}: unknown claim" + nearest(name, rules.claims))
    declared = rules.claims if plan.suite.claims is None else plan.suite.claims
    testable = {
        name: claim
        for name, claim in rules.claims.items()
        if name in claims
        or not claims
        and name in declared
        and claim.source == "suite"
        and plan.name in (claim.suites or (plan.name,))
        and set(arms_of({name: claim}, rules)) <= set(plan.arms)
    }
    named = arms_of(testable, rules)
    arms = [arm for arm in plan.arms if arm in named]
    if unknown := [arm for arm in named if arm not in arms]:
        raise UserError(f"suite {plan.stem} has no arm {_list(unknown)}; leave out their claims")
    rows = {
        row.arm: plan.stage(row.stages["evaluate"]).digest
        for row in reversed(plan.rows)
        if row.seed == seeds[0]
    }
    content = rules.model_dump(mode="json", exclude_none=True, exclude={"claims"})
    content |= {
        "suite": plan.name,
        "metric": metric,
        "arms": arms,
        "seeds": list(seeds),
        "cap": cap,
        "stage2_seeds": {str(k): list(v) for k, v in plan.suite.stage2_seeds.items()},
        "teacher": plan.suite.teacher.seed,
        "digests": {arm: rows[arm] for arm in arms if arm in rows},
        "claims": {
            name: claim.model_dump(mode="json", exclude_none=True)
            for name, claim in testable.items()
        },
    }
    return validate(Registration, content, f"the registration of {plan.name}")


def preregister(
    suite: str,
    rules: Path,
    claims: tuple[str, ...],
    seeds: str,
    cap: int | None,
    metric: str,
    out: Path | None,
) -> Path:
    """Write a registration into `out`, by default workflow/prereg/<suite>.yaml; the path."""
    plan = load_plan(suite)
    path = out or REGISTRATIONS / f"{plan.name}.yaml"
    draft = path.stem.endswith(DRAFT)
    if path.exists() and not draft:
        raise UserError(f"{path}: a registration is there, and stays as it is; name another --out")
    declared = read_rules(rules)
    if not claims:  # a claim with a misspelt arm would be left out as one of another suite
        check_arms(declared, rules, plan)
    order = seeds_of(seeds)
    registration = register(plan, declared, claims, order, cap or len(order), metric, draft)
    write_outputs({path: text_of(registration).encode()})
    return path


def seeds_of(text: str) -> range:
    """`11-42`; UserError for anything else."""
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise UserError(f"--seeds = {text!r}: give the first and the last, such as 11-42")
    if int(last) - int(first) >= MOST:
        raise UserError(f"--seeds = {text!r}: these are over {MOST:,}; give fewer")
    return range(int(first), int(last) + 1)


def text_of(registration: Registration) -> str:
    """The file's YAML, short lists and mappings on a line."""
    content = registration.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)


def _list(items) -> str:
    return ", ".join(map(str, items))
