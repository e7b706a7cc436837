"""Plans from the command line: what a first and a second call say, what is refused, and what start-up does not load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from njsl.predict import ledger

ROOT = Path(__file__).parents[2]
UNSET = ("NJSL_PAPER_DATA", "NJSL_CACHE", "HYDRA_FULL_ERROR", "NETRC")
# Imports that a plan never needs, and matplotlib, which only figures need.
SPY = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    unwanted = {"torch", "lightning", "shap", "matplotlib", "duckdb", "wandb", "optuna"}
    print("loaded:", *sorted(unwanted & sys.modules.keys()))
"""


def call(cwd: Path, *words: str | Path, spy: bool = False) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in UNSET and not name.startswith("WANDB_")}
    command = [sys.executable, *(("-c", SPY) if spy else ()), str(ROOT / "predict.py"), *map(str, words)]
    environment = {**kept, "OMP_NUM_THREADS": "1", "NJSL_CACHE": str(cwd / "cache"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def words(export: Path) -> list[str]:
    return ["store=folder", f"store.path={export}", "tasks=hellaswag", "predictor=ridge", "predictor.ridge.alpha=1.0"]


def test_a_plan_from_first_call_to_score(words: list[str], tmp_path: Path) -> None:
    plan = ROOT / "experiments/plan_example/my_model.yaml"
    first = call(tmp_path, "mode=whatif", f"plan.file={plan}", *words, "workers=2", "vary.code_pct=[0,60,30]")
    assert first.returncode == 0, first.stderr
    assert "nearest known models" in first.stdout and "vary_code_pct" not in first.stderr
    again = call(tmp_path, "mode=whatif", f"plan.file={plan}", *words, spy=True)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == "loaded:"
    lines = ledger.read(tmp_path / "outputs/predict/plans.jsonl")
    assert len(lines) == 2 and lines[0]["id"] != lines[1]["id"]
    assert lines[0]["predictions"] == lines[1]["predictions"]
    (tmp_path / "truth.csv").write_text(f"plan,task,score\n{lines[0]['id']},hellaswag,0.5\n")
    scored = call(tmp_path, "mode=score", "score.truth=truth.csv", *words, "hydra.run.dir=score")
    assert scored.returncode == 0, scored.stderr
    assert pd.read_csv(tmp_path / "score/calibration.csv").n.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        (
            "architecture: {total_parms: 1}",
            [],
            "plan.yaml: line 1: architecture.total_parms: no such key; did you mean",
        ),
        ("pretraining: {code_pct: 10}", ["vary.code_pc=[0,1,1]"], "did you mean"),
        (None, [], "no such file"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    words: list[str], tmp_path: Path, text: str | None, more: list[str], said: str
) -> None:
    if text is not None:
        (tmp_path / "plan.yaml").write_text(text)
    before = sorted(tmp_path.rglob("*"))
    done = call(tmp_path, "mode=whatif", "plan.file=plan.yaml", *words, "hydra.run.dir=run", *more)
    assert done.returncode == 1
    assert said in done.stderr and len(done.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
