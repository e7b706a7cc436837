"""Mixes within bounds: points of the simplex, and the search for the best one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from njsl.core.check import meant
from njsl.core.types import ConfigError

STEPS = 1000  # a mix that is proposed has shares in steps of 0.001
ROUNDS = 24  # of the refinement
NEIGHBOURS = 128  # tried per round
WIDEST, NARROWING = 0.2, 0.75  # standard deviation of the neighbours' shares in the first round; its factor per round
ALIKE = 1e-9  # of the predictions' range: predicted losses so near each other are one


@dataclass(frozen=True)
class Space:
    """The mixes that are allowed.

    Attributes:
        corpora: names.
        low, high: smallest and largest share [corpora], multiples of 0.001; their sums enclose 1.
    """

    corpora: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, corpora: Sequence[str], bounds: Mapping[str, Any]) -> Space:
        """All mixes whose shares keep their bounds, which are rounded inwards to steps of 0.001.

        Raises:
            ConfigError: an unknown corpus, no two numbers in 0..1, or no mix that keeps all of them.
        """
        low, high = np.zeros(len(corpora)), np.ones(len(corpora))
        for name, given in bounds.items():
            if name not in corpora:
                raise ConfigError(
                    f"mix.bounds.{name}: no corpus of the proxies{meant(name, corpora)}; accepted: {', '.join(corpora)}"
                )
            numbers = isinstance(given, list) and all(type(end) in (int, float) for end in given)
            if not numbers or len(given) != 2 or not 0 <= given[0] <= given[1] <= 1:
                raise ConfigError(f"mix.bounds.{name}: {given}; [smallest, largest] share in 0..1 is accepted")
            at = list(corpora).index(name)
            low[at], high[at] = np.ceil(given[0] * STEPS - 1e-6) / STEPS, np.floor(given[1] * STEPS + 1e-6) / STEPS
        if (low > high).any() or not low.sum() <= 1 + 1e-9 <= high.sum() + 2e-9:
            raise ConfigError(
                f"mix.bounds: no mix keeps them: smallest shares sum to {low.sum():g}, largest to {high.sum():g}; sums "
                "that enclose 1 are accepted"
            )
        return cls(tuple(corpora), low, high)

    def holds(self, shares: np.ndarray) -> bool:
        """Whether a mix [corpora] keeps the bounds."""
        return bool((shares >= self.low - 1e-9).all() and (shares <= self.high + 1e-9).all())

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """The allowed mixes [points, corpora] nearest to any points: a shift of all shares, then the bounds.

        Which shift makes the sum 1 is found by bisection: the sum falls with it.
        """
        left = (points - self.high).min(axis=1, keepdims=True)
        right = (points - self.low).max(axis=1, keepdims=True)
        for _ in range(60):
            middle = (left + right) / 2
            above = np.clip(points - middle, self.low, self.high).sum(axis=1, keepdims=True) > 1
            left, right = np.where(above, middle, left), np.where(above, right, middle)
        return np.clip(points - (left + right) / 2, self.low, self.high)

    def sample(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Mixes [mixes, corpora], uniform where no upper bound is in the way; the corners come first."""
        drawn = random.dirichlet(np.ones(len(self.corpora)), count)
        room = 1 - self.low.sum()
        return self.nearest(np.vstack([np.eye(len(self.corpora)), self.low + room * drawn]))

    def rounded(self, shares: np.ndarray) -> np.ndarray:
        """The mix [corpora] in steps of 0.001, the largest remainders up."""
        units = shares * STEPS
        whole = np.floor(units + 1e-6).astype(int)
        missing = STEPS - int(whole.sum())
        for at in np.argsort(-(units - whole), kind="stable")[:missing]:
            whole[at] += 1
        result: np.ndarray = whole / STEPS
        return result

    def best(self, loss: Callable[[np.ndarray], np.ndarray], tried: np.ndarray, seed: int) -> np.ndarray:
        """The allowed mix [corpora] of the lowest loss, in steps of 0.001.

        The best of those tried is refined by random neighbours that come nearer from round to round. Where a law
        predicts many alike (trees do), the one in their middle is taken.

        Args:
            loss: predicts mixes [mixes, corpora].
            tried: allowed mixes [mixes, corpora].
            seed: of the neighbours.
        """
        random = np.random.default_rng(seed)
        found = loss(tried)
        at, least = tried[int(found.argmin())], float(found.min())
        alike = tried[found <= least + ALIKE * float(np.ptp(found))]
        if len(alike) > 1:
            at = alike[int(np.square(alike - alike.mean(axis=0)).sum(axis=1).argmin())]
        for number in range(ROUNDS):
            steps = WIDEST * NARROWING**number * random.standard_normal((NEIGHBOURS, len(self.corpora)))
            near = self.nearest(at + steps)
            found = loss(near)
            if found.min() < least:
                at, least = near[int(found.argmin())], float(found.min())
        return self.rounded(at)


def weights(corpora: Sequence[str], shares: np.ndarray) -> dict[str, float]:
    """A mix [corpora] as ``data_mix.weights`` has it."""
    return {name: round(float(share), 6) for name, share in zip(corpora, shares, strict=True)}
