"""What a run computes on: devices, precision and how a step is laid out on them. None of it changes what is learnt."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal

from njsl.core.types import ConfigError


class Hardware:
    """Devices and precision.

    Args:
        accelerator: ``auto`` is the GPU where there is one.
        devices: processes per node, one per GPU; ``auto`` is all GPUs, or one process without.
        num_nodes: machines.
        precision: of matrix products; parameters and optimiser state stay in fp32.
        micro_batch_sequences: sequences per forward pass of one process; null takes a step's share at once.
        threads: of each process on a CPU; null divides the cores at hand.
        compile: compile the blocks with torch.compile.
        activation_checkpointing: recompute the blocks' activations in the backward pass.
    """

    def __init__(
        self,
        *,
        accelerator: Literal["auto", "cpu", "gpu"] = "auto",
        devices: int | Literal["auto"] = "auto",
        num_nodes: int = 1,
        precision: Literal["32-true", "bf16-mixed"] = "32-true",
        micro_batch_sequences: int | None = None,
        threads: int | None = None,
        compile: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        for name, value in (("devices", devices), ("num_nodes", num_nodes), ("threads", threads)):
            if isinstance(value, int) and value < 1:
                raise ConfigError(f"trainer.{name}: {value}; at least 1 is accepted")
        self.accelerator, self.precision, self.num_nodes = accelerator, precision, num_nodes
        self.micro_batch_sequences, self._threads = micro_batch_sequences, threads
        self.compile, self.activation_checkpointing = compile, activation_checkpointing
        self._devices = devices

    def check(self) -> None:
        """Hold it against this machine.

        Raises:
            ConfigError: it has not the devices, or they cannot do the precision.
        """
        import torch

        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise ConfigError("trainer.accelerator: gpu, but torch finds none here; accepted: auto, cpu")
        if self.kind == "cuda":
            there = torch.cuda.device_count()
            if self.devices > there:
                raise ConfigError(
                    f"trainer.devices: {self.devices}, but this machine has {there}; accepted: up to {there}"
                )
            if self.precision == "bf16-mixed" and torch.cuda.get_device_capability() < (8, 0):
                name = torch.cuda.get_device_name()
                raise ConfigError(f"trainer.precision: bf16-mixed, but {name} has no bf16; accepted: 32-true")

    @property
    def kind(self) -> Literal["cpu", "cuda"]:
        """The kind of device."""
        import torch

        return "cuda" if self.accelerator != "cpu" and torch.cuda.is_available() else "cpu"

    @property
    def name(self) -> str:
        """What the device is called."""
        import torch

        return torch.cuda.get_device_name() if self.kind == "cuda" else _processor()

    @property
    def devices(self) -> int:
        """Processes per node."""
        import torch

        if self._devices == "auto":
            return torch.cuda.device_count() if self.kind == "cuda" else 1
        return self._devices

    @property
    def processes(self) -> int:
        """Processes of the run."""
        return self.devices * self.num_nodes

    @property
    def threads(self) -> int:
        """Threads of each process."""
        import joblib

        return self._threads or max(1, joblib.cpu_count() // self.devices)


def _processor() -> str:
    """The processor's name, which Python itself does not know on Linux; else its architecture."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(encoding="utf-8", errors="replace").splitlines() if listed.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
