"""What a user sees: one line and exit code 1 for what can be mended, a traceback for a bug, and `--help` at once."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    "pandas",
    "sklearn",
    "wandb",
    "xgboost",
    "lightgbm",
    "duckdb",
    "torch",
    "matplotlib",
    "pyarrow",
    "shap",
    "scipy",
)

TOY = dedent(
    """
    import sys, time, types
    from dataclasses import dataclass, field
    from typing import Any
    import hydra
    from omegaconf import MISSING
    from njsl.core import config
    from njsl.core.entry import one_line_errors, verb
    from njsl.core.types import DataError

    @dataclass
    class Toy:
        end: str = "well"
        count: int = 1
        logger: Any = MISSING
        paths: config.PathsConfig = field(default_factory=config.PathsConfig)

    def run(cfg, run):
        run.claim()
        print("ran", cfg.end)
        if cfg.end == "data":
            raise DataError("a.csv:\\n  3 rows, expected 30")
        if cfg.end == "os":
            open("/no/such/file")
        if cfg.end == "bug":
            raise ZeroDivisionError("a bug")
        if cfg.end == "wait":
            print("waiting", flush=True)
            time.sleep(60)

    story = types.ModuleType("njsl.toy.run")
    story.run = run
    sys.modules["njsl.toy.run"] = story
    config.SCHEMAS["toy"] = Toy
    config.register()

    @hydra.main(version_base="1.3", config_path="conf", config_name="toy")
    def main(cfg):
        verb("toy", cfg)

    if __name__ == "__main__":
        one_line_errors(main)
    """
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one small verb, and the real groups logger, paths and hydra."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.py").write_text(TOY)
    for group in ("logger", "paths", "hydra"):
        shutil.copytree(ROOT / "conf" / group, folder / "conf" / group)
    (folder / "conf" / "toy.yaml").write_text(
        "defaults: [toy_schema, _self_, {logger: none}, {paths: default}, {hydra: default}]\n"
    )
    return folder


def environment(**changes: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("HYDRA_FULL_ERROR", "OMP_NUM_THREADS")}
    return {**kept, **changes}


def toy(folder: Path, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "toy.py", *words]
    return subprocess.run(command, cwd=folder, env=environment(**changes), capture_output=True, text=True, timeout=60)


def test_a_good_run(folder: Path) -> None:
    done = toy(folder, "hydra.run.dir=good", "logger=csv")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran well\n", "")
    # Hydra's own logging and its .hydra folder would otherwise lie beside these.
    assert sorted(path.name for path in (folder / "good").iterdir()) == ["config.yaml", "log.csv", "run.json"]
    record = json.loads((folder / "good" / "run.json").read_text())
    assert record["choices"]["logger"] == "csv" and record["argv"][1:] == ["hydra.run.dir=good", "logger=csv"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["end=data"], "a.csv: 3 rows, expected 30"),
        (["end=os"], "/no/such/file: No such file or directory"),
        (["cuont=3"], "cuont: unknown key (did you mean 'count'?); accepted: end, count, logger, paths"),
        (["+cuont=3"], "cuont: unknown key (did you mean 'count'?); accepted: end, count, logger, paths"),
        (
            ["count=x"],
            "Error merging override count=x: count: Value 'x' of type 'str' could not be converted to Integer",
        ),
        (["count=${x}"], "count: Interpolation key 'x' not found"),
        (["logger=cvs"], "logger: there is no 'cvs' (did you mean 'csv'?); accepted: csv, none, wandb"),
        (["logger=null"], "Config group override must be a string or a list. Got NoneType"),
        (["hydra/launcher=basci"], "hydra/launcher: there is no 'basci' (did you mean 'basic'?); accepted: basic"),
        (["word"], "Error parsing override 'word' missing EQUAL at '<EOF>'"),
        (["+x=["], "no viable alternative at input '['"),
        (["--confg", "x"], "unrecognized arguments: --confg"),
        (["hydra.run.dir=toy.py"], "hydra.run.dir: 'toy.py' cannot be a folder, a file is in its place"),
        (["hydra.run.dir=toy.py/x"], "hydra.run.dir: 'toy.py/x' cannot be a folder, a file is in its place"),
        (["hydra.run.dir=conf"], "conf is not empty and no run folder (it has no run.json); choose another"),
        (["--config-name=nope"], "Cannot find primary config 'nope'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_line(folder: Path, tmp_path: Path, words: list[str], line: str) -> None:
    own = [] if "hydra.run.dir" in words[0] else [f"hydra.run.dir={tmp_path / 'out'}"]
    done = toy(folder, *own, *words)
    assert done.returncode == 1
    assert done.stderr.startswith("toy.py: ") and done.stderr.count("\n") == 1
    assert line in done.stderr and "Traceback" not in done.stdout


def test_a_broken_yaml_is_one_line(folder: Path) -> None:
    (folder / "broken").mkdir(exist_ok=True)
    (folder / "broken" / "toy.yaml").write_text("a: [1,\n")
    done = toy(folder, "--config-path", str(folder / "broken"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "toy.yaml" in done.stderr


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sead: 3", "In 'experiment/typo': sead: unknown key (did you mean 'seeds'?); accepted: mode, store,"),
        (
            "selection: {max_step: 3}",
            "selection.max_step: unknown key (did you mean 'max_steps'?); accepted: candidates,",
        ),
        ("seeds: abc", "In 'experiment/typo': seeds: Invalid value assigned: expected a list"),
        ("store: {view: rwa}", "store.view: 'rwa' is not known (did you mean 'raw'?); accepted: raw, curated"),
        ("logger: {modde: online}", "logger.modde: unknown key"),
        ("tasks: ${nowhere}", "tasks: Interpolation key 'nowhere' not found"),
    ],
)
def test_a_fault_in_an_experiment_of_the_real_verb(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "typo.yaml").write_text(f"# @package _global_\n{text}\n")
    words = ["experiment=typo", f"hydra.run.dir={tmp_path / 'out'}", "--config-dir", str(tmp_path)]
    command = [sys.executable, str(ROOT / "predict.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.startswith("predict.py: ") and done.stderr.count("\n") == 1
    assert line in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_refused_start_leaves_no_folder(folder: Path) -> None:
    assert toy(folder, "+cuont=3", "hydra.run.dir=refused").returncode == 1
    assert not (folder / "refused").exists()


def test_a_bug_is_a_traceback(folder: Path) -> None:
    done = toy(folder, "end=bug", "hydra.run.dir=bug")
    assert done.returncode == 1 and "Traceback" in done.stderr and "ZeroDivisionError: a bug" in done.stderr
    assert json.loads((folder / "bug" / "run.json").read_text())["exit_reason"] == "failed: ZeroDivisionError: a bug"


@pytest.mark.parametrize("words", [["end=data"], ["cuont=3"]])
def test_full_error_shows_everything(folder: Path, words: list[str]) -> None:
    done = toy(folder, *words, HYDRA_FULL_ERROR="1")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_an_interrupt_is_one_line(folder: Path) -> None:
    command = [sys.executable, "toy.py", "end=wait", "hydra.run.dir=wait"]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert [process.stdout.readline(), process.stdout.readline()] == ["ran wait\n", "waiting\n"]
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "toy.py: interrupted\n"
    assert process.returncode == 130
    assert json.loads((folder / "wait" / "run.json").read_text())["state"] == "interrupted"


def test_in_a_multirun_the_other_jobs_still_run(folder: Path) -> None:
    done = toy(folder, "-m", "end=data,well,os,bug", "hydra.sweep.dir=sweep")
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("toy.py")]
    assert said == [
        "toy.py: job 0 (end=data): a.csv: 3 rows, expected 30",
        "toy.py: job 2 (end=os): /no/such/file: No such file or directory",
        "toy.py: job 3 (end=bug): a bug",
    ]
    assert done.stderr.count("Traceback") == 1 and "\nZeroDivisionError: a bug\n" in done.stderr
    states = [json.loads((folder / "sweep" / job / "run.json").read_text())["state"] for job in "0123"]
    assert states == ["failed", "finished", "failed", "failed"]


def test_one_thread_per_process_unless_said_otherwise(folder: Path) -> None:
    code = (
        "import os; from njsl.core.entry import one_line_errors as e; e(lambda: print(os.environ['OMP_NUM_THREADS']))"
    )
    command = [sys.executable, "-c", code]
    said = [
        subprocess.run(command, env=environment(**more), capture_output=True, text=True).stdout
        for more in ({}, {"OMP_NUM_THREADS": "3"})
    ]
    assert said == ["1\n", "3\n"]


def test_help_is_quick_and_imports_nothing_heavy(tmp_path: Path) -> None:
    code = f"""
import runpy, sys
sys.argv = ["predict.py", "--help"]
try:
    runpy.run_path({str(ROOT / "predict.py")!r}, run_name="__main__")
except SystemExit as end:
    assert end.code == 0, end.code
print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules])
"""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60
    )
    after, wall_sec = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - started
    cpu_sec = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.returncode == 0, done.stderr
    assert "predictor:" in done.stdout and "HEAVY []" in done.stdout
    assert cpu_sec < 1.5, f"{cpu_sec:.2f} s of CPU, {wall_sec:.2f} s of wall time"
    assert list(tmp_path.iterdir()) == []
