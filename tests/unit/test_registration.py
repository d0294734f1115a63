"""Registered claims: what a run must keep to, each breach in one sentence, all by the commands."""

import json
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from hdbench.cli import main
from hdbench.core.files import sha256
from hdbench.core.provenance import DIRTY, SHIPPED, registrations
from hdbench.stages import artifact
from hdbench.suite.load import load_plan
from tests.support.tiny import run_until, write_suite
from tests.unit.test_tables import synthetic

RULES = {
    "level": 0.05,
    "margins": [{"metrics": ["fd_test"], "share": 0.1, "of": "teacher@4", "reason": "x"}],
    "claims": {
        "A": {
            "says": "a",
            "tests": [
                {
                    "effect": "difference",
                    "metric": "fd_test",
                    "arms": {"hd": 1, "dmd": -1},
                    "below": 0,
                }
            ],
        },
        "B": {
            "says": "b",
            "tests": [
                {
                    "effect": "difference",
                    "metric": "recall",
                    "arms": {"hd": 1, "elsewhere": -1},
                    "below": 0,
                }
            ],
        },
    },
}
PREREG = Path("workflow/prereg/tiny.yaml")
SEEDS = [11, 12, 13, 14, 15, 16, 17]


def git(*words: str) -> str:
    name = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    said = subprocess.run(("git", *name, *words), capture_output=True, text=True, check=True)
    return said.stdout.strip()


def commit(message: str = "x") -> str:
    git("add", "--all", ".")
    git("commit", "--allow-empty", "--quiet", "--message", message)
    return git("rev-parse", "HEAD")


def invoke(*words: object):
    return CliRunner().invoke(main, [*map(str, words)])


@dataclass
class Run:
    """A finished run of the suite `tiny` in the working folder, as `hdbench collect` writes it."""

    commits: dict[str, str] = field(default_factory=dict)  # by stage, where not HEAD
    seeds: list[int] = field(default_factory=lambda: SEEDS[:6])

    def write(self) -> pd.DataFrame:
        plan = load_plan("tiny")
        head = git("rev-parse", "HEAD")
        stages = [
            {
                "id": stage,
                "environment": {"commit": self.commits.get(stage, head)},
                "registrations": registrations(),
            }
            for stage in plan.stages
        ]
        folder = Path("results/tiny")
        folder.mkdir(parents=True, exist_ok=True)
        frame = synthetic(replace(plan, rows=plan.all_rows))
        frame = frame[frame.seed.isna() | frame.seed.isin(self.seeds)]
        metrics = folder / "metrics.csv"
        frame.to_csv(metrics, index=False)
        run = {"stages": stages, "metrics": sha256(metrics)}
        (folder / "run.json").write_text(json.dumps(run))
        return frame

    @property
    def first(self) -> str:
        return next(iter(load_plan("tiny").stages))


def suite(seeds, changes=None) -> None:
    """Write the suite `tiny`, with one table."""
    settings = {"seeds": list(seeds), "tables": {"main": {"rows": ["teacher", "hd", "dmd"]}}}
    write_suite(Path("workflow/suites"), settings | (changes or {}))


@pytest.fixture
def registered(tmp_path, monkeypatch) -> Run:
    """A repository whose first commit has the suite, and whose second the registration."""
    monkeypatch.chdir(tmp_path)
    Path("workflow/suites").mkdir(parents=True)
    Path("workflow/claims.yaml").write_text(yaml.safe_dump(RULES))
    Path(".gitignore").write_text("results\n")
    write_suite(Path("workflow/suites"), {"arms.elsewhere": {}}, "other")
    suite(SEEDS[:1])
    git("init", "--quiet")
    commit("before")
    result = invoke("preregister", "--suite", "tiny", "--seeds", "11-17", "--cap", 6)
    assert result.exit_code == 0, result.output
    suite(SEEDS[:6])
    commit("registration")
    return Run()


def judged(*words: object):
    return invoke("claims", "--suite", "tiny", *words)


def refused(message: str) -> None:
    """One sentence and exit code 2 with --prereg; exploratory, with the same reason, without."""
    result = judged("--prereg", PREREG)
    assert result.exit_code == 2, result.output
    assert result.output.startswith("hdbench: ") and result.output.count("\n") == 1
    assert message in result.output
    result = judged()
    assert result.exit_code == 0, result.output
    assert result.output.startswith("Exploratory, for the run does not keep") and (
        message in result.output.splitlines()[0]
    )
    document = Path("results/tiny/tables/claims.md").read_text()
    assert "Exploratory" in document and message in document


def test_a_run_that_keeps_to_its_registration_is_judged_by_it(registered):
    registered.write()
    for words in ((), ("--prereg", PREREG)):
        result = judged(*words)
        assert result.exit_code == 0, result.output
        said = result.output.splitlines()[0]
        digest, head = sha256(PREREG)[:12], git("rev-parse", "HEAD")[:12]
        assert said == f"Registered: {PREREG} ({digest}) of commit {head}, 6 of at most 6 chains."
        assert said in Path("results/tiny/tables/claims.md").read_text()
    frame = pd.read_csv("results/tiny/tables/claims.csv")
    assert list(frame.claim) == ["A"] and list(frame.chains) == [6]  # B's arms are not there
    assert invoke("tables", "--suite", "tiny", "--release").exit_code == 0


def test_without_a_registration_verdicts_are_exploratory(registered):
    registered.write()
    PREREG.unlink()
    said = judged().output.splitlines()[0]
    assert said.startswith("Exploratory: the rules are workflow/claims.yaml")
    assert said in Path("results/tiny/tables/claims.md").read_text()
    registered.write()
    Path("mine.yaml").write_text(yaml.safe_dump(RULES))
    said = judged("--rules", "mine.yaml").output
    assert said.startswith("Exploratory: the rules are mine.yaml, not")


def test_a_registration_has_the_rules_arms_seeds_and_settings(registered):
    content = yaml.safe_load(PREREG.read_text())
    assert content["claims"].keys() == {"A"} and content["arms"] == ["teacher", "hd", "dmd"]
    assert content["seeds"] == SEEDS and content["cap"] == 6
    assert content["margins"][0]["share"] == 0.1 and content["mixture"] == 1.0
    digests = {
        row.arm: row.stages["evaluate"].rpartition("-")[2]
        for row in reversed(load_plan("tiny").rows)
        if row.seed == 11
    }
    assert content["digests"] == {arm: digests[arm] for arm in content["arms"]}
    again = invoke("preregister", "--suite", "tiny", "--seeds", "11-17")
    assert again.exit_code == 2 and "stays as it is" in again.output


def test_skipped_reordered_unregistered_and_surplus_seeds_are_refused(registered):
    registered.seeds = [11, 12, 14]
    registered.write()
    refused("seed 13 has no numbers of teacher, hd, dmd, though seed 14 after it has; finish")
    suite([12, 11, 13])
    registered.seeds = SEEDS
    registered.write()
    refused("the suite lists the seeds 12, 11, 13, out of the registered order 11, 12")
    suite([11, 12, 5])
    registered.seeds = [11, 12, 5]
    registered.write()
    refused("the seeds 5 are not registered")
    suite(SEEDS)
    registered.seeds = SEEDS
    registered.write()
    refused("7 chains are more than the cap, 6")


def test_a_chain_without_all_registered_arms_is_not_finished(registered):
    frame = registered.write()
    gone = (frame.arm == "dmd") & (frame.seed == 16)
    frame[~gone].to_csv("results/tiny/metrics.csv", index=False)
    refused("seed 16 has no numbers of dmd; finish its chain")
    frame[frame.seed.isna()].to_csv("results/tiny/metrics.csv", index=False)
    refused("no chain has run; begin with seed 11")


def test_dirty_unknown_and_unrelated_commits_are_refused(registered):
    head, before = git("rev-parse", "HEAD"), git("rev-parse", "HEAD~1")
    for unclean in (head + DIRTY, "unknown"):
        registered.commits = {registered.first: unclean}
        registered.write()
        refused(
            f"stages ran from a tree with changes or of no known commit, such as {registered.first}"
        )
        result = invoke("tables", "--suite", "tiny", "--release")
        assert result.exit_code == 2 and unclean in result.output
    for unrelated in (before, "0" * 40):
        registered.commits = {registered.first: unrelated}
        registered.write()
        refused(f"{registered.first} ran from commit {unrelated[:12]}, which is not after")


def test_a_stage_that_was_taken_is_what_the_registration_ships(registered):
    """It is older than the registration, and of whatever commit: that commit has its manifest."""
    teacher = next(stage for stage in load_plan("tiny").stages if stage.startswith("teacher/"))
    registered.commits = {teacher: git("rev-parse", "HEAD~1")}
    file = SHIPPED / teacher / "manifest.json"

    def run_with(manifest: str) -> None:
        registered.write()
        run = json.loads(Path("results/tiny/run.json").read_text())
        (stage,) = (stage for stage in run["stages"] if stage["id"] == teacher)
        stage["shipped"] = {"folder": str(file.parent), "manifest": manifest}
        del stage["registrations"]
        Path("results/tiny/run.json").write_text(json.dumps(run))

    run_with("0" * 64)
    refused(f"{teacher} was taken as shipped, and {file} is not in the registration's commit")
    file.parent.mkdir(parents=True)
    file.write_text("a manifest")
    commit("shipped")
    git("tag", "prereg/tiny")
    run_with(sha256(file))
    result = judged("--prereg", PREREG)
    assert result.exit_code == 0, result.output
    run_with("0" * 64)
    refused(f"{teacher} was taken as shipped, and {file} is another in the registration's commit")


def test_a_registration_that_has_changed_since_a_stage_ran_is_refused(registered):
    registered.write()
    text = PREREG.read_text()
    PREREG.write_text(text.replace("cap: 6", "cap: 7"))
    commit("a higher cap")
    refused("was another (")
    registered.write()  # every stage again
    assert judged("--prereg", PREREG).exit_code == 0
    run = json.loads(Path("results/tiny/run.json").read_text())
    del run["stages"][0]["registrations"]
    Path("results/tiny/run.json").write_text(json.dumps(run))
    refused("was not there when")


def test_numbers_that_are_not_those_collected_are_refused(registered):
    metrics = Path("results/tiny/metrics.csv")
    frame = registered.write()
    frame.assign(value=frame.value.where(frame.arm != "hd", frame.value / 2)).to_csv(
        metrics, index=False
    )
    refused(f"{metrics}: is not the file that was collected with results/tiny/run.json")


def test_other_settings_than_the_registered_are_refused(registered):
    suite(SEEDS[:6], {"base.refine.learning_rate": 0.0123})
    registered.write()
    refused("hd has other settings, or is of another version, than was registered")


def test_the_tag_says_from_when_on_a_registration_holds(registered):
    PREREG.write_text(PREREG.read_text().replace("cap: 6", "cap: 7"))
    early = git("rev-parse", "HEAD")
    commit("final")
    git("tag", "prereg/tiny")
    registered.commits = {registered.first: early}
    registered.write()
    refused("which is not after the registration's")
    registered.commits = {}
    registered.write()
    assert git("rev-parse", "HEAD")[:12] in judged("--prereg", PREREG).output


def test_mistakes_of_a_registration_are_one_sentence(registered, tmp_path):
    registered.write()
    good = yaml.safe_load(PREREG.read_text())
    for changes, message in (
        ({"cap": 8}, "cap = 8: there are 7 seeds"),
        ({"seeds": [11, 11]}, "one appears twice"),
        ({"arms": ["hd", "dmd"]}, "a test or margin names teacher too"),
        ({"metric": "fd_tes"}, "no test is of it; did you mean 'fd_test'"),
        ({"suite": "digits"}, "is of the suite digits, not of tiny"),
        ({"hdd": 1}, "unknown key"),
    ):
        path = tmp_path / "other.yaml"
        path.write_text(yaml.safe_dump(good | changes))
        result = judged("--prereg", path)
        assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output
        assert message in result.output
    draft = tmp_path / "tiny.draft.yaml"
    assert (
        invoke("preregister", "--suite", "tiny", "--seeds", "90-99", "--out", draft).exit_code == 0
    )
    assert "is a draft" in judged("--prereg", draft).output
    assert "own rules" in judged("--prereg", PREREG, "--rules", "workflow/claims.yaml").output
    outside = tmp_path / "out" / "tiny.yaml"
    for words, message in (
        (("--seeds", "11"), "give the first and the last, such as 11-42"),
        (("--seeds", "11-99999999999"), "these are over 10,000; give fewer"),
        (("--seeds", "90-99"), "begins with seed 11, not with 90; set its seeds to [90]"),
        (("--seeds", "11-17", "--claim", "Z"), "unknown claim"),
        (("--seeds", "11-17", "--claim", "B"), "has no arm elsewhere"),
    ):
        result = invoke("preregister", "--suite", "tiny", "--out", outside, *words)
        assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output
        assert message in result.output


def test_a_claim_is_not_left_out_of_a_registration_for_a_misspelt_arm(registered):
    rules = Path("workflow/claims.yaml")
    known = rules.read_text()
    rules.write_text(known.replace("elsewhere", "elsewhre"))
    register = ("preregister", "--suite", "tiny", "--seeds", "11-17", "--cap", 6)
    result = invoke(*register, "--out", "other.yaml")
    assert (result.exit_code, result.output) == (
        2,
        f"hdbench: {rules}: claims.B: no suite has an arm 'elsewhre'; did you mean 'elsewhere'?\n",
    )
    assert invoke(*register, "--out", "named.yaml", "--claim", "A").exit_code == 0
    rules.write_text(known)
    assert invoke(*register, "--out", "other.yaml").exit_code == 0


def test_misspelt_arms_and_metrics_of_rules_are_refused_and_other_suites_arms_are_not(registered):
    registered.write()
    PREREG.unlink()
    rules = Path("workflow/claims.yaml")
    known = rules.read_text()
    assert judged().exit_code == 0  # claim B names an arm of the suite `other`
    for word, wrong, message in (
        ("elsewhere", "elsewhre", "claims.B: no suite has an arm 'elsewhre'; did you mean 'elsewh"),
        ("metric: recall", "metric: recal", "claims.B: no metric 'recal'; did you mean 'recall'?"),
    ):
        rules.write_text(known.replace(word, wrong))
        result = judged()
        assert result.exit_code == 2 and f"hdbench: {rules}: {message}" in result.output
        assert result.output.count("\n") == 1


def test_a_registration_that_is_not_committed_is_refused(registered):
    registered.write()
    git("rm", "--cached", "--quiet", str(PREREG))
    git("commit", "--amend", "--quiet", "--message", "without")
    registered.write()
    refused("is in no commit; commit it before the first chain")


def test_stages_record_the_registrations_and_their_ids_do_not_change(registered):
    plan = load_plan("tiny")
    data = next(stage for stage in plan.stages if stage.startswith("data/"))
    run_until(plan, Path("results"), data)
    _, manifest = artifact.load(Path("results"), data)
    assert manifest["registrations"] == {"tiny": sha256(PREREG)}
    PREREG.unlink()
    assert list(load_plan("tiny").stages) == list(plan.stages)


def test_stage_two_seeds_are_registered_and_complete_in_order_too(registered):
    PREREG.unlink()
    test = RULES["claims"]["A"]["tests"][0] | {"unit": "stage2_seed"}
    claims = {"A": {"says": "a", "tests": [test]}}
    Path("workflow/claims.yaml").write_text(yaml.safe_dump(RULES | {"claims": claims}))
    further = [101, 102, 103, 104, 105, 106]
    result = invoke("preregister", "--suite", "tiny", "--seeds", "11-17")
    assert result.exit_code == 2 and "tiny: stage2_seeds = none, though tests of " in result.output
    suite(SEEDS[:1], {"stage2_seeds": {"11": further}})
    assert invoke("preregister", "--suite", "tiny", "--seeds", "11-17").exit_code == 0
    commit("registration")
    registered.seeds = [11, *further[:5]]
    registered.write()
    result = judged("--prereg", PREREG)
    assert result.exit_code == 0, result.output
    assert list(pd.read_csv("results/tiny/tables/claims.csv").chains) == [6]  # with the chain's
    registered.seeds = [11, 101, 103]
    registered.write()
    refused("seed 102 has no numbers of hd, dmd, though seed 103 after it has")
    suite(SEEDS[:2], {"stage2_seeds": {"12": further}})
    registered.write()
    refused("the stage-2 seeds 101, 102, 103, 104, 105, 106 are not registered at chain 12")


def test_chains_of_one_teacher_are_registered_with_its_seed_and_are_seeds_of_stage_two(registered):
    PREREG.unlink()
    tests = [RULES["claims"]["A"]["tests"][0] | {"unit": unit} for unit in ("chain", "stage2_seed")]
    claims = {"A": {"says": "a", "tests": tests}}
    Path("workflow/claims.yaml").write_text(yaml.safe_dump(RULES | {"claims": claims}))
    suite(SEEDS[:1], {"teacher.seed": 5})
    result = invoke("preregister", "--suite", "tiny", "--seeds", "11-17")
    assert result.exit_code == 0, result.output
    suite(SEEDS[:6], {"teacher.seed": 5})
    commit("registration")
    registered.write()
    result = judged("--prereg", PREREG)
    assert result.exit_code == 0, result.output
    table = pd.read_csv("results/tiny/tables/claims.csv")
    assert list(table.chains) == [6, 6] and table.effect.nunique() == 1
    assert "from one teacher (seed 5)" in Path("results/tiny/tables/claims.md").read_text()
    suite(SEEDS[:6], {"teacher.seed": 6})
    registered.write()
    refused("the suite's seed of its teacher is 6")
