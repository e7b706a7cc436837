"""Each check finds what is planted and nothing else, and on the paper's data what can be counted independently."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from export import SHARES, SUMMARY, TOKENS, tables, write

from njsl.store import AnalysisStore, schema
from njsl.store.edit import Editor
from njsl.store.records import Records
from njsl.store.verify import ERRORS
from njsl.store.views import known_groups, models

Tables = dict[str, pd.DataFrame]
Found = set[tuple[str, str, str]]


def clean() -> Tables:
    """The synthetic export with every oddity taken out."""
    found = tables()
    annotations, datasets, scores = (
        found[name] for name in ("model_annotations", "dataset_info", "evaluation_results")
    )
    whole = datasets[[f"{SUMMARY}percentage_{name}" for name in SHARES]].ge(0).all(axis=1)
    known = set(datasets.loc[whole & datasets[TOKENS].gt(0), "id"]) & set(annotations["id"]) & set(scores["id"])
    known -= set(annotations.loc[annotations["total_params"].isna(), "id"])
    scores = scores.assign(old=scores["benchmark"].str.contains("arc:|hendrycks"))
    scores["benchmark"] = scores["benchmark"].str.replace("hendrycksTest-", "mmlu_").str.replace("arc:", "arc_")
    of_mc = scores["benchmark"] == "truthfulqa:mc"
    scores.loc[of_mc, "benchmark"] = "truthfulqa_" + scores.loc[of_mc, "metric"]
    scores.loc[of_mc, "metric"] = "accuracy"
    scores = scores.sort_values("old", kind="stable").drop_duplicates(["id", "benchmark", "setting", "metric"])
    scores["metric_value"] = scores["metric_value"].fillna(0.5)
    found["evaluation_results"] = scores[scores["id"].isin(known)].drop(columns="old")
    found["model_annotations"] = annotations[annotations["id"].isin(known)]
    found["dataset_info"] = datasets[datasets["id"].isin(known)]
    return {name: table.reset_index(drop=True) for name, table in found.items()}


def findings(folder: Path, found: Tables) -> pd.DataFrame:
    with AnalysisStore.from_existing(write(folder, **found)) as opened:
        return opened.verify()


def put(table: str, identity: str, column: str, value: object) -> Callable[[Tables], None]:
    def change(found: Tables) -> None:
        found[table].loc[found[table]["id"] == identity, column] = value

    return change


def score(identity: str, benchmark: str, value: object, metric: str = "accuracy") -> Callable[[Tables], None]:
    """Set a score that is there."""

    def change(found: Tables) -> None:
        rows = found["evaluation_results"]
        mine = (rows["id"] == identity) & (rows["benchmark"] == benchmark) & (rows["metric"] == metric)
        assert mine.sum() == 1
        rows.loc[mine, "metric_value"] = value

    return change


def add(*row: object, first: bool = False) -> Callable[[Tables], None]:
    """Add a score at the end of the file, or at its start."""

    def change(found: Tables) -> None:
        rows = found["evaluation_results"]
        new = pd.DataFrame([row], columns=rows.columns)
        found["evaluation_results"] = pd.concat([new, rows] if first else [rows, new])

    return change


def drop(table: str, identity: str, benchmark: str | None = None) -> Callable[[Tables], None]:
    def change(found: Tables) -> None:
        gone = found[table]["id"] == identity
        if benchmark is not None:
            gone &= found[table]["benchmark"] == benchmark
        assert gone.any()
        found[table] = found[table][~gone]

    return change


QWEN, PYTHIA = "Qwen/Qwen2-72B", "EleutherAI/pythia-70m"
PCT = f"{SUMMARY}percentage_"


def shares(*values: float) -> Callable[[Tables], None]:
    def change(found: Tables) -> None:
        for name, value in zip(SHARES, values, strict=True):
            put("dataset_info", QWEN, f"{PCT}{name}", value)(found)

    return change


BREAKAGES: dict[str, tuple[Callable[[Tables], None], Found]] = {
    "evaluated only": (add("x/y", "drop", "3-shot", "accuracy", 0.5, None), {("orphan", "x/y", "id")}),
    "without data": (drop("dataset_info", QWEN), set()),
    "without annotation": (
        drop("model_annotations", QWEN),
        {("orphan", QWEN, "id")},  # once for its scores, once for its data
    ),
    "other letter case": (
        add("Qwen/qwen2-72b", "drop", "3-shot", "accuracy", 0.5, None),
        {("orphan", "Qwen/qwen2-72b", "id"), ("alias", "Qwen/qwen2-72b", "id"), ("alias", QWEN, "id")},
    ),
    "without owner": (
        add("Qwen2-72B", "drop", "3-shot", "accuracy", 0.5, None),
        {("orphan", "Qwen2-72B", "id"), ("alias", "Qwen2-72B", "id"), ("alias", QWEN, "id")},
    ),
    "converted": (
        add(f"{QWEN}-hf", "drop", "3-shot", "accuracy", 0.5, None),
        {("orphan", f"{QWEN}-hf", "id"), ("alias", f"{QWEN}-hf", "id"), ("alias", QWEN, "id")},
    ),
    "same name of another owner": (
        add("x/Qwen2-72B", "drop", "3-shot", "accuracy", 0.5, None),
        {("orphan", "x/Qwen2-72B", "id")},
    ),
    "old spelling after the new one": (
        add(QWEN, "arc:challenge", "25-shot", "accuracy", 0.5, None),
        {("alias", QWEN, "benchmark")},
    ),
    "old spelling before the new one": (
        add(QWEN, "hendrycksTest-anatomy", "0-shot", "accuracy", 0.5, None, first=True),
        {("alias", QWEN, "benchmark")},
    ),
    "old spelling under another setting": (add(QWEN, "arc:challenge", "0-shot", "accuracy", 0.5, None), set()),
    "shares of 98.9": (shares(58.9, 10, 10, 10, 10), {("shares", QWEN, "shares")}),
    "shares of 99.1": (shares(59.1, 10, 10, 10, 10), set()),
    "shares of 101.1": (shares(61.1, 10, 10, 10, 10), {("shares", QWEN, "shares")}),
    "one share of five": (shares(-1, 100, -1, -1, -1), {("shares", QWEN, "shares")}),
    "no share known": (shares(-1, -1, -1, -1, -1), set()),
    "no heads": (put("model_annotations", QWEN, "num_heads", 0), {("range", QWEN, "num_heads")}),
    "missing heads": (put("model_annotations", QWEN, "num_heads", -1), set()),
    "negative parameters": (put("model_annotations", QWEN, "total_params", -7), {("range", QWEN, "total_params")}),
    "percent above 100": (put("dataset_info", QWEN, f"{PCT}english", 140.0), {("range", QWEN, f"{PCT}english")}),
    "percent below 0": (put("dataset_info", QWEN, f"{PCT}english", -2.0), {("range", QWEN, f"{PCT}english")}),
    "percent of 0": (put("dataset_info", QWEN, f"{PCT}english", 0.0), set()),
    "accuracy in percent": (score(QWEN, "winogrande", 63.0), {("range", QWEN, "winogrande 5-shot accuracy")}),
    "brier of 2.1": (score(QWEN, "mathqa", 2.1, "brier_score"), {("range", QWEN, "mathqa 0-shot brier_score")}),
    "brier of 1.6": (score(QWEN, "mathqa", 1.6, "brier_score"), set()),
    "perplexity below 1": (
        score(QWEN, "lambada_openai", 0.5, "perplexity"),
        {("range", QWEN, "lambada_openai 0-shot perplexity")},
    ),
    "no score": (
        score(PYTHIA, "humaneval", None),
        {("nan", PYTHIA, "humaneval 0-shot accuracy"), ("missing_eval", PYTHIA, "humaneval 0-shot accuracy")},
    ),
    "zero beside siblings": (score(PYTHIA, "humaneval", 0.0), {("zero", PYTHIA, "humaneval 0-shot accuracy")}),
    "zero of an only child": (score(QWEN, "humaneval", 0.0), set()),
    "not evaluated": (
        drop("evaluation_results", PYTHIA, "winogrande"),
        {("missing_eval", PYTHIA, "winogrande 5-shot accuracy")},
    ),
}


def test_clean_rows_have_no_findings(tmp_path: Path) -> None:
    found = clean()
    assert len(found["model_annotations"]) == 42
    table = findings(tmp_path, found)
    assert list(table.columns) == ["check", "table", "id", "field", "value", "message"]
    assert table.empty, table.to_string()


@pytest.mark.parametrize("name", BREAKAGES)
def test_each_breakage_and_only_it(tmp_path: Path, name: str) -> None:
    change, expected = BREAKAGES[name]
    found = clean()
    change(found)
    table = findings(tmp_path, found)
    assert set(zip(table["check"], table["id"], table["field"], strict=True)) == expected, table.to_string()


def test_an_annotated_model_without_any_evaluation(tmp_path: Path) -> None:
    found = clean()
    drop("evaluation_results", QWEN)(found)
    table = findings(tmp_path, found)
    assert table["check"].value_counts().to_dict() == {"orphan": 1, "missing_eval": 13}
    assert set(table["id"]) == {QWEN}


def test_sorted_by_check_and_id(store: AnalysisStore) -> None:
    table = store.verify()
    assert len(set(table["check"])) >= 4
    keys = list(zip(table["check"], table["id"], table["field"], strict=True))
    assert keys == sorted(keys)


@pytest.mark.data
def test_the_papers_data(paper_store: AnalysisStore, paper_data: Path) -> None:
    """Counted with pandas on the files."""
    folder = paper_data / "njsl_2025_03_03"
    annotations, datasets, scores = (
        pd.read_csv(folder / f"{name}.csv") for name in ("model_annotations", "dataset_info", "evaluation_results")
    )
    table = paper_store.verify()

    def ids(check: str, where: str) -> set[str]:
        return set(table.loc[(table["check"] == check) & (table["table"] == where), "id"])

    assert ids("orphan", "evaluation_results") == set(scores["id"]) - set(annotations["id"])
    assert ids("orphan", "model_annotations") == set(annotations["id"]) - set(scores["id"])
    assert ids("orphan", "dataset_info") == set(datasets["id"]) - set(annotations["id"])
    counts = table[table["check"] == "orphan"]["table"].value_counts().to_dict()
    assert counts == {"evaluation_results": 41, "model_annotations": 9, "dataset_info": 4}

    five = datasets.set_index("id")[[f"{PCT}{name}" for name in SHARES]].replace(-1, np.nan)
    odd = (five.notna().any(axis=1) & five.isna().any(axis=1)) | (
        five.notna().all(axis=1) & (five.sum(axis=1) - 100).abs().gt(1)
    )
    assert ids("shares", "dataset_info") == set(five.index[odd])
    assert odd.sum() == 12
    assert "meta-llama/Llama-2-70b-hf" in five.index[odd] or "meta-llama/Llama-2-70b" in five.index[odd]

    assert (table["check"] == "nan").sum() == scores["metric_value"].isna().sum() == 226
    perplexity = scores[
        (scores["metric"] == "perplexity") & ((scores["metric_value"] < 1) | (scores["metric_value"] > 1e6))
    ]
    assert sorted(table.loc[table["check"] == "range", "id"]) == sorted(perplexity["id"])

    arc = scores[(scores["setting"] == "25-shot") & (scores["metric"] == "accuracy")]
    both = set(arc.loc[arc["benchmark"] == "arc:challenge", "id"]) & set(
        arc.loc[arc["benchmark"] == "arc_challenge", "id"]
    )
    spelled = set(table.loc[(table["check"] == "alias") & (table["field"] == "benchmark"), "id"])
    assert both <= spelled
    assert len(both & set(models(paper_store, "raw", freegen=False).index)) == 24

    groups = {name: family for name, (_, family) in known_groups().items()}
    scored = scores[(scores["metric"] == "accuracy") & (scores["metric_value"] > 0)]
    scoring = {(groups.get(row.id), row.benchmark, row.setting) for row in scored.itertuples()}
    zeros = table[table["check"] == "zero"]
    zeros = zeros[zeros["id"].isin(groups)]
    assert len(zeros) > 0
    for row in zeros.itertuples():
        benchmark, setting, metric = row.field.split()
        mine = scores[
            (scores[["id", "benchmark", "setting", "metric"]] == [row.id, benchmark, setting, metric]).all(axis=1)
        ]
        assert mine["metric_value"].tolist() == [0.0]
        assert (groups[row.id], benchmark, setting) in scoring

    truthfulqa = table[(table["check"] == "missing_eval") & table["field"].str.startswith("truthfulqa ")]
    assert len(truthfulqa) == 94 - 69


# ---- what only the present layout has


def checked(**found: list[dict[str, object]]) -> Found:
    """The findings in a database of these rows, without those that say what such a small one lacks."""
    connection = duckdb.connect(":memory:", config={"threads": "1"})
    connection.execute(schema.ddl())
    connection.execute("INSERT INTO schema_version VALUES (2)")
    editor = Editor(connection, datetime.date(2025, 1, 2))
    (outcome,) = editor.add([Records(found, None)])
    assert outcome.reason is None, outcome.reason
    editor.flush()
    with AnalysisStore(Path("small.duckdb"), connection, 2) as opened:
        table = opened.verify()
    rows = table[(table["table"] != "evaluation_results") | table["check"].isin(["versions", "alias"])]
    return set(zip(rows["check"], rows["id"], rows["field"], strict=True))


def line(*parents: str | None) -> list[dict[str, object]]:
    """Models a, b, c, ... with these parents."""
    return [{"id": name, "parent": parent} for name, parent in zip("abcdef", parents, strict=False)]


@pytest.mark.parametrize(
    ("parents", "expected"),
    [
        (("b", "c", None), set()),
        (("a",), {("parent", "a", "parent")}),
        (("b", "a"), {("parent", "a", "parent"), ("parent", "b", "parent")}),
        (("b", "c", "a"), {("parent", "a", "parent"), ("parent", "b", "parent"), ("parent", "c", "parent")}),
        (("b", "c", "b"), {("parent", "b", "parent"), ("parent", "c", "parent")}),  # a only leads into the circle
        (("x/gone", "a"), {("orphan", "a", "parent")}),
        (("b", "x/gone", "x/gone"), {("orphan", "b", "parent"), ("orphan", "c", "parent")}),
    ],
)
def test_parents(parents: tuple[str | None, ...], expected: Found) -> None:
    assert checked(models=line(*parents)) == expected


@pytest.mark.parametrize(
    ("shares", "found"),
    [((60.0, 40.0), False), ((60.0, 41.0), False), ((60.0, 41.1), True), ((30.0, None), False), ((100.0, 100.0), True)],
)
def test_shares_of_a_stage(shares: tuple[float | None, ...], found: bool) -> None:
    mix = [{"id": "a", "stage": 2, "dataset": f"d{place}", "share_pct": share} for place, share in enumerate(shares)]
    other = [{"id": "a", "stage": stage, "dataset": "d0", "share_pct": 60.0} for stage in (1, 3)]
    assert checked(stage_datasets=mix + other) == ({("range", "a", "stage 2 share_pct")} if found else set())


def test_several_versions_of_a_benchmark() -> None:
    def row(
        name: str, benchmark: str, version: str | None, prompt: str | None = None, **more: object
    ) -> dict[str, object]:
        cell = {"id": name, "benchmark": benchmark, "setting": "0-shot", "metric": "accuracy", "metric_value": 0.5}
        return {**cell, "task_version": version, "prompt": prompt, **more}

    rows = [
        *(row("a", "one", "1"), row("b", "one", "1")),
        *(row("a", "two", "1"), row("b", "two", "2"), row("c", "two", None)),
        *(row("a", "prompts", "1", "p"), row("b", "prompts", "1", "q")),
        *(row("a", "settings", "1"), row("b", "settings", "2", setting="5-shot")),
        *(row("a", "metrics", "1"), row("b", "metrics", "2", metric="acc_norm")),
    ]
    found = checked(evaluation_results=rows)
    assert found == {("versions", "", "two 0-shot accuracy"), ("versions", "", "prompts 0-shot accuracy")}


def test_what_is_wrong_and_not_only_odd() -> None:
    assert set(ERRORS) == {"range", "parent"}
