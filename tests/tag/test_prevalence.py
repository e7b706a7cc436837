"""Corrected class shares: exact where the answer is known, and intervals that cover as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from njsl.core.types import DataError
from njsl.tag.prevalence import corrected_shares

CLASSES = ["web", "reference", "books", "academic"]
# P(found | true), about what a real classifier does, and how many labelled documents it was seen on.
RATES = np.array([[0.85, 0.09, 0.05, 0.01], [0.35, 0.5, 0.08, 0.07], [0.3, 0.1, 0.58, 0.02], [0.2, 0.25, 0.05, 0.5]])
LABELLED = (664, 150, 89, 23)


def test_without_noise_the_shares_come_back() -> None:
    # 1000 documents, half each: a finds 80 % of its own, b 90 %. Found as a: 500 * .8 + 500 * .1 = 450.
    table = corrected_shares({"a": 450, "b": 550}, np.array([[80, 20], [10, 90]]), ["a", "b"], seed=0, draws=50)
    assert table.share_pct.tolist() == pytest.approx([50, 50])
    assert table.raw_pct.tolist() == pytest.approx([45, 55])
    assert list(table.columns) == ["label", "share_pct", "low_pct", "high_pct", "raw_pct"]


def test_a_share_below_nothing_is_nothing() -> None:
    # Even without a single b a tenth would be found as b; 5 % are: the inverse would say -7 % of b.
    table = corrected_shares({"a": 95, "b": 5}, np.array([[90, 10], [20, 80]]), ["a", "b"], seed=0, draws=50)
    assert table.share_pct.tolist() == pytest.approx([100, 0])


def test_a_perfect_classifier_leaves_the_counts_and_their_binomial_interval() -> None:
    table = corrected_shares({"a": 300, "b": 700}, np.diag([10**7, 10**7]), ["a", "b"], seed=0, draws=4000)
    assert table.share_pct.tolist() == pytest.approx([30, 70])
    # 1.96 * sqrt(.3 * .7 / 1000) = 2.84 percentage points either way
    assert table.low_pct[0] == pytest.approx(30 - 2.84, abs=0.3)
    assert table.high_pct[0] == pytest.approx(30 + 2.84, abs=0.3)


def test_coverage_and_error_in_a_simulation() -> None:
    """Corpora of other shares than the labelled documents: the intervals hold the truth, the counts alone do not."""
    rng = np.random.default_rng(0)
    simulations = 120
    hits, error, raw_error, raw_hits, raw_parts = 0, [], [], 0, 0
    for number in range(simulations):
        truth = rng.dirichlet([6, 3, 2, 1.5])
        confusion = np.stack([rng.multinomial(n, row) for n, row in zip(LABELLED, RATES, strict=True)])
        counts = rng.multinomial(2000, truth @ RATES)
        given = dict(zip(CLASSES, counts.tolist(), strict=True))
        table = corrected_shares(given, confusion, CLASSES, seed=number, draws=200)
        hits += int(((table.low_pct <= 100 * truth) & (100 * truth <= table.high_pct)).sum())
        error.append(np.abs(table.share_pct - 100 * truth).sum())
        raw_error.append(np.abs(table.raw_pct - 100 * truth).sum())
        spread = 196 * np.sqrt(counts / 2000 * (1 - counts / 2000) / 2000)
        raw_hits += int((np.abs(table.raw_pct - 100 * truth) <= spread).sum())
        raw_parts += len(CLASSES)
        assert table.share_pct.sum() == pytest.approx(100) and (table.share_pct >= 0).all()
    # Four shares of a simulation are not independent: the bound takes each simulation as one trial of the mean.
    expected_low = stats.binom.ppf(0.001, simulations, 0.95) / simulations
    assert expected_low <= hits / raw_parts
    assert raw_hits / raw_parts < 0.6
    assert np.mean(error) < 0.75 * np.mean(raw_error)


def test_the_same_seed_gives_the_same_and_more_documents_a_narrower_interval() -> None:
    confusion = np.round(RATES * np.array(LABELLED)[:, None])
    counts = {"web": 55, "reference": 20, "books": 15, "academic": 10}
    few, again = (corrected_shares(counts, confusion, CLASSES, seed=1, draws=100) for _ in range(2))
    many = corrected_shares(
        {label: 100 * n for label, n in counts.items()}, confusion * 100, CLASSES, seed=1, draws=100
    )
    assert few.equals(again)
    assert ((many.high_pct - many.low_pct) < (few.high_pct - few.low_pct)).all()


def test_no_documents() -> None:
    table = corrected_shares({}, np.eye(2), ["a", "b"], seed=0)
    assert table.drop(columns="label").isna().all(axis=None)


@pytest.mark.parametrize(
    ("counts", "confusion", "message"),
    [
        ({"c": 1}, np.eye(2), "'c' is no class"),
        ({"a": -1}, np.eye(2), "negative"),
        ({"a": 1}, np.eye(3), "expected 2 x 2"),
        ({"a": 1}, np.array([[1, 0], [0, 0]]), "at least one labelled document of each of a, b"),
    ],
)
def test_bad_input_is_one_line(counts: dict[str, int], confusion: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        corrected_shares(counts, confusion, ["a", "b"], seed=0)
    assert "\n" not in str(caught.value)
