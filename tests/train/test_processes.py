"""Which processes a run may be of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig

from njsl.core.types import ConfigError
from njsl.train.processes import Processes
from njsl.train.strategy import DDP, FSDP, Single
from njsl.train.trainer import Hardware

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "GROUP_RANK": "1", "LOCAL_WORLD_SIZE": "1"}
TORCHRUN |= {"TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def of(devices: int = 1, nodes: int = 1) -> Hardware:
    return Hardware(accelerator="cpu", devices=devices, num_nodes=nodes)


def given(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(
        HydraConfig, "get", lambda: SimpleNamespace(overrides=SimpleNamespace(hydra=list(words))), raising=True
    )


def test_alone() -> None:
    with Processes(of(), Single()) as processes:
        assert processes.rank == 0
        processes.tell({"step": 3})


def test_children_find_the_plan_in_their_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NJSL_TRAIN_PLAN", "")
    monkeypatch.delenv("NJSL_TRAIN_PLAN")
    with Processes(of(devices=2), FSDP()) as first:
        first.tell({"step": 3})
    monkeypatch.setenv("LOCAL_RANK", "1")
    with Processes(of(devices=2), FSDP()) as second:
        assert second.rank == 1 and second.hear() == {"step": 3}


def test_torchrun_needs_a_named_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    given(monkeypatch, "hydra.job.chdir=false")
    with pytest.raises(ConfigError, match=r"hydra.run.dir: torchrun starts every process by itself"):
        Processes(of(nodes=2), DDP())
    given(monkeypatch, "hydra.run.dir=here")
    assert Processes(of(nodes=2), DDP()).rank == 1


def test_another_number_than_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    given(monkeypatch, "hydra.run.dir=here")
    with pytest.raises(ConfigError, match="2 processes were started, but devices x num_nodes is 4 x 1"):
        Processes(of(devices=4), DDP())


def test_nodes_need_a_starter() -> None:
    with pytest.raises(ConfigError, match=r"torchrun --nnodes=3 --nproc-per-node=2 train\.py"):
        Processes(of(devices=2, nodes=3), FSDP())
