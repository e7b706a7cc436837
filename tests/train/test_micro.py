"""The shipped population, ``store=micro``: what every row carries, and two of them trained again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from njsl.store import AnalysisStore
from train.conftest import ROOT, environment

# Metrics of a model trained again from its row, with the same torch on the same kind of processor; other threads add
# in another order.
TOLERANCE = 1e-3


def scores(store: AnalysisStore, model: str) -> pd.Series:
    rows = store.scores()
    return rows[rows["id"] == model].set_index(["benchmark", "metric"])["metric_value"].sort_index()


def metadata(store: AnalysisStore, model: str) -> dict[str, Any]:
    rows = store.table("dataset_info").set_index("id")
    found: dict[str, Any] = json.loads(rows.loc[model, "metadata"])
    return found


def test_every_row_carries_what_reproduces_it() -> None:
    with AnalysisStore.open("micro") as store:
        models = store.models()
        assert len(models) >= 64 and models["id"].str.startswith("micro/").all()
        for model in models["id"]:
            said = metadata(store, model)
            assert said["git_sha"] and said["git_dirty"] is False
            assert {"seed", "model_sha256", "tokenizer_sha256", "environment", "corpora", "train_config"} <= set(said)
            assert model.endswith(said["model_sha256"][:12])
            assert set(said["corpora"]) == {"code", "docs", "prose"}
            assert said["train_config"]["seed"] == said["seed"]


def test_nothing_of_the_machine_is_in_it() -> None:
    folder = ROOT / "njsl" / "store" / "data" / "micro"
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.iterdir()))
    assert "/tmp" not in text and "/home" not in text and "/root" not in text and "/work" not in text


@pytest.mark.slow
@pytest.mark.parametrize("point", [0, 10])
def test_a_row_trained_again_is_equal(point: int, tmp_path: Path) -> None:
    """Two points of the design, at the default cache: the environment's text is extracted and tokenised if need be."""
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "experiment=population",
        f"population.point={point}",
        f"hydra.run.dir={tmp_path / 'run'}",
        f"store.write={tmp_path / 'again.duckdb'}",
        "store.id=micro/again",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with AnalysisStore.open("micro") as shipped, AnalysisStore.open(str(tmp_path / "again.duckdb")) as again:
        new = metadata(again, "micro/again")
        model = next(
            name for name in shipped.models()["id"] if metadata(shipped, name)["model_sha256"] == new["model_sha256"]
        )
        old = metadata(shipped, model)
        for key in ("tokenizer_sha256", "corpora"):
            if new[key] != old[key]:
                pytest.skip(f"{key}: this environment's packages hold other text than those of constraints.txt")
        facts = [
            store.models().set_index("id").loc[name].drop(["family", "metadata"], errors="ignore")
            for store, name in ((shipped, model), (again, "micro/again"))
        ]
        assert facts[0].to_json() == facts[1].to_json()
        pd.testing.assert_series_equal(scores(again, "micro/again"), scores(shipped, model), rtol=TOLERANCE)
