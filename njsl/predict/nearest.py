"""How far a plan is from known models: the nearest of them, and what of the plan lies outside their range.

The distance is the root of the mean squared difference over the features that the plan knows: sizes, tokens, widths,
heads and context lengths as logarithms, each feature in standard deviations of the known models, 1 for another label of
a category. A feature that a known model does not tell counts as it does on average over the models that tell it, so
that nobody is near for being silent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from njsl.predict.compute import six_nd
from njsl.predict.plan import SHARES, Plan, column, rows
from njsl.store.views import CATEGORICAL, NUMERIC, widest_group

LOGGED = ("total_params", "total_tokens_billions", "dimension", "num_heads", "sequence_length")
HOW = (
    "root mean square over the features the plan knows, each in standard deviations of the known models (ln of sizes, "
    "tokens, widths, heads and context; 1 for another label); what a known model does not tell counts as on average"
)


@dataclass(frozen=True)
class Reach:
    """Where a plan lies among known models.

    Attributes:
        nearest: distance by model id, the nearest first; empty if the plan knows no feature.
        known: features the plan knows.
        usual: by model id the distance of a known model to its nearest of another organisation (of another family
            where all are of one organisation), on the same features.
        flags: one line each, in words; empty where the plan is within the data.
    """

    nearest: pd.Series
    known: list[str]
    usual: pd.Series
    flags: list[str]


class Neighbours:
    """The known models, ready to be compared with plans.

    Args:
        base: features of known models and ``org`` [models, features], as ``njsl.store.views.models`` gives them.
    """

    def __init__(self, base: pd.DataFrame) -> None:
        self.base = base
        self._features = base[[*NUMERIC, *CATEGORICAL]]
        numbers = _logged(self._features)
        deviation = numbers.std(ddof=0)
        self._deviation = deviation.where(deviation > 0, 1.0)
        self._numbers = (numbers / self._deviation).to_numpy("float64")
        self._labels = _codes(self._features)

    def reach(self, plan: Plan) -> Reach:
        """Distances and flags of one plan."""
        features = rows([plan], self._features)
        distances, known = self._distances(
            (_logged(features) / self._deviation).to_numpy("float64")[0], _codes(features)[0]
        )
        nearest = pd.Series(distances, index=self.base.index).sort_values(kind="stable").dropna()
        usual = self._usual(known)
        flags = self._outside(plan)
        if len(nearest) and len(usual) and nearest.iloc[0] > usual.max():
            group = {"org": "organisation", "family": "family"}[widest_group(self.base)]
            flags.append(
                f"the combination: the nearest known model is {nearest.iloc[0]:.2f} away, while no known model is "
                f"further than {usual.max():.2f} from its nearest of another {group}"
            )
        names = [*NUMERIC, *CATEGORICAL]
        return Reach(nearest, [name for name, used in zip(names, known, strict=True) if used], usual, flags)

    def tokens_per_param(self) -> pd.Series:
        """Tokens per parameter of the known models [models]."""
        return self.base["total_tokens_billions"] * 1e9 / self.base["total_params"]

    def six_nd(self) -> np.ndarray:
        """6 N D of the known models [models] in FLOP."""
        return six_nd(self.base)

    def bounds(self, name: str) -> tuple[float, float]:
        """Smallest and largest value that a known model has."""
        return float(self.base[name].min()), float(self.base[name].max())

    def _distances(self, numbers: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances [models] of one row, and which features [features] it knows; all NaN if none."""
        squares = np.hstack([(self._numbers - numbers) ** 2, _differ(self._labels, labels)])
        known = np.concatenate([~np.isnan(numbers), labels >= 0]) & ~np.isnan(squares).all(axis=0)
        if not known.any():
            return np.full(len(squares), np.nan), known
        squares = squares[:, known]
        return np.sqrt(np.where(np.isnan(squares), np.nanmean(squares, axis=0), squares).mean(axis=1)), known

    def _usual(self, known: np.ndarray) -> pd.Series:
        """By model the distance to its nearest of another group, on these features, if it tells any of them."""
        count = self._numbers.shape[1]
        org = self.base[widest_group(self.base)].to_numpy(dtype=object)
        found = {}
        for place, name in enumerate(self.base.index):
            numbers = np.where(known[:count], self._numbers[place], np.nan)
            labels = np.where(known[count:], self._labels[place], -1)
            if (~np.isnan(numbers)).any() or (labels >= 0).any():
                distances, _ = self._distances(numbers, labels)
                others = distances[org != org[place]]
                if len(others):
                    found[name] = float(others.min())
        return pd.Series(found, dtype="float64")

    def _outside(self, plan: Plan) -> list[str]:
        flags = []
        for name in NUMERIC:
            value, told = plan.number(name), self.base[name].dropna()
            if np.isnan(value):
                continue
            if told.empty:
                flags.append(f"{name}: no known model tells it")
            elif not told.min() <= value <= told.max():
                flags.append(
                    f"{name}: {value:.6g}; known models have {told.min():.6g} to {told.max():.6g} (n = {len(told)})"
                )
        ratio, known = tokens_per_param(plan), self.tokens_per_param()
        if not np.isnan(ratio) and not known.min() * (1 - 1e-9) <= ratio <= known.max() * (1 + 1e-9):
            flags.append(f"tokens per parameter: {ratio:.4g}; known models have {known.min():.4g} to {known.max():.4g}")
        for name in CATEGORICAL:
            label = plan.values.get(name)
            if label is not None and label not in self.base[name].cat.categories:
                told = ", ".join(x for x in column(name).accepted if x in self.base[name].cat.categories)
                flags.append(f"{name}: no known model has {label}, so it is read as unknown; known models have {told}")
        total = sum(plan.number(name) for name in SHARES)
        sums = self.base[list(SHARES)].sum(axis=1, min_count=len(SHARES)).dropna()
        if not np.isnan(total) and len(sums) and not sums.min() - 1e-9 <= total <= sums.max() + 1e-9:
            flags.append(f"the five shares sum to {total:g}; those of known models to {sums.min():g} to {sums.max():g}")
        return flags


def tokens_per_param(plan: Plan) -> float:
    """Of a plan; NaN where it does not say both."""
    return plan.number("total_tokens_billions") * 1e9 / plan.number("total_params")


def _logged(features: pd.DataFrame) -> pd.DataFrame:
    numbers = features[list(NUMERIC)].astype("float64").copy()
    numbers[list(LOGGED)] = np.log(numbers[list(LOGGED)])
    return numbers


def _codes(features: pd.DataFrame) -> np.ndarray:
    return np.column_stack([features[name].cat.codes.to_numpy() for name in CATEGORICAL])


def _differ(labels: np.ndarray, row: np.ndarray) -> np.ndarray:
    """1 for another label, 0 for the same, NaN where one is unknown."""
    return np.where((labels < 0) | (row < 0), np.nan, (labels != row).astype("float64"))
