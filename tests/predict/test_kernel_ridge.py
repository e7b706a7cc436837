"""Kernel ridge regression against its closed form and against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn import kernel_ridge

from njsl.predict.base import LN_PARAMS, LN_TOKENS
from njsl.predict.predictors.kernel_ridge import KernelRidge


def rows(seed: int, count: int) -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(seed).normal(size=(count, 4)), columns=list("abcd"))


def scores(X: pd.DataFrame) -> np.ndarray:
    return (0.5 + 0.2 * np.tanh(X["a"]) + 0.05 * np.sin(X["b"])).to_numpy()


@pytest.mark.parametrize("alpha", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("gamma", [0.1, 2.0])
def test_closed_form(alpha: float, gamma: float) -> None:
    """Weights (K + alpha I)^-1 (y - mean), by a direct solution; distances are means over the columns."""
    X, new = rows(0, 40), rows(1, 10)
    y = scores(X)
    columns, others = (((frame - X.mean()) / X.std(ddof=0)).to_numpy() for frame in (X, new))
    kernel, towards = (
        np.exp(-gamma * np.abs(left[:, None] - columns[None]).mean(axis=2)) for left in (columns, others)
    )
    weights = np.linalg.solve(kernel + alpha * np.eye(40), y - y.mean())
    expected = y.mean() + towards @ weights
    np.testing.assert_allclose(KernelRidge(gamma=gamma, alpha=alpha).fit(X, y).predict(new), expected, atol=1e-9)
    theirs = kernel_ridge.KernelRidge(alpha=alpha, kernel="laplacian", gamma=gamma / 4).fit(columns, y - y.mean())
    np.testing.assert_allclose(y.mean() + theirs.predict(others), expected, atol=1e-9)


def test_scale_is_weighed_against_all_other_columns() -> None:
    """Two models a unit apart in ln parameters, or in one of four other columns: 3 / 2 against 1 / 4 of gamma."""
    values = np.array([[-1, -1, -1, -1, -1, -1], [1, 1, 1, 1, 1, 1]] * 2, dtype=float)
    X = pd.DataFrame(values, columns=[*"ab", LN_PARAMS, LN_TOKENS, *"cd"])
    y = np.array([0.2, 0.6, 0.2, 0.6])
    model = KernelRidge(scale_weight=3.0, gamma=0.5, alpha=1e-6).fit(X, y)
    one = KernelRidge(scale_weight=3.0, gamma=0.5, alpha=1e-6).fit(X[[LN_PARAMS, LN_TOKENS]], y)
    for column, distance in (("a", 0.5), (LN_PARAMS, 3.0)):
        moved = X.iloc[[0]].copy()
        moved[column] = 1.0  # by 2 standard deviations: 2 / 4, or 3 * 2 / 2
        near, far = np.exp(-0.5 * distance), np.exp(-0.5 * (8.0 - distance))
        whole = np.exp(-0.5 * 8.0)  # between the two kinds of model: 3 * 2 + 2
        # Labels are 0.2 off the mean on either side, each kind twice: one weight per kind, of opposite sign.
        expected = 0.4 - 0.2 * (near - far) / (1 - whole)
        assert model.predict(moved)[0] == pytest.approx(expected, abs=1e-5)
    moved = X.iloc[[0]][[LN_PARAMS, LN_TOKENS]].copy()
    moved[LN_PARAMS] = 1.0  # half way between the two kinds
    assert one.predict(moved)[0] == pytest.approx(0.4, abs=1e-9)


def test_every_alpha_of_one_fit_is_a_fit_of_its_own() -> None:
    X, new = rows(2, 40), rows(3, 10)
    y, alphas = scores(X), [0.01, 0.1, 3.0]
    model = KernelRidge(alpha=3.0)
    model.fit_packed(model.pack(X, y))
    for alpha, along in zip(alphas, model.predict_path(model.pack(new), alphas), strict=True):
        np.testing.assert_array_equal(along, KernelRidge(alpha=alpha).fit(X, y).predict(new))


def test_link_is_around_the_regression() -> None:
    """With labels well inside, a logit's margin stands 0.05 beyond 0 and 1."""
    X, new = rows(4, 40), rows(5, 10)
    y = scores(X)
    share = (y + 0.05) / 1.1
    line = KernelRidge().fit(X, logit(share)).predict(new)
    linked = KernelRidge(link="logit", floor=0.0).fit(X, y).predict(new)
    np.testing.assert_allclose(linked, -0.05 + 1.1 * expit(line), atol=1e-9)


def test_far_from_all_models_the_mean_is_left() -> None:
    X = rows(6, 40)
    y = scores(X)
    far = rows(7, 3) * 1000
    np.testing.assert_allclose(KernelRidge().fit(X, y).predict(far), y.mean(), atol=1e-12)
