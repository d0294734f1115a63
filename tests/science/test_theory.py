"""The exact mixture against independent solutions, planted students, the command and claims."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from scipy import optimize, stats

from hdbench.cli import main
from hdbench.core.config import validate
from hdbench.core.errors import UserError
from hdbench.core.seeds import generator
from hdbench.core.yaml_file import read_yaml
from hdbench.experiments.theory import collect as collecting
from hdbench.experiments.theory import config as theory_config
from hdbench.experiments.theory import exact as exact_law
from hdbench.experiments.theory import report, students
from hdbench.experiments.theory.values import read_theory
from hdbench.flow.samplers import sample_ode
from hdbench.metrics.records import COLUMNS, read_metrics
from hdbench.report.claims import judge
from hdbench.report.numbers import Numbers
from hdbench.report.rules import RULES, read_rules
from tests.support.oracles import Mixture
from tests.support.tiny import REPOSITORY, changed, tiny_plan
from tests.unit.test_tables import synthetic

TINY = read_yaml(REPOSITORY / "tests/support/theory.yaml")


def config(changes=None, base=TINY) -> theory_config.Theory:
    return validate(theory_config.Theory, changed(changes or {}, base), "theory.yaml")


@pytest.fixture(scope="module")
def given() -> exact_law.Material:
    return exact_law.make_material(config({"noises": 20000}))


@pytest.fixture(scope="module")
def oracle(given) -> Mixture:
    exact = given.exact
    return Mixture(
        torch.tensor(exact.means).reshape(-1, 1, 1, 1),
        torch.tensor(exact.sds),
        torch.tensor(exact.weights),
    )


def measured(given, samples) -> dict[str, float]:
    return {
        name: value
        for name, value, _ in exact_law.measure(given.exact, given.noises, given.truth, samples)
    }


def quantile(exact, p: np.ndarray) -> np.ndarray:
    """Of the distribution, by root finding."""

    def beyond(x, p):
        return float(exact.weights @ stats.norm.cdf((x - exact.means) / exact.sds)) - p

    return np.array([optimize.brentq(beyond, -30, 30, (each,), xtol=1e-13) for each in p])


def test_the_velocity_is_the_oracles(given, oracle):
    z = 3 * torch.randn(200, 1, 1, 1, dtype=torch.float64)
    t = torch.linspace(0, 1, 200, dtype=torch.float64)
    torch.testing.assert_close(given.exact.velocity(z, t), oracle.v(z, t), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        given.exact.velocity(z.float(), t.float()), oracle.v(z, t).float(), rtol=1e-4, atol=1e-4
    )


def test_the_flow_map_is_the_oracles_and_on_a_line_the_quantile(given, oracle):
    eps = given.noises[:40].double()
    torch.testing.assert_close(given.truth[:40], oracle.flow_map(eps, 0.0, 1.0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        given.truth[:40].flatten(), quantile(given.exact, stats.norm.cdf(eps.flatten())), atol=1e-6
    )
    u = oracle.u(eps, torch.zeros(40).double(), torch.ones(40).double(), steps=400)
    torch.testing.assert_close(eps - given.truth[:40], u, rtol=0, atol=1e-5)


def test_an_exact_student_has_error_0_and_the_velocity_in_its_place_the_known_one(given):
    right = measured(given, given.truth.flatten().numpy())
    assert right["mean_velocity_error"] == 0
    assert 0.95 < right["structure"] <= 1 and 0.9 < right["detail"] <= 1
    one_step = sample_ode(given.exact.velocity, given.noises, None, 1).flatten().numpy()
    x, eps = given.truth.flatten().numpy(), given.noises.flatten().double().numpy()
    assert np.abs(one_step).max() < 1e-5  # E[eps - x | eps] = eps, the mean of x being 0
    expected = math.sqrt(np.square(x).mean() / np.square(x - eps).mean())
    assert measured(given, one_step)["mean_velocity_error"] == pytest.approx(expected, rel=1e-5)


def test_errors_are_those_of_repeated_samples(given):
    """Delta method and influence functions against many small samples."""
    wrong = 0.6 * given.truth.flatten().numpy()
    parts = [
        list(
            exact_law.measure(
                given.exact, given.noises[i : i + 250], given.truth[i : i + 250], wrong[i : i + 250]
            )
        )
        for i in range(0, 20000, 250)
    ]
    for number, name in ((0, "mean_velocity_error"), (1, "structure"), (2, "detail")):
        values, errors = (np.array([part[number][column] for part in parts]) for column in (1, 2))
        assert parts[0][number][0] == name and errors.mean() == pytest.approx(
            values.std(ddof=1), rel=0.3
        )


def blurred(exact, n: int, centres, sd: float) -> np.ndarray:
    """Samples where N(centre, sd^2) stand for the modes, with the same background."""
    random = np.random.default_rng(0)
    background = random.random(n) < exact.data.background
    return np.where(
        background,
        exact.data.background_sd * random.standard_normal(n),
        random.choice(centres, n) + sd * random.standard_normal(n),
    )


def test_a_law_without_detail_has_structure_1_and_detail_0_and_one_without_structure_0(given):
    exact = given.exact
    within = exact.modes[exact.modes > 0]
    sd = math.sqrt(exact.data.sd**2 + within.var())
    found = measured(given, blurred(exact, 20000, exact.centres, sd))
    assert found["detail"] == pytest.approx(0, abs=0.1) and found["structure"] == pytest.approx(
        1, abs=0.1
    )
    sd = math.sqrt(exact.data.sd**2 + exact.modes.var())
    assert measured(given, blurred(exact, 20000, np.zeros(1), sd))["structure"] == pytest.approx(
        0, abs=0.06
    )
    # sharp, and wrong
    one_mode = blurred(exact, 20000, exact.centres + exact.data.gap / 2, exact.data.sd)
    assert measured(given, one_mode)["detail"] < 0


def test_the_shares_of_the_law_are_those_of_its_samples(given):
    x = given.exact.sample(400_000, generator("test")).flatten().numpy()
    assert x.std() == pytest.approx(given.exact.deviation, rel=0.01)
    for targets, radius, true, _ in given.exact.scales.values():
        np.testing.assert_allclose(
            (np.abs(x[:, None] - targets) <= radius).mean(0), true, atol=0.003
        )


def test_a_student_starts_near_the_mean_velocity_of_a_gaussian():
    """With its perceptron silent it is exact for N(0, S^2)."""
    student = students.Student(8, theory_config.Network(layers=1, frequencies=2), sd=1.7).double()
    torch.nn.init.zeros_(student.layers[-1].weight)
    torch.nn.init.zeros_(student.layers[-1].bias)
    mixture = Mixture(torch.zeros(1, 1, 1, 1), torch.tensor([1.7]), torch.ones(1))
    z = torch.randn(30, 1, 1, 1).double()
    r, t = torch.linspace(0, 0.5, 30).double(), torch.linspace(0.5, 1, 30).double()
    torch.testing.assert_close(
        student(z, r, t), mixture.u(z, r, t, steps=200), rtol=1e-6, atol=1e-6
    )


@pytest.mark.slow
def test_regression_on_true_pairs_reaches_the_truth_and_mean_flow_approaches_it():
    theory = config(
        {
            "training": {"steps": 300, "batch": 256, "learning_rate": 5e-3, "ema": 0.95},
            "widths": [32],
            "network.layers": 2,
            "data.points": 4096,
        }
    )
    given = exact_law.make_material(theory)
    error = {
        unit.method: measured(given, students.train(unit, given, lambda step: None)["samples"])[
            "mean_velocity_error"
        ]
        for unit in theory_config.students_of(theory)
        if unit.seed == 0 and unit.method in ("knowledge", "meanflow")
    }
    assert error["knowledge"] < 0.15 and error["knowledge"] < error["meanflow"] < 0.35


def invoke(folder, data) -> tuple[int, str]:
    path = folder / "theory.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    result = CliRunner().invoke(
        main,
        [
            "theory",
            "--config",
            str(path),
            "--results",
            str(folder / "results"),
            "--out",
            str(folder / "out"),
        ],
    )
    return result.exit_code, result.output


@pytest.mark.slow
def test_the_command_writes_everything_and_a_second_call_trains_nothing(tmp_path, monkeypatch):
    code, output = invoke(tmp_path, TINY)
    assert code == 0, output
    frame = read_metrics(tmp_path / "results/theory/metrics.csv")
    names = {"metrics.csv"} | {f"theory.{suffix}" for suffix in ("csv", "md", "png")}
    assert (
        list(frame) == list(COLUMNS)
        and {path.name for path in (tmp_path / "out/theory").glob("[!.]*")} == names
    )
    assert (tmp_path / "out/theory/metrics.csv").read_bytes() == (
        tmp_path / "results/theory/metrics.csv"
    ).read_bytes()
    assert set(frame.arm) == {
        "euler",
        "knowledge_w4",
        "knowledge_w8",
        "meanflow_w4",
        "meanflow_w8",
        "scm_w8",
        "consistency_4_w8",
        "progressive_2_w8",
    }
    table = pd.read_csv(tmp_path / "out/theory/theory.csv", index_col=["arm", "nfe"])
    chains = frame[(frame.arm == "scm_w8") & (frame.metric == "detail")].value
    assert len(chains) == 2 and table.detail["scm_w8", 1] == pytest.approx(chains.mean())
    assert (tmp_path / "out/theory/theory.png").stat().st_size > 50_000

    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "results/theory/units").iterdir()}
    before = {path: path.read_bytes() for path in (tmp_path / "out/theory").iterdir()}
    monkeypatch.setattr(collecting, "train", lambda *arguments: pytest.fail("trained again"))
    assert invoke(tmp_path, TINY)[0] == 0
    assert done == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "results/theory/units").iterdir()
    }
    assert before == {path: path.read_bytes() for path in (tmp_path / "out/theory").iterdir()}
    options = ["--results", str(tmp_path / "results"), "--out", str(tmp_path / "published")]
    trial = CliRunner().invoke(main, ["publish", "--experiment", "theory", *options])
    assert trial.exit_code == 2 and "of another configuration than workflow/" in trial.output
    assert not (tmp_path / "published").exists()
    broken = next(iter(done))
    broken.write_bytes(b"half")
    code, output = invoke(tmp_path, TINY)
    assert (
        code == 2 and f"{broken}: not a finished unit" in output and output.count("hdbench:") == 1
    )


def test_a_change_trains_what_it_changes_and_no_more():
    digests = {unit.arm: unit.digest for unit in theory_config.students_of(config())}
    changes = {
        unit.arm: unit.digest
        for unit in theory_config.students_of(
            config({"methods.scm.objective.prob_t_equals_1": 0.5})
        )
    }
    assert {arm for arm in digests if digests[arm] != changes[arm]} == {"scm_w8"}
    longer = {
        unit.arm: unit.digest for unit in theory_config.students_of(config({"training.steps": 15}))
    }
    assert not set(longer.values()) & set(digests.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.gap": 0.1}, "data.gap = 0.1: neighbouring sub-modes must be 3 sd apart or more"),
        (
            {"data.distance": 1.0},
            "data.distance = 1.0: neighbouring clusters overlap; it must be at least 2.648",
        ),
        ({"methods.scm.objective.name": "sccm"}, "unknown; did you mean 'scm'?"),
        (
            {"methods.scm.objective": {"name": "dmd"}},
            "objective.name = dmd: does not claim the true mean velocity",
        ),
        ({"shown": "scm"}, "shown = scm: must be a method with every_width"),
        ({"widths": [8, 8]}, "widths = .8, 8.: one value appears twice; remove it"),
        ({"widths": []}, "at least 1 entry"),
        ({"training.stepz": 3}, "unknown key; did you mean 'steps'?"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_sentence(changes, message):
    with pytest.raises(UserError, match=message):
        config(changes)


def test_a_missing_configuration_ends_with_code_2(tmp_path):
    result = CliRunner().invoke(
        main, ["theory", "--config", str(tmp_path / "none.yaml"), "--results", str(tmp_path)]
    )
    assert (
        result.exit_code == 2
        and result.output.count("\n") == 1
        and "none.yaml: cannot be read" in result.output
    )


def with_seeds(folder, count: int):
    """The committed configuration with so many seeds, as a file."""
    changes = {"seeds": list(range(count))}
    path = folder / f"theory_{count}.yaml"
    path.write_text(yaml.safe_dump(read_yaml(REPOSITORY / theory_config.CONFIG) | changes))
    return path


def planted(errors: dict[str, float], path=REPOSITORY / theory_config.CONFIG) -> pd.DataFrame:
    """Metrics of C7's arms with these errors, and a little scatter over seeds."""
    theory = theory_config.read_theory_config(path)
    digests = {(u.arm, u.seed): u.digest for u in theory_config.students_of(theory)}
    rows = [
        {
            "suite": "theory",
            "arm": arm,
            "seed": seed,
            "nfe": 1,
            "metric": "mean_velocity_error",
            "value": error * (1 + 0.002 * seed),
            "se": 0.001,
            "n": 64,
            "protocol": "exact",
            "digest": digests[arm, seed],
        }
        for arm, error in errors.items()
        for seed in theory.seeds
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


GOOD = {
    "progressive_4_w64": 0.27,
    "progressive_16_w64": 0.1,
    "progressive_64_w64": 0.08,
    "consistency_8_w64": 0.26,
    "consistency_64_w64": 0.07,
    "meanflow_w4": 0.14,
    "meanflow_w16": 0.08,
    "meanflow_w64": 0.06,
}


@pytest.mark.parametrize(
    ("changes", "verdict", "findings"),
    [
        ({}, "supported", ["supported"] * 5),
        ({"meanflow_w64": 0.2}, "contradicted", [*["supported"] * 4, "contradicted"]),
        (
            {"progressive_16_w64": 0.3, "consistency_64_w64": 0.3},
            "contradicted",
            ["contradicted", "supported", "contradicted", "supported", "supported"],
        ),
    ],
)
def test_c7_is_judged_from_the_theorys_metrics_in_any_suite(tmp_path, changes, verdict, findings):
    plan = tiny_plan(tmp_path, {"seeds": [0, 1, 2]})
    path = with_seeds(tmp_path, 8)
    planted(GOOD | changes, path).to_csv(tmp_path / "metrics.csv", index=False)
    numbers, rules = Numbers(plan, synthetic(plan), tmp_path), read_rules(REPOSITORY / RULES)
    frame = judge(numbers, rules, read_theory(tmp_path / "metrics.csv", path))
    own = frame[frame.claim == "C7"]
    assert list(own.finding) == findings and set(own.verdict) == {verdict}
    assert set(own.chains) == {8}
    errors = GOOD | changes
    assert own.effect.iloc[0] == pytest.approx(
        errors["progressive_16_w64"] / errors["progressive_4_w64"]
    )
    without = judge(numbers, rules)
    own = without[without.claim == "C7"]
    assert (
        set(own.verdict) == {"not testable here"}
        and "`hdbench theory` makes them" in own.sentence.iloc[0]
    )
    # a family of its own
    pd.testing.assert_frame_equal(without[without.claim != "C7"], frame[frame.claim != "C7"])


def test_students_of_another_configuration_are_not_judged(tmp_path):
    plan = tiny_plan(tmp_path, {"seeds": [0, 1, 2]})
    planted(GOOD).assign(digest="d").to_csv(tmp_path / "metrics.csv", index=False)
    frame = judge(
        Numbers(plan, synthetic(plan), tmp_path),
        read_rules(REPOSITORY / RULES),
        read_theory(tmp_path / "metrics.csv"),
    )
    own = frame[frame.claim == "C7"]
    assert set(own.verdict) == {"not testable here"} and own.sentence.iloc[0].startswith(
        "No numbers of progressive_16_w64, progressive_4_w64"
    )


def test_the_command_takes_the_theorys_metrics_from_results_or_a_file(tmp_path):
    plan = tiny_plan(tmp_path, {"seeds": [0, 1, 2]})
    synthetic(plan).to_csv(tmp_path / "metrics.csv", index=False)
    arguments = [
        "claims",
        "--suite",
        str(tmp_path / "tiny.yaml"),
        "--metrics",
        str(tmp_path / "metrics.csv"),
        "--rules",
        str(REPOSITORY / RULES),
        "--results",
        str(tmp_path / "results"),
        "--out",
        str(tmp_path / "out"),
    ]

    def judged(*more: str) -> pd.Series:
        result = CliRunner().invoke(main, [*arguments, *more])
        assert result.exit_code == 0, result.output
        written = tmp_path / "out" / plan.name / "claims.csv"
        return pd.read_csv(written).set_index("claim").loc["C7"].iloc[0]

    assert judged().verdict == "not testable here"
    (tmp_path / "results/theory").mkdir(parents=True)
    planted(GOOD).to_csv(tmp_path / "results/theory/metrics.csv", index=False)
    assert judged().verdict == "undecided"  # of three seeds
    assert judged().effect == pytest.approx(0.1 / 0.27)
    planted(GOOD | {"progressive_16_w64": 0.3}).to_csv(tmp_path / "other.csv", index=False)
    assert judged("--theory", str(tmp_path / "other.csv")).effect == pytest.approx(0.3 / 0.27)
    for path, said in (
        (tmp_path / "none.csv", "does not exist"),
        (tmp_path / "metrics.csv", "not the metrics of theory alone"),
    ):
        result = CliRunner().invoke(main, [*arguments, "--theory", str(path)])
        assert result.exit_code == 2 and said in result.output and result.output.count("\n") == 1


def test_the_committed_rules_name_arms_of_the_committed_configuration():
    theory = theory_config.read_theory_config(REPOSITORY / theory_config.CONFIG)
    arms = {unit.arm for unit in theory_config.students_of(theory)}
    for claim in read_rules(REPOSITORY / RULES).claims.values():
        if claim.source == "theory":
            assert {arm for test in claim.tests for arm in test.arms} <= arms
            assert {test.metric for test in claim.tests} <= set(collecting.QUALITY)


def test_the_committed_metrics_are_of_the_committed_configuration():
    theory = theory_config.read_theory_config(REPOSITORY / theory_config.CONFIG)
    frame = read_metrics(REPOSITORY / "paper_tables/theory/metrics.csv")
    expected = {(unit.arm, unit.seed): unit.digest for unit in theory_config.students_of(theory)}
    students = frame[frame.arm != "euler"]
    rows = students[["arm", "seed", "digest"]].itertuples(index=False)
    assert {(arm, seed): digest for arm, seed, digest in rows} == expected


def test_the_committed_table_is_that_of_the_committed_metrics():
    theory = theory_config.read_theory_config(REPOSITORY / theory_config.CONFIG)
    folder = REPOSITORY / "paper_tables/theory"
    table = report.render(theory, read_metrics(folder / "metrics.csv"))
    assert table.to_csv(index=False) == (folder / "theory.csv").read_text()
    assert report.to_markdown(theory, table) == (folder / "theory.md").read_text()
