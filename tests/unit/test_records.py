"""Files of metrics: the numbers that were written, or one sentence with the line."""

from __future__ import annotations

import gzip

import pandas as pd
import pytest

from hdbench.core.errors import UserError
from hdbench.metrics.records import COLUMNS, read_metrics
from tests.support.tiny import REPOSITORY

HEADER = ",".join(COLUMNS)
ROW = "tiny,hd,1,2,fd_test_64,3.5,0.25,64,classifier:-,abc"


def test_committed_numbers_are_read_as_pandas_reads_them():
    path = REPOSITORY / "paper_tables/textured_digits/metrics.csv"
    expected = pd.read_csv(path, dtype=COLUMNS, keep_default_na=False, na_values=["", "nan"])
    pd.testing.assert_frame_equal(read_metrics(path), expected)


def test_a_compressed_file_is_read_and_no_other_archive(tmp_path):
    plain, packed = tmp_path / "a.csv", tmp_path / "a.csv.gz"
    plain.write_text(f"{HEADER}\n{ROW}\n")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    pd.testing.assert_frame_equal(read_metrics(packed), read_metrics(plain))
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(UserError, match="not a file of metrics"):
        read_metrics(packed)
    for name in ("a.csv.xz", "a.csv.zip", "a.csv.zst", "a.tar.gz", "a"):
        with pytest.raises(UserError, match=r"metrics are read from .csv and .csv.gz"):
            read_metrics(tmp_path / name)


def test_a_row_may_be_there_twice_in_a_foreign_file_but_not_with_two_values(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}\n{ROW}\n{ROW}\n")
    assert len(read_metrics(path, strict=False)) == 1
    with pytest.raises(UserError, match="1 numbers appear more than once"):
        read_metrics(path)
    path.write_text(f"{HEADER}\n{ROW}\n{ROW.replace('3.5', '4')}\n")
    with pytest.raises(UserError, match="line 3: metric = 'fd_test_64' has another value"):
        read_metrics(path, strict=False)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("hd,1,", "hd,1.0,", "line 3: seed = '1.0' is not a whole number"),
        ("hd,1,", f"hd,{10**20},", "is not a whole number of at most 18 digits"),
        ("hd,1,", "hd,1e400,", "line 3: seed = '1e400' is not a whole number"),
        ("1,2,", "1,-2,", "line 3: nfe = '-2' must be 0 or more"),
        (",64,", ",0,", "line 3: n = '0' must be 1 or more"),
        (",64,", ",-64,", "line 3: n = '-64' must be 1 or more"),
        ("0.25", "-0.25", "line 3: se = '-0.25' must be finite"),
        ("0.25", "inf", "line 3: se = 'inf' must be finite"),
        ("3.5", "3,5", "line 3 has 11 fields, not 10"),
        ("3.5", "three", "line 3: value = 'three' is not a number"),
        (",hd,", ", ,", "line 3: arm = ' ' is empty"),
        (",hd,", ", hd,", "line 3: arm = ' hd' begins or ends with a space"),
        (",hd,", ",NA,", "line 3: arm = 'NA' is what tables read as a missing value"),
        ("hd,1,", "hd,-1,", "line 3: seed = '-1' must be 0 or more"),
        ("hd,1,", "hd,\u0661,", "line 3: seed = '\u0661' is not a whole number"),
        (f",{ROW.split(',')[-1]}", ",", "line 3: digest = '' is empty"),
        ("tiny", '"tiny', "not a file of metrics"),
        ("tiny", "tiny\0", "line 3: suite = .* not shown"),
    ],
)
def test_a_damaged_row_is_one_sentence_with_its_line(tmp_path, old, new, sentence):
    path = tmp_path / "a.csv"
    other = ROW.replace("fd_test", "fd_train")
    path.write_text(f"{HEADER}\n{other}\n{ROW.replace(old, new, 1)}\n")
    for strict in (True, False):
        with pytest.raises(UserError, match=sentence):
            read_metrics(path, strict)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("", "no header"), ("a,b\n", "columns are a, b, not suite"), ("\x00\n", "not suite")],
)
def test_another_file_is_no_file_of_metrics(tmp_path, text, sentence):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_metrics(path)


def test_a_file_without_numbers_is_refused_where_anybody_gives_it(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}\n")
    assert read_metrics(path).empty
    with pytest.raises(UserError, match="holds no numbers"):
        read_metrics(path, strict=False)
