"""Mistakes in a suite, what arms differ in, and what the digests depend on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from hdbench.cli import main
from hdbench.core.errors import UserError
from hdbench.datasets import DATASETS
from hdbench.methods import OBJECTIVES
from hdbench.metrics.records import read_metrics
from hdbench.report.numbers import Numbers
from hdbench.report.tables import TABLES
from hdbench.suite import budget, reading
from hdbench.suite import stage as suite_stage
from hdbench.suite.arms import base_arm, describe
from hdbench.suite.budget import pairs_cost, total_cost
from hdbench.suite.load import load_plan
from hdbench.suite.measuring import measured_by
from hdbench.suite.overrides import merge
from hdbench.suite.plan import Plan, rows_of
from hdbench.suite.reading import RECIPES, SUITES, find_suite, read_suite
from hdbench.suite.trials import written_out
from tests.support import shipped
from tests.support.tiny import REMOVED, REPOSITORY, changed, stage_of, tiny_plan, write_suite

STUDENTS = OBJECTIVES.keys() - {"flow_matching", "cross_entropy", "contrastive", "autoencoding"}


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    """Suites given by name are looked for in workflow/suites."""
    monkeypatch.chdir(REPOSITORY)


def refuse(path: Path | str, results: Path, sentence: str) -> None:
    """The command says exactly this and nothing else, exits with 2, and writes nothing."""
    result = CliRunner().invoke(
        main, ["stage", "teacher", "--suite", str(path), "--results", str(results)]
    )
    assert result.output == f"hdbench: {sentence}\n"
    assert result.exit_code == 2
    assert not results.exists()


MISTAKES = [
    # an unknown or misspelt key, at any depth
    ("titel", "x", "titel = \"x\": unknown key; did you mean 'title'?"),
    ("extend", "digits", "extend = \"digits\": unknown key; did you mean 'extends'?"),
    ("teacher.guidence", 1.0, "teacher.guidence = 1.0: unknown key; did you mean 'guidance'?"),
    (
        "teacher.training.learning_rat",
        0.1,
        "teacher.training.learning_rat = 0.1: unknown key; did you mean 'learning_rate'?",
    ),
    (
        "teacher.training.objective.label_dropuot",
        0.1,
        "teacher.training.objective.label_dropuot = 0.1: unknown key; did you mean "
        "'label_dropout'?",
    ),
    (
        "classifier.network.widht",
        8,
        "classifier.network.widht = 8: unknown key; did you mean 'width'?",
    ),
    ("evaluation.sample", 3, "evaluation.sample = 3: unknown key; did you mean 'samples'?"),
    ("tables.main.row", ["hd"], "tables.main.row = [\"hd\"]: unknown key; did you mean 'rows'?"),
    (
        "base.refine.objective.gan.loos",
        "hinge",
        "base.refine.objective.gan.loos = \"hinge\": unknown key; did you mean 'loss'?",
    ),
    (
        "base.refine.steps",
        {"equal": "hd"},
        "base.refine.steps.equal = \"hd\": unknown key; did you mean 'equal_total'?",
    ),
    (
        "arms.hd",
        {"trajectry": None},
        "arms.hd.trajectry = null: unknown key; did you mean 'trajectory'?",
    ),
    (
        "arms.hd.refine",
        {"objective": {"gan": {"blokcs": [1]}}},
        "arms.hd.refine.objective.gan.blokcs = [1]: unknown key; did you mean 'blocks'?",
    ),
    (
        "arms.cd.trajectory.objective",
        {"name": "consistency", "prob_r_equals_t": 0.5},
        "arms.cd.trajectory.objective.prob_r_equals_t = 0.5: unknown key; valid: adaptive_offset, "
        "adaptive_power, intervals, name",
    ),
    # a wrong type
    ("teacher.training.steps", "many", 'teacher.training.steps = "many": must be an integer'),
    ("teacher.training.steps", 1.5, "teacher.training.steps = 1.5: must be an integer"),
    ("teacher.training.batch", True, "teacher.training.batch = true: must be an integer"),
    (
        "teacher.training.learning_rate",
        "1_000",
        'teacher.training.learning_rate = "1_000": must be a number; this is a text, write a '
        "number such as 1000 or 1e-3",
    ),
    (
        "teacher.training.learning_rate",
        math.nan,
        "teacher.training.learning_rate = NaN: must be a finite number",
    ),
    ("title", 3, "title = 3: must be a text"),
    ("seeds", 0, "seeds = 0: must be a list"),
    ("seeds", ["a"], 'seeds.0 = "a": must be an integer'),
    ("data", "digits", 'data = "digits": must be a mapping of keys to values'),
    ("arms", ["hd"], 'arms = ["hd"]: must be a mapping of keys to values'),
    ("arms.hd", "x", 'arms.hd = "x": must be a mapping of keys to values'),
    ("arms.hd", False, "arms.hd = false: must be a mapping of keys to values"),
    ("only", "hd", "only = 'hd': must be a list of arms"),
    # a missing key
    ("title", REMOVED, "title: this key is missing; add it"),
    ("base", REMOVED, "base: this key is missing; add it"),
    ("data.name", REMOVED, "data.name: this key is missing; add it"),
    ("teacher.training.ema", REMOVED, "teacher.training.ema: this key is missing; add it"),
    (
        "teacher.training.objective.name",
        REMOVED,
        "teacher.training.objective.name: this key is missing; add it",
    ),
    ("teacher.training.betas", [0.9], "teacher.training.betas.1: this item is missing; add it"),
    # an unknown data set, method, head or word
    ("data.name", "digit", "data.name = \"digit\": unknown; did you mean 'digits'?"),
    ("data.name", "mnist", f'data.name = "mnist": unknown; valid: {", ".join(sorted(DATASETS))}'),
    (
        "base.trajectory.objective.name",
        "meanflo",
        "base.trajectory.objective.name = \"meanflo\": unknown; did you mean 'meanflow'?",
    ),
    (
        "arms.cd.trajectory.objective",
        {"name": "consistancy"},
        "arms.cd.trajectory.objective.name = \"consistancy\": unknown; did you mean 'consistency'?",
    ),
    (
        "arms.hd_patch.refine",
        {"objective": {"discriminator": "pach"}},
        "arms.hd_patch.refine.objective.discriminator = \"pach\": unknown; did you mean 'patch'?",
    ),
    (
        "teacher.training.schedule",
        "cosin",
        "teacher.training.schedule = \"cosin\": unknown; did you mean 'cosine'?",
    ),
    (
        "arms.real_train.real",
        "trian",
        "arms.real_train.real = \"trian\": unknown; did you mean 'train'?",
    ),
    # a method in a stage where it cannot work
    (
        "teacher.training.objective.name",
        "consistency",
        "teacher.training.objective.name = 'consistency': not for this stage; valid: flow_matching",
    ),
    (
        "classifier.training.objective.name",
        "meanflow",
        "classifier.training.objective.name = 'meanflow': not for this stage; valid: cross_entropy",
    ),
    (
        "base.trajectory.objective.name",
        "flow_matching",
        "base.trajectory.objective.name = 'flow_matching': not for this stage; valid: "
        + ", ".join(sorted(STUDENTS)),
    ),
    # numbers out of range
    (
        "teacher.training.steps",
        0,
        "teacher.training.steps = 0: a training stage takes at least 1 step",
    ),
    ("base.refine.steps", -3, "base.refine.steps = -3: a training stage takes at least 1 step"),
    ("arms.td.steps", [1, 0], "arms.td.steps = [1, 0]: sampling takes at least 1 step"),
    (
        "arms.hd.steps",
        [2],
        "arms.hd.steps = [2]: an arm with 'refine' is a one-step generator; set steps to [1]",
    ),
    ("arms.td.steps", [], "arms.td.steps = []: must have at least 1 entry"),
    ("teacher.training.batch", 0, "teacher.training.batch = 0: must be greater than or equal to 1"),
    (
        "teacher.training.learning_rate",
        0.0,
        "teacher.training.learning_rate = 0.0: must be greater than 0",
    ),
    ("teacher.training.betas", [0.9, 1.5], "teacher.training.betas.1 = 1.5: must be less than 1"),
    (
        "teacher.guidance",
        {"scale": 1.5, "interval": [0.5, 0.2]},
        "teacher.guidance.interval = [0.5, 0.2]: the first must not be above the second",
    ),
    ("seeds", [], "seeds = []: must have at least 1 entry"),
    ("seeds", [0, 0], "seeds = [0, 0]: one appears twice; remove it"),
    ("seeds", [-1], "seeds.0 = -1: must be greater than or equal to 0"),
    ("stage2_seeds", {"0": [-3]}, "stage2_seeds.0.0 = -3: must be greater than or equal to 0"),
    # combinations
    ("network.patch", 3, "network.patch = 3 does not divide the image side 8; choose a divisor"),
    (
        "network.heads",
        3,
        'network = {"width": 16, "depth": 2, "heads": 3, "patch": 2}: width 16 must be a multiple '
        "of 4 and of 2 * heads = 6",
    ),
    (
        "base.refine.objective.gan.blocks",
        [1, 3],
        "base.refine.objective.gan.blocks = [1, 3]: the network has blocks 1 to 2",
    ),
    (
        "arms.hd_patch.refine.objective.gan",
        {"blocks": [0]},
        "arms.hd_patch.refine.objective.gan.blocks = [0]: the network has blocks 1 to 2",
    ),
    (
        "arms.drifting",
        {"recipe": "drifting"},
        "arms.drifting.refine.objective.blocks = [2, 3]: the network has blocks 1 to 2",
    ),
    (
        "arms.hd_patch.refine.objective.gan",
        {"parameters": 3},
        "arms.hd_patch.refine.objective.gan.parameters = 3: no width "
        "of head patch comes within 10% of 3 parameters; the nearest has 38",
    ),
    (
        "evaluation.samples",
        700,
        "evaluation.samples = 700, but digits has only 450 real images for each side of a "
        "comparison; lower it",
    ),
    (
        "evaluation.neighbours",
        64,
        "evaluation.neighbours = 64: must be below evaluation.samples = 64",
    ),
    (
        "evaluation.sensitivity",
        3,
        "evaluation.sensitivity = 3: must be above evaluation.neighbours = 3",
    ),
    (
        "evaluation.bands",
        5,
        "evaluation.bands = 5, but images of side 8 have only 4 frequencies; lower it",
    ),
    (
        "arms.hd.real",
        "train",
        "arms.hd.real = 'train': real images take no model; set trajectory and refine to null",
    ),
    (
        "arms.hd.trajectory",
        {"steps": 10},
        "arms.hd.trajectory.steps = 10: that is the base's value; remove it",
    ),
    (
        "arms.hd.trajectory",
        {"schedule": "cosine"},
        "arms.hd.trajectory.schedule = 'cosine': that is the base's value; remove it",
    ),
    # names of arms
    (
        "tables.main.rows",
        ["hd", "hd_pach"],
        "tables.main.rows = 'hd_pach': unknown arm; did you mean 'hd_patch'?",
    ),
    ("only", ["hd", "teachr"], "only = 'teachr': unknown arm; did you mean 'teacher'?"),
    (
        "arms.dmd_total.refine",
        {"steps": {"equal_total": "hd_patsh"}},
        "arms.dmd_total.refine.steps.equal_total = 'hd_patsh': unknown arm; did you mean "
        "'hd_patch'?",
    ),
    (
        "arms.dmd_total.refine",
        {"steps": {"equal_total": "dmd_total"}},
        "arms.dmd_total.refine.steps.equal_total = 'dmd_total': that arm's steps are not a number",
    ),
    (
        "arms.dmd_total.refine",
        {"steps": {"equal_total": "teacher"}},
        "arms.dmd_total: the compute of 'teacher' leaves no step for refine",
    ),
    (
        "base.trajectory.steps",
        {"equal_total": "hd"},
        "base.trajectory.steps = {'equal_total': 'hd'}: must be an integer; equal_total is for "
        "arms",
    ),
    (
        "extends",
        "digitz",
        "extends = 'digitz': no suite 'digitz' in workflow/suites; did you mean 'digits'?",
    ),
]


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    MISTAKES,
    ids=[f"{key}-{n}" for n, (key, *_) in enumerate(MISTAKES)],
)
def test_a_mistake_is_one_sentence_before_any_compute(tmp_path, key, value, sentence):
    path = write_suite(tmp_path, {key: value})
    refuse(path, tmp_path / "results", f"{path}: {sentence}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "title: [1",
            "not valid YAML at line 1: expected ',' or ']', but got '<stream end>'; fix it",
        ),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3", "line 5: key 'c' appears twice; remove one"),
        (
            "a:\n\tb: 1",
            "not valid YAML at line 2: found character '\\t' that cannot start any token; fix it",
        ),
        (
            "x: !!python/name:os.system y",
            "not valid YAML at line 1: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/name:os.system'; fix it",
        ),
        ("- 1", "must hold a mapping of keys to values, not list"),
        ("", "must hold a mapping of keys to values, not nothing"),
    ],
)
def test_a_file_that_is_not_a_suite(tmp_path, text, sentence):
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    refuse(path, tmp_path / "results", f"{path}: {sentence}")


def test_no_such_file_or_suite(tmp_path):
    results = tmp_path / "results"
    refuse(
        tmp_path / "no.yaml",
        results,
        f"{tmp_path}/no.yaml: cannot be read (No such file or directory); give the path of a "
        "suite file",
    )
    (tmp_path / "folder.yaml").mkdir()
    refuse(
        tmp_path / "folder.yaml",
        results,
        f"{tmp_path}/folder.yaml: cannot be read (a folder, not a file); give the path of a suite "
        "file",
    )
    refuse("demoo", results, "no suite 'demoo' in workflow/suites; did you mean 'demo'?")


def test_suites_that_extend_each_other(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(f"extends: {second}\n", encoding="utf-8")
    second.write_text(f"extends: {first}\n", encoding="utf-8")
    refuse(
        first,
        tmp_path / "results",
        f"{first}: extends itself, by way of {first}, {second}; name another suite",
    )


def test_a_replaced_mapping_may_repeat_the_base(tmp_path):
    """`consistency` drops all keys of the base's `meanflow`: what both have is written again."""
    plan = tiny_plan(
        tmp_path,
        {
            "base.trajectory.objective.adaptive_power": 0.5,
            "arms.cd.trajectory.objective.adaptive_power": 0.5,
        },
    )
    assert plan.arms["cd"].trajectory.objective.adaptive_power == 0.5


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves by dotted path."""
    if not isinstance(value, dict):
        return {path: value}
    return {
        p: v
        for key, child in value.items()
        for p, v in flat(child, f"{path}.{key}" if path else key).items()
    }


def collapsed(paths: set[str], declared: set[str]) -> set[str]:
    """Paths below a declared one become that one, whose mapping was replaced, perhaps by null."""
    return {next((d for d in declared if p == d or p.startswith(f"{d}.")), p) for p in paths}


def differing(a: dict[str, Any], b: dict[str, Any]) -> set[str]:
    a, b = flat(a), flat(b)
    return {path for path in a.keys() | b.keys() if a.get(path, ...) != b.get(path, ...)}


def declared_paths(name: str) -> dict[str, set[str]]:
    """What each arm's entry says that it changes, by the file alone; a replaced mapping is one."""
    data = written_out(read_suite(SUITES / f"{name}.yaml"), SUITES / f"{name}.yaml")

    def walk(override: Any, base: Any, path: tuple[str, ...]) -> set[str]:
        replaced = (
            isinstance(override, dict)
            and "name" in override
            and override["name"] != (base or {}).get("name")
        )
        if not isinstance(override, dict) or not isinstance(base, dict) or replaced:
            return {".".join(path)}
        return set().union(
            *(walk(value, base.get(key), (*path, key)) for key, value in override.items())
        )

    return {arm: walk(override or {}, data["base"], ()) for arm, override in data["arms"].items()}


@pytest.mark.parametrize("name", shipped.SUITES)
def test_arms_differ_in_exactly_the_fields_that_they_declare(name):
    plan = load_plan(name)
    declared = declared_paths(name)
    dumps = {
        arm: resolved.model_dump(mode="json")
        for arm, resolved in plan.arms.items()
        if arm not in plan.recipes  # which name all of theirs
    }
    base = plan.suite.base.model_dump(mode="json")
    for arm, dump in dumps.items():
        assert collapsed(differing(base, dump), declared[arm]) == declared[arm], arm
    for a in dumps:
        for b in dumps:
            union = declared[a] | declared[b]
            assert collapsed(differing(dumps[a], dumps[b]), union) <= union, (a, b)


def ids(plan: Plan, *kinds: str) -> set[str]:
    return {stage.id for stage in plan.stages.values() if not kinds or stage.kind in kinds}


def test_equal_suites_have_equal_stages(tmp_path):
    assert list(tiny_plan(tmp_path).stages) == list(tiny_plan(tmp_path).stages)


def test_the_demo_is_a_part_of_the_reference_run():
    demo, reference = load_plan("demo"), load_plan("textured_digits")
    assert ids(demo) < ids(reference)
    assert [
        row
        for row in reference.rows
        if row.arm in demo.arms and row.seed in (*demo.suite.seeds, None)
    ] == demo.rows


def test_a_cosmetic_edit_changes_no_id(tmp_path):
    before = tiny_plan(tmp_path)

    def backwards(value: Any) -> Any:
        return (
            {key: backwards(value[key]) for key in reversed(value)}
            if isinstance(value, dict)
            else value
        )

    data = backwards(
        changed({"title": "Another", "tables.main.caption": "Another.", "tables.cost.rows": ["hd"]})
    )
    text = "# A comment.\n" + yaml.safe_dump(data, sort_keys=False).replace(
        "seeds:", "seeds:  # one\n"
    )
    path = tmp_path / "renamed.yaml"
    path.write_text(text, encoding="utf-8")
    assert ids(load_plan(str(path))) == ids(before)


def test_another_head_changes_that_arms_own_stages_alone(tmp_path):
    before = tiny_plan(tmp_path)
    after = tiny_plan(tmp_path, {"arms.hd_patch.refine.objective.discriminator": "conv"})
    own = {stage_of(before, kind, "hd_patch") for kind in ("refine", "sample", "evaluate")}
    assert ids(before) - ids(after) == own
    assert ids(after) - ids(before) == {
        stage_of(after, kind, "hd_patch") for kind in ("refine", "sample", "evaluate")
    }


@pytest.mark.parametrize(
    ("key", "value", "real_too"),
    [
        ("data.seed", 1, True),
        ("classifier.seed", 1, True),
        ("classifier.network.width", 16, True),
        ("classifier.training.batch", 8, True),
        ("evaluation.samples", 32, True),
        ("evaluation.neighbours", 2, True),
        ("evaluation.bands", 2, True),
        ("evaluation.seed", 1, False),
        ("network.width", 32, False),
        ("teacher.guidance", 2.0, False),
        ("teacher.guidance", {"scale": 1.5, "interval": [0.0, 0.5]}, False),
        ("teacher.training.steps", 9, False),
    ],
)
def test_no_setting_can_change_without_new_metrics(tmp_path, key, value, real_too):
    """One of data, classifier or evaluation reaches all rows, of networks all but real images."""
    before, after = tiny_plan(tmp_path), tiny_plan(tmp_path, {key: value})
    for row, other in zip(before.rows, after.rows, strict=True):
        is_new = row.stages["evaluate"] != other.stages["evaluate"]
        assert is_new == (real_too or not before.arms[row.arm].real), row.arm


@pytest.mark.parametrize("kind", suite_stage.KINDS)
def test_a_new_stage_version_changes_that_kind_and_its_descendants(tmp_path, monkeypatch, kind):
    before = tiny_plan(tmp_path)
    monkeypatch.setitem(suite_stage.VERSIONS, kind, 7)
    after = tiny_plan(tmp_path)

    def rests_on(stage_id: str) -> bool:
        stage = before.stages[stage_id]
        return stage.kind == kind or any(rests_on(parent) for parent in stage.parents.values())

    assert ids(before) - ids(after) == {
        stage_id for stage_id in before.stages if rests_on(stage_id)
    }
    assert len(after.stages) == len(before.stages)


@pytest.mark.parametrize("splits", ["chain", "suite"])
def test_every_seed_is_a_whole_chain(tmp_path, splits):
    """With its own split of the originals and its own classifier, or with those of all."""
    plan = tiny_plan(tmp_path, {"seeds": [0, 1, 2], "splits": splits})
    chains = [{row.arm: row.stages for row in plan.rows if row.seed == seed} for seed in (0, 1, 2)]
    arms = {arm for arm in plan.arms if splits == "chain" or not plan.arms[arm].real}
    assert chains[0].keys() == chains[1].keys() == chains[2].keys() == arms
    for arm in chains[0]:
        for kind in chains[0][arm]:
            assert len({chain[arm][kind] for chain in chains}) == 3, (arm, kind)
    for kind in ("data", "classifier", "reference"):
        assert len(ids(plan, kind)) == (3 if splits == "chain" else 1)
    real = {row.seed for row in plan.rows if plan.arms[row.arm].real}
    assert real == ({0, 1, 2} if splits == "chain" else {None})


def test_chains_train_split_and_sample_with_their_seed(tmp_path):
    changes = {"seeds": [0, 3], "evaluation.seed": 5, "data.seed": 7, "classifier.seed": 9}
    plan = tiny_plan(tmp_path, changes)
    for row in plan.rows:
        configs = {kind: plan.stages[stage].config for kind, stage in row.stages.items()}
        sample = configs.pop("sample")
        if not plan.arms[row.arm].real:
            assert (sample.seed, sample.chain) == (5, row.seed)
        parents = plan.stages[row.stages["evaluate"]].parents
        assert plan.stages[parents["data"]].config.dataset.seed == 7 + row.seed
        assert plan.stages[parents["classifier"]].config.seed == 9 + row.seed
        del configs["evaluate"]
        assert {config.seed for config in configs.values()} <= {row.seed}


def test_the_first_chain_is_the_same_alone_and_a_fixed_split_is_another_protocol(tmp_path):
    """A suite of one chain shares its stages with that chain of a larger one."""
    several, alone = (tiny_plan(tmp_path, {"seeds": seeds}) for seeds in ([2, 5], [2]))
    assert alone.stages.keys() < several.stages.keys()
    assert measured_by(alone.suite) == measured_by(several.suite)
    fixed = tiny_plan(tmp_path, {"seeds": [2], "splits": "suite"})
    assert measured_by(fixed.suite) != measured_by(alone.suite)
    (reference,) = ids(fixed, "reference")
    assert measured_by(fixed.suite) == f"classifier:{fixed.stages[reference].digest}"


@pytest.mark.parametrize("name", shipped.SUITES)
def test_controls_of_equal_compute_cost_as_much_as_their_target(name):
    plan = load_plan(name)
    data = read_suite(SUITES / f"{name}.yaml")
    found = 0
    for arm, override in data["arms"].items():
        steps = (merge(data["base"], override or {})["refine"] or {}).get("steps")
        if isinstance(steps, dict):
            control, target = plan.arms[arm], plan.arms[steps["equal_total"]]
            one_step = budget.cost_per_step(plan, control.refine)
            assert abs(total_cost(plan, control) - total_cost(plan, target)) <= one_step
            assert control.refine.steps > target.refine.steps
            found += 1
    assert found or not any(arm.startswith("dmd") for arm in plan.arms)


# recipes


def values_of(config):
    """Keys of a configuration, but for those that are left out where nothing is wished."""
    return {key for key, field in type(config).model_fields.items() if field.exclude_if is None}


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped.RECIPES)
def test_a_recipe_is_whole_and_an_arm_of_the_reference_run(name):
    """It names all its arm's values: no base changes it, and its budget alone is another arm's."""
    _, written, recipe = reading.read_recipe(name, "")
    assert written.keys() == values_of(recipe.arm)
    for kind in ("trajectory", "refine"):
        if written[kind]:
            fields = type(getattr(recipe.arm, kind)).model_fields.keys()
            assert values_of(getattr(recipe.arm, kind)) <= written[kind].keys() <= fields
    plan = load_plan("textured_digits")
    (arm,) = (
        arm
        for arm, found in plan.recipes.items()
        if found == recipe and "recipe" in plan.suite.arms[arm] and len(plan.suite.arms[arm]) == 1
    )
    files = reading.recipe_files(RECIPES / f"{name}.yaml")
    assert arm in TABLES["methods"]().rows(plan) and set(files) <= set(plan.sources)
    steps = [
        training.steps
        for training in (plan.arms[arm].trajectory, plan.arms[arm].refine)
        if training
    ]
    ratio = total_cost(plan, plan.arms[arm]) / total_cost(plan, plan.arms["hd"])
    assert ratio == pytest.approx(1, abs=0.5 / min(steps))


def test_every_shipped_method_has_a_recipe():
    """A user's own method needs none."""
    with_recipe = {
        kind["objective"]["name"]
        for name in shipped.RECIPES
        for kind in (reading.read_recipe(name, "")[1][stage] for stage in ("trajectory", "refine"))
        if kind
    }
    assert len(with_recipe) == 32 and with_recipe <= STUDENTS


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"recipe": "knowlege"},
            "arms.kd.recipe = 'knowlege': no such recipe in workflow/recipes; did you mean "
            "'knowledge'?",
        ),
        (
            {"recipe": "knowledge", "trajectory": {"batch": 128}},
            "arms.kd.trajectory.batch = 128: that is workflow/recipes/knowledge.yaml's value; "
            "remove it",
        ),
        (
            {"recipe": "knowledge", "trajectory": {"bach": 1}},
            "arms.kd.trajectory.bach = 1: unknown key; did you mean 'batch'?",
        ),
        ({"recipe": "knowledge"}, "arms.kd: the compute of 'hd' leaves no step for trajectory"),
        (
            {"recipe": "progressive", "trajectory": {"steps": 4}},
            "arms.kd.trajectory.steps = 4: its objective has 5 rounds; give it at least a step "
            "for each",
        ),
    ],
)
def test_a_mistake_with_a_recipe_is_one_sentence(tmp_path, change, sentence):
    path = write_suite(tmp_path, {"arms.kd": change})
    refuse(path, tmp_path / "results", f"{path}: {sentence}")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"hyper_parameters": {"refine": "ours"}},
            "hyper_parameters: nothing says where arm.real, arm.steps, arm.trajectory.",
        ),
        (
            {
                "hyper_parameters": {
                    "refine": "a",
                    "trajectory": "b",
                    "real": "c",
                    "steps": "d",
                    "trajectory.batsh": "e",
                }
            },
            "hyper_parameters.trajectory.batsh: the arm has no such value",
        ),
        ({"titel": "x"}, "titel = 'x': unknown key; did you mean 'title'?"),
    ],
)
def test_a_recipe_says_where_every_value_is_from(tmp_path, monkeypatch, change, sentence):
    data = yaml.safe_load((REPOSITORY / RECIPES / "knowledge.yaml").read_text(encoding="utf-8"))
    shared = yaml.safe_load((REPOSITORY / RECIPES / "_trajectory.yaml").read_text(encoding="utf-8"))
    data = merge(shared, data, unnamed=True) | change
    data.pop("extends")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    monkeypatch.setattr("hdbench.suite.reading.RECIPES", tmp_path)
    path = write_suite(tmp_path, {"arms.kd": {"recipe": "mine"}})
    result = CliRunner().invoke(main, ["plan", "--suite", str(path)])
    assert (
        result.exit_code == 2
        and sentence.replace("'x'", '"x"') in result.output
        and result.output.count("\n") == 1
    )


KD = {
    "trajectory": {"objective": {"name": "knowledge", "pairs": {"count": 32, "steps": 2}}},
    "refine": None,
}


def test_an_objective_with_pairs_pulls_them_in_and_pays_for_them(tmp_path):
    """One stage of pairs for all that want the same ones; its cost is part of each arm's budget."""
    plan = tiny_plan(
        tmp_path,
        {
            "arms.kd": KD,
            "arms.hd_kd": KD | {"refine": {}},
            "arms.kd_total": merge(KD, {"trajectory": {"steps": {"equal_total": "hd"}}}),
        },
    )
    pairs = {stage.id for stage in plan.stages.values() if stage.kind == "pairs"}
    assert (
        pairs == {stage_of(plan, "trajectory_pairs", arm) for arm in ("kd", "hd_kd", "kd_total")}
        and len(pairs) == 1
    )
    kd, total = plan.arms["kd"], plan.arms["kd_total"]
    cost = pairs_cost(kd.trajectory.objective.pairs_needed(), guided=True)
    assert cost == 32 * 2 * 2 and total_cost(plan, kd) == cost + 3 * 16 * kd.trajectory.steps
    assert total.trajectory.steps == round((total_cost(plan, plan.arms["hd"]) - cost) / (3 * 16))
    assert list(plan.stages).index(pairs.pop()) < list(plan.stages).index(
        stage_of(plan, "trajectory", "kd")
    )


@pytest.mark.parametrize(
    "name", ["textured_digits", "captions", "local_flaws", "local_flaws_tuning"]
)
def test_committed_numbers_are_of_the_present_suite_or_said_to_be_of_an_earlier_one(name):
    frame = read_metrics(REPOSITORY / "paper_tables" / name / "metrics.csv")
    plan = load_plan(name)
    numbers = Numbers(plan, frame, Path("results"), lenient=True)
    assert len(numbers.frame) == len(frame)
    present = {plan.stage(row.stages["evaluate"]).digest for row in plan.rows}
    earlier = int((~frame.digest.isin(present)).sum())
    note = f"{earlier} of {len(frame)} numbers were made by another version of this suite."
    assert (note in numbers.notes) == bool(earlier)


# grids, titles, and what is missing


def test_a_grid_is_an_arm_for_each_combination(tmp_path):
    """Names from the choices, values in their places, texts filled in, and in the grid's place."""
    grid = {
        "refine": {
            "objective": {
                "discriminator": ["patch", "conv"],
                "gan": {"weak": {"relative_weight": 0.1}, "strong": {"relative_weight": 2.0}},
            }
        }
    }
    control = {
        "trajectory": None,
        "refine": {
            "objective": {"discriminator": ["patch", "conv"]},
            "steps": {"equal_total": "hd_{discriminator}_weak"},
        },
    }
    arms = {
        "hd": {},
        "hd_{discriminator}_{gan}": grid,
        "dmd_{discriminator}": control,
        "td": {"refine": None},
    }
    plan = tiny_plan(tmp_path, {"arms": arms, "tables": {}})
    assert list(plan.arms) == [
        "hd",
        "hd_patch_weak",
        "hd_patch_strong",
        "hd_conv_weak",
        "hd_conv_strong",
        "dmd_patch",
        "dmd_conv",
        "td",
    ]
    for head in ("patch", "conv"):
        for name, weight in {"weak": 0.1, "strong": 2.0}.items():
            objective = plan.arms[f"hd_{head}_{name}"].refine.objective
            assert (objective.discriminator, objective.gan.relative_weight) == (head, weight)
        assert plan.declared[f"dmd_{head}"].refine.steps.equal_total == f"hd_{head}_weak"
    only = tiny_plan(
        tmp_path, {"arms": arms, "tables": {}, "only": ["hd", "hd_{discriminator}_{gan}"]}
    )
    assert list(only.arms) == list(plan.arms)[:5]


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        ({"hd_{head}": {}}, "arms.hd_{head}: no key of its override is 'head'"),
        (
            {"a_{steps}": {"refine": {"steps": 9}}},
            "arms.a_{steps}: steps = 9: must be a list of choices, or a mapping of names to values",
        ),
        (
            {"a_1": {}, "a_{batch}": {"refine": {"batch": [1, 2]}}},
            "arms.a_{batch}: the arm 'a_1' appears twice; remove one",
        ),
    ],
)
def test_a_mistake_in_a_grid_is_one_sentence(tmp_path, arms, sentence):
    path = write_suite(tmp_path, {"arms": arms})
    result = CliRunner().invoke(main, ["plan", "--suite", str(path)])
    assert result.exit_code == 2 and result.output.startswith(f"hdbench: {path}: {sentence}")


def test_a_title_names_an_arm_and_changes_no_stage(tmp_path):
    changes = {"arms.mine": {"refine": {"learning_rate": 1.0e-3}}}
    before = tiny_plan(tmp_path, changes)
    changes["arms.mine"]["title"] = "Mine"
    after = tiny_plan(tmp_path, changes | {"arms.hd": {"title": "The base"}})
    assert ids(after) == ids(before)
    assert (describe(before, "mine"), describe(after, "mine")) == (
        "MeanFlow → DMD, learning rate 0.001",
        "Mine",
    )
    assert base_arm(after) == base_arm(before) == "hd" and describe(after, "hd") == "The base"


def test_all_missing_keys_are_listed_at_once(tmp_path):
    changes = dict.fromkeys(("title", "base.refine.steps", "base.refine.ema"), REMOVED)
    path = write_suite(tmp_path, changes)
    keys = "title, base.refine.steps, base.refine.ema"
    refuse(path, tmp_path / "results", f"{path}: {keys}: these are missing; add them")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "extends: _trajectry",
            "extends = '_trajectry': no such file beside it; did you mean '_trajectory'?",
        ),
        (
            "extends: _trajectory\ntitle: Mine\nsource: x\ndifferences: x\n"
            "arm: {trajectory: {objective: {name: knowledge}}}",
            "hyper_parameters: nothing says where arm.trajectory.batch, arm.trajectory.betas, ",
        ),
    ],
)
def test_a_recipe_extends_shared_values_with_their_sources(tmp_path, monkeypatch, text, sentence):
    """What neither gives is an error: here the file, and where the training's values are from."""
    shared = (REPOSITORY / RECIPES / "_trajectory.yaml").read_text(encoding="utf-8").splitlines()
    kept = [line for line in shared if not line.startswith('  trajectory: "')]
    (tmp_path / "_trajectory.yaml").write_text("\n".join(kept))
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setattr("hdbench.suite.reading.RECIPES", tmp_path)
    path = write_suite(tmp_path, {"arms.kd": {"recipe": "mine"}})
    result = CliRunner().invoke(main, ["plan", "--suite", str(path)])
    assert result.exit_code == 2 and result.output.count("\n") == 1
    assert sentence in result.output


def test_further_seeds_of_stage_two_share_teacher_and_trajectory_and_change_no_other_stage(
    tmp_path,
):
    chains = tiny_plan(tmp_path, {"seeds": [1, 2]})
    plan = tiny_plan(tmp_path, {"seeds": [1, 2], "stage2_seeds": {"1": [101, 102]}})
    assert plan.rows == chains.rows and set(chains.stages) < set(plan.stages)
    refined = {arm for arm, config in plan.arms.items() if config.refine}
    assert {row.arm for row in plan.further} == refined
    assert {row.seed for row in plan.further} == {101, 102}
    of_chain = {(row.arm, row.steps): row for row in plan.rows if row.seed == 1}
    for row in plan.further:
        other = of_chain[row.arm, row.steps]
        shared = {kind for kind in row.stages if row.stages[kind] == other.stages[kind]}
        assert {"teacher"} <= shared <= {"teacher", "trajectory"}
        assert plan.stage(row.stages["refine"]).config.seed == row.seed
    assert [row.seed for row in rows_of(plan, "hd", 101)] == [101]


def test_chains_of_one_teacher_share_it_and_what_measures_and_train_students_of_their_own(tmp_path):
    own = tiny_plan(tmp_path, {"seeds": [1, 2]})
    plan = tiny_plan(tmp_path, {"seeds": [1, 2], "teacher.seed": 2})
    chains = {seed: [row for row in plan.rows if row.seed == seed] for seed in (1, 2)}
    second = [row for row in own.rows if row.seed == 2]
    kept = [row for row in second if row.arm not in ("real_train", "real_test")]
    assert chains[2] == kept  # the chain of that teacher is as it was
    for one, other in zip(chains[1], chains[2], strict=True):
        shared = {kind for kind in one.stages if one.stages[kind] == other.stages[kind]}
        assert shared == {"teacher"}  # samples have noises of the chain
        assert plan.stage(one.stages["sample"]).config.chain == 1
    for kind in ("data", "classifier", "reference"):
        assert len([stage for stage in plan.stages if stage.startswith(kind)]) == 1
    reals = [row for row in plan.rows if plan.arms[row.arm].real]
    assert reals and all(row.seed is None for row in reals)
    assert measured_by(plan.suite) not in (measured_by(own.suite), "")
    with pytest.raises(UserError, match="teacher.*: seed is of a trained teacher"):
        checkpoint = {"format": "sit", "path": "sit.pt"}
        tiny_plan(tmp_path, {"teacher": {"checkpoint": checkpoint, "seed": 2}})


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ({"3": [101]}, "stage2_seeds.3: not one of the seeds"),
        ({"1": [2]}, "one appears twice, or is a chain's"),
        ({"1": [101], "2": [101]}, "one appears twice, or is a chain's"),
    ],
)
def test_a_mistake_in_further_seeds_is_one_sentence(tmp_path, further, message):
    with pytest.raises(UserError, match=message):
        tiny_plan(tmp_path, {"seeds": [1, 2], "stage2_seeds": further})


def test_outside_a_folder_with_the_workflow_a_suite_is_not_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no folder workflow/suites here.*hdbench init"):
        find_suite("demo")
