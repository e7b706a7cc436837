"""Which window of which corpus a training sample is: a pure function of (seed, mix, sample index).

So a resumed run needs to know how many samples were consumed and nothing else; world size, micro batch and the number
of loader processes do not matter. Shape suffixes: N samples, C corpora, B samples of a block.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

import numpy as np

from njsl.core.check import meant
from njsl.core.config import DataMixConfig
from njsl.core.types import ConfigError, DataError

TOLERANCE = 1e-6  # of the sum of the weights
BLOCK = 256  # samples; more where the smallest share of them would be less than one
_SMALLEST = 1e-6  # weight; it bounds the block at 2**20 samples
_UNIT_BITS = 30  # weights as integers: shares stay exact up to 2**33 samples
_ROUNDS = 6


def check_mix(mix: DataMixConfig, corpora: Iterable[str]) -> None:
    """Hold a mix to its rules.

    Args:
        mix: weights by corpus, and how often a corpus may repeat.
        corpora: names of the corpora at hand.

    Raises:
        ConfigError: an unknown corpus, a weight outside 0..1, a sum that is not 1, or ``max_epochs`` not above 0.
    """
    known = list(corpora)
    for name, weight in mix.weights.items():
        where = f"data_mix.weights.{name}"
        if name not in known:
            has = ", ".join(known) or "none"
            raise ConfigError(f"{where}: no such corpus{meant(name, known)}; corpora has: {has}")
        if not 0 <= weight <= 1:
            raise ConfigError(f"{where}: expected a share of tokens in 0..1, got {weight:g}")
        if 0 < weight < _SMALLEST:
            raise ConfigError(f"{where}: expected 0 or at least {_SMALLEST:g}, got {weight:g}")
    total = math.fsum(mix.weights.values())
    if not abs(total - 1) <= TOLERANCE:
        listed = ", ".join(f"{name} {weight:g}" for name, weight in mix.weights.items())
        raise ConfigError(f"data_mix.weights: expected shares that sum to 1, got a sum of {total:.9g} ({listed})")
    if not mix.max_epochs > 0:
        raise ConfigError(f"data_mix.max_epochs: expected a number above 0, got {mix.max_epochs:g}")


class SampleOrder:
    """The order of training samples.

    Samples come in blocks of 256 (a greater power of two where a share is below 1/256). Among the samples before the
    end of any block, a corpus has its share rounded down or up, the largest remainders up; a seeded permutation orders
    each block. The k-th sample of a corpus with n windows stands in its epoch k // n, and each epoch has a permutation
    of its own, which depends on the seed, the corpus' name and size, and the epoch, and on nothing of the others.

    Attributes:
        names: corpora in the order of the weights given; ``locate`` returns indices into it. What is drawn does not
            depend on that order.
        windows: windows by corpus.
        block: samples per block.
    """

    def __init__(self, seed: int, weights: Mapping[str, float], windows: Mapping[str, int]) -> None:
        """Args:
            seed: 0 .. 2**64 - 1.
            weights: share of the samples by corpus, as ``check_mix`` accepts them; 0 is never drawn.
            windows: windows by corpus, for at least the names of ``weights``.

        Raises:
            DataError: a corpus with a weight has no window.
        """
        self.names = tuple(weights)
        self._sorted = sorted(range(len(self.names)), key=lambda index: self.names[index])
        self.windows = {name: int(windows[name]) for name in self.names}
        self._seed = seed
        units = [round(weights[name] * 2**_UNIT_BITS) for name in sorted(self.names)]
        units[int(np.argmax(units))] += 2**_UNIT_BITS - sum(units)
        self._units_C = np.array(units, np.int64)
        smallest = self._units_C[self._units_C > 0].min()
        self.block = max(BLOCK, 1 << math.ceil(math.log2(2**_UNIT_BITS / smallest)))
        for name in self.names:
            if weights[name] > 0 and self.windows[name] < 1:
                raise DataError(f"corpus {name}: shorter than one training sequence; give it more text or no weight")
        self._keys = {
            name: np.frombuffer(hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest(), "<u8")[0]
            for name in self.names
        }
        self._last = -1, (np.empty(0, np.int64), np.empty(0, np.int64))

    def locate(self, index_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Corpus (index into ``names``) and window of each sample.

        Args:
            index_N: sample indices, 0 .. 2**33 - 1, in any order.
        """
        index_N = np.asarray(index_N, np.int64)
        block_N, slot_N = np.divmod(index_N, self.block)
        corpus_N, window_N = np.empty_like(index_N), np.empty_like(index_N)
        for block in np.unique(block_N):
            chosen = block_N == block
            corpus_B, window_B = self._block(int(block))
            corpus_N[chosen], window_N[chosen] = corpus_B[slot_N[chosen]], window_B[slot_N[chosen]]
        return corpus_N, window_N

    def taken(self, n: int) -> dict[str, int]:
        """Samples per corpus among the first ``n``."""
        whole = n // self.block * self.block
        counts_C = self._counts(np.array([whole]))[0][np.argsort(self._sorted)]
        if n > whole:
            counts_C = counts_C + np.bincount(self.locate(np.arange(whole, n))[0], minlength=len(counts_C))
        return {name: int(count) for name, count in zip(self.names, counts_C, strict=True)}

    def epochs(self, n: int) -> dict[str, float]:
        """How often each corpus is read in the first ``n`` samples."""
        return {name: count / max(self.windows[name], 1) for name, count in self.taken(n).items()}

    def check_epochs(self, n: int, max_epochs: float) -> None:
        """Refuse a run that would repeat a corpus too often.

        Raises:
            ConfigError: with the corpus, the epochs it would take, and the ways out.
        """
        for name, epochs in self.epochs(n).items():
            if epochs > max_epochs:
                raise ConfigError(
                    f"data_mix.max_epochs: the run would read corpus {name} {epochs:.2f} times, more than "
                    f"{max_epochs:g}; lower tokens (to {max_epochs / epochs:.0%} of it) or data_mix.weights.{name}, "
                    f"give {name} more text under corpora, or raise data_mix.max_epochs"
                )

    def _counts(self, n_M: np.ndarray) -> np.ndarray:
        """Samples per corpus, in alphabetical order, among the first ``n_M``, whole blocks each: [M, C].

        Rounding by largest remainders is never further than 1 off. It does not take back a sample either: a block
        holds at least one sample of every corpus on average, so the rounded-down count rises with every block.
        """
        # Whole blocks are multiples of 256: dividing by it first keeps the products within int64.
        share = n_M[:, None] // BLOCK * self._units_C
        bits = _UNIT_BITS - int(math.log2(BLOCK))
        counts, remainder = share >> bits, share & ((1 << bits) - 1)
        rank = np.argsort(np.argsort(-remainder, axis=1, kind="stable"), axis=1, kind="stable")
        return counts + (rank < n_M[:, None] - counts.sum(1, keepdims=True))

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Corpus and window of each sample of a block [B]; kept until the next, since batches come block by block."""
        if self._last[0] == block:
            return self._last[1]
        first_C, end_C = self._counts(np.array([block, block + 1]) * self.block)
        corpus_B = np.repeat(self._sorted, end_C - first_C)
        window_B = np.concatenate(
            [
                self._windows_of(self.names[corpus], np.arange(first, end))
                for corpus, first, end in zip(self._sorted, first_C, end_C, strict=True)
            ]
        )
        # Raw output of Philox, since numpy keeps the right to change what Generator.permutation makes of it.
        raw = np.random.Philox(key=np.array([self._seed, block], np.uint64)).random_raw(self.block)
        order = np.argsort(raw, kind="stable")
        self._last = block, (corpus_B[order], window_B[order])
        return self._last[1]

    def _windows_of(self, name: str, draw_N: np.ndarray) -> np.ndarray:
        """The windows which some draws of a corpus give; none of a corpus that has none."""
        epoch_N, position_N = np.divmod(draw_N, max(self.windows[name], 1))
        return _permuted(position_N, self.windows[name], self._keys[name], epoch_N)


def _permuted(position_N: np.ndarray, n: int, key: np.uint64, epoch_N: np.ndarray) -> np.ndarray:
    """A keyed permutation of 0 .. n - 1 in constant memory.

    A Feistel network permutes the next power of four; what falls outside is sent through it again until it is inside.
    Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains".
    """
    half = np.uint64(max(1, math.ceil(math.log2(n) / 2)) if n > 1 else 1)
    mask = np.uint64((1 << int(half)) - 1)
    key_N = _mixed(key + epoch_N.astype(np.uint64))
    value_N = position_N.astype(np.uint64)
    outside = np.arange(len(value_N))
    while len(outside):
        left, right = value_N[outside] >> half, value_N[outside] & mask
        for step in range(_ROUNDS):
            keyed = key_N[outside] + np.uint64(step << 56)
            left, right = right, left ^ (_mixed(keyed ^ right) & mask)
        value_N[outside] = (left << half) | right
        outside = outside[value_N[outside] >= n]
    return value_N.astype(np.int64)


def _mixed(value: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit integers without visible pattern: the last step of SplitMix64.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
