"""Collected numbers, intervals, comparisons and rendered tables, against direct computation on
synthetic artifacts.
"""

import base64
import csv
import hashlib
import html
import io
import json
import math
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats

from hdbench.cli import main
from hdbench.core.errors import UserError
from hdbench.metrics import records as metric_records
from hdbench.metrics.manifold import Recall
from hdbench.networks import flops
from hdbench.report import collect, document, figures, tables
from hdbench.report import numbers as report_numbers
from hdbench.report.figures import sources as figure_sources
from hdbench.report.figures.spectrum import Spectrum, relative_power
from hdbench.report.provenance import read_run
from hdbench.report.tables import tables_of
from hdbench.report.tables.render import RANKS
from hdbench.stages import artifact
from hdbench.suite.stage import SampleStage
from tests.support.tiny import tiny_plan, write_suite

SEEDS = {"seeds": [0, 1, 2]}
METRICS = (
    "fd_train",
    "fd_test",
    "precision",
    "recall",
    "accuracy",
    "classifier_score",
    "power_band1",
    "power_band2",
    "power_band3",
    "power_band4",
)

SHARES = ("precision", "recall", "accuracy")


def synthetic(plan, generator=None) -> pd.DataFrame:
    """Random numbers for every row of the plan, with the digests that the plan expects."""
    generator, numbers = generator or np.random.default_rng(0), []
    for row in plan.rows:
        common = {
            "suite": plan.name,
            "arm": row.arm,
            "seed": row.seed,
            "nfe": row.nfe,
            "digest": plan.stage(row.stages["evaluate"]).digest,
        }
        names = [m for m in METRICS if not (plan.arms[row.arm].real == "test" and m == "fd_test")]
        numbers += [
            common
            | {
                "metric": f"{name}_64",
                "value": generator.uniform(1, 9) * (0.1 if name in SHARES else 1),
                "se": generator.uniform(0.1, 0.2),
                "n": 64,
                "protocol": "classifier:abc",
            }
            for name in names
        ]
        if row.seed is not None:
            numbers += [
                common | {"metric": name, "value": generator.uniform(1e3, 9e3), "protocol": "cost"}
                for name in (
                    "training_forward_equivalents",
                    "milliseconds_per_sample",
                    "parameters",
                )
            ]
    return pd.DataFrame(numbers, columns=list(metric_records.COLUMNS)).astype(
        metric_records.COLUMNS
    )


def values(frame, arm, metric, nfe=1) -> np.ndarray:
    return frame[
        (frame.arm == arm) & (frame.nfe == nfe) & (frame.metric == metric)
    ].value.to_numpy()


def rendered(plan, frame, table, results=Path("nowhere")):
    return tables.render(report_numbers.Numbers(plan, frame, results), table)


def rows_of(table) -> dict[str, dict[str, str]]:
    """The csv by arm; of several sampling steps the first."""
    records = csv.DictReader(io.StringIO(document.to_csv(table.document)))
    return {record["arm"]: record for record in reversed(list(records))}


def publish(results, plan, stage_id, payload=None, **facts) -> None:
    """A stage's artifact with these arrays or texts as files."""
    folder, stage = artifact.folder(results, stage_id), plan.stage(stage_id)
    folder.mkdir(parents=True)
    for name, content in (payload or {}).items():
        (folder / name).write_text(content) if isinstance(content, str) else np.savez(
            folder / name, **content
        )
    manifest = {
        "id": stage_id,
        "kind": stage.kind,
        "digest": stage.digest,
        "config": stage.config.model_dump(mode="json"),
        "parents": stage.parents,
        "environment": {"torch": "2"},
        "wall_seconds": 1.0,
        "core_seconds": 2.0,
        **facts,
        "payload": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in payload or {}
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def of_several_ranks(number: int) -> dict[str, float]:
    """The costs that manifests have had since stages run on several processes."""
    return {
        "gpu_seconds": 7.0 + number,
        "queue_seconds": 60.0 * number,
        "peak_memory_bytes": 10**9 + 10**7 * number,
        "ranks": 2,
    }


LABELS = np.arange(64) % 10


def fake_run(results, plan, new_facts=of_several_ranks) -> dict[str, np.ndarray]:
    """Every stage of the plan as an artifact; returns the influences of fd_test by evaluate
    stage.
    """
    generator, noise, influences = (
        np.random.default_rng(1),
        np.random.default_rng(2).normal(size=64),
        {},
    )
    for number, (stage_id, stage) in enumerate(plan.stages.items()):
        payload, facts = {}, {}
        if stage.kind in ("teacher", "trajectory", "refine"):
            facts = {
                "forward_equivalents": 1000.0 + number,
                "parameters": 50 + number,
                "core_seconds": 3.0 + number,
            }
            facts |= new_facts(number)
            if (
                getattr(stage.training and stage.training.objective, "discriminator", "none")
                != "none"
            ):
                facts["head_parameters"] = 2000
        elif stage.kind == "sample" and isinstance(stage.config, SampleStage):
            facts = {"milliseconds_per_sample": 0.5 + number}
        elif stage.kind == "evaluate":
            influences[stage_id] = 5 * noise + generator.normal(
                size=64
            )  # mostly shared noise: pairing must help
            lines = [f"{name},{float(generator.uniform(1, 9))!r},0.25,64" for name in METRICS]
            payload = {
                "metrics.csv": "\n".join(["metric,value,se,n", *lines]) + "\n",
                "influence.npz": {"fd_test": influences[stage_id]},
                "design.npz": {"strata.fd_test": LABELS},
                "rings.npz": {
                    "rings": np.array([2.0, 6.0, 1.0, 1.0]),
                    "real": np.array([1.0, 2.0, 4.0, 1.0]),
                },
            }
        publish(results, plan, stage_id, payload, **facts)
    return influences


@pytest.mark.parametrize(
    ("n", "name"), [(4000, "fd_4k"), (50000, "fd_50k"), (450, "fd_450"), (1500, "fd_1500")]
)
def test_a_metrics_name_has_its_sample_count(n, name):
    assert metric_records.with_count("fd", n) == name


def test_collect_writes_one_number_a_row_with_costs_from_the_manifests(tmp_path):
    plan = tiny_plan(tmp_path)
    fake_run(tmp_path / "r", plan)
    frame = collect.collect(plan, tmp_path / "r")
    assert list(frame.columns) == [
        "suite",
        "arm",
        "seed",
        "nfe",
        "metric",
        "value",
        "se",
        "n",
        "protocol",
        "digest",
    ]
    row = next(row for row in plan.rows if row.arm == "hd_patch")
    mine = frame[frame.arm == "hd_patch"].set_index("metric")
    spent = {kind: artifact.load(tmp_path / "r", stage)[1] for kind, stage in row.stages.items()}
    assert mine.value["training_forward_equivalents"] == (
        spent["trajectory"]["forward_equivalents"] + spent["refine"]["forward_equivalents"]
    )
    assert mine.value["refine_core_seconds"] == spent["refine"]["core_seconds"]
    assert (
        mine.value["training_core_seconds"]
        == mine.value["refine_core_seconds"] + mine.value["trajectory_core_seconds"]
    )
    own = [spent["trajectory"], spent["refine"]]
    for name, total in (("gpu_seconds", sum), ("queue_seconds", sum), ("peak_memory_bytes", max)):
        assert mine.value[f"training_{name}"] == total(manifest[name] for manifest in own)
    assert (
        mine.value["parameters"] == spent["refine"]["parameters"]
        and mine.value["head_parameters"] == 2000
    )
    assert mine.value["milliseconds_per_sample"] == spent["sample"]["milliseconds_per_sample"]
    reference = next(stage.digest for stage in plan.stages.values() if stage.kind == "reference")
    assert (
        mine.protocol["fd_train_64"] == f"classifier[splits=chain]:{reference}"
        and mine.protocol["parameters"] == "cost"
    )
    assert set(mine.digest) == {plan.stage(row.stages["evaluate"]).digest}
    teacher = (
        frame[(frame.arm == "teacher") & (frame.nfe == 4)].set_index("metric").value
    )  # 2 guided steps
    assert teacher["training_forward_equivalents"] == 0
    assert teacher["teacher_forward_equivalents"] == spent["teacher"]["forward_equivalents"]
    real = frame[frame.arm == "real_train"]
    assert (real.seed == 0).all() and set(real.nfe) == {0} and "cost" not in set(real.protocol)
    pd.testing.assert_frame_equal(
        metric_records.read_metrics(report_numbers.metrics_file(plan, tmp_path / "r")), frame
    )
    run = read_run(tmp_path / "r" / plan.name)
    environment = pd.read_csv(tmp_path / "r" / plan.name / "environment.csv")
    assert environment.to_numpy().tolist() == [
        ["commit", "unknown", len(plan.stages)],
        ["torch", "2", len(plan.stages)],
    ]
    assert {stage.id for stage in run.stages} == set(plan.stages)
    assert run.core_seconds == pytest.approx(sum(stage.core_seconds for stage in run.stages))


def test_costs_that_older_manifests_lack_are_dashes(tmp_path):
    """Collected and rendered without them; with them, in seconds and megabytes."""
    plan, shown = tiny_plan(tmp_path), {}
    for age, new_facts in {"old": lambda number: {}, "new": of_several_ranks}.items():
        fake_run(tmp_path / age, plan, new_facts)
        frame = collect.collect(plan, tmp_path / age)
        texts = rendered(plan, frame, "cost", tmp_path / age).document.frame()
        titles, rows = list(texts), texts.to_numpy().tolist()
        shown[age] = {row[0]: dict(zip(titles, row, strict=True)) for row in rows}[
            "MeanFlow → DMD + patch"
        ]
    names = ("GPU s", "Queue s", "Peak MB")
    assert [shown["old"][name] for name in names] == ["-"] * 3
    stages = next(row for row in plan.rows if row.arm == "hd_patch").stages
    own = [artifact.load(tmp_path / "new", stages[kind])[1] for kind in ("trajectory", "refine")]
    assert [shown["new"][name] for name in names] == [
        f"{sum(m['gpu_seconds'] for m in own):,.0f}",
        f"{sum(m['queue_seconds'] for m in own):,.0f}",
        f"{max(m['peak_memory_bytes'] for m in own) / 1e6:,.0f}",
    ]
    ranks = {
        age: {stage.ranks for stage in read_run(tmp_path / age / plan.name).stages}
        for age in ("old", "new")
    }
    assert ranks == {"old": {None}, "new": {None, 2}}


def test_collect_refuses_a_missing_stage_and_partial_leaves_out_its_rows_alone(tmp_path):
    plan, results = tiny_plan(tmp_path), tmp_path / "r"
    fake_run(results, plan)
    whole = collect.collect(plan, results)
    gone = next(row.stages["evaluate"] for row in plan.rows if row.arm == "hd")
    (artifact.folder(results, gone) / "manifest.json").unlink()
    with pytest.raises(UserError, match=re.escape(gone)):
        collect.collect(plan, results)
    part = collect.collect(plan, results, partial=True)
    assert set(whole.arm) - set(part.arm) == {"hd"}
    pd.testing.assert_frame_equal(part, whole[whole.arm != "hd"].reset_index(drop=True))


def test_several_chains_have_their_mean_and_t_interval(tmp_path):
    plan = tiny_plan(tmp_path, SEEDS)
    frame = synthetic(plan)
    row, sample = rows_of(rendered(plan, frame, "main"))["hd"], values(frame, "hd", "fd_test_64")
    low, high = stats.t.interval(0.95, len(sample) - 1, loc=sample.mean(), scale=stats.sem(sample))
    assert float(row["fd_test_64"]) == pytest.approx(sample.mean(), rel=1e-12)
    assert float(row["fd_test_64_half_width"]) == pytest.approx((high - low) / 2, rel=1e-9)
    assert row["chains"] == "3"
    assert "3 complete chains" in rendered(plan, frame, "main").caption


def test_one_chain_has_its_sampling_interval(tmp_path):
    plan = tiny_plan(tmp_path)
    frame = synthetic(plan)
    found = frame[(frame.arm == "hd") & (frame.metric == "recall_64")].iloc[0]
    row = rows_of(rendered(plan, frame, "main"))["hd"]
    assert float(row["recall_64"]) == found.value
    low, high = Recall.limits(found.value, found.se)
    further = max(found.value - low, high - found.value)
    assert float(row["recall_64_half_width"]) == pytest.approx(further)
    assert "one chain, with its 95% sampling interval" in rendered(plan, frame, "main").caption


def test_real_images_are_on_top_of_the_main_table_even_where_the_suite_does_not_list_them(tmp_path):
    plan = tiny_plan(tmp_path, {"tables.main.rows": ["hd", "teacher"]})
    assert [entry.arm for entry, _, _ in rendered(plan, synthetic(plan), "main").rows] == [
        "real_train",
        "real_test",
        "hd",
        "teacher",
        "teacher",
    ]


def test_a_missing_arm_is_a_dash_with_a_footnote(tmp_path):
    plan = tiny_plan(tmp_path, SEEDS)
    frame = synthetic(plan)
    whole = document.to_markdown(rendered(plan, frame, "components").document)
    assert "‡" not in whole
    text = document.to_markdown(
        rendered(plan, frame[frame.arm != "hd_patch"], "components").document
    )
    line = next(line for line in text.splitlines() if "+ patch" in line)
    assert [cell.strip() for cell in line.split("|")[6:-1]] == [
        "0",
        *["-"] * 6,
    ] and "patch‡" in line
    assert "‡ Not available" in text
    row = rows_of(rendered(plan, frame[frame.arm != "hd_patch"], "components"))["hd_patch"]
    assert row["fd_test_64"] == "" and row["note"] == "not available"


def test_an_empty_file_gives_tables_of_dashes(tmp_path):
    plan = tiny_plan(tmp_path)
    frame = synthetic(plan)[:0]
    for name in tables_of(plan):
        text = document.to_markdown(rendered(plan, frame, name).document)
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert rows and not any("±" in row or re.search(r"\d\.\d", row) for row in rows)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_a_number_leaves_a_dash_with_its_own_footnote(tmp_path, value):
    plan = tiny_plan(tmp_path, SEEDS)
    frame = synthetic(plan)
    frame.loc[(frame.arm == "hd") & (frame.seed == 1) & (frame.metric == "recall_64"), "value"] = (
        value
    )
    table = rendered(plan, frame, "main")
    row = rows_of(table)["hd"]
    assert row["recall_64"] == "" and row["precision_64"] != "" and row["note"] == "not a number"
    assert any(note.startswith("¶ Not a number") for note in table.footnotes)


def test_fewer_chains_are_counted_and_marked(tmp_path):
    plan = tiny_plan(tmp_path, SEEDS)
    frame = synthetic(plan)
    frame = frame[~((frame.arm == "hd") & (frame.seed == 2))]
    row = rows_of(rendered(plan, frame, "main"))["hd"]
    assert row["chains"] == "2" and row["note"] == "fewer chains"
    assert float(row["fd_test_64"]) == pytest.approx(values(frame, "hd", "fd_test_64").mean())


def test_a_number_that_stands_twice_is_named(tmp_path):
    plan = tiny_plan(tmp_path)
    frame = synthetic(plan)
    again = frame[(frame.arm == "hd") & (frame.metric == "recall_64")].assign(value=0.5)
    with pytest.raises(UserError, match="arm hd seed 0 nfe 1 metric recall_64"):
        rendered(plan, pd.concat([frame, again]), "main")


def test_numbers_of_another_configuration_or_protocol_are_refused(tmp_path):
    plan = tiny_plan(tmp_path)
    frame = synthetic(plan)
    other = frame.copy()
    other.loc[other.arm == "hd", "digest"] = "0" * 16
    with pytest.raises(UserError, match="arm hd, seed 0, nfe 1"):
        rendered(plan, other, "main")
    frame.loc[frame.arm == "hd", "protocol"] = "classifier:xyz"
    with pytest.raises(UserError, match="classifier:abc, classifier:xyz"):
        rendered(plan, frame, "main")


def test_paired_difference_is_that_of_the_samples(tmp_path):
    plan, results = tiny_plan(tmp_path), tmp_path / "r"
    influences = fake_run(results, plan)
    frame = collect.collect(plan, results)
    a, b = (next(row for row in plan.rows if row.arm == arm) for arm in ("hd_patch", "hd"))
    difference, se = report_numbers.paired_difference(results, plan, a, b, "fd_test")
    one, two = (influences[row.stages["evaluate"]] for row in (a, b))
    assert difference == pytest.approx(
        (values(frame, "hd_patch", "fd_test_64") - values(frame, "hd", "fd_test_64"))[0]
    )
    within = [one[LABELS == label] - two[LABELS == label] for label in range(10)]
    variance = sum(len(values) * values.var(ddof=1) for values in within) / 64**2
    assert se == pytest.approx(np.sqrt(variance))
    row = rows_of(rendered(plan, frame, "discriminators", results))["hd_patch"]
    assert float(row["difference_fd_test_64"]) == pytest.approx(difference)
    assert float(row["difference_fd_test_64_half_width"]) == pytest.approx(1.96 * se)
    alone = rows_of(rendered(plan, frame, "discriminators"))[
        "hd_patch"
    ]  # without artifacts: no interval, same value
    assert float(alone["difference_fd_test_64"]) == pytest.approx(difference)
    assert alone["difference_fd_test_64_half_width"] == ""
    with pytest.raises(UserError, match="has no metric 'fid'"):
        report_numbers.paired_difference(results, plan, a, b, "fid")


def test_differences_over_chains_are_paired_by_chain(tmp_path):
    plan = tiny_plan(tmp_path, SEEDS)
    frame = synthetic(plan)
    row = rows_of(rendered(plan, frame, "initialisation"))["dmd_total"]
    paired = stats.ttest_rel(
        values(frame, "dmd_total", "fd_test_64"), values(frame, "hd", "fd_test_64")
    )
    low, high = paired.confidence_interval(0.95)
    assert float(row["difference_fd_test_64"]) == pytest.approx((low + high) / 2)
    assert float(row["difference_fd_test_64_half_width"]) == pytest.approx((high - low) / 2)


def test_the_page_shows_what_the_markdown_shows(tmp_path):
    """Every cell, emphasis as tags, nothing loaded from elsewhere, and markup in a name is text."""
    plan = tiny_plan(tmp_path, SEEDS | {"tables.main.caption": "<script>a & b"})
    frame = synthetic(plan)
    fd = frame.metric == "fd_test_64"
    frame.loc[fd, "value"] = 5 + 0.01 * frame.value[fd]
    frame.loc[fd & (frame.arm == "hd"), "value"] = [0.1, 0.1001, 0.1002]
    table = rendered(plan, frame, "main")
    page, markdown = document.to_html(table.document), document.to_markdown(table.document)
    rows = [
        [
            html.unescape(re.sub("<.*?>", "", cell)).strip()
            for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.DOTALL)
        ]
        for row in re.findall(r"<tr.*?>(.*?)</tr>", page, re.DOTALL)
    ]
    lines = [
        [cell.strip().strip("*") for cell in line.split("|")[1:-1]]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]
    assert rows == [lines[0], *lines[2:]]
    assert "<b>0.1" in page and "&lt;script&gt;a &amp; b" in page
    assert page.count("<script") == page.count("<script>for (const table of ") == 1  # its own
    assert not re.search(r"(src|href)=|@import|url\(", page)


def test_methods_are_compared_with_the_arms_that_the_suite_names(tmp_path):
    """Differences of the same chains, one pair of columns an arm of `against`, and a recipe's title
    and source.
    """
    kd = {
        "recipe": "knowledge",
        "trajectory": {"objective": {"pairs": {"count": 16, "steps": 2}}, "batch": 16},
    }
    plan = tiny_plan(
        tmp_path,
        SEEDS
        | {
            "arms.kd": kd,
            "tables.methods.rows": ["kd", "td", "hd"],
            "tables.methods.against": ["hd", "td"],
        },
    )
    frame = synthetic(plan)
    table = rendered(plan, frame, "methods")
    row = rows_of(table)["kd"]
    for other in ("hd", "td"):
        difference = values(frame, "kd", "fd_test_64") - values(frame, other, "fd_test_64")
        assert float(row[f"difference_fd_test_64_{other}"]) == pytest.approx(difference.mean())
        assert row[f"difference_against_{other}"] == other
        assert rows_of(table)[other][f"difference_fd_test_64_{other}"] == ""
    assert (
        row["method"].startswith("Knowledge distillation") and row["source"] == "arXiv 2101.02388"
    )


def test_comparisons_follow_from_configurations_not_from_names(tmp_path):
    patch = {"objective": {"discriminator": "patch"}}
    arms = {
        "a": {"refine": patch},
        "b": {"trajectory": None},
        "c": {},
        "d": {"trajectory": None, "refine": patch},
        "e": {"trajectory": None, "refine": {"steps": {"equal_total": "c"}}},
        "f": {"trajectory": None, "refine": patch | {"steps": {"equal_total": "a"}}},
        "g": {"trajectory": {"objective": {"name": "consistency"}}, "refine": patch},
        "h": {"trajectory": None, "refine": None},
    }
    listed = {
        f"tables.{name}": {"caption": "x", "rows": list(arms)}
        for name in (
            "main",
            "components",
            "discriminators",
            "initialisation",
            "methods",
            "cost",
            "reproducibility",
        )
    }
    plan = tiny_plan(tmp_path, {"arms": arms, **listed})
    frame = synthetic(plan)

    def against(table):
        return {
            arm: row["difference_against"]
            for arm, row in rows_of(rendered(plan, frame, table)).items()
        }

    assert against("discriminators") == {
        "a": "c",
        "b": "b",
        "c": "c",
        "d": "b",
        "e": "e",
        "f": "e",
        "g": "",
        "h": "",
    }
    assert against("initialisation") == {
        "a": "a",
        "b": "c",
        "c": "c",
        "d": "a",
        "e": "c",
        "f": "a",
        "g": "a",
        "h": "",
    }
    assert set(against("components").values()) == {"c"}
    control = {
        arm: row["control"] for arm, row in rows_of(rendered(plan, frame, "initialisation")).items()
    }
    assert (control["d"], control["f"], control["a"]) == (
        "equal stage-2 steps",
        "equal total compute",
        "none",
    )
    assert (
        rows_of(rendered(plan, frame, "main"))["f"]["method"]
        == "Teacher → DMD + patch, equal total"
    )


def test_cost_ratios_are_to_the_teacher_at_its_most_steps(tmp_path):
    plan = tiny_plan(tmp_path, SEEDS)
    frame = synthetic(plan)
    row = rows_of(rendered(plan, frame, "cost"))["hd"]
    ratios = values(frame, "teacher", "milliseconds_per_sample", nfe=8) / values(
        frame, "hd", "milliseconds_per_sample"
    )
    assert float(row["speed_up_time"]) == pytest.approx(ratios.mean())
    assert float(row["speed_up_nfe"]) == 8  # 4 guided steps against one


def test_reconstruction_is_printed_with_the_heads_it_is_about_and_only_there(tmp_path):
    plan = tiny_plan(tmp_path)
    for name in ("main", "components", "discriminators", "cost"):
        table = rendered(plan, synthetic(plan), name)
        notes = {arm: row["note"] for arm, row in rows_of(table).items()}
        assert notes.pop("hd_awd_logit") == "reconstruction" and set(notes.values()) == {""}
        assert "† Reconstruction" in document.to_markdown(
            table.document
        ) and r"$^{\dagger}$ Reconstruction" in document.to_tex(table.document)
    assert "Reconstruction" not in document.to_markdown(
        rendered(plan, synthetic(plan), "initialisation").document
    )


def test_metric_columns_have_the_sample_count(tmp_path):
    plan = tiny_plan(tmp_path)
    header = next(
        csv.reader(io.StringIO(document.to_csv(rendered(plan, synthetic(plan), "main").document)))
    )
    assert [name for name in header if name.endswith("_64")] == [f"{name}_64" for name in METRICS]
    assert "N = 64 images" in rendered(plan, synthetic(plan), "main").caption


@pytest.mark.parametrize("name", ["main", "components", "discriminators", "initialisation", "cost"])
def test_tex_is_balanced_and_escaped(tmp_path, name):
    plan = tiny_plan(tmp_path, SEEDS | {"title": r"100% of a_b & {c} #1 ~ ^ $ \x"})
    tex = document.to_tex(rendered(plan, synthetic(plan), name).document)
    assert (
        r"100\% of a\_b \& \{c\} \#1 \textasciitilde{} \textasciicircum{} \$ \textbackslash{}x"
        in tex
    )
    opened = []
    for command, environment in re.findall(r"\\(begin|end)\{(\w+)\}", tex):
        if command == "begin":
            opened.append(environment)
        else:
            assert opened.pop() == environment
    assert not opened
    bare = re.sub(r"\\[\\{}$%&#_]", "", tex)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert bare.isascii()
    panels = re.findall(r"\\begin\{tabular\}\{(lr*)\}(.*?)\\end\{tabular\}", tex, re.DOTALL)
    assert len(panels) == (2 if name in ("main", "cost") else 1)
    shown = "".join(body for _, body in panels)
    assert all(
        column.title.translate(document.TEX) in shown
        for column in rendered(plan, synthetic(plan), name).columns
    )
    for columns, body in panels:
        assert {line.count("&") + 1 for line in body.splitlines() if line.endswith(r"\\")} == {
            len(columns)
        }


@pytest.mark.parametrize(
    ("value", "half", "signed", "text"),
    [
        (9.6312, 0.4199, False, "9.63 ± 0.42"),
        (1234.5, 123.4, False, "1,234 ± 123"),
        (0.91234, 0.00996, False, "0.912 ± 0.010"),
        (-1.25, 0.5, True, "-1.25 ± 0.50"),
        (1.25, 0.5, True, "+1.25 ± 0.50"),
        (-0.001, 0.5, True, "0.00 ± 0.50"),
        (42.0, float("nan"), False, "42"),
        (0.01234, float("nan"), False, "0.0123"),
        (float("nan"), 1.0, False, "-"),
        (float("inf"), 1.0, False, "-"),
        (0.0, 0.0, False, "0"),
    ],
)
def test_numbers_have_two_digits_of_the_half_width(value, half, signed, text):
    assert document.for_people(metric_records.Interval(value, half), signed=signed) == text


@pytest.mark.parametrize(
    "content",
    [
        "",
        "a,b\n1,2\n",
        b"\xff\xfe\x00bad",
        ",".join(metric_records.COLUMNS) + "\ns,a,0,1,m,high,,,p,d\n",
        ",".join(metric_records.COLUMNS) + "\ns,a,0.5,1,m,1,,,p,d\n",
        ",".join(metric_records.COLUMNS) + "\ns,,0,1,m,1,,,p,d\n",
    ],
)
def test_a_file_that_is_not_of_metrics_ends_in_one_sentence(tmp_path, content):
    path, suite = tmp_path / "metrics.csv", write_suite(tmp_path)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for argument in (path, tmp_path / "absent.csv"):
        result = CliRunner().invoke(
            main, ["tables", "--suite", str(suite), "--metrics", str(argument)]
        )
        assert result.exit_code == 2 and result.output.startswith(f"hdbench: {argument}: ")
        assert result.output.count("\n") == 1


@pytest.mark.slow
def test_commands_from_artifacts_to_the_terminal(tmp_path):
    changes = {
        "arms.hd_awd_logit.refine.objective.gan": {"relative_weight": 0.25, "r1_weight": 0.125}
    }  # a long name
    plan = tiny_plan(tmp_path, changes)
    where = ["--suite", str(write_suite(tmp_path, changes)), "--results", str(tmp_path / "r")]
    fake_run(tmp_path / "r", plan)
    out = ["--out", str(tmp_path / "out")]
    for command in (
        ["collect", *where],
        ["tables", *where, *out],
        ["show", *where, *out],
        ["plan", *where],
    ):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        if command[0] == "show":
            *table, tables_at, figures_at, report_at = result.output.splitlines()
            assert max(map(len, table)) <= 118 and "relative weight 0.25" in " ".join(
                " ".join(table).split()
            )
            assert [line.split()[0] for line in (tables_at, figures_at, report_at)] == [
                "tables:",
                "figures:",
                "report:",
            ]
            assert f"{plan.name}/report.html (missing; make it with: " in report_at
    assert {path.name for path in (tmp_path / "out" / plan.name).glob("[!.]*")} == {
        f"{name}.{kind}" for name in tables_of(plan) for kind in ("csv", "md", "tex", "html")
    } | {"metrics.csv", "stages.csv", "environments.json"}
    assert f"{len(plan.stages)} of {len(plan.stages)} stages done" in result.output
    assert all(stage in result.output for stage in plan.stages)


def test_relative_power_is_samples_over_real(tmp_path):
    plan, results = tiny_plan(tmp_path, {"seeds": [0, 1]}), tmp_path / "r"
    fake_run(results, plan)
    sources = figure_sources.Sources(plan, results)
    power = relative_power(sources, sources.rows("hd"), "hd")
    np.testing.assert_allclose(power, [[2, 3, 0.25, 1]] * 2)
    assert not sources.missing


@pytest.mark.slow
def test_figures_of_an_empty_folder_say_what_is_missing(tmp_path):
    plan = tiny_plan(tmp_path)
    png = {".png": b"\x89PNG"}
    for out, kinds in (
        (None, png | {".html": b"<!do"}),
        (tmp_path / "out", png | {".pdf": b"%PDF"}),
    ):
        written = figures.draw(plan, tmp_path / "nothing", out, pdf=out is not None)
        assert {path.name for path in written} == {n + k for n in figures.FIGURES for k in kinds}
        assert all(path.read_bytes()[:4] == kinds[path.suffix] for path in written)
    for path in (tmp_path / "nothing").rglob("*.html"):  # of the report, no taller than a window
        text = path.read_text(encoding="utf-8")
        picture = base64.b64encode(path.with_suffix(".png").read_bytes()).decode()
        kind = figures.FIGURES[path.stem]
        assert f"base64,{picture}" in text and "max-height:100vh" in text and "http" not in text
        assert f'alt="{html.escape(kind.__doc__)}"' in text
    sources = figure_sources.Sources(plan, tmp_path / "none")
    plt.close(Spectrum().draw(sources))
    assert "Not available" in sources.notes(plan.arms) and "Reconstruction" in sources.notes(
        plan.arms
    )


def test_reproducibility_tells_sampling_from_training(tmp_path):
    """Scatter of chains = training^2 + mean sampling^2; chains that scatter less than sampling have
    no training part.
    """
    plan = tiny_plan(tmp_path, SEEDS)
    frame = synthetic(plan)
    hd = (frame.arm == "hd") & (frame.metric == "fd_test_64")
    frame.loc[hd, ["value", "se"]] = [[4.0, 0.5], [6.0, 1.0], [8.0, 0.5]]
    quiet = (frame.arm == "hd_patch") & (frame.metric == "fd_test_64")
    frame.loc[quiet, ["value", "se"]] = [[5.0, 1.0], [5.1, 1.0], [5.2, 1.0]]
    rows = rows_of(rendered(plan, frame, "reproducibility"))
    found = {
        part: float(rows["hd"][f"fd_test_64_{part}"])
        for part in ("lowest", "highest", "total", "sampling", "training")
    }
    assert found == pytest.approx(
        {"lowest": 4, "highest": 8, "total": 2, "sampling": 0.5**0.5, "training": 3.5**0.5}
    )
    assert float(rows["hd_patch"]["fd_test_64_training"]) == 0
    alone = rows_of(
        rendered(tiny_plan(tmp_path), synthetic(tiny_plan(tmp_path)), "reproducibility")
    )
    assert alone["hd"]["fd_test_64_training"] == ""
    explained = '"-": one chain alone does not scatter.'
    single = rendered(tiny_plan(tmp_path), synthetic(tiny_plan(tmp_path)), "reproducibility")
    assert explained in " ".join(single.footnotes)
    assert explained not in " ".join(rendered(plan, frame, "reproducibility").footnotes)


def test_density_and_coverage_are_columns_where_they_were_measured(tmp_path):
    plan = tiny_plan(tmp_path)
    frame = synthetic(plan)
    before = [column.key for column in rendered(plan, frame, "main").columns]
    assert "recall_64" in before and "coverage_64" not in before
    recall = frame[frame.metric == "recall_64"]
    frame = pd.concat([frame, recall.assign(metric="coverage_64", value=0.25)], ignore_index=True)
    shown = rendered(plan, frame, "main")
    keys = [column.key for column in shown.columns]
    assert keys[keys.index("recall_64") + 1] == "coverage_64" and "density_64" not in keys
    assert float(rows_of(shown)["hd"]["coverage_64"]) == 0.25


def test_best_and_second_best_are_marked_only_where_intervals_support_it(tmp_path):
    plan = tiny_plan(tmp_path, SEEDS)
    frame = synthetic(plan)
    measured = frame.metric.isin(["fd_test_64", "recall_64"]) & frame.seed.notna()
    frame.loc[measured, "value"] = 50 + np.random.default_rng(0).normal(size=measured.sum())

    def plant(arm, metric, new):
        for _, group in frame[(frame.arm == arm) & (frame.metric == metric)].groupby("nfe"):
            frame.loc[group.index, "value"] = new

    plant("hd", "fd_test_64", [1.0, 1.1, 0.9])
    plant("dmd", "fd_test_64", [9.0, 9.1, 8.9])
    plant("hd", "recall_64", [500.0, 5.0, 900.0])  # the highest mean, but not beyond its scatter
    table = rendered(plan, frame, "components")
    titles = [column.key for column in table.columns]
    marked = {
        (table.rows[row][0].arm, titles[column]): rank
        for (row, column), rank in table.ranks.items()
    }
    assert marked[("hd", "fd_test_64")] == "best" and marked[("dmd", "fd_test_64")] == "second"
    assert not any(key == "recall_64" for _, key in marked)
    markdown, tex = document.to_markdown(table.document), document.to_tex(table.document)
    assert re.search(r"\*\*1\.\d+ ± [\d.]+\*\*", markdown) and "| *9.0" in re.sub(
        " +", " ", markdown
    )
    assert r"$\mathbf{1." in tex and r"$\mathit{9." in tex and RANKS in markdown
    single = tiny_plan(tmp_path)
    alone = rendered(single, synthetic(single), "components")
    assert not alone.ranks and any(note.startswith("One chain:") for note in alone.footnotes)


def test_the_least_detectable_difference_is_of_paired_models_and_bold_is_beyond_it(tmp_path):
    """Of three arms: SDs 1, 1 and 2 of the three differences, by the noncentral t at 3 chains."""
    plan = tiny_plan(tmp_path, SEEDS)
    frame = synthetic(plan)
    shared, step = np.array([3.0, -8.0, 20.0]), np.array([-1.0, 0.0, 1.0])
    for arm, offset in (("hd", 0.0), ("hd_patch", step), ("hd_awd_logit", -step)):
        rows = (frame.arm == arm) & (frame.metric == "fd_test_64")
        frame.loc[rows, "value"] = 40 + shared + offset
    table = rendered(plan, frame, "discriminators")
    effect = 3.9234  # power 0.9 at level .05: checked below
    t = np.abs(
        stats.ttest_1samp(
            effect + np.random.default_rng(0).normal(size=(3, 40_000)), 0, axis=0
        ).statistic
    )
    assert np.mean(t > stats.t.ppf(0.975, 2)) == pytest.approx(0.9, abs=0.01)
    (note,) = (note for note in table.footnotes if note.startswith("Least detectable"))
    assert note.startswith("Least detectable difference of FD test: 3.92, what a paired t-test")
    for ahead, rank in ((3.0, None), (5.0, "best")):  # within 3.92, and beyond it
        frame.loc[(frame.arm == "hd") & (frame.metric == "fd_test_64"), "value"] = (
            40 + shared - ahead
        )
        ranks = rendered(plan, frame, "discriminators").ranks
        assert {ranks.get((0, column)) for _, column in ranks} <= {rank} and bool(ranks) == bool(
            rank
        )


@pytest.mark.slow
def test_anybodys_metrics_are_rendered_and_what_is_wrong_with_them_said(tmp_path):
    """Another version's digests, other seeds, an unknown arm, a doubled row, a contradiction and
    swapped seeds.
    """
    plan = tiny_plan(tmp_path, SEEDS)
    frame = synthetic(plan)

    def notes(changed) -> tuple[report_numbers.Numbers, str]:
        numbers = report_numbers.Numbers(plan, changed, Path("nowhere"), lenient=True)
        return numbers, " ".join(tables.render(numbers, "main").footnotes)

    other = frame.assign(digest="0" * 16, seed=frame.seed + 70)
    numbers, said = notes(other)
    assert f"{len(frame)} of {len(frame)} numbers were made by another version" in said
    assert numbers(numbers.entries("hd")[0], "fd_test_64").value == pytest.approx(
        values(frame, "hd", "fd_test_64").mean()
    )
    again = frame[(frame.arm == "hd") & (frame.metric == "recall_64")]
    assert "Left out" not in notes(pd.concat([frame, again]))[1]
    numbers, said = notes(pd.concat([frame, again.assign(value=0.5)]))
    assert "Left out: 6 numbers that appear twice with different values (arms: hd)" in said
    assert math.isnan(numbers(numbers.entries("hd")[0], "recall_64").value)
    assert "suite does not have (arms: mine)" in notes(frame.replace({"arm": {"hd": "mine"}}))[1]
    swapped = frame.copy()
    swapped.loc[frame.arm == "hd", "seed"] = frame.seed[frame.arm == "hd"].map({0: 1, 1: 0, 2: 2})
    assert "whose digest is that of another arm or seed (arms: hd)" in notes(swapped)[1]
    with pytest.raises(UserError, match="not of the present suite"):
        report_numbers.Numbers(plan, other, Path("nowhere"))
    with pytest.raises(UserError, match="of the suite another, not of tiny-.*; name it by --suite"):
        notes(frame.assign(suite="another"))
    for metric, value in (
        ("recall_64", 1.7),
        ("fd_test_64", 1e300),
        ("fd_test_64", -3.0),
        ("power_band1_64", -0.1),
        ("classifier_score_64", -1.0),
    ):
        impossible = frame.assign(
            value=frame.value.where((frame.arm != "hd") | (frame.metric != metric), value)
        )
        numbers, said = notes(impossible)
        assert "3 numbers that cannot be" in said and math.isnan(
            numbers(numbers.entries("hd")[0], metric).value
        )
    cost = frame.metric == "milliseconds_per_sample"
    assert (
        f"{cost.sum()} numbers that cannot be"
        in notes(frame.assign(value=frame.value.where(~cost, -1.0)))[1]
    )
    recall = frame.metric == "recall_64"
    assert (
        f"{recall.sum()} numbers whose sample count is not"
        in notes(frame.assign(n=frame.n.where(~recall, 640)))[1]
    )
    elsewhere = frame[frame.arm == "hd"].assign(suite="another")
    assert (
        f"{len(elsewhere)} numbers of other suites (another)"
        in notes(pd.concat([frame, elsewhere]))[1]
    )
    for infinite in (math.inf, -math.inf):
        broken = recall & (frame.arm == "hd") & (frame.seed == 1)
        numbers, said = notes(frame.assign(value=frame.value.where(~broken, infinite)))
        assert "¶ Not a number" in said and math.isnan(
            numbers(numbers.entries("hd")[0], "recall_64").value
        )


def test_a_chain_that_repeats_another_is_no_chain(tmp_path):
    """A copy under another seed would have no scatter, so no interval and p = 0."""
    plan = tiny_plan(tmp_path, SEEDS)
    frame = synthetic(plan).assign(
        digest=lambda frame: frame.digest + frame.seed.astype("str").fillna("")
    )
    first = frame[(frame.arm == "hd") & (frame.seed == 0)].set_index("metric").value
    copy = (frame.arm == "hd") & (frame.seed == 2)
    copied = frame.assign(value=frame.value.where(~copy, frame.metric.map(first)))
    numbers = report_numbers.Numbers(plan, copied, Path("nowhere"), lenient=True)
    assert (
        f"{copy.sum()} numbers of chains that repeat another chain of their arm to the bit (arms: "
        f"hd)" in numbers.notes[0]
    )
    assert numbers.chains(numbers.entries("hd")[0]) == (2, 3)
    assert "repeat" not in " ".join(
        report_numbers.Numbers(plan, frame, Path("nowhere"), lenient=True).notes
    )
    one = copied.assign(
        value=copied.value.where(~copy | (copied.metric != "recall_64"), 0.3)
    )  # equal but for one number
    assert "repeat" not in " ".join(
        report_numbers.Numbers(plan, one, Path("nowhere"), lenient=True).notes
    )


@pytest.mark.slow
def test_a_column_with_fewer_chains_than_its_row_is_marked_and_captions_count_the_chains_there_are(
    tmp_path,
):
    plan = tiny_plan(tmp_path, SEEDS)
    frame = synthetic(plan)
    less = frame[~((frame.arm == "hd") & (frame.seed == 2) & (frame.metric == "recall_64"))]
    row = rows_of(rendered(plan, less, "main"))["hd"]
    assert (row["chains"], row["note"]) == ("3", "fewer chains") and rows_of(
        rendered(plan, frame, "main")
    )["hd"]["note"] == ""
    for seeds, said in (
        ((0, 1), "means over 2 of 3 chains"),
        ((1,), "one chain of 3, with its 95% sampling interval"),
    ):
        assert (
            said
            in rendered(plan, frame[frame.seed.isin(seeds) | frame.seed.isna()], "main").caption
        )


def test_flops_are_those_of_the_products_in_the_network():
    """Linear layers by hand, 2 a multiplication and addition; attention adds 4 N^2 d a block."""
    from hdbench.networks.config import TransformerConfig

    config = TransformerConfig(width=32, depth=2, heads=4, patch=2)
    n, d, pixels = 16, 32, 4
    block = 2 * n * d * d * (4 + 2 * 4) + 4 * n * n * d + 2 * d * 6 * d
    time = 2 * (32 * d + d * d)
    total = 2 * block + time + 2 * 2 * n * pixels * d + 2 * d * 2 * d
    assert flops.forward_flops(config, 8, 1, 10, False) == total
    assert flops.forward_flops(config, 8, 1, 10, True) == total + time


@pytest.mark.parametrize(("seeds", "said"), [([0], True), ([0, 1, 2], False)])
def test_a_table_of_one_chain_says_where_intervals_of_recall_are_too_short(tmp_path, seeds, said):
    plan = tiny_plan(tmp_path, {"seeds": seeds})
    numbers = report_numbers.Numbers(plan, synthetic(plan), tmp_path)
    assert any(tables.explanations(numbers, "Recall ↑")) == said
    assert ("70%" in " ".join(tables.explanations(numbers, "Recall ↑"))) == said
