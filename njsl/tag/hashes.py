"""Seeded 64-bit hashes of documents, words and runs of words: the same on every machine and in every process.

A word is a run of letters, digits and underscores (``\\w``) in lower case; each Han character and each kana is a word
of its own, since those scripts put no spaces. All else separates words.

Two different things share a hash with a probability of about 2**-64: among the billion (2**30) hashes of a large set
of benchmarks and the 2**40 word runs of a trillion words, 2**70 pairs, some 64 runs match by chance.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, splitmix64's step
_BASE = np.uint64(0xD6E8FEB86659FD93)  # odd, so that multiplication by its powers loses nothing
_PIECE_BYTES = 1 << 17  # text hashed at once: its arrays of 8 bytes per byte fit into a core's cache
_PART_CHARS = 1 << 20
_SPACE = re.compile(r"\s")
_SINGLE = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana and Han
_WORD = re.compile(rf"[{_SINGLE}]|[^\W{_SINGLE}]+")
_WORD_OR_MARK = re.compile(rf"[{_SINGLE}]|[^\W{_SINGLE}]+|[^\w\s\u0080-\U0010ffff]+|[^\w\s\u0000-\u007f]+")


def mix(values: np.ndarray) -> np.ndarray:
    """A bijection of uint64 after which every bit depends on every other.

    Source: splitmix64's finaliser, Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def text_hash(*parts: str, seed: int = 0) -> int:
    """A hash 0..2**64-1 of texts; lengths count, so ``("ab", "c")`` differs from ``("a", "bc")``."""
    digest = hashlib.blake2b(digest_size=8, key=seed.to_bytes(8, "little", signed=True))
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return int.from_bytes(digest.digest(), "little")


@dataclass(frozen=True)
class Words:
    """The words of several texts, one text after the other.

    Attributes:
        hashes: of each word, uint64.
        counts: words per text, int64.
    """

    hashes: np.ndarray
    counts: np.ndarray

    def runs(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of all runs of ``n`` words within one text, in order, and the number of the text of each."""
        if len(self.hashes) < n:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        last = len(self.hashes) - n + 1
        hashes = self.hashes[:last].copy()
        for offset in range(1, n):
            hashes *= _BASE
            hashes += self.hashes[offset : offset + last]
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        inside = owner[:last] == owner[n - 1 :]
        # Runs of different lengths must differ as well.
        length = np.uint64(n * int(_GOLDEN) % 2**64)
        return mix(hashes[inside] + length), owner[:last][inside]

    def whole(self, n: int, shortest: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Texts of ``shortest`` to ``n`` - 1 words, each as one run: their hashes and their numbers, shortest first."""
        chosen = (shortest <= self.counts) & (self.counts < n)
        short = np.flatnonzero(chosen)
        only = Words(self.hashes[np.repeat(chosen, self.counts)], self.counts[chosen])
        hashes, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for length in range(shortest, n):
            found, owner = only.runs(length)
            exact = only.counts[owner] == length
            hashes.append(found[exact])
            owners.append(short[owner[exact]])
        return np.concatenate(hashes), np.concatenate(owners)


def word_hashes(texts: Sequence[str], *, marks: bool = False) -> Words:
    """The hashes of the words of texts.

    Words longer than 128 KiB are cut there.

    Args:
        texts: to be cut into words.
        marks: runs of other visible characters of ASCII, such as "..." or "=====", and of others, are words too.
    """
    expression = _WORD_OR_MARK if marks else _WORD
    counts = np.zeros(len(texts), np.int64)
    found = []
    for numbers, data in _pieces(texts, expression):
        hashes, breaks = _piece(data, marks)
        np.add.at(counts, numbers, breaks)  # a long text comes in several pieces
        found.append(hashes)
    return Words(np.concatenate(found) if found else np.zeros(0, np.uint64), counts)


def _pieces(texts: Sequence[str], expression: re.Pattern[str]) -> Iterator[tuple[list[int], bytes]]:
    """Texts as bytes, several small ones together, each ended by NUL; a long one in pieces."""
    numbers: list[int] = []
    gathered: list[bytes] = []
    size = 0
    parts = ((number, part) for number, text in enumerate(texts) for part in _parts(text))
    for number, part in parts:
        data = _normalised(part, expression)
        if size + len(data) >= _PIECE_BYTES and numbers:
            yield numbers, b"\0".join(gathered) + b"\0"
            numbers, gathered, size = [], [], 0
        if len(data) > _PIECE_BYTES:
            yield from (([number], piece + b"\0") for piece in _cut(data))
        else:
            numbers.append(number)
            gathered.append(data)
            size += len(data) + 1
    if numbers:
        yield numbers, b"\0".join(gathered) + b"\0"


def _parts(text: str) -> Iterator[str]:
    """A text in parts of up to a megabyte, cut after white space where there is any, so that few words are held."""
    start = 0
    while len(text) - start > _PART_CHARS:
        space = _SPACE.search(text, start + _PART_CHARS // 2, start + _PART_CHARS)
        end = space.end() if space else start + _PART_CHARS
        yield text[start:end]
        start = end
    yield text[start:] if start else text


def _normalised(text: str, expression: re.Pattern[str]) -> bytes:
    """Bytes in which all but ASCII's separators belong to words; NUL ends a text, so there is none inside."""
    if not text.isascii():
        text = " ".join(expression.findall(text.lower()))
    data = text.encode("utf-8", "surrogatepass")
    return data.replace(b"\0", b" ") if b"\0" in data else data


def _cut(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        end = min(start + _PIECE_BYTES, len(data))
        if end < len(data):
            separators = np.flatnonzero(np.frombuffer(data[start:end].translate(_LETTERS), np.uint8) == 0)
            end = start + int(separators[-1]) + 1 if len(separators) else end
        yield data[start:end]
        start = end


def _piece(data: bytes, marks: bool) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the words of a piece, and the number of words of each of its texts."""
    codes = np.frombuffer(data, np.uint8)
    kinds = np.frombuffer(data.translate(_KINDS if marks else _LETTERS), np.uint8)
    # The last byte is a NUL, so every word that starts also ends.
    edges = np.concatenate([[0], np.flatnonzero(kinds[1:] != kinds[:-1]) + 1])
    words = np.flatnonzero(kinds[edges])
    starts, ends = edges[words], edges[np.minimum(words + 1, len(edges) - 1)]
    powers, inverses = _powers()
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_VALUES[codes] * powers[: len(codes)])])
    # Equal words at different places have sums that differ by a power of the base: its inverse takes that out.
    hashes = mix((sums[ends] - sums[starts]) * inverses[starts])
    text_ends = np.flatnonzero(codes == 0)
    return hashes, np.diff(np.searchsorted(starts, text_ends), prepend=0)


@cache
def _powers() -> tuple[np.ndarray, np.ndarray]:
    """Powers of the base and of its inverse mod 2**64, as many as a piece has bytes."""
    tables = []
    for base in (int(_BASE), pow(int(_BASE), -1, 2**64)):
        factors = np.full(2 * _PIECE_BYTES, np.uint64(base))
        factors[0] = 1
        tables.append(np.cumprod(factors, dtype=np.uint64))
    return tables[0], tables[1]


def _values() -> np.ndarray:
    """A random value per byte, upper case as lower case."""
    values = mix((np.arange(256, dtype=np.uint64) + np.uint64(1)) * _GOLDEN)
    values[ord("A") : ord("Z") + 1] = values[ord("a") : ord("z") + 1]
    return values


def _kind(code: int) -> int:
    """0 for space, 1 for what words are made of (all bytes beyond ASCII, see ``_normalised``), 2 for other marks."""
    character = chr(code)
    if code >= 128 or character.isalnum() or character == "_":
        return 1
    return 0 if character.isspace() or code == 0 else 2


_VALUES = _values()
_KINDS = bytes(_kind(code) for code in range(256))
_LETTERS = bytes(kind == 1 for kind in _KINDS)
