"""The rule of tuning, and that the suite of local flaws has what it chose."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from hdbench.cli import main
from hdbench.experiments.tuning import TUNED, chosen, grid, settings
from hdbench.metrics.records import COLUMNS, read_metrics
from hdbench.report.claims import judge
from hdbench.report.numbers import Numbers
from hdbench.report.rules import RULES, read_rules
from hdbench.suite.arms import head_of
from hdbench.suite.load import load_plan
from tests.support import shipped
from tests.support.tiny import REPOSITORY
from tests.unit.test_tables import synthetic

COMMITTED = REPOSITORY / "paper_tables/local_flaws_tuning/metrics.csv"


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture(scope="module")
def plans():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        return {
            name: shipped.as_shipped(load_plan(name))
            for name in ("local_flaws", "local_flaws_tuning", "textured_digits")
        }


def metrics(plan, best: dict[str, str], metric: str = "fd_train_4k") -> pd.DataFrame:
    """Of every row 5 and a little more for each, and 1 for the best arms."""
    rows = [
        {
            "suite": plan.name,
            "arm": row.arm,
            "seed": row.seed,
            "nfe": row.nfe,
            "metric": metric,
            "se": 0.1,
            "n": 4000,
            "value": 1.0 if row.arm in best.values() else 5 + 0.01 * number,
            "protocol": "p",
            "digest": plan.stage(row.stages["evaluate"]).digest,
        }
        for number, row in enumerate(plan.rows)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def test_every_head_has_the_same_grid_and_size(plans):
    tuning = plans["local_flaws_tuning"]
    assert set(grid(tuning)) == set(shipped.HEADS)
    for arms in grid(tuning).values():
        assert [settings(tuning, arm) for arm in arms] == [
            {"learning_rate": rate, "relative_weight": weight}
            for rate, weight in ((1e-3, 0.25), (1e-3, 1.0), (3e-3, 0.25), (3e-3, 1.0), (1e-3, 4.0))
        ]
    assert (
        len(
            {
                plans[name].arms[arm].refine.objective.gan.parameters
                for name in ("local_flaws", "local_flaws_tuning")
                for arms in grid(plans[name]).values()
                for arm in arms
            }
        )
        == 1
    )


def test_the_suites_differ_in_chains_and_in_the_heads_tuned_values_alone(plans):
    suite, tuning = plans["local_flaws"], plans["local_flaws_tuning"]
    assert set(suite.suite.seeds) == {1, 2, 3} and tuning.suite.seeds == (0,)
    for part in ("data", "classifier", "network", "teacher", "evaluation", "base"):
        assert getattr(suite.suite, part) == getattr(tuning.suite, part)
    assert (suite.suite.data.image_size // suite.suite.network.patch) ** 2 == 64
    assert list(suite.arms) == [
        "real_train",
        "real_test",
        "teacher",
        "td",
        "hd",
        *(f"hd_{head}" for head in shipped.HEADS),
    ]
    for head, arms in grid(tuning).items():
        own = suite.arms[f"hd_{head}"]
        assert head_of(own) == head and grid(suite)[head] == [f"hd_{head}"]
        without = {"refine": {"objective": {"gan": dict.fromkeys(TUNED, True)}}}
        for arm in arms:
            assert tuning.arms[arm].model_dump(exclude=without) == own.model_dump(exclude=without)
        assert settings(suite, f"hd_{head}") in [settings(tuning, arm) for arm in arms]


def test_the_best_arm_is_chosen_from_numbers_of_this_suite_alone(plans, tmp_path):
    plan = plans["local_flaws_tuning"]
    best = {head: arms[number % 5] for number, (head, arms) in enumerate(grid(plan).items())}
    frame = metrics(plan, best)
    assert chosen(plan, frame) == best
    frame.to_csv(tmp_path / "metrics.csv", index=False)
    result = CliRunner().invoke(main, ["tuned", "--metrics", str(tmp_path / "metrics.csv")])
    assert (result.exit_code, result.stderr) == (0, "") and result.output.splitlines()[1] == (
        "patch: {'learning_rate': 0.001, 'relative_weight': 1.0}  # hd_patch_lr1_w100"
    )
    frame.assign(digest="another").to_csv(tmp_path / "earlier.csv", index=False)
    earlier = CliRunner().invoke(main, ["tuned", "--metrics", str(tmp_path / "earlier.csv")])
    assert (earlier.exit_code, earlier.stdout) == (0, result.stdout)
    assert earlier.stderr == ("These numbers were made by another version of local_flaws_tuning.\n")
    frame.loc[frame.arm == "hd_conv_lr3_w25", "digest"] = "another"
    frame.to_csv(tmp_path / "metrics.csv", index=False)
    result = CliRunner().invoke(main, ["tuned", "--metrics", str(tmp_path / "metrics.csv")])
    assert result.exit_code == 2 and result.output == (
        "hdbench: suite local_flaws_tuning: no fd_train of hd_conv_lr3_w25; run the suite first (an"
        " arm that has diverged has none: take its settings out of the grid of all heads)\n"
    )
    synthetic(plans["local_flaws"]).to_csv(tmp_path / "metrics.csv", index=False)
    result = CliRunner().invoke(
        main, ["tuned", "--suite", "local_flaws", "--metrics", str(tmp_path / "metrics.csv")]
    )
    assert (
        result.exit_code == 2 and "seeds = [1, 2, 3]: heads are tuned on one seed" in result.output
    )


@pytest.mark.skipif(
    not COMMITTED.exists(),
    reason="local_flaws_tuning has not been run: no heads have been chosen yet",
)
def test_the_suite_has_exactly_the_chosen_values(plans):
    suite, tuning = plans["local_flaws"], plans["local_flaws_tuning"]
    best = chosen(tuning, read_metrics(COMMITTED))
    assert {head: settings(suite, f"hd_{head}") for head in best} == {
        head: settings(tuning, arm) for head, arm in best.items()
    }


@pytest.mark.parametrize(("best", "sign"), [("hd_awd_logit", -1), ("hd_pooled", 1)])
def test_c5_is_judged_in_this_suite_and_claims_about_other_starts_are_not(
    plans, tmp_path, best, sign
):
    numbers = Numbers(
        plans["local_flaws"], metrics(plans["local_flaws"], {"": best}, "fd_test_4k"), tmp_path
    )
    frame = judge(numbers, read_rules(REPOSITORY / RULES)).set_index("claim")
    row = frame.loc["C5"].iloc[0]
    assert (row.verdict, row.chains, np.sign(row.effect)) == ("undecided", 3, sign)
    assert {frame.verdict.loc[[claim]].iloc[0] for claim in ("C1", "C2", "C3", "C4", "C6")} == {
        "not testable here"
    }
