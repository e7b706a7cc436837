"""The story of a prediction run: frames -> units of work in parallel -> tables -> explanation -> report."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from njsl.core.check import build, resolved
from njsl.core.run import Run, write_atomic
from njsl.core.types import ConfigError
from njsl.predict import metrics, report
from njsl.predict.evaluate import Result, Unit, evaluate
from njsl.predict.features import Encoding, FeatureTable
from njsl.predict.select_nested import NestedSelection
from njsl.predict.select_paper import Key, PaperSelection, run_searches
from njsl.predict.tune import Recipe
from njsl.store import AnalysisStore, open_store
from njsl.store.population import described
from njsl.store.tasks import Task, find_tasks
from njsl.store.views import TaskFrame, task_frames

log = logging.getLogger(__name__)
PAPER_SELECT_ENCODING: Encoding = "ordinal_missing"
# The other modes' own stories.
_STORIES = {
    "whatif": "njsl.predict.whatif",
    "design": "njsl.predict.design",
    "mix": "njsl.predict.mix",
    "score": "njsl.predict.calibration",
}


@contextlib.contextmanager
def _quiet_when_interrupted() -> Iterator[None]:
    """After Ctrl-C joblib ends its workers, and a thread of its own may stumble over what is gone: nobody's error."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        threading.excepthook = lambda _: None
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@_quiet_when_interrupted()
def run(cfg: DictConfig, run: Run) -> None:
    """``predict.py``: ``mode=fit`` here, the other modes where ``_STORIES`` says.

    Args:
        cfg: a checked ``PredictConfig``.
        run: its folder, not yet claimed.

    Raises:
        NjslError: the config, the data or the folder are not what they should be.
    """
    if cfg.mode != "fit":
        importlib.import_module(_STORIES[cfg.mode]).run(cfg, run)
        return
    console = Console()
    if cfg.workers is not None and cfg.workers < 1:
        raise ConfigError(f"workers: {cfg.workers}; at least 1 is accepted, or null for one per core")
    tasks = find_tasks(OmegaConf.to_container(cfg.tasks) if OmegaConf.is_config(cfg.tasks) else cfg.tasks)
    store, where = open_store(cfg.store)
    with store:
        for line in (f"store: {where}, view {cfg.store.view}", *described(store, cfg.store.view)):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        sets = _feature_sets(cfg, store, console)
        table = FeatureTable(store)
        candidates = cfg.selection.candidates if cfg.select != "none" else []
        frames = _frames(cfg, store, table, sets, candidates, tasks)
        units = list(_units(cfg, table, sets, frames))
        _try_folds(units)
        run.claim(database=store.sha256)
    if run.finished:
        console.print(f"{run.output} holds this run, finished; its table:", highlight=False, markup=False)
        report.show(run.output, console)
        return
    run.record(
        database={"path": str(store.source), "sha256": store.sha256, "view": cfg.store.view},
        models={frame.task.key.task: len(frame.y) for frame in frames},
    )
    pool = Pool(run.output / "units", cfg.workers, console)
    histories: list[tuple[Unit, list[list[dict[str, Any]]]]] = []
    if cfg.select == "paper":
        units, histories = _select_in_sample(cfg, table, units, pool)
    pairs = []
    for step, (unit, result) in enumerate(pool.map(units, "scoring held-out models")):
        pairs.append((unit, result))
        name = f"{unit.cv_name}/{unit.recipe.name}/{unit.features}/{unit.frame.task.key.task}"
        run.logger.log(step, {f"{name}/mae": metrics.mae(unit, result)})
    if cfg.select == "nested":
        histories = [(unit, result.history) for unit, result in pairs if unit.select == "nested"]
    report.write(run, pairs, histories, cfg.select, cfg.store.view, significance=cfg.significance)
    shutil.rmtree(run.output / "units")
    report.show(run.output, console)


class Pool:
    """Runs units in parallel processes, each written to its own file when done, so that a killed run resumes.

    Args:
        folder: where the units' files lie.
        workers: processes; None is one per core.
        console: for the progress bar.
    """

    def __init__(self, folder: Path, workers: int | None, console: Console) -> None:
        self._folder = folder
        self._workers = workers
        self._console = console
        folder.mkdir(exist_ok=True)

    def map(self, units: list[Unit], title: str) -> Iterator[tuple[Unit, Result]]:
        """Every unit with its result, in the order given; what has a file already is read from it."""
        import joblib

        files = [self._folder / f"{_digest(unit)}.json" for unit in units]
        waiting = [number for number, file in enumerate(files) if not file.exists()]
        workers = min(self._workers or joblib.cpu_count(), max(1, len(waiting)))
        parallel = joblib.Parallel(n_jobs=workers, return_as="generator", pre_dispatch="4*n_jobs")
        fresh = parallel(joblib.delayed(_evaluate)(units[number], os.getpid()) for number in waiting)
        pending = iter(waiting)
        upcoming = next(pending, None)
        with self._bar() as bar:
            job = bar.add_task(title, total=len(units))
            for number, (unit, file) in enumerate(zip(units, files, strict=True)):
                if number == upcoming:
                    result = next(fresh)
                    write_atomic(file, json.dumps(asdict(result)))
                    upcoming = next(pending, None)
                else:
                    result = Result.from_json(json.loads(file.read_text()))
                bar.update(job, advance=1, description=f"{title} ({unit.frame.task.key.task})")
                yield unit, result

    def _bar(self) -> Progress:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        return Progress(*columns, console=self._console, transient=True)


def _evaluate(unit: Unit, parent: int) -> Result:
    """``evaluate`` in a worker process that does not outlive the run, however that was killed."""
    if os.getpid() != parent:
        _end_with(parent)
    return evaluate(unit)


@functools.cache
def _end_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _digest(unit: Unit) -> str:
    """What tells units of one run apart; config, data and code are the run folder's identity already."""
    key = [
        *unit.frame.task.key,
        unit.recipe.name,
        unit.cv_name,
        unit.features,
        unit.select,
        unit.columns,
        unit.encoding,
        unit.seed,
        unit.explain,
        unit.intervals,
    ]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def _feature_sets(cfg: DictConfig, store: AnalysisStore, console: Console) -> dict[str, Any]:
    """The sets asked for. With an export folder alone the default goes without ``selected``, and says so."""
    sets = dict(cfg.features)
    if "selected" in sets and store.selected is None and not asked_for("features"):
        del sets["selected"]
        console.print(
            "features: selected is left out, its lists are not beside the export", highlight=False, markup=False
        )
    return sets


def asked_for(group: str) -> bool:
    """Whether a group was chosen on the command line, by itself or by an experiment."""
    from hydra.core.hydra_config import HydraConfig

    words = [word.lstrip("+~") for word in HydraConfig.get().overrides.task]
    return any(word.startswith((f"{group}=", f"{group}.", "experiment=")) for word in words)


def _frames(
    cfg: DictConfig,
    store: AnalysisStore,
    table: FeatureTable,
    sets: dict[str, Any],
    candidates: Iterable[str],
    tasks: list[Task],
) -> list[TaskFrame]:
    wanted = sets | ({"selection.candidates": table.candidate_set(list(candidates))} if candidates else {})
    return task_frames(store, cfg.store.view, tasks, freegen=table.needs_freegen(wanted, tasks))


def _units(cfg: DictConfig, table: FeatureTable, sets: dict[str, Any], frames: list[TaskFrame]) -> Iterator[Unit]:
    recipes = [_recipe(name, node) for name, node in cfg.predictor.items()]
    protocols = {name: build(node) for name, node in cfg.cv.items()}
    labels = pd.DataFrame({frame.task.key.task: pd.Series(frame.y, frame.ids) for frame in frames})
    for frame in frames:
        for recipe in recipes:
            for cv_name, cv in protocols.items():
                for name, wanted in sets.items():
                    columns = tuple(table.columns(name, wanted, frame.task))
                    recipe.check(columns, f"features={name}")
                    nested = None
                    if cfg.select == "nested":
                        added = table.columns(
                            "selection.candidates", table.candidate_set(cfg.selection.candidates), frame.task
                        )
                        nested = NestedSelection(
                            tuple(c for c in added if c not in columns), cfg.selection.max_steps, cfg.selection.min_gain
                        )
                    encoding = PAPER_SELECT_ENCODING if cfg.select == "paper" else cv.encoding
                    for seed in cfg.seeds:
                        unit = Unit(
                            frame,
                            recipe,
                            cv_name,
                            cv,
                            name,
                            cfg.select,
                            columns,
                            encoding,
                            seed,
                            nested,
                            cfg.explain,
                            labels,
                            cfg.intervals,
                        )
                        yield unit
                        if name == metrics.BASELINE and cfg.select != "none":
                            # What a grown set is compared with: scale-only as it is.
                            yield replace(unit, select="none", encoding=cv.encoding, nested=None, explain=False)


def _try_folds(units: list[Unit]) -> None:
    """Make every protocol's folds once, so that data it cannot split are refused before a folder is claimed."""
    for unit in {(u.frame.task.key.task, u.cv_name): u for u in units}.values():
        for fold in unit.cv.outer(unit.frame, unit.seed):
            unit.cv.inner(unit.frame, fold.train, unit.seed)


def _recipe(name: str, node: DictConfig) -> Recipe:
    return Recipe.of(name, resolved(node))


def _select_in_sample(
    cfg: DictConfig, table: FeatureTable, units: list[Unit], pool: Pool
) -> tuple[list[Unit], list[Any]]:
    """The paper's search for every task, predictor, protocol and start; all searches take their steps together."""
    grown = [unit for unit in units if unit.select == "paper"]
    first: dict[Key, Unit] = {_search_key(unit): unit for unit in grown}
    searches: dict[Key, PaperSelection] = {}
    for key, unit in first.items():
        wanted = table.candidate_set(cfg.selection.candidates)
        candidates = table.columns("selection.candidates", wanted, unit.frame.task)
        searches[key] = PaperSelection(unit.columns, tuple(candidates), cfg.selection.max_steps, cfg.selection.min_gain)

    def score(asked: list[Unit], step: int) -> Iterator[float]:
        for unit, result in pool.map(asked, f"select=paper, step {step}"):
            yield metrics.mae(unit, result)

    run_searches(searches, first, list(cfg.selection.seeds), score)
    units = [replace(u, columns=searches[_search_key(u)].chosen) if u.select == "paper" else u for u in units]
    return units, [(first[key], [search.history]) for key, search in searches.items()]


def _search_key(unit: Unit) -> Key:
    return unit.frame.task.key.task, unit.recipe.name, unit.cv_name, unit.features
