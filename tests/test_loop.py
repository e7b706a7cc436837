"""experiments/loop from an empty folder by one command: models with mixes, scores and features, and a chosen mix."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from njsl.store.store import AnalysisStore

ROOT = Path(__file__).parents[1]
CORPORA = ("code", "prose")
MODELS, SEQUENCE_TOKENS, STEP_TOKENS, TOKENS = 6, 128, 2048, 150_000
# Whole steps of 16 sequences.
ACHIEVED = -(-TOKENS // STEP_TOKENS) * STEP_TOKENS


def loop(folder: Path) -> str:
    command = [
        str(ROOT / "experiments/loop/run.sh"),
        "--output",
        str(folder / "loop"),
        "--cache",
        str(folder / "cache"),
    ]
    environment = {name: value for name, value in os.environ.items() if name not in ("NJSL_CACHE", "HYDRA_FULL_ERROR")}
    done = subprocess.run(
        [*command, "--models", str(MODELS), "--tokens", str(TOKENS)],
        env=environment | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout


def ids(rows: Iterable[dict[str, object]]) -> set[object]:
    return {row["id"] for row in rows}


@pytest.mark.slow
def test_the_loop_from_an_empty_folder(tmp_path: Path) -> None:
    loop(tmp_path)
    output = tmp_path / "loop"
    with AnalysisStore.from_existing(output / "loop.duckdb") as store:
        tables = {name: store.table(name).to_dict("records") for name in store.tables}
    models = ids(tables["models"])
    assert len(models) == MODELS
    for name in ("model_annotations", "dataset_info", "training_stages", "evaluation_results", "model_features"):
        assert ids(tables[name]) == models, name

    # Shares are those of the mixes, but for whole sequences.
    shares = {(row["id"], row["dataset"]): row["share_pct"] for row in tables["stage_datasets"]}
    for record in output.glob("train/*/run.json"):
        folder, name = record.parent, json.loads(record.read_text())["facts"]["model_id"]
        weights = yaml.safe_load((folder / "config.yaml").read_text())["data_mix"]["weights"]
        for corpus in CORPORA:
            assert shares[name, corpus] == pytest.approx(
                100 * weights[corpus], abs=100 * 40 * SEQUENCE_TOKENS / ACHIEVED
            )
    assert all(
        row["pretraining_summary_total_tokens_billions"] == pytest.approx(ACHIEVED / 1e9) and not row["shares_partial"]
        for row in tables["dataset_info"]
    )

    measured = {(row["id"], row["benchmark"], row["metric"]) for row in tables["evaluation_results"]}
    for name in models:
        for corpus in CORPORA:
            for metric in ("bits_per_byte", "loss_nats", "top1"):
                assert (name, f"heldout_{corpus}", metric) in measured
    features = {(row["id"], row["feature"]) for row in tables["model_features"]}
    assert all((name, "char_len_mean") in features for name in models)

    mix = yaml.safe_load((output / "predict" / "data_mix" / "best.yaml").read_text())["weights"]
    assert set(mix) == set(CORPORA) and sum(mix.values()) == pytest.approx(1, abs=1e-6)
    with (output / "predict" / "proxies.csv").open() as file:
        assert len(list(csv.DictReader(file))) == MODELS
    found = json.loads((output / "loop.json").read_text())
    # A model that learnt from any mix of these needs fewer bits than even guessing, 8, and more than none.
    assert 1 < found["trained"] < 5 and found["low"] <= found["predicted"] <= found["high"]

    # The same command again trains nothing and changes nothing in the database.
    before = (output / "loop.duckdb").read_bytes()
    assert loop(tmp_path).count("finished, skipped") == MODELS
    assert (output / "loop.duckdb").read_bytes() == before
