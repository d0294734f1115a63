"""Published numbers beside ours: every cell against the files that it came from, read back
independently.
"""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hdbench.cli import main
from hdbench.evaluation.protocols import PROTOCOLS, label
from hdbench.evaluation.results import Evaluation, Result
from hdbench.metrics import Estimate
from hdbench.metrics.records import COLUMNS
from hdbench.report.published import BENCHMARKS, GROUP_OF
from hdbench.report.published.ranks import GAP, ranks

NUMBERS = Path(__file__).parents[2] / "paper_tables" / "published.csv"
SHOWN = {
    "imagenet256": [
        *("fid", "is", "precision", "recall"),
        *("fdr6", "fdr3", "fd_dinov2", "sw_r14", "mmd_r14"),
    ],
    "mjhq": ["fid", "clip", "geneval", "dpg"],
    "text_to_image": ["geneval", "dpg", "pickscore", "vqascore"],
}
ADM = "adm_imagenet256_50k:0123456789abcdef"
MARKS = "†‡§¶◇"
PLACE = 5  # the column of places


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def publish(out: Path, *options: object, code: int = 0) -> str:
    result = CliRunner().invoke(
        main, ["published", "--numbers", str(NUMBERS), "--out", str(out), *map(str, options)]
    )
    assert result.exit_code == code, result.output
    return result.output


def markdown(path: Path) -> tuple[dict[str, list[list[str]]], list[str]]:
    """Rows of cells by group, without bold, and the paragraphs around the table."""
    groups, lines = {}, path.read_text(encoding="utf-8").splitlines()
    for line in [line for line in lines if line.startswith("|")][2:]:
        cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")]
        if not any(cells[1:]):
            group = groups.setdefault(cells[0], [])
        else:
            group.append(cells)
    return groups, [line for line in lines if line and not line.startswith("|")]


def number(
    metric: str,
    value: object,
    *,
    arm="HD",
    seed="",
    nfe=1,
    se="",
    n=50_000,
    protocol=ADM,
    suite="evaluate",
) -> dict:
    name = f"{metric}_{n // 1000}k" if n else metric
    return {
        "suite": suite,
        "arm": arm,
        "seed": seed,
        "nfe": nfe,
        "metric": name,
        "value": value,
        "se": se,
        "n": n,
        "protocol": protocol,
        "digest": "d",
    }


def values_of(name: str, row: list[str]) -> list[str]:
    """A row's cells between its method and source, without its place."""
    with_places = "fid" in BENCHMARKS[name].columns
    return [*row[1:PLACE], *row[PLACE + with_places : -1]]


def write(path: Path, rows: list[dict], columns=tuple(COLUMNS)) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def ours(folder: Path, rows: list[dict], *options: object) -> tuple[list[list[str]], list[str]]:
    """Our rows of the ImageNet table and what stands below it."""
    publish(
        folder,
        "--benchmark",
        "imagenet256",
        "--metrics",
        write(folder / "ours.csv", rows),
        *options,
    )
    groups, notes = markdown(folder / "imagenet256.md")
    return groups["hdbench"], notes


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_cell_is_that_of_the_published_file(tmp_path, name):
    publish(tmp_path, "--benchmark", name)
    published = [row for row in rows_of(NUMBERS) if row["benchmark"] == BENCHMARKS[name].name]
    groups, notes = markdown(tmp_path / f"{name}.md")
    sources = dict(re.findall(r"^- (\[\d+\]) (.*)$", "\n".join(notes), re.M))
    shown = sorted(
        [row[0].rstrip(MARKS).replace("→", "->"), *values_of(name, row), sources[row[-1]]]
        for group, rows in groups.items()
        if group != "hdbench"
        for row in rows
    )
    keys = ["params_M", "nfe", "guidance", *SHOWN.get(name, ["fid"])]
    assert shown == sorted(
        [row["method"], *(row[key] or "-" for key in keys), row["source"]] for row in published
    )
    table = [row for row in rows_of(tmp_path / f"{name}.csv") if row["group"] != "hdbench"]
    keys = ["method", *keys, "family", "other", "source", "locator", "confidence"]
    assert sorted([row[key] for key in keys] for row in table) == sorted(
        [row[key] for key in keys] for row in published
    )
    assert all(GROUP_OF[row["family"]] == row["group"] for row in table)
    for rows in groups.values():
        values = [float(row[4]) for row in rows if row[4] != "-"]
        assert values == sorted(values, reverse=name == "text_to_image")
    known = set(
        re.findall(
            r"\d+(?:\.\d+)?",
            NUMBERS.read_text(encoding="utf-8")
            + " 95 30,000 50,000 [1] 256 50 x2 "
            + " ".join(row.get("place", "") for row in rows_of(tmp_path / f"{name}.csv")),
        )
    )
    tex = (tmp_path / f"{name}.tex").read_text(encoding="utf-8")
    cells = [
        cell
        for line in re.findall(r"^.* & .* & .*\\\\$", tex, re.M)
        for cell in line.split(" & ")[1:-1]
    ]
    assert len(cells) > 3 * len(published)
    assert set(re.findall(r"\d+(?:\.\d+)?", " ".join(cells))) <= known


def test_the_committed_tables_are_those_of_the_published_file(tmp_path):
    publish(tmp_path)
    written = sorted(tmp_path.glob("[!.]*"))
    for path in written:
        assert path.read_bytes() == (NUMBERS.parent / path.name).read_bytes(), path.name
    assert len(written) == 3 * len(BENCHMARKS)


def test_hd_stands_out_and_nothing_measured_is_said(tmp_path):
    publish(tmp_path)
    text = (tmp_path / "imagenet256.md").read_text(encoding="utf-8")
    assert (
        re.search(r"\*\*HD \(.*\*\*2\.26\*\*", text)
        and r"\textbf{2.26}" in (tmp_path / "imagenet256.tex").read_text()
    )
    groups, notes = markdown(tmp_path / "imagenet256.md")
    assert groups["hdbench"] == [["HD, this suite", *["-"] * 14]]
    assert any(
        "nothing was measured at this scale" in note
        and "hdbench evaluate --protocol adm_imagenet256_50k" in note
        for note in notes
    )
    groups, notes = markdown(tmp_path / "mjhq.md")
    assert groups["hdbench"] == [["HD, this suite", *["-"] * 9]]
    assert (
        any(note.startswith("HD has no published number") for note in notes)
        and "Hierarchical distillation" not in groups
    )


def test_the_commands_of_the_footnote_exist():
    for benchmark in BENCHMARKS.values():
        if not benchmark.protocols:
            continue
        command = benchmark.command.split()[1]
        options = re.findall(r"--[a-z-]+", benchmark.command)
        help_text = CliRunner().invoke(main, [command, "--help"]).output
        assert len(options) >= (6 if command == "evaluate" else 2) and all(
            option in help_text for option in options
        )


def test_remembered_numbers_are_marked_or_left_out(tmp_path):
    remembered = [
        row
        for row in rows_of(NUMBERS)
        if row["confidence"] == "remembered" and row["benchmark"] == "ImageNet-256"
    ]
    publish(tmp_path / "all")
    publish(tmp_path / "some", "--without-remembered")
    everything, notes = markdown(tmp_path / "all" / "imagenet256.md")
    kept, kept_notes = markdown(tmp_path / "some" / "imagenet256.md")
    marked = [row for rows in everything.values() for row in rows if "†" in row[0]]
    assert sorted(row[4] for row in marked) == sorted(row["fid"] for row in remembered) and marked
    assert any(note.startswith("† Remembered") for note in notes)
    assert sum(map(len, kept.values())) == sum(map(len, everything.values())) - len(marked)
    assert (
        f"Left out: {len(marked)} remembered and not checked." in kept_notes
        and "†" not in "".join(kept_notes)
    )


def test_published_numbers_of_other_terms_are_flagged(tmp_path):
    publish(tmp_path)
    groups, notes = markdown(tmp_path / "mjhq.md")
    flagged = {row[0] for rows in groups.values() for row in rows if "‡" in row[0]}
    assert {name.rstrip(MARKS) for name in flagged} >= {
        "SDXL (HART protocol)",
        "Playground v2.5 (vendor card)",
    }
    note = next(note for note in notes if note.startswith("‡"))
    assert all(name.rstrip(MARKS) in note for name in flagged)


def test_places_are_ranges_of_what_no_gap_decides():
    assert ranks([1.0, 1.5, 2.0], 0.013) == [(1, 1), (2, 2), (3, 3)]
    assert ranks([1.0, 1.013, 1.02], 0.013) == [(1, 2), (1, 3), (2, 3)]  # ties are not transitive
    values = np.random.default_rng(0).uniform(1, 1.2, 12)
    for value, (first, last) in zip(values, ranks(list(values), 0.013), strict=True):
        assert first == sum(value / values > 1.013) + 1
        assert last - first == sum((value / values <= 1.013) & (values / value <= 1.013)) - 1


def test_rows_within_the_published_gap_share_a_place(tmp_path):
    publish(tmp_path, "--benchmark", "imagenet256")
    table = rows_of(tmp_path / "imagenet256.csv")
    (gap,) = [float(row["fid"]) / 100 for row in rows_of(NUMBERS) if row["benchmark"] == GAP]
    one_step = [row for row in table if row["nfe"] == "1" and row["place"]]
    fids = {id(row): float(row["fid"]) for row in one_step}
    assert len(one_step) > 50
    for row in one_step:
        tied = [
            other
            for other in one_step
            if max(fids[id(row)], fids[id(other)])
            <= (1 + gap) * min(fids[id(row)], fids[id(other)])
        ]
        first, _, last = row["place"].partition("-")
        assert int(last or first) - int(first) + 1 == len(tied)
    left_out = [row for row in table if not row["place"] and row["nfe"] == "1" and row["fid"]]
    assert left_out and all(
        row["group"] == "hdbench" or re.search("other terms|trained on", row["note"])
        for row in left_out
    )
    note = next(line for line in markdown(tmp_path / "imagenet256.md")[1] if "Place:" in line)
    assert f"closer than {100 * gap:g}%" in note and "2606.20536" in note


def test_rows_whose_training_objective_is_what_is_measured_are_marked(tmp_path):
    publish(tmp_path, "--benchmark", "imagenet256")
    trained = [
        row for row in rows_of(NUMBERS) if row["benchmark"] == "ImageNet-256" and row["trained_on"]
    ]
    groups, notes = markdown(tmp_path / "imagenet256.md")
    marked = [row for rows in groups.values() for row in rows if "◇" in row[0]]
    assert len(marked) == len(trained) > 30 and {row[PLACE] for row in marked} == {"-"}
    assert any(note.startswith("◇") and "FID and FDr6" in note for note in notes)


def test_every_method_that_trains_on_representations_says_on_which_columns_it_does():
    distances = ("fid", "fdr6", "sw_r14", "mmd_r14")
    rows = [row for row in rows_of(NUMBERS) if row["family"] == "FD-loss"]
    measured = [row for row in rows if any(row[name] for name in distances)]
    assert len(measured) > 30 and not [r["method"] for r in measured if not r["trained_on"]]


def test_an_unknown_benchmark_is_one_sentence(tmp_path):
    assert "imagenet256" in publish(tmp_path, "--benchmark", "imagenet25", code=2)


def test_ours_have_sampling_intervals_or_t_intervals(tmp_path):
    rows = [
        number("fid", 3.5, se=0.1),
        number("inception_score", 250.0),
        number("precision", 0.8125, se=0.001),
    ]
    rows += [
        number("fid", value, arm="hd", suite="big", seed=seed, nfe=2)
        for seed, value in enumerate((2.0, 3.0, 4.0))
    ]
    rows += [
        number(
            "parameters", 675_100_000.0, arm="hd", suite="big", seed=0, nfe=2, n="", protocol="cost"
        )
    ]
    found, notes = ours(tmp_path, rows)
    assert found == [
        ["big: hd", "675", "2", "-", "3.0 ± 2.5", *["-"] * 10],
        ["HD", "-", "1", "-", "3.50 ± 0.20", "-", "250", "0.8125 ± 0.0020", *["-"] * 7],
    ]
    assert not any("nothing was measured" in note for note in notes)
    table = {
        row["method"]: row
        for row in rows_of(tmp_path / "imagenet256.csv")
        if row["group"] == "hdbench"
    }
    assert float(table["HD"]["fid_half_width"]) == pytest.approx(0.196)
    assert float(table["big: hd"]["fid_half_width"]) == pytest.approx(4.302652729911275 / 3**0.5)
    assert (table["HD"]["recall"], table["big: hd"]["chains"], table["HD"]["n"]) == (
        "",
        "3",
        "50000",
    )
    assert r"3.50 $\pm$ 0.20" in (tmp_path / "imagenet256.tex").read_text(encoding="utf-8")


def test_what_evaluate_writes_is_taken(tmp_path):
    protocol, ids = label(PROTOCOLS["mjhq30k"], {"clip": "c" * 64}, "ab" * 32), tuple("abcd")
    results = {
        "fid": Result(Estimate(7.25, np.array([1.0, -1.0, 1.0, -1.0])), ids),
        "clip_score": Result(Estimate(28.0, np.full(4, np.nan)), ids),
        "fid_animals": Result(Estimate(9.0, np.ones(2)), ids),
    }
    Evaluation(name="HD", protocol=protocol, reference="ab" * 32, digest="d", results=results).save(
        tmp_path / "hd.csv"
    )
    publish(tmp_path, "--benchmark", "mjhq", "--metrics", tmp_path / "hd.csv")
    groups, notes = markdown(tmp_path / "mjhq.md")
    assert groups["hdbench"] == [["HD‡", "-", "-", "-", "7.2 ± 1.1", "-", "28", "-", "-", "-"]]
    assert any("HD: N = 4, not 30,000, clip=cccccccccccc." in note for note in notes)


def test_other_counts_weights_and_references_are_flagged(tmp_path):
    rows = [
        number("fid", 9.0, arm="few", n=2000),
        number("fid", 4.0, arm="own", protocol="adm_imagenet256_50k[inception=abc]:7"),
        number("fid", 5.0, arm="plain"),
        number("fid_animals", 1.0, arm="plain", n=3000),
    ]
    found, notes = ours(tmp_path, [rows[0], rows[2], rows[3]])
    assert [row[0] for row in found] == ["plain", "few‡"]
    assert any("few: N = 2,000, not 50,000" in note for note in notes)
    (tmp_path / "two").mkdir()
    other = write(tmp_path / "two" / "other.csv", [rows[1]])
    found, notes = ours(tmp_path / "two", [rows[2]], "--metrics", other)
    assert [row[0] for row in found] == ["own‡", "plain‡"]
    assert any(
        "own: inception=abc, reference 7" in note and "plain: reference 0123456789abcdef" in note
        for note in notes
    )


def test_other_protocols_are_left_out_and_named(tmp_path):
    found, notes = ours(
        tmp_path, [number(metric, 1.0, protocol="torch_fidelity:1") for metric in ("fid", "kid")]
    )
    assert found == [["HD, this suite", *["-"] * 14]]
    assert (
        "Left out, arms that are not of adm_imagenet256_50k or imagenet256_wide or fdr6: "
        "1 of evaluate (torch_fidelity)." in notes
    )


def test_each_of_a_benchmarks_protocols_has_its_own_row_and_columns(tmp_path):
    wide = {"protocol": "imagenet256_wide:0123456789abcdef", "arm": "big"}
    rows = [number("fid", 2.0, se=0.1, **wide), number("fd_dinov2", 90.0, se=1.0, **wide)]
    other = write(tmp_path / "wide.csv", rows)
    rows = [number("fid", 2.5, se=0.1), number("fdr6", 3.0, se=0.05, protocol="fdr6:9")]
    found, _ = ours(tmp_path, rows, "--metrics", other)
    shown = {row[0]: [cell for cell in row[4:] if cell != "-"] for row in found}
    assert shown == {
        "HD": ["2.50 ± 0.20"],
        "HD (fdr6)": ["3.000 ± 0.098"],
        "big (imagenet256_wide)": ["2.00 ± 0.20", "90.0 ± 2.0"],
    }
    path = write(
        tmp_path / "t2i.csv",
        [
            number("geneval", 0.8, se=0.01, n=2212, protocol="geneval:-")
            | {"metric": "geneval_2212"},
            number("dpg_bench", 82.0, se=0.5, n=4260, protocol="dpg_bench:-")
            | {"metric": "dpg_bench_4260"},
        ],
    )
    publish(tmp_path / "t2i", "--benchmark", "text_to_image", "--metrics", path)
    groups, _ = markdown(tmp_path / "t2i" / "text_to_image.md")
    assert [row[0] for row in groups["hdbench"]] == ["HD", "HD (dpg_bench)"]
    assert (
        groups["hdbench"][0][4].startswith("0.800 ±") and groups["hdbench"][1][5] == "82.00 ± 0.98"
    )


def test_a_protocol_for_any_images_is_shown_where_one_benchmark_is_named(tmp_path):
    path = write(tmp_path / "ours.csv", [number("fid", 2.0, se=0.1, protocol="torch_fidelity:1")])
    publish(tmp_path / "all", "--metrics", path)
    publish(tmp_path / "one", "--metrics", path, "--benchmark", "cifar10")
    unnamed = ["HD, this suite", *["-"] * 6]
    for name in ("cifar10", "cifar10_conditional", "imagenet64"):
        groups, _ = markdown(tmp_path / "all" / f"{name}.md")
        assert groups["hdbench"] == [unnamed]
    groups, _ = markdown(tmp_path / "one" / "cifar10.md")
    assert groups["hdbench"] == [["HD", "-", "1", "-", "2.00 ± 0.20", "-", "-"]]


def test_numbers_of_missing_chains_and_not_a_number(tmp_path):
    rows = [number("fid", value, seed=seed) for seed, value in enumerate((2.0, 3.0, "nan"))]
    rows += [number("precision", 0.5 + seed / 10, seed=seed) for seed in (0, 1)]
    found, notes = ours(tmp_path, rows)
    assert found[0][0] == "HD‡¶" and found[0][4] == "-" and found[0][7].startswith("0.55 ±")
    assert any("Prec. of 2 of 3 chains" in note for note in notes) and any(
        note.startswith("¶") for note in notes
    )


def test_faults_of_metrics_are_one_sentence(tmp_path):
    fid = number("fid", 1.0)
    cases = {
        "more than once": write(tmp_path / "twice.csv", [fid, fid]),
        "columns are": write(tmp_path / "short.csv", [fid], [c for c in COLUMNS if c != "se"]),
        "does not exist": tmp_path / "none.csv",
        "mixes the protocols": write(
            tmp_path / "mixed.csv", [fid, number("fid", 1.0, arm="b", protocol="clean_fid:1")]
        ),
        "without its n": write(tmp_path / "uncounted.csv", [number("fid", 1.0, n="")]),
        "line 2: value = 'low' is not a number": write(
            tmp_path / "word.csv", [number("fid", "low")]
        ),
    }
    for words, path in cases.items():
        output = publish(tmp_path, "--metrics", path, code=2)
        assert words in output and output.startswith("hdbench: ") and output.count("\n") == 1, (
            output
        )
    one, two = write(tmp_path / "one.csv", [fid]), write(tmp_path / "two.csv", [number("fid", 2.0)])
    assert "is in several files" in publish(tmp_path, "--metrics", one, "--metrics", two, code=2)


def test_faults_of_published_numbers_are_one_sentence(tmp_path):
    rows = rows_of(NUMBERS)
    columns, first = list(rows[0]), rows[0]
    shifted = dict(zip(columns, [*list(first.values())[1:], ""], strict=True))
    cases = {
        "appears twice": write(tmp_path / "a.csv", [*rows, rows[3]], columns),
        "row 2 (BigGAN-deep): fid = 'nan' is not a number": write(
            tmp_path / "b.csv", [first | {"fid": "nan"}], columns
        ),
        "has no column recall": write(
            tmp_path / "c.csv", rows, [c for c in columns if c != "recall"]
        ),
        "columns shifted": write(tmp_path / "d.csv", [rows[1] | {"confidence": ""}], columns),
        "has no source": write(tmp_path / "h.csv", [first | {"source": ""}], columns),
        "trained_on = 'fid ism' is not": write(
            tmp_path / "i.csv", [first | {"trained_on": "fid ism"}], columns
        ),
        "0 rows of the benchmark 'FID, smallest": write(tmp_path / "j.csv", [first], columns),
        "row 2 (GAN): confidence is not one of": write(tmp_path / "e.csv", [shifted], columns),
        "does not exist": tmp_path / "none.csv",
    }
    (tmp_path / "f.csv").write_text(
        NUMBERS.read_text(encoding="utf-8") + "ImageNet-256,a,b,c,d,e,1" + "," * 20 + "\n"
    )
    (tmp_path / "g.csv").write_text("")
    cases |= {"Expected 26 fields": tmp_path / "f.csv", "No columns": tmp_path / "g.csv"}
    for words, path in cases.items():
        output = publish(tmp_path, "--numbers", path, code=2)
        assert words in output and output.startswith("hdbench: ") and output.count("\n") == 1, (
            output
        )
