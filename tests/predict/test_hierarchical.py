"""The mixed model against textbook formulas that share no line with it."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from njsl.predict.base import LN_PARAMS, LN_TOKENS, Context
from njsl.predict.predictors.hierarchical import Hierarchical, reml


def indicators(labels: np.ndarray) -> np.ndarray:
    return (labels[:, None] == np.unique(labels)).astype(float)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), groups=st.integers(3, 8), size=st.integers(2, 6), spread=st.floats(0.0, 3.0))
def test_a_balanced_design_has_a_closed_form(seed: int, groups: int, size: int, spread: float) -> None:
    """The analysis of variance: noise = mean square within, group = (mean square between - within) / size, or 0."""
    random = np.random.default_rng(seed)
    z = (random.normal(0, spread, groups)[:, None] + random.normal(size=(groups, size))).ravel()
    table = z.reshape(groups, size)
    between = size * np.square(table.mean(axis=1) - z.mean()).sum() / (groups - 1)
    within = np.square(table - table.mean(axis=1, keepdims=True)).sum() / (groups * (size - 1))
    (ratio,), noise = reml(z, np.ones((len(z), 1)), [indicators(np.repeat(np.arange(groups), size))])
    if between > within * 1.01:
        assert noise == pytest.approx(within, rel=1e-3)
        assert ratio * noise == pytest.approx((between - within) / size, rel=1e-2, abs=1e-3)
    elif between < within * 0.99:
        assert ratio < 1e-3 and noise == pytest.approx(z.var(ddof=1), rel=1e-2)


def restricted(logs: np.ndarray, z: np.ndarray, fixed: np.ndarray, parts: list[np.ndarray]) -> float:
    """-2 ln restricted likelihood but for a constant, of ln variances [parts, then noise], from its definition."""
    *of_parts, noise = np.exp(logs)
    cover = noise * np.eye(len(z)) + sum(v * part @ part.T for v, part in zip(of_parts, parts, strict=True))
    inverse = np.linalg.inv(cover)
    information = fixed.T @ inverse @ fixed
    left = z - fixed @ np.linalg.solve(information, fixed.T @ inverse @ z)
    return float(np.linalg.slogdet(cover)[1] + np.linalg.slogdet(information)[1] + left @ inverse @ left)


@pytest.mark.parametrize("seed", range(2))
def test_no_variances_are_likelier(seed: int) -> None:
    random = np.random.default_rng(seed)
    org = random.integers(0, 5, 40)
    family = org * 3 + random.integers(0, 3, 40)
    fixed = np.column_stack([np.ones(40), random.normal(size=(40, 2))])
    parts = [random.normal(size=(40, 6)), indicators(family), indicators(org)]
    z = fixed @ [1.0, 2.0, -1.0] + sum(part @ random.normal(0, 0.7, part.shape[1]) for part in parts)
    z = z + random.normal(0, 0.5, 40)
    ratios, noise = reml(z, fixed, parts)
    found = restricted(np.log([*(ratios * noise), noise]), z, fixed, parts)
    searches = [
        minimize(restricted, start, (z, fixed, parts), method="Nelder-Mead", options={"maxfev": 1500})
        for start in (np.zeros(4), np.full(4, -2.0))
    ]
    best = min(searches, key=lambda search: search.fun)
    assert found <= best.fun + 1e-4
    for one, other in itertools.product(range(3), [0.5, 2.0]):
        scaled = ratios.copy()
        scaled[one] *= other
        assert restricted(np.log([*(scaled * noise), noise]), z, fixed, parts) >= found - 1e-6


def models(seed: int = 0, count: int = 60) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame]:
    """Models of 15 families in 5 orgs with planted intercepts, a plane and a slope; 20 % of the rows are noise-free."""
    random = np.random.default_rng(seed)
    family = np.arange(count) % 15
    X = pd.DataFrame(
        {
            LN_PARAMS: random.uniform(18, 25, count),
            LN_TOKENS: random.uniform(3, 9, count),
            "code_pct": random.uniform(0, 40, count),
            "activation": pd.Categorical(random.choice(["gelu", "silu"], count)),
        },
        index=[f"model {row}" for row in range(count)],
    )
    groups = pd.DataFrame(
        {"org": [f"org {f // 3}" for f in family], "family": [f"family {f}" for f in family]}, index=X.index
    )
    y = 0.03 * (X[LN_PARAMS] - 18) + 0.02 * X[LN_TOKENS] + 0.002 * X["code_pct"]
    y = y + random.normal(0, 0.08, 15)[family] + random.normal(0, 0.05, 5)[family // 3] + random.normal(0, 0.01, count)
    return X, y.to_numpy(), groups


def context(X: pd.DataFrame, y: np.ndarray, groups: pd.DataFrame) -> Context:
    return Context(groups, pd.DataFrame({"task": y}, index=X.index), pd.Series(np.nan, index=X.index))


def test_slopes_and_intercepts_solve_the_mixed_model_equations() -> None:
    """Henderson's equations at the variances found: one sparse system instead of weighted least squares."""
    X, y, groups = models()
    model = Hierarchical().fit(X, y, context(X, y, groups))
    assert model.variances_["noise"] == pytest.approx(1e-4, rel=0.6)
    columns = model.preprocessing_.transform(X)
    fixed = np.column_stack([np.ones(len(X)), columns[:, :2]])
    rest = columns[:, 2:] / np.sqrt(columns.shape[1] - 2)
    parts = {
        "features": rest,
        "family": indicators(groups["family"].to_numpy(dtype=str)),
        "org": indicators(groups["org"].to_numpy(dtype=str)),
    }
    every = np.column_stack([fixed, *parts.values()])
    penalty = [np.zeros(3), *(np.full(p.shape[1], 1 / model.variances_[name]) for name, p in parts.items())]
    system = every.T @ every / model.variances_["noise"] + np.diag(np.concatenate(penalty))
    solved = np.linalg.solve(system, every.T @ y / model.variances_["noise"])
    np.testing.assert_allclose(model.predict(X), every @ solved, atol=1e-8)
    for level in ("family", "org"):
        start = 3 + rest.shape[1] + (parts["family"].shape[1] if level == "org" else 0)
        effects = dict(zip(np.unique(groups[level].to_numpy(dtype=str)), solved[start:], strict=False))
        assert model.effects_[level] == pytest.approx(effects, abs=1e-8)


def test_a_known_sibling_is_used_and_a_stranger_gets_nothing() -> None:
    X, y, groups = models()
    later = np.arange(60) >= 45  # one model in four of every family
    known = context(X, y, groups)
    model = Hierarchical().fit(X[~later], y[~later], known.only(X.index[~later]))
    plain = Hierarchical().fit(X[~later], y[~later])
    error, without = (np.abs(m.predict(X[later]) - y[later]).mean() for m in (model, plain))
    assert error < 0.03 < 0.06 < without
    assert set(plain.variances_) == {"features", "noise"} and plain.effects_ == {}
    # A stranger is the same model without its org's and family's intercepts.
    stranger = X[later].set_axis([f"new {row}" for row in range(15)])
    own = [model.effects_["family"][f] + model.effects_["org"][o] for o, f in groups[later].to_numpy()]
    np.testing.assert_allclose(model.predict(X[later]) - model.predict(stranger), own, atol=1e-10)


def test_a_held_out_family_keeps_its_orgs_share() -> None:
    X, y, groups = models()
    gone = (groups["family"] == "family 0").to_numpy()
    model = Hierarchical().fit(X[~gone], y[~gone], context(X, y, groups).only(X.index[~gone]))
    assert "family 0" not in model.effects_["family"]
    shift = model.predict(X[gone]) - model.predict(X[gone].set_axis([f"new {row}" for row in range(gone.sum())]))
    np.testing.assert_allclose(shift, model.effects_["org"]["org 0"], atol=1e-10)


def test_effects_are_shrunken_towards_nothing() -> None:
    """With unrelated features, a family's intercept is less than the mean of what it leaves unexplained."""
    X, y, groups = models(count=30)
    groups = groups.assign(org="one org")
    model = Hierarchical().fit(X, y, context(X, y, groups))
    plane = y - (model.predict(X) - np.array([model.effects_["family"][f] for f in groups["family"]]))
    means = pd.Series(plane, index=X.index).groupby(groups["family"]).mean()
    shares = pd.Series(model.effects_["family"]) / means
    assert ((shares > 0) & (shares < 1)).all() and np.ptp(shares) < 1e-6  # all families have two models


def test_effects_add_up_on_the_line() -> None:
    X, y, groups = models()
    model = Hierarchical(link="logit", floor=0.25).fit(X, np.clip(y, 0.2, 0.98), context(X, y, groups))
    stranger = X.set_axis([f"new {row}" for row in range(60)])
    own = [model.effects_["family"][f] + model.effects_["org"][o] for o, f in groups.to_numpy()]
    line = model.link_.to_line(model.predict(X)) - model.link_.to_line(model.predict(stranger))
    inside = np.abs(model.link_.to_line(model.predict(X))) < 2.5
    inside &= np.abs(model.link_.to_line(model.predict(stranger))) < 2.5
    assert inside.sum() > 30
    np.testing.assert_allclose(line[inside], np.array(own)[inside], atol=1e-9)
