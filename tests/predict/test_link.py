"""Links are monotone both ways, and no label they are fitted on is out of reach."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from njsl.core.types import ConfigError, DataError
from njsl.predict.link import MARGIN, Link

KINDS = ("identity", "chance", "logit")
labels = arrays(float, st.integers(2, 30), elements=st.floats(0.0, 1.0))
briers = arrays(float, st.integers(2, 30), elements=st.floats(0.0, 2.0))
chances = st.sampled_from([0.0, 0.25, 0.5])


def fit(kind: str, y: np.ndarray, chance: float, better: bool) -> Link:
    """The link, for a Brier score of as many choices where less is better."""
    return Link.fit(kind, y, floor=chance if better else 1.5, perfect=float(better))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), chance=chances, better=st.booleans())
def test_there_and_back(kind: str, data: st.DataObject, chance: float, better: bool) -> None:
    y = data.draw(labels if better else briers)
    link = fit(kind, y, chance, better)
    z = link.to_line(y)
    assert np.isfinite(z).all()
    np.testing.assert_allclose(link.from_line(z), y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), chance=chances, better=st.booleans())
def test_better_is_higher_and_medians_carry_over(kind: str, data: st.DataObject, chance: float, better: bool) -> None:
    y = np.sort(data.draw(labels if better else briers))
    link = fit(kind, y, chance, better)
    steps = np.diff(link.to_line(y)) * (1 if better or kind == "identity" else -1)
    assert (steps >= 0).all() and (steps[np.diff(y) > 1e-12] > 0).all()
    odd = y[: len(y) - (len(y) + 1) % 2]  # an even number's median is a mean of two
    assert link.from_line(np.median(link.to_line(odd))) == pytest.approx(np.median(odd), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(y=labels, chance=chances, z=arrays(float, 5, elements=st.floats(-1e3, 1e3)))
def test_logit_answers_lie_a_margin_around_what_was_seen(y: np.ndarray, chance: float, z: np.ndarray) -> None:
    link = Link.fit("logit", y, floor=chance, perfect=1.0)
    margin = MARGIN * (1 - chance)
    assert link.zero == pytest.approx(min(chance, y.min()) - margin) and link.one == pytest.approx(1 + margin)
    back = link.from_line(z)
    assert ((back >= link.zero) & (back <= link.one)).all()
    # No score at all is further out than one at half the margin.
    reach = np.abs(link.to_line(np.array([-50.0, link.zero, link.one, 50.0])))
    assert (reach <= np.abs(link.to_line(np.array([link.zero + margin / 2]))) + 1e-9).all()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), chance=chances, better=st.booleans())
def test_slope_is_the_derivative(data: st.DataObject, chance: float, better: bool) -> None:
    y = data.draw(labels if better else briers)
    for kind in KINDS:
        link, step = fit(kind, y, chance, better), 1e-6
        numeric = np.abs(link.to_line(y + step) - link.to_line(y - step)) / (2 * step)
        np.testing.assert_allclose(link.slope(y), numeric, rtol=1e-4)


def test_by_hand() -> None:
    y = np.array([0.2, 0.25, 0.625, 0.9])
    chance = Link.fit("chance", y, floor=0.25, perfect=1.0)
    np.testing.assert_allclose(chance.to_line(np.array([0.25, 0.625, 1.0, 0.1])), [0, 0.5, 1, -0.2])
    # Brier of four choices: guessing with even odds scores 0.75, so the floor is 1.5 and 0.75 lies half way up.
    brier = Link.fit("chance", y, floor=1.5, perfect=0.0)
    np.testing.assert_allclose(brier.to_line(np.array([1.5, 0.75, 0.0, 1.8])), [0, 0.5, 1, -0.2])
    # HumanEval: an exact zero is ln(m / (1 + m)) with the margin m, as the way from end to end is 1 + 2 m.
    odds = Link.fit("logit", np.array([0.0, 0.3]), floor=0.0, perfect=1.0)
    np.testing.assert_allclose(
        odds.to_line(np.array([0.0, 0.5, 1.0])), np.log(MARGIN / (1 + MARGIN)) * np.array([1, 0, -1])
    )


def test_standard_errors_widen_the_margin() -> None:
    y = np.array([0.0, 0.3, 0.6])
    noisy = Link.fit("logit", y, floor=0.0, perfect=1.0, stderr=np.array([np.nan, 0.2, 0.3]))
    assert noisy.zero == pytest.approx(-0.5) and noisy.one == pytest.approx(1.5)
    quiet = Link.fit("logit", y, floor=0.0, perfect=1.0, stderr=np.full(3, 1e-4))
    unknown = Link.fit("logit", y, floor=0.0, perfect=1.0, stderr=np.full(3, np.nan))
    assert quiet == unknown == Link.fit("logit", y, floor=0.0, perfect=1.0)


@given(st.floats(0, 0.5))
def test_one_label_far_below_chance_stretches_the_line_by_little(low: float) -> None:
    """The lowest of all labels is as far out as an exact zero, whatever it is; no label is beyond ln(1 + 2 / m)."""
    assume(low < 0.5)
    link = Link.fit("logit", np.array([low, 0.5, 0.9]), floor=0.5, perfect=1.0)
    assert abs(float(link.to_line(np.array(low)))) <= np.log(1 + 2 / MARGIN)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="link='probit'; accepted: identity, chance, logit"):
        Link.fit("probit", np.zeros(2), floor=0.0, perfect=1.0)  # type: ignore[arg-type]
    for floor, perfect in ((1.0, 1.0), (math.inf, 0.0)):
        with pytest.raises(DataError, match="two different finite scores are accepted"):
            Link.fit("logit", np.zeros(2), floor=floor, perfect=perfect)
