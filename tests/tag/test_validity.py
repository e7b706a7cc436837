"""Validity of generations: planted relations are found, and what cannot be said is not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from njsl.core.types import DataError
from njsl.tag.validity import Pair, pooled, validity


def frame(values: dict[str, float], std: float = 2.0) -> pd.DataFrame:
    rows = {"feature": list(values), "value": list(values.values()), "n": 200, "std": std, "se": 0.1}
    return pd.DataFrame(rows)


def pairs(generated: dict[str, list[float]], actual: dict[str, list[float]], std: float = 2.0) -> list[Pair]:
    count = len(next(iter(actual.values())))
    return [
        Pair(
            f"model {at}",
            f"corpus {at}",
            frame({name: values[at] for name, values in generated.items()}, 99.0),
            frame({name: values[at] for name, values in actual.items()}, std),
        )
        for at in range(count)
    ]


def row(table: pd.DataFrame, feature: str) -> pd.Series:
    return table.set_index("feature").loc[feature]


def test_figures_by_hand() -> None:
    # Deviations from the means: actual -2 -1 0 1 2, generated -3 -1 1 -1 4 around 5: products 6 1 0 -1 8 = 14,
    # squares 10 and 28. Ranks of generated: 1, 2.5, 4, 2.5, 5; their deviations -2 -.5 1 -.5 2: products with
    # -2 -1 0 1 2 are 4 .5 0 -.5 4 = 8, squares 9.5 and 10.
    table = validity(pairs({"x_mean": [2, 4, 6, 4, 9]}, {"x_mean": [1, 2, 3, 4, 5]}))
    one = row(table, "x_mean")
    assert one["pairs"] == 5 and one["reason"] == ""
    assert one["pearson"] == pytest.approx(14 / np.sqrt(280))
    assert one["spearman"] == pytest.approx(8 / np.sqrt(95))
    # Differences 1 2 3 0 4: mean 2, and the corpora's documents spread by 2.
    assert (one["bias"], one["bias_std"]) == (2.0, 1.0)
    assert one["bias_low"] == 2 * one["bias_std_low"] and one["bias_high"] == 2 * one["bias_std_high"]
    for name in ("pearson", "spearman", "bias"):
        assert one[f"{name}_low"] < one[name] <= one[f"{name}_high"]


def _pearson(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    return stats.pearsonr(x, y, axis=axis).statistic


def test_a_planted_relation_is_found_and_noise_is_not() -> None:
    random = np.random.default_rng(0)
    actual = random.normal(size=40)
    generated = {
        "follows": 0.5 * actual + 3 + 0.1 * random.normal(size=40),
        "against": -(actual**3),
        "noise": random.normal(size=40),
    }
    table = validity(
        pairs({name: list(values) for name, values in generated.items()}, dict.fromkeys(generated, actual))
    )
    for name, values in generated.items():
        one = row(table, name)
        assert one["pearson"] == pytest.approx(stats.pearsonr(values, actual).statistic)
        assert one["spearman"] == pytest.approx(stats.spearmanr(values, actual).statistic)
        expected = stats.bootstrap(
            (values, actual), _pearson, paired=True, vectorized=True, method="percentile", rng=1
        ).confidence_interval
        assert (one["pearson_low"], one["pearson_high"]) == pytest.approx(tuple(expected), abs=0.02)
    assert row(table, "follows")["pearson_low"] > 0.9 and row(table, "follows")["bias_low"] > 2.5
    assert row(table, "against")["spearman"] == row(table, "against")["spearman_high"] == -1
    assert row(table, "noise")["pearson_low"] < 0 < row(table, "noise")["pearson_high"]


def test_a_domain_s_share_is_a_feature() -> None:
    shares = {"domain_web_pct_mean": [10.0, 30, 50, 70, 90], "domain_books_pct_mean": [90.0, 70, 50, 30, 10]}
    generated = {name: [0.8 * value for value in values] for name, values in shares.items()}
    table = validity(pairs(generated, shares, std=float("nan")))
    web = row(table, "domain_web_pct_mean")
    assert web["pearson"] == pytest.approx(1) and web["bias"] == pytest.approx(-10)
    assert np.isnan(web["bias_std"]) and web["reason"] == "no std over documents"


@pytest.mark.parametrize(("generated", "actual", "reason"), [
    ([1.0, 2, 3, 4, 5], [0.1] * 5, "constant over corpora"),
    ([0.1] * 5, [1.0, 2, 3, 4, 5], "constant over generations"),
])  # fmt: skip
def test_a_constant_has_no_correlation(generated: list[float], actual: list[float], reason: str) -> None:
    one = row(validity(pairs({"x": generated}, {"x": actual})), "x")
    assert one["reason"] == reason
    assert one[["spearman", "spearman_low", "spearman_high", "pearson", "pearson_low", "pearson_high"]].isna().all()
    assert one["bias"] == pytest.approx(np.mean(generated) - np.mean(actual))


def test_pairs_without_a_value_do_not_count() -> None:
    values = [1.0, 2, 3, 4, 5, 6]
    broken = {"some": [float("nan"), *values[1:]], "few": [*[float("nan")] * 2, *values[2:]]}
    table = validity(pairs(broken, {"some": values, "few": values, "corpus only": values}))
    assert list(table["feature"]) == ["some", "few"]
    assert row(table, "some")["pairs"] == 5 and row(table, "some")["pearson"] == pytest.approx(1)
    few = row(table, "few")
    assert few["pairs"] == 4 and few["reason"] == "fewer than 5 pairs"
    assert np.isnan(few["pearson"]) and np.isnan(few["bias"])


def test_the_same_seed_gives_the_same_table() -> None:
    given = pairs({"x": [2.0, 4, 6, 4, 9]}, {"x": [1.0, 2, 3, 4, 5]})
    pd.testing.assert_frame_equal(validity(given), validity(given))


def test_what_cannot_be_said_is_refused() -> None:
    given = pairs({"x": [2.0, 4, 6, 4, 9]}, {"x": [1.0, 2, 3, 4, 5]})
    with pytest.raises(DataError, match=r"validity: 4 pairs .* at least 5"):
        validity(given[:4])
    with pytest.raises(DataError, match="model 0 with corpus corpus 0 is there twice"):
        validity([*given, given[0]])
    with pytest.raises(DataError, match="no feature is known of both"):
        validity(pairs({"x": [1.0, 2, 3, 4, 5]}, {"y": [1.0, 2, 3, 4, 5]}))
    twice = pd.concat([given[0].generated] * 2)
    with pytest.raises(DataError, match="generations of model 0 / corpus 0: feature 'x' is there twice"):
        validity([Pair("model 0", "corpus 0", twice, given[0].actual), *given[1:]])
    with pytest.raises(DataError, match="corpus of model 0 / corpus 0: no column 'std'"):
        validity([Pair("model 0", "corpus 0", given[0].generated, given[0].actual.drop(columns="std")), *given[1:]])
    with pytest.raises(DataError, match="no correlation pooled over 2 features: their units differ"):
        pooled(["x", "y"])
