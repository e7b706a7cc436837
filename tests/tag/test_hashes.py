"""Hashes of words and of runs of words."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.tag import hashes
from njsl.tag.hashes import text_hash, word_hashes

FIXED = "4707534004878453674 8627639538675285257 4637742940365614379"
TEXTS = st.lists(st.text(st.sampled_from("aAb_1 .,\n\0é好かΣ—'"), max_size=30), max_size=8)


def words_of(text: str, marks: bool) -> list[str]:
    """The definition once more: character by character."""
    words: list[str] = []
    last = ""
    for char in text.lower():
        single = re.match(r"[぀-ヿ㐀-䶿一-鿿豈-﫿]", char) is not None
        kind = "single" if single else "word" if char.isalnum() or char == "_" else f"mark {char.isascii()}"
        if char.isspace() or char == "\0" or ("mark" in kind and not marks):
            kind = ""
        elif kind == last != "single":
            words[-1] += char
        else:
            words.append(char)
        last = kind
    return words


@settings(max_examples=300, deadline=None)
@given(texts=TEXTS, marks=st.booleans(), n=st.integers(1, 4))
def test_equal_words_and_only_those_have_equal_hashes(texts: list[str], marks: bool, n: int) -> None:
    expected = [words_of(text, marks) for text in texts]
    found = word_hashes(texts, marks=marks)
    assert found.counts.tolist() == list(map(len, expected))
    flat = [word for words in expected for word in words]
    pairs = set(zip(flat, found.hashes.tolist(), strict=True))
    assert len(pairs) == len(set(flat)) == len(set(found.hashes.tolist()))

    runs, owner = found.runs(n)
    expected_runs = [(i, tuple(w[k : k + n])) for i, w in enumerate(expected) for k in range(len(w) - n + 1)]
    assert owner.tolist() == [i for i, _ in expected_runs]
    assert len({(run, h) for (_, run), h in zip(expected_runs, runs.tolist(), strict=True)}) == len(set(runs.tolist()))
    assert len({run for _, run in expected_runs}) == len(set(runs.tolist()))

    whole, owner = found.whole(n + 1, 2)
    short = [(i, tuple(w)) for length in range(2, n + 1) for i, w in enumerate(expected) if len(w) == length]
    assert owner.tolist() == [i for i, _ in short]
    if n in map(len, expected) and n >= 2:  # a whole text of n words has the hash of that run of n words
        assert set(whole.tolist()) & set(runs.tolist())


def test_neighbours_and_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["one two", "", "three " * 50, "four five", "six, seven; " * 30, "él — ella " * 40]
    together = word_hashes(texts)
    alone = [word_hashes([text]) for text in texts]
    assert np.array_equal(together.hashes, np.concatenate([words.hashes for words in alone]))
    monkeypatch.setattr(hashes, "_PIECE_BYTES", 40)
    monkeypatch.setattr(hashes, "_PART_CHARS", 70)
    pieces = word_hashes(texts)
    assert np.array_equal(together.hashes, pieces.hashes)
    assert np.array_equal(together.counts, pieces.counts)


def test_every_process_has_the_same_hashes() -> None:
    # Written down once: files of one run are read by another, perhaps on another machine.
    code = "from njsl.tag.hashes import *; print(*word_hashes(['Hello, world']).hashes, text_hash('a', 'b', seed=1))"
    found = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        )
        for seed in ("0", "1")
    ]
    assert found[0].stdout == found[1].stdout == f"{FIXED}\n"


def test_text_hash_counts_lengths() -> None:
    assert text_hash("ab", "c") != text_hash("a", "bc")
    assert text_hash("a") != text_hash("a", seed=1)
    assert 0 <= text_hash("\ud800") < 2**64
