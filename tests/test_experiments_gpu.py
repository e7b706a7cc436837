"""The experiment on a GPU, as far as it goes without one."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "gpu"


def test_its_self_test_runs_every_section_and_says_what_is_owed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / "run.py"), "--selftest", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "the figures for a GPU are owed" in done.stdout.splitlines()[0]
    sections = json.loads((tmp_path / "results.json").read_text())
    measured = (
        "ceilings",
        "numerics",
        "attention_time",
        "throughput",
        "kernels",
        "loader",
        "plain",
        "fsdp",
        "ablation",
    )
    for name in (*measured, "pretrain"):
        numbers = [value for row in sections[name] for value in row.values() if isinstance(value, float)]
        assert numbers and all(map(math.isfinite, numbers)), name
        assert not any("fault" in row for row in sections[name]), sections[name]
    # The blocks are one graph, whatever is changed in them, but where RoPE is taken out of it.
    assert all(row["graphs"] == 1 and row["breaks"] == 0 for row in sections["throughput"])
    broken = [row["change"] for row in sections["ablation"] if row["breaks"]]
    assert broken == ["RoPE outside the compiled block"]
    # Whatever is changed, what it computes stays.
    assert {round(row["loss"], 3) for row in sections["ablation"]} == {round(sections["ablation"][0]["loss"], 3)}
    header, *lines = (tmp_path / "loss.csv").read_text().splitlines()
    assert header == "step,seconds,tokens,lr,train_loss,heldout_loss" and len(lines) == 1


def test_its_flops_are_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    from bench import PAPER

    # 6 (L (4 C^2 + 3 C F) + V C) + 12 L C T by hand, in GFLOP.
    assert [round(shape.flops_per_token(32_000, 2048) / 1e9, 3) for shape in PAPER] == [1.707, 3.214, 7.641]
