"""A plane and the trees on what it leaves: the share between the two is what it says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from njsl.predict.base import LN_PARAMS, LN_TOKENS
from njsl.predict.predictors.loglinear import LogLinear
from njsl.predict.predictors.residual import Residual


def models(seed: int, count: int = 80, low: float = 18.0, high: float = 23.0) -> tuple[pd.DataFrame, np.ndarray]:
    """A plane, and 0.1 more for models with parallel blocks."""
    random = np.random.default_rng(seed)
    parallel = random.random(count) < 0.5
    X = pd.DataFrame(
        {
            LN_PARAMS: random.uniform(low, high, count),
            LN_TOKENS: random.uniform(3, 8, count),
            "block_type": pd.Categorical(np.where(parallel, "parallel", "sequential")),
        }
    )
    y = 0.04 * (X[LN_PARAMS] - 18) + 0.02 * X[LN_TOKENS] + 0.1 * parallel + random.normal(0, 0.005, count)
    return X, y.to_numpy()


def test_without_a_share_the_plane_is_left() -> None:
    X, y = models(0)
    new, _ = models(1)
    plane = LogLinear().fit(X, y)
    np.testing.assert_allclose(Residual(shrink=0.0).fit(X, y).predict(new), plane.predict(new), atol=1e-12)


def test_the_share_is_a_straight_way_from_plane_to_trees() -> None:
    X, y = models(2)
    new, _ = models(3)
    none, quarter, whole = (Residual(shrink=share).fit(X, y).predict(new) for share in (0.0, 0.25, 1.0))
    np.testing.assert_allclose(quarter, 0.75 * none + 0.25 * whole, atol=1e-12)
    assert np.abs(whole - none).max() > 0.03


def test_beyond_the_training_scale_the_plane_goes_on_and_the_block_still_counts() -> None:
    X, y = models(4)
    large, truth = models(5, low=24.0, high=25.0)
    assert truth.mean() > y.max() - 0.05
    alone, both = (np.abs(Residual(shrink=share).fit(X, y).predict(large) - truth).mean() for share in (0.0, 1.0))
    assert both < 0.02 < 0.04 < alone


@pytest.mark.parametrize("better", [True, False])
def test_under_a_logit_predictions_stay_between_its_ends(better: bool) -> None:
    X, y = models(6)
    scores = np.clip(y if better else 1.2 - y, 0, 1.4)
    model = Residual(shrink=1.0, link="logit", floor=1.4 if not better else 0.0, perfect=float(better))
    predicted = model.fit(X, scores).predict(models(7, low=10.0, high=40.0)[0])
    low, high = sorted((model.link_.zero, model.link_.one))
    assert ((predicted > low) & (predicted < high)).all()
    assert np.abs(model.predict(X) - scores).mean() < 0.03
