"""One process prepares and decides, the others hear of it.

Three ways lead to several processes. Lightning starts its children itself, when everything is decided: they find the
plan in their environment. torchrun and Slurm start all at once: then the first puts the plan into the store over which
the process group meets, and the others wait there, for as long as the preparation takes.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed.rendezvous import rendezvous

from njsl.core.types import ConfigError
from njsl.train.strategy import TIMEOUT, Single, backend, environment
from njsl.train.trainer import Hardware

_PLAN = "NJSL_TRAIN_PLAN"
_PATIENCE = timedelta(days=14)


class Processes:
    """The processes of a run, seen from one of them; use it as a context manager.

    Args:
        hardware: of the run.
        strategy: of the run.

    Attributes:
        rank: number of this process over all nodes; 0 prepares, decides, writes and prints.

    Raises:
        ConfigError: the processes that were started are not those the config asks for.
    """

    def __init__(self, hardware: Hardware, strategy: Single) -> None:
        self._hardware = hardware
        self._store: Any = None
        self._told = False
        self.environment = LightningEnvironment() if type(strategy) is Single else environment()
        self._child = isinstance(self.environment, LightningEnvironment) and _PLAN in os.environ
        self._outside = isinstance(self.environment, (SLURMEnvironment, TorchElasticEnvironment))
        if self._outside:
            self._check_outside()
            self.rank = self.environment.global_rank()
        else:
            if hardware.num_nodes > 1:
                raise ConfigError(
                    f"trainer.num_nodes: {hardware.num_nodes} nodes need a starter on each: torchrun --nnodes="
                    f"{hardware.num_nodes} --nproc-per-node={hardware.devices} train.py, or hydra/launcher=slurm -m"
                )
            self.rank = int(os.environ.get("LOCAL_RANK", "0")) if self._child else 0

    def _check_outside(self) -> None:
        started, wanted = self.environment.world_size(), self._hardware.processes
        if started != wanted:
            raise ConfigError(
                f"trainer: {started} processes were started, but devices x num_nodes is {self._hardware.devices} x "
                f"{self._hardware.num_nodes}; make them agree"
            )
        if isinstance(self.environment, TorchElasticEnvironment) and started > 1:
            words = HydraConfig.get().overrides.hydra
            if not any(word.lstrip("+").startswith("hydra.run.dir=") for word in words):
                raise ConfigError(
                    "hydra.run.dir: torchrun starts every process by itself, so the folder cannot be named by the "
                    "time; give hydra.run.dir=DIR"
                )

    def __enter__(self) -> Self:
        if self._outside and self._hardware.processes > 1:
            os.environ["MASTER_ADDR"] = self.environment.main_address
            os.environ["MASTER_PORT"] = str(self.environment.main_port)
            meeting = rendezvous("env://", self.rank, self._hardware.processes, timeout=_PATIENCE)
            self._store, _, _ = next(iter(meeting))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._store is not None and self.rank == 0 and not self._told:
            self._store.set(_PLAN, "null")
        if dist.is_initialized():
            dist.destroy_process_group()

    def tell(self, plan: dict[str, Any]) -> None:
        """Rank 0 says what was decided; from here on all processes take part."""
        text = json.dumps(plan)
        self._told = True
        if self._store is not None:
            self._store.set(_PLAN, text)
            self._meet()
        elif self._hardware.processes > 1:
            os.environ[_PLAN] = text

    def hear(self) -> dict[str, Any]:
        """What rank 0 decided; waits for it.

        Raises:
            ConfigError: rank 0 gave up.
        """
        if self._store is None:
            text = os.environ[_PLAN]
        else:
            self._store.set_timeout(_PATIENCE)
            text = self._store.get(_PLAN).decode()
        plan = json.loads(text)
        if plan is None:
            raise ConfigError("the first process gave up; it says why")
        assert isinstance(plan, dict)
        if self._store is not None:
            self._meet()
        return plan

    def _meet(self) -> None:
        """Make the process group here, over the store at hand; Lightning takes it as it is."""
        self._store.set_timeout(TIMEOUT)
        if self._hardware.kind == "cuda":
            torch.cuda.set_device(self.environment.local_rank())
        dist.init_process_group(
            backend(self._hardware),
            store=self._store,
            rank=self.rank,
            world_size=self._hardware.processes,
            timeout=TIMEOUT,
        )
