"""`hdbench import`: files as official scorers write them, their own summaries, and bad files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats

from hdbench.cli import main
from hdbench.cli.imports import BENCHMARKS
from hdbench.core.files import sha256
from hdbench.evaluation.imports import IMPORTERS
from hdbench.evaluation.imports.geneval import GenEvalResults
from hdbench.evaluation.results import read_results
from hdbench.metrics.comparison import paired_difference
from hdbench.metrics.records import read_metrics
from tests.unit.test_cli import leaves_this_process_alone  # noqa: F401, a fixture

TASKS = GenEvalResults.tasks


def invoke(*arguments: object):
    return CliRunner().invoke(main, ["import", *map(str, arguments)])


def refusal(result) -> str:
    """The one sentence of a command that refused."""
    assert result.exit_code == 2, result.output + str(result.exception)
    (line,) = result.output.splitlines()
    return line.removeprefix("hdbench: ")


def geneval_rows(seed: int = 0, images: int = 4, correlation: float = 0.8) -> list[dict]:
    """All prompts, as evaluate_images.py lists them: in no order, with what else it says of each.

    Images of a prompt are alike: with this probability all are what its first is.
    """
    rng = np.random.default_rng(seed)
    rows = []
    prompt = 0
    for index, (tag, count) in enumerate(TASKS.items()):
        for _ in range(count):
            first = rng.random() < 0.9 - 0.12 * index
            metadata = {"tag": tag, "prompt": f"a photo of {prompt}", "include": []}
            for image in range(images):
                alike = rng.random() < correlation
                correct = first if alike else rng.random() < 0.9 - 0.12 * index
                rows.append(
                    {
                        "filename": f"out/{prompt:05}/samples/{image:04}.png",
                        "tag": tag,
                        "prompt": metadata["prompt"],
                        "correct": bool(correct),
                        "reason": "" if correct else "expected dog>=1, found 0",
                        "metadata": json.dumps(metadata),
                        "details": json.dumps({"cat": [[1.0, 2.0, 3.0, 4.0, 0.9]]}),
                    }
                )
            prompt += 1
    return [rows[i] for i in rng.permutation(len(rows))]


def write_geneval(path: Path, rows: list[dict]) -> Path:
    """By pandas, as the scorer does."""
    with path.open("w") as file:
        pd.DataFrame(rows).to_json(file, orient="records", lines=True)
    return path


def official_geneval(path: Path) -> float:
    """The overall score, by the steps of GenEval's summary: the mean of the tags' means."""
    frame = pd.read_json(path, orient="records", lines=True)
    return float(np.mean([task["correct"].mean() for _, task in frame.groupby("tag", sort=False)]))


def dpg_lines(seed: int = 0, prompts: int = 1065, images: int = 4) -> list[str]:
    """The lines that compute_dpg_bench.py appends for each image, then its summary."""
    rng = np.random.default_rng(seed)
    lines = []
    averages = []
    for prompt in range(prompts):
        scores = [int(score) / 13 for score in rng.integers(5, 14, images)]
        averages.append(sum(scores) / len(scores))
        name = f"partiprompts{prompt}" if prompt % 3 else f"COCOval2014000000{prompt}"
        texts = ", ".join(str(score) for score in scores)
        lines.append(f"out/my, model/{name}.png, {texts}, {averages[-1]}")
    return [
        *lines,
        "Model: my, model",
        "L1 category scores:",
        "\tentity: 88.1",
        "L2 category scores:",
        "\tentity - whole: 90.2",
        "Image path: out/my, model",
        "Save results to: out/results.txt",
        f"DPG-Bench score: {np.mean(averages) * 100}",
    ]


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_commands_benchmarks_are_the_importers():
    assert set(BENCHMARKS) == set(IMPORTERS)
    assert all(name in invoke("--help").output for name in IMPORTERS)


def test_geneval_is_its_own_summary_with_intervals_over_prompts(tmp_path):
    path = write_geneval(tmp_path / "results.jsonl", geneval_rows())
    result = invoke("geneval", path, "--name", "mine", "--out", tmp_path / "out.csv")
    assert result.exit_code == 0, result.output
    frame = read_metrics(tmp_path / "out.csv").set_index("metric")
    assert frame.loc["geneval_2212"].value == pytest.approx(official_geneval(path), abs=1e-15)
    rows = pd.read_json(path, lines=True)
    variances = []
    for tag, count in TASKS.items():
        of_task = rows[rows.tag == tag]
        row = frame.loc[f"geneval_{tag}_{4 * count}"]
        assert row.value == pytest.approx(of_task.correct.mean())
        prompts = of_task.groupby("prompt").correct.mean()  # equal numbers: the mean of means
        variances.append(stats.sem(prompts) ** 2)
        # in units of p (1 - p), weighted with that of half a prompt whose images are alike
        spread = row.value * (1 - row.value)
        units = np.average([variances[-1] / spread, 1 / count], weights=[count * spread, 0.5])
        assert row.se == pytest.approx((spread * units) ** 0.5)
        assert variances[-1] ** 0.5 < row.se < 1.1 * variances[-1] ** 0.5
    assert frame.loc["geneval_2212"].se == pytest.approx(sum(variances) ** 0.5 / len(TASKS))
    assert set(frame.n) == {2212, *(4 * count for count in TASKS.values())}
    assert (frame.digest == sha256(path)[:16]).all() and (frame.arm == "mine").all()
    independent = rows.correct.std() / len(rows) ** 0.5
    assert frame.loc["geneval_2212"].se > 1.2 * independent  # images of a prompt are alike


def test_gaps_of_two_models_are_paired_whatever_the_order(tmp_path):
    results = []
    for seed, name in ((0, "a"), (1, "b")):
        path = write_geneval(tmp_path / f"{name}.jsonl", geneval_rows(seed))
        assert invoke("geneval", path, "--out", tmp_path / f"{name}.csv").exit_code == 0
        results.append(read_results(tmp_path / f"{name}.npz")["geneval"])
    (a, ids_a), (b, ids_b) = results
    assert ids_a != ids_b and set(ids_a) == set(ids_b)
    difference = paired_difference(a, ids_a, b, ids_b)
    assert difference.value == pytest.approx(a.value - b.value)


def test_dpg_bench_is_the_score_of_its_own_summary(tmp_path):
    lines = dpg_lines()
    path = write_lines(tmp_path / "dpg.txt", lines)
    result = invoke("dpg_bench", path, "--out", tmp_path / "out.csv")
    assert result.exit_code == 0, result.output
    row = read_metrics(tmp_path / "out.csv").iloc[0]
    averages = [100 * float(line.rsplit(", ", 1)[1]) for line in lines[:1065]]
    assert row.metric == "dpg_bench_1065" and row.n == 1065
    assert row.value == pytest.approx(float(lines[-1].split(": ")[1]))
    assert row.se == pytest.approx(stats.sem(averages))


def test_vqascores_of_several_images_are_clustered_by_prompt(tmp_path):
    rng = np.random.default_rng(5)
    of_prompt = rng.uniform(0.2, 0.8, 50).repeat(3)
    scores = of_prompt + rng.uniform(-0.1, 0.1, 150)
    rows = [f'{i}.png,"a, prompt {i // 3}",{score}' for i, score in enumerate(scores)]
    path = write_lines(tmp_path / "scores.csv", ["image,prompt,score", *rows])
    assert invoke("vqascore", path, "--out", tmp_path / "out.json").exit_code == 0
    (row,) = json.loads((tmp_path / "out.json").read_text())["metrics"]
    assert row["value"] == pytest.approx(scores.mean()) and row["metric"] == "vqascore_150"
    assert row["se"] == pytest.approx(stats.sem(scores.reshape(50, 3).mean(1)))


def test_fewer_images_are_taken_where_partial_says_so(tmp_path):
    rows = [row for row in geneval_rows() if int(row["filename"].split("/")[1]) % 2]
    path = write_geneval(tmp_path / "half.jsonl", rows)
    assert "has 40 of the 80 prompts of single_object; score all" in refusal(
        invoke("geneval", path)
    )
    result = invoke("geneval", path, "--partial")
    assert result.exit_code == 0 and f"geneval_{len(rows)}" in result.output
    one = write_geneval(tmp_path / "one.jsonl", geneval_rows(images=1))
    result = invoke("geneval", one)
    assert result.exit_code == 0
    assert "note: 1 images per prompt, where geneval has 4" in result.output


def lacking(row: int):
    return lambda rows: rows[:row] + rows[row + 1 :]


def with_value(key: str, value: object):
    return lambda rows: [rows[0] | {key: value}, *rows[1:]]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: [], "holds 0 results of geneval; an interval needs at least two"),
        (
            lambda rows: [*rows, rows[5]],
            r"\d{5}/000\d appears 2 times; give the results of one run",
        ),
        (lacking(7), r"has 3 of 4 images of the prompt \d{5}; score all images, or give --partial"),
        (with_value("correct", 1), "line 1: correct is 1, neither true nor false"),
        (with_value("tag", "color"), r"line 1: the tag 'color' is no task of it; did you mean"),
        (with_value("tag", ["color"]), r"line 1: the tag \['color'\] is no task of it"),
        (with_value("filename", "0.png"), "line 1: '0.png' is not <prompt>/samples/<image>"),
        (with_value("filename", 3), "line 1: not an object with filename, tag, prompt and correct"),
        (lambda rows: [rows[0], {"tag": "counting"}], "line 2: not an object with filename"),
        (with_value("prompt", "another"), r"line \d+: the prompt of \d{5} is another than before"),
    ],
)
def test_a_geneval_file_that_is_none_is_one_sentence(tmp_path, change, sentence):
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in change(geneval_rows())))
    said = refusal(invoke("geneval", path, "--out", tmp_path / "out.csv"))
    assert re.search(sentence, said) and str(path) in said and not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda lines: lines[:0], "holds 0 results of dpg_bench"),
        (lambda lines: lines[:900], "has 900 of the 1,065 prompts of dpg_bench; score all images"),
        (lacking(3), "the mean of its 1064 prompts is .*, its summary says .*; lines are missing"),
        (lambda lines: lines + lines, "its summary does not have exactly one line 'DPG-Bench"),
        (lambda lines: [lines[0], *lines[:-1]], "does not have exactly one line"),
        (lambda lines: [lines[0], *lines[:1065]], "COCOval20140000000 appears 2 times"),
        (lambda lines: ["a.png, 0.5, 0.7, 0.9", *lines], "line 1: 0.9 is not the mean of"),
        (lambda lines: ["a.png, 0.5", *lines], "line 1: not an image's path, its scores"),
        (lambda lines: ["a.png, 1.5, 1.5", *lines], "line 1: not an image's path, its scores"),
        (lambda lines: ["a.png, 0.5, 0.5", *lines[:1065]], "prompts have 1 or 4 images"),
    ],
)
def test_a_dpg_file_that_is_none_is_one_sentence(tmp_path, change, sentence):
    path = write_lines(tmp_path / "dpg.txt", change(dpg_lines()))
    said = refusal(invoke("dpg_bench", path))
    assert re.search(sentence, said) and str(path) in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image,score\na,0.1", "line 1: no column prompt; write a csv with the columns image"),
        ("image,prompt,score\na,b,0.1\nb,c", "line 3: not an image, its prompt, and a score"),
        ("image,prompt,score\na,b,nan\nb,c,1", "line 2: not an image, its prompt, and a score"),
        ("image,prompt,score\na,b,0.1\na,c,0.2", "a appears 2 times"),
        ("image,prompt,score\na,b,0.1\n\nb,c", "line 4: not an image, its prompt, and a score"),
        (200_000 * "a", "line 1: field larger than field limit"),
        ("", "line 1: no column image"),
    ],
)
def test_a_table_of_vqascores_that_is_none_is_one_sentence(tmp_path, text, sentence):
    (tmp_path / "scores.csv").write_text(text)
    assert sentence in refusal(invoke("vqascore", tmp_path / "scores.csv"))


def test_a_file_that_cannot_be_read(tmp_path):
    assert "cannot be read (No such file" in refusal(invoke("geneval", tmp_path / "none.jsonl"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refusal(invoke("dpg_bench", tmp_path / "binary"))
    path = write_geneval(tmp_path / "results.jsonl", geneval_rows())
    assert "give a file that ends in .csv" in refusal(invoke("geneval", path, "--out", "x.txt"))
