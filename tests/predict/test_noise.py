"""Standard errors of labels, and the error that nobody can be under because of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from export import tables, write

from njsl.predict.noise import noise_floor
from njsl.store import AnalysisStore
from njsl.store.overlay import Overlay
from njsl.store.tasks import find_tasks, task_table
from njsl.store.views import TaskFrame, labels, stderrs, task_frames

LAMBADA = ("lambada_openai", "lambada_standard")


def scores(*rows: tuple[str, str, float, float]) -> pd.DataFrame:
    """LAMBADA's rows: id, benchmark, value, standard error."""
    table = pd.DataFrame(rows, columns=["id", "benchmark", "metric_value", "metric_stderr"])
    return table.assign(setting="0-shot", metric="accuracy")


def frame_of(task: str, stderr: list[float] | None) -> TaskFrame:
    count = 4 if stderr is None else len(stderr)
    groups = np.array(["a"] * count, dtype=object)
    ids = pd.Index([f"m/{number}" for number in range(count)])
    known = None if stderr is None else np.array(stderr)
    return TaskFrame(task_table()[task], pd.DataFrame({"x": 0.0}, index=ids), np.zeros(count), groups, groups, known)


def test_the_error_of_a_mean() -> None:
    table = scores(
        ("a", LAMBADA[0], 0.5, 0.03),
        ("a", LAMBADA[1], 0.7, 0.04),
        ("b", LAMBADA[0], 0.5, 0.03),
        ("c", LAMBADA[0], 0.5, 0.03),
        ("c", LAMBADA[1], 0.5, np.nan),
        ("d", LAMBADA[0], 0.5, 0.03),
        ("d", LAMBADA[1], np.nan, 0.5),  # a score that is not there has no part in the label
        ("e", LAMBADA[0], 0.5, -1.0),
        ("f", LAMBADA[0], 0.5, np.inf),
        ("g", LAMBADA[0], 0.0, 0.0),
        ("h", LAMBADA[0], np.nan, 0.1),
    )
    task = task_table()["lambada"]
    found = stderrs(table, Overlay.load("raw"), task)
    assert found["a"] == pytest.approx(0.05 / 2)
    assert found["b"] == pytest.approx(0.03) and found["d"] == pytest.approx(0.03) and found["g"] == 0.0
    assert found[["c", "e", "f"]].isna().all()
    assert list(found.index) == list(labels(table, Overlay.load("raw"), task).index)


def test_a_floor_by_hand() -> None:
    table = noise_floor(
        [frame_of("hellaswag", [0.01, 0.03, np.nan]), frame_of("anli", [np.nan]), frame_of("xnli", None)]
    )
    row = table.set_index("task").loc["hellaswag"]
    assert (row["n"], row["n_unknown"], row["stderr_max"]) == (3, 1, 0.03)
    assert row["mae_floor"] == pytest.approx(0.02 * np.sqrt(2 / np.pi))
    rest = table.set_index("task").loc[["anli", "xnli"]]
    assert rest["n_unknown"].tolist() == [1, 4] and rest["mae_floor"].isna().all()


def test_the_floor_is_what_simulated_measurements_miss() -> None:
    error = np.array([0.01, 0.02, 0.05])
    measured = np.random.default_rng(0).normal(0.5, error, size=(200_000, 3))
    assert noise_floor([frame_of("hellaswag", list(error))])["mae_floor"][0] == pytest.approx(
        np.abs(measured - 0.5).mean(), rel=0.01
    )


def test_errors_reach_the_frames_as_their_labels_do(tmp_path: Path) -> None:
    """Of two spellings the row that the label is made of, and its error, in either view."""
    table = tables()["evaluation_results"]
    table["metric_stderr"] = 0.001 + 0.02 * np.random.default_rng(0).random(len(table))
    arc = table[(table["setting"] == "25-shot") & (table["metric"] == "accuracy")]
    with AnalysisStore.from_existing(write(tmp_path, evaluation_results=table)) as opened:
        for view in ("raw", "curated"):
            (frame,) = task_frames(opened, view, find_tasks("arc_challenge"), freegen=False)
            assert frame.stderr is not None and frame.stderr.shape == frame.y.shape
            for identity, y, error in zip(frame.ids, frame.y, frame.stderr, strict=True):
                mine = arc[(arc["id"] == identity) & (arc["metric_value"] == y)]
                assert mine["metric_stderr"].to_numpy() == pytest.approx([error])


@pytest.mark.data
def test_floors_of_the_papers_evals(paper_store: AnalysisStore) -> None:
    table = noise_floor(task_frames(paper_store, "raw", find_tasks("core"), freegen=False)).set_index("task")
    # A share p of n items has the error sqrt(p (1 - p) / n): 1172 questions of ARC, 10042 of HellaSwag.
    assert table.loc["arc_challenge", "stderr_max"] <= np.sqrt(0.25 / 1171)
    assert table.loc["hellaswag", "stderr_max"] <= np.sqrt(0.25 / 10041)
    assert table.loc["gsm8k", ["n", "n_unknown"]].tolist() == [92, 2]
    assert table.loc["humaneval", "n_unknown"] == 91
    assert table.loc[table["metric"] == "brier_score", "mae_floor"].isna().all()
