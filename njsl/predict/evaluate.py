"""One unit of work: a predictor on one task, feature set, protocol and seed, scored on held-out models."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from njsl.core.types import DataError
from njsl.predict.base import LN_PARAMS, LN_TOKENS, Context, numeric
from njsl.predict.features import LOGGED, Encoding, design
from njsl.predict.intervals import conformal
from njsl.predict.select_nested import NestedSelection
from njsl.predict.splits import Fold, Splitter
from njsl.predict.tune import Recipe, search
from njsl.store.views import TaskFrame


@dataclass(frozen=True)
class Unit:
    """What names and determines one unit.

    Attributes:
        frame: the task's rows.
        recipe: the predictor and its grid.
        cv_name, cv: the protocol.
        features: name of the feature set.
        select: ``none``, ``paper`` or ``nested``: how the columns are chosen.
        columns: its columns, in order.
        encoding: see ``features.design``; the protocol's, or the second one under ``select=paper``.
        seed: of folds and learner.
        nested: redo forward selection inside every training fold, or None.
        explain: also SHAP values and importances.
        labels: scores on all tasks of the run [models, tasks] by model id; None is this task's alone. Of a fold only
            the training models' reach a predictor.
        intervals: also prediction intervals.
    """

    frame: TaskFrame
    recipe: Recipe
    cv_name: str
    cv: Splitter
    features: str
    select: str
    columns: tuple[str, ...]
    encoding: Encoding
    seed: int
    nested: NestedSelection | None
    explain: bool
    labels: pd.DataFrame | None = None
    intervals: bool = False


@dataclass
class FoldResult:
    """One outer fold, plain values only.

    Attributes:
        name: the fold's.
        columns: columns used, under the design matrix's names.
        test: positions of the held-out rows.
        yhat: predictions for them.
        mae, mae_median, mae_loglinear: of the predictor and the two baselines on this fold.
        values, shap: [held-out rows, columns] feature values (categories as ranks) and SHAP values, if explained.
        importances: gain importance per column, if explained and defined.
        low, high: ends of the intervals [levels, held-out rows], by ``intervals.LEVELS``.
    """

    name: str
    columns: list[str]
    test: list[int]
    yhat: list[float]
    mae: float
    mae_median: float
    mae_loglinear: float
    values: list[list[float]] | None = None
    shap: list[list[float]] | None = None
    importances: list[float] | None = None
    low: list[list[float]] | None = None
    high: list[list[float]] | None = None


@dataclass
class Result:
    """A unit's folds and its cost; ``history`` is what nested selection did, a list per fold."""

    folds: list[FoldResult]
    cpu_sec: float
    history: list[list[dict[str, Any]]] = field(default_factory=list)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Result:
        """Rebuild from ``dataclasses.asdict``, as read from a unit's file."""
        return cls([FoldResult(**fold) for fold in value["folds"]], value["cpu_sec"], value["history"])


def evaluate(unit: Unit) -> Result:
    """Hold out, tune on the inner folds, refit, predict; the baselines run on the same folds.

    Raises:
        DataError: the predictor refuses its parameters or the data, or a prediction is not finite.
    """
    try:
        return _evaluate(unit)
    except (ValueError, ArithmeticError) as error:  # XGBoost's, scikit-learn's and NumPy's errors are ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{_where(unit)}: {type(error).__name__}: {reason}") from error


def context_of(unit: Unit) -> Context:
    """All that is known of the unit's models besides features; cut it down to training models before it is used."""
    frame = unit.frame
    groups = pd.DataFrame({"org": frame.org, "family": frame.family}, index=frame.features.index)
    own = pd.DataFrame({frame.task.key.task: frame.y}, index=frame.features.index)
    labels = own if unit.labels is None else unit.labels.reindex(own.index)
    stderr = pd.Series(np.nan if frame.stderr is None else frame.stderr, index=own.index)
    return Context(groups, labels, stderr, unit.cv.whole, frame.task.key.task)


def _where(unit: Unit) -> str:
    task = unit.frame.task.key.task
    return f"predictor {unit.recipe.name} on {task}, features {unit.features}, cv {unit.cv_name}, seed {unit.seed}"


def _evaluate(unit: Unit) -> Result:
    started = time.process_time()
    result = Result([], 0.0)
    X, y = design(unit.frame.features, list(unit.columns), unit.encoding), unit.frame.y
    for fold in unit.cv.outer(unit.frame, unit.seed):
        inner = unit.cv.inner(unit.frame, fold.train, unit.seed)
        columns, context = list(X.columns), context_of(unit).only(X.index[fold.train])
        if unit.nested is not None:
            pool = design(unit.frame.features, [*unit.columns, *unit.nested.added_to(unit.columns)], unit.encoding)
            columns, history = unit.nested.choose(
                unit.recipe, columns, pool, y, fold.train, inner, unit.seed, unit.frame.task, context
            )
            result.history.append(history)
            rows = pool[columns]
        else:
            rows = X
        result.folds.append(_fold(unit, rows, fold, inner, context))
    result.cpu_sec = time.process_time() - started
    return result


def _fold(
    unit: Unit, X: pd.DataFrame, fold: Fold, inner: list[tuple[np.ndarray, np.ndarray]], context: Context
) -> FoldResult:
    y, task = unit.frame.y, unit.frame.task
    train, test = X.iloc[fold.train], X.iloc[fold.test]
    grid = unit.recipe.grid
    point = grid[0]
    if len(grid) > 1:
        point, _ = search(unit.recipe, train, y[fold.train], inner, unit.seed, task, context)
    model = unit.recipe.make(point, unit.seed, task).fit(train, y[fold.train], context)
    yhat = np.asarray(model.predict(test), dtype="float64")
    if not np.isfinite(yhat).all():
        raise DataError(f"{_where(unit)}: a prediction is not finite at {point}")
    truth = y[fold.test]
    result = FoldResult(
        fold.name,
        list(X.columns),
        fold.test.tolist(),
        yhat.tolist(),
        float(np.abs(yhat - truth).mean()),
        float(np.abs(np.median(y[fold.train]) - truth).mean()),
        float(np.abs(_loglinear(unit.frame, fold) - truth).mean()),
    )
    if unit.intervals:
        band = conformal(unit.recipe, point, train, y[fold.train], context, unit.seed, task, unseen=model.unseen_)
        result.low, result.high = (ends.tolist() for ends in band.interval(yhat))
    if unit.explain:
        from njsl.predict.explain import shap_values

        result.values = numeric(test).tolist()
        result.shap = shap_values(model, train, test, unit.seed).tolist()
        gains = model.importances()
        result.importances = None if gains is None else gains.reindex(X.columns).fillna(0.0).tolist()
    return result


def _loglinear(frame: TaskFrame, fold: Fold) -> np.ndarray:
    """Least squares on ln parameters and ln tokens."""
    scale = design(frame.features, list(LOGGED), "native")[[LN_PARAMS, LN_TOKENS]].to_numpy()
    plane = np.column_stack([np.ones(len(scale)), scale])
    coefficients, *_ = np.linalg.lstsq(plane[fold.train], frame.y[fold.train], rcond=None)
    predicted: np.ndarray = plane[fold.test] @ coefficients
    return predicted
