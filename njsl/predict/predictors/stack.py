"""Several predictors on several groups of features, weighted by how they do on models they have not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pandas as pd

from njsl.core.types import ConfigError, DataError
from njsl.predict.base import Context, Predictor
from njsl.predict.features import GROUPS, in_groups
from njsl.predict.tune import Recipe, search

INNER_TUNING_FOLDS = 3


@dataclass
class Member:
    """One part of a stack.

    Attributes:
        features: groups whose columns it sees: ``scale``, ``arch``, ``data``, ``freegen``.
        predictor: a component as in ``conf/predictor``; lists in it are grid axes.
    """

    features: list[str] = field(metadata={"accepted": (*GROUPS, "freegen")})
    predictor: Mapping[str, Any]


class Stack(Predictor):
    """The weighted median of members' predictions; who errs less on models it has not seen weighs more.

    Folds within the training models hold out what the protocol holds out, and members are tuned inside of them, so
    that every weight is earned on models (or organisations) that a member has not seen. Weights fall exponentially in
    a member's error relative to the best one's: with 90 models the best set of weights is mostly noise, and members
    that err alike should count alike. A median goes by the majority where members disagree, and is what the least
    absolute error asks for.

    Source: Breiman 1996 (Stacked regressions, Machine Learning 24) for the out-of-fold predictions; Vovk 1990
    (Aggregating strategies) for exponential weights.

    Args:
        members: by name; one whose columns and method another has already is left out (with ``features=scale`` all
            groups come to scale).
        folds: folds within the training models.
        temperature: a member whose error is larger than the best one's by this share has 1/e of its weight; > 0.
        floor, perfect: for members; see ``link.check_ends``.
        random_state: seed of folds and members.

    Attributes:
        weights_: weight by member, summing to 1.
        unseen_: out-of-fold predictions [models] of the training models under these weights.
    """

    missing = "native"

    def __init__(
        self,
        *,
        members: dict[str, Member],
        folds: int = 5,
        temperature: float = 0.5,
        floor: float = 0.0,
        perfect: float = 1.0,
        random_state: int = 0,
    ) -> None:
        self.members = members
        self.folds = folds
        self.temperature = temperature
        self.floor = floor
        self.perfect = perfect
        self.random_state = random_state

    def pack(self, X: pd.DataFrame, y: np.ndarray | None = None, context: Context | None = None) -> Any:
        """Rows, scores and context."""
        return X, y, context

    def fit_packed(self, packed: Any) -> Self:
        """Predict every training model from the others, find the weights, and fit the members on all.

        Raises:
            ConfigError: a member's group of features does not exist, or a parameter is out of range.
            DataError: no member sees a column, or a member refuses the data.
        """
        X, y, context = packed
        if self.temperature <= 0 or self.folds < 2:
            raise ConfigError(
                f"stack: temperature={self.temperature}, folds={self.folds}; above 0 and at least 2 are accepted"
            )
        context = context or Context.alone(X, y)
        parts = self._parts(X)
        folds = context.folds(X.index, self.folds, self.random_state)
        unseen = np.full((len(y), len(parts)), np.nan)
        for fit, score in folds:
            within = context.only(X.index[fit])
            for number, (recipe, columns) in enumerate(parts.values()):
                model = self._fitted(recipe, X[columns].iloc[fit], y[fit], within)
                unseen[score, number] = model.predict(X[columns].iloc[score])
        errors = np.abs(unseen - y[:, None]).mean(axis=0)
        weights = np.exp((1 - errors / max(errors.min(), np.finfo(float).tiny)) / self.temperature)
        weights /= weights.sum()
        self.weights_ = dict(zip(parts, weights.tolist(), strict=True))
        self.unseen_ = weighted_median(unseen, weights)
        self.fitted_ = {
            name: (columns, self._fitted(recipe, X[columns], y, context)) for name, (recipe, columns) in parts.items()
        }
        return self

    def _parts(self, X: pd.DataFrame) -> dict[str, tuple[Recipe, list[str]]]:
        parts: dict[str, tuple[Recipe, list[str]]] = {}
        for name, member in self.members.items():
            values = vars(member) if isinstance(member, Member) else member
            part = Recipe.of(name, values["predictor"]), in_groups(X.columns, values["features"])
            doubled = any((part[0].kind, part[0].params, part[1]) == (r.kind, r.params, c) for r, c in parts.values())
            lacking = set(part[0].kind.needs) - set(part[1])
            if part[1] and not doubled and not lacking:
                parts[name] = part
        if not parts:
            names = ", ".join(self.members)
            raise DataError(
                f"stack: none of its members ({names}) can use the features {', '.join(map(str, X.columns))}"
            )
        return parts

    def _fitted(self, recipe: Recipe, X: pd.DataFrame, y: np.ndarray, context: Context) -> Predictor:
        grid = recipe.grid
        point = grid[0]
        if len(grid) > 1:
            inner = context.folds(X.index, INNER_TUNING_FOLDS, self.random_state)
            point, _ = search(recipe, X, y, inner, self.random_state, self, context)
        return recipe.make(point, self.random_state, self).fit(X, y, context)

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted scores [models], as fractions."""
        members = [model.predict(X[columns]) for columns, model in self.fitted_.values()]
        return weighted_median(np.column_stack(members), np.array(list(self.weights_.values())))


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Medians [rows] of values [rows, columns], each column with its weight; halfway points are interpolated.

    A value stands in the middle of its weight; with equal weights this is the common median.

    Args:
        weights: [columns], >= 0, summing to 1.
    """
    # Equal values by their weight, so that the order of columns never matters.
    order = np.lexsort((np.broadcast_to(weights, values.shape), values), axis=1)
    ordered, shares = np.take_along_axis(values, order, axis=1), weights[order]
    places = np.cumsum(shares, axis=1) - shares / 2
    return np.array([np.interp(0.5, place, value) for place, value in zip(places, ordered, strict=True)])
