"""What is shown of a database: its tables, one model, and who has a label for what; counted by hand."""

from __future__ import annotations

import csv
import datetime
import json
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from export import tables

from njsl.core.types import ConfigError, DataError
from njsl.store import AnalysisStore, schema
from njsl.store.edit import Editor
from njsl.store.records import Origin, Records
from njsl.store.show import coverage, overview, profile

DAY = datetime.date(2025, 1, 2)
ARC = {"benchmark": "arc_challenge", "setting": "25-shot", "metric": "accuracy"}
MC = {"setting": "0-shot", "metric": "accuracy"}


@pytest.fixture(scope="module")
def small() -> AnalysisStore:
    """Two models in this layout; one is tuned, and a data set bears its name."""
    connection = duckdb.connect(":memory:", config={"threads": "1"})
    connection.execute(schema.ddl())
    connection.execute("INSERT INTO schema_version VALUES (2)")
    editor = Editor(connection, DAY)
    card = {
        "models": [{"id": "x/y", "family": "y", "parent": "x/base", "release_date": datetime.date(2024, 5, 6)}],
        "model_annotations": [{"id": "x/y", "num_layers": 12, "mlp_ratio": 2.5, "is_instruction_tuned": True}],
        "datasets": [{"name": "x/y", "percentage_english": 50.0}],
        "training_stages": [{"id": "x/y", "stage": 1, "name": "sft", "learning_rate": 1e-4}],
        "stage_datasets": [{"id": "x/y", "stage": 1, "dataset": "x/y", "share_pct": 100.0}],
        "model_features": [{"id": "x/y", "feature": "f", "value": 1.5}],
        "evaluation_results": [
            {"id": "x/y", **ARC, "metric_value": 0.25, "task_version": "1", "evaluated_on": datetime.date(2024, 1, 1)},
            {"id": "x/y", **ARC, "metric_value": 0.5, "task_version": "2", "evaluated_on": datetime.date(2024, 1, 2)},
            {"id": "x/y", **MC, "benchmark": "truthfulqa_mc1", "metric_value": 0.25},
            {"id": "x/y", **MC, "benchmark": "truthfulqa_mc2", "metric_value": 0.5},
            {"id": "x/z", **MC, "benchmark": "truthfulqa_mc1", "metric_value": 0.125},
        ],
    }
    (outcome,) = editor.add([Records(card, Origin("card.json", DAY, "reported"))])
    assert outcome.reason is None
    assert editor.alias("model", "X/Y", "x/y").reason is None
    editor.flush()
    return AnalysisStore(Path("small.duckdb"), connection, 2)


def test_overview(store: AnalysisStore, export: Path, small: AnalysisStore) -> None:
    for table in overview(store):
        with (export / f"{table['table']}.csv").open(newline="") as file:
            header, *rows = csv.reader(file)
        assert (table["rows"], table["columns"]) == (len(rows), header)
    found = {table["table"]: table["rows"] for table in overview(small)}
    assert list(found) == list(schema.tables())
    assert {name: rows for name, rows in found.items() if rows} == {
        **{"models": 2, "model_annotations": 1, "datasets": 1, "training_stages": 1, "stage_datasets": 1},
        **{"evaluation_results": 5, "model_features": 1, "aliases": 1, "provenance": 10, "schema_version": 1},
    }


def test_profile(small: AnalysisStore) -> None:
    found = profile(small, "x/y", "raw")
    assert json.loads(json.dumps(found)) == found  # a document as it stands
    assert found["facts"] == {
        **{"family": "y", "parent": "x/base", "release_date": "2024-05-06"},
        **{"num_layers": 12, "mlp_ratio": 2.5, "is_instruction_tuned": True},
    }
    assert found["labels"] == {"arc_challenge": 0.5, "truthfulqa": 0.375}
    values = [(row["benchmark"], row["task_version"], row["metric_value"]) for row in found["scores"]]
    assert values == [
        *[("arc_challenge", "1", 0.25), ("arc_challenge", "2", 0.5)],
        *[("truthfulqa_mc1", "unrecorded", 0.25), ("truthfulqa_mc2", "unrecorded", 0.5)],
    ]
    assert found["scores"][0]["evaluated_on"] == "2024-01-01"
    origins = [(row["subject"], row["field"]) for row in found["provenance"]]
    assert sorted(origins) == [
        *[("model_annotations", name) for name in ("is_instruction_tuned", "mlp_ratio", "num_layers")],
        *[("models", name) for name in ("family", "parent", "release_date")],
        ("stage_datasets", "share_pct"),
        *[("training_stages", name) for name in ("learning_rate", "name")],
    ]  # and not the data set's
    assert found["provenance"][0]["stated_on"] == "2025-01-02"
    assert found["training_stages"] == [{"stage": 1, "name": "sft", "learning_rate": 1e-4}]
    assert found["stage_datasets"] == [{"stage": 1, "dataset": "x/y", "share_pct": 100}]
    assert found["model_features"] == [{"feature": "f", "value": 1.5}]
    assert found["aliases"] == ["X/Y"]
    bare = profile(small, "x/z", "raw")
    assert (bare["facts"], bare["labels"], len(bare["scores"])) == ({}, {"truthfulqa": 0.125}, 1)
    assert profile(small, "x/z", "curated")["labels"] == {}  # there a label needs both


def test_profile_of_the_older_layout(store: AnalysisStore) -> None:
    found = profile(store, "acme/model-0", "raw")
    row = tables()["model_annotations"].set_index("id").loc["acme/model-0"]
    assert found["facts"]["total_params"] == row["total_params"] and type(found["facts"]["total_params"]) is int
    assert "pretraining_summary_total_tokens_billions" not in found["facts"]  # missing
    assert "provenance" not in found
    scored = profile(store, "ghost/unknown", "raw")
    assert scored["facts"] == {} and scored["labels"] == {"winogrande": 0.61} and len(scored["scores"]) == 1
    assert json.loads(json.dumps(found)) == found


def test_close_names_are_offered(small: AnalysisStore, store: AnalysisStore) -> None:
    for opened, name, said in (
        (store, "Qwen/Qwen2-72b", r"no model 'Qwen/Qwen2-72b'; did you mean Qwen/Qwen2-72B or "),
        (store, "pythia-410m", "EleutherAI/pythia-410m"),
        (small, "nothing at all", r"small.duckdb: no model 'nothing at all'; 2 models are there"),
        (small, "'; DROP TABLE models; --", "2 models are there"),
    ):
        with pytest.raises(DataError, match=said):
            profile(opened, name, "raw")


def test_coverage_of_all_models_tuned_ones_too(small: AnalysisStore) -> None:
    found = coverage(small, "raw", ["arc_challenge", "truthfulqa"])
    expected = pd.DataFrame({"arc_challenge": [0.5, np.nan], "truthfulqa": [0.375, 0.125]}, pd.Index(["x/y", "x/z"]))
    pd.testing.assert_frame_equal(found, expected, check_names=False, check_index_type=False)
    assert coverage(small, "raw").notna().sum().sum() == 3
    assert coverage(small, "curated").notna().sum().sum() == 2
    with pytest.raises(ConfigError):
        coverage(small, "raw", "nonsense")


def test_coverage_counts(store: AnalysisStore, export: Path) -> None:
    with (export / "evaluation_results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric_value"]]
    found = coverage(store, "raw")
    assert len(found) == 51 and found.shape[1] == 13  # 48, one with data only, two with scores only

    def scored(setting: str, metric: str, *names: str) -> int:
        of = [row for row in rows if (row["setting"], row["metric"]) == (setting, metric)]
        return len({row["id"] for row in of if row["benchmark"].startswith(names)})

    assert found.notna().sum().to_dict() == {
        "arc_challenge": scored("25-shot", "accuracy", "arc"),
        "hellaswag": scored("10-shot", "accuracy", "hellaswag"),
        "mmlu_0-shot": scored("0-shot", "accuracy", "mmlu_", "hendrycksTest-"),
        "mmlu_5-shot": scored("5-shot", "accuracy", "mmlu_", "hendrycksTest-"),
        "truthfulqa": scored("0-shot", "accuracy", "truthfulqa_"),
        "winogrande": scored("5-shot", "accuracy", "winogrande"),
        "lambada": scored("0-shot", "accuracy", "lambada"),
        "gsm8k": scored("5-shot", "accuracy", "gsm8k"),
        "humaneval": scored("0-shot", "accuracy", "humaneval"),
        "anli": scored("0-shot", "brier_score", "anli"),
        "logiqa2": scored("0-shot", "brier_score", "logiqa2"),
        "xnli": scored("0-shot", "brier_score", "xnli"),
        "mathqa": scored("0-shot", "brier_score", "mathqa"),
    }
    assert found["winogrande"].notna().sum() == 49  # 47 of the 48, and two that nobody describes
