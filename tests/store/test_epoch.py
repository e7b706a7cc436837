"""Epoch AI's table: only what is asked for, tokens only where the notes say tokens, and tables that are refused."""

from __future__ import annotations

import csv
import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import DataError
from njsl.store.epoch import read_epoch
from njsl.store.records import Records
from njsl.store.schema import check_row, check_whole

# The columns of all_ai_models.csv of 2026 that matter, among others.
COLUMNS = [
    *("Model", "Domain", "Organization", "Publication date", "Link", "Parameters", "Parameters notes"),
    *("Training compute (FLOP)", "Training dataset size (total)", "Dataset size notes", "Confidence", "Epochs"),
    *("Base model", "Last modified", "Hugging Face developer id"),
]
TINY: dict[str, str] = {
    "Model": "Tiny 1B",
    "Domain": "Language",
    "Publication date": "2025-03-14",
    "Link": "https://example.org/tiny",
    "Parameters": "1100000000.0",
    "Training dataset size (total)": "3000000000000.0",
    "Dataset size notes": 'From the paper: "pre-trained on 3 trillion tokens"\nof text',
    "Confidence": "Confident",
    "Last modified": "2025-04-01 19:27:29+00:00",
}


def table(folder: Path, *rows: dict[str, str], columns: list[str] | None = None) -> Path:
    path = folder / "all_ai_models.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns or COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(folder: Path, changed: dict[str, str], **names: str) -> Records:
    """The records of one row beside another, whose rows the database takes as they are."""
    path = table(folder, {"Model": "Other"}, {**TINY, **changed})
    records = read_epoch(path, {"Tiny 1B": "org/tiny", **names})
    for name, rows in records.tables.items():
        for row in rows:
            assert check_row(name, row) == row
            check_whole(name, row)
    return records


def test_a_row(tmp_path: Path) -> None:
    records = read(tmp_path, {})
    assert records.tables == {
        "models": [{"id": "org/tiny", "release_date": datetime.date(2025, 3, 14)}],
        "model_annotations": [{"id": "org/tiny", "total_params": 1_100_000_000}],
        "dataset_info": [{"id": "org/tiny", "pretraining_summary_total_tokens_billions": 3000.0}],
    }
    origins = records.origins
    assert {origin.source for origin in origins.values()} == {"https://example.org/tiny"}
    assert {origin.stated_on for origin in origins.values()} == {datetime.date(2025, 4, 1)}
    assert {key[2]: origin.confidence for key, origin in origins.items()} == {
        "release_date": "inferred",  # of an announcement
        "total_params": "reported",
        "pretraining_summary_total_tokens_billions": "reported",
    }
    assert len(records.left_out) == 1
    assert "announcement" in records.left_out[0]


@pytest.mark.parametrize("confidence", ["Likely", "Speculative", "Unverified", ""])
def test_less_than_confident_is_a_judgement(tmp_path: Path, confidence: str) -> None:
    records = read(tmp_path, {"Confidence": confidence})
    assert records.origins["model_annotations", "org/tiny", "total_params"].confidence == "inferred"


def test_without_link_or_day(tmp_path: Path) -> None:
    origin = read(tmp_path, {"Link": "see the paper", "Last modified": ""}).origins[
        "model_annotations", "org/tiny", "total_params"
    ]
    assert origin.source == "all_ai_models.csv"
    assert origin.stated_on >= datetime.date(2026, 1, 1)  # the file's own


@pytest.mark.parametrize(
    ("size", "notes", "billions"),
    [
        ("18000000000000.0", "18T tokens", 18000.0),
        ("1.4e12", "trained on 1.4 trillion training tokens, 70% web", 1400.0),
        ("3e11", "300B-token set", 300.0),
        ("300000000000", "300,000,000,000 tokens", 300.0),
        ("303000000000", "about 300 billion tokens", 303.0),
        ("225000000000", "300B tokens * 0.75 words per token", None),
        ("5e12", "5 trillion pre-training data corpus", None),
        ("1000000", "1,000,000 images", None),
        ("3e11", "", None),
        ("", "3T tokens", None),
    ],
)
def test_sizes_are_tokens_where_the_notes_say_so(tmp_path: Path, size: str, notes: str, billions: float | None) -> None:
    records = read(tmp_path, {"Training dataset size (total)": size, "Dataset size notes": notes})
    rows = records.tables.get("dataset_info", [{}])
    assert rows[0].get("pretraining_summary_total_tokens_billions") == billions
    assert any("dataset size" in line for line in records.left_out) == (billions is None and size != "")


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"Epochs": "4.0"}, "'4.0' epochs"),
        ({"Base model": "Other"}, "base model"),
        ({"Training dataset size (total)": "many"}, "dataset size: 'many'"),
        ({"Training dataset size (total)": "1", "Dataset size notes": "1 token"}, "total_tokens_billions"),
    ],
)
def test_sizes_that_are_not_tokens_trained_on(tmp_path: Path, changed: dict[str, str], line: str) -> None:
    records = read(tmp_path, changed)
    assert "dataset_info" not in records.tables
    assert any(line in said for said in records.left_out)
    assert read(tmp_path, {"Epochs": "1.0"}).tables["dataset_info"]


def test_a_base_model_by_the_same_names(tmp_path: Path) -> None:
    row = read(tmp_path, {"Base model": "Other"}, Other="org/other").tables["models"][0]
    assert row["parent"] == "org/other"
    unknown = read(tmp_path, {"Base model": "Other"})
    assert "parent" not in unknown.tables["models"][0]
    assert any("Base model: 'Other'" in line for line in unknown.left_out)
    assert "parent" not in read(tmp_path, {"Base model": "Tiny 1B"}).tables["models"][0]


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "-1", "0", "1e30", "1B", "0x10"])
def test_numbers_that_are_none_are_left_out(tmp_path: Path, value: str) -> None:
    records = read(tmp_path, {"Parameters": value, "Publication date": value})
    assert "model_annotations" not in records.tables
    assert records.tables["models"] == [{"id": "org/tiny"}]


def test_older_columns(tmp_path: Path) -> None:
    for size in ("Training dataset size (datapoints)", "Training dataset size (gradients)"):
        columns = ["System", *(name.replace("Training dataset size (total)", size) for name in COLUMNS[1:])]
        row = {columns[COLUMNS.index(name)]: value for name, value in TINY.items()}
        records = read_epoch(table(tmp_path, row, columns=columns), {"Tiny 1B": "org/tiny"})
        assert records.tables["dataset_info"][0]["pretraining_summary_total_tokens_billions"] == 3000.0


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"Tiny 2B": "org/tiny"}, "'Tiny 2B': no such model; 'Tiny 1B'"),
        ({"zzz": "org/tiny"}, "'zzz': no such model; a name of the table"),
        ({"Twice": "org/twice"}, "line 5: 'Twice' stands twice"),
        ({"Tiny 1B": "a b"}, "id 'a b'"),
        ({"Tiny 1B": "org/x", "Twice": "org/x"}, "another name"),
        ({}, "no model is asked for"),
    ],
)
def test_names_are_refused(tmp_path: Path, names: dict[str, str], said: str) -> None:
    path = table(tmp_path, {**TINY, "Dataset size notes": ""}, {"Model": "Twice"}, {"Model": "x"}, {"Model": "Twice"})
    with pytest.raises(DataError) as error:
        read_epoch(path, names)
    assert said in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


BODIES = {
    "empty": b"",
    "another table": b"id,total_params\norg/tiny,5\n",
    "not UTF-8": ",".join(COLUMNS).encode() + b"\n\xff\xfe\n",
    "too many cells": ",".join(COLUMNS).encode() + b"\nTiny 1B" + b"," * 40 + b"\n",
    "cut short": ",".join(COLUMNS).encode() + b"\nTiny 1B,Lang",
    "open quote": ",".join(COLUMNS).encode() + b'\nTiny 1B,"Lang',
    "a column twice": ",".join([*COLUMNS, "Model"]).encode() + b"\n",
    "an endless cell": ",".join(COLUMNS).encode() + b"\n" + b"x" * 2**21,
}


@pytest.mark.parametrize("name", BODIES)
def test_broken_tables_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "all_ai_models.csv"
    path.write_bytes(BODIES[name])
    limit = csv.field_size_limit()
    with pytest.raises(DataError) as error:
        read_epoch(path, {"Tiny 1B": "org/tiny"})
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert csv.field_size_limit() == limit
    for other in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(DataError):
            read_epoch(other, {"Tiny 1B": "org/tiny"})


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(COLUMNS[1:]), st.text(st.characters(codec="utf-8"), max_size=30), max_size=8))
def test_any_cells_are_read_or_left_out(tmp_path_factory: pytest.TempPathFactory, changed: dict[str, Any]) -> None:
    records = read(tmp_path_factory.getbasetemp(), changed)
    assert records.tables["models"][0]["id"] == "org/tiny"
    assert all("\n" not in line for line in records.left_out)


def test_long_notes_are_read_in_linear_time(tmp_path: Path) -> None:
    for notes in ("1" * 900_000, "1," * 400_000, "1 token " * 100_000, "1 a a " * 150_000):
        assert read(tmp_path, {"Dataset size notes": notes}).left_out
