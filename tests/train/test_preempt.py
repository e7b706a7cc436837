"""Being asked to stop, with real signals in processes of their own, and which multiruns are refused."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from hydra.types import RunMode
from slurm import wait_for

from njsl.core.types import ConfigError
from njsl.train.launch import refuse_unsafe_multirun
from njsl.train.preempt import Preemption

# Processes of one's own without the price of importing torch in each.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch.distributed", "njsl.train.preempt"])


def _open(folder: Path, name: str, environment: Mapping[str, str]) -> None:
    """In a new process: its environment, and files for what it says."""
    for variable in [variable for variable in os.environ if variable.startswith("SLURM_")]:
        del os.environ[variable]
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream, suffix in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{name}.{suffix}", os.O_WRONLY | os.O_CREAT), stream)


def loop(folder: Path, environment: Mapping[str, str]) -> None:
    """A training loop in small: it says when it starts, takes steps, and when asked leaves a checkpoint."""
    _open(folder, "loop", environment)

    def mine(number: int, frame: object) -> None:
        raise AssertionError("the handler of before is not in place during training")

    signal.signal(signal.SIGUSR2, mine)
    with Preemption(folder) as preemption:
        signal.signal(signal.SIGTERM, mine)  # what Lightning does when training starts
        preemption.install()
        (folder / "ready").touch()
        for step in range(200):
            time.sleep(0.05)
            if preemption.agreed(torch.device("cpu")):
                (folder / "checkpoint").write_text(str(step))
                try:
                    preemption.leave()
                finally:
                    os.kill(os.getpid(), signal.SIGTERM)  # what Slurm sends to a job that is requeued
            if (folder / "finish").exists():
                break
    assert signal.getsignal(signal.SIGUSR2) is mine and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    print("finished", flush=True)


def member(folder: Path, environment: Mapping[str, str], rank: int) -> None:
    """One of two processes that step together."""
    _open(folder, f"rank{rank}", environment)
    store = torch.distributed.FileStore(str(folder / "store"), 2)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=20))
    with Preemption(folder) as preemption:
        (folder / f"ready{rank}").touch()
        for step in range(100_000):  # no pause: the signal comes at any point, within a collective too
            if preemption.agreed(torch.device("cpu")):
                print(step, preemption.asked, flush=True)
                preemption.leave()


# Stands in for Slurm's program: writes down what it is asked, and answers as told.
SCONTROL = """#!/bin/sh
echo "$@" >> {calls}
case "$1" in
  show) echo "JobId=7 JobState={state} Reason=None";;
  requeue) [ {state} = RUNNING ] && [ ! -e {calls}.refuse ] || {{ echo "slurm_requeue error: no" >&2; exit 1; }};;
esac
"""


class Loop:
    """The loop as a process, with a stand-in for scontrol."""

    def __init__(self, folder: Path, state: str = "RUNNING", **environment: str) -> None:
        self.folder, self.calls = folder, folder / "calls"
        programs = folder / "bin"
        programs.mkdir()
        (programs / "scontrol").write_text(SCONTROL.format(calls=self.calls, state=state))
        (programs / "scontrol").chmod(0o755)
        path = {"PATH": f"{programs}:{os.environ['PATH']}"}
        self.process = PROCESSES.Process(target=loop, args=(folder, path | environment), daemon=True)
        self.process.start()
        wait_for((folder / "ready").exists, "the loop to start", 60)

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> tuple[int | None, str, str]:
        """Exit code, stdout and stderr."""
        self.process.join(20)
        return self.process.exitcode, (self.folder / "loop.out").read_text(), (self.folder / "loop.err").read_text()

    def asked_of_slurm(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_ends_the_loop_after_a_checkpoint(number: signal.Signals, tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.send(number)
    code, said, wrong = loop.end()
    assert code == 128 + number
    assert (tmp_path / "checkpoint").exists() and "finished" not in said
    expected = f"stopped by {number.name} after a checkpoint; the same command with hydra.run.dir={tmp_path} goes on"
    assert expected in wrong and len(wrong.splitlines()) == 1
    assert loop.asked_of_slurm() == []


def test_several_signals_are_one(tmp_path: Path) -> None:
    loop = Loop(tmp_path, SLURM_JOB_ID="7")
    loop.send(signal.SIGUSR1)
    time.sleep(0.01)
    loop.send(signal.SIGTERM)
    code, _, wrong = loop.end()
    assert code == 128 + signal.SIGUSR1 and "stopped by SIGUSR1" in wrong
    assert loop.asked_of_slurm().count("requeue 7") == 1


def test_without_a_signal_nothing_happens_and_the_handlers_come_back(tmp_path: Path) -> None:
    loop = Loop(tmp_path, SLURM_JOB_ID="7")
    (tmp_path / "finish").touch()
    assert loop.end() == (0, "finished\n", "")
    assert loop.asked_of_slurm() == []


def test_ctrl_c_is_not_taken(tmp_path: Path) -> None:
    loop = Loop(tmp_path, SLURM_JOB_ID="7")
    loop.send(signal.SIGINT)
    code, _, wrong = loop.end()
    assert code == 1 and "KeyboardInterrupt" in wrong
    assert not (tmp_path / "checkpoint").exists() and loop.asked_of_slurm() == []


class Finalised:
    """Something whose end a signal falls into: what is raised there is only printed."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # the handler runs between two instructions
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_that_is_lost_on_the_way_ends_the_next_step(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Preemption(tmp_path) as preemption:
            assert not preemption.agreed(torch.device("cpu"))
            Finalised()
            with pytest.raises(KeyboardInterrupt):
                preemption.agreed(torch.device("cpu"))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({"SLURM_JOB_ID": "7"}, "7"),
        # An array's last task has the array's own id as its raw one: to requeue that would requeue all of them.
        ({"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}, "7_3"),
    ],
)
def test_a_running_slurm_job_is_requeued(environment: dict[str, str], job: str, tmp_path: Path) -> None:
    loop = Loop(tmp_path, **environment)
    loop.send(signal.SIGUSR1)
    code, _, wrong = loop.end()
    assert code == 128 + signal.SIGUSR1
    assert loop.asked_of_slurm() == [f"show job --oneliner {job}", f"requeue {job}"]
    assert f"job {job} is requeued" in wrong


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING"])
def test_a_job_that_slurm_ends_is_not_revived(state: str, tmp_path: Path) -> None:
    loop = Loop(tmp_path, state=state, SLURM_JOB_ID="7")
    loop.send(signal.SIGTERM)
    code, _, wrong = loop.end()
    assert code == 128 + signal.SIGTERM and (tmp_path / "checkpoint").exists()
    assert loop.asked_of_slurm() == ["show job --oneliner 7"]
    assert "not requeued" in wrong and "`scontrol requeue 7` goes on" in wrong


def test_a_refused_requeue_is_said(tmp_path: Path) -> None:
    (tmp_path / "calls.refuse").touch()
    loop = Loop(tmp_path, SLURM_JOB_ID="7")
    loop.send(signal.SIGTERM)
    code, _, wrong = loop.end()
    assert code == 128 + signal.SIGTERM
    assert "job 7 could not be requeued (slurm_requeue error: no)" in wrong and len(wrong.splitlines()) == 1


@pytest.mark.parametrize("asked", [0, 1])
def test_all_processes_leave_at_one_step(asked: int, tmp_path: Path) -> None:
    own = {"GLOO_SOCKET_IFNAME": "lo"}
    processes = [PROCESSES.Process(target=member, args=(tmp_path, own, rank), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for rank in range(2):
        wait_for((tmp_path / f"ready{rank}").exists, "both processes", 60)
    os.kill(processes[asked].pid or 0, signal.SIGUSR1)
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [128 + signal.SIGUSR1, 0]
    said = [(tmp_path / f"rank{rank}.out").read_text() for rank in range(2)]
    assert said[0] == said[1] and said[0].endswith(" True\n")
    assert [(tmp_path / f"rank{rank}.err").read_text().count("stopped by SIGUSR1") for rank in range(2)] == [1, 0]


SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
LOCAL = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"
JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def _hydra(mode: RunMode, launcher: str) -> SimpleNamespace:
    return SimpleNamespace(mode=mode, launcher=SimpleNamespace(_target_=launcher))


@pytest.mark.parametrize("launcher", [BASIC, LOCAL, JOBLIB])
def test_a_multirun_of_several_processes_is_refused(launcher: str) -> None:
    with pytest.raises(ConfigError, match=r"2 processes each is refused: .* use hydra/launcher=slurm"):
        refuse_unsafe_multirun(_hydra(RunMode.MULTIRUN, launcher), 2)


@pytest.mark.parametrize(
    ("mode", "launcher", "processes"),
    [(RunMode.RUN, BASIC, 2), (RunMode.MULTIRUN, BASIC, 1), (RunMode.MULTIRUN, SLURM, 4)],
)
def test_what_is_safe_is_not_refused(
    mode: RunMode, launcher: str, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    refuse_unsafe_multirun(_hydra(mode, launcher), processes)


def test_a_slurm_job_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "1")
    with pytest.raises(ConfigError, match=r"hydra\.launcher: the Slurm job has 1 tasks, but .* is 16"):
        refuse_unsafe_multirun(_hydra(RunMode.MULTIRUN, SLURM), 16)
