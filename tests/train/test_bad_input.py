"""What train.py refuses: one line that says where, what, and what would be accepted, and nothing lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from njsl.core.types import ConfigError, DataError, NjslError
from njsl.train import checkpoint
from train.conftest import Train, logged

REFUSED = {
    "weights that do not sum to 1": (["data_mix.weights.nl=0.7"], "shares that sum to 1, got a sum of 0.9 "),
    "a weight of another corpus": (["+data_mix.weights.cod=0.1"], "data_mix.weights.cod: no such corpus"),
    "a missing folder": (["corpora.path=/nowhere"], "/nowhere"),
    "an unknown precision": (["trainer.precision=fp8"], "trainer.precision: 'fp8' is not known; accepted: 32-true"),
    "a GPU that is not there": (["trainer.accelerator=gpu"], "trainer.accelerator: gpu, but torch finds none here"),
    "an unknown stage": (["stages=[prepare,trian]"], "stages[1]: 'trian' is not known"),
    "no stage": (["stages=[]"], "stages: at least one"),
    "attention without its kernel": (["attention=flash_attn"], "attention=sdpa"),
    "two processes of a single": (["trainer.devices=2"], "strategy=ddp or strategy=fsdp"),
    "nodes without a starter": (["strategy=fsdp", "trainer.num_nodes=2"], "torchrun --nnodes=2"),
    "a batch that does not divide": (["batch_tokens=1000"], "batch_tokens: 1000 is no multiple"),
    "a corpus read too often": (["tokens=100000000"], "data_mix.max_epochs: the run would read corpus"),
    "a typo in a component": (["+model.n_layer=3"], "model.n_layer: unknown key"),
    "a learning rate of nothing": (["optim.lr=0.0"], "optim: lr 0.0"),
    "a callback's number": (["callbacks.heldout.max_tokens=0"], "callbacks.heldout"),
    "no checkpoint to export": (["stages=[prepare,export]"], "nothing to export"),
    "nothing to evaluate": (["stages=[prepare,evaluate]"], "evaluate.checkpoint"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str, train: Train, tmp_path: Path) -> None:
    overrides, said = REFUSED[case]
    with pytest.raises(NjslError) as caught:
        train(tmp_path / "run", *overrides)
    message = str(caught.value)
    assert said in message and "\n" not in message


def test_an_empty_corpus(train: Train, text: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(text, tmp_path / "text")
    (copy / "nl" / "0.jsonl").write_text("")
    with pytest.raises(DataError, match="nl"):
        train(tmp_path / "run", f"corpora.path={copy}")


def test_a_cut_shard_and_a_changed_one(train: Train, text: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    train(tmp_path / "a", f"paths.cache={cache}", "stages=[prepare]")
    shard = next(cache.rglob("code*/**/train/00000.bin"), None) or next(cache.rglob("train/00000.bin"))
    content = shard.read_bytes()
    shard.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(DataError, match=r"00000\.bin: its SHA-256 is"):
        train(tmp_path / "b", f"paths.cache={cache}", "stages=[train]")
    shard.write_bytes(content[:-2])
    with pytest.raises(DataError, match=r"00000\.bin: .* bytes, its index says"):
        train(tmp_path / "b", f"paths.cache={cache}", "stages=[train]")


def test_not_prepared(train: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not prepared yet; add prepare"):
        train(tmp_path / "run", "stages=[train]", f"paths.cache={tmp_path / 'empty'}")


def test_the_folder_and_the_checkpoint_of_another_model(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "a", "stages=[prepare,train]", "tokens=3072")
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"holds another run \(model.hidden_size: 32 -> 64\)"):
        train(tmp_path / "a", "stages=[prepare,train]", "tokens=3072", "model.hidden_size=64")
    assert {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()} == before
    train(tmp_path / "b", "stages=[prepare,train]", "tokens=3072", "model.hidden_size=64")
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    shutil.copytree(tmp_path / "b" / "checkpoints", tmp_path / "a" / "checkpoints")
    with pytest.raises(ConfigError, match="a checkpoint of another run: model is"):
        train(tmp_path / "a", "stages=[prepare,train]", "tokens=3072")


def test_a_loss_that_is_not_finite(train: Train, tmp_path: Path) -> None:
    """A learning rate beyond all measure: it stops with the step and the last good checkpoint."""
    with pytest.raises(DataError) as caught:
        train(tmp_path / "run", "stages=[prepare,train]", "optim.lr=1e30", "optim.warmup_tokens=0", "optim.min_lr=0.0")
    message = str(caught.value)
    assert message.startswith("loss: not finite at step 2 of 12; ") and "\n" not in message
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"


def test_the_last_good_checkpoint_is_named(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "stages=[prepare,train]", "tokens=3072")
    good = checkpoint.existing(tmp_path / "run" / "checkpoints")[0]
    import torch

    state = torch.load(good / checkpoint.STATE, weights_only=True)
    state["state_dict"]["network.lm_head.weight"][0, 0] = float("nan")
    torch.save(state, good / checkpoint.STATE)
    digests = {checkpoint.STATE: checkpoint.digest(good / checkpoint.STATE)}
    identity = checkpoint.manifest(good)["identity"]
    (good / "manifest.json").unlink()
    moved = good.with_name(".beside")
    good.rename(moved)
    checkpoint.seal(moved, good, digests, identity)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["identity"]["config"]["tokens"] = 12288
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=f"not finite at step 4 of 12; the last good checkpoint is {good}"):
        train(tmp_path / "run", "stages=[prepare,train]")
    assert max(logged(tmp_path / "run")) == 3
