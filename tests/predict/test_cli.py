"""predict.py from the command line, on a synthetic export: what it writes, resumes, refuses and says."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
QUICK = ["tasks=[hellaswag,xnli]", "seeds=[0,1]", "features=[scale,all]", "predictor.xgboost.max_depth=2", "workers=2"]
UNSET = ("NJSL_PAPER_DATA", "HYDRA_FULL_ERROR", "NETRC")
METRICS = (
    "task,setting,metric,predictor,features,cv,select,view,seed,n,n_features,mae,mae_pooled,mae_median,mae_loglinear,"
    "rel_change_vs_scale,cpu_sec"
)


def command(*words: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "predict.py"), *map(str, words)]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in UNSET and not name.startswith("WANDB_")}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


def predict(*words: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=300, check=False
    )


def files(folder: Path) -> dict[str, bytes]:
    """All files but the record, and without the one column that is a measurement of time."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    contents = {name: path.read_bytes() for name, path in found.items() if name not in ("run.json", "metrics.csv")}
    if "metrics.csv" in found:
        contents["metrics.csv"] = pd.read_csv(found["metrics.csv"]).drop(columns="cpu_sec").to_csv().encode()
    return contents


@pytest.fixture(scope="module")
def finished(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    done = predict(
        "store=folder", f"store.path={export}", *QUICK, f"hydra.run.dir={folder}", cwd=folder.parent, PYTHONHASHSEED="1"
    )
    assert done.returncode == 0, done.stderr
    assert "mean accuracy, 1 task " in done.stdout and "mean Brier, 1 task " in done.stdout
    return folder


def test_outputs(finished: Path) -> None:
    table = pd.read_csv(finished / "metrics.csv")
    assert (finished / "metrics.csv").read_text().splitlines()[0] == METRICS
    assert len(table) == 2 * 2 * 2
    scale = table[table.features == "scale"].set_index(["task", "seed"]).mae
    for row in table.itertuples():
        assert row.rel_change_vs_scale == pytest.approx(row.mae / scale[row.task, row.seed] - 1, abs=1e-12)
        assert 0 < row.mae < row.mae_median and row.cpu_sec > 0
    predicted = pd.read_parquet(finished / "predictions.parquet")
    columns = "model,org,family,task,setting,metric,predictor,features,cv,seed,fold,y,yhat,low80,high80,low90,high90"
    assert list(predicted.columns) == columns.split(",")
    ends = predicted[["low90", "low80", "yhat", "high80", "high90"]].to_numpy()
    inside = (predicted.yhat >= 0) & (predicted.yhat <= 1)
    assert inside.any() and (np.diff(ends[inside]) >= 0).all()
    # Three folds of nearly equal size: the mean of fold means, recomputed from the predictions.
    errors = predicted.assign(error=(predicted.y - predicted.yhat).abs())
    folds = (
        errors.groupby(["task", "features", "seed", "fold"]).error.mean().groupby(["task", "features", "seed"]).mean()
    )
    for row in table.itertuples():
        assert row.mae == pytest.approx(folds[row.task, row.features, row.seed], abs=1e-12)
    record = json.loads((finished / "run.json").read_text())
    assert record["state"] == "finished" and record["seeds"] == [0, 1]
    assert len(record["facts"]["database"]["sha256"]) == 64
    assert not (finished / "units").exists()
    figures = {path.name for path in (finished / "figures").iterdir()}
    stem = "xgboost__paper__all"
    assert {f"{name}__{stem}.png" for name in ("predicted", "residuals", "importances", "shap_code_pct")} <= figures
    assert {f"shap__{stem}__hellaswag.png", f"shap__{stem}__xnli.png"} <= figures


def test_shap_adds_up_and_keeps_missing_values(finished: Path) -> None:
    shap = pd.read_parquet(finished / "shap.parquet")
    predicted = pd.read_parquet(finished / "predictions.parquet")
    key = ["model", "task", "features", "seed", "fold"]
    base = predicted.set_index(key).yhat - shap.groupby(key).shap.sum()
    # One fitted model, one base value: the same for all models of a fold.
    assert base.groupby(["task", "features", "seed", "fold"]).agg(lambda rows: rows.max() - rows.min()).max() < 1e-5
    assert (shap.loc[shap.value.isna(), "shap"] != 0).any()


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for the workers in /proc")
def test_killed_and_resumed_gives_the_bytes_of_an_uninterrupted_run(
    finished: Path, export: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = command("store=folder", f"store.path={export}", *QUICK, f"hydra.run.dir={folder}")
    process = subprocess.Popen(words, cwd=tmp_path, env=environment(PYTHONHASHSEED="2"), stdout=subprocess.DEVNULL)
    wanted = random.randint(1, 7)
    deadline = time.monotonic() + 120
    while len(list(folder.glob("units/*.json"))) < wanted and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()  # the run alone: its workers have to notice
    process.wait()
    assert workers
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    done_before = len(list(folder.glob("units/*.json")))
    assert done_before >= 1, "killed before the first unit was done"
    assert not (folder / "metrics.csv").exists() or done_before == 0 or wanted == 7
    resumed = predict("store=folder", f"store.path={export}", *QUICK, f"hydra.run.dir={folder}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads((folder / "run.json").read_text())["resumed_at"]
    assert files(folder) == files(finished)


def test_a_finished_folder_prints_its_table_again_and_changes_nothing(finished: Path, export: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    again = predict("store=folder", f"store.path={export}", *QUICK, f"hydra.run.dir={finished}", cwd=finished.parent)
    assert again.returncode == 0 and "mean accuracy" in again.stdout
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_another_configuration_refuses_the_folder(finished: Path, export: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    words = ["store=folder", f"store.path={export}", *QUICK, "select=nested", f"hydra.run.dir={finished}"]
    refused = predict(*words, cwd=finished.parent)
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1 and "select: none -> nested" in refused.stderr
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_a_sweep_writes_one_comparison_table(export: Path, tmp_path: Path) -> None:
    swept = predict(
        "-m", "store=folder", f"store.path={export}", "tasks=hellaswag", "seeds=[0]", "features=[scale,arch]",
        "predictor=ridge,median", "cv=nested,leave_family_out", "explain=false",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
        cwd=tmp_path,
    )  # fmt: skip
    assert swept.returncode == 0, swept.stderr
    table = pd.read_csv(tmp_path / "sweep" / "comparison.csv")
    methods = set(table[["job", "predictor", "cv"]].itertuples(index=False, name=None))
    cells = [(predictor, cv) for predictor in ("ridge", "median") for cv in ("nested", "leave_family_out")]
    assert methods == {(job, *cell) for job, cell in enumerate(cells)}
    for row in table[table.task != "(mean)"].itertuples():
        own = pd.read_csv(tmp_path / "sweep" / str(row.job) / "metrics.csv")
        assert row.mae == pytest.approx(own.loc[own.features == row.features, "mae"].item())
    assert "predictor=ridge" in table.overrides[0] and "comparison.csv" in swept.stdout


@pytest.mark.parametrize("select", [pytest.param("paper", marks=pytest.mark.slow), "nested"])
def test_forward_selection(select: str, export: Path, tmp_path: Path) -> None:
    done = predict(
        "store=folder", f"store.path={export}", "tasks=hellaswag", "seeds=[0,1]", "features=scale", f"select={select}",
        "selection.candidates=[code_pct,dimension,biases]", "selection.seeds=[0,1]", "selection.max_steps=2",
        "predictor=ridge", "predictor.ridge.alpha=1.0", "explain=false",
        f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    chosen = pd.read_csv(tmp_path / "run" / "selection.csv")
    # The share of code is planted in the synthetic scores.
    assert "code_pct" in set(chosen.feature) and chosen.selections[0] == (1 if select == "paper" else 6)
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
    grown, scale = (metrics[metrics["select"] == name].reset_index() for name in (select, "none"))
    assert len(grown) == len(scale) == 2 and (grown.n_features > 2).all() and (scale.n_features == 2).all()
    # A grown set is compared with scale-only as it is.
    assert grown.rel_change_vs_scale.tolist() == pytest.approx((grown.mae / scale.mae - 1).tolist())
    assert (scale.rel_change_vs_scale == 0).all() and (tmp_path / "run" / "significance.csv").exists()
    columns = pd.read_parquet(tmp_path / "run" / "predictions.parquet").columns
    assert "select" not in columns and list(columns[-5:]) == ["yhat", "low80", "high80", "low90", "high90"]
    assert ("optimistic" in done.stdout) == (select == "paper")


def test_an_export_folder_alone_goes_without_the_selected_lists_and_says_so(export: Path, tmp_path: Path) -> None:
    quick = ["store=folder", f"store.path={export}", "tasks=hellaswag", "seeds=[0]", "predictor=ridge", "explain=false"]
    done = predict(*quick, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "selected is left out" in done.stdout
    assert set(pd.read_csv(tmp_path / "run" / "metrics.csv").features) == {"scale", "all"}
    asked = predict(*quick, "features=[scale,selected]", f"hydra.run.dir={tmp_path / 'asked'}", cwd=tmp_path)
    assert asked.returncode == 1 and len(asked.stderr.splitlines()) == 1
    assert "forward_generation_results_303.csv" in asked.stderr and not (tmp_path / "asked").exists()


def broken(export: Path, folder: Path, name: str, change: tuple[str, str] | None) -> Path:
    shutil.copytree(export, folder)
    if change is None:
        (folder / name).unlink()
    else:
        text = (folder / name).read_text()
        assert change[0] in text
        (folder / name).write_text(text.replace(*change, 1))
    return folder


BAD_WORDS = [
    (["tasks=helaswag"], "did you mean 'hellaswag'"),
    (["tasks=[]"], "tasks"),
    (["+sead=3"], "seeds"),
    (["seeds=[]"], "seeds"),
    (["seeds=abc"], "seeds"),
    (["predictor=xgbost"], "xgboost"),
    (["predictor.xgboost.max_dept=3"], "max_depth"),
    (["predictor.xgboost.max_depth=deep"], "max_depth"),
    (["cv=papr"], "paper"),
    (["features=[scale,alll]"], "all"),
    (["features=all", "features.all.groups=[scael]"], "scale"),
    (["features=all", "features.all.columns=[code_pc]"], "code_pct"),
    (["features=arch", "predictor=kaplan"], "ln_total_params"),
    (["select=best"], "nested"),
    (["store.view=clean"], "curated"),
    (["store=paper"], "NJSL_PAPER_DATA"),
    (["store.path=/nowhere/at/all"], "/nowhere/at/all"),
    (["predictor.xgboost._target_=os.system"], "njsl"),
    (["cv=nested", "cv.nested.encoding=natve"], "ordinal_missing"),
    (["cv.paper.folds=1"], "folds=1"),
    (["cv=extrapolate", "cv.extrapolate.below=1"], "models to train on"),
    (["workers=0"], "workers"),
    (["logger=wandb"], "logger.mode=offline"),
]


@pytest.mark.parametrize(("words", "named"), BAD_WORDS, ids=[" ".join(words) for words, _ in BAD_WORDS])
def test_a_bad_override_is_one_line_and_leaves_nothing(
    words: list[str], named: str, export: Path, tmp_path: Path
) -> None:
    given = ["store=folder", f"store.path={export}", "tasks=hellaswag", f"hydra.run.dir={tmp_path / 'run'}"]
    if "store=paper" in words:
        given.remove(f"store.path={export}")
    replaced = {word.partition("=")[0] for word in words}
    given = [word for word in given if word.partition("=")[0] not in replaced]
    # Nothing in the cache and no network: the download fails at once.
    offline = {"https_proxy": "http://127.0.0.1:9", "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    done = predict(*given, *words, cwd=tmp_path, **offline)
    assert done.returncode == 1, done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("predict.py: ") and named in lines[0], done.stderr
    assert not (tmp_path / "run").exists()


BAD_DATA = {
    "missing csv": ("dataset_info.csv", None, "dataset_info.csv"),
    "wrong type": ("model_annotations.csv", (",4096,", ",wide,"), "column"),
    "no column": ("dataset_info.csv", ("percentage_web", "percentage_wob"), "percentage_web"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_one_line_and_leaves_nothing(case: str, export: Path, tmp_path: Path) -> None:
    name, change, named = BAD_DATA[case]
    folder = broken(export, tmp_path / "export", name, change)
    done = predict(
        "store=folder", f"store.path={folder}", "tasks=hellaswag", f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and named in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()


def test_an_output_folder_that_is_a_file(export: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    done = predict(
        "store=folder", f"store.path={export}", "tasks=hellaswag", f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "file" in done.stderr
    assert (tmp_path / "run").read_text() == "mine"


def test_a_parameter_the_learner_refuses_is_one_line(export: Path, tmp_path: Path) -> None:
    words = ["tasks=hellaswag", "seeds=[0]", "features=scale", "predictor.xgboost.learning_rate=-1", "explain=false"]
    done = predict("store=folder", f"store.path={export}", *words, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "predictor xgboost on hellaswag" in done.stderr


def test_interrupt_is_one_line_and_resumable(export: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [
        "store=folder",
        f"store.path={export}",
        "seeds=[0,1,2,3]",
        "features=[scale,all]",
        f"hydra.run.dir={folder}",
    ]
    process = subprocess.Popen(
        command(*words), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while len(list(folder.glob("units/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.splitlines()[-1] == "predict.py: interrupted", said
    assert "Traceback" not in said
    record = json.loads((folder / "run.json").read_text())
    assert record["exit_reason"] == "interrupted" and len(list(folder.glob("units/*.json"))) >= 2


def test_wandb_offline_keeps_the_run_in_the_folder(export: Path, tmp_path: Path) -> None:
    words = ["tasks=hellaswag", "seeds=[0]", "features=scale", "predictor=ridge", "logger=wandb", "logger.mode=offline"]
    done = predict("store=folder", f"store.path={export}", *words, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    body = record.read_bytes()
    assert b"paper/ridge/scale/hellaswag/mae" in body and b"predicted__ridge__paper__scale" in body


def test_full_errors_on_request(export: Path, tmp_path: Path) -> None:
    done = predict("store=folder", f"store.path={export}", "tasks=nothing", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert done.returncode == 1 and "Traceback" in done.stderr and "ConfigError" in done.stderr
