"""The Gaussian process against definitions, scikit-learn's regressor and planted worlds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct

from njsl.core.types import ConfigError
from njsl.predict.base import LN_PARAMS, LN_TOKENS, Context
from njsl.predict.gaussian import FARTHEST, distances, encode, encoders, kernel, posterior, products
from njsl.predict.predictors.gaussian_process import GaussianProcess


def models(seed: int, count: int = 40) -> tuple[pd.DataFrame, np.ndarray]:
    """A plane over scale, an effect of code and of the activation; a fifth of the data columns is missing."""
    random = np.random.default_rng(seed)
    X = pd.DataFrame(
        {
            "code_pct": random.uniform(0, 40, count),
            LN_PARAMS: random.uniform(18, 25, count),
            "web_pct": random.uniform(0, 90, count),
            LN_TOKENS: random.uniform(3, 9, count),
            "dimension": random.uniform(500, 8000, count),
            "activation": pd.Categorical(random.choice(["gelu", "silu"], count)),
        },
        index=[f"model {row}" for row in range(count)],
    )
    y = 0.03 * (X[LN_PARAMS] - 18) + 0.02 * X[LN_TOKENS] + 0.002 * X["code_pct"] + 0.05 * (X["activation"] == "silu")
    X.loc[random.random(count) < 0.2, ["code_pct", "web_pct"]] = np.nan
    return X, (y + random.normal(0, 0.02, count)).fillna(0.3).to_numpy()


def scale_only(seed: int, count: int = 30, noise: float = 0.01) -> tuple[pd.DataFrame, np.ndarray]:
    X, _ = models(seed, count)
    X = X[[LN_PARAMS, LN_TOKENS]]
    line = 0.05 * (X[LN_PARAMS] - 21) + 0.03 * (X[LN_TOKENS] - 6)
    return X, (0.5 + line + np.random.default_rng(seed + 100).normal(0, noise, count)).to_numpy()


def told(X: pd.DataFrame, y: np.ndarray, stderr: Any) -> Context:
    alone = Context.alone(X, y)
    return Context(alone.groups, alone.labels, pd.Series(stderr, index=X.index, dtype=float), task="y")


# What the kernels read: each group's columns standardised, a flag of gaps, and a width of two columns at most.


def standardised(numbers: pd.DataFrame, later: pd.DataFrame) -> np.ndarray:
    filled = numbers.fillna(numbers.median())
    rows = ((later.fillna(numbers.median()) - filled.mean()) / filled.std(ddof=0)).to_numpy()
    rows = np.minimum(np.maximum(rows, -3.5), 3.5)
    if 0.03 < numbers.isna().any(axis=1).mean() < 0.97:
        rows = np.column_stack([rows, np.where(later.isna().any(axis=1), 1.5, 0.0)])
    return rows / np.sqrt(max(1, rows.shape[1] / 2))


def blocks(train: pd.DataFrame, later: pd.DataFrame) -> dict[str, np.ndarray]:
    """By group, in the order of the frame's columns after scale."""
    return {
        "scale": standardised(train[[LN_PARAMS, LN_TOKENS]], later[[LN_PARAMS, LN_TOKENS]]),
        "[D]": standardised(train[["code_pct", "web_pct"]], later[["code_pct", "web_pct"]]),
        "[A]": standardised(train[["dimension"]], later[["dimension"]]),
        "categories": np.column_stack([later["activation"] == label for label in ("gelu", "silu")]).astype(float),
    }


def test_the_groups_are_what_is_written_above() -> None:
    X, _ = models(0)
    later, _ = models(1, 10)
    later = later.assign(**{LN_PARAMS: later[LN_PARAMS] + 30})
    fitted = encoders(X)
    ours, expected = encode(fitted, later), blocks(X, later)
    assert ours.names == tuple(expected)
    for mine, theirs in zip(ours.columns, expected.values(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)
    assert ours.columns[0].max() == FARTHEST
    rows = encode(fitted, X)
    train = blocks(X, X)
    for squares, name in zip(distances(ours, rows), expected, strict=True):
        np.testing.assert_allclose(squares, cdist(expected[name], train[name]) ** 2, atol=1e-9)
    assert all((squares >= 0).all() for squares in distances(rows, rows))


def covariance(logs: np.ndarray, rows: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> np.ndarray:
    """From the model's description, by no product of its own: plane + each group's function, fading with scale."""
    count = len(rows)
    gap = cdist(rows["scale"], others["scale"])
    total = np.exp(logs[0]) ** 2 * (1 + rows["scale"] @ others["scale"].T)
    for number, name in enumerate(rows):
        size, length = np.exp(logs[1 + number]), np.exp(logs[1 + count + number])
        part = size**2 * np.exp(-0.5 * (cdist(rows[name], others[name]) / length) ** 2)
        total = total + (part if number == 0 else part * (1 + np.exp(-0.5 * (gap / 2) ** 2)) / 2)
    return total


def problem(seed: int) -> tuple[dict[str, np.ndarray], tuple[Any, ...], np.random.Generator]:
    """Description of the rows, and the arguments of ``posterior`` after the hyperparameters."""
    X, y = models(seed, 25)
    random = np.random.default_rng(seed)
    rows = encode(encoders(X), X)
    prior = random.normal(0, 0.5, 10), random.uniform(0.3, 0.9, 10)
    known, weights = random.uniform(0, 0.2, 25), random.uniform(0.2, 1.3, 25)
    target = (y - np.median(y)) / y.std()
    return blocks(X, X), (target, distances(rows, rows), products(rows, rows), known, weights, prior), random


@pytest.mark.parametrize("seed", range(3))
def test_posterior_is_likelihood_times_prior(seed: int) -> None:
    described, rest, random = problem(seed)
    target, squares, plane, known, weights, (middle, spread) = rest
    values = []
    for _ in range(3):
        logs = random.normal(-0.5, 0.5, 10)
        cover = covariance(logs, described, described)
        np.testing.assert_allclose(kernel(logs, squares, plane)[0], cover, atol=1e-9)
        noisy = cover + np.diag(np.exp(2 * logs[-1]) / weights + known)
        likelihood = multivariate_normal(np.zeros(25), noisy).logpdf(target)
        defined = likelihood + multivariate_normal(middle, np.diag(spread**2)).logpdf(logs)
        values.append((posterior(logs, *rest)[0], -defined))
    ours, theirs = np.array(values).T
    np.testing.assert_allclose(np.diff(ours), np.diff(theirs), atol=1e-3)  # constants cancel; rest is jitter


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 200), shift=st.floats(-1.5, 0.5))
def test_gradient_is_the_slope(seed: int, shift: float) -> None:
    _, rest, random = problem(seed)
    logs = random.normal(shift, 0.5, 10)
    gradient = posterior(logs, *rest)[1]
    steps = 1e-5 * np.eye(10)
    slope = [(posterior(logs + step, *rest)[0] - posterior(logs - step, *rest)[0]) / 2e-5 for step in steps]
    np.testing.assert_allclose(gradient, slope, rtol=2e-4, atol=2e-3)
    assert np.abs(gradient).max() > 0.1


def test_nothing_near_is_more_probable() -> None:
    """The fit ends where random steps no longer gain, far above where it started."""
    X, y = models(3)
    process = GaussianProcess(freedom=None).fit(X, y).process_
    rows = encode(encoders(X), X)
    target = (y - np.median(y)) / y.std()
    prior = process._prior(4)
    rest = target, distances(rows, rows), products(rows, rows), np.zeros(40), np.ones(40), prior
    found, gradient = posterior(process.logs_, *rest)
    assert found < posterior(prior[0], *rest)[0] - 5
    assert np.abs(gradient).max() < 0.3
    random = np.random.default_rng(0)
    nearby = [posterior(process.logs_ + random.normal(0, 0.3, 10), *rest)[0] for _ in range(50)]
    assert found < min(nearby)
    assert np.isclose(np.exp(prior[0][2:5]), 0.12).all() and np.exp(prior[0][1]) == pytest.approx(0.5)


class Plane(DotProduct):
    """A plane over the first two columns."""

    def __call__(self, X: np.ndarray, Y: Any = None, eval_gradient: bool = False) -> Any:
        return super().__call__(X[:, :2], None if Y is None else Y[:, :2], eval_gradient)

    def diag(self, X: np.ndarray) -> np.ndarray:
        return super().diag(X[:, :2])


def scikit_learns(logs: np.ndarray, widths: list[int]) -> Any:
    """The same kernel from scikit-learn's parts: columns of other groups get an endless length."""
    count = len(widths)
    edges = np.cumsum([0, *widths])

    def smooth(number: int, length: float) -> RBF:
        lengths = np.full(edges[-1], np.inf)
        lengths[edges[number] : edges[number + 1]] = length
        return RBF(lengths)

    total = ConstantKernel(np.exp(2 * logs[0])) * Plane(1.0)
    for number in range(count):
        part = ConstantKernel(np.exp(2 * logs[1 + number])) * smooth(number, np.exp(logs[1 + count + number]))
        total = total + (part * (ConstantKernel(0.5) + ConstantKernel(0.5) * smooth(0, 2.0)) if number else part)
    return total


@pytest.mark.parametrize("given_stderr", [False, True])
def test_scikit_learns_posterior_mean_at_the_same_hyperparameters(given_stderr: bool) -> None:
    X, y = models(4)
    later, _ = models(5, 15)
    stderr = np.where(np.arange(40) % 3 == 0, np.nan, 0.03) if given_stderr else np.full(40, np.nan)
    model = GaussianProcess(freedom=None).fit(X, y, told(X, y, stderr))
    logs = model.process_.logs_
    train, test = blocks(X, X), blocks(X, later)
    rows, new = np.hstack(list(train.values())), np.hstack(list(test.values()))
    kernel_ = scikit_learns(logs, [part.shape[1] for part in train.values()])
    np.testing.assert_allclose(kernel_(new, rows), covariance(logs, test, train), atol=1e-9)
    alpha = np.exp(2 * logs[-1]) + np.nan_to_num(stderr) ** 2 / y.var()
    theirs = GaussianProcessRegressor(kernel_, alpha=alpha, optimizer=None)
    theirs.fit(rows, (y - np.median(y)) / y.std())
    np.testing.assert_allclose(model.predict(later), np.median(y) + y.std() * theirs.predict(new), atol=1e-6)


def test_an_outlier_moves_students_noise_less() -> None:
    X, y = scale_only(6)
    wrong = y.copy()
    wrong[4] += 0.8
    others = X.drop(index=X.index[4])
    moved = {}
    for freedom in (None, 4.0):
        before, after = (GaussianProcess(freedom=freedom).fit(X, scores).predict(others) for scores in (y, wrong))
        moved[freedom] = np.abs(after - before).mean()
    assert moved[4.0] < 0.5 * moved[None]
    assert moved[4.0] < 0.02 < 0.8


def test_without_outliers_students_noise_costs_little() -> None:
    X, y = scale_only(7)
    normal, student = (GaussianProcess(freedom=freedom).fit(X, y).predict(X) for freedom in (None, 4.0))
    assert np.abs(normal - student).max() < 0.02


def test_a_known_variance_weighs_a_label_down() -> None:
    X, y = scale_only(8)
    wrong = y.copy()
    wrong[[2, 9, 11]] += [0.3, -0.3, 0.25]
    stderr = np.full(30, 0.005)
    stderr[[2, 9, 11]] = 0.5
    blind = GaussianProcess(freedom=None).fit(X, wrong)
    aware = GaussianProcess(freedom=None).fit(X, wrong, told(X, wrong, stderr))
    truth = 0.5 + 0.05 * (X[LN_PARAMS] - 21) + 0.03 * (X[LN_TOKENS] - 6)
    errors = [np.abs(model.predict(X) - truth).mean() for model in (aware, blind)]
    assert errors[0] < 0.01 and errors[0] < 0.4 * errors[1]


def test_an_unknown_variance_is_none() -> None:
    X, y = models(9)
    plain = GaussianProcess().fit(X, y).predict(X)
    np.testing.assert_array_equal(GaussianProcess().fit(X, y, told(X, y, np.nan)).predict(X), plain)
    np.testing.assert_array_equal(GaussianProcess().fit(X, y, told(X, y, 0.0)).predict(X), plain)
    # Variances are found by model, whatever their order.
    stderr = np.linspace(0.001, 0.1, 40)
    ordered = told(X, y, stderr)
    turned = Context(ordered.groups, ordered.labels[::-1], ordered.stderr[::-1], task="y")
    known = GaussianProcess().fit(X, y, ordered).predict(X)
    np.testing.assert_array_equal(GaussianProcess().fit(X, y, turned).predict(X), known)
    assert not np.allclose(known, plain, atol=1e-4)


def test_units_of_the_score_do_not_matter() -> None:
    X, y = models(10)
    one = GaussianProcess().fit(X, y, told(X, y, 0.02)).predict(X)
    other = GaussianProcess().fit(X, 50 * y - 3, told(X, y, 1.0)).predict(X)
    np.testing.assert_allclose(other, 50 * one - 3, atol=1e-4 * 50)


def test_a_plane_goes_on_and_a_group_that_says_nothing_stays_small() -> None:
    X, y = scale_only(11, 60)
    noise = X.assign(dimension=np.random.default_rng(0).normal(size=60))
    model = GaussianProcess().fit(noise, y)
    logs = model.process_.logs_
    assert np.exp(logs[2]) < 0.12  # below its prior: the other group than scale
    edge = pd.DataFrame({LN_PARAMS: [26.0], LN_TOKENS: [10.0], "dimension": [0.0]}, index=["big"])
    assert model.predict(edge)[0] == pytest.approx(0.5 + 0.25 + 0.12, abs=0.04)


def test_a_groups_finding_fades_with_scale() -> None:
    """The share of a group's covariance between models far apart in scale is half of that at the same scale."""
    _, (_, squares, plane, *_), _ = problem(0)
    logs = np.zeros(10)
    _, _, parts, _ = kernel(logs, squares, plane)
    share = parts[1] / np.exp(-squares[1] / 2)
    assert share[0, 0] == pytest.approx(1) and (share >= 0.5).all()
    np.testing.assert_allclose(share, 0.5 + 0.5 * np.exp(-squares[0] / 8))


@pytest.mark.parametrize("names", [[LN_PARAMS, LN_TOKENS], [LN_PARAMS], ["code_pct"], ["activation", "dimension"]])
def test_any_columns_will_do(names: list[str]) -> None:
    """The score follows one column of each frame."""
    X, _ = models(12)
    column = X[names[0]].cat.codes if names[0] == "activation" else X[names[0]].fillna(X[names[0]].median())
    y = (0.3 + 0.1 * (column - column.mean()) / column.std()).to_numpy() + np.random.default_rng(1).normal(0, 0.01, 40)
    predicted = GaussianProcess().fit(X[names], y).predict(X[names])
    assert np.abs(predicted - y).mean() < 0.02 < 0.05 < np.abs(y - np.median(y)).mean()


@pytest.mark.parametrize(
    "params", [{"group_scale": 0.0}, {"group_scale": -0.1}, {"freedom": 0.0}, {"freedom": -4.0}], ids=str
)
def test_a_parameter_out_of_range_is_refused(params: dict[str, float]) -> None:
    X, y = scale_only(13)
    with pytest.raises(ConfigError, match=r"^gaussian_process: .*positive numbers are accepted") as caught:
        GaussianProcess(**params).fit(X, y)
    assert "\n" not in str(caught.value) and str(next(iter(params.values()))) in str(caught.value)
