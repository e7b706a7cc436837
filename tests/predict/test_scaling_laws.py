"""The scaling laws find planted parameters, and their standard errors mean what they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from njsl.core.types import DataError
from njsl.predict.base import LN_PARAMS, LN_TOKENS
from njsl.predict.predictors.chinchilla import Chinchilla
from njsl.predict.predictors.kaplan import Kaplan
from njsl.predict.predictors.loglinear import LogLinear
from njsl.predict.scaling_law import ScalingLaw

SEEDS = range(30)
NOISE = 0.003
# N and D are drawn independently over four and three decades, so neither stands in for the other, and each term of the
# loss runs from a few hundredths to a few units: there the score leaves both guessing and perfect far behind. Models
# of one decade, or trained at one ratio of tokens to parameters, would leave coefficient and exponent confounded.
PLANTED = {
    Kaplan: {"Nc": 3e8, "Dc": 60.0, "alphaN": 0.35, "alphaD": 0.6},
    Chinchilla: {"E": 0.2, "A": 900.0, "B": 6.0, "alpha": 0.4, "beta": 0.6},
}


def kaplan_loss(N: np.ndarray, D: np.ndarray, *, Nc: float, Dc: float, alphaN: float, alphaD: float) -> np.ndarray:
    return ((Nc / N) ** (alphaN / alphaD) + Dc / D) ** alphaD


def chinchilla_loss(
    N: np.ndarray, D: np.ndarray, *, E: float, A: float, B: float, alpha: float, beta: float
) -> np.ndarray:
    return E + A / N**alpha + B / D**beta


LOSSES: dict[type[ScalingLaw], Callable[..., np.ndarray]] = {Kaplan: kaplan_loss, Chinchilla: chinchilla_loss}
laws = pytest.mark.parametrize("law", [Kaplan, Chinchilla])


def design(seed: int, rows: int = 92) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    random = np.random.default_rng(seed)
    N, D = 10 ** random.uniform(7, 11, rows), 10 ** random.uniform(1, np.log10(2e4), rows)
    return N, D, pd.DataFrame({LN_PARAMS: np.log(N), LN_TOKENS: np.log(D)})


def planted(
    law: type[ScalingLaw], seed: int, chance: float = 0.25, brier: bool = False
) -> tuple[pd.DataFrame, np.ndarray]:
    N, D, X = design(seed)
    survival = np.exp(-LOSSES[law](N, D, **PLANTED[law]))
    score = 2 * chance * (1 - survival) if brier else chance + (1 - chance) * survival
    return X, score + np.random.default_rng(1000 + seed).normal(0, NOISE, len(X))


@laws
def test_planted_parameters_are_found_within_their_errors(law: type[ScalingLaw]) -> None:
    deviations = []
    for seed in SEEDS:
        X, y = planted(law, seed)
        fit = law(floor=0.25).fit(X, y)
        assert list(fit.params_) == list(PLANTED[law]) == list(fit.stderr_)
        deviations.append([(fit.params_[key] - true) / fit.stderr_[key] for key, true in PLANTED[law].items()])
    sizes = np.abs(deviations)
    # Of 30 x 5 draws from a normal distribution 0.4 lie beyond three standard errors.
    assert (sizes > 3).mean() <= 0.02 and sizes.max() < 4.5
    # 68 % within one; the parameters of a fit err together, so this is as sure as about 60 draws are.
    assert 0.52 < (sizes < 1).mean() < 0.84


@laws
def test_standard_errors_are_small_enough_to_mean_something(law: type[ScalingLaw]) -> None:
    fit = law(floor=0.25).fit(*planted(law, 0))
    for key, true in PLANTED[law].items():
        assert fit.stderr_[key] < 0.5 * true


@laws
def test_without_noise_the_law_is_found(law: type[ScalingLaw]) -> None:
    N, D, X = design(7)
    y = np.exp(-LOSSES[law](N, D, **PLANTED[law]))
    fit = law().fit(X, y)
    assert fit.params_ == pytest.approx(PLANTED[law], rel=1e-3)
    np.testing.assert_allclose(fit.predict(X), y, atol=1e-6)


@laws
def test_brier_score_falls_from_twice_guessing_to_nothing(law: type[ScalingLaw]) -> None:
    X, y = planted(law, 3, chance=0.75, brier=True)
    fit = law(floor=1.5, perfect=0.0).fit(X, y)
    for key, true in PLANTED[law].items():
        assert abs(fit.params_[key] - true) < 4 * fit.stderr_[key]
    ladder = pd.DataFrame({LN_PARAMS: np.log([1e3, 1e8, 1e9, 1e10]), LN_TOKENS: np.log([1e-3, 50, 500, 5000])})
    assert (np.diff(fit.predict(ladder)) < 0).all()
    assert fit.predict(ladder)[0] == pytest.approx(1.5, abs=1e-6)
    with pytest.raises(DataError, match="floor=0, perfect=0; two different finite scores are accepted"):
        law(perfect=0.0).fit(X, y)


@laws
def test_accuracy_rises_from_guessing(law: type[ScalingLaw]) -> None:
    fit = law(floor=0.25).fit(*planted(law, 3))
    ladder = pd.DataFrame({LN_PARAMS: np.log([1e3, 1e8, 1e9, 1e10]), LN_TOKENS: np.log([1e-3, 50, 500, 5000])})
    assert (np.diff(fit.predict(ladder)) > 0).all()
    assert fit.predict(ladder)[0] == pytest.approx(0.25, abs=1e-6)


@laws
@pytest.mark.parametrize("brier", [False, True])
@pytest.mark.filterwarnings("error")
def test_scores_beyond_the_links_range(law: type[ScalingLaw], brier: bool) -> None:
    X, _ = planted(law, 0)
    random = np.random.default_rng(0)
    for y in (random.uniform(-0.2, 1.6, 92), np.zeros(92), np.ones(92), np.full(92, 0.25), X[LN_PARAMS] / 20):
        fit = law(**({"floor": 0.5, "perfect": 0.0} if brier else {"floor": 0.25})).fit(X, np.asarray(y))
        extremes = pd.DataFrame({LN_PARAMS: [0.0, 60.0, np.nan], LN_TOKENS: [-20.0, 40.0, np.nan]})
        assert np.isfinite(fit.predict(extremes)).all()
        assert np.isfinite(list(fit.params_.values())).all()
        assert not np.isnan(list(fit.stderr_.values())).any()


@laws
def test_slopes_are_the_derivatives_of_the_loss(law: type[ScalingLaw]) -> None:
    N, D, _ = design(1, rows=9)
    fit = law()
    logs = np.log([PLANTED[law][key] for key in fit.coefficients + fit.exponents])
    step = 1e-6 * np.eye(len(logs))
    moved = [(fit.loss(logs + e, np.log(N), np.log(D)) - fit.loss(logs - e, np.log(N), np.log(D))) / 2e-6 for e in step]
    np.testing.assert_allclose(fit.slopes(logs, np.log(N), np.log(D)), np.transpose(moved), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(fit.loss(logs, np.log(N), np.log(D)), LOSSES[law](N, D, **PLANTED[law]), rtol=1e-9)


def test_what_the_scores_cannot_tell_has_an_infinite_error() -> None:
    X, _ = planted(Chinchilla, 0)
    X[LN_TOKENS] = np.log(300.0)  # one token count: E, B and beta only ever show in their sum
    y = np.exp(-(0.5 + 900 / np.exp(X[LN_PARAMS]) ** 0.4)).to_numpy()
    fit = Chinchilla().fit(X, y + np.random.default_rng(0).normal(0, NOISE, 92))
    assert np.isinf([fit.stderr_[key] for key in ("E", "B", "beta")]).all()
    assert abs(fit.params_["alpha"] - 0.4) < 4 * fit.stderr_["alpha"] < 0.4


@laws
def test_fewer_models_than_parameters(law: type[ScalingLaw]) -> None:
    X, y = planted(law, 0)
    fit = law(floor=0.25).fit(X[:3], y[:3])
    assert np.isfinite(fit.predict(X)).all()
    assert np.isinf(list(fit.stderr_.values())).all()


def test_loglinear_is_ordinary_least_squares() -> None:
    X, y = planted(Kaplan, 2)
    columns = np.column_stack([np.ones(60), X[:60]])
    expected, *_ = np.linalg.lstsq(columns, y[:60], rcond=None)
    fit = LogLinear().fit(X[:60].assign(other=1.0), y[:60])
    np.testing.assert_allclose(fit.predict(X[60:]), expected[0] + X[60:].to_numpy() @ expected[1:], atol=1e-12)
    shares = fit.contributions(X[60:].assign(other=5.0))
    np.testing.assert_allclose(shares[:, :2], (X[60:] - X[:60].mean()) * expected[1:], atol=1e-12)
    assert (shares[:, 2] == 0).all()
