"""The checks in Python and the rules in the database are one: both are made of ``fields.csv``, neither says more."""

from __future__ import annotations

import csv
import datetime
import itertools
import json
import math
import re
import unicodedata
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import DataError
from njsl.store import schema

Row = dict[str, Any]

with files("njsl.store").joinpath("data/fields.csv").open(encoding="utf-8") as file:
    FIELDS = list(csv.DictReader(file))
# The least that a row of each table has to say.
BASE: dict[str, Row] = {
    "models": {"id": "a/b"},
    "model_annotations": {"id": "a/b"},
    "dataset_info": {"id": "a/b", "shares_partial": True},
    "datasets": {"name": "d", "shares_partial": True},
    "training_stages": {"id": "a/b", "stage": 1},
    "stage_datasets": {"id": "a/b", "stage": 1, "dataset": "d"},
    "evaluation_results": {
        **{"id": "a/b", "benchmark": "x", "setting": "0-shot", "metric": "m", "task_version": "1", "prompt": "p"}
    },
    "model_features": {"id": "a/b", "feature": "f"},
    "aliases": {"kind": "model", "alias": "x", "name": "y"},
    "provenance": {
        **{"subject": "models", "row_key": "a/b", "field": "family", "source": "s"},
        **{"stated_on": datetime.date(2025, 1, 2), "confidence": "reported"},
    },
    "history": {
        **{"number": 1, "subject": "models", "row_key": "a/b", "field": "family"},
        "replaced_on": datetime.date(2025, 1, 2),
    },
    "schema_version": {"version": 2},
}
IDS = [
    *(
        "a",
        "a/b",
        "/a/b",
        "a/b/c",
        "A-1.5_b+c/d",
        "x" * 200,
        "x" * 201,
        "a//b",
        "//a",
        "a/",
        "/",
        "a/../b",
        "..",
        "a..b",
    ),
    *("a b", "a\\b", "a'b", 'a"b', "a;b", "a#b", "ä/b", "a/b\n", "\na", "a\x00b", "a%b", "a@b", "а/b", "a/.b", "-a/b"),
]
SETTINGS = [
    "0-shot",
    "5-shot",
    "0005-shot",
    "99999-shot",
    "-1-shot",
    "5-Shot",
    "5 shot",
    "few-shot",
    "5-shot ",
    "٥-shot",
]
TEXTS = ["x", "a b", "'); DROP TABLE models; --", "日本", "x" * 2000, "-1"]
UNPLAIN = ["", " ", "\t", "x\ny", " x", "x ", "\x00", "x\x7f", "x\u200b", "\u00a0", "x\u2028y", "x" * 2001, "\ufeffx"]
JSONS = ["{}", "[]", "1", '"x"', '{"a": [1, null, {"b": "c"}]}', " [1] ", '{"a": 1, "a": 2}', "[1e999]"]
BROKEN_JSONS = ["", "{", "x", "{'a': 1}", "nul", '"a', "[1] [2]", "\ufeff[]"]
NUMBERS = [0.5, -1e308, 5e-324, math.inf, -math.inf, math.nan]
COUNTS = [0, 1, 2**31 - 1, 2**31, -(2**31), 2**63 - 1, 2**63, 10**30, 10**400]


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    """Empty tables with every rule but the references, which need other rows."""
    with duckdb.connect(":memory:", config={"threads": "1"}) as connection:
        connection.execute(re.sub(r",\n +FOREIGN KEY [^\n]*\)(?=[,\n])", "", schema.ddl()))
        constraints = connection.execute("SELECT DISTINCT constraint_type FROM duckdb_constraints()").fetchall()
        assert {kind for (kind,) in constraints} == {"PRIMARY KEY", "NOT NULL", "CHECK"}
        yield connection


def refused_by_database(connection: duckdb.DuckDBPyConnection, table: str, row: Row, *, model: bool = True) -> bool:
    """Whether the table refuses the row, or, with ``model``, the table its id refers to does; nothing stays."""
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    connection.execute("BEGIN")
    try:
        if model and table != "models" and "id" in row:
            connection.execute("INSERT INTO models (id) VALUES (?) ON CONFLICT DO NOTHING", [row["id"]])
        connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))
    except (duckdb.Error, OverflowError, UnicodeEncodeError):
        return True
    else:
        return False
    finally:
        connection.execute("ROLLBACK")


def refusal(table: str, row: Row) -> str | None:
    """What the checks in Python say, one line, or None."""
    try:
        schema.check_whole(table, schema.check_row(table, row))
    except DataError as error:
        assert str(error).isprintable() and len(str(error)) < 700, str(error)
        assert str(error).startswith(table), str(error)
        return str(error)
    return None


def plain(text: str) -> bool:
    """What Python asks of a text beyond the database: no control, format or odd space characters, no blanks around."""
    odd = any(unicodedata.category(sign)[0] in "CZ" and sign != " " for sign in text)
    return not odd and text == text.strip() and len(text) <= 2000


def around(field: dict[str, str]) -> list[float]:
    """The ends of a range, and their neighbours."""
    ends = [float(field[name]) for name in ("low", "high") if field[name]]
    return [near for end in ends for near in (end, math.nextafter(end, -math.inf), math.nextafter(end, math.inf))]


def values(field: dict[str, str]) -> list[Any]:
    """Values of a field's own type, good and bad."""
    kind, name = field["type"], field["field"]
    if kind in ("INTEGER", "BIGINT"):
        return COUNTS + [int(end) + step for end in around(field)[::3] for step in (-1, 0)]
    if kind == "DOUBLE":
        return NUMBERS + around(field)
    if kind == "BOOLEAN":
        return [True, False]
    if kind == "DATE":
        return [datetime.date(2024, 2, 29), datetime.date(1, 1, 1), datetime.date(9999, 12, 31)]
    if kind == "JSON":
        return JSONS + BROKEN_JSONS
    found = [*TEXTS, *UNPLAIN, *field["accepted"].split(), field["accepted"].upper()]
    return found + (IDS if name in ("id", "parent") else SETTINGS if name == "setting" else [])


def strategy(field: dict[str, str]) -> st.SearchStrategy[Any]:
    """Values of a field's own type, drawn."""
    kind, name = field["type"], field["field"]
    drawn: dict[str, st.SearchStrategy[Any]] = {
        "INTEGER": st.integers(-(2**70), 2**70) | st.integers(-3, 130),
        "BIGINT": st.integers(-(2**70), 2**70),
        "DOUBLE": st.floats() | st.floats(-1, 101),
        "BOOLEAN": st.booleans(),
        "DATE": st.dates(),
        "JSON": st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab\"\\'\n"),
            lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text("ab "), part, max_size=3),
            max_leaves=5,
        ).map(json.dumps),
        "VARCHAR": st.text(st.characters(codec="utf-8"), max_size=12),
    }
    if name in ("id", "parent"):
        return st.text("ab/.-_+ '#\n", max_size=9)
    if name == "setting":
        return st.from_regex(r"[0-9]{0,5}-?shots?\n?", fullmatch=True)
    return drawn[kind]


def test_every_table_has_a_base_row_and_it_is_accepted(database: duckdb.DuckDBPyConnection) -> None:
    assert list(BASE) == list(dict.fromkeys(field["table"] for field in FIELDS))
    for table, row in BASE.items():
        assert refusal(table, row) is None
        assert not refused_by_database(database, table, row)
        for name in row:
            if name != "shares_partial":  # a flag; all else is a key or required
                less = {key: value for key, value in row.items() if key != name}
                assert f"{table}.{name}: missing; " in str(refusal(table, less))
                assert refused_by_database(database, table, less)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field['table']}.{field['field']}")
def test_a_field_accepts_in_python_what_it_accepts_in_the_database(
    database: duckdb.DuckDBPyConnection, field: dict[str, str]
) -> None:
    table, name = field["table"], field["field"]
    met = set()

    def agree(value: Any) -> None:
        row = {**BASE[table], name: value}
        said = refusal(table, row)
        if field["type"] == "VARCHAR" and value != "" and not plain(value):
            assert said is not None, value  # stricter on purpose
            return
        met.add(said is not None)
        assert (said is not None) == refused_by_database(database, table, row), (value, said)

    for value in values(field):
        agree(value)

    @settings(deadline=None, max_examples=6)
    @given(strategy(field))
    def drawn(value: Any) -> None:
        agree(value)

    if name in ("id", "parent", "setting", "family", "metadata") or field["type"] in ("INTEGER", "DOUBLE"):
        drawn()
    assert met == ({False} if field["type"] in ("BOOLEAN", "DATE") else {False, True})


# Python is stricter on purpose: a value of another type is refused, where the database would cast it.
OTHER_TYPES: list[tuple[str, str, Any, bool]] = [
    ("model_annotations", "num_layers", True, False),
    ("model_annotations", "num_layers", 12.0, False),
    ("model_annotations", "num_layers", 12.5, False),
    ("model_annotations", "num_layers", "12", False),
    ("model_annotations", "total_params", "70426624", False),
    ("model_annotations", "weight_tying", 1, False),
    ("model_annotations", "weight_tying", "true", False),
    ("model_annotations", "mlp_ratio", True, False),
    ("model_annotations", "mlp_ratio", "4.0", False),
    ("models", "family", 7, False),
    ("models", "family", True, False),
    ("models", "family", 1.5, False),
    ("models", "release_date", "2024-1-5", False),
    ("models", "release_date", "2024-02-30", True),
    ("models", "release_date", "٢٠٢٤-٠١-٠١", True),
    ("models", "release_date", "infinity", False),
    ("models", "release_date", 20240105, True),
    ("models", "family", ["llama"], False),
    ("models", "family", {"a": 1}, False),
    ("model_annotations", "num_layers", [12], True),
    ("model_annotations", "mlp_ratio", 10**400, True),
]


@pytest.mark.parametrize(("table", "name", "value", "refused"), OTHER_TYPES)
def test_a_value_of_another_type_is_refused(
    database: duckdb.DuckDBPyConnection, table: str, name: str, value: Any, refused: bool
) -> None:
    assert f"{table}.{name}: " in str(refusal(table, {**BASE[table], name: value}))
    assert refused_by_database(database, table, {**BASE[table], name: value}) == refused


def test_what_is_given_in_another_spelling_is_stored_in_the_columns_type() -> None:
    found = schema.check_row("models", {"id": "a", "family": None, "release_date": "2024-02-29"})
    assert found == {"id": "a", "release_date": datetime.date(2024, 2, 29)}
    when = datetime.datetime(2024, 2, 29, 23, 59, tzinfo=datetime.UTC)
    assert type(schema.check_row("models", {"release_date": when})["release_date"]) is datetime.date
    ratio = schema.check_row("model_annotations", {"mlp_ratio": 4})["mlp_ratio"]
    assert (ratio, type(ratio)) == (4.0, float)
    assert schema.check_row("dataset_info", {"metadata": {"b": 1, "a": [None]}}) == {
        "metadata": '{"a": [null], "b": 1}'
    }


def test_true_one_and_one_point_zero_are_not_mistaken_for_each_other() -> None:
    """They are one to a dictionary, so whichever comes first must not decide."""
    for order in itertools.permutations([True, 1, 1.0]):
        for value in order:
            for name, kind in (("num_layers", int), ("weight_tying", bool)):
                said = refusal("model_annotations", {"id": "a", name: value})
                assert (said is None) == (type(value) is kind), (order, value, name)


def test_messages_name_the_place_the_value_and_what_is_accepted() -> None:
    messages = {
        refusal(
            "model_annotations", {"id": "a", "colour": 1, "zoo": 2}
        ): "model_annotations.colour: unknown; accepted: id",
        refusal("dataset_info", {"id": "a", f"{'pretraining_summary_percentage_'}code": 150}): "dataset_info."
        "pretraining_summary_percentage_code: 150.0; a number 0..100 is accepted",
        refusal("model_annotations", {"id": "a", "block_type": "both"}): "model_annotations.block_type: 'both'; "
        "sequential, parallel are accepted",
        refusal("model_annotations", {"id": "a", "num_layers": 0}): "model_annotations.num_layers: 0; "
        "a whole number from 1 is accepted",
        refusal(
            "model_annotations", {"id": "a", "num_layers": 10**5000}
        ): "model_annotations.num_layers: a huge number; ",
        refusal("models", {"id": "a", "family": "x" * 9999}): "models.family: 'xxxxxxx",
        refusal("models", {"id": "../etc"}): "models.id: '../etc'; text like ",
        refusal("models", {"id": "a", "family": "\ud800"}): "models.family: '\\ud800'; text is accepted",
        refusal("dataset_info", {"id": "a", "metadata": "{"}): "dataset_info.metadata: '{'; JSON is accepted",
        refusal(
            "models", {"id": "a", "release_date": "May"}
        ): "models.release_date: 'May'; a date YYYY-MM-DD is accepted",
    }
    for said, expected in messages.items():
        assert said is not None and said.startswith(expected), (said, expected)


def test_json_that_python_cannot_read_is_refused() -> None:
    assert refusal("dataset_info", {"id": "a", "metadata": "[" * 100_000 + "]" * 100_000}) is not None
    assert refusal("dataset_info", {"id": "a", "metadata": "[1,]"}) is not None  # which DuckDB lets pass


# ---- what only a row as a whole shows


@st.composite
def shares(draw: st.DrawFn, prefix: str) -> Row:
    parts = [draw(st.integers(0, 2500)) / 100 for _ in range(4)]
    total = draw(st.sampled_from([0.0, 98.9, 99.0, 99.5, 100.0, 101.0, 101.01, 150.0]))
    known = [*parts, min(100.0, max(0.0, total - sum(parts)))]
    row = {f"{prefix}{name}": share for name, share in zip(schema.SHARES, draw(st.permutations(known)), strict=True)}
    lost = draw(st.sampled_from([[], [], [], [schema.SHARES[2]], schema.SHARES[1:], schema.SHARES]))
    return {name: None if name.removeprefix(prefix) in lost else share for name, share in row.items()}


@pytest.mark.parametrize(
    ("table", "prefix"), [("dataset_info", "pretraining_summary_percentage_"), ("datasets", "percentage_")]
)
@settings(deadline=None, max_examples=60)
@given(data=st.data(), partial=st.booleans())
def test_shares(
    database: duckdb.DuckDBPyConnection, table: str, prefix: str, data: st.DataObject, partial: bool
) -> None:
    drawn = data.draw(shares(prefix))
    row = {**BASE[table], "shares_partial": partial, **drawn}
    refused = refusal(table, row) is not None
    assert refused == refused_by_database(database, table, row)
    known = [share for share in drawn.values() if share is not None]
    if known and not partial and abs(abs(sum(known) - 100) - 1) > 1e-9:  # at 99 and 101 the last bit decides
        assert refused == (len(known) < 5 or abs(sum(known) - 100) > 1)
        assert schema.shares_are_whole(table, row) == (not refused)
    else:
        assert not refused or not partial


METRICS = ["accuracy", "acc_norm", "mc1", "mc2", "brier_score", "perplexity", "bits_per_byte", "top1", "mcc"]


@pytest.mark.parametrize("metric", METRICS)
def test_scores_in_their_metrics_range(database: duckdb.DuckDBPyConnection, metric: str) -> None:
    low = {"perplexity": 1.0, "mcc": -math.inf}.get(metric, 0.0)  # of the last nothing is known
    high = {"brier_score": 2.0, "perplexity": math.inf, "bits_per_byte": math.inf, "mcc": math.inf}.get(metric, 1.0)
    for value in (None, -0.1, 0.0, 0.5, 0.999, 1.0, 1.0000001, 1.5, 2.0, 2.1, 63.0, 1e9):
        row = {**BASE["evaluation_results"], "metric": metric, "metric_value": value}
        refused = value is not None and not low <= value <= high
        assert (refusal("evaluation_results", row) is not None) == refused, value
        assert refused_by_database(database, "evaluation_results", row) == refused, value


@settings(deadline=None, max_examples=40)
@given(*[st.none() | st.integers(1, 4) | st.just(2**40)] * 2)
def test_embeddings_are_a_part_of_all_parameters(
    database: duckdb.DuckDBPyConnection, total: int | None, embedding: int | None
) -> None:
    row = {"id": "a/b", "total_params": total, "embedding_params": embedding}
    refused = total is not None and embedding is not None and embedding > total
    assert (refusal("model_annotations", row) is not None) == refused
    assert refused_by_database(database, "model_annotations", row) == refused


# ---- the tables themselves


def test_the_tables_are_the_files_fields_in_their_order() -> None:
    with duckdb.connect(":memory:") as connection:
        connection.execute(schema.ddl())
        for table, row in BASE.items():
            fields = [field for field in FIELDS if field["table"] == table]
            found = connection.execute(f"DESCRIBE {table}").fetchall()
            assert [column[:2] for column in found] == [(field["field"], field["type"]) for field in fields]
            never_null = [field["field"] for field in fields if field["need"]]
            assert [column[0] for column in found if column[2] == "NO"] == never_null
            assert row.keys() - {"shares_partial"} == {
                field["field"] for field in fields if field["need"] not in ("", "flag")
            }


def test_references_need_what_they_refer_to() -> None:
    with duckdb.connect(":memory:") as connection:
        connection.execute(schema.ddl())
        order = ["training_stages", "models", "stage_datasets", "datasets"]
        assert [refused_by_database(connection, table, BASE[table], model=False) for table in order] == [
            True,
            False,
            True,
            False,
        ]
        for table in ("models", "training_stages", "datasets", "stage_datasets", "model_annotations", "model_features"):
            names, marks = ", ".join(BASE[table]), ", ".join("?" * len(BASE[table]))
            connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(BASE[table].values()))
        for table in ("models", "training_stages", "datasets"):
            with pytest.raises(duckdb.ConstraintException, match="foreign key"):
                connection.execute(f"DELETE FROM {table}")
        assert refused_by_database(connection, "model_annotations", BASE["model_annotations"])  # twice
