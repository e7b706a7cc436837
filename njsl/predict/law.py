"""Mixture laws: from the shares of a mix to the loss of a model trained on it, and how well such a law holds.

A law is fitted on proxies: small models that are alike in everything but mix and seed (``proxies.py``). A mix with
several seeds is one mix: it is left out whole, and counts once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from scipy import stats
from sklearn.base import BaseEstimator, clone

BOOTSTRAPS = 2000
LEVEL = 0.95


class Law(BaseEstimator, ABC):
    """One law for one task.

    The constructor takes keyword arguments only, and only stores them. ``shares`` [runs, corpora] are fractions whose
    rows sum to 1, ``loss`` [runs] is lower for the better; a score of which more is better comes negated. What is
    fitted ends in ``_``; the same runs give the same law.
    """

    def fit(self, shares: np.ndarray, loss: np.ndarray, mix: np.ndarray | None = None) -> Self:
        """Fit on runs.

        Args:
            shares, loss: of the runs.
            mix: number of each run's mix [runs], 0 and up; None: every run is a mix of its own.
        """
        self.runs_ = shares, loss, np.arange(len(loss)) if mix is None else mix
        return self.fit_runs(shares, loss)

    @abstractmethod
    def fit_runs(self, shares: np.ndarray, loss: np.ndarray) -> Self:
        """Fit on ``shares`` [runs, corpora] and ``loss`` [runs]."""

    @abstractmethod
    def predict(self, shares: np.ndarray) -> np.ndarray:
        """Expected loss [mixes] of ``shares`` [mixes, corpora]."""

    def draws(self, shares: np.ndarray, times: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Losses [draws, mixes] as they might be as well, given these runs; here of fits to mixes drawn again.

        Args:
            shares: where [mixes, corpora].
            times: how often each fitted mix is drawn [draws, fitted mixes]; the same for all tasks of one question.
            random: for laws that draw otherwise.
        """
        known, loss, mix = self.runs_
        rows = [np.repeat(np.arange(len(loss)), drawn[mix]) for drawn in times]
        return np.stack([clone(self).fit_runs(known[k], loss[k]).predict(shares) for k in rows])


def leave_one_mix_out(
    make: Callable[[], Law], shares: np.ndarray, losses: Mapping[str, np.ndarray], mix: np.ndarray
) -> dict[str, np.ndarray]:
    """Predictions [mixes] by task of every mix by a law that saw none of its runs.

    Args:
        make: a law as configured, not fitted.
        shares: [runs, corpora].
        losses: [runs] by task.
        mix: number of each run's mix [runs], 0 and up.
    """
    found = {task: np.empty(mix.max() + 1) for task in losses}
    for number in range(mix.max() + 1):
        seen = mix != number
        at = shares[~seen].mean(axis=0, keepdims=True)
        for task, loss in losses.items():
            others = np.unique(mix[seen], return_inverse=True)[1]
            found[task][number] = make().fit(shares[seen], loss[seen], others).predict(at)[0]
    return found


def of_mixes(values: np.ndarray, mix: np.ndarray) -> np.ndarray:
    """Means [mixes, ...] over the runs of each mix.

    Args:
        values: [runs, ...].
        mix: number of each run's mix [runs], 0 and up.
    """
    return np.stack([values[mix == number].mean(axis=0) for number in range(mix.max() + 1)])


def agreement(predicted: np.ndarray, measured: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """How well predictions of mixes hold: mean absolute error, Spearman's rank correlation with its 95 % interval from
    a bootstrap over mixes, and the share of pairs of mixes that are ordered right, where a predicted tie is half right.

    Args:
        predicted, measured: [mixes]; measured is the mean over seeds.
        seed: of the bootstrap.
    """
    drawn = np.random.default_rng(seed).integers(len(measured), size=(BOOTSTRAPS, len(measured)))
    draws = _spearman(predicted[drawn], measured[drawn])
    low, high = np.quantile(draws[np.isfinite(draws)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    first, second = np.triu_indices(len(measured), 1)
    lead, gap = predicted[first] - predicted[second], measured[first] - measured[second]
    return {
        "n_mixes": len(measured),
        "mae": float(np.abs(predicted - measured).mean()),
        "rank_correlation": float(_spearman(predicted[None], measured[None])[0]),
        "rank_correlation_low": float(low),
        "rank_correlation_high": float(high),
        "pairs_right": float(np.where(lead == 0, 0.5, lead * gap > 0)[gap != 0].mean()) if gap.any() else np.nan,
    }


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation of each row of ``a`` with that of ``b``; 0 where one orders nothing, NaN where neither does."""
    ranks = [stats.rankdata(values, axis=1) - (values.shape[1] + 1) / 2 for values in (a, b)]
    above = (ranks[0] * ranks[1]).sum(axis=1)
    below = np.sqrt(np.square(ranks[0]).sum(axis=1) * np.square(ranks[1]).sum(axis=1))
    flat = [np.ptp(values, axis=1) == 0 for values in ranks]
    result: np.ndarray = np.divide(above, below, out=np.zeros(len(a)), where=below > 0)
    result[flat[0] & flat[1]] = np.nan
    return result
