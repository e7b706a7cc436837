"""Forecasts of models that nobody has trained yet: fitted once on all known models, kept as data, answered in seconds.

Every task and feature set is one fit: its grid point is tuned on inner folds that keep organisations whole, predictions
of every known model by fits that saw nobody of its organisation give the intervals, and all known models the predictor
itself. A fit lies in the cache under everything that went into it: the data, the question, the code, the libraries.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import njsl
from njsl.core.check import resolved
from njsl.core.config import FeatureSet
from njsl.core.run import cache_folder
from njsl.core.types import ConfigError, DataError
from njsl.core.workers import Workers
from njsl.predict import persist
from njsl.predict.base import Context, Predictor
from njsl.predict.features import ORDER, FeatureTable, design
from njsl.predict.intervals import Conformal, out_of_fold, possible
from njsl.predict.plan import Plan, rows
from njsl.predict.tune import Recipe, search
from njsl.store.store import open_store
from njsl.store.tasks import find_tasks
from njsl.store.views import TaskFrame, labelled, task_frames, widest_group

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from njsl.store.store import AnalysisStore

BASELINE = "scale"
INNER_FOLDS = 3  # of conf/cv/leave_org_out.yaml
NEW = "(new)"  # an organisation or family of which no model is known
_LIBRARIES = ("numpy", "pandas", "scipy", "scikit-learn", "xgboost-cpu", "xgboost", "lightgbm", "torch")
_CODE = ("predict", "store", "core")
_CODE_SUFFIXES = (".py", ".csv", ".yaml", ".sql")


@dataclass(frozen=True)
class Known:
    """The known models a plan is set against.

    Attributes:
        database: SHA-256 of the store.
        where: it was found.
        base: features, ``org`` and ``family`` [models, features].
        labels: scores [models, tasks], fractions, NaN = none.
        frames: by task.
    """

    database: str
    where: str
    base: pd.DataFrame
    labels: pd.DataFrame
    frames: Mapping[str, TaskFrame]

    @property
    def whole(self) -> Literal["org", "family"]:
        """What a plan is new in, and fits hold out whole: an organisation, or a family where there is but one."""
        return widest_group(self.base)

    @property
    def group(self) -> str:
        """The same in words."""
        return {"org": "organisation", "family": "family"}[self.whole]


@dataclass(frozen=True)
class Fit:
    """One predictor, fitted on all known models of a task.

    Attributes:
        point: the tuned grid point.
        model: fitted; None where it cannot be kept as data, and is fitted anew when it is asked.
        oof: predictions [models] by fits that saw nobody of the model's organisation.
        conformal: what makes an interval of a prediction.
    """

    point: dict[str, Any]
    model: Predictor | None
    oof: np.ndarray
    conformal: Conformal


@dataclass(frozen=True)
class Forecast:
    """Predictions of plans on one task with one feature set.

    Attributes:
        yhat: [plans], fractions, within the possible range.
        low, high: [levels, plans], by ``LEVELS``.
        n: known models behind it.
    """

    yhat: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int

    def of(self, place: int, count: int = 1) -> Forecast:
        """The forecast of some of the plans."""
        kept = slice(place, place + count)
        return Forecast(self.yhat[kept], self.low[:, kept], self.high[:, kept], self.n)


@dataclass(frozen=True)
class Job:
    """All that one fit needs, for a process of its own."""

    frame: TaskFrame
    recipe: Recipe
    features: str
    columns: tuple[str, ...]
    seed: int
    context: Context
    file: Path

    def X(self) -> pd.DataFrame:
        """The design matrix of the known models [models, columns]."""
        return design(self.frame.features, list(self.columns), "native")


class Forecaster:
    """Fitted predictors for every task and feature set of a config.

    Args:
        cfg: a checked ``PredictConfig``.
        console: for the progress of a first call, and for what is wrong with the cache.

    Attributes:
        known: the models behind it.
        tasks: asked for, in order.
        sets: names of the feature sets, in order.
        recipe: the predictor.
        seed: of learner and folds: the first of ``seeds``.

    Raises:
        ConfigError: several predictors, no feature set that a plan could have, no such task.
        NjslError: the data are not what they should be.
    """

    def __init__(self, cfg: DictConfig, console: Console) -> None:
        self._console = console
        self.seed = int(cfg.seeds[0])
        self.tasks = find_tasks(OmegaConf.to_container(cfg.tasks) if OmegaConf.is_config(cfg.tasks) else cfg.tasks)
        self.recipe = _recipe(cfg)
        sets = _feature_sets(cfg)
        self.sets = list(sets)
        source = {
            "files": _fingerprint(cfg),
            "store": OmegaConf.to_container(cfg.store, resolve=True),
            "tasks": [task.key.task for task in self.tasks],
            "code": code_sha256(),
            "versions": _versions(),
        }
        folder = cache_folder(cfg.paths.cache) / "forecasts" / _digest(source)
        folder.mkdir(parents=True, exist_ok=True)
        self.known = self._known(cfg, folder / "known.njsl")
        columns = self._columns(cfg, sets)
        groups = plan_groups(self.known.base)
        self._jobs = {}
        for task in self.tasks:
            frame = self.known.frames[task.key.task]
            for name in self.sets:
                self.recipe.check(columns[task.key.task, name], f"features={name}")
                asked = [task.key.task, name, columns[task.key.task, name], self.predictor_sha256, self.seed]
                context = Context(groups, self.known.labels, _stderr(frame), self.known.whole, task.key.task)
                self._jobs[task.key.task, name] = Job(
                    frame, self.recipe, name, columns[task.key.task, name], self.seed, context,
                    folder / f"{_digest(asked)}.njsl",
                )  # fmt: skip
        self._files = self._all_fits(cfg.workers)
        self._parsed: dict[tuple[str, str], Fit] = {}
        self._parallel = sys.platform == "linux" and cfg.workers != 1 and len(os.sched_getaffinity(0)) > 1

    @property
    def predictor_sha256(self) -> str:
        """Of the predictor's class and parameters, grid included."""
        kind = self.recipe.kind
        return _digest([f"{kind.__module__}.{kind.__qualname__}", list(self.recipe.params.items())])

    @property
    def full(self) -> str:
        """The feature set that stands against scale-only: the last one named."""
        return next((name for name in reversed(self.sets) if name != BASELINE), self.sets[-1])

    def reads(self, column: str) -> bool:
        """Whether the full feature set holds a column, for any task."""
        return any(column in self._jobs[task.key.task, self.full].columns for task in self.tasks)

    def protocol(self) -> str:
        """What the intervals are, in two lines."""
        sizes = [len(frame.y) for frame in self.known.frames.values()]
        n = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
        group, groups = self.known.group, self.known.base[self.known.whole].nunique()
        a, several = ("an", "organisations") if group == "organisation" else ("a", "families")
        return (
            f"Intervals: for a model of {a} {group} never seen, from predictions of n = {n} known models by fits "
            f"without their {group} (folds over {groups} {several}). "
            "What a prediction follows are associations among known models, no more."
        )

    def point(self, task: str, features: str) -> dict[str, Any]:
        """The tuned grid point of one fit."""
        return self._fit(task, features).point

    def forecast(self, plans: Sequence[Plan], task: str, features: str) -> Forecast:
        """Predictions of plans, each by itself: no plan sees another.

        Raises:
            DataError: the predictor refuses a plan, or a prediction is not finite.
        """
        job, fit = self._jobs[task, features], self._fit(task, features)
        known = job.frame.features
        X = design(
            rows(plans, known).set_axis([plan_id(plan, job.context.groups) for plan in plans]),
            list(job.columns),
            "native",
        )
        try:
            assert fit.model is not None
            yhat = np.asarray(fit.model.predict(X), dtype="float64")
        except (ValueError, ArithmeticError) as error:
            raise DataError(f"{_where(job)}: {str(error).strip().splitlines()[0]}") from error
        if not np.isfinite(yhat).all():
            refused = plans[int(np.flatnonzero(~np.isfinite(yhat))[0])]
            needed = " and ".join(job.recipe.kind.needs) or "more values"
            raise DataError(
                f"{_where(job)}: no finite prediction for plan {refused.name}; this predictor wants {needed} known"
            )
        low, high = fit.conformal.interval(yhat)
        return Forecast(yhat.clip(*possible(job.frame.task)), low, high, len(job.frame.y))

    def mean(self, plans: Sequence[Plan], tasks: Sequence[str], features: str) -> Forecast:
        """The mean score over several tasks of one metric, with an interval of its own: errors of tasks go together.

        Raises:
            DataError: as ``forecast``, or under two organisations (families, of one) have a label on all these tasks.
        """
        forecasts = [self.forecast(plans, task, features) for task in tasks]
        if len(tasks) == 1:
            return forecasts[0]
        yhat = np.mean([each.yhat for each in forecasts], axis=0)
        frames = [self.known.frames[task] for task in tasks]
        oof = pd.concat(
            [pd.Series(self._fit(t, features).oof, f.ids) for t, f in zip(tasks, frames, strict=True)], axis=1
        )
        y = pd.concat([pd.Series(frame.y, frame.ids) for frame in frames], axis=1).dropna()
        oof = oof.loc[y.index]
        orgs = self.known.base.loc[y.index, self.known.whole].to_numpy(dtype=object)
        if len(set(orgs)) < 2:
            raise DataError(
                f"the mean of {', '.join(tasks)}: {len(set(orgs))} {self.known.group} has labels on all of them"
            )
        conformal = Conformal(*possible(frames[0].task)).fit(
            oof.mean(axis=1).to_numpy(), y.mean(axis=1).to_numpy(), orgs
        )
        low, high = conformal.interval(yhat)
        return Forecast(yhat, low, high, len(y))

    def forecasts(self, plans: Sequence[Plan]) -> dict[tuple[str, str], Forecast]:
        """Predictions of plans for every task and feature set, half of them in a process of its own.

        Raises:
            DataError: as ``forecast``.
        """
        keys = list(self._jobs)
        # A fork keeps what is imported, which is most of the time of an answer; with threads about it is not safe.
        if not self._parallel or len(keys) < 2 or threading.active_count() > 1:
            return {key: self.forecast(plans, *key) for key in keys}
        context = multiprocessing.get_context("fork")
        theirs, ours = context.Pipe(duplex=False)
        helper = context.Process(target=self._answer, args=(ours, plans, keys[1::2]), daemon=True)
        helper.start()
        ours.close()
        found = {key: self.forecast(plans, *key) for key in keys[::2]}
        try:
            answer = theirs.recv()
        except EOFError as error:
            raise DataError("a process was killed, perhaps for memory; run again with workers=1") from error
        helper.join()
        if isinstance(answer, Exception):
            raise answer
        found |= answer
        return {key: found[key] for key in keys}

    def _answer(self, pipe: Connection, plans: Sequence[Plan], keys: Sequence[tuple[str, str]]) -> None:
        try:
            pipe.send({key: self.forecast(plans, *key) for key in keys})
        except Exception as error:  # whatever it is, it is raised again where it can be seen
            pipe.send(error)

    def _fit(self, task: str, features: str) -> Fit:
        """A fit, parsed when it is first asked; what could not be kept as data is fitted now."""
        key = (task, features)
        if key not in self._parsed:
            fit: Fit = persist.loads(self._files[key])
            if fit.model is None:
                job = self._jobs[key]
                fit = replace(fit, model=_fit_all(job, job.X(), fit.point))
            self._parsed[key] = fit
        return self._parsed[key]

    def _known(self, cfg: DictConfig, file: Path) -> Known:
        if file.exists():
            try:
                return self._restored(persist.read(file))
            except persist.BrokenFile as error:
                self._console.print(f"cache: {file}: {error}; read from the store again", soft_wrap=True, markup=False)
        store, where = open_store(cfg.store)
        with store:
            base, labels = labelled(store, cfg.store.view, self.tasks, freegen=False)
            frames = task_frames(store, cfg.store.view, self.tasks, freegen=False)
            kept = {
                "database": store.sha256,
                "where": where,
                "base": base,
                "labels": labels,
                "stderr": {frame.task.key.task: _stderr(frame) for frame in frames},
            }
        write(file, persist.dumps(kept))
        return self._restored(kept)

    def _restored(self, kept: dict[str, Any]) -> Known:
        base, labels = kept["base"], kept["labels"]
        frames = {}
        for task in self.tasks:
            y = labels[task.key.task].dropna()
            of_task = base.loc[y.index]
            frames[task.key.task] = TaskFrame(
                task,
                of_task.drop(columns=["org", "family"]),
                y.to_numpy("float64"),
                of_task["org"].to_numpy(dtype=object),
                of_task["family"].to_numpy(dtype=object),
                kept["stderr"][task.key.task].to_numpy("float64"),
            )
        return Known(kept["database"], kept["where"], base, labels, frames)

    def _columns(self, cfg: DictConfig, sets: Mapping[str, FeatureSet]) -> dict[tuple[str, str], tuple[str, ...]]:
        """Columns by task and feature set; the store is opened only for the paper's lists."""

        def all_of(table: FeatureTable) -> dict[tuple[str, str], tuple[str, ...]]:
            return {
                (task.key.task, name): tuple(table.columns(name, wanted, task))
                for task in self.tasks
                for name, wanted in sets.items()
            }

        if any("selected" in wanted.groups for wanted in sets.values()):
            with open_store(cfg.store)[0] as store:
                found = all_of(FeatureTable(store))
        else:
            # Groups and columns of the table itself: no store is asked.
            found = all_of(FeatureTable(cast("AnalysisStore", None)))
        for (_, name), columns in found.items():
            unwritten = [column for column in columns if column not in ORDER]
            if unwritten:
                raise ConfigError(
                    f"features.{name}: {unwritten[0]} is measured on what a trained model writes, and a plan has "
                    "written nothing; sets of the groups scale, arch and data are accepted"
                )
        return found

    def _all_fits(self, workers: int | None) -> dict[tuple[str, str], bytes]:
        """What the fits' files hold, their checksums compared."""
        found: dict[tuple[str, str], bytes] = {}
        waiting = []
        for key, job in self._jobs.items():
            if job.file.exists():
                try:
                    found[key] = job.file.read_bytes()
                    persist.check(found[key])
                    continue
                except persist.BrokenFile as error:
                    self._console.print(f"cache: {job.file}: {error}; fitted anew", soft_wrap=True, markup=False)
            waiting.append(key)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as bar, Workers(bar, workers) as pool:
            jobs = [self._jobs[key] for key in waiting]
            pool.run(fit_to_file, jobs, [1] * len(jobs), "fitting on all known models", worth=2)
        return found | {key: self._jobs[key].file.read_bytes() for key in waiting}


def fit_to_file(job: Job) -> None:
    """Tune, predict out of fold, fit on all, and keep it; in a process of its own.

    Raises:
        DataError: the predictor refuses its parameters or the data.
    """
    try:
        fit = fitted(job)
    except (ValueError, ArithmeticError) as error:  # XGBoost's, scikit-learn's and NumPy's errors are ValueErrors
        raise DataError(f"{_where(job)}: {type(error).__name__}: {str(error).strip().splitlines()[0]}") from error
    try:
        content = persist.dumps(fit)
    except persist.CannotPersist:
        content = persist.dumps(replace(fit, model=None))
    write(job.file, content)


def fitted(job: Job) -> Fit:
    """One fit; see the head of this file."""
    X, y, task = job.X(), job.frame.y, job.frame.task
    context = job.context.only(X.index)
    point = job.recipe.grid[0]
    if len(job.recipe.grid) > 1:
        inner = context.folds(list(X.index), INNER_FOLDS, job.seed)
        point, _ = search(job.recipe, X, y, inner, job.seed, task, context)
    model = _fit_all(job, X, point)
    groups = job.frame.org if job.context.whole == "org" else job.frame.family
    oof = model.unseen_
    if oof is None:
        oof = out_of_fold(job.recipe, point, X, y, context, job.seed, task)
    return Fit(point, model, oof, Conformal(*possible(task)).fit(oof, y, groups))


def _fit_all(job: Job, X: pd.DataFrame, point: dict[str, Any]) -> Predictor:
    context = job.context.only(X.index)
    return job.recipe.make(point, job.seed, job.frame.task).fit(X, job.frame.y, context)


def _where(job: Job) -> str:
    return f"predictor {job.recipe.name} on {job.frame.task.key.task}, features {job.features}"


def _stderr(frame: TaskFrame) -> pd.Series:
    given = np.full(len(frame.y), np.nan) if frame.stderr is None else frame.stderr
    return pd.Series(given, index=frame.features.index)


def plan_groups(base: pd.DataFrame) -> pd.DataFrame:
    """``org`` and ``family`` by model id, and by the ids under which plans are predicted (``plan_id``).

    A predictor that knows groups learns them when it is fitted, so every group that a plan may name has a row.
    """
    groups = base[["org", "family"]].astype(object)
    pairs = {(NEW, NEW)} | {(org, NEW) for org in groups["org"]} | set(groups.itertuples(index=False, name=None))
    made = pd.DataFrame(sorted(pairs), columns=["org", "family"])
    return pd.concat([groups, made.set_axis([_group_id(*pair) for pair in sorted(pairs)])])


def plan_id(plan: Plan, groups: pd.DataFrame) -> str:
    """The row of ``plan_groups`` a plan belongs to; an organisation or family without known models is a new one."""
    if plan.family is not None:
        of_family = groups[(groups["family"] == plan.family) & (plan.org is None or groups["org"] == plan.org)]
        if len(of_family):
            return _group_id(*of_family.iloc[0])
    return _group_id(plan.org if plan.org is not None and plan.org in set(groups["org"]) else NEW, NEW)


def _group_id(org: str, family: str) -> str:
    return f"(plan) {org} / {family}"  # no model's id has blanks


def write(file: Path, content: bytes) -> None:
    """Write whole or not at all, beside other processes that write the same."""
    beside = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)


def _recipe(cfg: DictConfig) -> Recipe:
    from njsl.predict.run import asked_for

    given = cfg.predictor if asked_for("predictor") else cfg.plan.predictor
    if len(given) != 1:
        raise ConfigError(
            f"predictor: {', '.join(given)}; mode={cfg.mode} takes one, e.g. predictor={next(iter(given))}"
        )
    ((name, node),) = given.items()
    return Recipe.of(str(name), resolved(node))


def _feature_sets(cfg: DictConfig) -> dict[str, FeatureSet]:
    """The sets asked for, scale-only first; of the default ones those selected on the known models are left out."""
    from njsl.predict.run import asked_for

    sets = dict(cfg.features)
    if not asked_for("features"):
        sets = {name: wanted for name, wanted in sets.items() if "selected" not in wanted.groups}
    first = {BASELINE: sets.pop(BASELINE)} if BASELINE in sets else {BASELINE: FeatureSet(groups=[BASELINE])}
    return first | sets


def _fingerprint(cfg: DictConfig) -> dict[str, str]:
    """SHA-256 by name of the files the store would be read from."""
    if cfg.store.name == "paper":
        from njsl.store.paper import locate

        paper = locate(cfg.store.path)
        files: Iterable[Path] = [*sorted(paper.export.glob("*.csv")), *filter(None, (paper.freegen, paper.selected))]
    elif cfg.store.path is None:
        return {}  # open_store says what is wrong
    else:
        path = Path(cfg.store.path).expanduser()
        files = sorted(path.glob("*.csv")) if path.is_dir() else [path] if path.is_file() else []
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@functools.cache
def code_sha256() -> str:
    """Of the code that makes a forecast and the data shipped with it."""
    root = Path(njsl.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for part in _CODE for path in (root / part).rglob("*") if path.suffix in _CODE_SUFFIXES):
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an absent library is part of what tells two caches apart
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=False, default=str).encode()).hexdigest()
