"""Being asked to stop: a flag for the training loop, and the way back into Slurm's queue.

A machine that is needed elsewhere, or a time limit that is near, is announced by a signal. The loop looks at the flag
after every optimiser step, writes a checkpoint and leaves; a Slurm job is put back into the queue, keeps its id, starts
again in the same folder and goes on from the checkpoint. Ctrl-C and errors are nothing of the kind.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

import torch
import torch.distributed as dist

from njsl.core.types import Preempted

# SIGTERM: Slurm before it takes the nodes, and everyone else. SIGUSR1: by custom the signal of `--signal=USR1@120`.
# SIGUSR2: what submitit has Slurm send before the time limit; its own handler would requeue without a checkpoint.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_SCONTROL_LIMIT_SEC = 60


class Preemption:
    """Takes the signals that ask a run to stop; a context manager of the main thread.

    Outside the context the handlers are those that were there before: submitit's in its jobs, else none, and the
    signals end the process at once.

    Args:
        output: the run's folder, named when the user has to resume by hand.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self._signal: signal.Signals | None = None
        self._leaving = False
        self._interrupted = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # Slurm ends a requeued job's tasks with SIGTERM; the run's record and logger are still to be closed.
            signal.signal(number, signal.SIG_IGN if self._leaving else handler)
        if signal.getsignal(signal.SIGINT) == self._interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def install(self) -> None:
        """Put the handlers in place, again if need be: Lightning sets its own when training starts."""
        for number in SIGNALS:
            signal.signal(number, self._ask)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)

    @property
    def asked(self) -> bool:
        """Whether this process was asked to stop."""
        return self._signal is not None

    def agreed(self, device: torch.device) -> bool:
        """Whether any process was asked to stop; the same answer in all of them.

        A collective: every process calls it after the same step, for a signal reaches them at different ones.

        Args:
            device: of the process group's backend.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, and what it raised was lost on the way.
        """
        if self._interrupted:
            raise KeyboardInterrupt
        if not dist.is_initialized():
            return self.asked
        number = torch.tensor(self._signal or 0, device=device)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        highest = int(number.item())
        if highest:
            self._signal = self._signal or signal.Signals(highest)
        # Not `asked`: a signal during the collective is known here alone, and waits for the next step.
        return highest > 0

    def leave(self) -> NoReturn:
        """Requeue the Slurm job, if this is one, or say how to resume, and end the run; every process calls it.

        Only after ``agreed()`` and a finished checkpoint.

        Raises:
            Preempted: always; with 128 + the signal in the first process, 0 in the others.
        """
        assert self._signal is not None
        self._leaving = True
        if dist.is_initialized() and dist.get_rank() > 0:
            # A failing task would take the first one along, before that has requeued the job and closed its record.
            raise Preempted(0)
        reason = f"stopped by {self._signal.name} after a checkpoint"
        print(f"train.py: {reason}; {self._requeue()}", file=sys.stderr, flush=True)
        raise Preempted(128 + self._signal)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        # The first one counts: a requeue is followed by Slurm's own SIGTERM.
        self._signal = self._signal or signal.Signals(number)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        # Raised inside a finaliser or a callback from C++, the exception is only printed: the next step looks again.
        self._interrupted = True
        raise KeyboardInterrupt

    def _requeue(self) -> str:
        """Put the Slurm job back into the queue, if this is one.

        Returns:
            What becomes of the run, as the end of a sentence.
        """
        job = _slurm_job()
        if job is None:
            return f"the same command with hydra.run.dir={shlex.quote(str(self.output))} goes on from there"
        by_hand = f"`scontrol requeue {job}` goes on from there"
        try:
            state = _scontrol("show", "job", "--oneliner", job)
            if "JobState=RUNNING" not in state.split():
                # To requeue a job that its owner has cancelled would revive it.
                return f"Slurm is ending job {job} already, so it is not requeued from here; {by_hand}"
            _scontrol("requeue", job)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            return f"job {job} could not be requeued ({' '.join(said.split())}); {by_hand}"
        return f"job {job} is requeued and goes on from there"


def _slurm_job() -> str | None:
    """This process's Slurm job as scontrol takes it; None outside Slurm."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        # The raw id of an array's last task is the array's own, and would requeue all of it.
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def _scontrol(*words: str) -> str:
    command = ["scontrol", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SCONTROL_LIMIT_SEC).stdout
