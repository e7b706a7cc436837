"""store.write: what a run says of its own model, held against figures by hand and against itself after a kill."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from njsl.core.types import ConfigError, NjslError
from njsl.store.load import load
from njsl.store.schema import tables
from train.conftest import Train, logged

STEPS = 12
# Of train.conftest.SMALL: C = 32, F = 64, 2 layers, 2 heads, V = 512, T = 64, Llama's shape with a head of its own.
ATTENTION, MLP, NORMS = 4 * 32 * 32, 3 * 32 * 64, 2 * 32
EMBEDDING = 2 * 512 * 32
TOTAL = EMBEDDING + 2 * (ATTENTION + MLP + NORMS) + 32


def rows(database: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows of a database."""
    connection, _ = load(database)
    with connection:
        found = {}
        for table in tables():
            answer = connection.execute(f"SELECT * FROM {table} ORDER BY rowid")
            names = [column[0] for column in answer.description]
            found[table] = [dict(zip(names, values, strict=True)) for values in answer.fetchall()]
        return found


def sources(domain: str) -> str:
    """The override that gives ``nl`` a domain."""
    return f"+corpora.sources={{code: {{files: [code/*]}}, nl: {{files: [nl/*], domain: {domain}}}}}"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("record") / "kept"


@pytest.fixture
def whole(kept: Path, train: Train, tmp_path: Path) -> Path:
    """A run with all stages that has written its model to ``x.duckdb`` beside; trained once, each test has a copy."""
    if not kept.exists():
        train(kept / "whole", f"store.write={kept / 'x.duckdb'}")
    shutil.copyfile(kept / "x.duckdb", tmp_path / "x.duckdb")
    return shutil.copytree(kept / "whole", tmp_path / "whole")


def test_rows_say_what_was_trained(whole: Path) -> None:
    found = rows(whole.parent / "x.duckdb")
    facts = json.loads((whole / "run.json").read_text())["facts"]
    (model,) = found["models"]
    assert model["id"] == facts["model_id"] == f"local/{facts['model_sha256'][:12]}"
    assert model["family"].startswith("local/") and model["family"] != model["id"]

    (said,) = found["model_annotations"]
    exact = {
        **{"dimension": 32, "num_heads": 2, "num_kv_heads": 2, "head_dimension": 16, "num_layers": 2},
        **{"ffn_dimension": 64, "mlp_ratio": 2.0, "sequence_length": 64, "vocab_size": 512},
        **{"layer_norm_type": "rmsnorm", "positional_embeddings": "rope", "attention_variant": "full"},
        **{"biases": "none", "block_type": "sequential", "activation": "swiglu", "weight_tying": False},
        **{"batch_tokens": 1024, "batch_instances": 16, "is_instruction_tuned": False},
        **{"total_params": TOTAL, "embedding_params": EMBEDDING},
    }
    assert {name: said[name] for name in exact} == exact

    (info,) = found["dataset_info"]
    tokens = STEPS * 1024
    assert info["pretraining_summary_total_tokens_billions"] == pytest.approx(tokens / 1e9, rel=1e-12)
    # code is a domain by its name, nl is none: so the shares are no whole.
    code = 100 * facts["taken_tokens"]["code"] / tokens
    assert info["pretraining_summary_percentage_code"] == pytest.approx(code, rel=1e-12)
    assert info["pretraining_summary_percentage_web"] is None and info["shares_partial"]
    metadata = json.loads(info["metadata"])
    assert metadata["model_sha256"] == facts["model_sha256"] and metadata["seed"] == 0
    assert metadata["environment"].keys() == {"python", "torch", "device"} and all(metadata["environment"].values())
    assert metadata["corpora"]["code"]["tokens_taken"] == facts["taken_tokens"]["code"]
    assert metadata["train_config"]["model"]["hidden_size"] == 32 and "paths" not in metadata["train_config"]
    assert not {"store", "logger", "stages"} & metadata["train_config"].keys()

    (stage,) = found["training_stages"]
    expected = {"name": "pretraining", "optimizer": "adamw", "learning_rate": 0.01, "learning_rate_min": 3e-4}
    expected |= {"learning_rate_schedule": "cosine", "warmup_steps": 2, "weight_decay": 0.1, "beta1": 0.9}
    expected |= {"beta2": 0.95, "epsilon": 1e-8, "gradient_clip": 1.0, "batch_tokens": 1024, "sequence_length": 64}
    assert {name: stage[name] for name in expected} == pytest.approx(expected)
    shares = {row["dataset"]: row["share_pct"] for row in found["stage_datasets"]}
    assert shares == pytest.approx({name: 100 * n / tokens for name, n in facts["taken_tokens"].items()}, rel=1e-12)
    assert sum(shares.values()) == pytest.approx(100)
    (corpus,) = (row for row in found["datasets"] if row["name"] == "code")
    assert (corpus["percentage_code"], corpus["percentage_web"]) == (100.0, 0.0)


def test_scores_are_those_of_the_result_file(whole: Path) -> None:
    found = rows(whole.parent / "x.duckdb")["evaluation_results"]
    results = json.loads((whole / "results.json").read_text())["results"]
    by_name = {(row["benchmark"], row["metric"]): row for row in found}
    for task, values in results.items():
        for name, value in values.items():
            metric = name.removesuffix(",none")
            if name == "alias" or "_stderr" in name:
                continue
            row = by_name.pop((task, "accuracy" if metric == "acc" else metric))
            assert (row["metric_value"], row["setting"]) == (value, "0-shot")
            assert row["source"].endswith("/results.json")
    assert not by_name


def test_fingerprints_are_of_the_corpora_as_they_lie_there(whole: Path, cache: Path) -> None:
    metadata = json.loads(rows(whole.parent / "x.duckdb")["dataset_info"][0]["metadata"])
    lying = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in cache.rglob("manifest.json")}
    for name, said in metadata["corpora"].items():
        assert lying[said["train_sha256"]].parts[-3:-1] == (name, "train")
        assert lying[said["heldout_sha256"]].parts[-3:-1] == (name, "heldout")
    assert (
        metadata["tokenizer_sha256"] == json.loads((whole / "run.json").read_text())["identity"]["inputs"]["tokenizer"]
    )


def test_a_run_that_was_stopped_and_resumed_writes_the_same_rows(whole: Path, train: Train, tmp_path: Path) -> None:
    """Its first checkpoints and a folder of its own: what it writes depends on neither."""
    resumed = shutil.copytree(whole, tmp_path / "resumed")
    for later in (resumed / "checkpoints").iterdir():
        if later.name > "step_00000006":
            shutil.rmtree(later)
    for path in (resumed / "results.json", resumed / "hf"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    train(resumed, f"store.write={tmp_path / 'y'}")
    assert rows(tmp_path / "y") == rows(tmp_path / "x.duckdb")


def test_written_again_it_changes_nothing(whole: Path, train: Train, tmp_path: Path) -> None:
    before = (tmp_path / "x.duckdb").read_bytes()
    losses = logged(whole)
    train(whole, f"store.write={tmp_path / 'x.duckdb'}", "stages=[prepare]")
    assert (tmp_path / "x.duckdb").read_bytes() == before
    assert logged(whole) == losses  # not trained again


def test_without_weights_or_scores_it_writes_what_is_there(whole: Path, train: Train, tmp_path: Path) -> None:
    shutil.rmtree(whole / "checkpoints")
    (whole / "results.json").unlink()
    train(whole, f"store.write={tmp_path / 'y.duckdb'}", "stages=[prepare]", "store.id=me/mine")
    found = rows(tmp_path / "y.duckdb")
    assert found["models"][0]["id"] == "me/mine" and found["evaluation_results"] == []
    assert found["model_annotations"][0]["total_params"] == TOTAL


def test_another_run_of_the_same_id_is_refused_before_it_trains(whole: Path, train: Train, tmp_path: Path) -> None:
    before = (tmp_path / "x.duckdb").read_bytes()
    identity = json.loads((whole / "run.json").read_text())["facts"]["model_id"]
    with pytest.raises(NjslError, match=rf"holds another model as {identity} \(model_sha256 .* is accepted$"):
        train(tmp_path / "other", f"store.write={tmp_path / 'x.duckdb'}", f"store.id={identity}", "seed=1")
    assert (tmp_path / "x.duckdb").read_bytes() == before and not (tmp_path / "other").exists()


def test_scores_that_differ_are_refused(whole: Path, train: Train, tmp_path: Path) -> None:
    results = json.loads((whole / "results.json").read_text())
    results["results"]["heldout_nl"]["bits_per_byte,none"] += 0.25
    (whole / "results.json").write_text(json.dumps(results))
    before = (tmp_path / "x.duckdb").read_bytes()
    with pytest.raises(
        NjslError, match=r"another run has written this: evaluation_results .*heldout_nl.* metric_value"
    ):
        train(whole, f"store.write={tmp_path / 'x.duckdb'}", "stages=[prepare]")
    assert (tmp_path / "x.duckdb").read_bytes() == before


def test_seeds_are_one_family_and_domains_make_a_whole(whole: Path, train: Train, tmp_path: Path) -> None:
    write = [f"store.write={tmp_path / 'x.duckdb'}", "stages=[prepare,train]"]
    train(tmp_path / "other", *write, "seed=1")
    train(tmp_path / "third", *write, "data_mix.weights={nl: 1.0, code: 0.0}", sources("reference"))
    found = rows(tmp_path / "x.duckdb")
    first, second, third = found["models"]
    assert first["family"] == second["family"] != third["family"]
    info = found["dataset_info"][2]
    shares = [
        info[f"pretraining_summary_percentage_{name}"] for name in ("web", "code", "books", "reference", "academic")
    ]
    assert shares == [0.0, 0.0, 0.0, 100.0, 0.0] and not info["shares_partial"]
    assert {row["dataset"]: row["share_pct"] for row in found["stage_datasets"] if row["id"] == third["id"]} == {
        "nl": 100.0,
        "code": 0.0,
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["store.id=two words"], r"store.id: .*two words.*is accepted$"),
        ([sources("prose")], r"corpora.sources.nl.domain: 'prose'.*accepted: web, code"),
        (["evaluate.checkpoint=elsewhere"], r"evaluate.checkpoint: .*null is accepted with store.write$"),
    ],
)
def test_what_could_not_be_written_is_said_before_training(
    train: Train, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tmp_path / "run", f"store.write={tmp_path / 'x.duckdb'}", *overrides)
    assert not (tmp_path / "x.duckdb").exists() and not (tmp_path / "run").exists()


def test_a_run_that_is_not_at_its_end_is_not_written(train: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"store.write: the run has done 0 of 12 steps; add train to stages$"):
        train(tmp_path / "run", f"store.write={tmp_path / 'x.duckdb'}", "stages=[prepare]")
    assert not (tmp_path / "x.duckdb").exists()
