"""An export or a DuckDB file is read as it stands, never changed, and refused in one clear line where it is wrong."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from export import tables, write

from njsl.core.config import StoreConfig
from njsl.core.types import DataError, StoreError
from njsl.store import AnalysisStore, open_store
from njsl.store.load import PUBLISHED as TABLES

NUMBERS = {"dimension", "num_heads", "mlp_ratio", "sequence_length", "batch_instances", "batch_tokens", "total_params"}
FLAGS = {"weight_tying", "is_instruction_tuned", "is_preference_tuned"}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def parsed(column: str, text: str) -> object:
    if text == "":
        return None
    if column in FLAGS:
        return text == "true"
    if column in NUMBERS or column.startswith(("pretraining_summary_", "metric_")):
        return float(text)
    return text


def duck(path: Path, export: Path, leave_out: str | None = None) -> Path:
    """A real database file with the tables of an export."""
    with duckdb.connect(str(path)) as connection:
        for table in TABLES:
            if table != leave_out:
                connection.execute(
                    f"CREATE TABLE {table} AS SELECT * FROM read_csv('{export}/{table}.csv', nullstr='')"
                )
    return path


def message(path: Path) -> str:
    with pytest.raises(StoreError) as caught:
        AnalysisStore.from_existing(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("table", TABLES)
def test_tables_are_the_files_in_their_order(export: Path, store: AnalysisStore, table: str) -> None:
    expected = rows(export / f"{table}.csv")
    found = store.table(table)
    assert list(found.columns) == list(expected[0])
    assert len(found) == len(expected) > 40
    for column in found:
        values = [None if pd.isna(value) else value for value in found[column].astype(object)]
        values = [
            float(value) if isinstance(value, (int, np.number)) and column not in FLAGS else value for value in values
        ]
        assert values == [parsed(column, row[column]) for row in expected], column


def test_missing_values_keep_both_spellings(store: AnalysisStore) -> None:
    tokens = store.table("dataset_info").set_index("id")["pretraining_summary_total_tokens_billions"]
    assert np.isnan(tokens["acme/model-0"])
    assert tokens["boreal/model-1"] == -1.0


def test_opening_changes_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path / "export")
    before = digests(folder)
    with AnalysisStore.from_existing(folder) as opened:
        opened.table("model_annotations")
        opened.verify()
    assert digests(folder) == before
    file = duck(tmp_path / "db.duckdb", folder)
    body = file.read_bytes()
    AnalysisStore.from_existing(file)
    assert file.read_bytes() == body
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db.duckdb", "export"]


def test_no_sql_of_the_folder_is_executed(tmp_path: Path) -> None:
    folder, target = write(tmp_path / "export"), tmp_path / "written"
    for name in ("schema.sql", "load.sql"):
        (folder / name).write_text(f"COPY (SELECT 42) TO '{target}';\n")
    with duckdb.connect(":memory:") as connection:  # the trap works
        connection.execute((folder / "load.sql").read_text())
    assert target.exists()
    target.unlink()
    with AnalysisStore.from_existing(folder) as opened:
        assert len(opened.table("model_annotations")) == 48
    assert not target.exists()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_csv('{export}/dataset_info.csv')",
        "COPY model_annotations TO '{out}'",
        "ATTACH '{out}' AS other",
        "EXPORT DATABASE '{out}'",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
    ],
)
def test_an_open_store_cannot_reach_the_file_system(
    store: AnalysisStore, export: Path, tmp_path: Path, statement: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(duckdb.Error):
        store.connection.execute(statement.format(export=export, out=out))
    assert not out.exists()


def test_leaving_the_block_closes_it(export: Path) -> None:
    with AnalysisStore.from_existing(export) as opened:
        pass
    with pytest.raises(duckdb.Error):
        opened.table("model_annotations")


def test_unknown_table(store: AnalysisStore) -> None:
    with pytest.raises(StoreError, match=r"'scores'.*accepted are model_annotations, dataset_info, evaluation_results"):
        store.table("scores")


def test_checksum_follows_the_content_not_the_place(tmp_path: Path, export: Path) -> None:
    first, second = AnalysisStore.from_existing(export), AnalysisStore.from_existing(write(tmp_path / "copy"))
    assert first.sha256 == second.sha256
    changed = tables()["dataset_info"]
    changed.loc[0, "pretraining_summary_percentage_english"] = 12.0
    assert AnalysisStore.from_existing(write(tmp_path / "other", dataset_info=changed)).sha256 != first.sha256


def test_open_store_by_config(export: Path) -> None:
    opened, where = open_store(StoreConfig(name="folder", path=str(export)))
    assert opened.source == export and not opened.published
    assert where == f"{export} (store.path, unchecked)"


# ---- what is wrong with a folder

Breaking = Callable[[Path], None]


def remove(name: str) -> Breaking:
    return lambda folder: (folder / name).unlink()


def text(name: str, change: Callable[[str], str]) -> Breaking:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))


def cell(table: str, row: int, column: str, value: str) -> Breaking:
    def change(folder: Path) -> None:
        path = folder / f"{table}.csv"
        lines = rows(path)
        lines[row][column] = value
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)

    return change


def repeat_row(table: str) -> Breaking:
    return text(f"{table}.csv", lambda body: body + body.splitlines()[1] + "\n")


def without_column(table: str, column: str) -> Breaking:
    def change(folder: Path) -> None:
        path = folder / f"{table}.csv"
        lines = rows(path)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(
                file, [name for name in lines[0] if name != column], extrasaction="ignore", lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows(lines)

    return change


BAD_FOLDERS: dict[str, tuple[Breaking, list[str]]] = {
    "missing csv": (remove("dataset_info.csv"), ["not an export folder", "dataset_info.csv"]),
    "missing schema": (remove("schema.sql"), ["not an export folder", "schema.sql"]),
    "missing load": (remove("load.sql"), ["not an export folder", "load.sql"]),
    "cut in mid-row": (
        text("evaluation_results.csv", lambda body: body[:-17]),
        ["evaluation_results.csv", "truncated"],
    ),
    "a row cut short, then a line end": (
        text("dataset_info.csv", lambda body: body.rstrip("\n").rsplit(",", 5)[0] + "\n"),
        ["dataset_info.csv"],
    ),
    "a cell too many": (text("dataset_info.csv", lambda body: body.rstrip("\n") + ",extra\n"), ["dataset_info.csv"]),
    "empty csv": (text("model_annotations.csv", lambda body: ""), ["model_annotations.csv", "empty", "total_params"]),
    "no header": (
        text("dataset_info.csv", lambda body: body.split("\n", 1)[1]),
        ["dataset_info.csv", "column 'id' is missing", "metadata"],
    ),
    "column renamed": (
        text("model_annotations.csv", lambda body: body.replace("mlp_ratio", "mlp", 1)),
        ["model_annotations.csv", "column 'mlp_ratio' is missing"],
    ),
    "column missing": (
        without_column("evaluation_results", "metric"),
        ["evaluation_results.csv", "column 'metric' is missing", "metric_value"],
    ),
    "text for a count": (
        cell("model_annotations", 6, "total_params", "7 billion"),
        ["model_annotations.csv", "row 7,", "'total_params'", "'7 billion'", "BIGINT is accepted"],
    ),
    "a fraction for a count": (
        cell("model_annotations", 0, "num_heads", "31.5"),
        ["model_annotations.csv", "row 1,", "'num_heads'", "'31.5'", "INTEGER is accepted"],
    ),
    "text for a score": (
        cell("evaluation_results", 100, "metric_value", "n/a"),
        ["evaluation_results.csv", "row 101,", "'metric_value'", "'n/a'", "DOUBLE is accepted"],
    ),
    "text for a flag": (
        cell("model_annotations", 2, "is_instruction_tuned", "maybe"),
        ["row 3,", "'is_instruction_tuned'", "'maybe'", "BOOLEAN is accepted"],
    ),
    "text for JSON": (cell("dataset_info", 1, "metadata", "{"), ["row 2,", "'metadata'", "'{'", "JSON is accepted"]),
    "no id": (cell("dataset_info", 3, "id", ""), ["dataset_info.csv", "not null", "id"]),
    "duplicate model": (repeat_row("model_annotations"), ["model_annotations.csv", "duplicate key", "pythia-160m"]),
    "duplicate score": (repeat_row("evaluation_results"), ["evaluation_results.csv", "duplicate key", "-shot"]),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_bad_folder(tmp_path: Path, name: str) -> None:
    breaking, expected = BAD_FOLDERS[name]
    folder = write(tmp_path / "export")
    breaking(folder)
    found = message(folder)
    assert str(folder) in found
    for part in expected:
        assert part.lower() in found.lower(), found


def test_an_empty_folder_is_no_export(tmp_path: Path) -> None:
    assert "not an export folder, it lacks schema.sql, load.sql, model_annotations.csv" in message(tmp_path)


def test_no_such_path(tmp_path: Path) -> None:
    assert (
        message(tmp_path / "nowhere")
        == f"{tmp_path}/nowhere: no such folder or file; an export folder or a DuckDB file is accepted"
    )


# ---- database files


def test_a_database_file(tmp_path: Path, export: Path, store: AnalysisStore) -> None:
    with AnalysisStore.from_existing(duck(tmp_path / "it's.duckdb", export)) as opened:
        for table in TABLES:
            assert opened.table(table).equals(store.table(table))
        assert opened.sha256 != store.sha256


def test_a_database_file_without_a_table(tmp_path: Path, export: Path) -> None:
    path = duck(tmp_path / "db.duckdb", export, leave_out="evaluation_results")
    found = message(path)
    assert str(path) in found and "evaluation_results" in found


def test_a_database_file_with_a_view_instead_of_a_table(tmp_path: Path, export: Path) -> None:
    path = duck(tmp_path / "db.duckdb", export, leave_out="dataset_info")
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"CREATE VIEW dataset_info AS SELECT * FROM read_csv('{export}/dataset_info.csv')")
    assert str(path) in message(path)


@pytest.mark.parametrize("body", [b"", b"just text\n" * 50])
def test_a_file_that_is_no_database(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "x.duckdb"
    path.write_bytes(body)
    assert str(path) in message(path)
    assert path.read_bytes() == body


def test_a_file_locked_by_a_writer(tmp_path: Path, export: Path) -> None:
    path = duck(tmp_path / "db.duckdb", export)
    hold = f"import duckdb; c = duckdb.connect({str(path)!r}); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "held\n"
        found = message(path)
        writer.communicate("\n")
    assert found == f"{path}: another process has it open for writing; close that, or export it"
    AnalysisStore.from_existing(path)


# ---- the two optional files


def test_free_generation_features(store: AnalysisStore) -> None:
    frame = store.freegen_features()
    with store.freegen.open(newline="") as file:  # type: ignore[union-attr]
        expected = list(csv.reader(file))
    assert list(frame.columns) == expected[0][1:]
    assert list(frame.index) == [row[0] for row in expected[1:]]
    assert frame.iloc[3, 7] == float(expected[4][8])
    assert frame.iloc[:, -1].isna().all()


def test_optional_files_that_are_not_there(export: Path) -> None:
    with AnalysisStore.from_existing(export) as opened:
        with pytest.raises(DataError, match=r"all_models_feature_stats_3_03_with_ratios.csv"):
            opened.freegen_features()
        with pytest.raises(DataError, match=r"forward_generation_results_303.csv"):
            opened.selected_features()


def test_free_generation_features_that_are_wrong(tmp_path: Path, export: Path) -> None:
    file = tmp_path / "freegen.csv"
    file.write_text("id,a,b\nx,1,many\n")
    with pytest.raises(DataError, match=r"column 'b' holds text"):
        AnalysisStore.from_existing(export, file).freegen_features()
    file.write_text("id,a,b\nx,1,2\nx,1,3\n")
    with pytest.raises(DataError, match=r"id 'x' stands twice"):
        AnalysisStore.from_existing(export, file).freegen_features()


@pytest.mark.parametrize(
    "lists", ["task,setting\narc,0-shot\n", "task,setting,selected_features\narc,0-shot,__import__('os').getcwd()\n"]
)
def test_selected_features_that_are_wrong(tmp_path: Path, export: Path, lists: str) -> None:
    file = tmp_path / "selected.csv"
    file.write_text(lists)
    with pytest.raises(DataError, match=r"task, setting and selected_features"):
        AnalysisStore.from_existing(export, None, file).selected_features()
