"""What becomes of a source: against a model of dictionaries for drawn sources, and by hand for the rest."""

from __future__ import annotations

import copy
import datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from export import tables, write
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import DataError, StoreError
from njsl.store import AnalysisStore, schema
from njsl.store.edit import Editor, Outcome
from njsl.store.load import load, upgrade
from njsl.store.records import Origin, Records
from njsl.store.save import create, editing

Row = dict[str, Any]
DAY = datetime.date(2025, 1, 2)
ORIGIN = Origin("card.json", datetime.date(2024, 5, 6), "reported")
SCORE = {"benchmark": "arc", "setting": "0-shot", "metric": "accuracy"}
SHARES = ("web", "code", "books", "reference", "academic")
PCT = "pretraining_summary_percentage_"


def empty() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:", config={"threads": "1"})
    connection.execute(schema.ddl())
    connection.execute("INSERT INTO schema_version VALUES (2)")
    return connection


@pytest.fixture
def editor() -> Editor:
    return Editor(empty(), DAY)


def rows(editor: Editor, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
    """What stands in the database after a flush."""
    editor.flush()
    return editor.connection.execute(f"SELECT {columns} FROM {table} ORDER BY rowid").fetchall()


def everything(editor: Editor) -> dict[str, list[tuple[Any, ...]]]:
    return {table: rows(editor, table) for table in schema.tables()}


def add(
    editor: Editor, found: dict[str, list[Row]], rule: str | None = None, origin: Origin | None = ORIGIN
) -> Outcome:
    (outcome,) = editor.add([Records(copy.deepcopy(found), origin)], rule)
    return outcome


def score(**more: Any) -> Row:
    return {"id": "a/b", **SCORE, **more}


# ---- an independent model

KEYS = {
    "models": 1,
    "model_annotations": 1,
    "training_stages": 2,
    "evaluation_results": 6,
    "model_features": 2,
}  # in the order of fields.csv: how many columns make the key
MEASURED = {"evaluation_results": ("metric_value", "metric_stderr"), "model_features": ("value",)}
IDS = st.sampled_from(["a/b", "a/c", "d"])


def some(**fields: list[Any]) -> st.SearchStrategy[Row]:
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in fields.items()})


def keyed(table: str, key: st.SearchStrategy[tuple[Any, ...]], row: st.SearchStrategy[Row]) -> st.SearchStrategy[Any]:
    """Up to three rows of a table by key, no key twice."""
    return st.dictionaries(key, row, max_size=3).map(lambda found: {(table, key): row for key, row in found.items()})


SOURCES = st.tuples(
    keyed("models", st.tuples(IDS), some(family=["x", "y"])),
    keyed("model_annotations", st.tuples(IDS), some(num_layers=[12, 24], activation=["gelu"], mlp_ratio=[4.0, 3.5])),
    keyed("training_stages", st.tuples(IDS, st.integers(1, 2)), some(learning_rate=[1e-4, 3e-4], optimizer=["adam"])),
    keyed(
        "evaluation_results",
        st.tuples(IDS, st.just("arc"), st.just("0-shot"), st.just("accuracy"), st.sampled_from("12"), st.just("p")),
        some(metric_value=[0.5, 0.25], metric_stderr=[0.01, 0.02], harness=["old", "new"], num_samples=[10]),
    ),
    keyed("model_features", st.tuples(IDS, st.just("f")), some(value=[1.5, -1.0], source=["g.csv"])),
).map(lambda parts: {place: row for part in parts for place, row in part.items()})
Source = dict[tuple[str, tuple[Any, ...]], Row]


class Model:
    """The database as dictionaries: values by (table, key), who said a fact, and what was replaced."""

    def __init__(self) -> None:
        self.values: Source = {}
        self.said: dict[tuple[str, str, str], str] = {}
        self.history: list[tuple[str, str, str, str, str | None, str]] = []

    def take(self, source: Source, name: str, rule: str | None) -> tuple[bool, int, int, int]:
        """Accepted, and the numbers of new, equal and differing values."""
        values = copy.deepcopy(self.values)
        told = {key[0] for (table, key) in source if table == "models"}
        used = dict.fromkeys(key[0] for _, key in source)
        bare = {("models", (one,)): {} for one in used if one not in told and ("models", (one,)) not in values}
        new = equal = 0
        differing: list[tuple[str, tuple[Any, ...], str, Any, Any]] = []
        lost: list[tuple[str, tuple[Any, ...], str, Any, Any]] = []
        every = source | bare
        for table, key in sorted(every, key=lambda place: list(KEYS).index(place[0])):
            row, measured = every[table, key], MEASURED.get(table, tuple(every[table, key]))
            there = values.get((table, key))
            if there is None:
                values[table, key] = dict(row)
                new += max(1, sum(field in measured for field in row))
                continue
            differ = [
                (table, key, field, there[field], row[field])
                for field in measured
                if field in row and field in there and there[field] != row[field]
            ]
            differing += differ
            gone = there if differ and table in MEASURED else {field for _, _, field, *_ in differ}
            lost += [
                (table, key, field, there[field], row.get(field))
                for field in schema.tables()[table]
                if field in gone and there[field] != row.get(field)
            ]
            if differ and table in MEASURED:
                if rule == "replace":
                    values[table, key] = dict(row)
                continue
            new += sum(field in measured and field not in there for field in row)
            equal += sum(field in measured and there.get(field) == row[field] for field in row)
            replaces = rule == "replace" and table not in MEASURED  # how a score was measured only fills gaps
            values[table, key] = {**there, **row} if replaces else {**row, **there}
        if differing and rule is None:
            return False, new, equal, len(differing)
        self.values = values
        replaced = lost if rule == "replace" else []
        for table, key, field, old, fresh in replaced:
            text = None if fresh is None else str(fresh)
            self.history.append((table, "#".join(map(str, key)), field, str(old), text, name))
        places = {(table, key, field) for table, key, field, *_ in replaced}
        for (table, key), row in source.items():
            for field, value in row.items() if table not in MEASURED else ():
                place = (table, "#".join(map(str, key)), field)
                if values[table, key][field] == value and (place not in self.said or (table, key, field) in places):
                    self.said[place] = name
        return True, new, equal, len(differing)


def records(source: Source, name: str) -> Records:
    found: dict[str, list[Row]] = {}
    for (table, key), row in source.items():
        found.setdefault(table, []).append(dict(zip(schema.keys(table), key, strict=True)) | row)
    for row in found.get("evaluation_results", []):
        row.setdefault("source", None)
    return Records(found, Origin(name, DAY, "reported"))


STEPS = st.lists(
    st.tuples(st.sampled_from([None, "keep", "replace"]), st.lists(SOURCES, min_size=1, max_size=2), st.booleans()),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=20)
@given(STEPS)
def test_any_sources_under_any_rules(steps: list[tuple[str | None, list[Source], bool]]) -> None:
    editor, model = Editor(empty(), DAY), Model()
    number = 0
    for rule, sources, flush in steps:
        names = [f"s{number + place}" for place in range(len(sources))]
        number += len(sources)
        outcomes = list(editor.add([records(*pair) for pair in zip(sources, names, strict=True)], rule))
        expected = [model.take(source, name, rule) for source, name in zip(sources, names, strict=True)]
        found = [(one.reason is None, one.new, one.equal, len(one.conflicts)) for one in outcomes]
        assert found == expected
        if flush:
            editor.flush()
    there = {}
    for table in KEYS:
        frame = rows(editor, table)
        names = list(schema.tables()[table])
        for values in frame:
            row = {name: value for name, value in zip(names, values, strict=True) if value is not None}
            there[table, tuple(row.pop(name) for name in schema.keys(table))] = row
    for (table, _), row in there.items():
        if table == "evaluation_results":
            assert row.pop("shots_assumed") is False
    assert there == model.values
    # Every fact that stands has one origin, and it is a source that gave this very value.
    said = {place[:3]: place[3] for place in rows(editor, "provenance")}
    assert said == model.said
    facts = {
        (table, "#".join(map(str, key)), field)
        for (table, key), row in model.values.items()
        if table not in MEASURED
        for field in row
    }
    assert set(said) == facts
    history = rows(editor, "history", "subject, row_key, field, old, new, source")
    assert history == model.history
    assert rows(editor, "history", "number") == [(place + 1,) for place in range(len(history))]
    # The last source once more: nothing is new, nothing is to be saved.
    rule, sources, _ = steps[-1]
    again = Editor(editor.connection, DAY)
    (outcome,) = again.add([records(sources[-1], "again")], rule)
    if outcome.reason is None:
        assert outcome.new == 0 and not again.changed


# ---- by hand


def test_a_refused_source_leaves_everything_as_it_was(editor: Editor) -> None:
    add(
        editor,
        {"model_annotations": [{"id": "a/b", "num_layers": 12}], "evaluation_results": [score(metric_value=0.5)]},
    )
    before = everything(editor)
    fresh = {"id": "x/new", "num_layers": 3}
    for bad in (
        {"model_annotations": [fresh, {"id": "a/b", "num_layers": 13, "activation": "relu"}]},
        {"model_annotations": [fresh, {"id": "a/b", "num_layers": 12, "colour": "red"}]},
        {"model_annotations": [fresh, fresh]},
        {"model_annotations": [fresh], "evaluation_results": [score(metric_value=0.25)]},
        {"model_annotations": [fresh], "evaluation_results": [score(metric_value=63.0)]},
        {"model_annotations": [fresh], "evaluation_results": [{"id": "a/b"}]},
        {"model_annotations": [fresh], "dataset_info": [{"id": "a/b", f"{PCT}web": 50.0}]},
        {"model_annotations": [fresh], "models": [{"id": "../../etc/passwd"}]},
        {"model_annotations": [fresh], "models": [{"family": "x"}]},
        {"model_annotations": [fresh], "nonsense": [{"id": "a/b"}]},
    ):
        reason = add(editor, bad).reason
        assert reason is not None and reason.isprintable()
        assert not editor.changed, bad
        assert everything(editor) == before


@pytest.mark.parametrize("name", ["", " card.json", "a\nb.json", "x" * 2001, "\ud800.json"])
def test_a_source_whose_origin_cannot_be_noted_is_refused_whole(editor: Editor, name: str) -> None:
    outcome = add(
        editor, {"model_annotations": [{"id": "a/b", "num_layers": 12}]}, origin=Origin(name, DAY, "reported")
    )
    assert outcome.reason is not None and outcome.reason.startswith("provenance.source: ")
    assert not editor.changed
    assert rows(editor, "models") == []


def test_the_reason_names_the_first_value_that_differs_and_the_ways_out(editor: Editor) -> None:
    add(editor, {"evaluation_results": [score(metric_value=0.5, task_version="1", prompt="p")]})
    outcome = add(editor, {"evaluation_results": [score(metric_value=0.25, task_version="1", prompt="p")]})
    assert outcome.reason == (
        "1 value differs from the database's, the first at evaluation_results a/b arc 0-shot accuracy 1 p "
        "metric_value: 0.5 there, 0.25 here; accepted: --on-conflict=keep or --on-conflict=replace"
    )


def test_values_written_with_other_digits_are_equal(editor: Editor) -> None:
    add(editor, {"evaluation_results": [score(metric_value=1 / 3)]})
    assert add(editor, {"evaluation_results": [score(metric_value=0.3333333333)]}).equal == 1
    assert len(add(editor, {"evaluation_results": [score(metric_value=0.33333)]}).conflicts) == 1
    assert rows(editor, "evaluation_results", "metric_value") == [(1 / 3,)]


def test_a_later_source_of_one_call_sees_the_earlier(editor: Editor) -> None:
    one, two = ({"model_annotations": [{"id": "a/b", "num_layers": layers}]} for layers in (12, 24))
    outcomes = list(editor.add([Records(one, ORIGIN), Records(two, ORIGIN), Records(copy.deepcopy(one), ORIGIN)]))
    assert [outcome.reason is None for outcome in outcomes] == [True, False, True]
    assert (outcomes[0].new, outcomes[2].new, outcomes[2].equal) == (2, 0, 1)  # the bare model and its layers


@pytest.mark.parametrize("table", ["models", "evaluation_results"])
def test_a_row_that_stands_twice_in_a_source(editor: Editor, table: str) -> None:
    row = score(metric_value=0.5) if table == "evaluation_results" else {"id": "a/b"}
    reason = add(editor, {table: [row, dict(row)]}).reason
    assert reason is not None and reason.startswith(f"{table} a/b") and reason.endswith("stands twice in the source")


def test_two_spellings_of_one_key_are_one_row(editor: Editor) -> None:
    """Silent about the version, or saying that it is unrecorded; under an alias, or under the name."""
    twice = [score(metric_value=0.5), score(metric_value=0.5, task_version="unrecorded", prompt="unrecorded")]
    assert "stands twice" in str(add(editor, {"evaluation_results": twice}).reason)
    add(editor, {"models": [{"id": "a/b"}]})
    editor.alias("model", "a/B", "a/b")
    assert "stands twice" in str(add(editor, {"models": [{"id": "a/b"}, {"id": "a/B"}]}).reason)


def test_scores_of_other_versions_and_prompts_stand_side_by_side(editor: Editor) -> None:
    variants = [{}, {"task_version": "1"}, {"task_version": "2"}, {"task_version": "2", "prompt": "p"}]
    for place, variant in enumerate(variants):
        assert add(editor, {"evaluation_results": [score(metric_value=place / 10, **variant)]}).reason is None
    found = rows(editor, "evaluation_results", "metric_value, task_version, prompt")
    none = "unrecorded"
    assert found == [(0.0, none, none), (0.1, "1", none), (0.2, "2", none), (0.3, "2", "p")]


def test_a_files_path_is_a_models_name_only_where_it_is_known(editor: Editor) -> None:
    found = {"evaluation_results": [{**score(metric_value=0.5), "id": "/data/models/llama"}]}
    reason = add(editor, found).reason
    assert reason is not None and "'/data/models/llama': a file's path is no model's name" in reason
    add(editor, {"models": [{"id": "meta/llama"}]})
    assert editor.alias("model", "/data/models/llama", "meta/llama").reason is None
    assert add(editor, found).reason is None
    assert rows(editor, "evaluation_results", "id") == [("meta/llama",)]
    known = empty()
    known.execute("INSERT INTO models (id) VALUES ('/data/models/llama')")  # as the paper's database has some
    assert add(Editor(known, DAY), found).reason is None


def test_sql_in_a_value_is_only_a_value(editor: Editor) -> None:
    evil = "'); DROP TABLE models; --"
    add(
        editor,
        {
            "models": [{"id": "org/x", "family": evil}],
            "evaluation_results": [{**score(metric_value=0.5), "id": "org/x", "benchmark": evil, "harness": evil}],
            "model_features": [{"id": "org/x", "feature": evil, "value": 1.0}],
            "datasets": [{"name": evil, "percentage_english": 5.0}],
        },
        origin=Origin(evil, DAY, "reported"),
    )
    assert rows(editor, "models", "id, family") == [("org/x", evil)]
    assert rows(editor, "evaluation_results", "benchmark, harness") == [(evil, evil)]
    assert rows(editor, "model_features", "feature") == rows(editor, "datasets", "name") == [(evil,)]
    assert sorted(rows(editor, "provenance", "row_key, source")) == [(evil, evil), ("org/x", evil)]
    assert editor.alias("benchmark", evil, "arc").reason is None
    assert rows(editor, "evaluation_results", "benchmark, harness") == [("arc", evil)]
    reason = add(editor, {"models": [{"id": f"org/{evil}"}]}).reason
    assert reason is not None and reason.startswith("models.id: ")


def test_shares_that_have_become_whole_are_partial_no_more(editor: Editor) -> None:
    def state() -> tuple[Any, ...]:
        (row,) = rows(editor, "dataset_info", f"{PCT}web, {PCT}code, shares_partial")
        return row

    add(editor, {"dataset_info": [{"id": "a", f"{PCT}web": 60.0, "shares_partial": True}]})
    assert state() == (60.0, None, True)
    rest = dict(zip([f"{PCT}{name}" for name in SHARES[1:]], (25.0, 5.0, 5.0, 5.0), strict=True))
    outcome = add(editor, {"dataset_info": [{"id": "a", **rest}]})
    assert (outcome.reason, outcome.new, state()) == (None, 4, (60.0, 25.0, False))
    assert add(editor, {"dataset_info": [{"id": "a", f"{PCT}web": 60.0, "shares_partial": True}]}).reason is None
    assert state() == (60.0, 25.0, False)  # a whole stays one, whatever a source knew
    other = {"dataset_info": [{"id": "a", f"{PCT}web": 10.0}]}
    assert "sum to 50 with 5 of 5 known" in str(add(editor, other, "replace").reason)
    assert (
        add(editor, {"dataset_info": [{"id": "a", f"{PCT}web": 10.0, "shares_partial": True}]}, "replace").reason
        is None
    )
    assert state() == (10.0, 25.0, True)


def test_replacing_a_score_takes_its_error_and_circumstances_with_it(editor: Editor) -> None:
    told = {"metric_stderr": 0.01, "harness": "lm-eval", "num_samples": 10, "evaluated_on": DAY, "shots_assumed": True}
    add(editor, {"evaluation_results": [score(metric_value=0.5, source="old.json", **told)]})
    new = {"evaluation_results": [score(metric_value=0.25, source="new.json")]}
    columns = "metric_value, metric_stderr, harness, num_samples, evaluated_on, shots_assumed, source"
    assert add(editor, new, "keep").reason is None
    assert rows(editor, "evaluation_results", columns) == [(0.5, 0.01, "lm-eval", 10, DAY, True, "old.json")]
    assert rows(editor, "history") == []
    assert add(editor, new, "replace", None).reason is None
    assert rows(editor, "evaluation_results", columns) == [(0.25, None, None, None, None, False, "new.json")]
    assert rows(editor, "history", "field, old, new, source, replaced_on") == [
        ("metric_value", "0.5", "0.25", "new.json", DAY),
        ("metric_stderr", "0.01", None, "new.json", DAY),
        ("harness", "lm-eval", None, "new.json", DAY),
        ("num_samples", "10", None, "new.json", DAY),
        ("evaluated_on", str(DAY), None, "new.json", DAY),
        ("source", "old.json", "new.json", "new.json", DAY),
    ]


def test_gaps_are_filled_without_a_conflict(editor: Editor) -> None:
    add(editor, {"evaluation_results": [score(metric_value=0.5, harness="lm-eval")]})
    outcome = add(
        editor, {"evaluation_results": [score(metric_value=0.5, metric_stderr=0.01, harness="x", model_dtype="f")]}
    )
    assert (outcome.reason, outcome.new, outcome.equal, outcome.conflicts) == (None, 1, 1, [])
    columns = "metric_value, metric_stderr, harness, model_dtype"
    assert rows(editor, "evaluation_results", columns) == [(0.5, 0.01, "lm-eval", "f")]


def test_origins_of_single_values(editor: Editor) -> None:
    """Also where the source spells the model's name by an alias."""
    add(editor, {"models": [{"id": "a/b"}]})
    editor.alias("model", "A/B", "a/b")
    paper = Origin("https://arxiv.org/abs/1", DAY, "inferred")
    found = {
        "model_annotations": [{"id": "A/B", "num_layers": 12, "dimension": 64}],
        "training_stages": [{"id": "A/B", "stage": 1, "optimizer": "adam"}],
    }
    origins = {("model_annotations", "A/B", "num_layers"): paper, ("training_stages", "A/B#1", "optimizer"): paper}
    (outcome,) = editor.add([Records(found, ORIGIN, origins)])
    assert outcome.reason is None
    assert sorted(rows(editor, "provenance", "row_key, field, source")) == [
        ("a/b", "dimension", "card.json"),
        ("a/b", "num_layers", "https://arxiv.org/abs/1"),
        ("a/b#1", "optimizer", "https://arxiv.org/abs/1"),
    ]


def test_what_a_row_refers_to_comes_with_it(editor: Editor) -> None:
    outcome = add(editor, {"stage_datasets": [{"id": "a/b", "stage": 2, "dataset": "The Pile", "share_pct": 30.0}]})
    assert outcome.reason is None
    assert [rows(editor, name) for name in ("models", "datasets", "training_stages")] == [
        [("a/b", None, None, None)],
        [("The Pile", *[None] * 7, False)],
        [("a/b", 2, *[None] * 15)],
    ]


# ---- aliases


def full(identity: str, layers: int = 12, value: float = 0.5, share: float = 30.0) -> dict[str, list[Row]]:
    """A model with a row in every table, which the references join."""
    return {
        "models": [{"id": identity, "family": "f"}],
        "model_annotations": [{"id": identity, "num_layers": layers}],
        "dataset_info": [{"id": identity, "pretraining_summary_total_tokens_billions": 5.0}],
        "training_stages": [{"id": identity, "stage": 1, "name": "sft"}],
        "stage_datasets": [{"id": identity, "stage": 1, "dataset": "d", "share_pct": share}],
        "evaluation_results": [score(id=identity, metric_value=value)],
        "model_features": [{"id": identity, "feature": "f", "value": 1.0}],
    }


OF_MODELS = ("models", "model_annotations", "dataset_info", "training_stages", "stage_datasets")
ALL = (*OF_MODELS, "evaluation_results", "model_features")


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_an_alias_moves_a_models_rows_with_their_origins(editor: Editor, flushed: bool, there: bool) -> None:
    add(editor, full("a/old"))
    if there:
        add(editor, {"models": [{"id": "a/new"}]})
    before = {}
    if flushed:
        before = {table: rows(editor, table) for table in ALL}
        origins = rows(editor, "provenance")
    outcome = editor.alias("model", "a/old", "a/new")
    assert (outcome.reason, outcome.conflicts) == (None, [])
    for table in ALL:
        assert rows(editor, table, "DISTINCT id") == [("a/new",)], table
        assert len(rows(editor, table)) == 1
        if flushed and table != "models":
            assert [row[1:] for row in rows(editor, table)] == [row[1:] for row in before[table]]
    moved = rows(editor, "provenance")
    assert {row[1].split("#")[0] for row in moved} == {"a/new"} and len(moved) == 5
    if flushed:
        assert sorted(moved) == sorted((row[0], row[1].replace("a/old", "a/new"), *row[2:]) for row in origins)
    assert rows(editor, "aliases") == [("model", "a/old", "a/new")]
    again = add(editor, full("a/old"))
    assert (again.reason, again.new) == (None, 0) and not editor.changed
    reopened = Editor(editor.connection, DAY)
    assert add(reopened, full("a/old")).new == 0 and not reopened.changed


def test_conflicts_of_an_alias(editor: Editor) -> None:
    add(editor, full("a/old", layers=12, value=0.5))
    add(editor, full("a/new", layers=24, value=0.25))
    before = everything(editor)
    outcome = editor.alias("model", "a/old", "a/new")
    assert outcome.reason is not None and outcome.reason.startswith("2 values differ")
    assert not editor.changed and everything(editor) == before
    assert editor.alias("model", "a/old", "a/new", "replace").reason is None
    assert rows(editor, "model_annotations", "id, num_layers") == [("a/new", 12)]
    assert rows(editor, "evaluation_results", "id, metric_value") == [("a/new", 0.5)]
    assert rows(editor, "history", "row_key, field, old, new") == [
        ("a/new", "num_layers", "24", "12"),
        ("a/new#arc#0-shot#accuracy#unrecorded#unrecorded", "metric_value", "0.25", "0.5"),
    ]


def test_an_alias_under_keep_leaves_what_is_there(editor: Editor) -> None:
    add(editor, full("a/old", layers=12))
    add(editor, {"model_annotations": [{"id": "a/new", "num_layers": 24}]})
    assert editor.alias("model", "a/old", "a/new", "keep").reason is None
    assert rows(editor, "model_annotations", "id, num_layers") == [("a/new", 24)]
    assert rows(editor, "models", "id, family") == [("a/new", "f")]  # a gap is filled


def test_an_alias_of_a_benchmark(editor: Editor) -> None:
    add(editor, {"evaluation_results": [score(metric_value=0.5, benchmark="arc:c"), score(metric_value=0.1, id="a/c")]})
    editor.flush()
    assert editor.alias("benchmark", "arc:c", "arc").reason is None
    assert rows(editor, "evaluation_results", "id, benchmark, metric_value") in (
        [("a/c", "arc", 0.1), ("a/b", "arc", 0.5)],
        [("a/b", "arc", 0.5), ("a/c", "arc", 0.1)],
    )
    assert add(editor, {"evaluation_results": [score(metric_value=0.5, benchmark="arc:c")]}).equal == 1
    assert rows(editor, "models", "id") == [("a/b",), ("a/c",)]


def test_an_alias_of_a_model_leaves_a_data_set_of_that_name_alone(editor: Editor) -> None:
    add(
        editor, {"datasets": [{"name": "a/old", "percentage_english": 5.0}], "models": [{"id": "a/old", "family": "x"}]}
    )
    editor.alias("model", "a/old", "a/new")
    assert rows(editor, "datasets", "name") == [("a/old",)]
    assert sorted(rows(editor, "provenance", "subject, row_key")) == [("datasets", "a/old"), ("models", "a/new")]


def test_children_follow_their_parents_alias(editor: Editor) -> None:
    add(editor, {"models": [{"id": "a/old"}, {"id": "a/child", "parent": "a/old"}]})
    editor.flush()
    fresh = Editor(editor.connection, DAY)
    fresh.alias("model", "a/old", "a/new")
    add(fresh, {"models": [{"id": "a/later", "parent": "a/old"}, {"id": "a/child", "parent": "a/old"}]})
    assert sorted(rows(fresh, "models", "id, parent"), key=str) == [
        ("a/child", "a/new"),
        ("a/later", "a/new"),
        ("a/new", None),
    ]


def test_aliases_that_are_refused(editor: Editor) -> None:
    add(editor, {"models": [{"id": "a"}, {"id": "b"}, {"id": "c"}]})
    editor.alias("model", "x", "a")
    editor.flush()
    for kind, alias, name, said in (
        ("model", "b", "b", "another name is accepted"),
        ("model", "y", "x", "one step is accepted"),  # a chain
        ("model", "a", "b", "one step is accepted"),  # the other way round
        ("model", "x", "b", "'x' is 'a' already"),
        ("model", "p", "q", "neither 'p' nor 'q' is a model"),
        ("dataset", "p", "q", "model, benchmark are accepted"),
        ("model", "", "a", "aliases.alias: ''"),
        ("model", "b", "../b", "models.id: '../b'"),
        ("model", "b", "/srv/b", "a file's path is no model's name"),
    ):
        with pytest.raises(DataError) as caught:
            editor.alias(kind, alias, name)
        assert said in str(caught.value), str(caught.value)
        assert not editor.changed
    assert editor.alias("benchmark", "a", "b").reason is None  # another kind
    assert editor.alias("model", "x", "a").reason is None
    assert rows(editor, "aliases") == [("model", "x", "a"), ("benchmark", "a", "b")]
    assert editor.alias("model", "x", "b", "replace").reason is None
    assert rows(editor, "history", "subject, row_key, old, new") == [("aliases", "model#x", "a", "b")]


def test_the_same_alias_again_changes_nothing(editor: Editor) -> None:
    add(editor, {"models": [{"id": "a"}]})
    editor.alias("model", "x", "a")
    editor.flush()
    assert editor.alias("model", "x", "a").new == 0 and not editor.changed


# ---- writing


def test_flush_then_add_again(editor: Editor) -> None:
    """Rows that others refer to are changed, moved and extended between flushes."""
    add(editor, full("a/b"))
    editor.flush()
    assert not editor.changed
    add(editor, full("a/b", layers=24, share=40.0) | {"models": [{"id": "a/b", "family": "g"}]}, "replace")
    editor.flush()
    assert rows(editor, "models", "family") == [("g",)]
    assert rows(editor, "stage_datasets", "share_pct") == [(40.0,)]
    editor.alias("model", "a/b", "a/c")
    editor.flush()
    add(editor, {"stage_datasets": [{"id": "a/b", "stage": 1, "dataset": "e", "share_pct": 1.0}]})
    assert rows(editor, "stage_datasets", "id, dataset") == [("a/c", "d"), ("a/c", "e")]
    assert rows(editor, "history", "number, old, new") == [(1, "f", "g"), (2, "12", "24"), (3, "30.0", "40.0")]


def test_a_broken_rule_is_one_line(editor: Editor) -> None:
    add(editor, {"models": [{"id": "late"}]})
    editor.connection.execute("INSERT INTO models (id) VALUES ('late')")  # behind the editor's back
    with pytest.raises(StoreError) as caught:
        editor.flush()
    assert "\n" not in str(caught.value) and "late" in str(caught.value)


# ---- older and newer layouts


def old_tables() -> dict[str, pd.DataFrame]:
    """Every spelling of missing that version 1 has."""
    found = tables()
    annotations, datasets, scores = found.values()
    annotations.loc[annotations["id"] == "acme/model-0", ["num_heads", "sequence_length"]] = -1
    scores.loc[scores.index[0], ["metric_value", "metric_stderr"]] = [float("nan"), float("inf")]
    share = f"{PCT}english"
    datasets.loc[datasets["id"] == "acme/model-0", share] = -1.0
    datasets.loc[datasets["id"] == "cobalt/model-2", f"{PCT}web"] += 5  # no whole any more
    return found


def test_version_1_becomes_version_2(tmp_path: Path) -> None:
    found = old_tables()
    annotations, datasets, scores = (table.reset_index(drop=True) for table in found.values())
    connection, version = load(write(tmp_path / "export", **found))
    assert version == 1
    day = datetime.date(2025, 3, 3)
    upgrade(connection, version, "the paper", day)
    new = {name: connection.execute(f"SELECT * FROM {name} ORDER BY rowid").df() for name in schema.tables()}
    assert new["schema_version"]["version"].tolist() == [2]

    for table, old in (("model_annotations", annotations), ("dataset_info", datasets)):
        assert new[table]["id"].tolist() == old["id"].tolist()
        for column in old.columns.drop("id"):
            left = old[column].astype(object)
            left = [None if pd.isna(value) or value == -1 else value for value in left]
            right = [None if pd.isna(value) else value for value in new[table][column].astype(object)]
            assert right == left, column
    assert new["model_annotations"][["num_layers", "vocab_size"]].isna().all(axis=None)
    ids = [*annotations["id"], *datasets["id"], *scores["id"]]
    assert new["models"]["id"].tolist() == list(dict.fromkeys(ids))

    five = datasets[[f"{PCT}{name}" for name in SHARES]]
    five = five.where(five != -1)
    odd = (five.notna().any(axis=1) & five.isna().any(axis=1)) | (
        (five.sum(axis=1) - 100).abs() > 1
    ) & five.notna().all(axis=1)
    assert new["dataset_info"]["shares_partial"].tolist() == odd.tolist()
    assert set(datasets.loc[odd, "id"]) == {"cobalt/model-2", "boreal/model-7"}

    results = new["evaluation_results"]
    assert len(results) == len(scores)
    key = ["id", "benchmark", "setting", "metric"]
    assert results[key].values.tolist() == scores[key].values.tolist()
    assert results.loc[0, ["metric_value", "metric_stderr"]].isna().all()
    for column in ("metric_value", "metric_stderr"):
        pd.testing.assert_series_equal(results[column].iloc[1:], scores[column].astype(float).iloc[1:])
    for column, value in (("task_version", "unrecorded"), ("prompt", "unrecorded"), ("source", "the paper")):
        assert set(results[column]) == {value}
    assert not results["shots_assumed"].any()

    origins = new["provenance"]
    facts = sum(
        int(new[table][column].notna().sum())
        for table, old in (("model_annotations", annotations), ("dataset_info", datasets))
        for column in old.columns.drop("id")
    )
    assert len(origins) == facts > 500
    assert set(origins["source"]) == {"the paper"} and set(origins["confidence"]) == {"reported"}
    assert set(origins["stated_on"].dt.date) == {day}
    mine = origins[origins["row_key"] == "acme/model-0"]
    assert not set(mine["field"]) & {"num_heads", "sequence_length", f"{PCT}english"}


def old_file(path: Path, export: Path) -> Path:
    with duckdb.connect(str(path)) as connection:
        for table in ("model_annotations", "dataset_info", "evaluation_results"):
            connection.execute(f"CREATE TABLE {table} AS SELECT * FROM read_csv('{export}/{table}.csv', nullstr='')")
    return path


def test_an_older_file_is_read_as_it_is_and_upgraded_when_it_is_changed(tmp_path: Path, export: Path) -> None:
    path = old_file(tmp_path / "old.duckdb", export)
    body = path.read_bytes()
    with AnalysisStore.from_existing(path) as opened:
        assert opened.version == 1
        labels = opened.frame("hellaswag")
    with editing(path, save=False) as editor:
        add(editor, {"models": [{"id": "x/y"}]})
    assert path.read_bytes() == body
    with pytest.raises(RuntimeError, match="midway"), editing(path) as editor:
        add(editor, {"models": [{"id": "x/y"}]})
        raise RuntimeError("midway")
    assert path.read_bytes() == body
    with editing(path) as editor:
        assert add(editor, {"models": [{"id": "x/y", "family": "z"}]}).reason is None
    with AnalysisStore.from_existing(path) as opened:
        assert opened.version == 2
        assert opened.sql("SELECT family FROM models WHERE id = 'x/y'")["family"].tolist() == ["z"]
        assert set(opened.sql("SELECT DISTINCT source FROM provenance")["source"]) == {"old.duckdb", "card.json"}
        pd.testing.assert_frame_equal(opened.frame("hellaswag"), labels)
    assert [left.name for left in tmp_path.iterdir()] == ["old.duckdb"]
    body = path.read_bytes()
    with editing(path) as editor:
        assert add(editor, {"models": [{"id": "x/y", "family": "z"}]}).equal == 1
    assert path.read_bytes() == body  # nothing new, nothing written


def test_version_1_that_breaks_a_rule_is_refused_and_stays(tmp_path: Path, export: Path) -> None:
    path = old_file(tmp_path / "old.duckdb", export)
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE evaluation_results SET metric_value = 63 WHERE benchmark = 'winogrande'")
    body = path.read_bytes()
    with pytest.raises(StoreError, match=r"version 1 to 2: .*accuracy"), editing(path):
        pass
    assert path.read_bytes() == body


def test_a_newer_file_and_a_newer_folder_are_refused(tmp_path: Path, export: Path) -> None:
    path = tmp_path / "new.duckdb"
    connection = empty()
    connection.execute("UPDATE schema_version SET version = 3")
    create(path, connection)
    folder = write(tmp_path / "folder")
    (folder / "schema_version.csv").write_text("version\n3\n")
    for source in (path, folder):
        with pytest.raises(StoreError) as caught:
            AnalysisStore.from_existing(source)
        assert "layout version 3, written by a newer njsl; versions up to 2 are accepted: update njsl" in str(
            caught.value
        )
    with pytest.raises(StoreError, match="newer njsl"), editing(path):
        pass


def test_none_says_nothing_in_checked_records_either(editor: Editor) -> None:
    found = {"evaluation_results": [score(metric_value=0.5, metric_stderr=None, task_version=None, prompt="p")]}
    (outcome,) = editor.add([Records(found, ORIGIN, checked=True)])
    assert (outcome.reason, outcome.new) == (None, 2)  # the bare model and the value
    editor.flush()
    (outcome,) = editor.add([Records(found, ORIGIN, checked=True)])
    assert (outcome.new, outcome.equal) == (0, 1) and not editor.changed
    assert rows(editor, "evaluation_results", "task_version, prompt") == [("unrecorded", "p")]
    assert found["evaluation_results"][0]["metric_stderr"] is None  # the source is left as it was
