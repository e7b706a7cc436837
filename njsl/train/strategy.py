"""How the processes of a run share the model: one alone, a copy each (DDP), or a shard each (FSDP2)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from torch.distributed.device_mesh import DeviceMesh

from njsl.core.types import ConfigError
from njsl.models.llama import Llama
from njsl.train.trainer import Hardware

# A step takes seconds; what is slower hangs. Preparation, which may take days, waits elsewhere (njsl.train.launch).
TIMEOUT = timedelta(minutes=30)


def backend(hardware: Hardware) -> str:
    """The process group's backend: gloo alone, or beside NCCL, so that small facts need not pass through the GPU."""
    return "cpu:gloo,cuda:nccl" if hardware.kind == "cuda" else "gloo"


def environment() -> ClusterEnvironment:
    """Who started this process: Slurm, torchrun, or Lightning itself. Requeueing is njsl's own affair."""
    if SLURMEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    return LightningEnvironment()


class Single:
    """One process, one device."""

    sharded: ClassVar[bool] = False

    def check(self, hardware: Hardware) -> None:
        """Refuse hardware this strategy cannot use.

        Raises:
            ConfigError: there is more than one process.
        """
        if hardware.processes != 1:
            raise ConfigError(
                f"strategy: single is one process, but trainer.devices x trainer.num_nodes is {hardware.processes}; "
                "accepted: strategy=ddp or strategy=fsdp, or trainer.devices=1 trainer.num_nodes=1"
            )

    def build(self, hardware: Hardware) -> Strategy:
        """Lightning's strategy."""
        return SingleDeviceStrategy(device=torch.device(hardware.kind, 0) if hardware.kind == "cuda" else "cpu")

    def parallelise(self, model: Llama, mesh: DeviceMesh | None, hardware: Hardware) -> None:
        """Shard the model in place, after checkpointing and compilation; nothing to do here."""


class DDP(Single):
    """A copy of the model per process; gradients are averaged."""

    def check(self, hardware: Hardware) -> None:
        """Any number of processes."""

    def build(self, hardware: Hardware) -> Strategy:
        """Lightning's strategy."""
        return DDPStrategy(process_group_backend=backend(hardware), timeout=TIMEOUT, gradient_as_bucket_view=True)


class FSDP(DDP):
    """FSDP2: parameters, gradients and optimiser state lie in shards over all processes, block by block."""

    sharded: ClassVar[bool] = True

    def build(self, hardware: Hardware) -> Strategy:
        """Lightning's strategy; its checkpoints are folders with a file per process."""
        return ModelParallelStrategy(
            data_parallel_size=hardware.processes,
            tensor_parallel_size=1,
            save_distributed_checkpoint=True,
            process_group_backend=backend(hardware),
            timeout=TIMEOUT,
        )

    def parallelise(self, model: Llama, mesh: DeviceMesh | None, hardware: Hardware) -> None:
        """Shard every block, then what is left: embedding, last norm and head."""
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        assert mesh is not None, "Lightning makes the mesh before configure_model"
        options: dict[str, Any] = {"mesh": mesh["data_parallel"]}
        if hardware.precision == "bf16-mixed":
            # Parameters travel in bf16, half the bytes; gradients are summed in fp32.
            options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for block in model.blocks():
            fully_shard(block, **options)
        fully_shard(model, **options)
