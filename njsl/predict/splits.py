"""Protocols: which models are held out, and on which folds of the rest a predictor is tuned.

Each is a component of ``conf/cv``. ``average`` says what ``mae`` means: the mean of the outer folds' MAEs, or the MAE
pooled over all held-out models.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, train_test_split

from njsl.core.types import ConfigError, DataError
from njsl.predict.features import Encoding
from njsl.store.views import TaskFrame

FLOPS_PER_PARAM_TOKEN = 6  # C = 6 N D: Kaplan et al. 2020, arXiv 2001.08361, section 2.1


class Fold(NamedTuple):
    """Positions of rows in the task's frame; ``name`` is a number or the group left out."""

    name: str
    train: np.ndarray
    test: np.ndarray


class Splitter(Protocol):
    """What every protocol offers."""

    average: Literal["folds", "pooled"]
    encoding: Encoding

    def outer(self, frame: TaskFrame, seed: int) -> list[Fold]:
        """The outer folds."""

    def inner(self, frame: TaskFrame, train: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """(fit, score) positions within ``train``, for tuning and selection."""


class RandomFolds:
    """Shuffled k-fold outside, shuffled k-fold inside.

    Args:
        folds: outer folds.
        inner_folds: inner folds.
        discard_frac: share of every training fold that is put aside and never used (0..1). The paper's protocol throws
            0.2 away: it was handed to the booster as a validation set without early stopping.
        encoding: see ``features.design``.
    """

    average: Literal["folds", "pooled"] = "folds"

    def __init__(self, *, folds: int, inner_folds: int, discard_frac: float, encoding: Encoding) -> None:
        if folds < 2 or inner_folds < 2 or not 0 <= discard_frac < 0.9:
            raise ConfigError(
                f"cv: folds={folds}, inner_folds={inner_folds}, discard_frac={discard_frac}; accepted: at least 2 "
                "folds and inner folds, and a share from 0 to 0.9"
            )
        self.folds = folds
        self.inner_folds = inner_folds
        self.discard_frac = discard_frac
        self.encoding = encoding

    def outer(self, frame: TaskFrame, seed: int) -> list[Fold]:
        """``folds`` folds, shuffled by the seed."""
        result = []
        for number, (train, test) in enumerate(KFold(self.folds, shuffle=True, random_state=seed).split(frame.y)):
            if self.discard_frac:
                train, _ = train_test_split(train, test_size=self.discard_frac, random_state=seed)
            result.append(Fold(str(number), train, test))
        return result

    def inner(self, frame: TaskFrame, train: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """``inner_folds`` folds of the training rows, shuffled by the seed."""
        return list(KFold(self.inner_folds, shuffle=True, random_state=seed).split(train))


class LeaveGroupOut:
    """One outer fold per group, inner folds that keep groups whole; the seed is the learner's alone.

    Args:
        group: ``org`` (Hugging Face owner) or ``family`` (siblings and fine-tunes).
        inner_folds: inner folds over the remaining groups.
    """

    average: Literal["folds", "pooled"] = "pooled"
    encoding: Encoding = "native"

    def __init__(self, *, group: Literal["org", "family"], inner_folds: int) -> None:
        if inner_folds < 2:
            raise ConfigError(f"cv: inner_folds={inner_folds}; at least 2 are accepted")
        self.group = group
        self.inner_folds = inner_folds

    def outer(self, frame: TaskFrame, seed: int) -> list[Fold]:
        """A fold per group, in the order of their names."""
        groups = self._groups(frame)
        return [Fold(g, np.flatnonzero(groups != g), np.flatnonzero(groups == g)) for g in sorted(set(groups))]

    def inner(self, frame: TaskFrame, train: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Grouped folds of the training rows.

        Raises:
            DataError: fewer groups than folds.
        """
        groups = self._groups(frame)[train]
        if len(set(groups)) < self.inner_folds:
            raise DataError(
                f"task {frame.task.key.task}: {len(set(groups))} groups ({self.group}) for {self.inner_folds} inner "
                "folds; lower inner_folds or use cv=nested"
            )
        return list(GroupKFold(self.inner_folds).split(train, groups=groups))

    def _groups(self, frame: TaskFrame) -> np.ndarray:
        return frame.org if self.group == "org" else frame.family


class Extrapolate:
    """Train on the small, score on the large: a single fold.

    Args:
        by: ``params`` [parameters] or ``flops`` [6 N D floating-point operations].
        below: train where it is at most this, score above; null takes the 80th percentile of the task's models.
        inner_folds: shuffled inner folds.
    """

    average: Literal["folds", "pooled"] = "pooled"
    encoding: Encoding = "native"

    def __init__(self, *, by: Literal["params", "flops"], below: float | None, inner_folds: int) -> None:
        if inner_folds < 2:
            raise ConfigError(f"cv: inner_folds={inner_folds}; at least 2 are accepted")
        self.by = by
        self.below = below
        self.inner_folds = inner_folds

    def outer(self, frame: TaskFrame, seed: int) -> list[Fold]:
        """One fold, named after the threshold.

        Raises:
            DataError: the threshold leaves under 10 models to train on or none to score.
        """
        size = frame.features["total_params"].to_numpy()
        if self.by == "flops":
            size = FLOPS_PER_PARAM_TOKEN * size * frame.features["total_tokens_billions"].to_numpy() * 1e9
        below = float(np.quantile(size, 0.8)) if self.below is None else self.below
        train, test = np.flatnonzero(size <= below), np.flatnonzero(size > below)
        if len(train) < 10 or not len(test):
            raise DataError(
                f"task {frame.task.key.task}: {self.by} <= {below:.3g} leaves {len(train)} models to train on and "
                f"{len(test)} to score; {self.by} ranges from {size.min():.3g} to {size.max():.3g}"
            )
        return [Fold(f"{self.by}>{below:.3g}", train, test)]

    def inner(self, frame: TaskFrame, train: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Shuffled folds of the training rows."""
        return list(KFold(self.inner_folds, shuffle=True, random_state=seed).split(train))
