"""What keys a stage, and what is said when something that it was made with has changed."""

from __future__ import annotations

import ast
import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from hdbench.cli import main
from hdbench.core import runtime
from hdbench.core.files import MANIFEST
from hdbench.core.outputs import Command, writing
from hdbench.methods.discriminators import HEADS
from hdbench.metrics import METRICS, Metric, mean
from hdbench.report.publish import publish
from hdbench.stages import artifact, sources
from hdbench.stages.context import WEIGHTS
from hdbench.suite import jobs
from hdbench.suite.load import load_plan
from hdbench.suite.reading import SUITES, read_suite
from tests.support import shipped
from tests.support.tiny import REPOSITORY, run_until, stage_of, tiny_plan, write_suite


@pytest.fixture(autouse=True)
def leaves_this_process_alone(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(runtime, "set_up", lambda threads, device: torch.device(device))


def invoke(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_stage_ids_of_the_shipped_suites_are_these():
    """Where they change on purpose: `python -m tests.unit.test_digests` writes the file."""
    for name, held in shipped.HELD.items():
        present = shipped.ids_of(load_plan(name))
        assert {arm: present.get(arm) for arm in held} == held, name


def test_stages_know_nothing_of_plans():
    for path in (REPOSITORY / "hdbench/stages").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in getattr(node, "names", [])]
            module = getattr(node, "module", None) or ""
            imported = {module, *names, *(f"{module}.{name}" for name in names)}
            for forbidden in ("plan", "load", "chain", "checks", "reading"):
                assert f"hdbench.suite.{forbidden}" not in imported, (path.name, forbidden)


def test_a_new_autoencoder_renews_the_samples_of_a_public_teacher_and_waits_for_nothing(tmp_path):
    data = yaml.safe_load((SUITES / "imagenet256.yaml").read_text(encoding="utf-8"))
    plans = {}
    for scale in (0.18215, 0.2):
        data["data"]["autoencoder"]["scale"] = scale
        path = tmp_path / f"s{scale}.yaml"
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
        plans[scale] = load_plan(str(path))
    old, new = (
        {stage_of(p, "sample", "teacher", 1), stage_of(p, "teacher", "td", 1)}
        for p in plans.values()
    )
    assert len(old & new) == 1  # the teacher itself is converted weights, which know no autoencoder
    sample = plans[0.2].stage(stage_of(plans[0.2], "sample", "teacher", 1))
    assert sample.parents.keys() == {"source"}


@pytest.mark.parametrize("name", ["patch", "awd_logit"])
def test_a_heads_settings_key_only_what_has_a_head(tmp_path, name):
    setting = "base.refine.objective.gan"
    before = tiny_plan(tmp_path)
    gan = {"blocks": [1, 2], "parameters": 2000, "relative_weight": 0.3}
    after = tiny_plan(tmp_path, {setting: gan})
    assert stage_of(before, "refine", "hd") == stage_of(after, "refine", "hd")
    assert stage_of(before, "refine", f"hd_{name}") != stage_of(after, "refine", f"hd_{name}")


@pytest.mark.parametrize(
    ("registry", "name", "arms"),
    [("hdbench.methods.discriminators:HEADS", "patch", {"hd_patch"}),
     ("hdbench.metrics:METRICS", "precision", None)],
)  # fmt: skip
def test_a_raised_version_renews_what_uses_it(tmp_path, monkeypatch, registry, name, arms):
    before = tiny_plan(tmp_path)
    module, _, attribute = registry.partition(":")
    things = getattr(importlib.import_module(module), attribute)
    monkeypatch.setattr(things[name], "version", 7, raising=False)
    after = tiny_plan(tmp_path)
    renewed = {
        row.arm
        for row, old in zip(after.rows, before.rows, strict=True)
        if row.stages["evaluate"] != old.stages["evaluate"]
    }
    assert renewed == (arms or set(before.arms))
    kinds = {stage.split("/")[0] for stage in after.stages.keys() - before.stages.keys()}
    assert kinds == ({"refine", "sample", "evaluate"} if arms else {"evaluate"})


class MeanInk(Metric):
    """Mean brightness."""

    name, title = "mean_ink", "Mean ink"

    def measure(self, sample):
        return {"mean_ink": mean(sample.images.double().mean((1, 2, 3)).numpy())}


def test_a_new_metric_is_a_new_artifact_and_the_others_keep_their_ids(tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS._classes, "mean_ink", MeanInk)
    before, after = tiny_plan(tmp_path), tiny_plan(tmp_path, {"evaluation.metrics": ["mean_ink"]})
    assert before.stages.keys() < after.stages.keys()
    assert all(id.startswith("evaluate/") for id in after.stages.keys() - before.stages.keys())
    row = next(row for row in after.rows if row.arm == "real_test")
    for stage in after.evaluations(row):
        run_until(after, tmp_path, stage)
    result = invoke(
        "collect", "--partial", "--suite", tmp_path / "tiny.yaml", "--results", tmp_path
    )
    assert result.exit_code == 0, result.output
    text = (tmp_path / after.name / "metrics.csv").read_text(encoding="utf-8")
    assert "mean_ink_64" in text and "precision_64" in text


def test_unknown_and_known_metrics_are_refused(tmp_path):
    for name, sentence in (("fd_tain", "unknown metric; did you mean 'fd_train'?"),
                           ("recall", "the protocol has it already; remove it")):  # fmt: skip
        suite = write_suite(tmp_path, {"evaluation.metrics": [name]})
        result = invoke("plan", "--suite", suite)
        assert result.output == f"hdbench: {suite}: evaluation.metrics = '{name}': {sentence}\n"


# --- jobs


def test_a_job_reads_its_own_small_file_and_plans_nothing(tmp_path, monkeypatch):
    plan = tiny_plan(tmp_path)
    jobs.write_jobs(plan, tmp_path)
    for stage_id, stage in plan.stages.items():
        job = jobs.read_job(tmp_path, stage_id)
        assert job.stage == stage and list(job.arms) == plan.arms_of(stage_id)
    file = jobs.job_file(tmp_path, next(iter(plan.stages)))
    written = file.stat().st_mtime_ns
    jobs.write_jobs(plan, tmp_path)
    assert file.stat().st_mtime_ns == written
    monkeypatch.setattr("hdbench.suite.load.load_plan", None)
    data = next(iter(plan.stages))
    result = invoke("stage", "data", "--suite", "nowhere", "--results", tmp_path, "--id", data)
    assert result.exit_code == 0 and artifact.exists(tmp_path, data)


def test_a_broken_job_file_is_one_sentence(tmp_path):
    plan = tiny_plan(tmp_path)
    jobs.write_jobs(plan, tmp_path)
    stage = next(iter(plan.stages))
    file = jobs.job_file(tmp_path, stage)
    file.write_text("{")
    result = invoke("stage", "data", "--results", tmp_path, "--id", stage)
    assert (result.exit_code, result.output) == (2, f"hdbench: {file}: not a job file; delete it\n")


def test_a_job_of_an_earlier_version_is_not_run_under_its_old_id(tmp_path, monkeypatch):
    plan = tiny_plan(tmp_path)
    jobs.write_jobs(plan, tmp_path)
    refine = stage_of(plan, "refine", "hd_patch")
    monkeypatch.setattr(HEADS["patch"], "version", 7)
    new = stage_of(tiny_plan(tmp_path), "refine", "hd_patch")
    result = invoke("stage", "refine", "--results", tmp_path, "--id", refine)
    assert (result.exit_code, result.output) == (
        2,
        f"hdbench: {jobs.job_file(tmp_path, refine)}: it or the version of a class has changed: "
        f"it is now of {new}; plan the suite anew, or delete the file\n",
    )


def test_a_permission_is_in_the_job_file_and_in_no_digest(tmp_path):
    data = yaml.safe_load((SUITES / "imagenet256.yaml").read_text(encoding="utf-8"))
    data["data"]["corrupt_allowed"] = 3
    path = tmp_path / "imagenet.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    plan = load_plan(str(path))
    assert plan.stages.keys() == load_plan("imagenet256").stages.keys()
    jobs.write_jobs(plan, tmp_path)
    job = jobs.read_job(tmp_path, next(iter(plan.stages)))
    assert job.stage.config.dataset.corrupt_allowed == 3


# --- again


@pytest.fixture
def done(tmp_path):
    """The suite's file, its plan and the results folder with the teacher done."""
    plan = tiny_plan(tmp_path)
    run_until(plan, tmp_path, stage_of(plan, "teacher", "td"))
    return tmp_path / "tiny.yaml", plan, tmp_path


def stage_command(suite, results, *options):
    return invoke("stage", "teacher", "--suite", suite, "--results", results, *options)


def test_a_done_stage_says_where_it_lies(done):
    suite, plan, results = done
    path = artifact.folder(results, stage_of(plan, "teacher", "td"))
    assert stage_command(suite, results).output == f"done already: {path}\n"


def test_a_changed_source_is_one_line_and_again_makes_the_stage_anew(done, monkeypatch):
    suite, plan, results = done
    stage = stage_of(plan, "teacher", "td")
    child = stage_of(plan, "sample", "teacher")
    run_until(plan, results, child)
    file = "hdbench/methods/pretraining/flow_matching.py"
    digest_of_module = sources.digest_of_module
    edited = lambda name: "edited" if name.endswith("flow_matching") else digest_of_module(name)
    monkeypatch.setattr(sources, "digest_of_module", edited)
    said = stage_command(suite, results).output.splitlines()
    assert said[1:] == [f"{file} has changed since {stage} was made; --again makes it anew"]
    assert sources.changed_sources(results, plan.stages.values()) == [
        f"{file} has changed since {stage} was made; `hdbench stage` or `hdbench arm` with "
        "--again makes them anew"
    ]
    path = artifact.folder(results, stage)
    made = (path / MANIFEST).stat().st_mtime_ns
    again = stage_command(suite, results, "--again")
    assert again.exit_code == 0 and f"removed: {path}\n" in again.output
    assert (path / MANIFEST).stat().st_mtime_ns > made
    assert not artifact.exists(results, child)
    assert stage_command(suite, results).output.splitlines()[1:] == []


def test_a_child_of_an_earlier_parent_is_told(done):
    suite, plan, results = done
    stage = plan.stage(stage_of(plan, "teacher", "td"))
    manifest = artifact.folder(results, stage.parents["data"]) / MANIFEST
    manifest.write_text(manifest.read_text(encoding="utf-8").rstrip() + "\n\n", encoding="utf-8")
    said = stage_command(suite, results).output.splitlines()
    assert said[1:] == [
        f"{stage.id} was made from an earlier {stage.parents['data']}; --again makes it anew"
    ]


def test_a_resumed_stage_says_from_which_step_and_by_whose_code(tmp_path, monkeypatch):
    suite = write_suite(tmp_path, {"teacher.training.steps": 200000})
    plan = load_plan(str(suite))
    teacher = stage_of(plan, "teacher", "td")
    run_until(plan, tmp_path, plan.stage(teacher).parents["data"])
    command = [sys.executable, "-m", "hdbench", "stage", "teacher", "--suite", str(suite),
               "--results", str(tmp_path), "--checkpoint-seconds", "0"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    checkpoint = artifact.partial(tmp_path, teacher) / "checkpoint.safetensors"
    while not checkpoint.is_file():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    stage = plan.stage(teacher)
    (sentence,) = sources.resumption(stage, checkpoint.parent)
    step = int(sentence.split("from step ")[1].split()[0])
    assert sentence == f"{teacher} goes on from step {step} of 200000" and step > 0
    monkeypatch.setattr(sources, "digest_of_module", lambda name: "edited")
    _, *changed = sources.resumption(stage, checkpoint.parent)
    assert (
        "hdbench/methods/pretraining/flow_matching.py has changed since that checkpoint was made; "
        "--again starts afresh" in changed
    )


def test_an_arm_is_computed_in_order_and_again_without_the_teacher(tmp_path):
    suite = write_suite(tmp_path)
    plan = load_plan(str(suite))
    options = ("--suite", suite, "--results", tmp_path)
    assert invoke("arm", "td", *options).exit_code == 0
    row = next(row for row in plan.rows if row.arm == "td")
    made = {
        kind: (artifact.folder(tmp_path, stage) / MANIFEST).stat().st_mtime_ns
        for kind, stage in row.stages.items()
    }
    assert invoke("arm", "td", *options, "--again").exit_code == 0
    renewed = {
        kind
        for kind, stage in row.stages.items()
        if (artifact.folder(tmp_path, stage) / MANIFEST).stat().st_mtime_ns > made[kind]
    }
    assert renewed == {"trajectory", "sample", "evaluate"}
    unknown = invoke("arm", "tdd", *options)
    assert (unknown.exit_code, unknown.output) == (
        2,
        "hdbench: --arm = 'tdd': unknown arm; did you mean 'td'?\n",
    )


# --- folders


def test_two_suites_of_one_stem_share_no_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, same = (
        write_suite(tmp_path / "a", name="imagenet256"),
        write_suite(tmp_path / "b", name="imagenet256"),
    )
    other = write_suite(tmp_path, {"title": "Another"}, name="imagenet256")
    names = [load_plan(str(path)).name for path in (one, same, other)]
    assert names[0] == names[1] != names[2]
    assert "imagenet256" not in names and all(name.startswith("imagenet256-") for name in names)
    assert load_plan("imagenet256").name == "imagenet256"


def test_a_shipped_suite_takes_no_folder_of_something_else(tmp_path, monkeypatch):
    (tmp_path / "workflow/suites").mkdir(parents=True)
    path = write_suite(tmp_path / "workflow/suites", name="theory")
    monkeypatch.chdir(tmp_path)
    result = invoke("plan", "--suite", "theory")
    assert (result.exit_code, result.output) == (
        2,
        f"hdbench: {path.relative_to(tmp_path)}: results/theory is for other things; rename the "
        "file\n",
    )


def test_rendering_leaves_committed_tables_and_publishing_copies_all_or_none(tmp_path, monkeypatch):
    """`hdbench tables` writes under results; only `publish` writes beside the committed tables."""
    monkeypatch.chdir(tmp_path)
    Path("paper_tables").mkdir()
    suite, plan = write_suite(tmp_path), tiny_plan(tmp_path)
    Path("paper_tables", plan.name).mkdir()
    committed = Path("paper_tables", plan.name, "main.csv")
    committed.write_text("committed")
    row = next(row for row in plan.rows if row.arm == "real_test")
    run_until(plan, Path("results"), row.stages["evaluate"])
    for command in (["collect", "--partial"], ["tables"]):
        result = invoke(*command, "--suite", suite)
        assert result.exit_code == 0, result.output
    assert committed.read_text() == "committed"
    rendered = Path("results", plan.name, "tables/main.csv").read_text()
    refused = invoke("publish", "--suite", suite)
    assert refused.exit_code == 2 and "main.csv: is there" in refused.output
    with (
        writing(Command(force=True)),
        monkeypatch.context() as patch,
        pytest.raises(KeyboardInterrupt),
    ):
        patch.setattr("hdbench.core.files.os.replace", _interrupt)
        publish(plan.name, Path("results"), Path("paper_tables"))
    assert committed.read_text() == "committed"
    assert invoke("publish", "--suite", suite, "--force").exit_code == 0
    assert committed.read_text() == rendered
    assert committed.with_name("metrics.csv").is_file()
    with Path("results", plan.name, "metrics.csv").open("a") as file:
        file.write("collected since\n")
    stale = invoke("publish", "--suite", suite)
    assert stale.exit_code == 2 and "rendered from other numbers" in stale.output
    missing = invoke("publish", "--experiment", "probes")
    assert (missing.exit_code, missing.output) == (
        2,
        "hdbench: results/probes: nothing is rendered there; render tables and figures first\n",
    )


def _interrupt(*arguments):
    raise KeyboardInterrupt


def test_weights_have_the_mode_of_the_umask(done):
    _, plan, results = done
    path = artifact.folder(results, stage_of(plan, "teacher", "td"))
    assert (path / WEIGHTS).stat().st_mode == (path / MANIFEST).stat().st_mode


if __name__ == "__main__":
    # trials of tuning are their arms' settings: `tests/unit/test_trials.py`
    paths = (path for path in SUITES.glob("*.yaml") if "tuning" not in read_suite(path))
    stems = sorted(path.stem for path in paths)
    held = {name: shipped.ids_of(load_plan(name)) for name in stems}
    shipped.IDS.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
