"""The frames that regressions read: who is in, which label, which value is missing, and who belongs to whom."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from export import CATEGORIES, tables, write

from njsl.core.types import DataError, StoreError
from njsl.store import AnalysisStore
from njsl.store.overlay import Overlay, curated
from njsl.store.tasks import find_tasks, task_table
from njsl.store.views import FLAGS, TaskFrame, known_groups, models, owner, task_frames

BENCHMARKS = {
    "arc_challenge": ["arc_challenge"],
    "hellaswag": ["hellaswag"],
    "mmlu_0-shot": ["mmlu_*"],
    "mmlu_5-shot": ["mmlu_*"],
    "truthfulqa": ["truthfulqa_mc1", "truthfulqa_mc2"],
    "winogrande": ["winogrande"],
    "lambada": ["lambada_openai", "lambada_standard"],
    "gsm8k": ["gsm8k", "gsm8k_cot"],
    "humaneval": ["humaneval"],
    "anli": ["anli_r1", "anli_r2", "anli_r3"],
    "logiqa2": ["logiqa2"],
    "xnli": ["xnli_*"],
    "mathqa": ["mathqa"],
}
# Models with a label per task on the paper's data; the README has the same table.
COUNTS = {
    "raw": [92, 92, 92, 92, 69, 92, 92, 92, 91, 82, 82, 82, 82],
    "curated": [94, 94, 90, 92, 94, 94, 92, 94, 81, 82, 82, 82, 82],
}
NUMBERS = {  # names in frames: table and column of the export
    "total_params": ("model_annotations", "total_params"),
    "dimension": ("model_annotations", "dimension"),
    "num_heads": ("model_annotations", "num_heads"),
    "mlp_ratio": ("model_annotations", "mlp_ratio"),
    "sequence_length": ("model_annotations", "sequence_length"),
    "total_tokens_billions": ("dataset_info", "pretraining_summary_total_tokens_billions"),
    **{
        f"{name}_pct": ("dataset_info", f"pretraining_summary_percentage_{name}")
        for name in ("web", "code", "books", "reference", "academic", "english")
    },
}

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def frames(store: AnalysisStore, view: str, tasks: object = "core", freegen: bool = False) -> dict[str, TaskFrame]:
    return {frame.task.key.task: frame for frame in task_frames(store, view, find_tasks(tasks), freegen=freegen)}


def eligible(export: Path) -> list[str]:
    """Ids with parameters and tokens that are not marked as instruction-tuned, sorted."""
    tokens = {row["id"]: row["pretraining_summary_total_tokens_billions"] for row in read(export / "dataset_info.csv")}
    return sorted(
        row["id"]
        for row in read(export / "model_annotations.csv")
        if row["is_instruction_tuned"] != "true"
        and row["total_params"] not in ("", "-1")
        and tokens.get(row["id"], "") not in ("", "-1.0")
    )


def labels_by_hand(rows: Iterable[Row], name: str, setting: str, metric: str) -> dict[str, float]:
    """The paper's labels: old spellings renamed, the first row of the file wins, the mean over what is there."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        benchmark = row["benchmark"].replace("hendrycksTest-", "mmlu_").replace("arc:challenge", "arc_challenge")
        if (
            row["setting"] == setting
            and row["metric"] == metric
            and any(fnmatchcase(benchmark, p) for p in BENCHMARKS[name])
        ):
            value = float(row["metric_value"]) if row["metric_value"] else np.nan
            found.setdefault(row["id"], {}).setdefault(benchmark, value)
    means = {
        identity: float(np.mean([v for v in scores.values() if v == v] or [np.nan]))
        for identity, scores in found.items()
    }
    return {identity: mean for identity, mean in means.items() if mean == mean}


# ---- the raw view of the synthetic export, against an independent reading of its files


@pytest.mark.parametrize("name", BENCHMARKS)
def test_raw_labels(store: AnalysisStore, export: Path, name: str) -> None:
    task = task_table()[name]
    expected = labels_by_hand(read(export / "evaluation_results.csv"), name, task.key.setting, task.key.metric)
    frame = frames(store, "raw", name)[name]
    assert list(frame.ids) == [identity for identity in eligible(export) if identity in expected]
    assert frame.y == pytest.approx([expected[identity] for identity in frame.ids], abs=1e-12)


def test_first_row_of_the_file_wins_in_raw_and_the_new_spelling_in_curated(store: AnalysisStore, export: Path) -> None:
    rows = [
        row
        for row in read(export / "evaluation_results.csv")
        if (row["setting"], row["metric"]) == ("25-shot", "accuracy")
    ]
    raw, clean = (
        frames(store, "raw", "arc_challenge")["arc_challenge"],
        frames(store, "curated", "arc_challenge")["arc_challenge"],
    )
    old_first = 0
    for identity, y, y_clean in zip(raw.ids, raw.y, clean.y, strict=True):
        mine = [row for row in rows if row["id"] == identity and row["benchmark"] in ("arc:challenge", "arc_challenge")]
        new = [row for row in mine if row["benchmark"] == "arc_challenge"] or mine
        assert (y, y_clean) == (float(mine[0]["metric_value"]), float(new[0]["metric_value"]))
        old_first += y != y_clean
    assert 0 < old_first < len(raw.y) // 4  # both orders occur among the models that have both


def test_features_keep_what_is_missing(store: AnalysisStore, export: Path) -> None:
    files = {
        name: {row["id"]: row for row in read(export / f"{name}.csv")} for name in ("model_annotations", "dataset_info")
    }
    base = models(store, "raw", freegen=False)
    assert list(base.index) == eligible(export)
    for name, (table, column) in NUMBERS.items():
        texts = [files[table].get(identity, {}).get(column, "") for identity in base.index]
        expected = [np.nan if text in ("", "-1", "-1.0") else float(text) for text in texts]
        np.testing.assert_array_equal(base[name].to_numpy(), expected, err_msg=name)
    for name in CATEGORIES:
        texts = [files["model_annotations"][identity][name] for identity in base.index]
        assert [None if pd.isna(value) else value for value in base[name]] == [text or None for text in texts]
        assert list(base[name].cat.categories) == sorted({text for text in texts if text})


def test_who_is_a_base_model(store: AnalysisStore) -> None:
    """Neither spelling of a missing count is a count; a model that is not marked counts as a base model."""
    base = models(store, "raw", freegen=False)
    assert not {"acme/model-0", "boreal/model-1", "cobalt/model-2"} & set(
        base.index
    )  # tokens NULL, tokens -1, params NULL
    assert not {"delta/model-3", "ember/model-4"} & set(base.index)  # instruction-tuned
    assert "model-5" in base.index  # not marked, and without any evaluation
    assert "boreal/model-7" in base.index and np.isnan(base.loc["boreal/model-7", "web_pct"])
    assert base[["total_params", "total_tokens_billions"]].notna().all(axis=None)
    assert len(base) == 42  # of 48: three without a count, two tuned, and model-6 without a data composition


def test_a_parameter_count_of_minus_one_is_missing(tmp_path: Path) -> None:
    annotations = tables()["model_annotations"]
    annotations.loc[annotations["id"] == "EleutherAI/gpt-neox-20b", "total_params"] = -1
    with AnalysisStore.from_existing(write(tmp_path, model_annotations=annotations)) as opened:
        assert "EleutherAI/gpt-neox-20b" not in models(opened, "raw", freegen=False).index


def test_groups_of_known_and_unknown_models(store: AnalysisStore) -> None:
    base = models(store, "raw", freegen=False)
    assert base.loc["Qwen/Qwen2.5-3B", ["org", "family"]].tolist() == ["Qwen", "qwen-2.5"]
    assert base.loc["EleutherAI/pythia-70m", ["org", "family"]].tolist() == ["EleutherAI", "pythia"]
    assert base.loc["boreal/model-7", ["org", "family"]].tolist() == ["boreal", "boreal"]
    assert base.loc["model-5", ["org", "family"]].tolist() == ["(none)", "(none)"]
    assert (base["org"].nunique(), base["family"].nunique()) == (8, 12)
    assert owner("llama2_220M_nl_0_code_100") == "(none)" and owner("a/b") == "a"


def test_free_generation_features_are_joined_by_id(store: AnalysisStore) -> None:
    base = models(store, "raw", freegen=True)
    with store.freegen.open(newline="") as file:  # type: ignore[union-attr]
        rows = {row["id"]: row for row in csv.DictReader(file)}
    columns = [name for name in base if name.startswith("freegen_")]
    assert len(columns) == 61
    for identity in base.index:
        row = rows.get(identity, dict.fromkeys(columns, ""))
        expected = [float(row[name]) if row[name] else np.nan for name in columns]
        np.testing.assert_array_equal(base.loc[identity, columns].to_numpy(float), expected)
    assert base[columns].isna().all(axis=1).sum() == len(set(base.index) - set(rows)) > 0


def test_free_generation_features_asked_for_but_absent(export: Path) -> None:
    with AnalysisStore.from_existing(export) as opened, pytest.raises(DataError, match=r"ratios.csv"):
        task_frames(opened, "raw", find_tasks("hellaswag"), freegen=True)


@pytest.mark.parametrize(("kept", "refused"), [(29, True), (30, False)])
def test_fewer_than_thirty_models(tmp_path: Path, export: Path, kept: int, refused: bool) -> None:
    scores = tables()["evaluation_results"]
    names = eligible(export)
    labelled = [name for name in names if name != "model-5"]
    lose = (scores["benchmark"] == "humaneval") & scores["id"].isin(labelled[kept:])
    with AnalysisStore.from_existing(write(tmp_path / "few", evaluation_results=scores[~lose])) as opened:
        if refused:
            with pytest.raises(DataError, match=r"task humaneval \(0-shot, accuracy\): 29 models .*at least 30"):
                task_frames(opened, "raw", find_tasks(["hellaswag", "humaneval"]), freegen=False)
        else:
            assert len(frames(opened, "raw", "humaneval")["humaneval"].y) == 30


# ---- the curated view of the synthetic export


def test_curated_has_one_definition_for_all(store: AnalysisStore, export: Path) -> None:
    rows = read(export / "evaluation_results.csv")
    found = frames(store, "curated")
    raw = frames(store, "raw")
    gsm8k = {row["id"]: float(row["metric_value"]) for row in rows if row["benchmark"] == "gsm8k"}
    assert found["gsm8k"].y == pytest.approx([gsm8k[identity] for identity in found["gsm8k"].ids], abs=1e-12)
    assert np.abs(raw["gsm8k"].y - found["gsm8k"].y).max() == pytest.approx(0.02)  # CoT is planted 0.04 above
    languages: dict[str, list[float]] = {}
    for row in rows:
        if row["benchmark"].startswith("xnli_") and row["benchmark"] != "xnli_eu" and row["metric_value"]:
            languages.setdefault(row["id"], []).append(float(row["metric_value"]))
    assert found["xnli"].y == pytest.approx([np.mean(languages[identity]) for identity in found["xnli"].ids], abs=1e-12)
    assert len(found["truthfulqa"].y) == 41 > len(raw["truthfulqa"].y)
    names = {"truthfulqa_mc1", "truthfulqa_mc2", "truthfulqa:mc"}
    both = {}
    for row in rows:
        if row["benchmark"] in names and row["metric"] in ("accuracy", "mc1", "mc2"):
            both.setdefault(row["id"], []).append(float(row["metric_value"]))
    assert found["truthfulqa"].y == pytest.approx(
        [np.mean(both[identity]) for identity in found["truthfulqa"].ids], abs=1e-12
    )


def test_an_alias_loses_against_the_annotated_id_and_fills_where_that_has_nothing(tmp_path: Path) -> None:
    scores = tables()["evaluation_results"]
    own = (scores["id"] == "EleutherAI/pythia-410m") & (scores["benchmark"] == "winogrande")
    alias = (scores["id"] == "EleutherAI/pythia-410M") & (scores["benchmark"] == "winogrande")
    scores = pd.concat([scores[alias], scores[~alias]])  # first in the file, and still it loses
    own = own[scores.index]
    with AnalysisStore.from_existing(write(tmp_path / "both", evaluation_results=scores)) as opened:
        frame = frames(opened, "curated", "winogrande")["winogrande"]
        assert (
            frame.y[list(frame.ids).index("EleutherAI/pythia-410m")] == scores.loc[own, "metric_value"].item() != 0.61
        )
    with AnalysisStore.from_existing(write(tmp_path / "alone", evaluation_results=scores[~own])) as opened:
        frame = frames(opened, "curated", "winogrande")["winogrande"]
        assert frame.y[list(frame.ids).index("EleutherAI/pythia-410m")] == 0.61
        assert "EleutherAI/pythia-410m" not in frames(opened, "raw", "winogrande")["winogrande"].ids


def test_curated_wants_every_benchmark_and_raw_takes_what_is_there(tmp_path: Path) -> None:
    scores = tables()["evaluation_results"]
    gone = (scores["id"] == "Qwen/Qwen2-72B") & (scores["benchmark"] == "lambada_standard")
    rest = (
        (scores["id"] == "Qwen/Qwen2-72B")
        & (scores["benchmark"] == "lambada_openai")
        & (scores["metric"] == "accuracy")
    )
    with AnalysisStore.from_existing(write(tmp_path, evaluation_results=scores[~gone])) as opened:
        raw = frames(opened, "raw", "lambada")["lambada"]
        assert raw.y[list(raw.ids).index("Qwen/Qwen2-72B")] == scores.loc[rest, "metric_value"].item()
        assert set(raw.ids) - set(frames(opened, "curated", "lambada")["lambada"].ids) == {"Qwen/Qwen2-72B"}


def test_corrections_apply_only_to_the_value_they_were_reviewed_against(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    annotations = tables()["model_annotations"].set_index("id")
    annotations.loc["EleutherAI/pythia-70m", "total_params"] = 95592496  # what the published database says
    annotations.loc["EleutherAI/pythia-160m", "total_params"] = 123
    with AnalysisStore.from_existing(write(tmp_path, model_annotations=annotations.reset_index())) as opened:
        raw, clean = models(opened, "raw", freegen=False), models(opened, "curated", freegen=False)
        assert raw.loc["EleutherAI/pythia-70m", "total_params"] == 95592496
        assert clean.loc["EleutherAI/pythia-70m", "total_params"] == 70426624
        assert clean.loc["EleutherAI/pythia-160m", "total_params"] == 123
    assert "corrections do not apply to this database's model_annotations" in caplog.text


# ---- the overlay itself


def test_every_correction_says_why_and_from_where() -> None:
    entries = curated()
    assert set(entries) == {"model_aliases", "benchmark_aliases", "labels", "scores", "values", "flags"}
    for section in ("model_aliases", "benchmark_aliases", "labels", "scores", "values"):
        assert entries[section]
        for entry in entries[section]:
            assert {"field", "old", "new", "reason", "source"} <= set(entry), entry
            assert len(entry["reason"]) > 20 and len(entry["source"]) > 10, entry
            assert entry["old"] != entry["new"], entry
    for entry in entries["flags"]:
        assert "new" not in entry and entry["reason"], entry


def test_no_value_is_corrected_twice() -> None:
    places = [(entry["table"], entry["id"], entry["field"]) for entry in curated()["values"]]
    assert len(places) == len(set(places))


def test_families_are_within_orgs() -> None:
    groups = known_groups()
    orgs: dict[str, set[str]] = {}
    for org, family in groups.values():
        orgs.setdefault(family, set()).add(org)
    assert {family: names for family, names in orgs.items() if len(names) > 1} == {}
    assert groups["huggyllama/llama-7b"] == ("meta-llama", "llama-1")
    assert groups["AbacusResearch/Jallabi-34B"] == groups["01-ai/Yi-34B"] == ("01-ai", "yi")
    assert groups["NousResearch/Nous-Hermes-2-Yi-34B"] == ("01-ai", "yi")


# ---- the paper's data


@pytest.fixture(scope="module")
def paper_frames(paper_store: AnalysisStore) -> dict[str, dict[str, TaskFrame]]:
    return {view: frames(paper_store, view, freegen=True) for view in COUNTS}


@pytest.mark.data
@pytest.mark.parametrize("name", BENCHMARKS)
def test_raw_is_the_papers_rows(paper_data: Path, paper_frames: dict[str, dict[str, TaskFrame]], name: str) -> None:
    expected = [row for row in read(paper_data / "paper_rows.csv") if row["task"] == name]
    frame = paper_frames["raw"][name]
    assert [(row["setting"], row["metric"]) for row in expected[:1]] == [
        (frame.task.key.setting, frame.task.key.metric)
    ]
    assert list(frame.ids) == [row["id"] for row in expected]
    assert np.abs(frame.y - [float(row["label"]) for row in expected]).max() < 1e-6


@pytest.mark.data
@pytest.mark.parametrize("view", COUNTS)
def test_models_per_task(paper_frames: dict[str, dict[str, TaskFrame]], view: str) -> None:
    assert {name: len(frame.y) for name, frame in paper_frames[view].items()} == dict(
        zip(BENCHMARKS, COUNTS[view], strict=True)
    )


@pytest.mark.data
def test_papers_base_models(paper_store: AnalysisStore, paper_data: Path) -> None:
    folder = paper_data / "njsl_2025_03_03"
    base = models(paper_store, "raw", freegen=True)
    assert list(base.index) == eligible(folder)
    assert len(base) == 94
    annotations = {row["id"]: row for row in read(folder / "model_annotations.csv")}
    assert sum(annotations[identity]["is_instruction_tuned"] == "" for identity in base.index) == 14
    freegen = [name for name in base if name not in (*NUMBERS, *CATEGORIES, *FLAGS, "org", "family")]
    assert len(freegen) == 61
    assert base[freegen].notna().any(axis=1).sum() == 89
    assert base[freegen].isna().all().sum() == 8  # the columns that are wholly empty as published
    files = {
        name: {row["id"]: row for row in read(folder / f"{name}.csv")} for name in ("model_annotations", "dataset_info")
    }
    for name, (table, column) in NUMBERS.items():
        texts = [files[table].get(identity, {}).get(column, "") for identity in base.index]
        expected = [np.nan if not text or float(text) == -1 else float(text) for text in texts]
        np.testing.assert_array_equal(base[name].to_numpy(), expected, err_msg=name)


@pytest.mark.data
def test_21_orgs_on_the_models_with_accuracy_rows(paper_store: AnalysisStore, paper_data: Path) -> None:
    scored = {
        row["id"]
        for row in read(paper_data / "njsl_2025_03_03" / "evaluation_results.csv")
        if row["metric"] == "accuracy"
    }
    base = models(paper_store, "raw", freegen=False)
    scored &= set(base.index)
    assert len(scored) == 92
    assert base.loc[sorted(scored), "org"].nunique() == 21
    assert set(base.index) <= set(known_groups())
    ownerless = [identity for identity in scored if "/" not in identity]
    assert len(ownerless) == 5
    assert base.loc[ownerless, "org"].nunique() == 1


@pytest.mark.data
def test_curated_brings_models_back(paper_frames: dict[str, dict[str, TaskFrame]]) -> None:
    raw, clean = paper_frames["raw"], paper_frames["curated"]
    llama = "meta-llama/Llama-2-7b"
    assert all(llama not in frame.ids for frame in raw.values())
    assert {name for name, frame in clean.items() if llama in frame.ids} >= {
        "arc_challenge",
        "hellaswag",
        "mmlu_5-shot",
        "truthfulqa",
    }
    assert len(clean["truthfulqa"].y) >= 92
    assert not {"LLM360/CrystalCoder", "cerebras/Cerebras-GPT-13B"} & set(clean["lambada"].ids)
    assert {"LLM360/CrystalCoder", "cerebras/Cerebras-GPT-13B"} <= set(raw["lambada"].ids)
    hellaswag = clean["hellaswag"].features
    assert hellaswag.loc["cerebras/Cerebras-GPT-1.3B", "total_tokens_billions"] == 26.3
    assert raw["hellaswag"].features.loc["cerebras/Cerebras-GPT-1.3B", "total_tokens_billions"] == 371
    assert "silu" in raw["hellaswag"].features["activation"].cat.categories
    assert "silu" not in hellaswag["activation"].cat.categories


@pytest.mark.data
def test_every_correction_meets_the_value_it_names(paper_data: Path) -> None:
    folder = paper_data / "njsl_2025_03_03"
    files = {
        name: {row["id"]: row for row in read(folder / f"{name}.csv")} for name in ("model_annotations", "dataset_info")
    }
    for entry in curated()["values"]:
        text = files[entry["table"]][entry["id"]][entry["field"]]
        if isinstance(entry["old"], (int, float)):
            assert float(text) == pytest.approx(entry["old"], rel=1e-9), entry
        else:
            assert text == (entry["old"] or ""), entry
    rows = read(folder / "evaluation_results.csv")
    scored: dict[str, list[Row]] = {}
    for row in rows:
        scored.setdefault(row["id"], []).append(row)
    for entry in curated()["scores"]:
        named = [name for name in ("benchmark", "setting", "metric") if name in entry and name != entry["field"]]
        mine = [row for row in scored[entry["id"]] if all(fnmatchcase(row[name], entry[name]) for name in named)]
        assert mine, entry
        if entry["old"] != "*" and entry["field"] == "metric_value":
            assert [float(row["metric_value"]) for row in mine] == [pytest.approx(entry["old"], rel=1e-9)], entry
    for entry in curated()["model_aliases"]:
        assert any(fnmatchcase(identity, entry["old"]) for identity in scored), entry
        assert entry["new"] in files["model_annotations"], entry


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "old", "new", "table", "place"),
    [
        (
            "dataset_info.csv",
            "cerebras/Cerebras-GPT-13B,371.0",
            "cerebras/Cerebras-GPT-13B,257.0",
            "dataset_info",
            "Cerebras-GPT-13B",
        ),
        (
            "evaluation_results.csv",
            "0.013778381525325054",
            "0.5",
            "evaluation_results",
            "Cerebras-GPT-13B/lambada_openai",
        ),
    ],
)
def test_a_correction_that_meets_another_value_is_an_error(
    paper_data: Path, tmp_path: Path, file: str, old: str, new: str, table: str, place: str
) -> None:
    folder = tmp_path / "export"
    shutil.copytree(paper_data / "njsl_2025_03_03", folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    body = (folder / file).read_text()
    assert old in body
    (folder / file).write_text(body.replace(old, new))
    with AnalysisStore.from_existing(folder, published=True) as opened:
        with pytest.raises(StoreError, match=rf"does not fit {table}: 1 corrections meet another value.*{place}"):
            task_frames(opened, "curated", find_tasks("lambada"), freegen=False)
        assert len(frames(opened, "raw", "lambada")["lambada"].y) == 92
    with AnalysisStore.from_existing(folder) as opened:
        assert len(frames(opened, "curated", "hellaswag")["hellaswag"].y) == 94


@pytest.mark.data
def test_curated_labels_are_complete(paper_store: AnalysisStore, paper_frames: dict[str, dict[str, TaskFrame]]) -> None:
    """Every label is a mean over the same number of benchmarks: 57 subjects, 15 languages and so on."""
    sizes = dict.fromkeys(BENCHMARKS, 1) | {
        "mmlu_0-shot": 57,
        "mmlu_5-shot": 57,
        "xnli": 15,
        "anli": 3,
        "lambada": 2,
        "truthfulqa": 2,
    }
    overlay = Overlay.load("curated")
    scores = overlay.scores(paper_store.table("evaluation_results"), strict=True).dropna(subset="metric_value")
    for name, frame in paper_frames["curated"].items():
        key, wanted = frame.task.key, overlay.definition(frame.task)
        rows = scores[
            (scores["setting"] == key.setting) & (scores["metric"] == key.metric) & scores["id"].isin(frame.ids)
        ]
        rows = rows[[any(fnmatchcase(benchmark, pattern) for pattern in wanted) for benchmark in rows["benchmark"]]]
        assert set(rows.groupby("id")["benchmark"].nunique()) == {sizes[name]}, name
        assert frame.y == pytest.approx(rows.groupby("id")["metric_value"].mean()[frame.ids].to_numpy(), abs=1e-12)
