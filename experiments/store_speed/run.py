"""How long an import of 100,000 scores takes, and a look at the paper's database: wall and CPU seconds."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from njsl.store.__main__ import main as verb

ROWS = 100_000
SUBJECTS = 100


def result_file(model: str, scores: int, metrics: tuple[str, ...], shift: float) -> dict[str, object]:
    """A file of lm-evaluation-harness 0.4 with metrics and their standard errors per task."""
    tasks = scores // len(metrics)
    names = [f"task_{number:05d}" for number in range(tasks)]
    values = [(number + shift) / (tasks + 1) for number in range(tasks)]
    return {
        "results": {
            name: {"alias": name}
            | {f"{metric},none": value for metric in metrics}
            | {f"{metric}_stderr,none": 0.01 for metric in metrics}
            for name, value in zip(names, values, strict=True)
        },
        "configs": {name: {"task": name, "num_fewshot": 5, "metadata": {"version": 1.0}} for name in names},
        "versions": dict.fromkeys(names, 1.0),
        "n-shot": dict.fromkeys(names, 5),
        "config": {"model": "hf", "model_args": f"pretrained={model}", "model_dtype": "torch.bfloat16"},
        "date": 1_717_236_030.5,
        "lm_eval_version": "0.4.9",
        "model_name": model,
    }


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def quiet(*words: str) -> None:
    """A verb in this process, its output thrown away."""
    with contextlib.redirect_stdout(io.StringIO()):
        code = verb(words)
    if code:
        sys.exit(f"{' '.join(words)}: exit code {code}")


def imports(folder: Path, files: int, metrics: tuple[str, ...]) -> tuple[float, float]:
    """Wall and CPU seconds of ``import-evals`` in a process of its own, start included."""
    results = folder / f"results_{files}_{len(metrics)}"
    results.mkdir(exist_ok=True)
    for number in range(files):
        content = result_file(f"org/model-{number}", ROWS // files, metrics, number / files)
        (results / f"results_{number:04d}.json").write_text(json.dumps(content))
    database = folder / "imports.duckdb"
    database.unlink(missing_ok=True)
    quiet("create", str(database))
    command = [sys.executable, "-m", "njsl.store", "import-evals", str(database), str(results)]
    script = (
        "import resource, subprocess, sys, time; t = time.perf_counter(); "
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "u = resource.getrusage(resource.RUSAGE_CHILDREN); print(time.perf_counter() - t, u.ru_utime + u.ru_stime)"
    )
    answer = subprocess.run([sys.executable, "-c", script, *command], check=True, capture_output=True, text=True)
    wall, cpu = map(float, answer.stdout.split())
    return wall, cpu


def main() -> None:
    """Print a table: medians over rounds, and the fastest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds

    import duckdb  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow  # noqa: F401

    from njsl.store import AnalysisStore

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paper = folder / "paper.duckdb"
        quiet("create", str(paper), "--from", "paper")

        def frame(source: str, view: str) -> None:
            with AnalysisStore.open(source) as store:
                store.frame("core", view)

        measures: dict[str, Callable[[], tuple[float, float]]] = {
            f"import-evals, {files} files, {len(metrics)} scores a task": partial(imports, folder, files, metrics)
            for files in (ROWS // SUBJECTS, 1)
            for metrics in (("acc",), ("acc", "acc_norm"))
        }
        measures["yardstick: a sum over 20 million numbers"] = lambda: timed(
            lambda: sum(number for number in range(20_000_000))
        )
        for label, source in (("export folder", "paper"), ("database file", str(paper))):
            for what, words in (
                ("tables", ()),
                ("one model", ("EleutherAI/pythia-160m",)),
                ("coverage", ("--coverage",)),
            ):
                measures[f"show, {what}, {label}"] = lambda source=source, words=words: timed(
                    lambda: quiet("show", source, *words)
                )
            for view in ("raw", "curated"):
                measures[f"open and frame(core, {view}), {label}"] = lambda source=source, view=view: timed(
                    lambda: frame(source, view)
                )
        print(f"{'':<58}{'wall s, median':>16}{'fastest':>9}{'CPU s, median':>15}   ({rounds} rounds)")
        for label, measure in measures.items():
            walls, cpus = zip(*(measure() for _ in range(rounds)), strict=True)
            print(f"{label:<58}{statistics.median(walls):>16.2f}{min(walls):>9.2f}{statistics.median(cpus):>15.2f}")


if __name__ == "__main__":
    main()
