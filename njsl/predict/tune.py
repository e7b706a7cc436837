"""Grid search on inner folds: exactly the exhaustive search's answer, for less work.

Three things save work and change no result: rows are packed once per fold for the whole grid; one fit at the largest
value of a predictor's ``path`` (the trees of a booster) scores every smaller one; and a grid point is given up as soon
as its errors so far exceed the whole error of another, since absolute errors only add up.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd

from njsl.core.check import locate
from njsl.core.types import DataError
from njsl.predict.base import Context, Predictor
from njsl.predict.features import LOGGED


class Facts(Protocol):
    """What predictors are told of a task."""

    @property
    def floor(self) -> float:
        """Score of a model without any skill."""

    @property
    def perfect(self) -> float:
        """Score of a model without any error."""


TIE = 1e-9  # relative; partial sums this close to the best are still finished, so that ties go to the grid's order


@dataclass(frozen=True)
class Recipe:
    """A predictor's class and parameters; a list among them is a grid axis.

    Attributes:
        name: the yaml's stem.
        kind: the plug-in's class.
        params: parameter -> value, or list of values, in the yaml's order.
    """

    name: str
    kind: type[Predictor]
    params: Mapping[str, Any]

    @property
    def grid(self) -> list[dict[str, Any]]:
        """All points, the last axis running fastest."""
        axes = {name: value if isinstance(value, list) else [value] for name, value in self.params.items()}
        return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]

    @classmethod
    def of(cls, name: str, node: Mapping[str, Any]) -> Recipe:
        """From a checked component: ``_target_`` and named parameters.

        Raises:
            ConfigError: the target is nothing of njsl's.
        """
        params = {str(key): value for key, value in node.items()}
        kind = locate(params.pop("_target_"), f"predictor.{name}._target_")
        return cls(name, cast(type[Predictor], kind), params)

    def make(self, point: Mapping[str, Any], seed: int, task: Facts) -> Predictor:
        """An unfitted predictor at a grid point, with the seed and the task's facts where it takes them."""
        facts = {"random_state": seed, "floor": task.floor, "perfect": task.perfect}
        taken = self.kind._get_param_names()
        return self.kind(**{name: value for name, value in facts.items() if name in taken} | dict(point))

    def check(self, columns: Sequence[str], where: str) -> None:
        """Raise DataError if the predictor needs columns that are not among these (names of the task's frame)."""
        lacking = [name for name in self.kind.needs if name not in {LOGGED.get(c, c) for c in columns}]
        if lacking:
            raise DataError(f"{where}: predictor {self.name} needs {', '.join(lacking)}; add the feature group scale")


def search(
    recipe: Recipe,
    X: pd.DataFrame,
    y: np.ndarray,
    inner: Sequence[tuple[np.ndarray, np.ndarray]],
    seed: int,
    task: Facts,
    context: Context | None = None,
    bound: float = np.inf,
) -> tuple[dict[str, Any], float]:
    """The best grid point and its mean inner MAE; ties go to the first point of the grid.

    Args:
        recipe: what to tune.
        X, y: training rows.
        inner: (fit, score) positions.
        seed: the learner's.
        task: for floor and perfect score.
        context: of the training rows, if there is one.
        bound: a MAE already reached elsewhere: points that cannot beat it are given up, and if all are, the MAE
            returned is inf.
    """
    grid = recipe.grid
    path = recipe.kind.path
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, point in enumerate(grid):
        groups.setdefault(tuple(value for name, value in point.items() if name != path), []).append(number)
    fits = list(groups.values())
    packer = recipe.make(grid[0], seed, task)
    folds = [
        (packer.pack(X.iloc[a], y[a], context and context.only(X.index[a])), packer.pack(X.iloc[b]), y[b])
        for a, b in inner
    ]
    errors = np.full((len(grid), len(folds)), np.nan)

    def score(numbers: list[int], fold: int) -> None:
        fitting, scoring, truth = folds[fold]
        if path is None:
            (number,) = numbers
            predicted = recipe.make(grid[number], seed, task).fit_packed(fitting).predict_path(scoring, [None])
        else:
            values = [grid[number][path] for number in numbers]
            largest = max(values)
            model = recipe.make({**grid[numbers[0]], path: largest}, seed, task).fit_packed(fitting)
            predicted = model.predict_path(scoring, values)
        for number, yhat in zip(numbers, predicted, strict=True):
            errors[number, fold] = np.abs(yhat - truth).mean()

    for numbers in fits:
        score(numbers, 0)
    reached = bound * len(folds)
    for numbers in sorted(fits, key=lambda group: float(errors[group, 0].min())):
        for fold in range(1, len(folds)):
            if np.nansum(errors[numbers], axis=1).min() > reached * (1 + TIE):
                break
            score(numbers, fold)
        else:
            reached = min(reached, float(errors[numbers].sum(axis=1).min()))
    means = np.where(np.isnan(errors).any(axis=1), np.inf, errors.mean(axis=1))
    best = int(means.argmin())
    return grid[best], float(means[best])
