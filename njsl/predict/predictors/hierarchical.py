"""A linear mixed model: scaling terms, shrunken features, and what families and orgs have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from njsl.predict.base import SCALE, Context, Predictor, Preparation
from njsl.predict.link import Kind, Link

# Bounds of ln(variance of a part / variance of the noise): practically none, and practically all of it.
LN_RATIO = (-10.0, 8.0)
# Of the largest singular value: below it a direction is rounding.
ROUNDING = 1e-9
LEVELS = ("family", "org")


class Hierarchical(Predictor):
    """Score, under a link, = plane over ln parameters and ln tokens + features + family + org + noise.

    The plane is free. The slopes of the other features, standardised and one-hot coded, are drawn from one normal
    distribution, the families' intercepts from a second, the orgs' from a third; restricted maximum likelihood says
    how wide each is, so nothing is tuned. A prediction adds what is expected of a model's family and org: 0 where no
    training model is of them, as under a protocol that holds them out whole. Without a context there are no groups.

    Whether groups should be told apart at all depends on who is to be predicted, so ``groups`` is tuned: with them
    slopes are those within a family, which serve the next of a family; without them slopes also hold what sets orgs
    apart, which serves a model of an org never seen.

    Sources: Patterson and Thompson 1971, doi 10.1093/biomet/58.3.545; Robinson 1991, doi 10.1214/ss/1177011926.

    Args:
        groups: whether there are intercepts of family and org.
        link: see ``link.Link``; effects add up on its line.
        floor, perfect: see ``link.check_ends``.

    Attributes:
        variances_: of ``features``, ``family``, ``org`` (those there are) and ``noise``, on the line; that of
            ``features`` is the variance of all features' shares together at an average model.
        effects_: level -> group -> expected intercept, on the line.
    """

    def __init__(
        self,
        *,
        groups: bool = True,
        link: Kind = "identity",
        floor: float = 0.0,
        perfect: float = 1.0,
    ) -> None:
        self.groups = groups
        self.link = link
        self.floor = floor
        self.perfect = perfect

    def pack(self, X: pd.DataFrame, y: np.ndarray | None = None, context: Context | None = None) -> Any:
        """The rows, and given scores these, all models' groups if they are known, and the prepared columns."""
        if y is None:
            return X, None
        prepared = Preparation(scale=True)
        return X, y, None if context is None else context.groups, prepared, prepared.fit_transform(X)

    def fit_packed(self, packed: Any) -> Self:
        """Estimate the variances, then slopes and intercepts."""
        X, y, groups, self.preprocessing_, columns = packed
        self.groups_ = groups if self.groups else None
        self.link_ = Link.fit(self.link, y, floor=self.floor, perfect=self.perfect)
        z = self.link_.to_line(y)
        plane, rest = self._parted(columns)
        parts = {"features": rest} if rest.size else {}
        members: dict[str, list[Any]] = {}
        if self.groups_ is not None:
            for level in LEVELS:
                own = self.groups_.loc[X.index, level].to_numpy()
                members[level] = sorted(set(own))
                parts[level] = (own[:, None] == np.array(members[level], dtype=object)).astype(float)
        ratios, noise = reml(z, plane, list(parts.values()))
        self.variances_ = {name: float(r * noise) for name, r in zip(parts, ratios, strict=True)} | {"noise": noise}
        cover = np.eye(len(z)) + sum(r * part @ part.T for r, part in zip(ratios, parts.values(), strict=True))
        solved = np.linalg.solve(cover, np.column_stack([plane, z]))
        self.plane_ = np.linalg.pinv(plane.T @ solved[:, :-1], rcond=ROUNDING, hermitian=True) @ (
            plane.T @ solved[:, -1]
        )
        left = solved[:, -1] - solved[:, :-1] @ self.plane_
        expected = {name: r * part.T @ left for (name, part), r in zip(parts.items(), ratios, strict=True)}
        self.slopes_ = expected.get("features", np.zeros(rest.shape[1]))
        self.effects_ = {
            level: dict(zip(names, expected[level].tolist(), strict=True)) for level, names in members.items()
        }
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predicted medians [models], as fractions."""
        plane, rest = self._parted(self.preprocessing_.transform(X))
        z = plane @ self.plane_ + rest @ self.slopes_
        if self.groups_ is not None:
            groups = self.groups_.reindex(X.index)
            for level, effects in self.effects_.items():
                z = z + groups[level].map(effects).fillna(0.0).to_numpy(dtype="float64")
        return self.link_.from_line(z)

    def _parted(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Intercept and scaling terms, and the other columns, such that theirs add up to a variance of about 1."""
        numbers = self.preprocessing_.numbers_
        free = np.isin(np.arange(columns.shape[1]), [numbers.index(name) for name in SCALE if name in numbers])
        rest = columns[:, ~free]
        return np.column_stack([np.ones(len(columns)), columns[:, free]]), rest / np.sqrt(max(rest.shape[1], 1))


def reml(z: np.ndarray, fixed: np.ndarray, parts: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """Ratios [parts] of the parts' variances to the noise's, and the noise's, by restricted maximum likelihood.

    Args:
        z: outcomes [rows].
        fixed: columns [rows, fixed] whose slopes are free.
        parts: columns [rows, columns] each, whose slopes are drawn from a normal distribution of their own.
    """
    # What is left of the outcomes in the directions that no fixed slope can explain has the restricted likelihood.
    directions, sizes, _ = np.linalg.svd(fixed)
    free = directions[:, int((sizes > ROUNDING * sizes[0]).sum()) :]
    left, degrees = free.T @ z, free.shape[1]
    covers = [(free.T @ part) @ (free.T @ part).T for part in parts]
    if np.linalg.norm(left) <= ROUNDING * np.linalg.norm(z):
        return np.zeros(len(parts)), 0.0

    def deviance(logs: np.ndarray) -> tuple[float, np.ndarray]:
        """-2 ln likelihood but for a constant, the noise's variance at its best, and its slopes by ``logs``."""
        ratios = np.exp(logs)
        factor = cho_factor(
            np.eye(degrees) + sum(r * cover for r, cover in zip(ratios, covers, strict=True)), lower=True
        )
        inverse = cho_solve(factor, np.eye(degrees))
        weighted = inverse @ left
        size = float(left @ weighted)
        slopes = [(inverse * cover).sum() - degrees * weighted @ cover @ weighted / size for cover in covers]
        value = degrees * np.log(size / degrees) + 2 * np.log(np.diag(factor[0])).sum()
        return float(value), ratios * np.array(slopes)

    if not parts:
        return np.zeros(0), float(left @ left) / degrees
    bounds = [LN_RATIO] * len(parts)
    # From equal shares; the same optimum was found from far smaller ones on every task tried.
    found = minimize(
        deviance, np.zeros(len(parts)), jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12}
    )
    ratios = np.exp(found.x)
    cover = np.eye(degrees) + sum(r * c for r, c in zip(ratios, covers, strict=True))
    return ratios, float(left @ np.linalg.solve(cover, left)) / degrees
