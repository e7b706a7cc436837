"""Differences: none between a database and one made from it, else exactly what was planted."""

from __future__ import annotations

import csv
import datetime
from pathlib import Path

import duckdb
import pytest
from export import tables, write

from njsl.store import AnalysisStore, schema
from njsl.store.compare import Difference, differences
from njsl.store.edit import Editor
from njsl.store.load import load, upgrade
from njsl.store.records import Origin, Records
from njsl.store.save import create

DAY = datetime.date(2025, 1, 2)
QWEN = "Qwen/Qwen2-72B"
Found = set[tuple[str, ...]]


def made_from(source: Path, path: Path) -> Path:
    """A database file of this layout with what an older one holds."""
    connection, version = load(source)
    upgrade(connection, version, "somewhere", DAY)
    create(path, connection)
    return path


def small(*sources: Records) -> AnalysisStore:
    """A database of these records alone."""
    connection = duckdb.connect(":memory:", config={"threads": "1"})
    connection.execute(schema.ddl())
    connection.execute("INSERT INTO schema_version VALUES (2)")
    editor = Editor(connection, DAY)
    assert [outcome.reason for outcome in editor.add(sources)] == [None] * len(sources)
    editor.flush()
    return AnalysisStore(Path("small.duckdb"), connection, 2)


def test_a_database_and_one_made_from_it_are_the_same(tmp_path: Path, export: Path, store: AnalysisStore) -> None:
    with AnalysisStore.from_existing(made_from(export, tmp_path / "db.duckdb")) as new:
        assert new.version == 2
        for view in (None, "raw", "curated"):
            assert differences(store, new, view, view) == []
        assert differences(new, store) == []


def test_exactly_what_was_changed(tmp_path: Path, store: AnalysisStore) -> None:
    found = tables()
    annotations, datasets, scores = found.values()
    annotations.loc[annotations["id"] == QWEN, ["activation", "num_heads", "weight_tying"]] = ["mish", 7, None]
    before = tables()["model_annotations"].set_index("id").loc[QWEN]
    annotations = annotations[annotations["id"] != "acme/model-6"]
    datasets.loc[datasets["id"] == "acme/model-0", "pretraining_summary_total_tokens_billions"] = -1.0  # was NULL
    datasets.loc[datasets["id"] == QWEN, "pretraining_summary_percentage_english"] *= 1 + 1e-12  # other digits
    mine = (scores["id"] == QWEN) & (scores["benchmark"] == "winogrande")
    old = scores.loc[mine, "metric_value"].item()
    scores.loc[mine, "metric_value"] = 0.125
    scores.loc[mine, "metric_stderr"] = None
    scores.loc[len(scores)] = ["x/y", "arc", "0-shot", "accuracy", 0.5, None]
    expected: Found = {
        ("model_annotations", QWEN, "activation", "" if before["activation"] is None else before["activation"], "mish"),
        ("model_annotations", QWEN, "num_heads", str(before["num_heads"]), "7"),
        ("model_annotations", QWEN, "weight_tying", str(bool(before["weight_tying"])), ""),
        ("model_annotations", "acme/model-6", "(row)", "there", ""),
        ("evaluation_results", f"{QWEN}#winogrande#5-shot#accuracy#{NONE}", "metric_value", f"{old:.10g}", "0.125"),
        ("evaluation_results", f"{QWEN}#winogrande#5-shot#accuracy#{NONE}", "metric_stderr", "0.01", ""),
        ("evaluation_results", f"x/y#arc#0-shot#accuracy#{NONE}", "(row)", "", "there"),
    }
    folder = write(
        tmp_path / "changed", model_annotations=annotations, dataset_info=datasets, evaluation_results=scores
    )
    with AnalysisStore.from_existing(folder) as other:
        forth, back = differences(store, other), differences(other, store)
    assert set(map(tuple, forth)) == expected and len(forth) == len(expected)
    assert {(*row[:3], row.right, row.left) for row in back} == expected and len(back) == len(expected)
    assert [row.table for row in forth] == ["model_annotations"] * 4 + ["evaluation_results"] * 3
    assert f"{forth[0]}".endswith("(row): there | -")


NONE = "unrecorded#unrecorded"


def test_tables_that_only_this_layout_has() -> None:
    origin = Origin("card.json", DAY, "reported")
    one = Records(
        {
            "models": [{"id": "x/y", "release_date": datetime.date(2024, 5, 6)}],
            "stage_datasets": [{"id": "x/y", "stage": 1, "dataset": "a#b", "share_pct": 30.0}],
            "model_features": [{"id": "x/y", "feature": name, "value": -1.0} for name in ("f", "g")],
            "evaluation_results": [
                {"id": "x/y", "benchmark": "b", "setting": "0-shot", "metric": "perplexity", "task_version": version}
                for version in ("1", "2")
            ],
        },
        origin,
    )
    two = Records(
        {
            "models": [{"id": "x/y", "release_date": datetime.date(2024, 5, 7)}],
            "stage_datasets": [{"id": "x/y", "stage": 1, "dataset": "a#b", "share_pct": 31.0}],
            "model_features": [{"id": "x/y", "feature": "f", "value": 5.0}, {"id": "x/y", "feature": "g"}],
            "evaluation_results": [
                {"id": "x/y", "benchmark": "b", "setting": "0-shot", "metric": "perplexity", "task_version": "1"}
            ],
        },
        origin,
    )
    with small(one) as left, small(two) as right:
        assert {tuple(row) for row in differences(left, right)} == {
            ("models", "x/y", "release_date", "2024-05-06", "2024-05-07"),
            ("stage_datasets", "x/y#1#a#b", "share_pct", "30", "31"),
            ("model_features", "x/y#f", "value", "-1", "5"),
            ("model_features", "x/y#g", "value", "-1", ""),  # here -1 is a value
            ("evaluation_results", "x/y#b#0-shot#perplexity#2#unrecorded", "(row)", "there", ""),
        }


def test_infinite_scores_of_the_older_layout(tmp_path: Path) -> None:
    scores = tables()["evaluation_results"]
    mine = scores.index[(scores["id"] == QWEN) & (scores["metric"] == "perplexity")]
    stores = []
    for name, values in (("a", ["inf", "inf"]), ("b", ["inf", 5.0]), ("c", ["-inf", "inf"])):
        other = scores.astype({"metric_value": object})
        other.loc[mine, "metric_value"] = values
        stores.append(AnalysisStore.from_existing(write(tmp_path / name, evaluation_results=other)))
    a, b, c = stores
    assert differences(a, a) == []
    for left, right, expected in (
        (a, b, [("inf", "5")]),
        (b, a, [("5", "inf")]),
        (a, c, [("inf", "-inf")]),
        (b, c, [("5", "inf"), ("inf", "-inf")]),
    ):
        assert sorted((row.left, row.right) for row in differences(left, right)) == expected


def test_a_database_against_a_view_of_it(export: Path, store: AnalysisStore) -> None:
    """The raw view renames old spellings, and the first row of the file wins; read off the file itself."""
    with (export / "evaluation_results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    there: dict[tuple[str, ...], dict[str, str]] = {}
    view: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        rest = (row["setting"], row["metric"])
        there[(row["id"], row["benchmark"], *rest)] = row
        new = row["benchmark"].replace("hendrycksTest-", "mmlu_").replace("arc:challenge", "arc_challenge")
        view.setdefault((row["id"], new, *rest), row)
    expected: Found = set()
    for key in there.keys() | view.keys():
        place = ("evaluation_results", f"{'#'.join(key)}#{NONE}")
        if key not in view:
            expected.add((*place, "(row)", "there", ""))
        elif key not in there:
            expected.add((*place, "(row)", "", "there"))
        else:
            for name in ("metric_value", "metric_stderr"):
                left, right = (f"{float(one[key][name]):.10g}" if one[key][name] else "" for one in (there, view))
                expected |= {(*place, name, left, right)} if left != right else set()
    assert {row[2] for row in expected} == {"(row)", "metric_value"}
    found = differences(store, store, None, "raw")
    assert set(map(tuple, found)) == expected and len(found) == len(expected)


def test_the_corrections_of_the_curated_view(tmp_path: Path) -> None:
    annotations = tables()["model_annotations"]
    annotations.loc[annotations["id"] == "EleutherAI/pythia-70m", "total_params"] = 95592496  # as published
    with AnalysisStore.from_existing(write(tmp_path, model_annotations=annotations)) as opened:
        found = differences(opened, opened, "raw", "curated")
    mine = Difference("model_annotations", "EleutherAI/pythia-70m", "total_params", "95592496", "70426624")
    assert [row for row in found if row.key == mine.key] == [mine]
    alias = f"EleutherAI/pythia-410M#winogrande#5-shot#accuracy#{NONE}"
    assert Difference("evaluation_results", alias, "(row)", "there", "") in found


@pytest.mark.data
def test_the_papers_database_and_one_made_from_it(tmp_path: Path, paper_store: AnalysisStore) -> None:
    with AnalysisStore.from_existing(made_from(paper_store.source, tmp_path / "db.duckdb")) as new:
        assert differences(paper_store, new, "raw", "raw") == []
        assert differences(paper_store, new) == []
