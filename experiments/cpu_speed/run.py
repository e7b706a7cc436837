"""Tokens per second on a CPU: train.py against a plain `transformers` Trainer, one process each, in turn.

python experiments/cpu_speed/run.py
python experiments/cpu_speed/run.py --shapes tiny --micro 8 --rounds 5
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from hydra import compose, initialize_config_dir

from njsl.core.check import build
from njsl.core.config import register
from njsl.train.corpus import open_corpus
from njsl.train.datamodule import MicroBatches
from njsl.train.mix import SampleOrder
from njsl.train.prepare import find_prepared
from njsl.train.schedule import Schedule

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GOAL, LOADER_FRAC = 1.15, 0.02
# Overrides of train.py, steps that are not measured (and that numbers are logged after), steps of a run.
SHAPES: dict[str, tuple[list[str], int, int]] = {
    "tiny": ([], 5, 30),
    "tiny_wide": (["batch_tokens=8192"], 5, 20),
    "medium": (
        [
            "model.hidden_size=512",
            "model.intermediate_size=1408",
            "model.n_layers=8",
            "model.n_heads=8",
            "model.sequence_length=512",
            "batch_tokens=4096",
        ],
        2,
        6,
    ),
}


def composed(overrides: list[str]) -> Any:
    """The config that train.py sees."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides)


def windows(cfg: Any) -> tuple[Schedule, int, np.ndarray]:
    """What train.py trains on.

    Returns:
        The schedule, the vocabulary's size and int64 [steps * step_sequences, sequence_tokens].
    """
    prepared = find_prepared(cfg, build(cfg.tokenizer), Path(cfg.paths.cache))
    assert prepared is not None, "the stage prepare has run"
    tokenizer = json.loads((prepared.tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    vocab_size = len(tokenizer["model"]["vocab"].keys() | {token["content"] for token in tokenizer["added_tokens"]})
    plan = Schedule.plan(cfg.tokens, cfg.batch_tokens, cfg.model.sequence_length, None, 1)
    corpora = {
        name: open_corpus(folder, "train", tokenizer_sha256=None, vocab_size=vocab_size, verify=False)
        for name, folder in prepared.corpora.items()
    }
    lengths = {name: corpus.windows(plan.sequence_tokens) for name, corpus in corpora.items()}
    order = SampleOrder(cfg.seed, {name: cfg.data_mix.weights[name] for name in lengths}, lengths)
    batches = MicroBatches(corpora, order, plan, 0, 0)
    return plan, vocab_size, np.concatenate([batches[step].numpy()[:, :-1] for step in range(plan.steps)])


def start(command: list[str], threads: int) -> dict[str, float]:
    """Run one side to its end.

    Returns:
        ``cpu_sec``: CPU time of the whole process [s]; ``others``: what everything else took meanwhile [cores].
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    busy, begin = busy_sec(), time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: ended with status {os.waitstatus_to_exitcode(status)}")
    cpu_sec = usage.ru_utime + usage.ru_stime
    return {"cpu_sec": cpu_sec, "others": (busy_sec() - busy - cpu_sec) / (time.perf_counter() - begin)}


def busy_sec() -> float:
    """Time all cores have worked since the machine started [s]."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def ours(overrides: list[str], first: int, threads: int, folder: Path) -> dict[str, float]:
    """One run of train.py; its numbers are those of its own log."""
    used = start([str(ROOT / "train.py"), *overrides, f"hydra.run.dir={folder}"], threads)
    logged: dict[str, dict[int, float]] = {}
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["step"]:
                logged.setdefault(row["name"], {})[int(row["step"])] = float(row["value"])
    # Intervals of equal length, so the harmonic mean is tokens over time.
    measured = sorted(step for step in logged["train/tokens_per_sec"] if step > first)
    return {
        "tokens_per_sec": statistics.harmonic_mean([logged["train/tokens_per_sec"][step] for step in measured]),
        "loader_frac": max(logged["train/loader_frac"][step] for step in measured),
        "loss_nats": logged["train/loss_nats"][measured[-1]],
    } | used


def plain(job: dict[str, Any], threads: int, folder: Path) -> dict[str, float]:
    """One run of the Trainer."""
    folder.mkdir(parents=True)
    output = folder / "result.json"
    (folder / "job.json").write_text(json.dumps(job | {"output": str(output)}))
    used = start([str(HERE / "plain_trainer.py"), str(folder / "job.json")], threads)
    return json.loads(output.read_text()) | used


def compare(shape: str, arguments: argparse.Namespace, scratch: Path) -> None:
    """Print both sides' speeds and their ratio, of the medians and of the fastest runs."""
    overrides, first, steps = SHAPES[shape]
    cfg = composed(overrides)
    overrides = [
        *overrides,
        f"tokens={(arguments.steps or steps) * cfg.batch_tokens}",
        f"trainer.micro_batch_sequences={arguments.micro or 'null'}",
        f"trainer.threads={arguments.threads}",
        f"trainer.compile={arguments.compile}",
        f"paths.cache={arguments.cache}",
        "trainer.accelerator=cpu",
        f"callbacks.progress.log_every_steps={first}",
        "callbacks.heldout.max_tokens=512",
        # The Trainer's own schedule.
        "optim.min_lr=0",
        f"optim.warmup_tokens={first * cfg.batch_tokens}",
        "logger=csv",
    ]
    start([str(ROOT / "train.py"), *overrides, "stages=[prepare]", f"hydra.run.dir={scratch / 'prepare'}"], 1)
    cfg = composed(overrides)
    plan, vocab_size, windows_NT = windows(cfg)
    np.save(scratch / "windows.npy", windows_NT)
    names = {"intermediate_size", "hidden_size", "rope_theta"}
    job = {
        "model": {name: cfg.model[name] for name in names}
        | {
            "num_hidden_layers": cfg.model.n_layers,
            "num_attention_heads": cfg.model.n_heads,
            "max_position_embeddings": cfg.model.sequence_length,
            "rms_norm_eps": cfg.model.norm_eps,
            "tie_word_embeddings": cfg.model.tied_head,
            "vocab_size": vocab_size,
            "attn_implementation": "sdpa",
        },
        "windows": str(scratch / "windows.npy"),
        "step_sequences": plan.step_sequences,
        "micro_sequences": arguments.micro or plan.step_sequences,
        "steps": plan.steps,
        "first": first,
        "threads": arguments.threads,
        "compile": arguments.compile,
        "lr": cfg.optim.lr,
        "weight_decay": cfg.optim.weight_decay,
        "betas": list(cfg.optim.betas),
        "clip_norm": cfg.optim.clip_norm,
    }
    results: dict[str, list[dict[str, float]]] = {"njsl": [], "Trainer": []}
    disturbed = 0
    while len(results["njsl"]) < arguments.rounds:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            one = ours([*overrides, "stages=[train]"], first, arguments.threads, Path(folder) / "njsl")
            other = plain(job, arguments.threads, Path(folder) / "trainer")
        if max(one["others"], other["others"]) > arguments.others:
            disturbed += 1
            print(
                f"  disturbed, not counted: others took {one['others']:.2f} and {other['others']:.2f} cores; "
                f"{one['tokens_per_sec']:.0f} and {other['tokens_per_sec']:.0f} tokens/s",
                flush=True,
            )
            if disturbed > arguments.rounds * 4:
                raise SystemExit("this machine is too busy to measure on; try again later, or give --others")
            continue
        results["njsl"].append(one)
        results["Trainer"].append(other)
    print(
        f"{shape}: {plan.step_sequences} x {plan.sequence_tokens} tokens a step, {job['micro_sequences']} sequences at "
        f"once, steps {first + 1} to {plan.steps}, {arguments.threads} threads, {arguments.rounds} rounds"
        f"{', compiled' if arguments.compile else ''}; {disturbed} disturbed ones repeated"
    )
    print(f"{'':8} {'tokens/s':>9} {'lowest':>7} {'highest':>7} {'CPU [s]':>8} {'loss [nats]':>12}")
    for side, runs in results.items():
        speeds = [run["tokens_per_sec"] for run in runs]
        cpu_sec, loss = (statistics.median(run[key] for run in runs) for key in ("cpu_sec", "loss_nats"))
        print(f"{side:8} {statistics.median(speeds):9.0f} {min(speeds):7.0f} {max(speeds):7.0f}", end="")
        print(f" {cpu_sec:8.0f} {loss:12.3f}")
    of_medians, of_fastest = (
        f([run["tokens_per_sec"] for run in results["njsl"]]) / f([run["tokens_per_sec"] for run in results["Trainer"]])
        for f in (statistics.median, max)
    )
    loader = max(run["loader_frac"] for run in results["njsl"])
    print(
        f"  ratio {of_medians:.2f} of medians, {of_fastest:.2f} of the fastest: "
        f"{'met' if of_medians >= GOAL else 'MISSED'}, {GOAL} is asked for; loader at most {loader:.2%} of the step: "
        f"{'met' if loader < LOADER_FRAC else 'MISSED'}, {LOADER_FRAC:.0%} is allowed",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of a run, e.g. 30; the shape's own by default")
    parser.add_argument("--micro", type=int, help="sequences per forward pass of both; all of a step's by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--others", type=float, default=0.15, help="a round is repeated if others took more [cores]")
    parser.add_argument("--compile", action="store_true", help="torch.compile on both sides")
    cache = os.environ.get("NJSL_CACHE") or platformdirs.user_cache_path("njsl")
    parser.add_argument("--cache", type=Path, default=cache, help="prepared corpora")
    arguments = parser.parse_args()
    register()
    for shape in arguments.shapes:
        with tempfile.TemporaryDirectory() as scratch:
            compare(shape, arguments, Path(scratch))


if __name__ == "__main__":
    main()
