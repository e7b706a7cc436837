"""The repetition filter: each reason by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import ConfigError, Document
from njsl.tag.base import Batch
from njsl.tag.filters.repetition import Repetition


class NoTokens:
    name, sha256, vocab_size = "none", "", 1

    def encode(self, texts: object) -> list[np.ndarray]:
        raise AssertionError("filters count no tokens")


def reasons(filter_: Repetition, *texts: str) -> list[str | None]:
    return filter_.reasons(Batch([Document(text, str(i), "g") for i, text in enumerate(texts)], NoTokens()), "corpus")


# The numbers 0 to 99 are 100 distinct words.
NUMBERS = " ".join(map(str, range(100)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (NUMBERS, None),
        ("a" * 199, "too short: 199 characters < 200"),
        ("a" * 200, None),
        (NUMBERS + " go" * 50, None),
        (NUMBERS + " go" * 51, "repeated word: 51 times in a row > 50"),
        (NUMBERS + " Go go" * 26, "repeated word: 52 times in a row > 50"),
        # 52 times, but not in a row; 103 of 203 2-grams are first: 1 - 103 / 203 = .49.
        (NUMBERS + " go on" * 52, None),
        # 10 lines, 2 distinct: .8 is not above .8; 11 lines: 9 / 11. Each line has a blank line's paragraph: one.
        ("\n".join(["x" * 50 + " y z"] * 9 + ["other line"]), None),
        ("\n".join(["x" * 50 + " y z"] * 10 + ["other line"]), "duplicate lines 0.82 > 0.8"),
        # 12 lines, 6 distinct. 7 paragraphs, 2 distinct: 5 / 7.
        ("\n\n".join(["\n".join(["a b", "c d", "e f", "g h", "i j"])] * 6), "duplicate lines 0.83 > 0.8"),
    ],
)
def test_by_hand(text: str, reason: str | None) -> None:
    filter_ = Repetition(
        min_chars=200 if text.startswith("a" * 9) else 0, max_repeated_ngrams=1 if "\n" in text else 0.6
    )
    assert reasons(filter_, text) == [reason]


def test_paragraphs() -> None:
    # Four paragraphs of which one stands there four times: 3 / 4. Its two lines and the other's stand for 3 of 9 lines.
    text = "first line\nsecond line\n\n" * 4 + "\n \nanother"
    assert reasons(Repetition(min_chars=0, max_repeated_ngrams=1), text) == [None]  # 3 / 5 = .6
    assert reasons(Repetition(min_chars=0, max_duplicate_paragraphs=0.59), text) == ["duplicate paragraphs 0.60 > 0.59"]
    assert reasons(Repetition(min_chars=0, max_duplicate_lines=0.6), text) == ["duplicate lines 0.67 > 0.6"]  # 6 / 9


def test_ngrams() -> None:
    # "a b a b ...", 10 words: 9 2-grams, 2 distinct: 7 / 9; 8 3-grams, 2 distinct: 6 / 8.
    text = "A b, " * 5
    filter_ = Repetition(min_chars=0)
    # With its commas 15 words: 14 2-grams, 3 distinct.
    assert reasons(filter_, text) == ["repeated 2-grams 0.79 > 0.6"]
    assert reasons(filter_, text.replace(",", "")) == ["repeated 2-grams 0.78 > 0.6"]
    assert reasons(Repetition(min_chars=0, max_repeated_ngrams=0.78), text.replace(",", "")) == [None]
    # Each word after each other word once, then again: no 2-gram twice within the first half.
    assert reasons(filter_, "one", "one two", "", "...") == [None] * 4


def test_order_of_reasons() -> None:
    # Everything is wrong with it; loosened one by one, the next reason shows.
    text = "\n\n".join(["la " * 60] * 10)
    parameters = {"min_chars": 10_000}
    expected = ["too short", "repeated word", "duplicate lines", "duplicate paragraphs", "repeated 2-grams"]
    loose = [{"min_chars": 0}, {"max_word_run": 10_000}, {"max_duplicate_lines": 1}, {"max_duplicate_paragraphs": 1}]
    for start, loosened in zip(expected, [*loose, {}], strict=True):
        (reason,) = reasons(Repetition(**parameters), text)
        assert reason is not None and reason.startswith(start)
        parameters |= loosened


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab .\n"), max_size=40), min_size=1, max_size=6))
def test_equals_the_definition(texts: list[str]) -> None:
    import re

    filter_ = Repetition(
        min_chars=0, max_word_run=3, max_duplicate_lines=0.5, max_duplicate_paragraphs=0.5, max_repeated_ngrams=0.5
    )
    for text, reason in zip(texts, reasons(filter_, *texts), strict=True):
        words = re.findall(r"\w+|[^\w\s]+", text.lower())

        def share(items: list[object]) -> float:
            return 1 - len(set(items)) / len(items) if items else 0

        run = re.search(r"(?:^|(?<= ))(\S+)( \1){3}(?= |$)", " ".join(words)) is not None
        lines = share([line.strip() for line in text.split("\n") if line.strip()]) > 0.5
        paragraphs = [re.sub(r"\s*\n\s*", "\n", p.strip()) for p in re.split(r"\n\s*\n", text) if p.strip()]
        ngrams = [share(list(zip(*(words[k:] for k in range(n)), strict=False))) > 0.5 for n in (2, 3)]
        checks = [run, lines, share(list(paragraphs)) > 0.5, *ngrams]
        names = ["repeated word", "duplicate lines", "duplicate paragraphs", "repeated 2-grams", "repeated 3-grams"]
        expected = next((name for name, check in zip(names, checks, strict=True) if check), None)
        assert expected == (None if reason is None else next(name for name in names if reason.startswith(name)))


def test_odd_texts() -> None:
    filter_ = Repetition()
    odd = ["", "x", "\0" * 300, "שלום עולם " * 3, "\ud800", "好" * 300]
    assert [reason and reason.split(":")[0] for reason in reasons(filter_, *odd)] == [
        "too short", "too short", None, "too short", "too short", "repeated word",
    ]  # fmt: skip
    assert reasons(filter_, NUMBERS * 200_000) == ["repeated 2-grams 1.00 > 0.6"]  # 58 MB, judged by its first million
    assert reasons(Repetition(max_chars=290), NUMBERS + " go" * 99) == [None]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"min_chars": -1}, "filter.repetition.min_chars: expected at least 0, got -1"),
        ({"max_word_run": 0}, "filter.repetition.max_word_run: expected at least 1, got 0"),
        ({"max_duplicate_lines": 1.5}, "filter.repetition.max_duplicate_lines: expected a share from 0 to 1, got 1.5"),
        ({"max_chars": 0}, "filter.repetition.max_chars: expected at least 1, got 0"),
    ],
)
def test_bad_parameters(parameters: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Repetition(**parameters)
    assert str(error.value) == message
