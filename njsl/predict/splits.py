"""Protocols: which models are held out, and on which folds of the rest a predictor is tuned.

Each is a component of ``conf/cv``. ``average`` says what ``mae`` means: the mean of the outer folds' MAEs, or the MAE
pooled over all held-out models.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, KFold, train_test_split

from njsl.core.types import ConfigError, DataError
from njsl.predict.compute import six_nd
from njsl.predict.features import Encoding
from njsl.store.views import TaskFrame


class Fold(NamedTuple):
    """Positions of rows in the task's frame; ``name`` is a number or the group left out."""

    name: str
    train: np.ndarray
    test: np.ndarray


class Splitter(Protocol):
    """What every protocol offers; ``whole`` is the group it holds out whole, None where it looks at none."""

    average: Literal["folds", "pooled"]
    encoding: Encoding
    whole: Literal["org", "family"] | None

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
    whole: Literal["org", "family"] | None = None

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


class FamilyFolds:
    """Shuffled k-fold of families, outside and inside: all models of a family are in the same fold.

    Args:
        folds: outer folds.
        inner_folds: inner folds.
    """

    average: Literal["folds", "pooled"] = "pooled"
    encoding: Encoding = "native"
    whole: Literal["org", "family"] | None = "family"

    def __init__(self, *, folds: int, inner_folds: int) -> None:
        if folds < 2 or inner_folds < 2:
            raise ConfigError(f"cv: folds={folds}, inner_folds={inner_folds}; at least 2 are accepted")
        self.folds = folds
        self.inner_folds = inner_folds

    def outer(self, frame: TaskFrame, seed: int) -> list[Fold]:
        """``folds`` folds, shuffled by the seed.

        Raises:
            DataError: fewer families than folds.
        """
        splits = self._split(frame, np.arange(len(frame.y)), self.folds, seed)
        return [Fold(str(number), train, test) for number, (train, test) in enumerate(splits)]

    def inner(self, frame: TaskFrame, train: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """``inner_folds`` folds of the training rows, shuffled by the seed.

        Raises:
            DataError: fewer families than folds.
        """
        return self._split(frame, train, self.inner_folds, seed)

    def _split(self, frame: TaskFrame, rows: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        families = frame.family[rows]
        if len(set(families)) < folds:
            raise DataError(
                f"task {frame.task.key.task}: {len(set(families))} families for {folds} folds; use cv=nested"
            )
        return list(GroupKFold(folds, shuffle=True, random_state=seed).split(rows, groups=families))


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
        self.group = self.whole = group
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


class KnownSibling(LeaveGroupOut):
    """Leave-one-org-out for the next model of a family whose smallest has been measured.

    Of the models of the org left out, the one with the fewest parameters of each family (ties by id) goes to the
    training rows, and the family's others are scored. A family with a single model there is neither trained on nor
    scored, and an org of such families alone is no fold: under this protocol fewer models are scored than under
    ``LeaveGroupOut``, and errors are comparable on those alone. ``whole`` is ``org``: folds within the training models
    leave no sibling behind, so what is estimated on them, as the width of an interval, errs towards too wide.

    Args:
        inner_folds: inner folds over the remaining orgs, parted in the same way.
    """

    def __init__(self, *, inner_folds: int) -> None:
        super().__init__(group="org", inner_folds=inner_folds)

    def outer(self, frame: TaskFrame, seed: int) -> list[Fold]:
        """A fold per org with a family of at least two models, in the order of their names.

        Raises:
            DataError: no org has one.
        """
        folds = []
        for name, train, test in super().outer(frame, seed):
            known, scored = _siblings(frame, test)
            if scored.any():
                folds.append(Fold(name, np.sort(np.concatenate([train, test[known]])), test[scored]))
        if not folds:
            raise DataError(f"task {frame.task.key.task}: no org has a family of two models; use cv=leave_org_out")
        return folds

    def inner(self, frame: TaskFrame, train: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Folds of the training rows, with a known sibling of every model scored.

        Raises:
            DataError: fewer orgs than folds, or no org has a family of at least two models.
        """
        folds = []
        for fit, score in super().inner(frame, train, seed):
            known, scored = _siblings(frame, train[score])
            if scored.any():
                folds.append((np.sort(np.concatenate([fit, score[known]])), score[scored]))
        if not folds:
            raise DataError(
                f"task {frame.task.key.task}: no org of the training models has a family of two models; use "
                "cv=leave_org_out"
            )
        return folds


def _siblings(frame: TaskFrame, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of ``rows`` [rows] are their family's smallest with siblings among them, and which are those siblings."""
    size = frame.features["total_params"].to_numpy()[rows]
    order = pd.DataFrame({"family": frame.family[rows], "size": size, "id": frame.features.index[rows]})
    ranks = order.sort_values(["size", "id"]).groupby("family").cumcount().sort_index().to_numpy()
    several = order.groupby("family")["id"].transform("size").to_numpy() > 1
    return several & (ranks == 0), several & (ranks > 0)


class Extrapolate:
    """Train on the small, score on the large: a single fold.

    Args:
        by: ``params`` [parameters] or ``flops`` [6 N D floating-point operations].
        below: train where it is at most this threshold; null takes the quantile ``share`` of the task's models.
        share: see ``below``, in (0, 1); of no effect where a threshold is named.
        factor: score where it is above the threshold and at least so many times the threshold, >= 1. Models between
            the two are neither trained on nor scored.
        inner_folds: shuffled inner folds.
    """

    average: Literal["folds", "pooled"] = "pooled"
    encoding: Encoding = "native"
    whole: Literal["org", "family"] | None = None

    def __init__(
        self,
        *,
        by: Literal["params", "flops"],
        below: float | None,
        inner_folds: int,
        share: float = 0.8,
        factor: float = 1.0,
    ) -> None:
        if inner_folds < 2:
            raise ConfigError(f"cv: inner_folds={inner_folds}; at least 2 are accepted")
        if not 0 < share < 1 or not 1 <= factor < np.inf:
            raise ConfigError(
                f"cv: share={share}, factor={factor}; accepted: a share between 0 and 1, a factor of at least 1"
            )
        self.by = by
        self.below = below
        self.inner_folds = inner_folds
        self.share = share
        self.factor = factor

    def outer(self, frame: TaskFrame, seed: int) -> list[Fold]:
        """One fold, named after the threshold.

        Raises:
            DataError: the threshold leaves under 10 models to train on or none to score.
        """
        size = frame.features["total_params"].to_numpy()
        if self.by == "flops":
            size = six_nd(frame.features)
        below = float(np.quantile(size, self.share)) if self.below is None else self.below
        train = np.flatnonzero(size <= below)
        test = np.flatnonzero((size > below) & (size >= self.factor * below))
        if len(train) < 10 or not len(test):
            least = "" if self.factor == 1 else f" from {self.factor:g} times that on"
            raise DataError(
                f"task {frame.task.key.task}: {self.by} <= {below:.3g} leaves {len(train)} models to train on and "
                f"{len(test)} to score{least}; {self.by} ranges from {size.min():.3g} to {size.max():.3g}"
            )
        name = f"{self.by}>{below:.3g}" if self.factor == 1 else f"{self.by}>={self.factor:g}x{below:.3g}"
        return [Fold(name, train, test)]

    def inner(self, frame: TaskFrame, train: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Shuffled folds of the training rows."""
        return list(KFold(self.inner_folds, shuffle=True, random_state=seed).split(train))
