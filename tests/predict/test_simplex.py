"""Mixes within bounds, and the search among them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import ConfigError
from njsl.predict.simplex import Space, weights

ALL = Space.of(("a", "b", "c"), {})


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Two to five corpora with bounds around some mix, so that there is one."""
    count = draw(st.integers(2, 5))
    amounts = np.array(draw(st.lists(st.integers(1, 100), min_size=count, max_size=count)), dtype=float)
    middle = amounts / amounts.sum()
    apart = st.lists(st.floats(0.002, 0.5), min_size=count, max_size=count)
    low, high = np.clip(middle - draw(apart), 0, 1), np.clip(middle + draw(apart), 0, 1)
    names = [f"corpus{number}" for number in range(count)]
    return Space.of(names, {name: [float(low[k]), float(high[k])] for k, name in enumerate(names)})


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(0, 1000))
def test_mixes_sum_to_one_and_keep_their_bounds(space: Space, seed: int) -> None:
    random = np.random.default_rng(seed)
    for found in (space.nearest(random.normal(size=(20, len(space.corpora)))), space.sample(20, random)):
        assert found.sum(axis=1) == pytest.approx(1)
        assert all(space.holds(mix) for mix in found)
    mix = space.rounded(found[-1])
    assert space.holds(mix) and round(float(mix.sum()), 9) == 1
    assert mix * 1000 == pytest.approx(np.round(mix * 1000))


def test_the_nearest_mix_by_hand() -> None:
    # Without the last, which ends at 0, a shift of 0.2 makes the sum 1.
    assert ALL.nearest(np.array([[0.9, 0.5, -0.2]]))[0] == pytest.approx([0.7, 0.3, 0.0])
    capped = Space.of(("a", "b", "c"), {"a": [0, 0.5]})
    assert capped.nearest(np.array([[0.9, 0.5, -0.2]]))[0] == pytest.approx([0.5, 0.5, 0.0])


def test_the_search_finds_a_minimum_inside_and_one_at_the_bounds() -> None:
    middle = np.array([0.123, 0.456, 0.421])
    tried = ALL.sample(64, np.random.default_rng(0))
    assert ALL.best(lambda at: np.square(at - middle).sum(axis=1), tried, 0) == pytest.approx(middle, abs=0.0015)
    assert ALL.best(lambda at: at @ np.array([3.0, 1.0, 2.0]), tried, 0).tolist() == [0, 1, 0]
    capped = Space.of(("a", "b", "c"), {"b": [0, 0.25]})
    tried = capped.sample(64, np.random.default_rng(0))
    assert capped.best(lambda at: at @ np.array([3.0, 1.0, 2.0]), tried, 0).tolist() == [0, 0.25, 0.75]


def test_of_many_alike_the_middle_one_is_taken() -> None:
    tried = ALL.sample(4000, np.random.default_rng(0))
    found = ALL.best(lambda at: np.where((at[:, 0] > 0.4) & (at[:, 0] < 0.6), 0.0, 1.0), tried, 0)
    assert found == pytest.approx([0.5, 0.25, 0.25], abs=0.03)


def test_bounds_are_rounded_inwards() -> None:
    space = Space.of(("a", "b"), {"a": [0.1004, 0.5006]})
    assert (space.low[0], space.high[0]) == pytest.approx((0.101, 0.5))


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"d": [0, 1]}, "mix.bounds.d: no corpus of the proxies; accepted: a, b, c"),
        ({"a": [0.5]}, r"mix.bounds.a: \[0.5\]; \[smallest, largest\] share in 0..1 is accepted"),
        ({"a": [0.6, 0.5]}, "mix.bounds.a"),
        ({"a": [0.5, 1.5]}, "mix.bounds.a"),
        ({"a": 0.5}, "mix.bounds.a: 0.5; "),
        ({"a": ["0", "1"]}, "mix.bounds.a"),
        ({"a": [0.6, 1], "b": [0.5, 1]}, "no mix keeps them: smallest shares sum to 1.1"),
        ({"a": [0, 0.3], "b": [0, 0.3], "c": [0, 0.3]}, "largest to 0.9"),
    ],
)
def test_bounds_that_cannot_be(bounds: dict[str, list[float]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Space.of(("a", "b", "c"), bounds)


def test_a_mix_as_weights() -> None:
    assert weights(("a", "b"), np.array([1 / 3, 2 / 3])) == {"a": 0.333333, "b": 0.666667}
