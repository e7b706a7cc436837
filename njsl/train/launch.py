"""Which ways of starting several processes are safe in a multirun."""

from __future__ import annotations

import os
from typing import Any

from hydra.types import RunMode

from njsl.core.types import ConfigError

_SLURM_LAUNCHER = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"


def refuse_unsafe_multirun(hydra_cfg: Any, processes: int) -> None:
    """Refuse a multirun whose jobs are several processes, unless each job gets a process group of its own.

    Lightning starts its processes by running the command again, and that would start the whole sweep again; processes
    of two jobs can then meet in one group.

    Args:
        hydra_cfg: ``HydraConfig.get()``.
        processes: of one job, over all nodes (1 or more).

    Raises:
        ConfigError: the launcher does not start the processes itself, or starts another number of them.
    """
    if hydra_cfg.mode != RunMode.MULTIRUN or processes == 1:
        return
    if hydra_cfg.launcher._target_ != _SLURM_LAUNCHER:
        raise ConfigError(
            f"trainer.devices: a multirun of jobs with {processes} processes each is refused: every process would "
            "start the sweep again; use hydra/launcher=slurm, or trainer.devices=1 trainer.num_nodes=1, or one run "
            "at a time without -m"
        )
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if tasks != processes:
        raise ConfigError(
            f"hydra.launcher: the Slurm job has {tasks} tasks, but trainer.num_nodes times trainer.devices is "
            f"{processes}; use hydra/launcher=slurm as it is, which takes them from trainer"
        )
