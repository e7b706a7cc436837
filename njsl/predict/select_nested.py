"""Forward selection of features, redone inside every outer training fold: held-out models never have a say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from njsl.predict.base import Context
from njsl.predict.tune import Recipe, search
from njsl.store.tasks import Task


@dataclass(frozen=True)
class NestedSelection:
    """Selection inside one training fold.

    Attributes:
        candidates: columns that may be added.
        max_steps: at most so many are added.
        min_gain: a column is added if it lowers the inner MAE by more than this, a fraction.
    """

    candidates: tuple[str, ...]
    max_steps: int
    min_gain: float

    def added_to(self, columns: Sequence[str]) -> list[str]:
        """Candidates that are not there already."""
        return [name for name in self.candidates if name not in columns]

    def choose(
        self,
        recipe: Recipe,
        start: list[str],
        pool: pd.DataFrame,
        y: np.ndarray,
        train: np.ndarray,
        inner: Sequence[tuple[np.ndarray, np.ndarray]],
        seed: int,
        task: Task,
        context: Context | None = None,
    ) -> tuple[list[str], list[dict[str, Any]]]:
        """Grow ``start`` greedily; returns the columns and the steps taken (feature, MAE before and after).

        Args:
            recipe: the predictor, tuned anew for every candidate.
            start: columns of ``pool`` to begin with.
            pool: the design matrix of all models with every candidate; only ``train`` rows are read.
            y: labels of all models; only ``train`` rows are read.
            train: positions of the outer training rows.
            inner: (fit, score) positions within ``train``.
            seed: the learner's.
            task: for floor and perfect score.
            context: of the training rows, if there is one.
        """
        rows, labels = pool.iloc[train], y[train]
        chosen = list(start)
        _, reached = search(recipe, rows[chosen], labels, inner, seed, task, context)
        history: list[dict[str, Any]] = []
        for _ in range(self.max_steps):
            best, best_mae = None, reached - self.min_gain
            for name in [name for name in pool.columns if name not in chosen]:
                _, mae = search(recipe, rows[[*chosen, name]], labels, inner, seed, task, context, bound=best_mae)
                if mae < best_mae:
                    best, best_mae = name, mae
            if best is None:
                break
            history.append({"feature": best, "mae_before": reached, "mae_after": best_mae})
            chosen.append(best)
            reached = best_mae
        return chosen, history
