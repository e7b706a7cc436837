"""Scores of several task versions or prompts: refused, or one of the ways out that the refusal names."""

from __future__ import annotations

import datetime
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import open_dict

from njsl.core import config
from njsl.core.check import check, resolved
from njsl.core.types import ConfigError, DataError, StoreError
from njsl.store import AnalysisStore, open_store, schema
from njsl.store.edit import Editor
from njsl.store.load import load, upgrade
from njsl.store.records import Origin, Records
from njsl.store.save import create
from njsl.store.tasks import find_tasks
from njsl.store.versions import Versions
from njsl.store.views import task_frames

CONF = Path(__file__).parents[2] / "conf"
DAY = datetime.date(2025, 1, 2)
ORIGIN = Origin("card.json", DAY, "reported")
NONE = "unrecorded"
ARC = {"benchmark": "arc_challenge", "setting": "25-shot", "metric": "accuracy"}


@pytest.fixture(scope="module")
def upgraded(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic export as a database file of this layout, where nobody says any version."""
    connection, version = load(export)
    upgrade(connection, version, "the export", DAY)
    path = tmp_path_factory.mktemp("upgraded") / "db.duckdb"
    create(path, connection)
    return path


def opened(path: Path, versions: Versions | None = None, **scores: list[dict[str, Any]]) -> AnalysisStore:
    """The file, with further scores in memory."""
    connection, version = load(path)
    editor = Editor(connection, DAY)
    for rows in scores.values():
        (outcome,) = editor.add([Records({"evaluation_results": rows}, ORIGIN)])
        assert outcome.reason is None, outcome.reason
    editor.flush()
    return AnalysisStore(path, connection, version, versions=versions or Versions())


def labels(store: AnalysisStore, task: str, view: str = "raw") -> pd.Series:
    (frame,) = task_frames(store, view, find_tasks(task), freegen=False)
    return pd.Series(frame.y, frame.ids)


@pytest.mark.parametrize("view", ["raw", "curated"])
def test_one_refuses_a_mix_and_both_ways_out_work(upgraded: Path, view: str) -> None:
    with opened(upgraded) as store:
        before = labels(store, "arc_challenge", view)
    first, rest = before.index[:40], before.index[40:]
    new = [{"id": name, **ARC, "metric_value": 0.5, "task_version": "1.0", "prompt": "ab"} for name in first]
    store = opened(upgraded, new=new)
    with pytest.raises(DataError) as caught:
        labels(store, "arc_challenge", view)
    text = str(caught.value)
    assert text.isprintable()
    assert text.startswith(
        "arc_challenge 25-shot accuracy: scores of several versions or prompts: there are 1.0/ab (40 mod"
    )
    assert f"unrecorded/unrecorded ({len(before)} models)" in text

    key, value = re.findall(r"(store\.versions)=(\w+)", text)[0]
    assert (key, value) == ("store.versions", "newest")
    found = labels(replace(store, versions=Versions(value)), "arc_challenge", view)
    assert found[first].eq(0.5).all()  # 1.0 is newer than what nobody says
    pd.testing.assert_series_equal(found[rest], before[rest])
    ((name, version),) = re.findall(r"'\+store\.pinned=\{(\S+): (\S+)\}'", text)
    pinned = replace(store, versions=Versions(pinned={name: version}))
    pd.testing.assert_series_equal(labels(pinned, "arc_challenge", view), before)
    for pins in ({"arc*": "1.0"}, {"arc_challenge": "1.0/ab"}):
        found = labels(replace(store, versions=Versions(pinned=pins)), "arc_challenge", view)
        assert found.index.tolist() == first.tolist() and found.eq(0.5).all()


def test_a_mix_that_no_label_is_made_of_is_nobodys_concern(upgraded: Path) -> None:
    variant = {"metric_value": 0.5, "task_version": "1.0"}
    new = [
        {"id": "Qwen/Qwen2-72B", **ARC, **variant, "metric": "acc_norm"},
        {"id": "Qwen/Qwen2-72B", **ARC, **variant, "setting": "0-shot"},
        {"id": "Qwen/Qwen2-72B", **ARC, **variant, "benchmark": "gsm8k", "setting": "5-shot"},
        {"id": "ghost/unknown", **ARC, **variant},  # not described
        {"id": "delta/model-3", **ARC, **variant},  # instruction-tuned
    ]
    with opened(upgraded) as store, opened(upgraded, new=new) as more:
        pd.testing.assert_series_equal(labels(more, "arc_challenge"), labels(store, "arc_challenge"))
        with pytest.raises(DataError, match="gsm8k 5-shot accuracy: scores of several versions"):
            labels(more, "gsm8k")


def test_prompts_of_one_version_differ_too(bare: Path) -> None:
    new = [
        {"id": name, **ARC, "metric_value": value, "prompt": prompt}
        for name in ("x/y", "x/z")
        for value, prompt in ((0.1, "aa"), (0.2, "bb"))
    ]
    store = opened(bare, new=new)
    with pytest.raises(DataError) as caught:
        store.frame("arc_challenge")
    ((name, version),) = re.findall(r"'\+store\.pinned=\{(\S+): (\S+)\}'", str(caught.value))
    assert version == "unrecorded/aa"  # the version alone would not do
    for pin, expected in ((version, 0.1), ("unrecorded/bb", 0.2)):
        found = values(replace(store, versions=Versions(pinned={name: pin})), "arc_challenge")
        assert found == {"x/y": expected, "x/z": expected}
    with pytest.raises(DataError, match="several"):
        replace(store, versions=Versions(pinned={name: NONE})).frame("arc_challenge")


def test_a_pin_that_fits_nothing_is_refused(upgraded: Path, store: AnalysisStore) -> None:
    for pinned, said in (
        (
            {"arc_challenge": "3.0"},
            r"store.pinned.arc_challenge: no score of version '3.0'; there are unrecorded/unrecor",
        ),
        ({"arc_chalenge": NONE}, r"store.pinned.arc_chalenge: no score of version 'unrecorded'; there is none"),
        ({"zzz*": NONE}, r"store.pinned.zzz\*: no score"),
    ):
        with opened(upgraded, Versions(pinned=pinned)) as found, pytest.raises(DataError, match=said):
            found.frame("hellaswag")
    old = AnalysisStore(store.source, store.connection, 1, versions=Versions(pinned={"arc_challenge": "1.0"}))
    with pytest.raises(DataError, match="older layout"):
        old.frame("arc_challenge")


@pytest.mark.parametrize(
    ("rows", "winner"),
    [
        ([("1", None), ("2", None)], 1),
        ([("2", None), ("1", None)], 0),
        ([("9", None), ("10", None)], 1),
        ([("2.10", None), ("2.9", None)], 0),
        ([(NONE, None), ("0", None)], 1),
        ([("1", 5), ("2", 4)], 0),
        ([("1", 5), ("2", None)], 0),
        ([(NONE, 5), ("2", None)], 0),
        ([("1", 5), ("2", 5)], 1),
    ],
)
def test_newest_is_by_date_then_by_version(bare: Path, rows: list[tuple[str, int | None]], winner: int) -> None:
    new = [
        {
            **{"id": "x/y", **ARC, "metric_value": place / 10, "task_version": version},
            "evaluated_on": day and datetime.date(2024, 1, day),
        }
        for place, (version, day) in enumerate(rows)
    ]
    with opened(bare, Versions("newest"), new=new) as store:
        assert values(store, "arc_challenge") == {"x/y": winner / 10}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of two base models without any score."""
    connection = duckdb.connect(":memory:", config={"threads": "1"})
    connection.execute(schema.ddl())
    connection.execute("INSERT INTO schema_version VALUES (2)")
    for table, columns in (
        ("models", "id"),
        ("model_annotations", "id, total_params"),
        ("dataset_info", "id, pretraining_summary_total_tokens_billions"),
    ):
        for name in ("x/y", "x/z"):
            connection.execute(f"INSERT INTO {table} ({columns}) VALUES ('{name}'{', 7' * columns.count(',')})")
    path = tmp_path_factory.mktemp("bare") / "db.duckdb"
    create(path, connection)
    return path


@cache
def _loaded(path: Path) -> duckdb.DuckDBPyConnection:
    return load(path)[0]


def scored(path: Path, rows: list[dict[str, Any]]) -> duckdb.DuckDBPyConnection:
    """The database in memory with these scores and no others."""
    connection = _loaded(path)
    connection.execute("DELETE FROM evaluation_results")
    for row in rows:
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO evaluation_results ({names}) VALUES ({marks})", list(row.values()))
    return connection


def values(store: AnalysisStore, task: str) -> dict[str, float]:
    return store.frame(task).set_index("id")[task].dropna().to_dict()


CELLS = (
    ARC,
    ARC | {"benchmark": "arc:challenge"},
    *({**ARC, "benchmark": f"truthfulqa_{mc}", "setting": "0-shot"} for mc in ("mc1", "mc2")),
)
SCORES = st.lists(
    st.tuples(
        st.sampled_from(["x/y", "x/z"]),
        st.sampled_from(CELLS),
        st.sampled_from([NONE, "1", "2"]),
        st.sampled_from(["p", "q"]),
        st.sampled_from([None, datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)]),
    ),
    min_size=1,
    max_size=10,
    unique_by=lambda row: (row[0], row[1]["benchmark"], row[2], row[3]),
)


@settings(deadline=None, max_examples=8)
@given(rows=SCORES)
def test_a_label_never_mixes_versions(bare: Path, rows: list[tuple[Any, ...]]) -> None:
    """Every row has a value of its own, so a label tells which rows it is made of."""
    new = [
        {
            "id": name,
            **cell,
            "metric_value": (1 + place) / 16,
            "task_version": version,
            "prompt": prompt,
            "evaluated_on": day,
        }
        for place, (name, cell, version, prompt, day) in enumerate(rows)
    ]
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    variants: dict[str, set[tuple[str, str]]] = {}
    for row in new:
        benchmark = row["benchmark"].replace(":", "_")
        cells.setdefault((row["id"], benchmark), []).append(row)
        variants.setdefault(benchmark, set()).add((row["task_version"], row["prompt"]))

    def expected(task: str, winners: dict[tuple[str, str], dict[str, Any]]) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for (name, benchmark), row in winners.items():
            if benchmark.startswith(task):
                found.setdefault(name, []).append(row["metric_value"])
        return {name: sum(parts) / len(parts) for name, parts in found.items()}

    def age(row: dict[str, Any]) -> tuple[datetime.date, int]:
        return row["evaluated_on"] or datetime.date.min, [NONE, "1", "2"].index(row["task_version"])

    store = AnalysisStore(bare, scored(bare, new), 2)
    for task in ("arc_challenge", "truthfulqa"):
        if any(len(found) > 1 for name, found in variants.items() if name.startswith(task)):
            with pytest.raises(DataError, match="scores of several versions or prompts"):
                store.frame(task)
        else:
            firsts = {place: found[0] for place, found in cells.items()}
            assert values(store, task) == pytest.approx(expected(task, firsts), abs=1e-12)
    if "arc_challenge" in variants:
        version, prompt = sorted(variants["arc_challenge"])[-1]
        pinned = AnalysisStore(
            bare, store.connection, 2, versions=Versions(pinned={"arc_challenge": f"{version}/{prompt}"})
        )
        fits = {
            place: [row for row in found if (row["task_version"], row["prompt"]) == (version, prompt)]
            for place, found in cells.items()
            if place[1] == "arc_challenge"
        }
        firsts = {place: found[0] for place, found in fits.items() if found}
        assert values(pinned, "arc_challenge") == pytest.approx(expected("arc_challenge", firsts), abs=1e-12)
    newest = AnalysisStore(bare, store.connection, 2, versions=Versions("newest"))
    for task in ("arc_challenge", "truthfulqa"):
        latest = {place: max(found, key=age) for place, found in cells.items()}  # the first of equals
        assert values(newest, task) == pytest.approx(expected(task, latest), abs=1e-12)


# ---- from the command line of predict.py


def composed(tmp_path: Path, *words: str) -> config.StoreConfig:
    """The store's part of a checked config, as ``predict.py`` gets it."""
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("predict", [f"hydra.runtime.output_dir={tmp_path}", *words], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    check(cfg, config.PredictConfig)
    return config.StoreConfig(**resolved(cfg)["store"])


def test_the_ways_out_from_the_command_line(tmp_path: Path, upgraded: Path) -> None:
    store = ("store=folder", f"store.path={upgraded}")
    assert open_store(composed(tmp_path, *store))[0].versions == Versions("one", {})
    found, _ = open_store(composed(tmp_path, *store, "store.versions=newest"))
    assert found.versions == Versions("newest") and found.version == 2
    for word, pinned in (
        ("{arc_challenge: 1.0}", {"arc_challenge": "1.0"}),  # a number to Hydra
        ("{arc_challenge: 2}", {"arc_challenge": "2"}),
        ("{mmlu_*: unrecorded, hellaswag: 1.0/0a1b2c}", {"mmlu_*": NONE, "hellaswag": "1.0/0a1b2c"}),
    ):
        found, _ = open_store(composed(tmp_path, *store, f"+store.pinned={word}"))
        assert found.versions == Versions("one", pinned)
    with pytest.raises(ConfigError, match=r"store.versions: 'newst' is not known.*newest"):
        composed(tmp_path, *store, "store.versions=newst")


# ---- the API for notebooks


def test_models(store: AnalysisStore, upgraded: Path) -> None:
    with opened(upgraded) as new:
        old, found = store.models(), new.models()
        columns = list(old.columns)
        assert columns[0] == "id" and "total_params" in columns and "family" not in columns
        assert {"family", "parent", "release_date", "num_layers"} <= set(found.columns)
        assert found["id"].is_monotonic_increasing and found["id"].is_unique
        assert len(found) == 51 and len(old) == 49  # 48 models and one with data only; two more have only scores
        for name in columns[1:]:  # one spelling of missing in both, where the files have two
            a, b = old.set_index("id")[name], found.set_index("id")[name][old["id"]]
            assert a.isna().tolist() == b.isna().tolist(), name
            assert a.dropna().tolist() == b.dropna().tolist(), name
        numbers = old.select_dtypes("number")
        assert not numbers.eq(-1).any(axis=None) and numbers.isna().any(axis=None)


def test_scores(upgraded: Path) -> None:
    cell = {"id": "Qwen/Qwen2-72B", "benchmark": "winogrande", "setting": "5-shot", "metric": "accuracy"}
    with opened(upgraded, new=[{**cell, "metric_value": 0.5, "task_version": "1"}]) as found:
        raw, clean = found.scores(), found.scores("curated")
        for frame in (raw, clean):
            assert list(frame.columns) == list(schema.tables()["evaluation_results"])
            assert frame.index.tolist() == list(range(len(frame)))
            assert not frame.duplicated(["id", "benchmark", "setting", "metric", "task_version", "prompt"]).any()
            mine = frame[(frame[list(cell)] == list(cell.values())).all(axis=1)]
            assert sorted(mine["task_version"]) == ["1", NONE]
        assert not raw["benchmark"].str.contains("arc:|hendrycks").any()
        assert "EleutherAI/pythia-410M" in set(raw["id"]) - set(clean["id"])


def test_features(store: AnalysisStore, upgraded: Path) -> None:
    found = store.features()
    assert found.columns[0] == "id" and found.shape == (45, 62)
    with opened(upgraded) as new:
        with pytest.raises(DataError, match="import-features"):
            new.features()
        editor = Editor(new.connection, DAY)
        rows = [
            {"id": name, "feature": feature, "value": value}
            for name, feature, value in (("b", "z", 1.0), ("b", "a", -1.0), ("a", "z", 3.0))
        ]
        assert next(editor.add([Records({"model_features": rows}, ORIGIN)])).reason is None
        editor.flush()
        own = new.features()
    assert own.columns.tolist() == ["id", "z", "a"]  # in the order they came
    assert own.astype(object).where(own.notna(), None).values.tolist() == [["a", 3.0, None], ["b", 1.0, -1.0]]


def test_frame(store: AnalysisStore) -> None:
    found = store.frame(["hellaswag", "xnli"], freegen=True)
    assert len(found) == 42 and found["id"].is_monotonic_increasing
    assert list(found.columns[:2]) == ["id", "total_params"]
    assert list(found.columns[-2:]) == ["hellaswag", "xnli"]
    assert {"org", "family", "activation", "freegen_00"} <= set(found.columns)
    for task in ("hellaswag", "xnli"):
        expected = labels(store, task)
        pd.testing.assert_series_equal(
            found.set_index("id")[task].dropna(), expected, check_names=False, check_index_type=False
        )
    assert len(found.columns) - 61 == len(store.frame("core").columns) - 11
    assert store.frame("gsm8k")["gsm8k"].notna().sum() == store.frame("gsm8k", "curated")["gsm8k"].notna().sum()
    with pytest.raises(ConfigError, match="helaswag"):
        store.frame("helaswag")


@pytest.mark.parametrize("view", ["raw", "curated"])
def test_arrow_is_the_same_table(store: AnalysisStore, view: str) -> None:
    pairs = [
        (store.models(view, arrow=True), store.models(view)),
        (store.scores(view, arrow=True), store.scores(view)),
        (store.features(arrow=True), store.features()),
        (store.frame("hellaswag", view, arrow=True), store.frame("hellaswag", view)),
    ]
    for table, frame in pairs:
        assert isinstance(table, pa.Table) and table.column_names == list(frame.columns)
        assert table.num_rows == len(frame) > 40
        for name in frame:
            found = frame[name].astype(object)
            assert table[name].to_pylist() == found.where(found.notna(), None).tolist(), name


@pytest.mark.filterwarnings("ignore:Arrow output on a DB-API result")
def test_sql(store: AnalysisStore) -> None:
    query = "SELECT id, total_params FROM model_annotations WHERE total_params IS NOT NULL ORDER BY id"
    found = store.sql(query)
    expected = store.models()[["id", "total_params"]].dropna().reset_index(drop=True)
    assert found["id"].tolist() == expected["id"].tolist()
    assert found["total_params"].tolist() == expected["total_params"].tolist()
    assert store.sql(query, arrow=True).to_pydict() == found.to_dict(orient="list")


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO dataset_info (id) VALUES ('x')",
        "DELETE FROM dataset_info",
        "CREATE TABLE x (a INTEGER)",
        "DROP TABLE dataset_info",
        "COPY dataset_info TO '{out}'",
        "COPY (SELECT 1) TO '{out}'",
        "EXPORT DATABASE '{out}'",
        "ATTACH '{out}'",
        "PRAGMA database_list",
        "SET threads = 1",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CALL pragma_version()",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE dataset_info",
        "",
        "nonsense",
        "SELECT nothing",
        "SELECT ?",
        "SELECT * FROM read_csv('{csv}')",
        "SELECT * FROM '{csv}'",
        "SELECT * FROM read_text('{csv}')",
        "SELECT * FROM glob('{csv}')",
        "SELECT getenv('HOME')",
        "SELECT * FROM query('DELETE FROM dataset_info')",
        "SELECT * FROM expected",  # a variable of the caller
    ],
)
def test_sql_is_one_select_and_nothing_else(store: AnalysisStore, export: Path, tmp_path: Path, query: str) -> None:
    expected = store.table("dataset_info")
    with pytest.raises(StoreError, match="sql: ") as caught:
        store.sql(query.format(out=tmp_path / "out", csv=export / "dataset_info.csv"))
    assert "\n" not in str(caught.value)
    pd.testing.assert_frame_equal(store.table("dataset_info"), expected)
    assert list(tmp_path.iterdir()) == []


def test_sql_cannot_change_anything_inside_of_a_select(export: Path) -> None:
    with AnalysisStore.from_existing(export) as found:
        with pytest.raises(StoreError, match="sql: "):
            found.sql("WITH gone AS (DELETE FROM dataset_info RETURNING *) SELECT * FROM gone")
        assert len(found.table("dataset_info")) == 48


# ---- the paper's data


@pytest.mark.data
def test_the_papers_frame(paper_store: AnalysisStore) -> None:
    """The README's numbers; the paper's database records no versions, so no rule touches it."""
    tasks = ["arc_challenge", "humaneval", "xnli", "truthfulqa"]
    counts = {"raw": [92, 91, 82, 69], "curated": [94, 81, 82, 94]}
    for view, expected in counts.items():
        found = paper_store.frame(tasks, view, freegen=True)
        assert found[tasks].notna().sum().tolist() == expected
        assert found["id"].is_monotonic_increasing
        newest = AnalysisStore(
            **{name: getattr(paper_store, name) for name in ("source", "connection", "version", "freegen", "selected")},
            **{"published": True, "versions": Versions("newest")},
        )
        pd.testing.assert_frame_equal(newest.frame(tasks, view, freegen=True), found)
    assert len(paper_store.frame(tasks)) == 94
