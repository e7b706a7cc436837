"""Leaves out documents that are too short or repeat themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from njsl.core.types import ConfigError
from njsl.tag.base import Batch, Filter
from njsl.tag.hashes import Words, word_hashes

_NGRAMS = (2, 3)


class Repetition(Filter):
    """Leaves out what the paper leaves out of free generations, in its order; the first reason counts.

    Too short; a word many times in a row; lines, then paragraphs, that stand there before; 2-grams, then 3-grams of
    words that stand there before. The share of duplicates is 1 - distinct / all, over stripped lines and paragraphs
    that are not empty (a blank line ends a paragraph), and over the n-grams of words; 0 where there are none.

    A word is a run of letters, digits and underscores, or one of other visible characters, in lower case: "it's" is
    three, a ruler of eighty dashes is one. The paper's filter takes nltk's words, which are much the same.

    Source: the paper's filter for generations.
    """

    def __init__(
        self,
        *,
        min_chars: int = 200,
        max_word_run: int = 50,
        max_duplicate_lines: float = 0.8,
        max_duplicate_paragraphs: float = 0.7,
        max_repeated_ngrams: float = 0.6,
        max_chars: int = 1_000_000,
    ) -> None:
        """Args:
            min_chars: shorter documents are left out, >= 0 [characters].
            max_word_run: times a word may stand in a row, >= 1.
            max_duplicate_lines: share of lines, 0..1.
            max_duplicate_paragraphs: share of paragraphs, 0..1.
            max_repeated_ngrams: share of the 2-grams and of the 3-grams, 0..1.
            max_chars: longer documents are judged by so many characters of their beginning, >= 1.

        Raises:
            ConfigError: one is out of its range.
        """
        shares = {
            "max_duplicate_lines": max_duplicate_lines,
            "max_duplicate_paragraphs": max_duplicate_paragraphs,
            "max_repeated_ngrams": max_repeated_ngrams,
        }
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ConfigError(f"filter.repetition.{name}: expected a share from 0 to 1, got {share:g}")
        for name, value, least in (
            ("min_chars", min_chars, 0),
            ("max_word_run", max_word_run, 1),
            ("max_chars", max_chars, 1),
        ):
            if value < least:
                raise ConfigError(f"filter.repetition.{name}: expected at least {least}, got {value}")
        self.min_chars, self.max_word_run, self.max_chars = min_chars, max_word_run, max_chars
        self.max_duplicate_lines, self.max_duplicate_paragraphs = max_duplicate_lines, max_duplicate_paragraphs
        self.max_repeated_ngrams = max_repeated_ngrams

    def reasons(self, batch: Batch, corpus: str) -> list[str | None]:
        """Per document the first reason."""
        texts = [text[: self.max_chars] for text in batch.texts]
        words = word_hashes(texts, marks=True)
        runs = _longest_runs(words)
        ngrams = [(n, _repeated(words, n)) for n in _NGRAMS]
        reasons = []
        for index, (text, whole) in enumerate(zip(texts, batch.texts, strict=True)):
            reason = self._reason(text, len(whole), int(runs[index]))
            for n, shares in ngrams:
                if reason is None and shares[index] > self.max_repeated_ngrams:
                    reason = f"repeated {n}-grams {shares[index]:.2f} > {self.max_repeated_ngrams:g}"
            reasons.append(reason)
        return reasons

    def _reason(self, text: str, chars: int, run: int) -> str | None:
        """All reasons but n-grams."""
        if chars < self.min_chars:
            return f"too short: {chars} characters < {self.min_chars}"
        if run > self.max_word_run:
            return f"repeated word: {run} times in a row > {self.max_word_run}"
        lines = [line.strip() for line in text.split("\n")]
        share = _duplicates([line for line in lines if line])
        if share > self.max_duplicate_lines:
            return f"duplicate lines {share:.2f} > {self.max_duplicate_lines:g}"
        paragraphs = [paragraph.strip() for paragraph in "\n".join(lines).split("\n\n")]
        share = _duplicates([paragraph for paragraph in paragraphs if paragraph])
        if share > self.max_duplicate_paragraphs:
            return f"duplicate paragraphs {share:.2f} > {self.max_duplicate_paragraphs:g}"
        return None


def _duplicates(items: Sequence[str]) -> float:
    return (len(items) - len(set(items))) / len(items) if items else 0.0


def _longest_runs(words: Words) -> np.ndarray:
    """Per text, how often a word stands in a row at most."""
    owner = np.repeat(np.arange(len(words.counts)), words.counts)
    new = np.ones(len(owner), bool)
    new[1:] = (words.hashes[1:] != words.hashes[:-1]) | (owner[1:] != owner[:-1])
    starts = np.flatnonzero(new)
    longest = np.zeros(len(words.counts), np.int64)
    np.maximum.at(longest, owner[starts], np.diff(starts, append=len(owner)))
    return longest


def _repeated(words: Words, n: int) -> np.ndarray:
    """Per text, the share of its n-grams that stand there before."""
    hashes, owner = words.runs(n)
    # Sorted by text, as the owners are; what is left of the hash tells the n-grams of one text apart.
    bits = np.uint64(len(words.counts).bit_length())
    keys = np.sort(hashes >> bits | owner.astype(np.uint64) << np.uint64(64) - bits)
    again = np.bincount(owner[1:][keys[1:] == keys[:-1]], minlength=len(words.counts))
    return again / np.maximum(words.counts - n + 1, 1)
