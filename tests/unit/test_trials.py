"""The one rule of tuning: trials of every arm, halving, the choice, and the arms that have it."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from hdbench.cli import main
from hdbench.core.config import validate
from hdbench.core.errors import UserError
from hdbench.experiments.tuning import choices
from hdbench.methods.trajectory.meanflow import MeanFlow
from hdbench.metrics.records import COLUMNS, with_count
from hdbench.report.numbers import Numbers
from hdbench.report.tables import TABLES
from hdbench.report.tables.render import render
from hdbench.suite.arms import describe, same_from_trajectory
from hdbench.suite.budget import total_cost, trained_cost
from hdbench.suite.load import load_plan
from hdbench.suite.overrides import leaves
from hdbench.suite.reading import read_recipe, read_suite
from hdbench.suite.schema import Arm
from hdbench.suite.trials import digest_of_arm, replaced
from tests.support import shipped
from tests.support.tiny import REMOVED, REPOSITORY, write_suite
from tests.unit.test_tables import synthetic

ARMS = {"meanflow": {"recipe": "meanflow"}}
KNOB = {"path": "refine.objective.gan.relative_weight", "values": [0.5, 2.0], "why": "x"}
GRID = [f"rate{rate}_{value}" for rate in ("0.5", "1", "2") for value in "ab"]


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def tuning_suite(folder, **changes) -> str:
    """A suite that tunes hd_patch and meanflow of a reported one, in folder/suites."""
    suites = folder / "suites"
    suites.mkdir(exist_ok=True)
    tiny = {"arms.meanflow": ARMS["meanflow"], "tables": REMOVED, "evaluation.metrics": ["factors"]}
    tiny |= {"data.name": "textured_digits", "network.patch": 4}
    reported = write_suite(suites, tiny, "reported")
    data = {"extends": str(reported), "title": "T", "seeds": [90, 91]}
    data["tuning"] = {"rungs": [0.5, 1.0], "knobs": {"hd_patch": KNOB}}
    path = suites / "tuning.yaml"
    path.write_text(yaml.safe_dump(data | changes, sort_keys=False))
    return str(path)


def scores(plan, best: dict[str, float]) -> pd.DataFrame:
    """Of every row the criterion, that of an arm in `best` on average, else 50; and its cost."""
    name = with_count("fd_calibrated_train", plan.suite.evaluation.samples)
    rows = []
    for row in plan.rows:
        common = {"suite": plan.name, "arm": row.arm, "seed": row.seed, "nfe": row.nfe}
        common["digest"] = plan.stage(row.stages["evaluate"]).digest
        value = best.get(row.arm, 50.0) + (row.seed - 90.5)
        rows.append(common | {"metric": name, "value": value, "protocol": "p"})
        for kind in ("trajectory", "refine"):
            if kind in row.stages:
                cost = {"metric": f"{kind}_core_seconds", "value": 2.0, "protocol": "cost"}
                rows.append(common | cost)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def tuned(suite: str, frame: pd.DataFrame, folder):
    frame.to_csv(folder / "metrics.csv", index=False)
    return CliRunner().invoke(
        main, ["tuned", "--suite", suite, "--metrics", str(folder / "metrics.csv")]
    )


def test_a_tuned_arm_has_six_trials_that_differ_in_rate_and_knob_alone(tmp_path):
    plan = load_plan(tuning_suite(tmp_path))
    trials = {arm: [t for t in plan.suite.trials.values() if t.arm == arm] for arm in
              ("hd_patch", "meanflow")}  # fmt: skip
    assert {arm: [t.label for t in of_arm] for arm, of_arm in trials.items()} == {
        "hd_patch": GRID, "meanflow": GRID
    }  # fmt: skip
    assert set(plan.arms) == {"hd", *plan.suite.trials}  # meanflow has the compute of hd
    declared = load_plan(str(tmp_path / "suites/reported.yaml")).arms
    for trial in plan.suite.trials.values():
        arm, default = (
            leaves(a.model_dump(mode="json")) for a in (plan.arms[trial.name], declared[trial.arm])
        )
        stage = "refine" if trial.arm == "hd_patch" else "trajectory"
        rate, steps = (stage, "learning_rate"), (stage, "steps")
        knob = ("refine", "objective", "gan", "relative_weight")
        if trial.arm == "meanflow":
            knob = ("trajectory", "objective", "prob_t_equals_1")
        assert arm[rate] == trial.rate * default[rate] and arm[steps] == default[steps]
        training = getattr(plan.arms[trial.name], stage)
        assert training.span == range(round(default[steps] / 2))
        assert arm[knob] == (KNOB["values"] if stage == "refine" else [0.25, 0.1])[trial.value]
        changed = {key for key in arm if arm[key] != default.get(key)}
        assert changed - {rate, steps, knob} <= {("steps",), (stage, "stops")}
        assert plan.arms[trial.name].steps == (1,)


def test_the_better_half_goes_on_and_what_is_chosen_is_an_arm_of_the_reported_suite(tmp_path):
    suite = tuning_suite(tmp_path)
    plan = load_plan(suite)
    best = {f"hd_patch_{label}_at50": 10.0 + n for n, label in enumerate(GRID[::-1])}
    best |= {f"meanflow_{label}_at50": 10.0 for label in GRID}
    result = tuned(suite, scores(plan, best), tmp_path)
    file = tmp_path / "tuned/tuning.yaml"
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        [
            "hd_patch: rate2_b, rate2_a, rate1_b go on",
            "meanflow: rate0.5_a, rate0.5_b, rate1_a go on",  # of equals the first
            str(file),
        ],
    )
    assert result.stderr == f"Run {suite} again, then this command: these trials go on.\n"
    again = load_plan(suite)
    assert set(again.suite.trials) - set(plan.suite.trials) == {
        *(f"hd_patch_{label}" for label in ("rate2_b", "rate2_a", "rate1_b")),
        *(f"meanflow_{label}" for label in ("rate0.5_a", "rate0.5_b", "rate1_a")),
    }
    assert again.arms["hd_patch_rate1_b"].refine.span == range(4, 8)
    begun = {row.arm: row.stages["refine"] for row in again.rows if row.arm.startswith("hd_patch")}
    whole = again.stage(begun["hd_patch_rate1_b"])
    assert whole.parents["begun"] == begun["hd_patch_rate1_b_at50"]
    best |= {"hd_patch_rate2_b": 7.0, "meanflow_rate1_a": 6.0}
    result = tuned(suite, scores(again, best), tmp_path)
    costs = {
        arm: trained_cost(again, [t.name for t in again.suite.trials.values() if t.arm == arm])
        for arm in ("hd_patch", "meanflow")
    }
    assert result.stdout.splitlines()[:2] == [
        "hd_patch: refine.learning_rate = 0.0004, refine.objective.gan.relative_weight = 2.0  # "
        "fd_calibrated_train 7; 6 trials, 9 runs on each of 2 chains, "
        f"{costs['hd_patch'] / 1e3:.0f} kFE, 40 core-s; at the edge of the rates",
        "meanflow: as declared  # fd_calibrated_train 6; 6 trials, 9 runs on each of 2 chains, "
        f"{costs['meanflow'] / 1e3:.0f} kFE, 36 core-s; interior",
    ]
    assert "edge of tuning.rates for hd_patch: extend it, which is for all arms" in result.stderr
    written = yaml.safe_load(file.read_text())
    assert written["arms"]["meanflow"]["choice"]["settings"] == {} and written["seeds"] == [90, 91]
    reported_with_both(tmp_path, suite)


def reported_with_both(folder, suite: str) -> None:
    """A suite that reports declared and tuned arms has both in tables, with trials and cost."""
    data = {
        "extends": str(folder / "suites/reported.yaml"),
        "title": "R",
        "arms": {"{arm}_tuned": {"tuned": {"suite": suite, "arm": ["hd_patch", "meanflow"]}}},
    }
    path = folder / "suites/both.yaml"
    path.write_text(yaml.safe_dump(data))
    plan = load_plan(str(path))
    assert plan.sources[0] == path and folder / "tuned/tuning.yaml" in plan.sources
    arm = plan.arms["hd_patch_tuned"]
    assert (arm.refine.learning_rate, arm.refine.objective.gan.relative_weight) == (4e-4, 2.0)
    assert arm.refine.steps == plan.arms["hd_patch"].refine.steps
    stages = {row.arm: row.stages for row in plan.rows}
    assert stages["meanflow_tuned"] == stages["meanflow"] != stages["hd_patch_tuned"]
    numbers = Numbers(plan, synthetic(plan), folder)
    shown = render(numbers, "tuning").records().set_index("method")
    assert list(shown.index[:1]) == ["MeanFlow → DMD + patch"] and len(shown) == 4
    row = shown.iloc[0]
    choice = plan.suite.tuned["hd_patch_tuned"].choice
    assert (row.tuned_trials, row.tuned_tuning_cost, row.interior) == (
        6, choice.forward_equivalents, "no"
    )  # fmt: skip
    methods = render(numbers, "methods").records().set_index("method")
    assert methods.trials["MeanFlow, all compute, tuned"].iloc[0] == 6
    assert (methods.trials["MeanFlow, all compute"] == "").all()
    assert "tuning" not in [t for t in TABLES if not TABLES[t]().lacks(load_plan(suite))]
    own = {"hd_patch": {"tuned": {"suite": suite, "arm": "hd_patch"}}}
    start = {"dmd": {"trajectory": None, "tuned": {"suite": suite, "arm": "hd_patch"}}}
    path.write_text(yaml.safe_dump(data | {"arms": own | start}))
    plan = load_plan(str(path))
    assert [describe(plan, arm) for arm in ("hd_patch", "dmd")] == [
        "MeanFlow → DMD + patch, tuned", "Teacher → DMD + patch, tuned"
    ]  # fmt: skip
    assert same_from_trajectory(plan, "dmd") == "hd_patch"
    assert "declared and as tuned" in TABLES["tuning"]().lacks(plan)


def test_the_compute_of_trials_counts_a_stage_that_they_share_once(tmp_path):
    plan = load_plan(tuning_suite(tmp_path))
    (one,) = ["hd_patch_rate1_a_at50"]
    whole = total_cost(plan, plan.arms[one])
    assert trained_cost(plan, [one]) == 2 * whole  # chains
    first = total_cost(plan, plan.arms[one].model_copy(update={"refine": None}))
    both = trained_cost(plan, [one, "hd_patch_rate2_a_at50"])
    assert both == 2 * (2 * whole - first)


def test_a_rate_is_interior_once_the_grid_is_extended_for_all(tmp_path):
    tuning = {"rates": [0.5, 1, 2, 4], "knobs": {"hd_patch": KNOB}}
    plan = load_plan(tuning_suite(tmp_path, tuning=tuning))
    assert len(plan.suite.trials) == 2 * 8
    result, lacking = choices(
        plan, scores(plan, {"hd_patch_rate2_b": 1.0, "meanflow_rate4_a": 1.0})
    )
    assert {arm: tuned.choice.interior for arm, tuned in result.arms.items()} == {
        "hd_patch": True, "meanflow": False
    }  # fmt: skip
    assert {tuned.choice.trials for tuned in result.arms.values()} == {8} and not lacking
    assert not any(tuned.going_on for tuned in result.arms.values())


def test_a_trial_that_diverged_counts_and_is_not_chosen(tmp_path):
    tuning = {"rungs": [1.0], "knobs": {"hd_patch": KNOB}, "diverged": ["hd_patch_rate2_b"]}
    plan = load_plan(tuning_suite(tmp_path, tuning=tuning))
    assert "hd_patch_rate2_b" not in plan.arms
    frame = scores(plan, {"hd_patch_rate2_a": float("nan"), "hd_patch_rate1_b": 3.0})
    best = choices(plan, frame)[0].arms["hd_patch"].choice
    assert (best.score, best.trials, best.runs) == (3.0, 6, 6)
    ended = load_plan(tuning_suite(tmp_path, tuning=tuning | {"diverged": []}))
    of_all = choices(ended, scores(ended, {}))[0].arms["hd_patch"].choice
    assert best.forward_equivalents == of_all.forward_equivalents
    # 2 s a stage and chain: six second stages, of which one's cost is known from the others' pace
    shares = [trained_cost(p, [t for t in p.suite.trials if "patch" in t]) for p in (plan, ended)]
    assert best.core_seconds == pytest.approx(2 * 2 * 6 * shares[1] / shares[0], abs=0.1)
    lacks = frame[(frame.arm != "hd_patch_rate1_b") | (frame.seed == 90)]
    made, lacking = choices(plan, lacks)
    assert set(made.arms) == {"meanflow"} and lacking == {"hd_patch": ["hd_patch_rate1_b"]}
    with pytest.raises(UserError, match="no fd_calibrated_train of hd_patch_rate1_b on every"):
        choices(plan, lacks[lacks.arm.str.startswith("hd_patch")])
    frame.loc[frame.arm.str.startswith("hd_patch"), "value"] = float("nan")
    with pytest.raises(UserError, match="have diverged, so none is left"):
        choices(plan, frame)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0, 90]}, "settings are chosen on chain 0, which is reported too"),
        ({"tuning": {"rates": [0.5, 2, 4]}}, "give 1 and others"),
        ({"tuning": {"rungs": [0.5]}}, "the last of them 1"),
        ({"tuning": {"criterion": "fd_calibrate_train", "knobs": {"hd_patch": KNOB}}},
         "tuning.criterion = 'fd_calibrate_train': the suite measures nothing of that name"),
        ({"tuning": {"arms": ["meanfow"]}}, "tuning.arms: 'meanfow': unknown arm; did you mean"),
        ({"tuning": {"arms": ["td"]}}, "arms.td: it has no knob; add one to its recipe, or"),
        ({"tuning": {"rungs": [0.01, 1.0], "arms": ["meanflow"]}},
         "stops = [0.01]: of 3 steps one of its stages has none; give other shares"),
        ({"tuning": {"knobs": {"hd_pach": KNOB}}}, "unknown arm; did you mean 'hd_patch'?"),
        ({"tuning": {"knobs": {"hd_patch": KNOB | {"path": "refine.objective.gan.weight"}}}},
         "the arm has no such value; did you mean"),
        ({"tuning": {"knobs": {"hd_patch": KNOB | {"values": [1.0, 2.0]}}}},
         "the arm has 0.5; it is one of the two"),
        ({"tuning": {"knobs": {"hd_patch": KNOB | {"values": [0.5, 0.5]}}}}, "are the same"),
        ({"tuning": {"diverged": ["meanflow_rate3_a"]}}, "no trial; did you mean"),
        ({"trials": {}}, "trials: is made of `tuning` and of arms; leave it out"),
        ({"only": ["td"], "tuning": {}}, "no arm has a recipe with a knob"),
    ],
)  # fmt: skip
def test_mistakes_of_tuning_are_one_sentence(tmp_path, changes, message):
    with pytest.raises(UserError) as error:
        load_plan(tuning_suite(tmp_path, **changes))
    assert message in str(error.value) and "\n" not in str(error.value)


def chosen(folder, suite: str, arm: str, **changes) -> None:
    """Write that an arm was tuned, and is best as it is declared."""
    trials = load_plan(suite).suite.trials.values()
    choice = {"settings": {}, "trials": 6, "runs": 6, "forward_equivalents": 1.0, "score": 1.0,
              "interior": True}  # fmt: skip
    digest = next(trial.digest for trial in trials if trial.arm == arm)
    entry = {"digest": digest, "choice": choice} | changes
    content = {"suite": "tuning", "seeds": [90, 91], "criterion": "c", "rates": [0.5, 1.0, 2.0],
               "rungs": [0.5, 1.0], "arms": {arm: entry}}  # fmt: skip
    (folder / "tuned").mkdir(exist_ok=True)
    (folder / "tuned/tuning.yaml").write_text(yaml.safe_dump(content))


def refusal(suite) -> str:
    with pytest.raises(UserError) as error:
        load_plan(str(suite))
    assert "\n" not in str(error.value)
    return str(error.value)


def reporting(folder, suite: str, arm: str, **changes):
    """A suite that extends the reported one, with an arm as it was tuned."""
    data = {"extends": str(folder / "suites/reported.yaml"), "title": "R"} | changes
    data["arms"] = changes.get("arms", {}) | {"t": {"tuned": {"suite": suite, "arm": arm}}}
    path = folder / "suites/reporting.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_an_arm_is_not_tuned_on_its_own_chains_or_on_nothing(tmp_path):
    suite = tuning_suite(tmp_path)
    no_file = refusal(reporting(tmp_path, suite, "hd_patch"))
    assert "there is no" in no_file and "`hdbench tuned --suite" in no_file
    chosen(tmp_path, suite, "hd_patch")
    assert load_plan(str(reporting(tmp_path, suite, "hd_patch"))).suite.tuned["t"].choice.runs == 6
    reported = refusal(reporting(tmp_path, suite, "hd_patch", seeds=[90]))
    assert "settings are chosen on chain 90, which is reported too" in reported
    unknown = refusal(reporting(tmp_path, suite, "hd_pach"))
    assert "has no choice for it; did you mean 'hd_patch'?" in unknown
    chosen(tmp_path, suite, "hd_patch", choice=None)
    early = refusal(reporting(tmp_path, suite, "hd_patch"))
    assert "the last rung of hd_patch has not been run" in early


@pytest.mark.parametrize(
    ("changes", "is_stale"),
    [
        ({"arms": {"hd_patch": {"refine": {"clip": 0.5}}}}, True),
        ({"base": {"refine": {"batch": 4}}}, True),
        ({"data": {"seed": 5}}, True),
        ({"network": {"heads": 1}}, True),
        ({"teacher": {"guidance": 3.0}}, True),
        ({"arms": {"hd_patch": {"title": "HD"}}, "evaluation": {"samples": 40}}, False),
        ({"teacher": {"seed": 5}}, False),
    ],
)
def test_an_arm_that_was_edited_since_has_no_tuned_settings(tmp_path, changes, is_stale):
    suite = tuning_suite(tmp_path)
    chosen(tmp_path, suite, "hd_patch")
    path = reporting(tmp_path, suite, "hd_patch", **changes)
    if is_stale:
        assert "chosen for hd_patch as it was declared then, and it, its data" in refusal(path)
    else:
        assert load_plan(str(path)).suite.tuned["t"].arm == "hd_patch"


def test_the_digest_covers_the_arm_whose_compute_is_taken_and_versions(tmp_path, monkeypatch):
    suite = tuning_suite(tmp_path)
    chosen(tmp_path, suite, "meanflow")
    longer = {"arms": {"hd": {"refine": {"steps": 9}}}}
    assert "has changed since" in refusal(reporting(tmp_path, suite, "meanflow", **longer))
    path = reporting(tmp_path, suite, "meanflow")
    assert load_plan(str(path)).suite.tuned["t"].arm == "meanflow"
    monkeypatch.setattr(MeanFlow, "version", MeanFlow.version + 1)
    assert "has changed since" in refusal(path)


def test_an_arm_may_be_its_own_tuned_one_also_where_others_take_its_compute(tmp_path):
    suite = tuning_suite(tmp_path)
    chosen(tmp_path, suite, "meanflow", choice={
        "settings": {"trajectory.learning_rate": 1e-3}, "trials": 6, "runs": 6, "score": 1.0,
        "forward_equivalents": 1.0, "interior": True,
    })  # fmt: skip
    content = yaml.safe_load((tmp_path / "tuned/tuning.yaml").read_text())
    of_meanflow = content["arms"]["meanflow"]
    of_hd = {"digest": digest_of_arm_in(tmp_path, "hd"), "choice": of_meanflow["choice"] | {
        "settings": {"refine.learning_rate": 1e-3}}}  # fmt: skip
    content["arms"]["hd"] = of_hd
    (tmp_path / "tuned/tuning.yaml").write_text(yaml.safe_dump(content))
    arms = {arm: {"tuned": {"suite": suite, "arm": arm}} for arm in ("meanflow", "hd")}
    plan = load_plan(str(reporting(tmp_path, suite, "meanflow", arms=arms)))
    assert plan.arms["meanflow"].trajectory.learning_rate == 1e-3
    assert plan.arms["hd"].refine.learning_rate == 1e-3


def digest_of_arm_in(folder, arm: str) -> str:
    path = folder / "suites/reported.yaml"
    return digest_of_arm(arm, read_suite(path), path)


def test_some_arms_are_tuned_first_and_the_rest_is_added(tmp_path):
    rule = {"rungs": [0.5, 1.0], "knobs": {"hd_patch": KNOB}}
    first = tuning_suite(tmp_path, tuning=rule | {"arms": ["meanflow"]})
    assert {trial.arm for trial in load_plan(first).suite.trials.values()} == {"meanflow"}
    assert set(load_plan(first).arms) == {"hd", *load_plan(first).suite.trials}
    for _ in rule["rungs"]:
        plan = load_plan(first)
        assert tuned(first, scores(plan, {}), tmp_path).exit_code == 0
    file = tmp_path / "tuned/tuning.yaml"
    of_first = yaml.safe_load(file.read_text())["arms"]
    assert set(of_first) == {"meanflow"} and of_first["meanflow"]["choice"]["runs"] == 9
    both = load_plan(tuning_suite(tmp_path, tuning=rule))
    frame = scores(both, {})
    result = tuned(first, frame[frame.arm.str.startswith("meanflow")], tmp_path)
    assert "hd_patch: no fd_calibrated_train of hd_patch_rate0.5_a_at50, " in result.stderr
    assert yaml.safe_load(file.read_text())["arms"] == of_first
    tuned(first, frame[frame.arm.str.startswith("hd_patch")], tmp_path)
    of_both = yaml.safe_load(file.read_text())["arms"]
    assert of_both["meanflow"] == of_first["meanflow"] and len(of_both["hd_patch"]["going_on"]) == 1
    # another rule begins anew, since all arms have the same number of trials
    extended = load_plan(tuning_suite(tmp_path, tuning=rule | {"rates": [0.5, 1, 2, 4]}))
    assert {trial.share for trial in extended.suite.trials.values()} == {0.5}
    frame = scores(extended, {})
    tuned(first, frame[frame.arm.str.startswith("hd_patch")], tmp_path)
    assert set(yaml.safe_load(file.read_text())["arms"]) == {"hd_patch"}


def test_a_suite_that_reports_tuned_arms_is_tuned_without_them(tmp_path):
    suite = tuning_suite(tmp_path)
    trials = load_plan(suite).suite.trials
    reported = tmp_path / "suites/reported.yaml"
    data = yaml.safe_load(reported.read_text())
    data["arms"]["t"] = {"tuned": {"suite": suite, "arm": "meanflow"}}
    reported.write_text(yaml.safe_dump(data))
    assert load_plan(suite).suite.trials == trials  # before there is a choice
    chosen(tmp_path, suite, "meanflow")
    assert load_plan(suite).suite.trials == trials  # and after
    assert load_plan(str(reported)).suite.tuned["t"].arm == "meanflow"


@pytest.mark.parametrize("name", shipped.RECIPES)
def test_every_recipe_has_a_knob_and_both_of_its_values_make_an_arm(name):
    _, base, recipe = read_recipe(name, "test")
    assert recipe.knob and recipe.knob.why
    for value in recipe.knob.values:
        arm = validate(Arm, replaced(base, recipe.knob.keys, value, keep=True), name)
        assert leaves(arm.model_dump(mode="json"))[recipe.knob.keys] == value


@pytest.mark.slow
def test_the_shipped_suite_tunes_every_method_of_the_reference_run():
    tuning = load_plan("textured_digits_tuning").suite
    reported = load_plan("textured_digits")
    of_recipes = {arm for arm in reported.recipes if arm in shipped.HELD["textured_digits"]}
    assert {trial.arm for trial in tuning.trials.values()} >= {*of_recipes, "hd", "dmd_total"}
    assert len(tuning.trials) == 6 * len({trial.arm for trial in tuning.trials.values()})
