"""Mixture laws: each finds the law its data were made by, and no law is scored on a mix it has seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Self

import mixes
import numpy as np
import pytest
import yaml
from scipy.optimize import check_grad

from njsl.core.check import build
from njsl.predict.law import Law, agreement, leave_one_mix_out, of_mixes
from njsl.predict.mixture_laws import simplex_gp
from njsl.predict.mixture_laws.mixing_law import MixingLaw
from njsl.predict.mixture_laws.regmix_linear import RegMixLinear

CONF = Path(__file__).parents[2] / "conf/mixture_law"
LAWS = sorted(path.stem for path in CONF.glob("*.yaml"))


def make(name: str) -> Law:
    """A law as its yaml has it."""
    law: Law = build(yaml.safe_load((CONF / f"{name}.yaml").read_text())[name])
    return law


@pytest.mark.parametrize("name", LAWS)
class TestContract:
    def test_a_law_is_named_as_its_file(self, name: str) -> None:
        target = yaml.safe_load((CONF / f"{name}.yaml").read_text())[name]["_target_"]
        assert target.startswith(f"njsl.predict.mixture_laws.{name}.")

    def test_the_same_runs_give_the_same_law_in_any_order(self, name: str) -> None:
        shares = mixes.drawn(20)
        loss = mixes.losses(shares)[:, 0]
        order = np.random.default_rng(0).permutation(len(loss))
        first, again = make(name).fit(shares, loss), make(name).fit(shares, loss)
        other = make(name).fit(shares[order], loss[order])
        at = mixes.drawn(50, seed=1)
        assert (first.predict(at) == again.predict(at)).all()
        # Trees add up gradients in another order, and the optimisers stop a hair elsewhere.
        assert np.abs(first.predict(at) - other.predict(at)).max() < 0.01 * loss.std()

    def test_it_orders_mixes_it_has_not_seen(self, name: str) -> None:
        shares, at = mixes.drawn(40), mixes.drawn(40, seed=1)
        law = make(name).fit(shares, mixes.losses(shares)[:, 0])
        assert agreement(law.predict(at), mixes.losses(at)[:, 0])["rank_correlation"] > 0.95

    def test_constant_losses_are_predicted_as_they_are(self, name: str) -> None:
        law = make(name).fit(mixes.drawn(12), np.full(12, 2.5))
        assert law.predict(mixes.drawn(5, seed=1)) == pytest.approx(2.5, abs=1e-3)

    def test_draws_lie_about_the_prediction(self, name: str) -> None:
        shares = mixes.drawn(30)
        loss = mixes.losses(shares)[:, 0] + 0.01 * np.random.default_rng(0).standard_normal(30)
        law = make(name).fit(shares, loss, np.arange(30))
        random = np.random.default_rng(1)
        times = random.multinomial(30, np.full(30, 1 / 30), 60)
        at = mixes.drawn(8, seed=2)
        found = law.draws(at, times, random)
        assert found.shape == (60, 8)
        assert 0 < found.std(axis=0).max() < loss.std()
        assert np.abs(found.mean(axis=0) - law.predict(at)).max() < loss.std() / 2


# Trees take the first of features that split alike, so they know an order of corpora.
@pytest.mark.parametrize("name", [name for name in LAWS if name != "regmix_lightgbm"])
def test_names_of_corpora_mean_nothing(name: str) -> None:
    shares, at, order = mixes.drawn(24), mixes.drawn(20, seed=1), [2, 0, 1]
    loss = mixes.losses(shares)[:, 1] + 0.01 * np.random.default_rng(0).standard_normal(24)
    first, turned = make(name).fit(shares, loss), make(name).fit(shares[:, order], loss)
    assert turned.predict(at[:, order]) == pytest.approx(first.predict(at), abs=2e-3)


def test_the_linear_law_is_least_squares() -> None:
    shares = mixes.drawn(15)
    loss = np.random.default_rng(0).standard_normal(15)
    expected = np.linalg.solve(shares.T @ shares, shares.T @ loss)
    assert RegMixLinear().fit(shares, loss).coefficients_ == pytest.approx(expected)


def test_the_mixing_law_finds_floor_and_exponents() -> None:
    shares = mixes.drawn(30)
    for corpus in range(3):
        law = MixingLaw().fit(shares, mixes.losses(shares)[:, corpus])
        assert law.floor_ == pytest.approx(mixes.FLOOR, abs=0.02)
        assert law.exponents_ == pytest.approx(mixes.EXPONENTS[corpus], abs=0.05)


def test_one_broken_run_does_not_bend_the_mixing_law() -> None:
    shares, at = mixes.drawn(30), mixes.drawn(50, seed=1)
    loss = mixes.losses(shares)[:, 0]
    loss[7] += 1.0
    law = MixingLaw().fit(shares, loss)
    assert np.abs(law.predict(at) - mixes.losses(at)[:, 0]).max() < 0.02


class TestGaussianProcess:
    def test_it_learns_the_noise(self) -> None:
        shares = mixes.drawn(80)
        clean = mixes.losses(shares)[:, 0]
        for noise in (0.01, 0.05):
            loss = clean + noise * np.random.default_rng(0).standard_normal(80)
            law = simplex_gp.SimplexGP().fit(shares, loss)
            assert noise / 1.5 < law.unit_ * np.exp(law.logs_[-1]) < noise * 1.5

    def test_a_corpus_that_does_nothing_gets_a_long_length(self) -> None:
        shares = mixes.drawn(60)
        law = simplex_gp.SimplexGP().fit(shares, np.sin(6 * np.sqrt(shares[:, 0])))
        assert law.logs_[2] < law.logs_[3:5].min()

    def test_its_gradient(self) -> None:
        shares = mixes.drawn(12)
        law = simplex_gp.SimplexGP()
        law.roots_ = np.sqrt(shares)
        target = np.random.default_rng(0).standard_normal(12)
        prior = np.array([simplex_gp.PLANE, simplex_gp.CURVE, *[simplex_gp.LENGTH] * 3, simplex_gp.NOISE])
        at = np.array([0.1, -0.3, 0.2, -0.1, 0.3, -1.0])

        def part(number: int) -> Callable[[np.ndarray], float | np.ndarray]:
            return lambda logs: law._posterior(logs, target, prior)[number]

        assert check_grad(part(0), part(1), at) < 1e-4

    def test_draws_know_where_nothing_was_measured(self) -> None:
        shares = mixes.drawn(40)
        near = shares[shares[:, 2] < 0.4]
        law = simplex_gp.SimplexGP().fit(near, mixes.losses(near)[:, 0])
        at = np.vstack([near[:1], [[0.0, 0.0, 1.0]]])
        spread = law.draws(at, np.ones((400, len(near)), dtype=int), np.random.default_rng(0)).std(axis=0)
        assert spread[1] > 5 * spread[0]


class Spy(Law):
    """Predicts 0 and keeps what it was shown."""

    seen: list[np.ndarray] = []  # noqa: RUF012 (shared on purpose)

    def fit_runs(self, shares: np.ndarray, loss: np.ndarray) -> Self:
        Spy.seen.append(loss)
        return self

    def predict(self, shares: np.ndarray) -> np.ndarray:
        return np.zeros(len(shares))


def test_a_left_out_mix_is_left_out_with_all_its_seeds() -> None:
    mix = np.array([0, 1, 0, 2, 1, 0])
    runs = np.arange(6.0)  # a loss says whose it is
    Spy.seen = []
    leave_one_mix_out(Spy, np.full((6, 2), 0.5), {"task": runs}, mix)
    assert [seen.tolist() for seen in Spy.seen] == [[1, 3, 4], [0, 2, 3, 5], [0, 1, 2, 4, 5]]


def test_bootstrap_fits_draw_whole_mixes() -> None:
    mix = np.array([0, 1, 0])
    law = Spy().fit(np.full((3, 2), 0.5), np.array([5.0, 6.0, 7.0]), mix)
    Spy.seen = []
    law.draws(np.full((1, 2), 0.5), np.array([[2, 0], [1, 1]]), np.random.default_rng(0))
    assert [sorted(seen) for seen in Spy.seen] == [[5, 5, 7, 7], [5, 6, 7]]


def test_agreement_by_hand() -> None:
    found = agreement(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0]))
    # 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15); five of six pairs; errors 0, 1, 1, 0.
    assert found["rank_correlation"] == pytest.approx(0.8)
    assert found["pairs_right"] == pytest.approx(5 / 6)
    assert (found["mae"], found["n_mixes"]) == (0.5, 4)
    assert found["rank_correlation_low"] <= 0.8 <= found["rank_correlation_high"]


def test_predictions_that_order_nothing_are_half_right() -> None:
    found = agreement(np.ones(5), np.arange(5.0))
    assert (found["rank_correlation"], found["pairs_right"]) == (0.0, 0.5)


def test_means_of_mixes() -> None:
    assert of_mixes(np.array([[1.0], [2.0], [5.0]]), np.array([1, 0, 1])).tolist() == [[2.0], [3.0]]
