"""train.py from the command line: the whole way once, kill -9 and resume, torn checkpoints, several processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from njsl.train import checkpoint
from train.conftest import LOSS, ROOT, Train, command, environment, logged, start

STEPS = 12


@pytest.fixture(scope="module")
def whole(text: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from the command line, never interrupted: all stages."""
    from train.conftest import SMALL

    folder = tmp_path_factory.mktemp("cli") / "whole"
    done = start(*SMALL, f"corpora.path={text}", f"paths.cache={cache}", f"hydra.run.dir={folder}", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert "exported" in done.stdout and "nats/token" in done.stdout and "unigram" in done.stdout
    assert "Traceback" not in done.stderr
    return folder


def losses(folder: Path) -> list[float]:
    return [float(value) for _, value in sorted(logged(folder).items())]


def test_the_whole_way(whole: Path) -> None:
    record = json.loads((whole / "run.json").read_text())
    assert record["state"] == "finished"
    assert record["facts"]["tokens"] == STEPS * 1024
    # Shares of 192 sequences of 64 tokens; 0.8 of them is 153.6.
    assert record["facts"]["taken_tokens"]["nl"] + record["facts"]["taken_tokens"]["code"] == STEPS * 1024
    assert abs(record["facts"]["taken_tokens"]["nl"] / 64 - 153.6) < 40
    assert sorted(logged(whole)) == list(range(1, STEPS + 1))
    results = json.loads((whole / "results.json").read_text())
    assert {"heldout_nl", "heldout_code", "last_word_nl"} <= results["results"].keys()


def test_the_model_learns(whole: Path) -> None:
    assert losses(whole)[-1] < losses(whole)[0] - 0.5


def test_the_export_is_the_checkpoint(whole: Path) -> None:
    """The exported folder gives, in transformers, the in-loop loss of the last step's weights."""
    from transformers import AutoModelForCausalLM

    newest, _ = checkpoint.newest_whole(whole / "checkpoints")
    assert newest is not None and checkpoint.step_of(newest) == STEPS
    model = AutoModelForCausalLM.from_pretrained(whole / "hf")
    weights = checkpoint.weights(newest)
    state = model.state_dict()
    assert weights.keys() <= state.keys()
    assert all(torch.equal(value, state[name]) for name, value in weights.items())


def test_started_again_it_only_evaluates(whole: Path, train: Train, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    train(copy)
    assert logged(copy) == logged(whole)


@pytest.mark.parametrize("at", [pytest.param("2", marks=pytest.mark.slow), "7"])
def test_killed_in_mid_run_it_goes_on_bit_by_bit(whole: Path, words: list[str], tmp_path: Path, at: str) -> None:
    folder = tmp_path / "killed"
    given = [*words, f"hydra.run.dir={folder}", "stages=[prepare,train]"]
    process = subprocess.Popen(command(*given), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 200
    while not ((folder / "log.csv").exists() and f"\n{at},{LOSS}" in (folder / "log.csv").read_text()):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((folder / "run.json").read_text())["state"] == "running"
    # Other micro-batches' rounding would differ, other steps' would not: everything is as it was, to the last bit.
    done = start(*given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert logged(folder) == logged(whole)
    assert logged(folder, "train/grad_norm") == logged(whole, "train/grad_norm")
    assert logged(folder, "heldout/nl_loss_nats") == logged(whole, "heldout/nl_loss_nats")


@pytest.mark.parametrize("how", ["truncated", "torn"])
def test_a_torn_checkpoint_gives_way_to_the_one_before(
    whole: Path, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    newest, before = checkpoint.existing(copy / "checkpoints")[:2]
    state = newest / checkpoint.STATE
    content = state.read_bytes()
    state.write_bytes(content[:-100] if how == "truncated" else content[:5000] + b"\0" + content[5001:])
    train(copy, "stages=[prepare,train]")
    said = capsys.readouterr().out
    assert f"torn checkpoint, left aside: {newest}" in said and f"going on from {before}" in said
    assert json.loads((copy / "run.json").read_text())["facts"]["resumed_at_step"] == checkpoint.step_of(before)
    assert logged(copy) == logged(whole)


def test_micro_batches_share_a_step_out(whole: Path, train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "stages=[prepare,train]", "trainer.micro_batch_sequences=4")
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), abs=1e-5)


def test_recomputed_activations_change_nothing(whole: Path, train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "stages=[prepare,train]", "trainer.activation_checkpointing=true")
    assert logged(tmp_path / "run") == logged(whole)


def test_bf16_learns_too(whole: Path, train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "stages=[prepare,train]", "trainer.precision=bf16-mixed")
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), abs=0.05) and losses(tmp_path / "run") != losses(
        whole
    )


def test_resumed_with_other_micro_batches(whole: Path, train: Train, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    for later in checkpoint.existing(copy / "checkpoints"):
        if checkpoint.step_of(later) > 6:
            shutil.rmtree(later)
    train(copy, "stages=[prepare,train]", "trainer.micro_batch_sequences=2")
    assert losses(copy) == pytest.approx(losses(whole), abs=1e-5) and len(losses(copy)) == STEPS


@pytest.fixture(scope="module")
def sharded(whole: Path, text: Path, cache: Path) -> Path:
    """The same run under FSDP2 with two processes."""
    from train.conftest import SMALL

    folder = whole.parent / "fsdp"
    done = start(
        *SMALL,
        f"corpora.path={text}",
        f"paths.cache={cache}",
        f"hydra.run.dir={folder}",
        "strategy=fsdp",
        "trainer.devices=2",
        cwd=folder.parent,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_fsdp_on_two_processes_is_one_process(whole: Path, sharded: Path) -> None:
    assert losses(sharded) == pytest.approx(losses(whole), abs=1e-4) and len(losses(sharded)) == STEPS


def test_an_export_from_shards(whole: Path, sharded: Path) -> None:
    from safetensors.torch import load_file

    newest, _ = checkpoint.newest_whole(sharded / "checkpoints")
    assert newest is not None and len(list((newest / checkpoint.STATE).glob("*.distcp"))) == 2
    ours, theirs = load_file(sharded / "hf" / "model.safetensors"), load_file(whole / "hf" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-3, rtol=0)


def cut_to(folder: Path, step: int) -> None:
    for later in checkpoint.existing(folder / "checkpoints"):
        if checkpoint.step_of(later) > step:
            shutil.rmtree(later)


def test_fsdp_resumes_on_one_process(sharded: Path, train: Train, tmp_path: Path) -> None:
    copy = shutil.copytree(sharded, tmp_path / "copy")
    cut_to(copy, 6)
    train(copy, "strategy=fsdp", "stages=[prepare,train]")
    assert losses(copy) == pytest.approx(losses(sharded), abs=1e-5) and len(losses(copy)) == STEPS
    assert json.loads((copy / "run.json").read_text())["facts"]["resumed_at_step"] == 6


def test_fsdp_resumes_on_two_processes(sharded: Path, words: list[str], tmp_path: Path) -> None:
    copy = shutil.copytree(sharded, tmp_path / "copy")
    cut_to(copy, 9)
    given = [*words, f"hydra.run.dir={copy}", "strategy=fsdp", "trainer.devices=2", "stages=[prepare,train]"]
    done = start(*given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert losses(copy) == pytest.approx(losses(sharded), abs=1e-5) and len(losses(copy)) == STEPS


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def torchrun(node: int, port: int, *words: str, cwd: Path) -> subprocess.Popen[str]:
    starter = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={node}", "--nproc-per-node=1"]
    return subprocess.Popen(
        [*starter, "--master-addr=127.0.0.1", f"--master-port={port}", str(ROOT / "train.py"), *words],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("strategy", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp"])
def test_two_nodes_on_one_host(whole: Path, words: list[str], tmp_path: Path, strategy: str) -> None:
    port, folder = free_port(), tmp_path / "run"
    given = [*words, f"hydra.run.dir={folder}", f"strategy={strategy}", "trainer.num_nodes=2", "stages=[prepare,train]"]
    nodes = [torchrun(node, port, *given, cwd=tmp_path) for node in (0, 1)]
    said = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert losses(folder) == pytest.approx(losses(whole), abs=1e-4) and len(losses(folder)) == STEPS


def test_ctrl_c(words: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(
            *words, f"hydra.run.dir={folder}", "tokens=4096000", "data_mix.max_epochs=1000", "stages=[prepare,train]"
        ),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not ((folder / "log.csv").exists() and f"\n3,{LOSS}" in (folder / "log.csv").read_text()):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said
    assert said.strip().splitlines()[-1].endswith("interrupted")
    assert json.loads((folder / "run.json").read_text())["state"] == "interrupted"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of a process are Unix's")
def test_a_full_disk_while_writing_a_checkpoint(words: list[str], tmp_path: Path) -> None:
    """The system refuses a file beyond a size, as it does on a full disk; nothing half-written is left."""
    folder = tmp_path / "run"
    limited = (
        "import resource, signal, runpy, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)); sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    given = [*words, f"hydra.run.dir={folder}", "stages=[prepare,train]"]
    done = subprocess.run(
        [sys.executable, "-c", limited, *command(*given)[1:]],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert re.search(
        r"^train.py: .*step_00000003: the checkpoint could not be written: .*there is no checkpoint yet", line
    )
    assert list((folder / "checkpoints").iterdir()) == []
