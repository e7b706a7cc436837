"""predict.py on a population of own small models: its defaults, what it says of the data, what it finds in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from populations import CORPORA, POINTS, REPEATS, SWITCHES, write

from njsl.core import config
from njsl.predict.decisions import decisions, model_facts
from njsl.predict.splits import FamilyFolds
from njsl.store import AnalysisStore
from njsl.store.metrics import METRICS, hundredths
from njsl.store.population import described
from njsl.store.store import MICRO
from njsl.store.tasks import find_tasks
from njsl.store.views import TaskFrame, task_frames

ROOT = Path(__file__).parents[2]
MODELS = POINTS + 2 * REPEATS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("micro") / "export")


@pytest.fixture(scope="module")
def population(folder: Path) -> Iterator[AnalysisStore]:
    with AnalysisStore.from_existing(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def frame(population: AnalysisStore) -> TaskFrame:
    (found,) = task_frames(population, "raw", find_tasks("code_bpb"), freegen=False)
    return found


def composed(*words: str) -> DictConfig:
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("predict", overrides=["paths.output=x", *words])


def chosen(*words: str) -> tuple[str, object, list[str], list[str], list[int]]:
    cfg = composed(*words)
    return cfg.store.name, cfg.tasks, list(cfg.features), list(cfg.cv), list(cfg.seeds)


def test_a_store_brings_its_defaults_and_the_command_line_wins() -> None:
    paper = ["scale", "all", "selected"]
    assert chosen() == ("micro", "micro", ["scale", "all_tied"], ["family_folds"], [0])
    assert chosen("store=paper") == ("paper", "core", paper, ["paper"], [0, 1, 2, 3, 4])
    assert chosen("store=folder") == ("folder", "core", paper, ["paper"], [0, 1, 2, 3, 4])
    words = ["tasks=lambada", "features=all", "cv=nested", "seeds=[7]"]
    for store in ("micro", "paper"):
        assert chosen(f"store={store}", *words) == (store, "lambada", ["all"], ["nested"], [7])
    honest = chosen("experiment=honest")
    assert honest[0] == "paper" and honest[3] == ["nested", "leave_family_out", "leave_org_out"]
    assert chosen("experiment=honest", "store=micro", "cv=family_folds")[::3] == ("micro", ["family_folds"])


def test_described(population: AnalysisStore) -> None:
    models, switched = described(population, "raw")
    assert models.startswith(f"{MODELS} models of {POINTS} configurations: 3 sizes of 0.1 to 0.93 million parameters")
    assert "4 budgets of 0.15 to 1.5 million tokens" in models and "code 0 to 100 %" in models
    assert all(name in switched for name in SWITCHES)
    assert switched.endswith(f"several seeds: 2 configurations, {REPEATS + 1} each")


def test_the_papers_database_is_described_by_nobody(store: AnalysisStore) -> None:
    assert described(store, "raw") == []


def test_columns_that_do_not_vary_or_are_not_told_are_there(frame: TaskFrame) -> None:
    features = frame.features
    assert len(frame.y) == MODELS and set(frame.org) == {"micro"} and len(set(frame.family)) == POINTS
    assert features["english_pct"].isna().all() and (features["books_pct"] == 0).all()
    assert features["sequence_length"].nunique() == features["attention_variant"].nunique() == 1
    assert set(features["weight_tying"]) == {0.0, 1.0}


@pytest.mark.parametrize("seed", [0, 1])
def test_family_folds_keep_families_whole_inside_and_outside(frame: TaskFrame, seed: int) -> None:
    cv = FamilyFolds(folds=5, inner_folds=3)
    outer = cv.outer(frame, seed)
    assert sorted(np.concatenate([fold.test for fold in outer])) == list(range(MODELS))
    for fold in outer:
        assert not set(frame.family[fold.train]) & set(frame.family[fold.test])
        for fit, score in cv.inner(frame, fold.train, seed):
            assert sorted([*fit, *score]) == list(range(len(fold.train)))
            assert not set(frame.family[fold.train[fit]]) & set(frame.family[fold.train[score]])
    other = {tuple(fold.test) for fold in cv.outer(frame, seed + 1)}
    assert other != {tuple(fold.test) for fold in outer}


def test_less_bits_win_and_one_organisation_is_drawn_by_family(frame: TaskFrame) -> None:
    """Predictions are the truth itself: every pair is decided right, and the interval over families is a point."""
    names = {
        "task": "code_bpb",
        "metric": "bits_per_byte",
        "predictor": "p",
        "features": "f",
        "cv": "c",
        "select": "none",
    }
    rows = {"model": frame.ids, "org": frame.org, "family": frame.family, "seed": 0, "fold": "0", "y": frame.y}
    table = pd.DataFrame({**rows, **names, "yhat": frame.y})
    right = decisions(table, model_facts([frame])).set_index(["task", "scope"]).loc[("code_bpb", "all")]
    assert (right["accuracy"], right["accuracy_low"], right["accuracy_high"]) == (1.0, 1.0, 1.0)
    wrong = decisions(table.assign(yhat=-frame.y), model_facts([frame])).set_index(["task", "scope"])
    lost = wrong.loc[("code_bpb", "all")]
    assert lost["accuracy"] == 0.0 and lost["regret_best"] == pytest.approx(frame.y.max() - frame.y.min())


def test_a_hundredth_has_a_name() -> None:
    assert hundredths(["accuracy", "brier_score"]) == "points"
    assert hundredths(["bits_per_byte", "accuracy", "bits_per_byte"]) == "0.01 bits/byte, points"
    assert METRICS["bits_per_byte"].remark == " (bits per byte, lower is better)" and METRICS["top1"].remark == ""


def predict(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "NJSL_PAPER_DATA"}
    command = [sys.executable, str(ROOT / "predict.py"), *map(str, words)]
    return subprocess.run(command, cwd=cwd, env={**kept, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Ridge, whose Shapley values are exact and cost nothing, on three tasks of three metrics."""
    output = tmp_path_factory.mktemp("run") / "run"
    words = ["predictor=ridge", "tasks=[code_bpb,prose_bpb,code_top1,code_last_word]", f"hydra.run.dir={output}"]
    done = predict(f"store.path={folder}", *words, cwd=output.parent)
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def test_the_table_says_what_the_data_are(finished: tuple[Path, str]) -> None:
    _, said = finished
    lines = said.splitlines()
    assert lines[0].startswith("store: ") and lines[1].startswith(f"{MODELS} models of {POINTS} configurations")
    for name, count in (("bits per byte", "2 tasks"), ("top-1 accuracy", "1 task"), ("accuracy", "1 task")):
        assert f"mean {name}, {count}" in said
    assert "A point of bits per byte is a hundredth of a bit per byte." in said


def test_design_beats_scale_where_the_truth_says_so(finished: tuple[Path, str]) -> None:
    output, _ = finished
    summary = pd.read_csv(output / "summary.csv").set_index(["task", "features"])
    for task in ("code_bpb", "prose_bpb"):
        row = summary.loc[(task, "all_tied")]
        assert row["n"] == MODELS and row["rel_change_high"] < -0.3
        assert summary.loc[(task, "scale"), "mae"] < summary.loc[(task, "scale"), "mae_median"]
    # The truth: sqrt(share of code) lowers bits per byte of code; at more code there is less prose.
    shap = pd.read_parquet(output / "shap.parquet")
    code = shap[(shap["feature"] == "code_pct") & (shap["features"] == "all_tied")]
    slope = {task: np.polyfit(rows["value"], rows["shap"], 1)[0] for task, rows in code.groupby("task")}
    assert slope["code_bpb"] < 0 < slope["prose_bpb"] and slope["code_top1"] > 0


def test_every_table_and_figure_is_there(finished: tuple[Path, str]) -> None:
    output, _ = finished
    coverage = pd.read_csv(output / "coverage.csv")
    of_tasks = coverage[coverage["scope"] == "task"]
    assert of_tasks[["coverage_low", "coverage_high"]].notna().all(axis=None)
    predicted = pd.read_parquet(output / "predictions.parquet")
    bits = predicted[predicted["metric"] == "bits_per_byte"]
    assert (bits["high90"] > 1).all() and np.isfinite(bits[["low90", "high90"]]).all(axis=None)
    names = {path.name for path in (output / "figures").iterdir()}
    assert {"predicted__ridge__family_folds__all_tied.png", "change_points.png"} <= names
    record = json.loads((output / "run.json").read_text())
    assert record["state"] == "finished" and set(record["facts"]["models"].values()) == {MODELS}


PREDICTORS = sorted(path.stem for path in (ROOT / "conf" / "predictor").glob("*.yaml") if path.stem != "tabpfn")


@pytest.mark.slow
def test_every_predictor_runs_and_beats_the_median(folder: Path, tmp_path: Path) -> None:
    words = [f"predictor=[{','.join(PREDICTORS)}]", "tasks=[code_bpb,code_last_word]", "explain=false"]
    done = predict(f"store.path={folder}", *words, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "run" / "metrics.csv")
    rest = table[(table["predictor"] != "median") & (table["task"] == "code_bpb")]
    assert (rest["mae"] < rest["mae_median"]).all() and np.isfinite(table["mae"]).all()


def test_a_plan_among_models_of_one_organisation(folder: Path, tmp_path: Path) -> None:
    mix = "web_pct: 25, code_pct: 50, books_pct: 0, reference_pct: 25, academic_pct: 0"
    (tmp_path / "plan.yaml").write_text(
        f"name: next\narchitecture: {{total_params: 1000000}}\npretraining: {{total_tokens_billions: 0.001, {mix}}}\n"
    )
    words = ["mode=whatif", "plan.file=plan.yaml", "predictor=ridge", "predictor.ridge.alpha=1.0", "tasks=[code_bpb]"]
    words += [f"paths.cache={tmp_path / 'cache'}", "vary.code_pct=[0,40,20]", f"plan.ledger={tmp_path / 'plans.jsonl'}"]
    done = predict(f"store.path={folder}", *words, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "expected scores [0.01 bits/byte], ridge" in done.stdout
    assert f"a family never seen, from predictions of n = {MODELS} known models" in done.stdout


shipped = pytest.mark.skipif(not MICRO.exists(), reason="njsl/store/data/micro is not there")


@shipped
def test_the_shipped_population() -> None:
    """At least 64 models, 3 sizes and 4 budgets ten times apart, 8 mixes of 0 to 100 % code, 4 switches, 3 seeds."""
    with AnalysisStore.open("micro") as store:
        frames = task_frames(store, "raw", find_tasks("micro"), freegen=False)
        facts, shares = store.models(), store.table("stage_datasets")
    assert len(frames) >= 8
    for frame in frames:
        assert len(frame.y) >= 64 and set(frame.org) == {"micro"}
    features = frames[0].features
    own = facts["total_params"] - facts["embedding_params"]
    assert len(facts[["dimension", "num_layers"]].drop_duplicates()) >= 3 and own.max() >= 10 * own.min()
    tokens = features["total_tokens_billions"]
    assert tokens.map(lambda value: float(f"{value:.1e}")).nunique() >= 4
    assert tokens.max() >= 9.9 * tokens.min()  # whole batches: the last one is cut short
    assert (features["code_pct"].min(), features["code_pct"].max()) == (0, 100)
    mixes = shares.pivot_table(index="id", columns="dataset", values="share_pct").fillna(0).round().drop_duplicates()
    assert len(mixes) >= 8
    assert set(shares["dataset"]) == set(CORPORA)
    assert sum(features[name].nunique() > 1 for name in SWITCHES) >= 4
    assert pd.Series(frames[0].family).value_counts().max() >= 3


@shipped
@pytest.mark.slow
def test_no_argument_at_all_runs_on_it_offline(tmp_path: Path) -> None:
    done = predict(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("store: micro (ships with njsl), view raw\n") and "mean bits per byte" in done.stdout
