"""A real Slurm of two nodes on this machine: munged, one slurmctld and two slurmd on the loopback.

Nothing outside one temporary folder is read or written, every port and socket is the fixture's own, and the daemons are
ended by their pid files. The nodes claim two CPUs each whatever the machine has, so that two jobs of two nodes run at
once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
NODES = ("d0", "d1")

_CONF = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for cred_expire [s] before it starts again; Slurm's default is 120.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=5
MinJobAge=600
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO PreemptMode=OFF
"""


class Slurm:
    """A running cluster.

    Attributes:
        environment: what a process needs to use it, beside the machine's own environment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Node names are no hosts here, and gloo would look for this host's name.
        self.environment = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
        }

    def run(self, *command: str) -> str:
        """Run one of Slurm's programs; its output."""
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def job(self, job_id: str) -> dict[str, str]:
        """What ``scontrol show job`` says, by name."""
        text = self.run("scontrol", "show", "job", "-o", job_id)
        return {name: value for name, _, value in (word.partition("=") for word in text.split())}

    def jobs(self) -> list[str]:
        """Ids of the jobs that are waiting or running, array tasks apart."""
        return self.run("squeue", "--noheader", "--array", "--format=%i").split()


def reason_missing() -> str | None:
    """Why there can be no Slurm here; None if there can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"no Slurm on this machine: {', '.join(missing)} not found (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "a Slurm of one's own needs root"


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    """A cluster of two nodes for the tests of one file; they are skipped where there can be none."""
    reason = reason_missing()
    if reason:
        pytest.skip(reason)
    with cluster() as running:
        yield running


@contextlib.contextmanager
def cluster() -> Iterator[Slurm]:
    """Start a cluster of two nodes; whatever happens inside, its daemons and jobs are ended after it."""
    # A folder with a short name: a socket's path holds 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    folder.chmod(0o755)
    running = Slurm(folder)
    try:
        _start(running)
        yield running
    finally:
        with contextlib.suppress(RuntimeError, TimeoutError, subprocess.TimeoutExpired):
            _cancel_jobs(running)
        _stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(met: Callable[[], object], what: str, limit_sec: float) -> None:
    """Look ten times a second until ``met()`` is true; TimeoutError after ``limit_sec``."""
    end = time.monotonic() + limit_sec
    while not met():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {limit_sec:g} s for {what}")
        time.sleep(0.1)


def _start(running: Slurm) -> None:
    folder = running.folder
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    (folder / "state").mkdir()
    host = socket.gethostname().partition(".")[0]
    controller, *ports = _free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 State=UNKNOWN"
        for name, port in zip(NODES, ports, strict=True)
    )
    (folder / "slurm.conf").write_text(_CONF.format(host=host, controller=controller, folder=folder, nodes=nodes))
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "seed-file": "munge.seed"}
    munged = [f"--{name}={folder / file}" for name, file in files.items()]
    _daemon(running, "munged", "--force", f"--log-file={folder / 'munged.log'}", *munged)
    _daemon(running, "slurmctld")
    for name in NODES:
        (folder / f"spool.{name}").mkdir()
        _daemon(running, "slurmd", "-N", name)
    idle = ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"]

    def all_idle() -> bool:
        try:
            return len(running.run(*idle).split()) == len(NODES)
        except RuntimeError:  # the controller does not answer yet
            return False

    wait_for(all_idle, f"two idle nodes, see {folder}", 30)


def _daemon(running: Slurm, *command: str) -> None:
    """Start a daemon; it goes to the background itself."""
    environment = os.environ | running.environment | {"PATH": _path()}
    log = running.folder / f"{command[0]}.start.log"
    with log.open("ab") as said:  # a pipe would stay open with the daemon
        code = subprocess.run(command, env=environment, stdout=said, stderr=said, timeout=30).returncode
    if code:
        raise RuntimeError(f"{command[0]} did not start: {log.read_text().strip()}")


def _cancel_jobs(running: Slurm) -> None:
    # A job that requeues itself when it is told to stop must not start again.
    running.run("scontrol", "update", "PartitionName=main", "State=DOWN")

    def none_left() -> bool:
        for job in running.jobs():
            running.run("scancel", job)
        return not running.jobs()

    wait_for(none_left, "jobs to end", 30)


def _stop(folder: Path) -> None:
    """End the daemons by their pid files, nodes before the controller, munged last."""
    for pattern in ("slurmd.*.pid", "slurmctld.pid", "munged.pid"):
        pids = [int(number) for file in folder.glob(pattern) if (number := file.read_text().strip()).isdigit()]
        for kill in (signal.SIGTERM, signal.SIGKILL):
            for pid in filter(_alive, pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, kill)
            with contextlib.suppress(TimeoutError):
                wait_for(functools.partial(_all_ended, pids), "daemons to end", 10)


def _all_ended(pids: list[int]) -> bool:
    return not any(map(_alive, pids))


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not collected does not."""
    try:
        state = re.sub(r".*\) ", "", Path(f"/proc/{pid}/stat").read_text())[0]
    except OSError:
        return False
    return state != "Z"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


def _path() -> str:
    """Debian puts the daemons into sbin, which is not on every PATH."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
