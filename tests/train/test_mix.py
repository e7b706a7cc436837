"""What a mix may be, and which window of which corpus a sample is."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.config import DataMixConfig
from njsl.core.types import ConfigError, DataError
from njsl.train.mix import SampleOrder, check_mix

CONF = Path(__file__).parents[2] / "conf" / "data_mix"
CODE_PCT = (0, 10, 20, 25, 40, 60, 80, 100)
WEB_PCT = (30, 50, 70, 90)


@st.composite
def mixes(draw: st.DrawFn, most: int = 7) -> dict[str, float]:
    """Weights that sum to 1, some of them small, some 0."""
    parts = draw(
        st.lists(st.sampled_from([0.0, 0.01, 0.3, 1.0, 3.0, 50.0]) | st.floats(0.01, 9), min_size=1, max_size=most)
    )
    if not sum(parts):
        parts[0] = 1.0
    return {f"c{number}": part / math.fsum(parts) for number, part in enumerate(parts)}


def order(weights: dict[str, float], seed: int = 0, windows: int = 50) -> SampleOrder:
    return SampleOrder(seed, weights, dict.fromkeys(weights, windows))


@pytest.mark.parametrize("code", CODE_PCT)
def test_the_papers_code_vs_nl_mixes(code: int) -> None:
    mix = yaml.safe_load((CONF / f"nl{100 - code}_code{code}.yaml").read_text())["weights"]
    check_mix(DataMixConfig(mix), ["nl", "code"])
    assert mix == {"nl": (100 - code) / 100, "code": code / 100}


@pytest.mark.parametrize("web", WEB_PCT)
def test_the_papers_web_vs_other_mixes(web: int) -> None:
    mix = yaml.safe_load((CONF / f"web{web}_other{100 - web}.yaml").read_text())["weights"]
    check_mix(DataMixConfig(mix), ["common_crawl", "c4", "code", "pes2o", "gutenberg", "wiki"])
    other = 1 - web / 100
    expected = {"common_crawl": 0.92 * web / 100, "c4": 0.08 * web / 100}
    expected |= {"code": 0.838 * other, "pes2o": 0.144 * other, "gutenberg": 0.012 * other, "wiki": 0.006 * other}
    assert mix == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("weights", "max_epochs", "message"),
    [
        ({"nl": 0.8, "code": 0.3}, 4, r"data_mix.weights: .* sum to 1, got a sum of 1.1 \(nl 0.8, code 0.3\)"),
        ({"nl": 0.8, "code": 0.2 + 3e-6}, 4, r"a sum of 1.000003 "),
        ({}, 4, "a sum of 0 "),
        ({"nl": 1.5, "code": -0.5}, 4, "data_mix.weights.nl: expected a share of tokens in 0..1, got 1.5"),
        ({"nl": float("nan"), "code": 0.5}, 4, "data_mix.weights.nl: expected a share"),
        ({"nl": 1.0, "cod": 0.0}, 4, r"data_mix.weights.cod: no such corpus .*'code'.*; corpora has: nl, code"),
        ({"nl": 1 - 1e-7, "code": 1e-7}, 4, "data_mix.weights.code: expected 0 or at least 1e-06"),
        ({"nl": 1.0}, 0, "data_mix.max_epochs: expected a number above 0, got 0"),
    ],
)
def test_bad_mixes(weights: dict[str, float], max_epochs: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        check_mix(DataMixConfig(weights, max_epochs), ["nl", "code"])
    assert "\n" not in str(error.value)


def test_a_sum_within_the_tolerance() -> None:
    check_mix(DataMixConfig({"nl": 0.8, "code": 0.2 + 9e-7}), ["nl", "code"])


@settings(deadline=None, max_examples=25)
@given(mix=mixes(), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_pure_function_of_seed_mix_and_index(mix: dict[str, float], seed: int, data: st.DataObject) -> None:
    windows = {name: data.draw(st.integers(1, 400)) for name in mix}
    index = np.arange(data.draw(st.integers(0, 5000)), 0, -1) if data.draw(st.booleans()) else np.arange(1500)
    corpus, window = SampleOrder(seed, mix, windows).locate(index)
    # Any chunking, in any order, of another object, whose mix is written in another order.
    other = SampleOrder(seed, dict(reversed(mix.items())), windows)
    chosen = np.array(data.draw(st.lists(st.integers(0, max(0, len(index) - 1)), max_size=30)), int)
    for positions in (chosen[:1], chosen[1:]) if len(index) else ():
        again_corpus, again_window = other.locate(index[positions])
        assert [other.names[c] for c in again_corpus] == [list(mix)[c] for c in corpus[positions]]
        np.testing.assert_array_equal(again_window, window[positions])


@settings(deadline=None, max_examples=25)
@given(mix=mixes(), seed=st.integers(0, 2**32 - 1), blocks=st.integers(1, 40), first=st.integers(0, 2**24))
def test_shares(mix: dict[str, float], seed: int, blocks: int, first: int) -> None:
    made = order(mix, seed)
    assert made.block == 256 or min(w for w in mix.values() if w) * 256 < 1  # as many as the smallest share needs
    blocks = min(blocks, 4096 // made.block + 1)
    # Far into the run, where errors would have added up; one weight's own rounding is 2**-31 of a sample.
    for block in (first // made.block, 0):
        before = made.taken(block * made.block)
        corpus, _ = made.locate(np.arange(block * made.block, (block + blocks) * made.block))
        found = np.cumsum([np.bincount(part, minlength=len(mix)) for part in corpus.reshape(blocks, -1)], axis=0)
        for done, counts in enumerate(found, start=1):
            samples = (block + done) * made.block
            for name, count in zip(made.names, counts, strict=True):
                assert abs(before[name] + count - samples * mix[name]) < 1 + samples * len(mix) * 2**-31
                assert abs(count - done * made.block * mix[name]) < 2  # each end of the stretch is off by less than 1
            assert made.taken(samples) == {n: before[n] + int(c) for n, c in zip(made.names, counts, strict=True)}


def test_shares_by_hand() -> None:
    made = order({"nl": 0.8, "code": 0.2})
    # 256 x 0.2 = 51.2, 102.4, 153.6, 204.8, 256: rounded down or up, the larger remainder up.
    assert [made.taken(256 * blocks)["code"] for blocks in range(6)] == [0, 51, 102, 154, 205, 256]
    corpus, _ = made.locate(np.arange(100))
    assert made.taken(100) == {"nl": int((corpus == 0).sum()), "code": int((corpus == 1).sum())}
    assert 0 < made.taken(100)["code"] < 51  # mixed within a block
    assert order({"nl": 1.0, "code": 0.0}).taken(1000) == {"nl": 1000, "code": 0}


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=3), seed=st.integers(0, 2**32 - 1))
def test_every_epoch_visits_each_window_once(sizes: list[int], seed: int) -> None:
    mix = {f"c{number}": 1 / len(sizes) for number in range(len(sizes))}
    made = SampleOrder(seed, mix, dict(zip(mix, sizes, strict=True)))
    samples = made.block * (1 + 3 * max(sizes) * len(sizes) // made.block)
    corpus, window = made.locate(np.arange(samples))
    for number, size in enumerate(sizes):
        # At the end of a block the draws so far are the first ones: whole epochs, then a part of one.
        draws: dict[int, int] = {}
        for at in window[corpus == number]:
            draws[int(at)] = draws.get(int(at), 0) + 1
        total = made.taken(samples)[made.names[number]]
        assert set(draws) == set(range(size))
        assert {total // size, -(-total // size)} >= set(draws.values())


def test_epochs_differ_and_are_shuffled() -> None:
    made = SampleOrder(0, {"a": 1.0}, {"a": 256})
    _, window = made.locate(np.arange(1024))
    epochs = window.reshape(4, 256)
    for epoch in epochs:
        assert sorted(epoch) == list(range(256))
        assert abs(np.corrcoef(epoch, np.arange(256))[0, 1]) < 0.3
    assert len({tuple(epoch) for epoch in epochs}) == 4
    _, other = SampleOrder(1, {"a": 1.0}, {"a": 256}).locate(np.arange(1024))
    assert (other != window).mean() > 0.9


def test_another_corpus_size_changes_nothing_else() -> None:
    mix, index = {"a": 0.5, "b": 0.3, "c": 0.2}, np.arange(3000)
    corpus, window = SampleOrder(7, mix, {"a": 100, "b": 60, "c": 9}).locate(index)
    again_corpus, again_window = SampleOrder(7, mix, {"a": 100, "b": 1234, "c": 9}).locate(index)
    np.testing.assert_array_equal(again_corpus, corpus)
    np.testing.assert_array_equal(again_window[corpus != 1], window[corpus != 1])
    assert again_window[corpus == 1].max() > 60


def test_pinned_order() -> None:
    """A checkpoint of today must find the same samples in any later version."""
    corpus, window = SampleOrder(42, {"nl": 0.8, "code": 0.2}, {"nl": 1000, "code": 70}).locate(
        np.array([0, 1, 2, 255, 10**9])
    )
    assert (corpus.tolist(), window.tolist()) == ([0, 0, 0, 1, 0], [323, 300, 386, 18, 167])


def test_too_many_epochs() -> None:
    made = SampleOrder(0, {"nl": 0.5, "code": 0.5}, {"nl": 10_000, "code": 100})
    made.check_epochs(800, 4)
    assert made.epochs(2560) == {"nl": 0.128, "code": 12.8}
    with pytest.raises(ConfigError) as error:
        made.check_epochs(2560, 4)
    assert str(error.value) == (
        "data_mix.max_epochs: the run would read corpus code 12.80 times, more than 4; lower tokens (to 31% of it) or "
        "data_mix.weights.code, give code more text under corpora, or raise data_mix.max_epochs"
    )


def test_a_corpus_without_a_window() -> None:
    with pytest.raises(DataError, match="corpus code: shorter than one training sequence"):
        SampleOrder(0, {"nl": 0.5, "code": 0.5}, {"nl": 10, "code": 0})
    assert SampleOrder(0, {"nl": 1.0, "code": 0.0}, {"nl": 10, "code": 0}).epochs(256) == {"nl": 25.6, "code": 0.0}
