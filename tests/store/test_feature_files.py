"""Tables of features become rows of the database; corpora are no models, and what is unusable is refused."""

from __future__ import annotations

import csv
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from njsl.core.types import DataError
from njsl.store import schema
from njsl.store.feature_files import read_features
from njsl.tag import aggregate

TABLE = "model_features"
Cells = dict[tuple[str, str], float]


def long_table(ids: dict[str, str]) -> pd.DataFrame:
    """What ``tag.py mode=aggregate`` collects: two features of three corpora, named by ``ids``."""
    rows = []
    for place, corpus in enumerate(("gen_a", "gen_b", "web")):
        row = {"id": ids.get(corpus, corpus), "corpus": corpus, "n": 10, "groups": 10, "se": 0.5, "meaning": 'x, "y"'}
        rows += [
            row | {"feature": "char_len_mean", "value": 100.5 + place, "std": 7.25, "unit": "characters"},
            row | {"feature": "entropy_mean", "value": 3.5, "std": np.nan, "unit": "bits"},
            row | {"feature": "domain_web_pct_mean", "value": np.nan if place else 40.0, "std": np.nan, "unit": "%"},
        ]
    return pd.DataFrame(rows, columns=list(aggregate.LONG_COLUMNS))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An aggregate of two models' generations and of a corpus that is no model's."""
    aggregate.write(long_table({"gen_a": "org/a", "gen_b": "org__b"}), tmp_path)
    record = {"start": "2026-02-27T23:59:58+00:00", "end": "2026-02-28T00:00:05+00:00", "state": "finished"}
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return tmp_path


def cells(path: Path) -> Cells:
    """The values by model and feature."""
    rows = read_features(path).tables[TABLE]
    found = {(row["id"], row["feature"]): row["value"] for row in rows}
    assert len(found) == len(rows)
    return found


def refused(path: Path) -> str:
    """The refusal, without the file's name."""
    with pytest.raises(DataError) as caught:
        read_features(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and message.isprintable()
    return message.removeprefix(f"{path}: ")


def table(folder: Path, content: str | bytes) -> Path:
    path = folder / "any.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_what_aggregate_writes(folder: Path) -> None:
    records = read_features(folder)
    assert cells(folder) == {
        ("org/a", "char_len_mean"): 100.5,
        ("org/a", "entropy_mean"): 3.5,
        ("org/a", "domain_web_pct_mean"): 40.0,
        ("org/a", "char_len_std"): 7.25,
        ("org/b", "char_len_mean"): 101.5,
        ("org/b", "entropy_mean"): 3.5,
        ("org/b", "char_len_std"): 7.25,
    }
    assert records.left_out == ["corpus web: no model, aggregate.ids can name one"]
    for row in records.tables[TABLE]:
        assert row["measured_on"] == datetime.date(2026, 2, 28) and row["source"] == f"{folder.name}/features.csv"
        schema.check_whole(TABLE, schema.check_row(TABLE, row))
    assert records.origin.stated_on == datetime.date(2026, 2, 28)


def test_the_long_and_the_wide_table_say_the_same(folder: Path) -> None:
    assert cells(folder / "features_long.csv") == cells(folder / "features.csv") == cells(folder)


def test_without_the_long_table_every_row_is_a_model(folder: Path) -> None:
    (folder / "features_long.csv").unlink()
    (folder / "run.json").unlink()
    records = read_features(folder)
    assert {row["id"] for row in records.tables[TABLE]} == {"org/a", "org/b", "web"} and not records.left_out
    assert {row["measured_on"] for row in records.tables[TABLE]} == {None}


def test_corpora_alone_are_refused(tmp_path: Path) -> None:
    aggregate.write(long_table({}), tmp_path)
    with pytest.raises(DataError, match="its 3 names are corpora"):
        read_features(tmp_path)


def test_an_unfinished_run_has_the_day_it_began(folder: Path) -> None:
    record = {"start": "2026-02-27T23:59:58+00:00", "end": None}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert {row["measured_on"] for row in read_features(folder).tables[TABLE]} == {datetime.date(2026, 2, 27)}
    for broken in ("{", "[]", '{"end": 7}', '{"end": "soon"}'):
        (folder / "run.json").write_text(broken, encoding="utf-8")
        with pytest.raises(DataError, match=r"run\.json"):
            read_features(folder)


def test_missing_cells_and_empty_columns(tmp_path: Path) -> None:
    path = table(tmp_path, "id,x_mean,y_std,z_std\r\norg/a,1e3,,\r\norg/b,NaN,,\r\norg/c,N/A,0.5,\r\n\r\n")
    assert cells(path) == {("org/a", "x_mean"): 1000.0, ("org/c", "y_std"): 0.5}
    assert read_features(path).left_out == ["1 columns without a value, e.g. z_std"]
    assert read_features(path).tables[TABLE][0]["source"] == "any.csv"
    assert cells(table(tmp_path, b"\xef\xbb\xbfid,x\norg/a,1\n")) == {("org/a", "x"): 1.0}


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "header: missing"),
        ("model,x\na,1\n", "header: 'model,x'"),
        ("id\na\n", "header: 'id'"),
        ("id,x,x\na,1,2\n", "header: x stands twice"),
        ("id,x\na,1\nb\n", "row 2: 1 cells; 2 are accepted"),
        ("id,x\na,1\na,2\n", "a x: stands twice"),
        ("id,x\na/b,1\na__b,2\n", "a/b x: stands twice"),
        ("id,x\na,one\n", "row 1, x: 'one'; a number is accepted"),
        ("id,x\na,1e999\n", "row 1, x: '1e999'; a finite number is accepted"),
        ("id,x\na,inf\n", "row 1, x: 'inf'; a number is accepted"),
        ("id,x\n../a,1\n", "id: '../a'; owner/name"),
        ("id,x\n,1\n", "id: ''; owner/name"),
        ('id,x\n"a\'; DROP TABLE models",1\n', "owner/name"),
        ('id,"x\ny"\na,1\n', "feature: "),
        ("id,x\na,\n", "no features of models; "),
        ("id,x\n", "no features of models; "),
        ('id,x\n"a,1\n', "truncated or damaged"),
        ("id,x\na,\0\n", "row 1, x: "),
        (b"id,x\na,\xff\n", "not UTF-8"),
        (b"id,x\n" + b"a" * 200_000 + b",1\n", "truncated or damaged"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, content: str | bytes, words: str) -> None:
    assert words in refused(table(tmp_path, content))


def test_paths_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"features\.csv: no such file"):
        read_features(tmp_path)
    assert "no such file" in refused(tmp_path / "no.csv")


CELL = st.one_of(st.floats(allow_nan=False, allow_infinity=False).map(repr), st.sampled_from(["", "nan", "-1", "0"]))
TEXT = st.text(st.characters(codec="utf-8"), max_size=6)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(CELL, min_size=3, max_size=3), min_size=1, max_size=4), place=st.integers(0, 40), junk=TEXT
)
def test_a_damaged_table_is_read_rightly_or_refused_in_one_line(
    tmp_path: Path, rows: list[list[str]], place: int, junk: str
) -> None:
    whole = [["id", "x", "y", "z"], *(["org/" + "abcd"[i], *row] for i, row in enumerate(rows))]
    flat = [(line, column) for line in range(len(whole)) for column in range(4)]
    path = tmp_path / "any.csv"

    def save() -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(whole)

    save()
    values = {
        (row[0], name): float(cell)
        for row in whole[1:]
        for name, cell in zip("xyz", row[1:], strict=True)
        if cell not in ("", "nan")
    }
    if values:
        assert cells(path) == values
    else:
        assert "no features" in refused(path)
    line, column = flat[place % len(flat)]
    whole[line][column] = junk
    save()
    try:
        records = read_features(path)
    except DataError as error:
        assert str(error).startswith(f"{path}: ") and str(error).isprintable()
        return
    for row in records.tables[TABLE]:
        schema.check_whole(TABLE, schema.check_row(TABLE, row))


@pytest.mark.data
def test_the_papers_table(paper_data: Path) -> None:
    path = paper_data / "freegen_features_2025_03_03.csv"
    records = read_features(path)
    with path.open(encoding="utf-8", newline="") as file:
        expected: dict[Any, float] = {
            (row["id"], name): float(cell)
            for row in csv.DictReader(file)
            for name, cell in row.items()
            if name != "id" and cell
        }
    assert cells(path) == expected and len(expected) == 102 * 61 - 1868
    assert (
        len({identity for identity, _ in expected}) == 102 and ("Salesforce/codegen-16-multi", "ttr_mean") in expected
    )
    assert records.left_out == ["8 columns without a value, e.g. domain_academic_pct_std"]
    for row in records.tables[TABLE]:
        schema.check_whole(TABLE, schema.check_row(TABLE, row))
        assert row["measured_on"] is None
