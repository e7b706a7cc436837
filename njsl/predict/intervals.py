"""Prediction intervals for any predictor: cross-conformal with whole groups held out, scaled by where errors are large.

Every training model is predicted by a fit that saw nobody of its group, as the protocol will hold out the model to be
predicted. The absolute error of that prediction, divided by the error that is usual at such a predicted score, is its
conformity score; an interval reaches so far from a prediction as the quantile of these scores, times the usual error
there. Out-of-fold errors as conformity scores: cross-conformal prediction and CV+ (Barber et al. 2021, arXiv
1905.02928, section 3, of which this is the variant around the one prediction of the fit on all). Errors divided by a
scale that is itself estimated: Lei et al. 2018, arXiv 1604.04173, section 5.2. Groups: Dunn et al. 2018, arXiv
1809.07441, whose pooling of all models' scores this is; with it coverage for a model of a new group is asymptotic in
the number of groups, and therefore measured on held-out groups (``coverage.py``), never taken for granted. Weighing
every group alike with one more at infinity gives a guarantee (Lee et al. 2023, arXiv 2306.06342); on the paper's data
it made intervals 18 % wider at 80 % and 31 % wider at 90 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd

from njsl.core.types import DataError
from njsl.predict.base import Context
from njsl.predict.tune import Recipe
from njsl.store.tasks import Task

LEVELS = (0.8, 0.9)
FOLDS = 5  # out-of-fold fits per fold of the protocol; fewer training models in each make intervals err towards wide
# Chosen on the paper's data among neighbours that differ by about 4 % in width.
BANDWIDTH = 0.2  # [standard deviations of the training scores] how far "such a predicted score" reaches
PRIOR = 3.0  # [models] weight of the mean error over all training models in the usual error at any score


def possible(task: Task) -> tuple[float, float]:
    """The lowest and highest score there can be."""
    return task.metric.low, task.metric.high


def out_of_fold(
    recipe: Recipe,
    point: Mapping[str, Any],
    X: pd.DataFrame,
    y: np.ndarray,
    context: Context,
    seed: int,
    task: Task,
    count: int = FOLDS,
) -> np.ndarray:
    """Predictions [models] of every training model by a fit that did not see its fold, groups whole.

    The grid point is the one tuned on all training models: it was chosen with a look at the models predicted here, and
    at no other.

    Args:
        recipe, point: the predictor, and where in its grid.
        X, y: training rows and scores.
        context: of the training models; its ``folds`` part them.
        seed: of folds and learner.
        task: for floor and perfect score.
        count: folds, at most.

    Raises:
        DataError: the training models are of one group, or a prediction is not finite.
    """
    yhat = np.full(len(y), np.nan)
    for fit, score in context.folds(list(X.index), count, seed):
        model = recipe.make(point, seed, task).fit(X.iloc[fit], y[fit], context.only(X.index[fit]))
        yhat[score] = model.predict(X.iloc[score])
    if not np.isfinite(yhat).all():
        raise DataError(
            f"predictor {recipe.name} on {task.key.task}: an out-of-fold prediction is not finite at {point}"
        )
    return yhat


def attainable(groups: int) -> tuple[float, ...]:
    """Those of ``LEVELS`` at which errors of so many groups give an interval with ends: 80 % from 4 on, 90 % from 9."""
    return tuple(level for level in LEVELS if _rank(groups, level) <= groups)


class Conformal:
    """Intervals from out-of-fold predictions; all it learns are numbers and plain arrays.

    Args:
        lowest, highest: scores there can be; intervals end there.

    Attributes:
        yhat_: out-of-fold predictions of the training models [models], within the possible range.
        error_: their absolute errors [models].
        reach_: by level the quantile of errors over usual errors [levels]; inf where the training groups are too few.
        bandwidth_: of the kernel over predicted scores, as a fraction; 0 where all scores are equal.
    """

    def __init__(self, lowest: float = 0.0, highest: float = 2.0) -> None:
        self.lowest = lowest
        self.highest = highest

    def fit(self, yhat_oof: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Self:
        """Learn from training models alone.

        A level's quantile is the ceil((n + 1) level)-th smallest of n conformity scores, as for one more exchangeable
        model; and as groups, not models, are what is exchangeable, there must be as many groups as that asks of models
        (4 at 80 %, 9 at 90 %). With fewer the interval is the whole possible range.

        Args:
            yhat_oof: out-of-fold predictions [models], fractions.
            y: scores [models], fractions.
            groups: labels [models] of what was held out whole; None: every model is one.
        """
        y = np.asarray(y, dtype="float64")
        self.yhat_ = np.clip(np.asarray(yhat_oof, dtype="float64"), self.lowest, self.highest)
        self.error_ = np.abs(y - self.yhat_)
        self.bandwidth_ = BANDWIDTH * float(y.std()) if len(y) else 0.0
        codes = np.arange(len(y)) if groups is None else pd.factorize(np.asarray(groups, dtype=object))[0]
        # No model tells its own usual error; its siblings may. Without them intervals are a tenth wider at 90 %, and
        # cover up to 3 points more than they promise.
        usual = self._usual(self.yhat_, ~np.eye(len(y), dtype=bool))
        scores = np.sort(_ratio(self.error_, usual))
        found = codes.max() + 1 if len(codes) else 0
        ends = attainable(found)
        self.reach_ = np.array([scores[_rank(len(y), level) - 1] if level in ends else np.inf for level in LEVELS])
        return self

    def interval(self, yhat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), each [levels, models], by ``LEVELS``; a prediction outside the possible range counts as its end.

        Args:
            yhat: predictions [models], fractions, of the predictor fitted on all training models.
        """
        middle = np.clip(np.asarray(yhat, dtype="float64"), self.lowest, self.highest)
        usual = self._usual(middle, np.ones((len(middle), len(self.yhat_)), dtype=bool))
        with np.errstate(invalid="ignore"):
            half = self.reach_[:, None] * usual
        half[np.isinf(self.reach_)] = np.inf  # also where the usual error is 0
        return np.clip(middle - half, self.lowest, self.highest), np.clip(middle + half, self.lowest, self.highest)

    def _usual(self, at: np.ndarray, others: np.ndarray) -> np.ndarray:
        """The usual absolute error [places] at predicted scores, from training models at similar ones.

        Args:
            at: predicted scores [places].
            others: whose errors count there [places, models].
        """
        apart = at[:, None] - self.yhat_[None, :]
        near = np.exp(-0.5 * (apart / self.bandwidth_) ** 2) if self.bandwidth_ > 0 else np.ones_like(apart)
        near = near * others
        count = others.sum(axis=1)
        mean = np.divide(others @ self.error_, count, out=np.zeros(len(at)), where=count > 0)
        usual: np.ndarray = (near @ self.error_ + PRIOR * mean) / (near.sum(axis=1) + PRIOR)
        return usual


def conformal(
    recipe: Recipe,
    point: Mapping[str, Any],
    X: pd.DataFrame,
    y: np.ndarray,
    context: Context,
    seed: int,
    task: Task,
    count: int = FOLDS,
    unseen: np.ndarray | None = None,
) -> Conformal:
    """``out_of_fold`` and the intervals it gives, groups as the protocol holds them out; arguments are the same.

    With training models of one group alone there is nothing out of fold, and intervals are the whole possible range.

    Args:
        unseen: out-of-fold predictions [models] where the fit has made them already.

    Raises:
        DataError: an out-of-fold prediction is not finite.
    """
    empty = Conformal(*possible(task))
    groups = None
    if context.whole is not None:
        groups = context.groups.loc[list(X.index), context.whole].to_numpy(dtype=object)
        if len(set(groups)) < 2:
            return empty.fit(np.empty(0), np.empty(0))
    if unseen is None:
        unseen = out_of_fold(recipe, point, X, y, context, seed, task, count)
    return empty.fit(unseen, y, groups)


def _ratio(error: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """error / usual, where no error at all is no surprise whatever is usual."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error == 0, 0.0, error / usual)


def _rank(count: int, level: float) -> int:
    return int(np.ceil((count + 1) * level - 1e-9))  # 10 * 0.9 is 9, whatever floats say
