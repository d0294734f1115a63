"""Arms of a suite written out: trials in place of those that are tuned, and those that were."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from hdbench.core.config import Config, nearest, validate
from hdbench.core.errors import UserError
from hdbench.core.files import digest_of
from hdbench.core.yaml_file import read_yaml
from hdbench.suite.overrides import leaves, merge
from hdbench.suite.reading import InFull, arm_in_full, find_suite, read_suite
from hdbench.suite.schema import Arm, TrainedOn
from hdbench.suite.stage import classes_of
from hdbench.suite.tuning import Choice, Choices, Reference, Settings, Trial, Tuned, Tuning

MADE = ("trials", "tuned")  # keys of a suite that are made here


def choices_file(suite: Path) -> Path:
    """Where the choices of a suite with `tuning` are: `tuned/` beside the folder of suites."""
    return suite.parent.parent / "tuned" / f"{suite.stem}.yaml"


def read_choices(path: Path) -> Choices:
    return validate(Choices, read_yaml(path), str(path))


def digest_of_arm(arm: str, data: dict[str, Any], path: Path) -> str:
    """A digest of what is tuned: how an arm of a suite trains, as declared, and on what.

    It covers the arm whose compute it takes, and the versions of objectives and heads; no seed of
    a chain or of a teacher, and none of the settings that an arm has since it was tuned.
    """
    shared = {key: data[key] for key in TrainedOn.model_fields if key in data}
    configs: dict[str, Config] = {"": validate(TrainedOn, shared, str(path))}
    names = [arm]
    for name in names:
        entry = data["arms"][name] or {}
        declared = {key: value for key, value in entry.items() if key != "tuned"}
        whole = arm_in_full(declared, data["base"], path, name).whole
        configs[name] = config = validate(Arm, whole, str(path), ("arms", name))
        for keys, other in leaves(config.model_dump(mode="json")).items():
            if keys[-1] == "equal_total" and other in data["arms"] and other not in names:
                names.append(other)
    unread = {"title": True, "steps": True, "teacher": {"seed"}}  # of images, or a chain's
    return digest_of(
        {
            name: (
                config.model_dump(mode="json", exclude=unread),
                {key: cls.version for key, cls in classes_of(config).items()},
            )
            for name, config in configs.items()
        }
    )


def written_out(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """A suite's mapping with all its arms; what cannot be is a UserError here or when validated."""
    if made := [key for key in MADE if key in data]:
        raise UserError(f"{path}: {made[0]}: is made of `tuning` and of arms; leave it out")
    if not (isinstance(data.get("arms"), dict) and isinstance(data.get("base"), dict)):
        return data
    return with_tuned(data, path) if data.get("tuning") is None else with_trials(data, path)


def with_tuned(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Each arm `{tuned: {suite, arm}}` is that arm, or the one so named, with what was chosen."""
    arms = dict(data["arms"])
    tuned = {}
    for name, entry in data["arms"].items():
        if not is_tuned(entry):
            continue
        where = f"{path}: arms.{name}.tuned"
        reference = validate(Reference, entry["tuned"], str(path), ("arms", name, "tuned"))
        file = choices_file(find_suite(reference.suite))
        entry_of_file = tuned_of(file, reference, where, data.get("seeds"))
        if reference.arm not in data["arms"]:
            known = nearest(reference.arm, data["arms"])
            raise UserError(f"{where}.arm = {reference.arm!r}: unknown arm" + known)
        choice = choice_of(
            entry_of_file, digest_of_arm(reference.arm, data, path), reference, where
        )
        further = {key: value for key, value in entry.items() if key != "tuned"}
        shared = {k: v for k, v in (data["arms"][reference.arm] or {}).items() if k != "tuned"}
        untuned = merge(shared, further)
        written = arm_in_full(untuned, data["base"], path, name)
        arms[name] = with_settings(untuned, written, choice.settings, path, name)
        tuned[name] = {**reference.model_dump(), "choice": choice.model_dump(), "entry": untuned}
    return data | {"arms": arms} | ({"tuned": tuned} if tuned else {})


def is_tuned(entry: Any) -> bool:
    return isinstance(entry, dict) and "tuned" in entry


def tuned_of(file: Path, reference: Reference, where: str, seeds: Any) -> Tuned:
    """The tuning of an arm; UserError without, and where one of its chains is reported."""
    if not file.is_file():
        raise UserError(
            f"{where}: there is no {file}; run {reference.suite}, then `hdbench tuned --suite "
            f"{reference.suite}`"
        )
    choices = read_choices(file)
    if reference.arm not in choices.arms:
        raise UserError(
            f"{where}.arm = {reference.arm!r}: {file} has no choice for it"
            + nearest(reference.arm, choices.arms)
        )
    check_unreported(choices.seeds, seeds, f"{where}: {file}")
    return choices.arms[reference.arm]


def choice_of(tuned: Tuned, digest: str, reference: Reference, where: str) -> Choice:
    """What was chosen for an arm; UserError before that, and of an arm that was another one."""
    again = f"run {reference.suite}, then `hdbench tuned --suite {reference.suite}`"
    if tuned.digest != digest:
        raise UserError(
            f"{where}: settings were chosen for {reference.arm} as it was declared then, and it, "
            f"its data or its network has changed since; {again}"
        )
    if tuned.choice is None:
        raise UserError(
            f"{where}: the last rung of {reference.arm} has not been run, so nothing is chosen; "
            f"{again}"
        )
    return tuned.choice


def check_unreported(validation: Any, reported: Any, where: str) -> None:
    """UserError where a chain that settings were chosen on is one that is reported."""
    if isinstance(validation, list | tuple) and isinstance(reported, list | tuple):
        if both := [seed for seed in validation if seed in reported]:
            raise UserError(
                f"{where}: settings are chosen on chain {both[0]}, which is reported too; choose "
                "other seeds for one of them"
            )


def with_trials(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """A suite with `tuning` has the trials of its arms, and the arms whose compute they take.

    An arm with a recipe is tuned by the recipe's knob, others where `tuning.knobs` names one; with
    `tuning.arms` those of them that it names.  Arms of the suite that it extends that were tuned
    here are left out.
    """
    untuned = {arm: entry for arm, entry in data["arms"].items() if not is_tuned(entry)}
    data = data | {"arms": untuned}
    tuning = validate(Tuning, data["tuning"], str(path), ("tuning",))
    check_reported_apart(data, path)
    for key in ("knobs", "arms"):
        for arm in getattr(tuning, key) or ():
            if arm not in data["arms"]:
                known = nearest(arm, data["arms"])
                raise UserError(f"{path}: tuning.{key}: {arm!r}: unknown arm" + known)
    made = earlier_choices(path, tuning, data.get("seeds"))
    trials: dict[str, Trial] = {}
    arms: dict[str, Any] = {}
    budgets: dict[str, Any] = {}
    for arm, entry in data["arms"].items():
        if tuning.arms is not None and arm not in tuning.arms:
            continue
        written = arm_in_full(entry, data["base"], path, arm)
        digest = digest_of_arm(arm, data, path)
        going_on = made[arm].going_on if arm in made and made[arm].digest == digest else ()
        for trial, changes in trials_of(arm, written, tuning, digest, path):
            rung = tuning.rungs.index(trial.share)
            kept = going_on[rung - 1] if 0 < rung <= len(going_on) else {}
            if rung and kept.get(trial.label) != trial.settings:
                continue
            trials[trial.name] = trial
            arms[trial.name] = with_settings(entry or {}, written, changes, path, arm)
            for keys, other in leaves(written.whole).items():
                if keys[-1] == "equal_total" and other in data["arms"]:
                    budgets[other] = data["arms"][other]
    if not trials:
        raise UserError(
            f"{path}: tuning: no arm has a recipe with a knob, and tuning.knobs has none"
        )
    for name in tuning.diverged:
        if name not in trials:
            raise UserError(f"{path}: tuning.diverged = {name!r}: no trial" + nearest(name, trials))
    return data | {
        "arms": budgets | arms,
        "trials": {name: trial.model_dump() for name, trial in trials.items()},
        "tables": ["main"],
        "claims": [],
        "stage2_seeds": {},
    }


def earlier_choices(path: Path, tuning: Tuning, seeds: Any) -> dict[str, Tuned]:
    """By arm, what this rule has chosen on these chains so far."""
    file = choices_file(path)
    choices = read_choices(file) if file.is_file() else None
    is_by_rule = choices and isinstance(seeds, list | tuple) and choices.is_by(tuning, tuple(seeds))
    return choices.arms if choices and is_by_rule else {}


def trials_of(
    arm: str, written: InFull, tuning: Tuning, digest: str, path: Path
) -> list[tuple[Trial, Settings]]:
    """An arm's trials on every rung, with all that each changes, by path; none without a knob."""
    where = f"{path}: arms.{arm}"
    knob = tuning.knobs.get(arm) or (written.recipe and written.recipe.knob)
    if not knob:
        if written.recipe or tuning.arms:
            raise UserError(
                f"{where}: it has no knob; add one to its recipe, or tuning.knobs.{arm}, or leave "
                "it out"
            )
        return []
    whole = validate(Arm, written.whole, str(path), ("arms", arm))
    values = whole.model_dump(mode="json")
    if problem := knob.problem(values):
        raise UserError(f"{where}: knob.{problem}")
    stage = "refine" if whole.refine else "trajectory"
    training = values[stage]  # `knob.problem`: the arm has settings, so it is trained
    trials = []
    for share, rate, number in product(tuning.rungs, tuning.rates, (0, 1)):
        settings = {}
        if rate != 1:
            settings[f"{stage}.learning_rate"] = rate * training["learning_rate"]
        if knob.values[number] != leaves(values)[knob.keys]:
            settings[knob.path] = knob.values[number]
        # sampled with as many steps as it is trained for; of any number, with the fewest
        sampled = (whole.trained_steps or min(whole.steps),)
        changes: Settings = {} if whole.steps == sampled else {"steps": list(sampled)}
        if len(tuning.rungs) > 1:
            changes[f"{stage}.stops"] = [stop for stop in tuning.rungs if stop <= share]
        trial = Trial(
            arm=arm, digest=digest, rate=rate, value=number, share=share, settings=settings
        )
        trials.append((trial, settings | changes))
    return trials


def check_reported_apart(data: dict[str, Any], path: Path) -> None:
    """The validation chains are none of the suite's that this one extends."""
    parent = read_yaml(path).get("extends")
    if parent is None:
        return
    reported = read_suite(find_suite(str(parent)))
    further = reported.get("stage2_seeds") or {}
    seeds = [*(reported.get("seeds") or ()), *(s for given in further.values() for s in given)]
    check_unreported(data.get("seeds"), seeds, f"{path}: seeds, of {parent}")


def with_settings(
    entry: Any, written: InFull, settings: dict[str, Any], path: Path, arm: str
) -> dict[str, Any]:
    """An arm's entry with these values by path, none of them its own.

    A value that its base or recipe has is left out, as a suite wants it.
    """
    for setting, value in settings.items():
        keys = tuple(setting.split("."))
        inherits = keys in leaves(written.override) and value == inherited(written, keys, path, arm)
        entry = replaced(entry, keys, value, keep=not inherits)
    return entry


def inherited(written: InFull, keys: tuple[str, ...], path: Path, arm: str) -> Any:
    """What an arm has at these keys without its entry's value; None: nothing, or it is no arm."""
    override = replaced(written.override, keys, None, keep=False)
    try:
        whole = validate(Arm, merge(written.base, override), str(path), ("arms", arm))
    except UserError:
        return None
    return leaves(whole.model_dump(mode="json")).get(keys)


def replaced(entry: Any, keys: tuple[str, ...], value: Any, keep: bool) -> dict[str, Any]:
    """A copy of nested mappings with a value at these keys, or without these keys."""
    first, *rest = keys
    entry = dict(entry) if isinstance(entry, dict) else {}
    if rest:
        entry[first] = replaced(entry.get(first), tuple(rest), value, keep)
        if not entry[first]:
            del entry[first]
    elif keep:
        entry[first] = value
    else:
        entry.pop(first, None)
    return entry
