"""The paper's forward selection: on all models, then reported on those same models.

A candidate is scored by the whole protocol's error, averaged over seeds. Every model has taken part in choosing the
features it is then scored with, so the error reported is optimistic; ``select_nested`` has the honest procedure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from njsl.predict.evaluate import Unit

Key = tuple[str, ...]


@dataclass
class PaperSelection:
    """One search, as a conversation: it asks for the scores of column lists and is told their MAE.

    Attributes:
        start: columns to begin with.
        candidates: columns that may be added.
        max_steps, min_gain: as in ``select_nested.NestedSelection``; the MAE is the mean over seeds of the protocol's.
    """

    start: tuple[str, ...]
    candidates: tuple[str, ...]
    max_steps: int
    min_gain: float
    chosen: tuple[str, ...] = ()
    history: list[dict[str, Any]] = field(default_factory=list)
    reached: float = np.inf
    done: bool = False

    def __post_init__(self) -> None:
        self.chosen = self.start

    def asks(self) -> list[tuple[str, ...]]:
        """Column lists whose MAE decides the next step; first the start alone."""
        if self.done:
            return []
        if np.isinf(self.reached):
            return [self.start]
        return [(*self.chosen, name) for name in self.candidates if name not in self.chosen]

    def told(self, maes: dict[tuple[str, ...], float]) -> None:
        """Take the step the answers call for."""
        if np.isinf(self.reached):
            self.reached = maes[self.start]
        else:
            best = min(self.asks(), key=lambda columns: maes[columns])
            if maes[best] >= self.reached - self.min_gain:
                self.done = True
                return
            self.history.append({"feature": best[-1], "mae_before": self.reached, "mae_after": maes[best]})
            self.chosen, self.reached = best, maes[best]
        self.done = len(self.history) >= self.max_steps or not self.asks()


def run_searches(
    searches: dict[Key, PaperSelection],
    first: dict[Key, Unit],
    seeds: Sequence[int],
    score: Callable[[list[Unit], int], Iterable[float]],
) -> None:
    """Take all searches to their end, a step of every one at a time, so that a step's units can run in parallel.

    Args:
        searches: by any key; changed in place.
        first: for each key the unit that a candidate's columns and seed are put into.
        seeds: over which a candidate's MAE is averaged.
        score: the ``mae`` of each unit, given the units of a step and its number.
    """
    step = 0
    while any(not search.done for search in searches.values()):
        asked = [
            (key, replace(first[key], columns=columns, seed=seed, explain=False))
            for key, search in searches.items()
            for columns in search.asks()
            for seed in seeds
        ]
        maes: dict[Key, dict[tuple[str, ...], list[float]]] = {key: {} for key in searches}
        for (key, unit), mae in zip(asked, score([unit for _, unit in asked], step), strict=True):
            maes[key].setdefault(unit.columns, []).append(mae)
        for key, search in searches.items():
            if not search.done:
                search.told({columns: float(np.mean(values)) for columns, values in maes[key].items()})
        step += 1
