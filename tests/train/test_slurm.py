"""Training as jobs of a real two-node Slurm on this machine: one process group per job, requeued when told to stop."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from slurm import Slurm, slurm, wait_for

__all__ = ["slurm"]  # a fixture
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LOSS = "train/loss_nats"
# An entry file of its own with train.py's config, and a loop that has only what Slurm needs: processes that step
# together, a checkpoint, and Preemption. It lies outside the project, so it is found by nothing but its pickle.
ENTRY = """
import json, os, sys, time
from pathlib import Path
import hydra
from njsl.core import config
from njsl.core.entry import one_line_errors
from njsl.core.types import DataError

config.register()

@hydra.main(version_base="1.3", config_path=CONF, config_name="train")
def main(cfg):
    import torch
    import torch.distributed as dist
    from njsl.train.preempt import Preemption

    names = ("PROCID", "NTASKS", "RESTART_COUNT")
    rank, world, restarts = (int(os.environ.get(f"SLURM_{name}", "0")) for name in names)
    port = 15000 + int(os.environ["SLURM_JOB_ID"])
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    if cfg.seed == 13 and rank == 1:
        raise DataError("the thirteenth fails")
    folder = Path(cfg.paths.output)
    checkpoint = folder / f"rank{rank}.json"
    steps = json.loads(checkpoint.read_text()) if checkpoint.exists() else []
    with Preemption(folder) as preemption:
        dist.barrier()
        (folder / f"started{restarts}").touch()
        for step in range(len(steps), cfg.tokens):
            total = torch.tensor(rank + 1 + step)
            dist.all_reduce(total)
            steps.append([step, restarts, int(total)])
            time.sleep(0.05)
            if preemption.agreed(torch.device("cpu")):
                checkpoint.write_text(json.dumps(steps))
                preemption.leave()
    (folder / f"done{rank}.json").write_text(json.dumps(steps))

if __name__ == "__main__":
    main()
"""


class Multirun:
    """``train.py -m hydra/launcher=slurm`` as a process; ``words`` are its overrides."""

    def __init__(self, slurm: Slurm, entry: Path, folder: Path, *words: str) -> None:
        self.slurm, self.folder = slurm, folder
        own = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null", f"hydra.sweep.dir={folder}"]
        nodes = ["trainer.num_nodes=2", "trainer.devices=1", "hydra.launcher.timeout_min=10"]
        before = set(slurm.jobs())
        self.log = folder.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(entry), "-m", *own, *nodes, *words],
                cwd=entry.parent,
                env=os.environ | slurm.environment | {"OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._before = before

    def submitted(self) -> None:
        """Wait until Slurm has its jobs."""
        wait_for(lambda: set(self.slurm.jobs()) - self._before or self.process.poll() is not None, "the jobs", 90)
        self.jobs = sorted(set(self.slurm.jobs()) - self._before)
        assert self.jobs, self.said()

    def started(self, job: int, restarts: int = 0, limit_sec: float = 60) -> None:
        """Wait until a job's processes have met."""
        wait_for((self.folder / str(job) / f"started{restarts}").exists, f"job {job} of {self.folder}", limit_sec)

    def close(self) -> None:
        """End the command if it still waits for its jobs."""
        self.process.kill()
        self.process.wait()

    def end(self, limit_sec: float = 90) -> int:
        """The command's exit code."""
        return self.process.wait(limit_sec)

    def said(self) -> str:
        """What the command and its jobs wrote."""
        logs = sorted((self.folder / ".submitit").rglob("*.*"))
        return "\n".join(path.read_text() for path in [self.log, *logs] if path.suffix in (".log", ".out", ".err"))


Start = Callable[..., Multirun]


@pytest.fixture
def start(slurm: Slurm) -> Iterator[Start]:
    """Starts a ``Multirun(slurm, ...)``; none outlives the test."""
    started: list[Multirun] = []

    def begin(entry: Path, folder: Path, *words: str) -> Multirun:
        started.append(Multirun(slurm, entry, folder, *words))
        started[-1].submitted()
        return started[-1]

    yield begin
    for sweep in started:
        sweep.close()


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    """The small loop's entry file."""
    path = tmp_path / "entry.py"
    path.write_text(ENTRY.replace("CONF", repr(str(ROOT / "conf"))))
    return path


def steps(folder: Path, rank: int) -> list[list[int]]:
    """Step, restarts of the job so far, and the sum over both processes, of every step a process took."""
    return json.loads((folder / f"done{rank}.json").read_text())


def test_each_job_is_one_process_group_and_goes_on_after_a_requeue(
    slurm: Slurm, start: Start, entry: Path, tmp_path: Path
) -> None:
    # Two jobs, so an array; both signals; the jobs run at once and only the signalled one restarts.
    sweep = start(entry, tmp_path / "sweep", "seed=0,1", "tokens=60")
    assert len(sweep.jobs) == 2 and all("_" in job for job in sweep.jobs)
    sweep.started(0)
    sweep.started(1)
    slurm.run("scancel", "--signal=USR1", sweep.jobs[1])
    assert sweep.end() == 0, sweep.said()
    for job in range(2):
        folder = sweep.folder / str(job)
        taken = [steps(folder, rank) for rank in range(2)]
        assert taken[0] == taken[1]
        # The sum over ranks 0 and 1 of rank + 1 + step; each step once, and none lost by the restart.
        assert [(step, total) for step, _, total in taken[0]] == [(step, 3 + 2 * step) for step in range(60)]
        restarts = {restart for _, restart, _ in taken[0]}
        assert restarts == ({0} if job == 0 else {0, 1})


def test_a_cancelled_job_stays_cancelled(slurm: Slurm, start: Start, entry: Path, tmp_path: Path) -> None:
    sweep = start(entry, tmp_path / "sweep", "seed=0", "tokens=10000")
    sweep.started(0)
    (job,) = sweep.jobs
    slurm.run("scancel", job)
    wait_for(lambda: not slurm.jobs(), "the job to end", 30)
    assert slurm.job(job)["JobState"] == "CANCELLED" and slurm.job(job)["Restarts"] == "0"
    assert f"Slurm is ending job {job} already" in sweep.said()
    # Cancelled after its checkpoint, it goes on when its owner says so.
    assert [(sweep.folder / "0" / f"rank{rank}.json").exists() for rank in range(2)] == [True, True]


def test_a_failed_job_is_not_requeued(slurm: Slurm, start: Start, entry: Path, tmp_path: Path) -> None:
    # One process fails, so the other one's next collective does.
    sweep = start(entry, tmp_path / "sweep", "seed=13", "tokens=60")
    (job,) = sweep.jobs
    assert sweep.end() == 1
    wait_for(lambda: not slurm.jobs(), "the job to end", 30)
    assert slurm.job(job)["Restarts"] == "0" and not list(sweep.folder.glob("0/done*"))


TRAIN = [
    "corpora=jsonl",
    "data_mix=nl80_code20",
    "data_mix.max_epochs=1000",
    "stages=[prepare,train]",
    "strategy=fsdp",
    "trainer.accelerator=cpu",
    "tokens=204800",
    "batch_tokens=2048",
    "tokenizer.vocab_size=512",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.n_layers=2",
    "model.n_heads=2",
    "model.sequence_length=128",
    "optim.warmup_tokens=20480",
    "callbacks.checkpoints.every_tokens=1_000_000",
    "callbacks.heldout.every_tokens=1_000_000",
    "callbacks.progress.log_every_steps=1",
]


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    """Two corpora of 400 documents each, of made-up words that follow each other at random."""
    random = Random(0)
    words = ["".join(random.choices("abcdefghijklm", k=random.randint(2, 8))) for _ in range(300)]
    for name in ("nl", "code"):
        folder = tmp_path / "corpora" / name
        folder.mkdir(parents=True)
        texts = [" ".join(random.choices(words, k=80)) for _ in range(400)]
        lines = [json.dumps({"id": str(number), "text": text}) for number, text in enumerate(texts)]
        (folder / "texts.jsonl").write_text("\n".join(lines))
    return tmp_path / "corpora"


def losses(folder: Path) -> dict[int, float]:
    """Training loss [nats per token] by step."""
    with (folder / "log.csv").open(newline="") as rows:
        found = [(int(row["step"]), float(row["value"])) for row in csv.DictReader(rows) if row["name"] == LOSS]
    assert len(dict(found)) == len(found), "a step is logged once"
    return dict(found)


def test_a_requeued_training_equals_an_uninterrupted_one(
    slurm: Slurm, start: Start, corpora: Path, tmp_path: Path
) -> None:
    # The same training twice, each over both nodes, at once and with one cache; the second is requeued in mid-run.
    own = [f"corpora.path={corpora}", f"paths.cache={tmp_path / 'cache'}", "seed=3,3"]
    sweep = start(ROOT / "train.py", tmp_path / "sweep", *TRAIN, *own)
    log = sweep.folder / "1" / "log.csv"
    wait_for(lambda: log.exists() and log.read_text().count(LOSS) >= 10, f"10 steps in {log}", 180)
    slurm.run("scancel", "--signal=USR1", sweep.jobs[1])
    assert sweep.end(240) == 0, sweep.said()
    whole, requeued = (losses(sweep.folder / str(job)) for job in range(2))
    assert list(whole) == list(requeued) == list(range(1, 101))
    assert max(abs(whole[step] - requeued[step]) for step in whole) < 1e-5
    assert whole[100] < whole[1] - 0.1
    records = [json.loads((sweep.folder / str(job) / "run.json").read_text()) for job in range(2)]
    assert [record["state"] for record in records] == ["finished"] * 2
    assert ["resumed_at" in record for record in records] == [False, True]
    assert 10 <= records[1]["facts"]["resumed_at_step"] < 100
    assert "is requeued and goes on from there" in sweep.said()


def test_bad_input_ends_all_processes_with_one_line(slurm: Slurm, start: Start, tmp_path: Path) -> None:
    # Found by the first process alone, when it prepares: the second waits for it then.
    own = [f"corpora.path={tmp_path / 'nowhere'}", f"paths.cache={tmp_path / 'cache'}"]
    sweep = start(ROOT / "train.py", tmp_path / "sweep", *TRAIN, *own)
    assert sweep.end(60) == 1
    assert "nowhere" in sweep.log.read_text() and "Traceback" not in sweep.said()
    wait_for(lambda: not slurm.jobs(), "the job to end", 30)
    assert slurm.job(sweep.jobs[0])["Restarts"] == "0"
