"""The report of experiments/mixture_validation, on made-up stores."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import mixes
import numpy as np
import pandas as pd
import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "mixture_validation"
NAMES = ("best", "uniform", "natural", "random")
SHARES = np.array([[0.6, 0.0, 0.4], [0.334, 0.333, 0.333], [0.3, 0.2, 0.5], [0.1, 0.1, 0.8]])
WEIGHTS = {"code_bpb": 0.5, "docs_bpb": 0.2, "prose_bpb": 0.3}


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mixture_report", FOLDER / "report.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def predicted(values: np.ndarray) -> pd.DataFrame:
    """``mixes.csv`` of a choice."""
    columns = {f"share_{name}": SHARES[:, k] for k, name in enumerate(mixes.CORPORA)}
    ends = {"objective": values, "objective_low_80": values - 0.01, "objective_high_80": values + 0.01}
    return pd.DataFrame({"mix": NAMES, "plan": [f"mix/{name}-s0" for name in NAMES], **columns, **ends})


def test_findings_by_hand(report: ModuleType) -> None:
    larger = pd.DataFrame(
        {
            "mix": np.repeat(NAMES, 2),
            "seed": [0, 1] * 4,
            "objective": [1.9, 2.1, 1.9, 1.9, 2.9, 3.1, 3.8, 4.2],  # means 2.0, 1.9, 3.0, 4.0
        }
    )
    table = predicted(np.array([1.0, 2.0, 3.0, 4.0])).set_index("mix")
    again = pd.Series([1.0, 2.0, 3.0, 4.0], index=NAMES)
    shown, facts = report.compared(table, again, larger, 1)
    assert (facts["reference"], facts["freedom"], facts["pairs"]) == ("uniform", 3, 6)
    # The second seed adds 0.2 in the mean, 0.2 less of it to one mix and 0.2 more to another: 0.1 off in four runs.
    assert facts["noise"] == pytest.approx(np.sqrt(4 * 0.1**2 / 3))
    assert facts["over_seeds"] == pytest.approx(np.sqrt((0.02 + 0 + 0.02 + 0.08) / 4))
    assert facts["gap"] == pytest.approx(0.1)
    assert facts["half"] == pytest.approx(3.182446 * np.sqrt(0.04 / 3) * np.sqrt(2 / 2), rel=1e-5)
    assert facts["pairs_right"] == pytest.approx(5 / 6)
    assert facts["rank_correlation"] == pytest.approx(0.8)  # ranks 1, 2, 3, 4 and 2, 1, 3, 4
    assert (facts["clear"], facts["clear_right"]) == (5, 5)  # gaps of more than 0.231
    assert shown["rank measured"].tolist() == [2, 1, 3, 4]
    assert "within the noise floor of the best reference" in report.said(facts)
    # Of scores of which more is better the same figures are the worst mix's.
    assert report.compared(table, again, larger, -1)[1]["reference"] == "random"


def test_the_whole_report(report: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "choice").mkdir()
    predicted(mixes.losses(SHARES) @ np.array(list(WEIGHTS.values()))).to_csv(
        tmp_path / "choice/mixes.csv", index=False
    )
    row = {"n_mixes": 32, "mae": 0.01, "rank_correlation": 0.95, "rank_correlation_low": 0.9}
    row |= {"rank_correlation_high": 0.99, "pairs_right": 0.9, "chosen": True, "law": "mixing_law"}
    laws = [row | {"scored": kind, "target": "objective"} for kind in ("left_out", "held_out")]
    pd.DataFrame(laws).to_csv(tmp_path / "choice/laws.csv", index=False)
    line = {"kind": "plan", "id": "0", "date": "2026-01-01T10:00:00.5+00:00", "database": {}, "predictor": {}}
    line |= {"plan": {}, "levels": [], "predictions": [], "objective": {"weights": WEIGHTS}}
    (tmp_path / "plans.jsonl").write_text(json.dumps(line) + "\n")
    mixes.write(tmp_path / "plans.duckdb", SHARES, names=[f"mix/{name}" for name in NAMES])
    mixes.write(tmp_path / "target.duckdb", SHARES, names=[f"target/{name}" for name in NAMES], repeats=range(4))
    for start, said in (("2026-01-01T11:00:00+00:00", " before"), ("2026-01-01T09:00:00+00:00", "NOT before")):
        folder = tmp_path / "target/best-s0"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text(json.dumps({"start": start}))
        text = report.report(tmp_path)
        assert f"{said} the first training" in text
    assert "rank correlation of predicted and measured order 1.00" in text
    assert "the chosen mix is better than every reference" in text
    assert "| left out | 32 | mixing_law (chosen) | objective | 0.0100 | 0.950 [0.90, 0.99] | 90% |" in text
    assert (tmp_path / "report.md").read_text() == text and (tmp_path / "mixes.png").stat().st_size > 0
