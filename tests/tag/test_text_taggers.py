"""lengths, keywords, keywords_paper and language on texts whose values are derived by hand."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import ConfigError, Document
from njsl.tag.base import Batch, Tagger
from njsl.tag.taggers import keywords as own
from njsl.tag.taggers import keywords_paper as paper
from njsl.tag.taggers.keywords import Keywords
from njsl.tag.taggers.keywords_paper import KeywordsPaper
from njsl.tag.taggers.language import Language
from njsl.tag.taggers.lengths import Lengths
from tag.conftest import Words


def values(tagger: Tagger, text: str) -> dict[str, object]:
    return tagger.tag(Document(text, "id", "id"), Words())


def test_lengths() -> None:
    # 5 words of which "to" and "be" stand twice; 18 characters with the blanks.
    assert values(Lengths(), "to be or not to be") == {
        "characters": 18,
        "tokens": 6,
        "unique_tokens": 4,
        "type_token_ratio": 4 / 6,
    }
    assert values(Lengths(), "é\U0001f600")["characters"] == 2
    assert math.isnan(values(Lengths(), "")["type_token_ratio"])  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=30), min_size=1, max_size=6))
def test_distinct_tokens_are_counted_per_document(texts: list[list[str]]) -> None:
    batch = Batch([Document(" ".join(text), str(i), str(i)) for i, text in enumerate(texts)], Words())
    found = Lengths().tag_batch(batch)
    assert found["unique_tokens"].tolist() == [len(set(text)) for text in texts]
    assert found["tokens"].tolist() == [len(text) for text in texts]


TEXT = (
    "What is 3.14, and who needs 1,000 of them? Take 5% or 42.\n"
    "- Please check it. We make do, but he cannot take more.\n"
    "FAQ: Q: Why? A: Because. user: data:x Answer:\n"
)


def test_keywords_by_hand() -> None:
    assert values(Keywords(), TEXT) == {
        "keyword_characters": len(TEXT),
        "keyword_question_words": 3,  # What, who, Why
        "keyword_imperative_verbs": 2,  # Take after a question mark, Please check in a list; not make, do, take
        "keyword_conjunctions": 4,  # and, or, but, Because
        "keyword_instruction_markers": 4,  # Q: A: user: Answer:; neither FAQ: nor data:
        "keyword_numbers": 4,  # 3.14  1,000  5  42
    }


def test_the_papers_keywords_by_hand() -> None:
    assert values(KeywordsPaper(), TEXT) == {
        "paper_keyword_characters": len(TEXT),
        "paper_question_words": 3,
        "paper_imperative_verbs": 5,  # Take, check, make, do, take
        "paper_conjunctions": 4,
        "paper_instructions_words": 6,  # FA[Q:]  Q:  A:  user:  dat[a:]  Answer:
        "paper_numbers": 6,  # 3 14  1 000  5  42
    }


def test_the_facts_of_the_papers_number_pattern() -> None:
    assert values(KeywordsPaper(), "3.14 and 5% and 42")["paper_numbers"] == 4  # 3, 14, 5, 42
    assert values(Keywords(), "3.14 and 5% and 42")["keyword_numbers"] == 3


@pytest.mark.parametrize(
    ("tagger", "patterns", "prefix"),
    [
        (Keywords(), own.PATTERNS, "keyword_"),
        (KeywordsPaper(), paper.PATTERNS, "paper_"),
    ],
)
@settings(deadline=None)
@given(text=st.text("whoandtkeqa :.\n-1,5?!W", max_size=80))
def test_counts_are_those_of_pythons_re(tagger: Tagger, patterns: dict[str, str], prefix: str, text: str) -> None:
    found = values(tagger, text)
    for name, pattern in patterns.items():
        assert found[prefix + name] == len(re.findall(pattern, text, re.IGNORECASE)), name


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The committee will meet again on Thursday to discuss the new proposal.", "en"),
        ("Der Ausschuss trifft sich am Donnerstag wieder, um den Vorschlag zu besprechen.", "de"),
        ("Le comité se réunira de nouveau jeudi pour discuter de la nouvelle proposition.", "fr"),
        ("\0Der Ausschuss trifft sich\x01 am Donnerstag wieder,\ufffe um den Vorschlag zu besprechen.", "de"),
        ("", "un"),
    ],
)
def test_language(text: str, code: str) -> None:
    assert values(Language(max_characters=10_000), text)["language"] == code


def test_language_looks_at_the_beginning() -> None:
    english = "This is a sentence in the English language. "
    german = (
        "Hier folgt ein längerer Absatz auf Deutsch, der vom Wetter, von der Ernte und den Preisen handelt. "
        "Am Abend kamen die Nachbarn zusammen und redeten darüber, was im nächsten Jahr anders werden müsste."
    )
    assert values(Language(max_characters=len(english)), english + german)["language"] == "en"
    assert values(Language(max_characters=10_000), english + german)["language"] == "de"
    with pytest.raises(ConfigError, match=r"tagger\.language\.max_characters: expected at least 1, got 0"):
        Language(max_characters=0)
